"""Growth and sources of the continuity equation, exactly in each cell.

    d rho/dt = g rho + s:    rho(t + h) = e^(g h) rho(t) + h phi(g h) s,    phi(z) = (e^z - 1) / z

which is positive for every sign of g. A step of the equation takes half of it before the transport,
and half after it (Strang 1968), which is of second order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..arguments.types import Array
from ..finite_volume.cell_fields import Reactions


class Reacted(NamedTuple):
    """What growth and sources have made of a density.

    rho (n_cells,) : the density
    grown, added (n_cells,) : what has grown, which may be below 0, and what was added to it
    """

    rho: Array
    grown: Array
    added: Array


class ReactionStep:
    """The exact change by growth and sources in each cell.

    spacing : the longest piece over which they are taken as constant, where they depend on time
    """

    def __init__(self, reactions: Reactions):
        self.reactions = reactions
        self.spacing = math.inf
        self.is_steady = not (reactions.growth_depends_on_time or reactions.source_depends_on_time)
        self._last: tuple[float, Any] = (0.0, None)

    def advance(self, rho: Array, begin: float, length: float) -> Reacted:
        """What rho (n_cells,) of time *begin* becomes in a time *length*. Collective."""
        now = rho
        added = np.zeros(len(rho))
        for t, h in self._split(begin, length):
            factor, gain, source = self._find_piece(t, h)
            now = factor * now + gain
            added += source
        return Reacted(now, now - rho - added, added)

    def apply_transpose(self, phi: Array, begin: float, length: float) -> Array:
        """The transpose of `advance` without its sources, of phi (n_cells,). Collective."""
        for t, h in self._split(begin, length):
            factor, _, _ = self._find_piece(t, h)
            phi = factor * phi
        return phi

    def _split(self, begin: float, length: float) -> Iterator[tuple[float, float]]:
        """(the middle, the length) of the pieces in which the terms are taken as constant."""
        count = 1 if self.is_steady else math.ceil(length / self.spacing) or 1
        h = length / count
        for i in range(count):
            yield begin + (i + 0.5) * h, h

    def _find_piece(self, t: float, h: float) -> tuple[Array, Array, Array]:
        """(e^(g h), h phi(g h) s, h s) for the terms of time t; the last ones of steady terms are
        kept.
        """
        known, piece = self._last
        if self.is_steady and known == h:
            return piece
        exponent = h * self.reactions.growth(t)
        source = h * self.reactions.source(t)
        piece = np.exp(exponent), _phi(exponent) * source, source
        self._last = (h, piece)
        return piece


def _phi(z):
    """(e^z - 1) / z, and 1 at z = 0."""
    return np.divide(np.expm1(z), z, out=np.ones_like(z), where=z != 0)
