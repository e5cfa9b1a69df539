"""Entropic transport: POT's answers on images by few sweeps, debiasing, many decades of masses and
costs.
"""

import math

import numpy as np
import ot
import pytest
from numpy.testing import assert_allclose

from fvot import InputError, static
from fvot.static import scaling

SIDE = 28
EPSILONS = [1e-1, 1e-2, 3e-3]


def digit(seed, paper):
    """A stroke on 28 x 28 pixels as masses (784,), on paper of so much of its grey."""
    random = np.random.default_rng(seed)
    t = np.linspace(0, 1, 60)
    ends = random.uniform(6, 22, (2, 2))
    bend = random.uniform(4, 24, (2, 1))
    stroke = (1 - t) ** 2 * ends[:, :1] + 2 * t * (1 - t) * bend + t**2 * ends[:, 1:]
    pixels = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")).reshape(
        2, -1, 1
    )
    grey = np.exp(-((pixels - stroke[:, None]) ** 2).sum(axis=0) / 1.5).max(axis=1)
    grey[grey < 0.05] = 0
    grey += paper
    return grey / grey.sum()


def pixels():
    """The points (2, 784) in the unit square."""
    return np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")).reshape(2, -1) / (
        SIDE - 1
    )


def least(a, b, C, epsilon):
    """min <C, P> + epsilon KL(P | a b), from POT's plan."""
    a, b, C = a[a > 0], b[b > 0], C[np.ix_(a > 0, b > 0)]
    P = ot.sinkhorn(a, b, C, epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=20_000)
    some = P > 0
    return (P * C).sum() + epsilon * (P[some] * np.log(P[some] / np.outer(a, b)[some])).sum()


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_images_have_the_plans_of_pot(epsilon):
    x = pixels()
    a = digit(0, 1e-3)
    b = digit(1, 1e-3)
    C = static.cost_matrix(x, x)
    P = ot.sinkhorn(a, b, C, epsilon, stopThr=1e-12, numItermax=20_000)
    plan = static.sinkhorn(x, a, x, b, epsilon, tol=1e-12, debias=False)
    assert_allclose(plan.matrix, P, rtol=1e-6, atol=1e-14)
    assert plan.cost == pytest.approx((P * C).sum(), rel=1e-9)
    assert math.isnan(plan.divergence)
    rows, columns = plan.matrix.sum(axis=1), plan.matrix.sum(axis=0)
    assert np.abs(rows - a).sum() + np.abs(columns - b).sum() <= 1.1e-12


@pytest.mark.parametrize("cost, power", [("sqeuclidean", 2), (1, 1)])
@pytest.mark.parametrize("epsilon", [1e-1, 1e-2])
def test_the_divergence_takes_away_what_the_entropy_adds(epsilon, cost, power):
    x = pixels()
    a = digit(2, 0.0)
    b = digit(3, 0.0)
    C = static.cost_matrix(x, x, power)
    plan = static.sinkhorn(x, a, x, b, epsilon, cost)
    expected = least(a, b, C, epsilon) - (least(a, a, C, epsilon) + least(b, b, C, epsilon)) / 2
    assert plan.divergence == pytest.approx(expected, rel=1e-7)
    bare = static.sinkhorn(x, a, x, b, epsilon, cost, debias=False)
    assert_allclose(bare.matrix, plan.matrix, rtol=1e-14)
    assert (bare.cost, math.isnan(bare.divergence)) == (plan.cost, True)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-4])
def test_a_measure_and_itself_have_no_divergence(epsilon, scale):
    random = np.random.default_rng(4)
    x = scale * random.random((3, 200))
    a = 5 * random.random(200) ** 4
    a[::7] = 0.0
    plan = static.sinkhorn(x, a, x, a, epsilon * scale**2)
    assert abs(plan.divergence) <= 1e-9 * epsilon * scale**2 * a.sum()
    # Moved as a whole by d: |d|^2, for every epsilon.
    moved = static.sinkhorn(x, a, x + 0.1 * scale, a, epsilon * scale**2)
    assert moved.divergence == pytest.approx(0.03 * scale**2 * a.sum(), rel=1e-7)


def plain_sweeps(K, a, b, tol):
    """How many it takes without relaxation."""
    beta = b
    sweeps = 0
    missed = math.inf
    while missed > tol:
        alpha = a / (K @ beta)
        image = alpha @ K
        missed = np.abs(beta * image - b).sum()
        beta = b / image
        sweeps += 1
    return sweeps


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_relaxed_sweeps_grow_as_the_root_of_plain_ones(epsilon):
    """In theory sqrt(n log(1 / tol)) / 2, 2.3 sqrt(n) for n plain ones; up to 5.2 sqrt(n) was
    measured.
    """
    for seed in range(0, 8, 2):
        a, b = digit(seed, 1e-3), digit(seed + 1, 1e-3)
        K = np.exp(-static.cost_matrix(pixels(), pixels()) / epsilon)
        most = int(8 * plain_sweeps(K, a, b, 1e-9) ** 0.5)
        alpha, beta, done = scaling.scale_to_marginals(K, a, b, b, 1e-9, most)
        P = alpha[:, None] * K * beta
        assert done
        assert np.abs(P.sum(axis=1) - a).sum() <= 1e-14 and np.abs(P.sum(axis=0) - b).sum() <= 1e-9


