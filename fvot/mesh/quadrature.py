"""Averages of functions over cells and faces, by Gauss rules on affine pieces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from scipy.special import roots_jacobi

from ..arguments.functions import call_function, refuse_masked, refuse_sum
from ..arguments.types import Array, IntArray, PointFunction
from ..errors import InputError
from .cells import (
    FACES,
    LINE,
    N_CORNERS,
    POLYGON,
    QUAD,
    TETRA,
    TRIANGLE,
    find_next_places,
    take_rows,
)
from .coordinates import FACTOR

# Points given to a user's function at a time.
POINTS_PER_CALL = 200_000

# Halvings of the pieces that an indicator's edge cuts, by dimension.
INDICATOR_HALVINGS = {1: 20, 2: 7, 3: 4}


@dataclass(frozen=True)
class Pieces:
    """Affine images x = origin + sum_i xi_i edge_i of the unit simplex or the unit cube, each part
    of a cell.

    power : of the radius x_0 in the measure, see `coordinates`
    """

    cell: IntArray  # (n,)
    origin: Array  # (dim, n)
    edges: Array  # (dim, dim edges, n)
    cube: bool
    power: int = 0

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.origin)

    def take(self, index: Any) -> Pieces:
        """Some of the pieces."""
        cell = self.cell[index]
        origin = self.origin[:, index]
        edges = self.edges[:, :, index]
        return Pieces(cell, origin, edges, self.cube, self.power)

    def take_in_turn(self, n: int) -> Iterable[Pieces]:
        """All pieces, at most n at a time."""
        for first in range(0, len(self.cell), n):
            yield self.take(slice(first, first + n))

    def compute_volume(self) -> Array:
        """Volume of each piece, by the measure."""
        matrix = self.edges.transpose(2, 0, 1)
        size = np.abs(np.linalg.det(matrix))
        if not self.cube:
            size = size / np.prod(range(1, self.dim + 1))
        if not self.power:
            return size
        reference, weights = make_gauss_rule(self.dim, self.power, self.cube)
        radius = self.map_points(reference)[0]
        return size * FACTOR[self.power] * (weights @ radius**self.power)

    def make_rule(self, degree: int) -> tuple[Array, Array]:
        """The Gauss rule that is exact for polynomials of that degree times the measure."""
        return make_gauss_rule(self.dim, degree + self.power, self.cube)

    def weigh(self, points: Array, weights: Array) -> Array:
        """Weights of Gauss points (dim, q, n) with the measure, which sum to 1: (q, n), or the
        weights (q,) of the rule where the measure is uniform.
        """
        if not self.power:
            return weights
        measure = weights[:, None] * points[0] ** self.power
        return measure / measure.sum(axis=0)

    def map_points(self, reference: Array) -> Array:
        """Images (dim, n_reference, n) of reference points (dim, n_reference)."""
        return self.origin[:, None] + np.einsum("den,eq->dqn", self.edges, reference)

    def halve(self) -> Pieces:
        """The 2^dim halves of every piece."""
        halves = _halve_unit_piece(self.dim, self.cube)
        origins = []
        edges = []
        for corner, frame in halves:
            image = self.map_points(corner[:, None])
            origins.append(image[:, 0])
            edges.append(np.einsum("den,ef->dfn", self.edges, frame))
        return Pieces(
            np.tile(self.cell, len(halves)),
            np.concatenate(origins, axis=1),
            np.concatenate(edges, axis=2),
            self.cube,
            self.power,
        )


def split_cells(
    points: Array,
    kind: IntArray,
    start: IntArray,
    corners: IntArray,
    centroid: Array,
    spacing: Array | None = None,
    power: int = 0,
) -> list[Pieces]:
    """The pieces of all cells: one box each (*spacing* given), simplices as they are, other cells
    as fans from the centroid.

    power : of the radius in the measure, see `Pieces`
    """
    if spacing is not None:
        n_cells = len(kind)
        box_edges = np.diag(spacing)[:, :, None]
        edges = np.repeat(box_edges, n_cells, axis=2)
        first_corner = corners[start[:-1]]
        origin = points[:, first_corner]
        return [Pieces(np.arange(n_cells), origin, edges, True, power)]

    pieces = []
    for k in np.unique(kind):
        cell = np.flatnonzero(kind == k)
        if k in (POLYGON, QUAD):
            simplices = [_fan_polygons(points, start, corners, cell, centroid)]
        else:
            place = np.arange(N_CORNERS[k])[:, None]
            corner = corners[start[cell] + place]
            if k in (LINE, TRIANGLE, TETRA):
                vertices = points[:, corner].transpose(1, 0, 2)
                simplices = [(cell, vertices)]
            else:
                simplices = list(_split_into_cones(points, corner, cell, FACES[k], centroid))
        for owner, vertices in simplices:
            origin, *others = vertices
            edges = np.stack([vertex - origin for vertex in others], axis=1)
            pieces.append(Pieces(owner, origin.copy(), edges, False, power))
    return pieces


def _fan_polygons(points, start, corners, cell, centroid):
    """Triangles (centroid, corner, next corner) of polygons."""
    place, ends = take_rows(start, cell)
    owner = np.repeat(cell, np.diff(ends))
    apex = centroid[:, owner]
    corner = points[:, corners[place]]
    next_corner = corner[:, find_next_places(ends)]
    return owner, np.stack([apex, corner, next_corner])


def _split_into_cones(points, corner, cell, faces, centroid):
    """Tetrahedra (centroid, middle of a face, corner, next corner) of other cells; triangles need
    no middle.
    """
    apex = centroid[:, cell]
    for face in faces:
        p = points[:, corner[list(face)]].transpose(1, 0, 2)
        if len(face) == 3:
            yield cell, np.concatenate([apex[None], p])
            continue
        middle = p.mean(axis=0)
        for i in range(4):
            next_corner = p[(i + 1) % 4]
            yield cell, np.stack([apex, middle, p[i], next_corner])


@lru_cache
def make_gauss_rule(dim: int, degree: int, cube: bool) -> tuple[Array, Array]:
    """Gauss points (dim, n) and weights (n,), summing to 1, exact for polynomials of the given
    degree; all weights are positive.

    Simplices: the conical product of Gauss-Jacobi rules (Stroud 1971).
    """
    n = degree // 2 + 1
    axis_points = []
    axis_weights = []
    for axis in range(dim):
        alpha = 0 if cube else dim - 1 - axis
        x, w = roots_jacobi(n, alpha, 0)
        axis_points.append((x + 1) / 2)
        axis_weights.append(w / w.sum())

    grid = list(product(*axis_points))
    points = np.array(grid).T.reshape(dim, -1)
    weights = np.array([np.prod(w) for w in product(*axis_weights)])
    if not cube:
        rest = np.ones_like(points[0])
        for axis in range(dim):
            points[axis] *= rest
            rest = rest - points[axis]
    return points, weights


@lru_cache
def _halve_unit_piece(dim, cube):
    """(corner, frame) of each half of the unit piece: xi = corner + frame @ xi'."""
    if cube:
        corners = product((0, 1), repeat=dim)
        return [(np.array(corner) / 2, np.eye(dim) / 2) for corner in corners]

    n = dim + 1
    corners = [np.zeros(dim), *np.eye(dim)]
    middle = {}
    for i, j in product(range(n), repeat=2):
        middle[i, j] = (corners[i] + corners[j]) / 2

    simplices = [[middle[i, j] for j in range(n)] for i in range(n)]
    if dim == 2:
        simplices.append([middle[0, 1], middle[1, 2], middle[0, 2]])
    if dim == 3:  # the inner octahedron, cut along one diagonal (Bey 1995)
        a = middle[0, 2]
        b = middle[1, 3]
        ring = [middle[0, 1], middle[0, 3], middle[2, 3], middle[1, 2], middle[0, 1]]
        simplices += [[a, b, c, d] for c, d in zip(ring[:-1], ring[1:])]

    halves = []
    for corner, *others in simplices:
        frame = np.stack([other - corner for other in others], axis=1)
        halves.append((corner, frame))
    return halves


