"""Turns the files of Open-Unmix, one PyTorch state for each stem, into the weights of our Open-Unmix family."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.dsp.stft import hann
from unbraid.errors import ModelError
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.state import parameter_shapes, target_shapes
from unbraid.weights.convert.network import ConvertedNetwork, check_tensors
from unbraid.weights.convert.torch_file import read_torch_file

__all__ = ["read_openunmix", "target_of"]

# What versions before 1.1 (umx, umxhq and umxse are of that time) kept beside the weights: the sample rate and the
# window of the STFT, the latter also within the transform that contained it.
_RATE = "sample_rate"
_WINDOWS = ("stft.window", "transform.0.window")

# Sample rate and hop of the published models, by (n_fft, channels); no file tells the hop.
_PUBLISHED = {(4096, 2): (44100, 1024), (1024, 1): (16000, 512)}

_SEPARATOR = "separator.json"  # what Open-Unmix's training writes beside its .pth files
_LARGEST_SEPARATOR = 1 << 16  # bytes
_LARGEST_NUMBER = 1 << 30


@dataclass(frozen=True, eq=False)
class _State:
    """One file's content, sorted."""

    path: Path
    tensors: Mapping[str, NDArray[Any]]
    target: TargetConfig
    n_bins: int
    n_channels: int
    sample_rate: int | None
    left_out: tuple[str, ...]


def read_openunmix(files: Mapping[str, Path]) -> ConvertedNetwork:
    """Read an Open-Unmix model from the ``.pth`` files of its stems.

    Sizes are those of the tensors. Sample rate and hop are those of a ``separator.json`` beside the files, else those
    of the published model of the same sizes, which a notice says.

    files : one for each stem, by its name (see `target_of`), in the order that the stems will have

    Raises
    ------
    ModelError : a file cannot be read, is no state of such a network, or disagrees with the others
    """
    if not files:
        raise ModelError("an Open-Unmix model needs one .pth file for each stem, got none")
    states = {stem: _read_state(path) for stem, path in files.items()}
    first = next(iter(states.values()))
    for state in states.values():
        if (state.n_bins, state.n_channels) != (first.n_bins, first.n_channels):
            raise ModelError(
                f"cannot use '{state.path}': it has {state.n_bins} bins and {state.n_channels} channel(s), but "
                f"'{first.path}' has {first.n_bins} and {first.n_channels}; give files of one model"
            )
    sample_rate, hop, notices = _sampling(list(states.values()))
    try:
        config = OpenUnmixConfig(
            stems=tuple(states),
            targets=tuple(state.target for state in states.values()),
            sample_rate=sample_rate,
            n_fft=2 * (first.n_bins - 1),
            hop=hop,
            n_channels=first.n_channels,
            n_iterations=1 if len(states) > 1 else 0,  # Open-Unmix's own choice; a single estimate cannot be refined
        )
    except ModelError as error:
        raise ModelError(f"cannot use '{first.path}': {error}") from error
    left_out = dict.fromkeys(name for state in states.values() for name in state.left_out)
    if left_out:
        notices.append(f"left out, since no part of the networks: {', '.join(left_out)}")
    found = {f"{stem}.{name}": tensor for stem, state in states.items() for name, tensor in state.tensors.items()}
    return ConvertedNetwork(
        "openunmix", config, {name: found[name] for name in parameter_shapes(config)}, tuple(notices)
    )


def target_of(path: Path) -> str:
    """Tell from a file's name which stem its network is for: ``vocals-b62c91ce.pth``, ``umx_vocals.pth``."""
    return re.sub(r"^umx[a-z]*[-_](?=.)|(?<=.)[-_][0-9a-f]{8,64}$", "", path.stem)


