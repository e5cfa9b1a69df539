"""Which cells meet at which faces, cell by cell, and gradients by least squares over the
neighbours.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..mesh.face_exchange import find_face_exchange
from ..parallel import Exchange

if TYPE_CHECKING:
    from ..mesh import Mesh

# Added to the least-squares matrix, relative to its trace: a cell with fewer neighbours than
# dimensions gets the shortest gradient.
LEAST_SQUARES_SHIFT = 1e-12

# Cells whose least-squares matrices are in memory at the same time.
CELLS_AT_ONCE = 1 << 16


class Stencil:
    """The sides of each cell: its faces, seen from inside. Cell K has the sides start[K] to
    start[K + 1].

    cell, face, neighbour (n,) : the cell, the number of the face, and the cell behind it (K itself
        at the boundary)
    sign (n,) : +1 where the face's normal leaves K, -1 where it enters
    offset, span (dim, n) : from the centroid of K to that of the face, and to that of the neighbour
        (0 at the boundary); they are made anew at every use
    """

    def __init__(self, mesh: Mesh):
        self.n_cells = mesh.n_cells
        self.n_inner = mesh.n_inner
        self._mesh = mesh

        left = np.flatnonzero(mesh.left < mesh.n_cells)
        is_right_own = (mesh.right >= 0) & (mesh.right < mesh.n_cells)
        right = np.flatnonzero(is_right_own)
        left_cell = mesh.left[left]
        right_cell = mesh.right[right]
        cell = np.concatenate([left_cell, right_cell])
        face = np.concatenate([left, right])
        order = np.argsort(cell, kind="stable")
        self.face = face[order]
        count = np.bincount(cell, minlength=mesh.n_cells)
        self.start = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)

        leaves = order < len(left)
        self.sign = np.where(leaves, 1.0, -1.0)
        left_of_face = mesh.left[self.face]
        right_of_face = mesh.right[self.face]
        behind = np.where(leaves, right_of_face, left_of_face)
        neighbour = np.where(behind < 0, cell[order], behind)
        self.neighbour = neighbour.astype(np.uint32)

    @cached_property
    def cell(self) -> IntArray:
        return np.repeat(np.arange(self.n_cells), np.diff(self.start))

    @property
    def offset(self) -> Array:
        from_right = np.flatnonzero(self.sign < 0)
        face = self.face[from_right]
        offset = np.take(self._mesh.left_offset, self.face, axis=1)
        for axis, right_offset in enumerate(self._mesh.right_offset):
            offset[axis, from_right] = right_offset[face]
        return offset

    @property
    def span(self) -> Array:
        span = np.empty((self._mesh.dim, len(self.face)))
        for axis in range(len(span)):
            apart = self._mesh.left_offset[axis] - self._mesh.right_offset[axis]
            apart[self.n_inner :] = 0
            np.multiply(apart[self.face], self.sign, out=span[axis])
        return span

    def span_points(self, points: Array) -> Array:
        """`span` between points (dim, n_cells) of the cells in place of centroids. Collective."""
        mesh = self._mesh
        shift = mesh.with_ghosts(points - mesh.centroid)
        return self.span + shift[:, self.neighbour] - shift[:, self.cell]

    def cell_sum(self, values: Array) -> Array:
        """Sums (n_cells,) over the sides of each cell of values (n,)."""
        return np.add.reduceat(values, self.start[:-1])

    def see_from_faces(self, values: Array) -> Array:
        """Values (..., n) of sides as faces see them: (2, ..., n_faces), of the cells on the left
        and on the right, those of other ranks among them; 0 outside of the boundary. Collective.
        """
        mesh = self._mesh
        n = self.n_inner
        seen = np.zeros((2, *values.shape[:-1], mesh.n_faces), values.dtype)
        is_known = np.zeros((2, mesh.n_faces), bool)
        for end, own in enumerate((self.sign > 0, self.sign < 0)):
            face = self.face[own]
            seen[end][..., face] = values[..., own]
            is_known[end, face] = True

        inner = seen[..., :n]
        is_inner_known = is_known[:, :n]
        mine = np.where(is_inner_known[0], inner[0], inner[1])
        theirs = find_face_exchange(mesh)(mine, into=np.zeros_like(mine))
        for end in range(2):
            inner[end] = np.where(is_inner_known[end], inner[end], theirs)
        return seen

    def find_opposite(self) -> tuple[IntArray, Exchange, int]:
        """(opposite, exchange, outer): for each side the side of the same face in the other cell.

        Sides of ghosts follow the n own ones, then come those of the boundary, seen from outside: n
        + len(exchange) + the number of the boundary face. The exchange fills the ghosts' entries of
        an array with the owners'.
        """
        mesh = self._mesh
        n = len(self.face)
        inner = self.n_inner
        is_left = self.sign > 0
        left_side = np.full(mesh.n_faces, -1)
        right_side = np.full(mesh.n_faces, -1)
        left_faces = self.face[is_left]
        right_faces = self.face[~is_left]
        left_side[left_faces] = np.flatnonzero(is_left)
        right_side[right_faces] = np.flatnonzero(~is_left)

        is_left_missing = left_side[:inner] < 0
        is_right_missing = right_side[:inner] < 0
        shared = np.flatnonzero(is_left_missing | is_right_missing)
        n_shared = len(shared)
        shared_left = left_side[shared]
        shared_right = right_side[shared]
        own = np.maximum(shared_left, shared_right)
        ghost = n + np.arange(n_shared)
        left_side[shared] = np.where(shared_left < 0, ghost, shared_left)
        right_side[shared] = np.where(shared_right < 0, ghost, shared_right)
        outer = n + n_shared
        right_side[inner:] = outer + np.arange(mesh.n_faces - inner)

        place = np.full(mesh.n_faces, -1)
        place[shared] = np.arange(n_shared)
        between = find_face_exchange(mesh)
        sent = {rank: own[place[faces]] for rank, faces in between.send.items()}
        received = {rank: ghost[place[faces]] for rank, faces in between.receive.items()}
        exchange = Exchange(mesh.ranks, sent, received)
        side_on_left = left_side[self.face]
        side_on_right = right_side[self.face]
        opposite = np.where(is_left, side_on_right, side_on_left)
        return opposite.astype(np.uint32), exchange, outer


@numba.njit(cache=True, error_model="numpy")
def outflow_rate(
    a: Array, b: Array, volume: Array, start: IntArray, face: IntArray, sign: Array
) -> float:
    """The largest rate at which a cell is emptied by fluxes a+ rho_left - b+ rho_right."""
    most = 0.0
    for cell in range(len(volume)):
        out = 0.0
        for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            # a, or b where the normal enters the cell
            f = face[s]
            leaving = (1 + sign[s]) * a[f] + (1 - sign[s]) * b[f]
            out += max(leaving, 0.0) / 2
        most = max(most, out / volume[cell])
    return most


def gradient_weights(stencil: Stencil, span: Array | None = None) -> Array:
    """W (dim, n): the least-squares gradient of cell K is the sum of W_s (rho_L - rho_K), residuals
    weighted with 1/distance.

    A cell with fewer neighbours than dimensions gets the shortest such gradient.

    span (dim, n) : from the place of the value in K to that in L; None: between centroids
    """
    if span is None:
        span = stencil.span
    weights = np.empty_like(span)
    for first in range(0, stencil.n_cells, CELLS_AT_ONCE):
        start = stencil.start[first : first + CELLS_AT_ONCE + 1]
        sides = slice(start[0], start[-1])
        weights[:, sides] = _weigh_sides(span[:, sides], start - start[0])
    return weights


def _weigh_sides(span, start):
    """The same of some cells that follow each other, and of their sides."""
    count = np.diff(start)
    cell = np.repeat(np.arange(len(count)), count)
    dim = len(span)
    square = np.einsum("in,in->n", span, span)
    zeros = np.zeros_like(square)
    weight = np.divide(1.0, square, out=zeros, where=square > 0)
    normal = np.empty((dim, dim, len(count)))
    for i in range(dim):
        for j in range(dim):
            products = weight * span[i] * span[j]
            normal[i, j] = np.add.reduceat(products, start[:-1])

    trace = np.trace(normal)
    trace = np.where(trace > 0, trace, 1.0)  # a cell without neighbours has none
    unit = np.eye(dim)[:, :, None]
    shifted = normal + LEAST_SQUARES_SHIFT * trace * unit
    matrices = shifted.transpose(2, 0, 1)
    inverse = np.linalg.inv(matrices)
    return np.einsum("nij,jn->in", inverse[cell], weight * span)


def gradients(mesh: Mesh, stencil: Stencil, weights: Array, fields: Array) -> Array:
    """Least-squares gradients (k, dim, n_cells) of fields (k, n_cells), by the weights of
    `gradient_weights`. Collective.
    """
    local = mesh.with_ghosts(fields)
    here = local[:, stencil.cell]
    there = local[:, stencil.neighbour]
    jump = there - here
    return np.stack([[stencil.cell_sum(w * d) for w in weights] for d in jump])
