"""Grids of a multigrid hierarchy on any mesh: agglomerates of pairs of pairs of cells with strong
flows between them, on each rank by itself, and Gauss-Seidel in as many colours as neighbours need.

This rank's cells stand colour by colour, ghosts behind them. Ghosts get new values before each
sweep, not for each colour. How flows between agglomerates are weakened is as in `blocks`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..parallel import Exchange, Ranks

# Pairs are made of cells whose flow is at least this part of the largest one of a cell.
STRONG_PAIR = 0.25

# The part of a grid's cells that the coarser one has, at most: else it is not worth while.
LEAST_COARSENING = 0.8

# Cells whose sums are made at once: a few vectors of a processor.
CHUNK = 256


class GraphFlows(NamedTuple):
    """What this rank's cells exchange in a step, in double precision; cell K has the sides start[K]
    to start[K + 1].

    neighbour (m,) : the other cell, ghosts among them
    out, into (m,) : what leaves for it, as a multiple of what K has, and what comes, of what it has
    kept (n,) : what a cell keeps, or gives to the outside
    """

    start: IntArray
    neighbour: IntArray
    out: Array
    into: Array
    kept: Array


class GraphGrid:
    """One grid: N = 1 - P on the contents of cells, P the parts that go to neighbours.

    exchange : fills the ghosts of an array
    own_place (n,) : the places of this rank's cells
    number (n + ghosts,) : global numbers, in the order of the cells
    """

    def __init__(
        self,
        ranks: Ranks,
        dim: int,
        n: int,
        number: IntArray,
        owner: IntArray,
        precision: type,
    ):
        self.ranks = ranks
        self.dim = dim
        self.n = n
        self.number = number
        self.owner = owner
        self.precision = precision
        self.n_global = int(ranks.sum(n))

    def zeros(self) -> Array:
        """An array of the grid."""
        return np.zeros(len(self.number), self.precision)

    # ---- set-up ---------------------------------------------------------------------------------

    def set_up(self, flows: GraphFlows, *, transposed: bool) -> None:
        """Take the matrix of the flows, or the transposed one. Collective."""
        self.transposed = transposed
        colour = _colour(flows.start, flows.neighbour)
        order = np.argsort(colour, kind="stable")
        self.ends = np.searchsorted(colour[order], np.arange(colour.max(initial=0) + 2))
        place = np.arange(len(self.number))
        place[order] = np.arange(self.n)
        self.place = place
        self.own_place = place[: self.n]
        owned = self.number[: self.n][order]
        self.exchange = Exchange.ghosts(self.ranks, owned, self.number[self.n :], self.owner)

        self.total = np.zeros(len(self.number))
        self.total[self.own_place] = flows.kept + _sum_sides(flows.start, flows.out)
        self.exchange(self.total)

        degree = int(np.diff(flows.start).max(initial=0))
        self.neighbour = np.zeros((degree, self.n), np.int32)
        self.parts: Array = np.zeros((degree, self.n), self.precision)
        _fill_sides(*flows[:4], place, self.total, transposed, self.neighbour, self.parts)
        self.x = self.zeros()
        self.r = self.zeros()

    def find_stiffness(self, kept: Array) -> float:
        """The largest ratio of what leaves a cell to what stays in it. Collective."""
        total = self.total[self.own_place]
        leaving = total - kept
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(leaving > 0, leaving / kept, 0.0)
        return self.ranks.max(ratio.max(initial=0.0))

    def coarsen(self, flows: GraphFlows, density: Array) -> tuple[GraphGrid, GraphFlows] | None:
        """The coarser grid and its flows; None where there are no pairs. Collective.

        density : of the smooth state, as an array of the grid, ghosts among it, in units in which
            what leaves a cell is flow times density
        """
        density = density[self.place]
        content = self.total[self.place] * density
        member, n = self._agglomerate(flows, density)
        if self.ranks.sum(n) > LEAST_COARSENING * self.n_global:
            return None

        coarse, whole_member = self._number_agglomerates(member, n)
        coarse_flows = _sum_flows(flows, density, content, whole_member, n, weakened=True)
        coarse.set_up(coarse_flows, transposed=self.transposed)

        self.member = np.empty(self.n, np.int32)
        self.member[self.own_place] = coarse.place[member]
        weight = content[: self.n] / coarse.total[coarse.place[member]]
        self.weight: Array = np.empty(self.n, self.precision)
        self.weight[self.own_place] = np.where(content[: self.n] > 0, weight, 0.0)
        return coarse, coarse_flows

    def _agglomerate(self, flows, density):
        """(the agglomerate of each of this rank's cells (n,), their number)."""
        member = np.arange(self.n)
        n = self.n
        pairs = flows
        content = density
        for _ in range(max(self.dim, 2)):
            pair, n_pairs = _pair(*pairs[:4], content, STRONG_PAIR)
            member = pair[member]
            n = n_pairs
            n_ghosts = len(content) - len(pair)
            whole = np.concatenate([pair, n + np.arange(n_ghosts)])
            pairs = _sum_flows(pairs, content, content, whole, n, weakened=False)
            content = np.ones(n + n_ghosts)
        return member, n

    def _number_agglomerates(self, member, n):
        """(the coarser grid, the agglomerate of each cell, ghosts among them). Collective."""
        counts = self.ranks.all_gather(np.array([n]))
        ends = np.cumsum(counts)
        first = ends[self.ranks.rank] - n
        number = np.zeros(len(self.number), np.int64)
        number[self.own_place] = first + member
        self.exchange(number)
        ghosts, ghost_member = np.unique(number[self.n :], return_inverse=True)
        owner = np.searchsorted(ends, ghosts, side="right")
        numbers = np.concatenate([first + np.arange(n), ghosts])
        coarse = GraphGrid(self.ranks, self.dim, n, numbers, owner, self.precision)
        return coarse, np.concatenate([member, n + ghost_member])

    def list_rows(self) -> tuple[IntArray, IntArray, IntArray, Array]:
        """(places of own cells, row, column, value): the entries of P, by global numbers."""
        number = np.empty(len(self.number), np.int64)
        number[self.place] = self.number
        row = np.broadcast_to(number[: self.n], self.parts.shape)
        column = number[self.neighbour]
        return np.arange(self.n), row.ravel(), column.ravel(), self.parts.ravel()

    # ---- the cycle ------------------------------------------------------------------------------

    def begin(self, r: Array, x: Array) -> None:
        """Gauss-Seidel from 0, colour by colour."""
        x[:] = 0
        first = slice(self.ends[1])
        x[first] = r[first]
        _relax(self.ends[1:], self.neighbour, self.parts, r, x, False)

    def restrict(self, r: Array, x: Array, coarse: GraphGrid) -> None:
        """The residual summed into the coarse grid's. Collective."""
        self.exchange(x)
        coarse.r[:] = 0
        _restrict(
            self.neighbour,
            self.parts,
            r,
            x,
            self.member,
            self.weight,
            self.transposed,
            coarse.r,
        )

    def correct(self, coarse: GraphGrid, r: Array, x: Array) -> None:
        """Add the coarse grid's correction; relax, the last colour first. Collective."""
        _prolong(self.member, self.weight, not self.transposed, coarse.x, x)
        self.exchange(x)
        _relax(self.ends, self.neighbour, self.parts, r, x, True)

    def sweep(self, r: Array, x: Array, times: int) -> None:
        """Further sweeps to and fro. Collective."""
        for _ in range(times):
            for backward in True, False:
                self.exchange(x)
                _relax(self.ends, self.neighbour, self.parts, r, x, backward)

    def apply(self, x: Array, y: Array) -> None:
        """y = N x. Collective."""
        self.exchange(x)
        _apply(self.neighbour, self.parts, x, y)

    def load(self, values: Array, scale: float, x: Array) -> None:
        """x = values (n_cells,) / scale."""
        _load(self.own_place, values, 1 / scale, x)

    def unload(self, x: Array, factor: Array, scale: float) -> Array:
        """x factor scale (n_cells,)."""
        return x[self.own_place] * factor * scale


def _sum_flows(flows, density, content, member, n, *, weakened):
    """The `GraphFlows` of n agglomerates; member: of each cell, ghosts among them."""
    n_fine = len(flows.kept)
    order = np.argsort(member[:n_fine], kind="stable")
    first = np.searchsorted(member[order], np.arange(n + 1))
    kept = np.bincount(member[:n_fine], flows.kept * density[:n_fine], n)
    m = len(flows.neighbour)
    start = np.zeros(n + 1, np.int64)
    neighbour = np.empty(m, np.int64)
    out = np.empty(m)
    into = np.empty(m)
    n_members = int(member.max(initial=-1)) + 1
    _sum_sides_of_agglomerates(
        *flows[:4],
        density,
        content,
        member,
        order,
        first,
        n_members,
        weakened,
        start,
        neighbour,
        out,
        into,
    )
    m = start[-1]
    return GraphFlows(start, neighbour[:m], out[:m], into[:m], kept)


# ---- kernels -------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _colour(start, neighbour):
    """The first colour (n,) of each cell that no neighbour before it has."""
    n = len(start) - 1
    colour = np.full(n, -1, np.int64)
    taken = np.full(n + 1, -1, np.int64)
    for cell in range(n):
        for s in range(start[cell], start[cell + 1]):
            other = neighbour[s]
            if other < n and colour[other] >= 0:
                taken[colour[other]] = cell
        free = 0
        while taken[free] == cell:
            free += 1
        colour[cell] = free
    return colour


@numba.njit(cache=True)
def _sum_sides(start, values):
    """The sums (n,) over the sides of each cell."""
    n = len(start) - 1
    total = np.zeros(n)
    for cell in range(n):
        for s in range(start[cell], start[cell + 1]):
            total[cell] += values[s]
    return total


@numba.njit(cache=True, error_model="numpy")
def _fill_sides(start, neighbour, out, into, place, total, transposed, places, parts):
    """The places of neighbours, and the parts of what they give up that come into each cell."""
    for cell in range(len(start) - 1):
        here = place[cell]
        for s in range(start[cell], start[cell + 1]):
            there = place[neighbour[s]]
            giver = total[here] if transposed else total[there]
            flow = out[s] if transposed else into[s]
            places[s - start[cell], here] = there
            if flow > 0:
                parts[s - start[cell], here] = flow / giver


@numba.njit(cache=True, error_model="numpy")
def _pair(start, neighbour, out, into, density, strong):
    """(pair (n,), their number): each cell with the free neighbour of the largest flow.

    A cell whose large flows all go to cells that have a pair joins that with the largest one: in
    stars there would be one pair else.
    """
    n = len(start) - 1
    pair = np.full(n, -1, np.int64)
    n_pairs = 0
    for cell in range(n):
        if pair[cell] >= 0:
            continue
        largest = 0.0
        free_flow = 0.0
        free = -1
        taken_flow = 0.0
        taken = -1
        for s in range(start[cell], start[cell + 1]):
            other = neighbour[s]
            flow = out[s] * density[cell] + into[s] * density[other]
            largest = max(largest, flow)
            if other >= n or other == cell:
                continue
            if pair[other] < 0 and flow > free_flow:
                free_flow = flow
                free = other
            elif pair[other] >= 0 and flow > taken_flow:
                taken_flow = flow
                taken = other
        if free >= 0 and free_flow >= strong * largest:
            pair[cell] = n_pairs
            pair[free] = n_pairs
            n_pairs += 1
        elif taken >= 0 and taken_flow >= strong * largest:
            pair[cell] = pair[taken]
        else:
            pair[cell] = n_pairs
            n_pairs += 1
    return pair, n_pairs


@numba.njit(cache=True, error_model="numpy")
def _sum_sides_of_agglomerates(
    start,
    neighbour,
    out,
    into,
    density,
    content,
    member,
    order,
    first,
    n_members,
    weakened,
    coarse_start,
    coarse_neighbour,
    coarse_out,
    coarse_into,
):
    """Add up the flows times the givers' densities between agglomerates."""
    slot = np.full(n_members, -1, np.int64)
    end = 0
    for agglomerate in range(len(first) - 1):
        begin = end
        for i in range(first[agglomerate], first[agglomerate + 1]):
            cell = order[i]
            for s in range(start[cell], start[cell + 1]):
                other = member[neighbour[s]]
                if other == agglomerate:
                    continue
                goes = out[s] * density[cell]
                comes = into[s] * density[neighbour[s]]
                if weakened:
                    here = content[cell]
                    there = content[neighbour[s]]
                    larger = max(here, there)
                    if larger == 0:
                        continue
                    exchanged = larger / (here + there) * (goes + comes) / 2
                    net = (goes - comes) / 2
                    goes = max(exchanged + net, 2 * net, 0.0)
                    comes = max(exchanged - net, -2 * net, 0.0)
                if slot[other] < begin:
                    slot[other] = end
                    coarse_neighbour[end] = other
                    coarse_out[end] = 0.0
                    coarse_into[end] = 0.0
                    end += 1
                coarse_out[slot[other]] += goes
                coarse_into[slot[other]] += comes
        coarse_start[agglomerate + 1] = end


@numba.njit(cache=True, error_model="numpy")
def _add_inflow(neighbour, parts, x, begin, end, out):
    """out = P x of the cells from begin to end."""
    count = end - begin
    out[:count] = 0
    for side in range(len(parts)):
        there = neighbour[side, begin:end]
        part = parts[side, begin:end]
        for m in range(count):
            out[m] += part[m] * x[numba.uintp(there[m])]


@numba.njit(cache=True, error_model="numpy")
def _relax(ends, neighbour, parts, r, x, backward):
    """x = r + P x, colour by colour."""
    inflow = np.empty(CHUNK, x.dtype)
    n_colours = len(ends) - 1
    for i in range(n_colours):
        colour = n_colours - 1 - i if backward else i
        for begin in range(ends[colour], ends[colour + 1], CHUNK):
            end = min(begin + CHUNK, ends[colour + 1])
            _add_inflow(neighbour, parts, x, begin, end, inflow)
            here = x[begin:end]
            wanted = r[begin:end]
            for m in range(end - begin):
                here[m] = wanted[m] + inflow[m]


@numba.njit(cache=True, error_model="numpy")
def _apply(neighbour, parts, x, y):
    """y = x - P x."""
    inflow = np.empty(CHUNK, x.dtype)
    n = parts.shape[1]
    for begin in range(0, n, CHUNK):
        end = min(begin + CHUNK, n)
        _add_inflow(neighbour, parts, x, begin, end, inflow)
        for m in range(end - begin):
            y[begin + m] = x[begin + m] - inflow[m]


@numba.njit(cache=True, error_model="numpy")
def _restrict(neighbour, parts, r, x, member, weight, weighted, coarse_r):
    """Add the residual up in agglomerates, weighted or not."""
    inflow = np.empty(CHUNK, x.dtype)
    n = parts.shape[1]
    for begin in range(0, n, CHUNK):
        end = min(begin + CHUNK, n)
        _add_inflow(neighbour, parts, x, begin, end, inflow)
        for m in range(end - begin):
            cell = begin + m
            residual = r[cell] - x[cell] + inflow[m]
            if weighted:
                residual *= weight[cell]
            coarse_r[numba.uintp(member[cell])] += residual


@numba.njit(cache=True, error_model="numpy")
def _prolong(member, weight, weighted, coarse_x, x):
    """Add the coarse values, weighted or not."""
    for cell in range(len(member)):
        change = coarse_x[numba.uintp(member[cell])]
        if weighted:
            change *= weight[cell]
        x[cell] += change


@numba.njit(cache=True, error_model="numpy")
def _load(place, values, factor, x):
    """x = factor values (n_cells,)."""
    for cell in range(len(values)):
        x[place[cell]] = factor * values[cell]
