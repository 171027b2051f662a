"""Songs with true stems, made of numbers: tempo, key, chords, drums, bass, keyboards and a sung voice.

For demonstrations, tests, pictures and as additional training material: no recording, no licence, any amount of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.random import Generator

from unbraid.datasets.sounds import (
    Clock,
    Note,
    add_hit,
    at_audio_rate,
    band,
    curves,
    note_at,
    panned,
    room,
    smoothed,
    through_formants,
    tone,
)
from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = ["STEMS", "synthesize_song"]

STEMS = ("vocals", "drums", "bass", "other")

_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 10)

# Degrees of the scale, one chord a bar.
_PROGRESSIONS = {
    _MAJOR: ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4), (1, 4, 0, 0), (0, 2, 3, 4)),
    _MINOR: ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 3, 0, 4), (5, 6, 0, 0), (0, 2, 6, 3)),
}

# Sixteenths of a bar: kick, snare, closed hat; a digit is the velocity in ninths.
_BEATS = (
    ("9...9...9...9...", "....9.......9...", "..7...7...7...7."),
    ("9.......9.6.....", "....9.......9...", "8.5.8.5.8.5.8.5."),
    ("9..6..9.....6...", "....9..3.3..9...", "8.4.7.4.8.4.7.47"),
    ("9.....6.6.9.....", "........9.......", "7.4.7.4.7.4.745."),
)
_FILL = ("9.......9.......", "4.4.6.5.79679899", "9...............")

# Eighths of a bar: step of the chord (root, third, fifth, octave) or rest.
_BASS_LINES = ("rrrrrrrr", "r..r..r.", "r.o.r.o.", "r.rfr.of", "r...f...", "r..rr.tf")
_ARPEGGIOS = ("rtfotfrt", "rtfo", "oftr", "rfto", "r.tf.to.")
_STEPS = {"r": (0, 0), "t": (2, 0), "f": (4, 0), "o": (0, 12)}  # scale steps above the root, semitones

# Formants of sung vowels in Hz (Peterson & Barney, JASA 24, 1952, men; the fourth and fifth at the usual place).
_VOWELS = {
    "a": (730, 1090, 2440, 3400, 4500),
    "e": (530, 1840, 2480, 3500, 4500),
    "i": (270, 2290, 3010, 3600, 4500),
    "o": (570, 840, 2410, 3300, 4500),
    "u": (300, 870, 2240, 3300, 4500),
}


@dataclass(frozen=True)
class _Song:
    """What all players share."""

    clock: Clock
    bar_s: float
    n_bars: int
    swing: float  # how late every second sixteenth is, in sixteenths
    root: int  # MIDI number of the key's note, in the octave from 48
    scale: tuple[int, ...]
    chords: tuple[int, ...]  # degree of the scale, one for each bar

    def pitch(self, degree: int) -> int:
        """MIDI number of a degree of the scale, counted on over the octaves."""
        octave, step = divmod(degree, len(self.scale))
        return self.root + 12 * octave + self.scale[step]

    def time_of(self, bar: int, sixteenth: float) -> float:
        """Seconds at which a sixteenth of a bar sounds."""
        late = self.swing if sixteenth % 2 == 1 else 0.0
        return (bar + (sixteenth + late) / 16) * self.bar_s


def synthesize_song(seconds: float = 30.0, *, seed: int = 0, sample_rate: int = 44100) -> dict[str, FloatArray]:
    """Make up a song and return its stems; the mix is their sum.

    seconds : length; `round(seconds · sample_rate)` samples
    seed : the same seed gives the same song, another one another song
    sample_rate : in Hz, ≥ 8000

    Returns {"vocals", "drums", "bass", "other"}, each an ndarray [shape=(2, time), float32]; their sum stays below 0.9.
    Raises UsageError for a length or sample rate that makes no sense.
    """
    if not (isfinite(seconds) and seconds >= 0):
        raise UsageError(f"seconds must be >= 0, got {seconds}")
    if sample_rate < 8000:
        raise UsageError(f"sample_rate must be >= 8000 Hz, got {sample_rate}")
    n_samples = round(seconds * sample_rate)
    if n_samples == 0:
        return {stem: np.zeros((2, 0), np.float32) for stem in STEMS}
    composer, *players = np.random.default_rng(seed).spawn(1 + len(STEMS))
    song = _compose(composer, n_samples, sample_rate)
    play = {"vocals": _sing, "drums": _drum, "bass": _play_bass, "other": _play_keyboards}
    # Levels of a plain rock or pop mix, in dB; each is moved by up to 2 dB.
    levels_db = {"vocals": -19.0, "drums": -18.0, "bass": -19.0, "other": -21.0}
    stems: dict[str, FloatArray] = {}
    for stem, player in zip(STEMS, players, strict=True):
        samples = play[stem](song, player)
        rms = float(np.sqrt(np.mean(np.square(samples))))
        level = 10 ** ((levels_db[stem] + composer.uniform(-2, 2)) / 20)
        stems[stem] = samples * np.float32(level / max(rms, 1e-6))
    peak = float(np.abs(sum(stems.values())).max(initial=1e-6))
    gain = np.float32(composer.uniform(0.6, 0.88) / peak)
    return {stem: samples * gain for stem, samples in stems.items()}


def _compose(rng: Generator, n_samples: int, sample_rate: int) -> _Song:
    """Choose tempo, key and chords."""
    bar_s = 4 * 60 / rng.uniform(84, 138)
    scale = _MAJOR if rng.random() < 0.5 else _MINOR
    n_bars = int(n_samples / sample_rate / bar_s) + 1
    verse, chorus = rng.choice(np.array(_PROGRESSIONS[scale]), 2, replace=False).tolist()
    chords = [(verse if bar % 16 < 8 else chorus)[bar % 4] for bar in range(n_bars)]
    swing = rng.choice([0.0, 0.0, 0.15, 0.3])
    root = 48 + int(rng.integers(-6, 6))
    return _Song(Clock(sample_rate, n_samples), bar_s, n_bars, float(swing), root, scale, tuple(chords))


def _drum(song: _Song, rng: Generator) -> FloatArray:
    """Kick, snare, hats and crash by a pattern, with a fill at the end of every fourth bar."""
    kit = {
        "kick": (_kick(song, rng), 1.0, 0.0),
        "snare": (_snare(song, rng), 0.8, rng.uniform(-0.15, 0.15)),
        "hat": (_noise_hit(song, rng, rng.uniform(0.03, 0.07), 7000), 0.35, rng.uniform(-0.5, 0.5)),
        "crash": (_noise_hit(song, rng, rng.uniform(0.5, 0.9), 4000), 0.45, rng.uniform(-0.6, 0.6)),
    }
    tracks = {name: np.zeros(song.clock.n_samples, np.float32) for name in kit}
    beat = _BEATS[rng.integers(len(_BEATS))]
    for bar in range(song.n_bars):
        fill = bar % 4 == 3 and rng.random() < 0.7
        for name, pattern, filled in zip(("kick", "snare", "hat"), beat, _FILL, strict=True):
            for sixteenth, velocity in enumerate(pattern[:12] + filled[12:] if fill else pattern):
                if velocity != ".":
                    at_s = song.time_of(bar, sixteenth) + max(0.0, rng.normal(0, 0.003))
                    add_hit(song.clock, tracks[name], kit[name][0], at_s, int(velocity) / 9 * rng.uniform(0.8, 1.0))
        if bar % 8 == 0:
            add_hit(song.clock, tracks["crash"], kit["crash"][0], song.time_of(bar, 0), 1.0)
    mixed = np.zeros((2, song.clock.n_samples), np.float32)
    for name, (_, gain, pan) in kit.items():
        mixed += panned(tracks[name] * np.float32(gain), pan)
    return mixed


def _kick(song: _Song, rng: Generator) -> FloatArray:
    """A sine whose pitch falls, with a click."""
    t = song.clock.seconds(0.4)
    low_hz, high_hz = rng.uniform(42, 58), rng.uniform(120, 220)
    sweep_s = rng.uniform(0.02, 0.04)
    cycles = low_hz * t - high_hz * sweep_s * np.expm1(-t / sweep_s)
    body = np.sin(2 * np.pi * cycles) * np.exp(-t / rng.uniform(0.08, 0.16)) * (1 - t / 0.4)
    click = rng.standard_normal(len(t)) * np.exp(-t / 0.002) * 0.2
    return (body + click).astype(np.float32)


def _snare(song: _Song, rng: Generator) -> FloatArray:
    """Two modes of the skin, and noise for the wires."""
    t = song.clock.seconds(0.3)
    tone_hz = rng.uniform(160, 220)
    skin = (np.sin(2 * np.pi * tone_hz * t) + 0.6 * np.sin(2 * np.pi * 1.6 * tone_hz * t)) * np.exp(-t / 0.05)
    wires = band(song.clock, rng.standard_normal(len(t)), 1200, 9000) * np.exp(-t / rng.uniform(0.06, 0.11))
    return ((0.5 * skin + wires) * (1 - t / 0.3)).astype(np.float32)


def _noise_hit(song: _Song, rng: Generator, decay_s: float, low_hz: float) -> FloatArray:
    """Metal: high noise that dies away."""
    t = song.clock.seconds(5 * decay_s)
    return (band(song.clock, rng.standard_normal(len(t)), low_hz, 16000) * np.exp(-t / decay_s)).astype(np.float32)


def _play_bass(song: _Song, rng: Generator) -> FloatArray:
    """Saw with a falling filter, one note at a time, on the roots, fifths and octaves of the chords."""
    line = _BASS_LINES[rng.integers(len(_BASS_LINES))]
    notes = []
    for bar, chord in enumerate(song.chords):
        for eighth, step in enumerate(line):
            if step != ".":
                degrees, semitones = _STEPS[step]
                # Roots from 26 (37 Hz) to 37 (69 Hz).
                root = (song.pitch(chord) - 26) % 12 + 26
                pitch = root + song.pitch(chord + degrees) - song.pitch(chord) + semitones
                length = song.bar_s / 8 * rng.uniform(0.7, 1.0) * (2 if line[(eighth + 1) % 8] == "." else 1)
                notes.append(Note(song.time_of(bar, 2 * eighth), length, pitch, rng.uniform(0.75, 1.0)))
    f0, age, envelope = curves(song.clock, notes, attack_s=0.006, decay_s=rng.uniform(0.4, 1.5), release_s=0.04)
    cutoff = rng.uniform(70, 120) + rng.uniform(60, 260) * np.exp(-age / rng.uniform(0.05, 0.2))
    return panned(tone(song.clock, f0, cutoff, rng) * at_audio_rate(song.clock, envelope), rng.uniform(-0.05, 0.05))


def _play_keyboards(song: _Song, rng: Generator) -> FloatArray:
    """Chords held by a wide pad, and broken by a plucked sound."""
    pad_cutoff, detune = rng.uniform(400, 1000), rng.uniform(1.001, 1.004)
    mixed = np.zeros((2, song.clock.n_samples), np.float32)
    for voice in range(3):
        notes = [
            Note(song.time_of(bar, 0), song.bar_s, (song.pitch(chord + 2 * voice) - 53) % 12 + 53)
            for bar, chord in enumerate(song.chords)
        ]
        f0, _, envelope = curves(song.clock, notes, attack_s=rng.uniform(0.02, 0.2), decay_s=8.0, release_s=0.08)
        gain = at_audio_rate(song.clock, 0.5 * envelope)
        for channel, ratio in enumerate((detune, 1 / detune)):
            mixed[channel] += gain * tone(song.clock, f0 * np.float32(ratio), pad_cutoff, rng)
    arpeggio, octave = _ARPEGGIOS[rng.integers(len(_ARPEGGIOS))], 12 * int(rng.integers(1, 3))
    n_steps = int(rng.choice([8, 16]))
    plucked = []
    for bar, chord in enumerate(song.chords):
        for i in range(n_steps):
            step = arpeggio[i % len(arpeggio)]
            if step != ".":
                degrees, semitones = _STEPS[step]
                pitch = song.pitch(chord + degrees) + semitones + octave
                start_s = song.time_of(bar, 16 / n_steps * i)
                plucked.append(Note(start_s, song.bar_s / n_steps, pitch, rng.uniform(0.6, 1.0)))
    f0, age, envelope = curves(song.clock, plucked, attack_s=0.004, decay_s=rng.uniform(0.1, 0.4), release_s=0.02)
    cutoff = 300 + rng.uniform(800, 2500) * np.exp(-age / rng.uniform(0.06, 0.2))
    mixed += panned(tone(song.clock, f0, cutoff, rng) * at_audio_rate(song.clock, envelope), rng.uniform(-0.6, 0.6))
    return mixed + np.float32(0.15) * room(song.clock, mixed.mean(axis=0), rng)


def _sing(song: _Song, rng: Generator) -> FloatArray:
    """A voice: glottal pulses with vibrato through the formants of vowels, consonants, breath, a room."""
    female = rng.random() < 0.5
    notes = _melody(song, rng, centre=67 if female else 56)
    f0, age, envelope = curves(song.clock, notes, attack_s=0.05, decay_s=6.0, release_s=0.09, glide_s=0.07)
    time_s = song.clock.control_seconds()
    rate_hz, depth = rng.uniform(4.8, 6.2), rng.uniform(0.15, 0.45)
    vibrato = depth * np.clip(age / 0.4 - 0.5, 0, 1) * np.sin(2 * np.pi * rate_hz * time_s + rng.uniform(0, 6))
    drift = smoothed(song.clock, rng.standard_normal(len(time_s)), 0.05)
    f0 *= np.exp2((vibrato + 0.1 * drift / max(float(drift.std()), 1e-9)) / 12).astype(np.float32)
    breath = rng.standard_normal(song.clock.n_samples, np.float32) * np.float32(rng.uniform(0.005, 0.02))
    source = (tone(song.clock, f0, rng.uniform(1500, 2600), rng) + breath) * at_audio_rate(song.clock, envelope)

    vowels = rng.permutation(list(_VOWELS))[:4]
    sung = rng.integers(len(vowels), size=len(notes))[note_at(song.clock, notes)]
    voiced = np.zeros(song.clock.n_samples, np.float32)
    for i, vowel in enumerate(vowels):
        formants_hz = [frequency_hz * (1.17 if female else 1.0) for frequency_hz in _VOWELS[vowel]]
        share = at_audio_rate(song.clock, smoothed(song.clock, sung == i, 0.06))
        voiced += share * through_formants(song.clock, source, formants_hz)
    voiced /= np.float32(max(float(np.abs(voiced).max(initial=0.0)), 1e-9))
    for note in notes:
        kind = rng.integers(4)
        if kind < 3:
            length_s, low_hz, high_hz = ((0.09, 5000, 10000), (0.02, 2500, 8000), (0.06, 1500, 7000))[kind]
            hit = band(song.clock, rng.standard_normal(len(song.clock.seconds(length_s))), low_hz, high_hz)
            hit *= np.hanning(len(hit) + 2)[1:-1] * rng.uniform(0.05, 0.15)
            add_hit(song.clock, voiced, hit.astype(np.float32), note.start_s - 0.6 * length_s, note.velocity)
    return panned(voiced, rng.uniform(-0.08, 0.08)) + np.float32(rng.uniform(0.08, 0.25)) * room(
        song.clock, voiced, rng
    )


def _melody(song: _Song, rng: Generator, *, centre: int) -> list[Note]:
    """Phrases of almost two bars that walk along the scale and rest on notes of the chord."""
    degree = min(range(-7, 22), key=lambda degree: abs(song.pitch(degree) - centre))
    low, high = degree - 5, degree + 6
    rhythms = ((4, 4, 4, 4), (2, 2, 4, 2, 2, 4), (6, 2, 4, 4), (3, 3, 2, 4, 4), (8, 4, 4), (2, 2, 2, 2, 8))
    notes = []
    for bar in range(song.n_bars):
        rest_from = 16 if bar % 2 == 0 else int(rng.choice([8, 12]))
        if bar % 8 == 7 and song.n_bars > 8:
            continue  # the band alone
        sixteenth = 0
        for length in rhythms[rng.integers(len(rhythms))]:
            if sixteenth >= rest_from:
                break
            degree = int(np.clip(degree + rng.choice([-2, -1, -1, 0, 1, 1, 2]), low, high))
            if length >= 4:
                degree = min(
                    (degree, degree - 1, degree + 1), key=lambda d: (d - song.chords[bar]) % 7 not in (0, 2, 4)
                )
            duration_s = length / 16 * song.bar_s * rng.uniform(0.85, 1.0)
            notes.append(Note(song.time_of(bar, sixteenth), duration_s, song.pitch(degree), rng.uniform(0.7, 1.0)))
            sixteenth += length
    return notes
