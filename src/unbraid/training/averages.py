"""Moving averages of a network's weights (Demucs: several decays, per step and per epoch; the best one is kept)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["Average", "candidates", "make_averages"]


class Average:
    """An average whose memory grows to 1 / (1 - decay) updates: while it is young, it follows sooner.

    name : "step 0.9995" or the like
    per_epoch : updated every epoch, not every step
    """

    def __init__(self, module: nn.Module, decay: float, *, per_epoch: bool) -> None:
        self.name = f"{'epoch' if per_epoch else 'step'} {decay:g}"
        self.per_epoch = per_epoch
        self.decay = decay
        self.n_updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present weights."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        means, values = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                means.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)


def make_averages(module: nn.Module, steps: tuple[float, ...], epochs: tuple[float, ...]) -> list[Average]:
    """One for each decay; they begin at the module's weights."""
    return [
        *(Average(module, decay, per_epoch=False) for decay in steps),
        *(Average(module, decay, per_epoch=True) for decay in epochs),
    ]


def candidates(module: nn.Module, averages: list[Average]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """All weights among which validation chooses: those of now, and the averages."""
    yield "now", module.state_dict()
    for average in averages:
        yield average.name, average.state
