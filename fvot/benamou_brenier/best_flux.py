"""The best flux for a given density: the linear half of the upper bound.

At each node n in time the mobilities M_s of the density are given, and the flux of least cost that
satisfies the continuity equation belongs to a potential psi,

    K(M) psi = what each cell loses per time,  0 at nodes

with the matrix K(M) of the scheme. An iterative solve leaves a part of the continuity equation
unsatisfied. That part is carried along a spanning tree of largest mobility, where it costs least,
so that the equation holds to round-off (`spanning_trees`). Every tolerance therefore gives a bound.

Where mass may grow (see `growth`), tau_n |K| rhobar / delta^2 is added to the diagonal of K(M), and
the source zeta is all that is left of the balance of each cell: nothing is missing then. Where
growth costs kappa |zeta|, |zeta| is taken for rhobar / delta^2 kappa, and renewed some times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .. import linalg
from ..arguments.types import Array, IntArray
from .discretisation import Discretisation
from .ends import Ends
from .growth import TotalVariation
from .time_basis import node_mean, node_weights

BEST_FLUX_PREFIX = "fvot_benamou_brenier_certificate_"

# Round-off of a sum, relative to the sum of its terms.
BOUND_ROUND_OFF = 1e-15

# Relative gap that is asked for where nothing but round-off is left.
SMALLEST_GAP = 1e-8

# Unknowns (cells times nodes) of one linear system, at most, unless ranks would have no nodes.
MAX_UNKNOWNS = 200_000

# Times that the quadratic bound of kappa |zeta| is renewed, at most.
MAX_REWEIGHTINGS = 12

# Relative improvement of the cost up to which it is not renewed again.
LEAST_IMPROVEMENT = 1e-5

# The smallest |zeta| in it, relative to the largest.
SMALLEST_SOURCE_RATIO = 1e-8

# The smallest largest one.
SMALLEST_SOURCE = 1e-250

# PETSc's options. The energy counts, hence its norm; and a set-up serves few steps, so it must be
# cheap.
SOLVER_OPTIONS = {
    "ksp_norm_type": "natural",
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_P_max": 4,
    "pc_hypre_boomeramg_agg_nl": 1,
}


class UpperBound(NamedTuple):
    """cost >= W2^2 (+ 2 E), and the path that proves it.

    rho (n_patches, N), flux (..., N + 1) : the density, and the mass per time that flows, as the
        scheme has it
    residual : the largest error of the continuity equation in a cell, relative to the mass
    eps : the share of the background
    rho1 (n_cells,) : the density at the end
    source (n_cells, N + 1) : zeta, where mass may grow
    energy, terms : its terminal energy E (see `terminal`), and the sum of the absolute values of
        the terms of E
    """

    cost: float
    rho: Array
    flux: Array
    residual: float
    eps: float
    rho1: Array
    energy: float = 0.0
    terms: float = 0.0
    source: Array | None = None

    @property
    def action(self) -> float:
        """W2^2 of the path itself."""
        return self.cost - 2 * self.energy

    @property
    def scale(self) -> float:
        """The scale of relative gaps: the action, or more where the energy's round-off is."""
        return max(self.action, BOUND_ROUND_OFF * self.terms / SMALLEST_GAP)


class Balance(NamedTuple):
    """What this rank has of the flux (..., k) and source (n_cells, k) at some nodes of time, its
    part of their cost, and the largest error of the continuity equation.
    """

    flux: Array
    source: Array | None
    cost: float
    error: float


