"""`Ends`: the densities at both ends of a path, and the numbers derived from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..arguments.types import Array
from ..mesh import Mesh
from ..mesh.cell_values import integrate

# Smallest density, over the mean one, from which a density counts as positive everywhere.
POSITIVE_FRACTION = 1e-2

# Concentration, over the mean density, up to which densities count as spread out.
SPREAD_CONCENTRATION = 18.0


@dataclass(frozen=True, eq=False)
class Ends:
    """The densities rho0 and rho1 (n_cells,) of a transport problem. Collective.

    Where the end is free, rho1 is the latest estimate of it. Where mass may grow, the masses may
    differ, and one of them may be 0.
    """

    mesh: Mesh
    rho0: Array
    rho1: Array
    may_grow: bool = False

    def with_rho1(self, rho1: Array) -> Ends:
        """The same start with another end."""
        if rho1 is self.rho1:
            return self  # with all that is already computed

        return replace(self, rho1=rho1)

    @cached_property
    def columns(self) -> Array:
        """Both densities as the columns of an array (n_cells, 2)."""
        return np.stack([self.rho0, self.rho1], axis=1)

    @cached_property
    def mass(self) -> float:
        """The mass of rho0, or the mean of both where mass may grow."""
        mass = integrate(self.mesh, self.rho0)
        return (mass + integrate(self.mesh, self.rho1)) / 2 if self.may_grow else mass

    @cached_property
    def mean(self) -> float:
        """`mass` over the measure of the mesh."""
        return self.mass / integrate(self.mesh, 1.0)

    @cached_property
    def concentration(self) -> float:
        """int rho^2 / int rho, the density that a particle sees on average: mean of both ends, if
        both have mass.
        """
        integrate = self.mesh.integrate
        ends = self._list_with_mass()
        return sum(integrate(rho**2) / integrate(rho) for rho in ends) / len(ends)

    def _list_with_mass(self):
        """Both densities; where mass may grow, those that have mass."""
        ends = [self.rho0, self.rho1]
        if not self.may_grow:
            return ends

        return [rho for rho in ends if integrate(self.mesh, rho) > 0]

    @cached_property
    def extent(self) -> float:
        """The longest side of a box in which even masses are as spread out as both ends together,
        but at least that of a cell.
        """
        mesh = self.mesh
        ends = [rho / integrate(mesh, rho) for rho in self._list_with_mass()]
        rho = sum(ends) / len(ends)
        x = mesh.centroid
        mean = integrate(mesh, rho * x)
        variance = integrate(mesh, rho * (x - mean[:, None]) ** 2).max()
        mean_volume = integrate(mesh, 1.0) / mesh.n_cells_global
        return max(np.sqrt(12 * variance), mean_volume ** (1 / mesh.dim))

    @cached_property
    def width(self) -> float:
        """The side of a cube that holds all mass at the density `concentration`."""
        return (self.mass / self.concentration) ** (1 / self.mesh.dim)

    @cached_property
    def distance(self) -> float:
        """int |rho1 - rho0|."""
        return integrate(self.mesh, np.abs(self.rho1 - self.rho0))

    @cached_property
    def vanishes(self) -> bool:
        """Whether one of the densities is close to 0 somewhere.

        If not, the iteration converges fast with a uniform penalty.
        """
        mine = min(self.rho0.min(initial=np.inf), self.rho1.min(initial=np.inf))
        return not self.mesh.ranks.min(mine) > POSITIVE_FRACTION * self.mean

    @cached_property
    def is_spread(self) -> bool:
        """Whether the densities are so little concentrated that a uniform penalty is worth a try.

        It makes steps cheap on Cartesian meshes.
        """
        return self.concentration < SPREAD_CONCENTRATION * self.mean
