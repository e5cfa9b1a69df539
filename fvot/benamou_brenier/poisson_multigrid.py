"""The linear half of the iteration on any mesh: one multigrid hierarchy for all modes of time.

Each mode k has the equation (K + s_k C) phi_k = f_k, s_k as in `poisson`; with the local penalty
sigma, K is K_x with the weights sum_P sigma_P omega_{P,s}, and C = Q^T diag(sigma_P m_P) Q. All of
them take the same Ruge-Stueben hierarchy of K in a V-cycle with one damped sweep before and after.
On the cells the sweep inverts diag K + s_k C, patch by patch (C = u u^T on each: Sherman,
Morrison); on coarser grids C is lumped, and the sweep is Jacobi's. That preconditions conjugate
gradients, which start from the last phi: one step is enough in each iteration (Ruge, Stueben 1987).

Coarsening looks at the whole K, in the file's numbering, on rank 0, and rows are summed in that
order: so everything is the same for any number of ranks.
"""

from typing import NamedTuple

import numba
import numpy as np
import pyamg
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .distributed_matrix import DistributedMatrix, packed, unpacked
from .time_basis import time_modes

COARSEST = 200  # unknowns, for each piece of the mesh, of the level that is solved directly
# relative eigenvalue, or entry of the diagonal, of what is constant on pieces of the mesh
NULL = 1e-10
SETTLE = 12  # steps for the first right-hand side, which starts from nothing
SOLVED = {
    4: 1e-12,
    8: 1e-24,
}  # by bytes of a number: square of the residual, relative to the largest one so far


class MultigridPoisson:
    """phi = solve(f): steps of conjugate gradients for each f, from the last phi on; SETTLE steps
    for the first f.

    sigma : (n_patches,) the local penalty, None for 1; end : theta_e^2; dtype : of all arrays
    steps : one is enough, but where hardly anything moves
    """

    def __init__(self, disc, theta, dtype=np.float64, sigma=None, end=0.0, steps=1):
        self.ranks = disc.mesh.ranks
        self.steps = steps
        V, shift = time_modes(disc.n_steps, theta, end)
        self.V = V.astype(dtype)
        self.pencil = Pencil(
            disc, np.ones(disc.n_patches) if sigma is None else sigma, shift, dtype
        )
        self.cycle = Cycle(disc, self.pencil)
        self.phi, self.residual, self.image = np.zeros((3, disc.mesh.n_cells, len(V)), dtype)
        self.largest = np.zeros(len(V))
        self.settled = False

    def __call__(self, f):
        """phi (n_cells, N + 1) for the right-hand side f (n_cells, N + 1)."""
        self.pencil.residual(self.phi, f @ self.V, self.residual)
        self.improve(self.steps if self.settled else SETTLE)
        self.settled = True
        return self.phi @ self.V.T

    def improve(self, steps):
        """Conjugate gradients for all modes at once, from `phi` and its `residual` on, which move
        along.
        """
        direction = before = None
        for _ in range(steps):
            z = self.cycle(self.residual)
            now = self.ranks.sum(_products(z, self.residual))
            self.largest = np.maximum(self.largest, now)
            now = np.where(
                now > SOLVED[z.dtype.itemsize] * self.largest, now, 0.0
            )  # the others' residuals are round-off
            direction = z if before is None else z + _ratio(now, before).astype(z.dtype) * direction
            self.pencil.times(direction, self.image)
            length = _ratio(now, self.ranks.sum(_products(direction, self.image)))
            _move(length.astype(z.dtype), direction, self.image, self.phi, self.residual)
            before = now


def _ratio(a, b):
    return np.where(a > 0, a / np.where(b > 0, b, np.inf), 0.0)


class Pencil:
    """K + s_k C, applied to the columns k of an array (n_cells, N + 1).

    stiffness, mass : K (CSR, n_cells x n_local) and the lumped C (n_cells,); share (n_cells,) : u
        with C = u u^T on each patch
    """

    def __init__(self, disc, sigma, shift, dtype):
        mesh = disc.mesh
        sigma_of_cell = sigma[disc.patch]
        self.stiffness = disc.laplacian(disc.mobility(sigma[:, None])[:, 0])
        self.mass = sigma_of_cell * mesh.volume
        self.share = mesh.volume * np.sqrt(sigma_of_cell / disc.volume[disc.patch])
        self.shift = shift.astype(dtype)
        K, C = self.stiffness.tocoo(), _squares(self.share, disc.patch).tocoo()
        row, column = np.concatenate([K.row, C.row]), np.concatenate([K.col, C.col])
        # in the order of the file's numbers: sums must not depend on how the mesh is dealt
        key, place = np.unique(
            np.stack([row, mesh.cell_id[column], column]), axis=1, return_inverse=True
        )
        of_K, of_C = np.split(place.ravel(), [K.nnz])
        values = [
            np.bincount(of, part.data, key.shape[1]).astype(dtype)
            for of, part in ((of_K, K), (of_C, C))
        ]
        pattern = sparse.csr_matrix(
            (values[0], key[2], np.searchsorted(key[0], np.arange(mesh.n_cells + 1))), K.shape
        )
        self._matrix = DistributedMatrix(pattern, mesh.n_cells, mesh.exchange)
        self._entries = self._matrix.start, self._matrix.index, *values, self.shift

    def times(self, u, out):
        """out = (K + s_k C) u."""
        out[:] = 0
        _add_pencil(1, *self._entries, self._matrix.with_ghosts(u), out)

    def residual(self, u, f, out):
        """out = f - (K + s_k C) u."""
        out[:] = f
        _add_pencil(-1, *self._entries, self._matrix.with_ghosts(u), out)


