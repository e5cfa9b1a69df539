"""Which scheme, which patches and which weights transport takes on a mesh, and the error of W2^2 to
expect of two-point fluxes.

Large patches keep the density from oscillating; small ones resolve it. Corrected weights make
patches isotropic, but may break the conservation of linear potentials (`patch_test`). Measured on
15 families of meshes, with exact W2^2.

Two-point fluxes serve where they are consistent and W2^2 is as good as the resolution; elsewhere
fluxes to corners do, which are consistent on every mesh of star-shaped cells. Their patches may be
smaller: they need only be symmetric enough (`patch_moments`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..errors import InputError
from .builders import check_positive_integer
from .cells import PYRAMID, TETRA, TRIANGLE, WEDGE, Cells
from .patch_moments import compute_corner_moment, compute_two_point_moment, count_hidden
from .patch_test import ROUNDING_SINE, TwoPoint
from .patches import grow, match
from .quality import MAX_ERROR, Quality, compute_anisotropy
from .share import Share

# Expected error of W2^2 from anisotropic patches, in units of their mean square anisotropy. A
# density on single cells gains more from it, because it may change from cell to cell: measured 0.2
# to 2.2, and 0.1 to 0.55 on patches of several cells.
ANISOTROPY_ERROR_SINGLE = 1.0
ANISOTROPY_ERROR_PATCHES = 0.75

# An error of W2^2 that is not worth a patch test.
NEGLIGIBLE_ERROR = 1e-4

# On cells so nearly isotropic, and so similar to their neighbours, the density does not oscillate.
MAX_ANISOTROPY = 0.02
MAX_ASYMMETRY_JUMP = 0.05

# Cells across the domain up to which single irregular cells, and pairs of them, have the smaller
# error: on Voronoi cells single ones win at 256, pairs at 1024 and 4096 cells.
MAX_ACROSS_SINGLE = 25
MAX_ACROSS_PAIRS = 70

# Tetrahedra up to which patches of 8 have the smaller error with two-point fluxes: with 8 and 16 on
# 1300 of them it is 2 % and 7 %, on 3400 1 % and 3 %; on finer meshes it stops falling at 1 % with
# 8.
MAX_TETRAHEDRA_IN_EIGHTS = 20_000

# Cells from which on there may be patches of several: of fewer, they would be most of the mesh, and
# transport does not resolve what moves within one.
FEWEST_IN_PATCHES = 16

# Tetrahedra of a patch with fluxes to corners. On cubes cut in six with 8 and 16, W2^2 is off by
# -10 % and -14 % at 400 of them, -1.3 % at 10 000, -0.75 % and -0.7 % at 25 000, and the density by
# 0.09 and 0.12 at 10 000, by 0.07 and 0.09 at 25 000. (Single ones: W2^2 by -1.0 % at 25 000.)
CORNER_TETRAHEDRA = 8

# Mean moment of pairs of triangles, from which on fours are better with fluxes to corners. It is
# .04 to .08 where points are moved by a quarter of their distance; on Delaunay triangles of random
# points it is .10 to .14, and the certified gap stops at 3e-3 with pairs.
MAX_PAIRS_MOMENT = 0.08

# Triangles from which on there may be fours: of fewer, too few patches would be left to resolve a
# density, and to be dealt to ranks.
FEWEST_IN_FOURS = 64

# Fours must have a moment smaller by this part: on thin right triangles (25 : 1) it is the same.
LEAST_MOMENT_GAIN = 0.1


class PatchChoice(NamedTuple):
    """The patch of each cell, and how transport goes on them."""

    patch: IntArray  # (n_cells,) numbered from 0 on
    # whether the weights of faces are corrected so that patches are isotropic
    corrects_weights: bool
    # eigenvalue of the patch test farthest from 0, of corrected weights where they were tried
    energy_error: float
    # expected relative error of W2^2 with two-point fluxes, beyond that of the resolution
    transport_error: float
    # mean moment of the patches with the scheme that serves, relative to their cells' size
    moment: float = 0.0
    is_given: bool = False  # whether the user chose the patches
    # cells that are not star-shaped, counted where two-point fluxes do not serve
    n_hidden: int = 0


def choose_patches(
    rule: Any,
    cells: Cells,
    centroid: Array,
    two_point: TwoPoint,
    suits_two_point: bool,
) -> PatchChoice:
    """The `PatchChoice` for a rule: "none" (each cell), a number of cells per patch, an array, a
    function of the centroids (dim, n_cells) that returns one, or "auto".

    suits_two_point : whether cell points are such that two-point fluxes may serve
    """
    is_auto = isinstance(rule, str) and rule == "auto"
    user_patch = None
    if not is_auto:
        user_patch = _make_user_patches(rule, centroid, two_point)
    elif cells.n_cells < FEWEST_IN_PATCHES:
        user_patch = np.arange(cells.n_cells)
    if cells.dim == 1:
        patch = np.arange(cells.n_cells) if user_patch is None else user_patch
        return PatchChoice(patch, False, 0.0, 0.0)

    choice = _choose_for_two_point(user_patch, cells, two_point)
    choice = choice._replace(is_given=not is_auto)
    if suits_two_point and choice.transport_error <= MAX_ERROR:
        return _measure_two_point_moment(choice, two_point)

    n_hidden = count_hidden(cells, two_point.volume, centroid, two_point.faces)
    if n_hidden:
        return _measure_two_point_moment(choice._replace(n_hidden=n_hidden), two_point)
    return _choose_for_corners(user_patch, cells, centroid, two_point, choice)


def _choose_for_two_point(user_patch, cells, two_point):
    """The `PatchChoice` for two-point fluxes."""
    if not two_point.is_orthogonal:
        patch = user_patch
        if patch is None:
            patch = _make_robust_patches(cells, two_point, _choose_tetrahedra_size(cells))
        energy_error = _find_largest(two_point.compute_energy_error())
        return _keep_plain_weights(patch, two_point, energy_error)

    patch = _make_fine_patches(cells, two_point) if user_patch is None else user_patch
    plain_error = _estimate_plain_error(patch, two_point)
    if plain_error <= NEGLIGIBLE_ERROR:
        return PatchChoice(patch, False, 0.0, plain_error)

    sides = two_point.copy_faces(patch)
    corrected = two_point.correct_weights(patch, sides)
    weight = np.asarray(np.bincount(sides.face, corrected, two_point.faces.n_inner), float)
    energy_error = _find_largest(two_point.compute_energy_error(weight))
    if abs(energy_error) <= min(MAX_ERROR, plain_error):
        return PatchChoice(patch, True, energy_error, abs(energy_error))

    if user_patch is None:
        patch = _make_robust_patches(cells, two_point, _choose_tetrahedra_size(cells))
    return _keep_plain_weights(patch, two_point, energy_error)


def _choose_for_corners(user_patch, cells, centroid, two_point, choice):
    """The `PatchChoice` for fluxes to corners, where *choice* is that for two-point ones."""

    def measure(patch: IntArray) -> float:
        faces = two_point.faces
        return compute_corner_moment(cells, two_point.volume, centroid, faces, patch)

    if user_patch is not None:
        return choice._replace(moment=measure(user_patch))

    patch = choice.patch  # triangles have pairs there, too
    n_triangles = int((cells.kind == TRIANGLE).sum())
    if n_triangles < cells.n_cells:
        patch = _make_robust_patches(cells, two_point, CORNER_TETRAHEDRA)
    moment = measure(patch)
    if moment > MAX_PAIRS_MOMENT and n_triangles >= FEWEST_IN_FOURS:
        larger = _make_robust_patches(cells, two_point, CORNER_TETRAHEDRA, triangles_size=4)
        larger_moment = measure(larger)
        if larger_moment <= (1 - LEAST_MOMENT_GAIN) * moment:
            patch = larger
            moment = larger_moment
    if not np.array_equal(patch, choice.patch):
        choice = _keep_plain_weights(patch, two_point, choice.energy_error)
    return choice._replace(moment=moment)


def _measure_two_point_moment(choice, two_point):
    patch = choice.patch
    if choice.corrects_weights:
        sides = two_point.copy_faces(patch)
        weight = two_point.correct_weights(patch, sides)
    else:  # which sides of a patch share a copy does not matter
        sides = two_point.list_sides(patch)
        weight = sides.weight
    return choice._replace(moment=compute_two_point_moment(two_point, patch, sides, weight))


def add_patch_test(quality: Quality, two_point: TwoPoint, choice: PatchChoice) -> Quality:
    """The `Quality` of a mesh with the errors of its two-point scheme and of these patches."""
    return replace(
        quality,
        metric_error=0.0 if two_point.is_exact else two_point.metric_error,
        energy_error=choice.energy_error,
        transport_error=choice.transport_error,
        corrects_weights=choice.corrects_weights,
        patch_moment=choice.moment,
        has_given_patches=choice.is_given,
        n_hidden=choice.n_hidden,
    )


def _keep_plain_weights(patch, two_point, energy_error):
    error = _estimate_plain_error(patch, two_point)
    if not two_point.is_exact:
        error = max(error, two_point.metric_error)
    return PatchChoice(patch, False, energy_error, error)


def _estimate_plain_error(patch, two_point, share=None):
    """The error of W2^2 that the anisotropy of patches with plain weights brings."""
    share = share or Share.of_whole(two_point.n_cells)
    n_patches = share.sum(int(patch[: share.n_cells].max()) + 1)
    is_single = n_patches == share.n_cells_global
    factor = ANISOTROPY_ERROR_SINGLE if is_single else ANISOTROPY_ERROR_PATCHES
    return factor * two_point.compute_anisotropy(patch, share) ** 2


def _find_largest(eigenvalues):
    return float(eigenvalues[np.abs(eigenvalues).argmax()])


def add_inherited_test(
    quality: Quality,
    coarse: Quality,
    two_point: TwoPoint,
    patch: IntArray,
    group: IntArray,
    share: Share,
) -> Quality:
    """The `Quality` of a refined mesh with the errors of its two-point scheme. Collective.

    Whether weights are corrected, and how far they then fail the patch test, is taken over from the
    coarse mesh: its cells have nearly the same shapes.

    patch, group (n_local,) : numbers on this rank of the patches, and of small groups of cells for
        the error of the metric; those of ghosts are last
    """
    sine = share.max(two_point.largest_sine)
    is_exact = two_point.dim == 1 or sine <= ROUNDING_SINE
    metric_error = 0.0 if is_exact else two_point.compute_metric_error(group, share)
    error = 0.0
    if two_point.dim > 1 and coarse.corrects_weights:
        error = coarse.transport_error
    elif two_point.dim > 1:
        error = max(_estimate_plain_error(patch, two_point, share), metric_error)
    return replace(
        quality,
        tangent_rms=two_point.compute_tangent_rms(share),
        metric_error=metric_error,
        energy_error=coarse.energy_error,
        transport_error=error,
        corrects_weights=coarse.corrects_weights,
        patch_moment=coarse.patch_moment,
    )


# ---- patches from the user -----------------------------------------------------------------------


def _make_user_patches(rule, centroid, two_point):
    if isinstance(rule, str) and rule == "none":
        return np.arange(two_point.n_cells)
    is_number = np.ndim(rule) == 0 and not isinstance(rule, str) and not callable(rule)
    if is_number:
        size = check_positive_integer(rule, "patches, the number of cells of each,")
        return _make_patches_of_size(size, two_point.graph)
    patch = np.asarray(rule(centroid) if callable(rule) else rule)
    if patch.shape != (two_point.n_cells,) or not np.issubdtype(patch.dtype, np.integer):
        raise InputError(
            f"patches must be 'auto', 'none', a number, {two_point.n_cells} integers or a "
            f"function that returns them, not {rule!r:.60}"
        )
    return np.unique(patch, return_inverse=True)[1].ravel()


def _make_patches_of_size(size, graph):
    if size == 1:
        return np.arange(graph.shape[0])
    return match(graph) if size == 2 else grow(graph, size)


# ---- patches that suit a mesh --------------------------------------------------------------------


def _make_fine_patches(cells, two_point):
    """Patches on an orthogonal mesh: pairs of triangles and wedges, 8 or 16 tetrahedra, single
    cells where they are regular.

    Irregular cells: single ones, pairs or 2^dim of them, the more the finer the mesh is.
    """
    kinds = set(np.unique(cells.kind).tolist())
    if kinds <= {TRIANGLE} or kinds <= {WEDGE}:
        return _make_patches_of_size(2, two_point.graph)
    if kinds <= {TETRA}:
        return _make_patches_of_size(_choose_tetrahedra_size(cells), two_point.graph)
    if _is_regular(two_point):
        return _make_patches_of_size(1, two_point.graph)
    if kinds & {TRIANGLE, TETRA, WEDGE, PYRAMID}:
        return _make_robust_patches(cells, two_point, _choose_tetrahedra_size(cells))

    across = cells.n_cells ** (1 / cells.dim)
    if across <= MAX_ACROSS_SINGLE:
        size = 1
    elif across <= MAX_ACROSS_PAIRS:
        size = 2
    else:
        size = 2**cells.dim
    return _make_patches_of_size(size, two_point.graph)


def _make_robust_patches(cells, two_point, tetrahedra_size, triangles_size=2):
    """Patches where weights are not corrected: pairs of triangles and wedges, 8 or 16 tetrahedra
    and pyramids, others alone.
    """
    patch = np.full(cells.n_cells, -1)
    count = 0
    sizes = (
        (triangles_size, (TRIANGLE,)),
        (2, (WEDGE,)),
        (tetrahedra_size, (TETRA, PYRAMID)),
    )
    for size, kinds in sizes:
        members = np.flatnonzero(np.isin(cells.kind, kinds))
        if len(members):
            among = two_point.graph[members][:, members]
            patch[members] = count + _make_patches_of_size(size, sparse.csr_matrix(among))
            count = patch.max() + 1
    alone = np.flatnonzero(patch < 0)
    patch[alone] = count + np.arange(len(alone))
    return patch


def _choose_tetrahedra_size(cells):
    return 8 if cells.n_cells <= MAX_TETRAHEDRA_IN_EIGHTS else 16


def _is_regular(two_point):
    """Whether all cells are nearly isotropic and their asymmetries change little from one to the
    next.
    """
    anisotropy = compute_anisotropy(
        two_point.volume, two_point.faces, two_point.left_distance, two_point.right_distance
    )
    if anisotropy.max() >= MAX_ANISOTROPY:
        return False
    return _find_asymmetry_jump(two_point.faces, two_point.n_cells) < MAX_ASYMMETRY_JUMP


def _find_asymmetry_jump(faces, n_cells):
    """The largest difference between neighbours of sum_s |s| n_i n_j n_k over the cell's surface, 0
    for parallelograms.
    """
    n = faces.n_inner
    dim = len(faces.normal)
    left = faces.left[:n]
    right = faces.right[:n]
    surface = np.bincount(faces.left, faces.area, n_cells)
    surface = surface + np.bincount(right, faces.area[:n], n_cells)

    square = np.zeros(n)
    for i in range(dim):
        for j in range(dim):
            for k in range(dim):
                weight = faces.area * faces.normal[i] * faces.normal[j] * faces.normal[k]
                total = np.bincount(faces.left, weight, n_cells)
                total = total - np.bincount(right, weight[:n], n_cells)
                asymmetry = total / surface
                square += (asymmetry[left] - asymmetry[right]) ** 2
    return np.sqrt(square.max(initial=0))
