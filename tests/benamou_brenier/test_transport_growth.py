"""Transport between unequal masses: exact answers, an interior point method that knows nothing of
the solver, its promises on every kind of mesh, bad input.
"""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import (
    BenamouBrenier,
    Checkpoint,
    ConvergenceError,
    Entropy,
    FisherRao,
    InputError,
    Mesh,
    TotalVariation,
)
from fvot.benamou_brenier.best_flux import UpperBound
from fvot.benamou_brenier.bounds import LowerBound, lower_bound, upper_bound
from fvot.benamou_brenier.diamonds import DiamondDiscretisation
from fvot.benamou_brenier.ends import Ends
from fvot.benamou_brenier.nested_iteration import BoundedPath
from fvot.benamou_brenier.poisson_cosine import CosinePoisson
from fvot.benamou_brenier.poisson_multigrid import MultigridPoisson
from fvot.benamou_brenier.solver import _round_up
from fvot.benamou_brenier.splitting import Iteration, Start
from fvot.benamou_brenier.time_basis import (
    node_mean,
    node_weights,
    time_masses,
    time_modes,
    time_stiffness,
)
from fvot.benamou_brenier.two_point import TwoPointDiscretisation

pytestmark = pytest.mark.ranks

SCHEMES = {"two_point": TwoPointDiscretisation, "corners": DiamondDiscretisation}


def gaussian(mesh, at, width, mass=1.0):
    at = np.reshape(at, (-1, 1))
    return mass * mesh.density(lambda x: np.exp(-((x - at) ** 2).sum(axis=0) / (2 * width**2)))


def noise(mesh, *columns, seed=0):
    """Numbers (n_cells, *columns) that do not depend on how the mesh is dealt."""
    values = np.random.default_rng(seed).standard_normal((*columns, mesh.n_cells_global))
    return np.moveaxis(mesh.scatter(values), -1, 0)


def solved(mesh, n_steps, growth, rho0, rho1, **options):
    """The path, converged or not; what every one promises. growth : or the delta of `FisherRao`."""
    if isinstance(growth, float):
        growth = FisherRao(growth)
    solver = BenamouBrenier(mesh, n_steps, growth=growth, **options)
    try:
        path = solver.solve(rho0, rho1)
    except ConvergenceError as error:
        path = error.result
    check(path, rho0, rho1)
    return path


def check(path, rho0, rho1):
    mesh = path.mesh
    N = len(path.node_t) - 1
    assert path.source.shape == (N + 1, mesh.n_cells)
    assert path.mass.shape == (N + 2,)
    assert 0 <= path.lower_bound <= path.cost
    assert path.residual <= 1e-14
    assert path.rho.min(initial=0) >= 0
    assert_allclose(path.rho[[0, -1]], [rho0, rho1], rtol=1e-15)
    assert_allclose(path.mass, mesh.integrate(path.rho), rtol=1e-13)

    # Nothing crosses the boundary: mass changes by the source alone.
    created = node_weights(N) * mesh.integrate(path.source)
    assert_allclose(np.diff(path.mass), created, atol=1e-13 * path.mass.max())

    tau = node_weights(N)
    largest = mesh.ranks.max(np.abs(path.rho).max())
    for n, flux in enumerate(path.flux):
        change = path.rho[n + 1] - path.rho[n] + tau[n] * (mesh.divergence(flux) - path.source[n])
        assert mesh.ranks.max(np.abs(change).max(initial=0)) <= 1e-12 * largest


# ---- exact answers -------------------------------------------------------------------------------


def move_on_cone(n, t, delta=0.5):
    """Cell averages (n,) at time t of the exact path on [0, 1], its map and its growth at the
    centres: rho0 = 1 + .5 cos 2 pi x and phi0 = .05 cos pi x - .08 move and grow by the cone's map.
    """

    def move(x):
        v = -0.05 * np.pi * np.sin(np.pi * x)
        z = (0.05 * np.cos(np.pi * x) - 0.08) / delta**2
        along = 1 + t * z / 2
        across = t * v / (2 * delta)
        return x + 2 * delta * np.arctan2(across, along), along**2 + across**2

    x = np.linspace(0, 1, 100_001)
    X, factor = move(x)
    density = (1 + 0.5 * np.cos(2 * np.pi * x)) * factor
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    centers = (np.arange(n) + 0.5) / n
    at_edges = np.interp(np.arange(n + 1) / n, X, mass)
    return np.diff(at_edges) * n, *move(centers)


SMOOTH_COST = 2 * 0.0205513770630  # by exact.md's primal and dual, for delta = 1/2


