"""The best flux on diamonds for a given density.

Mass flows from the cells to the nodes at their corners; on the simplices T of side s,

    F_c = M_s sum_d (sum_T |T| G_T^T G_T)_cd (psi_K - psi_d)

leaves cell K at corner c of the side. psi_K is eliminated; what is left for the nodes is solved for
(see `best_flux`). What is then missing is carried along the legs from cells to corners, each on the
one of its sides where that costs least.

    W2^2 <= sum_n tau_n sum_s F^T (sum_T |T| G_T^T G_T)^-1 F / M_s
"""

from __future__ import annotations

from functools import cached_property

import numba
import numpy as np

from ..finite_volume.corner_rates import NodeSystem, condense
from .best_flux import BestFlux, ground, stack_blocks
from .diamonds import DiamondDiscretisation
from .spanning_trees import SpanningTrees


class DiamondFlux(BestFlux):
    """The `BestFlux` (n_sides, width, k) from cells to the corners of their sides."""

    disc: DiamondDiscretisation

    def __init__(self, disc: DiamondDiscretisation, rtol: float):
        super().__init__(rtol)
        self.disc = disc
        corners = disc.corners
        zeros = np.zeros(corners.pair_start[-1])
        pattern = corners.assembly.matrix(zeros)
        self._start = pattern.indptr.astype(np.int64)
        self._column = pattern.indices.astype(np.int64)
        row = np.repeat(np.arange(corners.n_own), np.diff(self._start))
        self._is_diagonal = self._column == corners.first_row + row
        self._grounded = self._is_diagonal & self._find_first_nodes()[row]

    def _find_first_nodes(self):
        """(n_own,) whether this is the first node of a connected piece of the mesh."""
        disc = self.disc
        component = disc.point_component[disc.mesh.n_cells :]
        number = disc.corners.number[: disc.corners.n_own]
        first = np.full(disc.n_components, np.iinfo(np.int64).max)
        np.minimum.at(first, component, number)
        first = disc.mesh.ranks.min(first)
        return number == first[component]

    def _solve(self, mobility, loss, tau, growth):
        disc = self.disc
        corners = disc.corners
        k = len(tau)
        values = np.empty((len(self._column), k))
        given = np.empty((len(corners.node), k))
        ones = np.ones(corners.n_nodes)
        columns = []
        diagonals = []
        for i in range(k):
            matrix = corners.sum_sides(mobility[:, i] * tau[i])
            column = corners.sum_rows(matrix)
            diagonal = np.add.reduceat(column, corners.start[:-1])
            if growth is not None:
                diagonal = diagonal + growth[:, i]
            diagonal[diagonal <= 0] = np.inf  # nothing moves
            system = NodeSystem(corners, column, matrix, column)
            values[:, i] = corners.assembly.matrix(condense(system, 1.0, diagonal, ones, ones)).data
            given[:, i] = column * (loss[:, i] / diagonal)[corners.cell]
            columns.append(column)
            diagonals.append(diagonal)

        side = corners.sum_columns_at_nodes(given)
        if growth is None:
            ground(values, self._grounded)
        else:
            values[self._is_diagonal] += np.where(values[self._is_diagonal] > 0, 0.0, 1.0)
        stacked = stack_blocks(self._start, self._column, values, corners.n_global)
        psi = np.zeros((corners.n_nodes, k))
        psi[: corners.n_own] = self._solve_blocks(stacked, side)
        corners.exchange(psi.T)

        at_corners = np.stack(columns, axis=1) * psi[corners.node]
        of_cells = np.add.reduceat(at_corners, corners.start[:-1])
        of_cells = (loss + of_cells) / np.stack(diagonals, axis=1)
        flux = np.zeros((*corners.side_root.shape[:2], k))
        sides = corners.sides
        _fill_flux(
            sides.cell,
            corners.side_corner,
            corners.node,
            corners.side_root,
            mobility[sides.face],
            of_cells,
            psi,
            flux,
        )
        return flux

    def _leave(self, flux):
        corners = self.disc.corners
        legs = corners.sum_legs(flux)
        of_cells = np.add.reduceat(legs, corners.start[:-1])
        return np.concatenate([of_cells, corners.sum_columns_at_nodes(-legs)])

    # ---- what is missing -------------------------------------------------------------------------

    @cached_property
    def _trees(self):
        """The `SpanningTrees` of cells and nodes, whose edges are the legs.

        Foreign nodes are linked to their owners' own.
        """
        disc = self.disc
        corners = disc.corners
        n_cells = disc.mesh.n_cells
        ends = (corners.cell.astype(np.int64), n_cells + corners.node.astype(np.int64))
        trees = SpanningTrees(disc.mesh.ranks, n_cells + corners.n_nodes, ends)
        mine = trees.piece[n_cells + corners.n_own :]
        theirs = corners.exchange(trees.piece[n_cells:].copy())[corners.n_own :]
        trees.join_pieces(np.stack([mine, theirs]), corners.label[corners.n_own :])
        return trees

    @cached_property
    def _conductance(self):
        """1 / (sum_T |T| G_T^T G_T)^-1_cc (n_sides, width) of the legs, for the mobility 1."""
        corners = self.disc.corners
        conductance = np.zeros(corners.side_root.shape[:2])
        _find_conductances(corners.side_corner, corners.side_root, conductance)
        return conductance

    def _conserve(self, flux, mobility, loss):
        disc = self.disc
        corners = disc.corners
        trees = self._trees
        n_cells = disc.mesh.n_cells
        k = flux.shape[-1]
        best = np.zeros((len(corners.node), k))
        choice = np.zeros((len(corners.node), k), np.int64)
        _choose_sides(
            corners.side_corner, self._conductance, mobility[corners.sides.face], best, choice
        )

        left = self._leave(flux)
        if disc.growth is not None:
            return self._empty_nodes(flux, left[n_cells:], best, choice)

        missing = np.zeros((n_cells + corners.n_nodes, k))
        missing[:n_cells] = loss - left[:n_cells]
        missing[n_cells : n_cells + corners.n_own] = -left[n_cells:]
        if trees.has_links:
            widest = np.zeros((corners.n_nodes, k))
            np.maximum.at(widest, corners.node, best)
            foreign = slice(corners.n_own, None)
            through = trees.carry_between(widest[foreign], missing)
            moved = np.zeros((corners.n_nodes, k))
            moved[foreign] = through
            missing[n_cells + corners.n_own :] -= through
            moved = corners.exchange.add(moved.T).T
            missing[n_cells : n_cells + corners.n_own] += moved[: corners.n_own]

        carried = trees.carry_inside(best, missing)
        flux = flux.copy()
        _add_to_sides(corners.side_corner, choice, carried, flux)
        return flux

    def _empty_nodes(self, flux, left, best, choice):
        """The fluxes, corrected so that nothing stays at nodes, which *left* (n_own, k) leaves.

        It is led back to the cells around, in proportion to the conductance *best* of the legs.
        """
        corners = self.disc.corners
        k = flux.shape[-1]
        of_nodes = np.zeros((2, corners.n_nodes, k))
        of_nodes[0, : corners.n_own] = corners.sum_columns_at_nodes(best)
        of_nodes[1, : corners.n_own] = left
        for values in of_nodes:
            corners.exchange(values.T)
        total, excess = of_nodes[:, corners.node]
        share = np.divide(best, total, out=np.zeros_like(best), where=total > 0)
        flux = flux.copy()
        _add_to_sides(corners.side_corner, choice, share * excess, flux)
        return flux


