"""Multigrid, in single precision unless steps are very long: (|K| + s A) d = r, an M-matrix.

The unknowns are what cells hold and give up, e = m d with the diagonal m, and the equations
N e = r, N = 1 - P, where P_KL >= 0 is the part of what L gives up that comes into K. All parts are
at most 1, and neither densities that span hundreds of decades nor steps of any length leave the
range of single precision. A coarser grid sums the equations in agglomerates C of cells, and
corrects by e_K = h_K / h_C e_C, where h is a smooth state, m times the Gibbs density. Flows between
agglomerates are the sums of the fine ones in that state, half of what is exchanged and all that is
net.

A V-cycle with one sweep of Gauss-Seidel before and one after is the preconditioner of BiCGStab
(van der Vorst 1992) in the contents, with the sums in double precision. Grids are coarsened only
while more leaves a cell than stays there; so a step takes as many as its stiffness needs, and
messages between neighbours. Only if that goes on to a few cells, their equations are solved
directly.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..arguments.types import Array
from ..mesh.cartesian import cut
from .blocks import BlockGrid, Flows
from .graphs import GraphFlows, GraphGrid

# A grid is coarsened while in some cell more leaves than this multiple of what stays there.
COARSENED_STIFFNESS = 4.0

# Cells of a grid, of all ranks, up to which it is solved directly rather than coarsened.
MAX_DIRECT_CELLS = 64

# The same of a grid that has no coarser one.
MAX_STALLED_CELLS = 1000

# Sweeps, after the first one, on the coarsest grid where it is not solved directly.
COARSEST_SWEEPS = 1

# The stiffness up to which single precision is enough: it rounds what leaves a cell, and so loses a
# part of what stays there, 6e-8 times that.
SINGLE_STIFFNESS = 1e4

# The smallest tolerance of a solve in single precision: in short steps, and in units of the
# stiffness in longer ones; and that in double precision.
SINGLE_TOLERANCE = 1e-5
SINGLE_ROUNDING = 1e-7
DOUBLE_TOLERANCE = 1e-10

# Cycles of a solve at most.
MAX_CYCLES = 80


class Multigrid:
    """The solver of one matrix |K| + s A on a mesh: d = solve(r, rtol).

    sides : the `Stencil` of the mesh
    left, right (n_faces,) : s a and s b of the `Rates`, multiples of the densities on both sides
        that cross the faces
    kept (n_cells,) : what else is on the diagonal
    density (n_cells,) : a smooth state, such as Gibbs'
    stiffness : the largest ratio of what leaves a cell to what it has
    transposed : whether to solve with the transposed matrix; tolerances are then those of r / m

    tolerance : the smallest one of a solve
    iterations : cycles of all solves so far
    has_failed : whether the last solve did not reach its tolerance

    Collective.
    """

    def __init__(
        self,
        mesh: Any,
        sides: Any,
        left: Array,
        right: Array,
        kept: Array,
        density: Array,
        stiffness: float,
        *,
        transposed: bool = False,
    ):
        self.ranks = mesh.ranks
        is_single = stiffness <= SINGLE_STIFFNESS
        in_single = max(SINGLE_TOLERANCE, SINGLE_ROUNDING * stiffness)
        self.tolerance = in_single if is_single else DOUBLE_TOLERANCE
        self.iterations = 0
        self.has_failed = False
        self.grids: list[Any] = []
        self.precision = np.float32 if is_single else np.float64
        grid, flows = _list_flows(mesh, sides, left, right, kept, self.precision)
        self._build(grid, flows, density, transposed)

        finest = self.grids[0]
        self.transposed = transposed
        self.inverse = 1 / finest.total[finest.own_place]
        self.work = [finest.zeros() for _ in range(8)]

    def _build(self, grid, flows, density, transposed):
        grid.set_up(flows, transposed=transposed)
        local = np.zeros(len(grid.total))
        local[grid.own_place] = density
        grid.exchange(local)
        self.grids.append(grid)
        self.direct = None
        while grid.find_stiffness(flows.kept) > COARSENED_STIFFNESS:
            if grid.n_global <= MAX_DIRECT_CELLS:
                self.direct = DirectSolver(grid)
                return
            coarser = grid.coarsen(flows, local)
            if coarser is None:
                if grid.n_global <= MAX_STALLED_CELLS:
                    self.direct = DirectSolver(grid)
                return
            grid, flows = coarser
            local = np.ones(len(grid.total))
            self.grids.append(grid)

    def solve(self, rhs: Array, rtol: float) -> Array:
        """d (n_cells,) with a residual of at most max(rtol, the tolerance of the precision) times
        the sum of |rhs|, unless `has_failed`. Collective.
        """
        finest = self.grids[0]
        if self.transposed:
            rhs = self.inverse * rhs
        size, largest = self._measure(rhs)
        self.has_failed = not np.isfinite(size)
        if size == 0 or self.has_failed:
            return np.zeros(len(rhs))

        x, r, *_ = self.work
        finest.load(rhs, largest, r)
        target = max(rtol, self.tolerance) * size / largest
        with np.errstate(over="ignore", invalid="ignore"):
            left = self._iterate(target)
        self.has_failed = not left <= target
        factor = np.ones(len(rhs)) if self.transposed else self.inverse
        return finest.unload(x, factor, largest)

    def _iterate(self, target):
        """BiCGStab for the right-hand side r until the sum of |r| is at most the target; that
        sum.
        """
        finest = self.grids[0]
        number = self.precision
        x, r, shadow, p, v, y, z, t = self.work
        shadow[:] = r
        for start in x, p, v:
            start[:] = 0

        alpha = omega = rho = 1.0
        rho_new = self.ranks.sum(_dot(shadow, r))
        left = np.inf
        for _ in range(MAX_CYCLES // 2):
            beta = rho_new / rho * (alpha / omega)
            rho = rho_new
            _direct(p, r, v, number(beta), number(omega))
            self.precondition(p, y)
            finest.apply(y, v)
            product = self.ranks.sum(_dot(shadow, v))
            if product == 0:
                return left
            alpha = rho / product
            left = self.ranks.sum(_add_and_size(r, number(-alpha), v))
            self.iterations += 1
            if left <= target:
                _add(x, number(alpha), y)
                return left

            self.precondition(r, z)
            finest.apply(z, t)
            tr, tt = self.ranks.sum(np.array(_dot_both(t, r)))
            omega = tr / tt if tt > 0 else 0.0
            _add_both(x, number(alpha), y, number(omega), z)
            sums = _add_and_dot(r, number(-omega), t, shadow)
            rho_new, left = self.ranks.sum(np.array(sums))
            self.iterations += 1
            if not (left > target and np.isfinite(left)) or rho_new == 0 or omega == 0:
                return left
        return left

    def _measure(self, rhs):
        """(the sum of |rhs|, its largest entry)."""
        own = np.abs(rhs)
        size = self.ranks.sum(own.sum())
        return size, self.ranks.max(own.max(initial=0.0))

    def precondition(self, r: Array, x: Array) -> None:
        """x from one V-cycle for N x = r, arrays of the finest grid. Collective."""
        self._cycle(0, r, x)

    def _cycle(self, level, r, x):
        grid = self.grids[level]
        if level == len(self.grids) - 1:
            if self.direct is not None:
                self.direct(r, x)
                return
            grid.begin(r, x)
            grid.sweep(r, x, COARSEST_SWEEPS)
            return
        coarse = self.grids[level + 1]
        grid.begin(r, x)
        grid.restrict(r, x, coarse)
        self._cycle(level + 1, coarse.r, coarse.x)
        grid.correct(coarse, r, x)


class DirectSolver:
    """The inverse of a grid of a few cells, on every rank."""

    def __init__(self, grid: Any):
        self.ranks = grid.ranks
        self.place, *entries = grid.list_rows()
        n_own = len(self.place)
        row, column, value = self.ranks.all_gather(np.stack(entries))
        n = grid.n_global
        matrix = np.eye(n)
        np.add.at(matrix, (row.astype(np.int64), column.astype(np.int64)), -value)
        own = entries[0][:n_own].astype(np.int64)
        order = self.ranks.all_gather(own)
        try:
            inverse = np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            inverse = np.full((n, n), np.nan)
        largest = np.abs(inverse).sum(axis=0).max()
        if not largest < 1 / (n * np.finfo(float).eps):  # singular to rounding: solves will fail
            inverse[:] = np.nan
        self.inverse = inverse[own][:, order]

    def __call__(self, r: Array, x: Array) -> None:
        """x from r. Collective."""
        x[self.place] = self.inverse @ self.ranks.all_gather(r[self.place])


def _list_flows(mesh, sides, left, right, kept, precision):
    """(the finest grid, its flows)."""
    if mesh.block is None:
        return _list_sides(mesh, sides, left, right, kept, precision)
    block = mesh.block
    thickness = [np.diff(cut(n, p)) for n, p in zip(block.grid, block.ranks, strict=True)]
    grid = BlockGrid(mesh.ranks, block, thickness, precision)
    n = mesh.n_inner
    kept = kept.copy()
    np.add.at(kept, mesh.left[n:], left[n:])
    inner_left = left.copy()
    inner_right = right.copy()
    inner_left[n:] = 0.0
    inner_right[n:] = 0.0
    up = []
    down = []
    for faces in block.faces:
        shape = (1,) * (3 - grid.dim) + faces.shape
        up.append(inner_left[faces].reshape(shape))
        down.append(inner_right[faces].reshape(shape))
    return grid, Flows(up, down, kept.reshape(grid.shape.cells))


def _list_sides(mesh, sides, left, right, kept, precision):
    """The same of a mesh that is not Cartesian."""
    grid = GraphGrid(mesh.ranks, mesh.dim, mesh.n_cells, mesh.cell_id, mesh.ghost_owner, precision)
    out = np.where(sides.sign > 0, left[sides.face], right[sides.face])
    into = np.where(sides.sign > 0, right[sides.face], left[sides.face])
    is_outer = sides.face >= mesh.n_inner
    kept = kept + np.bincount(sides.cell[is_outer], out[is_outer], mesh.n_cells)
    start = np.append(0, np.cumsum(~is_outer))[sides.start]
    inner = ~is_outer
    neighbour = sides.neighbour[inner].astype(np.int64)
    return grid, GraphFlows(start, neighbour, out[inner], into[inner], kept)


# ---- kernels -------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _dot(a, b):
    """The sum of a b."""
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _dot_both(t, r):
    """The sums of t r and of t t."""
    tr = 0.0
    tt = 0.0
    for i in range(len(t)):
        tr += np.float64(t[i]) * np.float64(r[i])
        tt += np.float64(t[i]) * np.float64(t[i])
    return tr, tt


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _add_and_size(r, factor, v):
    """Add factor v to r; the sum of |r|."""
    size = 0.0
    for i in range(len(r)):
        new = r[i] + factor * v[i]
        r[i] = new
        size += abs(np.float64(new))
    return size


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _add_and_dot(r, factor, t, shadow):
    """Add factor t to r; the sums of shadow r and of |r|."""
    total = 0.0
    size = 0.0
    for i in range(len(r)):
        new = r[i] + factor * t[i]
        r[i] = new
        total += np.float64(shadow[i]) * np.float64(new)
        size += abs(np.float64(new))
    return total, size


@numba.njit(cache=True, error_model="numpy")
def _direct(p, r, v, beta, omega):
    """p = r + beta (p - omega v)."""
    for i in range(len(p)):
        p[i] = r[i] + beta * (p[i] - omega * v[i])


@numba.njit(cache=True, error_model="numpy")
def _add(x, factor, y):
    """Add factor y to x."""
    for i in range(len(x)):
        x[i] += factor * y[i]


@numba.njit(cache=True, error_model="numpy")
def _add_both(x, alpha, y, omega, z):
    """Add alpha y + omega z to x."""
    for i in range(len(x)):
        x[i] += alpha * y[i] + omega * z[i]
