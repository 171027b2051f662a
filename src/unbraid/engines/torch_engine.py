"""Runs networks with PyTorch: on a GPU, or on the CPU where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from unbraid.datatypes import FloatArray, Network
from unbraid.engines.batching import Batches
from unbraid.errors import EngineError

__all__ = ["TorchEngine", "found_devices"]

_LARGEST_BATCH = 8  # segments; a GPU gains little from more, and one of HT Demucs takes about half a gigabyte


class TorchEngine:
    """A network as a torch module.

    network : what to run
    device : "cuda", "mps", "cpu", or "auto", which is the first of these at hand
    precision : "f32", "bf16", "f16", or "auto": on CUDA bf16 where the network's card allows it, else f32.
        The 16-bit ones are torch's autocast, for which float32 keeps the layers that need it
    n_threads : of the CPU, for one run
    compiled : by torch.compile, when it first runs: that takes a minute, and a C++ compiler on the CPU

    Raises
    ------
    EngineError : PyTorch does not work, or has no such device or precision
    """

    name = "torch"
    any_shape = True

    def __init__(
        self, network: Network, *, device: str, precision: str, n_threads: int, compiled: bool = False
    ) -> None:
        try:
            import torch
        except (ImportError, OSError) as error:
            raise EngineError(f"cannot load PyTorch ({error}): pip install 'unbraid[torch]'") from error
        devices = found_devices()
        self.device = devices[0] if device == "auto" else device
        if self.device not in devices:
            raise EngineError(
                f"PyTorch finds no '{self.device}' here, only {', '.join(devices)}; "
                "use another device, or the PyTorch that fits it: https://pytorch.org/get-started"
            )
        self.precision = _choose_precision(precision, self.device, allows_bf16=network.allows_bf16)
        self.n_threads = n_threads
        if self.device == "cpu":
            torch.set_num_threads(n_threads)
        # While a GPU works on one batch, other threads transform as many segments for the next.
        self.n_streams = 1 if self.device == "cpu" else 2 * _LARGEST_BATCH
        self._batches = Batches(self._run, 1 if self.device == "cpu" else _LARGEST_BATCH)
        self._is_compiled = compiled
        try:
            module = network.module().to(self.device)
            self._module: Callable[..., Any] | None = torch.compile(module) if compiled else module
        except RuntimeError as error:
            raise _translated("load the network", error, self.device) from error

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Run the network once; on a GPU together with what other threads ask for.

        Raises
        ------
        EngineError : PyTorch failed, or the engine is closed
        """
        try:
            return self._batches.run(inputs)
        except MemoryError as error:
            raise EngineError(
                f"cannot run the network with PyTorch on {self.device}: its memory is full; "
                "use a shorter --segment, or --device cpu"
            ) from error

    def _run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Run the network on a batch."""
        if self._module is None:
            raise EngineError("cannot run the network: its engine is closed")
        import torch

        dtype = {"f32": None, "bf16": torch.bfloat16, "f16": torch.float16}[self.precision]
        try:
            with torch.inference_mode(), torch.autocast(self.device, dtype=dtype, enabled=dtype is not None):
                tensors = [torch.from_numpy(np.require(array, np.float32, ["C", "W"])) for array in inputs]
                outputs = self._module(*(tensor.to(self.device) for tensor in tensors))
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                return tuple(output.float().cpu().numpy() for output in outputs)
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        except RuntimeError as error:
            raise _translated("run the network", error, self.device) from error

    def describe(self) -> str:
        """Say what runs, in one line."""
        threads = f", {self.n_threads} thread(s)" if self.device == "cpu" else ""
        compiled = ", compiled" if self._is_compiled else ""
        return f"PyTorch on {self.device}, {self.precision}{compiled}{threads}"

    def close(self) -> None:
        """Release the memory of the network, on the GPU too."""
        self._module = None
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


def found_devices() -> tuple[str, ...]:
    """Devices that PyTorch finds on this machine, the best first."""
    import torch

    found = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
    return tuple(name for name, there in found if there)


def _choose_precision(precision: str, device: str, *, allows_bf16: bool) -> str:
    import torch

    has_bf16 = device == "cpu" or (device == "cuda" and torch.cuda.is_bf16_supported())
    if precision == "auto":
        return "bf16" if device == "cuda" and has_bf16 and allows_bf16 else "f32"
    if (precision == "bf16" and not has_bf16) or (precision == "f16" and device == "cpu"):
        raise EngineError(f"PyTorch does not compute in {precision} on {device} here; use precision f32")
    return precision


def _translated(doing: str, error: RuntimeError, device: str) -> EngineError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"cannot {doing} with PyTorch on {device}: {reason[0]}; try the engine 'openvino'")
