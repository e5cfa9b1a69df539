"""Is a mesh admissible? The two-point flux (rho_L - rho_K) / d_sigma is consistent where the line
x_K x_L is normal to the face, and stable where the signed distance d_sigma = (x_L - x_K).n is
positive (Eymard, Gallouet, Herbin 2000).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.types import Array
from ..errors import MeshError, warn
from .cells import columns
from .share import Share

if TYPE_CHECKING:
    from .faces import Faces

# Smallest two-point distance, relative to h^3 / L^2, h the size of the smaller cell, L of the mesh,
# and the least and the most that it may be relative to h; see `make_admissible`.
MIN_DISTANCE = 0.25
MIN_DISTANCE_RANGE = (1e-6, 1e-3)

# Distances, relative to h, up to which two points are in one place.
COINCIDENT = 1e-6

# A negative distance larger than this, relative to h, is not admissible.
OUT_OF_ORDER = 1e-3

# Steps of a cell point, relative to its cell, up to which it has not moved.
MOVE_ROUNDING = 1e-9

# Thresholds up to which two-point fluxes are consistent: errors of W2^2 then stay below MAX_ERROR,
# as measured on 15 families of meshes. Errors up to that are not worth a warning.
# MAX_SINE: of the angle between x_L - x_K and the normal, the largest of all faces.
# MAX_TANGENT: tangent of that angle, the root of its mean square.
MAX_SINE = 0.1
MAX_TANGENT = 0.02
MAX_ERROR = 3e-3

# Mean first moment of patches, relative to the size of their cells, from which on the density of
# transport oscillates and W2^2 suffers: single tetrahedra have .6, eights of them .1 to .3.
MAX_MOMENT = 0.3

TWO_POINT = "two-point fluxes"
CORNERS = "fluxes to corners"

ADVICE_ORTHOGONAL = (
    "take triangles that are Delaunay (as Gmsh makes them), Voronoi polygons or rectangles"
)
ADVICE_REGULAR = (
    "take a mesh of more regular cells (gmsh: Mesh.Algorithm = 6 in the plane, "
    "Mesh.OptimizeNetgen = 1 in space)"
)
ADVICE_IN_ORDER = {
    1: "let neighbours have their points in order",
    2: "flip its edges until it is a Delaunay mesh (gmsh makes these, with Mesh.Algorithm 5 or 6)",
    3: "make it better (gmsh: Mesh.OptimizeNetgen = 1), so that it is a Delaunay mesh, weighted "
    "or not",
}


# Figures of transport and its metric, which meshes in radial coordinates do not have.
TRANSPORT_ROWS = (
    "transport",
    "Otto's metric",
    "moments of patches",
    "two-point metric",
    "two-point energy",
    "two-point W2^2",
)


@dataclass(frozen=True)
class Quality:
    """Numbers that say how good a mesh is; lengths in the mesh's units, cells in the file's
    numbering.
    """

    n_cells: int
    volume: tuple[float, float, float]  # smallest, mean, largest
    # volume^(1/dim), in radial coordinates that of the plane: smallest, mean, largest
    size: tuple[float, float, float]
    # largest sine of the angle between x_L - x_K and the face's normal
    orthogonality_defect: float
    orthogonality_mean: float
    # largest |sum_s |s| d_Ks n n^T / |K| - I| (Frobenius)
    isotropy_defect: float
    isotropy_mean: float
    # smallest d_sigma over the size of the smaller one of its cells
    smallest_distance: float
    worst_cell: int  # beside the face of the smallest distance
    n_negative: int  # faces with d_sigma < -OUT_OF_ORDER sizes
    n_clipped: int  # one-sided distances that were negative and are set to 0
    n_moved: int = 0  # cells whose point is a power centre, as circumcentres were not admissible
    # root of the mean square tangent of the angles between x_L - x_K and the normals
    tangent_rms: float = 0.0
    # largest error of the metric of two-point fluxes, the mean over small groups of cells
    metric_error: float = 0.0
    # of two-point fluxes in the patch test of transport; 0 where theory says so (`patch_test`)
    energy_error: float = 0.0
    # relative error of W2^2 to expect of two-point fluxes, beyond that of the resolution
    transport_error: float = 0.0
    # whether transport with two-point fluxes corrects the weights of faces
    corrects_weights: bool = False
    # mean first moment of the patches of transport, relative to the size of their cells, with the
    # scheme that serves (`patch_moments`)
    patch_moment: float = 0.0
    has_given_patches: bool = False  # whether the user chose the patches
    # cells that are not star-shaped about their centroids; counted where two-point fluxes do not
    # serve transport
    n_hidden: int = 0
    n_coincident: int = 0  # faces with both cell points, or point and wall, in one place
    n_merged: int = 0  # points that lay where others do
    n_hanging: int = 0  # points on edges of larger cells, which are polygons with these as corners
    is_radial: bool = False  # whether it has radial coordinates, and no transport
    # why two-point fluxes refuse a mesh whose cell points are out of order; empty with strict=False
    disorder: str = ""

    @property
    def is_orthogonal(self) -> bool:
        """Whether two-point fluxes are consistent, as far as angles tell."""
        return is_consistent(self.orthogonality_defect, self.tangent_rms)

    @property
    def suits_two_point(self) -> bool:
        """Whether two-point fluxes are consistent and well conditioned: orthogonal faces, and cell
        points apart and in order.
        """
        return self.is_orthogonal and self.n_coincident == self.n_negative == 0

    @property
    def suits_two_point_transport(self) -> bool:
        """Whether two-point fluxes suit the mesh, and W2^2 is then as good as the resolution."""
        return self.suits_two_point and not self.transport_problem

    @property
    def transport_scheme(self) -> str:
        """The scheme that optimal transport takes: "two-point fluxes" or "fluxes to corners"."""
        return self._name_scheme(self.suits_two_point_transport)

    @property
    def diffusion_scheme(self) -> str:
        """The scheme that diffusion, the same in all directions, and Otto's metric take."""
        return self._name_scheme(self.suits_two_point)

    def _name_scheme(self, suits_two_point):
        return TWO_POINT if suits_two_point or self.n_hidden else CORNERS

    @property
    def transport_problem(self) -> str:
        """A sentence for users of optimal transport with two-point fluxes; empty where the error of
        W2^2 is that of the resolution.
        """
        if self.transport_error <= MAX_ERROR:
            return ""
        return (
            f"W2^2 may be off by up to {_format_percent(self.transport_error)} on this mesh, "
            "beyond the error of its resolution and whatever tol says, and the density may "
            f"oscillate from cell to cell: {self._explain()}"
        )

    @property
    def moment_problem(self) -> str:
        """A sentence for users of optimal transport on patches of their own; empty where these are
        symmetric enough for the scheme that serves.
        """
        if self.patch_moment <= MAX_MOMENT or not self.has_given_patches:
            return ""
        return (
            "W2^2 may be off by some percent, on finer meshes, too, and the density may oscillate "
            "from patch to patch: these patches of cells are too lopsided (the mean of their first "
            f"moments is {self.patch_moment:.2g} cell sizes, more than {MAX_MOMENT:g}); make the "
            "mesh with larger patches=, or with 'auto'"
        )

    @property
    def diffusion_problem(self) -> str:
        """A sentence for users of diffusion with two-point fluxes; empty where these are
        consistent.
        """
        return self._describe_metric_problem("diffusion", "two-point diffusion does not converge")

    @property
    def metric_problem(self) -> str:
        """A sentence for users of Otto's metric with two-point fluxes; empty where its sums are
        consistent.
        """
        return self._describe_metric_problem(
            "Otto's metric", "its sums over the faces do not converge"
        )

    def _describe_metric_problem(self, what, why):
        if self.is_orthogonal or self.metric_error <= MAX_ERROR:
            return ""
        return (
            f"{what} may be off by up to {_format_percent(self.metric_error)} in parts of this "
            f"mesh, and of finer ones of its kind: {why} where {self._explain()}"
        )

    def _explain(self):
        if self.is_orthogonal:
            return (
                "patches of cells are not isotropic, and weights that would make them so fail the "
                f"patch test by {self.energy_error:+.1e}; {ADVICE_REGULAR}"
            )
        angle = math.degrees(math.asin(min(self.orthogonality_defect, 1)))
        return (
            f"faces are not orthogonal to the lines between cell points (here up to {angle:.0f} "
            f"degrees off, rms tangent {self.tangent_rms:.2g}, patch-test energy "
            f"{self.energy_error:+.1e}); {ADVICE_ORTHOGONAL}"
        )

    def __call__(self):
        """The same; for `mesh.quality()`, as it was written when it was a method."""
        warn("mesh.quality is an attribute now: write mesh.quality", DeprecationWarning)
        return self

    def __str__(self):
        weights = "corrected" if self.corrects_weights else "as they are"
        replaced = " in place of circumcentres" if self.n_moved else ""

        rows = {
            "cells": f"{self.n_cells}",
            "volume": _format_range(self.volume),
            "size": _format_range(self.size),
            "orthogonality defect": f"{self.orthogonality_defect:.1e} (mean "
            f"{self.orthogonality_mean:.1e}, rms tangent {self.tangent_rms:.1e})",
            "isotropy defect": f"{self.isotropy_defect:.1e} (mean {self.isotropy_mean:.1e})",
            "smallest distance": f"{self.smallest_distance:.3g} of the cell size, at cell "
            f"{self.worst_cell}",
            "faces not admissible": f"{self.n_negative}",
            "points in one place": f"at {self.n_coincident} faces",
            "one-sided distances": f"{self.n_clipped} clipped",
            "power centres": f"{self.n_moved} cells{replaced}",
            "not star-shaped": f"{self.n_hidden} cells",
            "transport": self.transport_scheme,
            "diffusion": f"{self.diffusion_scheme}, where it is the same in all directions",
            "Otto's metric": self.diffusion_scheme,
            "moments of patches": f"{self.patch_moment:.2g} of the cell size, with "
            f"{self.transport_scheme}",
            "two-point metric": f"off by up to {_format_percent(self.metric_error)} in groups of "
            "cells",
            "two-point energy": f"{self.energy_error:+.1e} in the patch test, weights {weights}",
            "two-point W2^2": f"error of {_format_percent(self.transport_error)} to expect, beyond "
            "that of the resolution",
            "points merged": f"{self.n_merged}",
            "hanging points": f"{self.n_hanging}",
        }
        if self.is_radial:
            rows = {name: row for name, row in rows.items() if name not in TRANSPORT_ROWS}
        return "\n".join(f"{name:22} {value}" for name, value in rows.items())


