"""Fokker-Planck equations whose coefficients jump: adaptive steps find the jumps, given ones say
that they may miss them.
"""

import warnings

import numpy as np
import pytest

from fvot import FokkerPlanck, Mesh, dirichlet, inflow, outflow

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize(
    "order, begin, end",
    [
        (3, 0, 0.0104),
        (3, 0.9906, 1),
        (2, 0.9929, 1),
        (2, 0, 0.005),
        (3, 0.76, 0.7711),
        (2, 0.5317, 0.5415),
    ],
)
@pytest.mark.parametrize("start", [0, 1])
def test_a_pulse_brings_its_mass(order, begin, end, start):
    """Of a pulse of inflow of mass 1, whose jumps are nowhere named, all comes in: to 5e-4, what a
    step at a jump may miss.
    """
    mesh = Mesh.interval(0, 1, 60)

    def pulse(x, t):
        return (begin <= t <= end) / (end - begin) + 0 * x[0]

    equation = FokkerPlanck(
        mesh,
        diffusion=0.01,
        drift=[1.0],
        order=order,
        boundary={"left": inflow(pulse), "right": outflow},
    )
    ledger = equation.solve(0 * mesh.volume + start, 1.0).ledger
    assert ledger["inflow"][-1] == pytest.approx(1, abs=5e-4)
    assert ledger["mass_error"][-1] < 1e-13
    assert ledger["steps"][-1] < 2000


@pytest.mark.parametrize(
    "order, begin, end",
    [(3, 0.9831, 1), (3, 0.5226, 0.5311), (2, 0.8153, 0.825), (2, 0.3907, 0.4169)],
)
def test_a_pulse_of_drift_moves_as_far_as_it_should(order, begin, end):
    mesh = Mesh.interval(0, 1, 200)
    rho = mesh.density(lambda x: abs(x[0] - 0.35) < 0.1)
    equation = FokkerPlanck(
        mesh,
        diffusion=1e-3,
        order=order,
        drift=lambda x, t: (begin <= t < end) * 0.2 / (end - begin) + 0 * x,
    )
    moved = equation.solve(rho, 1.0).rho[-1] - rho
    assert mesh.integrate(moved * mesh.center[0]) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("order, tol", [(1, 1e-2), (2, 1e-4), (3, 1e-4)])
def test_an_empty_domain_that_begins_to_fill_between_two_steps(order, tol):
    """At t = 1/2 a step ends, and what comes after it is no matter of its error. The series of the
    heat equation is exact.
    """
    mesh = Mesh.interval(0, 1, 60)
    equation = FokkerPlanck(
        mesh,
        diffusion=0.1,
        order=order,
        tol=tol,
        boundary={"left": dirichlet(lambda x, t: (t > 0.5) * 1.0 + 0 * x[0])},
    )
    mass = equation.solve(0 * mesh.volume, 1.0).ledger["mass"][-1]
    k = np.pi * (np.arange(50) + 0.5)
    assert mass == pytest.approx(1 - (2 / k**2 * np.exp(-0.05 * k**2)).sum(), abs=2e-3 + tol)


def test_given_steps_say_that_they_may_miss_a_pulse():
    mesh = Mesh.interval(0, 1, 50)
    pulse = FokkerPlanck(mesh, diffusion=1e-3, drift=lambda x, t: (0.12 < t < 0.13) * 20.0 + 0 * x)
    slow = FokkerPlanck(mesh, diffusion=1e-3, drift=lambda x, t: 0.1 * np.sin(t) + 0 * x)
    for equation, tau, n_warnings in (pulse, 0.02, 1), (pulse, 1e-3, 0), (slow, 0.02, 0):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            equation.solve(mesh.density(lambda x: x[0] < 0.5), 1.0, tau=tau)
        assert [warning.filename for warning in said] == [__file__] * (
            n_warnings * mesh.ranks.is_root
        )


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "begin, width", [(0.0273, 0.0084), (0.0924, 0.0065), (0.0912, 0.0060), (0.6547, 0.0155)]
)
def test_a_short_inflow_is_the_same_whether_its_times_are_named(begin, width, order):
    """Errors are relative to what comes in, which is little: also where the only looks at the
    inflow are within the pulse.
    """
    mesh = Mesh.interval(0, 1, 60)
    tol = 1e-4
    equation = FokkerPlanck(
        mesh,
        diffusion=0.01,
        drift=[1.0],
        order=order,
        tol=tol,
        boundary={
            "right": outflow,
            "left": inflow(lambda x, t: 0 * x[0] + (begin <= t <= begin + width)),
        },
    )
    unnamed, named = (
        equation.solve(np.zeros(mesh.n_cells), t) for t in ([0, 1], [0, begin, begin + width, 1])
    )
    moments = [
        mesh.integrate(mesh.center[0] ** k * (unnamed.rho[-1] - named.rho[-1])) for k in range(3)
    ]
    assert np.abs(moments).max() < 10 * tol * width
    assert abs(named.ledger["inflow"][-1] - width) < 1e-6 * width
    assert abs(unnamed.ledger["inflow"][-1] - width) < 10 * tol * width
