"""Where a chain arrives first, when, and where it came from.

All states of a set are merged into one, which is kept: the rates into it add up. Then, by the
elimination of all others without subtraction,

    committors          Q h = 0, h = 1 in one set, 0 in the others
    first passages      -Q T_m = m cost T_(m-1), T_0 = 1, T_m = 0 in the target: moments of the cost
                        that is gathered until the chain arrives there, or ends
    backward            the committors of the chain backwards in time, with the rates p_j q_ji / p_i

Every value keeps its relative accuracy, also 1 - h, which is the sum of the other committors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ..arguments.functions import is_integer
from ..arguments.types import Array, ArrayLike, IntArray
from ..errors import ConvergenceError, InputError
from .checks import check_chain, check_source, check_states, find_closed_classes
from .elimination import Elimination

# The smallest probability, relative to the largest, of a state whose past is known: below it
# `stationary` is 0 or has lost digits, and rates backwards in time would overflow.
LEAST_PROBABILITY = 1e-280


def committors(
    rates: sparse.spmatrix | ArrayLike,
    sets: Sequence[ArrayLike],
    *,
    killing: ArrayLike | None = None,
    center: ArrayLike | None = None,
) -> Array:
    """The probabilities to come to each of several sets of states before the others.

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored.
    sets : sequence of arrays of integers
        The states of each of the m sets, which have no state in common.
    killing : array (n,), optional
        Rates >= 0 at which the chain ends.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.

    Returns
    -------
    array (m, n)
        h[i, x], of the set i when the chain starts in x. They add up to 1 unless it may end before.

    Raises
    ------
    InputError
        For rates that are negative or not finite, sets that are empty or overlap, and states that
        never lead to any of them nor to an end.
    ConvergenceError
        If rates underflow.

    Examples
    --------
    >>> from fvot.markov import committors
    >>> committors([[0, 1, 0], [1, 0, 3], [0, 1, 0]], [[0], [2]]).tolist()
    [[1.0, 0.25, 0.0], [0.0, 0.75, 1.0]]
    """
    rates, killing, center = check_chain(rates, killing, center)
    merged = _Merged(rates, killing, center, _check_sets(sets, rates.shape[0]))
    merged.require_arrival()
    return merged.spread_committors()


def passage_times(
    rates: sparse.spmatrix | ArrayLike,
    target: ArrayLike,
    *,
    cost: float | ArrayLike = 1.0,
    moments: int = 1,
    killing: ArrayLike | None = None,
    center: ArrayLike | None = None,
) -> Array:
    """Moments of the time, or cost, until a chain first comes to the target, or ends.

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored.
    target : array of integers
        States.
    cost : number or array (n,), optional
        What is gathered per time in each state, at least 0. 1: the time itself.
    moments : int, optional
        The number of moments.
    killing : array (n,), optional
        Rates >= 0 at which the chain ends.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.

    Returns
    -------
    array (moments, n)
        The expected value of the cost to the power of 1, 2, ..., for each state to start in.

    Raises
    ------
    InputError
        For rates that are negative or not finite, and for states that never lead to the target nor
        to an end: their time is infinite.
    ConvergenceError
        If rates underflow, or moments overflow.

    Examples
    --------
    >>> from fvot.markov import passage_times
    >>> passage_times([[0, 1], [3, 0]], [1], moments=2).tolist()
    [[1.0, 0.0], [2.0, 0.0]]
    """
    rates, killing, center = check_chain(rates, killing, center)
    n = rates.shape[0]
    if not is_integer(moments) or moments < 1:
        raise InputError(f"moments must be a number of moments from 1 on, not {moments!r}")
    price = check_source(np.broadcast_to(cost, n) if np.ndim(cost) == 0 else cost, n, "cost")
    merged = _Merged(rates, killing, center, [check_states(target, n)])
    merged.require_arrival("the expected time is infinite; ")

    moment = np.ones(n)
    rows = []
    for power in range(1, moments + 1):
        with np.errstate(over="ignore", invalid="ignore"):
            moment = merged.solve(power * price * moment)
        if not np.isfinite(moment).all():
            raise ConvergenceError(
                f"moment number {power} overflows: it is larger than 1e308; ask for fewer, or "
                "measure time in longer units"
            )
        rows.append(moment)
    return np.stack(rows)


def backward_committors(
    rates: sparse.spmatrix | ArrayLike,
    sets: Sequence[ArrayLike],
    p: ArrayLike,
    *,
    center: ArrayLike | None = None,
) -> Array:
    """The probabilities that a stationary chain, seen in x, was last in each of several sets.

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored. The chain does not end.
    sets : sequence of arrays of integers
        The states of each of the m sets, which have no state in common.
    p : array (n,)
        Its `stationary` distribution.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.

    Returns
    -------
    array (m, n)
        They add up to 1; 0 where p is below 1e-280 of its largest value.

    Raises
    ------
    InputError, ConvergenceError
        As of `committors`.

    Examples
    --------
    In a cycle 0 -> 1 -> 2 -> 0 the chain comes to 1 from 0:

    >>> from fvot.markov import backward_committors
    >>> backward_committors([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0], [2]], [1, 1, 1]).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    rates, _, center = check_chain(rates, None, center)
    n = rates.shape[0]
    p = check_source(p, n, "p")
    p = np.where(p > LEAST_PROBABILITY * p.max(initial=0.0), p, 0.0)
    flow = sparse.diags(p) @ rates
    inverse = np.divide(1.0, p, out=np.zeros(n), where=p > 0)
    reversed_rates = (sparse.diags(inverse) @ flow.T).tocsr()
    never_seen = np.where(p > 0, 0.0, 1.0)
    return committors(reversed_rates, sets, killing=never_seen, center=center)


