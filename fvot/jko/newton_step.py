"""What the steps have in common whose equations are solved by Newton's method."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.types import Array
from ..energies.free_energy import FreeEnergy
from ..finite_volume.rates import SparsityPattern
from .doors import Doors
from .newton_systems import Solver


class NewtonStep:
    """The base of `LinearisedStep` and `MidpointStep`, see `step.StepMethod`.

    tol : largest residual of the equations, in L1, relative to the mass at first
    doors : through which mass leaves
    first_mass : the largest one since the start
    transmissibility (n_inner,) : |s| / d_s
    no_inflow (n_faces - n_inner,) : zeros, the densities outside
    """

    def __init__(self, free_energy: FreeEnergy, tol: float, doors: Doors | None = None):
        mesh: Any = free_energy.mesh
        n = mesh.n_inner
        self.free_energy = free_energy
        self.mesh = mesh
        self.tol = tol
        self.doors = Doors(free_energy) if doors is None else doors
        self.pattern = SparsityPattern(mesh)
        self.transmissibility = mesh.area[:n] / mesh.distance[:n]
        self.no_inflow = np.zeros(mesh.n_faces - n)
        self.solver = Solver(mesh)
        self.first_mass = 0.0

    @property
    def iterations(self) -> int:
        """Of all linear solves so far."""
        return self.solver.iterations

    def parts(self, rho: Array) -> dict[str, float]:
        """{name: value} of the energy and its parts."""
        return self.free_energy.parts(rho)

    def restart(self) -> None:
        """Forget earlier steps."""
        self.solver.restart()
        self.first_mass = 0.0

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.solver.save() | dict(first_mass=self.first_mass)

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.solver.restore(kept)
        self.first_mass = kept["first_mass"]
