"""Averages of functions over cells and faces: Gauss rules on affine pieces (simplices and boxes)."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.special import roots_jacobi

from ..arguments.functions import call_function, refuse_masked, refuse_sum
from ..errors import InputError
from .cells import FACES, LINE, N_CORNERS, POLYGON, QUAD, TETRA, TRIANGLE

CHUNK = 200_000  # points given to a user's function at a time
FINEST = {1: 20, 2: 7, 3: 4}  # halvings of the pieces that an indicator's edge cuts


@dataclass(frozen=True)
class Pieces:
    """Affine images x = origin + sum_i xi_i edge_i of the unit simplex or the unit cube, each part
    of a cell.
    """

    cell: np.ndarray  # (n,)
    origin: np.ndarray  # (dim, n)
    edges: np.ndarray  # (dim, dim edges, n)
    cube: bool

    def take(self, index):
        return Pieces(self.cell[index], self.origin[:, index], self.edges[:, :, index], self.cube)

    def volume(self):
        """Volume of each piece."""
        matrix = self.edges.transpose(2, 0, 1)
        size = np.abs(np.linalg.det(matrix))
        return size if self.cube else size / np.prod(range(1, len(self.origin) + 1))

    def points(self, reference):
        """Images (dim, n_reference, n) of reference points (dim, n_reference)."""
        return self.origin[:, None] + np.einsum("den,eq->dqn", self.edges, reference)

    def children(self):
        """The 2^dim halves of every piece."""
        made = [
            (self.points(corner[:, None])[:, 0], np.einsum("den,ef->dfn", self.edges, frame))
            for corner, frame in _children(len(self.origin), self.cube)
        ]
        return Pieces(
            np.tile(self.cell, len(made)),
            np.concatenate([o for o, _ in made], axis=1),
            np.concatenate([e for _, e in made], axis=2),
            self.cube,
        )


def of_cells(points, kind, start, corners, centroid, spacing=None):
    """The pieces of all cells: one box each (*spacing* given), simplices as they are, else fans
    from the centroid.
    """
    dim = len(points)
    if spacing is not None:
        edges = np.repeat(np.diag(spacing)[:, :, None], len(kind), axis=2)
        return [Pieces(np.arange(len(kind)), points[:, corners[start[:-1]]], edges, True)]
    pieces = []
    for k in np.unique(kind):
        cell = np.flatnonzero(kind == k)
        if k in (LINE, TRIANGLE, TETRA):
            simplices = [
                (
                    cell,
                    points[:, corners[start[cell] + np.arange(N_CORNERS[k])[:, None]]].transpose(
                        1, 0, 2
                    ),
                )
            ]
        elif k in (POLYGON, QUAD):
            simplices = [_fan(points, start, corners, cell, centroid)]
        else:
            simplices = list(
                _cones(
                    points,
                    corners[start[cell] + np.arange(N_CORNERS[k])[:, None]],
                    cell,
                    FACES[k],
                    centroid,
                )
            )
        for owner, p in simplices:
            pieces.append(Pieces(owner, p[0], np.stack([q - p[0] for q in p[1:]], axis=1), False))
    assert dim == len(pieces[0].origin)
    return pieces


def _fan(points, start, corners, cell, centroid):
    """Triangles (centroid, corner, next corner) of polygons."""
    count = np.diff(start)[cell]
    owner = np.repeat(cell, count)
    first = np.repeat(start[cell], count)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    following = np.where(step + 1 < np.repeat(count, count), step + 1, 0)
    return owner, np.stack(
        [
            centroid[:, owner],
            points[:, corners[first + step]],
            points[:, corners[first + following]],
        ]
    )


def _cones(points, corner, cell, faces, centroid):
    """Tetrahedra (centroid, middle of a face, corner, next corner) of other cells; triangles need
    no middle.
    """
    for face in faces:
        p = points[:, corner[list(face)]].transpose(1, 0, 2)
        if len(face) == 3:
            yield cell, np.concatenate([centroid[None][:, :, cell], p])
            continue
        for i in range(4):
            yield cell, np.stack([centroid[:, cell], p.mean(axis=0), p[i], p[(i + 1) % 4]])


@lru_cache
def rule(dim, degree, cube):
    """Gauss points (dim, n) and weights (n,), summing to 1, exact for polynomials of the given
    degree; all weights positive.

    Simplices: the conical product of Gauss-Jacobi rules (Stroud 1971).
    """
    n = degree // 2 + 1
    axes = []
    for axis in range(dim):
        x, w = roots_jacobi(n, 0 if cube else dim - 1 - axis, 0)
        axes.append(((x + 1) / 2, w / w.sum()))
    points = np.array(list(product(*[x for x, _ in axes]))).T.reshape(dim, -1)
    weights = np.array([np.prod(w) for w in product(*[w for _, w in axes])])
    if not cube:
        rest = np.ones_like(points[0])
        for axis in range(dim):
            points[axis] *= rest
            rest = rest - points[axis]
    return points, weights


@lru_cache
def _children(dim, cube):
    """(corner, frame) of each half of the unit piece: xi = corner + frame @ xi'."""
    if cube:
        return [(np.array(corner) / 2, np.eye(dim) / 2) for corner in product((0, 1), repeat=dim)]
    unit = np.concatenate([np.zeros((dim, 1)), np.eye(dim)], axis=1)  # corners of the unit simplex
    middle = {(i, j): (unit[:, i] + unit[:, j]) / 2 for i in range(dim + 1) for j in range(dim + 1)}
    simplices = [[middle[i, j] for j in range(dim + 1)] for i in range(dim + 1)]
    if dim == 2:
        simplices.append([middle[0, 1], middle[1, 2], middle[0, 2]])
    if dim == 3:  # the inner octahedron, cut along one diagonal (Bey 1995)
        a, b = middle[0, 2], middle[1, 3]
        ring = [middle[0, 1], middle[0, 3], middle[2, 3], middle[1, 2]]
        simplices += [[a, b, ring[i], ring[(i + 1) % 4]] for i in range(4)]
    return [(p[0], np.stack([q - p[0] for q in p[1:]], axis=1)) for p in simplices]


