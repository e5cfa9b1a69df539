"""The linear half of the iteration: (theta^2 K_t x Q^T M_P Q + M_t x K_x) phi = f.

K_x is the Laplacian with the weights sum_P omega_{P,s} / d_s^2, which are |s| / d_s unless they are
corrected. The eigenvectors V of theta^2 K_t V = M_t V diag(s) decouple it: with f^ = f V and phi =
phi^ V^T there is one equation in space for each mode, (K_x + s_k Q^T M_P Q) phi^_k = f^_k. Where
s_0 = 0 the mean is not determined, and set to 0. With an energy at the end, theta_e^2 e_N e_N^T is
added to theta^2 K_t (see `terminal`). With growth, |K| / delta^2 is added to K_x, and slabs have
weights in K_t and M_t (see `growth`); then the mean is determined.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import DTypeLike
from scipy import fft

from ..arguments.types import Array
from ..parallel import ColumnDeal
from .discretisation import Discretisation
from .disjoint import Disjoint
from .time_basis import time_modes


class CosinePoisson:
    """Direct solves on a Cartesian mesh.

    Cosine transforms between walls, Fourier transforms along periods, but elimination along the
    first axis, if it has walls: that is several times faster. The penalty is uniform. Each rank
    solves for the whole mesh and its share of the modes.

    end : theta_e^2
    """

    def __init__(
        self,
        disc: Discretisation,
        theta: float,
        dtype: DTypeLike = np.float64,
        end: float = 0.0,
    ):
        block = disc.mesh.block
        assert block is not None  # Cartesian meshes have one
        dim = disc.mesh.dim
        self.shape = tuple(block.grid)
        self.eliminates = not block.periodic[0]
        transformed = range(1 if self.eliminates else 0, dim)
        self.walls = [axis for axis in transformed if not block.periodic[axis]]
        self.periods = [axis for axis in transformed if block.periodic[axis]]

        V, shift = time_modes(disc.n_steps, theta, end, disc.slab_weights)
        own = disc.mesh.cell_id[: disc.mesh.n_cells]
        self.deal = ColumnDeal(disc.mesh.ranks, own)
        own_shift = shift[self.deal.columns(len(V))] + disc.reaction
        symbol = own_shift.reshape((1,) * dim + (-1,))
        for axis in transformed:
            wave = self._list_eigenvalues(axis, block)
            symbol = symbol + wave.reshape([-1 if a == axis else 1 for a in range(dim + 1)])

        cell_volume = np.prod(block.spacing)
        self.V = V.astype(dtype)
        if self.eliminates:
            self.is_null = symbol[0] == 0  # a constant
            coupling = cell_volume / block.spacing[0] ** 2
            self.coupling = self.V.dtype.type(coupling)
            pivot = _find_inverse_pivots(self.shape[0], cell_volume * symbol[0], coupling)
            pivot[-1, self.is_null] = 0.0
            self.inverse = pivot.astype(dtype)
        else:
            symbol = cell_volume * symbol
            symbol[symbol == 0] = np.inf  # a constant
            self.inverse = (1 / symbol).astype(dtype)

    def _list_eigenvalues(self, axis, block):
        """The eigenvalues of the Laplacian along an axis, those of the transform."""
        n = self.shape[axis]
        turn = np.arange(n) / n * (1 if block.periodic[axis] else 0.5)
        wave = (2 * np.sin(np.pi * turn) / block.spacing[axis]) ** 2
        if self.periods and axis == self.periods[-1]:
            wave = wave[: n // 2 + 1]  # the other half of a real transform is the conjugate
        return wave

    def __call__(self, f: Array) -> Array:
        """phi (n_cells, N + 1) for the right-hand side f (n_cells, N + 1)."""
        modes = self._solve(self.deal.collect(f @ self.V))
        return self.deal.give_back(modes, len(self.V)) @ self.V.T

    def _solve(self, f):
        """The modes (n_cells, k) of this rank for the whole mesh, from their right-hand sides."""
        if f.shape[1] == 0:
            return f

        modes = f.reshape(*self.shape, -1)
        if self.walls:
            modes = fft.dctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
        if self.periods:
            modes = fft.rfftn(modes, axes=self.periods, overwrite_x=True)

        if self.eliminates:
            n = self.shape[0]
            _eliminate(self.coupling, self.inverse.reshape(n, -1), modes.reshape(n, -1))
            modes[:, self.is_null] -= modes[:, self.is_null].mean(axis=0)
        else:
            modes *= self.inverse

        if self.periods:
            sizes = [self.shape[axis] for axis in self.periods]
            modes = fft.irfftn(modes, s=sizes, axes=self.periods, overwrite_x=True)
        if self.walls:
            modes = fft.idctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
        return modes.reshape(len(f), -1)


def _find_inverse_pivots(n, diagonal, coupling):
    """(n, ...) of the tridiagonal matrices with these diagonals (...), to which each of the n rows
    adds *coupling* for each of its neighbours.
    """
    inverse = np.empty((n, *diagonal.shape))
    last = np.zeros_like(diagonal)
    for i in range(n):
        n_neighbours = (i > 0) + (i < n - 1)
        pivot = diagonal + coupling * (n_neighbours - coupling * last)
        last = 1 / np.where(pivot > 0, pivot, np.inf)
        inverse[i] = last
    return inverse


@numba.njit(cache=True, pipeline_class=Disjoint)
def _eliminate(coupling, inverse, u):
    """Solve with tridiagonal matrices, by the inverses (n, m) of their pivots; u (n, m) is the
    right-hand side, and the solution in the end.
    """
    n, m = u.shape
    for i in range(1, n):
        for j in range(m):
            u[i, j] += coupling * inverse[i - 1, j] * u[i - 1, j]
    for j in range(m):
        u[n - 1, j] *= inverse[n - 1, j]
    for i in range(n - 2, -1, -1):
        for j in range(m):
            u[i, j] = inverse[i, j] * (u[i, j] + coupling * u[i + 1, j])
