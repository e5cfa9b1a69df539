"""Flows that compress and expand: order of `muscl` against exact solutions, sign and mass."""

import numpy as np
import pytest
from meshes import MESHES, shaken_quads
from numpy.testing import assert_allclose

from fvot import ContinuityEquation, Mesh, inflow, muscl, outflow, upwind

pytestmark = pytest.mark.ranks

LOW = (-1, -1)
HIGH = (1, 1)


def quadrilaterals(n):
    points, cells = shaken_quads(n)
    return Mesh.from_cells(2 * points - 1, cells)


def right_triangles(n):
    points, ((_, quads),) = shaken_quads(n, amount=0)
    halves = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh.from_cells(2 * points - 1, [("triangle", halves)])


def steady(t):
    return t


def pulsating(t):
    return t + np.sin(3 * t) / 3


PLACES = {
    "interval": (lambda n: Mesh.interval(-1, 1, n), (64, 128)),
    "squares": (lambda n: Mesh.rectangle(LOW, HIGH, (n, n)), (32, 64)),
    "triangles": (lambda n: Mesh.triangles(LOW, HIGH, n), (40, 80)),
    "right triangles": (right_triangles, (32, 64)),
    "quadrilaterals": (quadrilaterals, (32, 64)),
    "polygons": (lambda n: Mesh.voronoi(LOW, HIGH, n**2), (32, 64)),
    "boxes": (lambda n: Mesh.box((-1, -1, -1), (1, 1, 1), (n, n, n)), (16, 32)),
}
DIMENSION = {"interval": 1, "boxes": 3}


def rough_fluxes(mesh):
    """Differences of cell values, the same at both ends of a periodic face."""
    n = mesh.n_inner
    values = mesh.with_ghosts(np.sin(1e3 * mesh.centroid.sum(axis=0)))
    U = mesh.area * np.cos(1e3 * mesh.face_center.sum(axis=0))
    U[:n] = mesh.area[:n] * (values[mesh.left[:n]] - values[mesh.right[:n]])
    return U


def find_order(build, counts, solve, exact, end):
    """The order in L1 between two meshes, for exact(t) a function of x."""
    errors = []
    for n in counts:
        mesh = build(n)
        result = solve(mesh, mesh.average(exact(0.0)), end)
        assert np.abs(result.ledger["mass_error"]).max() < 1e-13
        assert result.ledger["minimum"].min() >= 0
        errors.append(mesh.integrate(np.abs(result.rho[-1] - mesh.average(exact(end)))))
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("stretch", [steady, pulsating])
@pytest.mark.parametrize("kind", ["compression", "expansion", "both"])
@pytest.mark.parametrize("place", PLACES)
def test_second_order_where_the_flow_stretches(place, kind, stretch):
    """v = r x s'(t) for rates r: rho(x, t) = rho0(x e^(-r s)) e^(-sum r s)."""
    build, counts = PLACES[place]
    dim = DIMENSION.get(place, 2)
    rates = {"compression": [-1, -1, -1], "expansion": [1, 1, 1], "both": [-1, 0.5, -1]}[kind]
    rates = np.array(rates[:dim], float)[:, None]
    width = 12 if kind == "compression" else 30
    middle = np.array([0.1, 0.05, 0.1])[:dim, None]

    def exact(t):
        grown = np.exp(-rates * stretch(t))

        def density(x):
            return np.exp(-width * ((x * grown - middle) ** 2).sum(axis=0)) * grown.prod()

        return density

    def speed(t):
        return 1 + np.cos(3 * t)

    velocities = {
        steady: lambda x: rates * x,
        pulsating: lambda x, t: rates * x * speed(t),
    }

    def solve(mesh, rho0, end):
        boundary = dict.fromkeys(mesh.boundary, inflow(0.0))
        equation = ContinuityEquation(mesh, velocity=velocities[stretch], boundary=boundary)
        return equation.solve(rho0, end)

    end = 0.5 if stretch is steady else 0.25
    assert find_order(build, counts, solve, exact, end) > 1.8


@pytest.mark.parametrize(("flux", "least", "most"), [(muscl(), 1.8, 4.0), (upwind, 0.6, 1.3)])
def test_into_a_wall(flux, least, most):
    """v = sin(pi x): what began at X is at x with tan(pi x / 2) = tan(pi X / 2) e^(pi t)."""

    def exact(t):
        def density(x):
            start = 2 / np.pi * np.arctan(np.tan(np.pi * x[0] / 2) * np.exp(-np.pi * t))
            stretched = np.sin(np.pi * start) / np.sin(np.pi * x[0])
            return np.exp(-60 * (start - 0.3) ** 2) * stretched

        return density

    def solve(mesh, rho0, end):
        return ContinuityEquation(mesh, velocity=lambda x: np.sin(np.pi * x), flux=flux).solve(
            rho0, end
        )

    order = find_order(lambda n: Mesh.interval(0, 1, n), (200, 400), solve, exact, 0.3)
    assert least < order < most


