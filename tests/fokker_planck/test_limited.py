"""`limited` fluxes: second order also where drift outweighs diffusion, and what steps promise."""

import warnings

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose
from scipy.linalg import expm

import fvot
from fvot import Checkpoint, FokkerPlanck, InputError, Mesh

pytestmark = pytest.mark.ranks

FLUXES = fvot.scharfetter_gummel, fvot.limited()

# Meshes of the unit interval, square or cube, with some n cells along each axis.
KINDS = {
    "interval": lambda n, **kw: Mesh.interval(0, 1, n, **kw),
    "squares": lambda n, **kw: Mesh.rectangle((0, 0), (1, 1), (n, n), **kw),
    "triangles": lambda n, **kw: Mesh.triangles((0, 0), (1, 1), n, **kw),
    "voronoi": lambda n, **kw: Mesh.voronoi((0, 0), (1, 1), n * n, **kw),
    "boxes": lambda n, **kw: Mesh.box((0, 0, 0), (1, 1, 1), (n, n, n), **kw),
    "tetrahedra": lambda n, **kw: Mesh.tetrahedra((0, 0, 0), (1, 1, 1), n, **kw),
}


def gaussian(x, mean, variance):
    square = ((x - np.asarray(mean)[:, None]) ** 2).sum(axis=0)
    return np.exp(-square / 2 / variance) / (2 * np.pi * variance) ** (len(x) / 2)


def distance(mesh, rho, other):
    return mesh.integrate(np.abs(rho - other))


def two_wells(x):
    return 4 * (2 * x[0] - 1) ** 2 * (2 * x[0] - 3) ** 2 + (x[1:] ** 2).sum(axis=0)


def assert_promises(result):
    """Mass to round-off, no negative density, and free energy that never grows."""
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert ledger["minimum"].min() >= 0
    if "energy" in ledger:
        parts = np.abs(ledger["entropy"]).max() + np.abs(ledger["potential_energy"]).max()
        assert np.diff(ledger["energy"]).max() <= 1e-14 * parts


# ---- accuracy in space ---------------------------------------------------------------------------


def rotate(n, flux, n_steps):
    """The error in L1 of a rotating Ornstein-Uhlenbeck process against exact cell averages."""
    rate = np.array([[-1.0, -3.0], [3.0, -1.0]])
    mean = expm(rate) @ [1.5, -1.0]
    variance = 0.25 * np.exp(-2) + 1 - np.exp(-2)
    mesh = Mesh.rectangle((-7, -7), (7, 7), (n, n))
    rho0 = mesh.average(lambda x: gaussian(x, [1.5, -1.0], 0.25))
    exact = mesh.average(lambda x: gaussian(x, mean, variance))
    equation = FokkerPlanck(mesh, diffusion=1.0, drift=lambda x: rate @ x, flux=flux)
    result = equation.solve(rho0, 1.0, tau=1 / n_steps)
    assert_promises(result)
    return distance(mesh, result.rho[-1], exact)


