"""Flow in cylindrical and spherical coordinates."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

import fvot
from fvot import ContinuityEquation, FokkerPlanck, InputError, Mesh, inflow, outflow, potential_flow

pytestmark = pytest.mark.ranks

MEASURE = {
    "cylindrical": lambda r: 2 * np.pi * r,
    "spherical": lambda r: 4 * np.pi * r**2,
}
DOORS = {"left": inflow(1.0), "right": outflow}


def find_error(mesh, rho, exact):
    return mesh.integrate(np.abs(rho - exact)) / mesh.integrate(np.abs(exact))


def check_orders(solve, counts, least):
    errors = [solve(n) for n in counts]
    assert np.log2(np.array(errors[:-1]) / errors[1:]).min() > least, errors


def from_a_source(coordinates, Q):
    """The velocity Q / area(r)."""
    return lambda x: Q / MEASURE[coordinates](x[:1])


@pytest.mark.parametrize("coordinates", MEASURE)
@pytest.mark.parametrize("flux", [fvot.muscl(), fvot.upwind], ids=["muscl", "upwind"])
def test_a_uniform_density_stays(coordinates, flux):
    for mesh in (
        Mesh.interval(0.5, 3, 30, coordinates=coordinates),
        Mesh.interval(edges=0.5 + np.linspace(0, 1.5, 25) ** 2, coordinates=coordinates),
    ):
        velocity = from_a_source(coordinates, 0.7)
        equation = ContinuityEquation(mesh, velocity=velocity, boundary=DOORS, flux=flux)
        result = equation.solve(np.ones(mesh.n_cells), [0, 2])
        assert_allclose(result.rho[-1], 1, rtol=1e-13)
        assert np.abs(result.ledger["mass_error"]).max() < 1e-13 * mesh.integrate(1.0)
        assert_allclose(result.velocity[-1], mesh.average(velocity), rtol=0.1)


@pytest.mark.parametrize("coordinates", MEASURE)
def test_a_shell_moves_with_the_volume(coordinates):
    """The volume within it grows by Q t: r^2 = r0^2 + Q t / pi around an axis."""
    Q = 0.7
    t, start = {"cylindrical": (6.0, 1.0), "spherical": (10.0, 1.0)}[coordinates]

    def shell(r):
        return np.exp(-30 * (r - start) ** 2)

    def begin(r):
        if coordinates == "cylindrical":
            return np.sqrt(np.maximum(r**2 - Q * t / np.pi, 0))
        return np.cbrt(np.maximum(r**3 - 3 * Q * t / (4 * np.pi), 0))

    def solve(n):
        mesh = Mesh.interval(0.25, 2.5, n, coordinates=coordinates)
        velocity = from_a_source(coordinates, Q)
        equation = ContinuityEquation(mesh, velocity=velocity, boundary=DOORS | {"left": inflow(0)})
        rho = equation.solve(mesh.average(lambda x: shell(x[0])), t).rho[-1]
        exact = mesh.average(lambda x: shell(begin(x[0])) * (begin(x[0]) > 0.25))
        return find_error(mesh, rho, exact)

    check_orders(solve, (100, 200, 400), 1.4)


@pytest.mark.parametrize("coordinates", MEASURE)
def test_functions_need_no_value_on_the_axis(coordinates):
    """Velocities towards it, among them one of 1/r."""
    mesh = Mesh.interval(0, 1, 20, coordinates=coordinates)
    for velocity in (from_a_source(coordinates, -1.0), lambda x, t: -(x**2) * t / x):
        with np.errstate(all="raise"):
            equation = ContinuityEquation(mesh, velocity=velocity, boundary={"right": inflow(0.0)})
            result = equation.solve(mesh.volume, [0, 1e-3])
        assert np.isfinite(result.rho).all()
        assert np.abs(result.ledger["mass_error"]).max() < 1e-14


def stream(x):
    """Stokes's stream function of a vortex ring in a cylinder of radius 1 and length 2."""
    return x[0] ** 2 * (1 - x[0] ** 2) * (1 - x[1] ** 2)


def swirl(x):
    """Its velocity, (-1/r d psi/dz, 1/r d psi/dr)."""
    across = 2 * x[1] * x[0] * (1 - x[0] ** 2)
    return np.stack([across, (2 - 4 * x[0] ** 2) * (1 - x[1] ** 2)])


