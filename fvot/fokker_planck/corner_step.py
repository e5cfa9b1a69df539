"""One step of a Fokker-Planck equation with fluxes to corners: of any length, on any mesh.

The sum of implicit Euler steps (`schemes`) may be negative in a few cells, and so may be the steps
themselves. Cells in debt are settled by their neighbours (`finite_volume.settling`). Should the
free energy then have grown, the density is moved towards the positive sum of two-point steps, which
never lets it grow.
"""

from __future__ import annotations

from ..arguments.types import Array
from ..finite_volume.settling import settle
from .step import MAX_ENERGY_HALVINGS, Step, TwoPointStep


class CornerStep(Step):
    """A `Step` whose values are those of cells and nodes."""

    def _begin(self):
        t = self._find_rung_time(1)
        rates, _ = self.stepper.find_coefficients(t)
        return rates.extend(self.rho)

    def cells(self, values: Array) -> Array:
        """The values (n_cells,) of the cells alone."""
        return values[: self.mesh.n_cells]

    def _take_euler_step(self, start, t):
        return self._solve(t, start)

    def compute_result(self) -> tuple[Array, Array]:
        """(rho, the mass that has left through each boundary face) after the step."""
        high, fluxes = self._sum_scheme()
        crossed = self._find_crossed(fluxes)
        sides = self.stepper.operator.corners.sides
        rho, was_in_debt = settle(self.mesh, sides, self.cells(high))
        rho = self._scale_if_closed(rho)

        grows = self._energy_grows(rho)
        if was_in_debt or grows:
            self.stepper.counts["limited"] += 1
        return (self._lower_energy(rho) if grows else rho), crossed

    def _lower_energy(self, rho):
        """rho, moved towards the step by two-point fluxes until its free energy has not grown."""
        low = self._take_two_point_step()
        for _ in range(MAX_ENERGY_HALVINGS):
            rho = (rho + low) / 2
            if not self._energy_grows(rho):
                return rho
        return low

    def _take_two_point_step(self):
        stepper = self.stepper.find_two_point_stepper()
        step = TwoPointStep(
            stepper, self.rho, self.mass, self.now, self.tau, 1, self.until, self.inside
        )
        return step.find_partner()
