"""Writes models in forms that other programs read: ONNX, OpenVINO's IR, safetensors."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError, UnbraidError, UsageError
from unbraid.models.families import RUNNABLE
from unbraid.models.filled_graph import filled_graph
from unbraid.weights.catalog import catalog
from unbraid.weights.fetch import FetchProgress
from unbraid.weights.folder import check_weights, installed_models
from unbraid.weights.model_file import DESCRIPTION, ModelFile, NetworkPart, network_data, read_model_file
from unbraid.weights.overview import folder_of
from unbraid.weights.store import load_model
from unbraid.weights.tensors import read_tensors, write_tensors

__all__ = ["EXPORT_FORMATS", "export_model"]

_LARGEST_PROTO: Final = (1 << 31) - (1 << 20)  # protobuf writes up to 2 GB; a megabyte of it for the nodes
_NUMBERS: Final = (
    *("sample_rate", "n_fft", "hop", "n_frames", "n_bins", "n_channels"),
    *("separation_exponent", "mask_extension"),
)


@dataclass(frozen=True, eq=False)
class _Source:
    """What is exported.

    about : metadata, still as numbers, texts and lists
    state : reads its weights
    network : makes its network; None where this version has no graph of its family
    """

    about: Mapping[str, Any]
    state: Callable[[], Mapping[str, NDArray[Any]]]
    network: Callable[[], Network] | None = None


def export_model(
    name: str,
    path: str | os.PathLike[str],
    *,
    format: str,
    overwrite: bool = False,
    on_progress: Callable[[FetchProgress], None] | None = None,
) -> tuple[Path, ...]:
    """Write a model as a file for other programs.

    | format        | files                  | what                                                              |
    |---------------|------------------------|-------------------------------------------------------------------|
    | "onnx"        | NAME.onnx              | the network with its weights (with 2 GB of them: NAME.onnx.data)  |
    | "openvino"    | NAME.xml, NAME.bin     | the same for OpenVINO                                             |
    | "safetensors" | NAME.safetensors       | the weights alone, of the type in which the model has them        |

    A graph takes magnitudes [shape=(1, channel, n_frames, n_bins), float32] and gives those of the network's stems
    [shape=(1, stem, channel, n_frames, n_bins), float32]; what is around it (STFT, masks) is not part of it. Metadata
    in each says what that needs: stems, sample_rate, n_fft, hop and the like, the licence, lists and objects as JSON;
    for a model that adds stems up, "groups" holds the network's stems in each of its results.

    name : as `load_model` takes it; a published model is fetched
    path : the first file's; its suffix is added where it is missing
    overwrite : replace files that are there
    on_progress : called while the model is fetched; what it raises stops that

    returns : the files, which appear when they are complete

    Raises
    ------
    UsageError : an unknown format, or a file is there already
    ModelError : no such model, it has no graph, its weights are damaged, or a file cannot be written
    """
    if format not in _FORMATS:
        near = difflib.get_close_matches(format, EXPORT_FORMATS, n=1, cutoff=0)[0]
        raise UsageError(f"unknown format '{format}'; did you mean '{near}'? ({', '.join(EXPORT_FORMATS)})")
    suffixes, write = _FORMATS[format]
    target = Path(path)
    if target.suffix != suffixes[0]:
        target = target.with_name(target.name + suffixes[0])
    if not overwrite:
        _check_absent(target.with_suffix(suffix) for suffix in suffixes)
    source = _source(name, on_progress, graph=format != "safetensors")
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in source.about.items()}
    with _translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".part") as folder:
            written = write(source, Path(folder) / target.name, metadata)
            finals = tuple(target.with_name(file.name) for file in written)
            if not overwrite:
                _check_absent(finals)
            if len(finals) > 1:  # a new companion must never lie beside an old first file
                target.unlink(missing_ok=True)
            for file, final in reversed(list(zip(written, finals, strict=True))):
                os.replace(file, final)
    return finals


def _check_absent(paths: Iterable[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise UsageError(f"cannot write '{path}': already there; use --overwrite, or choose another name")


@contextlib.contextmanager
def _translated(target: Path) -> Iterator[None]:
    """Turn what goes wrong while writing into one line of ours."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"cannot write '{target}': {reason}; free some space, or choose another place") from error
    # OpenVINO raises RuntimeError, protobuf ValueError; ours must pass.
    except UnbraidError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ModelError(f"cannot export to '{target}': {reason}") from error


