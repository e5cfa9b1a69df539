"""One implicit step of a Fokker-Planck operator: rho -> Y with (|K| + s A) Y = |K| rho, made safe.

A is the matrix of the two-point fluxes, (A rho)_K = sum over the faces of K of the outward flux.
Its off-diagonal entries are <= 0 and its columns add up to the outflow through the boundary, and by
decay. So |K| + s A is an M-matrix for every s > 0 (where mass grows, as long as s growth < 1): its
inverse is non-negative, conserves mass and is a
contraction in L1 and in every convex entropy. A solver in floating point has none of this by
itself, hence

1. Increments: (|K| + s A) d = -s (net outflow of rho, face by face), Y = rho + d. The Gibbs
   density, whose fluxes are zero, stays fixed to round-off for any tolerance of the solver and any
   s.
2. Every solution is checked: its true residual, computed face by face, its mass, its negative part
   (which an M-matrix cannot make) and, where there is one, its entropy. A solution that fails is
   refined by one more solve for the residual, then the next method is tried, then a
   `ConvergenceError` is raised. A residual r bounds the error: |Y - exact|_L1 <= sum |r_K|.
3. Four methods, ranked by `linalg.rank_methods`: LU, factorised once for many steps; BiCGStab with
   ILU(0), cells in the order of the drift; the package's own `multigrid`; GMRES with BoomerAMG on
   the columns scaled by the Gibbs density G, (|K| + s A) G y = rhs, d = G y. That matrix is
   symmetric where there is a potential, and its iterations grow neither with the barriers nor with
   s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np

from .. import linalg
from ..arguments.types import Array
from ..errors import ConvergenceError
from ..multigrid.solver import Multigrid
from .guesses import Guesses
from .rates import Rates

IMPLICIT_STEP_PREFIX = "fvot_fokker_planck_"

# The exponent beyond which the column scaling is cut off: e^-300 is far from underflow.
MAX_EXPONENT = 300.0

# Tolerance of the solves that look for the scaling of the columns. The scaling only has to be good
# enough for a preconditioner.
SCALE_TOLERANCE = 1e-7

# Growth of the step from one of these solves to the next, and the stiffness of the first.
SCALE_STEP_GROWTH = 30
SCALE_FIRST_STIFFNESS = 10

# Solves for one step at most, the first included.
MAX_SOLVES = 5

# Tolerance of all solves but the first: they start from a small residual.
REFINEMENT_TOLERANCE = 1e-3

# What multigrid aims at, in tolerances: a third of the residual that the checks accept.
AIMED_TOLERANCES = 3

# The stiffness, in cells along a side, up to which multigrid takes a uniform smooth state: mass
# does not move over the whole mesh in such a step.
SHORT_STEP_CELLS = 2

# The smallest tolerance of a solve with the transposed matrix.
TIGHTEST_TOLERANCE = 1e-12

# The smallest tolerance that the checks ask for, and the rounding of sums over cells, relative to
# the sum of absolute values.
RELATIVE_ROUNDING = 1e-15


# ---- how the columns are scaled for multigrid ----------------------------------------------------


class ColumnScaleCache:
    """The last column scaling that was computed, which later rates on the same mesh may use.

    Whoever takes many steps keeps one and hands it to each `Resolvent`.
    """

    def __init__(self) -> None:
        self.scale: Array | None = None
        self._rates: Rates | None = None

    def find(self, rates: Rates) -> Array:
        """The column scaling (n_cells,), over its maximum and cut off at e^-300. Collective.

        It is the Gibbs density of the rates; else the cached scaling; else a new approximate
        stationary density, which is then cached.
        """
        if rates.minus_log_gibbs is not None:
            return _gibbs_density(rates.mesh.ranks, rates.minus_log_gibbs)
        if self.scale is None:
            self.scale = _compute_scale(rates)
            self._rates = rates
        return self.scale

    def is_stale(self, rates: Rates) -> bool:
        """Whether `find` returns a scaling that was computed for other rates."""
        return rates.minus_log_gibbs is None and self.scale is not None and self._rates is not rates

    def clear(self) -> None:
        """Forget the scaling: `find` computes a new one."""
        self.scale = None
        self._rates = None


def _gibbs_density(ranks, minus_log):
    lowest = ranks.min(minus_log.min(initial=np.inf))
    return np.exp(-np.minimum(minus_log - lowest, MAX_EXPONENT))


def _compute_scale(rates):
    """Implicit steps from the uniform density, 30 times longer each time, each scaled by the result
    of the last one.

    The longest is about the time in which diffusion crosses the mesh a thousand times: longer ones
    add noise where the density is low.
    """
    mesh = rates.mesh
    is_inner = mesh.right >= 0
    inner_a = np.where(is_inner, rates.a, 0)
    inner_b = np.where(is_inner, rates.b, 0)
    inner = Rates(rates.pattern, inner_a, inner_b)
    fastest = mesh.ranks.max(inner.leaving().max(initial=0.0))
    scale = np.ones(mesh.n_cells)
    if fastest == 0:
        return scale

    closed = np.zeros(mesh.n_faces - mesh.n_inner)
    crossing = 1e4 * mesh.n_cells_global ** (2 / mesh.dim)
    n_longer = np.ceil(np.log(crossing / SCALE_FIRST_STIFFNESS) / np.log(SCALE_STEP_GROWTH))

    rho = scale
    for stiffness in np.geomspace(SCALE_FIRST_STIFFNESS, crossing, 1 + int(n_longer)):
        s = stiffness / fastest
        method = CellMethod(
            inner, s, "amg", SCALE_TOLERANCE, IMPLICIT_STEP_PREFIX + "scale_", scale
        )
        rho = rho + method.solve(-s * inner.outflow(rho, closed)[0], SCALE_TOLERANCE)
        method.destroy()

        largest = mesh.ranks.max(np.abs(rho).max(initial=0.0))
        rho = np.maximum(rho / largest, np.exp(-MAX_EXPONENT))
        scale = rho
    return scale


# ---- the step ------------------------------------------------------------------------------------


class Resolvent:
    """rho -> Y = (|K| + s A)^-1 (|K| rho + s b g): implicit Euler over a time s, checked as the
    module says.

    scales : the cache of the column scaling, shared with other steps on the same mesh
    rtol : relative tolerance of the linear solves
    names : the methods that have not failed
    guesses : the last right-hand sides and solutions, from which multigrid begins; None without
    iterations, solves : of the linear solver, so far
    is_monotone : whether exact solutions of positive right-hand sides are positive
    signed : whether densities have any sign
    """

    is_monotone = True

    def __init__(
        self,
        rates: Any,
        s: float,
        *,
        scales: ColumnScaleCache,
        rtol: float = 1e-10,
        prefix: str = IMPLICIT_STEP_PREFIX,
        signed: bool = False,
    ):
        mesh = rates.mesh
        self.rates = rates
        self.signed = signed
        self.s = s
        self.rtol = rtol
        self.prefix = prefix
        self.scales = scales
        self.stiffness = s * mesh.ranks.max(rates.leaving().max(initial=0.0))
        self.costs = linalg.estimate_costs(
            rates.n_unknowns,
            mesh.dim,
            mesh.ranks.size,
            self.stiffness,
            rates.steepness(),
            rates.minus_log_gibbs is not None,
            self.find_multigrid(),
        )
        self.first_name = linalg.find_users_choice(prefix, list(self.costs), mesh.ranks)
        self.names = list(self.costs)
        self.guesses: Guesses | None = None
        self.iterations = 0
        self.solves = 0
        self._method: LinearMethod | None = None
        self._transposed_method: LinearMethod | None = None

    def find_multigrid(self) -> str | None:
        """The kind of the grids of `multigrid`; None where the user wants a solver of PETSc's."""
        if linalg.has_users_solver(self.prefix):
            return None
        return "graphs" if self.rates.mesh.block is None else "blocks"

    def expect(self, n_solves: float) -> Resolvent:
        """Prepare for that many solves, by the method that is the cheapest for them."""
        ready = None if self._method is None else self._method.name
        by_cost = linalg.rank_methods(self.costs, n_solves, ready)
        by_cost.sort(key=lambda name: name != self.first_name)
        self.names = [name for name in by_cost if name in self.names]
        if ready is not None and self.names and self.names[0] != ready:
            self.destroy()
        return self

    def keep_guesses(self) -> None:
        """Begin solves by multigrid from the solutions of the last ones. Where a density is nearly
        0 that leaves errors of both signs: the caller must not mind.
        """
        self.guesses = Guesses(self.rates.mesh.ranks)

    def prefer(self, name: str) -> None:
        """Try the method of that name first."""
        if name in self.names and self.names[0] != name:
            self.destroy()
            self.names = [name, *[other for other in self.names if other != name]]

    def __call__(
        self,
        start: Array,
        entering: Array,
        rest: Array | float = 0.0,
        fault: Callable[[Array], str | None] | None = None,
    ) -> Array:
        """Y (n_cells,) with |K| (Y - start) + s (net outflow of Y) = rest: implicit Euler where the
        rest is 0. Collective.

        entering (n_faces - n_inner [+ n_cells],) : the densities at the boundary, and the sources
        rest (n_cells,) : a further source in the cells; with one, Y may be negative
        fault : a further check: a function of Y that returns a message, or None if Y is good

        Raises `ConvergenceError` where no method passes the checks.
        """
        return self._try_methods(lambda: self._attempt(start, entering, rest, fault))

    def transposed(self, start: Array, rest: Array | float = 0.0) -> Array:
        """Y (n_cells,) with |K| (Y - start) + s A^T Y = rest: where the rest is 0, what this step
        makes of a function of the state, for the equation backwards in time. Collective.

        start (n_cells,) : of any sign. Constants stay to the bit where nothing leaves the mesh, and
            without growth and a rest Y lies between the smallest and the largest value of the
            start (0 among them, where mass leaves the mesh)
        rest (n_cells,) : a source in the cells

        The rows of |K| + s A^T add up to at least |K| (half of it, where mass grows): with the
        residual r, Y is wrong by at most max |r_K| / |K| (twice that). This is less than 10 rtol of
        the largest value, up to round-off.

        Raises `ConvergenceError` where no method passes the checks.
        """
        return self._try_methods(lambda: self._attempt_transposed(start, rest))

    def _try_methods(self, attempt):
        """The values that attempt() returns, by the first method that passes the checks."""
        faults = []
        while self.names:
            try:
                Y, problem = attempt()
            except ConvergenceError as error:
                problem = str(error)
            if problem is None:
                return Y
            if self.scale_is_stale():
                self.scales.clear()
                self.destroy()
                continue
            faults.append(f"{self.names[0]}: {problem}")
            self.give_up()

        raise ConvergenceError(
            f"no linear solver succeeded with an implicit step of {self.s:.3g}, "
            f"{self.stiffness:.1e} times the time in which a cell is emptied "
            f"({'; '.join(faults)}): take a smaller step, or choose another solver by PETSc's "
            f"options, such as -{self.prefix}pc_type"
        )

    def scale_is_stale(self) -> bool:
        """Whether the method at work is multigrid with a scaling that was computed for other
        rates.
        """
        if self.names[0] == "multigrid" and isinstance(self._method, MultigridMethod):
            return not self._method.is_short and self.scales.is_stale(self.rates)
        return self.names[0] == "amg" and self.scales.is_stale(self.rates)

    def give_up(self) -> None:
        """Go on with the next method."""
        self.names = self.names[1:]
        self.destroy()

    def destroy(self) -> None:
        """Give the memory of the linear system back. Collective."""
        if self.guesses is not None:
            self.guesses.clear()
        for method in self._method, self._transposed_method:
            if method is not None:
                method.destroy()
        self._method = None
        self._transposed_method = None

    def _attempt(self, start, entering, rest, judge):
        """(Y, None), or (Y, the message of a check that has failed)."""
        d = np.zeros_like(start)
        is_positive = self.is_monotone and not self.signed and np.ndim(rest) == 0
        residual, before = self._residual(d, start, entering, rest)
        if before.size == 0:
            return start.copy(), None

        if self._method is None:
            self._method = self._build_method(self.names[0])

        guess, residual, left = self._find_guess(residual)
        for i in range(MAX_SOLVES):
            rtol = self._method.choose_tolerance(left, is_first=i == 0)
            correction = self._method.solve(residual, rtol)
            if i == 0:
                d = correction if guess is None else guess + correction
                solution = start + d
            else:
                d, solution = _correct(start, d, solution, correction)
            residual, now = self._residual(d, solution, entering, rest)
            left = now.size / before.size

            fault = self._describe_fault(before, now, is_positive)
            Y = np.maximum(solution, 0) if is_positive else solution
            if fault is None and judge:
                fault = judge(Y)

            self.solves += 1
            if fault is None or self._method.has_failed or not np.isfinite(now.size):
                break

        self.iterations += self._method.count_iterations()
        if fault is None and self.guesses is not None:
            self.guesses.add(d)
        return Y, fault

    def _find_guess(self, residual):
        """(a first guess or None, the residual that it leaves, the relative size of that)."""
        if self.guesses is None or self._method.name != "multigrid":
            return None, residual, 1.0
        return self.guesses.find(residual)

    def _build_method(self, name):
        if name == "multigrid":
            return MultigridMethod(self.rates, self.s, self.rtol, self.stiffness, self.scales)
        scale = self.scales.find(self.rates) if name == "amg" else None
        return CellMethod(self.rates, self.s, name, self.rtol, self.prefix, scale)

    # ---- transposed -----------------------------------------------------------------------------

    def _attempt_transposed(self, start, rest):
        """(Y, None), or (Y, the message of a check that has failed)."""
        d = np.zeros_like(start)
        residual, before = self._transposed_residual(d, start, rest)
        if before.error == 0:
            return start.copy(), None

        method = self._find_transposed_method()
        tolerance = max(method.rtol, RELATIVE_ROUNDING)
        loosest = method.rtol
        now = before
        for _ in range(MAX_SOLVES):
            wanted = tolerance * before.size / now.error
            rtol = min(max(wanted, TIGHTEST_TOLERANCE), loosest)
            d += method.solve_transposed(residual, rtol)
            Y = start + d
            residual, now = self._transposed_residual(d, Y, rest)

            self.solves += 1
            size = max(before.size, now.size)
            terms = max(before.terms, now.terms)
            is_good = now.error <= 10 * tolerance * size + RELATIVE_ROUNDING * terms
            if is_good or method.has_failed or not np.isfinite(now.error):
                break
            loosest = REFINEMENT_TOLERANCE

        self.iterations += method.count_iterations()
        if not is_good:
            return Y, f"errors up to {now.error:.1e} in values up to {size:.1e}"
        return (self._keep_within(start, Y) if np.ndim(rest) == 0 else Y), None

    def _find_transposed_method(self):
        """The method at work, or, where that is one of multigrid, which cannot solve the transposed
        system of its own, another one with the transposed matrix.
        """
        name = self.names[0]
        if name == "amg":
            if self._transposed_method is None:
                self._transposed_method = CellMethod(
                    self.rates, self.s, name, self.rtol, self.prefix, transposed=True
                )
            return self._transposed_method
        if name == "multigrid":
            if self._transposed_method is None:
                self._transposed_method = MultigridMethod(
                    self.rates, self.s, self.rtol, self.stiffness, self.scales, transposed=True
                )
            return self._transposed_method
        if self._method is None:
            self._method = self._build_method(name)
        return self._method

    def _transposed_residual(self, d, Y, rest):
        """(residual (n_cells,), its `TransposedNorms`)."""
        mesh = self.rates.mesh
        out, sizes = self.rates.transposed_outflow(Y)
        residual = rest - mesh.volume * d - self.s * out
        own = np.stack([residual / mesh.volume, self.s * sizes / mesh.volume, Y])
        largest = np.abs(own).max(axis=1, initial=0.0)
        largest = np.where(np.isnan(largest), np.inf, largest)
        return residual, TransposedNorms(*mesh.ranks.max(largest))

    def _keep_within(self, start, Y):
        """Y between the bounds of exact solutions, see `transposed`."""
        ranks = self.rates.mesh.ranks
        leaves, grows = self._exits
        if grows:
            return Y
        extremes = np.append(start, [0.0] if leaves else [])
        low = ranks.min(extremes.min(initial=np.inf))
        high = ranks.max(extremes.max(initial=-np.inf))
        return np.clip(Y, low, high)

    @cached_property
    def _exits(self):
        """(whether mass leaves the mesh, whether it grows somewhere). Collective."""
        rates = self.rates
        decay = np.zeros(1) if rates.decay is None else rates.decay
        leaving = max(rates.a[rates.mesh.n_inner :].max(initial=0.0), decay.max(initial=0.0))
        leaves, grows = rates.mesh.ranks.max(np.array([leaving, -decay.min(initial=0.0)]))
        return leaves > 0, grows > 0

    # ---- checks ---------------------------------------------------------------------------------

    def _residual(self, d, Y, entering, rest):
        """(residual (n_cells,), its `ResidualNorms`).

        It is that of the fluxes of Y, not of d: they are smaller where Y is smoother than the
        start. One cell gives exactly what the other receives, so the sum of the residual is the
        error of the mass to round-off.
        """
        mesh = self.rates.mesh
        residual = np.empty(mesh.n_cells)
        out, (terms, fluxes) = self.rates.outflow(Y, entering)
        rest = np.broadcast_to(rest, mesh.n_cells)
        sums = compute_residual(rest, mesh.volume, d, self.s, out, Y, residual)
        own = np.array([*sums, self.s * terms, self.s * fluxes])
        return residual, ResidualNorms(*mesh.ranks.sum(own))

    def _describe_fault(self, before, now, is_positive):
        """The message of a check that the solution fails, or None.

        Sums are compared with the tolerance, and with the rounding of their terms.
        """
        tolerance = 10 * max(self._method.rtol, RELATIVE_ROUNDING)
        mass = max(before.mass, now.mass)
        if not np.isfinite(now.size):
            return "the solution is not finite"
        if now.size > tolerance * before.size + RELATIVE_ROUNDING * (mass + now.terms):
            return f"relative residual {now.size / before.size:.1e}"
        if abs(now.gained) > tolerance * mass + RELATIVE_ROUNDING * now.fluxes:
            return f"mass changed by {now.gained / mass:.1e}"
        if is_positive and now.negative > tolerance * mass:
            return f"negative mass {now.negative / mass:.1e}"
        return None


