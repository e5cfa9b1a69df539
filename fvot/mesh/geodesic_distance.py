"""The shortest ways inside a domain: straight from corner to corner of its walls (Lozano-Perez,
Wesley 1979).

In the plane a shortest way turns at corners alone, those at which the domain is wider than a half
plane. Two points see each other where the segment between them does not leave the domain: it
crosses no wall, goes through no point at which a wall passes from one of its sides to the other,
and its middle, or that of each part between corners on it, is inside. A vertex at which parts of
the domain merely touch is a corner of each, and no way from one to another (but straight along the
walls of both).

In space it turns at edges where the domain is wider than a half space, anywhere along them. Ways
through chosen points of the edges are too long by the square of the points' spacing, as the length
is stationary where a shortest way turns (Papadimitriou 1985). These points lie a hair inside the
domain, so that walls beside them are not in the way. Cells that touch in an edge or a vertex alone
may let a way through there.
"""

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra, shortest_path
from scipy.spatial.distance import cdist

CLOSE = 1e-10  # relative to the size of the domain: as far may a point be from a line and be on it
ANGLE = 1e-9  # in which directions are the same
TURN = 2 * np.pi
HAIR = 1e-7  # relative to the size of the domain
EDGE_POINTS = 1000  # on all edges round which ways in space may lead, but for two on each edge


def straight(mesh, points, others):
    """|x - y| (n, m), by the shortest way on a torus."""
    if mesh.block is None or not any(mesh.block.periodic):
        return cdist(points.T, others.T)
    step = mesh.shortest((points[:, :, None] - others[:, None, :]).reshape(len(points), -1))
    return np.sqrt((step**2).sum(axis=0)).reshape(points.shape[1], others.shape[1])


def between_gaps(mesh, points, others):
    """|x - y| (n, m) on a line in pieces, infinite where there is a gap between x and y."""
    ends = np.sort(mesh.walls.corner.ravel())
    piece = [np.searchsorted(ends[2::2], x[0], side="right") for x in (points, others)]
    return np.where(piece[0][:, None] == piece[1], cdist(points.T, others.T), np.inf)


def round_corners(mesh, points, others):
    """Lengths (n, m) of the shortest ways in a plane domain. Each rank finds some of the rows.
    Collective.
    """
    walls = _PlaneWalls(mesh)
    corners, *sector = walls.corners()

    def steps(x, y, seen):
        return np.where(seen & walls.see(x, y), cdist(x.T, y.T), np.inf)

    def into(x):
        return _in_sector(corners, *sector, x, walls.eps)

    between = steps(corners, corners, into(corners) & into(corners).T)
    if corners.size:  # a sparse graph: dense ones leave out edges shorter than 1e-8
        between = shortest_path(
            sparse.csr_matrix(np.where(np.isinf(between), 0, between)), directed=False
        )
    mine = points[:, mesh.ranks.rank :: mesh.ranks.size]
    direct = steps(mine, others, True)
    to = steps(mine, corners, into(mine).T)
    on = steps(corners, others, into(others))
    return _all_rows(
        mesh, points, others, np.minimum(direct, _least_sums(_least_sums(to, between), on))
    )


def over_edges(mesh, points, others):
    """Lengths (n, m) of ways in a domain in space, hardly longer than the shortest. Each rank finds
    some rows. Collective.
    """
    walls = mesh.walls
    size = np.ptp(mesh.bounds, axis=0).max()
    eps = CLOSE * size
    turns = _turns(walls, size)
    turns = turns[:, mesh.find(turns)[1]]
    rank = mesh.ranks.rank
    n_ranks = mesh.ranks.size

    def steps(x, y):
        return np.where(walls.between(x, y, eps), np.inf, cdist(x.T, y.T))

    between = _all_rows(mesh, turns, turns, steps(turns[:, rank::n_ranks], turns))
    mine = points[:, rank::n_ranks]
    direct = np.where(
        _outside(mesh, walls, points, others, eps)[rank::n_ranks], np.inf, steps(mine, others)
    )
    found = np.minimum(
        direct, _least_sums(_from_sources(steps(mine, turns), between), steps(turns, others))
    )
    return _all_rows(mesh, points, others, found)


def _all_rows(mesh, points, others, mine):
    """All rows (n, m) on every rank, of which this rank has every n_ranks-th."""
    n = points.shape[1]
    m = others.shape[1]
    n_ranks = mesh.ranks.size
    counts = [len(range(rank, n, n_ranks)) for rank in range(n_ranks)]
    rows = np.split(
        mesh.ranks.all_gather(np.ascontiguousarray(mine.T)), np.cumsum(counts)[:-1], axis=1
    )
    lengths = np.empty((n, m))
    for rank, columns in enumerate(rows):
        lengths[rank::n_ranks] = columns.T
    return lengths


# ---- round edges in space ------------------------------------------------------------------------