def _write_onnx(source: _Source, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    import onnx

    assert source.network is not None
    graph = filled_graph(source.network())
    onnx.helper.set_model_props(graph, dict(metadata))
    too_large = sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > _LARGEST_PROTO
    data = path.with_name(f"{path.name}.data")
    onnx.save_model(graph, path, save_as_external_data=too_large, location=data.name)
    return (path, data) if too_large else (path,)


def _write_openvino(source: _Source, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    import openvino

    graph, *_ = _write_onnx(source, path.with_suffix(".onnx"), {})
    network = openvino.Core().read_model(graph)
    for key, value in metadata.items():
        network.set_rt_info(value, ["unbraid", key])
    openvino.save_model(network, path, compress_to_fp16=False)
    return path, path.with_suffix(".bin")


def _write_safetensors(source: _Source, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    write_tensors(path, source.state(), metadata)
    return (path,)


def _source(name: str, on_progress: Callable[[FetchProgress], None] | None, *, graph: bool) -> _Source:
    later = _families(name) - RUNNABLE
    if not later:
        return _running(name, on_progress)
    if graph:
        raise ModelError(
            f"cannot export '{name}' as a graph: this version has none of {', '.join(sorted(later))}; "
            "the format safetensors works"
        )
    if name in catalog():
        from unbraid.weights.install import install  # with every converter

        install(catalog()[name], on_progress=on_progress)
    return _stored(name)


def _families(name: str) -> frozenset[str]:
    """The families of a model's networks, as far as that can be told without fetching it."""
    if name in catalog():
        return catalog()[name].families
    if (Path(name) / DESCRIPTION).is_file() or name in installed_models():
        return frozenset(part.family for part in read_model_file(folder_of(name)).networks)
    return frozenset()


def _running(name: str, on_progress: Callable[[FetchProgress], None] | None) -> _Source:
    """A model that this version can run."""
    model = load_model(name, on_progress=on_progress)
    config = model.transform.config
    about = _about(name, config.stems, model.described)
    if model.stems != tuple((stem, (i,)) for i, stem in enumerate(config.stems)):
        about["groups"] = dict(model.stems)
    about |= {number: getattr(config, number) for number in _NUMBERS}
    about["networks"] = [network_data(NetworkPart("spleeter", config))]
    (part,) = model.parts
    return _Source(about, lambda: part.whole().weights(), part.whole)


def _stored(name: str) -> _Source:
    """A model that this version can keep, but not run."""
    folder = folder_of(name)
    model = read_model_file(folder)
    about = _about(name, model.stems, model)
    about |= {"sample_rate": model.sample_rate, "networks": [network_data(part) for part in model.networks]}
    if model.segment_s is not None:
        about["segment_s"] = model.segment_s
    return _Source(about, lambda: read_tensors(check_weights(folder, model)))


def _about(name: str, stems: Sequence[str], described: ModelFile | None) -> dict[str, Any]:
    """Metadata that every file has; of a name that is a path, the last part only."""
    about: dict[str, Any] = {"name": re.split(r"[/\\]", name.rstrip("/\\"))[-1], "stems": list(stems)}
    keys = ("licence", "training_data", "allows_bf16")
    return about | {key: value for key in keys if (value := getattr(described, key, None))}


_Writer = Callable[[_Source, Path, Mapping[str, str]], tuple[Path, ...]]
_FORMATS: Final[Mapping[str, tuple[tuple[str, ...], _Writer]]] = MappingProxyType(
    {
        "onnx": ((".onnx",), _write_onnx),
        "openvino": ((".xml", ".bin"), _write_openvino),
        "safetensors": ((".safetensors",), _write_safetensors),
    }
)
EXPORT_FORMATS: Final = tuple(_FORMATS)
