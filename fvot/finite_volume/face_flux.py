"""Face fluxes: potential flow, and the conservative correction along a spanning tree."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components

from .. import linalg
from ..arguments.functions import as_floats, call_function
from ..arguments.types import Array, Coefficient
from ..errors import ConvergenceError, InputError
from ..mesh import quality
from ..mesh.cell_values import describe_wanted_shape, spread_over_regions
from ..mesh.connected_pieces import find_connected_pieces
from .boundary import check_disjoint

if TYPE_CHECKING:
    from ..mesh import Mesh

POTENTIAL_FLOW_PREFIX = "fvot_potential_flow_"

# Relative tolerance of the Laplace solve; the spanning tree removes the rest of the divergence.
LAPLACE_TOLERANCE = 1e-12

# The part of the divergence that a further solve may leave, if another one is to follow; and that
# all of them together may leave.
MAX_LEFT_BY_SOLVE = 0.5
ACCEPTED_DIVERGENCE = 1e-10

# A further solve aims at this part of the tolerance: conjugate gradients that are asked for digits
# below the rounding of the fluxes grow again, and are lost.
MARGIN_OF_FURTHER_SOLVES = 0.01

# How far the rates may be from adding up to 0, relative to the largest: they are rounded.
RATE_BALANCE_TOLERANCE = 1e-10


def potential_flow(
    mesh: Mesh,
    rates: Mapping[str, float],
    *,
    conductivity: Coefficient = 1.0,
) -> Array:
    """Face fluxes U (n_faces,) of the flow v = -K grad p, div v = 0, that enters and leaves through
    named boundaries: potential flow, or Darcy's in heterogeneous ground.

    Collective.

    Parameters
    ----------
    mesh
        The `Mesh`.
    rates
        {name: volume per time that enters through it}, negative where it leaves; spread evenly over
        the part's faces. They must add up to 0 on each connected piece of the mesh. Boundaries
        without a name are walls.
    conductivity
        K above 0: a number, a function of x, cell values (n_cells,), or {region: number}. Faces
        take the harmonic mean of their cells. One number for all does not change the flow.

    Returns
    -------
    U
        (n_faces,) fluxes from left to right, for ``ContinuityEquation(mesh, face_flux=U)`` and
        ``FokkerPlanck(mesh, face_flux=U, diffusion=...)``.

    Raises
    ------
    InputError
        For unknown names, rates that do not add up to 0, or a conductivity that is not above 0.
    ConvergenceError
        If the solve fails.

    Notes
    -----
    A two-point Laplace solve. The remaining divergence is removed along a spanning tree, so the
    fluxes of each cell add up to 0 to round-off for any tolerance of the solve.

    Examples
    --------
    >>> import numpy as np
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (2, 1), (8, 4))
    >>> U = fvot.potential_flow(mesh, {"left": 1.0, "right": -1.0})
    >>> bool(np.abs(mesh.divergence(U)).max() < 1e-12)
    True
    """
    quality.use_two_point(mesh, "potential_flow", "")
    K = _read_conductivity(mesh, conductivity)
    U = _spread_rates(mesh, rates)
    _check_balance(mesh, -mesh.divergence(U) * mesh.volume, rates)
    return conserve(mesh, _subtract_gradients(mesh, U, K), np.zeros(mesh.n_cells))


def _subtract_gradients(mesh, U, K):
    """U - K |s| grad p, with divergence 0 to the tolerance.

    The pressure is a sum of parts, each for the divergence that those before have left. Where K has
    a contrast of 1e12 it spans twelve digits, and its rounding hides the flow where K is large; but
    the flux of each part is that of its rounded values: the sum stays a gradient, and what the
    rounding of one part has left is taken away by the next one.
    """
    n = mesh.n_inner
    ranks = mesh.ranks
    method = linalg.find_method("cg", 2, ranks.size)
    system = linalg.System(
        ranks,
        _build_pressure_matrix(mesh, K),
        method,
        prefix=POTENTIAL_FLOW_PREFIX,
        rtol=LAPLACE_TOLERANCE,
        singular=True,
    )
    weight = K * mesh.area[:n]
    source, left = _find_source(mesh, U)
    whole = left
    while left > LAPLACE_TOLERANCE * whole:
        aim = max(1.0, MARGIN_OF_FURTHER_SOLVES * whole / left) * LAPLACE_TOLERANCE
        corrected = U.copy()
        corrected[:n] -= weight * mesh.gradient(system(source, aim))[:n]
        source, still_left = _find_source(mesh, corrected)
        if not still_left <= MAX_LEFT_BY_SOLVE * left:
            break
        U = corrected
        left = still_left

    if left > ACCEPTED_DIVERGENCE * whole:
        contrast = ranks.max(K.max(initial=0.0)) / ranks.min(K.min(initial=np.inf))
        raise ConvergenceError(
            f"potential_flow stopped with {left / whole:.1e} of the divergence left, after "
            f"{system.iterations} iterations: conductivity has a contrast of {contrast:.1e}. Try "
            f"-{POTENTIAL_FLOW_PREFIX}pc_type lu, or raise the lowest conductivity: below 1e-9 of "
            "the largest it hardly changes the flow"
        )
    return U


def _find_source(mesh, U):
    """(minus the divergence of U, times |K| (n_cells,), the sum of its sizes)."""
    source = -mesh.divergence(U) * mesh.volume
    return source, mesh.ranks.sum(np.abs(source).sum())


def _read_conductivity(mesh, conductivity):
    """K of the inner faces (n_inner,): the harmonic mean of both cells, by their distances."""
    conductivity = spread_over_regions(mesh, conductivity, "conductivity")
    with mesh.ranks.raising_together():
        if callable(conductivity):
            conductivity = call_function(conductivity, "conductivity", mesh.centroid)
        K = as_floats(
            conductivity, "conductivity must be a number, a function of x, cell values or a dict"
        )
        if K.shape not in ((), (mesh.n_cells,)):
            raise InputError(
                f"conductivity has shape {K.shape}; it must be a number, or "
                f"{describe_wanted_shape(mesh, K.shape)}"
            )
        if not (np.isfinite(K) & (K > 0)).all():
            raise InputError(f"conductivity is {K.min()} somewhere: it must be above 0 everywhere")

    n = mesh.n_inner
    if not K.ndim:
        return np.ones(n)

    local = mesh.with_ghosts(K)
    left = mesh.left_distance[:n] / local[mesh.left[:n]]
    right = mesh.right_distance[:n] / local[mesh.right[:n]]
    return mesh.distance[:n] / (left + right)


def _spread_rates(mesh, rates):
    """Fluxes (n_faces,) of the rates through the boundary, 0 inside."""
    if not isinstance(rates, Mapping):
        raise InputError(
            "rates must be a dict {name: volume per time that enters}, such as "
            f"{{'inlet': 1.0, 'outlet': -1.0}}, not {rates!r:.80}"
        )
    check_disjoint(mesh, rates)
    U = np.zeros(mesh.n_faces)
    for name, rate in rates.items():
        faces = mesh.boundary[name]
        if not isinstance(rate, Real) or not np.isfinite(rate):
            raise InputError(
                f"the rate at boundary {name!r} must be a finite number (volume per time that "
                f"enters), not {rate!r}"
            )
        area = mesh.ranks.sum(mesh.area[faces].sum())
        U[faces] = -rate * mesh.area[faces] / area
    return U


def _check_balance(mesh, source, rates):
    piece, n_pieces = find_connected_pieces(mesh)
    total = mesh.ranks.sum(np.bincount(piece, source, n_pieces))
    scale = max([abs(rate) for rate in rates.values()], default=0.0)
    worst = int(np.abs(total).argmax())
    if abs(total[worst]) > RATE_BALANCE_TOLERANCE * scale:
        place = "" if n_pieces == 1 else f" on one of the mesh's {n_pieces} connected pieces"
        raise InputError(
            f"the rates add up to {total[worst]:.6g}{place}: what enters must leave; give rates "
            "that add up to 0"
        )


def _build_pressure_matrix(mesh, K):
    """The Laplacian with the weights K_s |s| / d_s, columns numbered as PETSc does."""
    n = mesh.n_inner
    local = build_laplacian(mesh, K * mesh.area[:n] / mesh.distance[:n])
    number = mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells))
    parts = (local.data, number[local.indices], local.indptr)
    matrix = sparse.csr_matrix(parts, (mesh.n_cells, mesh.n_cells_global))
    matrix.sort_indices()
    return matrix


def build_laplacian(mesh: Mesh, t: Array) -> sparse.csr_matrix:
    """This rank's rows (CSR, n_cells x n_local) of the matrix of sum_s t_s (u_K - u_L).

    t (n_inner,) : the weights of the inner faces
    """
    left = mesh.left[: mesh.n_inner]
    right = mesh.right[: mesh.n_inner]
    rows = np.concatenate([left, left, right, right])
    columns = np.concatenate([left, right, right, left])
    values = np.concatenate([t, -t, t, -t])
    own = rows < mesh.n_cells
    places = (rows[own], columns[own])
    return sparse.csr_matrix((values[own], places), (mesh.n_cells, mesh.n_local))


# ---- conservation along spanning trees -----------------------------------------------------------


def conserve(mesh: Mesh, U: Array, divergence: Array) -> Array:
    """Face fluxes near U (n_faces,) whose sum over the faces of each cell is *divergence*
    (n_cells,), to round-off. Collective.

    The defect of a cell is sent to its parent in a spanning tree, from the leaves to the root.
    Boundary fluxes stay. The total defect of a connected piece of the mesh must be 0 but for
    round-off, which the root keeps.
    """
    forest = _Forest(mesh)
    U = U.copy()
    forest.send_between_pieces(U, divergence - mesh.divergence(U) * mesh.volume)
    forest.send_within_pieces(U, divergence - mesh.divergence(U) * mesh.volume)
    return U


class _Forest:
    """Spanning trees of a mesh that is distributed over ranks: one for each connected piece of a
    rank, and one of all the pieces.

    piece (n_cells,) : global number of the piece of each cell
    order, parent, edge : cells with parents before children; the parent of each cell (-1: a root),
        and the face to it
    bridges (4, n) : a face between each two pieces that touch: pieces on its left and right, and
        global cell numbers there; known to all ranks
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        n = mesh.n_inner
        n_cells = mesh.n_cells
        farther = np.maximum(mesh.left[:n], mesh.right[:n])
        inside = np.flatnonzero(farther < n_cells)
        self.shared = np.flatnonzero(farther >= n_cells)

        left = mesh.left[inside]
        right = mesh.right[inside]
        count, piece, self.order, self.parent = _find_spanning_trees(left, right, n_cells)
        self.edge = _find_edges_to_parents(left, right, inside, self.parent)

        counts = mesh.ranks.all_gather(np.array([count]))
        self.n_pieces = int(counts.sum())
        self.piece = piece + int(counts[: mesh.ranks.rank].sum())
        self.bridges = self._find_bridges()
        left, right = self.bridges[:2]
        _, _, self.piece_order, self.piece_parent = _find_spanning_trees(left, right, self.n_pieces)

    def _find_bridges(self):
        mesh = self.mesh
        piece = mesh.with_ghosts(self.piece)
        left = mesh.left[self.shared]
        right = mesh.right[self.shared]
        left_id = mesh.cell_id[left]
        right_id = mesh.cell_id[right]
        own = np.stack([piece[left], piece[right], left_id, right_id])
        of_all = mesh.ranks.all_gather(_select_bridges(own))
        return _select_bridges(of_all)

    def send_between_pieces(self, U: Array, defect: Array) -> None:
        """Fluxes over the bridges after which the total defect of every piece is 0."""
        mesh = self.mesh
        own_total = np.bincount(self.piece, defect, self.n_pieces)
        total = mesh.ranks.sum(own_total)
        numbers = np.arange(self.bridges.shape[1])
        left, right = self.bridges[:2]
        bridge = _find_edges_to_parents(left, right, numbers, self.piece_parent)
        left_cell = mesh.left[self.shared]
        right_cell = mesh.right[self.shared]
        ids = mesh.cell_id[np.stack([left_cell, right_cell])]

        for child in self.piece_order[::-1]:
            parent = self.piece_parent[child]
            if parent < 0:
                continue
            left_piece, _, *cells = self.bridges[:, bridge[child]]
            is_same = ids == np.array(cells)[:, None]
            here = self.shared[is_same.all(axis=0)]
            U[here] += total[child] if left_piece == child else -total[child]
            total[parent] += total[child]

    def send_within_pieces(self, U: Array, defect: Array) -> None:
        """Fluxes from the leaves to the roots."""
        _send_to_roots(self.order, self.parent, self.edge, self.mesh.left, defect, U)


