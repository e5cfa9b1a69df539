"""Means over steps of what changes in time: the face fluxes U, and the densities g that enter.

The flow between two recorded times is watched before steps are taken, and followed where it
changes:

1. *Watch*: signals of the flow at WATCHED_TIMES times, from some faces (`arguments.watch`)
2. *Pieces*: a step is bisected until on each piece every signal follows a parabola, or the piece is
   as short as the spacing of the watch. Shorter steps need no watch
3. *Leaves*: a piece is bisected until the midpoint rule and Simpson's, now on all faces, agree to
   RULE_TOLERANCE in every block and on every part of the boundary. Simpson's rule, whose weights
   are positive, gives the means. At a jump leaves are 2^-10 of the watch's spacing long

The integral of the rate at which cells are emptied is found at the same time, and says where a step
must end. Sums and maxima over all ranks decide everything: each rank takes the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, BoolArray, IntArray
from ..arguments.watch import (
    CELL_BLOCKS,
    FAINT_PART,
    Watch,
    WatchedFaces,
    find_spacing,
    group_faces,
)
from ..finite_volume.boundary import evaluate_densities
from ..finite_volume.velocity_source import VelocitySource

# The largest difference between the rules, relative. Simpson's rule is several times better.
RULE_TOLERANCE = 5e-4

# The part of a cell's volume that may move in a piece without counting.
NEGLIGIBLE_VOLUME = 1e-9

# Bisections of the watch's spacing: a jump is found to 1e-3 of it.
MAX_LEAF_BISECTIONS = 10

# Looks at one piece after which it is taken to jump in many places, and is only sampled.
MAX_LOOKS = 48

# Bisections of the watch's spacing by which such a piece is sampled.
SAMPLING_BISECTIONS = 4

# The part of what a step may move with which it may end where a leaf ends: to fill it further costs
# looks of its own.
NEARLY_FULL = 0.9


class Look(NamedTuple):
    """The flow at a time t.

    rate : the largest one at which the fluxes empty a cell
    sample : of the `VelocitySource`; None where it is steady
    entering (2, n_boundary) : |U| g where the flow enters, and |U|; None where nothing depends on
        time
    U (n_faces,) : the fluxes, 0 on walls
    """

    t: float
    rate: float
    sample: Array | None
    entering: Array | None
    U: Array


class TimeStep(NamedTuple):
    """A step of length tau from *now* to *until*.

    leaves : the (first, middle, last) times of the leaves from which its means come
    """

    now: float
    until: float
    tau: float
    leaves: tuple = ()


class Means(NamedTuple):
    """Means over a step: U (n_faces,), `sample` and `entering` as in `Look`."""

    U: Array
    sample: Any
    entering: Any


class TimeMeans:
    """The means of a flow, and of the densities that conditions give at the boundary.

    conditions : as from `boundary.read_conditions`
    is_wall (n_faces,) : where nothing crosses
    rate(U) : the largest rate at which the fluxes U (n_faces,) empty one of this rank's cells
    has_changes : whether the flow or a density depends on time
    crossing (2,) : the largest sums so far, at one time, of |U| on this rank's walls, and on all of
        its faces
    """

    def __init__(
        self,
        mesh: Any,
        flow: VelocitySource,
        conditions: list,
        is_wall: BoolArray,
        rate: Callable[[Array], float],
    ):
        self.mesh = mesh
        self.flow = flow
        self.conditions = conditions
        self.is_wall = is_wall
        self.rate = rate
        self.densities_change = any(density.depends_on_time for _, density in conditions)
        self.has_changes = self.densities_change or not flow.steady
        self.crossing = np.zeros(2)
        self._largest_density = 0.0
        self._interval = (0.0, 0.0)
        self._watch: Watch | None = None
        self._last_look: Look | None = None
        self._densities: Array | None = None
        self._steady_look: Look | None = None
        self._steady_look = self._look(0.0) if flow.steady else None

    @cached_property
    def groups(self) -> _Groups:
        """The groups of faces in which rules are compared."""
        return _Groups(self.mesh, [self.mesh.boundary[name] for name, _ in self.conditions])

    @property
    def steady_means(self) -> Means:
        """The `Means` of a steady flow, over any step."""
        look = self._steady_look
        if look is None:
            raise ValueError("the flow is not steady: its means are those over a step")
        return Means(look.U, look.sample, None)

    # ---- looking --------------------------------------------------------------------------------

    def set_interval(self, begin: float, end: float) -> None:
        """Say that steps will lie between these times."""
        if self._interval != (begin, end):
            self._interval = (begin, end)
            self._watch = None

    def look(self, t: float) -> Look:
        """The `Look` at time t; the last one is kept. Collective."""
        if self._last_look is None or self._last_look.t != t:
            self._last_look = self._look(t)
        return self._last_look

    def _look(self, t):
        if self._steady_look is not None:
            sample = None
            U = self._steady_look.U
            rate = self._steady_look.rate
        else:
            sample = self.flow.sample(t)
            U = self._stop_at_walls(self.flow.flux(sample))
            rate = self.mesh.ranks.max(self.rate(U))
        entering = self._compute_entering(U, t) if self.has_changes else None
        return Look(t, rate, sample, entering, U)

    def _stop_at_walls(self, U):
        """U, and 0 on walls; what crosses these is noted."""
        size = np.abs(U)
        with np.errstate(over="ignore"):  # of a velocity that `ContinuityEquation` refuses
            through_walls = size[self.is_wall].sum()
            through_all = size.sum()
            self.crossing = np.maximum(self.crossing, [through_walls, through_all])
        return np.where(self.is_wall, 0.0, U)

    def _compute_entering(self, U, t):
        inward = np.maximum(-U[self.mesh.n_inner :], 0.0)
        if self._densities is None or self.densities_change:
            self._densities = evaluate_densities(self.mesh, self.conditions, t)
        return np.stack([inward * self._densities, inward])

    # ---- steps and their means ------------------------------------------------------------------

    def find_step(
        self, now: float, until: float, limit: float = np.inf, aim: float = np.inf
    ) -> tuple[TimeStep, Means]:
        """(`TimeStep`, `Means`) from *now* to *until*, or to an earlier end. Collective.

        Where the integral of the rate would be above *limit*, it ends where that is about *aim*.
        """
        total = _Integral(now)
        first = self.look(now)
        for end in self._find_ends(now, until):
            for leaf in self._find_leaves(first, self.look(end)):
                if total.rate + leaf.integral("rate") > limit:
                    self._fill(total, leaf, limit, aim)
                    return self._divide(total)
                total.add(leaf)
            first = leaf.last
        return self._divide(total)

    def repeat(self, step: TimeStep) -> Means:
        """The `Means` over a step that was found before, the same to the last digit. Collective."""
        total = _Integral(step.now)
        for leaf in step.leaves:
            total.add(_Piece(*map(self.look, leaf)))
        _, means = self._divide(total)
        return means

    def _fill(self, total, leaf, limit, aim):
        """Add as much of the leaf as *aim* leaves room for."""
        while total.rate < NEARLY_FULL * aim:
            first = leaf.first
            part = (aim - total.rate) / leaf.integral("rate")
            cut = first.t + part * leaf.length
            if not first.t < cut < leaf.last.t:
                return
            for leaf in self._find_leaves(first, self.look(cut)):
                if total.rate + leaf.integral("rate") > limit:
                    break
                total.add(leaf)
            else:
                return

    def _divide(self, total):
        """(`TimeStep`, `Means`) of an `_Integral`."""
        tau = total.until - total.now
        step = TimeStep(total.now, total.until, tau, tuple(total.leaves))
        if not total.leaves:
            return step, None

        self._last_look = total.last
        entering = None if total.entering is None else total.entering / tau
        if total.sample is None:
            return step, Means(self._steady_look.U, None, entering)
        sample = total.sample / tau
        U = np.where(self.is_wall, 0.0, self.flow.flux(sample))
        return step, Means(U, sample, entering)

    # ---- the watch ------------------------------------------------------------------------------

    def _find_ends(self, now, until):
        """The ends of pieces on each of which the signals are parabolas."""
        if self._watch is None and (self.densities_change or until - now > self._spacing):
            self._watch = self._build_watch()
        return [until] if self._watch is None else self._watch.ends(now, until)

    def _build_watch(self):
        """The `Watch` of the interval. Collective."""
        signals = partial(self._compute_signals, self._watched)
        watch = Watch(self.mesh.ranks, signals, *self._interval)
        self._largest_density = self.mesh.ranks.max(self._largest_density)
        return watch

    @cached_property
    def _watched(self):
        """The faces that are watched. The first call is collective."""
        return WatchedFaces(self.mesh, self.groups.number, self.groups.count)

    def _compute_signals(self, watched, t):
        """This rank's part of the signals (n_signals, n) at the times t (n,). Not collective."""
        signals = []
        if self._steady_look is None:
            flux = self.flow.flux_function(watched.faces)
            fluxes = np.stack([flux(now) for now in t])
            signals.append(watched.weights @ fluxes.T)
        if self.densities_change:
            densities = []
            for now in t:
                densities.append(watched.densities(self.mesh, self.conditions, now))

            entering = np.stack(densities)
            self._largest_density = entering.max(initial=0.0)
            signals.append(watched.waves @ entering.T)
        return np.concatenate(signals)

    @property
    def _spacing(self):
        return find_spacing(*self._interval)

    # ---- leaves ---------------------------------------------------------------------------------

    def _find_leaves(self, first, last):
        """The parts of a piece between two looks in which the rules agree, in their order."""
        pieces = [self._build_piece(first, last)]
        allowed = None
        looks = 1
        while pieces:
            piece = pieces.pop()
            difference, size = self._compare_rules(piece)
            allowed = size if allowed is None else allowed
            bisections = MAX_LEAF_BISECTIONS if looks < MAX_LOOKS else SAMPLING_BISECTIONS
            shortest = self._spacing * 0.5**bisections
            if piece.length <= shortest or (difference <= allowed).all():
                yield piece
                continue

            left = self._build_piece(piece.first, piece.middle)
            right = self._build_piece(piece.middle, piece.last)
            looks += 2
            if (self._compare_with_halves(left, right) <= allowed).all():
                yield left
                yield right
            else:
                pieces += [right, left]

    def _build_piece(self, first, last):
        return _Piece(first, self.look((first.t + last.t) / 2), last)

    def _compare_rules(self, piece):
        """(difference between midpoint rule and Simpson's, what it may be) in each group."""
        groups = self.groups
        pairs = []
        if self._steady_look is None:
            difference, size = groups.compare_rules([look.U for look in piece])
            negligible = NEGLIGIBLE_VOLUME * groups.volume / piece.length
            pairs.append((difference, RULE_TOLERANCE * size + negligible))
        if self.densities_change:
            difference, size = groups.compare_rules([look.entering[0] for look in piece])
            _, inward = groups.compare_rules([look.entering[1] for look in piece])
            faint = FAINT_PART * self._largest_density * inward
            pairs.append((difference, RULE_TOLERANCE * size + faint))
        return piece.length * np.concatenate(pairs, axis=1)

    def _compare_with_halves(self, left, right):
        """Difference between Simpson's rule on a piece and on its halves in each group."""
        groups = self.groups
        looks = (*left, *right[1:])
        differences = []
        if self._steady_look is None:
            differences.append(groups.compare_with_halves([look.U for look in looks]))
        if self.densities_change:
            differences.append(groups.compare_with_halves([look.entering[0] for look in looks]))
        return (left.length + right.length) * np.concatenate(differences)


