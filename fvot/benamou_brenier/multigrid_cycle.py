"""One V-cycle of multigrid for all modes of time: a hierarchy of Ruge and Stueben that they share.

One damped sweep before and one after on each grid; the matrices of the modes differ in the diagonal
only. The coarsest equations are solved directly.

The hierarchy is built from the whole matrix of the mode 0, in an order that does not depend on the
number of ranks, on rank 0, and rows are summed in that order (Ruge, Stueben 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyamg
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import Array
from ..parallel import Ranks
from .distributed_matrix import DistributedMatrix, list_owners, pack_matrix, unpack_matrix
from .pencils import NULL_EIGENVALUE, Pencil, make_positive

# Unknowns, for each piece of the mesh, of the level that is solved directly.
MAX_DIRECT_UNKNOWNS = 200

# Unknowns up to which there is no coarser grid: to solve directly takes no longer, and does not
# suffer from thin cells.
FEW_UNKNOWNS = 50

# Part of the largest coupling of an unknown from which another one is strong. Not 1/4, which many
# have on regular meshes: round-off would decide there, and differs with the number of ranks.
STRONG_PART = 0.2499

# Part of the terms of a sum on a coarser grid that is round-off: a constant's eigenvalue there.
COARSE_ROUNDING = 1e-13


@dataclass
class Grid:
    """One grid of the hierarchy, this rank's part, with the maps to and from the coarser grid.

    diagonal (n,), extra (n, k) : of the matrix, and what each mode adds to it
    damping : 4/3 over a bound of the largest eigenvalue of diag^-1 matrix
    """

    matrix: DistributedMatrix
    diagonal: Array
    extra: Array
    damping: float
    prolong: DistributedMatrix
    restrict: DistributedMatrix

    def smooth(self, r: Array, z: Array) -> None:
        """Move z by one damped sweep of Jacobi for the residual r."""
        _jacobi(self.diagonal, self.extra, self.damping, r, z)

    def residual(self, z: Array, f: Array, r: Array) -> None:
        """Set r = f - matrix z."""
        A = self.matrix
        _residual(A.start, A.index, A.value, self.extra, A.with_ghosts(z), f, r)


@dataclass
class PatchGrid(Grid):
    """The finest `Grid` of a pencil that has a sweep and residuals of its own."""

    pencil: Any

    def smooth(self, r: Array, z: Array) -> None:
        """See `Grid`; patch by patch."""
        self.pencil.smooth(r, z, self.damping)

    def residual(self, z: Array, f: Array, r: Array) -> None:
        """See `Grid`; of the pencil itself."""
        self.pencil.residual(z, f, r)


class Cycle:
    """One V-cycle from zero: z (n_unknowns, k) for a residual (n_unknowns, k) of all modes.

    Arrays are reused: the next cycle overwrites z.
    """

    def __init__(self, ranks: Ranks, pencil: Pencil):
        self.ranks = ranks
        shift = pencil.shift
        part, matrix, extra, size = _distribute_hierarchy(ranks, pencil)
        self.grids = _build_grids(ranks, part, shift)
        if self.grids and pencil.smooths_patches:
            self.grids[0] = PatchGrid(**vars(self.grids[0]), pencil=pencil)
        self.own = part["own"]
        self.order = ranks.all_gather(self.own)
        solver = ModalSolver if extra.ndim == 1 else ModeBySolver
        self.coarsest = solver(matrix, extra, shift, size)
        n_modes = len(shift)
        self.work = [np.empty((2, len(grid.diagonal), n_modes), shift.dtype) for grid in self.grids]

    def __call__(self, f: Array) -> Array:
        return self._cycle(0, f)

    def _cycle(self, level, f):
        if level == len(self.grids):
            return self._solve_directly(f)

        grid = self.grids[level]
        (z, r) = self.work[level]
        z[:] = 0
        grid.smooth(f, z)
        grid.residual(z, f, r)
        correction = self._cycle(level + 1, grid.restrict @ r)
        grid.prolong.add(correction, z)
        grid.residual(z, f, r)
        grid.smooth(r, z)
        return z

    def _solve_directly(self, f):
        """Solve the coarsest equations as a whole on every rank: the sums are the same on all."""
        whole = np.empty((len(self.order), f.shape[1]), f.dtype)
        gathered = self.ranks.all_gather(f.T)
        whole[self.order] = gathered.T
        return self.coarsest(whole)[self.own]


# ---- the coarsest equations ----------------------------------------------------------------------


class ModalSolver:
    """(A + s_k diag(mass))^-1 of all modes k, by eigenvectors that they share.

    size (n,) : of the terms that add up to the rows of A
    """

    def __init__(self, A: sparse.csr_matrix, mass: Array, shift: Array, size: Array):
        self.W, self.inverse = _find_modes(A, mass, shift, size)

    def __call__(self, f: Array) -> Array:
        in_modes = self.W.T @ f
        return self.W @ (self.inverse * in_modes)


class ModeBySolver:
    """(A + diag(extra_k))^-1 of all modes k, one by one: the inverses of the pieces that entries of
    A connect.

    size (n,) : of the terms that add up to the rows of A
    """

    def __init__(self, A: sparse.csr_matrix, extra: Array, shift: Array, size: Array):
        dtype = shift.dtype
        n, n_modes = extra.shape
        A = A.tocsr()
        n_pieces, piece = connected_components(A, directed=False)
        order = np.argsort(piece, kind="stable")
        ends = np.searchsorted(piece[order], np.arange(n_pieces + 1))
        size = np.diff(ends)[piece]
        self.start = np.concatenate([[0], np.cumsum(size)])
        self.index = np.empty(self.start[-1], np.int32)
        self.value = np.empty((self.start[-1], n_modes), dtype)

        for first, end in zip(ends[:-1], ends[1:]):
            rows = order[first:end]
            place = self.start[rows][:, None] + np.arange(len(rows))
            self.index[place] = rows
            inverse = _invert_modes(A[rows][:, rows].toarray(), extra[rows], size[rows])
            self.value[place] = inverse.transpose(1, 2, 0)

    def __call__(self, f: Array) -> Array:
        out = np.zeros_like(f)
        _multiply_modes(self.start, self.index, self.value, f, out)
        return out


def _invert_modes(A, extra, size):
    """(A + diag(extra_k))^-1 (k, n, n); without the constants where nothing is added."""
    n = len(A)
    inverse = np.empty((extra.shape[1], n, n))
    rounding = COARSE_ROUNDING * size.max()
    is_null = extra.max(axis=0) <= max(NULL_EIGENVALUE * np.abs(A).max(), rounding)
    for mode in np.flatnonzero(is_null):
        value, vectors = np.linalg.eigh(A)
        is_zero = value <= max(NULL_EIGENVALUE * value.max(), rounding)
        scale = np.where(is_zero, 0.0, 1 / np.where(is_zero, 1.0, value))
        inverse[mode] = (vectors * scale) @ vectors.T

    others = np.flatnonzero(~is_null)
    diagonals = extra.T[others][:, :, None] * np.eye(n)
    inverse[others] = np.linalg.inv(A + diagonals)
    return inverse


def _find_modes(A, mass, shift, size):
    """(W, 1 / (mu + s_k)) with A W = M W diag(mu), W^T M W = I.

    One basis diagonalises the equations of all modes. Pieces of the mesh have no entries of A in
    common: W is sparse where there are several.
    """
    root = np.sqrt(mass)
    scaling = sparse.diags(1 / root)
    A = (scaling @ A @ scaling).tocsr()
    n_pieces, piece = connected_components(A, directed=False)
    order = np.argsort(piece, kind="stable")
    sorted_piece = piece[order]
    ends = np.searchsorted(sorted_piece, np.arange(n_pieces + 1))

    mu = np.empty(len(mass))
    blocks = []
    A = A[order][:, order]
    for a, b in zip(ends[:-1], ends[1:]):
        dense = A[a:b, a:b].toarray()
        mu[a:b], block = np.linalg.eigh(dense)
        blocks.append(block)

    total = np.maximum(mu, 0)[:, None] + shift
    rounding = COARSE_ROUNDING * (size / mass).max()
    is_null = total <= max(NULL_EIGENVALUE * mu.max(), rounding)
    divisor = np.where(is_null, 1, total)
    inverse = np.where(is_null, 0, 1 / divisor)
    inverse = inverse.astype(shift.dtype)
    if n_pieces == 1:
        W = blocks[0] / root[:, None]
        return W.astype(shift.dtype), inverse

    place = np.argsort(order)
    scaled_W = sparse.block_diag(blocks, format="csr")[place]
    W = (scaling @ scaled_W).tocsr()
    return W.astype(shift.dtype), inverse


# ---- the hierarchy -------------------------------------------------------------------------------


def _distribute_hierarchy(ranks, pencil):
    """This rank's part of all grids, built on rank 0; the coarsest matrix, what the modes add to
    its diagonal, and the size of the terms of its rows, whole.
    """
    parts = ranks.gather_to_root(tuple(pencil.list_equations()))
    hierarchy = ranks.on_root(
        lambda: _build_hierarchy(*_join_equations(parts), ranks.size, pencil.smooths_patches)
    )
    parts, coarsest = hierarchy or (None, None)
    part = ranks.send_parts(parts)
    matrix, extra, size = ranks.broadcast(coarsest)
    return part, matrix, extra, size


def _join_equations(parts):
    """The whole matrix, what the modes add to its diagonal, and the rows of each rank, in the order
    of the labels.
    """
    label, extra, row, column, value = (np.concatenate(part) for part in zip(*parts))
    n = len(label)
    number = np.empty(n, np.int64)
    number[np.argsort(label)] = np.arange(n)
    sorted_extra = np.empty_like(extra)
    sorted_extra[number] = extra
    A = sparse.csr_matrix((value, (number[row], number[column])), (n, n))
    ends = np.cumsum([len(part[0]) for part in parts])
    return A, sorted_extra, np.split(number, ends[:-1])


def _build_hierarchy(A, extra, own, n_ranks, smooths_patches):
    """(a dict of arrays for each rank, (coarsest matrix, what the modes add, size of terms)).

    own[rank] : that rank's rows
    smooths_patches : whether the finest grid is needed for its sweeps, which see whole patches
    """
    owner = list_owners(own)
    max_unknowns = min(MAX_DIRECT_UNKNOWNS, len(extra) // 2)
    if not smooths_patches:
        max_unknowns = max(max_unknowns, FEW_UNKNOWNS)
    levels = _coarsen(A, max_unknowns)
    last = len(levels) - 1
    size = A.diagonal()
    parts = [{"n_grids": np.array([last])} for _ in range(n_ranks)]
    for level, grid in enumerate(levels[:-1]):
        A = grid.A.tocsr()
        P = grid.P.tocsr()
        R = P.T.tocsr()
        diagonal = grid.A.diagonal()
        diagonal = make_positive(diagonal, diagonal.max())
        row_sums = np.ravel(abs(A).sum(axis=1))
        largest_eigenvalue = (row_sums / diagonal).max()
        damping = 4 / 3 / largest_eigenvalue

        # A coarse unknown lives on the rank of its row.
        coarse_owner = owner[grid.splitting]
        coarse = [np.flatnonzero(coarse_owner == rank) for rank in range(n_ranks)]
        for part, rows, coarse_rows in zip(parts, own, coarse):
            part |= pack_matrix(f"A{level}", A[rows])
            part |= pack_matrix(f"P{level}", P[rows])
            part |= pack_matrix(f"R{level}", R[coarse_rows])
            part[f"own{level}"] = rows
            part[f"owner{level}"] = owner
            part[f"extra{level}"] = extra[rows]
            part[f"diagonal{level}"] = diagonal[rows]
            part[f"damping{level}"] = np.array([damping])

        owner = coarse_owner
        own = coarse
        extra = abs(R) @ extra  # weights may be negative, masses not
        size = abs(R) @ size

    for part, rows in zip(parts, own):
        part[f"own{last}"] = rows
        part[f"owner{last}"] = owner
        part["own"] = rows

    coarsest = levels[-1].A.tocsr()
    return parts, (coarsest, extra, size)


def _coarsen(A, max_unknowns):
    """pyamg's levels of A, up to the first one whose pieces have at most max_unknowns."""
    solver = pyamg.ruge_stuben_solver(
        A,
        strength=("classical", {"theta": STRONG_PART}),
        max_coarse=max_unknowns,
        coarse_solver=None,
    )
    levels = solver.levels
    for level, grid in enumerate(levels):
        if _count_largest_piece(grid.A) <= max_unknowns:
            return levels[: level + 1]
    return levels


