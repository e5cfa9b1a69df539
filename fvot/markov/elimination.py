"""Elimination without subtraction, in dense fronts, and the solutions by back substitution.

A chain that is watched only outside a state k is again a chain:

    s_k = killing_k + sum_j q_kj,   q_ij += q_ik q_kj / s_k,   killing_i += q_ik killing_k / s_k
    (j, i not eliminated)

Nothing is ever subtracted and no diagonal is stored, so every rate keeps its relative accuracy,
however small it is beside the others (Grassmann, Taksar, Heyman 1985; O'Cinneide 1993). Solutions
follow, again without subtraction:

    weights         p_k = sum_i p_i q_ik / s_k      over the states i that are eliminated after k
    committors      h_k = sum_j h_j q_kj / s_k
    driven masses   u_j += u_k q_kj / s_k on the way down, from u = source; then, from p = u / s,
                    p_k += sum_i p_i q_ik / s_k on the way up

States are eliminated many at a time in dense fronts (Duff, Reid 1983), in the order of
`dissection`. Only underflow can spoil the digits. Rows are scaled to a largest rate of 1/2 to 1. A
state that is left almost only for states that are already eliminated (the bottom of a well) waits
for a later front; where all around it lies far above, for the last. Weights have exponents of their
own.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..errors import ConvergenceError
from .checks import find_closed_classes
from .dissection import Graph, dissect, list_front_states

# States that are eliminated before the rest of a front is updated.
PANEL_STATES = 32

# Smaller numbers are slow and have few digits: they are set to zero.
SMALLEST_NORMAL = 2.3e-308

# A state that is left more slowly than this, in units of its own rates, waits for a later front.
WAITING_RATE = 1e-10

# The most that underflow may take from a rate.
UNDERFLOW_LOSS = SMALLEST_NORMAL / WAITING_RATE

# A state that is left more slowly than this may have lost digits.
SMALLEST_SURE_RATE = 1e14 * UNDERFLOW_LOSS

# Weights are f 2^(BLOCK_EXPONENT block), 1 <= f < 2^BLOCK_EXPONENT.
BLOCK_EXPONENT = 512

# Difference of the weights, relative, that underflow may make.
WEIGHT_TOLERANCE = 1e-12

# Exponents of 2 below which weights are 0.
SMALLEST_WEIGHT_EXPONENT = -1080

NO_STATES = np.empty(0, np.int64)


class Front(NamedTuple):
    """The factors of a front for back substitution.

    states (n,) : its states, the m eliminated ones first
    pivot (m,) : s_k
    rows (m, n) : q_kj / s_k; None if no states are kept
    columns (m, n) : q_ik / s_k
    """

    states: IntArray
    pivot: Array
    rows: Array | None
    columns: Array


class Elimination:
    """The elimination of all states but the *kept* ones; without kept ones, of all but one.

    left (m,) : the states that remain
    rates (m, m), killing (m,) : those of the chain that is watched only there
    sure (m,) : whether each of them is left fast enough to have all its digits in spite of
        underflow
    """

    def __init__(
        self,
        rates: sparse.csr_matrix,
        killing: Array,
        center: Array,
        kept: IntArray = NO_STATES,
    ):
        largest_rate = rates.max(axis=1).toarray()
        largest = np.maximum(killing, largest_rate.ravel())
        _, exponent = np.frexp(largest)
        self._exponent = exponent.astype(np.int64)
        row_lengths = np.diff(rates.indptr)
        exponent_of_entry = np.repeat(self._exponent, row_lengths)
        scaled = rates.copy()
        scaled.data = np.ldexp(rates.data, -exponent_of_entry)
        scaled_killing = np.ldexp(killing, -self._exponent)
        self._graph = Graph.from_rates(scaled, scaled_killing)
        self._kept = kept
        self._center = center
        if len(kept):
            self._lasting = np.ones(len(killing), bool)
        else:
            self._lasting = find_closed_classes(rates, killing)[0]

        late = NO_STATES
        lost = self._eliminate(NO_STATES)
        while len(lost):
            if np.isin(lost, late).any():
                raise build_underflow_error()
            late = np.concatenate([late, lost])
            lost = self._eliminate(late)

    def weights(self) -> Array:
        """The stationary distribution p (n,) of a chain without killing, if no states are kept."""
        p = self._compute_weights(0.0)
        change = np.abs(self._compute_weights(UNDERFLOW_LOSS) - p)
        if (change > WEIGHT_TOLERANCE * p + SMALLEST_SURE_RATE).any():
            raise build_underflow_error()

        return p

    def committors(self) -> Array:
        """h (m, n), the probability to come from x to left[i] before the others and the end."""
        return self._substitute(self._build_unit_columns(), [front.rows for front in self._fronts])

    def occupation(self) -> Array:
        """psi (m, n), the time spent in x per time in left[i], before a return to one of *left*."""
        psi = self._substitute(
            self._build_unit_columns(), [front.columns for front in self._fronts]
        )
        return np.ldexp(psi, self._exponent[self.left][:, None] - self._exponent)

    def solve(self, f: Array) -> Array:
        """u >= 0 (m, n) with -Q u = f, where u = 0 in the kept states; f >= 0 (m, n)."""
        u = np.ascontiguousarray(np.ldexp(f, -self._exponent).T)
        for front in reversed(self._fronts):
            _send(u, front.states, front.pivot, front.columns)
        u[self.left] = 0.0
        return self._substitute(u, [front.rows for front in self._fronts])

    def find_driven_masses(self, source: Array) -> Array:
        """p (n,) with p (-Q) = source >= 0 (n,), where one state is kept: what sources sustain
        against the killing. What arrives in the kept state ends at its rate.
        """
        u = np.array(source, float)[:, None]
        for front in reversed(self._fronts):
            _send(u, front.states, front.pivot, front.rows)
        exponent = self._exponent[self.left]
        u[self.left, 0] /= np.ldexp(self.killing, -exponent)
        p = self._substitute(u, [front.columns for front in self._fronts])
        return np.ldexp(p[0], -self._exponent)

    def solve_masses(self, sources: Array) -> Array:
        """p >= 0 (m, n) with p (-Q) = sources >= 0 (m, n) in the eliminated states, and p = 0 in
        the kept ones.
        """
        u = np.ascontiguousarray(sources.T, float)
        for front in reversed(self._fronts):
            _send(u, front.states, front.pivot, front.rows)
        u[self.left] = 0.0
        p = self._substitute(u, [front.columns for front in self._fronts])
        return np.ldexp(p, -self._exponent)

    def _eliminate(self, late):
        """Eliminate all states, the *late* ones in the last front.

        Returns the states whose rates are lost in underflow.
        """
        n = len(self._exponent)
        kept = self._kept
        n_kept = len(kept)
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
                pivot = self._finish_root(rates, states, pivot, n_own)

            m = len(pivot)
            if m < n_own:
                lost.extend(_list_lost(rates, states, m, n_own, self._lasting, n_kept))
            rows = rates[:m, :-1].copy() if n_kept else None
            columns = np.ascontiguousarray((rates[:, :m] / pivot).T)
            self._fronts.append(Front(states, pivot, rows, columns))
            left_states = states[m:]
            left_rates = rates[m:, m:]
            waiting.setdefault(parent[node], []).append((left_states, left_rates))
        self._fronts.reverse()

        rest, self.left, _ = self._assemble(kept, n, place, waiting[-1], number)
        np.fill_diagonal(rest, 0.0)
        self.sure = rest.sum(axis=1) >= SMALLEST_SURE_RATE
        exponent = self._exponent[self.left]
        self.rates = np.ldexp(rest[:, :-1], exponent[:, None])
        self.killing = np.ldexp(rest[:, -1], exponent)
        return np.unique(np.array(lost, np.int64))

    def _finish_root(self, rates, states, pivot, n_own):
        """Eliminate the states of the root that waited; all s_k."""
        n_kept = len(self._kept)
        late = _eliminate_largest(rates, states, len(pivot), n_own, self._lasting, n_kept)
        pivot = np.concatenate([pivot, late])
        n_remaining = 0 if n_kept else 1
        if len(pivot) < n_own - n_remaining:
            raise build_underflow_error()

        return pivot

    def _assemble(self, own, last, place, below, number):
        """(rates (n, n + 1), states, n_own) of a front: its own rates and those from *below*.

        The last column is the killing; the first n_own states may be eliminated. *number* is -1
        everywhere, before and after.
        """
        passed_on = np.concatenate([states for states, _ in below]) if below else NO_STATES
        states, n_own = list_front_states(self._graph, own, last, place, passed_on, number)
        rates = np.zeros((len(states), len(states) + 1))
        _fill(rates, self._graph, own, last, place, number)
        for front_states, rest in below:
            _extend_add(rates, rest, number[front_states])
        number[states] = -1
        return rates, states, n_own

    def _build_unit_columns(self):
        u = np.zeros((len(self._exponent), len(self.left)))
        u[self.left, np.arange(len(self.left))] = 1.0
        return u

    def _substitute(self, u, factors):
        """u_k += sum of factor_kj u_j, last eliminated first; returns (m, n).

        u (n, m) is overwritten.
        """
        for front, factor in zip(self._fronts, factors):
            _substitute(u, front.states, factor)
        return np.ascontiguousarray(u.T)

    def _compute_weights(self, loss):
        """p, with *loss* added to all rates to lasting states: the most that underflow took."""
        weight = np.zeros(len(self._exponent))
        block = np.zeros(len(self._exponent), np.int64)
        weight[self.left] = 1.0
        for states, pivot, _, columns in self._fronts:
            more = loss * self._lasting[states[: len(pivot)]] / pivot
            _substitute_wide(weight, block, states, columns, more)

        fraction, exponent = np.frexp(weight)
        exponent = exponent + BLOCK_EXPONENT * block - self._exponent
        exponent = exponent - exponent[fraction > 0].max()
        p = np.ldexp(fraction, np.maximum(exponent, SMALLEST_WEIGHT_EXPONENT))
        return p / p.sum()


def build_underflow_error() -> ConvergenceError:
    """The error for rates that underflow."""
    return ConvergenceError(
        "the rates between the wells of the chain underflow: barriers of more than about 600 kT "
        "are beyond double precision. Take each well as a chain of its own"
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
    """Eliminate the first n_own states; the s_k of the eliminated ones.

    States that are left more slowly than WAITING_RATE wait.

    front (n, n + 1), the last column is the killing. Afterwards row k holds q_kj / s_k, column k
    the q_ik. States that wait stand behind the eliminated ones. A panel of states updates its own
    rows and columns at once, the others when it is finished.
    """
    n = len(front)
    k = 0
    pivot = np.empty(n_own)
    while k < n_own:
        begin = k
        end = min(k + PANEL_STATES, n_own)
        waits = False
        while k < end:
            s = _sum_rates(front, k, k + 1)
            if s < WAITING_RATE:
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
                    row[j] = q if q > SMALLEST_NORMAL else 0.0
            k += m


@numba.njit(cache=True, error_model="numpy")
def _eliminate_largest(front, states, k, n_own, lasting, n_kept):
    """Eliminate those that waited, from the kth on, the one that is left fastest first; their s_k.

    It ends where s_k falls below SMALLEST_SURE_RATE.
    """
    n = len(front)
    begin = k
    pivot = np.empty(n_own - k)
    while k < n_own and len(_list_lost(front, states, k, n_own, lasting, n_kept)) == 0:
        best = k
        s = -1.0
        for i in range(k, n_own):
            rate = _sum_rates(front, i, k)
            if rate > s:
                best = i
                s = rate
        if s < SMALLEST_SURE_RATE:
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
def _list_lost(front, states, k, n_own, lasting, n_kept):
    """The states that wait (the kth to n_own) and are not left at all, because of underflow.

    States that are not *lasting* have no weight, and the last lasting one need not be left if no
    states are kept.
    """
    others = n_kept
    for i in range(k, len(states)):
        others += lasting[states[i]]
    lost = [
        states[i]
        for i in range(k, n_own)
        if lasting[states[i]] and others > 1 and _sum_rates(front, i, k) < SMALLEST_SURE_RATE
    ]
    return np.array(lost, np.int64)


@numba.njit(cache=True, error_model="numpy")
def _sum_rates(front, k, n):
    """s_k, without the rates to states before n."""
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
    """value 2^(BLOCK_EXPONENT block) with 1 <= value < 2^BLOCK_EXPONENT."""
    big = 2.0**BLOCK_EXPONENT
    while value >= big:
        value = value / big
        block = block + 1
    while value < 1:
        value = value * big
        block = block - 1
    return value, block


@numba.njit(cache=True, error_model="numpy")
def _substitute_wide(weight, block, states, factor, more):
    """As `_substitute`, for one u over any number of decades, with factors larger by more[k].

    u = weight 2^(BLOCK_EXPONENT block), 1 <= weight < 2^BLOCK_EXPONENT or 0.
    """
    big = 2.0**BLOCK_EXPONENT
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
