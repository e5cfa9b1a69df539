"""Bounds of KL(pi | P), the least relative entropy of all path measures with the given densities.

Potentials u_k > 0 of any origin, with the mass M of the densities, bound it from below:

    KL >= sum_k <rho_k, log u_k> + M - (mass of the path measure of u)

A path measure with the right densities bounds it from above. All potentials are scaled by
min(1, rho_k / marginal_k), which leaves a part without the mass d, delta = d / M; what is missing,
e_k, is coupled independently. By convexity

    KL <= sum_k <marginal'_k, log u'_k> - (M - d) log(1 - delta)
          + sum_k H(e_k) - m d log d - d log delta - sum_k <e_(k-1) e_k / d, log P_k>

and P_k(x, y) >= |z| p(x, z) q(z, y) for each cell z: half of the steps lead to that cell, the
others from it.
"""

from __future__ import annotations

import numpy as np

from ..mesh.cell_values import integrate
from .fitting import Fitting, Paths, Potentials


def find_lower_bound(fitting: Fitting, potentials: Potentials, paths: Paths) -> float:
    """The lower bound of KL, up to round-off. Collective."""
    total = sum_potentials(fitting, potentials)
    mass = integrate(fitting.mesh, paths.marginals[-1]) + paths.died
    return total + fitting.mass - mass


def sum_potentials(fitting: Fitting, potentials: Potentials) -> float:
    """sum_k <rho_k, log u_k>, and that of the cemetery. Collective."""
    u, at_cemetery = potentials
    total = sum(_weigh_log(fitting.mesh, rho, factor) for rho, factor in zip(fitting.rho, u))
    if fitting.has_deaths:
        total += fitting.lost * np.log(at_cemetery)
    return total


def find_upper_bound(fitting: Fitting, potentials: Potentials, paths: Paths) -> float:
    """The upper bound of KL, up to round-off. Collective."""
    mesh = fitting.mesh
    factors = _divide(fitting.rho, paths.marginals)
    at_cemetery = potentials.at_cemetery
    if fitting.has_deaths:
        at_cemetery *= min(1.0, fitting.lost / paths.died)
    scaled = Potentials(potentials.u * np.minimum(factors, 1.0), at_cemetery)
    part = fitting.trace(scaled)
    missing = np.maximum(fitting.rho - part.marginals, 0.0)
    missing_deaths = max(fitting.lost - part.died, 0.0) if fitting.has_deaths else 0.0

    total = sum(_weigh_log(mesh, rho, u) for rho, u in zip(part.marginals, scaled.u))
    if fitting.has_deaths:
        total += part.died * np.log(at_cemetery)
    d = integrate(mesh, missing[0])
    if d <= 0:
        return total

    M = fitting.mass
    total -= (M - d) * np.log1p(-d / M) if d < M else 0.0
    total += sum(_weigh_log(mesh, e, e) for e in missing)
    if missing_deaths > 0:
        total += missing_deaths * np.log(missing_deaths)
    total -= len(fitting.kernels) * d * np.log(d) + d * np.log(d / M)
    for k in range(len(fitting.kernels)):
        total += _weigh_paths(fitting, paths, k, missing[k], missing[k + 1], missing_deaths, d)
    return total


def _weigh_paths(fitting, paths, k, start, end, deaths, d):
    """-<e_(k-1) e_k / d, log P_k> at most: through the cell with the largest density half-way."""
    mesh = fitting.mesh
    kernel = fitting.kernels[k]
    half = len(kernel) // 2
    hub = _find_largest(mesh, paths.f[k, half] * paths.g[k, half])
    volume = mesh.ranks.sum(float(mesh.volume @ hub))

    to_hub = hub / volume
    for n in reversed(range(half)):
        to_hub = kernel.backward(n, to_hub, 0.0)
    from_hub = hub / volume
    died = 0.0
    for n in range(half, len(kernel)):
        from_hub, died_now = kernel.forward(n, from_hub)
        died += died_now

    cost = -_weigh_log(mesh, start, to_hub) - _weigh_log(mesh, end, from_hub)
    if deaths > 0:
        cost -= deaths * np.log(mesh.ranks.sum(died))
    return cost - d * np.log(volume)


def _find_largest(mesh, values):
    """1 in the cell of the largest value, 0 in all others (n_cells,). Collective."""
    largest = mesh.ranks.max(values.max(initial=-np.inf))
    own = values == largest
    number = np.where(own, mesh.cell_id[: mesh.n_cells], mesh.n_cells_global)
    first = mesh.ranks.min(number.min(initial=mesh.n_cells_global))
    return (number == first).astype(float)


def _weigh_log(mesh, rho, u):
    """sum |K| rho log u over the cells with rho > 0. Collective."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(rho > 0, rho * np.log(u), 0.0)
    return integrate(mesh, terms)


def _divide(rho, marginals):
    return np.divide(rho, marginals, out=np.zeros_like(rho), where=marginals > 0)
