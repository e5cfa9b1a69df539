"""`Geodesic`: the path that `BenamouBrenier` returns, with the bounds that certify it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.types import Array, ArrayLike
from ..finite_volume import velocity_field
from ..mesh import Mesh, Numbering
from ..mesh.cell_values import integrate
from ..mesh.points import find_cells, is_convex
from ..runs.result import WritableDensity
from .best_flux import UpperBound
from .bounds import LowerBound
from .discretisation import Discretisation
from .growth import FisherRao, Growth, TotalVariation
from .time_basis import node_mean, node_weights, slab_middles

# Times that a step which would leave the mesh is halved, at most.
MAX_STEP_HALVINGS = 6

# Steps along the flow for each step in time, on domains that are not convex: paths bend there.
STEPS_AROUND_CORNERS = 4

# The largest rate of growth, in units of 1 / step: that of growth from nothing without motion.
LARGEST_GROWTH_RATE = 2.0

GROWS_AT_ONCE = (
    "growth_map is for fvot.FisherRao: with fvot.TotalVariation mass may be created or destroyed "
    "at any instant, all at once, and no factor describes it; .source has what is created per "
    "time and volume"
)


@frozen
@dataclass(frozen=True, eq=False, repr=False)
class Geodesic(WritableDensity):
    """A certified path of densities: lower_bound <= W2^2 of the discrete problem <= cost.

    With a terminal energy E: lower_bound <= min W2^2(rho0, rho1) + 2 E(rho1) <= cost; see `energy`.
    With growth (see `FisherRao`, `TotalVariation`), its cost is added to W2^2.

    Parameters
    ----------
    mesh : Mesh
    t : array (N + 2,)
        Times 0, tau/2, 3 tau/2, ..., 1 of the density, tau = 1/N.
    rho : array (N + 2, n_cells)
        The density. rho[0] and rho[-1] are the data; between them it is constant on patches.
    node_t : array (N + 1,)
        Times 0, tau, ..., 1 of potential and flux.
    phi : array (N + 1, n_cells)
        The potential, feasible for the dual problem. Where there is mass, the velocity is its
        gradient. -2 phi[0] and 2 phi[-1] are the gradients of W2^2 in rho0 and rho1, up to
        constants.
    flux : array (N + 1, n_faces)
        The mass that crosses each face per time, along its normal; what flows to corners is led
        through the faces that meet there. The first and the last also level the data within
        patches, which costs nothing. With tau_n = tau, and half of it at the ends,
        |K| (rho_{n+1} - rho_n)_K + tau_n sum_s +-flux_s = tau_n |K| source_K holds for all n and K
        to round-off.
    cost, lower_bound : float
        The path's action sum_n tau_n int |m|^2 / rho, and a lower bound of the action of all paths.
        With growth, delta^2 source^2 / rho or 2 kappa |source| is added to |m|^2 / rho.
        Both include how the data differ within patches: int phi (rho - P rho) at t = 1, less that
        at t = 0, twice, where P rho is the mean over the patch.
    iterations : int
        The iterations on the mesh itself.
    energy : float
        E(rho1) of the terminal energy, 0 where there is none; W2^2 of the path is cost - 2 energy.
    residual : float
        The largest error of the continuity equation in a cell, relative to the mass.
    speed : array (N + 1,)
        The norm (int |m|^2 / rho dx)^(1/2) at the nodes: constant along a geodesic, and equal to W2
        there. With a terminal energy the first value has the levelling of rho0 within patches in
        it. With `FisherRao`, delta^2 source^2 / rho is added, and it is WFR.
    source : array (N + 1, n_cells)
        The mass that is created per time and volume at the nodes, below 0 where it is destroyed; 0
        without growth.
    mass : array (N + 2,)
        The mass at the times t.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 32)
    >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
    >>> rho1 = mesh.density(lambda x: 2 - x[0])
    >>> path = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2).solve(rho0, rho1)
    >>> path.rho.shape, path.flux.shape
    ((10, 32), (9, 33))
    >>> path.residual < 1e-12
    True
    """

    mesh: Mesh
    t: Array
    rho: Array
    node_t: Array
    phi: Array
    flux: Array
    cost: float
    lower_bound: float
    iterations: int
    energy: float
    residual: float
    speed: Array
    source: Array
    mass: Array
    _levelling: Array
    _node_velocity: Array
    _scale: float
    _growth: Growth | None

    def __repr__(self):
        name = "W2^2 + 2 E" if self.energy else "W2^2"
        if isinstance(self._growth, FisherRao):
            name = "WFR^2"
        elif self._grows:
            name = "W2^2 + 2 kappa int |source|"
        return (
            f"<fvot.Geodesic: {self.lower_bound:.6g} <= {name} <= {self.cost:.6g}, "
            f"{len(self.node_t) - 1} steps on {self.mesh.n_cells_global} cells>"
        )

    @property
    def gap(self) -> float:
        """(cost - lower_bound) / W2^2 of the path, 0 where the cost is 0.

        With a terminal energy, W2^2 is replaced by the round-off of the energy if that is larger.

        Returns
        -------
        float

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 32)
        >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> rho1 = mesh.density(lambda x: 2 - x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2).solve(rho0, rho1)
        >>> 0 <= path.gap <= 1e-2
        True
        """
        return (self.cost - self.lower_bound) / self._scale if self._scale > 0 else 0.0

    # ---- velocities and maps ---------------------------------------------------------------------

    @cached_property
    def momentum(self) -> Array:
        """m = rho v at the nodes, cell means of the flux that moves means over patches.

        Returns
        -------
        array (N + 1, dim, n_cells)
            The momenta at the times node_t.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 8)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4).solve(rho, rho)
        >>> path.momentum.shape
        (5, 1, 8)
        """
        moving = self.flux.copy()
        moving[[0, -1]] -= self._levelling
        return np.stack([velocity_field.cell_velocity(self.mesh, F) for F in moving])

    @cached_property
    def velocity(self) -> Array:
        """v at the times t; meaningless where there is hardly any mass.

        Returns
        -------
        array (N + 2, dim, n_cells)
            The mean velocity of each cell.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 8)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4).solve(rho, rho)
        >>> path.velocity.shape
        (6, 1, 8)
        """
        v = self._node_velocity
        middle = (v[:-1] + v[1:]) / 2
        return np.concatenate([v[:1], middle, v[-1:]])

    @property
    def _grows(self):
        return self._growth is not None

    @property
    def _present(self):
        present = {"density": self.rho, "velocity": self.velocity}
        if self._grows:
            middle = (self.source[:-1] + self.source[1:]) / 2
            present["source"] = np.concatenate([self.source[:1], middle, self.source[-1:]])
        return present

    def at(self, t: float) -> Array:
        """The density at time t, linear between the recorded ones.

        Parameters
        ----------
        t : float
            A time between 0 and 1.

        Returns
        -------
        array (n_cells,)
            The density of this rank's cells.

        Raises
        ------
        InputError
            For t outside [0, 1].

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 8)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4).solve(rho, rho)
        >>> bool(abs(path.at(0.3) - rho).max() < 1e-15)
        True
        """
        before, part = velocity_field.find_interval(self.mesh.ranks, t, self.t)
        return (1 - part) * self.rho[before] + part * self.rho[before + 1]

    @cached_property
    def _field(self):
        return velocity_field.VelocityField(self.mesh, self.node_t, self._node_velocity)

    def velocity_at(self, points: ArrayLike, t: float) -> Array:
        """v at points of the mesh and time t, linear in cells and in time. Collective.

        Parameters
        ----------
        points : array (dim, n)
            Points of the mesh, the same on every rank.
        t : float
            A time between 0 and 1.

        Returns
        -------
        array (dim, n)
            The velocities, the same on every rank.

        Raises
        ------
        InputError
            For points outside the mesh, or t outside [0, 1].

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 8)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4).solve(rho, rho)
        >>> path.velocity_at([[0.2, 0.7]], 0.5).tolist()
        [[0.0, 0.0]]
        """
        return self._field(points, t)

    def transport_map(self) -> Array:
        """The place T(x_K) to which the flow carries the centroid x_K of each cell. Collective.

        Returns
        -------
        array (dim, n_cells)
            For this rank's cells. It is meaningful where rho0 > 0.

        Notes
        -----
        Each point moves along the flow by the midpoint rule, and stops short of walls; on a torus
        it continues beyond the period. On convex domains T is x + grad phi(x, 0), but less noisy.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 4)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4).solve(rho, rho)
        >>> path.transport_map().tolist()
        [[0.125, 0.375, 0.625, 0.875]]
        """
        points = self.mesh.gather(self.mesh.centroid)
        for t, tau in self._list_steps():
            _, points = self._advance(points, t, tau)
        return self.mesh.scatter(points)

    def growth_map(self) -> Array:
        """The factor by which the mass of each cell grows while the flow carries it. Collective.

        Returns
        -------
        array (n_cells,)
            For this rank's cells: 1 without growth, and where rho0 is 0.

        Raises
        ------
        InputError
            With `TotalVariation`: see `source` there.

        Notes
        -----
        The rate of growth is source / rho, linear in cells and in time, along the path of
        `transport_map`.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 4)
        >>> rho = mesh.density(lambda x: 1 + x[0])
        >>> solver = fvot.BenamouBrenier(mesh, n_steps=8, growth=fvot.FisherRao(0.5))
        >>> solver.solve(rho, 2 * rho).growth_map().round(2).tolist()
        [2.0, 2.0, 2.0, 2.0]
        """
        mesh = self.mesh
        if not self._grows:
            return np.ones(mesh.n_cells)

        mesh.ranks.check(not isinstance(self._growth, TotalVariation), GROWS_AT_ONCE)
        has_mass = mesh.gather(self.rho[0]) > 0
        rates = velocity_field.VelocityField(mesh, self.node_t, self._growth_rate[:, None])
        points = mesh.gather(mesh.centroid)
        factor = np.ones(points.shape[1])
        for t, tau in self._list_steps():
            middle, points = self._advance(points, t, tau)
            rate = rates.within(find_cells(mesh, middle)[0], middle, t + tau / 2)[0]
            factor *= np.where(has_mass, _grow(rate * tau), 1.0)
        return mesh.scatter(factor)

    @property
    def _growth_rate(self):
        """source / rho (N + 1, n_cells) at the nodes; 0 without mass."""
        rho = node_mean(self.rho[1:-1].T).T
        return np.divide(self.source, rho, out=np.zeros_like(rho), where=rho > 0)

    def _list_steps(self):
        """The (begin, length) of the steps of the midpoint rule along the flow."""
        n_parts = 1 if is_convex(self.mesh) else STEPS_AROUND_CORNERS
        for t, tau in zip(self.node_t, np.diff(self.node_t) / n_parts):
            for k in range(n_parts):
                yield t + k * tau, tau

    def _advance(self, points, t, tau):
        """Where points that flow are half a step later, and a step later."""
        middle = self._move(points, points, t, tau / 2)
        return middle, self._move(points, middle, t + tau / 2, tau)

    def _move(self, points, places, t, tau):
        """points + tau v(places, t), by shorter steps where a wall is in the way."""
        step = tau * self._field.within(find_cells(self.mesh, places)[0], places, t)
        for _ in range(MAX_STEP_HALVINGS):
            is_outside = ~find_cells(self.mesh, points + step)[1]
            if not is_outside.any():
                return points + step
            step[:, is_outside] /= 2
        return np.where(is_outside, points, points + step)


# ---- how they are built --------------------------------------------------------------------------


def build_geodesic(
    numbering: Numbering,
    disc: Discretisation,
    rho0: Array,
    lower: LowerBound,
    upper: UpperBound,
    iterations: int,
    unit: float = 1.0,
    rho1: Array | None = None,
    levelling: Array | None = None,
    correction: float = 0.0,
) -> Geodesic:
    """The path from rho0 (n_cells,) that both bounds belong to. Collective.

    numbering : the `Numbering` of the arrays that come in
    unit : the unit of mass of rho0, rho1 and the bounds
    rho1 (n_cells,), levelling (2, n_faces), correction : the other end, the mass that the data move
        within patches, and what it adds to the bounds, where they are those of the means over
        patches (see `patch_means`)

    All reductions over ranks are done here, so that one rank alone may read the result.
    """
    mesh = disc.mesh
    users_mesh: Any = numbering.user_mesh
    N = disc.n_steps
    rho = np.empty((N + 2, mesh.n_cells))
    rho[0] = rho0
    rho[1:-1] = disc.spread(upper.rho).T
    rho[-1] = upper.rho1 if rho1 is None else rho1
    flux = disc.find_face_fluxes(upper.flux)
    at_ends = np.zeros((2, mesh.n_faces)) if levelling is None else levelling / (disc.tau / 2)
    flux[[0, -1]] += at_ends

    phi = np.ascontiguousarray(numbering.outward(lower.phi[: mesh.n_cells].T))
    mobility = _compute_mobility(disc, upper.rho)
    velocity = numbering.outward(disc.find_velocities(upper.flux, mobility))
    source = _find_source(disc, upper)
    residual = _compute_residual(mesh, rho, flux, source)
    speed = _compute_speed(disc, upper, mobility)
    if unit != 1:
        rho *= unit
        flux *= unit
        at_ends *= unit
        source = source * unit

    return Geodesic(
        mesh=users_mesh,
        t=_list_times(N),
        rho=numbering.outward(rho),
        node_t=np.arange(N + 1) / N,
        phi=phi,
        flux=flux,
        cost=unit * (upper.cost + correction),
        lower_bound=float(unit * (lower.cost + correction)),
        iterations=iterations,
        energy=unit * upper.energy,
        residual=residual,
        speed=np.sqrt(unit) * speed,
        source=numbering.outward(source),
        mass=integrate(mesh, rho),
        _levelling=at_ends,
        _node_velocity=velocity,
        _scale=unit * upper.scale,
        _growth=disc.growth,
    )


def build_geodesic_at_rest(
    numbering: Numbering, N: int, rho: Array, energy: float = 0.0
) -> Geodesic:
    """The path of N steps that stays at rho (n_cells,), in the order of *near*."""
    mesh: Any = numbering.user_mesh
    mass = integrate(numbering.mesh, rho)
    rho = numbering.outward(rho)
    return Geodesic(
        mesh=mesh,
        t=_list_times(N),
        rho=np.repeat(rho[None], N + 2, axis=0),
        node_t=np.arange(N + 1) / N,
        phi=np.zeros((N + 1, mesh.n_cells)),
        flux=np.zeros((N + 1, mesh.n_faces)),
        cost=2 * energy,
        lower_bound=2 * energy,
        iterations=0,
        energy=energy,
        residual=0.0,
        speed=np.zeros(N + 1),
        source=np.zeros((N + 1, mesh.n_cells)),
        mass=np.full(N + 2, mass),
        _levelling=np.zeros((2, mesh.n_faces)),
        _node_velocity=np.zeros((N + 1, mesh.dim, mesh.n_cells)),
        _scale=0.0,
        _growth=None,
    )


def _list_times(N):
    """The times (N + 2,) of the density."""
    return np.concatenate([[0], slab_middles(N), [1]])


def _compute_mobility(disc, rho):
    """The mobility (..., N + 1) at the nodes, of rho (n_patches, N) in the slabs.

    It is infinite without mass, so that nothing moves there.
    """
    M = disc.mobility(node_mean(rho))
    return np.where(M > 0, M, np.inf)


# ---- of paths rho (N + 2, n_cells) with flux (N + 1, n_faces) ------------------------------------


def _find_source(disc, upper):
    """zeta (N + 1, n_cells)."""
    shape = (disc.n_steps + 1, disc.mesh.n_cells)
    if upper.source is None:
        return np.broadcast_to(0.0, shape)  # without memory

    return upper.source.T


def _grow(x):
    """The factor of mass in a step in which its rate of growth, in the middle, is x / step.

    It is e^x up to third order, and exact where the root of the density is linear in time, as where
    it grows from nothing.
    """
    half_root = np.clip(x, -4, LARGEST_GROWTH_RATE) / 4
    return ((1 + half_root) / (1 - half_root)) ** 2


def _compute_residual(mesh, rho, flux, source):
    """The largest error of the continuity equation in a cell, relative to the mass."""
    weights = node_weights(len(flux) - 1)
    errors = [
        mesh.volume * (after - before + weight * (mesh.divergence(F) - zeta))
        for before, after, weight, F, zeta in zip(rho, rho[1:], weights, flux, source)
    ]
    own_largest = np.abs(errors).max(initial=0.0)
    largest = mesh.ranks.max(own_largest)
    masses = integrate(mesh, rho[[0, -1]])
    return largest / float(masses.max())


def _compute_speed(disc, upper, mobility):
    """(int |m|^2 / rho dx)^(1/2) at the nodes (N + 1,), with the cost of growth."""
    own_sums = disc.cost_fluxes(upper.flux, mobility).sum(axis=0)
    if disc.has_fisher_rao:
        rho = disc.spread(node_mean(upper.rho))
        with np.errstate(divide="ignore", invalid="ignore"):
            costs = np.where(upper.source == 0, 0.0, upper.source**2 / rho)
        own_sums += disc.growth.delta**2 * (disc.mesh.volume @ costs)
    return np.sqrt(disc.mesh.ranks.sum(own_sums))
