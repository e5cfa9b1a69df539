"""Two-point fluxes as rates between cells: the fluxes, how fast cells are emptied, the matrix, the
Markov chain.

F_s = a_s rho_left - b_s rho_right with a, b >= 0 moves mass from left to right at the rate a_s /
|left| and back at b_s / |right|: finite volumes are a Markov chain, whose states are the cells.

Growth and sources are one more face of each cell, which leads out of the mesh: decay takes
|K| k rho_K, k = -growth, and the source brings |K| s. All that holds for boundary faces holds for
these, as long as k >= 0: the matrix has an inverse >= 0, and mass changes by what crosses. What the
sources bring stands behind the densities at the boundary, in `entering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from .stencil import Stencil

if TYPE_CHECKING:
    from ..mesh import Mesh

# How far log(a / b) may be from the difference of the potential, relative to 1 and to that: fluxes
# of a user's own may not know the Gibbs density.
GIBBS_TOLERANCE = 1e-9

NOTHING = np.empty(0)

# The largest cell Peclet number that counts in means over the ranks.
MAX_PECLET = 1e3


class Rates:
    """Two-point fluxes F_s = a_s rho_left - b_s rho_right, a, b (n_faces,) >= 0; a_s rho_left - b_s
    g_s at the boundary.

    minus_log_gibbs (n_cells,) : -log of the Gibbs density of these fluxes; None where there is none
    decay (n_cells,) : |K| k, below 0 where mass grows; None where there are neither growth nor
        sources
    entering (n_faces - n_inner [+ n_cells],) : in all methods: g, then |K| s unless decay is None
    """

    def __init__(
        self,
        pattern: SparsityPattern,
        a: Array,
        b: Array,
        minus_log_gibbs: Array | None = None,
        decay: Array | None = None,
    ):
        self.pattern = pattern
        self.mesh = pattern.mesh
        self.a = a
        self.b = b
        self.minus_log_gibbs = minus_log_gibbs
        self.decay = decay

    @property
    def n_unknowns(self) -> int:
        """The number of unknowns of the linear systems, of all ranks."""
        return self.mesh.n_cells_global

    def crosses_boundary(self) -> bool:
        """Whether anything crosses the boundary. Collective."""
        crossing = (self.a + self.b)[self.mesh.n_inner :]
        return self.mesh.ranks.max(crossing.max(initial=0.0)) > 0

    def extend(self, rho: Array) -> Array:
        """The values from which fluxes follow: rho (n_cells,) itself."""
        return rho

    def keeps_gibbs(self) -> bool:
        """Whether the Gibbs density has no fluxes between cells, to round-off. Collective."""
        if self.minus_log_gibbs is None:
            return False
        mesh = self.mesh
        n = mesh.n_inner
        local = mesh.with_ghosts(self.minus_log_gibbs)
        difference = local[mesh.right[:n]] - local[mesh.left[:n]]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_ratio = np.log(self.a[:n] / self.b[:n])
            defect = np.abs(log_ratio + difference) / (1 + np.abs(difference))
        return mesh.ranks.max(defect[np.isfinite(defect)].max(initial=0.0)) <= GIBBS_TOLERANCE

    def dissipation(
        self, rho: Array, entering: Array, xi: Array, added: Array | float = 0.0
    ) -> float:
        """sum_s F_s (xi_left - xi_right) over the inner faces, for xi (n_cells,). Collective.

        added (n_faces,) : what is added to the fluxes
        """
        mesh = self.mesh
        n = mesh.n_inner
        local = mesh.with_ghosts(xi)
        difference = local[mesh.left[:n]] - local[mesh.right[:n]]
        flux = self.flux(rho, entering) + added
        dissipated = flux[:n] * difference
        return mesh.ranks.sum(np.nansum(dissipated[mesh.face_owned[:n]]))

    def boundary_flux(self, rho: Array, entering: Array) -> Array:
        """What leaves through each boundary face (n_faces - n_inner,)."""
        return self.flux(rho, entering)[self.mesh.n_inner :]

    def find_losses(self, rho: Array, entering: Array) -> Array:
        """What each cell loses by itself, see the function `find_losses`."""
        return find_losses(self.decay, rho, entering)

    def flux(self, rho: Array, entering: Array) -> Array:
        """F (n_faces,), from left to right, for rho (n_cells,)."""
        mesh = self.mesh
        F = np.empty(mesh.n_faces)
        _flux(
            mesh.with_ghosts(rho), self.a, self.b, entering, mesh.left, mesh.right, mesh.n_inner, F
        )
        return F

    def outflow(self, rho: Array, entering: Array) -> tuple[Array, tuple[float, float]]:
        """(net outflow of each cell (n_cells,), two sums over the faces).

        The rounding of the outflows is relative to the first sum, of |a rho_left| + |b rho_right|.
        That of their total, in which inner fluxes cancel, is relative to the second, of |F|, and of
        |a rho_left| + |b g| on the boundary.
        """
        mesh = self.mesh
        out = np.zeros(mesh.n_local)
        sizes = _outflow(
            mesh.with_ghosts(rho),
            self.a,
            self.b,
            entering,
            mesh.left,
            mesh.right,
            mesh.n_inner,
            out,
        )
        return add_losses(self.decay, rho, entering, out[: mesh.n_cells], sizes)

    def transposed_outflow(self, f: Array) -> tuple[Array, Array]:
        """((A^T f)_K = sum over the faces of K of a_KL (f_K - f_L), and a_K f_K where K leads out
        of the mesh, the same sum of sizes), all (n_cells,), for any f (n_cells,). Collective.

        a_KL is the coefficient of what leaves K for L. The rounding is relative to the sizes. A
        constant f gives 0 to the bit where nothing leaves the mesh.
        """
        mesh = self.mesh
        sides = self.pattern.stencil
        out = np.empty(mesh.n_cells)
        sizes = np.empty(mesh.n_cells)
        decay = np.zeros(mesh.n_cells) if self.decay is None else self.decay
        _transposed_outflow(
            mesh.with_ghosts(f),
            self.a,
            self.b,
            decay,
            mesh.n_inner,
            sides.start,
            sides.face,
            sides.sign,
            sides.neighbour,
            out,
            sizes,
        )
        return out, sizes

    def leaving(self) -> Array:
        """The rates (n_cells,) at which cells are emptied: A_KK / |K|."""
        sides = self.pattern.stencil
        out = np.empty(self.mesh.n_cells)
        _leaving(self.a, self.b, sides.start, sides.face, sides.sign, out)
        if self.decay is not None:
            out += self.decay
        return out / self.mesh.volume

    def steepness(self) -> float:
        """The median cell Peclet number |log(a/b)| of the inner faces, averaged over the ranks."""
        n = self.mesh.n_inner
        with np.errstate(divide="ignore", invalid="ignore"):
            peclet = np.abs(np.log(self.a[:n] / self.b[:n]))
        known = peclet[~np.isnan(peclet)]
        median = np.median(known) if len(known) else 0.0
        bounded = min(median, MAX_PECLET)
        own_sums = np.array([bounded * n, n])
        total, count = self.mesh.ranks.sum(own_sums)
        return total / max(count, 1)

    def gather_chain(self, exits: Sequence[IntArray] = ()) -> Chain | None:
        """On rank 0 the `Chain` that the masses |K| rho_K of all cells, in the file's numbering,
        follow; None elsewhere. Collective.

        exits : lists of boundary faces. What leaves through those of a list does not end there, but
            in one more state, which is never left: the first one has the number n_cells_global
        """
        mesh = self.mesh
        n = mesh.n_inner
        own = np.flatnonzero(mesh.left[:n] < mesh.n_cells)
        left = mesh.cell_id[mesh.left[own]]
        right = mesh.cell_id[mesh.right[own]]
        own_faces = np.stack([left, right, self.a[own], self.b[own]])
        faces = mesh.ranks.gather_to_root(own_faces)

        target = np.zeros(mesh.n_faces - n, np.int64)
        for number, members in enumerate(exits, start=1):
            target[members - n] = number
        leaving = np.zeros((1 + len(exits), mesh.n_cells))
        np.add.at(leaving, (target, mesh.left[n:]), self.a[n:])
        if self.decay is not None:
            leaving[0] += self.decay
        own_cells = np.concatenate([mesh.volume[None], leaving / mesh.volume])
        volume, killing, *exit_rates = mesh.gather(own_cells)
        center = mesh.gather(mesh.center)
        if faces is None:
            return None

        left, right, a, b = np.concatenate(faces, axis=1)
        left = left.astype(np.int64)
        right = right.astype(np.int64)
        n_cells = mesh.n_cells_global
        cells = np.arange(n_cells)
        values = np.concatenate([a / volume[left], b / volume[right], *exit_rates])
        rows = np.concatenate([left, right, *[cells for _ in exits]])
        outside = [np.full(n_cells, n_cells + i) for i in range(len(exits))]
        columns = np.concatenate([right, left, *outside])
        n_states = n_cells + len(exits)
        rates = sparse.csr_matrix((values, (rows, columns)), (n_states, n_states))
        killing = np.append(killing, np.zeros(len(exits)))
        center = np.append(center, np.repeat(center[:, :1], len(exits), axis=1), axis=1)
        return Chain(rates, killing, center)

    def order_by_drift(self) -> IntArray:
        """The cells (n_cells,) in the order of the drift: the giver before the receiver, where
        there is no cycle.
        """
        return downstream_order(self.a, self.b, self.mesh.n_inner, self.pattern.stencil)


def find_losses(decay: Array | None, rho: Array, entering: Array) -> Array:
    """What cells lose by themselves: by decay (n_cells,), then minus what their sources bring
    (n_cells,); nothing (0,) where there are neither growth nor sources.
    """
    if decay is None:
        return NOTHING
    n = len(decay)
    killed = decay * rho[:n]
    return np.concatenate([killed, -entering[len(entering) - n :]])


def add_losses(
    decay: Array | None, rho: Array, entering: Array, out: Array, sizes: tuple[float, float]
) -> tuple[Array, tuple[float, float]]:
    """The outflow of cells out (n_cells,), and its two sums, with what `find_losses` says."""
    if decay is None:
        return out, sizes
    losses = find_losses(decay, rho, entering)
    size = np.abs(losses).sum()
    return out + losses.reshape(2, -1).sum(axis=0), (sizes[0] + size, sizes[1] + size)


class Chain(NamedTuple):
    """A Markov chain.

    rates (n, n) : from row to column
    killing (n,) : the rates at which it ends
    center (dim, n) : the places of its states
    """

    rates: sparse.csr_matrix
    killing: Array
    center: Array


class Places(NamedTuple):
    """The places of the entries of A in a matrix of CSR rows, for cells in one order.

    order : of the rows and columns; None for that of the cells
    start (n_cells + 1,), column (n_entries,) : the rows' starts, and global columns
    of_cell (n_cells,) : where the diagonal entry of each cell is
    of_side (n_sides,) : where the entry of a cell and its neighbour is; of no meaning at walls
    """

    order: IntArray | None
    start: IntArray
    column: IntArray
    of_cell: IntArray
    of_side: IntArray


class SparsityPattern:
    """Matrices of CSR rows with the entries of A; their places are kept until others are asked
    for.
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.stencil = Stencil(mesh)
        self._places: Places | None = None

    def matrix(
        self,
        rates: Rates,
        s: float,
        order: IntArray | None = None,
        scale: Array | None = None,
        *,
        diagonal: Array | None = None,
        transposed: bool = False,
    ) -> sparse.csr_matrix:
        """|K| + s A as this rank's rows (CSR, global columns); cells in the given order, columns
        times scale (n_cells,). Collective.

        order : the same array as in the last call keeps the places of entries; None does so, too
        diagonal (n_cells,) : takes the place of |K|; transposed: |K| + s A^T
        """
        mesh = self.mesh
        sides = self.stencil
        n = mesh.n_cells
        diagonal = mesh.volume if diagonal is None else diagonal
        if rates.decay is not None:
            diagonal = diagonal + s * rates.decay
        scale = np.ones(mesh.n_local) if scale is None else mesh.with_ghosts(scale)

        if self._places is None or order is not self._places.order:
            self._places = self._find_places(order)
        places = self._places
        value = np.zeros(len(places.column))
        _fill(
            rates.a,
            rates.b,
            s,
            diagonal,
            mesh.n_inner,
            sides.start,
            sides.face,
            sides.sign,
            sides.neighbour,
            scale,
            transposed,
            places.of_cell,
            places.of_side,
            value,
        )
        shape = (n, mesh.n_cells_global)
        return sparse.csr_matrix((value, places.column, places.start), shape)

    def _find_places(self, given_order):
        mesh = self.mesh
        sides = self.stencil
        n = mesh.n_cells
        order = np.arange(n) if given_order is None else given_order
        position = np.empty(n, np.int64)
        position[order] = np.arange(n)
        number = mesh.with_ghosts(mesh.first_row + position)

        start = np.zeros(n + 1, np.int32)
        column = np.empty(len(sides.face) + n, np.int32)
        of_cell = np.empty(n, np.int32)
        of_side = np.zeros(len(sides.face), np.int32)
        _find_places(
            mesh.n_inner,
            sides.start,
            sides.face,
            sides.neighbour,
            order,
            number,
            start,
            column,
            of_cell,
            of_side,
        )
        return Places(given_order, start, column[: start[-1]].copy(), of_cell, of_side)


