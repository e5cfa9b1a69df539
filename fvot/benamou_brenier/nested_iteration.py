"""From the coarsest level to the finest: how many iterations on each, and which bounds they reach.

Each level begins where the coarser one has ended. The last coarse one tells from its gap how many
iterations the mesh itself should take: gaps fall about as iterations^-RATE in one ramp of the
penalty. Where that was too few, there is another ramp.
"""

import math
from typing import NamedTuple

import numpy as np

from . import penalty
from .best_flux import Upper
from .bounds import EPSILONS, Lower, lower_bound, upper_bound, with_mass
from .moments import gelbrich
from .splitting import Iteration, Start, has_cosines
from .time_basis import node_mean, node_weights

COARSE = 100  # iterations on each coarser level
# iterations where there is no coarser level to tell, and the fewest of densities that vanish
GUESS = 140
FEWEST = 60  # of those that vanish nowhere, and of another ramp
GUESSES = 6  # times that the coarsest level is solved, at most, until it knows how large W2 is
LEAST = 1e-3  # part of an idea of W2^2 below which the next one does not fall at once
# gap from which a coarser level's phi is forgotten, and the straight path is tried as well,
HOPELESS = 0.3
NEAR = 0.2  # or W2 in units of the width below which it is tried where the gap is above tol
BLIND = 0.5  # part of int |rho1 - rho0| that a coarser level must see to be believed
RATE = 1.7, 4.0  # of densities that vanish, and of others
SPARE = 1.3  # and so many times more iterations than that are taken
LOCAL = 0.6  # with the local penalty, which coarser levels do not have, so many will do
FIRST = 1e-5, 1e-4  # eps of the first upper bound on a finer level, at least and at most


class Reached(NamedTuple):
    """phi (n_cells, N + 1), rho (n_patches, N) at the end of an iteration, and bounds of W2^2 (+ 2
    E).
    """

    phi: np.ndarray
    rho: np.ndarray
    lower: Lower
    upper: Upper

    @property
    def gap(self):
        """(cost - lower bound) / W2^2 of the path."""
        return (
            (self.upper.cost - self.lower.cost) / self.upper.scale if self.upper.scale > 0 else 0.0
        )

    def with_better_bounds(self, other):
        """The same, with the bounds of *other* where they are better."""
        return self._replace(
            lower=max(self.lower, other.lower, key=lambda bound: bound.cost),
            upper=min(self.upper, other.upper, key=lambda bound: bound.cost),
        )


def iterations_to(gap, n_iterations, before, rate=RATE[0]):
    """Iterations that should bring the gap to *gap*, where n_iterations have brought it to
    *before*.
    """
    before = min(max(before, 0.0), 1.0) if math.isfinite(before) else 1.0
    return math.ceil(SPARE * n_iterations * (before / gap) ** (1 / rate))


