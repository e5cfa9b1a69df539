"""Cells that touch without sharing points or edges: points in one place are merged, edges on one
line are coupled part by part.

Both look at boundary faces alone. Points of different numbers in one place (of files put together,
of output cell by cell) are the same up to the round-off of their coordinates. A point that hangs on
an edge of the boundary becomes a corner of the cell behind it, which is then a polygon: its edge
consists of parts, and each part has its own neighbour. In space, faces that touch in parts are not
coupled but refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..arguments.types import Array, IntArray
from ..errors import MeshError
from .cells import POLYGON, Cells, columns, face_keys
from .faces import Faces, HalfFaces, find_next_vertices, meet
from .facets import join_faces

# Of the shortest edge at a point: distances that coordinates in single precision leave, also where
# they have been turned or scaled since.
POINT_SLACK = 1e-5

# Of the depth of the cells behind a face of the boundary: what is farther from it is no round-off,
# however long the face is.
DEPTH_SLACK = 0.1

# Units in the last place of the coordinates by which points in one place may differ, too.
ROUNDED_UNITS = 8

# Of the shortest edge at a point: nothing farther apart is taken for round-off.
MAX_SLACK = 1e-3

# Of an edge's length: how far beside it a point may be that hangs on it, also for round-off.
LINE_SLACK = 1e-5

# Numbers of digits of text files: where all coordinates have no more, points may be off a line by
# one in the last digit.
TEXT_DIGITS = (6, 7, 8)

# Of the size of a face: walls that are thinner are hardly meant to be walls.
THIN_WALL_GAP = 1e-2

# Of the size of a face: how near the centres of other faces lie that may face it.
FACING_REACH = 0.6

# Of the angle between the normal of one face and the reversed normal of the other.
FACING_COSINE = 0.9

# Of the depth of the cell behind a face: what is farther behind it lies across the mesh.
BEHIND_DEPTH = 0.5

# Of normals, and of distances from the origin relative to the mesh's size, of faces in one plane.
PLANE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class JoinedCells:
    """Cells that share the points and edges in which they touch."""

    cells: Cells
    halves: HalfFaces
    facets: Any  # as `faces.build_faces` takes them, in terms of these cells
    n_merged: int = 0  # points that had others in their place
    opened: tuple[Any, ...] = ()  # names of boundary faces that merging puts between cells
    n_hanging: int = 0  # points on edges that became corners of the cells behind


def join_cells(cells: Cells, facets: Any, merge: bool) -> JoinedCells:
    """The `JoinedCells` of these cells.

    facets : {name: points (width, n) of its faces}, or a function of the boundary faces' points
    merge : whether points in one place are the same; if not, they make walls between cells

    Raises `MeshError` for cells that would have a point twice.
    """
    cells, halves = meet(cells)
    mesh = JoinedCells(cells, halves, facets)
    if merge:
        mesh = _merge_points(mesh)
    if cells.dim == 2:
        mesh = _couple_edges(mesh, in_parts=merge)
    return mesh


# ---- points --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Border:
    """The boundary faces of cells, and the points on them."""

    points: Array  # (dim, n_points) of the whole mesh
    vertices: IntArray  # (width, n_faces)
    behind: Array  # (dim, n_faces) the centroid of the cell behind each face

    @classmethod
    def find(cls, mesh: JoinedCells) -> _Border:
        halves = mesh.halves
        behind = columns(halves.centroid, halves.cell[halves.lonely])
        return cls(mesh.cells.points, columns(halves.vertices, halves.lonely), behind)

    @cached_property
    def used(self) -> IntArray:
        """(n,) numbers of the points on the boundary."""
        return np.unique(self.vertices[self.vertices >= 0])

    @cached_property
    def slack(self) -> Array:
        """(n_points,) how far round-off may move a point of the boundary."""
        shortest = self._find_shortest_edges()
        place = columns(self.points, self.used)
        in_single = place.astype(np.float32)
        is_single = bool((place == in_single).all())
        precision = np.float32 if is_single else float
        rounding = np.finfo(precision).eps
        unit = rounding * np.abs(place).max(initial=0.0)
        slack = np.maximum(POINT_SLACK * shortest, ROUNDED_UNITS * unit)
        slack = np.minimum(slack, MAX_SLACK * shortest)

        least = np.full(self.points.shape[1], np.inf)
        for corner in self.vertices:
            is_corner = corner >= 0
            np.minimum.at(least, corner[is_corner], self.depth[is_corner])
        return np.minimum(slack, DEPTH_SLACK * least)

    @cached_property
    def depth(self) -> Array:
        """(n_faces,) the distance of each face's plane from the centroid behind it."""
        first = columns(self.points, self.vertices[0])
        step = self.behind - first
        if len(first) == 1:
            return np.abs(step[0])
        if len(first) == 2:
            along = columns(self.points, self.vertices[1]) - first
            across = along[0] * step[1] - along[1] * step[0]
            return np.abs(across) / np.maximum(np.linalg.norm(along, axis=0), 1e-300)

        corner = [columns(self.points, v) for v in self.vertices]
        normal = np.cross(corner[1] - first, corner[2] - first, axis=0)
        if len(corner) == 4:
            is_quad = self.vertices[3] >= 0
            diagonals = np.cross(corner[2] - first, corner[3] - corner[1], axis=0)
            normal = np.where(is_quad, diagonals, normal)
        size = np.maximum(np.linalg.norm(normal, axis=0), 1e-300)
        return np.abs((normal * step).sum(axis=0)) / size

    def _find_shortest_edges(self):
        """(n_points,) length of the shortest edge at each point of the boundary."""
        shortest = np.full(self.points.shape[1], np.inf)
        if len(self.vertices) == 1:
            shortest[:] = np.ptp(self.points[0]) / max(len(self.used) - 1, 1)
            return shortest

        for a, b in zip(self.vertices, find_next_vertices(self.vertices)):
            is_edge = (a >= 0) & (a != b)
            a = a[is_edge]
            b = b[is_edge]
            step = columns(self.points, a) - columns(self.points, b)
            length = np.linalg.norm(step, axis=0)
            np.minimum.at(shortest, a, length)
            np.minimum.at(shortest, b, length)
        return shortest

    @cached_property
    def last_place(self) -> float:
        """One in the last digit of the coordinates of a text file; 0 where they have more than
        `TEXT_DIGITS`.
        """
        size = np.abs(columns(self.points, self.used)).ravel()
        size = size[size > 0]
        power = 10.0 ** np.floor(np.log10(size))
        for digits in TEXT_DIGITS:
            rounded = np.round(size / power, digits - 1) * power
            error = np.abs(rounded - size)
            if (error < 1e-13 * size).all():
                return 10.0 ** (1 - digits) * power.max(initial=0.0)
        return 0.0


