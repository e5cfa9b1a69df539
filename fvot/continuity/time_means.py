"""Means over steps of what changes in time: the face fluxes U, and the densities g of what enters.

What happens between two recorded times, T apart, is watched before steps are taken, and followed
where it changes:

1. *Watch*: signals of the flow at WATCHED_TIMES times, from some faces (`watch`)
2. *Pieces*: a step is bisected until on each piece every signal follows a parabola, or the piece is
   as short as the spacing of the watch. Steps that are that short need no watch
3. *Leaves*: a piece is bisected until the midpoint rule and Simpson's, now on all faces, agree to
   TOL in every block and on every part of the boundary. Simpson's rule, whose weights are positive,
   gives the means. At a jump leaves are 2^-10 of the watch's spacing long

The integral of the rate at which cells are emptied goes along, and says where a step must end. Sums
and maxima over all ranks decide everything: each rank takes the same steps.
"""

from functools import cached_property, partial
from typing import NamedTuple

import numba
import numpy as np

from ..arguments.watch import (
    CELL_BLOCKS,
    FAINT_PART,
    WATCHED_TIMES,
    Watch,
    WatchedFaces,
    group_faces,
)
from ..finite_volume.boundary import evaluate_densities

# largest difference between the rules, relative; Simpson's is several times better than that
TOL = 5e-4
REST = 1e-9  # parts of a cell's volume, moved in a piece, that count as nothing
LEVELS = 10  # bisections of the watch's spacing: a jump is found to 1e-3 of it
BUSY_LOOKS = 48  # at one piece; then it jumps in many places, and is sampled
BUSY_LEVELS = 4  # by so many bisections
NEARLY_FULL = 0.9  # part of what a step may move, with which it may end where a leaf ends


class Look(NamedTuple):
    """What is seen at a time t.

    rate : the largest one at which the fluxes empty a cell
    flow : what is linear in the velocity, see `velocities`; None where it is steady
    entering (2, n_boundary) : |U| g where the flow enters, and |U|; None where nothing depends on
        time
    U (n_faces,) : the fluxes, 0 on walls
    """

    t: float
    rate: float
    flow: np.ndarray | None
    entering: np.ndarray | None
    U: np.ndarray


class Step(NamedTuple):
    """A step of the length tau, and the (first, middle, last) times of the leaves from which its
    means come.
    """

    now: float
    until: float
    tau: float
    leaves: tuple = ()


class Means(NamedTuple):
    """Means over a step: U (n_faces,), `flow` and `entering` as in `Look`."""

    U: np.ndarray
    flow: np.ndarray | None
    entering: np.ndarray | None


