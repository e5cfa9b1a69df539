"""`BenamouBrenier`: dynamical optimal transport with a certified gap."""
import math
from typing import NamedTuple

import numpy as np

from ..errors import ConvergenceError, InputError
from ..evolution import is_number
from ..mesh import Mesh
from ..parallel import Progress
from . import penalty
from .certificate import EPSILONS, Lower, Upper, lower_bound, upper_bound
from .geodesic import Geodesic
from .moments import gelbrich
from .multigrid import MultigridPoisson
from .multilevel import levels
from .operators import Discretisation, node_mean, node_weights
from .poisson import CosinePoisson
from .projection import State

RAMP = 100              # the penalty r at the end of a ramp over that at its beginning
COARSE = 300            # iterations on each coarser level
GUESS = 120             # iterations where there is no coarser level to tell, and the fewest of densities that vanish
FEWEST = 60             # of those that do not
GUESSES = 6             # times that the coarsest level is solved, at most, until it knows how large W2 is
LEAST = 1e-3            # part of an idea of W2^2 below which the next one does not fall at once
HOPELESS = 0.3          # gap from which the straight path is tried as well
BLIND = 0.5             # part of int |rho1 - rho0| that a coarser level must see to be believed
RATE = 1.7              # gaps fall about as iterations^-RATE
SPARE = 1.1             # and so many times more iterations than that are taken
RELAXATION = 1.8        # alpha of the sweeps
METRIC = 1.3            # theta in units of sqrt(mass) / W2
PRECISIONS = {"double": np.float64, "single": np.float32}


class Start(NamedTuple):
    """Where an iteration begins: phi, rho (None: from nothing), the mass times the square of the speed with which what
    moves does so (W2^2, if all of it moves), and the best eps of an upper bound so far.
    """

    phi: np.ndarray | None
    rho: np.ndarray | None
    square: float
    eps: float | None


class Reached(NamedTuple):
    """phi (n_cells, N + 1), rho (n_patches, N) at the end of an iteration, and bounds of W2^2."""

    phi: np.ndarray
    rho: np.ndarray
    lower: Lower
    upper: Upper

    @property
    def gap(self):
        """(cost - lower bound) / cost."""
        return (self.upper.cost - self.lower.cost) / self.upper.cost if self.upper.cost > 0 else 0.0

    def with_better_bounds(self, other):
        """The same, with the bounds of *other* where they are better."""
        return self._replace(lower=max(self.lower, other.lower, key=lambda bound: bound.cost),
                             upper=min(self.upper, other.upper, key=lambda bound: bound.cost))