def is_consistent(sine: float, tangent: float) -> bool:
    """Whether two-point fluxes are consistent, by the largest sine and the rms tangent of angles to
    the normals.
    """
    return sine <= MAX_SINE and tangent <= MAX_TANGENT


def use_two_point(mesh: Any, what: str, problem: str) -> None:
    """Look at the mesh of what has two-point fluxes: `MeshError` where cell points are out of
    order, unless the mesh was made with strict=False; a warning of another problem, "" for none.
    """
    if mesh.quality.disorder:
        raise MeshError(f"{what} needs two-point fluxes, but {mesh.quality.disorder}")
    if problem and mesh.ranks.is_root:
        warn(problem)


def _format_percent(part):
    return f"{100 * part:.2g} %" if part < 1 else "100 % and more"


def _format_range(numbers):
    smallest, mean, largest = numbers
    return f"{smallest:.3g} to {largest:.3g}, mean {mean:.3g}"


def compute_distances(faces: Faces, center: Array) -> tuple[Array, Array]:
    """Signed distances from the cell points to the faces along the normal: (left, right); right is
    0 on the boundary.
    """
    n = faces.n_inner
    left_step = faces.center - columns(center, faces.left)
    left = np.einsum("if,if->f", left_step, faces.normal)
    right_step = columns(center, faces.right[:n]) - faces.center[:, :n]
    right = np.zeros_like(left)
    right[:n] = np.einsum("if,if->f", right_step, faces.normal[:, :n])
    return left, right