class ResidualNorms(NamedTuple):
    """Sums over all cells.

    size, gained : of |residual| and of the residual
    negative, mass : of |K| max(-Y, 0) and |K| |Y|
    terms, fluxes : s times the sums of `Rates.outflow`
    """

    size: float
    gained: float
    negative: float
    mass: float
    terms: float
    fluxes: float


class TransposedNorms(NamedTuple):
    """The largest values of all cells: |residual| / |K|, s times the sizes of
    `Rates.transposed_outflow` / |K|, and |Y|.
    """

    error: float
    terms: float
    size: float


@numba.njit(cache=True, error_model="numpy")
def compute_residual(rest, volume, d, step, out, Y, residual):
    """residual = rest - |K| d - s out; the sums of |residual|, residual, |K| max(-Y, 0) and |K|
    |Y|.
    """
    size = 0.0
    gained = 0.0
    negative = 0.0
    mass = 0.0
    for cell in range(len(residual)):
        r = rest[cell] - volume[cell] * d[cell] - step * out[cell]
        content = volume[cell] * Y[cell]
        residual[cell] = r
        size += abs(r)
        gained += r
        mass += abs(content)
        negative += abs(content) - content
    return size, gained, negative / 2, mass


def _correct(start, d, Y, correction):
    """(d, Y) with a further correction added to both, Y = start + d.

    The smaller one of Y and d in a cell keeps its digits: where nearly all has decayed, Y would be
    lost in the rounding of the start.
    """
    change = d + correction
    is_small = np.abs(Y) < np.abs(d)
    corrected = np.where(is_small, Y + correction, start + change)
    return np.where(is_small, corrected - start, change), corrected


