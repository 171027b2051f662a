"""Turns checkpoints of Spleeter, as TensorFlow writes them, into the weights of our Spleeter family."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError
from unbraid.weights.convert.bundle import read_bundle

__all__ = ["latest_checkpoint", "read_checkpoint", "spleeter_state"]

_N_LAYERS = 6  # of the encoder, and of the decoder

# In bytes: with ``.data-00000-of-00001`` after it, it is the name of a file, which has at most 255.
_LONGEST_NAME = 235

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

# What the optimisers of Spleeter (Adam, SGD, Adadelta) keep beside the weights.
_TRAINING_STATE = re.compile(r"global_step|beta[12]_power|.+/(Adam|Adam_1|Adadelta|Adadelta_1|Momentum)")


def latest_checkpoint(folder: Path) -> Path:
    """Return the prefix of the checkpoint that the folder's file ``checkpoint`` names, else of the only one there.

    Raises ModelError where there is none, several of which none is named, or one outside the folder is named.
    """
    pointer = folder / "checkpoint"
    if not pointer.exists():
        found = sorted(folder.glob("*.index"))
        if len(found) != 1:
            what = "several checkpoints and no file 'checkpoint' that names one" if found else "no checkpoint"
            raise ModelError(
                f"cannot load the weights in '{folder}': there is {what}; unpack the model's archive there"
            )
        return found[0].with_suffix("")
    try:
        with pointer.open("rb") as file:
            text = file.read(1 << 16).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read '{pointer}': {error}; unpack the model's archive again") from error
    match = re.search(r'^[ \t]*model_checkpoint_path:\s*"([^"\n]*)"', text, re.MULTILINE)
    # TensorFlow writes the whole path on the machine that trained; the files lie beside `checkpoint`, or nowhere.
    path = match.group(1) if match else ""
    name = re.split(r"[/\\]", path)[-1]
    if (
        name in ("", ".", "..")
        or not name.isprintable()
        or re.search(r'[:*?"<>|]', name)
        or len(name.encode()) > _LONGEST_NAME
    ):
        raise ModelError(
            f"cannot use '{pointer}': it must name a checkpoint of its own folder, got {path[:200]!r}; "
            'write model_checkpoint_path: "model" with the name of the .index file'
        )
    prefix = folder / name
    if not prefix.with_name(name + ".index").is_file():
        raise ModelError(f"cannot load the weights in '{folder}': '{name}.index' is missing; unpack the archive again")
    return prefix


def read_checkpoint(prefix: Path) -> dict[str, NDArray[Any]]:
    """Map every tensor of a TensorFlow checkpoint by its name, each checked against its CRC-32C.

    prefix : path of the checkpoint without ``.index``, from `latest_checkpoint`
    Returns read-only arrays that lie in the checkpoint's files.
    Raises ModelError, naming file and tensor, for whatever is missing or damaged.
    """
    return read_bundle(prefix)


def spleeter_state(checkpoint: Mapping[str, NDArray[Any]], stems: Sequence[str]) -> dict[str, FloatArray]:
    """Return the weights of our torch module of the Spleeter family from a Spleeter checkpoint's tensors.

    Spleeter builds one U-Net for each stem, in the order of its instrument_list, and lets TensorFlow number the layers
    through all of them. Kernels are (height, width, in, out) there, transposed ones (height, width, out, in).

    checkpoint : tensors by TensorFlow's names; float32
    stems : names of the stems in the order of the configuration's instrument_list
    Returns views of them by the module's names, ``stems.0.encoder.0.conv.weight`` (out, in, height, width) and so on.
    Raises ModelError where a tensor is missing, of another shape than the rest asks for, not finite, or left over.
    """
    n_channels, n_filters = _sizes(checkpoint, stems)
    state: dict[str, FloatArray] = {}
    used: set[str] = set()
    for k, stem in enumerate(stems):
        for target, source, shape in _tensors(k, n_channels, n_filters):
            used.add(source)
            state[f"stems.{k}.{target}"] = _converted(checkpoint, source, shape, stem)
        # The last layer of the encoder is normalised for nothing: the result goes nowhere.
        used |= {f"{_layer('batch_normalization', 12 * k + 5)}/{name}" for name in _NORM.values()}
    for name in checkpoint:
        if name not in used and not _TRAINING_STATE.fullmatch(name):
            raise ModelError(
                f"cannot use checkpoint: tensor '{name}' belongs to none of the stems {', '.join(stems)}; "
                "does the configuration's instrument_list fit these weights?"
            )
    return state


def _layer(kind: str, index: int) -> str:
    """TensorFlow's name of the index-th layer of its kind."""
    return f"{kind}_{index}" if index else kind


