"""What the steps have in common whose equations are solved by Newton's method."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.types import Array
from ..energies.free_energy import FreeEnergy
from ..finite_volume.rates import SparsityPattern
from .newton_systems import Solver


class NewtonStep:
    """The base of `LinearisedStep` and `MidpointStep`, see `step.StepMethod`.

    tol : largest residual of the equations, in L1, relative to the mass
    transmissibility (n_inner,) : |s| / d_s
    no_inflow (n_faces - n_inner,) : zeros, the densities outside the walls
    """

    def __init__(self, free_energy: FreeEnergy, tol: float):
        mesh: Any = free_energy.mesh
        n = mesh.n_inner
        self.free_energy = free_energy
        self.mesh = mesh
        self.tol = tol
        self.pattern = SparsityPattern(mesh)
        self.transmissibility = mesh.area[:n] / mesh.distance[:n]
        self.no_inflow = np.zeros(mesh.n_faces - n)
        self.solver = Solver(mesh)

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

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.solver.save()

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.solver.restore(kept)