class _Piece(NamedTuple):
    """Three looks: at the beginning, in the middle, and at the end."""

    first: Look
    middle: Look
    last: Look

    @property
    def length(self) -> float:
        return self.last.t - self.first.t

    def integral(self, name: str) -> Any:
        """By Simpson's rule; None where the looks have None."""
        first, middle, last = (getattr(look, name) for look in self)
        return None if first is None else self.length / 6 * (first + 4 * middle + last)


class _Integral:
    """The integrals of rate, sample and entering over adjoining leaves, from *now* to *until*."""

    def __init__(self, now: float):
        self.now = now
        self.until = now
        self.rate = 0.0
        self.sample: Any = None
        self.entering: Any = None
        self.last: Look | None = None
        self.leaves: list[tuple[float, ...]] = []

    def add(self, leaf: _Piece) -> None:
        """Add the integrals over a leaf."""
        self.rate = self.rate + leaf.integral("rate")
        self.sample = _add(self.sample, leaf.integral("sample"))
        self.entering = _add(self.entering, leaf.integral("entering"))
        self.last = leaf.last
        self.until = leaf.last.t
        self.leaves.append(tuple(look.t for look in leaf))


def _add(total, more):
    """total + more, None being nothing so far."""
    return more if total is None else total + more


# ---- groups of faces ----------------------------------------------------------------------------