def _turns(walls, size):
    """Points (3, n) on the edges of the walls where the domain is wider than a half space, moved
    inside by a hair.
    """
    a, b, inwards = _reentrant_edges(walls, CLOSE * size)
    length = np.sqrt(((b - a) ** 2).sum(axis=0))
    count = np.maximum(np.ceil(length / max(length.sum() / EDGE_POINTS, 1e-300)), 2).astype(int)
    edge = np.repeat(np.arange(len(count)), count)
    part = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[edge]
    middle = a[:, edge] + part * (b - a)[:, edge]
    corners, at = np.unique(np.concatenate([a, b], axis=1), axis=1, return_inverse=True)
    away = np.stack(
        [np.bincount(at.ravel(), np.tile(row, 2), corners.shape[1]) for row in inwards]
    ).astype(float)
    away /= np.maximum(np.sqrt((away**2).sum(axis=0)), 1e-300)
    return np.concatenate(
        [middle + HAIR * size * inwards[:, edge], corners + HAIR * size * away], axis=1
    )


def _reentrant_edges(walls, eps):
    """(a, b, inwards), each (3, n): the ends of edges at which one wall lies outside of the other,
    and a unit vector.
    """
    vertex, at = np.unique(walls.corner.reshape(-1, 3), axis=0, return_inverse=True)
    at = at.reshape(-1, 3)
    pair = np.sort(np.concatenate([at[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    opposite = at[:, [2, 0, 1]].T.ravel()
    wall = np.tile(np.arange(len(at)), 3)
    order = np.lexsort(pair.T)
    same = (pair[order][1:] == pair[order][:-1]).all(axis=1)  # neighbours in the list share an edge
    one = order[:-1][same]
    two = order[1:][same]
    far = vertex[opposite[two]] - vertex[pair[two, 0]]
    wide = np.einsum("ij,ij->i", walls.normal[wall[one]], far) > eps
    one = one[wide]
    two = two[wide]
    inwards = -(walls.normal[wall[one]] + walls.normal[wall[two]])
    inwards /= np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-300)
    return vertex[pair[one, 0]].T, vertex[pair[one, 1]].T, inwards.T


def _from_sources(to, between):
    """Lengths (n, k) of shortest ways from n points that see turns (n, k) at these distances, over
    turns (k, k).
    """
    n, k = to.shape
    if not n or not k:
        return to
    graph = np.zeros((n + k, n + k))
    graph[n:, n:], graph[:n, n:] = (
        np.where(np.isinf(between), 0, between),
        np.where(np.isinf(to), 0, to),
    )
    return dijkstra(sparse.csr_matrix(graph), indices=np.arange(n))[:, n:]


def _outside(mesh, walls, points, others, eps):
    """Whether segments between points (3, n) and others (3, m), both on walls, run outside: (n, m)
    bool. Collective.
    """
    on = [
        np.flatnonzero(((walls.nearest(x) - x) ** 2).sum(axis=0) <= eps**2)
        for x in (points, others)
    ]
    outside = np.zeros((points.shape[1], others.shape[1]), bool)
    middle = (points[:, on[0], None] + others[:, None, on[1]]) / 2
    outside[np.ix_(*on)] = ~mesh.find(middle.reshape(3, -1))[1].reshape(len(on[0]), len(on[1]))
    return outside


# ---- round corners in the plane ------------------------------------------------------------------


class _PlaneWalls:
    """The straight walls of a plane mesh, all on every rank.

    vertex (2, n_vertices) : their ends; at (2, n) : the numbers of the ends of each wall; normal
        (2, n), outwards
    """

    def __init__(self, mesh):
        own = np.arange(mesh.n_inner, mesh.n_faces)
        ends = mesh.points[:, mesh.vertices[:, own]]  # (2, 2 ends, faces)
        everyone = mesh.ranks.all_gather(
            np.concatenate([ends[:, 0], ends[:, 1], mesh.normal[:, own]])
        )
        vertex, at = np.unique(
            np.concatenate([everyone[:2], everyone[2:4]], axis=1), axis=1, return_inverse=True
        )
        self.eps = CLOSE * np.ptp(vertex, axis=1).max()
        at, first = _joined(vertex, at.reshape(2, -1), self.eps)
        used, at = np.unique(at, return_inverse=True)
        self.vertex = vertex[:, used]
        self.at = at.reshape(2, -1)
        self.normal = everyone[4:, first]

    def corners(self):
        """(x (2, k), angle (k,), width (k,)): vertices where the domain is wider than a half plane,
        ends of walls without thickness, and those at which parts of the domain touch: one corner
        for each part.

        From angle on, counter-clockwise, the domain is width wide there, 2 pi where it is in one
        part.
        """
        n = self.at.shape[1]
        m = self.vertex.shape[1]
        order = np.argsort(self.at.ravel(), kind="stable")
        first = np.searchsorted(self.at.ravel()[order], np.arange(m + 1))
        far = self.vertex[:, self.at[::-1].ravel()]  # the other end, for both ends of each wall
        found = []
        for v in range(m):
            sides = order[first[v] : first[v + 1]]
            way = far[:, sides] - self.vertex[:, [v]]
            normal = self.normal[:, sides % n]
            beyond = normal.T @ way  # [i, j]: how far wall j lies outside of wall i
            folded = (way.T @ way) > 0
            np.fill_diagonal(folded, False)
            np.fill_diagonal(beyond, 0.0)
            if (beyond > self.eps).any() or (folded & (np.abs(beyond) <= self.eps)).any():
                parts = _sectors(way, normal) if len(sides) > 2 else [(0.0, TURN)]
                found += [(*self.vertex[:, v], *part) for part in parts]
        found = np.array(found).reshape(-1, 4).T
        return found[:2], found[2], found[3]

    def see(self, x, y):
        """Whether points x (2, n) and y (2, m) see each other: (n, m) bool."""
        seen = np.zeros((x.shape[1], y.shape[1]), bool)
        _see(x, y, self.vertex, self.at, self.eps, seen)
        return seen


def _sectors(way, normal):
    """[(angle, width)] of the parts of the domain between walls (2, n) that leave a vertex, with
    these normals outwards.
    """
    angle = np.arctan2(way[1], way[0])
    starts = (
        normal[1] * way[0] - normal[0] * way[1] < 0
    )  # the domain lies counter-clockwise of these
    width = (angle[None, ~starts] - angle[starts, None]) % TURN
    width = np.where(width < ANGLE, TURN, width).min(axis=1, initial=TURN)
    return list(zip(angle[starts], width))


def _in_sector(corners, angle, width, points, eps):
    """Whether points (2, n) lie in the directions from corners (2, k) that their sectors hold: (k,
    n) bool.
    """
    dx, dy = points[:, None, :] - corners[:, :, None]
    off = (np.arctan2(dy, dx) - angle[:, None]) % TURN
    room = ANGLE + eps / np.maximum(np.hypot(dx, dy), eps)
    return (off <= width[:, None] + room) | (off >= TURN - room)


def _joined(vertex, at, eps):
    """(ends (2, k), number (k,) of a face of each) of walls of faces with ends at (2, n), joined
    where they go straight on.
    """
    at = at.copy()
    faces = [[] for _ in range(vertex.shape[1])]
    for face, ends in enumerate(at.T):
        for v in ends:
            faces[v].append(face)
    gone = np.zeros(at.shape[1], bool)
    for v, pair in enumerate(faces):
        if len(pair) != 2:
            continue
        one, two = pair
        ends = [at[0, face] if at[1, face] == v else at[1, face] for face in pair]
        first, second = (vertex[:, end] - vertex[:, v] for end in ends)
        if (
            one != two
            and abs(first[0] * second[1] - first[1] * second[0])
            <= eps * np.hypot(*(second - first))
            and first @ second < 0
        ):
            at[:, one] = ends
            gone[two] = True
            faces[ends[1]] = [one if face == two else face for face in faces[ends[1]]]
    return at[:, ~gone], np.flatnonzero(~gone)


def _least_sums(a, b):
    """min_k a_ik + b_kj (n, m)."""
    found = np.full((a.shape[0], b.shape[1]), np.inf)
    _add_least(np.ascontiguousarray(a), np.ascontiguousarray(b), found)
    return found


@numba.njit(cache=True)
def _add_least(a, b, found):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            if a[i, k] < np.inf:
                for j in range(b.shape[1]):
                    if a[i, k] + b[k, j] < found[i, j]:
                        found[i, j] = a[i, k] + b[k, j]


@numba.njit(cache=True)
def _see(x, y, vertex, at, eps, seen):
    m = vertex.shape[1]
    side = np.empty(m)
    along = np.empty(m)
    below, above = np.empty(m, np.bool_), np.empty(m, np.bool_)
    stops = np.empty(m + 2)
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            seen[i, j] = _sees(
                x[0, i],
                x[1, i],
                y[0, j],
                y[1, j],
                vertex,
                at,
                eps,
                side,
                along,
                below,
                above,
                stops,
            )


@numba.njit(cache=True)
def _sees(px, py, qx, qy, vertex, at, eps, side, along, below, above, stops):
    """side, along: of each vertex, how far from the line from p to q, and where on it, from 0 to
    its length.
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
    for s in range(at.shape[1]):
        a, b = at[0, s], at[1, s]
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
    stops[n], stops[n + 1] = 0.0, length
    ordered = np.sort(stops[: n + 2])
    for k in range(n + 1):
        middle = (ordered[k] + ordered[k + 1]) / 2
        if ordered[k + 1] - ordered[k] > eps and not _inside(
            px + middle * ux, py + middle * uy, vertex, at, eps
        ):
            return False
    return True


@numba.njit(cache=True)
def _inside(x, y, vertex, at, eps):
    """Whether a point is inside, or on a wall: walls to its right are counted, those without
    thickness twice.
    """
    inside = False
    for s in range(at.shape[1]):
        ax = vertex[0, at[0, s]]
        ay = vertex[1, at[0, s]]
        bx = vertex[0, at[1, s]]
        by = vertex[1, at[1, s]]
        length = np.hypot(bx - ax, by - ay)
        across = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length
        on = ((bx - ax) * (x - ax) + (by - ay) * (y - ay)) / length
        if abs(across) <= eps and -eps <= on <= length + eps:
            return True
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside
