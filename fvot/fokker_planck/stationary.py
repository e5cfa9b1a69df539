"""The stationary density of a Fokker-Planck equation, and how fast densities relax to it.

The semi-discrete equation is a Markov chain between cells, which ends where mass leaves or decays.
For two-point fluxes both are those of the chain (`markov`), exact to round-off, by elimination
without subtraction; with corners the stationary density is the limit of ever longer implicit steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from .. import markov
from ..arguments.functions import is_integer
from ..arguments.types import Array
from ..errors import ConvergenceError, InputError
from ..finite_volume.settling import settle
from ..markov.modes import find_largest
from ..mesh import Numbering
from ..mesh.cell_values import integrate
from ..mesh.connected_pieces import find_connected_pieces
from . import slow_modes
from .stepper import Stepper

# Cells up to which stationary densities are found by elimination, by the dimension of the mesh.
# Elimination runs on one rank, and its fill-in grows with the dimension.
ELIMINATION_CELL_LIMIT = {1: 10**6, 2: 10**6, 3: 100_000}

# Cells up to which relaxation rates are found by elimination at once, by the dimension. Above,
# Krylov spaces of implicit steps are tried first, where there is a Gibbs density: in space they
# take a half of the time at 40 000 cells, and a fifth to a half at 110 000.
RATES_ELIMINATION_CELL_LIMIT = {1: 10**9, 2: 10**9, 3: 40_000}

# The estimated relative error of rates by Krylov spaces up to which they are taken. Chosen.
KRYLOV_RATE_TOLERANCE = 1e-8

# Steps of different lengths in that attempt: deep wells need elimination. Chosen.
MAX_KRYLOV_RATE_STEPS = 2

# The longest steps towards a stationary state, as powers of 10, in units of the time in which the
# fastest cell is emptied. Longer steps settle in fewer solves, but each of these is harder.
MAX_STEP_POWER = 10

# The first two steps, in the same way: they let what is fast decay before the longest ones. Chosen.
FIRST_STEP_POWERS = (3, 6)

# Of the longest steps, at most so many are taken. Chosen.
MAX_LONGEST_STEPS = 12

# Solves with one matrix that are expected, for the choice of the linear method. Chosen.
EXPECTED_SOLVES = 6

# The change of the density in one of the longest steps, relative in L1, below which it has settled.
# Chosen.
SETTLED_CHANGE = 1e-11

# The difference in L1 between the densities from two starts below which they are the same. Chosen:
# far above what settled densities are apart, and far below what wells hold.
SAME_DENSITY_TOLERANCE = 1e-6


def find_stationary(stepper: Stepper, numbering: Numbering) -> Array:
    """The stationary density (n_cells,) in the user's order, see `FokkerPlanck.stationary`."""
    check_steady(stepper, "a stationary density")
    mesh: Any = numbering.user_mesh
    if stepper.minus_log_gibbs is None:
        check_linear(
            stepper,
            "stationary() finds no density other than the Gibbs density",
            "or solve() up to a late time",
        )
    if not stepper.closed:
        return _find_driven_density(stepper, numbering)

    _, count = find_connected_pieces(mesh)
    if count > 1:
        raise InputError(
            f"the mesh has {count} pieces that do not touch: the mass in each of them is constant, "
            "and the stationary density is not unique; take one piece at a time"
        )

    if stepper.minus_log_gibbs is not None:
        return numbering.outward(np.exp(-stepper.minus_log_gibbs))
    if stepper.has_corners or mesh.n_cells_global > ELIMINATION_CELL_LIMIT[mesh.dim]:
        return numbering.outward(_find_density_by_long_steps(stepper))

    mass = _run_on_root(stepper, lambda chain: markov.stationary(chain.rates, chain.center))
    return mesh.scatter(mass) / mesh.volume


def find_relaxation_rates(stepper: Stepper, k: int) -> Array:
    """The k slowest rates (k,), see `FokkerPlanck.relaxation_rates`."""
    _check_rate_count(stepper, k, "relaxation rates")
    if stepper.has_corners:
        rates, _ = slow_modes.find_rates(stepper, int(k))
        return rates

    is_large = stepper.mesh.n_cells_global > RATES_ELIMINATION_CELL_LIMIT[stepper.mesh.dim]
    if is_large and stepper.minus_log_gibbs is not None:
        with suppress(ConvergenceError):
            rates, _ = slow_modes.find_rates(
                stepper, int(k), KRYLOV_RATE_TOLERANCE, MAX_KRYLOV_RATE_STEPS
            )
            return rates

    shift = _find_shift(stepper)

    def compute_rates(chain: Any) -> Array:
        killing = np.maximum(chain.killing + shift, 0)
        return markov.relaxation_rates(chain.rates, k, killing=killing, center=chain.center) - shift

    return _run_on_root(stepper, compute_rates)


