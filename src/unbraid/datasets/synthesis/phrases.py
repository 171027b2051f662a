"""Recorded phrases strung together in the time and near the key of a song: lead, doubles, harmonies, calls between."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.score import Score
from unbraid.datasets.synthesis.vocoder import frame_hop, synthesize
from unbraid.datasets.synthesis.voice_library import Recording, VoiceLibrary
from unbraid.datatypes import FloatArray

__all__ = ["string_phrases"]

_LEVEL = 0.1  # RMS of a lead phrase
_PACES = (0.75, 1.35)  # how much slower or faster than recorded
_MOST_SEMITONES = 4  # by the speed of the tape; the vocoder goes further
_SECTION_BARS = 4
_SCALES = {False: (0, 2, 4, 5, 7, 9, 11), True: (0, 2, 3, 5, 7, 8, 10)}


@dataclass(frozen=True)
class _Treatment:
    """What becomes of a group's phrases in this song.

    semitones : by which they are moved
    pace : recorded seconds sung in one second
    tape : whether pitch, pace and formants move together as on a tape, by `semitones`; otherwise a vocoder moves them
    formant_scale : of the vocoder
    """

    semitones: float
    pace: float
    tape: bool
    formant_scale: float


def string_phrases(
    library: VoiceLibrary,
    singing: list[Recording],
    calls: list[Recording],
    rng: Generator,
    score: Score,
    n_samples: int,
) -> FloatArray:
    """Sing a song with recorded phrases.

    singing : of which a group or two are drawn
    calls : for shouts between; none is fine
    score : tempo, key, and where the part of a voice rests, if there is one

    Returns an ndarray [shape=(2, n_samples), float32], a phrase's RMS being about 0.1.
    """
    song = np.zeros((2, n_samples), np.float32)
    groups: dict[str, list[Recording]] = defaultdict(list)
    for recording in singing:
        groups[recording.group].append(recording)
    leads = [_draw_lead(groups, score, rng) for _ in range(1 if rng.random() < 0.8 else 2)]
    shouts = [calls[int(rng.integers(len(calls)))] for _ in range(3)] if calls and rng.random() < 0.3 else []
    chances = {name: float(rng.choice([0, high])) for name, high in (("double", 0.7), ("harmony", 0.6), ("adlib", 0.5))}
    steps = int(rng.choice([-5, -3, 2, 2, 4, -7]))  # of the scale: thirds, fifths, a fourth or sixth, an octave below
    for start_s, end_s in _sections(score, n_samples / library.sample_rate, rng):
        phrases, treatment = leads[int(rng.integers(len(leads)))]
        drawn = {name: bool(rng.random() < chance) for name, chance in chances.items()}
        _sing_section(library, song, phrases, treatment, score, (start_s, end_s), drawn, steps, rng)
        if drawn["adlib"]:
            call = shouts or phrases
            recording = call[int(rng.integers(len(call)))]
            loose = _Treatment(0, 1, False, 1) if shouts else treatment
            called = _render(library, recording, loose, rng)
            _add(song, called, rng.uniform(start_s, end_s), rng.uniform(0.3, 0.8), rng.uniform(-0.8, 0.8), library)
    return song


def _draw_lead(groups: dict[str, list[Recording]], score: Score, rng: Generator) -> tuple[list[Recording], _Treatment]:
    """Draw who sings, what is sung of theirs, and how it is fitted to the song; what fits well is drawn more often."""
    names = sorted(groups)
    fits = [_fit(groups[name][0], score) for name in names]
    weights = np.array(
        [
            np.sqrt(sum(recording.seconds for recording in groups[name]))
            * np.exp(-abs(shift) / 4 - 3 * abs(log2(pace)))
            for name, (shift, pace) in zip(names, fits, strict=True)
        ]
    )
    index = int(rng.choice(len(names), p=weights / weights.sum()))
    shift, pace = fits[index]
    pool = groups[names[index]]
    # Songs repeat themselves: some are made of few phrases.
    n_phrases = min(len(pool), int(rng.choice([3, 6, 12, len(pool)])))
    phrases = [pool[i] for i in rng.choice(len(pool), n_phrases, replace=False).tolist()]
    semitones = shift + float(rng.normal(0, 0.08))
    if abs(shift) <= _MOST_SEMITONES and rng.random() < 0.5:
        return phrases, _Treatment(semitones, float(np.exp2(semitones / 12)), True, 1.0)
    pace = float(np.clip(pace, *_PACES))
    if rng.random() < 0.35:  # a man: an octave lower, his mouth larger, or as it was
        return phrases, _Treatment(semitones - 12, pace, False, float(rng.choice([rng.uniform(0.8, 0.9), 1.0])))
    return phrases, _Treatment(semitones, pace, False, float(np.clip(np.exp2(rng.normal(0, 0.1)), 0.8, 1.25)))


def _fit(recording: Recording, score: Score) -> tuple[int, float]:
    """Return the semitones that bring a recording into the song's key, −6 to 5, and the pace into its tempo."""
    shift, pace = 0, 1.0
    if recording.root is not None:
        # A minor key has the notes of the major key three semitones above.
        relative = 0 if recording.minor in (None, score.minor) else 3 if recording.minor else -3
        shift = (score.root - recording.root - relative + 6) % 12 - 6
    if recording.bpm is not None:
        # Half and double tempo are the same beat.
        pace = float(np.exp2((log2(score.tempo_bpm / recording.bpm) + 0.5) % 1 - 0.5))
    return shift, pace


def _sections(score: Score, length_s: float, rng: Generator) -> list[tuple[float, float]]:
    """Return from when to when somebody sings: where the score has a voice; else as it comes."""
    section_s = _SECTION_BARS * score.beats_per_bar * 60 / score.tempo_bpm
    n_sections = int(np.ceil(length_s / section_s))
    starts_s = [note.start_s for part in score.parts if part.role == "voice" for note in part.notes]
    sung = rng.random(n_sections) < rng.uniform(0.5, 1)
    if starts_s:
        sung = np.bincount((np.array(starts_s) / section_s).astype(np.intp), minlength=n_sections)[:n_sections] > 0
    elif not sung.any():
        sung[int(rng.integers(n_sections)) if n_sections else 0 :] = True
    return [(i * section_s, min(length_s, (i + 1) * section_s)) for i in np.flatnonzero(sung).tolist()]


def _sing_section(
    library: VoiceLibrary,
    song: FloatArray,
    phrases: list[Recording],
    treatment: _Treatment,
    score: Score,
    span_s: tuple[float, float],
    drawn: dict[str, bool],
    steps: int,
    rng: Generator,
) -> None:
    """Add phrases to `song` in place, one after the other, each on a beat."""
    beat_s = 60 / score.tempo_bpm
    at_s, end_s = span_s
    rest_chance = rng.uniform(0, 0.4)
    while at_s < end_s - beat_s:
        recording = phrases[int(rng.integers(len(phrases)))]
        lead = _render(library, recording, treatment, rng)
        length_s = len(lead) / library.sample_rate
        if len(lead):
            level = 10 ** (rng.uniform(-2, 2) / 20)
            _add(song, lead, at_s, level, rng.uniform(-0.08, 0.08), library)
            if drawn["double"]:
                for side in (-1, 1):
                    again = _render(library, recording, treatment, rng, detune=float(rng.normal(0, 0.12)))
                    _add(song, again, at_s + rng.uniform(0.005, 0.03), 0.5 * level, side * rng.uniform(0.4, 1), library)
            if drawn["harmony"]:
                above = _render(library, recording, treatment, rng, harmony=(score, steps))
                _add(
                    song, above, at_s + rng.uniform(0, 0.02), level * rng.uniform(0.4, 0.8), rng.uniform(-1, 1), library
                )
        rest_beats = int(rng.integers(1, 5)) if rng.random() < rest_chance else 0
        # At least a beat goes by, even for an empty recording.
        at_s += beat_s * (max(1, np.ceil(length_s / beat_s - 0.15)) + rest_beats)


