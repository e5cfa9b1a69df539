"""Finer meshes: every cell cut in 2^dim, at the middles of its edges, faces and itself.

A new point is the mean of some corners of a cell: of one (a corner), two (the middle of an edge),
four or eight. So a cut is a table of sets of corners. Children of triangles and parallelograms are
similar to their parents; a tetrahedron leaves an octahedron between four such children, which is
cut along its shortest diagonal (Bey 1995, Zhang 1995).
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..arguments.types import Array, IntArray
from ..errors import InputError
from .cartesian import BOX_CORNERS
from .cells import HEXAHEDRON, LINE, NAME, QUAD, TETRA, TRIANGLE, WEDGE, face_keys, find_runs
from .facets import join_faces
from .power_centers import compute_power_centers

# The cut of a cell: of each child, for each of its corners, the corners of the cell whose mean it
# is.
CutTable: TypeAlias = list[list[tuple[int, ...]]]


def _cut_box(corners):
    """The `CutTable` of a line, a quadrilateral or a hexahedron with these corners (0 or 1 along
    each axis).
    """
    # The ends of a line whose mean is its lower end, its middle, its upper end.
    ends = {0: (0,), 1: (0, 1), 2: (1,)}
    number = {corner: i for i, corner in enumerate(corners)}
    children = []
    for first in corners:
        child = []
        for corner in corners:
            sets = [ends[a + b] for a, b in zip(first, corner)]
            members = product(*sets)
            child.append(tuple(number[c] for c in members))
        children.append(child)
    return children


def _cut_wedge(triangles):
    """The `CutTable` of a wedge, in two layers of the children of its base."""
    layers = [((0,), (0, 1)), ((0, 1), (1,))]
    children = []
    for layer in layers:
        for triangle in triangles:
            child = [
                tuple(t + 3 * z for z in level for t in corner)
                for level in layer
                for corner in triangle
            ]
            children.append(child)
    return children


def _cut_tetrahedron():
    """The `CutTable` of a tetrahedron for each diagonal of its octahedron."""
    origin = np.zeros((1, 3))
    unit = np.concatenate([origin, np.eye(3)])
    outer = []
    for i in range(4):
        child = [tuple(sorted({i, j})) for j in range(4)]
        outer.append(child)

    cuts = []
    for a, b, *ring in DIAGONALS:
        inner = []
        for i in range(4):
            following = ring[(i + 1) % 4]
            inner.append([a, b, ring[i], following])

        for child in inner:
            p = np.array([unit[list(corner)].mean(axis=0) for corner in child])
            edges = p[1:] - p[0]
            if np.linalg.det(edges) < 0:
                child[2:] = child[:1:-1]
        cuts.append(outer + inner)
    return cuts


# The diagonals of the octahedron in a tetrahedron: both ends, and the ring around it.
DIAGONALS = [
    ((0, 1), (2, 3), (0, 2), (1, 2), (1, 3), (0, 3)),
    ((0, 2), (1, 3), (0, 1), (1, 2), (2, 3), (0, 3)),
    ((0, 3), (1, 2), (0, 1), (1, 3), (2, 3), (0, 2)),
]

# The cut of a triangle.
TRIANGLE_CUT: CutTable = [
    [(0,), (0, 1), (0, 2)],
    [(0, 1), (1,), (1, 2)],
    [(0, 2), (1, 2), (2,)],
    [(0, 1), (1, 2), (0, 2)],
]

# All cuts of each kind of cell, among which its shape chooses.
CUTS: dict[int, list[CutTable]] = {
    LINE: [_cut_box(BOX_CORNERS[1])],
    TRIANGLE: [TRIANGLE_CUT],
    QUAD: [_cut_box(BOX_CORNERS[2])],
    TETRA: _cut_tetrahedron(),
    HEXAHEDRON: [_cut_box(BOX_CORNERS[3])],
    WEDGE: [_cut_wedge(TRIANGLE_CUT)],
}


# How many old points tell a new one from the others that are means of so many.
TELLING_POINTS = {2: 2, 4: 3, 8: 2}


def split_regions(regions: dict[Any, IntArray], n: int) -> dict[Any, IntArray]:
    """The regions of a mesh whose cells have been cut in n each."""
    finer = {}
    for name, cells in regions.items():
        children = cells[:, None] * n + np.arange(n)
        finer[name] = children.ravel()
    return finer


@dataclass(frozen=True)
class Cut:
    """Cells of one kind, cut: each corner of each child is the mean of a set of points."""

    kind: int | None  # None for points, the sides of intervals
    shape: tuple[int, int, int]  # (n_children, n_corners, n_cells)
    # (place (n_places, 1) among all children's corners, cell (n,), points (size, n_places, n))
    sets: list[tuple[IntArray, IntArray, IntArray]]

    def corners(self, numbers: list) -> IntArray:
        """Corners (n_corners, n_cells n_children) of the children from the numbers of all sets, a
        list like `sets`.
        """
        n_children, n_corners, n_cells = self.shape
        corners = np.empty((n_children * n_corners, n_cells), np.int64)
        for (place, cell, _), number in zip(self.sets, numbers):
            corners[place, cell] = number
        by_child = corners.reshape(self.shape)
        cell_by_cell = by_child.transpose(1, 2, 0)
        return cell_by_cell.reshape(n_corners, -1)


class SplitCells(NamedTuple):
    """Points, cells and named faces of a finer mesh."""

    points: Array  # (dim, n), the old ones first
    blocks: list  # [(type name, connectivity (n_cells, n_corners))]
    facets: dict  # {name: points (width, n) of its faces}
    # new points, by the number of old ones whose means they are: numbers (width, n) of old points
    # that tell each of them from the others, sorted
    new_points: dict[int, IntArray]


def split_cells(
    points: Array, kind: IntArray, start: IntArray, corners: IntArray, facets: dict
) -> SplitCells:
    """The mesh with every cell cut in 2^dim; the children of cell k are cells 2^dim k,
    2^dim k + 1, ...

    Raises `InputError` for polygons and pyramids.
    """
    uncut = [NAME[k] for k in np.unique(kind) if k not in CUTS]
    if uncut:
        raise InputError(
            f"a mesh of cells of type {', '.join(uncut)} cannot be refined: there is no cut of "
            f"these in {2 ** len(points)} cells of their kind; make a finer mesh where this one "
            "came from"
        )

    # Cells of one kind that follow each other are a block.
    ends = find_runs(kind)
    cells = []
    for a, b in zip(ends[:-1], ends[1:]):
        rows = corners[start[a] : start[b]].reshape(b - a, -1)
        cells.append(_cut(points, kind[a], rows.T))

    sides = []
    for name, vertices in facets.items():
        for side_kind, side_corners in _split_by_width(vertices):
            sides.append((name, _cut(points, side_kind, side_corners)))

    cuts = cells + [cut for _, cut in sides]
    points, children, new_points = _number_points(points, cuts)
    children_of_sides = children[len(cells) :]
    blocks = [(NAME[cut.kind], rows.T) for cut, rows in zip(cells, children)]

    parts: dict = {}
    for (name, _), rows in zip(sides, children_of_sides):
        parts.setdefault(name, []).append(rows)
    finer = {name: join_faces(rows) for name, rows in parts.items()}
    return SplitCells(points, blocks, finer, new_points)


def _split_by_width(vertices):
    """Boundary faces as cells one dimension lower: (kind, corners (n_corners, n))."""
    if len(vertices) < 3:
        return [(LINE if len(vertices) == 2 else None, vertices)]
    if len(vertices) == 3:
        is_triangle = np.ones(vertices.shape[1], bool)
    else:
        is_triangle = vertices[3] < 0
    triangles = vertices[:3, is_triangle]
    quads = vertices[:, ~is_triangle]
    sides = [(TRIANGLE, triangles), (QUAD, quads)]
    return [(kind, rows) for kind, rows in sides if rows.shape[1]]


def _cut(points, kind, corners):
    """The `Cut` of cells with these corners (n_corners, n)."""
    tables = [[[(0,)]]] if kind is None else CUTS[kind]
    if kind == TETRA:
        choice = _find_shortest_diagonal(points[:, corners])
    else:
        choice = np.zeros(corners.shape[1], int)
    sets = []
    for i, table in enumerate(tables):
        members = [corner for child in table for corner in child]
        cell = np.flatnonzero(choice == i)
        own_corners = corners[:, cell]
        sizes = {len(member) for member in members}
        for size in sorted(sizes):
            place = np.array([j for j, member in enumerate(members) if len(member) == size])
            rows = np.array([members[j] for j in place]).T
            sets.append((place[:, None], cell, own_corners[rows]))

    n_children = len(tables[0])
    n_corners = len(tables[0][0])
    shape = n_children, n_corners, corners.shape[1]
    return Cut(kind, shape, sets)


def _find_shortest_diagonal(p):
    """For tetrahedra p (3, 4, n): which of `DIAGONALS` is the shortest (n,)."""
    length = []
    for a, b, *_ in DIAGONALS:
        begin = p[:, list(a)].mean(axis=1)
        end = p[:, list(b)].mean(axis=1)
        length.append(np.linalg.norm(begin - end, axis=0))
    return np.argmin(length, axis=0)


def _number_points(points, cuts):
    """The points and all new ones; the children's corners of each cut: the same set makes the same
    point; and what tells the new points apart, as in `SplitCells`.
    """
    n_points = points.shape[1]
    all_points = [points]
    new_rows = {}
    count = n_points
    numbers = [[None] * len(cut.sets) for cut in cuts]
    for size in (1, 2, 4, 8):
        places = []
        for i, cut in enumerate(cuts):
            for j, (*_, rows) in enumerate(cut.sets):
                if len(rows) == size:
                    places.append((i, j, rows))
        if not places:
            continue
        flat = [rows.reshape(size, -1) for *_, rows in places]
        sets = np.concatenate(flat, axis=1)
        number = sets[0]
        if size > 1:
            # Two corners of a diagonal through the cell tell hexahedra apart, three of four corners
            # do so for faces.
            telling = sets[[0, -1]] if size == 8 else sets
            key = face_keys(telling, n_points)
            _, first, number = np.unique(key, return_index=True, return_inverse=True)
            new_sets = np.sort(sets[:, first], axis=0)
            new_points = points[:, new_sets].mean(axis=1)
            all_points.append(new_points)
            new_rows[size] = np.sort(telling[:, first], axis=0)[-TELLING_POINTS[size] :]
            number = number.ravel() + count
            count = count + len(first)

        ends = np.cumsum([rows[0].size for *_, rows in places])
        parts = np.split(number, ends[:-1])
        for (i, j, rows), part in zip(places, parts):
            numbers[i][j] = part.reshape(rows.shape[1:])
    children = [cut.corners(number) for cut, number in zip(cuts, numbers)]
    return np.concatenate(all_points, axis=1), children, new_rows


# ---- kites ---------------------------------------------------------------------------------------


def cut_kites(
    points: Array, corners: IntArray, facets: dict
) -> tuple[Array, list, dict, Array, IntArray]:
    """(points, blocks, facets, cell points, patches) of a mesh of triangles with every one cut in
    three kites.

    The kite of a corner a has the corners a, the circumcentre z and the middles of the two edges at
    a; its point is (a + z) / 2, across from which lie those of its neighbours, each face in the
    middle. Kites of one vertex are a patch.

    Raises `InputError` unless all angles are below 90 degrees.
    """
    triangles = corners.reshape(-1, 3).T
    _check_acute(points, triangles)
    n = points.shape[1]
    edges = [triangles[[0, 1]], triangles[[1, 2]], triangles[[2, 0]]]
    ends = np.concatenate(edges, axis=1)
    low, high = np.sort(ends, axis=0)
    key = low.astype(np.int64) * n + high
    edge, number = np.unique(key, return_inverse=True)
    edge_ends = np.stack(np.divmod(edge, n))
    edge_middle = points[:, edge_ends].mean(axis=1)
    circumcentre = compute_power_centers(points, triangles)
    all_points = np.concatenate([points, edge_middle, circumcentre], axis=1)

    # Kites 3 k, 3 k + 1, 3 k + 2 are those of triangle k.
    middle = (n + number.ravel()).reshape(3, -1)  # of the edges 01, 12, 20
    center = n + len(edge) + np.arange(triangles.shape[1])
    kites = []
    for i in range(3):
        preceding = middle[i - 1]
        kites.append(np.stack([triangles[i], middle[i], center, preceding]))
    quads = np.stack(kites, axis=2).reshape(4, -1)

    vertex = triangles.T.ravel()
    far_corner = np.repeat(circumcentre, 3, axis=1)
    cell_points = (points[:, vertex] + far_corner) / 2
    halves = {name: _halve_edges(vertices, edge, n) for name, vertices in facets.items()}
    return all_points, [("quad", quads.T)], halves, cell_points, vertex


def _check_acute(points, triangles):
    a, b, c = (points[:, corner] for corner in triangles)
    sides = [c - b, a - c, b - a]  # each across from a corner
    cosines = []
    for i in range(3):
        following = sides[(i + 1) % 3]
        preceding = sides[(i + 2) % 3]
        cosines.append(-(following * preceding).sum(axis=0))

    square = (sides[0] ** 2).sum(axis=0)
    is_wide = np.stack(cosines) <= 1e-9 * square
    wide = np.flatnonzero(is_wide.any(axis=0))
    if len(wide):
        raise InputError(
            f"triangle {wide[0]} has an angle of 90 degrees or more ({len(wide)} have): only "
            "acute ones can be cut in kites"
        )


def _halve_edges(vertices, edge, n):
    """Boundary edges (2, m) as their halves (2, 2 m); the middles of *edge* have the numbers from n
    on.
    """
    a, b = vertices[:2]
    low = np.minimum(a, b).astype(np.int64)
    high = np.maximum(a, b)
    key = low * n + high
    middle = n + np.searchsorted(edge, key)
    begin = np.concatenate([a, middle])
    end = np.concatenate([middle, b])
    return np.stack([begin, end])
