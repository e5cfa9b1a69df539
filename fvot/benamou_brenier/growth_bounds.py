"""The lower bound where mass may grow, from any phi.

A shift of phi in time, as in `bounds`, is amplified by growth, exponentially where phi is large and
negative. But v is convex in phi: phi is mixed with a function kappa of time alone,

    phi^n <- (1 - e) phi^n + e kappa^n,    v <= (1 - e) V_j + e v_kappa = 0,    V_j = max_P v_P^j
    v_kappa = (kappa' - kappa) / tau + (kappa^2 + kappa'^2) / (4 delta^2)

where kappa, kappa' are the values at both ends of slab j. From kappa^0 on, the largest kappa' of
each slab is the root of a quadratic equation, a step of a Riccati equation, if there is one. Only
the N numbers V_j are needed to find the e and kappa^0 of the best bound

    (1 - e) L(phi) + e (m1 kappa^N - m0 kappa^0)

which is concave in e, and for each e in kappa^0, where m0 and m1 are the masses at both ends. e = 1
always gives one, and e = 0 does where all V_j <= 0. Each connected piece of the mesh has its own.
"""

from __future__ import annotations

import numba
import numpy as np

from ..arguments.types import Array
from .best_flux import BOUND_ROUND_OFF
from .discretisation import Discretisation
from .ends import Ends
from .growth import FisherRao, TotalVariation
from .time_basis import slab_middles

# Steps of bisection for kappa^0, and of golden sections for log e.
N_BISECTIONS = 60
N_SECTIONS = 60

# The smallest e.
SMALLEST_PART = 1e-14


def find_growing_bound(
    disc: Discretisation, phi: Array, ends: Ends, largest: Array
) -> tuple[float, Array]:
    """(cost <= WFR^2, the phi (n_points, N + 1) that proves it) of phi (n_points, N + 1).

    largest (n_components, N) : V_j of each piece of the mesh
    """
    assert isinstance(disc.growth, FisherRao)
    both_ends = [0, -1]
    source = disc.source(ends)[:, both_ends]
    work = phi[:, both_ends] * source
    columns = [work, np.abs(work), source]
    sums = np.zeros((disc.n_components, 6))
    np.add.at(sums, disc.point_component, np.concatenate(columns, axis=1))
    sums = disc.mesh.ranks.sum(sums)

    kappa = np.zeros((disc.n_components, disc.n_steps + 1))
    part = np.ones(disc.n_components)
    cost = 0.0
    for piece, (first, last, size0, size1, minus_mass0, mass1) in enumerate(sums):
        masses = -minus_mass0, mass1
        value, part[piece], kappa[piece] = _mix(
            largest[piece], first + last, *masses, disc.growth.delta, disc.tau
        )
        ends_of_kappa = np.abs(kappa[piece, both_ends])
        terms = (1 - part[piece]) * (size0 + size1) + part[piece] * (ends_of_kappa @ masses)
        value = 2 * (value - BOUND_ROUND_OFF * terms)
        if value > 0:
            cost += value
        else:
            part[piece] = 1.0  # phi = 0 is feasible, too
            kappa[piece] = 0.0

    of_points = disc.point_component
    mixed = (1 - part)[of_points, None] * phi + (part[:, None] * kappa)[of_points]
    return float(cost), mixed


def find_partial_bound(disc: Discretisation, phi: Array, ends: Ends) -> tuple[float, Array]:
    """(cost, phi (n_points, N + 1)) of phi with v <= 0, where growth costs kappa |zeta|.

    v is convex and 0 for phi = 0: (phi + c) s is feasible for each constant c, if s <= 1 makes its
    size kappa at most. The best c, in each piece of the mesh, is one of three, or infinite.
    """
    assert isinstance(disc.growth, TotalVariation)
    kappa = disc.growth.kappa
    n = disc.mesh.n_cells
    piece = disc.point_component[:n]
    extremes = np.full((disc.n_components, 2), -np.inf)
    np.maximum.at(extremes, piece, np.stack([phi[:n].max(axis=1), -phi[:n].min(axis=1)], axis=1))
    high, minus_low = disc.mesh.ranks.max(extremes).T
    masses = disc.masses(disc.average(ends.columns))
    growth = masses[:, 1] - masses[:, 0]

    source = disc.source(ends)[:, [0, -1]]
    work = phi[:, [0, -1]] * source
    sums = np.zeros((disc.n_components, 2))
    np.add.at(sums, disc.point_component, np.stack([work.sum(1), np.abs(work).sum(1)], axis=1))
    work, terms = disc.mesh.ranks.sum(sums).T

    best = kappa * np.abs(growth)
    scale = np.zeros(disc.n_components)
    constant = kappa * np.sign(growth)
    for c in kappa - high, minus_low - kappa, (minus_low - high) / 2:
        size = np.maximum(np.maximum(high + c, minus_low - c), kappa)
        value = kappa / size * (work + c * growth)
        is_better = value > best
        best = np.where(is_better, value, best)
        scale = np.where(is_better, kappa / size, scale)
        constant = np.where(is_better, kappa / size * c, constant)

    rounding = BOUND_ROUND_OFF * (scale * terms + np.abs(constant) * masses.sum(axis=1))
    cost = 2 * np.maximum(best - rounding, 0).sum()
    of_points = disc.point_component
    return float(cost), scale[of_points, None] * phi + constant[of_points, None]


