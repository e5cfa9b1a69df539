"""Nested dissection: which states are eliminated together, and in what order (George 1973).

A separator is a set of states without which a graph falls into two halves. It is eliminated after
both halves, and these are dissected in the same way. The separators are the nodes of a binary tree,
its leaves the pieces that are small. Each node has a front (Duff, Reid 1983): its own states and
their later neighbours, also those through eliminated states. So a front only gets rates from the
fronts below it. On plane meshes of n states, whose separators are lines, all fronts together have
O(n log n) rates and cost O(n^3/2); in space O(n^4/3) and O(n^2).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray

# States that are not dissected further.
LEAF_STATES = 48

# A graph up to this size that cannot be cut well is one dense front.
MAX_DENSE_STATES = 1000

# A cut is good if its larger half has at most this part of the states.
LARGEST_HALF = 0.9


class Graph(NamedTuple):
    """Rates by pairs: state i has the neighbours neighbour[start[i]:start[i + 1]].

    outward, inward : the rates to them and from them
    """

    start: IntArray
    neighbour: IntArray
    outward: Array
    inward: Array
    killing: Array

    @classmethod
    def from_rates(cls, rates: sparse.csr_matrix, killing: Array) -> Graph:
        """All pairs with a rate one way or the other."""
        pairs = rates.tocoo()
        rows = np.concatenate([pairs.row, pairs.col])
        columns = np.concatenate([pairs.col, pairs.row])
        values = np.concatenate([pairs.data, np.zeros(rates.nnz)])
        outward = sparse.csr_matrix((values, (rows, columns)), rates.shape)
        inward = outward.T.tocsr()  # of the same pattern

        return cls(
            outward.indptr.astype(np.int64),
            outward.indices.astype(np.int64),
            outward.data,
            inward.data,
            killing,
        )


def dissect(
    graph: Graph, center: Array, kept: IntArray, late: IntArray
) -> tuple[list[IntArray], IntArray, IntArray, IntArray]:
    """(own, last, parent, place) of the nodes, of which 0 is the root.

    own[i] : the states of node i
    last[i] : the end of their places
    parent[i] : the node < i that gets the remaining rates
    place (n,) : the order of elimination. The *late* states are the last of the root; the *kept*
        ones (place n) are in no node

    A cut is at the median of the longest axis of *center* (dim, n) or, if dim = 0, of the distance
    from a state at the rim. The separator is the side of the cut that has fewer states.
    """
    n = len(graph.killing)
    place = np.full(n, n)
    order = np.setdiff1d(np.arange(n), np.concatenate([kept, late]))
    first, last, parent = _dissect(graph, center, order)
    order = np.concatenate([order, late])
    last[0] = last[0] + len(late)
    place[order] = np.arange(len(order))
    return [order[low:high] for low, high in zip(first, last)], last, parent, place


@numba.njit(cache=True)
def list_front_states(
    graph: Graph, own: IntArray, last: int, place: IntArray, below: IntArray, number: IntArray
) -> tuple[IntArray, int]:
    """The states of a front, and how many of them it may eliminate.

    These come first: its own and, from *below*, those that had to wait. *number* (n,), -1
    everywhere, becomes their number in the front.
    """
    most = len(own) + len(below)
    for k in own:
        most += graph.start[k + 1] - graph.start[k]
    states = np.empty(most, np.int64)
    n = 0
    for k in own:
        number[k] = n
        states[n] = k
        n += 1
    for k in below:
        if place[k] < last and number[k] < 0:
            number[k] = n
            states[n] = k
            n += 1
    n_own = n
    for k in own:
        for j in graph.neighbour[graph.start[k] : graph.start[k + 1]]:
            if place[j] >= last and number[j] < 0:
                number[j] = n
                states[n] = j
                n += 1
    for k in below:
        if number[k] < 0:
            number[k] = n
            states[n] = k
            n += 1
    return states[:n].copy(), n_own


@numba.njit(cache=True)
def _dissect(graph, center, order):
    """(first, last, parent): node i is order[first[i]:last[i]].

    *order* is sorted: [half | other half | separator], and so on in each half.
    """
    n = len(graph.killing)
    size = len(order)
    first = np.zeros(2 * size + 1, np.int64)
    last = np.zeros(2 * size + 1, np.int64)
    parent = np.zeros(2 * size + 1, np.int64)
    side = np.full(n, -1)
    level = np.zeros(n)
    stack = [(0, size, -1)]
    count = 0
    while len(stack) > 0:
        low, high, above = stack.pop()
        first[count] = low
        last[count] = high
        parent[count] = above
        states = order[low:high].copy()
        if len(states) > LEAF_STATES:
            if len(center) == 0:
                key = _find_levels(graph, states, level)
            else:
                key = _find_longest_axis(center, states)
            part = _cut(graph, states, key, side)
            left = states[part == 0]
            right = states[part == 1]
            cut = states[part == 2]
            if len(states) > MAX_DENSE_STATES or max(len(left), len(right)) < LARGEST_HALF * len(
                states
            ):
                middle = low + len(left)
                top = low + len(left) + len(right)
                order[low:middle], order[middle:top], order[top:high] = left, right, cut
                first[count] = top
                if len(left) > 0:
                    stack.append((low, middle, count))
                if len(right) > 0:
                    stack.append((middle, top, count))
        count += 1
    return first[:count], last[:count], parent[:count]


@numba.njit(cache=True)
def _find_longest_axis(center, states):
    """The coordinates (n,) of the states along the axis on which they spread most."""
    longest = -1.0
    key = np.zeros(len(states))
    for axis in range(len(center)):
        x = center[axis][states]
        if x.max() - x.min() > longest:
            longest = x.max() - x.min()
            key = x
    return key


@numba.njit(cache=True)
def _find_levels(graph, states, level):
    """Distances (n,) of the states in their graph from one at the rim, piece after piece."""
    queue = np.empty(len(states), np.int64)
    begin = states[0]
    for _ in range(2):  # from any state to one at the rim, and from there
        level[states] = -1.0
        tail = head = 0
        seed = -1
        base = 0.0
        while tail < len(states):
            root = begin
            while level[root] >= 0:  # the next piece
                seed += 1
                root = states[seed]
            level[root] = base
            queue[tail] = root
            tail += 1
            while head < tail:
                k = queue[head]
                head += 1
                base = level[k] + 1
                for j in graph.neighbour[graph.start[k] : graph.start[k + 1]]:
                    if level[j] == -1.0:
                        level[j] = base
                        queue[tail] = j
                        tail += 1
        begin = queue[tail - 1]
    key = level[states]
    level[states] = 0.0
    return key


@numba.njit(cache=True)
def _cut(graph, states, key, side):
    """The parts (n,) of the states: 0 left, 1 right, 2 separator.

    *side* (n,) is -1 everywhere, before and after.
    """
    n = len(states)
    middle = np.partition(key, n // 2)[n // 2]
    left = key < middle
    if not left.any():
        left = key <= middle
    if left.all():
        left = np.arange(n) < n // 2
    part = np.where(left, 0, 1)
    side[states] = part
    touches = np.zeros(n, np.bool_)
    rim = np.zeros(2, np.int64)
    for i in range(n):
        k = states[i]
        for j in graph.neighbour[graph.start[k] : graph.start[k + 1]]:
            touches[i] |= side[j] == 1 - side[k]
        rim[side[k]] += touches[i]
    side[states] = -1
    thin = 0 if rim[0] < rim[1] else 1
    return np.where(touches & (part == thin), 2, part)
