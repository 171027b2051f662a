"""Runs networks with OpenVINO: the default on a CPU."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import queue
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from unbraid.datatypes import FloatArray, Network
from unbraid.errors import EngineError

__all__ = ["OpenVINOEngine"]

DEVICE: Final = "CPU"
MAX_STREAMS: Final = 4  # each stream has its own activations: about 60 MB with the official shapes
MAX_CACHED: Final = 8  # blobs; one of the official shapes is 157 MB
_TRAILER: Final = b"unbraid compiled network 1\n"
_TEMPORARY: Final = "-openvino.tmp"
_STALE_S: Final = 24 * 3600  # no compilation takes as long
_MAX_HEADER: Final = 4096  # bytes


class OpenVINOEngine:
    """A network compiled for this CPU.

    network : what to run
    precision : "f32", "bf16", or "auto", which is bf16 where both the CPU and the network's card allow it; asked for by
        name it is computed, slowly, on any CPU
    n_threads : of the CPU, for all streams together
    takes_turns : other networks run beside it: after each run it gives back the memory that only running needs, which
        takes some milliseconds
    cache_dir : where compiled networks are kept; None keeps none

    Raises
    ------
    EngineError : OpenVINO is missing, or refuses the network
    """

    name = "openvino"
    any_shape = False
    device = "cpu"

    def __init__(
        self,
        network: Network,
        *,
        precision: str,
        n_threads: int,
        takes_turns: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        with _translated("load OpenVINO"):
            import openvino

            core = openvino.Core()
            native_bf16 = "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "auto":
            precision = "bf16" if native_bf16 and network.allows_bf16 else "f32"
        self.precision = precision
        self._emulated = precision == "bf16" and not native_bf16
        self.n_threads = n_threads
        self.n_streams = 1 if takes_turns else min(n_threads, MAX_STREAMS)
        self._takes_turns = takes_turns
        config = {
            "NUM_STREAMS": self.n_streams,
            # Pinned, two networks of one thread each would share the first core.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": n_threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        self._mapped: mmap.mmap | None = None
        with _translated("compile the network with OpenVINO"):
            compiled = None
            if cache_dir is not None:
                key = _cache_key(network, precision, core)
                path = cache_dir / f"openvino-{key}.blob"
                compiled = self._from_cache(core, path, key, config)
                if compiled is None and _store(core, network, config, path, key):
                    compiled = self._from_cache(core, path, key, config)
            if compiled is None:
                compiled = _compile(core, network, config)
            self._compiled = compiled
            self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(self.n_streams):
                self._requests.put(compiled.create_infer_request())
        self._output_shapes = [tuple(output.shape) for output in compiled.outputs]

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Run the network once; as many threads as there are streams may do so at a time.

        Raises
        ------
        EngineError : OpenVINO failed, or the engine is closed
        """
        if self._compiled is None:
            raise EngineError("cannot run the network: its engine is closed")
        import openvino

        outputs = tuple(np.empty(shape, dtype=np.float32) for shape in self._output_shapes)
        request = self._requests.get()
        try:
            with _translated("run the network with OpenVINO"):
                for i, array in enumerate(inputs):
                    writeable = np.require(array, np.float32, ["C", "W"])
                    request.set_input_tensor(i, openvino.Tensor(writeable, shared_memory=True))
                for i, output in enumerate(outputs):
                    request.set_output_tensor(i, openvino.Tensor(output, shared_memory=True))
                request.infer()
                if self._takes_turns:
                    self._compiled.release_memory()
        finally:
            self._requests.put(request)
        return outputs

    def describe(self) -> str:
        """Say what runs, in one line."""
        emulated = " (emulated: this CPU would be faster in f32)" if self._emulated else ""
        threads = f"{self.n_streams} stream(s), {self.n_threads} thread(s)"
        return f"OpenVINO on the CPU, {self.precision}{emulated}, {threads}"

    def close(self) -> None:
        """Release the memory of the compiled network."""
        self._compiled = None
        self._requests = queue.SimpleQueue()
        self._mapped = None

    def _from_cache(self, core: Any, path: Path, key: str, config: dict[str, Any]) -> Any:
        """Load a compiled network, or return None where there is no sound one.

        The file is mapped, and its pages given back once OpenVINO has arranged the weights to its liking: the weights
        would be in memory twice otherwise.
        """
        import openvino

        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # absent, unreadable or empty
            return None
        n_bytes = len(mapped) - len(_trailer(key, 0))
        if n_bytes <= 0 or mapped[n_bytes:] != _trailer(key, zlib.crc32(memoryview(mapped)[:n_bytes])):
            return None
        blob = openvino.Tensor(np.frombuffer(mapped, np.uint8, n_bytes), shared_memory=True)
        try:
            compiled = core.import_model(blob, DEVICE, config)
        except RuntimeError:  # sound, but not for this OpenVINO: compiled anew
            return None
        self._mapped = mapped
        if hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)
        return compiled