def find_growth_alone(disc: Discretisation, ends: Ends) -> tuple[Array, Array]:
    """(phi (n_points, N + 1), rho (n_patches, N)) where nothing moves.

    phi is the best function of time alone, for each piece of the mesh. rho has the masses that
    belong to it; its shape is that of linear roots of the densities.
    """
    assert isinstance(disc.growth, FisherRao)
    delta = disc.growth.delta
    N = disc.n_steps
    patches = disc.average(ends.columns)
    masses = disc.masses(patches)
    kappa = np.zeros((disc.n_components, N + 1))
    target = np.zeros((disc.n_components, N))
    zeros = np.zeros(N)
    for piece, (mass0, mass1) in enumerate(masses):
        _bound_at(1.0, zeros, 0.0, mass0, mass1, delta, disc.tau, kappa[piece])
        target[piece] = _follow_mass(mass0, mass1, disc.tau / (2 * delta**2) * kappa[piece])

    t = slab_middles(N)
    roots = np.sqrt(patches)
    rho = (roots[:, :1] * (1 - t) + roots[:, 1:] * t) ** 2
    mass = disc.masses(rho)
    factor = np.divide(target, mass, out=np.zeros_like(mass), where=mass > 0)
    return kappa[disc.point_component], rho * factor[disc.component]


def _follow_mass(mass0, mass1, rate):
    """The masses (N,) in the slabs, from the end that has more: mass changes by its mean in the
    slabs on both sides of a node, times twice rate (N + 1,) there.
    """
    if mass0 > mass1:
        return _follow_mass(mass1, mass0, -rate[::-1])[::-1]

    N = len(rate) - 1
    mass = np.empty(N)
    mass[-1] = mass1 / (1 + rate[-1])
    for j in range(N - 1, 0, -1):
        mass[j - 1] = mass[j] * (1 - rate[j]) / (1 + rate[j])
    return mass


@numba.njit(cache=True, error_model="numpy")
def _mix(largest, work, mass0, mass1, delta, tau):
    """(best bound, its e, kappa (N + 1,)) for L(phi) = work."""
    golden = 0.5 * (np.sqrt(5.0) - 1)
    kappa = np.empty(len(largest) + 1)
    low, high = np.log(SMALLEST_PART), 0.0
    best = _bound_at(1.0, largest, work, mass0, mass1, delta, tau, kappa)
    best_part = 1.0
    x = high - golden * (high - low)
    y = low + golden * (high - low)
    at_x = _bound_at(np.exp(x), largest, work, mass0, mass1, delta, tau, kappa)
    at_y = _bound_at(np.exp(y), largest, work, mass0, mass1, delta, tau, kappa)
    for _ in range(N_SECTIONS):
        if at_x > best:
            best = at_x
            best_part = np.exp(x)
        if at_y > best:
            best = at_y
            best_part = np.exp(y)
        if at_x > at_y:
            high = y
            y = x
            at_y = at_x
            x = high - golden * (high - low)
            at_x = _bound_at(np.exp(x), largest, work, mass0, mass1, delta, tau, kappa)
        else:
            low = x
            x = y
            at_x = at_y
            y = low + golden * (high - low)
            at_y = _bound_at(np.exp(y), largest, work, mass0, mass1, delta, tau, kappa)
    best = _bound_at(best_part, largest, work, mass0, mass1, delta, tau, kappa)
    return best, best_part, kappa


@numba.njit(cache=True, error_model="numpy")
def _bound_at(part, largest, work, mass0, mass1, delta, tau, kappa):
    """The best bound for e = part, and its kappa; -inf where no kappa is feasible."""
    w = (1 - part) / part * largest
    top = 2 * delta**2 / tau
    room = 2 * top * top - 4 * delta**2 * w[0]
    if room < 0:
        return -np.inf

    low = top - np.sqrt(room)
    high = top
    slope = _advance(high, w, delta, tau, kappa)
    if slope < 0:
        return -np.inf

    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        slope = _advance(middle, w, delta, tau, kappa)
        if slope < 0 or mass1 * slope > mass0:
            low = middle
        else:
            high = middle
    _advance(high, w, delta, tau, kappa)
    return (1 - part) * work + part * (mass1 * kappa[-1] - mass0 * kappa[0])


@numba.njit(cache=True, error_model="numpy")
def _advance(first, w, delta, tau, kappa):
    """The largest kappa from kappa^0 = first on, and d kappa^N / d kappa^0; -1 where there is none.

    kappa' is at most the one from which the next one grows.
    """
    beta = 1 / tau
    top = 2 * delta**2 * beta
    curvature = 1 / (4 * delta**2)
    kappa[0] = first
    slope = 1.0
    for j in range(len(w)):
        k = kappa[j]
        gamma = w[j] + curvature * k * k - beta * k
        square = beta * beta - 4 * curvature * gamma
        if square < 0:
            return -1.0
        root = np.sqrt(square)
        new = -2 * gamma / (beta + root)
        slope *= (beta - 2 * curvature * k) / max(root, 1e-300)
        if new > top and j < len(w) - 1:
            new = top
            slope = 0.0
        kappa[j + 1] = new
    return slope