@pytest.mark.parametrize("power", [0.5, 1, 2])
@pytest.mark.parametrize("epsilon", [1e3, 1.0, 1e-2, 1e-4])
def test_symmetric_problems_take_the_same_few_steps_for_every_epsilon(epsilon, power, monkeypatch):
    monkeypatch.setattr(scaling, "MAX_SYMMETRIC_STEPS", 20)
    random = np.random.default_rng(5)
    x = random.normal(size=(2, 300))
    a = random.random(300) ** 6
    a /= a.sum()
    K = np.exp(-static.cost_matrix(x, x, power) / epsilon)
    alpha = np.exp(scaling.scale_symmetric_kernel(K, a, 1e-9))
    assert np.abs(alpha * (K @ alpha) - a).sum() <= 1e-9


@pytest.mark.parametrize("power", [3, 4])
def test_powers_whose_kernels_have_negative_eigenvalues(power):
    random = np.random.default_rng(6)
    x = random.random((2, 60))
    a = random.random(60)
    y = random.random((2, 60))
    b = random.random(60)
    a, b = a / a.sum(), b / b.sum()
    plan = static.sinkhorn(x, a, y, b, 0.01, power)
    C, own, other = (
        static.cost_matrix(x, y, power),
        static.cost_matrix(x, x, power),
        static.cost_matrix(y, y, power),
    )
    expected = least(a, b, C, 0.01) - (least(a, a, own, 0.01) + least(b, b, other, 0.01)) / 2
    assert plan.divergence == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(
    "kind", ["masses of 1e-300", "masses that span 30 decades", "clouds far apart", "split clouds"]
)
def test_many_decades(kind, epsilon):
    """The masses are right, P is a b e^((u + v - c) / epsilon), and costs no less than the best."""
    random = np.random.default_rng(7)
    x, y = random.random((2, 80)), random.random((2, 60))
    a, b = random.random(80), random.random(60)
    if kind == "masses of 1e-300":
        a = np.exp(-(((x[0] - 0.2) / 0.03) ** 2)) + 1e-300
        b = np.exp(-(((y[0] - 0.7) / 0.05) ** 2)) + 1e-300
    elif kind == "masses that span 30 decades":
        a, b = np.exp(-30 * a), np.exp(-70 * b)
    elif kind == "clouds far apart":
        y = y + 100
    else:
        x[:, :8] -= 30
        y[:, :17] += 50
    a, b = a / a.sum(), b / b.sum()
    plan = static.sinkhorn(x, a, y, b, epsilon, tol=1e-8, debias=False)
    rows, columns = plan.matrix.sum(axis=1), plan.matrix.sum(axis=0)
    assert np.abs(rows - a).sum() + np.abs(columns - b).sum() <= 1.1e-8
    exponent = (plan.u[:, None] + plan.v - static.cost_matrix(x, y)) / epsilon
    some = plan.matrix > 1e-100
    expected = np.outer(a, b) * np.exp(exponent)
    assert_allclose(plan.matrix[some], expected[some], rtol=1e-8 + 1e-14 * 5e4 / epsilon)
    exact = static.kantorovich(x, a, y, b)
    assert plan.cost >= exact.cost * (1 - 1e-7)
    assert plan.cost <= exact.cost * (1 + 1e-7) + epsilon * math.log(min(len(a), len(b)) + 1)


def test_debias_is_yes_or_no():
    x = np.array([0.0, 1.0])
    a = np.array([0.5, 0.5])
    with pytest.raises(InputError, match="debias must be True or False, not 'no'"):
        static.sinkhorn(x, a, x, a, 0.1, debias="no")
    assert math.isnan(static.sinkhorn(x, a, x, a, 0.1, cost=np.ones((2, 2))).divergence)


def test_potentials_at_points_without_mass():
    """They are finite, and cost and divergence follow from them as if these points were not
    there.
    """
    x, y = np.array([[0.0, 1, 2]]), np.array([[0.5, 1.5, 7.0]])
    a, b = np.array([0, 0.5, 0.5]), np.array([0.5, 0.5, 0])
    plan = static.sinkhorn(x, a, y, b, 0.1)
    small = static.sinkhorn(x[:, 1:], a[1:], y[:, :2], b[:2], 0.1)
    assert np.isfinite(plan.u).all() and np.isfinite(plan.v).all()
    assert_allclose(plan.u[1:] @ a[1:] + plan.v[:2] @ b[:2], plan.u @ a + plan.v @ b, rtol=1e-12)
    assert plan.cost == pytest.approx(small.cost, rel=1e-9)
    cost = (x.T - y) ** 2
    assert_allclose(np.exp((plan.u[:, None] + plan.v - cost) / 0.1) @ b, 1, rtol=1e-6)
