"""Cells that touch without saying so: points in one place are merged, edges on one line are coupled
part by part.

Both look at boundary faces alone. Points of different numbers in one place (of files put together,
of output cell by cell) are the same up to the round-off of their coordinates. A point that hangs on
an edge of the boundary becomes a corner of the cell behind it, which is then a polygon: its edge
consists of parts, and each part has its own neighbour. In space, faces that touch in parts are not
coupled: they are refused.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..errors import MeshError
from .cells import POLYGON, Cells, columns, face_keys
from .faces import Halves, face_vectors, meet

# of the shortest edge at a point: distances that coordinates in single precision leave, also where
CLOSE_POINTS = 1e-5
# they have been turned or scaled since
ROUNDED_BITS = 8  # units in the last place of the coordinates, by which they may differ, too
LARGEST_SLACK = (
    1e-3  # of the shortest edge at a point: nothing farther apart is taken for round-off
)
# of an edge's length: so far beside it may a point be that hangs on it, for the same reason,
OFF_LINE = 1e-5
TEXT_DIGITS = (6, 7, 8)  # or one in the last of so many digits, where all coordinates have no more
THIN_WALL = 1e-2  # of the size of a face: walls that are thinner are hardly meant to be walls
FACING_REACH = (
    0.6  # of the size of a face, within which middles of other faces lie that may face it
)
FACING_COSINE = 0.9  # of the angle between the normal of one and that of the other, turned round
# of normals, and of distances from the origin relative to the mesh's size, of faces in one plane
SAME_DIRECTION = 1e-6


@dataclass(frozen=True)
class Joined:
    """Cells that share the points and edges in which they touch."""

    cells: Cells
    halves: Halves
    facets: dict  # as `faces.build_faces` takes them, in terms of these cells
    n_merged: int = 0  # points that had others in their place
    opened: tuple = ()  # names of boundary faces that lie between cells since points are merged
    n_hanging: int = 0  # points on edges that became corners of the cells behind


def joined(cells, facets, merge):
    """The `Joined` cells.

    facets : {name: points (width, n) of its faces}, or a function of the boundary faces' points
    merge : whether points in one place are the same; if not, they make walls between cells

    Raises `MeshError` for cells that would have a point twice.
    """
    cells, halves = meet(cells)
    made = Joined(cells, halves, facets)
    if merge:
        made = _merged(made)
    if cells.dim == 2:
        made = _coupled(made, in_parts=merge)
    return made


# ---- points --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Border:
    """The boundary faces of cells, and the points on them."""

    points: np.ndarray  # (dim, n_points) of the whole mesh
    vertices: np.ndarray  # (width, n_faces)

    @classmethod
    def of(cls, made):
        return cls(made.cells.points, columns(made.halves.vertices, made.halves.lonely))

    @cached_property
    def used(self):
        """(n,) numbers of the points on the boundary."""
        return np.unique(self.vertices[self.vertices >= 0])

    @cached_property
    def slack(self):
        """(n_points,) how far a point of the boundary may be from where it belongs, for round-off."""
        shortest = np.full(self.points.shape[1], np.inf)
        width = len(self.vertices)
        for i in range(width if width > 1 else 0):
            a = self.vertices[i]
            b = self.vertices[(i + 1) % width]
            if width == 4:  # after the third corner of a triangle comes its first
                b = np.where(b < 0, self.vertices[0], b)
            edge = np.flatnonzero((a >= 0) & (a != b))
            length = np.linalg.norm(
                columns(self.points, a[edge]) - columns(self.points, b[edge]), axis=0
            )
            np.minimum.at(shortest, a[edge], length)
            np.minimum.at(shortest, b[edge], length)
        if width == 1:
            shortest[:] = np.ptp(self.points[0]) / max(len(self.used) - 1, 1)
        here = columns(self.points, self.used)
        single = bool((here == here.astype(np.float32)).all())
        unit = np.finfo(np.float32 if single else float).eps * np.abs(here).max(initial=0.0)
        return np.minimum(
            np.maximum(CLOSE_POINTS * shortest, ROUNDED_BITS * unit), LARGEST_SLACK * shortest
        )

    @cached_property
    def last_place(self):
        """One in the last digit of the coordinates of a text file; 0 where they have more than
        `TEXT_DIGITS`.
        """
        here = np.abs(columns(self.points, self.used)).ravel()
        here = here[here > 0]
        power = 10.0 ** np.floor(np.log10(here))
        for digits in TEXT_DIGITS:
            if (np.abs(np.round(here / power, digits - 1) * power - here) < 1e-13 * here).all():
                return 10.0 ** (1 - digits) * power.max(initial=0.0)
        return 0.0


def _merged(made):
    """The same with one number for all points of the boundary in one place: the smallest."""
    border = _Border.of(made)
    number = _one_number(border)
    n_merged = int((number != np.arange(len(number))).sum())
    if not n_merged:
        return made
    cells = replace(made.cells, corners=number[made.cells.corners])
    _check_corners_differ(made.cells, cells)
    cells, halves = meet(cells)
    number = np.append(number, -1)  # the last entry serves vertex -1
    facets = made.facets
    opened = []
    if isinstance(facets, dict):
        facets = {
            name: number[np.asarray(points)] if _are_numbers(points, len(number) - 1) else points
            for name, points in facets.items()
        }
        opened = [
            name
            for name, points in facets.items()
            if _on(halves, points) < _on(made.halves, made.facets[name])
        ]
    return Joined(cells, halves, facets, n_merged, tuple(opened))


def _on(halves, points):
    """How many half-faces of the boundary have these points (width, n)."""
    if np.ndim(points) != 2 or not np.size(points):
        return 0
    border = columns(halves.vertices, halves.lonely)
    points = np.asarray(points)
    width = max(len(border), len(points))
    border, points = (
        np.pad(rows, ((0, width - len(rows)), (0, 0)), constant_values=-1)
        for rows in (border, points)
    )
    key = face_keys(
        np.concatenate([border, points], axis=1),
        int(max(border.max(initial=0), points.max(initial=0))) + 1,
    )
    return int(np.isin(key[: border.shape[1]], key[border.shape[1] :]).sum())


def _one_number(border):
    """(n_points,) the smallest number of the points in the same place."""
    here = columns(border.points, border.used)
    place, same = np.unique(here, axis=1, return_inverse=True)
    slack = np.full(place.shape[1], np.inf)
    np.minimum.at(slack, same.ravel(), border.slack[border.used])
    near = (
        cKDTree(place.T).query_pairs(slack.max(initial=0.0), output_type="ndarray")
        if place.size
        else np.empty((0, 2), int)
    )
    far = np.linalg.norm(columns(place, near[:, 0]) - columns(place, near[:, 1]), axis=0)
    near = near[far <= np.minimum(slack[near[:, 0]], slack[near[:, 1]])]
    graph = sparse.coo_matrix((np.ones(len(near)), tuple(near.T)), (place.shape[1],) * 2)
    cluster = connected_components(graph, directed=False)[1][same.ravel()]
    smallest = np.full(cluster.max(initial=-1) + 1, border.points.shape[1])
    np.minimum.at(smallest, cluster, border.used)
    number = np.arange(border.points.shape[1])
    number[border.used] = smallest[cluster]
    return number


def _check_corners_differ(before, cells):
    """No cell has a point twice that had two different ones."""
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))

    def repeats(corners):
        order = np.lexsort((corners, owner))
        same = (corners[order][1:] == corners[order][:-1]) & (owner[order][1:] == owner[order][:-1])
        return np.bincount(owner[order][1:][same], minlength=cells.n_cells)

    bad = np.flatnonzero(repeats(cells.corners) > repeats(before.corners))
    if len(bad):
        raise MeshError(
            f"cell {bad[0]} has corners in one place: merging points would give it the same point "
            "twice "
            f"({len(bad)} such cells); merge=False keeps all points apart, or mend this cell"
        )


def _are_numbers(points, n_points):
    """Whether these are numbers of points, or -1; what else they are, `faces.build_faces` says."""
    try:
        points = np.asarray(points)
    except ValueError:
        return False
    return np.issubdtype(points.dtype, np.integer) and (
        points.size == 0 or -1 <= points.min() and points.max() < n_points
    )


# ---- edges in the plane --------------------------------------------------------------------------


def _coupled(made, in_parts):
    """The same with the points that hang on edges as corners of the cells behind them.

    in_parts : whether an edge may be coupled in some of its parts, and be a wall in the others
    """
    border = _Border.of(made)
    edge, point = _hanging(border) if border.vertices.size else (border.used, border.used)
    while len(edge):
        meets = _meets(border.vertices, edge, point)
        part_of = np.repeat(
            np.arange(border.vertices.shape[1]),
            np.bincount(edge, minlength=border.vertices.shape[1]) + 1,
        )
        enough = np.logical_or if in_parts else np.logical_and
        coupled = enough.reduceat(
            meets, np.searchsorted(part_of, np.arange(border.vertices.shape[1]))
        )
        if coupled[edge].all():
            break
        edge, point = (
            edge[coupled[edge]],
            point[coupled[edge]],
        )  # edges that stay whole may be partners no more
    if not len(edge):
        return made
    cells = _with_corners(made.cells, made.halves.lonely[edge], point)
    facets = made.facets
    if isinstance(facets, dict):
        facets = {
            name: _cut_facets(points, border.vertices, edge, point, cells.points.shape[1])
            for name, points in facets.items()
        }
    cells, halves = meet(cells)
    return replace(made, cells=cells, halves=halves, facets=facets, n_hanging=len(np.unique(point)))


def _hanging(border):
    """(edge, point): the points of the boundary that lie inside its edges, in the order in which
    they come along each.
    """
    a, b = (columns(border.points, end) for end in border.vertices)
    length = np.linalg.norm(b - a, axis=0)
    tree = cKDTree(columns(border.points, border.used).T)
    middle = ((a + b) / 2).T
    radius = length / 2 * (1 + LARGEST_SLACK)
    some = np.flatnonzero(
        tree.query_ball_point(middle, radius, return_length=True) > 2
    )  # its ends are always there
    near = tree.query_ball_point(middle[some], radius[some])
    edge = np.repeat(some, [len(points) for points in near]).astype(int)
    point = (
        border.used[np.concatenate([np.asarray(points, int) for points in near])]
        if len(near)
        else np.empty(0, int)
    )
    along = (columns(b, edge) - columns(a, edge)) / length[edge]
    step = columns(border.points, point) - columns(a, edge)
    place = (along * step).sum(axis=0)
    aside = np.abs(along[0] * step[1] - along[1] * step[0])
    slack = np.minimum(
        border.slack[border.vertices[0, edge]], border.slack[border.vertices[1, edge]]
    )
    slack = np.minimum(slack, border.slack[point])
    rounded = np.minimum(border.last_place, LARGEST_SLACK * length[edge])
    on_line = aside <= np.maximum(np.maximum(slack, OFF_LINE * length[edge]), rounded)
    inside = on_line & (place > slack) & (place < length[edge] - slack)
    edge = edge[inside]
    point = point[inside]
    place = place[inside]
    order = np.lexsort((point, place, edge))
    return edge[order], point[order]


def _parts(vertices, edge, point):
    """(from (n,), to (n,)) the points at which the parts of all edges begin and end, edge by edge."""
    count = np.bincount(edge, minlength=vertices.shape[1])
    begin = np.repeat(vertices[0], count + 1)
    end = np.repeat(vertices[1], count + 1)
    place = np.arange(len(point)) + edge  # of the part that ends in the point
    end[place] = point
    begin[place + 1] = point
    return begin, end


def _meets(vertices, edge, point):
    """Whether each part of the edges has one of another edge that runs the other way."""
    begin, end = _parts(vertices, edge, point)
    n_points = int(max(begin.max(), end.max())) + 1
    return np.isin(begin * n_points + end, end * n_points + begin)


def _with_corners(cells, half, point):
    """The cells with new corners after the first ones of some half-faces, which are numbered as the
    corners; polygons then.
    """
    kind = cells.kind.copy()
    cell = np.searchsorted(cells.start, half, side="right") - 1
    kind[cell] = POLYGON
    count = np.diff(cells.start) + np.bincount(cell, minlength=cells.n_cells)
    return Cells(
        cells.points,
        kind,
        np.concatenate([[0], np.cumsum(count)]),
        np.insert(cells.corners, half + 1, point),
    )


def _cut_facets(points, vertices, edge, point, n_points):
    """Named edges (2, n), those that have points on them as their parts."""
    if not _are_numbers(points, n_points) or np.ndim(points) != 2 or len(points) != 2:
        return points  # `faces.build_faces` says what is wrong
    points = np.asarray(points)
    cut = np.unique(edge)
    named = np.isin(face_keys(points, n_points), face_keys(vertices[:, cut], n_points))
    mine = np.isin(face_keys(vertices, n_points), face_keys(points[:, named], n_points))
    begin, end = _parts(vertices, edge, point)
    part_of = np.repeat(
        np.arange(vertices.shape[1]), np.bincount(edge, minlength=vertices.shape[1]) + 1
    )
    parts = np.stack([begin, end])[:, mine[part_of]]
    return np.concatenate([points[:, ~named], parts], axis=1)


# ---- walls without thickness ---------------------------------------------------------------------


def thin_walls(made):
    """(number, largest relative gap) of the boundary faces that lie next to others that face them:
    two sides of a wall.

    A gap is the distance of a face's middle from the other face, relative to the smaller one of the
    two.
    """
    lonely = made.halves.lonely
    if made.cells.dim == 1 or not len(lonely):
        return 0, 0.0
    vector, center = face_vectors(made.cells.points, columns(made.halves.vertices, lonely))
    area = np.linalg.norm(vector, axis=0)
    size = area ** (1 / (made.cells.dim - 1))
    near = cKDTree(center.T).query_ball_point(center.T, FACING_REACH * size)
    one = np.repeat(np.arange(len(size)), [len(others) for others in near])
    other = np.concatenate([np.asarray(others, int) for others in near])

    normal = vector / area
    opposite = (columns(normal, one) * columns(normal, other)).sum(axis=0) < -FACING_COSINE
    gap = np.abs(
        (columns(normal, one) * (columns(center, other) - columns(center, one))).sum(axis=0)
    )
    gap = gap / np.minimum(size[one], size[other])
    facing = opposite & (gap < THIN_WALL)
    return len(np.unique(np.concatenate([one[facing], other[facing]]))), float(
        gap[facing].max(initial=0.0)
    )


# ---- faces in space ------------------------------------------------------------------------------


def check_conforming(made):
    """`MeshError` where, in space, boundary faces of two cells lie on each other: they would be
    walls inside the mesh.
    """
    if made.cells.dim < 3 or not len(made.halves.lonely):
        return
    pair, count = _touching(made)
    if count:
        cell = np.sort(made.halves.cell[pair])
        raise MeshError(
            f"cells {cell[0]} and {cell[1]} touch in a part of their faces ({count} such pairs of "
            "faces): "
            "faces must have all their points in common. Make the cells on both sides fit (in "
            "Gmsh: "
            "BooleanFragments or Coherence), or take the faces between them for walls (merge=False)"
        )


def _touching(made):
    """(two half-faces, number of pairs): boundary faces that lie on each other, and face opposite
    ways.
    """
    lonely = made.halves.lonely
    vertices = columns(made.halves.vertices, lonely)
    vector, center = face_vectors(made.cells.points, vertices)
    normal = vector / np.linalg.norm(vector, axis=0)
    origin = center.mean(axis=1, keepdims=True)
    size = np.abs(center - origin).max(initial=0.0) + 1e-300
    plane = np.concatenate([normal, (normal * (center - origin)).sum(axis=0)[None] / size]).T
    tree = cKDTree(plane, balanced_tree=False, compact_nodes=False)
    far, _ = tree.query(-plane, distance_upper_bound=SAME_DIRECTION)
    some = np.flatnonzero(
        np.isfinite(far)
    )  # faces whose planes have others that face the other way
    if not len(some):
        return None, 0
    vertices = vertices[:, some]
    center = center[:, some]
    normal = normal[:, some]
    vertices = np.where(vertices < 0, vertices[0], vertices)
    corner = made.cells.points[:, vertices]  # (3, width, n)
    radius = np.linalg.norm(corner - center[:, None], axis=0).max(axis=0)
    near = cKDTree(center.T).query_ball_point(
        center.T, 2 * radius
    )  # of two faces the larger one finds the smaller one
    one = np.repeat(np.arange(len(some)), [len(found) for found in near])
    two = np.concatenate([np.asarray(found, int) for found in near])
    level = np.abs((normal[:, one] * (center[:, two] - center[:, one])).sum(axis=0))
    opposite = (normal[:, one] * normal[:, two]).sum(axis=0) < SAME_DIRECTION - 1
    kept = np.flatnonzero(opposite & (level <= SAME_DIRECTION * (radius[one] + radius[two])))
    one = one[kept]
    two = two[kept]
    over = _overlap(corner, center, normal, radius, one, two) | _overlap(
        corner, center, normal, radius, two, one
    )
    if not over.any():
        return None, 0
    first = np.flatnonzero(over)[0]
    pairs = np.unique(np.sort(np.stack([one[over], two[over]]), axis=0), axis=1).shape[1]
    return lonely[some[[one[first], two[first]]]], pairs


def _overlap(corner, center, normal, radius, one, two):
    """Whether a point of face *two*, its centre or one half way to a corner, lies inside of face
    *one*: (n,) bool.
    """
    width = corner.shape[1]
    found = np.zeros(len(one), bool)
    samples = [center[:, two], *[(center[:, two] + corner[:, i, two]) / 2 for i in range(width)]]
    for x in samples:
        inside = np.ones(len(one), bool)
        for i in range(width):
            a = corner[:, i, one]
            along = corner[:, (i + 1) % width, one] - a
            side = (np.cross(along, x - a, axis=0) * normal[:, one]).sum(axis=0)
            level = np.linalg.norm(along, axis=0) > 0
            inside &= ~level | (side > SAME_DIRECTION * radius[one] ** 2)
        found |= inside
    return found
