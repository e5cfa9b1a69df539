"""Patches of a finer mesh inside those of the mesh that it was refined from.

A patch of a coarse mesh lies on one rank, and so do the children of its cells: no rank has to know
the patches of others, and they are the same on any number of ranks.
"""

from typing import Any

import numpy as np
from scipy import sparse

from .. import parallel
from ..arguments.types import IntArray
from .cells import TETRA, TRIANGLE, WEDGE
from .patch_choice import CORNER_TETRAHEDRA
from .patches import adjacency, grow, match
from .tuple_numbers import number_tuples

# Cells of a patch where "auto" does not follow patches that it has made itself.
USUAL_SIZES = {TRIANGLE: 2, WEDGE: 2, TETRA: CORNER_TETRAHEDRA}


def choose_sizes(
    ranks: parallel.Ranks, rule: Any, kind: IntArray, patch: IntArray, follows: bool
) -> dict[int, int]:
    """{kind of cell: number of cells of a patch}, the same on all ranks. Collective.

    rule : "none", "auto" or a number of cells
    kind, patch (n_cells,) : of the coarse cells
    follows : whether "auto" has made the coarse patches
    """
    kinds = [int(k) for k in np.unique(ranks.all_gather(np.unique(kind)))]
    if isinstance(rule, str) and rule == "none":
        return dict.fromkeys(kinds, 1)
    if not isinstance(rule, str):
        return dict.fromkeys(kinds, int(rule))
    if not follows:
        return {k: USUAL_SIZES.get(k, 1) for k in kinds}

    sizes = {}
    for k in kinds:
        members = patch[kind == k]
        n_cells, n_patches = ranks.sum(np.array([len(members), len(np.unique(members))]))
        sizes[k] = int(2 ** np.rint(np.log2(n_cells / n_patches)))
    return sizes


def divide_patches(
    kind: IntArray, faces: Any, parent: IntArray, patch: IntArray, sizes: dict[int, int]
) -> IntArray:
    """The fine patch (n_cells,) of each of this rank's cells, numbered on this rank.

    kind, parent, patch (n_cells,) : of the fine cells, the parent's number and its patch
    faces : those between these cells (`n_inner`, `left`, `right`, `area`)
    """
    result = np.empty(len(kind), np.int64)
    count = 0
    for size in sorted(set(sizes.values())):
        kinds = [k for k, other in sizes.items() if other == size]
        members = np.flatnonzero(np.isin(kind, kinds))
        part: IntArray = np.arange(len(members))
        if size > 1 and len(members):
            graph = _connect(faces, parent, patch, across_first=size == 2)
            if len(members) < len(kind):
                graph = sparse.csr_matrix(graph[members][:, members])
            part = match(graph) if size == 2 else grow(graph, size)
        result[members] = count + part
        count += part.max(initial=-1) + 1
    return result


def _connect(faces, parent, patch, across_first):
    """The `adjacency` of the cells inside each coarse patch.

    across_first : whether faces between children of different cells weigh more than all others: two
        triangles then leave no child alone, as the children at their common edge are pairs, and so
        are the others
    """
    n = faces.n_inner
    left = faces.left[:n]
    right = faces.right[:n]
    is_inside = patch[left] == patch[right]
    weight = np.where(is_inside, faces.area[:n], 0.0)
    if across_first:
        largest = 2 * weight.max(initial=0.0)
        is_across = is_inside & (parent[left] != parent[right])
        weight = np.where(is_across, largest + weight, weight)
    graph = adjacency(faces, len(parent), weight)
    graph.eliminate_zeros()
    return graph


def number_patches(
    ranks: parallel.Ranks, part: IntArray, coarse: IntArray, cell_id: IntArray
) -> IntArray:
    """Global numbers (n_cells,) of the fine patches that this rank numbers by *part*: by coarse
    patch, then by first cell. Collective.

    coarse, cell_id (n_cells,) : coarse patch and global number of each cell, in increasing order
    """
    _, first = np.unique(part, return_index=True)
    n_coarse = ranks.max(int(coarse.max(initial=-1))) + 1
    number, _ = number_tuples(ranks, np.stack([coarse[first], cell_id[first]]), n_coarse)
    return number[part]
