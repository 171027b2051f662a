"""Muon beside PyTorch's own, which takes matrices alone, and AdamW; and that it learns and can be saved."""

import pytest
import torch

from unbraid.training.optimizers import Muon, is_kernel

RATE, DECAY, N_STEPS = 3e-3, 0.1, 20
SHAPES = ((6, 40), (40, 6), (8, 8))
# Values are rounded to bfloat16 (by 2^-9 of them) five times, and what that changes is up to 3.44 times as large, the
# polynomial's slope, after the next time.
STEP_ERROR = 5 * 3.44 * 2.0**-9


def parameter(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape))


def learn(optimizers: list[torch.optim.Optimizer], pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]]) -> None:
    """Steps with the same gradients on both sides."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(N_STEPS):
        for one, other in pairs:
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.reshape(other.shape).clone()
        for optimizer in optimizers:
            optimizer.step()


def test_kernels_move_as_matrices_do_in_pytorch() -> None:
    torch.manual_seed(0)
    ours = [*(parameter(*shape) for shape in SHAPES), parameter(6, 4, 5, 2)]
    theirs = [torch.nn.Parameter(one.detach().clone().reshape(len(one), -1)) for one in ours]
    starts = [one.detach().clone() for one in theirs]
    learn(
        [
            Muon(ours, lr=RATE, weight_decay=DECAY),
            torch.optim.Muon(theirs, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        ],
        list(zip(ours, theirs, strict=True)),
    )
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        moved = (other - start).norm()
        assert moved > 0.1 * RATE * N_STEPS * other.numel() ** 0.5 * 0.2
        assert (mine.reshape(other.shape) - other).norm() < STEP_ERROR * moved


def test_what_is_no_kernel_moves_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours = [parameter(9), parameter(48, 1, 1)]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    learn(
        [
            Muon(ours, lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY),
            torch.optim.AdamW(theirs, lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY),
        ],
        list(zip(ours, theirs, strict=True)),
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)  # float32, values near 1


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [((8, 4), True), ((8, 1, 3, 3), True), ((8,), False), ((8, 1, 1), False), ((1, 8), False), ((), False)],
)
def test_what_is_a_kernel(shape: tuple[int, ...], is_one: bool) -> None:
    assert is_kernel(torch.zeros(shape)) == is_one


def test_a_step_has_the_singular_values_of_the_polynomial() -> None:
    kernel = torch.nn.Parameter(torch.zeros(16, 64))
    left, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))
    right, _ = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(3)))
    strengths = torch.logspace(0, -1, 16)
    kernel.grad = left @ torch.diag(strengths) @ right.T
    Muon([kernel], lr=1.0).step()
    expected = strengths / strengths.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    found = -torch.diag(left.T @ kernel.detach() @ right) / (0.2 * 64**0.5)
    torch.testing.assert_close(found, expected, rtol=STEP_ERROR, atol=0)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    target = torch.randn(5, 7)

    def steps(optimizer: Muon, weights: list[torch.nn.Parameter], n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            (weights[0] + weights[1][:, None] - target).square().sum().backward()
            optimizer.step()

    whole = [torch.nn.Parameter(torch.zeros(5, 7)), torch.nn.Parameter(torch.zeros(5))]
    steps(Muon(whole, lr=0.05), whole, 6)
    half = [torch.nn.Parameter(torch.zeros(5, 7)), torch.nn.Parameter(torch.zeros(5))]
    first = Muon(half, lr=0.05)
    steps(first, half, 3)
    second = Muon(half, lr=0.05)
    second.load_state_dict(first.state_dict())
    steps(second, half, 3)
    for one, other in zip(whole, half, strict=True):
        assert torch.equal(one, other)
    assert (whole[0] + whole[1][:, None] - target).square().sum() < 0.9 * target.square().sum()
