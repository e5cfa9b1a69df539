"""Transport that ends freely under an energy: exact steps, its promises on every kind of mesh, bad
input.
"""

from contextlib import nullcontext

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

from fvot import (
    BenamouBrenier,
    ConvergenceError,
    Energy,
    Entropy,
    InputError,
    Mesh,
    Potential,
    Power,
)
from fvot.benamou_brenier.terminal import Terminal
from fvot.benamou_brenier.time_basis import node_weights
from fvot.benamou_brenier.two_point import TwoPointDiscretisation

pytestmark = pytest.mark.ranks

SIX = (-6, 6)
ENERGIES = {
    "entropy": 0.5 * Entropy(),
    "porous": Power(2),
    "cubic": Power(3) + Potential(lambda x: x[0] ** 2),
    "fast": Power(0.5),
    "both": Entropy(2.0) + 0.3 * Power(2),
    "potential": Potential(lambda x: x[0] ** 2),
}


def gaussian(mesh, width=1.0, at=0.0):
    return mesh.density(lambda x: np.exp(-((x - at) ** 2).sum(axis=0) / (2 * width**2)))


def solved(transport, rho0):
    """The path, converged or not; what every one promises."""
    try:
        path = transport.solve(rho0)
    except ConvergenceError as error:
        path = error.result
    mesh, N = path.mesh, len(path.node_t) - 1
    assert path.lower_bound <= path.cost
    assert path.residual <= 1e-14
    assert_allclose(mesh.integrate(path.rho), mesh.integrate(rho0), rtol=1e-14)
    assert path.rho.min(initial=0) >= 0
    action = (path.speed**2 * node_weights(N)).sum()
    assert action == pytest.approx(
        path.cost - 2 * path.energy, rel=1e-9, abs=1e-13 * abs(path.energy)
    )
    assert path.gap * action <= (path.cost - path.lower_bound) * (1 + 1e-6)
    return path


@pytest.mark.long
@pytest.mark.parametrize("n, error", [(64, 6e-3), (128, 2.5e-3)])
def test_a_step_of_the_entropy_from_a_gaussian(n, error):
    """Gaussians stay Gaussians: s (s - s0) = h, so s = (s0 + (s0^2 + 4 h)^1/2) / 2 (Jordan,
    Kinderlehrer, Otto 1998).
    """
    h = 0.5
    mesh = Mesh.interval(*SIX, n)
    s = (1 + np.sqrt(1 + 4 * h)) / 2
    path = solved(BenamouBrenier(mesh, 16, tol=2e-3, terminal=h * Entropy()), gaussian(mesh))
    assert path.gap <= 2e-3
    assert mesh.integrate(path.rho[-1] * mesh.center[0] ** 2) == pytest.approx(s**2, rel=error)
    assert mesh.integrate(np.abs(path.rho[-1] - gaussian(mesh, s))) < error
    exact = (s - 1) ** 2 - h * np.log(2 * np.pi * np.e * s**2)  # W2^2 + 2 h int rho log rho
    assert abs(path.lower_bound - exact) < error
    assert abs(path.cost - exact) < error


@pytest.mark.long
def test_a_step_in_a_potential_pulls_each_point():
    """x goes to x / (1 + h): the prox of h x^2 / 2, point by point; W2^2 + 2 h E = h / (1 + h)."""
    h = 0.5
    mesh = Mesh.interval(*SIX, 128)
    path = solved(
        BenamouBrenier(mesh, 16, tol=5e-3, terminal=h * Potential(lambda x: x[0] ** 2 / 2)),
        gaussian(mesh),
    )
    assert path.gap <= 5e-3
    assert path.cost == pytest.approx(h / (1 + h), rel=2e-2)
    assert mesh.integrate(path.rho[-1] * mesh.center[0] ** 2) == pytest.approx(
        1 / (1 + h) ** 2, rel=3e-2
    )


