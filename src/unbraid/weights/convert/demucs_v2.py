"""What only the files of Demucs v1 and v2 need: states that say nothing about their network, and compressed ones."""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unbraid.errors import ModelError
from unbraid.models.plain import shown
from unbraid.weights.convert.diffq import is_quantized
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.torch_file import Record, Reference, read_torch_file
from unbraid.weights.places import downloads_folder

__all__ = ["inferred_arguments", "read_compressed", "with_quantizer"]

# The published compressed state has about 600 MB.
_LARGEST_STATE = 1 << 30
_PIECE = 1 << 12  # bytes that are unpacked at once, which become a thousand times as many at most

_STEMS = ("drums", "bass", "other", "vocals")  # of all published networks
_MOST_STEMS = 64
_KINDS = ("diffq.diffq", "DiffQuantizer"), ("diffq.uniform", "UniformQuantizer")


def inferred_arguments(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Tell from a state with which arguments Demucs v1 or v2 built the network.

    Those that no tensor depends on (the stems' names, stride, resampling, normalisation, sample rate) are missing,
    except for the names, which four stems have like all published networks.

    Raises
    ------
    ModelError : the state is of another network
    """
    depth = 0
    while f"encoder.{depth}.0.weight" in state:
        depth += 1
    kernels = [_shape(path, state, f"encoder.{i}.0.weight", 3) for i in range(max(1, depth))]
    width, n_channels, kernel_size = kernels[0]
    arguments: dict[str, Any] = {
        "audio_channels": n_channels,
        "channels": width,
        "depth": depth,
        "kernel_size": kernel_size,
        "rewrite": "encoder.0.2.weight" in state,
        "lstm_layers": sum(re.fullmatch(r"lstm\.lstm\.weight_ih_l[0-9]+", name) is not None for name in state),
    }
    if depth > 1:
        growth = max(after[0] / before[0] for before, after in pairwise(kernels))
        arguments["growth"] = int(growth) if growth.is_integer() else growth
    last = f"decoder.{depth - 1}.0"
    if arguments["rewrite"]:
        arguments["glu"] = _shape(path, state, "encoder.0.2.weight", 3)[0] == 2 * width
        arguments["context"] = _shape(path, state, "decoder.0.0.weight", 3)[2]
        last = f"decoder.{depth - 1}.2"
    if "final.weight" in state:  # only v1 could interpolate
        arguments["upsample"] = True
        last = "final"
    n_stems, rest = divmod(_shape(path, state, f"{last}.bias", 1)[0], n_channels)
    if rest or not 1 <= n_stems <= _MOST_STEMS:
        raise ModelError(f"cannot use '{path}': tensor '{last}.bias' does not fit {n_channels} channels of audio")
    named = n_stems == len(_STEMS)
    arguments["sources"] = list(_STEMS) if named else [f"stem{i + 1}" for i in range(n_stems)]
    return arguments


def read_compressed(
    path: Path,
    state: Mapping[str, Any],
    convert: Callable[[Mapping[str, Any]], ConvertedNetwork],
    scratch: Path | None,
) -> ConvertedNetwork:
    """Unpack the compressed state of a quantised network into a temporary file, and convert it.

    path : of the file that holds it
    convert : makes a network of the state
    scratch : the folder for that file; None for where downloads are

    Raises
    ------
    ModelError : it is no such state, is damaged or too large, or there is no room for it
    """
    folder = scratch or downloads_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".state-", ignore_cleanup_errors=True) as temporary:
            unpacked = Path(temporary) / path.name
            _unpack(path, state["compressed"], unpacked)
            # Nothing refers to what is read here any longer, so that Windows can remove the file.
            return _kept(convert(_checked(path, read_torch_file(unpacked))))
    except OSError as error:
        raise ModelError(
            f"cannot unpack '{path}' in '{folder}': {error.strerror or error}; "
            "free some space, or choose another place (UNBRAID_HOME)"
        ) from error


def with_quantizer(path: Path, state: Mapping[str, Any], training: object = None) -> dict[str, Any]:
    """Add to the state of a quantised network what quantised it, which Demucs v2 kept apart.

    training : the options of the training, as packages hold them; None for those of the published network

    Raises
    ------
    ModelError : the options do not tell
    """
    # (demucs 2.0.3, pretrained.py and utils.py)
    options: Any = {"diffq": 1e-4, "q_min_size": 1} if training is None else getattr(training, "state", None)
    if isinstance(training, Record | None) and isinstance(options, Mapping) and "q_min_size" in options:
        if options.get("diffq"):
            return _with_meta(state, _KINDS[0], {"group_size": 8, "min_size": options["q_min_size"]})
        if options.get("qat"):
            return _with_meta(state, _KINDS[1], {"bits": options["qat"], "min_size": options["q_min_size"]})
    raise ModelError(f"cannot use '{path}': its training_args do not tell how it was quantised")


def _with_meta(state: Mapping[str, Any], kind: tuple[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {**state, "meta": {"klass": Reference(*kind), "init_kwargs": options}}


def _shape(path: Path, state: Mapping[str, Any], name: str, n_axes: int) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are taken."""
    if not isinstance(tensor := state.get(name), np.ndarray):
        raise ModelError(f"cannot use '{path}': tensor '{name}' is missing; is it a state of Demucs v1 or v2?")
    shape: tuple[int, ...] = tensor.shape
    if len(shape) != n_axes or 0 in shape:
        raise ModelError(f"cannot use '{path}': tensor '{name}' must have {n_axes} axes, got shape {shape}")
    return shape


def _unpack(path: Path, packed: object, target: Path) -> None:
    """Write what zlib made `packed` of to a file."""
    if not isinstance(packed, bytes):
        raise ModelError(f"cannot use '{path}': its compressed state must be bytes, got {shown(packed)}")
    stream = zlib.decompressobj()
    with target.open("wb") as file:
        try:
            for start in range(0, len(packed), _PIECE):
                file.write(stream.decompress(memoryview(packed)[start : start + _PIECE]))
                if file.tell() > _LARGEST_STATE:
                    raise ModelError(f"cannot use '{path}': its compressed state is larger than {_LARGEST_STATE} bytes")
        except zlib.error as error:
            raise ModelError(f"cannot use '{path}': its compressed state is damaged ({error})") from error
    if not stream.eof or stream.unused_data:
        raise ModelError(f"cannot use '{path}': its compressed state is cut short, or something follows it")


def _kept(network: ConvertedNetwork) -> ConvertedNetwork:
    """Copy the tensors that map a file; restored ones do not."""
    tensors = {name: tensor if tensor.flags.writeable else tensor.copy() for name, tensor in network.tensors.items()}
    return replace(network, tensors=tensors)


def _checked(path: Path, state: object) -> Mapping[str, Any]:
    if not isinstance(state, Mapping) or not is_quantized(state):
        raise ModelError(f"cannot use '{path}': its compressed state is not that of a quantised network")
    return state
