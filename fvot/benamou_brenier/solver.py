"""A first driver: the iteration on ever finer Cartesian meshes of one rank, from the coarsest to the given one."""
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..mesh import Mesh
from .certificate import EPSILONS, Lower, Upper, lower_bound, upper_bound
from .operators import Discretisation
from .poisson import CosinePoisson
from .projection import State

RAMP = 100              # the penalty at the end over that at the beginning
FEWEST = 8, 4           # cells along an axis and slabs of the coarsest level, at least
FIRST = 3               # the coarsest level has so many times more iterations


class Bounds(NamedTuple):
    """What `solve` has found: lower.cost <= W2^2 <= upper.cost."""

    lower: Lower
    upper: Upper


def solve(mesh, rho0, rho1, n_steps, n_iterations, *, dtype=np.float64, epsilons=None, alpha=1.8):
    """Both bounds for densities rho0, rho1 (n_cells,) of equal mass on a Cartesian mesh, after n_iterations on each level.

    dtype : of the state; epsilons : shares of the background for the upper bound, None for what the coarser level likes best
    """
    levels = _levels(mesh, rho0, rho1, n_steps)
    mass = mesh.integrate(rho0)
    r = max((_concentration(mesh, rho0) + _concentration(mesh, rho1)) / 20, mass / mesh.integrate(1.0))
    square, phi, rho = max(gelbrich(mesh, rho0, rho1), 1e-300), None, None
    for level, (mesh, rho0, rho1, n_steps) in enumerate(levels):
        problem, theta = Discretisation(mesh, n_steps), np.sqrt(mass / square)
        state = State(problem, theta, dtype)
        if phi is not None:
            grid = tuple(mesh.block.grid)
            state.start(_finer(phi, grid, True), np.maximum(_finer(rho, grid, False), 0), r)
        phi, rho = iterate(problem, state, CosinePoisson(problem, theta, dtype), problem.source(rho0, rho1), r,
                           n_iterations * (FIRST if level == 0 else 1), alpha)
        square = max(2 * (phi * problem.source(rho0, rho1)).sum(), square / 4)
        if epsilons is None and level == len(levels) - 2:
            epsilons = upper_bound(problem, rho, rho0, rho1).eps,
    epsilons = epsilons or EPSILONS
    return Bounds(lower_bound(problem, phi, rho0, rho1), upper_bound(problem, rho, rho0, rho1, epsilons=epsilons))


def iterate(problem, state, poisson, source, r, n_iterations, alpha=1.8):
    """(phi, rho) after n_iterations with penalties from r to RAMP r."""
    kappa = RAMP**(1 / max(n_iterations - 1, 1))
    rhs = state.right_hand_side()
    for k in range(n_iterations):
        rhs[:, [0, -1]] += source[:, [0, -1]] / r
        phi = poisson(rhs)
        grow = kappa if k < n_iterations - 1 else 1.0
        rhs, r = state.sweep(phi, alpha, grow), r * grow
    return phi.astype(float), r * state.l.astype(float)


def gelbrich(mesh, rho0, rho1):
    """W2^2 of the Gaussians with the same means and covariances, times the mass: a lower bound of W2^2, but on a torus."""
    mass, (mean0, root0, cov0), (mean1, _, cov1) = mesh.integrate(rho0), _moments(mesh, rho0), _moments(mesh, rho1)
    mixed = scipy.linalg.sqrtm(root0 @ cov1 @ root0).real
    return mass * (((mean1 - mean0)**2).sum() + np.trace(cov0 + cov1 - 2 * mixed))


def _moments(mesh, rho):
    mass, x = mesh.integrate(rho), mesh.centroid
    mean = mesh.integrate(rho * x) / mass
    cov = np.stack([mesh.integrate(rho * (x[i] - mean[i]) * (x - mean[:, None])) for i in range(mesh.dim)]) / mass
    return mean, scipy.linalg.sqrtm(cov).real, cov


def _concentration(mesh, rho):
    """int rho^2 / int rho."""
    return mesh.integrate(rho**2) / mesh.integrate(rho)


def _levels(mesh, rho0, rho1, n_steps):
    """[(mesh, rho0, rho1, n_steps)], the coarsest first: halved while all numbers are even and large enough."""
    levels = [(mesh, rho0, rho1, n_steps)]
    while True:
        mesh, rho0, rho1, n_steps = levels[0]
        shape = tuple(mesh.block.grid)
        if any(n % 2 or n < 2 * FEWEST[0] for n in shape) or n_steps % 2 or n_steps < 2 * FEWEST[1]:
            return levels
        make = {1: lambda a, b, n, **options: Mesh.interval(a[0], b[0], n[0], **options), 2: Mesh.rectangle, 3: Mesh.box}
        lower, upper = mesh._bounds
        coarse = make[mesh.dim](lower, upper, tuple(n // 2 for n in shape), periodic=mesh.block.periodic, comm=mesh.ranks.comm)
        pairs = [n for size in shape for n in (size // 2, 2)]
        means = [rho.reshape(pairs).mean(axis=tuple(range(1, 2 * mesh.dim, 2))).ravel() for rho in (rho0, rho1)]
        levels.insert(0, (coarse, *means, n_steps // 2))


def _finer(u, grid, nodes):
    """Values (n_cells, k) on the mesh of shape *grid*, linear in space and time; nodes: k time nodes, else k slabs."""
    u = u.reshape(*(n // 2 for n in grid), -1)
    for axis in range(len(grid)):
        u = _centred(u, axis)
    if not nodes:
        return _centred(u, len(grid)).reshape(int(np.prod(grid)), -1)
    fine = np.empty(u.shape[:-1] + (2 * u.shape[-1] - 1,))
    fine[..., ::2], fine[..., 1::2] = u, (u[..., :-1] + u[..., 1:]) / 2
    return fine.reshape(int(np.prod(grid)), -1)


def _centred(u, axis):
    """Twice as many cells along the axis: 3/4 of the nearer one and 1/4 of the other neighbour, constant at the ends."""
    u = np.moveaxis(u, axis, 0)
    padded = np.concatenate([u[:1], u, u[-1:]])
    fine = np.empty((2 * len(u), *u.shape[1:]))
    fine[::2], fine[1::2] = (3 * u + padded[:-2]) / 4, (3 * u + padded[2:]) / 4
    return np.moveaxis(fine, 0, axis)
