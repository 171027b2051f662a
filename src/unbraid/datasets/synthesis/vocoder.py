"""A voice taken apart into pitch, envelope and noise, and put together again at another pitch, pace and size.

Analysis is that of WORLD, simplified: the envelope is CheapTrick's (Morise, "CheapTrick, a spectral envelope estimator
for high-quality speech synthesis", Speech Communication 67, 2015), and how noisy a band is follows from how much of it
comes again after one period. Synthesis adds the minimum-phase responses of glottal pulses, and noise filtered alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.pitch_track import track_pitch
from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.errors import UsageError

__all__ = ["FRAME_S", "Utterance", "analyze", "frame_hop", "response_length", "synthesize"]

FRAME_S = 0.005
_EDGES_HZ = (0, 1000, 2000, 4000, 8000)  # bands of noise begin here
_UNVOICED_F0_HZ = 500.0  # sets window and smoothing where there is no pitch (Morise 2015)
_LIFTER = (1.18, -0.09)  # q0, q1 of Morise 2015
_SILENCE = 1e-12  # power, −120 dB
_BLOCK = 256  # frames at a time
_N_DELAYS = 64  # fractions of a sample at which a pulse may begin
_LEAD = 16  # samples before a pulse: the ringing of its fraction of a sample


@dataclass(frozen=True, eq=False)
class Utterance:
    """A voice in frames, one each `frame_hop(sample_rate)` samples.

    f0 : ndarray [shape=(frame,), float32], in Hz; 0 where unvoiced
    log_power : ndarray [shape=(frame, response_length(sample_rate) // 2 + 1), float16], natural logarithm of the power
        spectral density, so that white noise of power p has log p everywhere
    noisiness : ndarray [shape=(frame, 5), float16], share of a band's power that is noise: 0 to 1; the bands begin
        at 0, 1, 2, 4 and 8 kHz
    """

    f0: FloatArray
    log_power: NDArray[np.float16]
    noisiness: NDArray[np.float16]
    sample_rate: int

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        return len(self.f0)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.f0.nbytes + self.log_power.nbytes + self.noisiness.nbytes


def frame_hop(sample_rate: int) -> int:
    """Samples from frame to frame, about FRAME_S."""
    return max(1, round(FRAME_S * sample_rate))


def response_length(sample_rate: int) -> int:
    """Samples of a pulse's response: the power of two near 23 ms."""
    return int(2 ** round(np.log2(0.0232 * sample_rate)))


def analyze(samples: FloatArray, sample_rate: int, *, low_hz: float = 65.0, high_hz: float = 800.0) -> Utterance:
    """Take a voice apart.

    samples : ndarray [shape=(time,), float32], mono
    low_hz, high_hz : range of its pitch

    Returns an Utterance of 1 + time // frame_hop(sample_rate) frames.
    """
    hop, n_fft = frame_hop(sample_rate), 2 * response_length(sample_rate)
    n_frames = 1 + len(samples) // hop
    f0 = track_pitch(samples, sample_rate, n_frames, hop, low_hz=low_hz, high_hz=high_hz)
    padded = np.pad(samples.astype(np.float32), (n_fft, n_fft + hop))
    log_power = np.empty((n_frames, n_fft // 4 + 1), np.float16)
    noisiness = np.ones((n_frames, len(_EDGES_HZ)), np.float16)
    for begin in range(0, n_frames, _BLOCK):
        frames = np.arange(begin, min(begin + _BLOCK, n_frames))
        log_power[frames] = _envelopes(padded, n_fft + frames * hop, f0[frames], sample_rate, n_fft)
        voiced = frames[f0[frames] > 0]
        if len(voiced):
            noisiness[voiced] = _noise_shares(padded, n_fft + voiced * hop, f0[voiced], sample_rate, n_fft // 2)
    return Utterance(f0, log_power, noisiness, sample_rate)


def _windowed(
    padded: FloatArray, centres: NDArray[np.intp], half_width: NDArray[Any], n_fft: int
) -> tuple[FloatArray, NDArray[Any]]:
    """Return Hann-windowed segments around `centres`, means removed, and the windows: two arrays (frame, n_fft)."""
    segments = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[centres - n_fft // 2]
    offsets = np.arange(-(n_fft // 2), n_fft // 2, dtype=np.float32)
    inside = np.minimum(np.abs(offsets) / half_width[:, None].astype(np.float32), 1)
    window = np.float32(0.5) + np.float32(0.5) * np.cos(np.float32(np.pi) * inside)
    mean = (segments * window).sum(axis=1) / window.sum(axis=1)
    return (segments - mean[:, None]) * window, window


def _envelopes(
    padded: FloatArray, centres: NDArray[np.intp], f0: FloatArray, sample_rate: int, n_fft: int
) -> NDArray[Any]:
    """Return log power between the harmonics as on them: (frame, n_fft // 4 + 1)."""
    from scipy.fft import irfft, rfft

    # The window is three periods long and must fit.
    f0 = np.maximum(np.where(f0 > 0, f0, np.float32(_UNVOICED_F0_HZ)), np.float32(3 * sample_rate / n_fft))
    segments, window = _windowed(padded, centres, 1.5 * sample_rate / f0, n_fft)
    power = np.square(np.abs(rfft(segments))) / np.square(window).sum(axis=1, keepdims=True)
    f0_bins = f0 * (n_fft / sample_rate)
    _fill_below_f0(power, f0_bins)

    # Moving average over 2/3 f0, from differences of the integral; the spectrum is mirrored at its ends.
    margin = int(f0_bins.max() / 3) + 2
    mirrored = np.pad(power.astype(np.float64), ((0, 0), (margin, margin)), mode="reflect")
    integral = np.pad(np.cumsum(mirrored, axis=1), ((0, 0), (1, 0)))
    middle = np.arange(power.shape[1]) + margin + 0.5
    half = f0_bins[:, None].astype(np.float64) / 3
    averaged = (_at(integral, middle + half) - _at(integral, middle - half)) / (2 * half)
    cepstrum = irfft(np.log(np.maximum(averaged, _SILENCE)).astype(np.float32))

    quefrency = np.minimum(np.arange(n_fft), n_fft - np.arange(n_fft)) / np.float32(sample_rate)
    turns = f0[:, None] * quefrency.astype(np.float32)
    q0, q1 = _LIFTER
    cepstrum *= np.sinc(turns) * (q0 + 2 * q1 * np.cos(2 * np.pi * turns))
    return np.asarray(rfft(cepstrum).real[:, ::2])


def _fill_below_f0(power: NDArray[Any], f0_bins: NDArray[Any]) -> None:
    """Add to what lies below the first harmonic, in place, what lies as far above 0: there is no harmonic at 0."""
    n_bins = int(f0_bins.max()) + 1
    bins = np.arange(n_bins)
    reflected = f0_bins[:, None] - bins
    power[:, :n_bins] += np.where(reflected >= 0, _at(power, np.maximum(reflected, 0)), 0)


def _at(rows: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """Return each row between its entries, at its own fractional places."""
    whole = np.minimum(places.astype(np.intp), rows.shape[1] - 2)
    low = np.take_along_axis(rows, whole, axis=1)
    return np.asarray(low + (places - whole) * (np.take_along_axis(rows, whole + 1, axis=1) - low))


def _noise_shares(
    padded: FloatArray, centres: NDArray[np.intp], f0: FloatArray, sample_rate: int, n_fft: int
) -> NDArray[Any]:
    """Return the share of noise in each band: (frame, band).

    A tone of power P in noise of power N correlates with itself one period later by P / (P + N). A band's phase may
    turn meanwhile, as it does when the period is not exactly known: hence the magnitude of the complex correlation.
    """
    from scipy.fft import rfft

    period = sample_rate / f0
    earlier = centres - np.rint(period / 2).astype(np.intp)
    half_width = np.minimum(period, n_fft / 2)
    first, second = (
        rfft(_windowed(padded, at, half_width, n_fft)[0]) for at in (earlier, earlier + np.rint(period).astype(np.intp))
    )
    edges = [min(round(edge * n_fft / sample_rate), n_fft // 2) for edge in _EDGES_HZ]
    common = np.abs(np.add.reduceat(first * np.conj(second), edges, axis=1))
    powers = [np.add.reduceat(np.square(np.abs(part)), edges, axis=1) for part in (first, second)]
    share = np.clip(1 - common / (np.sqrt(powers[0] * powers[1]) + _SILENCE), 0, 1)
    # Glides and jitter count as noise above, too. The square brings the spectra of what is put together again nearest
    # to the recordings' (of exponents 1, 1.5, 2 and 3, on a few phrases) and the shares near those of WORLD's D4C.
    return np.asarray(share * share)


def synthesize(
    utterance: Utterance,
    position: NDArray[Any],
    f0: NDArray[Any],
    gain: NDArray[Any],
    n_samples: int,
    rng: Generator,
    *,
    formant_scale: float = 1.0,
    breath: float = 0.0,
) -> FloatArray:
    """Put a voice together again.

    position : ndarray [shape=(1 + ceil(n_samples / hop),)], at samples 0, hop, 2 · hop, …: the frame of `utterance`
        that sounds there, fractions allowed
    f0 : ndarray of the same shape, its pitch in Hz; 0 for unvoiced
    gain : ndarray of the same shape, factor; nothing is computed where it is 0
    n_samples : length of the result
    formant_scale : all formants are moved by this factor
    breath : noise instead of tone: 1 whispers, −1 leaves tone only where there is any

    Returns an ndarray [shape=(n_samples,), float32]. Raises UsageError for arrays of another shape.
    """
    hop, n_fft = frame_hop(utterance.sample_rate), response_length(utterance.sample_rate)
    n_frames = 1 - (-n_samples // hop)
    if not len(position) == len(f0) == len(gain) == n_frames:
        raise UsageError(f"{n_samples} samples need {n_frames} frames, got {len(position)}, {len(f0)}, {len(gain)}")
    base = _LEAD + hop  # where sample 0 is
    sound = np.zeros(base + (n_frames + 1) * hop + n_fft, np.float32)
    pulses, phase = _pulses(f0, hop, utterance.sample_rate)
    nearest = np.minimum(np.rint(pulses / hop).astype(np.intp), n_frames - 1)
    kept = (f0[nearest] > 0) & (gain[nearest] > 0)
    pulses, nearest = pulses[kept], nearest[kept]
    loudness = np.interp(pulses, np.arange(n_frames) * hop, gain) * np.sqrt(utterance.sample_rate / f0[nearest])
    noise = rng.standard_normal(len(phase), np.float32)
    # A voice's noise comes in the rhythm of its pulses.
    noise *= 1 + np.repeat(np.where(f0 > 0, np.float32(0.5), np.float32(0)), hop) * np.cos(2 * np.pi * phase)
    noise = np.concatenate([np.zeros(hop, np.float32), noise])
    for begin in range(0, n_frames, _BLOCK):
        frames = begin + np.flatnonzero(gain[begin : begin + _BLOCK] > 0)
        if len(frames) == 0:
            continue
        response, share = _responses(utterance, position[frames], f0[frames] > 0, formant_scale, breath)
        weighted = response * np.sqrt(share) * gain[frames, None].astype(np.float32)
        _add_noise(sound[_LEAD:], noise, frames * hop, weighted, hop)
        here = slice(*np.searchsorted(nearest, (begin, begin + _BLOCK)))
        weighted = (response * np.sqrt(1 - share))[np.searchsorted(frames, nearest[here])]
        _add_pulses(sound[hop:], pulses[here], loudness[here], weighted)
    return sound[base : base + n_samples]


def _pulses(f0: NDArray[Any], hop: int, sample_rate: int) -> tuple[NDArray[Any], FloatArray]:
    """Return where pulses begin, in samples, and the turns of every sample up to whole ones [shape=(frame · hop,)]."""
    n_samples = len(f0) * hop
    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) == 0:
        return np.zeros(0), np.zeros(n_samples, np.float32)
    each = np.interp(np.arange(n_samples) / hop, voiced, f0[voiced])
    turns = np.cumsum(each / sample_rate)
    whole = np.floor(turns)
    at = np.flatnonzero(np.diff(whole) > 0)
    pulses = at + (whole[at + 1] - turns[at]) / (turns[at + 1] - turns[at])
    return pulses, (turns - whole).astype(np.float32)


def _responses(
    utterance: Utterance, position: NDArray[Any], voiced: NDArray[np.bool_], formant_scale: float, breath: float
) -> tuple[ComplexArray, FloatArray]:
    """Return minimum-phase spectra and the shares of noise in them: two arrays (frame, bin)."""
    from scipy.fft import irfft, rfft

    place = np.clip(position, 0, utterance.n_frames - 1)
    low = np.minimum(place.astype(np.intp), max(0, utterance.n_frames - 2))
    used, rows = np.unique(np.stack([low, np.minimum(low + 1, utterance.n_frames - 1)]), return_inverse=True)
    rows = rows.reshape(2, -1)
    n_bins = utterance.log_power.shape[1]
    log_amplitude = 0.5 * utterance.log_power[used].astype(np.float32)
    noisiness = utterance.noisiness[used].astype(np.float32)
    if formant_scale != 1:
        source = np.minimum(np.arange(n_bins) / formant_scale, n_bins - 1.001)[None]
        log_amplitude = _at(log_amplitude, np.repeat(source, len(used), axis=0)).astype(np.float32)
        # Power stays: the spectrum is as much thinner as it is wider.
        log_amplitude -= np.float32(0.5 * np.log(formant_scale))
    # Folding the cepstrum to positive times gives the phase that belongs to the amplitudes (Oppenheim & Schafer).
    cepstrum = irfft(log_amplitude)
    cepstrum[:, 1 : n_bins - 1] *= 2
    cepstrum[:, n_bins:] = 0
    logarithm = rfft(cepstrum)
    upper = (place - low).astype(np.float32)[:, None]
    response = np.exp((1 - upper) * logarithm[rows[0]] + upper * logarithm[rows[1]])
    response[:, 0] = 0  # pulses all point the same way, but no sound has a mean

    share = (1 - upper) * noisiness[rows[0]] + upper * noisiness[rows[1]]
    tilt = np.linspace(0.3, 1.0, len(_EDGES_HZ), dtype=np.float32)  # breath is heard at high frequencies first
    share = share + (1 - share) * np.minimum(1, breath * (tilt + breath)) if breath > 0 else share * (1 + breath)
    share = np.clip(share, 0, 1) @ _band_weights(n_bins, utterance.sample_rate)
    return response, np.where(voiced[:, None], share, np.float32(1))


def _band_weights(n_bins: int, sample_rate: int) -> FloatArray:
    """Return how much of each band's value a bin takes, straight between the bands' middles: (band, bin).

    The lowest band's falls to 0 at 0 Hz: the envelope goes on below the first harmonic, the voice does not.
    """
    middles = [(low + high) / 2 for low, high in zip(_EDGES_HZ, (*_EDGES_HZ[1:], 2 * _EDGES_HZ[-1]), strict=True)]
    bins_hz = np.linspace(0, sample_rate / 2, n_bins)
    weights = np.stack([np.interp(bins_hz, middles, row) for row in np.eye(len(middles))])
    weights[0] *= np.minimum(bins_hz / middles[0], 1)
    return weights.astype(np.float32)


def _add_noise(sound: FloatArray, noise: FloatArray, starts: NDArray[np.intp], spectra: ComplexArray, hop: int) -> None:
    """Add filtered noise to `sound` in place, frame after frame, each two hops long and fading into the next."""
    from scipy.fft import irfft, rfft

    n_fft = 2 * (spectra.shape[1] - 1)
    fade = (0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)).astype(np.float32)
    excited = np.lib.stride_tricks.sliding_window_view(noise, 2 * hop)[np.minimum(starts, len(noise) - 2 * hop)] * fade
    filtered = irfft(rfft(excited, n_fft) * spectra)
    for start, part in zip(starts.tolist(), filtered, strict=True):
        sound[start : start + n_fft] += part


def _add_pulses(sound: FloatArray, pulses: NDArray[Any], loudness: NDArray[Any], spectra: ComplexArray) -> None:
    """Add the responses to pulses to `sound` in place; its sample _LEAD is that of a pulse at 0."""
    from scipy.fft import irfft

    n_bins = spectra.shape[1]
    n_fft = 2 * (n_bins - 1)
    steps = np.rint(pulses * _N_DELAYS).astype(np.intp)
    starts, delays = steps // _N_DELAYS, steps % _N_DELAYS
    lag = _LEAD + np.arange(_N_DELAYS) / _N_DELAYS
    table = np.exp(-2j * np.pi / n_fft * lag[:, None] * np.arange(n_bins)).astype(np.complex64)
    sounding = irfft(spectra * table[delays]) * loudness[:, None].astype(np.float32)
    for start, part in zip(starts.tolist(), sounding, strict=True):
        sound[start : start + n_fft] += part
