"""From the coarsest level to the finest: the number of iterations and the bounds on each level.

Each level starts from the result of the coarser one. The gap on the last coarse level predicts how
many iterations the mesh itself needs: in one ramp of the penalty, gaps fall about like
iterations^-rate. Where these were too few, there is another ramp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..arguments.types import Array
from . import penalty
from .best_flux import UpperBound
from .bounds import EPSILONS, LowerBound, lower_bound, upper_bound, with_mass
from .discretisation import Discretisation
from .ends import Ends
from .growth_bounds import find_growth_alone
from .levels import Level
from .moments import compute_gelbrich_bound
from .splitting import Iteration, Start, has_cosines
from .terminal import Terminal
from .time_basis import node_mean, node_weights, slab_middles

# Iterations on each coarser level.
COARSE_ITERATIONS = 100

# The same where mass may grow.
GROWING_COARSE_ITERATIONS = 200

# Iterations where no coarser level predicts them, and the fewest of densities that vanish.
DEFAULT_ITERATIONS = 140

# The fewest iterations of densities that vanish nowhere, and of another ramp.
FEWEST_ITERATIONS = 60

# Part of the gap before a ramp above which it was of little use.
USEFUL_GAP_RATIO = 0.5

# Part of the gap by which bounds before a ramp must be better to be kept: linear solves leave less.
BETTER_PART = 1e-2

# Times that the coarsest level is solved, at most, until the estimate of W2^2 is consistent.
MAX_COARSEST_SOLVES = 6

# Part of an estimate of W2^2 below which the next estimate does not fall at once.
SMALLEST_SQUARE_RATIO = 1e-3

# A first estimate of the cost where mass may grow, relative to mass times square of size.
GROWING_SQUARE_RATIO = 0.3

# Gap from which a coarser level's phi is dropped, and the straight path is tried as well.
HOPELESS_GAP = 0.3

# W2 in units of the width below which the straight path is tried where the gap is above tol.
SHORT_MOVE_WIDTHS = 0.2

# Part of int |rho1 - rho0| that a coarser level must resolve for its path to be used.
RESOLVED_PART = 0.5

# The rate at which gaps fall for densities that vanish somewhere.
VANISHING_RATE = 1.7

# The same for densities that vanish nowhere.
POSITIVE_RATE = 4.0

# The same where mass may grow.
GROWING_RATE = 2.5

# Iterations and the gap that they leave on most meshes where mass may grow. Coarser levels predict
# too many: there, a step in time is short against the cells.
USUAL_GROWTH = 150, 3e-3

# Safety factor of predicted numbers of iterations.
ITERATION_SAFETY = 1.3

# Iterations with the local penalty, which coarser levels do not have, relative to a uniform one.
LOCAL_PENALTY_FACTOR = 0.6

# The lowest eps of the first upper bound on a finer level.
LOWEST_FIRST_EPSILON = 1e-5

# The highest one.
HIGHEST_FIRST_EPSILON = 1e-4

# Smallest kinetic energy that is divided by.
SMALLEST_ACTION = 1e-300

# Smallest square of a speed that counts, relative to the mean one.
SMALLEST_SPEED_RATIO = 1e-30

# Bins of the histogram of kinetic energy over squares of speeds, four for a factor of 2.
N_SPEED_BINS = 80


class BoundedPath(NamedTuple):
    """phi (n_points, N + 1), rho (n_patches, N) after an iteration, with bounds of W2^2 (+ 2 E).

    source : zeta (n_cells, N + 1) where growth costs kappa |zeta|
    """

    phi: Array
    rho: Array
    lower: LowerBound
    upper: UpperBound
    source: Array | None = None

    @property
    def gap(self) -> float:
        """(cost - lower bound) / W2^2 of the path."""
        difference = self.upper.cost - self.lower.cost
        return difference / self.upper.scale if self.upper.scale > 0 else 0.0

    def with_better_bounds(self, other: BoundedPath) -> BoundedPath:
        """The same, with the bounds of *other* where they are better by more than rounding.

        Otherwise rounding would choose between paths that differ, and ranks change rounding.
        """
        room = BETTER_PART * (other.upper.cost - other.lower.cost)
        is_lower_better = other.lower.cost > self.lower.cost + room
        is_upper_better = other.upper.cost < self.upper.cost - room
        return self._replace(
            lower=other.lower if is_lower_better else self.lower,
            upper=other.upper if is_upper_better else self.upper,
        )


class Ramp(NamedTuple):
    """The `Iteration` that runs on the mesh itself, and the values of its start for checkpoints."""

    iteration: Iteration
    values: dict[str, Any]


def predict_iterations(
    gap: float, n_iterations: float, last_gap: float, rate: float = VANISHING_RATE
) -> int:
    """Iterations that should bring the gap to *gap*, where n_iterations brought it to last_gap."""
    last_gap = min(max(last_gap, 0.0), 1.0) if math.isfinite(last_gap) else 1.0
    return math.ceil(ITERATION_SAFETY * n_iterations * (last_gap / gap) ** (1 / rate))


class NestedIteration:
    """The iteration for one pair of densities on all levels, the finest first.

    levels : the `Level` s
    terminals : a `Terminal` for each level, or None
    ends : the `Ends` on each level, where rho1 is the latest estimate if there is a `Terminal`
    best : `BoundedPath` on the mesh itself, with the best bounds so far
    used : the iterations there
    """

    def __init__(
        self,
        levels: list[Level],
        terminals: list[Terminal | None],
        rho0: Array,
        rho1: Array,
        *,
        tol: float,
        max_iter: int,
        dtype: DTypeLike,
    ):
        self.levels = levels
        self.terminals = terminals
        self.tol = tol
        self.max_iter = max_iter
        self.dtype = dtype
        self.is_free = terminals[0] is not None
        self.best: BoundedPath | None = None
        self.used = 0
        self._ramp: Ramp | None = None
        self.may_grow = levels[0].disc.growth is not None
        self.coarse_iterations = GROWING_COARSE_ITERATIONS if self.may_grow else COARSE_ITERATIONS

        self.ends = [Ends(levels[0].disc.mesh, rho0, rho1, self.may_grow)]
        for level, coarser in zip(levels, levels[1:]):
            rho0, rho1 = level.coarser_densities(self.ends[-1].columns)
            self.ends.append(Ends(coarser.disc.mesh, rho0, rho1, self.may_grow))

    def run(self, saved: tuple[dict, dict] | None = None) -> Iterator[int]:
        """Iterate until the gap is below tol, or max_iter is used up.

        Yields the iterations on the mesh itself after each.

        saved : what `save` returned
        """
        if saved is None:
            start, n_iterations = self._solve_coarse_levels()
        else:
            start, n_iterations = self._restore(*saved)

        while self.best is None or self.best.gap > self.tol and self.used < self.max_iter:
            # None are left to do where a run continues from its last checkpoint. Otherwise this is
            # the last ramp where the next one would be too short.
            remaining = self.max_iter - self.used
            if n_iterations > 0 and n_iterations + FEWEST_ITERATIONS > remaining:
                n_iterations = max(remaining, start.done)

            iteration = self._build_iteration(0, start, n_iterations, is_restart=self.used > 0)
            values = dict(
                n_iterations=n_iterations, used=self.used, square=start.square, eps=start.eps
            )
            self._ramp = Ramp(iteration, values)
            for k in iteration.run():
                yield self.used + k

            last_gap = math.inf if self.best is None else self.best.gap
            best = self._finish_ramp(iteration, start, n_iterations)
            square = self._estimate_square(0, best.upper, start.square)
            start = Start(best.phi, best.rho, square, best.upper.eps, best.source)

            # A ramp from here on needs half as many, unless this one was too short to be of use.
            expected = predict_iterations(self.tol, n_iterations / 2, best.gap)
            if best.gap > USEFUL_GAP_RATIO * last_gap:
                expected = 2 * n_iterations
            n_iterations = max(expected, FEWEST_ITERATIONS)
        self._ramp = None

    def _finish_ramp(self, iteration, start, n_iterations):
        """`best` after a ramp on the mesh itself: what it has reached, with the best bounds."""
        reached = self._find_bounds(0, iteration, start, enough=self.tol)
        self.used += n_iterations
        if self.best is not None:
            reached = reached.with_better_bounds(self.best)
        self.best = reached
        self.ends[0] = self.ends[0].with_rho1(reached.upper.rho1)
        return reached

    # ---- checkpoints -----------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) for a checkpoint.

        After the last iteration these describe the result, which a restored run reaches at once.
        """
        return self._save_result(self.best) if self._ramp is None else self._save_ramp(self._ramp)

    def _save_result(self, best):
        values = dict(
            n_iterations=0,
            used=self.used,
            done=0,
            r=None,
            square=compute_moving_square(self.levels[0].disc, best.upper),
            eps=best.upper.eps,
        )
        return self._list_cells(best.phi, best.rho, self.ends[0].rho1, best.source), values

    def _save_ramp(self, ramp):
        phi, rho, rho1 = ramp.iteration.path()
        rho1 = self.ends[0].rho1 if rho1 is None else self.levels[0].disc.spread(rho1)
        values = dict(ramp.values, done=ramp.iteration.done, r=float(ramp.iteration.r))
        return self._list_cells(phi, rho, rho1, ramp.iteration.find_source()), values

    def _list_cells(self, phi, rho, rho1, source):
        """The arrays of a checkpoint, whose last axis is that of the cells."""
        disc = self.levels[0].disc
        cells = dict(phi=disc.pack(phi), rho=disc.spread(rho).T, rho1=rho1)
        if source is not None:
            cells["source"] = source.T
        return cells

    def _restore(self, cells, values):
        """(`Start`, iterations of its ramp) of what was saved."""
        disc = self.levels[0].disc
        self.used = values["used"]
        if self.is_free:
            self.ends[0] = self.ends[0].with_rho1(cells["rho1"])

        start = Start(
            disc.unpack(cells["phi"]),
            disc.average(np.ascontiguousarray(cells["rho"].T)),
            values["square"],
            values["eps"],
            cells["source"].T if "source" in cells else None,
            values["done"],
            values["r"],
        )
        return start, values["n_iterations"]

    # ---- coarser levels --------------------------------------------------------------------------

    def _solve_coarse_levels(self):
        """(`Start` on the mesh itself, iterations that it should take), from all coarser levels."""
        start = Start(None, None, self._guess_square(), None)
        if self.levels[0].disc.has_fisher_rao:
            phi, rho = find_growth_alone(self.levels[-1].disc, self.ends[-1])
            start = start._replace(phi=phi, rho=rho)
        n_iterations = DEFAULT_ITERATIONS
        coarsest = len(self.levels) - 1
        for depth in range(coarsest, 0, -1):
            run = self._run_coarsest_level if depth == coarsest else self._run_level
            reached, start = run(depth, start)
            start = self._interpolate(depth, start, reached)

            factor = 1.0 if self._has_uniform_penalty(0) else LOCAL_PENALTY_FACTOR
            n_iterations = self._choose_iterations(factor * self.coarse_iterations, reached.gap)
        return start, n_iterations

    def _guess_square(self):
        """A first estimate of W2^2."""
        ends = self.ends[0]
        size = np.ptp(ends.mesh.bounds, axis=0)
        if self.may_grow:
            return GROWING_SQUARE_RATIO * ends.mass * (size**2).mean()

        smallest = SMALLEST_SQUARE_RATIO * ends.mass * (size**2).sum()
        return max(compute_gelbrich_bound(ends), smallest)

    def _run_coarsest_level(self, depth, start):
        """(`BoundedPath`, `Start` from there), repeated until W2^2 is about what was assumed."""
        for _ in range(MAX_COARSEST_SOLVES):
            before = start.square
            reached, start = self._run_level(depth, start)
            if self.may_grow or before / 2 < start.square < 2 * before:
                break
        return reached, start

    def _run_level(self, depth, start):
        """(`BoundedPath`, `Start` from there) on a coarser level."""
        iteration = self._build_iteration(depth, start, self.coarse_iterations)
        for _ in iteration.run():
            pass

        reached = self._find_bounds(depth, iteration, start, enough=0.0 if depth == 1 else 1.0)
        self.ends[depth] = self.ends[depth].with_rho1(reached.upper.rho1)
        square = self._estimate_square(depth, reached.upper, start.square)
        phi = None if reached.gap > HOPELESS_GAP else reached.phi
        return reached, Start(phi, reached.rho, square, reached.upper.eps)

    def _estimate_square(self, depth, upper, last_square):
        """The next estimate of mass times the square of the speed of the mass that moves."""
        square = compute_moving_square(self.levels[depth].disc, upper)
        return max(square, SMALLEST_SQUARE_RATIO * last_square)

    def _interpolate(self, depth, start, reached):
        """The `Start` on the next finer level."""
        disc = self.levels[depth].disc
        finer = self.levels[depth - 1]
        phi = None if start.phi is None else finer.finer_phi(start.phi)
        rho = finer.finer_rho(disc.spread(start.rho))
        eps = np.clip(start.eps, LOWEST_FIRST_EPSILON, HIGHEST_FIRST_EPSILON)

        if self.is_free:
            rho1 = finer.finer_density(reached.upper.rho1)
            self.ends[depth - 1] = self.ends[depth - 1].with_rho1(rho1)
        elif self.ends[depth].distance < RESOLVED_PART * self.ends[depth - 1].distance:
            # The coarser level does not resolve the move.
            best = upper_bound(finer.disc, rho, self.ends[depth - 1])
            return Start(None, rho, best.cost, best.eps)

        return start._replace(phi=phi, rho=rho, eps=eps)

    def _choose_iterations(self, n_iterations, gap):
        """Iterations that should bring the gap to tol, where n_iterations brought it to *gap*.

        Where mass may grow, not more than usual. Where densities vanish, gaps obey no law below
        DEFAULT_ITERATIONS, unless they fall much faster.
        """
        if self.may_grow:
            expected = predict_iterations(self.tol, n_iterations, gap, GROWING_RATE)
            usual = predict_iterations(self.tol, *USUAL_GROWTH, GROWING_RATE)
            return max(min(expected, usual), DEFAULT_ITERATIONS)

        vanishes = self.ends[0].vanishes
        rate = VANISHING_RATE if vanishes else POSITIVE_RATE
        expected = predict_iterations(self.tol, n_iterations, gap, rate)
        if expected < FEWEST_ITERATIONS / 2:
            return FEWEST_ITERATIONS

        return max(expected, DEFAULT_ITERATIONS if vanishes else FEWEST_ITERATIONS)

    # ---- one level -------------------------------------------------------------------------------

    def _build_iteration(self, depth, start, n_iterations, is_restart=False):
        """The `Iteration` on a level; is_restart : whether it starts from another one there."""
        disc = self.levels[depth].disc
        ends = self.ends[depth]
        sigma = None
        if not self._has_uniform_penalty(depth, is_restart):
            sigma = penalty.compute_sigma(disc, start.rho, ends)
        return Iteration(disc, ends, self.terminals[depth], start, sigma, n_iterations, self.dtype)

    def _has_uniform_penalty(self, depth, is_restart=False):
        """Whether a uniform penalty is good enough.

        It is on coarser levels, and first of all where it makes steps cheap.
        """
        if depth > 0 or self.may_grow or len(self.levels) == 1 and not is_restart:
            return True

        ends = self.ends[depth]
        return (
            not ends.vanishes
            or has_cosines(self.levels[depth].disc)
            and not is_restart
            and ends.is_spread
        )

    def _find_bounds(self, depth, iteration, start, enough):
        """The `BoundedPath` that the iteration on a level has reached.

        enough : the gap at which the search for the best upper bound ends
        """
        disc = self.levels[depth].disc
        terminal = self.terminals[depth]
        ends = self.ends[depth]
        phi, rho, rho1 = iteration.path()
        if terminal is not None:
            ends = ends.with_rho1(disc.spread(rho1))

        lower = lower_bound(disc, phi, ends, terminal)
        source = iteration.find_source()
        upper = self._find_upper_bound(depth, rho, ends, start.eps, lower, enough, source)
        reached = BoundedPath(phi, rho, lower, upper, source)
        others = []
        if disc.has_fisher_rao:
            if reached.gap > self.tol:
                others = _list_growing_paths(disc, rho, ends)
        else:
            is_short = depth < 2 and not self.may_grow and _is_short_move(disc, upper)
            if reached.gap > (self.tol if is_short else HOPELESS_GAP):
                others = [_build_straight_path(disc, ends)]

        for other in others:
            bound = self._find_upper_bound(depth, other, ends, min(EPSILONS), lower, enough)
            if bound.cost < reached.upper.cost:
                reached = reached._replace(rho=bound.rho, upper=bound, source=bound.source)
        return reached

    def _find_upper_bound(self, depth, rho, ends, first, lower, enough, source=None):
        """The best `UpperBound`, or one with which the gap is *enough*.

        With a `Terminal`, rho1 of the ends may have any mass.
        """
        disc = self.levels[depth].disc
        terminal = self.terminals[depth]
        energy = 0.0
        terms = 0.0
        if terminal is not None:
            rho1 = disc.average(ends.rho1)[:, None]
            rho1 = with_mass(disc, rho1, disc.average(ends.rho0)[:, None])[:, 0]
            ends = ends.with_rho1(disc.spread(rho1))
            energy, terms = terminal.value(rho1)

        target = (lower.cost - 2 * energy) / (1 - enough) if enough < 1 else np.inf
        upper = upper_bound(disc, rho, ends, first=first, enough=target, source=source)
        return upper._replace(cost=upper.cost + 2 * energy, energy=energy, terms=terms)