@pytest.mark.long
def test_a_step_of_the_porous_medium_from_a_barenblatt_profile():
    """Parabolas stay parabolas (Otto 2001): of half-width a, W2^2 = (a - 1)^2 / 5 and E = 3 / (5
    a), so a^2 (a - 1) = 3 h.
    """
    h = 0.2
    mesh = Mesh.interval(-2, 2, 200)
    path = solved(BenamouBrenier(mesh, 16, tol=2e-3, terminal=h * Power(2)), profile(mesh, 1.0))
    a = np.roots([1, -1, 0, -3 * h])
    a = a[np.abs(a.imag) < 1e-12].real.max()
    assert path.gap <= 2e-3
    assert path.energy == pytest.approx(h * 3 / (5 * a), rel=3e-3)
    assert mesh.integrate(np.abs(path.rho[-1] - profile(mesh, a))) < 1e-2


def profile(mesh, a):
    return mesh.density(lambda x: np.maximum(1 - (x[0] / a) ** 2, 0))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["squares", "triangles", "polygons"])
def test_a_step_of_the_entropy_in_two_dimensions(kind):
    h = 0.3
    s0 = 0.7
    mesh = {
        "squares": lambda: Mesh.rectangle((-4, -4), (4, 4), (32, 32)),
        "triangles": lambda: Mesh.triangles(-4, 4, 30),
        "polygons": lambda: Mesh.voronoi((-4, -4), (4, 4), 1000),
    }[kind]()
    s = (s0 + np.sqrt(s0**2 + 4 * h)) / 2
    path = solved(BenamouBrenier(mesh, 8, tol=2e-2, terminal=h * Entropy()), gaussian(mesh, s0))
    assert path.gap <= 2e-2
    assert mesh.integrate(path.rho[-1] * mesh.centroid[0] ** 2) == pytest.approx(s**2, rel=0.03)


@pytest.mark.parametrize("name", ["triangles", "tiling", "torus", "tetrahedra"])
def test_the_same_on_any_number_of_ranks(name, ranks):
    mesh = MESHES[name]()
    alone = MESHES[name](comm=ranks.comm.Split(ranks.rank))
    found = []
    for part in mesh, alone:
        rho = part.density(lambda x: 1 + np.sin(3 * x[0]) ** 2)
        path = solved(
            BenamouBrenier(
                part, 4, tol=1e-12, max_iter=20, terminal=0.1 * Entropy() + 0.05 * Power(2)
            ),
            rho,
        )
        found.append((path.cost, path.lower_bound, path.energy))
    if mesh.block is None:
        assert_allclose(*found, rtol=1e-8)
    else:  # cosine transforms on one rank, multigrid on several
        assert_allclose(*found, rtol=1e-3)


def test_energy_falls():
    """E(rho1) + W2^2 / 2 <= E(rho0): rho0 could stay."""
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    for energy in Entropy(), Power(3), Entropy(0.1) + Potential(lambda x: np.cos(3 * x[0])):
        rho0 = mesh.density(lambda x: 1 + (x[0] > 0.5))
        path = solved(BenamouBrenier(mesh, 4, tol=1e-2, max_iter=300, terminal=0.1 * energy), rho0)
        terminal = Terminal(TwoPointDiscretisation(mesh, 4), 0.1 * energy)
        assert path.cost <= 2 * terminal.value(terminal.disc.average(rho0))[0] + 1e-2 * (
            path.cost - 2 * path.energy
        )


def test_nothing_moves_at_equilibrium():
    mesh = Mesh.rectangle((0, 0), (1, 1), (12, 12))
    rho = np.ones(mesh.n_cells)
    path = solved(BenamouBrenier(mesh, 4, tol=1e-6, terminal=Entropy()), rho)
    assert_allclose(path.rho, 1, rtol=1e-6)
    assert abs(path.cost) < 1e-12


