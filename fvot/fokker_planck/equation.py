"""The Fokker-Planck equation d rho/dt = div(D grad rho + rho grad V - rho b): any step, exact mass,
no negative density.

Space: two-point fluxes, by default Scharfetter-Gummel's, whose discrete Gibbs density is exactly
e^(-V(x_K)/D) (`drift_diffusion`). Time: resolvent schemes of order 1, 2 or 3 (`schemes`), limited
where they would be negative (`stepping`), each stage one checked implicit Euler step (`resolvent`).
Stationary densities and rates: those of a Markov chain (`markov`).
"""

import math
from functools import partial

import numpy as np

from .. import markov
from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.times import check_step, check_times
from ..arguments.watch import WATCHED_TIMES
from ..errors import ConvergenceError, InputError, warn
from ..finite_volume.face_flux import find_pieces
from ..finite_volume.fluxes import describe_flux, scharfetter_gummel
from ..finite_volume.implicit_step import Resolvent, column_scale
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Mesh, quality
from ..mesh.cell_values import check_density
from ..mesh.numbering import find_numbering
from ..runs.checkpoint import fingerprint
from ..runs.march import march
from .coefficients import DriftDiffusion
from .stepper import Stepper

FEW = 4  # steps without a look at their error
HALVINGS = 40  # of an interval between two times, before an adaptive run gives up
DIRECT = {
    1: 10**6,
    2: 10**6,
    3: 100_000,
}  # cells up to which stationary densities are found by elimination
# tolerance of the step that tells how much mass a run will have, of which only the size counts
ROUGHLY = 1e-3
SIMPSON = (
    (1e-9, 1 / 6),
    (0.5, 2 / 3),
    (1 - 1e-9, 1 / 6),
)  # places between two times, at which things may jump, and weights
LONG = (
    10  # longest steps to a stationary state, as powers of 10, in times in which a cell is emptied
)


