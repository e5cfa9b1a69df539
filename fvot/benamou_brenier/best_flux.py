"""The best flux for a given density: the linear half of the upper bound.

At each node n the mobilities M_s of the density are given, and the flux of least cost with the
divergence that the continuity equation asks for is

    Phi_s = -M_s / d_s^2 (psi_L - psi_K),      |K| (rho^n - rho^{n-1})_K + tau_n sum_s +-Phi_s = 0

with psi from a Laplace equation with the face weights M_s / d_s^2. An iterative solve leaves a part
of the continuity equation unsatisfied. That part is carried along a spanning tree of largest
mobility, where it costs least, so that the equation holds to round-off. Every tolerance therefore
gives a bound

    W2^2 <= 2 sum_n tau_n sum_s d_s^2 Phi_s^2 / (2 M_s)
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from ..arguments.types import Array
from ..mesh import Mesh
from .discretisation import Discretisation
from .ends import Ends
from .time_basis import node_mean, node_weights

BEST_FLUX_PREFIX = "fvot_benamou_brenier_certificate_"

# Round-off of a sum, relative to the sum of its terms.
BOUND_ROUND_OFF = 1e-15

# Relative gap that is asked for where nothing but round-off is left.
SMALLEST_GAP = 1e-8

# Unknowns (cells times nodes) of one linear system, at most.
MAX_UNKNOWNS = 200_000

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

    rho (n_patches, N), flux (n_inner, N + 1) : the density and the mass per time through each face
    residual : the largest |K| (rho^n - rho^{n-1})_K + tau_n sum +-Phi_s, relative to the mass
    eps : the share of the background
    rho1 (n_cells,) : the density at the end
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

    @property
    def action(self) -> float:
        """W2^2 of the path itself."""
        return self.cost - 2 * self.energy

    @property
    def scale(self) -> float:
        """The scale of relative gaps: the action, or more where the energy's round-off is."""
        return max(self.action, BOUND_ROUND_OFF * self.terms / SMALLEST_GAP)


