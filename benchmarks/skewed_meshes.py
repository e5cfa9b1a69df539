"""Meshes that are not orthogonal, n cells along a side of the unit square or cube: (points, cells),
as `fvot.Mesh.from_cells` takes them. Without fvot, for other packages.
"""

from itertools import permutations

import numpy as np
from scipy.spatial import Delaunay, Voronoi, cKDTree

# ---- in the plane --------------------------------------------------------------------------------


def _grid(n):
    """The points of n x n squares, moved by nothing: x, y and their numbers (n + 1, n + 1)."""
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    return x, y, np.arange((n + 1) ** 2).reshape(n + 1, n + 1)


def quadrilaterals(n, move):
    """n x n squares, whose points a function (x, y) -> (x, y) moves."""
    x, y, number = _grid(n)
    x, y = move(x, y)
    corners = [number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]]
    cells = np.stack(corners, -1).reshape(-1, 4)
    return np.stack([x.ravel(), y.ravel()]), [("quad", cells)]


def mapped(n, size=0.06):
    """Squares under a smooth map."""

    def move(x, y):
        shift = size * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
        return x + shift, y + shift

    return quadrilaterals(n, move)


def moved(n, part=0.3, seed=1):
    """Squares, whose points are moved at random by up to a part of their size."""

    def move(x, y):
        shift = np.random.default_rng(seed).uniform(-part, part, (2, *x.shape)) / n
        return x + shift[0] * ((x > 0) & (x < 1)), y + shift[1] * ((y > 0) & (y < 1))

    return quadrilaterals(n, move)


def kershaw(n, narrow=0.3):
    """Kershaw's mesh: strips that are compressed to and fro, with angles of up to 82 degrees."""

    def upper(y):
        return np.where(y <= 0.5, (2 - narrow) * y, 1 + narrow * (y - 1))

    def blend(a, b, t):
        t = np.clip(t, 0, 1)
        return a + (b - a) * t**3 * (t * (6 * t - 15) + 10)

    def move(x, y):
        high = upper(y)
        low = 1 - upper(1 - y)
        strip = np.minimum((x * 6).astype(int), 5)
        t = (x - strip / 6) * 6
        heights = [
            low,
            blend(low, high, t),
            blend(high, low, t / 2),
            blend(high, low, (1 + t) / 2),
            blend(low, high, t),
            high,
        ]
        return x, np.choose(strip, heights)

    return quadrilaterals(n, move)


def right_triangles(n):
    """Squares cut in two, all along the same diagonal."""
    points, [(_, square)] = quadrilaterals(n, lambda x, y: (x, y))
    cells = np.concatenate([square[:, [0, 1, 2]], square[:, [0, 2, 3]]])
    return points, [("triangle", cells)]


def irregular_triangles(n, part=0.25, seed=2):
    """Delaunay triangles of a hexagonal lattice, whose points are moved at random."""
    rng = np.random.default_rng(seed)
    n_rows = round(n * 2 / np.sqrt(3))
    points = []
    for j in range(n_rows + 1):
        between = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]])
        for x in between if j % 2 else np.arange(n + 1) / n:
            shift = rng.uniform(-part, part, 2) / n
            y = j / n_rows
            points.append((x + shift[0] * (0 < x < 1), y + shift[1] * (0 < y < 1)))

    points = np.array(points)
    cells = Delaunay(points).simplices
    first = points[cells[:, 1]] - points[cells[:, 0]]
    second = points[cells[:, 2]] - points[cells[:, 0]]
    twice = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    cells[twice < 0] = cells[twice < 0][:, ::-1]
    return points.T, [("triangle", cells[np.abs(twice) > 1e-10 / n**2])]