def _merge_points(mesh):
    """The same with one number for all points of the boundary in one place: the smallest."""
    number = _number_places(_Border.find(mesh))
    n_merged = int((number != np.arange(len(number))).sum())
    if not n_merged:
        return mesh
    cells = replace(mesh.cells, corners=number[mesh.cells.corners])
    _check_corners_differ(mesh.cells, cells)
    cells, halves = meet(cells)
    if not isinstance(mesh.facets, dict):
        return JoinedCells(cells, halves, mesh.facets, n_merged)

    n_points = len(number)
    number = np.append(number, -1)  # the last entry serves vertex -1
    facets = {}
    opened = []
    for name, points in mesh.facets.items():
        merged = points
        if _are_numbers(points, n_points):
            merged = number[np.asarray(points)]
        facets[name] = merged

        n_before = _count_faces(mesh.halves, points)
        n_after = _count_faces(halves, merged)
        if n_after < n_before:
            opened.append(name)
    return JoinedCells(cells, halves, facets, n_merged, tuple(opened))


def _count_faces(halves, points):
    """How many half-faces of the boundary have these points (width, n)."""
    if np.ndim(points) != 2 or not np.size(points):
        return 0
    border = columns(halves.vertices, halves.lonely)
    both = join_faces([border, np.asarray(points)])
    n_points = int(both.max(initial=0)) + 1
    key = face_keys(both, n_points)
    n_border = border.shape[1]
    is_listed = np.isin(key[:n_border], key[n_border:])
    return int(is_listed.sum())


def _number_places(border):
    """(n_points,) the smallest number of the points in the same place."""
    used = columns(border.points, border.used)
    place, same = np.unique(used, axis=1, return_inverse=True)
    same = same.ravel()
    n_places = place.shape[1]
    slack = np.full(n_places, np.inf)
    np.minimum.at(slack, same, border.slack[border.used])

    near = np.empty((0, 2), int)
    if place.size:
        tree = cKDTree(place.T)
        largest = slack.max(initial=0.0)
        near = tree.query_pairs(largest, output_type="ndarray")

    first, second = near.T
    step = columns(place, first) - columns(place, second)
    distance = np.linalg.norm(step, axis=0)
    is_same_place = distance <= np.minimum(slack[first], slack[second])
    links = tuple(near[is_same_place].T)
    ones = np.ones(len(links[0]))
    graph = sparse.coo_matrix((ones, links), (n_places, n_places))
    _, cluster_of_place = connected_components(graph, directed=False)
    cluster = cluster_of_place[same]

    n_points = border.points.shape[1]
    n_clusters = cluster.max(initial=-1) + 1
    smallest = np.full(n_clusters, n_points)
    np.minimum.at(smallest, cluster, border.used)
    number = np.arange(n_points)
    number[border.used] = smallest[cluster]
    return number