@pytest.mark.long
@pytest.mark.parametrize("n, error", [(16, 8e-3), (32, 2e-3), (64, 5e-4)])
def test_a_smooth_path_is_of_second_order(n, error):
    mesh = Mesh.interval(0, 1, n)
    rho0, rho1, middle = (mesh.scatter(move_on_cone(n, t)[0]) for t in (0, 1, 0.5))
    path = solved(mesh, n // 2, 0.5, rho0, rho1, tol=1e-5)
    assert path.gap <= 1e-5
    assert path.cost == pytest.approx(SMOOTH_COST, rel=error)
    assert mesh.integrate(np.abs(path.at(0.5) - middle)) < error
    assert path.mass[-1] == pytest.approx(0.7211027541260, rel=1e-9)
    assert_allclose(path.speed[1:-1], SMOOTH_COST**0.5, rtol=error)

    _, end, factor = move_on_cone(n, 1.0)
    assert_allclose(path.transport_map()[0], mesh.scatter(end), atol=3 * error)
    assert_allclose(path.growth_map(), mesh.scatter(factor), atol=error)
    assert mesh.integrate(rho0 * path.growth_map()) == pytest.approx(path.mass[-1], rel=error)


@pytest.mark.parametrize("name", ["interval", "triangles", "voronoi", "box", "quads"])
def test_scaled_copies_do_not_move(name):
    """rho1 = s rho0: the root of the mass is linear in time, on any mesh."""
    mesh = MESHES[name]()
    lower, upper = mesh.bounds
    rho0 = 1 + 0.5 * np.sin((mesh.centroid - lower[:, None]).sum(axis=0) / np.ptp(mesh.bounds))
    mass = mesh.integrate(rho0)
    delta = 0.3 * np.ptp(mesh.bounds, axis=0).max()
    path = solved(mesh, 16, delta, rho0, 3 * rho0)
    exact = 4 * delta**2 * (3**0.5 - 1) ** 2 * mass
    assert path.gap <= 1e-3
    assert path.cost == pytest.approx(exact, rel=4e-3)
    assert_allclose(path.growth_map(), 3, rtol=5e-2)
    roots = 1 + (3**0.5 - 1) * path.t
    assert_allclose(path.mass, roots**2 * mass, rtol=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("shift", [0.3, 2.0])
def test_two_bumps(shift):
    """Small bumps are like Diracs: 4 delta^2 (m0 + m1 - 2 (m0 m1)^1/2 cos(min(r / 2 delta, pi/2)).
    Farther apart than pi delta, one vanishes and the other one grows.
    """
    delta = 0.5
    mesh = Mesh.interval(-0.5, 2.5, 192)
    rho0 = gaussian(mesh, 0.0, 0.04)
    rho1 = gaussian(mesh, shift, 0.04, 0.7)
    path = solved(mesh, 32, delta, rho0, rho1, tol=2e-3)
    cosine = np.cos(min(shift / (2 * delta), np.pi / 2))
    exact = 4 * delta**2 * (1.7 - 2 * 0.7**0.5 * cosine)
    assert path.gap <= 2e-3
    # At the far one's mass is created out of nothing, which is of first order in time.
    assert path.cost == pytest.approx(exact, rel=1e-2 if shift < 1 else 6e-2)


def test_growth_that_costs_much_is_balanced_transport():
    mesh = Mesh.rectangle((0, 0), (1, 1), (16, 16))
    rho0 = gaussian(mesh, (0.3, 0.4), 0.12)
    rho1 = gaussian(mesh, (0.6, 0.55), 0.15)
    balanced = BenamouBrenier(mesh, 8).solve(rho0, rho1)
    path = solved(mesh, 8, 20.0, rho0, rho1)
    assert path.gap <= 1e-3
    assert path.cost == pytest.approx(balanced.cost, rel=3e-3)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_units_do_not_matter(size):
    """A domain of another size, with masses in other units: the same path, to the gap."""
    paths = []
    for length, mass in ((1.0, 1.0), (size, 1e200)):
        mesh = Mesh.rectangle((0, 0), (length, length), (16, 16))
        rho0 = gaussian(mesh, (0.3 * length, 0.3 * length), 0.1 * length, mass)
        rho1 = gaussian(mesh, (0.7 * length, 0.6 * length), 0.12 * length, 2 * mass)
        path = solved(mesh, 8, 0.2 * length, rho0, rho1)
        assert path.gap <= 1e-3
        paths.append(path.cost / (length**2 * mass))
    assert paths[0] == pytest.approx(paths[1], rel=1e-3)


@pytest.mark.parametrize("growth", [FisherRao(0.3), TotalVariation(0.05)], ids=str)
@pytest.mark.parametrize("mass", [1e-100, 1e100])
def test_the_unit_of_mass_does_not_matter(growth, mass):
    mesh = Mesh.interval(0, 1, 16)
    rho0 = gaussian(mesh, 0.3, 0.15)
    rho1 = gaussian(mesh, 0.6, 0.15, 2.0)
    path = solved(mesh, 4, growth, rho0, rho1)
    scaled = BenamouBrenier(mesh, 4, growth=growth).solve(mass * rho0, mass * rho1)
    assert scaled.iterations == path.iterations
    assert scaled.cost / mass == pytest.approx(path.cost, rel=1e-9)


def test_the_gap_in_an_error_is_above_tol():
    texts = [_round_up(gap) for gap in (1.00003e-3, 9.96e-4, 0.0299, np.inf, 0.0)]
    assert texts == ["1.1e-03", "1.0e-03", "3.0e-02", "inf", "0.0e+00"]


# ---- against an interior point method ------------------------------------------------------------


def minimise(X, Y, y0, weight, slope, n_positive, start):
    """min sum weight (Y u + y0)^2 / (X u) + slope u over u whose first n_positive values are
    positive, up to 1e-9 of it: Newton's method with a barrier, from a feasible start.
    """
    u = start
    barrier = 1.0

    def value(u):
        x = X @ u
        if (u[:n_positive] <= 0).any() or (x <= 0).any():
            return np.inf
        cost = (weight * (Y @ u + y0) ** 2 / x).sum() + slope @ u
        return cost - barrier * np.log(u[:n_positive]).sum()

    while True:
        for _ in range(50):
            x = X @ u
            y = Y @ u + y0
            gradient = 2 * Y.T @ (weight * y / x) - X.T @ (weight * (y / x) ** 2) + slope
            gradient[:n_positive] -= barrier / u[:n_positive]
            tilted = Y - (y / x)[:, None] * X
            hessian = tilted.T @ (2 * (weight / x)[:, None] * tilted)
            hessian[range(n_positive), range(n_positive)] += barrier / u[:n_positive] ** 2
            step = -np.linalg.lstsq(hessian, gradient, rcond=1e-15)[0]
            decrease = -gradient @ step
            if decrease < 1e-12 * barrier:
                break
            length = 1.0
            before = value(u)
            while value(u + length * step) > before - 0.1 * length * decrease and length > 1e-12:
                length /= 2
            u = u + length * step
        cost = (weight * (Y @ u + y0) ** 2 / (X @ u)).sum() + slope @ u
        if n_positive * barrier < 1e-9 * cost:
            return cost
        barrier /= 10


def optimum(disc, rho0, rho1):
    """The discrete WFR^2, or cost with total variation, of a two-point discretisation on one rank.

    2 |zeta| is the smallest zeta^2 / s + s over s > 0.
    """
    mesh = disc.mesh
    N = disc.n_steps
    n_faces = mesh.n_inner
    n_rho = disc.n_patches * N
    n_nodes = mesh.n_cells * (N + 1)
    tau = node_weights(N)
    is_partial = isinstance(disc.growth, TotalVariation)
    n_positive = n_rho + (n_nodes if is_partial else 0)

    def terms(u):
        """(mobilities and densities, fluxes and sources) at all nodes."""
        rho = u[:n_rho].reshape(disc.n_patches, N)
        flux = u[n_positive:].reshape(n_faces, N + 1)
        rho_at_nodes = node_mean(rho)
        change = np.diff(np.concatenate([ends[0], disc.spread(rho), ends[1]], axis=1))
        through = np.pad(flux.T, ((0, 0), (0, mesh.n_faces - n_faces)))
        divergence = np.stack([mesh.divergence(each) for each in through], axis=1)
        source = change / tau + divergence
        below = disc.spread(rho_at_nodes).ravel()
        if is_partial:
            below = u[n_rho:n_positive]
        mobility = disc.mobility(rho_at_nodes).ravel()
        return np.append(mobility, below), np.concatenate([flux, source]).ravel()

    ends = [rho0[:, None], rho1[:, None]]
    size = n_positive + n_faces * (N + 1)
    _, y0 = terms(np.zeros(size))
    ends = [0 * rho0[:, None], 0 * rho1[:, None]]
    columns = [terms(unit) for unit in np.eye(size)]
    X, Y = (np.stack(each, axis=1) for each in zip(*columns))
    of_source = mesh.volume[:, None] * tau
    of_source = of_source * (disc.growth.kappa if is_partial else disc.growth.delta**2)
    weight = [mesh.distance[:n_faces, None] ** 2 * tau, of_source]
    slope = np.zeros(size)
    slope[n_rho:n_positive] = of_source.ravel() if is_partial else 0.0
    start = np.zeros(size)
    start[:n_positive] = 1.0
    return minimise(X, Y, y0, np.concatenate(weight).ravel(), slope, n_positive, start)


GROWTHS = [
    FisherRao(0.1),
    FisherRao(0.3),
    FisherRao(2.0),
    TotalVariation(0.03),
    TotalVariation(1.0),
]


@pytest.mark.long
@pytest.mark.parametrize("growth", GROWTHS, ids=str)
@pytest.mark.parametrize("kind", ["interval", "rectangle", "triangles"])
def test_bounds_enclose_the_optimum_of_an_interior_point_method(kind, growth):
    """On one rank each. The data vanish in some cells, and differ within patches."""
    alone = MPI.COMM_SELF
    make = {
        "interval": lambda: Mesh.interval(0, 1, 10, comm=alone),
        "rectangle": lambda: Mesh.rectangle((0, 0), (1, 0.75), (4, 3), comm=alone),
        "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 3, comm=alone),
    }
    disc = TwoPointDiscretisation(make[kind](), 3, growth=growth)
    mesh = disc.mesh
    x = mesh.centroid[0]
    rho0 = disc.spread(disc.average(np.where(x < 0.4, 1.0 + x, 0.0)))
    rho1 = disc.spread(disc.average(np.where(x > 0.3, 2.0 * x, 0.0)))
    path = solved(mesh, 3, growth, rho0, rho1, tol=1e-6, max_iter=3000)
    best = optimum(disc, rho0, rho1)
    assert path.gap < (1e-5 if isinstance(growth, FisherRao) else 1e-3)
    assert path.lower_bound <= best * (1 + 1e-8)
    assert best <= path.cost * (1 + 1e-8)


# ---- bounds and parts ----------------------------------------------------------------------------

PARTS = {}


def part(name, scheme, delta):
    """The discretisation on that mesh, made once."""
    key = name, scheme, delta
    if key not in PARTS:
        PARTS[key] = SCHEMES[scheme](MESHES[name](), 3, growth=FisherRao(delta))
    return PARTS[key]


KINDS = [
    ("interval", "two_point"),
    ("torus", "two_point"),
    ("box", "two_point"),
    ("triangles", "two_point"),
    ("voronoi", "two_point"),
    ("two_rooms", "corners"),
    ("two_rooms", "two_point"),
]


@pytest.mark.parametrize("name, scheme", KINDS)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    power=st.sampled_from([0, 1, 8]),
    delta=st.sampled_from([0.01, 0.2, 10.0]),
    mass=st.sampled_from([0.0, 1e-6, 1.0, 40.0]),
)
@settings(max_examples=6)
def test_bounds_are_in_order(name, scheme, seed, size, power, delta, mass):
    disc = part(name, scheme, delta)
    mesh = disc.mesh
    rho0, rho1 = np.maximum(noise(mesh, 2, seed=seed), 0).T
    phi = (
        size
        * np.random.default_rng(seed).standard_normal(disc.n_steps + 1)
        * np.ones((disc.n_points, 1))
    )
    phi[: mesh.n_cells] += size * noise(mesh, disc.n_steps + 1, seed=seed + 1)
    rho = disc.average(np.maximum(noise(mesh, disc.n_steps, seed=seed + 2), 0) ** power)
    ends = Ends(mesh, rho0, mass * rho1, may_grow=True)
    lower = lower_bound(disc, phi, ends)
    upper = upper_bound(disc, rho, ends, rtol=1e-3)
    assert 0 <= lower.cost <= upper.cost < np.inf
    assert upper.residual < 1e-13 * (1 + mass)
    slopes = mesh.ranks.max(np.abs(lower.phi).max()) / min(mesh.distance.min(), delta, 1)
    assert mesh.ranks.max(disc.violation(lower.phi).max()) <= 1e-11 * (1 + slopes**2 + slopes)


def test_the_lower_bound_of_nothing_is_the_cost_of_growth_alone():
    """From phi = 0 comes the best bound by a function of time alone: exact for scaled copies."""
    disc = part("rectangle", "two_point", 0.2)
    ones = np.ones(disc.mesh.n_cells)
    phi = np.zeros((disc.n_points, disc.n_steps + 1))
    mass = disc.mesh.integrate(1.0)
    for s in 0.0, 0.3, 5.0:
        ends = Ends(disc.mesh, ones, s * ones, may_grow=True)
        lower = lower_bound(disc, phi, ends)
        exact = 4 * 0.04 * (s**0.5 - 1) ** 2 * mass
        # Three steps are a third of what growth from nothing needs.
        assert lower.cost == pytest.approx(exact, rel=0.45 if s == 0 else 5e-2)
        t = (np.arange(3) + 0.5) / 3
        rho = (((1 - t) + t * s**0.5) ** 2) * np.ones((disc.n_patches, 1))
        assert lower.cost <= upper_bound(disc, rho, ends).cost


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_weighted_time_modes(n_steps):
    w = np.random.default_rng(0).uniform(0.1, 1, n_steps)
    V, s = time_modes(n_steps, 0.7, 0.0, w)
    M = np.diag(time_masses(n_steps, w))
    assert_allclose(0.49 * time_stiffness(n_steps, w) @ V, M @ V * s, atol=1e-10 * s.max())
    assert_allclose(V.T @ M @ V, np.eye(n_steps + 1), atol=1e-12)
    assert_allclose(time_masses(n_steps), node_weights(n_steps))


def test_both_linear_solvers_agree():
    disc = TwoPointDiscretisation(
        Mesh.rectangle((0, 0), (1, 1), (12, 9), comm=MPI.COMM_SELF), 4, growth=FisherRao(0.3)
    )
    f = noise(disc.mesh, 5, seed=3)
    multigrid = MultigridPoisson(disc, 0.7)
    phi = multigrid(f)
    multigrid.improve(30)
    phi = multigrid.pencil.expand(multigrid.unknowns, f @ multigrid.V) @ multigrid.V.T
    assert_allclose(phi, CosinePoisson(disc, 0.7)(f), atol=1e-9 * np.abs(phi).max())


# ---- every kind of mesh --------------------------------------------------------------------------

EVERY = [
    "interval",
    "rectangle",
    "torus",
    "box",
    "triangles",
    "tetrahedra",
    "voronoi",
    "honeycomb",
    "two_rooms",
    "right_triangles",
    "quads",
]


@pytest.mark.parametrize("name", [name for name in EVERY if name in MESHES])
def test_every_kind_of_mesh(name):
    mesh = MESHES[name]()
    size = np.ptp(mesh.bounds, axis=0).max()
    low, high = mesh.bounds
    at = low + (high - low) * 0.35
    rho0 = gaussian(mesh, at, 0.25 * size)
    rho1 = gaussian(mesh, low + (high - low) * 0.6, 0.2 * size, 1.7)
    path = solved(mesh, 8, 0.3 * size, rho0, rho1, tol=3e-3)
    assert path.gap <= 3e-3
    assert np.isfinite(path.growth_map()).all()
    assert mesh.integrate(rho0 * path.growth_map()) == pytest.approx(1.7, rel=0.2)


@pytest.mark.parametrize("scheme", ["two_point", "corners"])
def test_both_schemes_agree(scheme):
    mesh = Mesh.rectangle((0, 0), (1, 1), (20, 20))
    rho0 = gaussian(mesh, (0.35, 0.4), 0.15)
    rho1 = gaussian(mesh, (0.6, 0.6), 0.12, 2.0)
    path = solved(mesh, 10, 0.3, rho0, rho1, scheme=scheme)
    assert path.gap <= 1e-3
    assert path.cost == pytest.approx(0.1773, rel=6e-3)


def test_paths_do_not_depend_on_ranks(ranks):
    """The whole mesh on each rank, and dealt to all: to 1e-8, where both use multigrid."""
    costs = []
    for comm in ranks.comm, ranks.comm.Split(ranks.rank):
        mesh = Mesh.triangles((0, 0), (1, 1), 7, comm=comm)
        rho0 = gaussian(mesh, (0.35, 0.4), 0.15)
        rho1 = gaussian(mesh, (0.6, 0.6), 0.2, 2.0)
        path = solved(mesh, 4, 0.3, rho0, rho1, tol=1e-2)
        costs.append([path.cost, path.lower_bound, *mesh.gather(path.rho[3])])
    assert_allclose(costs[0], costs[1], rtol=1e-7, atol=1e-8)


def test_rounding_does_not_choose_between_paths():
    """The last path is kept unless an earlier one is clearly better."""

    def bounded(low, high):
        arrays = 3 * [np.zeros((1, 1))]
        upper = UpperBound(high, *arrays[:2], 0.0, 1e-4, arrays[2])
        return BoundedPath(*arrays[:2], LowerBound(low, arrays[2]), upper)

    last = bounded(0.999, 1.0)
    same = last.with_better_bounds(bounded(0.999 + 1e-7, 1 - 1e-7))
    assert same.upper is last.upper
    assert same.lower is last.lower
    better = bounded(0.9992, 1 - 1e-4)
    kept = last.with_better_bounds(better)
    assert kept.upper is better.upper
    assert kept.lower is better.lower


# ---- partial transport ---------------------------------------------------------------------------


def static_cost(mesh, rho0, rho1, kappa):
    """2 min over plans of sum |x - y|^2 / 2 + kappa (masses that stay out), by a linear program."""
    x = mesh.gather(mesh.center[0])
    masses = [mesh.gather(rho * mesh.volume) for rho in (rho0, rho1)]
    saved = (np.subtract.outer(x, x) ** 2 / 2 - 2 * kappa).ravel()
    n = len(x)
    sums = [np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))]
    useful = np.flatnonzero(saved < 0)
    A = scipy.sparse.csc_matrix(np.concatenate(sums)[:, useful])
    best = scipy.optimize.linprog(saved[useful], A_ub=A, b_ub=np.concatenate(masses))
    assert best.success
    return 2 * (best.fun + kappa * np.sum(masses))


