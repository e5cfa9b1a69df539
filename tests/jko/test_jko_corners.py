"""Gradient flows with fluxes to corners: exact answers on meshes that two-point fluxes are not made
for, and what every step promises.

Bounds of errors are 1.2 times what was measured: they are the same on every processor but for the
tolerance of Newton's method.
"""

import brought_meshes as brought
import numpy as np
import pytest
from comparisons import assert_same_solution
from mpi4py import MPI

from fvot import (
    JKO,
    Checkpoint,
    Entropy,
    InputError,
    Interaction,
    Mesh,
    Potential,
    Power,
)

pytestmark = pytest.mark.ranks

FAMILIES = {
    "noise": lambda n: brought.quads(n, brought.noise(n, 0.3)),
    "kershaw": brought.kershaw,
    "right": brought.right_triangles,
    "lattice": brought.lattice_triangles,
}
# On several ranks one of them stands for the others.
MESHES = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "noise" else pytest.mark.long) for name in FAMILIES],
)


def build(name, n, scale=1.0, shift=0.0, **options):
    """The mesh of that name, its points x at scale x + shift."""
    points, cells = FAMILIES[name](n)
    return Mesh.from_cells(scale * points + shift, cells, **options)


def assert_promises(result):
    """Mass to round-off, no negative density, and an energy that falls by what is dissipated."""
    ledger = result.ledger
    size = np.abs(ledger["energy"]).max() + sum(
        np.abs(ledger.get(part, 0.0)).max() for part in ("entropy", "potential_energy")
    )
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert ledger["minimum"].min() >= 0
    assert np.diff(ledger["energy"]).max() <= 1e-12 * size
    assert np.diff(ledger["dissipated"]).min() >= 0
    balance = ledger["energy"] + ledger["dissipated"] - ledger["energy"][0]
    assert np.abs(balance).max() <= 1e-9 * size


# ---- exact answers -------------------------------------------------------------------------------


def barenblatt(t, mass=0.15):
    """Of d rho/dt = div(rho grad(2 rho)) in the plane."""
    top = np.sqrt(mass / (8 * np.pi))

    def rho(x):
        return np.maximum(top - (x**2).sum(axis=0) / (16 * np.sqrt(t)), 0) / np.sqrt(t)

    return rho


# Relative errors in L1 for n = 16 and 32, in 16 steps.
BARENBLATT = {
    "noise": (4.78e-2, 1.67e-2),
    "kershaw": (1.40e-1, 7.92e-2),
    "right": (2.46e-2, 8.89e-3),
    "lattice": (1.51e-2, 5.05e-3),
}


@MESHES
def test_a_porous_medium(name):
    """The order is that of a front, between 1 and 2, but on Kershaw's mesh, which is too coarse."""
    errors = []
    for n in 16, 32:
        mesh = build(name, n, 3.0, -1.5)
        rho0, exact = (mesh.average(barenblatt(t), degree=8) for t in (0.1, 0.4))
        result = JKO(mesh, Power(2), scheme="corners").solve(rho0, [0.1, 0.4], tau=0.3 / 16)
        assert_promises(result)
        errors.append(mesh.integrate(np.abs(result.rho[-1] - exact)) / mesh.integrate(exact))
    assert (np.array(errors) < 1.2 * np.array(BARENBLATT[name])).all()
    if name != "kershaw":
        assert np.log2(errors[0] / errors[1]) > 1.3


HEAT = {"noise": 4.72e-4, "kershaw": 1.24e-3, "right": 7.18e-4, "lattice": 4.53e-4}


@MESHES
def test_heat(name):
    errors = []
    for n in 8, 16:
        mesh = build(name, n)

        def exact(t, mesh=mesh):
            decay = 0.9 * np.exp(-(np.pi**2) * t)
            return mesh.average(lambda x: 1 + decay * np.cos(np.pi * x[0]), degree=6)

        result = JKO(mesh, Entropy(), scheme="corners").solve(
            exact(0), np.linspace(0, 0.1, 4), tau=0.005
        )
        assert_promises(result)
        errors.append(mesh.integrate(np.abs(result.rho[-1] - exact(0.1))))
    assert errors[1] < 1.2 * HEAT[name]
    assert np.log2(errors[0] / errors[1]) > 1.5


@pytest.mark.long
def test_adaptive_steps():
    mesh = build("right", 8)
    rho0 = mesh.average(lambda x: 1 + 0.9 * np.cos(np.pi * x[0]))
    result = JKO(mesh, Entropy(), tol=1e-3, scheme="corners").solve(rho0, [0, 0.05, 0.1])
    fine = JKO(mesh, Entropy(), scheme="corners").solve(rho0, [0, 0.05, 0.1], tau=5e-4)
    assert_promises(result)
    assert mesh.integrate(np.abs(result.rho[-1] - fine.rho[-1])) < 2e-3
    assert result.ledger["steps"][-1] < 60


@MESHES
def test_diffusion_in_a_potential_ends_at_the_gibbs_density(name):
    """e^(-V) at the centroids. The steps are long at first, and must get there without swinging."""
    mesh = build(name, 8)

    def V(x):
        return 5 * x[0]

    flow = JKO(mesh, Entropy() + Potential(V), scheme="corners")
    result = flow.solve(mesh.density(lambda x: 1 + x[0]), [0, 0.5, 1, 4], tau=0.02)
    assert_promises(result)
    gibbs = np.exp(-V(mesh.centroid))
    gibbs /= mesh.integrate(gibbs)
    assert mesh.integrate(np.abs(result.rho[-1] - gibbs)) < 1e-6


