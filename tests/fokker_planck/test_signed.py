"""Signed fields of the Fokker-Planck equation: temperatures, and differences of densities. They are
linear in what is given, and exact in mass.
"""

import brought_meshes as brought
import meshes
import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import Checkpoint, FokkerPlanck, InputError, Mesh

pytestmark = pytest.mark.ranks

ORDERS = pytest.mark.parametrize("order", [1, 2, 3])


def with_sides(points, cells):
    """The unit square with names for its sides."""
    return Mesh.from_cells(points, cells, boundary=brought.sides(points, cells))


KINDS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),
    "quadrilaterals": lambda: with_sides(*brought.quads(9, brought.noise(9, 0.2))),
    "box": lambda: Mesh.box((0, 0, 0), (1, 1, 1), (5, 4, 4)),
}
ON_RANKS = KINDS
ON_KINDS = pytest.mark.parametrize("kind", KINDS)


def find_norm(mesh, u):
    return mesh.integrate(np.abs(u))


def make_equation(mesh, source, outside, **options):
    """Drift, growth of both signs, all kinds of open boundaries."""
    return FokkerPlanck(
        mesh,
        diffusion=0.1,
        potential=lambda x: np.cos(3 * x[0]),
        drift=lambda x: 0 * x + 0.5,
        growth=lambda x: np.where(x[0] > 0.5, -5.0, 1.0 * (x[0] < 0.2)),
        source=source,
        boundary={"left": fvot.inflow(outside), "right": fvot.robin(0.5, outside)},
        signed=True,
        rtol=1e-12,
        **options,
    )


# ---- linear, and exact in mass -------------------------------------------------------------------


@ON_KINDS
@ORDERS
def test_runs_are_linear_and_balanced_at_any_step(kind, order):
    mesh = KINDS[kind]()
    x = mesh.centroid
    u = np.cos(7 * x[0])
    v = np.where(x[0] < 0.3, -2.0, 0.5)
    sources = x[0] - 0.5, np.cos(9 * x[0])
    outside = -1.0, 2.0
    a, b = 3.0, -0.5

    for tau in 1e-3, 0.1, 10.0:
        t = [0, 2 * tau, 4 * tau]

        def run(rho0, source, density, t=t, tau=tau):
            equation = make_equation(mesh, source, density, order=order)
            return equation.solve(rho0, t, tau=tau)

        first = run(u, sources[0], outside[0])
        second = run(v, sources[1], outside[1])
        both = run(a * u + b * v, a * sources[0] + b * sources[1], a * outside[0] + b * outside[1])
        sizes = [find_norm(mesh, result.rho).max() for result in (first, second, both)]
        difference = find_norm(mesh, both.rho - a * first.rho - b * second.rho)
        assert difference.max() < 1e-9 * max(sizes)

        for name in "mass", "grown", "added":
            wanted = a * first.ledger[name] + b * second.ledger[name]
            assert_allclose(both.ledger[name], wanted, rtol=0, atol=1e-8 * max(sizes))
        for result in first, second, both:
            assert_balanced(result)


def assert_balanced(result):
    ledger = result.ledger
    mesh = result.mesh
    assert np.abs(ledger["mass_error"]).max() <= 5e-14
    assert (ledger["limited"] == 0).all()
    assert_allclose(ledger["norm"], find_norm(mesh, result.rho), rtol=1e-13)
    assert_allclose(ledger["mass"], mesh.integrate(result.rho), atol=1e-13 * ledger["norm"].max())
    assert not {"energy", "born", "killed"} & set(ledger)
    lowest = mesh.ranks.min(result.rho.min(axis=1, initial=np.inf))
    assert np.array_equal(ledger["minimum"], lowest)


@ON_KINDS
@ORDERS
def test_a_field_of_mass_0_keeps_it_between_walls(kind, order):
    mesh = KINDS[kind]()
    u = np.cos(5 * mesh.centroid[0])
    u = u - mesh.integrate(u) / mesh.integrate(np.ones(mesh.n_cells))
    equation = FokkerPlanck(mesh, diffusion=1.0, signed=True, order=order)
    for tau in 1e-3, 0.1, 1e3:
        ledger = equation.solve(u, [0, 10 * tau], tau=tau).ledger
        assert np.abs(ledger["mass"]).max() < 1e-15 * ledger["norm"][0]
        assert list(ledger)[3:6] == ["norm", "inflow", "outflow"]


@ON_KINDS
def test_the_difference_of_two_densities_is_that_of_their_runs(kind):
    """Of order 1, where densities are not limited either; with fluxes to corners they are smooth
    enough.
    """
    mesh = KINDS[kind]()
    rho, other = (mesh.density(lambda x, k=k: 2 + np.cos(k * x[0])) for k in (3, 4))
    options = dict(diffusion=0.3, potential=lambda x: x[0] ** 2, order=1, rtol=1e-12)
    t = [0, 0.1, 0.3]
    density = FokkerPlanck(mesh, **options)
    after = density.solve(rho, t, tau=0.02).rho - density.solve(other, t, tau=0.02).rho
    signed = FokkerPlanck(mesh, signed=True, **options).solve(rho - other, t, tau=0.02)
    assert find_norm(mesh, signed.rho - after).max() < 1e-10


