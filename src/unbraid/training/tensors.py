"""The tensors of a network in training: to and from model folders, to other lists of stems, and which of them learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unbraid.errors import ModelError, UsageError
from unbraid.models import families
from unbraid.models.demucs.network import DemucsNetwork
from unbraid.models.hdemucs.network import HybridUNet
from unbraid.models.spleeter.network import SpleeterNetwork
from unbraid.models.spleeter.shared_unet import SharedUNet
from unbraid.training.networks import Trainable

__all__ = ["freeze", "load_arrays", "set_batch_norm", "state_arrays", "transfer"]

# What torch counts beside the statistics of a batch normalisation; nothing depends on it.
_COUNTS: Final = ".num_batches_tracked"


def state_arrays(trainable: Trainable) -> dict[str, NDArray[Any]]:
    """The weights as a model folder holds them.

    returns : copies by name, in the order of the family's `shapes`: float32, and int64 where torch counts batches
    """
    state = trainable.network.state_dict()
    arrays = {}
    for name in _shapes(trainable):
        value = state[name].detach().cpu()
        arrays[name] = (value.float() if value.is_floating_point() else value).numpy().copy()
    return arrays


def load_arrays(trainable: Trainable, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Set the weights to those of a model folder.

    arrays : by name, as `state_arrays` gives them, in any precision; torch's counts of batches may be left out

    Raises
    ------
    ModelError : a tensor is missing, unknown, of another shape, or not finite; then nothing has changed
    """
    shapes = _shapes(trainable)
    for name, shape in shapes.items():
        if name not in arrays:
            if name.endswith(_COUNTS):
                continue
            raise ModelError(f"cannot load weights: '{name}' is missing")
        if tuple(arrays[name].shape) != shape:
            raise ModelError(f"cannot load weights: '{name}' must be {shape}, got {tuple(arrays[name].shape)}")
        if not np.isfinite(arrays[name]).all():
            raise ModelError(f"cannot load weights: '{name}' is not finite")
    unknown = sorted(name for name in arrays if name not in shapes and not name.endswith(_COUNTS))
    if unknown:
        raise ModelError(f"cannot load weights: this network has no '{unknown[0]}'")
    state = trainable.network.state_dict()
    for name, value in arrays.items():
        if name in shapes:
            state[name].copy_(_tensor(value))


def transfer(trainable: Trainable, arrays: Mapping[str, NDArray[Any]], config_from: Any) -> tuple[list[str], list[str]]:
    """Take over as many weights as fit from a network of the same family, which may know other stems.

    A tensor fits by its name and shape. Where tensors belong to stems (Spleeter's U-Nets, Open-Unmix's networks), or
    parts of them do (the layers that give all stems' channels), each stem gets those of the stem of its name.

    arrays : weights of the other network, as `state_arrays` gives them
    config_from : its configuration

    Returns
    -------
    kept : names of the tensors that were taken over as wholes
    new : names of all others: what no stem of the other network had is as random as before in them
    """
    state, axes = trainable.network.state_dict(), dict(_stem_axes(trainable.network))
    stems, old_stems = trainable.stems, tuple(config_from.stems)
    kept: list[str] = []
    new: list[str] = []
    for name in _shapes(trainable):
        old_name = _old_name(trainable, name, old_stems)
        whole = False
        if old_name is not None and old_name in arrays:
            old = _tensor(arrays[old_name])
            if name in axes:
                whole = _copy_stems(state[name], old, axes[name], stems, old_stems)
            elif old.shape == state[name].shape:
                state[name].copy_(old)
                whole = True
        (kept if whole else new).append(name)
    return kept, new


def freeze(trainable: Trainable, patterns: Sequence[str]) -> list[str]:
    """Keep parameters from learning.

    patterns : of their names in a model folder, as a shell's patterns: "encoder.*"
    returns : the names that are frozen now by these patterns

    Raises
    ------
    UsageError : a pattern that fits no parameter
    """
    parameters = dict(trainable.network.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        found = {name for name in parameters if fnmatchcase(name, pattern)}
        if not found:
            raise UsageError(f"no parameter fits the pattern '{pattern}'; the first one is '{next(iter(parameters))}'")
        frozen |= found
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [name for name in parameters if name in frozen]


def set_batch_norm(trainable: Trainable, mode: str) -> None:
    """Say whether batch normalisations follow the examples.

    mode : "live": in training they normalise by each batch, and their statistics move; "frozen": they keep to their
        statistics, also after calls of `train`. Their weights and biases learn either way

    Raises
    ------
    UsageError : another word
    """
    if mode not in ("live", "frozen"):
        raise UsageError(f"batch_norm must be live or frozen, got '{mode}'")
    trainable.batch_norm = mode
    trainable.train(trainable.training)


def _shapes(trainable: Trainable) -> dict[str, tuple[int, ...]]:
    return families.family(trainable.family).shapes(trainable.config)


def _tensor(array: NDArray[Any]) -> Tensor:
    """A copy as torch takes it: files may hold arrays that are read-only, or of another byte order."""
    return torch.from_numpy(np.array(array, np.int64 if array.dtype.kind in "iu" else np.float32))


def _stem_axes(network: nn.Module) -> Iterator[tuple[str, int]]:
    """Names of the tensors that give all stems' channels, stem after stem, and the axis along which they do."""
    outermost: list[Any] = []
    if isinstance(network, DemucsNetwork):
        outermost = [network.final if network.config.upsample else list(network.decoder)[-1][-1]]  # type: ignore[index]
    elif isinstance(network, HybridUNet):
        for decoder in (network.decoder, network.tdecoder):
            for layer in list(decoder)[-1:]:
                for part in getattr(layer, "layers", [layer]):  # one a band
                    outermost += [part.conv_tr, part.norm2]
    elif isinstance(network, SharedUNet):
        outermost = [network.head]
    for name, module in network.named_modules():
        if any(module is one for one in outermost):
            transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
            for parameter, _ in module.named_parameters():
                yield f"{name}.{parameter}", 1 if transposed and parameter == "weight" else 0


def _old_name(trainable: Trainable, name: str, old_stems: tuple[str, ...]) -> str | None:
    """The name that a tensor has in a network of other stems; None where it belongs to a stem that is none of them."""
    if not isinstance(trainable.network, SpleeterNetwork):  # Open-Unmix has names of stems in those of tensors
        return name
    prefix, index, rest = name.split(".", 2)
    stem = trainable.stems[int(index)]
    return f"{prefix}.{old_stems.index(stem)}.{rest}" if stem in old_stems else None


def _copy_stems(target: Tensor, old: Tensor, axis: int, stems: tuple[str, ...], old_stems: tuple[str, ...]) -> bool:
    """Copy the parts of a tensor that belong to stems which both networks have; tell whether that is all of it."""
    if old.ndim != target.ndim or old.shape[axis] % len(old_stems):
        return False
    parts, old_parts = target.chunk(len(stems), axis), old.chunk(len(old_stems), axis)
    if parts[0].shape != old_parts[0].shape:
        return False
    for part, stem in zip(parts, stems, strict=True):
        if stem in old_stems:
            part.copy_(old_parts[old_stems.index(stem)])
    return set(stems) <= set(old_stems)
