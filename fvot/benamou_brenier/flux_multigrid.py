"""Laplacians with one pattern and many weights, solved for all columns at once.

    sum_s W_s (psi_K - psi_L) = f_K        for each column of W (n_faces, k) and f (n_cells, k)

Conjugate gradients with one V-cycle of multigrid. Cells are matched in pairs as often as there are
dimensions, and a coarse face has half the weight of the fine ones: agglomerates are twice as far
apart as their cells. One sweep of Gauss and Seidel before, one in the reverse order after. The
agglomerates are those of the mesh, whatever the weights are, so that all columns share the loops.

The sums in f must be 0 on each piece of the mesh, where a constant of psi is free.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..mesh import Mesh
from ..parallel import ColumnDeal
from .disjoint import Disjoint

# The weight of a coarse face, relative to the sum of those of its fine faces.
COARSE_WEIGHT = 0.5

# Smallest weight, relative to the largest one: less would overflow when divided by.
SMALLEST_FACE_WEIGHT = 1e-100

# Steps of conjugate gradients, at most.
MAX_GRADIENT_STEPS = 100


class Graph(NamedTuple):
    """Cells and faces of one level.

    left, right (n_faces,) : cells
    start (n_cells + 1,), neighbour, face (2 n_faces,) : the faces of each cell
    """

    n_cells: int
    left: IntArray
    right: IntArray
    start: IntArray
    neighbour: IntArray
    face: IntArray

    @classmethod
    def of(cls, n_cells: int, left: IntArray, right: IntArray) -> Graph:
        """From both cells of each face; the faces of a cell are in the order of its neighbours."""
        cell = np.concatenate([left, right])
        neighbour = np.concatenate([right, left])
        face = np.tile(np.arange(len(left)), 2)
        order = np.lexsort((neighbour, cell))
        start = np.searchsorted(cell[order], np.arange(n_cells + 1))
        return cls(n_cells, left, right, start, neighbour[order], face[order])


class Coarsening(NamedTuple):
    """member (n_cells,) : the coarse cell of each cell; coarse_face (n_faces,), -1 inside one."""

    member: IntArray
    coarse_face: IntArray


class FluxMultigrid:
    """psi = solve(W, f, rtol), with a hierarchy for the faces of a mesh.

    left, right (n_faces,) : both cells of each face
    conductance (n_faces,) : by which cells are matched
    """

    def __init__(
        self, n_cells: int, left: IntArray, right: IntArray, conductance: Array, n_matchings: int
    ):
        graph = Graph.of(n_cells, left, right)
        self.graphs = [graph]
        self.coarsenings: list[Coarsening] = []
        while len(graph.left):
            coarsening, graph, conductance = _coarsen(graph, conductance, n_matchings)
            self.coarsenings.append(coarsening)
            self.graphs.append(graph)

    def __call__(self, weight: Array, f: Array, rtol: float) -> tuple[Array, bool]:
        """psi (n_cells, k) and whether the energy of its error has fallen to rtol^2 of it."""
        size_of_weight = _find_sizes(weight)
        size_of_f = _find_sizes(f)
        weight = weight / size_of_weight
        weight[weight < SMALLEST_FACE_WEIGHT] = 0.0
        psi, has_converged = self._solve_scaled(weight, f / size_of_f, rtol)
        return psi * (size_of_f / size_of_weight), has_converged

    def _solve_scaled(self, weight, f, rtol):
        weights = [weight]
        for coarsening, graph in zip(self.coarsenings, self.graphs[1:]):
            coarse = np.zeros((len(graph.left), weight.shape[1]))
            _add_rows(COARSE_WEIGHT, coarsening.coarse_face, weights[-1], coarse)
            weights.append(coarse)

        inverses = []
        for graph, level_weight in zip(self.graphs, weights):
            inverse = np.zeros((graph.n_cells, weight.shape[1]))
            _invert_diagonal(graph.start, graph.face, level_weight, inverse)
            inverses.append(inverse)
        levels = list(zip(self.graphs, weights, inverses))
        return self._improve(levels, f, rtol)

    def _improve(self, levels, f, rtol):
        graph, weight, _ = levels[0]
        psi = np.zeros_like(f)
        residual = f.copy()
        image = np.empty_like(f)
        direction = np.zeros_like(f)
        square = np.ones(f.shape[1])
        first_square = None
        for _ in range(MAX_GRADIENT_STEPS):
            z = self._cycle(levels, 0, residual)
            last_square = square
            square = _multiply_columns(z, residual)
            if first_square is None:
                first_square = square
            is_open = square > rtol**2 * first_square
            if not is_open.any():
                return psi, True

            growth = np.where(is_open, square / last_square, 0.0)
            _extend(growth, z, direction)
            image[:] = 0
            _subtract_product(graph.start, graph.neighbour, graph.face, weight, direction, image)
            curvature = -_multiply_columns(direction, image)
            is_open &= curvature > 0
            length = np.where(is_open, square / np.where(is_open, curvature, 1.0), 0.0)
            _move(length, direction, image, psi, residual)
            square = np.where(square > 0, square, 1.0)
        return psi, False

    def _cycle(self, levels, depth, f):
        graph, weight, inverse = levels[depth]
        z = np.empty_like(f)
        _sweep_forwards(graph.start, graph.neighbour, graph.face, weight, inverse, f, z)
        if depth == len(self.coarsenings):
            return z

        r = f.copy()
        _subtract_product(graph.start, graph.neighbour, graph.face, weight, z, r)
        member = self.coarsenings[depth].member
        coarse = np.zeros((levels[depth + 1][0].n_cells, f.shape[1]))
        _add_rows(1.0, member, r, coarse)
        correction = self._cycle(levels, depth + 1, coarse)
        _spread_rows(member, correction, z)
        _sweep_backwards(graph.start, graph.neighbour, graph.face, weight, inverse, f, z)
        return z


class DealtFluxMultigrid:
    """The same for a distributed mesh: each rank solves for the whole mesh and its share of the
    columns, in an order that does not depend on the number of ranks.
    """

    def __init__(self, mesh: Mesh):
        ranks = mesh.ranks
        n = mesh.n_inner
        self.ranks = ranks
        self._own = mesh.face_owned[:n]
        left = mesh.cell_id[mesh.left[:n][self._own]]
        right = mesh.cell_id[mesh.right[:n][self._own]]
        conductance = (mesh.area[:n] / mesh.distance[:n])[self._own]

        n_before = sum(ranks.all_reports(len(left))[: ranks.rank])
        left, right = ranks.all_gather(np.stack([left, right]).astype(np.int64))
        conductance = ranks.all_gather(conductance)
        order = np.lexsort((right, left))
        number = np.argsort(order)
        own_numbers = number[n_before : n_before + self._own.sum()]
        self._deal_faces = ColumnDeal(ranks, own_numbers)
        self._deal_cells = ColumnDeal(ranks, mesh.cell_id[: mesh.n_cells])
        faces = (left[order], right[order], conductance[order])
        self._whole = FluxMultigrid(mesh.n_cells_global, *faces, mesh.dim)

    def __call__(self, weight: Array, f: Array, rtol: float) -> tuple[Array, bool]:
        """psi (n_cells, k) for the weights (n_inner, k); whether all columns have converged."""
        n_columns = f.shape[1]
        dealt_weight = self._deal_faces.collect(weight[self._own])
        psi, has_converged = self._whole(dealt_weight, self._deal_cells.collect(f), rtol)
        psi = self._deal_cells.give_back(psi, n_columns)
        return psi, bool(self.ranks.min(has_converged))


def _find_sizes(columns):
    """The largest absolute value of each column, 1 where that is 0."""
    size = np.abs(columns).max(axis=0, initial=0.0)
    return np.where(size > 0, size, 1.0)


# ---- the hierarchy -------------------------------------------------------------------------------


def _coarsen(graph, conductance, n_matchings):
    """(`Coarsening`, coarse `Graph`, its conductances), of cells matched n_matchings times."""
    member = np.arange(graph.n_cells)
    coarse_face = np.arange(len(graph.left))
    for _ in range(n_matchings):
        partner = np.empty(graph.n_cells, np.int64)
        n_coarse = _match(graph.start, graph.neighbour, graph.face, conductance, partner)
        graph, conductance, faces = _merge(graph, conductance, partner, n_coarse)
        member = partner[member]
        is_left = coarse_face >= 0
        coarse_face[is_left] = faces[coarse_face[is_left]]
    return Coarsening(member, coarse_face), graph, COARSE_WEIGHT * conductance


def _merge(graph, conductance, member, n_coarse):
    """(coarse `Graph`, conductances, coarse face of each face or -1)."""
    a = member[graph.left]
    b = member[graph.right]
    key = np.minimum(a, b) * n_coarse + np.maximum(a, b)
    is_between = a != b
    keys, place = np.unique(key[is_between], return_inverse=True)
    faces = np.full(len(a), -1)
    faces[is_between] = place.ravel()
    merged = np.bincount(place.ravel(), conductance[is_between], len(keys))
    left, right = np.divmod(keys, n_coarse) if len(keys) else (keys, keys)
    return Graph.of(n_coarse, left, right), merged, faces


@numba.njit(cache=True)
def _match(start, neighbour, face, conductance, member):
    """Join each cell that is left with the neighbour left that has the largest conductance.

    Returns the number of pairs and single cells, which are numbered in the order of the cells.
    """
    member[:] = -1
    n = 0
    for i in range(len(member)):
        if member[i] >= 0:
            continue
        best = -1
        largest = -1.0
        for e in range(start[i], start[i + 1]):
            other = neighbour[e]
            value = conductance[face[e]]
            if member[other] < 0 and other != i and value > largest * (1 + 1e-9):
                best = other
                largest = value
        member[i] = n
        if best >= 0:
            member[best] = n
        n += 1
    return n


# ---- loops over cells and columns ----------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _invert_diagonal(start, face, weight, inverse):
    for i in range(len(inverse)):
        for e in range(start[i], start[i + 1]):
            for j in range(inverse.shape[1]):
                inverse[i, j] += weight[face[e], j]
        for j in range(inverse.shape[1]):
            d = inverse[i, j]
            inverse[i, j] = 1 / d if d > 0 else 0.0


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _sweep_forwards(start, neighbour, face, weight, inverse, f, z):
    """A sweep of Gauss and Seidel from z = 0."""
    k = f.shape[1]
    total = np.empty(k)
    for i in range(len(f)):
        for j in range(k):
            total[j] = f[i, j]
        for e in range(start[i], start[i + 1]):
            other = neighbour[e]
            if other >= i:
                break
            w = weight[face[e]]
            u = z[other]
            for j in range(k):
                total[j] += w[j] * u[j]
        for j in range(k):
            z[i, j] = total[j] * inverse[i, j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _sweep_backwards(start, neighbour, face, weight, inverse, f, z):
    """A sweep in the reverse order."""
    k = f.shape[1]
    total = np.empty(k)
    for i in range(len(f) - 1, -1, -1):
        for j in range(k):
            total[j] = f[i, j]
        for e in range(start[i], start[i + 1]):
            w = weight[face[e]]
            u = z[neighbour[e]]
            for j in range(k):
                total[j] += w[j] * u[j]
        for j in range(k):
            z[i, j] = total[j] * inverse[i, j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _subtract_product(start, neighbour, face, weight, z, r):
    """r -= A z."""
    k = z.shape[1]
    total = np.empty(k)
    for i in range(len(z)):
        for j in range(k):
            total[j] = r[i, j]
        here = z[i]
        for e in range(start[i], start[i + 1]):
            w = weight[face[e]]
            u = z[neighbour[e]]
            for j in range(k):
                total[j] += w[j] * (u[j] - here[j])
        for j in range(k):
            r[i, j] = total[j]


@numba.njit(cache=True, pipeline_class=Disjoint)
def _add_rows(factor, place, rows, out):
    """out[place] += factor rows, where place >= 0."""
    for i in range(len(rows)):
        p = place[i]
        if p >= 0:
            for j in range(rows.shape[1]):
                out[p, j] += factor * rows[i, j]


@numba.njit(cache=True, pipeline_class=Disjoint)
def _spread_rows(place, rows, out):
    for i in range(len(out)):
        p = place[i]
        for j in range(rows.shape[1]):
            out[i, j] += rows[p, j]


@numba.njit(cache=True, pipeline_class=Disjoint)
def _multiply_columns(u, v):
    """u.v of each column (k,)."""
    out = np.zeros(u.shape[1])
    for i in range(len(u)):
        for j in range(u.shape[1]):
            out[j] += u[i, j] * v[i, j]
    return out


@numba.njit(cache=True, pipeline_class=Disjoint)
def _extend(growth, z, direction):
    """direction = z + growth direction."""
    for i in range(len(z)):
        for j in range(z.shape[1]):
            direction[i, j] = z[i, j] + growth[j] * direction[i, j]


@numba.njit(cache=True, pipeline_class=Disjoint)
def _move(length, direction, image, psi, residual):
    """psi += length direction, whose image -A direction the residual gets."""
    for i in range(len(psi)):
        for j in range(psi.shape[1]):
            psi[i, j] += length[j] * direction[i, j]
            residual[i, j] += length[j] * image[i, j]
