"""One step of a Fokker-Planck equation: of any length, with exact mass and no negative density.

A step is a sum of implicit Euler steps (`schemes`), each of them checked
(`finite_volume.implicit_step`). Where that sum is negative, or would let the free energy grow, it
is limited:

1. high = sum_k c_k Y_k, Y_k = r^k rho; the positive partner low = sum_k c'_k Y_k, with the face
    fluxes of both
2. the difference f of the fluxes is made smaller where it would leave a cell negative: f_s -> R_K
   f_s where f_s leaves K (after Zalesak 1979, one-sided, and only in cells that need it). Decay and
   sources are among the fluxes, those of one more face of each cell
3. rho = low - div f / |K| is as conservative as the fluxes, and >= 0; if its free energy has grown,
    it is moved towards low
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..arguments.types import Array
from ..finite_volume.rates import downstream_order
from ..mesh.cell_values import integrate
from ..mesh.face_exchange import find_face_exchange

# Negative mass, relative to the mass of the density, up to which no step is limited: round-off.
NEGATIVE_MASS_ROUNDING = 1e-16

# Sweeps over the cells that fluxes would leave negative. One is enough on one rank, where the
# fluxes do not run in circles; on several, as many as they cross from rank to rank. In circles it
# takes hundreds until all is consistent; the last sweep would cut nearly all of what is not, and
# which that is depends on the order of the cells.
MAX_LIMITER_SWEEPS = 1000

# Halvings of the way from the positive partner, before the partner itself is taken.
MAX_ENERGY_HALVINGS = 60


class Step:
    """One step, made of the ladder Y_k = r^k rho of implicit Euler steps of length g tau.

    What is common to steps with two-point fluxes and with corners. Values of densities are those
    that the resolvent has: of the cells alone, or of cells and nodes.
    """

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
        self.stepper = stepper
        self.mesh = stepper.mesh
        self.scheme = stepper.scheme
        self.rho = rho
        self.mass = mass
        self.now = now
        self.tau = tau
        self.n_solves = n_solves
        self.until = until
        self.latest = np.nextafter(until, now)
        self.inside = inside
        self.ladder = [self._begin()]
        self._outflows: list[Array] = []
        self._stages: list[tuple[float, Any, Array]] = []

    def _begin(self):
        """The values with which the ladder begins."""
        return self.rho

    def cells(self, values: Array) -> Array:
        """The values (n_cells,) of the cells alone."""
        return values

    # ---- implicit Euler steps -------------------------------------------------------------------

    def Y(self, k: int) -> Array:
        """r^k rho."""
        while len(self.ladder) <= k:
            t = self._find_rung_time(len(self.ladder))
            self.ladder.append(self._take_euler_step(self.ladder[-1], t))
        return self.ladder[k]

    def _find_rung_time(self, k):
        """The time at which the coefficients of the k-th rung are taken."""
        t = self.now + k * self.scheme.g * self.tau
        return min(t, self.latest) if k == 1 or self.inside else t

    def _take_euler_step(self, start, t):
        """The values after an implicit Euler step with the coefficients of time t."""
        raise NotImplementedError

    def _solve(self, t, start, **options):
        """The `Resolvent` at time t, applied to the start; its work is counted."""
        counts = self.stepper.counts
        resolvent = self.stepper.find_resolvent(t, self.scheme.g * self.tau, self.n_solves)
        _, entering = self.stepper.find_coefficients(t)
        solves = resolvent.solves
        iterations = resolvent.iterations
        try:
            return resolvent(start, entering, **options)
        finally:
            counts["solves"] += resolvent.solves - solves
            counts["iterations"] += resolvent.iterations - iterations

    def _scale_if_closed(self, Y):
        """Y with the mass of the start, where nothing crosses the boundary.

        Signed densities are left as they are: their mass may be 0, and is corrected at the end.
        """
        if not self.stepper.closed or self.stepper.signed:
            return Y
        mass = integrate(self.mesh, self.cells(Y))
        return Y * (self.mass / mass) if mass > 0 else Y

    def estimate_error(self) -> float:
        """The error of the step in L1: C tau^(p+1) d^(p+1) rho/dt^(p+1) by differences of the
        ladder.
        """
        e = sum(weight * self.Y(k + 1) for k, weight in enumerate(self.scheme.error))
        return integrate(self.mesh, np.abs(self.cells(e)))

    # ---- the scheme's sum -----------------------------------------------------------------------

    def compute_result(self) -> tuple[Array, Array]:
        """(rho, the mass that has left, see `_find_crossed`) after the step."""
        raise NotImplementedError

    def _sum_scheme(self):
        """The scheme's sum, and its fluxes as [(weight, (rates, entering), density)]."""
        return self._sum_powers() if self.stepper.autonomous else self._solve_stages()

    def _energy_grows(self, rho):
        return self.stepper.compute_energy_growth(self.rho, rho, self.mass) > 0

    def _sum_powers(self):
        """sum_k c_k Y_k, and its fluxes as [(weight, (rates, entering), density)]."""
        c = self.scheme.c
        coefficients = self.stepper.find_coefficients(self.now)
        if len(c) == 1:
            high = self.Y(1)
        else:
            high = sum(weight * self.Y(k + 1) for k, weight in enumerate(c))
        fluxes = [(weight, coefficients, self.Y(k + 1)) for k, weight in enumerate(self.scheme.b)]
        return high, fluxes

    def _solve_stages(self):
        """The same by the stages of the SDIRK scheme, each with the coefficients of its time."""
        for i in range(len(self.scheme.times)):
            self.take_stage(i)
        _, _, Y = self._stages[-1]
        return Y, self._stages

    def take_stage(self, i: int) -> None:
        """Take stage number i of the SDIRK scheme after those before it, unless it was taken."""
        if i < len(self._stages):
            return
        scheme = self.scheme
        t = min(self.now + scheme.times[i] * self.tau, self.latest)
        Y = self.Y(1)
        if i > 0:
            _, _, Y = self._stages[-1]
            known = sum(
                weight * outflow
                for weight, outflow in zip(scheme.stages[i], self._outflows, strict=False)
            )
            rest = self.mesh.volume * (self.rho - self.cells(Y)) - self.tau * known
            Y = self._solve(t, Y, rest=rest)
        rates, entering = self.stepper.find_coefficients(t)
        outflow, _ = rates.outflow(Y, entering)
        self._outflows.append(self.cells(outflow))
        self._stages.append((scheme.stages[-1, i], (rates, entering), Y))

    def _list_partner(self):
        """The positive partner, and its fluxes as [(weight, (rates, entering), density)]."""
        scheme = self.scheme
        low = sum(weight * self.Y(k + 1) for k, weight in enumerate(scheme.partner) if weight)
        fluxes = []
        for k, weight in enumerate(scheme.partner_b):
            time = self._find_rung_time(k + 1)
            coefficients = self.stepper.find_coefficients(time)
            fluxes.append((weight, coefficients, self.Y(k + 1)))
        return low, fluxes

    def _find_crossed(self, fluxes):
        """tau sum of weight * (what leaves through each boundary face (n_faces - n_inner,), then
        the losses of cells, see `find_losses`).
        """
        if self.stepper.closed:
            return np.zeros(self.mesh.n_faces - self.mesh.n_inner)
        crossed = sum(
            weight * rates.boundary_flux(density, entering)
            for weight, (rates, entering), density in fluxes
        )
        return np.concatenate([self.tau * crossed, self._sum_losses(fluxes)])

    def _sum_losses(self, fluxes):
        """tau sum of weight * (the losses of cells)."""
        return self.tau * sum(
            weight * rates.find_losses(density, entering)
            for weight, (rates, entering), density in fluxes
        )


