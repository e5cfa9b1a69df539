"""Doors of gradient flows: a jam that moves out, a medium that drains, rooms that empty."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose
from scipy.special import beta

import fvot
from fvot import JKO, Checkpoint, Entropy, InputError, Interaction, Mesh, Potential, Power, outflow

pytestmark = pytest.mark.ranks

LEFT = {"left": outflow}
ALONG = Potential(lambda x: x[0])  # all want to go to the left
ROOMS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "squares": lambda: Mesh.rectangle((0, 0), (1, 1), (12, 12)),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),  # with right angles at the door
    "polygons": lambda: Mesh.voronoi((0, 0), (1, 1), 100),
}
ENERGIES = {
    "crowd": (ALONG, dict(bounds=(0, 1))),
    "crowd with pressure": (0.1 * Power(3) + ALONG, dict(bounds=(0, 1))),
    "alone": (ALONG, {}),
    "porous, order 1": (Power(2) + ALONG, dict(order=1)),
    "porous, order 2": (0.2 * Power(2) + ALONG, dict(order=2)),
}


def assert_promises(result, upper=np.inf, is_exact=False):
    """Mass with what has left to round-off, 0 <= rho <= upper, and the balance of energy."""
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert ledger["minimum"].min() >= 0 and ledger["maximum"].max() <= upper * (1 + 1e-9)
    assert np.diff(ledger["outflow"]).min() >= 0
    kept = ledger["energy"] + ledger["energy_outflow"] + ledger["dissipated"]
    kept = kept - ledger.get("work", 0) - ledger["energy"][0]
    assert np.abs(kept).max() <= 1e-12 if is_exact else np.diff(kept).max() <= 1e-12


@pytest.mark.parametrize("tau", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("room", ROOMS)
def test_promises_for_any_step(room, name, tau):
    mesh = ROOMS[room]()
    energy, options = ENERGIES[name]
    flow = JKO(mesh, energy, boundary=LEFT, **options)
    rho0 = 0.9 * mesh.average(lambda x: x[0] < 0.7)
    result = flow.solve(rho0, np.arange(4) * tau, tau=tau)
    assert_promises(result, options.get("bounds", (0, np.inf))[1], flow.order == 2)
    assert result.ledger["mass"][-1] < result.ledger["mass"][0]


@pytest.mark.parametrize(
    "room", [pytest.param("interval", marks=pytest.mark.long), "squares", "triangles"]
)
def test_a_full_room_moves_out_at_speed_one(room):
    """rho = 1 on (0, 1 - t) while V = x drives it through the door at 0, with v = -1."""
    sizes = {"interval": (20, 40, 80), "squares": (10, 20), "triangles": (8, 16)}[room]
    build = {
        "interval": lambda n: Mesh.interval(0, 1, n),
        "squares": lambda n: Mesh.rectangle((0, 0), (1, 1), (n, n)),
        "triangles": lambda n: Mesh.triangles((0, 0), (1, 1), n),
    }[room]
    misses = []
    for n in sizes:
        mesh = build(n)
        flow = JKO(mesh, ALONG, bounds=(0, 1), boundary=LEFT)
        result = flow.solve(np.ones(mesh.n_cells), [0, 0.25, 0.5], tau=0.5 / n)
        assert_promises(result, 1.0)
        misses.append(np.abs(result.ledger["outflow"] - result.t).max())
        full = result.rho[-1] > 1 - 1e-9
        # The mean of -grad(V + p): in the cells at the door that is off by a part of tau / h.
        near = full & (mesh.center[0] < 0.3)
        mean = mesh.integrate(result.velocity[-1][0] * near) / mesh.integrate(1.0 * near)
        assert mean == pytest.approx(-1, abs=0.15)
        front = mesh.ranks.max(mesh.center[0][full].max(initial=0))
        assert 0.5 - 8 / n < front + 2 * np.sqrt(0.5 / n) and front < 0.5 + 1 / n
    orders = np.log2(np.array(misses[:-1]) / misses[1:])
    assert misses[-1] < 0.6 / sizes[-1] and (orders > 0.8).all()


@pytest.mark.long
@pytest.mark.parametrize("order", [1, 2])
def test_a_porous_medium_drains_as_one_over_t(order):
    """rho = f(x) / (t + t0), (f^2)'' = -f with f = 0 at the door and f' = 0 at the wall: mass = C /
    (t + t0), C = (f^2)'(0), from any start. Steps of order 2 are of second order there; those of
    order 1 are upwind, and f is like a root.
    """
    integral = beta(2 / 3, 1 / 2) * 2 / 3
    C = np.sqrt(4 / 3) * (2 / np.sqrt(3) / integral) ** 3
    misses = []
    for n in 20, 40:
        mesh = Mesh.interval(0, 1, n)
        flow = JKO(mesh, Power(2), order=order, boundary=LEFT)
        result = flow.solve(np.ones(mesh.n_cells), [0, 1, 2, 3], tau=1 / n)
        assert_promises(result, is_exact=order == 2)
        mass = result.ledger["mass"]
        misses.append(abs(1 / (1 / mass[3] - 1 / mass[2]) / C - 1))
    assert misses[1] < (0.1, 5e-4)[order - 1]
    assert misses[1] < (0.75, 0.3)[order - 1] * misses[0]


@pytest.mark.long
def test_nobody_is_left():
    """In a room with an obstacle, on any way; and the times after that are of an empty room."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (20, 20)).without(
        lambda x: np.abs(x - 0.5).max(axis=0) < 0.2
    )
    exits = [[0.0, 0.0, 0.0], [0.1, 0.5, 0.9]]
    ways = mesh.geodesic_distance(exits, mesh.gather(mesh.center)).min(axis=0)
    energy = Potential(mesh.scatter(ways))
    flow = JKO(mesh, energy, bounds=(0, 1), boundary=LEFT)
    rho0 = 0.7 * mesh.average(lambda x: x[0] > 0.5)
    result = flow.solve(rho0, [0, 1, 6, 7, 8], tau=0.05)
    assert_promises(result, 1.0)
    ledger = result.ledger
    assert ledger["mass"][1] > 0.1 and (ledger["mass"][2:] == 0).all()
    assert (result.rho[2:] == 0).all() and (result.pressure[2:] == 0).all()
    assert_allclose(ledger["outflow"][-1], ledger["mass"][0], rtol=1e-14)
    assert_allclose(ledger["outflow:left"], ledger["outflow"])
    nothing = flow.solve(0 * rho0, [0, 1, 2])
    assert (nothing.rho == 0).all() and (nothing.ledger["outflow"] == 0).all()


