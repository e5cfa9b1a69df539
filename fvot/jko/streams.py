"""Systems with the matrix A = |K| + tau (outflow) of upwind fluxes, solved along the flow.

Mass runs from high to low potential, and never in circles: in the order of the potential the matrix
is triangular, and one sweep over the cells solves it, to round-off. On several ranks a cell has a
depth: how often a stream that reaches it has crossed from rank to rank, or where a periodic mesh
closes. The cells of one depth are solved together, and their values sent, before those of the next
one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, BoolArray, IntArray
from ..errors import ConvergenceError
from ..finite_volume.rates import downstream_order
from ..finite_volume.stencil import Stencil

# As often may a stream cross from rank to rank.
MAX_RANK_CROSSINGS = 1000


class Rows(NamedTuple):
    """The rows of a triangular matrix that are to be solved, in an order in which that is possible.

    ends (depths,) : of the rows of each depth
    cell (n,), weight (n,) : of each row, and its diagonal
    start (n + 1,), other, coefficient (n_entries,) : where its other entries are, their cells, and
        minus their values
    """

    ends: list[int]
    cell: IntArray
    weight: Array
    start: IntArray
    other: IntArray
    coefficient: Array


class Streams:
    """A and its transpose, for the rates a (n_faces,) from left to right, b from right to left.

    (A z)_K = |K| z_K + tau (sum of what leaves - sum of what enters)
    (A^T x)_K = |K| x_K + tau sum of leaving rates (x_K - x_other), with x_other = 0 outside of the
        boundary
    """

    def __init__(self, stencil: Stencil, mesh: Any, a: Array, b: Array, tau: float):
        self.mesh = mesh
        self.tau = tau
        # One rank has ghosts, too, where a mesh is periodic.
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
        )
        self._rows: list[tuple[BoolArray, bool, Rows]] = []

    def solve_along(self, y: Array, free: BoolArray, fixed: Array | None = None) -> Array:
        """z (n_cells,) with (A z)_K = y_K in the cells that are *free*, z = fixed (n_cells,), or 0,
        in the others. The rows are kept for the same array *free*. Collective.
        """
        return self._solve(y, free, fixed, False)

    def solve_against(self, y: Array, free: BoolArray, fixed: Array | None = None) -> Array:
        """x (n_cells,) with (A^T x)_K = y_K in the cells that are *free*, x = fixed (n_cells,), or
        0, in the others. The rows are kept for the same array *free*. Collective.
        """
        return self._solve(y, free, fixed, True)

    def _solve(self, y, free, fixed, transposed):
        mesh = self.mesh
        rows = self._find_rows(free, transposed)
        x = np.zeros(mesh.n_local)
        if fixed is not None:
            x[: mesh.n_cells] = np.where(free, 0.0, fixed)
            mesh.exchange(x)
        begin = 0
        for depth, end in enumerate(rows.ends):
            if depth > 0:
                mesh.exchange(x)
            _sweep(
                begin, end, rows.cell, rows.weight, rows.start, rows.other, rows.coefficient, y, x
            )
            begin = end
        return x[: mesh.n_cells].copy()

    def _find_rows(self, free, transposed):
        """The `Rows` of the cells that are free."""
        for known, is_transposed, rows in self._rows:
            if known is free and is_transposed == transposed:
                return rows

        mesh = self.mesh
        order = self._order[::-1] if transposed else self._order
        order = order[free[order]]
        is_free = mesh.with_ghosts(free)
        depth, deepest = self._find_depths(order, is_free, transposed)
        order = order[np.argsort(depth[order], kind="stable")]
        ends = np.cumsum(np.bincount(depth[order], minlength=deepest + 1))

        weight = np.empty(len(order))
        start = np.zeros(len(order) + 1, np.int32)
        n_sides = len(self._sides[1])
        other = np.empty(n_sides, np.int32)
        coefficient = np.empty(n_sides)
        _collect_rows(
            order,
            *self._sides,
            self.tau,
            mesh.volume,
            transposed,
            weight,
            start,
            other,
            coefficient,
        )
        rows = Rows(list(ends), order, weight, start, other, coefficient)
        self._rows.append((free, transposed, rows))
        return rows

    def _find_depths(self, order, is_free, transposed):
        """(how often streams to each cell (n_local,) have crossed between ranks, the largest)."""
        mesh = self.mesh
        depth = np.zeros(mesh.n_local, np.int64)
        if not self._has_ghosts:
            return depth, 0

        for _ in range(MAX_RANK_CROSSINGS):
            has_changed = _deepen(order, *self._sides, is_free, transposed, mesh.n_cells, depth)
            if not mesh.ranks.max(int(has_changed)):
                return depth, mesh.ranks.max(depth.max(initial=0))
            mesh.exchange(depth)

        raise ConvergenceError(
            f"streams cross from rank to rank more than {MAX_RANK_CROSSINGS} times: take a "
            "smaller step"
        )


@numba.njit(cache=True, error_model="numpy")
def _deepen(order, start, face, sign, neighbour, a, b, n_inner, free, transposed, n_cells, depth):
    """Find the depths of cells in the given order from those of the cells on other ranks; returns
    whether anything has changed.
    """
    changed = False
    for cell in order:
        deepest = 0
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            passed = leaves if transposed else enters
            if f >= n_inner or not passed > 0 or not free[neighbour[s]]:
                continue
            there = depth[neighbour[s]] + (1 if neighbour[s] >= n_cells else 0)
            deepest = max(deepest, there)
        changed |= deepest != depth[cell]
        depth[cell] = deepest
    return changed


@numba.njit(cache=True, error_model="numpy")
def _collect_rows(
    order,
    start,
    face,
    sign,
    neighbour,
    a,
    b,
    n_inner,
    tau,
    volume,
    transposed,
    weight,
    first,
    other,
    coefficient,
):
    """Fill `Rows` for cells in the given order.

    A cell comes after those that give to it; with the transpose, after those to which it gives.
    """
    end = 0
    for row in range(len(order)):
        cell = order[row]
        own = volume[cell]
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            own += tau * leaves
            passed = leaves if transposed else enters
            if f < n_inner and passed > 0:
                other[end] = neighbour[s]
                coefficient[end] = tau * passed
                end += 1
        weight[row] = own
        first[row + 1] = end


@numba.njit(cache=True, error_model="numpy")
def _sweep(begin, end, cell, weight, start, other, coefficient, y, x):
    """Solve row by row."""
    for row in range(begin, end):
        content = y[cell[row]]
        for i in range(start[row], start[row + 1]):
            content += coefficient[i] * x[other[i]]
        x[cell[row]] = content / weight[row]
