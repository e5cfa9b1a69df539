"""Diamonds: phi on cells and on the nodes at their corners, on any mesh.

A *diamond* is a face s with the simplices T from the centroids x_K, x_L of its two cells (one at a
wall) to s, see `finite_volume.corners`. phi is linear on each simplex: with the differences delta
of phi at the face's corners and at x_L to that at x_K,

    R_s^T R_s = sum_T |T| G_T^T G_T,    b = R_s delta,    |b|^2 = sum_T |T| |grad phi|^2

A copy (P, s) has the slopes b with the weight lam_{P,s}, the sum of lam_K = |T_K| / (|T_K| + |T_L|)
over the sides of s inside P: the simplices beside a face share its mobility

    M_s = sum_P lam_{P,s} (rho_P^{n-1} + rho_P^n) / 2

Primal: mass flows from each cell to its corners through the simplices; F_s(T), at the corners of s,
is what leaves x_K there. Minimise sum_n tau_n sum_T F (sum over T of |T| G_T^T G_T)^-1 F / (2 M_s),
where what comes to a node adds up to 0.

Linear phi have their exact slopes (the integrals of |xi|^2 over patches add up), and constant flows
are conserved at every cell and node: W2^2 converges on every mesh whose cells are star-shaped about
their centroids. No weights on faces alone could do that.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..finite_volume.corners import factor_rows, find_corners
from ..finite_volume.face_routes import FaceRoutes
from ..finite_volume.stencil import gradient_weights, gradients
from ..mesh import Mesh
from ..mesh.isotropic_weights import copy_faces
from ..parallel import Exchange
from .discretisation import Discretisation
from .growth import Growth


class DiamondTable(NamedTuple):
    """The diamonds of this rank's faces; those of face s have the points of start[s] on.

    n_slopes (n_faces,) : k, the number of slopes
    point_start (n_faces,), point : the local point of x_K, and the k other ones
    root_start (n_faces,), root : R_s (k, k), row by row, upper triangular
    """

    n_slopes: IntArray
    point_start: IntArray
    point: IntArray
    root_start: IntArray
    root: Array


class DiamondDiscretisation(Discretisation):
    """The `Discretisation` with diamonds. Points are the cells and then the nodes of their corners.

    corners : the `Corners` of the mesh
    diamonds : the `DiamondTable`
    weight (n_copies,) : lam_{P,s}
    row_start (n_copies + 1,) : the rows of b that belong to each copy
    """

    def __init__(self, mesh: Mesh, n_steps: int, growth: Growth | None = None):
        corners = find_corners(mesh)
        self.corners = corners
        n_points = mesh.n_cells + corners.n_own
        n_local = mesh.n_local + corners.n_nodes
        exchange = self._join_exchanges(mesh, corners)
        super().__init__(mesh, n_steps, n_points, exchange, n_local, growth)
        self.node_point = self._find_node_points()
        self._build_diamonds()
        self._find_copies()

    @staticmethod
    def _join_exchanges(mesh, corners):
        """The exchange of local points: own cells, own nodes, then the ghosts of both."""
        n_cells = mesh.n_cells

        def join(of_cells: dict, of_nodes: dict, shift_of_nodes: int, shift_of_cells: int) -> dict:
            none = np.empty(0, np.intp)
            ranks = of_cells.keys() | of_nodes.keys()
            return {
                rank: np.concatenate(
                    [
                        of_cells.get(rank, none) + shift_of_cells,
                        of_nodes.get(rank, none) + shift_of_nodes,
                    ]
                )
                for rank in ranks
            }

        sent = join(mesh.exchange.send, corners.exchange.send, n_cells, 0)
        received = join(
            mesh.exchange.receive, corners.exchange.receive, mesh.n_local, corners.n_own
        )
        return Exchange(mesh.ranks, sent, received)

    def _find_node_points(self):
        """The local point (n_nodes,) of each node."""
        node = np.arange(self.corners.n_nodes)
        is_own = node < self.corners.n_own
        return node + np.where(is_own, self.mesh.n_cells, self.mesh.n_local)

    def _find_cell_points(self, cell):
        """The local points of cells, ghosts among them."""
        is_own = cell < self.mesh.n_cells
        return cell + np.where(is_own, 0, self.corners.n_own)

    @cached_property
    def point_component(self) -> IntArray:
        """See `Discretisation`."""
        corners = self.corners
        of_cells = self.component[self.patch]
        of_nodes = np.empty(corners.n_nodes, of_cells.dtype)
        of_nodes[corners.node] = of_cells[corners.cell]
        return np.concatenate([of_cells, of_nodes[: corners.n_own]])

    def pack(self, phi: Array) -> Array:
        """See `Discretisation`; each cell keeps the values at its corners as well."""
        mesh = self.mesh
        corners = self.corners
        local = self.with_ghosts(phi)
        at_corners = local[self.node_point[corners.node]]
        own_most = np.diff(corners.start).max(initial=0)
        packed = np.zeros((1 + int(mesh.ranks.max(own_most)), phi.shape[1], mesh.n_cells))
        packed[0] = phi[: mesh.n_cells].T
        packed[1 + self._corner_place, :, corners.cell] = at_corners
        return packed.reshape(-1, mesh.n_cells)

    def unpack(self, packed: Array) -> Array:
        """See `Discretisation`."""
        mesh = self.mesh
        corners = self.corners
        packed = packed.reshape(-1, self.n_steps + 1, mesh.n_cells)
        at_nodes = np.empty((corners.n_nodes, self.n_steps + 1))
        at_nodes[corners.node] = packed[1 + self._corner_place, :, corners.cell]
        return np.concatenate([packed[0].T, at_nodes[: corners.n_own]])

    @property
    def _corner_place(self):
        """The place (n_corners,) of each corner among those of its cell."""
        return np.arange(len(self.corners.node)) - self.corners.start[self.corners.cell]

    # ---- diamonds and their copies ---------------------------------------------------------------

    def _build_diamonds(self):
        """Find points and matrices of all diamonds, walls included."""
        mesh = self.mesh
        corners = self.corners
        sides = corners.sides
        width = len(corners.side_corner)

        root = sides.see_from_faces(np.moveaxis(corners.side_root, 0, -1))
        at = corners.side_corner
        node = np.full((width, mesh.n_faces), -1)
        node_there = corners.node[np.maximum(at, 0)].astype(int)  # NumPy 2 puts no -1 beside uint32
        node[:, sides.face] = np.where(at >= 0, node_there, -1)
        self._list_diamonds(np.moveaxis(root, -1, 1), node)

    def _list_diamonds(self, root, node):
        """Fill `diamonds`, by groups of faces with as many corners and cells."""
        mesh = self.mesh
        n = mesh.n_faces
        n_corners = (node >= 0).sum(axis=0)
        is_inner = np.arange(n) < mesh.n_inner
        n_slopes = n_corners + is_inner
        point_start = np.cumsum(n_slopes + 1) - (n_slopes + 1)
        root_start = np.cumsum(n_slopes**2) - n_slopes**2
        points = np.empty((n_slopes + 1).sum(), np.int64)
        roots = np.empty((n_slopes**2).sum())

        for count in np.unique(n_corners):
            for with_right in (False, True):
                faces = np.flatnonzero((n_corners == count) & (is_inner == with_right))
                k = count + with_right
                ends = [self._find_cell_points(mesh.left[faces])[None]]
                ends.append(self.node_point[node[:count, faces]])
                rows = root[0, faces, :count, :count]
                if with_right:
                    ends.append(self._find_cell_points(mesh.right[faces])[None])
                    rows = _join_sides(rows, root[1, faces, :count, :count])

                place = point_start[faces] + np.arange(k + 1)[:, None]
                points[place] = np.concatenate(ends)
                place = root_start[faces] + np.arange(k**2)[:, None]
                roots[place] = factor_rows(rows).reshape(len(faces), k**2).T
        self.diamonds = DiamondTable(n_slopes, point_start, points, root_start, roots)

    def _find_copies(self):
        mesh = self.mesh
        sides = self.corners.sides
        is_left = sides.sign > 0
        of_left, of_right = self.corners.face_shares[:, sides.face]
        share = np.where(is_left, of_left, of_right)
        owner = self.patch[sides.cell]
        copies = copy_faces(owner, sides.face, share, mesh.n_faces)
        self.copy_patch = copies.patch
        self.copy_face = copies.face
        self.weight = copies.weight
        self.n_copies = len(copies.patch)
        self.copy_start = np.searchsorted(self.copy_patch, np.arange(self.n_patches + 1))
        n_rows = self.diamonds.n_slopes[self.copy_face]
        self.row_start = np.concatenate([[0], np.cumsum(n_rows)])

    @cached_property
    def row_copy(self) -> IntArray:
        """The copy (n_rows,) of each row of b."""
        return np.repeat(np.arange(self.n_copies), np.diff(self.row_start))

    # ---- the operators ---------------------------------------------------------------------------

    def slopes(self, phi: Array) -> Array:
        """See `Discretisation`; k slopes for each copy."""
        local = self.with_ghosts(np.asarray(phi, float))
        b = np.empty((self.row_start[-1], 2, self.n_steps))
        _fill_slopes(self.copy_face, self.row_start, *self.diamonds, local, b)
        return b

    def square(self, b: Array) -> Array:
        """See `Discretisation`."""
        total = np.zeros((self.n_patches, self.n_steps))
        square_of_row = (b**2).sum(axis=1)
        copy = self.row_copy
        np.add.at(total, self.copy_patch[copy], self.weight[copy, None] * square_of_row)
        return total / (2 * self.volume[:, None])

    def mobility(self, rho: Array) -> Array:
        """M_s (n_faces, k) of patch values (n_patches, k), walls included."""
        mean = self.corners.average_at_faces(self.spread(rho).T)
        return np.ascontiguousarray(mean.T)

    def extend(self, phi: Array) -> Array:
        """phi (n_points, k) from its values (n_cells, k) in cells: at nodes, the means of linear
        extrapolations from the cells around. Collective.
        """
        mesh = self.mesh
        corners = self.corners
        weights = gradient_weights(corners.sides)
        slope = gradients(mesh, corners.sides, weights, np.ascontiguousarray(phi.T))
        at_corners = phi.T[:, corners.cell]
        at_corners = at_corners + np.einsum("kic,ic->kc", slope[:, :, corners.cell], corners.leg)
        at_nodes = np.stack([corners.average_at_nodes(values) for values in at_corners])
        return np.concatenate([phi, at_nodes[:, : corners.n_own].T])

    def find_face_fluxes(self, flux: Array) -> Array:
        """See `Discretisation`: what comes to each node is led through the faces there."""
        routes = FaceRoutes(self.corners)
        through = routes(self.corners.sum_legs(flux), self.find_momenta(flux))
        routes.destroy()
        return through

    def find_momenta(self, flux: Array) -> Array:
        """The mean momenta (k, dim, n_cells) of the cells: |K| m_K = sum_c F_c (x_c - x_K), exact
        for constant fields.
        """
        corners = self.corners
        legs = corners.sum_legs(flux)
        moments = [np.add.reduceat(leg[:, None] * legs, corners.start[:-1]) for leg in corners.leg]
        means = np.stack(moments) / self.mesh.volume[:, None]
        return means.transpose(2, 0, 1)

    def find_velocities(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: |K| v_K = sum_T |T| m_T / rho_T over the simplices of K."""
        with np.errstate(invalid="ignore"):
            through = flux / mobility[self.corners.sides.face][:, None]
        return self.find_momenta(through)

    def cost_fluxes(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: F^T (sum_T |T| G_T^T G_T)^-1 F / M_s of this rank's sides."""
        corners = self.corners
        costs = np.empty((len(flux), flux.shape[-1]))
        _fill_costs(corners.side_corner, corners.side_root, flux, costs)

        # A piece of the mesh may have no mass at all.
        with np.errstate(divide="ignore", invalid="ignore"):
            costs /= mobility[corners.sides.face]
        return np.nan_to_num(costs, nan=0.0, posinf=np.inf)

    def square_speeds(self, flux: Array, mobility: Array) -> Array:
        """See `Discretisation`: mean squares over the simplices of each side."""
        volume = self.corners.side_volume[:, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.cost_fluxes(flux, mobility) / (volume * mobility[self.corners.sides.face])


def _join_sides(left, right):
    """The rows (n, 2 m, m + 1) of both sides, for differences to x_K of the m corners and x_L.

    left, right (n, m, m) : of the differences of the corners to x_K, and to x_L
    """
    n, m = left.shape[:2]
    rows = np.zeros((n, 2 * m, m + 1))
    rows[:, :m, :m] = left
    rows[:, m:, :m] = right
    rows[:, m:, m] = -right.sum(axis=2)
    return rows


@numba.njit(cache=True, error_model="numpy")
def _fill_slopes(copy_face, row_start, n_slopes, point_start, point, root_start, root, phi, b):
    """b = R_s delta of all copies, at both ends of each slab."""
    n = b.shape[2]
    for c in range(len(copy_face)):
        face = copy_face[c]
        k = n_slopes[face]
        base = phi[point[point_start[face]]]
        for i in range(k):
            first = b[row_start[c] + i, 0]
            second = b[row_start[c] + i, 1]
            first[:] = 0.0
            second[:] = 0.0
            for l in range(i, k):
                R = root[root_start[face] + i * k + l]
                row = phi[point[point_start[face] + 1 + l]]
                for j in range(n):
                    first[j] += R * (row[j] - base[j])
                    second[j] += R * (row[j + 1] - base[j + 1])


@numba.njit(cache=True, error_model="numpy")
def _fill_costs(side_corner, root, flux, costs):
    """|R^-T F|^2 of all sides."""
    width = len(side_corner)
    k = flux.shape[2]
    y = np.empty((width, k))
    for side in range(len(flux)):
        costs[side] = 0.0
        for i in range(width):
            if side_corner[i, side] < 0:
                break
            y[i] = flux[side, i]
            for m in range(i):
                y[i] -= root[side, m, i] * y[m]
            y[i] /= root[side, i, i]
            costs[side] += y[i] ** 2
