"""First guesses of linear solves with one matrix: the last right-hand sides, and their solutions.

The right-hand sides of steps that follow one another are nearly a combination of those before them
(Fischer 1998): the least-squares one has the same combination of solutions. Only the rest is left
to solve.
"""

from __future__ import annotations

import numba
import numpy as np

from ..arguments.types import Array
from ..parallel import Ranks

# Right-hand sides that are kept: with a fifth one solves take hardly fewer iterations.
N_KEPT = 4

# Eigenvalues of the products of right-hand sides, over the largest one, that count as 0: with the
# rounding of the products coefficients would grow without a use.
PRODUCT_ROUNDING = 1e-14

# The rest that a guess leaves, over the right-hand side, from which it is of no use.
USELESS_REST = 0.5

# The smallest rest that the products can tell.
SMALLEST_REST = 1e-7


class Guesses:
    """The last right-hand sides and solutions, each (n,)."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.clear()

    def clear(self) -> None:
        """Forget them: the matrix is another one."""
        self._known: list[tuple[Array, Array]] = []
        self._products = np.zeros((0, 0))
        self._last: tuple[Array, Array] | None = None

    def find(self, rhs: Array) -> tuple[Array | None, Array, float]:
        """(a guess (n,), or None, what it leaves of the right-hand side (n,), the size of that
        relative to the right-hand side). Collective.
        """
        kept = [known for known, _ in self._known]
        own = np.array([_dot(known, rhs) for known in [*kept, rhs]])
        products = self.ranks.sum(own)
        self._last = (rhs, products)
        coefficients = _fit(self._products, products[:-1])
        left = products[-1] - products[:-1] @ coefficients
        rest = np.sqrt(max(left, 0.0) / products[-1]) if products[-1] > 0 else 1.0
        if not rest < USELESS_REST:
            return None, rhs, 1.0

        guess = np.zeros(len(rhs))
        residual = rhs.copy()
        for c, (known, solution) in zip(coefficients, self._known, strict=True):
            _subtract(residual, c, known, guess, solution)
        return guess, residual, max(rest, SMALLEST_REST)

    def add(self, solution: Array) -> None:
        """Keep the right-hand side that was looked at last, with its solution."""
        if self._last is None:
            return
        rhs, products = self._last
        self._last = None
        n = len(products)
        grown = np.empty((n, n))
        grown[:-1, :-1] = self._products
        grown[-1] = products
        grown[:, -1] = products
        first = max(n - N_KEPT, 0)
        self._products = grown[first:, first:]
        self._known = [*self._known, (rhs, solution)][first:]


def _fit(products, projections):
    """The least-squares coefficients, by the eigenvectors that rounding leaves."""
    if len(projections) == 0:
        return projections
    size = np.sqrt(np.maximum(np.diag(products), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(products / np.outer(size, size))
    is_known = values > PRODUCT_ROUNDING * values[-1]
    inverse = np.where(is_known, 1 / np.where(is_known, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ (projections / size))) / size


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _dot(a, b):
    """The sum of a b."""
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@numba.njit(cache=True, error_model="numpy")
def _subtract(residual, c, known, guess, solution):
    """Take c known from the residual, and add c solution to the guess."""
    for i in range(len(residual)):
        residual[i] -= c * known[i]
        guess[i] += c * solution[i]
