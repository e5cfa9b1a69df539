"""One step of a Fokker-Planck equation: of any length, with exact mass and no negative density.

A step is a sum of implicit Euler steps (`schemes`), each checked (`resolvent`). Where that sum is
negative, or would let the free energy grow, it is limited:

1. high = sum_k c_k Y_k, Y_k = r^k rho; the positive partner low = sum_k c'_k Y_k, with the face
    fluxes of both
2. the difference f of the fluxes is made smaller where it would leave a cell negative: f_s -> R_K
   f_s where f_s leaves K (after Zalesak 1979, one-sided, and only in cells that need it)
3. rho = low - div f / |K| is as conservative as the fluxes, and >= 0; if its free energy has grown,
    it is moved towards low
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from ..finite_volume.implicit_step import ColumnScaleCache, Resolvent
from ..finite_volume.rates import downstream_order
from ..mesh.face_exchange import find_face_exchange
from .schemes import scheme

ROUNDING = 1e-16  # negative mass, relative, that is none
# growth of the free energy, relative to its terms, that is none: a term x log x is rounded by
ENERGY_ROUNDING = 1e-14
# some 4 units of 1e-16, and so are sums of them, however many, that carry along what they lose
SWEEPS = 10  # over the cells that fluxes would leave negative
KEPT = 4  # matrices that stay ready, of steps of different lengths
LARGE = 400_000  # cells, from which on only one does


class Advanced(NamedTuple):
    """What a step has made.

    rho (n_cells,), mass : the density and its mass
    crossed (n_faces - n_inner,) : the mass that has left through each boundary face
    error : what the step misses, as an L1 norm, or None
    """

    rho: np.ndarray
    mass: float
    crossed: np.ndarray
    error: float | None


class Stepper:
    """Steps of the given order for a `DriftDiffusion` operator; keeps the matrices of the last few.

    gibbs (n_cells,) : -log of the Gibbs density of mass 1, if its fluxes are zero; else None
    counts : of solves, iterations and limited steps
    """

    def __init__(self, operator, order, rtol):
        self.operator = operator
        self.order = order
        self.rtol = rtol
        self.mesh = operator.mesh
        self.scheme = scheme(order)
        self.autonomous = operator.steady and operator.boundary_steady
        self._entropies = []
        self._resolvents = {}
        self.column_scales = ColumnScaleCache()
        self._rates = (None, None)
        self._entering = (None, None)
        rates, _ = self.at(0.0)  # what will not do is refused at once
        crossing = (rates.a + rates.b)[self.mesh.n_inner :]
        operator.closed |= operator.steady and self.mesh.ranks.max(crossing.max(initial=0.0)) == 0
        self.gibbs = self._discrete_gibbs()
        self.restart()

    def restart(self):
        """Count from 0."""
        self.counts = dict(limited=0, solves=0, iterations=0)

    def advance(self, rho, mass, now, tau, n_solves, estimate=False, until=math.inf, inside=False):
        """The step from rho (n_cells,) of that mass at time *now*, tau long, as `Advanced`.

        n_solves : how many linear solves with the same matrix are likely to follow; estimate : look
            at the error
        until : where coefficients may jump: what the step does is made of those before; inside :
            its estimate is so, too, which otherwise looks a little beyond the step
        """
        step = _Step(self, rho, mass, now, tau, n_solves, until, inside)
        error = step.error() if estimate else None
        new, crossed = step.result()
        return Advanced(*self._settled(new, crossed, mass), error)

    def _settled(self, rho, crossed, before):
        """(rho, its mass, what crossed the boundary), so that mass = before - sum of crossed to
        round-off.

        The linear solves have left an error of their tolerance. It goes where it is relatively
        smaller: to the density, by a factor, or to the fluxes through the boundary.
        """
        ranks = self.mesh.ranks
        volume = self.mesh.volume
        mass, net, gross = ranks.sum(
            np.array([(volume * rho).sum(), crossed.sum(), np.abs(crossed).sum()])
        )
        if mass >= gross:
            return (
                self._times(rho, (before - net) / mass if mass > 0 else 1.0, mass),
                before - net,
                crossed,
            )
        return rho, mass, crossed + (before - net - mass) * np.abs(crossed) / gross

    def _times(self, rho, factor, mass):
        """factor rho, for rho of that mass; its relative entropy follows from that of rho, where
        that is known.
        """
        scaled = factor * rho
        more = factor * math.log(factor) * mass if factor > 0 else 0.0
        self._entropies += [
            (scaled, (factor * entropy + more, factor * size + abs(more)))
            for known, (entropy, size) in self._entropies
            if known is rho
        ]
        return scaled

    def at(self, t):
        """(rates, the boundary's densities) at time t; the last ones are kept."""
        operator = self.operator
        rates_time = 0.0 if operator.steady else t
        entering_time = 0.0 if operator.boundary_steady else t
        if self._rates[0] != rates_time:
            self._rates = rates_time, operator.rates(rates_time)
        if self._entering[0] != entering_time:
            self._entering = entering_time, operator.entering(entering_time)
        return self._rates[1], self._entering[1]

    def resolvent(self, t, s, n_solves):
        """The `Resolvent` of a step s at time t."""
        t = 0.0 if self.operator.steady else t
        for (time, length), resolvent in self._resolvents.items():
            if time == t and abs(length - s) <= 1e-12 * s and resolvent.names:
                return resolvent.expect(n_solves)
        self._keep(KEPT - 1 if self.operator.steady and self.mesh.n_cells_global <= LARGE else 0)
        self._resolvents[t, s] = Resolvent(
            self.at(t)[0], s, rtol=self.rtol, scales=self.column_scales
        )
        return self._resolvents[t, s].expect(n_solves)

    def _keep(self, count):
        while len(self._resolvents) > count:
            self._resolvents.pop(next(iter(self._resolvents))).destroy()

    def _discrete_gibbs(self):
        phi = self.operator.gibbs() if self.operator.steady else None
        if phi is None:
            return None
        mesh = self.mesh
        n = self.mesh.n_inner
        (rates, _) = self.at(0.0)
        local = mesh.with_ghosts(phi)
        difference = local[mesh.right[:n]] - local[mesh.left[:n]]
        with np.errstate(divide="ignore", invalid="ignore"):
            defect = np.abs(np.log(rates.a[:n] / rates.b[:n]) + difference) / (
                1 + np.abs(difference)
            )
        if mesh.ranks.max(defect[np.isfinite(defect)].max(initial=0.0)) > 1e-9:
            return None
        phi = phi - mesh.ranks.min(phi.min(initial=np.inf))
        return phi + math.log(mesh.integrate(np.exp(-phi)))

    def growth(self, rho, new, mass):
        """By how much sum |K| rho log(rho / pi), the free energy over D, has grown, beyond
        rounding; 0 without a pi.
        """
        if self.gibbs is None or mass == 0:
            return 0.0
        before, rounding = self._relative_entropy(rho)
        after, more = self._relative_entropy(new)
        return max(after - before - ENERGY_ROUNDING * max(rounding + more, mass), 0.0)

    def _relative_entropy(self, rho):
        """(sum |K| rho log(rho / pi), pi the Gibbs density; that of the absolute values); the last
        ones are kept.
        """
        for known, found in self._entropies:
            if known is rho:
                return found
        found = tuple(
            self.mesh.ranks.sum(np.array(_relative_entropy(self.mesh.volume, rho, self.gibbs)))
        )
        self._entropies = [*self._entropies[-1:], (rho, found)]
        return found


class _Step:
    """One step: the ladder Y_k = r^k rho of implicit Euler steps of length g tau, and what is made
    of it.
    """

    def __init__(self, stepper, rho, mass, now, tau, n_solves, until, inside):
        self.stepper = stepper
        self.mesh = stepper.mesh
        self.scheme = stepper.scheme
        self.rho = rho
        self.mass = mass
        self.now = now
        self.tau = tau
        self.n_solves = n_solves
        self.before = np.nextafter(until, now)
        self.inside = inside
        self.ladder = [rho]

    def Y(self, k):
        """r^k rho."""
        while len(self.ladder) <= k:
            self.ladder.append(self._euler(self.ladder[-1], self._rung(len(self.ladder))))
        return self.ladder[k]

    def _rung(self, k):
        t = self.now + k * self.scheme.g * self.tau
        return min(t, self.before) if k == 1 or self.inside else t

    def _euler(self, rho, t):
        def fault(Y):
            scaled.append(self._scaled(Y))
            growth = self.stepper.growth(rho, scaled[-1], self.mass)
            return f"the free energy has grown by {growth:.1e}" if growth else None

        scaled = [rho]
        self._solve(t, rho, fault=fault)
        return scaled[-1]

    def _solve(self, t, start, **more):
        """What the `Resolvent` at time t makes of the start."""
        counts = self.stepper.counts
        resolvent = self.stepper.resolvent(t, self.scheme.g * self.tau, self.n_solves)
        before = resolvent.solves, resolvent.iterations
        try:
            return resolvent(start, self.stepper.at(t)[1], **more)
        finally:
            counts["solves"] += resolvent.solves - before[0]
            counts["iterations"] += resolvent.iterations - before[1]

    def _scaled(self, Y):
        """Y with the mass of the start, where nothing crosses the boundary."""
        if not self.stepper.operator.closed:
            return Y
        mass = self.mesh.integrate(Y)
        return Y * (self.mass / mass) if mass > 0 else Y

    def result(self):
        """(rho, what has crossed each boundary face) after the step."""
        high, fluxes = self._by_powers() if self.stepper.autonomous else self._by_stages()
        if (
            self.stepper.order == 1
        ):  # an implicit Euler step, whose sign and energy have been looked at
            return high, self._crossed(fluxes)
        negative = -self.mesh.integrate(np.minimum(high, 0))
        high = np.maximum(high, 0)
        if negative <= ROUNDING * self.mass and not self.stepper.growth(
            self.rho, self._scaled(high), self.mass
        ):
            return high, self._crossed(fluxes)
        self.stepper.counts["limited"] += 1
        return self._limited(self._sum(fluxes))

    def _by_powers(self):
        """sum_k c_k Y_k, and its fluxes as [(weight, what `Stepper.at` says of its time, density)]."""
        c = self.scheme.c
        b = self.scheme.b
        at = self.stepper.at(self.now)
        high = (
            self.Y(1) if len(c) == 1 else sum(weight * self.Y(k + 1) for k, weight in enumerate(c))
        )
        return high, [(weight, at, self.Y(k + 1)) for k, weight in enumerate(b)]

    def _by_stages(self):
        """The same by the stages of the SDIRK scheme, each with the coefficients of its own time."""
        Y, outflows, fluxes = self.Y(1), [], []
        for i, (row, time) in enumerate(zip(self.scheme.stages, self.scheme.times, strict=True)):
            t = min(self.now + time * self.tau, self.before)
            if i > 0:
                known = sum(
                    weight * outflow for weight, outflow in zip(row, outflows, strict=False)
                )
                Y = self._solve(t, Y, rest=self.mesh.volume * (self.rho - Y) - self.tau * known)
            rates, entering = self.stepper.at(t)
            outflows.append(rates.outflow(Y, entering)[0])
            fluxes.append((self.scheme.stages[-1, i], (rates, entering), Y))
        return Y, fluxes

    def _sum(self, fluxes):
        """tau sum of weight * F(density) (n_faces,) over [(weight, (rates, entering), density)]."""
        return self.tau * sum(
            weight * rates.flux(density, entering) for weight, (rates, entering), density in fluxes
        )

    def _crossed(self, fluxes):
        if self.stepper.operator.closed:
            return np.zeros(self.mesh.n_faces - self.mesh.n_inner)
        return self._sum(fluxes)[self.mesh.n_inner :]

    def _limited(self, high):
        """The partner, and as much of the difference to the fluxes *high* (n_faces,) as stays
        positive and decreases energy.
        """
        mesh = self.mesh
        partner = self.scheme.partner
        partner_b = self.scheme.partner_b
        low = self._scaled(
            sum(weight * self.Y(k + 1) for k, weight in enumerate(partner) if weight)
        )
        low_fluxes = self._sum(
            [
                (weight, self.stepper.at(self._rung(k + 1)), self.Y(k + 1))
                for k, weight in enumerate(partner_b)
            ]
        )
        f = self._harmless(low, high - low_fluxes)
        rho = self._scaled(np.maximum(low - mesh.divergence(f), 0))
        crossed = low_fluxes[mesh.n_inner :]
        f = f[mesh.n_inner :]
        for _ in range(60):
            if not self.stepper.growth(self.rho, rho, self.mass):
                return rho, crossed + f
            rho = (rho + low) / 2
            f = f / 2
        return low, crossed

    def _harmless(self, low, f):
        """The fluxes f (n_faces,), those that leave cells which would be negative made smaller,
        until none is.

        R_K = (|K| low_K + what comes in) / what goes out, where that is below 1. A cell is looked
        at after those that give to it: where f does not run in circles, one sweep does it. At last,
        what comes in is left out, which always does.
        """
        mesh = self.mesh
        sides = self.stepper.operator.pattern.stencil
        content = mesh.volume * low
        f = f.copy()
        order = downstream_order(np.maximum(f, 0), np.maximum(-f, 0), mesh.n_inner, sides)
        for sweep in range(SWEEPS + 1):
            lacking = _limit(f, content, order, sides.start, sides.face, sides.sign, sweep < SWEEPS)
            _take_from_givers(f, mesh)
            if sweep > 0 and mesh.ranks.sum(lacking) <= ROUNDING * self.mass:
                break
        return f

    def error(self):
        """What the step misses, in L1: C tau^(p+1) d^(p+1) rho/dt^(p+1) by the differences of the
        ladder.
        """
        e = sum(weight * self.Y(k + 1) for k, weight in enumerate(self.scheme.error))
        return self.mesh.integrate(np.abs(e))


@numba.njit(cache=True, error_model="numpy")
def _relative_entropy(volume, rho, gibbs):
    total = 0.0
    lost = 0.0
    size = 0.0
    for cell in range(len(rho)):
        term = (
            volume[cell] * rho[cell] * (np.log(rho[cell]) + gibbs[cell]) if rho[cell] > 0 else 0.0
        )
        added = total + term
        lost += (
            (total - added) + term if abs(total) >= abs(term) else (term - added) + total
        )  # Neumaier (1974)
        total = added
        size += abs(term)
    return total + lost, size


@numba.njit(cache=True, error_model="numpy")
def _limit(f, content, order, start, face, sign, with_income):
    """Scale down what leaves each cell, in the given order, to what it holds, with or without what
    comes in.

    Returns what the cells lacked.
    """
    lacked = 0.0
    for cell in order:
        goes = 0.0
        comes = 0.0
        for s in range(start[cell], start[cell + 1]):
            outward = sign[s] * f[face[s]]
            goes += max(outward, 0.0)
            comes -= min(outward, 0.0)
        held = content[cell] + (comes if with_income else 0.0)
        if goes <= held:
            continue
        lacked += goes - held
        for s in range(start[cell], start[cell + 1]):
            if sign[s] * f[face[s]] > 0:
                f[face[s]] *= held / goes * (1 - 1e-15)
    return lacked


def _take_from_givers(f, mesh):
    """On faces between two ranks (and on both copies of periodic ones) the flux is what the giving
    side says.
    """
    n = mesh.n_inner
    theirs = find_face_exchange(mesh)(f, f.copy())
    giver = np.where(f[:n] > 0, mesh.left[:n], mesh.right[:n])
    f[:n] = np.where(giver >= mesh.n_cells, theirs[:n], f[:n])