@numba.njit(cache=True, error_model="numpy")
def _flux(rho, a, b, entering, left, right, n_inner, F):
    for f in range(n_inner):
        F[f] = a[f] * rho[left[f]] - b[f] * rho[right[f]]
    for f in range(n_inner, len(F)):
        F[f] = a[f] * rho[left[f]] - b[f] * entering[f - n_inner]


@numba.njit(cache=True, error_model="numpy")
def _outflow(rho, a, b, entering, left, right, n_inner, out):
    terms = 0.0
    fluxes = 0.0
    for f in range(n_inner):
        gives = a[f] * rho[left[f]]
        gets = b[f] * rho[right[f]]
        F = gives - gets
        out[left[f]] += F
        out[right[f]] -= F
        terms += abs(gives) + abs(gets)
        fluxes += abs(F)
    for f in range(n_inner, len(a)):
        gives = a[f] * rho[left[f]]
        gets = b[f] * entering[f - n_inner]
        F = gives - gets
        out[left[f]] += F
        terms += abs(gives) + abs(gets)
        fluxes += abs(gives) + abs(gets)
    return terms, fluxes


@numba.njit(cache=True, error_model="numpy")
def _transposed_outflow(f, a, b, decay, n_inner, start, face, sign, neighbour, out, sizes):
    for cell in range(len(out)):
        total = decay[cell] * f[cell]
        size = abs(total)
        for s in range(start[cell], start[cell + 1]):
            leaves = a[face[s]] if sign[s] > 0 else b[face[s]]
            there = f[neighbour[s]] if face[s] < n_inner else 0.0
            total += leaves * (f[cell] - there)
            size += leaves * (abs(f[cell]) + abs(there))
        out[cell] = total
        sizes[cell] = size


