import numpy as np
import pytest

from unbraid.dsp.segments import OverlapAdd, SampleQueue, SegmentCutter, crossfade_weights


def ramp(n: int) -> np.ndarray:
    return np.stack([np.arange(1, n + 1), -np.arange(1, n + 1)]).astype(np.float32)


@pytest.mark.parametrize("n_samples", [1, 9, 10, 11, 30, 31, 95])
@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("lead", [0, 4])
def test_cutter_equals_slices_of_the_padded_whole(n_samples: int, block: int, lead: int) -> None:
    segment, stride = 14, 10
    samples = ramp(n_samples)
    cutter = SegmentCutter(2, segment=segment, stride=stride, lead=lead)
    cut = []
    for start in range(0, n_samples, block):
        cut += [piece.copy() for piece in cutter.push(samples[:, start : start + block])]
    cut += list(cutter.flush())
    padded = np.pad(samples, ((0, 0), (lead, segment + stride)))
    n_segments = -(-(n_samples + lead) // stride)
    assert len(cut) == n_segments
    for i, piece in enumerate(cut):
        assert np.array_equal(piece, padded[:, i * stride : i * stride + segment])


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
