"""The Fokker-Planck equation d rho/dt = div(D grad rho + rho grad V - rho b): any step, exact mass, no negative density.

Space: two-point fluxes, by default Scharfetter-Gummel's, whose discrete Gibbs density is exactly e^(-V(x_K)/D)
(`drift_diffusion`). Time: resolvent schemes of order 1, 2 or 3 (`schemes`), each stage one checked implicit Euler step
(`resolvent`). A step that would be negative, or would let the free energy grow, is limited:

1. high = sum_k c_k Y_k, Y_k = r^k rho; the positive partner low = sum_k c'_k Y_k, with the face fluxes of both
2. the difference f of the fluxes leaves a cell only as far as it holds something: f_s -> R_K f_s where f_s leaves K,
   R_K = min(1, |K| low_K / sum of what leaves K) (Zalesak 1979, one-sided)
3. rho = low - div f / |K| is as conservative as the fluxes, and >= 0; if its free energy has grown, it is moved towards low
"""
import math

import numba
import numpy as np

from . import markov
from .drift_diffusion import DriftDiffusion
from .errors import ConvergenceError, InputError
from .evolution import check_step, check_times, is_number, ledger_of
from .flows import cell_velocity, pieces
from .fluxes import scharfetter_gummel
from .parallel import Progress
from .resolvent import Resolvent, column_scale
from .result import Result
from .schemes import scheme

ROUNDING = 1e-16         # negative mass, relative, that is none
FEW = 4                  # steps without a look at their error
HALVINGS = 40            # of an interval between two times, before an adaptive run gives up
KEPT = 4                 # matrices that stay ready, of steps of different lengths
LARGE = 400_000          # cells, from which on only one does
DIRECT = {1: 10**6, 2: 400_000, 3: 40_000}      # cells up to which stationary densities are found by elimination
LONG = 10                # longest steps to a stationary state, as powers of 10, in times in which a cell is emptied