@pytest.mark.long
@pytest.mark.parametrize("kappa", [0.02, 0.06, 0.2])
def test_partial_transport_is_the_static_one(kappa):
    """Both are of second order in the cells: 2e-3 and 5e-4 apart with 32 and 64."""
    for n, error in (32, 6e-3), (64, 1.5e-3):
        mesh = Mesh.interval(0, 1, n)
        rho0 = gaussian(mesh, 0.3, 0.1)
        rho1 = gaussian(mesh, 0.65, 0.12, 1.5)
        path = solved(mesh, n // 2, TotalVariation(kappa), rho0, rho1, tol=3e-4)
        assert path.gap <= 3e-4
        assert path.cost == pytest.approx(static_cost(mesh, rho0, rho1, kappa), rel=error)


@pytest.mark.parametrize("name", ["rectangle", "triangles", "voronoi", "box", "quads"])
def test_partial_transport_on_every_kind_of_mesh(name):
    """rho1 = 2 rho0: what is added costs kappa, wherever and whenever."""
    mesh = MESHES[name]()
    size = np.ptp(mesh.bounds, axis=0).max()
    low, high = mesh.bounds
    rho0 = gaussian(mesh, low + (high - low) * 0.4, 0.3 * size)
    path = solved(mesh, 4, TotalVariation(0.1 * size**2), rho0, 2 * rho0, tol=3e-3)
    assert path.gap <= 3e-3
    assert path.cost == pytest.approx(0.2 * size**2, rel=3e-3)


@pytest.mark.parametrize("more", [1.0, 1.5])
def test_a_large_cost_of_growth_is_balanced_transport(more):
    """The largest kappa: all of the smaller mass is moved, the rest created."""
    mesh = Mesh.interval(0, 2, 32)
    rho0 = gaussian(mesh, 0.6, 0.2)
    rho1 = gaussian(mesh, 1.2, 0.2)
    path = solved(mesh, 8, TotalVariation(4.0), rho0, more * rho1)
    assert path.gap <= 1e-3
    created = 2 * 4.0 * (more - 1)
    if more == 1:
        balanced = BenamouBrenier(mesh, 8).solve(rho0, rho1)
        assert path.cost == pytest.approx(balanced.cost, rel=2.5e-3)
    else:
        assert created < path.cost < created + 0.36


def test_far_masses_stay_out():
    """Farther apart than 2 kappa^(1/2): one is destroyed, the other one created."""
    mesh = Mesh.interval(0, 3, 60)
    rho0 = gaussian(mesh, 0.5, 0.1)
    rho1 = gaussian(mesh, 2.5, 0.1, 0.5)
    path = solved(mesh, 8, TotalVariation(0.25), rho0, rho1)
    assert path.gap <= 1e-3
    assert path.cost == pytest.approx(2 * 0.25 * 1.5, rel=2e-3)
    path = solved(mesh, 8, TotalVariation(0.25), 0 * rho0, rho1)
    assert path.cost == pytest.approx(2 * 0.25 * 0.5, rel=2e-3)


@pytest.mark.parametrize("name, scheme", KINDS)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    kappa=st.sampled_from([0.001, 0.2, 100.0]),
    mass=st.sampled_from([0.0, 1e-6, 1.0, 40.0]),
)
@settings(max_examples=4)
def test_partial_bounds_are_in_order(name, scheme, seed, size, kappa, mass):
    disc = SCHEMES[scheme](MESHES[name](), 3, growth=TotalVariation(kappa))
    mesh = disc.mesh
    rho0, rho1 = np.maximum(noise(mesh, 2, seed=seed), 0).T
    phi = np.zeros((disc.n_points, disc.n_steps + 1))
    phi[: mesh.n_cells] += size * noise(mesh, disc.n_steps + 1, seed=seed + 1)
    rho = disc.average(np.maximum(noise(mesh, disc.n_steps, seed=seed + 2), 0))
    ends = Ends(mesh, rho0, mass * rho1, may_grow=True)
    lower = lower_bound(disc, phi, ends)
    upper = upper_bound(disc, rho, ends, epsilons=(1e-4,))
    assert 0 <= lower.cost <= upper.cost < np.inf
    assert upper.residual < 1e-13 * (1 + mass)
    assert mesh.ranks.max(np.abs(lower.phi[: mesh.n_cells]).max()) <= kappa * (1 + 1e-14)


