"""The metric at one density, for any scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..arguments.functions import refuse_masked
from ..arguments.types import Array, IntArray
from ..errors import InputError
from ..mesh import Mesh
from ..mesh.cell_values import check_density, describe_wanted_shape

# Sum of drho in a component, relative to the L1 norm of drho, that counts as rounding.
BALANCE_TOLERANCE = 1e-10


class DensityMetric(ABC):
    """<phi, psi> at a density. Potentials have values at points: this rank's cells, which come
    first, and others that a scheme may have.
    """

    def __init__(self, mesh: Mesh, rho: Array):
        check_density(mesh, rho, "rho")
        self.mesh = mesh
        self.rho = rho

    @staticmethod
    @abstractmethod
    def find_points(mesh: Mesh) -> Array:
        """The places (dim, n_cells) of the values of cells."""

    @abstractmethod
    def extend(self, phi: Array) -> Array:
        """phi (k, n_points) from its values (k, n_cells) in cells: that of least <phi, phi>.
        Collective.
        """

    @abstractmethod
    def product(self, phi: Array, psi: Array) -> float:
        """<phi, psi> of values (n_points,). Collective."""

    @abstractmethod
    def _find_components(self) -> tuple[IntArray, int]:
        """(component (n_points,), their number): what is connected by faces where mass can move.
        Collective.
        """

    @abstractmethod
    def _solve(self, b: Array, component: IntArray, count: int) -> Array:
        """psi (n_points,) with <phi, psi> = sum_K phi_K b_K for all phi; b (n_cells,) adds up to 0
        in each component. Collective.
        """

    def find_tangent_potential(self, drho: Array) -> Array:
        """The potential (n_points,) whose tangent vector is drho (n_cells,). Collective."""
        mesh = self.mesh
        rho = self.rho
        check_values(mesh, drho, "drho")
        component, count = self._find_components()
        of_cells = component[: mesh.n_cells]

        def sum_over_components(*contents: Array) -> Array:
            return mesh.ranks.sum(
                np.stack([np.bincount(of_cells, mesh.volume * u, count) for u in contents])
            )

        changed, size, mass = sum_over_components(drho, np.abs(drho), rho)
        worst = np.abs(changed).argmax()
        if abs(changed[worst]) > BALANCE_TOLERANCE * size.sum():
            raise InputError(
                f"drho adds up to {changed[worst]:.3g} in a connected part of the mesh, of mass "
                f"{mass[worst]:.3g}, which no mass can enter or leave: it must add up to 0 there"
            )

        has_mass = mass > 0
        rounding = np.divide(changed, mass, out=np.zeros(count), where=has_mass)
        b = mesh.volume * (drho - rounding[of_cells] * rho)
        psi = self._solve(b, component, count)

        moment = sum_over_components(rho * psi[: mesh.n_cells])[0]
        mean = np.divide(moment, mass, out=np.zeros(count), where=has_mass)
        return np.where(has_mass[component], psi - mean[component], 0.0)


def check_values(mesh: Mesh, u: Any, name: str) -> None:
    """`InputError` unless u is finite numbers (n_cells,). Collective."""
    with mesh.ranks.raising_together():
        refuse_masked(u, f"{name} must be numbers")
        try:
            u = np.asarray(u)
        except ValueError:
            u = np.array(None)
        if u.shape != (mesh.n_cells,) or u.dtype.kind not in "biuf":
            raise InputError(
                f"{name} must be numbers, not {u.dtype} of shape {u.shape}; "
                f"{describe_wanted_shape(mesh, u.shape)}"
            )

        bad = np.flatnonzero(~np.isfinite(u))
        if len(bad):
            raise InputError(
                f"{name} is {u[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
                f"{mesh.center[:, bad[0]]}): it must be finite ({len(bad)} cells are not)"
            )
