"""A look ahead: what happens between two recorded times, T apart, before any step is taken.

Coefficients that depend on time are seen at WATCHED times, in some places, the same ones on any
number of ranks. No pulse of length T / 200 falls between these times, unless it is felt in less
than about 1/50 of the domain and at no open boundary. Sums over blocks of cells and over parts of
the boundary make a few signals of what is seen. Where all of these follow parabolas, it is calm,
and a step may be as long as it likes.
"""

import numpy as np
from scipy import sparse

WATCHED = 251  # times: 1.25 of them in each 1/200 of the interval
SCATTER = 0.1  # of the times, in spacings: else periods near one spacing would look slow
# about so many, by chance: in 1/50 of the domain, there is none of them but once in 200 times
WATCHED_CELLS = 256
WATCHED_FACES = 64  # about so many of each open part of the boundary
BLOCKS = 16  # of cells that follow one another in the file
WAVES = 4  # signals of each block, and of each part of the boundary
PARABOLA = (
    1e-2  # largest departure of a signal from a parabola: of what it is there, and of its range
)
FAINT = 1e-6  # part of what is largest that counts as nothing
JUMP_LOOKS = 9  # times at which a short piece is looked at anew,
SHORTEST_LOOK = 2.0**-10  # and the part of a spacing below which it is not: a jump is found to that