@pytest.mark.long
def test_a_rotating_process_with_drift():
    linear = rotate(128, fvot.scharfetter_gummel, 200)
    limited = rotate(128, fvot.limited(), 200)
    assert limited < 3.5e-3
    assert limited < linear / 2
    assert np.log2(rotate(64, fvot.limited(), 100) / limited) > 1.7


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_smooth_densities_that_drift(kind):
    """A smooth hump with compact support is carried half its width along."""
    dim = KINDS[kind](4).dim
    sizes = {"voronoi": (24, 48), "boxes": (12, 24), "tetrahedra": (8, 16)}
    sizes = sizes.get(kind, (100, 200) if dim == 1 else (32, 64))
    start = np.array([0.4, 0.45, 0.5])[:dim]
    drift = np.array([0.2, 0.1, 0.05])[:dim]

    def hump(x, center):
        radius = np.linalg.norm(x - center[:, None], axis=0)
        return np.where(radius < 0.35, np.cos(np.pi * radius / 0.7) ** 4, 0.0)

    errors = {flux: [] for flux in FLUXES}
    for n in sizes:
        mesh = KINDS[kind](n)
        rho0 = mesh.average(lambda x: hump(x, start))
        exact = mesh.average(lambda x: hump(x, start + drift))
        for flux in FLUXES:
            equation = FokkerPlanck(mesh, diffusion=1e-7, drift=drift, flux=flux)
            result = equation.solve(rho0, 1.0, tau=2 / n)
            assert_promises(result)
            errors[flux].append(distance(mesh, result.rho[-1], exact))

    linear, limited = errors.values()
    assert np.log2(limited[0] / limited[1]) > (1.5 if kind == "tetrahedra" else 1.8)
    assert limited[1] < linear[1] / 4


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_keeps_its_edges_and_its_bounds(kind):
    n = {1: 100, 2: 32, 3: 12}[KINDS[kind](4).dim]
    mesh = KINDS[kind](n)
    drift = np.array([0.2, 0.1, 0.05])[: mesh.dim]

    def block(x, center):
        return (np.abs(x - center[:, None]) < 0.2).all(axis=0)

    start = 0.4 + 0 * drift
    rho0 = mesh.average(lambda x: block(x, start))
    exact = mesh.average(lambda x: block(x, start + drift))
    errors = []
    for flux in FLUXES:
        equation = FokkerPlanck(mesh, diffusion=1e-6, drift=drift, flux=flux)
        result = equation.solve(rho0, 1.0, tau=1 / (2 * n))
        assert_promises(result)
        errors.append(distance(mesh, result.rho[-1], exact))
    assert errors[1] < 0.7 * errors[0]
    assert result.ledger["maximum"].max() - 1 < 0.02


@pytest.mark.long
def test_steady_layers_at_a_boundary():
    """d rho/dx = D d2 rho/dx2 + 1, rho = 0 on both ends: the layer is exp((x - 1) / D) wide."""

    def exact(x, D):
        end = np.exp(-1 / D)
        return x[0] - (np.exp((x[0] - 1) / D) - end) / (1 - end)

    ends = {"left": fvot.dirichlet(0.0), "right": fvot.dirichlet(0.0)}
    errors = {}
    for D in 0.1, 0.01, 0.001:
        for n in 40, 80:
            mesh = Mesh.interval(0, 1, n)
            average = mesh.average(lambda x, D=D: exact(x, D), degree=12)
            for flux in FLUXES:
                equation = FokkerPlanck(
                    mesh, diffusion=D, drift=[1.0], source=1.0, boundary=ends, flux=flux
                )
                result = equation.solve(average, 4.0, tau=0.05)
                assert_promises(result)
                errors[D, n, flux] = distance(mesh, result.rho[-1], average)

    linear, limited = FLUXES
    assert np.log2(errors[0.1, 40, limited] / errors[0.1, 80, limited]) > 1.8
    assert errors[0.1, 80, limited] < 1.5 * errors[0.1, 80, linear]
    assert errors[0.01, 80, limited] < 0.9 * errors[0.01, 80, linear]
    assert errors[0.001, 80, limited] < 0.4 * errors[0.001, 80, linear]


@pytest.mark.long
def test_a_flow_without_divergence_makes_no_density_rougher():
    """On triangles round-off would grow without the bounds of the neighbours."""

    def stream(x):
        return np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]) / np.pi

    mesh = Mesh.triangles((0, 0), (1, 1), 16)
    noise = np.sin(1e4 * mesh.cell_id[: mesh.n_cells] ** 2)
    equation = FokkerPlanck(mesh, diffusion=1e-6, stream=stream, flux=fvot.limited())
    for tau in 0.01, 0.04:
        result = equation.solve(1 + 1e-6 * noise, 200 * tau, tau=tau)
        assert mesh.ranks.max(np.abs(result.rho[-1] - 1).max()) < 1e-6


