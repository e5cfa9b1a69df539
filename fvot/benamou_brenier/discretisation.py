"""The discrete Benamou-Brenier problem on a mesh: phi on cells and time nodes, rho on patches and
time slabs.

Time: N slabs of length tau = 1/N; slab j lies between the nodes j and j + 1; node weights tau_n =
tau, tau/2 at both ends. Space: cells K, inner faces s = K|L with distance d_s; patches P, unions of
cells of volume m_P. A patch and a face s of its cells make a *copy*, with the weight omega_{P,s} =
sum of |s| d_Ks over the sides of s inside P.

Dual:   max L(phi) = sum_K |K| (rho1_K phi_K^N - rho0_K phi_K^0)   subject to, for all P and j,
        v = a + |b|^2 / 2 <= 0,   a = (Q phi^{j+1} - Q phi^j)_P / tau,   (Q phi)_P = sum_{K in P}
        |K| phi_K / m_P, |b|^2 = sum_s omega_{P,s} / (2 m_P) (|d_s phi^j|^2 + |d_s phi^{j+1}|^2),
        d_s phi = (phi_L - phi_K) / d_s
Primal: min sum_n tau_n sum_s d_s^2 Phi_s^2 / (2 M_s),   M_s = sum_P omega_{P,s} (rho_P^{n-1} +
rho_P^n) / 2 (one-sided at
        the ends), subject to |K| (rho^n - rho^{n-1})_K + tau_n sum_s +-Phi_s = 0, with rho0, rho1
        in place of rho^{-1}, rho^N

Phi_s is the mass that flows through s per time; W2^2 is twice either value. The map Lambda phi =
(a, b), with one b for each copy, slab j and end e (node j + e), has copies on the rank of the patch
alone; only phi needs ghosts.

Convergence needs sum_s omega_{P,s} n n^T = m_P I (the boundary faces included) for every patch:
where it does not hold, as on Voronoi cells, the limit cost is too small (Gladbach, Kopfer, Maas
2020). The weights are corrected so that it does, where the corrected scheme passes the patch test
(`mesh.patch_test`).
"""

from functools import cached_property

import numpy as np
from scipy import sparse

from ..finite_volume import face_flux
from ..mesh.face_exchange import find_face_exchange
from ..mesh.isotropic_weights import copies, isotropic_weights, missing, symmetric, target
from ..parallel import Exchange

# ---- time --------------------------------------------------------------------------------------------------------------


