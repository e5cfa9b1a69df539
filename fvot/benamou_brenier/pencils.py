"""The equations (K + s_k C) phi_k = f_k of all modes k of time, and the unknowns of multigrid.

With the local penalty sigma, K is the matrix of the energy sum_P sigma_P |b|^2 of a potential, and
C = Q^T diag(sigma_P m_P) Q, which is u u^T on each patch.

Two-point slopes: the cells are the unknowns, and multigrid's first sweep inverts diag K + s_k u u^T
patch by patch (Sherman, Morrison).

Diamonds: in K cells see their nodes only, so that they are eliminated exactly, patch by patch in
the same way. What is left for the nodes is

    S_k = K_vv - K_vc (K_cc + s_k C)^-1 K_cv

Multigrid approximates it by S_0 and a diagonal, that of the lumped C:

    d_k = -K_vc (s_k c_K / (K_cc + s_k c_K))_K,    c_K = sigma_P |K|

Growth adds c_K / delta^2 to K_cc. S_0 has larger row sums then, and d_k is smaller by the part of
K_cc that this is not.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..finite_volume.corner_rates import NodeSystem, condense
from ..finite_volume.face_flux import build_laplacian
from ..parallel import Exchange
from .diamonds import DiamondDiscretisation
from .disjoint import Disjoint
from .distributed_matrix import DistributedMatrix, append_ghosts
from .two_point import TwoPointDiscretisation

# Relative size of an eigenvalue, or of an entry of the diagonal, that stands for a constant on a
# piece of the mesh.
NULL_EIGENVALUE = 1e-10


class Equations(NamedTuple):
    """This rank's part of the matrix from which a hierarchy is built.

    label (n_unknowns,) : numbers whose order does not depend on the number of ranks
    extra : what each mode k adds to the diagonal, (n_unknowns, k), or (n_unknowns,) times s_k
    row, column, value : the entries, by places among the unknowns of all ranks
    """

    label: IntArray
    extra: Array
    row: IntArray
    column: IntArray
    value: Array


class Pencil(Protocol):
    """The equations of all modes, as `MultigridPoisson` and `multigrid_cycle` see them."""

    n_unknowns: int
    shift: Array
    smooths_patches: bool  # whether it has a sweep of its own, smooth(r, z, damping)

    def condense(self, f: Array) -> Array:
        """The right-hand sides (n_unknowns, k) of those of all points (n_points, k)."""

    def expand(self, u: Array, f: Array) -> Array:
        """phi (n_points, k) from the unknowns u (n_unknowns, k) and the right-hand sides."""

    def multiply(self, u: Array, out: Array) -> None:
        """Set out = matrix u."""

    def residual(self, u: Array, f: Array, out: Array) -> None:
        """Set out = f - matrix u."""

    def list_equations(self) -> Equations:
        """The matrix of mode 0, and what the others add to it."""


class TwoPointPencil:
    """K + s_k C, applied to the columns k of an array (n_cells, N + 1); see `Pencil`.

    is_whole : whether each rank has all cells, in the order of the ranks, and its own modes
    stiffness, mass : K (CSR, n_cells x n_local) and the lumped C (n_cells,)
    share (n_cells,) : u with C = u u^T on each patch
    """

    smooths_patches = True

    def __init__(
        self,
        disc: TwoPointDiscretisation,
        sigma: Array,
        shift: Array,
        dtype: DTypeLike,
        is_whole: bool = False,
    ):
        mesh = disc.mesh
        sigma_of_cell = sigma[disc.patch]
        weight = disc.mobility(sigma[:, None])[:, 0]
        inner_distance = mesh.distance[: mesh.n_inner]
        stiffness = build_laplacian(mesh, weight / inner_distance**2)
        if disc.reaction:
            added = disc.reaction * sigma_of_cell * mesh.volume
            stiffness += sparse.diags(added, shape=stiffness.shape, format="csr")
        mass = sigma_of_cell * mesh.volume
        volume_of_patch = disc.volume[disc.patch]
        share = mesh.volume * np.sqrt(sigma_of_cell / volume_of_patch)
        cells = _Cells(
            stiffness,
            mass,
            share,
            mesh.patch[: mesh.n_cells],
            mesh.cell_id,
            mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells)),
            mesh.exchange,
        )
        if is_whole:
            cells = _gather_cells(mesh.ranks, cells)

        self._cells = cells
        self.n_unknowns = len(cells.mass)
        self.stiffness = cells.stiffness
        self.mass = cells.mass
        self.share = cells.share
        self.shift = shift.astype(dtype)

        diagonal = self.stiffness.diagonal()
        largest = mesh.ranks.max(diagonal.max(initial=0.0))
        diagonal = make_positive(diagonal, largest)
        own_id = cells.cell_id[: self.n_unknowns]
        _, patch = np.unique(cells.patch, return_inverse=True)
        patch = patch.ravel()
        order = np.lexsort((own_id, patch))
        n_patches = int(patch.max(initial=-1)) + 1
        self._patches: Any = (
            order,
            np.searchsorted(patch[order], np.arange(n_patches + 1)),
            diagonal.astype(dtype),
            self.share.astype(dtype),
            self.shift,
        )

        C = _square_on_patches(self.share, patch)
        self._find_pattern(C.tocoo(), dtype)

    def _find_pattern(self, C, dtype):
        """One CSR pattern with the entries of both K and C.

        Entries of a row are in the order of the file's numbers: sums must not depend on the
        distribution of the mesh.
        """
        K = self.stiffness.tocoo()
        row = np.concatenate([K.row, C.row])
        column = np.concatenate([K.col, C.col])
        column_id = self._cells.cell_id[column]
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
        row_ends = np.arange(self.n_unknowns + 1)
        start = np.searchsorted(unique_row, row_ends)
        pattern = sparse.csr_matrix((values[0], unique_column, start), K.shape)
        self._matrix = DistributedMatrix(pattern, self._cells.exchange)
        self._entries = (self._matrix.start, self._matrix.index, *values, self.shift)

    def condense(self, f: Array) -> Array:
        """See `Pencil`; f itself."""
        return f

    def expand(self, u: Array, f: Array) -> Array:
        """See `Pencil`; u itself."""
        return u

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

    def smooth(self, r: Array, z: Array, damping: float) -> None:
        """z += damping (diag K + s_k u u^T)^-1 r on every patch."""
        _patch_sweep(*self._patches, damping, r, z)

    def list_equations(self) -> Equations:
        """See `Pencil`."""
        K = self.stiffness.tocoo()
        place = self._cells.place
        own_id = self._cells.cell_id[: self.n_unknowns]
        return Equations(own_id, self.mass, place[K.row], place[K.col], K.data)


class _Cells(NamedTuple):
    """What a `TwoPointPencil` is made of: of the cells of this rank, or of all.

    patch (n_cells,) : numbers of the patches, on all ranks
    cell_id, place (n_local,) : in the file, and by rank
    """

    stiffness: sparse.csr_matrix
    mass: Array
    share: Array
    patch: IntArray
    cell_id: IntArray
    place: IntArray
    exchange: Exchange | None


def _gather_cells(ranks, cells):
    """Those of all ranks, on every rank."""
    n_own = len(cells.mass)
    K = cells.stiffness.tocoo()
    row, column = ranks.all_gather(np.stack([cells.place[K.row], cells.place[K.col]]))
    value = ranks.all_gather(K.data)
    mass, share = ranks.all_gather(np.stack([cells.mass, cells.share]))
    n = len(mass)
    return _Cells(
        sparse.csr_matrix((value, (row, column)), (n, n)),
        mass,
        share,
        ranks.all_gather(cells.patch),
        ranks.all_gather(cells.cell_id[:n_own]),
        np.arange(n),
        None,
    )


def _square_on_patches(share, patch):
    """u u^T on each patch, for u = share (n_cells,)."""
    n_patches = int(patch.max(initial=-1)) + 1
    n_cells = len(share)
    places = (patch, np.arange(n_cells))
    U = sparse.csr_matrix((share, places), (n_patches, n_cells))
    return U.T @ U


class DiamondPencil:
    """S_k, applied to the columns k of values at the nodes (n_own, N + 1); see `Pencil`.

    matrix (n_pairs,), column (n_corners,) : K between the corners of each cell, and its sums
    diagonal, mass (n_cells,) : K_cc and the lumped C
    share (n_cells,) : u with C = u u^T on each patch
    """

    smooths_patches = False

    def __init__(self, disc: DiamondDiscretisation, sigma: Array, shift: Array, dtype: DTypeLike):
        mesh = disc.mesh
        corners = disc.corners
        self._disc = disc
        self.n_unknowns = corners.n_own
        self.shift = shift.astype(dtype)
        weight = disc.mobility(sigma[:, None])[:, 0]
        self.matrix = corners.sum_sides(weight)
        self.column = corners.sum_rows(self.matrix)
        sigma_of_cell = sigma[disc.patch]
        self.mass = sigma_of_cell * mesh.volume
        self.diagonal = np.add.reduceat(self.column, corners.start[:-1]) + disc.reaction * self.mass
        self.share = mesh.volume * np.sqrt(sigma_of_cell / disc.volume[disc.patch])

        self._patches: Any = (
            disc.cells,
            disc.cell_start,
            corners.start,
            corners.node,
            self.column.astype(dtype),
            self.diagonal.astype(dtype),
            self.share.astype(dtype),
            self.shift,
        )
        self._entries: Any = (corners.pair_start, self.matrix.astype(dtype))

    def condense(self, f: Array) -> Array:
        """See `Pencil`: f_v - K_vc (K_cc + s_k C)^-1 f_c."""
        n = self._disc.mesh.n_cells
        out = np.zeros((self._disc.corners.n_nodes, f.shape[1]), f.dtype)
        _eliminate_cells(*self._patches, f, out)
        return self._to_owners(out) + f[n:]

    def expand(self, u: Array, f: Array) -> Array:
        """See `Pencil`: phi_c = (K_cc + s_k C)^-1 (f_c - K_cv u)."""
        phi = np.empty_like(f)
        n = self._disc.mesh.n_cells
        phi[n:] = u
        _substitute_cells(*self._patches, self._with_ghosts(u), f, phi)
        return phi

    def multiply(self, u: Array, out: Array) -> None:
        """Set out = S_k u."""
        local = np.zeros((self._disc.corners.n_nodes, u.shape[1]), u.dtype)
        _multiply_condensed(*self._patches, *self._entries, self._with_ghosts(u), local)
        out[:] = self._to_owners(local)

    def residual(self, u: Array, f: Array, out: Array) -> None:
        """Set out = f - S_k u."""
        self.multiply(u, out)
        np.subtract(f, out, out=out)

    def _with_ghosts(self, u):
        corners = self._disc.corners
        return append_ghosts(u, corners.n_nodes, corners.exchange)

    def _to_owners(self, local):
        corners = self._disc.corners
        return corners.exchange.add(local.T).T[: corners.n_own]

    def list_equations(self) -> Equations:
        """See `Pencil`; the matrix is S_0."""
        corners = self._disc.corners
        system = NodeSystem(corners, self.column, self.matrix, self.column)
        ones = np.ones(corners.n_nodes)
        values = condense(system, 1.0, self.diagonal, ones, ones)
        rows = corners.assembly.matrix(values).tocoo()
        shifted = self.mass[:, None] * self.shift
        part = shifted / (self.diagonal[:, None] + shifted)
        part *= (1 - self._disc.reaction * self.mass / self.diagonal)[:, None]
        at_corners = self.column[:, None] * part[corners.cell]
        extra = np.maximum(corners.sum_columns_at_nodes(at_corners), 0.0)
        label = corners.label[: corners.n_own]
        return Equations(label, extra, corners.first_row + rows.row, rows.col, rows.data)


def make_positive(diagonal: Array, largest: float) -> Array:
    """A positive diagonal.

    It is 0 for cells without neighbours, and for coarse unknowns that stand for a whole piece.
    """
    smallest = NULL_EIGENVALUE * largest if largest > 0 else 1.0
    return np.maximum(diagonal, smallest)


# ---- loops over cells and modes ------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _add_pencil(sign, start, index, stiffness, mean, shift, u, out):
    for i in range(len(out)):
        for e in range(start[i], start[i + 1]):
            row = index[e]
            a = sign * stiffness[e]
            m = sign * mean[e]
            for j in range(out.shape[1]):
                out[i, j] += (a + shift[j] * m) * u[row, j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
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


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _solve_patch(cells, first, last, diagonal, share, shift, r, mean):
    """r = (K_cc + s_k u u^T)^-1 r for the cells of a patch, r (n, k) by their places in it."""
    one = r.dtype.type(1)
    square = one - one
    mean[:] = 0
    for i in range(first, last):
        cell = cells[i]
        part = share[cell] / diagonal[cell]
        square += part * share[cell]
        for j in range(len(mean)):
            mean[j] += part * r[i - first, j]
    for j in range(len(mean)):
        mean[j] *= shift[j] / (one + shift[j] * square)
    for i in range(first, last):
        cell = cells[i]
        inverse = one / diagonal[cell]
        u = share[cell]
        for j in range(len(mean)):
            r[i - first, j] = inverse * (r[i - first, j] - u * mean[j])


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _add_from_nodes(first_corner, last_corner, node, column, u, r):
    """r -= K_cv u of one cell; K_cv = -column."""
    for c in range(first_corner, last_corner):
        a = column[c]
        of_node = u[node[c]]
        for j in range(len(r)):
            r[j] += a * of_node[j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _make_room(cell_start, k, dtype):
    """An array (n, k) for the cells of the largest patch."""
    largest = 0
    for patch in range(len(cell_start) - 1):
        largest = max(largest, cell_start[patch + 1] - cell_start[patch])
    return np.empty((largest, k), dtype)


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _eliminate_cells(cells, cell_start, start, node, column, diagonal, share, shift, f, out):
    """out -= K_vc (K_cc + s_k C)^-1 f_c at the nodes; K_vc = -column."""
    k = f.shape[1]
    mean = np.empty(k, f.dtype)
    r = _make_room(cell_start, k, f.dtype)
    for patch in range(len(cell_start) - 1):
        first = cell_start[patch]
        last = cell_start[patch + 1]
        for i in range(first, last):
            r[i - first] = f[cells[i]]
        _solve_patch(cells, first, last, diagonal, share, shift, r, mean)
        for i in range(first, last):
            cell = cells[i]
            for c in range(start[cell], start[cell + 1]):
                into = out[node[c]]
                a = column[c]
                for j in range(k):
                    into[j] += a * r[i - first, j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _substitute_cells(cells, cell_start, start, node, column, diagonal, share, shift, u, f, phi):
    """phi_c = (K_cc + s_k C)^-1 (f_c - K_cv u)."""
    k = f.shape[1]
    mean = np.empty(k, f.dtype)
    r = _make_room(cell_start, k, f.dtype)
    for patch in range(len(cell_start) - 1):
        first = cell_start[patch]
        last = cell_start[patch + 1]
        for i in range(first, last):
            cell = cells[i]
            r[i - first] = f[cell]
            _add_from_nodes(start[cell], start[cell + 1], node, column, u, r[i - first])
        _solve_patch(cells, first, last, diagonal, share, shift, r, mean)
        for i in range(first, last):
            phi[cells[i]] = r[i - first]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _multiply_condensed(
    cells, cell_start, start, node, column, diagonal, share, shift, pair_start, matrix, u, out
):
    """out += K_vv u - K_vc (K_cc + s_k C)^-1 K_cv u."""
    k = u.shape[1]
    mean = np.empty(k, u.dtype)
    r = _make_room(cell_start, k, u.dtype)
    for patch in range(len(cell_start) - 1):
        first = cell_start[patch]
        last = cell_start[patch + 1]
        for i in range(first, last):
            cell = cells[i]
            r[i - first] = 0
            _add_from_nodes(start[cell], start[cell + 1], node, column, u, r[i - first])
        _solve_patch(cells, first, last, diagonal, share, shift, r, mean)
        for i in range(first, last):
            cell = cells[i]
            at = pair_start[cell]
            for c in range(start[cell], start[cell + 1]):
                into = out[node[c]]
                a = column[c]
                for j in range(k):
                    into[j] -= a * r[i - first, j]
                for d in range(start[cell], start[cell + 1]):
                    m = matrix[at]
                    of_node = u[node[d]]
                    for j in range(k):
                        into[j] += m * of_node[j]
                    at += 1
