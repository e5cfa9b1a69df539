"""Densities as point masses: from points to cells, and back."""

from typing import Any

import numpy as np

from ..arguments.functions import check_finite, floats
from ..arguments.types import Array
from ..errors import InputError
from . import means
from .cell_values import check_density
from .memory import AnyMesh

# The most points that a density is turned into; more are hardly meant, and would fill the memory of
# every rank.
MAX_POINTS = 10**8


def check_masses(points: Any, weights: Any, dim: int) -> tuple[Array, Array]:
    """Points (dim, n) and weights (n,), 1 / n each if None, as arrays of finite numbers;
    `InputError` for others.
    """
    points = floats(points, "points must be an array of numbers")
    if points.ndim != 2 or len(points) != dim or not points.shape[1]:
        raise InputError(
            f"points must have shape ({dim}, n) with n from 1 on, not {points.shape}; space comes "
            "first"
        )
    check_finite(points, "point")

    n = points.shape[1]
    if weights is None:
        return points, np.full(n, 1 / n)
    weights = floats(weights, "weights must be an array of numbers")
    if weights.shape != (n,):
        raise InputError(
            f"weights must be one number for each of {n} points, ({n},), not {weights.shape}"
        )
    check_finite(weights, "weight")
    return points, weights


def draw_points(mesh: AnyMesh, rho: Array, k: int) -> tuple[Array, Array]:
    """Point masses (points (dim, n), weights (n,)) of a density (n_cells,), at least k for each cell
    with mass, in the order of the cells in the file; the same on every rank.
    """
    check_density(mesh, rho, "rho")
    most = MAX_POINTS // mesh.n_cells_global
    is_count = isinstance(k, (int, np.integer)) and not isinstance(k, bool)
    mesh.ranks.check(
        is_count and 1 <= k <= most,
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