class LinearMethod:
    """One method at work: a linear system, and how many iterations it took.

    rtol : the tolerance, which PETSc's options may have changed
    """

    def __init__(self, name: str, system: Any, rtol: float):
        self.name = name
        self.system = system
        self.rtol = rtol
        self._counted = 0

    @property
    def has_failed(self) -> bool:
        """Whether PETSc says that the last solve has not converged."""
        return self.system.reason < 0

    def choose_tolerance(self, reduction: float, *, is_first: bool) -> float:
        """The tolerance of the next solve, where what was done before has left that part of the
        residual.
        """
        return self.rtol if is_first else max(self.rtol, REFINEMENT_TOLERANCE)

    def count_iterations(self) -> int:
        """The iterations since the last call."""
        before = self._counted
        self._counted = self.system.iterations
        return self._counted - before

    def destroy(self) -> None:
        """Give the memory back. Collective."""
        self.system.destroy()


class MultigridMethod(LinearMethod):
    """The package's own multigrid on |K| + s A.

    The smooth state is uniform in short steps, which move mass over less than the mesh; in longer
    ones it is the column scaling, which is the Gibbs density where there is one.
    """

    def __init__(
        self,
        rates: Rates,
        s: float,
        rtol: float,
        stiffness: float,
        scales: ColumnScaleCache,
        *,
        transposed: bool = False,
    ):
        mesh = rates.mesh
        side = mesh.n_cells_global ** (1 / mesh.dim)
        self.is_short = stiffness <= SHORT_STEP_CELLS * side
        density = np.ones(mesh.n_cells) if self.is_short else scales.find(rates)
        kept = mesh.volume if rates.decay is None else mesh.volume + s * rates.decay
        system = Multigrid(
            mesh,
            rates.pattern.stencil,
            s * rates.a,
            s * rates.b,
            kept,
            density,
            stiffness,
            transposed=transposed,
        )
        super().__init__("multigrid", system, rtol)

    @property
    def has_failed(self) -> bool:
        """Whether the last solve has not reached its tolerance."""
        return self.system.has_failed

    def choose_tolerance(self, reduction: float, *, is_first: bool) -> float:
        """See `LinearMethod`. What is left to do is shared evenly by the fewest solves of the
        precision.
        """
        loosest = 0.5 if is_first else REFINEMENT_TOLERANCE
        left = min(AIMED_TOLERANCES * self.rtol / max(reduction, self.rtol), loosest)
        n_solves = np.ceil(np.log(left) / np.log(self.system.tolerance))
        return left ** (1 / n_solves)

    def solve(self, rhs: Array, rtol: float) -> Array:
        """d with (|K| + s A) d = rhs, all (n_cells,), to the tolerance unless `has_failed`."""
        return self.system.solve(rhs, rtol)

    def solve_transposed(self, rhs: Array, rtol: float) -> Array:
        """The same of the transposed matrix, for which this is."""
        return self.system.solve(rhs, rtol)

    def destroy(self) -> None:
        """See `LinearMethod`: there is nothing to be told."""


