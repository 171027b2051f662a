"""MUSDB18 (a file of five streams for each track) and MUSDB18-HQ (a folder of five WAVs for each track).

Both come as a train (100 tracks) and a test (50) folder. Fourteen tracks of the train folder are the validation subset
by convention; they are listed as that, so that "train" is the other 86.

Rafii, Liutkus, Stöter, Mimilakis, Bittner: The MUSDB18 corpus for music separation, 2017.
"""

from __future__ import annotations

from pathlib import Path

from unbraid.datasets.listing import audio_files_in, files_in, folders_in, subset_folders, subset_lists
from unbraid.datasets.track import AudioFile, Track, track_of_files

__all__ = ["VALIDATION_TRACKS", "is_musdb18", "is_musdb18_hq", "musdb18_hq_tracks", "musdb18_tracks"]

# As published with the Python package musdb 0.4.3 (configs/mus.yaml, "validation_tracks").
VALIDATION_TRACKS = frozenset(
    {
        "ANiMAL - Rockshow",
        "Actions - One Minute Smile",
        "Alexander Ross - Goodbye Bolero",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Fergessen - Nos Palpitants",
        "James May - On The Line",
        "Johnny Lokke - Promises & Lies",
        "Leaf - Summerghost",
        "Meaxic - Take A Step",
        "Patrick Talbot - A Reason To Leave",
        "Skelpolu - Human Mistakes",
        "Traffic Experiment - Sirens",
        "Triviul - Angelsaint",
        "Young Griffo - Pennies",
    }
)

_SUFFIX = ".stem.mp4"
_MIX = "mixture"
_STEMS = ("vocals", "drums", "bass", "other")
_STREAMS = (_MIX, "drums", "bass", "other", "vocals")  # the order in a file of Native Instruments' stems format
_WAVS = frozenset({f"{signal}.wav" for signal in _STREAMS})


def is_musdb18(root: Path) -> bool:
    """Whether a folder named after a subset holds a file of five streams."""
    return any(_is_packed(path) for _, folder in subset_folders(root) for path in files_in(folder))


def musdb18_tracks(root: Path) -> list[Track]:
    """The tracks of {train,test}/TRACK.stem.mp4; whether a file has five streams shows when it is read."""
    return [
        _packed_track(path, subset)
        for subset, folder in subset_folders(root)
        for path in files_in(folder)
        if _is_packed(path)
    ]


def is_musdb18_hq(root: Path) -> bool:
    """Whether the tracks have the five WAVs and no other audio; a few WAVs may be missing, but not of every track.

    A folder with lists of its own subsets is none: who wrote the lists wants them to be used.
    """
    if subset_lists(root):
        return False
    held = [{path.name for path in audio_files_in(folder)} for _, folder in _track_folders(root)]
    return _WAVS in held and all(names <= _WAVS for names in held)


def musdb18_hq_tracks(root: Path) -> list[Track]:
    """The tracks of {train,test}/TRACK/{mixture,vocals,drums,bass,other}.wav; a WAV that is missing is a problem."""
    if not any(_WAVS & {path.name for path in files_in(folder)} for _, folder in _track_folders(root)):
        return []
    return [
        track_of_files(
            folder.name,
            _subset_of(folder.name, subset),
            folder / f"{_MIX}.wav",
            {stem: folder / f"{stem}.wav" for stem in _STEMS},
            remedy="unpack MUSDB18-HQ again",
        )
        for subset, folder in _track_folders(root)
    ]


def _track_folders(root: Path) -> list[tuple[str, Path]]:
    return [(subset, track) for subset, folder in subset_folders(root) for track in folders_in(folder)]


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(_SUFFIX)


def _packed_track(path: Path, subset: str) -> Track:
    name = path.name[: -len(_SUFFIX)]
    streams = {signal: AudioFile(path, stream) for stream, signal in enumerate(_STREAMS)}
    return Track(name, _subset_of(name, subset), streams[_MIX], {stem: streams[stem] for stem in _STEMS})


def _subset_of(name: str, folder_subset: str) -> str:
    return "validation" if folder_subset == "train" and name in VALIDATION_TRACKS else folder_subset