@numba.njit(cache=True, error_model="numpy")
def _leaving(a, b, start, face, sign, out):
    for cell in range(len(out)):
        total = 0.0
        for s in range(start[cell], start[cell + 1]):
            total += a[face[s]] if sign[s] > 0 else b[face[s]]
        out[cell] = total


@numba.njit(cache=True, error_model="numpy")
def _find_places(n_inner, start, face, neighbour, order, number, first, column, of_cell, of_side):
    """Rows in the given order, each with its columns sorted (by insertion: they are few) and equal
    ones in one place.
    """
    end = 0
    for row in range(len(order)):
        cell = order[row]
        begin = end
        column[end] = number[cell]
        end += 1
        for s in range(start[cell], start[cell + 1]):
            if face[s] >= n_inner:
                continue
            other = number[neighbour[s]]
            at = begin
            while at < end and column[at] < other:
                at += 1
            if at < end and column[at] == other:
                continue
            for i in range(end, at, -1):
                column[i] = column[i - 1]
            column[at] = other
            end += 1

        at = begin
        while column[at] != number[cell]:
            at += 1
        of_cell[cell] = at
        for s in range(start[cell], start[cell + 1]):
            if face[s] >= n_inner:
                continue
            other = number[neighbour[s]]
            at = begin
            while column[at] != other:
                at += 1
            of_side[s] = at
        first[row + 1] = end


