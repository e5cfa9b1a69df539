"""Corners: the skeleton of schemes on meshes that need not be orthogonal.

A corner is a cell K at one of its points x_i. Corners at the same point whose cells are joined by
faces there share a *node*; cells that touch in a point only do not. Cells hold the mass, nodes have
no volume: they carry one more unknown each, by which cells see each other.

Each cell is cut into simplices T of its centroid x_K and one of its faces: (x_K, x_i) in one
dimension, (x_K, x_i, x_j) in two; in space (x_K, a, b, c) for a triangle, and for a face of four
corners (x_K, x_f, a, b) for each of its edges, x_f the mean of the four and w_f that of their
values. With the linear gradient G_T of the differences w_i - w_K on T,

    M_ij = sum over T of |T| (G_T^T D_K G_T)_ij

is the matrix of the energy int_K grad w . D grad w. It is exact for linear w on every cell that is
star-shaped about its centroid (vertex approximate gradients: Eymard, Guichard, Herbin 2012).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from ..arguments.types import Array, IntArray
from ..errors import MeshError
from ..mesh.coordinates import refuse_radial
from ..mesh.face_exchange import find_face_exchange
from ..mesh.memory import AnyMesh, kept_with_mesh
from ..mesh.patch_moments import SMALLEST_SIMPLEX
from ..parallel import Exchange
from .stencil import Stencil

# Corners of a cell, at most: labels of corners are cell numbers times this, and kernels have room
# for so many.
MAX_CORNERS = 4096


class Corners:
    """The corners of this rank's cells, and the nodes that they share.

    start (n_cells + 1,) : cell K has the corners start[K] to start[K + 1]
    pair_start (n_cells + 1,) : where the entries of its matrix (k, k) begin among all
    cell, node (n_corners,) : the cell and the local node of each corner
    leg (dim, n_corners) : x_i - x_K, from the centroid to the corner
    sides : the `Stencil` of the mesh
    side_corner (width, n_sides) : the corners of each side, in the order of the face's points; -1
        fills up
    n_own, n_nodes : nodes that this rank owns, and all that its cells have; owned ones come first
    number (n_nodes,) : their global numbers, as PETSc numbers rows
    label (n_nodes,) : numbers that do not depend on how the mesh is dealt to the ranks
    """

    def __init__(self, mesh: AnyMesh):
        self.mesh = mesh
        self.sides = Stencil(mesh)
        self.start = np.asarray(mesh.start, np.int64)
        count = np.diff(self.start)
        most = int(mesh.ranks.max(count.max(initial=0)))
        if most > MAX_CORNERS:
            raise MeshError(
                f"a cell has {most} corners, more than {MAX_CORNERS}: cut it in smaller ones"
            )
        self.pair_start = np.concatenate([[0], np.cumsum(count**2)])
        self.cell = np.repeat(np.arange(mesh.n_cells), count)
        self.leg = mesh.points[:, mesh.corners] - mesh.centroid[:, self.cell]
        self.side_corner = self._find_side_corners()
        self._number_nodes()

    def _find_side_corners(self):
        """The corner of the cell at each point of each of its faces."""
        mesh = self.mesh
        sides = self.sides
        point = mesh.vertices[:, sides.face]
        found = np.full(point.shape, -1)
        _match_corners(self.start, np.asarray(mesh.corners), sides.cell, point, found)

        # Where a mesh is periodic, a face may lie at the other end, and is matched by its shape.
        width, side = np.nonzero((point >= 0) & (found < 0))
        seen = mesh.points[:, point[width, side]] - mesh.face_center[:, sides.face[side]]
        wanted = seen + sides.offset[:, side]
        for i, (row, place) in enumerate(zip(width, side, strict=True)):
            own = np.arange(*self.start[sides.cell[place] + [0, 1]])
            distance = np.linalg.norm(self.leg[:, own] - wanted[:, i, None], axis=0)
            found[row, place] = own[distance.argmin()]
        return found

    # ---- nodes -----------------------------------------------------------------------------------

    def _number_nodes(self):
        """Find the nodes, their owners, and how their values are exchanged."""
        mesh = self.mesh
        local = self._join_corners()
        label, owner = self._agree_on_labels(local)

        values, node = np.unique(label, return_inverse=True)
        first = np.full(len(values), len(label))
        np.minimum.at(first, node, np.arange(len(label)))
        is_foreign = owner[first] != mesh.ranks.rank
        order = np.lexsort((first, is_foreign))  # owned ones first, in the order of the cells
        place = np.empty(len(values), np.int64)
        place[order] = np.arange(len(values))

        self.node = place[node].astype(np.uint32)
        self.label = values[order]
        self.n_nodes = len(values)
        self.n_own = int(len(values) - is_foreign.sum())
        owners = owner[first][order]
        own_names = self.label[: self.n_own]
        foreign_names = self.label[self.n_own :]
        self.exchange = Exchange.ghosts(mesh.ranks, own_names, foreign_names, owners[self.n_own :])
        counts = mesh.ranks.all_gather(np.array([self.n_own]))
        self.first_row = int(counts[: mesh.ranks.rank].sum())
        self.n_global = int(counts.sum())
        number = np.zeros(self.n_nodes, np.int64)
        number[: self.n_own] = self.first_row + np.arange(self.n_own)
        self.number = self.exchange(number)

    def _join_corners(self):
        """The local group (n_corners,) of corners that faces between this rank's cells join."""
        mesh = self.mesh
        sides = self.sides
        is_left = sides.sign > 0
        left_side = np.full(mesh.n_faces, -1)
        right_side = np.full(mesh.n_faces, -1)
        left_side[sides.face[is_left]] = np.flatnonzero(is_left)
        right_side[sides.face[~is_left]] = np.flatnonzero(~is_left)
        both = np.flatnonzero((left_side >= 0) & (right_side >= 0))
        one = self.side_corner[:, left_side[both]].ravel()
        other = self.side_corner[:, right_side[both]].ravel()
        known = one >= 0

        n = len(self.cell)
        ones = np.ones(known.sum(), np.int8)
        graph = sparse.csr_matrix((ones, (one[known], other[known])), (n, n))
        return connected_components(graph, directed=False)[1]

    def _agree_on_labels(self, group):
        """(label, owner) of the node of each corner (n_corners,), the same on all ranks.

        The label is the smallest number of a corner of the node, the owner the rank of its cell.
        Ranks send each other the labels at their common faces until none changes.
        """
        mesh = self.mesh
        ranks = mesh.ranks
        place = np.arange(len(self.cell)) - self.start[self.cell]
        own_label = (mesh.cell_id[self.cell].astype(np.int64) * MAX_CORNERS + place) * ranks.size
        own_label += ranks.rank
        lowest = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, group, own_label)

        sides = self.sides
        exchange = find_face_exchange(mesh)
        at_side = np.where(self.side_corner >= 0, self.side_corner, 0)
        is_shared = np.zeros(mesh.n_faces, bool)
        for faces in exchange.receive.values():
            is_shared[faces] = True
        shared = np.flatnonzero(is_shared[sides.face])
        faces = sides.face[shared]
        at_shared = at_side[:, shared]
        is_point = self.side_corner[:, shared] >= 0

        changed = True
        while changed:
            sent = np.zeros((len(at_side), mesh.n_faces), np.int64)
            sent[:, faces] = lowest[group[at_shared]]
            theirs = exchange(sent, sent.copy())[:, faces]
            before = lowest.copy()
            np.minimum.at(lowest, group[at_shared[is_point]], theirs[is_point])
            changed = ranks.max(float((lowest != before).any())) > 0
        label, owner = np.divmod(lowest[group], ranks.size)
        return label, owner

    def add(self, values: Array) -> Array:
        """Sums (..., n_nodes) over all ranks of their parts of values at nodes. Collective."""
        return self.exchange(self.exchange.add(values))

    def sum_at_nodes(self, values: Array) -> Array:
        """Sums (n_nodes,) over the corners at each node of values (n_corners,). Collective."""
        return self.add(np.bincount(self.node, values, self.n_nodes).astype(float))

    def sum_columns_at_nodes(self, values: Array) -> Array:
        """Sums (n_own, k) over the corners at each node that this rank owns of values
        (n_corners, k) of all ranks. Collective.
        """
        total = np.zeros((self.n_nodes, values.shape[1]))
        np.add.at(total, self.node, values)
        return self.exchange.add(total.T).T[: self.n_own]

    @cached_property
    def own_entry(self) -> IntArray:
        """The places (n_corners,) of the diagonals among the entries of the cells' matrices."""
        count = np.diff(self.start)
        place = np.arange(len(self.node)) - self.start[self.cell]
        return self.pair_start[self.cell] + place * (count[self.cell] + 1)

    def average_at_nodes(self, values: Array) -> Array:
        """Means (n_nodes,) over the corners at each node of values (n_corners,). Collective."""
        return self.sum_at_nodes(values) / self._count

    @cached_property
    def _count(self):
        return self.sum_at_nodes(np.ones(len(self.node)))

    @cached_property
    def points(self) -> Array:
        """The places (dim, n_nodes) of the nodes, as this rank's cells see them."""
        points = np.empty((self.mesh.dim, self.n_nodes))
        points[:, self.node] = self.mesh.points[:, self.mesh.corners]
        return points

    # ---- matrices --------------------------------------------------------------------------------

    @cached_property
    def side_weight(self) -> Array:
        """The share (width, n_sides) of each corner in integrals over its face of linear functions.

        1/2 of an edge, 1/3 of a triangle. Of a face of four corners, cut into triangles t about
        their mean: the sum of |t| / (3 |s|) over those at the corner, and 1/12.
        """
        weight = np.zeros(self.side_corner.shape)
        _share_faces(self.side_corner, self.leg, weight)
        return weight

    def find_smallest_simplices(self) -> Array:
        """The smallest signed volume (n_cells,) of the simplices of each cell."""
        sides = self.sides
        normal = self.mesh.normal[:, sides.face]
        height = sides.sign * (sides.offset * normal).sum(axis=0)
        smallest = np.empty(self.mesh.n_cells)
        _find_smallest_simplices(
            self.mesh.dim, sides.start, self.side_corner, self.leg, height, smallest
        )
        return smallest

    def matrices(self, D: Array) -> Array:
        """The matrices M of all cells, row by row, for D (dim, dim, n_cells): (n_pairs,)."""
        M = np.zeros(self.pair_start[-1])
        _assemble_matrices(
            self.mesh.dim,
            self.start,
            self.pair_start,
            self.sides.start,
            self.side_corner,
            self.leg,
            D,
            M,
        )
        return M

    @property
    def side_volume(self) -> Array:
        """The volume (n_sides,) of the simplices of the cell that stand on each side."""
        return self._side_measures[0]

    @property
    def side_root(self) -> Array:
        """R (n_sides, width, width), upper triangular, with R^T R = sum of |T| G_T^T G_T over the
        simplices T on a side, for the differences w_i - w_K at its corners; 0 beyond their number.
        """
        return self._side_measures[1]

    @cached_property
    def face_shares(self) -> Array:
        """lam (2, n_faces): the shares of the left and the right cell in the simplices at a face,
        lam_K = |T_K| / (|T_K| + |T_L|); 1 and 0 at walls. The first call is collective.
        """
        volume = self.sides.see_from_faces(self.side_volume)
        return volume / volume.sum(axis=0)

    def average_at_faces(self, rho: Array) -> Array:
        """lam_left rho_left + lam_right rho_right (..., n_faces) of values rho (..., n_cells),
        which both sides of a face share. Collective.
        """
        mesh = self.mesh
        n = mesh.n_inner
        local = mesh.with_ghosts(rho)
        of_left, of_right = self.face_shares
        mean = of_left * local[..., mesh.left]
        mean[..., :n] += of_right[:n] * local[..., mesh.right[:n]]
        return mean

    @cached_property
    def _side_measures(self):
        dim = self.mesh.dim
        width, n_sides = self.side_corner.shape
        most_simplices = width if width > 3 else 1
        volume = np.zeros(n_sides)
        gradients = np.zeros((n_sides, most_simplices * dim, width))
        _fill_gradients(dim, self.side_corner, self.leg, volume, gradients)
        return volume, factor_rows(gradients)

    def sum_sides(self, weight: Array) -> Array:
        """The matrices (n_pairs,) of all cells with a weight (n_faces,) on the simplices at each
        face: sums of w_s R_s^T R_s.
        """
        M = np.zeros(self.pair_start[-1])
        _sum_sides(
            self.start,
            self.pair_start,
            self.sides.start,
            self.side_corner,
            self.side_root,
            weight[self.sides.face],
            M,
        )
        return M

    def sum_legs(self, flux: Array) -> Array:
        """Sums (n_corners, k) over the sides at each corner of values (n_sides, width, k)."""
        legs = np.zeros((len(self.node), flux.shape[-1]))
        _sum_legs(self.side_corner, flux, legs)
        return legs

    def sum_rows(self, M: Array) -> Array:
        """The sums (n_corners,) of the rows of the cells' matrices (n_pairs,)."""
        count = np.diff(self.start)[self.cell]
        first = np.cumsum(count) - count
        return np.add.reduceat(M, first)

    @cached_property
    def assembly(self) -> linalg.Assembly:
        """The places of the entries of matrices between nodes, pair by pair of corners."""
        rows, columns = _list_pairs(self.start, self.pair_start, self.number[self.node])
        return linalg.Assembly(self.mesh.ranks, self.n_own, rows, columns)