class FokkerPlanck:
    """d rho/dt = div(D grad rho + rho grad V - rho b) on a mesh.

    mesh : a `Mesh`
    diffusion : D > 0: a number, D(x) or D(x, t), or cell values (n_cells,); faces take the harmonic mean
    potential : V(x) or V(x, t), taken at the cell points; or cell values (n_cells,); or `cell_mean(V)`, for which the cell
        means of the Gibbs density are exact; in units in which D is the temperature: rho ~ e^(-V/D)
    drift : b(x) or b(x, t), returning (dim, n), or a constant vector; need not be a gradient
    flux : `scharfetter_gummel`, `square_root`, `upwind`, `central`, or a function (U, k) -> (a, b) of your own, a, b >= 0
    boundary : {name: fvot.dirichlet(density), fvot.inflow(density) or fvot.outflow}; dirichlet(0) absorbs; what isn't named
        is a wall that nothing crosses. Periodic meshes have no boundary there
    order : of the steps in time: 1 (implicit Euler), 2 or 3
    tol : largest error in time of a whole run with tau=None, in L1 relative to the mass (an estimate, not a bound)
    rtol : relative tolerance of the linear solves. PETSc's options reach them by the prefix fvot_fokker_planck_

    Every step, however long, keeps mass and sign to round-off. Raises `InputError` for input of the wrong shape, kind or range.
    """

    def __init__(self, mesh, *, diffusion, potential=None, drift=None, flux=scharfetter_gummel, boundary=None, order=2,
                 tol=1e-4, rtol=1e-10):
        self.mesh, self.order, self.tol, self.rtol = mesh, order, tol, rtol
        with mesh.ranks.together():
            if isinstance(order, bool) or order not in (1, 2, 3):
                raise InputError(f"order must be 1, 2 or 3, not {order!r}")
            if not (is_number(tol) and 0 < tol < 1):
                raise InputError(f"tol must lie between 0 and 1 (the error in time, relative to the mass), not {tol!r}")
            if not (is_number(rtol) and 0 < rtol < 0.1):
                raise InputError(f"rtol must lie between 0 and 0.1 (the tolerance of linear solves), not {rtol!r}")
        self._operator = DriftDiffusion(mesh, diffusion, potential, drift, flux, boundary)
        self._scheme = scheme(order)
        self._known = {}                      # what belongs to a time: (rates, entering)
        self._resolvents = {}
        self._counts = dict(solves=0, iterations=0, limited=0)
        rates, _ = self._at(0.0)
        self._gibbs = self._discrete_gibbs(rates)

    # ---- running -----------------------------------------------------------------------------------------------------

    def solve(self, rho0, t, *, tau=None, progress=None):
        """Carry rho0 (n_cells,) through the times t: a final time, or increasing times, the first of which is the start.

        tau : largest step; steps are equal between two times, and hit them. None: steps such that the errors in time add
            up to at most `tol`
        progress : show a bar; None where rank 0 writes to a terminal

        Returns a `Result` whose ledger has, per time: mass, inflow and outflow (since the start), mass_error
        (mass - inflow + outflow - initial mass, relative), minimum, maximum; steps, limited (steps that needed it), solves,
        iterations; time_error (the estimate, with tau=None); where D is constant and there is no drift: energy = entropy +
        potential_energy = D int rho log rho + int V rho, and dissipation, the rate at which it falls.

        Raises `InputError`, and `ConvergenceError` where no linear solver passes its checks or steps get too short.
        """
        mesh, t = self.mesh, check_times(self.mesh.ranks, t)
        mesh.check_density(rho0, "rho0")
        check_step(mesh.ranks, tau)
        state = _State(np.array(rho0, float), mesh.integrate(np.asarray(rho0, float)))
        self._counts = dict.fromkeys(self._counts, 0)
        records, densities = [self._record(state, t[0])], [state.rho]
        with Progress(t[0], t[-1], progress) as bar:
            for begin, end in zip(t[:-1], t[1:], strict=True):
                advance = self._in_equal_steps if tau is not None else self._in_adaptive_steps
                state = advance(state, begin, end, t[-1], tau, bar)
                densities.append(state.rho)
                records.append(self._record(state, end))
        return Result(mesh, t, np.stack(densities), ledger_of(records))

    def step(self, rho, tau, t=0.0):
        """rho (n_cells,) at t + tau from rho at t, in one step."""
        self.mesh.check_density(rho, "rho")
        check_step(self.mesh.ranks, tau)
        state = _State(np.array(rho, float), self.mesh.integrate(np.asarray(rho, float)))
        return self._advance(state, t, tau, n_solves=8 * self.order)[0].rho

    # ---- what stays, and how fast the rest goes ------------------------------------------------------------------------

    def stationary(self):
        """The stationary density (n_cells,): of mass 1 where nothing crosses the boundary, else what the inflow sustains.

        In closed form where the fluxes of e^(-V/D) are zero; else by elimination without subtraction, exact to round-off in
        every well however rarely it is left (`markov.stationary`; on one rank, for up to DIRECT cells); else by ever longer
        implicit steps. Raises `InputError` where it is not unique or zero, or where something depends on time, and
        `ConvergenceError` where steps do not settle.
        """
        self._check_steady("a stationary density")
        mesh = self.mesh
        if not self._operator.closed:
            return self._driven()
        count = int(mesh.ranks.max(pieces(mesh).max(initial=0))) + 1
        if count > 1:
            raise InputError(f"the mesh has {count} pieces that do not touch: the mass in each of them stays what it is, and "
                             "the stationary density is not unique; take one piece at a time")
        if self._gibbs is not None:
            return np.exp(-self._gibbs)
        if mesh.n_cells_global > DIRECT[mesh.dim]:
            return self._without_elimination()
        mass = self._on_root(lambda chain: markov.stationary(chain.rates, chain.center))
        return mesh.scatter(mass) / mesh.volume

    def relaxation_rates(self, k=1):
        """The k slowest rates (k,) at which densities relax, smallest first: eigenvalues of the operator, without the 0.

        The error after a time t falls like e^(-rate t). Real, or complex where drift is not a gradient and modes turn; to full
        relative accuracy also where a well is left once in 10^60 times (`markov.relaxation_rates`; on one rank). With open
        boundaries the first one is the rate at which mass is lost in the long run. Raises `InputError` as `stationary` does.
        """
        self._check_steady("relaxation rates")
        self.mesh.ranks.check(isinstance(k, (int, np.integer)) and 0 < k < self.mesh.n_cells_global,
                              f"k must be a number of rates from 1 to {self.mesh.n_cells_global - 1}, not {k!r}")
        return self._on_root(lambda chain: markov.relaxation_rates(chain.rates, k, killing=chain.killing, center=chain.center))

    def current(self, rho, t=0.0):
        """The mean of the current rho b - rho grad V - D grad rho in each cell (dim, n_cells), from its faces' fluxes."""
        self.mesh.check_density(rho, "rho")
        rates, entering = self._at(t)
        return cell_velocity(self.mesh, rates.flux(np.asarray(rho, float), entering))

    def _check_steady(self, what):
        self.mesh.ranks.check(self._operator.steady and self._operator.boundary_steady,
                              f"{what} exists only where potential, drift, diffusion and boundary do not depend on time")

    def _on_root(self, work):
        """work(the whole chain) on rank 0, shared by all."""
        chain = self._at(0.0)[0].gathered()
        return self.mesh.ranks.share(self.mesh.ranks.on_root(lambda: work(chain)))

    def _driven(self):
        """The stationary density between open boundaries."""
        if self.mesh.ranks.max(self._at(0.0)[1].max(initial=0.0)) == 0:
            raise InputError("nothing enters through the boundary, so that everything leaves: the stationary density is 0; "
                             "relaxation_rates(1) tells how fast the mesh empties")
        return self._after_long_steps(np.zeros(self.mesh.n_cells))

    def _without_elimination(self):
        """The stationary density of a large mesh, from two starts, which must agree: wells that are hardly ever left keep
        what they were given."""
        mesh = self.mesh
        one_cell = (mesh.cell_id[:mesh.n_cells] == 0).astype(float)
        found = [self._after_long_steps(rho / mesh.integrate(rho)) for rho in (column_scale(self._at(0.0)[0]), one_cell)]
        difference = mesh.integrate(np.abs(found[1] - found[0]))
        if difference > 1e-6:
            raise ConvergenceError(f"from two starts the density settles down to two states, {difference:.1e} apart: there are "
                                   f"wells that are hardly ever left; up to {DIRECT[mesh.dim]} cells their weights are found "
                                   "by elimination: take a coarser mesh")
        return found[0]

    def _after_long_steps(self, rho):
        """Implicit steps of up to LONG times the time in which a cell is emptied, until one changes nothing."""
        (rates, entering), mesh = self._at(0.0), self.mesh
        fastest = mesh.ranks.max(rates.leaving().max(initial=0.0))
        for power in [3, 6, *[LONG] * 12]:
            resolvent = self._resolvent(0.0, 10.0**power / fastest, 6)
            new = resolvent(rho, entering)
            new = new / mesh.integrate(new) if self._operator.closed else new
            change, rho = mesh.integrate(np.abs(new - rho)), new
            if power == LONG and change <= 1e-11 * mesh.integrate(new):
                return rho
        raise ConvergenceError(f"after steps of {10.0**LONG / fastest:.3g} the density still changes by {change:.1e} in each: "
                               "its wells are hardly ever left")

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _in_equal_steps(self, state, begin, end, last, tau, bar):
        """Steps of at most tau; every few of them, at a recorded time, one is looked at for its error."""
        count = math.ceil((end - begin) / tau * (1 - 1e-12))
        step = (end - begin) / count
        for i in range(count):
            estimate = i == count - 1 and (state.since >= FEW or end == last)
            state, _ = self._advance(state, begin + i * step, step, count * self.order, estimate)
            bar.to(begin + (i + 1) * step)
        return state

    def _in_adaptive_steps(self, state, begin, end, last, tau, bar):
        """Steps of (end - begin) / 2^level, aligned, that keep the error in time below tol until the time *last*."""
        length = end - begin
        level, done = self._first_level(length), 0          # done steps of length / 2^level
        while done < 2**level:
            step = length / 2**level
            n_solves = (self.order + 2) * min(2**level - done, 16)
            new, error = self._advance(state, begin + done * step, step, n_solves, estimate=True)
            allowed = self._allowed(state, error, step, last - begin - done * step)
            if error > allowed:
                halvings = min(max(1, math.ceil(math.log2(error / max(allowed, 1e-9 * error)) / self.order)), 12)
                level, done = level + halvings, done * 2**halvings
                if level > HALVINGS:
                    raise ConvergenceError(f"the error in time asks for steps below {length / 2**HALVINGS:.3g} at t = "
                                           f"{begin + done * length / 2**level:.6g}: give a larger tol than {self.tol:.3g}, "
                                           "or steps with tau=")
                continue
            state, done = new, done + 1
            bar.to(begin + done * step)
            if error * 2**self.order < 0.9 * allowed and done % 2 == 0 and level > 0:
                level, done = level - 1, done // 2
        self._last_step = length / 2**level
        return state

    def _allowed(self, state, error, step, left):
        """What this step may add to the error in time: of what the tolerance leaves, its share of the time that is left, or
        what fades during the step, if that is more."""
        kept = state.kept(error / step**(self.order + 1))
        faded = 1 - kept if state.steps else 0.5
        return (self.tol * state.mass - kept * state.error) * max(step / left, faded)

    def _first_level(self, length):
        """The step that went well before, or a hundredth of the first interval."""
        before = getattr(self, "_last_step", length / 100)
        return max(0, math.ceil(math.log2(length / before) - 1e-9))

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _advance(self, state, now, tau, n_solves, estimate=False):
        """(the state after one step, the estimate of its error in L1, or None)."""
        step = _Step(self, state, now, tau, n_solves)
        error = step.error() if estimate else None
        rho, crossed = step.result()
        self._counts["limited"] += step.limited
        rho, crossed, mass = self._settled(rho, crossed, state.mass)
        return state.after(rho, mass, crossed, error, tau**(self.order + 1)), error

    def _settled(self, rho, crossed, before):
        """rho and what crossed the boundary (n_boundary_faces,), so that mass = before - sum of crossed to round-off.

        The linear solves have left an error of their tolerance. It goes where it is relatively smaller: to the density, by
        a factor, or to the fluxes through the boundary.
        """
        ranks, volume = self.mesh.ranks, self.mesh.volume
        mass, net, gross = ranks.sum(np.array([(volume * rho).sum(), crossed.sum(), np.abs(crossed).sum()]))
        if mass >= gross:
            return rho * ((before - net) / mass if mass > 0 else 1.0), crossed, before - net
        crossed = crossed + (before - net - mass) * np.abs(crossed) / gross
        return rho, crossed, mass

    def _resolvent(self, t, s, n_solves):
        """The `Resolvent` of a step s at time t; the matrices of the last few steps stay ready while nothing changes."""
        t = 0.0 if self._operator.steady else t
        for (time, length), resolvent in self._resolvents.items():
            if time == t and abs(length - s) <= 1e-12 * s and resolvent.names:
                return resolvent
        if not self._operator.steady or self.mesh.n_cells_global > LARGE:
            self._forget(0)
        self._forget(KEPT - 1)
        self._resolvents[t, s] = Resolvent(self._at(t)[0], s, rtol=self.rtol, n_solves=n_solves)
        return self._resolvents[t, s]

    def _forget(self, kept):
        while len(self._resolvents) > kept:
            self._resolvents.pop(next(iter(self._resolvents))).destroy()

    def _at(self, t):
        """(rates, the boundary's densities) at time t; those that do not change are made once."""
        operator = self._operator
        rates_time, entering_time = 0.0 if operator.steady else t, 0.0 if operator.boundary_steady else t
        if self._known.get("rates_time") != rates_time:
            self._known |= dict(rates_time=rates_time, rates=operator.rates(rates_time))
        if self._known.get("entering_time") != entering_time:
            self._known |= dict(entering_time=entering_time, entering=operator.entering(entering_time))
        return self._known["rates"], self._known["entering"]

    # ---- free energy -------------------------------------------------------------------------------------------------

    def _discrete_gibbs(self, rates):
        """V/D - log of the normalising integral (n_cells,), if the fluxes of the Gibbs density are zero; else None."""
        phi = self._operator.gibbs() if self._operator.steady else None
        if phi is None:
            return None
        mesh, n = self.mesh, self.mesh.n_inner
        local = mesh.with_ghosts(phi)
        difference = local[mesh.right[:n]] - local[mesh.left[:n]]
        with np.errstate(divide="ignore", invalid="ignore"):
            defect = np.abs(np.log(rates.a[:n] / rates.b[:n]) + difference) / (1 + np.abs(difference))
        if mesh.ranks.max(defect[np.isfinite(defect)].max(initial=0.0)) > 1e-9:
            return None
        phi = phi - mesh.ranks.min(phi.min(initial=np.inf))
        return phi + math.log(mesh.integrate(np.exp(-phi)))

    def _relative_entropy(self, rho, mass):
        """(sum |K| rho log(rho / (mass pi)), pi the Gibbs density; the rounding of that sum)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = self.mesh.volume * rho * np.where(rho > 0, np.log(rho / mass) + self._gibbs, 0.0)
        total, size = self.mesh.ranks.sum(np.array([terms.sum(), np.abs(terms).sum()]))
        return total, 1e-14 * max(size, mass)

    def _grows(self, rho, new, mass):
        """By how much the free energy (over D) has grown, beyond rounding; 0 where there is none to look at."""
        if self._gibbs is None or mass == 0:
            return 0.0
        (before, rounding), (after, more) = self._relative_entropy(rho, mass), self._relative_entropy(new, mass)
        return max(after - before - rounding - more, 0.0)

    def _record(self, state, t):
        ranks, rho = self.mesh.ranks, state.rho
        inflow, outflow = ranks.sum(np.array([state.inflow, state.outflow]))
        record = dict(mass=self.mesh.integrate(rho), inflow=inflow, outflow=outflow, minimum=ranks.min(rho.min(initial=np.inf)),
                      maximum=ranks.max(rho.max(initial=-np.inf)), steps=state.steps, **self._counts,
                      time_error=state.error / max(state.mass, np.finfo(float).tiny))
        return record | self._energies(rho, t)

    def _energies(self, rho, t):
        """energy, its parts and its dissipation sum_s F_s (xi_left - xi_right), xi = D log rho + V; {} where there is none."""
        operator, mesh, n = self._operator, self.mesh, self.mesh.n_inner
        if operator.gibbs(t) is None:
            return {}
        D, V = operator.diffusion(t), operator.potential(t)
        V = np.zeros(mesh.n_cells) if V is None else V
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(rho)
            entropy, potential = mesh.integrate(np.stack([D * np.where(rho > 0, rho * log, 0.0), V * rho]))
            rates, entering = self._at(t)
            xi = mesh.with_ghosts(D * log + V)
            falling = (rates.flux(rho, entering)[:n] * (xi[mesh.left[:n]] - xi[mesh.right[:n]]))[mesh.face_owned[:n]]
        return dict(energy=entropy + potential, entropy=entropy, potential_energy=potential,
                    dissipation=mesh.ranks.sum(np.nansum(falling)))


class _State:
    """rho (n_cells,), its mass, what came and went since the start, and the error in time, as an L1 norm.

    A step misses tau^(p+1) times a derivative of rho of order p + 1, and this moves as rho itself does. Hence what earlier
    steps have missed is, now, the present derivative times the sum of their tau^(p+1): one look tells the error of the run.
    """

    def __init__(self, rho, mass):
        self.rho, self.mass, self.inflow, self.outflow, self.steps = rho, mass, 0.0, 0.0, 0
        self.error = self.derivative = 0.0
        self.powers, self.since = 0.0, 0       # the sum of tau^(p+1), and the number of steps, since the last look

    def after(self, rho, mass, crossed, error, power):
        """The state one step later, whose tau^(p+1) is *power* and which has missed *error* (None: not looked at).

        *crossed* (n_boundary_faces,) has left through the boundary.
        """
        new = _State(rho, mass)
        new.inflow = self.inflow + np.maximum(-crossed, 0).sum()
        new.outflow = self.outflow + np.maximum(crossed, 0).sum()
        new.steps, new.since, new.powers = self.steps + 1, self.since + 1, self.powers + power
        new.error, new.derivative = self.error, self.derivative
        if error is not None:
            new.derivative = error / power
            new.error = self.kept(new.derivative) * self.error + new.derivative * new.powers
            new.powers, new.since = 0.0, 0
        return new

    def kept(self, derivative):
        """The part that is left of the error at the last look: it fades as the derivative does."""
        return min(1.0, derivative / self.derivative) if self.derivative > 0 else 1.0


class _Step:
    """One step: the ladder Y_k = r^k rho of implicit Euler steps of length g tau, and what is made of it."""

    def __init__(self, solver, state, now, tau, n_solves):
        self.solver, self.rho, self.mass, self.now, self.tau, self.n_solves = solver, state.rho, state.mass, now, tau, n_solves
        self.mesh, self.scheme, self.limited = solver.mesh, solver._scheme, False
        self.ladder = [state.rho]
        operator = solver._operator
        self.autonomous = operator.steady and operator.boundary_steady

    def Y(self, k):
        """r^k rho."""
        while len(self.ladder) <= k:
            self.ladder.append(self._euler(self.ladder[-1], self._rung(len(self.ladder))))
        return self.ladder[k]

    def _rung(self, k):
        return self.now + k * self.scheme.g * self.tau

    def _euler(self, rho, t):
        solver, s = self.solver, self.scheme.g * self.tau

        def fault(Y):
            grown = solver._grows(rho, self._scaled(Y), self.mass)
            return f"the free energy has grown by {grown:.1e}" if grown else None
        resolvent = solver._resolvent(t, s, self.n_solves)
        return self._scaled(self._counted(resolvent, lambda: resolvent(rho, solver._at(t)[1], fault=fault)))

    def _counted(self, resolvent, work):
        before = resolvent.solves, resolvent.iterations
        try:
            return work()
        finally:
            self.solver._counts["solves"] += resolvent.solves - before[0]
            self.solver._counts["iterations"] += resolvent.iterations - before[1]

    def _scaled(self, Y):
        """Y with the mass of the start, where nothing crosses the boundary."""
        if not self.solver._operator.closed:
            return Y
        mass = self.mesh.integrate(Y)
        return Y * (self.mass / mass) if mass > 0 else Y

    def result(self):
        """(rho, what has crossed each boundary face) after the step."""
        high, fluxes = self._by_powers() if self.autonomous else self._by_stages()
        negative = -self.mesh.integrate(np.minimum(high, 0))
        high = np.maximum(high, 0)
        if self.solver.order == 1 or (negative <= ROUNDING * self.mass
                                      and not self.solver._grows(self.rho, self._scaled(high), self.mass)):
            return high, self._sum(fluxes, slice(self.mesh.n_inner, None))
        return self._limit(self._sum(fluxes))

    def _by_powers(self):
        """sum_k c_k Y_k, and its fluxes as [(weight, time, density)]."""
        c, b = self.scheme.c, self.scheme.b
        high = sum(weight * self.Y(k + 1) for k, weight in enumerate(c))
        return high, [(weight, self.now, self.Y(k + 1)) for k, weight in enumerate(b)]

    def _by_stages(self):
        """The same by the stages of the SDIRK scheme, each with the coefficients of its own time."""
        solver, mesh, g = self.solver, self.mesh, self.scheme.g
        Y, outflows, fluxes = self.Y(1), [], []
        for i, row in enumerate(self.scheme.stages):
            t = self.now + self.scheme.times[i] * self.tau
            rates, entering = solver._at(t)
            if i > 0:
                known = sum(weight * out for weight, out in zip(row, outflows, strict=False))
                rest = mesh.volume * (self.rho - Y) - self.tau * known
                resolvent = solver._resolvent(t, g * self.tau, self.n_solves)
                Y = self._counted(resolvent, lambda r=resolvent, Y=Y, entering=entering, rest=rest: r(Y, entering, rest))
            outflows.append(rates.outflow(Y, entering)[0])
            fluxes.append((self.scheme.stages[-1, i], t, Y))
        return Y, fluxes

    def _sum(self, fluxes, faces=slice(None)):
        """tau sum of weight * F(density) over [(weight, time, density)], on all faces or on some."""
        total = 0.0
        for weight, t, density in fluxes:
            rates, entering = self.solver._at(t)
            total = total + self.tau * weight * rates.flux(density, entering)[faces]
        return total

    def _limit(self, high):
        """The partner, and as much of the difference to the fluxes *high* (n_faces,) as stays positive and decreases energy."""
        self.limited, mesh = True, self.mesh
        low = sum(weight * self.Y(k + 1) for k, weight in enumerate(self.scheme.partner) if weight)
        low_fluxes = self._sum([(weight, self._rung(k + 1), self.Y(k + 1)) for k, weight in enumerate(self.scheme.partner_b)])
        f = high - low_fluxes
        out = np.zeros(mesh.n_cells)
        _leaving(f, mesh.left, mesh.right, mesh.n_inner, mesh.n_cells, out)
        R = mesh.with_ghosts(np.minimum(1.0, np.divide(mesh.volume * low, out, out=np.ones_like(out), where=out > 0)))
        _scale_by_giver(f, R * (1 - 1e-15), mesh.left, mesh.right, mesh.n_inner)
        low = self._scaled(low)
        rho = self._scaled(np.maximum(low - mesh.divergence(f), 0))
        crossed, f = low_fluxes[mesh.n_inner:], f[mesh.n_inner:]
        for _ in range(60):
            if not self.solver._grows(self.rho, rho, self.mass):
                return rho, crossed + f
            rho, f = (rho + low) / 2, f / 2
        return low, crossed

    def error(self):
        """What the step misses, in L1: C tau^(p+1) d^(p+1) rho/dt^(p+1) by the differences of the ladder."""
        e = sum(weight * self.Y(k + 1) for k, weight in enumerate(self.scheme.error))
        return self.mesh.integrate(np.abs(e))


@numba.njit(cache=True, error_model="numpy")
def _leaving(f, left, right, n_inner, n_cells, out):
    """What the fluxes f take out of each of the first n_cells cells."""
    for s in range(len(f)):
        if f[s] > 0 and left[s] < n_cells:
            out[left[s]] += f[s]
        if f[s] < 0 and s < n_inner and right[s] < n_cells:
            out[right[s]] -= f[s]


@numba.njit(cache=True, error_model="numpy")
def _scale_by_giver(f, R, left, right, n_inner):
    for s in range(len(f)):
        if f[s] > 0:
            f[s] *= R[left[s]]
        elif s < n_inner:
            f[s] *= R[right[s]]
