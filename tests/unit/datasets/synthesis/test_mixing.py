from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unbraid.datasets.synthesis import mastering, mixing, strips
from unbraid.datasets.synthesis.distortion import amplify, crush, saturation_gain, soft_clip, tube, warm
from unbraid.datasets.synthesis.dynamics import (
    HOP,
    at_audio_rate,
    compress,
    duck,
    hop_peaks,
    kick_envelope,
    limiter_curve,
    loudness,
    shape_transients,
)
from unbraid.datasets.synthesis.effects import (
    Band,
    band_limit,
    echo,
    equalise,
    filtered,
    haas,
    high_pass,
    low_pass,
    pan,
    widen,
)
from unbraid.datasets.synthesis.mastering import CEILING, master, maximizer_gain, set_level
from unbraid.datasets.synthesis.mixing import STEMS, mix_song
from unbraid.datasets.synthesis.modulation import auto_pan, chorus, flange, phase_shift, tremolo
from unbraid.datasets.synthesis.rooms import gated_response, network_response, noise_response, reverberate
from unbraid.datasets.synthesis.score import ROLES
from unbraid.errors import UsageError

Array = np.ndarray[Any, Any]
RATE = 44100


def sine(frequency_hz: float, seconds: float = 1.0, peak: float = 0.5) -> Array:
    wave = peak * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


def noise(seconds: float = 1.0, seed: int = 0) -> Array:
    return (0.1 * np.random.default_rng(seed).standard_normal((2, round(seconds * RATE)))).astype(np.float32)


def db(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-12)))