def voronoi(n, seed=3):
    """Voronoi polygons of a random point in each of n x n squares; short edges are left out."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    generators = (np.stack([i.ravel(), j.ravel()], 1) + rng.uniform(0.1, 0.9, (n * n, 2))) / n
    images = [generators]
    for axis in (0, 1):
        for end in (0, 1):
            image = generators[np.abs(generators[:, axis] - end) < 5 / n].copy()
            image[:, axis] = 2 * end - image[:, axis]
            images.append(image)

    diagram = Voronoi(np.concatenate(images))
    points = np.clip(diagram.vertices, 0, 1)
    same = np.arange(len(points))
    for a, b in cKDTree(points).query_pairs(0.03 / n):
        same[max(a, b)] = min(same[a], same[b])
    for _ in range(5):
        same = same[same]

    number = {}
    cells = []
    for k, generator in enumerate(generators):
        region = np.array(diagram.regions[diagram.point_region[k]])
        x, y = (diagram.vertices[region] - generator).T
        loop = same[region[np.argsort(np.arctan2(y, x))]]
        corners = [a for t, a in enumerate(loop) if a != loop[t - 1]]
        cells.append([number.setdefault(a, len(number)) for a in corners])
    return points[list(number)].T, [("polygon", cells)]


def hanging_nodes(n):
    """Squares, those in the middle cut in four; their neighbours have the new points as corners."""
    number = {}
    cells = []

    def point(*at):
        return number.setdefault(at, len(number))

    def is_fine(i, j):
        return abs((i + 0.5) / n - 0.5) < 0.25 and abs((j + 0.5) / n - 0.5) < 0.25

    for i in range(n):
        for j in range(n):
            a = 2 * i
            b = 2 * j
            if is_fine(i, j):
                for x in (a, a + 1):
                    for y in (b, b + 1):
                        ends = (x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)
                        cells.append([point(*at) for at in ends])
                continue
            sides = [
                ((a, b), (a + 1, b), (i, j - 1)),
                ((a + 2, b), (a + 2, b + 1), (i + 1, j)),
                ((a + 2, b + 2), (a + 1, b + 2), (i, j + 1)),
                ((a, b + 2), (a, b + 1), (i - 1, j)),
            ]
            loop = []
            for corner, middle, neighbour in sides:
                loop.append(point(*corner))
                if is_fine(*neighbour):
                    loop.append(point(*middle))
            cells.append(loop)
    return np.array(list(number)).T / (2 * n), [("polygon", cells)]


# ---- in space ------------------------------------------------------------------------------------


def hexahedra(n, part=0.2, seed=0):
    """Cubes, whose points are moved at random by up to a part of their size."""
    points, number = _grid_in_space(n)
    is_inside = (points > 0) & (points < 1)
    shift = np.random.default_rng(seed).uniform(-part, part, points.shape) / n
    ring = [(0, 0), (1, 0), (1, 1), (0, 1)]
    corners = [number(i, j, k) for k in (0, 1) for i, j in ring]
    return points + shift * is_inside, [("hexahedron", np.stack(corners, 1))]


def wedges(n, part=0.15):
    """`hexahedra`, cut in two."""
    points, [(_, cube)] = hexahedra(n, part)
    halves = [cube[:, [0, 1, 2, 4, 5, 6]], cube[:, [0, 2, 3, 4, 6, 7]]]
    return points, [("wedge", np.concatenate(halves))]


def cubes_in_six(n):
    """Cubes, each cut in six tetrahedra round a diagonal."""
    points, number = _grid_in_space(n)
    cells = []
    for axes in permutations(range(3)):
        way = np.zeros((4, 3), int)
        for step, axis in enumerate(axes):
            way[step + 1 :, axis] += 1
        if np.linalg.det(way[1:]) < 0:
            way = way[[0, 2, 1, 3]]
        cells.append(np.stack([number(*corner) for corner in way], 1))
    return points, [("tetra", np.concatenate(cells))]


def _grid_in_space(n):
    """The points of n^3 cubes, and a function that numbers their corners i, j, k."""
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    number = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    return points, lambda i, j, k: number[i : i + n, j : j + n, k : k + n].ravel()
