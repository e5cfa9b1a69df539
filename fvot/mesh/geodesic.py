"""The shortest ways inside a plane domain: straight from corner to corner of its walls (Lozano-Perez, Wesley 1979).

A shortest way turns at corners alone, those at which the domain is wider than a half plane. Two points see each other where the
segment between them does not leave the domain: it crosses no wall, goes through no point at which a wall passes from one of its
sides to the other, and its middle, or that of each part between corners on it, is inside.
"""
import numba
import numpy as np
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist

from ..errors import InputError

CLOSE = 1e-10            # relative to the size of the domain: as far may a point be from a line and be on it


def straight(mesh, points, others):
    """|x - y| (n, m), by the shortest way on a torus."""
    if mesh.block is None or not any(mesh.block.periodic):
        return cdist(points.T, others.T)
    step = mesh.shortest((points[:, :, None] - others[:, None, :]).reshape(len(points), -1))
    return np.sqrt((step**2).sum(axis=0)).reshape(points.shape[1], others.shape[1])


def round_corners(mesh, points, others):
    """Lengths (n, m) of the shortest ways in a plane domain. Each rank finds some of the rows. Collective."""
    walls = _Walls(mesh)
    corners = walls.corners()
    between = np.where(walls.see(corners, corners), cdist(corners.T, corners.T), np.inf)
    between = shortest_path(np.where(np.isinf(between), 0, between), directed=False) if corners.size else between
    mine = points[:, mesh.ranks.rank::mesh.ranks.size]
    direct, to, on = (np.where(walls.see(x, y), cdist(x.T, y.T), np.inf)
                      for x, y in ((mine, others), (mine, corners), (corners, others)))
    found = np.minimum(direct, _least_sums(_least_sums(to, between), on))
    counts = [len(range(rank, points.shape[1], mesh.ranks.size)) for rank in range(mesh.ranks.size)]
    rows = np.split(mesh.ranks.all_gather(np.ascontiguousarray(found.T)), np.cumsum(counts)[:-1], axis=1)
    lengths = np.empty((points.shape[1], others.shape[1]))
    for rank, columns in enumerate(rows):
        lengths[rank::mesh.ranks.size] = columns.T
    if not np.isfinite(lengths).all():
        i, j = np.argwhere(~np.isfinite(lengths))[0]
        raise InputError(f"no way inside the mesh leads from {points[:, i]} to {others[:, j]}: they lie in different pieces")
    return lengths


class _Walls:
    """The straight walls of a plane mesh, all on every rank.

    vertex (2, n_vertices) : their ends; at (2, n) : the numbers of the ends of each wall; normal (2, n), outwards
    """

    def __init__(self, mesh):
        own = np.arange(mesh.n_inner, mesh.n_faces)
        ends = mesh.points[:, mesh.vertices[:, own]]                    # (2, 2 ends, faces)
        everyone = mesh.ranks.all_gather(np.concatenate([ends[:, 0], ends[:, 1], mesh.normal[:, own]]))
        vertex, at = np.unique(np.concatenate([everyone[:2], everyone[2:4]], axis=1), axis=1, return_inverse=True)
        self.eps = CLOSE * np.ptp(vertex, axis=1).max()
        at, first = _joined(vertex, at.reshape(2, -1), self.eps)
        used, at = np.unique(at, return_inverse=True)
        self.vertex, self.at, self.normal = vertex[:, used], at.reshape(2, -1), everyone[4:, first]

    def corners(self):
        """The vertices (2, k) where the domain is wider than a half plane, and ends of walls without thickness."""
        n, m = self.at.shape[1], self.vertex.shape[1]
        order = np.argsort(self.at.ravel(), kind="stable")
        first = np.searchsorted(self.at.ravel()[order], np.arange(m + 1))
        far = self.vertex[:, self.at[::-1].ravel()]         # the other end, for both ends of each wall
        wide = np.zeros(m, bool)
        for v in range(m):
            sides = order[first[v]:first[v + 1]]
            way = far[:, sides] - self.vertex[:, [v]]
            beyond = self.normal[:, sides % n].T @ way      # [i, j]: how far wall j lies outside of wall i
            folded = (way.T @ way) > 0
            np.fill_diagonal(folded, False)
            np.fill_diagonal(beyond, 0.0)
            wide[v] = (beyond > self.eps).any() or (folded & (np.abs(beyond) <= self.eps)).any()
        return self.vertex[:, wide]

    def see(self, x, y):
        """Whether points x (2, n) and y (2, m) see each other: (n, m) bool."""
        seen = np.zeros((x.shape[1], y.shape[1]), bool)
        _see(x, y, self.vertex, self.at, self.eps, seen)
        return seen


def _joined(vertex, at, eps):
    """(ends (2, k), number (k,) of a face of each) of walls of faces with ends at (2, n), joined where they go straight on."""
    at, faces = at.copy(), [[] for _ in range(vertex.shape[1])]
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
        if one != two and abs(first[0] * second[1] - first[1] * second[0]) <= eps * np.hypot(*(second - first)) \
                and first @ second < 0:
            at[:, one], gone[two] = ends, True
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
    side, along = np.empty(m), np.empty(m)
    below, above = np.empty(m, np.bool_), np.empty(m, np.bool_)
    stops = np.empty(m + 2)
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            seen[i, j] = _sees(x[0, i], x[1, i], y[0, j], y[1, j], vertex, at, eps, side, along, below, above, stops)


@numba.njit(cache=True)
def _sees(px, py, qx, qy, vertex, at, eps, side, along, below, above, stops):
    """side, along: of each vertex, how far from the line from p to q, and where on it, from 0 to its length."""
    length = np.hypot(qx - px, qy - py)
    if length <= eps:
        return True
    ux, uy = (qx - px) / length, (qy - py) / length
    for v in range(len(side)):
        dx, dy = vertex[0, v] - px, vertex[1, v] - py
        side[v], along[v] = ux * dy - uy * dx, ux * dx + uy * dy
        below[v], above[v] = False, False
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
    ordered = np.sort(stops[:n + 2])
    for k in range(n + 1):
        middle = (ordered[k] + ordered[k + 1]) / 2
        if ordered[k + 1] - ordered[k] > eps and not _inside(px + middle * ux, py + middle * uy, vertex, at, eps):
            return False
    return True


@numba.njit(cache=True)
def _inside(x, y, vertex, at, eps):
    """Whether a point is inside, or on a wall: walls to its right are counted, those without thickness twice."""
    inside = False
    for s in range(at.shape[1]):
        ax, ay, bx, by = vertex[0, at[0, s]], vertex[1, at[0, s]], vertex[0, at[1, s]], vertex[1, at[1, s]]
        length = np.hypot(bx - ax, by - ay)
        across = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length
        on = ((bx - ax) * (x - ax) + (by - ay) * (y - ay)) / length
        if abs(across) <= eps and -eps <= on <= length + eps:
            return True
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside
