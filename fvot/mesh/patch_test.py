"""Is the two-point scheme of a mesh exact for linear potentials? The patch test, and the error of
W2^2 that follows from it.

A two-point scheme has the energy sum_s c_s (phi_L - phi_K)^2 / 2 with c_s = omega_s / d_s^2, where
omega_s is |s| d_s, or the corrected weight of `isotropic_weights`. Its W2 converges to W2 where the
scheme is consistent in two ways (Gladbach, Kopfer, Maas 2020):

primal: the flux of a linear potential xi.x is conserved, sum_{s in K} c_s (x_L - x_K) + sum of |s|
n over walls = 0.
    Otherwise W2 is too large where corrected weights break this; on meshes that are not orthogonal
    plain weights break it, too.
dual: every patch is isotropic, sum omega_{P,s} e e^T = m_P I with e = (x_L - x_K) / d_s. Otherwise
W2 is too small.

Patch test. With the flux n.xi through the walls, b_xi(K) = sum of |s| n.xi over the walls of K, the
exact potential is xi.x. The scheme solves K_x phi_xi = b_xi. Compare the energies E_ij = b_i.phi_j
with T_ij = b_i.x_j, made symmetric: the eigenvalues of T^-1 E - 1 are the errors of the metric,
averaged over the mesh. They are 0 where the primal condition holds.

Locally, a linear potential has in cell K the mean flux A_K xi,

    |K| A_K = sum_{s in K} c_s (x_s - x_K) (x_L - x_K)^T + sum of |s| (x_s - x_K) n^T over walls,

x_s the centroid of the face; A_K = I on orthogonal meshes. Its average over small groups of cells
is the metric that densities feel there: 1 - 1/eigenvalue is the relative error of W2^2 for mass
that moves along that eigenvector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyamg
from scipy import sparse

from ..arguments.types import Array, IntArray
from .cells import columns
from .faces import Faces
from .isotropic_weights import Copies, compute_target, copy_faces, correct_weights
from .patches import adjacency, number_components
from .quality import COINCIDENT, compute_sines, is_consistent
from .share import Share

# Sines up to this are rounding: cell points are solutions of linear systems.
ROUNDING_SINE = 1e-6

# Groups of cells average what changes from cell to cell, and still show how the metric changes over
# the mesh: the number of groups, and the least and most cells of a group, which take precedence.
GROUP_COUNT = 32
GROUP_SIZES = (8, 16)

# Relative residual; the energy, whose error is about its square, is then accurate to a tenth of the
# largest error that passes.
PATCH_TEST_RTOL = 1e-3


@dataclass(frozen=True)
class TwoPoint:
    """The two-point scheme of a whole mesh, in the file's numbering."""

    volume: Array  # (n_cells,)
    center: Array  # (dim, n_cells) x_K
    faces: Faces
    left_distance: Array  # (n_faces,)
    right_distance: Array  # (n_faces,)

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return len(self.center)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.volume)

    @cached_property
    def distance(self) -> Array:
        """d_s (n_inner,)."""
        n = self.faces.n_inner
        return self.left_distance[:n] + self.right_distance[:n]

    @cached_property
    def step(self) -> Array:
        """x_L - x_K (dim, n_inner)."""
        n = self.faces.n_inner
        left = columns(self.center, self.faces.left[:n])
        right = columns(self.center, self.faces.right[:n])
        return right - left

    @cached_property
    def graph(self) -> sparse.csr_matrix:
        """The `adjacency` of the cells."""
        return adjacency(self.faces, self.n_cells)

    # ---- how far from orthogonal -----------------------------------------------------------------

    @cached_property
    def tangent_rms(self) -> float:
        """Root of the mean square of the tangent of the angle between x_L - x_K and the normal,
        weighed by |s| d_s.
        """
        return self.compute_tangent_rms(Share.of_whole(self.n_cells))

    def compute_tangent_rms(self, share: Share) -> float:
        """The same over the faces of all ranks, of which each has a share."""
        n = self.faces.n_inner
        normal = self.faces.normal[:, :n]
        along_normal = np.einsum("if,if->f", self.step, normal)
        tangential = self.step - along_normal * normal
        left_volume = self.volume[self.faces.left[:n]]
        size = left_volume ** (1 / self.dim)
        distance = np.maximum(self.distance, COINCIDENT * size)
        weight = self.faces.area[:n] * distance * share.owns(self.faces)[:n]
        square = weight * (tangential**2).sum(axis=0) / distance**2
        total = share.sum(np.array([square.sum(), weight.sum()]))
        return float(np.sqrt(total[0] / total[1])) if total[1] else 0.0

    @cached_property
    def largest_sine(self) -> float:
        """The largest sine of that angle."""
        return float(compute_sines(self.center, self.faces).max(initial=0))

    @property
    def is_orthogonal(self) -> bool:
        """Whether two-point fluxes are consistent, as far as angles tell."""
        return is_consistent(self.largest_sine, self.tangent_rms)

    @property
    def is_exact(self) -> bool:
        """Whether linear potentials have their exact fluxes up to rounding."""
        return self.dim == 1 or self.largest_sine <= ROUNDING_SINE

    # ---- patches ---------------------------------------------------------------------------------

    def list_sides(self, patch: IntArray) -> Copies:
        """Both sides of all inner faces, each as a copy of its own, for a patch of each cell
        (n_cells,).
        """
        n = self.faces.n_inner
        area = self.faces.area[:n]
        cells = np.concatenate([self.faces.left[:n], self.faces.right[:n]])
        owner = patch[cells]
        left_weight = area * self.left_distance[:n]
        right_weight = area * self.right_distance[:n]
        weight = np.concatenate([left_weight, right_weight])
        face = np.tile(np.arange(n), 2)
        return Copies(owner, face, weight, np.arange(2 * n))

    def copy_faces(self, patch: IntArray) -> Copies:
        """The `Copies` of all inner faces for a patch of each cell (n_cells,)."""
        sides = self.list_sides(patch)
        return copy_faces(sides.patch, sides.face, sides.weight, self.faces.n_inner)

    def correct_weights(self, patch: IntArray, sides: Copies) -> Array:
        """The weights (n_copies,) of the `Copies`, corrected so that patches are isotropic."""
        normal = columns(self.faces.normal, sides.face)
        target = self._compute_target(patch)
        return correct_weights(sides.weight, normal, sides.patch, target)

    def compute_anisotropy(self, patch: IntArray, share: Share | None = None) -> float:
        """Root of the mean square of |sum omega e e^T / m_P - I| over the patches, with plain
        weights.

        share : which cells count here, whose patches come first; None for the whole mesh
        """
        share = share or Share.of_whole(self.n_cells)
        n = self.faces.n_inner
        volume = np.bincount(patch, self.volume)
        left_patch = patch[self.faces.left[:n]]
        right_patch = patch[self.faces.right[:n]]
        slope = self.step / self.distance
        defect = self._compute_target(patch)
        for i in range(self.dim):
            for j in range(self.dim):
                weight = self.faces.area[:n] * slope[i] * slope[j]
                left_weight = weight * self.left_distance[:n]
                right_weight = weight * self.right_distance[:n]
                defect[:, i, j] -= np.bincount(left_patch, left_weight, len(volume))
                defect[:, i, j] -= np.bincount(right_patch, right_weight, len(volume))
        own = slice(patch[: share.n_cells].max() + 1)
        square = (defect[own] ** 2).sum(axis=(1, 2)) / volume[own]
        total = share.sum(np.array([square.sum(), volume[own].sum()]))
        return float(np.sqrt(total[0] / total[1]))

    def _compute_target(self, patch):
        """The sum that the copies of each patch should have: (n_patches, dim, dim)."""
        walls = slice(self.faces.n_inner, None)
        faces = self.faces
        volume = np.bincount(patch, self.volume)
        weight = (faces.area * self.left_distance)[walls]
        normal = faces.normal[:, walls]
        wall_patch = patch[faces.left[walls]]
        return compute_target(volume, wall_patch, weight, normal)

    # ---- errors ----------------------------------------------------------------------------------

    def compute_energy_error(self, weight: Array | None = None) -> Array:
        """The eigenvalues (dim,) of T^-1 E - 1, smallest first; of several pieces of the mesh the
        worst one's.

        weight (n_inner,) : omega_s; None: |s| d_s
        """
        n = self.faces.n_inner
        faces = self.faces
        if weight is None:
            weight = faces.area[:n] * self.distance
        wall_vectors = faces.area[n:] * faces.normal[:, n:]
        wall_cells = faces.left[n:]
        entering = [np.bincount(wall_cells, component, self.n_cells) for component in wall_vectors]

        conductance = weight / self.distance**2
        stiffness, piece = self._build_stiffness(conductance)
        solver = pyamg.ruge_stuben_solver(stiffness, max_coarse=200)
        potential = []
        for b in entering:
            solution = solver.solve(b, tol=PATCH_TEST_RTOL, accel="cg", maxiter=100)
            potential.append(solution)

        count = piece.max() + 1
        energy = np.empty((count, self.dim, self.dim))
        exact = np.empty((count, self.dim, self.dim))
        for i in range(self.dim):
            for j in range(self.dim):
                work = entering[i] * potential[j]
                exact_work = entering[i] * self.center[j]
                energy[:, i, j] = np.bincount(piece, work, count)
                exact[:, i, j] = np.bincount(piece, exact_work, count)

        has_faces = np.bincount(piece, minlength=count) > 1
        energy = _symmetrise(energy[has_faces])
        exact = _symmetrise(exact[has_faces])
        return _find_worst(energy, exact)

    def _build_stiffness(self, conductance):
        """K_x (CSR), with a doubled diagonal in one cell of each piece; the piece of each cell
        (n_cells,).
        """
        flow = adjacency(self.faces, self.n_cells, conductance)
        piece = number_components(self.faces, self.n_cells)
        diagonal = np.asarray(flow.sum(axis=1)).ravel()
        _, pinned = np.unique(piece, return_index=True)
        entry = diagonal[pinned]
        diagonal[pinned] = np.where(entry > 0, 2 * entry, 1.0)
        stiffness = sparse.diags(diagonal) - flow
        return stiffness.tocsr(), piece

    @cached_property
    def metric_error(self) -> float:
        """The largest |1 - 1/eigenvalue| of the mean of A_K over groups of cells, with plain
        weights.
        """
        group_size = int(np.clip(self.n_cells // GROUP_COUNT, *GROUP_SIZES))
        n_groups = -(-self.n_cells // group_size)
        group = _divide_into_boxes(self.center, n_groups)
        return self.compute_metric_error(group, Share.of_whole(self.n_cells))

    def compute_metric_error(self, group: IntArray, share: Share) -> float:
        """The same over these groups (n_cells,), those of cells that count here first."""
        n = self.faces.n_inner
        faces = self.faces
        left = faces.left[:n]
        right = faces.right[:n]
        conductance = faces.area[:n] / self.distance
        left_group = group[left]
        right_group = group[right]
        wall_group = group[faces.left[n:]]
        volume = np.bincount(group, self.volume)

        metric = np.empty((len(volume), self.dim, self.dim))
        for i in range(self.dim):
            from_left = faces.center[i, :n] - self.center[i, left]
            from_right = faces.center[i, :n] - self.center[i, right]
            to_wall = faces.center[i] - self.center[i, faces.left]
            for j in range(self.dim):
                flux = conductance * self.step[j]
                inner = np.bincount(left_group, flux * from_left, len(volume))
                inner -= np.bincount(right_group, flux * from_right, len(volume))
                wall_flux = (faces.area * faces.normal[j] * to_wall)[n:]
                outer = np.bincount(wall_group, wall_flux, len(volume))
                metric[:, i, j] = (inner + outer) / volume
        own = slice(group[: share.n_cells].max() + 1)
        eigenvalue = np.linalg.eigvalsh(_symmetrise(metric[own]))
        error = 1 - 1 / np.maximum(eigenvalue, 1e-3)
        return float(share.max(np.abs(error).max()))


def _divide_into_boxes(points, count):
    """The number (n,) of the box in which each of points (dim, n) lies: about *count* boxes with
    equal numbers of points.
    """
    width = np.ptp(points, axis=1)
    width = np.maximum(width, max(width.max(), 1e-300) / count)  # of points on a line, too
    boxes_per_length = (count / np.prod(width)) ** (1 / len(points))
    n_along = np.rint(width * boxes_per_length)
    n_along = np.maximum(n_along, 1).astype(int)
    box = np.zeros(points.shape[1], np.int64)
    for x, n in zip(points, n_along):
        order = np.lexsort((x, box))
        ordered_box = box[order]
        first = np.searchsorted(ordered_box, ordered_box)
        size = np.bincount(box)[ordered_box]
        place = np.arange(len(order)) - first
        box[order] = ordered_box * n + place * n // size
    _, number = np.unique(box, return_inverse=True)
    return number.ravel()


def _symmetrise(matrices):
    return (matrices + matrices.transpose(0, 2, 1)) / 2


def _find_worst(energy, exact):
    """Eigenvalues of exact^-1 energy - 1, smallest first: those of the matrix for which they are
    largest.

    A piece of the mesh with only one row of cells in a direction has no energy, and no error, in
    it.
    """
    if not len(energy):
        return np.zeros(energy.shape[-1])
    scale, direction = np.linalg.eigh(exact)
    is_empty = scale <= 1e-9 * scale.max(axis=1, keepdims=True)
    positive_scale = np.where(is_empty, 1.0, scale)
    inverse_root = np.where(is_empty, 0.0, 1 / np.sqrt(positive_scale))
    scaled = direction * inverse_root[:, None, :]
    ratio = scaled.transpose(0, 2, 1) @ energy @ scaled
    for i in range(energy.shape[-1]):
        ratio[:, i, i] += is_empty[:, i]
    error = np.linalg.eigvalsh(ratio) - 1
    largest = np.abs(error).max(axis=1)
    return error[largest.argmax()]
