"""Elimination without subtraction, in dense fronts; and what follows by back substitution.

What is left of a chain when it is watched only outside a state k is again a chain:

    s_k = killing_k + sum_j q_kj,   q_ij += q_ik q_kj / s_k,   killing_i += q_ik killing_k / s_k
    (j, i not eliminated)

Nothing is ever subtracted and no diagonal is stored, so every rate keeps its relative accuracy,
however small it is beside the others (Grassmann, Taksar, Heyman 1985; O'Cinneide 1993). Solutions
follow, again without subtraction:

    weights         p_k = sum_i p_i q_ik / s_k          over the states i that are eliminated after
    k committors      h_k = sum_j h_j q_kj / s_k

States are eliminated many at a time in dense fronts (Duff, Reid 1983), in the order of
`dissection`. All that can spoil the digits is underflow. Rows are scaled to a largest rate of 1/2
to 1. A state that can hardly be left but for states that are gone (the bottom of a well) waits for
a later front; where all around it lies far above, for the last. Weights have exponents of their
own.
"""

from typing import NamedTuple

import numba
import numpy as np

from ..errors import ConvergenceError
from .checks import closed_classes
from .dissection import Graph, dissect, states_of_front

PANEL = 32  # states that are eliminated before the rest of a front hears of it
NORMAL = 2.3e-308  # smaller numbers are slow and have few digits: they are zero
# a state that is left more slowly than this, beside its own rates, waits for a later front
WAIT = 1e-10
LOST = NORMAL / WAIT  # so this is what underflow may take from a rate
LEAST = 1e14 * LOST  # a state that is left more slowly than this may have lost digits
BIG = 512  # weights are f 2^(BIG block), 1 <= f < 2^BIG
NONE = np.empty(0, np.int64)


class Front(NamedTuple):
    """What back substitution needs of a front: its n states, the m eliminated ones first, s_k, q_kj
    / s_k, q_ik / s_k.
    """

    states: np.ndarray  # (n,)
    pivot: np.ndarray  # (m,)
    rows: np.ndarray  # (m, n); None if no states are kept
    columns: np.ndarray  # (m, n)


class Elimination:
    """All states but the *kept* ones eliminated; without kept ones, all but one.

    left (m,) : the states that are left
    rates (m, m), killing (m,) : theirs, those of the chain that is watched only there
    sure (m,) : whether each of them is left fast enough to have all its digits in spite of
        underflow
    """

    def __init__(self, rates, killing, center, kept=NONE):
        largest = np.maximum(killing, rates.max(axis=1).toarray().ravel())
        self._exponent = np.frexp(largest)[1].astype(np.int64)
        scaled = rates.copy()
        scaled.data = np.ldexp(rates.data, -np.repeat(self._exponent, np.diff(rates.indptr)))
        self._graph = Graph.of(scaled, np.ldexp(killing, -self._exponent))
        self._kept = kept
        self._center = center
        self._lasting = (
            np.ones(len(killing), bool) if len(kept) else closed_classes(rates, killing)[0]
        )
        late = NONE
        lost = self._eliminate(NONE)
        while len(lost):
            if np.isin(lost, late).any():
                raise underflow()
            late = np.concatenate([late, lost])
            lost = self._eliminate(late)

    def weights(self):
        """The stationary distribution p (n,) of a chain without killing, if no states are kept."""
        p = self._weights(0.0)
        if (np.abs(self._weights(LOST) - p) > 1e-12 * p + LEAST).any():
            raise underflow()
        return p

    def committors(self):
        """h (m, n), h[i, x] the probability to come from x to left[i] before the others of *left*
        and before the end.
        """
        return self._substitute(self._unit(), [front.rows for front in self._fronts])

    def occupation(self):
        """psi (m, n), psi[i, x] the time spent in x per time in left[i], until the chain is in one
        of *left* again.
        """
        psi = self._substitute(self._unit(), [front.columns for front in self._fronts])
        return np.ldexp(psi, self._exponent[self.left][:, None] - self._exponent)

    def solve(self, f):
        """u >= 0 (m, n) with -Q u = f, where u = 0 in the kept states; f >= 0 (m, n)."""
        u = np.ascontiguousarray(np.ldexp(f, -self._exponent).T)
        for front in reversed(self._fronts):
            _send(u, front.states, front.pivot, front.columns)
        u[self.left] = 0.0
        return self._substitute(u, [front.rows for front in self._fronts])

    def _eliminate(self, late):
        """Eliminate all, the *late* states in the last front. Returns the states whose rates
        underflow has taken.
        """
        n = len(self._exponent)
        kept = self._kept
        own, last, parent, place = dissect(self._graph, self._center, kept, late)
        number = np.full(n, -1)
        waiting = {}
        lost = []
        self._fronts = []
        for node in reversed(range(len(own))):
            rates, states, n_own = self._assemble(
                own[node], last[node], place, waiting.pop(node, []), number
            )
            pivot = _eliminate(rates, states, n_own)
            if node == 0 and not lost:
                pivot = np.concatenate(
                    [
                        pivot,
                        _eliminate_largest(
                            rates, states, len(pivot), n_own, self._lasting, len(kept)
                        ),
                    ]
                )
                if len(pivot) < n_own - (len(kept) == 0):
                    raise underflow()
            m = len(pivot)
            if m < n_own:
                lost.extend(_lost(rates, states, m, n_own, self._lasting, len(kept)))
            self._fronts.append(
                Front(
                    states,
                    pivot,
                    rates[:m, :-1].copy() if len(kept) else None,
                    np.ascontiguousarray((rates[:, :m] / pivot).T),
                )
            )
            waiting.setdefault(parent[node], []).append((states[m:], rates[m:, m:]))
        self._fronts.reverse()
        rest, self.left, _ = self._assemble(kept, n, place, waiting[-1], number)
        np.fill_diagonal(rest, 0.0)
        self.sure = rest.sum(axis=1) >= LEAST
        self.rates = np.ldexp(rest[:, :-1], self._exponent[self.left][:, None])
        self.killing = np.ldexp(rest[:, -1], self._exponent[self.left])
        return np.unique(np.array(lost, np.int64))

    def _assemble(self, own, last, place, below, number):
        """(rates (n, n + 1), states, n_own) of a front: the own rates, and what the fronts *below*
        hand on. The last column is the killing; the first n_own states may be eliminated. *number*
        is -1 everywhere, before and after.
        """
        handed = np.concatenate([states for states, _ in below]) if below else NONE
        states, n_own = states_of_front(self._graph, own, last, place, handed, number)
        rates = np.zeros((len(states), len(states) + 1))
        _fill(rates, self._graph, own, last, place, number)
        for theirs, rest in below:
            _extend_add(rates, rest, number[theirs])
        number[states] = -1
        return rates, states, n_own

    def _unit(self):
        u = np.zeros((len(self._exponent), len(self.left)))
        u[self.left, np.arange(len(self.left))] = 1.0
        return u

    def _substitute(self, u, factors):
        """u_k += sum of factor_kj u_j, last eliminated first. u (n, m) is overwritten; returned is
        (m, n).
        """
        for front, factor in zip(self._fronts, factors):
            _substitute(u, front.states, factor)
        return np.ascontiguousarray(u.T)

    def _weights(self, lost):
        """p, if *lost* is added to all rates to lasting states: what underflow may have taken."""
        weight = np.zeros(len(self._exponent))
        block = np.zeros(len(self._exponent), np.int64)
        weight[self.left] = 1.0
        for states, pivot, _, columns in self._fronts:
            _substitute_wide(
                weight, block, states, columns, lost * self._lasting[states[: len(pivot)]] / pivot
            )
        fraction, exponent = np.frexp(weight)
        exponent = exponent + BIG * block - self._exponent
        p = np.ldexp(fraction, np.maximum(exponent - exponent[fraction > 0].max(), -1080))
        return p / p.sum()


