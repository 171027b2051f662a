"""A singer: takes syllables that were spoken, or invented, and sings them to the notes of a part.

Consonants keep their length and stand before the note; vowels begin with the note and are stretched to its end. The
pitch is the notes', with what singers do to it: glides, scoops, vibrato that sets in late, drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.score import Note
from unbraid.datasets.synthesis.syllables import LONGEST_ONSET_S, Material, Syllable
from unbraid.datasets.synthesis.vocoder import FRAME_S, Utterance, frame_hop, synthesize
from unbraid.datatypes import FloatArray

__all__ = ["Manner", "draw_manner", "sing", "sing_line"]

_LEVEL = 0.1  # RMS of a vowel sung at full velocity
_TRANSITION_S = 0.04  # at either end of a vowel, where it changes from or to a consonant: not stretched
_MOST_STRETCH = 8  # of a vowel, where there is a choice
_MOST_RENDERINGS = 12  # of a choir, all voices of its chords together


@dataclass(frozen=True)
class Manner:
    """How it is sung.

    octave : added to the octave that suits the voice, or None to sing exactly what is written
    formant_scale : size of the mouth; above 1 for a smaller one
    glide_s : how long a change of note takes
    scoop_semitones, scoop_chance : how far below a phrase may begin
    vibrato_hz, vibrato_cents, vibrato_delay_s : depth to either side; when it sets in
    drift_cents : standard deviation of slow wandering
    late_s : standard deviation of when a note begins
    breath : see `synthesize`
    melisma : chance that a note is sung on the vowel of the one before
    breathing : how loud breath is drawn, relative to the voice
    n_voices : sing together; `detune_cents` and `delay_s` (standard deviations) apart, from −width to width in stereo
    """

    octave: int | None = 0
    formant_scale: float = 1.0
    glide_s: float = 0.06
    scoop_semitones: float = 1.0
    scoop_chance: float = 0.3
    vibrato_hz: float = 5.5
    vibrato_cents: float = 30.0
    vibrato_delay_s: float = 0.25
    drift_cents: float = 8.0
    late_s: float = 0.01
    breath: float = 0.0
    melisma: float = 0.15
    breathing: float = 0.05
    n_voices: int = 1
    detune_cents: float = 8.0
    delay_s: float = 0.015
    width: float = 0.1


def draw_manner(rng: Generator) -> Manner:
    """Draw a singer's habits: alone, doubled or a choir; some breathy, some tuned by machine."""
    n_voices = int(rng.choice([1, 2, 3, int(rng.integers(4, 11))], p=[0.55, 0.2, 0.1, 0.15]))
    manner = Manner(
        octave=int(rng.choice([-1, 0, 1], p=[0.08, 0.84, 0.08])),
        formant_scale=float(np.clip(np.exp2(rng.normal(0, 0.13)), 0.8, 1.25)),
        glide_s=float(rng.uniform(0.03, 0.14)),
        scoop_semitones=float(rng.uniform(0.5, 3)),
        scoop_chance=float(rng.uniform(0, 0.7)),
        vibrato_hz=float(rng.uniform(5, 6.5)),
        vibrato_cents=float(rng.choice([rng.uniform(0, 20), rng.uniform(15, 50)])),
        vibrato_delay_s=float(rng.uniform(0.1, 0.5)),
        drift_cents=float(rng.uniform(3, 14)),
        late_s=float(rng.uniform(0, 0.02)),
        breath=float(rng.choice([0.0, rng.uniform(-0.8, 0), rng.uniform(0, 0.35), 0.6], p=[0.4, 0.25, 0.3, 0.05])),
        melisma=float(rng.choice([0.0, rng.uniform(0, 0.4), 0.8], p=[0.4, 0.5, 0.1])),
        breathing=float(rng.choice([0.0, rng.uniform(0.02, 0.25)])),
        n_voices=n_voices,
        detune_cents=float(rng.uniform(3, 16)),
        delay_s=float(rng.uniform(0.003, 0.025)),
        width=float(rng.uniform(0, 0.15) if n_voices == 1 else rng.uniform(0.2, 1)),
    )
    if rng.random() < 0.12:  # pitch corrected hard
        return replace(manner, glide_s=0.0, scoop_chance=0.0, vibrato_cents=0.0, drift_cents=0.0)
    return manner


