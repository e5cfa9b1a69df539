"""Schroedinger bridges: exact answers, the equations that they solve, and independent methods."""

import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import ConvergenceError, FokkerPlanck, InputError, Mesh, SchroedingerBridge, static
from fvot.bridge import fitting
from fvot.bridge import kernel as kernels
from fvot.bridge.anderson import Anderson
from fvot.bridge.sweeps import build_kernels
from fvot.fokker_planck.reference import build_reference

pytestmark = pytest.mark.ranks

KINDS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 8),
    "rectangle": lambda: Mesh.rectangle((0, 0), (1, 1), (12, 9)),
    "torus": lambda: Mesh.rectangle((0, 0), (1, 1), (8, 8), periodic=True),
    "voronoi": lambda: Mesh.voronoi((0, 0), (1, 1), 100),
    "box": lambda: Mesh.box((0, 0, 0), (1, 1, 1), (5, 4, 4)),
}

REFERENCES = {
    "noise": dict(),
    "varying noise": dict(diffusion=lambda x: 0.1 + 0.05 * np.sin(3 * x[0])),
    "potential": dict(potential=lambda x: np.cos(2 * np.pi * x[0]) / 10),
    "drift": dict(drift=lambda x: np.sin(2 * np.pi * x + np.arange(len(x))[:, None])),
    "killing": dict(growth=lambda x: -1 - np.cos(2 * np.pi * x[0])),
    "birth": dict(growth=lambda x: np.cos(2 * np.pi * x[0])),
    "in time": dict(growth=lambda x, t: -t * x[0], drift=lambda x, t: np.cos(x + 2 * t)),
    "order 1": dict(order=1),
}


def find_continuity_error(bridge):
    """The largest error of the continuity equation in a cell, in units of the mass of rho[0]."""
    mesh = bridge.mesh
    deaths = np.zeros((len(bridge.flux), 1)) if bridge.deaths is None else bridge.deaths
    errors = []
    for n, flux in enumerate(bridge.flux):
        tau = bridge.t[n + 1] - bridge.t[n]
        change = bridge.rho[n + 1] - bridge.rho[n] + tau * mesh.divergence(flux)
        errors.append(np.abs(mesh.volume * change + deaths[n]).max())
    return mesh.ranks.max(max(errors)) / mesh.integrate(bridge.rho[0])


def make_ends(mesh):
    """Two smooth densities with full support."""
    rho0 = mesh.density(lambda x: 1 + 0.8 * np.cos(2 * np.pi * x[0]))
    rho1 = mesh.density(lambda x: 1.2 + np.sin(2 * np.pi * x[-1]))
    return rho0, rho1


def make_gaussian(mesh, mean, width):
    mean = np.reshape(mean, (-1, 1))
    return mesh.density(lambda x: np.exp(-((x - mean) ** 2).sum(axis=0) / (2 * width**2)))


# ---- exact answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dim, n, exact, bound",
    [
        (1, 64, 0.0128246823046, 2.5e-6),
        (1, 128, 0.0128246823046, 6e-7),
        (2, 32, 0.00785006841384, 6e-6),
        pytest.param(2, 64, 0.00785006841384, 1.2e-6, marks=pytest.mark.long),
    ],
)
def test_bridge_in_a_box(dim, n, exact, bound):
    """f, g = 1 +- .8 cos: the heat kernel of the box is known."""
    mesh = Mesh.interval(0, 1, n) if dim == 1 else Mesh.rectangle((0, 0), (1, 1), (n, n))
    decay = np.exp(-0.05 * dim * np.pi**2)

    def wave(x):
        return 0.8 * np.cos(np.pi * x).prod(axis=0)

    rho0 = (1 + wave(mesh.center)) * (1 - decay * wave(mesh.center))
    rho1 = (1 + decay * wave(mesh.center)) * (1 - wave(mesh.center))
    equation = FokkerPlanck(mesh, diffusion=0.05)
    bridge = SchroedingerBridge(equation, tol=1e-12).solve(rho0, rho1)
    assert abs(bridge.action - exact) < bound
    assert find_continuity_error(bridge) < 1e-14