def _squares(share, patch):
    """u u^T on each patch, for u (n_cells,)."""
    U = sparse.csr_matrix(
        (share, (patch, np.arange(len(share)))), (int(patch.max(initial=-1)) + 1, len(share))
    )
    return U.T @ U


# ---- the preconditioner ------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """One grid of the hierarchy, this rank's part, and how values get to the next coarser grid and
    back.
    """

    matrix: DistributedMatrix
    diagonal: np.ndarray
    mass: np.ndarray
    damping: float  # 4/3 over a bound of the largest eigenvalue of diag^-1 matrix
    prolong: DistributedMatrix
    restrict: DistributedMatrix


class Cycle:
    """One V-cycle from zero: z (n_cells, N + 1) for a residual (n_cells, N + 1) of all modes.

    Arrays are made once, and used again: z is overwritten by the next cycle.
    """

    def __init__(self, disc, pencil):
        self.ranks = disc.mesh.ranks
        self.pencil = pencil
        self.shift = pencil.shift
        dtype = self.shift.dtype
        part, matrix, mass = _dealt_hierarchy(disc.mesh, pencil)
        self.grids = _grids(self.ranks, part, dtype)
        self.own = part["own"]
        self.order = self.ranks.all_gather(self.own)
        self.W, self.inverse = _modes(matrix, mass, self.shift)
        self.work = [np.empty((2, len(grid.mass), len(self.shift)), dtype) for grid in self.grids]
        diagonal = pencil.stiffness.diagonal()
        diagonal = _floored(diagonal, self.ranks.max(diagonal.max(initial=0.0)))
        self.patches = (
            disc.cells,
            disc.cell_start,
            diagonal.astype(dtype),
            pencil.share.astype(dtype),
            self.shift,
        )

    def __call__(self, f):
        if not self.grids:
            return self._direct(f)
        grid = self.grids[0]
        (z, r) = self.work[0]
        z[:] = 0
        _patch_sweep(*self.patches, grid.damping, f, z)
        self.pencil.residual(z, f, r)
        grid.prolong.add(self._cycle(1, grid.restrict @ r), z)
        self.pencil.residual(z, f, r)
        _patch_sweep(*self.patches, grid.damping, r, z)
        return z

    def _cycle(self, level, f):
        if level == len(self.grids):
            return self._direct(f)
        grid = self.grids[level]
        (z, r) = self.work[level]
        A, lumped = grid.matrix, (grid.mass, self.shift)
        z[:] = 0
        _jacobi(grid.diagonal, *lumped, grid.damping, f, z)
        _residual(A.start, A.index, A.value, *lumped, A.with_ghosts(z), f, r)
        grid.prolong.add(self._cycle(level + 1, grid.restrict @ r), z)
        _residual(A.start, A.index, A.value, *lumped, A.with_ghosts(z), f, r)
        _jacobi(grid.diagonal, *lumped, grid.damping, r, z)
        return z

    def _direct(self, f):
        """The coarsest equations, solved whole on every rank: the same sums on any number of them."""
        whole = np.empty((self.W.shape[0], f.shape[1]), f.dtype)
        whole[self.order] = self.ranks.all_gather(f.T).T
        return (self.W @ (self.inverse * (self.W.T @ whole)))[self.own]


def _floored(diagonal, largest):
    """A positive diagonal: that of cells without neighbours, or of coarse unknowns that stand for a
    whole piece, is 0.
    """
    return np.maximum(diagonal, NULL * largest if largest > 0 else 1.0)


def _modes(A, mass, shift):
    """(W, 1 / (mu + s_k)) with A W = M W diag(mu), W^T M W = I: one basis makes the equations of
    all modes diagonal.

    Pieces of the mesh have no entries of A in common: W is sparse where there are several.
    """
    root = np.sqrt(mass)
    A = (sparse.diags(1 / root) @ A @ sparse.diags(1 / root)).tocsr()
    n_pieces, piece = connected_components(A, directed=False)
    order = np.argsort(piece, kind="stable")
    ends = np.searchsorted(piece[order], np.arange(n_pieces + 1))
    mu = np.empty(len(mass))
    blocks = []
    A = A[order][:, order]
    for a, b in zip(ends[:-1], ends[1:]):
        mu[a:b], block = np.linalg.eigh(A[a:b, a:b].toarray())
        blocks.append(block)
    total = np.maximum(mu, 0)[:, None] + shift
    null = total <= NULL * mu.max()
    inverse = np.where(null, 0, 1 / np.where(null, 1, total)).astype(shift.dtype)
    if n_pieces == 1:
        return (blocks[0] / root[:, None]).astype(shift.dtype), inverse
    W = sparse.block_diag(blocks, format="csr")[np.argsort(order)]
    return (sparse.diags(1 / root) @ W).tocsr().astype(shift.dtype), inverse


def _dealt_hierarchy(mesh, pencil):
    """This rank's part of all grids, made on rank 0, and the coarsest matrix and its masses, whole."""
    whole = _gathered(mesh, pencil)
    parts, coarsest = mesh.ranks.on_root(lambda: _hierarchy(*whole, mesh.ranks.size)) or (
        None,
        None,
    )
    return mesh.ranks.send_parts(parts), *mesh.ranks.broadcast(coarsest)


