"""How tests compare two runs of one computation."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

SOLVER_TOLERANCE = 1e-8  # relative; linear systems are solved to 1e-10


def assert_same_solution(ranks, found, expected):
    """Two solutions of the same linear systems are the same to the bit on one rank.

    On several they agree to the tolerance of the solver: a factorisation that adds up what other
    ranks send in the order in which it arrives is not the same twice.
    """
    if ranks.size == 1:
        assert_array_equal(found, expected)
        return
    largest = ranks.max(np.abs(expected).max(initial=0.0))
    assert_allclose(found, expected, rtol=0, atol=SOLVER_TOLERANCE * largest)