def _count_largest_piece(A):
    """The number of unknowns of the largest piece that is connected by entries of A."""
    _, piece = connected_components(A, directed=False)
    sizes = np.bincount(piece)
    return sizes.max()


def _build_grids(ranks, part, shift):
    dtype = shift.dtype

    def unpack(name: str, columns: tuple) -> DistributedMatrix:
        rows = unpack_matrix(part, name).astype(dtype)
        return DistributedMatrix.rows(ranks, rows, *columns)

    grids = []
    n_grids = int(part["n_grids"][0])
    for level in range(n_grids):
        fine = (part[f"own{level}"], part[f"owner{level}"])
        coarse = (part[f"own{level + 1}"], part[f"owner{level + 1}"])
        matrix = unpack(f"A{level}", fine)
        prolong = unpack(f"P{level}", coarse)
        restrict = unpack(f"R{level}", fine)
        diagonal = part[f"diagonal{level}"].astype(dtype)
        extra = part[f"extra{level}"].astype(dtype)
        if extra.ndim == 1:
            extra = extra[:, None] * shift
        damping = part[f"damping{level}"].astype(dtype)[0]
        grids.append(Grid(matrix, diagonal, extra, damping, prolong, restrict))
    return grids


# ---- loops over unknowns and modes ---------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _residual(start, index, value, extra, z, f, r):
    for i in range(len(f)):
        for j in range(f.shape[1]):
            r[i, j] = f[i, j] - extra[i, j] * z[i, j]
        for e in range(start[i], start[i + 1]):
            v = value[e]
            row = index[e]
            for j in range(f.shape[1]):
                r[i, j] -= v * z[row, j]


@numba.njit(cache=True, error_model="numpy")
def _jacobi(diagonal, extra, damping, r, z):
    for i in range(len(r)):
        d = diagonal[i]
        for j in range(r.shape[1]):
            z[i, j] += damping * r[i, j] / (d + extra[i, j])


@numba.njit(cache=True, error_model="numpy")
def _multiply_modes(start, index, value, f, out):
    for i in range(len(start) - 1):
        for e in range(start[i], start[i + 1]):
            row = index[e]
            for j in range(f.shape[1]):
                out[i, j] += value[e, j] * f[row, j]
