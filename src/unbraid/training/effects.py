"""What augmentation does to signals and spectrograms; nothing here is random but the noise of a room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from unbraid.audio.resample import resample
from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = [
    "BANDS_HZ",
    "CODECS",
    "codec_round_trip",
    "compress",
    "equalise",
    "fitted",
    "repitch",
    "reverb",
    "shift_spectrogram",
    "stretch_spectrogram",
]

_SPLICE_S = 0.04  # of the windows in a stretched signal: a period of 25 Hz


_SEARCH_S = 0.015  # how far from its place in time a window may be, to fit the one before


BANDS_HZ: Final = tuple(62.5 * 2**i for i in range(9))  # octaves up to 16 kHz


_FIRST_ECHO_S = 0.01


_HOLD_S = 0.02  # of a compressor's level: longer than half a period of the lowest bass


CODECS: Final = {"mp3": ("libmp3lame", "mp3float"), "aac": ("aac", "aac")}


_SILENCE = 1e-8  # peak of float samples below which there is nothing to hear


def repitch(samples: FloatArray, *, semitones: float, tempo: float, sample_rate: int) -> FloatArray:
    """Play in another key and tempo.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]; stems that are to stay together may be stacked to many channels.
    semitones : float
        How much higher.
    tempo : float
        How many times as fast.
    sample_rate : int
        In Hz.

    Returns
    -------
    played : ndarray [shape=(channel, round(time / tempo)), float32]
    """
    if not (tempo > 0 and math.isfinite(tempo) and math.isfinite(semitones)):
        raise UsageError(f"tempo must be above 0, and semitones a number, got {tempo} and {semitones}")
    ratio = 2.0 ** (semitones / 12)
    stretched = _stretch(samples, tempo / ratio, sample_rate)
    # Played at another rate, the stretched signal has its length in time, and the other pitch.
    played = resample(stretched, round(sample_rate * ratio), sample_rate) if semitones else stretched
    return fitted(played, round(samples.shape[1] / tempo))


def _stretch(samples: FloatArray, tempo: float, sample_rate: int) -> FloatArray:
    """Change the tempo alone [shape=(channel, round(time / tempo))].

    W. Verhelst and M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA)", ICASSP 1993. Windows
    are taken from near the place where time has come to, where they go on best from the window before; the
    similarity is the normalised correlation of all channels' sum. A window that is there already goes on perfectly.
    FFmpeg's `atempo` is alike, but doubles beats, and its time drifts.
    """
    import scipy.fft

    n_out = round(samples.shape[1] / tempo)
    if tempo == 1 or not n_out:
        return samples.copy()
    hop = max(1, round(_SPLICE_S * sample_rate) // 2)
    n_window, n_search = 2 * hop, round(_SEARCH_S * sample_rate)
    size = scipy.fft.next_fast_len(n_window + 2 * n_search + n_window, real=True)
    n_frames = math.ceil(n_out / hop) + 1
    # One window before the beginning, as many after the end as can be asked for.
    n_before = hop + n_search
    n_after = n_window + 2 * n_search + max(0, math.ceil(n_frames * hop * tempo) + n_window - samples.shape[1])
    padded = np.pad(samples, ((0, 0), (n_before, n_after)))
    # Different weights, so that signals of opposite signs do not make silence.
    sides = np.linspace(1, 0.5, len(samples), dtype=np.float32) @ padded
    energies = np.concatenate(([0.0], np.cumsum(np.square(sides, dtype=np.float64))))
    window = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n_window) + 0.5) / n_window)).astype(np.float32)
    out = np.zeros((len(samples), (n_frames + 1) * hop), np.float32)
    at = n_search  # of the window that begins one hop before the signal
    for frame in range(n_frames):
        if frame:
            first = round(frame * hop * tempo)  # where the earliest window begins that may be taken
            following = sides[at + hop : at + hop + n_window]
            region = sides[first : first + n_window + 2 * n_search]
            spectrum = scipy.fft.rfft(region, size) * np.conj(scipy.fft.rfft(following, size))
            alike = scipy.fft.irfft(spectrum, size)[: 2 * n_search + 1]
            places = np.arange(first, first + 2 * n_search + 1)
            energy = energies[places + n_window] - energies[places]
            alike = alike / np.sqrt(np.maximum(energy, 1e-12))
            # Of equally good ones, in silence, that which is on time.
            best = int(np.argmax(alike)) if alike.max() > _SILENCE else n_search
            at = first + best
        out[:, frame * hop : frame * hop + n_window] += window * padded[:, at : at + n_window]
    return out[:, hop : hop + n_out]


def equalise(
    samples: FloatArray, gains_db: Sequence[float], *, sample_rate: int, bands_hz: Sequence[float] = BANDS_HZ
) -> FloatArray:
    """Colour without delay.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]
    gains_db : sequence of float
        At each of `bands_hz`; on straight lines between them, over the logarithm of frequency, and level outside.
    sample_rate : int
        In Hz.
    bands_hz : sequence of float
        In rising order.

    Returns
    -------
    coloured : ndarray of the same shape
    """
    import scipy.fft

    assert len(gains_db) == len(bands_hz)
    # The zero-phase response rings for less than a period or two of the lowest band: no further than the padding.
    n = samples.shape[1]
    size = scipy.fft.next_fast_len(n + round(2 * sample_rate / min(bands_hz)), real=True)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / sample_rate), 1e-3)
    curve_db = np.interp(np.log2(frequencies), np.log2(bands_hz), gains_db)
    factors = (10 ** (curve_db / 20)).astype(np.float32)
    coloured: FloatArray = scipy.fft.irfft(factors * scipy.fft.rfft(samples, size), size)[:, :n]
    return coloured


def reverb(
    samples: FloatArray, rng: np.random.Generator, *, decay_s: float, wet_db: float, sample_rate: int
) -> FloatArray:
    """Put into a room: a tail of noise that falls by 60 dB in `decay_s`, different in each channel.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]
    rng : Generator
        Draws the noise.
    decay_s : float
        Above 0.
    wet_db : float
        Energy of the room's impulse response, without the direct sound, which is 0 dB.
    sample_rate : int
        In Hz.

    Returns
    -------
    wet : ndarray of the same shape
        What sounds on after its end is cut off.
    """
    from scipy.signal import fftconvolve

    n = samples.shape[1]
    time_s = np.arange(max(2, round(decay_s * sample_rate))) / sample_rate
    tail = rng.standard_normal((len(samples), len(time_s))) * 10 ** (-3 * time_s / decay_s)
    tail[:, : round(min(_FIRST_ECHO_S, decay_s / 4) * sample_rate)] = 0
    tail *= 10 ** (wet_db / 20) / np.sqrt(np.square(tail).sum(axis=1, keepdims=True))
    wet: FloatArray = samples + fftconvolve(samples, tail.astype(np.float32), axes=1)[:, :n]
    return wet


def compress(samples: FloatArray, *, threshold_db: float, ratio: float, sample_rate: int) -> FloatArray:
    """Bring loud and soft closer together: levels above the threshold rise by 1 / ratio dB a dB only.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]
    threshold_db : float
        Below the peak; negative.
    ratio : float
        1 or more.
    sample_rate : int
        In Hz.

    Returns
    -------
    compressed : ndarray of the same shape
        With the energy of the input. Channels are changed alike; the level is known ahead, so that no attack gets
        through.
    """
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    if not (threshold_db <= 0 and ratio >= 1):
        raise UsageError(f"threshold_db must be 0 or less, and ratio 1 or more, got {threshold_db} and {ratio}")
    loudness = np.abs(samples).max(axis=0)
    peak = float(loudness.max(initial=0))
    if peak < _SILENCE:
        return samples.copy()
    n_hold = max(1, round(_HOLD_S * sample_rate))
    # The smoothed maximum over two holds is nowhere below what one sample needs.
    level = maximum_filter1d(loudness.astype(np.float64) / peak, 2 * n_hold + 1, mode="nearest")
    excess_db = np.maximum(20 * np.log10(np.maximum(level, 1e-9)) - threshold_db, 0)
    reduction_db = uniform_filter1d(excess_db * (1 - 1 / ratio), n_hold, mode="nearest")
    compressed = samples * (10 ** (-reduction_db / 20)).astype(np.float32)
    before, after = (math.sqrt(np.square(x, dtype=np.float64).sum()) for x in (samples, compressed))
    return cast(FloatArray, compressed * np.float32(before / after))


def codec_round_trip(samples: FloatArray, codec: str, *, bit_rate: int, sample_rate: int) -> FloatArray:
    """Encode and decode in memory, and cut the encoder's delay off.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32], one or two channels. What is louder than full scale is coded softer.
    codec : str
        "mp3" or "aac"
    bit_rate : int
        In bits per second.
    sample_rate : int
        In Hz.

    Returns
    -------
    coded : ndarray of the same shape

    Raises
    ------
    UsageError : the codec is unknown, or has no place for this sample rate or these channels
    """
    if codec not in CODECS:
        raise UsageError(f"codec must be one of {', '.join(CODECS)}, got '{codec}'")
    peak = float(np.abs(samples).max(initial=0))
    if peak < _SILENCE:
        return samples.copy()
    if len(samples) > 2:
        raise UsageError(f"{codec} is for one or two channels, got {len(samples)}: set augment.p_codec=0")
    scale = np.float32(max(peak, 1.0))
    clock, layout = Fraction(1, sample_rate), ("mono", "stereo")[len(samples) - 1]
    name, decoder_name = CODECS[codec]
    encoder = cast(av.AudioCodecContext, av.CodecContext.create(name, "w"))
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate, layout, "fltp"
    encoder.bit_rate, encoder.time_base = bit_rate, clock
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples / scale), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, clock
    try:
        packets = [*encoder.encode(frame), *encoder.encode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise UsageError(
            f"{codec} cannot hold {len(samples)} channels at {sample_rate} Hz and {bit_rate} bits per second: "
            "set augment.p_codec=0"
        ) from error
    delay = -int(packets[0].pts or 0)  # the first sample is at time 0, what comes before is the encoder's own
    decoder = cast(av.AudioCodecContext, av.CodecContext.create(decoder_name, "r"))
    decoder.sample_rate, decoder.layout = sample_rate, layout
    decoder.extradata = encoder.extradata
    # FFmpeg would cut off the delay of some encoders, but not of all.
    decoder.flags2 |= int(av.codec.context.Flags2.skip_manual)
    frames = [one for packet in (*packets, None) for one in decoder.decode(packet)]
    decoded = np.concatenate([one.to_ndarray() for one in frames], axis=1)
    return fitted(decoded[:, delay:], samples.shape[1]) * scale


def stretch_spectrogram(magnitude: FloatArray, factor: float) -> FloatArray:
    """Make a spectrogram `factor` times as long, around its middle, with the same number of frames.

    As Spleeter (its code, audio/spectrogram.py): frames on straight lines between the given ones; of more frames the
    middle is kept, and fewer have silence around them.

    magnitude : ndarray [shape=(…, frame, bin), float32]
    returns : ndarray of the same shape
    """
    n_frames = magnitude.shape[-2]
    longer = _interpolated(magnitude, int(n_frames * factor), axis=-2)
    n_new = longer.shape[-2]
    if n_new >= n_frames:
        first = (n_new - n_frames) // 2
        return longer[..., first : first + n_frames, :]
    out = np.zeros_like(magnitude)
    first = (n_frames - n_new) // 2
    out[..., first : first + n_new, :] = longer
    return out


def shift_spectrogram(magnitude: FloatArray, semitones: float) -> FloatArray:
    """Move a spectrogram up by so many semitones, with the same number of bins.

    As Spleeter (its code, audio/spectrogram.py): bins on straight lines between the given ones; those that leave at
    the top are lost, and those that are missing there are silent.

    magnitude : ndarray [shape=(…, frame, bin), float32]
    returns : ndarray of the same shape
    """
    n_bins = magnitude.shape[-1]
    moved = _interpolated(magnitude, int(n_bins * 2 ** (semitones / 12)), axis=-1)[..., :n_bins]
    return np.pad(moved, [(0, 0)] * (magnitude.ndim - 1) + [(0, n_bins - moved.shape[-1])])


def _interpolated(values: FloatArray, n: int, axis: int) -> FloatArray:
    """Values at n places along an axis, the first and last of which are those of the given ones."""
    n = max(n, 1)
    last = values.shape[axis] - 1
    at = np.linspace(0, last, n) if n > 1 else np.zeros(1)
    before = np.minimum(at.astype(np.int64), max(last - 1, 0))
    shape = [1] * values.ndim
    shape[axis] = n
    part: NDArray[Any] = (at - before).astype(np.float32).reshape(shape)
    low, high = values.take(before, axis), values.take(np.minimum(before + 1, last), axis)
    return cast(FloatArray, low + part * (high - low))


def fitted(samples: FloatArray, n: int) -> FloatArray:
    """Cut off, or fill up with silence, to n samples."""
    return np.pad(samples[:, :n], ((0, 0), (0, max(0, n - samples.shape[1]))))
