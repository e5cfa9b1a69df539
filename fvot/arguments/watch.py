"""A look ahead: what happens between two recorded times, T apart, before any step is taken.

Coefficients that depend on time are sampled at WATCHED_TIMES times, in some places, the same ones
on any number of ranks. No pulse of length T / 200 falls between these times, unless it acts on less
than about 1/50 of the domain and on no open boundary. Sums over blocks of cells and over parts of
the boundary make a few signals of the samples. Where all signals follow parabolas, the flow is
calm, and a step may have any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ..parallel import Ranks
from .functions import Function
from .types import Array, IntArray

# Times of the samples between two recorded times: 1.25 of them in each 1/200 of the interval.
WATCHED_TIMES = 251

# Random displacement of these times, in spacings: without it periods near one spacing would look
# slow.
TIME_SCATTER = 0.1

# About as many cells are watched, chosen at random. A region of 1/50 of the domain has none of them
# only once in 200 times.
WATCHED_CELLS = 256

# About as many faces are watched on each open part of the boundary.
WATCHED_FACES = 64

# Blocks of cells that follow one another in the mesh's file.
CELL_BLOCKS = 16

# Signals of each block, and of each part of the boundary.
WAVES_PER_BLOCK = 4

# The largest departure of a signal from a parabola, relative to its size there and to its range.
PARABOLA_TOLERANCE = 1e-2

# The part of the largest value that counts as zero.
FAINT_PART = 1e-6

# Times at which a piece that is shorter than a spacing is sampled again.
RESAMPLED_TIMES = 9

# The shortest piece that is sampled again, in spacings: a jump is located to that accuracy.
SHORTEST_PIECE = 2.0**-10

# The distance of the samples from the ends of such a piece, where coefficients may jump.
END_MARGIN = 1e-9

# The golden ratio's multiplier of Fibonacci hashing (Knuth): it scatters the numbers of cells.
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def find_spacing(begin: float, end: float) -> float:
    """The time between two samples of a `Watch`, about."""
    return (end - begin) / WATCHED_TIMES * (1 + 1e-12)


class Watch:
    """Signals between two times.

    t (n,), signals (n, n_signals) : the times and the samples
    spacing : between two times, about
    """

    def __init__(self, ranks: Ranks, signals: Callable[[Array], Array], begin: float, end: float):
        """signals(t) : this rank's part of the signals (n_signals, n) at times t (n,); without
        collective calls.
        """
        length = end - begin
        random = np.random.default_rng(1)
        scatter = random.uniform(-TIME_SCATTER, TIME_SCATTER, WATCHED_TIMES)
        places = (np.arange(WATCHED_TIMES) + 0.5 + scatter) / WATCHED_TIMES
        self.spacing = find_spacing(begin, end)
        inner_times = begin + length * places
        self.t = np.concatenate([[begin], inner_times, [end]])
        self._ranks = ranks
        self._signals_of_rank = signals

        samples = self._sample(self.t)
        self._is_present = samples.any(axis=1)
        self.signals = samples[self._is_present].T

        signal_range = np.ptp(self.signals, axis=0)
        signal_size = np.abs(self.signals).max(axis=0)
        self._departure_limit = PARABOLA_TOLERANCE * signal_range
        self._faint = FAINT_PART * signal_size
        self._is_calm = self._follow_parabolas(self.t, self.signals)

    def _sample(self, t):
        """The signals (n_signals, n) at times t (n,) of all ranks. Collective."""
        with self._ranks.raising_together():
            own = self._signals_of_rank(t)
        return self._ranks.sum(own)

    def ends(self, begin: float, end: float) -> Iterator[float]:
        """The ends of pieces of an interval that are calm."""
        ends = [end]
        while ends:
            nearest = ends[-1]
            if self.is_calm(begin, nearest):
                begin = ends.pop()
                yield begin
            else:
                middle = (begin + nearest) / 2
                ends.append(middle)

    def is_calm(self, begin: float, end: float) -> bool:
        """Whether every signal follows a parabola from begin to end, and a little beyond; also
        where the piece is too short to tell.
        """
        if self._is_calm or end - begin <= self.spacing:
            return True
        first, last = np.searchsorted(self.t, [begin, end])
        piece = slice(max(first - 2, 0), last + 2)
        return self._follow_parabolas(self.t[piece], self.signals[piece])

    def is_smooth(self, begin: float, end: float) -> bool:
        """Whether every signal follows a parabola from begin to end, also where the piece is too
        short for `is_calm` to tell: there at new samples. The shortest ones may have a jump.
        Collective.
        """
        length = end - begin
        if length > self.spacing:
            return self.is_calm(begin, end)
        if self._is_calm or length <= SHORTEST_PIECE * self.spacing:
            return True
        places = np.linspace(0, 1, RESAMPLED_TIMES)
        places[0] = END_MARGIN
        places[-1] = 1 - END_MARGIN
        t = begin + length * places
        samples = self._sample(t)
        present = samples[self._is_present]
        return self._follow_parabolas(t, present.T)

    def _follow_parabolas(self, t, samples):
        """Whether samples (n, n_signals) at times t (n,) lie on parabolas through the first, middle
        and last of them.
        """
        nodes = [0, len(t) // 2, -1]
        a, b, c = t[nodes]
        basis = np.stack(
            [
                (t - b) * (t - c) / ((a - b) * (a - c)),
                (t - a) * (t - c) / ((b - a) * (b - c)),
                (t - a) * (t - b) / ((c - a) * (c - b)),
            ],
            axis=1,
        )
        parabola = basis @ samples[nodes]
        departure = np.abs(samples - parabola).max(axis=0, initial=0.0)
        size = np.abs(samples).max(axis=0)
        limit = PARABOLA_TOLERANCE * size
        limit = np.minimum(limit, self._departure_limit)
        return bool((departure <= limit + self._faint).all())


class WatchedFaces:
    """The faces that are watched, and the matrices that make signals of the fluxes through them.

    faces (n,) : of this rank
    parts : which of them belong to each open part of the boundary
    waves (n_signals, n) : a signal of scalars is their sum, times a wave in space
    weights (n_signals, n) : a signal of fluxes U_s is that of U_s n_s in some direction: the same
        on any number of ranks, for any direction of the normals
    """

    def __init__(self, mesh: Any, number: IntArray, count: int):
        """number (n_faces,), count : groups of faces, see `group_faces`."""
        n = mesh.n_inner
        watched_share = WATCHED_CELLS / mesh.n_cells_global
        is_near = _choose_cells(mesh.cell_id, watched_share)
        is_watched = number >= 0
        is_left_near = is_near[mesh.left[:n]]
        is_right_near = is_near[mesh.right[:n]]
        is_watched[:n] &= is_left_near | is_right_near

        outer_number = number[n:]
        own_sizes = np.bincount(outer_number + 1, minlength=count + 1)
        sizes = mesh.ranks.sum(own_sizes[1:])
        for part in range(CELL_BLOCKS, count):
            faces = n + np.flatnonzero(outer_number == part)
            cells = mesh.cell_id[mesh.left[faces]]
            share = WATCHED_FACES / max(sizes[part], 1)
            is_watched[faces] = _choose_cells(cells, share)

        self.faces = np.flatnonzero(is_watched)
        groups = number[self.faces]
        self.parts = []
        for part in range(CELL_BLOCKS, count):
            self.parts.append(np.flatnonzero(groups == part))
        self.waves, self.weights = _build_waves(mesh, self.faces, groups, count)

    def densities(self, mesh: Any, conditions: Sequence[tuple[str, Function]], t: float) -> Array:
        """The densities of the conditions at the watched faces (n,) at time t; 0 where they do not
        change.
        """
        values = np.zeros(len(self.faces))
        for (_, density), part in zip(conditions, self.parts, strict=True):
            if density.depends_on_time:
                faces = self.faces[part]
                points = mesh.face_center[:, faces]
                values[part] = density(points, t)
        return values


def group_faces(mesh: Any, parts: Sequence[IntArray]) -> IntArray:
    """The number (n_faces,) of the group of each face: of CELL_BLOCKS blocks of cells, then of the
    parts (lists of faces).

    It is -1 on the rest of the boundary, and where another rank counts the face.
    """
    n = mesh.n_inner
    number = np.full(mesh.n_faces, -1)
    left = mesh.cell_id[mesh.left[:n]]
    right = mesh.cell_id[mesh.right[:n]]
    cell = np.minimum(left, right).astype(np.int64)
    block = cell * CELL_BLOCKS // mesh.n_cells_global
    number[:n] = np.where(mesh.face_owned[:n], block, -1)
    for i, faces in enumerate(parts):
        number[faces] = CELL_BLOCKS + i
    return number


def _build_waves(mesh, faces, group, count):
    """(waves, weights) of `WatchedFaces`."""
    random = np.random.default_rng(1)
    shape = (WAVES_PER_BLOCK, mesh.dim)
    direction = random.uniform(-1, 1, shape)
    frequency = random.uniform(-1, 1, shape)
    phase = random.uniform(-1, 1, (WAVES_PER_BLOCK, 1))

    lower, upper = mesh.bounds
    center = mesh.face_center[:, faces]
    size = upper - lower
    place = (center - lower[:, None]) / size[:, None]
    waves = np.cos(2 * np.pi * (frequency @ place + phase))
    normal = mesh.normal[:, faces]
    weights = waves * (direction @ normal)

    n_faces = len(faces)
    wave_number = np.arange(WAVES_PER_BLOCK)
    rows = group * WAVES_PER_BLOCK + wave_number[:, None]
    columns = np.broadcast_to(np.arange(n_faces), rows.shape)
    index = (rows.ravel(), columns.ravel())
    shape = (count * WAVES_PER_BLOCK, n_faces)
    wave_matrix = sparse.csr_matrix((waves.ravel(), index), shape)
    weight_matrix = sparse.csr_matrix((weights.ravel(), index), shape)
    return wave_matrix, weight_matrix


def _choose_cells(cell, part):
    """Which cells (by number) are among a *part* of all, taken as if at random."""
    product = cell.astype(np.uint64) * HASH_FACTOR
    scattered = product >> np.uint64(32)
    threshold = min(part, 1.0) * 2.0**32
    return scattered < threshold
