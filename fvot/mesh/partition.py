"""From the whole mesh on rank 0 to each rank's part: own cells first, then one ring of ghosts.

On one rank cells keep the order of the file; solvers work in another one, in which neighbours lie
close (see `Numbering`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from .. import linalg
from ..arguments.types import Array, IntArray
from ..errors import InputError
from .cells import Cells, columns, take_rows
from .faces import Faces
from .patches import adjacency, join_nodes

# A level is divided among the ranks if it has so many patches for every rank: with fewer, parts
# would not be of equal size.
MIN_PATCHES_PER_RANK = 64


@dataclass(frozen=True)
class WholeMesh:
    """A whole mesh in the file's numbering."""

    cells: Cells
    volume: Array
    centroid: Array
    center: Array
    faces: Faces
    left_distance: Array
    right_distance: Array
    levels: list[IntArray]  # [patch of each cell, coarser patch, ...]
    regions: dict[Any, IntArray]  # name -> cells

    @property
    def n_cells(self) -> int:
        """The number of cells."""
        return len(self.volume)


class LocalFaces(NamedTuple):
    """The faces that touch a rank's cells, in local numbers."""

    ghosts: IntArray  # (n_ghosts,) cells of other ranks, in the file's numbering
    faces: IntArray  # (n_faces,) numbers among all faces
    left: IntArray  # (n_faces,)
    right: IntArray  # (n_faces,)
    ends: IntArray  # (n_sets + 1,) where each set of boundary faces begins


def divide(whole: Any, graph: sparse.csr_matrix, n_ranks: int) -> IntArray:
    """The rank of each cell: whole patches of the coarsest level that has enough of them, in parts
    of equal size.

    whole : has `levels`, `n_cells` and `centroid` as `WholeMesh`
    graph : the `adjacency` of the cells
    """
    if n_ranks == 1:
        return np.zeros(whole.n_cells, np.int64)
    least = MIN_PATCHES_PER_RANK * n_ranks
    fine_enough = [level for level in whole.levels if level.max() + 1 >= least]
    patch = (fine_enough or whole.levels[:1])[-1]
    n_patches = int(patch.max()) + 1
    if n_patches < n_ranks:
        raise InputError(
            f"a mesh of {whole.n_cells} cell{'s' * (whole.n_cells != 1)} in {n_patches} "
            f"patch{'es' * (n_patches != 1)} cannot be distributed over {n_ranks} ranks: use "
            "fewer ranks, or a finer mesh, such as by Mesh.read(path, refine=...), which refines "
            "it before it is distributed (smaller patches, if they were given)"
        )
    count = np.bincount(patch)
    total = np.stack([np.bincount(patch, x) for x in whole.centroid])
    center = total / count
    patch_graph = join_nodes(graph, patch)
    rank_of_patch = linalg.partition(patch_graph, count, center, n_ranks)
    return rank_of_patch[patch]


def build_parts(whole: WholeMesh, n_ranks: int) -> list[dict]:
    """One dict of arrays for each rank, as `Mesh` takes them."""
    graph = adjacency(whole.faces, whole.n_cells)
    owner = divide(whole, graph, n_ranks)
    close_order = []
    for rank in range(n_ranks):
        own = np.flatnonzero(owner == rank)
        close_order.append(sort_cells(graph, own))
    del graph
    if n_ranks > 1:
        return [
            _build_part(whole, owner, order, order, rank) for rank, order in enumerate(close_order)
        ]

    users_order = np.arange(whole.n_cells)
    order = close_order[0]
    if measure_reach(whole.faces, users_order) <= measure_reach(whole.faces, order):
        return [_build_part(whole, owner, users_order, users_order, 0)]
    return [_build_part(whole, owner, users_order, order, 0) | dict(near_order=order)]


