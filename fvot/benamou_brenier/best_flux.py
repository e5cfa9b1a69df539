"""The best flux for a given density: the linear half of the upper bound."""

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from .time_basis import node_weights

PREFIX = "fvot_benamou_brenier_certificate_"
ROUND_OFF = 1e-15  # of a sum, relative to that of its terms
FINEST = 1e-8  # relative gap that is asked for where nothing but round-off is left
AT_ONCE = 200_000  # cells times nodes of one linear system
OPTIONS = {
    # the energy is what counts; and a set-up serves few steps: it must be cheap
    "ksp_norm_type": "natural",
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_P_max": 4,
    "pc_hypre_boomeramg_agg_nl": 1,
}


class Upper(NamedTuple):
    """cost >= W2^2 (+ 2 E), and what shows it.

    rho (n_patches, N), flux (n_inner, N + 1) : the density and the mass per time through each face
    residual : the largest |K| (rho^n - rho^{n-1})_K + tau_n sum +-Phi_s, relative to the mass
    eps : the share of the background
    rho1 (n_cells,), energy, terms : the density at the end; its energy E, if it has one (see
        `terminal`), and how large the terms are that it adds up
    """

    cost: float
    rho: np.ndarray
    flux: np.ndarray
    residual: float
    eps: float
    rho1: np.ndarray
    energy: float = 0.0
    terms: float = 0.0

    @property
    def action(self):
        """W2^2 of the path itself."""
        return self.cost - 2 * self.energy

    @property
    def scale(self):
        """What gaps are relative to: the action, or what the energy's round-off lets one see, if
        that is more.
        """
        return max(self.action, ROUND_OFF * self.terms / FINEST)


def _at_nodes(rho, nodes):
    """Means (n_patches, k) at some nodes of the densities (n_patches, N) of the slabs beside them."""
    n = np.arange(nodes.start, nodes.stop)
    return (rho[:, np.maximum(n - 1, 0)] + rho[:, np.minimum(n, rho.shape[1] - 1)]) / 2


