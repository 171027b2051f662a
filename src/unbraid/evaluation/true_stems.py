"""Signals of several files, side by side: the true stems of a track, or stems that somebody else has separated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unbraid.audio.read import AudioReader, open_audio
from unbraid.audio.resample import StreamResampler
from unbraid.datasets.tracks import AudioFile, Track
from unbraid.datatypes import FloatArray
from unbraid.dsp.segments import SampleQueue
from unbraid.errors import AudioError
from unbraid.evaluation.spool import Spool
from unbraid.evaluation.targets import is_sum_of_others

__all__ = ["TOLERANCE_S", "TrueStems", "aligned_blocks", "read_true_stems"]

# Signals of one track may differ so much in length: encoders without a note of their padding add up to 50 ms.
TOLERANCE_S = 0.1
_BLOCK = 1 << 16
_FULL_SCALE = np.float32(1 << 15)  # in steps of 16 bits


@dataclass(frozen=True, eq=False)
class TrueStems:
    """A track's true stems and mix, at one sample rate and with one number of channels.

    spool : rows = (stem, channel), then the mix's channels
    notices : what the reader should know: lengths that differed, resampling …
    """

    stems: tuple[str, ...]
    n_channels: int
    sample_rate: int
    spool: Spool
    notices: tuple[str, ...]

    @property
    def n_samples(self) -> int:
        """Samples of each channel."""
        return self.spool.n_samples

    def read(self, start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Stems [shape=(stem, channel, stop − start)] and mix [shape=(channel, stop − start)]."""
        both = self.spool.read(start, stop).reshape(len(self.stems) + 1, self.n_channels, stop - start)
        return both[:-1], both[-1]

    def blocks(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """All of it, as from `read`, block by block."""
        for start in range(0, self.n_samples, _BLOCK):
            yield self.read(start, min(self.n_samples, start + _BLOCK))


@dataclass(frozen=True, eq=False)
class MixBlocks:
    """The blocks of a mix [shape=(channel, time)], to be gone through any number of times."""

    true: TrueStems

    def __iter__(self) -> Iterator[FloatArray]:
        return (mix for _, mix in self.true.blocks())


def read_true_stems(track: Track, folder: Path, stack: ExitStack) -> TrueStems:
    """Decode a track into a temporary file in `folder`, which is deleted when `stack` is closed.

    Signals of lossy files are rounded to 16 bits, as SiSEC's were: what an encoder leaves empty, such as all above
    16 kHz, would make ISR, SIR and SAR meaningless (docs/decisions/007). The sample rate is that of the mix, or of the
    first stem where the mix is the sum of the stems. A stem that is the sum of others, such as "accompaniment", is left
    out.

    Raises
    ------
    AudioError : a file cannot be read, or their lengths or channels do not fit each other
    """
    if track.problem:
        raise AudioError(track.problem)
    sums = [stem for stem in track.stems if is_sum_of_others(stem, list(track.stems))]
    stems = tuple(stem for stem in track.stems if stem not in sums)
    files = {stem: track.stems[stem] for stem in stems}
    if track.mix is not None:
        files["mix"] = track.mix
    with ExitStack() as readers:
        opened = {
            name: readers.enter_context(open_audio(file.path, stream=file.stream)) for name, file in files.items()
        }
        rate = opened["mix" if track.mix is not None else next(iter(opened))].info.sample_rate
        n_channels = max(reader.info.n_channels for reader in opened.values())
        n_stems = len(stems)
        spool = stack.enter_context(Spool(folder, (n_stems + 1) * n_channels))
        notices = [f"{stem}: left out, since it is the sum of other stems" for stem in sums]
        lossy = [reader.info.lossy for reader in opened.values()]
        for block in aligned_blocks(opened, files, sample_rate=rate, n_channels=n_channels, notices=notices):
            block[lossy] = np.rint(block[lossy] * _FULL_SCALE) / _FULL_SCALE
            rows = block if track.mix is not None else np.concatenate([block, block.sum(axis=0, keepdims=True)])
            spool.append(rows.reshape(-1, rows.shape[-1]))
    return TrueStems(stems, n_channels, rate, spool, tuple(notices))


def aligned_blocks(
    readers: Mapping[str, AudioReader],
    files: Mapping[str, AudioFile],
    *,
    sample_rate: int,
    n_channels: int,
    notices: list[str],
) -> Iterator[FloatArray]:
    """Decode several files side by side.

    Parameters
    ----------
    readers, files : mapping by name
        The signals, in the order of the results, opened, and where they are.
    sample_rate, n_channels : int
        Of the results: others are resampled; one channel is used for both where there are two.
    notices : list of str
        What was done so, and what was damaged, is added to it.

    Yields
    ------
    ndarray [shape=(signal, channel, time), float32]
        Together as long as the longest signal; shorter ones end in silence.

    Raises
    ------
    AudioError : a file cannot be decoded, its channels do not fit, or lengths differ by more than `TOLERANCE_S`
    """
    streams = []
    widest = next((files[name] for name, one in readers.items() if one.info.n_channels == n_channels), None)
    for name, reader in readers.items():
        _check_channels(files[name], reader, n_channels, widest)
        if reader.info.sample_rate != sample_rate:
            notices.append(f"{name}: resampled from {reader.info.sample_rate} to {sample_rate} Hz")
        if reader.info.n_channels != n_channels:
            notices.append(f"{name}: its one channel is used for both")
        streams.append(_blocks(reader, sample_rate, n_channels))
    lengths = [0] * len(streams)
    queues = [SampleQueue((n_channels,)) for _ in streams]
    while True:
        n_ready = 0
        for index, (stream, queue) in enumerate(zip(streams, queues, strict=True)):
            while queue.n_samples < _BLOCK and (block := next(stream, None)) is not None:
                queue.push(block)
                lengths[index] += block.shape[-1]
            n_ready = max(n_ready, min(queue.n_samples, _BLOCK))
        if n_ready == 0:
            break
        yield np.stack([_padded(queue, n_ready) for queue in queues])
    _check_lengths(list(files.items()), lengths, sample_rate, notices)
    for name, reader in readers.items():
        notices.extend(f"{name}: {notice}" for notice in reader.notices)


def _padded(queue: SampleQueue, n: int) -> FloatArray:
    """The next `n` samples of a signal, silence where it has ended."""
    block = queue.pop(min(n, queue.n_samples))
    return np.pad(block, ((0, 0), (0, n - block.shape[-1]))) if block.shape[-1] < n else block


def _blocks(reader: AudioReader, sample_rate: int, n_channels: int) -> Iterator[FloatArray]:
    """A file's audio at another rate, with another number of channels."""
    resampler = StreamResampler(reader.info.sample_rate, sample_rate, reader.info.n_channels)

    def resampled() -> Iterable[FloatArray]:
        yield from map(resampler.push, reader.blocks())
        yield resampler.flush()

    for block in resampled():
        yield np.repeat(block, n_channels // len(block), axis=0)


def _check_channels(file: AudioFile, reader: AudioReader, n_channels: int, widest: AudioFile | None) -> None:
    if reader.info.n_channels not in (1, n_channels):
        other = "the track" if widest is None else _named(widest)
        raise AudioError(
            f"cannot use {_named(file)}: it has {reader.info.n_channels} channels, but {other} {n_channels}"
        )


def _check_lengths(
    files: Sequence[tuple[str, AudioFile]], lengths: Sequence[int], sample_rate: int, notices: list[str]
) -> None:
    """Refuse signals that cannot belong together; note those that are a little shorter than the others."""
    shortest, longest = int(np.argmin(lengths)), int(np.argmax(lengths))
    if lengths[longest] - lengths[shortest] > TOLERANCE_S * sample_rate:
        raise AudioError(
            f"{_named(files[shortest][1])} is {lengths[shortest] / sample_rate:.3f} s long, but "
            f"{_named(files[longest][1])} {lengths[longest] / sample_rate:.3f} s: they may differ by "
            f"{TOLERANCE_S:g} s"
        )
    for (name, _), length in zip(files, lengths, strict=True):
        if length < lengths[longest]:
            notices.append(f"{name}: {lengths[longest] - length} samples shorter than the others, padded with silence")


def _named(file: AudioFile) -> str:
    return f"{str(file.path)!r}" + ("" if file.stream is None else f" (stream {file.stream})")
