"""Crowd motion: gradient flows with an upper bound on the density, against exact jams; promises for
any step.
"""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

import fvot
from fvot import JKO, Entropy, InputError, Interaction, Mesh, Potential

pytestmark = pytest.mark.ranks

HERE = Potential(lambda x: (x**2).sum(axis=0) / 2)  # where all want to go: 0
PLACES = {
    "interval": lambda: Mesh.interval(-2, 2, 100),
    "squares": lambda: Mesh.rectangle((-2, -2), (2, 2), (24, 24)),
    "triangles": lambda: Mesh.triangles((-2, -2), (2, 2), 16),
    "polygons": lambda: Mesh.voronoi((-2, -2), (2, 2), 400),
    "boxes": lambda: Mesh.box((-2, -2, -2), (2, 2, 2), (8, 8, 8)),
}
ON_PLACES = pytest.mark.parametrize("place", PLACES)


def ring(mesh):
    """Half full round the middle."""
    return mesh.average(lambda x: (np.abs(x).max(axis=0) > 0.9) & (np.abs(x).max(axis=0) < 1.5)) / 2


def assert_promises(result, upper=1.0):
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert ledger["minimum"].min() >= 0 and ledger["maximum"].max() <= upper * (1 + 1e-10)
    size = np.abs(ledger["energy"]).max()
    assert np.diff(ledger["energy"]).max() <= 1e-12 * size
    assert (ledger["energy"] + ledger["dissipated"] - ledger["energy"][0]).max() <= 1e-9 * size
    assert result.pressure.min(initial=0) >= 0
    assert (result.pressure * (result.rho < upper * (1 - 1e-9)) == 0).all()


@ON_PLACES
@pytest.mark.parametrize(
    "tau", [1e-6, 0.1, *(pytest.param(tau, marks=pytest.mark.long) for tau in (1.0, 1e3))]
)
def test_promises_for_any_step(place, tau):
    mesh = PLACES[place]()
    assert_promises(JKO(mesh, HERE, bounds=(0, 1)).solve(ring(mesh), np.arange(3) * tau, tau=tau))


@pytest.mark.long
@pytest.mark.parametrize(
    "energy",
    [0.05 * Entropy() + HERE, HERE + Interaction(lambda z: (z**2).sum(axis=0) / 4)],
    ids=["diffusion", "attraction"],
)
@pytest.mark.parametrize("place", ["squares", "triangles"])
def test_promises_with_other_energies(place, energy):
    mesh = PLACES[place]()
    for tau in 0.05, 1.0:
        assert_promises(
            JKO(mesh, energy, bounds=(0, 1)).solve(ring(mesh), np.arange(3) * tau, tau=tau)
        )


@pytest.mark.long
def test_a_jam_in_one_dimension():
    """Density 1/2 on [-1, 1] walks to 0 with speed 1 and jams on [-t, t], under the pressure t -
    |x|.
    """
    apart = []
    for n in 40, 80, 160:
        mesh = Mesh.interval(-2, 2, 4 * n)
        rho0 = mesh.average(lambda x: np.abs(x[0]) < 1) / 2
        t = 0.25
        result = JKO(mesh, Potential(lambda x: np.abs(x[0])), bounds=(0, 1)).solve(
            rho0, t, tau=2 / n
        )
        assert_promises(result)
        x = np.abs(mesh.center[0])
        pressure = result.pressure[-1]
        apart.append(mesh.integrate(np.abs(pressure - np.maximum(t - x, 0))))
        full = result.rho[-1] > 1 - 1e-9
        assert mesh.ranks.max(x[full].max(initial=0)) == pytest.approx(t, abs=3 / n)
        assert abs(mesh.ranks.max(pressure.max(initial=0)) - t) < 3 / n
    assert apart[2] < apart[1] < apart[0] and apart[2] < 0.4 * apart[0]


@pytest.mark.long
@pytest.mark.parametrize("place", ["squares", "triangles", "polygons"])
def test_a_crowd_ends_as_a_disc(place):
    """Density 1 where |x|^2 < M / pi = R^2, under the pressure (R^2 - |x|^2) / 2."""
    mesh = PLACES[place]()
    rho0 = ring(mesh)
    result = JKO(mesh, HERE, bounds=(0, 1)).solve(rho0, 12.0, tau=0.4)
    assert_promises(result)
    mass = mesh.integrate(rho0)
    square = (mesh.center**2).sum(axis=0)
    disc = mesh.average(lambda x: (x**2).sum(axis=0) < mass / np.pi)
    assert mesh.integrate(np.abs(result.rho[-1] - disc)) < 0.12 * mass
    assert_allclose(result.pressure[-1], np.maximum(mass / np.pi - square, 0) / 2, atol=0.04)


