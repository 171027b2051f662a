import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from unbraid.dsp.segments import OverlapAdd, SampleQueue, WindowCutter, crossfade_weights


def ramp(n: int) -> np.ndarray:
    return np.stack([np.arange(1, n + 1), -np.arange(1, n + 1)]).astype(np.float32)


def test_overlap_add_equals_adding_into_one_array() -> None:
    rng = np.random.default_rng(0)
    segment, stride, n_segments = 14, 4, 6
    pieces = rng.standard_normal((n_segments, 3, 2, segment)).astype(np.float32)
    expected = np.zeros((3, 2, stride * n_segments + segment), np.float32)
    adder = OverlapAdd((3, 2), segment=segment, stride=stride)
    out = []
    for i, piece in enumerate(pieces):
        expected[..., i * stride : i * stride + segment] += piece
        out.append(adder.add(piece.copy()))
    assert np.allclose(np.concatenate(out, axis=-1), expected[..., : stride * n_segments], atol=1e-6)


def test_queue_gives_back_what_it_got_in_any_lengths() -> None:
    rng = np.random.default_rng(0)
    samples = ramp(1000)
    queue = SampleQueue((2,))
    got, pushed = [], 0
    while pushed < 1000 or queue.n_samples:
        n = int(rng.integers(0, 90))
        queue.push(samples[:, pushed : pushed + n])
        pushed = min(1000, pushed + n)
        got.append(queue.pop(int(rng.integers(0, queue.n_samples + 1))))
    assert np.array_equal(np.concatenate(got, axis=-1), samples)


