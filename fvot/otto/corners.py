"""The metric with values at the corners of cells, too, for any mesh.

With the differences delta of phi at the corners of a face to that of the cell on one side,

    <phi, phi> = sum over the sides of rho_s |R delta|^2,    rho_s = lam_K rho_K + lam_L rho_L

where R^T R = sum of |T| G_T^T G_T over the simplices between the cell's centroid and the face
(`finite_volume.corners`). Of the equations, the cells are eliminated: only nodes are unknowns of
the linear system. Where cells are known, the values at nodes are the minimisers of <phi, phi>.

Nodes around which no mass can move have the value 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from ..arguments.types import Array, BoolArray
from ..finite_volume.corner_rates import (
    NodeSystem,
    condense,
    eliminate,
    find_node_diagonal,
    substitute,
)
from ..finite_volume.corners import Corners, find_corners
from ..mesh import Mesh
from .density_metric import DensityMetric
from .equations import Equations, find_pins

# Neighbours of a node over those of a cell, about: a factorisation takes as many times more.
NODE_NEIGHBOURS = 3


class CornerMetric(DensityMetric):
    """The `DensityMetric` whose points are the cells and then the nodes at their corners.

    mobility (n_faces,) : rho_s
    system : what flows from cells to their corners
    """

    def __init__(self, mesh: Mesh, rho: Array):
        super().__init__(mesh, rho)
        corners = find_corners(mesh)
        self.corners = corners
        self.mobility = corners.average_at_faces(np.asarray(rho, float))

        matrix = corners.sum_sides(self.mobility)
        column = corners.sum_rows(matrix)
        self.system = NodeSystem(corners, column, matrix, column)

    @staticmethod
    def find_points(mesh: Mesh) -> Array:
        """See `DensityMetric`."""
        return mesh.centroid

    def extend(self, phi: Array) -> Array:
        """See `DensityMetric`."""
        mesh = self.mesh
        corners = self.corners
        n = mesh.n_cells
        known = np.full(n, np.inf)
        size = find_node_diagonal(self.system, 1.0, known)
        diagonal = np.where(size > 0, size, 1.0)
        # With the diagonal 1 the matrix is as well conditioned as the shapes of cells are, whatever
        # the density: few iterations do.
        methods = ("icc", *self._find_methods())
        is_empty = size[: corners.n_own] == 0
        equations = CornerEquations(
            self, "the potential at corners", methods, known, diagonal, is_empty
        )
        sides = np.zeros((len(phi), n + corners.n_nodes))
        for side, of_cells in zip(sides, phi, strict=True):
            side[n:] = eliminate(self.system, 1.0, np.ones(n), of_cells)
            equations.collect(side)
        values = equations.solve(sides)
        values[:, :n] = phi
        return values

    def product(self, phi: Array, psi: Array) -> float:
        """See `DensityMetric`."""
        slopes = self.find_slopes(phi), self.find_slopes(psi)
        squares = (slopes[0] * slopes[1]).sum(axis=1)
        mobility = self.mobility[self.corners.sides.face]
        return self.mesh.ranks.sum((mobility * squares).sum())

    def find_slopes(self, phi: Array) -> Array:
        """R delta (n_sides, width) of values (n_points,)."""
        difference = self._find_differences(phi)
        return np.einsum("sij,js->si", self.corners.side_root, difference)

    def find_fluxes(self, phi: Array) -> Array:
        """rho_s R^T R delta (n_sides, width): what leaves the cell of each side at its corners, but
        for the sign.
        """
        flux = np.einsum("sij,si->sj", self.corners.side_root, self.find_slopes(phi))
        return flux * self.mobility[self.corners.sides.face, None]

    def measure_fluxes(self, phi: Array) -> float:
        """The sum of the absolute values of all terms of `find_fluxes`."""
        size = np.abs(phi)
        size[: self.mesh.n_cells] *= -1  # so that differences are sums
        root = np.abs(self.corners.side_root)
        slope = np.einsum("sij,js->si", root, self._find_differences(size))
        flux = np.einsum("sij,si->s", root, slope)
        return (flux * self.mobility[self.corners.sides.face]).sum()

    def _find_differences(self, phi):
        """delta (width, n_sides), 0 beyond the corners of a side."""
        corners = self.corners
        node = corners.node[np.maximum(corners.side_corner, 0)]
        of_nodes = phi[self.mesh.n_cells :]
        difference = of_nodes[node] - phi[corners.sides.cell]
        return np.where(corners.side_corner >= 0, difference, 0.0)

    def _find_components(self):
        mesh = self.mesh
        ranks = mesh.ranks
        corners = self.corners
        n_points = mesh.n_cells + corners.n_nodes
        sides = np.flatnonzero(self.mobility[corners.sides.face] > 0)
        corner = corners.side_corner[:, sides]
        is_corner = corner >= 0
        cell = np.broadcast_to(corners.sides.cell[sides], corner.shape)[is_corner]
        node = mesh.n_cells + corners.node[corner[is_corner]]
        graph = sparse.csr_matrix((np.ones(len(cell)), (cell, node)), (n_points, n_points))
        n_pieces, piece = connected_components(graph, directed=False)

        # Pieces of different ranks that have a node in common are one.
        before = ranks.all_gather(np.array([n_pieces]))
        piece = piece.astype(np.int64) + before[: ranks.rank].sum()
        of_nodes = piece[mesh.n_cells :]
        of_owners = corners.exchange(of_nodes.copy())
        pairs = np.stack([of_nodes, of_owners])[:, corners.n_own :]
        mine, theirs = ranks.all_gather(np.unique(pairs, axis=1))
        total = int(before.sum())
        graph = sparse.csr_matrix((np.ones(len(mine)), (mine, theirs)), (total, total))
        count, component = connected_components(graph, directed=False)
        return component[piece], count

    def _solve(self, b, component, count):
        mesh = self.mesh
        corners = self.corners
        n = mesh.n_cells
        total = np.add.reduceat(self.system.column, corners.start[:-1])
        leaving = np.where(total > 0, total, np.inf)  # infinite where nothing moves
        size = find_node_diagonal(self.system, 1.0, leaving)
        own = slice(corners.n_own)
        is_pinned, diagonal = find_pins(
            mesh.ranks, component[n:][own], count, size[own], corners.number[own]
        )
        diagonal = corners.exchange(np.concatenate([diagonal, size[corners.n_own :]]))

        equations = CornerEquations(
            self, "the tangent potential", self._find_methods(), leaving, diagonal, is_pinned
        )
        sides = np.zeros((1, n + corners.n_nodes))
        sides[0, :n] = np.where(total > 0, b, 0.0)
        return equations.solve(sides)[0]

    def _find_methods(self):
        """Factorisation first where that is cheap, as densities span decades."""
        n = self.corners.n_global
        limit = linalg.LU_CELL_LIMIT[self.mesh.dim]
        if NODE_NEIGHBOURS * n <= limit:
            return ("lu", "cg")
        return ("cg", "lu") if n <= limit else ("cg",)


class CornerEquations(Equations):
    """The `Equations` of cells and nodes.

    leaving (n_cells,) : the diagonal of the cells; infinite where they are known, or nothing moves:
        x is 0 there
    diagonal (n_nodes,) : the diagonal that is left for the nodes, 0 nowhere
    is_pinned (n_own,) : where more of it is added
    """

    def __init__(
        self,
        metric: CornerMetric,
        what: str,
        methods: Sequence[str],
        leaving: Array,
        diagonal: Array,
        is_pinned: BoolArray,
    ):
        corners: Corners = metric.corners
        super().__init__(metric.mesh, what, methods)
        self._metric = metric
        self._corners = corners
        self._leaving = leaving
        self._diagonal = diagonal
        self._is_pinned = is_pinned

    def collect(self, x: Array) -> None:
        """Add what other ranks have at this rank's nodes, and leave it to their owners."""
        corners = self._corners
        of_nodes = x[self.mesh.n_cells :]
        corners.exchange.add(of_nodes)
        of_nodes[corners.n_own :] = 0.0

    def multiply(self, x: Array) -> Array:
        """See `Equations`."""
        corners = self._corners
        flux = self._metric.find_fluxes(x)
        legs = corners.sum_legs(flux[..., None])[:, 0]
        out = -np.add.reduceat(legs, corners.start[:-1])
        of_cells = np.where(np.isfinite(self._leaving), out, 0.0)
        of_nodes = np.bincount(corners.node, legs, corners.n_nodes)
        result = np.concatenate([of_cells, of_nodes])
        self.collect(result)
        return result

    def measure(self, x: Array) -> float:
        """See `Equations`."""
        return self._metric.measure_fluxes(x)

    def build_solver(self, method: str) -> tuple[Callable[[Array], Array], linalg.System]:
        """See `Equations`. Factors of rows and columns make the diagonal 1 where it spans decades
        that no pivots may; multigrid wants constants as they are.
        """
        corners = self._corners
        equations = self._metric.system
        root = np.sqrt(self._diagonal)
        scale = np.ones(corners.n_nodes) if method == "cg" else 1 / root
        values = condense(equations, 1.0, self._leaving, scale, scale)
        matrix = corners.assembly.matrix(values)
        added = np.where(self._is_pinned, (scale**2 * self._diagonal)[: corners.n_own], 0.0)
        row = np.repeat(np.arange(corners.n_own), np.diff(matrix.indptr))
        matrix.data[matrix.indices == corners.first_row + row] += added
        system = self.build_system(matrix, method)

        def solve(residual: Array) -> Array:
            n = self.mesh.n_cells
            of_cells = residual[:n]
            at_nodes = eliminate(equations, 1.0, self._leaving, of_cells)
            at_nodes = corners.exchange.add(at_nodes) + residual[n:]
            x = np.empty(len(residual))
            of_nodes = x[n:]
            of_nodes[: corners.n_own] = system((scale * at_nodes)[: corners.n_own])
            corners.exchange(of_nodes)
            of_nodes *= scale
            substitute(equations, 1.0, self._leaving, of_cells, of_nodes, x[:n])
            return x

        return solve, system
