"""The coefficients of d rho/dt = div(D grad rho + rho grad V - rho b): what a user gives, as two
numbers for each face.

    F_s = a_s rho_left - b_s rho_right,   (a, b) = flux(U, k)
    k = D_s |s| / d_s,   U = |s| ((b.n)_s - (V_right - V_left) / d_s)

D_s is the harmonic mean of the two cells, (b.n)_s the mean over the face, V enters by differences
only. On boundary faces `dirichlet` puts its density at the face, at the distance of the cell's own
point; `inflow` and `outflow` let through what the drift carries and nothing else: no diffusion.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import as_floats, as_function
from ..arguments.watch import CELL_BLOCKS, Watch, WatchedFaces, group_faces
from ..errors import InputError
from ..finite_volume.boundary import dirichlet, evaluate_densities, read_conditions
from ..finite_volume.fluxes import muscl
from ..finite_volume.rates import Rates, SparsityPattern
from ..mesh.cell_values import describe_wanted_shape
from ..mesh.means import average_over_faces, log_mean_exp_over_cells


@frozen
@dataclass(frozen=True)
class cell_mean:
    """The potential V, a function of x or (x, t), by V_K = -D log(mean of e^(-V/D) over K): cell
    means of Gibbs are exact.
    """

    V: object


class DriftDiffusion:
    """Diffusion, potential, drift and boundary of a Fokker-Planck equation on a mesh; see the
    module and `FokkerPlanck`.

    steady : whether the coefficients are the same at all times; boundary_steady : the same of the
        boundary's densities
    """

    def __init__(self, near, diffusion, potential, drift, flux, boundary):
        """near : the mesh's `Numbering`; what is given has the user's, all else that one's."""
        mesh = near.mesh
        self.near = near
        self.mesh = mesh
        self.flux = flux
        with mesh.ranks.raising_together():
            self._conditions = read_conditions(boundary, mesh)
            self._kinds = {name: boundary[name] for name, _ in self._conditions}
            self._D = _field(near, diffusion, "diffusion")
            self._V = None if potential is None else _field(near, potential, "potential")
            self._drift = None if drift is None else as_function(drift, "drift", (mesh.dim,))
            if not callable(flux) or flux is muscl:
                raise InputError(
                    "flux must be fvot.scharfetter_gummel, fvot.square_root, fvot.upwind, "
                    "fvot.central, or a "
                    f"function (U, k) -> (a, b), not {flux!r:.60}"
                )
            if isinstance(potential, cell_mean) and not self._D.constant:
                raise InputError(
                    "fvot.cell_mean(V) needs a constant diffusion: with another there is no Gibbs "
                    "density"
                )
        self.pattern = SparsityPattern(mesh)
        given = [field for field in (self._D, self._V, self._drift) if field is not None]
        self.steady = not any(field.depends_on_time for field in given)
        self.boundary_steady = not any(density.depends_on_time for _, density in self._conditions)
        self.closed = not self._conditions
        if self._V is not None:
            self._check_periodic()

    def diffusion(self, t=0.0):
        """D (n_cells,) at the cell points, checked to be positive; a number where it is constant."""
        with self.mesh.ranks.raising_together():
            D = self._D.value if self._D.constant else self._D.in_cells(self.near, t)
            if not np.min(D, initial=np.inf) > 0:
                raise InputError(
                    f"diffusion is {np.min(D)} somewhere: it must be above 0 everywhere; for flow "
                    "without "
                    "diffusion use fvot.ContinuityEquation"
                )
        return D

    def potential(self, t=0.0):
        """V (n_cells,) at the cell points (or the cell-mean one), or None."""
        if self._V is None:
            return None
        if self._V.mean:
            D, V = self.diffusion(t), self._V
            return -D * log_mean_exp_over_cells(self.mesh, lambda x: -V.f(x, t) / D)
        with self.mesh.ranks.raising_together():
            return self._V.in_cells(self.near, t)

    def gibbs(self, t=0.0):
        """V / D (n_cells,), if e^(-V/D) makes all fluxes zero, but for the discretisation; else
        None.
        """
        return self._minus_log_gibbs(self.diffusion(t), self.potential(t)) if self.closed else None

    def _minus_log_gibbs(self, D, V):
        if self._drift is not None or not (self._D.constant or V is None):
            return None
        return np.zeros(self.mesh.n_cells) if V is None else V / D

    def rates(self, t=0.0):
        """The `Rates` at time t. Raises `InputError` for a flux with negative or infinite
        coefficients.
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        D, V = self.diffusion(t), self.potential(t)
        U = np.zeros(mesh.n_faces)
        if V is not None:
            U -= mesh.area * mesh.gradient(V)
            self._add_boundary_potential(U, V, t)
        if self._drift is not None:
            mean = average_over_faces(mesh, lambda x: self._drift(x, t))
            U += mesh.area * np.einsum("if,if->f", mean, mesh.normal)
        a, b = np.zeros(mesh.n_faces), np.zeros(mesh.n_faces)
        a[:n], b[:n] = self._coefficients(U[:n], mesh.area[:n] / self._resistance(D))
        for name, condition in self._kinds.items():
            faces = mesh.boundary[name]
            if isinstance(condition, dirichlet):
                here = D if np.ndim(D) == 0 else D[mesh.left[faces]]
                a[faces], b[faces] = self._coefficients(
                    U[faces], here * mesh.area[faces] / self._to_boundary(name)
                )
            else:
                a[faces] = np.maximum(U[faces], 0)
                b[faces] = np.maximum(-U[faces], 0)
        return Rates(self.pattern, a, b, self._minus_log_gibbs(D, V))

    def entering(self, t=0.0):
        """The given density at each boundary face (n_faces - n_inner,)."""
        return evaluate_densities(self.mesh, self._conditions, t)

    def watch(self, begin, end):
        """The `Watch` of all that depends on time; None where nothing does. Collective."""
        if self.steady and self.boundary_steady:
            return None
        return Watch(self.mesh.ranks, partial(self._signals, self._watched), begin, end)

    @cached_property
    def _watched(self):
        """The faces that are watched. Collective at first."""
        parts = [self.mesh.boundary[name] for name, _ in self._conditions]
        return WatchedFaces(self.mesh, group_faces(self.mesh, parts), CELL_BLOCKS + len(parts))

    def _signals(self, watched, t):
        """This rank's part of the signals (n_signals, n) at the times t (n,); no collective calls."""
        seen = []
        x = self.mesh.face_center[:, watched.faces]
        normal = self.mesh.normal[:, watched.faces]
        for field in self._D, self._V:
            if field is not None and field.depends_on_time:
                seen.append(watched.waves @ np.stack([field.f(x, now) for now in t]).T)
        if self._drift is not None and self._drift.depends_on_time:
            across = np.stack([(self._drift(x, now) * normal).sum(axis=0) for now in t])
            seen.append(watched.weights @ across.T)
        if not self.boundary_steady:
            given = np.stack([watched.densities(self.mesh, self._conditions, now) for now in t])
            seen.append(watched.waves @ given.T)
        return np.concatenate(seen)

    def _resistance(self, D):
        """d_s / D_s of the inner faces: the sum of both sides' distance / D, hence the harmonic
        mean.
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        if np.ndim(D) == 0:
            return mesh.distance[:n] / D
        local = mesh.with_ghosts(D)
        return (
            mesh.left_distance[:n] / local[mesh.left[:n]]
            + mesh.right_distance[:n] / local[mesh.right[:n]]
        )

    def _to_boundary(self, name):
        """The distances of the cell points to the boundary faces of that name; `InputError` if one
        lies on its face.
        """
        mesh = self.mesh
        faces = self.mesh.boundary[name]
        distance = mesh.left_distance[faces]
        least = mesh.ranks.min(distance.min(initial=np.inf))
        mesh.ranks.check(
            least > 0,
            f"the point of a cell at boundary {name!r} is at the distance {least:.3g} from it: a "
            "density can be given there only if it is inside; make the cells at this boundary "
            "less obtuse, or use "
            "fvot.inflow",
        )
        return distance

    def _coefficients(self, U, k):
        name = getattr(self.flux, "__name__", repr(self.flux))
        with self.mesh.ranks.raising_together():
            try:
                a, b = self.flux(U, k)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"flux {name} must be a function (U, k) -> (a, b) of arrays: {error}"
                ) from error
            if np.shape(a) != U.shape or np.shape(b) != U.shape:
                raise InputError(
                    f"flux {name} returned shapes {np.shape(a)} and {np.shape(b)}; both must be "
                    f"{U.shape}"
                )
            bad = np.flatnonzero(~(np.minimum(a, b) >= 0) | ~np.isfinite(a + b))
            if len(bad):
                i = bad[0]
                raise InputError(
                    f"flux {name} has coefficients {a[i]:.3g}, {b[i]:.3g} at the cell Peclet "
                    "number "
                    f"{abs(U[i]) / k[i]:.3g}: they must be finite and not negative; use "
                    "fvot.scharfetter_gummel, or smaller cells"
                )
        return np.asarray(a, float), np.asarray(b, float)

    def _add_boundary_potential(self, U, V, t):
        """What grad V carries through boundary faces: differences from the cell point to its foot
        on the face where the density is given; the normal derivative at the face, from inside,
        where only the drift crosses it.
        """
        mesh = self.mesh
        f = self._V.f
        for name, condition in self._kinds.items():
            faces = mesh.boundary[name]
            here = mesh.left[faces]
            normal = mesh.normal[:, faces]
            distance = mesh.left_distance[faces]
            if isinstance(condition, dirichlet):
                if f is not None:  # cell values are constant up to the boundary
                    with mesh.ranks.raising_together():
                        U[faces] -= (
                            mesh.area[faces]
                            * (f(mesh.center[:, here] + distance * normal, t) - V[here])
                            / distance
                        )
                continue
            if self._V.constant:
                continue
            mesh.ranks.check(
                f is not None,
                f"potential is given by cell values, which do not tell its slope at boundary "
                f"{name!r}: give a function, or fvot.dirichlet there",
            )
            step = 1e-3 * mesh.volume[here] / mesh.area[faces]
            with mesh.ranks.raising_together():
                at, near, far = (
                    f(mesh.face_center[:, faces] - k * step * normal, t) for k in range(3)
                )
            U[faces] -= mesh.area[faces] * (3 * at - 4 * near + far) / (2 * step)

    def _check_periodic(self):
        """`InputError` for a potential function that jumps where a periodic mesh is glued together."""
        mesh = self.mesh
        f = self._V.f
        if mesh.block is None or f is None or not np.any(mesh.block.periodic):
            return
        lower, upper = mesh.bounds
        with mesh.ranks.raising_together():
            here = f(mesh.center, 0.0)
            scale = np.ptp(here) if len(here) else 0.0
            for axis in np.flatnonzero(mesh.block.periodic):
                beyond = (
                    mesh.center + (np.arange(mesh.dim) == axis)[:, None] * (upper - lower)[axis]
                )
                jump = np.abs(f(beyond, 0.0) - here).max(initial=0.0)
                if jump > 1e-8 * scale:
                    raise InputError(
                        f"potential changes by {jump:.3g} over one period along axis {axis} of a "
                        "periodic mesh: "
                        "it must be periodic; a constant force belongs into drift"
                    )


@dataclass(frozen=True)
class _Field:
    """A scalar field: a number, a function of x or (x, t), or cell values."""

    value: object = None  # a number or (n_cells,)
    f: object = None  # a `Function`
    mean: bool = False

    @property
    def constant(self):
        return self.value is not None and np.ndim(self.value) == 0

    @property
    def depends_on_time(self):
        return self.f is not None and self.f.depends_on_time

    def in_cells(self, near, t):
        """The values (n_cells,) at the cell points in the order of a `Numbering`; a function sees
        the points in the user's.
        """
        if self.f is None:
            return np.broadcast_to(self.value, near.mesh.n_cells)
        return near.inward(self.f(near.users.center, t))


def _field(near, given, what):
    if isinstance(given, cell_mean):
        if what != "potential":
            raise InputError(f"fvot.cell_mean is for the potential, not for the {what}")
        return _Field(f=as_function(given.V, what), mean=True)
    if callable(given):
        return _Field(f=as_function(given, what))
    mesh = near.users
    values = np.array(
        as_floats(
            given,
            f"{what} must be a finite number, a function of x or of (x, t), or this rank's finite "
            "cell "
            f"values ({mesh.n_cells},)",
        )
    )
    if values.shape not in ((), (mesh.n_cells,)):
        raise InputError(
            f"{what} must be a finite number, a function of x or of (x, t), or cell values, not "
            "of shape "
            f"{values.shape}; {describe_wanted_shape(mesh, values.shape)}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and values.shape:
        raise InputError(
            f"{what} is {values[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
            f"{mesh.center[:, bad[0]]}): it must be "
            f"finite ({len(bad)} of {mesh.n_cells} cells are not). "
            f"mesh.without(~numpy.isfinite({what})) is the "
            "mesh without these cells; or put a cap on it, such as numpy.nan_to_num(..., "
            "nan=10.0, posinf=10.0)"
        )
    if len(bad):
        raise InputError(f"{what} must be a finite number, not {given!r}")
    return _Field(value=near.inward(values)) if values.shape else _Field(value=float(values))
