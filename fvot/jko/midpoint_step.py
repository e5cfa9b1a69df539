"""The discrete-gradient midpoint step: second order in time, with exact dissipation of energy.

    |K| (rho_K - old_K) + tau sum over the faces of K of F_s = 0
    F_s = |s| / d_s R_s (mu_left - mu_right)
    mu_K = (e(rho_K) - e(old_K)) / (rho_K - old_K) + V_K + (W * (rho + old) / 2)_K

Multiply by mu_K and add up: E(rho) - E(old) = -tau sum_s |s| / d_s R_s (mu_left - mu_right)^2 for
every mobility R >= 0 and symmetric W (Gonzalez 1996 for the discrete gradient; Bailo, Carrillo, Hu
2018 for W). The energy falls by exactly what the fluxes dissipate. Hence R is free to be accurate
where diffusion is strong, upwind where it is weak, and bounded by what the giving cell will hold:

    R_s = min(w_s (rho_left + rho_right + old_left + old_right) / 4 + (1 - w_s) rho_giving,
              MOBILITY_LIMIT rho_giving)
    w_s = 1 / (1 + P_s^4)
    P_s = |mu_left - mu_right| / (8 rho e''(rho)) at the old density, rho e'' the mean of both cells

P_s is small where mu is smooth on the mesh (for the entropy it is the cell Peclet number of the
velocity, over 8), and infinite where nothing diffuses: there the scheme is upwind, of first order,
as the mean would be unstable. An empty cell gives nothing, so that rho >= 0 for every tau, and the
Newton matrix stays close to an M-matrix.

Newton's method: F_s is a function of the two cells' rho, so that the matrix is that of two-point
fluxes with a_s = dF_s / drho_left, b_s = -dF_s / drho_right (`rates`); an interaction adds the
fluxes of W * drho / 2, by its action only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from ..arguments.types import Array
from ..energies.free_energy import MIN_NEWTON_FACTOR, FreeEnergy
from ..errors import ConvergenceError
from ..finite_volume.rates import Rates
from ..mesh.cell_values import integrate
from .newton_step import NewtonStep
from .newton_systems import RESIDUAL_ROUNDING, rank_by_cost
from .step import StepResult

# The largest mobility of a face, in densities of its giving cell: R <= 2 rho_giving.
MOBILITY_LIMIT = 2.0

# The cell Peclet number about which the mobility changes from the mean to upwind.
UPWIND_PECLET = 8

# Iterations of Newton's method, before the step is refused.
MAX_MIDPOINT_ITERATIONS = 25


class MidpointStep(NewtonStep):
    """rho after a step from old, (n_cells,) each, for a `FreeEnergy`. Collective."""

    order = 2

    def __init__(self, free_energy: FreeEnergy, tol: float = 1e-12):
        super().__init__(free_energy, tol)

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The `StepResult` of length tau. Raises `ConvergenceError`."""
        mesh = self.mesh
        mass = integrate(self.mesh, old)
        if mass == 0:
            return StepResult(old, 0.0, 0)

        kept_fraction = MIN_NEWTON_FACTOR if self.free_energy.singular else 0.0
        rho = np.maximum(old, self.free_energy.start(mass / self.free_energy.measure))
        self.solver.begin(tau)
        w = self._compute_weights(old)

        for iteration in range(MAX_MIDPOINT_ITERATIONS):
            fluxes = _Fluxes(self, rho, old, tau, w)
            if not np.isfinite(fluxes.size):
                break
            if fluxes.size <= self.tol * mass + RESIDUAL_ROUNDING * fluxes.terms:
                scaled = rho * (mass / integrate(mesh, rho))
                return StepResult(scaled, tau * fluxes.dissipation, iteration)

            methods, matrix = fluxes.linearise()
            change = self.solver(
                methods,
                matrix,
                -fluxes.residual,
                action=fluxes.find_action(),
                scale=fluxes.scale,
            )
            rho = np.maximum(rho + change, kept_fraction * rho)

        raise ConvergenceError(
            f"the step of {tau:.3g}: Newton's method is left with a residual of "
            f"{fluxes.size / mass:.1e} of the mass after {iteration + 1} iterations"
        )

    def _compute_weights(self, old):
        """w (n_inner,), see the module."""
        mesh = self.mesh
        n = self.mesh.n_inner
        energy = self.free_energy
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mu = energy.derivative(old) + energy.potential(old)
            own = np.stack([mu, old * energy.curvature(old)])
            mu, diffusivity = mesh.with_ghosts(own)
            left = mesh.left[:n]
            right = mesh.right[:n]
            sums = UPWIND_PECLET / 2 * (diffusivity[left] + diffusivity[right])
            jump = np.abs(mu[left] - mu[right])
            w = 1 / (1 + (jump / sums) ** 4)
        return np.where(np.isfinite(w), w, 0.0)


