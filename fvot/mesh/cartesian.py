"""Cartesian meshes: every rank makes its own block; no rank ever holds the whole.

Cells are numbered in C order over all axes (`u.reshape(shape)[i, j]` has i along x). Ranks stand on
a grid of their own, so that a block has one neighbour on each side of each axis.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..arguments.types import Array, BoolArray, IntArray
from ..errors import InputError
from ..parallel import Ranks
from .builders import SIDES, check_box, check_positive_integer, list_lattice
from .cells import HEXAHEDRON, LINE, QUAD
from .quality import Quality

# The kind of the cells, and the places of their corners, in each dimension.
BOX_KIND = {1: LINE, 2: QUAD, 3: HEXAHEDRON}
BOX_CORNERS = {
    1: ((0,), (1,)),
    2: ((0, 0), (1, 0), (1, 1), (0, 1)),
    3: ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
}

# No coarser level has fewer cells than this along an axis.
MIN_LEVEL_CELLS = 8


@dataclass(frozen=True)
class Block:
    """This rank's box of cells in a Cartesian mesh; all tuples have an entry for each axis."""

    grid: tuple[int, ...]  # cells of the whole mesh
    ranks: tuple[int, ...]  # ranks
    first: tuple[int, ...]  # index of the block's first cell
    shape: tuple[int, ...]  # cells of the block
    thinnest: tuple[int, ...]  # cells of the thinnest of all blocks
    periodic: tuple[bool, ...]
    below: tuple[int | None, ...]  # rank on the lower side; None at a wall
    above: tuple[int | None, ...]
    spacing: Array  # edges of a cell
    faces: tuple[IntArray, ...] = ()  # numbers of the faces, shape of the block plus one


def make(
    ranks: Ranks, lower: Any, upper: Any, shape: tuple, periodic: Any
) -> tuple[dict, dict, Block]:
    """(part, meta, block): this rank's arrays, what all ranks know, and the block; as `Mesh` takes
    them.
    """
    dim = len(shape)
    lower, upper = check_box(lower, upper, dim)
    shape = tuple(check_positive_integer(n, "the number of cells along each axis") for n in shape)
    periodic = _check_periodic(periodic, shape)

    layout = rank_grid(shape, ranks.size)
    place = np.unravel_index(ranks.rank, layout)
    cuts = [cut(n, p) for n, p in zip(shape, layout, strict=True)]
    neighbours = [_find_neighbours(layout, place, axis, periodic[axis]) for axis in range(dim)]
    first = []
    block_shape = []
    thinnest = []
    for axis in range(dim):
        thickness = np.diff(cuts[axis])
        first.append(int(cuts[axis][place[axis]]))
        block_shape.append(int(thickness[place[axis]]))
        thinnest.append(int(thickness.min()))

    block = Block(
        grid=shape,
        ranks=layout,
        first=tuple(first),
        shape=tuple(block_shape),
        thinnest=tuple(thinnest),
        periodic=periodic,
        below=tuple(below for below, _ in neighbours),
        above=tuple(above for _, above in neighbours),
        spacing=(upper - lower) / shape,
    )

    part, numbers, names = _build_part(block, lower, cuts)
    meta = dict(
        names={name: (i,) for i, name in enumerate(names)},
        quality=_describe_quality(block.spacing, int(np.prod(shape))),
    )
    return part, meta, replace(block, faces=numbers)


def _check_periodic(periodic, shape):
    """One bool for each axis."""
    dim = len(shape)
    if np.shape(periodic) not in ((), (dim,)):
        raise InputError(
            f"periodic must be one bool or one for each of {dim} axes, not {periodic!r}"
        )
    if not all(isinstance(p, (bool, np.bool_)) for p in np.ravel(periodic)):
        raise InputError(
            f"periodic must be True or False, or one of them for each axis, not {periodic!r:.60}"
        )
    wraps = tuple(bool(p) for p in np.broadcast_to(periodic, dim))
    periodic_counts = [n for n, wrap in zip(shape, wraps, strict=True) if wrap]
    if any(n < 3 for n in periodic_counts):
        raise InputError(f"a periodic axis needs at least 3 cells; the mesh has {shape}")
    return wraps


