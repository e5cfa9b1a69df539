"""Face fluxes: potential flow, the conservative correction along a spanning tree, and the mean
velocities of cells.
"""

from collections.abc import Mapping
from numbers import Real

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components

from .. import linalg
from ..errors import InputError
from .boundary import check_apart

PREFIX = "fvot_potential_flow_"


def potential_flow(mesh, rates):
    """Face fluxes U (n_faces,) of the flow v = -grad p, div v = 0, that enters and leaves through
    named boundaries.

    rates : {name: volume per time that enters through it}, negative where it leaves; spread evenly
        over the part's faces. They must add up to 0 (on each connected piece of the mesh).
        Boundaries that are not named are walls

    A two-point Laplace solve, then what is left of the divergence is removed along a spanning tree:
    the fluxes of each cell add up to 0 to round-off, whatever the tolerance of the solve. Raises
    `InputError` for unknown names or rates that do not balance, `ConvergenceError` if the solve
    fails.
    """
    U = _boundary_fluxes(mesh, rates)
    source = -mesh.divergence(U) * mesh.volume
    _check_balance(mesh, source, rates)
    pressure = linalg.solve(
        mesh.ranks, laplacian(mesh), source, prefix=PREFIX, rtol=1e-12, singular=True
    )
    U -= mesh.area * mesh.gradient(pressure)
    return conserve(mesh, U, np.zeros(mesh.n_cells))


def _boundary_fluxes(mesh, rates):
    if not isinstance(rates, Mapping):
        raise InputError(
            "rates must be a dict {name: volume per time that enters}, such as "
            f"{{'inlet': 1.0, 'outlet': -1.0}}, not {rates!r:.80}"
        )
    check_apart(mesh, rates)
    U = np.zeros(mesh.n_faces)
    for name, rate in rates.items():
        faces = mesh.boundary[name]
        if not isinstance(rate, Real) or not np.isfinite(rate):
            raise InputError(
                f"the rate at boundary {name!r} must be a finite number (volume per time that "
                "enters), "
                f"not {rate!r}"
            )
        area = mesh.ranks.sum(mesh.area[faces].sum())
        U[faces] = -rate * mesh.area[faces] / area
    return U


def _check_balance(mesh, source, rates):
    piece = pieces(mesh)
    total = mesh.ranks.sum(
        np.bincount(piece, source, int(mesh.ranks.max(piece.max(initial=0))) + 1)
    )
    scale = max([abs(rate) for rate in rates.values()], default=0.0)
    worst = int(np.abs(total).argmax())
    if abs(total[worst]) > 1e-10 * scale:
        where = "" if len(total) == 1 else f" on one of the mesh's {len(total)} connected pieces"
        raise InputError(
            f"the rates add up to {total[worst]:.6g}{where}: what enters must leave; give rates "
            "that add up to 0"
        )


def laplacian(mesh):
    """This rank's rows (CSR, columns numbered as PETSc does) of the matrix of sum_s |s| / d_s (u_K
    - u_L).
    """
    n = mesh.n_inner
    number = mesh.with_ghosts(mesh.first_row + np.arange(mesh.n_cells))
    t = mesh.area[:n] / mesh.distance[:n]
    left, right = mesh.left[:n], mesh.right[:n]
    rows = np.concatenate([left, left, right, right])
    columns = number[np.concatenate([left, right, right, left])]
    own = rows < mesh.n_cells
    return sparse.csr_matrix(
        (np.concatenate([t, -t, t, -t])[own], (rows[own], columns[own])),
        (mesh.n_cells, mesh.n_cells_global),
    )


def conserve(mesh, U, divergence):
    """Face fluxes near U (n_faces,) whose sum over the faces of each cell is *divergence*
    (n_cells,), to round-off.

    What is missing in a cell is sent to its parent in a spanning tree, from the leaves to the root.
    Boundary fluxes stay; the total of what is missing in a connected piece of the mesh must be 0
    but for round-off, which the root keeps.
    """
    forest, U = _Forest(mesh), U.copy()
    forest.send_between_pieces(U, divergence - mesh.divergence(U) * mesh.volume)
    forest.send_within_pieces(U, divergence - mesh.divergence(U) * mesh.volume)
    return U


def pieces(mesh):
    """The connected piece of the whole mesh to which each cell belongs: (n_cells,), numbered from
    0.
    """
    forest = _Forest(mesh)
    return forest.component[forest.piece]


