"""Radial coordinates: the cells of an interval of radii r are rings or shells, those of a rectangle
of (r, z) are rings.

Points, normals and distances are those of the plane of r and z. Volumes and areas carry the factor
2 pi r ("cylindrical", for each unit of length along the axis on intervals) or 4 pi r^2
("spherical"), and the centroids of cells and faces are those of their volumes and areas. Cell
points stay in the middle: on equal cells the differences of two-point fluxes are exact for r^2 in
cylindrical coordinates.

Faces at r = 0 have no area, and belong to no part of the boundary: nothing crosses them.
"""

from dataclasses import replace
from typing import Any, get_args

import numpy as np

from ..arguments.types import Array, Coordinates
from ..errors import InputError
from ..parallel import Ranks
from .memory import AnyMesh
from .quality import Quality

# The power of r in the measure of the circle or sphere of radius r, and its factor.
POWER = {"cartesian": 0, "cylindrical": 1, "spherical": 2}
FACTOR = {0: 1.0, 1: 2 * np.pi, 2: 4 * np.pi}


def check_coordinates(coordinates: Any, dim: int, periodic: Any = False) -> None:
    """`InputError` unless boxes of that dimension can have these coordinates."""
    if not isinstance(coordinates, str) or coordinates not in get_args(Coordinates):
        raise InputError(
            "coordinates must be 'cartesian', 'cylindrical' or 'spherical', not "
            f"{coordinates!r:.60}"
        )
    if coordinates == "spherical" and dim > 1:
        raise InputError(
            "coordinates='spherical' is for intervals of the radius: a rectangle of radius and "
            "angle is not flat; take coordinates='cylindrical', with (r, z)"
        )
    if coordinates != "cartesian" and np.ravel(periodic)[:1].any():
        raise InputError(
            f"a radius is not periodic: with coordinates={coordinates!r}, periodic= is for the "
            "axis of z alone, (False, True)"
        )


def refuse_radial(mesh: AnyMesh, what: str, remedy: str) -> None:
    """`InputError` on a mesh in radial coordinates, on which *what* is not right."""
    if mesh.coordinates != "cartesian":
        raise InputError(f"a mesh in {mesh.coordinates} coordinates has no {what}: {remedy}")


def weigh(ranks: Ranks, part: dict, meta: dict, coordinates: Coordinates) -> tuple[dict, dict]:
    """(part, meta) as `Mesh` takes them, in these coordinates. Collective.

    `InputError` for radii below 0.
    """
    power = POWER[coordinates]
    if power == 0:
        return part, meta
    least = ranks.min(part["points"][0].min())
    ranks.check(
        least >= 0, f"coordinates={coordinates!r} have radii r of at least 0, not {least:.6g}"
    )
    part = part | _weigh_cells(part, power) | _weigh_faces(part, power)
    names = _drop_axis(ranks, part, meta["names"])
    quality = _describe_quality(ranks, part["volume"], meta["quality"])
    return part, meta | dict(names=names, quality=quality)


def flat_volumes(mesh: AnyMesh) -> Array:
    """Lengths or areas (n_cells,) of the cells in the plane of their points, without weights."""
    if mesh.coordinates == "cartesian":
        return mesh.volume
    corners = mesh.points[:, mesh.corners].reshape(mesh.dim, mesh.n_cells, -1)
    return np.ptp(corners, axis=2).prod(axis=0)


def flat_areas(mesh: AnyMesh) -> Array:
    """Lengths (n_faces,) of the faces in the plane of their points, without weights; 1 in 1D."""
    if mesh.coordinates == "cartesian":
        return mesh.area
    if mesh.dim == 1:
        return np.ones(mesh.n_faces)
    ends = mesh.points[:, mesh.vertices]
    return np.ptp(ends, axis=1).sum(axis=0)


def find_axis_edges(mesh: AnyMesh) -> Array:
    """Points (2, n): the ends of the edges of this rank's cells of (r, z) at r = 0."""
    corners = mesh.corners.reshape(mesh.n_cells, -1)
    is_on_axis = mesh.points[0, corners] == 0
    touches = is_on_axis.sum(axis=1) == 2
    return corners[touches][is_on_axis[touches]].reshape(-1, 2).T


# ---- the parts of a mesh -------------------------------------------------------------------------


def _compute_mean_measure(middle, half, power):
    """The mean of 2 pi r, or 4 pi r^2, between middle - half and middle + half."""
    square = middle**2 + half**2 / 3
    return FACTOR[power] * (middle if power == 1 else square)


def _compute_shift(middle, half, power):
    """How far the centroid of a ring or shell lies outside of its middle."""
    third = half**2 / 3
    if power == 1:
        top, bottom = third, middle
    else:
        top, bottom = 2 * middle * third, middle**2 + third
    return np.divide(top, bottom, out=np.zeros_like(middle), where=bottom > 0)


def _find_middles(radius):
    """(middle, half) of the ranges of radii (n_corners, n)."""
    low = radius.min(axis=0)
    high = radius.max(axis=0)
    return (low + high) / 2, (high - low) / 2


def _weigh_cells(part, power):
    corners = part["corners"].reshape(len(part["kind"]), -1)
    middle, half = _find_middles(part["points"][0, corners.T])
    centroid = part["centroid"].copy()
    centroid[0] += _compute_shift(middle, half, power)
    volume = part["volume"] * _compute_mean_measure(middle, half, power)
    return dict(volume=volume, centroid=centroid)


def _weigh_faces(part, power):
    middle, half = _find_middles(part["points"][0, part["vertices"]])
    center = part["face_center"].copy()
    center[0] = middle + _compute_shift(middle, half, power)
    weighed = dict(
        area=part["area"] * _compute_mean_measure(middle, half, power), face_center=center
    )

    # Across a circle the radii of the cell are those beside it, along it they are its own.
    n_inner = part["boundary_ends"][1]
    is_across = half == 0
    for name, n in (("left_offset", len(middle)), ("right_offset", n_inner)):
        offset = part[name].copy()
        step = offset[0, :n]
        cell_middle = middle[:n] - step
        cell_half = np.where(is_across[:n], np.abs(step), half[:n])
        shift = _compute_shift(cell_middle, cell_half, power)
        offset[0, :n] = center[0, :n] - cell_middle - shift
        weighed[name] = offset
    return weighed


def _drop_axis(ranks, part, names):
    """The names of boundary faces, {name: numbers of sets}, without those at r = 0."""
    ends = part["boundary_ends"][1:]
    own_largest = [part["area"][a:b].max(initial=-1.0) for a, b in zip(ends[:-1], ends[1:])]
    largest = ranks.max(np.array(own_largest))
    return {name: sets for name, sets in names.items() if max(largest[k] for k in sets) != 0}


def _describe_quality(ranks, volume, quality: Quality) -> Quality:
    least = ranks.min(volume.min(initial=np.inf))
    most = ranks.max(volume.max(initial=0.0))
    mean = ranks.sum(volume.sum()) / quality.n_cells
    volumes = (float(least), float(mean), float(most))
    return replace(quality, volume=volumes, is_radial=True)
