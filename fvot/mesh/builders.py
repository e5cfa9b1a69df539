"""Meshes made without a file: points, cells and, where they are not circumcentres or centroids,
cell points.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial import Voronoi, cKDTree

from ..arguments.functions import as_floats, is_count
from ..arguments.types import Array, IntArray
from ..errors import InputError
from .cells import check_extent, find_next_places
from .power_centers import compute_power_centers

# The names of the lower and upper side of each axis.
SIDES = {
    1: ("left", "right"),
    2: ("left", "right", "bottom", "top"),
    3: ("left", "right", "front", "back", "bottom", "top"),
}

# Sweeps of Lloyd's iteration towards the centroidal Voronoi mesh.
VORONOI_SWEEPS = 40

# Points that are closer to a side of the box, relative to its size, lie on it.
SIDE_TOLERANCE = 1e-9

# Corners of Voronoi cells that are closer, relative to the size of a cell, are one.
MERGING_DISTANCE = 1e-7


def check_box(lower: Any, upper: Any, dim: int) -> tuple[Array, Array]:
    """The corners of a box as arrays; `InputError` unless they are finite and lower < upper."""
    try:
        low = np.broadcast_to(np.asarray(lower, float), dim)
        high = np.broadcast_to(np.asarray(upper, float), dim)
    except ValueError:
        raise InputError(
            f"a box in dimension {dim} has corners of {dim} numbers, not {lower!r} and {upper!r}"
        ) from None
    is_finite = np.isfinite(low).all() and np.isfinite(high).all()
    if not is_finite or not (low < high).all():
        raise InputError(
            f"the lower corner {low.tolist()} must be below the upper corner {high.tolist()} "
            "on each axis"
        )
    check_extent(high - low, dim)
    return low, high


def check_positive_integer(n: Any, what: str) -> int:
    """*n* as an int; `InputError` unless it is a whole number from 1 on."""
    if not is_count(n):
        raise InputError(f"{what} must be a whole number from 1 on, not {n!r}")
    return int(n)


def find_sides(
    points: Array, lower: Array, upper: Array, vertices: IntArray
) -> dict[str, IntArray]:
    """Boundary facets of a box by the names of its sides: those whose points all lie on one."""
    tolerance = SIDE_TOLERANCE * (upper - lower).max()
    facets = {}
    for side, name in enumerate(SIDES[len(points)]):
        axis = side // 2
        end = upper[axis] if side % 2 else lower[axis]
        distance = np.abs(points[axis, vertices] - end)
        is_on_side = (distance < tolerance).all(axis=0)
        facets[name] = vertices[:, is_on_side]
    return facets


# ---- boxes between given edges -------------------------------------------------------------------


def check_edges(edges: Any, dim: int) -> list[Array]:
    """The edges along each axis as arrays; `InputError` unless they are finite and increase."""
    try:
        n_axes = len(edges)
    except TypeError:
        n_axes = 0
    if n_axes != dim:
        names = ", ".join("xyz"[:dim])
        raise InputError(f"edges must be {dim} arrays, [{names}], not {edges!r:.80}")

    checked = []
    for axis, given in zip("xyz", edges):
        edge = as_floats(given, f"edges along {axis} must be numbers")
        if edge.ndim != 1 or len(edge) < 2:
            raise InputError(
                f"edges along {axis} must be an array of at least two numbers, not {given!r:.80}"
            )
        if not np.isfinite(edge).all() or not (np.diff(edge) > 0).all():
            raise InputError(f"edges along {axis} must be finite, and each above the one before")
        checked.append(edge)
    return checked


def build_between_edges(edges: list[Array]) -> tuple[Array, list]:
    """Intervals, rectangles or boxes between edges along each axis, numbered in C order: (points,
    blocks).
    """
    dim = len(edges)
    points = np.stack(np.meshgrid(*edges, indexing="ij")).reshape(dim, -1)
    shape = [len(edge) for edge in edges]
    number = np.arange(points.shape[1]).reshape(shape)
    around = [[0], [1]]
    if dim > 1:  # around a rectangle, and with the one above it around a box
        around = [[0, 0], [1, 0], [1, 1], [0, 1]]
    if dim > 2:
        around = [corner + [level] for level in (0, 1) for corner in around]

    corners = []
    for corner in around:
        part = tuple(slice(step, n - 1 + step) for step, n in zip(corner, shape))
        corners.append(number[part].ravel())
    kind = ("line", "quad", "hexahedron")[dim - 1]
    return points, [(kind, np.stack(corners, axis=1))]


# ---- triangles -----------------------------------------------------------------------------------


def build_triangles(lower: Any, upper: Any, n: Any) -> tuple[Array, list]:
    """Rows of isosceles triangles, every other row shifted by half a base: (points, blocks).

    There are n bases along x. The rows are as high as the bases are long, as nearly as the box
    allows. The triangles are acute, but for the halves at the left and right wall, which are
    right-angled.
    """
    lower, upper = check_box(lower, upper, 2)
    n = check_positive_integer(n, "n, the number of triangles along x,")
    width, height = upper - lower
    if 2 * n * height <= width:
        raise InputError(
            f"n = {n} triangles along x are obtuse in a box of {width:g} x {height:g}: "
            f"n must be more than {width / (2 * height):g}"
        )

    n_rows = max(1, round(n * height / width))
    even = np.arange(n + 1) / n
    shifted = (np.arange(n) + 0.5) / n
    odd = np.concatenate([[0], shifted, [1]])
    lines = [even if j % 2 == 0 else odd for j in range(n_rows + 1)]
    count = [len(line) for line in lines]
    start = np.concatenate([[0], np.cumsum(count)])

    x = np.concatenate(lines)
    line_height = np.arange(n_rows + 1) / n_rows
    y = np.repeat(line_height, count)
    points = lower[:, None] + np.stack([x * width, y * height])
    points[0, x == 1] = upper[0]
    points[1, y == 1] = upper[1]

    rows = []
    for j in range(n_rows):
        is_even = j % 2 == 0
        row = _connect_row(n, start[j], start[j + 1], is_even)
        rows.append(row)
    triangles = np.concatenate(rows, axis=1)
    return points, [("triangle", triangles.T)]


def _connect_row(n, below, above, is_even):
    """The triangles (3, 2 n + 1) of a row, from the numbers of the first points of the lines below
    and above it.

    The line below an even row has n + 1 points, the one above n + 2; in odd rows the lines change
    places.
    """
    few, many = (below, above) if is_even else (above, below)
    i = np.arange(n + 1)
    base = i[:-1]
    based_on_few = np.stack([few + base, few + base + 1, many + base + 1])
    based_on_many = np.stack([many + i + 1, many + i, few + i])
    row = np.concatenate([based_on_few, based_on_many], axis=1)

    # From left to right, triangles on either line take turns.
    place = np.concatenate([2 * base + 1, 2 * i])
    order = np.argsort(place)
    row = row[:, order]
    return row if is_even else row[[1, 0, 2]]


# ---- tetrahedra ----------------------------------------------------------------------------------


def _divide_in_cubes(lower, upper, n):
    """(lower corner, shape, spacing) of n nearly cubic bricks along x."""
    lower, upper = check_box(lower, upper, 3)
    n = check_positive_integer(n, "n, the number of cubes along x,")
    extent = upper - lower
    n_cubes = np.rint(extent * n / extent[0]).astype(int)
    shape = np.maximum(1, n_cubes)
    spacing = extent / shape
    return lower, shape, spacing


def build_cube_rule(lower: Any, upper: Any, n: Any) -> Callable[[Array], IntArray]:
    """A function of centroids (3, n): the number of the cube to which each of Sommerville's
    tetrahedra belongs.

    Those on a face between two cubes go with the upper one, so that all patches but the last ones
    are alike: twelve each.
    """
    lower, shape, spacing = _divide_in_cubes(lower, upper, n)
    return partial(_find_cubes, lower=lower, shape=shape, spacing=spacing)


def _find_cubes(x, lower, shape, spacing):
    distance = (x - lower[:, None]) / spacing[:, None]
    place = np.floor(distance + 1e-6).astype(int)
    last = shape[:, None] - 1
    cube = np.minimum(place, last)
    return np.ravel_multi_index(cube, shape)


def build_tetrahedra(lower: Any, upper: Any, n: Any) -> tuple[Array, list, Array]:
    """Sommerville's tetrahedra on a body-centred lattice of n cubes along x: (points, blocks,
    cell points).

    Each face between two cubes carries four tetrahedra: the two cube centres and one edge of the
    face. A face on the wall has a point in its middle instead of the second centre. Circumcentres
    of those wall cells lie outside them; with negative weights on the wall points, power centres do
    not, and x_K x_L stays normal to every face (Sommerville 1923; Aurenhammer 1987).
    """
    lower, shape, spacing = _divide_in_cubes(lower, upper, n)
    longest = spacing.max()
    square_sum = (spacing**2).sum()
    if 2 * longest**2 >= square_sum * (1 - 1e-9):
        raise InputError(
            f"n = {n} makes bricks of {spacing[0]:.3g} x {spacing[1]:.3g} x {spacing[2]:.3g}, too "
            "long for tetrahedra: choose n so that they are nearly cubes"
        )
    corner = list_lattice(shape + 1).astype(float)
    middle = list_lattice(shape) + 0.5
    n_corners = corner.shape[1]

    # Points in units of the spacing: corners and middles of cubes, then middles of wall faces.
    lattice = [corner, middle]
    n_points = n_corners + middle.shape[1]
    weights = [np.zeros(n_points)]
    cells = []
    for axis in range(3):
        wall_points, tetrahedra = _build_around_faces(axis, shape, n_corners, n_points)
        n_wall_points = wall_points.shape[1]
        n_points += n_wall_points
        others = [a for a in range(3) if a != axis]
        weight = -_compute_wall_weight(spacing[axis], *spacing[others])
        lattice.append(wall_points)
        weights.append(np.full(n_wall_points, weight))
        cells += tetrahedra

    places = np.concatenate(lattice, axis=1)
    points = lower[:, None] + places * spacing[:, None]
    corners = np.concatenate(cells, axis=1)
    edge, normal = _edge_and_normal(points, corners)
    is_mirrored = np.einsum("in,in->n", edge, normal) < 0
    corners[2:, is_mirrored] = corners[:1:-1, is_mirrored]

    point_weights = np.concatenate(weights)
    center = compute_power_centers(points, corners, point_weights)
    return points, [("tetra", corners.T)], center


def list_lattice(shape: Any, first: Any = 0) -> IntArray:
    """All places (dim, n) of a lattice that begins at *first*, in C order."""
    places = np.indices(tuple(shape)).reshape(len(shape), -1)
    return places + np.reshape(first, (-1, 1))


def _build_around_faces(axis, shape, n_corners, n_points):
    """(places (3, n_walls) of the middles of wall faces, four arrays (4, n) of tetrahedra) of all
    faces of the cubes across an axis; the middles get the numbers from n_points on.
    """
    unit = np.eye(3, dtype=int)
    others = [a for a in range(3) if a != axis]
    first = unit[others[0]][:, None]
    second = unit[others[1]][:, None]
    face_shape = shape.copy()
    face_shape[axis] += 1
    face = list_lattice(face_shape)
    around = [face, face + first, face + first + second, face + second]
    loop = [np.ravel_multi_index(place, shape + 1) for place in around]

    # The cubes on both sides; on a wall the face's middle stands for the one that is not there.
    cube_below = face.copy()
    cube_below[axis] -= 1
    is_lower_wall = face[axis] == 0
    is_upper_wall = face[axis] == shape[axis]
    place_below = np.where(is_lower_wall, face, cube_below)
    place_above = np.where(is_upper_wall, cube_below, face)
    below = n_corners + np.ravel_multi_index(place_below, shape)
    above = n_corners + np.ravel_multi_index(place_above, shape)
    wall = np.flatnonzero(is_lower_wall | is_upper_wall)
    wall_point = n_points + np.arange(len(wall))
    below[is_lower_wall] = wall_point[is_lower_wall[wall]]
    above[is_upper_wall] = wall_point[is_upper_wall[wall]]

    tetrahedra = []
    for k in range(4):
        following = loop[(k + 1) % 4]
        tetrahedra.append(np.stack([below, above, loop[k], following]))
    wall_middle = face[:, wall] + 0.5 * (first + second)
    return wall_middle, tetrahedra


def _compute_wall_weight(a, b, c):
    """delta for a wall point, a the cube's edge across the wall, b and c along it.

    The power centre of a wall tetrahedron has the height a/4 - delta/a over the wall, and lies
    inside the faces that it shares with others if delta > a^2 b^2 / 4 (a^2 + c^2), and the same
    with b and c exchanged. This delta is half way between the bounds.
    """
    first_bound = b**2 / (a**2 + c**2)
    second_bound = c**2 / (a**2 + b**2)
    least = max(first_bound, second_bound)
    return a**2 / 4 * (1 + least) / 2


def _edge_and_normal(points, cells):
    """The edge from the first to the second corner, and the cross product of the other two."""
    origin = points[:, cells[0]]
    a, b, c = (points[:, corner] - origin for corner in cells[1:])
    return a, np.cross(b, c, axis=0)


# ---- Voronoi polygons ----------------------------------------------------------------------------


def build_voronoi(lower: Any, upper: Any, n_cells: Any, seed: Any) -> tuple[Array, list, Array]:
    """A centroidal Voronoi mesh of a box by Lloyd's iteration: (points, blocks, generators).

    The boundary is exact: generators are mirrored at the sides (Du, Faber, Gunzburger 1999).
    """
    lower, upper = check_box(lower, upper, 2)
    n_cells = check_positive_integer(n_cells, "n_cells")
    extent = upper - lower
    size = np.sqrt(np.prod(extent) / n_cells)

    # Cells of size 1 from the origin on have the least round-off.
    origin = np.zeros(2)
    top = extent / size
    rng = np.random.default_rng(seed)
    generator = _scatter_points(origin, top, n_cells, rng)
    for _ in range(VORONOI_SWEEPS):
        corners, start, vertices = _clip_voronoi(generator, origin, top)
        generator = _compute_centroids(vertices, start, corners)
    corners, start, vertices = _clip_voronoi(generator, origin, top)

    points, corners = _merge_close(vertices, corners, MERGING_DISTANCE)
    cells = []
    for a, b in zip(start[:-1], start[1:], strict=True):
        cells.append(_drop_repeats(corners[a:b]))
    scaled = lower[:, None] + size * points
    is_at_top = points == top[:, None]
    points = np.where(is_at_top, upper[:, None], scaled)
    cell_points = lower[:, None] + size * generator
    return points, [("polygon", cells)], cell_points


def _scatter_points(lower, upper, n, rng):
    """Random points at a distance from each other: a jittered lattice of about n points, thinned to
    n.
    """
    width, height = upper - lower
    n_across = np.sqrt(n * width / height)
    n_columns = max(1, int(np.ceil(n_across)))
    n_rows = int(np.ceil(n / n_columns))
    places = rng.permutation(n_columns * n_rows)
    i, j = np.divmod(places[:n], n_rows)
    jitter = rng.random((2, n))
    x = (i + jitter[0]) / n_columns * width
    y = (j + jitter[1]) / n_rows * height
    return lower[:, None] + np.stack([x, y])


def _clip_voronoi(generator, lower, upper):
    """Voronoi cells of the generators in the box: (corners, start, vertices), corners
    counter-clockwise.
    """
    n = generator.shape[1]
    area = np.prod(upper - lower)
    reach = 6 * np.sqrt(area / n)
    images = [generator]
    for axis in range(2):
        for end in (lower[axis], upper[axis]):
            is_near = np.abs(generator[axis] - end) < reach
            image = generator[:, is_near].copy()
            image[axis] = 2 * end - image[axis]
            images.append(image)
    all_generators = np.concatenate(images, axis=1)
    diagram = Voronoi(all_generators.T)

    regions = [diagram.regions[r] for r in diagram.point_region[:n]]
    count = [len(region) for region in regions]
    start = np.concatenate([[0], np.cumsum(count)])
    corners = np.concatenate(regions)
    cell = np.repeat(np.arange(n), count)

    vertices = diagram.vertices.T
    step = vertices[:, corners] - generator[:, cell]
    angle = np.arctan2(step[1], step[0])
    order = np.lexsort((angle, cell))
    inside = np.clip(vertices, lower[:, None], upper[:, None])
    return corners[order], start, inside


def _compute_centroids(points, start, corners):
    """The centroids (2, n) of polygons."""
    begin = start[:-1]
    first = points[:, corners[begin]]
    origin = np.repeat(first, np.diff(start), axis=1)
    a = points[:, corners] - origin
    b = a[:, find_next_places(start)]
    cross = a[0] * b[1] - a[1] * b[0]
    moment = np.add.reduceat(cross * (a + b), begin, axis=1)
    twice_area = np.add.reduceat(cross, begin)
    return first + moment / (3 * twice_area)


def _merge_close(vertices, corners, distance):
    """(points, corners) with vertices closer than the distance merged, where four cells meet almost
    in a point, and unused ones dropped.
    """
    used, corners = np.unique(corners, return_inverse=True)
    points = vertices[:, used]
    target = np.arange(len(used))
    close_pairs = cKDTree(points.T).query_pairs(distance)
    for i, j in close_pairs:
        target[max(i, j)] = min(target[i], target[j])
    used, target = np.unique(target, return_inverse=True)
    return points[:, used], target[corners.ravel()]


def _drop_repeats(corners):
    preceding = np.roll(corners, 1)
    return corners[corners != preceding]