@pytest.mark.parametrize("coordinates", ["cylindrical", "spherical"])
def test_towards_the_axis(coordinates):
    """v = -r, whose divergence is -2 around an axis and -3 around a point."""
    dim = {"cylindrical": 2, "spherical": 3}[coordinates]

    def exact(t):
        return lambda x: np.exp(-20 * (x[0] * np.exp(t) - 0.9) ** 2 + dim * t)

    def solve(mesh, rho0, end):
        boundary = {"right": inflow(0.0)}
        return ContinuityEquation(mesh, velocity=lambda x: -x, boundary=boundary).solve(rho0, end)

    def build(n):
        return Mesh.interval(0, 2, n, coordinates=coordinates)

    assert find_order(build, (100, 200), solve, exact, 0.5) > 1.8


def test_around_an_axis_and_along_it():
    def exact(t):
        def density(x):
            r = x[0] * np.exp(t)
            z = x[1] * np.exp(-t / 2)
            return np.exp(-20 * ((r - 0.6) ** 2 + (z - 0.1) ** 2) + 1.5 * t)

        return density

    def solve(mesh, rho0, end):
        boundary = {name: inflow(0.0) for name in mesh.boundary if name != "left"}
        equation = ContinuityEquation(
            mesh, velocity=lambda x: np.stack([-x[0], x[1] / 2]), boundary=boundary
        )
        return equation.solve(rho0, end)

    def build(n):
        return Mesh.rectangle((0, -1), (1.5, 1), (n, n), coordinates="cylindrical")

    assert find_order(build, (32, 64), solve, exact, 0.5) > 1.8


@pytest.mark.parametrize("strength", [0.1, 100.0])
@pytest.mark.parametrize("sharp", [0.0, 1.0])
@pytest.mark.parametrize("name", MESHES)
def test_at_its_bound_a_step_is_positive_in_any_flow(name, sharp, strength):
    """Fluxes that compress some cells, expand others, and cross the boundary both ways."""
    mesh = MESHES[name]()
    U = strength * rough_fluxes(mesh)
    low, high = mesh.bounds
    rho0 = mesh.average(lambda x: x[0] < (low + high)[0] / 2)
    equation = ContinuityEquation(
        mesh,
        face_flux=U,
        flux=muscl(sharp),
        boundary=dict.fromkeys(mesh.boundary, inflow(0.5)),
        cfl=1.0,
    )
    ledger = equation.solve(rho0, [0, 0.02 / strength, 0.1 / strength]).ledger
    assert ledger["minimum"].min() >= 0
    assert np.abs(ledger["mass_error"]).max() < 1e-13


def test_all_may_run_together_at_the_bound():
    """Strong compression of an indicator into a few cells, whose faces let nothing out."""
    for mesh in (
        Mesh.interval(-1, 1, 51),
        Mesh.rectangle(LOW, HIGH, (21, 21)),
        Mesh.triangles(LOW, HIGH, 16),
        Mesh.box((-1, -1, -1), (1, 1, 1), (9, 9, 9)),
    ):
        rho0 = mesh.average(lambda x: np.abs(x).max(axis=0) < 0.8)
        equation = ContinuityEquation(
            mesh,
            velocity=lambda x: -np.tanh(50 * x),
            boundary=dict.fromkeys(mesh.boundary, outflow),
            cfl=1.0,
        )
        ledger = equation.solve(rho0, [0, 0.3, 2]).ledger
        assert ledger["minimum"].min() >= 0
        assert np.abs(ledger["mass_error"]).max() < 1e-13
        assert ledger["maximum"][-1] > 5


@pytest.mark.parametrize("name", ["interval", "rectangle", "box", "triangles", "voronoi", "torus"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    gathered = []
    for mesh in MESHES[name](), MESHES[name](comm=ranks.comm.Split(ranks.rank)):
        low, high = mesh.bounds
        length = (high - low)[:, None]

        def converge(x, low=low[:, None], length=length):
            return np.sin(2 * np.pi * (x - low) / length + 1)

        rho0 = mesh.average(lambda x: 1 + x[0] ** 2)
        boundary = dict.fromkeys(mesh.boundary, outflow)
        equation = ContinuityEquation(mesh, velocity=converge, boundary=boundary)
        gathered.append(mesh.gather(equation.solve(rho0, 0.3).rho[-1]))
    assert_allclose(*gathered, rtol=1e-12, atol=1e-12)
