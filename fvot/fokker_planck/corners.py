"""Fluxes of the Fokker-Planck equation from cells to their corners: on any mesh, for any tensor D.

See `finite_volume.corner_rates`. The potential V is in phi = V / T where there is a temperature, or
where D is a scalar, which is the temperature of its cell then; for tensors without a temperature,
-grad V is a drift. Cells take the values of functions at their centroids.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..arguments.diffusion import as_tensors
from ..arguments.types import Array
from ..errors import InputError
from ..finite_volume.boundary import (
    AT_FACES,
    check_sign,
    dirichlet,
    evaluate_densities,
    evaluate_rates,
)
from ..finite_volume.corner_rates import CornerRates, Exits, GivenNodes
from ..finite_volume.corner_step import CornerResolvent
from ..finite_volume.corners import find_corners
from ..finite_volume.stencil import gradient_weights, gradients
from ..mesh import Numbering
from .coefficients import SLOPE_STEP, DriftDiffusion, Terms


class CornerDriftDiffusion(DriftDiffusion):
    """A `DriftDiffusion` with fluxes from cells to their corners, see the module."""

    resolvent = CornerResolvent

    def __init__(self, numbering: Numbering, terms: Terms):
        super().__init__(numbering, terms, numbering.user_mesh.centroid)
        self.corners = find_corners(numbering.mesh)
        self.given = self._find_given_nodes()

    def rates(self, t: float = 0.0) -> CornerRates:
        """The `CornerRates` at time t."""
        mesh = self.mesh
        corners = self.corners
        D = self.diffusion(t)
        V = self.potential(t)
        tensors = as_tensors(np.broadcast_to(D, np.shape(D)[:-1] + (mesh.n_cells,)), mesh.dim)

        T = self.find_temperature(D)
        if T is None and not self._D.is_tensor:
            T = D
        is_flat = self._V is None or self._V.constant
        V_at_nodes = None if is_flat else self._find_potential_at_nodes(V, t)
        d = None
        if V is not None and V_at_nodes is not None and T is not None:
            change = V_at_nodes[corners.node] - V[corners.cell]
            d = change / (T if np.ndim(T) == 0 else T[corners.cell])
            d[self._is_beside_opening[corners.cell]] = 0.0

        U = self.compute_drift_flux(t)
        U[self._is_wall] = 0.0
        U_of_V = np.zeros(mesh.n_faces)
        without_phi = np.zeros(mesh.n_cells, bool)
        if V_at_nodes is not None:
            without_phi = self._is_beside_opening if T is not None else ~without_phi
            U_of_V = self._compute_potential_drift(tensors, without_phi, t)
        open_a, open_b = self._let_through(U + U_of_V)

        phi = self._compute_minus_log_gibbs(D, V)
        phi_at_nodes = None
        if phi is not None:
            phi_at_nodes = np.zeros(corners.n_nodes) if d is None else V_at_nodes / T
        return CornerRates(
            corners,
            corners.matrices(np.ascontiguousarray(tensors)),
            d=d,
            U=self._share_among_corners(U, U_of_V, without_phi),
            open_a=open_a,
            open_b=open_b,
            given=self.given,
            exits=self._find_exits(t),
            minus_log_gibbs=phi,
            phi_at_nodes=phi_at_nodes,
            decay=self._compute_decay(t),
        )

    # ---- the boundary ---------------------------------------------------------------------------

    @cached_property
    def _is_wall(self):
        """The boundary faces (n_faces,) without a condition."""
        is_wall = np.arange(self.mesh.n_faces) >= self.mesh.n_inner
        for name, _ in self._conditions:
            is_wall[self.mesh.boundary[name]] = False
        return is_wall

    @cached_property
    def _is_open(self):
        """The boundary faces (n_faces - n_inner,) that let through what the drift carries."""
        is_open = np.zeros(self.mesh.n_faces, bool)
        for name, condition in self._kinds.items():
            is_open[self.mesh.boundary[name]] = not isinstance(condition, AT_FACES)
        return is_open[self.mesh.n_inner :]

    @cached_property
    def _is_beside_opening(self):
        """The cells (n_cells,) with a face that lets through what the drift carries. There V is a
        drift, too: in phi it would hold back at the nodes of such a face what leaves through it.
        """
        mesh = self.mesh
        is_beside = np.zeros(mesh.n_cells, bool)
        is_beside[mesh.left[mesh.n_inner :][self._is_open]] = True
        return is_beside

    def _let_through(self, U):
        """(a, b) (n_faces - n_inner,) of the open faces."""
        crossing = np.where(self._is_open, U[self.mesh.n_inner :], 0.0)
        return np.maximum(crossing, 0), np.maximum(-crossing, 0)

    def _find_given_nodes(self):
        """The `GivenNodes` of the parts with a given density."""
        mesh = self.mesh
        corners = self.corners
        face, corner, area = self._list_corners(
            [name for name, c in self._kinds.items() if isinstance(c, dirichlet)]
        )
        at = corners.node[corner]
        total = corners.add(np.bincount(at, area, corners.n_nodes))
        nodes = np.flatnonzero(total > 0)
        anywhere = mesh.ranks.max(float(len(nodes))) > 0
        return GivenNodes(nodes, face - mesh.n_inner, at, area / total[at], anywhere)

    def _find_exits(self, t):
        """The `Exits` at time t, or None. Collective."""
        if not self._exit_rates:
            return None
        mesh = self.mesh
        rates = np.zeros(mesh.n_faces)
        with mesh.ranks.raising_together():
            for name, rate in self._exit_rates.items():
                rates[mesh.boundary[name]] = evaluate_rates(mesh, rate, name, t)
        face, corner, area = self._list_corners(list(self._exit_rates))
        return Exits(face - mesh.n_inner, corner, rates[face] * area)

    def _list_corners(self, names):
        """(face, corner, area) (m,) of the corners of the boundary faces of these names."""
        mesh = self.mesh
        corners = self.corners
        sides = corners.sides
        is_part = np.zeros(mesh.n_faces, bool)
        for name in names:
            is_part[mesh.boundary[name]] = True
        side = np.flatnonzero(is_part[sides.face])
        corner = corners.side_corner[:, side]
        face = np.broadcast_to(sides.face[side], corner.shape)
        area = corners.side_weight[:, side] * mesh.area[face]
        known = corner >= 0
        return face[known], corner[known], area[known]

    def entering(self, t: float = 0.0) -> Array:
        """The given densities at each boundary face and at each node: (n_faces - n_inner +
        n_nodes,), then the sources, see `CornerRates`. A node of several parts takes the mean of
        theirs. Collective.
        """
        corners = self.corners
        mesh = self.mesh
        at_faces = evaluate_densities(mesh, self._conditions, t, self.signed)
        if not self.given.anywhere:
            return self._add_sources(np.concatenate([at_faces, np.zeros(corners.n_nodes)]), t)

        total = np.zeros(corners.n_nodes)
        weight = np.zeros(corners.n_nodes)
        with mesh.ranks.raising_together():
            for name, density in self._conditions:
                if not isinstance(self._kinds[name], dirichlet):
                    continue
                _, corner, area = self._list_corners([name])
                node = corners.node[corner]
                at_nodes = density(corners.points[:, node], t)
                if not self.signed:
                    check_sign(at_nodes, name)
                total += np.bincount(node, area * at_nodes, corners.n_nodes)
                weight += np.bincount(node, area, corners.n_nodes)
        total, weight = corners.add(np.stack([total, weight]))
        is_given = weight > 0
        means = np.divide(total, weight, out=np.zeros_like(total), where=is_given)
        return self._add_sources(np.concatenate([at_faces, means]), t)

    # ---- the potential and the drift -------------------------------------------------------------

    def _find_potential_at_nodes(self, V, t):
        """V (n_nodes,): of the function, or of lines through the values of cells."""
        corners = self.corners
        f = self._V.f
        if f is not None:
            with self.mesh.ranks.raising_together():
                return f(corners.points, t)
        slopes = gradients(self.mesh, corners.sides, self._weights, V[None])[0]
        seen = V[corners.cell] + (slopes[:, corners.cell] * corners.leg).sum(axis=0)
        return corners.average_at_nodes(seen)

    @cached_property
    def _weights(self):
        return gradient_weights(self.corners.sides)

    def _compute_potential_drift(self, tensors, without_phi, t):
        """What V carries through the faces (n_faces,) of cells without phi, but for walls."""
        mesh = self.mesh
        sides = self.corners.sides
        is_needed = np.zeros(mesh.n_faces, bool)
        is_needed[sides.face[without_phi[sides.cell]]] = True
        faces = np.flatnonzero(is_needed & ~self._is_wall)
        U = np.zeros(mesh.n_faces)
        U[faces] = -mesh.area[faces] * self._differentiate_potential(tensors, faces, t)
        return U

    def _differentiate_potential(self, tensors, faces, t):
        """The derivative of V at faces (n,) along n, or along D n / T where there is a temperature:
        of a function by differences from inside the left cell, of cell values by least squares.
        """
        mesh = self.mesh
        f = self._V.f
        along = mesh.normal[:, faces]
        left = mesh.left[faces]
        right = np.where(mesh.right[faces] < 0, left, mesh.right[faces])
        if self.temperature is not None:
            local = mesh.with_ghosts(tensors)
            mean = (local[:, :, left] + local[:, :, right]) / 2
            along = np.einsum("ijf,jf->if", mean, along) / self.temperature
        width = mesh.with_ghosts(mesh.volume)[mesh.left[faces]] / mesh.area[faces]

        with mesh.ranks.raising_together():
            if f is not None:
                size = np.linalg.norm(along, axis=0)
                direction = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
                step = SLOPE_STEP * width
                x = mesh.face_center[:, faces]
                V0, V1, V2 = (f(x - k * step * direction, t) for k in range(3))
                return size * (3 * V0 - 4 * V1 + V2) / (2 * step)

            for name, condition in self._kinds.items():
                if not isinstance(condition, AT_FACES):
                    raise InputError(
                        "potential is given by cell values, which do not determine its slope at "
                        f"boundary {name!r}: give a function, or fvot.dirichlet there"
                    )

        slopes = gradients(mesh, self.corners.sides, self._weights, self.potential(t)[None])[0]
        around = mesh.with_ghosts(slopes)
        mean = (around[:, left] + around[:, right]) / 2
        return (mean * along).sum(axis=0)

    def _share_among_corners(self, U, U_of_V, without_phi):
        """What the drift carries to each corner (n_corners,), with V in cells without phi; None
        where there is none.
        """
        mesh = self.mesh
        corners = self.corners
        sides = corners.sides
        is_shared = np.ones(mesh.n_faces, bool)
        is_shared[mesh.n_inner :] = ~self._is_open
        carried = U[sides.face] + np.where(without_phi[sides.cell], U_of_V[sides.face], 0.0)
        outward = sides.sign * np.where(is_shared[sides.face], carried, 0.0)
        if mesh.ranks.max(np.abs(outward).max(initial=0.0)) == 0:
            return None
        shared = corners.side_weight * outward
        known = corners.side_corner >= 0
        return np.bincount(corners.side_corner[known], shared[known], len(corners.node))
