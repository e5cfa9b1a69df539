"""Two-point slopes: phi on cells only, for meshes whose faces are orthogonal to the lines between
cell points.

A copy (P, s) of an inner face s = K|L with distance d_s has the one slope

    d_s phi = (phi_L - phi_K) / d_s

with the weight omega_{P,s} = sum of |s| d_Ks over the sides of s inside P. Primal: minimise

    sum_n tau_n sum_s d_s^2 Phi_s^2 / (2 M_s)
    M_s = sum_P omega_{P,s} (rho_P^{n-1} + rho_P^n) / 2

(M_s one-sided at the ends) subject to |K| (rho^n - rho^{n-1})_K + tau_n sum_s +-Phi_s = 0. Phi_s is
the mass that flows through s per time.

Convergence needs sum_s omega_{P,s} n n^T = m_P I (the boundary faces included) for every patch:
where it does not hold, as on Voronoi cells, the limit cost is too small (Gladbach, Kopfer, Maas
2020). The weights are corrected so that it does, where the corrected scheme passes the patch test
(`mesh.patch_test`).
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Mesh
from ..mesh.face_exchange import find_face_exchange
from ..mesh.isotropic_weights import (
    as_vectors,
    compute_defect,
    compute_target,
    copy_faces,
    correct_weights,
)
from .discretisation import Discretisation
from .growth import Growth


class TwoPointDiscretisation(Discretisation):
    """The `Discretisation` with two-point slopes.

    isotropic : whether weights are corrected; None: where the mesh says so

    copy_face, copy_patch (n_copies,), copy_start (n_patches + 1,) : the copies of each patch
    plain_weight, weight (n_copies,) : omega_{P,s} as it is, and corrected to be isotropic
    left_weight, right_weight (n_inner,) : weights of the copies on both sides of a face; a face
        inside a patch has its one copy on the left
    """

    def __init__(
        self,
        mesh: Mesh,
        n_steps: int,
        *,
        isotropic: bool | None = None,
        growth: Growth | None = None,
    ):
        super().__init__(mesh, n_steps, mesh.n_cells, mesh.exchange, mesh.n_local, growth)
        self._find_copies()

        self.weight = self.plain_weight
        if isotropic is None:
            isotropic = mesh.corrects_weights
        if isotropic:
            normal = mesh.normal[:, self.copy_face]
            target = self._target()
            self.weight = correct_weights(self.plain_weight, normal, self.copy_patch, target)
        self._weigh_faces()

    def _find_copies(self):
        mesh = self.mesh
        n = self.mesh.n_inner
        left = np.flatnonzero(mesh.left[:n] < mesh.n_cells)
        right = np.flatnonzero(mesh.right[:n] < mesh.n_cells)
        face = np.concatenate([left, right])
        cell = np.concatenate([mesh.left[left], mesh.right[right]])
        owner = self.patch[cell]
        left_distance = mesh.left_distance[left]
        right_distance = mesh.right_distance[right]
        distance = np.concatenate([left_distance, right_distance])
        side = mesh.area[face] * distance

        self.copy_patch, self.copy_face, self.plain_weight, copy = copy_faces(owner, face, side, n)
        self.n_copies = len(self.plain_weight)
        self.copy_start = np.searchsorted(self.copy_patch, np.arange(self.n_patches + 1))

        n_left = len(left)
        left_copy = copy[:n_left]
        right_copy = copy[n_left:]
        self._sides = left, right, left_copy, right_copy

    def _target(self):
        mesh = self.mesh
        walls = slice(self.mesh.n_inner, None)
        weight = (mesh.area * mesh.left_distance)[walls]
        wall_cell = mesh.left[walls]
        wall_patch = self.patch[wall_cell]
        normal = mesh.normal[:, walls]
        return compute_target(self.volume, wall_patch, weight, normal)

    def isotropy_defect(self) -> Array:
        """|sum_s omega n n^T / m_P - I| (Frobenius) of each patch, the boundary faces included."""
        normal = self.mesh.normal[:, self.copy_face]
        target = as_vectors(self._target())
        defect = compute_defect(target, self.weight, normal, self.copy_patch)
        size = np.linalg.norm(defect, axis=1)
        return size / self.volume

    def _weigh_faces(self):
        n = self.mesh.n_inner
        left, right, left_copy, right_copy = self._sides
        inside = np.full(n, -1)  # the copy of the left side
        inside[left] = left_copy
        self.left_weight = np.zeros(n)
        self.right_weight = np.zeros(n)
        self.left_weight[left] = self.weight[left_copy]
        is_inside = inside[right] == right_copy
        self.right_weight[right] = np.where(is_inside, 0, self.weight[right_copy])

        mine = self.left_weight + self.right_weight
        exchange = find_face_exchange(self.mesh)
        theirs = exchange(mine, into=np.zeros(n))
        is_left_ghost = self.mesh.left[:n] >= self.mesh.n_cells
        is_right_ghost = self.mesh.right[:n] >= self.mesh.n_cells
        self.left_weight[is_left_ghost] = theirs[is_left_ghost]
        self.right_weight[is_right_ghost] = theirs[is_right_ghost]

    # ---- the operators ---------------------------------------------------------------------------

    def gradient(self, phi: Array) -> Array:
        """d_s phi (n_inner, k) of cell values (n_cells, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(phi)
        left = local[mesh.left[:n]]
        right = local[mesh.right[:n]]
        return (right - left) / mesh.distance[:n, None]

    def slopes(self, phi: Array) -> Array:
        """See `Discretisation`; one slope for each copy."""
        slope = self.gradient(phi)[self.copy_face]
        at_begin = slope[:, :-1]
        at_end = slope[:, 1:]
        return np.stack([at_begin, at_end], axis=1)

    def square(self, b: Array) -> Array:
        """|b|^2 (n_patches, N) of b (n_copies, 2, N)."""
        total = np.zeros((self.n_patches, self.n_steps))
        square_of_copy = (b**2).sum(axis=1)
        np.add.at(total, self.copy_patch, self.weight[:, None] * square_of_copy)
        return total / (2 * self.volume[:, None])

    def mobility(self, rho: Array) -> Array:
        """M_s (n_inner, k) of patch values (n_patches, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(self.spread(rho))
        left = local[mesh.left[:n]]
        right = local[mesh.right[:n]]
        return self.left_weight[:, None] * left + self.right_weight[:, None] * right

    def cost_fluxes(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: d_s^2 Phi_s^2 / M_s of the faces that this rank owns."""
        mesh = self.mesh
        n = mesh.n_inner
        own = mesh.face_owned[:n]

        # A piece of the mesh may have no mass at all.
        with np.errstate(divide="ignore", invalid="ignore"):
            costs = mesh.distance[:n, None] ** 2 * flux**2 / mobility
        return np.where(flux == 0, 0.0, costs)[own]

    def square_speeds(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: (d_s Phi_s / M_s)^2."""
        mesh = self.mesh
        n = mesh.n_inner
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            squares = (mesh.distance[:n, None] * flux / mobility) ** 2
        return squares[mesh.face_owned[:n]]

    def find_face_fluxes(self, flux: Array) -> Array:
        """See `Discretisation`."""
        through = np.zeros((flux.shape[1], self.mesh.n_faces))
        through[:, : self.mesh.n_inner] = flux.T
        return through

    def find_velocities(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: means of face velocities, which are differences of a potential."""
        mesh = self.mesh
        n = mesh.n_inner
        through = np.zeros((flux.shape[1], mesh.n_faces))
        through[:, :n] = (mesh.area[:n] * mesh.distance[:n] * flux.T) / mobility.T
        return np.stack([cell_velocity(mesh, U) for U in through])
