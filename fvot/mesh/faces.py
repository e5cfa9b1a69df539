"""From points and cells to faces and geometry, in the file's numbering.

A *half-face* is a face seen from one of its cells; two half-faces with the same points are an
inner face, a lonely one lies on the boundary. Normals point from the left cell (the smaller
number) to the right one, and out of the domain on the boundary.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arguments.types import Array, IntArray
from ..errors import MeshError
from .cells import (
    FACES,
    HEXAHEDRON,
    NAME,
    PYRAMID,
    TRIANGLE,
    WEDGE,
    Cells,
    columns,
    face_keys,
    find_next_places,
)
from .facets import name_faces

# Corners, and the ends of the three edges at each that span a positive volume.
EDGES_AT = {
    HEXAHEDRON: (
        (0, 1, 3, 4),
        (1, 2, 0, 5),
        (2, 3, 1, 6),
        (3, 0, 2, 7),
        (4, 7, 5, 0),
        (5, 4, 6, 1),
        (6, 5, 7, 2),
        (7, 6, 4, 3),
    ),
    WEDGE: ((0, 1, 2, 3), (1, 2, 0, 4), (2, 0, 1, 5), (3, 5, 4, 0), (4, 3, 5, 1), (5, 4, 3, 2)),
    PYRAMID: ((0, 1, 3, 4), (1, 2, 0, 4), (2, 3, 1, 4), (3, 0, 2, 4)),
}

# A corner is inside out if the volume of its edges, relative to their product, is below minus this:
# what is smaller may be round-off.
INSIDE_OUT_TOLERANCE = 1e-9

# A cell is flat if its volume, relative to the one that its faces could have, is not above this.
FLATNESS = 1e-12


@dataclass(frozen=True)
class HalfFaces:
    """The half-faces of cells of positive volume, and how they meet."""

    cell: IntArray  # (n_halves,)
    vertices: IntArray  # (1, 2, 3 or 4, n_halves) counter-clockwise from outside; -1 as in `Faces`
    first: IntArray  # (n_inner,) half-faces that meet those of *second*, of larger cell numbers
    second: IntArray  # (n_inner,)
    lonely: IntArray  # (n_boundary,) half-faces that meet none
    volume: Array  # (n_cells,) of the cells
    centroid: Array  # (dim, n_cells)


@dataclass(frozen=True)
class Faces:
    """Inner faces first, then the boundary faces, in sets of those that have the same names."""

    left: IntArray  # (n_faces,) the cell that the normal leaves
    right: IntArray  # (n_faces,) the cell that it enters; -1 on the boundary
    vertices: IntArray  # (1, 2, 3 or 4, n_faces) points; the fourth of triangles is -1
    area: Array  # (n_faces,)
    normal: Array  # (dim, n_faces) unit vectors
    center: Array  # (dim, n_faces) centroids
    ends: IntArray  # (n_sets + 1,) where each set of boundary faces begins
    boundary: dict[Any, tuple[int, ...]] = field(default_factory=dict)  # name -> its sets
    interfaces: dict[Any, IntArray] = field(default_factory=dict)  # name -> inner faces

    @property
    def n_inner(self) -> int:
        """The number of faces that have two cells."""
        return int(np.searchsorted(-self.right, 1))  # right is >= 0, then -1


def find_half_faces(cells: Cells) -> tuple[IntArray, IntArray]:
    """(cell, vertices): the cell of each half-face and its points, counter-clockwise seen from
    outside.
    """
    if cells.dim == 1:
        return np.repeat(np.arange(cells.n_cells), 2), cells.corners[None]
    if cells.dim == 2:
        n_sides = np.diff(cells.start)
        cell = np.repeat(np.arange(cells.n_cells), n_sides)
        next_corner = cells.corners[find_next_places(cells.start)]
        return cell, np.stack([cells.corners, next_corner])

    kinds = np.unique(cells.kind)
    width = max(len(face) for kind in kinds for face in FACES[kind])
    cell_blocks = []
    vertex_blocks = []
    for kind in kinds:
        number, corner = cells.of_kind(kind)
        padded = [face + (-1,) * (width - len(face)) for face in FACES[kind]]
        table = np.array(padded)  # (n_faces, width)
        has_corner = table[:, :, None] >= 0
        vertices = np.where(has_corner, corner[table], -1)  # (n_faces, width, n)
        by_cell = vertices.transpose(1, 2, 0)
        cell_blocks.append(np.repeat(number, len(table)))
        vertex_blocks.append(by_cell.reshape(width, -1))
    return np.concatenate(cell_blocks), np.concatenate(vertex_blocks, axis=1)


def measure_faces(points: Array, vertices: IntArray) -> tuple[Array, Array]:
    """Area vectors (dim, n) of faces given by their points, and their centroids (dim, n)."""
    if len(points) == 1:
        return np.ones((1, vertices.shape[1])), columns(points, vertices[0])
    a = columns(points, vertices[0])
    b = columns(points, vertices[1])
    if len(points) == 2:
        vector = np.stack([b[1] - a[1], a[0] - b[0]])
        return vector, (a + b) / 2

    c = columns(points, vertices[2])
    vector = np.cross(b - a, c - a, axis=0) / 2
    center = (a + b + c) / 3
    if len(vertices) == 4:
        quad = np.flatnonzero(vertices[3] >= 0)
        corners = columns(points, vertices[:, quad]).transpose(1, 0, 2)
        vector[:, quad], center[:, quad] = _measure_quadrilaterals(corners)
    return vector, center


def _measure_quadrilaterals(p):
    """Area vectors and centroids of four-sided faces p (4, dim, n): a fan of triangles around the
    mean point.
    """
    middle = p.mean(axis=0)
    following = p[[1, 2, 3, 0]]
    parts = []
    for a, b in zip(p, following):
        parts.append(np.cross(a - middle, b - middle, axis=0) / 2)
    vector = sum(parts)

    length = np.linalg.norm(vector, axis=0)
    square = np.maximum(length, 1e-300) ** 2
    center = 0
    for a, b, part in zip(p, following, parts):
        weight = np.einsum("in,in->n", part, vector) / square
        center = center + weight * (a + b + middle) / 3
    return vector, center


def measure_cells(cells: Cells, cell: IntArray, vertices: IntArray) -> tuple[Array, Array]:
    """Signed volumes (n_cells,) and centroids (dim, n_cells) from the half-faces: the divergence
    theorem.
    """
    if cells.dim == 1:
        ends = cells.points[0, cells.corners.reshape(-1, 2)]
        return ends[:, 1] - ends[:, 0], ends.mean(axis=1)[None]

    origin = columns(cells.points, cells.corners[cells.start[:-1]])
    volume = np.zeros(cells.n_cells)
    moment = np.zeros((cells.dim, cells.n_cells))
    for simplex, half in _outer_simplices(cells.points, vertices):
        # The cone from the cell's first corner over the simplex.
        owner = cell[half]
        edges = simplex - columns(origin, owner)  # (dim corners, dim, n)
        if cells.dim == 2:
            a, b = edges
            cone = (a[0] * b[1] - a[1] * b[0]) / 2
        else:
            a, b, c = edges
            normal = np.cross(b, c, axis=0)
            cone = np.einsum("in,in->n", a, normal) / 6
        volume += np.bincount(owner, cone, cells.n_cells)
        for axis in range(cells.dim):
            weight = cone * edges[:, axis].sum(axis=0) / (cells.dim + 1)
            moment[axis] += np.bincount(owner, weight, cells.n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        return volume, origin + moment / volume


def _outer_simplices(points, vertices):
    """The half-faces cut into simplices: pairs of corners (dim corners, dim, n) and the half-faces
    that they lie on.
    """
    if len(vertices) < 4:
        yield columns(points, vertices).transpose(1, 0, 2), slice(None)
        return
    triangle = np.flatnonzero(vertices[3] < 0)
    quad = np.flatnonzero(vertices[3] >= 0)
    yield columns(points, vertices[:3, triangle]).transpose(1, 0, 2), triangle
    p = columns(points, vertices[:, quad]).transpose(1, 0, 2)
    middle = p.mean(axis=0)
    for i in range(4):
        following = p[(i + 1) % 4]
        yield np.stack([p[i], following, middle]), quad


def meet(cells: Cells) -> tuple[Cells, HalfFaces]:
    """(cells, half-faces): those listed in the wrong sense turned round, and how their half-faces
    meet.

    Raises `MeshError` for cells that are flat, tangled, or more than two to a face.
    """
    cell, vertices = find_half_faces(cells)
    _check_repeats(cell, vertices)
    volume, centroid = measure_cells(cells, cell, vertices)
    is_negative = volume < 0
    if is_negative.any():
        cells = cells.mirrored(is_negative)
        cell, vertices = find_half_faces(cells)

    _check_polygons(cells)
    _check_corner_volumes(cells)
    _check_flat(cells, volume, _estimate_volume(cells, cell, vertices))
    first, second, lonely = pair(cells, cell, vertices)
    return cells, HalfFaces(cell, vertices, first, second, lonely, np.abs(volume), centroid)


def _check_flat(cells, volume, scale):
    """No cell is flat; scale (n_cells,) : volumes that such cells could have."""
    flat = np.flatnonzero(~(np.abs(volume) > FLATNESS * scale))
    if len(flat):
        raise MeshError(
            f"cell {flat[0]} ({NAME[cells.kind[flat[0]]]}) is degenerate: its volume is "
            f"{volume[flat[0]]:.3g} ({len(flat)} such cells); remove them, or merge their points"
        )


def _check_polygons(cells):
    """No quadrilateral or polygon crosses itself. Only those that turn inwards somewhere, or turn
    twice, can do so.
    """
    if cells.dim != 2 or np.all(cells.kind == TRIANGLE):
        return
    count = np.diff(cells.start)
    suspect = _find_suspects(cells)
    for n in np.unique(count[suspect]):
        cell = np.flatnonzero(suspect & (count == n))
        place = cells.start[cell] + np.arange(n)[:, None]
        corners = cells.corners[place]
        is_crossed = _cross_themselves(cells.points[:, corners])
        bad = np.flatnonzero(is_crossed)
        if len(bad):
            k = cell[bad[0]]
            listed = corners[:, bad[0]].tolist()
            raise MeshError(
                f"cell {k} ({NAME[cells.kind[k]]}, points {listed}) is tangled: its sides cross "
                f"each other ({len(bad)} such cells); list its points in the order in which they "
                "lie around it"
            )


def _find_suspects(cells):
    """Which polygons (n_cells,) turn inwards at a corner, or turn more than once in all."""
    following = find_next_places(cells.start)
    preceding = np.empty_like(following)
    preceding[following] = np.arange(len(following))

    p = columns(cells.points, cells.corners)
    step = columns(p, following) - p
    before = columns(step, preceding)
    turn = before[0] * step[1] - before[1] * step[0]
    square_before = (before**2).sum(axis=0)
    square = (step**2).sum(axis=0)
    size = np.sqrt(square_before * square)
    turns_inwards = turn < -INSIDE_OUT_TOLERANCE * size
    begin = cells.start[:-1]
    suspect = np.logical_or.reduceat(turns_inwards, begin)
    if (np.diff(cells.start) > 4).any():
        cosine = (before * step).sum(axis=0)
        angle = np.arctan2(turn, cosine)
        full_angle = np.add.reduceat(angle, begin)
        suspect |= full_angle > 3 * np.pi
    return suspect


def _cross_themselves(p):
    """Whether two sides of polygons with corners p (2, n_corners, n) that have no corner in common
    cross: (n,) bool.
    """
    along = np.roll(p, -1, axis=1) - p
    away = p[:, None] - p[:, :, None]  # from the first corner of each side to each corner
    cross = along[0, :, None] * away[1] - along[1, :, None] * away[0]
    side = np.sign(cross)
    next_side = np.roll(side, -1, axis=1)
    # Where the line through a side has the ends of another side on both its sides.
    apart = side * next_side < 0
    is_crossed = apart & apart.transpose(1, 0, 2)
    return is_crossed.any(axis=(0, 1))


def _check_corner_volumes(cells):
    """The three edges at each corner of hexahedra, wedges and pyramids span a positive volume: no
    corner is inside out.
    """
    for kind, corners_of_kind in EDGES_AT.items():
        cell, corners = cells.of_kind(kind)
        if not len(cell):
            continue
        for at, *ends in corners_of_kind:
            origin = columns(cells.points, corners[at])
            a, b, c = (columns(cells.points, corners[end]) - origin for end in ends)
            normal = np.cross(a, b, axis=0)
            volume = np.einsum("in,in->n", normal, c)
            aa = (a**2).sum(axis=0)
            bb = (b**2).sum(axis=0)
            cc = (c**2).sum(axis=0)
            size = np.sqrt(aa * bb * cc)
            bad = np.flatnonzero(volume < -INSIDE_OUT_TOLERANCE * size)
            if len(bad):
                raise MeshError(
                    f"cell {cell[bad[0]]} ({NAME[kind]}) is tangled: its corner at point "
                    f"{corners[at, bad[0]]} is inside out ({len(bad)} cells have such a corner "
                    f"{at}); untangle the mesh, or cut these cells in tetrahedra"
                )


def pair(cells: Cells, cell: IntArray, vertices: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """(first, second, lonely): half-faces that meet in inner faces, and those on the boundary."""
    key = face_keys(vertices, cells.points.shape[1])
    order = np.argsort(key)
    key = key[order]
    meets_next = key[1:] == key[:-1]
    crowded = np.flatnonzero(meets_next[1:] & meets_next[:-1])
    if len(crowded):
        i = np.sort(order[crowded[0] : crowded[0] + 3])
        raise MeshError(
            f"cells {cell[i].tolist()} share one face (points {_list_points(vertices[:, i[0]])}): "
            "a face has at most two cells; remove duplicated or overlapping cells"
        )

    one = order[:-1][meets_next]
    other = order[1:][meets_next]
    is_lonely = np.ones(len(order), bool)
    is_lonely[:-1][meets_next] = False
    is_lonely[1:][meets_next] = False
    swap = cell[one] > cell[other]
    first = np.where(swap, other, one)
    second = np.where(swap, one, other)
    return first, second, order[is_lonely]


def _check_halves(cell, vertices, n_points):
    """No triangle on the boundary is half of a quadrilateral on it: these would be a wall inside
    the mesh.
    """
    if len(vertices) < 4:
        return
    quad = np.flatnonzero(vertices[3] >= 0)
    triangle = np.flatnonzero(vertices[3] < 0)
    quads = vertices[:, quad]
    halves = []
    for i in range(4):
        three = [i, (i + 1) % 4, (i + 2) % 4]
        halves.append(quads[three])
    all_triangles = np.concatenate([vertices[:3, triangle], *halves], axis=1)
    key = face_keys(all_triangles, n_points)
    n_triangles = len(triangle)
    is_wall = np.isin(key[n_triangles:], key[:n_triangles])
    bad = np.flatnonzero(is_wall)
    if len(bad):
        f = quad[bad[0] % len(quad)]
        raise MeshError(
            f"cell {cell[f]} has a face of four points {_list_points(vertices[:, f])} that meets "
            f"triangles of other cells ({len(bad)} such triangles): put a pyramid between them, or "
            "cut the cell"
        )


def _check_sides(cells, halves):
    """The two cells of a face have all its points, and lie on different sides: they go round it in
    opposite ways.
    """
    cell = halves.cell
    vertices = halves.vertices
    first = halves.first
    second = halves.second
    lowest = vertices.min(axis=0)  # the point that keys of four points leave out; -1 for triangles
    bad = np.flatnonzero(lowest[first] != lowest[second])
    if len(bad):
        f = first[bad[0]]
        g = second[bad[0]]
        raise MeshError(
            f"cells {cell[f]} and {cell[g]} meet, but their faces have different points "
            f"({_list_points(vertices[:, f])} and {_list_points(vertices[:, g])}, {len(bad)} such "
            "faces): cut both in the same way"
        )

    if cells.dim == 1:
        turn = np.sign(cells.points[0, vertices[0]] - halves.centroid[0, cell])
    else:
        turn = _find_turn(vertices)
    bad = np.flatnonzero(turn[first] == turn[second])
    if len(bad):
        f = bad[0]
        raise MeshError(
            f"cells {cell[first[f]]} and {cell[second[f]]} lie on the same side of the face "
            f"between points {_list_points(vertices[:, first[f]])}: they overlap, or one is given "
            f"twice ({len(bad)} such faces); remove it, or untangle the mesh"
        )


def _find_turn(vertices):
    """+1 or -1: the direction in which a face's points are listed, whatever its first point."""
    face = np.arange(vertices.shape[1])
    n_corners = (vertices >= 0).sum(axis=0)
    beyond_all = np.iinfo(np.int64).max
    filled = np.where(vertices >= 0, vertices, beyond_all)
    lowest = filled.argmin(axis=0)
    following = vertices[(lowest + 1) % n_corners, face]
    preceding = vertices[(lowest - 1) % n_corners, face]
    if len(vertices) == 2:
        return np.where(lowest == 0, 1, -1)
    return np.where(following < preceding, 1, -1)


