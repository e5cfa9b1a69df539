"""JKO(mobility="limited"): sharp fronts against exact solutions; promises for any step."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

import fvot
from fvot import (
    JKO,
    BenamouBrenier,
    Checkpoint,
    Entropy,
    InputError,
    Interaction,
    Mesh,
    Potential,
    Power,
    outflow,
)

pytestmark = pytest.mark.ranks

BOWL = Potential(lambda x: (x**2).sum(axis=0) / 2)
ALONG = Potential(lambda x: x[0])  # all want to go to the left, with speed 1
ATTRACTION = Interaction(lambda z: (z**2).sum(axis=0) / 2)
FULL = (0, 1)  # bounds
PLACES = {
    "interval": lambda: Mesh.interval(-2, 2, 100),
    "squares": lambda: Mesh.rectangle((-2, -2), (2, 2), (20, 20)),
    "triangles": lambda: Mesh.triangles((-2, -2), (2, 2), 12),
    "polygons": lambda: Mesh.voronoi((-2, -2), (2, 2), 300),
    "boxes": lambda: Mesh.box((-2, -2, -2), (2, 2, 2), (8, 8, 8)),
}
ENERGIES = {
    "crowd": (BOWL, dict(bounds=FULL)),
    "alone": (BOWL, {}),
    "crowd that attracts": (BOWL + 0.5 * ATTRACTION, dict(bounds=FULL)),
    "porous": (BOWL + Power(2), {}),
    "crowd with pressure": (BOWL + 0.1 * Power(3), dict(bounds=FULL)),
    "entropy": (BOWL + 0.2 * Entropy(), {}),
    "fast diffusion": (BOWL + 0.2 * Power(0.7), {}),
}


def limited(mesh, energy, **options):
    return JKO(mesh, energy, **{"order": 1, "mobility": "limited"} | options)


def ring(mesh):
    """Half full round the middle."""
    return mesh.average(lambda x: (np.abs(x).max(axis=0) > 0.9) & (np.abs(x).max(axis=0) < 1.5)) / 2


def waves(mesh):
    """A potential with hills and valleys, on periodic meshes, too."""
    low, high = mesh.bounds
    return lambda x: np.cos(2 * np.pi * (x.T - low) / (high - low)).sum(axis=1) / 10


def distance(mesh, rho, exact):
    """In L1, relative to the mass."""
    return mesh.integrate(np.abs(rho - exact)) / mesh.integrate(exact)


def assert_promises(result, upper=np.inf, rounding=1e-9):
    """Mass, sign, bound, decay and balance of the energy, and pressure only where it is full."""
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-13
    assert ledger["minimum"].min() >= 0 and ledger["maximum"].max() <= upper * (1 + rounding)
    size = np.abs(ledger["energy"]).max()
    energy = ledger["energy"] + ledger.get("energy_outflow", 0) - ledger.get("work", 0)
    assert np.diff(energy).max() <= 1e-12 * size
    assert np.diff(energy + ledger["dissipated"]).max() <= 1e-12 * size
    if upper < np.inf:
        assert result.pressure.min() >= 0
        assert (result.pressure * (result.rho < upper * (1 - rounding)) == 0).all()


# ---- promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1e-3, 0.1, pytest.param(10.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("place", PLACES)
def test_promises_for_any_step(place, name, tau):
    mesh = PLACES[place]()
    energy, options = ENERGIES[name]
    if place == "boxes" and name not in ("crowd", "porous"):
        mesh = Mesh.box((-2, -2, -2), (2, 2, 2), (4, 5, 4))
    result = limited(mesh, energy, **options).solve(ring(mesh), np.arange(3) * tau, tau=tau)
    assert_promises(result, options.get("bounds", (0, np.inf))[1])


@pytest.mark.filterwarnings("ignore:diffusion may:UserWarning")
@pytest.mark.filterwarnings("ignore:a gradient flow:UserWarning")
@pytest.mark.filterwarnings("ignore:.*may be off:UserWarning")
def test_promises_on_every_mesh(mesh):
    rho0 = 0.8 * mesh.average(lambda x: x[0] < mesh.bounds.mean(axis=0)[0])
    result = limited(mesh, Potential(waves(mesh)), bounds=FULL).solve(rho0, [0, 0.1, 0.5], tau=0.1)
    assert_promises(result, 1.0)


@pytest.mark.parametrize("tau", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("place", ["interval", "squares", "triangles", "polygons"])
def test_promises_with_a_door(place, tau):
    mesh = PLACES[place]()
    for energy, options in (ALONG, dict(bounds=FULL)), (ALONG, {}), (ALONG + Power(2), {}):
        flow = limited(mesh, energy, boundary={"left": outflow}, **options)
        rho0 = 0.9 * mesh.average(lambda x: x[0] < 1)
        result = flow.solve(rho0, np.arange(4) * tau, tau=tau)
        assert_promises(result, options.get("bounds", (0, np.inf))[1])
        assert np.diff(result.ledger["outflow"]).min() >= 0
        assert result.ledger["mass"][-1] < result.ledger["mass"][0]


@pytest.mark.parametrize("name", ["interval", "circle", "torus", "triangles", "voronoi", "box"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    runs = {
        "crowd": lambda mesh: limited(mesh, Potential(waves(mesh)), bounds=FULL),
        "alone": lambda mesh: limited(mesh, Potential(waves(mesh))),
        "porous": lambda mesh: limited(mesh, Potential(waves(mesh)) + 0.2 * Power(2)),
        "entropy": lambda mesh: limited(mesh, Potential(waves(mesh)) + 0.1 * Entropy()),
    }
    for build in runs.values():
        gathered = []
        for mesh in MESHES[name](), MESHES[name](comm=ranks.comm.Split(ranks.rank)):
            rho0 = 0.6 * mesh.average(lambda x: x[0] < 0.6) + 0.05
            gathered.append(mesh.gather(build(mesh).solve(rho0, 0.6, tau=0.2).rho[-1]))
        assert_allclose(*gathered, atol=1e-9 * gathered[1].max())


# ---- crowds --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("tau", [0.05, 0.01])
def test_a_block_becomes_a_full_jam(tau):
    """rho = 1/2 on [1, 2] walks to the wall and is all in the jam [0, 1/2] at t = 1.5."""
    mesh = Mesh.interval(0, 3, 300)
    rho0 = mesh.average(lambda x: (x[0] > 1) & (x[0] < 2)) / 2
    result = limited(mesh, ALONG, bounds=FULL).solve(rho0, [0, 1, 1.25, 1.5], tau=tau)
    assert_promises(result, 1.0)
    halfway = mesh.average(lambda x: (x[0] < 0.25) * 1.0 + (x[0] < 0.75)) / 2
    jam = mesh.average(lambda x: x[0] < 0.5)
    assert mesh.integrate(np.abs(result.rho[2] - halfway)) < 0.02
    assert mesh.integrate(np.abs(result.rho[3] - jam)) < 0.01

    smeared = JKO(mesh, ALONG, bounds=FULL).solve(rho0, 1.5, tau=tau)
    assert mesh.integrate(np.abs(smeared.rho[-1] - jam)) > 0.05


@pytest.mark.long
def test_the_chosen_steps_reach_the_jam():
    mesh = Mesh.interval(0, 3, 300)
    rho0 = mesh.average(lambda x: (x[0] > 1) & (x[0] < 2)) / 2
    result = limited(mesh, ALONG, bounds=FULL, tol=0.02).solve(rho0, [0, 1.5])
    assert_promises(result, 1.0)
    jam = mesh.average(lambda x: x[0] < 0.5)
    assert mesh.integrate(np.abs(result.rho[-1] - jam)) < 0.01
    assert result.ledger["steps"][-1] < 500


@pytest.mark.long
def test_a_crowd_leaves_through_a_door_on_time():
    """A block on [0.3, 0.5] with speed 1 reaches the door at 0.3, and has left at 0.5: for steps of
    any length where there is no bound, else up to the wait of upwind steps before the door.
    """
    mesh = Mesh.interval(0, 1, 100)
    rho0 = mesh.average(lambda x: (x[0] > 0.3) & (x[0] < 0.5)) * 1.0
    for tau, bounds in (0.2, (0, None)), (0.05, (0, None)), (0.01, (0, None)), (0.01, FULL):
        flow = limited(mesh, ALONG, boundary={"left": outflow}, bounds=bounds)
        result = flow.solve(rho0, [0, 0.3, 0.4, 0.5, 0.6], tau=tau)
        assert_promises(result)
        miss = np.abs(result.ledger["outflow"] - [0, 0, 0.1, 0.2, 0.2]).max()
        assert miss < (0.01 if bounds[1] is None else 0.03)


def test_nobody_is_left_behind_an_obstacle():
    mesh = Mesh.rectangle((0, 0), (1, 1), (20, 20)).without(
        lambda x: np.abs(x - 0.5).max(axis=0) < 0.2
    )
    exits = [[0.0, 0.0, 0.0], [0.1, 0.5, 0.9]]
    ways = mesh.geodesic_distance(exits, mesh.gather(mesh.center)).min(axis=0)
    energy = Potential(mesh.scatter(ways))
    flow = limited(mesh, energy, bounds=FULL, boundary={"left": outflow})
    rho0 = 0.7 * mesh.average(lambda x: x[0] > 0.5)
    result = flow.solve(rho0, [0, 1, 2, 10], tau=0.05)
    assert_promises(result, 1.0)
    assert result.ledger["mass"][1] > 0.1 and result.ledger["mass"][-1] == 0


def test_a_potential_that_depends_on_time():
    """V = x t carries all by t^2 / 2, and its work is in the ledger."""
    mesh = Mesh.interval(0, 3, 300)
    rho0 = mesh.average(lambda x: (x[0] > 1.5) & (x[0] < 2.5)) / 2
    result = limited(mesh, Potential(lambda x, t: x[0] * t)).solve(rho0, [0, 1], tau=0.01)
    assert_promises(result)
    exact = mesh.average(lambda x: (x[0] > 1) & (x[0] < 2)) / 2
    assert distance(mesh, result.rho[-1], exact) < 0.04


# ---- cells with their points in one place --------------------------------------------------------


def halves(n, alternate=False, **options):
    """The unit square of n x n squares, each cut in two."""
    x, y = np.meshgrid(*[np.linspace(0, 1, n + 1)] * 2, indexing="ij")
    i, j = np.divmod(np.arange(n * n), n)
    a = i * (n + 1) + j
    b = a + n + 1
    one = np.array([[a, b, b + 1], [a, b + 1, a + 1]])
    other = np.array([[a, b, a + 1], [b, b + 1, a + 1]])
    cells = np.where(alternate & ((i + j) % 2 == 1), other, one)
    corners = cells.transpose(0, 2, 1).reshape(-1, 3)
    return Mesh.from_cells(np.array([x.ravel(), y.ravel()]), [("triangle", corners)], **options)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the points of two cells:UserWarning")
@pytest.mark.parametrize("alternate", [False, True])
def test_a_crowd_walks_on_right_triangles(alternate):
    """The crowd 1/2 on [.4, 1] walks with speed 1, and ends in the jam [0, .3]; upwind ones are
    twice as fast.
    """
    mesh = halves(20, alternate)
    rho0 = mesh.average(lambda x: x[0] > 0.4) / 2
    for tau in 0.05, 10.0:
        result = limited(mesh, ALONG, bounds=FULL).solve(rho0, [0, 0.1, 0.3, 20], tau=tau)
        assert_promises(result, 1.0, 1e-8)
        assert_allclose(result.ledger["energy"][[1, 3]], [0.18, 0.045], rtol=0.02)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the points of two cells:UserWarning")
@pytest.mark.parametrize("options", [{}, dict(bounds=FULL)])
def test_promises_on_right_triangles(options):
    """Jams with a round front, and walkers alone, in steps of any length."""
    around = Potential(lambda x: ((x - 0.3) ** 2).sum(axis=0))
    mesh = halves(14, True)
    rho0 = mesh.average(lambda x: x[0] > 0.4) / 2
    ends = []
    for tau in 0.05, 0.5:
        result = limited(mesh, around, **options).solve(rho0, [0, 0.1, 0.3, 3], tau=tau)
        assert_promises(result, options.get("bounds", (0, np.inf))[1], 1e-8)
        ends.append(result.ledger["energy"][-1])
    if options:  # a disk of this mass
        assert_allclose(ends, 0.3**2 / (2 * np.pi), rtol=0.03)


def test_a_block_moves_on_right_triangles(ranks):
    alone = halves(2, comm=ranks.comm.Split(ranks.rank))
    with pytest.warns(UserWarning, match="below half of it"):
        limited(alone, ALONG, bounds=FULL)

    apart = []
    for n in 20, 40:
        mesh = halves(n)
        rho0 = mesh.average(lambda x: (x[0] > 0.5) & (x[0] < 0.8))
        result = limited(mesh, ALONG).solve(rho0, 0.3, tau=0.02)
        assert_promises(result)
        apart.append(
            distance(mesh, result.rho[-1], mesh.average(lambda x: abs(x[0] - 0.35) < 0.15))
        )
    assert apart[0] < 0.2 and apart[1] < 0.75 * apart[0]


@pytest.mark.filterwarnings("ignore:the points of two cells:UserWarning")
def test_right_triangles_on_any_number_of_ranks(ranks):
    gathered = []
    for options in {}, dict(comm=ranks.comm.Split(ranks.rank)):
        mesh = halves(12, **options)
        rho0 = mesh.average(lambda x: x[0] > 0.4) / 2
        result = limited(mesh, ALONG, bounds=FULL).solve(rho0, 0.3, tau=0.1)
        gathered.append(mesh.gather(result.rho[-1]))
    assert_allclose(*gathered, atol=1e-8)


# ---- orders --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", ["interval", "squares", "triangles", "polygons"])
def test_second_order_in_a_bowl(kind):
    """rho(x, t) = e^(dt) rho0(e^t x) for V = |x|^2 / 2, in space and time together."""
    build = {
        "interval": lambda n: Mesh.interval(-2, 2, 8 * n),
        "squares": lambda n: Mesh.rectangle((-2, -2), (2, 2), (n, n)),
        "triangles": lambda n: Mesh.triangles((-2, -2), (2, 2), n),
        "polygons": lambda n: Mesh.voronoi((-2, -2), (2, 2), n * n),
    }[kind]
    apart = []
    smeared = []
    for n in 16, 32, 64:
        mesh = build(n)

        def bump(x, scale=1.0):
            from_middle = (scale * x[0] - 0.6) ** 2 + sum((scale * y - 0.3) ** 2 for y in x[1:])
            return scale ** len(x) * np.exp(-8 * from_middle)

        rho0 = mesh.average(bump)
        exact = mesh.average(lambda x, bump=bump: bump(x, np.exp(0.5)))
        result = limited(mesh, BOWL).solve(rho0, 0.5, tau=1 / n)
        assert_promises(result)
        apart.append(distance(mesh, result.rho[-1], exact))
        smeared.append(distance(mesh, JKO(mesh, BOWL).solve(rho0, 0.5, tau=1 / n).rho[-1], exact))
    orders = np.log2(np.array(apart[:-1]) / apart[1:])
    assert orders[1] > (1.6 if kind == "interval" else 1.4)
    assert apart[-1] < 0.03 and apart[-1] < 0.15 * smeared[-1]


@pytest.mark.long
def test_a_block_keeps_its_height_and_its_edges():
    mesh = Mesh.interval(0, 3, 200)

    def block(moved):
        return mesh.average(lambda x: np.abs(x[0] + moved - 2.2) < 0.4)

    for tau in 0.2, 0.02, 0.002:
        result = limited(mesh, ALONG).solve(block(0), [0, 0.5, 1], tau=tau)
        assert_promises(result)
        assert result.ledger["maximum"].max() <= 1 + 1e-12
        assert distance(mesh, result.rho[-1], block(1)) < 0.05


def test_what_attracts_shrinks_exactly():
    """W = |z|^2 / 2 and mass 1: all comes nearer to the middle by e^-t."""
    for shape in (lambda x: np.abs(x) < 1, lambda x: np.exp(-4 * x**2)):
        apart = []
        for n in 100, 200:
            mesh = Mesh.interval(-2, 2, n)
            mass = mesh.integrate(mesh.average(lambda x, shape=shape: shape(x[0])))

            def scaled(a, shape=shape, mesh=mesh, mass=mass):
                return mesh.average(lambda x: shape(a * x[0])) * a / mass

            result = limited(mesh, ATTRACTION).solve(scaled(1.0), [0, 0.5, 1], tau=2 / n)
            assert_promises(result)
            apart.append(distance(mesh, result.rho[-1], scaled(np.e)))
        assert apart[1] < 0.03 and apart[1] < 0.6 * apart[0]


@pytest.mark.long
@pytest.mark.parametrize("dim", [1, 2])
def test_a_porous_medium_is_nearer_to_barenblatt(dim):
    mesh = Mesh.interval(-6, 6, 100) if dim == 1 else Mesh.triangles((-6, -6), (6, 6), 24)
    beta = 1 / (dim + 2)

    def barenblatt(t):
        def profile(x):
            height = 0.5 - beta / 4 * (x**2).sum(axis=0) / t ** (2 * beta)
            return np.maximum(height, 0) / t ** (dim * beta)

        return mesh.average(profile)

    apart = []
    for mobility in "upwind", "limited":
        flow = JKO(mesh, Power(2), order=1, mobility=mobility)
        result = flow.solve(barenblatt(1), [0, 1], tau=0.05)
        assert_promises(result)
        apart.append(distance(mesh, result.rho[-1], barenblatt(2)))
    assert apart[1] < 0.4 * apart[0]


@pytest.mark.long
@pytest.mark.parametrize("energy", [BOWL + Power(2), BOWL + 0.2 * Entropy(), 0.1 * Power(3) + BOWL])
def test_long_steps_end_in_the_steady_state(energy):
    mesh = PLACES["interval"]()
    ends = [
        JKO(mesh, energy, order=1, mobility=mobility).solve(ring(mesh), 100.0, tau=2.0).rho[-1]
        for mobility in ("upwind", "limited")
    ]
    assert_allclose(ends[1], ends[0], atol=1e-5)


def test_velocities_far_away_cost_nothing():
    """In a long steep bowl, of which the mass fills a small part, and beyond the largest number of
    substeps.
    """
    mesh = Mesh.interval(-100, 100, 4000)
    rho0 = mesh.average(lambda x: np.abs(x[0] - 2) < 1)
    exact = mesh.average(lambda x: np.abs(np.exp(0.5) * x[0] - 2) < 1) * np.exp(0.5)
    result = limited(mesh, 1.0 * BOWL).solve(rho0, 0.5, tau=0.05)
    assert distance(mesh, result.rho[-1], exact) < 0.06
    steep = limited(mesh, 1e6 * BOWL).solve(rho0, 0.5, tau=0.5)
    assert_promises(steep)


# ---- the choice ----------------------------------------------------------------------------------


def test_a_checkpoint_knows_the_mobility(shared_folder):
    mesh = Mesh.rectangle((-2, -2), (2, 2), (12, 12))
    t = [0, 0.2, 0.4]
    flow = limited(mesh, BOWL, bounds=FULL)
    whole = flow.solve(ring(mesh), t, tau=0.05)
    kept = Checkpoint(shared_folder / "limited.h5", every=0)
    flow.solve(ring(mesh), t[:2], tau=0.05, checkpoint=kept)
    longer = flow.solve(ring(mesh), t, tau=0.05, checkpoint=kept)
    assert_allclose(longer.rho, whole.rho, atol=1e-11)
    assert_allclose(longer.pressure, whole.pressure, atol=1e-9)
    for other in JKO(mesh, BOWL, bounds=FULL), JKO(mesh, BOWL, bounds=FULL, mobility="upwind"):
        with pytest.raises(InputError, match="mobility"):
            other.solve(ring(mesh), t, tau=0.05, checkpoint=kept)


def test_bad_mobility():
    mesh = PLACES["interval"]()
    assert "limited mobility" in repr(limited(mesh, BOWL)) and "mobility" not in repr(
        JKO(mesh, BOWL)
    )
    assert JKO(mesh, BOWL, mobility="limited").order == 1
    for mobility in "muscl", None, True, 1, fvot.muscl():
        with pytest.raises(InputError, match="mobility must be 'upwind' or 'limited'"):
            JKO(mesh, BOWL, mobility=mobility)
    for energy, order in (BOWL, 2), (Entropy(), None), (Power(2), 2):
        with pytest.raises(InputError, match="needs order=1"):
            JKO(mesh, energy, order=order, mobility="limited")
    with pytest.raises(InputError, match="leave mobility"):
        JKO(mesh, Entropy(), inner=BenamouBrenier(mesh), mobility="limited")


def test_nothing_stays_nothing():
    mesh = PLACES["triangles"]()
    result = limited(mesh, BOWL, bounds=FULL).solve(np.zeros(mesh.n_cells), [0, 1], tau=0.5)
    assert (result.rho == 0).all()
