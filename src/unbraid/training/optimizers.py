"""Optimisers that PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "is_kernel"]

# Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": a polynomial of fifth degree whose
# slope at 0 is as steep as can be. Repeated, it brings singular values to between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_N_REPEATS = 5
_LEAST = 1e-7  # a gradient's length, below which it counts as none
# Liu et al. 2025, "Muon is scalable for LLM training", section 2.2: steps are as long as those of AdamW usually are.
_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Steps in which every direction of a kernel counts the same, however weak it is in the gradient.

    The momentum of a kernel [shape=(output, ...)], taken as a matrix, has its singular values replaced by ones, about.
    Networks learn in fewer steps than with AdamW, which scales each weight by itself. What is no kernel (biases,
    scales) is left to the rule of AdamW. `torch.optim.Muon` takes nothing but matrices.

    Parameters
    ----------
    params : groups of parameters
    lr : of kernels and all else, by the length of steps that AdamW would make
    momentum : how much of it is kept
    betas, eps : of AdamW
    weight_decay : per step and rate
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights; what has no gradient stays."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    weights.mul_(1 - group["lr"] * group["weight_decay"])
                    move = self._of_kernel if is_kernel(weights) else self._of_others
                    weights.add_(move(self.state[weights], weights.grad, group), alpha=-group["lr"])
        return loss

    @staticmethod
    def _of_kernel(state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, state["momentum"], group["momentum"])  # Nesterov's
        matrix = ahead.reshape(len(ahead), -1)
        length: float = _RMS * max(matrix.shape) ** 0.5
        return length * _orthogonal(matrix).view_as(gradient)

    @staticmethod
    def _of_others(state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        first, second = group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=gradient.device)
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        square = state["square"] / (1 - second ** state["step"])
        step: Tensor = mean / (square.sqrt() + group["eps"])
        return step


def is_kernel(weights: Tensor) -> bool:
    """Whether weights connect several channels with several, or are kernels of filters: not biases and scales."""
    return weights.ndim > 1 and 1 < len(weights) < weights.numel()


def _orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near 1, by Newton's and Schulz' iteration."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if is_tall else matrix
    x = (x / x.norm().clamp(min=_LEAST)).bfloat16()
    for _ in range(_N_REPEATS):
        squares = x @ x.T
        x = a * x + (b * squares + c * squares @ squares) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
