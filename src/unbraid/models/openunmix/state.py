"""Names and shapes of the tensors of an Open-Unmix model, computed without torch."""

from __future__ import annotations

from collections.abc import Iterator

from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig

__all__ = ["parameter_shapes", "target_shapes"]


def parameter_shapes(config: OpenUnmixConfig) -> dict[str, tuple[int, ...]]:
    """Tell which tensors, parameters and buffers, the networks of all stems have.

    returns : shape by ``STEM.`` + the name of `target_shapes`, stem after stem
    """
    return {
        f"{stem}.{name}": shape
        for stem, target in zip(config.stems, config.targets, strict=True)
        for name, shape in target_shapes(target, config.n_bins, config.n_channels).items()
    }


def target_shapes(target: TargetConfig, n_bins: int, n_channels: int) -> dict[str, tuple[int, ...]]:
    """Tell which tensors the network of one stem has, by torch's names and in torch's order."""
    hidden = target.hidden_size
    return {
        "input_mean": (target.max_bin,),
        "input_scale": (target.max_bin,),
        "output_scale": (n_bins,),
        "output_mean": (n_bins,),
        "fc1.weight": (hidden, target.max_bin * n_channels),
        **_norm("bn1", hidden),
        **dict(_lstm(target)),
        "fc2.weight": (hidden, 2 * hidden),  # sees the input and the output of the LSTM
        **_norm("bn2", hidden),
        "fc3.weight": (n_bins * n_channels, hidden),
        **_norm("bn3", n_bins * n_channels),
    }


def _norm(name: str, n_features: int) -> dict[str, tuple[int, ...]]:
    per_feature = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{tensor}": (n_features,) for tensor in per_feature}, f"{name}.num_batches_tracked": ()}


def _lstm(target: TargetConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of the LSTM: four gates, with all that a layer puts out as the next one's input."""
    n_out = target.hidden_size if target.unidirectional else target.hidden_size // 2
    for layer in range(target.n_layers):
        for direction in ("",) if target.unidirectional else ("", "_reverse"):
            yield f"lstm.weight_ih_l{layer}{direction}", (4 * n_out, target.hidden_size)
            yield f"lstm.weight_hh_l{layer}{direction}", (4 * n_out, n_out)
            yield f"lstm.bias_ih_l{layer}{direction}", (4 * n_out,)
            yield f"lstm.bias_hh_l{layer}{direction}", (4 * n_out,)
