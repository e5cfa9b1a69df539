"""A gradient flow's `solve` under way."""

import math
from typing import NamedTuple

import numpy as np

from ..energies.free_energy import FreeEnergy
from ..energies.local import described
from ..errors import ConvergenceError
from ..runs.checkpoint import fingerprint

FAILURES = 100  # of Newton's method between two recorded times, before the run gives up
FIRST = 1e-3  # length of the first step, of the whole run, where steps are chosen
GROWTH = 2.0  # of a step by the next one
KEPT = (
    "now",
    "mass0",
    "steps",
    "newton",
    "dissipated",
    "dissipation",
    "error",
    "wish",
)  # numbers of a run


class _Slope(NamedTuple):
    """The mean derivative (n_cells,) over one of the last steps, and the length of that."""

    value: np.ndarray
    tau: float


class JKORun:
    """A `solve` under way, see `march.Run`: rho (n_cells,) at the time now; what has happened since
    the start.

    Cells are those of `mesh`, in the steps' order.
    """

    def __init__(self, equation, rho0, t, tau):
        self.mesh = equation._near.mesh
        self.equation = equation
        self.tau = tau
        self.now = t[0]
        self.span = (t[0], t[-1])
        self.rho = equation._near.inward(np.array(rho0, float))
        self.fields = ("density",) if equation.upper == math.inf else ("density", "pressure")
        equation._step.restart()
        self.mass0 = self.mesh.integrate(self.rho)
        self.pressure = np.zeros(len(self.rho))
        self.steps = self.newton = 0
        self.dissipated = self.dissipation = self.error = 0.0
        self.wish = (t[-1] - t[0]) * FIRST
        self.slopes = []

    def advance(self, begin, end):
        """Take equal steps of at most tau to *end*, or, if that is None, steps that keep the error
        small.

        Where one fails, shorter ones are taken, which grow again. Yields the time after each.
        """
        tau = self.tau
        if tau is not None:
            tau = (end - begin) / math.ceil((end - begin) / tau * (1 - 1e-12))
            self.wish = tau if self.now == begin else self.wish
        failure = None
        failures = 0
        while self.now < end:
            left = end - self.now
            step = self.wish
            if left < 2 * step:  # no very short one at the end
                step = left if left <= step * (1 + 1e-9) else left / 2
            if self.now + step == self.now or failures > FAILURES:
                remedy = (
                    [f"give a larger tol than {self.equation.tol:.3g}, or steps with tau="]
                    if tau is None
                    else []
                )
                raise ConvergenceError(
                    f"steps get too short at t = {self.now:.6g}: "
                    + "; ".join([*([str(failure)] if failure else []), *remedy])
                )
            try:
                made = self.equation._step(self.rho, step)
            except ConvergenceError as error:
                if self.equation.inner is not None:
                    raise
                self.wish = step / 4
                failure = error
                failures = failures + 1
                continue
            wanted = step * GROWTH if tau is not None else self._judged(made, step)
            if wanted is None:
                continue
            self._accept(made, step, end if step == left else self.now + step)
            self.wish = min(wanted, tau or np.inf)
            yield self.now

    def _judged(self, made, step):
        """The length that the next step may have; None where this one was too long, for which a
        shorter one is wished.
        """
        order = self.equation.order
        known = len(self.slopes) >= self.equation.order
        if known:
            error = self._error(made, step)
            allowed = self._allowed(step)
        else:
            error = self.mesh.integrate(np.abs(made.rho - self.rho))
            allowed = self.equation.tol ** (1 / order) * self.mass0
        factor = 0.85 * (allowed / error) ** (1 / order) if error > 0 else math.inf
        shortest = self._shortest(step)
        if error > allowed and step > shortest * (1 + 1e-9):
            self.wish = max(step * max(factor, 0.1), shortest)
            return None
        self.error += error if known else 0.0
        return max(step * min(factor, GROWTH), shortest)

    def _shortest(self, step):
        """The length below which no step is cut for its error: where cells fill up, derivatives
        jump, however short it is.
        """
        return (
            self.equation.tol * (self.now - self.span[0] + step)
            if self.equation.order == 1
            else 0.0
        )

    def _error(self, made, step):
        """What the step misses, in L1: from how far it is from the polynomial through the last
        steps' mean derivatives.

        The derivative at the middle of the step, extrapolated from those at the middles of the last
        ones, misses a known multiple of the next derivative; the step itself misses another one,
        tau^2 / 2 or tau^3 / 12.
        """
        equation = self.equation
        mesh = self.mesh
        slope = (made.rho - self.rho) / step
        last = self.slopes
        if equation.order == 1:
            predicted = last[0].value
            share = step / (2 * step + last[0].tau)
        else:
            first, second = (step + last[0].tau) / 2, (last[0].tau + last[1].tau) / 2
            predicted = last[0].value + first / second * (last[0].value - last[1].value)
            share = step**2 / 6 / (step**2 / 6 + first * (first + second))
        return share * step * mesh.integrate(np.abs(slope - predicted))

    def _allowed(self, step):
        """What a step may add to the error: its share of what is left, by time, or by the logarithm
        of the time passed.
        """
        passed = self.now - self.span[0]
        left = self.span[1] - self.now
        spare = max(
            self.equation.tol * self.mass0 - self.error, 0.1 * self.equation.tol * self.mass0
        )
        return spare * max(step / left, step / (passed + step) / 16)

    def _accept(self, made, step, now):
        self.slopes = [_Slope((made.rho - self.rho) / step, step), *self.slopes[:1]]
        self.rho = made.rho
        self.now = now
        self.steps = self.steps + 1
        self.newton = self.newton + made.newton
        self.pressure = made.pressure
        self.dissipated = self.dissipated + made.dissipated
        self.dissipation = made.dissipated / step

    def describe(self):
        """What a checkpoint knows of the problem."""
        equation = self.equation
        mesh = self.mesh
        rho0 = self.rho
        tau = self.tau
        energy = (
            equation._energy
            if equation.inner is None
            else FreeEnergy(equation._near, equation.energy)
        )
        rho = rho0 + mesh.integrate(rho0) / mesh.integrate(np.ones(mesh.n_cells))
        return dict(
            solver="JKO",
            order=equation.order,
            upper=equation.upper,
            tau=tau,
            tol=None if tau else equation.tol,
            energy=str(described(equation.energy)),
            inner=equation.inner and repr(equation.inner),
            rho0=fingerprint(mesh, rho0),
            slope=fingerprint(mesh, energy.derivative(rho) + energy.potential(rho)),
        )

    def save(self):
        """(cells, values) for a checkpoint."""
        cells = dict(
            rho=self.rho,
            slopes=np.reshape([slope.value for slope in self.slopes], (-1, len(self.rho))),
        )
        cells |= {} if self.pressure is None else dict(pressure=self.pressure)
        values = {name: getattr(self, name) for name in KEPT}
        memory = self.equation._step.memory
        return cells | memory.pop("cells", {}), dict(
            run=values, lengths=[slope.tau for slope in self.slopes], memory=memory
        )

    def restore(self, cells, values):
        """Be what was saved."""
        vars(self).update(values["run"])
        self.rho = cells.pop("rho")
        self.pressure = cells.pop("pressure", None)
        self.slopes = [
            _Slope(value, tau)
            for value, tau in zip(cells.pop("slopes"), values["lengths"], strict=True)
        ]
        self.equation._step.memory = values["memory"] | dict(cells=cells)

    def field(self, name):
        """The density, or the pressure."""
        return {"density": self.rho, "pressure": self.pressure}[name]

    def account(self):
        """The ledger's numbers; with the estimated error if tau is None."""
        equation = self.equation
        mesh = self.mesh
        ranks = self.mesh.ranks
        return dict(
            mass=mesh.integrate(self.rho),
            minimum=ranks.min(self.rho.min(initial=np.inf)),
            maximum=ranks.max(self.rho.max(initial=-np.inf)),
            **equation._step.parts(self.rho),
            dissipated=self.dissipated,
            dissipation=self.dissipation,
            steps=self.steps,
            newton=self.newton,
            iterations=equation._step.iterations,
            **(
                {}
                if self.tau is not None
                else {"time_error": self.error / max(self.mass0, np.finfo(float).tiny)}
            ),
            **({} if equation.inner is None else {"gap": equation._step.gap}),
        )