@MESHES
def test_the_gibbs_density_stays(name):
    """Its mu is constant: Newton's method has nothing to do but rounding."""
    mesh = build(name, 12)

    def V(x):
        return 20 * x[0] + 10 * x[1] ** 2

    gibbs = np.exp(-V(mesh.centroid))
    gibbs /= mesh.integrate(gibbs)
    flow = JKO(mesh, Entropy() + Potential(V), scheme="corners")
    assert mesh.integrate(np.abs(flow.step(gibbs, 0.1) - gibbs)) < 1e-10


# ---- promises ------------------------------------------------------------------------------------


def half(mesh):
    return mesh.density(lambda x: x[0] > 0.5)


ENERGIES = {
    "steep": (Entropy() + Potential(lambda x: 400 * x[0] ** 2), half, 0.01),
    "steep well": (
        Entropy() + Potential(lambda x: 100 * ((x - 0.5) ** 2).sum(axis=0)),
        lambda mesh: mesh.density(lambda x: x[0] > 0.8),
        0.01,
    ),
    "cubic": (Power(3) + Potential(lambda x: x[0]), half, 0.05),
    "fast": (Power(0.5), lambda mesh: mesh.density(lambda x: 1 + np.cos(np.pi * x[0]) / 2), 0.02),
    "aggregation": (
        Power(2) + Interaction(lambda z: 4 * (z**2).sum(axis=0)),
        lambda mesh: mesh.density(lambda x: 1 + x[0]),
        0.05,
    ),
    "block": (Entropy(), lambda mesh: mesh.density(lambda x: x[0] < 0.25), 0.005),
}


@pytest.mark.parametrize("case", ENERGIES)
@MESHES
def test_promises(name, case):
    mesh = build(name, 10)
    energy, start, tau = ENERGIES[case]
    result = JKO(mesh, energy, scheme="corners").solve(start(mesh), tau * np.arange(9), tau=tau)
    assert_promises(result)
    assert result.ledger["energy"][-1] < result.ledger["energy"][0]


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1.0, 1e3])
def test_promises_for_any_step(tau):
    mesh = build("kershaw", 8)
    for energy in Power(2), Entropy() + Potential(lambda x: 5 * x[0]):
        result = JKO(mesh, energy, scheme="corners").solve(
            half(mesh) + 0.01, tau * np.arange(4), tau=tau
        )
        assert_promises(result)


def test_an_empty_mesh_stays_empty():
    mesh = build("noise", 6)
    flow = JKO(mesh, Power(2), scheme="corners")
    assert (flow.step(np.zeros(mesh.n_cells), 0.1) == 0).all()


@pytest.mark.parametrize("energy", [Power(2), Entropy() + Potential(lambda x: 3 * x[1])])
def test_ranks_agree(energy):
    """To the tolerance of Newton's method."""
    found = []
    for options in {}, {"comm": MPI.COMM_SELF}:
        mesh = build("right", 8, **options)
        result = JKO(mesh, energy, scheme="corners").solve(half(mesh), 0.1, tau=0.02)
        found.append(mesh.gather(result.rho[-1]))
    assert np.abs(found[0] - found[1]).mean() < 1e-9


def test_a_run_goes_on_from_its_checkpoint(shared_folder):
    mesh = build("noise", 8)
    flow = JKO(mesh, Power(2), scheme="corners")
    times = [0, 0.05, 0.1]
    kept = Checkpoint(shared_folder / "run.h5")
    first = flow.solve(half(mesh), times[:2], tau=0.01, checkpoint=kept)
    longer = flow.solve(half(mesh), times, tau=0.01, checkpoint=kept)
    at_once = flow.solve(half(mesh), times, tau=0.01)
    assert np.array_equal(longer.rho[:2], first.rho)
    assert mesh.integrate(np.abs(longer.rho[-1] - at_once.rho[-1])) < 1e-9


# ---- which scheme is taken -----------------------------------------------------------------------


def step(mesh, **options):
    return JKO(mesh, Power(2), **options).step(half(mesh) + 0.5, 0.01)


def test_corners_are_taken_for_order_2(recwarn):
    """Without a warning."""
    mesh = build("noise", 8)
    recwarn.clear()
    assert_same_solution(mesh.ranks, step(mesh), step(mesh, scheme="corners"))
    assert len(recwarn) == 0


@pytest.mark.parametrize("options", [dict(order=1), dict(bounds=(0, 5.0))])
def test_order_1_has_two_point_fluxes(options, recwarn):
    """With a warning on the first rank."""
    mesh = build("noise", 8)
    recwarn.clear()
    auto = step(mesh, **options)
    assert (len(recwarn) > 0) == mesh.ranks.is_root
    assert_same_solution(mesh.ranks, auto, step(mesh, scheme="two_point", **options))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mesh.rectangle((0, 0), (1, 1), (6, 6)),
        lambda: Mesh.triangles((0, 0), (1, 1), 6),
        lambda: Mesh.voronoi((0, 0), (1, 1), 40),
    ],
)
def test_two_point_fluxes_are_taken_on_meshes_made_for_them(make):
    mesh = make()
    assert_same_solution(mesh.ranks, step(mesh), step(mesh, scheme="two_point"))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(scheme="corner"), "scheme must be"),
        (dict(scheme=None), "scheme must be"),
        (dict(scheme="corners", order=1), "needs order=2"),
        (dict(scheme="corners", bounds=(0, 5.0)), "needs order=2"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        JKO(build("noise", 6), Power(2), **options)