class NestedIteration:
    """One problem on all levels, the finest first.

    levels : `multilevel.Level`; terminals : a `Terminal` for each, or None; ends : (n_cells, 2)
        rho0 and rho1 on each, where rho1 is no more than the latest idea of it if there is a
        `Terminal`
    best : `Reached` on the mesh itself, with the best bounds seen
    used : iterations there
    """

    def __init__(self, levels, terminals, rho0, rho1, *, tol, max_iter, dtype):
        self.levels = levels
        self.terminals = terminals
        self.tol = tol
        self.max_iter = max_iter
        self.dtype = dtype
        self.free = terminals[0] is not None
        self.best = None
        self.used = 0
        self._ramp = None
        self.ends = [np.stack([rho0, rho1], axis=1)]
        for level in levels[:-1]:
            self.ends.append(level.restrict @ self.ends[-1])

    def run(self, saved=None):
        """Iterate until the gap is below tol, or max_iter is used up; yields the iterations on the
        mesh itself after each.

        saved : what `save` gave
        """
        start, n_iterations = self._coarse() if saved is None else self._restore(*saved)
        while self.best is None or self.best.gap > self.tol and self.used < self.max_iter:
            left = self.max_iter - self.used
            if n_iterations + FEWEST > left:  # no ramp too short to be of use
                n_iterations = left
            iteration = self._iteration(
                0, start, max(n_iterations, start.done), again=self.used > 0
            )
            self._ramp = (
                iteration,
                dict(n_iterations=n_iterations, used=self.used, square=start.square, eps=start.eps),
            )
            for k in iteration.run():
                yield self.used + k

            found = self._reached(0, iteration, start, enough=self.tol)
            self.used += n_iterations
            self.best = found if self.best is None else found.with_better_bounds(self.best)
            self.ends[0][:, 1] = self.best.upper.rho1
            square = max(moving(self.levels[0].disc, self.best.upper), LEAST * start.square)
            start = Start(self.best.phi, self.best.rho, square, self.best.upper.eps)
            n_iterations = max(
                iterations_to(self.tol, n_iterations / 2, self.best.gap), FEWEST
            )  # from here on, half will do
        self._ramp = None

    def save(self):
        """(cells, values) for a checkpoint; after the last iteration, what is reached, which a run
        from there has at once.
        """
        disc = self.levels[0].disc
        if self._ramp is None:
            phi = self.best.phi
            rho = self.best.rho
            end = None
            values = dict(
                n_iterations=0,
                used=self.used,
                done=0,
                r=None,
                square=moving(disc, self.best.upper),
                eps=self.best.upper.eps,
            )
        else:
            iteration, values = self._ramp
            phi, rho, end = iteration.path()
            values = dict(values, done=iteration.done, r=float(iteration.r))
        rho1 = self.ends[0][:, 1] if end is None else disc.spread(end)
        return dict(phi=phi.T, rho=disc.spread(rho.astype(float)).T, rho1=rho1), values

    def _restore(self, cells, values):
        """(`Start`, iterations of its ramp) of what was saved."""
        disc = self.levels[0].disc
        self.used = values["used"]
        if self.free:
            self.ends[0][:, 1] = cells["rho1"]
        start = Start(
            np.ascontiguousarray(cells["phi"].T),
            disc.average(np.ascontiguousarray(cells["rho"].T)),
            values["square"],
            values["eps"],
            values["done"],
            values["r"],
        )
        return start, values["n_iterations"]

    # ---- coarser levels ----------------------------------------------------------------------------------------------

    def _coarse(self):
        """(`Start` on the mesh itself, iterations that it should take), from all coarser levels."""
        start = Start(None, None, self._first_square(), None)
        n_iterations = GUESS
        for depth in reversed(range(1, len(self.levels))):
            found, start = (
                self._settled(depth, start)
                if depth == len(self.levels) - 1
                else self._next(depth, start)
            )
            start = self._finer(depth, start, found)
            n_iterations = self._enough(
                COARSE if self._is_uniform(0) else LOCAL * COARSE, found.gap
            )
        return start, n_iterations

    def _first_square(self):
        """A first idea of W2^2."""
        mesh = self.levels[0].disc.mesh
        size = np.ptp(self.levels[0].disc.mesh.bounds, axis=0)
        return max(
            gelbrich(mesh, *self.ends[0].T),
            LEAST * mesh.integrate(self.ends[0][:, 0]) * (size**2).sum(),
        )

    def _settled(self, depth, start):
        """(`Reached`, `Start` from there) on the coarsest level, again and again until W2 is about
        what it was taken to be.
        """
        for _ in range(GUESSES):
            before = start.square
            found, start = self._next(depth, start)
            if before / 2 < start.square < 2 * before:
                break
        return found, start

    def _next(self, depth, start):
        """(`Reached`, `Start` from there) on a coarser level."""
        iteration = self._iteration(depth, start, COARSE)
        for _ in iteration.run():
            pass
        found = self._reached(depth, iteration, start, enough=0.0 if depth == 1 else 1.0)
        self.ends[depth][:, 1] = found.upper.rho1
        square = max(moving(self.levels[depth].disc, found.upper), LEAST * start.square)
        return found, Start(
            None if found.gap > HOPELESS else found.phi, found.rho, square, found.upper.eps
        )

    def _finer(self, depth, start, found):
        """The `Start` of a level as that of the next finer one."""
        disc = self.levels[depth].disc
        finer = self.levels[depth - 1]
        phi = None if start.phi is None else finer.finer_phi(start.phi)
        start = start._replace(
            phi=phi, rho=finer.finer_rho(disc.spread(start.rho)), eps=np.clip(start.eps, *FIRST)
        )
        if self.free:
            self.ends[depth - 1][:, 1:] = np.maximum(finer.prolong @ found.upper.rho1[:, None], 0)
        elif self._distance(depth) < BLIND * self._distance(
            depth - 1
        ):  # the coarser level cannot tell how far
            best = upper_bound(finer.disc, start.rho, *np.ascontiguousarray(self.ends[depth - 1].T))
            return Start(None, start.rho, best.cost, best.eps)
        return start

    def _distance(self, depth):
        """int |rho1 - rho0|."""
        return self.levels[depth].disc.mesh.integrate(np.abs(np.diff(self.ends[depth])[:, 0]))

    def _enough(self, n_iterations, gap):
        """Iterations that should bring the gap to tol, where n_iterations have brought it to *gap*.

        Below GUESS they obey no law where densities vanish, unless the gap falls much faster.
        """
        easy = penalty.vanish_nowhere(self.levels[0].disc.mesh, *self._ends(0))
        expected = iterations_to(self.tol, n_iterations, gap, RATE[easy])
        return FEWEST if expected < FEWEST / 2 else max(expected, FEWEST if easy else GUESS)

    # ---- one level ---------------------------------------------------------------------------------------------------

    def _iteration(self, depth, start, n_iterations, again=False):
        """The `Iteration` on a level; again : whether it starts from another one there."""
        disc = self.levels[depth].disc
        (rho0, rho1) = self._ends(depth)
        sigma = (
            None if self._is_uniform(depth, again) else penalty.local(disc, start.rho, rho0, rho1)
        )
        return Iteration(
            disc, rho0, rho1, self.terminals[depth], start, sigma, n_iterations, self.dtype
        )

    def _reached(self, depth, iteration, start, enough):
        """What is `Reached` on a level; enough : the gap at which the search for the best upper
        bound ends.
        """
        disc = self.levels[depth].disc
        terminal = self.terminals[depth]
        (rho0, rho1) = self._ends(depth)
        phi, rho, end = iteration.path()
        rho1 = rho1 if terminal is None else disc.spread(end)
        lower = lower_bound(disc, phi, rho0, rho1, terminal)
        found = Reached(phi, rho, lower, self._upper(depth, rho, rho1, start.eps, lower, enough))
        if found.gap <= (self.tol if depth < 2 and self._is_near(disc, found.upper) else HOPELESS):
            return found
        straight = self._upper(
            depth, _straight(disc, rho0, rho1), rho1, min(EPSILONS), lower, enough
        )
        return (
            found
            if found.upper.cost <= straight.cost
            else found._replace(rho=straight.rho, upper=straight)
        )

    def _ends(self, depth):
        return np.ascontiguousarray(self.ends[depth].T)

    def _is_uniform(self, depth, again=False):
        """Whether a uniform penalty will do: on coarser levels, and where steps are cheap with it,
        at first.
        """
        mesh = self.levels[depth].disc.mesh
        ends = self._ends(depth)
        return (
            depth > 0
            or len(self.levels) == 1
            and not again
            or penalty.vanish_nowhere(mesh, *ends)
            or (has_cosines(mesh) and not again and penalty.are_spread(mesh, *ends))
        )

    def _upper(self, depth, rho, rho1, first, lower, enough):
        """The best `Upper` bound, or one with which the gap is *enough*; with a `Terminal` rho1 may
        have any mass.
        """
        disc = self.levels[depth].disc
        terminal = self.terminals[depth]
        rho0 = self._ends(depth)[0]
        energy = 0.0
        terms = 0.0
        if terminal is not None:
            end = with_mass(disc, disc.average(rho1)[:, None], disc.average(rho0)[:, None])[:, 0]
            rho1, energy, terms = disc.spread(end), *terminal.value(end)
        target = (lower.cost - 2 * energy) / (1 - enough) if enough < 1 else np.inf
        found = upper_bound(disc, rho, rho0, rho1, first=first, enough=target)
        return found._replace(cost=found.cost + 2 * energy, energy=energy, terms=terms)

    @staticmethod
    def _is_near(disc, upper):
        """Whether mass moves by a small part of its width."""
        rho0, rho1 = disc.spread(upper.rho[:, 0]), upper.rho1
        width = penalty.width(disc.mesh, rho0, rho1)
        return upper.action < (NEAR * width) ** 2 * disc.mesh.integrate(rho0)


