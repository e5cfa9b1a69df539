"""Which cell is a point in? A tree of boxes around the cells' pieces, and half-space tests in those
that remain.

The pieces are the simplices of `quadrature`, so that neither cells nor the domain need be convex.
They stand in the order of a space-filling curve (Morton 1966), and boxes of the tree hold 1, 2, 4,
... neighbours in this order (Lauterbach et al. 2009): graded meshes make no difference. In
Cartesian blocks the place of a point gives its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ..arguments.types import Array, IntArray

if TYPE_CHECKING:
    from .quadrature import Pieces

# Bits of each coordinate along the curve, by dimension.
CURVE_BITS = {1: 52, 2: 26, 3: 17}

# Numbers of points from which sorting them along the curve pays.
MIN_SORTED_POINTS = 10_000

# Relative to the domain: a point so far outside is still in it.
MAX_OUTSIDE = 1e-9


@dataclass(frozen=True)
class Tree:
    """Boxes in boxes: box 1 holds everything, box k holds boxes 2 k and 2 k + 1, the last half are
    those of pieces.
    """

    lower: Array  # (n_boxes, dim)
    upper: Array  # (n_boxes, dim)
    cell: IntArray  # (n_pieces,) the cell of each piece
    number: IntArray  # (n_cells,) the cells' global numbers
    corner: Array  # (n_pieces, n_faces, dim) a corner on each face of each piece
    normal: Array  # (n_pieces, n_faces, dim) unit normals, outwards

    def find(self, points: Array, slack: float) -> tuple[IntArray, Array]:
        """For each point (dim, n), the cell that it is least outside of, and by how far: (cell,
        distance).

        Ties go to the smallest global number; the distance is infinite for points that are *slack*
        outside of all cells.
        """
        n = points.shape[1]
        cell = np.full(n, -1)
        distance = np.full(n, np.inf)
        if not len(self.cell) or not points.size:
            return cell, distance

        order = np.arange(n)
        if n > MIN_SORTED_POINTS:  # near ones together
            place = find_curve_places(points, points.min(axis=1), points.max(axis=1))
            order = np.argsort(place, kind="stable")
        _fill_cells(
            np.ascontiguousarray(points.T),
            order,
            slack,
            self.lower,
            self.upper,
            self.cell,
            self.number,
            self.corner,
            self.normal,
            cell,
            distance,
        )
        return cell, distance


def wrap(points: Array, lower: Array, upper: Array, periodic: Sequence[bool]) -> Array:
    """Points (dim, n) brought between the corners of a box along its periodic axes."""
    period = np.where(periodic, upper - lower, np.inf)[:, None]
    lower = lower[:, None]
    return np.where(np.isinf(period), points, lower + (points - lower) % period)


def find_in_block(points: Array, block: Any, lower: Array) -> IntArray:
    """Numbers in a Cartesian block of the cells that hold points (dim, n); -1 beyond the block."""
    first = np.array(block.first)[:, None]
    shape = np.array(block.shape)[:, None]
    last = np.array(block.grid)[:, None] - 1
    place = (points - lower[:, None]) / block.spacing[:, None]
    index = np.clip(np.floor(place).astype(np.int64), 0, last) - first
    is_inside = ((index >= 0) & (index < shape)).all(axis=0)
    cell = np.full(points.shape[1], -1)
    cell[is_inside] = np.ravel_multi_index(tuple(index[:, is_inside]), block.shape)
    return cell


def build_tree(pieces: list[Pieces], number: IntArray) -> Tree:
    """The `Tree` of the simplices of cells with these global numbers (n_cells,)."""
    cell = np.concatenate([group.cell for group in pieces])
    boxes, faces = zip(*[_describe_simplices(group) for group in pieces])
    low, high = (np.concatenate(parts) for parts in zip(*boxes))
    corner, normal = (np.concatenate(parts) for parts in zip(*faces))
    place = find_curve_places((low + high).T / 2, low.min(axis=0), high.max(axis=0))
    order = np.argsort(place, kind="stable")
    lower = nest_boxes(low[order], np.inf, np.minimum)
    upper = nest_boxes(high[order], -np.inf, np.maximum)
    return Tree(lower, upper, cell[order], number, corner[order], normal[order])


def find_curve_places(points: Array, lower: Array, upper: Array) -> IntArray:
    """Places (n,) of points (dim, n) on the Z-shaped curve: the bits of their coordinates,
    interleaved.
    """
    dim = len(points)
    n_bits = CURVE_BITS[dim]
    extent = np.maximum(upper - lower, 1e-300)[:, None]
    part = np.clip((points - lower[:, None]) / extent, 0, 1)
    lattice = (part * (2**n_bits - 1)).astype(np.int64)
    place = np.zeros(points.shape[1], np.int64)
    for bit in range(n_bits):
        for axis in range(dim):
            place |= ((lattice[axis] >> bit) & 1) << (bit * dim + axis)
    return place


def nest_boxes(leaves: Array, empty: float, join: np.ufunc) -> Array:
    """The lower (or upper) corners of all boxes of the tree: (2 n, dim), n a power of two."""
    n = 1 << max(len(leaves) - 1, 0).bit_length()
    boxes = np.full((2 * n, leaves.shape[1]), empty)
    boxes[n : n + len(leaves)] = leaves
    while n > 1:
        even = boxes[n : 2 * n : 2]
        odd = boxes[n + 1 : 2 * n : 2]
        boxes[n // 2 : n] = join(even, odd)
        n //= 2
    return boxes


def _describe_simplices(pieces):
    """((lower, upper) of each simplex, (a corner on each face, its outer normal)); the first axis
    counts simplices.
    """
    origin = pieces.origin[:, None]
    corners = np.concatenate([origin, origin + pieces.edges], axis=1).transpose(2, 1, 0)
    gradient = np.linalg.inv(pieces.edges.transpose(2, 0, 1))  # (n, corner but the first, dim)
    # away from each corner
    outward = np.concatenate([gradient.sum(axis=1, keepdims=True), -gradient], axis=1)
    normal = outward / np.linalg.norm(outward, axis=2, keepdims=True)
    box = (corners.min(axis=1), corners.max(axis=1))
    return box, (np.roll(corners, -1, axis=1), normal)


@numba.njit(cache=True)
def _fill_cells(
    points, order, slack, lower, upper, cell, number, corner, normal, nearest, distance
):
    """Fill the cell (n,) that each point is least outside of, and by how far (n,)."""
    n_leaves = len(lower) // 2
    dim = points.shape[1]
    stack = np.empty(128, np.int64)
    for point in order:
        x = points[point]
        stack[0] = 1
        height = 1
        while height > 0:
            height -= 1
            box = stack[height]
            inside = True
            for axis in range(dim):
                if x[axis] < lower[box, axis] - slack or x[axis] > upper[box, axis] + slack:
                    inside = False
                    break
            if not inside:
                continue
            if box < n_leaves:
                stack[height] = 2 * box
                stack[height + 1] = 2 * box + 1
                height += 2
                continue

            piece = box - n_leaves
            outside = 0.0
            for face in range(corner.shape[1]):
                beyond = 0.0
                for axis in range(dim):
                    beyond += (x[axis] - corner[piece, face, axis]) * normal[piece, face, axis]
                outside = max(outside, beyond)
            if outside > slack:
                continue

            new = cell[piece]
            old = nearest[point]
            if outside < distance[point] or (
                outside == distance[point] and number[new] < number[old]
            ):
                nearest[point] = new
                distance[point] = outside