def _check_corners_differ(before, cells):
    """`MeshError` if a cell has a point twice that had two different ones."""
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))

    def count_repeats(corners: IntArray) -> IntArray:
        order = np.lexsort((corners, owner))
        corner = corners[order]
        cell = owner[order]
        is_same_corner = corner[1:] == corner[:-1]
        is_same_cell = cell[1:] == cell[:-1]
        repeated = cell[1:][is_same_corner & is_same_cell]
        return np.bincount(repeated, minlength=cells.n_cells)

    n_repeats = count_repeats(cells.corners)
    n_repeats_before = count_repeats(before.corners)
    bad = np.flatnonzero(n_repeats > n_repeats_before)
    if len(bad):
        raise MeshError(
            f"cell {bad[0]} has corners in one place: merging points would give it the same point "
            f"twice ({len(bad)} such cells); repair this cell, or keep all points apart with "
            "merge=False"
        )


def _are_numbers(points, n_points):
    """Whether these are numbers of points, or -1; of anything else `faces.build_faces` says what is
    wrong.
    """
    try:
        points = np.asarray(points)
    except ValueError:
        return False
    if not np.issubdtype(points.dtype, np.integer):
        return False
    return points.size == 0 or -1 <= points.min() and points.max() < n_points


# ---- edges in the plane --------------------------------------------------------------------------


def _couple_edges(mesh, in_parts):
    """The same with the points that hang on edges as corners of the cells behind them.

    in_parts : whether an edge may be coupled in some of its parts, and be a wall in the others
    """
    border = _Border.find(mesh)
    if not border.vertices.size:
        return mesh
    edge, point = _find_hanging_points(border)
    while len(edge):
        is_coupled = _find_coupled_edges(border.vertices, edge, point, in_parts)
        if is_coupled[edge].all():
            break
        # Edges that stay whole may be no partners of others any more.
        kept = is_coupled[edge]
        edge = edge[kept]
        point = point[kept]
    if not len(edge):
        return mesh

    cells = _insert_corners(mesh.cells, mesh.halves.lonely[edge], point)
    facets = mesh.facets
    if isinstance(facets, dict):
        n_points = cells.points.shape[1]
        facets = {
            name: _cut_facets(points, border.vertices, edge, point, n_points)
            for name, points in facets.items()
        }
    cells, halves = meet(cells)
    n_hanging = len(np.unique(point))
    return replace(mesh, cells=cells, halves=halves, facets=facets, n_hanging=n_hanging)


def _find_hanging_points(border):
    """(edge, point): the points of the boundary inside its edges, in order along each edge."""
    a, b = (columns(border.points, end) for end in border.vertices)
    length = np.linalg.norm(b - a, axis=0)
    tree = cKDTree(columns(border.points, border.used).T)
    middle = ((a + b) / 2).T
    radius = length / 2 * (1 + MAX_SLACK)
    n_near = tree.query_ball_point(middle, radius, return_length=True)
    candidate = np.flatnonzero(n_near > 2)  # the ends are always there
    near = tree.query_ball_point(middle[candidate], radius[candidate])
    edge = np.repeat(candidate, n_near[candidate]).astype(int)
    near = np.concatenate([np.empty(0, int), *near]).astype(int)
    point = border.used[near]

    length = length[edge]
    begin = columns(a, edge)
    along = (columns(b, edge) - begin) / length
    step = columns(border.points, point) - begin
    place = (along * step).sum(axis=0)
    distance = np.abs(along[0] * step[1] - along[1] * step[0])

    ends = border.vertices[:, edge]
    slack = np.minimum(*border.slack[ends])
    slack = np.minimum(slack, border.slack[point])
    last_place = np.minimum(border.last_place, MAX_SLACK * length)
    beside = np.maximum(slack, LINE_SLACK * length)
    beside = np.maximum(beside, last_place)
    beside = np.minimum(beside, DEPTH_SLACK * border.depth[edge])
    is_on_line = distance <= beside
    is_between_ends = (place > slack) & (place < length - slack)
    is_inside = is_on_line & is_between_ends
    edge = edge[is_inside]
    point = point[is_inside]
    order = np.lexsort((point, place[is_inside], edge))
    return edge[order], point[order]


