from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from unbraid.datasets.synthesis.clock import Clock, at_audio_rate, smoothed
from unbraid.datasets.synthesis.decays import ringing
from unbraid.datasets.synthesis.drum_machine import drum_machine
from unbraid.datasets.synthesis.motion import Amplifier, Chorus, Gate, RotatingSpeaker, Tremolo
from unbraid.datasets.synthesis.oscillators import Pitch, Wave
from unbraid.datasets.synthesis.players import Envelope, Monophonic, Polyphonic
from unbraid.datasets.synthesis.score import Note
from unbraid.datasets.synthesis.sweeps import Sweep, softened, swept
from unbraid.datasets.synthesis.synthesizers import synthesizer
from unbraid.datasets.synthesis.tones import AnalogTone, FmTone, Modulator, Stack
from unbraid.errors import UsageError

ROLES = ("bass", "piano", "guitar", "organ", "pad", "strings", "brass", "lead", "arpeggio")
Array = np.ndarray[Any, Any]


def play(role: str, seed: int, *notes: Note, seconds: float = 2.0, sample_rate: int = 22050) -> Array:
    player = synthesizer(role, default_rng(seed))
    return player(notes, round(seconds * sample_rate), sample_rate, default_rng(seed + 1))


def hz_of(pitch: float) -> float:
    return float(440 * 2 ** ((pitch - 69) / 12))


def pitch_of(role: str, seed: int) -> int:
    return (36 if role == "bass" else 57) + 5 * (seed % 4)


