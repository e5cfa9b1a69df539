"""The discrete-gradient midpoint step with fluxes to corners: second order on any mesh.

With the matrices M of `finite_volume.corners` and unknowns mu_i at the nodes, which have no volume,

    |K| (rho_K - old_K) + tau sum over the corners i of K of F_i = 0,    sum over K of F_(K,i) = 0
    F_i = sum_j C_ij (mu_K - mu_j),    C_ij = sqrt(R_i R_j) M_ij
    mu_K = (e(rho_K) - e(old_K)) / (rho_K - old_K) + V_K + (W * (rho + old) / 2)_K

so that E(rho) - E(old) = -tau sum_K (mu_K - mu)^T C (mu_K - mu) <= 0 for all mobilities R >= 0 of
the legs from cells to corners. They are frozen at a density rho*, the old one first, then the mean
of that and of the first result: with the new density in them, iterations go round in circles at
fronts. Newton's method then solves a convex problem, twice a step.

    R_i = min((rho*_K + r_i) / 2, MOBILITY_LIMIT rho*_giving)

r_i is the mean of rho* over the cells at the node, and what gives is the side with the larger mu.
Where the result is negative, `finite_volume.settling` makes it positive; should its energy be above
the old one, it is moved towards the step by two-point fluxes.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from .. import linalg
from ..arguments.types import Array
from ..energies.free_energy import FreeEnergy
from ..errors import ConvergenceError
from ..finite_volume.corner_rates import (
    NodeSystem,
    condense,
    eliminate,
    find_node_diagonal,
    substitute,
)
from ..finite_volume.corners import MAX_CORNERS, find_corners
from ..finite_volume.settling import settle
from ..mesh.cell_values import integrate
from .midpoint_step import MAX_MIDPOINT_ITERATIONS, MOBILITY_LIMIT, MidpointStep
from .newton_systems import RESIDUAL_ROUNDING, Solver
from .step import StepResult

# Growth of the energy, relative to its parts, that is rounding.
ENERGY_GROWTH_TOLERANCE = 1e-13

# The part of the old or of the predicted density, the larger one, below which an energy whose
# derivative is infinite at 0 goes on along its tangent: no density then gets lost in Newton's
# method.
LEAST_FRACTION = 1e-3

# Solutions with frozen mobilities in a step.
N_PASSES = 2

# Halvings of the way to the step by two-point fluxes, before that is taken.
MAX_HALVINGS_TO_TWO_POINT = 30

# The part of the largest density below which a mobility counts as 0. Chosen.
VACUUM = 1e-12

# The part of the largest root of a mobility in its cell below which another one counts as 0: mu at
# a node that hangs on such legs alone is the quotient of two small numbers. Chosen.
DRY_LEG = 1e-4

# A node's part of the largest diagonal below which nothing flows there.
DRY_NODE = 1e-250


class _State(NamedTuple):
    """A solution with frozen mobilities.

    rho (n_cells,), mu (n_cells,), at_nodes (n_nodes,) : the density, and mu
    dissipated, iterations : energy, and iterations of Newton's method
    """

    rho: Array
    mu: Array
    at_nodes: Array
    dissipated: float
    iterations: int


class CornerStep:
    """rho after a step from old, (n_cells,) each, for a `FreeEnergy`. Collective.

    tol : largest residual of the equations, in L1, relative to the mass
    """

    order = 2

    def __init__(self, free_energy: FreeEnergy, tol: float = 1e-12):
        mesh = free_energy.mesh
        self.free_energy = free_energy
        self.mesh = mesh
        self.tol = tol
        self.corners = find_corners(mesh)
        unit = np.broadcast_to(np.eye(mesh.dim)[:, :, None], (mesh.dim, mesh.dim, mesh.n_cells))
        self.matrices = self.corners.matrices(np.ascontiguousarray(unit))
        self.solver = Solver(mesh)
        self._two_point = MidpointStep(free_energy, tol)

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The `StepResult` of length tau. Raises `ConvergenceError`."""
        mass = integrate(self.mesh, old)
        if mass == 0:
            return StepResult(old, 0.0, 0)

        self.solver.begin(tau)
        energy = self.free_energy
        predicted = self._two_point(old, tau)
        low = predicted.rho
        iterations = predicted.newton
        floor = energy.start(mass / energy.measure)
        least = (
            LEAST_FRACTION * np.maximum(np.maximum(old, low), floor)
            if energy.singular
            else 0.0 * old
        )
        mu, _ = self._find_discrete_gradient(low, old, least)
        finite = np.where(np.isfinite(mu), mu, 0.0)
        at_nodes = self.corners.average_at_nodes(finite[self.corners.cell])

        rho = low
        for _ in range(N_PASSES):
            middle = (old + np.maximum(rho, 0)) / 2
            state = self._solve(old, middle, rho, mu, at_nodes, least, tau, mass)
            rho, mu, at_nodes = state.rho, state.mu, state.at_nodes
            iterations += state.iterations

        rho, was_in_debt = settle(self.mesh, self.corners.sides, rho)
        rho = rho * (mass / integrate(self.mesh, rho))
        if not was_in_debt:
            return StepResult(rho, state.dissipated, iterations)
        rho, dissipated = self._lower_energy(old, rho, low)
        return StepResult(rho, dissipated, iterations)

    def _lower_energy(self, old, rho, low):
        """(rho, what it has dissipated), moved until its energy is at most that of the old one."""
        before, size = self._measure_energy(old)
        after, _ = self._measure_energy(rho)
        for _ in range(MAX_HALVINGS_TO_TWO_POINT):
            if after <= before + ENERGY_GROWTH_TOLERANCE * size:
                return rho, before - after
            rho = (rho + low) / 2
            after, _ = self._measure_energy(rho)
        after, _ = self._measure_energy(low)
        return low, before - after

    def _measure_energy(self, rho):
        """(the energy, the sum of the sizes of its parts)."""
        parts = self.free_energy.parts(rho)
        total = parts.pop("energy")
        return total, sum(map(abs, parts.values())) or abs(total)

    # ---- Newton's method -------------------------------------------------------------------------

    def _solve(self, old, density, start, mu, at_nodes, least, tau, mass):
        """The `_State` with mobilities frozen at that density (n_cells,)."""
        mesh = self.mesh
        corners = self.corners
        C = self._freeze(density, mu, at_nodes)
        row = np.add.reduceat(C, _list_row_starts(corners.start, corners.pair_start))
        total = np.add.reduceat(row, corners.start[:-1])

        rho = start
        at_nodes = at_nodes.copy()
        for iteration in range(MAX_MIDPOINT_ITERATIONS):
            mu, slope = self._find_discrete_gradient(rho, old, least)
            out, got, dissipation, terms = self._sum_fluxes(C, mu, at_nodes)
            r = -mesh.volume * (rho - old) - tau * out
            g = tau * got
            size, dissipation, terms = mesh.ranks.sum(
                np.array([np.abs(r).sum() + np.abs(g).sum(), dissipation, terms])
            )
            if not np.isfinite(size):
                break
            if size <= self.tol * mass + RESIDUAL_ROUNDING * tau * terms:
                return _State(rho, mu, at_nodes, tau * dissipation, iteration)

            alpha = slope[corners.cell] * row
            diagonal = mesh.volume + tau * slope * total
            system = NodeSystem(corners, alpha, C, row)
            e = self._solve_nodes(system, tau, diagonal, r, g)
            at_nodes += e
            change = np.empty(mesh.n_cells)
            substitute(system, tau, diagonal, r, e, change)
            rho = rho + change

        raise ConvergenceError(
            f"the step of {tau:.3g}: Newton's method is left with a residual of "
            f"{size / mass:.1e} of the mass after {iteration + 1} iterations"
        )

    def _freeze(self, density, mu, at_nodes):
        """C (n_pairs,), see the module."""
        corners = self.corners
        mean = corners.average_at_nodes(density[corners.cell])
        vacuum = VACUUM * self.mesh.ranks.max(density.max(initial=0.0))
        C = np.empty_like(self.matrices)
        _fill_mobile_matrices(
            corners.start,
            corners.pair_start,
            corners.node,
            density,
            mean,
            mu,
            at_nodes,
            vacuum,
            DRY_LEG,
            self.matrices,
            C,
        )
        return C

    def _find_discrete_gradient(self, rho, old, least):
        """(mu, its derivative in rho); below *least* (n_cells,) mu goes on along its tangent."""
        energy = self.free_energy
        upper = np.maximum(rho, least)
        mu, slope = energy.difference(upper, old)
        mu = mu + slope * (rho - upper) + energy.potential((upper + old) / 2)
        return mu, slope

    def _sum_fluxes(self, C, mu, at_nodes):
        """(what leaves each cell, what each node gets, (mu_K - mu)^T C (mu_K - mu), terms)."""
        corners = self.corners
        out = np.zeros(self.mesh.n_cells)
        got = np.zeros(corners.n_nodes)
        sums = _sum_corner_fluxes(
            corners.start, corners.pair_start, corners.node, C, mu, at_nodes, out, got
        )
        got = corners.exchange.add(got)
        got[corners.n_own :] = 0.0
        return out, got, *sums

    def _solve_nodes(self, system, tau, diagonal, r, g):
        """The change of mu at the nodes (n_nodes,)."""
        corners = self.corners
        ranks = self.mesh.ranks
        size = find_node_diagonal(system, tau, diagonal)
        largest = ranks.max(size.max(initial=0.0))
        is_dry = ~(size > DRY_NODE * largest)
        root = np.sqrt(np.where(is_dry, 1.0, size))
        values = condense(system._replace(is_given=is_dry), tau, diagonal, 1 / root, 1 / root)
        values[corners.own_entry[is_dry[corners.node]]] = 1.0

        rhs = g + corners.exchange.add(eliminate(system, tau, diagonal, r))
        rhs = np.where(is_dry, 0.0, rhs / root)
        e = np.zeros(corners.n_nodes)
        e[: corners.n_own] = self.solver(
            self._rank_methods(tau, diagonal),
            lambda scale, order: corners.assembly.matrix(values),
            rhs[: corners.n_own],
        )
        return corners.exchange(e) / root

    def _rank_methods(self, tau, diagonal):
        """The names of the methods, the cheapest first."""
        mesh = self.mesh
        stiffness = mesh.ranks.max((diagonal / mesh.volume).max(initial=0.0))
        n = self.corners.n_global
        costs = linalg.estimate_costs(n, mesh.dim, mesh.ranks.size, stiffness, 0.0)
        return linalg.rank_methods(costs, 1)

    # ---- what a run asks for ---------------------------------------------------------------------

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
        self._two_point.restart()

    def save(self) -> dict:
        """What a checkpoint keeps."""
        return self.solver.save()

    def restore(self, kept: dict) -> None:
        """Take over what `save` gave."""
        self.solver.restore(kept)


