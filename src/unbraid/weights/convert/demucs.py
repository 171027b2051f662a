"""Turns the files of all releases of Demucs into the weights of our Demucs, Hybrid Demucs and HT Demucs families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.state import from_v2_names
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.models.plain import shown
from unbraid.weights.convert.demucs_arguments import ARGUMENTS, V1_ARGUMENTS
from unbraid.weights.convert.demucs_v2 import inferred_arguments, read_compressed, with_quantizer
from unbraid.weights.convert.diffq import is_quantized, restore_quantized
from unbraid.weights.convert.network import ConvertedNetwork, check_tensors
from unbraid.weights.convert.torch_file import Reference, read_torch_file
from unbraid.weights.tensors import read_metadata, read_tensors

__all__ = ["read_demucs_package", "read_demucs_safetensors", "read_demucs_state"]

_V2_CLASS = "demucs.model.Demucs"
_V3_CLASS = "demucs.demucs.Demucs"
_HT_CLASS = "demucs.htdemucs.HTDemucs"
_DEEPEST = 16  # of the metadata's JSON, which nests 5 levels in what Demucs writes


def read_demucs_package(path: Path, content: object = None, *, scratch: Path | None = None) -> ConvertedNetwork:
    """Read a package of Demucs: the class of a network by name, its arguments, and its state.

    content : of the file, where it is read already (see `read_torch_file`)
    scratch : the folder where a compressed state is unpacked for a moment; None for where downloads are

    Raises
    ------
    ModelError : no such package, a class that is not one of Demucs, or a state that does not fit it
    """
    content = read_torch_file(path) if content is None else content
    if not isinstance(content, Mapping) or not {"klass", "args", "kwargs", "state"} <= content.keys():
        raise ModelError(f"cannot use '{path}': it is no package of Demucs, which has klass, args, kwargs and state")
    if not isinstance(content["klass"], Reference):
        raise ModelError(f"cannot use '{path}': klass must be a class, got {shown(content['klass'])}")
    return _converted(path, str(content["klass"]), content, scratch)


def read_demucs_safetensors(path: Path) -> ConvertedNetwork:
    """Read a safetensors file of Demucs 4.1, whose metadata tell what a package tells beside the tensors.

    Raises
    ------
    ModelError : the file cannot be read, lacks these metadata, or its tensors do not fit them
    """
    tensors = read_tensors(path)
    metadata = read_metadata(path)
    for key in ("klass", "args", "kwargs"):
        if key not in metadata:
            raise ModelError(f"cannot use '{path}': its metadata lack '{key}', so Demucs 4.1 did not write it")
    content: dict[str, Any] = {"state": tensors}
    for key in ("args", "kwargs"):
        content[key] = _decoded(path, key, metadata[key], {})
    if "structure" in metadata:
        unused = dict(tensors)
        content["state"] = _decoded(path, "structure", metadata["structure"], unused)
        if unused:
            raise ModelError(f"cannot use '{path}': its structure has no tensor '{next(iter(unused))}'")
    return _converted(path, metadata["klass"], content, scratch=None)


def read_demucs_state(
    path: Path, content: object, *, version: int = 2, scratch: Path | None = None
) -> ConvertedNetwork:
    """Read a bare state of Demucs v1 or v2. The sizes of the network are those of its tensors.

    content : of the file, from `read_torch_file`
    version : 1 or 2, whose tensors do not differ
    scratch : the folder where a compressed state is unpacked for a moment; None for where downloads are

    Raises
    ------
    ModelError : the state is no such thing, or another network's
    """
    state = _state(path, content)
    if "compressed" not in state:
        arguments = inferred_arguments(path, state)
        version = 1 if "upsample" in arguments else version
        return _bare(path, arguments, state, version)

    def restored(state: Mapping[str, Any]) -> ConvertedNetwork:
        # The first parameter, too small to be quantised, is the kernel of the first layer.
        first = state["others"][0] if isinstance(state["others"], list) and state["others"] else None
        if not isinstance(first, np.ndarray) or first.ndim != 3:
            raise ModelError(f"cannot use '{path}': its compressed state is not that of Demucs v2")
        arguments = {"sources": ["drums", "bass", "other", "vocals"], "channels": first.shape[0]}
        return _bare(path, arguments, with_quantizer(path, state), version=2)

    return read_compressed(path, state, restored, scratch)


def _bare(path: Path, arguments: Mapping[str, Any], state: Mapping[str, Any], version: int) -> ConvertedNetwork:
    config = _config(path, _V2_CLASS, arguments, version)
    notice = (
        f"taken as in the published models of Demucs v{version}, since a bare state does not say it: stems "
        f"{', '.join(config.stems)}; {config.sample_rate} Hz; stride {config.stride}; "
        f"{'with' if config.resample else 'without'} resampling and {'with' if config.normalize else 'without'} "
        "normalisation inside"
    )
    return _network(path, "demucs", config, state, (notice,))


def _converted(path: Path, kind: str, content: Mapping[str, Any], scratch: Path | None) -> ConvertedNetwork:
    """Convert what a package says."""
    if kind not in ARGUMENTS:
        raise ModelError(f"cannot use '{path}': its class must be one of {', '.join(ARGUMENTS)}, got {shown(kind)}")
    version = 0
    if kind in (_V2_CLASS, _V3_CLASS):
        version = 3 if kind == _V3_CLASS else _old_version(content["args"], content["kwargs"])
    known = V1_ARGUMENTS if version == 1 else ARGUMENTS[kind]
    arguments, notices = _arguments(path, known, content["args"], content["kwargs"])
    config = _config(path, kind, arguments, version)
    name = "demucs" if version else "htdemucs" if kind == _HT_CLASS else "hdemucs"
    state = _state(path, content["state"])
    if "compressed" not in state:
        return _network(path, name, config, state, notices)
    training = content.get("training_args")

    def restored(state: Mapping[str, Any]) -> ConvertedNetwork:
        return _network(path, name, config, with_quantizer(path, state, training), notices)

    return read_compressed(path, state, restored, scratch)


def _old_version(args: object, kwargs: object) -> int:
    """Whether a network of the class that v1 and v2 have in common is of v1, which took a number of stems."""
    given = kwargs if isinstance(kwargs, Mapping) else {}
    sources = args[0] if isinstance(args, list | tuple) and args else given.get("sources", 4)
    return 1 if isinstance(sources, int) or "upsample" in given else 2


def _arguments(
    path: Path, known: tuple[str, ...], args: object, kwargs: object
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arguments of a class by name, and what was left out of them."""
    if not isinstance(args, list | tuple) or len(args) > len(known):
        raise ModelError(f"cannot use '{path}': args must be a list of {len(known)} at most, got {shown(args)}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ModelError(f"cannot use '{path}': kwargs must be values by name, got {shown(kwargs)}")
    arguments = dict(zip(known, args, strict=False))
    for name in arguments:
        if name in kwargs:
            raise ModelError(f"cannot use '{path}': the argument '{name}' is given twice")
    arguments.update({name: value for name, value in kwargs.items() if name in known})
    unknown = {name: value for name, value in kwargs.items() if name not in known}
    # Demucs drops them too: they are of experiments that were never released.
    return arguments, (f"left out arguments that Demucs does not know: {shown(unknown)}",) if unknown else ()


def _config(path: Path, kind: str, arguments: Mapping[str, Any], version: int) -> Any:
    try:
        if version:
            return DemucsConfig.from_kwargs(arguments, version)
        return (HTDemucsConfig if kind == _HT_CLASS else HDemucsConfig).from_kwargs(arguments)
    except ModelError as error:
        raise ModelError(f"cannot use '{path}': {error}") from error


def _network(
    path: Path, name: str, config: Any, state: Mapping[str, Any], notices: tuple[str, ...]
) -> ConvertedNetwork:
    """Account for every tensor of a state, and give it our name."""
    shapes = family(name).shapes(config)
    old = isinstance(config, DemucsConfig) and config.version < 3
    ours = from_v2_names(config) if old else {name: name for name in shapes}
    expected = {theirs: shapes[our] for theirs, our in ours.items()}
    tensors: Mapping[str, NDArray[Any]]
    if is_quantized(state):
        tensors = restore_quantized(state, expected, str(path))
    else:
        for tensor_name, tensor in state.items():
            if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f":
                raise ModelError(f"cannot use '{path}': {shown(tensor_name)} is no tensor of floating point")
        check_tensors(state, expected, str(path))
        tensors = state
    return ConvertedNetwork(name, config, {our: tensors[theirs] for theirs, our in ours.items()}, notices)


def _state(path: Path, state: object) -> Mapping[str, Any]:
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        raise ModelError(f"cannot use '{path}': its state must be tensors by name, got {shown(state)}")
    return state


def _decoded(path: Path, key: str, text: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Decode one of the metadata: JSON, with objects for what JSON does not have.

    tensors : by name; each may be referred to once, and is taken out then
    """

    def decoded(value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"nested deeper than {_DEEPEST}")
        if isinstance(value, list):
            return [decoded(item, depth + 1) for item in value]
        match value:
            case {"_type": "fraction", "numerator": int() as numerator, "denominator": int() as denominator}:
                return Fraction(numerator, denominator)
            case {"_tensor": str() as name}:
                if name not in tensors:
                    raise ValueError(f"tensor {shown(name)} is missing, or named twice")
                return tensors.pop(name)
            case {"_dict": list() as pairs}:
                return {_text(name): decoded(item, depth + 1) for name, item in pairs}
            case {"_list": list() as items}:
                return decoded(items, depth)
            case {"_tuple": list() as items}:
                return tuple(decoded(items, depth))
            case {"_class": str() as name}:
                return Reference(*name.rpartition(".")[::2])
            case dict():
                return {name: decoded(item, depth + 1) for name, item in value.items()}
        return value

    try:
        return decoded(json.loads(text), 0)
    # What is no pair is a ValueError or TypeError, 1/0 a ZeroDivisionError, JSON nested too deep a RecursionError.
    except (ValueError, TypeError, ZeroDivisionError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot use '{path}': its metadata '{key}' are damaged ({reason})") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is no name")
    return value