@ORDERS
def test_positive_fields_that_need_no_limiter_are_those_of_densities(order):
    mesh = KINDS["triangles"]()
    rho = mesh.density(lambda x: 2 + np.cos(3 * x[0]))
    t = [0, 0.1]
    of_density = FokkerPlanck(mesh, diffusion=1.0, order=order).solve(rho, t, tau=0.01)
    signed = FokkerPlanck(mesh, diffusion=1.0, order=order, signed=True).solve(rho, t, tau=0.01)
    assert_allclose(signed.rho, of_density.rho, rtol=1e-8)


# ---- exact answers -------------------------------------------------------------------------------


@ORDERS
def test_modes_of_the_matrix_fade_as_the_scheme_says(order):
    """cos(k x) at the middle of equal cells is a mode: its rate is 4 D sin^2(k h / 2) / h^2."""
    n = 32
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, 3))
    D = 0.7
    tau = 0.01
    equation = FokkerPlanck(mesh, diffusion=D, signed=True, order=order, rtol=1e-13)
    scheme = equation._stepper.scheme
    for k in np.pi, 5 * np.pi:
        mode = np.cos(k * mesh.center[0])
        rate = 4 * D * np.sin(k / n / 2) ** 2 * n**2
        r = 1 / (1 + scheme.g * tau * rate)
        factor = sum(weight * r ** (i + 1) for i, weight in enumerate(scheme.c))
        result = equation.solve(mode, [0, 10 * tau], tau=tau)
        assert np.abs(result.rho[-1] - factor**10 * mode).max(initial=0.0) < 1e-13


@pytest.mark.parametrize("name", ["interval", "squares", "triangles", "quadrilaterals"])
def test_the_heat_equation_is_of_second_order(name):
    """T = e^(-k^2 D t) cos(k x), of mean 0."""
    builders = {
        "interval": lambda n: Mesh.interval(0, 1, 2 * n),
        "squares": lambda n: Mesh.rectangle((0, 0), (1, 1), (n, n)),
        "triangles": lambda n: Mesh.triangles((0, 0), (1, 1), n),
        "quadrilaterals": lambda n: Mesh.from_cells(*brought.quads(n, brought.noise(n, 0.2))),
    }
    errors = []
    for n in 12, 24:
        mesh = builders[name](n)
        equation = FokkerPlanck(mesh, diffusion=0.5, signed=True, tol=1e-6)
        has_corners = equation._stepper.has_corners
        x = mesh.centroid if has_corners else mesh.center
        mode = np.cos(2 * np.pi * x[0])
        result = equation.solve(mode, 0.05)
        exact = np.exp(-((2 * np.pi) ** 2) * 0.5 * 0.05) * mode
        errors.append(find_norm(mesh, result.rho[-1] - exact))
        assert result.ledger["time_error"][-1] <= 1e-6
    assert errors[1] < 2e-3
    assert np.log2(errors[0] / errors[1]) > 1.6


@ON_KINDS
def test_between_given_temperatures_the_profile_is_linear(kind):
    mesh = KINDS[kind]()
    boundary = {"left": fvot.dirichlet(-1.0), "right": fvot.dirichlet(1.0)}
    equation = FokkerPlanck(mesh, diffusion=0.5, boundary=boundary, signed=True)
    x = mesh.centroid if equation._stepper.has_corners else mesh.center
    exact = 2 * x[0] - 1
    assert np.abs(equation.stationary() - exact).max(initial=0.0) < 1e-9

    result = equation.solve(0 * exact, [0, 20, 21])
    assert np.abs(result.rho[-1] - exact).max(initial=0.0) < 1e-7
    assert_balanced(result)
    through = result.flux_through("right")[-1]
    assert abs(through - -1.0) < 1e-6  # D times the slope 2, inwards, through an area of 1
    current = result.fields["current"][-1]
    assert_allclose(current[0], -1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["interval", "triangles", "quadrilaterals"])
def test_stationary_fields_are_linear_in_what_drives_them(kind):
    mesh = KINDS[kind]()
    x = mesh.centroid
    sources = x[0] - 0.5, 0.1 * np.cos(9 * x[0])

    def find(source, outside):
        return FokkerPlanck(
            mesh,
            diffusion=0.1,
            drift=lambda x: 0 * x + 0.5,
            growth=-0.3,
            source=source,
            boundary={"left": fvot.inflow(outside), "right": fvot.robin(0.5, outside)},
            signed=True,
        )

    first = find(sources[0], -1.0)
    rho = first.stationary()
    other = find(sources[1], 2.0).stationary()
    both = find(3 * sources[0] - sources[1], -5.0).stationary()
    assert find_norm(mesh, both - (3 * rho - other)) < 1e-8 * find_norm(mesh, both)

    later = first.solve(rho, [0, 1.0], tau=0.5).rho[-1]
    assert find_norm(mesh, later - rho) < 1e-8 * find_norm(mesh, rho)


