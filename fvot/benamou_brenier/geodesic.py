"""`Geodesic`: the path that `BenamouBrenier` returns, with what shows how good it is."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arguments.frozen import frozen
from ..finite_volume import velocity_field
from ..runs.result import Writable
from .time_basis import node_mean, node_weights

SHORTER = 6  # times that a step is halved which would leave the mesh
ROUND_CORNERS = 4  # steps along the flow for each step in time, on domains that are not convex


@frozen
@dataclass(frozen=True, eq=False, repr=False)
class Geodesic(Writable):
    """A path of densities from rho0 to rho1, certified: lower_bound <= W2^2 of the discrete problem
    <= cost.

    With a terminal energy E: lower_bound <= min W2^2(rho0, rho1) + 2 E(rho1) <= cost; see `energy`.

    mesh : the `Mesh`
    t : (N + 2,) times 0, tau/2, 3 tau/2, ..., 1 of the density, tau = 1/N
    rho : (N + 2, n_cells) density; rho[0] and rho[-1] are the data, between them it is constant on
        patches
    node_t : (N + 1,) times 0, tau, ..., 1 of potential and flux
    phi : (N + 1, n_cells) potential, feasible for the dual problem; where there is mass, the
        velocity is its gradient
    flux : (N + 1, n_faces) mass that crosses each face per time, along its normal. With tau_n =
        tau, half of it at the ends, |K| (rho_{n+1} - rho_n)_K + tau_n sum_s +-flux_s = 0 for all n
        and K to round-off
    cost, lower_bound : the path's action sum_n tau_n int |m|^2 / rho, and a bound below which no
        path can go
    iterations : on the mesh itself
    energy : E(rho1) of the terminal energy, 0 where there is none; W2^2 of the path is cost - 2
        energy
    residual : the largest error of the continuity equation in a cell, relative to the mass
    speed : (N + 1,) the norm (int |m|^2 / rho dx)^(1/2) at the nodes: constant along a geodesic,
        and there equal to W2. The first and the last one may be off by some per cent: there the
        data, which know no patches, become a path that does
    """

    mesh: object
    t: np.ndarray
    rho: np.ndarray
    node_t: np.ndarray
    phi: np.ndarray
    flux: np.ndarray
    cost: float
    lower_bound: float
    iterations: int
    energy: float
    residual: float
    speed: np.ndarray
    _node_velocity: np.ndarray
    _scale: float

    @classmethod
    def of(cls, near, disc, rho0, lower, upper, iterations, unit=1.0):
        """The path from rho0 (n_cells,) that both bounds belong to, which come in the order of the
        `Numbering` *near*.

        unit : of mass, in which all of it has been found

        What ranks find out together is found here, so that one of them alone may look at it.
        """
        mesh, N = disc.mesh, disc.n_steps
        rho = np.empty((N + 2, mesh.n_cells))
        rho[0], rho[1:-1], rho[-1] = rho0, disc.spread(upper.rho).T, upper.rho1
        flux = np.zeros((N + 1, mesh.n_faces))
        flux[:, : mesh.n_inner] = upper.flux.T
        t = np.concatenate([[0], (np.arange(N) + 0.5) / N, [1]])
        mobility = _mobility(disc, rho)
        phi = np.ascontiguousarray(near.outward(lower.phi.T))
        velocity = near.outward(_velocity(mesh, flux, mobility))
        residual = _residual(mesh, rho, flux)
        speed = _speed(mesh, flux, mobility)
        if unit != 1:
            rho *= unit
            flux *= unit
        return cls(
            near.users,
            t,
            near.outward(rho),
            np.arange(N + 1) / N,
            phi,
            flux,
            unit * upper.cost,
            unit * lower.cost,
            iterations,
            unit * upper.energy,
            residual,
            np.sqrt(unit) * speed,
            velocity,
            unit * upper.scale,
        )

    @classmethod
    def at_rest(cls, near, N, rho, energy=0.0):
        """The path of N steps that stays at rho (n_cells,), in the order of *near*, which has that
        energy at the end.
        """
        mesh = near.users
        rho = near.outward(rho)
        t = np.concatenate([[0], (np.arange(N) + 0.5) / N, [1]])
        return cls(
            mesh,
            t,
            np.repeat(rho[None], N + 2, axis=0),
            np.arange(N + 1) / N,
            np.zeros((N + 1, mesh.n_cells)),
            np.zeros((N + 1, mesh.n_faces)),
            2 * energy,
            2 * energy,
            0,
            energy,
            0.0,
            np.zeros(N + 1),
            np.zeros((N + 1, mesh.dim, mesh.n_cells)),
            0.0,
        )

    def __repr__(self):
        what = "W2^2 + 2 E" if self.energy else "W2^2"
        return (
            f"<fvot.Geodesic: {self.lower_bound:.6g} <= {what} <= {self.cost:.6g}, "
            f"{len(self.node_t) - 1} steps on "
            f"{self.mesh.n_cells_global} cells>"
        )

    @property
    def gap(self):
        """(cost - lower_bound) / W2^2 of the path (but at least what round-off of the energy
        allows), 0 where the cost is 0.
        """
        return (self.cost - self.lower_bound) / self._scale if self._scale > 0 else 0.0

    # ---- what moves --------------------------------------------------------------------------------------------------

    @cached_property
    def momentum(self):
        """m = rho v at the nodes, cell means (N + 1, dim, n_cells) of the flux."""
        return np.stack([velocity_field.cell_velocity(self.mesh, F) for F in self.flux])

    @cached_property
    def velocity(self):
        """v (N + 2, dim, n_cells) at the times t; where there is hardly any mass it has no meaning."""
        v = self._node_velocity
        return np.concatenate([v[:1], (v[:-1] + v[1:]) / 2, v[-1:]])

    def at(self, t):
        """The density (n_cells,) at time t between 0 and 1, linear between recorded ones. Raises
        `InputError` for other t.
        """
        before, part = velocity_field.place(self.mesh.ranks, t, self.t)
        return (1 - part) * self.rho[before] + part * self.rho[before + 1]

    @cached_property
    def _field(self):
        return velocity_field.VelocityField(self.mesh, self.node_t, self._node_velocity)

    def velocity_at(self, points, t):
        """v (dim, n) at points (dim, n) of the mesh, the same on every rank, and time t: linear in
        cells and in time.

        Collective. Raises `InputError` for points outside the mesh, or t outside [0, 1].
        """
        return self._field(points, t)

    def transport_map(self):
        """Where the mass of each cell goes: T(x_K) (dim, n_cells) for the centroids x_K of this
        rank's cells. Collective.

        Each x is carried along the flow (midpoint rule), and stops short of walls; on a torus it
        goes on beyond the period. It has a meaning where rho0 > 0. On convex domains that is x +
        grad phi(x, 0), but less noisy.
        """
        mesh = self.mesh
        points = self.mesh.gather(self.mesh.centroid)
        parts = 1 if mesh.is_convex else ROUND_CORNERS
        for t, tau in zip(self.node_t, np.diff(self.node_t) / parts):
            for k in range(parts):
                middle = self._carried(points, points, t + k * tau, tau / 2)
                points = self._carried(points, middle, t + (k + 0.5) * tau, tau)
        return mesh.scatter(points)

    def _carried(self, points, seen_at, t, tau):
        """points + tau v(seen_at, t), by shorter steps where a wall is in the way."""
        step = tau * self._field.within(self.mesh.find(seen_at)[0], seen_at, t)
        for _ in range(SHORTER):
            outside = ~self.mesh.find(points + step)[1]
            if not outside.any():
                return points + step
            step[:, outside] /= 2
        return np.where(outside, points, points + step)


# ---- of paths rho (N + 2, n_cells) with flux (N + 1, n_faces) ----------------------------------------------------------


def _residual(mesh, rho, flux):
    """The largest error of the continuity equation in a cell, relative to the mass."""
    change = [
        mesh.volume * (after - before + weight * mesh.divergence(F))
        for before, after, weight, F in zip(rho, rho[1:], node_weights(len(flux) - 1), flux)
    ]
    return mesh.ranks.max(np.abs(change).max(initial=0.0)) / mesh.integrate(rho[0])


def _mobility(disc, rho):
    """M_s (N + 1, n_inner) at the nodes; infinite where there is no mass, so that nothing moves
    there.
    """
    M = disc.mobility(node_mean(disc.average(rho[1:-1].T))).T
    return np.where(M > 0, M, np.inf)


def _speed(mesh, flux, mobility):
    """(int |m|^2 / rho dx)^(1/2) at the nodes (N + 1,)."""
    n = mesh.n_inner
    energy = mesh.distance[:n] ** 2 * flux[:, :n] ** 2 / mobility
    return np.sqrt(mesh.ranks.sum(energy[:, mesh.face_owned[:n]].sum(axis=1)))


def _velocity(mesh, flux, mobility):
    """v (N + 1, dim, n_cells) at the nodes: means of face velocities, which are differences of a
    potential.
    """
    n = mesh.n_inner
    through = np.zeros_like(flux)
    through[:, :n] = mesh.area[:n] * mesh.distance[:n] * flux[:, :n] / mobility
    return np.stack([velocity_field.cell_velocity(mesh, U) for U in through])
