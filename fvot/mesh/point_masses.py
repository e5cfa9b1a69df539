"""Densities as point masses: from points to cells, and back."""

from typing import Any

import numpy as np

from ..arguments.functions import is_integer
from ..arguments.types import Array
from . import means
from .cell_values import check_density
from .memory import AnyMesh
from .points import check_masses, locate_points

# The most points that a density is turned into; more are hardly meant, and would fill the memory of
# every rank.
MAX_POINTS = 10**8


def deposit_masses(mesh: AnyMesh, points: Any, weights: Any = None) -> Array:
    """Cell averages (n_cells,) of point masses, each of which goes to the cell that holds its
    point; collective.
    """
    with mesh.ranks.raising_together():
        points, weights = check_masses(points, weights, mesh.dim)
    mesh.ranks.check_same_array("weights", weights)
    mesh.ranks.check_same_array("points", points)

    cell = locate_points(mesh, points)
    mine = np.flatnonzero(cell >= 0)
    return np.bincount(cell[mine], weights[mine], mesh.n_cells) / mesh.volume


def draw_points(mesh: AnyMesh, rho: Array, k: int) -> tuple[Array, Array]:
    """Point masses (points (dim, n), weights (n,)) of a density (n_cells,), the same on every rank.

    Cells with mass have at least k each, in the order of the file.
    """
    check_density(mesh, rho, "rho")
    most = MAX_POINTS // mesh.n_cells_global
    mesh.ranks.check(
        is_integer(k) and 1 <= k <= most,
        f"k must be a number of points for each cell, from 1 to {most}, not {k!r}",
    )
    mesh.ranks.check_same("k", k)

    x, volume, cell = means.divide_cells(mesh, k)
    mass = volume * np.asarray(rho, float)[cell]
    has_mass = np.flatnonzero(mass > 0)

    points = mesh.ranks.all_gather(x[:, has_mass])
    weights = mesh.ranks.all_gather(mass[has_mass])
    number = mesh.ranks.all_gather(mesh.cell_id[cell[has_mass]])
    order = np.argsort(number, kind="stable")
    return points[:, order], weights[order]
