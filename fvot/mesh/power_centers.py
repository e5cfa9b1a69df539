"""Cell points where circumcentres fail: power centres, for weights of the mesh's points that put
them in order.

Give every point p_i of the mesh a weight w_i. The power centre x of a simplex has the same power |x
- p_i|^2 - w_i to all its corners (`faces.power_centers`). Two neighbours share the equations of
their common face's corners, so that the line between their power centres is normal to this face,
for any weights. What depends on the weights is the order of the two centres: circumcentres (w = 0)
are in order, d_sigma = (x_L - x_K).n > 0, where the mesh is Delaunay, and some weights put the
centres in order where it is a weighted Delaunay (or regular) triangulation, the dual of a power
diagram (Aurenhammer 1987).

With w_h the continuous function, linear on each simplex, that is w_i at p_i, x_K(w) = x_K(0) - grad
w_h|_K / 2, and

    d_sigma(w) = d_sigma(0) - (dw_h/dn|_L - dw_h/dn|_K) / 2

is linear in w. `find` minimises

    E(w) = sum_sigma max(0, goal_sigma - d_sigma(w) / h_sigma)^2 / |grad_w d_sigma / h_sigma|

from w = 0, by Newton's method in bounds. E is convex, and 0 if and only if all distances reach
their goals. The gradients are large beside flat cells, which would rule the sum without the
denominator. Faces on the boundary count, too: there d_sigma is the distance from x_K to the face.
Only points near faces of negative distance have weights.

A few bad faces are cured by centres that move a part of a cell. Where the whole mesh is bad, as one
of obtuse triangles that all point the same way, weights may do it by drifting centres, many cells
away from their own: diffusion would then be that of another place. Such weights are not taken. What
drifts is the mean of neighbouring points: one by one they may be anywhere, as circumcentres are on
both sides of their cells.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsqr, norm

from .cells import TETRA, TRIANGLE, columns
from .quality import COINCIDENT, OUT_OF_ORDER, face_sizes

GOALS = (
    0.06,
    0.005,
    # of d_sigma / h_sigma where it is negative, tried one after the other; others may shrink to
    # that,
)
LEAST_GOAL = 0.002  # have to grow to this, or stay 0
RINGS = 12  # of cells around faces of negative distance, whose points have weights
# how much farther, in barycentric coordinates, neighbouring points may be from their cells in the
# mean;
DRIFT = 0.15
# by 0.7, absorbing rates are 3 % off on 16 x 16 squares
NEWTON_STEPS = (
    30  # bounds of the search, with LEAST_PROGRESS the part of E by which a whole step lessens it
)
LEAST_PROGRESS = 0.02
LSQR_STEPS = 60
LSQR_TOLERANCE = 1e-4


def find(cells, volume, centroid, faces, center, distance):
    """Cell points (dim, n_cells) in order, power centres of the simplices; None if there are none.

    center (dim, n_cells) : circumcentres of the simplices, and the points of all other cells, which
        stay
    distance (n_faces,) : d_sigma of these points
    """
    size = face_sizes(volume, faces)
    relative = distance / size
    free = _free_points(cells, faces, relative < -OUT_OF_ORDER)
    if not len(free):
        return None
    slope, unit = _slope(cells, volume, faces)
    slope = (sparse.diags(1 / size) @ slope @ sparse.diags(unit)).tocsc()[:, free].tocsr()
    row = np.flatnonzero(np.diff(slope.indptr))
    slope = slope[row]
    relative = relative[row]
    most = _offset(cells, volume, center - centroid) + DRIFT
    for goal in GOALS:
        weight = np.zeros(cells.points.shape[1])
        target = np.where(relative < -COINCIDENT, goal, np.clip(relative, LEAST_GOAL, goal))
        target[np.abs(relative) <= COINCIDENT] = 0
        found = _search(slope, relative, target)
        if (relative + slope @ found).min() < -OUT_OF_ORDER:
            continue
        weight[free] = unit[free] * found
        points = moved(cells, center, weight)
        if _offset(cells, volume, points - centroid) <= most:
            return points
    return None


def moved(cells, center, weight):
    """The cell points (dim, n_cells), with power centres for the given weights (n_points,) in all
    simplices.
    """
    center = center.copy()
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            center[:, cell] = power_centers(cells.points, corners, weight)
    return center


def _offset(cells, volume, step):
    """How far the points of the cells around a corner lie together beside their cells: the mean of
    barycentric coordinates.

    step (dim, n_cells) : from the centroids of the cells to their points
    """
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))
    n_points = cells.points.shape[1]
    around = np.maximum(np.bincount(cells.corners, volume[owner], n_points), 1e-300)
    mean = (
        np.stack([np.bincount(cells.corners, (volume * s)[owner], n_points) for s in step]) / around
    )
    far = np.zeros(cells.n_cells)
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            gradient = _hat_gradients(cells.points, corners)
            far[cell] = np.abs(np.einsum("dcn,dcn->cn", gradient, mean[:, corners])).max(axis=0)
    return (far * volume).sum() / volume.sum()


def _free_points(cells, faces, bad):
    """Points near bad faces that belong to simplices only, so that centres beside others stay above
    the same point of their face.
    """
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))
    near = np.zeros(cells.n_cells, bool)
    near[faces.left[bad]] = True
    near[faces.right[bad & (faces.right >= 0)]] = True
    free = np.zeros(cells.points.shape[1], bool)
    for _ in range(RINGS):
        free[cells.corners[near[owner]]] = True
        near = np.logical_or.reduceat(free[cells.corners], cells.start[:-1])
    simplex = (cells.kind == TRIANGLE) | (cells.kind == TETRA)
    free[cells.corners[~simplex[owner]]] = False
    return np.flatnonzero(free)


def _slope(cells, volume, faces):
    """d d_sigma / d w_i, sparse (n_faces, n_points), and a unit (n_points,) for each weight: the
    local h^2.
    """
    n_faces = len(faces.area)
    n_points = cells.points.shape[1]
    inner = faces.n_inner
    slope = sparse.csr_matrix((n_faces, n_points))
    square = np.zeros(n_points)
    count = np.zeros(n_points)
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if not len(cell):
            continue
        gradient = _hat_gradients(cells.points, corners)
        place = np.full(cells.n_cells, -1)
        place[cell] = np.arange(len(cell))
        for side, sign in ((faces.left, 0.5), (faces.right[:inner], -0.5)):
            face = np.flatnonzero(place[side] >= 0)
            at = place[side[face]]
            entry = sign * np.einsum("dcf,df->cf", gradient[:, :, at], faces.normal[:, face])
            row = np.broadcast_to(face, entry.shape)
            slope += sparse.coo_matrix(
                (entry.ravel(), (row.ravel(), corners[:, at].ravel())), slope.shape
            ).tocsr()
        for corner in corners:
            square += np.bincount(corner, volume[cell] ** (2 / cells.dim), n_points)
            count += np.bincount(corner, minlength=n_points)
    return slope, square / np.maximum(count, 1)


def _hat_gradients(points, corners):
    """Gradients (dim, dim + 1, n) of the barycentric coordinates of simplices."""
    origin = columns(points, corners[0])
    edge = [columns(points, corner) - origin for corner in corners[1:]]
    if len(edge) == 2:
        (ax, ay), (bx, by) = edge
        gradient = np.stack([np.stack([by, -ay]), np.stack([-bx, ax])]) / (ax * by - ay * bx)
    else:
        a, b, c = edge
        cross = np.stack(
            [np.cross(b, c, axis=0), np.cross(c, a, axis=0), np.cross(a, b, axis=0)], axis=1
        )
        gradient = cross / np.einsum("dn,dn->n", a, cross[:, 0])
    return np.concatenate([-gradient.sum(axis=1, keepdims=True), gradient], axis=1)


def _search(slope, distance, target):
    """Weights that minimise sum max(0, target - distance - slope w)^2 / |slope|, row by row:
    Newton's method, in bounds.

    Each step solves the least-squares problem of the rows that lack something, by some iterations
    of LSQR.
    """
    length = np.sqrt(np.maximum(norm(slope, axis=1), 1e-300))
    slope = (sparse.diags(1 / length) @ slope).tocsr()
    lack = (target - distance) / length
    w = np.zeros(slope.shape[1])
    for _ in range(NEWTON_STEPS):
        active = np.flatnonzero(lack > 0)
        energy = (lack[active] ** 2).sum()
        if not len(active):
            break
        step = lsqr(
            slope[active],
            lack[active],
            atol=LSQR_TOLERANCE,
            btol=LSQR_TOLERANCE,
            iter_lim=LSQR_STEPS,
        )[0]
        change = slope @ step
        for part in 0.5 ** np.arange(8):
            lack_there = lack - part * change
            energy_there = (np.maximum(lack_there, 0) ** 2).sum()
            if energy_there < (1 - LEAST_PROGRESS * part) * energy:
                break
        else:
            break
        w += part * step
        lack = lack_there
    return w


def power_centers(points, corners, weight=None):
    """Points (dim, n) of equal power |x - p_i|^2 - w_i to the corners (dim + 1, n) of triangles or
    tetrahedra.

    2 (p_i - p_0).x = |p_i|^2 - w_i - |p_0|^2 + w_0; without the points' weights (n_points,) these
    are circumcentres.
    """
    origin = columns(points, corners[0])
    edges = [columns(points, corner) - origin for corner in corners[1:]]
    squares = [np.einsum("in,in->n", edge, edge) for edge in edges]
    if weight is not None:
        squares = [
            square - weight[corner] + weight[corners[0]]
            for square, corner in zip(squares, corners[1:])
        ]
    if len(points) == 2:
        (ax, ay), (bx, by) = edges
        twice = 2 * (ax * by - ay * bx)
        return (
            origin
            + np.stack([by * squares[0] - ay * squares[1], ax * squares[1] - bx * squares[0]])
            / twice
        )
    a, b, c = edges
    bc = np.cross(b, c, axis=0)
    ca = np.cross(c, a, axis=0)
    ab = np.cross(a, b, axis=0)
    return origin + (squares[0] * bc + squares[1] * ca + squares[2] * ab) / (
        2 * np.einsum("in,in->n", a, bc)
    )


def cell_points(cells, centroid):
    """The points that make the two-point flux consistent: circumcentres of simplices, centroids of
    all other cells.
    """
    center = centroid.copy()
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            center[:, cell] = power_centers(cells.points, corners)
    return center
