"""What means and covariances tell of two densities before anything is solved."""

from __future__ import annotations

import numpy as np

from ..mesh.cell_values import integrate
from .ends import Ends


def compute_gelbrich_bound(ends: Ends) -> float:
    """W2^2 of Gaussians with the masses, means and covariances of both ends.

    It is a lower bound of W2^2, except on a torus (Gelbrich 1990).
    """
    mean0, root0, _ = _compute_moments(ends.mesh, ends.rho0)
    mean1, _, cov1 = _compute_moments(ends.mesh, ends.rho1)
    mixed = _compute_root(root0 @ cov1 @ root0)

    shift = ((mean1 - mean0) ** 2).sum()
    spread = np.trace(root0 @ root0 + cov1 - 2 * mixed)
    return ends.mass * (shift + spread)


def _compute_moments(mesh, rho):
    """Mean (dim,), square root of the covariance, and covariance (dim, dim)."""
    mass = integrate(mesh, rho)
    x = mesh.centroid
    mean = integrate(mesh, rho * x) / mass
    offset = x - mean[:, None]
    rows = []
    for component in offset:
        row = integrate(mesh, rho * component * offset)
        rows.append(row)

    cov = np.stack(rows) / mass
    return mean, _compute_root(cov), cov


def _compute_root(matrix):
    """The square root of a positive semidefinite matrix."""
    value, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(value, 0)) @ vectors.T
