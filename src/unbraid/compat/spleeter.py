"""Spleeter's `Separator`: change ``from spleeter.separator import`` to ``from unbraid.compat.spleeter import``.

Signatures and axis order, (samples, channels), are Spleeter's, and so are the numbers: the masks end where the model's
configuration says. On purpose different are `duration`, which is the whole file by default instead of ten minutes,
the sample rate and channels of the files written, which are the input's, and that a failure raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from unbraid.audio.encoding import parse_bitrate
from unbraid.datatypes import FloatArray
from unbraid.errors import CancelledError, UsageError
from unbraid.separation.output import Output, output_paths, write_stems
from unbraid.separation.plan import Options
from unbraid.separation.separator import Separator as _Separator

__all__ = ["Separator"]


class Separator:
    """Spleeter's separator, run by Unbraid.

    params_descriptor : "spleeter:4stems" …, a Spleeter JSON, or any model that `unbraid.Separator` takes
    MWF : refine by the multichannel Wiener filter
    multiprocess : whether `synchronous=False` really works in the background
    """

    def __init__(self, params_descriptor: str, MWF: bool = False, multiprocess: bool = True) -> None:
        self._separator = _Separator(params_descriptor, options=Options(wiener=MWF, high_band="model"))
        self._pool = ThreadPoolExecutor(1, "unbraid-spleeter") if multiprocess else None
        self._tasks: list[Future[None]] = []

    def separate(self, waveform: FloatArray, audio_descriptor: str | None = "") -> dict[str, FloatArray]:
        """Separate audio at the model's sample rate (44.1 kHz).

        waveform : ndarray [shape=(samples, channels)]
        audio_descriptor : not used, as in Spleeter
        returns : {instrument: ndarray [shape=(samples, channels), float32]}
        """
        if np.ndim(waveform) != 2:
            raise UsageError(f"waveform must have shape (samples, channels), got {np.shape(waveform)}")
        stems = self._separator.separate(
            np.ascontiguousarray(np.asarray(waveform).T), sample_rate=self._separator.sample_rate
        )
        return {name: stem.T for name, stem in stems.items()}

    def separate_to_file(
        self,
        audio_descriptor: str | Path,
        destination: str | Path,
        audio_adapter: object | None = None,
        offset: float = 0,
        duration: float | None = None,
        codec: Any = "wav",
        bitrate: str = "128k",
        filename_format: str = "{filename}/{instrument}.{codec}",
        synchronous: bool = True,
    ) -> None:
        """Separate a file into files below `destination`; existing ones are replaced.

        Raises
        ------
        UsageError : an `audio_adapter` is given: files are read by Unbraid itself
        """
        _refuse_adapter(audio_adapter)
        output = _output(codec, bitrate, filename_format)

        def work() -> None:
            self._separator.separate_to_file(
                audio_descriptor, destination, output=output, offset_s=offset, duration_s=duration
            )

        self._run(work, synchronous)

    def save_to_file(
        self,
        sources: Mapping[str, FloatArray],
        audio_descriptor: str | Path,
        destination: str | Path,
        filename_format: str = "{filename}/{instrument}.{codec}",
        codec: Any = "wav",
        audio_adapter: object | None = None,
        bitrate: str = "128k",
        synchronous: bool = True,
    ) -> None:
        """Write what `separate` returned.

        sources : {instrument: ndarray [shape=(samples, channels)]}
        """
        _refuse_adapter(audio_adapter)
        output = _output(codec, bitrate, filename_format)
        paths = output_paths(Path(audio_descriptor), tuple(sources), Path(destination), output)
        stems = np.stack([np.asarray(source, np.float32).T for source in sources.values()])

        def work() -> None:
            from unbraid.audio.layout import default_channels

            write_stems(
                iter([stems]),
                paths,
                encoding=output.encoding(None),
                sample_rate=self._separator.sample_rate,
                channels=default_channels(stems.shape[1]),
                tags={},
                clip=output.clip,
            )

        self._run(work, synchronous)

    def join(self, timeout: float = 200) -> None:
        """Wait for the work in the background.

        Raises
        ------
        UnbraidError : what failed there
        CancelledError : `timeout` seconds were not enough
        """
        tasks, self._tasks = self._tasks, []
        unfinished = wait(tasks, timeout).not_done
        if unfinished:
            self._tasks = list(unfinished)
            raise CancelledError(f"{len(unfinished)} files were not written within {timeout} s; join() again")
        for task in tasks:
            task.result()

    def _run(self, work: Any, synchronous: bool) -> None:
        if synchronous or self._pool is None:
            work()
        else:
            self._tasks.append(self._pool.submit(work))


def _refuse_adapter(audio_adapter: object | None) -> None:
    if audio_adapter is not None:
        raise UsageError("audio_adapter must be None: Unbraid reads and writes files itself")


def _output(codec: Any, bitrate: str, filename_format: str) -> Output:
    """Spleeter's codecs are an enumeration of strings; here plain strings do."""
    name = str(getattr(codec, "value", codec))
    lossless = name in ("wav", "flac")
    return Output(codec=name, bitrate=None if lossless else parse_bitrate(bitrate), filename_format=filename_format)
