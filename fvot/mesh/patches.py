"""Patches of cells, and coarser levels: ever larger patches of patches, made before the partition,
so that they are the same for any number of ranks. Densities of optimal transport live on patches;
multigrid uses the levels.
"""

from typing import Any

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import Array, IntArray

# About so many patches are on the coarsest level. More make the coarsest problem larger, fewer the
# levels more.
COARSEST_LEVEL_SIZE = 256


def adjacency(faces: Any, n_cells: int, weight: Array | None = None) -> sparse.csr_matrix:
    """Symmetric CSR matrix of the neighbours of each cell, with the summed area of the faces
    between them (or *weight*).

    faces : has `n_inner`, `left`, `right` and `area`, as `Faces` and `Mesh`
    """
    n = faces.n_inner
    left = faces.left[:n]
    right = faces.right[:n]
    if weight is None:
        weight = faces.area[:n]
    one_way = sparse.coo_matrix((weight, (left, right)), (n_cells, n_cells))
    graph = one_way.tocsr()
    return graph + graph.T


def join_nodes(graph: sparse.csr_matrix, member: IntArray) -> sparse.csr_matrix:
    """The graph of groups of nodes, of which member (n_nodes,) has the numbers: weights are
    summed.
    """
    n = len(member)
    n_groups = member.max() + 1
    place = (member, np.arange(n))
    gather = sparse.csr_matrix((np.ones(n), place), (n_groups, n))
    joined = gather @ graph @ gather.T
    return joined.tocsr()


def number_components(faces: Any, n_cells: int) -> IntArray:
    """The connected piece (n_cells,) of the mesh to which each cell belongs, numbered from 0."""
    n = faces.n_inner
    links = (faces.left[:n], faces.right[:n])
    graph = sparse.coo_matrix((np.ones(n), links), (n_cells, n_cells))
    _, piece = connected_components(graph, directed=False)
    return piece


def build_levels(patch: IntArray, graph: sparse.csr_matrix) -> list[IntArray]:
    """Levels [(n_cells,), ...]: the patches, then ever larger unions of about four of them, down to
    some 256.

    graph : the `adjacency` of the cells
    """
    levels: list[IntArray] = [patch.astype(np.int32)]
    groups = patch
    while levels[-1].max() + 1 > 2 * COARSEST_LEVEL_SIZE:
        n = groups.max() + 1
        graph = join_nodes(graph, groups)
        graph.setdiag(0)
        graph.eliminate_zeros()
        groups = grow(graph, 4)
        if groups.max() + 1 == n:  # nothing left to join: as many components
            break
        group_numbers = groups.astype(np.int32)
        levels.append(group_numbers[levels[-1]])
    return levels


def match(graph: sparse.csr_matrix) -> IntArray:
    """Pairs of neighbours, greedily over the largest shared area; leftovers stay alone."""
    upper = sparse.triu(graph, 1).tocoo()
    order = np.argsort(-upper.data, kind="stable")
    partner = np.arange(graph.shape[0])
    row = upper.row[order]
    column = upper.col[order]
    _match(row, column, partner)

    itself = np.arange(len(partner))
    first = np.minimum(partner, itself)
    _, number = np.unique(first, return_inverse=True)
    return number.ravel()


@numba.njit(cache=True)
def _match(row, col, partner):
    for i, j in zip(row, col):
        if partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i


def grow(graph: sparse.csr_matrix, size: int) -> IntArray:
    """Compact patches of about *size* neighbours: each takes the cell that shares the most area
    with it.

    Patches that stay below half the size join the neighbour that they touch most.
    """
    patch = np.full(graph.shape[0], -1)
    count = _grow(graph.indptr, graph.indices, graph.data, size, patch)
    members = np.bincount(patch, minlength=count)
    least = (size + 1) // 2
    _join_small(graph.indptr, graph.indices, graph.data, least, patch, members)
    _, number = np.unique(patch, return_inverse=True)
    return number.ravel()


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
                        # What j shares with the patch, with a bonus for having few other free
                        # neighbours.
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
