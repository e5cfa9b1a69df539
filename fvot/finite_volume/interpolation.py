"""Values between the cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.types import Array
from ..mesh.points import remove_periods
from .stencil import Stencil, gradient_weights, gradients


def interpolate(mesh: Any, u: Array, points: Array) -> Array:
    """Cell averages u (n_times, n_cells) at points (dim, n): (n_times, n), the same on every rank.

    u is linear in each cell around its centroid, by least squares over its neighbours, and stays
    between the smallest and the largest cell average of its time. Collective; `InputError` for
    points outside the mesh.
    """
    cell = mesh.locate(points)
    own = np.flatnonzero(cell >= 0)
    k = cell[own]
    offset = remove_periods(mesh, points[:, own] - mesh.centroid[:, k])
    stencil = Stencil(mesh)
    weights = gradient_weights(stencil)

    values = np.zeros((len(u), points.shape[1]))
    for i, now in enumerate(u):
        slopes = gradients(mesh, stencil, weights, now[None])[0]
        values[i, own] = now[k] + (slopes[:, k] * offset).sum(axis=0)

    values = mesh.ranks.sum(values)
    lowest = mesh.ranks.min(u.min(axis=1, initial=np.inf))
    highest = mesh.ranks.max(u.max(axis=1, initial=-np.inf))
    return np.clip(values, lowest[:, None], highest[:, None])
