"""The backward equation: the transpose of the forward steps, on any mesh, to any order."""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import expm

import fvot
from fvot import FokkerPlanck, InputError, Mesh, linalg

pytestmark = pytest.mark.ranks

ORDERS = pytest.mark.parametrize("order", [1, 2, 3])

KINDS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),
    "rectangle": lambda: Mesh.rectangle((0, 0), (1, 1), (12, 9)),
    "voronoi": lambda: Mesh.voronoi((0, 0), (1, 1), 150),
    "box": lambda: Mesh.box((0, 0, 0), (1, 1, 1), (5, 4, 4)),
}


@pytest.fixture
def lu(monkeypatch):
    """Linear systems are factorised."""
    take(monkeypatch, "lu")


def take(monkeypatch, method):
    """Solve linear systems by that method."""
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: {method: (1.0, 1.0)})


def random(mesh, low, high, seed=0):
    """Random cell values, the same on any number of ranks."""
    return mesh.scatter(np.random.default_rng(seed).uniform(low, high, mesh.n_cells_global))


def assert_dual(equation, t, tau, tolerance):
    """sum |K| f rho(t) = sum |K| u(s) rho(s) + gained(s), at all recorded times s."""
    mesh = equation.mesh
    rho0 = random(mesh, 1, 2)
    f = random(mesh, -1, 1, seed=1)
    result = equation.solve(rho0, t, tau=tau)
    seen = equation.backward(f, t, tau=tau)
    assert result.ledger["limited"][-1] == 0
    assert_array_equal(seen.t, result.t)
    assert_array_equal(seen.u[-1], f)
    assert seen.ledger["gained"][-1] == 0
    assert seen.ledger["steps"][0] == result.ledger["steps"][-1]

    values = mesh.integrate(seen.u * result.rho) + seen.ledger["gained"]
    size = mesh.integrate(np.abs(f) * result.rho[-1])
    assert np.abs(values - values[-1]).max() <= tolerance * size


def build_open(mesh, **options):
    """An equation with everything that comes and goes: open sides, growth, sources, drift."""
    sides = {"left": fvot.dirichlet(0.3), "right": fvot.robin(0.5, 0.2)}
    if mesh.dim == 2:
        sides |= {"bottom": fvot.inflow(0.4), "top": fvot.outflow}
    return FokkerPlanck(
        mesh,
        diffusion=0.1,
        drift=lambda x: 0 * x + 0.5,
        boundary={name: side for name, side in sides.items() if name in mesh.boundary},
        **options,
    )


@pytest.mark.parametrize("kind", KINDS)
@ORDERS
def test_the_steps_are_transposed_to_round_off_with_all_that_comes_and_goes(kind, order, lu):
    equation = build_open(
        KINDS[kind](),
        growth=lambda x: np.where(x[0] > 0.5, -3.0, 1.0),
        source=lambda x: 1.0 * (x[0] < 0.6),
        order=order,
    )
    assert_dual(equation, [0, 0.1, 0.4], 0.02, 1e-13)


@pytest.mark.parametrize("kind", KINDS)
@ORDERS
def test_the_stages_of_coefficients_that_depend_on_time_are_transposed(kind, order, lu):
    equation = FokkerPlanck(
        KINDS[kind](),
        diffusion=0.1,
        potential=lambda x, t: np.cos(2 * t) * x[0],
        growth=lambda x, t: np.cos(5 * t) - x[0],
        source=lambda x, t: 1 + np.sin(3 * t) + 0 * x[0],
        order=order,
    )
    assert_dual(equation, [0, 0.1, 0.4], 0.02, 1e-13)


@pytest.mark.parametrize("method", ["ilu", "amg"])
@pytest.mark.parametrize("kind", ["triangles", "box"])
@ORDERS
def test_iterative_solves_are_transposed_to_their_tolerance(kind, method, order, monkeypatch):
    take(monkeypatch, method)
    for options in dict(), dict(potential=lambda x: 3 * np.cos(3 * x[0])):
        mesh = KINDS[kind]()
        equation = build_open(mesh, growth=-1.0, source=1.0, order=order, **options)
        assert_dual(equation, [0, 0.1, 0.4], 0.02, 1e-9)


@pytest.mark.parametrize("method", ["ilu", "amg"])
@pytest.mark.parametrize("barrier", [4.0, 40.0, 400.0])
def test_steep_potentials_and_long_steps_have_the_promised_accuracy(method, barrier, monkeypatch):
    """Values that jump from cell to cell; the largest error is at most 1e-9 of the largest one."""
    mesh = Mesh.rectangle((-1.6, -1.6), (1.6, 1.6), (24, 24))
    f = random(mesh, 0, 1)

    def find_values(name):
        take(monkeypatch, name)
        equation = FokkerPlanck(
            mesh,
            diffusion=4 / barrier,
            potential=lambda x: 4 * (x[0] ** 2 - 1) ** 2 + x[1] ** 2,
            order=1,
        )
        return equation.backward(f, 1.0, tau=1.0).u[0]

    assert_allclose(find_values(method), find_values("lu"), rtol=0, atol=2e-9)


