"""What every converter returns: one network's family, configuration and tensors, all of them accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from unbraid.errors import ModelError

__all__ = ["ConvertedNetwork", "check_tensors"]


@dataclass(frozen=True, eq=False)
class ConvertedNetwork:
    """A network read from another program's file.

    family : name of the family it belongs to
    config : the family's configuration
    tensors : its state by our names and in our layout, with the type and the very bits that the file holds
    notices : what was assumed or left out, for the user
    """

    family: str
    config: Any
    tensors: Mapping[str, NDArray[Any]]
    notices: tuple[str, ...] = ()


def check_tensors(found: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise ModelError, naming the tensor, unless exactly the expected tensors are found, each of its shape.

    where : the file, for the message
    """
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f"cannot use '{where}': tensor '{name}' is missing; fetch or export the file again")
        if found[name].shape != shape:
            raise ModelError(f"cannot use '{where}': tensor '{name}' must have shape {shape}, got {found[name].shape}")
    for name in found:
        if name not in expected:
            raise ModelError(f"cannot use '{where}': its configuration has no tensor '{name}'")
