"""Refinement where the cells lie: each rank cuts its own, and agrees with others on new points by
the numbers of the old ones.

The finer mesh is the same on any number of ranks, in the order of the file: children come after
those of cells before, points after old ones in the order of these. Neighbours know each other's
children at the faces between them by the numbers of these faces' points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import parallel
from ..arguments.types import Array, IntArray
from . import faces, partition, power_centers
from . import refine as cuts
from .cells import KIND, N_CORNERS, Cells, columns, face_keys, take_rows
from .faces import Faces
from .facets import join_faces, match_faces
from .memory import AnyMesh
from .nested_patches import choose_sizes, divide_patches, number_patches
from .patch_choice import add_inherited_test
from .patch_moments import count_hidden
from .patch_test import GROUP_SIZES, TwoPoint
from .patches import adjacency
from .quality import make_share_admissible
from .share import Share
from .tuple_numbers import number_tuples

# What the first entry of the name of a side says: a set of boundary faces, faces to another rank,
# or an interface.
SET = "set"
RANK = "rank"
INTERFACE = "interface"


@dataclass(frozen=True)
class _FineCells:
    """This rank's cells, cut, in the order of their numbers in the whole mesh."""

    cells: Cells
    volume: Array  # (n_cells,)
    centroid: Array  # (dim, n_cells)
    cell_id: IntArray  # (n_cells,) numbers in the whole mesh
    point_id: IntArray  # (n_points,) numbers in the whole mesh, increasing
    sides: dict[tuple[str, Any], IntArray]  # points (width, n) of the faces of each side
    coarse: IntArray  # the coarse cells in the order of their numbers


@dataclass(frozen=True)
class _Links:
    """All faces of these cells, and the cells of other ranks beyond them, the ghosts."""

    left: IntArray  # (n_faces,) own cells as in `_FineCells`, then ghosts
    right: IntArray  # (n_faces,)
    vertices: IntArray  # (width, n_faces)
    ends: IntArray  # where each set of boundary faces begins
    ghosts: IntArray  # (n_ghosts,) numbers in the whole mesh, increasing
    ghost_owner: IntArray  # (n_ghosts,)


@dataclass(frozen=True)
class _InnerFaces:
    """Faces between this rank's cells."""

    left: IntArray
    right: IntArray
    area: Array

    @property
    def n_inner(self) -> int:
        """Their number."""
        return len(self.left)


