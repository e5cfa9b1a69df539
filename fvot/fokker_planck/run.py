"""A `solve` of a Fokker-Planck equation under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..finite_volume.velocity_field import divide_by_density
from ..mesh import Numbering
from ..mesh.cell_values import integrate
from ..runs.checkpoint import fingerprint
from ..runs.run import DerivedField
from .step_control import RunState, StepControl
from .stepper import Stepper

# The first step that an adaptive run tries is this part of the whole run; halvings correct it.
TRIAL_STEP_FRACTION = 1 / 100


class FokkerPlanckRun:
    """A `solve` under way, see `runs.run.Run`.

    numbering : the `Numbering` of the stepper's mesh
    t (n_times,) : the recorded times
    tau : the largest step; None for steps whose errors in time add up to at most tol
    """

    fields = ("density",)

    def __init__(
        self,
        stepper: Stepper,
        numbering: Numbering,
        rho0: ArrayLike,
        t: Array,
        tau: float | None,
        tol: float,
    ):
        self.mesh: Any = numbering.mesh
        self.stepper = stepper
        self.operator = stepper.operator
        self.control = StepControl(stepper, t, tol)
        self.t = t
        self.tau = tau
        self.tol = tol
        self.now = t[0]

        rho = numbering.inward(np.array(rho0, float))
        users: Any = numbering.user_mesh
        mass = integrate(users, np.asarray(rho0, float))
        size = stepper.find_size(rho) if stepper.signed else mass
        first_step = (t[-1] - t[0]) * TRIAL_STEP_FRACTION
        growth_changes = stepper.operator.reactions.growth_depends_on_time
        self.state = RunState(rho, mass, size, first_step, stepper.no_exchange, growth_changes)
        stepper.restart()

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take the steps to *end*, and yield the time after each."""
        if self.tau is None:
            if self.state.steps == 0:
                self.state.scale = max(self.state.scale, self.control.predict_size(self.state.rho))
            steps = self.control.take_adaptive_steps(self.state, begin, end)
        else:
            steps = self.control.take_equal_steps(self.state, begin, end, self.tau)
        for self.state, self.now in steps:
            yield self.now

        self.state.steps_done = 0
        self.now = end  # to the last bit

    # ---- for checkpoints ------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) for a checkpoint."""
        state = self.state
        exchanged = {name: (mass, 0.0) for name, mass in self._sum_exchanged().items()}
        values = vars(state) | dict(exchanged=exchanged)
        del values["rho"]
        return dict(rho=state.rho), dict(state=values, now=self.now, counts=self.stepper.counts)

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.state = RunState.restore(cells["rho"], values["state"], self.mesh.ranks.is_root)
        self.now = values["now"]
        self.stepper.counts = values["counts"]

    def describe(self) -> dict[str, Any]:
        """What a checkpoint knows of the problem."""
        mesh = self.mesh
        n = mesh.n_cells
        rho = self.state.rho

        coefficients = []
        for now in self.t[:2]:
            rates, entering = self.stepper.find_coefficients(now)
            inflow, _ = rates.outflow(rates.extend(np.zeros(n)), entering)
            outflow, _ = rates.outflow(rates.extend(rho), entering)
            crossing = rates.boundary_flux(rates.extend(rho), entering)
            across = np.bincount(mesh.left[mesh.n_inner :], crossing, n)
            coefficients += [rates.leaving(), outflow[:n] / mesh.volume, -inflow[:n], across]

        return dict(
            solver="FokkerPlanck",
            signed=self.stepper.signed,
            order=self.stepper.order,
            tau=self.tau,
            tol=None if self.tau else self.tol,
            rho0=fingerprint(mesh, rho),
            coefficients=fingerprint(mesh, np.stack(coefficients)),
        )

    # ---- for records ----------------------------------------------------------------------------

    def field(self, name: str) -> Array:
        """The density."""
        return {"density": self.state.rho}[name]

    @property
    def derived(self) -> dict[str, DerivedField]:
        """Current, velocity, and the coefficients of the equation. Signed densities have no
        velocity: the current does not vanish where they do.
        """
        operator = self.operator
        stepper = self.stepper
        outward = operator.numbering.outward
        n = self.mesh.n_cells

        def find_current(t: float, recorded: Mapping[str, Array]) -> Array:
            return stepper.find_current(recorded["density"], t)

        def find_velocity(t: float, recorded: Mapping[str, Array]) -> Array:
            return divide_by_density(find_current(t, recorded), recorded["density"])

        def find_diffusion(t: float, recorded: Mapping[str, Array]) -> Array:
            D = operator.diffusion(t)
            return outward(np.broadcast_to(D, (*np.shape(D)[:-1], n)))

        fields: dict[str, DerivedField] = {
            "current": find_current,
            "velocity": find_velocity,
            "diffusion": find_diffusion,
        }
        if stepper.signed:
            del fields["velocity"]
        if operator.has_potential:
            fields["potential"] = lambda t, recorded: outward(operator.potential(t))
        if operator.has_drift:
            fields["drift"] = lambda t, recorded: operator.drift(t)
        return fields

    def account(self) -> dict[str, float]:
        """The ledger's numbers."""
        state = self.state
        tiny = float(np.finfo(float).tiny)
        norm = dict(norm=self.stepper.find_size(state.rho)) if self.stepper.signed else {}
        numbers = dict(
            **norm,
            **self._sum_exchanged(),
            steps=state.steps,
            **self.stepper.counts,
            time_error=state.error / max(state.scale, tiny),
        )
        return numbers | self._compute_energies()

    def _sum_exchanged(self):
        """What came and went since the start, on all ranks, by names as in the ledger."""
        exchanged = self.state.exchanged
        own = np.array([total + lost for total, lost in exchanged.values()])
        sums = self.mesh.ranks.sum(own)
        return dict(zip(exchanged, sums.tolist(), strict=True))

    def _compute_energies(self):
        """energy, its parts and its dissipation; {} where there is no energy, as of signed
        densities.

        The dissipation is the sum of what leaves cells, times xi = T log rho + V; T is 1 where the
        diffusion varies and there is neither a temperature nor a potential.
        """
        if self.stepper.signed:
            return {}
        t = self.now
        mesh = self.mesh
        rho = self.state.rho
        rates, entering = self.stepper.find_coefficients(t)
        if rates.minus_log_gibbs is None or not self.stepper.closed:
            return {}

        T = self.operator.find_temperature(self.operator.diffusion(t))
        T = 1.0 if T is None else T
        V = T * rates.minus_log_gibbs

        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(rho)
            entropy_density = T * np.where(rho > 0, rho * log, 0.0)
            entropy, potential = integrate(mesh, np.stack([entropy_density, V * rho]))
            values = self.stepper.find_values(rho, t)
            dissipation = rates.dissipation(values, entering, T * log + V)

        return dict(
            energy=entropy + potential,
            entropy=entropy,
            potential_energy=potential,
            dissipation=dissipation,
        )
