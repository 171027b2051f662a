"""Symmetric block-Toeplitz systems, solved in O(n² m) instead of O(n³): the block Schur algorithm.

A matrix G of L × L blocks of size m × m, whose block (k, l) is R[k − l] with R[−k] = R[k]ᵀ, has a displacement of low
rank: G − Z G Zᵀ = A Aᵀ − B Bᵀ, where Z shifts down by one block and A, B have m columns each. Each step turns the first
block of B to zero by a hyperbolic rotation; what A is then is the next block column of a factor F with G = F Fᵀ, and A
shifted down by a block is where the next step starts (Kailath & Sayed, "Displacement structure: theory and
applications", SIAM Review 37(3), 1995). The rotations are applied in the mixed form, which is the stable one (Stewart &
Van Dooren, "Stability issues in the factorization of structured matrices", SIAM J. Matrix Anal. Appl. 18(1), 1997).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["solve_block_toeplitz"]

Matrix = NDArray[np.float64]

# Of the mean diagonal element: added to it at first, and ten times more as long as rounding makes G indefinite, or
# nearly so.
_LEAST_RIDGE = 1e-13
_MOST_RIDGE = 1e-8


class _NotPositiveError(Exception):
    """Rounding has made the matrix indefinite, or nearly so."""


def solve_block_toeplitz(blocks: Matrix, right: Matrix) -> Matrix:
    """Solve G x = b for several G at once, each symmetric, positive semidefinite and block-Toeplitz.

    A factorisation of G with a ridge on its diagonal (10⁻¹³ of its mean, more where that is needed) is made, and the
    ridge's effect taken out again by a step of iterative refinement with G itself; where G is singular, the solution is
    one that gives `right` as nearly as such rounding allows.

    Parameters
    ----------
    blocks : ndarray [shape=(…, L, m, m), float64]
        The first block column R[0], …, R[L−1]; R[0] symmetric.
    right : ndarray [shape=(…, L, m, r), float64]
        The right-hand sides b.

    Returns
    -------
    ndarray [shape=(…, L, m, r), float64]
    """
    size = np.trace(blocks[..., 0, :, :], axis1=-2, axis2=-1) / blocks.shape[-1]
    spectra = _spectra(blocks)
    ridge = _LEAST_RIDGE
    while ridge <= _MOST_RIDGE:
        try:
            return _refined(_Factor(blocks, ridge * size), spectra, right)
        except (_NotPositiveError, np.linalg.LinAlgError):  # the latter from Cholesky's factors of the first block
            ridge *= 10
    raise ValueError("blocks must make a positive semidefinite matrix")


def _refined(factor: _Factor, spectra: NDArray[np.complex128], right: Matrix) -> Matrix:
    """The solution after one step of refinement.

    Where G is not singular, more steps change nothing; where it is, each further one adds rounding errors.
    """
    first = factor.solve(right)
    residual = right - _product(spectra, first)
    solution = first + factor.solve(residual)
    before = np.linalg.norm(residual, axis=(-3, -2))
    after = np.linalg.norm(right - _product(spectra, solution), axis=(-3, -2))
    # A factor that came through only just is so far from G that a step leads away, by 20 to 700 times where that was
    # seen. A sound one leaves what rounding leaves: 0.9 to 1.2 times as much.
    if not (after <= 2 * before).all():
        raise _NotPositiveError
    return solution


class _Factor:
    """The factor F of G + ridge · 1 = F Fᵀ, by block columns.

    _columns[k] : ndarray [shape=(…, m, (L − k) m)], block column k of F from its diagonal block on, transposed
    _inverses[k] : ndarray [shape=(…, m, m)], inverse of the diagonal block
    """

    def __init__(self, blocks: Matrix, ridge: Matrix) -> None:
        n_blocks, m = blocks.shape[-3], blocks.shape[-1]
        batch = blocks.shape[:-3]
        first = blocks[..., 0, :, :] + ridge[..., None, None] * np.eye(m)
        root = np.linalg.cholesky(first)
        column = np.concatenate([first[..., None, :, :], blocks[..., 1:, :, :]], axis=-3)
        column = np.linalg.solve(root[..., None, :, :], np.swapaxes(column, -1, -2))  # transposes of R[k] root⁻ᵀ
        a = np.ascontiguousarray(np.moveaxis(column, -3, -2).reshape(*batch, m, n_blocks * m))
        b = a.copy()
        self._columns = [a]
        self._inverses = [np.linalg.inv(root)]
        for k in range(1, n_blocks):
            a, b = a[..., : (n_blocks - k) * m], b[..., m:]
            # In the bases of these singular vectors, the m rotations that turn b's first block to zero are separate.
            u, sine, vt = np.linalg.svd(self._inverses[-1] @ np.swapaxes(b[..., :m], -1, -2))
            if not (sine < 1).all():
                raise _NotPositiveError
            cosine = np.sqrt((1 - sine) * (1 + sine))[..., None]
            sine = sine[..., None]
            b = vt @ b
            a = (np.swapaxes(u, -1, -2) @ a - sine * b) / cosine
            b = cosine * b - sine * a
            self._columns.append(a)
            self._inverses.append(np.linalg.inv(np.swapaxes(a[..., :m], -1, -2)))

    def solve(self, right: Matrix) -> Matrix:
        """Solve F Fᵀ x = right [shape=(…, L, m, r)]."""
        n_blocks, m, n_right = right.shape[-3:]
        rest = right.reshape(*right.shape[:-3], n_blocks * m, n_right).copy()
        for k, (column, inverse) in enumerate(zip(self._columns, self._inverses, strict=True)):
            here, below = slice(k * m, (k + 1) * m), slice((k + 1) * m, None)
            rest[..., here, :] = inverse @ rest[..., here, :]
            rest[..., below, :] -= np.swapaxes(column[..., m:], -1, -2) @ rest[..., here, :]
        for k in range(n_blocks - 1, -1, -1):
            here, below = slice(k * m, (k + 1) * m), slice((k + 1) * m, None)
            column, inverse = self._columns[k], self._inverses[k]
            known = rest[..., here, :] - column[..., m:] @ rest[..., below, :]
            rest[..., here, :] = np.swapaxes(inverse, -1, -2) @ known
        return rest.reshape(right.shape)


def _spectra(blocks: Matrix) -> NDArray[np.complex128]:
    """Spectra of the circulant matrix in which G is embedded [shape=(…, L + 1, m, m)]."""
    negative = np.swapaxes(blocks[..., :0:-1, :, :], -1, -2)
    middle = np.zeros_like(blocks[..., :1, :, :])
    return np.fft.rfft(np.concatenate([blocks, middle, negative], axis=-3), axis=-3)


def _product(spectra: NDArray[np.complex128], x: Matrix) -> Matrix:
    """G x, by the convolution theorem."""
    n_blocks = x.shape[-3]
    product: Matrix = np.fft.irfft(spectra @ np.fft.rfft(x, 2 * n_blocks, axis=-3), 2 * n_blocks, axis=-3)
    return product[..., :n_blocks, :, :]
