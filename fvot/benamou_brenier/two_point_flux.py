"""The best two-point flux for a given density.

    Phi_s = -M_s / d_s^2 (psi_L - psi_K),      |K| (rho^n - rho^{n-1})_K + tau_n sum_s +-Phi_s = 0

with psi from a Laplace equation with the face weights M_s / d_s^2; see `best_flux`. All nodes are
solved at once, and dealt to ranks (`flux_multigrid`); PETSc solves where there are more ranks than
nodes, or where that does not converge.

    W2^2 <= 2 sum_n tau_n sum_s d_s^2 Phi_s^2 / (2 M_s)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from ..arguments.types import Array
from ..mesh import Mesh
from .best_flux import BestFlux, ground, stack_blocks
from .flux_multigrid import DealtFluxMultigrid
from .spanning_trees import SpanningTrees
from .two_point import TwoPointDiscretisation


class TwoPointFlux(BestFlux):
    """The `BestFlux` (n_inner, k) through the faces of a `TwoPointDiscretisation`."""

    disc: TwoPointDiscretisation

    def __init__(self, disc: TwoPointDiscretisation, rtol: float):
        super().__init__(rtol)
        self.disc = disc

    @cached_property
    def _number(self):
        """(n_local,) PETSc's numbers of the cells."""
        mesh = self.disc.mesh
        return mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells))

    @cached_property
    def _pattern(self):
        """The CSR pattern (start, column) of the Laplacian with PETSc's columns.

        Also the map from face weights to its entries, which entries are on the diagonal, and which
        are in the row of the first cell of a piece. A cell without faces has a row, too.
        """
        mesh = self.disc.mesh
        n = mesh.n_inner
        left = mesh.left[:n]
        right = mesh.right[:n]
        faces, sign = _list_own_sides(mesh)
        is_left = sign > 0
        cells = np.where(is_left, left[faces], right[faces])
        neighbours = np.where(is_left, right[faces], left[faces])

        own = np.arange(mesh.n_cells)
        row = np.concatenate([cells, cells, own])
        column = self._number[np.concatenate([cells, neighbours, own])]
        keys = row.astype(np.int64) * mesh.n_cells_global + column
        key, entry = np.unique(keys, return_inverse=True)
        row, column = np.divmod(key, mesh.n_cells_global)
        row_ends = np.arange(mesh.n_cells + 1)
        start = np.searchsorted(row, row_ends)

        sign = np.repeat([1.0, -1.0], len(faces))
        face_entry = entry[: len(sign)]
        places = (face_entry, np.tile(faces, 2))
        entries = sparse.csr_matrix((sign, places), (len(key), mesh.n_inner))

        is_diagonal = column == self._number[row]
        is_first = self._find_first_cells()
        return start, column, entries, is_diagonal, is_first[row]

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
    def _multigrid(self):
        return DealtFluxMultigrid(self.disc.mesh)

    @cached_property
    def _trees(self):
        return MobilityTrees(self.disc.mesh)

    def _conserve(self, flux, mobility, loss):
        if self.disc.growth is not None:
            return flux

        return self._trees.conserve(flux, mobility, loss)

    def _leave(self, flux):
        return self._trees.divergence @ flux

    def _solve(self, mobility, loss, tau, growth):
        mesh = self.disc.mesh
        distance = mesh.distance[: mesh.n_inner, None]
        weight = mobility / distance**2
        psi = self._find_potential(weight * tau, loss, growth)
        return -weight * self.disc.gradient(psi) * distance

    def _find_potential(self, weight, loss, growth):
        """psi (n_cells, k) of the Laplace equations with the weights (n_inner, k)."""
        mesh = self.disc.mesh
        if growth is None and mesh.ranks.size <= loss.shape[1]:
            psi, has_converged = self._multigrid(weight, loss, self.rtol)
            if has_converged:
                return psi

        start, column, entries, is_diagonal, is_first = self._pattern
        value = entries @ weight
        if growth is None:
            ground(value, is_diagonal & is_first)
        else:
            value[is_diagonal] += np.where(growth > 0, growth, 1.0)
        matrix = stack_blocks(start, column, value, mesh.n_cells_global)
        return self._solve_blocks(matrix, loss)


class MobilityTrees:
    """The `SpanningTrees` of largest mobility of the cells of a distributed mesh, by its faces."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        n = mesh.n_inner
        n_cells = mesh.n_cells
        left = mesh.left[:n]
        right = mesh.right[:n]
        faces, sign = _list_own_sides(mesh)
        cells = np.where(sign > 0, left[faces], right[faces])
        self.divergence = sparse.csr_matrix((sign, (cells, faces)), (n_cells, n))

        own = np.maximum(left, right) < n_cells
        self.inside = np.flatnonzero(own)
        self.trees = SpanningTrees(mesh.ranks, n_cells, (left[own], right[own]))

        number = mesh.with_ghosts(self.trees.piece)
        left_piece = number[left]
        right_piece = number[right]
        joins_two = left_piece != right_piece
        between = np.flatnonzero(~own & joins_two)
        self.between = between
        left_id = mesh.cell_id[left[between]].astype(np.int64)
        right_id = mesh.cell_id[right[between]]
        key = left_id * mesh.n_cells_global + right_id
        self.trees.join_pieces(np.stack([left_piece[between], right_piece[between]]), key)

    def conserve(self, flux: Array, mobility: Array, loss: Array) -> Array:
        """The flux (n_inner, k), corrected so that cells lose *loss* (n_cells, k).

        The equation then holds to round-off. mobility (n_inner, k); *loss* must add up to 0 in each
        connected piece of the mesh.
        """
        flux = flux.copy()
        trees = self.trees
        if trees.has_links:
            missing = loss - self.divergence @ flux
            flux[self.between] += trees.carry_between(mobility[self.between], missing)

        missing = loss - self.divergence @ flux
        flux[self.inside] += trees.carry_inside(mobility[self.inside], missing)
        return flux


def _list_own_sides(mesh):
    """(faces, sign) of the sides of inner faces that belong to own cells: first left ones, with
    sign 1, then right ones, with sign -1.
    """
    n = mesh.n_inner
    left_faces = np.flatnonzero(mesh.left[:n] < mesh.n_cells)
    right_faces = np.flatnonzero(mesh.right[:n] < mesh.n_cells)
    sign = np.repeat([1.0, -1.0], [len(left_faces), len(right_faces)])
    return np.concatenate([left_faces, right_faces]), sign