def test_chosen_steps_go_on_in_an_empty_room():
    mesh = Mesh.interval(0, 1, 20)
    flow = JKO(mesh, ALONG, bounds=(0, 1), boundary=LEFT, tol=0.1)
    result = flow.solve(0.5 * np.ones(mesh.n_cells), [0, 1, 50, 100, 200])
    assert_promises(result, 1.0)
    assert result.ledger["mass"][-1] == 0


def test_outside_there_is_the_derivative_at_density_0():
    """A constant more in e' or in V changes the energy, and nothing else."""

    class Shifted(fvot.Energy):
        def value(self, rho, x):
            return rho**2 + 3 * rho

        def derivative(self, rho, x):
            return 2 * rho + 3

        def curvature(self, rho, x):
            return 2 + 0 * rho

    mesh = ROOMS["triangles"]()
    rho0 = np.ones(mesh.n_cells)
    for order in 1, 2:
        plain, shifted, raised = (
            JKO(mesh, energy, order=order, boundary=LEFT).solve(rho0, 0.2, tau=0.1)
            for energy in (Power(2), Shifted(), Power(2) + Potential(3.0))
        )
        assert_allclose(shifted.rho, plain.rho, atol=1e-10)
        assert_allclose(raised.rho, plain.rho, atol=1e-10)
        gone = 3 * plain.ledger["outflow"] + plain.ledger["energy_outflow"]
        assert_allclose(raised.ledger["energy_outflow"], gone, atol=1e-10)