@numba.njit(cache=True, error_model="numpy")
def _fill_mobile_matrices(start, pair_start, node, density, mean, mu, at_nodes, vacuum, dry, M, C):
    """C_ij = sqrt(R_i R_j) M_ij, see the module."""
    root = np.empty(MAX_CORNERS)
    for cell in range(len(density)):
        first = start[cell]
        k = start[cell + 1] - first
        at = pair_start[cell]
        for i in range(k):
            there = mean[node[first + i]]
            giving = density[cell] if mu[cell] > at_nodes[node[first + i]] else there
            R = min((density[cell] + there) / 2, MOBILITY_LIMIT * giving)
            root[i] = np.sqrt(R) if R > vacuum else 0.0
        largest = root[:k].max()
        for i in range(k):
            if root[i] < dry * largest:
                root[i] = 0.0
        for i in range(k):
            for j in range(k):
                C[at + i * k + j] = root[i] * root[j] * M[at + i * k + j]


@numba.njit(cache=True, error_model="numpy")
def _sum_corner_fluxes(start, pair_start, node, C, mu, at_nodes, out, got):
    """Add F_i = sum_j C_ij (mu_K - mu_j) to out and got; (dissipation, sizes of the terms)."""
    dissipation = 0.0
    terms = 0.0
    for cell in range(len(out)):
        first = start[cell]
        k = start[cell + 1] - first
        at = pair_start[cell]
        for i in range(k):
            F = 0.0
            for j in range(k):
                other = at_nodes[node[first + j]]
                c = C[at + i * k + j]
                if c == 0:
                    continue
                F += c * (mu[cell] - other)
                terms += abs(c) * (abs(mu[cell]) + abs(other))
            out[cell] += F
            got[node[first + i]] += F
            if F != 0:
                dissipation += F * (mu[cell] - at_nodes[node[first + i]])
    return dissipation, terms


def _list_row_starts(start, pair_start):
    """Where the rows of the cells' matrices begin (n_corners,)."""
    count = np.diff(start)
    place = np.arange(start[-1]) - np.repeat(start[:-1], count)
    return np.repeat(pair_start[:-1], count) + place * np.repeat(count, count)
