"""DSD100: the mixes in one tree of folders, the stems in another, 50 tracks for development and 50 for tests.

Liutkus et al.: The 2016 signal separation evaluation campaign, LVA/ICA 2017.
"""

from __future__ import annotations

from pathlib import Path

from unbraid.datasets.listing import folders_in
from unbraid.datasets.track import Track, track_of_files

__all__ = ["dsd100_tracks", "is_dsd100"]

_SUBSETS = {"Dev": "train", "Test": "test"}
_STEMS = ("vocals", "drums", "bass", "other")


def is_dsd100(root: Path) -> bool:
    """Whether there are mixes and stems in folders of the right names."""
    return any((root / "Mixtures" / part).is_dir() and (root / "Sources" / part).is_dir() for part in _SUBSETS)


def dsd100_tracks(root: Path) -> list[Track]:
    """The tracks of Mixtures/{Dev,Test}/TRACK/mixture.wav and Sources/{Dev,Test}/TRACK/{vocals,drums,bass,other}.wav.

    A WAV that is missing is a problem of its track.
    """
    tracks = []
    for part, subset in _SUBSETS.items():
        places = [root / half / part for half in ("Mixtures", "Sources")]
        names = {folder.name for place in places if place.is_dir() for folder in folders_in(place)}
        tracks += [
            track_of_files(
                name,
                subset,
                places[0] / name / "mixture.wav",
                {stem: places[1] / name / f"{stem}.wav" for stem in _STEMS},
                remedy="unpack DSD100 again",
            )
            for name in sorted(names)
        ]
    return tracks
