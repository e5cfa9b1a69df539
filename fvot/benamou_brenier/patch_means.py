"""Means of the data over patches, between which transport is solved.

The density of a path lives on patches. If it had to come from rho0 itself, mass would be levelled
in each patch within the first half step, at a cost of about h^4 / tau, and likewise in the last
one. That is no part of the move from rho0 to rho1, and most of the cost of a move that is short
against a patch. Hence the path leads from the mean P rho0 to the mean P rho1, and what differs
within patches counts to first order, with the potential phi of the path:

    W2^2(rho0, rho1) = W2^2(P rho0, P rho1)
                       + 2 int phi^1 (rho1 - P rho1) - 2 int phi^0 (rho0 - P rho0)

up to O(h^4). Both bounds are shifted by the same amount; the lower one is then 2 L(phi) with the
data themselves. The flux that levels them,

    |K| (rho - P rho)_K = what leaves K

is added to the fluxes at both ends of the path. Where patches are single cells, P rho = rho.

A free end must feel how rho0 differs within patches. There, the path does start from rho0 itself:
rho1 is right, and W2^2 has the cost of levelling in it.
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..errors import warn
from .discretisation import Discretisation
from .geodesic import Geodesic
from .two_point_flux import MobilityTrees

# Mobility of faces between patches, relative to those within: they carry round-off only.
MOBILITY_BETWEEN_PATCHES = 1e-3

# Moves within patches, relative to W2, above which W2 is not resolved.
LARGEST_UNRESOLVED_MOVE = 0.2

# The part of W2^2 that levels rho0 within patches, above which it is said.
LARGEST_LEVELLING_PART = 0.1

# W2^2, relative to the energy, up to which nothing moves.
NO_MOVE = 1e-12


def take_patch_means(disc: Discretisation, rho: Array) -> Array:
    """P rho (n_cells, ...): the mean of rho over the patch of each cell. Collective."""
    if disc.has_single_cells:
        return rho

    return disc.spread(disc.average(rho))


def find_levelling(disc: Discretisation, rho0: Array, rho1: Array) -> Array:
    """The mass (2, n_faces) through faces, along normals, from rho0 to P rho0, and P rho1 to rho1.

    Collective.
    """
    mesh = disc.mesh
    levelling = np.zeros((2, mesh.n_faces))
    if disc.has_single_cells:
        return levelling

    densities = np.stack([rho0, -rho1], axis=1)
    excess = densities - take_patch_means(disc, densities)
    loss = mesh.volume[:, None] * excess
    mobility = np.where(_find_faces_within(disc), 1.0, MOBILITY_BETWEEN_PATCHES)
    mobility = np.stack([mobility, mobility], axis=1)
    flux = MobilityTrees(mesh).conserve(np.zeros_like(mobility), mobility, loss)
    levelling[:, : mesh.n_inner] = flux.T
    return levelling


def find_correction(disc: Discretisation, phi: Array, rho0: Array, rho1: Array) -> float:
    """What rho0 and rho1 (n_cells,) add to W2^2 of their means over patches. Collective.

    phi (n_points, N + 1) : the potential of the path between the means
    """
    if disc.has_single_cells:
        return 0.0

    mesh = disc.mesh
    densities = np.stack([-rho0, rho1], axis=1)
    differences = densities - take_patch_means(disc, densities)
    at_ends = phi[: mesh.n_cells, [0, -1]]
    own_sum = (mesh.volume[:, None] * at_ends * differences).sum()
    return 2 * mesh.ranks.sum(own_sum)


def warn_of_unresolved_move(
    disc: Discretisation, rho0: Array, rho1: Array, levelling: Array, square: float
) -> None:
    """Warn where much of the move from rho0 to rho1 (n_cells,) lies within patches. Collective.

    levelling (2, n_faces) : of `find_levelling`
    square : W2^2 between the means over patches, with the cost of growth

    With l_s the mass of both levellings through the faces within patch P, of mass m_P, and d_s the
    distance of centroids there, the move within patches is the root of

        sum_P (sum_s |l_s| d_s)^2 / m_P
    """
    mesh = disc.mesh
    if disc.has_single_cells:
        return

    faces = np.flatnonzero(_find_faces_within(disc))
    left = mesh.left[faces]
    right = mesh.right[faces]
    height = (mesh.volume[left] + mesh.volume[right]) / mesh.area[faces]
    distance = mesh.dim / (mesh.dim + 1) * height  # of simplices; of others it is less
    moved = np.abs(levelling[:, faces].sum(axis=0)) * distance
    moment = np.bincount(disc.patch[left], moved, disc.n_patches)
    mass = disc.volume * disc.average((rho0 + rho1) / 2)
    own_sum = (moment**2 / np.where(mass > 0, mass, np.inf)).sum()
    move = mesh.ranks.sum(own_sum) ** 0.5

    if move > LARGEST_UNRESOLVED_MOVE * square**0.5 and mesh.ranks.is_root:
        name = "W2" if disc.growth is None else "the distance, with growth,"
        warn(
            f"the densities differ within patches of cells as if moved there by {move:.2g}, where "
            f"{name} is {square**0.5:.2g} in all, and transport resolves whole patches: refine the "
            "mesh, or make it with patches='none'"
        )


def warn_of_levelling(path: Geodesic) -> None:
    """Warn where much of W2^2 of a path with a free end levels rho0 within patches."""
    action = path.cost - 2 * path.energy
    half_step = path.node_t[1] / 2
    excess = half_step * (path.speed[0] ** 2 - path.speed[1] ** 2)
    is_move = action > NO_MOVE * abs(path.energy)
    if is_move and excess > LARGEST_LEVELLING_PART * action and path.mesh.ranks.is_root:
        warn(
            f"{excess / action:.0%} of W2^2 is spent on levelling rho0 within patches of cells, "
            "and is no part of the move: rho1 is right, W2^2 too large; refine the mesh, or make "
            "it with patches='none'"
        )


def _find_faces_within(disc):
    """(n_inner,) whether a face joins two cells of a patch."""
    mesh = disc.mesh
    patch = mesh.with_ghosts(mesh.patch)
    n = mesh.n_inner
    return patch[mesh.left[:n]] == patch[mesh.right[:n]]
