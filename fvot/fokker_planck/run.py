"""A `solve` of a Fokker-Planck equation under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..finite_volume.fluxes import describe_flux
from ..finite_volume.velocity_field import divide_by_density
from ..mesh import Numbering
from ..mesh.cell_values import integrate
from ..runs.checkpoint import fingerprint
from ..runs.run import DerivedField, name_densities
from .step_control import MemberState, RunState, StepControl
from .stepper import Stepper

# The first step that an adaptive run tries is this part of the whole run; halvings correct it.
TRIAL_STEP_FRACTION = 1 / 100


class FokkerPlanckRun:
    """A `solve` under way, see `runs.run.Run`: of one density, or of a batch.

    rho0 (n_cells,), or (k, n_cells) for a batch : the densities at the start, in the user's order
    numbering : the `Numbering` of the stepper's mesh
    t (n_times,) : the recorded times
    tau : the largest step; None for steps whose errors in time add up to at most tol
    """

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
        if self.operator.has_walls_only:
            self.operator.reactions.check_total_growth(t[0], t[-1])

        given = np.array(rho0, float)
        self.is_batch = given.ndim == 2
        self.fields = name_densities(len(given)) if self.is_batch else ("density",)
        members = [self._begin(numbering, rho) for rho in np.atleast_2d(given)]
        first_step = (t[-1] - t[0]) * TRIAL_STEP_FRACTION
        growth_changes = stepper.operator.reactions.growth_depends_on_time
        self.state = RunState(members, first_step, growth_changes)
        stepper.restart(len(members))

    def _begin(self, numbering, rho):
        """The state of a density (n_cells,) at the start, given in the user's order."""
        stepper = self.stepper
        inward = numbering.inward(rho)
        mass = integrate(numbering.user_mesh, rho)
        size = stepper.find_size(inward) if stepper.signed else mass
        return MemberState(inward, mass, size, stepper.no_exchange)

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take the steps to *end*, and yield the time after each."""
        if self.tau is None:
            if self.state.steps == 0:
                members = self.state.members
                sizes = self.control.predict_sizes([member.rho for member in members])
                for member, size in zip(members, sizes, strict=True):
                    member.scale = max(member.scale, size)
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
        members = []
        for member in self.state.members:
            exchanged = {name: (mass, 0.0) for name, mass in self._sum_exchanged(member).items()}
            values = vars(member) | dict(exchanged=exchanged)
            del values["rho"]
            members.append(values)
        rho = np.stack([member.rho for member in self.state.members])
        return dict(rho=rho), dict(
            state=vars(self.state) | dict(members=members),
            now=self.now,
            counts=[memory.counts for memory in self.stepper.memories],
        )

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        vars(self.state).update(values["state"])
        is_root = self.mesh.ranks.is_root
        self.state.members = [
            MemberState.restore(rho, member, is_root)
            for rho, member in zip(cells["rho"], values["state"]["members"], strict=True)
        ]
        self.now = values["now"]
        for memory, counts in zip(self.stepper.memories, values["counts"], strict=True):
            memory.counts = counts

    def describe(self) -> dict[str, Any]:
        """What a checkpoint knows of the problem."""
        mesh = self.mesh
        n = mesh.n_cells
        densities = np.stack([member.rho for member in self.state.members])
        rho = densities[0]

        coefficients = []
        for now in self.t[:2]:
            rates, entering = self.stepper.find_coefficients(now)
            inflow, _ = rates.outflow(rates.extend(np.zeros(n)), entering)
            outflow, _ = rates.outflow(rates.extend(rho), entering)
            crossing = rates.boundary_flux(rates.extend(rho), entering)
            across = np.bincount(mesh.left[mesh.n_inner :], crossing, n)
            coefficients += [rates.leaving(), outflow[:n] / mesh.volume, -inflow[:n], across]

        correction = self.operator.correction
        flux = {} if correction is None else dict(flux=describe_flux(self.operator.terms.flux))
        return dict(
            solver="FokkerPlanck",
            **flux,
            signed=self.stepper.signed,
            densities=len(densities) if self.is_batch else None,
            order=self.stepper.order,
            tau=self.tau,
            tol=None if self.tau else self.tol,
            rho0=fingerprint(mesh, densities),
            coefficients=fingerprint(mesh, np.stack(coefficients)),
        )

    # ---- for records ----------------------------------------------------------------------------

    def field(self, name: str) -> Array:
        """A density, by its name among the fields."""
        return self.state.members[self.fields.index(name)].rho

    @property
    def derived(self) -> dict[str, DerivedField]:
        """Current, velocity, and the coefficients of the equation. Signed densities have no
        velocity: the current does not vanish where they do.
        """
        operator = self.operator
        stepper = self.stepper
        outward = operator.numbering.outward
        n = self.mesh.n_cells

        def find_current(density: str, t: float, recorded: Mapping[str, Array]) -> Array:
            return stepper.find_current(recorded[density], t)

        def find_velocity(density: str, t: float, recorded: Mapping[str, Array]) -> Array:
            return divide_by_density(find_current(density, t, recorded), recorded[density])

        def find_diffusion(t: float, recorded: Mapping[str, Array]) -> Array:
            D = operator.diffusion(t)
            return outward(np.broadcast_to(D, (*np.shape(D)[:-1], n)))

        fields: dict[str, DerivedField] = {}
        for density in self.fields:
            fields[density.replace("density", "current")] = partial(find_current, density)
            if not stepper.signed:
                fields[density.replace("density", "velocity")] = partial(find_velocity, density)
        fields["diffusion"] = find_diffusion
        if operator.has_potential:
            fields["potential"] = lambda t, recorded: outward(operator.potential(t))
        if operator.has_drift:
            fields["drift"] = lambda t, recorded: operator.drift(t)
        return fields

    def account(self) -> dict[str, Any]:
        """The ledger's numbers; of a batch lists, one number for each density."""
        accounts = [self._account_for(i) for i in range(len(self.state.members))]
        if not self.is_batch:
            return accounts[0]
        return {name: [account[name] for account in accounts] for name in accounts[0]}

    def _account_for(self, i):
        """The ledger's numbers of density number i."""
        self.stepper.select(i)
        member = self.state.members[i]
        norm = dict(norm=self.stepper.find_size(member.rho)) if self.stepper.signed else {}
        tiny = float(np.finfo(float).tiny)
        numbers = dict(
            **norm,
            **self._sum_exchanged(member),
            steps=self.state.steps,
            **self.stepper.counts,
            time_error=member.error / max(member.scale, tiny),
        )
        return numbers | self._compute_energies(member.rho)

    def _sum_exchanged(self, member):
        """What came and went since the start, on all ranks, by names as in the ledger."""
        exchanged = member.exchanged
        own = np.array([total + lost for total, lost in exchanged.values()])
        sums = self.mesh.ranks.sum(own)
        return dict(zip(exchanged, sums.tolist(), strict=True))

    def _compute_energies(self, rho):
        """energy, its parts and its dissipation; {} where there is no energy, as of signed
        densities.

        The dissipation is the sum of what leaves cells, times xi = T log rho + V; T is 1 where the
        diffusion varies and there is neither a temperature nor a potential.
        """
        if self.stepper.signed:
            return {}
        t = self.now
        mesh = self.mesh
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
            xi = T * log + V
            if self.operator.correction is None:
                dissipation = rates.dissipation(values, entering, xi)
            else:
                added = self.operator.correction(rho, rates)
                dissipation = rates.dissipation(values, entering, xi, added)

        return dict(
            energy=entropy + potential,
            entropy=entropy,
            potential_energy=potential,
            dissipation=dissipation,
        )