def underflow():
    """The error to raise."""
    return ConvergenceError(
        "the rates between the wells of the chain underflow: barriers of more than about 600 kT "
        "are beyond "
        "double precision. Take each well as a chain of its own"
    )


@numba.njit(cache=True)
def _fill(front, graph, own, last, place, number):
    """Rates from and to the own states: those among them, and those to and from later ones."""
    for k in own:
        i = number[k]
        front[i, -1] = graph.killing[k]
        for e in range(graph.start[k], graph.start[k + 1]):
            neighbour = graph.neighbour[e]
            j = number[neighbour]
            if j >= 0 and (place[neighbour] >= last or j < len(own)):
                front[i, j] = graph.outward[e]
                front[j, i] = graph.inward[e]


@numba.njit(cache=True)
def _extend_add(front, rest, number):
    n = len(number)
    for i in range(n):
        row = front[number[i]]
        for j in range(n):
            row[number[j]] += rest[i, j]
        row[-1] += rest[i, n]


@numba.njit(cache=True, error_model="numpy")
def _eliminate(front, states, n_own):
    """Eliminate the first n_own states but those that are left more slowly than WAIT. The s_k of
    the eliminated ones.

    front (n, n + 1), the last column is the killing. Afterwards row k holds q_kj / s_k, column k
    the q_ik. States that wait go behind the eliminated ones. A panel of states brings its own rows
    and columns up to date at once, the rest when it is done.
    """
    n = len(front)
    k = 0
    pivot = np.empty(n_own)
    while k < n_own:
        begin = k
        end = min(k + PANEL, n_own)
        waits = False
        while k < end:
            s = _leaves(front, k, k + 1)
            if s < WAIT:
                waits = True
                break
            pivot[k] = s
            for j in range(k + 1, n + 1):
                front[k, j] /= s
            for i in range(k + 1, n):
                a = front[i, k]
                if a > 0:
                    for j in range(k + 1, n + 1 if i < end else end):
                        front[i, j] += a * front[k, j]
            k += 1
        _update(front, begin, k, end)
        if waits:
            n_own -= 1
            _swap(front, states, k, n_own)
    return pivot[:k].copy()


@numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
def _update(front, begin, done, end):
    """q_ij += sum over the states *begin* to *done* of q_ik q_kj / s_k, for i, j from *end* on."""
    n = len(front)
    for i in range(end, n):
        row = front[i, end:]
        k = begin
        while k < done:
            m = min(done - k, 4)
            a = front[i, k]
            b = front[i, k + 1] if m > 1 else 0.0
            c = front[i, k + 2] if m > 2 else 0.0
            d = front[i, k + 3] if m > 3 else 0.0
            if a > 0 or b > 0 or c > 0 or d > 0:
                A, B = front[k, end:], front[k + min(1, m - 1), end:]
                C, D = front[k + min(2, m - 1), end:], front[k + m - 1, end:]
                for j in range(len(row)):
                    q = row[j] + ((a * A[j] + b * B[j]) + (c * C[j] + d * D[j]))
                    row[j] = q if q > NORMAL else 0.0
            k += m


@numba.njit(cache=True, error_model="numpy")
def _eliminate_largest(front, states, k, n_own, lasting, n_kept):
    """Go on with those that waited, from the kth on: the one that is left fastest first, to s_k =
    LEAST. Their s_k.
    """
    n = len(front)
    begin = k
    pivot = np.empty(n_own - k)
    while k < n_own and len(_lost(front, states, k, n_own, lasting, n_kept)) == 0:
        best = k
        s = -1.0
        for i in range(k, n_own):
            leaves = _leaves(front, i, k)
            if leaves > s:
                best = i
                s = leaves
        if s < LEAST:
            break
        _swap(front, states, k, best)
        pivot[k - begin] = s
        for j in range(k + 1, n + 1):
            front[k, j] /= s
        for i in range(k + 1, n):
            a = front[i, k]
            for j in range(k + 1, n + 1):
                front[i, j] += a * front[k, j]
        k += 1
    return pivot[: k - begin].copy()


@numba.njit(cache=True, error_model="numpy")
def _lost(front, states, k, n_own, lasting, n_kept):
    """The states that wait (the kth to n_own) and go nowhere, but for underflow. In states that are
    not *lasting* nothing stays, and the last lasting one may go nowhere if no states are kept.
    """
    others = n_kept
    for i in range(k, len(states)):
        others += lasting[states[i]]
    found = [
        states[i]
        for i in range(k, n_own)
        if lasting[states[i]] and others > 1 and _leaves(front, i, k) < LEAST
    ]
    return np.array(found, np.int64)


@numba.njit(cache=True, error_model="numpy")
def _leaves(front, k, n):
    """s_k, without what stays among the states before n."""
    s = 0.0
    for j in range(n, front.shape[1]):
        if j != k:
            s += front[k, j]
    return s


@numba.njit(cache=True)
def _swap(front, states, a, b):
    if a != b:
        states[a], states[b] = states[b], states[a]
        for j in range(front.shape[1]):
            front[a, j], front[b, j] = front[b, j], front[a, j]
        for i in range(len(front)):
            front[i, a], front[i, b] = front[i, b], front[i, a]


@numba.njit(cache=True, error_model="numpy")
def _substitute(u, states, factor):
    for k in range(len(factor) - 1, -1, -1):
        mine = u[states[k]]
        for j in range(k + 1, len(states)):
            a = factor[k, j]
            if a > 0:
                for r in range(len(mine)):
                    mine[r] += a * u[states[j], r]


@numba.njit(cache=True, error_model="numpy")
def _normal(value, block):
    """value 2^(BIG block) with 1 <= value < 2^BIG."""
    big = 2.0**BIG
    while value >= big:
        value = value / big
        block = block + 1
    while value < 1:
        value = value * big
        block = block - 1
    return value, block


@numba.njit(cache=True, error_model="numpy")
def _substitute_wide(weight, block, states, factor, more):
    """The same, all factors of state k larger by more[k], for one u that may span any number of
    decades: weight 2^(BIG block), 1 <= weight < 2^BIG or 0.
    """
    big = 2.0**BIG
    for k in range(len(factor) - 1, -1, -1):
        total = 0.0
        at = 0
        for j in range(k + 1, len(states)):
            a = factor[k, j] + more[k]
            if a > 0 and weight[states[j]] > 0:
                term, its = _normal(a, block[states[j]])
                term, its = _normal(term * weight[states[j]], its)
                if total == 0.0 or its > at:
                    total = total / big if total > 0 and its == at + 1 else 0.0
                    at = its
                if its == at:
                    total += term
                elif its == at - 1:
                    total += term / big
        if total > 0:
            total, at = _normal(total, at)
        weight[states[k]] = total
        block[states[k]] = at


@numba.njit(cache=True, error_model="numpy")
def _send(u, states, pivot, columns):
    for k in range(len(pivot)):
        mine = u[states[k]]
        for i in range(k + 1, len(states)):
            a = columns[k, i]
            if a > 0:
                for r in range(len(mine)):
                    u[states[i], r] += a * mine[r]
        for r in range(len(mine)):
            mine[r] /= pivot[k]
