"""A `solve` of a continuity equation under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..finite_volume.boundary import evaluate_densities, name_crossed, number_open_parts
from ..finite_volume.fluxes import describe_flux
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Numbering
from ..runs.checkpoint import fingerprint
from .stepper import Stepper


class ContinuityRun:
    """A `solve` under way, see `runs.run.Run`.

    rho (n_cells,) : now, in the order of the `Numbering`
    steps, done : their number, and how many of them since the last recorded time
    crossed (2, n_boundary) : what has left, and entered, through each boundary face, since the
        start or the checkpoint
    reacted (2, n_cells) : by how much the density has grown, and what was added to it, in the same
        way
    before : {name in the ledger: mass} of what came and went up to that checkpoint
    """

    fields = ("density", "velocity")

    def __init__(
        self,
        stepper: Stepper,
        numbering: Numbering,
        rho0: ArrayLike,
        t: Array,
        tau: float | None,
        flux: Any,
    ):
        """flux : what a checkpoint is to know of the scheme."""
        mesh: Any = numbering.mesh
        self.stepper = stepper
        self.mesh = mesh
        self.users: Any = numbering.user_mesh
        self.t = t
        self.tau = tau
        self.flux = flux
        self.rho = numbering.inward(np.array(rho0, float))
        self.now = t[0]
        self.steps = 0
        self.done = 0
        self.crossed = np.zeros((2, mesh.n_faces - mesh.n_inner))
        self.reacted = np.zeros((2, mesh.n_cells))
        self._open_parts = number_open_parts(self.users, stepper.conditions)
        self.before: dict[str, float] = {}
        if not stepper.conditions:
            stepper.reactions.check_total_growth(t[0], t[-1])
        stepper.scheme.start(self.rho)

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take the steps to *end*, and yield the time after each."""
        now = max(self.now, begin)
        for step in self.stepper.choose_steps(begin, end, self.tau, self.done, now):
            made = self.stepper.advance(self.rho, step, self.steps)
            self.rho = made.rho
            self.crossed += made.left, made.entered
            if made.reacted is not None:
                self.reacted += made.reacted
            self.now = step.until
            self.steps += 1
            self.done += 1
            yield self.now

        self.done = 0
        self.stepper.warn_of_crossed_walls()

    # ---- for records ----------------------------------------------------------------------------

    def field(self, name: str) -> Array:
        """The density; `march` asks `velocity` for the other field."""
        return {"density": self.rho}[name]

    def velocity(self, t: Array) -> Array:
        """(n_times, dim, n_cells) at the times t, in the user's order."""
        return self.stepper.cell_velocity(t)

    def account(self) -> dict[str, float]:
        """The ledger's numbers."""
        return dict(**self._sum_exchanged(), steps=self.steps)

    def _sum_exchanged(self):
        """{name in the ledger: mass} of what came and went since the start."""
        mesh = self.mesh
        left, entered = self.crossed
        exchanged = name_crossed(entered, left, self._open_parts)
        grown, added = (mesh.volume * self.reacted).sum(axis=1).tolist()
        if self.stepper.reactions.has_growth:
            exchanged["grown"] = grown
        if self.stepper.reactions.has_source:
            exchanged["added"] = added

        sums = mesh.ranks.sum(np.array(list(exchanged.values()))).tolist()
        return {name: mass + self.before.get(name, 0.0) for name, mass in zip(exchanged, sums)}

    # ---- for checkpoints ------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) for a checkpoint."""
        values = dict(
            now=self.now, steps=self.steps, done=self.done, exchanged=self._sum_exchanged()
        )
        return dict(rho=self.rho), values

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.rho = cells["rho"]
        self.before = values["exchanged"]
        self.now = values["now"]
        self.steps = values["steps"]
        self.done = values["done"]

    def describe(self) -> dict[str, Any]:
        """What a checkpoint knows of the problem."""
        stepper = self.stepper
        users = self.users
        t = self.t

        middle = (t[0] + t[1]) / 2
        velocity = [cell_velocity(users, stepper.face_flux(now)) for now in (t[0], middle)]
        entering = [self._enter_cells(now) for now in t[:2]]
        return dict(
            solver="ContinuityEquation",
            flux=describe_flux(self.flux),
            cfl=stepper.cfl,
            tau=self.tau,
            boundary=str([name for name, _ in stepper.conditions]),
            rho0=fingerprint(self.mesh, self.rho),
            velocity=fingerprint(users, np.stack(velocity)),
            entering=fingerprint(users, np.stack(entering)),
            growth=fingerprint(self.mesh, self._see_at_times(stepper.reactions.growth)),
            source=fingerprint(self.mesh, self._see_at_times(stepper.reactions.source)),
        )

    def _see_at_times(self, field):
        """A field(t) (n_cells,) at the first two times."""
        return np.stack([field(now) for now in self.t[:2]])

    def _enter_cells(self, t):
        """The densities that enter at time t, times areas, summed over each cell (n_cells,)."""
        mesh = self.users
        n = mesh.n_inner
        entering = mesh.area[n:] * evaluate_densities(mesh, self.stepper.conditions, t)
        return np.bincount(mesh.left[n:], entering, mesh.n_local)[: mesh.n_cells]
