"""One step of a Fokker-Planck equation with fluxes to corners: of any length, on any mesh.

The sum of implicit Euler steps (`schemes`) may be negative in a few cells, and so may be the steps
themselves. What decay took from cells in debt beyond its part in the positive partner of the sum is
given back; the rest of the debts is settled by neighbours (`finite_volume.settling`). Should the
free energy then have grown, the density is moved towards the positive sum of two-point steps, which
never lets it grow.
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..finite_volume.settling import settle
from ..mesh.cell_values import integrate
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
        """(rho, the mass that has left, see `_find_crossed`) after the step."""
        high, fluxes = self._sum_scheme()
        crossed = self._find_crossed(fluxes)
        rho = self.cells(high)
        if self.stepper.signed:
            return rho, crossed

        was_given_back = False
        if self.stepper.operator.reactions and self.stepper.order > 1:
            rho, crossed, was_given_back = self._give_back(rho, crossed)
        sides = self.stepper.operator.corners.sides
        rho, was_in_debt = settle(self.mesh, sides, rho)
        rho = self._scale_if_closed(rho)

        grows = self._energy_grows(rho)
        if was_given_back or was_in_debt or grows:
            self.stepper.counts["limited"] += 1
        return (self._lower_energy(rho) if grows else rho), crossed

    def _give_back(self, rho, crossed):
        """(rho, crossed, whether they were changed): cells in debt get back what they have lost by
        themselves beyond the losses in the partner; where all that is left is debt, the partner.
        """
        mesh = self.mesh
        debt = np.maximum(-mesh.volume * rho, 0)
        if mesh.ranks.max(debt.max(initial=0.0)) == 0:
            return rho, crossed, False

        partner, partner_crossed = self._sum_partner()
        n = mesh.n_faces - mesh.n_inner
        surplus = np.maximum(crossed[n:] - partner_crossed[n:], 0).reshape(2, -1)
        total = surplus.sum(axis=0)
        part = np.divide(np.minimum(debt, total), total, out=np.zeros_like(total), where=total > 0)
        given = part * surplus
        rho = rho + given.sum(axis=0) / mesh.volume
        if integrate(mesh, rho) <= 0:
            return partner, partner_crossed, True
        crossed = crossed.copy()
        crossed[n:] -= given.ravel()
        return rho, crossed, True

    def _sum_partner(self):
        """(the partner of the scheme's sum (n_cells,), what has left, see `_find_crossed`)."""
        partner, fluxes = self._list_partner()
        return self.cells(partner), self._find_crossed(fluxes)

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
