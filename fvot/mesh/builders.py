"""Meshes made without a file: points, cells and, where they are not circumcentres or centroids,
cell points.
"""

from functools import partial

import numpy as np
from scipy.spatial import Voronoi, cKDTree

from ..errors import InputError
from .cells import check_extent
from .power_centers import compute_power_centers

SIDES = {
    1: ("left", "right"),
    2: ("left", "right", "bottom", "top"),
    3: ("left", "right", "front", "back", "bottom", "top"),
}  # lower and upper side of each axis
LLOYD = 40  # sweeps towards the centroidal Voronoi mesh


def box_corners(lower, upper, dim):
    """The corners of a box as arrays; `InputError` unless they are finite and lower < upper."""
    try:
        lower, upper = (
            np.broadcast_to(np.asarray(lower, float), dim),
            np.broadcast_to(np.asarray(upper, float), dim),
        )
    except ValueError:
        raise InputError(
            f"a box in dimension {dim} has corners of {dim} numbers, not {lower!r} and {upper!r}"
        ) from None
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower < upper).all()):
        raise InputError(
            f"the lower corner {lower.tolist()} must be below the upper corner {upper.tolist()} "
            "on each axis"
        )
    check_extent(upper - lower, dim)
    return lower, upper


def positive_integer(n, what):
    """*n* as an int; `InputError` unless it is a whole number from 1 on."""
    if (
        not isinstance(n, (int, float, np.integer, np.floating))
        or isinstance(n, bool)
        or not n >= 1
        or n % 1 != 0
    ):
        raise InputError(f"{what} must be a whole number from 1 on, not {n!r}")
    return int(n)


def sides(points, lower, upper, vertices):
    """Boundary facets of a box by the names of its sides: those whose points all lie on one side."""
    tiny = 1e-9 * (upper - lower).max()
    facets = {}
    for side, name in enumerate(SIDES[len(points)]):
        axis = side // 2
        end = (lower, upper)[side % 2][side // 2]
        on = (np.abs(points[axis, vertices] - end) < tiny).all(axis=0)
        facets[name] = vertices[:, on]
    return facets


def triangles(lower, upper, n):
    """Rows of isosceles triangles, every other row shifted by half a base: (points, blocks).

    *n* bases along x; the rows are as high as the bases are long, as nearly as the box allows. The
    triangles are acute, but for the halves at the left and right wall, which are right-angled.
    """
    lower, upper = box_corners(lower, upper, 2)
    n = positive_integer(n, "n, the number of triangles along x,")
    width, height = upper - lower
    if 2 * n * height <= width:
        raise InputError(
            f"n = {n} triangles along x are obtuse in a box of {width:g} x {height:g}: "
            f"n must be more than {width / (2 * height):g}"
        )
    rows = max(1, round(n * height / width))
    even = np.arange(n + 1) / n
    odd = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]])
    start = np.concatenate(
        [[0], np.cumsum([len(even) if j % 2 == 0 else len(odd) for j in range(rows + 1)])]
    )
    x = np.concatenate([even if j % 2 == 0 else odd for j in range(rows + 1)])
    y = np.repeat(np.arange(rows + 1) / rows, np.diff(start))
    points = lower[:, None] + np.stack([x * width, y * height])
    points[0, x == 1], points[1, y == 1] = upper
    i = np.arange(n + 1)
    cells = []
    for j in range(rows):
        few, many = (start[j], start[j + 1]) if j % 2 == 0 else (start[j + 1], start[j])
        based = np.stack(
            [few + i[:-1], few + i[1:], many + i[:-1] + 1]
        )  # base on the row of n + 1 points
        hanging = np.stack([many + i + 1, many + i, few + i])  # base on the row of n + 2 points
        row = np.concatenate([based, hanging], axis=1)[
            :, np.argsort(np.concatenate([2 * i[:-1] + 1, 2 * i]))
        ]
        cells.append(row if j % 2 == 0 else row[[1, 0, 2]])
    return points, [("triangle", np.concatenate(cells, axis=1).T)]


def _cubes(lower, upper, n):
    """(lower corner, shape, spacing) of n nearly cubic bricks along x."""
    lower, upper = box_corners(lower, upper, 3)
    n = positive_integer(n, "n, the number of cubes along x,")
    shape = np.maximum(1, np.rint((upper - lower) * n / (upper[0] - lower[0])).astype(int))
    return lower, shape, (upper - lower) / shape


