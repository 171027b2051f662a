"""Names and shapes of the parameters of PyTorch's layers, in the order in which it registers them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["Shapes", "conv", "conv_transposed", "linear", "lstm", "nested", "norm", "numbered"]

Shapes = dict[str, tuple[int, ...]]


def conv(n_in: int, n_out: int, *kernel: int) -> Shapes:
    """Parameters of a convolution with a bias."""
    return {"weight": (n_out, n_in, *kernel), "bias": (n_out,)}


def conv_transposed(n_in: int, n_out: int, *kernel: int) -> Shapes:
    """Parameters of a transposed convolution with a bias: its input comes first."""
    return {"weight": (n_in, n_out, *kernel), "bias": (n_out,)}


def linear(n_in: int, n_out: int) -> Shapes:
    """Parameters of a dense layer with a bias."""
    return conv(n_in, n_out)


def norm(n_features: int) -> Shapes:
    """Parameters of a layer or group normalisation: it keeps no statistics."""
    return {"weight": (n_features,), "bias": (n_features,)}


def lstm(n_in: int, n_hidden: int, n_layers: int) -> Shapes:
    """Parameters of a bidirectional LSTM: four gates, both directions of a layer feed the next one."""
    shapes: Shapes = {}
    for layer in range(n_layers):
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            shapes[f"weight_ih_{suffix}"] = (4 * n_hidden, 2 * n_hidden if layer else n_in)
            shapes[f"weight_hh_{suffix}"] = (4 * n_hidden, n_hidden)
            shapes[f"bias_ih_{suffix}"] = (4 * n_hidden,)
            shapes[f"bias_hh_{suffix}"] = (4 * n_hidden,)
    return shapes


def nested(parts: Mapping[str, Shapes]) -> Shapes:
    """Parameters of a module by those of its parts."""
    return {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def numbered(parts: Iterable[Shapes]) -> Shapes:
    """Parameters of a sequence of parts; those without parameters count too."""
    return nested({str(i): shapes for i, shapes in enumerate(parts)})
