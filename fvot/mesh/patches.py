"""Patches of cells, and coarser levels: ever larger patches of patches, made before the partition,
so that they are the same for any number of ranks. Densities of optimal transport live on patches;
multigrid uses the levels.
"""

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

COARSEST = 256  # cells of the coarsest level, about


def adjacency(faces, n_cells, weight=None):
    """Symmetric CSR matrix of the neighbours of each cell, with the summed area of the faces
    between them (or *weight*).
    """
    n = faces.n_inner
    left, right = faces.left[:n], faces.right[:n]
    weight = faces.area[:n] if weight is None else weight
    graph = sparse.coo_matrix((weight, (left, right)), (n_cells, n_cells)).tocsr()
    return graph + graph.T


def pieces(faces, n_cells):
    """The connected piece (n_cells,) of the mesh to which each cell belongs, numbered from 0."""
    n = faces.n_inner
    graph = sparse.coo_matrix((np.ones(n), (faces.left[:n], faces.right[:n])), (n_cells, n_cells))
    return connected_components(graph, directed=False)[1]


def coarser_levels(patch, graph):
    """Levels [(n_cells,), ...]: the patches, then patches of about 2^dim of them, down to some 256.

    *graph* is the adjacency of the cells. Each level is a union of members of the one before it.
    """
    levels = [patch.astype(np.int32)]
    groups = patch
    while levels[-1].max() + 1 > 2 * COARSEST:
        n = groups.max() + 1
        gather = sparse.csr_matrix(
            (np.ones(len(groups)), (groups, np.arange(len(groups)))), (n, len(groups))
        )
        graph = (gather @ graph @ gather.T).tocsr()
        graph.setdiag(0)
        graph.eliminate_zeros()
        groups = grow(graph, 4)
        if groups.max() + 1 == n:  # nothing left to join: as many components
            break
        levels.append(groups.astype(np.int32)[levels[-1]])
    return levels


def match(graph):
    """Pairs of neighbours, greedily over the largest shared area; leftovers stay alone."""
    upper = sparse.triu(graph, 1).tocoo()
    order = np.argsort(-upper.data, kind="stable")
    partner = np.arange(graph.shape[0])
    _match(upper.row[order], upper.col[order], partner)
    return np.unique(np.minimum(partner, np.arange(len(partner))), return_inverse=True)[1].ravel()


@numba.njit(cache=True)
def _match(row, col, partner):
    for i, j in zip(row, col):
        if partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i


def grow(graph, size):
    """Compact patches of about *size* neighbours: each takes the cell that shares the most area
    with it.

    Patches that stay below half the size join the neighbour that they touch most.
    """
    patch = np.full(graph.shape[0], -1)
    count = _grow(graph.indptr, graph.indices, graph.data, size, patch)
    _join_small(
        graph.indptr,
        graph.indices,
        graph.data,
        (size + 1) // 2,
        patch,
        np.bincount(patch, minlength=count),
    )
    return np.unique(patch, return_inverse=True)[1].ravel()


@numba.njit(cache=True)
def _grow(start, neighbour, weight, size, patch):
    n = len(patch)
    members = np.empty(size, np.int64)
    front = np.empty(n, np.int64)  # seeds in order of discovery: new patches start beside old ones
    seen = np.zeros(n, np.bool_)
    count = 0
    for first in range(n):
        if seen[first]:
            continue
        front[0] = first
        seen[first] = True
        head = 0
        tail = 1
        while head < tail:
            seed = front[head]
            head += 1
            if patch[seed] >= 0:
                continue
            members[0] = seed
            n_members = 1
            patch[seed] = count
            while n_members < size:
                best = -1
                most = 0.0
                for i in range(n_members):
                    for e in range(start[members[i]], start[members[i] + 1]):
                        j = neighbour[e]
                        if patch[j] >= 0:
                            continue
                        # what j shares with the patch, with a bonus for having few other free
                        # neighbours
                        shared = 0.0
                        total = 0.0
                        for e2 in range(start[j], start[j + 1]):
                            total += weight[e2]
                            if patch[neighbour[e2]] == count:
                                shared += 2 * weight[e2]
                            elif patch[neighbour[e2]] >= 0:
                                shared += weight[e2]
                        if shared / total > most:
                            best = j
                            most = shared / total
                if best < 0:
                    break
                members[n_members] = best
                n_members += 1
                patch[best] = count
            for i in range(n_members):
                for e in range(start[members[i]], start[members[i] + 1]):
                    j = neighbour[e]
                    if not seen[j]:
                        seen[j] = True
                        front[tail] = j
                        tail += 1
            count += 1
    return count


@numba.njit(cache=True)
def _join_small(start, neighbour, weight, least, patch, count):
    for i in range(len(patch)):
        old = patch[i]
        if count[old] >= least:
            continue
        best = -1
        most = 0.0
        for e in range(start[i], start[i + 1]):
            other = patch[neighbour[e]]
            if other != old and weight[e] / (1.0 + count[other]) > most:
                best = other
                most = weight[e] / (1.0 + count[other])
        if best >= 0:
            patch[i] = best
            count[best] += 1
            count[old] -= 1
