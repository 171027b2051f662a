"""THE pipeline: a stream of blocks in, a stream of blocks of stems out, in bounded memory.

::

    source ─┬─> resample to the model's rate ─> segments ─> [forward ─> network ─> inverse] ─> overlap-add ─┐
            │                                                one thread for each of the engine's streams    │
            └─> resample to the output's rate ─> the mix, for lengths and the remainder <─ resample back <──┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from unbraid.audio.layout import channel_groups
from unbraid.audio.resample import StreamResampler
from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.segments import OverlapAdd, SampleQueue, SegmentCutter
from unbraid.dsp.wiener import WienerFilter
from unbraid.separation.plan import Plan

if TYPE_CHECKING:
    from unbraid.engines.select import Engine

__all__ = ["Source", "stream_stems"]

_BLOCK = 1 << 16  # samples given out at a time: writing them needs no large arrays
Filters: TypeAlias = tuple[WienerFilter, ...]  # one for each pair of channels
Job = TypeVar("Job")
Result = TypeVar("Result")


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


def stream_stems(
    source: Source,
    plan: Plan,
    engine: Engine,
    *,
    output_rate: int | None = None,
    measuring: Callable[[float], None] = lambda done_s: None,
) -> Iterator[FloatArray]:
    """Separate a source.

    output_rate : sample rate of the stems in Hz; None for the source's
    measuring : called with the seconds done of the first pass, where the plan has one

    Yields
    ------
    ndarray [shape=(stem, channel, time), float32]
        Together as long as the source, to the sample (rounded, where the rate changes).
    """
    output_rate = output_rate or source.sample_rate
    filters = _measure(source, plan, engine, measuring) if plan.transform.wiener else None
    n_channels = len(source.channels)
    shape = (len(plan.groups), n_channels)
    stems_to_output = StreamResampler(plan.transform.sample_rate, output_rate, shape[0] * shape[1])
    mix_to_output = StreamResampler(source.sample_rate, output_rate, n_channels)
    mix, stems = SampleQueue((n_channels,)), SampleQueue(shape)

    def blocks() -> Iterator[FloatArray]:
        for block in source.blocks():
            mix.push(mix_to_output.push(block))
            yield block

    for block in _separate(replace(source, blocks=blocks), plan, engine, filters):
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
    """Add the remainder as the last stem, if the plan says so."""
    if not plan.remainder:
        return stems
    return np.concatenate([stems, (mix - stems.sum(axis=0))[None]])


class _Lane:
    """One pass over the track, delayed by `offset` samples: its cutter, and its finished stems."""

    def __init__(self, plan: Plan, n_channels: int, offset: int) -> None:
        size = {"segment": plan.transform.segment, "stride": plan.transform.stride}
        self._n_to_drop = plan.transform.lead + offset
        self.cutter = SegmentCutter(n_channels, lead=self._n_to_drop, **size)
        self._adder = OverlapAdd((len(plan.groups), n_channels), **size)
        self.finished = SampleQueue((len(plan.groups), n_channels))

    def add(self, stems: FloatArray) -> None:
        block = self._adder.add(stems)
        n = min(self._n_to_drop, block.shape[-1])
        self._n_to_drop -= n
        self.finished.push(block[..., n:])


def _separate(source: Source, plan: Plan, engine: Engine, filters: Filters | None) -> Iterator[FloatArray]:
    """Stems at the model's rate [shape=(stem, channel, time)]; at the end as many samples as came in."""
    pairs = channel_groups(source.channels)
    lanes = [_Lane(plan, len(source.channels), offset) for offset in plan.offsets]
    n_in = n_out = 0

    def jobs() -> Iterator[tuple[_Lane, int, FloatArray]]:
        nonlocal n_in
        n_cut = [0] * len(lanes)
        for block in _at_model_rate(source, plan):
            n_in += block.shape[-1]
            for i, lane in enumerate(lanes):
                for segment in lane.cutter.push(block):
                    yield lane, n_cut[i], segment
                    n_cut[i] += 1
        for i, lane in enumerate(lanes):
            for index, segment in enumerate(lane.cutter.flush(), start=n_cut[i]):
                yield lane, index, segment

    def work(job: tuple[_Lane, int, FloatArray]) -> FloatArray:
        return _separate_segment(job[2], job[1], pairs, plan, engine, filters)

    for (lane, _, _), stems in _map_in_order(work, jobs(), engine.n_streams):
        lane.add(stems)
        n = min(min(lane.finished.n_samples for lane in lanes), n_in - n_out)
        if n:
            n_out += n
            passes = [lane.finished.pop(n) for lane in lanes]
            yield passes[0] if len(passes) == 1 else np.mean(passes, axis=0, dtype=np.float32)


def _at_model_rate(source: Source, plan: Plan) -> Iterator[FloatArray]:
    """The source's blocks [shape=(channel, time)], resampled."""
    resampler = StreamResampler(source.sample_rate, plan.transform.sample_rate, len(source.channels))
    for block in source.blocks():
        yield resampler.push(block)
    yield resampler.flush()


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


def _separate_segment(
    segment: FloatArray,
    index: int,
    pairs: tuple[tuple[int, ...], ...],
    plan: Plan,
    engine: Engine,
    filters: Filters | None,
) -> FloatArray:
    """Stems [shape=(stem, channel, time)] of segment number `index` [shape=(channel, time)]."""

    def separate_pair(i: int) -> FloatArray:
        stereo = _stereo(segment, pairs[i])
        outputs = engine.run(plan.transform.forward(stereo))
        wiener_filter = filters[i] if filters else None
        return plan.transform.inverse(outputs, stereo, plan.groups, index=index, wiener_filter=wiener_filter)

    if pairs == ((0, 1),):  # nearly all music: needs no copy
        return separate_pair(0)
    out = np.empty((len(plan.groups), *segment.shape), np.float32)
    for i, channels in enumerate(pairs):
        stems = separate_pair(i)
        out[:, channels] = stems if len(channels) == 2 else stems.mean(axis=1, keepdims=True)
    return out


def _stereo(segment: FloatArray, channels: tuple[int, ...]) -> FloatArray:
    """The two channels that a network sees: a pair as it is, a single channel on both sides."""
    return segment if channels == (0, 1) == tuple(range(len(segment))) else segment[list(channels * 2)[:2]]


def _measure(source: Source, plan: Plan, engine: Engine, measuring: Callable[[float], None]) -> Filters:
    """First pass of the Wiener filter: the whole track's statistics, for each pair of channels."""
    transform = plan.transform.with_options(overlap=0.0, wiener=True)
    pairs = channel_groups(source.channels)
    statistics = [transform.statistics() for _ in pairs]
    cutter = SegmentCutter(
        len(source.channels), segment=transform.segment, stride=transform.stride, lead=transform.lead
    )

    def segments() -> Iterator[FloatArray]:
        for block in _at_model_rate(source, plan):
            yield from cutter.push(block)
        yield from cutter.flush()

    def work(segment: FloatArray) -> list[tuple[ComplexArray, FloatArray]]:
        whole = slice(0, transform.config.n_frames)
        stereos = [_stereo(segment, channels) for channels in pairs]
        return [
            (transform.spectrogram(stereo, whole), transform.estimates(engine.run(transform.forward(stereo))))
            for stereo in stereos
        ]

    done_s = 0.0
    for _, results in _map_in_order(work, segments(), engine.n_streams):
        for sums, (spec, estimates) in zip(statistics, results, strict=True):
            sums.update(spec, estimates)
        done_s += transform.stride / transform.sample_rate
        measuring(done_s)
    return tuple(sums.finish() for sums in statistics)
