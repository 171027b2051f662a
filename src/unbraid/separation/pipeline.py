"""THE pipeline: a stream of blocks in, a stream of blocks of stems out, in bounded memory.

::

    source ─┬─> resample to the model's rate ─> normalise ─> windows ─> [forward ─> network ─> inverse] ─> add up ─┐
            │                                          one thread for each of the engine's streams           │
            └─> resample to the output's rate ─> the mix, for lengths and the remainder <─ resample back <──────┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from unbraid.audio.layout import channel_groups
from unbraid.audio.resample import StreamResampler
from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.segments import OverlapAdd, SampleQueue, WindowCutter
from unbraid.dsp.wiener import WienerFilter
from unbraid.separation.plan import Member, Plan

if TYPE_CHECKING:
    from unbraid.models.spleeter.transform import SpleeterTransform

__all__ = ["Runner", "Source", "stream_stems"]

_BLOCK = 1 << 16  # samples given out at a time: writing them needs no large arrays
# Added to a track's deviation, so that silence is not divided by zero; 1e-8 as in Demucs.
_SILENCE = 1e-8
Filters: TypeAlias = tuple[WienerFilter, ...]  # one for each pair of channels
Measuring: TypeAlias = Callable[[float], None]
Job = TypeVar("Job")
Result = TypeVar("Result")


class Runner(Protocol):
    """A member's network, ready to run: `unbraid.separation.runner.NetworkRunner`."""

    def run(self, inputs: tuple[FloatArray, ...], n_samples: int, /) -> tuple[FloatArray, ...]:
        """Run the network on a window of so many samples."""


@dataclass(frozen=True)
class Source:
    """Audio that can be read from the start, more than once where the plan takes several passes.

    sample_rate : in Hz
    channels : speaker of each channel
    blocks : gives the audio from the start, in blocks [shape=(channel, time), float32] of any length
    """

    sample_rate: int
    channels: tuple[str, ...]
    blocks: Callable[[], Iterator[FloatArray]]


@dataclass(frozen=True)
class _Levels:
    """Mean and standard deviation of the mono mix of the channels that go through the network together.

    Arrays have shape (channel, 1), and for each channel the numbers of its pair.
    """

    mean: FloatArray
    deviation: FloatArray


@dataclass(frozen=True)
class _Measured:
    """What had to be known of the whole track first: None where it did not."""

    levels: _Levels | None = None
    filters: Filters | None = None


def stream_stems(
    source: Source,
    plan: Plan,
    runners: Sequence[Runner],
    *,
    n_workers: int = 1,
    output_rate: int | None = None,
    measuring: Measuring = lambda done_s: None,
) -> Iterator[FloatArray]:
    """Separate a source.

    runners : the network of each of the plan's members
    n_workers : chunks that are worked on at a time
    output_rate : sample rate of the stems in Hz; None for the source's
    measuring : called with the seconds done of the passes that come before the separation, where the plan has such

    Yields
    ------
    ndarray [shape=(stem, channel, time), float32]
        Together as long as the source, to the sample (rounded, where the rate changes).
    """
    output_rate = output_rate or source.sample_rate
    measured = _Measured(
        _levels(source, plan, measuring) if plan.transform.normalises else None,
        _wiener_filters(source, plan, runners[0], n_workers, measuring) if plan.transform.wiener else None,
    )
    n_channels = len(source.channels)
    shape = (plan.n_computed, n_channels)
    stems_to_output = StreamResampler(plan.transform.sample_rate, output_rate, shape[0] * shape[1])
    mix_to_output = StreamResampler(source.sample_rate, output_rate, n_channels)
    mix, stems = SampleQueue((n_channels,)), SampleQueue(shape)

    def blocks() -> Iterator[FloatArray]:
        for block in source.blocks():
            mix.push(mix_to_output.push(block))
            yield block

    for block in _separate(replace(source, blocks=blocks), plan, runners, n_workers, measured):
        stems.push(stems_to_output.push(block.reshape(-1, block.shape[-1])).reshape(*shape, -1))
        while n := min(mix.n_samples, stems.n_samples, _BLOCK):
            yield _complete(stems.pop(n), mix.pop(n), plan)
    mix.push(mix_to_output.flush())
    stems.push(stems_to_output.flush().reshape(*shape, -1))
    # Resampling there and back may round the length by a sample; the source decides.
    missing = mix.n_samples - stems.n_samples
    if missing > 0:
        stems.push(np.zeros((*shape, missing), np.float32))
    while n := min(mix.n_samples, _BLOCK):
        yield _complete(stems.pop(n), mix.pop(n), plan)