def rank_grid(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The grid of *size* ranks with the smallest surface between blocks; `InputError` if there are
    too few cells.
    """
    divisors = _find_divisors(size)
    layouts = []
    for layout in product(divisors, repeat=len(shape)):
        fits = all(p <= n for p, n in zip(layout, shape, strict=True))
        if fits and np.prod(layout) == size:
            layouts.append(layout)
    if not layouts:
        raise InputError(
            f"{shape} cells cannot be distributed over {size} ranks: use fewer ranks, or a finer "
            "mesh"
        )

    def measure_surface(layout: tuple[int, ...]) -> float:
        return sum(p / n for p, n in zip(layout, shape, strict=True))

    return min(layouts, key=measure_surface)


def _find_divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def cut(n: int, parts: int) -> IntArray:
    """Where to cut n cells into *parts*: at multiples of a power of two, so that coarser levels are
    not cut.
    """
    step = 1
    while n % (2 * step) == 0 and n // (2 * step) >= MIN_LEVEL_CELLS * parts:
        step *= 2
    n_steps = n // step
    step_number = np.arange(parts + 1) * n_steps // parts
    return step_number * step


def _find_neighbours(layout, place, axis, periodic):
    """The ranks below and above along an axis; None at a wall."""
    neighbours = []
    for side in (-1, 1):
        other = list(place)
        other[axis] += side
        is_inside = 0 <= other[axis] < layout[axis]
        other[axis] %= layout[axis]
        rank = None
        if is_inside or periodic:
            rank = int(np.ravel_multi_index(other, layout))
        neighbours.append(rank)
    return neighbours


# ---- the arrays of a block -----------------------------------------------------------------------


def _build_part(block, lower, cuts):
    """(arrays as `Mesh` takes them, numbers of the faces by axis, names of the boundary)."""
    dim = len(block.grid)
    n_cells = int(np.prod(block.shape))
    place = list_lattice(block.shape, block.first)
    index = place.reshape(dim, *block.shape)
    inside = np.arange(n_cells).reshape(block.shape)
    ghosts, padded = _find_ghosts(inside, index, block)

    corner = _Corners(block, lower)
    inner, numbers = _build_inner_faces(padded, block, corner)
    walls, ends, names = _build_walls(inside, numbers, block, corner)
    blocks_of_faces = inner + walls
    faces = {}
    for name in inner[0]:
        parts = [group[name] for group in blocks_of_faces]
        faces[name] = np.concatenate(parts, axis=-1)

    center = lower[:, None] + (place + 0.5) * block.spacing[:, None]
    own_id = np.ravel_multi_index(place, block.grid)
    ghost_id = np.ravel_multi_index(ghosts, block.grid)
    part = dict(
        cell_id=np.concatenate([own_id, ghost_id]),
        ghost_owner=_find_owner(ghosts, block.ranks, cuts),
        volume=np.full(n_cells, np.prod(block.spacing)),
        center=center,
        centroid=center,
        **faces,
        boundary_ends=np.array(ends),
        levels=_number_levels(index, block.grid),
        points=corner.points(),
        kind=np.full(n_cells, BOX_KIND[dim], np.uint8),
        start=np.arange(n_cells + 1) * 2**dim,
        corners=corner.of_cells(),
    )
    return part, tuple(numbers), names


def _build_inner_faces(padded, block, corner):
    """(arrays of the faces between two cells, their numbers), both by axis.

    padded : local cell numbers with one layer of ghosts around; -1 where there is no cell
    """
    faces = []
    numbers = []
    count = 0
    for axis in range(padded.ndim):
        low = _take_layers(padded, axis, slice(None, -1))
        high = _take_layers(padded, axis, slice(1, None))
        is_face = (low >= 0) & (high >= 0)
        n_faces = int(is_face.sum())
        number = np.full(low.shape, -1)
        number[is_face] = count + np.arange(n_faces)
        count += n_faces
        place = np.argwhere(is_face).T
        left = low[is_face]
        right = high[is_face]
        faces.append(_build_faces(axis, place, left, right, block, corner, +1))
        numbers.append(number)
    return faces, numbers


def _build_walls(inside, numbers, block, corner):
    """(arrays of the faces on each wall of this block, where the walls of the mesh begin among all
    faces, their names); enters the faces in *numbers*.
    """
    dim = inside.ndim
    count = sum(int((number >= 0).sum()) for number in numbers)
    faces = []
    ends = [0, count]
    names = []
    for side, name in enumerate(SIDES[dim]):
        axis = side // 2
        is_upper = side % 2 == 1
        if block.periodic[axis]:
            continue
        names.append(name)
        neighbour = block.above[axis] if is_upper else block.below[axis]
        if neighbour is None:
            outermost = -1 if is_upper else 0
            layer = (slice(None),) * axis + (outermost,)
            wall_cells = inside[layer]
            cells = wall_cells.ravel()
            place_on_wall = np.argwhere(wall_cells >= 0).T
            wall_place = block.shape[axis] if is_upper else 0
            place = np.insert(place_on_wall, axis, wall_place, axis=0)
            number = count + np.arange(len(cells))
            numbers[axis][layer] = number.reshape(wall_cells.shape)
            count += len(cells)
            beyond = np.full(len(cells), -1)
            direction = 1 if is_upper else -1
            faces.append(_build_faces(axis, place, cells, beyond, block, corner, direction))
        ends.append(count)
    return faces, ends, names


def _find_ghosts(inside, index, block):
    """Ghost cells (dim, n) beyond the sides with neighbours, and local cell numbers padded by one
    layer (-1: none).
    """
    dim = inside.ndim
    padded = np.pad(inside, 1, constant_values=-1)
    ghosts = []
    count = inside.size
    for axis in range(dim):
        sides = ((block.below[axis], 0, -1), (block.above[axis], -1, +1))
        for neighbour, end, shift in sides:
            if neighbour is None:
                continue
            outermost = (slice(None),) * axis + (end,)
            cells = index[(slice(None), *outermost)].copy()
            cells[axis] = (cells[axis] + shift) % block.grid[axis]
            ghosts.append(cells.reshape(dim, -1))

            shape = inside[outermost].shape
            n_new = int(np.prod(shape))
            number = count + np.arange(n_new)
            layer = tuple(end if a == axis else slice(1, -1) for a in range(dim))
            padded[layer] = number.reshape(shape)
            count += n_new
    no_ghosts = np.empty((dim, 0), int)
    return np.concatenate([no_ghosts, *ghosts], axis=1), padded


def _take_layers(padded, axis, layers):
    """Some layers along an axis, without the padding along the others."""
    index = [slice(1, -1)] * padded.ndim
    index[axis] = layers
    return padded[tuple(index)]


def _build_faces(axis, place, left, right, block, corner, direction):
    """Arrays of the faces normal to *axis* whose lattice index in the block is *place* (dim, n)."""
    n = place.shape[1]
    spacing = block.spacing
    along = np.eye(len(spacing))[axis][:, None]
    half = np.full(n, spacing[axis] / 2)

    in_mesh = place + np.array(block.first)[:, None]
    in_mesh[axis, corner.wrapped(axis, place)] = 0
    middle = in_mesh + 0.5 * (1 - along)
    center = middle * spacing[:, None] + corner.lower[:, None]
    step_to_face = along * direction * spacing[axis] / 2
    offset = np.repeat(step_to_face, n, axis=1)
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
        vertices=corner.of_faces(axis, place, direction),
    )


def point_numbers(block: Block) -> IntArray:
    """The numbers of the points of a block, which no periodic axis wraps around, among all of the
    mesh, in C order.
    """
    place = list_lattice([n + 1 for n in block.shape], block.first)
    lattice_shape = [n + 1 for n in block.grid]
    return np.ravel_multi_index(tuple(place), lattice_shape)


class _Corners:
    """The lattice of the block's corner points.

    A face where the mesh wraps around is seen from both ends of the domain. Both sides must see it
    at the same place, or its flux would be two numbers: the points of such faces at the upper end
    are copies of those at the lower end.
    """

    def __init__(self, block: Block, lower: Array):
        self.lower = lower
        self.spacing = block.spacing
        self.first = block.first
        self.size = block.shape
        self.shape = tuple(n + 1 for n in block.shape)
        ends = zip(block.periodic, block.first, block.shape, block.grid, strict=True)
        self.wraps = [periodic and first + n == m for periodic, first, n, m in ends]

    def wrapped(self, axis: int, place: IntArray) -> BoolArray:
        """Which of the lattice places (dim, n) are faces at the upper end of an axis that wraps
        around.
        """
        return self.wraps[axis] & (place[axis] == self.size[axis])

    def points(self) -> Array:
        """The lattice, then one plane of copies for each axis that wraps around here."""
        planes = [self._lattice(None)]
        for axis, wraps in enumerate(self.wraps):
            if wraps:
                planes.append(self._lattice(axis))
        place = np.concatenate(planes, axis=1)
        return self.lower[:, None] + place * self.spacing[:, None]

    def _lattice(self, plane):
        """The places (dim, n) of the lattice in the mesh; of its lower plane across that axis."""
        first = list(self.first)
        shape = list(self.shape)
        if plane is not None:
            first[plane] = 0
            shape[plane] = 1
        return list_lattice(shape, first)

    def _number(self, axis, corner, wrapped):
        """The numbers of lattice places (dim, n), of their copies across that axis if *wrapped*."""
        n_lattice = int(np.prod(self.shape))
        planes_before = [n_lattice // self.shape[a] for a in range(axis) if self.wraps[a]]
        plane_shape = [1 if a == axis else n for a, n in enumerate(self.shape)]
        in_plane = corner.copy()
        in_plane[axis] = 0
        place_in_plane = np.ravel_multi_index(in_plane, plane_shape, mode="clip")
        copies = n_lattice + sum(planes_before) + place_in_plane
        originals = np.ravel_multi_index(corner, self.shape)
        return np.where(wrapped, copies, originals)

    def of_cells(self) -> IntArray:
        """The corners of all cells, cell by cell."""
        dim = len(self.size)
        cell = list_lattice(self.size)
        corners = []
        for offset in BOX_CORNERS[dim]:
            corner = cell + np.array(offset)[:, None]
            corners.append(np.ravel_multi_index(corner, self.shape))
        return np.stack(corners).T.ravel()

    def of_faces(self, axis: int, place: IntArray, direction: int) -> IntArray:
        """Corners (2^(dim - 1), n), counter-clockwise seen from where the normal points."""
        dim = len(self.shape)
        others = [(axis + 1) % dim, (axis + 2) % dim][: dim - 1]
        steps_by_dim: dict[int, list] = {
            1: [()],
            2: [(0,), (1,)],
            3: [(0, 0), (1, 0), (1, 1), (0, 1)],
        }
        steps = steps_by_dim[dim]
        is_counter_clockwise = (direction > 0) == (dim == 3 or axis == 0)
        wrapped = self.wrapped(axis, place)

        loop = []
        for step in steps if is_counter_clockwise else steps[::-1]:
            corner = place.copy()
            for other, s in zip(others, step, strict=True):
                corner[other] += s
            loop.append(self._number(axis, corner, wrapped))
        return np.stack(loop)


def _find_owner(cells, layout, cuts):
    """The rank that owns each cell (dim, n)."""
    place = []
    for cut_along, index in zip(cuts, cells, strict=True):
        n_begun = np.searchsorted(cut_along, index, side="right")
        place.append(n_begun - 1)
    return np.ravel_multi_index(place, layout)


def _number_levels(index, grid):
    """Numbers of the blocks of 1, 2^dim, 4^dim, ... cells; axes that are short or odd are not
    coarsened further.
    """
    dim = len(grid)
    levels = []
    factor = np.ones(dim, int)
    while True:
        coarse = -(-np.array(grid) // factor)
        block = index.reshape(dim, -1) // factor[:, None]
        levels.append(np.ravel_multi_index(block, coarse))

        is_long = coarse >= 2 * MIN_LEVEL_CELLS
        can_halve = is_long & (coarse % 2 == 0)
        if not can_halve.any():
            return np.stack(levels)
        factor = np.where(can_halve, 2 * factor, factor)


def _describe_quality(spacing, n_cells):
    cell_volume = np.prod(spacing)
    volume = float(cell_volume)
    size = float(cell_volume ** (1 / len(spacing)))
    return Quality(
        n_cells=n_cells,
        volume=(volume,) * 3,
        size=(size,) * 3,
        orthogonality_defect=0.0,
        orthogonality_mean=0.0,
        isotropy_defect=0.0,
        isotropy_mean=0.0,
        smallest_distance=float(spacing.min() / size),
        worst_cell=0,
        n_negative=0,
        n_clipped=0,
    )