def cube_of(lower, upper, n):
    """A function of centroids (3, n): the number of the cube to which each of Sommerville's
    tetrahedra belongs.

    Those on a face between two cubes go with the upper one, so that all patches but the last ones
    are alike: twelve each.
    """
    lower, shape, spacing = _cubes(lower, upper, n)
    return partial(_cube, lower=lower, shape=shape, spacing=spacing)


def _cube(x, lower, shape, spacing):
    place = np.floor((x - lower[:, None]) / spacing[:, None] + 1e-6).astype(int)
    return np.ravel_multi_index(np.minimum(place, shape[:, None] - 1), shape)


def tetrahedra(lower, upper, n):
    """Sommerville's tetrahedra on a body-centred lattice of *n* cubes along x: (points, blocks,
    cell points).

    Each face between two cubes carries four tetrahedra: the two cube centres and one edge of the
    face. A face on the wall has a point in its middle instead of the second centre. Circumcentres
    of those wall cells lie outside them; with negative weights on the wall points, power centres do
    not, and x_K x_L stays normal to every face (Sommerville 1923; Aurenhammer 1987).
    """
    lower, shape, spacing = _cubes(lower, upper, n)
    corner_shape = shape + 1
    if 2 * spacing.max() ** 2 >= (spacing**2).sum() * (1 - 1e-9):
        raise InputError(
            f"n = {n} makes bricks of {spacing[0]:.3g} x {spacing[1]:.3g} x {spacing[2]:.3g}, too "
            "long for "
            "tetrahedra: choose n so that they are nearly cubes"
        )
    corner = (
        np.stack(np.meshgrid(*map(np.arange, corner_shape), indexing="ij"))
        .reshape(3, -1)
        .astype(float)
    )
    middle = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1) + 0.5
    points = [corner, middle]
    n_corners = corner.shape[1]
    n_middle = middle.shape[1]
    cells = []
    weights = []
    n_points = n_corners + n_middle
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        face_shape = shape.copy()
        face_shape[axis] += 1
        face = np.stack(np.meshgrid(*map(np.arange, face_shape), indexing="ij")).reshape(3, -1)
        unit = np.eye(3, dtype=int)
        loop = [
            face,
            face + unit[others[0]][:, None],
            face + unit[others[0]][:, None] + unit[others[1]][:, None],
            face + unit[others[1]][:, None],
        ]
        loop = [np.ravel_multi_index(p, corner_shape) for p in loop]
        below, above = face.copy(), face.copy()
        below[axis] -= 1
        wall_below = face[axis] == 0
        wall_above = face[axis] == shape[axis]
        behind = n_corners + np.ravel_multi_index(np.where(wall_below, above, below), shape)
        beyond = n_corners + np.ravel_multi_index(np.where(wall_above, below, above), shape)
        wall = np.flatnonzero(wall_below | wall_above)
        middle_of_face = face[:, wall] + 0.5 * (unit[others[0]] + unit[others[1]])[:, None]
        points.append(middle_of_face)
        weights.append(np.full(len(wall), -_wall_weight(spacing[axis], *spacing[others])))
        wall_point = n_points + np.arange(len(wall))
        behind[wall_below] = wall_point[wall_below[wall]]
        beyond[wall_above] = wall_point[wall_above[wall]]
        n_points += len(wall)
        cells += [np.stack([behind, beyond, loop[k], loop[(k + 1) % 4]]) for k in range(4)]
    points = np.concatenate(points, axis=1)
    cells = np.concatenate(cells, axis=1)
    points = lower[:, None] + points * spacing[:, None]
    weight = np.concatenate([np.zeros(n_corners + n_middle), *weights])
    swap = np.einsum("in,in->n", *_edges_and_cross(points, cells)) < 0
    cells[2:, swap] = cells[:1:-1, swap]
    return points, [("tetra", cells.T)], compute_power_centers(points, cells, weight)


def _wall_weight(a, b, c):
    """delta for a wall point, a the cube's edge across the wall, b and c along it.

    The power centre of a wall tetrahedron has the height a/4 - delta/a over the wall, and lies
    inside the faces that it shares with others if delta > a^2 b^2 / 4 (a^2 + c^2), and the same
    with b and c exchanged. Half way between the bounds.
    """
    least = max(b**2 / (a**2 + c**2), c**2 / (a**2 + b**2))
    return a**2 / 4 * (1 + least) / 2


