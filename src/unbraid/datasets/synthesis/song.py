"""A whole song: composed, every part given to a player, and mixed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.compose import compose
from unbraid.datasets.synthesis.drum_machine import drum_machine
from unbraid.datasets.synthesis.mixing import mix_song
from unbraid.datasets.synthesis.sampler import Bank
from unbraid.datasets.synthesis.score import Part, Player, Score
from unbraid.datasets.synthesis.synthesizers import synthesizer
from unbraid.datasets.synthesis.voices import Voices, voice_synthesizer
from unbraid.datatypes import FloatArray

__all__ = ["Studio"]

# How often a part is played on recorded instruments, where there are any, and not by a synthesiser.
_P_RECORDED = {"drums": 0.55, "percussion": 0.6, "bass": 0.5, "piano": 0.85, "guitar": 0.85, "organ": 0.5,
               "strings": 0.6, "brass": 0.6, "lead": 0.35, "arpeggio": 0.3, "pad": 0.3}  # fmt: skip
# Of machines' music, less.
_ELECTRONIC = ("house", "techno", "trance", "drum and bass", "hip-hop", "trap", "synthpop", "disco", "ambient")
_P_PHRASES, _P_SUNG_SPEECH = 0.55, 0.3  # of voices: recorded phrases; speech made to sing; else made of numbers
_CEILING = 0.98  # of any stem
_P_LOOP = 0.12  # of drum parts, a recorded loop besides


@dataclass(frozen=True)
class Studio:
    """What songs are made with; without recordings, everything is synthesised.

    sample_rate : in Hz
    bank, voices : recorded instruments and voices
    exclude : instruments, speakers and groups of phrases that are not used, such as those kept for validation
    """

    sample_rate: int
    bank: Bank | None = None
    voices: Voices | None = None
    exclude: Collection[str] = ()

    def song(self, seconds: float, rng: Generator, *, style: str | None = None) -> dict[str, FloatArray]:
        """Make a song.

        seconds : length
        rng : decides everything
        style : one of the composer's; None for any

        Returns the stems that it has, of vocals, drums, bass, piano and other, each
        [shape=(2, round(seconds · sample_rate)), float32]; neither they nor their sum, the mix, reach 1.
        """
        composer, mixer, *_ = rng.spawn(2)
        score = compose(composer, seconds, style=style)
        n_samples = round(seconds * self.sample_rate)
        parts = [
            (part.role, self._performed(part, score, n_samples, own))
            for part, own in zip(score.parts, rng.spawn(len(score.parts)), strict=True)
        ]
        sounding = [(role, samples) for role, samples in parts if samples.any()]
        stems = mix_song(sounding, mixer, self.sample_rate, tempo_bpm=score.tempo_bpm)
        # Stems may be louder than their mix, which one pushes up where another pulls down.
        peak = max((float(np.abs(one).max()) for one in stems.values()), default=0.0)
        return {stem: one * np.float32(min(1.0, _CEILING / max(peak, _CEILING))) for stem, one in stems.items()}

    def _performed(self, part: Part, score: Score, n_samples: int, rng: Generator) -> FloatArray:
        """A part as it sounds."""
        if part.role == "voice" and self.voices is not None and rng.random() < _P_PHRASES:
            samples = self.voices.phrases(rng, score, n_samples, exclude=self.exclude)
        else:
            player = self._player(part.role, score, rng)
            samples = player(part.notes, n_samples, self.sample_rate, rng)
        if part.role == "drums" and self.bank is not None and rng.random() < _P_LOOP:
            loop = self.bank.loop(rng, "drums", score.tempo_bpm, score.seconds)
            if loop is not None:
                share = float(np.abs(samples).max() / np.abs(loop).max() * rng.uniform(0.3, 1.0))
                samples = samples + np.float32(share) * loop[:, :n_samples]
        return samples

    def _player(self, role: str, score: Score, rng: Generator) -> Player:
        """Who plays a part."""
        if role in ("voice", "backing"):
            if self.voices is not None and rng.random() < _P_SUNG_SPEECH / (1 - _P_PHRASES):
                return self.voices.player(rng, exclude=self.exclude)
            return voice_synthesizer(rng)
        share = _P_RECORDED[role] * (0.5 if score.style in _ELECTRONIC else 1.0)
        if self.bank is not None and rng.random() < share:
            found = self.bank.player(role, rng, exclude=self.exclude)
            if found is not None:
                return found
        return drum_machine(rng) if role in ("drums", "percussion") else synthesizer(role, rng)