def _straight(disc, rho0, rho1):
    """The path (1 - t) rho0 + t rho1 (n_patches, N), which is nearly the best one where rho0 and
    rho1 hardly differ.
    """
    t = (np.arange(disc.n_steps) + 0.5) / disc.n_steps
    ends = disc.average(np.stack([rho0, rho1], axis=1))
    return (1 - t) * ends[:, :1] + t * ends[:, 1:]


def moving(disc, upper):
    """Mass times half the square of the speed below which half of the energy is spent, but at least
    the cost.

    The cost is mass times the mean square of the speed; where most of the mass stays, what moves is
    much faster than that.
    """
    if upper.terms:
        return upper.action
    mesh = disc.mesh
    n = disc.mesh.n_inner
    tau, d, M = (
        node_weights(disc.n_steps),
        mesh.distance[:n, None],
        disc.mobility(node_mean(upper.rho)),
    )
    with np.errstate(all="ignore"):
        energy = tau * d**2 * upper.flux**2 / M
        square = (d * upper.flux / M) ** 2
    mass = disc.masses(upper.rho[:, :1]).sum()
    place = np.clip(
        np.nan_to_num(4 * np.log2(np.maximum(square * mass / max(upper.action, 1e-300), 1e-30))),
        0,
        79,
    ).astype(int)
    own = mesh.face_owned[:n]
    total = np.cumsum(
        mesh.ranks.sum(np.bincount(place[own].ravel(), np.nan_to_num(energy[own]).ravel(), 80))
    )
    return upper.action * max(1.0, 2 ** (np.searchsorted(total, total[-1] / 2) / 4) / 2)
