"""Domains that are empty at first, nearly so, or in the end: what comes in is the scale of the
error.
"""

import numpy as np
import pytest
from scipy import integrate, special

import fvot
from fvot import FokkerPlanck, Mesh

pytestmark = pytest.mark.ranks
D, SPEED = 0.1, 1.0


def steady(x):
    """-D rho'' + v rho' = 0 with flux v at x = 0 (inflow of density 1) and flux v rho(1) at x = 1:
    1 everywhere.
    """
    return 1 + 0 * x


def between(x):
    """-D rho'' + v rho' = 0 with rho(0) = 1 and rho(1) = 0."""
    return 1 - np.expm1(SPEED * x / D) / np.expm1(SPEED / D)


def pipe(n=100):
    return Mesh.interval(0, 1, n)


CASES = {
    "inflow": (dict(left=fvot.inflow(1.0), right=fvot.outflow), steady),
    "dirichlet": (dict(left=fvot.dirichlet(1.0), right=fvot.dirichlet(0.0)), between),
}
PLACES = {
    "interval": (pipe, [SPEED]),
    "squares": (lambda: Mesh.rectangle((0, 0), (1, 0.5), (50, 4)), [SPEED, 0.0]),
    "triangles": (lambda: Mesh.triangles((0, 0), (1, 0.5), 24), [SPEED, 0.0]),
    "boxes": (lambda: Mesh.box((0, 0, 0), (1, 0.5, 0.5), (30, 2, 2)), [SPEED, 0.0, 0.0]),
}