@kept_with_mesh
def find_corners(mesh: AnyMesh) -> Corners:
    """The `Corners` of a mesh; `MeshError` where a cell is not star-shaped. Collective."""
    refuse_radial(
        mesh,
        "fluxes to corners",
        "two-point fluxes are right there; leave scheme out",
    )
    corners = Corners(mesh)
    bad = np.flatnonzero(corners.find_smallest_simplices() < SMALLEST_SIMPLEX * mesh.volume)
    with mesh.ranks.raising_together():
        if len(bad):
            place = np.array2string(mesh.centroid[:, bad[0]], precision=4, separator=", ")
            raise MeshError(
                f"cell {mesh.cell_id[bad[0]]} at {place} is not star-shaped about its centroid: "
                f"{len(bad)} of {mesh.n_cells} cells have faces that the centroid does not see; "
                "cut these cells in two"
            )
    return corners


def factor_rows(A: Array) -> Array:
    """R (n, k, k), upper triangular, with R^T R = A^T A for each A (n, m, k), m >= k."""
    if len(A) == 0:
        return np.zeros((0, A.shape[2], A.shape[2]))
    R: Any = np.linalg.qr(A, mode="r")
    return R


# ---- kernels ----------------------------------------------------------------------------------


@numba.njit(cache=True)
def _match_corners(start, corners, cell, point, found):
    """found = the place in *corners* of each point of a side, among those of its cell."""
    for side in range(len(cell)):
        for i in range(len(point)):
            if point[i, side] < 0:
                continue
            for c in range(start[cell[side]], start[cell[side] + 1]):
                if corners[c] == point[i, side]:
                    found[i, side] = c
                    break


