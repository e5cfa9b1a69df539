"""Stationary distributions, traces and slow rates of Markov chains, against exact arithmetic."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg, sparse

from fvot.errors import ConvergenceError, InputError
from fvot.markov import relaxation_rates, stationary, trace


def bernoulli(s):
    with np.errstate(over="ignore"):
        return np.where(s == 0, 1.0, s / np.where(s == 0, 1.0, np.expm1(s)))


def chain_1d(V, D, n, half=2.0):
    """(rates, V) of Scharfetter and Gummel on [-half, half]."""
    h = 2 * half / n
    x = -half + (np.arange(n) + 0.5) * h
    s = np.diff(V(x)) / D
    return sparse.diags([D * bernoulli(s) / h**2, D * bernoulli(-s) / h**2], [1, -1]).tocsr(), V(x)


def grid(V, D, n, drift=None, half=2.0):
    """(rates, center, V at the centers) on [-half, half]^2, n = cells along the axes; *drift* is
    added to -grad V.
    """
    nx, ny = n
    h = 2 * half / np.array(n)
    x, y = (-half + (np.arange(m) + 0.5) * step for m, step in zip(n, h))
    center = np.stack([u.ravel() for u in np.meshgrid(x, y, indexing="ij")])
    number = np.arange(nx * ny).reshape(n)
    v = V(*center)
    rows = []
    columns = []
    q = []
    for axis, (K, L) in enumerate([(number[:-1], number[1:]), (number[:, :-1], number[:, 1:])]):
        K, L = K.ravel(), L.ravel()
        s = (v[L] - v[K]) / D
        if drift is not None:
            s = s - drift((center[:, K] + center[:, L]) / 2)[axis] * h[axis] / D
        rows, columns = rows + [K, L], columns + [L, K]
        q += [D * bernoulli(s) / h[axis] ** 2, D * bernoulli(-s) / h[axis] ** 2]
    q = sparse.csr_matrix(
        (np.concatenate(q), (np.concatenate(rows), np.concatenate(columns))), (nx * ny,) * 2
    )
    return q, center, v


def double_well(x, y=0.0):
    return 4 * (x**2 - 1) ** 2 + y**2


def rotation(x):
    return 3 * np.stack([-x[1], x[0]])


def exact(matrix):
    return [[Fraction(float(q)) for q in row] for row in np.asarray(matrix)]


def solve_exactly(A, B):
    """X with A X = B by Gauss-Jordan; lists of rows of fractions."""
    n = len(A)
    rows = [list(a) + list(b) for a, b in zip(A, B)]
    for k in range(n):
        best = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[best] = rows[best], rows[k]
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(n):
            if i != k and rows[i][k] != 0:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k])]
    return [row[n:] for row in rows]


def generator(q, killing=None):
    """-Q as fractions."""
    Q, n = exact(q), len(q)
    return [
        [
            sum(Q[i][m] for m in range(n) if m != i)
            + (Fraction(float(killing[i])) if killing is not None else 0)
            if i == j
            else -Q[i][j]
            for j in range(n)
        ]
        for i in range(n)
    ]


def stationary_exactly(q):
    """p = (1, x) up to its sum: the first state that is recurrent gets 1."""
    A, n = generator(q), len(q)
    for first in range(n):
        rest = [i for i in range(n) if i != first]
        try:
            x = solve_exactly(
                [[A[i][j] for i in rest] for j in rest], [[-A[first][j]] for j in rest]
            )
        except StopIteration:
            continue
        p = [Fraction(1)] * n
        for i, value in zip(rest, x):
            p[i] = value[0]
        return np.array([float(value / sum(p)) for value in p])
    raise AssertionError("no stationary distribution")


def eigenvalues_by_bisection(q, count, killing=None, digits=450):
    """The smallest eigenvalues of -Q of a birth-death chain, by Sturm sequences with many
    digits.
    """
    q, n = np.asarray(q), len(q)
    with localcontext() as context:
        context.prec = digits
        killing = np.zeros(n) if killing is None else killing
        up = [Decimal(float(q[i, i + 1])) for i in range(n - 1)]
        down = [Decimal(float(q[i + 1, i])) for i in range(n - 1)]
        diagonal = [
            (up[i] if i < n - 1 else 0) + (down[i - 1] if i else 0) + Decimal(float(killing[i]))
            for i in range(n)
        ]
        product = [a * b for a, b in zip(up, down)]

        def below(x):
            number = 0
            d = Decimal(1)
            for i in range(n):
                d = diagonal[i] - x - (product[i - 1] / d if i else 0)
                number += d < 0
            return number

        values = []
        for k in range(count):
            low, high = Decimal(-320), Decimal(10)
            for _ in range(64):
                middle = (low + high) / 2
                low, high = (low, middle) if below(10**middle) > k else (middle, high)
            values.append(float(10 ** ((low + high) / 2)))
        return np.array(values)


# Stationary distributions


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("D", [0.25, 0.05, 0.01])
def test_gibbs_is_stationary_over_hundreds_of_decades(D, placed):
    q, center, V = grid(double_well, D, (48, 40))
    gibbs = np.exp(-(V - V.min()) / D)
    gibbs /= gibbs.sum()
    p = stationary(q, center if placed else None)
    known = gibbs > 1e-290
    assert_allclose(p[known], gibbs[known], rtol=1e-12)
    assert (p[~known] < 2e-290).all() and (p >= 0).all() and p.sum() == pytest.approx(1, rel=1e-14)


def test_three_dimensions_and_a_lattice_with_ties():
    qx, V = chain_1d(double_well, 0.02, 12)
    eye = sparse.identity(12)
    q = sum(
        sparse.kron(sparse.kron(a, b), c)
        for a, b, c in ((qx, eye, eye), (eye, qx, eye), (eye, eye, qx))
    )
    V = V[:, None, None] + V[:, None] + V
    gibbs = np.exp(-(V - V.min()) / 0.02).ravel()
    gibbs /= gibbs.sum()
    center = np.indices((12, 12, 12)).reshape(3, -1)
    for p in (stationary(q, center), stationary(q)):
        assert_allclose(p[gibbs > 1e-290], gibbs[gibbs > 1e-290], rtol=1e-12)


def test_a_rotating_chain_as_in_exact_arithmetic():
    for D in (1.0, 0.05):
        q, center, _ = grid(double_well, D, (6, 5), rotation)
        assert_allclose(stationary(q, center), stationary_exactly(q.toarray()), rtol=1e-13)


def test_a_rough_landscape_with_hundreds_of_wells():
    V = np.random.default_rng(1).uniform(0, 500, 900)
    q, center, _ = grid(lambda x, y: V, 1.0, (30, 30))
    gibbs = np.exp(-(V - V.min()))
    gibbs /= gibbs.sum()
    known = gibbs > 1e-290
    assert_allclose(stationary(q, center)[known], gibbs[known], rtol=1e-12)


@pytest.mark.parametrize("reach", [300, 900])
def test_only_what_underflows_is_refused(reach):
    """Two wells 60 cells wide: a way up in small steps, to 300 kT or 900 kT."""
    x = np.linspace(0, 2 * np.pi, 128)
    V = reach * (1 - np.cos(2 * x)) / 2
    s = np.diff(V)
    q = sparse.diags([bernoulli(s), bernoulli(-s)], [1, -1]).tocsr()
    gibbs = np.exp(-V) / np.exp(-V).sum()
    known = gibbs > 1e-290
    if reach > 700:
        with pytest.raises(ConvergenceError, match="600 kT"):
            relaxation_rates(q, 1)
        try:
            p = stationary(q)
        except ConvergenceError:
            return
    else:
        p = stationary(q)
    assert_allclose(p[known], gibbs[known], rtol=1e-11)


def test_the_bottom_of_a_well_may_come_first():
    """A single well of 1500 kT, its states in any order."""
    V = 1500 * np.linspace(-1, 1, 40) ** 2
    s = np.diff(V)
    q = sparse.diags([bernoulli(s), bernoulli(-s)], [1, -1]).tocsr()
    for seed in range(5):
        order = np.concatenate(
            [[20, 19], np.random.default_rng(seed).permutation(np.r_[:19, 21:40])]
        )
        gibbs = (np.exp(V.min() - V) / np.exp(V.min() - V).sum())[order]
        known = gibbs > 1e-290
        assert_allclose(stationary(q[order][:, order])[known], gibbs[known], rtol=1e-12)


def test_a_steep_well_in_a_corner():
    """Nothing but states far above it, of up to 40000 kT, to go to."""
    q, center, V = grid(lambda x, y: (x + 1.6) ** 2 + (y + 1.5) ** 2, 0.0006, (40, 40))
    gibbs = np.exp((V.min() - V) / 0.0006)
    gibbs /= gibbs.sum()
    known = gibbs > 1e-280
    assert_allclose(stationary(q, center)[known], gibbs[known], rtol=1e-11)
    assert_allclose(stationary(q)[known], gibbs[known], rtol=1e-11)


def test_what_has_lost_digits_to_underflow_is_refused():
    """The states in many orders: what comes out is right, or nothing comes out."""
    refused = []
    for barrier in (600, 660, 700, 750, 760, 800, 900):
        q, V = chain_1d(double_well, 4 / barrier, 40)
        for seed in range(8):
            order = np.random.default_rng(seed).permutation(40)
            gibbs = (
                np.exp((V.min() - V) * barrier / 4) / np.exp((V.min() - V) * barrier / 4).sum()
            )[order]
            known = gibbs > 1e-280
            try:
                p = stationary(q[order][:, order])
            except ConvergenceError as error:
                assert "600 kT" in str(error)
                refused.append(barrier)
                continue
            assert_allclose(p[known], gibbs[known], rtol=1e-12)
    assert refused and min(refused) > 660


@pytest.mark.parametrize("barrier", [690, 715, 800])
def test_slow_rates_that_have_lost_digits_are_refused(barrier):
    with pytest.raises(ConvergenceError, match="600 kT"):
        relaxation_rates(chain_1d(double_well, 4 / barrier, 40)[0], 1)


@st.composite
def chains(draw, n_most=8, decades=30):
    """Dense rates of a chain in which each state leads to the next, round and round."""
    n = draw(st.integers(2, n_most))
    rate = st.integers(-decades, decades).map(lambda e: 1.7 * 10.0**e)
    q = np.array(
        draw(st.lists(st.one_of(st.just(0.0), rate), min_size=n * n, max_size=n * n))
    ).reshape(n, n)
    for i in range(n):
        q[i, (i + 1) % n] = draw(rate)
    np.fill_diagonal(q, 0)
    return q


@settings(max_examples=60, deadline=None)
@given(chains())
def test_random_chains_as_in_exact_arithmetic(q):
    p = stationary_exactly(q)
    assert_allclose(stationary(sparse.csr_matrix(q))[p > 1e-280], p[p > 1e-280], rtol=1e-13)


@settings(max_examples=40, deadline=None)
@given(chains(decades=12), st.data())
def test_traces_as_in_exact_arithmetic(q, data):
    n = len(q)
    states = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3, unique=True))
    killing = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1e5]), min_size=n, max_size=n))
    )
    found = trace(q, states, killing=killing)
    A, others = generator(q, killing), [i for i in range(n) if i not in states]
    at = [[A[i][j] for j in others] for i in others]
    h = solve_exactly(at, [[-A[i][j] for j in states] for i in others])
    u = solve_exactly(
        [[A[i][j] for i in others] for j in others], [[-A[i][j] for i in states] for j in others]
    )
    assert_array_equal(found.committors[:, states], np.eye(len(states)))
    assert_array_equal(found.occupation[:, states], np.eye(len(states)))
    assert_allclose(
        found.committors[:, others].T,
        np.array(h, float).reshape(len(others), len(states)),
        rtol=1e-13,
    )
    assert_allclose(
        found.occupation[:, others].T,
        np.array(u, float).reshape(len(others), len(states)),
        rtol=1e-13,
    )
    for a, i in enumerate(states):
        for b, j in enumerate(states):
            rate = -A[i][j] + sum(-A[i][m] * h[c][b] for c, m in enumerate(others))
            assert found.rates[a, b] == (pytest.approx(float(rate), rel=1e-13) if a != b else 0)
        end = Fraction(float(killing[i])) + sum(
            -A[i][m] * (1 - sum(h[c])) for c, m in enumerate(others)
        )
        assert found.killing[a] == pytest.approx(float(end), rel=1e-13)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_sparse_graphs_of_any_kind(seed):
    """More than a leaf: random edges on top of a random tree; p p^T-symmetric rates, so p is
    known.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 300))
    child = np.arange(1, n)
    above = (rng.uniform(size=n - 1) * child).astype(int)
    extra = rng.integers(0, n, (2, int(rng.integers(0, 2 * n))))
    i, j = np.concatenate([child, extra[0]]), np.concatenate([above, extra[1]])
    i, j = i[i != j], j[i != j]
    log_p = rng.uniform(-200, 0, n)
    strength = rng.uniform(0.5, 2, len(i))
    up = np.exp((log_p[j] - log_p[i]) / 2)
    ends = np.concatenate([i, j]), np.concatenate([j, i])
    q = sparse.csr_matrix((np.concatenate([strength * up, strength / up]), ends), (n, n))
    p = np.exp(log_p) / np.exp(log_p).sum()
    assert_allclose(stationary(q), p, rtol=2e-12)