class BestFlux(ABC):
    """The fluxes of least cost for a density, on one `Discretisation`."""

    disc: Discretisation
    source: Array | None = None  # a guess of zeta (n_cells, N + 1), where growth costs kappa |zeta|

    def __init__(self, rtol: float):
        self.rtol = rtol

    @abstractmethod
    def _solve(self, mobility: Array, loss: Array, tau: Array, growth: Array | None) -> Array:
        """Fluxes (..., k) with about the losses (n_cells, k) of the cells in the times tau (k,).

        growth (n_cells, k) : what growth adds to the diagonal of K(M), tau |K| rhobar / delta^2
        """

    @abstractmethod
    def _conserve(self, flux: Array, mobility: Array, loss: Array) -> Array:
        """The fluxes, corrected so that cells lose *loss* (n_cells, k) per time, and nodes nothing.

        With growth, cells may lose anything.
        """

    @abstractmethod
    def _leave(self, flux: Array) -> Array:
        """What leaves each point (n_points, k) per time."""

    def bound(self, rho: Array, background: Array, ends: Ends, eps: float) -> UpperBound:
        """The `UpperBound` of (1 - eps) rho + eps background, (n_patches, N) both."""
        disc = self.disc
        mesh = disc.mesh
        tau = node_weights(disc.n_steps)
        rho = (1 - eps) * rho + eps * background
        rho_at_nodes = node_mean(rho)

        n_nodes = len(tau)
        fluxes = []
        sources = []
        cost = 0.0
        residual = 0.0
        most_points = mesh.ranks.max(disc.n_points)
        nodes_at_once = int(max(mesh.ranks.size, MAX_UNKNOWNS // most_points))
        for first in range(0, n_nodes, nodes_at_once):
            stop = min(first + nodes_at_once, n_nodes)
            part = slice(first, stop)
            mobility = disc.mobility(rho_at_nodes[:, part])
            loss = self._find_loss(rho, ends, part)
            tau_part = tau[part]
            if isinstance(disc.growth, TotalVariation):
                guess = self.source[:, part] if self.source is not None else None
                balance = self._find_partial(mobility, loss, tau_part, guess)
            else:
                growth = self._find_growth(rho_at_nodes[:, part], tau_part)
                balance = self._find_balance(mobility, loss, tau_part, growth)
            fluxes.append(balance.flux)
            if balance.source is not None:
                sources.append(balance.source)
            residual = max(residual, balance.error)
            cost += balance.cost

        total_cost = mesh.ranks.sum(cost)
        relative_residual = mesh.ranks.max(residual) / ends.mass
        return UpperBound(
            total_cost,
            rho,
            np.concatenate(fluxes, axis=-1),
            relative_residual,
            eps,
            ends.rho1,
            source=np.concatenate(sources, axis=1) if sources else None,
        )

    def _find_balance(self, mobility, loss, tau, growth):
        """The `Balance` of the best flux at some nodes."""
        disc = self.disc
        F = self._solve(mobility, loss, tau, growth)
        F = self._conserve(F, mobility, loss / tau)
        error = self._leave(F) * tau
        error[: disc.mesh.n_cells] -= loss
        costs = disc.cost_fluxes(F, mobility) * tau
        cost = costs.sum()
        source = None
        if growth is not None:
            source, source_cost = self._balance(error, growth, tau)
            cost += source_cost
        return Balance(F, source, cost, np.abs(error).max(initial=0))

    def _find_partial(self, mobility, loss, tau, source):
        """The best `Balance` where growth costs kappa |zeta|, from a guess of zeta on.

        |zeta| is replaced by zeta^2 / (2 |zeta_0|) + |zeta_0| / 2, with the last zeta for zeta_0.
        """
        ranks = self.disc.mesh.ranks
        volume = self.disc.mesh.volume[:, None]
        kappa = self.disc.growth.kappa
        if source is None:
            source = loss / (volume * tau)
        best = None
        best_cost = np.inf
        for _ in range(MAX_REWEIGHTINGS):
            own_largest = np.abs(source).max(initial=0)
            floor = SMALLEST_SOURCE_RATIO * max(ranks.max(own_largest), SMALLEST_SOURCE)
            growth = volume * tau * np.maximum(np.abs(source), floor) / kappa
            balance = self._find_balance(mobility, loss, tau, growth)
            cost = ranks.sum(balance.cost)
            if cost < best_cost:
                is_slow = cost > (1 - LEAST_IMPROVEMENT) * best_cost
                best = balance
                best_cost = cost
                if is_slow:
                    break
            source = balance.source
        return best

    def _find_growth(self, rho_at_nodes, tau):
        """tau |K| rhobar / delta^2 (n_cells, k); None where mass cannot grow."""
        disc = self.disc
        if disc.growth is None:
            return None

        return disc.reaction * disc.mesh.volume[:, None] * disc.spread(rho_at_nodes) * tau

    def _balance(self, error, growth, tau):
        """(zeta (n_cells, k), its cost): growth is all that is left of the balance of the cells.

        error (n_points, k) : what fluxes and change lack; it is 0 in the cells afterwards.
        """
        n_cells = self.disc.mesh.n_cells
        missing = error[:n_cells].copy()
        error[:n_cells] = 0
        if isinstance(self.disc.growth, TotalVariation):
            costs = 2 * self.disc.growth.kappa * np.abs(missing)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                costs = np.where(missing == 0, 0.0, missing**2 / growth)
        return missing / (self.disc.mesh.volume[:, None] * tau), costs.sum()

    def _find_loss(self, rho, ends, nodes):
        """The mass that each cell loses (n_cells, k) at some nodes: |K| (rho^{n-1} - rho^n).

        rho0 and rho1 stand before the first and after the last slab.
        """
        n_slabs = rho.shape[1]
        first_slab = max(nodes.start - 1, 0)
        end_slab = min(nodes.stop, n_slabs)
        slabs = rho[:, first_slab:end_slab]
        parts = [self.disc.spread(slabs)]
        if nodes.start == 0:
            parts.insert(0, ends.rho0[:, None])
        if nodes.stop > n_slabs:
            parts.append(ends.rho1[:, None])
        densities = np.concatenate(parts, axis=1)
        change = np.diff(densities)
        return -self.disc.mesh.volume[:, None] * change

    def _solve_blocks(self, matrix: sparse.csr_matrix, side: Array) -> Array:
        """The solution (n, k) of a matrix of `stack_blocks` for the sides (n, k)."""
        mesh = self.disc.mesh
        method = linalg.find_method("cg", mesh.dim, mesh.ranks.size)
        options = method.options | SOLVER_OPTIONS
        method = replace(method, options=options)
        system = linalg.System(mesh.ranks, matrix, method, prefix=BEST_FLUX_PREFIX, rtol=self.rtol)
        side = np.ascontiguousarray(side)
        psi = system(side.ravel())
        psi = psi.reshape(side.shape)
        system.destroy()

        psi[~np.isfinite(psi)] = 0.0  # a solve that fails makes the bound larger, not wrong
        return psi


def ground(value: Array, is_grounded: Array) -> None:
    """Double the diagonals (m, k) of matrices where they are grounded.

    psi is then 0 in one point of each piece: multigrid would amplify the free constant until CG
    breaks down.
    """
    diagonal = value[is_grounded]
    value[is_grounded] = np.where(diagonal > 0, 2 * diagonal, 1.0)


def stack_blocks(
    start: IntArray, column: IntArray, value: Array, n_columns: int
) -> sparse.csr_matrix:
    """Matrices of one pattern (CSR) with the values (nnz, k) as one block-diagonal matrix.

    Row and column i k + j belong to row and column i of matrix j.
    """
    k = value.shape[1]
    count = np.diff(start)
    block = np.arange(k)
    n_rows = len(count)
    row = np.repeat(np.arange(n_rows), count)
    row_start = start[row]
    first_place = row_start * k + np.arange(len(row)) - row_start
    place = first_place[:, None] + block * count[row, None]

    data = np.empty(place.size)
    data[place] = value
    index = np.empty(place.size, np.int64)
    index[place] = column[:, None] * k + block
    row_starts = start[:-1, None] * k + block * count[:, None]
    starts = np.append(row_starts.ravel(), place.size)
    return sparse.csr_matrix((data, index, starts), (n_rows * k, n_columns * k))
