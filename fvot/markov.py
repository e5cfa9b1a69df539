"""Markov chains in continuous time: stationary distributions, traces and slow rates, to full relative accuracy.

rates[i, j] >= 0 is the rate at which the chain goes from i to j, killing[i] >= 0 the one at which it ends in i. What is left
of a chain when it is watched only outside a state k is again a chain:

    s_k = killing_k + sum_j q_kj,   q_ij += q_ik q_kj / s_k,   killing_i += q_ik killing_k / s_k      (j, i not eliminated)

Nothing is ever subtracted and no diagonal is stored, so every rate keeps its relative accuracy, however small it is beside
the others (Grassmann, Taksar, Heyman 1985; O'Cinneide 1993). Solutions follow by back substitution, again without
subtraction:

    stationary      p_k = sum_i p_i q_ik / s_k          over the states i that are eliminated after k
    committors      h_k = sum_j h_j q_kj / s_k

The states are eliminated in an order of nested dissection (George 1973), many at a time in dense fronts (Duff, Reid 1983). A
state that can hardly be left but for states that are gone (a well) waits for a later front: else its rates could underflow.
"""
from dataclasses import dataclass

import numba
import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, eigsh, splu

from .errors import ConvergenceError, InputError

LEAF = 48               # states that are not dissected further
DENSE = 1000            # a graph up to here that cannot be cut well is one dense front
PANEL = 32              # states that are eliminated before the rest of a front hears of it
NORMAL = 2.3e-308       # smaller numbers are slow and have few digits: they are zero
WAIT = 1e-10            # a state that is left more slowly than this, beside its own rates, waits for a later front
LOST = NORMAL / WAIT    # so this is what underflow may take from a rate
LEAST = 1e14 * LOST     # a state that is left more slowly than this may have lost digits
BIG = 512               # weights are f 2^(BIG block), 1 <= f < 2^BIG

SMALL = 400             # chains up to here: all eigenvalues at once, by a dense matrix
NOISE = 1e-12           # eigenvalues below this part of the largest rate are lost in round-off
SLOW = 1e-4             # below this part of it they are worth a trace
GAP = 100               # what lies between those that a trace gives and the others
TERMS = 12              # of the series in lambda
MOST = 200              # eigenvalues that are looked at


def stationary(rates, center=None):
    """The stationary distribution p (n,): sum_i p_i rates[i, j] = p_j sum_i rates[j, i] for all j, and sum p = 1.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    center (dim, n) : where the states are, if they are somewhere; the elimination is faster with it

    Every p_i is accurate to 1e-13 of itself, down to 1e-280 of the largest; the smallest are 0, as are those of
    transient states. The cost is that of a sparse LU factorization. Raises `InputError` for rates that will not do and for
    chains in which several sets of states are never left, `ConvergenceError` if wells are so deep that the rates between
    them underflow (barriers of more than 600 kT). Grassmann, Taksar, Heyman (1985).
    """
    rates, killing = _checked(rates, None)
    _require_one_class(rates, killing)
    elimination = _Elimination(rates, killing, np.empty(0, np.int64), center, rows=False)
    p = elimination.weights(0.0)
    if (np.abs(elimination.weights(LOST) - p) > 1e-12 * p + LEAST).any():
        raise _underflow()
    return p


@dataclass(frozen=True)
class Trace:
    """What is seen of a chain on a few of its states: all that `trace` finds. Every entry is accurate to round-off.

    rates (m, m) : rates between these states (the diagonal is 0)
    killing (m,) : rates at which the chain ends before it comes back to one of them
    committors (m, n) : committors[i, x], the probability to come from x to state i before the others and before the end
    occupation (m, n) : occupation[i, x], the time spent in x per time in state i, before the chain is in one of these
        states again: sum_i p_i occupation[i] is the stationary distribution p
    """

    rates: np.ndarray
    killing: np.ndarray
    committors: np.ndarray
    occupation: np.ndarray

    def backward(self):
        """Backward committors (m, n) of a chain without killing: from which of the states it came to x, being in x.

        p_i occupation[i, x] / p(x); where p(x) underflows they are 0. For reversible chains these are the committors.
        """
        if self.killing.any():
            raise InputError("backward committors need a chain without killing: use `occupation` instead")
        weighed = stationary(self.rates)[:, None] * self.occupation
        p = weighed.sum(axis=0)
        return np.divide(weighed, p, out=np.zeros_like(weighed), where=p > 0)


def trace(rates, states, *, killing=None, center=None):
    """The `Trace` of a chain on some of its *states* (m,): what is left if all others are eliminated.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    killing (n,) : rates >= 0 at which the chain ends
    center (dim, n) : where the states are; the elimination is faster with it

    Raises `InputError` for input that will not do and where some states never lead to the chosen ones, `ConvergenceError`
    if rates underflow. Meyer (1989) calls the rates the stochastic complement.
    """
    rates, killing = _checked(rates, killing)
    states = _checked_states(states, rates.shape[0])
    lost = _closed_classes(rates, np.bincount(states, minlength=rates.shape[0]) + killing)[1]
    if lost:
        raise InputError(f"state {lost[0]} never leads to the chosen states: choose one of the states, too, that it leads to")
    return _trace(_Elimination(rates, killing, states, center))