def _list_points(vertices):
    return [int(v) for v in vertices if v >= 0]


def build_faces(
    cells: Cells, facets: Any = None, halves: HalfFaces | None = None
) -> tuple[Array, Array, Faces]:
    """All geometry of a mesh: (volume, centroid, `Faces`).

    facets : the names of faces, {name: points (width, n) of each}, or a function that makes this
        from the points of all boundary faces. A face may have several names; boundary faces without
        one are called "boundary"
    halves : those of the cells, where `meet` has made them

    Raises `MeshError` for degenerate, tangled, overlapping or non-manifold cells.
    """
    if halves is None:
        cells, halves = meet(cells)
    cell = halves.cell
    lonely = halves.lonely
    outer_vertices = halves.vertices[:, lonely]
    n_points = cells.points.shape[1]
    _check_sides(cells, halves)
    _check_halves(cell[lonely], outer_vertices, n_points)

    pair_key = cell[halves.first] * cells.n_cells + cell[halves.second]
    inner = np.argsort(pair_key)
    first = halves.first[inner]
    second = halves.second[inner]
    inner_vertices = columns(halves.vertices, first)
    facets = facets(outer_vertices) if callable(facets) else facets or {}
    names = name_faces(outer_vertices, inner_vertices, facets, n_points)

    outer = lonely[names.order]
    half = np.concatenate([first, outer])
    left = cell[half]
    no_cell = np.full(len(outer), -1)
    right = np.concatenate([cell[second], no_cell])
    vertices = columns(halves.vertices, half)
    vector, center = measure_faces(cells.points, vertices)
    if cells.dim == 1:
        vector = np.sign(center - halves.centroid[:, left])
    area = np.linalg.norm(vector, axis=0)
    face = Faces(
        left,
        right,
        vertices,
        area,
        normal=vector / area,
        center=center,
        ends=names.ends + len(inner),
        boundary=names.boundary,
        interfaces=names.interfaces,
    )
    return halves.volume, halves.centroid, face


def find_next_vertices(vertices: IntArray) -> IntArray:
    """The point (width, n) after each one around its face; for the empty place of triangles, which
    is -1, the first one.
    """
    following = np.roll(vertices, -1, axis=0)
    if len(vertices) == 4:
        following[2] = np.where(vertices[3] >= 0, vertices[3], vertices[0])
    return following


def _check_repeats(cell, vertices):
    if len(vertices) == 1:
        return
    is_repeated = find_next_vertices(vertices) == vertices
    bad = np.flatnonzero(is_repeated.any(axis=0))
    if len(bad):
        raise MeshError(
            f"cell {cell[bad[0]]} is degenerate: it names a point twice in a row "
            f"(points {_list_points(vertices[:, bad[0]])}); use a cell type with fewer corners"
        )


def _estimate_volume(cells, cell, vertices):
    """The volumes (n_cells,) that the areas of the cells' faces let expect."""
    if cells.dim == 1:
        return np.full(cells.n_cells, np.ptp(cells.points) + 1e-300)
    vector, _ = measure_faces(cells.points, vertices)
    area = np.linalg.norm(vector, axis=0)
    surface = np.bincount(cell, area, cells.n_cells)
    return surface ** (cells.dim / (cells.dim - 1))
