"""From points and cells to faces and geometry, in the file's numbering.

A *half-face* is a face seen from one of its cells; two half-faces with the same points are an
inner face, a lonely one lies on the boundary. Normals point from the left cell (the smaller
number) to the right one, and out of the domain on the boundary.
"""
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import MeshError, warn

LINE, TRIANGLE, POLYGON, QUAD, TETRA, HEXAHEDRON, WEDGE, PYRAMID = 3, 5, 7, 9, 10, 12, 13, 14   # VTK's numbers
KIND = {"line": LINE, "triangle": TRIANGLE, "polygon": POLYGON, "quad": QUAD, "tetra": TETRA,
        "hexahedron": HEXAHEDRON, "wedge": WEDGE, "pyramid": PYRAMID}
NAME = {kind: name for name, kind in KIND.items()}
DIMENSION = {LINE: 1, TRIANGLE: 2, POLYGON: 2, QUAD: 2, TETRA: 3, HEXAHEDRON: 3, WEDGE: 3, PYRAMID: 3}
N_CORNERS = {LINE: 2, TRIANGLE: 3, QUAD: 4, TETRA: 4, HEXAHEDRON: 8, WEDGE: 6, PYRAMID: 5}
DECADES = 250        # up or down, that volumes times lengths may be from 1
FACES = {      # corners of each face, counter-clockwise seen from outside (VTK's cells)
    TETRA: ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)),
    HEXAHEDRON: ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)),
    WEDGE: ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)),
    PYRAMID: ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)),
}
MIRRORED = {   # the same cell, with corners in the other sense
    LINE: (1, 0), TRIANGLE: (0, 2, 1), QUAD: (0, 3, 2, 1), TETRA: (0, 2, 1, 3), PYRAMID: (0, 3, 2, 1, 4),
    HEXAHEDRON: (4, 5, 6, 7, 0, 1, 2, 3), WEDGE: (3, 4, 5, 0, 1, 2)}
EDGES_AT = {   # corners, and the ends of the three edges at each that span a positive volume
    HEXAHEDRON: ((0, 1, 3, 4), (1, 2, 0, 5), (2, 3, 1, 6), (3, 0, 2, 7),
                 (4, 7, 5, 0), (5, 4, 6, 1), (6, 5, 7, 2), (7, 6, 4, 3)),
    WEDGE: ((0, 1, 2, 3), (1, 2, 0, 4), (2, 0, 1, 5), (3, 5, 4, 0), (4, 3, 5, 1), (5, 4, 3, 2)),
    PYRAMID: ((0, 1, 3, 4), (1, 2, 0, 4), (2, 3, 1, 4), (3, 0, 2, 4))}
INSIDE_OUT = 1e-9      # of the product of a corner's edges: a negative volume larger than that is no round-off


@dataclass(frozen=True)
class Cells:
    """Points and the cells between them: cell k has the points corners[start[k]:start[k + 1]]."""

    points: np.ndarray          # (dim, n_points)
    kind: np.ndarray            # (n_cells,) VTK's number of the cell type
    start: np.ndarray           # (n_cells + 1,)
    corners: np.ndarray         # (start[-1],)

    @property
    def dim(self):
        return len(self.points)

    @property
    def n_cells(self):
        return len(self.kind)

    def of_kind(self, kind):
        """Numbers of the cells of one kind, and their corners (n_corners, n)."""
        cell = np.flatnonzero(self.kind == kind)
        return cell, self.corners[self.start[cell] + np.arange(N_CORNERS[kind])[:, None]]

    def mirrored(self, which):
        """The same cells; those of *which* (n_cells,) bool list their corners in the other sense."""
        corners = self.corners.copy()
        for kind in np.unique(self.kind[which]):
            cell = np.flatnonzero(which & (self.kind == kind))
            if kind == POLYGON:
                count = np.diff(self.start)[cell]
                step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
                place = np.repeat(self.start[cell], count) + step
                corners[place] = self.corners[np.repeat(self.start[cell + 1] - 1, count) - step]
            else:
                at = self.start[cell] + np.arange(N_CORNERS[kind])[:, None]
                corners[at] = self.corners[at[list(MIRRORED[kind])]]
        return replace(self, corners=corners)