class BenamouBrenier:
    """Optimal transport between two densities on a mesh: the shortest path, its cost, and how far from optimal it may be.

    W2^2(rho0, rho1) = min int_0^1 int |m|^2 / rho dx dt,   d rho/dt + div m = 0,  rho(0) = rho0, rho(1) = rho1

    with no flux through the boundary: mass goes round obstacles; on a periodic mesh it lives on the torus. phi lives on
    cells, rho on patches (see `Mesh`), both bounds are rigorous for the discrete problem: lower_bound <= W2^2 <= cost.

    mesh : any `Mesh`; printing the solver shows how many patches it makes of the cells, and how isotropic they are
    n_steps : steps in time
    tol : the certified relative gap (cost - lower_bound) / cost that ends the iteration
    max_iter : iterations on the mesh itself, coarser levels not counted
    precision : "double", or "single" for the iteration's arrays: half the memory, for gaps down to about 1e-3. Bounds
        always are in double precision

    Method: over-relaxed alternating directions with a penalty that grows, from coarse levels to fine ones; as many
    iterations as the coarser level says, and more if the gap asks for it (Benamou, Brenier 2000; Papadakis, Peyre, Oudet
    2014). Raises `InputError` for parameters out of range.
    """

    def __init__(self, mesh, n_steps=32, *, tol=1e-3, max_iter=1000, precision="double"):
        if not isinstance(mesh, Mesh):
            raise InputError(f"BenamouBrenier needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), not {mesh!r:.60}")
        ranks = mesh.ranks
        ranks.check(_is_count(n_steps), f"n_steps must be a whole number from 1 on, not {n_steps!r}")
        ranks.check(is_number(tol) and 0 < tol < 1, f"tol must be a relative gap between 0 and 1, such as 1e-3, not {tol!r}")
        ranks.check(_is_count(max_iter), f"max_iter must be a whole number from 1 on, not {max_iter!r}")
        ranks.check(precision in PRECISIONS, f"precision must be 'double' or 'single', not {precision!r}")
        ranks.check_same("the parameters of BenamouBrenier", (n_steps, tol, max_iter, precision))
        self.mesh, self.n_steps, self.tol, self.max_iter = mesh, int(n_steps), float(tol), int(max_iter)
        self.precision = precision
        self._levels = levels(Discretisation(mesh, self.n_steps))

    def __repr__(self):
        problem, ranks = self._levels[0].problem, self.mesh.ranks
        defect = ranks.max(problem.isotropy_defect().max(initial=0.0))
        return (f"<fvot.BenamouBrenier: {self.mesh.n_cells_global} cells in {ranks.sum(problem.n_patches)} patches "
                f"(isotropy defect {defect:.0e}), {self.n_steps} steps, {len(self._levels)} levels>")

    def solve(self, rho0, rho1, *, progress=None):
        """The `Geodesic` from rho0 to rho1, cell averages (n_cells,) of equal mass. Collective.

        progress : show a bar; None: if standard error is a terminal

        Raises `InputError` for densities that are negative, not finite, or of different mass, in the whole or in one of the
        mesh's connected pieces; `ConvergenceError`, with the path so far in `.result`, if max_iter is not enough.
        """
        rho0, rho1 = self._checked(rho0, rho1)
        difference, largest = self.mesh.ranks.max(np.array([np.abs(rho1 - rho0).max(), rho0.max()]))
        if difference <= 4 * np.finfo(float).eps * largest:
            return Geodesic.at_rest(self._levels[0].problem, rho0)
        with Progress(0, self.max_iter, progress, "iteration") as bar:
            found, used = self._solve(rho0, rho1, bar)
        path = Geodesic.of(self._levels[0].problem, rho0, rho1, found.lower, found.upper, used)
        if not found.gap <= self.tol:
            more = math.ceil(used * (found.gap / self.tol)**(1 / RATE) * SPARE)
            raise ConvergenceError(
                f"Benamou-Brenier reached a certified gap of {found.gap:.1e} > tol = {self.tol:.1e} in {used} iterations; "
                f"max_iter={more} may do, or a larger tol; the path so far is in .result", path)
        return path

    def _checked(self, rho0, rho1):
        """The densities as arrays; rho1 scaled to the mass of rho0, from which it differs by round-off, in each piece."""
        problem, ranks = self._levels[0].problem, self.mesh.ranks
        for rho, name in (rho0, "rho0"), (rho1, "rho1"):
            self.mesh.check_density(rho, name)
        ends = problem.average(np.stack([rho0, rho1], axis=1).astype(float))
        mass = problem.masses(ends)
        total = mass.sum(axis=0)
        ranks.check((total > 0).all(), "rho0 and rho1 are zero everywhere: there is nothing to move" if not total.any() else
                    f"rho{int(total.argmin())} is zero everywhere, the other density has mass {total.max():.6g}")
        worst = int(np.abs(mass[:, 1] - mass[:, 0]).argmax())
        far = np.abs(total[1] - total[0]) > 1e-11 * total[0]
        ranks.check(not far, f"rho0 has mass {total[0]:.12g}, rho1 has {total[1]:.12g}: they must be equal. mesh.density makes "
                    "densities of mass 1; rho1 * mesh.integrate(rho0) / mesh.integrate(rho1) has the mass of rho0")
        apart = np.abs(mass[worst, 1] - mass[worst, 0]) > 1e-11 * total[0]
        ranks.check(not apart, f"the mesh has {len(mass)} pieces that do not touch, and one of them has mass "
                    f"{mass[worst, 0]:.6g} of rho0 and {mass[worst, 1]:.6g} of rho1: nothing can move between them, so both "
                    "must have the same mass in each piece")
        factor = mass[:, 0] / np.where(mass[:, 1] > 0, mass[:, 1], 1)
        return np.asarray(rho0, float), rho1 * problem.spread(factor[problem.component])

    # ---- from the coarsest level to the finest -----------------------------------------------------------------------

    def _solve(self, rho0, rho1, bar):
        """(`Reached` on the mesh itself, with the best bounds seen; iterations there)."""
        ends = [np.stack([rho0, rho1], axis=1)]
        for level in self._levels[:-1]:
            ends.append(level.restrict @ ends[-1])
        start, n_iterations = self._coarse(ends)
        best, used = None, 0
        while best is None or best.gap > self.tol and used < self.max_iter:
            left = self.max_iter - used
            n_iterations = n_iterations if n_iterations + FEWEST <= left else left         # no ramp too short to be of use
            found = self._ramp(0, ends[0], start, n_iterations, enough=self.tol, again=used > 0,
                               progress=lambda k, used=used: bar.to(used + k))
            used += n_iterations
            best = found if best is None else found.with_better_bounds(best)
            start = Start(best.phi, best.rho, _moving(self._levels[0].problem, best.upper), best.upper.eps)
            n_iterations = self._enough(n_iterations / 2, best.gap)        # a ramp from here on is better than the first
        return best, used

    def _coarse(self, ends):
        """(`Start` on the mesh itself, iterations that it should take), from all coarser levels."""
        start, n_iterations = Start(None, None, self._first_square(*ends[0].T), None), GUESS
        easy = penalty.vanish_nowhere(self.mesh, *ends[0].T)
        for depth in reversed(range(1, len(self._levels))):
            for _ in range(GUESSES if depth == len(self._levels) - 1 else 1):
                square, spent = start.square, COARSE // 3 if easy else COARSE
                found = self._ramp(depth, ends[depth], start, spent, enough=0.0 if depth == 1 else 1.0)
                start = Start(found.phi, found.rho, max(_moving(self._levels[depth].problem, found.upper), LEAST * square),
                              found.upper.eps)
                if square / 2 < start.square < 2 * square:
                    break
            problem, finer = self._levels[depth].problem, self._levels[depth - 1]
            start = start._replace(phi=finer.finer_phi(start.phi), rho=finer.finer_rho(problem.spread(start.rho)))
            moved, seen = (_distance(self._levels[k].problem.mesh, *ends[k].T) for k in (depth - 1, depth))
            if seen < BLIND * moved:            # the coarser level cannot tell how far
                best = upper_bound(finer.problem, start.rho, *np.ascontiguousarray(ends[depth - 1].T))
                start = Start(0 * start.phi, start.rho, best.cost, best.eps)
            n_iterations = self._enough(spent, found.gap)
        return start, n_iterations

    def _first_square(self, rho0, rho1):
        """A first idea of W2^2."""
        mesh, size = self.mesh, np.ptp(self.mesh._bounds, axis=0)
        return max(gelbrich(mesh, rho0, rho1), LEAST * mesh.integrate(rho0) * (size**2).sum())

    def _enough(self, n_iterations, gap):
        """Iterations that should bring the gap to tol, where n_iterations have brought it to *gap*.

        Below GUESS they obey no law, unless the gap falls much faster, as it does for densities that vanish nowhere.
        """
        expected = math.ceil(SPARE * n_iterations * (max(gap, 0.0) / self.tol)**(1 / RATE))
        return FEWEST if expected < FEWEST / 2 else max(expected, GUESS)

    def _ramp(self, depth, ends, start, n_iterations, enough=0.0, again=False, progress=None):
        """What is `Reached` on a level by n_iterations in which the penalty grows from r to RAMP r.

        enough : the gap at which the search for the best upper bound ends; again : whether it starts from such a ramp here
        """
        problem, (rho0, rho1) = self._levels[depth].problem, np.ascontiguousarray(ends.T)
        mesh, cosines = problem.mesh, problem.mesh.block is not None and problem.mesh.ranks.size == 1
        uniform = depth > 0 or start.rho is None or penalty.vanish_nowhere(mesh, rho0, rho1) or (
            cosines and not again and penalty.are_spread(mesh, rho0, rho1))
        sigma = np.ones(problem.n_patches) if uniform else penalty.local(problem, start.rho, rho0, rho1)
        phi, rho = iterated(problem, rho0, rho1, start, sigma, CosinePoisson if cosines and uniform else MultigridPoisson,
                            n_iterations, PRECISIONS[self.precision], progress)
        lower = lower_bound(problem, phi, rho0, rho1)
        target = lower.cost / (1 - enough) if enough < 1 else np.inf
        found = Reached(phi, rho, lower, upper_bound(problem, rho, rho0, rho1, first=start.eps, enough=target))
        if found.gap < HOPELESS:
            return found
        straight = _straight_upper_bound(problem, rho0, rho1)              # perhaps hardly anything moves
        return found if found.upper.cost <= straight.cost else found._replace(rho=straight.rho, upper=straight)