class BestFlux:
    """The fluxes of least cost for a density, on one `Discretisation`."""

    def __init__(self, disc: Discretisation, rtol: float):
        mesh = disc.mesh
        n = disc.mesh.n_inner
        self.disc = disc
        self.rtol = rtol
        own_number = mesh.first_row + np.arange(mesh.n_cells)
        self._number = mesh.with_ghosts(own_number)
        left = mesh.left[:n]
        right = mesh.right[:n]

        # The own sides of faces: left ones first.
        is_left_own = left < mesh.n_cells
        is_right_own = right < mesh.n_cells
        left_faces = np.flatnonzero(is_left_own)
        right_faces = np.flatnonzero(is_right_own)
        faces = np.concatenate([left_faces, right_faces])
        sign = np.repeat([1.0, -1.0], [len(left_faces), len(right_faces)])
        is_left = sign > 0
        cells = np.where(is_left, left[faces], right[faces])
        neighbours = np.where(is_left, right[faces], left[faces])
        self._divergence = sparse.csr_matrix((sign, (cells, faces)), (mesh.n_cells, n))

        rows = np.concatenate([cells, cells])
        own_columns = self._number[cells]
        other_columns = self._number[neighbours]
        columns = np.concatenate([own_columns, other_columns])
        self._find_pattern(rows, columns, faces)

    def _find_pattern(self, row, column, faces):
        """The CSR pattern of the Laplacian with PETSc's columns.

        Also the map from face weights to its entries. A cell without faces has a row, too.
        """
        mesh = self.disc.mesh
        own = np.arange(mesh.n_cells)
        row = np.append(row, own)
        column = np.append(column, self._number[own])
        keys = row.astype(np.int64) * mesh.n_cells_global + column
        key, entry = np.unique(keys, return_inverse=True)
        row, self._column = np.divmod(key, mesh.n_cells_global)
        row_ends = np.arange(mesh.n_cells + 1)
        self._start = np.searchsorted(row, row_ends)

        sign = np.repeat([1.0, -1.0], len(faces))
        face_entry = entry[: len(sign)]
        places = (face_entry, np.tile(faces, 2))
        self._entries = sparse.csr_matrix((sign, places), (len(key), mesh.n_inner))

        is_diagonal = self._column == self._number[row]
        is_first = self._find_first_cells()
        self._grounded = is_diagonal & is_first[row]

    def _find_first_cells(self):
        """(n_cells,) whether this is the first cell of a connected piece of the mesh."""
        disc = self.disc
        number = self._number[: disc.mesh.n_cells]
        component = disc.spread(disc.component)
        largest_number = np.iinfo(np.int64).max
        first = np.full(disc.n_components, largest_number)
        np.minimum.at(first, component, number)
        first = disc.mesh.ranks.min(first)
        return number == first[component]

    @cached_property
    def _trees(self):
        return MobilityTrees(self.disc.mesh)

    def bound(self, rho: Array, background: Array, ends: Ends, eps: float) -> UpperBound:
        """The `UpperBound` of (1 - eps) rho + eps background, (n_patches, N) both."""
        disc = self.disc
        mesh = disc.mesh
        n = mesh.n_inner
        tau = node_weights(disc.n_steps)
        rho = (1 - eps) * rho + eps * background
        rho_at_nodes = node_mean(rho)

        n_nodes = len(tau)
        flux = np.empty((n, n_nodes))
        cost = 0.0
        residual = 0.0
        most_cells = mesh.ranks.max(mesh.n_cells)
        nodes_at_once = int(max(1, MAX_UNKNOWNS // most_cells))
        for first in range(0, n_nodes, nodes_at_once):
            stop = min(first + nodes_at_once, n_nodes)
            part = slice(first, stop)
            mobility = disc.mobility(rho_at_nodes[:, part])
            loss = self._find_loss(rho, ends, part)
            tau_part = tau[part]
            F = self._solve(mobility, loss, tau_part)
            F = self._trees.conserve(F, mobility, loss / tau_part, self._divergence)
            flux[:, part] = F

            error = self._divergence @ F * tau_part - loss
            largest_error = np.abs(error).max(initial=0)
            residual = max(residual, largest_error)

            # A piece of the mesh may have no mass at all.
            with np.errstate(divide="ignore", invalid="ignore"):
                costs = mesh.distance[:n, None] ** 2 * F**2 / mobility * tau_part
                costs = np.where(F == 0, 0.0, costs)

            own_costs = costs[mesh.face_owned[:n]]
            cost += own_costs.sum()

        total_cost = mesh.ranks.sum(cost)
        relative_residual = mesh.ranks.max(residual) / ends.mass
        return UpperBound(
            total_cost,
            rho,
            flux,
            relative_residual,
            eps,
            ends.rho1,
        )

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

    def _solve(self, mobility, loss, tau):
        """Fluxes (n_inner, k) with about the losses *loss* (n_cells, k) in the times tau (k,)."""
        mesh = self.disc.mesh
        distance = mesh.distance[: mesh.n_inner, None]
        weight = mobility / distance**2
        method = linalg.find_method("cg", mesh.dim, mesh.ranks.size)
        options = method.options | SOLVER_OPTIONS
        method = replace(method, options=options)
        matrix = self._matrix(weight * tau)
        system = linalg.System(mesh.ranks, matrix, method, prefix=BEST_FLUX_PREFIX, rtol=self.rtol)
        side = np.ascontiguousarray(loss)
        psi = system(side.ravel())
        psi = psi.reshape(loss.shape)
        system.destroy()

        psi[~np.isfinite(psi)] = 0.0  # a solve that fails makes the bound larger, not wrong
        return -weight * self.disc.gradient(psi) * distance

    def _matrix(self, weight):
        """Laplacians with face weights (n_inner, k) as one block-diagonal matrix.

        Row and column k K + i belong to cell K and block i. psi is 0 in the first cell of each
        piece: multigrid would amplify the free constant until CG breaks down.
        """
        k = weight.shape[1]
        count = np.diff(self._start)
        block = np.arange(k)
        n_rows = len(count)
        row = np.repeat(np.arange(n_rows), count)
        row_start = self._start[row]
        first_place = row_start * k + np.arange(len(row)) - row_start
        place = first_place[:, None] + block * count[row, None]

        value = self._entries @ weight
        diagonal = value[self._grounded]
        value[self._grounded] = np.where(diagonal > 0, 2 * diagonal, 1.0)

        data = np.empty(place.size)
        data[place] = value
        index = np.empty(place.size, np.int64)
        index[place] = self._column[:, None] * k + block
        row_starts = self._start[:-1, None] * k + block * count[:, None]
        start = np.append(row_starts.ravel(), place.size)
        n_columns = self.disc.mesh.n_cells_global
        shape = (n_rows * k, n_columns * k)
        return sparse.csr_matrix((data, index, start), shape)


class MobilityTrees:
    """Spanning trees of largest mobility of a distributed mesh.

    There is one tree for each connected piece of a rank's own cells, and one of all pieces, whose
    edges are the faces of largest mobility between two pieces.
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        n = mesh.n_inner
        n_cells = mesh.n_cells
        left = mesh.left[:n]
        right = mesh.right[:n]
        own = np.maximum(left, right) < n_cells
        self.inside = np.flatnonzero(own)
        self.ends = left[own], right[own]

        ones = np.ones(len(self.inside))
        graph = sparse.csr_matrix((ones, self.ends), (n_cells, n_cells))
        count, piece = connected_components(graph, directed=False)
        counts = mesh.ranks.all_gather(np.array([count]))
        self.n_pieces = int(counts.sum())
        before = counts[: mesh.ranks.rank]
        self.piece = piece + int(before.sum())

        number = mesh.with_ghosts(self.piece)
        left_piece = number[left]
        right_piece = number[right]
        joins_two = left_piece != right_piece
        between = np.flatnonzero(~own & joins_two)
        ends = np.stack([left_piece[between], right_piece[between]])
        factors = np.array([[self.n_pieces], [1]])
        pair = (np.sort(ends, axis=0) * factors).sum(axis=0)
        all_pairs = mesh.ranks.all_gather(pair)
        self.pairs = np.unique(all_pairs)
        self.between = between
        self.pair = np.searchsorted(self.pairs, pair)
        self.sign = np.where(ends[0] < ends[1], 1.0, -1.0)

        left_id = mesh.cell_id[left[between]].astype(np.int64)
        right_id = mesh.cell_id[right[between]]
        self.key = left_id * mesh.n_cells_global + right_id

    def conserve(
        self, flux: Array, mobility: Array, loss: Array, divergence: sparse.csr_matrix
    ) -> Array:
        """The flux (n_inner, k), corrected so that divergence @ flux = loss (n_cells, k).

        The equation then holds to round-off. mobility (n_inner, k); *loss* must add up to 0 in each
        connected piece of the mesh.
        """
        flux = flux.copy()
        if len(self.pairs):
            missing = loss - divergence @ flux
            self._correct_between_pieces(flux, mobility, missing)

        missing = loss - divergence @ flux
        missing_of_node = np.ascontiguousarray(missing.T)
        inner_mobility = mobility[self.inside]
        mobility_of_node = np.ascontiguousarray(inner_mobility.T)
        correction = _solve_on_trees(*self.ends, mobility_of_node, missing_of_node)
        flux[self.inside] += correction.T
        return flux

    def _correct_between_pieces(self, flux, mobility, missing):
        ranks = self.mesh.ranks
        n_pairs = len(self.pairs)
        k = missing.shape[1]
        total = np.zeros((self.n_pieces, k))
        np.add.at(total, self.piece, missing)

        mobility_between = mobility[self.between]
        widest = np.zeros((n_pairs, k))
        np.maximum.at(widest, self.pair, mobility_between)
        widest = ranks.max(widest)

        # One face for each pair of pieces, the same on both sides.
        largest_key = np.iinfo(np.int64).max
        first = np.full((n_pairs, k), largest_key)
        is_widest = mobility_between == widest[self.pair]
        key = np.where(is_widest, self.key[:, None], largest_key)
        np.minimum.at(first, self.pair, key)
        first = ranks.min(first)
        is_chosen = first[self.pair] == self.key[:, None]

        total = ranks.sum(total)
        ends = np.divmod(self.pairs, self.n_pieces)
        widest_of_node = np.ascontiguousarray(widest.T)
        total_of_node = np.ascontiguousarray(total.T)
        through = _solve_on_trees(*ends, widest_of_node, total_of_node)
        through_of_face = through.T[self.pair]
        flux[self.between] += is_chosen * self.sign[:, None] * through_of_face


def _solve_on_trees(left, right, mobility, missing):
    """Flux (k, n_edges) on spanning trees of largest mobility (k, n_edges).

    Its divergence is *missing* (k, n), except in the roots.
    """
    flux = np.zeros(mobility.shape)
    for node in range(len(flux)):
        order = np.argsort(-mobility[node], kind="stable")
        _carry_to_root(order, left, right, missing[node], flux[node])
    return flux


@numba.njit(cache=True)
def _carry_to_root(order, left, right, missing, flux):
    """Build Kruskal's spanning trees from the edges in that order, then empty leaf after leaf.

    A node keeps the number of its tree edges and the exclusive or of their numbers: at a leaf, that
    is the number of its only edge.
    """
    n = len(missing)
    group = np.arange(n)
    degree = np.zeros(n, np.int64)
    link = np.zeros(n, np.int64)
    for e in order:
        a, b = left[e], right[e]
        while group[a] != a:
            group[a] = group[group[a]]
            a = group[a]
        while group[b] != b:
            group[b] = group[group[b]]
            b = group[b]
        if a != b:
            group[max(a, b)] = min(a, b)
            for end in (left[e], right[e]):
                degree[end] += 1
                link[end] ^= e
    for start in range(n):
        leaf = start
        while degree[leaf] == 1:
            e = link[leaf]
            beyond = right[e] if left[e] == leaf else left[e]
            flux[e] = missing[leaf] if left[e] == leaf else -missing[leaf]
            missing[beyond] += missing[leaf]
            degree[leaf] = 0
            degree[beyond] -= 1
            link[beyond] ^= e
            if beyond > start:
                break
            leaf = beyond