def compute_face_sizes(volume: Array, faces: Faces) -> Array:
    """The size volume^(1/dim) of the smaller one of the cells of each face: (n_faces,)."""
    size = volume ** (1 / len(faces.normal))
    other = np.where(faces.right < 0, faces.left, faces.right)
    return np.minimum(size[faces.left], size[other])


def assess(
    volume: Array, center: Array, faces: Faces, share: Share | None = None
) -> tuple[Quality, Array, Array]:
    """The `Quality` of a mesh and its one-sided distances, clipped to [0, d_sigma]: (quality, left,
    right).

    share : which of the cells and faces count here; None for a whole mesh
    """
    dim = len(center)
    n = faces.n_inner
    left, right = compute_distances(faces, center)
    distance = left + right
    size = volume ** (1 / dim)
    relative = distance / compute_face_sizes(volume, faces)
    sine = compute_sines(center, faces)
    anisotropy = compute_anisotropy(volume, faces, left, right)
    # A right angle has its circumcentre on the face, up to round-off.
    rounding = COINCIDENT * size[faces.left[:n]]
    left_is_clipped = left[:n] < -rounding
    right_is_clipped = right[:n] < -rounding
    n_clipped = left_is_clipped.astype(np.int8) + right_is_clipped
    is_negative = _find_disorder(relative, sine)
    is_coincident = relative <= COINCIDENT

    share = share or Share.of_whole(len(volume))
    worst_cell, smallest_distance = share.find_smallest(faces, relative)
    _, mean_anisotropy, largest_anisotropy = share.find_range(anisotropy)
    quality = Quality(
        n_cells=share.n_cells_global,
        volume=share.find_range(volume),
        size=share.find_range(size),
        orthogonality_defect=float(share.max(sine.max(initial=0))),
        orthogonality_mean=share.mean_over_inner(faces, sine),
        isotropy_defect=largest_anisotropy,
        isotropy_mean=mean_anisotropy,
        smallest_distance=smallest_distance,
        worst_cell=worst_cell,
        n_negative=share.count(faces, is_negative),
        n_clipped=share.count(faces, n_clipped),
        n_coincident=share.count(faces, is_coincident),
    )
    left = np.clip(left, 0, np.maximum(distance, 0))
    right = np.where(np.arange(len(left)) < n, distance - left, 0.0)
    return quality, left, right