@pytest.mark.parametrize("energy", ENERGIES.values(), ids=ENERGIES)
def test_density_of_a_slope(energy):
    """k rho + e'(rho) = p is solved for any density between none and much."""
    disc = TwoPointDiscretisation(Mesh.interval(-1, 1, 12), 2)
    terminal = Terminal(disc, energy)
    for scale in 1e-8, 1.0, 1e8:
        rho = scale * (1.1 + np.sin(np.arange(disc.n_patches)))
        for k in (1e-3, 1.0, 1e3) if energy is ENERGIES["potential"] else (0.0, 1e-3, 1.0, 1e3):
            p = k * rho + terminal.derivative(rho)
            found = terminal.density(p, k)
            assert_allclose(k * found + terminal.derivative(found), p, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("energy", ENERGIES.values(), ids=ENERGIES)
def test_the_conjugate_is_above_every_line(energy):
    """E(rho) + E*(p) >= <p, rho> (Fenchel, Young), with equality at p = e'(rho); and the best shift
    is best.
    """
    disc = TwoPointDiscretisation(Mesh.interval(-1, 1, 12), 2)
    rng = np.random.default_rng(0)
    terminal = Terminal(disc, energy)
    volume = disc.volume
    ranks = disc.mesh.ranks
    rho, other = (
        0.5 + ranks.broadcast(rng.random(12))[disc.mesh.cell_id[: disc.n_patches]] for _ in range(2)
    )
    p = terminal.derivative(rho)
    if energy is not ENERGIES["potential"]:
        assert terminal.value(rho)[0] + terminal.conjugate(p) == pytest.approx(
            ranks.sum((volume * p * rho).sum()), rel=1e-12
        )
        assert terminal.value(other)[0] + terminal.conjugate(p) >= ranks.sum(
            (volume * p * other).sum()
        )
    mass = disc.masses(rho[:, None])[:, 0]
    c, conjugate = terminal.best_shift(-other, mass)
    for shift in -0.1, -1e-3, 1e-3, 0.1:
        near = terminal.conjugate(other - c[0] - shift)
        assert -c[0] * mass[0] - conjugate >= -(c[0] + shift) * mass[0] - near - 1e-12


def test_what_energies_refuse():
    for make, words in (
        (lambda: Entropy(-1), "above 0"),
        (lambda: Power(1), "Entropy"),
        (lambda: Power(-2), "above 0"),
        (lambda: -1 * Power(2), ">= 0"),
        (lambda: Potential("x"), "V must be"),
    ):
        with pytest.raises(InputError, match=words):
            make()
    with pytest.raises(TypeError):
        Power(2) + 1


def test_what_the_solver_refuses():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho = np.ones(mesh.n_cells)
    with pytest.raises(InputError, match="must be an energy"):
        BenamouBrenier(mesh, terminal=lambda rho: rho)
    with pytest.raises(InputError, match="exclude each other"):
        BenamouBrenier(mesh, terminal=Entropy()).solve(rho, rho)
    with pytest.raises(InputError, match="needs rho0 and rho1"):
        BenamouBrenier(mesh).solve(rho)
    with pytest.raises(InputError, match="finite"):
        BenamouBrenier(mesh, terminal=Potential(lambda x: np.where(x[0] > 0.9, np.nan, x[0])))
    for V, words in ((lambda x, t: x[0] * t, r"\(x, t\)|time"), (rho, "cell values|function")):
        with pytest.raises(InputError, match=words):
            BenamouBrenier(mesh, terminal=Potential(V)).solve(rho)


class Square(Energy):
    """rho^2; what is given takes the place of a method."""

    def __init__(self, **methods):
        self.methods = methods

    def value(self, rho, x):
        return self.methods.get("value", lambda r: r**2)(rho)

    def derivative(self, rho, x):
        return self.methods.get("derivative", lambda r: 2 * r)(rho)

    def curvature(self, rho, x):
        return self.methods.get("curvature", lambda r: 2 + 0 * r)(rho)


@pytest.mark.parametrize(
    "methods, words",
    [
        (dict(derivative=lambda r: 3 * r), "rises there"),
        (dict(curvature=lambda r: -2 + 0 * r), "rises there"),
        (
            dict(
                value=lambda r: -(r**2), derivative=lambda r: -2 * r, curvature=lambda r: -2 + 0 * r
            ),
            "convex",
        ),
        (dict(value=lambda r: np.ones(3)), "must return"),
        (dict(value=lambda r: None), "must return"),
        (dict(derivative=lambda r: np.multiply(r, 2, out=r)), "changes its argument"),
        (dict(value=lambda r: 1 / 0), "must return"),
    ],
)
def test_an_energy_that_is_none_is_refused(methods, words):
    with pytest.raises(InputError, match=words):
        BenamouBrenier(Mesh.triangles((0, 0), (1, 1), 4), terminal=Square(**methods))


def test_an_energy_that_fails_on_one_rank_fails_on_all(ranks):
    def late(r):
        if ranks.rank == ranks.size - 1 and len(r) != 25:
            raise ZeroDivisionError("too late")
        return r**2

    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    with pytest.raises((ZeroDivisionError, RuntimeError), match="too late"):
        BenamouBrenier(mesh, 4, terminal=Square(value=late)).solve(mesh.density(lambda x: 1 + x[0]))


def test_energies_that_differ_between_ranks_are_refused(ranks):
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    if ranks.size > 1:
        for energy in Entropy(1 + ranks.rank), Power(2 + ranks.rank), (1 + ranks.rank) * Entropy():
            with pytest.raises(InputError, match="same on every rank"):
                BenamouBrenier(mesh, terminal=energy)


def test_energies_without_force_move_nothing():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho = mesh.density(lambda x: 1 + x[0])
    for energy in 0 * Entropy(), Potential(3.0):
        path = BenamouBrenier(mesh, 4, terminal=energy).solve(rho)
        assert_allclose(path.rho[-1], rho)
        assert path.lower_bound == path.cost == 2 * path.energy


@pytest.mark.long
def test_fast_diffusion_into_the_vacuum():
    mesh = Mesh.rectangle((0, 0), (1, 1), (16, 16))
    rho = mesh.density(lambda x: np.exp(-50 * ((x - 0.3) ** 2).sum(axis=0)))
    for energy in 0.02 * Power(0.5), 0.02 * Power(0.3):
        assert solved(BenamouBrenier(mesh, 8, tol=1e-2, terminal=energy), rho).gap <= 1e-2
    with pytest.raises(InputError, match="must be finite"):
        BenamouBrenier(mesh, 8, terminal=Power(500)).solve(rho)


def test_a_piece_of_the_mesh_without_mass():
    x, y = np.meshgrid(
        [*np.linspace(0, 1, 5), *np.linspace(3, 4, 5)], np.linspace(0, 1, 5), indexing="ij"
    )
    i = np.arange(50).reshape(10, 5)[:, :-1][[0, 1, 2, 3, 5, 6, 7, 8]].ravel()
    mesh = Mesh.from_cells(
        np.stack([x.ravel(), y.ravel()]), [("quad", np.stack([i, i + 5, i + 6, i + 1], axis=1))]
    )
    rho0 = mesh.density(lambda x: np.where(x[0] < 2, 1 + x[0], 0))
    rho1 = mesh.density(lambda x: np.where(x[0] < 2, 2 - x[0], 0))
    path = BenamouBrenier(mesh, 8, tol=1e-2).solve(rho0, rho1)
    assert 0.013 < path.lower_bound <= path.cost < 0.016 and path.gap <= 1e-2
    with pytest.raises(InputError, match="has no mass"):
        BenamouBrenier(mesh, 8, terminal=Entropy()).solve(rho0)


def test_levelling_that_is_most_of_the_cost_is_said(ranks):
    """A short step on pairs of triangles ends where that on single cells does, and warns."""
    meshes = [Mesh.triangles(-4, 4, 30, patches=patches) for patches in ("auto", "none")]
    moved = []
    for mesh in meshes:
        rho0 = gaussian(mesh, 0.7)
        says = mesh is meshes[0] and ranks.is_root
        transport = BenamouBrenier(mesh, 8, tol=1e-2, terminal=0.03 * Entropy())
        with pytest.warns(UserWarning, match="levelling rho0") if says else nullcontext():
            path = solved(transport, rho0)
        moved.append(mesh.integrate((path.rho[-1] - rho0) * mesh.centroid[0] ** 2))
    assert moved[0] == pytest.approx(moved[1], rel=3e-2)
