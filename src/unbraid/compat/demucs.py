"""Demucs's programming interface: change ``from demucs.api import`` to ``from unbraid.compat.demucs import``.

Signatures, axis order, (channels, samples), and numbers are those of Demucs 4.1 without its random shift (its
``shifts=0``). On purpose different are

- the values: torch tensors where the input was one or, of a file, where torch is installed; else NumPy arrays;
- `shifts`: 0 and 1 are one run without a shift, so that the same input gives the same stems;
- `device`: None is the processor, also where there is a GPU;
- `jobs`, which is not used: all processors are, by one network at a time;
- channels beyond the model's two, which are separated in pairs and come back, all of them;
- `repo`, which is refused: `unbraid models import` takes such a folder;
- errors, which are `unbraid.UnbraidError` and its kin.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unbraid.audio.encoding import CODECS, Encoding
from unbraid.audio.read import read_audio
from unbraid.audio.resample import resample
from unbraid.audio.write import write_audio
from unbraid.datatypes import Audio, FloatArray, Progress
from unbraid.errors import ModelError, UsageError
from unbraid.separation.plan import MAX_SHIFT_S, Options
from unbraid.separation.separator import Separator as _Separator
from unbraid.weights.catalog import catalog
from unbraid.weights.model_file import read_model_file
from unbraid.weights.overview import folder_of
from unbraid.weights.store import available_models

__all__ = ["LoadedModel", "Separator", "list_models", "save_audio"]

Callback = Callable[[dict[str, Any]], object]
# Parameters that decide what is loaded.
_LOADED_WITH = ("device", "shifts", "overlap", "segment")


@dataclass(frozen=True)
class LoadedModel:
    """What Demucs's programs ask of `Separator.model`.

    sources : names of the stems, in order
    samplerate : in Hz
    audio_channels : that its networks take
    segment : seconds that they see at once
    """

    sources: tuple[str, ...]
    samplerate: int
    audio_channels: int
    segment: float


@dataclass(frozen=True)
class _Parameters:
    """See `Separator`."""

    device: Any
    shifts: int
    overlap: float
    split: bool
    segment: float | None
    jobs: int
    progress: bool
    callback: Callback | None
    callback_arg: Mapping[str, Any] | None


class Separator:
    """Demucs's separator, run by Unbraid.

    model : any that `unbraid.Separator` takes; a published one is fetched when it is first named
    repo : must be None
    device : "cpu", "cuda" or "mps", also as a torch.device; None for the processor
    shifts : average over so many runs, each with the track moved by up to half a second; 0 and 1 are one without
    overlap : share of a segment that the next one covers again, in [0, 1)
    split : False runs the network once over the whole track, which takes memory and time to prepare for each length,
        and is an error where the model has a longest segment (HT Demucs) and the track is longer
    segment : seconds that the network sees at once; None for the model's own
    jobs : not used
    progress : whether to show a bar on the error stream
    callback : called with a dict when a part of the track begins and ends; what it raises stops the work. Members of a
        bag and shifts all advance together here; `model_idx_in_bag`, `shift_idx` and `segment_offset` say how far
        that is as if they came one after the other
    callback_arg : what else the dict holds

    Raises
    ------
    ModelError, EngineError, UsageError : the model, the device or the options do not exist or do not fit each other
    """

    def __init__(
        self,
        model: str = "htdemucs",
        repo: str | os.PathLike[str] | None = None,
        device: Any = None,
        shifts: int = 1,
        overlap: float = 0.25,
        split: bool = True,
        segment: float | None = None,
        jobs: int = 0,
        progress: bool = False,
        callback: Callback | None = None,
        callback_arg: Mapping[str, Any] | None = None,
    ) -> None:
        _refuse_repo(repo)
        self._name = model
        self._parameters = _Parameters(device, shifts, overlap, split, segment, jobs, progress, callback, callback_arg)
        self._separator = self._load(self._parameters)

    def update_parameter(self, **changes: Any) -> None:
        """Change parameters of the constructor, all but `model` and `repo`, by their names.

        Raises
        ------
        UsageError, EngineError : as the constructor; then all stays as it was
        """
        changed = replace(self._parameters, **changes)
        if any(getattr(changed, name) != getattr(self._parameters, name) for name in _LOADED_WITH):
            loaded = self._load(changed)
            self._separator.close()
            self._separator = loaded
        self._parameters = changed

    def separate_tensor(self, wav: Any, sr: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Separate audio in memory.

        wav : torch tensor or array [shape=(channels, samples)] of floating-point numbers; not changed
        sr : its sample rate in Hz; None for the model's
        returns : (`wav` at the model's sample rate, {stem: the same shape}). One channel becomes as many as the model
            has; of a model with one, they are the mean of all.

        Raises
        ------
        UsageError : `wav` is not of that shape or type, or holds values that are not finite
        """
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(wav, torch.Tensor):
            return self._separate(np.asarray(wav), sr)
        samples = wav.detach().float().cpu().numpy() if wav.is_floating_point() else wav.cpu().numpy()
        mix, stems = self._separate(samples, sr)
        given = {name: torch.from_numpy(stem).to(wav.device) for name, stem in stems.items()}
        return wav if mix is samples else torch.from_numpy(mix).to(wav.device), given

    def separate_audio_file(self, file: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
        """Separate an audio or video file; returns what `separate_tensor` does.

        Raises
        ------
        AudioError : the file cannot be read
        """
        audio = read_audio(file)
        if importlib.util.find_spec("torch") is None:
            return self._separate(audio.samples, audio.sample_rate)
        import torch

        return self.separate_tensor(torch.from_numpy(audio.samples), audio.sample_rate)

    @property
    def samplerate(self) -> int:
        """Of the model, and so of all that is returned, in Hz."""
        return self._separator.sample_rate

    @property
    def audio_channels(self) -> int:
        """Of the model."""
        return self._separator.plan.transform.n_channels

    @property
    def model(self) -> LoadedModel:
        """What is known of the model; the networks themselves are not torch modules here."""
        segment_s = self._separator.plan.transform.segment / self.samplerate
        return LoadedModel(self._separator.stems, self.samplerate, self.audio_channels, segment_s)

    def _load(self, parameters: _Parameters) -> _Separator:
        options = Options(shifts=parameters.shifts, overlap=parameters.overlap, segment_s=parameters.segment)
        return _Separator(self._name, options=options, device=_device_name(parameters.device), precision="f32")

    def _separate(self, wav: FloatArray, sample_rate: int | None) -> tuple[FloatArray, dict[str, FloatArray]]:
        """The same in NumPy; the mix returned is `wav` itself where it was as the model wants it."""
        if wav.ndim != 2 or not np.issubdtype(wav.dtype, np.floating):
            raise UsageError(f"wav must be floating-point of shape (channels, samples), got {wav.shape} {wav.dtype}")
        if sample_rate is not None and sample_rate <= 0:
            raise UsageError(f"sr must be a sample rate in Hz, got {sample_rate}")
        mix = wav.astype(np.float32, copy=False)
        if len(mix) == 1 < self.audio_channels:
            mix = np.repeat(mix, self.audio_channels, axis=0)
        elif len(mix) > 1 == self.audio_channels:
            mix = mix.mean(axis=0, keepdims=True)
        if sample_rate is not None and sample_rate != self.samplerate:
            mix = resample(mix, int(sample_rate), self.samplerate)
        if self._parameters.split:
            return mix, self._run(self._separator, mix)
        with self._load(self._in_one(mix.shape[1])) as whole:
            return mix, self._run(whole, mix)

    def _in_one(self, n_samples: int) -> _Parameters:
        """The parameters that make one segment of a whole track."""
        transform, parameters = self._separator.plan.transform, replace(self._parameters, overlap=0.0)
        n_samples += transform.lead + (int(MAX_SHIFT_S * self.samplerate) if parameters.shifts > 1 else 0)
        if n_samples <= transform.segment:
            return parameters
        # A quarter more, so that neither rounding nor cutting makes it one sample less.
        return replace(parameters, segment=(n_samples + 0.25) / self.samplerate)

    def _run(self, separator: _Separator, mix: FloatArray) -> dict[str, FloatArray]:
        report = self._reporter(separator, mix.shape[1])
        with _bar(mix.shape[1] / self.samplerate, shown=self._parameters.progress) as show:

            def on_progress(progress: Progress) -> None:
                show(progress)
                if progress.stage == "separating":
                    report(round(progress.done_s * self.samplerate))

            return separator.separate(mix, sample_rate=self.samplerate, on_progress=on_progress)

    def _reporter(self, separator: _Separator, n_samples: int) -> Callable[[int], None]:
        """Tells the callback, as Demucs does, of parts that begin and end; is told how many samples are done."""
        callback, more = self._parameters.callback, self._parameters.callback_arg or {}
        if callback is None:
            return lambda done: None
        n_models, n_shifts = len(separator.plan.members), max(1, self._parameters.shifts)
        begun = 0

        def tell(place: int, state: str) -> None:
            runs, offset = divmod(place * n_models * n_shifts, n_samples)
            place_in_bag = {
                "model_idx_in_bag": runs // n_shifts,
                "shift_idx": runs % n_shifts,
                "segment_offset": offset,
            }
            callback({**more, **place_in_bag, "state": state, "audio_length": n_samples, "models": n_models})

        def report(done: int) -> None:
            nonlocal begun
            tell(begun, "end")
            begun = done
            if done < n_samples:
                tell(done, "start")

        if n_samples:
            tell(0, "start")
        return report


def _device_name(device: Any) -> str:
    """Unbraid's name of a device of torch; the first of its kind has no number."""
    return "auto" if device is None else str(device).removesuffix(":0")


def _refuse_repo(repo: object | None) -> None:
    if repo is not None:
        raise UsageError(
            f"repo must be None, got '{repo}': 'unbraid models import' installs the models of such a folder, "
            "to be used by their names"
        )


@contextmanager
def _bar(total_s: float, *, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on the error stream while the block runs."""
    if not shown:
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total_s)
        yield lambda progress: bars.update(task, description=progress.stage, completed=progress.done_s)


def save_audio(
    wav: Any,
    path: str | os.PathLike[str],
    samplerate: int,
    bitrate: int = 320,
    clip: str | None = "rescale",
    bits_per_sample: int = 16,
    as_float: bool = False,
    preset: int = 2,
) -> None:
    """Write audio in the format that the path's suffix names: all those of `unbraid separate -c`.

    wav : torch tensor or array [shape=(channels, samples)]
    bitrate : of lossy formats, in kbit/s
    clip : "rescale" (down by 1.01 times the peak if that is beyond full scale), "clamp" (to ±0.99), "tanh" or "none"
        (then floats are kept beyond full scale, where Demucs cuts them off)
    bits_per_sample : 16 or 24, of wav and flac
    as_float : write a float wav instead
    preset : not used

    Raises
    ------
    UsageError : an unknown suffix or value
    AudioError : the file cannot be written
    """
    samples = np.asarray(wav.detach().cpu() if hasattr(wav, "detach") else wav, np.float32)
    codec = Path(path).suffix.lower().removeprefix(".")
    if codec not in CODECS:
        raise UsageError(f"the suffix of '{path}' must be one of .{', .'.join(CODECS)}")
    if clip not in _CLIPPING:
        raise UsageError(f"clip must be one of rescale, clamp, tanh, none, got {clip!r}")
    if CODECS[codec].bit_depths:
        encoding = Encoding(codec, "float" if as_float else bits_per_sample)
    else:
        encoding = Encoding(codec, bitrate=bitrate * 1000)
    write_audio(path, Audio(_CLIPPING[clip](samples), samplerate), encoding=encoding)


_CLIPPING: dict[str | None, Callable[[FloatArray], FloatArray]] = {
    "rescale": lambda samples: samples / max(np.float32(1.01) * np.abs(samples).max(initial=0), np.float32(1)),
    "clamp": lambda samples: np.clip(samples, np.float32(-0.99), np.float32(0.99)),
    "tanh": np.tanh,
    "none": lambda samples: samples,
    None: lambda samples: samples,
}


def list_models(repo: str | os.PathLike[str] | None = None) -> dict[str, dict[str, str | Path]]:
    """All models by name: those of one network under "single", of several under "bag".

    repo : must be None
    returns : for each its folder, or the address of what it would be fetched from
    """
    _refuse_repo(repo)
    models: dict[str, dict[str, str | Path]] = {"single": {}, "bag": {}}
    for name in available_models():
        where: str | Path
        try:
            where = folder_of(name)
            n_networks = len(read_model_file(where).networks)
        except ModelError:  # not installed, or damaged
            if name not in catalog():
                continue
            files = catalog()[name].files
            where = files[0].remote.addresses[0]
            n_networks = 1 if files[0].target else len(files)
        models["bag" if n_networks > 1 else "single"][name] = where
    return models