def _find_disorder(relative, sine):
    """Which distances, relative to the sizes of their cells, are negative, or 0 with points that
    lie beside each other.
    """
    is_oblique = np.zeros(len(relative), bool)
    is_oblique[: len(sine)] = sine > OUT_OF_ORDER
    least = np.where(is_oblique, COINCIDENT, -OUT_OF_ORDER)
    return relative < least


def compute_sines(center: Array, faces: Faces) -> Array:
    """Sine of the angle between x_L - x_K and the normal, for every inner face; 0 where both points
    are in one place.
    """
    n = faces.n_inner
    left_center = columns(center, faces.left[:n])
    right_center = columns(center, faces.right[:n])
    step = right_center - left_center
    normal = faces.normal[:, :n]
    along_normal = np.einsum("if,if->f", step, normal)
    tangential = step - along_normal * normal
    face_size = faces.area[:n] ** (1 / max(len(center) - 1, 1))
    one_place = OUT_OF_ORDER * face_size
    length = np.maximum(np.linalg.norm(step, axis=0), one_place)
    return np.linalg.norm(tangential, axis=0) / length


def compute_anisotropy(volume: Array, faces: Faces, left: Array, right: Array) -> Array:
    """|sum_s |s| d_Ks n n^T / |K| - I| in the Frobenius norm, for every cell: 0 where the discrete
    gradient is isotropic.
    """
    n = faces.n_inner
    n_cells = len(volume)
    dim = len(faces.normal)
    square = np.zeros(n_cells)
    for i in range(dim):
        for j in range(i, dim):
            weight = faces.area * faces.normal[i] * faces.normal[j]
            from_left = np.bincount(faces.left, weight * left, n_cells)
            right_weight = (weight * right)[:n]
            from_right = np.bincount(faces.right[:n], right_weight, n_cells)
            total = from_left + from_right
            defect = total / volume - (i == j)
            multiplicity = 1 if i == j else 2
            square += multiplicity * defect**2
    return np.sqrt(square)


def make_admissible(
    volume: Array,
    centroid: Array,
    center: Array,
    faces: Faces,
    strict: bool,
    move: Callable[[Array], Array | None] | None = None,
) -> tuple[Quality, Array, Array, Array]:
    """(quality, center, left, right) of a mesh that solvers may use.

    Where cell points are out of order, d_sigma < 0, move(distance) may give other points for which
    x_K x_L is normal to all faces, too.
    Cells beside faces that then still are out of order get their centroids as points: two-point
    fluxes are inconsistent there. What needs them refuses such a mesh (`use_two_point`) unless it
    was made with strict=False, which warns. Points that the user gave are refused at once.

    Where d_sigma = 0 both points are in one place x, like the circumcentres of the halves of a
    rectangle. Both values are u(x), and a two-point flux over a small distance eps h makes them
    equal: du/dn needs this distance, and so diffusion is too small by a part of about eps. With
    eps = MIN_DISTANCE (h/L)^2 this error is of second order and below that of the flux, and
    equations are about as ill-conditioned as all of diffusion is. Negative distances down to
    -OUT_OF_ORDER h, which points in single precision have in place of 0, count as 0, too.
    """
    quality, left, right = assess(volume, center, faces)
    if move is None and quality.n_coincident:
        # The user gave the points: no place may be the point of two cells.
        quality = replace(quality, n_negative=quality.n_coincident)
    if quality.n_negative and move is not None:
        quality, center, left, right = _move_centers(
            volume, center, faces, move, quality, left, right
        )
    if quality.n_negative:
        quality, center, left, right = _take_centroids(
            volume, centroid, center, faces, quality, strict, move is not None
        )

    left, right = _lengthen(left, right, volume, faces, volume.sum())
    return quality, center, left, right


