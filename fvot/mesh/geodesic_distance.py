"""The shortest ways inside a domain: straight from corner to corner of its walls (Lozano-Perez,
Wesley 1979).

In the plane a shortest way turns only at corners where the domain is wider than a half plane. Two
points see each other where the segment between them does not leave the domain: it crosses no wall,
goes through no point at which a wall passes from one of its sides to the other, and its middle, or
that of each part between corners on it, is inside. A vertex at which parts of the domain merely
touch is a corner of each, and no way from one to another (except straight along the walls of both).

In space it turns at edges where the domain is wider than a half space, anywhere along them. Ways
through chosen points of the edges are too long by the square of the points' spacing, because the
length is stationary where a shortest way turns (Papadimitriou 1985). These points lie slightly
inside the domain, so that walls beside them are not in the way. Cells that touch in an edge or a
vertex alone may let a way through there.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra, shortest_path
from scipy.spatial.distance import cdist

from ..arguments.types import Array, BoolArray
from ..errors import InputError
from .memory import AnyMesh
from .points import find_cells, is_convex, locate_points, remove_periods

# Relative to the size of the domain: how far a point may be from a line and still be on it.
LINE_TOLERANCE = 1e-10

# Angles up to which directions are the same.
ANGLE_TOLERANCE = 1e-9
FULL_TURN = 2 * np.pi

# Relative to the size of the domain: how far inside the points on edges lie.
INSIDE_STEP = 1e-7

# Points on all edges round which ways in space may lead; each edge has at least two.
EDGE_POINT_COUNT = 1000


# The most pairs of points whose distances are asked for at once: their matrix stands on every rank.
MAX_PAIRS = 10**8


def find_lengths(mesh: AnyMesh, points: Array, others: Array) -> Array:
    """Lengths (n, m) of the shortest ways from points (dim, n) to others (dim, m); collective.

    `InputError` for points outside the mesh, for too many pairs, and where no way leads from one
    point to another.
    """
    n = points.shape[1]
    m = others.shape[1]
    mesh.ranks.check(
        n * m <= MAX_PAIRS,
        f"{n} times {m} points are {n * m:.1e} pairs, but at most {MAX_PAIRS:.0e} are possible: "
        "take  fewer points",
    )
    locate_points(mesh, points)
    if others is not points:
        locate_points(mesh, others)
    if is_convex(mesh):
        return measure_straight(mesh, points, others)

    ways = {1: measure_between_gaps, 2: measure_round_corners, 3: measure_over_edges}
    lengths = ways[mesh.dim](mesh, points, others)
    unreachable = np.argwhere(~np.isfinite(lengths))
    if len(unreachable):
        i, j = unreachable[0]
        raise InputError(
            f"no path in the mesh leads from {points[:, i]} to {others[:, j]}: they lie in "
            "separate pieces"
        )
    return lengths


def measure_straight(mesh: Any, points: Array, others: Array) -> Array:
    """|x - y| (n, m), by the shortest way on a torus."""
    if mesh.block is None or not any(mesh.block.periodic):
        return cdist(points.T, others.T)
    step = points[:, :, None] - others[:, None, :]
    step = remove_periods(mesh, step.reshape(len(points), -1))
    length = np.sqrt((step**2).sum(axis=0))
    return length.reshape(points.shape[1], others.shape[1])


def measure_between_gaps(mesh: Any, points: Array, others: Array) -> Array:
    """|x - y| (n, m) on a line in pieces, infinite where there is a gap between x and y."""
    ends = np.sort(mesh.walls.corner.ravel())
    later_starts = ends[2::2]
    piece = np.searchsorted(later_starts, points[0], side="right")
    other_piece = np.searchsorted(later_starts, others[0], side="right")
    in_one_piece = piece[:, None] == other_piece
    straight = cdist(points.T, others.T)
    return np.where(in_one_piece, straight, np.inf)


def measure_round_corners(mesh: Any, points: Array, others: Array) -> Array:
    """Lengths (n, m) of the shortest ways in a plane domain. Each rank finds some of the rows.
    Collective.
    """
    walls = _PlaneWalls(mesh)
    corners, angle, width = walls.find_corners()

    def measure_steps(x: Array, y: Array, may_see: BoolArray | bool) -> Array:
        straight = cdist(x.T, y.T)
        is_open = may_see & walls.see(x, y)
        return np.where(is_open, straight, np.inf)

    def are_in_sectors(x: Array) -> BoolArray:
        return _are_in_sectors(corners, angle, width, x, walls.eps)

    in_sectors = are_in_sectors(corners)
    between = measure_steps(corners, corners, in_sectors & in_sectors.T)
    if corners.size:  # a sparse graph: dense ones leave out edges shorter than 1e-8
        graph = sparse.csr_matrix(np.where(np.isinf(between), 0, between))
        between = shortest_path(graph, directed=False)

    own = points[:, mesh.ranks.rank :: mesh.ranks.size]
    direct = measure_steps(own, others, True)

    own_in_sectors = are_in_sectors(own)
    others_in_sectors = are_in_sectors(others)
    to_corners = measure_steps(own, corners, own_in_sectors.T)
    from_corners = measure_steps(corners, others, others_in_sectors)
    to_last_corner = _find_least_sums(to_corners, between)
    over_corners = _find_least_sums(to_last_corner, from_corners)

    own_rows = np.minimum(direct, over_corners)
    return _gather_rows(mesh, points, others, own_rows)


def measure_over_edges(mesh: Any, points: Array, others: Array) -> Array:
    """Lengths (n, m) of ways in a domain in space, hardly longer than the shortest. Each rank finds
    some rows. Collective.
    """
    walls = mesh.walls
    size = np.ptp(mesh.bounds, axis=0).max()
    eps = LINE_TOLERANCE * size
    turns = _list_turns(walls, size)
    _, is_inside = find_cells(mesh, turns)
    turns = turns[:, is_inside]
    rank = mesh.ranks.rank
    n_ranks = mesh.ranks.size

    def measure_steps(x: Array, y: Array) -> Array:
        straight = cdist(x.T, y.T)
        is_blocked = walls.stand_between(x, y, eps)
        return np.where(is_blocked, np.inf, straight)

    own_turns = measure_steps(turns[:, rank::n_ranks], turns)
    between = _gather_rows(mesh, turns, turns, own_turns)

    own = points[:, rank::n_ranks]
    is_outside = _find_outside(mesh, walls, points, others, eps)
    own_is_outside = is_outside[rank::n_ranks]
    straight = measure_steps(own, others)
    direct = np.where(own_is_outside, np.inf, straight)

    to_first_turn = measure_steps(own, turns)
    to_turns = _extend_over_turns(to_first_turn, between)
    from_turns = measure_steps(turns, others)
    over_turns = _find_least_sums(to_turns, from_turns)

    own_rows = np.minimum(direct, over_turns)
    return _gather_rows(mesh, points, others, own_rows)


def _gather_rows(mesh, points, others, own_rows):
    """All rows (n, m) on every rank, of which this rank has every n_ranks-th."""
    n = points.shape[1]
    m = others.shape[1]
    n_ranks = mesh.ranks.size
    counts = [len(range(rank, n, n_ranks)) for rank in range(n_ranks)]
    own_columns = np.ascontiguousarray(own_rows.T)
    columns = mesh.ranks.all_gather(own_columns)
    ends = np.cumsum(counts)
    parts = np.split(columns, ends[:-1], axis=1)

    lengths = np.empty((n, m))
    for rank, part in enumerate(parts):
        lengths[rank::n_ranks] = part.T
    return lengths


# ---- round edges in space ------------------------------------------------------------------------


def _list_turns(walls, size):
    """Points (3, n) on the edges of the walls where the domain is wider than a half space, moved
    slightly inside.
    """
    a, b, inwards = _find_reentrant_edges(walls, LINE_TOLERANCE * size)
    along = b - a
    length = np.sqrt((along**2).sum(axis=0))
    spacing = max(length.sum() / EDGE_POINT_COUNT, 1e-300)
    n_spacings = np.ceil(length / spacing)
    count = np.maximum(n_spacings, 2).astype(int)

    edge = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    number = np.arange(len(edge)) - first[edge]
    part = (number + 0.5) / count[edge]
    middle = a[:, edge] + part * along[:, edge]

    ends = np.concatenate([a, b], axis=1)
    corners, corner = np.unique(ends, axis=1, return_inverse=True)
    corner = corner.ravel()
    n_corners = corners.shape[1]
    away = np.zeros((3, n_corners))
    for axis, row in enumerate(inwards):
        at_both_ends = np.tile(row, 2)
        away[axis] = np.bincount(corner, at_both_ends, n_corners)
    away_length = np.sqrt((away**2).sum(axis=0))
    away /= np.maximum(away_length, 1e-300)

    step = INSIDE_STEP * size
    on_edges = middle + step * inwards[:, edge]
    at_corners = corners + step * away
    return np.concatenate([on_edges, at_corners], axis=1)


def _find_reentrant_edges(walls, eps):
    """(a, b, inwards), each (3, n): the ends of edges at which one wall lies outside of the other,
    and a unit vector.
    """
    all_corners = walls.corner.reshape(-1, 3)
    vertex, end = np.unique(all_corners, axis=0, return_inverse=True)
    end = end.reshape(-1, 3)
    edges = [end[:, [0, 1]], end[:, [1, 2]], end[:, [2, 0]]]
    pair = np.sort(np.concatenate(edges), axis=1)
    opposite = end[:, [2, 0, 1]].T.ravel()
    wall = np.tile(np.arange(len(end)), 3)
    order = np.lexsort(pair.T)
    # Neighbours in the list share an edge.
    ordered_pair = pair[order]
    is_same = (ordered_pair[1:] == ordered_pair[:-1]).all(axis=1)
    one = order[:-1][is_same]
    two = order[1:][is_same]

    normal = walls.normal[wall]
    step = vertex[opposite[two]] - vertex[pair[two, 0]]
    beyond = np.einsum("ij,ij->i", normal[one], step)
    is_wide = beyond > eps
    one = one[is_wide]
    two = two[is_wide]

    inwards = -(normal[one] + normal[two])
    length = np.linalg.norm(inwards, axis=1, keepdims=True)
    inwards /= np.maximum(length, 1e-300)
    a = vertex[pair[one, 0]]
    b = vertex[pair[one, 1]]
    return a.T, b.T, inwards.T


def _extend_over_turns(to_turns, between):
    """Lengths (n, k) of shortest ways from n points that see turns (n, k) at these distances, over
    turns (k, k).
    """
    n, k = to_turns.shape
    if not n or not k:
        return to_turns
    graph = np.zeros((n + k, n + k))
    graph[n:, n:] = np.where(np.isinf(between), 0, between)
    graph[:n, n:] = np.where(np.isinf(to_turns), 0, to_turns)
    sparse_graph = sparse.csr_matrix(graph)
    lengths = dijkstra(sparse_graph, indices=np.arange(n))
    return lengths[:, n:]


def _find_outside(mesh, walls, points, others, eps):
    """Whether segments between points (3, n) and others (3, m), both on walls, run outside: (n, m)
    bool. Collective.
    """
    n = points.shape[1]
    m = others.shape[1]
    start = _find_points_on_walls(walls, points, eps)
    end = _find_points_on_walls(walls, others, eps)
    middle = (points[:, start, None] + others[:, None, end]) / 2
    _, is_inside = find_cells(mesh, middle.reshape(3, -1))
    outside = np.zeros((n, m), bool)
    on_walls = np.ix_(start, end)
    outside[on_walls] = ~is_inside.reshape(len(start), len(end))
    return outside


def _find_points_on_walls(walls, points, eps):
    step = walls.find_nearest(points) - points
    square = (step**2).sum(axis=0)
    return np.flatnonzero(square <= eps**2)


# ---- round corners in the plane ------------------------------------------------------------------


class _PlaneWalls:
    """The straight walls of a plane mesh, all on every rank.

    vertex (2, n_vertices) : their ends
    end (2, n) : the numbers of the ends of each wall
    normal (2, n) : outwards
    """

    def __init__(self, mesh: Any) -> None:
        own = np.arange(mesh.n_inner, mesh.n_faces)
        first = mesh.points[:, mesh.vertices[0, own]]
        second = mesh.points[:, mesh.vertices[1, own]]
        own_rows = np.concatenate([first, second, mesh.normal[:, own]])
        rows = mesh.ranks.all_gather(own_rows)

        all_ends = np.concatenate([rows[:2], rows[2:4]], axis=1)
        vertex, end = np.unique(all_ends, axis=1, return_inverse=True)
        width = np.ptp(vertex, axis=1)
        self.eps = LINE_TOLERANCE * width.max()
        end, face = _join_faces(vertex, end.reshape(2, -1), self.eps)
        used, end = np.unique(end, return_inverse=True)
        self.vertex = vertex[:, used]
        self.end = end.reshape(2, -1)
        self.normal = rows[4:, face]

    def find_corners(self) -> tuple[Array, Array, Array]:
        """(x (2, k), angle (k,), width (k,)): vertices where the domain is wider than a half plane,
        ends of walls without thickness, and those at which parts of the domain touch: one corner
        for each part.

        From angle on, counter-clockwise, the domain is width wide there, 2 pi where it is in one
        part.
        """
        n = self.end.shape[1]
        n_vertices = self.vertex.shape[1]
        ends = self.end.ravel()
        order = np.argsort(ends, kind="stable")
        first = np.searchsorted(ends[order], np.arange(n_vertices + 1))
        # the other end, for both ends of each wall
        opposite_ends = self.end[::-1].ravel()
        other = self.vertex[:, opposite_ends]

        corners = []
        for v in range(n_vertices):
            sides = order[first[v] : first[v + 1]]
            way = other[:, sides] - self.vertex[:, [v]]
            normal = self.normal[:, sides % n]
            beyond = normal.T @ way  # [i, j]: how far wall j lies outside of wall i
            is_folded = (way.T @ way) > 0
            np.fill_diagonal(is_folded, False)
            np.fill_diagonal(beyond, 0.0)
            is_thin = is_folded & (np.abs(beyond) <= self.eps)
            if (beyond > self.eps).any() or is_thin.any():
                sectors = [(0.0, FULL_TURN)]
                if len(sides) > 2:
                    sectors = _list_sectors(way, normal)
                place = self.vertex[:, v]
                corners += [(*place, *sector) for sector in sectors]

        x, y, angle, width = np.array(corners).reshape(-1, 4).T
        return np.stack([x, y]), angle, width

    def see(self, x: Array, y: Array) -> BoolArray:
        """Whether points x (2, n) and y (2, m) see each other: (n, m) bool."""
        is_seen = np.zeros((x.shape[1], y.shape[1]), bool)
        _fill_seen(x, y, self.vertex, self.end, self.eps, is_seen)
        return is_seen


def _list_sectors(way, normal):
    """[(angle, width)] of the parts of the domain between walls (2, n) that leave a vertex, with
    these normals outwards.
    """
    angle = np.arctan2(way[1], way[0])
    # The domain lies counter-clockwise of these.
    begins = normal[1] * way[0] - normal[0] * way[1] < 0
    first = angle[begins]
    last = angle[~begins]
    width = (last[None, :] - first[:, None]) % FULL_TURN
    width = np.where(width < ANGLE_TOLERANCE, FULL_TURN, width)
    least_width = width.min(axis=1, initial=FULL_TURN)
    return list(zip(first, least_width))


def _are_in_sectors(corners, angle, width, points, eps):
    """Whether points (2, n) lie in the directions from corners (2, k) that their sectors hold: (k,
    n) bool.
    """
    dx, dy = points[:, None, :] - corners[:, :, None]
    turn = (np.arctan2(dy, dx) - angle[:, None]) % FULL_TURN
    distance = np.hypot(dx, dy)
    slack = ANGLE_TOLERANCE + eps / np.maximum(distance, eps)
    is_within = turn <= width[:, None] + slack
    is_at_start = turn >= FULL_TURN - slack
    return is_within | is_at_start


def _join_faces(vertex, end, eps):
    """(ends (2, k), number (k,) of a face of each) of walls of faces with ends (2, n), joined where
    they go straight on.
    """
    end = end.copy()
    faces = [[] for _ in range(vertex.shape[1])]
    for face, ends in enumerate(end.T):
        for v in ends:
            faces[v].append(face)

    is_joined = np.zeros(end.shape[1], bool)
    for v, pair in enumerate(faces):
        if len(pair) != 2 or pair[0] == pair[1]:
            continue
        one, two = pair
        ends = []
        for face in pair:
            a, b = end[:, face]
            ends.append(a if b == v else b)
        first, second = (vertex[:, other] - vertex[:, v] for other in ends)
        cross = first[0] * second[1] - first[1] * second[0]
        length = np.hypot(*(second - first))
        is_straight = abs(cross) <= eps * length
        if is_straight and first @ second < 0:
            end[:, one] = ends
            is_joined[two] = True
            far_end = ends[1]
            faces[far_end] = [one if face == two else face for face in faces[far_end]]
    return end[:, ~is_joined], np.flatnonzero(~is_joined)


def _find_least_sums(a, b):
    """min_k a_ik + b_kj (n, m)."""
    a = np.ascontiguousarray(a)
    b = np.ascontiguousarray(b)
    least = np.full((a.shape[0], b.shape[1]), np.inf)
    _add_least(a, b, least)
    return least


@numba.njit(cache=True)
def _add_least(a, b, least):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            if a[i, k] < np.inf:
                for j in range(b.shape[1]):
                    total = a[i, k] + b[k, j]
                    if total < least[i, j]:
                        least[i, j] = total


@numba.njit(cache=True)
def _fill_seen(x, y, vertex, end, eps, is_seen):
    """Fill whether points x (2, n) and y (2, m) see each other, (n, m)."""
    n_vertices = vertex.shape[1]
    side = np.empty(n_vertices)
    along = np.empty(n_vertices)
    below = np.empty(n_vertices, np.bool_)
    above = np.empty(n_vertices, np.bool_)
    stops = np.empty(n_vertices + 2)

    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            is_seen[i, j] = _sees(
                x[0, i],
                x[1, i],
                y[0, j],
                y[1, j],
                vertex,
                end,
                eps,
                side,
                along,
                below,
                above,
                stops,
            )


@numba.njit(cache=True)
def _sees(px, py, qx, qy, vertex, end, eps, side, along, below, above, stops):
    """Whether points p and q see each other.

    side, along : of each vertex, how far from the line from p to q, and where on it, from 0 to its
        length
    """
    length = np.hypot(qx - px, qy - py)
    if length <= eps:
        return True
    ux = (qx - px) / length
    uy = (qy - py) / length

    for v in range(len(side)):
        dx = vertex[0, v] - px
        dy = vertex[1, v] - py
        side[v] = ux * dy - uy * dx
        along[v] = ux * dx + uy * dy
        below[v] = False
        above[v] = False

    for s in range(end.shape[1]):
        a = end[0, s]
        b = end[1, s]
        if abs(side[a]) > eps and abs(side[b]) > eps:
            if (side[a] > 0) != (side[b] > 0):
                crossing = along[a] + (along[b] - along[a]) * side[a] / (side[a] - side[b])
                if eps < crossing < length - eps:
                    return False
            continue
        for v, other in ((a, b), (b, a)):
            if abs(side[v]) <= eps:
                below[v] |= side[other] < -eps
                above[v] |= side[other] > eps

    n = 0
    for v in range(len(side)):
        if abs(side[v]) <= eps and eps < along[v] < length - eps:
            if below[v] and above[v]:
                return False
            stops[n] = along[v]
            n += 1

    stops[n] = 0.0
    stops[n + 1] = length
    ordered = np.sort(stops[: n + 2])
    for k in range(n + 1):
        middle = (ordered[k] + ordered[k + 1]) / 2
        if ordered[k + 1] - ordered[k] > eps and not _is_inside(
            px + middle * ux, py + middle * uy, vertex, end, eps
        ):
            return False
    return True


@numba.njit(cache=True)
def _is_inside(x, y, vertex, end, eps):
    """Whether a point is inside, or on a wall.

    Walls to its right are counted, those without thickness twice.
    """
    inside = False
    for s in range(end.shape[1]):
        ax = vertex[0, end[0, s]]
        ay = vertex[1, end[0, s]]
        bx = vertex[0, end[1, s]]
        by = vertex[1, end[1, s]]

        length = np.hypot(bx - ax, by - ay)
        across = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length
        along = ((bx - ax) * (x - ax) + (by - ay) * (y - ay)) / length
        if abs(across) <= eps and -eps <= along <= length + eps:
            return True
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside
