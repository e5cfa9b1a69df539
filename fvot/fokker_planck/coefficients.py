"""The coefficients of d rho/dt = div(D grad rho + D rho grad V / T - rho b) + growth rho + source,
evaluated.

T is the temperature. Where none is given, it is D as long as that is a number; otherwise the term
is rho grad V, without D / T. Noise that is not kinetic is a drift, too (`arguments.diffusion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from ..arguments.diffusion import Noise, as_tensors, compute_noise_drift, take_root
from ..arguments.functions import as_function
from ..arguments.types import Array, ArrayLike, Coefficient, IntArray, TwoPointFlux
from ..arguments.watch import CELL_BLOCKS, Watch, WatchedFaces, group_faces
from ..errors import InputError
from ..finite_volume.boundary import number_open_parts, read_conditions, robin
from ..finite_volume.cell_fields import Reactions
from ..finite_volume.fluxes import limited
from ..finite_volume.limited_flux import LimitedCorrection
from ..finite_volume.stencil import Stencil, gradient_weights, gradients
from ..finite_volume.velocity_source import build_velocity_source
from ..mesh import Numbering
from ..mesh.coordinates import refuse_radial
from ..mesh.means import log_mean_exp_over_cells
from .fields import build_diffusion, build_field, cell_mean, check_tensors, find_shape

# A potential that changes by more over one period of a periodic mesh, relative to its range, jumps.
PERIOD_TOLERANCE = 1e-8

# The step of differences for slopes at faces, in units of the cell's width: small enough that their
# error of second order does not count.
SLOPE_STEP = 1e-3


class Terms(NamedTuple):
    """The terms of the equation as a user gives them, see `FokkerPlanck`."""

    diffusion: Coefficient
    potential: Coefficient | cell_mean | None = None
    drift: Coefficient | None = None
    temperature: float | None = None
    noise: Noise = "kinetic"
    flux: TwoPointFlux | limited | None = None
    boundary: Mapping[Any, Any] | None = None
    growth: Coefficient | None = None
    source: Coefficient | None = None
    stream: Coefficient | None = None
    face_flux: ArrayLike | None = None
    signed: bool = False


class DriftDiffusion:
    """Diffusion, potential, drift and boundary of a Fokker-Planck equation on a mesh.

    See the module and `FokkerPlanck`. What the fluxes are is said by the classes that this one is
    the base of.

    points (dim, n_cells) : where cells take the values of functions, in the user's order
    steady : whether the coefficients are the same at all times
    entering_steady : whether the boundary's densities and the sources are
    has_walls_only : whether no part of the boundary is open
    signed : whether densities, also those at the boundary, and sources have any sign
    reactions : the growth and the sources
    correction : what is added to the linear fluxes of the rates; None where they are all
    """

    correction: LimitedCorrection | None = None

    def __init__(self, numbering: Numbering, terms: Terms, points: Array):
        """numbering : the `Numbering` of the mesh.

        Terms have the cells in the user's order, all attributes and results in the solver's.
        """
        mesh: Any = numbering.mesh
        users: Any = numbering.user_mesh
        self.numbering = numbering
        self.mesh = mesh
        self.terms = terms
        self.points = points
        self.temperature = terms.temperature
        self.signed = terms.signed
        boundary = terms.boundary
        with mesh.ranks.raising_together():
            shape = find_shape(terms.diffusion)
        is_diagonal = _is_diagonal(users, shape)

        with mesh.ranks.raising_together():
            self._conditions = read_conditions(boundary, mesh, "FokkerPlanck")
            self._kinds = {name: (boundary or {})[name] for name, _ in self._conditions}
            self._exit_rates = self._read_exit_rates()
            self._D = build_diffusion(numbering, terms.diffusion, is_diagonal)
            V = terms.potential
            self._V = None if V is None else build_field(numbering, V, "potential")
            self.reactions = Reactions(numbering, terms.growth, terms.source, points, terms.signed)
            self._flow = build_velocity_source(
                mesh, terms.drift, terms.stream, terms.face_flux, what="drift"
            )
            if terms.noise != "kinetic" and self._D.is_tensor:
                refuse_radial(
                    mesh,
                    f"noise={terms.noise!r} of diagonals or tensors",
                    "their entry around the axis is not known; give diffusion as one number for "
                    "each place, or take noise='kinetic'",
                )
            if isinstance(V, cell_mean) and not (self._D.constant or self.temperature):
                raise InputError(
                    "fvot.cell_mean(V) needs a constant diffusion, or a temperature: otherwise "
                    "there is no Gibbs density"
                )

        has_steady_flow = self._flow is None or self._flow.steady
        fields = [self._D, self._V, *self._exit_rates.values()]
        reactions = self.reactions
        densities = [density for _, density in self._conditions]
        is_steady = not (_depend_on_time(fields) or reactions.growth_depends_on_time)
        self.steady = has_steady_flow and is_steady
        self.entering_steady = not (_depend_on_time(densities) or reactions.source_depends_on_time)
        self.has_walls_only = not self._conditions
        if self._V is not None:
            self._check_periodic()

    @cached_property
    def open_parts(self) -> dict[Any, IntArray]:
        """{name: numbers among the boundary faces} of the open parts."""
        return number_open_parts(self.mesh, self._conditions)

    @property
    def has_tensors(self) -> bool:
        """Whether the diffusion is a diagonal or a tensor."""
        return self._D.is_tensor

    @property
    def diffusion_depends_on_time(self) -> bool:
        """Whether the diffusion is a function of x and t."""
        return self._D.depends_on_time

    @property
    def is_diagonal(self) -> bool:
        """Whether the diffusion is a function with diagonals as its values."""
        return self._D.f is not None and len(self._D.f.shape) == 1

    # ---- at the cells ---------------------------------------------------------------------------

    def diffusion(self, t: float = 0.0) -> Array | float:
        """D at the cell points: a number where it is constant, else (n_cells,), or tensors
        (dim, dim, n_cells). Numbers must be positive, tensors positive semidefinite.
        """
        with self.mesh.ranks.raising_together():
            D = (
                self._D.value
                if self._D.constant
                else self._D.in_cells(self.numbering, self.points, t)
            )
            if self._D.is_tensor:
                D = as_tensors(D, self.mesh.dim)
                check_tensors(self.numbering, D, self.numbering.inward(self.points))
            elif not np.min(D, initial=np.inf) > 0:
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
            T = self.find_temperature(self.diffusion(t))
            V = self._V.f
            return -T * log_mean_exp_over_cells(self.mesh, lambda x: -V(x, t) / T)
        with self.mesh.ranks.raising_together():
            return self._V.in_cells(self.numbering, self.points, t)

    @property
    def has_potential(self) -> bool:
        """Whether there is a potential."""
        return self._V is not None

    @property
    def has_drift(self) -> bool:
        """Whether there is a drift, beside that of the noise."""
        return self._flow is not None

    def drift(self, t: float = 0.0) -> Array:
        """The cell means b (dim, n_cells), in the user's order. Collective."""
        flow: Any = self._flow
        return self.numbering.outward(flow.cell_velocity(t))

    def find_temperature(self, D: Array | float) -> Any:
        """T: the given one, else a D that is one number, else None."""
        if self.temperature is not None:
            return self.temperature
        return D if self._D.constant else None

    # ---- growth and sources ---------------------------------------------------------------------

    def _compute_decay(self, t):
        """|K| times the decay (n_cells,), as `Rates` needs it."""
        return -self.mesh.volume * self.reactions.growth(t) if self.reactions else None

    def _add_sources(self, densities, t):
        """The densities at the boundary, followed by |K| times the sources where `Rates` needs
        them. Collective.
        """
        if not self.reactions:
            return densities
        return np.concatenate([densities, self.mesh.volume * self.reactions.source(t)])

    def _compute_minus_log_gibbs(self, D, V):
        """V / T (n_cells,), if e^(-V/T) makes all inner fluxes zero, but for the discretisation;
        else None.
        """
        if self._flow is not None or self.has_noise_drift:
            return None
        if V is None:
            return np.zeros(self.mesh.n_cells)
        T = self.find_temperature(D)
        return None if T is None else V / T

    # ---- at the faces ---------------------------------------------------------------------------

    @property
    def has_noise_drift(self) -> bool:
        """Whether the noise is a drift: not if it is kinetic, or D is the same everywhere."""
        return self.terms.noise != "kinetic" and not self._is_uniform

    @property
    def _is_uniform(self):
        has_one_value = self._D.is_tensor and len(find_shape(self.terms.diffusion) or ()) < 3
        return self._D.constant or self._D.f is None and has_one_value

    def compute_drift_flux(self, t: float) -> Array:
        """What the drift, with that of the noise, carries through each face (n_faces,).
        Collective.
        """
        mesh = self.mesh
        U = np.zeros(mesh.n_faces)
        if self._flow is not None:
            U += self._flow.flux(self._flow.sample(t))
        if self.has_noise_drift:
            U -= mesh.area * np.einsum("if,if->f", self._compute_noise_drift(t), mesh.normal)
        return U

    def _compute_noise_drift(self, t):
        """c (dim, n_faces) of `arguments.diffusion` at the faces, by differences from inside."""
        mesh = self.mesh
        inner = mesh.n_inner
        if self._D.f is None:
            return self._difference_cell_values(t)

        width = mesh.with_ghosts(mesh.flat_volume)[mesh.left] / mesh.flat_area
        step = SLOPE_STEP * width
        x = mesh.face_center.copy()
        x[:, inner:] -= 2 * step[inner:] * mesh.normal[:, inner:]
        with mesh.ranks.raising_together():
            return compute_noise_drift(self._D.f, x, t, self.terms.noise, step)

    def _difference_cell_values(self, t):
        """The same for values of cells, by least squares over neighbours."""
        mesh = self.mesh
        dim = mesh.dim
        n = mesh.n_inner
        D = as_tensors(self.diffusion(t), dim)
        root = take_root(D) if self.terms.noise == "stratonovich" else D
        stencil = Stencil(mesh)
        span = None
        if mesh.coordinates != "cartesian":  # centroids lie outside of the middles
            span = stencil.span_points(mesh.center)
        entries = root.reshape(dim * dim, -1)
        slopes = gradients(mesh, stencil, gradient_weights(stencil, span), entries)
        divergence = np.einsum("ijjn->in", slopes.reshape(dim, dim, dim, -1))
        if self.terms.noise == "stratonovich":
            divergence = np.einsum("ikn,kn->in", root, divergence)

        local = mesh.with_ghosts(divergence)
        at_faces = local[:, mesh.left]
        at_faces[:, :n] = (at_faces[:, :n] + local[:, mesh.right[:n]]) / 2
        return at_faces

    def _read_exit_rates(self):
        """{name: the rate as a `Function`} of the parts that are `robin`."""
        return {
            name: as_function(condition.rate, f"the rate at boundary {name!r}")
            for name, condition in self._kinds.items()
            if isinstance(condition, robin)
        }

    # ---- in time --------------------------------------------------------------------------------

    def watch(self, begin: float, end: float) -> Watch | None:
        """The `Watch` of all that depends on time; None where nothing does. Collective."""
        if self.steady and self.entering_steady:
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

        for field in self._D, self._V, *self.reactions.fields:
            if field is None or not field.depends_on_time:
                continue
            values = np.stack([field.f(x, now) for now in t])
            for entry in values.reshape(len(t), -1, x.shape[1]).transpose(1, 0, 2):
                signals.append(watched.waves @ entry.T)
        if self._flow is not None and not self._flow.steady:
            flux = self._flow.flux_function(watched.faces)
            fluxes = np.stack([flux(now) for now in t])
            signals.append(watched.weights @ fluxes.T)
        if _depend_on_time([density for _, density in self._conditions]):
            densities = []
            for now in t:
                densities.append(watched.densities(self.mesh, self._conditions, now))

            entering = np.stack(densities)
            signals.append(watched.waves @ entering.T)
        if _depend_on_time(self._exit_rates.values()):
            nothing = as_function(0.0, "no rate")
            exits = [(name, self._exit_rates.get(name, nothing)) for name, _ in self._conditions]
            crossing = np.stack([watched.densities(self.mesh, exits, now) for now in t])
            signals.append(watched.waves @ crossing.T)
        return np.concatenate(signals)

    # ---- checks ---------------------------------------------------------------------------------

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
                        "periodic mesh: it must be periodic; a constant force belongs in drift="
                    )


def _depend_on_time(fields):
    return any(field is not None and field.depends_on_time for field in fields)


def _is_diagonal(mesh, shape):
    """Whether a diffusion of that shape is the diagonal of a tensor, and not values of cells.

    It is if every rank has one, unless dim is the number of cells of every rank. Collective.
    """
    ranks = mesh.ranks
    is_list = shape == (mesh.dim,)
    could_be_cells = mesh.n_cells == mesh.dim
    return bool(ranks.min(float(is_list)) and not ranks.min(float(could_be_cells)))
