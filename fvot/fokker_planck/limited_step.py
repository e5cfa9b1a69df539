"""One step with `limited` fluxes: those of Scharfetter and Gummel, and a correction C(rho) that is
not linear.

The matrices stay those of the linear fluxes A. Each stage of the scheme (`schemes`) solves

    (|K| + g tau A) Y = |K| rho - tau (what earlier stages say) - g tau C(Y')

as many times as its order says, first with Y' of the stage before, then with its own last Y. Each
solve makes the error in time of C smaller by one order. A density that is stationary with the
corrected fluxes stays so; what A damps is damped, too, as C is smaller than A.

The sum is limited as that of `step` is, where it is negative or lets the free energy grow: towards
the sum of the linear fluxes, or where that is no better, towards their positive partner. No cell
is emptied: next to one with density 0 the rate at which the energy falls would be infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.types import Array
from ..mesh.cell_values import integrate
from .step import TwoPointStep

# The part of the low density that the limiter leaves in each cell. Chosen: far below what counts.
KEPT_PART = 1e-3

# What takes the place of negative values within rounding: smaller numbers are denormal, and slow.
FLOOR_DENSITY = 1e-290


class LimitedStep(TwoPointStep):
    """A `TwoPointStep` with corrected fluxes, see the module."""

    @property
    def is_checked(self) -> bool:
        """Never: the sum has a correction."""
        return False

    def __init__(
        self,
        stepper: Any,
        rho: Array,
        mass: float,
        now: float,
        tau: float,
        n_solves: int,
        until: float,
        inside: bool,
    ):
        n_solves = n_solves * stepper.order
        super().__init__(stepper, rho, mass, now, tau, n_solves, until, inside)
        self.corrected_ladder = [rho]

    def _correct(self, rho, t):
        """(C(rho) (n_faces,), its net outflow of each cell (n_cells,)) at time t."""
        rates, _ = self.stepper.find_coefficients(t)
        correction = self.stepper.operator.correction(rho, rates)
        return correction, self.mesh.volume * self.mesh.divergence(correction)

    def _find_corrected(self, k):
        """The k-th rung of the ladder that has the correction of the start in all of its steps."""
        ladder = self.corrected_ladder
        while len(ladder) <= k:
            if len(ladder) == 1:
                _, outflow = self._correct(self.rho, self._find_rung_time(1))
                self._start_outflow = outflow
            rest = -self.scheme.g * self.tau * self._start_outflow
            t = self._find_rung_time(len(ladder))
            ladder.append(self._solve(t, ladder[-1], rest=rest))
        return ladder[k]

    def estimate_error(self) -> float:
        """As that of `Step`, of the ladder with the correction of the start: differences of it
        vanish where the corrected fluxes are stationary.
        """
        e = sum(weight * self._find_corrected(k + 1) for k, weight in enumerate(self.scheme.error))
        return integrate(self.mesh, np.abs(e))

    def _sum_scheme(self):
        """The scheme's sum and its linear fluxes.

        Kept are the sum of the corrections, and what an empty mesh would let through its boundary.
        """
        scheme = self.scheme
        Y = self.rho
        outflows = []
        fluxes = []
        nothing = np.zeros(self.mesh.n_cells)
        self.correction = np.zeros(self.mesh.n_faces)
        self.least_crossing = np.zeros(self.mesh.n_faces - self.mesh.n_inner)
        for i, (row, time) in enumerate(zip(scheme.stages, scheme.times, strict=True)):
            t = min(self.now + time * self.tau, self.latest)
            known = sum(weight * outflow for weight, outflow in zip(row, outflows, strict=False))
            for _ in range(self.stepper.order):
                correction, added = self._correct(Y, t)
                rest = self.mesh.volume * (self.rho - Y) - self.tau * (known + row[i] * added)
                Y = self._solve(t, Y, rest=rest)

            rates, entering = self.stepper.find_coefficients(t)
            outflow, _ = rates.outflow(Y, entering)
            outflows.append(outflow + added)
            fluxes.append((scheme.stages[-1, i], (rates, entering), Y))
            weight = self.tau * scheme.stages[-1, i]
            self.correction += weight * correction
            if not self.stepper.closed:
                self.least_crossing += weight * rates.boundary_flux(nothing, entering)
        return Y, fluxes

    def _check(self, high):
        checked, is_good = super()._check(high)
        return np.where(high < 0, FLOOR_DENSITY, checked), is_good

    def _limit_fluxes(self, low, f):
        return super()._limit_fluxes((1 - KEPT_PART) * low, f)

    def _limit(self, high_fluxes):
        mesh = self.mesh
        high_fluxes[: mesh.n_faces] += self.correction
        crossing = high_fluxes[mesh.n_inner : mesh.n_faces]
        np.maximum(crossing, self.least_crossing, out=crossing)  # no negative density leaves
        return super()._limit(high_fluxes)

    def _sum_partner(self):
        """(the sum of the linear fluxes where it is good, else its partner; the fluxes)."""
        linear, fluxes = super()._sum_scheme()
        linear, is_good = self._check(linear)
        if is_good:
            return self._scale_if_closed(linear), self._sum_fluxes(fluxes)
        return super()._sum_partner()
