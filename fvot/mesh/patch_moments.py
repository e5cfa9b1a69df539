"""First moments of patches: how far the density of transport oscillates from patch to patch.

For phi = xi.x + x.Bx/2, the part of a patch's Hamiltonian H_P that is linear in B should be
xi.B xbar_P, with xbar_P the mean of the points in P where phi lives. What is left of it is the
moment

    T_P(xi, B) = sum_abc T_abc xi_a B_bc,    T_abc = T_acb

Where neighbours differ by eps h, their means of phi drift apart by eps h per time, and the density
oscillates: W2^2 loses O(eps^2), however fine the mesh is. Patches of several cells, and symmetric
ones, have small moments.

Two-point slopes e = (x_L - x_K) / d_s, in the middle x_s of the two points; a wall counts as a
slope along n, at the foot of x_K on it:

    m_P T_abc = sum over copies s of omega_{P,s} e_a (e_b y_c + e_c y_b) / 2,    y = x_s - xbar_P

Fluxes to corners have slopes on the simplices T of a centroid and a face (see
`benamou_brenier.diamonds`), which share the mobility of the face. With lam_{P,s} the part of their
volume inside P, G_T the linear gradient, and points as seen from xbar_P:

    m_P T_abc = sum over faces s of lam_{P,s} sum over T of |T| (G_T (x_b x_c))_a / 2
"""

from __future__ import annotations

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from .cells import TETRA, TRIANGLE, Cells, columns
from .faces import Faces
from .isotropic_weights import Copies
from .patch_test import TwoPoint
from .share import Share

# A simplex of a cell whose volume, relative to the cell's, is below this is turned inside out.
SMALLEST_SIMPLEX = 1e-12

# Patches whose mean stands for that of all of them.
SAMPLE_SIZE = 2048


def compute_two_point_moment(
    scheme: TwoPoint, patch: IntArray, sides: Copies, weight: Array
) -> float:
    """The mean over the mesh of |T_P| / h_P, with two-point slopes, see `sum_two_point_moments`."""
    chosen = _choose_sample(patch)
    moment = sum_two_point_moments(scheme, patch, sides, weight, chosen)
    return _find_mean(moment, patch, scheme.volume, chosen)


def compute_corner_moment(
    cells: Cells, volume: Array, centroid: Array, faces: Faces, patch: IntArray
) -> float:
    """The mean over the mesh of |T_P| / h_P, with fluxes to corners, see `sum_corner_moments`."""
    chosen = _choose_sample(patch)
    moment = sum_corner_moments(cells, volume, centroid, faces, patch, chosen)
    return _find_mean(moment, patch, volume, chosen)


def _choose_sample(patch):
    """Patches at random, always the same ones: regular steps would meet the rows of squares."""
    n_patches = patch.max() + 1
    if n_patches <= SAMPLE_SIZE:
        return np.arange(n_patches)
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(n_patches, SAMPLE_SIZE, replace=False))


def _find_mean(moment, patch, volume, chosen):
    """The mean of |T_P| / h_P by volume, h_P the mean size of the cells of P.

    moment (n_chosen, dim, dim, dim) : m_P T_P
    """
    count = np.bincount(patch)[chosen]
    patch_volume = np.bincount(patch, volume)[chosen]
    cell_size = (patch_volume / count) ** (1 / moment.shape[-1])
    size = np.sqrt((moment**2).sum(axis=(1, 2, 3)))
    return float((size / cell_size).sum() / patch_volume.sum())


def sum_two_point_moments(
    scheme: TwoPoint, patch: IntArray, sides: Copies, weight: Array, chosen: IntArray
) -> Array:
    """m_P T_P (n_chosen, dim, dim, dim) of the patches *chosen*, with two-point slopes of weights
    (n_copies,).
    """
    n = scheme.faces.n_inner
    faces = scheme.faces
    number = _number(chosen, patch)
    middle = _find_means(number[patch], scheme.volume, scheme.center)

    copy = np.flatnonzero(number[sides.patch] >= 0)
    face = sides.face[copy]
    step = columns(scheme.step, face)
    slope = step / scheme.distance[face]
    place = columns(scheme.center, faces.left[face]) + step / 2

    wall = n + np.flatnonzero(number[patch[faces.left[n:]]] >= 0)
    depth = scheme.left_distance[wall]
    normal = columns(faces.normal, wall)
    wall_place = columns(scheme.center, faces.left[wall]) + depth * normal

    owner = number[np.concatenate([sides.patch[copy], patch[faces.left[wall]]])]
    slope = np.concatenate([slope, normal], axis=1)
    seen = np.concatenate([place, wall_place], axis=1) - columns(middle, owner)
    all_weights = np.concatenate([weight[copy], faces.area[wall] * depth])
    return _sum_slopes(owner, all_weights * slope, slope, seen, len(chosen))


