"""Small Hybrid Demucs and HT Demucs networks, and something to run them on; needs torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from unbraid.models.hdemucs.config import HDemucsConfig, UNetConfig
from unbraid.models.hdemucs.network import HDemucsNetwork, HybridUNet
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.htdemucs.network import HTDemucsNetwork

# Branches meet after three layers of stride 2, where the hop of 8 samples is the product of their strides.
UNET: dict[str, Any] = {
    **{"hidden_channels": 8, "n_fft": 32, "kernel_size": 4, "stride": 2, "norm_groups": 2, "dconv_comp": 2},
}
SMALL = {
    "hdemucs": HDemucsConfig(("a", "b", "c"), **UNET, depth=5, norm_starts=2, dconv_attn=3, dconv_lstm=3),
    "spectrogram only": HDemucsConfig(("a", "b"), **UNET, depth=4, hybrid=False, complex_as_channels=False),
    "no embedding": HDemucsConfig(("a",), **UNET, depth=3, freq_emb=0, dconv_mode=0, rewrite=False, n_channels=1),
    "bands": HDemucsConfig(("a", "b"), **{**UNET, "n_fft": 128}, depth=5, multi_freqs=(0.3, 0.6), dconv_mode=3),
    "htdemucs": HTDemucsConfig(
        ("a", "b"), **UNET, depth=2, bottom_channels=24, transformer=TransformerConfig(n_layers=3, n_heads=4)
    ),
    "htdemucs, where the branches meet": HTDemucsConfig(
        ("a",), **UNET, depth=3, transformer=TransformerConfig(n_layers=2, n_heads=4, cross_first=True)
    ),
    "htdemucs without Transformer": HTDemucsConfig(
        ("a", "b"), **UNET, depth=4, transformer=TransformerConfig(n_layers=0)
    ),
}


def make(config: UNetConfig) -> HybridUNet:
    if isinstance(config, HTDemucsConfig):
        return HTDemucsNetwork(config)
    assert isinstance(config, HDemucsConfig)
    return HDemucsNetwork(config)


def is_hybrid(config: UNetConfig) -> bool:
    return not isinstance(config, HDemucsConfig) or config.hybrid


def shaken(module: Any, seed: int = 0) -> Any:
    """The module with other parameters than it begins with, so that the innermost layers matter too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.3 * noise)
            elif "embedding" not in name:
                parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
    return module.eval()


def random_inputs(config: UNetConfig, n: int, *, n_batch: int = 1, seed: int = 0) -> tuple[Any, ...]:
    """Something like a spectrogram, and a mix of `n` samples for a hybrid network."""
    generator = torch.Generator().manual_seed(seed)
    n_maps = config.n_channels * (2 if config.complex_as_channels else 1)
    n_frames = math.ceil(n / config.hop) if is_hybrid(config) else n // config.hop + 1
    spectrum = 0.1 + 3 * torch.randn(n_batch, n_maps, config.n_fft // 2, n_frames, generator=generator)
    mix = 0.2 * torch.randn(n_batch, config.n_channels, n, generator=generator) - 0.03
    return (spectrum, mix) if is_hybrid(config) else (spectrum,)


def run(module: Any, *inputs: Any) -> tuple[Any, ...]:
    with torch.inference_mode():
        outputs: tuple[Any, ...] = module(*inputs)
    return outputs


def relative_error(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())
