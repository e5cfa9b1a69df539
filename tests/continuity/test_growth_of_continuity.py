"""Growth and sources of the continuity equation: exact answers, the balance of mass, the sign."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import Checkpoint, ContinuityEquation, InputError, Mesh, muscl, upwind

pytestmark = pytest.mark.ranks

KINDS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "squares": lambda: Mesh.rectangle((0, 0), (1, 1), (12, 10)),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),
    "box": lambda: Mesh.box((0, 0, 0), (1, 1, 1), (5, 4, 4)),
}
ON_KINDS = pytest.mark.parametrize("kind", KINDS)


def along(x):
    """A unit velocity along the first axis."""
    v = 0 * x
    v[0] = 1.0
    return v


def eddy(x):
    """The stream function of an eddy in the unit square."""
    return np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])


@ON_KINDS
@pytest.mark.parametrize("flux", [upwind, muscl()], ids=["upwind", "muscl"])
def test_the_balance_is_exact_and_nothing_is_negative(kind, flux):
    mesh = KINDS[kind]()
    equation = ContinuityEquation(
        mesh,
        velocity=along,
        flux=flux,
        growth=lambda x, t: np.where(x[0] > 0.5, -200.0, 3 * np.cos(5 * t)),
        source=lambda x: 2.0 * (x[0] < 0.4),
        boundary={"left": fvot.inflow(1.0), "right": fvot.outflow},
    )
    result = equation.solve(mesh.average(lambda x: 1.0 * (x[0] < 0.3)), [0, 0.3, 1])
    ledger = result.ledger
    balance = ledger["mass"] - ledger["inflow"] + ledger["outflow"]
    balance = balance - ledger["grown"] - ledger["added"] - ledger["mass"][0]
    assert np.abs(balance).max() <= 1e-14
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert mesh.ranks.min(result.rho.min(initial=np.inf)) >= 0
    added = mesh.integrate(2.0 * (mesh.centroid[0] < 0.4))
    assert_allclose(ledger["added"], added * result.t, rtol=1e-13)


def test_what_stands_still_grows_exactly():
    """d rho/dt = g rho + s: rho = e^(g t) rho0 + (e^(g t) - 1) s / g."""
    mesh = KINDS["triangles"]()
    growth = mesh.center[0] - 0.5
    growth[0] = 0.0
    source = mesh.center[1]
    rho0 = mesh.average(lambda x: 1 + x[0])
    equation = ContinuityEquation(mesh, velocity=(0.0, 0.0), growth=growth, source=source)
    t = 2.0
    z = growth * t
    phi = np.where(z == 0, 1.0, np.expm1(z) / np.where(z == 0, 1.0, z))
    exact = np.exp(z) * rho0 + t * phi * source
    assert_allclose(equation.solve(rho0, t).rho[-1], exact, rtol=1e-14)
    assert_allclose(equation.step(rho0, t), exact, rtol=1e-14)


@pytest.mark.parametrize(("flux", "least"), [(muscl(), 1.9), (upwind, 0.85)])
def test_order_of_convergence(flux, least):
    """rho(x, t) = e^(G(x) - G(x - t)) rho0(x - t), G' = growth, round a circle."""

    def primitive(x):
        return np.sin(2 * np.pi * x) / np.pi

    def rho0(x):
        return 1 + 0.5 * np.sin(2 * np.pi * x)

    def exact(x):
        back = x[0] - 0.7
        return np.exp(primitive(x[0]) - primitive(back)) * rho0(back)

    errors = []
    for n in 50, 100, 200:
        mesh = Mesh.interval(0, 1, n, periodic=True)
        equation = ContinuityEquation(
            mesh, (1.0,), flux=flux, growth=lambda x: 2 * np.cos(2 * np.pi * x[0])
        )
        rho = equation.solve(mesh.average(lambda x: rho0(x[0])), 0.7).rho[-1]
        errors.append(mesh.integrate(np.abs(rho - mesh.average(exact))))
    assert np.log2(errors[1] / errors[2]) > least


