"""Coarser discretisations, and how phi and rho are carried from one to the next finer one.

Cartesian meshes have half as many cells along each axis, tensor-product interpolation and exact
averages; all others have agglomerates of 2^dim cells, for which the same `Discretisation` serves,
and interpolate linearly with least-squares gradients. Steps in time are halved as well. Everything
is the same for any number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..mesh import coarsening
from .discretisation import Discretisation
from .distributed_matrix import DistributedMatrix, packed, unpacked

FEWEST_CELLS = 8  # along an axis of the coarsest level, about
FEWEST_STEPS = 4
SLOWEST_COARSENING = (
    0.95  # a level with more of its cells left is no coarser: the mesh consists of as many pieces
)


@dataclass(frozen=True)
class Level:
    """A `Discretisation`, and the maps between it and the next coarser level (None: it is the
    coarsest).

    prolong, restrict : linear interpolation of cell values, and their averages over the coarser
        cells
    """

    disc: Discretisation
    prolong: DistributedMatrix | None
    restrict: DistributedMatrix | None

    def finer_phi(self, phi):
        """phi (n_cells, N + 1) from that of the coarser level."""
        return self.prolong @ (phi @ _between_nodes(phi.shape[1] - 1, self.disc.n_steps))

    def finer_rho(self, rho):
        """rho (n_patches, N) >= 0 from the cell values (n_coarse, N) of the coarser level."""
        return np.maximum(
            self.disc.average(
                self.prolong @ (rho @ _between_slabs(rho.shape[1], self.disc.n_steps))
            ),
            0,
        )


def levels(disc):
    """The `Level` of a `Discretisation` and of all coarser ones, the finest first."""
    found = []
    while True:
        made = coarsened(disc.mesh)
        if made is None:
            return [*found, Level(disc, None, None)]
        coarse, prolong, restrict = made
        found.append(Level(disc, prolong, restrict))
        n_steps = disc.n_steps
        disc = Discretisation(coarse, -(-n_steps // 2) if n_steps >= 2 * FEWEST_STEPS else n_steps)


def coarsened(mesh):
    """(coarser mesh, prolongation, restriction of cell averages), or None where the mesh is coarse
    enough.
    """
    if mesh.block is not None:
        return _halved(mesh)
    size = 2**mesh.dim * (1 + mesh.has_simplices)  # fewer simplices make no round agglomerates
    if mesh.n_cells_global < max((2 * FEWEST_CELLS) ** mesh.dim, 2 * size * mesh.ranks.size):
        return None
    return _agglomerated(mesh, size)


# ---- Cartesian meshes --------------------------------------------------------------------------------------------------


def _halved(mesh):
    block = mesh.block
    grid = [n if n < 2 * FEWEST_CELLS else -(-n // 2) for n in block.grid]
    if tuple(grid) == tuple(block.grid) or np.prod(grid) < mesh.ranks.size:
        return None
    coarse = mesh.coarsened(tuple(grid))
    here = zip(block.first, block.shape, block.grid, grid, block.periodic)
    P = _tensor(
        [_interpolation(n, m, wraps)[first : first + size] for first, size, n, m, wraps in here]
    )
    there = zip(coarse.block.first, coarse.block.shape, block.grid, grid)
    R = _tensor([_overlaps(n, m)[first : first + size] for first, size, n, m in there])
    return coarse, _dealt(coarse, P), _dealt(mesh, R)


def _interpolation(n, m, periodic):
    """(n, m): linear between the centres of m equal cells, constant beyond the last ones, at the
    centres of n cells.
    """
    x = (np.arange(n) + 0.5) * m / n - 0.5
    low = np.floor(x).astype(int)
    part = x - low
    ends = np.stack([low, low + 1])
    ends = ends % m if periodic else np.clip(ends, 0, m - 1)
    return sparse.csr_matrix(
        (np.concatenate([1 - part, part]), (np.tile(np.arange(n), 2), ends.ravel())), (n, m)
    )


def _overlaps(n, m):
    """(m, n): averages over m equal cells of values in n equal cells."""
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    part = np.diff(ends) / n
    return sparse.csr_matrix((part, (ends[:-1] // n, ends[:-1] // m)), (m, n))


def _tensor(factors):
    product = factors[0]
    for factor in factors[1:]:
        product = sparse.kron(product, factor, format="csr")
    return product.tocsr()


def _dealt(mesh, rows):
    """The rows of this rank, with columns that are the cells of a mesh."""
    own = mesh.cell_id[: mesh.n_cells]
    owner = np.empty(mesh.n_cells_global, np.int32)
    owner[mesh.ranks.all_gather(own)] = mesh.ranks.all_gather(
        np.full(len(own), mesh.ranks.rank, np.int32)
    )
    return DistributedMatrix.rows(mesh.ranks, rows, own, owner)


# ---- agglomerates ------------------------------------------------------------------------------------------------------


def _agglomerated(mesh, size):
    whole = coarsening.whole(mesh)
    part = mesh.ranks.send_parts(mesh.ranks.on_root(lambda: _parts(*whole, size)))
    coarse = mesh.of_agglomerates(
        {name: array for name, array in part.items() if name[:2] not in ("P ", "R ")}
    )
    if coarse.n_cells_global > SLOWEST_COARSENING * mesh.n_cells_global:
        return None
    return coarse, _dealt(coarse, unpacked(part, "P")), _dealt(mesh, unpacked(part, "R"))


def _parts(fine, own, size):
    """For each rank the arrays of the coarser mesh, and its rows of prolongation and restriction.
    On rank 0.
    """
    n_ranks = len(own)
    fine_owner = np.empty(len(fine.volume), np.int64)
    for rank, cells in enumerate(own):
        fine_owner[cells] = rank
    member, coarse = coarsening.coarser(fine, size)
    owner = coarsening.owners(member, fine_owner, coarse, n_ranks)
    P = coarsening.linear(member, fine, coarse)
    R = sparse.csr_matrix(
        (fine.volume / coarse.volume[member], (member, np.arange(len(member)))), P.shape[::-1]
    )
    return [
        coarsening.part(coarse, owner, rank) | packed("P", P[cells]) | packed("R", R[owner == rank])
        for rank, cells in enumerate(own)
    ]


# ---- time --------------------------------------------------------------------------------------------------------------


def _between_nodes(n, m):
    """(n + 1, m + 1): linear interpolation from the nodes of n steps to those of m."""
    return _linear(np.linspace(0, 1, n + 1), np.linspace(0, 1, m + 1))


def _between_slabs(n, m):
    """(n, m): linear interpolation from the middles of n slabs to those of m; constant beyond the
    outer ones.
    """
    return _linear((np.arange(n) + 0.5) / n, (np.arange(m) + 0.5) / m)


def _linear(x, y):
    return np.stack([np.interp(y, x, unit) for unit in np.eye(len(x))])
