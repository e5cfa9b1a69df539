"""The backward equation: what functions of the state at the end are expected to be, seen earlier.

Steps carry densities forwards, rho -> P rho + what enters. Their transposes carry functions
backwards, with <u, rho> = sum |K| u_K rho_K:

    <f, P rho> = <P^T f, rho>,     P^T = sum_k c_k (r^T)^k,     (|K| + g tau A^T) r^T f = |K| f

with the weights c_k, and g, of the forward steps (`schemes`). Where coefficients depend on time,
the stages mu_i of their SDIRK schemes follow in reverse, with stages a_ij and matrices A_i:

    (|K| + g tau A_p^T) mu_p = |K| f,    (|K| + g tau A_j^T) mu_j = -tau A_j^T sum_(i>j) a_ij mu_i,
    P^T f = sum_i mu_i

What enters through the boundary and by sources, e per time, adds to <f, rho>; in one step

    gained = tau sum_k b_k <e, (r^T)^k f>,     or     tau sum_i sum_(j<=i) a_ij <e_j, mu_i>

All this is computed by increments, A^T f by differences of f: constants stay to the bit where
nothing leaves the mesh.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..arguments.functions import as_floats
from ..arguments.types import Array, ArrayLike
from ..mesh import Numbering
from ..mesh.cell_values import describe_wanted_shape
from ..runs.expectation import Expectation
from .stationary import check_linear
from .step_control import StepControl
from .stepper import Stepper


def carry_backward(
    stepper: Stepper, numbering: Numbering, f: Array, t: Array, tau: float, tol: float
) -> Expectation:
    """The `Expectation` of f (n_cells,) at the last of the times t (n_times,), see
    `FokkerPlanck.backward`. Collective.
    """
    stepper.mesh.ranks.check(
        not stepper.has_corners,
        "the backward equation needs two-point fluxes: the steps with fluxes to corners are not "
        "transposed yet; take scheme='two_point' on a mesh that is orthogonal",
    )
    check_linear(stepper, "the backward equation has no transposed steps")
    stepper.restart()
    control = StepControl(stepper, t, tol)
    steps = BackwardSteps(stepper)
    values = numbering.inward(f)
    gained = 0.0
    n_steps = 0

    def record() -> tuple[Array, dict[str, float]]:
        numbers = dict(gained=gained, steps=n_steps, **stepper.counts)
        del numbers["limited"]
        return numbering.outward(values), numbers

    records = [record()]
    for begin, end in reversed(list(pairwise(t))):
        count, step = control.divide(begin, end, tau)
        for i in reversed(range(count)):
            now = begin + i * step
            values, more = steps.take(values, now, step, end, count * stepper.order)
            gained += more
        n_steps += count
        records.append(record())

    records.reverse()
    u = np.stack([values for values, _ in records])
    numbers = {name: np.array([row[name] for _, row in records]) for name in records[0][1]}
    ranks = stepper.mesh.ranks
    extremes = dict(
        minimum=ranks.min(u.min(axis=1, initial=np.inf)),
        maximum=ranks.max(u.max(axis=1, initial=-np.inf)),
    )
    return Expectation(numbering.user_mesh, t, u, extremes | numbers)


def check_function(mesh: Any, f: ArrayLike) -> Array:
    """Cell values (n_cells,) of any sign; `InputError` on every rank for anything else."""
    with mesh.ranks.raising_together():
        values = np.array(as_floats(f, "f must be an array of numbers"))
    mesh.ranks.check(
        values.shape == (mesh.n_cells,) and np.isfinite(values).all(),
        f"f has shape {values.shape}, or numbers that are not finite; "
        f"{describe_wanted_shape(mesh, values.shape)}",
    )
    return values


class BackwardSteps:
    """The transposes of the steps that a `Stepper` takes; they add to its counts."""

    def __init__(self, stepper: Stepper):
        self.stepper = stepper
        self.mesh = stepper.mesh
        self.scheme = stepper.scheme

    def take(
        self, f: Array, now: float, tau: float, until: float, n_solves: int
    ) -> tuple[Array, float]:
        """(P^T f (n_cells,), what is gained) of the step from *now* to now + tau. Collective.

        until : as of `Stepper.advance`; n_solves : linear solves that are likely to follow
        """
        if self.stepper.autonomous:
            return self._sum_powers(f, now, tau, n_solves)
        return self._sum_stages(f, now, tau, until, n_solves)

    def _sum_powers(self, f, now, tau, n_solves):
        scheme = self.scheme
        change = np.zeros_like(f)
        seen = np.zeros_like(f)
        Y = f
        for weight, flux_weight in zip(scheme.c, scheme.b, strict=True):
            Y = self._solve(now, tau, n_solves, Y)
            change += weight * (Y - f)
            seen += tau * flux_weight * Y
        gained = self._weigh_entering(now, seen)
        return (Y if len(scheme.c) == 1 else f + change), gained

    def _sum_stages(self, f, now, tau, until, n_solves):
        scheme = self.scheme
        latest = np.nextafter(until, now)
        last = len(scheme.times) - 1
        mu: dict[int, Array] = {}
        gained = 0.0
        for j in reversed(range(last + 1)):
            t = min(now + scheme.times[j] * tau, latest)
            rates, _ = self.stepper.find_coefficients(t)
            later = sum((scheme.stages[i, j] * mu[i] for i in mu), np.zeros_like(f))
            if j == last:
                mu[j] = self._solve(t, tau, n_solves, f)
            else:
                outflow, _ = rates.transposed_outflow(later)
                mu[j] = self._solve(t, tau, n_solves, np.zeros_like(f), -tau * outflow)
            gained += self._weigh_entering(t, tau * (later + scheme.stages[j, j] * mu[j]))
        return sum(mu.values()), gained

    def _solve(self, t, tau, n_solves, start, rest: Any = 0.0):
        """The transposed `Resolvent` at time t, applied to the start; its work is counted."""
        counts = self.stepper.counts
        resolvent = self.stepper.find_resolvent(t, self.scheme.g * tau, n_solves)
        solves = resolvent.solves
        iterations = resolvent.iterations
        try:
            return resolvent.transposed(start, rest)
        finally:
            counts["solves"] += resolvent.solves - solves
            counts["iterations"] += resolvent.iterations - iterations

    def _weigh_entering(self, t, u):
        """The sum of u (n_cells,) times what enters each cell per time at time t. Collective."""
        rates, entering = self.stepper.find_coefficients(t)
        out, _ = rates.outflow(np.zeros(self.mesh.n_cells), entering)
        return self.mesh.ranks.sum(-(out * u).sum())
