"""Is a mesh admissible? The two-point flux (rho_L - rho_K) / d_sigma is consistent where the line x_K x_L is normal to
the face, and stable where the signed distance d_sigma = (x_L - x_K).n is positive (Eymard, Gallouet, Herbin 2000)."""
import warnings
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MeshError
from .faces import columns

ROUND_OFF = 1e-12   # a distance that small, relative to its cells, counts as 0: some thousand roundings of their sides
COORDINATE = 1e-14  # the same, relative to the coordinates of cell points: some are far from 0
CLIPPED = 1e-3      # smallest accepted distance of a refused mesh (strict=False), relative to its cells
MOVED = 1e-9        # a point that is moved by less, relative to its cell, has stayed
ADVICE = {
    1: "let neighbours have their points in order",
    2: "flip its edges until it is a Delaunay mesh (gmsh makes these, with Mesh.Algorithm 5 or 6)",
    3: "make it better (gmsh: Mesh.OptimizeNetgen = 1), so that it is a Delaunay mesh, weighted or not"}


@dataclass(frozen=True)
class Quality:
    """Numbers that say how good a mesh is; lengths in the mesh's units, cells in the file's numbering."""

    n_cells: int
    volume: tuple                   # smallest, mean, largest
    size: tuple                     # volume^(1/dim): smallest, mean, largest
    orthogonality_defect: float     # largest sine of the angle between x_L - x_K and the face's normal
    orthogonality_mean: float
    isotropy_defect: float          # largest |sum_s |s| d_Ks n n^T / |K| - I| (Frobenius)
    isotropy_mean: float
    smallest_distance: float        # smallest d_sigma over the size of its cells: must be > 0
    worst_cell: int                 # beside the face of the smallest distance
    n_negative: int                 # faces with d_sigma <= 0
    n_clipped: int                  # one-sided distances that were negative and are set to 0
    n_moved: int = 0                # cells whose point is a power centre, as circumcentres were not admissible

    def __str__(self):
        return "\n".join([
            f"cells                  {self.n_cells}",
            f"volume                 {self.volume[0]:.3g} to {self.volume[2]:.3g}, mean {self.volume[1]:.3g}",
            f"size                   {self.size[0]:.3g} to {self.size[2]:.3g}, mean {self.size[1]:.3g}",
            f"orthogonality defect   {self.orthogonality_defect:.1e} (mean {self.orthogonality_mean:.1e})",
            f"isotropy defect        {self.isotropy_defect:.1e} (mean {self.isotropy_mean:.1e})",
            f"smallest distance      {self.smallest_distance:.3g} of the cell size, at cell {self.worst_cell}",
            f"faces not admissible   {self.n_negative}",
            f"one-sided distances    {self.n_clipped} clipped",
            f"power centres          {self.n_moved} cells" + " in place of circumcentres" * (self.n_moved > 0)])


def distances(faces, center):
    """Signed distances from the cell points to the faces along the normal: (left, right); right is 0 on the boundary."""
    n = faces.n_inner
    left = np.einsum("if,if->f", faces.center - columns(center, faces.left), faces.normal)
    right = np.zeros_like(left)
    right[:n] = np.einsum("if,if->f", columns(center, faces.right[:n]) - faces.center[:, :n], faces.normal[:, :n])
    return left, right


def rounding(volume, center, faces):
    """What the signed distance between the points of a face's cells may miss by round-off (n_faces,).

    Distances that are no larger count as 0, on every processor: at right angles circumcentres lie on faces.
    """
    far = np.abs(center).max(axis=0)
    cell = ROUND_OFF * volume**(1 / len(center)) + COORDINATE * far
    return np.maximum(cell[faces.left], cell[np.where(faces.right < 0, faces.left, faces.right)])


