"""What lies in a folder: in order, without hidden files (such as macOS's "._song.wav" and ".DS_Store")."""

from __future__ import annotations

import os
from pathlib import Path

from unbraid.datatypes import AUDIO_SUFFIXES
from unbraid.errors import DatasetError

__all__ = ["audio_files_in", "files_in", "folders_in", "read_text", "subset_folders", "subset_lists", "subset_named"]

_SUBSETS = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, and links to such."""
    return [path for path in _visible(folder) if os.path.isdir(path)]


def files_in(folder: Path) -> list[Path]:
    """All else in a folder, links that lead nowhere too: who opens them will say so."""
    return [path for path in _visible(folder) if not os.path.isdir(path)]


def audio_files_in(folder: Path) -> list[Path]:
    """The files whose names say that they are audio, of any format."""
    return [path for path in files_in(folder) if path.suffix.lower() in AUDIO_SUFFIXES]


def subset_named(name: str) -> str:
    """The subset that a folder or list of this name is: "train", "validation", "test", or "" for none."""
    return _SUBSETS.get(name.lower(), "")


def subset_folders(root: Path) -> list[tuple[str, Path]]:
    """The folders train, validation (or valid) and test in a folder, as far as they are there, with their subsets."""
    return [(subset_named(path.name), path) for path in folders_in(root) if subset_named(path.name)]


def subset_lists(root: Path) -> list[tuple[str, Path]]:
    """The lists train.txt, validation.txt (or valid.txt) and test.txt in a folder, the same way."""
    texts = [path for path in files_in(root) if path.suffix.lower() == ".txt"]
    return [(subset_named(path.stem), path) for path in texts if subset_named(path.stem)]


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without its mark; DatasetError if that cannot be."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"cannot read {str(path)!r}: it is not text in UTF-8; save it as that") from error


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from error
