"""Patches of cells, and coarser levels: ever larger patches of patches, made before the partition, so that they
are the same for any number of ranks. Densities of optimal transport live on patches; multigrid uses the levels.
"""
import numba
import numpy as np
from scipy import sparse

from ..errors import InputError
from .build import positive_integer
from .faces import TETRA, TRIANGLE
from .quality import isotropy

COARSEST = 256      # cells of the coarsest level, about


def adjacency(faces, n_cells, weight=None):
    """Symmetric CSR matrix of the neighbours of each cell, with the summed area of the faces between them (or *weight*)."""
    n = faces.n_inner
    left, right = faces.left[:n], faces.right[:n]
    weight = faces.area[:n] if weight is None else weight
    graph = sparse.coo_matrix((weight, (left, right)), (n_cells, n_cells)).tocsr()
    return graph + graph.T


def choose_patches(rule, cells, volume, centroid, faces, left, right):
    """The patch of each cell (n_cells,), numbered from 0 on.

    *rule*: "none" (each cell), a number of cells per patch, an array, a function of the centroids (dim, n_cells) that
    returns one, or "auto": single cells where the mesh is isotropic and its cells are centrally symmetric (or in 1D), pairs
    on triangles, 16 on tetrahedra, else 4 (2D) or 8 (3D).
    """
    if isinstance(rule, str) and rule in ("auto", "none"):
        size = 1 if rule == "none" else _auto_size(cells, volume, faces, left, right)
    elif np.ndim(rule) == 0 and not isinstance(rule, str) and not callable(rule):
        size = positive_integer(rule, "patches, the number of cells of each,")
    elif callable(rule):
        return _given(rule(centroid), len(volume))
    else:
        return _given(rule, len(volume))
    if size == 1:
        return np.arange(len(volume))
    graph = adjacency(faces, len(volume))
    return match(graph) if size == 2 else grow(graph, size)


def _given(rule, n_cells):
    patch = np.asarray(rule)
    if patch.shape != (n_cells,) or not np.issubdtype(patch.dtype, np.integer):
        raise InputError(f"patches must be 'auto', 'none', a number, {n_cells} integers or a function that returns them, not "
                         f"{rule!r:.60}")
    return np.unique(patch, return_inverse=True)[1].ravel()


def _auto_size(cells, volume, faces, left, right):
    if cells.dim == 1:
        return 1
    if np.all(cells.kind == TRIANGLE):
        return 2
    if np.all(cells.kind == TETRA):
        return 16        # the error of W2^2 stops to fall at 2e-2 with 4, at 7e-3 with 8, and at 4e-3 with 16
    regular = isotropy(volume, faces, left, right).max() < 0.02 and _asymmetry(faces, len(volume)).max() < 0.05
    return 1 if regular else 2**cells.dim


def _asymmetry(faces, n_cells):
    """|sum_s |s| n_i n_j n_k| over the cell's surface: 0 for centrally symmetric cells."""
    n, dim = faces.n_inner, len(faces.normal)
    surface = np.bincount(faces.left, faces.area, n_cells) + np.bincount(faces.right[:n], faces.area[:n], n_cells)
    square = np.zeros(n_cells)
    for i in range(dim):
        for j in range(dim):
            for k in range(dim):
                weight = faces.area * faces.normal[i] * faces.normal[j] * faces.normal[k]
                square += (np.bincount(faces.left, weight, n_cells)
                           - np.bincount(faces.right[:n], weight[:n], n_cells))**2
    return np.sqrt(square) / surface


def coarser_levels(patch, graph):
    """Levels [(n_cells,), ...]: the patches, then patches of about 2^dim of them, down to some 256.

    *graph* is the adjacency of the cells. Each level is a union of members of the one before it.
    """
    levels, groups = [patch.astype(np.int32)], patch
    while levels[-1].max() + 1 > 2 * COARSEST:
        n = groups.max() + 1
        gather = sparse.csr_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))), (n, len(groups)))
        graph = (gather @ graph @ gather.T).tocsr()
        graph.setdiag(0)
        graph.eliminate_zeros()
        groups = grow(graph, 4)
        if groups.max() + 1 == n:      # nothing left to join: as many components
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
    """Compact patches of about *size* neighbours: each takes the cell that shares the most area with it.

    Patches that stay below half the size join the neighbour that they touch most.
    """
    patch = np.full(graph.shape[0], -1)
    count = _grow(graph.indptr, graph.indices, graph.data, size, patch)
    _join_small(graph.indptr, graph.indices, graph.data, (size + 1) // 2, patch, np.bincount(patch, minlength=count))
    return np.unique(patch, return_inverse=True)[1].ravel()


@numba.njit(cache=True)
def _grow(start, neighbour, weight, size, patch):
    n = len(patch)
    members = np.empty(size, np.int64)
    front = np.empty(n, np.int64)        # seeds in order of discovery: new patches start beside old ones
    seen = np.zeros(n, np.bool_)
    count = 0
    for first in range(n):
        if seen[first]:
            continue
        front[0], seen[first] = first, True
        head, tail = 0, 1
        while head < tail:
            seed = front[head]
            head += 1
            if patch[seed] >= 0:
                continue
            members[0], n_members = seed, 1
            patch[seed] = count
            while n_members < size:
                best, most = -1, 0.0
                for i in range(n_members):
                    for e in range(start[members[i]], start[members[i] + 1]):
                        j = neighbour[e]
                        if patch[j] >= 0:
                            continue
                        shared = 0.0     # what j shares with the patch, with a bonus for having few other free neighbours
                        total = 0.0
                        for e2 in range(start[j], start[j + 1]):
                            total += weight[e2]
                            if patch[neighbour[e2]] == count:
                                shared += 2 * weight[e2]
                            elif patch[neighbour[e2]] >= 0:
                                shared += weight[e2]
                        if shared / total > most:
                            best, most = j, shared / total
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
        best, most = -1, 0.0
        for e in range(start[i], start[i + 1]):
            other = patch[neighbour[e]]
            if other != old and weight[e] / (1.0 + count[other]) > most:
                best, most = other, weight[e] / (1.0 + count[other])
        if best >= 0:
            patch[i] = best
            count[best] += 1
            count[old] -= 1
