"""Boundaries that are crossed at a rate (Robin); `inflow` and `outflow` as Danckwerts has them."""

import brought_meshes as brought
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq

import fvot
from fvot import Checkpoint, FokkerPlanck, InputError, Mesh

pytestmark = pytest.mark.ranks


def with_sides(points, cells):
    """The unit square with names for its sides."""
    return Mesh.from_cells(points, cells, boundary=brought.sides(points, cells))


KINDS = {
    "triangles": lambda n: Mesh.triangles((0, 0), (1, 1), n),
    "right triangles": lambda n: with_sides(*brought.right_triangles(n)),
    "quadrilaterals": lambda n: with_sides(*brought.quads(n, brought.noise(n, 0.2))),
    "tetrahedra": lambda n: Mesh.tetrahedra((0, 0, 0), (1, 1, 1), n // 3),
}


def slowest_rate(rate, D=1.0):
    """D mu^2, mu tan mu = rate / D: of [0, 1] with a wall on one end and that rate at the other."""
    mu = brentq(lambda mu: mu * np.tan(mu) - rate / D, 1e-9, np.pi / 2 - 1e-9)
    return D * mu**2


@pytest.mark.parametrize("rate", [0.1, 1.0, 10.0])
def test_the_slowest_rate_is_of_second_order(rate):
    errors = []
    for n in 50, 100:
        mesh = Mesh.interval(0, 1, n)
        equation = FokkerPlanck(mesh, diffusion=0.5, boundary={"right": fvot.robin(rate)})
        errors.append(equation.relaxation_rates(1)[0] / slowest_rate(rate, 0.5) - 1)
    assert abs(errors[1]) < 3e-5
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("kind", ["triangles", "right triangles", "quadrilaterals"])
def test_the_slowest_rate_on_any_mesh(kind):
    errors = []
    for n in 8, 16:
        mesh = KINDS[kind](n)
        equation = FokkerPlanck(mesh, diffusion=1.0, boundary={"right": fvot.robin(2.0)})
        errors.append(abs(equation.relaxation_rates(1)[0] / slowest_rate(2.0) - 1))
    assert errors[1] < 3e-3
    assert np.log2(errors[0] / errors[1]) > 1.8


@pytest.mark.parametrize("shape", [(13,), (9, 3)])
@pytest.mark.parametrize("drift", [-3.0, 0.0, 3.0])
def test_constant_fluxes_are_exact(shape, drift):
    """F = b rho - D rho', F = -rate (rho - 2) at x = 0, rho = 1 at x = 1."""
    dim = len(shape)
    mesh = Mesh.rectangle((0, 0), (1, 1), shape) if dim == 2 else Mesh.interval(0, 1, *shape)
    D = 0.4
    rate = 0.7
    velocity = np.zeros(dim)
    velocity[0] = drift
    boundary = {"left": fvot.robin(rate, 2.0), "right": fvot.dirichlet(1.0)}
    rho = FokkerPlanck(mesh, diffusion=D, drift=velocity, boundary=boundary).stationary()

    def shapes(x):
        return (1 / drift, np.exp(drift * x / D)) if drift else (-x / D, 1.0 + 0 * x)

    at_left = shapes(0.0)
    at_right = shapes(1.0)
    matrix = [[1 + rate * at_left[0], rate * at_left[1]], at_right]
    F, C = np.linalg.solve(matrix, [2 * rate, 1.0])
    along = shapes(mesh.center[0])
    assert_allclose(rho, F * along[0] + C * along[1], rtol=1e-13)

    equation = FokkerPlanck(mesh, diffusion=D, drift=velocity, boundary=boundary)
    ledger = equation.solve(rho, 1.0, tau=0.5).ledger
    came = ledger["inflow"][-1] - ledger["outflow"][-1]
    assert abs(came) < 1e-13
    assert max(ledger["inflow"][-1], ledger["outflow"][-1]) == pytest.approx(abs(F), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 3])
def test_mass_and_sign_hold_at_any_step(kind, order):
    mesh = KINDS[kind](8)
    boundary = {"left": fvot.robin(2.0, 3.0), "right": fvot.robin(lambda x: 20 * x[1])}
    equation = FokkerPlanck(
        mesh,
        diffusion=0.1,
        drift=lambda x: 0 * x + 0.3,
        growth=lambda x: -5 * x[0],
        boundary=boundary,
        scheme="corners" if kind == "tetrahedra" else "auto",
        order=order,
    )
    rho0 = mesh.average(lambda x: 1.0 * (x[0] > 0.7))
    for tau in 1e-3, 0.1, 10.0:
        result = equation.solve(rho0, [0, tau, 4 * tau], tau=tau)
        ledger = result.ledger
        assert np.abs(ledger["mass_error"]).max() <= 1e-15
        assert mesh.ranks.min(result.rho.min(initial=np.inf)) >= 0
        assert ledger["inflow"][-1] > 0 and ledger["outflow"][-1] > 0