class TwoPointStep(Step):
    """A `Step` with two-point fluxes, limited as the module says."""

    def _take_euler_step(self, rho, t):
        scaled = rho

        def find_fault(Y: Array) -> str | None:
            nonlocal scaled
            scaled = self._scale_if_closed(Y)
            growth = self.stepper.compute_energy_growth(rho, scaled, self.mass)
            return f"the free energy has grown by {growth:.1e}" if growth else None

        self._solve(t, rho, fault=find_fault)
        return scaled

    def compute_result(self) -> tuple[Array, Array]:
        """(rho, the mass that has left, see `_find_crossed`) after the step."""
        high, fluxes = self._sum_scheme()
        if self.is_checked:
            return high, self._find_crossed(fluxes)

        high, is_good = self._check(high)
        if is_good:
            return high, self._find_crossed(fluxes)

        self.stepper.counts["limited"] += 1
        return self._limit(self._sum_fluxes(fluxes))

    @property
    def is_checked(self) -> bool:
        """Whether the sum needs no check: it is one implicit Euler step, which has been checked, or
        may have any sign.
        """
        return self.stepper.order == 1 or self.stepper.signed

    def _check(self, high):
        """(high without rounding below 0, whether it has no other negative values and no more
        energy than the start).
        """
        negative = -integrate(self.mesh, np.minimum(high, 0))
        high = np.maximum(high, 0)
        is_positive = negative <= NEGATIVE_MASS_ROUNDING * self.mass
        return high, is_positive and not self._energy_grows(self._scale_if_closed(high))

    def _sum_fluxes(self, fluxes):
        """tau sum of weight * F(density) (n_faces,), then the losses of cells, over [(weight,
        (rates, entering), density)].
        """
        through_faces = sum(
            weight * rates.flux(density, entering) for weight, (rates, entering), density in fluxes
        )
        return np.concatenate([self.tau * through_faces, self._sum_losses(fluxes)])

    # ---- the limiter ----------------------------------------------------------------------------

    def _limit(self, high_fluxes):
        """(rho, the mass that has left, see `_find_crossed`) of the limited step.

        That is the partner, and as much of the difference to the given fluxes, see `_sum_fluxes`,
        as stays positive and decreases the energy.
        """
        n = self.mesh.n_inner
        low, low_fluxes = self._sum_partner()

        f = self._limit_fluxes(low, high_fluxes - low_fluxes)
        rho = self._scale_if_closed(np.maximum(low - self._find_decrease(f), 0))
        crossed = low_fluxes[n:]
        f = f[n:]
        for _ in range(MAX_ENERGY_HALVINGS):
            if not self._energy_grows(rho):
                return rho, crossed + f
            rho = (rho + low) / 2
            f = f / 2
        return low, crossed

    def _find_decrease(self, f):
        """What the fluxes f, see `_sum_fluxes`, take from the density (n_cells,)."""
        mesh = self.mesh
        taken = mesh.divergence(f[: mesh.n_faces])
        losses = f[mesh.n_faces :].reshape(-1, mesh.n_cells)
        return taken + losses.sum(axis=0) / mesh.volume

    def find_partner(self) -> Array:
        """The positive partner (n_cells,) of the scheme's sum."""
        partner, _ = self._sum_partner()
        return partner

    def _sum_partner(self):
        """(the positive partner, its fluxes as of `_sum_fluxes`)."""
        low, fluxes = self._list_partner()
        return self._scale_if_closed(low), self._sum_fluxes(fluxes)

    def _limit_fluxes(self, low, f):
        """The fluxes f, see `_sum_fluxes`, made smaller where they leave a cell that would be
        negative.

        R_K = (|K| low_K + what comes in) / what goes out, where that is below 1. A cell is visited
        after those that give to it, and sweeps go on until every cell has enough. The factors are
        then the largest that are enough, whatever the order and the ranks of the cells. The last
        sweep leaves out what comes in, which is always enough.
        """
        mesh = self.mesh
        sides = self.stepper.operator.pattern.stencil
        content = mesh.volume * low
        f = f.copy()
        forward = np.maximum(f, 0)
        backward = np.maximum(-f, 0)
        order = downstream_order(forward, backward, mesh.n_inner, sides)
        for sweep in range(MAX_LIMITER_SWEEPS + 1):
            with_income = sweep < MAX_LIMITER_SWEEPS
            lacked = _limit_leaving_fluxes(
                f, mesh.n_faces, content, order, sides.start, sides.face, sides.sign, with_income
            )
            _take_from_givers(f, mesh)
            if sweep > 0 and mesh.ranks.sum(lacked) <= NEGATIVE_MASS_ROUNDING * self.mass:
                break
        return f


