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
from .time_basis import node_weights

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


class Upper(NamedTuple):
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


def _average_at_nodes(rho, nodes):
    """Means (n_patches, k) at some nodes of the densities (n_patches, N) of the two slabs there."""
    n = np.arange(nodes.start, nodes.stop)
    before = rho[:, np.maximum(n - 1, 0)]
    after = rho[:, np.minimum(n, rho.shape[1] - 1)]
    return (before + after) / 2


class BestFlux:
    """The fluxes of least cost for a density, on one `Discretisation`."""

    def __init__(self, disc: Discretisation, rtol: float):
        mesh = disc.mesh
        n = disc.mesh.n_inner
        self.disc = disc
        self.rtol = rtol
        self._number = mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells))
        left, right = mesh.left[:n], mesh.right[:n]

        # The own sides of faces: left ones first.
        is_left_own = left < mesh.n_cells
        is_right_own = right < mesh.n_cells
        faces = np.concatenate([np.flatnonzero(is_left_own), np.flatnonzero(is_right_own)])
        sign = np.repeat([1.0, -1.0], [is_left_own.sum(), is_right_own.sum()])
        cells = np.where(sign > 0, left[faces], right[faces])
        neighbours = np.where(sign > 0, right[faces], left[faces])
        self._divergence = sparse.csr_matrix((sign, (cells, faces)), (mesh.n_cells, n))

        rows = np.concatenate([cells, cells])
        columns = np.concatenate([self._number[cells], self._number[neighbours]])
        self._find_pattern(rows, columns, faces)

    def _find_pattern(self, row, column, faces):
        """The CSR pattern of the Laplacian with PETSc's columns.

        Also the map from face weights to its entries. A cell without faces has a row, too.
        """
        mesh = self.disc.mesh
        own = np.arange(mesh.n_cells)
        row = np.append(row, own)
        column = np.append(column, self._number[own])
        key, entry = np.unique(
            row.astype(np.int64) * mesh.n_cells_global + column, return_inverse=True
        )
        row, self._column = np.divmod(key, mesh.n_cells_global)
        self._start = np.searchsorted(row, np.arange(mesh.n_cells + 1))

        sign = np.repeat([1.0, -1.0], len(faces))
        places = (entry[: len(sign)], np.tile(faces, 2))
        self._entries = sparse.csr_matrix((sign, places), (len(key), mesh.n_inner))
        self._grounded = (self._column == self._number[row]) & self._find_first_cells()[row]

    def _find_first_cells(self):
        """(n_cells,) whether this is the first cell of a connected piece of the mesh."""
        disc = self.disc
        number = self._number[: disc.mesh.n_cells]
        component = disc.spread(disc.component)
        first = np.full(disc.n_components, np.iinfo(np.int64).max)
        np.minimum.at(first, component, number)
        return number == disc.mesh.ranks.min(first)[component]

    @cached_property
    def _trees(self):
        return MobilityTrees(self.disc.mesh)

    def bound(self, rho: Array, background: Array, ends: Ends, eps: float) -> Upper:
        """The `Upper` bound of (1 - eps) rho + eps background, (n_patches, N) both."""
        disc = self.disc
        mesh = disc.mesh
        n = mesh.n_inner
        tau = node_weights(disc.n_steps)
        rho = (1 - eps) * rho + eps * background

        flux = np.empty((n, len(tau)))
        cost = 0.0
        residual = 0.0
        nodes_at_once = int(max(1, MAX_UNKNOWNS // mesh.ranks.max(mesh.n_cells)))
        for first in range(0, len(tau), nodes_at_once):
            part = slice(first, min(first + nodes_at_once, len(tau)))
            mobility = disc.mobility(_average_at_nodes(rho, part))
            loss = self._find_loss(rho, ends, part)
            F = self._solve(mobility, loss, tau[part])
            F = self._trees.conserve(F, mobility, loss / tau[part], self._divergence)
            flux[:, part] = F

            error = self._divergence @ F * tau[part] - loss
            residual = max(residual, np.abs(error).max(initial=0))

            # A piece of the mesh may have no mass at all.
            with np.errstate(divide="ignore", invalid="ignore"):
                costs = mesh.distance[:n, None] ** 2 * F**2 / mobility * tau[part]
                costs = np.where(F == 0, 0.0, costs)
            cost += costs[mesh.face_owned[:n]].sum()

        return Upper(
            mesh.ranks.sum(cost),
            rho,
            flux,
            mesh.ranks.max(residual) / ends.mass,
            eps,
            ends.rho1,
        )

    def _find_loss(self, rho, ends, nodes):
        """The mass that each cell loses (n_cells, k) at some nodes: |K| (rho^{n-1} - rho^n).

        rho0 and rho1 stand before the first and after the last slab.
        """
        n_slabs = rho.shape[1]
        slabs = rho[:, max(nodes.start - 1, 0) : min(nodes.stop, n_slabs)]
        parts = [self.disc.spread(slabs)]
        if nodes.start == 0:
            parts.insert(0, ends.rho0[:, None])
        if nodes.stop > n_slabs:
            parts.append(ends.rho1[:, None])
        return -self.disc.mesh.volume[:, None] * np.diff(np.concatenate(parts, axis=1))

    def _solve(self, mobility, loss, tau):
        """Fluxes (n_inner, k) with about the losses *loss* (n_cells, k) in the times tau (k,)."""
        mesh = self.disc.mesh
        distance = mesh.distance[: mesh.n_inner, None]
        weight = mobility / distance**2
        method = linalg.find_method("cg", mesh.dim, mesh.ranks.size)
        method = replace(method, options=method.options | SOLVER_OPTIONS)
        system = linalg.System(
            mesh.ranks, self._matrix(weight * tau), method, prefix=BEST_FLUX_PREFIX, rtol=self.rtol
        )
        psi = system(np.ascontiguousarray(loss).ravel()).reshape(loss.shape)
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
        row = np.repeat(np.arange(len(count)), count)
        first_place = self._start[row] * k + np.arange(len(row)) - self._start[row]
        place = first_place[:, None] + block * count[row, None]

        value = self._entries @ weight
        diagonal = value[self._grounded]
        value[self._grounded] = np.where(diagonal > 0, 2 * diagonal, 1.0)

        data = np.empty(place.size)
        data[place] = value
        index = np.empty(place.size, np.int64)
        index[place] = self._column[:, None] * k + block
        row_starts = (self._start[:-1, None] * k + block * count[:, None]).ravel()
        start = np.append(row_starts, place.size)
        shape = (len(count) * k, self.disc.mesh.n_cells_global * k)
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
        left, right = mesh.left[:n], mesh.right[:n]
        own = np.maximum(left, right) < n_cells
        self.inside = np.flatnonzero(own)
        self.ends = left[own], right[own]

        graph = sparse.csr_matrix((np.ones(len(self.inside)), self.ends), (n_cells, n_cells))
        count, piece = connected_components(graph, directed=False)
        counts = mesh.ranks.all_gather(np.array([count]))
        self.n_pieces = int(counts.sum())
        self.piece = piece + int(counts[: mesh.ranks.rank].sum())

        number = mesh.with_ghosts(self.piece)
        between = np.flatnonzero(~own & (number[left] != number[right]))
        ends = np.stack([number[left[between]], number[right[between]]])
        pair = (np.sort(ends, axis=0) * np.array([[self.n_pieces], [1]])).sum(axis=0)
        self.pairs = np.unique(mesh.ranks.all_gather(pair))
        self.between = between
        self.pair = np.searchsorted(self.pairs, pair)
        self.sign = np.where(ends[0] < ends[1], 1.0, -1.0)

        left_id = mesh.cell_id[left[between]].astype(np.int64)
        self.key = left_id * mesh.n_cells_global + mesh.cell_id[right[between]]

    def conserve(
        self, flux: Array, mobility: Array, loss: Array, divergence: sparse.csr_matrix
    ) -> Array:
        """The flux (n_inner, k), corrected so that divergence @ flux = loss (n_cells, k).

        The equation then holds to round-off. mobility (n_inner, k); *loss* must add up to 0 in each
        connected piece of the mesh.
        """
        flux = flux.copy()
        if len(self.pairs):
            self._correct_between_pieces(flux, mobility, loss - divergence @ flux)

        missing = np.ascontiguousarray((loss - divergence @ flux).T)
        inner_mobility = np.ascontiguousarray(mobility[self.inside].T)
        correction = _solve_on_trees(*self.ends, inner_mobility, missing)
        flux[self.inside] += correction.T
        return flux

    def _correct_between_pieces(self, flux, mobility, missing):
        ranks = self.mesh.ranks
        n_pairs = len(self.pairs)
        k = missing.shape[1]
        total = np.zeros((self.n_pieces, k))
        np.add.at(total, self.piece, missing)

        widest = np.zeros((n_pairs, k))
        np.maximum.at(widest, self.pair, mobility[self.between])
        widest = ranks.max(widest)

        # One face for each pair of pieces, the same on both sides.
        first = np.full((n_pairs, k), np.iinfo(np.int64).max)
        is_widest = mobility[self.between] == widest[self.pair]
        key = np.where(is_widest, self.key[:, None], first[0, 0])
        np.minimum.at(first, self.pair, key)
        is_chosen = ranks.min(first)[self.pair] == self.key[:, None]

        ends = np.divmod(self.pairs, self.n_pieces)
        through = _solve_on_trees(
            *ends, np.ascontiguousarray(widest.T), np.ascontiguousarray(ranks.sum(total).T)
        ).T
        flux[self.between] += is_chosen * self.sign[:, None] * through[self.pair]


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