class _Groups:
    """Blocks of cells that follow one another in the file, and the open parts of the boundary.

    number (n_faces,) : of the group of each face, the blocks first; -1 on walls, and where another
        rank counts the face
    volume (n_groups,) : the mean volume of a cell, times the number of faces in the group
    """

    def __init__(self, mesh: Any, parts: list[IntArray]):
        self.mesh = mesh
        self.number = group_faces(mesh, parts)
        self.count = CELL_BLOCKS + len(parts)
        own_faces = np.bincount(self.number + 1, minlength=self.count + 1)
        faces = mesh.ranks.sum(own_faces[1:])
        total_volume = mesh.ranks.sum(mesh.volume.sum())
        self.volume = faces * total_volume / mesh.n_cells_global

    def compare_rules(self, looks: Sequence[Array]) -> Array:
        """(2, n_groups or n_parts): sums of the difference between midpoint rule and Simpson's, and
        of sizes by the latter.

        looks : three times values on all faces, or on those of the boundary
        """
        sums = np.zeros((2, self.count))
        first, middle, last = looks
        _add_rule_differences(first, middle, last, self._find_numbers(looks), sums)
        return self.mesh.ranks.sum(sums[:, self._find_first_group(looks) :])

    def compare_with_halves(self, looks: Sequence[Array]) -> Array:
        """(n_groups or n_parts,): the same of the difference between Simpson's rule and that on
        halves.

        looks : five times values
        """
        sums = np.zeros(self.count)
        a, b, c, d, e = looks
        _add_half_differences(a, b, c, d, e, self._find_numbers(looks), sums)
        return self.mesh.ranks.sum(sums[self._find_first_group(looks) :])

    def _find_numbers(self, looks):
        return self.number[len(self.number) - len(looks[0]) :]

    def _find_first_group(self, looks):
        return 0 if len(looks[0]) == len(self.number) else CELL_BLOCKS


@numba.njit(cache=True, error_model="numpy")
def _add_rule_differences(a, b, c, number, sums):
    for f in range(len(number)):
        group = number[f]
        if group >= 0:
            sums[0, group] += abs(a[f] - 2 * b[f] + c[f]) / 6
            sums[1, group] += (abs(a[f]) + 4 * abs(b[f]) + abs(c[f])) / 6


@numba.njit(cache=True, error_model="numpy")
def _add_half_differences(a, b, c, d, e, number, sums):
    for f in range(len(number)):
        group = number[f]
        if group >= 0:
            sums[group] += abs(a[f] - 4 * b[f] + 6 * c[f] - 4 * d[f] + e[f]) / 12
