"""The songs of Spleeter's CSV, checked, and where the chunks of each begin."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from unbraid.audio.read import open_audio
from unbraid.datasets.listing import read_text
from unbraid.datasets.tracks import AudioFile, Track, load_dataset
from unbraid.errors import DatasetError
from unbraid.models.spleeter.config import SpleeterConfig

__all__ = ["Song", "chunk_starts", "read_songs"]

MARGIN_S = 0.5  # of Spleeter's dataset.py
_MIX, _DURATION, _SUFFIX = "mix_path", "duration", "_path"


@dataclass(frozen=True)
class Song:
    """A line of the table: its files, stems first, and where its chunks begin, in seconds, in ascending order."""

    name: str
    files: Mapping[str, AudioFile]
    starts_s: tuple[float, ...]


def read_songs(
    config: SpleeterConfig, table: Path, data_root: Path | None, n_chunks: int, chunk_s: float
) -> list[Song]:
    """The lines of a table, in its order; nothing is decoded but what has no duration."""
    dataset = load_dataset(table, kind="Spleeter CSV", data_root=data_root)
    lines = [line for line in csv.reader(StringIO(read_text(table), newline="")) if any(cell.strip() for cell in line)]
    columns = [cell.strip() for cell in lines[0]]
    _check_columns(columns, config, table)
    base = data_root or table.parent
    tracks = {track.mix.path: track for track in dataset.tracks if track.mix is not None}
    songs = []
    for track in dataset.tracks:
        if track.problem:
            raise DatasetError(track.problem)
    for line in lines[1:]:
        row = dict(zip(columns, (cell.strip() for cell in line), strict=True))
        track = tracks[base / row[_MIX]]
        assert track.mix is not None  # else it had a problem
        files = {stem: track.stems[stem] for stem in config.stems} | {"mix": track.mix}
        duration_s = _duration_s(row.get(_DURATION), track, table)
        songs.append(Song(track.name, files, chunk_starts(duration_s, chunk_s, n_chunks)))
    return songs


def _check_columns(columns: Sequence[str], config: SpleeterConfig, table: Path) -> None:
    """Refuse a table with other stems than the configuration: a misspelt one would train on something else."""
    known = [_MIX, *(stem + _SUFFIX for stem in config.stems), _DURATION]
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1, cutoff=0)[0]
            raise DatasetError(
                f"cannot load {str(table)!r}: unknown column {column!r}; the nearest known one is {near!r} "
                f"(all: {', '.join(known)})"
            )
    if missing := [column for column in known[:-1] if column not in columns]:
        raise DatasetError(
            f"cannot load {str(table)!r}: no column {missing[0]!r}, and the configuration's stems are "
            f"{', '.join(config.stems)}"
        )


def _duration_s(cell: str | None, track: Track, table: Path) -> float:
    """What the table says, else the length of the mix."""
    if cell:
        try:
            duration_s = float(cell)
        except ValueError:
            duration_s = math.nan
        if not 0 < duration_s < math.inf:
            raise DatasetError(
                f"cannot load {str(table)!r}: the duration of {track.name!r} must be a positive number of seconds, "
                f"got {cell!r}"
            )
        return duration_s
    assert track.mix is not None
    with open_audio(track.mix.path) as reader:
        n_samples = reader.info.n_samples
        if n_samples is None:  # the container does not say
            n_samples = sum(block.shape[1] for block in reader.blocks())
        return n_samples / reader.info.sample_rate


def chunk_starts(duration_s: float, chunk_s: float, n_chunks: int) -> tuple[float, ...]:
    """Where the chunks of a song of `duration_s` begin, in seconds, in ascending order.

    The only one is central; several are evenly spaced, from 0.5 s on to 0.5 s before the end. In a song that is too
    short for that, chunks begin where they would lie in a longer one, but not before 0 (Spleeter's compute_segments).
    """
    if n_chunks == 1:
        return (max(duration_s / 2 - chunk_s / 2, 0.0),)
    room_s = duration_s - chunk_s - 2 * MARGIN_S
    return tuple(sorted(max(k * room_s / (n_chunks - 1) + MARGIN_S, 0.0) for k in range(n_chunks)))