def test_transient_states_are_empty_and_rates_of_any_size_fit():
    q = np.zeros((4, 4))
    q[0, 1], q[1, 2], q[2, 1], q[3, 0] = 1e-300, 3e300, 1e300, 1e-5
    assert_allclose(stationary(q), [0, 0.25, 0.75, 0], rtol=1e-14)
    absorbing = sparse.csr_matrix(([2.0], ([0], [1])), (2, 2))
    assert_array_equal(stationary(absorbing), [0, 1])


def test_chains_of_one_and_two_states():
    assert_array_equal(stationary(sparse.csr_matrix((1, 1))), [1])
    q = sparse.csr_matrix([[5.0, 1.0], [3.0, 7.0]])
    assert_allclose(stationary(q), [0.75, 0.25], rtol=1e-15)
    assert_allclose(relaxation_rates(q, 1), [4], rtol=1e-14)
    assert_allclose(relaxation_rates(sparse.csr_matrix((1, 1)), 1, killing=[2.5]), [2.5])
    both = trace(q, [1, 0])
    assert_array_equal(both.rates, [[0, 3], [1, 0]])


# Committors


def test_committors_over_many_decades_add_up():
    q, center, V = grid(double_well, 0.02, (40, 30))
    wells = [
        int(np.where(center[0] < 0, V, np.inf).argmin()),
        int(np.where(center[0] > 0, V, np.inf).argmin()),
    ]
    found = trace(q, wells, center=center)
    assert_allclose(found.committors.sum(axis=0), 1, rtol=1e-13)
    assert found.committors.min() < 1e-80
    p = stationary(q, center)
    full = p > 1e-150
    assert_allclose(
        found.backward()[:, full], found.committors[:, full], rtol=1e-10
    )  # the chain is reversible
    flux = p[wells] * found.rates.sum(axis=1)
    assert flux[0] == pytest.approx(flux[1], rel=1e-12)