class TimeMeans:
    """The means of a flow, and of the densities that conditions give at the boundary.

    conditions : as from `boundary.read_conditions`
    is_wall (n_faces,) : where nothing crosses
    rate(U) : the largest rate at which the fluxes U (n_faces,) empty one of this rank's cells
    crossing (2,) : the largest sums so far, at one time, of |U| on this rank's walls, and on all of
        its faces
    """

    def __init__(self, mesh, flow, conditions, is_wall, rate):
        self.mesh = mesh
        self.flow = flow
        self.conditions = conditions
        self.is_wall = is_wall
        self.rate = rate
        self.densities_change = any(density.depends_on_time for _, density in conditions)
        self.changes = self.densities_change or not flow.steady
        self.crossing = np.zeros(2)
        self._largest_density = 0.0
        self.groups = _Groups(mesh, [mesh.boundary[name] for name, _ in conditions])
        self._interval = (0.0, 0.0)
        self._watch = None
        self._kept = None
        self._given = None
        self._steady = None
        self._steady = self._look(0.0) if flow.steady else None

    @property
    def steady(self):
        """The `Means` of a steady flow, over any step."""
        return Means(self._steady.U, self._steady.flow, None)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def between(self, begin, end):
        """Steps will lie between these times."""
        if self._interval != (begin, end):
            self._interval = (begin, end)
            self._watch = None

    def look(self, t):
        """The `Look` at time t; the last one is kept. Collective."""
        if self._kept is None or self._kept.t != t:
            self._kept = self._look(t)
        return self._kept

    def _look(self, t):
        if self._steady is not None:
            flow, U, rate = None, self._steady.U, self._steady.rate
        else:
            flow = self.flow.at(t)
            U = self._stopped(self.flow.flux(flow))
            rate = self.mesh.ranks.max(self.rate(U))
        return Look(t, rate, flow, self._entering(U, t) if self.changes else None, U)

    def _stopped(self, U):
        """U, and 0 on walls; what crosses these is noted."""
        size = np.abs(U)
        with np.errstate(over="ignore"):  # of a velocity that `ContinuityEquation` refuses
            self.crossing = np.maximum(self.crossing, [size[self.is_wall].sum(), size.sum()])
        return np.where(self.is_wall, 0.0, U)

    def _entering(self, U, t):
        inward = np.maximum(-U[self.mesh.n_inner :], 0.0)
        if self._given is None or self.densities_change:
            self._given = evaluate_densities(self.mesh, self.conditions, t)
        return np.stack([inward * self._given, inward])

    @cached_property
    def watched(self):
        """The faces that are watched. Collective at first."""
        return WatchedFaces(self.mesh, self.groups.number, self.groups.count)

    # ---- steps and their means -----------------------------------------------------------------------------------------

    def march(self, now, until, most=np.inf, aim=np.inf):
        """(`Step`, `Means`) from *now* to *until*, or to where the integral of the rate is about
        *aim* if it would be above *most*. Collective.
        """
        total = _Integral(now)
        first = self.look(now)
        for end in self._ends(now, until):
            for leaf in self._leaves(first, self.look(end)):
                if total.rate + leaf.integral("rate") > most:
                    self._fill(total, leaf, most, aim)
                    return self._made(total)
                total.add(leaf)
            first = leaf.last
        return self._made(total)

    def again(self, step):
        """The `Means` over a step that was made before, the same to the last digit. Collective."""
        total = _Integral(step.now)
        for leaf in step.leaves:
            total.add(_Piece(*map(self.look, leaf)))
        return self._made(total)[1]

    def _fill(self, total, leaf, most, aim):
        """Add as much of the leaf as *aim* leaves room for."""
        while total.rate < NEARLY_FULL * aim:
            first = leaf.first
            part = (aim - total.rate) / leaf.integral("rate")
            cut = first.t + part * leaf.length
            if not first.t < cut < leaf.last.t:
                return
            for leaf in self._leaves(first, self.look(cut)):
                if total.rate + leaf.integral("rate") > most:
                    break
                total.add(leaf)
            else:
                return

    def _made(self, total):
        """(`Step`, `Means`) of an `_Integral`."""
        tau = total.until - total.now
        step = Step(total.now, total.until, tau, tuple(total.leaves))
        if not total.leaves:
            return step, None
        self._kept = total.last
        entering = None if total.entering is None else total.entering / tau
        if total.flow is None:
            return step, Means(self._steady.U, None, entering)
        flow = total.flow / tau
        return step, Means(np.where(self.is_wall, 0.0, self.flow.flux(flow)), flow, entering)

    def _ends(self, now, until):
        """The ends of pieces on each of which the signals are parabolas."""
        if self._watch is None and (self.densities_change or until - now > self._spacing):
            self._watch = self._look_ahead()
        return [until] if self._watch is None else self._watch.ends(now, until)

    def _look_ahead(self):
        """The `Watch` of the interval. Collective."""
        watch = Watch(self.mesh.ranks, partial(self._signals, self.watched), *self._interval)
        self._largest_density = self.mesh.ranks.max(self._largest_density)
        return watch

    def _signals(self, watched, t):
        """This rank's part of the signals (n_signals, n) at the times t (n,); no collective calls."""
        seen = []
        if self._steady is None:
            flux = self.flow.through(watched.faces)
            seen.append(watched.weights @ np.stack([flux(now) for now in t]).T)
        if self.densities_change:
            given = np.stack([watched.densities(self.mesh, self.conditions, now) for now in t])
            self._largest_density = given.max(initial=0.0)
            seen.append(watched.waves @ given.T)
        return np.concatenate(seen)

    @property
    def _spacing(self):
        return (self._interval[1] - self._interval[0]) / WATCHED_TIMES * (1 + 1e-12)

    def _leaves(self, first, last):
        """The parts of a piece between two looks in which the rules agree, from the first to the
        last.
        """
        rest = [self._piece(first, last)]
        allowed = None
        looks = 1
        while rest:
            piece = rest.pop()
            difference, size = self._first_difference(piece)
            allowed = size if allowed is None else allowed
            shortest = self._spacing * 0.5 ** (LEVELS if looks < BUSY_LOOKS else BUSY_LEVELS)
            if piece.length <= shortest or (difference <= allowed).all():
                yield piece
                continue
            halves = self._piece(piece.first, piece.middle), self._piece(piece.middle, piece.last)
            looks += 2
            if (self._second_difference(*halves) <= allowed).all():
                yield from halves
            else:
                rest += halves[::-1]

    def _piece(self, first, last):
        return _Piece(first, self.look((first.t + last.t) / 2), last)

    def _first_difference(self, piece):
        """(difference between midpoint rule and Simpson's, what it may be) in each group."""
        groups = self.groups
        found = []
        if self._steady is None:
            difference, size = groups.first_difference([look.U for look in piece])
            found.append((difference, TOL * size + REST * groups.volume / piece.length))
        if self.densities_change:
            difference, size = groups.first_difference([look.entering[0] for look in piece])
            inward = groups.first_difference([look.entering[1] for look in piece])[1]
            found.append((difference, TOL * size + FAINT_PART * self._largest_density * inward))
        return piece.length * np.concatenate(found, axis=1)

    def _second_difference(self, left, right):
        """Difference between Simpson's rule on a piece and on its halves in each group."""
        groups = self.groups
        looks = (*left, *right[1:])
        found = []
        if self._steady is None:
            found.append(groups.second_difference([look.U for look in looks]))
        if self.densities_change:
            found.append(groups.second_difference([look.entering[0] for look in looks]))
        return (left.length + right.length) * np.concatenate(found)


