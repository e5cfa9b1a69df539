"""A small mesh of every kind: MESHES[name](**arguments of the builder)."""

from functools import partial
from pathlib import Path

import numpy as np

from fvot import Mesh

FILES = Path(__file__).parent.parent / "meshes"
# More cells of the same kind: others stand for them, and some tests read them.
LIKE_OTHERS = {"disc_quads", "l_graded", "rooms_graded", "slit"}


def tiling(n=4):
    """A row of n dodecagons, each of a hexagon, six squares and six triangles with sides 1:
    (points, cells).
    """
    turn = np.pi / 6 * np.arange(12)
    hexagon = np.stack([np.cos(turn[1::2]), np.sin(turn[1::2])])
    radius = np.sqrt(2 + np.sqrt(3))
    rim = radius * np.stack([np.cos(turn + np.pi / 12), np.sin(turn + np.pi / 12)])
    points = []
    cells = {"triangle": [], "quad": [], "polygon": []}
    for i in range(n):
        shift = 18 * i
        points.append(
            np.concatenate([hexagon, rim], axis=1) + [[2 * radius * np.cos(np.pi / 12) * i], [0]]
        )
        cells["polygon"].append(shift + np.arange(6))
        for k in range(6):  # hexagon corner k is at 30 + 60 k degrees; rim corners k at 15 + 30 k
            a = k
            b = (k + 1) % 6
            outer = 6 + np.arange(2 * k, 2 * k + 4) % 12
            cells["triangle"].append(shift + np.array([a, outer[0], outer[1]]))
            cells["quad"].append(shift + np.array([a, outer[1], outer[2], b]))
    points, number = merged(np.concatenate(points, axis=1))
    return points, [(kind, [number[c] for c in members]) for kind, members in cells.items()]


def honeycomb(n=4):
    """n x n cubes, pyramids on them, tetrahedra between these, prisms along one side; all edges 1:
    (points, cells).
    """
    points = []
    cells = {"hexahedron": [], "pyramid": [], "tetra": [], "wedge": []}

    def add(kind, *corners):
        cells[kind].append(np.arange(len(corners)) + len(points))
        points.extend(corners)

    def apex(i, j):
        return i + 0.5, j + 0.5, 1 + np.sqrt(0.5)

    for i in range(n):
        for j in range(n):
            low, high = [
                [(i, j, z), (i + 1, j, z), (i + 1, j + 1, z), (i, j + 1, z)] for z in (0, 1)
            ]
            add("hexahedron", *low, *high)
            add("pyramid", *high, apex(i, j))
            if i:
                add("tetra", (i, j, 1), (i, j + 1, 1), apex(i - 1, j), apex(i, j))
            if j:
                add("tetra", (i, j, 1), (i + 1, j, 1), apex(i, j), apex(i, j - 1))
        add(
            "wedge",
            *[(x, y, z) for y in (i, i + 1) for x, z in ((n, 0), (n, 1), (n + np.sqrt(0.75), 0.5))],
        )
    points, number = merged(np.array(points).T)
    return points, [(kind, number[np.array(members)]) for kind, members in cells.items()]


def merged(points):
    """The different ones among points (dim, n), and the number of each point among them."""
    _, first, number = np.unique(points.round(9), axis=1, return_index=True, return_inverse=True)
    return points[:, first], number.ravel()


def shaken_quads(n=8, amount=0.15, seed=1):
    """n x n quadrilaterals in the unit square with their inner points moved: (points, cells)."""
    x = np.stack(np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij"))
    x[:, 1:-1, 1:-1] += amount * np.random.default_rng(seed).uniform(-1, 1, (2, n - 1, n - 1))
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]]).reshape(4, -1).T
    return x.reshape(2, -1) / n, [("quad", quads)]


def uneven_lines(n=20):
    """Intervals of different lengths, not in order, between 0 and 1: (points, cells)."""
    order = np.random.default_rng(3).permutation(n)
    return np.linspace(0, 1, n + 1)[None] ** 1.5, [("line", np.stack([order, order + 1], axis=1))]


MESHES = {
    "interval": partial(Mesh.interval, -1, 2, 17),
    "circle": partial(Mesh.interval, 0, 1, 16, periodic=True),
    "rectangle": partial(Mesh.rectangle, (0, -1), (2, 1), (10, 7)),
    "torus": partial(Mesh.rectangle, (0, 0), (1, 2), (8, 9), periodic=True),
    "channel": partial(Mesh.rectangle, (0, 0), (3, 1), (12, 5), periodic=(True, False)),
    "box": partial(Mesh.box, (0, 0, 0), (1, 2, 1), (5, 6, 4)),
    "periodic box": partial(Mesh.box, 0, 1, (4, 3, 5), periodic=True),
    "triangles": partial(Mesh.triangles, (0, 0), (1, 1), 8),
    "voronoi": partial(Mesh.voronoi, (0, 0), (2, 1), 80),
    "tetrahedra": partial(Mesh.tetrahedra, (0, 0, 0), (1, 1, 0.5), 3),
    "lines": lambda **options: Mesh.from_cells(*uneven_lines(), **options),
    "quads": lambda **options: Mesh.from_cells(*shaken_quads(), **options),
    "tiling": lambda **options: Mesh.from_cells(*tiling(), **options),
    "honeycomb": lambda **options: Mesh.from_cells(*honeycomb(), **options),
    **{
        path.stem: partial(Mesh.read, path)
        for path in sorted(FILES.glob("*.msh"))
        if path.stem not in LIKE_OTHERS
    },
}
PERIODIC = {"circle", "torus", "channel", "periodic box"}
MEASURE = {
    "interval": 3,
    "circle": 1,
    "rectangle": 4,
    "torus": 2,
    "channel": 3,
    "box": 2,
    "periodic box": 1,
    "triangles": 1,
    "voronoi": 2,
    "tetrahedra": 0.5,
    "lines": 1,
    "quads": 1,
    "tiling": 4 * (6 + 3 * np.sqrt(3)),
    "honeycomb": 16 + 16 * np.sqrt(2) / 6 + 24 * np.sqrt(2) / 12 + np.sqrt(3),
    "l_shape": 3,
    "two_rooms": 2.02,
}


def patch_means(mesh, rho):
    """The means of rho over the patches, as cell values."""
    _, patch = np.unique(mesh.patch, return_inverse=True)
    mass, volume = (np.bincount(patch, w * mesh.volume) for w in (rho, np.ones(mesh.n_cells)))
    return (mass / volume)[patch]