@dataclass(frozen=True)
class Halves:
    """The half-faces of cells of positive volume, and how they meet."""

    cell: np.ndarray            # (n_halves,)
    vertices: np.ndarray        # (1, 2, 3 or 4, n_halves) counter-clockwise seen from outside; -1 as in `Faces`
    first: np.ndarray           # (n_inner,) half-faces that meet those of *second*, of larger cell numbers
    second: np.ndarray          # (n_inner,)
    lonely: np.ndarray          # (n_boundary,) half-faces that meet none
    volume: np.ndarray          # (n_cells,) of the cells
    centroid: np.ndarray        # (dim, n_cells)


@dataclass(frozen=True)
class Faces:
    """Inner faces first, then the boundary faces, in sets of those that have the same names."""

    left: np.ndarray            # (n_faces,) the cell that the normal leaves
    right: np.ndarray           # (n_faces,) the cell that it enters; -1 on the boundary
    vertices: np.ndarray        # (1, 2, 3 or 4, n_faces) points; -1 where a triangle stands among quadrilaterals
    area: np.ndarray            # (n_faces,)
    normal: np.ndarray          # (dim, n_faces) unit vectors
    center: np.ndarray          # (dim, n_faces) centroids
    ends: np.ndarray            # (n_sets + 1,) where each set of boundary faces begins
    boundary: dict = field(default_factory=dict)     # name -> numbers of its sets
    interfaces: dict = field(default_factory=dict)   # name -> inner faces

    @property
    def n_inner(self):
        return int(np.searchsorted(-self.right, 1))    # right is >= 0, then -1


def columns(array, index):
    """array[:, index], four times as fast, and contiguous."""
    return np.take(array, index, axis=1)


def check_extent(widths, dim):
    """`MeshError` for a mesh so small or large that volumes times lengths leave the range of floating point."""
    size = np.max(widths)
    if size > 0 and abs((dim + 1) * np.log10(size)) > DECADES:
        raise MeshError(f"the mesh is {size:.3g} across: volumes times lengths leave the range of floating point; take another "
                        "unit of length")


def connect(points, blocks):
    """`Cells` from points (dim, n_points) and blocks [(type name, connectivity), ...], checked.

    Raises `MeshError` for points that are not finite, unknown cell types, point numbers out of
    range, repeated points in a cell, no cells, or cells of different dimensions.
    """
    points = np.ascontiguousarray(points, float)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=0))
    if len(bad):
        raise MeshError(f"point {bad[0]} is {points[:, bad[0]]}: coordinates must be finite numbers "
                        f"({len(bad)} points are not)")
    check_extent(np.ptp(points, axis=1) if points.size else 0.0, len(points))
    kinds, counts, corners = [], [], []
    for name, connectivity in _pairs(blocks):
        kind = _kind(name)
        count, corner = _connectivity(name, kind, connectivity)
        kinds.append(np.full(len(count), kind, np.uint8))
        counts.append(count)
        corners.append(corner)
    kind, count = np.concatenate(kinds or [[]]), np.concatenate(counts or [[]]).astype(np.int64)
    if not len(kind):
        raise MeshError("the mesh has no cells")
    cells = Cells(points, kind, np.concatenate([[0], np.cumsum(count)]), np.concatenate(corners))
    _check_corners(cells)
    return cells


def _pairs(blocks):
    try:
        pairs = [(name, connectivity) for name, connectivity in blocks]
    except (TypeError, ValueError):
        pairs = [(None, None)]
    if not all(isinstance(name, str) for name, _ in pairs):
        raise MeshError(f"cells must be a list of pairs (type name, connectivity), as in [('triangle', [[0, 1, 2]])], "
                        f"not {blocks!r:.80}")
    return pairs