class _Fluxes:
    """The fluxes between two densities, and how they change with the new one.

    residual (n_cells,), size : of the equations, and its sum of absolute values
    dissipation : sum of F_s (mu_left - mu_right)
    terms : the size of the terms in the residual, to which its rounding is relative
    scale (n_cells,) : of the columns; None where the energy has no infinite derivative
    """

    def __init__(self, step: MidpointStep, rho: Array, old: Array, tau: float, w: Array):
        self.mesh = step.mesh
        self.step = step
        self.tau = tau
        self._evaluate(rho, old, w)

    def _evaluate(self, rho, old, w):
        """Find the fluxes, their derivatives, and sums over them."""
        mesh = self.mesh
        step = self.step
        energy = step.free_energy
        tau = self.tau

        mu, slope = energy.difference(rho, old)
        mu = mu + energy.potential((rho + old) / 2)
        self.scale = 1 / slope if energy.singular else None

        local = mesh.with_ghosts(np.stack([rho, old, mu, slope]))
        self._a = np.zeros(mesh.n_faces)
        self._b = np.zeros(mesh.n_faces)
        self._through = np.zeros(mesh.n_faces)
        out = np.zeros(mesh.n_local)
        sums = _compute_fluxes(
            *local,
            step.transmissibility,
            mesh.left,
            mesh.right,
            mesh.face_owned,
            MOBILITY_LIMIT,
            w,
            self._a,
            self._b,
            self._through,
            out,
        )
        self.residual = mesh.volume * (rho - old) + tau * out[: mesh.n_cells]

        self.size, self.dissipation, terms = mesh.ranks.sum(
            np.array([np.abs(self.residual).sum(), *sums])
        )
        self.terms = tau * terms

    def linearise(self) -> tuple[Sequence[str], Callable[[Array | None], Any]]:
        """(names of methods, the cheapest first; the matrix as a function of a column scale)."""
        pattern = self.step.pattern
        rates = Rates(pattern, self._a, self._b)

        def build_matrix(scale: Array | None) -> Any:
            return pattern.matrix(rates, self.tau, scale=scale)

        return rank_by_cost(self.mesh, rates, self.tau), build_matrix

    def find_action(self) -> Callable[[Array], Array] | None:
        """The map that an interaction adds to the matrix; None where there is none."""
        convolve = self.step.free_energy.convolve
        if convolve is None:
            return None

        fluxes = Rates(self.step.pattern, self._through, self._through)

        def act(change: Array) -> Array:
            outflow, _ = fluxes.outflow(convolve(change) / 2, self.step.no_inflow)
            return self.tau * outflow

        return act


@numba.njit(cache=True, error_model="numpy")
def _compute_fluxes(rho, old, mu, slope, t, left, right, owned, limit, w, a, b, through, out):
    """Through the inner faces: through = t R, a, b; and out, their sums over cells.

    t (n_inner,) : |s| / d_s; limit : MOBILITY_LIMIT. Returns (dissipation, terms), see `_Fluxes`
    """
    dissipation = 0.0
    terms = 0.0
    for f in range(len(t)):
        l = left[f]
        r = right[f]
        g = mu[l] - mu[r]
        giving = rho[l] if g > 0 else rho[r]
        R = w[f] * (rho[l] + rho[r] + old[l] + old[r]) / 4 + (1 - w[f]) * giving
        # dR by the giving and by the other cell
        more = 1 - 0.75 * w[f]
        less = 0.25 * w[f]
        by_left, by_right = (more, less) if g > 0 else (less, more)
        if R > limit * giving:
            R = limit * giving
            by_left, by_right = (limit, 0.0) if g > 0 else (0.0, limit)
        through[f] = t[f] * R
        F = through[f] * g
        a[f] = through[f] * slope[l] + t[f] * g * by_left
        b[f] = through[f] * slope[r] - t[f] * g * by_right
        out[l] += F
        out[r] -= F
        if owned[f]:
            dissipation += F * g
            terms += through[f] * (abs(mu[l]) + abs(mu[r]))
    return dissipation, terms
