"""Diffusion in cylindrical and spherical coordinates, against exact solutions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import j0, jn_zeros

import fvot
from fvot import FokkerPlanck, Mesh, dirichlet

pytestmark = pytest.mark.ranks

BESSEL = jn_zeros(0, 1)[0]  # the first zero of J0, and of its derivative
BESSEL_WALL = jn_zeros(1, 1)[0]
DIMENSION = {"cylindrical": 2, "spherical": 3}
GRADED = np.linspace(0, 1, 25) ** 1.3


def find_error(mesh, rho, exact):
    """In L1, relative."""
    return mesh.integrate(np.abs(rho - exact)) / mesh.integrate(np.abs(exact))


def find_orders(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


def check_orders(solve, counts=(12, 24, 48), least=1.8):
    """solve(n) -> the error on n cells."""
    errors = [solve(n) for n in counts]
    assert find_orders(errors).min() > least, errors


def relax(mesh, n, mode, rate, t, mean=0.0, **options):
    """The error of mean + mode, which decays at that rate, after n steps; the mass is accounted
    for.
    """
    equation = FokkerPlanck(mesh, **options)
    start = mesh.average(mode)
    result = equation.solve(mean + start, [0, t], tau=t / n)
    assert np.abs(result.ledger["mass_error"]).max() < 1e-13 * mesh.integrate(mean + start)
    return find_error(mesh, result.rho[-1], mean + start * np.exp(-rate * t))


# ---- decay ---------------------------------------------------------------------------------------


def test_a_disc_that_absorbs_at_its_rim():
    """J0(j r / R) e^(-D j^2 t / R^2)."""
    R, D = 2.0, 0.5

    def solve(n):
        mesh = Mesh.interval(0, R, n, coordinates="cylindrical")
        rate = D * (BESSEL / R) ** 2
        boundary = {"right": dirichlet(0.0)}
        return relax(
            mesh, n, lambda x: j0(BESSEL * x[0] / R), rate, 0.6, diffusion=D, boundary=boundary
        )

    check_orders(solve)


def test_a_disc_with_a_wall():
    def solve(n):
        mesh = Mesh.interval(0, 1, n, coordinates="cylindrical")
        return relax(
            mesh, n, lambda x: j0(BESSEL_WALL * x[0]), BESSEL_WALL**2, 0.05, mean=1.0, diffusion=1.0
        )

    check_orders(solve)


@pytest.mark.long
def test_a_ball_that_absorbs_at_its_surface():
    """sin(pi r / R) / r."""

    def solve(n):
        mesh = Mesh.interval(0, 1, n, coordinates="spherical")
        boundary = {"right": dirichlet(0.0)}
        return relax(
            mesh, n, lambda x: np.sinc(x[0]), np.pi**2, 0.1, diffusion=1.0, boundary=boundary
        )

    check_orders(solve)


@pytest.mark.long
@pytest.mark.parametrize("coordinates", DIMENSION)
def test_cells_of_different_widths(coordinates):
    """The error on graded cells falls as on equal ones."""
    mode, rate = {
        "cylindrical": (lambda x: j0(BESSEL * x[0]), BESSEL**2),
        "spherical": (lambda x: np.sinc(x[0]), np.pi**2),
    }[coordinates]

    def solve(n):
        edges = np.linspace(0, 1, n + 1) ** 1.3
        mesh = Mesh.interval(edges=edges, coordinates=coordinates)
        boundary = {"right": dirichlet(0.0)}
        return relax(mesh, n, mode, rate, 0.1, diffusion=1.0, boundary=boundary)

    check_orders(solve)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_mode_of_a_pipe(periodic):
    """J0 in r times a cosine in z, with other diffusion along the axis than across."""
    wave = np.pi if periodic else np.pi / 2
    rate = 0.5 * BESSEL_WALL**2 + 1.5 * wave**2

    def solve(n):
        mesh = Mesh.rectangle(
            (0, 0), (1, 2), (n, 2 * n), coordinates="cylindrical", periodic=(False, periodic)
        )
        return relax(
            mesh,
            n,
            lambda x: j0(BESSEL_WALL * x[0]) * np.cos(wave * x[1]),
            rate,
            0.05,
            mean=1.0,
            diffusion=(0.5, 1.5),
        )

    check_orders(solve, counts=(6, 12, 24))


def test_rates_of_a_disc():
    exact = jn_zeros(1, 2) ** 2

    def solve(n):
        mesh = Mesh.interval(0, 1, n, coordinates="cylindrical")
        rates = FokkerPlanck(mesh, diffusion=1.0).relaxation_rates(2)
        return np.abs(rates / exact - 1).max()

    check_orders(solve)


# ---- drift, wells and noise ----------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("coordinates", DIMENSION)
def test_a_gaussian_in_a_trap(coordinates):
    """Ornstein and Uhlenbeck's process: the variance goes to 1 as e^(-2 t)."""
    dim = DIMENSION[coordinates]
    variance = 0.4 * np.exp(-0.6) + 1 - np.exp(-0.6)

    def gaussian(s):
        return lambda x: (2 * np.pi * s) ** (-dim / 2) * np.exp(-(x[0] ** 2) / (2 * s))

    def solve(n):
        mesh = Mesh.interval(0, 6, n, coordinates=coordinates)
        equation = FokkerPlanck(mesh, diffusion=1.0, potential=lambda x: x[0] ** 2 / 2, tol=1e-7)
        result = equation.solve(mesh.average(gaussian(0.4)), [0, 0.3])
        assert np.abs(result.ledger["mass_error"]).max() < 1e-13
        return find_error(mesh, result.rho[-1], mesh.average(gaussian(variance)))

    check_orders(solve)


