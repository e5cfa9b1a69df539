"""The coefficients of d rho/dt = div(D grad rho + rho grad V - rho b): two numbers for each face.

    F_s = a_s rho_left - b_s rho_right,   (a, b) = flux(U, k)
    k = D_s |s| / d_s,   U = |s| ((b.n)_s - (V_right - V_left) / d_s)

D_s is the harmonic mean of the two cells and (b.n)_s the mean over the face; V enters by
differences only. On boundary faces `dirichlet` puts its density at the face, at the distance of the
cell's own point; `inflow` and `outflow` let through what the drift carries, and no diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import as_floats, as_function
from ..arguments.types import Array, Coefficient, PointFunction, TimeFunction, TwoPointFlux
from ..arguments.watch import CELL_BLOCKS, Watch, WatchedFaces, group_faces
from ..errors import InputError
from ..finite_volume.boundary import dirichlet, evaluate_densities, read_conditions
from ..finite_volume.fluxes import muscl
from ..finite_volume.rates import Rates, SparsityPattern
from ..mesh import Numbering
from ..mesh.cell_values import describe_wanted_shape
from ..mesh.means import average_over_faces, log_mean_exp_over_cells

# A potential that changes by more over one period of a periodic mesh, relative to its range, jumps.
PERIOD_TOLERANCE = 1e-8

# The step of the one-sided differences for the slope of the potential at an open boundary, in
# units of the cell's width: small enough that their error of second order does not count.
BOUNDARY_SLOPE_STEP = 1e-3


@frozen
@dataclass(frozen=True)
class cell_mean:
    """V_K = -D log(mean of e^(-V/D) over K), by which cell means of the Gibbs density are exact.

    Parameters
    ----------
    V : function
        The potential, a function of x or (x, t).

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> V = fvot.cell_mean(lambda x: 20 * x[0] ** 2)
    >>> rho = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=V).stationary()
    """

    V: PointFunction | TimeFunction


class DriftDiffusion:
    """Diffusion, potential, drift and boundary of a Fokker-Planck equation on a mesh.

    See the module and `FokkerPlanck`.

    steady : whether the coefficients are the same at all times
    boundary_steady : whether the boundary's densities are
    has_walls_only : whether no part of the boundary is open
    """

    def __init__(
        self,
        near: Numbering,
        diffusion: Coefficient,
        potential: Coefficient | cell_mean | None,
        drift: Coefficient | None,
        flux: TwoPointFlux,
        boundary: Mapping[Any, Any] | None,
    ):
        """near : the `Numbering` of the mesh.

        Arguments have the cells in the user's order, all attributes and results in the solver's.
        """
        mesh: Any = near.mesh
        self.near = near
        self.mesh = mesh
        self.flux = flux

        with mesh.ranks.raising_together():
            self._conditions = read_conditions(boundary, mesh)
            self._kinds = {name: (boundary or {})[name] for name, _ in self._conditions}
            self._D = _build_field(near, diffusion, "diffusion")
            self._V = None if potential is None else _build_field(near, potential, "potential")
            self._drift = None if drift is None else as_function(drift, "drift", (mesh.dim,))
            if not callable(flux) or flux is muscl:
                raise InputError(
                    "flux must be fvot.scharfetter_gummel, fvot.square_root, fvot.upwind, "
                    f"fvot.central, or a function (U, k) -> (a, b), not {flux!r:.60}"
                )
            if isinstance(potential, cell_mean) and not self._D.constant:
                raise InputError(
                    "fvot.cell_mean(V) needs a constant diffusion: with another there is no Gibbs "
                    "density"
                )

        self.pattern = SparsityPattern(mesh)
        fields = [field for field in (self._D, self._V, self._drift) if field is not None]
        self.steady = not any(field.depends_on_time for field in fields)
        self.boundary_steady = not any(density.depends_on_time for _, density in self._conditions)
        self.has_walls_only = not self._conditions
        if self._V is not None:
            self._check_periodic()

    # ---- at the cells ---------------------------------------------------------------------------

    def diffusion(self, t: float = 0.0) -> Array | float:
        """D (n_cells,) at the cell points; a number where it is constant. It must be positive."""
        with self.mesh.ranks.raising_together():
            D = self._D.value if self._D.constant else self._D.in_cells(self.near, t)
            if not np.min(D, initial=np.inf) > 0:
                raise InputError(
                    f"diffusion is {np.min(D)} somewhere: it must be above 0 everywhere; for flow "
                    "without diffusion use fvot.ContinuityEquation"
                )
        return D

    def potential(self, t: float = 0.0) -> Array | None:
        """V (n_cells,) at the cell points (or the cell-mean one), or None."""
        if self._V is None:
            return None
        if self._V.mean:
            D = self.diffusion(t)
            V = self._V.f
            return -D * log_mean_exp_over_cells(self.mesh, lambda x: -V(x, t) / D)
        with self.mesh.ranks.raising_together():
            return self._V.in_cells(self.near, t)

    def gibbs(self, t: float = 0.0) -> Array | None:
        """V / D (n_cells,), if e^(-V/D) makes all inner fluxes zero, but for the discretisation;
        else None.
        """
        return self._compute_minus_log_gibbs(self.diffusion(t), self.potential(t))

    def _compute_minus_log_gibbs(self, D, V):
        if self._drift is not None or not (self._D.constant or V is None):
            return None
        return np.zeros(self.mesh.n_cells) if V is None else V / D

    # ---- at the faces ---------------------------------------------------------------------------

    def rates(self, t: float = 0.0) -> Rates:
        """The `Rates` at time t. Raises `InputError` for a flux with negative or infinite
        coefficients.
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        D = self.diffusion(t)
        V = self.potential(t)
        U = self._compute_velocity(V, t)

        a = np.zeros(mesh.n_faces)
        b = np.zeros(mesh.n_faces)
        a[:n], b[:n] = self._compute_coefficients(
            U[:n], mesh.area[:n] / self._compute_resistance(D)
        )
        for name, condition in self._kinds.items():
            faces = mesh.boundary[name]
            if isinstance(condition, dirichlet):
                here = D if np.ndim(D) == 0 else np.asarray(D)[mesh.left[faces]]
                k = here * mesh.area[faces] / self._find_boundary_distance(name)
                a[faces], b[faces] = self._compute_coefficients(U[faces], k)
            else:
                a[faces] = np.maximum(U[faces], 0)
                b[faces] = np.maximum(-U[faces], 0)
        return Rates(self.pattern, a, b, self._compute_minus_log_gibbs(D, V))

    def _compute_velocity(self, V, t):
        """U (n_faces,), see the module."""
        mesh = self.mesh
        U = np.zeros(mesh.n_faces)
        if V is not None:
            U -= mesh.area * mesh.gradient(V)
            self._add_boundary_potential(U, V, t)
        if self._drift is not None:
            mean = average_over_faces(mesh, lambda x: self._drift(x, t))
            U += mesh.area * np.einsum("if,if->f", mean, mesh.normal)
        return U

    def entering(self, t: float = 0.0) -> Array:
        """The given density at each boundary face (n_faces - n_inner,)."""
        return evaluate_densities(self.mesh, self._conditions, t)

    # ---- in time --------------------------------------------------------------------------------

    def watch(self, begin: float, end: float) -> Watch | None:
        """The `Watch` of all that depends on time; None where nothing does. Collective."""
        if self.steady and self.boundary_steady:
            return None
        return Watch(self.mesh.ranks, partial(self._compute_signals, self._watched), begin, end)

    @cached_property
    def _watched(self):
        """The faces that are watched. The first call is collective."""
        parts = [self.mesh.boundary[name] for name, _ in self._conditions]
        return WatchedFaces(self.mesh, group_faces(self.mesh, parts), CELL_BLOCKS + len(parts))

    def _compute_signals(self, watched, t):
        """This rank's part of the signals (n_signals, n) at the times t (n,). Not collective."""
        signals = []
        x = self.mesh.face_center[:, watched.faces]
        normal = self.mesh.normal[:, watched.faces]

        for field in self._D, self._V:
            if field is not None and field.depends_on_time:
                values = np.stack([field.f(x, now) for now in t])
                signals.append(watched.waves @ values.T)
        if self._drift is not None and self._drift.depends_on_time:
            speeds = []
            for now in t:
                drift = self._drift(x, now)
                speeds.append((drift * normal).sum(axis=0))

            across = np.stack(speeds)
            signals.append(watched.weights @ across.T)
        if not self.boundary_steady:
            densities = []
            for now in t:
                densities.append(watched.densities(self.mesh, self._conditions, now))

            entering = np.stack(densities)
            signals.append(watched.waves @ entering.T)
        return np.concatenate(signals)

    # ---- parts of the rates ---------------------------------------------------------------------

    def _compute_resistance(self, D):
        """d_s / D_s of the inner faces: the sum of distance / D on both sides."""
        mesh = self.mesh
        n = self.mesh.n_inner
        if np.ndim(D) == 0:
            return mesh.distance[:n] / D
        local = mesh.with_ghosts(D)
        return (
            mesh.left_distance[:n] / local[mesh.left[:n]]
            + mesh.right_distance[:n] / local[mesh.right[:n]]
        )

    def _find_boundary_distance(self, name):
        """The distances of the cell points to the boundary faces of that name.

        `InputError` if a point lies on its face.
        """
        mesh = self.mesh
        faces = self.mesh.boundary[name]
        distance = mesh.left_distance[faces]
        least = mesh.ranks.min(distance.min(initial=np.inf))
        mesh.ranks.check(
            least > 0,
            f"the point of a cell at boundary {name!r} is at the distance {least:.3g} from it: a "
            "density can be given there only if the point is inside; make the cells at this "
            "boundary less obtuse, or use fvot.inflow",
        )
        return distance

    def _compute_coefficients(self, U, k):
        """(a, b) of the flux, checked."""
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
                    f"number {abs(U[i]) / k[i]:.3g}: they must be finite and not negative; use "
                    "fvot.scharfetter_gummel, or smaller cells"
                )
        return np.asarray(a, float), np.asarray(b, float)

    def _add_boundary_potential(self, U, V, t):
        """Add to U what grad V carries through boundary faces.

        Where the density is given: by the difference from the cell point to its foot on the face.
        Where only the drift crosses the face: by the normal derivative there, from inside.
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
                        change = f(mesh.center[:, here] + distance * normal, t) - V[here]
                        U[faces] -= mesh.area[faces] * change / distance
                continue

            if self._V.constant:
                continue
            mesh.ranks.check(
                f is not None,
                f"potential is given by cell values, which do not tell its slope at boundary "
                f"{name!r}: give a function, or fvot.dirichlet there",
            )
            step = BOUNDARY_SLOPE_STEP * mesh.volume[here] / mesh.area[faces]
            with mesh.ranks.raising_together():
                V0, V1, V2 = (
                    f(mesh.face_center[:, faces] - k * step * normal, t) for k in range(3)
                )
            U[faces] -= mesh.area[faces] * (3 * V0 - 4 * V1 + V2) / (2 * step)

    def _check_periodic(self):
        """`InputError` for a potential function that jumps where a periodic mesh is joined."""
        mesh = self.mesh
        f = self._V.f
        if mesh.block is None or f is None or not np.any(mesh.block.periodic):
            return

        lower, upper = mesh.bounds
        with mesh.ranks.raising_together():
            here = f(mesh.center, 0.0)
            scale = np.ptp(here) if len(here) else 0.0
            for axis in np.flatnonzero(mesh.block.periodic):
                period = (np.arange(mesh.dim) == axis)[:, None] * (upper - lower)[axis]
                jump = np.abs(f(mesh.center + period, 0.0) - here).max(initial=0.0)
                if jump > PERIOD_TOLERANCE * scale:
                    raise InputError(
                        f"potential changes by {jump:.3g} over one period along axis {axis} of a "
                        "periodic mesh: it must be periodic; a constant force belongs into drift"
                    )


@dataclass(frozen=True)
class _Field:
    """A scalar field: a number, a function of x or (x, t), or cell values.

    value : a number or (n_cells,), in the solver's order; None for a function
    f : a `Function`; None for values
    mean : whether cells take exponential means, see `cell_mean`
    """

    value: Any = None
    f: Any = None
    mean: bool = False

    @property
    def constant(self) -> bool:
        return self.value is not None and np.ndim(self.value) == 0

    @property
    def depends_on_time(self) -> bool:
        return self.f is not None and self.f.depends_on_time

    def in_cells(self, near: Any, t: float) -> Array:
        """The values (n_cells,) at the cell points, in the order of a `Numbering`.

        A function gets the points in the user's order.
        """
        if self.f is None:
            return np.broadcast_to(self.value, near.mesh.n_cells)
        return near.inward(self.f(near.user_mesh.center, t))


def _build_field(near, coefficient, what):
    """The `_Field` of a user's coefficient; *what* names it in errors."""
    if isinstance(coefficient, cell_mean):
        if what != "potential":
            raise InputError(f"fvot.cell_mean is for the potential, not for the {what}")
        return _Field(f=as_function(coefficient.V, what), mean=True)
    if callable(coefficient):
        return _Field(f=as_function(coefficient, what))

    values = _check_values(near.user_mesh, coefficient, what)
    return _Field(value=near.inward(values)) if values.shape else _Field(value=float(values))


def _check_values(mesh, coefficient, what):
    """The coefficient as an array of shape () or (n_cells,) of finite numbers."""
    values = np.array(
        as_floats(
            coefficient,
            f"{what} must be a finite number, a function of x or of (x, t), or this rank's finite "
            f"cell values ({mesh.n_cells},)",
        )
    )
    if values.shape not in ((), (mesh.n_cells,)):
        raise InputError(
            f"{what} must be a finite number, a function of x or of (x, t), or cell values, not "
            f"of shape {values.shape}; {describe_wanted_shape(mesh, values.shape)}"
        )

    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and values.shape:
        raise InputError(
            f"{what} is {values[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
            f"{mesh.center[:, bad[0]]}): it must be finite ({len(bad)} of {mesh.n_cells} cells "
            f"are not). mesh.without(~numpy.isfinite({what})) is the mesh without these cells; or "
            "put a cap on it, such as numpy.nan_to_num(..., nan=10.0, posinf=10.0)"
        )
    if len(bad):
        raise InputError(f"{what} must be a finite number, not {coefficient!r}")
    return values