@pytest.mark.long
def test_terms_that_depend_on_time_are_exact_where_nothing_varies_in_space():
    """Growth 5 cos(5 t), source e^sin(5 t), in an eddy: constants stay constants in space."""
    mesh = KINDS["squares"]()
    errors = []
    for tau in 0.02, 0.01:
        equation = ContinuityEquation(
            mesh,
            stream=eddy,
            growth=lambda x, t: 5 * np.cos(5 * t) + 0 * x[0],
            source=lambda x, t: np.exp(np.sin(5 * t)) + 0 * x[0],
        )
        rho = equation.solve(np.ones(mesh.n_cells), 1.0, tau=tau).rho[-1]
        exact = np.exp(np.sin(5.0)) * 2.0
        errors.append(mesh.ranks.max(np.abs(rho - exact).max(initial=0.0)))
    assert errors[1] < 2e-4


def test_a_pulse_of_growth_in_slow_flow_is_seen():
    """One step would pass over it."""
    mesh = KINDS["squares"]()
    equation = ContinuityEquation(
        mesh,
        stream=lambda x: 1e-4 * eddy(x),
        growth=lambda x, t: 10.0 * (np.abs(t - 0.3) < 0.05) + 0 * x[0],
    )
    ledger = equation.solve(np.ones(mesh.n_cells), 1.0).ledger
    assert ledger["steps"][-1] < 5
    assert ledger["mass"][-1] == pytest.approx(np.exp(1.0), rel=0.03)


def test_the_adjoint_is_the_transpose():
    mesh = KINDS["triangles"]()
    equation = ContinuityEquation(
        mesh, stream=eddy, flux=upwind, growth=lambda x, t: x[0] - 2 * x[1] * np.sin(9 * t)
    )
    rho0 = mesh.average(lambda x: 1 + x[0])
    rho1 = equation.solve(rho0, [0, 0.3, 0.5]).rho[-1]
    phi1 = np.cos(3 * mesh.center[0])
    phi0 = equation.adjoint(phi1, [0, 0.3, 0.5])
    assert mesh.integrate(rho0 * phi0) == pytest.approx(mesh.integrate(rho1 * phi1), rel=1e-13)


def test_a_checkpoint_knows_the_terms(shared_folder):
    mesh = KINDS["squares"]()
    kept = Checkpoint(shared_folder / "run.h5")

    def solve(t, **terms):
        equation = ContinuityEquation(mesh, stream=eddy, **terms)
        return equation.solve(np.ones(mesh.n_cells), t, checkpoint=kept)

    solve([0, 0.1], growth=-1.0, source=2.0)
    longer = solve([0, 0.1, 0.2], growth=-1.0, source=2.0)
    assert np.abs(longer.ledger["mass_error"]).max() < 1e-14
    assert longer.ledger["added"][-1] == pytest.approx(0.4)
    for other in dict(growth=-1.0), dict(growth=-1.1, source=2.0), dict(growth=-1.0, source=2.1):
        with pytest.raises(InputError, match="growth|source"):
            solve([0, 0.1, 0.2], **other)


def test_terms_that_cannot_be_are_refused():
    mesh = KINDS["squares"]()
    with pytest.raises(InputError, match="source is -1.0 in cell .* growth -q / |K|"):
        ContinuityEquation(mesh, stream=eddy, source=-1.0)
    with pytest.raises(InputError, match="growth must be a finite number"):
        ContinuityEquation(mesh, stream=eddy, growth=[1.0, 2.0])
    with pytest.raises(InputError, match="no argument 'growth'"):
        fvot.JKO(mesh, fvot.Entropy(), growth=1.0)


@pytest.mark.parametrize("begin, length", [(0.317, 0.01), (0.5131, 0.01), (0.3, 0.05)])
@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_pulses_of_sources_and_growth_are_seen_wherever_they_begin(begin, length, speed):
    """What a pulse adds, and what it leaves, to 1e-4."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6), periodic=True)
    flow = dict(velocity=(speed, 0.0))

    def pulse(x, t):
        return (begin < t < begin + length) / length + 0 * x[0]

    start = np.ones(mesh.n_cells)
    ledger = ContinuityEquation(mesh, **flow, source=pulse).solve(start, [0, 1]).ledger
    assert ledger["added"][-1] == pytest.approx(1, rel=1e-4)
    killed = ContinuityEquation(mesh, **flow, growth=lambda x, t: -pulse(x, t))
    assert killed.solve(start, [0, 1]).ledger["mass"][-1] == pytest.approx(np.exp(-1), rel=1e-4)
