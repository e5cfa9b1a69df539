"""The iteration's copy of phi where growth costs kappa |zeta|.

The dual problem has the constraint |phi_K^n| <= kappa for all cells and nodes of time, beside v <=
0. So the iteration has one more copy of phi, in the metric eta^2 tau_n |K|, and its projection is

    q = min(max(z, -kappa), kappa),    zeta = r eta^2 (z - q)
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from .discretisation import Discretisation
from .growth import TotalVariation
from .time_basis import node_weights


class SourceState:
    """z (n_cells, N + 1), from phi (n_points, N + 1) and zeta (n_cells, N + 1), or at 0."""

    def __init__(self, disc: Discretisation, phi: Array | None, source: Array | None, r: float):
        assert isinstance(disc.growth, TotalVariation)
        n_cells = disc.mesh.n_cells
        self.kappa = disc.growth.kappa
        self.r = r
        self.scale = disc.reaction * disc.mesh.volume[:, None] * node_weights(disc.n_steps)
        self.reaction = disc.reaction
        self.z = np.zeros((n_cells, disc.n_steps + 1))
        if phi is not None:
            self.z = self._clip(phi[:n_cells].astype(float))
        if source is not None:
            q = np.where(source == 0, self.z, self.kappa * np.sign(source))
            self.z = q + source / (self.r * self.reaction)

    def _clip(self, z):
        return np.clip(z, -self.kappa, self.kappa)

    def sweep(self, phi: Array, alpha: float = 1.8, kappa: float = 1.0) -> Array:
        """Move the state with phi (n_cells, N + 1).

        Returns eta^2 tau_n |K| (2 q - z) (n_cells, N + 1) of the new state.
        """
        self.z += alpha * (phi - self._clip(self.z))
        q = self._clip(self.z)
        self.r *= kappa
        self.z = q + (self.z - q) / kappa
        return self.scale * (2 * q - self.z)

    def right_hand_side(self) -> Array:
        """eta^2 tau_n |K| (2 q - z) (n_cells, N + 1) of the state as it is."""
        return self.scale * (2 * self._clip(self.z) - self.z)

    def source(self) -> Array:
        """zeta (n_cells, N + 1)."""
        return self.r * self.reaction * (self.z - self._clip(self.z))
