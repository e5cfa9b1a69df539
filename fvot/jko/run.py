"""A `solve` of a gradient flow under way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..energies.checks import describe_energy
from ..energies.energy import Energy
from ..energies.free_energy import FreeEnergy
from ..errors import ConvergenceError
from ..mesh import Numbering
from ..mesh.cell_values import integrate
from ..runs.checkpoint import fingerprint
from .proper_step import ProperStep
from .step import StepMethod, StepResult

# Failures of Newton's method between two recorded times, before the run gives up.
MAX_NEWTON_FAILURES = 100

# The first step that is tried where steps are chosen, as a part of the whole run.
FIRST_STEP_FRACTION = 1e-3

# The largest ratio of a step to the one before it.
MAX_STEP_GROWTH = 2.0

# The part of the longest allowed step that is tried: a margin, as the work of a refused step is
# lost.
STEP_SAFETY = 0.85

# The numbers of a run that a checkpoint keeps.
SAVED_NUMBERS = (
    "now",
    "mass0",
    "steps",
    "newton",
    "dissipated",
    "dissipation",
    "error",
    "wish",
)


class GradientFlow(Protocol):
    """What a run knows of its equation, a `JKO`."""

    energy: Energy
    tol: float
    upper: float
    order: int
    inner: Any


class Slope(NamedTuple):
    """The mean derivative (n_cells,) over one of the last steps, and the length of that step."""

    value: Array
    tau: float


class JKORun:
    """The state and the steps of one call of `solve`, see `runs.run.Run`. Arrays have the cells in
    the order of the `Numbering`.

    rho (n_cells,) : the density at the time *now*
    steps, newton, dissipated, error : sums since the start
    dissipation : the mean rate over the last step
    wish : the length that the next step should have
    slopes : of the last one or two steps, the newest first
    """

    def __init__(
        self,
        flow: GradientFlow,
        take_step: StepMethod,
        near: Numbering,
        rho0: ArrayLike,
        t: Array,
        tau: float | None,
        free_energy: FreeEnergy | None = None,
    ):
        """free_energy : of the flow on the mesh, if it is there already."""
        self.flow = flow
        self.take_step = take_step
        self.near = near
        self.free_energy = free_energy
        mesh: Any = near.mesh
        self.mesh = mesh
        self.tau = tau
        self.span = (t[0], t[-1])
        self.fields = ("density",) if flow.upper == math.inf else ("density", "pressure")
        take_step.restart()

        self.now = t[0]
        self.rho = near.inward(np.array(rho0, float))
        self.pressure: Array | None = np.zeros(len(self.rho))
        self.mass0: float = integrate(self.mesh, self.rho)
        self.steps = 0
        self.newton = 0
        self.dissipated = 0.0
        self.dissipation = 0.0
        self.error = 0.0
        self.wish = (t[-1] - t[0]) * FIRST_STEP_FRACTION
        self.slopes: list[Slope] = []

    # ---- steps ----------------------------------------------------------------------------------

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take equal steps of at most tau to *end*; without tau, steps that keep the error small.

        Where Newton's method fails in one, shorter ones are taken, which grow again. Yields the
        time after each.
        """
        tau = self.tau
        if tau is not None:
            tau = (end - begin) / math.ceil((end - begin) / tau * (1 - 1e-12))
            self.wish = tau if self.now == begin else self.wish

        failure = None
        failures = 0
        while self.now < end:
            step = self._choose_step(end)
            if self.now + step == self.now or failures > MAX_NEWTON_FAILURES:
                raise self._build_error(failure)

            try:
                made = self.take_step(self.rho, step)
            except ConvergenceError as error:
                if self.flow.inner is not None:
                    raise
                self.wish = step / 4
                failure = error
                failures = failures + 1
                continue

            following = step * MAX_STEP_GROWTH if tau is not None else self._judge(made, step)
            if following is None:
                continue
            self._accept(made, step, end if step == end - self.now else self.now + step)
            self.wish = min(following, tau or np.inf)
            yield self.now

    def _choose_step(self, end):
        """The wished step, or less: *end* is hit, without a very short step at last."""
        left = end - self.now
        step = self.wish
        if left >= 2 * step:
            return step
        return left if left <= step * (1 + 1e-9) else left / 2

    def _build_error(self, failure):
        reasons = [] if failure is None else [str(failure)]
        if self.tau is None:
            reasons.append(f"give a larger tol than {self.flow.tol:.3g}, or steps with tau=")
        return ConvergenceError(f"steps get too short at t = {self.now:.6g}: {'; '.join(reasons)}")

    def _judge(self, made, step):
        """The length that the next step may have; None where this one has too large an error.

        A shorter one is then wished.
        """
        order = self.flow.order
        is_known = len(self.slopes) >= order
        if is_known:
            error = self._estimate_error(made, step)
            allowed = self._allow(step)
        else:
            error = integrate(self.mesh, np.abs(made.rho - self.rho))
            allowed = self.flow.tol ** (1 / order) * self.mass0

        factor = STEP_SAFETY * (allowed / error) ** (1 / order) if error > 0 else math.inf
        shortest = self._find_shortest(step)
        if error > allowed and step > shortest * (1 + 1e-9):
            self.wish = max(step * max(factor, 0.1), shortest)
            return None

        self.error += error if is_known else 0.0
        return max(step * min(factor, MAX_STEP_GROWTH), shortest)

    def _find_shortest(self, step):
        """The length below which no step is cut for its error.

        Where cells fill up, derivatives jump, however short the step is.
        """
        if self.flow.order == 2:
            return 0.0
        return self.flow.tol * (self.now - self.span[0] + step)

    def _estimate_error(self, made, step):
        """The error of the step in L1, from the polynomial through the last mean derivatives.

        The derivative at the middle of the step, extrapolated from those at the middles of the last
        ones, misses a known multiple of the next derivative; the step itself misses another one,
        tau^2 / 2 or tau^3 / 12.
        """
        slope = (made.rho - self.rho) / step
        last = self.slopes
        if self.flow.order == 1:
            predicted = last[0].value
            share = step / (2 * step + last[0].tau)
        else:
            ahead = (step + last[0].tau) / 2
            behind = (last[0].tau + last[1].tau) / 2
            change = last[0].value - last[1].value
            predicted = last[0].value + ahead / behind * change
            share = step**2 / 6 / (step**2 / 6 + ahead * (ahead + behind))
        return share * step * integrate(self.mesh, np.abs(slope - predicted))

    def _allow(self, step):
        """The error that a step may add: its share of what the tolerance leaves.

        By time, or by the logarithm of the time that has passed: the larger one.
        """
        passed = self.now - self.span[0]
        left = self.span[1] - self.now
        tol = self.flow.tol
        spare = max(tol * self.mass0 - self.error, 0.1 * tol * self.mass0)
        return spare * max(step / left, step / (passed + step) / 16)

    def _accept(self, made: StepResult, step, now):
        slope = Slope((made.rho - self.rho) / step, step)
        self.slopes = [slope, *self.slopes[:1]]
        self.rho = made.rho
        self.now = now
        self.steps = self.steps + 1
        self.newton = self.newton + made.newton
        self.pressure = made.pressure
        self.dissipated = self.dissipated + made.dissipated
        self.dissipation = made.dissipated / step

    # ---- for checkpoints ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What a checkpoint knows of the problem."""
        flow = self.flow
        mesh = self.mesh
        free_energy = self.free_energy or FreeEnergy(self.near, flow.energy)
        mean = self.mass0 / free_energy.measure
        rho = self.rho + mean  # above 0, where derivatives may be infinite
        slope = free_energy.derivative(rho) + free_energy.potential(rho)
        return dict(
            solver="JKO",
            order=flow.order,
            upper=flow.upper,
            tau=self.tau,
            tol=None if self.tau else flow.tol,
            energy=str(describe_energy(flow.energy)),
            inner=flow.inner and repr(flow.inner),
            rho0=fingerprint(mesh, self.rho),
            slope=fingerprint(mesh, slope),
        )

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) for a checkpoint."""
        slopes = np.reshape([slope.value for slope in self.slopes], (-1, len(self.rho)))
        cells = dict(rho=self.rho, slopes=slopes)
        if self.pressure is not None:
            cells["pressure"] = self.pressure

        memory = self.take_step.save()
        cells.update(memory.pop("cells", {}))
        values = dict(
            run={name: getattr(self, name) for name in SAVED_NUMBERS},
            lengths=[slope.tau for slope in self.slopes],
            memory=memory,
        )
        return cells, values

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        vars(self).update(values["run"])
        self.rho = cells.pop("rho")
        self.pressure = cells.pop("pressure") if "pressure" in cells else None
        self.slopes = [
            Slope(value, tau)
            for value, tau in zip(cells.pop("slopes"), values["lengths"], strict=True)
        ]
        self.take_step.restore(values["memory"] | dict(cells=cells))

    # ---- for records ----------------------------------------------------------------------------

    def field(self, name: str) -> Array:
        """The density, or the pressure."""
        values = {"density": self.rho, "pressure": self.pressure}[name]
        assert values is not None  # asked only with an upper bound, where there is a pressure
        return values

    def account(self) -> dict[str, float]:
        """The ledger's numbers; with the estimated error if tau is None."""
        numbers = dict(
            **self.take_step.parts(self.rho),
            dissipated=self.dissipated,
            dissipation=self.dissipation,
            steps=self.steps,
            newton=self.newton,
            iterations=self.take_step.iterations,
        )
        if self.tau is None:
            numbers["time_error"] = self.error / max(self.mass0, float(np.finfo(float).tiny))
        if isinstance(self.take_step, ProperStep):
            numbers["gap"] = self.take_step.gap
        return numbers
