"""What a velocity, or a density that enters, does between recorded times and between steps is seen,
and counted right.
"""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import Checkpoint, ContinuityEquation, FokkerPlanck, Mesh, muscl, upwind

pytestmark = pytest.mark.ranks

SHORTEST = (
    1 / 200
)  # the shortest pulse that is seen, in parts of the time between two recorded times
RIGHT = 5e-3  # of the mean displacement, as promised
FINE = (np.arange(400_000) + 0.5) / 400_000


def pulse(start, width):
    return lambda t: 1.0 * ((t >= start) & (t < start + width))


def hump(start, width):
    return lambda t: np.where(
        (t > start) & (t < start + width), np.sin(np.pi * (t - start) / width) ** 2, 0.0
    )


def train(n, start, width):
    return lambda t: pulse(start, 0.5 / n)(start + (t - start) % (1 / n)) * pulse(start, width)(t)


def wave(n, phase):
    return lambda t: np.sin(np.pi * n * t + phase) ** 2


def half_wave(n, phase):
    return lambda t: np.maximum(np.sin(2 * np.pi * n * t + phase), 0)


def saw(n, phase):
    return lambda t: (n * t + phase) % 1.0


def breath(n, phase):
    """Forth and back, and a little farther forth."""
    return lambda t: 0.3 + np.sin(2 * np.pi * n * t + phase)


SIGNALS = {
    "sine squared": lambda t: 2 * np.sin(2 * np.pi * t) ** 2,
    "late start": pulse(0.9, 1),
    "last moment": pulse(0.995, 1),
    "early end": pulse(0, 0.1),
    "late ramp": lambda t: np.maximum(t - 0.97, 0),
    "gap": lambda t: 1 - pulse(0.4, SHORTEST)(t),
    "burst train": train(40, 0.61, 0.1),
    "bell": lambda t: np.exp(-(((t - 0.377) / SHORTEST) ** 2)),
    "two pulses": lambda t: pulse(0.123, SHORTEST)(t) + 3 * pulse(0.8, 0.05)(t),
    **{
        f"pulse at {start}": pulse(start, SHORTEST)
        for start in (0.0, 0.0371, 0.25, 0.31, 0.4975, 0.5, 0.77777, 0.995)
    },
    **{f"hump at {start}": hump(start, SHORTEST) for start in (0.01, 0.3333, 0.618, 0.99)},
    **{f"wave {n}, {phase}": wave(n, phase) for n in (1, 7, 100, 200) for phase in (0, 0.4)},
    **{f"half wave {n}": half_wave(n, 0.3 * n) for n in (1, 3, 16, 100)},
    **{f"saw {n}": saw(n, 0.3) for n in (1, 10, 64, 200)},
    **{f"breath {n}": breath(n, 1.0) for n in (1, 5, 50)},
}
FEW = ["sine squared", "late start", "pulse at 0.4975", "burst train"]
FLUXES = pytest.mark.parametrize(
    "flux", [upwind, muscl(), muscl(0.5)], ids=["upwind", "muscl", "sharp"]
)
MESHES = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "rectangle": lambda: Mesh.rectangle((0, 0), (1, 1), (20, 12)),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 14),
    "voronoi": lambda: Mesh.voronoi((0, 0), (1, 1), 150),
}


def scaled(signal, distance):
    """The signal times what makes its integral from 0 to 1 the distance."""
    factor = distance / signal(FINE).mean()
    return lambda t: factor * float(signal(np.float64(t)))


def blob(mesh, at=0.3, width=0.12):
    return mesh.average(lambda x: np.maximum(1 - ((x[0] - at) / width) ** 2, 0))


def opened(mesh):
    return {name: fvot.outflow for name in mesh.boundary}


def mean_place(mesh, rho):
    """The mean of x: of the cells' centroids, which what crosses a face moves by their distance."""
    return mesh.integrate(rho * mesh.centroid) / mesh.integrate(rho)


def displacement(mesh, equation, t, rho0=None):
    rho0 = blob(mesh) if rho0 is None else rho0
    result = equation.solve(rho0, t)
    assert result.rho.min() >= 0 and np.abs(result.ledger["mass_error"]).max() <= 1e-13
    return mean_place(mesh, result.rho[-1])[0] - mean_place(mesh, rho0)[0], result


