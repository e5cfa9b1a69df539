"""What a mesh file contains, whatever its format: points in space, elements of all dimensions, and
groups of elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.types import Array, IntArray
from .cells import CELL_DIMENSION, N_CORNERS, NAME, find_runs

# The kinds of elements with straight sides, with their numbers of corners.
CORNERS_OF_KIND = {"vertex": 1} | {NAME[kind]: n for kind, n in N_CORNERS.items()}

# The dimensions of these kinds, and of polygons.
DIMENSION_OF_KIND = {"vertex": 0} | {NAME[kind]: dim for kind, dim in CELL_DIMENSION.items()}


@dataclass(frozen=True)
class Contents:
    """Points and elements: element k is of the kind names[kind[k]], with the points
    corners[start[k]:start[k + 1]].

    Digits after the name of a kind, as in "triangle6", mean an element with further points on its
    sides; its corners come first.
    """

    points: Array  # (3, n_points)
    names: list[str]  # of the kinds; a description where no mesh can have the kind
    dims: IntArray  # (n_kinds,) their dimensions
    kind: IntArray  # (n,)
    start: IntArray  # (n + 1,)
    corners: IntArray  # (start[-1],)
    groups: dict[tuple[int, Any], IntArray]  # {(dimension, name or number): elements}

    @classmethod
    def from_blocks(
        cls,
        points: Array,
        blocks: list[tuple[str, int, IntArray]],
        groups: dict[tuple[int, Any], IntArray],
    ) -> Contents:
        """From points (3, n_points), blocks [(kind, dimension, points (n, width))], and groups."""
        names = list(dict.fromkeys(name for name, _, _ in blocks))
        dims = {name: dim for name, dim, _ in blocks}
        number = np.array([names.index(name) for name, _, _ in blocks], int)
        length = np.array([len(rows) for _, _, rows in blocks], int)
        width = np.array([rows.shape[1] for _, _, rows in blocks], int)

        count = np.repeat(width, length)
        start = np.concatenate([[0], np.cumsum(count)])
        no_corners = np.empty(0, np.int64)
        corners = np.concatenate([*(rows.ravel() for _, _, rows in blocks), no_corners])
        return cls(
            points,
            names,
            np.array([dims[name] for name in names], int),
            np.repeat(number, length).astype(np.int64),
            start.astype(np.int64),
            corners.astype(np.int64),
            groups,
        )

    def list_elements(self, dim: int) -> IntArray:
        """The numbers of the elements of a dimension."""
        return np.flatnonzero(self.dims[self.kind] == dim)

    def list_blocks(self, elements: IntArray) -> list[tuple[str, Any]]:
        """[(kind, connectivity)] of elements, in their order: one block for each run of a kind.

        The connectivity has the corners alone: an array (n, n_corners), or a list of rows for
        polygons.
        """
        if not len(elements):
            return []
        kind = self.kind[elements]
        ends = find_runs(kind)
        return [
            (straighten(self.names[kind[first]]), self._rows(elements[first:last]))
            for first, last in zip(ends[:-1], ends[1:])
        ]

    def _rows(self, elements):
        name = straighten(self.names[self.kind[elements[0]]])
        if name == "polygon":
            return [self.corners[self.start[k] : self.start[k + 1]] for k in elements]
        return self.corners[self.start[elements][:, None] + np.arange(CORNERS_OF_KIND[name])]


def straighten(name: str) -> str:
    """The kind with straight sides: "triangle" of "triangle6"."""
    return name.rstrip("0123456789")