def _kind(name):
    name = "polygon" if name.startswith("polygon") else name
    if name not in KIND:
        raise MeshError(f"cell type {name!r} is not supported; these are: {', '.join(KIND)}")
    return KIND[name]


def _connectivity(name, kind, connectivity):
    """Numbers of corners (n,) of the cells of a block, and all their corners in one row."""
    if not len(connectivity):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if kind == POLYGON:
        rows = [_integers(name, row) for row in connectivity]
        if any(row.ndim != 1 for row in rows):
            raise MeshError(f"the connectivity of {name} must be a list of rows of points, not {connectivity!r:.60}")
        count = np.array([len(row) for row in rows])
        if count.min() < 3:
            raise MeshError(f"polygon {count.argmin()} has {count.min()} points: it needs at least 3")
        return count, np.concatenate(rows)
    rows = _integers(name, connectivity)
    if rows.ndim != 2 or rows.shape[1] != N_CORNERS[kind]:
        raise MeshError(f"a {name} has {N_CORNERS[kind]} points; the connectivity has shape {rows.shape}")
    return np.full(len(rows), N_CORNERS[kind]), rows.ravel()


def _integers(name, numbers):
    try:
        array = np.asarray(numbers)
    except ValueError:      # rows of different lengths
        array = np.empty(0, object)
    if not np.issubdtype(array.dtype, np.integer):
        raise MeshError(f"the connectivity of {name} must be whole numbers of points, in rows of equal length, "
                        f"not {numbers!r:.60}")
    return array.astype(np.int64, copy=False)


def _check_corners(cells):
    dimensions = {DIMENSION[kind] for kind in np.unique(cells.kind)}
    if dimensions != {cells.dim}:
        raise MeshError(f"cells of dimension {sorted(dimensions)} on points of dimension {cells.dim}: "
                        "give the cells of the highest dimension only, and as many coordinates")
    n_points = cells.points.shape[1]
    bad = np.flatnonzero((cells.corners < 0) | (cells.corners >= n_points))
    if len(bad):
        cell = np.searchsorted(cells.start, bad[0], side="right") - 1
        raise MeshError(f"cell {cell} names point {cells.corners[bad[0]]}, but there are {n_points} points, from 0 on")


def half_faces(cells):
    """(cell, vertices): the cell of each half-face and its points, counter-clockwise seen from outside."""
    if cells.dim == 1:
        return np.repeat(np.arange(cells.n_cells), 2), cells.corners[None]
    if cells.dim == 2:
        following = np.arange(1, len(cells.corners) + 1)
        following[cells.start[1:] - 1] = cells.start[:-1]
        return np.repeat(np.arange(cells.n_cells), np.diff(cells.start)), \
            np.stack([cells.corners, cells.corners[following]])
    kinds = np.unique(cells.kind)
    width = max(len(face) for kind in kinds for face in FACES[kind])
    cell, vertices = [], []
    for kind in kinds:
        number, corner = cells.of_kind(kind)
        table = np.array([face + (-1,) * (width - len(face)) for face in FACES[kind]])      # (n_faces, width)
        block = np.where(table[:, :, None] >= 0, corner[table], -1)                         # (n_faces, width, n)
        cell.append(np.repeat(number, len(table)))
        vertices.append(block.transpose(1, 2, 0).reshape(width, -1))
    return np.concatenate(cell), np.concatenate(vertices, axis=1)


def face_vectors(points, vertices):
    """Area vectors (dim, n) of faces given by their points, and their centroids (dim, n)."""
    if len(points) == 1:
        return np.ones((1, vertices.shape[1])), columns(points, vertices[0])
    a, b = columns(points, vertices[0]), columns(points, vertices[1])
    if len(points) == 2:
        return np.stack([b[1] - a[1], a[0] - b[0]]), (a + b) / 2
    c = columns(points, vertices[2])
    vector, center = np.cross(b - a, c - a, axis=0) / 2, (a + b + c) / 3
    if len(vertices) == 4:
        quad = np.flatnonzero(vertices[3] >= 0)
        vector[:, quad], center[:, quad] = _quadrilaterals(columns(points, vertices[:, quad]).transpose(1, 0, 2))
    return vector, center


