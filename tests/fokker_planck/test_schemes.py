"""Resolvent schemes against the exponential: order, stability, the positive partner, the estimate
of the error.
"""

import numpy as np
import pytest

from fvot.fokker_planck.schemes import find_scheme

ORDERS = [1, 2, 3]


def powers(s, z, n):
    """r, r^2, ..., r^n (n, n_z) of the scheme at z."""
    return (1 + s.g * z) ** -np.arange(1.0, n + 1)[:, None]


def multiplier(s, c, z):
    return c @ powers(s, z, len(c))


@pytest.mark.parametrize("order", ORDERS)
def test_order(order):
    s = find_scheme(order)
    z = np.array([0.2, 0.1, 0.05, 0.025])
    error = np.abs(multiplier(s, s.c, z) - np.exp(-z))
    assert np.log2(error[:-1] / error[1:]) == pytest.approx(order + 1, abs=0.25)


@pytest.mark.parametrize("order", ORDERS)
def test_stable_and_damping(order):
    s = find_scheme(order)
    z = np.geomspace(1e-6, 1e12, 500)
    assert np.abs(multiplier(s, s.c, z)).max() <= 1
    assert np.abs(multiplier(s, s.c, 1e9)) < 1e-8


@pytest.mark.parametrize("order", ORDERS)
def test_the_partner_is_a_mixture_with_the_right_mean_time(order):
    s = find_scheme(order)
    assert (s.partner >= 0).all() and s.partner.sum() == pytest.approx(1, abs=1e-15)
    assert s.g * s.partner @ np.arange(1, len(s.partner) + 1) == pytest.approx(1, abs=1e-14)
    assert s.c.sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_the_flux_form_is_the_same_map(order):
    """1 - z sum b_k r^k = sum c_k r^k, for the scheme and for its partner."""
    s = find_scheme(order)
    z = np.geomspace(1e-3, 1e3, 50)
    for c, b in (s.c, s.b), (s.partner, s.partner_b):
        assert 1 - z * multiplier(s, b, z) == pytest.approx(multiplier(s, c, z), abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_the_stages_are_the_same_map(order):
    """The stability function 1 - z b.(1 + z A)^-1 1 of the SDIRK scheme, whose last stage is its
    solution.
    """
    s = find_scheme(order)
    for z in 0.1, 1.0, 30.0:
        stages = np.linalg.solve(np.eye(order) + z * s.stages, np.ones(order))
        assert stages[-1] == pytest.approx(multiplier(s, s.c, z), abs=1e-13)
    assert s.times[-1] == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_the_estimate_is_the_error(order):
    """For small z; for large z, where all is damped, it is of the size of the error."""
    s = find_scheme(order)
    for z, tolerance in (1e-2, 0.1), (1e-1, 0.4):
        error = multiplier(s, s.c, z) - np.exp(-z)
        assert np.abs(s.error @ powers(s, z, order + 2)[:, 0]) == pytest.approx(
            abs(error), rel=tolerance
        )
    z = np.geomspace(1, 1e6, 100)
    ratio = np.abs(s.error @ powers(s, z, order + 2)) / np.abs(
        multiplier(s, s.c, z) - np.exp(-z)
    ).clip(1e-300)
    assert ratio[z > 100].min() > 0.3 and ratio[z > 100].max() < 3