def test_nothing_sustains_a_field_but_0():
    mesh = KINDS["interval"]()
    boundary = {"left": fvot.dirichlet(0.0)}
    cooled = FokkerPlanck(mesh, diffusion=1.0, boundary=boundary, signed=True)
    assert (cooled.stationary() == 0).all()

    heated = FokkerPlanck(mesh, diffusion=1.0, source=mesh.center[0] - 0.5, signed=True)
    with pytest.raises(InputError, match="depends on the initial one"):
        heated.stationary()


# ---- steps, time, files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "order"), [("interval", 1), ("triangles", 2), ("quadrilaterals", 2), ("triangles", 3)]
)
def test_adaptive_steps_keep_to_the_tolerance_where_coefficients_change(kind, order):
    """A temperature outside that swings about 0: no mass, but an L1 norm."""
    mesh = KINDS[kind]()
    tol = {1: 3e-2, 2: 2e-3, 3: 1e-3}[order]

    def solve(tol, order):
        equation = FokkerPlanck(
            mesh,
            diffusion=lambda x, t: 0.1 + 0.05 * np.sin(3 * t) + 0 * x[0],
            source=lambda x, t: np.sin(4 * t) * np.cos(3 * x[0]),
            boundary={"left": fvot.dirichlet(lambda x, t: np.sin(6 * t) + 0 * x[0])},
            signed=True,
            order=order,
            tol=tol,
        )
        return equation.solve(0 * mesh.volume, [0, 0.5, 1.0])

    result = solve(tol, order)
    exact = solve(1e-4, 3)
    scale = exact.ledger["norm"].max()
    assert result.ledger["time_error"][-1] <= tol
    assert find_norm(mesh, result.rho[-1] - exact.rho[-1]) < 3 * tol * scale
    assert np.abs(result.ledger["mass_error"]).max() <= 5e-14


@pytest.mark.parametrize("kind", ["triangles", "quadrilaterals"])
def test_a_run_continues_from_its_checkpoint(kind, shared_folder):
    mesh = KINDS[kind]()
    equation = make_equation(mesh, mesh.centroid[0] - 0.5, -1.0)
    rho0 = np.cos(5 * mesh.centroid[0])
    whole = equation.solve(rho0, [0, 0.1, 0.2], tau=0.02)
    checkpoint = Checkpoint(shared_folder / "run.h5")
    equation.solve(rho0, [0, 0.1], tau=0.02, checkpoint=checkpoint)
    continued = equation.solve(rho0, [0, 0.1, 0.2], tau=0.02, checkpoint=checkpoint)
    assert_allclose(continued.rho, whole.rho, rtol=0, atol=1e-8)
    for name in whole.ledger:
        assert_allclose(continued.ledger[name], whole.ledger[name], rtol=1e-6, atol=1e-13)
    assert_balanced(continued)

    def solve(signed):
        other = Checkpoint(shared_folder / "other.h5")
        equation = FokkerPlanck(mesh, diffusion=0.1, signed=signed)
        equation.solve(np.ones(mesh.n_cells), 0.1, checkpoint=other)

    solve(True)
    with pytest.raises(InputError, match="signed is True, here False"):
        solve(False)


def test_pictures_files_and_fields(shared_folder):
    mesh = Mesh.interval(0, 1, 20)
    result = FokkerPlanck(mesh, diffusion=1.0, signed=True).solve(
        np.cos(3 * mesh.center[0]), [0, 0.01]
    )
    assert list(result.fields) == ["density", "current", "diffusion"]
    assert result.velocity is None
    result.write(shared_folder / "run.pvd", fields=["density", "current"])
    result.plot(shared_folder / "run.png")
    with pytest.raises(InputError, match="density has values down to -0.9.* leave out log"):
        result.plot(log=True)
    with pytest.raises(InputError, match="no velocity"):
        result.velocity_at(np.array([[0.5]]), 0.0)
    with pytest.raises(InputError, match="at least 0"):
        result.to_points()
    assert result.probe([[0.9]])[0, 0] < -0.8


def test_bad_input():
    mesh = meshes.MESHES["interval"]()
    signs = np.where(mesh.center[0] > 0, 1.0, -1.0)
    with pytest.raises(InputError, match="limited.. is for densities of at least 0"):
        FokkerPlanck(mesh, diffusion=0.1, flux=fvot.limited(), signed=True)
    with pytest.raises(InputError, match="signed must be True or False, not 'yes'"):
        FokkerPlanck(mesh, diffusion=1.0, signed="yes")
    with pytest.raises(InputError, match="must be finite "):
        FokkerPlanck(mesh, diffusion=1.0, signed=True).solve(np.nan * signs, 1.0)
    with pytest.raises(InputError, match="at least 0"):
        FokkerPlanck(mesh, diffusion=1.0).solve(signs, 1.0)
    for terms in dict(source=signs), dict(boundary={"left": fvot.dirichlet(-1.0)}):
        with pytest.raises(InputError, match="signed=True"):
            FokkerPlanck(mesh, diffusion=1.0, **terms)