@numba.njit(cache=True, inline="always")
def _count_simplices(side_corner, side):
    """(number of corners, number of simplices) of a side."""
    n = 0
    while n < len(side_corner) and side_corner[n, side] >= 0:
        n += 1
    return n, (n if n > 3 else 1)


@numba.njit(cache=True)
def _fill_simplex(dim, side_corner, side, n, t, leg, edges, weights):
    """The edges (dim, dim) of simplex t of a side, row by row, from the centroid of the cell; each
    is the sum of weights (dim, n) times the legs to the side's corners.
    """
    weights[:] = 0.0
    if n <= 3:
        for i in range(dim):
            weights[i, i] = 1.0
    else:
        weights[0, :n] = 1.0 / n
        weights[1, t] = 1.0
        weights[2, (t + 1) % n] = 1.0
    for i in range(dim):
        for a in range(dim):
            total = 0.0
            for c in range(n):
                total += weights[i, c] * leg[a, side_corner[c, side]]
            edges[i, a] = total


@numba.njit(cache=True, error_model="numpy")
def _invert(dim, m, inverse):
    """The determinant of m (dim, dim), whose inverse is filled in."""
    if dim == 1:
        inverse[0, 0] = 1 / m[0, 0]
        return m[0, 0]
    if dim == 2:
        det = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
        inverse[0, 0] = m[1, 1] / det
        inverse[0, 1] = -m[0, 1] / det
        inverse[1, 0] = -m[1, 0] / det
        inverse[1, 1] = m[0, 0] / det
        return det
    for i in range(3):
        for j in range(3):
            i1 = (i + 1) % 3
            i2 = (i + 2) % 3
            j1 = (j + 1) % 3
            j2 = (j + 2) % 3
            inverse[j, i] = m[i1, j1] * m[i2, j2] - m[i1, j2] * m[i2, j1]
    det = m[0, 0] * inverse[0, 0] + m[0, 1] * inverse[1, 0] + m[0, 2] * inverse[2, 0]
    for i in range(3):
        for j in range(3):
            inverse[i, j] /= det
    return det


