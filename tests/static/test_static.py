"""Static transport between points, against closed forms, and plans that must hold."""

import warnings
from fractions import Fraction

import numpy as np
import ot
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fvot import ConvergenceError, InputError, static
from fvot.static import entropic

random = np.random.default_rng(1)


def cloud(n, dim, seed):
    random = np.random.default_rng(seed)
    a = random.uniform(0.5, 1.5, n)
    return random.normal(size=(dim, n)), a / a.sum()


# ---- on a line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_a_line_agrees_with_the_linear_program(p):
    (x, a) = cloud(30, 1, 2)
    (y, b) = cloud(41, 1, 3)
    one = static.wasserstein_1d(x[0], a, y[0], b, p)
    assert one == pytest.approx(static.wasserstein(x, a, y, b, p), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_uniform_densities(p):
    """From [0, 1] to [2, 4]: T = 2 + 2 x, W_p^p = int (2 + x)^p; from [-1, 1] to [-2, 2] the ways
    change sign.
    """
    edges = np.linspace(0, 1, 8) ** 2, np.linspace(2, 4, 5)
    found = static.wasserstein_1d(edges[0], np.ones(7), edges[1], np.full(4, 0.5), p)
    assert found == pytest.approx(((3 ** (p + 1) - 2 ** (p + 1)) / (p + 1)) ** (1 / p), rel=1e-14)
    edges = np.linspace(-1, 1, 4), np.linspace(-2, 2, 4)
    found = static.wasserstein_1d(edges[0], np.full(3, 0.5), edges[1], np.full(3, 0.25), p)
    assert found == pytest.approx((1 / (p + 1)) ** (1 / p), rel=1e-14)
    points = static.wasserstein_1d(edges[0], np.full(3, 0.5), [0.0], [1.0], p)
    assert points == pytest.approx((1 / (p + 1)) ** (1 / p), rel=1e-14)


@pytest.mark.parametrize("m", [1e-14, 1e-20, 1e-30, 1e-200])
@pytest.mark.parametrize("side", [-1, 1])
def test_small_masses_far_away(m, side):
    """At 1e15 / m^(1/2), on either side of all others, which stay: W2 = 1e15; and where both
    measures have one.
    """
    x = np.array([0.0, 1.0, 2.0])
    far = side * 1e15 / m**0.5
    a = np.array([0.1, 0.2, 0.7])
    one = static.wasserstein_1d(
        np.append(x, far), np.append(a, m), np.append(x, 0), np.append(a, m)
    )
    assert one == pytest.approx(1e15, rel=1e-12)
    assert static.wasserstein_1d(np.append(x, far), np.append(a, m), x, a) == pytest.approx(
        1e15, rel=1e-12
    )
    both = static.wasserstein_1d(
        np.append(x, far), np.append(a, m), np.append(x, 3 * far), np.append(a, m)
    )
    assert both == pytest.approx(2e15, rel=1e-12)


def test_small_masses_between_others():
    """By exact arithmetic: masses that span 25 decades, in any order, and as densities."""
    random = np.random.default_rng(4)
    x, y = (random.normal(size=40) * 10.0 ** random.integers(-3, 12, 40) for _ in range(2))
    a = 10.0 ** random.uniform(-25, 0, 40)
    b = a[random.permutation(40)]
    assert static.wasserstein_1d(x, a, y, b) == pytest.approx(exact_w2(x, a, y, b), rel=1e-12)
    assert static.wasserstein_1d(
        [0, 5, 10], [1, 1e-20, 1], [0, 4, 10], [1, 1e-20, 1], 1
    ) == pytest.approx(1e-20, rel=1e-12)
    edges = np.array([0, 1, 2, 3, 1e15, 1e15 + 4])
    moved = edges + [0, 0, 0, 0, 1e14, 1e14]
    found = static.wasserstein_1d(edges, [1, 2, 1, 0, 1e-21], moved, [1, 2, 1, 0, 1e-21], 1)
    assert found == pytest.approx(4e-21 * 1e14, rel=1e-12)


def exact_w2(x, a, y, b):
    """The monotone plan, from the left, in fractions."""
    (x, a), (y, b) = (
        [[Fraction(v) for v in np.array(values)[np.argsort(points)]] for values in (points, masses)]
        for points, masses in ((x, a), (y, b))
    )
    i = j = total = 0
    while i < len(x) and j < len(y):
        moved = min(a[i], b[j])
        total += moved * (x[i] - y[j]) ** 2
        a[i] = a[i] - moved
        b[j] = b[j] - moved
        i, j = i + (a[i] == 0), j + (b[j] == 0)
    return float(total) ** 0.5


def test_monotone_maps():
    x = np.array([0.3, 0.1, 0.2])
    assert_allclose(static.monotone_map(x, np.ones(3), [5.0, 7.0, 6.0], np.ones(3)), [7, 5, 6])
    assert_allclose(static.monotone_map(x, np.ones(3), [1.0, 0.0], [1.0, 2.0]), [1, 0, 0])
    with pytest.raises(InputError, match="split"):
        static.monotone_map([0.0, 1.0], np.ones(2), [0.0, 1.0, 2.0], np.full(3, 2 / 3))
    edges = np.linspace(0, 1, 11)
    T = static.monotone_map(edges, np.ones(10), 3 * edges + 2, np.full(10, 1 / 3))
    assert_allclose(T, 3 * edges + 2, rtol=1e-14)
    assert_allclose(
        static.monotone_map(edges, np.ones(10), 3 * edges + 2, np.full(10, 1 / 3), at=[0.123]),
        2.369,
        rtol=1e-14,
    )


# ---- worked examples -----------------------------------------------------------------------------


def test_mines_and_factories():
    """Two mines, three factories: the middle factory is fed by both, so that a mine is split."""
    plan = static.kantorovich([0.0, 4.0], [3.0, 3.0], [0.0, 2.0, 4.0], [2.0, 2.0, 2.0], cost=1)
    assert_allclose(plan.matrix, [[2, 1, 0], [0, 1, 2]], atol=1e-14)
    assert plan.cost == pytest.approx(4)
    assert plan.u @ [3, 3] + plan.v @ [2, 2, 2] == pytest.approx(4)
    with pytest.raises(InputError, match="no map"):
        static.monge([0.0, 4.0], [0.0, 2.0, 4.0])


def test_the_book_shelf():
    """n books move by one place: for p = 1 all by one or one by all cost the same; for p = 2 all by
    one is the only optimum.
    """
    x = np.arange(5.0)
    y = np.arange(1.0, 6.0)
    n = 5
    shift = np.arange(n)
    jump = np.array([4, 0, 1, 2, 3])
    for p, equal in (1, True), (2, False):
        C = static.cost_matrix(x[None], y[None], p)
        by_shift = C[shift, shift].mean()
        by_jump = C[shift, jump].mean()
        assert bool(by_shift == by_jump) is equal
        assert static.kantorovich(x, np.ones(n) / n, y, np.ones(n) / n, p).cost == pytest.approx(
            by_shift, rel=1e-14
        )
    assert (static.monge(x, y) == shift).all()


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 10.0])
def test_two_by_two_with_entropy(epsilon):
    """Masses 1/2 at 0 and 1, cost |x - y|: P = 1 / (2 (1 + e^(-1/eps))) on the diagonal, for every
    epsilon.
    """
    x = np.array([0.0, 1.0])
    a = np.array([0.5, 0.5])
    plan = static.sinkhorn(x, a, x, a, epsilon, cost=1)
    stays = 0.5 / (1 + np.exp(-1 / epsilon))
    assert_allclose(plan.matrix, [[stays, 0.5 - stays], [0.5 - stays, stays]], atol=1e-12)
    assert plan.divergence == pytest.approx(0, abs=1e-12)


