from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from unbraid.evaluation.toeplitz import solve_block_toeplitz

Matrix = NDArray[np.float64]


def correlations(signals: Matrix, n_blocks: int) -> Matrix:
    """R[k] = Σ_t x[t] x[t + k]ᵀ of signals [shape=(…, m, time)]: positive semidefinite block-Toeplitz."""
    n = signals.shape[-1]
    padded = np.concatenate([signals, np.zeros((*signals.shape[:-1], n_blocks))], axis=-1)
    lags = [np.einsum("...at,...bt->...ab", signals, padded[..., k : k + n]) for k in range(n_blocks)]
    return np.stack(lags, axis=-3)


def dense(blocks: Matrix) -> Matrix:
    """G [shape=(L m, L m)] of one R[0] … R[L−1], block by block."""
    n_blocks, m, _ = blocks.shape
    rows = [
        [blocks[row - column] if row >= column else blocks[column - row].T for column in range(n_blocks)]
        for row in range(n_blocks)
    ]
    return np.block(rows).reshape(n_blocks * m, n_blocks * m)


def product(blocks: Matrix, x: Matrix) -> Matrix:
    """G x [shape=(L, m, r)]."""
    return (dense(blocks) @ x.reshape(-1, x.shape[-1])).reshape(x.shape)


@pytest.mark.parametrize(
    ("n_blocks", "m", "n_right", "batch"),
    [
        (1, 1, 1, ()),
        (1, 5, 2, (3,)),
        (2, 3, 1, ()),
        (7, 1, 4, ()),
        (32, 2, 2, (4,)),
        (64, 8, 8, ()),
        (100, 3, 1, (2, 3)),
        (512, 2, 2, ()),
    ],
)
def test_solutions_are_those_of_dense_equations(n_blocks: int, m: int, n_right: int, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(n_blocks)
    # Four times as long as there are unknowns: a condition number of about ten.
    blocks = correlations(rng.standard_normal((*batch, m, 4 * n_blocks * m + 20)), n_blocks)
    right = rng.standard_normal((*batch, n_blocks, m, n_right))
    kept = blocks.copy(), right.copy()
    found = solve_block_toeplitz(blocks, right)
    assert found.shape == right.shape
    for index in np.ndindex(*batch):
        expected = np.linalg.solve(dense(blocks[index]), right[index].reshape(n_blocks * m, n_right))
        np.testing.assert_allclose(found[index], expected.reshape(n_blocks, m, n_right), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(blocks, kept[0])
    np.testing.assert_array_equal(right, kept[1])


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e8])
def test_scale_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(1)
    blocks = correlations(rng.standard_normal((3, 400)), 20)
    right = rng.standard_normal((20, 3, 2))
    expected = solve_block_toeplitz(blocks, right)
    np.testing.assert_allclose(solve_block_toeplitz(scale * blocks, scale * right), expected, rtol=1e-10, atol=1e-13)


def test_a_batch_is_solved_as_its_members_alone() -> None:
    rng = np.random.default_rng(2)
    levels = np.array([1.0, 1e-3, 1e3])[:, None, None]
    blocks = correlations(levels * rng.standard_normal((3, 2, 500)), 40)
    right = rng.standard_normal((3, 40, 2, 2))
    together = solve_block_toeplitz(blocks, right)
    alone = np.stack([solve_block_toeplitz(*pair) for pair in zip(blocks, right, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_ill_conditioned_equations_are_solved_to_what_rounding_allows() -> None:
    """A low-passed signal: eigenvalues over seven powers of ten; refinement takes the ridge's effect out again."""
    rng = np.random.default_rng(3)
    smooth = np.apply_along_axis(np.convolve, 1, rng.standard_normal((2, 4000)), np.hanning(9))
    blocks = correlations(smooth + 1e-3 * rng.standard_normal(smooth.shape), 48)
    assert 1e6 < np.linalg.cond(dense(blocks)) < 1e9
    true = rng.standard_normal((48, 2, 3))
    found = solve_block_toeplitz(blocks, product(blocks, true))
    np.testing.assert_allclose(found, true, atol=1e-7)


def copies(rng: np.random.Generator) -> Matrix:
    first = rng.standard_normal((1, 600))
    return np.concatenate([first, -0.37 * first, rng.standard_normal((1, 600))])


def delayed_copies(rng: np.random.Generator) -> Matrix:
    first = np.zeros((2, 600))
    first[:, :500] = rng.standard_normal(500)
    first[1] = np.roll(first[0], 3)
    return first


def empty_band(rng: np.random.Generator) -> Matrix:
    spectrum = np.fft.rfft(rng.standard_normal((2, 600)))
    spectrum[:, 100:] = 0
    return np.fft.irfft(spectrum)


def dead_channel(rng: np.random.Generator) -> Matrix:
    return np.concatenate([rng.standard_normal((1, 600)), np.zeros((1, 600))])


@pytest.mark.parametrize("make", [copies, delayed_copies, empty_band, dead_channel])
def test_singular_equations_that_have_solutions(make: object) -> None:
    """What comes out is one solution of many: its product is the right-hand side."""
    assert callable(make)
    rng = np.random.default_rng(4)
    blocks = correlations(make(rng), 30)
    assert np.linalg.cond(dense(blocks)) > 1e8
    right = product(blocks, rng.standard_normal((30, blocks.shape[-1], 2)))
    found = solve_block_toeplitz(blocks, right)
    assert np.abs(product(blocks, found) - right).max() < 1e-8 * np.abs(right).max()


def test_a_first_block_that_rounding_makes_indefinite() -> None:
    """Its smallest eigenvalue, zero in truth, is further below zero than the least ridge."""
    direction = np.array([0.6, 0.8])
    blocks = np.zeros((4, 2, 2))
    blocks[0] = np.outer(direction, direction) - 1e-12 * np.outer([0.8, -0.6], [0.8, -0.6])
    right = np.broadcast_to(direction[:, None], (4, 2, 1))
    found = solve_block_toeplitz(blocks, right)
    np.testing.assert_allclose(product(blocks, found), right, atol=1e-9)


@pytest.mark.parametrize(
    "blocks",
    [
        np.array([1.0, 2.0]),  # eigenvalues −1 and 3
        np.array([-1.0, 0.0]),
        np.array([1.0, 0.0, 0.8, -0.9]),
        np.array([np.nan, 0.0]),
    ],
)
def test_matrices_that_are_not_positive_are_refused(blocks: Matrix) -> None:
    with pytest.raises(ValueError, match=re.escape("blocks must make a positive semidefinite matrix")):
        solve_block_toeplitz(blocks[:, None, None], np.ones((len(blocks), 1, 1)))