def _select_bridges(bridges):
    """One bridge for each two pieces: the one with the smallest cell numbers."""
    bridges = bridges[:, np.lexsort(bridges[::-1])]
    pair = np.sort(bridges[:2], axis=0)
    _, first = np.unique(pair, axis=1, return_index=True)
    return bridges[:, first]


def _find_spanning_trees(left, right, n):
    """(number of pieces, piece, order, parent) of the graph of n nodes with edges left-right,
    breadth first.

    An extra node, joined to one node of each piece, makes one tree of all pieces.
    """
    tails = np.concatenate([left, right])
    heads = np.concatenate([right, left])
    ones = np.ones(len(tails))
    graph = sparse.csr_matrix((ones, (tails, heads)), (n, n))
    count, piece = connected_components(graph, directed=False)

    _, roots = np.unique(piece, return_index=True)
    extra = np.full(count, n)
    rows = np.concatenate([tails, extra])
    columns = np.concatenate([heads, roots])
    ones = np.ones(len(rows))
    joined = sparse.csr_matrix((ones, (rows, columns)), (n + 1, n + 1))
    order, parent = breadth_first_order(joined, n)
    parent = parent[:n]
    is_root = parent == n
    return count, piece, order[1:], np.where(is_root, -1, parent)


def _find_edges_to_parents(left, right, edge, parent):
    """The edge (n,) to the parent of each node; -1 for roots."""
    upward = np.full(len(parent), -1)
    left_is_child = parent[left] == right
    right_is_child = parent[right] == left
    upward[left[left_is_child]] = edge[left_is_child]
    upward[right[right_is_child]] = edge[right_is_child]
    return upward


@numba.njit(cache=True)
def _send_to_roots(order, parent, edge, left, missing, U):
    for cell in order[::-1]:
        if parent[cell] >= 0:
            face = edge[cell]
            U[face] += missing[cell] if left[face] == cell else -missing[cell]
            missing[parent[cell]] += missing[cell]