def parts(pieces, at_least):
    """(centroids (dim, n), volumes (n,), cells (n,)) of the pieces, halved until each cell has so
    many, *at_least*.
    """
    found = []
    for group in pieces:
        count = np.bincount(group.cell)
        fewest = count[count > 0].min(initial=at_least)
        dim = len(group.origin)
        for _ in range(max(0, int(np.ceil(np.log2(at_least / fewest) / dim - 1e-9)))):
            group = group.children()
        reference, weights = rule(dim, 1, group.cube)
        found.append(
            (np.einsum("dqn,q->dn", group.points(reference), weights), group.volume(), group.cell)
        )
    return tuple(np.concatenate(arrays, axis=-1) for arrays in zip(*found, strict=True))


def average(pieces, n_cells, f, degree, halvings=0):
    """Averages (..., n_cells) of f over the cells, whose pieces are halved along each edge that
    many times.

    An f with boolean values is averaged by halving the pieces that its edge cuts.
    """
    total = 0.0
    volume = np.zeros(n_cells)
    for group in pieces:
        reference, weights = rule(len(group.origin), degree, group.cube)
        step = max(1, CHUNK // (len(weights) * 2 ** (len(group.origin) * halvings)))
        for a in range(0, len(group.cell), step):
            part = group.take(slice(a, a + step))
            for _ in range(halvings):
                part = part.children()
            size = part.volume()
            values = evaluate(f, part.points(reference))
            mean = (
                _fraction(f, part, FINEST[len(part.origin)])
                if values.dtype == bool
                else np.einsum("...qn,q->...n", values, weights)
            )
            total = total + _by_cell(part.cell, mean * size, n_cells)
            volume += np.bincount(part.cell, size, n_cells)
    return total / volume


def log_mean_exp(pieces, n_cells, f, degree):
    """log (n_cells,) of the averages of e^f over the cells, from the differences of f in each cell:
    nothing overflows.
    """
    samples = []
    for group in pieces:
        reference, weights = rule(len(group.origin), degree, group.cube)
        step = max(1, CHUNK // len(weights))
        for a in range(0, len(group.cell), step):
            part = group.take(slice(a, a + step))
            samples.append((part.cell, part.volume(), evaluate(f, part.points(reference)), weights))
    top = np.full(n_cells, -np.inf)
    total = np.zeros(n_cells)
    volume = np.zeros(n_cells)
    for cell, _, values, _ in samples:
        np.maximum.at(top, cell, values.max(axis=0))
    for cell, size, values, weights in samples:
        total += np.bincount(cell, size * (weights @ np.exp(values - top[cell])), n_cells)
        volume += np.bincount(cell, size, n_cells)
    return top + np.log(total / volume)


def _by_cell(cell, values, n_cells):
    if values.ndim == 1:
        return np.bincount(cell, values, n_cells)
    return np.stack([_by_cell(cell, row, n_cells) for row in values])


def evaluate(f, points):
    """f at points (dim, q, n), as values (..., q, n)."""
    dim, q, n = points.shape
    values = call_function(f, "the function", points.reshape(dim, q * n))
    refuse_masked(values, "the function must return numbers or booleans")
    values = np.asarray(values)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise InputError(f"the function must return numbers or booleans, not {values!r:.60}")
    if values.ndim == 0:
        refuse_sum(values, f, points.reshape(dim, q * n), "the function")
        values = np.broadcast_to(values, q * n)
    if values.shape[-1] != q * n:
        raise InputError(
            f"the function returned shape {values.shape} for x of shape {(dim, q * n)}: it needs "
            "a value for each "
            "point, which its last axis counts"
        )
    return values.reshape(values.shape[:-1] + (q, n))


def _fraction(f, pieces, depth):
    """The part of each piece on which f is true: pieces that look all alike are taken at their
    word.
    """
    sample = _sample(len(pieces.origin), pieces.cube)
    values = evaluate(f, pieces.points(sample))
    fraction = values.mean(axis=0)
    cut = np.flatnonzero((fraction > 0) & (fraction < 1))
    if depth == 0 or not len(cut):
        return fraction
    children = pieces.take(cut).children()
    step = max(1, CHUNK // sample.shape[1])
    parts = [
        _fraction(f, children.take(slice(a, a + step)), depth - 1)
        for a in range(0, len(children.cell), step)
    ]
    fraction[cut] = np.concatenate(parts).reshape(-1, len(cut)).mean(axis=0)
    return fraction


@lru_cache
def _sample(dim, cube):
    """Corners (a hair inside) and Gauss points: where an indicator is looked at."""
    inside, _ = rule(dim, 4, cube)
    corners = (
        np.array(list(product((0.0, 1.0), repeat=dim))).T
        if cube
        else np.concatenate([np.zeros((dim, 1)), np.eye(dim)], axis=1)
    )
    middle = inside.mean(axis=1, keepdims=True)
    return np.concatenate([corners + 1e-9 * (middle - corners), inside], axis=1)


def face_points(points, vertices, degree):
    """Gauss points on faces and their weights: lists of (points (dim, n_faces), weight (n_faces,)),
    weights summing to 1.
    """
    if len(vertices) == 1:
        return [(points[:, vertices[0]], np.ones(vertices.shape[1]))]
    if len(vertices) == 2:
        xi, weights = rule(1, degree, True)
        a, b = points[:, vertices[0]], points[:, vertices[1]]
        return [
            (a + x * (b - a), np.full(a.shape[1], w)) for x, w in zip(xi[0], weights, strict=True)
        ]
    p = points[:, vertices].transpose(1, 0, 2)
    three = np.ones(vertices.shape[1], bool) if len(vertices) == 3 else vertices[3] < 0
    if len(vertices) == 4:  # a triangle among quadrilaterals: its fourth point is its third
        p[3] = np.where(three, p[2], p[3])
    middle = p.mean(axis=0) if len(vertices) == 4 else p[0]
    fan = (
        [(p[0], p[1], p[2])]
        if len(vertices) == 3
        else [(middle, p[i], p[(i + 1) % 4]) for i in range(4)]
    )
    area = [np.linalg.norm(np.cross(b - a, c - a, axis=0), axis=0) / 2 for a, b, c in fan]
    total = sum(area)
    xi, weights = rule(2, degree, False)
    return [
        (a + x * (b - a) + y * (c - a), w * s / total)
        for (a, b, c), s in zip(fan, area, strict=True)
        for x, y, w in zip(*xi, weights, strict=True)
    ]


def circulation(points, vertices, f, degree):
    """Integrals (n_faces,) of the vector field f along the edges of the faces, in the order of
    their points.
    """
    xi, weights = rule(1, degree, True)
    count = (vertices >= 0).sum(axis=0)
    total = np.zeros(vertices.shape[1])
    for i in range(len(vertices)):
        edge = np.flatnonzero(count > i)
        a, b = points[:, vertices[i, edge]], points[:, vertices[(i + 1) % count[edge], edge]]
        for x, w in zip(xi[0], weights, strict=True):
            total[edge] += w * np.einsum("in,in->n", f(a + x * (b - a)), b - a)
    return total