def find_slow_modes(stepper: Stepper, numbering: Numbering, k: int) -> markov.SlowModes:
    """The k slowest modes in the user's order, see `FokkerPlanck.slow_modes`."""
    _check_rate_count(stepper, k, "slow modes")
    mesh: Any = numbering.user_mesh
    if stepper.has_corners:
        return _find_modes_of_corners(stepper, numbering, int(k))

    shift = _find_shift(stepper)

    def compute_modes(chain: Any) -> markov.SlowModes:
        killing = np.maximum(chain.killing + shift, 0)
        return markov.slow_modes(chain.rates, k, killing=killing, center=chain.center)

    rates, left, right = _run_on_root(stepper, compute_modes)
    return markov.SlowModes(rates - shift, mesh.scatter(left) / mesh.volume, mesh.scatter(right))


def _check_rate_count(stepper, k, what):
    check_steady(stepper, what)
    check_linear(stepper, f"there are no {what}")
    ranks = stepper.mesh.ranks
    n_rates = stepper.mesh.n_cells_global - int(stepper.closed)
    ranks.check(
        n_rates > 0,
        "the mesh has one cell, which nothing leaves: its density is constant, and there is no "
        "rate; take a finer mesh",
    )
    ranks.check(
        is_integer(k) and 0 < k <= n_rates,
        f"k must be a number of rates from 1 to {n_rates}, not {k!r}",
    )
    ranks.check_same("k", int(k))
    ranks.check(
        not (stepper.has_corners and stepper.bears),
        f"{what} with fluxes to corners need growth <= 0: take scheme='two_point', or growth that "
        "is lower by a constant everywhere, which makes all rates larger by that",
    )


def _find_shift(stepper):
    """Growth is killing below 0: killing everywhere in addition makes all rates larger by the
    same. Collective.
    """
    _, highest = stepper.operator.reactions.find_growth_range(0.0, 0.0)
    return max(highest, 0.0)


def _find_modes_of_corners(stepper, numbering, k):
    """The `SlowModes` of a Gibbs density: the right vectors are the left ones over it."""
    mesh = numbering.user_mesh
    rates, _ = stepper.find_coefficients(0.0)
    mesh.ranks.check(
        rates.minus_log_gibbs is not None,
        "slow modes with fluxes to corners need a Gibbs density, which a drift has not: take "
        "scheme='two_point', on a mesh whose faces are orthogonal to the lines between cell points",
    )
    found, modes = slow_modes.find_rates(stepper, k)
    left = mesh.scatter(modes)
    phi = numbering.outward(rates.minus_log_gibbs)
    lowest = mesh.ranks.min(phi.min(initial=np.inf))
    right = left * np.exp(phi - lowest)

    sign = np.sign(find_largest(modes))
    left = left * (sign / mesh.integrate(np.abs(left)))[:, None]
    right = right / mesh.integrate(left * right)[:, None]
    return markov.SlowModes(found, left, right)


def check_steady(stepper: Stepper, what: str) -> None:
    """`InputError` on every rank if a coefficient depends on time; *what* exists only otherwise."""
    stepper.mesh.ranks.check(
        stepper.autonomous,
        f"{what} can be computed only where potential, drift, diffusion, growth, source and "
        "boundary do not depend on time",
    )


def check_linear(stepper: Stepper, problem: str, other_remedy: str = "") -> None:
    """`InputError` on every rank, with the problem, if fluxes are not linear."""
    remedy = " ".join(["take flux=fvot.scharfetter_gummel", other_remedy]).strip()
    stepper.mesh.ranks.check(
        stepper.operator.correction is None,
        f"{problem} with flux=fvot.limited(), which is not linear: {remedy}",
    )


def _run_on_root(stepper: Stepper, work: Callable[[Any], Any]) -> Any:
    """work(the whole chain) on rank 0; all ranks get its value."""
    ranks = stepper.mesh.ranks
    rates, _ = stepper.find_coefficients(0.0)
    chain = rates.gather_chain()
    return ranks.broadcast(ranks.on_root(lambda: work(chain)))


