"""Cartesian meshes: every rank makes its own block; no rank ever holds the whole.

Cells are numbered in C order over all axes (`u.reshape(shape)[i, j]` has i along x). Ranks stand on
a grid of their own, so that a block has one neighbour on each side of each axis.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..errors import InputError
from .builders import SIDES, box_corners, positive_integer
from .cells import HEXAHEDRON, LINE, QUAD
from .quality import Quality

KINDS = {1: LINE, 2: QUAD, 3: HEXAHEDRON}
CORNERS = {
    1: ((0,), (1,)),
    2: ((0, 0), (1, 0), (1, 1), (0, 1)),
    3: ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
}
COARSEST = 8  # cells along an axis below which no coarser level is made


@dataclass(frozen=True)
class Block:
    """This rank's box of cells in a Cartesian mesh."""

    grid: tuple  # cells of the whole mesh along each axis
    ranks: tuple  # ranks along each axis
    first: tuple  # index of the block's first cell
    shape: tuple  # cells of the block along each axis
    thinnest: tuple  # cells of the thinnest of all blocks along each axis
    periodic: tuple  # per axis
    below: tuple  # rank on the lower side of each axis; None at a wall
    above: tuple
    spacing: np.ndarray  # (dim,) edges of a cell
    faces: tuple  # per axis: numbers of the faces, shape of the block plus one along the axis


def make(ranks, lower, upper, shape, periodic):
    """(part, meta, block): what `Mesh` takes."""
    dim = len(shape)
    lower, upper = box_corners(lower, upper, dim)
    shape = tuple(positive_integer(n, "the number of cells along each axis") for n in shape)
    if np.shape(periodic) not in ((), (dim,)):
        raise InputError(
            f"periodic must be one bool or one for each of {dim} axes, not {periodic!r}"
        )
    if not all(isinstance(p, (bool, np.bool_)) for p in np.ravel(periodic)):
        raise InputError(
            f"periodic must be True or False, or one of them for each axis, not {periodic!r:.60}"
        )
    periodic = tuple(bool(p) for p in np.broadcast_to(periodic, dim))
    if min([n for n, wraps in zip(shape, periodic, strict=True) if wraps], default=3) < 3:
        raise InputError(f"a periodic axis needs at least 3 cells; the mesh has {shape}")
    layout = rank_grid(shape, ranks.size)
    mine = np.unravel_index(ranks.rank, layout)
    cuts = [cut(n, p) for n, p in zip(shape, layout, strict=True)]
    first = tuple(int(cuts[a][mine[a]]) for a in range(dim))
    size = tuple(int(cuts[a][mine[a] + 1]) - first[a] for a in range(dim))
    below, above = zip(
        *[_neighbours(layout, mine, a, periodic[a]) for a in range(dim)], strict=True
    )
    spacing = (upper - lower) / shape
    part, faces, names = _part(
        lower, spacing, shape, periodic, first, size, below, above, layout, cuts
    )
    thinnest = tuple(int(np.diff(c).min()) for c in cuts)
    block = Block(shape, layout, first, size, thinnest, periodic, below, above, spacing, faces)
    return (
        part,
        dict(
            names={name: (i,) for i, name in enumerate(names)},
            quality=_quality(spacing, int(np.prod(shape))),
        ),
        block,
    )


def rank_grid(shape, size):
    """The grid of *size* ranks with the smallest surface between blocks; `InputError` if there are
    too few cells.
    """
    layouts = [
        p
        for p in product(*(_divisors(size) for _ in shape))
        if np.prod(p) == size and all(q <= n for q, n in zip(p, shape, strict=True))
    ]
    if not layouts:
        raise InputError(
            f"{shape} cells cannot be dealt to {size} ranks: use fewer ranks, or a finer mesh"
        )
    return min(layouts, key=lambda p: sum(q / n for q, n in zip(p, shape, strict=True)))