def rms(samples: Array) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def gain_db(effect: Callable[[Array], Array], frequency_hz: float) -> float:
    """Of a sine, once the effect has settled, and before it hears the end."""
    middle = slice(RATE // 2, RATE - 2000)
    wave = sine(frequency_hz, peak=0.1)
    return db(rms(effect(wave)[:, middle]) / rms(wave[:, middle]))


def harmonics_db(samples: Array, frequency_hz: int) -> tuple[Array, float]:
    """Levels of multiples of a whole number of Hz, from the first one on, and of the highest line that is none."""
    spectrum = np.abs(np.fft.rfft(samples[0, -RATE:] * np.kaiser(RATE, 18)))
    levels = 20 * np.log10(np.maximum(spectrum / spectrum[frequency_hz], 1e-12))
    multiples = np.arange(frequency_hz, RATE // 2, frequency_hz)
    between = np.ones(len(levels), bool)
    for at in (0, *multiples):
        between[max(0, at - 12) : at + 13] = False
    return levels[multiples], float(levels[between].max())


ROOM = noise_response(
    np.random.default_rng(0),
    decay_s=0.3,
    high_share=0.5,
    build_up_s=0.0,
    n_early=3,
    pre_delay_s=0.0,
    low_cut_hz=100.0,
    sample_rate=RATE,
)

EFFECTS: dict[str, Callable[[Array], Array]] = {
    "high_pass": lambda x: high_pass(x, cutoff_hz=100.0, order=3, sample_rate=RATE),
    "low_pass": lambda x: low_pass(x, cutoff_hz=3000.0, sample_rate=RATE),
    "equalise": lambda x: equalise(
        x, [Band("peak", 500.0, 5.0, 1.0), Band("low_shelf", 100.0, -3.0)], low_cut_hz=30.0, sample_rate=RATE
    ),
    "band_limit": lambda x: band_limit(x, cutoff_hz=11000.0, sample_rate=RATE),
    "echo": lambda x: echo(
        x,
        delay_s=0.001,
        feedback=0.5,
        wet_db=-6.0,
        low_cut_hz=200.0,
        high_cut_hz=4000.0,
        ping_pong=True,
        sample_rate=RATE,
    ),
    "pan": lambda x: pan(x, position=0.3),
    "widen": lambda x: widen(x, width=1.5),
    "haas": lambda x: haas(x, delay_s=0.01, channel=1, sample_rate=RATE),
    "compress": lambda x: compress(x, threshold_db=-20.0, ratio=4.0, attack_s=0.005, release_s=0.1, sample_rate=RATE),
    "shape_transients": lambda x: shape_transients(x, attack_db=6.0, sustain_db=-6.0, sample_rate=RATE),
    "duck": lambda x: duck(
        x, kick_envelope(x, sample_rate=RATE), depth_db=9.0, attack_s=0.003, release_s=0.1, sample_rate=RATE
    ),
    "soft_clip": lambda x: soft_clip(x, drive_db=12.0, sample_rate=RATE),
    "tube": lambda x: tube(x, drive_db=12.0, asymmetry=0.5, sample_rate=RATE),
    "warm": lambda x: warm(x, drive_db=12.0, share=0.4, sample_rate=RATE),
    "crush": lambda x: crush(x, n_bits=6.0, hold=3),
    "amplify": lambda x: amplify(x, drive_db=24.0, tight_hz=100.0, bite_db=5.0, cabinet_hz=4500.0, sample_rate=RATE),
    "chorus": lambda x: chorus(x, rate_hz=1.0, delay_s=0.01, depth_s=0.003, n_voices=2, wet=0.5, sample_rate=RATE),
    "flange": lambda x: flange(x, rate_hz=0.3, delay_s=0.003, depth_s=0.002, feedback=0.6, wet=0.5, sample_rate=RATE),
    "phase_shift": lambda x: phase_shift(
        x, rate_hz=0.5, centre_hz=800.0, octaves=1.0, n_stages=6, feedback=0.3, sample_rate=RATE
    ),
    "tremolo": lambda x: tremolo(x, rate_hz=5.0, depth=0.6, hardness=2.0, phase=0.1, sample_rate=RATE),
    "auto_pan": lambda x: auto_pan(x, rate_hz=0.7, depth=0.8, phase=0.2, sample_rate=RATE),
    "reverberate": lambda x: reverberate(x[None, None], [ROOM])[0],
}


@pytest.mark.parametrize("name", EFFECTS)
def test_any_effect_leaves_its_input_and_silence_alone_and_takes_any_length(name: str) -> None:
    effect = EFFECTS[name]
    for n in (0, 1, 100, 7000):
        samples = noise()[:, :n]
        before = samples.copy()
        samples.setflags(write=False)
        out = effect(samples)
        assert np.array_equal(samples, before)
        assert out.shape[-2:] == (2, n)
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert not np.shares_memory(out, samples)
        assert np.array_equal(out, effect(samples))
        assert not effect(np.zeros((2, n), np.float32)).any()


def test_bands_have_their_gain_at_their_frequency() -> None:
    for frequency_hz in (60.0, 700.0, 9000.0):
        for wanted_db in (-9.0, 6.0):
            band = Band("peak", frequency_hz, wanted_db, 1.0)
            got_db = gain_db(lambda x, band=band: equalise(x, [band], sample_rate=RATE), frequency_hz)
            assert abs(got_db - wanted_db) < 0.2
    for kind, on_hz, off_hz in (("low_shelf", 40.0, 15000.0), ("high_shelf", 15000.0, 40.0)):
        shelf = [Band(kind, 800.0, 6.0)]
        for frequency_hz, wanted_db in ((on_hz, 6.0), (800.0, 3.0), (off_hz, 0.0)):
            assert abs(gain_db(lambda x, s=shelf: equalise(x, s, sample_rate=RATE), frequency_hz) - wanted_db) < 0.2


def test_a_band_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="must be peak, low_shelf or high_shelf, got 'notch'"):
        equalise(noise(0.01), [Band("notch", 100.0, 3.0)], sample_rate=RATE)


def test_cuts_within_the_equaliser_are_the_filters_alone() -> None:
    both = equalise(noise(0.1), [], low_cut_hz=200.0, low_cut_order=3, high_cut_hz=5000.0, sample_rate=RATE)
    single = high_pass(noise(0.1), cutoff_hz=200.0, order=3, sample_rate=RATE)
    assert np.allclose(both, low_pass(single, cutoff_hz=5000.0, sample_rate=RATE), atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_filters_fall_by_6_db_an_octave_and_order(order: int) -> None:
    def high(x: Array) -> Array:
        return high_pass(x, cutoff_hz=800.0, order=order, sample_rate=RATE)

    def low(x: Array) -> Array:
        return low_pass(x, cutoff_hz=800.0, order=order, sample_rate=RATE)

    assert abs(gain_db(high, 800) + 3.01) < 0.1
    assert abs(gain_db(high, 100) - gain_db(high, 50) - 6.02 * order) < 0.3
    assert abs(gain_db(low, 800) + 3.01) < 0.1
    # The bilinear transform bends the curve towards half the sample rate.
    assert abs(gain_db(low, 1600) - gain_db(low, 3200) - 6.02 * order) < 1.2


def test_filtering_in_blocks_is_filtering_the_whole() -> None:
    from scipy.signal import butter, sosfilt

    sections = butter(3, 500, fs=RATE, output="sos")
    samples = noise(1.2)
    assert np.allclose(filtered(samples, sections), sosfilt(sections, samples.astype(float)), atol=1e-7)


def test_the_tail_of_a_filter_ends_in_silence() -> None:
    samples = np.zeros((2, 3 * RATE), np.float32)
    samples[:, 0] = 1
    out = high_pass(samples, cutoff_hz=100.0, sample_rate=RATE)
    assert out[:, 0].all() and not out[:, RATE:].any()


def test_band_limit_is_steep_and_without_delay() -> None:
    def limited(x: Array) -> Array:
        return band_limit(x, cutoff_hz=11000.0, sample_rate=RATE)

    assert abs(gain_db(limited, 10300)) < 0.1
    assert gain_db(limited, 11700) < -60
    assert np.allclose(limited(sine(1000))[:, 1000:-1000], sine(1000)[:, 1000:-1000], atol=1e-3)
    assert np.array_equal(band_limit(noise(), cutoff_hz=30000.0, sample_rate=RATE), noise())


@pytest.mark.parametrize("ping_pong", [False, True])
def test_echoes_are_at_the_right_sample_and_side(ping_pong: bool) -> None:
    click = np.zeros((2, RATE), np.float32)
    click[:, 10] = 1
    out = echo(
        click,
        delay_s=0.2,
        feedback=0.5,
        wet_db=-6.0,
        low_cut_hz=20.0,
        high_cut_hz=20000.0,
        ping_pong=ping_pong,
        sample_rate=RATE,
    )
    first, second = 10 + 8820, 10 + 2 * 8820
    assert np.array_equal(np.flatnonzero(np.abs(out[0, : second - 1]) > 1e-6), [10, first])
    assert abs(db(out[0, first]) + 6) < 0.1
    assert np.abs(out[1, second - 5 : second + 5]).argmax() == 5
    k = np.tan(np.pi * 20000 / RATE)  # a low-pass of first order gives k / (1 + k) of a click at once
    assert abs(db(abs(out[1, second])) - db(0.25 * k / (1 + k))) < 0.1
    if ping_pong:
        assert not out[1, first - 5 : first + 5].any()
        assert np.abs(out[0, second : second + 100]).max() < 1e-6
    else:
        assert np.array_equal(out[0], out[1])


def test_feedback_falls_from_echo_to_echo() -> None:
    click = np.zeros((2, RATE), np.float32)
    click[:, 0] = 1
    options = {"delay_s": 0.1, "wet_db": 0.0, "low_cut_hz": 100.0, "high_cut_hz": 3000.0, "ping_pong": False}
    out = echo(click, feedback=0.6, sample_rate=RATE, **options)  # type: ignore[arg-type]
    energies = np.square(out[0]).reshape(10, 4410).sum(axis=1)
    # A naive loop, sample by sample, is the same.
    naive = np.zeros(RATE)
    from scipy.signal import butter, sosfilt

    echoes = np.append(np.zeros(4410), click[0])[:RATE].astype(float)
    sections = np.concatenate(
        [butter(1, 100, "highpass", fs=RATE, output="sos"), butter(1, 3000, fs=RATE, output="sos")]
    )
    for _ in range(9):
        naive += echoes
        echoes = 0.6 * np.append(np.zeros(4410), sosfilt(sections, echoes))[:RATE]
    assert np.allclose(out[0] - click[0], naive, atol=1e-6)
    assert (energies[2:] < 0.4 * energies[1:-1]).all()


def test_width_changes_the_side_alone() -> None:
    samples = noise()
    wide = widen(samples, width=1.7)
    assert np.allclose(wide.sum(axis=0), samples.sum(axis=0), atol=1e-6)
    assert np.allclose(wide[0] - wide[1], 1.7 * (samples[0] - samples[1]), atol=1e-6)
    mono = widen(samples, width=0.0)
    assert np.array_equal(mono[0], mono[1])


def test_pan_keeps_power_and_haas_delays_one_side() -> None:
    for position in (-1.0, -0.4, 0.0, 0.7, 1.0):
        panned = pan(sine(440), position=position)
        assert abs(rms(panned) / rms(sine(440)) - 1) < 1e-3
    assert np.abs(pan(sine(440), position=-1.0)[1]).max() < 1e-6
    late = haas(noise(), delay_s=0.01, channel=1, sample_rate=RATE)
    assert np.array_equal(late[0], noise()[0])
    assert np.array_equal(late[1, 441:], noise()[1, :-441]) and not late[1, :441].any()


def test_levels_above_the_threshold_rise_by_a_share() -> None:
    for level_db in (-40.0, -30.0, -20.0, -10.0, 0.0):
        wave = sine(2000.0, peak=10 ** (level_db / 20))
        out = compress(wave, threshold_db=-25, ratio=4, knee_db=0, attack_s=0.01, release_s=0.2, sample_rate=RATE)
        wanted_db = level_db if level_db < -25 else -25 + (level_db + 25) / 4
        assert abs(db(float(np.abs(out[:, RATE // 2 :]).max())) - wanted_db) < 0.2
    # In the middle of the knee, (1 - 1 / ratio) · knee / 8.
    wave = sine(2000.0, peak=10 ** (-25 / 20))
    out = compress(wave, threshold_db=-25, ratio=4, knee_db=12, attack_s=0.01, release_s=0.2, sample_rate=RATE)
    assert abs(db(rms(out[:, RATE // 2 :]) / rms(wave)) + 0.75 * 12 / 8) < 0.1
    parallel = compress(
        sine(2000.0), threshold_db=-40, ratio=20, attack_s=0.01, release_s=0.2, dry=1.0, sample_rate=RATE
    )
    assert np.allclose(parallel, sine(2000.0), atol=1e-6)


def test_attack_and_release_take_their_time() -> None:
    steps = sine(2000.0, 1.5)
    steps[:, : RATE // 2] *= 0.01
    steps[:, RATE:] *= 0.01
    attack_s, release_s = 0.02, 0.15
    options = {"threshold_db": -26.0, "ratio": 4.0, "knee_db": 0.0, "attack_s": attack_s, "release_s": release_s}
    out = compress(steps, sample_rate=RATE, **options)
    reduction_db = -20 * np.log10(np.maximum(hop_peaks(out), 1e-9) / hop_peaks(steps))
    full_db = 0.75 * 20
    hop_s = HOP / RATE
    assert np.abs(reduction_db[: round(0.4999 / hop_s)]).max() < 0.01
    assert abs(reduction_db[round((1 - hop_s) / hop_s)] - full_db) < 0.2
    rising = reduction_db[round(0.5 / hop_s) :]
    assert abs(np.argmax(rising > full_db * (1 - np.exp(-1))) * hop_s / attack_s - 1) < 0.1
    # The slope in the middle of the release: attack, which comes after it, delays but does not change it.
    falling = reduction_db[round(1 / hop_s) :]
    times_s = [np.argmax(falling < full_db * share) * hop_s for share in (0.6, 0.6 * np.exp(-1))]
    assert abs((times_s[1] - times_s[0]) / release_s - 1) < 0.1


def test_transients_get_louder_and_steady_sounds_do_not() -> None:
    hits = np.zeros((2, 2 * RATE), np.float32)
    decay = np.exp(-np.arange(RATE // 2) / RATE / 0.15)
    for start in range(0, 2 * RATE, RATE // 2):
        hits[:, start : start + RATE // 2] = sine(300.0, 0.5) * decay

    def gains_db(attack_db: float, sustain_db: float) -> tuple[float, float]:
        out = shape_transients(hits, attack_db=attack_db, sustain_db=sustain_db, sample_rate=RATE)
        early, late = slice(RATE + 80, RATE + 300), slice(RATE + 12000, RATE + 16000)
        return db(rms(out[:, early]) / rms(hits[:, early])), db(rms(out[:, late]) / rms(hits[:, late]))

    attack_db, sustain_db = gains_db(8.0, 0.0)
    assert attack_db > 3 and abs(sustain_db) < 0.5
    attack_db, sustain_db = gains_db(0.0, -8.0)
    assert abs(attack_db) < 1 and sustain_db < -3
    steady = shape_transients(sine(300.0), attack_db=8.0, sustain_db=-8.0, sample_rate=RATE)[:, RATE // 2 :]
    assert abs(db(rms(steady) / rms(sine(300.0)))) < 0.5


def kicks(seconds: float = 2.0) -> Array:
    """A bass drum on each half second, and a hi-hat, which is as loud, a quarter later."""
    out = np.zeros(round(seconds * RATE))
    t = np.arange(RATE // 5) / RATE
    for start in range(0, len(out) - RATE // 2, RATE // 2):
        out[start : start + len(t)] += np.sin(2 * np.pi * 55 * t) * np.exp(-t / 0.06)
        at = start + RATE // 4
        out[at : at + len(t)] += np.diff(noise()[0, : len(t) + 1] * 5) * np.exp(-t / 0.03)
    return np.stack([out, out]).astype(np.float32)


def test_ducking_follows_the_bass_drum_and_not_the_hat() -> None:
    envelope = kick_envelope(kicks(), sample_rate=RATE)
    out = duck(sine(300.0, 2.0), envelope, depth_db=12.0, attack_s=0.003, release_s=0.08, sample_rate=RATE)
    level_db = 20 * np.log10(hop_peaks(out) / 0.5 + 1e-9)
    for start in (0.5, 1.0):
        kick_db = level_db[round((start + 0.0) * RATE / HOP) : round((start + 0.1) * RATE / HOP)]
        # Peaks of 300 Hz, in hops of 0.4 ms, are seen in windows of 5 ms.
        assert np.lib.stride_tricks.sliding_window_view(kick_db, 14).max(axis=1).min() < -10
    hat_db = level_db[round(0.76 * RATE / HOP) : round(0.98 * RATE / HOP)]
    assert np.lib.stride_tricks.sliding_window_view(hat_db, 14).max(axis=1).min() > -3.0
    assert np.lib.stride_tricks.sliding_window_view(hat_db, 14).max(axis=1)[-1] > -0.6


def test_limiter_keeps_every_sample_below_the_ceiling_and_leaves_soft_ones() -> None:
    samples = noise(2.0)
    samples[:, 20000:20100] *= 20
    samples[:, 60007] = (3.0, -0.1)
    curve = limiter_curve(hop_peaks(samples), ceiling=0.5, lookahead_s=0.003, release_s=0.05, sample_rate=RATE)
    gain = at_audio_rate(curve, samples.shape[1])
    assert np.abs(samples * gain).max() <= 0.5 + 1e-6
    assert np.abs(gain[:15000] - 1).max() < 1e-6
    assert abs(np.abs(samples * gain)[:, 60007].max() - 0.5) < 1e-3
    assert np.abs(np.diff(gain)).max() < 0.02  # no clicks


def test_loudness_does_not_count_pauses() -> None:
    half = sine(440.0, 4.0)
    half[:, 2 * RATE :] = 0
    assert abs(loudness(half, sample_rate=RATE) - 0.5 / np.sqrt(2)) < 1e-3
    assert loudness(np.zeros((2, 100), np.float32), sample_rate=RATE) == 0


def test_harmonics_are_odd_or_even_as_designed_and_alias_little() -> None:
    for frequency_hz in (1000, 3000, 5000):
        wave = sine(frequency_hz, 2.0)
        odd, alias_db = harmonics_db(soft_clip(wave, drive_db=14.0, sample_rate=RATE), frequency_hz)
        assert odd[1] < -80 and odd[3] < -80 and odd[2] > -25
        assert alias_db < -50
        even, alias_db = harmonics_db(warm(wave, drive_db=12.0, share=0.5, sample_rate=RATE), frequency_hz)
        assert even[2] < -80 and even[1] > -30
        assert alias_db < -50
        _, alias_db = harmonics_db(tube(wave, drive_db=14.0, asymmetry=0.5, sample_rate=RATE), frequency_hz)
        assert alias_db < -50
        both, _ = harmonics_db(tube(wave, drive_db=8.0, asymmetry=0.5, sample_rate=RATE), frequency_hz)
        assert both[1] > -35 and both[2] > -35
    # As the channel strips use it: twice is enough for less drive.
    _, alias_db = harmonics_db(soft_clip(sine(5000, 2.0), drive_db=10.0, oversampling=2, sample_rate=RATE), 5000)
    assert alias_db < -50


def test_soft_sounds_keep_their_level_in_saturation() -> None:
    soft = sine(1000, peak=0.001)
    for bent in (
        soft_clip(soft, drive_db=12.0, sample_rate=RATE),
        tube(soft, drive_db=12.0, asymmetry=0.5, sample_rate=RATE),
        warm(soft, drive_db=12.0, share=0.5, sample_rate=RATE),
    ):
        assert np.allclose(bent[:, 1000:-1000], soft[:, 1000:-1000], atol=2e-5)


def test_amplifier_distorts_through_a_loudspeaker() -> None:
    out = amplify(sine(400, 2.0, 0.2), drive_db=12.0, tight_hz=100.0, bite_db=5.0, cabinet_hz=4500.0, sample_rate=RATE)
    levels, alias_db = harmonics_db(out, 400)
    assert levels[1] > -40 and levels[2] > -15
    assert levels[35:].max() < levels[2] - 40  # above 14 kHz
    assert alias_db < -50


def test_crusher_rounds_and_holds() -> None:
    out = crush(sine(50.0), n_bits=4.0, hold=4)
    assert np.allclose(out * 8, np.round(out * 8), atol=1e-6)
    assert np.array_equal(out[:, 0::4], out[:, 3::4])
    assert np.abs(out - sine(50.0)).max() < 0.5 / 8 + 0.02


def test_saturated_mixes_lose_their_peaks_smoothly() -> None:
    mix = sine(100.0)
    gain = saturation_gain(mix, drive_db=6.0, sample_rate=RATE)
    wanted = np.tanh(2 * mix) / np.where(mix == 0, 1, 2 * mix)
    wanted[mix == 0] = 1
    assert np.abs(gain - wanted).max() < 0.01
    torn = saturation_gain(noise() * 10, drive_db=6.0, sample_rate=RATE)
    assert np.abs(np.diff(torn)).max() < 0.1
    assert torn.min() >= 0.35 and torn.max() <= 1


def decay_time_s(response: Array, low_hz: float, high_hz: float) -> float:
    """T60, from the slope between -5 and -30 dB of the energy that is still to come (Schroeder, 1965)."""
    from scipy.signal import butter, sosfiltfilt

    sections = butter(2, (low_hz, high_hz), "bandpass", fs=RATE, output="sos")
    energy = np.square(sosfiltfilt(sections, response, axis=1)).sum(axis=0)[::-1].cumsum()[::-1]
    level_db = 10 * np.log10(energy / energy[0] + 1e-12)
    start, stop = np.argmax(level_db < -5), np.argmax(level_db < -30)
    return float(60 / 25 * (stop - start) / RATE)


@pytest.mark.parametrize("decay_s", [0.4, 1.5])
def test_rooms_decay_in_their_time(decay_s: float) -> None:
    noisy = noise_response(
        np.random.default_rng(3),
        decay_s=decay_s,
        high_share=0.4,
        build_up_s=0.001,
        n_early=5,
        pre_delay_s=0.02,
        low_cut_hz=100.0,
        sample_rate=RATE,
    )
    network = network_response(
        np.random.default_rng(3),
        decay_s=decay_s,
        delays_s=(0.006, 0.02),
        damping_hz=12000.0,
        pre_delay_s=0.02,
        low_cut_hz=100.0,
        sample_rate=RATE,
    )
    assert abs(decay_time_s(noisy, 300, 600) / decay_s - 1) < 0.15
    assert abs(decay_time_s(noisy, 10000, 16000) / (0.4 * decay_s) - 1) < 0.15
    assert abs(decay_time_s(network, 150, 600) / decay_s - 1) < 0.15
    assert decay_time_s(network, 6000, 12000) < 0.8 * decay_s
    for response in (noisy, network):
        assert not response[:, : round(0.02 * RATE)].any()
        assert np.allclose(np.square(response).sum(axis=1), 1, atol=1e-3)
        assert abs(np.corrcoef(response)[0, 1]) < 0.3  # wide


def test_gated_room_breaks_off() -> None:
    response = gated_response(np.random.default_rng(0), length_s=0.3, slope_db=-6.0, low_cut_hz=100.0, sample_rate=RATE)
    assert response.shape == (2, round(0.3 * RATE))
    early, late = rms(response[:, :2000]), rms(response[:, -3000:-1000])
    assert -7 < db(late / early) < -4


def test_rooms_add_up_and_are_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    from unbraid.datasets.synthesis import rooms

    # Small blocks, so that there are many.
    monkeypatch.setattr(rooms, "_N_FFT", 4096)
    sends = np.stack([np.stack([noise(0.4, 4 * i + j) for j in range(2)]) for i in range(2)])
    sends[1, 0] = 0
    responses = [ROOM[:, :3000], ROOM[:, 500:900]]
    wet = reverberate(sends, responses)
    n = sends.shape[3]
    for stem in range(2):
        for channel in range(2):
            naive = sum(
                np.convolve(0.75 * sends[room, stem, channel] + 0.25 * sends[room, stem, 1 - channel], h[channel])[:n]
                for room, h in enumerate(responses)
            )
            assert np.allclose(wet[stem, channel], naive, atol=1e-5)


def test_chorus_is_late_by_what_it_says() -> None:
    click = np.zeros((2, RATE), np.float32)
    click[:, 1000:1001] = 1
    still = chorus(click, rate_hz=0.5, delay_s=0.01, depth_s=0.0, n_voices=1, wet=0.5, sample_rate=RATE)
    assert np.allclose(still[0, [1000, 1441]], 0.5, atol=1e-3)
    assert np.abs(np.delete(still[0], [1000, 1441])).max() < 1e-3
    # A vibrato, where all is wet: the pitch goes up and down by 2 π · rate · depth.
    wave = sine(1000.0, 2.0)
    moved = chorus(wave, rate_hz=1.0, delay_s=0.02, depth_s=0.004, n_voices=1, wet=1.0, sample_rate=RATE)[0]
    spectrum = np.abs(np.fft.rfft(moved * np.hanning(len(moved))))
    frequencies = np.fft.rfftfreq(len(moved), 1 / RATE)
    strong = frequencies[spectrum > 0.05 * spectrum.max()]
    assert abs(strong.max() - 1025) < 6 and abs(strong.min() - 975) < 6


def test_flanger_is_a_comb() -> None:
    def still(x: Array) -> Array:
        return flange(x, rate_hz=0.5, delay_s=0.001, depth_s=0.0, feedback=0.0, wet=0.5, sample_rate=RATE)

    period = 44.1 / RATE
    assert gain_db(still, 0.5 / period) < -30
    assert abs(gain_db(still, 1 / period)) < 0.2


def test_phaser_has_notches_where_its_stages_turn_the_phase_round() -> None:
    def still(x: Array) -> Array:
        return phase_shift(x, rate_hz=0.5, centre_hz=1000.0, octaves=0.0, n_stages=4, feedback=0.0, sample_rate=RATE)

    # 4 · 2 · atan(f / f0) = π, 3 π
    for notch in (1000 * np.tan(np.pi / 8), 1000 * np.tan(3 * np.pi / 8)):
        assert gain_db(still, notch) < -25
    assert abs(gain_db(still, 1000.0)) < 0.2
    assert abs(gain_db(still, 20.0)) < 0.2


def test_tremolo_and_auto_pan_move_the_level() -> None:
    out = tremolo(sine(2000.0, 2.0), rate_hz=4.0, depth=0.5, hardness=0.1, phase=0.0, sample_rate=RATE)
    envelope = hop_peaks(out) / 0.5
    assert abs(envelope.min() - 0.5) < 0.03 and abs(envelope.max() - 1) < 0.03
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    assert abs(np.argmax(spectrum) / 2 - 4) < 0.1
    moved = auto_pan(sine(2000.0, 2.0), rate_hz=1.0, depth=1.0, phase=0.0, sample_rate=RATE)
    assert rms(moved[0, 10000:12000]) < 0.02 * rms(moved[1, 10000:12000])
    assert abs(rms(moved) / rms(sine(2000.0)) - 1) < 0.01
    assert np.allclose(np.square(moved).sum(axis=0), 2 * np.square(sine(2000.0, 2.0)[0]), atol=1e-4)


def song_parts(seconds: float = 1.5, seed: int = 0) -> list[tuple[str, Array]]:
    """Kicks, and chords and noises that come and go, of all roles."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    parts = []
    for i, role in enumerate(ROLES):
        if role in ("drums", "percussion"):
            samples = kicks(seconds + 1)[:, :n] * (1 + i)
        else:
            pitch_hz = 55 * 2 ** (i / 2.5)
            samples = sum(sine(pitch_hz * k, seconds, 0.3 / k) for k in range(1, 6)) + noise(seconds, i)
            samples[:, : int(rng.integers(n // 2))] = 0
        parts.append((role, samples.astype(np.float32)))
    return parts


PARTS = song_parts()


@pytest.mark.parametrize("first_seed", range(0, 40, 10))
def test_mixes_are_finite_not_too_loud_and_loud_enough(first_seed: int) -> None:
    parts = [(role, samples[:, -(RATE // 2) :]) for role, samples in PARTS]
    for seed in range(first_seed, first_seed + 10):
        stems = mix_song(parts, np.random.default_rng(seed), RATE, tempo_bpm=117.0)
        assert tuple(stems) == STEMS
        for samples in stems.values():
            assert samples.shape == (2, RATE // 2) and samples.dtype == np.float32
            assert np.isfinite(samples).all()
            assert rms(samples) > 1e-5
        mix = np.sum(list(stems.values()), axis=0)
        assert np.abs(mix).max() <= CEILING + 1e-4
        assert -28 < db(rms(mix)) < -6.5


def test_mixing_is_reproducible_and_leaves_its_input_alone() -> None:
    before = [samples.copy() for _, samples in PARTS]
    for _, samples in PARTS:
        samples.setflags(write=False)
    first = mix_song(PARTS, np.random.default_rng(5), RATE, tempo_bpm=90.0)
    again = mix_song(PARTS, np.random.default_rng(5), RATE, tempo_bpm=90.0)
    other = mix_song(PARTS, np.random.default_rng(6), RATE, tempo_bpm=90.0)
    for stem in STEMS:
        assert np.array_equal(first[stem], again[stem])
        assert not np.allclose(first[stem], other[stem], atol=1e-3)
    for (_, samples), copy in zip(PARTS, before, strict=True):
        assert np.array_equal(samples, copy)


def test_songs_without_effects_occur_and_are_only_scaled() -> None:
    parts = [(role, samples[:, -8000:]) for role, samples in PARTS if role in ("bass", "piano", "voice")]
    n_dry = 0
    for seed in range(60):
        stems = mix_song(parts, np.random.default_rng(seed), RATE, tempo_bpm=100.0)
        if dry := mixed_dry(parts, stems):
            assert np.abs(np.sum(list(stems.values()), axis=0)).max() <= CEILING
        n_dry += dry
    assert 2 <= n_dry <= 14


def mixed_dry(parts: list[tuple[str, Array]], stems: dict[str, Array]) -> bool:
    """Whether each stem is its only part, but for a factor."""
    correlations = [np.corrcoef(samples.reshape(-1), stems[ROLES[role]].reshape(-1))[0, 1] for role, samples in parts]
    return bool(min(correlations) > 1 - 1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_what_the_master_does_to_stems_it_does_to_their_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stems = np.stack([kicks(1.0), sine(200.0) + 0.3 * noise(1.0, 2), 0.2 * sine(3000.0)])
    together = master(stems, np.random.default_rng(seed), sample_rate=RATE)
    whole = master(stems.sum(axis=0, keepdims=True), np.random.default_rng(seed), sample_rate=RATE)
    assert np.allclose(together.sum(axis=0), whole[0], atol=2e-5)
    # A stem has nothing but what was in it: a sine stays a sine, in the main.
    spectrum = np.square(np.abs(np.fft.rfft(together[2, 0] * np.hanning(RATE))))
    assert spectrum[2600:3400].sum() > 0.97 * spectrum.sum()
    assert np.array_equal(set_level(stems, rng).sum(axis=0).argmax(), stems.sum(axis=0).argmax())


def test_maximizer_reaches_the_loudness_where_it_can() -> None:
    mix = noise(2.0) + kicks(2.0)
    peak_db = db(float(np.abs(mix).max()))
    # Of the last one no more is reached than with 14 dB of limiting.
    for target_db in (-30.0, -16.0, -12.0, -3.0):
        gain = maximizer_gain(
            mix, loudness=10 ** (target_db / 20), ceiling=0.9, lookahead_s=0.003, release_s=0.05, sample_rate=RATE
        )
        out = mix * gain
        assert np.abs(out).max() <= 0.9 + 1e-5
        if target_db == -3:
            assert abs(db(float(gain.max())) + peak_db - db(0.9) - 14) < 0.1
        else:
            assert abs(db(rms(out)) - target_db) < 0.1
    silent = np.zeros((2, 1000), np.float32)
    options = {"loudness": 0.1, "ceiling": 0.9, "lookahead_s": 0.003, "release_s": 0.05}
    assert (maximizer_gain(silent, sample_rate=RATE, **options) == 1).all()
    click = silent.copy()
    click[:, 500] = 0.01
    assert np.abs(click * maximizer_gain(click, sample_rate=RATE, **options)).max() <= 0.9 + 1e-5


@pytest.mark.parametrize("n", [0, 1, 100])
def test_the_shortest_songs_are_mixed(n: int) -> None:
    for seed in range(4):
        parts = [(role, noise()[:, :n]) for role in ROLES]
        stems = mix_song(parts, np.random.default_rng(seed), RATE, tempo_bpm=120.0)
        assert all(samples.shape == (2, n) and np.isfinite(samples).all() for samples in stems.values())


def test_silence_stays_silence_and_only_stems_with_parts_are_given() -> None:
    silent = np.zeros((2, 20000), np.float32)
    for seed in range(12):
        parts = [("bass", silent), ("lead", noise()[:, :20000])]
        stems = mix_song(parts, np.random.default_rng(seed), RATE, tempo_bpm=120.0)
        assert tuple(stems) == ("bass", "other")
        assert np.abs(stems["bass"]).max() < 1e-9 and rms(stems["other"]) > 0.01
        nothing = mix_song([("pad", silent), ("drums", silent)], np.random.default_rng(seed), RATE, tempo_bpm=120.0)
        assert np.abs(np.stack(list(nothing.values()))).max() == 0
    assert mix_song([], np.random.default_rng(0), RATE, tempo_bpm=120.0) == {}


@pytest.mark.parametrize(
    ("parts", "tempo_bpm", "message"),
    [
        ([("kazoo", np.zeros((2, 9), np.float32))], 120.0, "role must be one of drums, .*, got 'kazoo'"),
        ([("bass", np.zeros((1, 9), np.float32))], 120.0, r"must be of shape \(2, time\), got \(1, 9\) for bass"),
        ([("bass", np.zeros((2, n), np.float32)) for n in (9, 8)], 120.0, "equal length, got 8, 9 samples"),
        ([("bass", np.zeros((2, 9), np.float32))], 0.0, "tempo_bpm must be above 0, got 0.0"),
    ],
)
def test_senseless_parts_are_refused(parts: list[tuple[str, Array]], tempo_bpm: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mix_song(parts, np.random.default_rng(0), RATE, tempo_bpm=tempo_bpm)


def test_habits_are_there_for_all_roles_and_all_effects_are_used() -> None:
    assert set(strips.HABITS) == set(ROLES)
    used = {name for habits in strips.HABITS.values() for name in habits.effects}
    assert used == set(strips._EFFECTS)
    assert sum(share for _, share in mixing._DUCKED) < 1


@pytest.mark.parametrize("name", sorted(strips._EFFECTS))
def test_effects_as_drawn_change_the_sound_and_stay_in_reach(name: str) -> None:
    samples = strips.levelled(PARTS[5][1][:, -20000:], 0.1, sample_rate=RATE)
    for seed in range(5):
        out = strips._EFFECTS[name](samples, np.random.default_rng(seed), RATE, 120.0)
        assert out.shape == samples.shape and np.isfinite(out).all()
        assert not np.allclose(out, samples, atol=1e-3)
        assert 0.005 < rms(out) < 1


def test_some_masters_are_band_limited() -> None:
    stems = np.stack([noise(1.0, 0), noise(1.0, 1)])
    shares = []
    for seed in range(24):
        power = np.square(np.abs(np.fft.rfft(master(stems, np.random.default_rng(seed), sample_rate=RATE).sum(axis=0))))
        shares.append(float(power[:, 19800:].sum() / power.sum()))
    assert 2 <= np.sum(np.array(shares) < 1e-5) <= 14
    assert len(mastering.BAND_LIMITS_HZ) == 4
