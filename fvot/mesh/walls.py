"""The walls of a mesh as simplices (ends, segments, triangles), all on every rank.

Which point of them is nearest, and do they stand between two points?

The walls stand in the order of a space-filling curve, in boxes of 1, 2, 4, ... neighbours, like the
pieces of cells in `point_location`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from ..arguments.types import Array, BoolArray
from . import point_location


@dataclass(frozen=True)
class Walls:
    """Box 1 holds all walls, box k holds boxes 2 k and 2 k + 1, the last half are those of single
    walls.
    """

    corner: Array  # (n, dim corners, dim)
    normal: Array  # (n, dim), outwards
    lower: Array  # (n_boxes, dim)
    upper: Array  # (n_boxes, dim)

    @classmethod
    def gather(cls, mesh: Any) -> Walls:
        """All walls of a mesh; rectangles are cut into four triangles. Collective."""
        dim = mesh.dim
        own = np.arange(mesh.n_inner, mesh.n_faces)
        corner, face = _divide_faces(mesh.points, mesh.vertices[:, own])
        corner_rows = corner.reshape(dim**2, -1)
        normal_rows = mesh.normal[:, own[face]]
        own_rows = np.concatenate([corner_rows, normal_rows])
        rows = mesh.ranks.all_gather(np.ascontiguousarray(own_rows))
        same_order = np.lexsort(rows)  # on any number of ranks
        rows = rows[:, same_order]

        corner = rows[:-dim].reshape(dim, dim, -1)
        low = corner.min(axis=0)
        high = corner.max(axis=0)
        middle = (low + high) / 2
        lowest = low.min(axis=1)
        highest = high.max(axis=1)
        place = point_location.find_curve_places(middle, lowest, highest)
        order = np.argsort(place, kind="stable")

        low = low[:, order]
        high = high[:, order]
        corner = corner[:, :, order].transpose(2, 0, 1)
        normal = rows[-dim:, order].T
        return cls(
            np.ascontiguousarray(corner),
            np.ascontiguousarray(normal),
            point_location.nest_boxes(low.T, np.inf, np.minimum),
            point_location.nest_boxes(high.T, -np.inf, np.maximum),
        )

    def find_nearest(self, points: Array) -> Array:
        """The nearest point (dim, n) on the walls to each of points (dim, n)."""
        rows = np.ascontiguousarray(points.T)
        nearest = np.empty(rows.shape)
        _fill_nearest(rows, self.lower, self.upper, self.corner, nearest)
        return nearest.T

    def stand_between(self, x: Array, y: Array, eps: float) -> BoolArray:
        """Whether a wall stands between points x (3, n) and y (3, m) in space, further than eps
        from both: (n, m) bool.
        """
        is_between = np.empty((x.shape[1], y.shape[1]), bool)
        _fill_between(
            np.ascontiguousarray(x.T),
            np.ascontiguousarray(y.T),
            eps,
            self.lower,
            self.upper,
            self.corner,
            is_between,
        )
        return is_between


def _divide_faces(points, vertices):
    """(corners (dim corners, dim, n), face (n,)) of the simplices of faces with these vertices
    (width, n_faces).
    """
    corner = points[:, vertices].transpose(1, 0, 2)
    face = np.arange(vertices.shape[1])
    if len(vertices) < 4:
        return corner, face
    has_four = vertices[3] >= 0
    p = corner[:, :, has_four]
    middle = p.mean(axis=0)
    fan = []
    for i in range(4):
        following = p[(i + 1) % 4]
        fan.append(np.stack([middle, p[i], following]))

    triangles = corner[:3, :, ~has_four]
    simplices = np.concatenate([triangles, *fan], axis=2)
    face_of_fan = [face[has_four]] * 4
    return simplices, np.concatenate([face[~has_four], *face_of_fan])


# ---- the nearest point ---------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _fill_nearest(points, lower, upper, corner, nearest):
    """Fill the nearest point (n, dim) on the walls to each point (n, dim)."""
    n_leaves = len(lower) // 2
    dim = points.shape[1]
    stack = np.empty(128, np.int64)
    candidate = np.empty(dim)
    for i in range(len(points)):
        x = points[i]
        least = np.inf
        stack[0] = 1
        height = 1
        while height > 0:
            height -= 1
            box = stack[height]
            if _square_distance_to_box(x, lower[box], upper[box]) >= least:
                continue
            if box < n_leaves:
                # The nearer half is looked at first, hence stands on top.
                below = 2 * box
                left = _square_distance_to_box(x, lower[below], upper[below])
                right = _square_distance_to_box(x, lower[below + 1], upper[below + 1])
                if left < right:
                    below += 1
                stack[height] = below
                stack[height + 1] = 4 * box + 1 - below
                height += 2
                continue

            _fill_nearest_on_simplex(x, corner[box - n_leaves], candidate)
            square = 0.0
            for axis in range(dim):
                square += (candidate[axis] - x[axis]) ** 2
            if square < least:
                least = square
                nearest[i] = candidate


@numba.njit(cache=True, error_model="numpy")
def _square_distance_to_box(x, lower, upper):
    total = 0.0
    for axis in range(len(x)):
        beyond = max(lower[axis] - x[axis], x[axis] - upper[axis], 0.0)
        total += beyond * beyond
    return total


@numba.njit(cache=True, error_model="numpy")
def _fill_nearest_on_simplex(x, corner, nearest):
    """Fill the point (dim,) of a simplex that is nearest to x."""
    dim = len(x)
    if dim == 1:
        nearest[0] = corner[0, 0]
        return
    if dim == 3:
        e = corner[1] - corner[0]
        f = corner[2] - corner[0]
        d = x - corner[0]
        ee = (e * e).sum()
        ef = (e * f).sum()
        ff = (f * f).sum()
        de = (d * e).sum()
        df = (d * f).sum()
        whole = ee * ff - ef * ef
        s = (de * ff - df * ef) / whole
        t = (df * ee - de * ef) / whole
        if s >= 0 and t >= 0 and s + t <= 1:
            nearest[:] = corner[0] + s * e + t * f
            return

    least = np.inf
    for k in range(1 if dim == 2 else 3):
        a = corner[k]
        e = corner[(k + 1) % dim] - a
        s = min(max(((x - a) * e).sum() / (e * e).sum(), 0.0), 1.0)
        candidate = a + s * e
        square = ((x - candidate) ** 2).sum()
        if square < least:
            least = square
            nearest[:] = candidate


# ---- walls between two points --------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _fill_between(x, y, eps, lower, upper, corner, is_between):
    """Fill whether a wall stands between points x (n, 3) and y (m, 3), (n, m)."""
    stack = np.empty(128, np.int64)
    for i in range(len(x)):
        for j in range(len(y)):
            is_between[i, j] = _is_crossed(x[i], y[j], eps, lower, upper, corner, stack)


@numba.njit(cache=True, error_model="numpy")
def _is_crossed(p, q, eps, lower, upper, corner, stack):
    """Whether the segment from p to q meets a triangle, its edge included, further than eps from
    its ends.
    """
    n_leaves = len(lower) // 2
    d = q - p
    length = np.sqrt((d * d).sum())
    if length <= 2 * eps:
        return False

    stack[0] = 1
    height = 1
    while height > 0:
        height -= 1
        box = stack[height]
        if not _meets_box(p, d, lower[box], upper[box], eps):
            continue
        if box < n_leaves:
            stack[height] = 2 * box
            stack[height + 1] = 2 * box + 1
            height += 2
        elif _meets_triangle(p, d, length, corner[box - n_leaves], eps):
            return True
    return False


@numba.njit(cache=True, error_model="numpy")
def _meets_box(p, d, lower, upper, eps):
    """Whether the segment from p to p + d meets a box, widened by eps."""
    first = 0.0
    last = 1.0
    for axis in range(3):
        low = lower[axis] - eps - p[axis]
        high = upper[axis] + eps - p[axis]
        if low > high:  # an empty box
            return False
        if d[axis] == 0:
            if low > 0 or high < 0:
                return False
            continue

        s = low / d[axis]
        t = high / d[axis]
        first = max(first, min(s, t))
        last = min(last, max(s, t))
        if first > last:
            return False
    return True


@numba.njit(cache=True, error_model="numpy")
def _meets_triangle(p, d, length, corner, eps):
    """Moeller, Trumbore 1997; a segment along the triangle's plane does not meet it."""
    ex = corner[1, 0] - corner[0, 0]
    ey = corner[1, 1] - corner[0, 1]
    ez = corner[1, 2] - corner[0, 2]
    fx = corner[2, 0] - corner[0, 0]
    fy = corner[2, 1] - corner[0, 1]
    fz = corner[2, 2] - corner[0, 2]
    nx = ey * fz - ez * fy
    ny = ez * fx - ex * fz
    nz = ex * fy - ey * fx
    area = np.sqrt(nx * nx + ny * ny + nz * nz)
    slope = nx * d[0] + ny * d[1] + nz * d[2]
    # Over its whole length the segment moves eps away from the plane, or less.
    if abs(slope) <= eps * area:
        return False

    ax = corner[0, 0] - p[0]
    ay = corner[0, 1] - p[1]
    az = corner[0, 2] - p[2]
    place = (nx * ax + ny * ay + nz * az) / slope
    if not eps < place * length < length - eps:
        return False

    cx = ay * d[2] - az * d[1]
    cy = az * d[0] - ax * d[2]
    cz = ax * d[1] - ay * d[0]
    s = (cx * fx + cy * fy + cz * fz) / slope
    t = -(cx * ex + cy * ey + cz * ez) / slope
    length_of_sides = np.sqrt(ex * ex + ey * ey + ez * ez) + np.sqrt(fx * fx + fy * fy + fz * fz)
    room = eps * length_of_sides / area
    return s >= -room and t >= -room and s + t <= 1 + room