def _complete(stems: FloatArray, mix: FloatArray, plan: Plan) -> FloatArray:
    """Add the remainder as the last stem, or share it out, if the plan says so."""
    if plan.remainder:
        return np.concatenate([stems, (mix - stems.sum(axis=0))[None]])
    if plan.sum_exact:
        stems += (mix - stems.sum(axis=0)) / np.float32(len(stems))
    return stems


class _Lane:
    """One pass of one member over the track, delayed by `offset` samples: its cutter, and its finished stems."""

    def __init__(self, member: Member, runner: Runner, n_channels: int, offset: int) -> None:
        self.member, self.runner = member, runner
        transform, n_results = member.transform, len(member.mixes)
        self._n_to_drop = transform.lead + offset
        self.cutter = WindowCutter(
            n_channels,
            segment=transform.segment,
            stride=transform.stride,
            lead=self._n_to_drop,
            window=transform.window,
        )
        self._adder = OverlapAdd((n_results, n_channels), segment=transform.segment, stride=transform.stride)
        self.finished = SampleQueue((n_results, n_channels))

    def add(self, stems: FloatArray) -> None:
        """Add the next chunk's stems."""
        block = self._adder.add(stems)
        n = min(self._n_to_drop, block.shape[-1])
        self._n_to_drop -= n
        self.finished.push(block[..., n:])


@dataclass(frozen=True)
class _Chunk:
    """A window of the track to run: of which lane, the chunk's number and length, and the samples."""

    lane: _Lane
    index: int
    n: int
    window: FloatArray


def _separate(
    source: Source, plan: Plan, runners: Sequence[Runner], n_workers: int, measured: _Measured
) -> Iterator[FloatArray]:
    """Stems at the model's rate [shape=(stem, channel, time)]; at the end as many samples as came in."""
    pairs, levels = channel_groups(source.channels), measured.levels
    lanes = [
        _Lane(member, runner, len(source.channels), offset)
        for member, runner in zip(plan.members, runners, strict=True)
        for offset in member.offsets
    ]
    n_in = n_out = 0

    def chunks() -> Iterator[_Chunk]:
        nonlocal n_in
        for block in _at_model_rate(source, plan):
            n_in += block.shape[-1]
            level = block if levels is None else (block - levels.mean) / levels.deviation
            for lane in lanes:
                yield from (_Chunk(lane, *cut) for cut in lane.cutter.push(level))
        for lane in lanes:
            yield from (_Chunk(lane, *cut) for cut in lane.cutter.flush())

    def work(chunk: _Chunk) -> FloatArray:
        return _separate_chunk(chunk, pairs, measured.filters)

    for chunk, stems in _map_in_order(work, chunks(), n_workers):
        chunk.lane.add(stems)
        n = min(min(lane.finished.n_samples for lane in lanes), n_in - n_out)
        if n:
            n_out += n
            first, *others = (lane.finished.pop(n) for lane in lanes)
            for other in others:
                first = first + other
            yield first if levels is None else _as_loud_as_before(first, levels, plan)


def _as_loud_as_before(stems: FloatArray, levels: _Levels, plan: Plan) -> FloatArray:
    """Undo the normalisation: each network stem gets the deviation and, as in Demucs, the mean."""
    weights = [
        sum(sum(member.mixes[i].values()) * len(member.offsets) for member in plan.members)
        for i in range(plan.n_computed)
    ]
    out: FloatArray = stems * levels.deviation + np.array(weights, np.float32)[:, None, None] * levels.mean
    return out


def _at_model_rate(source: Source, plan: Plan) -> Iterator[FloatArray]:
    """The source's blocks [shape=(channel, time)], resampled."""
    resampler = StreamResampler(source.sample_rate, plan.transform.sample_rate, len(source.channels))
    for block in source.blocks():
        yield resampler.push(block)
    yield resampler.flush()