def test_other_bounds():
    """rho, upper and 2 rho, 2 upper move alike."""
    mesh = PLACES["triangles"]()
    one, two = (
        JKO(mesh, HERE, bounds=(0, upper)).solve(upper * ring(mesh), 0.6, tau=0.2)
        for upper in (1.0, 2.0)
    )
    assert_allclose(two.rho, 2 * one.rho, atol=1e-9)
    assert_allclose(two.pressure, one.pressure, atol=1e-9)


@pytest.mark.parametrize("name", ["triangles", "voronoi", "rectangle", "interval"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    gathered = []
    for mesh in MESHES[name](), MESHES[name](comm=ranks.comm.Split(ranks.rank)):
        rho0 = mesh.average(lambda x: x[0] < 0.6) * 0.7
        result = JKO(mesh, Potential(lambda x: -3 * x[0]), bounds=(0, 1)).solve(rho0, 0.4, tau=0.1)
        gathered.append(np.stack([mesh.gather(result.rho), mesh.gather(result.pressure)]))
    assert_allclose(*gathered, atol=1e-9)


@pytest.mark.long
def test_the_chosen_steps_pass_where_cells_fill_up():
    """The derivatives of densities jump there; against much shorter steps."""
    mesh = Mesh.interval(0, 2, 40)
    energy = Potential(lambda x: x[0])
    rho0 = 0.5 * (mesh.center[0] > 1)
    t = np.linspace(0, 1.5, 4)
    fine = JKO(mesh, energy, bounds=(0, 1)).solve(rho0, t, tau=1e-3)
    errors = []
    for tol in 0.1, 0.01:
        result = JKO(mesh, energy, bounds=(0, 1), tol=tol).solve(rho0, t)
        assert_promises(result)
        assert result.ledger["steps"][-1] < 5 / tol
        errors.append(
            max(mesh.integrate(np.abs(rho - exact)) for rho, exact in zip(result.rho, fine.rho))
        )
    assert errors[0] < 0.1 and errors[1] < 0.015
    nothing = JKO(mesh, energy, bounds=(0, 1)).solve(0 * rho0, t)
    assert (nothing.rho == 0).all()


@pytest.mark.long
def test_the_chosen_steps_come_to_a_halt_at_a_wall():
    """A full block walks at speed 1 until it meets the wall, and stays there: E = int_0^0.6 x dx, p
    = 0.6 - x.
    """
    mesh = Mesh.interval(0, 1, 200)
    rho0 = np.minimum(mesh.average(lambda x: abs(x[0] - 0.35) < 0.3), 1.0)
    result = JKO(mesh, Potential(lambda x: x[0]), bounds=(0, 1)).solve(rho0, [0, 0.04, 0.06, 0.1])
    assert result.ledger["energy"][-1] == pytest.approx(0.18, abs=5e-6)
    assert result.ledger["maximum"].max() < 1 + 1e-7
    assert_allclose(result.pressure[-1], np.maximum(0.6 - mesh.center[0], 0), atol=5e-3)


def test_a_crowd_that_stands_takes_few_iterations_whatever_its_size():
    """Pressure is in all of its cells at once, without any from a step before."""
    for n in 20, 40, 400:
        mesh = Mesh.interval(0, 1, n)
        rho0 = np.minimum(mesh.average(lambda x: x[0] < 0.6), 1.0)
        result = JKO(mesh, Potential(lambda x: x[0]), bounds=(0, 1)).solve(rho0, 0.1, tau=0.1)
        assert_allclose(result.rho[-1], rho0, atol=1e-10)
        assert result.ledger["newton"][-1] <= 10
        assert result.ledger["iterations"][-1] <= 50


def test_bad_bounds():
    mesh = PLACES["triangles"]()
    for bounds in (0, -1), (0.1, 1), 1, (0, "1"), (0, 1, 2), (0, np.nan):
        with pytest.raises(InputError, match="bounds"):
            JKO(mesh, HERE, bounds=bounds)
    with pytest.raises(InputError, match="order=1"):
        JKO(mesh, Entropy(), bounds=(0, 1), order=2)
    equation = JKO(mesh, HERE, bounds=(0, 1))
    with pytest.raises(InputError, match="above its bound"):
        equation.solve(3 * ring(mesh), 1.0)
    with pytest.raises(InputError, match="fills the mesh"):
        equation.solve(np.ones(mesh.n_cells), 1.0)
    assert JKO(mesh, fvot.Entropy() + HERE, bounds=(0, 1)).order == 1


def test_pressure_is_written_and_drawn(gl, shared_folder):
    mesh = PLACES["triangles"]()
    result = JKO(mesh, HERE, bounds=(0, 1)).solve(ring(mesh), [0, 0.4, 0.8], tau=0.2)
    result.write(shared_folder / "crowd.pvd")
    result.plot(shared_folder / "crowd.png", field="pressure", width=300)
    mesh.ranks.wait()
    import pyvista

    last = pyvista.read(shared_folder / "crowd" / "crowd_0002.pvtu")
    assert last["pressure"].max() == pytest.approx(mesh.ranks.max(result.pressure[-1].max()))
    assert (shared_folder / "crowd.png").stat().st_size > 1000
