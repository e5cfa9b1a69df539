"""Bounds of the discrete W2^2 that hold to round-off, from any phi and from any rho >= 0.

Lower: v = a + |b|^2 / 2 of any phi is made <= 0 by shifting phi in time by its largest value in
each slab,

    phi^n -= tau sum_{j<n} max_P v_P^j,      and then 2 L(phi) <= W2^2, by weak duality

Upper: rho is given the right mass in each slab and mixed with a background rho_b > 0,

    rho <- (1 - eps) rho + eps rho_b,   rho_b(t) = (1 - t)^2 rho0 + t^2 rho1 + 2 t (1 - t) M /
    |Omega|

For each node the best flux of that rho is -M_s / d_s^2 (psi_L - psi_K), with psi from a Laplace
equation. What a truncated solve leaves of the continuity equation goes along a spanning tree of
largest mobility, where it costs least; so every tolerance gives a bound W2^2 <= 2 sum_n tau_n sum_s
d_s^2 Phi_s^2 / (2 M_s), and its error is quadratic in that of rho.

Both bounds hold for each connected piece of the mesh, in which rho0 and rho1 must have the same
mass.
"""

from typing import NamedTuple

import numpy as np

from .best_flux import ROUND_OFF, BestFlux

EPSILONS = 1e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3
USUAL = 1e-4


class Lower(NamedTuple):
    """cost <= W2^2, and the phi (n_cells, N + 1), feasible to round-off, that shows it."""

    cost: float
    phi: np.ndarray


def lower_bound(disc, phi, rho0, rho1, terminal=None):
    """The `Lower` bound that phi (n_cells, N + 1) gives for the densities rho0, rho1 (n_cells,), or
    rho0 and a `Terminal`.
    """
    phi = np.asarray(phi, float)
    worst = np.full((disc.n_components, disc.n_steps), -np.inf)
    np.maximum.at(worst, disc.component, disc.violation(phi))
    shift = np.cumsum(np.pad(disc.tau * disc.mesh.ranks.max(worst), ((0, 0), (1, 0))), axis=1)
    phi = phi - disc.spread(shift[disc.component])
    if terminal is not None:
        return _with_terminal(disc, phi, rho0, terminal)
    work = phi[:, [0, -1]] * disc.source(rho0, rho1)[:, [0, -1]]
    cost, terms = disc.mesh.ranks.sum(np.array([work.sum(), np.abs(work).sum()]))
    cost = 2 * (cost - ROUND_OFF * terms)
    return Lower(cost, phi) if cost > 0 else Lower(0.0, np.zeros_like(phi))  # 0 is feasible, too


def _with_terminal(disc, phi, rho0, terminal):
    """2 (-int rho0 phi^0 - E*(-phi^N)), where phi may be shifted by a constant."""
    mass = disc.masses(disc.average(rho0)[:, None])[:, 0]
    c, conjugate = terminal.best_shift(disc.average(phi[:, -1]), mass)
    phi = phi + disc.spread(c[disc.component])[:, None]
    work = disc.mesh.volume * rho0 * phi[:, 0]
    work, terms = disc.mesh.ranks.sum(np.array([work.sum(), np.abs(work).sum()]))
    return Lower(2 * (-work - conjugate - ROUND_OFF * (terms + abs(conjugate))), phi)


def upper_bound(disc, rho, rho0, rho1, *, epsilons=EPSILONS, first=None, enough=-np.inf, rtol=1e-6):
    """The best `Upper` bound that rho (n_patches, N) >= 0 gives for the densities rho0, rho1
    (n_cells,).

    epsilons : increasing; tried from *first* on (None: USUAL), downwards and then upwards, as long
        as the bound gets better and is not *enough*
    rtol : relative tolerance of the linear solves; every one gives a bound

    Raises `ConvergenceError` if PETSc refuses a solve.
    """
    fluxes = BestFlux(disc, rtol)
    background = _background(disc, rho0, rho1)
    rho = with_mass(disc, rho, background)
    first = USUAL if first is None else first
    middle = epsilons.index(first) if first in epsilons else len(epsilons) // 2
    best = fluxes.bound(rho, background, rho0, rho1, epsilons[middle])
    for direction in epsilons[:middle][::-1], epsilons[middle + 1 :]:
        before = best
        for eps in direction:
            if best.cost <= enough:
                return best
            other = fluxes.bound(rho, background, rho0, rho1, eps)
            if not other.cost < best.cost:
                break
            best = other
        if best is not before:
            break
    return best


def _background(disc, rho0, rho1):
    """rho_b (n_patches, N)."""
    t = (np.arange(disc.n_steps) + 0.5) / disc.n_steps
    ends = disc.average(np.stack([rho0, rho1], axis=1))
    mass = disc.masses(ends)[:, :1]
    volume = disc.masses(np.ones((disc.n_patches, 1)))
    mean = (mass / volume)[disc.component]
    return (1 - t) ** 2 * ends[:, :1] + t**2 * ends[:, 1:] + 2 * t * (1 - t) * mean


def with_mass(disc, rho, background):
    """rho (n_patches, N) with the mass of the background in each slab and piece; the background
    itself where it has none.
    """
    rho = np.maximum(np.asarray(rho, float), 0.0)
    wanted = disc.masses(background)
    mass = disc.masses(rho)
    found = mass > 1e-100 * wanted
    factor = np.where(found, wanted, 0) / np.where(found, mass, 1)
    return rho * factor[disc.component] + background * ~found[disc.component]


# ---- conservation along spanning trees ---------------------------------------------------------------------------------
