"""A continuity equation's `solve` under way."""

import numpy as np

from ..finite_volume.boundary import densities
from ..finite_volume.velocity_field import cell_velocity
from ..runs.checkpoint import fingerprint


class ContinuityRun:
    """A `solve` under way, see `march.Run`.

    rho : (n_cells,) now, in the order of `near`
    steps, done : their number, and how many of them since the last recorded time
    crossed : (2, n_boundary) what has left, and entered, through each boundary face, since the
        start or the checkpoint
    before : (2,) the same of all faces up to that checkpoint
    """

    fields = "density", "velocity"

    def __init__(self, equation, rho0, t, tau):
        mesh = equation.mesh
        self.equation = equation
        self.mesh = mesh
        self.t = t
        self.tau = tau
        self.rho = equation._near.inward(np.array(rho0, float))
        self.now = t[0]
        self.steps = self.done = 0
        self.crossed = np.zeros((2, mesh.n_faces - mesh.n_inner))
        self.before = np.zeros(2)

    def advance(self, begin, end):
        """Take the steps to *end*, and yield the time after each."""
        equation = self.equation
        for step in equation._steps(begin, end, self.tau, self.done, max(self.now, begin)):
            self.rho, left, entered = equation._advance(self.rho, step, self.steps)
            self.crossed += left, entered
            self.now = step.until
            self.steps += 1
            self.done += 1
            yield self.now

        self.done = 0
        equation._say_if_walls_are_crossed()

    def field(self, name):
        """The density; the velocity is asked for by its times."""
        return {"density": self.rho}[name]

    def velocity(self, t):
        """(n_times, dim, n_cells) at the times t."""
        return self.equation._velocity_of_cells(t)

    def account(self):
        """The ledger's numbers."""
        ranks = self.mesh.ranks
        outflow, inflow = self._crossed()
        return dict(
            mass=self.equation._near.mesh.integrate(self.rho),
            inflow=inflow,
            outflow=outflow,
            minimum=ranks.min(self.rho.min(initial=np.inf)),
            maximum=ranks.max(self.rho.max(initial=-np.inf)),
            steps=self.steps,
        )

    def _crossed(self):
        """(what has left, what has entered) since the start."""
        return self.before + self.mesh.ranks.sum(self.crossed.sum(axis=1))

    def save(self):
        """(cells, values) for a checkpoint."""
        return dict(rho=self.rho), dict(
            now=self.now, steps=self.steps, done=self.done, crossed=self._crossed()
        )

    def restore(self, cells, values):
        """Be what was saved."""
        self.rho = cells["rho"]
        self.before = np.array(values["crossed"])
        self.now = values["now"]
        self.steps = values["steps"]
        self.done = values["done"]

    def describe(self):
        """What a checkpoint knows of the problem."""
        equation = self.equation
        mesh = self.mesh
        t = self.t
        entering = [
            mesh.area[mesh.n_inner :] * densities(mesh, equation._conditions, now) for now in t[:2]
        ]
        by_cell = [
            np.bincount(mesh.left[mesh.n_inner :], values, mesh.n_local)[: mesh.n_cells]
            for values in entering
        ]
        velocity = [
            cell_velocity(mesh, equation.face_flux(now)) for now in (t[0], (t[0] + t[1]) / 2)
        ]
        flux = getattr(equation.flux, "__name__", None) or repr(equation.flux)
        return dict(
            solver="ContinuityEquation",
            flux=flux,
            cfl=equation.cfl,
            tau=self.tau,
            boundary=str([name for name, _ in equation._conditions]),
            rho0=fingerprint(equation._near.mesh, self.rho),
            velocity=fingerprint(mesh, np.stack(velocity)),
            entering=fingerprint(mesh, np.stack(by_cell)),
        )