def test_the_limits_of_entropy():
    (x, a) = cloud(10, 2, 5)
    (y, b) = cloud(12, 2, 6)
    exact = static.kantorovich(x, a, y, b)
    gaps = [
        static.sinkhorn(x, a, y, b, epsilon, tol=1e-5).cost - exact.cost
        for epsilon in (3.0, 1.0, 0.3)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-4 and gaps[2] < 0.5
    far = static.sinkhorn(x, a, y, b, 1e6)
    assert_allclose(far.matrix, np.outer(a, b), rtol=1e-4)
    own = static.sinkhorn(x, a, y, b, 1.0)
    assert static.sinkhorn(y, b, x, a, 1.0).divergence == pytest.approx(own.divergence, rel=1e-7)
    assert own.divergence > 0 and abs(own.divergence - exact.cost) < abs(own.cost - exact.cost)


@pytest.mark.parametrize("dense", [2000, 0], ids=["factorised", "conjugate gradients"])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 1.0])
def test_entropic_plans_are_what_they_say(epsilon, dense, monkeypatch):
    """P = a b e^((u + v - c) / epsilon), of the right masses, is the optimal one; its cost is above
    the least one by at most epsilon KL(P0 | a b), P0 the plan without an entropy.
    """
    monkeypatch.setattr(entropic, "CHOLESKY_COLUMN_LIMIT", dense)
    (x, a) = cloud(40, 2, 5)
    (y, b) = cloud(23, 2, 6)
    a[3] = b[7] = 0.0
    a, b = 3 * a / a.sum(), 3 * b / b.sum()
    plan = static.sinkhorn(x, a, y, b, epsilon, tol=1e-10)
    exact = static.kantorovich(x, a, y, b)
    assert (
        np.abs(plan.matrix.sum(axis=1) - a).sum() <= 3.1e-10
        and np.abs(plan.matrix.sum(axis=0) - b).sum() <= 3.1e-10
    )
    some = np.ix_(a > 0, b > 0)
    density = np.exp((plan.u[:, None] + plan.v - static.cost_matrix(x, y)) / epsilon)
    assert_allclose(
        plan.matrix[some],
        (np.outer(a, b) / 3 * density)[some],
        rtol=1e-9 + 1e-14 / epsilon,
        atol=1e-300,
    )
    P = exact.matrix[exact.matrix > 0]
    most = epsilon * (P * np.log(3 * P / np.outer(a, b)[exact.matrix > 0])).sum()
    assert -1e-8 <= plan.cost - exact.cost <= most
    assert static.sinkhorn(y, b, x, a, epsilon, tol=1e-10).cost == pytest.approx(
        plan.cost, rel=1e-8
    )