def _quadrilaterals(p):
    """Area vectors and centroids of four-sided faces p (4, dim, n): a fan of triangles around the mean point."""
    middle = p.mean(axis=0)
    parts = [np.cross(p[i] - middle, p[(i + 1) % 4] - middle, axis=0) / 2 for i in range(4)]
    vector = sum(parts)
    length = np.linalg.norm(vector, axis=0)
    weight = [np.einsum("in,in->n", part, vector) / np.maximum(length, 1e-300)**2 for part in parts]
    return vector, sum(w * (p[i] + p[(i + 1) % 4] + middle) / 3 for i, w in enumerate(weight))


def cell_geometry(cells, cell, vertices):
    """Signed volumes (n_cells,) and centroids (dim, n_cells) from the half-faces: the divergence theorem."""
    origin = columns(cells.points, cells.corners[cells.start[:-1]])
    if cells.dim == 1:
        ends = cells.points[0, cells.corners.reshape(-1, 2)]
        return ends[:, 1] - ends[:, 0], ends.mean(axis=1)[None]
    volume, moment = np.zeros(cells.n_cells), np.zeros((cells.dim, cells.n_cells))
    for simplex, at in _outer_simplices(cells.points, vertices):       # cones from the origin over the half-faces
        owner = cell[at]
        edges = simplex - columns(origin, owner)                          # (dim corners, dim, n)
        cone = (edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0]) / 2 if cells.dim == 2 else \
            np.einsum("in,in->n", edges[0], np.cross(edges[1], edges[2], axis=0)) / 6
        volume += np.bincount(owner, cone, cells.n_cells)
        for axis in range(cells.dim):
            moment[axis] += np.bincount(owner, cone * edges[:, axis].sum(axis=0) / (cells.dim + 1), cells.n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        return volume, origin + moment / volume


def _outer_simplices(points, vertices):
    """The half-faces cut into simplices: pairs of corners (dim corners, dim, n) and the half-faces they lie on."""
    if len(vertices) < 4:
        yield columns(points, vertices).transpose(1, 0, 2), slice(None)
        return
    triangle, quad = np.flatnonzero(vertices[3] < 0), np.flatnonzero(vertices[3] >= 0)
    yield columns(points, vertices[:3, triangle]).transpose(1, 0, 2), triangle
    p = columns(points, vertices[:, quad]).transpose(1, 0, 2)
    for i in range(4):
        yield np.stack([p[i], p[(i + 1) % 4], p.mean(axis=0)]), quad


def meet(cells):
    """(`Cells`, `Halves`): the cells, those listed in the wrong sense turned round, and how their half-faces meet.

    Raises `MeshError` for cells that are flat, tangled, or more than two to a face.
    """
    cell, vertices = half_faces(cells)
    _check_repeats(cell, vertices)
    volume, centroid = cell_geometry(cells, cell, vertices)
    negative = volume < 0
    if negative.any():
        cells = cells.mirrored(negative)
        cell, vertices = half_faces(cells)
    _check_polygons(cells)
    _check_corner_volumes(cells)
    _check_flat(cells, volume, _scale(cells, cell, vertices))
    return cells, Halves(cell, vertices, *pair(cells, cell, vertices), np.abs(volume), centroid)


def _check_flat(cells, volume, scale):
    """*scale* is a volume made of the lengths of the cell's edges: what is flat is measured by it."""
    flat = np.flatnonzero(~(np.abs(volume) > 1e-12 * scale))
    if len(flat):
        raise MeshError(f"cell {flat[0]} ({NAME[cells.kind[flat[0]]]}) is degenerate: its volume is "
                        f"{volume[flat[0]]:.3g} ({len(flat)} such cells); remove them, or merge their points")


def _check_polygons(cells):
    """No quadrilateral or polygon crosses itself: only those that turn inwards somewhere, or turn twice, can do so."""
    if cells.dim != 2 or np.all(cells.kind == TRIANGLE):
        return
    count = np.diff(cells.start)
    place = np.arange(len(cells.corners))
    following = place + 1
    following[cells.start[1:] - 1] = cells.start[:-1]
    preceding = place - 1
    preceding[cells.start[:-1]] = cells.start[1:] - 1
    p = columns(cells.points, cells.corners)
    step = columns(p, following) - p
    before = columns(step, preceding)
    turn = before[0] * step[1] - before[1] * step[0]
    inwards = turn < -INSIDE_OUT * np.sqrt((before**2).sum(axis=0) * (step**2).sum(axis=0))
    suspect = np.logical_or.reduceat(inwards, cells.start[:-1])
    if (count > 4).any():
        angle = np.arctan2(turn, (before * step).sum(axis=0))
        suspect |= np.add.reduceat(angle, cells.start[:-1]) > 3 * np.pi
    for n in np.unique(count[suspect]):
        cell = np.flatnonzero(suspect & (count == n))
        corners = cells.corners[cells.start[cell] + np.arange(n)[:, None]]
        bad = np.flatnonzero(_cross_themselves(cells.points[:, corners]))
        if len(bad):
            k, listed = cell[bad[0]], corners[:, bad[0]].tolist()
            raise MeshError(f"cell {k} ({NAME[cells.kind[k]]}, points {listed}) is tangled: its sides cross each other "
                            f"({len(bad)} such cells); list its points in the order in which they lie around it")


def _cross_themselves(p):
    """Whether two sides of polygons with corners p (2, n_corners, n) that have no corner in common cross: (n,) bool."""
    along = np.roll(p, -1, axis=1) - p
    away = p[:, None] - p[:, :, None]                       # from the first corner of each side to each corner
    side = np.sign(along[0, :, None] * away[1] - along[1, :, None] * away[0])
    apart = side * np.roll(side, -1, axis=1) < 0            # the line through a side parts the ends of another one
    return (apart & apart.transpose(1, 0, 2)).any(axis=(0, 1))


def _check_corner_volumes(cells):
    """The three edges at each corner of hexahedra, wedges and pyramids span a positive volume: no corner is inside out."""
    for kind, corners_of_kind in EDGES_AT.items():
        cell, corners = cells.of_kind(kind)
        for at, *ends in corners_of_kind if len(cell) else ():
            origin = columns(cells.points, corners[at])
            a, b, c = (columns(cells.points, corners[end]) - origin for end in ends)
            volume = np.einsum("in,in->n", np.cross(a, b, axis=0), c)
            size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0) * (c**2).sum(axis=0))
            bad = np.flatnonzero(volume < -INSIDE_OUT * size)
            if len(bad):
                raise MeshError(f"cell {cell[bad[0]]} ({NAME[kind]}) is tangled: its corner at point {corners[at, bad[0]]} is "
                                f"inside out ({len(bad)} cells have such a corner {at}); untangle the mesh, or cut these "
                                "cells in tetrahedra")


