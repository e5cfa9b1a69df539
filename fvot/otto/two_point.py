"""The metric with two numbers for each face: <phi, psi> = sum over the faces of t_s rho_s
(phi_left - phi_right) (psi_left - psi_right).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from .. import linalg
from ..arguments.types import Array, IntArray
from ..finite_volume.rates import Rates, SparsityPattern
from ..mesh import Mesh
from ..mesh.connected_pieces import find_connected_pieces
from .density_metric import DensityMetric
from .equations import Equations, find_pins


class TwoPointMetric(DensityMetric):
    """The `DensityMetric` whose points are the cells.

    weight (n_inner,) : t_s rho_s
    """

    def __init__(self, mesh: Mesh, rho: Array):
        super().__init__(mesh, rho)
        n = mesh.n_inner
        local = mesh.with_ghosts(rho)
        left = local[mesh.left[:n]]
        right = local[mesh.right[:n]]
        self.weight = mesh.area[:n] / mesh.distance[:n] * (left + right) / 2

    @staticmethod
    def find_points(mesh: Mesh) -> Array:
        """See `DensityMetric`."""
        return mesh.center

    def extend(self, phi: Array) -> Array:
        """See `DensityMetric`."""
        return phi

    def product(self, phi: Array, psi: Array) -> float:
        """See `DensityMetric`."""
        mesh = self.mesh
        n = mesh.n_inner
        local = mesh.with_ghosts(np.stack([phi, psi]))
        left = local[:, mesh.left[:n]]
        right = local[:, mesh.right[:n]]
        jump_of_phi, jump_of_psi = left - right
        products = self.weight * jump_of_phi * jump_of_psi
        own_products = products[mesh.face_owned[:n]]
        return mesh.ranks.sum(own_products.sum())

    def _find_components(self):
        return find_connected_pieces(self.mesh, self.weight > 0)

    def _solve(self, b, component, count):
        matrix = self._pin_components(component, count)
        return TwoPointEquations(self.mesh, matrix).solve(b[None])[0]

    def _pin_components(self, component: IntArray, count: int) -> sparse.csr_matrix:
        """The rows of this rank (CSR) of the equations, made regular."""
        mesh = self.mesh
        through = np.zeros(mesh.n_faces)
        through[: mesh.n_inner] = self.weight
        pattern = SparsityPattern(mesh)
        rates = Rates(pattern, through, through)
        leaving = rates.leaving() * mesh.volume
        cell_id = mesh.cell_id[: mesh.n_cells]
        is_pinned, diagonal = find_pins(mesh.ranks, component, count, leaving, cell_id)
        return pattern.matrix(rates, 1.0, diagonal=np.where(is_pinned, diagonal, 0.0))


class TwoPointEquations(Equations):
    """The `Equations` of rows (CSR) whose columns are numbered rank by rank."""

    def __init__(self, mesh: Mesh, matrix: sparse.csr_matrix):
        # Densities span decades: the matrix is factorised where it is small enough.
        can_factorise = mesh.n_cells_global <= linalg.LU_CELL_LIMIT[mesh.dim]
        methods = ("lu", "cg") if can_factorise else ("cg",)
        super().__init__(mesh, "the tangent potential", methods)
        self._matrix = matrix

    def multiply(self, x: Array) -> Array:
        """See `Equations`."""
        return self._matrix @ self.mesh.ranks.all_gather(x)

    def measure(self, x: Array) -> float:
        """See `Equations`."""
        return (abs(self._matrix) @ self.mesh.ranks.all_gather(np.abs(x))).sum()

    def build_solver(self, method: str) -> tuple[Callable[[Array], Array], linalg.System]:
        """See `Equations`."""
        system = self.build_system(self._matrix, method)
        return system, system
