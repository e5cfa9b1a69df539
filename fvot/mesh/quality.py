"""Is a mesh admissible? The two-point flux (rho_L - rho_K) / d_sigma is consistent where the line
x_K x_L is normal to the face, and stable where the signed distance d_sigma = (x_L - x_K).n is
positive (Eymard, Gallouet, Herbin 2000).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MeshError, warn
from .cells import columns

# smallest two-point distance, relative to h^3 / L^2, h the size of the smaller cell, L of the mesh,
CLIPPED = 0.25
CLIPPED_RANGE = (
    1e-6,
    1e-3,
)  # and the least and the most that it may be relative to h; see `admissible`
COINCIDENT = 1e-6  # distances that small, relative to h, belong to points in one place
OUT_OF_ORDER = 1e-3  # a negative distance larger than that, so measured, is not admissible
MOVED = 1e-9  # a point that is moved by less, relative to its cell, has stayed

# Thresholds up to which two-point fluxes are consistent: errors of W2^2 then stay below MAX_ERROR,
# as measured on 15 families of meshes. Errors up to that are not worth a warning.
MAX_SINE = 0.1  # of the angle between x_L - x_K and the normal, the largest of all faces
MAX_TANGENT = 0.02  # tangent of that angle, the root of its mean square
MAX_ERROR = 3e-3

MORE_ORTHOGONAL = (
    "take triangles that are Delaunay (as Gmsh makes them), Voronoi polygons or rectangles"
)
MORE_REGULAR = "take a mesh of more regular cells (gmsh: Mesh.Algorithm = 6 in the plane, Mesh.OptimizeNetgen = 1 in space)"
ADVICE = {
    1: "let neighbours have their points in order",
    2: "flip its edges until it is a Delaunay mesh (gmsh makes these, with Mesh.Algorithm 5 or 6)",
    3: "make it better (gmsh: Mesh.OptimizeNetgen = 1), so that it is a Delaunay mesh, weighted "
    "or not",
}


@dataclass(frozen=True)
class Quality:
    """Numbers that say how good a mesh is; lengths in the mesh's units, cells in the file's
    numbering.
    """

    n_cells: int
    volume: tuple  # smallest, mean, largest
    size: tuple  # volume^(1/dim): smallest, mean, largest
    orthogonality_defect: float  # largest sine of the angle between x_L - x_K and the face's normal
    orthogonality_mean: float
    isotropy_defect: float  # largest |sum_s |s| d_Ks n n^T / |K| - I| (Frobenius)
    isotropy_mean: float
    smallest_distance: float  # smallest d_sigma over the size of the smaller one of its cells
    worst_cell: int  # beside the face of the smallest distance
    n_negative: int  # faces with d_sigma < -OUT_OF_ORDER sizes
    n_clipped: int  # one-sided distances that were negative and are set to 0
    n_moved: int = 0  # cells whose point is a power centre, as circumcentres were not admissible
    tangent_rms: float = (
        0.0  # of the angles between x_L - x_K and the normals: root of the mean square tangent
    )
    metric_error: float = 0.0  # largest error of the metric, the mean over small groups of cells
    energy_error: float = (
        0.0  # of the patch test of transport; 0 where theory says so (`patch_test`)
    )
    transport_error: float = 0.0  # relative error of W2^2 to expect, beyond that of the resolution
    corrects_weights: bool = False  # whether transport corrects the weights of faces
    n_coincident: int = 0  # faces with both cell points, or point and wall, in one place
    n_merged: int = 0  # points that lay where others do
    n_hanging: int = 0  # points on edges of larger cells, which are polygons with these as corners

    @property
    def is_orthogonal(self):
        """Whether two-point fluxes are consistent, as far as angles tell."""
        return is_consistent(self.orthogonality_defect, self.tangent_rms)

    @property
    def transport_problem(self):
        """A sentence for users of optimal transport; empty where the error of W2^2 is that of the
        resolution.
        """
        if self.transport_error <= MAX_ERROR:
            return ""
        return (
            f"W2^2 may be off by up to {_percent(self.transport_error)} on this mesh, beyond the "
            "error of its resolution "
            "and whatever tol says, and the density may oscillate from cell to cell: "
            f"{self._reason()}"
        )

    @property
    def diffusion_problem(self):
        """A sentence for users of diffusion; empty where two-point fluxes are consistent."""
        return self._metric_problem("diffusion", "two-point diffusion does not converge")

    @property
    def metric_problem(self):
        """A sentence for users of Otto's metric; empty where its sums are consistent."""
        return self._metric_problem("Otto's metric", "its sums over the faces do not converge")

    def _metric_problem(self, what, why):
        if self.is_orthogonal or self.metric_error <= MAX_ERROR:
            return ""
        return (
            f"{what} may be off by up to {_percent(self.metric_error)} in parts of this mesh, and "
            "of finer ones "
            f"of its kind: {why} where {self._reason()}"
        )

    def _reason(self):
        if self.is_orthogonal:
            return (
                "patches of cells are not isotropic, and weights that would make them so fail the "
                "patch test by "
                f"{self.energy_error:+.1e}; {MORE_REGULAR}"
            )
        angle = math.degrees(math.asin(min(self.orthogonality_defect, 1)))
        return (
            f"faces are not orthogonal to the lines between cell points (here up to {angle:.0f} "
            "degrees off, rms tangent "
            f"{self.tangent_rms:.2g}, patch-test energy {self.energy_error:+.1e}); "
            f"{MORE_ORTHOGONAL}"
        )

    def __call__(self):
        """The same; for `mesh.quality()`, as it was written when it was a method."""
        warn("mesh.quality is an attribute now: write mesh.quality", DeprecationWarning)
        return self

    def __str__(self):
        weights = "corrected" if self.corrects_weights else "as they are"
        return "\n".join(
            [
                f"cells                  {self.n_cells}",
                f"volume                 {self.volume[0]:.3g} to {self.volume[2]:.3g}, mean "
                f"{self.volume[1]:.3g}",
                f"size                   {self.size[0]:.3g} to {self.size[2]:.3g}, mean "
                f"{self.size[1]:.3g}",
                f"orthogonality defect   {self.orthogonality_defect:.1e} (mean "
                f"{self.orthogonality_mean:.1e}, "
                f"rms tangent {self.tangent_rms:.1e})",
                f"isotropy defect        {self.isotropy_defect:.1e} (mean "
                f"{self.isotropy_mean:.1e})",
                f"smallest distance      {self.smallest_distance:.3g} of the cell size, at cell "
                f"{self.worst_cell}",
                f"faces not admissible   {self.n_negative}",
                f"points in one place    at {self.n_coincident} faces",
                f"one-sided distances    {self.n_clipped} clipped",
                f"power centres          {self.n_moved} cells"
                + " in place of circumcentres" * (self.n_moved > 0),
                f"metric                 off by up to {_percent(self.metric_error)} in groups of "
                "cells",
                f"patch-test energy      {self.energy_error:+.1e}, weights {weights}",
                f"error of W2^2          {_percent(self.transport_error)} to expect, beyond that "
                "of the resolution",
                f"points merged          {self.n_merged}",
                f"hanging points         {self.n_hanging}",
            ]
        )


