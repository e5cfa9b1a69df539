"""Finer meshes: every cell cut in 2^dim, at the middles of its edges, faces and itself.

A new point is the mean of some corners of a cell: of one (a corner), two (the middle of an edge),
four or eight. So a cut is a table of sets of corners. Children of triangles and parallelograms are
similar to their parents; a tetrahedron leaves an octahedron between four such children, which is
cut along its shortest diagonal (Bey 1995, Zhang 1995).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..errors import InputError
from .cartesian import CORNERS
from .cells import HEXAHEDRON, LINE, NAME, QUAD, TETRA, TRIANGLE, WEDGE, face_keys
from .power_centers import compute_power_centers


def _products(corners):
    """The cut of a line, a quadrilateral or a hexahedron with these corners (0 or 1 along each
    axis).
    """
    part = {
        0: (0,),
        1: (0, 1),
        2: (1,),
    }  # corners of a line whose mean is its lower end, middle, upper end
    number = {corner: i for i, corner in enumerate(corners)}
    return [
        [
            tuple(number[c] for c in product(*[part[a + b] for a, b in zip(first, corner)]))
            for corner in corners
        ]
        for first in corners
    ]


def _wedges(triangles):
    """The cut of a wedge, in two layers of those of its base."""
    layers = [((0,), (0, 1)), ((0, 1), (1,))]
    return [
        [tuple(t + 3 * z for z in level for t in corner) for level in layer for corner in triangle]
        for layer in layers
        for triangle in triangles
    ]


def _octahedra():
    """The cut of a tetrahedron for each diagonal of its octahedron."""
    unit = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    outer = [[tuple(sorted({i, j})) for j in range(4)] for i in range(4)]
    cuts = []
    for a, b, *ring in DIAGONALS:
        inner = [[a, b, ring[i], ring[(i + 1) % 4]] for i in range(4)]
        for child in inner:
            p = np.array([unit[list(corner)].mean(axis=0) for corner in child])
            if np.linalg.det(p[1:] - p[0]) < 0:
                child[2:] = child[:1:-1]
        cuts.append(outer + inner)
    return cuts


DIAGONALS = [
    ((0, 1), (2, 3), (0, 2), (1, 2), (1, 3), (0, 3)),  # its ends, and the ring around it
    ((0, 2), (1, 3), (0, 1), (1, 2), (2, 3), (0, 3)),
    ((0, 3), (1, 2), (0, 1), (1, 3), (2, 3), (0, 2)),
]
TRIANGLES = [
    [(0,), (0, 1), (0, 2)],
    [(0, 1), (1,), (1, 2)],
    [(0, 2), (1, 2), (2,)],
    [(0, 1), (1, 2), (0, 2)],
]
CUTS = {
    LINE: [_products(CORNERS[1])],
    TRIANGLE: [TRIANGLES],
    QUAD: [_products(CORNERS[2])],
    TETRA: _octahedra(),
    HEXAHEDRON: [_products(CORNERS[3])],
    WEDGE: [_wedges(TRIANGLES)],
}


def children(regions, n):
    """The regions of a mesh whose cells have been cut in n each."""
    return {name: (cells[:, None] * n + np.arange(n)).ravel() for name, cells in regions.items()}


@dataclass(frozen=True)
class Cut:
    """Cells of one kind, cut: each corner of each child is the mean of a set of points."""

    kind: int  # None for points, the sides of intervals
    shape: tuple  # (n_children, n_corners, n_cells)
    # (place (n_places, 1) among all children's corners, cell (n,), points (size, n_places, n))
    sets: list

    def corners(self, numbers):
        """Corners (n_corners, n_cells n_children) of the children from the numbers of all sets, a
        list like `sets`.
        """
        made = np.empty((self.shape[0] * self.shape[1], self.shape[2]), np.int64)
        for (place, cell, _), number in zip(self.sets, numbers):
            made[place, cell] = number
        return made.reshape(self.shape).transpose(1, 2, 0).reshape(self.shape[1], -1)


def split(points, kind, start, corners, facets):
    """(points, blocks, facets) of the mesh with every cell cut in 2^dim; those of cell k are 2^dim
    k, 2^dim k + 1, ...

    Raises `InputError` for polygons and pyramids.
    """
    uncut = [NAME[k] for k in np.unique(kind) if k not in CUTS]
    if uncut:
        raise InputError(
            f"a mesh of cells of type {', '.join(uncut)} cannot be refined: there is no cut of "
            "these in "
            f"{2 ** len(points)} cells of their kind; make a finer mesh where this one came from"
        )
    ends = np.concatenate([[0], np.flatnonzero(np.diff(kind)) + 1, [len(kind)]])
    cells = [
        _cut(points, kind[a], corners[start[a] : start[b]].reshape(b - a, -1).T)
        for a, b in zip(ends[:-1], ends[1:])
    ]
    sides = [
        (name, _cut(points, *side))
        for name, vertices in facets.items()
        for side in _sides(vertices)
    ]
    points, made = _numbered(points, cells + [cut for _, cut in sides])
    blocks = [(NAME[cut.kind], corners.T) for cut, corners in zip(cells, made)]
    finer = {}
    width = max((len(vertices) for vertices in facets.values()), default=0)
    for (name, _), corners in zip(sides, made[len(cells) :]):
        finer.setdefault(name, []).append(
            np.pad(corners, ((0, width - len(corners)), (0, 0)), constant_values=-1)
        )
    return points, blocks, {name: np.concatenate(parts, axis=1) for name, parts in finer.items()}


def _sides(vertices):
    """Boundary faces as cells one dimension lower: (kind, corners (n_corners, n))."""
    if len(vertices) < 3:
        return [(LINE if len(vertices) == 2 else None, vertices)]
    three = np.ones(vertices.shape[1], bool) if len(vertices) == 3 else vertices[3] < 0
    return [
        (k, rows)
        for k, rows in ((TRIANGLE, vertices[:3, three]), (QUAD, vertices[:, ~three]))
        if rows.shape[1]
    ]


def _cut(points, kind, corners):
    """The `Cut` of cells with these corners (n_corners, n)."""
    tables = [[[(0,)]]] if kind is None else CUTS[kind]
    choice = (
        _shortest_diagonal(points[:, corners]) if kind == TETRA else np.zeros(corners.shape[1], int)
    )
    sets = []
    for i, table in enumerate(tables):
        members = [corner for child in table for corner in child]
        cell = np.flatnonzero(choice == i)
        for size in sorted({len(member) for member in members}):
            place = np.array([j for j, member in enumerate(members) if len(member) == size])
            rows = np.array([members[j] for j in place]).T
            sets.append((place[:, None], cell, corners[:, cell][rows]))
    return Cut(kind, (len(tables[0]), len(tables[0][0]), corners.shape[1]), sets)


def _shortest_diagonal(p):
    """For tetrahedra p (3, 4, n): which of `DIAGONALS` is the shortest (n,)."""
    length = [
        np.linalg.norm(p[:, list(a)].mean(axis=1) - p[:, list(b)].mean(axis=1), axis=0)
        for a, b, *_ in DIAGONALS
    ]
    return np.argmin(length, axis=0)


def _numbered(points, cuts):
    """The points and all new ones, and the children's corners of each cut: the same set makes the
    same point.
    """
    n_points = points.shape[1]
    new = [points]
    count = n_points
    numbers = [[None] * len(cut.sets) for cut in cuts]
    for size in (1, 2, 4, 8):
        found = [
            (i, j, sets)
            for i, cut in enumerate(cuts)
            for j, (*_, sets) in enumerate(cut.sets)
            if len(sets) == size
        ]
        if not found:
            continue
        sets = np.concatenate([rows.reshape(size, -1) for *_, rows in found], axis=1)
        number = sets[0]
        if size > 1:
            # two corners of a diagonal through the cell tell hexahedra apart, three of four corners
            # do so for faces
            key = face_keys(sets[[0, -1]] if size == 8 else sets, n_points)
            _, first, number = np.unique(key, return_index=True, return_inverse=True)
            new.append(points[:, np.sort(sets[:, first], axis=0)].mean(axis=1))
            number = number.ravel() + count
            count = count + len(first)
        ends = np.cumsum([rows[0].size for *_, rows in found])
        for (i, j, rows), part in zip(found, np.split(number, ends[:-1])):
            numbers[i][j] = part.reshape(rows.shape[1:])
    return np.concatenate(new, axis=1), [cut.corners(number) for cut, number in zip(cuts, numbers)]


def kites(points, corners, facets):
    """(points, blocks, facets, cell points, patches) of a mesh of triangles with every one cut in
    three kites.

    The kite of a corner a has the corners a, the circumcentre z and the middles of the two edges at
    a; its point is (a + z) / 2, across from which lie those of its neighbours, each face in the
    middle. Kites of one vertex are a patch.

    Raises `InputError` unless all their angles are below 90 degrees.
    """
    triangles = corners.reshape(-1, 3).T
    side = [points[:, triangles[(i + 2) % 3]] - points[:, triangles[(i + 1) % 3]] for i in range(3)]
    cosine = np.stack([-(side[(i + 1) % 3] * side[(i + 2) % 3]).sum(axis=0) for i in range(3)])
    wide = np.flatnonzero((cosine <= 1e-9 * (side[0] ** 2).sum(axis=0)).any(axis=0))
    if len(wide):
        raise InputError(
            f"triangle {wide[0]} has an angle of 90 degrees or more ({len(wide)} have): only "
            "acute ones can be "
            "cut in kites"
        )
    n = points.shape[1]
    edges = np.sort(np.concatenate([triangles[[i, (i + 1) % 3]] for i in range(3)], axis=1), axis=0)
    key, number = np.unique(edges[0].astype(np.int64) * n + edges[1], return_inverse=True)
    middle = (n + number.ravel()).reshape(3, -1)  # of the edges 01, 12, 20
    center = n + len(key) + np.arange(triangles.shape[1])
    z = compute_power_centers(points, triangles)
    new = np.concatenate([points, points[:, np.stack(np.divmod(key, n))].mean(axis=1), z], axis=1)
    quads = np.stack(
        [np.stack([triangles[i], middle[i], center, middle[i - 1]]) for i in range(3)], axis=2
    )
    quads = quads.reshape(4, -1)  # kites 3 k, 3 k + 1, 3 k + 2 of triangle k
    halves = {name: _halved_edges(vertices, key, n) for name, vertices in facets.items()}
    return (
        new,
        [("quad", quads.T)],
        halves,
        (points[:, triangles.T.ravel()] + np.repeat(z, 3, axis=1)) / 2,
        triangles.T.ravel(),
    )


def _halved_edges(vertices, key, n):
    """Boundary edges (2, m) as their halves (2, 2 m); *key* numbers the edges' middles."""
    a, b = vertices[:2]
    middle = n + np.searchsorted(key, np.minimum(a, b).astype(np.int64) * n + np.maximum(a, b))
    return np.stack([np.concatenate([a, middle]), np.concatenate([middle, b])])
