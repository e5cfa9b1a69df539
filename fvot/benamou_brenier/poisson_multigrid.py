"""The linear half of the iteration on any mesh: one multigrid hierarchy for all modes of time.

Each mode k has the equation (K + s_k C) phi_k = f_k, s_k as in `poisson_cosine`; with the local
penalty sigma, K is K_x with the weights sum_P sigma_P omega_{P,s}, and C = Q^T diag(sigma_P m_P) Q.
All of them use the same Ruge-Stueben hierarchy of K in a V-cycle with one damped sweep before and
after. On the cells the sweep inverts diag K + s_k C, patch by patch (C = u u^T on each: Sherman,
Morrison); on coarser grids C is lumped, and the sweep is Jacobi's. The cycle preconditions
conjugate gradients, which start from the last phi: one step is enough in each iteration (Ruge,
Stueben 1987).

The hierarchy is built from the whole K, in the file's numbering, on rank 0, and rows are summed in
that order. Results therefore do not depend on the number of ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import pyamg
from numpy.typing import DTypeLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import Array
from ..finite_volume.face_flux import build_laplacian
from .discretisation import Discretisation
from .distributed_matrix import DistributedMatrix, list_owners, pack_matrix, unpack_matrix
from .time_basis import time_modes

# Unknowns, for each piece of the mesh, of the level that is solved directly.
MAX_DIRECT_UNKNOWNS = 200

# Relative size of an eigenvalue, or of an entry of the diagonal, that stands for a constant on a
# piece of the mesh.
NULL_EIGENVALUE = 1e-10

# Steps for the first right-hand side, which starts from 0.
FIRST_STEPS = 12

# Square of the residual, relative to the largest one so far, that is round-off; by bytes of a
# number.
SQUARE_ROUNDING = {4: 1e-12, 8: 1e-24}


class MultigridPoisson:
    """phi = solve(f): steps of conjugate gradients for each f, from the last phi on.

    sigma : (n_patches,) the local penalty, None for 1
    end : theta_e^2
    dtype : of all arrays
    steps : for all right-hand sides but the first; one is enough, except where hardly anything
        moves
    """

    def __init__(
        self,
        disc: Discretisation,
        theta: float,
        dtype: DTypeLike = np.float64,
        sigma: Array | None = None,
        end: float = 0.0,
        steps: int = 1,
    ):
        self.ranks = disc.mesh.ranks
        self.steps = steps
        V, shift = time_modes(disc.n_steps, theta, end)
        self.V = V.astype(dtype)
        if sigma is None:
            sigma = np.ones(disc.n_patches)
        self.pencil = Pencil(disc, sigma, shift, dtype)
        self.cycle = Cycle(disc, self.pencil)
        n_modes = len(V)
        shape = (disc.mesh.n_cells, n_modes)
        self.phi = np.zeros(shape, dtype)
        self.residual = np.zeros(shape, dtype)
        self.image = np.zeros(shape, dtype)
        self.largest = np.zeros(n_modes)
        self.has_started = False

    def __call__(self, f: Array) -> Array:
        """phi (n_cells, N + 1) for the right-hand side f (n_cells, N + 1)."""
        right_hand_sides = f @ self.V
        self.pencil.residual(self.phi, right_hand_sides, self.residual)
        steps = self.steps if self.has_started else FIRST_STEPS
        self.improve(steps)
        self.has_started = True
        return self.phi @ self.V.T

    def improve(self, steps: int) -> None:
        """Move `phi` and its `residual` by conjugate gradients, for all modes at once."""
        direction = None
        last_square = None
        for _ in range(steps):
            z = self.cycle(self.residual)
            own_square = _multiply_columns(z, self.residual)
            square = self.ranks.sum(own_square)
            self.largest = np.maximum(self.largest, square)

            # Smaller residuals are round-off.
            rounding = SQUARE_ROUNDING[z.dtype.itemsize]
            is_left = square > rounding * self.largest
            square = np.where(is_left, square, 0.0)
            if direction is None:
                direction = z
            else:
                growth = _divide(square, last_square)
                direction = z + growth.astype(z.dtype) * direction

            self.pencil.multiply(direction, self.image)
            own_curvature = _multiply_columns(direction, self.image)
            curvature = self.ranks.sum(own_curvature)
            length = _divide(square, curvature).astype(z.dtype)
            _move(length, direction, self.image, self.phi, self.residual)
            last_square = square


def _divide(a, b):
    """a / b, 0 where one of them is not positive."""
    divisor = np.where(b > 0, b, np.inf)
    return np.where(a > 0, a / divisor, 0.0)


class Pencil:
    """K + s_k C, applied to the columns k of an array (n_cells, N + 1).

    stiffness, mass : K (CSR, n_cells x n_local) and the lumped C (n_cells,)
    share (n_cells,) : u with C = u u^T on each patch
    """

    def __init__(self, disc: Discretisation, sigma: Array, shift: Array, dtype: DTypeLike):
        mesh = disc.mesh
        sigma_of_cell = sigma[disc.patch]
        weight = disc.mobility(sigma[:, None])[:, 0]
        inner_distance = mesh.distance[: mesh.n_inner]
        self.stiffness = build_laplacian(mesh, weight / inner_distance**2)
        self.mass = sigma_of_cell * mesh.volume
        volume_of_patch = disc.volume[disc.patch]
        self.share = mesh.volume * np.sqrt(sigma_of_cell / volume_of_patch)
        self.shift = shift.astype(dtype)

        C = _square_on_patches(self.share, disc.patch)
        self._find_pattern(mesh, C.tocoo(), dtype)

    def _find_pattern(self, mesh, C, dtype):
        """One CSR pattern with the entries of both K and C.

        Entries of a row are in the order of the file's numbers: sums must not depend on the
        distribution of the mesh.
        """
        K = self.stiffness.tocoo()
        row = np.concatenate([K.row, C.row])
        column = np.concatenate([K.col, C.col])
        column_id = mesh.cell_id[column]
        keys = np.stack([row, column_id, column])
        key, place = np.unique(keys, axis=1, return_inverse=True)
        place = place.ravel()
        place_of_K = place[: K.nnz]
        place_of_C = place[K.nnz :]
        n = key.shape[1]
        value_of_K = np.bincount(place_of_K, K.data, n)
        value_of_C = np.bincount(place_of_C, C.data, n)
        values = [value_of_K.astype(dtype), value_of_C.astype(dtype)]

        unique_row, _, unique_column = key
        row_ends = np.arange(mesh.n_cells + 1)
        start = np.searchsorted(unique_row, row_ends)
        pattern = sparse.csr_matrix((values[0], unique_column, start), K.shape)
        self._matrix = DistributedMatrix(pattern, mesh.exchange)
        self._entries: Any = self._matrix.start, self._matrix.index, *values, self.shift

    def multiply(self, u: Array, out: Array) -> None:
        """Set out = (K + s_k C) u."""
        out[:] = 0
        local = self._matrix.with_ghosts(u)
        _add_pencil(1, *self._entries, local, out)

    def residual(self, u: Array, f: Array, out: Array) -> None:
        """Set out = f - (K + s_k C) u."""
        out[:] = f
        local = self._matrix.with_ghosts(u)
        _add_pencil(-1, *self._entries, local, out)


def _square_on_patches(share, patch):
    """u u^T on each patch, for u = share (n_cells,)."""
    n_patches = int(patch.max(initial=-1)) + 1
    n_cells = len(share)
    places = (patch, np.arange(n_cells))
    U = sparse.csr_matrix((share, places), (n_patches, n_cells))
    return U.T @ U


# ---- the preconditioner --------------------------------------------------------------------------


class Grid(NamedTuple):
    """One grid of the hierarchy, this rank's part, with the maps to and from the coarser grid.

    damping : 4/3 over a bound of the largest eigenvalue of diag^-1 matrix
    """

    matrix: DistributedMatrix
    diagonal: Array
    mass: Array
    damping: float
    prolong: DistributedMatrix
    restrict: DistributedMatrix


class Cycle:
    """One V-cycle from zero: z (n_cells, N + 1) for a residual (n_cells, N + 1) of all modes.

    Arrays are reused: the next cycle overwrites z.
    """

    def __init__(self, disc: Discretisation, pencil: Pencil):
        self.ranks = disc.mesh.ranks
        self.pencil = pencil
        self.shift = pencil.shift
        dtype = self.shift.dtype
        part, matrix, mass = _distribute_hierarchy(disc.mesh, pencil)
        self.grids = _build_grids(self.ranks, part, dtype)
        self.own = part["own"]
        self.order = self.ranks.all_gather(self.own)
        self.W, self.inverse = _find_modes(matrix, mass, self.shift)
        n_modes = len(self.shift)
        self.work = [np.empty((2, len(grid.mass), n_modes), dtype) for grid in self.grids]

        diagonal = pencil.stiffness.diagonal()
        largest = self.ranks.max(diagonal.max(initial=0.0))
        diagonal = _make_positive(diagonal, largest)
        self.patches: Any = (
            disc.cells,
            disc.cell_start,
            diagonal.astype(dtype),
            pencil.share.astype(dtype),
            self.shift,
        )

    def __call__(self, f: Array) -> Array:
        if not self.grids:
            return self._solve_directly(f)

        grid = self.grids[0]
        (z, r) = self.work[0]
        z[:] = 0
        _patch_sweep(*self.patches, grid.damping, f, z)
        self.pencil.residual(z, f, r)
        correction = self._cycle(1, grid.restrict @ r)
        grid.prolong.add(correction, z)
        self.pencil.residual(z, f, r)
        _patch_sweep(*self.patches, grid.damping, r, z)
        return z

    def _cycle(self, level, f):
        if level == len(self.grids):
            return self._solve_directly(f)

        grid = self.grids[level]
        (z, r) = self.work[level]
        A = grid.matrix
        lumped = (grid.mass, self.shift)
        z[:] = 0
        _jacobi(grid.diagonal, *lumped, grid.damping, f, z)
        local = A.with_ghosts(z)
        _residual(A.start, A.index, A.value, *lumped, local, f, r)
        correction = self._cycle(level + 1, grid.restrict @ r)
        grid.prolong.add(correction, z)
        local = A.with_ghosts(z)
        _residual(A.start, A.index, A.value, *lumped, local, f, r)
        _jacobi(grid.diagonal, *lumped, grid.damping, r, z)
        return z

    def _solve_directly(self, f):
        """Solve the coarsest equations as a whole on every rank: the sums are the same on all."""
        n_unknowns = self.W.shape[0]
        n_modes = f.shape[1]
        whole = np.empty((n_unknowns, n_modes), f.dtype)
        gathered = self.ranks.all_gather(f.T)
        whole[self.order] = gathered.T

        in_modes = self.W.T @ whole
        solution = self.W @ (self.inverse * in_modes)
        return solution[self.own]


def _make_positive(diagonal, largest):
    """A positive diagonal.

    It is 0 for cells without neighbours, and for coarse unknowns that stand for a whole piece.
    """
    smallest = NULL_EIGENVALUE * largest if largest > 0 else 1.0
    return np.maximum(diagonal, smallest)


def _find_modes(A, mass, shift):
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
    is_null = total <= NULL_EIGENVALUE * mu.max()
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


def _distribute_hierarchy(mesh, pencil):
    """This rank's part of all grids, built on rank 0; the coarsest matrix and its masses, whole."""
    whole = _gather(mesh, pencil)
    hierarchy = mesh.ranks.on_root(lambda: _build_hierarchy(*whole, mesh.ranks.size))
    parts, coarsest = hierarchy or (None, None)
    part = mesh.ranks.send_parts(parts)
    matrix, mass = mesh.ranks.broadcast(coarsest)
    return part, matrix, mass