def _trace(elimination):
    states, exponent = elimination.left, elimination.exponent
    m, n = len(states), len(exponent)
    committors, occupation = np.zeros((m, n)), np.zeros((m, n))
    committors[np.arange(m), states] = occupation[np.arange(m), states] = 1.0
    elimination.substitute(committors, elimination.rows)
    elimination.substitute(occupation, elimination.columns)
    occupation = np.ldexp(occupation, exponent[states][:, None] - exponent)
    return Trace(np.ldexp(elimination.rates, exponent[states][:, None]), np.ldexp(elimination.killing, exponent[states]),
                 committors, occupation)


def relaxation_rates(rates, k, *, killing=None, center=None):
    """The k slowest decay rates (k,): eigenvalues of -Q with the smallest real parts, Q the generator of the chain.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    killing (n,) : rates >= 0 at which the chain ends. Without, the chain is closed, and its eigenvalue 0 is left out
    center (dim, n) : where the states are; the elimination is faster with it

    Sorted by real part; real for reversible chains (p_i q_ij = p_j q_ji), and for others if all are. Eigenvalues that lie
    well below the others are accurate to about 1e-13 of themselves, be they 1e-250 of the largest rate: they come
    from the `trace` on as many states, one in each well. The others come from shift-invert: 1e-15 of the largest rate, and
    among more than 400 states without reversibility only those near 0 are looked at, not those of small real but large
    imaginary part. Raises `InputError` for input that will not do, `ConvergenceError` if eigenvalues do not converge,
    lie too close for any of this, or underflow (barriers of more than 600 kT).
    """
    rates, killing = _checked(rates, killing)
    n, closed = rates.shape[0], int(not killing.any())
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n - closed:
        raise InputError(f"k, the number of relaxation rates, must be an integer from 1 to {n - closed} "
                         f"for a {'closed' if closed else 'killed'} chain of {n} states, not {k!r}")
    _require_one_class(rates, killing)
    spectrum = _Spectrum(rates, killing)
    values, vectors, cut = _with_gap(spectrum, int(k) + closed, closed)
    if cut > closed:
        basis = spectrum.basis(values, vectors, cut)
        _, wells = linalg.qr(basis.T, mode="r", pivoting=True)      # where the vectors are large and independent
        slow = _slow_values(_Elimination(rates, killing, wells[:cut].astype(np.int64), center), spectrum.reversible)
    else:
        slow = np.empty(0)
    values = np.concatenate([slow, values[cut:]])
    values = values[np.lexsort([values.imag, values.real])][:k]
    return values.real if (np.abs(values.imag) <= 1e-10 * np.abs(values)).all() else values


def _checked(rates, killing):
    """Rates as CSR without diagonal and without zeros, killing as an array."""
    try:
        rates = sparse.csr_matrix(rates, dtype=float, copy=True)
    except (TypeError, ValueError):
        raise InputError(f"rates must be a square sparse matrix of numbers, not {type(rates).__name__}") from None
    n = rates.shape[0]
    if n == 0 or rates.shape != (n, n):
        raise InputError(f"rates must be a square matrix with a row for each state, not {rates.shape}")
    rates.sum_duplicates()
    row = np.repeat(np.arange(n), np.diff(rates.indptr))
    rates.data[row == rates.indices] = 0.0
    _require_rates(rates.data, lambda bad: f"the rate from state {row[bad]} to state {rates.indices[bad]}")
    rates.eliminate_zeros()
    killing = np.zeros(n) if killing is None else np.asarray(killing, float)
    if killing.shape != (n,):
        raise InputError(f"killing must have one rate for each of the {n} states, not the shape {killing.shape}")
    _require_rates(killing, lambda bad: f"the killing rate of state {bad}")
    return rates, killing


def _require_rates(values, name):
    bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    if len(bad):
        raise InputError(f"{name(bad[0])} must be a finite number >= 0, not {values[bad[0]]}")


def _checked_states(states, n):
    given, states = states, np.atleast_1d(np.asarray(states))
    if (states.ndim != 1 or len(states) == 0 or states.dtype.kind not in "iu" or len(np.unique(states)) < len(states)
            or states.min() < 0 or states.max() >= n):
        raise InputError(f"states must be different integers from 0 to {n - 1}, at least one, not {given!r:.80}")
    return states.astype(np.int64)