def _read_state(path: Path) -> _State:
    content = read_torch_file(path)
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"cannot use '{path}': it holds no tensors by name; give the .pth file of one stem")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise ModelError(f"cannot use '{path}': {name!r} is no tensor; give the .pth file of one stem")
        if tensor.dtype.kind != "f" and name != _RATE and not name.endswith(".num_batches_tracked"):
            raise ModelError(f"cannot use '{path}': tensor '{name}' must be of floating point, got {tensor.dtype}")
    tensors = {name: tensor for name, tensor in content.items() if name not in (_RATE, *_WINDOWS)}
    (n_bins,) = _shape(tensors, "output_mean", 1, path)
    (max_bin,) = _shape(tensors, "input_mean", 1, path)
    hidden_size, n_inputs = _shape(tensors, "fc1.weight", 2, path)
    n_channels = n_inputs // max(1, max_bin)
    try:
        target = TargetConfig(
            hidden_size=hidden_size,
            max_bin=max_bin,
            n_layers=sum(re.fullmatch(r"lstm\.weight_ih_l[0-9]+", name) is not None for name in tensors),
            unidirectional="lstm.weight_ih_l0_reverse" not in tensors,
        )
    except ModelError as error:
        raise ModelError(f"cannot use '{path}': {error}") from error
    check_tensors(tensors, target_shapes(target, n_bins, n_channels), str(path))
    return _State(
        path=path,
        tensors=tensors,
        target=target,
        n_bins=n_bins,
        n_channels=n_channels,
        sample_rate=_checked_extras(content, 2 * (n_bins - 1), path),
        left_out=tuple(name for name in content if name not in tensors),
    )


def _shape(tensors: Mapping[str, NDArray[Any]], name: str, n_axes: int, path: Path) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are taken."""
    if name not in tensors:
        raise ModelError(f"cannot use '{path}': tensor '{name}' is missing; is it the .pth file of an Open-Unmix stem?")
    shape = tensors[name].shape
    if len(shape) != n_axes:
        raise ModelError(f"cannot use '{path}': tensor '{name}' must have {n_axes} axes, got shape {shape}")
    return shape


def _checked_extras(content: Mapping[str, NDArray[Any]], n_fft: int, path: Path) -> int | None:
    """Check what older versions kept beside the weights; return the sample rate, if it is there."""
    for name in _WINDOWS:
        window = content.get(name)
        if window is not None and (window.shape != (n_fft,) or not np.allclose(window, hann(n_fft), atol=1e-4)):
            raise ModelError(f"cannot use '{path}': '{name}' must be a Hann window of {n_fft} samples")
    rate = content.get(_RATE)
    if rate is None:
        return None
    if rate.size != 1 or rate.dtype.kind not in "iuf" or not float(rate.item()).is_integer():
        raise ModelError(f"cannot use '{path}': '{_RATE}' must be a whole number of Hz, got {rate!r}")
    return int(rate.item())


def _sampling(states: Sequence[_State]) -> tuple[int, int, list[str]]:
    """Return sample rate, hop, and what had to be assumed."""
    first = states[0]
    n_fft = 2 * (first.n_bins - 1)
    separator = first.path.parent / _SEPARATOR
    stated = {state.path: state.sample_rate for state in states if state.sample_rate is not None}
    notices = []
    if separator.is_file():
        sample_rate, hop = _read_separator(separator, n_fft, first.n_channels)
        stated = {separator: sample_rate, **stated}
    elif (n_fft, first.n_channels) in _PUBLISHED:
        sample_rate, hop = _PUBLISHED[n_fft, first.n_channels]
        assumed = f"hop {hop}" if stated else f"{sample_rate} Hz, hop {hop}"
        notices.append(f"assumed as in the published models of these sizes: {assumed}")
    else:
        raise ModelError(
            f"cannot use '{first.path}': no published model has {first.n_bins} bins and {first.n_channels} channel(s), "
            f"so its sample rate and hop are unknown; put the {_SEPARATOR} of its training beside it"
        )
    for path, rate in stated.items():
        origin, sample_rate = next(iter(stated.items()))
        if rate != sample_rate:
            raise ModelError(f"cannot use '{path}': it is for {rate} Hz, but '{origin}' for {sample_rate}")
    return sample_rate, hop, notices


def _read_separator(path: Path, n_fft: int, n_channels: int) -> tuple[int, int]:
    """Return sample rate and hop from the JSON that Open-Unmix's training writes."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_SEPARATOR))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read '{path}': {error}; write it again, or move it away") from error
    for key, expected in (("nfft", n_fft), ("nb_channels", n_channels)):
        if not isinstance(content, dict) or content.get(key) != expected:
            raise ModelError(f"cannot use '{path}': {key} must be {expected}, as the tensors' shapes say")
    for key in ("sample_rate", "nhop"):
        value = content.get(key)  # 44100.0 in some
        if type(value) not in (int, float) or not 1 <= value <= _LARGEST_NUMBER or value % 1:
            raise ModelError(f"cannot use '{path}': {key} must be a positive whole number, got {value!r}")
    return int(content["sample_rate"]), int(content["nhop"])