def make_share_admissible(
    volume: Array,
    centroid: Array,
    center: Array,
    faces: Faces,
    strict: bool,
    share: Share,
    fill: Any,
) -> tuple[Quality, Array, Array, Array]:
    """The same as `make_admissible` for this rank's share of a mesh, without a search for other
    cell points. Collective.

    fill : fill(center) makes the points of ghosts those of their owners
    """
    quality, left, right = assess(volume, center, faces, share)
    if quality.n_negative:
        problem = _describe_disorder(quality, share.sum(int(share.owns(faces).sum())))
        remedy = _advise(center)
        if not strict and share.speaks:
            _warn_of_clipping(problem)
        own = _replace_by_centroids(volume, centroid, center, faces)
        center = fill(own)
        clipped, left, right = assess(volume, center, faces, share)
        quality = replace(
            clipped,
            n_negative=quality.n_negative,
            disorder=f"{problem}; {remedy}" if strict else "",
        )
    left, right = _lengthen(left, right, volume, faces, share.total(volume))
    return quality, center, left, right


def _lengthen(left, right, volume, faces, volume_of_mesh):
    """One-sided distances that are long enough: those of inner faces that were too short are equal
    halves.
    """
    size = compute_face_sizes(volume, faces)
    square_of_mesh = volume_of_mesh ** (2 / len(faces.normal))
    relative = MIN_DISTANCE * size**2 / square_of_mesh
    relative = np.clip(relative, *MIN_DISTANCE_RANGE)
    least = size * relative
    is_short = left + right < least
    distance = np.where(is_short, least, left + right)
    half = distance / 2
    half[faces.n_inner :] = distance[faces.n_inner :]
    left = np.where(is_short, half, left)
    right = np.where(is_short, distance - half, right)
    return left, right


def _take_centroids(volume, centroid, center, faces, quality, strict, was_moved):
    """(quality, center, left, right) with centroids as points beside faces that are not admissible;
    a warning if not *strict*.
    """
    problem = _describe_disorder(quality, len(faces.area))
    also = ", for power centres near their cells, too" if was_moved else ""
    remedy = _advise(center)
    if strict and not was_moved:
        raise MeshError(f"{problem}; {remedy}")
    if not strict:
        _warn_of_clipping(problem)
    center = _replace_by_centroids(volume, centroid, center, faces)
    clipped, left, right = assess(volume, center, faces)
    disorder = f"{problem}{also}; {remedy}" if strict else ""
    clipped = replace(
        clipped, n_negative=quality.n_negative, n_moved=quality.n_moved, disorder=disorder
    )
    return clipped, center, left, right


def _describe_disorder(quality, n_faces):
    return (
        f"the mesh is not admissible: cell {quality.worst_cell} has a face of signed distance "
        f"{quality.smallest_distance:.2g} cell sizes, and {quality.n_negative} of "
        f"{n_faces} faces have cell points out of order"
    )


def _advise(center):
    return f"{ADVICE_IN_ORDER[len(center)]}, or strict=False to go on with less accurate results"


def _warn_of_clipping(problem):
    warn(
        f"{problem}; they are clipped: scheme='two_point', and solvers without other fluxes, "
        "are inconsistent there"
    )


def _replace_by_centroids(volume, centroid, center, faces):
    """The cell points, of which those beside faces that are not admissible are centroids."""
    distance = sum(compute_distances(faces, center))
    relative = distance / compute_face_sizes(volume, faces)
    sine = compute_sines(center, faces)
    bad = _find_disorder(relative, sine)
    left_cells = faces.left[bad]
    right_cells = faces.right[bad & (faces.right >= 0)]
    touched = np.unique(np.concatenate([left_cells, right_cells]))
    center = center.copy()
    center[:, touched] = centroid[:, touched]
    return center


def _move_centers(volume, center, faces, move, quality, left, right):
    """(quality, center, left, right) with the points that *move* gives, where fewer faces are then
    not admissible.
    """
    distance = sum(compute_distances(faces, center))
    points = move(distance)
    if points is None:
        return quality, center, left, right
    moved, *sides = assess(volume, points, faces)
    if moved.n_negative >= quality.n_negative:
        return quality, center, left, right
    step = np.linalg.norm(points - center, axis=0)
    size = volume ** (1 / len(center))
    has_moved = step > MOVE_ROUNDING * size
    n_moved = int(has_moved.sum())
    return replace(moved, n_moved=n_moved), points, *sides
