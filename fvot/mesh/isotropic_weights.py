"""Weights of faces that make patches isotropic: sum_s omega n n^T = m_P I, the boundary faces
included.

A patch P (a union of cells, of volume m_P) and a face s of its cells make a *copy* of the face,
with the weight omega_{P,s} = sum of |s| d_Ks over the sides of s inside P.

Where a patch is not isotropic, as on Voronoi cells, the discrete W2 converges to something smaller
than W2: the optimal path exploits the directions in which it is cheap to move (Gladbach, Kopfer,
Maas 2020). On meshes that are not orthogonal, or where the correction is large, the correction does
more harm than good: `patch_test` tells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments.types import Array, IntArray

# Smallest and largest part of its plain weight that a copy gets.
MIN_WEIGHT_FACTOR = 0.05
MAX_WEIGHT_FACTOR = 4.0

# Relative defect that needs no correction.
ISOTROPY_ROUNDING = 1e-12


class Copies(NamedTuple):
    """The copies of the inner faces, ordered by patch and face."""

    patch: IntArray  # (n_copies,)
    face: IntArray  # (n_copies,)
    weight: Array  # (n_copies,) omega_{P,s}
    of_side: IntArray  # (n_sides,) the copy to which each side of a face belongs


def copy_faces(patch: IntArray, face: IntArray, weight: Array, n_faces: int) -> Copies:
    """The `Copies` of sides of faces: the patch, the face and |s| d_Ks (n_sides,) of each side.

    n_faces : number of inner faces
    """
    width = max(n_faces, 1)
    side_key = patch * width + face
    key, of_side = np.unique(side_key, return_inverse=True)
    of_side = of_side.ravel()
    copy_patch, copy_face = np.divmod(key, width)
    copy_weight = np.asarray(np.bincount(of_side, weight, len(key)), float)
    return Copies(copy_patch, copy_face, copy_weight, of_side)


def compute_target(volume: Array, patch: IntArray, weight: Array, normal: Array) -> Array:
    """m_P I - sum of |s| d_Ks n n^T over the boundary faces of P: (n_patches, dim, dim).

    volume (n_patches,); patch (n,), weight |s| d_Ks (n,), normal (dim, n) : of the boundary faces
    """
    dim = len(normal)
    target = np.empty((len(volume), dim, dim))
    for i in range(dim):
        for j in range(dim):
            entry = weight * normal[i] * normal[j]
            outer = np.bincount(patch, entry, len(volume))
            target[:, i, j] = (i == j) * volume - outer
    return target


def correct_weights(weight: Array, normal: Array, patch: IntArray, target: Array) -> Array:
    """Weights near *weight* (n,) with sum_s weight n n^T = target (n_patches, dim, dim) in every
    patch.

    normal (dim, n), patch (n,) : of each copy

    The new weight is weight_s (1 + n^T Y n) with one symmetric Y for each patch. A copy that would
    fall below MIN_WEIGHT_FACTOR of its weight, or rise above MAX_WEIGHT_FACTOR of it, is fixed
    there, and Y is computed again for the other copies. Where they cannot make up for it, the patch
    goes as far towards its first Y as the bounds allow, and stays anisotropic.
    """
    target = as_vectors(target)
    plain_defect = compute_defect(target, weight, normal, patch)
    defect = np.linalg.norm(plain_defect, axis=1)
    patch_weight = np.bincount(patch, weight, len(target))
    scale = np.linalg.norm(target, axis=1) + patch_weight
    wrong = np.flatnonzero(defect > ISOTROPY_ROUNDING * scale)
    if not len(wrong):
        return weight

    number = np.full(len(target), -1)
    number[wrong] = np.arange(len(wrong))
    copies = np.flatnonzero(number[patch] >= 0)
    corrected = weight.copy()
    corrected[copies] = _correct_patches(
        weight[copies], normal[:, copies], number[patch[copies]], target[wrong], scale[wrong]
    )
    return corrected


def _correct_patches(weight, normal, patch, target, scale):
    factor = np.ones(len(weight))
    fixed = np.zeros(len(weight), bool)
    first = None
    while True:
        bent = _bend(factor, fixed, weight, normal, patch, target)
        first = bent if first is None else first
        is_outside = (bent < MIN_WEIGHT_FACTOR) | (bent > MAX_WEIGHT_FACTOR)
        out_of_bounds = ~fixed & is_outside
        if not out_of_bounds.any():
            break
        fixed |= out_of_bounds
        bounded = np.clip(bent, MIN_WEIGHT_FACTOR, MAX_WEIGHT_FACTOR)
        factor = np.where(fixed, bounded, 1.0)

    room = _compute_room(first, patch, len(target))
    part = np.minimum(room, 1)
    damped = 1 + part[patch] * (first - 1)

    def measure_defect(factor: Array) -> Array:
        defect = compute_defect(target, weight * factor, normal, patch)
        return np.linalg.norm(defect, axis=1)

    allowed = np.maximum(measure_defect(damped), ISOTROPY_ROUNDING * scale)
    is_better_bent = measure_defect(bent) <= allowed
    return weight * np.where(is_better_bent[patch], bent, damped)


def _bend(factor, fixed, weight, normal, patch, target):
    """The factors, with those that are not fixed times 1 + n^T Y n."""
    q = _compute_squares(normal)
    free = np.where(fixed, 0.0, weight)
    n = len(q)
    matrix = np.empty((len(target), n, n))
    for i in range(n):
        for j in range(n):
            entry = free * q[i] * q[j]
            matrix[:, i, j] = np.bincount(patch, entry, len(target))
    inverse = np.linalg.pinv(matrix, 1e-10, True)
    defect = compute_defect(target, weight * factor, normal, patch)
    Y = np.einsum("pij,pj->pi", inverse, defect)
    bend = np.einsum("ic,ci->c", q, Y[patch])
    return np.where(fixed, factor, 1 + bend)


def _compute_room(factor, patch, n_patches):
    """The part of the way from 1 to its factors that each patch may go."""
    room = np.full(n_patches, np.inf)
    bound = np.where(factor < 1, MIN_WEIGHT_FACTOR, MAX_WEIGHT_FACTOR)
    step = np.where(factor == 1, 1e-300, factor - 1)
    np.minimum.at(room, patch, (bound - 1) / step)
    return room


def compute_defect(target: Array, weight: Array, normal: Array, patch: IntArray) -> Array:
    """target - sum_s weight n n^T, as vectors (n_patches, dim (dim + 1) / 2) with the matrices'
    Frobenius norm.
    """
    squares = _compute_squares(normal)
    total = [np.bincount(patch, weight * q, len(target)) for q in squares]
    return target - np.stack(total, axis=1)


def _compute_squares(normal):
    """n n^T as vectors (dim (dim + 1) / 2, n)."""
    i, j = np.triu_indices(len(normal))
    factor = np.where(i == j, 1, np.sqrt(2))
    return normal[i] * normal[j] * factor[:, None]


def as_vectors(matrices: Array) -> Array:
    """Symmetric matrices (n, dim, dim) as vectors (n, dim (dim + 1) / 2) with the same norm."""
    i, j = np.triu_indices(matrices.shape[-1])
    factor = np.where(i == j, 1, np.sqrt(2))
    return matrices[:, i, j] * factor