def _closed_classes(rates, killing):
    """The sets of states that are never left, be it to end: whether each state is in one of them, and a state of each."""
    count, part = connected_components(rates, directed=True, connection="strong")
    row = np.repeat(np.arange(rates.shape[0]), np.diff(rates.indptr))
    is_left = np.zeros(count, bool)
    is_left[part[row[part[row] != part[rates.indices]]]] = True
    is_left[part[killing > 0]] = True
    return ~is_left[part], [int(np.argmax(part == number)) for number in np.flatnonzero(~is_left)[:10]]


def _require_one_class(rates, killing):
    classes = _closed_classes(rates, killing)[1]
    if len(classes) > (0 if killing.any() else 1):
        states = ", ".join(str(state) for state in classes)
        raise InputError(f"the chain is disconnected: there are sets of states that are never left, those of the states "
                         f"{states}; take each of them as a chain of its own, or give rates (or killing) that lead out of them")


# Elimination


class _Elimination:
    """All states but the *kept* ones eliminated; without kept ones, all but one.

    left (m,) : the states that are left;  rates (m, m), killing (m,) : theirs, scaled by 2^-exponent of the row
    exponent (n,) : of the scale of each row: the largest rate out of a state is 1/2 to 1
    index, pivot, rows, columns : for each front (root first) its states, s_k of those it eliminates, q_kj / s_k, q_ik / s_k
    """

    def __init__(self, rates, killing, kept, center, rows=True):
        self.graph = _Graph(rates, killing)
        self.exponent = self.graph.exponent
        self.kept, self.center, self.with_rows = kept, _checked_center(center, len(self.exponent)), rows
        self.lasting = np.ones(len(killing), bool) if len(kept) else _closed_classes(rates, killing)[0]
        late, lost = np.empty(0, np.int64), self._run(np.empty(0, np.int64))
        while len(lost):                   # the bottoms of deep wells, alone among far higher states: better last of all
            if np.isin(lost, late).any():
                raise _underflow()
            late = np.concatenate([late, lost])
            lost = self._run(late)

    def _run(self, late):
        """Eliminate all, the *late* states in the last front. States (n,) of which rates were lost to underflow."""
        n, kept = len(self.exponent), self.kept
        order = np.setdiff1d(np.arange(n), np.concatenate([kept, late]))
        first, last, self.parent = _dissect(self.graph.start, self.graph.neighbour, self.center, order, LEAF)
        if len(late):
            last[0] += len(late)
        order = np.concatenate([order, late])
        place = np.full(n, n)
        place[order] = np.arange(len(order))
        self.index, self.pivot, self.rows, self.columns = [], [], [], []
        left = (kept, np.zeros((len(kept), len(kept) + 1)))
        local, waiting, lost = np.full(n, -1), {}, [np.empty(0, np.int64)]
        for node in range(len(first))[::-1]:
            front, index, own = self._assemble(order[first[node]:last[node]], last[node], place, local, waiting.pop(node, []))
            pivot = _eliminate(front, index, own, WAIT)
            if node == 0 and sum(map(len, lost)) == 0:
                more = _eliminate_largest(front, index, len(pivot), own, self.lasting, LEAST, len(kept))
                pivot = np.concatenate([pivot, more])
                if len(pivot) < own - (len(kept) == 0):
                    raise _underflow()
            lost.append(_lost(front, index, len(pivot), own, self.lasting, LEAST, len(kept)))
            self._store(index, pivot, front)
            left = index[len(pivot):], front[len(pivot):, len(pivot):]
            waiting.setdefault(self.parent[node], []).append(left)
        for collection in (self.index, self.pivot, self.rows, self.columns):
            collection.reverse()
        lost = np.unique(np.concatenate(lost))
        if len(lost) == 0:
            self._finish(kept, *left)
        return lost

    def _assemble(self, own, last, place, local, children):
        graph = self.graph
        below = np.concatenate([index for index, _ in children]) if children else np.empty(0, np.int64)
        index, n_own = _collect(own, last, place, graph.start, graph.neighbour, below, local)
        front = np.zeros((len(index), len(index) + 1))
        _fill(front, own, last, place, graph.start, graph.neighbour, graph.outward, graph.inward, graph.killing, local)
        for states, rest in children:
            _extend_add(front, rest, local[states])
        local[index] = -1
        return front, index, n_own

    def _store(self, index, pivot, front):
        m, n = len(pivot), len(index)
        self.index.append(index)
        self.pivot.append(pivot)
        self.rows.append(front[:m, :n].copy() if self.with_rows else None)
        self.columns.append(np.ascontiguousarray((front[:, :m] / pivot).T))

    def _finish(self, kept, states, rest):
        self.left = kept if len(kept) else states
        number = np.full(len(self.exponent), -1)
        number[self.left] = np.arange(len(self.left))
        self.rates, self.killing = np.zeros((len(self.left),) * 2), np.zeros(len(self.left))
        self.rates[np.ix_(number[states], number[states])] = rest[:, :-1]
        self.killing[number[states]] = rest[:, -1]
        for i, state in enumerate(self.left if len(kept) else []):               # rates between the kept states themselves
            among = slice(self.graph.start[state], self.graph.start[state + 1])
            j = number[self.graph.neighbour[among]]
            self.rates[i, j[j >= 0]] += self.graph.outward[among][j >= 0]
            self.killing[i] += self.graph.killing[state]
        np.fill_diagonal(self.rates, 0.0)

    def substitute(self, u, factors):
        """u_k += sum of factor_kj u_j, the states that were eliminated last first. u (m, n) is overwritten."""
        u_by_state = np.ascontiguousarray(u.T)
        for index, factor in zip(self.index, factors):
            _substitute(u_by_state, index, factor)
        u[:] = u_by_state.T

    def weights(self, lost):
        """The stationary distribution. *lost* is added to all rates to lasting states: what underflow may have taken."""
        weight, block = np.zeros(len(self.exponent)), np.zeros(len(self.exponent), np.int64)
        weight[self.left] = 1.0
        for index, pivot, factor in zip(self.index, self.pivot, self.columns):
            _substitute_wide(weight, block, index, factor, lost * self.lasting[index[:len(pivot)]] / pivot)
        fraction, exponent = np.frexp(weight)
        exponent = exponent + BIG * block - self.exponent
        p = np.ldexp(fraction, np.maximum(exponent - exponent[fraction > 0].max(), -1080))
        return p / p.sum()

    def solve(self, f):
        """u >= 0 (m, n) with -Q u = f, where u = 0 in the kept states; f >= 0 (m, n)."""
        u = np.ascontiguousarray(np.ldexp(f, -self.exponent).T)
        for index, pivot, columns in zip(self.index[::-1], self.pivot[::-1], self.columns[::-1]):
            _send(u, index, pivot, columns)
        u[self.left] = 0.0
        u = u.T.copy()
        self.substitute(u, self.rows)
        return u