# ---- space and time ----------------------------------------------------------------------------------------------------


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

    def __init__(self, mesh, n_steps, *, isotropic=None):
        self.mesh = mesh
        self.n_steps = n_steps
        self.tau = 1 / n_steps
        self.patch = np.unique(mesh.patch, return_inverse=True)[1].ravel()
        self.n_patches = int(self.patch.max(initial=-1)) + 1
        self.volume = np.bincount(self.patch, mesh.volume, self.n_patches)
        self.cells = np.lexsort((mesh.cell_id[: mesh.n_cells], self.patch))
        self.cell_start = np.searchsorted(self.patch[self.cells], np.arange(self.n_patches + 1))
        self._find_copies()
        self.weight = self.plain_weight
        if mesh.corrects_weights if isotropic is None else isotropic:
            normal = mesh.normal[:, self.copy_face]
            self.weight = correct_weights(
                self.plain_weight, normal, self.copy_patch, self._target()
            )
        self._weigh_faces()
        self._prepare_adjoint()

    def _find_copies(self):
        mesh = self.mesh
        n = self.mesh.n_inner
        left = np.flatnonzero(mesh.left[:n] < mesh.n_cells)
        right = np.flatnonzero(mesh.right[:n] < mesh.n_cells)
        face = np.concatenate([left, right])
        owner = self.patch[np.concatenate([mesh.left[left], mesh.right[right]])]
        side = mesh.area[face] * np.concatenate(
            [mesh.left_distance[left], mesh.right_distance[right]]
        )
        self.copy_patch, self.copy_face, self.plain_weight, copy = copy_faces(owner, face, side, n)
        self.n_copies = len(self.plain_weight)
        self.copy_start = np.searchsorted(self.copy_patch, np.arange(self.n_patches + 1))
        self._sides = left, right, copy[: len(left)], copy[len(left) :]

    def _target(self):
        mesh = self.mesh
        walls = slice(self.mesh.n_inner, None)
        weight = (mesh.area * mesh.left_distance)[walls]
        return compute_target(
            self.volume, self.patch[mesh.left[walls]], weight, mesh.normal[:, walls]
        )

    def isotropy_defect(self):
        """|sum_s omega n n^T / m_P - I| (Frobenius), the boundary faces included, of each patch:
        (n_patches,).
        """
        lack = compute_defect(
            as_vectors(self._target()),
            self.weight,
            self.mesh.normal[:, self.copy_face],
            self.copy_patch,
        )
        return np.linalg.norm(lack, axis=1) / self.volume

    def _weigh_faces(self):
        n = self.mesh.n_inner
        left, right, left_copy, right_copy = self._sides
        inside = np.full(n, -1)  # the copy of the left side
        inside[left] = left_copy
        self.left_weight = np.zeros(n)
        self.right_weight = np.zeros(n)
        self.left_weight[left] = self.weight[left_copy]
        self.right_weight[right] = np.where(inside[right] == right_copy, 0, self.weight[right_copy])
        mine = self.left_weight + self.right_weight
        theirs = find_face_exchange(self.mesh)(mine, into=np.zeros(n))
        far_left = self.mesh.left[:n] >= self.mesh.n_cells
        far_right = self.mesh.right[:n] >= self.mesh.n_cells
        self.left_weight[far_left], self.right_weight[far_right] = (
            theirs[far_left],
            theirs[far_right],
        )

    def _prepare_adjoint(self):
        mesh = self.mesh
        n_copies = self.n_copies
        slope = self.weight / mesh.distance[self.copy_face]
        ends = np.concatenate([mesh.right[self.copy_face], mesh.left[self.copy_face]])
        self._scatter = sparse.csr_matrix(
            (np.concatenate([slope, -slope]), (ends, np.tile(np.arange(n_copies), 2))),
            (mesh.n_local, n_copies),
        )
        sent = mesh.exchange.send
        stop = np.cumsum([0] + [len(index) for index in sent.values()])
        owners = np.concatenate([*sent.values(), np.empty(0, np.intp)]).astype(np.intp)
        self._back = Exchange(
            mesh.ranks,
            mesh.exchange.receive,
            {q: np.arange(a, b) for q, a, b in zip(sent, stop, stop[1:], strict=False)},
        )
        self._arrive = sparse.csr_matrix(
            (np.ones(len(owners)), (owners, np.arange(len(owners)))), (mesh.n_cells, len(owners))
        )

    # ---- between cells, patches and ghosts ---------------------------------------------------------------------------

    def with_ghosts(self, u):
        """Own values (n_cells, k) followed by those of the ghosts: (n_local, k); not a copy where
        there are no ghosts.
        """
        if self.mesh.n_local == self.mesh.n_cells:
            return u
        local = np.empty((self.mesh.n_local, u.shape[1]), u.dtype)
        local[: self.mesh.n_cells] = u
        self.mesh.exchange(local.T)
        return local

    def to_owners(self, local):
        """Values (n_local, k) with those of ghosts added to their owners': (n_cells, k). The
        transpose of `with_ghosts`.
        """
        own = local[: self.mesh.n_cells]
        if not self._arrive.nnz and not self._back.send:
            return own
        arrived = np.empty((self._arrive.shape[1], local.shape[1]), local.dtype)
        self._back(local.T, into=arrived.T)
        return own + (self._arrive @ arrived).astype(local.dtype)

    def average(self, u):
        """Q u: the means over patches (n_patches, ...) of cell values (n_cells, ...)."""
        weighted = (self.mesh.volume * u.T).T[self.cells]
        return (np.add.reduceat(weighted, self.cell_start[:-1], axis=0).T / self.volume).T

    def spread(self, u):
        """Patch values (n_patches, ...) as cell values (n_cells, ...)."""
        return u[self.patch]

    @cached_property
    def component(self):
        """The connected piece of the whole mesh to which each patch belongs: (n_patches,), numbered
        from 0.

        Raises `InputError` if a patch lies in two pieces.
        """
        piece = face_flux.find_pieces(self.mesh)
        number = np.empty(self.n_patches, piece.dtype)
        number[self.patch] = piece
        self.mesh.ranks.check(
            (number[self.patch] == piece).all(),
            "a patch lies in two pieces of the mesh that do not touch: give other patches",
        )
        return number

    @cached_property
    def n_components(self):
        """Number of connected pieces of the mesh."""
        return int(self.mesh.ranks.max(self.component.max(initial=-1))) + 1

    def masses(self, rho):
        """The mass (n_components, k) in every piece of the mesh, of patch values (n_patches, k)."""
        order, start = self._by_component
        weighted = np.ascontiguousarray(
            (self.volume * rho.T)[:, order]
        )  # summed pairwise: round-off stays small
        mine = np.stack([weighted[:, a:b].sum(axis=1) for a, b in zip(start, start[1:])])
        return self.mesh.ranks.sum(mine)

    @cached_property
    def _by_component(self):
        order = np.argsort(self.component, kind="stable")
        return order, np.searchsorted(self.component[order], np.arange(self.n_components + 1))

    # ---- the operators -----------------------------------------------------------------------------------------------

    def gradient(self, phi):
        """d_s phi (n_inner, k) of cell values (n_cells, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(phi)
        return (local[mesh.right[:n]] - local[mesh.left[:n]]) / mesh.distance[:n, None]

    def apply(self, phi):
        """Lambda phi: a (n_patches, N) and b (n_copies, 2, N) of phi (n_cells, N + 1)."""
        slope = self.gradient(phi)[self.copy_face]
        return np.diff(self.average(phi)) / self.tau, np.stack(
            [slope[:, :-1], slope[:, 1:]], axis=1
        )

    def adjoint(self, a, b, theta=1.0):
        """Lambda* (a, b) (n_cells, N + 1): sum phi Lambda*(a, b) = <Lambda phi, (a, b)>,

        where <.,.> has the weights tau m_P theta^2 for a and tau omega_{P,s} / 2 for b.
        """
        nodes = np.zeros((self.n_copies, self.n_steps + 1))
        nodes[:, :-1] += self.tau / 2 * b[:, 0]
        nodes[:, 1:] += self.tau / 2 * b[:, 1]
        jump = np.pad(a, ((0, 0), (1, 1)))
        jump = self.spread(jump[:, :-1] - jump[:, 1:])
        return self.to_owners(self._scatter @ nodes) + theta**2 * self.mesh.volume[:, None] * jump

    def square(self, b):
        """|b|^2 (n_patches, N) of b (n_copies, 2, N)."""
        total = np.zeros((self.n_patches, self.n_steps))
        np.add.at(total, self.copy_patch, self.weight[:, None] * (b**2).sum(axis=1))
        return total / (2 * self.volume[:, None])

    def violation(self, phi):
        """v = a + |b|^2 / 2 (n_patches, N) of phi (n_cells, N + 1)."""
        a, b = self.apply(phi)
        return a + self.square(b) / 2

    def source(self, rho0, rho1):
        """L' (n_cells, N + 1), the data's part of the right-hand side: L(phi) = sum phi L'."""
        source = np.zeros((self.mesh.n_cells, self.n_steps + 1))
        source[:, 0], source[:, -1] = -self.mesh.volume * rho0, self.mesh.volume * rho1
        return source

    def mobility(self, rho):
        """M_s (n_inner, k) of patch values (n_patches, k)."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = self.with_ghosts(self.spread(rho))
        return (
            self.left_weight[:, None] * local[mesh.left[:n]]
            + self.right_weight[:, None] * local[mesh.right[:n]]
        )

    def laplacian(self, weight):
        """Rows of this rank (CSR, n_cells x n_local) of the matrix of sum_s weight_s / d_s^2 (u_K -
        u_L).
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        t = weight / mesh.distance[:n] ** 2
        left = mesh.left[:n]
        right = mesh.right[:n]
        rows, columns = (
            np.concatenate([left, left, right, right]),
            np.concatenate([left, right, right, left]),
        )
        own = rows < mesh.n_cells
        return sparse.csr_matrix(
            (np.concatenate([t, -t, t, -t])[own], (rows[own], columns[own])),
            (mesh.n_cells, mesh.n_local),
        )

    @cached_property
    def stiffness(self):
        """K_x: `laplacian` of the weights sum_P omega_{P,s}; the two-point matrix |s| / d_s where
        nothing is corrected.
        """
        return self.laplacian(self.left_weight + self.right_weight)

    def space_operator(self, phi, shift):
        """K_x phi + shift Q^T M_P Q phi for phi (n_cells, k), shift (k,)."""
        return self.stiffness @ self.with_ghosts(phi) + shift * self.mesh.volume[
            :, None
        ] * self.spread(self.average(phi))