class _Piece(NamedTuple):
    """Three looks: at the beginning, in the middle, and at the end."""

    first: Look
    middle: Look
    last: Look

    @property
    def length(self):
        return self.last.t - self.first.t

    def integral(self, name):
        """By Simpson's rule; None of what is None."""
        first, middle, last = (getattr(look, name) for look in self)
        return None if first is None else self.length / 6 * (first + 4 * middle + last)


class _Integral:
    """The integrals of rate, flow and entering over leaves, one after the other, from *now* to
    *until*.
    """

    def __init__(self, now):
        self.now = self.until = now
        self.rate = 0.0
        self.flow = None
        self.entering = None
        self.last = None
        self.leaves = []

    def add(self, leaf):
        for name in "rate", "flow", "entering":
            known = getattr(self, name)
            more = leaf.integral(name)
            setattr(
                self, name, more if known is None else known + more if more is not None else None
            )
        self.last = leaf.last
        self.until = leaf.last.t
        self.leaves.append(tuple(look.t for look in leaf))


# ---- groups of faces -----------------------------------------------------------------------------------------------------


class _Groups:
    """Blocks of cells that follow one another in the file, and the open parts of the boundary.

    number (n_faces,) : of the group of each face, the blocks first; -1 on walls, and where another
        rank counts the face
    volume (n_groups,) : the mean volume of a cell, times the number of faces in the group
    """

    def __init__(self, mesh, parts):
        self.mesh = mesh
        self.number = group_faces(mesh, parts)
        self.count = CELL_BLOCKS + len(parts)
        faces = mesh.ranks.sum(np.bincount(self.number + 1, minlength=self.count + 1)[1:])
        self.volume = faces * mesh.ranks.sum(mesh.volume.sum()) / mesh.n_cells_global

    def first_difference(self, looks):
        """(2, n_groups or n_parts): sums of the difference of midpoint rule and Simpson's, and of
        sizes by the latter.

        looks : three times values on all faces, or on those of the boundary
        """
        found = np.zeros((2, self.count))
        _first_difference(*looks, self._numbers(looks), found)
        return self.mesh.ranks.sum(found[:, self._first(looks) :])

    def second_difference(self, looks):
        """The same (n_groups,) or (n_parts,) of the difference of Simpson's rules; five times
        values.
        """
        found = np.zeros(self.count)
        _second_difference(*looks, self._numbers(looks), found)
        return self.mesh.ranks.sum(found[self._first(looks) :])

    def _numbers(self, looks):
        return self.number[len(self.number) - len(looks[0]) :]

    def _first(self, looks):
        return 0 if len(looks[0]) == len(self.number) else CELL_BLOCKS


@numba.njit(cache=True, error_model="numpy")
def _first_difference(a, b, c, number, found):
    for f in range(len(number)):
        group = number[f]
        if group >= 0:
            found[0, group] += abs(a[f] - 2 * b[f] + c[f]) / 6
            found[1, group] += (abs(a[f]) + 4 * abs(b[f]) + abs(c[f])) / 6


@numba.njit(cache=True, error_model="numpy")
def _second_difference(a, b, c, d, e, number, found):
    for f in range(len(number)):
        group = number[f]
        if group >= 0:
            found[group] += abs(a[f] - 4 * b[f] + 6 * c[f] - 4 * d[f] + e[f]) / 12