@pytest.mark.parametrize(("n_frames", "stride"), [(64, 64), (64, 48), (64, 32), (64, 16), (64, 21), (64, 1)])
def test_crossfade_weights_add_up_to_one_over_every_frame(n_frames: int, stride: int) -> None:
    n_segments = 3 * (-(-n_frames // stride))
    total = np.zeros(n_segments * stride + n_frames)
    for index in range(n_segments):
        weights = crossfade_weights(n_frames, stride, index)
        assert (weights > 0).all()
        total[index * stride : index * stride + n_frames] += weights
    # After the first stride of the last segment, segments are missing that a longer track would have.
    assert np.allclose(total[: n_segments * stride], 1, atol=1e-6)


Chunks = list[tuple[int, int, np.ndarray]]


def cut(samples: np.ndarray, blocks: Iterable[int], **sizes: Any) -> Chunks:
    """All chunks of the samples, which come in blocks of these lengths."""
    cutter, chunks, start = WindowCutter(len(samples), **sizes), [], 0
    for n in blocks:
        chunks += cutter.push(samples[:, start : start + n])
        start += n
    chunks += cutter.push(samples[:, start:])
    return [*chunks, *cutter.flush()]


def naive_chunks(
    samples: np.ndarray, *, segment: int, stride: int, lead: int, window: Callable[[int], tuple[int, int]]
) -> Chunks:
    """The same from the whole array, between more zeros than any window reaches."""
    n_samples, margin = samples.shape[-1], 10 * (segment + lead) + 1000
    padded = np.pad(samples, ((0, 0), (margin, margin)))
    chunks = []
    for index, start in enumerate(range(-lead, n_samples, stride)):
        n = min(segment, n_samples - start)
        before, length = window(n)
        chunks.append((index, n, padded[:, margin + start - before :][:, :length]))
    return chunks


def windows_of(kind: str, segment: int) -> Callable[[int], tuple[int, int]]:
    """Windows as the families have them."""
    if kind == "whole segment":
        return lambda n: (0, segment)
    if kind == "chunk alone":
        return lambda n: (0, n)
    if kind == "centred in a segment":
        return lambda n: ((segment - n) // 2, segment)

    def centred_in_valid_length(n: int) -> tuple[int, int]:
        length = -(-n // 37) * 37 + 22
        return (length - n) // 2, length

    return centred_in_valid_length


WINDOWS = ["whole segment", "chunk alone", "centred in a segment", "centred in a valid length"]


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_equal_slices_of_the_padded_whole(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        segment = int(rng.integers(1, 200))
        sizes: dict[str, Any] = {
            "segment": segment,
            "stride": int(rng.integers(1, segment + 1)),
            "lead": int(rng.choice([0, 0, rng.integers(0, 300)])),
            "window": windows_of(kind, segment),
        }
        samples = ramp(int(rng.integers(0, 1000)))
        before = samples.copy()
        chunks = cut(samples, rng.integers(0, int(rng.choice([3, 50, 2000])), 40).tolist(), **sizes)
        expected = naive_chunks(samples, **sizes)
        assert [chunk[:2] for chunk in chunks] == [chunk[:2] for chunk in expected], sizes
        for (_, _, window), (_, _, expected_window) in zip(chunks, expected, strict=True):
            assert np.array_equal(window, expected_window), sizes
            window.fill(np.nan)  # each is the receiver's own: the others and the input stay as they are
        assert np.array_equal(samples, before)


def test_windows_come_as_soon_as_they_are_complete() -> None:
    cutter = WindowCutter(2, segment=10, stride=8, lead=0, window=lambda n: ((16 - n) // 2, 16))
    assert list(cutter.push(ramp(12))) == []
    [(index, n, window)] = cutter.push(ramp(1))  # the 13th sample is the last in the first window
    assert (index, n, window.shape) == (0, 10, (2, 16))


def test_cutter_refuses_windows_that_do_not_hold_the_chunk() -> None:
    for window in (lambda n: (0, 9), lambda n: (3, 12), lambda n: (-1, 12)):
        cutter = WindowCutter(2, segment=10, stride=8, lead=0, window=window)
        with pytest.raises(AssertionError):
            list(cutter.push(ramp(100)))


@pytest.mark.parametrize("block", [100, 1_000_000])
@pytest.mark.parametrize("kind", WINDOWS)
def test_cutter_holds_no_more_for_a_longer_stream(block: int, kind: str) -> None:
    segment = 2000
    samples = np.zeros((2, 1_000_000), np.float32)
    cutter = WindowCutter(2, segment=segment, stride=1500, lead=0, window=windows_of(kind, segment))
    tracemalloc.start()
    for start in range(0, samples.shape[-1], block):
        for _ in cutter.push(samples[:, start : start + block]):
            pass
    for _ in cutter.flush():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A segment before the chunk, the chunk and what comes after, all once more while they are joined, and a window.
    assert peak < 8 * samples[:, :segment].nbytes


@pytest.mark.parametrize("stride", [14, 11, 7, 4, 1])
def test_overlap_add_ends_with_the_stream(stride: int) -> None:
    rng = np.random.default_rng(0)
    for n_samples in range(1, 60):
        expected, out = np.zeros((3, n_samples)), []
        adder = OverlapAdd((3,), segment=14, stride=stride)
        for start in range(0, n_samples, stride):
            piece = rng.standard_normal((3, min(14, n_samples - start))).astype(np.float32)
            expected[:, start : start + 14] += piece
            out.append(adder.add(piece))
        assert np.allclose(np.concatenate(out, axis=-1), expected, atol=1e-5)


def demucs_weights(n: int, stride: int, index: int, power: float) -> np.ndarray:
    """As the Demucs programs have them, added up over all chunks of a long enough track in float64."""
    half = n // 2
    weight = np.concatenate([np.arange(1, half + 1), np.arange(n - half, 0, -1)]) / (n - half)
    total = np.zeros((2 * index + 3) * n + stride)
    for start in range(0, len(total) - n, stride):
        total[start : start + n] += weight**power
    return weight**power / total[index * stride :][:n]


@pytest.mark.parametrize("power", [1.0, 1.5, 4.0])
@pytest.mark.parametrize(("n", "stride"), [(100, 75), (101, 75), (101, 50), (99, 33), (99, 31), (7, 7), (8, 1), (1, 1)])
def test_weights_of_samples_are_those_of_demucs(n: int, stride: int, power: float) -> None:
    for index in range(5):
        weights = crossfade_weights(n, stride, index, power=power)
        assert np.allclose(weights, demucs_weights(n, stride, index, power), rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [1.0, 2.5, 100.0])
def test_weights_add_up_to_one_over_every_sample_of_any_track(power: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 3000))
        stride = int(rng.integers(-(-n // 4), n + 1))
        total = np.zeros(int(rng.integers(1, 10_000)))
        for index, start in enumerate(range(0, len(total), stride)):
            piece = total[start : start + n]
            piece += crossfade_weights(n, stride, index, power=power)[: len(piece)]
        assert np.allclose(total, 1, atol=1e-6)


def test_weights_of_chunks_are_computed_once_and_cannot_be_changed() -> None:
    weights = crossfade_weights(343_980, 257_985, 5)
    assert crossfade_weights(343_980, 257_985, 1000) is weights
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 1