def _find_driven_density(stepper, numbering):
    """The stationary density (n_cells,) between open boundaries, or between sources and decay, in
    the user's order.
    """
    users = numbering.user_mesh
    mesh = stepper.mesh
    rates, entering = stepper.find_coefficients(0.0)
    ranks = mesh.ranks
    ranks.check(
        not stepper.bears,
        "a stationary density needs growth <= 0: with growth above 0 there may be none. solve() up "
        "to a late time computes it, where there is one",
    )
    empty = rates.extend(np.zeros(mesh.n_cells))
    if stepper.has_corners:
        empty = rates.give(empty, entering)
    leaving = np.concatenate(
        [rates.boundary_flux(empty, entering), rates.find_losses(empty, entering)]
    )
    is_driven = ranks.max(np.abs(leaving).max(initial=0.0)) > 0
    ranks.check(
        is_driven or stepper.signed,
        "nothing enters through the boundary or by a source, so everything leaves or decays: the "
        "stationary density is 0; relaxation_rates(1) is the rate at which the mesh empties",
    )
    ranks.check(
        stepper.kills or rates.crosses_boundary(),
        "what the source adds stays, and mass grows without bound, or depends on the initial one: "
        "there is no stationary density, or many of them, without decay (growth below 0) or an "
        "open boundary",
    )
    if not is_driven:
        return np.zeros(mesh.n_cells)
    if stepper.has_corners or mesh.n_cells_global > ELIMINATION_CELL_LIMIT[mesh.dim]:
        return numbering.outward(_take_long_steps(stepper, np.zeros(mesh.n_cells)))

    out, _ = rates.outflow(empty, entering)
    gained = mesh.gather(0.0 - out)

    def find_masses(chain: Any) -> Array:
        masses = np.zeros(len(gained))
        for sign in 1, -1:  # what is gained of each sign adds up
            source = np.maximum(sign * gained, 0)
            if source.any():
                masses += sign * markov.stationary(
                    chain.rates, chain.center, killing=chain.killing, source=source
                )
        return masses

    mass = _run_on_root(stepper, find_masses)
    return users.scatter(mass) / users.volume


def _find_density_by_long_steps(stepper):
    """The stationary density of a large mesh, from two starts, which must agree.

    Wells that are hardly ever left keep the mass of the start.
    """
    mesh = stepper.mesh
    rates, _ = stepper.find_coefficients(0.0)
    in_one_cell = (mesh.cell_id[: mesh.n_cells] == 0).astype(float)
    starts = _guess_density(stepper, rates), in_one_cell

    ends = [_take_long_steps(stepper, rho / integrate(mesh, rho)) for rho in starts]
    difference = integrate(mesh, np.abs(ends[1] - ends[0]))
    if difference > SAME_DENSITY_TOLERANCE:
        limit = ELIMINATION_CELL_LIMIT[mesh.dim]
        raise ConvergenceError(
            f"two initial densities converge to two states, {difference:.1e} apart: there are "
            f"wells that are hardly ever left; up to {limit} cells elimination computes their "
            "weights: take a coarser mesh"
        )
    return ends[0]


def _guess_density(stepper, rates):
    """A density (n_cells,) from which long steps may start: uniform with corners, where multigrid
    has no scaling of its columns, else that scaling.
    """
    if stepper.has_corners:
        return np.ones(stepper.mesh.n_cells)
    return stepper.column_scales.find(rates)


def _take_long_steps(stepper, rho):
    """The density after ever longer implicit steps from rho, until one changes nothing.

    The longest ones are 10^MAX_STEP_POWER times the time in which the fastest cell is emptied.
    """
    mesh = stepper.mesh
    rates, entering = stepper.find_coefficients(0.0)
    fastest = mesh.ranks.max(rates.leaving().max(initial=0.0))

    for power in [*FIRST_STEP_POWERS, *[MAX_STEP_POWER] * MAX_LONGEST_STEPS]:
        resolvent = stepper.find_resolvent(0.0, 10.0**power / fastest, EXPECTED_SOLVES)
        new = resolvent(rates.extend(rho), entering)[: mesh.n_cells]
        may_settle = stepper.closed or not stepper.signed
        if stepper.has_corners and may_settle:
            new, _ = settle(mesh, stepper.operator.corners.sides, new)
        if stepper.closed:
            new = new / integrate(mesh, new)
        change = integrate(mesh, np.abs(new - rho))
        rho = new
        if power == MAX_STEP_POWER and change <= SETTLED_CHANGE * stepper.find_size(new):
            return rho

    raise ConvergenceError(
        f"after steps of {10.0**MAX_STEP_POWER / fastest:.3g} the density still changes by "
        f"{change:.1e} in each: its wells are hardly ever left"
    )