# ---- how far things go ---------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", SIGNALS)
def test_a_blob_goes_as_far_as_the_velocity_says(name):
    """On equal cells the mean of a blob moves by the integral of v to round-off: what is missing is
    missed in time.
    """
    assert_right(SIGNALS[name], [0, 1])


@pytest.mark.long
@pytest.mark.parametrize(
    "t",
    [1.0, np.linspace(0, 1, 11), np.linspace(0, 1, 101), [0, 0.05, 1]],
    ids=["one", "11", "101", "3"],
)
@pytest.mark.parametrize("name", ["sine squared", "pulse at 0.4975", "wave 7, 0.4"])
def test_however_many_times_are_recorded(name, t):
    assert_right(SIGNALS[name], t)


@pytest.mark.parametrize("begin", [-3.0, 1000.0])
def test_whenever_it_begins(begin):
    assert_right(SIGNALS["pulse at 0.31"], [begin, begin + 1], begin)


def assert_right(signal, t, begin=0.0):
    mesh = Mesh.interval(0, 1, 40)
    distance = 0.3
    start = 0.3
    v = scaled(signal, distance)
    equation = ContinuityEquation(
        mesh, lambda x, t: v(t - begin) + 0 * x, flux=upwind, boundary=opened(mesh)
    )
    found, result = displacement(mesh, equation, t, blob(mesh, start, 0.05))
    lost = result.ledger["outflow"][-1] / result.ledger["mass"][0]
    assert lost < 1e-3
    assert found == pytest.approx(distance, rel=RIGHT, abs=2 * lost)


@pytest.mark.long
@FLUXES
@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("signal", FEW[2:])
def test_on_every_mesh_with_every_flux(name, flux, signal):
    """As far as under a steady velocity in the same time, whose error is that of the mesh."""
    mesh = MESHES[name]()
    distance = 0.25
    v = scaled(SIGNALS[signal], distance)
    steady, _ = displacement(
        mesh,
        ContinuityEquation(mesh, velocity(mesh, distance), flux=flux, boundary=opened(mesh)),
        1.0,
    )
    for given in [dict(velocity=lambda x, t: v(t) * velocity(mesh, 1.0)(x))] + [
        dict(stream=lambda x, t: v(t) * x[1])
    ] * (mesh.dim == 2):
        found, _ = displacement(
            mesh, ContinuityEquation(mesh, flux=flux, boundary=opened(mesh), **given), 1.0
        )
        assert found == pytest.approx(steady, abs=RIGHT * distance)


def velocity(mesh, speed):
    return lambda x: speed * np.stack([np.ones(x.shape[1]), *np.zeros((mesh.dim - 1, x.shape[1]))])


