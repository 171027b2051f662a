"""Parts become a mix, and stems that add up to it: what a mixing and a mastering engineer do, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.dynamics import HOP, at_audio_rate, compress, duck, kick_envelope, loudness
from unbraid.datasets.synthesis.effects import amplitude
from unbraid.datasets.synthesis.mastering import master, set_level
from unbraid.datasets.synthesis.rooms import gated_response, network_response, noise_response, reverberate
from unbraid.datasets.synthesis.score import ROLES
from unbraid.datasets.synthesis.strips import HABITS, Habits, channel_strip, levelled, placed
from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = ["STEMS", "mix_song"]

STEMS = ("vocals", "drums", "bass", "piano", "other")

_P_DRY = 0.1
_LEAST_WET_DB = -36.0  # what is less is not worth a room
_LOUDNESS = 0.1  # of a part at 0 dB; the master sets the level of them all

_KITS = frozenset(("drums", "percussion"))
_SUNG = frozenset(("voice", "backing"))

# What a bass drum pushes away, and how often; else nothing.
_DUCKED: Final[tuple[tuple[frozenset[str], float], ...]] = (
    (frozenset(("bass",)), 0.13),
    (frozenset(("bass", "pad", "strings", "organ")), 0.12),
    (frozenset(ROLES) - _KITS - _SUNG, 0.07),
    (frozenset(ROLES) - _KITS, 0.05),
)


@dataclass(frozen=True)
class _Desk:
    """What the parts of one song share.

    intensity : factor of the probabilities of effects
    rooms : their responses, each an ndarray [shape=(2, time), float32]
    wet_db : added to what goes to the rooms
    ducked : roles that give way to the bass drum, as deep and long as it says
    """

    intensity: float
    rooms: tuple[FloatArray, ...]
    wet_db: float
    ducked: frozenset[str]
    depth_db: float
    attack_s: float
    release_s: float
    ridden: bool


def mix_song(
    parts: Sequence[tuple[str, FloatArray]], rng: Generator, sample_rate: int, *, tempo_bpm: float
) -> dict[str, FloatArray]:
    """Mix and master a song.

    Parameters
    ----------
    parts : sequence of (str, ndarray)
        Role, one of `score.ROLES`, and samples [shape=(2, time), float32] at any level.
    rng : Generator
        Draws what is done; one song in ten is mixed without any effect.
    sample_rate : int
        In Hz.
    tempo_bpm : float
        Beats per minute; echoes, tremolos and the lengths of sections follow it.

    Returns
    -------
    stems : dict of str to ndarray
        Those of `STEMS` that have parts [shape=(2, time), float32]; their sum is the finished mix, and its magnitude
        is 0.95 or less.

    Raises
    ------
    UsageError : a role is unknown, a part is not stereo or as long as the others, or the tempo is not above 0
    """
    n = _common_length(parts)
    if not (tempo_bpm > 0 and math.isfinite(tempo_bpm)):
        raise UsageError(f"tempo_bpm must be above 0, got {tempo_bpm}")
    names = [stem for stem in STEMS if any(ROLES[role] == stem for role, _ in parts)]
    if not n:
        return {stem: np.zeros((2, 0), np.float32) for stem in names}
    desk_rng, master_rng, *part_rngs = rng.spawn(2 + len(parts))
    stems = np.zeros((len(names), 2, n), np.float32)
    if desk_rng.random() < _P_DRY:
        for (role, samples), part_rng in zip(parts, part_rngs, strict=True):
            level = _level(HABITS[role], part_rng)
            stems[names.index(ROLES[role])] += levelled(samples, level, sample_rate=sample_rate)
        return dict(zip(names, set_level(stems, master_rng), strict=True))
    desk = _drawn_desk(desk_rng, sample_rate)
    sends = np.zeros((len(desk.rooms), *stems.shape), np.float32)
    drums = sum((samples for role, samples in parts if role == "drums"), np.zeros((2, n), np.float32))
    kick = kick_envelope(drums, sample_rate=sample_rate) if desk.ducked else None
    for (role, samples), part_rng in zip(parts, part_rngs, strict=True):
        out = _treated(samples, role, desk, kick, part_rng, sample_rate, tempo_bpm)
        stem = names.index(ROLES[role])
        stems[stem] += out
        for room in sends:
            # Most parts are in all rooms, but not all of them.
            wet_db = desk.wet_db + part_rng.uniform(*HABITS[role].wet_db)
            if part_rng.random() < 0.75 and wet_db > _LEAST_WET_DB:
                room[stem] += np.float32(amplitude(wet_db)) * out
    stems += reverberate(sends, desk.rooms)
    for name, stem_samples in zip(names, stems, strict=True):
        stem_samples[:] = _bus(stem_samples, name, desk_rng, sample_rate)
    return dict(zip(names, master(stems, master_rng, sample_rate=sample_rate), strict=True))


def _common_length(parts: Sequence[tuple[str, FloatArray]]) -> int:
    """Return the length of all parts, which are checked."""
    lengths = set()
    for role, samples in parts:
        if role not in ROLES:
            raise UsageError(f"role must be one of {', '.join(ROLES)}, got '{role}'")
        if samples.ndim != 2 or len(samples) != 2:
            raise UsageError(f"samples of a part must be of shape (2, time), got {samples.shape} for {role}")
        lengths.add(samples.shape[1])
    if len(lengths) > 1:
        raise UsageError(f"parts must be of equal length, got {', '.join(map(str, sorted(lengths)))} samples")
    return lengths.pop() if lengths else 0


def _drawn_desk(rng: Generator, sample_rate: int) -> _Desk:
    shares = [share for _, share in _DUCKED]
    choice = int(rng.choice(len(shares) + 1, p=[*shares, 1 - sum(shares)]))
    n_rooms = int(rng.choice([0, 1, 2], p=[0.1, 0.5, 0.4]))
    return _Desk(
        intensity=float(rng.uniform(0.3, 1.4)),
        rooms=tuple(_drawn_room(rng, sample_rate) for _ in range(n_rooms)),
        wet_db=float(rng.normal(0, 4)),
        ducked=_DUCKED[choice][0] if choice < len(_DUCKED) else frozenset(),
        depth_db=float(rng.uniform(2, 18)),
        attack_s=float(rng.uniform(0.001, 0.008)),
        release_s=float(rng.uniform(0.05, 0.25)),
        ridden=bool(rng.random() < 0.7),
    )


def _drawn_room(rng: Generator, sample_rate: int) -> FloatArray:
    """A small room, a hall, a plate or something artificial."""
    kind = rng.choice(["room", "hall", "plate", "network", "gated"], p=[0.3, 0.25, 0.25, 0.12, 0.08])
    pre_delay_s, low_cut_hz = float(rng.uniform(0, 0.05)), float(rng.uniform(60, 400))
    if kind == "gated":
        length_s, slope_db = float(rng.uniform(0.1, 0.45)), float(rng.uniform(-12, 10))
        return gated_response(rng, length_s=length_s, slope_db=slope_db, low_cut_hz=low_cut_hz, sample_rate=sample_rate)
    if kind in ("plate", "network"):
        shortest_s = float(rng.uniform(0.004, 0.009) if kind == "plate" else rng.uniform(0.017, 0.03))
        return network_response(
            rng,
            decay_s=float(rng.uniform(0.6, 2.5)),
            delays_s=(shortest_s, 3.3 * shortest_s),
            damping_hz=float(rng.uniform(3000, 14000)),
            pre_delay_s=pre_delay_s,
            low_cut_hz=low_cut_hz,
            sample_rate=sample_rate,
        )
    small = kind == "room"
    return noise_response(
        rng,
        decay_s=float(rng.uniform(0.15, 0.7) if small else rng.uniform(1.0, 3.2)),
        high_share=float(rng.uniform(0.25, 0.8)),
        build_up_s=float(rng.uniform(0, 0.003) if small else rng.uniform(0.005, 0.06)),
        n_early=int(rng.integers(4, 16)),
        pre_delay_s=0.3 * pre_delay_s if small else pre_delay_s,
        low_cut_hz=low_cut_hz,
        sample_rate=sample_rate,
    )


def _level(habits: Habits, rng: Generator) -> float:
    """Loudness of a part: about what is usual, and now and then hardly audible, or too loud."""
    level_db = habits.level_db + habits.spread_db * float(np.clip(rng.normal(), -2, 2))
    chance = rng.random()
    if chance < 0.07:
        level_db -= float(rng.uniform(8, 20))
    elif chance > 0.95:
        level_db += float(rng.uniform(3, 7))
    return _LOUDNESS * amplitude(level_db)


def _treated(
    samples: FloatArray,
    role: str,
    desk: _Desk,
    kick: FloatArray | None,
    rng: Generator,
    sample_rate: int,
    tempo_bpm: float,
) -> FloatArray:
    """One part as it goes to its stem and to the rooms."""
    if rng.random() < 0.06:
        out = placed(samples, HABITS[role], rng, sample_rate=sample_rate)
    else:
        out = channel_strip(samples, role, rng, tempo_bpm=tempo_bpm, intensity=desk.intensity, sample_rate=sample_rate)
    out = levelled(out, _level(HABITS[role], rng), sample_rate=sample_rate)
    if desk.ridden:
        out = out * _ridden(samples.shape[1], rng, sample_rate, tempo_bpm)
    if kick is not None and role in desk.ducked:
        depth_db = desk.depth_db * float(rng.uniform(0.6, 1))
        out = duck(
            out,
            kick,
            depth_db=depth_db,
            attack_s=desk.attack_s,
            release_s=desk.release_s,
            sample_rate=sample_rate,
        )
    return out


def _ridden(n: int, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    """Gain of a fader that moves between sections of four to sixteen bars of four beats [shape=(n,)]."""
    bar_s, seconds = 240 / tempo_bpm, n / sample_rate
    section_s = bar_s * float(rng.choice([4, 8, 8, 16]))
    moves_s = np.arange(section_s, seconds, section_s)
    levels_db = rng.normal(0, 1.5, len(moves_s) + 1).clip(-6, 4)
    move_s = min(float(rng.uniform(0.25, 2)) * bar_s, section_s)
    time_s = np.arange(-(-n // HOP) + 1) * (HOP / sample_rate)
    # The end of one level, half a move before the next section, and the beginning of the next one.
    points_s = np.stack([moves_s - move_s / 2, moves_s + move_s / 2], axis=1).reshape(-1)
    points_db = np.repeat(levels_db, 2)[1:-1]
    curve_db = np.interp(time_s, points_s, points_db) if len(points_s) else np.full(len(time_s), levels_db[0])
    return at_audio_rate(10 ** (curve_db / 20), n)


def _bus(samples: FloatArray, stem: str, rng: Generator, sample_rate: int) -> FloatArray:
    """Compress a whole stem, perhaps; its loudness stays."""
    before = loudness(samples, sample_rate=sample_rate)
    if rng.random() > (0.6 if stem == "drums" else 0.3) or not before:
        return samples
    pressed = compress(
        levelled(samples, _LOUDNESS, sample_rate=sample_rate),
        threshold_db=float(rng.uniform(-24, -8)),
        ratio=float(rng.uniform(1.5, 8)),
        knee_db=float(rng.uniform(0, 10)),
        attack_s=float(np.exp(rng.uniform(*np.log((0.001, 0.03))))),
        release_s=float(rng.uniform(0.05, 0.4)),
        dry=float(rng.uniform(0.3, 0.7)) if rng.random() < 0.4 else 0.0,
        sample_rate=sample_rate,
    )
    return levelled(pressed, before, sample_rate=sample_rate)