@frozen
class FokkerPlanck:
    """Kinetic noise: d rho/dt = div(D grad rho + rho grad V - rho b) on a mesh, so that a D(x)
    alone makes all places alike.

    The density of paths dX = (b - grad V + grad D) dt + sqrt(2 D) dW in Ito's sense. For Ito's
    noise dX = b dt + sqrt(2 D) dW, as `particles.langevin` has it, give drift = b - grad D; for a
    constant D both are the same.

    mesh : a `Mesh`
    diffusion : D > 0: a number, D(x) or D(x, t), or cell values (n_cells,); faces take the harmonic
        mean
    potential : V(x) or V(x, t), taken at the cell points; or cell values (n_cells,); or
        `cell_mean(V)`, for which the cell means of the Gibbs density are exact; in units in which D
        is the temperature: rho ~ e^(-V/D)
    drift : b(x) or b(x, t), returning (dim, n), or a constant vector; need not be a gradient
    flux : `scharfetter_gummel`, `square_root`, `upwind`, `central`, or a function (U, k) -> (a, b)
        of your own, a, b >= 0
    boundary : {name: fvot.dirichlet(density), fvot.inflow(density) or fvot.outflow}; what isn't
        named is a wall that nothing crosses. dirichlet(0) absorbs; inflow and outflow let through
        what the drift carries, and no diffusion. Periodic meshes have no boundary there. A
        potential of cell values is constant from the cell point to a dirichlet boundary
    order : of the steps in time: 1 (implicit Euler), 2 or 3 (between 2 and 3 where something
        depends on time)
    tol : largest error in time of a whole run with tau=None, in L1 relative to the largest mass so
        far, or to what comes in until the end (an estimate, not a bound). Steps do not pass over
        pulses, gaps and periods that last at least 1/200 of the time between two recorded times
        (`watch`); name more times in t for shorter ones, and for the places of jumps: it takes
        fewer steps
    rtol : relative tolerance of the linear solves. PETSc's options reach them by the prefix
        fvot_fokker_planck_

    Every step keeps mass and sign to round-off, however long; beyond 1e13 times the time in which
    diffusion empties a cell it may be refused. Raises `InputError` for input of the wrong shape,
    kind or range.
    """

    def __init__(
        self,
        mesh,
        *,
        diffusion,
        potential=None,
        drift=None,
        flux=scharfetter_gummel,
        boundary=None,
        order=2,
        tol=1e-4,
        rtol=1e-10,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a fvot.Mesh, not {mesh!r:.60}")
        self.mesh = mesh
        self.order = order
        self.tol = tol
        self.rtol = rtol
        kinds = {
            name: given if is_number(given) else type(given).__name__
            for name, given in dict(
                diffusion=diffusion, potential=potential, drift=drift, boundary=boundary
            ).items()
        }
        names = sorted(map(str, boundary)) if isinstance(boundary, dict) else []
        mesh.ranks.check_same(
            "what a FokkerPlanck is made of",
            dict(order=order, tol=tol, rtol=rtol, **kinds, parts=names, flux=describe_flux(flux)),
        )
        with mesh.ranks.raising_together():
            if (
                isinstance(order, bool)
                or not isinstance(order, (int, np.integer))
                or order not in (1, 2, 3)
            ):
                raise InputError(f"order must be 1, 2 or 3, not {order!r}")
            if not (is_number(tol) and 0 < tol < 1):
                raise InputError(
                    "tol must lie between 0 and 1 (the error in time, relative to the mass), not "
                    f"{tol!r}"
                )
            if not (is_number(rtol) and 0 < rtol < 0.1):
                raise InputError(
                    "rtol must lie between 0 and 0.1 (the tolerance of linear solves), not "
                    f"{rtol!r}"
                )
        self._near = find_numbering(mesh)
        self._operator = DriftDiffusion(self._near, diffusion, potential, drift, flux, boundary)
        self._stepper = Stepper(self._operator, order, rtol)
        quality.warn_of(mesh.quality.diffusion_problem, mesh)

    def __repr__(self):
        return f"<fvot.FokkerPlanck: order {self.order}, tol {self.tol:g}, {self.mesh.n_cells_global} cells>"

    # ---- running -----------------------------------------------------------------------------------------------------

    def solve(self, rho0, t, *, tau=None, checkpoint=None, write=None, progress=None):
        """Carry rho0 (n_cells,) through the times t: a final time, or increasing times, the first
        of which is the start.

        tau : largest step; steps are equal between two times, and hit them. None: steps such that
            the errors in time add up to at most `tol`
        checkpoint : a `Checkpoint`, a file in which the run is kept, and from which it goes on, to
            the same numbers up to the linear solver's tolerance
        write : a path, or an `Output`: a series for ParaView that is written on the way
        progress : show a bar; None where rank 0 writes to a terminal

        Returns a `Result` whose ledger has, per time: mass, inflow and outflow (since the start),
        mass_error (mass - inflow + outflow - initial mass, relative), minimum, maximum; steps,
        limited (steps that needed it), solves, iterations; time_error (the estimate); where D is
        constant and there is no drift: energy = entropy + potential_energy = D int rho log rho +
        int V rho, and dissipation, the rate at which it falls.

        Raises `InputError`, and `ConvergenceError` where no linear solver passes its checks or
        steps get too short; its `result` has the recorded times, and the last one that was reached.
        """
        mesh = self.mesh
        t = check_times(mesh.ranks, t)
        check_density(mesh, rho0, "rho0")
        check_step(mesh.ranks, tau, t)
        run = _Run(self, rho0, t, tau)
        return march(run, self._near, t, checkpoint=checkpoint, write=write, progress=progress)

    def step(self, rho, tau, t=0.0):
        """rho (n_cells,) at t + tau from rho at t, in one step."""
        check_density(self.mesh, rho, "rho")
        self.mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        self.mesh.ranks.check(
            tau is not None, "tau must be a step above 0, not None: `step` takes one step"
        )
        check_step(self.mesh.ranks, tau)
        near = self._near
        rho = np.array(rho, float)
        made = self._stepper.advance(
            near.inward(rho), self.mesh.integrate(rho), t, tau, n_solves=8 * self.order
        )
        return near.outward(made.rho)

    # ---- what stays, and how fast the rest goes ------------------------------------------------------------------------

    def stationary(self):
        """The stationary density (n_cells,): of mass 1 where nothing crosses the boundary, else
        what the inflow sustains.

        In closed form where the fluxes of e^(-V/D) are zero; else by elimination without
        subtraction, exact to round-off in every well however rarely it is left
        (`markov.stationary`; on one rank, for up to DIRECT cells); else by ever longer implicit
        steps. Raises `InputError` where it is not unique or zero, or where something depends on
        time, and `ConvergenceError` where steps do not settle.
        """
        self._check_steady("a stationary density")
        mesh = self.mesh
        if not self._operator.closed:
            return self._near.outward(self._driven())
        count = int(mesh.ranks.max(find_pieces(mesh).max(initial=0))) + 1
        if count > 1:
            raise InputError(
                f"the mesh has {count} pieces that do not touch: the mass in each of them stays "
                "what it is, and "
                "the stationary density is not unique; take one piece at a time"
            )
        if self._stepper.gibbs is not None:
            return self._near.outward(np.exp(-self._stepper.gibbs))
        if mesh.n_cells_global > DIRECT[mesh.dim]:
            return self._near.outward(self._without_elimination())
        mass = self._on_root(lambda chain: markov.stationary(chain.rates, chain.center))
        return mesh.scatter(mass) / mesh.volume

    def relaxation_rates(self, k=1):
        """The k slowest rates (k,) at which densities relax, smallest first: eigenvalues of the
        operator, without the 0.

        The error after a time t falls like e^(-rate t). Real, or complex where drift is not a
        gradient and modes turn; to full relative accuracy also where a well is left once in 10^60
        times (`markov.relaxation_rates`; on one rank). With open boundaries the first one is the
        rate at which mass is lost in the long run. Raises `InputError` as `stationary` does.
        """
        self._check_steady("relaxation rates")
        ranks = self.mesh.ranks
        most = self.mesh.n_cells_global - int(self._operator.closed)
        ranks.check(
            most > 0,
            "the mesh has one cell, which nothing leaves: its density stays, and there is no "
            "rate; take a "
            "finer mesh",
        )
        ranks.check(
            isinstance(k, (int, np.integer)) and not isinstance(k, bool) and 0 < k <= most,
            f"k must be a number of rates from 1 to {most}, not {k!r}",
        )
        ranks.check_same("k", int(k))
        return self._on_root(
            lambda chain: markov.relaxation_rates(
                chain.rates, k, killing=chain.killing, center=chain.center
            )
        )

    def current(self, rho, t=0.0):
        """The mean of the current rho b - rho grad V - D grad rho in each cell (dim, n_cells), from
        its faces' fluxes.
        """
        check_density(self.mesh, rho, "rho")
        rates, entering = self._stepper.at(t)
        return cell_velocity(
            self.mesh, rates.flux(self._near.inward(np.asarray(rho, float)), entering)
        )

    def _check_steady(self, what):
        self.mesh.ranks.check(
            self._operator.steady and self._operator.boundary_steady,
            f"{what} exists only where potential, drift, diffusion and boundary do not depend on "
            "time",
        )

    def _on_root(self, work):
        """work(the whole chain) on rank 0, shared by all."""
        chain = self._stepper.at(0.0)[0].gather_chain()
        return self.mesh.ranks.broadcast(self.mesh.ranks.on_root(lambda: work(chain)))

    def _driven(self):
        """The stationary density between open boundaries."""
        if self.mesh.ranks.max(self._stepper.at(0.0)[1].max(initial=0.0)) == 0:
            raise InputError(
                "nothing enters through the boundary, so that everything leaves: the stationary "
                "density is 0; "
                "relaxation_rates(1) tells how fast the mesh empties"
            )
        return self._after_long_steps(np.zeros(self.mesh.n_cells))

    def _without_elimination(self):
        """The stationary density of a large mesh, from two starts, which must agree: wells that are
        hardly ever left keep what they were given.
        """
        mesh = self._near.mesh
        (rates, _) = self._stepper.at(0.0)
        one_cell = (mesh.cell_id[: mesh.n_cells] == 0).astype(float)
        found = [
            self._after_long_steps(rho / mesh.integrate(rho))
            for rho in (column_scale(rates, self._stepper.column_scales), one_cell)
        ]
        difference = mesh.integrate(np.abs(found[1] - found[0]))
        if difference > 1e-6:
            raise ConvergenceError(
                f"from two starts the density settles down to two states, {difference:.1e} apart: "
                "there are "
                f"wells that are hardly ever left; up to {DIRECT[mesh.dim]} cells their weights "
                "are found "
                "by elimination: take a coarser mesh"
            )
        return found[0]

    def _after_long_steps(self, rho):
        """Implicit steps of up to LONG times the time in which a cell is emptied, until one changes
        nothing.
        """
        (rates, entering) = self._stepper.at(0.0)
        mesh = self._near.mesh
        fastest = mesh.ranks.max(rates.leaving().max(initial=0.0))
        for power in [3, 6, *[LONG] * 12]:
            resolvent = self._stepper.resolvent(0.0, 10.0**power / fastest, 6)
            new = resolvent(rho, entering)
            new = new / mesh.integrate(new) if self._operator.closed else new
            change = mesh.integrate(np.abs(new - rho))
            rho = new
            if power == LONG and change <= 1e-11 * mesh.integrate(new):
                return rho
        raise ConvergenceError(
            f"after steps of {10.0**LONG / fastest:.3g} the density still changes by {change:.1e} "
            "in each: "
            "its wells are hardly ever left"
        )


class _Run:
    """A `solve` under way, see `march.Run`. Its steps are equal ones, or such that their errors in
    time add up to tol.
    """

    fields = ("density",)

    def __init__(self, equation, rho0, t, tau):
        self.equation = equation
        self.mesh = equation.mesh
        self.stepper = equation._stepper
        self.operator = equation._operator
        self.order = equation.order
        self.tol = equation.tol
        self.t = t
        self.tau = tau
        self.now = t[0]
        rho = equation._near.inward(np.array(rho0, float))
        self.state = _State(rho, self.mesh.integrate(np.asarray(rho0, float)), (t[-1] - t[0]) / 100)
        self.stepper.restart()
        if tau is None:
            self.state.scale = max(self.state.scale, self._mass_to_come())

    # ---- steps -------------------------------------------------------------------------------------------------------

    def advance(self, begin, end):
        """Take the steps to *end*, and yield the time after each."""
        steps = self._adaptive_steps if self.tau is None else self._equal_steps
        for self.state, self.now in steps(begin, end):
            yield self.now

        self.state.done = 0
        self.now = end  # to the last bit

    def _equal_steps(self, begin, end):
        """Steps of at most tau; every few of them, at a recorded time, one is looked at for its
        error.
        """
        state = self.state
        count = math.ceil((end - begin) / self.tau * (1 - 1e-12))
        step = (end - begin) / count
        self._say_what_steps_miss(begin, step, count)
        for i in range(state.done, count):
            estimate = i == count - 1 and (state.since >= FEW or end == self.t[-1])
            made = self.stepper.advance(
                state.rho, state.mass, begin + i * step, step, count * self.order, estimate, end
            )
            state = state.after(made, step, self.order)
            yield state, begin + (i + 1) * step

    def _say_what_steps_miss(self, begin, step, count):
        """Warn, once for each pair of recorded times, of coefficients that change within steps of a
        given length.
        """
        if count > WATCHED_TIMES or self.stepper.autonomous:
            return  # so short steps miss nothing that is watched for
        watch = self.operator.watch(begin, begin + count * step)
        rough = [
            i for i in range(count) if not watch.is_calm(begin + i * step, begin + (i + 1) * step)
        ]
        if rough and self.mesh.ranks.is_root:
            warn(
                f"something that depends on time changes within {len(rough)} of the {count} steps "
                f"from t = {begin:.6g} on, "
                f"which look at it at {self.order} times each: leave out tau, give a smaller one, "
                "or name the times of pulses "
                "and jumps in t"
            )

    def _adaptive_steps(self, begin, end):
        """Steps of (end - begin) / 2^level, aligned, that keep the error in time below tol to the
        end of the run.
        """
        state = self.state
        length = end - begin
        watch = self.operator.watch(begin, end)
        if state.done == 0:
            state.level = max(0, math.ceil(math.log2(length / state.step) - 1e-9))
        while state.done < 2**state.level:
            self._halve_until_calm(state, watch, begin, length)
            # done steps of length / 2^level
            level = state.level
            done = state.done
            step = length / 2**level
            now = begin + done * length / 2**level
            n_solves = (self.order + 2) * min(2**level - done, 16)
            advance = partial(
                self.stepper.advance, state.rho, state.mass, now, step, n_solves, estimate=True
            )
            made = advance(until=end)
            state.scale = max(state.scale, made.mass)
            allowed = self._allowed(state, step, now - self.t[0], self.t[-1] - begin - done * step)
            if made.error > allowed and self._may_jump(watch, now + step, step, end):
                made = advance(
                    until=now + step, inside=True
                )  # what comes after the step is no matter of it
            if made.error > allowed:
                halvings = max(
                    1,
                    math.ceil(math.log2(made.error / max(allowed, 1e-9 * made.error)) / self.order),
                )
                state.level = level + halvings
                state.done = done * 2**halvings
                if state.level > HALVINGS:
                    raise ConvergenceError(
                        f"the error in time asks for steps below {length / 2**HALVINGS:.3g} at t = "
                        f"{now:.6g}: give a larger tol than {self.tol:.3g}, or steps with tau="
                    )
                continue
            state = state.after(made, step, self.order)
            if made.error * 2**self.order < 0.9 * allowed and state.done % 2 == 0 and level > 0:
                state.level = level - 1
                state.done = state.done // 2
            yield state, begin + (done + 1) * step

    def _halve_until_calm(self, state, watch, begin, length):
        """No step is longer than what is seen of the coefficients that depend on time, lest a pulse
        lie between its stages.
        """
        while watch is not None:
            step = length / 2**state.level
            piece = begin + state.done * step, begin + (state.done + 1) * step
            if watch.is_calm(*piece) and watch.is_smooth(*piece):
                return
            state.level = state.level + 1
            state.done = 2 * state.done

    def _may_jump(self, watch, t, step, end):
        """Whether coefficients may jump at the time t, or in the step after it: at a recorded time
        they always may.
        """
        if self.stepper.autonomous:
            return False
        if t + step > end * (1 - 1e-12):
            return True
        around = t - step / 2, t + step
        return not (watch.is_calm(*around) and watch.is_smooth(*around))

    def _mass_to_come(self):
        """About the mass at the end: what one implicit step over the whole run makes of rho, where
        more may enter; else 0.

        What enters is a mean over time, lest a pulse whose times are named counts as if it lasted
        for the whole run. Of a domain that is empty at first nothing else is known against which an
        error is small.
        """
        mesh = self.mesh
        near = self.equation._near.mesh
        rho = self.state.rho
        t = self.t
        whole = t[-1] - t[0]
        entering = sum(
            weight * length / whole * self.operator.entering(begin + place * length)
            for begin, length in zip(t, np.diff(t))
            for place, weight in SIMPSON
        )
        most = mesh.ranks.max(entering.max(initial=0.0)) * mesh.integrate(1.0)
        if most <= near.integrate(rho):  # the domain is as full as what enters may make it
            return 0.0
        rates, _ = self.stepper.at(t[-1])
        step = Resolvent(rates, t[-1] - t[0], rtol=ROUGHLY, scales=self.stepper.column_scales)
        try:
            return near.integrate(step.expect(1)(rho, entering))
        except ConvergenceError:
            return 0.0
        finally:
            step.destroy()

    def _allowed(self, state, step, passed, left):
        """What a step may add to the error in time: a share of what the tolerance leaves.

        That is its share of the time that is left; or of the logarithm of the time that has passed,
        since most runs begin with something fast; or what fades during the step: whichever is most.
        """
        faded = 1 - math.exp(-state.fading * step) if state.steps else 0.5
        spare = max(
            self.tol * state.scale - (1 - faded) * state.error, 0.01 * self.tol * state.scale
        )
        return spare * max(step / left, step / (passed + step) / 16, faded)

    # ---- accounts ----------------------------------------------------------------------------------------------------

    def field(self, name):
        """The density."""
        return {"density": self.state.rho}[name]

    def save(self):
        """(cells, values) for a checkpoint."""
        state = self.state
        inflow, outflow = self.mesh.ranks.sum(np.array([state.inflow, state.outflow]))
        values = {name: value for name, value in vars(state).items() if name != "rho"} | dict(
            inflow=inflow, outflow=outflow
        )
        return dict(rho=state.rho), dict(state=values, now=self.now, counts=self.stepper.counts)

    def restore(self, cells, values):
        """Be what was saved."""
        self.state = _State.of(cells["rho"], values["state"], self.mesh.ranks.is_root)
        self.now = values["now"]
        self.stepper.counts = values["counts"]

    def describe(self):
        """What a checkpoint knows of the problem."""
        mesh = self.equation._near.mesh
        rho = self.state.rho
        tau = self.tau
        coefficients = []
        for now in self.t[:2]:
            rates, entering = self.stepper.at(now)
            inward = np.bincount(
                mesh.left[mesh.n_inner :], rates.b[mesh.n_inner :] * entering, mesh.n_local
            )[: mesh.n_cells]
            coefficients += [rates.leaving(), rates.outflow(rho, entering)[0] / mesh.volume, inward]
        return dict(
            solver="FokkerPlanck",
            order=self.order,
            tau=tau,
            tol=None if tau else self.tol,
            rho0=fingerprint(mesh, rho),
            coefficients=fingerprint(mesh, np.stack(coefficients)),
        )

    def account(self):
        """The ledger's numbers."""
        ranks = self.mesh.ranks
        state = self.state
        inflow, outflow = ranks.sum(np.array([state.inflow, state.outflow]))
        account = dict(
            mass=self.equation._near.mesh.integrate(state.rho),
            inflow=inflow,
            outflow=outflow,
            minimum=ranks.min(state.rho.min(initial=np.inf)),
            maximum=ranks.max(state.rho.max(initial=-np.inf)),
            steps=state.steps,
            **self.stepper.counts,
            time_error=state.error / max(state.scale, np.finfo(float).tiny),
        )
        return account | self._energies()

    def _energies(self):
        """energy, its parts and its dissipation sum_s F_s (xi_left - xi_right), xi = D log rho + V;
        {} where there is none.
        """
        operator = self.operator
        mesh = self.equation._near.mesh
        rho = self.state.rho
        t = self.now
        n = mesh.n_inner
        if operator.gibbs(t) is None:
            return {}
        D, V = operator.diffusion(t), operator.potential(t)
        V = np.zeros(mesh.n_cells) if V is None else V
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(rho)
            entropy, potential = mesh.integrate(
                np.stack([D * np.where(rho > 0, rho * log, 0.0), V * rho])
            )
            rates, entering = self.stepper.at(t)
            xi = mesh.with_ghosts(D * log + V)
            falling = (rates.flux(rho, entering)[:n] * (xi[mesh.left[:n]] - xi[mesh.right[:n]]))[
                mesh.face_owned[:n]
            ]
        return dict(
            energy=entropy + potential,
            entropy=entropy,
            potential_energy=potential,
            dissipation=mesh.ranks.sum(np.nansum(falling)),
        )


class _State:
    """rho (n_cells,), its mass, what came and went since the start, and the error in time, as an L1
    norm.

    A step misses tau^(p+1) times a derivative of rho of order p + 1, and this moves as rho itself
    does. Hence what earlier steps have missed is, now, the present derivative times the sum of
    their tau^(p+1): one look tells the error of the run. It fades as the derivative does, at a rate
    that is averaged over the last steps.
    """

    def __init__(self, rho, mass, step):
        self.rho = rho
        self.mass = mass
        self.inflow = 0.0
        self.outflow = 0.0
        self.steps = 0
        # the length of the last one; the largest mass so far, or to come
        self.step = step
        self.scale = mass
        self.error = self.derivative = self.fading = 0.0
        # the sum of tau^(p+1), and the number of steps, since the last look
        self.powers = 0.0
        self.since = 0
        # how often steps halve the interval between two recorded times, and steps in it
        self.level = 0
        self.done = 0

    @classmethod
    def of(cls, rho, values, is_root):
        """What was kept; what came and went counts on rank 0."""
        state = cls(rho, 0.0, 0.0)
        vars(state).update(values if is_root else values | dict(inflow=0.0, outflow=0.0))
        return state

    def after(self, made, step, order):
        """The state one step later, which has made an `Advanced`."""
        new = _State(made.rho, made.mass, step)
        power = step ** (order + 1)
        new.inflow = self.inflow + np.maximum(-made.crossed, 0).sum()
        new.outflow = self.outflow + np.maximum(made.crossed, 0).sum()
        new.steps = self.steps + 1
        new.since = self.since + 1
        new.powers = self.powers + power
        new.level = self.level
        new.done = self.done + 1
        new.error = self.error
        new.derivative = self.derivative
        new.fading = self.fading
        new.scale = max(self.scale, new.mass)
        if made.error is not None:
            new._look_at(made.error / power, step)
        return new

    def _look_at(self, derivative, step):
        kept = min(1.0, derivative / self.derivative) if self.derivative > 0 else 1.0
        self.error = kept * self.error + derivative * self.powers
        self.fading = (self.fading - math.log(max(kept, 1e-3)) / step) / 2
        self.derivative = derivative
        self.powers = 0.0
        self.since = 0
