"""Which cell is a point in? A tree of boxes around the cells' pieces, and half-space tests in those
that remain.

The pieces are the simplices of `quadrature`, so that neither cells nor the domain need be convex.
They stand in the order of a space-filling curve (Morton 1966), and boxes of the tree hold 1, 2, 4,
... neighbours in this order (Lauterbach et al. 2009): graded meshes make no difference. In
Cartesian blocks the place of a point is its cell.
"""

from dataclasses import dataclass

import numba
import numpy as np

BITS = {1: 52, 2: 26, 3: 17}  # of each coordinate along the curve
MANY = 10_000  # points that are worth being sorted along the curve
FAR = 1e-9  # a point that far outside, relative to the domain, is still in it


@dataclass(frozen=True)
class Tree:
    """Boxes in boxes: box 1 holds everything, box k holds boxes 2 k and 2 k + 1, the last half are
    those of pieces.
    """

    lower: np.ndarray  # (n_boxes, dim)
    upper: np.ndarray  # (n_boxes, dim)
    cell: np.ndarray  # (n_pieces,) the cell of each piece
    number: np.ndarray  # (n_cells,) the cells' global numbers
    corner: np.ndarray  # (n_pieces, n_faces, dim) a corner on each face of each piece
    normal: np.ndarray  # (n_pieces, n_faces, dim) unit normals, outwards

    def find(self, points, slack):
        """Of each point (dim, n), the cell that it is least outside of, and by how far: (cell,
        distance).

        Ties go to the smallest global number; the distance is infinite for points that are *slack*
        outside of all.
        """
        cell = np.full(points.shape[1], -1)
        distance = np.full(points.shape[1], np.inf)
        if len(self.cell) and points.size:
            order = np.arange(points.shape[1])
            if len(order) > MANY:  # near ones together
                order = np.argsort(
                    curve(points, points.min(axis=1), points.max(axis=1)), kind="stable"
                )
            _find(
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


def wrapped(points, lower, upper, periodic):
    """Points (dim, n) brought between the corners of a box along its periodic axes."""
    period = np.where(periodic, upper - lower, np.inf)[:, None]
    lower = lower[:, None]
    return np.where(np.isinf(period), points, lower + (points - lower) % period)


def in_block(points, block, lower):
    """Numbers in a Cartesian block of the cells that hold points (dim, n); -1 beyond the block."""
    index = np.floor((points - lower[:, None]) / block.spacing[:, None]).astype(np.int64)
    index = np.clip(index, 0, np.array(block.grid)[:, None] - 1) - np.array(block.first)[:, None]
    inside = ((index >= 0) & (index < np.array(block.shape)[:, None])).all(axis=0)
    cell = np.full(points.shape[1], -1)
    cell[inside] = np.ravel_multi_index(tuple(index[:, inside]), block.shape)
    return cell


def tree(pieces, number):
    """The `Tree` of the simplices (a list of `quadrature.Pieces`) of cells with these global
    numbers (n_cells,).
    """
    cell = np.concatenate([group.cell for group in pieces])
    boxes, faces = zip(*[_half_spaces(group) for group in pieces])
    low, high = np.concatenate([box[0] for box in boxes]), np.concatenate([box[1] for box in boxes])
    corner, normal = (np.concatenate(parts) for parts in zip(*faces))
    order = np.argsort(curve((low + high).T / 2, low.min(axis=0), high.max(axis=0)), kind="stable")
    lower, upper = nested(low[order], np.inf, np.minimum), nested(high[order], -np.inf, np.maximum)
    return Tree(lower, upper, cell[order], number, corner[order], normal[order])


def curve(points, lower, upper):
    """Places (n,) of points (dim, n) on the Z-shaped curve: the bits of their coordinates,
    interleaved.
    """
    dim = len(points)
    extent = np.maximum(upper - lower, 1e-300)[:, None]
    lattice = (np.clip((points - lower[:, None]) / extent, 0, 1) * (2 ** BITS[dim] - 1)).astype(
        np.int64
    )
    place = np.zeros(points.shape[1], np.int64)
    for bit in range(BITS[dim]):
        for axis in range(dim):
            place |= ((lattice[axis] >> bit) & 1) << (bit * dim + axis)
    return place


def nested(leaves, empty, join):
    """All boxes of the tree, one half (lower or upper corners) of them: (2 n, dim) with n a power
    of two.
    """
    n = 1 << max(len(leaves) - 1, 0).bit_length()
    boxes = np.full((2 * n, leaves.shape[1]), empty)
    boxes[n : n + len(leaves)] = leaves
    while n > 1:
        boxes[n // 2 : n] = join(boxes[n : 2 * n : 2], boxes[n + 1 : 2 * n : 2])
        n //= 2
    return boxes


def _half_spaces(pieces):
    """Of simplices: ((lower, upper) of each, (a corner on each face, its outer normal)), the
    simplex first.
    """
    corners = np.concatenate(
        [pieces.origin[:, None], pieces.origin[:, None] + pieces.edges], axis=1
    ).transpose(2, 1, 0)
    gradient = np.linalg.inv(pieces.edges.transpose(2, 0, 1))  # (n, corner but the first, dim)
    outward = np.concatenate(
        [gradient.sum(axis=1, keepdims=True), -gradient], axis=1
    )  # away from each corner
    normal = outward / np.linalg.norm(outward, axis=2, keepdims=True)
    return (corners.min(axis=1), corners.max(axis=1)), (np.roll(corners, -1, axis=1), normal)


@numba.njit(cache=True)
def _find(points, order, slack, lower, upper, cell, number, corner, normal, found, distance):
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
                stack[height], stack[height + 1] = 2 * box, 2 * box + 1
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
            new, old = cell[piece], found[point]
            if outside < distance[point] or (
                outside == distance[point] and number[new] < number[old]
            ):
                found[point] = new
                distance[point] = outside