def _find_coupled_edges(vertices, edge, point, in_parts):
    """(n_edges,) bool: whether all parts of an edge, or some of them, have a partner."""
    n_edges = vertices.shape[1]
    has_partner = _find_partners(vertices, edge, point)
    first_part = np.searchsorted(_number_edges(edge, n_edges), np.arange(n_edges))
    combine = np.logical_or if in_parts else np.logical_and
    return combine.reduceat(has_partner, first_part)


def _number_edges(edge, n_edges):
    """The edge of each part, where *edge* has the edges of the points on them."""
    n_parts = np.bincount(edge, minlength=n_edges) + 1
    return np.repeat(np.arange(n_edges), n_parts)


def _cut_edges(vertices, edge, point):
    """(from (n,), to (n,)): the points where the parts of all edges begin and end, edge by edge."""
    count = np.bincount(edge, minlength=vertices.shape[1])
    begin = np.repeat(vertices[0], count + 1)
    end = np.repeat(vertices[1], count + 1)
    place = np.arange(len(point)) + edge  # of the part that ends in the point
    end[place] = point
    begin[place + 1] = point
    return begin, end


def _find_partners(vertices, edge, point):
    """Whether each part of the edges has a part of another edge that runs the other way."""
    begin, end = _cut_edges(vertices, edge, point)
    n_points = int(max(begin.max(), end.max())) + 1
    forwards = begin * n_points + end
    backwards = end * n_points + begin
    return np.isin(forwards, backwards)


def _insert_corners(cells, half, point):
    """The cells with new corners after the first ones of some half-faces, which are numbered like
    the corners; these cells become polygons.
    """
    kind = cells.kind.copy()
    cell = np.searchsorted(cells.start, half, side="right") - 1
    kind[cell] = POLYGON
    n_new = np.bincount(cell, minlength=cells.n_cells)
    count = np.diff(cells.start) + n_new
    start = np.concatenate([[0], np.cumsum(count)])
    corners = np.insert(cells.corners, half + 1, point)
    return Cells(cells.points, kind, start, corners)


def _cut_facets(points, vertices, edge, point, n_points):
    """Named edges (2, n), with the parts of edges that have points on them."""
    if not _are_numbers(points, n_points) or np.ndim(points) != 2 or len(points) != 2:
        return points  # `faces.build_faces` says what is wrong
    points = np.asarray(points)
    key = face_keys(vertices, n_points)
    point_key = face_keys(points, n_points)
    is_cut = np.isin(point_key, key[edge])
    is_named = np.isin(key, point_key[is_cut])

    begin, end = _cut_edges(vertices, edge, point)
    edge_of_part = _number_edges(edge, vertices.shape[1])
    part_is_named = is_named[edge_of_part]
    parts = np.stack([begin[part_is_named], end[part_is_named]])
    return np.concatenate([points[:, ~is_cut], parts], axis=1)


# ---- walls without thickness ---------------------------------------------------------------------


def count_thin_walls(faces: Faces, centroid: Array) -> tuple[int, float]:
    """(number, largest relative gap) of the boundary faces beside others that face them: the two
    sides of a wall.

    A gap is the distance of a face's centre from the other face, relative to the smaller face.

    centroid (dim, n_cells) : of the cells
    """
    dim = len(faces.normal)
    border = slice(faces.n_inner, None)
    center = faces.center[:, border]
    if dim == 1 or not center.size:
        return 0, 0.0
    size = faces.area[border] ** (1 / (dim - 1))
    one, other = _find_near_pairs(center, FACING_REACH * size)

    normal = faces.normal[:, border]
    own_normal = columns(normal, one)
    other_normal = columns(normal, other)
    cosine = (own_normal * other_normal).sum(axis=0)
    step = columns(center, other) - columns(center, one)
    height = (own_normal * step).sum(axis=0)
    gap = np.abs(height) / np.minimum(size[one], size[other])

    depth = _find_depths(faces, centroid)[border]
    is_across = height < -BEHIND_DEPTH * depth[one]
    is_wall = (cosine < -FACING_COSINE) & (gap < THIN_WALL_GAP) & ~is_across
    both_sides = np.concatenate([one[is_wall], other[is_wall]])
    n_sides = len(np.unique(both_sides))
    largest_gap = gap[is_wall].max(initial=0.0)
    return n_sides, float(largest_gap)


def _find_depths(faces, centroid):
    """(n_faces,) the distance of each face's plane from the centroid on the left."""
    step = faces.center - columns(centroid, faces.left)
    return (faces.normal * step).sum(axis=0)


