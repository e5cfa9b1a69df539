"""The linear half of the iteration: (theta^2 K_t x Q^T M_P Q + M_t x K_x) phi = f.

The eigenvectors V of theta^2 K_t V = M_t V diag(s) take it apart: with f^ = f V, phi = phi^ V^T,
one equation in space for each mode, (K_x + s_k Q^T M_P Q) phi^_k = f^_k. Where s_0 = 0 the mean is
left open, and chosen to be 0. With an energy at the end, theta_e^2 e_N e_N^T is added to theta^2
K_t (see `terminal`).
"""

import numpy as np
from scipy import fft

from .time_basis import time_modes


class CosinePoisson:
    """Direct solves on a Cartesian mesh of one rank: cosine transforms between walls, Fourier's
    along periods.

    sigma : (n_patches,) the local penalty, which must be 1; end : theta_e^2
    """

    def __init__(self, disc, theta, dtype=np.float64, sigma=None, end=0.0):
        assert sigma is None or (sigma == 1).all()
        block = disc.mesh.block
        dim = disc.mesh.dim
        self.shape = tuple(block.grid)
        axes = range(dim)
        self.walls = [a for a in axes if not block.periodic[a]]
        self.periods = [a for a in axes if block.periodic[a]]
        V, symbol = time_modes(disc.n_steps, theta, end)
        for a in axes:
            turn = np.arange(self.shape[a]) / self.shape[a] * (1 if block.periodic[a] else 0.5)
            wave = (2 * np.sin(np.pi * turn) / block.spacing[a]) ** 2
            if self.periods and a == self.periods[-1]:
                wave = wave[: self.shape[a] // 2 + 1]  # the other half is the conjugate
            symbol = symbol + wave.reshape([-1 if b == a else 1 for b in range(dim + 1)])
        symbol *= disc.mesh.volume[0]
        symbol[(0,) * (dim + 1)] = symbol[(0,) * (dim + 1)] or np.inf
        self.V = V.astype(dtype)
        self.inverse = (1 / symbol).astype(dtype)

    def __call__(self, f):
        """phi (n_cells, N + 1) for the right-hand side f (n_cells, N + 1)."""
        modes = (f @ self.V).reshape(*self.shape, -1)
        modes = (
            fft.dctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
            if self.walls
            else modes
        )
        modes = fft.rfftn(modes, axes=self.periods, overwrite_x=True) if self.periods else modes
        modes *= self.inverse
        sizes = [self.shape[a] for a in self.periods]
        modes = (
            fft.irfftn(modes, s=sizes, axes=self.periods, overwrite_x=True)
            if self.periods
            else modes
        )
        modes = (
            fft.idctn(modes, axes=self.walls, norm="ortho", overwrite_x=True)
            if self.walls
            else modes
        )
        return modes.reshape(len(f), -1) @ self.V.T
