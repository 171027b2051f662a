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
_MOMENTUM = 0.95  # of kernels, as in both
_EPSILON = 1e-8  # of all else, as in AdamW


class Muon(torch.optim.Optimizer):
    """Steps in which every direction of a kernel counts the same, however weak it is in the gradient.

    The momentum of a kernel [shape=(output, ...)], taken as a matrix, has its singular values replaced by ones, about.
    Networks learn in fewer steps than with AdamW, which scales each weight by itself. What is no kernel (biases,
    scales) is left to the rule of AdamW. `torch.optim.Muon` takes nothing but matrices.

    Parameters
    ----------
    params : groups of parameters
    lr : of kernels and all else, by the length of steps that AdamW would make
    betas : of AdamW
    weight_decay : per step and rate
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

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
                    state, gradient = self.state[weights], weights.grad
                    if is_kernel(weights):
                        step = _kernel_step(state, gradient)
                    else:
                        step = _step(state, gradient, group["betas"])
                    weights.add_(step, alpha=-group["lr"])
        return loss


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


def _kernel_step(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
    ahead = torch.lerp(gradient, state["momentum"], _MOMENTUM)  # Nesterov's
    matrix = ahead.reshape(len(ahead), -1)
    length: float = _RMS * max(matrix.shape) ** 0.5
    return length * _orthogonal(matrix).view_as(gradient)


def _step(state: dict[str, Tensor], gradient: Tensor, betas: tuple[float, float]) -> Tensor:
    first, second = betas
    if not state:
        state["step"] = torch.zeros((), device=gradient.device)
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    mean = state["mean"] / (1 - first ** state["step"])
    square = state["square"] / (1 - second ** state["step"])
    step: Tensor = mean / (square.sqrt() + _EPSILON)
    return step
