"""A `solve` of a gradient flow under way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..energies.checks import describe_energy
from ..energies.energy import Energy, split_sum
from ..energies.free_energy import FreeEnergy
from ..energies.local import Potential
from ..errors import ConvergenceError
from ..mesh import Numbering
from ..mesh.cell_values import integrate
from ..runs.checkpoint import fingerprint
from ..runs.run import DerivedField
from .corner_step import CornerStep
from .current import compute_current
from .doors import Doors
from .proper_step import ProperStep
from .step import StepMethod, StepResult
from .step_control import MAX_STEP_GROWTH, StepControl

# Failures of Newton's method between two recorded times, before the run gives up.
MAX_NEWTON_FAILURES = 100

# The part of the first mass below which a room with a door counts as empty: it is rounding in the
# balance of mass.
EMPTY_ROOM = 1e-15

# The numbers of a run that a checkpoint keeps.
SAVED_NUMBERS = (
    "now",
    "mass0",
    "steps",
    "newton",
    "dissipated",
    "dissipation",
    "energy_outflow",
    "work",
)


class GradientFlow(Protocol):
    """What a run knows of its equation, a `JKO`."""

    energy: Energy
    tol: float
    upper: float
    order: int
    mobility: str
    inner: Any


class JKORun:
    """The state and the steps of one call of `solve`, see `runs.run.Run`. Arrays have the cells in
    the order of the `Numbering`.

    rho (n_cells,) : the density at the time *now*
    steps, newton, dissipated : sums since the start
    dissipation : the mean rate over the last step
    outflow (n_doors,), energy_outflow : the mass that has left through each door since the start,
        and its energy when it left
    work : the integral of rho dV/dt since the start
    """

    def __init__(
        self,
        flow: GradientFlow,
        take_step: StepMethod,
        numbering: Numbering,
        rho0: ArrayLike,
        t: Array,
        tau: float | None,
        free_energy: FreeEnergy | None = None,
        doors: Doors | None = None,
    ):
        """free_energy : of the flow on the mesh, if it is there already."""
        self.flow = flow
        self.take_step = take_step
        self.numbering = numbering
        self.free_energy = free_energy
        self.doors = doors
        mesh: Any = numbering.mesh
        self.mesh = mesh
        self.tau = tau
        self.fields = ("density",) if flow.upper == math.inf else ("density", "pressure")
        take_step.restart()

        self.now = t[0]
        self.next_time = t[1]
        self.rho = numbering.inward(np.array(rho0, float))
        self.pressure: Array | None = np.zeros(len(self.rho))
        self.mass0: float = integrate(self.mesh, self.rho)
        self.steps = 0
        self.newton = 0
        self.dissipated = 0.0
        self.dissipation = 0.0
        self.outflow = np.zeros(0 if doors is None else len(doors.names))
        self.energy_outflow = 0.0
        self.work = 0.0
        self.control = StepControl(mesh, t, flow.order, flow.tol, self.mass0)

    @cached_property
    def _energy(self):
        """The energy on the mesh. The first use is collective."""
        return self.free_energy or FreeEnergy(self.numbering, self.flow.energy)

    # ---- steps ----------------------------------------------------------------------------------

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take equal steps of at most tau to *end*; without tau, steps that keep the error small.

        Where Newton's method fails in one, shorter ones are taken, which grow again. Yields the
        time after each.
        """
        control = self.control
        tau = self.tau
        if tau is not None:
            tau = (end - begin) / math.ceil((end - begin) / tau * (1 - 1e-12))
            if self.now == begin:
                control.wish = tau

        failure = None
        failures = 0
        while self.now < end:
            step = control.choose_step(self.now, end)
            if self.now + step == self.now or failures > MAX_NEWTON_FAILURES:
                raise self._build_error(failure)

            after = end if step == end - self.now else self.now + step
            self._set_times(*((after,) if self.flow.order == 1 else (self.now, after)))
            try:
                made = self.take_step(self.rho, step)
            except ConvergenceError as error:
                if self.flow.inner is not None:
                    raise
                control.wish = step / 4
                failure = error
                failures = failures + 1
                continue

            following: float | None = step * MAX_STEP_GROWTH
            if tau is None:
                following = control.judge(self.rho, made.rho, self.now, step)
            if following is None:
                continue
            self._accept(made, step, after)
            control.wish = min(following, tau or np.inf)
            yield self.now

    def _build_error(self, failure):
        reasons = [] if failure is None else [str(failure)]
        if self.tau is None:
            reasons.append(f"give a larger tol than {self.flow.tol:.3g}, or steps with tau=")
        return ConvergenceError(f"steps get too short at t = {self.now:.6g}: {'; '.join(reasons)}")

    def _set_times(self, *times):
        """Take potentials at these times."""
        energy = self.free_energy
        if energy is None or not energy.depends_on_time:
            return
        energy.set_times(*times)
        if self.doors is not None:
            self.doors.renew()

    def _accept(self, made: StepResult, step, now):
        made = self._let_leave(made)
        self._add_work(made.rho, now)
        self.control.add_slope(self.rho, made.rho, step)
        self.rho = made.rho
        self.now = now
        self.steps = self.steps + 1
        self.newton = self.newton + made.newton
        self.pressure = made.pressure
        self.dissipated = self.dissipated + made.dissipated
        self.dissipation = made.dissipated / step

    def _let_leave(self, made):
        """Add up what has left in a step; returns the step, with an empty room after the last."""
        doors = self.doors
        if doors is None or made.left is None or not doors.names:
            return made

        left = made.left
        total = doors.sum(left)
        rest = integrate(self.mesh, made.rho)
        if total > 0 and 0 < rest <= EMPTY_ROOM * self.mass0:
            left = left * (1 + rest / total)
            made = made._replace(rho=0.0 * made.rho)
        self.outflow = self.outflow + doors.sum_by_door(left)
        self.energy_outflow = self.energy_outflow + doors.sum(left * doors.potential)
        return made

    def _add_work(self, rho, now):
        """Add the work that potentials that depend on time do in a step to rho at time *now*."""
        energy = self.free_energy
        if energy is None or not energy.depends_on_time:
            return
        change = energy.find_potential(now) - energy.find_potential(self.now)
        carried = self.rho if self.flow.order == 1 else (self.rho + rho) / 2
        self.work = self.work + integrate(self.mesh, change * carried)

    # ---- for checkpoints ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What a checkpoint knows of the problem."""
        flow = self.flow
        mesh = self.mesh
        free_energy = self._energy
        self._set_times(self.now)
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
            **self._describe_changes(),
        )

    def _describe_changes(self):
        """What else a checkpoint knows where there are doors, limited fluxes, or potentials that
        depend on time.
        """
        description: dict[str, Any] = {}
        if self.flow.mobility != "upwind":
            description["mobility"] = self.flow.mobility
        if self.doors is not None and self.doors.names:
            description["doors"] = str(self.doors.names)
        energy = self.free_energy
        if energy is not None and energy.depends_on_time:
            middle = (self.control.span[0] + self.next_time) / 2
            description["potential"] = fingerprint(self.mesh, energy.find_potential(middle))
        return description

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) for a checkpoint."""
        slopes, control = self.control.save()
        cells = dict(rho=self.rho, slopes=slopes)
        if self.pressure is not None:
            cells["pressure"] = self.pressure

        memory = self.take_step.save()
        cells.update(memory.pop("cells", {}))
        values = dict(
            run={name: getattr(self, name) for name in SAVED_NUMBERS},
            outflow=self.outflow,
            control=control,
            memory=memory,
        )
        return cells, values

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        vars(self).update(values["run"])
        self.outflow = np.array(values["outflow"])
        self.rho = cells.pop("rho")
        self.pressure = cells.pop("pressure") if "pressure" in cells else None
        self.control.restore(cells.pop("slopes"), values["control"])
        self.take_step.restore(values["memory"] | dict(cells=cells))

    # ---- for records ----------------------------------------------------------------------------

    def field(self, name: str) -> Array:
        """The density, or the pressure."""
        values = {"density": self.rho, "pressure": self.pressure}[name]
        assert values is not None  # asked only with an upper bound, where there is a pressure
        return values

    @property
    def derived(self) -> dict[str, DerivedField]:
        """Current, velocity, and the potential where the energy has one."""
        numbering = self.numbering
        goes_to_corners = isinstance(self.take_step, CornerStep)

        def find_both(t: float, recorded: Mapping[str, Array]) -> tuple[Array, Array]:
            self._set_times(t)
            inward = {name: numbering.inward(recorded[name]) for name in self.fields}
            return compute_current(self._energy, goes_to_corners, doors=self.doors, **inward)

        def find_potential(t: float, recorded: Mapping[str, Array]) -> Array:
            self._set_times(t)
            return numbering.outward(self._energy.external)

        fields: dict[str, DerivedField] = {
            "current": lambda t, recorded: numbering.outward(find_both(t, recorded)[0]),
            "velocity": lambda t, recorded: numbering.outward(find_both(t, recorded)[1]),
        }
        if any(isinstance(part, Potential) for _, part in split_sum(self.flow.energy)):
            fields["potential"] = find_potential
        return fields

    def account(self) -> dict[str, float]:
        """The ledger's numbers; with the estimated error if tau is None."""
        self._set_times(self.now)
        numbers = dict(
            **self.take_step.parts(self.rho),
            dissipated=self.dissipated,
            dissipation=self.dissipation,
            steps=self.steps,
            newton=self.newton,
            iterations=self.take_step.iterations,
        )
        if self.doors is not None and self.doors.names:
            numbers["outflow"] = self.outflow.sum()
            by_door = zip(self.doors.names, self.outflow, strict=True)
            numbers |= {f"outflow:{name}": mass for name, mass in by_door}
            numbers["energy_outflow"] = self.energy_outflow
        if self.free_energy is not None and self.free_energy.depends_on_time:
            numbers["work"] = self.work
        if self.tau is None:
            numbers["time_error"] = self.control.error / max(
                self.mass0, float(np.finfo(float).tiny)
            )
        if isinstance(self.take_step, ProperStep):
            numbers["gap"] = self.take_step.gap
        return numbers
