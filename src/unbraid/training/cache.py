"""Decoded tracks on disk, memory-mapped: what a training reads its examples from, as fast as the disk is.

A track is a folder: samples.npy [shape=(row, channel, time)] and track.json. It is decoded under another name and
renamed, so it is whole or not there. Samples that are 16-bit values are kept as such, all others as float32: either is
exact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unbraid.audio.read import open_audio
from unbraid.datasets.tracks import Track
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, DatasetError, UnbraidError
from unbraid.evaluation.spool import Spool
from unbraid.evaluation.systems import file_state
from unbraid.evaluation.true_stems import aligned_blocks
from unbraid.weights.part import locked

__all__ = ["CacheError", "CachedTrack", "cache_tracks", "decode_all", "entry", "make_cache", "make_once"]

_N_NAMED = 3  # songs that a notice names
_SAMPLES, _DESCRIPTION = "samples.npy", "track.json"
_VERSION = 2
_FULL_SCALE = 1 << 15
_BLOCK = 1 << 16
_CLIPPED = 0.9999  # of full scale: as loud as 16 bits get
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Kept = TypeVar("Kept")
Item = TypeVar("Item")
Made = TypeVar("Made")
OnProgress = Callable[[int, int, str], None]
OnNotice = Callable[[str], None]


@dataclass(frozen=True)
class CachedTrack:
    """A decoded track; its samples are mapped when they are first read.

    rows : the stems
    std : of the mean over the channels of their sum
    silent : stems that never sound
    levels_db : of each row, RMS in dB of full scale over the parts in which it sounds; -inf where it never does
    notices : what was done to it, or is wrong with it
    """

    folder: Path
    name: str
    subset: str
    rows: tuple[str, ...]
    n_samples: int
    sample_rate: int
    std: float
    silent: tuple[str, ...]
    levels_db: tuple[float, ...]
    notices: tuple[str, ...]

    @cached_property
    def _samples(self) -> NDArray[Any]:
        try:
            mapped: NDArray[Any] = np.load(self.folder / _SAMPLES, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"cannot read '{self.folder}' of the cache: {error}; start again, and it is made anew"
            ) from error
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which every process makes for itself."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def fits(self) -> bool:
        """Whether the samples are as many as the description says; DatasetError where they are not an array."""
        return (len(self._samples), self._samples.shape[-1]) == (len(self.rows), self.n_samples)

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples [shape=(row, channel, stop - start), float32], all of them within the track."""
        return self._scaled(self._samples[..., start:stop])

    def mixed(self, rows: Sequence[int], start: int, stop: int) -> FloatArray:
        """The sum of some rows [shape=(channel, stop - start), float32]; nothing else is read."""
        samples = self._scaled(self._samples[rows[0], :, start:stop])
        for row in rows[1:]:
            samples += self._scaled(self._samples[row, :, start:stop])
        return samples

    def _scaled(self, part: NDArray[Any]) -> FloatArray:
        scale = np.float32(1 if part.dtype == np.float32 else 1 / _FULL_SCALE)
        samples: FloatArray = np.multiply(part, scale, dtype=np.float32)
        return samples