def test_entropic_plans_agree_with_sweeps():
    """By Sinkhorn's iteration, as POT has it."""
    (x, a) = cloud(15, 2, 5)
    (y, b) = cloud(20, 2, 6)
    plan = static.sinkhorn(x, a, y, b, 0.5, tol=1e-12)
    assert_allclose(
        plan.matrix,
        ot.bregman.sinkhorn_log(a, b, static.cost_matrix(x, y), 0.5, stopThr=1e-13),
        rtol=1e-9,
    )


def test_monotone_beats_crossed():
    x, y = np.array([0.0, 1.0]), np.array([2.0, 5.0])
    C = static.cost_matrix(x[None], y[None], 2)
    assert C[0, 0] + C[1, 1] < C[0, 1] + C[1, 0]
    assert (static.monge(x, y) == [0, 1]).all()


# ---- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", ["sqeuclidean", 1, 1.5, "matrix"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_plans_are_optimal(dim, cost):
    (x, a) = cloud(40, dim, 7)
    (y, b) = cloud(33, dim, 8)
    a[3] = b[5] = 0.0
    a, b = 2 * a / a.sum(), 2 * b / b.sum()
    C = static.cost_matrix(x, y, 3) if cost == "matrix" else static.cost_matrix(x, y, cost)
    plan = static.kantorovich(x, a, y, b, C if cost == "matrix" else cost)
    assert_allclose(plan.matrix.sum(axis=1), a, atol=1e-14)
    assert_allclose(plan.matrix.sum(axis=0), b, atol=1e-14)
    assert plan.matrix.min() >= 0 and np.count_nonzero(plan.matrix) <= 72
    slack = C - plan.u[:, None] - plan.v
    assert (
        slack.min() >= -1e-12 * C.max() and np.abs(slack[plan.matrix > 0]).max() <= 1e-12 * C.max()
    )
    assert plan.u @ a + plan.v @ b == pytest.approx(plan.cost, rel=1e-12)


def test_monge_is_the_plan_of_equal_masses():
    x, y = cloud(25, 2, 9)[0], cloud(25, 2, 10)[0]
    T, equal = static.monge(x, y), np.full(25, 0.04)
    assert sorted(T) == list(range(25))
    assert ((x - y[:, T]) ** 2).sum() / 25 == pytest.approx(
        static.kantorovich(x, equal, y, equal).cost, rel=1e-12
    )
    assert (static.monge([0.0, 0.4, 1.0], [0.0, 1.0], [2 / 3, 1 / 3]) == [0, 0, 1]).all()
    for x, y, b in ([0.0, 1.0], [0.0, 1.0, 2.0], None), ([0.0, 0.4, 1.0], [0.0, 1.0], None):
        with pytest.raises(InputError, match="no map"):
            static.monge(x, y, b)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_metric(p):
    clouds = [cloud(n, 2, n) for n in (15, 20, 25)]
    W = np.array([[static.wasserstein(*one, *other, p) for other in clouds] for one in clouds])
    assert_allclose(W, W.T, rtol=1e-12)
    assert_allclose(np.diag(W), 0, atol=1e-7)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        assert W[i, j] <= W[i, k] + W[k, j]


