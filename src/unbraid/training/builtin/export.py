"""Write a trained network as a model folder, its weights in float16."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.shared_unet import SharedUNet
from unbraid.training.builtin.prepare import STEMS
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart

__all__ = ["balanced_state", "save_model"]


def save_model(network: SharedUNet, folder: Path, *, separation_exponent: int = 1, n_frames: int = 512) -> None:
    """Write the model folder, which appears whole.

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
    shared = network.config
    config = SpleeterConfig(
        stems=STEMS,
        n_frames=n_frames,
        n_bins=shared.n_bins,
        n_channels=shared.n_channels,
        separation_exponent=separation_exponent,
        mask_extension="average",
        network="unet.shared_unet",
        shared_unet=shared,
    )
    model = ModelFile(
        name=folder.name,
        stems=config.stems,
        sample_rate=config.sample_rate,
        networks=(NetworkPart("spleeter", config),),
        weights_size=0,
        weights_sha256="",
    )
    tensors = {
        name: value.detach().to(torch.float16).contiguous().numpy()
        for name, value in balanced_state(network).items()
        if value.is_floating_point()
    }
    write_model(folder, model, tensors)


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