def iterated(problem, rho0, rho1, start, sigma, make_poisson, n_iterations, dtype, progress=None):
    """(phi, rho) after n_iterations from a `Start` on, with penalties from r sigma to RAMP r sigma, sigma (n_patches,)."""
    mesh, source = problem.mesh, problem.source(rho0, rho1)[:, [0, -1]]
    theta, r = METRIC * np.sqrt(mesh.integrate(rho0) / start.square), penalty.first(mesh, rho0, rho1)
    poisson, state = make_poisson(problem, theta, dtype, sigma), State(problem, theta, dtype, sigma)
    if start.phi is not None:
        state.start(start.phi, start.rho, r)
    rhs, grow = state.right_hand_side(), RAMP**(1 / max(n_iterations - 1, 1))
    for k in range(n_iterations):
        rhs[:, [0, -1]] += source / r
        phi = poisson(rhs)
        kappa = grow if k < n_iterations - 1 else 1.0
        rhs, r = state.sweep(phi, RELAXATION, kappa), r * kappa
        if progress is not None:
            progress(k + 1)
    return phi.astype(float), r * sigma[:, None] * state.l


def _straight_upper_bound(problem, rho0, rho1):
    """The `Upper` bound of the path (1 - t) rho0 + t rho1, which is nearly the best one where rho0 and rho1 hardly differ."""
    t = (np.arange(problem.n_steps) + 0.5) / problem.n_steps
    ends = problem.average(np.stack([rho0, rho1], axis=1))
    return upper_bound(problem, (1 - t) * ends[:, :1] + t * ends[:, 1:], rho0, rho1, first=min(EPSILONS))