class Watch:
    """Signals between two times.

    t (n,), signals (n, n_signals) : what is seen
    """

    def __init__(self, ranks, signals, begin, end):
        """signals(t) : this rank's part of the signals (n_signals, n) at times t (n,); without
        collective calls.
        """
        self.spacing = (end - begin) / WATCHED * (1 + 1e-12)
        scatter = np.random.default_rng(1).uniform(-SCATTER, SCATTER, WATCHED)
        inside = begin + (end - begin) * (np.arange(WATCHED) + 0.5 + scatter) / WATCHED
        self.t = np.concatenate([[begin], inside, [end]])
        self._ranks = ranks
        self._look = signals
        seen = self._seen(self.t)
        self._some = seen.any(axis=1)
        self.signals = seen[self._some].T
        largest = np.abs(self.signals).max(axis=0)
        change = np.ptp(self.signals, axis=0)
        self._allowed = PARABOLA * change
        self._faint = FAINT * largest
        self._is_calm = self._follows_parabolas(slice(None))

    def _seen(self, t):
        """The signals (n_signals, n) at times t (n,) of all ranks. Collective."""
        with self._ranks.raising_together():
            mine = self._look(t)
        return self._ranks.sum(mine)

    def ends(self, begin, end):
        """The ends of pieces of an interval in each of which it is calm."""
        ends = [end]
        while ends:
            if self.is_calm(begin, ends[-1]):
                begin = ends.pop()
                yield begin
            else:
                ends.append((begin + ends[-1]) / 2)

    def is_calm(self, begin, end):
        """Whether every signal follows a parabola from begin to end, and a little beyond; or there
        is no room to tell.
        """
        if self._is_calm or end - begin <= self.spacing:
            return True
        first, last = np.searchsorted(self.t, [begin, end])
        return self._follows_parabolas(slice(max(first - 2, 0), last + 2))

    def is_smooth(self, begin, end):
        """Whether every signal follows a parabola inside a piece that is no longer than the
        spacing, looked at anew.

        Longer pieces are left to `is_calm`; the shortest ones have no room for more than the jump
        itself. Collective.
        """
        length = end - begin
        if self._is_calm or not SHORTEST_LOOK * self.spacing < length <= self.spacing:
            return True
        inside = np.linspace(0, 1, JUMP_LOOKS)
        inside[[0, -1]] = 1e-9, 1 - 1e-9  # coefficients may jump at the ends
        t = begin + length * inside
        return self._follows(t, self._seen(t)[self._some].T)

    def _follows_parabolas(self, some):
        return self._follows(self.t[some], self.signals[some])

    def _follows(self, t, seen):
        """Whether values (n, n_signals) at times t (n,) lie on parabolas through the first, middle
        and last of them.
        """
        three = [0, len(t) // 2, -1]
        a, b, c = t[three]
        basis = np.stack(
            [
                (t - b) * (t - c) / ((a - b) * (a - c)),
                (t - a) * (t - c) / ((b - a) * (b - c)),
                (t - a) * (t - b) / ((c - a) * (c - b)),
            ],
            axis=1,
        )
        departure = np.abs(seen - basis @ seen[three]).max(axis=0, initial=0.0)
        allowed = np.minimum(PARABOLA * np.abs(seen).max(axis=0), self._allowed)
        return bool((departure <= allowed + self._faint).all())


class WatchedFaces:
    """The faces that are watched, and what makes signals of the fluxes through them.

    faces (n,) : of this rank; parts: which of them belong to each open part of the boundary
    waves (n_signals, n) : a signal of scalars is their sum, times a wave in space
    weights (n_signals, n) : a signal of fluxes U_s is that of U_s n_s in some direction: the same
        on any number of ranks, wherever normals point
    """

    def __init__(self, mesh, number, count):
        """number (n_faces,), count : groups of faces, see `group_faces`."""
        n = mesh.n_inner
        near = _chosen(mesh.cell_id, WATCHED_CELLS / mesh.n_cells_global)
        chosen = number >= 0
        chosen[:n] &= near[mesh.left[:n]] | near[mesh.right[:n]]
        sizes = mesh.ranks.sum(np.bincount(number[n:] + 1, minlength=count + 1)[1:])
        for part in range(BLOCKS, count):
            faces = n + np.flatnonzero(number[n:] == part)
            chosen[faces] = _chosen(
                mesh.cell_id[mesh.left[faces]], WATCHED_FACES / max(sizes[part], 1)
            )
        self.faces = np.flatnonzero(chosen)
        self.parts = [np.flatnonzero(number[self.faces] == part) for part in range(BLOCKS, count)]
        self.waves, self.weights = _weights(mesh, self.faces, number[self.faces], count)

    def densities(self, mesh, conditions, t):
        """What the conditions give at the watched faces (n,) at time t; 0 where it does not change."""
        values = np.zeros(len(self.faces))
        for (_, density), part in zip(conditions, self.parts, strict=True):
            if density.depends_on_time:
                values[part] = density(mesh.face_center[:, self.faces[part]], t)
        return values


def group_faces(mesh, parts):
    """The number (n_faces,) of the group of each face: of BLOCKS blocks of cells, then of the parts
    (lists of faces).

    It is -1 on the rest of the boundary, and where another rank counts the face.
    """
    n = mesh.n_inner
    number = np.full(mesh.n_faces, -1)
    lower = np.minimum(mesh.cell_id[mesh.left[:n]], mesh.cell_id[mesh.right[:n]]).astype(np.int64)
    number[:n] = np.where(mesh.face_owned[:n], lower * BLOCKS // mesh.n_cells_global, -1)
    for i, faces in enumerate(parts):
        number[faces] = BLOCKS + i
    return number


def _weights(mesh, faces, group, count):
    """(waves, waves in directions) of `WatchedFaces`."""
    random = np.random.default_rng(1)
    direction, frequency, phase = (
        random.uniform(-1, 1, (WAVES, k)) for k in (mesh.dim, mesh.dim, 1)
    )
    lower, upper = mesh.bounds
    place = (mesh.face_center[:, faces] - lower[:, None]) / (upper - lower)[:, None]
    waves = np.cos(2 * np.pi * (frequency @ place + phase))
    rows = group * WAVES + np.arange(WAVES)[:, None]
    columns = np.broadcast_to(np.arange(len(faces)), rows.shape)
    return [
        sparse.csr_matrix(
            (values.ravel(), (rows.ravel(), columns.ravel())), (count * WAVES, len(faces))
        )
        for values in (waves, waves * (direction @ mesh.normal[:, faces]))
    ]


def _chosen(cell, part):
    """Which cells (by number) are among a *part* of all, taken as if by chance."""
    scattered = (cell.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return scattered < min(part, 1.0) * 2.0**32