@pytest.mark.parametrize("at", [(0.25, 0.3), (0.7, 0.8)])
def test_a_pulse_that_is_felt_in_one_place_only(at):
    """While the flow around it is steady, and twenty times as strong."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (40, 40))
    place = np.array(at)[:, None]

    def stream(x, t):
        inside = np.maximum(1 - ((x - place) ** 2).sum(axis=0) / 0.15**2, 0) ** 2
        outside = np.maximum(1 - ((x - 1 + place) ** 2).sum(axis=0) / 0.15**2, 0) ** 2
        return 0.05 * 200 * pulse(0.613, SHORTEST)(t) * inside + 0.2 * outside

    def turned(x):
        return 0.05 * np.maximum(1 - ((x - place) ** 2).sum(axis=0) / 0.15**2, 0) ** 2

    rho0 = mesh.average(lambda x: 1.0 * (x[0] < at[0]))
    found = ContinuityEquation(mesh, stream=stream).solve(rho0, 1.0).rho[-1]
    expected = ContinuityEquation(mesh, stream=turned).solve(rho0, 1.0).rho[-1]
    near = ((mesh.center - place) ** 2).sum(axis=0) < 0.15**2
    moved = mesh.integrate(np.abs(expected - rho0) * near)
    assert mesh.integrate(np.abs(found - expected) * near) <= 0.05 * moved


# ---- what theory promises ------------------------------------------------------------------------


@pytest.mark.long
@FLUXES
@pytest.mark.parametrize("name", ["rectangle", "triangles", "voronoi"])
@pytest.mark.parametrize("signal", ["pulse at 0.31", "breath 5"])
def test_a_stream_that_changes_keeps_constants_bounds_and_mass(name, flux, signal):
    mesh = MESHES[name]()
    v = scaled(SIGNALS[signal], 0.1)
    equation = ContinuityEquation(
        mesh, stream=lambda x, t: v(t) * np.sin(np.pi * x).prod(axis=0), flux=flux
    )
    rho0 = 0.5 + blob(mesh)
    ledger = equation.solve(rho0, [0, 0.5, 1]).ledger
    assert ledger["minimum"].min() >= ledger["minimum"][0] * (1 - 1e-13)
    assert ledger["maximum"].max() <= ledger["maximum"][0] * (1 + 1e-13)
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert_allclose(equation.solve(np.full(mesh.n_cells, 3.0), 1.0).rho[-1], 3.0, rtol=1e-12)


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("signal", ["sine squared", "pulse at 0.31", "breath 5"])
def test_the_dual_of_steps_under_a_changing_velocity_is_exact(name, signal):
    mesh = MESHES[name]()
    v = scaled(SIGNALS[signal], 0.3)
    equation = ContinuityEquation(
        mesh, lambda x, t: v(t) * velocity(mesh, 1.0)(x), flux=upwind, boundary=opened(mesh)
    )
    rho0 = blob(mesh)
    phi1 = np.cos(3 * mesh.center.sum(axis=0))
    t = [0, 0.4, 1]
    rho1 = equation.solve(rho0, t).rho[-1]
    phi0 = equation.adjoint(phi1, t)
    assert abs(mesh.integrate(rho1 * phi1) - mesh.integrate(rho0 * phi0)) <= 1e-14 * mesh.integrate(
        rho0
    )
    assert mesh.ranks.max(np.abs(phi0 - phi1).max()) > 0.1


def test_one_step_sees_the_same():
    mesh = Mesh.interval(0, 1, 40)
    v = scaled(SIGNALS["pulse at 0.31"], 0.3)
    equation = ContinuityEquation(mesh, lambda x, t: v(t) + 0 * x, boundary=opened(mesh))
    assert_array_equal(equation.step(blob(mesh), 1.0), equation.solve(blob(mesh), 1.0).rho[-1])


def test_a_flux_of_ones_own_that_bends():
    """Whose rate is not convex: its steps are positive, too."""

    def bent(U, k):
        more = 20 * np.exp(-((50 * U - 1) ** 2)) * np.abs(U)
        return np.maximum(U, 0) + more, np.maximum(-U, 0) + more

    mesh = Mesh.interval(0, 1, 40)
    v = scaled(SIGNALS["sine squared"], 0.1)
    result = ContinuityEquation(
        mesh, lambda x, t: v(t) + 0 * x, flux=bent, boundary=opened(mesh)
    ).solve(blob(mesh), 1.0)
    assert result.rho.min() >= 0 and np.abs(result.ledger["mass_error"]).max() <= 1e-13


# ---- pumps ---------------------------------------------------------------------------------------


@pytest.mark.long
@FLUXES
@pytest.mark.parametrize("name", ["interval", "rectangle", "triangles"])
@pytest.mark.parametrize("signal", [*FEW, "breath 5"])
def test_a_pump_brings_what_it_is_said_to_bring(name, flux, signal):
    mesh = MESHES[name]()
    v = scaled(SIGNALS[signal], 0.4)
    equation = ContinuityEquation(
        mesh,
        lambda x, t: v(t) * velocity(mesh, 1.0)(x),
        flux=flux,
        boundary={"left": fvot.inflow(2.0), "right": fvot.inflow(0.0)},
    )
    ledger = equation.solve(np.zeros(mesh.n_cells), 1.0).ledger
    values = SIGNALS[signal](FINE)
    entered = 2 * 0.4 * np.maximum(values, 0).mean() / values.mean()
    assert ledger["inflow"][-1] == pytest.approx(entered, rel=RIGHT)
    assert abs(ledger["mass_error"][-1]) <= 1e-13


@pytest.mark.long
@pytest.mark.parametrize("name", ["interval", "triangles"])
@pytest.mark.parametrize("signal", [*FEW, "half wave 100", "saw 200"])
@pytest.mark.parametrize("steady", [True, False])
def test_a_pulse_of_what_enters(name, signal, steady):
    """A dose: the velocity is steady, or grows; the density of what enters is a signal."""
    mesh = MESHES[name]()
    dose = scaled(SIGNALS[signal], 1.0)
    speed = velocity(mesh, 0.3) if steady else lambda x, t: (1 + t) * velocity(mesh, 0.3)(x)
    equation = ContinuityEquation(
        mesh,
        speed,
        flux=upwind,
        boundary={"left": fvot.inflow(lambda x, t: dose(t) + 0 * x[0]), "right": fvot.outflow},
    )
    values = SIGNALS[signal](FINE)
    entered = 0.3 * (1.0 if steady else (values * (1 + FINE)).mean() / values.mean())
    for t in [0, 1], np.linspace(0, 1, 8):
        ledger = equation.solve(np.zeros(mesh.n_cells), t).ledger
        assert ledger["inflow"][-1] == pytest.approx(entered, rel=RIGHT)
        assert abs(ledger["mass_error"][-1]) <= 1e-13


# ---- what it costs -------------------------------------------------------------------------------


@FLUXES
@pytest.mark.parametrize("name", MESHES)
def test_a_steady_velocity_costs_nothing_more(name, flux):
    """The function is asked once for fluxes; steps are equal, as many as the bound asks for; face
    fluxes give the same.
    """
    mesh = MESHES[name]()
    asked = []

    def given(x):
        asked.append(x.shape)
        return velocity(mesh, 0.3)(x)

    equation = ContinuityEquation(mesh, given, flux=flux, boundary=opened(mesh), cfl=0.6)
    rho0 = blob(mesh)
    at_start = len(asked)
    result = equation.solve(rho0, [0, 0.3, 1])
    for_results = len(asked) - at_start
    same = ContinuityEquation(mesh, velocity(mesh, 0.3), flux=flux, boundary=opened(mesh), cfl=0.6)
    rate = mesh.ranks.max(same._stepper.scheme.rate(same.face_flux()))
    steps = np.ceil(np.array([0.3, 0.7]) * rate / 0.6 * (1 - 1e-12))
    assert_array_equal(result.ledger["steps"], [0, steps[0], steps.sum()])
    asked.clear()
    equation.solve(rho0, np.linspace(0, 1, 40))
    assert len(asked) == for_results


def test_a_calm_velocity_is_seldom_asked():
    mesh = Mesh.triangles((0, 0), (1, 1), 14)
    asked = []

    def stream(x, t):
        asked.append(t)
        return (1 + 0.3 * np.sin(t)) * np.sin(np.pi * x).prod(axis=0)

    equation = ContinuityEquation(mesh, stream=stream)
    asked.clear()
    steps = equation.solve(blob(mesh), [0, 1.0]).ledger["steps"][-1]
    assert len(asked) <= 2.2 * steps + 260


# ---- runs that stop, ranks, warnings -------------------------------------------------------------


def test_a_run_goes_on_to_the_same_numbers(shared_folder):
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    v = scaled(SIGNALS["burst train"], 0.4)
    equation = ContinuityEquation(
        mesh,
        stream=lambda x, t: v(t) * x[1],
        boundary={"left": fvot.inflow(lambda x, t: v(t) + 0 * x[0]), "right": fvot.outflow},
    )
    whole = equation.solve(blob(mesh), [0, 0.3, 1])
    kept = Checkpoint(shared_folder / "run.h5")
    advance = equation._stepper.advance

    def stopped(rho, step, count):
        if count == 12:
            raise ZeroDivisionError
        return advance(rho, step, count)

    equation._stepper.advance = stopped
    with pytest.raises(ZeroDivisionError):
        equation.solve(blob(mesh), [0, 0.3, 1], checkpoint=Checkpoint(kept.path, every=0))
    equation._stepper.advance = advance
    again = equation.solve(blob(mesh), [0, 0.3, 1], checkpoint=kept)
    assert_array_equal(again.rho, whole.rho)
    for name in "steps", "inflow", "outflow":
        assert_allclose(again.ledger[name], whole.ledger[name], rtol=1e-14)


@pytest.mark.parametrize("flux", [upwind, muscl()], ids=["upwind", "muscl"])
@pytest.mark.parametrize("signal", ["sine squared", "pulse at 0.31"])
def test_the_same_steps_on_any_number_of_ranks(mesh, twin, flux, signal):
    v = scaled(SIGNALS[signal], 0.3)
    results = []
    for m in mesh, twin:
        names = sorted(m.boundary)
        boundary = {
            name: fvot.inflow(lambda x, t: v(t) + 0 * x[0]) if i % 2 else fvot.outflow
            for i, name in enumerate(names)
        }
        equation = ContinuityEquation(
            m,
            lambda x, t: v(t) * np.cos(2 * x + np.arange(len(x))[:, None] + t),
            flux=flux,
            boundary=boundary,
        )
        results.append(equation.solve(blob(m), [0, 0.5, 1]))
    assert_array_equal(results[0].ledger["steps"], results[1].ledger["steps"])
    assert_allclose(mesh.gather(results[0].rho), twin.gather(results[1].rho), rtol=0, atol=1e-11)


def test_walls_that_are_crossed_later_are_said():
    mesh = Mesh.interval(0, 1, 20)
    v = SIGNALS["late start"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equation = ContinuityEquation(mesh, lambda x, t: 0.2 * v(t) + 0 * x)
    assert_warned(mesh, lambda: equation.solve(blob(mesh), 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equation.solve(blob(mesh), 1.0)
        ContinuityEquation(mesh, lambda x, t: 0.2 * v(t) * np.sin(np.pi * x)).solve(blob(mesh), 1.0)


def assert_warned(mesh, run):
    if mesh.ranks.is_root:
        with pytest.warns(
            UserWarning, match=r"crosses the walls \(left, right\) by 0.4 volume per time"
        ):
            run()
    else:
        run()


# ---- adaptive implicit steps ---------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", ["pulse at 0.31", "late start", "bell"])
def test_adaptive_steps_do_not_pass_over_a_pulse(name):
    mesh = Mesh.interval(0, 1, 50)
    v = scaled(SIGNALS[name], 0.3)
    equation = FokkerPlanck(mesh, diffusion=1e-3, drift=lambda x, t: v(t) + 0 * x, tol=1e-3)
    rho0 = blob(mesh)
    rho1 = equation.solve(rho0, 1.0).rho[-1]
    assert mean_place(mesh, rho1)[0] - mean_place(mesh, rho0)[0] == pytest.approx(0.3, rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize("given", ["potential", "boundary"])
def test_nor_over_one_of_a_potential_or_at_the_boundary(given):
    """Against a run for which the pulse is named."""
    mesh = Mesh.interval(0, 1, 30)
    start = 0.613
    width = SHORTEST
    on = pulse(start, width)
    problems = {
        "potential": dict(potential=lambda x, t: -20 * on(t) * x[0]),
        "boundary": dict(boundary={"left": fvot.dirichlet(lambda x, t: 50 * on(t) + 0 * x[0])}),
    }
    equation = FokkerPlanck(mesh, diffusion=0.1, tol=1e-3, **problems[given])
    rho0 = np.ones(mesh.n_cells)
    rest = equation.solve(rho0, start).rho[-1]
    found = equation.solve(rho0, start + width + 0.01)
    named = equation.solve(rho0, [0, start - 1e-9, start + width, start + width + 0.01]).rho[-1]
    moved = mesh.integrate(np.abs(named - rest))
    assert moved > 0.02
    assert mesh.integrate(np.abs(found.rho[-1] - named)) <= 0.05 * moved


# ---- points --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("t", [1.0, [0, 0.4, 1]], ids=["one", "two"])
@pytest.mark.parametrize("name", [*FEW, "bell", "gap", "pulse at 0.995", "breath 5"])
def test_points_go_as_far_as_well(name, t):
    v = scaled(SIGNALS[name], 0.3)
    x0 = np.array([[0.0, 1.0]])
    moved = fvot.particles.push_forward(x0, lambda x, t: v(t) + 0 * x, t, rtol=1e-6)[-1] - x0
    assert_allclose(moved, 0.3, rtol=RIGHT)
    x, rho = fvot.particles.density_along_flow(x0 + 1, 1.0, lambda x, t: v(t) * x, t, rtol=1e-6)
    assert_allclose(x[-1], (x0 + 1) * np.exp(0.3), rtol=0.3 * RIGHT)
    assert_allclose(rho[-1], np.exp(-0.3), rtol=0.3 * RIGHT)