def long(*values):
    """Parameters that on several ranks are for --slow."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


@pytest.mark.parametrize("start", [0.0, *long(1e-300, 1e-12)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("place", ["interval", *long("squares", "triangles", "boxes")])
def test_they_fill_up_to_the_steady_state(place, case, start):
    make, drift = PLACES[place]
    boundary, exact = CASES[case]
    mesh = make()
    equation = FokkerPlanck(mesh, diffusion=D, drift=drift, boundary=boundary)
    result = equation.solve(start + 0 * mesh.volume, [0, 0.1, 1, 20])
    stationary = equation.stationary()
    assert np.abs(result.rho[-1] - stationary).max() < 1e-6
    assert mesh.integrate(np.abs(stationary - exact(mesh.center[0]))) < 0.01
    ledger = result.ledger
    assert (
        np.abs(ledger["mass_error"]).max() < 1e-13
        and (np.diff(ledger["mass"]) > 0).all()
        and ledger["steps"][-1] < 500
    )
    assert ledger["time_error"].max() <= 1e-4 * 1.1


@pytest.mark.long
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_the_error_in_time_is_the_one_that_was_asked_for(order, tol):
    mesh = pipe()
    boundary = CASES["inflow"][0]
    exact = FokkerPlanck(mesh, diffusion=D, drift=[SPEED], boundary=boundary, order=3).solve(
        0 * mesh.volume, 0.5, tau=1 / 1024
    )
    if order == 1 and tol < 1e-3:
        return  # thousands of steps
    found = FokkerPlanck(
        mesh, diffusion=D, drift=[SPEED], boundary=boundary, order=order, tol=tol
    ).solve(0 * mesh.volume, 0.5)
    assert (
        mesh.integrate(np.abs(found.rho[-1] - exact.rho[-1])) < 2 * tol * exact.ledger["mass"][-1]
    )


@pytest.mark.long
def test_a_half_line_fills_as_the_error_function():
    """rho = erfc(x / sqrt(4 D t)), while the other end is far; what has come in is 2 sqrt(D t /
    pi).
    """
    mesh = pipe(400)
    result = FokkerPlanck(mesh, diffusion=D, boundary={"left": fvot.dirichlet(1.0)}).solve(
        0 * mesh.volume, [0, 0.05, 0.1]
    )
    for t, rho, mass in zip(result.t[1:], result.rho[1:], result.ledger["mass"][1:], strict=True):
        assert (
            mesh.integrate(np.abs(rho - special.erfc(mesh.center[0] / np.sqrt(4 * D * t))))
            < 1e-3 * mass
        )
        assert mass == pytest.approx(2 * np.sqrt(D * t / np.pi), rel=1e-3)


def began(x, t):
    return 0 * x[0] + (t > 0.5)


def begins(x, t):
    return 0 * x[0] + (t >= 0.5)


@pytest.mark.parametrize("late", [began, begins])
@pytest.mark.parametrize("order", [2, *long(3)])
def test_an_inflow_that_starts_late_starts_then(late, order):
    """From the named time on everything is as it is from 0 on without the wait."""
    mesh = pipe()
    waiting = FokkerPlanck(
        mesh,
        diffusion=D,
        drift=[SPEED],
        order=order,
        boundary={"left": fvot.inflow(late), "right": fvot.outflow},
    ).solve(0 * mesh.volume, [0, 0.5, 1.0])
    at_once = FokkerPlanck(mesh, diffusion=D, drift=[SPEED], boundary=CASES["inflow"][0]).solve(
        0 * mesh.volume, 0.5
    )
    assert (waiting.rho[1] == 0).all()
    assert (
        mesh.integrate(np.abs(waiting.rho[2] - at_once.rho[-1])) < 3e-4 * at_once.ledger["mass"][-1]
    )
    assert waiting.ledger["inflow"][-1] == pytest.approx(0.5 * SPEED, rel=1e-3)


@pytest.mark.long
def test_an_inflow_that_swells():
    mesh = pipe()

    def pulse(x, t):
        return 0 * x[0] + max(t - 0.37, 0.0) ** 2

    result = FokkerPlanck(
        mesh,
        diffusion=D,
        drift=[SPEED],
        boundary={"left": fvot.inflow(pulse), "right": fvot.outflow},
    ).solve(0 * mesh.volume, 1.0)
    assert result.ledger["inflow"][-1] == pytest.approx(SPEED * 0.63**3 / 3, rel=2e-3)


def test_a_domain_that_nothing_enters_stays_empty(ranks):
    mesh = pipe(30)
    shut = {"left": fvot.inflow(0.0), "right": fvot.outflow}
    energy = fvot.Entropy() + fvot.Potential(lambda x: x[0])
    runs = [
        FokkerPlanck(mesh, diffusion=D, drift=[SPEED], boundary=shut),
        FokkerPlanck(mesh, diffusion=D),
        FokkerPlanck(mesh, diffusion=D, boundary={"left": fvot.dirichlet(0.0)}),
        fvot.ContinuityEquation(mesh, [SPEED], boundary=shut),
        fvot.JKO(mesh, energy),
        fvot.JKO(mesh, fvot.Power(2)),
        fvot.JKO(mesh, fvot.Potential(lambda x: x[0]), bounds=(0, 1)),
    ]
    for run in runs:
        for tau in (None, 0.1):
            result = run.solve(0 * mesh.volume, [0, 0.5, 1], tau=tau)
            assert (result.rho == 0).all(), run
            assert all(np.isfinite(values).all() for values in result.ledger.values()), run
        assert (run.step(0 * mesh.volume, 0.1) == 0).all(), run


def test_transport_of_nothing_is_refused():
    mesh = pipe(30)
    nothing = 0 * mesh.volume
    something = np.ones(mesh.n_cells)
    fixed = fvot.BenamouBrenier(mesh, 4)
    free = fvot.BenamouBrenier(mesh, 4, terminal=fvot.Entropy())
    for solver, data in (
        (fixed, (nothing, nothing)),
        (fixed, (nothing, something)),
        (free, (nothing,)),
    ):
        with pytest.raises(fvot.InputError, match="zero everywhere"):
            solver.solve(*data)


@pytest.mark.long
def test_a_domain_that_runs_empty_and_fills_again():
    mesh = pipe()
    equation = FokkerPlanck(
        mesh, diffusion=1.0, boundary={"left": fvot.dirichlet(lambda x, t: 0 * x[0] + (t > 100))}
    )
    result = equation.solve(np.ones(mesh.n_cells), [0, 1, 100, 101])
    assert result.ledger["mass"][2] < 1e-100
    slowest = np.pi**2 / 4
    assert 1 - result.ledger["mass"][3] == pytest.approx(8 / np.pi**2 * np.exp(-slowest), rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("size", [1e-300, 1e-12, 1.0])
def test_closed_domains_scale(size):
    """Also from hardly anything: what is linear stays so."""
    mesh = pipe()
    equation = FokkerPlanck(mesh, diffusion=D, potential=lambda x: x[0] ** 2)
    rho0 = mesh.density(lambda x: x[0] < 0.3)
    one, other = (equation.solve(rho, 1.0).rho[-1] for rho in (rho0, size * rho0))
    assert np.abs(other / size - one).max() < 1e-9 * one.max()


def test_continuity_fills_a_pipe_with_what_has_entered():
    mesh = pipe()
    result = fvot.ContinuityEquation(mesh, [SPEED], boundary=CASES["inflow"][0]).solve(
        0 * mesh.volume, [0, 0.5, 2.0]
    )
    assert result.ledger["mass"][1:] == pytest.approx([0.5, 1.0], rel=1e-9)


@pytest.mark.long
def test_a_thin_pore_is_measured_by_what_it_holds():
    """A barrier lets hardly anything in: the error is relative to that, not to what the boundary
    offers.
    """
    mesh = pipe()
    height = 12.0

    def V(x):
        return height * D * np.minimum(x[0] / 0.3, 1)

    equation = FokkerPlanck(mesh, diffusion=D, potential=V, boundary={"left": fvot.dirichlet(1.0)})
    result = equation.solve(0 * mesh.volume, [0, 100.0])
    behind = mesh.integrate(result.rho[-1] * (mesh.center[0] > 0.35))
    exact, _ = integrate.quad(lambda x: np.exp(-height), 0.35, 1)
    assert behind == pytest.approx(exact, rel=0.02)
