"""Fluxes from cells to their corners, on any mesh and with any diffusion tensor.

With the matrices M of `corners`, phi = V / T, d_i = phi_i - phi_K, B(x) = x / (e^x - 1) and
l_i = log B(d_i), mass leaves cell K to its corner i at the rate

    F_i = sum_j C_ij (rho_K - e^(d_j) y_j),    C_ij = M_ij exp((l_i + l_j)/2 - (l_i - l_j)^2 / 8)

where y_j is the density at the corner's node. Nodes have no volume: what the cells around give to
one adds up to 0. On the diagonal this is the flux of Scharfetter and Gummel. The Gibbs density
e^(-phi), in cells and at nodes, has no fluxes. C is positive semidefinite, as the product of M with
a Gaussian kernel, entry by entry (Schur), so that the sum of |K| rho_K^2 / pi_K falls in implicit
steps of any length.

A drift that is not in phi crosses face s at the rate U_s, which the face's corners share:
U_i = sum over the faces of K at i of w_(s,i) U_(K,s), and

    F_i += U_i (rho_K + y_i) / 2 + e_i (rho_K - y_i),   e_i = M_ii max(|U_i| / (2 M_ii) - 1, 0)

Values of a density are z = (rho in the cells, y at the nodes): (n_cells + n_nodes,).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, BoolArray, IntArray
from .corners import MAX_CORNERS, Corners
from .rates import add_losses, find_losses

# Below this |x|, log(x / (e^x - 1)) is taken from its series, whose next term is x^4 / 2880.
BERNOULLI_SERIES_LIMIT = 1e-3


@dataclass(frozen=True)
class GivenNodes:
    """The nodes at which a density is given, and how the faces there share what leaves.

    nodes (n,) : local numbers of the nodes
    face, at (m,) : boundary faces, and the node of one of their corners
    share (m,) : the part of what leaves at the node that leaves through the face
    anywhere : whether any rank has such nodes
    """

    nodes: IntArray
    face: IntArray
    at: IntArray
    share: Array
    anywhere: bool


@dataclass(frozen=True)
class Exits:
    """Where a density at the boundary lets mass through, in proportion to its difference from the
    one outside.

    face, corner (m,) : boundary faces, and one of their corners
    rate (m,) : mass per time and difference of densities that crosses the corner's share of the
        face
    """

    face: IntArray
    corner: IntArray
    rate: Array


class CornerRates:
    """The fluxes between cells and their corners' nodes, see the module.

    corners : the `Corners` of the mesh
    alpha (n_corners,), gamma (n_pairs,) : F_i = alpha_i rho_K - sum_j gamma_ij y_j
    direct (n_corners,) : the part of alpha_i that is left where all other corners have no flux
    leaving_faces, entering_faces (n_faces - n_inner,) : the flux a rho_K - b g through each open
        boundary face; 0 elsewhere
    given : the nodes with a given density
    exits : the `Exits`; None where there are none
    minus_log_gibbs (n_cells,), phi_at_nodes (n_nodes,) : -log of the Gibbs density; None where
        there is none
    decay (n_cells,) : as of `Rates`; sources are the last n_cells of *entering*
    """

    def __init__(
        self,
        corners: Corners,
        M: Array,
        *,
        d: Array | None,
        U: Array | None,
        open_a: Array,
        open_b: Array,
        given: GivenNodes,
        exits: Exits | None = None,
        minus_log_gibbs: Array | None = None,
        phi_at_nodes: Array | None = None,
        decay: Array | None = None,
    ):
        """M (n_pairs,) : the matrices of all cells, which are overwritten; d (n_corners,) : the
        differences of phi; U (n_corners,) : what the drift carries to each corner.
        """
        mesh = corners.mesh
        self.corners = corners
        self.mesh = mesh
        self.given = given
        self.exits = exits
        self.open_a = open_a
        self.open_b = open_b
        self.has_open_faces = bool(open_a.any() or open_b.any())
        self.is_given = np.zeros(corners.n_nodes, bool)
        self.is_given[given.nodes] = True
        self.minus_log_gibbs = minus_log_gibbs
        self.phi_at_nodes = phi_at_nodes
        self.decay = decay
        n = len(corners.node)
        self.d = np.zeros(n) if d is None else d
        self.alpha = np.empty(n)
        self.direct = np.empty(n)
        self.gamma = M
        self.column = np.empty(n)
        drift = np.zeros(n) if U is None else U
        _weigh(
            corners.start,
            corners.pair_start,
            self.d,
            drift,
            self.gamma,
            self.alpha,
            self.direct,
            self.column,
        )
        total = np.add.reduceat(self.alpha, corners.start[:-1])
        boundary_cell = mesh.left[mesh.n_inner :]
        leaves = total + np.bincount(boundary_cell, open_a, mesh.n_cells)
        self.leaves = leaves if decay is None else leaves + decay

    @cached_property
    def takes(self) -> Array:
        """What the corners at each node (n_nodes,) would take from it alone, per density there.
        The first call is collective.
        """
        return self.corners.sum_at_nodes(self.gamma[self.corners.own_entry])

    @property
    def n_unknowns(self) -> int:
        """The number of unknowns of the linear systems, of all ranks."""
        return self.corners.n_global

    def leaving(self) -> Array:
        """The rates (n_cells,) at which cells are emptied."""
        return self.leaves / self.mesh.volume

    def crosses_boundary(self) -> bool:
        """Whether anything crosses the boundary. Collective."""
        crossing = (self.open_a + self.open_b).max(initial=0.0)
        if self.exits is not None:
            crossing = max(crossing, self.exits.rate.max(initial=0.0))
        return self.given.anywhere or self.mesh.ranks.max(crossing) > 0

    def steepness(self) -> float:
        """The median of |phi_i - phi_K|, averaged over the ranks."""
        own = np.array([np.median(np.abs(self.d)) if len(self.d) else 0.0, 1.0])
        total, count = self.mesh.ranks.sum(own)
        return total / count

    # ---- densities with their nodes --------------------------------------------------------------

    def extend(self, rho: Array) -> Array:
        """z (n_cells + n_nodes,) of a density rho (n_cells,), with a first guess at the nodes:
        the balance of what the cells give by their own corner alone, which the Gibbs density and,
        in a flow without sources, the uniform one keep. Collective.
        """
        corners = self.corners
        gives = np.zeros(corners.n_nodes)
        _give_to_nodes(corners.start, corners.node, self.direct, rho, gives)
        gives = corners.add(gives)
        y = np.divide(gives, self.takes, out=np.zeros_like(gives), where=self.takes > 0)
        return np.concatenate([rho, y])

    def give(self, z: Array, entering: Array) -> Array:
        """z with the given densities at the nodes that have one."""
        nodes = self.given.nodes
        if len(nodes) == 0:
            return z
        z = z.copy()
        z[self.mesh.n_cells + nodes] = entering[len(self.open_a) + nodes]
        return z

    def outflow(self, z: Array, entering: Array) -> tuple[Array, tuple[float, float]]:
        """(net outflow of the cells, and what the nodes get: (n_cells + n_nodes,), two sums).

        The sums are of the terms' sizes and of the fluxes' sizes, as of `Rates.outflow`. Of nodes
        of several ranks it is their owner that has what they get. Collective.
        """
        mesh = self.mesh
        corners = self.corners
        n = mesh.n_cells
        out = np.zeros(len(z))
        sizes = _outflow(
            corners.start,
            corners.pair_start,
            corners.node,
            self.alpha,
            self.gamma,
            z[:n],
            z[n:],
            out[:n],
            out[n:],
        )
        crossing = 0.0
        if self.has_open_faces:
            here = mesh.left[mesh.n_inner :]
            gives = self.open_a * z[here]
            gets = self.open_b * entering[: len(self.open_a)]
            out[:n] += np.bincount(here, gives - gets, n)
            crossing = gives.sum() + gets.sum()

        if self.exits is not None:
            leaving, size = self._leave_by_exits(z, entering)
            out[n:] -= np.bincount(corners.node[self.exits.corner], leaving, corners.n_nodes)
            crossing += size

        out[n:] = corners.exchange.add(out[n:])
        out[n + corners.n_own :] = 0.0
        sizes = sizes[0] + crossing, sizes[1] + crossing
        out[:n], sizes = add_losses(self.decay, z, entering, out[:n], sizes)
        return out, sizes

    def _leave_by_exits(self, z, entering):
        """(what leaves by each of the exits (m,), the sum of its terms' sizes)."""
        exits = self.exits
        at = self.mesh.n_cells + self.corners.node[exits.corner]
        gives = exits.rate * z[at]
        gets = exits.rate * entering[exits.face]
        return gives - gets, np.abs(gives).sum() + gets.sum()

    def keeps_gibbs(self) -> bool:
        """Whether the Gibbs density has no fluxes: always, where there is one."""
        return self.minus_log_gibbs is not None

    def dissipation(self, z: Array, entering: Array, xi: Array) -> float:
        """sum_K xi_K (what leaves cell K), for xi (n_cells,) where that is finite. Collective."""
        out, _ = self.outflow(z, entering)
        finite = np.isfinite(xi)
        return self.mesh.ranks.sum((xi[finite] * out[: self.mesh.n_cells][finite]).sum())

    def find_losses(self, z: Array, entering: Array) -> Array:
        """What each cell loses by itself, see `rates.find_losses`."""
        return find_losses(self.decay, z, entering)

    def boundary_flux(self, z: Array, entering: Array) -> Array:
        """What leaves through each boundary face (n_faces - n_inner,). Collective."""
        mesh = self.mesh
        n = mesh.n_cells
        n_boundary = len(self.open_a)
        flux = self.open_a * z[mesh.left[mesh.n_inner :]] - self.open_b * entering[:n_boundary]
        if self.exits is not None:
            leaving, _ = self._leave_by_exits(z, entering)
            flux += np.bincount(self.exits.face, leaving, n_boundary)
        given = self.given
        if not given.anywhere:
            return flux
        out, _ = self.outflow(z, entering)
        got = self.corners.exchange(out[n:])
        return flux + np.bincount(given.face, given.share * got[given.at], n_boundary)

    def current(self, z: Array, entering: Array) -> Array:
        """The mean (dim, n_cells) of the current in each cell: sum of F_i (x_i - x_K) over its
        corners, and of F_s (x_s - x_K) over its open faces, by volume.
        """
        mesh = self.mesh
        corners = self.corners
        n = mesh.n_cells
        F = np.empty(len(corners.node))
        _fill_fluxes(
            corners.start,
            corners.pair_start,
            corners.node,
            self.alpha,
            self.gamma,
            z[:n],
            z[n:],
            F,
        )
        moment = np.add.reduceat(corners.leg * F, corners.start[:-1], axis=1)
        here = mesh.left[mesh.n_inner :]
        crossing = self.open_a * z[here] - self.open_b * entering[: len(self.open_a)]
        offset = mesh.left_offset[:, mesh.n_inner :]
        for axis in range(mesh.dim):
            moment[axis] += np.bincount(here, crossing * offset[axis], n)
        return moment / mesh.volume


# ---- the linear system ------------------------------------------------------------------------


class NodeSystem(NamedTuple):
    """Fluxes F_i = alpha_i u_K - sum_j gamma_ij v_j of unknowns of cells and nodes, as `condense`
    needs them; `CornerRates` has the same attributes.

    column (n_corners,) : the sums of gamma's columns
    is_given (n_nodes,) : the nodes whose values are known; None for none
    """

    corners: Corners
    alpha: Array
    gamma: Array
    column: Array
    is_given: BoolArray | None = None


def condense(rates: Any, s: float, diagonal: Array, left: Array, right: Array) -> Array:
    """The entries (n_pairs,) of the matrix between the nodes that is left of |K| + s A when the
    cells are eliminated: left_i (s gamma_ij - s^2 alpha_i gamma_j / m_K) right_j.

    diagonal (n_cells,) : m_K = |K| + s (what leaves cell K); infinite where the cells are known
    left, right (n_nodes,) : scalings of rows and columns
    """
    corners = rates.corners
    values = np.empty(len(rates.gamma))
    none = np.zeros(corners.n_nodes, bool)
    is_given = none if rates.is_given is None else rates.is_given
    _condense(
        corners.start,
        corners.pair_start,
        rates.alpha,
        rates.gamma,
        rates.column,
        diagonal,
        s,
        left[corners.node],
        right[corners.node],
        is_given[corners.node],
        values,
    )
    return values


def eliminate(rates: Any, s: float, diagonal: Array, r: Array) -> Array:
    """This rank's part of what residuals r (n_cells,) become at the nodes (n_nodes,) when the cells
    are eliminated: sum_K s alpha_i r_K / m_K.
    """
    corners = rates.corners
    at_nodes = np.zeros(corners.n_nodes)
    _eliminate(corners.start, corners.node, rates.alpha, s, diagonal, r, at_nodes)
    return at_nodes


def substitute(rates: Any, s: float, diagonal: Array, r: Array, e: Array, change: Array) -> None:
    """Fill in the change (n_cells,) of the cells for residuals r of theirs and changes e (n_nodes,)
    of the nodes: (r_K + s sum_j gamma_j e_j) / m_K.
    """
    corners = rates.corners
    _substitute(corners.start, corners.node, rates.column, s, diagonal, r, e, change)


def find_node_diagonal(rates: Any, s: float, diagonal: Array) -> Array:
    """The diagonal (n_nodes,) of that matrix without scalings. Collective."""
    corners = rates.corners
    through = s * rates.alpha * (rates.column / diagonal[corners.cell])
    return corners.sum_at_nodes(s * (rates.gamma[corners.own_entry] - through))


# ---- kernels ----------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _log_bernoulli(x):
    """log(x / (e^x - 1))."""
    size = abs(x)
    if size < BERNOULLI_SERIES_LIMIT:
        return -x / 2 - x * x / 24
    return np.log(size / -np.expm1(-size)) - max(x, 0.0)


@numba.njit(cache=True, error_model="numpy")
def _weigh(start, pair_start, d, U, gamma, alpha, direct, column):
    """gamma: from M to what multiplies y; alpha: what multiplies rho, and direct: its part of the
    corner alone; column: the sums of gamma's columns.
    """
    for cell in range(len(start) - 1):
        first = start[cell]
        k = start[cell + 1] - first
        at = pair_start[cell]
        for j in range(k):
            column[first + j] = 0.0
        for i in range(k):
            log_i = _log_bernoulli(d[first + i])
            x = U[first + i]
            m = gamma[at + i * k + i]
            upwind = max(abs(x) / 2 - m, 0.0)
            leaving = x / 2 + upwind
            for j in range(k):
                log_j = _log_bernoulli(d[first + j])
                kernel = (log_i + log_j) / 2 - (log_i - log_j) ** 2 / 8
                M = gamma[at + i * k + j]
                leaving += M * np.exp(kernel)
                entering = M * np.exp(kernel + d[first + j])
                if i == j:
                    entering += upwind - x / 2
                gamma[at + i * k + j] = entering
                column[first + j] += entering
            alpha[first + i] = leaving
            direct[first + i] = m * np.exp(log_i) + x / 2 + upwind


@numba.njit(cache=True, error_model="numpy")
def _outflow(start, pair_start, node, alpha, gamma, rho, y, out, got):
    """Add what the corners take from the cells to *out*, and what the nodes get to *got*."""
    terms = 0.0
    fluxes = 0.0
    around = np.empty(MAX_CORNERS)
    for cell in range(len(rho)):
        first = numba.uintp(start[cell])
        k = numba.uintp(start[cell + 1]) - first
        entry = numba.uintp(pair_start[cell])
        for j in range(k):
            around[j] = y[node[first + j]]
        total = 0.0
        for i in range(k):
            gives = alpha[first + i] * rho[cell]
            gets = 0.0
            for j in range(k):
                gets += gamma[entry + j] * around[j]
            entry += k
            F = gives - gets
            total += F
            got[node[first + i]] += F
            terms += abs(gives) + abs(gets)
            fluxes += abs(F)
        out[cell] += total
    return terms, fluxes


@numba.njit(cache=True, error_model="numpy")
def _give_to_nodes(start, node, direct, rho, gives):
    for cell in range(len(rho)):
        for c in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            gives[node[c]] += direct[c] * rho[cell]


@numba.njit(cache=True, error_model="numpy")
def _eliminate(start, node, alpha, s, diagonal, r, at_nodes):
    for cell in range(len(r)):
        through = s * r[cell] / diagonal[cell]
        for c in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            at_nodes[node[c]] += alpha[c] * through


@numba.njit(cache=True, error_model="numpy")
def _substitute(start, node, column, s, diagonal, r, e, change):
    for cell in range(len(r)):
        back = 0.0
        for c in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            back += column[c] * e[node[c]]
        change[cell] = (r[cell] + s * back) / diagonal[cell]


@numba.njit(cache=True, error_model="numpy")
def _fill_fluxes(start, pair_start, node, alpha, gamma, rho, y, F):
    for cell in range(len(rho)):
        first = start[cell]
        k = start[cell + 1] - first
        at = pair_start[cell]
        for i in range(k):
            total = alpha[first + i] * rho[cell]
            for j in range(k):
                total -= gamma[at + i * k + j] * y[node[first + j]]
            F[first + i] = total


@numba.njit(cache=True, error_model="numpy")
def _condense(start, pair_start, alpha, gamma, column, diagonal, s, left, right, is_given, values):
    """values = left_i (s gamma_ij - s^2 alpha_i gamma_j / m_K) right_j; of nodes with a given
    density only the diagonal.
    """
    for cell in range(len(diagonal)):
        first = start[cell]
        k = start[cell + 1] - first
        at = pair_start[cell]
        factor = s / diagonal[cell]
        for i in range(k):
            through = alpha[first + i] * factor
            for j in range(k):
                direct = gamma[at + i * k + j] - through * column[first + j]
                is_kept = i == j or not (is_given[first + i] or is_given[first + j])
                scaled = left[first + i] * s * direct * right[first + j]
                values[at + i * k + j] = scaled if is_kept else 0.0
