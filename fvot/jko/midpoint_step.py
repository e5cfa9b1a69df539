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

At a door (`doors`) the cell outside has the density 0 and a given mu; nothing comes in, and what
leaves takes that mu along.

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

from ..arguments.types import Array, IntArray
from ..energies.free_energy import MIN_NEWTON_FACTOR, FreeEnergy
from ..errors import ConvergenceError
from ..finite_volume.rates import Rates
from ..mesh.cell_values import integrate
from .doors import Doors
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

    def __init__(self, free_energy: FreeEnergy, tol: float = 1e-12, doors: Doors | None = None):
        super().__init__(free_energy, tol, doors)

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The `StepResult` of length tau. Raises `ConvergenceError`."""
        mesh = self.mesh
        mass = integrate(self.mesh, old)
        if mass == 0:
            return StepResult(old, 0.0, 0, left=0.0 * self.doors.potential)

        self.first_mass = max(self.first_mass, mass)
        kept_fraction = MIN_NEWTON_FACTOR if self.free_energy.singular else 0.0
        rho = np.maximum(old, self.free_energy.start(mass / self.free_energy.measure))
        self.solver.begin(tau)
        w, w_door = self._compute_weights(old)

        for iteration in range(MAX_MIDPOINT_ITERATIONS):
            fluxes = _Fluxes(self, rho, old, tau, w, w_door)
            if not np.isfinite(fluxes.size):
                break
            if fluxes.size <= self.tol * self.first_mass + RESIDUAL_ROUNDING * fluxes.terms:
                factor = mass / (integrate(mesh, rho) + self.doors.sum(fluxes.left))
                dissipated = tau * fluxes.dissipation
                return StepResult(rho * factor, dissipated, iteration, left=fluxes.left * factor)

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
        """w at the inner faces (n_inner,) and at the doors (n,), see the module."""
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

            cells = self.doors.cells
            jump = np.abs(mu[cells] - self.doors.potential)
            w_door = 1 / (1 + (jump / (UPWIND_PECLET / 2 * diffusivity[cells])) ** 4)
        return np.where(np.isfinite(w), w, 0.0), np.where(np.isfinite(w_door), w_door, 0.0)


class _Fluxes:
    """The fluxes between two densities, and how they change with the new one.

    residual (n_cells,), size : of the equations, and its sum of absolute values
    dissipation : sum of F_s (mu_left - mu_right)
    terms : the size of the terms in the residual, to which its rounding is relative
    left (n,) : the mass that leaves through each face of the doors
    scale (n_cells,) : of the columns; None where the energy has no infinite derivative
    """

    def __init__(
        self, step: MidpointStep, rho: Array, old: Array, tau: float, w: Array, w_door: Array
    ):
        self.mesh = step.mesh
        self.step = step
        self.tau = tau
        self._evaluate(rho, old, w, w_door)

    def _evaluate(self, rho, old, w, w_door):
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
        doors = step.doors
        leaving = np.empty(len(doors.faces))
        at_doors = _compute_door_fluxes(
            *local,
            doors.faces,
            doors.cells,
            doors.transmissibility,
            doors.potential,
            MOBILITY_LIMIT,
            w_door,
            self._a,
            out,
            leaving,
        )
        self.left = tau * leaving
        self.residual = mesh.volume * (rho - old) + tau * out[: mesh.n_cells]

        self.size, self.dissipation, terms = mesh.ranks.sum(
            np.array([np.abs(self.residual).sum(), *np.add(sums, at_doors)])
        )
        self.terms = tau * terms

    def linearise(
        self,
    ) -> tuple[Sequence[str], Callable[[Array | None, IntArray | None], Any]]:
        """(names of methods, the cheapest first; the matrix as a function of a column scale)."""
        pattern = self.step.pattern
        rates = Rates(pattern, self._a, self._b)

        def build_matrix(scale: Array | None, order: IntArray | None) -> Any:
            return pattern.matrix(rates, self.tau, order, scale)

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


@numba.njit(cache=True, error_model="numpy")
def _compute_door_fluxes(rho, old, mu, slope, face, cell, t, outside, limit, w, a, out, leaving):
    """Through the doors: a, and *leaving* (n,), the fluxes out of the cells; added to out.

    The same as through an inner face, with an empty cell outside, where mu is *outside* (n,).
    Returns (dissipation, terms), see `_Fluxes`
    """
    dissipation = 0.0
    terms = 0.0
    for i in range(len(face)):
        l = cell[i]
        g = mu[l] - outside[i]
        leaving[i] = 0.0
        if not g > 0:
            continue
        R = w[i] * (rho[l] + old[l]) / 4 + (1 - w[i]) * rho[l]
        by_left = 1 - 0.75 * w[i]
        if R > limit * rho[l]:
            R = limit * rho[l]
            by_left = limit
        leaving[i] = t[i] * R * g
        a[face[i]] = t[i] * (R * slope[l] + g * by_left)
        out[l] += leaving[i]
        dissipation += leaving[i] * g
        terms += t[i] * R * (abs(mu[l]) + abs(outside[i]))
    return dissipation, terms