def _sizes(checkpoint: Mapping[str, NDArray[Any]], stems: Sequence[str]) -> tuple[int, list[int]]:
    """Return the number of channels and of filters in each layer, from the first stem's encoder."""
    n_in, n_filters = [], []
    for i in range(_N_LAYERS):
        kernel = _tensor(checkpoint, f"{_layer('conv2d', i)}/kernel", stems[0])
        if kernel.ndim != 4:
            raise ModelError(
                f"cannot use checkpoint: '{_layer('conv2d', i)}/kernel' has shape {kernel.shape}, expected 4 numbers"
            )
        n_in.append(kernel.shape[2])
        n_filters.append(kernel.shape[3])
    return n_in[0], n_filters


def _tensors(k: int, n_channels: int, n_filters: list[int]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield our name, TensorFlow's name and TensorFlow's shape of every tensor of the k-th stem."""

    def layer(
        target: str, source: str, kernel: tuple[int, ...], n_out: int
    ) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        yield f"{target}.weight", f"{source}/kernel", kernel
        yield f"{target}.bias", f"{source}/bias", (n_out,)

    def norm(target: str, index: int, n_out: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for ours, theirs in _NORM.items():
            yield f"{target}.{ours}", f"{_layer('batch_normalization', index)}/{theirs}", (n_out,)

    n_in = [n_channels, *n_filters[:-1]]
    for i, n_out in enumerate(n_filters):
        kernel = (5, 5, n_in[i], n_out)
        yield from layer(f"encoder.{i}.conv", _layer("conv2d", 7 * k + i), kernel, n_out)
        if i < _N_LAYERS - 1:
            yield from norm(f"encoder.{i}.norm", 12 * k + i, n_out)
    for i, n_out in enumerate([*n_filters[-2::-1], 1]):
        # From the second on, a layer sees the one before it and the encoder's output of the same size.
        n_seen = n_filters[-1] if i == 0 else 2 * n_filters[_N_LAYERS - 1 - i]
        kernel = (5, 5, n_out, n_seen)
        yield from layer(f"decoder.{i}.conv", _layer("conv2d_transpose", 6 * k + i), kernel, n_out)
        yield from norm(f"decoder.{i}.norm", 12 * k + _N_LAYERS + i, n_out)
    yield from layer("mask", _layer("conv2d", 7 * k + 6), (4, 4, 1, n_channels), n_channels)


def _tensor(checkpoint: Mapping[str, NDArray[Any]], name: str, stem: str) -> NDArray[Any]:
    try:
        return checkpoint[name]
    except KeyError:
        raise ModelError(
            f"cannot use checkpoint: tensor '{name}' of stem '{stem}' is missing; "
            "does the configuration's instrument_list fit these weights?"
        ) from None


def _converted(checkpoint: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], stem: str) -> FloatArray:
    """Return a view of a tensor in torch's axis order, checked."""
    tensor = _tensor(checkpoint, name, stem)
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise ModelError(
            f"cannot use checkpoint: tensor '{name}' of stem '{stem}' is {tensor.dtype} of shape {tensor.shape}, "
            f"expected float32 of shape {shape}"
        )
    # The extremes pass on NaN, and no array of answers is needed.
    if tensor.size and not np.isfinite([tensor.min(), tensor.max()]).all():
        raise ModelError(f"cannot use checkpoint: tensor '{name}' of stem '{stem}' holds NaN or infinity")
    # (height, width, in, out) -> (out, in, height, width); transposed convolutions have in and out exchanged in both.
    return tensor.transpose(3, 2, 0, 1) if tensor.ndim == 4 else tensor