def face_keys(vertices, n_points):
    """One integer per face, equal for those of the same points (three of four are enough to tell faces apart)."""
    rows = np.sort(vertices, axis=0)[-3:]
    if n_points**len(rows) < 2**62:
        key = rows[0]
        for row in rows[1:]:
            key = key * n_points + row
        return key
    order = np.lexsort(rows)
    new = (rows[:, order[1:]] != rows[:, order[:-1]]).any(axis=0)
    key = np.zeros(len(order), np.int64)
    key[order[1:]] = np.cumsum(new)
    return key


def pair(cells, cell, vertices):
    """(first, second, lonely): half-faces that meet in inner faces, and those on the boundary."""
    key = face_keys(vertices, cells.points.shape[1])
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]
    crowded = np.flatnonzero(same[1:] & same[:-1])
    if len(crowded):
        i = np.sort(order[crowded[0]:crowded[0] + 3])
        raise MeshError(f"cells {cell[i].tolist()} share one face (points {_named(vertices[:, i[0]])}): a face has "
                        "at most two cells; remove duplicated or overlapping cells")
    first, second = order[:-1][same], order[1:][same]
    lonely = np.ones(len(order), bool)
    lonely[:-1][same] = lonely[1:][same] = False
    swap = cell[first] > cell[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    return first, second, order[lonely]


def _check_halves(cell, vertices, n_points):
    """No triangle on the boundary is half of a quadrilateral on it: these would be a wall inside the mesh."""
    if len(vertices) < 4:
        return
    quad, triangle = np.flatnonzero(vertices[3] >= 0), np.flatnonzero(vertices[3] < 0)
    halves = [vertices[[i, (i + 1) % 4, (i + 2) % 4]][:, quad] for i in range(4)]
    key = face_keys(np.concatenate([vertices[:3, triangle], *halves], axis=1), n_points)
    bad = np.flatnonzero(np.isin(key[len(triangle):], key[:len(triangle)]))
    if len(bad):
        f = quad[bad[0] % len(quad)]
        raise MeshError(f"cell {cell[f]} has a face of four points {_named(vertices[:, f])} that meets triangles of "
                        f"other cells ({len(bad)} such triangles): put a pyramid between them, or cut the cell")


def _check_sides(cells, halves):
    """The two cells of a face have all its points, and lie on different sides: they go round it in opposite ways."""
    cell, vertices, first, second = halves.cell, halves.vertices, halves.first, halves.second
    lowest = vertices.min(axis=0)           # the point that keys of four points leave out; -1 for triangles
    bad = np.flatnonzero(lowest[first] != lowest[second])
    if len(bad):
        f, g = first[bad[0]], second[bad[0]]
        raise MeshError(f"cells {cell[f]} and {cell[g]} meet, but their faces have different points "
                        f"({_named(vertices[:, f])} and {_named(vertices[:, g])}, {len(bad)} such faces): "
                        "cut both in the same way")
    turn = _turn(vertices) if cells.dim > 1 else np.sign(cells.points[0, vertices[0]] - halves.centroid[0, cell])
    bad = np.flatnonzero(turn[first] == turn[second])
    if len(bad):
        f = bad[0]
        raise MeshError(f"cells {cell[first[f]]} and {cell[second[f]]} lie on the same side of the face between points "
                        f"{_named(vertices[:, first[f]])}: they overlap, or one is given twice ({len(bad)} such faces); "
                        "remove it, or untangle the mesh")


def _turn(vertices):
    """+1 or -1: the direction in which a face's points are listed, whatever its first point."""
    columns = np.arange(vertices.shape[1])
    n_corners = (vertices >= 0).sum(axis=0)
    lowest = np.where(vertices >= 0, vertices, np.iinfo(np.int64).max).argmin(axis=0)
    following = vertices[(lowest + 1) % n_corners, columns]
    preceding = vertices[(lowest - 1) % n_corners, columns]
    if len(vertices) == 2:
        return np.where(lowest == 0, 1, -1)
    return np.where(following < preceding, 1, -1)


def _named(vertices):
    return [int(v) for v in vertices if v >= 0]


def build_faces(cells, facets=None, halves=None):
    """All geometry of a mesh: (volume, centroid, `Faces`).

    *facets* names faces: {name: points (width, n) of each}, or a function that makes it from the points of all boundary
    faces. A face may have several names; boundary faces without one are called "boundary". *halves*: those of the cells,
    where `meet` has made them.
    Raises `MeshError` for degenerate, tangled, overlapping or non-manifold cells.
    """
    if halves is None:
        cells, halves = meet(cells)
    cell, vertices, lonely = halves.cell, halves.vertices, halves.lonely
    _check_sides(cells, halves)
    _check_halves(cell[lonely], vertices[:, lonely], cells.points.shape[1])
    inner = np.argsort(cell[halves.first] * cells.n_cells + cell[halves.second])
    facets = facets(vertices[:, lonely]) if callable(facets) else facets or {}
    within = columns(vertices, halves.first[inner])
    order, *names = _name_faces(vertices[:, lonely], within, facets, cells.points.shape[1])
    half = np.concatenate([halves.first[inner], lonely[order]])
    right = np.concatenate([cell[halves.second[inner]], np.full(len(order), -1)])
    names[0] += len(inner)
    left = cell[half]
    vertices = columns(vertices, half)
    vector, center = face_vectors(cells.points, vertices)
    if cells.dim == 1:
        vector = np.sign(center - halves.centroid[:, left])
    area = np.linalg.norm(vector, axis=0)
    return halves.volume, halves.centroid, Faces(left, right, vertices, area, vector / area, center, *names)


def _check_repeats(cell, vertices):
    if len(vertices) == 1:
        return
    following = np.roll(vertices, -1, axis=0)
    last = vertices[0] if len(vertices) < 4 else np.where(vertices[3] >= 0, vertices[0], -2)
    following[-1] = last
    if len(vertices) == 4:      # a triangle's third point is followed by its first
        following[2] = np.where(vertices[3] >= 0, vertices[3], vertices[0])
    bad = np.flatnonzero((following == vertices).any(axis=0))
    if len(bad):
        raise MeshError(f"cell {cell[bad[0]]} is degenerate: it names a point twice in a row "
                        f"(points {_named(vertices[:, bad[0]])}); use a cell type with fewer corners")


def _scale(cells, cell, vertices):
    """A volume from the sizes of a cell's faces."""
    if cells.dim == 1:
        return np.full(cells.n_cells, np.ptp(cells.points) + 1e-300)
    area = np.linalg.norm(face_vectors(cells.points, vertices)[0], axis=0)
    return np.bincount(cell, area, cells.n_cells)**(cells.dim / (cells.dim - 1))


def _name_faces(boundary, inner, facets, n_points):
    """Names of faces from the points (width, n) of boundary and inner ones, and from *facets* as `build_faces` has them.

    (an order of the boundary faces by the sets of names that they have, where each set begins in it,
    {name: numbers of its sets}, {name: inner faces}). Warns of facets that are no faces.
    """
    rest = "boundary"
    while rest in facets:
        rest = f"rest of {rest}"
    names = sorted({rest, *facets}, key=lambda name: (name != "boundary", isinstance(name, str), name))
    wanted = [_facets(name, points, boundary) for name, points in facets.items()]
    owner = np.repeat([names.index(name) for name in facets], [points.shape[1] for points in wanted])
    owner = owner.astype(np.int64)
    wanted = side_by_side([np.empty((len(boundary), 0), np.int64), *wanted])

    face = _matches(boundary, wanted, n_points)
    other = np.flatnonzero(face < 0)
    within = _matches(inner, wanted[:, other], n_points)
    _say_what_is_missing(names, owner, owner[other[within < 0]])
    interfaces = {names[i]: np.unique(within[(owner[other] == i) & (within >= 0)])
                  for i in np.unique(owner[other[within >= 0]])}

    unnamed = np.setdiff1d(np.arange(boundary.shape[1]), face)
    named = np.concatenate([face[face >= 0], unnamed])
    name = np.concatenate([owner[face >= 0], np.full(len(unnamed), names.index(rest))])
    pairs = np.unique(named * len(names) + name)
    number, sets = _sets(*np.divmod(pairs, len(names)), boundary.shape[1], len(names))
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(sets) + 1))
    found = {name: tuple(k for k, members in enumerate(sets) if i in members) for i, name in enumerate(names)}
    return order, ends, {name: members for name, members in found.items() if members}, interfaces


