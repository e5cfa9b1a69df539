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


class Stencil:
    """The sides of each cell: its faces, seen from inside. Cell K has the sides start[K] to
    start[K + 1].

    cell, face, neighbour (n,) : the cell, the number of the face, and the cell behind it (K itself
        at the boundary)
    sign (n,) : +1 where the face's normal leaves K, -1 where it enters
    offset, span (dim, n) : from the centroid of K to that of the face, and to that of the neighbour
        (0 at the boundary)
    """

    def __init__(self, mesh: Mesh):
        self.n_cells = mesh.n_cells
        self.n_inner = mesh.n_inner
        self._mesh = mesh

        left = np.flatnonzero(mesh.left < mesh.n_cells)
        right = np.flatnonzero((mesh.right >= 0) & (mesh.right < mesh.n_cells))
        cell = np.concatenate([mesh.left[left], mesh.right[right]])
        face = np.concatenate([left, right])
        order = np.argsort(cell, kind="stable")
        self.cell = cell[order]
        self.face = face[order]
        self.start = np.searchsorted(self.cell, np.arange(mesh.n_cells + 1)).astype(np.int32)

        leaves = order < len(left)
        self.sign = np.where(leaves, 1.0, -1.0)
        behind = np.where(leaves, mesh.right[self.face], mesh.left[self.face])
        self.neighbour = np.where(behind < 0, self.cell, behind).astype(np.uint32)

    @cached_property
    def offset(self) -> Array:
        return np.where(
            self.sign > 0,
            self._mesh.left_offset[:, self.face],
            self._mesh.right_offset[:, self.face],
        )

    @cached_property
    def span(self) -> Array:
        beyond = np.where(
            self.sign > 0,
            self._mesh.right_offset[:, self.face],
            self._mesh.left_offset[:, self.face],
        )
        return np.where(self.face < self.n_inner, self.offset - beyond, 0.0)

    def cell_sum(self, values: Array) -> Array:
        """Sums (n_cells,) over the sides of each cell of values (n,)."""
        return np.add.reduceat(values, self.start[:-1])

    def opposite(self, mesh: Mesh) -> tuple[IntArray, Exchange, int]:
        """(opposite, exchange, outer): for each side the side of the same face in the other cell.

        Sides of ghosts follow the n own ones, then come those of the boundary, seen from outside: n
        + len(exchange) + the number of the boundary face. The exchange fills the ghosts' entries of
        an array with the owners'.
        """
        n = len(self.face)
        inner = self.n_inner
        is_left = self.sign > 0
        left_side = np.full(mesh.n_faces, -1)
        right_side = np.full(mesh.n_faces, -1)
        left_side[self.face[is_left]] = np.flatnonzero(is_left)
        right_side[self.face[~is_left]] = np.flatnonzero(~is_left)

        shared = np.flatnonzero((left_side[:inner] < 0) | (right_side[:inner] < 0))
        own = np.maximum(left_side[shared], right_side[shared])
        ghost = n + np.arange(len(shared))
        left_side[shared] = np.where(left_side[shared] < 0, ghost, left_side[shared])
        right_side[shared] = np.where(right_side[shared] < 0, ghost, right_side[shared])
        outer = n + len(shared)
        right_side[inner:] = outer + np.arange(mesh.n_faces - inner)

        place = np.full(mesh.n_faces, -1)
        place[shared] = np.arange(len(shared))
        lists = find_face_exchange(mesh).send
        exchange = Exchange(
            mesh.ranks,
            {q: own[place[faces]] for q, faces in lists.items()},
            {q: ghost[place[faces]] for q, faces in lists.items()},
        )
        opposite = np.where(is_left, right_side[self.face], left_side[self.face])
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
            out += max((1 + sign[s]) * a[face[s]] + (1 - sign[s]) * b[face[s]], 0.0) / 2
        most = max(most, out / volume[cell])
    return most


def gradient_weights(stencil: Stencil) -> Array:
    """W (dim, n): the least-squares gradient of cell K is the sum of W_s (rho_L - rho_K), residuals
    weighted with 1/distance.

    A cell with fewer neighbours than dimensions gets the shortest such gradient.
    """
    span = stencil.span
    dim = len(span)
    square = np.einsum("in,in->n", span, span)
    weight = np.divide(1.0, square, out=np.zeros_like(square), where=square > 0)
    axes = range(dim)
    normal = np.stack([[stencil.cell_sum(weight * span[i] * span[j]) for j in axes] for i in axes])

    trace = np.maximum(np.trace(normal), 1e-300)  # a cell without neighbours has none
    shifted = normal + LEAST_SQUARES_SHIFT * trace * np.eye(dim)[:, :, None]
    inverse = np.linalg.inv(shifted.transpose(2, 0, 1))
    return np.einsum("nij,jn->in", inverse[stencil.cell], weight * span)


def gradients(mesh: Mesh, stencil: Stencil, weights: Array, fields: Array) -> Array:
    """Least-squares gradients (k, dim, n_cells) of fields (k, n_cells), by the weights of
    `gradient_weights`. Collective.
    """
    local = mesh.with_ghosts(fields)
    jump = local[:, stencil.neighbour] - local[:, stencil.cell]
    return np.stack([[stencil.cell_sum(w * d) for w in weights] for d in jump])