def _sum_slopes(owner, weighted, slope, seen, n_patches):
    dim = len(slope)
    moment = np.empty((n_patches, dim, dim, dim))
    for b in range(dim):
        for c in range(b, dim):
            value = (slope[b] * seen[c] + slope[c] * seen[b]) / 2
            for a in range(dim):
                total = np.bincount(owner, weighted[a] * value, n_patches)
                moment[:, a, b, c] = total
                moment[:, a, c, b] = total
    return moment


def sum_corner_moments(
    cells: Cells,
    volume: Array,
    centroid: Array,
    faces: Faces,
    patch: IntArray,
    chosen: IntArray,
) -> Array:
    """m_P T_P (n_chosen, dim, dim, dim) of the patches *chosen*, with fluxes to corners.

    Simplices that are inside out count with their size.
    """
    owner = _number(chosen, patch)[patch]
    middle = _find_means(owner, volume, centroid)
    is_near = owner[faces.left] >= 0
    n = faces.n_inner
    is_near[:n] |= owner[faces.right[:n]] >= 0
    near = np.flatnonzero(is_near)

    moment = np.zeros((len(chosen), cells.dim, cells.dim, cells.dim))
    _sum_simplices(
        cells.points,
        centroid,
        middle,
        faces.left,
        faces.right,
        faces.vertices,
        near,
        owner,
        moment,
    )
    return moment


def count_hidden(
    cells: Cells, volume: Array, centroid: Array, faces: Faces, share: Share | None = None
) -> int:
    """The number of cells that are not star-shaped about their centroids: fluxes to corners refuse
    them.

    share : which of the cells and faces count here, so that the call is collective; None for a
        whole mesh
    """
    share = share or Share.of_whole(cells.n_cells)
    count = 0
    if not set(np.unique(cells.kind)) <= {TRIANGLE, TETRA}:
        smallest = find_smallest_simplices(cells, centroid, faces)
        is_hidden = smallest < SMALLEST_SIMPLEX * volume
        count = int(is_hidden[: share.n_cells].sum())
    return share.sum(count)


def find_smallest_simplices(cells: Cells, centroid: Array, faces: Faces) -> Array:
    """The smallest signed volume (n_cells,) of the simplices of each cell."""
    smallest = np.full(centroid.shape[1], np.inf)
    _find_smallest(
        cells.points,
        centroid,
        faces.left,
        faces.right,
        faces.vertices,
        faces.normal,
        smallest,
    )
    return smallest


def _number(chosen, patch):
    """The place (n_patches,) of each patch among those chosen, or -1."""
    number = np.full(patch.max() + 1, -1)
    number[chosen] = np.arange(len(chosen))
    return number


def _find_means(owner, volume, points):
    """The means (dim, n_owners) of points (dim, n_cells) of cells by owner; -1 for none."""
    cell = np.flatnonzero(owner >= 0)
    owner = owner[cell]
    weight = volume[cell]
    total = np.bincount(owner, weight)
    means = [np.bincount(owner, weight * x) / total for x in columns(points, cell)]
    return np.stack(means)


# ---- kernels -------------------------------------------------------------------------------------


@numba.njit(cache=True, inline="always")
def _place_corners(dim, vertices, s, points, centroid, cell, corner):
    """Fill in corner (6, dim): a cell's centroid, the points of face s, and last their mean, all as
    seen from the centroid; the number of the face's points.
    """
    n = 0
    corner[:] = 0.0
    while n < len(vertices) and vertices[n, s] >= 0:
        for a in range(dim):
            corner[n + 1, a] = points[a, vertices[n, s]] - centroid[a, cell]
        n += 1
    for i in range(n):
        for a in range(dim):
            corner[5, a] += corner[i + 1, a] / n
    return n


@numba.njit(cache=True, inline="always")
def _find_corner(n, t, i):
    """The place in `_place_corners` of corner i > 0 of simplex t at a face of n points."""
    if n <= 3:
        return i
    if i == 1:
        return 5
    return 1 + (t + i - 2) % 4


@numba.njit(cache=True, inline="always")
def _fill_slopes(dim, n, t, corner, slope):
    """slope (dim, dim) = |T| times the gradients of the barycentric coordinates of all corners of
    simplex t but the first; its signed volume.
    """
    i = _find_corner(n, t, 1)
    j = _find_corner(n, t, 2)
    if dim == 2:
        det = corner[i, 0] * corner[j, 1] - corner[i, 1] * corner[j, 0]
        factor = np.sign(det) / 2
        slope[0, 0] = factor * corner[j, 1]
        slope[0, 1] = -factor * corner[j, 0]
        slope[1, 0] = -factor * corner[i, 1]
        slope[1, 1] = factor * corner[i, 0]
        return det / 2
    k = _find_corner(n, t, 3)
    det = 0.0
    for a in range(3):
        b = (a + 1) % 3
        c = (a + 2) % 3
        slope[0, a] = corner[j, b] * corner[k, c] - corner[j, c] * corner[k, b]
        slope[1, a] = corner[k, b] * corner[i, c] - corner[k, c] * corner[i, b]
        slope[2, a] = corner[i, b] * corner[j, c] - corner[i, c] * corner[j, b]
        det += corner[i, a] * slope[0, a]
    factor = np.sign(det) / 6
    for m in range(3):
        for a in range(3):
            slope[m, a] *= factor
    return det / 6