def _gathered(mesh, pencil):
    """On rank 0, K and the lumped C in the file's numbering, and the cells of each rank; None
    elsewhere.
    """
    matrix = pencil.stiffness.tocoo()
    own = mesh.cell_id[: mesh.n_cells]
    parts = mesh.ranks.gather_to_root(
        (own, pencil.mass, own[matrix.row], mesh.cell_id[matrix.col], matrix.data)
    )
    if parts is None:
        return None
    cells, mine, row, column, value = (np.concatenate(part) for part in zip(*parts))
    mass = np.empty(len(cells))
    mass[cells] = mine
    return (
        sparse.csr_matrix((value, (row, column)), (len(cells), len(cells))),
        mass,
        [part[0] for part in parts],
    )


def _hierarchy(A, mass, own, n_ranks):
    """(a dict of arrays for each rank, (coarsest matrix, masses)); own[rank] : that rank's cells."""
    owner = np.empty(len(mass), np.int32)
    for rank, cells in enumerate(own):
        owner[cells] = rank
    most = min(COARSEST, len(mass) // 2)
    made = pyamg.ruge_stuben_solver(A, max_coarse=most, coarse_solver=None).levels
    fine_enough = [level for level, grid in enumerate(made) if _largest_piece(grid.A) <= most]
    made = made[: fine_enough[0] + 1] if fine_enough else made
    parts = [{"n_grids": np.array([len(made) - 1])} for _ in range(n_ranks)]
    for level, grid in enumerate(made[:-1]):
        A, P, diagonal = (
            grid.A.tocsr(),
            grid.P.tocsr(),
            _floored(grid.A.diagonal(), grid.A.diagonal().max()),
        )
        R, damping = P.T.tocsr(), 4 / 3 / (np.ravel(abs(A).sum(axis=1)) / diagonal).max()
        coarse_owner = owner[grid.splitting]  # a coarse unknown lives where its cell lives
        coarse = [np.flatnonzero(coarse_owner == rank) for rank in range(n_ranks)]
        for part, mine, theirs in zip(parts, own, coarse):
            part |= (
                packed(f"A{level}", A[mine])
                | packed(f"P{level}", P[mine])
                | packed(f"R{level}", R[theirs])
            )
            part |= {
                f"own{level}": mine,
                f"owner{level}": owner,
                f"mass{level}": mass[mine],
                f"diagonal{level}": diagonal[mine],
                f"damping{level}": np.array([damping]),
            }
        # weights may be negative, masses not
        owner = coarse_owner
        own = coarse
        mass = abs(R) @ mass
    for part, mine in zip(parts, own):
        part |= {f"own{len(made) - 1}": mine, f"owner{len(made) - 1}": owner, "own": mine}
    return parts, (made[-1].A.tocsr(), mass)


def _largest_piece(A):
    """The most unknowns that are connected by entries of A."""
    return np.bincount(connected_components(A, directed=False)[1]).max()


def _grids(ranks, part, dtype):
    grids = []
    for level in range(int(part["n_grids"][0])):
        fine, coarse = ((part[f"own{k}"], part[f"owner{k}"]) for k in (level, level + 1))
        A, P, R = (
            DistributedMatrix.rows(ranks, unpacked(part, f"{name}{level}").astype(dtype), *columns)
            for name, columns in (("A", fine), ("P", coarse), ("R", fine))
        )
        diagonal, mass, damping = (
            part[f"{name}{level}"].astype(dtype) for name in ("diagonal", "mass", "damping")
        )
        grids.append(Grid(A, diagonal, mass, damping[0], P, R))
    return grids


# ---- loops over cells and modes ----------------------------------------------------------------------------------------


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
def _products(u, v):
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
