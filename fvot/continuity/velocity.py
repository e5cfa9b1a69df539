"""What moves a density: a velocity, a stream function, or face fluxes, each as fluxes U_s, the
integrals of v.n over faces.

Each of the three has `steady`; `at(t)`, which is linear in the velocity, so that one may take means
of it over time; of that `flux(found)`, U (n_faces,), and `velocity(found, U)` at the faces (dim,
n_faces), for limiters; `through(faces)`, a function of t, U of some faces, which is not collective
and may be a little less exact; and `cell_velocity(t)` (dim, n_cells), means over the cells, for
results.
"""

import numba
import numpy as np

from ..arguments.functions import as_floats, as_function
from ..errors import InputError
from ..finite_volume.velocity_field import cell_velocity
from ..mesh.means import average_over_faces, circulate_around_faces
from ..mesh.quadrature import circulation


def flow(mesh, velocity, stream, face_flux):
    """The one of the three that is given; `InputError` unless exactly one is, and for one that will
    not do.
    """
    given = [
        name
        for name, value in (("velocity", velocity), ("stream", stream), ("face_flux", face_flux))
        if value is not None
    ]
    if len(given) != 1:
        raise InputError(
            "give exactly one of velocity, stream and face_flux, not "
            f"{' and '.join(given) or 'none of them'}"
        )
    if velocity is not None:
        return Given(mesh, velocity)
    return Stream(mesh, stream) if stream is not None else Fluxes(mesh, face_flux)


class Given:
    """A velocity function, integrated over the faces."""

    def __init__(self, mesh, velocity):
        self.mesh = mesh
        self.f = as_function(velocity, "velocity", (mesh.dim,))
        self.steady = not self.f.depends_on_time

    def at(self, t):
        """Means (dim, n_faces) over the faces."""
        return average_over_faces(self.mesh, lambda x: self.f(x, t))

    def flux(self, found):
        return self.mesh.area * np.einsum("if,if->f", found, self.mesh.normal)

    def velocity(self, found, U):
        return found

    def through(self, faces):
        """By the velocity in their middle."""
        x = self.mesh.face_center[:, faces]
        direction = self.mesh.area[faces] * self.mesh.normal[:, faces]
        return lambda t: (self.f(x, t) * direction).sum(axis=0)

    def cell_velocity(self, t):
        """Means (dim, n_cells)."""
        return self.mesh.average(lambda x: self.f(x, t))


class Stream:
    """A stream function: U = psi(b) - psi(a) along the face from a to b; in 3D the circulation of A
    around the face.
    """

    def __init__(self, mesh, stream):
        if mesh.dim == 1:
            raise InputError(
                "stream= needs a mesh in 2D or 3D; in 1D a divergence-free velocity is constant"
            )
        self.mesh = mesh
        self.f = as_function(stream, "stream", () if mesh.dim == 2 else (3,))
        self.steady = not self.f.depends_on_time

    def at(self, t):
        """U (n_faces,) itself."""
        mesh = self.mesh
        if mesh.dim == 2:
            with mesh.ranks.raising_together():
                psi = self.f(mesh.points, t)
            return psi[mesh.vertices[1]] - psi[mesh.vertices[0]]
        return circulate_around_faces(mesh, lambda x: self.f(x, t))

    def flux(self, found):
        return found

    def velocity(self, found, U):
        return _face_velocity(self.mesh, U)

    def through(self, faces):
        points = self.mesh.points
        ends = self.mesh.vertices[:, faces]
        if self.mesh.dim == 3:
            return lambda t: integrate_along_edges(points, ends, lambda x: self.f(x, t), 3)
        corner, place = np.unique(ends, return_inverse=True)
        x = points[:, corner]
        (first, second) = place.reshape(ends.shape)

        def flux(t):
            psi = self.f(x, t)
            return psi[second] - psi[first]

        return flux

    def cell_velocity(self, t):
        """Means (dim, n_cells): the integral of curl A over a cell is that of n x A over its faces."""
        mesh = self.mesh
        n = self.mesh.normal
        A = average_over_faces(mesh, lambda x: self.f(x, t))
        turned = np.stack([n[1] * A, -n[0] * A]) if mesh.dim == 2 else np.cross(n, A, axis=0)
        return np.stack([mesh.divergence(mesh.area * component) for component in turned])


class Fluxes:
    """Face fluxes as they are."""

    steady = True

    def __init__(self, mesh, U):
        self.mesh = mesh
        self.U = np.array(as_floats(U, "face_flux must be an array of numbers"))
        if self.U.shape != (mesh.n_faces,):
            raise InputError(
                f"face_flux has shape {self.U.shape}; it needs one number for each of this rank's "
                "faces: "
                f"({mesh.n_faces},)"
            )
        bad = np.flatnonzero(~np.isfinite(self.U))
        if len(bad):
            raise InputError(f"face_flux is {self.U[bad[0]]} at face {bad[0]}: it must be finite")

    def at(self, t):
        return self.U

    def flux(self, found):
        return found

    def velocity(self, found, U):
        return _face_velocity(self.mesh, U)

    def cell_velocity(self, t):
        """Means (dim, n_cells)."""
        return cell_velocity(self.mesh, self.U)


def _face_velocity(mesh, U):
    """Velocities (dim, n_faces): the mean of the two cells, with the normal part that the flux has."""
    velocity = np.empty((mesh.dim, mesh.n_faces))
    _mean_with_flux(
        U,
        mesh.with_ghosts(cell_velocity(mesh, U)),
        mesh.n_inner,
        mesh.left,
        mesh.right,
        mesh.area,
        mesh.normal,
        velocity,
    )
    return velocity


@numba.njit(cache=True, error_model="numpy")
def _mean_with_flux(U, cells, n_inner, left, right, area, normal, velocity):
    dim = len(cells)
    for f in range(len(U)):
        lacking = U[f] / area[f]
        for axis in range(dim):
            mean = cells[axis, left[f]]
            if f < n_inner:
                mean = (mean + cells[axis, right[f]]) / 2
            velocity[axis, f] = mean
            lacking -= mean * normal[axis, f]
        for axis in range(dim):
            velocity[axis, f] += lacking * normal[axis, f]