def side_by_side(parts):
    """Points (width, n) of faces of different widths in one array; -1 fills up."""
    width = max(len(part) for part in parts)
    return np.concatenate([np.pad(part, ((0, width - len(part)), (0, 0)), constant_values=-1) for part in parts], axis=1)


def _matches(vertices, wanted, n_points):
    """For each of the facets *wanted* (width, m) the face (width, n) that has the same points, or -1."""
    n = vertices.shape[1]
    if n == 0 or not wanted.shape[1]:
        return np.full(wanted.shape[1], -1)
    both = side_by_side([vertices, wanted])
    key, wanted_key = np.split(face_keys(both, n_points), [n])
    lowest, wanted_lowest = np.split(both.min(axis=0), [n])         # which the keys of four points leave out
    order = np.argsort(key)
    face = order[np.minimum(np.searchsorted(key[order], wanted_key), n - 1)]
    return np.where((key[face] == wanted_key) & (lowest[face] == wanted_lowest), face, -1)


def _say_what_is_missing(names, owner, lost):
    """Warn of facets that are no faces of cells, with their numbers by name."""
    if len(lost):
        count = np.bincount(owner, minlength=len(names))
        parts = [f"{names[i]!r} ({n} of {count[i]})" for i, n in enumerate(np.bincount(lost)) if n]
        warn(f"some of the faces that have a name are no faces of cells, and are left out: {', '.join(parts)}")