def _render(
    library: VoiceLibrary,
    recording: Recording,
    treatment: _Treatment,
    rng: Generator,
    *,
    detune: float = 0.0,
    harmony: tuple[Score, int] | None = None,
) -> FloatArray:
    """Return a phrase as it is sung in this song [shape=(time,), float32], its RMS being _LEVEL where it sounds.

    detune : semitones added
    harmony : another voice, so many steps of the song's scale away
    """
    semitones = treatment.semitones + detune
    sample_rate = library.sample_rate
    if treatment.tape and harmony is None:
        # Played faster, as if it had been recorded at a higher sample rate.
        sung = soxr.resample(library.samples(recording), sample_rate * float(np.exp2(semitones / 12)), sample_rate)
    else:
        utterance = library.utterance(recording)
        n_samples = int(utterance.n_frames * frame_hop(sample_rate) / treatment.pace)
        position = np.arange(1 - (-n_samples // frame_hop(sample_rate))) * treatment.pace
        f0 = utterance.f0[np.minimum(np.rint(position), utterance.n_frames - 1).astype(np.intp)].astype(np.float64)
        f0 *= np.exp2(semitones / 12)
        if harmony is not None:
            f0 = _harmonized(f0, *harmony)
        scale = float(np.exp2(semitones / 12)) if treatment.tape else treatment.formant_scale
        sung = synthesize(utterance, position, f0, np.ones(len(position)), n_samples, rng, formant_scale=scale)
    # What is heard decides, not the pauses.
    heard = np.square(sung[: len(sung) // 1024 * 1024].reshape(-1, 1024)).mean(axis=1) if len(sung) >= 1024 else sung**2
    if len(heard) == 0 or heard.max() < 1e-8:
        return np.zeros(len(sung), np.float32)
    rms = np.sqrt(heard[heard > 0.01 * heard.max()].mean())
    return np.asarray(sung * np.float32(_LEVEL / rms), np.float32)


def _harmonized(f0: NDArray[Any], score: Score, steps: int) -> NDArray[Any]:
    """Return the pitch moved by steps of the song's scale, which are of one or two semitones."""
    from scipy.ndimage import median_filter, uniform_filter1d

    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) == 0:
        return f0
    pitch = 69 + 12 * np.log2(f0[voiced] / 440)
    scale = _SCALES[score.minor]
    ladder = np.array([score.root + 12 * octave + step for octave in range(-1, 13) for step in scale])
    # Vibrato and scoops do not change the note.
    note = median_filter(pitch, 51, mode="nearest")
    nearest = np.abs(note[:, None] - ladder[7:-7]).argmin(axis=1) + 7
    moved = np.array(f0)
    moved[voiced] *= np.exp2(uniform_filter1d((ladder[nearest + steps] - ladder[nearest]).astype(np.float64), 9) / 12)
    return moved


def _add(song: FloatArray, sung: FloatArray, at_s: float, gain: float, pan: float, library: VoiceLibrary) -> None:
    """Add a phrase to `song` in place, as far as it reaches; what would break off fades."""
    start = round(at_s * library.sample_rate)
    kept = sung[: max(0, song.shape[1] - start)]
    angle = np.pi / 4 * (pan + 1)
    if 0 < len(kept) < len(sung):
        kept = kept * np.clip(np.arange(len(kept))[::-1] / (0.03 * library.sample_rate), 0, 1).astype(np.float32)
    for channel, side in enumerate((np.cos(angle), np.sin(angle))):
        song[channel, start : start + len(kept)] += np.float32(np.sqrt(2) * gain * side) * kept
