"""Meshes that people bring, none of them made for two-point fluxes: (points, cells) on the unit
square or cube.
"""

from collections import Counter
from itertools import permutations

import numpy as np
from scipy.spatial import Delaunay, Voronoi, cKDTree

from fvot import Mesh


def quads(n, move=None):
    """n x n squares, whose points a function (x, y) -> (x, y) may move."""
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    if move:
        x, y = move(x, y)
    number = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    corners = [number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]]
    return np.stack([x.ravel(), y.ravel()]), [("quad", np.stack(corners, -1).reshape(-1, 4))]


def waves(size):
    """A `move` by size sin(2 pi x) sin(2 pi y) along both axes."""

    def move(x, y):
        shift = size * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
        return x + shift, y + shift

    return move


def swirl(size):
    """A `move` that shears the middle of the square most."""

    def move(x, y):
        return (
            x + size * np.sin(np.pi * x) * np.sin(2 * np.pi * y),
            y + size * np.sin(2 * np.pi * x) * np.sin(np.pi * y),
        )

    return move


def noise(n, part, seed=1):
    """A `move` by random steps of up to a part of 1 / n, along the walls, too."""

    def move(x, y):
        shift = np.random.default_rng(seed).uniform(-part, part, (2, *x.shape)) / n
        return x + shift[0] * ((x > 0) & (x < 1)), y + shift[1] * ((y > 0) & (y < 1))

    return move


def kershaw(n, size=0.3):
    """n x n quadrilaterals in six layers that go up and down: thin ones, far from orthogonal."""

    def upper(x):
        return np.where(x <= 0.5, (2 - size) * x, 1 + size * (x - 1))

    def blend(a, b, t):
        t = np.clip(t, 0, 1)
        return a + (b - a) * t**3 * (t * (6 * t - 15) + 10)

    def move(x, y):
        layer = np.minimum((x * 6).astype(int), 5)
        t = 6 * x - layer
        high = upper(y)
        low = 1 - upper(1 - y)
        layers = [
            low,
            blend(low, high, t),
            blend(high, low, t / 2),
            blend(high, low, (1 + t) / 2),
            blend(low, high, t),
            high,
        ]
        return x, np.choose(layer, layers)

    return quads(n, move)


def right_triangles(n, alternate=False, move=None):
    """n x n squares cut in two, all along the same diagonal, or along the other one in every second
    square; a function (x, y) -> (x, y) may move the points.
    """
    points, [(_, square)] = quads(n, move)
    turned = (np.add.outer(np.arange(n), np.arange(n)) % 2 == 1).ravel() & alternate
    square = np.where(turned[:, None], np.roll(square, 1, axis=1), square)
    return points, [("triangle", np.concatenate([square[:, [0, 1, 2]], square[:, [0, 2, 3]]]))]


def hanging(n):
    """n x n squares, those in the middle cut in four; their neighbours have the hanging nodes as
    corners.
    """
    number = {}
    cells = []

    def point(*at):
        return number.setdefault(at, len(number))

    def is_fine(i, j):
        return abs(i + 0.5 - n / 2) < n / 4 and abs(j + 0.5 - n / 2) < n / 4

    for i in range(n):
        for j in range(n):
            a, b = 2 * i, 2 * j
            if is_fine(i, j):
                cells += [
                    [point(x, y), point(x + 1, y), point(x + 1, y + 1), point(x, y + 1)]
                    for x in (a, a + 1)
                    for y in (b, b + 1)
                ]
                continue
            sides = [
                ((a, b), (a + 1, b), (i, j - 1)),
                ((a + 2, b), (a + 2, b + 1), (i + 1, j)),
                ((a + 2, b + 2), (a + 1, b + 2), (i, j + 1)),
                ((a, b + 2), (a, b + 1), (i - 1, j)),
            ]
            cells.append(
                [
                    point(*at)
                    for corner, middle, other in sides
                    for at in ([corner, middle] if is_fine(*other) else [corner])
                ]
            )
    return np.array(list(number)).T / (2 * n), [("polygon", cells)]


