"""The one loop over time: what it returns of runs that fail, and the account of mass, are the same
for all equations.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import ConvergenceError, Mesh

pytestmark = pytest.mark.ranks

GOOD = 12  # steps before the run fails
T = np.linspace(0, 1, 6)


def failing(step):
    """The function, which fails from its call number GOOD on."""
    calls = 0

    def wrapped(*args, **options):
        nonlocal calls
        calls += 1
        if calls > GOOD:
            raise ConvergenceError("no more")
        return step(*args, **options)

    return wrapped


def continuity(mesh):
    return fvot.ContinuityEquation(
        mesh, (1.0, 0.0), boundary={"left": fvot.inflow(0.5), "right": fvot.outflow}
    )


def fokker_planck(mesh):
    return fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0])


def fokker_planck_in_chosen_steps(mesh):
    return fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0], tol=1e-6)


def jko(mesh):
    return fvot.JKO(mesh, 0.1 * fvot.Entropy() + fvot.Potential(lambda x: x[0]))


def crowd(mesh):
    return fvot.JKO(mesh, fvot.Potential(lambda x: x[0]), bounds=(0, 3))


RUNS = {
    "continuity": (continuity, 0.02),
    "Fokker-Planck": (fokker_planck, 0.02),
    "Fokker-Planck, chosen steps": (fokker_planck_in_chosen_steps, None),
    "JKO": (jko, 0.02),
    "crowd": (crowd, 0.02),
}
STEPPERS = {"continuity", "Fokker-Planck"}


def broken(name, equation, monkeypatch):
    """The equation, whose steps fail after GOOD ones."""
    kind = name.split(",")[0]
    if kind in STEPPERS:
        stepper = equation._stepper
        monkeypatch.setattr(stepper, "advance", failing(stepper.advance))
        return equation
    calls = [0]
    kind = type(equation._step)
    take = kind.__call__

    def counted(self, rho, tau):
        calls[0] += 1
        if calls[0] > GOOD:
            raise ConvergenceError("no more")
        return take(self, rho, tau)

    monkeypatch.setattr(kind, "__call__", counted)
    return equation


@pytest.mark.parametrize("name", RUNS)
def test_what_a_failing_run_has_reached_is_in_the_error(name, monkeypatch, ranks):
    """The recorded times, and the last one; the densities are those of a run that ends there."""
    make, tau = RUNS[name]
    mesh = Mesh.rectangle((0, 0), (1, 1), (10, 6))
    rho0 = mesh.density(lambda x: 1 + x[0] * (1 - x[0]))
    equation = broken(name, make(mesh), monkeypatch)

    with pytest.raises(ConvergenceError) as caught:
        equation.solve(rho0, T, tau=tau)
    result = caught.value.result
    assert result is not None and result.mesh is mesh
    n = len(result.t)
    assert_array_equal(result.t[: n - 1], T[: n - 1])
    assert T[n - 2] < result.t[-1] < 1 or result.t[-1] == T[n - 1]
    assert result.rho.shape == (n, mesh.n_cells)
    assert all(len(values) == n for values in result.ledger.values())
    assert result.ledger["steps"][-1] > 0
    assert np.abs(result.ledger["mass_error"]).max() < 1e-13
    assert (result.pressure is not None) == (name == "crowd")

    monkeypatch.undo()
    whole = make(mesh).solve(rho0, T, tau=tau)
    assert_allclose(result.rho[: n - 1], whole.rho[: n - 1], atol=1e-9)
    # The last density is as it was after the last good step: between those of its neighbours in
    # time.
    moved = ranks.sum(mesh.volume @ np.abs(whole.rho[n - 1] - whole.rho[n - 2]))
    assert ranks.sum(mesh.volume @ np.abs(result.rho[-1] - result.rho[-2])) <= 1.1 * moved


@pytest.mark.parametrize("name", RUNS)
def test_mass_error_is_what_the_account_of_mass_leaves(name):
    make, tau = RUNS[name]
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    ledger = make(mesh).solve(mesh.density(lambda x: 1 + x[0]), T, tau=tau).ledger
    came = ledger.get("inflow", np.zeros(len(T)))
    went = ledger.get("outflow", np.zeros(len(T)))
    expected = (ledger["mass"] - ledger["mass"][0] - came + went) / (ledger["mass"][0] + came[-1])
    assert_allclose(ledger["mass_error"], expected, atol=1e-15)
    assert np.abs(ledger["mass_error"]).max() < 1e-13


@pytest.mark.parametrize("name", RUNS)
def test_the_first_record_is_the_start(name):
    make, tau = RUNS[name]
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 4))
    rho0 = mesh.density(lambda x: 1 + x[0])
    result = make(mesh).solve(rho0, T, tau=tau)
    assert_array_equal(result.t, T)
    assert_array_equal(result.rho[0], rho0)
    assert result.ledger["steps"][0] == 0
    assert (result.pressure is not None) == (name == "crowd")
    assert result.velocity.shape == (len(T), 2, mesh.n_cells)