# Factorials: the volume of a simplex is the determinant of its edges over dim!.
FACTORIAL = (1.0, 1.0, 2.0, 6.0)


@numba.njit(cache=True, error_model="numpy")
def _find_smallest_simplices(dim, side_start, side_corner, leg, height, smallest):
    edges = np.empty((dim, dim))
    inverse = np.empty((dim, dim))
    weights = np.empty((dim, 4))
    volume = np.empty(4)
    for cell in range(len(smallest)):
        least = np.inf
        for side in range(side_start[cell], side_start[cell + 1]):
            n, n_simplices = _count_simplices(side_corner, side)
            total = 0.0
            for t in range(n_simplices):
                _fill_simplex(dim, side_corner, side, n, t, leg, edges, weights)
                volume[t] = _invert(dim, edges, inverse) / FACTORIAL[dim]
                total += volume[t]
            orientation = np.sign(total)
            for t in range(n_simplices):
                signed = orientation * volume[t]
                least = min(least, signed if height[side] > 0 else -abs(signed))
        smallest[cell] = least


@numba.njit(cache=True, error_model="numpy")
def _fill_gradients(dim, side_corner, leg, volume, rows):
    """rows = sqrt(|T|) G_T of the simplices T of each side, which have these volumes together."""
    edges = np.empty((dim, dim))
    inverse = np.empty((dim, dim))
    weights = np.empty((dim, 4))
    for side in range(len(volume)):
        n, n_simplices = _count_simplices(side_corner, side)
        for t in range(n_simplices):
            _fill_simplex(dim, side_corner, side, n, t, leg, edges, weights)
            size = abs(_invert(dim, edges, inverse)) / FACTORIAL[dim]
            volume[side] += size
            for a in range(dim):
                for c in range(n):
                    total = 0.0
                    for i in range(dim):
                        total += inverse[a, i] * weights[i, c]
                    rows[side, t * dim + a, c] = np.sqrt(size) * total