def _edges_and_cross(points, cells):
    a, b, c = (points[:, corner] - points[:, cells[0]] for corner in cells[1:])
    return a, np.cross(b, c, axis=0)


def voronoi(lower, upper, n_cells, seed):
    """A centroidal Voronoi mesh of a box by Lloyd's iteration: (points, blocks, generators).

    The boundary is exact: generators are mirrored at the sides (Du, Faber, Gunzburger 1999).
    """
    lower, upper = box_corners(lower, upper, 2)
    n_cells = positive_integer(n_cells, "n_cells")
    size = np.sqrt(np.prod(upper - lower) / n_cells)
    # cells of size 1 from the origin on: least round-off
    zero = np.zeros(2)
    top = (upper - lower) / size
    generator = _spread(zero, top, n_cells, np.random.default_rng(seed))
    for _ in range(LLOYD):
        corners, start, vertices = _clipped_voronoi(generator, zero, top)
        generator = _polygon_centroids(vertices, start, corners)
    corners, start, vertices = _clipped_voronoi(generator, zero, top)
    points, corners = _merge_close(vertices, start, corners, 1e-7)
    cells = [_without_repeats(corners[a:b]) for a, b in zip(start[:-1], start[1:], strict=True)]
    points = np.where(points == top[:, None], upper[:, None], lower[:, None] + size * points)
    return points, [("polygon", cells)], lower[:, None] + size * generator


def _spread(lower, upper, n, rng):
    """Random points at a distance from each other: a jittered lattice of about n points, thinned to
    n.
    """
    width, height = upper - lower
    columns = max(1, int(np.ceil(np.sqrt(n * width / height))))
    rows = int(np.ceil(n / columns))
    i, j = np.divmod(rng.permutation(columns * rows)[:n], rows)
    jitter = rng.random((2, n))
    return lower[:, None] + np.stack(
        [(i + jitter[0]) / columns * width, (j + jitter[1]) / rows * height]
    )


def _clipped_voronoi(generator, lower, upper):
    """Voronoi cells of the generators in the box: (corners, start, vertices), corners
    counter-clockwise.
    """
    n = generator.shape[1]
    reach = 6 * np.sqrt(np.prod(upper - lower) / n)
    images = [generator]
    for axis in range(2):
        for end in (lower[axis], upper[axis]):
            near = generator[:, np.abs(generator[axis] - end) < reach].copy()
            near[axis] = 2 * end - near[axis]
            images.append(near)
    diagram = Voronoi(np.concatenate(images, axis=1).T)
    regions = [diagram.regions[r] for r in diagram.point_region[:n]]
    start = np.concatenate([[0], np.cumsum([len(r) for r in regions])])
    corners = np.concatenate(regions)
    vertices = np.clip(diagram.vertices.T, lower[:, None], upper[:, None])
    around = np.repeat(generator, np.diff(start), axis=1)
    angle = np.arctan2(*(diagram.vertices.T[:, corners] - around)[::-1])
    return corners[np.lexsort((angle, np.repeat(np.arange(n), np.diff(start))))], start, vertices


def _polygon_centroids(points, start, corners):
    following = np.arange(1, len(corners) + 1)
    following[start[1:] - 1] = start[:-1]
    origin = np.repeat(points[:, corners[start[:-1]]], np.diff(start), axis=1)
    a, b = points[:, corners] - origin, points[:, corners[following]] - origin
    cross = a[0] * b[1] - a[1] * b[0]
    return points[:, corners[start[:-1]]] + np.add.reduceat(cross * (a + b), start[:-1], axis=1) / (
        3 * np.add.reduceat(cross, start[:-1])
    )


def _merge_close(vertices, start, corners, tiny):
    """Merge vertices closer than *tiny* (four cells that meet almost in a point), drop unused ones."""
    used, corners = np.unique(corners, return_inverse=True)
    points = vertices[:, used]
    target = np.arange(len(used))
    for i, j in cKDTree(points.T).query_pairs(tiny):
        target[max(i, j)] = min(target[i], target[j])
    used, target = np.unique(target, return_inverse=True)
    return points[:, used], target[corners.ravel()]


def _without_repeats(corners):
    return corners[corners != np.roll(corners, 1)]