def test_displacement_is_a_geodesic():
    """W2(mu_s, mu_t) = |s - t| W2(mu_0, mu_1) (McCann 1997)."""
    (x, a) = cloud(20, 2, 11)
    (y, b) = cloud(30, 2, 12)
    plan = static.kantorovich(x, a, y, b)
    for s, t in (0, 1), (0.2, 0.5), (0.9, 0.1):
        between = static.wasserstein(
            *static.displacement_interpolation(plan, s), *static.displacement_interpolation(plan, t)
        )
        assert between == pytest.approx(abs(s - t) * plan.cost**0.5, rel=1e-9)


def test_the_barycentric_map_is_monotone():
    x, y = cloud(30, 2, 13)[0], cloud(30, 2, 14)[0]
    equal = np.full(30, 1 / 30)
    T = static.kantorovich(x, equal, y, equal).transport_map()
    steps = (T[:, :, None] - T[:, None]) * (x[:, :, None] - x[:, None])
    assert steps.sum(axis=0).min() >= -1e-12


def test_bad_input():
    x, a = cloud(4, 2, 0)
    for call, words in [
        (lambda: static.kantorovich(x.T, a, x, a), "transpose"),
        (lambda: static.kantorovich(x, 2 * a, x, a), "masses differ"),
        (lambda: static.kantorovich(x, -a, x, a), "at least 0"),
        (lambda: static.kantorovich(x, a, x, a, cost=np.ones((4, 3))), "cost"),
        (lambda: static.kantorovich(x, a, x, a, cost="taxi"), "cost"),
        (lambda: static.kantorovich(x, a, x, a, cost=-1), "power"),
        (lambda: static.kantorovich(np.full((2, 4), np.nan), a, x, a), "finite"),
        (
            lambda: static.kantorovich(
                np.zeros((1, 20000)), np.ones(20000), np.zeros((1, 20000)), np.ones(20000)
            ),
            "pairs",
        ),
        (lambda: static.wasserstein(x, a, x, a, p=0.5), "p must"),
        (lambda: static.wasserstein_1d(x, a, x, a), "shapes"),
        (lambda: static.wasserstein_1d([0, 0, 1], [1, 1], [0], [1]), "increase"),
        (lambda: static.sinkhorn(x, a, x, a, 0), "epsilon"),
        (lambda: static.displacement_interpolation(static.kantorovich(x, a, x, a), 2), "t must"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("p, d", [(1, 1e-9), (2, 1e-6), (4, 1e-4), (6, 1e-3), (8, 1e-2)])
def test_short_ways_among_long_ones(p, d):
    """Costs that span many decades: everything moves by d, however far apart the points are."""
    random = np.random.default_rng(0)
    x = random.random(200)
    a = np.full(200, 1 / 200)
    y = (x + d)[random.permutation(200)]
    assert static.wasserstein(x, a, y, a, p) == pytest.approx(d, rel=1e-6)
    assert static.wasserstein_1d(x, a, y, a, p) == pytest.approx(d, rel=1e-6)


def test_one_that_is_far_away():
    random = np.random.default_rng(1)
    (x, y) = (np.append(random.random(300), 1e5) for _ in range(2))
    a = np.full(301, 1 / 301)
    assert static.wasserstein(x, a, y, a) == pytest.approx(
        static.wasserstein_1d(x, a, y, a), rel=1e-6
    )


def test_large_powers():
    assert static.wasserstein_1d([0], [1], [1e-5], [1], 100) == pytest.approx(1e-5)
    assert static.wasserstein_1d([0], [1], [3], [1], 1000) == pytest.approx(3)
    assert static.wasserstein([0], [1], [3], [1], 1000) == pytest.approx(3)
    with pytest.raises(InputError, match="scale"):
        static.wasserstein([0], [1], [1e200], [1])


def test_what_floating_point_does_not_tell():
    """1e-40 beside costs of 1: said, not returned."""
    random = np.random.default_rng(0)
    x = random.random(400)
    a = np.full(400, 1 / 400)
    with pytest.raises(ConvergenceError, match="smaller p"):
        static.wasserstein(x, a, (x + 1e-5)[random.permutation(400)], a, 8)


def test_more_bad_input():
    x = np.array([0.0, 1.0])
    a = np.array([0.5, 0.5])
    plan = static.kantorovich(x, a, x, a)
    for call, words in [
        (lambda: static.kantorovich(np.zeros((2, 2)), a, np.zeros((3, 2)), a), "2D, y in 3D"),
        (lambda: static.kantorovich(np.zeros((2, 2)), a, x, a, np.ones((2, 2))), "2D, y in 1D"),
        (lambda: static.displacement_interpolation(3, 0.5), "Plan"),
        (lambda: static.displacement_interpolation(0.5, plan), "Plan"),
        (lambda: static.sinkhorn(x, a, x, a, 0.1, tol=0), "tol"),
        (lambda: static.sinkhorn(x, a, x, a, 0.1, tol="a"), "tol"),
        (lambda: static.monotone_map(x, a, x, a, [np.nan]), "at"),
        (lambda: static.monotone_map(x, a, x, a, [2.0]), "support"),
        (lambda: static.wasserstein_1d(x, a, x, a, np.inf), "finite number"),
        (lambda: static.kantorovich([], [], x, a), "no points"),
        (lambda: static.monge(np.zeros((1, 30000)), np.zeros((1, 3))), "pairs"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_any_size_of_masses_and_sign_of_costs():
    random = np.random.default_rng(3)
    x = random.random(30)
    y = random.random(30)
    a = np.full(30, 1 / 30)
    whole = static.wasserstein(x, a, y, a)
    for size in 1e-100, 1e-20, 1e20:
        assert static.wasserstein(x, size * a, y, size * a) == pytest.approx(
            size**0.5 * whole, rel=1e-9
        )
    assert static.kantorovich(x, a, y, a, -np.ones((30, 30))).cost == pytest.approx(-1)
    with pytest.raises(InputError, match="matrix"):
        static.kantorovich(x, a, y, a, 1j * np.ones((30, 30)))


def in_single_precision(kind):
    """(of double precision, of single precision) what a function of masses or densities finds."""
    n = 60
    random = np.random.default_rng(5)
    x = random.normal(size=n)
    y = random.normal(size=n) + 1
    edges = np.linspace(0, 1, n + 1)
    a, b = (masses / masses.sum() for masses in random.random((2, n)))
    run = {
        "wasserstein_1d": lambda f: static.wasserstein_1d(x, f(a), y, f(b)),
        "densities": lambda f: static.wasserstein_1d(edges, f(n * a), edges + 1, f(n * b)),
        "monotone_map": lambda f: static.monotone_map(edges, f(n * a), edges + 1, f(n * b)),
        "kantorovich": lambda f: static.kantorovich(x, f(a), y, f(b)).cost,
        "wasserstein": lambda f: static.wasserstein(x, f(a), y, f(b), 1),
        "sinkhorn": lambda f: static.sinkhorn(x, f(a), y, f(b), 0.1).cost,
        "divergence": lambda f: static.sinkhorn(x, f(a), y, f(b), 0.1).divergence,
        "monge": lambda f: static.monge(x, y[:20], f(np.full(20, 1 / 20))),
    }[kind]
    return run(np.float64), run(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        "wasserstein_1d",
        "densities",
        "monotone_map",
        "kantorovich",
        "wasserstein",
        "sinkhorn",
        "divergence",
        "monge",
    ],
)
def test_masses_in_single_precision(kind):
    double, single = in_single_precision(kind)
    assert np.asarray(single).dtype in (np.float64, int)
    assert_allclose(single, double, rtol=1e-6)


def test_masses_that_differ_in_single_precision():
    a = np.full(8, 1 / 8, np.float32)
    with pytest.raises(InputError, match="the masses differ: 1 and 1.0000"):
        static.kantorovich(np.arange(8), a, np.arange(8), a * np.float32(1 + 1e-5))
    with pytest.raises(InputError, match="the masses differ"):
        static.wasserstein_1d(
            np.arange(8), np.full(8, 1 / 8), np.arange(8), np.full(8, 1 / 8) * (1 + 1e-7)
        )


def test_old_names_warn_with_the_place_of_the_call_and_give_the_same():
    x, y = np.random.default_rng(0).random((2, 2, 5))
    with pytest.warns(DeprecationWarning, match="fvot.static.cost_matrix") as caught:
        assert_array_equal(static.costs(x, y, 3), static.cost_matrix(x, y, cost=3))
    assert len(caught) == 1 and caught[0].filename == __file__
    plan = static.kantorovich(x, np.ones(5), y, np.ones(5))
    with pytest.warns(DeprecationWarning, match="fvot.static.displacement_interpolation"):
        old = static.displacement(plan, 0.25)
    for mine, theirs in zip(old, static.displacement_interpolation(plan, 0.25)):
        assert_array_equal(mine, theirs)


def test_old_names_warn_once_for_each_place():
    x = np.zeros((1, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            static.costs(x, x)
        static.costs(x, x)
    assert len(caught) == 2
