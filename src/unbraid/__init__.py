"""Unbraid takes a song apart: any audio file in, its stems out.

::

    from unbraid import Separator

    separator = Separator("unbraid:4stems")
    stems = separator.separate(samples, sample_rate=44100)  # (channel, time) -> {"vocals": (channel, time), …}
    separator.separate_to_file("song.mp3", "stems/")

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbraid.audio.read import open_audio, read_audio
    from unbraid.audio.write import write_audio
    from unbraid.datatypes import Audio, Progress
    from unbraid.errors import UnbraidError
    from unbraid.separation.output import Output
    from unbraid.separation.plan import Options
    from unbraid.separation.separator import FileReport, Separator
    from unbraid.weights.store import available_models

__version__ = "0.1.0"

_HOMES = {
    "Audio": "unbraid.datatypes",
    "FileReport": "unbraid.separation.separator",
    "Options": "unbraid.separation.plan",
    "Output": "unbraid.separation.output",
    "Progress": "unbraid.datatypes",
    "Separator": "unbraid.separation.separator",
    "UnbraidError": "unbraid.errors",
    "available_models": "unbraid.weights.store",
    "open_audio": "unbraid.audio.read",
    "read_audio": "unbraid.audio.read",
    "write_audio": "unbraid.audio.write",
}

__all__ = [
    "Audio",
    "FileReport",
    "Options",
    "Output",
    "Progress",
    "Separator",
    "UnbraidError",
    "available_models",
    "open_audio",
    "read_audio",
    "write_audio",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unbraid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
