"""Two-point fluxes: identities for any drift and diffusion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvot import central, scharfetter_gummel, square_root, upwind

DRIFT = st.floats(-1e6, 1e6).map(lambda U: np.array([U]))
DIFFUSION = st.floats(1e-12, 1e6).map(lambda k: np.array([k]))
GIBBS = [scharfetter_gummel, square_root]


@given(DRIFT, DIFFUSION)
def test_positive_and_consistent(U, k):
    """a, b >= 0; a constant density is carried by the drift: a - b = U."""
    for flux in upwind, scharfetter_gummel:
        a, b = flux(U, k)
        assert a >= 0 and b >= 0
        assert a - b == pytest.approx(U, rel=1e-9, abs=1e-15 * (a + b).item())


@given(st.floats(-600, 600), st.floats(1e-6, 1e6))
def test_the_gibbs_density_has_no_flux(x, k):
    """a / b = e^(U/k): the flux is zero where rho_right / rho_left is that."""
    for flux in GIBBS:
        a, b = flux(np.array([x * k]), np.array([k]))
        assert np.log(a / b).item() == pytest.approx(x, rel=1e-12, abs=1e-14)


@given(DRIFT, DIFFUSION)
def test_seen_from_the_other_side(U, k):
    for flux in upwind, scharfetter_gummel, central:
        a, b = flux(U, k)
        assert flux(-U, k) == (b, a)


def test_limits():
    U, k = np.array([-3.0, -1.0, 0.0, 2.0]), np.ones(4)
    for small in 1e-9, 0.0:
        limit = np.stack([np.maximum(U, 0), np.maximum(-U, 0)])
        assert np.stack(scharfetter_gummel(U, small * k)) == pytest.approx(limit, abs=1e-8)
    for flux in GIBBS:
        a, b = flux(1e-3 * U, k)
        assert np.stack([a, b]) == pytest.approx(np.stack(central(1e-3 * U, k)), abs=1e-5)


def test_no_jump_where_the_series_ends():
    """B is computed in two ways, which meet at |U|/k = 1e-4."""
    below, above = (
        scharfetter_gummel(np.array([x]), np.ones(1))[1].item() for x in (0.9999e-4, 1.0001e-4)
    )
    assert below - above == pytest.approx(1e-8, rel=1e-3)


@given(st.floats(-30, 30))
def test_bernoulli(x):
    """k B(x) = x / (e^x - 1) in extended precision."""
    y = np.longdouble(x)
    exact = y / np.expm1(y) if x else 1.0
    assert scharfetter_gummel(np.array([x]), np.ones(1))[1].item() == pytest.approx(
        float(exact), rel=1e-13
    )
