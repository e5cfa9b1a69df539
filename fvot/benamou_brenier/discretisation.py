"""The discrete Benamou-Brenier problem on a mesh: phi on cells and time nodes, rho on patches and
time slabs.

Time: N slabs of length tau = 1/N; slab j lies between the nodes j and j + 1; node weights tau_n =
tau, tau/2 at both ends. Space: cells K, inner faces s = K|L with distance d_s; patches P, unions of
cells of volume m_P. A patch and a face s of its cells make a *copy*, with the weight omega_{P,s} =
sum of |s| d_Ks over the sides of s inside P.

Dual: maximise

    L(phi) = sum_K |K| (rho1_K phi_K^N - rho0_K phi_K^0)

subject to v = a + |b|^2 / 2 <= 0 for all P and j, where

    a       = (Q phi^{j+1} - Q phi^j)_P / tau,      (Q phi)_P = sum_{K in P} |K| phi_K / m_P
    |b|^2   = sum_s omega_{P,s} / (2 m_P) (|d_s phi^j|^2 + |d_s phi^{j+1}|^2)
    d_s phi = (phi_L - phi_K) / d_s

Primal: minimise

    sum_n tau_n sum_s d_s^2 Phi_s^2 / (2 M_s)
    M_s = sum_P omega_{P,s} (rho_P^{n-1} + rho_P^n) / 2

(M_s one-sided at the ends) subject to |K| (rho^n - rho^{n-1})_K + tau_n sum_s +-Phi_s = 0, with
rho0, rho1 in place of rho^{-1}, rho^N.

Phi_s is the mass that flows through s per time; W2^2 is twice either value. The map Lambda phi =
(a, b), with one b for each copy, slab j and end e (node j + e), keeps its copies on the rank of the
patch alone; only phi needs ghosts.

Convergence needs sum_s omega_{P,s} n n^T = m_P I (the boundary faces included) for every patch:
where it does not hold, as on Voronoi cells, the limit cost is too small (Gladbach, Kopfer, Maas
2020). The weights are corrected so that it does, where the corrected scheme passes the patch test
(`mesh.patch_test`).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..mesh import Mesh
from ..mesh.connected_pieces import find_connected_pieces
from ..mesh.face_exchange import find_face_exchange
from ..mesh.isotropic_weights import (
    as_vectors,
    compute_defect,
    compute_target,
    copy_faces,
    correct_weights,
)
from ..parallel import Exchange
from .distributed_matrix import append_ghosts
from .ends import Ends


class Discretisation:
    """The problem's operators on a mesh and n_steps slabs; arrays hold this rank's part, time last.

    n_steps, tau, n_patches, n_copies : numbers
    patch (n_cells,) : this rank's number of each cell's patch; volume (n_patches,) : m_P
    cells (n_cells,), cell_start (n_patches + 1,) : the cells of each patch
    copy_face, copy_patch (n_copies,), copy_start (n_patches + 1,) : the copies of each patch
    plain_weight, weight (n_copies,) : omega_{P,s} as it is, and corrected to be isotropic where the
        mesh says so
    left_weight, right_weight (n_inner,) : weights of the copies on both sides of a face; a face
        inside a patch has its one copy on the left
    """

    def __init__(self, mesh: Mesh, n_steps: int, *, isotropic: bool | None = None):
        self.mesh = mesh
        self.n_steps = n_steps
        self.tau = 1 / n_steps
        _, patch = np.unique(mesh.patch, return_inverse=True)
        self.patch = patch.ravel()
        self.n_patches = int(self.patch.max(initial=-1)) + 1
        self.volume = np.bincount(self.patch, mesh.volume, self.n_patches)

        own_id = mesh.cell_id[: mesh.n_cells]
        self.cells = np.lexsort((own_id, self.patch))
        sorted_patch = self.patch[self.cells]
        self.cell_start = np.searchsorted(sorted_patch, np.arange(self.n_patches + 1))
        self._find_copies()

        self.weight = self.plain_weight
        if isotropic is None:
            isotropic = mesh.corrects_weights
        if isotropic:
            normal = mesh.normal[:, self.copy_face]
            target = self._target()
            self.weight = correct_weights(self.plain_weight, normal, self.copy_patch, target)
        self._weigh_faces()
        self._prepare_way_back()

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

    def _prepare_way_back(self):
        """Values of ghosts travel back to their owners."""
        mesh = self.mesh
        sent = mesh.exchange.send
        owners = np.concatenate([*sent.values(), np.empty(0, np.intp)])
        owners = owners.astype(np.intp)
        n_arriving = len(owners)
        places = {}
        begin = 0
        for rank, index in sent.items():
            end = begin + len(index)
            places[rank] = np.arange(begin, end)
            begin = end

        self._back = Exchange(mesh.ranks, mesh.exchange.receive, places)
        ones = np.ones(n_arriving)
        entries = (owners, np.arange(n_arriving))
        self._arrive = sparse.csr_matrix((ones, entries), (mesh.n_cells, n_arriving))

    # ---- between cells, patches and ghosts -------------------------------------------------------

    def with_ghosts(self, u: Array) -> Array:
        """Own values (n_cells, k) followed by those of the ghosts: (n_local, k); not a copy where
        there are no ghosts.
        """
        return append_ghosts(u, self.mesh.n_local, self.mesh.exchange)

    def to_owners(self, local: Array) -> Array:
        """Values (n_local, k) with those of ghosts added to their owners': (n_cells, k). The
        transpose of `with_ghosts`.
        """
        own = local[: self.mesh.n_cells]
        if not self._arrive.nnz and not self._back.send:
            return own
        n_arriving = self._arrive.shape[1]
        n_columns = local.shape[1]
        arrived = np.empty((n_arriving, n_columns), local.dtype)
        self._back(local.T, into=arrived.T)
        added = self._arrive @ arrived
        return own + added.astype(local.dtype, copy=False)

    def average(self, u: Array) -> Array:
        """Q u: the means over patches (n_patches, ...) of cell values (n_cells, ...)."""
        weighted = (self.mesh.volume * u.T).T[self.cells]
        first_cell = self.cell_start[:-1]
        sums = np.add.reduceat(weighted, first_cell, axis=0)
        return (sums.T / self.volume).T

    def spread(self, u: Array) -> Array:
        """Patch values (n_patches, ...) as cell values (n_cells, ...)."""
        return u[self.patch]

    @cached_property
    def component(self) -> IntArray:
        """The connected piece of the whole mesh to which each patch belongs: (n_patches,), numbered
        from 0.

        Raises `InputError` if a patch lies in two pieces.
        """
        piece, _ = find_connected_pieces(self.mesh)
        number = np.empty(self.n_patches, piece.dtype)
        number[self.patch] = piece
        self.mesh.ranks.check(
            (number[self.patch] == piece).all(),
            "a patch lies in two pieces of the mesh that do not touch: give other patches",
        )
        return number

    @cached_property
    def n_components(self) -> int:
        """Number of connected pieces of the mesh."""
        own_last = self.component.max(initial=-1)
        last = self.mesh.ranks.max(own_last)
        return int(last) + 1

    def masses(self, rho: Array) -> Array:
        """The mass (n_components, k) in every piece of the mesh, of patch values (n_patches, k)."""
        order, start = self._by_component

        # Contiguous rows are summed pairwise, so that round-off stays small.
        weighted = (self.volume * rho.T)[:, order]
        weighted = np.ascontiguousarray(weighted)
        sums = []
        for begin, end in zip(start, start[1:]):
            piece = weighted[:, begin:end]
            sums.append(piece.sum(axis=1))

        mine = np.stack(sums)
        return self.mesh.ranks.sum(mine)

    @cached_property
    def _by_component(self):
        order = np.argsort(self.component, kind="stable")
        sorted_component = self.component[order]
        start = np.searchsorted(sorted_component, np.arange(self.n_components + 1))
        return order, start

    # ---- the operators ---------------------------------------------------------------------------

    def gradient(self, phi: Array) -> Array:
        """d_s phi (n_inner, k) of cell values (n_cells, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(phi)
        left = local[mesh.left[:n]]
        right = local[mesh.right[:n]]
        return (right - left) / mesh.distance[:n, None]

    def apply(self, phi: Array) -> tuple[Array, Array]:
        """Lambda phi: a (n_patches, N) and b (n_copies, 2, N) of phi (n_cells, N + 1)."""
        slope = self.gradient(phi)[self.copy_face]
        mean = self.average(phi)
        a = np.diff(mean) / self.tau
        at_begin = slope[:, :-1]
        at_end = slope[:, 1:]
        b = np.stack([at_begin, at_end], axis=1)
        return a, b

    def square(self, b: Array) -> Array:
        """|b|^2 (n_patches, N) of b (n_copies, 2, N)."""
        total = np.zeros((self.n_patches, self.n_steps))
        square_of_copy = (b**2).sum(axis=1)
        np.add.at(total, self.copy_patch, self.weight[:, None] * square_of_copy)
        return total / (2 * self.volume[:, None])

    def violation(self, phi: Array) -> Array:
        """v = a + |b|^2 / 2 (n_patches, N) of phi (n_cells, N + 1)."""
        a, b = self.apply(phi)
        return a + self.square(b) / 2

    def source(self, ends: Ends) -> Array:
        """L' (n_cells, N + 1), the data's part of the right-hand side: L(phi) = sum phi L'."""
        source = np.zeros((self.mesh.n_cells, self.n_steps + 1))
        source[:, 0] = -self.mesh.volume * ends.rho0
        source[:, -1] = self.mesh.volume * ends.rho1
        return source

    def mobility(self, rho: Array) -> Array:
        """M_s (n_inner, k) of patch values (n_patches, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(self.spread(rho))
        left = local[mesh.left[:n]]
        right = local[mesh.right[:n]]
        return self.left_weight[:, None] * left + self.right_weight[:, None] * right