# ---- zeros, pieces, checkpoints, files -----------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("reverse", [False, True])
def test_all_mass_is_created_or_destroyed(reverse):
    """From nothing the root of the mass is linear; half a step at the end makes it first order."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (16, 16))
    rho = gaussian(mesh, (0.4, 0.5), 0.1, 3.0)
    costs = []
    for n_steps in 8, 16, 32:
        ends = (rho, 0 * rho) if reverse else (0 * rho, rho)
        path = solved(mesh, n_steps, 0.2, *ends)
        assert path.gap <= 1e-3
        costs.append(path.cost / (4 * 0.04 * 3.0) - 1)
    assert_allclose(costs, [-0.1645, -0.0909, -0.048], atol=2e-3)
    assert path.growth_map().min(initial=0) >= 0
    assert path.mass.min() >= 0


def test_pieces_of_the_mesh_grow_on_their_own():
    """Two islands: one loses all its mass, the other one grows from nothing."""
    points = np.array([[x, y] for y in (0.0, 1.0) for x in np.arange(10.0)]).T
    quads = [[i, i + 1, 11 + i, 10 + i] for i in range(9) if i != 4]
    mesh = Mesh.from_cells(points, [("quad", quads)])
    is_left = mesh.centroid[0] < 4.5
    rho0 = np.where(is_left, 1.0, 0.0)
    rho1 = np.where(is_left, 0.0, 2.0)
    path = solved(mesh, 8, 1.5, rho0, rho1)
    assert path.gap <= 1e-3
    exact = 4 * 1.5**2 * (4.0 + 8.0)
    assert path.cost == pytest.approx(exact * (1 - 0.1645), rel=5e-3)
    with pytest.raises(InputError, match=r"unless mass may grow: growth=fvot\.FisherRao"):
        BenamouBrenier(mesh, 8).solve(rho0, rho1 / 2)


def test_equal_densities_rest():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho = gaussian(mesh, (0.4, 0.5), 0.2)
    path = solved(mesh, 4, 0.2, rho, rho)
    assert path.cost == path.lower_bound == path.gap == 0
    assert (path.growth_map() == 1).all()


def test_a_run_continues_from_its_checkpoint(tmp_path, ranks):
    mesh = Mesh.rectangle((0, 0), (1, 1), (16, 16))
    rho0 = gaussian(mesh, (0.3, 0.4), 0.1)
    rho1 = gaussian(mesh, (0.6, 0.6), 0.12, 2.0)
    file = ranks.broadcast(tmp_path / "growth.h5")
    solver = BenamouBrenier(mesh, 8, growth=FisherRao(0.3), tol=1e-6, max_iter=150)
    with pytest.raises(ConvergenceError) as error:
        solver.solve(rho0, rho1, checkpoint=Checkpoint(file))
    check(error.value.result, rho0, rho1)
    longer = BenamouBrenier(mesh, 8, growth=FisherRao(0.3), tol=1e-3)
    path = longer.solve(rho0, rho1, checkpoint=Checkpoint(file))
    check(path, rho0, rho1)
    assert path.gap <= 1e-3
    other = BenamouBrenier(mesh, 8, growth=FisherRao(0.2), tol=1e-3)
    with pytest.raises(InputError, match="growth"):
        other.solve(rho0, rho1, checkpoint=Checkpoint(file))


@pytest.mark.parametrize("name", ["interval", "rectangle", "triangles"])
def test_partial_transport_continues_from_its_checkpoint(name, tmp_path, ranks):
    """A finished run returns at once, with bounds as good as before."""
    mesh = MESHES[name]()
    size = np.ptp(mesh.bounds, axis=0).max()
    low, high = mesh.bounds
    rho0 = gaussian(mesh, low + (high - low) * 0.3, 0.12 * size)
    rho1 = gaussian(mesh, low + (high - low) * 0.6, 0.15 * size, 1.7)
    file = ranks.broadcast(tmp_path / "partial.h5")
    growth = TotalVariation(0.05 * size**2)
    solver = BenamouBrenier(mesh, 4, growth=growth, tol=2e-3)
    path = solver.solve(rho0, rho1, checkpoint=Checkpoint(file, every=0))
    for _ in range(2):
        again = solver.solve(rho0, rho1, checkpoint=Checkpoint(file, every=0))
        check(again, rho0, rho1)
        assert again.iterations == path.iterations
        assert again.gap <= path.gap * (1 + 1e-6) + 1e-9


def test_an_interrupted_ramp_continues_as_it_was():
    """The state of the sources is that of the run which was not interrupted."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    disc = TwoPointDiscretisation(mesh, 4, growth=TotalVariation(0.05))
    rho0 = gaussian(mesh, (0.3, 0.4), 0.1)
    ends = Ends(mesh, rho0, gaussian(mesh, (0.6, 0.6), 0.12, 1.7), may_grow=True)
    iteration = Iteration(disc, ends, None, Start(None, None, 0.1, None), None, 40, np.float64)
    for k in iteration.run():
        if k == 20:
            phi, rho, _ = iteration.path()
            source = iteration.find_source()
            start = Start(phi, rho, 0.1, None, source, k, iteration.r)

    other = Iteration(disc, ends, None, start, None, 40, np.float64)
    assert_allclose(other.find_source(), source, atol=1e-9 * np.abs(source).max())
    for _ in other.run():
        pass
    # phi of the other state is where that of the multiplier is, up to what is still to converge.
    largest = np.abs(iteration.path()[0]).max()
    assert_allclose(other.path()[0], iteration.path()[0], atol=5e-2 * largest)