def is_consistent(sine, tangent):
    """Whether two-point fluxes are consistent, by the largest sine and the rms tangent of angles to
    the normals.
    """
    return sine <= MAX_SINE and tangent <= MAX_TANGENT


def warn_of(problem, mesh):
    """Warn of a problem of a mesh, once for all ranks; "" is none."""
    if problem and mesh.ranks.is_root:
        warn(problem)


def _percent(part):
    return f"{100 * part:.2g} %" if part < 1 else "100 % and more"


def with_patch_test(quality, two_point, choice):
    """The `Quality` with what the `TwoPoint` scheme and the `PatchChoice` tell."""
    return replace(
        quality,
        tangent_rms=two_point.tangent_rms,
        metric_error=0.0 if two_point.is_exact else two_point.metric_error,
        energy_error=choice.energy_error,
        transport_error=choice.transport_error,
        corrects_weights=choice.corrects_weights,
    )


def distances(faces, center):
    """Signed distances from the cell points to the faces along the normal: (left, right); right is
    0 on the boundary.
    """
    n = faces.n_inner
    left = np.einsum("if,if->f", faces.center - columns(center, faces.left), faces.normal)
    right = np.zeros_like(left)
    right[:n] = np.einsum(
        "if,if->f", columns(center, faces.right[:n]) - faces.center[:, :n], faces.normal[:, :n]
    )
    return left, right


def face_sizes(volume, faces):
    """The size volume^(1/dim) of the smaller one of the cells of each face: (n_faces,)."""
    size = volume ** (1 / len(faces.normal))
    return np.minimum(size[faces.left], size[np.where(faces.right < 0, faces.left, faces.right)])


def assess(volume, center, faces):
    """The `Quality` of a mesh and its one-sided distances, clipped to [0, d_sigma]: (quality, left,
    right).
    """
    dim = len(center)
    n = faces.n_inner
    left, right = distances(faces, center)
    distance = left + right
    size = volume ** (1 / dim)
    relative = distance / face_sizes(volume, faces)
    worst = relative.argmin()
    spread = orthogonality(center, faces)
    defect = isotropy(volume, faces, left, right)
    tiny = (
        COINCIDENT * size[faces.left[:n]]
    )  # a right angle has its circumcentre on the face, but for round-off
    n_clipped = int((left[:n] < -tiny).sum() + (right[:n] < -tiny).sum())
    quality = Quality(
        len(volume),
        _range(volume),
        _range(size),
        float(spread.max(initial=0)),
        float(spread.mean()) if n else 0.0,
        float(defect.max()),
        float(defect.mean()),
        float(relative[worst]),
        int(faces.left[worst]),
        int(_out_of_order(relative, spread).sum()),
        n_clipped,
        n_coincident=int((relative <= COINCIDENT).sum()),
    )
    left = np.clip(left, 0, np.maximum(distance, 0))
    return quality, left, np.where(np.arange(len(left)) < n, distance - left, 0.0)


