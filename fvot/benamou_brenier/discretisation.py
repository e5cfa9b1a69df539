"""The discrete Benamou-Brenier problem on a mesh: phi on points and time nodes, rho on patches and
time slabs.

Time: N slabs of length tau = 1/N; slab j lies between the nodes j and j + 1; node weights tau_n =
tau, tau/2 at both ends. Space: phi at points x_a, which are the cells K, and where a scheme needs
them also nodes i that have no volume; rho on patches P, unions of cells of volume m_P. A patch and
a face s of its cells make a *copy* c. A scheme has for each copy a few slopes b_c, linear in phi,
and a weight w_c (see `two_point` and `diamonds`).

Dual: maximise

    L(phi) = sum_K |K| (rho1_K phi_K^N - rho0_K phi_K^0)

subject to v = a + |b|^2 / 2 <= 0 for all P and j, where

    a     = (Q phi^{j+1} - Q phi^j)_P / tau,      (Q phi)_P = sum_{K in P} |K| phi_K / m_P
    |b|^2 = sum_c w_c / (2 m_P) (|b_c phi^j|^2 + |b_c phi^{j+1}|^2)

Primal: minimise the action of the density and of the mass that flows between points,

    |K| (rho^n - rho^{n-1})_K + tau_n (what leaves K per time) = 0,    with rho0, rho1 in place of
    rho^{-1}, rho^N

Nodes keep nothing: what comes to one adds up to 0. W2^2 is twice either value. The map Lambda phi =
(a, b), with one b for each copy, slab j and end e (node j + e), keeps its copies on the rank of the
patch alone; only phi needs ghosts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..mesh import Mesh
from ..mesh.connected_pieces import find_connected_pieces
from ..parallel import Exchange
from .distributed_matrix import append_ghosts
from .ends import Ends
from .growth import FisherRao, Growth, find_reaction, weigh_slabs


class Discretisation(ABC):
    """The problem's operators on a mesh and n_steps slabs; arrays hold this rank's part, time last.

    n_points : of this rank: its cells first, then the nodes of some schemes
    exchange, n_local : fills the ghosts of n_local points, own ones first

    has_fisher_rao : whether growth is a copy of each cell
    growth : how mass may grow (see `growth`), or None
    slab_weights (n_steps,) : of the metric of the iteration
    n_steps, tau, n_patches, n_copies : numbers
    patch (n_cells,) : this rank's number of each cell's patch; volume (n_patches,) : m_P
    cells (n_cells,), cell_start (n_patches + 1,) : the cells of each patch
    copy_face, copy_patch (n_copies,), copy_start (n_patches + 1,) : the copies of each patch
    """

    copy_face: IntArray
    copy_patch: IntArray
    copy_start: IntArray
    n_copies: int

    def __init__(
        self,
        mesh: Mesh,
        n_steps: int,
        n_points: int,
        exchange: Exchange,
        n_local: int,
        growth: Growth | None,
    ):
        self.mesh = mesh
        self.n_steps = n_steps
        self.growth = growth
        self.has_fisher_rao = isinstance(growth, FisherRao)
        self.slab_weights = weigh_slabs(n_steps) if self.has_fisher_rao else np.ones(n_steps)
        self.n_points = n_points
        self.exchange = exchange
        self.n_local = n_local
        self.tau = 1 / n_steps
        _, patch = np.unique(mesh.patch, return_inverse=True)
        self.patch = patch.ravel()
        self.n_patches = int(self.patch.max(initial=-1)) + 1
        self.volume = np.bincount(self.patch, mesh.volume, self.n_patches)

        own_id = mesh.cell_id[: mesh.n_cells]
        self.cells = np.lexsort((own_id, self.patch))
        sorted_patch = self.patch[self.cells]
        self.cell_start = np.searchsorted(sorted_patch, np.arange(self.n_patches + 1))
        self._prepare_way_back()

    def _prepare_way_back(self):
        """Values of ghosts travel back to their owners."""
        sent = self.exchange.send
        owners = np.concatenate([*sent.values(), np.empty(0, np.intp)])
        owners = owners.astype(np.intp)
        n_arriving = len(owners)
        places = {}
        begin = 0
        for rank, index in sent.items():
            end = begin + len(index)
            places[rank] = np.arange(begin, end)
            begin = end

        self._back = Exchange(self.mesh.ranks, self.exchange.receive, places)
        ones = np.ones(n_arriving)
        entries = (owners, np.arange(n_arriving))
        self._arrive = sparse.csr_matrix((ones, entries), (self.n_points, n_arriving))

    # ---- between points, patches and ghosts ------------------------------------------------------

    def with_ghosts(self, u: Array) -> Array:
        """Own values (n_points, k) followed by those of the ghosts: (n_local, k); not a copy where
        there are no ghosts.
        """
        return append_ghosts(u, self.n_local, self.exchange)

    def to_owners(self, local: Array) -> Array:
        """Values (n_local, k) with those of ghosts added to their owners': (n_points, k). The
        transpose of `with_ghosts`.
        """
        own = local[: self.n_points]
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
    def has_single_cells(self) -> bool:
        """Whether all patches are single cells. The first call is collective."""
        own_difference = self.mesh.n_cells - self.n_patches
        return self.mesh.ranks.max(own_difference) == 0

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

    @cached_property
    def point_component(self) -> IntArray:
        """The connected piece (n_points,) to which each point belongs."""
        return self.component[self.patch]

    def pack(self, phi: Array) -> Array:
        """phi (n_points, N + 1) as an array whose last axis is that of the cells."""
        return phi.T

    def unpack(self, packed: Array) -> Array:
        """phi (n_points, N + 1) of what `pack` has made of it, on any number of ranks."""
        return np.ascontiguousarray(packed.T)

    # ---- the operators ---------------------------------------------------------------------------

    @abstractmethod
    def slopes(self, phi: Array) -> Array:
        """b (n_rows, 2, N) of phi (n_points, N + 1): the slopes of each copy."""

    @abstractmethod
    def square(self, b: Array) -> Array:
        """|b|^2 (n_patches, N) of b (n_rows, 2, N)."""

    @abstractmethod
    def mobility(self, rho: Array) -> Array:
        """The mobility (..., k) of the scheme's fluxes, for patch values rho (n_patches, k)."""

    @abstractmethod
    def cost_fluxes(self, flux: Array, mobility: Array) -> Array:
        """The action per time (n, k) of fluxes (..., k), in the parts that this rank counts."""

    @abstractmethod
    def square_speeds(self, flux: Array, mobility: Array) -> Array:
        """The squares (n, k) of the speeds in these parts."""

    @abstractmethod
    def find_face_fluxes(self, flux: Array) -> Array:
        """What crosses each face per time, along its normal: (k, n_faces). Collective."""

    @abstractmethod
    def find_velocities(self, flux: Array, mobility: Array) -> Array:
        """The mean velocities (k, dim, n_cells) of the cells."""

    def apply(self, phi: Array) -> tuple[Array, Array]:
        """Lambda phi: a (n_patches, N) and b (n_rows, 2, N) of phi (n_points, N + 1)."""
        mean = self.average(phi[: self.mesh.n_cells])
        a = np.diff(mean) / self.tau
        return a, self.slopes(phi)

    @property
    def reaction(self) -> float:
        """What growth adds to the Laplacian; 0 where mass cannot grow."""
        return find_reaction(self.growth)

    def growth_square(self, phi: Array) -> Array:
        """|c|^2 (n_patches, N) of phi (n_points, N + 1)."""
        mean_square = self.reaction * self.average(phi[: self.mesh.n_cells] ** 2)
        return (mean_square[:, :-1] + mean_square[:, 1:]) / 2

    def violation(self, phi: Array) -> Array:
        """v = a + |b|^2 / 2 + |c|^2 / 2 (n_patches, N) of phi (n_points, N + 1)."""
        a, b = self.apply(phi)
        v = a + self.square(b) / 2
        if self.has_fisher_rao:
            v += self.growth_square(phi) / 2
        return v

    def source(self, ends: Ends) -> Array:
        """L' (n_points, N + 1), the data's part of the right-hand side: L(phi) = sum phi L'."""
        n = self.mesh.n_cells
        source = np.zeros((self.n_points, self.n_steps + 1))
        source[:n, 0] = -self.mesh.volume * ends.rho0
        source[:n, -1] = self.mesh.volume * ends.rho1
        return source
