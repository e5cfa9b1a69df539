"""Does the two-point scheme of a mesh see straight lines? The patch test, and the error of W2^2
that follows from it.

A two-point scheme has the energy sum_s c_s (phi_L - phi_K)^2 / 2 with c_s = omega_s / d_s^2, where
omega_s is |s| d_s, or the corrected weight of `isotropic_weights`. Its W2 converges to W2 where the
scheme is consistent in two ways (Gladbach, Kopfer, Maas 2020):

primal: the flux of a linear potential xi.x is conserved, sum_{s in K} c_s (x_L - x_K) + sum of |s|
n over walls = 0.
    Else W2 is too large where corrected weights break it; on meshes that are not orthogonal plain
    weights break it, too
dual: every patch is isotropic, sum omega_{P,s} e e^T = m_P I with e = (x_L - x_K) / d_s. Else W2 is
too small

Patch test. With the flux n.xi through the walls, b_xi(K) = sum of |s| n.xi over the walls of K, the
exact potential is xi.x. The scheme finds K_x phi_xi = b_xi. Compare the energies E_ij = b_i.phi_j
with T_ij = b_i.x_j, made symmetric: the eigenvalues of T^-1 E - 1 are the errors of the metric,
averaged over the mesh. They are 0 where the primal condition holds.

Locally, a linear potential has in cell K the mean flux A_K xi,

    |K| A_K = sum_{s in K} c_s (x_s - x_K) (x_L - x_K)^T + sum of |s| (x_s - x_K) n^T over walls,

x_s the centroid of the face; A_K = I on orthogonal meshes. Its average over small groups of cells
is the metric that densities feel there: 1 - 1/eigenvalue is the relative error of W2^2 for mass
that moves along that eigenvector.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyamg
from scipy import sparse

from .cells import columns
from .faces import Faces
from .isotropic_weights import copies, isotropic_weights, target
from .patches import adjacency, pieces
from .quality import COINCIDENT, is_consistent, orthogonality

# Sines up to that are rounding: cell points are solutions of linear systems.
ROUNDING_SINE = 1e-6

# Groups of so many cells average what changes from cell to cell, and still see how the metric
# changes over the mesh: as many groups as that, if they have at least and at most so many cells.
GROUP_COUNT = 32
GROUP_SIZES = (8, 16)

# Relative residual; the energy, wrong by about its square, is then right to a tenth of the largest
# one that passes.
SOLVER_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TwoPoint:
    """The two-point scheme of a whole mesh, in the file's numbering."""

    volume: np.ndarray  # (n_cells,)
    center: np.ndarray  # (dim, n_cells) x_K
    faces: Faces
    left_distance: np.ndarray  # (n_faces,)
    right_distance: np.ndarray  # (n_faces,)

    @property
    def dim(self):
        """Dimension of space."""
        return len(self.center)

    @property
    def n_cells(self):
        """Number of cells."""
        return len(self.volume)

    @cached_property
    def distance(self):
        """d_s (n_inner,)."""
        n = self.faces.n_inner
        return self.left_distance[:n] + self.right_distance[:n]

    @cached_property
    def step(self):
        """x_L - x_K (dim, n_inner)."""
        n = self.faces.n_inner
        return columns(self.center, self.faces.right[:n]) - columns(
            self.center, self.faces.left[:n]
        )

    @cached_property
    def graph(self):
        """The `adjacency` of the cells."""
        return adjacency(self.faces, self.n_cells)

    # ---- how far from orthogonal -----------------------------------------------------------------

    @cached_property
    def tangent_rms(self):
        """Root of the mean square of the tangent of the angle between x_L - x_K and the normal,
        weighed by |s| d_s.
        """
        n = self.faces.n_inner
        if not n:
            return 0.0
        normal = self.faces.normal[:, :n]
        tangential = self.step - np.einsum("if,if->f", self.step, normal) * normal
        size = self.volume[self.faces.left[:n]] ** (1 / self.dim)
        distance = np.maximum(self.distance, COINCIDENT * size)
        weight = self.faces.area[:n] * distance
        return float(
            np.sqrt((weight * (tangential**2).sum(axis=0) / distance**2).sum() / weight.sum())
        )

    @cached_property
    def largest_sine(self):
        """The largest sine of that angle."""
        return float(orthogonality(self.center, self.faces).max(initial=0))

    @property
    def is_orthogonal(self):
        """Whether two-point fluxes are consistent, as far as angles tell."""
        return is_consistent(self.largest_sine, self.tangent_rms)

    @property
    def is_exact(self):
        """Whether linear potentials have their own fluxes, but for rounding."""
        return self.dim == 1 or self.largest_sine <= ROUNDING_SINE

    # ---- patches ---------------------------------------------------------------------------------

    def copies(self, patch):
        """The `Copies` of all inner faces for a patch of each cell (n_cells,)."""
        n = self.faces.n_inner
        area = self.faces.area
        owner = np.concatenate([patch[self.faces.left[:n]], patch[self.faces.right[:n]]])
        sides = np.concatenate(
            [area[:n] * self.left_distance[:n], area[:n] * self.right_distance[:n]]
        )
        return copies(owner, np.tile(np.arange(n), 2), sides, n)

    def corrected(self, patch, sides):
        """The weights (n_copies,) of the `Copies` *sides*, corrected so that patches are isotropic."""
        normal = columns(self.faces.normal, sides.face)
        return isotropic_weights(sides.weight, normal, sides.patch, self._inner_part(patch))

    def anisotropy(self, patch, sides):
        """Root of the mean square of |sum omega e e^T / m_P - I| over the patches, with the weights
        as they are.
        """
        volume = np.bincount(patch, self.volume)
        slope = columns(self.step, sides.face) / self.distance[sides.face]
        lack = self._inner_part(patch)
        for i in range(self.dim):
            for j in range(self.dim):
                lack[:, i, j] -= np.bincount(
                    sides.patch, sides.weight * slope[i] * slope[j], len(volume)
                )
        return float(np.sqrt(((lack**2).sum(axis=(1, 2)) / volume).sum() / volume.sum()))

    def _inner_part(self, patch):
        """What the copies of each patch should add up to: (n_patches, dim, dim)."""
        walls = slice(self.faces.n_inner, None)
        faces = self.faces
        weight = (faces.area * self.left_distance)[walls]
        return target(
            np.bincount(patch, self.volume),
            patch[faces.left[walls]],
            weight,
            faces.normal[:, walls],
        )

    # ---- errors ----------------------------------------------------------------------------------

    def energy_error(self, weight=None):
        """The eigenvalues (dim,) of T^-1 E - 1, smallest first; of several pieces of the mesh the
        worst one's.

        weight (n_inner,) : omega_s; None: |s| d_s
        """
        n = self.faces.n_inner
        faces = self.faces
        weight = faces.area[:n] * self.distance if weight is None else weight
        entering = np.stack(
            [
                np.bincount(faces.left[n:], faces.area[n:] * faces.normal[i, n:], self.n_cells)
                for i in range(self.dim)
            ]
        )
        stiffness, piece = self._stiffness(weight / self.distance**2)
        solver = pyamg.ruge_stuben_solver(stiffness, max_coarse=200)
        potential = np.stack(
            [solver.solve(b, tol=SOLVER_TOLERANCE, accel="cg", maxiter=100) for b in entering]
        )

        count = piece.max() + 1
        found, exact = np.empty((2, count, self.dim, self.dim))
        for i in range(self.dim):
            for j in range(self.dim):
                found[:, i, j] = np.bincount(piece, entering[i] * potential[j], count)
                exact[:, i, j] = np.bincount(piece, entering[i] * self.center[j], count)
        several = np.bincount(piece, minlength=count) > 1
        return _worst(_symmetric(found[several]), _symmetric(exact[several]))

    def _stiffness(self, conductance):
        """K_x (CSR), with a doubled diagonal in one cell of each piece; the piece of each cell
        (n_cells,).
        """
        flow = adjacency(self.faces, self.n_cells, conductance)
        piece = pieces(self.faces, self.n_cells)
        diagonal = np.asarray(flow.sum(axis=1)).ravel()
        pinned = np.unique(piece, return_index=True)[1]
        diagonal[pinned] = np.where(diagonal[pinned] > 0, 2 * diagonal[pinned], 1.0)
        return (sparse.diags(diagonal) - flow).tocsr(), piece

    @cached_property
    def metric_error(self):
        """The largest |1 - 1/eigenvalue| of the mean of A_K over groups of cells, with the weights
        as they are.
        """
        n = self.faces.n_inner
        faces = self.faces
        left, right = faces.left[:n], faces.right[:n]
        conductance = faces.area[:n] / self.distance
        group = _boxes(
            self.center, -(-self.n_cells // int(np.clip(self.n_cells // GROUP_COUNT, *GROUP_SIZES)))
        )
        volume = np.bincount(group, self.volume)

        metric = np.empty((len(volume), self.dim, self.dim))
        for i in range(self.dim):
            for j in range(self.dim):
                flux = conductance * self.step[j]
                inner = np.bincount(
                    group[left], flux * (faces.center[i, :n] - self.center[i, left]), len(volume)
                )
                inner -= np.bincount(
                    group[right], flux * (faces.center[i, :n] - self.center[i, right]), len(volume)
                )
                outer = (
                    faces.area * faces.normal[j] * (faces.center[i] - self.center[i, faces.left])
                )[n:]
                metric[:, i, j] = (
                    inner + np.bincount(group[faces.left[n:]], outer, len(volume))
                ) / volume
        eigenvalue = np.linalg.eigvalsh(_symmetric(metric))
        return float(np.abs(1 - 1 / np.maximum(eigenvalue, 1e-3)).max())


def _boxes(points, count):
    """The number (n,) of the box in which each of points (dim, n) lies: about *count* boxes of as
    many points each.
    """
    width = np.maximum(np.ptp(points, axis=1), 1e-300)
    along = np.maximum(np.rint(width * (count / np.prod(width)) ** (1 / len(points))), 1).astype(
        int
    )
    box = np.zeros(points.shape[1], np.int64)
    for x, n in zip(points, along):
        order = np.lexsort((x, box))
        first = np.searchsorted(box[order], box[order])
        size = np.bincount(box)[box[order]]
        place = np.arange(len(order)) - first
        box[order] = box[order] * n + place * n // size
    return np.unique(box, return_inverse=True)[1].ravel()


def _symmetric(matrices):
    return (matrices + matrices.transpose(0, 2, 1)) / 2


def _worst(found, exact):
    """Eigenvalues of exact^-1 found - 1, smallest first: those of the matrix for which they are
    largest.

    Directions in which a piece of the mesh has but one row of cells have no energy, and no error.
    """
    if not len(found):
        return np.zeros(found.shape[-1])
    energy, direction = np.linalg.eigh(exact)
    empty = energy <= 1e-9 * energy.max(axis=1, keepdims=True)
    scaled = direction * np.where(empty, 0.0, 1 / np.sqrt(np.where(empty, 1.0, energy)))[:, None, :]
    ratio = scaled.transpose(0, 2, 1) @ found @ scaled
    for i in range(found.shape[-1]):
        ratio[:, i, i] += empty[:, i]
    error = np.linalg.eigvalsh(ratio) - 1
    return error[np.abs(error).max(axis=1).argmax()]
