"""`Separator`: a model, ready to run, for arrays, streams and files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import TracebackType

import numpy as np

from unbraid.audio.layout import channel_groups, default_channels
from unbraid.audio.read import AudioReader, open_audio
from unbraid.datatypes import AudioInfo, FloatArray, Network, Progress, WriteReport
from unbraid.engines.select import Engine, load_engine, n_cpus
from unbraid.errors import AudioError, UsageError
from unbraid.separation.output import Output, output_paths, write_stems
from unbraid.separation.pipeline import Source, stream_stems
from unbraid.separation.plan import Member, Options, make_plan
from unbraid.separation.runner import NetworkRunner
from unbraid.weights.fetch import FetchProgress
from unbraid.weights.places import cache_folder
from unbraid.weights.store import default_model, load_model

__all__ = ["FileReport", "Separator", "check_part"]

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class FileReport:
    """What became of one file.

    stems : what was written for each stem
    notices : what the user should know: samples that were missing, replaced, clipped, resampled …
    seconds : length of the audio
    """

    source: Path
    stems: dict[str, WriteReport]
    notices: tuple[str, ...]
    seconds: float


class Separator:
    """Takes audio apart with one model; several threads may use it at once.

    model : a name ("spleeter:4stems"; a published one is fetched unless it is here), a model folder or a Spleeter JSON;
        None for $UNBRAID_MODEL, else the best one that needs no download
    options : how to separate
    engine : "openvino", "onnxruntime", "torch" or "auto"
    device : "cpu", "cuda", "mps" or "auto"
    precision : "f32", "bf16" or "auto"
    threads : processor threads for the network; None for all
    compiled : by torch.compile (engine "torch" only): a minute at first, then faster
    cache : whether compiled networks are kept on disk for the next start
    on_fetch : called while a model is fetched; what it raises stops that

    Raises
    ------
    ModelError, EngineError, UsageError : the model, engine or options do not exist or do not fit each other
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        options: Options | None = None,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        compiled: bool = False,
        cache: bool = True,
        on_fetch: Callable[[FetchProgress], None] | None = None,
    ) -> None:
        found = load_model(model or default_model(), on_progress=on_fetch)
        self._options = options or Options()
        self.plan = make_plan(found, self._options)
        self.model_name = found.name

        def load(network: Network, worth_keeping: bool) -> Engine:
            return load_engine(
                network,
                engine=engine,
                device=device,
                precision=precision,
                n_threads=threads,
                n_networks=len(self.plan.members),
                compiled=compiled,
                cache_dir=cache_folder() if cache and worth_keeping else None,
            )

        def runner(member: Member) -> NetworkRunner:
            _, n_samples = member.transform.window(member.transform.segment)
            return NetworkRunner(member.network, n_samples, load)

        with ThreadPoolExecutor(1, "unbraid-load") as pool:
            loading = [pool.submit(runner, member) for member in self.plan.members]
            # Meanwhile, what the first segment will need: it takes as long to import as the network to load.
            import_module("scipy.fft")
            self._runners = [one.result() for one in loading]
        streams = [runner.n_streams for runner in self._runners]
        # Networks of a bag with a thread each run beside each other, but not more of them than there are threads.
        self._n_workers = min(sum(streams), max(*streams, threads or n_cpus()))

    @property
    def engine(self) -> Engine:
        """What runs the network; the first, where the model has several."""
        return self._runners[0].engine

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that makes the results, so that equal ones differ by rounding at most."""
        around = [f"{member.transform.config} {member.mixes}" for member in self.plan.members]
        parts = [*(runner.fingerprint for runner in self._runners), *around, f"{self.stems} {self._options}"]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in order."""
        return self.plan.stems

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio at other rates is resampled on the way in and out."""
        return self.plan.transform.sample_rate

    def separate(
        self, samples: FloatArray, *, sample_rate: int = 44100, on_progress: OnProgress | None = None
    ) -> dict[str, FloatArray]:
        """Separate audio in memory.

        samples : ndarray [shape=(channel, time) or (time,)], real numbers, full scale ±1; not changed
        sample_rate : in Hz
        on_progress : called now and then; what it raises stops the work

        returns : {stem: ndarray of the shape of `samples`, float32}

        Raises
        ------
        UsageError : `samples` is not such an array, or holds values that are not finite
        """
        audio = _checked(samples)
        source = Source(sample_rate, default_channels(len(audio)), lambda: iter([audio]))
        out = np.empty((len(self.stems), *audio.shape), np.float32)
        start = 0
        for block in self._stream(source, None, audio.shape[-1] / sample_rate, on_progress):
            out[..., start : start + block.shape[-1]] = block
            start += block.shape[-1]
        assert start == audio.shape[-1], (start, audio.shape)
        return {stem: one.reshape(np.shape(samples)) for stem, one in zip(self.stems, out, strict=True)}

    def stream(self, blocks: Iterable[FloatArray], *, sample_rate: int = 44100) -> Iterator[dict[str, FloatArray]]:
        """Separate audio as it comes, in bounded memory.

        blocks : of shape (channel, time), any length each
        sample_rate : in Hz

        Yields
        ------
        {stem: ndarray [shape=(channel, time), float32]}
            In blocks of other lengths, together as long as the input.

        Raises
        ------
        UsageError : the track must be read twice (the Wiener filter, models of the Demucs family), which an iterator
            does not allow; anything that can be iterated again, such as a list, does
        """
        only_once = isinstance(blocks, Iterator)
        if only_once and self.plan.n_passes > 1:
            what = "the Wiener filter" if self.plan.transform.wiener else f"the model {self.model_name}"
            raise UsageError(f"{what} reads the track twice, which a stream does not allow; use separate()")
        start = iter(blocks)
        first = next(start, None)
        if first is None:
            return
        n_channels = len(_checked(first))

        def restart() -> Iterator[FloatArray]:
            for block in map(_checked, chain([first], start) if only_once else blocks):
                if len(block) != n_channels:
                    raise UsageError(f"blocks must all have {n_channels} channels, got {len(block)}")
                yield block

        source = Source(sample_rate, default_channels(n_channels), restart)
        for block in stream_stems(source, self.plan, self._runners, n_workers=self._n_workers):
            yield dict(zip(self.stems, block, strict=True))

    def separate_to_file(
        self,
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        output: Output | None = None,
        offset_s: float = 0.0,
        duration_s: float | None = None,
        strict: bool = False,
        on_progress: OnProgress | None = None,
    ) -> FileReport:
        """Separate a file into files, in bounded memory; all of them appear when all are complete.

        path : of any audio or video file
        folder : where the stems go; existing files are replaced
        output : how they are written; None for WAV with the input's sample rate, channels and bit depth
        offset_s, duration_s : the part to separate, in seconds; None for all the rest
        strict : make a damaged or truncated file an error instead of a notice
        on_progress : called now and then; what it raises stops the work, and no file is left

        Raises
        ------
        AudioError : the file cannot be read, or the stems cannot be written
        UsageError : the options do not fit the file
        """
        check_part(offset_s, duration_s)
        path, output = Path(path), output or Output()
        paths = output_paths(path, self.stems, Path(folder), output)
        with open_audio(path, strict=strict) as reader:
            info, notices = reader.info, []
            encoding = output.encoding(info)
            rate = output.sample_rate or info.sample_rate
            written_rate = encoding.nearest_sample_rate(rate)
            if written_rate != rate:
                notices.append(f"{encoding.codec} cannot have {rate} Hz: written at {written_rate} Hz")
            source = _file_source(reader, output.n_channels, offset_s, duration_s)
            blocks = self._stream(source, path, _seconds(info, offset_s, duration_s), on_progress, written_rate)
            reports = write_stems(
                blocks,
                paths,
                encoding=encoding,
                sample_rate=written_rate,
                channels=source.channels,
                tags=dict(info.tags),
                clip=output.clip,
            )
            notices += [*reader.notices, *_clipping(reports)]
        seconds = next(iter(reports.values())).n_samples / written_rate
        return FileReport(path, reports, tuple(notices), seconds)

    def _stream(
        self,
        source: Source,
        path: Path | None,
        total_s: float | None,
        on_progress: OnProgress | None,
        output_rate: int | None = None,
    ) -> Iterator[FloatArray]:
        """Blocks of stems, with progress."""

        def measuring(done_s: float) -> None:
            if on_progress:
                on_progress(Progress(path, "measuring", done_s, total_s))

        n_samples = 0
        rate = output_rate or source.sample_rate
        blocks = stream_stems(
            *(source, self.plan, self._runners), n_workers=self._n_workers, output_rate=rate, measuring=measuring
        )
        for block in blocks:
            yield block
            n_samples += block.shape[-1]
            if on_progress:
                on_progress(Progress(path, "separating", n_samples / rate, total_s))

    def close(self) -> None:
        """Release the memory of the networks; the separator cannot be used afterwards."""
        for runner in self._runners:
            runner.close()

    def __enter__(self) -> Separator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_part(offset_s: float, duration_s: float | None) -> None:
    """Refuse a part of a file that cannot be: UsageError."""
    if not (math.isfinite(offset_s) and offset_s >= 0):
        raise UsageError(f"offset must be 0 s or more, got {offset_s}")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"duration must be more than 0 s, got {duration_s}")


def _checked(samples: FloatArray) -> FloatArray:
    """The samples as (channel, time) float32, or a UsageError."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"samples must be floating-point of shape (channel, time), got {array.shape} {array.dtype}")
    if array.ndim == 2 and array.shape[0] > array.shape[1] and array.shape[1] <= 8:
        raise UsageError(f"samples must have shape (channel, time), got {array.shape}: transpose them")
    if not np.isfinite(array).all():
        raise UsageError("samples must be finite, got NaN or infinity")
    return np.atleast_2d(array).astype(np.float32, copy=False)