@numba.njit(cache=True, error_model="numpy")
def _assemble_matrices(dim, start, pair_start, side_start, side_corner, leg, D, M):
    """M += |T| G_T^T D_K G_T for all simplices T of all cells."""
    edges = np.empty((dim, dim))
    inverse = np.empty((dim, dim))
    weights = np.empty((dim, 4))
    gradient = np.empty((dim, 4))
    turned = np.empty((dim, 4))
    for cell in range(len(start) - 1):
        first = start[cell]
        k = start[cell + 1] - first
        entries = M[pair_start[cell] : pair_start[cell + 1]]
        for side in range(side_start[cell], side_start[cell + 1]):
            n, n_simplices = _count_simplices(side_corner, side)
            for t in range(n_simplices):
                _fill_simplex(dim, side_corner, side, n, t, leg, edges, weights)
                volume = abs(_invert(dim, edges, inverse)) / FACTORIAL[dim]
                for a in range(dim):
                    for c in range(n):
                        total = 0.0
                        for i in range(dim):
                            total += inverse[a, i] * weights[i, c]
                        gradient[a, c] = total
                for a in range(dim):
                    for c in range(n):
                        total = 0.0
                        for b in range(dim):
                            total += D[a, b, cell] * gradient[b, c]
                        turned[a, c] = volume * total
                for c in range(n):
                    row = (side_corner[c, side] - first) * k - first
                    for d in range(n):
                        total = 0.0
                        for a in range(dim):
                            total += gradient[a, c] * turned[a, d]
                        entries[row + side_corner[d, side]] += total