@pytest.mark.parametrize("name", ["triangles", "voronoi", "rectangle", "interval"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    for energy, options in ENERGIES["crowd"], ENERGIES["porous, order 2"]:
        gathered = []
        for mesh in MESHES[name](), MESHES[name](comm=ranks.comm.Split(ranks.rank)):
            rho0 = 0.8 * mesh.average(lambda x: x[0] < 0.6)
            result = JKO(mesh, energy, boundary=LEFT, **options).solve(rho0, 0.4, tau=0.1)
            gathered.append(np.append(mesh.gather(result.rho[-1]), result.ledger["outflow"]))
        assert_allclose(*gathered, atol=1e-9)


def test_two_doors(shared_folder):
    """Each has its own column; a checkpoint knows them, and goes on to the same numbers."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    doors = {"left": outflow, "right": outflow()}
    flow = JKO(mesh, Power(2) + ALONG, boundary=doors)
    assert "doors left, right" in repr(flow) and flow.order == 2
    rho0 = np.ones(mesh.n_cells)
    t = [0, 0.1, 0.2]
    whole = flow.solve(rho0, t, tau=0.05)
    assert_promises(whole, is_exact=True)
    left, right = whole.ledger["outflow:left"], whole.ledger["outflow:right"]
    assert left[-1] > right[-1] > 0
    assert_allclose(left + right, whole.ledger["outflow"], rtol=1e-14)
    assert_allclose(whole.flux_through("left"), np.diff(left) / 0.1)

    kept = Checkpoint(shared_folder / "doors.h5", every=0)
    flow.solve(rho0, t[:2], tau=0.05, checkpoint=kept)
    longer = flow.solve(rho0, t, tau=0.05, checkpoint=kept)
    assert_allclose(longer.rho, whole.rho, atol=1e-11)
    for name, values in whole.ledger.items():
        if name not in ("mass_error", "newton", "iterations"):
            assert_allclose(longer.ledger[name], values, atol=1e-11)
    with pytest.raises(InputError, match="doors"):
        JKO(mesh, Power(2) + ALONG, boundary=LEFT).solve(rho0, t, tau=0.05, checkpoint=kept)


@pytest.mark.parametrize("order", [1, 2])
def test_a_potential_that_depends_on_time(order):
    """V = -x sin(s + t) carries all by cos(s) - cos(s + t), and its work is in the ledger."""
    mesh = Mesh.interval(0, 4, 160)
    energy = 0.05 * Power(2) + Potential(lambda x, t: -x[0] * np.sin(0.5 + t))
    flow = JKO(mesh, energy, order=order)
    rho0 = mesh.average(lambda x: np.abs(x[0] - 1.5) < 0.5)
    result = flow.solve(rho0, np.linspace(0, 1, 5), tau=0.025)
    moved = mesh.integrate(result.rho * mesh.center[0]) - mesh.integrate(rho0 * mesh.center[0])
    exact = np.cos(0.5) - np.cos(0.5 + result.t)
    assert_allclose(moved, exact, atol=(0.03, 2e-3)[order - 1])

    ledger = result.ledger
    kept = ledger["energy"] + ledger["dissipated"] - ledger["work"] - ledger["energy"][0]
    assert np.abs(kept).max() < 1e-12 if order == 2 else np.diff(kept).max() < 1e-12
    after = flow.step(result.rho[1], 0.25, t=0.25)
    one = flow.solve(result.rho[1], [0.25, 0.5], tau=0.25)
    assert_allclose(after, one.rho[-1], atol=1e-11)

    # a door at which V changes, too
    flow = JKO(mesh, energy, order=order, boundary={"right": outflow})
    result = flow.solve(rho0 + 0.1, [0, 0.5, 1.0], tau=0.05)
    assert_promises(result, is_exact=order == 2)
    assert result.ledger["outflow"][-1] > 0.05 and result.ledger["work"][-1] != 0


def test_potentials_of_cell_values():
    """The same as those of a function with these values."""
    for place in "triangles", "squares":
        mesh = ROOMS[place]()
        values = mesh.center[0].copy()
        rho0 = 0.9 * mesh.average(lambda x: x[0] < 0.7)
        for energy, options in ENERGIES["crowd"], ENERGIES["porous, order 1"]:
            ours, theirs = (
                JKO(mesh, energy + potential, boundary=LEFT, **options).solve(rho0, 0.2, tau=0.05)
                for potential in (Potential(values), ALONG)
            )
            # where the door's corner has one neighbour V is extrapolated along that alone
            atol = 1e-12 if place == "squares" else 0.05
            assert_allclose(ours.rho, theirs.rho, atol=atol)
    values[:] = 0
    assert_allclose(Potential(mesh.center[0]).values(mesh.center), mesh.center[0])


def test_bad_input():
    mesh = ROOMS["squares"]()
    for boundary, words in (
        ({"door": outflow}, "no part 'door'"),
        ("left", "must be a dict"),
        ({"left": fvot.inflow(1.0)}, "JKO must be fvot.outflow"),
        ({"left": fvot.dirichlet(0.0)}, "JKO must be fvot.outflow"),
        ({"left": 0.0}, "must be fvot.inflow"),
    ):
        with pytest.raises(InputError, match=words):
            JKO(mesh, Power(2), boundary=boundary)
    for energy, options, words in (
        (Entropy() + ALONG, {}, "dirichlet"),
        (Entropy() + ALONG, dict(bounds=(0, 1)), "dirichlet"),
        (Power(0.5), {}, "dirichlet"),
        (Power(2) + Interaction(lambda z: (z**2).sum(axis=0)), {}, "Interaction"),
        (Power(2), dict(scheme="corners"), "two-point"),
        (Power(2), dict(inner=fvot.BenamouBrenier(mesh, n_steps=4)), "inner="),
        (ALONG, dict(bounds=(0, 1), order=2), "order=1"),
    ):
        with pytest.raises(InputError, match=words):
            JKO(mesh, energy, boundary=LEFT, **options)
    inner = fvot.BenamouBrenier(mesh, n_steps=4)
    with pytest.raises(InputError, match="depend on time"):
        JKO(mesh, Potential(lambda x, t: t * x[0]), inner=inner)
    with pytest.raises(InputError, match="is for JKO"):
        fvot.BenamouBrenier(mesh, n_steps=4, terminal=Potential(lambda x, t: t * x[0]))
    with pytest.raises(InputError, match="is for JKO"):
        fvot.BenamouBrenier(mesh, n_steps=4, terminal=Power(2) + Potential(mesh.center[0]))
    with pytest.raises(InputError, match="is for JKO"):
        rho = np.ones(mesh.n_cells)
        fvot.otto.wasserstein_gradient(mesh, rho, Potential(lambda x, t: t * x[0]))
    with pytest.raises(InputError, match="V has 3 values"):
        JKO(mesh, Potential(np.zeros(3)))
    with pytest.raises(InputError, match="finite in every cell"):
        Potential(np.array([0.0, np.nan]))
    with pytest.raises(InputError, match="t must be a time"):
        JKO(mesh, ALONG).step(np.ones(mesh.n_cells), 0.1, t=None)
