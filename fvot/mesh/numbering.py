"""Cells in another order than the user's: kernels are fast where neighbours lie close in memory."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arguments.types import Array, IntArray
from .cells import take_rows
from .memory import AnyMesh, kept_with_mesh

# Arrays (..., n_cells) of a mesh's part, in the order of its cells.
CELL_ARRAYS = ("cell_id", "volume", "center", "centroid", "levels", "kind")

# Arrays of a mesh's part that do not depend on the order of its cells.
OTHER_ARRAYS = (
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
)


@dataclass(frozen=True)
class Numbering:
    """The order of the cells in which solvers work, beside the user's.

    user_mesh : the `Mesh` that the user holds
    mesh : the same mesh with its cells in the solvers' order; faces keep theirs
    order (n_cells,) : the user's number of each cell; None where the orders are the same
    """

    user_mesh: AnyMesh
    mesh: AnyMesh
    order: IntArray | None = None

    def inward(self, u: Array) -> Array:
        """Cell values (..., n_cells) in the solvers' order, from those in the user's."""
        return u if self.order is None else np.take(u, self.order, axis=-1)

    def outward(self, u: Array) -> Array:
        """Cell values (..., n_cells) in the user's order, from those in the solvers'."""
        return u if self.order is None else np.take(u, self._place, axis=-1)

    @cached_property
    def _place(self):
        """The solvers' number of each of the user's cells: the inverse of the order."""
        return np.argsort(self.order)


@kept_with_mesh
def find_numbering(mesh: AnyMesh) -> Numbering:
    """The `Numbering` in which neighbours lie close in memory: the mesh's own where that is good
    enough.
    """
    if mesh.near_order is None:
        return Numbering(mesh, mesh)
    renumbered = mesh._with_part(_reorder_cells(mesh, mesh.near_order))
    return Numbering(mesh, renumbered, mesh.near_order)


def _reorder_cells(mesh, order):
    """The arrays of a mesh on one rank with its cells in that order (n_cells,), as `Mesh` takes
    them.
    """
    place = np.empty(mesh.n_cells + 1, np.int64)
    place[order] = np.arange(mesh.n_cells)
    place[-1] = -1  # serves right = -1

    corner_place, start = take_rows(mesh.start, order)
    part = {name: getattr(mesh, name) for name in OTHER_ARRAYS}
    part |= {name: getattr(mesh, name)[..., order] for name in CELL_ARRAYS}
    return part | dict(
        left=place[mesh.left],
        right=place[mesh.right],
        start=start,
        corners=mesh.corners[corner_place],
        region_cells=place[mesh.region_cells],
    )
