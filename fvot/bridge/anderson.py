"""Anderson's acceleration of a fixed-point iteration x -> x + F(x), on all ranks."""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..parallel import Ranks

# Steps that are remembered.
WINDOW = 8

# Directions whose part in the remembered differences is smaller, relative to the largest, are left
# out: they are round-off.
DIRECTION_TOLERANCE = 1e-14

# Growth of the residual over the smallest one so far at which the memory is cleared.
RESTART_GROWTH = 30.0


class Anderson:
    """x_next = x + F - sum_i gamma_i (dX_i + dF_i), gamma such that |F - sum_i gamma_i dF_i| is
    the least, |.|^2 = sum of weight * squares over all ranks (Anderson 1965; Walker, Ni 2011).
    """

    def __init__(self, ranks: Ranks, weight: Array):
        self.ranks = ranks
        self.weight = weight
        self.restart()

    def restart(self) -> None:
        """Forget all steps."""
        self._changes: list[tuple[Array, Array]] = []
        self._last: tuple[Array, Array] | None = None
        self._smallest = np.inf

    def find_next(self, x: Array, F: Array) -> Array:
        """The next x (n,) after x, whose step would be F. Collective."""
        size = self.ranks.sum(float(self.weight @ F**2))
        if size > RESTART_GROWTH**2 * self._smallest:
            self.restart()
        self._smallest = min(self._smallest, size)

        if self._last is not None:
            last_x, last_F = self._last
            self._changes = [*self._changes[1 - WINDOW :], (x - last_x, F - last_F)]
        self._last = (x, F)
        if not self._changes:
            return x + F

        changes = np.array([change for _, change in self._changes])
        weighted = changes * self.weight
        products = self.ranks.sum(weighted @ np.vstack([changes, F]).T)
        gram = products[:, :-1]
        scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
        gamma, *_ = np.linalg.lstsq(
            gram / np.outer(scale, scale), products[:, -1] / scale, rcond=DIRECTION_TOLERANCE
        )
        gamma /= scale
        following = x + F
        for factor, (step, change) in zip(gamma, self._changes):
            following -= factor * (step + change)
        return following
