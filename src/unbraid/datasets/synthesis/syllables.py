"""What there is to sing: a voice in frames, and where its syllables are."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import log2
from typing import NamedTuple

import numpy as np

from unbraid.datasets.synthesis.vocoder import FRAME_S, Utterance

__all__ = ["LONGEST_ONSET_S", "Material", "Syllable", "as_material", "find_syllables", "joined"]

LONGEST_ONSET_S = 0.16  # of consonants before a vowel
_LONGEST_CODA_S = 0.14  # and after it


class Syllable(NamedTuple):
    """Frames of an utterance: consonants from `start`, the vowel from `vowel_start` to `vowel_end`, then to `end`."""

    start: int
    vowel_start: int
    vowel_end: int
    end: int


@dataclass(frozen=True, eq=False)
class Material:
    """What is sung: an utterance, its syllables in order, and the pitch (MIDI number) about which it is sung best."""

    utterance: Utterance
    syllables: tuple[Syllable, ...]
    centre: float


def as_material(utterance: Utterance, *, sung: bool = False) -> Material:
    """Find the syllables of a voice and the pitch that suits it: a fifth above that of its speech, or as it is sung."""
    voiced = utterance.f0[utterance.f0 > 0]
    heard = 69 + 12 * log2(float(np.median(voiced)) / 440) if len(voiced) else 50.0
    syllables = find_syllables(utterance)
    if syllables:
        # Speech glides and creaks, which counts as noise, and drowns the pitch when it is stretched; who sings holds
        # the tone: no vowel is noisier than half of them are.
        held = np.concatenate([np.arange(each.vowel_start, each.vowel_end) for each in syllables])
        noisiness = utterance.noisiness.copy()
        noisiness[held] = np.minimum(noisiness[held], np.median(noisiness[held].astype(np.float32), axis=0))
        utterance = replace(utterance, noisiness=noisiness.astype(np.float16))
    return Material(utterance, syllables, heard + (0 if sung else 7))


def joined(materials: list[Material]) -> Material:
    """Put what one voice says one after the other; there is at least one."""
    first = 0
    syllables: list[Syllable] = []
    for material in materials:
        syllables += [Syllable(*(first + frame for frame in syllable)) for syllable in material.syllables]
        first += material.utterance.n_frames
    spoken = [material.utterance for material in materials]
    utterance = Utterance(
        np.concatenate([part.f0 for part in spoken]),
        np.concatenate([part.log_power for part in spoken]),
        np.concatenate([part.noisiness for part in spoken]),
        spoken[0].sample_rate,
    )
    return Material(utterance, tuple(syllables), float(np.median([material.centre for material in materials])))


def find_syllables(utterance: Utterance) -> tuple[Syllable, ...]:
    """Find the vowels of an utterance: hills of voiced power between 0.3 and 3.5 kHz, and the dips that part them."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import find_peaks

    if utterance.n_frames < 8:
        return ()
    n_bins = utterance.log_power.shape[1]
    low, high = (round(hz / (utterance.sample_rate / 2) * (n_bins - 1)) for hz in (300, 3500))
    power = np.exp(utterance.log_power[:, low:high].astype(np.float32)).mean(axis=1)
    voiced = utterance.f0 > 0
    level_db = uniform_filter1d(10 * np.log10(power + 1e-12) - 30.0 * ~voiced, 5)
    top_db = float(level_db.max())
    peaks, _ = find_peaks(np.pad(level_db, 1, constant_values=-200), height=top_db - 28, prominence=3, distance=14)
    peaks -= 1
    dips = [a + int(level_db[a:b].argmin()) for a, b in itertools.pairwise(peaks.tolist())]
    bounds = [0, *dips, utterance.n_frames]
    syllables = []
    onset, coda = round(LONGEST_ONSET_S / FRAME_S), round(_LONGEST_CODA_S / FRAME_S)
    for peak, begin, end in zip(peaks.tolist(), bounds[:-1], bounds[1:], strict=True):
        sounding = voiced & (level_db > level_db[peak] - 7)
        before, after = np.flatnonzero(~sounding[begin:peak]), np.flatnonzero(~sounding[peak:end])
        vowel_start = begin + int(before[-1]) + 1 if len(before) else begin
        vowel_end = peak + int(after[0]) if len(after) else end
        if vowel_end - vowel_start >= 6:
            # Pauses between words belong to nobody.
            audible = np.flatnonzero(10 * np.log10(power[begin:end] + 1e-12) > level_db[peak] - 45) + begin
            first, last = max(int(audible[0]), vowel_start - onset), min(int(audible[-1]) + 1, vowel_end + coda)
            syllables.append(Syllable(min(first, vowel_start), vowel_start, vowel_end, max(last, vowel_end)))
    return tuple(syllables)