def refine_part(
    mesh: AnyMesh, rule: Any, strict: bool, follows: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(part, what all ranks know) of the mesh with every cell cut in 2^dim. Collective.

    rule : of patches, "auto", "none" or a number
    follows : whether the mesh's patches are those of this rule
    """
    ranks = mesh.ranks
    fine, halves = _cut(mesh)
    links = _link(mesh, fine, halves)
    del halves
    own, order = _sort_own(ranks, links, len(fine.cell_id))
    n_own = len(own)
    here = np.full(n_own, ranks.rank)
    owner = np.concatenate([here, links.ghost_owner])
    local = partition.find_local_faces(links, owner, own, order, ranks.rank)
    vertices = columns(links.vertices, local.faces)
    ghosts, ghost_owner = links.ghosts, links.ghost_owner
    del links, owner

    cell_id = fine.cell_id[own]
    exchange = parallel.Exchange.ghosts(ranks, cell_id, ghosts, ghost_owner)

    def add_ghosts(values: Array) -> Array:
        filled = np.empty((*values.shape[:-1], n_own + len(ghosts)))
        filled[..., :n_own] = values[..., own]
        return exchange(filled)

    volume = add_ghosts(fine.volume)
    centroid = add_ghosts(fine.centroid)
    center = add_ghosts(power_centers.place_centers(fine.cells, fine.centroid))
    face = _measure(fine.cells.points, centroid, local, vertices)

    share = Share(n_own, mesh.n_cells_global * 2**mesh.dim, cell_id, ranks)
    report, center, left, right = make_share_admissible(
        volume, centroid, center, face, strict, share, exchange
    )
    levels, patch = _nest_levels(mesh, fine, own, face, rule, follows)
    group = _choose_groups(levels, share)
    two_point = TwoPoint(volume, center, face, left, right)
    report = add_inherited_test(
        report,
        mesh.quality,
        two_point,
        _add_outside(patch, len(ghosts)),
        _add_outside(group, len(ghosts)),
        share,
    )
    del two_point, patch, group
    report = replace(report, has_given_patches=not isinstance(rule, str) or rule != "auto")
    if not report.suits_two_point_transport:
        n_hidden = count_hidden(fine.cells, volume, centroid, face, share)
        report = replace(report, n_hidden=n_hidden)

    place, start = take_rows(fine.cells.start, own)
    n = face.n_inner
    right_offset = np.zeros_like(face.center)
    right_offset[:, :n] = face.center[:, :n] - columns(centroid, face.right[:n])
    interface_faces, interface_ends = _match_interfaces(mesh, fine, vertices[:, :n])
    region_cells, region_ends = _refine_regions(mesh, fine, own)
    part = dict(
        cell_id=np.concatenate([cell_id, ghosts]),
        ghost_owner=ghost_owner,
        volume=volume[:n_own].copy(),
        center=center[:, :n_own],
        centroid=centroid[:, :n_own],
        left=face.left,
        right=face.right,
        area=face.area,
        normal=face.normal,
        face_center=face.center,
        left_distance=left,
        right_distance=right,
        left_offset=face.center - columns(centroid, face.left),
        right_offset=right_offset,
        boundary_ends=local.ends,
        levels=levels,
        points=fine.cells.points,
        point_id=fine.point_id,
        kind=fine.cells.kind[own],
        corners=fine.cells.corners[place],
        vertices=vertices,
        start=start,
        interface_faces=interface_faces,
        interface_ends=interface_ends,
        region_cells=region_cells,
        region_ends=region_ends,
    )
    if order is not own:
        part["near_order"] = order
    known = dict(
        names=mesh._names,
        interfaces=list(mesh.interfaces),
        regions=list(mesh.regions),
        quality=report,
    )
    return part, known


# ---- cells and points ----------------------------------------------------------------------------


def _cut(mesh):
    """The `_FineCells` and their half-faces. Collective."""
    n_children = 2**mesh.dim
    coarse = np.argsort(mesh.cell_id[: mesh.n_cells])
    place, start = take_rows(mesh.start, coarse)
    with mesh.ranks.raising_together():
        split = cuts.split_cells(
            mesh.points, mesh.kind[coarse], start, mesh.corners[place], _list_sides(mesh)
        )
    point_id = _number_points(mesh, split)

    kinds = np.array([KIND[name] for name, _ in split.blocks], np.uint8)
    lengths = [len(rows) for _, rows in split.blocks]
    n_corners = np.repeat([N_CORNERS[k] for k in kinds.tolist()], lengths)
    start = np.concatenate([[0], np.cumsum(n_corners)])
    corners = np.concatenate([rows.ravel() for _, rows in split.blocks])
    with mesh.ranks.raising_together():
        cells, halves = faces.meet(Cells(split.points, np.repeat(kinds, lengths), start, corners))

    parent = mesh.cell_id[coarse]
    cell_id = n_children * parent[:, None] + np.arange(n_children)
    fine = _FineCells(
        cells, halves.volume, halves.centroid, cell_id.ravel(), point_id, split.facets, coarse
    )
    return fine, halves


def _list_sides(mesh):
    """{(what, which): points (width, n)} of the faces whose parts must be known again."""
    ends = mesh.boundary_ends[1:]
    sides = {}
    for k, (a, b) in enumerate(zip(ends[:-1], ends[1:])):
        sides[SET, k] = mesh.vertices[:, a:b]

    n = mesh.n_inner
    far_cell = np.maximum(mesh.left[:n], mesh.right[:n])
    between = np.flatnonzero(far_cell >= mesh.n_cells)
    owner = mesh.ghost_owner[far_cell[between] - mesh.n_cells]
    for q in np.unique(owner):
        sides[RANK, int(q)] = columns(mesh.vertices, between[owner == q])
    for name, members in mesh.interfaces.items():
        sides[INTERFACE, name] = columns(mesh.vertices, members)
    return sides


def _number_points(mesh, split):
    """The numbers of the points in the whole mesh, increasing. Collective."""
    ranks = mesh.ranks
    n_points = ranks.max(int(mesh.point_id.max(initial=-1))) + 1
    parts = [mesh.point_id]
    first = n_points
    for size, width in cuts.TELLING_POINTS.items():
        rows = split.new_points.get(size, np.empty((width, 0), np.int64))
        number, count = number_tuples(ranks, mesh.point_id[rows], n_points)
        parts.append(first + number)
        first += count
    return np.concatenate(parts)


# ---- faces ---------------------------------------------------------------------------------------


def _link(mesh, fine, halves):
    """The `_Links` between the cells. Collective.

    The left cell is that of the smaller number in the whole mesh, and a face's points are listed as
    that cell has them, so that all ranks measure it in the same way.
    """
    ranks = mesh.ranks
    n_own = len(fine.cell_id)
    n_sets = len(mesh.boundary_ends) - 2
    width = len(mesh.vertices)
    all_vertices = _widen(halves.vertices, width)
    outer_vertices = columns(all_vertices, halves.lonely)
    label = _label_sides(fine, outer_vertices, n_sets)

    # Both ranks have the faces between them in the order of their points.
    key = face_keys(outer_vertices, len(fine.point_id))
    number = np.append(fine.point_id, -1)  # the last entry serves vertex -1
    messages: list[Any] = [None] * ranks.size
    shared = {}
    for what, q in fine.sides:
        if what == RANK:
            members = np.flatnonzero(label == n_sets + q)
            half = halves.lonely[members[np.argsort(key[members])]]
            shared[q] = half
            messages[q] = (fine.cell_id[halves.cell[half]], number[all_vertices[:, half]])
    received = ranks.swap(messages)

    none = np.empty(0, np.int64)
    half = np.concatenate([none, *shared.values()])
    mine = halves.cell[half]
    theirs = np.concatenate([none, *[received[q][0] for q in shared]])
    owner = np.concatenate([none, *[np.full(len(part), q) for q, part in shared.items()]])
    ghosts, first = np.unique(theirs, return_index=True)
    beyond = n_own + np.searchsorted(ghosts, theirs)
    is_left = fine.cell_id[mine] < theirs

    own_vertices = columns(all_vertices, half)
    far_points = np.concatenate([own_vertices[:, :0], *[received[q][1] for q in shared]], axis=1)
    far_vertices = np.where(far_points < 0, -1, np.searchsorted(fine.point_id, far_points))
    shared_vertices = np.where(is_left, own_vertices, far_vertices)

    outer = np.flatnonzero(label < n_sets)
    outer = outer[np.argsort(label[outer], kind="stable")]
    outer_half = halves.lonely[outer]
    n_inner = len(halves.first) + len(half)
    ends = n_inner + np.searchsorted(label[outer], np.arange(n_sets + 1))
    no_cell = np.full(len(outer), -1)
    left = [halves.cell[halves.first], np.where(is_left, mine, beyond), halves.cell[outer_half]]
    right = [halves.cell[halves.second], np.where(is_left, beyond, mine), no_cell]
    vertices = [
        columns(all_vertices, halves.first),
        shared_vertices,
        columns(outer_vertices, outer),
    ]
    return _Links(
        np.concatenate(left),
        np.concatenate(right),
        np.concatenate(vertices, axis=1),
        ends,
        ghosts,
        owner[first],
    )


def _widen(vertices, width):
    """Points of faces in so many rows, as other ranks have them."""
    n_missing = width - len(vertices)
    if not n_missing:
        return vertices
    return np.pad(vertices, ((0, n_missing), (0, 0)), constant_values=-1)


def _label_sides(fine, vertices, n_sets):
    """For each face on the boundary of this rank's cells the number of its set, or n_sets and the
    rank beyond it.
    """
    wanted = [np.empty((len(vertices), 0), np.int64)]
    labels = [np.empty(0, np.int64)]
    for (what, which), points in fine.sides.items():
        if what != INTERFACE:
            wanted.append(points)
            labels.append(np.full(points.shape[1], which + n_sets * (what == RANK)))
    face = match_faces(vertices, join_faces(wanted), len(fine.point_id))
    label = np.empty(vertices.shape[1], np.int64)
    label[face] = np.concatenate(labels)
    return label


def _sort_own(ranks, links, n_own):
    """(own, order): the cells in the order of this rank, and in one in which neighbours lie close;
    the first is that of the file on one rank, and the second on several.
    """
    is_own = (links.right >= 0) & (np.maximum(links.left, links.right) < n_own)
    left = links.left[is_own]
    inner = _InnerFaces(left, links.right[is_own], np.ones(len(left)))
    users_order = np.arange(n_own)
    order = partition.sort_cells(adjacency(inner, n_own), users_order)
    if ranks.size > 1:
        return order, order
    if partition.measure_reach(inner, users_order) <= partition.measure_reach(inner, order):
        return users_order, users_order
    return users_order, order


def _measure(points, centroid, local, vertices):
    """The geometry of the faces, in this rank's numbers."""
    vector, center = faces.measure_faces(points, vertices)
    if len(points) == 1:
        vector = np.sign(center - columns(centroid, local.left))
    area = np.linalg.norm(vector, axis=0)
    vector /= area
    return Faces(local.left, local.right, vertices, area, vector, center, local.ends[1:])


def _match_interfaces(mesh, fine, vertices):
    """The inner faces of each interface in one row, and where each begins."""
    found = [np.empty(0, np.int64)]
    for name in mesh.interfaces:
        wanted = fine.sides.get((INTERFACE, name))
        if wanted is None:
            found.append(found[0])
        else:
            found.append(np.sort(match_faces(vertices, wanted, len(fine.point_id))))
    return np.concatenate(found), np.cumsum([len(members) for members in found])


# ---- what follows the cells ----------------------------------------------------------------------


def _refine_regions(mesh, fine, own):
    """The cells of each region in one row, and where each begins."""
    found = [np.empty(0, np.int64)]
    for members in mesh.regions.values():
        is_member = np.zeros(mesh.n_cells, bool)
        is_member[members] = True
        is_child = np.repeat(is_member[fine.coarse], 2**mesh.dim)
        found.append(np.flatnonzero(is_child[own]))
    return np.concatenate(found), np.cumsum([len(members) for members in found])


def _nest_levels(mesh, fine, own, face, rule, follows):
    """(levels (n_levels, n_cells), patch (n_cells,)): patches inside the coarse ones, then these;
    and the patches as this rank numbers them. Collective.
    """
    ranks = mesh.ranks
    n_children = 2**mesh.dim
    coarse_levels = columns(mesh.levels, fine.coarse)
    coarse_patch = np.repeat(coarse_levels[0], n_children)
    parent = np.repeat(np.arange(mesh.n_cells), n_children)

    n = face.n_inner
    is_own = np.maximum(face.left[:n], face.right[:n]) < len(own)
    inner = _InnerFaces(
        own[face.left[:n][is_own]], own[face.right[:n][is_own]], face.area[:n][is_own]
    )
    sizes = choose_sizes(ranks, rule, mesh.kind, mesh.patch, follows)
    part = divide_patches(fine.cells.kind, inner, parent, coarse_patch, sizes)
    patch = number_patches(ranks, part, coarse_patch, fine.cell_id)
    levels = np.concatenate([patch[None], np.repeat(coarse_levels, n_children, axis=1)])
    return columns(levels.astype(np.int32), own), part[own]


def _choose_groups(levels, share):
    """The groups (n_cells,) of this rank's cells, numbered on this rank: patches of the first level
    that are large enough. Collective.
    """
    counts = share.max(levels.max(axis=1)) + 1
    is_large = share.n_cells_global >= GROUP_SIZES[0] * counts
    level = int(is_large.argmax()) if is_large.any() else len(levels) - 1
    _, group = np.unique(levels[level], return_inverse=True)
    return group.ravel()


def _add_outside(number, n_ghosts):
    """Numbers of groups of cells, and a last one for all ghosts."""
    return np.append(number, np.full(n_ghosts, number.max() + 1))