def test_backward_committors_are_those_of_the_reversed_chain():
    q, center, _ = grid(double_well, 0.5, (9, 8), rotation)
    p = stationary(q, center)
    backwards = sparse.csr_matrix(q.T.multiply(p[None, :]).multiply(1 / p[:, None]))
    states = [3, 40, 60]
    assert_allclose(trace(q, states).backward(), trace(backwards, states).committors, rtol=1e-11)


# Slow rates


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("drift", [None, rotation])
@pytest.mark.parametrize("n", [(12, 9), (26, 24)])
def test_relaxation_rates_are_eigenvalues(n, drift, killed):
    q, center, V = grid(lambda x, y: x**2 + 0.5 * y**2 + 0.3 * x * y, 1.0, n, drift)
    killing = np.where(center[0] > 1.5, 0.7, 0.0) if killed else None
    matrix = (
        sparse.diags(np.asarray(q.sum(axis=1)).ravel() + (0 if killing is None else killing)) - q
    )
    wanted = linalg.eigvals(matrix.toarray())
    wanted = wanted[np.lexsort([wanted.imag, wanted.real])][0 if killed else 1 :][:5]
    found = relaxation_rates(q, 5, killing=killing, center=center)
    assert np.isrealobj(found) == (drift is None)
    assert_allclose(found.real, wanted.real, rtol=1e-8)
    assert_allclose(np.abs(np.imag(found)), np.abs(wanted.imag), rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize(
    "D, decades", [(0.25, -6), (0.09, -19), (0.05, -33), (0.03, -56), (0.01, -172), (0.0068, -250)]
)
def test_the_slowest_rate_of_a_double_well(D, decades):
    q, _ = chain_1d(double_well, D, 40)
    wanted = eigenvalues_by_bisection(q.toarray(), 3)[1:]
    assert 10.0 ** (decades - 3) < wanted[0] < 10.0 ** (decades + 3)
    assert_allclose(relaxation_rates(q, 2), wanted, rtol=1e-12)


@pytest.mark.parametrize("D", [0.25, 0.09, 0.03])
def test_the_slowest_rate_on_a_grid_is_that_of_the_line(D):
    """Kronecker sums: eigenvalues add up. 1600 states, so by shift-invert and trace."""
    qx, _ = chain_1d(double_well, D, 40)
    qy, _ = chain_1d(lambda y: y**2, D, 40)
    q = sparse.kron(qx, sparse.identity(40)) + sparse.kron(sparse.identity(40), qy)
    wanted = eigenvalues_by_bisection(qx.toarray(), 2)[1]
    found = relaxation_rates(q, 2, center=np.indices((40, 40)).reshape(2, -1))
    assert found[0] == pytest.approx(wanted, rel=1e-12)
    fast = np.concatenate(
        [
            eigenvalues_by_bisection(qx.toarray(), 3, digits=100)[2:],
            eigenvalues_by_bisection(qy.toarray(), 2, digits=100)[1:],
        ]
    )
    assert found[1] == pytest.approx(fast.min(), rel=1e-10)


def three_wells(x):
    """Minima at -1.5, 0 and 1.5 of different depths, barriers of different heights."""
    return 3 * np.cos(2 * np.pi * x / 1.5 + np.pi) - 0.8 * x + 0.1 * x**2


@pytest.mark.parametrize("D", [0.2, 0.05, 0.02])
def test_three_wells_have_two_slow_rates(D):
    q, _ = chain_1d(three_wells, D, 45, 2.25)
    wanted = eigenvalues_by_bisection(q.toarray(), 4)[1:]
    assert wanted[0] < 0.5 * wanted[1] < 1e-6 * wanted[2]
    assert_allclose(relaxation_rates(q, 3), wanted, rtol=1e-12)
    assert_allclose(relaxation_rates(q, 1), wanted[:1], rtol=1e-12)


def test_equal_wells_have_equal_rates():
    q, center, _ = grid(lambda x, y: 4 * (x**2 - 1) ** 2 + 4 * (y**2 - 1) ** 2, 0.05, (32, 32))
    line, _ = chain_1d(double_well, 0.05, 32)
    slow = eigenvalues_by_bisection(line.toarray(), 2)[1]
    assert_allclose(relaxation_rates(q, 3, center=center), [slow, slow, 2 * slow], rtol=1e-11)


@pytest.mark.parametrize("height, decades", [(40, -17), (92, -40), (600, -260)])
def test_escape_from_a_deep_well(height, decades):
    n = 40
    s = np.diff(height * np.linspace(0, 1, n) ** 2)
    q = sparse.diags([bernoulli(s), bernoulli(-s)], [1, -1]).tocsr()
    killing = np.zeros(n)
    killing[-1] = 0.5
    wanted = eigenvalues_by_bisection(q.toarray(), 2, killing)
    assert 10.0 ** (decades - 4) < wanted[0] < 10.0 ** (decades + 4)
    assert_allclose(relaxation_rates(q, 2, killing=killing), wanted, rtol=1e-12)


def characteristic_polynomial(A):
    """Coefficients of det(x - A), highest first (Faddeev, LeVerrier)."""
    n = len(A)
    c = [Fraction(1)]
    M = [[Fraction(0)] * n for _ in range(n)]
    for k in range(1, n + 1):
        M = [
            [sum(A[i][m] * M[m][j] for m in range(n)) + (c[-1] if i == j else 0) for j in range(n)]
            for i in range(n)
        ]
        c.append(-sum(A[i][m] * M[m][i] for i in range(n) for m in range(n)) / k)
    return c


def newton_step(c, value):
    """|p / (x p')| at x = value, in exact complex arithmetic."""
    x, y = Fraction(float(value.real)), Fraction(float(value.imag))
    p = (Fraction(0), Fraction(0))
    d = (Fraction(0), Fraction(0))
    for a in c:
        d = d[0] * x - d[1] * y + p[0], d[0] * y + d[1] * x + p[1]
        p = p[0] * x - p[1] * y + a, p[0] * y + p[1] * x
    d = d[0] * x - d[1] * y, d[0] * y + d[1] * x
    return float((p[0] ** 2 + p[1] ** 2) / (d[0] ** 2 + d[1] ** 2)) ** 0.5


@pytest.mark.parametrize("slow, bias", [(1e-6, 2.0), (1e-20, 30.0), (1e-45, 1.0)])
def test_wells_on_a_ring_with_a_current(slow, bias):
    """Three wells of three states; the chain prefers to go round one way: the slow eigenvalues are
    complex.
    """
    q = np.zeros((9, 9))
    for i in range(9):
        well, place = divmod(i, 3)
        q[i, (i + 1) % 9] = slow * bias * (1 + well) if place == 2 else 1.0
        q[i, (i - 1) % 9] = slow if place == 0 else 0.4 + 0.1 * well
    found = relaxation_rates(q, 2)
    assert (found.imag != 0).all() and found[0] == np.conj(found[1])
    assert 1e-3 * slow < np.abs(found).min() and np.abs(found).max() < 1e3 * slow
    c = characteristic_polynomial(generator(q))[:-1]  # without the eigenvalue 0
    assert max(newton_step(c, value) for value in found) < 1e-13


@settings(max_examples=30, deadline=None)
@given(chains(n_most=6, decades=25))
def test_slow_rates_of_random_chains_as_in_exact_arithmetic(q):
    found = relaxation_rates(q, len(q) - 1)
    c = characteristic_polynomial(generator(q))[:-1]
    assert newton_step(c, found[0]) < 1e-9


def test_all_rates_of_random_chains_over_fifty_decades():
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(2, 8))
        q = 10.0 ** rng.uniform(-25, 25, (n, n)) * (rng.uniform(size=(n, n)) < 0.5)
        q[np.arange(n), (np.arange(n) + 1) % n] = 10.0 ** rng.uniform(-25, 25, n)
        np.fill_diagonal(q, 0)
        c = characteristic_polynomial(generator(q))[:-1]
        assert max(newton_step(c, value) for value in relaxation_rates(q, n - 1)) < 1e-10


