"""The current of a gradient flow at one time, from the density and the pressure alone.

With Q = rho e'(rho) - e(rho), which is finite in the vacuum where e' may not be, the current is

    -rho grad(e'(rho) + V + W * rho + p) = -grad Q - rho grad(V + W * rho + p) - d_x e

Slopes along normals are two-point differences, or, where fluxes go to corners, differences between
centroids, corrected by least-squares gradients.
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..energies.free_energy import FreeEnergy
from ..finite_volume.stencil import Stencil, gradient_weights, gradients
from ..finite_volume.velocity_field import cell_velocity, divide_by_density
from .doors import Doors

# The cosine between a face's normal and the line between centroids below which that line is not
# used.
MIN_COSINE = 0.1


def compute_current(
    energy: FreeEnergy,
    goes_to_corners: bool,
    density: Array,
    pressure: Array | None = None,
    doors: Doors | None = None,
) -> tuple[Array, Array]:
    """(current, velocity) (dim, n_cells) of a density (n_cells,); nothing crosses the boundary but
    what leaves through the doors.

    Where there is no mass, the velocity is -grad(V + W * rho + p). Collective.
    """
    mesh = energy.mesh
    Phi = energy.potential(density) + (0.0 if pressure is None else pressure)
    fields = np.stack([energy.osmotic_pressure(density), Phi])
    flux = np.zeros((2, mesh.n_faces))
    slopes = _find_slopes(mesh, fields, goes_to_corners)
    flux[:, : mesh.n_inner] = -mesh.area[: mesh.n_inner] * slopes
    if doors is not None:
        here = doors.cells
        fall = fields[:, here]
        fall[1] -= doors.external
        leaves = (fall[1] > 0) | (fall[0] + density[here] * fall[1] > 0)
        flux[:, doors.faces] = np.where(leaves, doors.transmissibility * fall, 0.0)

    spreading = cell_velocity(mesh, flux[0]) - energy.explicit_gradient(density)
    driven = cell_velocity(mesh, flux[1])
    velocity = divide_by_density(spreading, density) + driven
    return spreading + density * driven, velocity


def _find_slopes(mesh, fields, goes_to_corners):
    """The derivatives (k, n_inner) of fields (k, n_cells) along the normals of the inner faces."""
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    local = mesh.with_ghosts(fields)
    jump = local[:, right] - local[:, left]
    if not goes_to_corners:
        return jump / mesh.distance[:n]

    stencil = Stencil(mesh)
    own = gradients(mesh, stencil, gradient_weights(stencil), fields)
    slopes = mesh.with_ghosts(own)
    mean = (slopes[..., left] + slopes[..., right]) / 2
    normal = mesh.normal[:, :n]
    span = mesh.left_offset[:, :n] - mesh.right_offset[:, :n]
    along = (normal * span).sum(axis=0)
    is_steep = along > MIN_COSINE * np.linalg.norm(span, axis=0)
    missed = jump - np.einsum("kif,if->kf", mean, span)
    correction = np.divide(missed, along, out=np.zeros_like(missed), where=is_steep)
    return np.einsum("kif,if->kf", mean, normal) + correction