class CellMethod(LinearMethod):
    """One method at work on |K| + s A: cells in the order of the drift for ILU, columns scaled for
    AMG.

    order, scale : of the cells, or None
    """

    def __init__(
        self,
        rates: Rates,
        s: float,
        name: str,
        rtol: float,
        prefix: str,
        scale: Array | None = None,
        *,
        transposed: bool = False,
    ):
        """transposed : whether the matrix is |K| + s A^T; then neither order nor scale."""
        mesh = rates.mesh
        self.order = rates.order_by_drift() if name == "ilu" else None
        self.scale = scale
        self.transposed = transposed
        matrix = rates.pattern.matrix(rates, s, self.order, self.scale, transposed=transposed)
        method = linalg.find_method(name, mesh.dim, mesh.ranks.size)
        system = linalg.System(mesh.ranks, matrix, method, prefix=prefix, rtol=rtol)
        super().__init__(name, system, system.rtol)

    def solve(self, rhs: Array, rtol: float) -> Array:
        """d with (|K| + s A) d = rhs, all (n_cells,), to the tolerance unless `has_failed`."""
        if self.order is not None:
            d = np.empty_like(rhs)
            d[self.order] = self.system(rhs[self.order], rtol)
            return d
        y = self.system(rhs, rtol)
        return y if self.scale is None else self.scale * y

    def solve_transposed(self, rhs: Array, rtol: float) -> Array:
        """d with (|K| + s A^T) d = rhs, in the same way, where no columns are scaled."""
        if self.transposed:
            return self.system(rhs, rtol)
        if self.order is None:
            return self.system.solve_transposed(rhs, rtol)
        d = np.empty_like(rhs)
        d[self.order] = self.system.solve_transposed(rhs[self.order], rtol)
        return d