@numba.njit(cache=True, error_model="numpy")
def _sum_sides(start, pair_start, side_start, side_corner, root, weight, M):
    """M += w_s R_s^T R_s for all sides of all cells."""
    for cell in range(len(start) - 1):
        first = start[cell]
        k = start[cell + 1] - first
        entries = M[pair_start[cell] : pair_start[cell + 1]]
        for side in range(side_start[cell], side_start[cell + 1]):
            n, _ = _count_simplices(side_corner, side)
            for c in range(n):
                row = (side_corner[c, side] - first) * k - first
                for d in range(n):
                    total = 0.0
                    for i in range(min(c, d) + 1):
                        total += root[side, i, c] * root[side, i, d]
                    entries[row + side_corner[d, side]] += weight[side] * total


@numba.njit(cache=True)
def _sum_legs(side_corner, flux, legs):
    for c in range(len(side_corner)):
        for side in range(side_corner.shape[1]):
            corner = side_corner[c, side]
            if corner >= 0:
                legs[corner] += flux[side, c]


@numba.njit(cache=True, error_model="numpy")
def _share_faces(side_corner, leg, weight):
    """The shares of the corners of each side, see `Corners.side_weight`."""
    dim = len(leg)
    area = np.empty(4)
    middle = np.empty(dim)
    for side in range(side_corner.shape[1]):
        n, n_simplices = _count_simplices(side_corner, side)
        if n <= 3:
            weight[:n, side] = 1.0 / n
            continue
        middle[:] = 0.0
        for c in range(n):
            middle += leg[:, side_corner[c, side]] / n
        total = 0.0
        for t in range(n):
            one = leg[:, side_corner[t, side]] - middle
            two = leg[:, side_corner[(t + 1) % n, side]] - middle
            x = one[1] * two[2] - one[2] * two[1]
            y = one[2] * two[0] - one[0] * two[2]
            z = one[0] * two[1] - one[1] * two[0]
            area[t] = np.sqrt(x * x + y * y + z * z)
            total += area[t]
        for c in range(n):
            at_corner = area[c] + area[(c - 1) % n]
            weight[c, side] = at_corner / (3 * total) + 1.0 / (3 * n)


@numba.njit(cache=True)
def _fill_pairs(start, pair_start, number, rows, columns):
    for cell in range(len(start) - 1):
        at = pair_start[cell]
        for i in range(start[cell], start[cell + 1]):
            for j in range(start[cell], start[cell + 1]):
                rows[at] = number[i]
                columns[at] = number[j]
                at += 1


def _list_pairs(start, pair_start, number):
    """The numbers of the nodes (rows, columns) of each entry of the cells' matrices."""
    rows = np.empty(pair_start[-1], np.int32)
    columns = np.empty(pair_start[-1], np.int32)
    _fill_pairs(start, pair_start, number, rows, columns)
    return rows, columns
