"""How long the steps of a gradient flow are, such that their errors in time add up to about tol."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..arguments.types import Array
from ..mesh.cell_values import integrate

# The first step that is tried where steps are chosen, as a part of the whole run.
FIRST_STEP_FRACTION = 1e-3

# The largest ratio of a step to the one before it.
MAX_STEP_GROWTH = 2.0

# The part of the longest allowed step that is tried: a margin, as the work of a refused step is
# lost.
STEP_SAFETY = 0.85


class Slope(NamedTuple):
    """The mean derivative (n_cells,) over one of the last steps, and the length of that step."""

    value: Array
    tau: float


class StepControl:
    """Chooses the steps of a run from t[0] to t[-1].

    order : of the steps in time
    tol : the largest error of the run, in L1, relative to the mass
    wish : the length that the next step should have
    error : the estimated one of the steps so far, in L1
    slopes : of the last one or two steps, the newest first
    """

    def __init__(self, mesh: Any, t: Array, order: int, tol: float, mass: float):
        self.mesh = mesh
        self.span = (t[0], t[-1])
        self.order = order
        self.tol = tol
        self.mass = mass
        self.wish = (t[-1] - t[0]) * FIRST_STEP_FRACTION
        self.error = 0.0
        self.slopes: list[Slope] = []

    def choose_step(self, now: float, end: float) -> float:
        """The wished step, or less: *end* is hit, without a very short step at last."""
        left = end - now
        step = self.wish
        if left >= 2 * step:
            return step
        return left if left <= step * (1 + 1e-9) else left / 2

    def judge(self, old: Array, rho: Array, now: float, step: float) -> float | None:
        """The length that the next step may have, after one from old to rho (n_cells,) at time
        *now*; None where that has too large an error. A shorter one is then wished.
        """
        order = self.order
        is_known = len(self.slopes) >= order
        if is_known:
            error = self._estimate_error(old, rho, step)
            allowed = self._allow(now, step)
        else:
            error = integrate(self.mesh, np.abs(rho - old))
            allowed = self.tol ** (1 / order) * self.mass

        factor = STEP_SAFETY * (allowed / error) ** (1 / order) if error > 0 else math.inf
        shortest = self._find_shortest(now, step)
        if error > allowed and step > shortest * (1 + 1e-9):
            self.wish = max(step * max(factor, 0.1), shortest)
            return None

        self.error += error if is_known else 0.0
        return max(step * min(factor, MAX_STEP_GROWTH), shortest)

    def add_slope(self, old: Array, rho: Array, step: float) -> None:
        """Remember the mean derivative over a step that is taken."""
        slope = Slope((rho - old) / step, step)
        self.slopes = [slope, *self.slopes[:1]]

    def _find_shortest(self, now, step):
        """The length below which no step is cut for its error.

        Where cells fill up, derivatives jump, however short the step is.
        """
        if self.order == 2:
            return 0.0
        return self.tol * (now - self.span[0] + step)

    def _estimate_error(self, old, rho, step):
        """The error of the step in L1, from the polynomial through the last mean derivatives.

        The derivative at the middle of the step, extrapolated from those at the middles of the last
        ones, misses a known multiple of the next derivative; the step itself misses another one,
        tau^2 / 2 or tau^3 / 12.
        """
        slope = (rho - old) / step
        last = self.slopes
        if self.order == 1:
            predicted = last[0].value
            share = step / (2 * step + last[0].tau)
        else:
            ahead = (step + last[0].tau) / 2
            behind = (last[0].tau + last[1].tau) / 2
            change = last[0].value - last[1].value
            predicted = last[0].value + ahead / behind * change
            share = step**2 / 6 / (step**2 / 6 + ahead * (ahead + behind))
        return share * step * integrate(self.mesh, np.abs(slope - predicted))

    def _allow(self, now, step):
        """The error that a step may add: its share of what the tolerance leaves.

        By time, or by the logarithm of the time that has passed: the larger one.
        """
        passed = now - self.span[0]
        left = self.span[1] - now
        spare = max(self.tol * self.mass - self.error, 0.1 * self.tol * self.mass)
        return spare * max(step / left, step / (passed + step) / 16)

    # ---- for checkpoints ------------------------------------------------------------------------

    def save(self) -> tuple[Array, dict[str, Any]]:
        """(the slopes (n_slopes, n_cells), values) for a checkpoint."""
        slopes = np.reshape([slope.value for slope in self.slopes], (-1, self.mesh.n_cells))
        lengths = [slope.tau for slope in self.slopes]
        numbers = dict(mass=self.mass, wish=self.wish, error=self.error)
        return slopes, numbers | dict(lengths=lengths)

    def restore(self, slopes: Array, values: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.mass = values["mass"]
        self.wish = values["wish"]
        self.error = values["error"]
        self.slopes = [
            Slope(value, tau) for value, tau in zip(slopes, values["lengths"], strict=True)
        ]
