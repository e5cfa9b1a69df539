"""Committors and passage times of chains: against exact fractions, dense algebra and `trace`."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fvot.errors import ConvergenceError, InputError
from fvot.markov import (
    backward_committors,
    committors,
    passage_times,
    stationary,
    trace,
)


def random_chain(n=60, seed=0):
    """(rates, killing) of a chain that is not reversible, with a rate for every third pair."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(0, 3, (n, n))) * (rng.random((n, n)) < 0.3)
    np.fill_diagonal(rates, 0)
    return rates, np.exp(rng.normal(-3, 2, n)) * (rng.random(n) < 0.3)


def generator(rates, killing):
    return rates - np.diag(rates.sum(axis=1) + killing)


SETS = [[3, 17], [20], [41, 2, 8]]


def test_committors_solve_their_equation():
    rates, killing = random_chain()
    h = committors(rates, SETS, killing=killing)
    Q = generator(rates, killing)
    free = np.setdiff1d(np.arange(60), np.concatenate(SETS))
    for i, members in enumerate(SETS):
        exact = np.zeros(60)
        exact[members] = 1
        exact[free] = np.linalg.solve(-Q[np.ix_(free, free)], Q[np.ix_(free, members)].sum(axis=1))
        assert_allclose(h[i], exact, rtol=1e-11)

    closed = committors(rates, SETS)
    assert_allclose(closed.sum(axis=0), 1, rtol=1e-14)


def test_committors_of_single_states_are_those_of_the_trace():
    rates, killing = random_chain(seed=1)
    states = [5, 30, 7]
    traced = trace(rates, states, killing=killing)
    assert_allclose(
        committors(rates, [[state] for state in states], killing=killing),
        traced.committors,
        rtol=1e-13,
    )


def test_moments_of_passage_times_solve_their_equation():
    rates, killing = random_chain(seed=2)
    cost = np.random.default_rng(3).uniform(0, 2, 60)
    target = [4, 50]
    T = passage_times(rates, target, cost=cost, moments=3, killing=killing)
    Q = generator(rates, killing)
    free = np.setdiff1d(np.arange(60), target)
    before = np.ones(60)
    for m in range(3):
        exact = np.zeros(60)
        exact[free] = np.linalg.solve(-Q[np.ix_(free, free)], ((m + 1) * cost * before)[free])
        assert_allclose(T[m], exact, rtol=1e-11)
        before = T[m]


def test_moments_are_those_of_arriving_before_a_slow_end():
    """E[e^(-k T)] is the probability to arrive before an end at the rate k."""
    rates, _ = random_chain(seed=6)
    T = passage_times(rates, [4, 50], moments=4)
    k = 1e-3 / T[0].max()
    h = committors(rates, [[4, 50]], killing=np.full(60, k))[0]
    series = 1 - k * T[0] + k**2 * T[1] / 2 - k**3 * T[2] / 6 + k**4 * T[3] / 24
    assert_allclose(h, series, rtol=1e-13)


def test_backward_committors_are_those_of_the_reversed_chain():
    rates, _ = random_chain(seed=4)
    p = stationary(rates)
    g = backward_committors(rates, SETS, p)
    assert_allclose(g.sum(axis=0), 1, rtol=1e-13)
    reversed_rates = (p[:, None] * rates).T / p[:, None]
    assert_allclose(g, committors(reversed_rates, SETS), rtol=1e-12)

    symmetric = rates + rates.T
    weights = np.random.default_rng(5).uniform(1, 2, 60)
    reversible = symmetric / weights[:, None]
    p = weights / weights.sum()
    assert_allclose(
        backward_committors(reversible, SETS, p), committors(reversible, SETS), rtol=1e-12
    )


def test_the_past_of_states_whose_probability_underflows_is_unknown():
    """A walk with a bias of 1e-10 a step, to 1e-400: it is reversible."""
    n = 41
    rates = np.diag(np.ones(n - 1), 1) + np.diag(np.full(n - 1, 1e10), -1)
    p = np.array([float(f"1e-{10 * k}") for k in range(n)])
    assert ((p > 0) & (p < 1e-308)).any() and p[-1] == 0
    g = backward_committors(rates, [[0], [3]], p)
    seen = p > 1e-279
    assert_allclose(g[:, seen], committors(rates, [[0], [3]])[:, seen], rtol=1e-12)
    assert (g[:, ~seen] == 0).all()


def test_a_barrier_of_1000_decades_between_committors_in_exact_fractions():
    """A walk with a bias of 1e-4 a step: h = 4e-k after k steps back, in both directions."""
    n = 61
    up, down = 1.0, 1e4
    rates = np.diag(np.full(n - 1, up), 1) + np.diag(np.full(n - 1, down), -1)
    ratio = Fraction(down)
    total = sum(ratio**k for k in range(n - 1))
    exact = [sum(ratio**k for k in range(i)) / total for i in range(n)]
    h = committors(rates, [[0], [n - 1]])
    assert_allclose(h[1], [float(value) for value in exact], rtol=1e-14)
    assert h[1, 1] < 1e-230
    rest = [float(1 - value) for value in exact]
    assert_allclose(h[0], rest, rtol=1e-14)


def test_sets_may_be_all_states_or_one():
    rates = [[0, 1, 0], [1, 0, 3], [0, 1, 0]]
    assert committors(rates, [[0, 1], [2]]).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert committors(rates, [[1]]).tolist() == [[1, 1, 1]]
    assert passage_times(rates, [0, 1, 2]).tolist() == [[0, 0, 0]]


def test_refusals():
    rates = [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    with pytest.raises(InputError, match="state 1 is in 2 of the sets"):
        committors(rates, [[0, 1], [1]])
    with pytest.raises(InputError, match="one set of states or more"):
        committors(rates, [])
    with pytest.raises(InputError, match="at least one"):
        committors(rates, [[0], []])
    with pytest.raises(InputError, match="never leads to the chosen states"):
        committors(rates, [[2]])
    with pytest.raises(InputError, match="state 0 never leads .* time is infinite"):
        passage_times(rates, [2])
    with pytest.raises(InputError, match="moments"):
        passage_times(rates, [0], moments=0)
    with pytest.raises(InputError, match="the cost of state 1"):
        passage_times(rates, [0], cost=[1, -1, 0])
    with pytest.raises(ConvergenceError, match="moment number 2 overflows"):
        passage_times([[0, 1e-200], [1, 0]], [1], moments=2)
    assert committors(rates, [[2]], killing=[1.0, 0, 0]).tolist() == [[0, 0, 1]]
