"""Coarser discretisations, and how phi and rho are carried from one to the next finer one.

Cartesian meshes have half as many cells along each axis, with tensor-product interpolation and
exact averages. All other meshes have agglomerates of 2^dim cells, on which the same
`Discretisation` works, with linear interpolation by least-squares gradients. Steps in time are
halved as well. The levels do not depend on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..arguments.types import Array
from ..mesh import Mesh, coarsening
from ..mesh.assembly import coarsen_cartesian
from .diamonds import DiamondDiscretisation
from .discretisation import Discretisation
from .distributed_matrix import DistributedMatrix, list_owners, pack_matrix, unpack_matrix
from .time_basis import slab_middles
from .two_point import TwoPointDiscretisation

# Cells along an axis of the coarsest level, about.
FEWEST_AXIS_CELLS = 8

# Steps in time of the coarsest level.
FEWEST_TIME_STEPS = 4

# A level that keeps a larger part of the cells is not coarse enough to be of use: the mesh consists
# of as many pieces.
LARGEST_COARSENING_RATIO = 0.95


@dataclass(frozen=True)
class Level:
    """A `Discretisation`, and the maps between it and the next coarser level.

    prolong, restrict : `DistributedMatrix`: linear interpolation of cell values, and their averages
        over the coarser cells; None on the coarsest level
    """

    disc: Discretisation
    prolong: Any
    restrict: Any

    def finer_phi(self, phi: Array) -> Array:
        """phi (n_points, N + 1) from that of the coarser level, whose points are cells."""
        nodes = _interpolate_nodes(phi.shape[1] - 1, self.disc.n_steps)
        finer = self.prolong @ (phi @ nodes)
        if isinstance(self.disc, DiamondDiscretisation):
            return self.disc.extend(finer)
        return finer

    def finer_rho(self, rho: Array) -> Array:
        """rho (n_patches, N) >= 0 from the cell values (n_coarse, N) of the coarser level."""
        slabs = _interpolate_slabs(rho.shape[1], self.disc.n_steps)
        finer_cells = self.prolong @ (rho @ slabs)
        mean = self.disc.average(finer_cells)
        return np.maximum(mean, 0)

    def finer_density(self, rho: Array) -> Array:
        """A density (n_cells,) >= 0 from that of the coarser level."""
        finer = self.prolong @ rho[:, None]
        return np.maximum(finer, 0)[:, 0]

    def coarser_densities(self, rho: Array) -> Array:
        """Two densities (2, n_coarse) on the coarser level from the columns of rho (n_cells, 2)."""
        coarser = self.restrict @ rho
        return np.ascontiguousarray(coarser.T)


def build_levels(disc: Discretisation) -> list[Level]:
    """The `Level` of a `Discretisation` and of all coarser ones, the finest first."""
    levels: list[Level] = []
    while True:
        coarsening_maps = coarsen_mesh(disc.mesh)
        if coarsening_maps is None:
            return [*levels, Level(disc, None, None)]

        coarse, prolong, restrict = coarsening_maps
        levels.append(Level(disc, prolong, restrict))
        n_steps = _halve_number(disc.n_steps, FEWEST_TIME_STEPS)
        if disc.has_fisher_rao:
            n_steps = disc.n_steps  # phi is too large at both ends for longer steps
        disc = TwoPointDiscretisation(coarse, n_steps, growth=disc.growth)


def _halve_number(n, fewest):
    """Half of n cells or steps, or all of them where half would be fewer than *fewest*."""
    return n if n < 2 * fewest else -(-n // 2)


def coarsen_mesh(mesh: Mesh) -> tuple[Mesh, DistributedMatrix, DistributedMatrix] | None:
    """(coarser mesh, prolongation, restriction of cell averages); None if it is coarse enough."""
    if mesh.block is not None:
        return _halve(mesh)

    # Agglomerates of fewer simplices would not be round.
    size = 2**mesh.dim * (1 + mesh.has_simplices)
    fewest_for_axes = (2 * FEWEST_AXIS_CELLS) ** mesh.dim
    fewest_for_ranks = 2 * size * mesh.ranks.size
    fewest_cells = max(fewest_for_axes, fewest_for_ranks)
    if mesh.n_cells_global < fewest_cells:
        return None

    return _agglomerate(mesh, size)


# ---- Cartesian meshes ----------------------------------------------------------------------------


def _halve(mesh):
    block = mesh.block
    grid = [_halve_number(n, FEWEST_AXIS_CELLS) for n in block.grid]
    if tuple(grid) == tuple(block.grid) or np.prod(grid) < mesh.ranks.size:
        return None

    coarse = coarsen_cartesian(mesh, tuple(grid))
    factors = []
    fine_axes = zip(block.first, block.shape, block.grid, grid, block.periodic)
    for first, size, n, m, periodic in fine_axes:
        interpolation = _build_interpolation(n, m, periodic)
        factors.append(interpolation[first : first + size])
    prolong = _multiply_tensors(factors)

    factors = []
    coarse_axes = zip(coarse.block.first, coarse.block.shape, block.grid, grid)
    for first, size, n, m in coarse_axes:
        averages = _build_averages(n, m)
        factors.append(averages[first : first + size])
    restrict = _multiply_tensors(factors)
    return coarse, _distribute(coarse, prolong), _distribute(mesh, restrict)


def _build_interpolation(n, m, periodic):
    """(n, m): values at the centres of n equal cells from those at the centres of m.

    They are linear between the centres, and constant beyond the last ones.
    """
    x = (np.arange(n) + 0.5) * m / n - 0.5
    low = np.floor(x).astype(int)
    part = x - low
    ends = np.stack([low, low + 1])
    if periodic:
        ends = ends % m
    else:
        ends = np.clip(ends, 0, m - 1)

    values = np.concatenate([1 - part, part])
    rows = np.tile(np.arange(n), 2)
    places = (rows, ends.ravel())
    return sparse.csr_matrix((values, places), (n, m))


def _build_averages(n, m):
    """(m, n): averages over m equal cells of values in n equal cells."""
    fine_ends = np.arange(n + 1) * m
    coarse_ends = np.arange(m + 1) * n
    ends = np.union1d(fine_ends, coarse_ends)
    part = np.diff(ends) / n
    begins = ends[:-1]
    places = (begins // n, begins // m)
    return sparse.csr_matrix((part, places), (m, n))


def _multiply_tensors(factors):
    product, *others = factors
    for factor in others:
        product = sparse.kron(product, factor, format="csr")
    return product.tocsr()


def _distribute(mesh, rows):
    """The `DistributedMatrix` of the rows of this rank, whose columns are the cells of a mesh."""
    own = mesh.cell_id[: mesh.n_cells]
    owner = list_owners(mesh.ranks.all_reports(own))
    return DistributedMatrix.rows(mesh.ranks, rows, own, owner)


# ---- agglomerates --------------------------------------------------------------------------------


def _agglomerate(mesh, size):
    whole = coarsening.gather_geometry(mesh)
    parts = mesh.ranks.on_root(lambda: _build_parts(*whole, size))
    part = mesh.ranks.send_parts(parts)
    mesh_part = {}
    for name, array in part.items():
        is_map = name[:2] in ("P ", "R ")
        if not is_map:
            mesh_part[name] = array

    coarse = coarsening.build_agglomerate_mesh(mesh, mesh_part)
    if coarse.n_cells_global > LARGEST_COARSENING_RATIO * mesh.n_cells_global:
        return None

    prolong = _distribute(coarse, unpack_matrix(part, "P"))
    restrict = _distribute(mesh, unpack_matrix(part, "R"))
    return coarse, prolong, restrict


def _build_parts(fine, own, size):
    """For each rank the arrays of the coarser mesh, and its rows of both maps. On rank 0."""
    member, coarse = coarsening.agglomerate_cells(fine, size)
    owner = coarsening.assign_owners(member, list_owners(own), coarse, len(own))
    P = coarsening.build_interpolation(member, fine, coarse)
    share = fine.volume / coarse.volume[member]
    fine_cells = np.arange(len(member))
    R = sparse.csr_matrix((share, (member, fine_cells)), P.shape[::-1])

    parts = []
    for rank, cells in enumerate(own):
        part = coarsening.build_part(coarse, owner, rank)
        part |= pack_matrix("P", P[cells])
        part |= pack_matrix("R", R[owner == rank])
        parts.append(part)
    return parts


# ---- time ----------------------------------------------------------------------------------------


def _interpolate_nodes(n, m):
    """(n + 1, m + 1): linear interpolation from the nodes of n steps to those of m."""
    given_nodes = np.linspace(0, 1, n + 1)
    wanted_nodes = np.linspace(0, 1, m + 1)
    return _interpolate(given_nodes, wanted_nodes)


def _interpolate_slabs(n, m):
    """(n, m): linear interpolation from the middles of n slabs to those of m.

    It is constant beyond the outer ones.
    """
    return _interpolate(slab_middles(n), slab_middles(m))


def _interpolate(x, y):
    rows = []
    for unit in np.eye(len(x)):
        rows.append(np.interp(y, x, unit))
    return np.stack(rows)