# ---- what every step promises --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sign_mass_energy_and_the_gibbs_density(kind, order):
    mesh = KINDS[kind]({1: 60, 2: 16, 3: 6}[KINDS[kind](4).dim])
    equation = FokkerPlanck(
        mesh, diffusion=0.05, potential=two_wells, flux=fvot.limited(), order=order
    )
    gibbs = np.exp(-two_wells(mesh.center) / 0.05)
    gibbs = gibbs / mesh.integrate(gibbs)
    stationary = equation.stationary()
    assert_allclose(stationary, gibbs, rtol=1e-12)

    rho0 = mesh.density(lambda x: np.abs(x[0] - 0.6) < 0.2)
    for tau in 1e-3, 1.0, 1e3:
        kept = equation.step(stationary, tau)
        assert np.abs(kept - stationary).max() <= 1e-14 * mesh.ranks.max(stationary.max())
        assert_promises(equation.solve(rho0, 6 * tau, tau=tau))

    far = equation.solve(rho0, 40 * 1e3, tau=1e3).rho[-1]
    if kind == "interval":  # one basin
        assert distance(mesh, far, stationary) < 1e-9


@pytest.mark.parametrize("kind", ["interval", "triangles", "boxes"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_ledger_with_all_terms_that_there_are(kind, order):
    mesh = KINDS[kind]({1: 60, 2: 12, 3: 6}[KINDS[kind](4).dim])

    def drift(x, t):
        return np.stack([3 + np.sin(9 * t) + 0 * x[0], *(np.cos(t) * x[1:])])

    boundary = {
        "left": fvot.inflow(lambda x, t: 1 + np.sin(5 * t)),
        "right": fvot.outflow,
        "lower": fvot.dirichlet(0.5),
        "upper": fvot.robin(2.0, 0.1),
    }
    names = mesh.boundary
    boundary = {name: value for name, value in boundary.items() if name in names}
    equation = FokkerPlanck(
        mesh,
        diffusion=lambda x, t: 0.002 * (1.1 + np.cos(t + x[0])),
        drift=drift,
        growth=lambda x: 2 * np.cos(9 * x[0]),
        source=lambda x, t: np.abs(np.sin(t + 5 * x[0])),
        boundary=boundary,
        flux=fvot.limited(),
        order=order,
    )
    rho0 = mesh.average(lambda x: np.abs(x[0] - 0.5) < 0.1)
    for tau in 0.01, 0.3:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="a time-dependent coefficient changes")
            result = equation.solve(rho0, 3 * tau, tau=tau)
        assert_promises(result)
        assert all(result.ledger[name][-1] > 0 for name in ("killed", "born", "added", "inflow"))


def test_what_is_carried_out_is_what_was_there():
    mesh = Mesh.interval(0, 1, 50)
    open_ends = {"left": fvot.inflow(0.0), "right": fvot.outflow}
    equation = FokkerPlanck(
        mesh, diffusion=1e-6, drift=[1.0], boundary=open_ends, flux=fvot.limited()
    )
    result = equation.solve(mesh.density(lambda x: x[0] < 0.3), [0, 0.5, 2.0], tau=0.01)
    assert_promises(result)
    assert result.ledger["outflow"][1] < 1e-3
    assert result.ledger["outflow"][2] == pytest.approx(1, abs=1e-6)
    assert result.ledger["inflow"].max() < 1e-15


# ---- in time -------------------------------------------------------------------------------------


def build_periodic(flux=FLUXES[1], **options):
    """(mesh, a smooth density, the equation that carries it round a periodic square)."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (24, 24), periodic=True)
    rho0 = mesh.density(lambda x: 2 + np.sin(2 * np.pi * x[0]) * np.cos(2 * np.pi * x[1]))
    return mesh, rho0, FokkerPlanck(mesh, diffusion=0.003, flux=flux, **options)


@pytest.mark.long
@pytest.mark.parametrize(("order", "least"), [(1, 0.7), (2, 1.8), (3, 2.2)])
def test_the_order_in_time(order, least):
    mesh, rho0, equation = build_periodic(drift=(1.0, 0.5), order=order)
    coarse, fine, exact = (equation.solve(rho0, 0.4, tau=0.4 / n) for n in (16, 32, 256))
    errors = [distance(mesh, result.rho[-1], exact.rho[-1]) for result in (coarse, fine)]
    assert np.log2(errors[0] / errors[1]) > least
    assert 0.2 < fine.ledger["time_error"][-1] / errors[1] < 5


@pytest.mark.long
def test_adaptive_steps():
    def drift(x, t):
        return np.stack([1 + 0 * x[0], np.sin(6 * t) + 0 * x[0]])

    mesh, rho0, equation = build_periodic(drift=drift, tol=1e-3)
    result = equation.solve(rho0, 0.5)
    exact = equation.solve(rho0, 0.5, tau=0.5 / 256).rho[-1]
    assert_promises(result)
    assert distance(mesh, result.rho[-1], exact) < 2e-3


@pytest.mark.long
def test_adaptive_steps_grow_on_the_way_to_a_stationary_density():
    mesh = Mesh.rectangle((-5, -5), (5, 5), (24, 24))
    equation = FokkerPlanck(
        mesh,
        diffusion=0.5,
        drift=lambda x: np.stack([-x[0] - x[1], x[0] - x[1]]),
        flux=fvot.limited(),
        tol=1e-2,
    )
    result = equation.solve(mesh.density(lambda x: gaussian(x, [2.0, 1.0], 0.5)), [0, 10, 1e4])
    steps = result.ledger["steps"]
    assert steps[2] - steps[1] < 30
    assert distance(mesh, result.rho[1], result.rho[2]) < 1e-3


@pytest.mark.long
@pytest.mark.parametrize("order", [1, 2, 3])
def test_long_steps_lead_to_the_stationary_density_of_short_ones(order):
    mesh = Mesh.rectangle((-5, -5), (5, 5), (32, 32))
    fluxes = {}
    for flux in FLUXES:
        equation = FokkerPlanck(
            mesh,
            diffusion=0.1,
            drift=lambda x: np.stack([-x[0] - 3 * x[1], 3 * x[0] - x[1]]),
            flux=flux,
            order=order,
        )
        rho0 = mesh.density(lambda x: gaussian(x, [2.0, 1.0], 0.25))
        fluxes[flux] = [equation.solve(rho0, 40 * tau, tau=tau) for tau in (0.3, 100.0)]

    exact = mesh.average(lambda x: gaussian(x, [0.0, 0.0], 0.1))
    linear, limited = fluxes.values()
    assert distance(mesh, limited[0].rho[-1], limited[1].rho[-1]) < 1e-3
    for n in range(2):
        assert_promises(limited[n])
        error = distance(mesh, limited[n].rho[-1], exact)
        assert error < distance(mesh, linear[n].rho[-1], exact) / 3


# ---- what is made of it --------------------------------------------------------------------------


def test_the_dissipation_is_the_rate_of_the_energy():
    mesh = Mesh.interval(0, 1, 60)
    rho0 = mesh.density(lambda x: gaussian(x, [0.7], 0.01))
    equation = FokkerPlanck(mesh, diffusion=0.01, potential=two_wells, flux=fvot.limited())
    ledger = equation.solve(rho0, [0, 1e-4, 2e-4], tau=1e-5).ledger
    rate = (ledger["energy"][0] - ledger["energy"][2]) / 2e-4
    assert ledger["dissipation"][1] == pytest.approx(rate, rel=1e-4)


def test_the_current_is_of_second_order():
    errors = {flux: [] for flux in FLUXES}
    for n in 50, 100:
        mesh = Mesh.interval(0, 1, n, periodic=True)
        rho = mesh.average(lambda x: 2 + np.sin(2 * np.pi * x[0]))
        for flux in FLUXES:
            equation = FokkerPlanck(mesh, diffusion=1e-6, drift=[1.0], flux=flux)
            errors[flux].append(distance(mesh, equation.current(rho)[0], rho))
    linear, limited = errors.values()
    assert np.log2(limited[0] / limited[1]) > 1.6
    assert limited[1] < linear[1] / 10


@pytest.mark.parametrize("kind", ["squares", "triangles", "boxes"])
@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_the_numbers_are_the_same_on_any_number_of_ranks(kind, tau):
    n = 6 if kind == "boxes" else 12
    rhos = []
    for comm in MPI.COMM_WORLD, MPI.COMM_SELF:
        mesh = KINDS[kind](n, comm=comm)
        center = np.full((mesh.dim, 1), 0.5)
        equation = FokkerPlanck(
            mesh,
            diffusion=1e-3,
            drift=lambda x, center=center: np.roll(x - center, 1, axis=0) - 0.2 * (x - center),
            flux=fvot.limited(),
        )
        rho0 = mesh.average(lambda x: np.abs(x[0] - 0.6) < 0.2)
        rhos.append(mesh.gather(equation.solve(rho0, 5 * tau, tau=tau).rho[-1]))
    assert_allclose(rhos[0], rhos[1], atol=1e-8)


def test_a_checkpoint_goes_on_and_knows_the_flux(shared_folder):
    _, rho0, equation = build_periodic(drift=(1.0, 0.5))
    kept = Checkpoint(shared_folder / "run.h5")
    equation.solve(rho0, [0, 0.2], tau=0.05, checkpoint=kept)
    result = equation.solve(rho0, [0, 0.2, 0.4], tau=0.05, checkpoint=kept)
    whole = equation.solve(rho0, [0, 0.2, 0.4], tau=0.05)
    assert_allclose(result.rho, whole.rho, atol=1e-10)

    _, _, other = build_periodic(flux=fvot.scharfetter_gummel, drift=(1.0, 0.5))
    with pytest.raises(InputError, match="flux"):
        other.solve(rho0, [0, 0.2, 0.4], tau=0.05, checkpoint=kept)


def test_the_class_itself_is_as_good():
    _, rho0, equation = build_periodic(drift=(1.0, 0.5))
    _, _, short = build_periodic(flux=fvot.limited, drift=(1.0, 0.5))
    assert_allclose(short.step(rho0, 0.1), equation.step(rho0, 0.1), rtol=1e-14)
    assert fvot.limited() == fvot.limited()
    assert repr(fvot.limited()) == "limited()"


def test_what_a_flux_that_is_not_linear_cannot_do():
    mesh = Mesh.interval(0, 1, 20)
    turning = FokkerPlanck(
        Mesh.rectangle((0, 0), (1, 1), (6, 6)),
        diffusion=0.1,
        drift=lambda x: np.stack([0.5 - x[1], x[0] - 0.5]),
        flux=fvot.limited(),
    )
    with pytest.raises(InputError, match=r"not linear.*scharfetter_gummel or solve\(\)"):
        turning.stationary()
    in_potential = FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0], flux=fvot.limited())
    inside = mesh.center[0] < 0.5
    for call in (
        lambda: in_potential.relaxation_rates(1),
        lambda: in_potential.slow_modes(1),
        lambda: in_potential.generator(petsc=True),
        lambda: in_potential.backward(1.0 * inside, 1.0, tau=0.1),
        lambda: in_potential.committor(inside, ~inside),
        lambda: in_potential.mean_first_passage_time(inside),
    ):
        with pytest.raises(InputError, match=r"limited\(\), which is not linear.*scharfetter_gu"):
            call()
    with pytest.raises(InputError, match="scheme='corners' has none"):
        FokkerPlanck(mesh, diffusion=0.1, flux=fvot.limited(), scheme="corners")
    with pytest.raises(InputError, match=r"fvot.limited\(\)"):
        FokkerPlanck(mesh, diffusion=0.1, flux=fvot.muscl())
    with pytest.raises(InputError, match=r"must be fvot.muscl\(\)"):
        fvot.ContinuityEquation(mesh, [1.0], flux=fvot.limited())
