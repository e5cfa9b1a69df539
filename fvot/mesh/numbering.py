"""Cells in another order than the user's: kernels are fast where neighbours lie close in memory."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

OF_CELLS = (
    "cell_id",
    "volume",
    "center",
    "centroid",
    "levels",
    "kind",
)  # arrays (..., n_cells) of a mesh's part
OF_FACES = (
    "area",
    "normal",
    "face_center",
    "left_distance",
    "right_distance",
    "left_offset",
    "right_offset",
    "vertices",
    "boundary_ends",
    "ghost_owner",
    "points",
    "point_id",
    "interface_faces",
    "interface_ends",
    "region_ends",
)  # what does not ask for the cells' order


@dataclass(frozen=True)
class Numbering:
    """Another order of the cells, in which solvers work.

    users : the `Mesh` that the user holds
    mesh : the same mesh with its cells in that order; faces keep theirs
    order (n_cells,) : the user's numbers of its cells; None where the orders are the same
    """

    users: object
    mesh: object
    order: np.ndarray | None = None

    def inward(self, u):
        """Cell values (..., n_cells) in that order, from those in the user's."""
        return u if self.order is None else np.take(u, self.order, axis=-1)

    def outward(self, u):
        """Cell values (..., n_cells) in the user's order, from those in that one."""
        return u if self.order is None else np.take(u, self._place, axis=-1)

    @cached_property
    def _place(self):
        """Where the user's cells are in that order: its inverse."""
        return np.argsort(self.order)


def renumbered(mesh, order):
    """The arrays of a mesh on one rank with its cells in that order (n_cells,), as `Mesh` takes
    them.
    """
    place = np.empty(mesh.n_cells + 1, np.int64)
    place[order] = np.arange(mesh.n_cells)
    place[-1] = -1  # serves right = -1
    count = np.diff(mesh.start)[order]
    start = np.concatenate([[0], np.cumsum(count)])
    corners = mesh.corners[np.arange(start[-1]) + np.repeat(mesh.start[order] - start[:-1], count)]
    part = {name: getattr(mesh, name)[..., order] for name in OF_CELLS}
    part |= {name: getattr(mesh, name) for name in OF_FACES}
    return part | dict(
        left=place[mesh.left],
        right=place[mesh.right],
        start=start,
        corners=corners,
        region_cells=place[mesh.region_cells],
    )