def sing(material: Material, manner: Manner, notes: tuple[Note, ...], n_samples: int, rng: Generator) -> FloatArray:
    """Sing notes, those that sound together by several voices.

    Returns an ndarray [shape=(2, n_samples), float32], a vowel's RMS being 0.1 at full velocity for one voice.
    """
    mixed = np.zeros((2, n_samples), np.float32)
    lines = _lines(notes, n_samples / material.utterance.sample_rate)
    if not lines or not material.syllables:
        return mixed
    octaves = _octaves(material, manner, notes)
    n_voices = max(1, min(manner.n_voices, _MOST_RENDERINGS // len(lines)))
    for line in lines:
        first = int(rng.integers(len(material.syllables)))
        for voice in range(n_voices):
            place = manner.width * (2 * voice / (n_voices - 1) - 1 if n_voices > 1 else rng.uniform(-1, 1))
            apart = replace(manner, late_s=manner.late_s + manner.delay_s) if n_voices > 1 else manner
            if n_voices > 2:
                scale = manner.formant_scale * float(np.exp2(rng.normal(0, 0.06)))
                apart = replace(apart, formant_scale=scale, vibrato_hz=manner.vibrato_hz * float(rng.uniform(0.9, 1.1)))
            transpose = 12 * octaves + (float(rng.normal(0, manner.detune_cents)) / 100 if n_voices > 1 else 0.0)
            sung = sing_line(material, apart, line, n_samples, rng, transpose=transpose, first_syllable=first)
            angle = np.pi / 4 * (place + 1)
            mixed[0] += np.float32(np.cos(angle) / np.sqrt(n_voices)) * sung
            mixed[1] += np.float32(np.sin(angle) / np.sqrt(n_voices)) * sung
    return mixed * np.float32(np.sqrt(2))


def _octaves(material: Material, manner: Manner, notes: tuple[Note, ...]) -> int:
    """Return by how many octaves the notes are moved to suit the voice."""
    if manner.octave is None:
        return 0
    return manner.octave + round((material.centre - float(np.median([note.pitch for note in notes]))) / 12)


def _lines(notes: tuple[Note, ...], length_s: float) -> list[list[Note]]:
    """Share notes among as many voices as sound together, each note to the voice that is nearest in pitch and free."""
    lines: list[list[Note]] = []
    for note in sorted(notes, key=lambda note: (note.start_s, note.pitch)):
        if not 0 <= note.start_s < length_s or note.duration_s <= 0:
            continue
        # Notes may overlap a little where they are played legato.
        free = [line for line in lines if line[-1].start_s + 0.7 * line[-1].duration_s <= note.start_s]
        if free:
            min(free, key=lambda line: abs(line[-1].pitch - note.pitch)).append(note)
        else:
            lines.append([note])
    return lines


class _Sung(NamedTuple):
    """A syllable and the notes that it is sung to; times in seconds."""

    syllable: Syllable
    onset_s: float  # consonants begin
    start_s: float  # the vowel begins
    end_s: float  # all ends
    notes: list[Note]
    after_rest: bool


def sing_line(
    material: Material,
    manner: Manner,
    notes: list[Note],
    n_samples: int,
    rng: Generator,
    *,
    transpose: float = 0.0,
    first_syllable: int = 0,
) -> FloatArray:
    """Sing notes one after the other.

    notes : by their beginning; one ends where the next begins, at the latest
    transpose : semitones added to all of them
    first_syllable : of the material, to begin with

    Returns an ndarray [shape=(n_samples,), float32].
    """
    sample_rate = material.utterance.sample_rate
    hop = frame_hop(sample_rate)
    time_s = np.arange(1 - (-n_samples // hop)) * (hop / sample_rate)
    words = _set_to_notes(material, manner, notes, first_syllable, rng)
    position, gain = _timing(material.utterance, words, time_s, rng)
    pitch = _pitch(manner, words, time_s, rng) + transpose
    source = np.clip(np.rint(position), 0, material.utterance.n_frames - 1).astype(np.intp)
    f0 = np.where(material.utterance.f0[source] > 0, 440 * np.exp2((pitch - 69) / 12), 0.0)
    sung = synthesize(
        material.utterance,
        position,
        np.minimum(f0, 0.2 * sample_rate),
        gain,
        n_samples,
        rng,
        formant_scale=manner.formant_scale,
        breath=manner.breath,
    )
    if manner.breathing > 0:
        _draw_breath(sung, words, manner.breathing, sample_rate, rng)
    return sung


def _set_to_notes(
    material: Material, manner: Manner, notes: list[Note], first_syllable: int, rng: Generator
) -> list[_Sung]:
    """Give each note a syllable, or the vowel of the note before, and room for its consonants before it."""
    groups: list[list[Note]] = []
    end_s = -1.0
    for note in notes:
        late = float(rng.normal(0, manner.late_s))
        start_s = max(0.0, note.start_s + late, groups[-1][-1].start_s + 0.02 if groups else 0.0)
        moved = replace(note, start_s=start_s, duration_s=max(0.05, note.start_s + note.duration_s - start_s))
        if groups and note.start_s - end_s < 0.03 and rng.random() < manner.melisma:
            groups[-1].append(moved)
        else:
            groups.append([moved])
        end_s = note.start_s + note.duration_s
    words: list[_Sung] = []
    step = 0
    for index, group in enumerate(groups):
        # Words come in order, but songs repeat and leave out.
        step += 1 if rng.random() < 0.93 else int(rng.integers(len(material.syllables)))
        end_s = group[-1].start_s + group[-1].duration_s
        start_s = group[0].start_s
        # Long notes want long vowels, as far as there are some soon.
        ahead = [material.syllables[(first_syllable + step + i) % len(material.syllables)] for i in range(4)]
        lengths_s = [(each.vowel_end - each.vowel_start) * FRAME_S for each in ahead]
        skipped = next(
            (i for i in range(4) if _MOST_STRETCH * lengths_s[i] >= end_s - start_s), int(np.argmax(lengths_s))
        )
        step, syllable = step + skipped, ahead[skipped]
        previous_s = words[-1].end_s if words else 0.0
        spoken_s = min((syllable.vowel_start - syllable.start) * FRAME_S, LONGEST_ONSET_S)
        # Where there is no rest, the consonants take up to a third of the note before.
        last_s = words[-1].notes[-1].start_s if words else 0.0
        room_s = start_s - (last_s + 2 * (previous_s - last_s) / 3)
        onset_s = start_s - max(0.0, min(spoken_s, room_s))
        if words and previous_s > onset_s:
            words[-1] = words[-1]._replace(end_s=max(onset_s, last_s + 0.02))
        if index + 1 < len(groups):
            end_s = min(end_s, groups[index + 1][0].start_s)
        words.append(_Sung(syllable, onset_s, start_s, end_s, group, start_s - previous_s > 0.5 or not words))
    return words


def _timing(
    utterance: Utterance, words: list[_Sung], time_s: NDArray[Any], rng: Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return which frame of the utterance sounds when, and how loud: two arrays of the shape of `time_s`."""
    position, gain = np.zeros(len(time_s)), np.zeros(len(time_s))
    power = np.exp(utterance.log_power.astype(np.float32)).mean(axis=1)
    for word in words:
        first, last = np.searchsorted(time_s, (word.onset_s, word.end_s))
        if first >= last:
            continue
        syllable, here = word.syllable, time_s[first:last]
        vowel_s = word.end_s - word.start_s
        coda_s = min((syllable.end - syllable.vowel_end) * FRAME_S, 0.3 * vowel_s)
        edge_s = min(_TRANSITION_S, (vowel_s - coda_s) / 4)
        edge = min(_TRANSITION_S / FRAME_S, (syllable.vowel_end - syllable.vowel_start) / 3)
        onset = min((word.start_s - word.onset_s) / FRAME_S, syllable.vowel_start - syllable.start)
        turns_s = np.cumsum([word.onset_s, word.start_s - word.onset_s, edge_s, vowel_s - coda_s - 2 * edge_s, edge_s])
        vowel = (syllable.vowel_start, syllable.vowel_start + edge, syllable.vowel_end - edge, syllable.vowel_end - 1)
        coda = syllable.vowel_end - 1 + coda_s / FRAME_S
        frames = np.interp(here, [*turns_s, word.end_s], [vowel[0] - onset, *vowel, coda])
        # A vowel that is stood upon does not stand still.
        held = (frames > vowel[1]) & (frames < vowel[2])
        wander = _wander(len(here), 0.08, rng) * min(2.0, edge / 2)
        position[first:last] = np.where(held, np.clip(frames + wander, vowel[1], vowel[2]), frames)
        core = float(power[syllable.vowel_start : syllable.vowel_end].mean())
        age, left = here - word.onset_s, word.end_s - here
        shape = np.clip(age / 0.012, 0, 1) * np.clip(left / min(0.06, 0.3 * vowel_s), 0, 1)
        swell = rng.uniform(0, 0.3) * np.sin(np.pi * np.clip((here - word.start_s) / max(vowel_s, 0.1), 0, 1))
        velocity = np.interp(here, [note.start_s for note in word.notes], [note.velocity for note in word.notes])
        gain[first:last] = _LEVEL * (0.2 + 0.8 * velocity) * shape * (1 + swell) / np.sqrt(core + 1e-12)
    return position, gain


def _wander(n_frames: int, width_s: float, rng: Generator) -> NDArray[Any]:
    """Return noise of unit variance, smoothed over `width_s` [shape=(n_frames,)]."""
    from scipy.ndimage import gaussian_filter1d

    width = width_s / FRAME_S
    # The variance of noise smoothed by a Gaussian of this width.
    scale = np.sqrt(2 * np.sqrt(np.pi) * width)
    return np.asarray(gaussian_filter1d(rng.standard_normal(n_frames), width, mode="wrap") * scale)


def _pitch(manner: Manner, words: list[_Sung], time_s: NDArray[Any], rng: Generator) -> NDArray[Any]:
    """Return the pitch at each time, a MIDI number [shape of time_s]."""
    from scipy.ndimage import uniform_filter1d

    # A word's consonants are at its first note's pitch already.
    starts = np.array([word.onset_s if i == 0 else note.start_s for word in words for i, note in enumerate(word.notes)])
    played = [note for word in words for note in word.notes]
    index = np.maximum(np.searchsorted(starts, time_s, side="right") - 1, 0)
    pitches = np.array([note.pitch for note in played], np.float64)
    glide = max(1, round(manner.glide_s / FRAME_S))
    # Twice, for a glide without corners.
    pitch = uniform_filter1d(uniform_filter1d(pitches[index], glide, mode="nearest"), glide, mode="nearest")
    age = time_s - np.array([note.start_s for note in played])[index]
    swing = np.clip((age - manner.vibrato_delay_s) / 0.3, 0, 1) * manner.vibrato_cents / 100
    cycles = manner.vibrato_hz * time_s + 0.3 * _wander(len(time_s), 0.4, rng)
    pitch += swing * np.sin(2 * np.pi * cycles) + manner.drift_cents / 100 * _wander(len(time_s), 0.15, rng)
    for word in words:
        if word.after_rest and rng.random() < manner.scoop_chance:
            first, last = np.searchsorted(time_s, (word.onset_s, word.end_s))
            since = np.maximum(time_s[first:last] - word.start_s, 0)
            pitch[first:last] -= manner.scoop_semitones * np.exp(-since / 0.045)
    return np.asarray(pitch)


def _draw_breath(sung: FloatArray, words: list[_Sung], level: float, sample_rate: int, rng: Generator) -> None:
    """Add to `sung` in place the breath drawn before a phrase: noise as of an open mouth."""
    from scipy.signal import butter, sosfilt

    low_hz, high_hz = rng.uniform(700, 1500), min(rng.uniform(4000, 8000), 0.45 * sample_rate)
    sections = butter(1, (low_hz, high_hz), "bandpass", fs=sample_rate, output="sos")
    for word in words:
        length = round(rng.uniform(0.2, 0.45) * sample_rate)
        end = round((word.onset_s - rng.uniform(0.02, 0.1)) * sample_rate)
        if not word.after_rest or end < length or end > len(sung) or rng.random() < 0.2:
            continue
        rise = np.linspace(0, 1, length) ** 1.5 * np.clip((length - np.arange(length)) / (0.06 * sample_rate), 0, 1)
        noise = sosfilt(sections, rng.standard_normal(length)) * rise
        sung[end - length : end] += (noise * (level * _LEVEL / max(float(noise.std()), 1e-9))).astype(np.float32)