def _sets(face, name, n_faces, n_names):
    """The number of the set of names of each face (n_faces,), and the sets, in the order of their members.

    face, name : which face has which name, sorted, at least one name for each face
    """
    first = np.searchsorted(face, np.arange(n_faces))
    count = np.diff(np.append(first, len(face)))
    number = np.zeros(n_faces, np.int64)
    for j in range(count.max(initial=0)):
        nth = np.zeros(n_faces, np.int64)
        nth[count > j] = 1 + name[first[count > j] + j]
        number = np.unique(number * (n_names + 1) + nth, return_inverse=True)[1].reshape(n_faces)
    some = np.unique(number, return_index=True)[1]
    return number, [set(name[first[i]:first[i] + count[i]].tolist()) for i in some]


def _facets(name, points, vertices):
    points = np.asarray(points)
    most = max(len(vertices), 4 if len(vertices) > 2 else 0)
    fits = points.ndim == 2 and min(len(vertices), 3) <= len(points) <= most
    if not fits or not np.issubdtype(points.dtype, np.integer):
        raise MeshError(f"boundary {name!r} must be the points of faces, an array of integers ({len(vertices)}, n), "
                        f"not {points.dtype} of shape {points.shape}")
    return points


def power_centers(points, corners, weight=None):
    """Points (dim, n) of equal power |x - p_i|^2 - w_i to the corners (dim + 1, n) of triangles or tetrahedra.

    2 (p_i - p_0).x = |p_i|^2 - w_i - |p_0|^2 + w_0; without the points' weights (n_points,) these are circumcentres.
    """
    origin = columns(points, corners[0])
    edges = [columns(points, corner) - origin for corner in corners[1:]]
    squares = [np.einsum("in,in->n", edge, edge) for edge in edges]
    if weight is not None:
        squares = [square - weight[corner] + weight[corners[0]] for square, corner in zip(squares, corners[1:])]
    if len(points) == 2:
        (ax, ay), (bx, by) = edges
        twice = 2 * (ax * by - ay * bx)
        return origin + np.stack([by * squares[0] - ay * squares[1], ax * squares[1] - bx * squares[0]]) / twice
    a, b, c = edges
    bc, ca, ab = np.cross(b, c, axis=0), np.cross(c, a, axis=0), np.cross(a, b, axis=0)
    return origin + (squares[0] * bc + squares[1] * ca + squares[2] * ab) / (2 * np.einsum("in,in->n", a, bc))


def cell_points(cells, centroid):
    """The points that make the two-point flux consistent: circumcentres of simplices, centroids of all other cells."""
    center = centroid.copy()
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            center[:, cell] = power_centers(cells.points, corners)
    return center
