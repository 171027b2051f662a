"""Write a trained network as a model folder: `config.json` with plain numbers and `weights.safetensors` in float16."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from unbraid.models.spleeter.shared_unet import SharedUNet
from unbraid.training.prepare import STEMS

__all__ = ["balanced_state", "save_model"]


def save_model(network: SharedUNet, folder: Path, *, separation_exponent: int = 1, n_frames: int = 512) -> None:
    """Write the model folder; each file appears whole.

    Parameters
    ----------
    network : SharedUNet
        The one to ship: usually the moving average.
    folder : Path
        Made where it is missing.
    separation_exponent : int
        Power to which the outputs are raised before their ratio is taken as the mask.
    n_frames : int
        Frames of a block at separation (T).
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config
    description = {
        "sample_rate": 44100,
        "frame_length": 4096,
        "frame_step": 1024,
        "T": n_frames,
        "F": config.n_bins,
        "n_channels": config.n_channels,
        "instrument_list": list(STEMS),
        "mask_extension": "average",
        "separation_exponent": separation_exponent,
        "model": {"type": "unet.shared_unet", "params": dataclasses.asdict(config)},
    }
    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in balanced_state(network).items()
        if value.is_floating_point()
    }
    temporary = folder / "weights.part"
    temporary.write_bytes(save(tensors))
    temporary.replace(folder / "weights.safetensors")
    temporary = folder / "config.part"
    temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / "config.json")


def balanced_state(network: SharedUNet) -> dict[str, Tensor]:
    """The network's state, rescaled so that it keeps its precision and range in float16; the function is the same.

    Batch normalisation undoes any scale of what comes before it, so that scale is moved out of the running statistics:
    wholly, per feature, where a convolution comes before; by its geometric mean where a dense layer along frequency,
    shared by all features, does.
    """
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    suffix = ".norm.running_var"
    for prefix in [name.removesuffix(suffix) for name in state if name.endswith(suffix)]:
        epsilon = network.get_submodule(prefix + ".norm").eps
        power = state[prefix + suffix].double() + float(epsilon)  # type: ignore[arg-type]
        if prefix + ".conv.weight" in state:
            scale = power.rsqrt()
            state[prefix + ".conv.weight"] *= scale.float().reshape(-1, 1, 1, 1)
        else:
            scale = power.log().mean().mul(-0.5).exp().expand_as(power)
            state[prefix + ".squeeze"] *= scale[0].float()
        state[prefix + ".norm.running_mean"] *= scale.float()
        state[prefix + suffix] = (power * scale.square() - float(epsilon)).clamp(min=0).float()  # type: ignore[arg-type]
    return state
