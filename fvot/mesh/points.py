"""Points and the mesh they lie in: the cell that holds each, the nearest point inside, and steps
across periods.
"""

from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

from ..arguments.functions import as_floats, check_finite
from ..arguments.types import Array, BoolArray, IntArray
from ..errors import InputError
from . import means, point_location
from .memory import AnyMesh, kept_with_mesh

# Lengths and volumes agree up to round-off if their relative difference is below this.
RELATIVE_SLACK = 1e-9


def check_points(mesh: AnyMesh, points: Any) -> Array:
    """Points (dim, n) as an array of finite numbers; `InputError` on every rank for others, and
    where ranks have different ones.
    """
    with mesh.ranks.raising_together():
        points, _ = check_masses(points, None, mesh.dim)
    mesh.ranks.check_same_array("points", points)
    return points


def check_masses(points: Any, weights: Any, dim: int) -> tuple[Array, Array]:
    """Points (dim, n) and weights (n,), 1 / n each if None, as arrays of finite numbers;
    `InputError` for others.
    """
    points = as_floats(points, "points must be an array of numbers")
    if points.ndim != 2 or len(points) != dim or not points.shape[1]:
        raise InputError(
            f"points must have shape ({dim}, n) with n from 1 on, not {points.shape}; space comes "
            "first"
        )
    check_finite(points, "point")

    n = points.shape[1]
    if weights is None:
        return points, np.full(n, 1 / n)
    weights = as_floats(weights, "weights must be an array of numbers")
    if weights.shape != (n,):
        raise InputError(
            f"weights must be one number for each of {n} points, ({n},), not {weights.shape}"
        )
    check_finite(weights, "weight")
    return points, weights


def locate_points(mesh: AnyMesh, points: Array) -> IntArray:
    """The numbers (n,) of this rank's cells that hold checked points, -1 for those of another rank.

    `InputError` for points outside the mesh.
    """
    cell, inside = find_cells(mesh, points)
    outside = np.flatnonzero(~inside)
    if len(outside):
        lower, upper = mesh.bounds
        raise InputError(
            f"point {outside[0]} at {points[:, outside[0]]} is outside the mesh, which lies "
            f"between {lower} and {upper} ({len(outside)} of {points.shape[1]} points are "
            "outside): leave them out, or make the mesh larger"
        )
    return cell


def find_cells(mesh: AnyMesh, points: Array) -> tuple[IntArray, BoolArray]:
    """(cell, inside) of points (dim, n), the same on every rank; collective.

    cell (n,) : the number of this rank's cell that holds the point; -1 for points of other ranks
        and for those outside the mesh
    inside (n,) : whether the point is inside the mesh
    """
    lower, upper = mesh.bounds
    slack = point_location.MAX_OUTSIDE * (upper - lower).max()
    if mesh.block is not None:
        points = point_location.wrap(points, lower, upper, mesh.block.periodic)
        above_lower = points >= lower[:, None] - slack
        below_upper = points <= upper[:, None] + slack
        inside = (above_lower & below_upper).all(axis=0)
        return np.where(inside, point_location.find_in_block(points, mesh.block, lower), -1), inside

    cell, distance = _find_tree(mesh).find(points, slack)
    least = mesh.ranks.min(distance)

    # Of cells that hold the point equally well, the one of the smallest number in the file has it.
    is_candidate = (distance == least) & (cell >= 0)
    number = np.where(is_candidate, mesh.cell_id[cell], mesh.n_cells_global)
    is_mine = (number == mesh.ranks.min(number)) & (cell >= 0)
    return np.where(is_mine, cell, -1), np.isfinite(least)


@kept_with_mesh
def _find_tree(mesh):
    return point_location.build_tree(means.find_pieces(mesh), mesh.cell_id[: mesh.n_cells])


def find_nearest(mesh: AnyMesh, points: Array) -> Array:
    """The point (dim, n) of the mesh nearest to each of checked points (dim, n)."""
    outside = ~find_cells(mesh, points)[1]
    nearest = np.array(points)
    if not outside.any():
        return nearest
    beyond = points[:, outside]
    if mesh.block is None:
        nearest[:, outside] = mesh.walls.find_nearest(beyond)
    else:
        # A box, which ends along the axes that are not periodic.
        lower, upper = mesh.bounds[:, :, None]
        is_periodic = np.array(mesh.block.periodic)[:, None]
        nearest[:, outside] = np.where(is_periodic, beyond, np.clip(beyond, lower, upper))
    return nearest


def remove_periods(mesh: AnyMesh, step: Array) -> Array:
    """Steps (dim, n) without the whole periods that they contain along periodic axes."""
    if mesh.block is None or not any(mesh.block.periodic):
        return step
    period = np.diff(mesh.bounds, axis=0)[0][:, None]
    is_periodic = np.array(mesh.block.periodic)[:, None]
    return step - np.where(is_periodic, period * np.round(step / period), 0.0)


@kept_with_mesh
def is_convex(mesh: AnyMesh) -> bool:
    """Whether straight lines between points of the mesh stay inside; a torus counts as convex.
    Collective at the first call.
    """
    if mesh.block is not None:
        return True

    corners = np.unique(mesh.vertices[:, mesh.n_inner :])
    ends = mesh.ranks.all_gather(mesh.points[:, corners])
    measure = mesh.ranks.sum(mesh.flat_volume.sum())
    if mesh.dim == 1:
        return bool(np.ptp(ends[0]) <= measure * (1 + RELATIVE_SLACK))

    # A mesh that fills its convex hull may still have walls without thickness inside.
    hull = ConvexHull(ends.T)
    wall_area = mesh.ranks.sum(mesh.flat_area[mesh.n_inner :].sum())
    fills_hull = hull.volume <= measure * (1 + RELATIVE_SLACK)
    has_no_inner_walls = wall_area <= hull.area * (1 + RELATIVE_SLACK)
    return bool(fills_hull and has_no_inner_walls)