def _out_of_order(relative, spread):
    """Which distances, relative to the sizes of their cells, are negative, or 0 with points that
    lie beside each other.
    """
    beside = np.zeros(len(relative), bool)
    beside[: len(spread)] = spread > OUT_OF_ORDER
    return relative < np.where(beside, COINCIDENT, -OUT_OF_ORDER)


def _range(x):
    return float(x.min()), float(x.mean()), float(x.max())


def orthogonality(center, faces):
    """Sine of the angle between x_L - x_K and the normal, for every inner face; 0 where both points
    are in one place.
    """
    n = faces.n_inner
    step = columns(center, faces.right[:n]) - columns(center, faces.left[:n])
    normal = faces.normal[:, :n]
    tangential = step - np.einsum("if,if->f", step, normal) * normal
    place = OUT_OF_ORDER * faces.area[:n] ** (1 / max(len(center) - 1, 1))
    return np.linalg.norm(tangential, axis=0) / np.maximum(np.linalg.norm(step, axis=0), place)


def isotropy(volume, faces, left, right):
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
            entry = (
                np.bincount(faces.left, weight * left, n_cells)
                + np.bincount(faces.right[:n], (weight * right)[:n], n_cells)
            ) / volume
            square += (1 if i == j else 2) * (entry - (i == j)) ** 2
    return np.sqrt(square)


def admissible(volume, centroid, center, faces, strict, move=None):
    """(quality, center, left, right) of a mesh that solvers may use.

    Where cell points are out of order, d_sigma < 0, move(distance) may give other points for which
    x_K x_L is normal to all faces, too. What is then left is refused (`MeshError`); with
    strict=False the cells beside such faces get their centroids as points: two-point fluxes are
    then inconsistent there.

    Where d_sigma = 0 both points are in one place x, as the circumcentres of the halves of a
    rectangle are. Both values are u(x), and so they become by a two-point flux over a small
    distance eps h: it must be there for du/dn, and so diffusion is too small by a part of about
    eps. With eps = CLIPPED (h/L)^2 this error is of second order and below that of the flux, and
    equations are about as ill-conditioned as all of diffusion is. Negative distances down to
    -OUT_OF_ORDER h, which points in single precision have in place of 0, count as 0, too.
    """
    quality, left, right = assess(volume, center, faces)
    if (
        move is None and quality.n_coincident
    ):  # points that somebody has given: none of them may be those of two cells
        quality = replace(quality, n_negative=quality.n_coincident)
    if quality.n_negative and move is not None:
        quality, center, left, right = _moved(volume, center, faces, move, quality, left, right)
    if quality.n_negative:
        quality, center, left, right = _with_centroids(
            volume, centroid, center, faces, quality, strict, move is not None
        )
    size = face_sizes(volume, faces)
    floor = size * np.clip(CLIPPED * size**2 / volume.sum() ** (2 / len(center)), *CLIPPED_RANGE)
    short = left + right < floor
    return (
        quality,
        center,
        *_lengthened(left, right, np.where(short, floor, left + right), short, faces.n_inner),
    )


def _lengthened(left, right, distance, short, n_inner):
    """One-sided distances that add up to *distance*, in equal halves on inner faces where they were
    too short.
    """
    half = distance / 2
    half[n_inner:] = distance[n_inner:]
    left = np.where(short, half, left)
    return left, np.where(short, distance - half, right)


def _with_centroids(volume, centroid, center, faces, quality, strict, was_moved):
    """(quality, center, left, right) with centroids as points beside faces that are not admissible,
    and a warning.
    """
    problem = (
        f"the mesh is not admissible: cell {quality.worst_cell} has a face of signed distance "
        f"{quality.smallest_distance:.2g} cell sizes, and {quality.n_negative} of "
        f"{len(faces.area)} faces "
        "have cell points out of order"
    )
    if strict:
        raise MeshError(
            f"{problem}{', for power centres near their cells, too' * was_moved}; "
            f"{ADVICE[len(center)]}, or "
            "strict=False to go on with less accurate diffusion (pure advection is not affected)"
        )
    warn(f"{problem}; they are clipped, diffusion is inconsistent there")
    bad = _out_of_order(
        sum(distances(faces, center)) / face_sizes(volume, faces), orthogonality(center, faces)
    )
    touched = np.unique(np.concatenate([faces.left[bad], faces.right[bad & (faces.right >= 0)]]))
    center = center.copy()
    center[:, touched] = centroid[:, touched]
    report, left, right = assess(volume, center, faces)
    return (
        replace(report, n_negative=quality.n_negative, n_moved=quality.n_moved),
        center,
        left,
        right,
    )


def _moved(volume, center, faces, move, quality, left, right):
    """(quality, center, left, right) with the points that *move* gives, where fewer faces are then
    not admissible.
    """
    points = move(sum(distances(faces, center)))
    if points is None:
        return quality, center, left, right
    better, *sides = assess(volume, points, faces)
    if better.n_negative >= quality.n_negative:
        return quality, center, left, right
    far = np.linalg.norm(points - center, axis=0) > MOVED * volume ** (1 / len(center))
    return replace(better, n_moved=int(far.sum())), points, *sides