def _divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def cut(n, parts):
    """Where to cut n cells into *parts*: at multiples of a power of two, so that coarser levels are
    not cut.
    """
    step = 1
    while n % (2 * step) == 0 and n // (2 * step) >= COARSEST * parts:
        step *= 2
    return np.arange(parts + 1) * (n // step) // parts * step


def _neighbours(layout, mine, axis, periodic):
    found = []
    for side in (-1, 1):
        other = list(mine)
        other[axis] += side
        inside = 0 <= other[axis] < layout[axis]
        other[axis] %= layout[axis]
        found.append(int(np.ravel_multi_index(other, layout)) if inside or periodic else None)
    return found


def _part(lower, spacing, grid, periodic, first, size, below, above, layout, cuts):
    dim = len(grid)
    n_cells = int(np.prod(size))
    index = np.stack(
        np.meshgrid(*[f + np.arange(n) for f, n in zip(first, size, strict=True)], indexing="ij")
    )
    inside = np.arange(n_cells).reshape(size)
    ghosts, padded = _ghosts(inside, index, grid, below, above)
    center = lower[:, None] + (index.reshape(dim, -1) + 0.5) * spacing[:, None]
    inner = []
    walls = []
    corner = _Corners(
        lower,
        spacing,
        first,
        size,
        [wraps and f + n == m for wraps, f, n, m in zip(periodic, first, size, grid, strict=True)],
    )
    numbers = []
    count = 0
    for axis in range(dim):
        low, high = _beside(padded, axis, slice(None, -1)), _beside(padded, axis, slice(1, None))
        real = (low >= 0) & (high >= 0)
        number = np.full(low.shape, -1)
        number[real] = count + np.arange(real.sum())
        count += int(real.sum())
        inner.append(
            _faces(
                axis, np.argwhere(real).T, low[real], high[real], first, lower, spacing, corner, +1
            )
        )
        numbers.append(number)
    names = [
        name for name, wraps in zip(SIDES[dim], np.repeat(periodic, 2), strict=True) if not wraps
    ]
    ends = [0, count]
    for side, name in enumerate(SIDES[dim]):
        if name not in names:
            continue
        axis = side // 2
        upper_side = side % 2
        if (above if upper_side else below)[axis] is None:
            layer = (slice(None),) * axis + (-1 if upper_side else 0,)
            at = np.argwhere(np.ones(inside[layer].shape, bool)).T
            at = np.insert(at, axis, size[axis] if upper_side else 0, axis=0)
            cells = inside[layer].ravel()
            numbers[axis][layer] = count + np.arange(len(cells)).reshape(inside[layer].shape)
            count += len(cells)
            walls.append(
                _faces(
                    axis,
                    at,
                    cells,
                    np.full(len(cells), -1),
                    first,
                    lower,
                    spacing,
                    corner,
                    1 if upper_side else -1,
                )
            )
        ends.append(count)
    faces = {key: np.concatenate([f[key] for f in inner + walls], axis=-1) for key in inner[0]}
    part = dict(
        cell_id=np.concatenate(
            [np.ravel_multi_index(index.reshape(dim, -1), grid), np.ravel_multi_index(ghosts, grid)]
        ),
        ghost_owner=_owner(ghosts, layout, cuts),
        volume=np.full(n_cells, np.prod(spacing)),
        center=center,
        centroid=center,
        **faces,
        boundary_ends=np.array(ends),
        levels=_levels(index, grid),
        points=corner.points(),
        kind=np.full(n_cells, KINDS[dim], np.uint8),
        start=np.arange(n_cells + 1) * 2**dim,
        corners=corner.of_cells(),
    )
    return part, tuple(numbers), names


def _ghosts(inside, index, grid, below, above):
    """Ghost cells (dim, n) beyond the sides with neighbours, and local cell numbers padded by one
    layer (-1: none).
    """
    dim = inside.ndim
    padded = np.pad(inside, 1, constant_values=-1)
    ghosts = []
    count = inside.size
    for axis in range(dim):
        for neighbour, layer, end, shift in ((below[axis], 0, 0, -1), (above[axis], -1, -1, 1)):
            if neighbour is None:
                continue
            take = (slice(None),) * axis + (end,)
            cells = index[(slice(None), *take)].copy()
            cells[axis] = (cells[axis] + shift) % grid[axis]
            put = tuple(layer if a == axis else slice(1, -1) for a in range(dim))
            padded[put] = count + np.arange(inside[take].size).reshape(inside[take].shape)
            ghosts.append(cells.reshape(dim, -1))
            count += inside[take].size
    return np.concatenate(ghosts or [np.empty((dim, 0), int)], axis=1), padded


def _beside(padded, axis, part):
    return padded[tuple(part if a == axis else slice(1, -1) for a in range(padded.ndim))]


def _faces(axis, at, left, right, first, lower, spacing, corner, direction):
    """Arrays of the faces normal to *axis* whose lattice index in the block is *at* (dim, n)."""
    dim, n = at.shape
    half = np.full(n, spacing[axis] / 2)
    along = np.eye(dim)[axis][:, None]
    place = at + np.array(first)[:, None]
    place[axis, corner.wrapped(axis, at)] = 0
    center = (place + 0.5 * (1 - along)) * spacing[:, None] + lower[:, None]
    offset = np.repeat(along * direction * spacing[axis] / 2, n, axis=1)
    return dict(
        left=left,
        right=right,
        area=np.full(n, np.prod(spacing) / spacing[axis]),
        normal=np.repeat(along * float(direction), n, axis=1),
        face_center=center,
        left_distance=half,
        right_distance=np.where(right >= 0, half, 0.0),
        left_offset=offset,
        right_offset=-offset,
        vertices=corner.of_faces(axis, at, direction),
    )


def point_numbers(block):
    """The numbers of the points of a block, which no periodic axis wraps around, among all of the
    mesh, in C order.
    """
    ranges = [first + np.arange(n + 1) for first, n in zip(block.first, block.shape, strict=True)]
    place = np.stack(np.meshgrid(*ranges, indexing="ij")).reshape(len(ranges), -1)
    return np.ravel_multi_index(place, [n + 1 for n in block.grid])


class _Corners:
    """The lattice of the block's corner points.

    A face where the mesh wraps around is seen from both ends of the domain. Both sides must see it
    at the same place, or its flux would be two numbers: the points of such faces at the upper end
    are copies of those at the lower end.
    """

    def __init__(self, lower, spacing, first, size, wraps):
        self.lower = lower
        self.spacing = spacing
        self.first = np.array(first)
        self.size = size
        self.wraps = wraps
        self.shape = tuple(n + 1 for n in size)

    def wrapped(self, axis, at):
        """Which of the lattice places *at* (dim, n) are faces at the upper end of an axis that
        wraps around.
        """
        return self.wraps[axis] & (at[axis] == self.size[axis])

    def points(self):
        """The lattice, then one plane of copies for each axis that wraps around here."""
        planes = [self._lattice(None)] + [
            self._lattice(axis) for axis in range(len(self.shape)) if self.wraps[axis]
        ]
        return self.lower[:, None] + np.concatenate(planes, axis=1) * self.spacing[:, None]

    def _lattice(self, plane):
        ranges = [
            f + np.arange(n) if a != plane else np.zeros(1, int)
            for a, (f, n) in enumerate(zip(self.first, self.shape, strict=True))
        ]
        return np.stack(np.meshgrid(*ranges, indexing="ij")).reshape(len(self.shape), -1)

    def _number(self, axis, corner, wrapped):
        plane_shape = [1 if a == axis else n for a, n in enumerate(self.shape)]
        before = int(np.prod(self.shape)) + sum(
            int(np.prod(self.shape)) // self.shape[a] for a in range(axis) if self.wraps[a]
        )
        in_plane = corner.copy()
        in_plane[axis] = 0
        return np.where(
            wrapped,
            before + np.ravel_multi_index(in_plane, plane_shape, mode="clip"),
            np.ravel_multi_index(corner, self.shape),
        )

    def of_cells(self):
        cell = np.stack(np.meshgrid(*map(np.arange, self.size), indexing="ij")).reshape(
            len(self.size), -1
        )
        corners = [
            np.ravel_multi_index(cell + np.array(c)[:, None], self.shape)
            for c in CORNERS[len(self.size)]
        ]
        return np.stack(corners).T.ravel()

    def of_faces(self, axis, at, direction):
        """Corners (2^(dim - 1), n), counter-clockwise seen from where the normal points."""
        dim = len(self.shape)
        others = [(axis + 1) % dim, (axis + 2) % dim][: dim - 1]
        steps = {1: [()], 2: [(0,), (1,)], 3: [(0, 0), (1, 0), (1, 1), (0, 1)]}[dim]
        loop = []
        for step in steps if (direction > 0) == (dim == 3 or axis == 0) else steps[::-1]:
            corner = at.copy()
            for other, s in zip(others, step, strict=True):
                corner[other] += s
            loop.append(self._number(axis, corner, self.wrapped(axis, at)))
        return np.stack(loop)


def _owner(cells, layout, cuts):
    """The rank that owns each cell (dim, n)."""
    return np.ravel_multi_index(
        [np.searchsorted(cuts[a], index, side="right") - 1 for a, index in enumerate(cells)], layout
    )


def _levels(index, grid):
    """Numbers of the blocks of 1, 2^dim, 4^dim, ... cells; axes that are short or odd are not
    coarsened further.
    """
    dim = len(grid)
    levels = []
    factor = np.ones(dim, int)
    while True:
        coarse = -(-np.array(grid) // factor)
        levels.append(np.ravel_multi_index(index.reshape(dim, -1) // factor[:, None], coarse))
        halve = (coarse >= 2 * COARSEST) & (coarse % 2 == 0)
        if not halve.any():
            return np.stack(levels)
        factor = np.where(halve, 2 * factor, factor)


def _quality(spacing, n_cells):
    volume = float(np.prod(spacing))
    size = float(np.prod(spacing) ** (1 / len(spacing)))
    return Quality(
        n_cells,
        (volume,) * 3,
        (size,) * 3,
        0.0,
        0.0,
        0.0,
        0.0,
        float(spacing.min() / size),
        0,
        0,
        0,
    )
