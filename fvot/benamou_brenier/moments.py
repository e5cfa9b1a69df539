"""What means and covariances tell of two densities before anything is solved."""

import numpy as np


def gelbrich(mesh, rho0, rho1):
    """W2^2 of Gaussians with the same masses, means and covariances: a lower bound of W2^2, but on
    a torus (Gelbrich 1990).
    """
    mass = mesh.integrate(rho0)
    (mean0, root0, _) = _moments(mesh, rho0)
    (mean1, _, cov1) = _moments(mesh, rho1)
    mixed = _root(root0 @ cov1 @ root0)
    return mass * (((mean1 - mean0) ** 2).sum() + np.trace(root0 @ root0 + cov1 - 2 * mixed))


def _moments(mesh, rho):
    """Mean (dim,), covariance's square root and covariance (dim, dim)."""
    mass = mesh.integrate(rho)
    x = mesh.centroid
    mean = mesh.integrate(rho * x) / mass
    cov = (
        np.stack(
            [mesh.integrate(rho * (x[i] - mean[i]) * (x - mean[:, None])) for i in range(mesh.dim)]
        )
        / mass
    )
    return mean, _root(cov), cov


def _root(matrix):
    """The square root of a symmetric matrix that is not negative."""
    value, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(value, 0)) @ vectors.T