def _find_near_pairs(center, radius):
    """(one (n,), other (n,)): all pairs of points (dim, n) in which *other* is within the radius of
    *one*.
    """
    near = cKDTree(center.T).query_ball_point(center.T, radius)
    n_near = [len(others) for others in near]
    one = np.repeat(np.arange(len(near)), n_near)
    other = np.concatenate([np.asarray(others, int) for others in near])
    return one, other


# ---- faces in space ------------------------------------------------------------------------------


def check_conforming(points: Array, faces: Faces, centroid: Array) -> None:
    """`MeshError` where boundary faces of two cells in space lie on each other: they would be walls
    inside the mesh.

    centroid (dim, n_cells) : of the cells
    """
    if len(points) < 3 or faces.n_inner == len(faces.left):
        return
    pair, count = _find_touching_faces(points, faces, centroid)
    if count:
        first, second = np.sort(faces.left[pair])
        raise MeshError(
            f"cells {first} and {second} touch in a part of their faces ({count} such pairs of "
            "faces): faces must have all their points in common. Make the cells on both sides fit "
            "(in Gmsh: BooleanFragments or Coherence), or take the faces between them for walls "
            "(merge=False)"
        )


def _find_touching_faces(points, faces, centroid):
    """(two faces, number of pairs): boundary faces that lie on each other, facing opposite ways."""
    border = slice(faces.n_inner, None)
    in_planes = _find_opposite_planes(faces.normal[:, border], faces.center[:, border])
    candidate = faces.n_inner + in_planes
    if not len(candidate):
        return None, 0

    vertices = columns(faces.vertices, candidate)
    center = columns(faces.center, candidate)
    normal = columns(faces.normal, candidate)
    vertices = np.where(vertices < 0, vertices[0], vertices)
    corner = points[:, vertices]  # (3, width, n)
    reach = np.linalg.norm(corner - center[:, None], axis=0)
    radius = reach.max(axis=0)
    # Of two faces the larger one finds the smaller one.
    one, two = _find_near_pairs(center, 2 * radius)
    step = center[:, two] - center[:, one]
    height = (normal[:, one] * step).sum(axis=0)
    depth = _find_depths(faces, centroid)[candidate]
    cosine = (normal[:, one] * normal[:, two]).sum(axis=0)
    is_opposite = cosine < PLANE_TOLERANCE - 1
    is_level = np.abs(height) <= PLANE_TOLERANCE * (radius[one] + radius[two])
    is_across = height < -BEHIND_DEPTH * depth[one]
    kept = np.flatnonzero(is_opposite & is_level & ~is_across)
    one = one[kept]
    two = two[kept]

    overlaps = _find_overlaps(corner, center, normal, radius, one, two)
    overlaps |= _find_overlaps(corner, center, normal, radius, two, one)
    if not overlaps.any():
        return None, 0
    pairs = np.stack([one[overlaps], two[overlaps]])
    ordered = np.sort(pairs, axis=0)
    n_pairs = np.unique(ordered, axis=1).shape[1]
    return candidate[pairs[:, 0]], n_pairs


def _find_opposite_planes(normal, center):
    """The faces whose planes have others that face the other way."""
    origin = center.mean(axis=1, keepdims=True)
    place = center - origin
    size = np.abs(place).max(initial=0.0) + 1e-300
    height = (normal * place).sum(axis=0) / size
    plane = np.concatenate([normal, height[None]]).T
    tree = cKDTree(plane, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(-plane, distance_upper_bound=PLANE_TOLERANCE)
    return np.flatnonzero(np.isfinite(distance))


def _find_overlaps(corner, center, normal, radius, one, two):
    """Whether a point of face *two*, its centre or one half way to a corner, lies inside face
    *one*: (n,) bool.
    """
    width = corner.shape[1]
    overlaps = np.zeros(len(one), bool)
    middle = center[:, two]
    samples = [middle]
    for i in range(width):
        half_way = (middle + corner[:, i, two]) / 2
        samples.append(half_way)

    for x in samples:
        is_inside = np.ones(len(one), bool)
        for i in range(width):
            a = corner[:, i, one]
            along = corner[:, (i + 1) % width, one] - a
            across = np.cross(along, x - a, axis=0)
            side = (across * normal[:, one]).sum(axis=0)
            has_length = np.linalg.norm(along, axis=0) > 0
            is_left = side > PLANE_TOLERANCE * radius[one] ** 2
            is_inside &= ~has_length | is_left
        overlaps |= is_inside
    return overlaps
