"""Folders of the user's machine where models and compiled networks are kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "downloads_folder", "home_folder", "models_folder"]


def home_folder() -> Path:
    """All that Unbraid keeps: $UNBRAID_HOME, else the platform's folder for a user's data."""
    from platformdirs import user_data_path

    return Path(os.environ.get("UNBRAID_HOME") or user_data_path("unbraid", appauthor=False))


def models_folder() -> Path:
    """Where models are installed, a folder each."""
    return home_folder() / "models"


def downloads_folder() -> Path:
    """Where files are until they are converted, and what remains of an interrupted download."""
    return home_folder() / "downloads"


def cache_folder() -> Path:
    """Where compiled networks live: in $UNBRAID_HOME, else the platform's folder for what can be made again."""
    from platformdirs import user_cache_path

    home = os.environ.get("UNBRAID_HOME")
    return Path(home) / "cache" if home else user_cache_path("unbraid", appauthor=False)
