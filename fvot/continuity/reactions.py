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
from ..arguments.watch import END_MARGIN
from ..finite_volume.cell_fields import Reactions

# Halvings of a piece in which the terms jump, at most.
MAX_HALVINGS = 12

# Departure of the terms from a straight line, relative to their size, from which a piece is halved.
JUMP_TOLERANCE = 1e-2


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
        """(the middle, the length) of the pieces in which the terms are taken as constant.

        Pieces in which they jump are halved until those are short. Collective.
        """
        if self.is_steady:
            yield begin + length / 2, length
            return

        count = math.ceil(length / self.spacing) or 1
        h = length / count
        for i in range(count):
            yield from self._halve(begin + i * h, h, MAX_HALVINGS)

    def _halve(self, begin, h, n_halvings):
        if n_halvings == 0 or not self._jump_within(begin, h):
            yield begin + h / 2, h
            return

        for start in (begin, begin + h / 2):
            yield from self._halve(start, h / 2, n_halvings - 1)

    def _jump_within(self, begin, h):
        """Whether the terms are far from straight lines in time in a piece. Collective."""
        margin = END_MARGIN * h
        times = begin + margin, begin + h / 2, begin + h - margin
        sizes = []
        for term in (self.reactions.growth, self.reactions.source):
            first, middle, last = (np.atleast_1d(term(t)) for t in times)
            departure = np.abs(first - 2 * middle + last).max(initial=0.0)
            size = np.abs([first, middle, last]).max(initial=0.0)
            sizes += [departure, size]
        departures_and_sizes = self.reactions.ranks.max(np.array(sizes)).reshape(2, 2)
        departure, size = departures_and_sizes.T
        return bool((departure > JUMP_TOLERANCE * size).any())

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
