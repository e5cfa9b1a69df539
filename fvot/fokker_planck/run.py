"""A Fokker-Planck equation's `solve` under way."""

import math
from functools import partial

import numpy as np

from ..arguments.watch import WATCHED
from ..errors import ConvergenceError, warn
from ..finite_volume.implicit_step import Resolvent
from ..runs.checkpoint import fingerprint

FEW = 4  # steps without a look at their error
HALVINGS = 40  # of an interval between two times, before an adaptive run gives up
# tolerance of the step that tells how much mass a run will have, of which only the size counts
ROUGHLY = 1e-3
SIMPSON = (
    (1e-9, 1 / 6),
    (0.5, 2 / 3),
    (1 - 1e-9, 1 / 6),
)  # places between two times, at which things may jump, and weights


class FokkerPlanckRun:
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
        if count > WATCHED or self.stepper.autonomous:
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
        step = Resolvent(self.stepper.at(t[-1])[0], t[-1] - t[0], rtol=ROUGHLY)
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
