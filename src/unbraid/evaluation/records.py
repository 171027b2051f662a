"""The scores of each track as a JSON file in the form of museval, which museval reads, and which reads museval's.

museval 0.4.1 (musdb.schema.json, aggregate.py): {"targets": [{"name", "frames": [{"time", "duration", "metrics":
{"SDR", "SIR", "SAR", "ISR"}}]}], "museval_version"}, numbers rounded to five decimals, NaN for a window without a score
and for an infinite one. What that form has no place for is in one more object, "unbraid": the names of system, track
and subset, scores of whole tracks, infinite frames, notices and settings. So museval's aggregates of our files are
those of its own (it cannot read files without any frames), and reading our files gives back what was written, to the
five decimals.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from unbraid.errors import UnbraidError
from unbraid.evaluation.results import BSS_METRICS, ScoreArray, StemScores, TrackScores
from unbraid.evaluation.whole_file import write_whole

__all__ = ["read_scores", "read_track_scores", "scores_path", "system_folder", "write_track_scores"]

_FORM = 1  # of the object "unbraid"
_MUSEVAL_VERSION = "0.4.1"  # whose form the rest has
_DECIMALS = 5
_SUFFIXES = (".json", ".json.gz")
_SUBSETS = ("train", "validation", "test")
_NO_SUBSET = "tracks"

# File systems allow 255 bytes; a temporary name needs some of them.
_LONGEST_NAME = 180
# Not allowed in names on some system, or with a meaning in a path; "%" is what the others are written with.
_UNSAFE = re.compile(r'[%<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]|^[. ]|[. ]$')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def scores_path(folder: Path, *, system: str, subset: str, track: str) -> Path:
    """Where the scores of a track go: `FOLDER/SYSTEM/SUBSET/TRACK.json`, with "tracks" for a subset without a name.

    museval's `EvalStore().add_eval_dir(FOLDER/SYSTEM)` reads those of the subset "test". Characters that some file
    system does not allow are written as in addresses ("spleeter%3A4stems"), very long names end in a hash; different
    names stay different, except in case on file systems that ignore it.
    """
    return system_folder(folder, system) / _safe(subset or _NO_SUBSET) / f"{_safe(track)}.json"


def system_folder(folder: Path, system: str) -> Path:
    """Where the scores of a system are: below `folder`, by a name that every file system allows."""
    return folder / _safe(system)


def write_track_scores(folder: Path, scores: TrackScores) -> Path:
    """Write the scores of a track below a folder, whole or not at all; earlier ones of the same track are replaced.

    Returns
    -------
    Path
        The file, as `scores_path` names it.

    Raises
    ------
    UnbraidError
        If it cannot be written, or is there with the scores of something else.
    """
    path = scores_path(folder, system=scores.system, subset=scores.subset, track=scores.track)
    _check_same_track(path, scores)
    text = json.dumps(_content(scores), indent=1) + "\n"
    write_whole(path, text, "scores")
    return path


def read_track_scores(path: Path, *, system: str = "", subset: str = "") -> TrackScores:
    """Read the scores of a track, written by us or by museval.

    Parameters
    ----------
    path : Path
        A `.json` file, or a `.json.gz` as SiSEC 2018 published them.
    system, subset : str
        Of a file of museval's, which names neither (its track is the file's name); ours say it themselves.

    Raises
    ------
    UnbraidError
        If it cannot be read, or holds something else.
    """
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if path.name.endswith(".gz") else data)
        return _scores(content, TrackScores(system=system, track=_plain_name(path), subset=subset, stems={}))
    except OSError as error:  # damaged gzip files too
        reason = error.strerror or str(error)
    except (EOFError, zlib.error):
        reason = "it is cut off or damaged"
    except (ValueError, RecursionError) as error:  # of other kinds than ours, where it is no text or no JSON
        reason = str(error) if type(error) is ValueError else "it is not JSON"
    raise UnbraidError(f"cannot read the scores {str(path)!r}: {reason}")


def read_scores(folder: Path) -> list[TrackScores]:
    """Read all scores below a folder: ours of one or several systems, or museval's.

    A file of museval's takes its system from where it is: `SYSTEM/test/TRACK.json` or `SYSTEM/TRACK.json` below the
    folder, else from the folder's own name.

    Returns
    -------
    list of TrackScores
        By system, subset and track.

    Raises
    ------
    UnbraidError
        If there are none, one cannot be read, or two are of the same system and track.
    """
    found: dict[tuple[str, str, str], Path] = {}
    tracks: list[TrackScores] = []
    for path in sorted(_files(folder)):
        above = list(path.relative_to(folder).parts[:-1])
        subset = above.pop() if above and above[-1] in _SUBSETS else ""
        scores = read_track_scores(path, system="/".join(above) or folder.resolve().name, subset=subset)
        key = (scores.system, scores.subset, scores.track)
        if key in found:
            raise UnbraidError(
                f"{str(found[key])!r} and {str(path)!r} both have scores of {scores.system!r} on {scores.track!r}; "
                "remove one of them"
            )
        found[key] = path
        tracks.append(scores)
    if not tracks:
        raise UnbraidError(f"no scores (.json) in {str(folder)!r}; 'unbraid evaluate' makes them")
    return sorted(tracks, key=lambda scores: (scores.system, scores.subset, scores.track))


def _files(folder: Path) -> Iterable[Path]:
    """The JSON files below a folder, but no hidden ones."""
    return (
        path
        for path in folder.rglob("*.json*")
        if path.name.endswith(_SUFFIXES) and not path.name.startswith(".") and path.is_file()
    )


# Names.


def _safe(name: str) -> str:
    """A file's name for any name, another one for each."""
    safe = _UNSAFE.sub(lambda found: _escaped(found[0]), name) or "%"
    if _RESERVED.match(safe):
        safe = _escaped(safe[0]) + safe[1:]
    data = safe.encode()
    if len(data) > _LONGEST_NAME:
        # Longer than any name that is left as it is, so none of those can be the same.
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
        safe = data[:_LONGEST_NAME].decode(errors="ignore").rstrip(". ") + "~" + digest
    return safe


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def _plain_name(path: Path) -> str:
    """A file's name without its suffix, which may be two."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def _check_same_track(path: Path, scores: TrackScores) -> None:
    """Refuse to replace the scores of another track, whose name a file system takes for the same."""
    try:
        there = read_track_scores(path, system=scores.system, subset=scores.subset)
    except UnbraidError:  # none yet, or damaged ones, which may be replaced
        return
    if (there.system, there.subset) != (scores.system, scores.subset) or there.track not in (scores.track, path.stem):
        raise UnbraidError(
            f"cannot write the scores {str(path)!r}: those of {there.system!r} on {there.track!r} are there, whose "
            "name this file system takes for the same; choose another output folder"
        )


# To the form of museval.


def _content(scores: TrackScores) -> dict[str, Any]:
    return {
        "targets": [
            {"name": stem, "frames": _frames(stem_scores, scores)} for stem, stem_scores in scores.stems.items()
        ],
        "museval_version": _MUSEVAL_VERSION,
        "unbraid": {
            "form": _FORM,
            "system": scores.system,
            "track": scores.track,
            "subset": scores.subset,
            "window_s": scores.window_s,
            "hop_s": scores.hop_s,
            "stems": {
                stem: {
                    "metrics": list(stem_scores.frames),
                    "infinite": _infinite(stem_scores),
                    "whole": {name: float(value) for name, value in stem_scores.whole.items()},
                }
                for stem, stem_scores in scores.stems.items()
            },
            "notices": list(scores.notices),
            "settings": dict(scores.settings),
        },
    }


def _frames(stem: StemScores, track: TrackScores) -> list[dict[str, Any]]:
    """Every frame with all of museval's metrics, since its reader needs them."""
    n_frames = max((len(values) for values in stem.frames.values()), default=0)
    rounded = {}
    for metric in BSS_METRICS:
        values = stem.frames.get(metric, np.full(n_frames, np.nan))
        assert len(values) == n_frames
        rounded[metric] = [round(value, _DECIMALS) if math.isfinite(value) else math.nan for value in values.tolist()]
    return [
        {
            "time": round(index * track.hop_s, 9),
            "duration": track.window_s,
            "metrics": {metric: rounded[metric][index] for metric in BSS_METRICS},
        }
        for index in range(n_frames)
    ]