@pytest.mark.parametrize("coordinates", DIMENSION)
def test_the_stationary_density_of_a_trap_is_that_of_gibbs(coordinates):
    mesh = Mesh.interval(edges=4 * GRADED, coordinates=coordinates)
    equation = FokkerPlanck(mesh, diffusion=1.0, potential=lambda x: x[0] ** 2 / 2)
    gibbs = np.exp(-(mesh.center[0] ** 2) / 2)
    assert_allclose(equation.stationary(), gibbs / mesh.integrate(gibbs), rtol=1e-9)


@pytest.mark.parametrize("coordinates", DIMENSION)
def test_steady_flow_to_a_well(coordinates):
    """The logarithm around a cylinder, 1/r around a ball; what flows is the capacity."""
    shape, capacity = {
        "cylindrical": (lambda x: np.log(x[0]) / np.log(0.2), 2 * np.pi / np.log(5)),
        "spherical": (lambda x: (1 / x[0] - 1) / 4, 4 * np.pi / 4),
    }[coordinates]

    def solve(n):
        mesh = Mesh.interval(0.2, 1, n, coordinates=coordinates)
        boundary = {"left": dirichlet(1.0), "right": dirichlet(0.0)}
        equation = FokkerPlanck(mesh, diffusion=1.0, boundary=boundary)
        result = equation.solve(mesh.average(shape), [0, 20, 30])
        entered = np.diff(result.ledger["inflow:left"])[-1] / 10
        error = find_error(mesh, result.rho[-1], mesh.average(shape))
        return max(error, abs(entered / capacity - 1))

    check_orders(solve)


@pytest.mark.parametrize("noise, power", [("ito", 1.0), ("stratonovich", 0.5)])
@pytest.mark.parametrize("coordinates", DIMENSION)
@pytest.mark.parametrize("given", ["function", "cell values"])
def test_noise_that_varies(noise, power, coordinates, given):
    """Without flux D^power rho is the same everywhere, in all coordinates."""

    def D(x):
        return 0.1 + x[0] ** 2

    def solve(n):
        mesh = Mesh.interval(0, 1, n, coordinates=coordinates)
        diffusion = D if given == "function" else D(mesh.center)
        rho = FokkerPlanck(mesh, diffusion=diffusion, noise=noise).stationary()
        return find_error(mesh, rho, mesh.density(lambda x: D(x) ** -power))

    check_orders(solve, counts=(16, 32, 64))


@pytest.mark.long
def test_velocities_of_cells():
    """A Gaussian of variance s spreads with the velocity x D / s."""

    def solve(n):
        mesh = Mesh.interval(0, 8, n, coordinates="spherical")
        rho0 = mesh.average(lambda x: np.exp(-(x[0] ** 2) / 2))
        result = FokkerPlanck(mesh, diffusion=1.0, tol=1e-7).solve(rho0, [0, 0.5])
        inside = mesh.center[0] < 3
        error = np.abs(result.velocity[-1][0] - mesh.centroid[0] / 2)[inside]
        return mesh.ranks.max(error.max(initial=0.0))

    check_orders(solve, counts=(20, 40, 80))


# ---- the same on any number of ranks, and after a break ------------------------------------------


def test_a_run_goes_on_from_its_checkpoint(shared_folder):
    mesh = Mesh.rectangle((0, 0), (1, 2), (8, 9), coordinates="cylindrical", periodic=(False, True))
    equation = FokkerPlanck(mesh, diffusion=0.3, drift=(0.0, 1.0))
    rho0 = mesh.density(lambda x: 1 + x[0])
    path = shared_folder / "radial.h5"
    whole = equation.solve(rho0, [0, 0.1, 0.2], tau=0.02)
    equation.solve(rho0, [0, 0.1], tau=0.02, checkpoint=fvot.Checkpoint(path))
    again = equation.solve(rho0, [0, 0.1, 0.2], tau=0.02, checkpoint=fvot.Checkpoint(path))
    assert_allclose(again.rho, whole.rho, rtol=1e-12)

    flat = Mesh.rectangle((0, 0), (1, 2), (8, 9), periodic=(False, True))
    other = FokkerPlanck(flat, diffusion=0.3, drift=(0.0, 1.0))
    with pytest.raises(fvot.InputError):
        other.solve(flat.density(lambda x: 1 + x[0]), [0, 0.1], checkpoint=fvot.Checkpoint(path))


@pytest.mark.parametrize("coordinates", DIMENSION)
def test_limited_fluxes_are_of_second_order(coordinates):
    """A shell that is carried outwards, v r^(d - 1) = 1, hardly spreads: r^d = r0^d + d t."""
    d = DIMENSION[coordinates]

    def shell(x, t):
        r0 = np.maximum(x[0] ** d - d * t, 0) ** (1 / d)
        return np.exp(-40 * (r0 - 1) ** 2)

    def solve(n):
        mesh = Mesh.interval(0.5, 2.5, n, coordinates=coordinates)
        equation = FokkerPlanck(
            mesh,
            diffusion=1e-8,
            drift=lambda x: x ** (1 - d),
            flux=fvot.limited(),
            boundary={"left": fvot.inflow(0.0), "right": fvot.outflow},
        )
        rho0 = mesh.average(lambda x: shell(x, 0.0))
        rho = equation.solve(rho0, 0.6, tau=0.3 / n).rho[-1]
        return find_error(mesh, rho, mesh.average(lambda x: shell(x, 0.6)))

    check_orders(solve, counts=(50, 100, 200))