@pytest.mark.long
@pytest.mark.parametrize("given", ["stream", "velocity"])
def test_a_vortex_ring(given):
    def blob(x):
        return np.exp(-20 * ((x[0] - 0.4) ** 2 + x[1] ** 2))

    def exact(x):
        way = solve_ivp(
            lambda t, y: -swirl(y.reshape(2, -1)).ravel(), (0, 0.5), x.ravel(), rtol=1e-8, atol=1e-9
        )
        return blob(way.y[:, -1].reshape(2, -1))

    def solve(n):
        mesh = Mesh.rectangle((0, -1), (1, 1), (n, 2 * n), coordinates="cylindrical")
        flow = {"stream": stream} if given == "stream" else {"velocity": swirl}
        equation = ContinuityEquation(mesh, **flow)
        result = equation.solve(mesh.average(blob), [0, 0.5])
        assert np.abs(result.ledger["mass_error"]).max() < 1e-13
        if given == "stream":
            rest = equation.solve(np.ones(mesh.n_cells), 0.5).rho[-1]
            assert_allclose(rest, 1, rtol=1e-12)
        slack = 3 / n**2
        assert_allclose(result.velocity[-1], mesh.average(swirl), atol=slack)
        return find_error(mesh, result.rho[-1], mesh.average(exact, degree=2))

    check_orders(solve, (16, 32), 1.6)


def test_a_stream_function_in_time():
    """Half the time with twice the stream function is the same."""
    mesh = Mesh.rectangle((0, -1), (1, 1), (8, 16), coordinates="cylindrical")
    rho0 = mesh.average(lambda x: 1 + x[0] * x[1])
    steady = ContinuityEquation(mesh, stream=stream).solve(rho0, 0.2).rho[-1]
    growing = ContinuityEquation(mesh, stream=lambda x, t: 10 * t * stream(x)).solve(rho0, 0.2)
    assert find_error(mesh, growing.rho[-1], steady) < 1e-2


def test_a_stream_function_that_crosses_the_axis_is_refused():
    mesh = Mesh.rectangle((0, -1), (1, 1), (8, 16), coordinates="cylindrical")
    with pytest.raises(InputError, match="constant there"):
        ContinuityEquation(mesh, stream=lambda x: x[1] + x[0] ** 2).solve(0 * mesh.volume, 0.1)


def test_potential_flow_around_an_axis_and_along_it():
    mesh = Mesh.rectangle((0.2, 0), (1, 3), (5, 6), coordinates="cylindrical")
    n = mesh.n_inner
    across = np.abs(mesh.normal[0, :n]) > 0.5
    U = potential_flow(mesh, {"left": 1.0, "right": -1.0})
    assert_allclose(U[:n], np.where(across, 1 / 6, 0.0), atol=1e-9)
    assert np.abs(mesh.divergence(U) * mesh.volume).max() < 1e-14

    pipe = Mesh.rectangle((0, 0), (1, 3), (5, 12), coordinates="cylindrical")
    U = potential_flow(pipe, {"bottom": np.pi, "top": -np.pi})
    assert_allclose(U, pipe.area * pipe.normal[1], atol=1e-9)
    with pytest.raises(InputError, match="r = 0"):
        potential_flow(pipe, {"left": 1.0, "top": -1.0})

    # It carries a density at the speed 1, with cells of any width.
    boundary = {"bottom": inflow(0.0), "top": outflow}
    equation = FokkerPlanck(pipe, face_flux=U, diffusion=1e-2, boundary=boundary)
    result = equation.solve(pipe.density(lambda x: np.abs(x[1] - 1.25) < 0.25), [0, 0.25])
    height = pipe.integrate(result.rho[-1] * pipe.centroid[1])
    assert height == pytest.approx(1.5, abs=5e-3)


def test_points_between_cells():
    """Velocities and values there are linear in the cells."""
    mesh = Mesh.rectangle((0, -1), (1, 1), (16, 32), coordinates="cylindrical")
    result = ContinuityEquation(mesh, velocity=swirl).solve(
        mesh.average(lambda x: 2 + x[0] - x[1]), [0, 1e-6]
    )
    points = np.array([[0.31, 0.77], [-0.2, 0.45]])
    assert_allclose(result.velocity_at(points, 0.0), swirl(points), atol=2e-2)
    assert_allclose(result.probe(points)[0], 2 + points[0] - points[1], atol=1e-3)
