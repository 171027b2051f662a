"""HT Demucs as a torch module.

After S. Rouard et al., "Hybrid Transformers for music source separation", ICASSP 2023, section 3: the outer layers of
Hybrid Demucs around a Transformer across both branches. The STFT and its inverse are not part of the network.
"""

from __future__ import annotations

from torch import Tensor, nn

from unbraid.models.hdemucs.network import HybridUNet
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.models.htdemucs.transformer import CrossTransformer

__all__ = ["HTDemucsNetwork"]


class HTDemucsNetwork(HybridUNet):
    """HT Demucs: spectrogram and samples of the mix in, those of the stems out (see `HybridUNet.forward`).

    Parameters are named as `unbraid.models.htdemucs.state.parameter_shapes` says. Those of the convolutions around the
    Transformer, and its own, are not rescaled before training.
    """

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__(config, hybrid=True, attention_starts=config.depth, lstm_starts=config.depth)
        self.crosstransformer: CrossTransformer | None = None
        width, inner_width = config.layers()[-1].n_out, config.transformer_width
        self.widens = bool(config.bottom_channels)
        if self.widens:
            self.channel_upsampler = nn.Conv1d(width, inner_width, 1)
            self.channel_downsampler = nn.Conv1d(inner_width, width, 1)
            self.channel_upsampler_t = nn.Conv1d(width, inner_width, 1)
            self.channel_downsampler_t = nn.Conv1d(inner_width, width, 1)
        if config.transformer.n_layers:
            self.crosstransformer = CrossTransformer(config.transformer, inner_width)

    def bottom(self, x: Tensor, wave: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the Transformer across both branches."""
        if self.crosstransformer is None or wave is None:
            return x, wave
        if not self.widens:
            both: tuple[Tensor, Tensor] = self.crosstransformer(x, wave)
            return both
        n_bins, n_frames = x.shape[2:]
        x = self.channel_upsampler(x.flatten(2))
        x, wave = self.crosstransformer(x.view(*x.shape[:2], n_bins, n_frames), self.channel_upsampler_t(wave))
        x = self.channel_downsampler(x.flatten(2))
        return x.view(*x.shape[:2], n_bins, n_frames), self.channel_downsampler_t(wave)