def _is_short_move(disc, upper):
    """Whether mass moves by a small part of its width."""
    ends = Ends(disc.mesh, disc.spread(upper.rho[:, 0]), upper.rho1)
    return upper.action < (SHORT_MOVE_WIDTHS * ends.width) ** 2 * ends.mass


def _build_straight_path(disc, ends):
    """The path (1 - t) rho0 + t rho1 (n_patches, N), nearly optimal where both hardly differ."""
    t = slab_middles(disc.n_steps)
    patches = disc.average(ends.columns)
    return patches[:, :1] * (1 - t) + patches[:, 1:] * t


def _list_growing_paths(disc, rho, ends):
    """Paths (n_patches, N) that may be better than rho where mass may grow: that on which nothing
    moves, and rho with the masses of that, which are nearly right where growth costs much.
    """
    _, alone = find_growth_alone(disc, ends)
    return [alone, with_mass(disc, rho, alone)]


def compute_moving_square(disc: Discretisation, upper: UpperBound) -> float:
    """Mass times half the square of the median speed, but at least the cost.

    Half of the kinetic energy belongs to speeds below the median one. The cost is mass times the
    mean square of the speed; where most of the mass stays, the rest is much faster than that.
    """
    if upper.terms or upper.source is not None:
        return upper.action

    tau = node_weights(disc.n_steps)
    M = disc.mobility(node_mean(upper.rho))
    energy = tau * disc.cost_fluxes(upper.flux, M)
    square = disc.square_speeds(upper.flux, M)

    # A histogram of the energy over the logarithm of the square of the speed.
    mass = disc.masses(upper.rho[:, :1]).sum()
    with np.errstate(all="ignore"):
        ratio = square * mass / max(upper.action, SMALLEST_ACTION)
    ratio = np.maximum(ratio, SMALLEST_SPEED_RATIO)
    place = np.clip(np.nan_to_num(4 * np.log2(ratio)), 0, N_SPEED_BINS - 1).astype(int)
    histogram = np.bincount(place.ravel(), np.nan_to_num(energy).ravel(), N_SPEED_BINS)

    total = np.cumsum(disc.mesh.ranks.sum(histogram))
    median = np.searchsorted(total, total[-1] / 2)
    return upper.action * max(1.0, 2 ** (median / 4) / 2)