def test_slow_rates_whose_eigenvectors_are_nearly_parallel():
    q = np.zeros((5, 5))
    for i, j, decades in [
        (0, 1, 0),
        (0, 4, -3),
        (1, 2, -22),
        (2, 0, 10),
        (2, 1, -21),
        (2, 3, -4),
        (2, 4, -12),
        (3, 4, 4),
        (4, 0, 19),
        (4, 1, 21),
    ]:
        q[i, j] = 10.0**decades
    c = characteristic_polynomial(generator(q))[:-1]
    assert max(newton_step(c, value) for value in relaxation_rates(q, 4)) < 1e-13


# Bad input


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda q: q.__setitem__((0, 1), -2.0), "from state 0 to state 1"),
        (lambda q: q.__setitem__((2, 1), np.nan), "nan"),
        (lambda q: q.__setitem__((1, 2), np.inf), "inf"),
    ],
)
def test_rates_that_will_not_do_are_refused(change, words):
    q = chain_1d(double_well, 1.0, 4)[0].toarray()
    change(q)
    for call in (stationary, lambda q: relaxation_rates(q, 1), lambda q: trace(q, [0])):
        with pytest.raises(InputError, match=words):
            call(sparse.csr_matrix(q))


Q = chain_1d(double_well, 1.0, 6)[0]
TWO = sparse.block_diag([Q, Q]).tocsr()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stationary(np.ones((2, 3))), "square"),
        (lambda: stationary(sparse.csr_matrix((0, 0))), "square"),
        (lambda: stationary("rates"), "str"),
        (lambda: stationary(Q, np.zeros((2, 5))), "center"),
        (lambda: relaxation_rates(Q, 0), "from 1 to 5"),
        (lambda: relaxation_rates(Q, 6), "from 1 to 5"),
        (lambda: relaxation_rates(Q, 1.0), "1.0"),
        (lambda: relaxation_rates(Q, 1, killing=[1.0]), "killing"),
        (lambda: relaxation_rates(Q, 1, killing=[0, 0, -1.0, 0, 0, 0]), "state 2"),
        (lambda: stationary(TWO), "disconnected.*chain of its own"),
        (lambda: relaxation_rates(TWO, 1), "disconnected.*chain of its own"),
        (lambda: relaxation_rates(TWO, 1, killing=[1.0] + [0] * 11), "never left.*killing"),
        (lambda: trace(TWO, [0]), "state 6 never leads"),
        (lambda: trace(Q, [0, 0]), "different integers"),
        (lambda: trace(Q, [6]), "from 0 to 5"),
        (lambda: trace(Q, []), "at least one"),
        (lambda: trace(Q, [0], killing=np.ones(6)).backward(), "without killing"),
    ],
)
def test_other_input_that_will_not_do_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
