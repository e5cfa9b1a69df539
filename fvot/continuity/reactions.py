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
        self._known: dict[str, Array] = {}

    def advance(self, rho: Array, begin: float, end: float) -> Reacted:
        """The density rho (n_cells,) at time *begin*, at time *end*. Collective."""
        now = rho
        added = np.zeros(len(rho))
        for middle, h in self._split(begin, end):
            growth = h * self._find("growth", middle)
            source = h * self._find("source", middle)
            now = np.exp(growth) * now + _phi(growth) * source
            added += source
        return Reacted(now, now - rho - added, added)

    def find_factor(self, begin: float, end: float) -> Array:
        """What a density without sources is multiplied by from *begin* to *end* (n_cells,).
        Collective.
        """
        exponent = sum(h * self._find("growth", t) for t, h in self._split(begin, end))
        return np.exp(exponent)

    def _split(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        """(the middle, the length) of the pieces in which the terms are taken as constant."""
        reactions = self.reactions
        is_steady = not (reactions.growth_depends_on_time or reactions.source_depends_on_time)
        count = 1 if is_steady else math.ceil((end - begin) / self.spacing) or 1
        h = (end - begin) / count
        for i in range(count):
            yield begin + (i + 0.5) * h, h

    def _find(self, name: str, t: float) -> Any:
        """The growth, or the source, at time t; a steady one is kept."""
        reactions = self.reactions
        if name in self._known:
            return self._known[name]
        if name == "growth":
            values = reactions.growth(t)
            is_steady = not reactions.growth_depends_on_time
        else:
            values = reactions.source(t)
            is_steady = not reactions.source_depends_on_time
        if is_steady:
            self._known[name] = values
        return values


def _phi(z):
    """(e^z - 1) / z, and 1 at z = 0."""
    return np.divide(np.expm1(z), z, out=np.ones_like(z), where=z != 0)
