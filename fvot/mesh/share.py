"""Sums and extremes over a mesh of which each rank has some cells, or one rank has all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import parallel
from ..arguments.types import Array, BoolArray, IntArray


@dataclass(frozen=True)
class Share:
    """What counts on this rank: its own cells, which come first, and the faces with a left cell
    among these.
    """

    n_cells: int
    n_cells_global: int
    cell_id: IntArray | None = None  # (n_cells,) numbers in the whole mesh; None for all cells
    ranks: parallel.Ranks | None = None  # None where one rank has the whole mesh

    @classmethod
    def of_whole(cls, n_cells: int) -> Share:
        """All cells of a mesh of so many."""
        return cls(n_cells, n_cells)

    @property
    def speaks(self) -> bool:
        """Whether this rank warns, for all."""
        return self.ranks is None or self.ranks.is_root

    def sum(self, x: Any) -> Any:
        """The sum of a number of each rank, or of an array, element by element."""
        return x if self.ranks is None else self.ranks.sum(x)

    def max(self, x: Any) -> Any:
        """The largest, in the same way."""
        return x if self.ranks is None else self.ranks.max(x)

    def min(self, x: Any) -> Any:
        """The smallest, in the same way."""
        return x if self.ranks is None else self.ranks.min(x)

    def total(self, x: Array) -> float:
        """The sum of values x (n_local,) of cells."""
        return float(self.sum(x[: self.n_cells].sum()))

    def find_range(self, x: Array) -> tuple[float, float, float]:
        """The smallest, the mean and the largest of values x (n_local,) of cells."""
        own = x[: self.n_cells]
        least = self.min(own.min(initial=np.inf))
        most = self.max(own.max(initial=-np.inf))
        return float(least), self.total(x) / self.n_cells_global, float(most)

    def owns(self, faces: Any) -> BoolArray:
        """Which of the faces count here."""
        return faces.left < self.n_cells

    def count(self, faces: Any, x: Any) -> int:
        """The sum of whole numbers x, or of truth values, of the first faces."""
        return int(self.sum((x * self.owns(faces)[: len(x)]).sum()))

    def mean_over_inner(self, faces: Any, x: Array) -> float:
        """The mean of values x (n_inner,) of inner faces; 0 if there are none."""
        own = x[self.owns(faces)[: len(x)]]
        count = self.sum(len(own))
        total = self.sum(own.sum())
        return float(total / count) if count else 0.0

    def find_smallest(self, faces: Any, x: Array) -> tuple[int, float]:
        """(cell, value): the smallest of values x (n_faces,) of faces, and the number in the whole
        mesh of the left cell of the first face that has it, inner faces before others.
        """
        if self.cell_id is None:
            worst = x.argmin()
            return int(faces.left[worst]), float(x[worst])
        own = np.flatnonzero(self.owns(faces))
        value = self.min(x[own].min(initial=np.inf))
        worst = own[x[own] == value]
        number = self.cell_id[faces.left[worst]]
        number = np.where(faces.right[worst] < 0, number + self.n_cells_global, number)
        first = self.min(number.min(initial=2 * self.n_cells_global))
        return int(first) % self.n_cells_global, float(value)