@pytest.mark.parametrize("kind", ["triangles", "quadrilaterals"])
def test_a_density_that_is_the_same_outside_stays(kind):
    mesh = KINDS[kind](8)
    boundary = {"left": fvot.robin(2.0, 1.5), "top": fvot.robin(0.3, 1.5)}
    equation = FokkerPlanck(mesh, diffusion=0.1, boundary=boundary)
    assert_allclose(equation.stationary(), 1.5, rtol=1e-9)
    after = equation.solve(np.full(mesh.n_cells, 1.5), 10.0, tau=1.0).rho[-1]
    assert_allclose(after, 1.5, rtol=1e-9)


@pytest.mark.parametrize("kind", ["triangles", "quadrilaterals"])
def test_it_lies_between_a_wall_and_a_given_density(kind):
    mesh = KINDS[kind](8)
    rho0 = mesh.average(lambda x: 1 + x[0])

    def end(**boundary):
        equation = FokkerPlanck(mesh, diffusion=1.0, boundary=boundary)
        return equation.solve(rho0, 0.2, tau=0.05).rho[-1]

    assert_allclose(end(right=fvot.robin(0.0, 5.0)), end(), rtol=1e-8)
    given = end(right=fvot.dirichlet(0.5))
    assert_allclose(end(right=fvot.robin(1e10, 0.5)), given, rtol=1e-7)


@pytest.mark.long
def test_a_rate_that_depends_on_time():
    """The wall opens at t = 0.5."""
    mesh = Mesh.interval(0, 1, 20)
    opening = fvot.robin(lambda x, t: 2.0 * (t >= 0.5) + 0 * x[0])
    equation = FokkerPlanck(mesh, diffusion=1.0, boundary={"right": opening})
    rho0 = np.ones(mesh.n_cells)
    ledger = equation.solve(rho0, [0, 0.5, 1]).ledger
    assert ledger["outflow"][1] < 1e-14
    still = FokkerPlanck(mesh, diffusion=1.0, boundary={"right": fvot.robin(2.0)})
    assert ledger["mass"][2] == pytest.approx(still.solve(rho0, 0.5).ledger["mass"][1], rel=1e-3)


def exit_density(peclet, damkohler):
    """Danckwerts (1953): the density that leaves a reactor with axial dispersion and decay."""
    a = np.sqrt(1 + 4 * damkohler / peclet)
    top = 4 * a * np.exp(peclet / 2)
    return top / ((1 + a) ** 2 * np.exp(a * peclet / 2) - (1 - a) ** 2 * np.exp(-a * peclet / 2))


@pytest.mark.parametrize("peclet", [1.0, 10.0])
def test_inflow_and_outflow_are_danckwerts_conditions(peclet):
    errors = []
    for n in 40, 80:
        mesh = Mesh.interval(0, 1, n)
        boundary = {"left": fvot.inflow(1.0), "right": fvot.outflow}
        equation = FokkerPlanck(
            mesh, diffusion=1 / peclet, drift=(1.0,), growth=-2.0, boundary=boundary
        )
        rho = equation.stationary()
        ledger = equation.solve(rho, 1.0, tau=0.5).ledger
        assert ledger["inflow"][-1] == pytest.approx(1.0, rel=1e-12)
        errors.append(ledger["outflow"][-1] / exit_density(peclet, 2.0) - 1)
    assert abs(errors[1]) < 2e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", ["triangles", "quadrilaterals"])
def test_a_checkpoint_knows_the_rate_and_the_density(kind, shared_folder):
    mesh = KINDS[kind](8)
    rho0 = np.ones(mesh.n_cells)
    kept = Checkpoint(shared_folder / "run.h5")

    def solve(rate, density):
        boundary = {"left": fvot.robin(rate, density)}
        equation = FokkerPlanck(mesh, diffusion=0.1, boundary=boundary)
        return equation.solve(rho0, 0.1, tau=0.05, checkpoint=kept)

    solve(1.0, 2.0)
    solve(1.0, 2.0)
    for other in (1.1, 2.0), (1.0, 2.1):
        with pytest.raises(InputError, match="coefficients"):
            solve(*other)


def test_rates_that_cannot_be_are_refused():
    mesh = Mesh.interval(0, 1, 10)
    with pytest.raises(
        InputError, match="the rate at boundary 'left' is -1.0: it must be at least"
    ):
        FokkerPlanck(mesh, diffusion=1.0, boundary={"left": fvot.robin(-1.0)})
    with pytest.raises(InputError, match="the rate at boundary 'left'"):
        FokkerPlanck(mesh, diffusion=1.0, boundary={"left": fvot.robin("fast")})
    with pytest.raises(InputError, match="the density at boundary 'left' is -1.0"):
        FokkerPlanck(mesh, diffusion=1.0, boundary={"left": fvot.robin(1.0, -1.0)})
    with pytest.raises(InputError, match="fvot.robin, which is for FokkerPlanck"):
        fvot.ContinuityEquation(mesh, (1.0,), boundary={"left": fvot.robin(1.0)})