@pytest.mark.parametrize("name", ["interval", "rectangle", "quads"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_growth_of_blocks(name):
    """1 where there is no mass; the mass that each cell sends adds up to what arrives."""
    mesh = MESHES[name]()
    low, high = mesh.bounds
    x = (mesh.centroid[0] - low[0]) / (high[0] - low[0])
    rho0 = np.where(np.abs(x - 0.3) < 0.15, 1.0, 0.0)
    rho1 = np.where(np.abs(x - 0.6) < 0.2, 2.0, 0.0)
    path = solved(mesh, 8, 0.3 * (high[0] - low[0]), rho0, rho1, tol=3e-3)
    growth = path.growth_map()
    assert (growth[rho0 == 0] == 1).all()
    assert growth.max(initial=0) < 20
    assert mesh.integrate(rho0 * growth) == pytest.approx(path.mass[-1], rel=0.2)


def test_partial_transport_has_no_growth_map():
    mesh = Mesh.interval(0, 1, 16)
    rho = gaussian(mesh, 0.4, 0.1)
    path = solved(mesh, 4, TotalVariation(0.1), rho, 2 * rho)
    with pytest.raises(InputError, match=r"growth_map is for fvot\.FisherRao.*\.source has"):
        path.growth_map()


def test_paths_are_written_and_drawn(tmp_path, ranks):
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho0 = gaussian(mesh, (0.3, 0.4), 0.15)
    path = solved(mesh, 4, 0.3, rho0, gaussian(mesh, (0.6, 0.6), 0.2, 2.0))
    folder = ranks.broadcast(tmp_path)
    assert list(path.fields)[:3] == ["density", "velocity", "source"]
    assert path.fields["source"].shape == path.rho.shape
    path.write(folder / "path.pvd")
    path.plot(folder / "path.png", time=[0, 3, 5])
    path.movie(folder / "path.gif")
    assert "WFR^2" in repr(path)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0, -1, np.nan, np.inf, "wide", None, [1.0]])
