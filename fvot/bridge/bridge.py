"""`Bridge`: the motion that `SchroedingerBridge` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.types import Array, ArrayLike
from ..finite_volume.velocity_field import (
    VelocityField,
    cell_velocity,
    divide_by_density,
    find_interval,
)
from ..mesh import Mesh
from ..runs.result import WritableDensity


@frozen
@dataclass(frozen=True, eq=False, repr=False)
class Bridge(WritableDensity):
    """The most likely motion from one density to another, for particles that follow an equation.

    lower_bound <= eps KL(pi | P) <= upper_bound for the chain of the last reference, where pi are
    the paths of the bridge and P those of the equation, which start with density 1 everywhere.

    Parameters
    ----------
    mesh : Mesh
    t : array (n_times,)
        The nodes in time: n_steps + 1 between two snapshots, those at snapshots once.
    rho : array (n_times, n_cells)
        The density, forward * backward.
    flux : array (n_times - 1, n_faces)
        The mass that crosses each face per time in each step, along its normal. |K| (rho_(n+1) -
        rho_n)_K + tau sum_s +-flux_s = 0, less what dies, holds for all n and K to round-off.
    forward, backward : array (n_times, n_cells)
        f and g: what comes of the past, and what the future asks for. At a snapshot between others
        f has its factor.
    cost : float
        eps KL(pi | P), eps = 2 D; where D is not one number, KL(pi | P) itself. Its error is
        quadratic in `marginal_error`.
    action : float or None
        min 1/2 int rho |v|^2 + eps^2/8 int rho |grad log rho|^2 for an equation without a drift:
        cost - eps/2 (H(rho0) + H(rho1)), H(rho) = int rho log rho; with a potential, that of
        rho / e^(-V/D) in place of rho; with a drift that has no divergence, the mean of the control
        efforts forwards and backwards. None where D is not one number, and with deaths, growth,
        open boundaries, or a drift that has a divergence.
    lower_bound, upper_bound : float
        Rigorous bounds of the cost, up to round-off, as long as no transition probability of the
        chain is negative.
    resolution : float
        h |v| / eps: how much log g changes from cell to cell, where mass moves. Without `sweeps`
        the action is too small by about a part resolution^2 / 8 for motion along an axis of the
        mesh, and half of that along a diagonal.
    marginal_error : float
        The largest error in L1 of the density at a snapshot, relative to its mass.
    iterations : int
        Sweeps of the fitting, each of one pass backwards and one forwards.
    deaths : array (n_times - 1, n_cells) or None
        The mass that dies in each cell in each step, less what leaves through the boundary, which
        is in `flux`. None without deaths.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 64)
    >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
    >>> rho1 = mesh.density(lambda x: 2 - x[0])
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
    >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho0, rho1)
    >>> bridge.rho.shape, bridge.flux.shape
    ((9, 64), (8, 65))
    >>> bridge.lower_bound <= bridge.upper_bound
    True
    """

    mesh: Mesh
    t: Array
    rho: Array
    flux: Array
    forward: Array
    backward: Array
    cost: float
    action: float | None
    lower_bound: float
    upper_bound: float
    resolution: float
    marginal_error: float
    iterations: int
    deaths: Array | None
    _log_backward: Array
    _reference: Any

    def __repr__(self):
        action = "" if self.action is None else f"action {self.action:.6g}, "
        return (
            f"<fvot.Bridge: cost {self.cost:.6g}, {action}resolution {self.resolution:.2g}, "
            f"{len(self.t) - 1} steps on {self.mesh.n_cells_global} cells>"
        )

    def __getstate__(self):
        """What is copied: no equation, which may have functions that cannot be pickled."""
        alone = self.mesh.ranks.size == 1  # else the mesh refuses
        drift = self._node_drift if alone else None
        return vars(self) | dict(_reference=None, _node_drift=drift)

    @property
    def _present(self):
        return {"density": self.rho, "velocity": self.velocity}

    @cached_property
    def velocity(self) -> Array:
        """The mean velocity of each cell at the times t: flux / density, 0 where there is no mass.

        It is that of the current of the density, of drift and diffusion together; see `drift`.

        Returns
        -------
        array (n_times, dim, n_cells)

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 64)
        >>> rho = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
        >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho, rho)
        >>> bridge.velocity.shape
        (9, 1, 64)
        """
        currents = np.stack([cell_velocity(self.mesh, F) for F in self.flux])
        between = (currents[:-1] + currents[1:]) / 2
        at_nodes = np.concatenate([currents[:1], between, currents[-1:]])
        return np.stack([divide_by_density(m, rho) for m, rho in zip(at_nodes, self.rho)])

    def at(self, t: float) -> Array:
        """The density at time t, linear between the nodes.

        Parameters
        ----------
        t : float
            A time between the first and the last one.

        Returns
        -------
        array (n_cells,)
            The density of this rank's cells.

        Raises
        ------
        InputError
            For other times.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 64)
        >>> rho = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
        >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho, rho)
        >>> bool(abs(mesh.integrate(bridge.at(0.3)) - 1) < 1e-13)
        True
        """
        before, part = find_interval(self.mesh.ranks, t, self.t)
        return (1 - part) * self.rho[before] + part * self.rho[before + 1]

    def drift(self, t: float) -> Array:
        """The drift b - grad V + 2 D grad log g with which the equation itself makes the bridge.

        Particles that follow it with the noise of the equation, such as those of
        `particles.langevin`, have the densities of the bridge. Collective.

        Parameters
        ----------
        t : float
            A time between the first and the last one.

        Returns
        -------
        array (dim, n_cells)
            The drift in each cell, by least squares; log g linear between the nodes. Before a
            snapshot without mass somewhere, where log g is infinite, that of the node before.

        Raises
        ------
        InputError
            For other times.

        Examples
        --------
        Mass that moves by diffusion alone needs no drift:

        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 64)
        >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
        >>> rho1 = equation.solve(rho0, [0, 1], tau=1 / 8).rho[-1]
        >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho0, rho1)
        >>> bool(abs(bridge.drift(0.5)).max() < 1e-8)
        True
        """
        before, part = find_interval(self.mesh.ranks, t, self.t)
        begin, end = self._find_step_drift(before)
        return (1 - part) * begin + part * end

    @cached_property
    def _node_drift(self):
        """Both drifts of all steps (n_times - 1, 2, dim, n_cells)."""
        return [self._compute_step_drift(n) for n in range(len(self.t) - 1)]

    def _find_step_drift(self, n):
        if "_node_drift" in vars(self):
            return self._node_drift[n]
        return self._compute_step_drift(n)

    def _compute_step_drift(self, n):
        """The drift at the begin and at the end of step n."""
        return [
            self._reference.find_drift(t, psi)
            for t, psi in zip(self.t[n : n + 2], self._log_backward[n])
        ]

    @cached_property
    def _field(self):
        return VelocityField(self.mesh, self.t, self.velocity)

    def velocity_at(self, points: ArrayLike, t: float) -> Array:
        """The velocity at points of the mesh and time t, linear in cells and in time. Collective.

        Parameters
        ----------
        points : array (dim, n)
            Points of the mesh, the same on every rank.
        t : float
            A time between the first and the last one.

        Returns
        -------
        array (dim, n)
            The velocities, the same on every rank.

        Raises
        ------
        InputError
            For points outside the mesh, and for other times.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 64)
        >>> rho = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
        >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho, rho)
        >>> bridge.velocity_at([[0.2, 0.7]], 0.5).shape
        (1, 2)
        """
        return self._field(points, t)