# ---- kernels -------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _fill_flux(cell, side_corner, node, root, mobility, of_cells, of_nodes, flux):
    """flux = M_s R^T R (psi_K - psi_d) of all sides."""
    width = len(side_corner)
    k = of_cells.shape[1]
    slope = np.empty(k)
    for side in range(len(cell)):
        here = of_cells[cell[side]]
        for i in range(width):
            if side_corner[i, side] < 0:
                break
            slope[:] = 0.0
            for d in range(i, width):
                if side_corner[d, side] < 0:
                    break
                R = root[side, i, d]
                there = of_nodes[node[side_corner[d, side]]]
                for j in range(k):
                    slope[j] += R * (here[j] - there[j])
            for c in range(i, width):
                R = root[side, i, c]
                for j in range(k):
                    flux[side, c, j] += R * slope[j] * mobility[side, j]


@numba.njit(cache=True, error_model="numpy")
def _find_conductances(side_corner, root, conductance):
    """1 / |R^-T e_c|^2 of all corners of all sides."""
    width = len(side_corner)
    y = np.empty(width)
    for side in range(len(root)):
        for c in range(width):
            if side_corner[c, side] < 0:
                break
            total = 0.0
            for i in range(c, width):
                if side_corner[i, side] < 0:
                    break
                value = 1.0 if i == c else 0.0
                for m in range(c, i):
                    value -= root[side, m, i] * y[m]
                y[i] = value / root[side, i, i]
                total += y[i] ** 2
            conductance[side, c] = 1 / total


@numba.njit(cache=True, error_model="numpy")
def _choose_sides(side_corner, conductance, mobility, best, choice):
    """The largest conductance (n_corners, k) of each leg, and its side."""
    for c in range(len(side_corner)):
        for side in range(side_corner.shape[1]):
            corner = side_corner[c, side]
            if corner < 0:
                continue
            for j in range(best.shape[1]):
                value = conductance[side, c] * mobility[side, j]
                if value >= best[corner, j]:
                    best[corner, j] = value
                    choice[corner, j] = side


@numba.njit(cache=True, error_model="numpy")
def _add_to_sides(side_corner, choice, carried, flux):
    for c in range(len(side_corner)):
        for side in range(side_corner.shape[1]):
            corner = side_corner[c, side]
            if corner < 0:
                continue
            for j in range(carried.shape[1]):
                if choice[corner, j] == side:
                    flux[side, c, j] += carried[corner, j]
