"""Implicit steps with corners: cells are eliminated, and only nodes are unknowns of the system.

With F_i = alpha_i rho_K - sum_j gamma_ij y_j, m_K = |K| + s sum_i alpha_i, the residuals r_K of the
cells and g_i of the nodes,

    S e = g + sum_K s alpha_i r_K / m_K,    S_ij = sum_K (s gamma_ij - s^2 alpha_i gamma_j / m_K)
    d_K = (r_K + s sum_j gamma_j e_j) / m_K,    gamma_j = sum_i gamma_ij

S, with its columns times the Gibbs density, is symmetric and positive definite where all drift is
in the potential. Its inverse has a few negative entries: results may be negative, see `settling`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import linalg
from ..arguments.types import Array
from ..errors import ConvergenceError
from .corner_rates import CornerRates, condense, eliminate, find_node_diagonal, substitute
from .implicit_step import (
    IMPLICIT_STEP_PREFIX,
    MAX_EXPONENT,
    MAX_SOLVES,
    LinearMethod,
    ResidualNorms,
    Resolvent,
    compute_residual,
)

# The largest s times fluxes, relative to the mass, whose rounding a step may leave in the mass:
# 1e-6 of it.
MAX_ROUNDED_MASS = 1e9

# Nodes up to which densities at nodes are found by a factorisation.
NODE_LU_LIMIT = 200_000

# Relative residual of the densities at nodes, at most.
NODE_TOLERANCE = 1e-12


class CornerResolvent(Resolvent):
    """The `Resolvent` of `CornerRates`: densities are z = (cells, nodes), as its results are."""

    is_monotone = False
    _known: tuple[Any, Any, Any] = (None, None, None)

    def __call__(
        self,
        start: Array,
        entering: Array,
        rest: Array | float = 0.0,
        fault: Callable[[Array], str | None] | None = None,
    ) -> Array:
        """See `Resolvent`. The densities at the nodes of the start are a first guess."""
        return super().__call__(self.rates.give(start, entering), entering, rest, fault)

    def _find_outflow(self, Y, entering):
        """`CornerRates.outflow`; that of the last values is known when the next step begins
        there.
        """
        known_values, known_entering, known = self._known
        if known_values is Y and known_entering is entering:
            return known
        outflow = self.rates.outflow(Y, entering)
        self._known = (Y, entering, outflow)
        return outflow

    def find_multigrid(self) -> None:
        """See `Resolvent`: nodes have none."""

    def _build_method(self, name):
        return NodeMethod(self.rates, self.s, name, self.rtol, self.prefix)

    def _residual(self, d, Y, entering, rest):
        mesh = self.rates.mesh
        n = mesh.n_cells
        out, (terms, _) = self._find_outflow(Y, entering)
        residual = np.empty(len(Y))
        rest = np.broadcast_to(rest, n)
        sums = compute_residual(rest, mesh.volume, d[:n], self.s, out[:n], Y[:n], residual[:n])
        at_nodes = residual[n:]
        np.multiply(out[n:], self.s, out=at_nodes)
        at_nodes[self.rates.given.nodes] = 0.0

        # Solves leave rounding of all terms at the nodes, and so in the mass, not only of fluxes;
        # steps so long that this would count are refused.
        size, gained, negative, mass = sums
        own = np.array(
            [
                size + np.abs(at_nodes).sum(),
                gained + at_nodes.sum(),
                negative,
                mass,
                self.s * terms,
                min(self.s * terms, MAX_ROUNDED_MASS * mass),
            ]
        )
        return residual, ResidualNorms(*mesh.ranks.sum(own))


class NodeMethod(LinearMethod):
    """One method at work on the system of the nodes, see the module.

    s : the step; None to find the nodes of cells whose densities are known
    """

    def __init__(self, rates: CornerRates, s: float | None, name: str, rtol: float, prefix: str):
        mesh = rates.mesh
        corners = rates.corners
        self.rates = rates
        self.s = 1.0 if s is None else s
        known = np.full(mesh.n_cells, np.inf)
        self.diagonal = known if s is None else mesh.volume + s * rates.leaves
        self.left, self.right = self._find_scalings(name)

        values = condense(rates, self.s, self.diagonal, self.left, self.right)
        if rates.exits is not None:
            corner = rates.exits.corner
            node = corners.node[corner]
            own = self.s * rates.exits.rate * self.left[node] * self.right[node]
            np.add.at(values, corners.own_entry[corner], own)
        matrix = corners.assembly.matrix(values)
        method = linalg.find_method(name, mesh.dim, mesh.ranks.size)
        system = linalg.System(mesh.ranks, matrix, method, prefix=prefix, rtol=rtol)
        super().__init__(name, system, system.rtol)

    def _find_scalings(self, name):
        """Factors of the rows and the columns (n_nodes,).

        Multigrid takes the Gibbs density, over its maximum and cut off, for the columns: the
        matrix is then symmetric, and constants are nearly its null space. Otherwise both make the
        diagonal 1: where potentials are steep, it spans more decades than factors stand.
        """
        rates = self.rates
        ones = np.ones(rates.corners.n_nodes)
        if name == "amg" and rates.phi_at_nodes is None:
            return ones, ones
        if name == "amg":
            lowest = rates.mesh.ranks.min(rates.phi_at_nodes.min(initial=np.inf))
            return ones, np.exp(-np.minimum(rates.phi_at_nodes - lowest, MAX_EXPONENT))
        diagonal = find_node_diagonal(rates, self.s, self.diagonal)
        if rates.exits is not None:
            n_corners = len(rates.corners.node)
            at_corners = np.bincount(rates.exits.corner, rates.exits.rate, n_corners)
            diagonal = diagonal + self.s * rates.corners.sum_at_nodes(at_corners)
        size = np.abs(diagonal)
        root = np.sqrt(np.maximum(size, np.finfo(float).tiny))
        return 1 / root, 1 / root

    def solve(self, rhs: Array, rtol: float) -> Array:
        """(d, e) (n_cells + n_nodes,) for the residuals of cells and nodes. Collective."""
        rates = self.rates
        corners = rates.corners
        n = rates.mesh.n_cells
        at_nodes = corners.exchange.add(eliminate(rates, self.s, self.diagonal, rhs[:n]))
        at_nodes += rhs[n:]
        at_nodes[rates.given.nodes] = 0.0

        own = self.left[: corners.n_own] * at_nodes[: corners.n_own]
        result = np.empty(len(rhs))
        e = result[n:]
        e[: corners.n_own] = self.system(own, rtol)
        corners.exchange(e)
        e *= self.right

        substitute(rates, self.s, self.diagonal, rhs[:n], e, result[:n])
        return result


class NodeSolver:
    """The densities at nodes that belong to densities of cells: what a node gets adds up to 0."""

    def __init__(self, rates: CornerRates, rtol: float, prefix: str = IMPLICIT_STEP_PREFIX):
        self.rates = rates
        name = "lu" if rates.n_unknowns <= NODE_LU_LIMIT else "amg"
        self._method = NodeMethod(rates, None, name, rtol, prefix + "nodes_")

    def __call__(self, rho: Array, entering: Array) -> Array:
        """z (n_cells + n_nodes,) of a density rho (n_cells,). Collective."""
        rates = self.rates
        ranks = rates.mesh.ranks
        n = rates.mesh.n_cells
        z = rates.give(rates.extend(rho), entering)
        for _ in range(MAX_SOLVES):
            out, (terms, _) = rates.outflow(z, entering)
            residual = np.zeros(len(z))
            residual[n:] = np.where(rates.is_given, 0.0, out[n:])
            left, size = ranks.sum(np.array([np.abs(residual).sum(), terms]))
            if left <= NODE_TOLERANCE * size:
                return z
            z[n:] += self._method.solve(residual, self._method.rtol)[n:]

        raise ConvergenceError(
            f"the densities at the corners of cells are found only up to {left / size:.1e} of the "
            "fluxes there: set -fvot_fokker_planck_nodes_pc_type lu"
        )

    def destroy(self) -> None:
        """Give the memory of the linear system back. Collective."""
        self._method.system.destroy()
