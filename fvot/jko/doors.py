"""Doors of a gradient flow: parts of the boundary through which mass leaves, and none enters.

Outside there is nobody: the potential there is E' at density 0,

    phi_outside = V + e'(0) at the face

and the flux out of the cell at a door face s, t_s = |s| / d_s with the distance d_s of its point,

    F_s = t_s R_s max(phi_K - phi_outside, 0)

What leaves takes phi_outside with it: E(rho) - E(old) <= -dissipated - sum tau F_s phi_outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arguments.types import Array
from ..energies.energy import Sum, split_sum
from ..energies.free_energy import FreeEnergy
from ..energies.interaction import Interaction
from ..energies.local import Potential
from ..errors import InputError
from ..finite_volume.boundary import outflow, read_conditions
from ..finite_volume.stencil import Stencil, gradient_weights, gradients


class Doors:
    """The faces (n,) of this rank through which mass leaves. Collective.

    names : of the doors
    door (n,) : the number of each face's door
    faces, cells (n,) : the faces, and the cells inside
    transmissibility (n,) : |s| / d_s
    external, potential (n,) : V and phi_outside, at the times of the energy
    """

    def __init__(self, free_energy: FreeEnergy, names: Sequence[Any] = ()):
        mesh: Any = free_energy.mesh
        self.mesh = mesh
        self.free_energy = free_energy
        self.names = list(names)
        numbers = np.arange(mesh.n_faces)
        faces = [numbers[mesh.boundary[name]] for name in self.names]
        self.faces = np.concatenate([numbers[:0], *faces])
        self.door = np.repeat(np.arange(len(faces)), np.array(list(map(len, faces)), int))
        self.cells = mesh.left[self.faces]
        self._distance = mesh.left_distance[self.faces]
        self._check_distances()
        self.transmissibility = mesh.area[self.faces] / self._distance
        self._points = mesh.center[:, self.cells] + self._distance * mesh.normal[:, self.faces]
        self._parts = split_sum(free_energy.energy) if self.names else ()
        self._slope_of_nothing = self._find_slope_of_nothing()
        self.renew()

    def renew(self) -> None:
        """Find the potential at the times of the energy."""
        times = self.free_energy.times
        self.external = np.mean([self._find_potential(t) for t in times], axis=0)
        self.potential = self.external + self._slope_of_nothing

    def sum(self, values: Array) -> float:
        """The sum over all ranks of values (n,) at the faces."""
        return self.mesh.ranks.sum(values.sum()) if self.names else 0.0

    def sum_by_door(self, values: Array) -> Array:
        """Sums (n_doors,) over all ranks of values (n,) at the faces."""
        own_sums = np.zeros(len(self.names))
        np.add.at(own_sums, self.door, values)
        return self.mesh.ranks.sum(own_sums)

    def _check_distances(self):
        ranks = self.mesh.ranks
        for number, name in enumerate(self.names):
            own_least = self._distance[self.door == number].min(initial=np.inf)
            least = ranks.min(own_least)
            ranks.check(
                least > 0,
                f"the point of a cell at boundary {name!r} is at the distance {least:.3g} from it: "
                "a door needs the points inside; make the cells there less obtuse",
            )

    def _find_slope_of_nothing(self):
        """e'(0) (n,) at the faces, checked."""
        local = [
            (weight, part)
            for weight, part in self._parts
            if not isinstance(part, (Potential, Interaction))
        ]
        empty = np.zeros(len(self.faces))
        if not local:
            return empty

        with self.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            slope = empty + Sum(tuple(local)).derivative(empty, self._points)
            if not np.isfinite(slope).all():
                raise InputError(
                    "a door needs an energy with a finite derivative at density 0, such as "
                    "Power(2), or a Potential with an upper bound: with Entropy, or a Power below "
                    "1, it is infinite; for diffusion into a boundary that absorbs take "
                    "FokkerPlanck(..., boundary={'door': fvot.dirichlet(0)})"
                )
        return slope

    def _find_potential(self, t):
        """V (n,) at the faces, at a time."""
        V = np.zeros(len(self.faces))
        for weight, part in self._parts:
            if not isinstance(part, Potential):
                continue
            if part.has_cell_values:
                V = V + weight * self._extrapolate(part.values(self.mesh.center))
                continue
            with self.mesh.ranks.raising_together():
                V = V + weight * part.values(self._points, t)
        return V

    def _extrapolate(self, V):
        """Cell values (n_cells,), in the user's order, at the faces (n,): linear, by least
        squares over the neighbours.
        """
        mesh = self.mesh
        V = self.free_energy.numbering.inward(V)
        stencil = Stencil(mesh)
        weights = gradient_weights(stencil, stencil.span_points(mesh.center))
        (gradient,) = gradients(mesh, stencil, weights, V[None])
        step = self._distance * mesh.normal[:, self.faces]
        return V[self.cells] + (gradient[:, self.cells] * step).sum(axis=0)


def check_doors(mesh: Any, boundary: Mapping[Any, Any]) -> list[Any]:
    """The names of the doors. Raises `InputError` for conditions that are no doors. Collective."""
    with mesh.ranks.raising_together():
        read_conditions(boundary, mesh, "JKO")
        for name, condition in boundary.items():
            if condition != outflow:
                raise InputError(
                    f"boundary {name!r} of JKO must be fvot.outflow, a door through which mass "
                    f"leaves, not {condition!r}: a gradient flow lets none in, and gives no "
                    "density there; take FokkerPlanck for fvot.inflow and fvot.dirichlet"
                )
    names = list(boundary)
    mesh.ranks.check_same("boundary", names)
    return names