def assess(volume, center, faces):
    """The `Quality` of a mesh and its one-sided distances, clipped to [0, d_sigma]: (quality, left, right)."""
    dim, n = len(center), faces.n_inner
    left, right = distances(faces, center)
    tiny = rounding(volume, center, faces)
    distance = left + right
    distance[np.abs(distance) <= tiny] = 0.0
    size = volume**(1 / dim)
    relative = distance / size[faces.left]
    worst = relative.argmin()
    spread = orthogonality(center, faces)
    defect = isotropy(volume, faces, left, right)
    n_clipped = int((left[:n] < -tiny[:n]).sum() + (right[:n] < -tiny[:n]).sum())
    quality = Quality(
        len(volume), _range(volume), _range(size), float(spread.max(initial=0)),
        float(spread.mean()) if n else 0.0, float(defect.max()), float(defect.mean()), float(relative[worst]),
        int(faces.left[worst]), int((distance <= 0).sum()), n_clipped)
    left = np.clip(left, 0, np.maximum(distance, 0))
    return quality, left, np.where(np.arange(len(left)) < n, distance - left, 0.0)


def _range(x):
    return float(x.min()), float(x.mean()), float(x.max())


def orthogonality(center, faces):
    """Sine of the angle between x_L - x_K and the normal, for every inner face."""
    n = faces.n_inner
    step = columns(center, faces.right[:n]) - columns(center, faces.left[:n])
    normal = faces.normal[:, :n]
    tangential = step - np.einsum("if,if->f", step, normal) * normal
    return np.linalg.norm(tangential, axis=0) / np.maximum(np.linalg.norm(step, axis=0), 1e-300)


def isotropy(volume, faces, left, right):
    """|sum_s |s| d_Ks n n^T / |K| - I| in the Frobenius norm, for every cell: 0 where the discrete gradient is isotropic."""
    n, n_cells, dim = faces.n_inner, len(volume), len(faces.normal)
    square = np.zeros(n_cells)
    for i in range(dim):
        for j in range(i, dim):
            weight = faces.area * faces.normal[i] * faces.normal[j]
            entry = (np.bincount(faces.left, weight * left, n_cells)
                     + np.bincount(faces.right[:n], (weight * right)[:n], n_cells)) / volume
            square += (1 if i == j else 2) * (entry - (i == j))**2
    return np.sqrt(square)


def admissible(volume, centroid, center, faces, strict, move=None):
    """(quality, center, left, right) of a mesh that solvers may use.

    Where faces have d_sigma <= 0, move(distance) may give other points for which x_K x_L is normal to all faces, too.
    What is then left is refused (`MeshError`); with strict=False the cells beside such faces get their centroids
    as points, and what is still too small is clipped: two-point fluxes are then inconsistent there.
    """
    quality, left, right = assess(volume, center, faces)
    if quality.n_negative and move is not None:
        quality, center, left, right = _moved(volume, center, faces, move, quality, left, right)
    if not quality.n_negative:
        return quality, center, left, right
    problem = (f"the mesh is not admissible: cell {quality.worst_cell} has a face of signed distance "
               f"{quality.smallest_distance:.2g} cell sizes, and {quality.n_negative} of {len(faces.area)} faces "
               "have none above 0")
    if strict:
        raise MeshError(f"{problem}{', for power centres neither' if move else ''}; {ADVICE[len(center)]}, or "
                        "strict=False to go on with less accurate diffusion (pure advection is not affected)")
    warnings.warn(f"{problem}; they are clipped, diffusion is inconsistent there", stacklevel=4)
    bad = left + right <= 0
    touched = np.unique(np.concatenate([faces.left[bad], faces.right[bad & (faces.right >= 0)]]))
    center = center.copy()
    center[:, touched] = centroid[:, touched]
    report, left, right = assess(volume, center, faces)
    floor = CLIPPED * volume[faces.left]**(1 / len(center))
    short = left + right < floor
    left, right = np.where(short, floor, left), np.where(short, 0.0, right)
    return replace(report, n_moved=quality.n_moved), center, left, right


def _moved(volume, center, faces, move, quality, left, right):
    """(quality, center, left, right) with the points that *move* gives, where fewer faces are then not admissible."""
    points = move(sum(distances(faces, center)))
    if points is None:
        return quality, center, left, right
    better, *sides = assess(volume, points, faces)
    if better.n_negative >= quality.n_negative:
        return quality, center, left, right
    far = np.linalg.norm(points - center, axis=0) > MOVED * volume**(1 / len(center))
    return replace(better, n_moved=int(far.sum())), points, *sides
