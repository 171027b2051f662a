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
from unbraid.models.filled_graph import filled_graph
from unbraid.weights.fetch import FetchProgress
from unbraid.weights.model_file import ModelFile, network_data
from unbraid.weights.store import load_model
from unbraid.weights.tensors import write_tensors

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
    networks : makes each of its networks, by name; one alone has none
    """

    about: Mapping[str, Any]
    state: Callable[[], Mapping[str, NDArray[Any]]]
    networks: Mapping[str, Callable[[], Network]]


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

    A model of several networks has a graph of each: NAME-NETWORK.onnx. What is around a network (STFT, masks, segments,
    the weights in a bag) is not part of its graph, which takes and gives, as float32:

    | family            | inputs                                                             | outputs               |
    |-------------------|--------------------------------------------------------------------|-----------------------|
    | spleeter          | "magnitude" [shape=(1, channel, n_frames, n_bins)]                 | "stems", the same     |
    | openunmix         | "magnitude" [shape=(1, channel, frame, n_fft / 2 + 1)]             | "stems", the same     |
    | demucs            | "mix" [shape=(1, channel, time)]                                   | "stems"               |
    | hdemucs, htdemucs | "spectrum" [shape=(1, 2 · channel, n_fft / 2, frame)], "mix"       | "spectra", "waves"    |

    with an axis for the network's stems after the first in what it gives. The metadata in each file says the rest:
    stems, sample_rate, the whole configuration in "networks", and the licence, lists and objects as JSON; for a model
    that adds stems up, "groups" holds the network's stems in each of its results.

    name : as `load_model` takes it; a published model is fetched
    path : the first file's; its suffix is added where it is missing
    overwrite : replace files that are there
    on_progress : called while the model is fetched; what it raises stops that

    returns : the files, which appear when they are complete

    Raises
    ------
    UsageError : an unknown format, or a file is there already
    ModelError : no such model, its weights are damaged, or a file cannot be written
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
    source = _source(name, on_progress)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in source.about.items()}
    with _translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".part") as folder:
            written = write(source, Path(folder) / target.name, metadata)
            finals = tuple(target.with_name(file.name) for file in written)
            if not overwrite:
                _check_absent(finals)
            if len(finals) > 1:  # a new companion must never lie beside an old first file
                for final in finals:
                    final.unlink(missing_ok=True)
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
    return tuple(
        file
        for name, network in source.networks.items()
        for file in _write_one_onnx(network(), _of_network(path, name), metadata)
    )


def _write_one_onnx(network: Network, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    import onnx

    graph = filled_graph(network)
    onnx.helper.set_model_props(graph, dict(metadata))
    too_large = sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > _LARGEST_PROTO
    data = path.with_name(f"{path.name}.data")
    onnx.save_model(graph, path, save_as_external_data=too_large, location=data.name)
    return (path, data) if too_large else (path,)


def _write_openvino(source: _Source, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    import openvino

    written: list[Path] = []
    for name, network in source.networks.items():
        file = _of_network(path, name)
        graph, *_ = _write_one_onnx(network(), file.with_suffix(".onnx"), {})
        model = openvino.Core().read_model(graph)
        for key, value in metadata.items():
            model.set_rt_info(value, ["unbraid", key])
        openvino.save_model(model, file, compress_to_fp16=False)
        written += [file, file.with_suffix(".bin")]
    return tuple(written)


def _of_network(path: Path, name: str) -> Path:
    """The file of one of several networks."""
    return path.with_name(f"{path.stem}-{name}{path.suffix}") if name else path


def _write_safetensors(source: _Source, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    write_tensors(path, source.state(), metadata)
    return (path,)


def _source(name: str, on_progress: Callable[[FetchProgress], None] | None) -> _Source:
    model = load_model(name, on_progress=on_progress)
    config = model.transform.config
    about = _about(name, model.transform.stems, model.described)
    if model.stems != tuple((stem, (i,)) for i, stem in enumerate(model.transform.stems)):
        about["groups"] = dict(model.stems)
    about |= {number: getattr(config, number) for number in _NUMBERS if hasattr(config, number)}
    about["networks"] = [network_data(part.described) for part in model.parts]
    if model.described is not None and model.described.segment_s is not None:
        about["segment_s"] = model.described.segment_s

    def state() -> dict[str, NDArray[Any]]:
        return {part.described.prefix + tensor: value for part in model.parts for tensor, value in part.state().items()}

    return _Source(about, state, {part.described.name: part.whole for part in model.parts})


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
