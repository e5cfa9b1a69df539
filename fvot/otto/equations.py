"""Symmetric linear equations of a density that may span decades, and vanish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import linalg
from ..arguments.types import Array, BoolArray, IntArray
from ..errors import ConvergenceError
from ..mesh import Mesh
from ..parallel import Ranks

METRIC_PREFIX = "fvot_otto_"

# Relative tolerance of an iterative solve.
TANGENT_SOLVER_TOLERANCE = 1e-12

# Residual of the equations in L1, relative to the right-hand side, at most.
TANGENT_TOLERANCE = 1e-9

# The same relative to the sum of their terms, which are large at faces between cell points that
# nearly coincide.
TANGENT_ROUNDING = 1e-15


class Equations(ABC):
    """A x = b for this rank's values of points.

    what : what x is, for messages
    methods : names of linear methods (`linalg.find_method`), to be tried in this order
    """

    def __init__(self, mesh: Mesh, what: str, methods: Sequence[str]):
        self.mesh = mesh
        self.what = what
        self.methods = methods

    @abstractmethod
    def multiply(self, x: Array) -> Array:
        """A x. Collective."""

    @abstractmethod
    def measure(self, x: Array) -> float:
        """The sum of the absolute values of this rank's terms of A x. Collective."""

    @abstractmethod
    def build_solver(self, method: str) -> tuple[Callable[[Array], Array], linalg.System]:
        """(A^-1, about; the system to destroy in the end). Collective."""

    def build_system(self, matrix: Any, method: str) -> linalg.System:
        """A linear system with the options of this room."""
        mesh = self.mesh
        return linalg.System(
            mesh.ranks,
            matrix,
            linalg.find_method(method, mesh.dim, mesh.ranks.size),
            prefix=METRIC_PREFIX,
            rtol=TANGENT_SOLVER_TOLERANCE,
        )

    def solve(self, sides: Array) -> Array:
        """x (k, n) for the sides b (k, n), with one step of iterative refinement. Collective."""
        ranks = self.mesh.ranks
        size = ranks.sum(np.abs(sides).sum(axis=1))
        x = np.zeros_like(sides)
        left = np.flatnonzero(size)
        for method in self.methods:
            if len(left) == 0:
                return x
            solve, system = self.build_solver(method)
            for i in left:
                x[i] = self._refine(solve, sides[i])
            system.destroy()
            missed = np.array([self._find_missed(sides[i], x[i]) for i in left])
            allowed = np.array([self._find_allowed(size[i], x[i]) for i in left])
            is_missed = ~(missed <= allowed)
            left = left[is_missed]

        if len(left):
            worst = (missed[is_missed] / size[left]).max()
            raise ConvergenceError(
                f"{self.what} misses its equations by {worst:.1e}: densities that span fewer "
                "decades may help, or another solver by PETSc's options, such as "
                f"-{METRIC_PREFIX}pc_type"
            )
        return x

    def _refine(self, solve, b):
        x = np.zeros_like(b)
        for _ in range(2):
            residual = b - self.multiply(x)
            x = x + solve(residual)
        return x

    def _find_missed(self, b, x):
        return self.mesh.ranks.sum(np.abs(b - self.multiply(x)).sum())

    def _find_allowed(self, size, x):
        terms = self.mesh.ranks.sum(self.measure(x))
        return TANGENT_TOLERANCE * size + TANGENT_ROUNDING * terms


def find_pins(
    ranks: Ranks, component: IntArray, count: int, weight: Array, number: IntArray
) -> tuple[BoolArray, Array]:
    """(which of this rank's unknowns to pin: one in each component; what to add to diagonals).

    The one with the largest weight, the diagonal of the matrix, is taken. As right-hand sides add
    up to 0 in each component, a larger diagonal only sets x = 0 there. Collective.

    number (n,) : the global numbers of the unknowns
    """
    largest = np.zeros(count)
    np.maximum.at(largest, component, weight)
    largest = ranks.max(largest)
    is_largest = weight == largest[component]

    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, component[is_largest], number[is_largest])
    is_pinned = is_largest & (ranks.min(first)[component] == number)
    diagonal = np.where(weight > 0, weight, largest.max(initial=0.0) or 1.0)
    return is_pinned, diagonal