def _gather(mesh, pencil):
    """On rank 0, K and the lumped C in the file's numbering, and the cells of each rank.

    None on the other ranks.
    """
    matrix = pencil.stiffness.tocoo()
    own = mesh.cell_id[: mesh.n_cells]
    row_id = own[matrix.row]
    column_id = mesh.cell_id[matrix.col]
    mine = (own, pencil.mass, row_id, column_id, matrix.data)
    parts = mesh.ranks.gather_to_root(mine)
    if parts is None:
        return None

    cells, masses, row, column, value = (np.concatenate(part) for part in zip(*parts))
    n_cells = len(cells)
    mass = np.empty(n_cells)
    mass[cells] = masses
    K = sparse.csr_matrix((value, (row, column)), (n_cells, n_cells))
    cells_of_ranks = [part[0] for part in parts]
    return K, mass, cells_of_ranks


def _build_hierarchy(A, mass, own, n_ranks):
    """(a dict of arrays for each rank, (coarsest matrix, masses)).

    own[rank] : that rank's cells
    """
    owner = list_owners(own)
    max_unknowns = min(MAX_DIRECT_UNKNOWNS, len(mass) // 2)
    levels = _coarsen(A, max_unknowns)
    last = len(levels) - 1
    parts = [{"n_grids": np.array([last])} for _ in range(n_ranks)]
    for level, grid in enumerate(levels[:-1]):
        A = grid.A.tocsr()
        P = grid.P.tocsr()
        R = P.T.tocsr()
        diagonal = grid.A.diagonal()
        diagonal = _make_positive(diagonal, diagonal.max())
        row_sums = np.ravel(abs(A).sum(axis=1))
        largest_eigenvalue = (row_sums / diagonal).max()
        damping = 4 / 3 / largest_eigenvalue

        # A coarse unknown lives on the rank of its cell.
        coarse_owner = owner[grid.splitting]
        coarse = [np.flatnonzero(coarse_owner == rank) for rank in range(n_ranks)]
        for part, rows, coarse_rows in zip(parts, own, coarse):
            part |= pack_matrix(f"A{level}", A[rows])
            part |= pack_matrix(f"P{level}", P[rows])
            part |= pack_matrix(f"R{level}", R[coarse_rows])
            part[f"own{level}"] = rows
            part[f"owner{level}"] = owner
            part[f"mass{level}"] = mass[rows]
            part[f"diagonal{level}"] = diagonal[rows]
            part[f"damping{level}"] = np.array([damping])

        owner = coarse_owner
        own = coarse
        mass = abs(R) @ mass  # weights may be negative, masses not

    for part, rows in zip(parts, own):
        part[f"own{last}"] = rows
        part[f"owner{last}"] = owner
        part["own"] = rows

    coarsest = levels[-1].A.tocsr()
    return parts, (coarsest, mass)


def _coarsen(A, max_unknowns):
    """pyamg's levels of A, up to the first one whose pieces have at most max_unknowns."""
    levels = pyamg.ruge_stuben_solver(A, max_coarse=max_unknowns, coarse_solver=None).levels
    for level, grid in enumerate(levels):
        if _count_largest_piece(grid.A) <= max_unknowns:
            return levels[: level + 1]
    return levels


def _count_largest_piece(A):
    """The number of unknowns of the largest piece that is connected by entries of A."""
    _, piece = connected_components(A, directed=False)
    sizes = np.bincount(piece)
    return sizes.max()


def _build_grids(ranks, part, dtype):
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
        mass = part[f"mass{level}"].astype(dtype)
        damping = part[f"damping{level}"].astype(dtype)[0]
        grids.append(Grid(matrix, diagonal, mass, damping, prolong, restrict))
    return grids


# ---- loops over cells and modes ------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _add_pencil(sign, start, index, stiffness, mean, shift, u, out):
    for i in range(len(out)):
        for e in range(start[i], start[i + 1]):
            row = index[e]
            a = sign * stiffness[e]
            m = sign * mean[e]
            for j in range(out.shape[1]):
                out[i, j] += (a + shift[j] * m) * u[row, j]


@numba.njit(cache=True, error_model="numpy")
def _patch_sweep(cells, cell_start, diagonal, share, shift, damping, r, z):
    """z += damping (diag K + s_k u u^T)^-1 r on every patch, u = *share*."""
    k = r.shape[1]
    mean = np.empty(k, r.dtype)
    one = r.dtype.type(1)
    for patch in range(len(cell_start) - 1):
        mean[:] = 0
        square = one - one
        for i in range(cell_start[patch], cell_start[patch + 1]):
            cell = cells[i]
            part = share[cell] / diagonal[cell]
            square += part * share[cell]
            for j in range(k):
                mean[j] += part * r[cell, j]
        for j in range(k):
            mean[j] *= shift[j] / (one + shift[j] * square)
        for i in range(cell_start[patch], cell_start[patch + 1]):
            cell = cells[i]
            inverse = damping / diagonal[cell]
            u = share[cell]
            for j in range(k):
                z[cell, j] += inverse * (r[cell, j] - u * mean[j])


@numba.njit(cache=True, error_model="numpy")
def _residual(start, index, value, mass, shift, z, f, r):
    for i in range(len(f)):
        m = mass[i]
        for j in range(f.shape[1]):
            r[i, j] = f[i, j] - shift[j] * m * z[i, j]
        for e in range(start[i], start[i + 1]):
            v = value[e]
            row = index[e]
            for j in range(f.shape[1]):
                r[i, j] -= v * z[row, j]


@numba.njit(cache=True, error_model="numpy")
def _jacobi(diagonal, mass, shift, damping, r, z):
    for i in range(len(r)):
        d = diagonal[i]
        m = mass[i]
        for j in range(r.shape[1]):
            z[i, j] += damping * r[i, j] / (d + shift[j] * m)


@numba.njit(cache=True, error_model="numpy")
def _multiply_columns(u, v):
    """u.v of each column, (k,), in double precision."""
    out = np.zeros(u.shape[1])
    for i in range(len(u)):
        for j in range(u.shape[1]):
            out[j] += u[i, j] * v[i, j]
    return out


@numba.njit(cache=True, error_model="numpy")
def _move(length, direction, image, phi, residual):
    for i in range(len(phi)):
        for j in range(phi.shape[1]):
            phi[i, j] += length[j] * direction[i, j]
            residual[i, j] -= length[j] * image[i, j]