@ORDERS
@pytest.mark.filterwarnings("ignore:a time-dependent coefficient")
def test_constants_stay_to_the_bit_in_closed_boxes(order):
    for kind in "interval", "triangles", "box":
        mesh = KINDS[kind]()
        for options in (
            dict(potential=lambda x: 5 * x[0] ** 2),
            dict(drift=lambda x, t: np.cos(t) * x),
        ):
            equation = FokkerPlanck(mesh, diffusion=0.1, order=order, **options)
            for tau in 1e-3, 1.0, 1e6:
                t = [0, tau, 2 * tau]
                seen = equation.backward(np.full(mesh.n_cells, 0.7), t, tau=tau)
                assert (seen.u == 0.7).all()


def test_values_stay_between_the_extremes_at_order_1():
    mesh = KINDS["triangles"]()
    f = random(mesh, -1, 2)
    low, high = mesh.ranks.min(f.min()), mesh.ranks.max(f.max())
    for tau in 1e-3, 1.0, 1e4:
        for boundary in {}, {"left": fvot.dirichlet(1.0)}:
            equation = FokkerPlanck(
                mesh, diffusion=0.1, potential=lambda x: x[1], order=1, boundary=boundary
            )
            ledger = equation.backward(f, [0, tau, 2 * tau], tau=tau).ledger
            assert ledger["minimum"].min() >= low and ledger["maximum"].max() <= high
            assert (np.diff(ledger["maximum"]) >= 0).all()

    positive = np.abs(f)
    killed = FokkerPlanck(mesh, diffusion=0.1, growth=-1.0, order=1)
    u = killed.backward(positive, 1.0, tau=0.1).u
    assert mesh.ranks.min(u.min()) >= 0


@ORDERS
def test_the_matrix_exponential(order):
    """Order in time, on a closed chain of 12 cells with decay."""
    mesh = Mesh.interval(0, 1, 12)
    A = np.diag(np.full(11, 1.0), 1) + np.diag(np.full(11, 1.0), -1)
    A = (A - np.diag(A.sum(axis=1))) * 0.1 * 12**2 - np.diag(np.arange(12.0))
    f = np.cos(3 * mesh.gather(mesh.center)[0])
    exact = mesh.scatter(expm(A.T) @ f)
    equation = FokkerPlanck(mesh, diffusion=0.1, growth=-mesh.scatter(np.arange(12.0)), order=order)
    errors = []
    for n_steps in 16, 32:
        u = equation.backward(mesh.scatter(f), 1.0, tau=1 / n_steps).u[0]
        errors.append(mesh.ranks.max(np.abs(u - exact).max(initial=0.0)))
    assert np.log2(errors[0] / errors[1]) >= order - 0.2


def test_the_result_is_written_drawn_and_probed(shared_folder, gl):
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    equation = FokkerPlanck(mesh, diffusion=0.1)
    seen = equation.backward(mesh.center[0], [0, 0.5, 1], tau=0.1)
    path = os.path.join(shared_folder, "u.pvd")
    seen.write(path)
    picture = os.path.join(shared_folder, "u.png")
    seen.plot(picture, [0, 2])
    assert os.path.exists(path) and os.path.exists(picture)
    assert list(seen.fields) == ["expectation"]
    assert_allclose(seen.probe([[0.3], [0.4]])[-1], 0.3, atol=1e-12)
    assert "Expectation" in repr(seen) and "gained" in seen._repr_html_()


def test_refusals():
    mesh = Mesh.interval(0, 1, 8)
    equation = FokkerPlanck(mesh, diffusion=1.0)
    f = np.zeros(mesh.n_cells)
    with pytest.raises(InputError, match="tau must be a step above 0, not None"):
        equation.backward(f, 1.0, tau=None)
    with pytest.raises(InputError, match="tau must be a step"):
        equation.backward(f, 1.0, tau=-1)
    with pytest.raises(InputError, match="f has shape"):
        equation.backward(np.zeros(mesh.n_cells + 1), 1.0, tau=0.1)
    with pytest.raises(InputError, match="not finite"):
        equation.backward(f + np.nan, 1.0, tau=0.1)
    square = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    corners = FokkerPlanck(square, diffusion=1.0, scheme="corners")
    with pytest.raises(InputError, match="two-point fluxes"):
        corners.backward(np.zeros(square.n_cells), 1.0, tau=0.1)