class BestFlux:
    """The fluxes of least cost that go with a density, for one `Discretisation`."""

    def __init__(self, disc, rtol):
        mesh = disc.mesh
        n = disc.mesh.n_inner
        self.disc = disc
        self.rtol = rtol
        self._number = mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells))
        left, right = mesh.left[:n], mesh.right[:n]
        faces = np.concatenate(
            [np.flatnonzero(left < mesh.n_cells), np.flatnonzero(right < mesh.n_cells)]
        )
        sign = np.repeat([1.0, -1.0], [(left < mesh.n_cells).sum(), (right < mesh.n_cells).sum()])
        cells = np.where(sign > 0, left[faces], right[faces])
        self._divergence = sparse.csr_matrix((sign, (cells, faces)), (mesh.n_cells, n))
        beyond = self._number[np.where(sign > 0, right[faces], left[faces])]
        self._find_pattern(
            np.concatenate([cells, cells]), np.concatenate([self._number[cells], beyond]), faces
        )

    def _find_pattern(self, row, column, faces):
        """CSR pattern of the Laplacian with PETSc's columns, and the map from face weights to its
        entries.
        """
        n_global = self.disc.mesh.n_cells_global
        own = np.arange(self.disc.mesh.n_cells)
        row, column = (
            np.append(row, own),
            np.append(column, self._number[own]),
        )  # a cell without faces has a row, too
        key, entry = np.unique(row.astype(np.int64) * n_global + column, return_inverse=True)
        row, self._column = np.divmod(key, n_global)
        self._start = np.searchsorted(row, np.arange(self.disc.mesh.n_cells + 1))
        sign = np.repeat([1.0, -1.0], len(faces))
        self._entries = sparse.csr_matrix(
            (sign, (entry[: len(sign)], np.tile(faces, 2))), (len(key), self.disc.mesh.n_inner)
        )
        self._grounded = (self._column == self._number[row]) & self._first_cells()[row]

    def _first_cells(self):
        """(n_cells,) whether this is the first cell of a connected piece of the mesh."""
        disc = self.disc
        ranks = self.disc.mesh.ranks
        number = self._number[: self.disc.mesh.n_cells]
        first = np.full(disc.n_components, np.iinfo(np.int64).max)
        np.minimum.at(first, disc.spread(disc.component), number)
        return number == ranks.min(first)[disc.spread(disc.component)]

    @cached_property
    def _trees(self):
        return MobilityTrees(self.disc.mesh)

    def bound(self, rho, background, rho0, rho1, eps):
        """The `Upper` bound of (1 - eps) rho + eps background, (n_patches, N) both."""
        disc = self.disc
        mesh = self.disc.mesh
        tau = node_weights(self.disc.n_steps)
        rho = (1 - eps) * rho + eps * background
        flux = np.empty((mesh.n_inner, len(tau)))
        cost = 0.0
        left = 0.0
        at_once = int(max(1, AT_ONCE // mesh.ranks.max(mesh.n_cells)))
        for first in range(0, len(tau), at_once):
            part = slice(first, min(first + at_once, len(tau)))
            mobility = disc.mobility(_at_nodes(rho, part))
            loss = self._loss(rho, rho0, rho1, part)
            flux[:, part] = F = self._trees.conserve(
                self._solve(mobility, loss, tau[part]), mobility, loss / tau[part], self._divergence
            )
            left = max(left, np.abs(self._divergence @ F * tau[part] - loss).max(initial=0))
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # a piece of the mesh may have no mass at all
                mine = np.where(
                    F == 0,
                    0.0,
                    mesh.distance[: mesh.n_inner, None] ** 2 * F**2 / mobility * tau[part],
                )
            cost += mine[mesh.face_owned[: mesh.n_inner]].sum()
        return Upper(
            mesh.ranks.sum(cost), rho, flux, mesh.ranks.max(left) / mesh.integrate(rho0), eps, rho1
        )

    def _loss(self, rho, rho0, rho1, nodes):
        """What each cell loses (n_cells, k) at some nodes: |K| (rho^{n-1} - rho^n), with the data
        at both ends.
        """
        after = min(nodes.stop, rho.shape[1])
        path = self.disc.spread(rho[:, max(nodes.start - 1, 0) : after])
        parts = (
            [rho0[:, None]] * (nodes.start == 0)
            + [path]
            + [rho1[:, None]] * (nodes.stop > rho.shape[1])
        )
        return -self.disc.mesh.volume[:, None] * np.diff(np.concatenate(parts, axis=1))

    def _solve(self, mobility, loss, tau):
        """Fluxes (n_inner, k) that lose about *loss* (n_cells, k) in each cell in the times tau
        (k,), by Laplace equations.
        """
        mesh = self.disc.mesh
        weight = mobility / mesh.distance[: mesh.n_inner, None] ** 2
        method = linalg.method("cg", mesh.dim, mesh.ranks.size)
        method = replace(method, options=method.options | OPTIONS)
        system = linalg.System(
            mesh.ranks, self._matrix(weight * tau), method, prefix=PREFIX, rtol=self.rtol
        )
        psi = system(np.ascontiguousarray(loss).ravel()).reshape(loss.shape)
        system.destroy()
        psi[~np.isfinite(psi)] = 0.0  # a solve that fails makes the bound larger, not wrong
        return -weight * self.disc.gradient(psi) * mesh.distance[: mesh.n_inner, None]

    def _matrix(self, weight):
        """Laplacians with face weights (n_inner, k) as one matrix; row and column k K + i belong to
        cell K and block i.

        psi is 0 in the first cell of each piece: multigrid amplifies what is left to choose, until
        CG breaks down.
        """
        k = weight.shape[1]
        count = np.diff(self._start)
        block = np.arange(k)
        row = np.repeat(np.arange(len(count)), count)
        place = (self._start[row] * k + np.arange(len(row)) - self._start[row])[
            :, None
        ] + block * count[row, None]
        data = np.empty(place.size)
        index = np.empty(place.size, np.int64)
        value = self._entries @ weight
        value[self._grounded] = np.where(value[self._grounded] > 0, 2 * value[self._grounded], 1.0)
        data[place] = value
        index[place] = self._column[:, None] * k + block
        start = np.append((self._start[:-1, None] * k + block * count[:, None]).ravel(), place.size)
        return sparse.csr_matrix(
            (data, index, start), (len(count) * k, self.disc.mesh.n_cells_global * k)
        )


class MobilityTrees:
    """Spanning trees of largest mobility of a mesh that is dealt to ranks.

    One tree for each connected piece of a rank's own cells, and one of all pieces, whose edges are
    the faces of largest mobility between two pieces.
    """

    def __init__(self, mesh):
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
        pair = np.sort(ends, axis=0) * np.array([[self.n_pieces], [1]])
        self.pairs = np.unique(mesh.ranks.all_gather(pair.sum(axis=0)))
        self.between, self.pair = between, np.searchsorted(self.pairs, pair.sum(axis=0))
        self.sign = np.where(ends[0] < ends[1], 1.0, -1.0)
        self.key = (
            mesh.cell_id[left[between]].astype(np.int64) * mesh.n_cells_global
            + mesh.cell_id[right[between]]
        )

    def conserve(self, flux, mobility, loss, divergence):
        """The flux (n_inner, k), corrected so that divergence @ flux = loss (n_cells, k) but for
        round-off.

        mobility (n_inner, k); *loss* must add up to 0 in each connected piece of the mesh.
        """
        flux = flux.copy()
        if len(self.pairs):
            self._between_pieces(flux, mobility, loss - divergence @ flux)
        missing = np.ascontiguousarray((loss - divergence @ flux).T)
        correction = _along_trees(
            *self.ends, np.ascontiguousarray(mobility[self.inside].T), missing
        )
        flux[self.inside] += correction.T
        return flux

    def _between_pieces(self, flux, mobility, missing):
        ranks = self.mesh.ranks
        n_pairs = len(self.pairs)
        k = missing.shape[1]
        total = np.zeros((self.n_pieces, k))
        np.add.at(total, self.piece, missing)
        widest = np.zeros((n_pairs, k))
        np.maximum.at(widest, self.pair, mobility[self.between])
        widest = ranks.max(widest)
        first = np.full((n_pairs, k), np.iinfo(np.int64).max)
        key = np.where(mobility[self.between] == widest[self.pair], self.key[:, None], first[0, 0])
        np.minimum.at(first, self.pair, key)
        chosen = (
            ranks.min(first)[self.pair] == self.key[:, None]
        )  # one face for each pair, the same on both sides
        ends = np.divmod(self.pairs, self.n_pieces)
        through = _along_trees(
            *ends, np.ascontiguousarray(widest.T), np.ascontiguousarray(ranks.sum(total).T)
        ).T
        flux[self.between] += chosen * self.sign[:, None] * through[self.pair]


def _along_trees(left, right, mobility, missing):
    """Flux (k, n_edges) on trees of largest mobility (k, n_edges) whose divergence is *missing* (k,
    n), but in the roots.
    """
    flux = np.zeros(mobility.shape)
    for node in range(len(flux)):
        _to_root(np.argsort(-mobility[node], kind="stable"), left, right, missing[node], flux[node])
    return flux


@numba.njit(cache=True)
def _to_root(order, left, right, missing, flux):
    """Kruskal's spanning trees, taking the edges in that order; then from leaf to leaf what is
    missing there.

    A node keeps the number of its tree edges and the exclusive or of their numbers: at a leaf, that
    is the last one.
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