def _infinite(stem: StemScores) -> dict[str, dict[str, float]]:
    """Metric → number of the frame → ±inf."""
    return {
        metric: {str(index): float(values[index]) for index in np.flatnonzero(np.isinf(values)).tolist()}
        for metric, values in stem.frames.items()
        if np.isinf(values).any()
    }


# From the form of museval: a ValueError says what is wrong.


def _scores(content: object, foreign: TrackScores) -> TrackScores:
    """The content of a file; `foreign` has what a file of museval's does not say."""
    if not isinstance(content, dict) or "targets" not in content:
        raise ValueError("it has no 'targets', so it is not one of museval's or ours")
    targets: dict[str, list[dict[str, Any]]] = {}
    for target in _list(content["targets"], "targets"):
        name = _string(_table(target, "a target").get("name"), "the name of a target")
        if name in targets:
            raise ValueError(f"it has two targets {name!r}")
        targets[name] = [_table(frame, "a frame") for frame in _list(target.get("frames"), f"the frames of {name!r}")]
    frames = {name: _arrays(found) for name, found in targets.items()}
    if "unbraid" not in content:
        window_s, hop_s = _times(targets.values())
        stems = {name: StemScores(frames=arrays, whole={}) for name, arrays in frames.items()}
        return TrackScores(foreign.system, foreign.track, foreign.subset, stems, window_s=window_s, hop_s=hop_s)
    own = _table(content["unbraid"], "'unbraid'")
    if own.get("form") != _FORM:
        raise ValueError(f"its form is {own.get('form')!r}, this version of Unbraid knows {_FORM}")
    known = _table(own.get("stems"), "'stems'")
    return TrackScores(
        system=_string(own.get("system"), "the system"),
        track=_string(own.get("track"), "the track"),
        subset=_string(own.get("subset"), "the subset"),
        stems={
            name: _stem(arrays, _table(known.get(name), f"what is said of {name!r}")) for name, arrays in frames.items()
        },
        window_s=_number(own.get("window_s")),
        hop_s=_number(own.get("hop_s")),
        notices=tuple(_string(notice, "a notice") for notice in _list(own.get("notices"), "the notices")),
        settings={
            key: _string(value, f"the setting {key!r}")
            for key, value in _table(own.get("settings"), "the settings").items()
        },
    )