@numba.njit(cache=True, error_model="numpy")
def _fill(
    a,
    b,
    step,
    diagonal,
    n_inner,
    start,
    face,
    sign,
    neighbour,
    scale,
    transposed,
    of_cell,
    of_side,
    value,
):
    """Add up the values in their places."""
    for cell in range(len(of_cell)):
        own = diagonal[cell] * scale[cell]
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            own += step * leaves * scale[cell]
            if f < n_inner:
                passed = leaves if transposed else enters
                value[of_side[s]] += -step * passed * scale[neighbour[s]]
        value[of_cell[cell]] += own


def downstream_order(a: Array, b: Array, n_inner: int, sides: Stencil) -> IntArray:
    """The cells (n_cells,) of a `Stencil`, givers before receivers, for the fluxes a and b
    (n_faces,).
    """
    return _sort_downstream(a, b, n_inner, sides.start, sides.face, sides.sign, sides.neighbour)


@numba.njit(cache=True, error_model="numpy")
def _sort_downstream(a, b, n_inner, start, face, sign, neighbour):
    """Reversed postorder of a depth-first walk along the faces through which more leaves than
    enters.
    """
    n = len(start) - 1
    order = np.empty(n, np.int64)
    at = n
    visited = np.zeros(n, np.bool_)
    side = start[:-1].copy()
    stack = np.empty(n, np.int64)
    for root in range(n - 1, -1, -1):
        if visited[root]:
            continue
        visited[root] = True
        stack[0] = root
        depth = 1
        while depth > 0:
            cell = stack[depth - 1]
            s = side[cell]
            if s == start[cell + 1]:
                at -= 1
                order[at] = cell
                depth -= 1
                continue
            side[cell] += 1
            f = face[s]
            other = neighbour[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            if f < n_inner and other < n and leaves > enters and not visited[other]:
                visited[other] = True
                stack[depth] = other
                depth += 1
    return order
