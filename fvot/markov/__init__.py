"""Markov chains in continuous time: stationary distributions, traces and slow rates, to full
relative accuracy.

rates[i, j] >= 0 is the rate q_ij at which the chain goes from i to j, killing[i] >= 0 the one at
which it ends in i. With the generator Q, whose diagonal makes the row sums of Q those of -killing,
all of this is linear algebra:

    stationary distribution     p Q = 0, sum p = 1 committors                  Q h = 0 but in the
    chosen states, h = 1 in one of these, 0 in the others relaxation rates            -Q x = lambda
    x

Chains of deep wells have p and lambda over hundreds of decades, and any method that subtracts loses
the small ones. Here states are eliminated without subtraction (`elimination`), in a good order
(`dissection`); what is left, a chain with a state in each well, has the slow rates (`slow_rates`).
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .checks import checked_chain, checked_states, closed_classes, require_one_class
from .elimination import Elimination
from .slow_rates import relaxation_rates

__all__ = ["Trace", "relaxation_rates", "stationary", "trace"]


def stationary(rates, center=None):
    """The stationary distribution p (n,): sum_i p_i rates[i, j] = p_j sum_i rates[j, i] for all j,
    and sum p = 1.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    center (dim, n) : where the states are, if they are somewhere; the elimination is faster with it

    Every p_i is accurate to 1e-13 of itself, down to 1e-280 of the largest; the smallest are 0, as
    are those of transient states. The cost is that of a sparse LU factorization. Raises
    `InputError` for rates that will not do and for chains in which several sets of states are never
    left, `ConvergenceError` if wells are so deep that the rates between them underflow (barriers of
    more than 600 kT). Grassmann, Taksar, Heyman (1985).
    """
    rates, killing, center = checked_chain(rates, None, center)
    require_one_class(rates, killing)
    return Elimination(rates, killing, center).weights()


@dataclass(frozen=True)
class Trace:
    """What is seen of a chain on a few of its states: all that `trace` finds. Every entry is
    accurate to round-off.

    rates (m, m) : rates between these states (the diagonal is 0)
    killing (m,) : rates at which the chain ends before it comes back to one of them
    committors (m, n) : committors[i, x], the probability to come from x to state i before the
        others and before the end
    occupation (m, n) : occupation[i, x], the time spent in x per time in state i, before the chain
        is in one of these states again: sum_i p_i occupation[i] is the stationary distribution p
    """

    rates: np.ndarray
    killing: np.ndarray
    committors: np.ndarray
    occupation: np.ndarray

    def backward(self):
        """Backward committors (m, n) of a chain without killing: from which of the states it came
        to x, being in x.

        p_i occupation[i, x] / p(x); where p(x) underflows they are 0. For reversible chains these
        are the committors.
        """
        if self.killing.any():
            raise InputError(
                "backward committors need a chain without killing: use `occupation` instead"
            )
        weighed = stationary(self.rates)[:, None] * self.occupation
        p = weighed.sum(axis=0)
        return np.divide(weighed, p, out=np.zeros_like(weighed), where=p > 0)


def trace(rates, states, *, killing=None, center=None):
    """The `Trace` of a chain on some of its *states* (m,): what is left if all others are
    eliminated.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    killing (n,) : rates >= 0 at which the chain ends
    center (dim, n) : where the states are; the elimination is faster with it

    Raises `InputError` for input that will not do and where some states never lead to the chosen
    ones, `ConvergenceError` if rates underflow. Meyer (1989) calls the rates the stochastic
    complement.
    """
    rates, killing, center = checked_chain(rates, killing, center)
    states = checked_states(states, rates.shape[0])
    lost = closed_classes(rates, np.bincount(states, minlength=rates.shape[0]) + killing)[1]
    if lost:
        raise InputError(
            f"state {lost[0]} never leads to the chosen states: choose one of the states, too, "
            "that it leads to"
        )
    watched = Elimination(rates, killing, center, states)
    return Trace(watched.rates, watched.killing, watched.committors(), watched.occupation())
