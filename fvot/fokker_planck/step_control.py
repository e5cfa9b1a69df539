"""How long the steps of a Fokker-Planck run are: equal ones, or as the error in time allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from ..arguments.types import Array
from ..arguments.watch import WATCHED_TIMES, Watch
from ..errors import ConvergenceError, warn
from ..mesh.cell_values import integrate
from .stepper import Advanced, Stepper

# Equal steps since the last look at the error below which a recorded time brings no new one: a look
# costs solves of its own.
STEPS_BETWEEN_LOOKS = 4

# Bisections of an interval between two recorded times before an adaptive run gives up.
MAX_INTERVAL_BISECTIONS = 40

# The part of the allowed error below which the error that a step of twice the length would have, at
# the order of the steps, must stay before steps are doubled. Chosen.
DOUBLING_MARGIN = 0.9

# Steps of one length that are expected to follow, at most: adaptive steps change their length.
# Chosen.
MAX_EXPECTED_STEPS = 16

# The part of the tolerance that is shared out however much of it is used up: without it a run
# could not go on. Chosen.
MIN_SPARE = 0.01

# Growths of the time that has passed by the factor e that use up the whole tolerance where steps
# grow with that time: e^16 is 1e7. Chosen.
TOLERATED_E_FOLDINGS = 16

# The smallest part of the derivative that a step is taken to keep, for the rate at which it fades;
# and the part of the error that fades in the first step, before this rate is known. Chosen.
MIN_KEPT_PART = 1e-3
FIRST_FADED_PART = 0.5

# The smallest allowed error, relative to the error of a step: it bounds the halvings at once by
# some 30. Chosen.
MIN_ALLOWED_PART = 1e-9

# The error in time, relative to the mass, from which runs with growth and given steps warn.
LARGE_TIME_ERROR = 0.1

# Relative tolerance of the step that predicts how much mass a run will have: only its size counts.
PREDICTION_TOLERANCE = 1e-3

# Simpson's rule between two times: (place, weight). Its ends lie just inside, as coefficients may
# jump at the times themselves.
SIMPSON_RULE = ((1e-9, 1 / 6), (0.5, 2 / 3), (1 - 1e-9, 1 / 6))


class MemberState:
    """A density of a run and its mass, what came and went, and the error in time as an L1 norm.

    A step misses tau^(p+1) times a derivative of rho of order p + 1, and this derivative moves as
    rho itself does. Hence the sum of what earlier steps have missed is, now, the present derivative
    times the sum of their tau^(p+1): one look tells the error of the run. It fades as the
    derivative does, at a rate that is averaged over the last steps; where mass is born it may grow
    as the derivative does, at most as the mass. Where growth changes in time, derivatives fall and
    rise with it, and the error does not fade faster than the mass.

    rho (n_cells,), mass, size : the density, in the order of the run's mesh, its mass and its L1
        norm
    exchanged : this rank's part of what came and went since the start, by names as in the ledger:
        the sum, and what its rounding has lost
    scale : the largest L1 norm so far, or to come
    error, derivative, fading : as above
    size_at_look : the L1 norm at the last look at the error
    """

    def __init__(self, rho: Array, mass: float, size: float, exchanged: dict[str, float]):
        self.rho = rho
        self.mass = mass
        self.size = size
        self.exchanged = {name: (start, 0.0) for name, start in exchanged.items()}
        self.scale = size

        self.error = 0.0
        self.derivative = 0.0
        self.fading = 0.0
        self.size_at_look = size

    @classmethod
    def restore(cls, rho: Array, values: dict[str, Any], is_root: bool) -> MemberState:
        """The state that a checkpoint holds; what came and went counts on rank 0."""
        state = cls(rho, 0.0, 0.0, {})
        vars(state).update(values)
        if not is_root:
            state.exchanged = dict.fromkeys(state.exchanged, (0.0, 0.0))
        return state

    def build_next(self, made: Advanced) -> MemberState:
        """The state one step later."""
        new = copy(self)
        new.rho = made.rho
        new.mass = made.mass
        new.size = made.size
        new.exchanged = {
            name: _add(*known, made.exchanged[name]) for name, known in self.exchanged.items()
        }
        new.scale = max(self.scale, made.size)
        return new

    def look_at(self, derivative: float, step: float, powers: float, growth_changes: bool) -> None:
        """Take the present derivative, as seen in the last step.

        powers : the sum of tau^(p+1) since the last look
        growth_changes : whether growth depends on time
        """
        size_ratio = self.size / self.size_at_look if self.size_at_look > 0 else 1.0
        may_grow = "born" in self.exchanged or "grown" in self.exchanged
        largest = max(1.0, size_ratio) if may_grow else 1.0
        kept = min(largest, derivative / self.derivative) if self.derivative > 0 else 1.0
        if growth_changes:
            kept = max(kept, size_ratio)
        self.error = kept * self.error + derivative * powers
        self.fading = (self.fading - math.log(max(kept, MIN_KEPT_PART)) / step) / 2
        self.derivative = derivative
        self.size_at_look = self.size


class RunState:
    """The densities of a run, all at one time, and its steps.

    members : a `MemberState` for each density
    steps, step : the number of steps so far, and the length of the last one
    powers_since_look, steps_since_look : the sum of tau^(p+1), and the number of steps, since the
        last look at the error
    growth_changes : whether growth depends on time
    halvings, steps_done : how often the interval between two recorded times is halved into steps,
        and the steps taken in it
    """

    def __init__(self, members: list[MemberState], step: float, growth_changes: bool = False):
        self.members = members
        self.growth_changes = growth_changes
        self.steps = 0
        self.step = step
        self.powers_since_look = 0.0
        self.steps_since_look = 0

        self.halvings = 0
        self.steps_done = 0

    def build_next(self, made: Sequence[Advanced], step: float, order: int) -> RunState:
        """The state one step later."""
        new = copy(self)
        new.members = [
            member.build_next(one) for member, one in zip(self.members, made, strict=True)
        ]
        new.steps += 1
        new.step = step
        new.steps_done += 1

        power = step ** (order + 1)
        new.powers_since_look += power
        new.steps_since_look += 1
        errors = [one.error for one in made if one.error is not None]
        if not errors:
            return new
        for member, error in zip(new.members, errors, strict=True):
            member.look_at(error / power, step, new.powers_since_look, self.growth_changes)
        new.powers_since_look = 0.0
        new.steps_since_look = 0
        return new


def _add(total, lost, more):
    """(total + more, lost + what the addition loses), after Neumaier (1974)."""
    added = total + more
    if abs(total) >= abs(more):
        return added, lost + ((total - added) + more)
    return added, lost + ((more - added) + total)


def _find_worst(made, allowed):
    """(error, what it may be) of the step whose error is the largest in terms of that."""
    tiny = float(np.finfo(float).tiny)
    parts = [one.error / max(limit, tiny) for one, limit in zip(made, allowed, strict=True)]
    i = int(np.argmax(parts))
    return made[i].error, allowed[i]


class StepControl:
    """Chooses the steps that a `Stepper` takes through the times t.

    tol : largest error in time of the whole run, relative to the L1 norm
    """

    def __init__(self, stepper: Stepper, t: Array, tol: float):
        self.stepper = stepper
        self.operator = stepper.operator
        self.mesh = stepper.mesh
        self.order = stepper.order
        self.t = t
        self.tol = tol

    # ---- equal steps ----------------------------------------------------------------------------

    def take_equal_steps(
        self, state: RunState, begin: float, end: float, tau: float
    ) -> Iterator[tuple[RunState, float]]:
        """Steps of at most tau from begin to end; yields the state and the time after each.

        The last one is looked at for its error, unless there were only a few since the last look.
        """
        count, step = self.divide(begin, end, tau)
        n_solves = count * self.order

        for i in range(state.steps_done, count):
            is_due = state.steps_since_look >= STEPS_BETWEEN_LOOKS or end == self.t[-1]
            estimate = i == count - 1 and is_due
            now = begin + i * step
            starts = [(member.rho, member.mass) for member in state.members]
            made = self.stepper.advance(starts, now, step, n_solves, estimate, end)
            state = state.build_next(made, step, self.order)
            yield state, begin + (i + 1) * step

        if end == self.t[-1]:
            self._warn_of_fast_growth(state, step)

    def _warn_of_fast_growth(self, state, step):
        """Warn if mass grows so fast that steps of this length have missed much of it."""
        tiny = float(np.finfo(float).tiny)
        error = max(member.error / max(member.scale, tiny) for member in state.members)
        if self.stepper.bears and error > LARGE_TIME_ERROR and self.mesh.ranks.is_root:
            warn(
                f"mass grows so fast that steps of {step:.3g} miss some {error:.2g} times the mass "
                'at the end, see ledger["time_error"]: leave out tau, or give a smaller one'
            )

    def divide(self, begin: float, end: float, tau: float) -> tuple[int, float]:
        """(number, length) of equal steps of at most tau from begin to end. Collective.

        Warns of coefficients that change within them.
        """
        longest = min(tau, self.stepper.find_longest_step(begin, end))
        count = math.ceil((end - begin) / longest * (1 - 1e-12))
        step = (end - begin) / count
        self._warn_of_missed_changes(begin, step, count)
        return count, step

    def _warn_of_missed_changes(self, begin, step, count):
        """Warn, once for each pair of recorded times, of coefficients that change within steps."""
        if count > WATCHED_TIMES or self.stepper.autonomous:
            return  # steps that are shorter than the spacing of the watch miss nothing it sees

        watch = self.operator.watch(begin, begin + count * step)
        rough = []
        for i in range(count):
            step_begin = begin + i * step
            step_end = begin + (i + 1) * step
            if not watch.is_calm(step_begin, step_end):
                rough.append(i)
        if rough and self.mesh.ranks.is_root:
            warn(
                f"a time-dependent coefficient changes within {len(rough)} of the {count} steps "
                f"from t = {begin:.6g}, which sample it at {self.order} times each: leave out "
                "tau, give a smaller one, or include the times of pulses and jumps in t"
            )

    # ---- adaptive steps -------------------------------------------------------------------------

    def take_adaptive_steps(
        self, state: RunState, begin: float, end: float
    ) -> Iterator[tuple[RunState, float]]:
        """Steps that keep the error in time below tol; yields the state and the time after each.

        They are (end - begin) / 2^halvings long and aligned, so that few matrices are needed.
        """
        length = end - begin
        watch = self.operator.watch(begin, end)
        longest = self.stepper.find_longest_step(begin, end)
        if state.steps_done == 0:
            step = min(state.step, longest)
            state.halvings = max(0, math.ceil(math.log2(length / step) - 1e-9))

        while state.steps_done < 2**state.halvings:
            self._halve_until_calm(state, watch, begin, length)
            halvings = state.halvings
            done = state.steps_done
            step = length / 2**halvings
            now = begin + done * length / 2**halvings
            left = self.t[-1] - begin - done * step

            made, error, allowed = self._try_step(state, watch, now, step, left, end)
            if error > allowed:
                self._refine(state, error, allowed, length, now)
                continue

            state = state.build_next(made, step, self.order)
            is_small = error * 2**self.order < DOUBLING_MARGIN * allowed
            is_small = is_small and 2 * step <= longest
            if is_small and state.steps_done % 2 == 0 and halvings > 0:
                state.halvings = halvings - 1
                state.steps_done = state.steps_done // 2
            yield state, begin + (done + 1) * step

    def _try_step(self, state, watch, now, step, left, end):
        """(the step of each density as `Advanced`; the error, and what it may be, of the density
        that needs the shortest steps).
        """
        n_solves = (self.order + 2) * min(2**state.halvings - state.steps_done, MAX_EXPECTED_STEPS)
        members = state.members
        starts = [(member.rho, member.mass) for member in members]
        advance = partial(self.stepper.advance, starts, now, step, n_solves, estimate=True)
        made = advance(until=end)
        allowed = []
        for member, one in zip(members, made, strict=True):
            member.scale = max(member.scale, one.size)
            fading = member.fading if state.steps else None
            allowed.append(self._allow(member, fading, step, now - self.t[0], left))

        error, limit = _find_worst(made, allowed)
        if error > limit and self._may_jump(watch, now + step, step, end):
            # The estimate looks beyond the step: what comes after a jump there does not count.
            made = advance(until=now + step, inside=True)
            error, limit = _find_worst(made, allowed)
        return made, error, limit

    def _refine(self, state, error, allowed, length, now):
        """Halve the steps, as often as their error asks for."""
        ratio = error / max(allowed, MIN_ALLOWED_PART * error)
        more = max(1, math.ceil(math.log2(ratio) / self.order))
        state.halvings = state.halvings + more
        state.steps_done = state.steps_done * 2**more
        if state.halvings > MAX_INTERVAL_BISECTIONS:
            shortest = length / 2**MAX_INTERVAL_BISECTIONS
            raise ConvergenceError(
                f"the tolerance in time requires steps below {shortest:.3g} at t = {now:.6g}: "
                f"give a larger tol than {self.tol:.3g}, or steps with tau="
            )

    def _halve_until_calm(self, state, watch, begin, length):
        """Halve the step until the watched coefficients are calm in it.

        Otherwise a pulse might lie between its stages.
        """
        while watch is not None:
            step = length / 2**state.halvings
            first = begin + state.steps_done * step
            last = begin + (state.steps_done + 1) * step
            if watch.is_smooth(first, last):
                return
            state.halvings = state.halvings + 1
            state.steps_done = 2 * state.steps_done

    def _may_jump(self, watch: Watch, t, step, end):
        """Whether coefficients may jump at the time t, or in the step after it.

        At a recorded time they always may.
        """
        if self.stepper.autonomous:
            return False
        if t + step > end * (1 - 1e-12):
            return True
        first = t - step / 2
        last = t + step
        return not watch.is_smooth(first, last)

    def _allow(self, member, fading, step, passed, left):
        """The error in time that a step may add to that of a density: a share of what the
        tolerance leaves. fading : its rate; None for the first step.

        That is the largest of three: its share of the time that is left; its share of the logarithm
        of the time that has passed, since most runs begin with something fast; and the part of the
        error that fades during the step.
        """
        faded = FIRST_FADED_PART if fading is None else 1 - math.exp(-fading * step)
        whole = self.tol * member.scale
        spare = max(whole - (1 - faded) * member.error, MIN_SPARE * self.tol * member.scale)
        return spare * max(step / left, step / (passed + step) / TOLERATED_E_FOLDINGS, faded)

    def predict_sizes(self, densities: Sequence[Array]) -> list[float]:
        """About the L1 norms at the end of the run, where more may enter or be added; else 0.

        They are those after one implicit step over the whole run from each density. Of a domain
        that is empty at first nothing else is known against which an error is small. The density
        that enters is a mean over time: a short pulse must not count as if it lasted for the whole
        run.
        """
        if self.operator.has_walls_only and not self.operator.reactions.has_source:
            return [0.0 for _ in densities]

        mesh = self.mesh
        t = self.t
        whole = t[-1] - t[0]
        entering = self._average_entering()
        largest = mesh.ranks.max(np.abs(entering).max(initial=0.0)) * integrate(mesh, 1.0)
        has_source = self.operator.reactions.has_source
        # Others are as full as the inflow can make them.
        may_fill = [has_source or largest > self.stepper.find_size(rho) for rho in densities]
        if not any(may_fill):
            return [0.0 for _ in densities]

        rates, _ = self.stepper.find_coefficients(t[-1])
        step = min(whole, self.stepper.find_longest_step(t[0], t[-1], stage=1.0))
        resolvent = self.operator.resolvent(
            rates,
            step,
            scales=self.stepper.column_scales,
            rtol=PREDICTION_TOLERANCE,
            signed=self.stepper.signed,
        )
        resolvent.expect(len(densities))
        sizes = [0.0 for _ in densities]
        with suppress(ConvergenceError):
            for i, rho in enumerate(densities):
                if may_fill[i]:
                    after = resolvent(rates.extend(rho), entering)
                    sizes[i] = self.stepper.find_size(after[: mesh.n_cells])
        resolvent.destroy()
        return sizes

    def _average_entering(self):
        """The means over the run of what enters: densities at the boundary, and sources."""
        t = self.t
        if self.operator.entering_steady:
            return self.operator.entering(t[0])
        whole = t[-1] - t[0]
        return sum(
            weight * length / whole * self.operator.entering(begin + place * length)
            for begin, length in zip(t, np.diff(t))
            for place, weight in SIMPSON_RULE
        )
