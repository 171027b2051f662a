"""A table of tracks as Spleeter's training reads it: a CSV with the columns mix_path, STEM_path …, duration."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

from unbraid.datasets.folder import MIX_NAMES
from unbraid.datasets.listing import read_text, subset_named
from unbraid.datasets.track import Track, track_of_files
from unbraid.errors import DatasetError

__all__ = ["csv_tracks"]

_MIX = "mix_path"
_SUFFIX = "_path"


def csv_tracks(table: Path, data_root: Path | None = None) -> list[Track]:
    """The tracks of a table.

    Paths are relative to `data_root` (Spleeter's --data), by default the table's own folder. The name of a track is
    that of its mix, or of the mix's folder where all mixes are called alike ("mixture.wav"). The subset is in the
    table's name ("musdb_train.csv"), or it is "". Columns other than paths are of no use here. A file that is
    missing, or a cell that is empty, is a problem of its track.

    Raises
    ------
    DatasetError : the table cannot be read, lacks its columns, or lists a mix twice
    """
    if data_root is not None and not os.path.isdir(data_root):
        raise DatasetError(f"cannot load {str(table)!r}: data_root {str(data_root)!r} is not a folder")
    rows, stems = _rows(table)
    names = _names([Path(row[_MIX]) for _, row in rows])
    base, subset = data_root or table.parent, _subset_of(table.stem)
    return [_track(line, row, name, subset, stems, base) for (line, row), name in zip(rows, names, strict=True)]


def _rows(table: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Each row by its columns, with the number of its line, and the stems in the order of their columns."""
    reader = csv.reader(StringIO(read_text(table), newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    seen: dict[str, int] = {}
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        stems = [column.removesuffix(_SUFFIX) for column in columns if column.endswith(_SUFFIX) and column != _MIX]
        if _MIX not in columns or not stems:
            raise DatasetError(
                f"cannot load {str(table)!r}: its first line is not 'mix_path,vocals_path,…,duration', "
                f"but {','.join(columns)!r}; name the columns so, with commas between them"
            )
        if doubled := [column for column, count in Counter(columns).items() if count > 1]:
            raise DatasetError(f"cannot load {str(table)!r}: two columns are called {doubled[0]!r}; rename one")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"cannot load {str(table)!r}, line {reader.line_num}"
            if len(cells) != len(columns):
                raise DatasetError(f"{where}: {len(cells)} cells for {len(columns)} columns; put quotes around commas")
            row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
            if not row[_MIX]:
                raise DatasetError(f"{where}: no path in the column {_MIX!r}; fill it in or remove the line")
            if (before := seen.setdefault(row[_MIX], reader.line_num)) != reader.line_num:
                raise DatasetError(f"{where}: {row[_MIX]!r} is in line {before} already; remove one of them")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DatasetError(f"cannot load {str(table)!r}, line {reader.line_num}: {error}") from error
    return rows, stems


def _names(mixes: list[Path]) -> list[str]:
    """A name for each mix, all different: as short as they can be, or with their folders."""
    generic = all(mix.stem.lower() in MIX_NAMES and mix.parent.name for mix in mixes)
    named = [mix.parent if generic else mix.parent / mix.stem for mix in mixes]
    count = Counter(path.name for path in named)
    return [path.name if count[path.name] == 1 else " - ".join(path.relative_to(path.anchor).parts) for path in named]


def _subset_of(name: str) -> str:
    """The one subset that a table's name speaks of, as a word of its own."""
    found = {subset_named(word) for word in re.split(r"[^a-z]+", name.lower())} - {""}
    return found.pop() if len(found) == 1 else ""


def _track(line: int, row: dict[str, str], name: str, subset: str, stems: list[str], base: Path) -> Track:
    paths = {stem: base / row[stem + _SUFFIX] for stem in stems if row[stem + _SUFFIX]}
    remedy = f"correct line {line} of the table, or say with data_root what its paths are relative to"
    track = track_of_files(name, subset, base / row[_MIX], paths, remedy=remedy)
    if empty := [stem + _SUFFIX for stem in stems if stem not in paths]:
        columns = ", ".join(map(repr, empty))
        problem = f"cannot use the track {name!r}: no path in the column {columns} of line {line}; fill it in"
        return replace(track, problem=problem)
    return track
