"""The explicit steps of a continuity equation: how long they are, and what crosses the boundary.

Steps are equal where the velocity is steady. Where it changes, each is as long as the integral of
the rate over it allows, see `equation`; `time_means` finds that integral, and the means over the
step that the scheme takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..arguments.times import MAX_STEPS
from ..arguments.types import Array, BoolArray
from ..arguments.watch import find_spacing
from ..errors import ConvergenceError, InputError, warn
from ..finite_volume.boundary import evaluate_densities
from ..finite_volume.cell_fields import Reactions
from ..finite_volume.velocity_source import VelocitySource
from ..mesh import Numbering
from .reactions import ReactionStep
from .scheme import ExplicitScheme
from .time_means import Look, Means, TimeMeans, TimeStep
from .two_point import TwoPointScheme

# The part of the time between two recorded times below which a longest step is too short to go on.
MIN_STEP_FRACTION = 1e-8

# It is too short only if it has shrunk to this part of what it was at the first of the two times.
MIN_STEP_SHRINKAGE = 1e-3

# Looks at the velocity between two times, where it begins so fast that steps may be too many.
LOOKS_FOR_STEP_COUNT = 64

# The rate may grow by this factor during a step that was chosen by the rate at its beginning,
# before the step is shortened.
RATE_GROWTH_TOLERANCE = 1.05

# A velocity crosses the walls if it does so by more than this part of the flow through all faces.
WALL_CROSSING_TOLERANCE = 1e-9


class Advanced(NamedTuple):
    """The result of a step.

    rho (n_cells,) : the density
    left, entered (n_faces - n_inner,) : what left through each boundary face, and what entered
    reacted (2, n_cells) : by how much the density has grown, and what sources have added to it;
        None without such terms
    """

    rho: Array
    left: Array
    entered: Array
    reacted: Array | None


class Stepper:
    """Steps of a scheme for a velocity, on the mesh of a `Numbering`.

    conditions : as from `boundary.read_conditions`
    is_wall (n_faces,) : where nothing crosses
    cfl : the fraction of the scheme's positivity bound that a step takes
    reactions : growth and sources
    """

    def __init__(
        self,
        numbering: Numbering,
        flow: VelocitySource,
        scheme: ExplicitScheme,
        conditions: list,
        is_wall: BoolArray,
        cfl: float,
        reactions: Reactions,
    ):
        mesh: Any = numbering.mesh
        self.numbering = numbering
        self.mesh = mesh
        self.ranks = mesh.ranks
        self.flow = flow
        self.scheme = scheme
        self.conditions = conditions
        self.is_wall = is_wall
        self.cfl = cfl
        self.reactions = reactions
        self._reaction_step = ReactionStep(reactions)

        self._entering = evaluate_densities(numbering.user_mesh, conditions, 0.0)
        self._means = TimeMeans(numbering.user_mesh, flow, conditions, is_wall, scheme.rate)
        self._means.look(0.0)
        self._prepared: Any = None
        self._last_step: TimeStep | None = None
        self._last_means: Means | None = None
        self._has_warned = False

    # ---- the velocity ---------------------------------------------------------------------------

    def face_flux(self, t: float) -> Array:
        """U (n_faces,) at time t, 0 on walls."""
        return np.where(self.is_wall, 0.0, self.flow.flux(self.flow.sample(t)))

    def cell_velocity(self, t: Array) -> Array:
        """Means (n_times, dim, n_cells) of the velocity at the times t, in the user's order.

        Of face fluxes |K| v_K = sum_s U_s (x_s - x_K), which is exact for constant velocities.
        """
        if self.flow.steady:
            velocity = self.numbering.outward(self.flow.cell_velocity(t[0]))
            return np.broadcast_to(velocity, (len(t), *velocity.shape))
        return self.numbering.outward(np.stack([self.flow.cell_velocity(now) for now in t]))

    def warn_of_crossed_walls(self) -> None:
        """Warn, once, if a velocity that crosses walls has been seen. Collective until it has."""
        if self._has_warned:
            return

        across, through = self.ranks.sum(self._means.crossing)
        self._has_warned = across > WALL_CROSSING_TOLERANCE * through
        if self._has_warned and self.ranks.is_root:
            open_parts = {str(name) for name, _ in self.conditions}
            names = [str(name) for name in self.mesh.boundary if str(name) not in open_parts]
            warn(
                f"the velocity crosses the walls ({', '.join(names)}) by {across:.3g} volume per "
                "time; the flux there is set to 0. Name these parts in boundary= (fvot.outflow, "
                "fvot.inflow(density)) to let it through"
            )

    # ---- how long steps are ---------------------------------------------------------------------

    def longest_step(self, t: float) -> float:
        """The step that `cfl` allows with the velocity at time t."""
        rate = self._means.look(t).rate
        return self.cfl / rate if rate > 0 else math.inf

    def choose_steps(
        self,
        begin: float,
        end: float,
        tau: float | None = None,
        done: int = 0,
        now: float | None = None,
    ) -> Iterator[TimeStep]:
        """Each `TimeStep` from begin to end: as few as the bound and *tau* allow.

        They are equal for a steady velocity.

        done, now : how many of them have been taken, and where they ended

        Raises `ConvergenceError` where the velocity grows until the end is out of reach.
        """
        self._means.set_interval(begin, end)
        self._reaction_step.spacing = find_spacing(begin, end)
        if not self.flow.steady:
            yield from self._choose_changing_steps(begin, end, tau, begin if now is None else now)
            return

        count = _count_steps(end - begin, self.longest_step(begin), tau)
        step = (end - begin) / count
        for i in range(done, count):
            yield TimeStep(begin + i * step, begin + i * step + step, step)

    def _choose_changing_steps(self, begin, end, tau, now):
        """The same, as the velocity changes."""
        problem = self._describe_too_many_steps(begin, end)
        if problem is not None:
            raise ConvergenceError(problem)

        shrunk = MIN_STEP_SHRINKAGE * self.longest_step(begin)
        too_short = min(MIN_STEP_FRACTION * (end - begin), shrunk)
        while now < end:
            longest = self.longest_step(now)
            count = _count_steps(end - now, longest, tau)
            until = end if count == 1 else now + (end - now) / count
            step = self._find_positive_step(now, until)
            if step.until < until:
                longest = step.tau
            if now + step.tau == now or longest < too_short:
                raise _build_out_of_reach_error(now, end, step.tau, self.cfl)
            yield step
            now = step.until

    def _find_positive_step(self, now, until):
        """The longest `TimeStep` to *until* or before it that is positive."""
        limit = min(1.0, RATE_GROWTH_TOLERANCE * self.cfl)
        aim = min(self.cfl, 1 / RATE_GROWTH_TOLERANCE)
        step, means = self._means.find_step(now, until, limit, aim)
        if not self.scheme.convex:  # the integral of the rate is then no bound
            while step.tau * self.ranks.max(self.scheme.rate(means.U)) > limit:
                step, means = self._means.find_step(now, now + step.tau / 2, limit, aim)
        self._last_step = step
        self._last_means = means
        return step

    def check_step_count(self, t: Any) -> None:
        """`InputError` where the times t (n,) are out of reach.

        The longest time between two of them is looked at for a steady flow, else the first one.
        """
        i = np.argmax(np.diff(t)) if self.flow.steady else 0
        problem = self._describe_too_many_steps(t[i], t[i + 1])
        self.ranks.check(problem is None, problem)

    def _describe_too_many_steps(self, begin, end):
        """The message where the velocity allows only so short steps that there would be too many.

        None where it does not. A changing velocity that begins fast may soon be slow: it is looked
        at all along. Collective.
        """
        length = float(end - begin)
        look = self._means.look(begin)
        rate = look.rate
        if length / self.cfl * rate > MAX_STEPS and not self.flow.steady:
            rate = min(rate, self._find_mean_rate(begin, end))
        count = length / self.cfl * rate
        if count <= MAX_STEPS:
            return None

        speed = self._find_largest_speed(look)
        return (
            f"the velocity, which is up to {speed:.3g} at t = {begin:.6g}, allows only steps of "
            f"{length / count:.2g}: about {count:.2g} of them from there to t = {end:.6g}, more "
            f"than {MAX_STEPS:.0e}. Are its units those of the mesh and of t? Otherwise give an "
            "earlier end, or a coarser mesh"
        )

    def _find_mean_rate(self, begin, end):
        times = np.linspace(begin, end, LOOKS_FOR_STEP_COUNT + 1)[1:]
        return sum(self._means.look(now).rate for now in times) / LOOKS_FOR_STEP_COUNT

    def _find_largest_speed(self, look: Look):
        area = self.mesh.area
        speeds = np.divide(np.abs(look.U), area, out=np.zeros_like(area), where=area > 0)
        return self.ranks.max(speeds.max(initial=0.0))

    # ---- what steps do --------------------------------------------------------------------------

    def advance(self, rho: Array, step: TimeStep, count: int) -> Advanced:
        """The number *count* of the steps, from rho (n_cells,): growth and sources for half of its
        time before and after the transport.
        """
        if not self.reactions:
            rho, left, entered = self._transport(rho, step, count)
            return Advanced(rho, left, entered, None)

        half = step.tau / 2
        first = self._reaction_step.advance(rho, step.now, half)
        rho, left, entered = self._transport(first.rho, step, count)
        second = self._reaction_step.advance(rho, step.now + half, half)
        self.reactions.check_grown(second.rho, step.until)
        grown = first.grown + second.grown
        added = first.added + second.added
        return Advanced(second.rho, left, entered, np.stack([grown, added]))

    def _transport(self, rho, step, count):
        """(rho after the transport, what left through each boundary face, what entered there)."""
        self._prepare(step)
        if self._means.has_changes and self.conditions:
            self._entering = self._find_mean_density(step)

        rho, crossed = self.scheme.step(rho, self._entering, count)
        left = np.maximum(crossed, 0)
        entered = np.maximum(-crossed, 0)
        if self.flow.steady or not self.conditions:
            return rho, left, entered
        return self._exchange(rho, step, left, entered)

    def apply_adjoint(self, phi: Array, step: TimeStep, spacing: float) -> Array:
        """phi (n_cells,) at the beginning of a step from that at its end, by the step's transpose.

        spacing : as the step from there had it, see `ReactionStep`

        Raises `InputError` unless the flux is a two-point flux.
        """
        scheme = self.find_linear_scheme()
        self._prepare(step)
        if not self.reactions.has_growth:
            return scheme.apply_transpose(self._find_kept_part(step) * phi)

        self._reaction_step.spacing = spacing
        half = step.tau / 2
        phi = self._reaction_step.apply_transpose(phi, step.now + half, half)
        phi = scheme.apply_transpose(self._find_kept_part(step) * phi)
        return self._reaction_step.apply_transpose(phi, step.now, half)

    def find_linear_scheme(self) -> TwoPointScheme:
        """The scheme; `InputError` where what it does depends on the density."""
        if not isinstance(self.scheme, TwoPointScheme):
            raise InputError("adjoint needs a linear flux: make the equation with flux=fvot.upwind")
        return self.scheme

    def _prepare(self, step):
        """Give the scheme the means over the step."""
        key = step.tau if self.flow.steady else step
        if key == self._prepared:
            return
        means = self._find_means(step)
        self.scheme.prepare(means.U, step.tau, lambda: self.flow.velocity(means.sample, means.U))
        self._prepared = key

    def _find_means(self, step):
        """The `Means` over a step; those of the last one are kept."""
        if self.flow.steady:
            return self._means.steady_means
        if step != self._last_step:
            self._last_means = self._means.repeat(step)
            self._last_step = step
        return self._last_means

    def _find_mean_density(self, step):
        """The density (n_boundary,) of all that enters during a step."""
        if self.flow.steady:
            _, means = self._means.find_step(step.now, step.until)
        else:
            means = self._find_means(step)
        mass, volume = means.entering
        return np.divide(mass, volume, out=np.zeros_like(mass), where=volume > 0)

    # ---- boundaries where the flow turns --------------------------------------------------------

    def _exchange(self, rho, step, left, entered):
        """The results of `advance`, after the exchange through faces where the flow turns.

        As much volume leaves there as enters in its place.
        """
        volume = self._find_exchanged_volume(step)
        cell = self.mesh.left[self.mesh.n_inner :]
        if not volume.any():
            return rho, left, entered

        mass_out = volume * rho[cell]
        mass_in = volume * self._entering
        change = np.bincount(cell, mass_in - mass_out, self.mesh.n_cells) / self.mesh.volume
        return np.maximum(rho + change, 0.0), left + mass_out, entered + mass_in

    def _find_kept_part(self, step):
        """The part (n_cells,) of each cell that `_exchange` leaves there; 1 for a steady flow."""
        if self.flow.steady or not self.conditions:
            return 1.0
        cell = self.mesh.left[self.mesh.n_inner :]
        volume = np.bincount(cell, self._find_exchanged_volume(step), self.mesh.n_cells)
        return 1 - volume / self.mesh.volume

    def _find_exchanged_volume(self, step):
        """The volume (n_boundary,) that goes both ways during a step.

        It is what enters beyond what the mean flux lets in. The rate counts it, so that no cell
        gives more than it has.
        """
        means = self._find_means(step)
        _, inward = means.entering
        both_ways = inward - np.maximum(-means.U[self.mesh.n_inner :], 0.0)
        return step.tau * np.where(both_ways > 1e-12 * inward, both_ways, 0.0)


def _build_out_of_reach_error(now, end, step, cfl):
    count = f"{(end - now) / step:.0e}" if step > 0 else "without number"
    rate = f"{cfl / step:.2g}" if step > 0 else "infinity"
    return ConvergenceError(
        f"the velocity allows only steps of {step:.2g} at t = {now}, {count} of them to t = "
        f"{end:.6g}: the largest rate at which a cell is emptied has grown to {rate}. If the "
        "velocity blows up there, end before; if it is a pulse, include its beginning and its "
        "end in t"
    )


def _count_steps(length, longest, tau):
    """The smallest number of equal steps, none longer than the bound and *tau*."""
    bound = min(longest, math.inf if tau is None else tau)
    return max(1, math.ceil(length / bound * (1 - 1e-12)))
