"""The metric of densities: tangent vectors, gradients, geodesics and lengths, against closed forms
and the solvers.
"""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import JKO, BenamouBrenier, Entropy, InputError, Interaction, Mesh, Potential, Power, otto
from fvot.otto.geodesics import MOST_CELL_PARTS, TOTAL_PARTS

pytestmark = pytest.mark.ranks

LARGE = {"harbour", "ball"}


def bumpy(mesh):
    lower, upper = mesh.bounds
    return lambda x: (
        1 + 0.5 * np.cos(2 * np.pi * (x - lower[:, None]) / (upper - lower)[:, None]).prod(axis=0)
    )


def test_tangent_vectors_on_every_mesh(mesh):
    """<psi, phi> = int drho phi for every phi: the weak form of -div(rho grad psi) = drho."""
    rho = mesh.density(bumpy(mesh))
    drho = rho * np.sin(mesh.center.sum(axis=0))
    drho -= rho * mesh.integrate(drho)
    psi = otto.tangent_potential(mesh, rho, drho)
    for phi in np.cos(mesh.center[0]), mesh.center[-1] ** 2, psi:
        size = otto.norm(mesh, rho, psi) * otto.norm(mesh, rho, phi)
        assert otto.metric(mesh, rho, psi, phi) == pytest.approx(
            mesh.integrate(drho * phi), abs=1e-9 * size
        )
    assert abs(mesh.integrate(rho * psi)) < 1e-12 * mesh.integrate(rho * np.abs(psi))
    assert otto.norm(mesh, rho, psi) ** 2 == pytest.approx(otto.metric(mesh, rho, psi, psi))


