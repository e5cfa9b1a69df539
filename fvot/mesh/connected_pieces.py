"""The connected pieces of a mesh that is distributed over ranks."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import BoolArray, IntArray
from .memory import AnyMesh


def find_connected_pieces(mesh: AnyMesh, joined: BoolArray | None = None) -> tuple[IntArray, int]:
    """(piece (n_cells,), their number): the piece of the whole mesh to which each cell belongs,
    numbered from 0. Collective.

    joined (n_inner,) : the inner faces that connect their cells; None for all
    """
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    if joined is not None:
        left = left[joined]
        right = right[joined]
    ones = np.ones(len(left))
    shape = (mesh.n_local, mesh.n_local)
    graph = sparse.csr_matrix((ones, (left, right)), shape)
    count, piece = connected_components(graph, directed=False)

    # The smallest cell number in each piece of this rank spreads from rank to rank.
    label = mesh.cell_id.copy()
    while True:
        smallest = np.full(count, mesh.n_cells_global)
        np.minimum.at(smallest, piece, label)
        new = mesh.with_ghosts(smallest[piece][: mesh.n_cells])
        new = np.minimum(new, smallest[piece])
        if not mesh.ranks.max(int((new != label).any())):
            break
        label = new

    labels = np.unique(mesh.ranks.all_gather(np.unique(label[: mesh.n_cells])))
    return np.searchsorted(labels, label[: mesh.n_cells]), len(labels)
