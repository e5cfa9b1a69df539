"""Systems with the matrix A = |K| + tau (outflow) of upwind fluxes, solved along the flow.

Mass runs from high to low potential, and never in circles: in the order of the potential the matrix
is triangular, and one sweep over the cells solves it, to round-off. On several ranks sweeps
alternate with exchanges, until nothing changes any more: as often as a stream crosses from rank to
rank.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..arguments.types import Array, BoolArray
from ..errors import ConvergenceError
from ..finite_volume.rates import downstream_order
from ..finite_volume.stencil import Stencil

# Sweeps on several ranks: as often may a stream cross from rank to rank.
MAX_RANK_CROSSINGS = 1000


class Streams:
    """A and its transpose, for the rates a (n_faces,) from left to right, b from right to left.

    (A z)_K = |K| z_K + tau (sum of what leaves - sum of what enters)
    (A^T x)_K = |K| x_K + tau sum of leaving rates (x_K - x_other), with x_other = 0 outside of the
        boundary
    """

    def __init__(self, stencil: Stencil, mesh: Any, a: Array, b: Array, tau: float):
        self.mesh = mesh
        self._has_ghosts = mesh.ranks.max(mesh.n_local - mesh.n_cells) > 0
        self._order = downstream_order(a, b, mesh.n_inner, stencil)
        self._sides = (
            stencil.start,
            stencil.face,
            stencil.sign,
            stencil.neighbour,
            a,
            b,
            mesh.n_inner,
            tau,
            mesh.volume,
        )

    def solve_along(self, y: Array, free: BoolArray, fixed: Array) -> Array:
        """z (n_cells,) with (A z)_K = y_K in the cells that are *free*, z = fixed (n_cells,) in the
        others.
        """
        return self._solve(self._order, y, free, fixed, False)

    def solve_against(self, y: Array, free: BoolArray, fixed: Array) -> Array:
        """x (n_cells,) with (A^T x)_K = y_K in the cells that are *free*, x = fixed (n_cells,) in
        the others.
        """
        return self._solve(self._order[::-1], y, free, fixed, True)

    def _solve(self, order, y, free, fixed, transposed):
        mesh = self.mesh
        ranks = self.mesh.ranks
        x = mesh.with_ghosts(np.where(free, 0.0, fixed))

        for _ in range(MAX_RANK_CROSSINGS):
            changed = _sweep(order, *self._sides, y, free, transposed, x)
            if not self._has_ghosts or not ranks.max(int(changed)):
                return x[: mesh.n_cells].copy()
            mesh.exchange(x)

        raise ConvergenceError(
            f"streams cross from rank to rank more than {MAX_RANK_CROSSINGS} times: take a "
            "smaller step"
        )


@numba.njit(cache=True, error_model="numpy")
def _sweep(order, start, face, sign, neighbour, a, b, n_inner, tau, volume, y, free, transposed, x):
    """Solve cell by cell in the given order; returns whether anything has changed.

    A cell comes after those that give to it; with the transpose, after those to which it gives.
    """
    changed = False
    for cell in order:
        if not free[cell]:
            continue
        content = y[cell]
        weight = volume[cell]
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            weight += tau * leaves
            passed = leaves if transposed else enters
            if f < n_inner and passed > 0:
                content += tau * passed * x[neighbour[s]]
        new = content / weight
        changed |= new != x[cell]
        x[cell] = new
    return changed