def _build_part(whole, owner, own, order, rank):
    """The part of a rank with the cells *own*; its faces come in the order of the same cells in
    *order*.
    """
    faces = whole.faces
    cells = whole.cells
    local = find_local_faces(faces, owner, own, order, rank)
    touching = local.faces
    place, start = take_rows(cells.start, own)
    used, corners, vertices = _renumber_points(whole, cells.corners[place], touching)
    interface_faces, interface_ends = _find_members(faces.interfaces, touching)
    region_cells, region_ends = _find_members(whole.regions, own)

    # The offset from the right cell has no meaning on the boundary, where right is -1.
    face_center = columns(faces.center, touching)
    left_offset = face_center - columns(whole.centroid, faces.left[touching])
    right_offset = face_center - columns(whole.centroid, faces.right[touching])
    return dict(
        cell_id=np.concatenate([own, local.ghosts]),
        ghost_owner=owner[local.ghosts],
        volume=whole.volume[own],
        center=columns(whole.center, own),
        centroid=columns(whole.centroid, own),
        left=local.left,
        right=local.right,
        area=faces.area[touching],
        normal=columns(faces.normal, touching),
        face_center=face_center,
        left_distance=whole.left_distance[touching],
        right_distance=whole.right_distance[touching],
        left_offset=left_offset,
        right_offset=right_offset,
        boundary_ends=local.ends,
        levels=np.stack([level[own] for level in whole.levels]),
        points=columns(cells.points, used),
        point_id=used,
        kind=cells.kind[own],
        corners=corners,
        vertices=vertices,
        start=start,
        interface_faces=interface_faces,
        interface_ends=interface_ends,
        region_cells=region_cells,
        region_ends=region_ends,
    )


def _find_members(parts, numbers):
    """Which of *numbers* are in each of the parts {name: numbers}: (places in one row, where each
    part begins).
    """
    places = []
    for part in parts.values():
        is_member = np.isin(numbers, part)
        places.append(np.flatnonzero(is_member))
    count = [len(place) for place in places]
    in_one_row = np.concatenate([np.empty(0, np.int64), *places])
    return in_one_row, np.cumsum([0, *count])


def find_local_faces(
    faces: Any, owner: IntArray, own: IntArray, order: IntArray, rank: int
) -> LocalFaces:
    """The faces that touch a rank's cells, which are numbered as *own* has them.

    Inner faces come first, then the boundary by sets of names; each in the order in which *order*
    has its cells, so that faces of neighbours lie close in memory.
    """
    has_right = faces.right >= 0
    left_is_mine = owner[faces.left] == rank
    right_is_mine = has_right & (owner[faces.right] == rank)
    touching = np.flatnonzero(left_is_mine | right_is_mine)
    left = faces.left[touching]
    right = faces.right[touching]

    foreign_left = left[owner[left] != rank]
    is_foreign = (right >= 0) & (owner[right] != rank)
    foreign_right = right[is_foreign]
    ghosts = np.unique(np.concatenate([foreign_left, foreign_right]))

    sides = np.stack([left, right])
    place = _number_cells(order, ghosts, len(owner))[sides]
    left, right = _number_cells(own, ghosts, len(owner))[sides]

    # The label is 0 of inner faces, then one number for each set.
    label = np.searchsorted(faces.ends, touching, side="right")
    first_place = np.where(right < 0, place[0], place.min(axis=0))
    last_place = place.max(axis=0)
    sorting = np.lexsort((last_place, first_place, label))
    labels = np.arange(len(faces.ends) + 1)
    ends = np.searchsorted(label[sorting], labels)
    return LocalFaces(ghosts, touching[sorting], left[sorting], right[sorting], ends)


def measure_reach(faces: Any, order: IntArray) -> float:
    """How far apart neighbours are, in places of an order of all cells: the mean over the inner
    faces.
    """
    n = faces.n_inner
    if not n:
        return 0.0
    place = np.argsort(order)
    left_place = place[faces.left[:n]]
    right_place = place[faces.right[:n]]
    return np.abs(left_place - right_place).mean()


def _number_cells(own, ghosts, n_cells):
    """The local number of each cell of the whole mesh: own cells first, then ghosts; the last entry
    serves right = -1.
    """
    number = np.full(n_cells + 1, -1)
    number[own] = np.arange(len(own))
    number[ghosts] = len(own) + np.arange(len(ghosts))
    return number


def sort_cells(graph: sparse.csr_matrix, own: IntArray) -> IntArray:
    """The rank's cells in an order in which neighbours lie close in memory (reverse
    Cuthill-McKee).
    """
    if len(own) < 3:
        return own
    local = graph if len(own) == graph.shape[0] else graph[own][:, own]
    order = reverse_cuthill_mckee(local.tocsr(), symmetric_mode=True)
    return own[order]


def _renumber_points(whole, corners, touching):
    """The points that a part uses, and its cells' corners and faces' vertices in their
    numbering.
    """
    vertices = columns(whole.faces.vertices, touching)

    is_used = np.zeros(whole.cells.points.shape[1] + 1, bool)  # the last entry serves vertex -1
    is_used[corners] = True
    is_used[vertices] = True
    is_used[-1] = False
    number = np.cumsum(is_used) - 1
    number[-1] = -1
    used = np.flatnonzero(is_used[:-1])
    return used, number[corners], number[vertices]