@numba.njit(cache=True, error_model="numpy")
def _limit_leaving_fluxes(f, n_faces, content, order, start, face, sign, with_income):
    """Scale down what leaves each cell, in the given order, to what it holds.

    Behind the fluxes through n_faces faces stand the losses of cells. with_income : whether what
    comes in counts. Returns what the cells lacked.
    """
    n_cells = len(content)
    lacked = 0.0
    for cell in order:
        outgoing = 0.0
        incoming = 0.0
        for s in range(start[cell], start[cell + 1]):
            outward = sign[s] * f[face[s]]
            outgoing += max(outward, 0.0)
            incoming -= min(outward, 0.0)
        for k in range(n_faces + cell, len(f), n_cells):
            outgoing += max(f[k], 0.0)
            incoming -= min(f[k], 0.0)
        available = content[cell] + (incoming if with_income else 0.0)
        if outgoing <= available:
            continue
        lacked += outgoing - available
        for s in range(start[cell], start[cell + 1]):
            if sign[s] * f[face[s]] > 0:
                f[face[s]] *= available / outgoing * (1 - 1e-15)
        for k in range(n_faces + cell, len(f), n_cells):
            if f[k] > 0:
                f[k] *= available / outgoing * (1 - 1e-15)
    return lacked


def _take_from_givers(f, mesh):
    """Take the flux of the giving side, on faces between two ranks and on both copies of periodic
    ones.
    """
    n = mesh.n_inner
    theirs = find_face_exchange(mesh)(f, f.copy())
    inner = f[:n]
    giver = np.where(inner > 0, mesh.left[:n], mesh.right[:n])
    is_ghost = giver >= mesh.n_cells
    f[:n] = np.where(is_ghost, theirs[:n], inner)