def _file_source(reader: AudioReader, n_channels: int | None, offset_s: float, duration_s: float | None) -> Source:
    """The part of a file to separate, turned into the wanted number of channels."""
    info = reader.info

    def blocks() -> Iterator[FloatArray]:
        n_samples = 0
        for block in reader.blocks(offset_s=offset_s, duration_s=duration_s):
            n_samples += block.shape[-1]
            if n_channels in (None, len(block)):
                yield block
            elif n_channels == 1:
                yield block.mean(axis=0, keepdims=True)
            else:
                yield _to_stereo(block, info.channels)
        if n_samples == 0:
            raise AudioError(f"cannot separate '{info.path}': there is no audio from {offset_s:g} s on")

    channels = info.channels if n_channels in (None, info.n_channels) else default_channels(n_channels or 2)
    return Source(info.sample_rate, channels, blocks)


def _to_stereo(block: FloatArray, channels: tuple[str, ...]) -> FloatArray:
    """Two channels of any number: pairs left and right (surround 3 dB down), single channels on both (3 dB down)."""
    out = np.zeros((2, block.shape[-1]), np.float32)
    groups = channel_groups(channels)
    for group in groups:
        front = len(groups) == 1 or {channels[i] for i in group} == {"FL", "FR"}
        gain = np.float32(1.0 if front else 0.5**0.5)
        out += gain * block[list(group) if len(group) == 2 else list(group) * 2]
    return out


def _seconds(info: AudioInfo, offset_s: float, duration_s: float | None) -> float | None:
    """How much there is to separate, as far as known."""
    if info.n_samples is None:
        return duration_s
    rest = max(0.0, info.n_samples / info.sample_rate - offset_s)
    return rest if duration_s is None else min(rest, duration_s)


def _clipping(reports: dict[str, WriteReport]) -> list[str]:
    """One notice for each stem that was clipped."""
    return [
        f"{stem}: {report.n_clipped} samples clipped (--clip rescale or --bit-depth float keeps them)"
        for stem, report in reports.items()
        if report.n_clipped
    ]
