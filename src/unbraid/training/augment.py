"""Examples made more varied: shifted, louder or softer, mixed anew, in other keys and tempos, coloured and coded.

All that is random is drawn from the example's own generator, so that a batch is the same however many processes or
threads share in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError
from unbraid.training.effects import (
    BANDS_HZ,
    CODECS,
    codec_round_trip,
    compress,
    equalise,
    fitted,
    repitch,
    reverb,
    shift_spectrogram,
    stretch_spectrogram,
)

__all__ = [
    "AugmentConfig",
    "augment",
    "augment_spectrograms",
    "drawn_samples",
]

_TEMPO_DEVIATION = 5 / 12  # of the tempo's range: 5 % of ±12 % (Demucs's code, repitch.py)
_DECAY_S = (0.2, 1.5)  # of reverberation, from a small room to a hall
_WET_DB = (-20.0, -6.0)
_THRESHOLD_DB = (-25.0, -10.0)
_RATIO = (1.5, 6.0)
_BIT_RATES: Final = (64_000, 80_000, 96_000, 112_000, 128_000, 160_000, 192_000)


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to examples, in this order; nothing of it by default.

    p_repitch : probability that an example, all stems alike, is played in another key and tempo
    semitones : how far up or down its key may be, whole semitones, so that it keeps a tuning that is played in
    tempo : by what share it may be faster or slower (normally distributed with 5 / 12 of this, and cut there)
    shift_s : each stem of each example begins up to so much later than it was drawn
    p_equalise, equalise_db : probability for a stem, and range of the gain in each octave
    p_compress, p_reverb : probabilities for a stem
    p_codec : probability that a stem was an MP3 or AAC file once, of 64 to 192 kbit/s
    gain : lowest and highest factor, drawn uniformly for each stem
    swap_channels, flip_sign : whether each stem's channels change places, or its sign, with a probability of 1/2
    remix_group : stems change places among so many consecutive examples of a batch; 1 for never
    spectrogram_stretch : by what share spectrograms, all stems alike, are made longer or shorter (Spleeter: 0.1)
    spectrogram_semitones : how far up or down they are moved (Spleeter: 1)
    """

    shift_s: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    swap_channels: bool = False
    flip_sign: bool = False
    remix_group: int = 1
    p_repitch: float = 0.0
    semitones: float = 2.0
    tempo: float = 0.12
    p_equalise: float = 0.0
    equalise_db: float = 3.5
    p_reverb: float = 0.0
    p_compress: float = 0.0
    p_codec: float = 0.0
    spectrogram_stretch: float = 0.0
    spectrogram_semitones: float = 0.0

    def __post_init__(self) -> None:
        for name in ("p_repitch", "p_equalise", "p_reverb", "p_compress", "p_codec"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augment.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("shift_s", "semitones", "equalise_db", "spectrogram_semitones"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"augment.{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("tempo", "spectrogram_stretch"):
            if not 0 <= getattr(self, name) <= 0.5:  # beyond, it is no music any more
                raise UsageError(f"augment.{name} must be in [0, 0.5], got {getattr(self, name)}")
        if self.semitones % 1:
            raise UsageError(f"augment.semitones must be a whole number, got {self.semitones}")
        if not 0 <= self.gain[0] <= self.gain[1] < math.inf:
            raise UsageError(f"augment.gain must be its lowest and highest factor, got {list(self.gain)}")
        if self.remix_group < 1:
            raise UsageError(f"augment.remix_group must be 1 or more, got {self.remix_group}")


def drawn_samples(config: AugmentConfig, n_samples: int, sample_rate: int) -> int:
    """How many samples of a track `augment` needs for `n_samples`, at the latest shift and the fastest tempo."""
    longest = n_samples + round(config.shift_s * sample_rate)
    return math.ceil(longest * (1 + config.tempo)) if config.p_repitch else longest


def augment(
    examples: FloatArray,
    config: AugmentConfig,
    rngs: Sequence[np.random.Generator],
    *,
    n_samples: int,
    sample_rate: int,
) -> FloatArray:
    """Vary a batch.

    Parameters
    ----------
    examples : ndarray
        [shape=(batch, stem, channel, time), float32]; with a time of `drawn_samples`. Where it is shorter than that,
        examples that are played faster end in silence.
    config : AugmentConfig
        What is done.
    rngs : sequence of Generator
        One an example; the stems of a remixed group are dealt out by that of its first example.
    n_samples : int
        Samples wanted.
    sample_rate : int
        In Hz.

    Returns
    -------
    varied : ndarray [shape=(batch, stem, channel, n_samples), float32]

    Raises
    ------
    UsageError : the batch is no multiple of `config.remix_group`, or too short to be shifted
    """
    assert examples.ndim == 4 and len(rngs) == len(examples)
    n_shift, group = round(config.shift_s * sample_rate), config.remix_group
    if len(examples) % group:
        raise UsageError(
            f"the batch must be a multiple of augment.remix_group, which is {group}, got {len(examples)} examples: "
            "change data.batch_size, or augment.remix_group"
        )
    if examples.shape[3] < n_samples + n_shift:
        raise UsageError(f"examples must be {n_samples + n_shift} samples long, got {examples.shape[3]}")
    varied = np.empty((*examples.shape[:3], n_samples), np.float32)
    for example, out, rng in zip(examples, varied, rngs, strict=True):
        if config.p_repitch and rng.random() < config.p_repitch:
            example = _repitched(example, config, rng, n_samples + n_shift, sample_rate)
        for stem, place in zip(example, out, strict=True):
            start = int(rng.integers(n_shift + 1)) if n_shift else 0
            place[:] = _varied(stem[:, start : start + n_samples], config, rng, sample_rate)
    for first in range(0, len(varied), group) if group > 1 else ():
        members = varied[first : first + group]
        orders = [rngs[first].permutation(group) for _ in range(varied.shape[1])]
        for i, order in enumerate(orders):
            members[:, i] = members[order, i]
    return varied


def _repitched(
    example: FloatArray, config: AugmentConfig, rng: np.random.Generator, n_wanted: int, sample_rate: int
) -> FloatArray:
    """All stems in the same other key and tempo [shape=(stem, channel, n_wanted)]."""
    highest = int(config.semitones)
    semitones = int(rng.integers(-highest, highest + 1))
    change = float(np.clip(_TEMPO_DEVIATION * config.tempo * rng.standard_normal(), -config.tempo, config.tempo))
    # Only what is needed, and all stems at once: these are cut at the same places and stay together.
    rows = example[..., : math.ceil(n_wanted * (1 + change)) + 1].reshape(
        -1, min(example.shape[2], math.ceil(n_wanted * (1 + change)) + 1)
    )
    played = repitch(rows, semitones=semitones, tempo=1 + change, sample_rate=sample_rate)
    return fitted(played, n_wanted).reshape(*example.shape[:2], n_wanted)


def _varied(stem: FloatArray, config: AugmentConfig, rng: np.random.Generator, sample_rate: int) -> FloatArray:
    """Whatever changes one stem of one example [shape=(channel, time)]."""
    if config.p_equalise and rng.random() < config.p_equalise:
        gains_db = rng.uniform(-config.equalise_db, config.equalise_db, len(BANDS_HZ))
        stem = equalise(stem, gains_db.tolist(), sample_rate=sample_rate)
    if config.p_compress and rng.random() < config.p_compress:
        threshold_db, ratio = float(rng.uniform(*_THRESHOLD_DB)), float(rng.uniform(*_RATIO))
        stem = compress(stem, threshold_db=threshold_db, ratio=ratio, sample_rate=sample_rate)
    if config.p_reverb and rng.random() < config.p_reverb:
        decay_s, wet_db = float(rng.uniform(*_DECAY_S)), float(rng.uniform(*_WET_DB))
        stem = reverb(stem, rng, decay_s=decay_s, wet_db=wet_db, sample_rate=sample_rate)
    if config.p_codec and rng.random() < config.p_codec:
        codec, bit_rate = list(CODECS)[rng.integers(len(CODECS))], int(rng.choice(_BIT_RATES))
        stem = codec_round_trip(stem, codec, bit_rate=bit_rate, sample_rate=sample_rate)
    factor = float(rng.uniform(*config.gain)) if config.gain[0] < config.gain[1] else config.gain[0]
    if config.swap_channels and rng.random() < 0.5:
        stem = stem[::-1]
    if config.flip_sign and rng.random() < 0.5:
        factor = -factor
    return stem if factor == 1 else stem * np.float32(factor)


def augment_spectrograms(
    magnitudes: FloatArray, config: AugmentConfig, rngs: Sequence[np.random.Generator]
) -> FloatArray:
    """Stretch and shift a batch of magnitudes [shape=(batch, row, channel, frame, bin), float32].

    All rows of an example, stems and mix, by the same amounts; `rngs` has a generator for each example.
    """
    assert magnitudes.ndim == 5 and len(rngs) == len(magnitudes)
    varied = magnitudes.copy()
    for example, rng in zip(varied, rngs, strict=True):
        if stretch := config.spectrogram_stretch:
            example[:] = stretch_spectrogram(example, float(rng.uniform(1 - stretch, 1 + stretch)))
        if semitones := config.spectrogram_semitones:
            example[:] = shift_spectrogram(example, float(rng.uniform(-semitones, semitones)))
    return varied