def _compile(core: Any, network: Network, config: dict[str, Any]) -> Any:
    from openvino import opset13

    model = core.read_model(network.graph())
    weights = network.weights()
    for parameter in list(model.get_parameters()):
        name = parameter.get_friendly_name()
        if name in weights:
            # OpenVINO shares only what it could write to, which weights mapped from a file are not.
            value = np.require(weights[name], np.float32, ["C", "W"])
            constant = opset13.constant(value, shared_memory=True)
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)
    unfilled = [p.get_friendly_name() for p in model.get_parameters()][len(network.input_shapes) :]
    if unfilled:
        raise EngineError(f"the weights lack {', '.join(unfilled[:3])}")
    model.validate_nodes_and_infer_types()
    return core.compile_model(model, DEVICE, config)


def _cache_key(network: Network, precision: str, core: Any) -> str:
    """Name whatever decides how a compiled network looks."""
    import openvino

    parts = (network.fingerprint, precision, openvino.get_version(), core.get_property(DEVICE, "FULL_DEVICE_NAME"))
    capabilities = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return hashlib.sha256("\n".join((*parts, *sorted(capabilities))).encode()).hexdigest()[:40]


def _trailer(key: str, crc: int) -> bytes:
    return _TRAILER + key.encode() + crc.to_bytes(4, "little")


def _store(core: Any, network: Network, config: dict[str, Any], path: Path, key: str) -> bool:
    """Compile into the cache and forget the least recent entries; tell whether it worked (a full disk is no error).

    OpenVINO itself writes the file, weight by weight; `export_model` would hold it in memory, twice.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=_TEMPORARY, ignore_cleanup_errors=True) as folder:
            _compile(core, network, {**config, "CACHE_DIR": folder})
            written = list(Path(folder).glob("*.blob"))
            if len(written) != 1:
                return False
            finished = Path(folder) / "finished"
            with written[0].open("rb") as source, finished.open("wb") as target:
                if b"<compiled_blob" not in source.readline(_MAX_HEADER):  # a line of OpenVINO's, ahead of the blob
                    return False
                crc = 0
                while piece := source.read(1 << 20):
                    crc = zlib.crc32(piece, crc)
                    target.write(piece)
                target.write(_trailer(key, crc))
            finished.replace(path)
    except OSError:
        return path.exists()
    return True


def _clean(folder: Path) -> None:
    """Remove the least recent compiled networks, and what a killed process left half done."""
    blobs = sorted(folder.glob("openvino-*.blob"), key=_last_change, reverse=True)
    for old in blobs[MAX_CACHED - 1 :]:
        old.unlink(missing_ok=True)
    for left in folder.glob(f"*{_TEMPORARY}"):
        if time.time() - _last_change(left) > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _last_change(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone in the meantime
        return 0.0


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn what OpenVINO raises into one line of ours."""
    try:
        yield
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"cannot {doing}: {reason[-1]}; `unbraid doctor` tells what is installed") from error