@numba.njit(cache=True, error_model="numpy")
def _sum_simplices(points, centroid, middle, left, right, vertices, near, owner, moment):
    """moment += the sums of the faces near, see `sum_corner_moments`."""
    dim = len(points)
    corner = np.empty((6, dim))
    slope = np.empty((dim, dim))
    value = np.empty((6, dim, dim))
    of_side = np.empty((dim, dim, dim))
    of_face = np.empty((dim, dim, dim))
    volume = np.empty(2)
    step = np.empty(dim)
    for s in near:
        n_sides = 2 if right[s] >= 0 else 1
        of_face[:] = 0.0
        volume[:] = 0.0
        for side in range(n_sides):
            cell = left[s] if side == 0 else right[s]
            n = _place_corners(dim, vertices, s, points, centroid, cell, corner)
            for i in range(1, n + 1):
                for b in range(dim):
                    for c in range(dim):
                        value[i, b, c] = corner[i, b] * corner[i, c]
            if n == 4:  # the value at their mean is the mean of the values
                for b in range(dim):
                    for c in range(dim):
                        value[5, b, c] = 0.0
                        for i in range(1, 5):
                            value[5, b, c] += value[i, b, c] / 4

            of_side[:] = 0.0
            for t in range(n if n > 3 else 1):
                volume[side] += abs(_fill_slopes(dim, n, t, corner, slope))
                for i in range(dim):
                    place = _find_corner(n, t, i + 1)
                    for a in range(dim):
                        for b in range(dim):
                            for c in range(dim):
                                of_side[a, b, c] += slope[i, a] * value[place, b, c]
            for a in range(dim):
                step[a] = centroid[a, cell] - centroid[a, left[s]]
            _add_seen(dim, 1.0, of_side, volume[side], step, of_face)

        total = volume[0] + volume[1]
        for side in range(n_sides):
            patch = owner[left[s] if side == 0 else right[s]]
            if patch < 0:
                continue
            for a in range(dim):
                step[a] = centroid[a, left[s]] - middle[a, patch]
            _add_seen(dim, volume[side] / (2 * total), of_face, total, step, moment[patch])


@numba.njit(cache=True, inline="always")
def _add_seen(dim, factor, moment, volume, step, total):
    """total += factor times a moment of x_b x_c (dim, dim, dim), with x + step in place of x."""
    for a in range(dim):
        for b in range(dim):
            for c in range(dim):
                total[a, b, c] += factor * moment[a, b, c]
    for a in range(dim):
        for b in range(dim):
            total[a, a, b] += factor * volume * step[b]
            total[a, b, a] += factor * volume * step[b]


@numba.njit(cache=True, error_model="numpy")
def _find_smallest(points, centroid, left, right, vertices, normal, smallest):
    """See `find_smallest_simplices`."""
    dim = len(points)
    corner = np.empty((6, dim))
    piece = np.empty((4, dim))
    signed = np.empty(4)
    zero = np.zeros((dim, 1))
    for s in range(len(left)):
        n = _place_corners(dim, vertices, s, points, zero, 0, corner)
        n_simplices = n if n > 3 else 1
        for t in range(n_simplices):
            _fill_piece(dim, n, t, corner, piece[t])
        for side in range(2 if right[s] >= 0 else 1):
            cell = left[s] if side == 0 else right[s]
            total = 0.0
            height = 0.0
            signed[:] = 0.0
            for a in range(dim):
                step = corner[5, a] - centroid[a, cell]
                height += step * normal[a, s]
                for t in range(n_simplices):
                    signed[t] += step * piece[t, a]
            for t in range(n_simplices):
                total += signed[t]
            if side == 1:
                height = -height
            for t in range(n_simplices):
                size = signed[t] * np.sign(total) if height > 0 else -abs(signed[t])
                smallest[cell] = min(smallest[cell], size)


@numba.njit(cache=True, inline="always")
def _fill_piece(dim, n, t, corner, piece):
    """piece (dim,) = the area vector of the base of simplex t at a face of n points, over dim."""
    i = 1 + t
    j = 1 + (t + 1) % n
    if dim == 2:
        piece[0] = (corner[j, 1] - corner[i, 1]) / 2
        piece[1] = (corner[i, 0] - corner[j, 0]) / 2
        return
    k = 5 if n > 3 else 3
    for a in range(3):
        b = (a + 1) % 3
        c = (a + 2) % 3
        one = (corner[i, b] - corner[k, b]) * (corner[j, c] - corner[k, c])
        two = (corner[i, c] - corner[k, c]) * (corner[j, b] - corner[k, b])
        piece[a] = (one - two) / 6
