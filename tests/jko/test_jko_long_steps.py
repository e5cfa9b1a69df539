"""Long steps of order 1 of a porous medium: no more work than Newton's method asks for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fvot import JKO, Mesh, Power
from fvot.energies.free_energy import FreeEnergy
from fvot.jko.linearised_step import LinearisedStep
from fvot.mesh.numbering import Numbering


def drop(t):
    """Barenblatt's solution for m = 2 in the plane, at a time t, as a function of points (2, n)."""
    return lambda x: np.maximum(0.5 - (x**2).sum(axis=0) / (16 * np.sqrt(t)), 0) / np.sqrt(t)


def spread(n, tau):
    """(the flow, its result after one step) on n x n squares, from the time 0.1."""
    mesh = Mesh.rectangle((-6, -6), (6, 6), (n, n))
    flow = JKO(mesh, Power(2), order=1)
    rho0 = mesh.average(drop(0.1), degree=8)
    return flow, flow.solve(rho0, tau, tau=tau)


@pytest.mark.ranks
@pytest.mark.parametrize("tau", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("n", [72, 128])
def test_incomplete_factors_serve_in_long_steps(n, tau):
    """With cells in the order of the flow they solve every system on one rank, and no method is
    given up; on several ranks multigrid may take over. Nothing is factorised. Mass, sign and decay
    of the energy are kept.
    """
    flow, result = spread(n, tau)
    failed = set(flow._step.solver.save()["failed"])
    assert failed <= (set() if flow.mesh.ranks.size == 1 else {"icc"})
    assert result.ledger["steps"][-1] == 1
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert result.rho.min() >= 0
    assert ledger["energy"][1] + ledger["dissipated"][1] <= ledger["energy"][0]


@pytest.mark.parametrize(("n", "tau"), [(128, 1.2), (192, 0.3), (96, 2.0), (512, 0.3)])
def test_steps_are_not_cut_while_newtons_method_converges(n, tau):
    """The residual begins at 1, rises with the length of the step, and then falls: that it is above
    1 for a dozen iterations is no reason to take shorter steps.

    In the last case the front crosses seventy cells.
    """
    mesh = Mesh.interval(-6, 6, n)
    rho0 = mesh.average(lambda x: np.maximum(1 - 4 * x[0] ** 2, 0))
    ledger = JKO(mesh, 3 * Power(2), order=1).solve(rho0, tau, tau=tau).ledger
    assert ledger["steps"][-1] == 1
    assert ledger["energy"][1] + ledger["dissipated"][1] <= ledger["energy"][0]


@pytest.mark.ranks
def test_steps_start_from_the_potential_of_the_last_one():
    """Which takes fewer iterations than from 0, and leads to the same density."""
    mesh = Mesh.rectangle((-6, -6), (6, 6), (48, 48))
    rho = mesh.average(drop(0.1), degree=8)
    flow = JKO(mesh, Power(2), order=1)
    counted = []
    for start_anew in (True, False):
        ends = flow.solve(rho, np.linspace(0, 0.5, 11), tau=0.05)
        newton = ends.ledger["newton"][-1]
        if start_anew:
            newton = 0
            now = rho
            for _ in range(10):
                step = flow.solve(now, 0.05, tau=0.05)
                newton += step.ledger["newton"][-1]
                now = step.rho[-1]
        counted.append(newton)
    assert counted[1] <= 0.95 * counted[0]
    assert mesh.integrate(np.abs(now - ends.rho[-1])) < 1e-10


@pytest.mark.ranks
def test_a_step_that_fails_from_the_last_potential_starts_from_0():
    mesh = Mesh.rectangle((-6, -6), (6, 6), (24, 24))
    rho = mesh.average(drop(0.1), degree=8)
    expected = JKO(mesh, Power(2), order=1).step(rho, 0.05)
    free_energy = FreeEnergy(Numbering(mesh, mesh), Power(2))
    step = LinearisedStep(free_energy)
    step._last[0] = 1e9 * mesh.center[0]
    assert_allclose(step(rho, 0.05).rho, expected, rtol=0, atol=1e-9)