def _underflow():
    return ConvergenceError("the rates between the wells of the chain underflow: barriers of more than about 600 kT are beyond "
                            "double precision. Take each well as a chain of its own")


def _checked_center(center, n):
    if center is None:
        return np.empty((0, n))
    center = np.ascontiguousarray(center, float)
    if center.ndim != 2 or center.shape[1] != n or not np.isfinite(center).all():
        raise InputError(f"center must be the (dim, {n}) finite coordinates of the states, not an array {center.shape}")
    return center


class _Graph:
    """The scaled rates, sorted by pairs: state i has the neighbours neighbour[start[i]:start[i + 1]], with *outward* the
    rates to them and *inward* those from them."""

    def __init__(self, rates, killing):
        n = rates.shape[0]
        row = np.repeat(np.arange(n), np.diff(rates.indptr))
        largest = killing.copy()
        np.maximum.at(largest, row, rates.data)
        self.exponent = np.frexp(largest)[1].astype(np.int64)
        self.killing = np.ldexp(killing, -self.exponent)
        q, zero = np.ldexp(rates.data, -self.exponent[row]), np.zeros(len(row))
        ends = np.concatenate([row, rates.indices]), np.concatenate([rates.indices, row])
        outward, inward = (sparse.csr_matrix((np.concatenate(data), ends), (n, n)) for data in ([q, zero], [zero, q]))
        for matrix in (outward, inward):
            matrix.sum_duplicates()
        self.start, self.neighbour = outward.indptr.astype(np.int64), outward.indices.astype(np.int64)
        self.outward, self.inward = outward.data, inward.data


@numba.njit(cache=True)
def _dissect(start, neighbour, center, order, leaf):
    """(first, last, parent) of the nodes: node i is order[first[i]:last[i]], eliminated after all nodes below it.

    *order* is sorted: [half | other half | separator], and so on in each half. The separator is the side of the cut that
    has fewer states. Cut at the median of the longest axis of *center*, or of the distance from a state at the rim.
    """
    n, size = len(start) - 1, len(order)
    first, last, parent = np.zeros(2 * size + 1, np.int64), np.zeros(2 * size + 1, np.int64), np.zeros(2 * size + 1, np.int64)
    side, level = np.full(n, -1), np.zeros(n)
    stack, count = [(0, size, -1)], 0
    if size == 0:
        stack.pop()
    while len(stack) > 0:
        low, high, above = stack.pop()
        first[count], last[count], parent[count] = low, high, above
        states = order[low:high].copy()
        if len(states) > leaf:
            key = _levels(start, neighbour, states, level) if len(center) == 0 else _longest(center, states)
            part = _cut(start, neighbour, states, key, side)
            left, right, cut = states[part == 0], states[part == 1], states[part == 2]
            if len(states) > DENSE or max(len(left), len(right)) < 0.9 * len(states):
                middle, top = low + len(left), low + len(left) + len(right)
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
    longest, key = -1.0, np.zeros(len(states))
    for axis in range(len(center)):
        x = center[axis][states]
        if x.max() - x.min() > longest:
            longest, key = x.max() - x.min(), x
    return key


