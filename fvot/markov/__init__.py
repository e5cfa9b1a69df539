"""Markov chains in continuous time, to full relative accuracy.

rates[i, j] >= 0 is the rate q_ij at which the chain goes from i to j, killing[i] >= 0 the one at
which it ends in i. With the generator Q, the matrix of rates with row sums -killing, all of this is
linear algebra:

    stationary distribution     p Q = 0, sum p = 1
    committors                  Q h = 0 except in the chosen states, h = 1 in one of these, 0 in the
                                others
    first passage times         -Q T = 1 except in the chosen states, T = 0 there
    relaxation rates            -Q x = lambda x
    driven masses               p (-Q) = source

Chains of deep wells have p and lambda over hundreds of decades, and any method that subtracts loses
the small ones. Here states are eliminated without subtraction (`elimination`), in a good order
(`dissection`); the remaining chain, with a state in each well, has the slow rates (`slow_rates`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..arguments.types import Array, ArrayLike
from ..errors import InputError
from .checks import (
    check_chain,
    check_source,
    check_states,
    find_closed_classes,
    require_one_class,
)
from .elimination import Elimination
from .modes import SlowModes, slow_modes
from .passages import backward_committors, committors, passage_times
from .slow_rates import relaxation_rates

__all__ = [
    "SlowModes",
    "Trace",
    "backward_committors",
    "committors",
    "passage_times",
    "relaxation_rates",
    "slow_modes",
    "stationary",
    "trace",
]


def stationary(
    rates: sparse.spmatrix | ArrayLike,
    center: ArrayLike | None = None,
    *,
    killing: ArrayLike | None = None,
    source: ArrayLike | None = None,
) -> Array:
    """The stationary distribution p: sum_i p_i rates[i, j] = p_j sum_i rates[j, i], sum p = 1.

    With a source the masses that it sustains: source[j] + sum_i p_i rates[i, j] = p_j (killing[j] +
    sum_i rates[j, i]).

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.
    killing : array (n,), optional
        Rates >= 0 at which the chain ends; with a source only.
    source : array (n,), optional
        Masses >= 0 that are added to each state per time. From every state the chain must come to
        an end.

    Returns
    -------
    array (n,)
        Every p_i has a relative accuracy of 1e-13, down to 1e-280 of the largest; smaller ones are
        0, as are those of transient states.

    Raises
    ------
    InputError
        For rates that are negative or not finite, and for chains in which several sets of states
        are never left, or with a source any.
    ConvergenceError
        If wells are so deep that the rates between them underflow (barriers of more than 600 kT).

    Notes
    -----
    The cost is that of a sparse LU factorization. (Grassmann, Taksar, Heyman 1985)

    Examples
    --------
    >>> from fvot.markov import stationary
    >>> stationary([[0, 1], [3, 0]]).tolist()
    [0.75, 0.25]
    >>> stationary([[0, 1], [3, 0]], killing=[0, 2], source=[4, 0]).tolist()
    [10.0, 2.0]
    """
    rates, killing, center = check_chain(rates, killing, center)
    if source is None:
        require_one_class(rates, killing)
        return Elimination(rates, killing, center).weights()

    added = check_source(source, len(killing))
    trapped = find_closed_classes(rates, killing)[1]
    if trapped:
        raise InputError(
            f"state {trapped[0]} never leads to an end: what is added there stays, and masses grow "
            "without bound"
        )
    slowest = np.argmin(killing + np.asarray(rates.sum(axis=1)).ravel())
    return Elimination(rates, killing, center, np.array([slowest])).find_driven_masses(added)


@dataclass(frozen=True)
class Trace:
    """A chain, watched in a few of its states: the result of `trace`.

    Every entry is accurate to round-off.

    Parameters
    ----------
    rates : array (m, m)
        Rates between these states (the diagonal is 0).
    killing : array (m,)
        Rates at which the chain ends before it returns to one of them.
    committors : array (m, n)
        committors[i, x] is the probability to come from x to state i before the others and before
        the end.
    occupation : array (m, n)
        occupation[i, x] is the time spent in x per time in state i, before the chain is in one of
        these states again: sum_i p_i occupation[i] is the stationary distribution p.
    """

    rates: Array
    killing: Array
    committors: Array
    occupation: Array

    def backward(self) -> Array:
        """Backward committors (m, n) of a chain without killing: p_i occupation[i, x] / p(x).

        The probability that a chain which is in x came from state i. It is 0 where p(x) underflows.
        For reversible chains these are the committors.
        """
        if self.killing.any():
            raise InputError(
                "backward committors need a chain without killing: use `occupation` instead"
            )

        flow = stationary(self.rates)[:, None] * self.occupation
        p = flow.sum(axis=0)
        return np.divide(flow, p, out=np.zeros_like(flow), where=p > 0)


def trace(
    rates: sparse.spmatrix | ArrayLike,
    states: ArrayLike,
    *,
    killing: ArrayLike | None = None,
    center: ArrayLike | None = None,
) -> Trace:
    """The `Trace` of a chain on some of its states: all others are eliminated.

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored.
    states : array of integers (m,)
        The states that remain.
    killing : array (n,), optional
        Rates >= 0 at which the chain ends.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.

    Returns
    -------
    Trace

    Raises
    ------
    InputError
        For rates that are negative or not finite, and where some states never lead to the chosen
        ones.
    ConvergenceError
        If rates underflow.

    Notes
    -----
    Meyer (1989) calls the rates the stochastic complement.

    Examples
    --------
    >>> from fvot.markov import trace
    >>> trace([[0, 2, 0], [1, 0, 1], [0, 2, 0]], [0, 2]).rates.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    rates, killing, center = check_chain(rates, killing, center)
    n = rates.shape[0]
    states = check_states(states, n)
    is_chosen = np.bincount(states, minlength=n)
    trapped = find_closed_classes(rates, is_chosen + killing)[1]
    if trapped:
        raise InputError(
            f"state {trapped[0]} never leads to the chosen states: choose one of the states that "
            "it leads to, too"
        )

    chain = Elimination(rates, killing, center, states)
    return Trace(chain.rates, chain.killing, chain.committors(), chain.occupation())