def _check_sets(sets, n):
    """The sets as arrays, which have no state in common."""
    arrays = [check_states(states, n) for states in sets]
    if len(arrays) == 0:
        raise InputError("sets must be one set of states or more, not none")
    counts = np.bincount(np.concatenate(arrays), minlength=n)
    if counts.max() > 1:
        raise InputError(
            f"state {counts.argmax()} is in {counts.max()} of the sets: they must have no state in "
            "common"
        )
    return arrays


class _Merged:
    """A chain with each of its sets merged into one state, which is never left."""

    def __init__(
        self, rates: sparse.csr_matrix, killing: Array, center: Array, sets: list[IntArray]
    ):
        n = rates.shape[0]
        self.n = n
        self.sets = sets
        is_free = np.ones(n, bool)
        is_free[np.concatenate(sets)] = False
        self.free = np.flatnonzero(is_free)
        n_free = len(self.free)
        self.kept = n_free + np.arange(len(sets))

        number = np.empty(n, np.int64)
        number[self.free] = np.arange(n_free)
        for state, members in zip(self.kept, sets):
            number[members] = state
        inner = rates[self.free].tocoo()
        shape = (n_free + len(sets), n_free + len(sets))
        # equal pairs add up
        self.rates = sparse.csr_matrix((inner.data, (inner.row, number[inner.col])), shape)
        self.killing = np.concatenate([killing[self.free], np.zeros(len(sets))])
        first = [members[0] for members in sets]
        self.center = np.ascontiguousarray(center[:, np.concatenate([self.free, first])])
        self._known: Elimination | None = None

    def require_arrival(self, consequence: str = "") -> None:
        """`InputError` if some states lead neither to the sets nor to an end."""
        is_kept = np.zeros(len(self.killing))
        is_kept[self.kept] = 1.0
        trapped = find_closed_classes(self.rates, self.killing + is_kept)[1]
        if trapped:
            state = self.free[trapped[0]]
            raise InputError(
                f"state {state} never leads to the chosen states: {consequence}choose some of the "
                "states that it leads to, too"
            )

    @property
    def elimination(self) -> Elimination:
        """The elimination of all states but the merged ones."""
        if self._known is None:
            self._known = Elimination(self.rates, self.killing, self.center, self.kept)
        return self._known

    def spread_committors(self) -> Array:
        """The committors (m, n) of all states."""
        h = np.zeros((len(self.sets), self.n))
        for i, members in enumerate(self.sets):
            h[i, members] = 1.0
        if len(self.free):
            place = np.argsort(self.elimination.left)
            h[:, self.free] = self.elimination.committors()[place, : len(self.free)]
        return h

    def solve(self, f: Array) -> Array:
        """u (n,) with -Q u = f >= 0 (n,), and u = 0 in the sets."""
        u = np.zeros(self.n)
        if len(self.free):
            rhs = np.concatenate([f[self.free], np.zeros(len(self.sets))])
            u[self.free] = self.elimination.solve(rhs[None])[0, : len(self.free)]
        return u
