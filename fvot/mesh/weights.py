"""Cell points where circumcentres fail: power centres, for weights of the mesh's points that put them in order.

Give every point p_i of the mesh a weight w_i. The power centre x of a simplex has the same power |x - p_i|^2 - w_i to
all its corners (`faces.power_centers`). Two neighbours share the equations of their common face's corners, so that the
line between their power centres is normal to this face, for any weights. What depends on the weights is the order of
the two centres: circumcentres (w = 0) are in order, d_sigma = (x_L - x_K).n > 0, where the mesh is Delaunay, and some
weights put the centres in order where it is a weighted Delaunay (or regular) triangulation, the dual of a power diagram
(Aurenhammer 1987).

With w_h the continuous function, linear on each simplex, that is w_i at p_i, x_K(w) = x_K(0) - grad w_h|_K / 2, and

    d_sigma(w) = d_sigma(0) - (dw_h/dn|_L - dw_h/dn|_K) / 2

is linear in w. `find` minimises

    E(w) = sum_sigma max(0, goal - d_sigma(w) / h_sigma)^2 / |grad_w d_sigma / h_sigma|

by L-BFGS from w = 0. E is convex, and 0 if and only if all distances reach the goal. The gradients are large beside
flat cells, which would rule the sum without the denominator. Faces on the boundary count, too: there d_sigma is the
distance from x_K to the face.

A few bad faces are cured by centres that move a part of a cell. Where the whole mesh is bad, as one of obtuse triangles
that all point the same way, weights may do it by drifting centres, many cells away from their own: diffusion would
then be that of another place. Such weights are not taken.
"""
import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.sparse.linalg import norm

from .faces import TETRA, TRIANGLE, power_centers
from .quality import distances, rounding

GOALS = (0.06, 0.02, 0.005, 0.001)      # of d_sigma / h_sigma, tried one after the other
DRIFT = 0.1             # how much farther, in cell sizes, points may be from their centroids in the mean
FAR = 2.0               # in that mean a point counts as no farther than that: some circumcentres of flat cells are far
SEARCH = dict(maxiter=400, ftol=1e-11, gtol=1e-12)


def find(cells, volume, centroid, faces, center, distance):
    """Cell points (dim, n_cells) with positive distances, power centres of the simplices; None if there are none.

    center (dim, n_cells) : circumcentres of the simplices, and the points of all other cells, which stay
    distance (n_faces,) : d_sigma of these points
    """
    free = _free_points(cells)
    if not len(free):
        return None
    slope, unit = _slope(cells, volume, faces)
    size = _face_size(volume, faces, cells.dim)
    slope = (sparse.diags(1 / size) @ slope @ sparse.diags(unit)).tocsc()[:, free].tocsr()
    for goal in GOALS:
        weight = np.zeros(cells.points.shape[1])
        found = _search(slope, distance / size, goal)
        weight[free] = unit[free] * found
        points = moved(cells, center, weight)
        near = _offset(points, centroid, volume) <= _offset(center, centroid, volume) + DRIFT
        if near and (sum(distances(faces, points)) > rounding(volume, points, faces)).all():
            return points
    return None


def _offset(points, centroid, volume):
    """How far, in cell sizes, points are from their centroids in the mean."""
    return np.minimum(np.linalg.norm(points - centroid, axis=0) / volume**(1 / len(points)), FAR).mean()


def moved(cells, center, weight):
    """The cell points (dim, n_cells), with power centres for the given weights (n_points,) in all simplices."""
    center = center.copy()
    for kind in (TRIANGLE, TETRA):
        cell, corners = cells.of_kind(kind)
        if len(cell):
            center[:, cell] = power_centers(cells.points, corners, weight)
    return center


def _free_points(cells):
    """Points that belong to simplices only, so that centres beside others stay above the same point of their face."""
    simplex = np.repeat((cells.kind == TRIANGLE) | (cells.kind == TETRA), np.diff(cells.start))
    free = np.zeros(cells.points.shape[1], bool)
    free[cells.corners[simplex]] = True
    free[cells.corners[~simplex]] = False
    return np.flatnonzero(free)


def _slope(cells, volume, faces):
    """d d_sigma / d w_i, sparse (n_faces, n_points), and a unit (n_points,) for each weight: the local h^2."""
    n_faces, n_points, inner = len(faces.area), cells.points.shape[1], faces.n_inner
    slope = sparse.csr_matrix((n_faces, n_points))
    square, count = np.zeros(n_points), np.zeros(n_points)
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
            slope += sparse.coo_matrix((entry.ravel(), (row.ravel(), corners[:, at].ravel())), slope.shape).tocsr()
        for corner in corners:
            square += np.bincount(corner, volume[cell]**(2 / cells.dim), n_points)
            count += np.bincount(corner, minlength=n_points)
    return slope, square / np.maximum(count, 1)


def _hat_gradients(points, corners):
    """Gradients (dim, dim + 1, n) of the barycentric coordinates of simplices."""
    p = points[:, corners]                                                  # (dim, dim + 1, n)
    inverse = np.linalg.inv((p[:, 1:] - p[:, :1]).transpose(2, 1, 0))       # (n, dim, dim corners)
    gradient = inverse.transpose(1, 2, 0)
    return np.concatenate([-gradient.sum(axis=1, keepdims=True), gradient], axis=1)


def _face_size(volume, faces, dim):
    size = volume**(1 / dim)
    return (size[faces.left] + size[np.where(faces.right < 0, faces.left, faces.right)]) / 2


def _search(slope, distance, goal):
    """Weights that minimise sum max(0, goal - distance - slope w)^2 / |slope|, row by row."""
    length = np.maximum(norm(slope, axis=1), 1e-300)
    down = slope.T.tocsr()

    def energy(w):
        lack = np.maximum(goal - distance - slope @ w, 0)
        return lack @ (lack / length), -2 * (down @ (lack / length))

    return minimize(energy, np.zeros(slope.shape[1]), jac=True, method="L-BFGS-B", options=SEARCH).x