def _moving(problem, upper):
    """Mass times half the square of the speed below which half of the energy is spent, but at least the cost.

    The cost is mass times the mean square of the speed; where most of the mass stays, what moves is much faster than that.
    """
    mesh, n = problem.mesh, problem.mesh.n_inner
    tau, d, M = node_weights(problem.n_steps), mesh.distance[:n, None], problem.mobility(node_mean(upper.rho))
    with np.errstate(all="ignore"):
        energy, square = tau * d**2 * upper.flux**2 / M, (d * upper.flux / M)**2
    mass = problem.masses(upper.rho[:, :1]).sum()
    place = np.clip(np.nan_to_num(4 * np.log2(np.maximum(square * mass / max(upper.cost, 1e-300), 1e-30))), 0, 79).astype(int)
    own = mesh.face_owned[:n]
    total = np.cumsum(mesh.ranks.sum(np.bincount(place[own].ravel(), np.nan_to_num(energy[own]).ravel(), 80)))
    return upper.cost * max(1.0, 2**(np.searchsorted(total, total[-1] / 2) / 4) / 2)


def _distance(mesh, rho0, rho1):
    """int |rho1 - rho0|."""
    return mesh.integrate(np.abs(rho1 - rho0))


def _is_count(n):
    return is_number(n) and n >= 1 and n % 1 == 0
