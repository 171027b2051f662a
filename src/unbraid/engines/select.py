"""Engines by name, and which one `auto` takes.

| device | engines that can, in the order in which `auto` tries them |
|--------|------------------------------------------------------------|
| cpu    | openvino, onnxruntime, torch                               |
| cuda   | torch                                                      |
| mps    | torch                                                      |

``auto`` as the device is the CPU, or, where the engine asked for is torch, the first of cuda, mps and cpu at hand.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from unbraid.datatypes import FloatArray, Network
from unbraid.errors import EngineError, UsageError

__all__ = ["DEVICES", "ENGINES", "PRECISIONS", "Engine", "EngineInfo", "available_engines", "load_engine", "n_cpus"]

ENGINES: Final = ("openvino", "onnxruntime", "torch")
DEVICES: Final = ("auto", "cpu", "cuda", "mps")
PRECISIONS: Final = ("auto", "f32", "bf16", "f16")
# What each can do: devices, precisions, and what installs it.
_DEVICES: Final = MappingProxyType(
    {"openvino": ("cpu",), "onnxruntime": ("cpu",), "torch": ("cuda", "mps", "cpu")},
)
_PRECISIONS: Final = MappingProxyType(
    {"openvino": ("f32", "bf16"), "onnxruntime": ("f32",), "torch": ("f32", "bf16", "f16")},
)
_CURE: Final = MappingProxyType(
    {
        "openvino": "pip install openvino",
        "onnxruntime": "pip install 'unbraid[onnxruntime]'",
        "torch": "pip install 'unbraid[torch]'",
    }
)


class Engine(Protocol):
    """A network loaded into a program that runs it.

    name, device, precision : what really runs: "openvino", "cpu", "f32"
    n_streams : how many calls of `run` may usefully go on at once, each from a thread of its own
    any_shape : whether inputs of other shapes than the network says will do too
    """

    name: str
    device: str
    precision: str
    n_streams: int
    any_shape: bool

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Run the network once. Blocks; may be called from several threads.

        inputs, returns : arrays [shape=as the network says, float32]; the caller owns the results

        Raises
        ------
        EngineError : the engine failed or is closed
        """

    def describe(self) -> str:
        """Say what runs, in one line."""

    def close(self) -> None:
        """Release the memory; `run` is an error afterwards. No `run` may be going on."""


@dataclass(frozen=True)
class EngineInfo:
    """What `unbraid doctor` says of an engine.

    version : None where it is not installed
    devices : those that it finds on this machine
    problem : why it cannot be used, and the cure, or None
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class _Wanted:
    """How to load a network: the arguments of `load_engine`, checked."""

    device: str
    precision: str
    n_threads: int
    takes_turns: bool
    compiled: bool
    cache_dir: Path | None


def load_engine(
    network: Network,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    n_threads: int | None = None,
    n_networks: int = 1,
    compiled: bool = False,
    cache_dir: Path | None = None,
) -> Engine:
    """Load a network into an engine.

    engine : one of `ENGINES`, or "auto": the first that is installed and has the device
    device : one of `DEVICES`
    precision : one of `PRECISIONS`; "auto" is the fastest that the network's card allows
    n_threads : of the CPU; None is all
    n_networks : how many networks share these threads, each in an engine of its own
    compiled : by torch.compile, which takes a minute at the first run (engine "torch" only)
    cache_dir : where compiled networks are kept; None keeps none (engine "openvino" only)

    Raises
    ------
    UsageError : an unknown name, or a combination that does not exist
    EngineError : the engine asked for is not installed or does not work
    """
    _check_choice("engine", engine, ("auto", *ENGINES))
    _check_choice("device", device, DEVICES)
    _check_choice("precision", precision, PRECISIONS)
    if n_threads is not None and n_threads < 1:
        raise UsageError(f"threads must be at least 1, got {n_threads}")
    n_threads = max(1, (n_threads or n_cpus()) // n_networks)
    name = _choose(device) if engine == "auto" else engine
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"the engine '{name}' is not installed: {_CURE[name]}")
    if device != "auto" and device not in _DEVICES[name]:
        raise UsageError(f"the engine '{name}' runs on {', '.join(_DEVICES[name])}, not on {device}")
    if precision != "auto" and precision not in _PRECISIONS[name]:
        raise UsageError(f"the engine '{name}' computes in {', '.join(_PRECISIONS[name])}, not in {precision}")
    if compiled and name != "torch":
        raise UsageError(f"compile is an option of the engine 'torch', not of '{name}'")
    wanted = _Wanted(device, precision, n_threads, n_networks > 1, compiled, cache_dir)
    return _LOADERS[name](network, wanted)


def available_engines() -> tuple[EngineInfo, ...]:
    """Look at which engines there are; imports each that is installed."""
    return tuple(_look_at(name) for name in ENGINES)


def _look_at(name: str) -> EngineInfo:
    if importlib.util.find_spec(name) is None:
        return EngineInfo(name, None, (), f"not installed: {_CURE[name]}")
    version = importlib.metadata.version(name)
    try:
        if name == "torch":
            from unbraid.engines.torch_engine import found_devices

            return EngineInfo(name, version, found_devices(), None)
        __import__(name)
    except (ImportError, OSError, RuntimeError) as error:
        return EngineInfo(name, version, (), f"cannot be loaded ({error}): {_CURE[name]}")
    return EngineInfo(name, version, ("cpu",), None)


def _choose(device: str) -> str:
    wanted = "cpu" if device == "auto" else device
    able = [name for name in ENGINES if wanted in _DEVICES[name]]
    for name in able:
        if importlib.util.find_spec(name) is not None:
            return name
    raise EngineError(f"no engine for the device '{wanted}' is installed: {_CURE[able[0]]}")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {what} '{value}'; it is one of {', '.join(choices)}")


def n_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _openvino(network: Network, wanted: _Wanted) -> Engine:
    from unbraid.engines.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(
        network,
        precision=wanted.precision,
        n_threads=wanted.n_threads,
        takes_turns=wanted.takes_turns,
        cache_dir=wanted.cache_dir,
    )


def _onnxruntime(network: Network, wanted: _Wanted) -> Engine:
    from unbraid.engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(network, n_threads=wanted.n_threads)


def _torch(network: Network, wanted: _Wanted) -> Engine:
    from unbraid.engines.torch_engine import TorchEngine

    return TorchEngine(
        network,
        device=wanted.device,
        precision=wanted.precision,
        n_threads=wanted.n_threads,
        compiled=wanted.compiled,
    )


_LOADERS: Final[MappingProxyType[str, Callable[[Network, _Wanted], Engine]]] = MappingProxyType(
    {"openvino": _openvino, "onnxruntime": _onnxruntime, "torch": _torch}
)
