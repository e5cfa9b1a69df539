"""Two-point fluxes as rates between cells: what flows, how fast cells are emptied, the matrix, the
Markov chain.

F_s = a_s rho_left - b_s rho_right with a, b >= 0 moves mass from left to right at the rate a_s /
|left| and back at b_s / |right|: finite volumes are a Markov chain, whose states are the cells.
"""

from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

from .stencil import Stencil


class Rates:
    """Two-point fluxes F_s = a_s rho_left - b_s rho_right, a, b (n_faces,) >= 0; a_s rho_left - b_s
    g_s at the boundary.

    gibbs (n_cells,) : -log of the Gibbs density; None where there is none
    """

    def __init__(self, pattern, a, b, gibbs=None):
        self.pattern = pattern
        self.mesh = pattern.mesh
        self.a = a
        self.b = b
        self.gibbs = gibbs

    def flux(self, rho, entering):
        """F (n_faces,), from left to right, for rho (n_cells,) and the boundary's densities g
        (n_faces - n_inner,).
        """
        mesh, F = self.mesh, np.empty(self.mesh.n_faces)
        _flux(
            mesh.with_ghosts(rho), self.a, self.b, entering, mesh.left, mesh.right, mesh.n_inner, F
        )
        return F

    def outflow(self, rho, entering):
        """(net outflow of each cell (n_cells,), two sums over the faces).

        The rounding of the outflows is relative to the first: |a rho_left| + |b rho_right|; that of
        their total, in which inner fluxes cancel, to the second: |F|, and |a rho_left| + |b g| on
        the boundary.
        """
        mesh = self.mesh
        out = np.zeros(self.mesh.n_local)
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
        return out[: mesh.n_cells], sizes

    def leaving(self):
        """The rates (n_cells,) at which cells are emptied: A_KK / |K|."""
        s = self.pattern.stencil
        out = np.empty(self.mesh.n_cells)
        _leaving(self.a, self.b, s.start, s.face, s.sign, out)
        return out / self.mesh.volume

    def steepness(self):
        """The median of |log(a/b)| over the inner faces: cell Peclet numbers."""
        n = self.mesh.n_inner
        with np.errstate(divide="ignore", invalid="ignore"):
            peclet = np.abs(np.log(self.a[:n] / self.b[:n]))
        mine = np.median(peclet[~np.isnan(peclet)]) if (~np.isnan(peclet)).any() else 0.0
        weight = self.mesh.ranks.sum(np.array([min(mine, 1e3) * n, n]))
        return weight[0] / max(weight[1], 1)

    def gathered(self):
        """On rank 0 the `Chain` of all cells in the file's numbering, which masses |K| rho_K
        follow; None elsewhere.
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        own = mesh.left[:n] < mesh.n_cells
        ends = mesh.cell_id[mesh.left[:n][own]], mesh.cell_id[mesh.right[:n][own]]
        faces = mesh.ranks.gather_to_root(np.stack([*ends, self.a[:n][own], self.b[:n][own]]))
        killed = np.bincount(mesh.left[n:], self.a[n:], mesh.n_cells)
        volume, killing = mesh.gather(np.stack([mesh.volume, killed / mesh.volume]))
        center = mesh.gather(mesh.center)
        if not mesh.ranks.is_root:
            return None
        left, right, a, b = np.concatenate(faces, axis=1)
        left, right = left.astype(np.int64), right.astype(np.int64)
        size = (mesh.n_cells_global,) * 2
        rates = sparse.csr_matrix(
            (
                np.concatenate([a / volume[left], b / volume[right]]),
                (np.concatenate([left, right]), np.concatenate([right, left])),
            ),
            size,
        )
        return Chain(rates, killing, center)

    def by_drift(self):
        """The cells (n_cells,) in the order of the drift: who gives before who gets, where there is
        no circle.
        """
        return downstream_order(self.a, self.b, self.mesh.n_inner, self.pattern.stencil)


class Chain(NamedTuple):
    """A Markov chain: rates (n, n) from row to column, the rates (n,) at which it ends, and where
    its states are (dim, n).
    """

    rates: sparse.csr_matrix
    killing: np.ndarray
    center: np.ndarray


class SparsityPattern:
    """Where the entries of A stand in a matrix of CSR rows: made once for a mesh."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.stencil = Stencil(mesh)

    def matrix(self, rates, s, order=None, scale=None, *, diagonal=None, transposed=False):
        """|K| + s A as this rank's rows (CSR, global columns); cells in the given order, columns
        times scale (n_cells,).

        diagonal (n_cells,) : takes the place of |K|; transposed: |K| + s A^T, where the boundary is
            closed
        """
        mesh = self.mesh
        t = self.stencil
        n = self.mesh.n_cells
        order = np.arange(n) if order is None else order
        position = np.empty(n, np.int64)
        position[order] = np.arange(n)
        number = mesh.with_ghosts(mesh.first_row + position)
        scale = np.ones(mesh.n_local) if scale is None else mesh.with_ghosts(scale)
        start = np.zeros(n + 1, np.int32)
        column = np.empty(len(t.face) + n, np.int32)
        value = np.empty(len(t.face) + n)
        diagonal = mesh.volume if diagonal is None else diagonal
        _fill(
            rates.a,
            rates.b,
            s,
            diagonal,
            mesh.n_inner,
            t.start,
            t.face,
            t.sign,
            t.neighbour,
            order,
            number,
            scale,
            transposed,
            start,
            column,
            value,
        )
        return sparse.csr_matrix(
            (value[: start[-1]], column[: start[-1]], start), (n, mesh.n_cells_global)
        )


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
def _leaving(a, b, start, face, sign, out):
    for cell in range(len(out)):
        total = 0.0
        for s in range(start[cell], start[cell + 1]):
            total += a[face[s]] if sign[s] > 0 else b[face[s]]
        out[cell] = total


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
    order,
    number,
    scale,
    transposed,
    first,
    column,
    value,
):
    """Rows in the given order, each with its columns sorted (by insertion: they are few) and equal
    ones added up.
    """
    end = 0
    for row in range(len(order)):
        cell = order[row]
        begin = end
        column[end] = number[cell]
        value[end] = diagonal[cell] * scale[cell]
        end += 1
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
            at = begin
            while column[at] != number[cell]:
                at += 1
            value[at] += step * leaves * scale[cell]
            if f >= n_inner:
                continue
            other = number[neighbour[s]]
            entry = -step * (leaves if transposed else enters) * scale[neighbour[s]]
            at = begin
            while at < end and column[at] < other:
                at += 1
            if at < end and column[at] == other:
                value[at] += entry
                continue
            for i in range(end, at, -1):
                column[i] = column[i - 1]
                value[i] = value[i - 1]
            column[at] = other
            value[at] = entry
            end += 1
        first[row + 1] = end


def downstream_order(a, b, n_inner, sides):
    """The cells (n_cells,) of a `Stencil`, those that give before those that get, for the fluxes a
    and b (n_faces,).
    """
    return _drift_order(a, b, n_inner, sides.start, sides.face, sides.sign, sides.neighbour)


@numba.njit(cache=True, error_model="numpy")
def _drift_order(a, b, n_inner, start, face, sign, neighbour):
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