def find_gaussian_action(shift, width0, width1, eps):
    """That between Gaussians in the plane of these standard deviations."""
    product = (width0 * width1) ** 2
    s = np.sqrt(4 * product + eps**2)
    squares = np.dot(shift, shift) + 2 * width0**2 + 2 * width1**2 - 2 * s
    return squares / 2 + eps * np.log((eps + s) / (2 * np.sqrt(product)))


@pytest.mark.long
def test_sweeps_remove_the_error_of_small_noise():
    """Gaussians: the plain chain is 1.1 % wrong, the tilted ones are less than 1e-3."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (64, 64))
    rho0 = make_gaussian(mesh, (0.35, 0.4), 0.06)
    rho1 = make_gaussian(mesh, (0.65, 0.6), 0.09)
    exact = find_gaussian_action((0.3, 0.2), 0.06, 0.09, 0.01)
    equation = FokkerPlanck(mesh, diffusion=0.005)
    errors = []
    for sweeps in range(2):
        bridge = SchroedingerBridge(equation, sweeps=sweeps).solve(rho0, rho1)
        errors.append(bridge.action / exact - 1)
        assert find_continuity_error(bridge) < 1e-14
    assert -1.4e-2 < errors[0] < -0.8e-2
    assert abs(errors[1]) < 8e-4


@pytest.mark.slow
@pytest.mark.parametrize("n, eps, sweeps, bound", [(256, 0.01, 1, 2e-4), (128, 0.003, 3, 3.5e-4)])
def test_gaussians_on_fine_meshes(n, eps, sweeps, bound):
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
    rho0 = make_gaussian(mesh, (0.35, 0.4), 0.06)
    rho1 = make_gaussian(mesh, (0.65, 0.6), 0.09)
    exact = find_gaussian_action((0.3, 0.2), 0.06, 0.09, eps)
    equation = FokkerPlanck(mesh, diffusion=eps / 2)
    bridge = SchroedingerBridge(equation, sweeps=sweeps).solve(rho0, rho1)
    assert abs(bridge.action / exact - 1) < bound


def test_diffusion_alone_costs_nothing():
    """From rho0 to where the equation leads it g is constant, whatever the drift: KL is H(rho0)."""
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    equation = FokkerPlanck(mesh, diffusion=0.05, drift=lambda x: np.stack([x[1], -x[0]]))
    rho0, _ = make_ends(mesh)
    rho1 = equation.solve(rho0, [0, 1], tau=1 / 8).rho[-1]
    bridge = SchroedingerBridge(equation, 8, tol=1e-13).solve(rho0, rho1)
    assert_allclose(bridge.backward, bridge.backward[0, 0], rtol=1e-9)
    entropy = mesh.integrate(rho0 * np.log(rho0))
    assert abs(bridge.cost - 0.1 * entropy) < 1e-13
    gap = np.abs(bridge.drift(0.4) - np.stack([mesh.center[1], -mesh.center[0]]))
    assert mesh.ranks.max(gap.max(initial=0.0)) < 0.05


# ---- the equations of a bridge -------------------------------------------------------------------


@pytest.mark.parametrize("options", REFERENCES.values(), ids=REFERENCES)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_bridges_against_any_reference(make, options):
    """The potentials solve their equations, mass moves by the fluxes, the bounds hold."""
    mesh = make()
    equation = FokkerPlanck(mesh, **dict(diffusion=0.1, scheme="two_point") | options)
    rho0, rho1 = make_ends(mesh)
    bridge = SchroedingerBridge(equation, 6, tol=1e-12).solve(rho0, rho1)
    assert bridge.marginal_error < 2e-12
    assert_allclose(bridge.rho[0], rho0, rtol=1e-13)
    assert_allclose(bridge.rho[-1], rho1, rtol=1e-9)
    assert_allclose(bridge.rho, bridge.forward * bridge.backward, rtol=1e-13)
    assert bridge.rho.min() > 0
    assert find_continuity_error(bridge) < 1e-14
    assert_allclose(mesh.integrate(bridge.rho), 1, rtol=1e-13)
    assert np.all(bridge.flux[:, mesh.n_inner :] == 0)
    slack = 1e-13 * max(1.0, abs(bridge.cost))
    assert bridge.lower_bound <= bridge.cost + slack
    assert bridge.cost <= bridge.upper_bound + slack
    assert bridge.upper_bound - bridge.lower_bound < 1e-9
    has_action = not {"diffusion", "growth", "drift"} & set(options)
    assert (bridge.action is not None) == has_action


def build_matrix(equation, n_steps, weights, g):
    """(the transition probabilities (n, n) of masses, row to column, in the file's order)."""
    Q = equation.generator(0.0).toarray()
    s = g / n_steps
    r = np.linalg.inv(np.eye(len(Q)) - s * Q)
    step = sum(c * np.linalg.matrix_power(r, k) for k, c in enumerate(weights, start=1))
    return np.linalg.matrix_power(step, n_steps)


@pytest.fixture
def dense_case(ranks):
    """A bridge and the dense matrix of its chain, on one rank."""
    if ranks.size > 1:
        pytest.skip("the dense matrix is built on one rank")
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    equation = FokkerPlanck(
        mesh, diffusion=0.1, drift=lambda x: np.stack([-x[1], x[0]]), growth=lambda x: -x[0]
    )
    g = 1 - np.sqrt(0.5)
    P = build_matrix(equation, 8, [2 - 1 / g, 1 / g - 1], g)
    return mesh, equation, P


def test_the_bridge_is_sinkhorns_plan(dense_case):
    """With the costs -log of the chain's own transition probabilities."""
    mesh, equation, P = dense_case
    rho0, rho1 = make_ends(mesh)
    a = mesh.volume * rho0
    b = mesh.volume * rho1
    plan = static.sinkhorn(
        mesh.center, a, mesh.center, b, 1.0, -np.log(P / mesh.volume), tol=1e-13, debias=False
    )
    bridge = SchroedingerBridge(equation, 8, tol=1e-13).solve(rho0, rho1)
    relative = np.sum(plan.matrix * np.log(plan.matrix / (mesh.volume[:, None] * P)))
    assert abs(bridge.cost - 0.2 * relative) < 1e-12
    pairs = np.outer(mesh.volume * bridge.forward[0], bridge.backward[-1]) * P
    assert_allclose(pairs, plan.matrix, rtol=1e-9)


def test_bounds_hold_for_loose_potentials(dense_case):
    """Between them lies the cost of the converged bridge; both come nearer with the tolerance."""
    mesh, equation, _ = dense_case
    rho0 = make_gaussian(mesh, (0.2, 0.3), 0.2)
    rho1 = make_gaussian(mesh, (0.8, 0.7), 0.1)
    exact = SchroedingerBridge(equation, 8, tol=1e-13).solve(rho0, rho1).cost
    gaps = []
    for tol in (0.5, 1e-2, 1e-4):
        bridge = SchroedingerBridge(equation, 8, tol=tol).solve(rho0, rho1)
        assert bridge.marginal_error > 0
        assert bridge.lower_bound <= exact + 1e-14
        assert bridge.upper_bound >= exact - 1e-14
        gaps.append(bridge.upper_bound - bridge.lower_bound)
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("limit", [0, 10**6])
def test_small_transition_probabilities_have_all_digits(limit, monkeypatch):
    """Forwards and backwards, by the factorisation of each rank and by that which ranks share: the
    heat kernel is symmetric, in its points and in both axes, to the last digits of 1e-40.
    """
    monkeypatch.setattr(kernels, "ONE_RANK_CELL_LIMIT", limit)
    mesh = Mesh.rectangle((0, 0), (1, 1), (32, 32))
    reference = build_reference(FokkerPlanck(mesh, diffusion=5e-5))
    kernel, *_ = build_kernels(reference, np.array([0.0, 1.0]), 8, False)
    inner = reference.mesh
    start = (inner.cell_id[: inner.n_cells] == 0).astype(float)
    f, g = start, start
    for n in range(8):
        f, _ = kernel.forward(n, f)
        g = kernel.backward(n, g, 0.0)
    f = inner.gather(f)
    assert_allclose(inner.gather(g), f, rtol=1e-12)
    kernel.destroy()

    assert 0 < f.min() < 1e-40
    assert_allclose(f.reshape(32, 32), f.reshape(32, 32).T, rtol=1e-12)


def test_transition_probabilities_are_those_of_rational_arithmetic(ranks):
    """On an interval, by elimination with fractions: 1e-15 relative, down to 1e-70."""
    n = 10
    mesh = Mesh.interval(0, 10, n)
    kernel, *_ = build_kernels(
        build_reference(FokkerPlanck(mesh, diffusion=1e-6, order=1)), np.array([0.0, 1.0]), 4, False
    )
    inner = kernel.steps[0].mesh
    f = (inner.cell_id[: inner.n_cells] == 0).astype(float)
    exact = [Fraction(int(cell == 0)) for cell in range(n)]
    s = Fraction(1e-6) / 4  # the coefficient of all faces is the diffusion
    for step in range(4):
        f, _ = kernel.forward(step, f)
        exact = solve_by_fractions(exact, s)
    assert 0 < exact[-1] < 1e-50
    assert_allclose(inner.gather(f), [float(value) for value in exact], rtol=1e-14)


def solve_by_fractions(rhs, s):
    """u with u_K + s sum over neighbours of (u_K - u_L) = rhs, on a row of cells."""
    n = len(rhs)
    diagonal = [1 + s * (2 - (k in (0, n - 1))) for k in range(n)]
    rhs = list(rhs)
    for k in range(1, n):
        factor = s / diagonal[k - 1]
        diagonal[k] -= factor * s
        rhs[k] += factor * rhs[k - 1]
    u = [rhs[-1] / diagonal[-1]]
    for k in reversed(range(n - 1)):
        u.insert(0, (rhs[k] + s * u[0]) / diagonal[k])
    return u


def test_fluxes_of_the_positive_partner_are_exact(monkeypatch):
    """Also where steps at both ends are those of the partner, which has other weights."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (24, 24))
    rho0 = mesh.density(lambda x: np.maximum(*x) < 1 / 24)
    rho1 = mesh.density(lambda x: np.minimum(*x) > 23 / 24)
    used = []
    original = kernels.Kernel.use_more_positive_steps

    def record(kernel):
        original(kernel)
        used.append(kernel.n_positive)

    monkeypatch.setattr(kernels.Kernel, "use_more_positive_steps", record)
    equation = FokkerPlanck(mesh, diffusion=0.5)
    bridge = SchroedingerBridge(equation, 8, tol=1e-11).solve(rho0, rho1)
    assert used, "the case has to make negative values"
    assert bridge.rho.min() >= 0
    assert find_continuity_error(bridge) < 1e-14
    assert_allclose(mesh.integrate(bridge.rho), 1, rtol=1e-13)


def test_factorisations_need_not_be_kept(monkeypatch):
    """Where they would take too much memory each is made for its use: the same numbers."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho0, rho1 = make_ends(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.1, growth=lambda x, t: -t * x[0])
    kept = SchroedingerBridge(equation, 4).solve(rho0, rho1)
    monkeypatch.setattr(kernels, "KEPT_FACTORISATIONS", {2: 0})
    made = SchroedingerBridge(equation, 4).solve(rho0, rho1)
    assert_allclose(made.rho, kept.rho, rtol=1e-12)


# ---- sweeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", REFERENCES.values(), ids=REFERENCES)
def test_sweeps_change_smooth_bridges_by_the_error_of_the_mesh(options):
    """Cost, bounds and fluxes are those of the same problem against a tilted reference, whose error
    falls with h and tau.
    """
    differences = []
    for n in (32, 64):
        mesh = Mesh.interval(0, 1, n)
        equation = FokkerPlanck(mesh, **dict(diffusion=0.1) | options)
        rho0 = mesh.density(lambda x: 1 + 0.8 * np.cos(np.pi * x[0]))
        rho1 = mesh.density(lambda x: 1 - 0.8 * np.cos(np.pi * x[0]))
        plain = SchroedingerBridge(equation, n, tol=1e-11).solve(rho0, rho1)
        tilted = SchroedingerBridge(equation, n, tol=1e-11, sweeps=1).solve(rho0, rho1)
        assert find_continuity_error(tilted) < 1e-14
        assert tilted.lower_bound <= tilted.cost + 1e-13 <= tilted.upper_bound + 2e-13
        assert_allclose(tilted.rho, tilted.forward * tilted.backward, rtol=1e-12)
        differences.append(abs(tilted.cost - plain.cost))
    factor = 1.3 if options.get("order") == 1 else 1.8
    assert differences[1] < differences[0] / factor + 1e-12
    assert differences[0] < 2e-2 * abs(plain.cost) + 1e-3


@pytest.mark.parametrize("background", [0.0, 0.2])
def test_sweeps_towards_jumps(background):
    """Where log g jumps, or is infinite, sweeps leave a bridge as it is that needs none."""
    mesh = Mesh.interval(0, 1, 64)
    rho0 = mesh.density(lambda x: (np.abs(x[0] - 0.3) < 0.1) + background)
    rho1 = mesh.density(lambda x: (np.abs(x[0] - 0.7) < 0.1) + background)
    equation = FokkerPlanck(mesh, diffusion=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = SchroedingerBridge(equation).solve(rho0, rho1)
        tilted = SchroedingerBridge(equation, sweeps=2).solve(rho0, rho1)
    assert abs(tilted.action / plain.action - 1) < 3e-3
    assert tilted.rho.min() >= 0


def test_coarse_bridges_say_so():
    mesh = Mesh.interval(0, 1, 32)
    rho0 = make_gaussian(mesh, 0.2, 0.05)
    rho1 = make_gaussian(mesh, 0.8, 0.05)
    equation = FokkerPlanck(mesh, diffusion=0.005)
    if mesh.ranks.is_root:
        with pytest.warns(UserWarning, match="resolution h .v. / eps is 1.*sweeps=2"):
            bridge = SchroedingerBridge(equation).solve(rho0, rho1)
    else:
        bridge = SchroedingerBridge(equation).solve(rho0, rho1)
    # h |v| / eps of the translation; the chain's own is a little less
    assert 0.7 < bridge.resolution / (0.6 / 32 / 0.01) < 1.05


# ---- deaths, open boundaries, snapshots ----------------------------------------------------------


@pytest.mark.parametrize("sweeps", [0, 1])
def test_deaths(sweeps):
    mesh = Mesh.rectangle((0, 0), (1, 1), (12, 12))
    rho0, rho1 = make_ends(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.05, growth=lambda x: -1 - x[0])
    solver = SchroedingerBridge(equation, 8, tol=1e-13, deaths=True, sweeps=sweeps)
    bridge = solver.solve(rho0, 0.6 * rho1)
    assert abs(mesh.ranks.sum(bridge.deaths.sum()) - 0.4) < 1e-13
    assert bridge.deaths.min() >= 0
    assert find_continuity_error(bridge) < 1e-14
    assert bridge.action is None
    assert bridge.lower_bound <= bridge.cost + 1e-14 <= bridge.upper_bound + 2e-14


def test_deaths_as_the_reference_has_them():
    """Where the equation itself leads rho0 to rho1 with its deaths, the bridge is its run."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    equation = FokkerPlanck(
        mesh, diffusion=0.05, growth=lambda x: -x[0], boundary={"right": fvot.dirichlet(0)}
    )
    rho0, _ = make_ends(mesh)
    result = equation.solve(rho0, np.linspace(0, 1, 9), tau=1 / 8)
    assert result.ledger["limited"][-1] == 0
    solver = SchroedingerBridge(equation, 8, tol=1e-13, deaths=True)
    bridge = solver.solve(rho0, result.rho[-1])
    assert_allclose(bridge.rho, result.rho, rtol=1e-9)
    deaths = mesh.ranks.sum(bridge.deaths.sum())
    left = mesh.ranks.sum(bridge.flux[:, mesh.n_inner :].sum()) / 8
    assert abs(deaths - result.ledger["killed"][-1]) < 1e-10
    assert abs(left - result.ledger["outflow"][-1]) < 1e-10
    assert find_continuity_error(bridge) < 1e-14


def test_survivors_of_an_open_boundary():
    mesh = Mesh.rectangle((0, 0), (1, 1), (10, 10))
    boundary = {"left": fvot.dirichlet(0), "top": fvot.robin(0.3)}
    equation = FokkerPlanck(mesh, diffusion=0.05, boundary=boundary)
    rho0, rho1 = make_ends(mesh)
    bridge = SchroedingerBridge(equation, 8, tol=1e-12).solve(rho0, rho1)
    assert find_continuity_error(bridge) < 1e-14
    assert_allclose(mesh.integrate(bridge.rho), 1, rtol=1e-13)


def test_snapshots():
    """Through densities of a bridge, at its times, the bridge is the same; and costs add up."""
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    equation = FokkerPlanck(mesh, diffusion=0.1, drift=lambda x: np.stack([x[1], -x[0]]))
    rho0, rho1 = make_ends(mesh)
    whole = SchroedingerBridge(equation, 8, tol=1e-13).solve(rho0, rho1)
    through = [rho0, whole.rho[4], rho1]
    parts = SchroedingerBridge(equation, 4, tol=1e-12).solve(through, [0, 0.5, 1])
    assert_allclose(parts.t, whole.t, rtol=1e-14)
    assert_allclose(parts.rho, whole.rho, rtol=1e-8)
    assert abs(parts.cost - whole.cost) < 1e-12
    assert abs(parts.action - whole.action) < 1e-12

    other = mesh.density(lambda x: 1 + x[1] / 2)
    rho1 = mesh.density(lambda x: 2 - x[0])
    rho0 = mesh.density(lambda x: 1 + x[0])
    solver = SchroedingerBridge(equation, 4, tol=1e-12)
    bridge = solver.solve([rho0, other, rho1], [0, 0.5, 2])
    first = solver.solve(rho0, other, [0, 0.5])
    second = solver.solve(other, rho1, [0.5, 2])
    assert abs(bridge.action - first.action - second.action) < 1e-10
    assert_allclose(bridge.rho[:5], first.rho, rtol=1e-8)
    assert_allclose(bridge.rho[4:], second.rho, rtol=1e-8)
    assert find_continuity_error(bridge) < 1e-14
    assert bridge.lower_bound <= bridge.cost + 1e-13 <= bridge.upper_bound + 2e-13
    swept = SchroedingerBridge(equation, 4, tol=1e-12, sweeps=1)
    assert abs(swept.solve([rho0, other, rho1], [0, 0.5, 2]).action / bridge.action - 1) < 0.05


# ---- results -------------------------------------------------------------------------------------


def test_results(tmp_path, ranks):
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho0, rho1 = make_ends(mesh)
    bridge = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.1), 4).solve(rho0, rho1)
    assert bridge.velocity.shape == (5, 2, mesh.n_cells)
    assert_allclose(bridge.at(0.125), (bridge.rho[0] + bridge.rho[1]) / 2, rtol=1e-14)
    assert bridge.drift(0.3).shape == (2, mesh.n_cells)
    assert bridge.probe([[0.5], [0.5]]).shape == (5, 1)
    assert bridge.velocity_at([[0.5], [0.5]], 0.3).shape == (2, 1)
    if ranks.size == 1:
        bridge.write(tmp_path / "bridge.pvd")
        copy = pickle.loads(pickle.dumps(bridge))
        assert_allclose(copy.drift(0.3), bridge.drift(0.3), rtol=1e-14)
    with pytest.raises(InputError, match="t must be a time between 0 and 1"):
        bridge.at(2)
    assert "cost" in repr(bridge)


def test_a_picture(gl, shared_folder):
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    bridge = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.1), 4).solve(*make_ends(mesh))
    bridge.plot(shared_folder / "bridge.png", width=200)
    assert (shared_folder / "bridge.png").exists()


def test_particles_with_the_drift_follow_the_bridge(ranks):
    """The mean of particles that follow the drift of the bridge, with its noise."""
    if ranks.size > 1:
        pytest.skip("particles live on one rank")
    mesh = Mesh.interval(-2, 2, 100)
    rho0 = make_gaussian(mesh, -0.5, 0.2)
    rho1 = make_gaussian(mesh, 0.7, 0.3)
    bridge = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.1), 32).solve(rho0, rho1)
    rng = np.random.default_rng(0)
    x = -0.5 + 0.2 * rng.standard_normal(20000)
    tau = 1 / 64
    for n in range(64):
        drift = bridge.drift((n + 0.5) * tau)[0]
        x = x + tau * np.interp(x, mesh.center[0], drift)
        x += np.sqrt(0.2 * tau) * rng.standard_normal(len(x))
    assert abs(x.mean() - 0.7) < 0.01
    assert abs(x.std() - 0.3) < 0.01


# ---- what is refused -----------------------------------------------------------------------------


def test_equations_without_a_chain_are_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    rho = np.ones(mesh.n_cells)
    for options, message in [
        (dict(scheme="corners"), "fluxes to corners"),
        (dict(order=3), "order=3 has negative transition probabilities"),
        (dict(source=1.0), "what a source adds has no past"),
        (dict(flux=fvot.limited()), "which is not linear"),
    ]:
        with pytest.raises(InputError, match=message):
            SchroedingerBridge(FokkerPlanck(mesh, diffusion=1.0, **options))
    with pytest.raises(InputError, match="needs an equation"):
        SchroedingerBridge(mesh)
    open_equation = FokkerPlanck(mesh, diffusion=1.0, boundary={"left": fvot.dirichlet(1.0)})
    with pytest.raises(InputError, match="what enters through the boundary has no past"):
        SchroedingerBridge(open_equation).solve(rho, rho)
    absorbing = FokkerPlanck(mesh, diffusion=1.0, boundary={"left": fvot.dirichlet(0.0)})
    with pytest.raises(InputError, match="sweeps=1 needs closed walls"):
        SchroedingerBridge(absorbing, sweeps=1)
    growing = FokkerPlanck(mesh, diffusion=1.0, growth=100.0)
    with pytest.raises(InputError, match="take n_steps=59 or more"):
        SchroedingerBridge(growing).solve(rho, rho)


def test_growth_that_becomes_too_fast_is_refused():
    mesh = Mesh.interval(0, 1, 8)
    rho = np.ones(mesh.n_cells)
    equation = FokkerPlanck(mesh, diffusion=1.0, growth=lambda x, t: 50 * t + 0 * x[0])
    with pytest.raises(InputError, match="take n_steps=2[0-9] or more"):
        SchroedingerBridge(equation, 8).solve(rho, rho)


def test_nothing_moves_between_pieces():
    mesh = Mesh.rectangle((0, 0), (1, 1), (10, 4)).without(lambda x: np.abs(x[0] - 0.5) < 0.1)
    solver = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.1), 4)
    rho0 = mesh.density(lambda x: 1 + (x[0] < 0.5))
    rho1 = mesh.density(lambda x: 1 + (x[0] > 0.5))
    with pytest.raises(InputError, match="2 pieces that do not touch"):
        solver.solve(rho0, rho1)
    bridge = solver.solve(rho0, rho0)
    assert find_continuity_error(bridge) < 1e-14
    assert_allclose(bridge.rho[-1], rho0, rtol=1e-8)


def test_lists_of_numbers_are_densities(ranks):
    mesh = Mesh.interval(0, 1, 3)
    if ranks.size > 1:
        pytest.skip("three cells are for one rank")
    solver = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.1), 2)
    bridge = solver.solve([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    assert_allclose(bridge.rho[0], [1, 2, 3], rtol=1e-14)
    both = solver.solve(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), [0, 1])
    assert_allclose(both.rho, bridge.rho, rtol=1e-14)


def test_bad_input():
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    rho = np.ones(mesh.n_cells)
    equation = FokkerPlanck(mesh, diffusion=1.0)
    for options, message in [
        (dict(n_steps=0), "n_steps must be"),
        (dict(tol=0), "tol must lie between"),
        (dict(sweeps=-1), "sweeps must be"),
        (dict(deaths=1), "deaths must be True or False"),
    ]:
        with pytest.raises(InputError, match=message):
            SchroedingerBridge(equation, **options)

    solver = SchroedingerBridge(equation, 2)
    for arguments, message in [
        ((rho, 2 * rho), "density 1 has mass 2, density 0 has 1"),
        ((rho, -rho), "rho1 is -1"),
        ((rho, 0 * rho), "density 1 is zero everywhere"),
        ((rho,), "needs two densities"),
        (([rho, rho, rho],), "need as many times"),
        (([rho, rho, rho], [0, 1]), "each needs one"),
        (([rho, rho], [1, 0]), "increasing times"),
    ]:
        with pytest.raises(InputError, match=message):
            solver.solve(*arguments)

    dying = SchroedingerBridge(equation, 2, deaths=True)
    with pytest.raises(InputError, match="needs an equation in which mass is lost"):
        dying.solve(rho, 0.5 * rho)
    with pytest.raises(InputError, match="exchange both densities"):
        dying.solve(0.5 * rho, rho)
    with pytest.raises(InputError, match="is for two densities"):
        dying.solve([rho, rho, rho], [0, 1, 2])


def test_what_has_not_converged_is_in_the_error(monkeypatch):
    monkeypatch.setattr(fitting, "MAX_FITTING_SWEEPS", 2)
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rho0, rho1 = make_ends(mesh)
    solver = SchroedingerBridge(FokkerPlanck(mesh, diffusion=0.05), 4)
    with pytest.raises(ConvergenceError, match="in 2 iterations: take a larger") as caught:
        solver.solve(rho0, rho1)
    assert 1e-9 < caught.value.result.marginal_error < 1
    assert find_continuity_error(caught.value.result) < 1e-14


def test_no_deaths_where_both_masses_are_the_same():
    mesh = Mesh.interval(0, 1, 20)
    rho0, rho1 = make_ends(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.1, growth=-1.0)
    dying = SchroedingerBridge(equation, 4, deaths=True).solve(rho0, rho1)
    living = SchroedingerBridge(equation, 4).solve(rho0, rho1)
    assert dying.deaths is None
    assert_allclose(dying.rho, living.rho, rtol=1e-12)


def test_underflow_is_said():
    mesh = Mesh.interval(0, 1, 400)
    equation = FokkerPlanck(mesh, diffusion=1e-9)
    rho0 = mesh.density(lambda x: x[0] < 0.1)
    rho1 = mesh.density(lambda x: x[0] > 0.9)
    with pytest.raises(ConvergenceError, match="beyond the range of floating point"):
        SchroedingerBridge(equation, 4).solve(rho0, rho1)


def test_anderson_solves_linear_equations(ranks):
    """As GMRES does: in as many steps as there are unknowns, and one."""
    rng = np.random.default_rng(0)
    A = rng.uniform(-0.4, 0.4, (5, 5))
    b = rng.uniform(-1, 1, 5)
    exact = np.linalg.solve(np.eye(5) - A, b)
    method = Anderson(ranks, np.ones(5))
    x = np.zeros(5)
    for _ in range(7):
        x = method.find_next(x, A @ x + b - x)
    assert_allclose(x, exact, rtol=1e-9)


def test_there_is_an_action_where_it_has_a_meaning():
    """Not where the drift compresses, mass grows, or leaves."""
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    rho0, rho1 = make_ends(mesh)

    def find_action(**terms):
        equation = FokkerPlanck(mesh, diffusion=0.1, **terms)
        return SchroedingerBridge(equation, 4).solve(rho0, rho1).action

    assert find_action() is not None
    assert find_action(drift=lambda x: np.stack([0.5 - x[1], x[0] - 0.5])) is not None
    assert find_action(potential=lambda x: x[0] ** 2) is not None
    for terms in (
        dict(drift=lambda x: -x),
        dict(growth=-1.0),
        dict(boundary={"left": fvot.dirichlet(0.0)}),
    ):
        assert find_action(**terms) is None