@pytest.mark.parametrize("name", ["interval", "triangles", "voronoi"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    found = []
    for mesh in MESHES[name](), MESHES[name](comm=ranks.comm.Split(ranks.rank)):
        rho = mesh.average(lambda x: np.abs(x[0] - 0.5) > 0.2)
        drho = rho * np.where(mesh.center[0] < 0.5, mesh.center[0], 2 * mesh.center[0])
        for side in mesh.center[0] < 0.5, mesh.center[0] > 0.5:
            drho -= side * rho * mesh.integrate(side * drho) / mesh.integrate(side * rho)
        found.append(mesh.gather(otto.tangent_potential(mesh, rho, drho)))
    assert_allclose(*found, atol=1e-9 * np.abs(found[1]).max())


def test_vacuum_divides():
    """Two pieces of mass: each has its own psi, of mean 0; what would have to cross is refused."""
    mesh = Mesh.interval(0, 1, 60)
    x = mesh.center[0]
    rho = np.where((x < 0.3) | (x > 0.6), 1.0, 0.0)
    left, right = (np.where(side, rho, 0) for side in (x < 0.5, x > 0.5))
    drho = left * np.sign(x - 0.15) + right * np.sign(x - 0.8)
    psi = otto.tangent_potential(mesh, rho, drho)
    assert (psi[(x > 0.32) & (x < 0.58)] == 0).all()
    for part in left, right:
        assert abs(mesh.integrate(part * psi)) < 1e-13
    with pytest.raises(InputError, match="add up to"):
        otto.tangent_potential(mesh, rho, right - left * 4 / 3)
    with pytest.raises(InputError, match="add up to"):
        otto.tangent_potential(mesh, rho, np.where(x < 0.5, 1.0, -1.0))
    assert (otto.tangent_potential(mesh, rho, np.zeros(mesh.n_cells)) == 0).all()


@pytest.mark.parametrize("n", [20, 40])
def test_a_translation(n):
    """drho = -u . grad rho is the tangent vector of psi = u . x: |psi| = |u| for mass 1."""
    mesh = Mesh.rectangle((-1, -1), (1, 1), (n, n))

    def blob(x, s=0.0):
        return np.exp(-20 * ((x[0] - s) ** 2 + (x[1] - 0.5 * s) ** 2))

    rho = mesh.density(blob)
    h = 1e-4
    drho = (mesh.average(lambda x: blob(x, h)) - mesh.average(lambda x: blob(x, -h))) / (2 * h)
    drho *= 1 / mesh.integrate(mesh.average(blob))
    psi = otto.tangent_potential(mesh, rho, drho - rho * mesh.integrate(drho))
    assert otto.norm(mesh, rho, psi) == pytest.approx(np.hypot(1, 0.5), rel=2.5 / n**2 * 4)


# ---- energies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind_of", ["squares", "triangles", "polygons"])
@pytest.mark.parametrize(
    "energy",
    [
        Entropy() + Potential(lambda x: x[0] ** 2),
        Power(2),
        Entropy() + Interaction(lambda z: (z**2).sum(axis=0) / 2),
    ],
    ids=["drift", "porous", "attraction"],
)
def test_the_metric_slope(energy, kind_of):
    """dE/dt = -norm(grad E')^2 along the gradient flow (Ambrosio, Gigli, Savare 2008): the first
    short step of JKO.
    """
    mesh = {
        "squares": lambda: Mesh.rectangle((0, 0), (1, 1), (24, 24)),
        "triangles": lambda: Mesh.triangles(0, 1, 16),
        "polygons": lambda: Mesh.voronoi((0, 0), (1, 1), 400),
    }[kind_of]()
    rho = mesh.density(bumpy(mesh))
    slope = otto.norm(mesh, rho, otto.wasserstein_gradient(mesh, rho, energy)) ** 2
    ledger = JKO(mesh, energy, order=2).solve(rho, 1e-5, tau=1e-5).ledger
    assert (ledger["energy"][0] - ledger["energy"][1]) / 1e-5 == pytest.approx(slope, rel=2e-2)


def test_the_gradient_is_the_direction_of_the_flow():
    """The tangent vector of d rho/dt = div(rho grad E') is -E', up to a constant."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (24, 24))
    energy = Power(2)
    rho = mesh.density(bumpy(mesh))
    after = JKO(mesh, energy, order=2).step(rho, 1e-6)
    psi = otto.tangent_potential(mesh, rho, (after - rho) / 1e-6)
    slope = otto.wasserstein_gradient(mesh, rho, energy)
    assert otto.norm(mesh, rho, psi + slope) < 2e-2 * otto.norm(mesh, rho, slope)


# ---- geodesics -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", ["squares", "triangles"])
def test_the_exponential_map_of_a_dilation(name):
    """phi = |x|^2 / 2 dilates by 1 + t: a Gaussian of variance s^2 becomes one of (1 + t)^2 s^2."""
    mesh = (
        Mesh.rectangle((-2, -2), (2, 2), (40, 40))
        if name == "squares"
        else Mesh.triangles((-2, -2), (2, 2), 28)
    )
    rho = mesh.density(
        lambda x: np.exp(-(x**2).sum(axis=0) / (2 * 0.25**2)) * ((x**2).sum(axis=0) < 1)
    )
    later = otto.exponential_map(mesh, rho, (mesh.center**2).sum(axis=0) / 2, 0.4)
    assert mesh.integrate(later) == pytest.approx(1, rel=1e-14) and later.min() >= 0
    exact = mesh.density(
        lambda x: np.exp(-(x**2).sum(axis=0) / (2 * 0.35**2)) * ((x**2).sum(axis=0) < 1.96)
    )
    assert mesh.integrate(np.abs(later - exact)) < 0.07
    with pytest.raises(InputError, match="outside"):
        otto.exponential_map(mesh, rho, (mesh.center**2).sum(axis=0) / 2, 5.0)


@pytest.mark.long
def test_geodesics_have_the_length_w2():
    mesh = Mesh.rectangle((0, 0), (1, 1), (32, 32))
    rho0, rho1 = (
        mesh.density(lambda x, a=a: np.exp(-40 * ((x[0] - a) ** 2 + (x[1] - 0.5) ** 2)) + 0.05)
        for a in (0.35, 0.65)
    )
    path = BenamouBrenier(mesh, n_steps=16, tol=1e-3).solve(rho0, rho1)
    assert otto.length(mesh, path.t, path.rho) == pytest.approx(path.cost**0.5, rel=1e-2)
    straight = np.stack([(1 - s) * rho0 + s * rho1 for s in np.linspace(0, 1, 17)])
    assert otto.length(mesh, np.linspace(0, 1, 17), straight) > 1.02 * path.cost**0.5


def test_duality_maps():
    v = np.random.default_rng(0).normal(size=(2, 9))
    v[:, 0] = 0
    assert_allclose(otto.duality_map(v, 2), v)
    for q in 1.5, 3.0:
        p = q / (q - 1)
        assert_allclose(otto.duality_map(otto.duality_map(v, q), p), v, atol=1e-14)
        assert_allclose((v * otto.duality_map(v, q)).sum(axis=0), np.hypot(*v) ** q)


def test_bad_input():
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    rho = np.ones(mesh.n_cells)
    for call, words in [
        (lambda: otto.tangent_potential(mesh, -rho, rho), "at least 0"),
        (lambda: otto.tangent_potential(mesh, rho, rho[1:]), "drho"),
        (lambda: otto.metric(mesh, rho, rho, "phi"), "psi"),
        (lambda: otto.wasserstein_gradient(mesh, rho, 3), "energy"),
        (lambda: otto.wasserstein_gradient(mesh, 0 * rho, fvot.Entropy()), "finite"),
        (lambda: otto.exponential_map(mesh, rho, rho, None), "t must"),
        (lambda: otto.length(mesh, [0, 0], np.stack([rho, rho])), "increasing"),
        (lambda: otto.duality_map(np.ones((2, 1)), 1), "q must"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_what_is_no_input(ranks):
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    rho = np.ones(mesh.n_cells)
    one = ranks.rank == ranks.size - 1
    for call, words in [
        (lambda: otto.norm(mesh, rho, [[1], [1, 2]] if one else rho), "phi"),
        (lambda: otto.norm(mesh, rho, rho * np.nan), r"phi is nan in cell \d+"),
        (lambda: otto.length(mesh, "a" if one else [0, 1], [rho, rho]), "numbers"),
        (lambda: otto.length(mesh, [0, 1], None if one else [rho, rho]), "as many"),
        (lambda: otto.length(mesh, [0, np.inf], [rho, rho]), "increasing"),
        (lambda: otto.duality_map("a", 2), "numbers"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
    assert np.isnan(otto.duality_map(np.array([[np.nan]]), 3)).all()
    assert otto.duality_map(np.array([[1e-200]]), 2) == 1e-200


@pytest.mark.parametrize("kind", ["triangles", "voronoi"])
def test_the_exponential_map_along_walls(kind):
    """grad phi has no part along y: what the reconstruction makes of it at walls does not count as
    leaving.
    """
    mesh = (
        Mesh.triangles((0, 0), (1, 1), 12)
        if kind == "triangles"
        else Mesh.voronoi((0, 0), (1, 1), 120)
    )
    later = otto.exponential_map(
        mesh,
        mesh.density(lambda x: 1 + 0 * x[0]),
        -0.05 * (mesh.center[0] - 0.5) ** 2,
        1,
    )
    assert mesh.integrate(later) == pytest.approx(1, rel=1e-13)
    assert later[np.abs(mesh.center[0] - 0.5) < 0.3].mean() == pytest.approx(1 / 0.9, rel=0.02)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_exponential_map_stays_in_a_single_cell(dim, ranks):
    if ranks.size > 1:
        pytest.skip("one cell is one rank's")
    mesh = [Mesh.interval, Mesh.rectangle, Mesh.box][dim - 1](0, 1, 1 if dim == 1 else (1,) * dim)
    later = otto.exponential_map(mesh, np.ones(1), np.ones(1), 0.5)
    assert_allclose(later, 1, rtol=1e-14)


@pytest.mark.parametrize("name", ["l_shape", "triangles", "voronoi", "quads"])
def test_the_exponential_map_of_a_linear_potential_is_a_translation(name):
    """At the points of the potentials of the scheme: centres, and centroids with corners."""
    mesh = MESHES[name]()
    points = mesh.center if mesh.quality.suits_two_point else mesh.centroid
    assert mesh.quality.suits_two_point == (name != "quads")
    lower, upper = mesh.bounds
    middle = lower + (upper - lower) * [0.25, 0.5]
    rho = mesh.density(lambda x: ((x - middle[:, None]) ** 2).sum(axis=0) < 0.1**2)
    velocity = np.array([0.6, -0.3])
    later = otto.exponential_map(mesh, rho, velocity @ points, 0.2)
    n_parts = int(min(TOTAL_PARTS / mesh.n_cells_global, MOST_CELL_PARTS))
    x, mass = mesh.to_points(rho, n_parts)
    exact = mesh.deposit(x + 0.2 * velocity[:, None], mass)
    assert mesh.integrate(np.abs(later - exact)) < 1e-6


def test_tangent_potentials_go_where_they_say():
    """int |x|^2 rho changes as it does along x + t grad phi, on triangles with circumcentres."""
    errors = []
    for n in (8, 16, 32):
        mesh = Mesh.triangles((0, 0), (1, 1), n)
        rho = np.ones(mesh.n_cells)
        drho = mesh.average(lambda x: np.cos(np.pi * x[0]) + np.cos(np.pi * x[1]))
        drho -= mesh.integrate(drho)
        later = otto.exponential_map(mesh, rho, otto.tangent_potential(mesh, rho, drho), 0.1)
        # Along each axis x goes to x - t sin(pi x) / pi, whose mean is 1 / 2 - 2 t / pi^2.
        moved = mesh.integrate((later - rho) * mesh.centroid)
        errors.append(np.abs(moved / (-0.2 / np.pi**2) - 1).max())
    assert errors[0] < 0.02 and errors[1] < 0.005 and errors[2] < 0.002


def test_the_old_name_of_the_duality_map_warns_and_gives_the_same():
    v = np.random.default_rng(0).normal(size=(2, 5))
    with pytest.warns(DeprecationWarning, match="fvot.otto.duality_map") as caught:
        assert_array_equal(otto.j_q(v, 3), otto.duality_map(v, 3))
    assert len(caught) == 1 and caught[0].filename == __file__
