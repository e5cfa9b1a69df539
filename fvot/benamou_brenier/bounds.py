"""Bounds of the discrete W2^2 that hold to round-off, from any phi and from any rho >= 0.

Lower: v = a + |b|^2 / 2 of any phi is made <= 0 by shifting phi in time by its largest value in
each slab,

    phi^n -= tau sum_{j<n} max_P v_P^j,      and then 2 L(phi) <= W2^2, by weak duality

Upper: rho is given the right mass in each slab and mixed with a background rho_b > 0,

    rho <- (1 - eps) rho + eps rho_b
    rho_b(t) = (1 - t)^2 rho0 + t^2 rho1 + 2 t (1 - t) M / |Omega|

The cost of the best flux for that rho (see `best_flux`) is the bound; several eps are tried. Its
error is quadratic in the error of rho.

Where mass may grow, see `growth_bounds` for the lower bound; rho needs no mass for the upper one.

Both bounds hold for each connected piece of the mesh, in which rho0 and rho1 must have the same
mass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arguments.types import Array
from .best_flux import BOUND_ROUND_OFF, UpperBound
from .diamond_flux import DiamondFlux
from .diamonds import DiamondDiscretisation
from .discretisation import Discretisation
from .ends import Ends
from .growth_bounds import find_growing_bound, find_partial_bound
from .terminal import Terminal
from .time_basis import slab_middles
from .two_point import TwoPointDiscretisation
from .two_point_flux import TwoPointFlux

# The shares eps of the background that are tried.
EPSILONS = 1e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3

# The first of them, where nothing better is known.
FIRST_EPSILON = 1e-4

# Mass in a slab, relative to the right one, below which rho is replaced by the background.
SMALLEST_MASS_FRACTION = 1e-100


class LowerBound(NamedTuple):
    """cost <= W2^2, and the phi (n_points, N + 1), feasible to round-off, that proves it."""

    cost: float
    phi: Array


def lower_bound(
    disc: Discretisation, phi: Array, ends: Ends, terminal: Terminal | None = None
) -> LowerBound:
    """The `LowerBound` that phi (n_points, N + 1) gives.

    With a `Terminal`, rho1 of the ends does not matter.
    """
    phi = np.asarray(phi, float)
    largest = np.full((disc.n_components, disc.n_steps), -np.inf)
    np.maximum.at(largest, disc.component, disc.violation(phi))

    largest = disc.mesh.ranks.max(largest)
    if disc.has_fisher_rao:
        return LowerBound(*find_growing_bound(disc, phi, ends, largest))

    steps = np.pad(disc.tau * largest, ((0, 0), (1, 0)))
    shift = np.cumsum(steps, axis=1)
    phi = phi - shift[disc.point_component]
    if disc.growth is not None:
        return LowerBound(*find_partial_bound(disc, phi, ends))

    if terminal is not None:
        return _find_terminal_bound(disc, phi, ends.rho0, terminal)

    both_ends = [0, -1]
    source = disc.source(ends)[:, both_ends]
    work = phi[:, both_ends] * source
    own_sums = np.array([work.sum(), np.abs(work).sum()])
    cost, terms = disc.mesh.ranks.sum(own_sums)
    cost = 2 * (cost - BOUND_ROUND_OFF * terms)
    if cost > 0:
        return LowerBound(cost, phi)

    return LowerBound(0.0, np.zeros_like(phi))  # phi = 0 is feasible, too


def _find_terminal_bound(disc, phi, rho0, terminal):
    """2 (-int rho0 phi^0 - E*(-phi^N)), where phi may be shifted by a constant."""
    mean_rho0 = disc.average(rho0)
    mass = disc.masses(mean_rho0[:, None])[:, 0]
    n = disc.mesh.n_cells
    last_phi = disc.average(phi[:n, -1])
    c, conjugate = terminal.best_shift(last_phi, mass)
    phi = phi + c[disc.point_component][:, None]

    work = disc.mesh.volume * rho0 * phi[:n, 0]
    own_sums = np.array([work.sum(), np.abs(work).sum()])
    work, terms = disc.mesh.ranks.sum(own_sums)
    rounding = BOUND_ROUND_OFF * (terms + abs(conjugate))
    cost = 2 * (-work - conjugate - rounding)
    return LowerBound(cost, phi)


def build_best_flux(disc: Discretisation, rtol: float) -> TwoPointFlux | DiamondFlux:
    """The `BestFlux` of a discretisation."""
    if isinstance(disc, DiamondDiscretisation):
        return DiamondFlux(disc, rtol)
    assert isinstance(disc, TwoPointDiscretisation)
    return TwoPointFlux(disc, rtol)


def upper_bound(
    disc: Discretisation,
    rho: Array,
    ends: Ends,
    *,
    epsilons: Sequence[float] = EPSILONS,
    first: float | None = None,
    enough: float = -np.inf,
    rtol: float = 1e-6,
    source: Array | None = None,
) -> UpperBound:
    """The best `UpperBound` that rho (n_patches, N) >= 0 gives.

    epsilons : increasing; tried from *first* on (None: FIRST_EPSILON), downwards and then upwards,
        as long as the bound improves and is above *enough*
    rtol : relative tolerance of the linear solves; every one gives a bound

    Raises `ConvergenceError` if PETSc refuses a solve.
    """
    fluxes = build_best_flux(disc, rtol)
    fluxes.source = source
    background = _build_background(disc, ends)
    rho = np.maximum(rho, 0.0) if disc.growth else with_mass(disc, rho, background)
    first = FIRST_EPSILON if first is None else first
    middle = epsilons.index(first) if first in epsilons else len(epsilons) // 2

    best = fluxes.bound(rho, background, ends, epsilons[middle])
    for direction in epsilons[:middle][::-1], epsilons[middle + 1 :]:
        before = best
        for eps in direction:
            if best.cost <= enough:
                return best
            other = fluxes.bound(rho, background, ends, eps)
            if not other.cost < best.cost:
                break
            best = other
        if best is not before:
            break
    return best


def _build_background(disc, ends):
    """rho_b (n_patches, N)."""
    t = slab_middles(disc.n_steps)
    patches = disc.average(ends.columns)
    mass = disc.masses(patches)
    mass = mass.mean(axis=1, keepdims=True) if disc.growth else mass[:, :1]
    volume = disc.masses(np.ones((disc.n_patches, 1)))
    mean = (mass / volume)[disc.component]
    first = patches[:, :1]
    last = patches[:, 1:]
    return (1 - t) ** 2 * first + t**2 * last + 2 * t * (1 - t) * mean


def with_mass(disc: Discretisation, rho: Array, background: Array) -> Array:
    """rho (n_patches, N) with the mass of the background in each slab and piece of the mesh.

    It is the background itself where rho has no mass.
    """
    rho = np.maximum(np.asarray(rho, float), 0.0)
    target = disc.masses(background)
    mass = disc.masses(rho)
    has_mass = mass > SMALLEST_MASS_FRACTION * target
    factor = np.where(has_mass, target, 0) / np.where(has_mass, mass, 1)
    return rho * factor[disc.component] + background * ~has_mass[disc.component]
