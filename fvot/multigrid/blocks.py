"""Grids of a multigrid hierarchy on a block of a Cartesian mesh: agglomerates of two cells along
each axis with strong flows, Gauss-Seidel in the two colours of a chess board.

Corrections that are constant in agglomerates, times the smooth state h, have jumps between cells
where the solution has a slope over two. So half of the exchange between agglomerates would be right
where h varies little, and all of it where one of two cells at a face has nearly all: the part
max(h_K, h_L) / (h_K + h_L) is left of it, and all of net flows.

Arrays have one layer of ghosts around. Along the last axis, padded cells with even and with odd
numbers stand apart, so that the cells of one colour in a row, and their neighbours, are contiguous:
cell K of a row is at (K mod 2) width + K // 2. Meshes with fewer than three axes have more of
length 1 in front.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..mesh.cartesian import Block
from ..parallel import Exchange, Ranks

# An axis is coarsened if its flows are at least this part of the largest ones of an axis: along
# weaker ones errors do not get smooth.
STRONG_FLOW = 0.25


class Shape(NamedTuple):
    """The layout of a grid's arrays, as kernels take it.

    cells (3,) : of this rank
    rows : along the middle axis, ghosts among them
    width : half of a row, ghosts among them
    pad_0, pad_1 : layers of ghosts along the first two axes, 1 or 0
    colour : of this rank's first cell
    """

    n_0: int
    n_1: int
    n_2: int
    rows: int
    width: int
    pad_0: int
    pad_1: int
    colour: int

    @property
    def cells(self) -> tuple[int, int, int]:
        return self.n_0, self.n_1, self.n_2

    @property
    def size(self) -> int:
        """The length of the arrays."""
        return (self.n_0 + 2 * self.pad_0) * self.rows * 2 * self.width


class Flows(NamedTuple):
    """What is exchanged on a grid in a step, in double precision.

    up, down : a (3 + dim)-tuple of arrays for each axis, of what crosses the faces, walls among
        them, in each direction; multiples of what the giving cell has
    kept (n_0, n_1, n_2) : what a cell keeps, or gives to the outside
    content (n_0, n_1, n_2) : of cells in the smooth state
    """

    up: list[Array]
    down: list[Array]
    kept: Array


class BlockGrid:
    """One grid: N = 1 - P on the contents of cells, P the parts that go to neighbours.

    shape : its `Shape`
    exchange : fills the ghosts of an array
    """

    def __init__(self, ranks: Ranks, block: Block, thickness: list[IntArray], precision: type):
        self.ranks = ranks
        self.precision = precision
        self.block = block
        self.dim = len(block.grid)
        self.thickness = thickness
        place = np.unravel_index(ranks.rank, block.ranks)
        own = [int(t[p]) for t, p in zip(thickness, place, strict=True)]
        first = [int(t[:p].sum()) for t, p in zip(thickness, place, strict=True)]
        self.own = tuple(own)
        self.first = tuple(first)
        self.grid = tuple(int(t.sum()) for t in thickness)

        n = [1] * (3 - self.dim) + own
        pads = [int(axis >= 3 - self.dim) for axis in range(3)]
        self.shape = Shape(
            n_0=n[0],
            n_1=n[1],
            n_2=n[2],
            rows=n[1] + 2 * pads[1],
            width=(n[2] + 3) // 2,
            pad_0=pads[0],
            pad_1=pads[1],
            colour=sum(first) % 2,
        )
        self.place = self._place_cells()
        self.exchange = self._make_exchange()

    def _place_cells(self):
        """The places of padded cells in arrays: (cells + ghosts along the axes of the mesh)."""
        shape = self.shape
        i, j, k = np.ogrid[
            : shape.n_0 + 2 * shape.pad_0, : shape.n_1 + 2 * shape.pad_1, : shape.n_2 + 2
        ]
        place = (i * shape.rows + j) * (2 * shape.width) + (k % 2) * shape.width + k // 2
        return place.reshape(tuple(n + 2 for n in self.own))

    def _make_exchange(self):
        """An `Exchange` of the outermost layers, first all that goes up, then all down."""
        send: dict[int, list] = {}
        receive: dict[int, list] = {}
        inside = (slice(1, -1),) * self.dim
        for axis in range(self.dim):
            below = self.block.below[axis]
            above = self.block.above[axis]

            def layer(k: int, axis: int = axis) -> IntArray:
                index = (*inside[:axis], k, *inside[axis + 1 :])
                return self.place[index].ravel()

            if above is not None:
                send.setdefault(above, []).append(layer(-2))
            if below is not None:
                receive.setdefault(below, []).append(layer(0))
            if below is not None:
                send.setdefault(below, []).append(layer(1))
            if above is not None:
                receive.setdefault(above, []).append(layer(-1))
        sent = {rank: np.concatenate(layers) for rank, layers in send.items()}
        received = {rank: np.concatenate(layers) for rank, layers in receive.items()}
        return Exchange(self.ranks, sent, received)

    @property
    def own_place(self) -> IntArray:
        """The places of this rank's cells, in C order."""
        return self.place[(slice(1, -1),) * self.dim].ravel()

    def zeros(self) -> Array:
        """An array of the grid."""
        return np.zeros(self.shape.size, self.precision)

    # ---- set-up ---------------------------------------------------------------------------------

    def set_up(self, flows: Flows, *, transposed: bool) -> None:
        """Take the matrix of the flows, or the transposed one. Collective."""
        self.transposed = transposed
        self.parts: Array = np.zeros((2 * self.dim, self.shape.size), self.precision)
        self.total = np.zeros(self.shape.size)
        self.total[self.own_place] = flows.kept.ravel()
        first = 3 - self.dim
        for axis, (up, down) in enumerate(zip(flows.up, flows.down, strict=True)):
            _add_leaving(self.shape, first + axis, up, down, self.total)
        self.exchange(self.total)
        fill = _fill_transposed_parts if transposed else _fill_parts
        for axis, (up, down) in enumerate(zip(flows.up, flows.down, strict=True)):
            fill(self.shape, first + axis, up, down, self.total, *self.parts[2 * axis :][:2])
        self.x = self.zeros()
        self.r = self.zeros()

    def find_stiffness(self, kept: Array) -> float:
        """The largest ratio of what leaves a cell to what stays in it. Collective."""
        total = self.total[self.own_place]
        leaving = total - kept.ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(leaving > 0, leaving / kept.ravel(), 0.0)
        return self.ranks.max(ratio.max(initial=0.0))

    def coarsen(self, flows: Flows, density: Array) -> tuple[BlockGrid, Flows] | None:
        """The coarser grid and its flows; None where no axis has two cells. Collective.

        density : of the smooth state, as an array of the grid, ghosts among it, in units in which
            what leaves a cell is flow times density
        """
        strength = self.ranks.sum(self.parts.reshape(self.dim, -1).sum(axis=1, dtype=float))
        can = np.array([t.max() > 1 for t in self.thickness])
        if not can.any():
            return None
        is_halved = can & (strength >= STRONG_FLOW * strength[can].max())
        thickness = [
            -(-t // 2) if half else t for t, half in zip(self.thickness, is_halved, strict=True)
        ]
        coarse = BlockGrid(self.ranks, self.block, thickness, self.precision)

        factors = (1,) * (3 - self.dim) + tuple(2 if half else 1 for half in is_halved)
        kept = np.zeros(coarse.shape.cells)
        _sum_cells(self.shape, factors, flows.kept, density, kept)
        content = self.total * density
        up = []
        down = []
        first = 3 - self.dim
        for axis in range(self.dim):
            cells = list(coarse.shape.cells)
            cells[first + axis] += 1
            sums = np.zeros((2, *cells))
            _sum_faces(
                self.shape,
                factors,
                first + axis,
                flows.up[axis],
                flows.down[axis],
                density,
                content,
                sums[0],
                sums[1],
            )
            up.append(sums[0])
            down.append(sums[1])
        coarse_flows = Flows(up, down, kept)
        coarse.set_up(coarse_flows, transposed=self.transposed)

        self.factors = factors
        self.weight = self.zeros()
        _fill_weights(self.shape, coarse.shape, factors, content, coarse.total, self.weight)
        return coarse, coarse_flows

    @property
    def n_global(self) -> int:
        """The number of cells, of all ranks."""
        return int(np.prod(self.grid))

    def list_rows(self) -> tuple[IntArray, IntArray, IntArray, Array]:
        """(places of this rank's cells, row, column, value): the entries of P, by global
        numbers. Collective.
        """
        own = [np.arange(a, a + n) for a, n in zip(self.first, self.own, strict=True)]
        index = np.meshgrid(*own, indexing="ij")
        number = np.zeros(self.shape.size, np.int64)
        number[self.own_place] = np.ravel_multi_index([i.ravel() for i in index], self.grid)
        self.exchange(number)

        row = np.tile(number[self.own_place], 2 * self.dim)
        columns = []
        for axis in range(self.dim):
            for layers in slice(None, -2), slice(2, None):
                near = [slice(1, -1)] * self.dim
                near[axis] = layers
                columns.append(number[self.place[tuple(near)].ravel()])
        return self.own_place, row, np.concatenate(columns), self.parts[:, self.own_place].ravel()

    # ---- the cycle ------------------------------------------------------------------------------

    def begin(self, r: Array, x: Array) -> None:
        """Gauss-Seidel from 0: first red, then black cells. Collective."""
        _copy_red(self.shape, r, x)
        self.exchange(x)
        _relax(self.shape, self.parts, r, x, 1)

    def restrict(self, r: Array, x: Array, coarse: BlockGrid) -> None:
        """The residual, which only red cells have, summed into the coarse grid's. Collective."""
        self.exchange(x)
        coarse.r[:] = 0
        _restrict(
            self.shape,
            coarse.shape,
            self.factors,
            self.parts,
            self.weight,
            self.transposed,
            x,
            coarse.r,
        )

    def correct(self, coarse: BlockGrid, r: Array, x: Array) -> None:
        """Add the coarse grid's correction to red cells; relax black, then red. Collective."""
        _prolong(
            self.shape, coarse.shape, self.factors, self.weight, not self.transposed, coarse.x, x
        )
        self.exchange(x)
        _relax(self.shape, self.parts, r, x, 1)
        self.exchange(x)
        _relax(self.shape, self.parts, r, x, 0)

    def sweep(self, r: Array, x: Array, times: int) -> None:
        """Further sweeps, red and black. Collective."""
        for _ in range(times):
            for colour in 0, 1:
                self.exchange(x)
                _relax(self.shape, self.parts, r, x, colour)

    def apply(self, x: Array, y: Array) -> None:
        """y = N x. Collective."""
        self.exchange(x)
        _apply(self.shape, self.parts, x, y, 0)
        _apply(self.shape, self.parts, x, y, 1)

    def load(self, values: Array, scale: float, x: Array) -> None:
        """x = values (n_cells,) / scale."""
        _load(self.shape, values, 1 / scale, x)

    def unload(self, x: Array, factor: Array, scale: float) -> Array:
        """x factor scale (n_cells,)."""
        out = np.empty(len(factor))
        _unload(self.shape, x, factor, scale, out)
        return out


# ---- kernels -------------------------------------------------------------------------------------


@numba.njit(cache=True, inline="always")
def _place(shape, i, j, k):
    """The place of cell (i, j, k) in arrays; -1 and n are ghosts."""
    row = (i + shape.pad_0) * shape.rows + j + shape.pad_1
    return row * 2 * shape.width + ((k + 1) % 2) * shape.width + (k + 1) // 2


@numba.njit(cache=True, inline="always")
def _find_segment(shape, i, j, colour):
    """(start, lower, upper, count) of the cells of a colour in a row, and of their neighbours along
    it.
    """
    base = ((i + shape.pad_0) * shape.rows + j + shape.pad_1) * 2 * shape.width
    if (shape.colour + i + j + colour) % 2 == 0:
        return base + shape.width, base, base + 1, (shape.n_2 + 1) // 2
    return base + 1, base + shape.width, base + shape.width + 1, shape.n_2 // 2


@numba.njit(cache=True, error_model="numpy")
def _add_inflow(shape, parts, x, start, lower, upper, count, out):
    """out = P x in a segment of a row."""
    last = len(parts) - 2
    from_lower = parts[last, start : start + count]
    from_upper = parts[last + 1, start : start + count]
    x_lower = x[lower : lower + count]
    x_upper = x[upper : upper + count]
    for m in range(count):
        out[m] = from_lower[m] * x_lower[m] + from_upper[m] * x_upper[m]
    step = 2 * shape.width
    for axis in range(last - 2, -2, -2):
        from_lower = parts[axis, start : start + count]
        from_upper = parts[axis + 1, start : start + count]
        x_lower = x[start - step : start - step + count]
        x_upper = x[start + step : start + step + count]
        for m in range(count):
            out[m] += from_lower[m] * x_lower[m] + from_upper[m] * x_upper[m]
        step *= shape.rows


@numba.njit(cache=True, error_model="numpy")
def _copy_red(shape, r, x):
    """x = r in red cells, 0 in black ones."""
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            start, _, _, count = _find_segment(shape, i, j, 0)
            x[start : start + count] = r[start : start + count]
            start, _, _, count = _find_segment(shape, i, j, 1)
            x[start : start + count] = 0.0


@numba.njit(cache=True, error_model="numpy")
def _relax(shape, parts, r, x, colour):
    """x = r + P x in the cells of a colour."""
    inflow = np.empty(shape.width, x.dtype)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            start, lower, upper, count = _find_segment(shape, i, j, colour)
            _add_inflow(shape, parts, x, start, lower, upper, count, inflow)
            here = x[start : start + count]
            wanted = r[start : start + count]
            for m in range(count):
                here[m] = wanted[m] + inflow[m]


@numba.njit(cache=True, error_model="numpy")
def _apply(shape, parts, x, y, colour):
    """y = x - P x in the cells of a colour."""
    inflow = np.empty(shape.width, x.dtype)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            start, lower, upper, count = _find_segment(shape, i, j, colour)
            _add_inflow(shape, parts, x, start, lower, upper, count, inflow)
            here = x[start : start + count]
            out = y[start : start + count]
            for m in range(count):
                out[m] = here[m] - inflow[m]


@numba.njit(cache=True, error_model="numpy")
def _restrict(shape, coarse, factors, parts, weight, weighted, x, coarse_r):
    """Add P x in red cells, which is the residual there, up in agglomerates."""
    inflow = np.empty(shape.width, x.dtype)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            start, lower, upper, count = _find_segment(shape, i, j, 0)
            _add_inflow(shape, parts, x, start, lower, upper, count, inflow)
            if weighted:
                for m in range(count):
                    inflow[m] *= weight[start + m]
            first = (shape.colour + i + j) % 2
            row_i = i // factors[0]
            row_j = j // factors[1]
            for parity in range(2):
                # coarse cells k of this parity: they have the red cells m = k of the row, or, where
                # the row is not coarsened, the fine cell k itself
                target = _place(coarse, row_i, row_j, parity)
                if factors[2] == 2:
                    number = (count + 1 - parity) // 2
                    for m in range(number):
                        coarse_r[target + m] += inflow[2 * m + parity]
                elif parity == first:
                    for m in range(count):
                        coarse_r[target + m] += inflow[m]


@numba.njit(cache=True, error_model="numpy")
def _prolong(shape, coarse, factors, weight, weighted, coarse_x, x):
    """Add the coarse values to red cells, weighted or not."""
    change = np.empty(shape.width, x.dtype)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            start, _, _, count = _find_segment(shape, i, j, 0)
            first = (shape.colour + i + j) % 2
            row_i = i // factors[0]
            row_j = j // factors[1]
            here = x[start : start + count]
            for parity in range(2):
                source = _place(coarse, row_i, row_j, parity)
                if factors[2] == 2:
                    number = (count + 1 - parity) // 2
                    for m in range(number):
                        change[2 * m + parity] = coarse_x[source + m]
                elif parity == first:
                    for m in range(count):
                        change[m] = coarse_x[source + m]
            if weighted:
                for m in range(count):
                    change[m] *= weight[start + m]
            for m in range(count):
                here[m] += change[m]


@numba.njit(cache=True, error_model="numpy")
def _load(shape, values, factor, x):
    """x = factor values (n_cells,)."""
    cell = 0
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            base = _place(shape, i, j, -1)
            for k in range(shape.n_2):
                place = base + ((k + 1) % 2) * shape.width + (k + 1) // 2
                x[place] = factor * values[cell]
                cell += 1


@numba.njit(cache=True, error_model="numpy")
def _unload(shape, x, factor, scale, out):
    """out = x factor scale (n_cells,)."""
    cell = 0
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            base = _place(shape, i, j, -1)
            for k in range(shape.n_2):
                place = base + ((k + 1) % 2) * shape.width + (k + 1) // 2
                out[cell] = x[place] * factor[cell] * scale
                cell += 1


@numba.njit(cache=True, error_model="numpy")
def _add_leaving(shape, axis, up, down, total):
    """Add what leaves cells along an axis to their total."""
    di, dj, dk = axis == 0, axis == 1, axis == 2
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            for k in range(shape.n_2):
                total[_place(shape, i, j, k)] += up[i + di, j + dj, k + dk] + down[i, j, k]


@numba.njit(cache=True, error_model="numpy")
def _fill_parts(shape, axis, up, down, total, from_lower, from_upper):
    """The parts of what neighbours along an axis give up that come into each cell."""
    di, dj, dk = int(axis == 0), int(axis == 1), int(axis == 2)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            for k in range(shape.n_2):
                place = _place(shape, i, j, k)
                comes_up = up[i, j, k]
                if comes_up > 0:
                    from_lower[place] = comes_up / total[_place(shape, i - di, j - dj, k - dk)]
                comes_down = down[i + di, j + dj, k + dk]
                if comes_down > 0:
                    from_upper[place] = comes_down / total[_place(shape, i + di, j + dj, k + dk)]


@numba.njit(cache=True, error_model="numpy")
def _fill_transposed_parts(shape, axis, up, down, total, to_lower, to_upper):
    """The parts of what each cell gives up that go to its neighbours along an axis."""
    di, dj, dk = int(axis == 0), int(axis == 1), int(axis == 2)
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            for k in range(shape.n_2):
                place = _place(shape, i, j, k)
                if total[place] > 0:
                    to_lower[place] = down[i, j, k] / total[place]
                    to_upper[place] = up[i + di, j + dj, k + dk] / total[place]


@numba.njit(cache=True, error_model="numpy")
def _sum_cells(shape, factors, kept, density, coarse_kept):
    """Add up kept times density in agglomerates."""
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            for k in range(shape.n_2):
                content = kept[i, j, k] * density[_place(shape, i, j, k)]
                coarse_kept[i // factors[0], j // factors[1], k // factors[2]] += content


@numba.njit(cache=True, error_model="numpy")
def _sum_faces(shape, factors, axis, up, down, density, content, coarse_up, coarse_down):
    """Add up the flows times the givers' densities in the faces of agglomerates along an axis, see
    the module.
    """
    di, dj, dk = int(axis == 0), int(axis == 1), int(axis == 2)
    n = up.shape[axis] - 1
    factor = factors[axis]
    for i in range(up.shape[0]):
        for j in range(up.shape[1]):
            for k in range(up.shape[2]):
                face = di * i + dj * j + dk * k
                if face % factor != 0 and face != n:
                    continue
                # the last face of an odd number of cells belongs to the next coarse one
                I = (i + di * (factor - 1)) // factors[0]
                J = (j + dj * (factor - 1)) // factors[1]
                K = (k + dk * (factor - 1)) // factors[2]
                above = _place(shape, i, j, k)
                below = _place(shape, i - di, j - dj, k - dk)
                goes_up = up[i, j, k] * density[below]
                goes_down = down[i, j, k] * density[above]
                larger = max(content[above], content[below])
                if larger == 0:
                    continue
                left = 1.0 if factor == 1 else larger / (content[above] + content[below])
                exchanged = left * (goes_up + goes_down) / 2
                net = (goes_up - goes_down) / 2
                coarse_up[I, J, K] += max(exchanged + net, 2 * net, 0.0)
                coarse_down[I, J, K] += max(exchanged - net, -2 * net, 0.0)


@numba.njit(cache=True, error_model="numpy")
def _fill_weights(shape, coarse, factors, content, coarse_content, weight):
    """The part of each cell in the smooth state of its agglomerate."""
    for i in range(shape.n_0):
        for j in range(shape.n_1):
            for k in range(shape.n_2):
                place = _place(shape, i, j, k)
                agglomerate = _place(coarse, i // factors[0], j // factors[1], k // factors[2])
                whole = coarse_content[agglomerate]
                if whole > 0:
                    weight[place] = content[place] / whole
