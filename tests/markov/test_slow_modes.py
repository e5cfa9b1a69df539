"""Slow modes of chains: left and right eigenvectors, over hundreds of decades."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from test_markov import chain_1d, double_well, grid, rotation

from fvot.errors import ConvergenceError, InputError
from fvot.markov import committors, relaxation_rates, slow_modes, stationary


def four_wells(x, y):
    return 4 * (x**2 - 1) ** 2 + 4 * (y**2 - 1) ** 2


def find_residuals(q, killing, modes):
    """The largest residuals of right vectors, and of left ones over p, relative to their largest
    value in units of the rates at which states are left.
    """
    q = sparse.csr_matrix(q)
    total = np.asarray(q.sum(axis=1)).ravel() + killing
    p = stationary(q)
    known = p > 1e-260
    worst = []
    for rate, left, right in zip(*modes, strict=True):
        error = total * right - q @ right - rate * right
        worst.append(np.abs(error / total).max() / np.abs(right).max())
        error = (total * left - q.T @ left - rate * left) / np.where(known, p, 1)
        scaled = np.abs(left / np.where(known, p, 1))[known].max()
        worst.append(np.abs(error / total)[known].max() / scaled)
    return max(worst)


CASES = {
    "one line": lambda D: (*chain_1d(double_well, D, 100)[:1], None),
    "two wells": lambda D: grid(double_well, D, (24, 20))[:2],
    "rotating": lambda D: grid(double_well, D, (24, 20), rotation)[:2],
    "four wells, of which some are equal": lambda D: grid(four_wells, D, (21, 21))[:2],
    "few states": lambda D: grid(double_well, D, (12, 10))[:2],
    "few states, rotating": lambda D: grid(double_well, D, (12, 10), rotation)[:2],
}


@pytest.mark.parametrize("D", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("case", CASES)
def test_modes_are_eigenvectors_and_biorthogonal(case, D):
    q, center = CASES[case](D)
    n = q.shape[0]
    for killing in np.zeros(n), 1e-3 * (np.arange(n) < n // 2):
        modes = slow_modes(q, 3, killing=killing, center=center)
        rates = relaxation_rates(q, 3, killing=killing, center=center)
        assert_allclose(modes.rates, rates, rtol=1e-13)
        assert_allclose(modes.left @ modes.right.T, np.eye(3), atol=1e-8)
        assert_allclose(np.abs(modes.left).sum(axis=1), 1, rtol=1e-13)
        assert find_residuals(q, killing, modes) < 1e-9


@pytest.mark.parametrize("D", [0.1, 0.01])
def test_the_slowest_mode_of_two_wells_is_linear_in_the_committor(D):
    """right = a + b q to the order of the rate, over a barrier of up to 400 kT."""
    q, V = chain_1d(double_well, D, 100)
    p = stationary(q)
    _, left, right = slow_modes(q, 1)
    wells = [int(np.argmax(p[:50])), 50 + int(np.argmax(p[50:]))]
    h_A, h_B = committors(q, [[well] for well in wells])
    assert_allclose(right[0], right[0][wells] @ np.stack([h_A, h_B]), rtol=1e-9, atol=1e-12)
    assert_allclose(
        left[0], p * right[0] * (left[0] @ right[0]) / (p @ right[0] ** 2), rtol=1e-11, atol=1e-270
    )
    assert_allclose(p @ right[0], 0, atol=1e-12)


def test_the_quasi_stationary_distribution_is_the_first_left_vector():
    q, center, _ = grid(double_well, 0.3, (16, 12), rotation)
    killing = 1.0 * (center[0] > 1)
    (rate,), (left,), (right,) = slow_modes(q, 1, killing=killing, center=center)
    assert left.min() >= 0 and right.min() > 0
    assert left @ killing == pytest.approx(rate, rel=1e-12)


def test_refusals():
    with pytest.raises(InputError, match="integer from 1 to 1"):
        slow_modes([[0, 1], [3, 0]], 2)
    with pytest.raises(InputError, match="disconnected"):
        slow_modes(np.zeros((3, 3)), 1)
    q, center, _ = grid(four_wells, 0.01, (21, 21))
    try:
        modes = slow_modes(q, 6, center=center)
    except ConvergenceError as error:
        assert "ask for fewer" in str(error)
    else:
        assert_allclose(modes.left @ modes.right.T, np.eye(6), atol=1e-6)