def _stem(arrays: dict[str, ScoreArray], own: dict[str, Any]) -> StemScores:
    """The scores of a stem, from its frames and what the object "unbraid" has of it."""
    frames = {}
    for metric in _list(own.get("metrics"), "the metrics"):
        values = arrays.get(_string(metric, "a metric"), np.empty(0))
        for index, value in _table(_table(own.get("infinite"), "'infinite'").get(metric, {}), "'infinite'").items():
            if not index.isdecimal() or int(index) >= len(values) or not math.isinf(_number(value)):
                raise ValueError(f"it has no frame {index!r} that could be infinite")
            values[int(index)] = value
        frames[metric] = values
    whole = {name: _number(value) for name, value in _table(own.get("whole"), "'whole'").items()}
    return StemScores(frames=frames, whole=whole)


def _arrays(frames: list[dict[str, Any]]) -> dict[str, ScoreArray]:
    """Metric → its frames; only those metrics that any frame has."""
    metrics = [_table(frame.get("metrics"), "the metrics of a frame") for frame in frames]
    return {
        metric: np.array([_number(found.get(metric, math.nan)) for found in metrics], dtype=np.float64)
        for metric in BSS_METRICS
        if any(metric in found for found in metrics)
    }


def _times(targets: Iterable[list[dict[str, Any]]]) -> tuple[float, float]:
    """Length and step of the frames, in seconds; 1 each where there are none, as in SiSEC 2018."""
    frames = max(targets, key=len, default=[])
    window_s = _number(frames[0].get("duration")) if frames else 1.0
    hop_s = _number(frames[1].get("time")) - _number(frames[0].get("time")) if len(frames) > 1 else window_s
    if not (window_s > 0 and hop_s > 0):
        raise ValueError("its frames have no duration or no order")
    return window_s, hop_s


def _number(value: object) -> float:
    """A number; null, which is what strict writers make of it, is NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"it has {str(value)[:40]!r} in place of a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("it has a number beyond all bounds") from error


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a string")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is not a list")
    return value


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value
