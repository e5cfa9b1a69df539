"""PETSc as some clusters have it, without MUMPS, hypre and PT-Scotch: the same answers by PETSc's
own means.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import JKO, BenamouBrenier, FokkerPlanck, Mesh, Potential, Power, linalg, otto

pytestmark = pytest.mark.ranks


@pytest.fixture
def alone(monkeypatch):
    """PETSc, from now on, without other packages."""
    return lambda: monkeypatch.setattr(linalg, "has_package", lambda name: False)


def hump(mesh, at=0.3):
    return mesh.density(lambda x: 0.1 + np.exp(-20 * ((x - at) ** 2).sum(axis=0)))


def total(mesh, u):
    """Numbers that hardly any other u has, whatever cells this rank has."""
    return mesh.integrate(u * (1 + mesh.center[0] + mesh.center[1] ** 2))


def stirred(mesh):
    return (
        FokkerPlanck(
            mesh,
            diffusion=0.1,
            potential=lambda x: x[0] ** 2,
            drift=lambda x: np.stack([-x[1], x[0]]),
        )
        .solve(hump(mesh), 0.5, tau=0.1)
        .rho[-1]
    )


def porous(mesh):
    """The tails span decades: what is hard for linear solvers."""
    energy = Power(3) + Potential(lambda x: 4 * ((x - 0.5) ** 2).sum(axis=0))
    return (
        JKO(mesh, energy, order=1)
        .solve(mesh.density(lambda x: np.abs(x - 0.5).max(axis=0) < 0.2), 0.2, tau=0.05)
        .rho[-1]
    )


def tangent(mesh):
    return otto.tangent_potential(mesh, hump(mesh), hump(mesh, 0.6) - hump(mesh))


def moved(mesh):
    return BenamouBrenier(mesh, n_steps=4, tol=1e-2).solve(hump(mesh), hump(mesh, 0.6)).rho[3]


def flowing(mesh):
    return np.abs(mesh.divergence(fvot.potential_flow(mesh, {"left": 1.0, "right": -1.0}))) < 1e-9


@pytest.mark.parametrize(
    "run, rtol", [(stirred, 1e-8), (porous, 1e-6), (tangent, 1e-7), (moved, 1e-7), (flowing, 1e-12)]
)
def test_the_same_answers(run, rtol, alone):
    found = total(mesh := Mesh.triangles((0, 0), (1, 1), 12), run(mesh))
    alone()
    assert_allclose(total(mesh, run(mesh)), found, rtol=rtol)
    other = Mesh.triangles((0, 0), (1, 1), 12)  # divided by bisection
    assert_allclose(total(other, run(other)), found, rtol=rtol)


def test_no_solve_is_asked_for_digits_below_the_rounding(alone, monkeypatch):
    """Of potential flow: for what the first one has left."""
    reasons = []

    class Watched(linalg.System):
        def __call__(self, *arguments):
            x = super().__call__(*arguments)
            reasons.append(self.reason)
            return x

    monkeypatch.setattr(linalg, "System", Watched)
    alone()
    mesh = Mesh.rectangle((0, 0), (6, 2), (192, 32))
    flux = fvot.potential_flow(mesh, {"left": 2.0, "right": -2.0})
    assert np.abs(mesh.divergence(flux)).max(initial=0.0) < 1e-12
    assert len(reasons) > 1
    assert min(reasons) > 0


@pytest.mark.parametrize("method", ["lu", "ilu", "amg", "multigrid"])
def test_every_method(method, alone, monkeypatch):
    mesh = Mesh.rectangle((0, 0), (1, 1), (12, 12))
    found = total(mesh, stirred(mesh))
    alone()
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: {method: (1.0, 1.0)})
    assert_allclose(total(mesh, stirred(mesh)), found, rtol=1e-8)
