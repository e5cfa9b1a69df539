"""Cell points where circumcentres fail: power centres, for weights of the mesh's points that put
them in order.

Give every point p_i of the mesh a weight w_i. The power centre x of a simplex has the same power |x
- p_i|^2 - w_i to all its corners (`compute_power_centers`). Two neighbours share the equations of
their common face's corners, so that the line between their power centres is normal to this face,
for any weights. What depends on the weights is the order of the two centres: circumcentres (w = 0)
are in order, d_sigma = (x_L - x_K).n > 0, where the mesh is Delaunay, and some weights put the
centres in order where it is a weighted Delaunay (or regular) triangulation, the dual of a power
diagram (Aurenhammer 1987).

With w_h the continuous function, linear on each simplex, that is w_i at p_i, x_K(w) = x_K(0) - grad
w_h|_K / 2, and

    d_sigma(w) = d_sigma(0) - (dw_h/dn|_L - dw_h/dn|_K) / 2

is linear in w. `find_ordered_centers` minimises

    E(w) = sum_sigma max(0, goal_sigma - d_sigma(w) / h_sigma)^2 / |grad_w d_sigma / h_sigma|

from w = 0, by Newton's method in bounds. E is convex, and 0 if and only if all distances reach
their goals. The gradients are large beside flat cells, which would dominate the sum without the
denominator. Faces on the boundary count as well: there d_sigma is the distance from x_K to the
face. Only points near faces of negative distance have weights.

Centres that move by a part of a cell put a few bad faces in order. Where the whole mesh is bad,
like one of obtuse triangles that all point the same way, weights may do it by centres that drift,
many cells away from their own: diffusion would then be that of another place. Such weights are not
taken. Drift means the mean of neighbouring points: single points may be anywhere, as circumcentres
lie on both sides of their cells.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsqr, norm

from ..arguments.types import Array, IntArray
from .cells import TETRA, TRIANGLE, Cells, columns
from .faces import Faces
from .quality import COINCIDENT, OUT_OF_ORDER, compute_face_sizes

# Goals of d_sigma / h_sigma where it is negative, tried one after the other; positive ones may
# shrink to the goal.
DISTANCE_GOALS = (0.06, 0.005)

# Positive distances below this have to grow to it; distances of 0 stay.
MIN_DISTANCE_GOAL = 0.002

# Rings of cells around faces of negative distance whose points have weights.
WEIGHTED_RINGS = 12

# How much farther, in barycentric coordinates, neighbouring points may be from their cells in the
# mean. With 0.7, absorbing rates are 3 % off on 16 x 16 squares.
MAX_DRIFT = 0.15

# Bounds of the search, and the part of E by which a whole step must lessen it.
MAX_SEARCH_STEPS = 30
MIN_PROGRESS = 0.02

# Bounds of the least-squares solver in each step.
MAX_LSQR_STEPS = 60
LSQR_TOLERANCE = 1e-4


def find_ordered_centers(
    cells: Cells, volume: Array, centroid: Array, faces: Faces, center: Array, distance: Array
) -> Array | None:
    """Cell points (dim, n_cells) in order, power centres of the simplices; None if there are none.

    center (dim, n_cells) : circumcentres of the simplices, and the points of all other cells, which
        stay
    distance (n_faces,) : d_sigma of these points
    """
    size = compute_face_sizes(volume, faces)
    relative = distance / size
    is_bad = relative < -OUT_OF_ORDER
    free = _find_free_points(cells, faces, is_bad)
    if not len(free):
        return None
    slope, unit = _compute_slope(cells, volume, faces)
    scaled_slope = sparse.diags(1 / size) @ slope @ sparse.diags(unit)
    free_slope = scaled_slope.tocsc()[:, free]
    slope = free_slope.tocsr()
    row = np.flatnonzero(np.diff(slope.indptr))
    slope = slope[row]
    relative = relative[row]

    max_offset = _measure_offset(cells, volume, center - centroid) + MAX_DRIFT
    for goal in DISTANCE_GOALS:
        target = np.clip(relative, MIN_DISTANCE_GOAL, goal)
        target = np.where(relative < -COINCIDENT, goal, target)
        target[np.abs(relative) <= COINCIDENT] = 0
        scaled = _search_weights(slope, relative, target)
        new_relative = relative + slope @ scaled
        if new_relative.min() < -OUT_OF_ORDER:
            continue

        weight = np.zeros(cells.points.shape[1])
        weight[free] = unit[free] * scaled
        points = place_centers(cells, center, weight)
        if _measure_offset(cells, volume, points - centroid) <= max_offset:
            return points
    return None


def place_centers(cells: Cells, center: Array, weight: Array | None = None) -> Array:
    """The cell points (dim, n_cells), of which those of simplices are replaced by power centres for
    the points' weights (n_points,), or by circumcentres without weights.
    """
    center = center.copy()
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            center[:, cell] = compute_power_centers(cells.points, corners, weight)
    return center


def _measure_offset(cells, volume, step):
    """How far the points of the cells around a corner lie together beside their cells: the mean of
    barycentric coordinates.

    step (dim, n_cells) : from the centroids of the cells to their points
    """
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))
    n_points = cells.points.shape[1]
    volume_around = np.bincount(cells.corners, volume[owner], n_points)
    around = np.maximum(volume_around, 1e-300)
    total = []
    for s in step:
        moment = volume * s
        total.append(np.bincount(cells.corners, moment[owner], n_points))
    mean = np.stack(total) / around

    offset = np.zeros(cells.n_cells)
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            gradient = _compute_hat_gradients(cells.points, corners)
            shift = np.einsum("dcn,dcn->cn", gradient, mean[:, corners])
            offset[cell] = np.abs(shift).max(axis=0)
    return (offset * volume).sum() / volume.sum()


def _find_free_points(cells, faces, bad):
    """Points near bad faces that belong to simplices only: centres beside other cells must stay
    above the same point of their face.
    """
    owner = np.repeat(np.arange(cells.n_cells), np.diff(cells.start))
    is_near = np.zeros(cells.n_cells, bool)
    is_near[faces.left[bad]] = True
    bad_inner = bad & (faces.right >= 0)
    is_near[faces.right[bad_inner]] = True

    is_free = np.zeros(cells.points.shape[1], bool)
    for _ in range(WEIGHTED_RINGS):
        near_points = cells.corners[is_near[owner]]
        is_free[near_points] = True
        is_near = np.logical_or.reduceat(is_free[cells.corners], cells.start[:-1])

    is_simplex = (cells.kind == TRIANGLE) | (cells.kind == TETRA)
    points_of_others = cells.corners[~is_simplex[owner]]
    is_free[points_of_others] = False
    return np.flatnonzero(is_free)


def _compute_slope(cells, volume, faces):
    """d d_sigma / d w_i, sparse (n_faces, n_points), and a unit (n_points,) for each weight: the
    local h^2.
    """
    n_faces = len(faces.area)
    n_points = cells.points.shape[1]
    slope = sparse.csr_matrix((n_faces, n_points))
    square = np.zeros(n_points)
    count = np.zeros(n_points)
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if not len(cell):
            continue
        gradient = _compute_hat_gradients(cells.points, corners)

        number = np.full(cells.n_cells, -1)
        number[cell] = np.arange(len(cell))
        right = faces.right[: faces.n_inner]
        for side, sign in ((faces.left, 0.5), (right, -0.5)):
            face = np.flatnonzero(number[side] >= 0)
            simplex = number[side[face]]
            normal = faces.normal[:, face]
            entry = sign * np.einsum("dcf,df->cf", gradient[:, :, simplex], normal)
            row = np.broadcast_to(face, entry.shape)
            place = (row.ravel(), corners[:, simplex].ravel())
            slope += sparse.coo_matrix((entry.ravel(), place), slope.shape).tocsr()

        cell_square = volume[cell] ** (2 / cells.dim)
        for corner in corners:
            square += np.bincount(corner, cell_square, n_points)
            count += np.bincount(corner, minlength=n_points)
    return slope, square / np.maximum(count, 1)


def _compute_hat_gradients(points, corners):
    """Gradients (dim, dim + 1, n) of the barycentric coordinates of simplices."""
    origin = columns(points, corners[0])
    edge = [columns(points, corner) - origin for corner in corners[1:]]
    if len(edge) == 2:
        (ax, ay), (bx, by) = edge
        twice_area = ax * by - ay * bx
        rows = np.stack([np.stack([by, -ay]), np.stack([-bx, ax])])
        gradient = rows / twice_area
    else:
        a, b, c = edge
        bc = np.cross(b, c, axis=0)
        ca = np.cross(c, a, axis=0)
        ab = np.cross(a, b, axis=0)
        cross = np.stack([bc, ca, ab], axis=1)
        determinant = np.einsum("dn,dn->n", a, cross[:, 0])
        gradient = cross / determinant
    first = -gradient.sum(axis=1, keepdims=True)
    return np.concatenate([first, gradient], axis=1)


def _search_weights(slope, distance, target):
    """Weights that minimise sum max(0, target - distance - slope w)^2 / |slope|, row by row:
    Newton's method, within bounds.

    Each step solves the least-squares problem of the rows below their targets, by some iterations
    of LSQR.
    """
    row_norm = norm(slope, axis=1)
    length = np.sqrt(np.maximum(row_norm, 1e-300))
    slope = (sparse.diags(1 / length) @ slope).tocsr()
    lack = (target - distance) / length
    w = np.zeros(slope.shape[1])
    for _ in range(MAX_SEARCH_STEPS):
        active = np.flatnonzero(lack > 0)
        energy = (lack[active] ** 2).sum()
        if not len(active):
            break
        result = lsqr(
            slope[active],
            lack[active],
            atol=LSQR_TOLERANCE,
            btol=LSQR_TOLERANCE,
            iter_lim=MAX_LSQR_STEPS,
        )
        step = result[0]

        change = slope @ step
        for part in 0.5 ** np.arange(8):
            new_lack = lack - part * change
            positive = np.maximum(new_lack, 0)
            new_energy = (positive**2).sum()
            if new_energy < (1 - MIN_PROGRESS * part) * energy:
                break
        else:
            break
        w += part * step
        lack = new_lack
    return w


def compute_power_centers(points: Array, corners: IntArray, weight: Array | None = None) -> Array:
    """Points (dim, n) of equal power |x - p_i|^2 - w_i to the corners (dim + 1, n) of triangles or
    tetrahedra.

    2 (p_i - p_0).x = |p_i|^2 - w_i - |p_0|^2 + w_0; without the points' weights (n_points,) these
    are circumcentres.
    """
    origin = columns(points, corners[0])
    edges = [columns(points, corner) - origin for corner in corners[1:]]
    squares = [np.einsum("in,in->n", edge, edge) for edge in edges]
    if weight is not None:
        first = weight[corners[0]]
        others = weight[corners[1:]]
        squares = [square - other + first for square, other in zip(squares, others)]
    if len(points) == 2:
        (ax, ay), (bx, by) = edges
        aa, bb = squares
        twice = 2 * (ax * by - ay * bx)
        x = by * aa - ay * bb
        y = ax * bb - bx * aa
        return origin + np.stack([x, y]) / twice

    a, b, c = edges
    aa, bb, cc = squares
    bc = np.cross(b, c, axis=0)
    ca = np.cross(c, a, axis=0)
    ab = np.cross(a, b, axis=0)
    twice = 2 * np.einsum("in,in->n", a, bc)
    return origin + (aa * bc + bb * ca + cc * ab) / twice
