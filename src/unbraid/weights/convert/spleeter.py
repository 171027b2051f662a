"""Spleeter's checkpoints as networks of our Spleeter family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unbraid.errors import ModelError
from unbraid.models.families import family
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.catalog import catalog
from unbraid.weights.convert.network import ConvertedNetwork, check_tensors
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state

__all__ = ["read_spleeter"]

_N_ENCODER_LAYERS = 6


def read_spleeter(folder: Path, config: SpleeterConfig | None = None) -> ConvertedNetwork:
    """Read the checkpoint of a folder.

    config : what Spleeter's JSON says of it; None for that of Spleeter's own model with as many stems

    returns : tensors that are views of the checkpoint's data file, which must stay while they are used
    Raises ModelError where there is no such checkpoint, or it does not fit the configuration.
    """
    checkpoint = read_checkpoint(latest_checkpoint(folder))
    notices: tuple[str, ...] = ()
    if config is None:
        name, config = _assumed(checkpoint, folder)
        notices = (f"taken for a model like {name}; give its JSON with --config if it is another",)
    try:
        tensors = spleeter_state(checkpoint, config.stems)
    except ModelError as error:
        raise ModelError(str(error).replace("cannot use checkpoint", f"cannot use checkpoint '{folder}'", 1)) from error
    check_tensors(tensors, family("spleeter").shapes(config), str(folder))
    return ConvertedNetwork("spleeter", config, tensors, notices)


def _assumed(checkpoint: Mapping[str, NDArray[Any]], folder: Path) -> tuple[str, SpleeterConfig]:
    """The configuration of the official model with as many stems, with the widths that the checkpoint has."""
    kernels = {name: tensor for name, tensor in checkpoint.items() if re.fullmatch(r"conv2d(_\d+)?/kernel", name)}
    n_stems, rest = divmod(len(kernels), _N_ENCODER_LAYERS + 1)
    name = f"spleeter:{n_stems}stems"
    if rest or name not in catalog():
        raise ModelError(
            f"cannot tell which model the checkpoint in '{folder}' is: it has {len(kernels)} convolutions, "
            "and Spleeter's have 7 a stem; give its JSON with --config"
        )
    names = ["conv2d", *(f"conv2d_{i}" for i in range(1, _N_ENCODER_LAYERS))]
    n_filters = tuple(kernels[f"{layer}/kernel"].shape[-1] for layer in names if f"{layer}/kernel" in kernels)
    return name, replace(SpleeterConfig.from_json(catalog()[name].config), conv_n_filters=n_filters)