def split_into_parts(pieces: list[Pieces], min_count: int) -> tuple[Array, Array, IntArray]:
    """(centroids (dim, n), volumes (n,), cells (n,)) of the pieces, halved until each cell has at
    least *min_count* of them.
    """
    centroids = []
    volumes = []
    cells = []
    # A hexahedron has one piece in each of 24 groups.
    count = np.bincount(np.concatenate([group.cell for group in pieces]))
    for group in pieces:
        fewest = count[group.cell].min(initial=min_count)
        n_doublings = np.log2(min_count / fewest)
        n_halvings = int(np.ceil(n_doublings / group.dim - 1e-9))
        for _ in range(n_halvings):
            group = group.halve()

        reference, weights = group.make_rule(1)
        points = group.map_points(reference)
        centroids.append(_average_points(points, group.weigh(points, weights)))
        volumes.append(group.compute_volume())
        cells.append(group.cell)
    return np.concatenate(centroids, axis=1), np.concatenate(volumes), np.concatenate(cells)


def average(
    pieces: list[Pieces], n_cells: int, f: PointFunction, degree: int, halvings: int = 0
) -> Array:
    """Averages (..., n_cells) of f over the cells, whose pieces are halved *halvings* times along
    each edge.

    An f with boolean values is averaged by halving the pieces that its edge cuts.
    """
    total: Any = 0.0
    volume = np.zeros(n_cells)
    for group in pieces:
        reference, weights = group.make_rule(degree)
        n_points = len(weights) * 2 ** (group.dim * halvings)
        n_at_once = max(1, POINTS_PER_CALL // n_points)
        for part in group.take_in_turn(n_at_once):
            for _ in range(halvings):
                part = part.halve()
            size = part.compute_volume()
            points = part.map_points(reference)
            values = evaluate(f, points)
            if values.dtype == bool:
                mean = _find_fraction(f, part, INDICATOR_HALVINGS[part.dim])
            else:
                mean = _average_points(values, part.weigh(points, weights))

            total = total + _sum_by_cell(part.cell, mean * size, n_cells)
            volume += np.bincount(part.cell, size, n_cells)
    return total / volume


def compute_log_mean_exp(
    pieces: list[Pieces], n_cells: int, f: PointFunction, degree: int
) -> Array:
    """log (n_cells,) of the averages of e^f over the cells.

    Computed from the differences of f in each cell, so that nothing overflows.
    """
    samples = []
    for group in pieces:
        reference, weights = group.make_rule(degree)
        n_at_once = max(1, POINTS_PER_CALL // len(weights))
        for part in group.take_in_turn(n_at_once):
            points = part.map_points(reference)
            values = evaluate(f, points)
            samples.append((part.cell, part.compute_volume(), values, part.weigh(points, weights)))

    top = np.full(n_cells, -np.inf)
    for cell, _, values, _ in samples:
        np.maximum.at(top, cell, values.max(axis=0))
    total = np.zeros(n_cells)
    volume = np.zeros(n_cells)
    for cell, size, values, weights in samples:
        powers = np.exp(values - top[cell])
        mean = weights @ powers if weights.ndim == 1 else (weights * powers).sum(axis=0)
        total += np.bincount(cell, size * mean, n_cells)
        volume += np.bincount(cell, size, n_cells)
    return top + np.log(total / volume)


def _average_points(values, weights):
    """Means (..., n) of values (..., q, n) at points with weights (q,) or (q, n)."""
    if weights.ndim == 1:
        return np.einsum("...qn,q->...n", values, weights)
    return np.einsum("...qn,qn->...n", values, weights)


def _sum_by_cell(cell, values, n_cells):
    if values.ndim == 1:
        return np.bincount(cell, values, n_cells)
    return np.stack([_sum_by_cell(cell, row, n_cells) for row in values])


def evaluate(f: PointFunction, points: Array) -> Array:
    """f at points (dim, q, n), as values (..., q, n)."""
    dim, q, n = points.shape
    x = points.reshape(dim, q * n)
    values = call_function(f, "the function", x)
    refuse_masked(values, "the function must return numbers or booleans")

    values = np.asarray(values)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise InputError(f"the function must return numbers or booleans, not {values!r:.60}")
    if values.ndim == 0:
        refuse_sum(values, f, x, "the function")
        values = np.broadcast_to(values, q * n)

    if values.shape[-1] != q * n:
        raise InputError(
            f"the function returned shape {values.shape} for x of shape {(dim, q * n)}: it needs "
            "a value for each point, which its last axis counts"
        )
    return values.reshape(values.shape[:-1] + (q, n))


def _find_fraction(f, pieces, depth):
    """The part of each piece on which f is true.

    Only pieces with both values among their samples are halved.
    """
    sample = _list_samples(pieces.dim, pieces.cube)
    values = evaluate(f, pieces.map_points(sample))
    fraction = values.mean(axis=0)
    is_cut = (fraction > 0) & (fraction < 1)
    cut = np.flatnonzero(is_cut)
    if depth == 0 or not len(cut):
        return fraction

    halves = pieces.take(cut).halve()
    n_at_once = max(1, POINTS_PER_CALL // sample.shape[1])
    parts = [_find_fraction(f, part, depth - 1) for part in halves.take_in_turn(n_at_once)]
    of_halves = np.concatenate(parts).reshape(-1, len(cut))
    if not pieces.power:
        fraction[cut] = of_halves.mean(axis=0)
        return fraction
    volume = halves.compute_volume().reshape(-1, len(cut))
    fraction[cut] = (of_halves * volume).sum(axis=0) / volume.sum(axis=0)
    return fraction


@lru_cache
def _list_samples(dim, cube):
    """Points at which an indicator is evaluated: corners (slightly inside) and Gauss points."""
    inside, _ = make_gauss_rule(dim, 4, cube)
    if cube:
        corners = np.array(list(product((0.0, 1.0), repeat=dim))).T
    else:
        origin = np.zeros((dim, 1))
        corners = np.concatenate([origin, np.eye(dim)], axis=1)
    middle = inside.mean(axis=1, keepdims=True)
    near_corners = corners + 1e-9 * (middle - corners)
    return np.concatenate([near_corners, inside], axis=1)


def list_face_points(
    points: Array, vertices: IntArray, degree: int, power: int = 0
) -> list[tuple[Array, Array]]:
    """Gauss points on faces: a list of (points (dim, n_faces), weight (n_faces,)).

    The weights of each face sum to 1.

    power : of the radius in the measure, see `Pieces`; no face may then lie at the radius 0
    """
    n_faces = vertices.shape[1]
    if len(vertices) == 1:
        return [(points[:, vertices[0]], np.ones(n_faces))]
    if len(vertices) == 2:
        xi, weights = make_gauss_rule(1, degree + power, True)
        a = points[:, vertices[0]]
        b = points[:, vertices[1]]
        rule = zip(xi[0], weights, strict=True)
        edge_points = []
        for x, w in rule:
            point = a + x * (b - a)
            edge_points.append((point, np.full(n_faces, w)))
        return _weigh_face_points(edge_points, power) if power else edge_points

    fan = _divide_faces(points, vertices)
    areas = []
    for a, b, c in fan:
        vector = np.cross(b - a, c - a, axis=0)
        areas.append(np.linalg.norm(vector, axis=0) / 2)
    total = sum(areas)

    xi, weights = make_gauss_rule(2, degree, False)
    face_points = []
    for (a, b, c), area in zip(fan, areas, strict=True):
        for x, y, w in zip(*xi, weights, strict=True):
            point = a + x * (b - a) + y * (c - a)
            face_points.append((point, w * area / total))
    return face_points


def _weigh_face_points(face_points, power):
    """The same points, with weights by the measure."""
    measures = [weight * point[0] ** power for point, weight in face_points]
    total = sum(measures)
    return [(point, measure / total) for (point, _), measure in zip(face_points, measures)]


def _divide_faces(points, vertices):
    """Triangles of faces with three corners, or four around the middle of faces with four."""
    p = points[:, vertices].transpose(1, 0, 2)
    if len(vertices) == 3:
        return [(p[0], p[1], p[2])]
    # a triangle among quadrilaterals: its fourth point is its third
    p[3] = np.where(vertices[3] < 0, p[2], p[3])
    middle = p.mean(axis=0)
    triangles = []
    for i in range(4):
        following = p[(i + 1) % 4]
        triangles.append((middle, p[i], following))
    return triangles


def integrate_along_edges(
    points: Array, vertices: IntArray, f: PointFunction, degree: int
) -> Array:
    """Integrals (n_faces,) of the vector field f along the edges of the faces, in the order of
    their points.
    """
    xi, weights = make_gauss_rule(1, degree, True)
    count = (vertices >= 0).sum(axis=0)
    total = np.zeros(vertices.shape[1])
    for i in range(len(vertices)):
        edge = np.flatnonzero(count > i)
        a = points[:, vertices[i, edge]]
        following = (i + 1) % count[edge]
        b = points[:, vertices[following, edge]]
        along = b - a
        for x, w in zip(xi[0], weights, strict=True):
            values = np.asarray(f(a + x * along))
            total[edge] += w * np.einsum("in,in->n", values, along)
    return total
