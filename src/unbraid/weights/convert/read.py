"""One network from one file of another program, whatever the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.convert.archive import unpacked
from unbraid.weights.convert.demucs import read_demucs_package, read_demucs_safetensors, read_demucs_state
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.openunmix import read_openunmix, target_of
from unbraid.weights.convert.spleeter import read_spleeter
from unbraid.weights.convert.torch_file import read_torch_file

__all__ = ["is_openunmix", "read_network"]


@contextmanager
def read_network(
    path: Path, scratch: Path, *, config: SpleeterConfig | None = None, demucs_version: int = 2
) -> Iterator[ConvertedNetwork]:
    """Convert the network of a file, or of a folder with a TensorFlow checkpoint.

    scratch : a folder for what is unpacked; what is in it must stay as long as the context
    config : of a checkpoint of Spleeter; None for that of Spleeter's own model with as many stems
    demucs_version : 1 or 2, for a Demucs without a description of itself

    Yields a network whose tensors are views of the file: they last as long as the context.
    Raises ModelError where it is no such file, or what it holds does not fit together.
    """
    if path.is_dir():
        yield read_spleeter(path, config)
        return
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror or error}") from error
    if head == b"\x1f\x8b":
        with unpacked(path, scratch) as folder:
            try:
                network = read_spleeter(folder, config)
            except ModelError as error:  # which is about the folder, and nobody has seen that
                raise ModelError(str(error).replace(str(folder), str(path))) from error
            yield network
    elif config is not None:
        raise ModelError(f"cannot import '{path}' with --config: only a checkpoint of Spleeter takes a Spleeter JSON")
    elif path.suffix == ".safetensors":
        yield read_demucs_safetensors(path)
    else:
        content = read_torch_file(path)
        if isinstance(content, Mapping) and "klass" in content:
            yield read_demucs_package(path, content, scratch=scratch)
        elif is_openunmix(content):
            yield read_openunmix({target_of(path): path})
        else:
            yield read_demucs_state(path, content, version=demucs_version, scratch=scratch)


def is_openunmix(content: object) -> bool:
    """Whether the content of a PyTorch file is the state of one Open-Unmix network."""
    return isinstance(content, Mapping) and "fc1.weight" in content and "input_mean" in content
