"""Voices for songs: recorded phrases, speech that is made to sing, and voices that never were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.invented_speech import VOICE_TYPES, invent_speech
from unbraid.datasets.synthesis.phrases import string_phrases
from unbraid.datasets.synthesis.score import Note, Player, Score
from unbraid.datasets.synthesis.singing import Manner, draw_manner, sing
from unbraid.datasets.synthesis.syllables import Material, as_material, joined
from unbraid.datasets.synthesis.voice_library import Recording, VoiceLibrary
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError, UsageError

__all__ = ["Voices", "voice_synthesizer"]

_ENOUGH_SYLLABLES = 24  # for a song
_MOST_RECORDINGS = 8  # of one speaker, for a song
_SUNG_CHANCE = 0.15  # that syllables are taken from singing, not from speech


@dataclass(frozen=True, eq=False)
class _Singer:
    """A voice and its habits: a Player."""

    material: Material
    manner: Manner

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Sing. Raises UsageError for another sample rate than that of the voice."""
        if sample_rate != self.material.utterance.sample_rate:
            raise UsageError(f"sample_rate must be {self.material.utterance.sample_rate}, got {sample_rate}")
        return sing(self.material, self.manner, notes, n_samples, rng)


@dataclass(frozen=True)
class _InventedSinger:
    """A voice that the seed decides, whatever the sample rate, and its habits: a Player."""

    voice_type: str
    seed: int
    manner: Manner

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Sing."""
        material = invent_speech(np.random.default_rng(self.seed), sample_rate, self.voice_type)
        return sing(material, self.manner, notes, n_samples, rng)


def voice_synthesizer(rng: Generator) -> Player:
    """Draw a voice that needs no recording: from bass to soprano and child, alone or a choir, any sample rate."""
    voice_type = str(rng.choice(list(VOICE_TYPES)))
    return _InventedSinger(voice_type, int(rng.integers(2**63)), draw_manner(rng))


class Voices:
    """Singers from recordings of singing and of speech.

    folder : has manifest.json and what it lists; see `VoiceLibrary`
    sample_rate : in Hz, of all that is made
    cache : folder for analyses, made if needed; without it they are kept in memory only, the latest 256 MiB

    Raises DatasetError where the manifest is not as told. Its methods raise it where a file cannot be decoded, and
    where `exclude`, names of speakers or groups that are held out, leaves nothing.
    """

    def __init__(self, folder: Path, sample_rate: int, *, cache: Path | None = None) -> None:
        self._library = VoiceLibrary(folder, sample_rate, cache=cache)

    def player(self, rng: Generator, *, exclude: Collection[str] = ()) -> Player:
        """Draw a speaker, and make a singer of them, for parts of role "voice" or "backing".

        The notes are moved by octaves into the speaker's range.
        """
        kinds = ("singing", "speech") if rng.random() < _SUNG_CHANCE else ("speech", "singing")
        left = self._library.without(exclude, kinds[0]) or self._library.without(exclude, kinds[1])
        if not left:
            raise DatasetError("cannot make anybody sing: no recording is left by `exclude`")
        speakers: dict[str, list[Recording]] = defaultdict(list)
        for recording in left:
            speakers[recording.speaker if recording.kind == "speech" else recording.group].append(recording)
        names = sorted(speakers)
        weights = np.sqrt([sum(recording.seconds for recording in speakers[name]) for name in names])
        # Without replacement: whoever has no syllable to sing is followed by the next.
        for index in rng.choice(len(names), len(names), replace=False, p=weights / weights.sum()).tolist():
            material = self._material(speakers[names[index]], rng)
            if material is not None:
                return _Singer(material, draw_manner(rng))
        raise DatasetError(f"cannot make anybody sing: no syllable is found in the {left[0].kind} left by `exclude`")

    def phrases(self, rng: Generator, score: Score, n_samples: int, *, exclude: Collection[str] = ()) -> FloatArray:
        """Sing a song with recorded phrases in its tempo and near its key, where its part of a voice sings, if any.

        Returns an ndarray [shape=(2, n_samples), float32].
        """
        singing = self._library.without(exclude, "singing")
        if not singing:
            raise DatasetError("cannot sing recorded phrases: no singing is left by `exclude`")
        # A call is short.
        calls = [recording for recording in self._library.without(exclude, "speech") if recording.seconds < 3]
        return string_phrases(self._library, singing, calls, rng, score, n_samples)

    def attributions(self) -> tuple[str, ...]:
        """Whom to name for these recordings, and under which licence, each once."""
        return tuple(sorted({recording.attribution for recording in self._library.recordings}))

    def _material(self, recordings: list[Recording], rng: Generator) -> Material | None:
        """Take as many of a speaker's recordings as a song needs; None if there is no syllable in them."""
        taken: list[Material] = []
        for index in rng.permutation(len(recordings))[:_MOST_RECORDINGS].tolist():
            recording = recordings[index]
            material = as_material(self._library.utterance(recording), sung=recording.kind == "singing")
            if material.syllables:
                taken.append(material)
            if sum(len(each.syllables) for each in taken) >= _ENOUGH_SYLLABLES:
                break
        return joined(taken) if taken else None