def with_a_u():
    """3 x 3 squares, of which the first column and its right neighbours make a U and a filling:
    (points, cells), the U being cell 0.
    """
    number = {}

    def point(*at):
        return number.setdefault(at, len(number))

    u = [(0, 0), (3, 0), (3, 1), (3, 2), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    filling = [(1, 1), (2, 1), (2, 3), (1, 3)]
    cells = [[point(*at) for at in loop] for loop in (u, filling)]
    for i in (3, 4, 5):
        for j in (0, 1, 2):
            loop = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            cells.append([point(*at) for at in loop])
    return np.array(list(number), float).T, [("polygon", cells)]


def irregular_triangles(n, seed=2):
    """Delaunay triangles of random points, n along each side of the square."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    points = np.stack(noise(n, 0.4, seed)(x, y)).reshape(2, -1)
    points[:, ((points > 0) & (points < 1)).all(axis=0)] += rng.uniform(-0.1, 0.1) / n
    cells = Delaunay(points.T).simplices
    first, second = (
        points[:, cells[:, 1]] - points[:, cells[:, 0]],
        points[:, cells[:, 2]] - points[:, cells[:, 0]],
    )
    area = first[0] * second[1] - first[1] * second[0]
    cells[area < 0] = cells[area < 0][:, ::-1]
    return points, [("triangle", cells[np.abs(area) > 1e-9 / n**2])]


def lattice_triangles(n, part=0.25, seed=2):
    """Delaunay triangles of a hexagonal lattice whose points are moved by up to a part of 1 / n."""
    rng = np.random.default_rng(seed)
    n_rows = round(n * 2 / np.sqrt(3))
    points = []
    for row in range(n_rows + 1):
        even = np.arange(n + 1) / n
        odd = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]])
        for x in odd if row % 2 else even:
            shift = rng.uniform(-part, part, 2) / n
            y = row / n_rows
            points.append((x + shift[0] * (0 < x < 1), y + shift[1] * (0 < y < 1)))
    points = np.array(points)
    cells = Delaunay(points).simplices
    first = points[cells[:, 1]] - points[cells[:, 0]]
    second = points[cells[:, 2]] - points[cells[:, 0]]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    cells[area < 0] = cells[area < 0][:, ::-1]
    return points.T, [("triangle", cells[np.abs(area) > 1e-10 / n**2])]


def kites(n, part=0.25):
    """`lattice_triangles`, each cut in three quadrilaterals at its centroid and the middles of its
    sides.
    """
    points, [(_, triangles)] = lattice_triangles(n, part)
    sides = np.sort(np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=-1), axis=-1)
    ends, number = np.unique(sides.reshape(-1, 2), axis=0, return_inverse=True)
    middle = points.shape[1] + number.reshape(triangles.shape)
    centroid = points.shape[1] + len(ends) + np.arange(len(triangles))
    around = np.roll(middle, 1, axis=1)
    cells = np.stack([triangles, middle, np.repeat(centroid[:, None], 3, axis=1), around], axis=-1)
    places = [points, points[:, ends].mean(axis=2), points[:, triangles].mean(axis=2)]
    return np.concatenate(places, axis=1), [("quad", cells.reshape(-1, 4))]


def random_polygons(n, seed=3):
    """The Voronoi cells of one random point in each of n x n squares, without short edges."""
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    place = np.random.default_rng(seed).uniform(0.1, 0.9, (n * n, 2))
    inside = (np.stack([i.ravel(), j.ravel()], 1) + place) / n
    images = [inside]
    for axis in (0, 1):
        for end in (0, 1):
            image = inside[np.abs(inside[:, axis] - end) < 5 / n].copy()
            image[:, axis] = 2 * end - image[:, axis]
            images.append(image)
    diagram = Voronoi(np.concatenate(images))
    vertices = np.clip(diagram.vertices, 0, 1)
    same = np.arange(len(vertices))
    for a, b in sorted(cKDTree(vertices).query_pairs(0.03 / n)):
        same[max(a, b)] = min(same[a], same[b])
    for _ in range(5):
        same = same[same]

    number = {}
    cells = []
    for k in range(n * n):
        region = np.array(diagram.regions[diagram.point_region[k]])
        seen = diagram.vertices[region] - inside[k]
        around = same[region[np.argsort(np.arctan2(seen[:, 1], seen[:, 0]))]]
        corners = [a for place, a in enumerate(around) if a != around[place - 1]]
        cells.append([number.setdefault(a, len(number)) for a in corners])
    return vertices[list(number)].T, [("polygon", cells)]


def random_triangles(n, seed=0):
    """Delaunay triangles of about n^2 / 2 random points, and of n along each wall."""
    inside = np.random.default_rng(seed).uniform(0, 1, (2, n**2 // 2))
    x = np.arange(n + 1) / n
    walls = [(x, 0 * x), (x, 1 + 0 * x), (0 * x[1:-1], x[1:-1]), (1 + 0 * x[1:-1], x[1:-1])]
    points = np.concatenate([inside, *[np.stack(wall) for wall in walls]], axis=1)
    return points, [("triangle", Delaunay(points.T).simplices)]


def hexahedra(n, part, seed=0):
    """n^3 cubes, whose inner points are moved by up to a part of their size."""
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    inside = (points > 0) & (points < 1)
    points = points + np.random.default_rng(seed).uniform(-part, part, points.shape) / n * inside
    number = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    offsets = [
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
        (0, 1, 1),
    ]
    corners = [number[i : i + n, j : j + n, k : k + n].ravel() for i, j, k in offsets]
    return points, [("hexahedron", np.stack(corners, 1))]


def cubes_in_six(n):
    """n^3 cubes, each of six tetrahedra round a diagonal: one for each way from corner to corner
    along three edges.
    """
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    number = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    cells = []
    for axes in permutations(range(3)):
        corner = np.zeros((4, 3), int)
        for step, axis in enumerate(axes):
            corner[step + 1 :, axis] += 1
        cells.append(
            np.stack(
                [number[i : i + n, j : j + n, k : k + n].ravel() for i, j, k in corner], axis=1
            )
        )
    return points, [("tetra", np.concatenate(cells))]


def wedges(n, part):
    """`hexahedra`, each cut in two wedges."""
    points, [(_, cubes)] = hexahedra(n, part)
    halves = cubes[:, [0, 1, 2, 4, 5, 6]], cubes[:, [0, 2, 3, 4, 6, 7]]
    return points, [("wedge", np.concatenate(halves))]


def pyramids(n, part):
    """`hexahedra`, each cut in the six pyramids of its faces and the mean of its corners."""
    points, [(_, cubes)] = hexahedra(n, part)
    apex = points.shape[1] + np.arange(len(cubes))
    faces = [(1, 2, 3, 0), (7, 6, 5, 4), (4, 5, 1, 0), (5, 6, 2, 1), (6, 7, 3, 2), (7, 4, 0, 3)]
    cells = [np.column_stack([cubes[:, face], apex]) for face in faces]
    points = np.concatenate([points, points[:, cubes].mean(axis=2)], axis=1)
    return points, [("pyramid", np.concatenate(cells))]


def sides(points, cells):
    """The edges {name: (2, n)} of a mesh of the unit square along each of its sides."""
    count = Counter(
        tuple(sorted((int(a), int(b))))
        for _, members in cells
        for cell in members
        for a, b in zip(cell, np.roll(cell, -1), strict=True)
    )
    edges = np.array([edge for edge, times in count.items() if times == 1])
    x, y = points[:, edges].mean(axis=2)
    places = {"left": x < 1e-9, "right": x > 1 - 1e-9, "bottom": y < 1e-9, "top": y > 1 - 1e-9}
    return {name: edges[is_there].T for name, is_there in places.items()}


def ring(n_radii, n_angles):
    """Quadrilaterals of the ring 1 < |x| < 2, whose sides are radii and chords of circles."""
    radius, angle = np.meshgrid(
        np.linspace(1, 2, n_radii + 1), 2 * np.pi * np.arange(n_angles) / n_angles, indexing="ij"
    )
    number = np.arange(radius.size).reshape(radius.shape)
    after = np.roll(number, -1, axis=1)
    cells = np.stack([number[:-1], number[1:], after[1:], after[:-1]], -1).reshape(-1, 4)
    return np.stack([(radius * np.cos(angle)).ravel(), (radius * np.sin(angle)).ravel()]), [
        ("quad", cells)
    ]


def from_cells(make, *arguments):
    """A maker of the mesh that make(*arguments) describes."""

    return lambda **options: Mesh.from_cells(*make(*arguments), **options)


# One small mesh of each kind, by makers that take `Mesh`'s keywords.
BROUGHT = {
    "waves": from_cells(quads, 6, waves(0.06)),
    "noise": from_cells(quads, 6, noise(6, 0.3)),
    "kershaw": from_cells(kershaw, 12),
    "right": from_cells(right_triangles, 5),
    "alternating": from_cells(right_triangles, 5, True),
    "lattice": from_cells(lattice_triangles, 6),
    "polygons": from_cells(random_polygons, 6),
    "hanging": from_cells(hanging, 6),
    "hexahedra": from_cells(hexahedra, 3, 0.2),
    "cubes in six": from_cells(cubes_in_six, 2),
    "wedges": from_cells(wedges, 3, 0.15),
    "pyramids": from_cells(pyramids, 2, 0.15),
}
