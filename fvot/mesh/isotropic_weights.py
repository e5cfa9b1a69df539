"""Weights of faces that make patches isotropic: sum_s omega n n^T = m_P I, the boundary faces
included.

A patch P (a union of cells, of volume m_P) and a face s of its cells make a *copy* of the face,
with the weight omega_{P,s} = sum of |s| d_Ks over the sides of s inside P.

Where a patch is not isotropic, as on Voronoi cells, the discrete W2 converges to something smaller
than W2: the optimal path exploits the directions in which it is cheap to move (Gladbach, Kopfer,
Maas 2020). On meshes that are not orthogonal, or where the correction is large, the cure is worse
than the illness: `patch_test` tells.
"""

from typing import NamedTuple

import numpy as np

FLOOR, CEILING = 0.05, 4.0  # smallest and largest part of its weight that a copy gets
ISOTROPIC = 1e-12  # relative defect that needs no correction


class Copies(NamedTuple):
    """The copies of the inner faces, ordered by patch and face."""

    patch: np.ndarray  # (n_copies,)
    face: np.ndarray  # (n_copies,)
    weight: np.ndarray  # (n_copies,) omega_{P,s}
    of_side: np.ndarray  # (n_sides,) the copy to which each side of a face belongs


def copies(patch, face, weight, n_faces):
    """The `Copies` of sides of faces: the patch, the face and |s| d_Ks (n_sides,) of each; n_faces
    inner faces.
    """
    key, of_side = np.unique(patch * max(n_faces, 1) + face, return_inverse=True)
    of_side = of_side.ravel()
    copy_patch, copy_face = np.divmod(key, max(n_faces, 1))
    return Copies(copy_patch, copy_face, np.bincount(of_side, weight, len(key)), of_side)


def target(volume, patch, weight, normal):
    """m_P I - sum of |s| d_Ks n n^T over the boundary faces of P: (n_patches, dim, dim).

    volume (n_patches,); patch (n,), weight |s| d_Ks (n,), normal (dim, n) : of the boundary faces
    """
    dim = len(normal)
    inner = np.empty((len(volume), dim, dim))
    for i in range(dim):
        for j in range(dim):
            outer = np.bincount(patch, weight * normal[i] * normal[j], len(volume))
            inner[:, i, j] = (i == j) * volume - outer
    return inner


def isotropic_weights(weight, normal, patch, target):
    """Weights near *weight* (n,) with sum_s weight n n^T = target (n_patches, dim, dim) in every
    patch.

    normal (dim, n), patch (n,) : of each copy. weight_s (1 + n^T Y n) with one symmetric Y for each
    patch. A copy that would fall below FLOOR of its weight, or rise above CEILING of it, is fixed
    there, and Y found anew for the others; where they cannot make up for it, the patch goes as far
    towards its first Y as the bounds allow, and stays anisotropic.
    """
    target = symmetric(target)
    defect = np.linalg.norm(missing(target, weight, normal, patch), axis=1)
    scale = np.linalg.norm(target, axis=1) + np.bincount(patch, weight, len(target))
    todo = np.flatnonzero(defect > ISOTROPIC * scale)
    if not len(todo):
        return weight
    number = np.full(len(target), -1)
    number[todo] = np.arange(len(todo))
    copies = np.flatnonzero(number[patch] >= 0)
    corrected = weight.copy()
    corrected[copies] = _corrected(
        weight[copies], normal[:, copies], number[patch[copies]], target[todo], scale[todo]
    )
    return corrected


def _corrected(weight, normal, patch, target, scale):
    factor = np.ones(len(weight))
    fixed = np.zeros(len(weight), bool)
    first = None
    while True:
        bent = _bend(factor, fixed, weight, normal, patch, target)
        first = bent if first is None else first
        out = ~fixed & ((bent < FLOOR) | (bent > CEILING))
        if not out.any():
            break
        fixed |= out
        factor = np.where(fixed, np.clip(bent, FLOOR, CEILING), 1.0)
    damped = 1 + np.minimum(_room(first, patch, len(target)), 1)[patch] * (first - 1)
    left = [
        np.linalg.norm(missing(target, weight * factor, normal, patch), axis=1)
        for factor in (bent, damped)
    ]
    return weight * np.where(
        (left[0] <= np.maximum(left[1], ISOTROPIC * scale))[patch], bent, damped
    )


def _bend(factor, fixed, weight, normal, patch, target):
    """The factors, with those that are not fixed times 1 + n^T Y n."""
    q = _squares(normal)
    free = np.where(fixed, 0.0, weight)
    matrix = np.empty((len(target), len(q), len(q)))
    for i in range(len(q)):
        for j in range(len(q)):
            matrix[:, i, j] = np.bincount(patch, free * q[i] * q[j], len(target))
    Y = np.einsum(
        "pij,pj->pi",
        np.linalg.pinv(matrix, 1e-10, True),
        missing(target, weight * factor, normal, patch),
    )
    return np.where(fixed, factor, 1 + np.einsum("ic,ci->c", q, Y[patch]))


def _room(factor, patch, n_patches):
    """How far each patch may go from 1 to its factors."""
    room = np.full(n_patches, np.inf)
    bound = np.where(factor < 1, FLOOR, CEILING)
    np.minimum.at(room, patch, (bound - 1) / np.where(factor == 1, 1e-300, factor - 1))
    return room


def missing(target, weight, normal, patch):
    """target - sum_s weight n n^T, as vectors (n_patches, dim (dim + 1) / 2) with the matrices'
    Frobenius norm.
    """
    return target - np.stack(
        [np.bincount(patch, weight * q, len(target)) for q in _squares(normal)], axis=1
    )


def _squares(normal):
    """n n^T as vectors (dim (dim + 1) / 2, n)."""
    i, j = np.triu_indices(len(normal))
    return normal[i] * normal[j] * np.where(i == j, 1, np.sqrt(2))[:, None]


def symmetric(matrices):
    """Symmetric matrices (n, dim, dim) as vectors (n, dim (dim + 1) / 2) with the same norm."""
    i, j = np.triu_indices(matrices.shape[-1])
    return matrices[:, i, j] * np.where(i == j, 1, np.sqrt(2))