def power_of(samples: Array) -> Array:
    windowed = samples * np.blackman(samples.shape[-1])
    return np.square(np.abs(np.fft.rfft(windowed, axis=-1))).reshape(-1, samples.shape[-1] // 2 + 1).sum(axis=0)


def share(samples: Array, sample_rate: int, low_hz: float, high_hz: float) -> float:
    power = np.square(np.abs(np.fft.rfft(samples, axis=-1))).sum(axis=0)
    frequency = np.fft.rfftfreq(samples.shape[-1], 1 / sample_rate)
    return float(power[(frequency >= low_hz) & (frequency < high_hz)].sum() / power.sum())


def off_grid_db(samples: Array, f0: float, sample_rate: int, width_hz: float = 4.0) -> float:
    """Power of what is no harmonic, relative to all."""
    power = power_of(samples)
    frequency = np.fft.rfftfreq(samples.shape[-1], 1 / sample_rate)
    away_hz = np.abs(frequency - f0 * np.maximum(np.round(frequency / f0), 1))
    return float(10 * np.log10(power[away_hz > width_hz].sum() / power.sum()))


def tuning(samples: Array, f0: float, sample_rate: int) -> tuple[float, float]:
    """Return how far, in cents, the power near f0's harmonics lies from them, and what share it is of all."""
    power = power_of(samples)
    frequency = np.fft.rfftfreq(samples.shape[-1], 1 / sample_rate)
    number = np.maximum(np.round(frequency / f0), 1)
    cents = 1200 * np.log2(np.maximum(frequency, 1) / (number * f0))
    near = (np.abs(cents) < 40) & (number <= 16) & (frequency < 0.45 * sample_rate)
    # Wide enough for a unison, and for the main lobe of the window.
    return float((power * cents)[near].sum() / power[near].sum()), float(power[near].sum() / power.sum())


@pytest.mark.parametrize("role", ROLES)
def test_notes_are_in_tune(role: str) -> None:
    for seed in range(6):
        pitch = pitch_of(role, seed)
        samples = play(role, seed, Note(0.0, 1.6, pitch))
        # The longest pipes and drawbars of an organ sound an octave lower.
        lowest = pitch - 12 if role == "organ" else pitch
        away_cents, near = tuning(samples[:, 2200:33000], hz_of(lowest), 22050)
        assert abs(away_cents) < 10, seed
        assert near > 0.7, seed


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_a_note_begins_in_time_ends_and_has_its_level(role: str, sample_rate: int) -> None:
    for seed in range(6):
        pitch = pitch_of(role, seed)
        samples = play(role, seed, Note(0.25, 0.5, pitch), seconds=3.0, sample_rate=sample_rate)
        assert samples.shape == (2, 3 * sample_rate)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        level = np.abs(samples).max(axis=0)
        assert 0.3 < level.max() < 0.9, seed
        loud = np.flatnonzero(level > 1e-3 * level.max())
        assert -0.003 < loud[0] / sample_rate - 0.25 < 0.01, seed
        assert level[: round(0.247 * sample_rate)].max() < 1e-4
        assert loud[-1] / sample_rate < 2.35, seed
        assert level[round(2.6 * sample_rate) :].max() < 1e-4, seed


@pytest.mark.parametrize("role", ROLES)
def test_louder_is_louder(role: str) -> None:
    for seed in range(4):
        levels = [
            np.square(play(role, seed, Note(0.1, 0.5, pitch_of(role, seed), velocity))).sum()
            for velocity in (0.3, 0.6, 1)
        ]
        # An amplifier that clips levels out the steps between; the whole way is louder everywhere.
        if role not in ("guitar", "lead"):
            assert levels[0] < levels[1] < levels[2], seed
        assert levels[0] < levels[2], seed


@pytest.mark.parametrize("role", ROLES)
def test_same_seed_same_bits_and_other_seeds_other_instruments(role: str) -> None:
    note = Note(0.1, 0.3, pitch_of(role, 0), 0.9)
    first = play(role, 3, note, seconds=0.6)
    assert np.array_equal(first, play(role, 3, note, seconds=0.6))
    spectra = [np.sqrt(power_of(play(role, seed, note, seconds=0.6))) for seed in range(6)]
    likeness = np.corrcoef(spectra)[np.triu_indices(6, 1)]
    assert np.median(likeness) < 0.97


@pytest.mark.parametrize("role", ROLES)
def test_parts_of_any_shape(role: str) -> None:
    assert not play(role, 0).any()
    beyond = Note(5.0, 1.0, 60)
    assert not play(role, 0, beyond, seconds=0.5).any()
    notes = (Note(-0.2, 0.5, 48, 0.5), Note(0.3, 0.0, 60), Note(0.3, 9.0, 64), Note(0.35, 0.01, 100, 0.0))
    assert np.isfinite(play(role, 1, *notes, sample_rate=8000)).all()


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(UsageError, match="no synthesizer plays 'drums'; there are bass"):
        synthesizer("drums", default_rng(0))


@pytest.mark.parametrize("shape", ["saw", "pulse", "triangle", "sine"])
@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_oscillators_do_not_alias(shape: str, sample_rate: int) -> None:
    for f0 in (41.2, 219.3, 1661.2, 3001.7):
        sound = np.zeros((1, sample_rate), np.float32)
        Wave(shape, width=0.3).add_to(sound, Pitch(f0, ((0, sample_rate, f0),)), 0.0, sample_rate, default_rng(0))
        assert off_grid_db(sound, f0, sample_rate) < -50


def test_a_saw_has_a_saws_harmonics() -> None:
    sound = np.zeros((1, 44100), np.float32)
    Wave("saw").add_to(sound, Pitch(441.0, ((0, 44100, 441.0),)), 0.0, 44100, default_rng(0))
    harmonics = np.abs(np.fft.rfft(sound[0]))[441 * np.arange(1, 21)]
    assert np.allclose(harmonics / harmonics[0], 1 / np.arange(1, 21), atol=1e-3)


def test_a_moving_pitch_is_followed() -> None:
    hz = np.linspace(300, 600, 44100, dtype=np.float32)
    sound = np.zeros((1, 44100), np.float32)
    Wave("sine").add_to(sound, Pitch(hz, ((0, 44100, 600.0),)), 0.0, 44100, default_rng(0))
    rising = np.flatnonzero((sound[0, :-1] < 0) & (sound[0, 1:] >= 0))
    assert np.allclose(44100 / np.diff(rising), hz[rising[:-1]], rtol=0.02)


@pytest.mark.parametrize("n_samples", [0, 1, 31, 32, 33, 1000])
def test_curves_are_straight_between_their_points(n_samples: int) -> None:
    clock = Clock(8000, n_samples)
    time_s = clock.control_seconds()
    curve = default_rng(0).standard_normal(len(time_s))
    expected = np.interp(np.arange(n_samples) / 8000, time_s, curve)
    np.testing.assert_allclose(at_audio_rate(clock, curve), expected, atol=1e-6)


def test_smoothing_turns_a_step_into_a_ramp_of_its_width() -> None:
    clock = Clock(8000, 8000)
    time_s = clock.control_seconds()
    found = smoothed(clock, time_s >= 0.5, 0.2)
    np.testing.assert_allclose(found, np.clip((time_s - 0.4) / 0.2, 0, 1), atol=0.03)  # half a point, of 50


def test_fm_stays_in_its_band() -> None:
    tone = FmTone((Stack(1.0, 1.0, (Modulator(3.0, 9.0, decay_s=50, sustain=1.0),)),))
    sound = tone(1500.3, 1.0, 44100, 44100, default_rng(0))
    assert off_grid_db(sound, 1500.3, 44100) < -40


def test_soft_clipping_folds_little_and_stays_within_one() -> None:
    sine = (0.6 * np.sin(2 * np.pi * 3001.7 * np.arange(44100) / 44100)).astype(np.float32)
    clipped = softened(sine, 30.0)
    assert np.abs(clipped).max() < 1
    plain = 30 * sine / np.sqrt(1 + np.square(30 * sine))
    assert off_grid_db(clipped, 3001.7, 44100) < off_grid_db(plain, 3001.7, 44100) - 6
    assert np.corrcoef(clipped, plain)[0, 1] > 0.9  # it comes half a sample later


@pytest.mark.parametrize("kind", ["low12", "low24", "band", "high"])
def test_a_filter_that_stays_has_the_analogue_response(kind: str) -> None:
    sweep = Sweep(kind, resonance=0.3)
    time_s = np.arange(44100) / 44100
    q, feedback = 0.6 * 18**0.3, 3.7 * 0.3
    for hz in (200.0, 900.0, 1000.0, 2500.0):
        s = 1j * hz / 1000
        low = 1 / (s**2 + s / q + 1)
        expected = {
            "low12": low,
            "band": low * s / q,
            "high": low * s**2,
            "low24": (1 + 0.5 * feedback) / ((1 + s) ** 4 + feedback),
        }[kind]
        sine = np.sin(2 * np.pi * hz * time_s).astype(np.float32)[None]
        heard = swept(sine, np.full(40, 1000.0), sweep, 44100)[0, 10000:30000]
        found = 2 * np.mean(heard * np.exp(-2j * np.pi * hz * time_s[10000:30000])) * 1j
        # Cutoffs are rounded to a 24th of an octave.
        assert abs(found - expected) < 0.06 * max(abs(expected), 0.3)


def test_a_filter_follows_its_cutoff() -> None:
    noise = default_rng(0).standard_normal((1, 44100)).astype(np.float32)
    filtered = swept(noise, np.repeat([300.0, 6000.0], 700), Sweep("low24"), 44100)
    assert share(filtered[:, :21000], 44100, 2000, 22050) < 0.01
    assert share(filtered[:, 23000:], 44100, 2000, 22050) > 0.4


def test_ringing_equals_its_formula() -> None:
    hz, amplitude, decay_s = np.array([100.0, 333.3, 1234.5]), np.array([1.0, 0.5, 0.2]), np.array([0.5, 0.2, 0.05])
    time_s = np.arange(5000)[:, None] / 8000
    expected = (amplitude * np.exp(-time_s / decay_s) * np.sin(2 * np.pi * hz * time_s + 0.3)).sum(axis=1)
    assert np.allclose(ringing(hz, amplitude, decay_s, 5000, 8000, phase=0.3), expected, atol=1e-4)


def test_notes_end_without_a_click() -> None:
    tone = AnalogTone((Wave("sine"),), Sweep(cutoff_hz=10000))
    for player in (Polyphonic(tone, Envelope(release_s=0.0)), Monophonic(tone, Envelope(release_s=0.0))):
        samples = player((Note(0.1, 0.3, 45), Note(0.4, 0.303, 45)), 44100, 44100, default_rng(0))
        # A sine of 110 Hz that stopped dead would leave a step of up to its peak.
        assert np.abs(np.diff(samples[0])).max() < 0.03


def test_a_line_glides_and_cuts_the_note_before() -> None:
    tone = AnalogTone((Wave("sine"),), Sweep(cutoff_hz=10000))
    player = Monophonic(tone, Envelope(), glide_s=0.05, legato=True)
    notes = (Note(0.0, 0.6, 57), Note(0.5, 0.5, 69))
    samples = player(notes, 44100, 44100, default_rng(0))
    assert tuning(samples[:, 30000:40000], 440.0, 44100)[0] == pytest.approx(0, abs=5)
    assert share(samples[:, 30000:40000], 44100, 190, 250) < 0.01
    rising = np.flatnonzero((samples[0, :-1] < 0) & (samples[0, 1:] >= 0))
    hz = np.interp(0.55, rising[1:] / 44100, 44100 / np.diff(rising))
    assert hz == pytest.approx(440 * 2 ** -np.exp(-1), rel=0.03)


def test_repeated_notes_vary_a_little() -> None:
    player = synthesizer("guitar", default_rng(1))
    samples = player(tuple(Note(0.5 * i, 0.3, 52) for i in range(8)), 4 * 22050, 22050, default_rng(0))
    notes = {note.tobytes() for note in samples.reshape(2, 8, 11025).transpose(1, 0, 2)}
    assert len(notes) > 1


def test_effects_do_what_their_names_say() -> None:
    time_s = np.arange(44100) / 44100
    sine = np.tile((0.5 * np.sin(2 * np.pi * 441 * time_s)).astype(np.float32), (2, 1))
    before = sine.copy()
    envelope = np.abs(Tremolo(4.0, 0.8, True)(sine, 0.1, 44100, default_rng(0))).reshape(2, 100, 441).max(axis=-1)
    assert np.abs(np.fft.rfft(envelope[0] - envelope[0].mean())).argmax() == 4
    assert np.corrcoef(envelope)[0, 1] < -0.99
    gated = np.abs(Gate((True, False), 1.0)(sine, 0.1, 44100, default_rng(0))).reshape(2, 10, 4410)[0, :, 1000:3000]
    assert (gated.max(axis=-1) > 0.4).tolist() == [True, False] * 5
    for effect in (Chorus(2, 0.5, 0.006, 0.001, 1.0), RotatingSpeaker(0.7, 6.0, 0.4, 1.0)):
        wide = effect(sine, 0.1, 44100, default_rng(0))
        assert np.abs(wide[0] - wide[1]).max() > 0.05
        assert abs(tuning(wide, 441.0, 44100)[0]) < 10
    driven = Amplifier(20.0, 90, 5000, 2000, 0.5)(sine, 0.1, 44100, default_rng(0))
    assert -60 < 10 * np.log10(share(driven, 44100, 1300, 1350)) < -3
    assert off_grid_db(driven[:, 4410:], 441.0, 44100) < -45
    assert np.array_equal(sine, before)


def hit(seed: int, number: int, velocity: float = 1.0, sample_rate: int = 44100, seconds: float = 1.0) -> Array:
    kit = drum_machine(default_rng(seed))
    return kit((Note(0.1, 0.05, number, velocity),), round(seconds * sample_rate), sample_rate, default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_drums_are_where_they_belong(seed: int) -> None:
    for number in (35, 36):
        assert share(hit(seed, number), 44100, 0, 200) > 0.7
    for number in (42, 44, 46):
        assert share(hit(seed, number), 44100, 4000, 22050) > 0.9
    toms = [power_of(hit(seed, number)).argmax() for number in (41, 45, 50)]
    assert toms[0] < toms[1] < toms[2]
    lengths = [np.flatnonzero(np.abs(hit(seed, number)).max(axis=0) > 0.02)[-1] for number in (42, 46, 49)]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("sample_rate", [8000, 48000])
def test_every_drum_sounds_in_time_and_at_its_level(sample_rate: int) -> None:
    kit = drum_machine(default_rng(1))
    for number in range(30, 90):
        samples = kit((Note(0.05, 0.05, number),), sample_rate // 2, sample_rate, default_rng(2))
        level = np.abs(samples).max(axis=0)
        assert np.isfinite(samples).all()
        assert samples.dtype == np.float32
        assert 0.3 < level.max() < 0.9, number
        loud = np.flatnonzero(level > 0.01 * level.max())
        assert 0 <= loud[0] / sample_rate - 0.05 < 0.01, number
        assert not level[: round(0.05 * sample_rate)].any()


def test_a_closed_hat_ends_an_open_one() -> None:
    for seed in range(4):
        kit = drum_machine(default_rng(seed))
        open_hat, closed_hat = Note(0.0, 0.1, 46), Note(0.1, 0.1, 42, 0.05)
        free = kit((open_hat,), 44100, 44100, default_rng(0))
        choked = kit((open_hat, closed_hat), 44100, 44100, default_rng(0))
        assert np.abs(free[:, 4900:8000]).max() > 0.02
        assert np.square(choked[:, 4900:8000]).sum() < 0.2 * np.square(free[:, 4900:8000]).sum()


def test_velocity_changes_a_drums_level_and_timbre() -> None:
    for seed in range(4):
        for number in (36, 38, 42, 49):
            soft, hard = hit(seed, number, 0.4), hit(seed, number, 1.0)
            assert np.square(soft).sum() < 0.5 * np.square(hard).sum()
            shapes = [np.sqrt(power_of(sound)) for sound in (soft, hard)]
            assert np.corrcoef(shapes)[0, 1] < 0.9999


def test_kits_are_reproducible_and_differ() -> None:
    notes = tuple(Note(0.1 * i, 0.1, number) for i, number in enumerate((36, 42, 38, 46, 49, 75, 36)))
    played = [drum_machine(default_rng(seed))(notes, 44100, 44100, default_rng(9)) for seed in (5, 5, 6)]
    assert np.array_equal(played[0], played[1])
    assert np.abs(played[0] - played[2]).max() > 0.1
    bars = default_rng(0)
    hits = drum_machine(bars)(tuple(Note(0.5 * i, 0.1, 38) for i in range(8)), 4 * 44100, 44100, bars)
    assert len({sound.tobytes() for sound in hits.reshape(2, 8, 22050).transpose(1, 0, 2)}) > 1