def test_lengths_that_are_none(delta):
    with pytest.raises(InputError, match="delta must be a positive length"):
        FisherRao(delta)


@pytest.mark.parametrize("kappa", [0, -1, np.nan, "much"])
def test_costs_that_are_none(kappa):
    with pytest.raises(InputError, match="kappa must be a positive number"):
        TotalVariation(kappa)


def test_what_is_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho = gaussian(mesh, (0.4, 0.5), 0.2)
    with pytest.raises(InputError, match=r"growth must be fvot\.FisherRao"):
        BenamouBrenier(mesh, growth=0.3)
    with pytest.raises(InputError, match="exclude each other"):
        BenamouBrenier(mesh, growth=FisherRao(0.3), terminal=Entropy())
    with pytest.raises(InputError, match="exclude each other"):
        BenamouBrenier(mesh, growth=FisherRao(0.3)).with_terminal(Entropy())
    with pytest.raises(InputError, match="nothing would move"):
        BenamouBrenier(mesh, growth=FisherRao(1e-3))
    with pytest.raises(InputError, match="only masses count"):
        BenamouBrenier(mesh, growth=FisherRao(1e3))
    with pytest.raises(InputError, match="nothing would move"):
        BenamouBrenier(mesh, growth=FisherRao(0.3 / 8))  # 0.94 cells
    with pytest.raises(InputError, match="kappa = .* nothing would move"):
        BenamouBrenier(mesh, growth=TotalVariation(0.24 / 64))
    with pytest.raises(InputError, match="the square of the size of the domain, 1:"):
        BenamouBrenier(mesh, growth=TotalVariation(1.05))
    with pytest.raises(InputError, match="zero everywhere: there is nothing"):
        BenamouBrenier(mesh, growth=FisherRao(0.3)).solve(0 * rho, 0 * rho)
    with pytest.raises(InputError, match=r"growth=fvot\.FisherRao\(delta\)\) takes any masses"):
        BenamouBrenier(mesh).solve(rho, 2 * rho)
    with pytest.raises(InputError, match="growth=fvot"):
        BenamouBrenier(mesh).solve(rho, 0 * rho)
