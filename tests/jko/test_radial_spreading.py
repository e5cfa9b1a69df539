"""Gradient flows in cylindrical and spherical coordinates."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import JKO, Entropy, FokkerPlanck, Mesh, Potential, Power

pytestmark = pytest.mark.ranks

DIMENSION = {"cylindrical": 2, "spherical": 3}


def barenblatt(dim, top, t):
    """Of d rho/dt = laplace(rho^2), as a function of x whose length is the radius."""
    alpha = dim / (dim + 2)
    beta = alpha / dim
    slope = alpha / (4 * dim)

    def f(x):
        square = (x**2).sum(axis=0)
        return t**-alpha * np.maximum(top - slope * square * t ** (-2 * beta), 0)

    return f


def find_error(mesh, rho, exact):
    return mesh.integrate(np.abs(rho - exact)) / mesh.integrate(np.abs(exact))


def check_orders(solve, counts, least):
    errors = [solve(n) for n in counts]
    assert np.log2(np.array(errors[:-1]) / errors[1:]).min() > least, errors


@pytest.mark.long
@pytest.mark.parametrize("coordinates", DIMENSION)
@pytest.mark.parametrize("order, least", [(2, 1.4), (1, 0.6)])
def test_barenblatts_solution(coordinates, order, least):
    dim = DIMENSION[coordinates]

    def solve(n):
        mesh = Mesh.interval(0, 6, n, coordinates=coordinates)
        flow = JKO(mesh, Power(2), order=order)
        result = flow.solve(mesh.average(barenblatt(dim, 1.0, 1.0)), [0, 2], tau=2 / n)
        mass = result.ledger["mass"]
        assert np.abs(result.ledger["mass_error"]).max() < 1e-12 * mass[0]
        assert np.diff(result.ledger["energy"]).max() < 0
        if order == 2:
            inside = mesh.center[0] < 2.5
            exact = mesh.centroid / (3 * (dim + 2))
            assert_allclose(result.velocity[-1][:, inside], exact[:, inside], atol=0.5 / n**2)
        return find_error(mesh, result.rho[-1], mesh.average(barenblatt(dim, 1.0, 3.0)))

    check_orders(solve, (20, 40, 80), least)


def test_a_ball_in_cylindrical_coordinates():
    """Barenblatt's solution in space, in (r, z)."""

    def solve(n):
        mesh = Mesh.rectangle((0, -2), (2, 2), (n, 2 * n), coordinates="cylindrical")
        rho0 = mesh.average(barenblatt(3, 0.05, 0.2))
        rho = JKO(mesh, Power(2)).solve(rho0, 0.3, tau=0.3 / n).rho[-1]
        return find_error(mesh, rho, mesh.average(barenblatt(3, 0.05, 0.5)))

    check_orders(solve, (10, 20), 1.3)


@pytest.mark.parametrize("coordinates", DIMENSION)
def test_entropy_is_diffusion(coordinates):
    mesh = Mesh.interval(0, 5, 40, coordinates=coordinates)
    rho0 = mesh.density(lambda x: np.exp(-((x[0] - 1) ** 2)))

    def V(x):
        return x[0] ** 2 / 2

    flow = JKO(mesh, Entropy(0.5) + Potential(V)).solve(rho0, [0, 0.5], tau=0.02)
    equation = FokkerPlanck(mesh, diffusion=0.5, potential=V, tol=1e-6)
    rho = equation.solve(rho0, [0, 0.5]).rho[-1]
    assert find_error(mesh, flow.rho[-1], rho) < 1e-2


def test_a_crowd_that_fills_a_ball_and_a_door():
    """A potential drives it inwards, up to the bound: a full ball of the mass; a door lets it
    out.
    """
    mesh = Mesh.interval(0, 2, 40, coordinates="spherical")
    rho0 = mesh.density(lambda x: x[0] > 1)
    bound = 0.5
    inward = JKO(mesh, Potential(lambda x: x[0] ** 2), bounds=(0, bound))
    result = inward.solve(rho0, [0, 3], tau=0.05)
    radius = np.cbrt(3 / (4 * np.pi * bound))
    full = mesh.average(lambda x: bound * (x[0] < radius))
    assert find_error(mesh, result.rho[-1], full) < 0.1

    outward = JKO(mesh, Power(2) + Potential(lambda x: -3 * x[0]), boundary={"right": fvot.outflow})
    result = outward.solve(rho0, [0, 1], tau=0.02)
    assert np.abs(result.ledger["mass_error"]).max() < 1e-12
    assert result.ledger["mass"][-1] < 0.1