def _levels(source: Source, plan: Plan, measuring: Measuring) -> _Levels:
    """First pass: mean and deviation of the mono mix of each pair (the unbiased one, as torch's std is)."""
    pairs = channel_groups(source.channels)
    count, sums, squares = 0, np.zeros(len(pairs)), np.zeros(len(pairs))
    for block in _at_model_rate(source, plan):
        mono = np.stack([block[list(channels)].mean(axis=0, dtype=np.float64) for channels in pairs])
        count += block.shape[-1]
        sums += mono.sum(axis=-1)
        squares += np.square(mono).sum(axis=-1)
        measuring(count / plan.transform.sample_rate)
    mean = sums / max(count, 1)
    variance = np.maximum(squares - count * np.square(mean), 0) / max(count - 1, 1)
    levels = _Levels(*(np.zeros((len(source.channels), 1), np.float32) for _ in range(2)))
    for i, channels in enumerate(pairs):
        levels.mean[list(channels)] = mean[i]
        levels.deviation[list(channels)] = np.sqrt(variance[i]) + _SILENCE
    return levels


def _map_in_order(work: Callable[[Job], Result], jobs: Iterator[Job], n_threads: int) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in order; at most `n_threads` + 1 jobs are begun and not given out, to save memory."""
    pending: deque[tuple[Job, Future[Result]]] = deque()
    with ThreadPoolExecutor(n_threads, "unbraid-segment") as pool:
        try:
            for job in jobs:
                pending.append((job, pool.submit(work, job)))
                if len(pending) > n_threads:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _separate_chunk(chunk: _Chunk, pairs: tuple[tuple[int, ...], ...], filters: Filters | None) -> FloatArray:
    """Results of a chunk [shape=(result, channel, time)]."""
    member, window = chunk.lane.member, chunk.window
    transform = member.transform

    def separate_pair(i: int) -> FloatArray:
        audio = _channels(window, pairs[i], transform.n_channels)
        outputs = chunk.lane.runner.run(transform.forward(audio), audio.shape[-1])
        wiener_filter = filters[i] if filters else None
        return transform.inverse(
            outputs, audio, member.mixes, n=chunk.n, index=chunk.index, wiener_filter=wiener_filter
        )

    if pairs == ((0, 1),) and transform.n_channels == 2:  # nearly all music: needs no copy
        return separate_pair(0)
    out = np.empty((len(member.mixes), len(window), chunk.n), np.float32)
    for i, channels in enumerate(pairs):
        stems = separate_pair(i)
        out[:, channels] = stems if stems.shape[1] == len(channels) else stems.mean(axis=1, keepdims=True)
    return out


def _channels(window: FloatArray, channels: tuple[int, ...], n_channels: int) -> FloatArray:
    """What a network sees: a pair as it is, a single channel on both sides; or their mean, if it takes one."""
    if n_channels == 1:
        mono: FloatArray = window[list(channels)].mean(axis=0, keepdims=True)
        return mono
    return window if channels == (0, 1) == tuple(range(len(window))) else window[list(channels * 2)[:2]]


def _wiener_filters(source: Source, plan: Plan, runner: Runner, n_workers: int, measuring: Measuring) -> Filters:
    """First pass of the Wiener filter: the whole track's statistics, for each pair of channels."""
    # Only this family has the filter: the others refuse the option.
    transform = cast("SpleeterTransform", plan.transform.with_options(overlap=0.0, wiener=True))
    pairs = channel_groups(source.channels)
    statistics = [transform.statistics() for _ in pairs]
    cutter = WindowCutter(
        len(source.channels),
        segment=transform.segment,
        stride=transform.stride,
        lead=transform.lead,
        window=transform.window,
    )

    def windows() -> Iterator[FloatArray]:
        for block in _at_model_rate(source, plan):
            yield from (window for _, _, window in cutter.push(block))
        yield from (window for _, _, window in cutter.flush())

    def work(window: FloatArray) -> list[tuple[ComplexArray, FloatArray]]:
        whole = slice(0, transform.config.n_frames)
        stereos = [_channels(window, channels, 2) for channels in pairs]
        return [
            (
                transform.spectrogram(stereo, whole),
                transform.estimates(runner.run(transform.forward(stereo), stereo.shape[-1])),
            )
            for stereo in stereos
        ]

    done_s = 0.0
    for _, results in _map_in_order(work, windows(), n_workers):
        for sums, (spec, estimates) in zip(statistics, results, strict=True):
            sums.update(spec, estimates)
        done_s += transform.stride / transform.sample_rate
        measuring(done_s)
    return tuple(sums.finish() for sums in statistics)