@numba.njit(cache=True)
def _levels(start, neighbour, states, level):
    """Distance of each of the states, among them, from one at the rim; pieces one after the other."""
    queue, begin = np.empty(len(states), np.int64), states[0]
    for _ in range(2):
        level[states] = -1.0
        tail = head = 0
        seed, base = -1, 0.0
        while tail < len(states):
            root = begin
            while level[root] >= 0:               # the next piece
                seed += 1
                root = states[seed]
            level[root], queue[tail] = base, root
            tail += 1
            while head < tail:
                k = queue[head]
                head += 1
                base = level[k] + 1
                for e in range(start[k], start[k + 1]):
                    if level[neighbour[e]] == -1.0:
                        level[neighbour[e]] = base
                        queue[tail] = neighbour[e]
                        tail += 1
        begin = queue[tail - 1]
    key = level[states]
    level[states] = 0.0
    return key


@numba.njit(cache=True)
def _cut(start, neighbour, states, key, side):
    """0: left, 1: right, 2: separator."""
    n = len(states)
    middle = np.partition(key, n // 2)[n // 2]
    left = key < middle
    if not left.any():
        left = key <= middle
    if left.all():
        left = np.arange(n) < n // 2
    for i in range(n):
        side[states[i]] = 0 if left[i] else 1
    touches, rim = np.zeros(n, np.bool_), np.zeros(2, np.int64)
    for i in range(n):
        k = states[i]
        for e in range(start[k], start[k + 1]):
            touches[i] |= side[neighbour[e]] == 1 - side[k]
        rim[side[k]] += touches[i]
    thin = 0 if rim[0] < rim[1] else 1
    part = np.empty(n, np.int64)
    for i in range(n):
        part[i] = 2 if touches[i] and side[states[i]] == thin else side[states[i]]
    side[states] = -1
    return part


@numba.njit(cache=True)
def _collect(own, last, place, start, neighbour, below, local):
    """The states of a front, and how many of them it may eliminate: they come first. *local* becomes their numbers there."""
    most = len(own) + len(below)
    for k in own:
        most += start[k + 1] - start[k]
    index, n = np.empty(most, np.int64), 0
    for k in own:
        local[k], index[n] = n, k
        n += 1
    for k in below:                               # those that had to wait
        if place[k] < last and local[k] < 0:
            local[k], index[n] = n, k
            n += 1
    n_own = n
    for k in own:
        for j in neighbour[start[k]:start[k + 1]]:
            if place[j] >= last and local[j] < 0:
                local[j], index[n] = n, j
                n += 1
    for k in below:
        if local[k] < 0:
            local[k], index[n] = n, k
            n += 1
    return index[:n].copy(), n_own


@numba.njit(cache=True)
def _fill(front, own, last, place, start, neighbour, outward, inward, killing, local):
    """Rates from and to the own states. Those among them, and those to and from later ones."""
    for k in own:
        i = local[k]
        front[i, -1] = killing[k]
        for e in range(start[k], start[k + 1]):
            j = local[neighbour[e]]
            if j >= 0 and (place[neighbour[e]] >= last or j < len(own)):
                front[i, j] = outward[e]
                front[j, i] = inward[e]


@numba.njit(cache=True)
def _extend_add(front, rest, place):
    n = len(place)
    for i in range(n):
        row = front[place[i]]
        for j in range(n):
            row[place[j]] += rest[i, j]
        row[-1] += rest[i, n]


@numba.njit(cache=True)
def _swap(front, index, a, b):
    if a != b:
        index[a], index[b] = index[b], index[a]
        for j in range(front.shape[1]):
            front[a, j], front[b, j] = front[b, j], front[a, j]
        for i in range(len(front)):
            front[i, a], front[i, b] = front[i, b], front[i, a]


@numba.njit(cache=True, error_model="numpy")
def _leaves(front, k, n):
    """s_k, without what stays among the states before n."""
    s = 0.0
    for j in range(n, front.shape[1]):
        if j != k:
            s += front[k, j]
    return s


@numba.njit(cache=True, error_model="numpy")
def _eliminate(front, index, n_own, least):
    """Eliminate the first n_own states but those that are left more slowly than *least*. The s_k of the eliminated ones.

    front (n, n + 1), the last column is the killing. Afterwards row k holds q_kj / s_k, column k the q_ik. States that wait go
    behind the eliminated ones. A panel of states brings its own rows and columns up to date at once, the rest when it is done.
    """
    n, k = len(front), 0
    pivot = np.empty(n_own)
    while k < n_own:
        begin, end, waits = k, min(k + PANEL, n_own), False
        while k < end:
            s = _leaves(front, k, k + 1)
            if s < least:
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
            _swap(front, index, k, n_own)
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
def _lost(front, index, k, n_own, lasting, least, n_kept):
    """The states that wait (the kth to n_own) and go nowhere, but for underflow. In states that are not *lasting* nothing
    stays, and the last lasting one may go nowhere if no states are kept."""
    others = n_kept
    for i in range(k, len(index)):
        others += lasting[index[i]]
    found = [index[i] for i in range(k, n_own) if lasting[index[i]] and others > 1 and _leaves(front, i, k) < least]
    return np.array(found, np.int64)


@numba.njit(cache=True, error_model="numpy")
def _eliminate_largest(front, index, k, n_own, lasting, least, n_kept):
    """Go on with those that waited, from the kth on: the one that is left fastest first, to s_k = *least*. Their s_k."""
    n, begin = len(front), k
    pivot = np.empty(n_own - k)
    while k < n_own and len(_lost(front, index, k, n_own, lasting, least, n_kept)) == 0:
        best, s = k, -1.0
        for i in range(k, n_own):
            leaves = _leaves(front, i, k)
            if leaves > s:
                best, s = i, leaves
        if s < least:
            break
        _swap(front, index, k, best)
        pivot[k - begin] = s
        for j in range(k + 1, n + 1):
            front[k, j] /= s
        for i in range(k + 1, n):
            a = front[i, k]
            for j in range(k + 1, n + 1):
                front[i, j] += a * front[k, j]
        k += 1
    return pivot[:k - begin].copy()


@numba.njit(cache=True, error_model="numpy")
def _substitute(u, index, factor):
    for k in range(len(factor) - 1, -1, -1):
        mine = u[index[k]]
        for j in range(k + 1, len(index)):
            a = factor[k, j]
            if a > 0:
                for r in range(len(mine)):
                    mine[r] += a * u[index[j], r]


@numba.njit(cache=True, error_model="numpy")
def _normal(value, block):
    """value 2^(BIG block) with 1 <= value < 2^BIG."""
    big = 2.0**BIG
    while value >= big:
        value, block = value / big, block + 1
    while value < 1:
        value, block = value * big, block - 1
    return value, block


@numba.njit(cache=True, error_model="numpy")
def _substitute_wide(weight, block, index, factor, more):
    """The same, all factors of state k larger by more[k], for one u that may span any number of decades:
    weight 2^(BIG block), 1 <= weight < 2^BIG or 0."""
    big = 2.0**BIG
    for k in range(len(factor) - 1, -1, -1):
        total, at = 0.0, 0
        for j in range(k + 1, len(index)):
            a = factor[k, j] + more[k]
            if a > 0 and weight[index[j]] > 0:
                term, its = _normal(a, block[index[j]])
                term, its = _normal(term * weight[index[j]], its)
                if total == 0.0 or its > at:
                    total = total / big if total > 0 and its == at + 1 else 0.0
                    at = its
                if its == at:
                    total += term
                elif its == at - 1:
                    total += term / big
        if total > 0:
            total, at = _normal(total, at)
        weight[index[k]], block[index[k]] = total, at


@numba.njit(cache=True, error_model="numpy")
def _send(u, index, pivot, columns):
    for k in range(len(pivot)):
        mine = u[index[k]]
        for i in range(k + 1, len(index)):
            a = columns[k, i]
            if a > 0:
                for r in range(len(mine)):
                    u[index[i], r] += a * mine[r]
        for r in range(len(mine)):
            mine[r] /= pivot[k]


# Slow rates


class _Spectrum:
    """Approximate eigenvalues of -Q next to 0, and vectors that are large in the wells.

    Reversible chains: those of the symmetric matrix S with the off-diagonal entries -sqrt(q_ij q_ji). Else those of
    P^-1/2 (-Q)^T P^1/2, which is S plus a skew-symmetric matrix: far from normal chains become harmless.
    """

    def __init__(self, rates, killing):
        self.n = rates.shape[0]
        total = np.asarray(rates.sum(axis=1)).ravel() + killing
        self.largest = float(total.max())
        self.scale = 2.0**-np.frexp(self.largest)[1]
        self.reversible = _is_reversible(rates)
        rates = rates * self.scale
        if self.reversible:
            root = rates.sqrt()
            coupling = root.multiply(root.T).tocsr()
        else:
            root = _root_of_weights(rates)
            coupling = (sparse.diags(1 / root) @ rates.T @ sparse.diags(root)).tocsr()
        self.matrix = (sparse.diags(total * self.scale) - coupling).tocsc()
        self.top = self.largest * self.scale

    def nearest(self, count):
        """(values (m,), vectors (n, m)) of the eigenvalues nearest to 0, m = count or n, sorted by size."""
        if self.n <= SMALL:
            values, vectors = self._all()
        else:
            values, vectors = self._some(count)
        order = np.argsort(np.abs(values), kind="stable")
        return values[order] / self.scale, vectors[:, order]

    def _all(self):
        matrix = self.matrix.toarray()
        return linalg.eigh(matrix) if self.reversible else linalg.eig(matrix)

    def basis(self, values, vectors, cut):
        """Vectors (n, cut) that span those of the first *cut* values: eigenvectors that are nearly parallel will not do."""
        if self.reversible or self.n > SMALL or cut == self.n:
            return vectors[:, :cut]
        between = self.scale * np.sqrt(np.abs(values[cut]) * max(np.abs(values[cut - 1]), 1e-15 * self.largest))
        _, basis, found = linalg.schur(self.matrix.toarray(), "complex", sort=lambda value: abs(value) < between)
        return basis[:, :cut] if found == cut else vectors[:, :cut]

    def _some(self, count):
        shift = 1e-9 * self.top
        shifted = (self.matrix + shift * sparse.identity(self.n)).tocsc()
        lu = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        inverse = LinearOperator(shifted.shape, lu.solve, dtype=float)
        start = np.random.default_rng(0).uniform(0.5, 1.5, self.n)
        solver = eigsh if self.reversible else eigs
        try:
            values, vectors = solver(self.matrix, count, sigma=-shift, OPinv=inverse, v0=start, ncv=2 * count + 20)
        except (ArpackError, ArpackNoConvergence) as error:
            raise ConvergenceError(f"the eigenvalues next to 0 do not converge: {error}") from None
        residual = np.linalg.norm(self.matrix @ vectors - values * vectors, axis=0)
        if residual.max() > 1e-10 * self.top:
            raise ConvergenceError(f"the eigenvalues next to 0 are inaccurate: residual {residual.max() / self.top:.1e} "
                                   "of the largest rate")
        return values, vectors


def _root_of_weights(rates):
    """p^1/2, not too small, for a chain whose stationary distribution is unique; else 1."""
    if len(_closed_classes(rates, np.zeros(rates.shape[0]))[1]) > 1:
        return np.ones(rates.shape[0])
    p = stationary(rates)
    return np.sqrt(np.maximum(p / p.max(), 1e-280))


def _is_reversible(rates):
    """Do weights p with p_i q_ij = p_j q_ji exist? log p along a spanning tree, then a look at all pairs.

    A rate that underflowed to 0 is right if p differs by more than 500 in its logarithm.
    """
    n, back = rates.shape[0], rates.T.tocsr()
    both = rates.multiply(back > 0).tocsr()
    order, parent = breadth_first_order(both, 0, directed=False)
    if len(order) < n:
        return False
    row = np.repeat(np.arange(n), np.diff(both.indptr))
    reverse = back.multiply(rates > 0).tocsr()
    for matrix in (both, reverse):
        matrix.sort_indices()
    ratio = np.log(both.data) - np.log(reverse.data)              # log p_j - log p_i
    log_p = np.zeros(n)
    _climb(order, parent, both.indptr, both.indices, ratio, log_p)
    if np.abs(log_p[row] + ratio - log_p[both.indices]).max(initial=0.0) > 1e-8:
        return False
    alone = (rates - both).tocoo()
    alone = alone.row[alone.data > 0], alone.col[alone.data > 0]
    return bool((log_p[alone[1]] - log_p[alone[0]] > 500).all())


@numba.njit(cache=True)
def _climb(order, parent, start, neighbour, ratio, log_p):
    for k in order[1:]:
        above = parent[k]
        for e in range(start[above], start[above + 1]):
            if neighbour[e] == k:
                log_p[k] = log_p[above] + ratio[e]


def _with_gap(spectrum, count, closed):
    """(values, vectors, cut): at least *count* eigenvalues. The first *cut* need a trace: they are lost in round-off, or
    less accurate than they could be. They lie well below the others. *closed* (0 or 1) of them are 0."""
    wanted = count + 6 if spectrum.reversible else 2 * count + 14
    while True:
        wanted = min(wanted, spectrum.n - 2)
        values, vectors = spectrum.nearest(wanted)
        size = np.abs(values) / spectrum.largest
        lost = int((size <= NOISE).sum())
        gaps = [c for c in range(max(lost, 1), len(size)) if size[c - 1] < SLOW and size[c] > GAP * size[c - 1]]
        if gaps or lost <= closed:
            return values, vectors, max(gaps, default=closed)
        if len(values) == spectrum.n:
            return values, vectors, spectrum.n
        if wanted >= min(MOST, spectrum.n - 2):
            raise ConvergenceError(f"{lost} or more relaxation rates lie below {NOISE} of the largest rate, without a gap "
                                   "above: they are lost in round-off")
        wanted *= 2


def _slow_values(elimination, reversible):
    """Eigenvalues as small as the wells are many: those of the chain watched in one state of each well.

    With h the committors, psi the occupation, C = -Q without the wells: an eigenvector x of -Q, on the wells, has

        (rates of the trace, as a matrix) x = lambda (psi h + lambda psi C^-1 h + lambda^2 psi C^-2 h + ...) x

    with h = psi = 1 in the wells. All is non-negative, and the series converges fast: lambda is small beside C.
    """
    watched = _trace(elimination)
    wells = elimination.left
    if (elimination.rates.sum(axis=1) + elimination.killing < LEAST).any():
        raise _underflow()
    moments, h = [watched.occupation @ watched.committors.T], watched.committors.copy()
    h[:, wells] = 0.0
    values = _graded_eigenvalues(watched, moments[0])
    largest = np.abs(values).max(initial=0.0)
    for term in range(1, TERMS):
        if len(wells) == len(elimination.exponent):
            break
        h = elimination.solve(h)
        moments.append(watched.occupation @ h.T)
        size = largest**term * np.max(moments[-1].sum(axis=1) / np.diag(moments[0]))
        if size < 1e-17:
            break
    else:
        if size > 1e-12:
            raise ConvergenceError("the wells of the chain are too shallow to tell its slow rates from the others")
    refined = [_fixed_point(watched, moments, value, place) for place, value in enumerate(values)]
    return np.real(refined) if reversible else np.array(refined)


def _fixed_point(watched, moments, value, place):
    """The eigenvalue at a *place* of the sorted ones. Complex pairs have no order: there, the one nearest to *value*."""
    for _ in range(20):
        last = value = value if value.imag else value.real
        values = _graded_eigenvalues(watched, sum(value**term * moment for term, moment in enumerate(moments)))
        value = values[np.abs(values - value).argmin() if value.imag else place]
        if abs(value - last) <= 1e-15 * abs(value):
            break
    return value


def _graded_eigenvalues(watched, mass):
    """Eigenvalues lambda of A x = lambda M x, A the matrix of the rates (diagonal: their row sums), M near its diagonal.

    They may differ by hundreds of decades. Elimination without subtraction, the state that is left fastest first, gives
    A = X D Y with D > 0 falling and the entries of X and Y at most 1; lambda are the eigenvalues of K D, K = Y M^-1 X. LR steps
    K = L U -> U (D L D^-1) damp what is below the diagonal by the ratios in D, until blocks of similar lambda are left. All
    factors are well-conditioned but D, which is only multiplied with: each lambda keeps its digits (Demmel et al. 1999).
    """
    diagonal = np.diag(mass)
    X, D, Y, order = _factors(watched.rates / np.abs(diagonal)[:, None], watched.killing / np.abs(diagonal))
    M = (mass / np.abs(diagonal)[:, None])[np.ix_(order, order)]
    m = int((D > 0).sum())
    K, D = (Y @ linalg.solve(M, X))[:m, :m], D[:m]
    ratio = np.tril(D[:, None] / D)
    blocks = np.flatnonzero(D[1:] < D[:-1] / 4) + 1
    block = np.searchsorted(blocks, np.arange(m), side="right")
    below = block[:, None] > block
    for _ in range(200):
        if np.abs(K[below]).max(initial=0.0) < 1e-18:
            break
        L, U = _lu(K)
        K = U @ (ratio * L)
    members = [np.flatnonzero(block == number) for number in range(len(blocks) + 1)] if m else []
    parts = [_eigenvalues(K[np.ix_(own, own)], D[own]) for own in members]
    values = np.concatenate(parts) if parts else np.empty(0)
    return values[np.lexsort([values.imag, values.real])]


def _eigenvalues(K, D):
    """Those of K D. LAPACK would not return numbers below 1e-138 as they are."""
    root = np.sqrt(D / D[0])
    return linalg.eigvals(root[:, None] * K * root) * D[0]


def _factors(q, killing):
    """(X, D, Y, order) of the matrix A with the off-diagonal entries -q and the row sums *killing*:
    A[order][:, order] = X D Y."""
    q, killing, m = q.copy(), killing.copy(), len(q)
    np.fill_diagonal(q, 0.0)
    X, Y, D, rest, order = np.eye(m), np.eye(m), np.zeros(m), list(range(m)), []
    for _ in range(m):
        leaves = q[np.ix_(rest, rest)].sum(axis=1) + killing[rest]
        k = rest.pop(int(np.argmax(leaves)))
        s = D[len(order)] = leaves.max()
        order.append(k)
        if s > 0:
            X[rest, k], Y[k, rest] = -q[rest, k] / s, -q[k, rest] / s
            killing[rest] += q[rest, k] * (killing[k] / s)
            q[np.ix_(rest, rest)] += np.outer(q[rest, k], q[k, rest] / s)
            q[rest, rest] = 0.0
    return X[np.ix_(order, order)], D, Y[np.ix_(order, order)], order


def _lu(K):
    L, U = np.eye(len(K), dtype=K.dtype), K.copy()
    for k in range(len(K)):
        L[k + 1:, k] = U[k + 1:, k] / U[k, k]
        U[k + 1:, k:] -= np.outer(L[k + 1:, k], U[k, k:])
    return L, np.triu(U)
