"""Nested dissection: which states are eliminated together, and in what order (George 1973).

A separator, states without which a graph falls into two halves, is eliminated after both halves,
and these are dissected in the same way. The separators are the nodes of a binary tree, its leaves
the pieces that are small. Each node has a front (Duff, Reid 1983): its own states and the later
ones among their neighbours, be it by states that are gone. So a front hears only of the fronts
below it. On plane meshes of n states, whose separators are lines, all fronts together have O(n log
n) rates and cost O(n^3/2); in space O(n^4/3) and O(n^2).
"""

from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

LEAF = 48  # states that are not dissected further
DENSE = 1000  # a graph up to here that cannot be cut well is one dense front


class Graph(NamedTuple):
    """Rates by pairs: state i has the neighbours neighbour[start[i]:start[i + 1]], with *outward*
    the rates to them and *inward* those from them.
    """

    start: np.ndarray
    neighbour: np.ndarray
    outward: np.ndarray
    inward: np.ndarray
    killing: np.ndarray

    @classmethod
    def of(cls, rates, killing):
        """All pairs with a rate one way or the other."""
        pairs = rates.tocoo()
        ends = np.concatenate([pairs.row, pairs.col]), np.concatenate([pairs.col, pairs.row])
        outward = sparse.csr_matrix(
            (np.concatenate([pairs.data, np.zeros(rates.nnz)]), ends), rates.shape
        )
        inward = outward.T.tocsr()  # of the same pattern
        return cls(
            outward.indptr.astype(np.int64),
            outward.indices.astype(np.int64),
            outward.data,
            inward.data,
            killing,
        )


def dissect(graph, center, kept, late):
    """(own, last, parent, place): node i, of which 0 is the root, has the states own[i] and hands
    on to node parent[i] < i.

    The order is that of *place* (n,), in node i below last[i]: the *late* states are the last of
    the root; the *kept* ones (place n) are in no node. The separator is the side of the cut that
    has fewer states. Cut at the median of the longest axis of *center* (dim, n) or, if dim = 0, of
    the distance from a state at the rim.
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
def states_of_front(graph, own, last, place, below, number):
    """The states of a front, and how many of them it may eliminate: its own and, from *below*,
    those that had to wait. These come first. *number* (n,), -1 everywhere, becomes their number in
    the front.
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
    """(first, last, parent): node i is order[first[i]:last[i]]. *order* is sorted: [half | other
    half | separator], and so on in each half.
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
        if len(states) > LEAF:
            key = _levels(graph, states, level) if len(center) == 0 else _longest(center, states)
            part = _cut(graph, states, key, side)
            left = states[part == 0]
            right = states[part == 1]
            cut = states[part == 2]
            if len(states) > DENSE or max(len(left), len(right)) < 0.9 * len(states):
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
def _longest(center, states):
    longest = -1.0
    key = np.zeros(len(states))
    for axis in range(len(center)):
        x = center[axis][states]
        if x.max() - x.min() > longest:
            longest = x.max() - x.min()
            key = x
    return key


@numba.njit(cache=True)
def _levels(graph, states, level):
    """Distance of each of the states, among them, from one at the rim; pieces one after the other."""
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
    """0: left, 1: right, 2: separator. *side* (n,) is -1 everywhere, before and after."""
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