def cache_tracks(
    tracks: Sequence[Track],
    folder: Path,
    *,
    stems: Sequence[str],
    others: Sequence[str] = (),
    sample_rate: int,
    n_channels: int,
    missing: str = "error",
    unreadable: str = "error",
    n_workers: int = 2,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> list[CachedTrack]:
    """Decode tracks into `folder`, those that are not there yet.

    Parameters
    ----------
    tracks : sequence of Track
        What to decode.
    folder : Path
        Where to; several processes may do so at once.
    stems : sequence of str
        Rows of the result.
    others : sequence of str
        More rows, after those: stems that a track may lack.
    sample_rate, n_channels : int
        Of the result; what has others is resampled or mixed, and a notice says so.
    missing : str
        "error", or "silent": a stem's missing file is silence.
    unreadable : str
        "error", or "skip": a track with a damaged or unfit file is left out, and a notice says so.
    n_workers : int
        Tracks decoded at the same time.
    on_progress, on_notice : callable, optional
        Told how many of how many are done, and the last one's name; told what the user should know.

    Raises
    ------
    DatasetError : a track cannot be used, nothing is left, or the disk is full; what was decoded stays
    """
    make_cache(folder)

    def one(track: Track) -> tuple[CachedTrack, tuple[str, ...]]:
        found = _cached(track, folder, tuple(stems), tuple(others), sample_rate, n_channels, missing)
        return found, found.notices

    named = [(track.name, track) for track in tracks]
    done = decode_all(
        named, one, unreadable=unreadable, n_workers=n_workers, on_progress=on_progress, on_notice=on_notice
    )
    if not done:
        raise DatasetError("no track of the dataset can be used; the notes above say why")
    return done


def decode_all(
    items: Sequence[tuple[str, Item]],
    do: Callable[[Item], tuple[Made, Iterable[str]]],
    *,
    unreadable: str,
    n_workers: int,
    on_progress: OnProgress | None,
    on_notice: OnNotice | None,
) -> list[Made]:
    """Decode several songs, some at a time; what comes of those that can be used, in their order.

    items : each with the name of its song
    do : decodes one; gives the result, and what the user should know

    The other parameters are those of `cache_tracks`.
    """
    say = on_notice or (lambda text: None)

    def one(item: Item) -> tuple[list[Made], Iterable[str]]:
        try:
            made, notices = do(item)
            return [made], notices
        except (AudioError, DatasetError) as error:
            if isinstance(error, CacheError):
                raise
            if unreadable == "skip":
                return [], [f"left out: {error}"]
            raise type(error)(f"{error}; --unreadable skip would leave it out") from error

    done: list[Made] = []
    noted: dict[str, list[str]] = {}  # by what is to be known, the songs
    with ThreadPoolExecutor(max(1, n_workers), "unbraid-decode") as pool:
        try:
            futures = [pool.submit(one, item) for _, item in items]
            for i, ((name, _), future) in enumerate(zip(items, futures, strict=True), 1):
                made, notices = future.result()
                done += made
                for notice in notices:
                    noted.setdefault(notice, []).append(name)
                if on_progress is not None:
                    on_progress(i, len(items), name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for notice, names in noted.items():
        more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
        say(f"{', '.join(names[:_N_NAMED])}{more}: {notice}")
    return done


class CacheError(DatasetError):
    """A cache that has no room, or cannot be written: nor will it for the next song."""


def make_cache(folder: Path) -> None:
    """Make the folder of a cache; DatasetError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot make the cache '{folder}': {error.strerror or error}; choose another folder by --cache"
        ) from error


def _cached(
    track: Track,
    folder: Path,
    wanted: tuple[str, ...],
    others: tuple[str, ...],
    sample_rate: int,
    n_channels: int,
    missing: str,
) -> CachedTrack:
    """Open a track that is there, or decode it."""
    stems = (*wanted, *others)
    absent = [stem for stem in wanted if stem not in track.stems]
    if (track.problem or absent) and missing != "silent":
        what = track.problem or f"cannot use the track {track.name!r}: it has no {absent[0]}"
        raise DatasetError(f"{what}; --missing silent would take silence for it")
    files = {stem: track.stems[stem] for stem in stems if stem in track.stems}
    if not files:
        raise DatasetError(f"cannot use the track {track.name!r}: none of its stems is there")
    try:
        states = {name: f"{file.path} {file.stream} {file_state(file.path)}" for name, file in files.items()}
    except OSError as error:
        raise DatasetError(f"cannot read '{error.filename}': {error.strerror or error}") from error
    decides = json.dumps([_VERSION, states, wanted, others, sample_rate, n_channels])
    place = entry(folder, track.name, decides)
    found = make_once(
        place,
        _opened,
        lambda temporary: _decode(track, files, wanted, others, sample_rate, n_channels, temporary),
        need="a minute of four stereo stems takes up to 85 MB, and as much again while it is decoded",
    )
    # The same files may be in another subset now, such as by the name of their table.
    found = replace(found, name=track.name, subset=track.subset)
    return replace(found, notices=(track.problem, *found.notices)) if track.problem else found


def entry(folder: Path, name: str, decides: str) -> Path:
    """Place of a song in a cache: by its name, as far as that can be, and by all that decides the content."""
    safe = re.sub(r"[^\w.-]+", "_", name).encode()[:150].decode(errors="ignore")
    return folder / f"{safe}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"


def make_once(place: Path, opened: Callable[[Path], Kept | None], write: Callable[[Path], None], *, need: str) -> Kept:
    """Open a folder of a cache, or make it: under another name, and renamed when it is whole.

    Parameters
    ----------
    place : Path
        The folder. Another process that wants it at the same time waits, and finds it made.
    opened : callable
        Opens it; None where it is not there, or is damaged: then it is made again.
    write : callable
        Fills a new, empty folder.
    need : str
        How much room it takes, for the message where there is none.

    Raises
    ------
    DatasetError : the disk is full, or cannot be written; nothing is left half-written
    UnbraidError : whatever `write` raises
    """
    if (there := opened(place)) is not None:
        return there
    temporary = place.with_name(f".{place.name}.part")
    try:
        with locked(place.with_name(f".{place.name}")):
            if (there := opened(place)) is not None:  # another process was faster
                return there
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir()
                write(temporary)
                temporary.rename(place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, UnbraidError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError) and reason.errno in _NO_ROOM:
            raise _full(place.parent, need) from error
        # An error of the spool, or of the lock, is one of the disk.
        if not isinstance(reason, OSError) or isinstance(error, AudioError | DatasetError):
            raise
        raise CacheError(
            f"cannot write into the cache '{place.parent}': {reason.strerror or reason}; "
            "choose another folder by --cache"
        ) from error
    found = opened(place)
    assert found is not None
    return found


def _full(folder: Path, need: str) -> CacheError:
    free = shutil.disk_usage(folder).free
    return CacheError(
        f"no room for the decoded dataset in '{folder}' ({free / 1e6:.0f} MB are free; {need}): "
        "free some, or choose another folder by --cache; tracks that are done are kept"
    )


def _opened(place: Path) -> CachedTrack | None:
    """A track that is in the cache; None where it is not, or is damaged."""
    try:
        content = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
        if (place / _SAMPLES).stat().st_size != content.pop("size"):
            return None
        listed: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
        found = CachedTrack(folder=place, **listed)
        return found if found.fits() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DatasetError):
        return None


def _decode(
    track: Track,
    files: Mapping[str, Any],
    wanted: tuple[str, ...],
    others: tuple[str, ...],
    sample_rate: int,
    n_channels: int,
    place: Path,
) -> None:
    """Write a track's folder; a block of it is in memory at a time."""
    rows = (*wanted, *others)
    notices = [f"{stem} is missing: silence" for stem in wanted if stem not in files]
    with ExitStack() as stack:
        readers = {name: stack.enter_context(open_audio(file.path, stream=file.stream)) for name, file in files.items()}
        widest = max(reader.info.n_channels for reader in readers.values())
        if widest > n_channels and n_channels != 1:
            raise AudioError(
                f"cannot use the track {track.name!r}: it has {widest} channels; the network has {n_channels}"
            )
        spool = stack.enter_context(Spool(place, len(files) * n_channels))
        is_16_bit, peaks, sum_, square = True, np.zeros(len(files)), 0.0, 0.0
        powers: list[NDArray[np.float64]] = []
        n_given = max(widest, n_channels)
        for block in aligned_blocks(readers, files, sample_rate=sample_rate, n_channels=n_given, notices=notices):
            if n_given > n_channels:
                block = block.mean(axis=1, keepdims=True)
            mono = block.sum(axis=0).mean(axis=0, dtype=np.float64)
            sum_, square = sum_ + float(mono.sum()), square + float(np.square(mono).sum())
            peaks = np.maximum(peaks, np.abs(block).max(axis=(1, 2), initial=0.0))
            powers.append(np.square(block, dtype=np.float64).mean(axis=(1, 2)))
            steps = block * np.float32(_FULL_SCALE)
            is_16_bit = is_16_bit and bool((steps == np.rint(steps)).all() and np.abs(steps + 0.5).max() <= _FULL_SCALE)
            spool.append(block.reshape(-1, block.shape[-1]))
        n = spool.n_samples
        if n == 0:
            raise AudioError(f"cannot use the track {track.name!r}: it is empty")
        if n_given > n_channels:
            notices.append("mixed to one channel")
        _write_rows(place / _SAMPLES, spool, [rows.index(name) for name in files], len(rows), n_channels, is_16_bit)
    loudest = dict(zip(files, peaks, strict=True))
    levels = dict(zip(files, _levels_db(np.array(powers)), strict=True))
    notices += [f"{stem} is silent throughout" for stem, peak in loudest.items() if peak == 0]
    notices += [f"{stem} reaches full scale: it may be clipped" for stem, peak in loudest.items() if peak >= _CLIPPED]
    content = CachedTrack(
        folder=place,
        name=track.name,
        subset=track.subset,
        rows=rows,
        n_samples=n,
        sample_rate=sample_rate,
        std=float(np.sqrt(max(0.0, square / n - (sum_ / n) ** 2))),
        silent=tuple(stem for stem in rows if not loudest.get(stem)),
        levels_db=tuple(levels.get(stem, -math.inf) for stem in rows),
        notices=tuple(notices),
    )
    described = asdict(content) | {"size": (place / _SAMPLES).stat().st_size}
    del described["folder"]
    (place / _DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")


def _levels_db(powers: NDArray[np.float64]) -> list[float]:
    """Level of each row over its blocks that sound: those of at least a hundredth of the loudest's power.

    powers : of each block and row [shape=(block, row)]
    """
    levels = []
    for row in powers.T:
        sounding = row[row >= 0.01 * row.max()]
        levels.append(float(10 * np.log10(sounding.mean())) if row.max() > 0 else -math.inf)
    return levels


def _write_rows(path: Path, spool: Spool, places: Sequence[int], n_rows: int, n_channels: int, is_16_bit: bool) -> None:
    """Write the signals of a spool as an array file, the others of its rows as silence.

    Not by a memory map: one that finds the disk full ends the process.
    """
    dtype, n = np.dtype("<i2" if is_16_bit else "<f4"), spool.n_samples
    with path.open("wb") as file:
        shape = (n_rows, n_channels, n)
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        begin = file.tell()
        for start in range(0, n, _BLOCK):
            stop = min(n, start + _BLOCK)
            block = np.zeros((n_rows, n_channels, stop - start), dtype)
            signals = spool.read(start, stop).reshape(len(places), n_channels, stop - start)
            block[places] = np.rint(signals * _FULL_SCALE) if is_16_bit else signals
            for i, channel in enumerate(block.reshape(-1, stop - start)):
                file.seek(begin + (i * n + start) * dtype.itemsize)
                file.write(channel.data)