class _Forest:
    """Spanning trees of a mesh that is dealt to ranks: one for each connected piece of a rank, and
    one of all the pieces.

    piece (n_cells,) : global number of the piece of each cell
    order, parent, edge : cells with parents before children; the parent of each cell (-1: a root),
        and the face to it
    bridges (4, n) : a face between each two pieces that touch: pieces on its left and right, and
        global cell numbers there
    component (n_pieces,) : the connected piece of the whole mesh; known to all ranks, as the
        bridges are
    """

    def __init__(self, mesh):
        self.mesh = mesh
        n = mesh.n_inner
        n_cells = mesh.n_cells
        inside = np.flatnonzero(np.maximum(mesh.left[:n], mesh.right[:n]) < n_cells)
        left, right = mesh.left[inside], mesh.right[inside]
        count, piece, self.order, self.parent = _spanning_trees(left, right, n_cells)
        self.edge = _edges_to_parents(left, right, inside, self.parent)
        counts = mesh.ranks.all_gather(np.array([count]))
        self.n_pieces = int(counts.sum())
        self.piece = piece + int(counts[: mesh.ranks.rank].sum())
        self.shared = np.flatnonzero(np.maximum(mesh.left[:n], mesh.right[:n]) >= n_cells)
        self.bridges = self._bridges()
        _, self.component, self.piece_order, self.piece_parent = _spanning_trees(
            *self.bridges[:2], self.n_pieces
        )

    def _bridges(self):
        mesh = self.mesh
        number = self.mesh.with_ghosts(self.piece)
        left, right = mesh.left[self.shared], mesh.right[self.shared]
        mine = np.stack([number[left], number[right], mesh.cell_id[left], mesh.cell_id[right]])
        everyone = mesh.ranks.all_gather(_first_of_pair(mine))
        return _first_of_pair(everyone)

    def send_between_pieces(self, U, missing):
        """Fluxes over the bridges that leave every piece with a total of 0."""
        total = self.mesh.ranks.sum(np.bincount(self.piece, missing, self.n_pieces))
        bridge = _edges_to_parents(
            *self.bridges[:2], np.arange(self.bridges.shape[1]), self.piece_parent
        )
        ids = np.stack(
            [
                self.mesh.cell_id[self.mesh.left[self.shared]],
                self.mesh.cell_id[self.mesh.right[self.shared]],
            ]
        )
        for child in self.piece_order[::-1]:
            parent = self.piece_parent[child]
            if parent < 0:
                continue
            left_piece, _, *cells = self.bridges[:, bridge[child]]
            here = self.shared[(ids == np.array(cells)[:, None]).all(axis=0)]
            U[here] += total[child] if left_piece == child else -total[child]
            total[parent] += total[child]

    def send_within_pieces(self, U, missing):
        """Fluxes from the leaves to the roots."""
        _send_to_roots(self.order, self.parent, self.edge, self.mesh.left, missing, U)


def _first_of_pair(bridges):
    """One bridge for each two pieces: the one with the smallest cell numbers."""
    bridges = bridges[:, np.lexsort(bridges[::-1])]
    pair = np.sort(bridges[:2], axis=0)
    _, first = np.unique(pair, axis=1, return_index=True)
    return bridges[:, first]


def _spanning_trees(left, right, n):
    """(number of pieces, piece, order, parent) of the graph of n nodes with edges left-right,
    breadth first.

    An extra node, joined to one node of each piece, makes one tree of them all.
    """
    ends = np.concatenate([left, right]), np.concatenate([right, left])
    graph = sparse.csr_matrix((np.ones(len(ends[0])), ends), (n, n))
    count, piece = connected_components(graph, directed=False)
    roots = np.unique(piece, return_index=True)[1]
    rows, columns = np.concatenate([ends[0], np.full(count, n)]), np.concatenate([ends[1], roots])
    joined = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (n + 1, n + 1))
    order, parent = breadth_first_order(joined, n)
    return count, piece, order[1:], np.where(parent[:n] == n, -1, parent[:n])


def _edges_to_parents(left, right, edge, parent):
    found = np.full(len(parent), -1)
    down = parent[left] == right
    up = parent[right] == left
    found[left[down]], found[right[up]] = edge[down], edge[up]
    return found


@numba.njit(cache=True)
def _send_to_roots(order, parent, edge, left, missing, U):
    for cell in order[::-1]:
        if parent[cell] >= 0:
            face = edge[cell]
            U[face] += missing[cell] if left[face] == cell else -missing[cell]
            missing[parent[cell]] += missing[cell]


# ---- velocities of cells -----------------------------------------------------------------------------------------------
