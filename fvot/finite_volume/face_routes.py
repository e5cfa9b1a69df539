"""Fluxes through faces from what flows from cells to their corners.

At a node the flows F_(K,i) of the cells around add up to 0: they can be led through the faces that
meet there. The part of face s that belongs to corner i carries

    g_(s,i) = w_(s,i) |s| n . (m_K + m_L) / 2 + c_s (p_K - p_L),    c_s = w_(s,i) |s|

where m is the mean flow in each cell, w the corner's share of the face (`Corners.side_weight`), and
p solves a small Laplace equation at each node, such that what leaves corner (K, i) through its
faces is F_(K,i). Of all parts with that property these are nearest to those of the mean flow, and
they are its own where it is constant.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .. import linalg
from ..arguments.types import Array
from .corners import MAX_CORNERS, Corners

FACE_ROUTES_PREFIX = "fvot_face_routes_"


class FaceRoutes:
    """The way of flows (n_corners, k) through faces, and the factorised equations of p. Collective.

    place (2, width, n_inner) : the corner, of all ranks, at each part of the face on its left and
        on its right
    conductance (width, n_inner) : c_s
    """

    def __init__(self, corners: Corners):
        self.corners = corners
        mesh = corners.mesh
        n = mesh.n_inner
        count = np.array([len(corners.node)])
        before = mesh.ranks.all_gather(count)[: mesh.ranks.rank].sum()
        self.first = int(before)

        own_place = self.first + np.arange(len(corners.node))
        self.place = self._meet(own_place)
        weight = corners.side_weight * mesh.area[corners.sides.face]
        conductance = np.zeros((len(weight), mesh.n_faces))
        conductance[:, corners.sides.face] = weight
        self.conductance = np.where(self.place[0] >= 0, conductance[:, :n], 0.0)
        self._system = self._build_system()

    def _meet(self, values):
        """Values (n_corners,) as the faces see them: (2, width, n_inner), of the corners of the
        cells on the left and on the right; -1 where there is no corner.
        """
        corners = self.corners
        at = corners.side_corner
        taken = np.where(at >= 0, values[np.maximum(at, 0)], -1)
        return corners.sides.see_from_faces(taken)[..., : corners.mesh.n_inner]

    def _build_system(self):
        corners = self.corners
        mesh = corners.mesh
        n_corners = len(corners.node)
        own = np.arange(n_corners)
        rows = []
        columns = []
        values = []
        for end, face, at, is_corner in self._list_own_parts():
            others = self.place[1 - end][:, face][is_corner]
            c = self.conductance[:, face][is_corner]
            rows += [at, at]
            columns += [self.first + at, others]
            values += [c, -c]

        n_global = int(mesh.ranks.sum(n_corners))
        places = (np.concatenate(rows), np.concatenate(columns))
        matrix = sparse.csr_matrix((np.concatenate(values), places), (n_corners, n_global))

        # p is 0 at one corner of each node.
        number = mesh.cell_id[corners.cell].astype(np.int64) * MAX_CORNERS
        number += own - corners.start[corners.cell]
        is_first = number == corners.label[corners.node]
        diagonal = np.asarray(matrix[own, self.first + own]).ravel()
        more = np.where(is_first, np.where(diagonal > 0, diagonal, 1.0), 0.0)
        matrix = matrix + sparse.csr_matrix((more, (own, self.first + own)), matrix.shape)
        method = linalg.find_method("shared", mesh.dim, mesh.ranks.size)
        return linalg.System(mesh.ranks, matrix, method, prefix=FACE_ROUTES_PREFIX, rtol=1e-14)

    def _list_own_parts(self):
        """(end, faces, corners, which of (width, n) there are) of this rank's sides: left ones, for
        which end is 0, and right ones.
        """
        corners = self.corners
        sides = corners.sides
        is_inner = sides.face < corners.mesh.n_inner
        for end, is_end in enumerate((sides.sign > 0, sides.sign < 0)):
            own = np.flatnonzero(is_inner & is_end)
            at = corners.side_corner[:, own]
            is_corner = at >= 0
            yield end, sides.face[own], at[is_corner], is_corner

    def __call__(self, flow: Array, mean: Array) -> Array:
        """Fluxes (k, n_faces), 0 at walls, of what flows from cells to their corners (n_corners, k)
        and its means (k, dim, n_cells). Collective.
        """
        mesh = self.corners.mesh
        n = mesh.n_inner
        flux = np.zeros((flow.shape[1], mesh.n_faces))
        for k, (F, m) in enumerate(zip(flow.T, mean)):
            local = mesh.with_ghosts(m)
            middle = (local[:, mesh.left[:n]] + local[:, mesh.right[:n]]) / 2
            through = (mesh.normal[:, :n] * middle).sum(axis=0)
            parts = self.conductance * through

            p = self._system(F - self._leave(parts))
            of_left, of_right = self._meet(p)
            parts += self.conductance * (of_left - of_right)
            flux[k, :n] = parts.sum(axis=0)
        return flux

    def _leave(self, parts):
        """What leaves each corner (n_corners,) through the parts of faces (width, n_inner)."""
        n_corners = len(self.corners.node)
        leaving = np.zeros(n_corners)
        for end, face, at, is_corner in self._list_own_parts():
            through = parts[:, face][is_corner]
            leaving += np.bincount(at, through if end == 0 else -through, n_corners)
        return leaving

    def destroy(self) -> None:
        """Give the memory of the linear system back. Collective."""
        self._system.destroy()
