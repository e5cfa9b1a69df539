"""What moves a density: a velocity, a stream function, or face fluxes.

Each of them gives fluxes U_s, the integrals of v.n over faces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..arguments.functions import as_floats, as_function
from ..arguments.types import Array, ArrayLike, Coefficient, IntArray
from ..errors import InputError
from ..mesh.coordinates import find_axis_edges
from ..mesh.means import average_over_faces, circulate_around_faces
from ..mesh.quadrature import integrate_along_edges
from .velocity_field import cell_velocity, face_velocity

# The change of a stream function along an edge at the radius 0, relative to its range, that is
# rounding.
AXIS_TOLERANCE = 1e-9


class VelocitySource(Protocol):
    """What moves a density. Its samples are linear in the velocity: one may average them over time.

    steady : whether the velocity is the same at all times
    """

    steady: bool

    def sample(self, t: float) -> Array:
        """What the source knows of the velocity at time t."""

    def flux(self, sample: Array) -> Array:
        """U (n_faces,) of a sample."""

    def velocity(self, sample: Array, U: Array) -> Array:
        """The velocity (dim, n_faces) at the faces, for limiters."""

    def flux_function(self, faces: IntArray) -> Callable[[float], Array]:
        """A function of t: U of some faces, perhaps a little less exact. Not collective.

        Only sources that are not steady need it.
        """

    def cell_velocity(self, t: float) -> Array:
        """Means (dim, n_cells) of the velocity over the cells, for results."""


def build_velocity_source(
    mesh: Any,
    velocity: Coefficient | None,
    stream: Coefficient | None,
    face_flux: ArrayLike | None,
    *,
    what: str = "velocity",
) -> VelocitySource | None:
    """The source that is given, or None; `InputError` if more than one is, or it is not valid.

    what : the user's name for the velocity
    """
    sources = {what: velocity, "stream": stream, "face_flux": face_flux}
    names = [name for name, value in sources.items() if value is not None]
    if len(names) > 1:
        raise InputError(
            f"{what}, stream and face_flux are three ways to say the same: give exactly one, not "
            f"{' and '.join(names)}"
        )
    if not names:
        return None

    if velocity is not None:
        return VelocityFunction(mesh, velocity, what)
    if stream is not None:
        return StreamFunction(mesh, stream)
    return FaceFluxes(mesh, face_flux)


class VelocityFunction:
    """A velocity function, integrated over the faces."""

    def __init__(self, mesh: Any, velocity: Coefficient, what: str):
        self.mesh = mesh
        self.f = as_function(velocity, what, (mesh.dim,))
        self.steady = not self.f.depends_on_time

    def sample(self, t: float) -> Array:
        """Means (dim, n_faces) over the faces."""
        return average_over_faces(self.mesh, lambda x: self.f(x, t))

    def flux(self, sample: Array) -> Array:
        """U (n_faces,)."""
        return self.mesh.area * np.einsum("if,if->f", sample, self.mesh.normal)

    def velocity(self, sample: Array, U: Array) -> Array:
        """The sample itself."""
        return sample

    def flux_function(self, faces: IntArray) -> Callable[[float], Array]:
        """U by the velocity at the middle of each face."""
        x = self.mesh.face_center[:, faces]
        direction = self.mesh.area[faces] * self.mesh.normal[:, faces]
        return lambda t: (self.f(x, t) * direction).sum(axis=0)

    def cell_velocity(self, t: float) -> Array:
        """Means (dim, n_cells)."""
        return self.mesh.average(lambda x: self.f(x, t))


class StreamFunction:
    """A stream function: U = psi(b) - psi(a) along the face from a to b.

    In cylindrical coordinates it is Stokes's stream function, v_r = -1/r d psi/dz and
    v_z = 1/r d psi/dr: U = 2 pi (psi(a) - psi(b)). (r, z) is turned against (x, y), as the angle
    stands between r and z.

    In 3D it is a vector potential A: U is the circulation of A around the face.
    """

    def __init__(self, mesh: Any, stream: Coefficient):
        if mesh.dim == 1:
            raise InputError(
                "stream= needs a mesh in 2D or 3D; in 1D a divergence-free velocity is constant"
            )
        self.mesh = mesh
        self.f = as_function(stream, "stream", () if mesh.dim == 2 else (3,))
        self.steady = not self.f.depends_on_time
        self._is_radial = mesh.coordinates != "cartesian"
        self._factor = -2 * np.pi if self._is_radial else 1.0
        self._axis = find_axis_edges(mesh) if self._is_radial else None

    def sample(self, t: float) -> Array:
        """U (n_faces,) itself."""
        mesh = self.mesh
        if mesh.dim == 3:
            return circulate_around_faces(mesh, lambda x: self.f(x, t))
        with mesh.ranks.raising_together():
            psi = self.f(mesh.points, t)
            if self._axis is not None:
                self._check_axis(psi)
        U = psi[mesh.vertices[1]] - psi[mesh.vertices[0]]
        if self._is_radial:
            U *= self._factor
            U[mesh.area == 0] = 0.0
        return U

    def _check_axis(self, psi):
        """`InputError` unless the stream function has one value along r = 0."""
        begin, end = psi[self._axis]
        change = np.abs(end - begin).max(initial=0.0)
        if change > AXIS_TOLERANCE * np.ptp(psi):
            raise InputError(
                f"stream changes by {change:.3g} along an edge at r = 0, where nothing flows: "
                "Stokes's stream function is constant there, such as r^2 / 2 for v_z = 1"
            )

    def flux(self, sample: Array) -> Array:
        """The sample itself."""
        return sample

    def velocity(self, sample: Array, U: Array) -> Array:
        """The velocity (dim, n_faces), from the fluxes."""
        return face_velocity(self.mesh, U)

    def flux_function(self, faces: IntArray) -> Callable[[float], Array]:
        """U of these faces."""
        points = self.mesh.points
        ends = self.mesh.vertices[:, faces]
        if self.mesh.dim == 3:
            return lambda t: integrate_along_edges(points, ends, lambda x: self.f(x, t), 3)

        corner, place = np.unique(ends, return_inverse=True)
        x = points[:, corner]
        begin, end = place.reshape(ends.shape)

        def compute_flux(t: float) -> Array:
            psi = self.f(x, t)
            return self._factor * (psi[end] - psi[begin])

        return compute_flux

    def cell_velocity(self, t: float) -> Array:
        """Means (dim, n_cells).

        The integral of curl A over a cell is that of n x A over its faces.
        """
        mesh = self.mesh
        if self._is_radial:
            return cell_velocity(mesh, self.sample(t))
        n = self.mesh.normal
        A = average_over_faces(mesh, lambda x: self.f(x, t))
        if mesh.dim == 2:
            cross = np.stack([n[1] * A, -n[0] * A])
        else:
            cross = np.cross(n, A, axis=0)

        return np.stack([mesh.divergence(mesh.area * component) for component in cross])


class FaceFluxes:
    """Face fluxes as they are."""

    steady = True

    def __init__(self, mesh: Any, U: ArrayLike | None):
        self.mesh = mesh
        self.U = np.array(as_floats(U, "face_flux must be an array of numbers"))
        if self.U.shape != (mesh.n_faces,):
            raise InputError(
                f"face_flux has shape {self.U.shape}; it needs one number for each of this rank's "
                f"faces: ({mesh.n_faces},)"
            )
        bad = np.flatnonzero(~np.isfinite(self.U))
        if len(bad):
            raise InputError(f"face_flux is {self.U[bad[0]]} at face {bad[0]}: it must be finite")

    def sample(self, t: float) -> Array:
        """U (n_faces,) itself."""
        return self.U

    def flux(self, sample: Array) -> Array:
        """The sample itself."""
        return sample

    def velocity(self, sample: Array, U: Array) -> Array:
        """The velocity (dim, n_faces), from the fluxes."""
        return face_velocity(self.mesh, U)

    def flux_function(self, faces: IntArray) -> Callable[[float], Array]:
        """U of these faces, at all times."""
        return lambda t: self.U[faces]

    def cell_velocity(self, t: float) -> Array:
        """Means (dim, n_cells), from the fluxes."""
        return cell_velocity(self.mesh, self.U)
