"""The linear half of the iteration: (theta^2 K_t x Q^T M_P Q + M_t x K_x) phi = f.

K_x is the Laplacian with the weights sum_P omega_{P,s} / d_s^2, which are |s| / d_s unless they are
corrected. The eigenvectors V of theta^2 K_t V = M_t V diag(s) decouple it: with f^ = f V and phi =
phi^ V^T there is one equation in space for each mode, (K_x + s_k Q^T M_P Q) phi^_k = f^_k. Where
s_0 = 0 the mean is not determined, and set to 0. With an energy at the end, theta_e^2 e_N e_N^T is
added to theta^2 K_t (see `terminal`). With growth, |K| / delta^2 is added to K_x, and slabs have
weights in K_t and M_t (see `growth`); then the mean is determined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike
from scipy import fft

from ..arguments.types import Array
from .discretisation import Discretisation
from .time_basis import time_modes


class CosinePoisson:
    """Direct solves on a Cartesian mesh of one rank.

    Cosine transforms between walls, Fourier transforms along periods. The penalty is uniform.

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
        self.walls = [axis for axis in range(dim) if not block.periodic[axis]]
        self.periods = [axis for axis in range(dim) if block.periodic[axis]]

        V, symbol = time_modes(disc.n_steps, theta, end, disc.slab_weights)
        symbol = symbol + disc.reaction
        for axis in range(dim):
            wave = self._list_eigenvalues(axis, block)
            symbol = symbol + wave.reshape([-1 if a == axis else 1 for a in range(dim + 1)])
        symbol *= disc.mesh.volume[0]
        symbol[(0,) * (dim + 1)] = symbol[(0,) * (dim + 1)] or np.inf
        self.V = V.astype(dtype)
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
        modes = (f @ self.V).reshape(*self.shape, -1)
        if self.walls:
            modes = fft.dctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
        if self.periods:
            modes = fft.rfftn(modes, axes=self.periods, overwrite_x=True)

        modes *= self.inverse

        if self.periods:
            sizes = [self.shape[axis] for axis in self.periods]
            modes = fft.irfftn(modes, s=sizes, axes=self.periods, overwrite_x=True)
        if self.walls:
            modes = fft.idctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
        return modes.reshape(len(f), -1) @ self.V.T
