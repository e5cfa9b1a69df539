"""From the whole mesh on rank 0 to each rank's part: own cells first, then one ring of ghosts.

On one rank cells keep the order of the file; solvers work in another one, in which neighbours lie
close (`Numbering`).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from .. import linalg
from ..errors import InputError
from .cells import Cells, columns
from .faces import Faces
from .patches import adjacency

MEMBERS_PER_RANK = 64  # a level is divided if it has that many patches for every rank


@dataclass(frozen=True)
class Whole:
    """A whole mesh in the file's numbering."""

    cells: Cells
    volume: np.ndarray
    centroid: np.ndarray
    center: np.ndarray
    faces: Faces
    left_distance: np.ndarray
    right_distance: np.ndarray
    levels: list  # [patch of each cell, coarser patch, ...]
    regions: dict  # name -> cells

    @property
    def n_cells(self):
        return len(self.volume)


def divide(whole, graph, n_ranks):
    """The rank of each cell: whole members of the coarsest level that has enough of them, in parts
    of equal size.
    """
    if n_ranks == 1:
        return np.zeros(whole.n_cells, np.int64)
    fine_enough = [level for level in whole.levels if level.max() + 1 >= MEMBERS_PER_RANK * n_ranks]
    member = (fine_enough or whole.levels[:1])[-1]
    n = member.max() + 1
    if n < n_ranks:
        raise InputError(
            f"a mesh of {whole.n_cells} cells in {n} patches cannot be dealt to {n_ranks} ranks: "
            "use fewer ranks or a finer mesh (smaller patches, if they were given)"
        )
    gather = sparse.csr_matrix(
        (np.ones(len(member)), (member, np.arange(len(member)))), (n, len(member))
    )
    count = np.bincount(member)
    center = np.stack([np.bincount(member, x) for x in whole.centroid]) / count
    return linalg.partition((gather @ graph @ gather.T).tocsr(), count, center, n_ranks)[member]


def parts(whole, n_ranks):
    """One dict of arrays for each rank, as `Mesh` takes them."""
    graph = adjacency(whole.faces, whole.n_cells)
    owner = divide(whole, graph, n_ranks)
    near = [_local_order(graph, np.flatnonzero(owner == rank)) for rank in range(n_ranks)]
    del graph
    if n_ranks > 1:
        return [_part(whole, owner, near[rank], near[rank], rank) for rank in range(n_ranks)]
    users = np.arange(whole.n_cells)
    if _reach(whole.faces, users) <= _reach(whole.faces, near[0]):
        return [_part(whole, owner, users, users, 0)]
    return [_part(whole, owner, users, near[0], 0) | dict(near_order=near[0])]


def _part(whole, owner, own, near, rank):
    """The part of a rank with the cells *own*, whose faces come in the order of the same cells as
    *near* has them.
    """
    faces = whole.faces
    cells = whole.cells
    ghosts, touch, left, right, ends = local_faces(faces, owner, own, near, rank)
    used, corners, vertices = _local_points(whole, own, touch)
    face_center = columns(faces.center, touch)
    interface_faces, interface_ends = _members(faces.interfaces, touch)
    region_cells, region_ends = _members(whole.regions, own)
    return dict(
        cell_id=np.concatenate([own, ghosts]),
        ghost_owner=owner[ghosts],
        volume=whole.volume[own],
        center=columns(whole.center, own),
        centroid=columns(whole.centroid, own),
        left=left,
        right=right,
        area=faces.area[touch],
        normal=columns(faces.normal, touch),
        face_center=face_center,
        left_distance=whole.left_distance[touch],
        right_distance=whole.right_distance[touch],
        left_offset=face_center - columns(whole.centroid, faces.left[touch]),
        right_offset=face_center
        - columns(whole.centroid, faces.right[touch]),  # no meaning at the boundary
        boundary_ends=ends,
        levels=np.stack([level[own] for level in whole.levels]),
        points=columns(cells.points, used),
        point_id=used,
        kind=cells.kind[own],
        corners=corners,
        vertices=vertices,
        start=np.concatenate([[0], np.cumsum(np.diff(cells.start)[own])]),
        interface_faces=interface_faces,
        interface_ends=interface_ends,
        region_cells=region_cells,
        region_ends=region_ends,
    )


def _members(parts, numbers):
    """Which of *numbers* are in each of the parts {name: numbers}: (places in one row, where each
    part begins).
    """
    found = [np.flatnonzero(np.isin(numbers, part)) for part in parts.values()]
    return np.concatenate([np.empty(0, np.int64), *found]), np.cumsum([0, *map(len, found)])


def local_faces(faces, owner, own, near, rank):
    """(ghosts, faces that touch the rank's cells, their left and right in local numbers, where each
    set begins).

    Cells are numbered as *own* has them. Inner faces come first, then the boundary by sets of
    names; each in the order in which *near* has its cells, so that faces of neighbours lie close in
    memory.
    """
    touch = np.flatnonzero(
        (owner[faces.left] == rank) | ((faces.right >= 0) & (owner[faces.right] == rank))
    )
    left, right = faces.left[touch], faces.right[touch]
    ghosts = np.unique(
        np.concatenate([left[owner[left] != rank], right[(right >= 0) & (owner[right] != rank)]])
    )
    place = _numbers(near, ghosts, len(owner))[np.stack([left, right])]
    left, right = _numbers(own, ghosts, len(owner))[np.stack([left, right])]
    label = np.searchsorted(
        faces.ends, touch, side="right"
    )  # 0 of inner faces, then one number for each set
    first = np.where(right < 0, place[0], place.min(axis=0))
    order = np.lexsort((place.max(axis=0), first, label))
    ends = np.searchsorted(label[order], np.arange(len(faces.ends) + 1))
    return ghosts, touch[order], left[order], right[order], ends


def _reach(faces, order):
    """How far apart neighbours are, in places of an order of all cells: the mean over the inner
    faces.
    """
    n = faces.n_inner
    place = np.argsort(order)
    return np.abs(place[faces.left[:n]] - place[faces.right[:n]]).mean() if n else 0.0


def _numbers(own, ghosts, n_cells):
    """The local number of each cell of the whole mesh: own cells first, then ghosts; the last entry
    serves right = -1.
    """
    number = np.full(n_cells + 1, -1)
    number[own] = np.arange(len(own))
    number[ghosts] = len(own) + np.arange(len(ghosts))
    return number


def _local_order(graph, own):
    """The rank's cells, renumbered so that neighbours lie close in memory (reverse Cuthill-McKee)."""
    if len(own) < 3:
        return own
    local = graph if len(own) == graph.shape[0] else graph[own][:, own]
    return own[reverse_cuthill_mckee(local.tocsr(), symmetric_mode=True)]


def _local_points(whole, own, touch):
    """Points that the part uses, and its cells' corners and faces' vertices in their numbering."""
    cells = whole.cells
    length = np.diff(cells.start)[own]
    shift = cells.start[own] - np.concatenate([[0], np.cumsum(length)[:-1]])
    place = np.arange(length.sum()) + np.repeat(shift, length)
    corners = cells.corners[place]
    vertices = columns(whole.faces.vertices, touch)
    used = np.zeros(cells.points.shape[1] + 1, bool)  # the last entry serves vertex -1
    used[corners] = True
    used[vertices] = True
    used[-1] = False
    number = np.cumsum(used) - 1
    number[-1] = -1
    return np.flatnonzero(used[:-1]), number[corners], number[vertices]
