"""Iterative proportional fitting of a chain to its snapshots, accelerated.

The bridge through densities rho_0, ..., rho_m at times t_0 < ... < t_m has, for the chain's kernels
P_k between them, the path measure

    u_0(x_0) P_1(x_0, x_1) u_1(x_1) ... P_m(x_(m-1), x_m) u_m(x_m)

With the messages from the past, F_0 = 1, F_k = P_k (u_(k-1) F_(k-1)), and from the future, B_m = 1,
B_(k-1) = P_k^T (u_k B_k), its density at t_k is u_k F_k B_k. A sweep sets u_0 = rho_0 / B_0, then
u_k = rho_k / (F_k B_k) for k = 1, ..., m: for two densities that is Sinkhorn's iteration. The
unknowns are log u_1, ..., log u_m where there is mass, accelerated by Anderson's method.

With deaths there is one more unknown: the value of g at the cemetery, of the mass M_0 - M_1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments.types import Array
from ..errors import ConvergenceError
from ..mesh.cell_values import integrate
from .anderson import Anderson
from .kernel import Kernel

# Sweeps at most. Bridges between discs with a small noise take some 30.
MAX_FITTING_SWEEPS = 200

# Relative difference of two masses that their sums have anyway.
SUM_ROUNDING = 1e-14

UNDERFLOW_REMEDY = (
    "the probability to come from one density to the other is beyond the range of floating point: "
    "take a larger diffusion, or densities that are closer or overlap"
)


class Potentials(NamedTuple):
    """u : (m + 1, n_cells), 0 where there is no mass; at_cemetery : g there, 0 without deaths."""

    u: Array
    at_cemetery: float


class Paths(NamedTuple):
    """What potentials make of the chain.

    f, g (m, n_steps + 1, n_cells) : at the nodes between snapshots, those at the ends included; at
        the end of a part g has the factor u of its snapshot, at the begin f has
    marginals (m + 1, n_cells) : u_k F_k B_k
    died : the mass at the cemetery
    """

    f: Array
    g: Array
    marginals: Array
    died: float


class NegativeValuesError(Exception):
    """Steps of some kernels have made negative values: more of them have to be positive."""

    def __init__(self, kernels: Sequence[Kernel]):
        super().__init__()
        self.kernels = kernels


class Fitting:
    """The fitting of kernels to densities (m + 1, n_cells), of which those behind the first may
    have less mass, if `deaths`. All arrays are in the solvers' order.
    """

    def __init__(self, mesh: Any, kernels: Sequence[Kernel], rho: Array, deaths: bool):
        self.mesh = mesh
        self.ranks = mesh.ranks
        self.kernels = kernels
        self.rho = rho
        self.mass = integrate(mesh, rho[0])
        self.lost = self.mass - integrate(mesh, rho[-1]) if deaths else 0.0
        self.has_deaths = self.lost > SUM_ROUNDING * self.mass
        self.sweeps = 0
        self._is_fitted = rho[1:] > 0

    def fit(self, tol: float, report: Callable[[float], None]) -> tuple[Potentials, float]:
        """(the potentials, the error of the densities in L1, relative), which is at most tol unless
        the sweeps end before; it is reported after each. Collective.
        """
        weight = (self.mesh.volume * self.rho[1:])[self._is_fitted]
        weight = np.append(weight, self.lost if self.ranks.is_root else 0.0) / self.mass
        anderson = Anderson(self.ranks, weight)
        x = np.zeros(len(weight))
        last = x
        error = np.inf
        for _ in range(MAX_FITTING_SWEEPS):
            try:
                new = self._sweep(x)
            except NegativeValuesError as negative:
                for kernel in negative.kernels:
                    kernel.use_more_positive_steps()
                anderson.restart()
                continue
            self.sweeps += 1
            with np.errstate(over="ignore"):
                change = np.abs(np.expm1(x - new))
            error = self.ranks.sum(float(weight @ change))
            report(error)
            if error <= tol:
                break
            last = x
            x = anderson.find_next(x, new - x)
        return self._split(last if error > tol else x), error

    def _split(self, x):
        """The `Potentials` of the unknowns; that of the first density is left 0."""
        u = np.zeros_like(self.rho)
        with np.errstate(over="ignore"):
            u[1:][self._is_fitted] = np.exp(x[:-1])
            at_cemetery = float(np.exp(x[-1])) if self.has_deaths else 0.0
        return Potentials(u, at_cemetery)

    def _sweep(self, x):
        """The unknowns after one sweep. Collective."""
        u, at_cemetery = self._split(x)
        messages, lowest = self._find_messages_from_future(u, at_cemetery)
        self._check_sign(lowest)
        new = np.zeros_like(u)
        new[0] = self._divide(self.rho[0], messages[0])
        F = np.ones(self.mesh.n_cells)
        died = 0.0
        lowest = np.zeros(len(self.kernels))
        for k, kernel in enumerate(self.kernels):
            f = new[k] * F
            for n in range(len(kernel)):
                f, died_now = kernel.forward(n, f)
                died += died_now
                lowest[k] = min(lowest[k], f.min(initial=0.0))
            F = f
            new[k + 1] = self._divide(self.rho[k + 1], F * messages[k + 1])
        self._check_sign(lowest)

        logs = np.log(new[1:][self._is_fitted])
        log_at_cemetery = 0.0
        if self.has_deaths:
            log_at_cemetery = float(np.log(self.lost / self.ranks.sum(died)))
        return np.append(logs, log_at_cemetery)

    def _find_messages_from_future(self, u, at_cemetery):
        """(B (m + 1, n_cells), the lowest value on each way (m,), or 0)."""
        messages = np.ones_like(u)
        lowest = np.zeros(len(self.kernels))
        for k in reversed(range(len(self.kernels))):
            kernel = self.kernels[k]
            g = u[k + 1] * messages[k + 1]
            for n in reversed(range(len(kernel))):
                g = kernel.backward(n, g, at_cemetery)
                lowest[k] = min(lowest[k], g.min(initial=0.0))
            messages[k] = g
        return messages, lowest

    def _check_sign(self, lowest):
        """Raise `NegativeValuesError` where kernels have made negative values (m,), and have steps
        that may. Collective.
        """
        all_lowest = self.ranks.min(lowest)
        kernels = [
            kernel
            for kernel, value in zip(self.kernels, all_lowest)
            if value < 0 and not kernel.is_positive
        ]
        if kernels:
            raise NegativeValuesError(kernels)

    def _divide(self, rho, message):
        """rho / message where there is mass, 0 elsewhere. Collective."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratio = np.where(rho > 0, rho / message, 0.0)
        self.ranks.check(np.isfinite(ratio).all(), UNDERFLOW_REMEDY, ConvergenceError)
        return ratio

    def destroy(self) -> None:
        """Give the memory of the kernels back. Collective."""
        for kernel in self.kernels:
            kernel.destroy()

    # ---- what the potentials are ----------------------------------------------------------------

    def complete(self, potentials: Potentials) -> Potentials:
        """The potentials with that of the first density, which makes its mass exact. Collective."""
        u, at_cemetery = potentials
        messages, _ = self._find_messages_from_future(u, at_cemetery)
        u = u.copy()
        u[0] = self._divide(self.rho[0], messages[0])
        return Potentials(u, at_cemetery)

    def trace(self, potentials: Potentials) -> Paths:
        """The `Paths` of complete potentials. Collective."""
        u, at_cemetery = potentials
        m = len(self.kernels)
        n_steps = len(self.kernels[0])
        f = np.empty((m, n_steps + 1, self.mesh.n_cells))
        g = np.empty_like(f)
        future = np.ones(self.mesh.n_cells)
        for k in reversed(range(m)):
            g[k, -1] = u[k + 1] * future
            for n in reversed(range(n_steps)):
                g[k, n] = self.kernels[k].backward(n, g[k, n + 1], at_cemetery)
            future = g[k, 0]

        past = np.ones(self.mesh.n_cells)
        died = 0.0
        for k in range(m):
            f[k, 0] = u[k] * past
            for n in range(n_steps):
                f[k, n + 1], died_now = self.kernels[k].forward(n, f[k, n])
                died += died_now
            past = f[k, -1]

        starts = f[:, 0] * g[:, 0]
        end = f[-1, -1] * g[-1, -1]
        died = at_cemetery * self.ranks.sum(died)
        return Paths(f, g, np.concatenate([starts, end[None]]), died)
