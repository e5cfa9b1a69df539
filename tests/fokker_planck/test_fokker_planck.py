"""Fokker-Planck: what must hold on every mesh, for every step, on any number of ranks."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose
from scipy.linalg import expm

import fvot
from fvot import ConvergenceError, FokkerPlanck, InputError, Mesh, linalg
from fvot.finite_volume import implicit_step
from fvot.mesh.means import average_over_faces
from fvot.multigrid.solver import Multigrid

pytestmark = pytest.mark.ranks

ORDERS = pytest.mark.parametrize("order", [1, 2, 3])
STEPS = [1e-6, 1e-3, 1.0, 1e3, 1e6]
KINDS = {
    "squares": lambda n, **o: Mesh.rectangle((-2, -2), (2, 2), (n, n), **o),
    "triangles": lambda n, **o: Mesh.triangles((-2, -2), (2, 2), n, **o),
    "polygons": lambda n, **o: Mesh.voronoi((-2, -2), (2, 2), n * n, **o),
    "tetrahedra": lambda n, **o: Mesh.tetrahedra((-2, -2, -2), (2, 2, 2), n // 4, **o),
}
ON_KINDS = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


LARGE = {"harbour", "ball"}
ON_RANKS = {
    "interval",
    "torus",
    "box",
    "triangles",
    "voronoi",
    "tetrahedra",
    "honeycomb",
    "l_shape",
}  # on several ranks


def wells(mesh, barrier):
    """A potential with wells *barrier* deep, periodic over the bounding box of any mesh."""
    lower, upper = mesh.bounds

    def V(x):
        return (
            barrier
            / 2
            / len(x)
            * np.cos(2 * np.pi * (x - lower[:, None]) / (upper - lower)[:, None]).sum(axis=0)
        )

    return V


def double_well(x):
    """Barrier 4 between wells at x = -1 and x = 1."""
    return 4 * (x[0] ** 2 - 1) ** 2 + (x[1:] ** 2).sum(axis=0)


def turning(x):
    """A rotation about the origin in the first two axes."""
    return np.concatenate([[-x[1], x[0]], 0 * x[2:]])


def one_cell(mesh):
    """All mass in the cell that comes first in the file."""
    rho = np.where(mesh.cell_id[: mesh.n_cells] == 0, 1.0, 0.0)
    return rho / mesh.integrate(rho)


def uniform(mesh):
    return np.full(mesh.n_cells, 1 / mesh.integrate(np.ones(mesh.n_cells)))


def gibbs(mesh, V, D):
    phi = V(mesh.center) / D
    rho = np.exp(mesh.ranks.min(phi.min()) - phi)
    return rho / mesh.integrate(rho)


def distance(mesh, rho, other):
    return mesh.integrate(np.abs(rho - other))


def assert_promises(result, closed=True):
    """Mass to round-off, no negative density, and free energy that never grows where there is
    one.
    """
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert result.mesh.ranks.min(result.rho.min()) >= 0
    if closed and "energy" in ledger:
        parts = np.abs(ledger["entropy"]).max() + np.abs(ledger["potential_energy"]).max()
        assert np.diff(ledger["energy"]).max() <= 1e-14 * parts


def dense(mesh, k, U):
    """The matrix of the fluxes of a whole mesh on one rank, from B(x) = x / (e^x - 1), face by
    face.
    """
    A = np.zeros((mesh.n_cells, mesh.n_cells))
    for f in np.flatnonzero(mesh.face_owned[: mesh.n_inner]):  # periodic faces are there twice
        i = mesh.cell_id[mesh.left[f]]
        j = mesh.cell_id[mesh.right[f]]
        x = U[f] / k[f]
        a, b = k[f] * bernoulli(-x), k[f] * bernoulli(x)
        A[i, i] += a
        A[i, j] -= b
        A[j, j] += b
        A[j, i] -= a
    return A


def bernoulli(x):
    return 1.0 if abs(x) < 1e-12 else x / np.expm1(x)


# ---- what theory promises ------------------------------------------------------------------------


@ORDERS
def test_any_step_keeps_mass_sign_and_energy_decay_on_every_mesh(mesh, order):
    solver = FokkerPlanck(mesh, diffusion=1.0, potential=wells(mesh, 400.0), order=order)
    for start in uniform, one_cell:
        for tau in STEPS:
            assert_promises(solver.solve(start(mesh), np.arange(4) * tau, tau=tau))


@ON_KINDS
@pytest.mark.parametrize("method", ["lu", "ilu", "amg", "multigrid"])
def test_every_solver_and_tolerance_keeps_the_promises_or_raises(make, method, monkeypatch):
    """D = 0.01: a barrier of 400 kT."""
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: {method: (1.0, 1.0)})
    mesh = make(16)
    good = 0
    for rtol in 1e-3, 1e-6, 1e-10:
        for drift in None, turning:
            solver = FokkerPlanck(
                mesh, diffusion=0.01, potential=double_well, drift=drift, rtol=rtol
            )
            for tau in STEPS:
                try:
                    assert_promises(solver.solve(uniform(mesh), np.arange(3) * tau, tau=tau))
                    good += 1
                except ConvergenceError as error:
                    assert "no linear solver" in str(error)
    assert good >= (30 if method == "lu" else 24)


@ON_KINDS
@ORDERS
def test_the_gibbs_density_is_a_fixed_point(make, order):
    """Where it is above 1e-12 of its maximum, at a barrier of 400 kT; cell Peclet numbers reach 300
    and more.
    """
    D, mesh = 0.01, make(32)
    solver = FokkerPlanck(mesh, diffusion=D, potential=double_well, order=order)
    rates, _ = solver._stepper.find_coefficients(0.0)
    rho = gibbs(mesh, double_well, D)
    seen = rho > 1e-12 * mesh.ranks.max(rho.max())
    assert 2 <= mesh.ranks.sum(np.count_nonzero(seen))
    for tau in STEPS:
        after = solver.solve(rho, 5 * tau, tau=tau).rho[-1]
        assert_allclose(after[seen], rho[seen], rtol=1e-12)
    assert_allclose(solver.stationary()[seen], rho[seen], rtol=1e-12)


@pytest.mark.parametrize("D", [0.25, 0.01])
def test_the_gibbs_density_stays_for_a_thousand_steps(D):
    mesh = KINDS["squares"](32)
    steps = 1000 if mesh.ranks.size == 1 else 50
    rho = gibbs(mesh, double_well, D)
    seen = rho > 1e-12 * mesh.ranks.max(rho.max())
    result = FokkerPlanck(mesh, diffusion=D, potential=double_well).solve(
        rho, float(steps), tau=1.0
    )
    assert result.ledger["steps"][-1] == steps
    assert_allclose(result.rho[-1][seen], rho[seen], rtol=1e-12)


def test_peclet_numbers_of_these_tests():
    mesh = KINDS["squares"](32)
    n, V = mesh.n_inner, mesh.with_ghosts(double_well(mesh.center))
    assert mesh.ranks.max(np.abs(V[mesh.right[:n]] - V[mesh.left[:n]]).max()) / 0.01 > 300


@pytest.mark.long
def test_long_steps_go_to_the_stationary_density_and_not_back_to_the_start():
    for make in KINDS.values():
        mesh = make(16)
        for order in 1, 2, 3:
            solver = FokkerPlanck(mesh, diffusion=0.5, potential=double_well, order=order)
            for start in uniform, one_cell:
                result = solver.solve(start(mesh), 1e7, tau=1e6)
                assert distance(mesh, result.rho[-1], gibbs(mesh, double_well, 0.5)) < 1e-8


def test_a_solver_that_fails_raises(monkeypatch):
    """A Krylov method that may take one step; one that hands back what it was given; one that loses
    mass.
    """
    mesh = KINDS["triangles"](8)
    solver = FokkerPlanck(mesh, diffusion=0.01, potential=double_well)
    good = linalg.System.__call__
    good_multigrid = Multigrid.solve

    def break_all(spoil):
        """Spoil the solutions of all methods."""
        monkeypatch.setattr(
            linalg.System, "__call__", lambda self, b, rtol: spoil(good(self, b, rtol))
        )
        monkeypatch.setattr(
            Multigrid, "solve", lambda self, b, rtol: spoil(good_multigrid(self, b, rtol))
        )

    for spoil in (
        lambda d: 0 * d,
        lambda d: 0.9 * d,
        lambda d: np.nan * d,
        lambda d: d - 1e-3,
    ):
        break_all(spoil)
        with pytest.raises(
            ConvergenceError, match="no linear solver succeeded with an implicit step"
        ):
            FokkerPlanck(mesh, diffusion=0.01, potential=double_well).solve(
                uniform(mesh), 1.0, tau=0.5
            )
    break_all(lambda d: d)
    assert_promises(solver.solve(uniform(mesh), 1.0, tau=0.5))


def test_options_of_petsc_reach_the_solver():
    mesh = KINDS["squares"](16)
    linalg.set_options(
        [
            "-fvot_fokker_planck_ksp_type",
            "richardson",
            "-fvot_fokker_planck_ksp_max_it",
            "2",
            "-fvot_fokker_planck_pc_type",
            "none",
        ]
    )
    try:
        with pytest.raises(ConvergenceError, match="fvot_fokker_planck_pc_type"):
            FokkerPlanck(mesh, diffusion=0.25, potential=double_well).solve(
                uniform(mesh), 1.0, tau=0.5
            )
    finally:
        for name in "ksp_type", "ksp_max_it", "pc_type":
            linalg.PETSc.Options("fvot_fokker_planck_").delValue(name)


def test_limited_steps_are_exact_in_mass_and_positive():
    """One cell, large steps: the second-order sum is negative, and is limited."""
    for make in KINDS.values():
        mesh = make(16)
        for order in 2, 3:
            result = FokkerPlanck(mesh, diffusion=0.25, potential=double_well, order=order).solve(
                one_cell(mesh), 1.0, tau=0.1
            )
            assert result.ledger["limited"][-1] > 0
            assert_promises(result)


def shuffle_cells(mesh, seed=5):
    """(the cells (n_cells,) in another order, a polygonal mesh of one rank with that order)."""
    order = np.random.default_rng(seed).permutation(mesh.n_cells)
    polygons = np.split(mesh.corners, mesh.start[1:-1])
    cells = [polygons[cell].tolist() for cell in order]
    return order, Mesh.from_cells(
        mesh.points, [("polygon", cells)], center=mesh.center[:, order], comm=MPI.COMM_SELF
    )


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("drift", [0, 1000], ids=["potential", "circling"])
def test_limited_steps_do_not_depend_on_the_order_of_cells(order, drift):
    """What one cell gives is limited by what others give to it: over many ranks, and where the
    fluxes run in circles.
    """

    def V(x):
        return 10 * np.cos(2 * np.pi * x[0])

    def turn(x):
        return drift * np.stack([0.5 - x[1], x[0] - 0.5])

    def solve(mesh):
        solver = FokkerPlanck(
            mesh, diffusion=1.0, potential=V, drift=turn if drift else None, order=order
        )
        result = solver.solve(mesh.density(lambda x: x[0] < 0.4), 0.01, tau=0.01)
        assert result.ledger["limited"][-1] == 1
        assert_promises(result)
        return mesh.gather(result.rho[-1])

    mesh = Mesh.voronoi((0, 0), (1, 1), 800)
    rho = solve(mesh)
    if mesh.ranks.is_root:
        own = Mesh.voronoi((0, 0), (1, 1), 800, comm=MPI.COMM_SELF)
        assert_allclose(solve(own), rho, atol=1e-6)
        cells, shuffled = shuffle_cells(own)
        assert_allclose(solve(shuffled), rho[cells], atol=1e-6)


def test_limiting_costs_no_accuracy_on_fine_meshes():
    """Order 3 overshoots in the tail of a Gaussian: what is limited there must not grow with the
    number of cells.
    """
    errors = []
    for n in 32, 128:
        mesh = Mesh.rectangle((-7, -7), (7, 7), (n, n))
        rho0 = mesh.density(lambda x: np.exp(-2 * ((x[0] - 1.5) ** 2 + (x[1] + 1) ** 2)))
        exact, result = (
            FokkerPlanck(
                mesh, diffusion=1.0, potential=lambda x: (x**2).sum(axis=0) / 2, order=3
            ).solve(rho0, 0.5, tau=tau)
            for tau in (1 / 80, 1 / 10)
        )
        assert result.ledger["limited"][-1] > 0
        errors.append(distance(mesh, result.rho[-1], exact.rho[-1]))
    assert errors[1] < 1.5 * errors[0], errors


# ---- right answers -------------------------------------------------------------------------------


@ORDERS
def test_one_step_is_what_a_dense_matrix_says(mesh, twin, order):
    """rho(tau) = sum c_k (1 + g tau A)^-k rho with A from its definition, by potential and by
    drift.
    """
    V, D, tau = wells(mesh, 3.0), 0.7, 0.01
    k = D * twin.area / twin.distance
    U = -twin.area * twin.gradient(V(twin.center))
    A = dense(twin, k, U) / twin.gather(twin.volume)[:, None]
    solver = FokkerPlanck(mesh, diffusion=D, potential=V, order=order, scheme="two_point")
    s = solver._stepper.scheme
    r = np.linalg.inv(np.eye(len(A)) + s.g * tau * A)
    rho = 3 + np.cos(np.arange(twin.n_cells))
    exact = sum(c * np.linalg.matrix_power(r, i + 1) for i, c in enumerate(s.c)) @ rho
    assert exact.min() > 0
    assert_allclose(mesh.gather(solver.step(mesh.scatter(rho), tau)), exact, rtol=1e-8)


def ornstein_uhlenbeck(dim, turn, D):
    """(matrix B of the drift -B x, t -> density): a Gaussian whose stationary covariance is D."""
    B = np.eye(dim)
    B[0, 1], B[1, 0] = turn, -turn
    mean = np.array([0.4, -0.15, 0.1])[:dim]
    spread = np.diag([0.06, 0.04, 0.05][:dim])

    def density(t):
        decay = expm(-B * t)
        S = decay @ spread @ decay.T + D * (np.eye(dim) - decay @ decay.T)
        inverse = np.linalg.inv(S)
        scale = 1 / np.sqrt(np.linalg.det(2 * np.pi * S))

        def rho(x):
            y = x - (decay @ mean)[:, None]
            return scale * np.exp(-np.einsum("in,ij,jn->n", y, inverse, y) / 2)

        return rho

    return B, density


def by(turn, B):
    """The drift -B x, as a potential where it has one."""
    return (
        dict(drift=lambda x: -B @ x) if turn else dict(potential=lambda x: (x**2).sum(axis=0) / 2)
    )


@pytest.mark.long
@ON_KINDS
@pytest.mark.parametrize("turn", [0, 2])
def test_second_order_in_space(make, turn):
    """At the cell points, against the exact Gaussians of the Ornstein-Uhlenbeck process."""
    errors = []
    cells = []
    for n in (32, 64):
        mesh = make(n)
        D, t = (0.15, 1.0) if mesh.dim == 3 else (0.1, 0.5)
        B, density = ornstein_uhlenbeck(mesh.dim, turn, D)
        result = FokkerPlanck(mesh, diffusion=D, **by(turn, B)).solve(
            mesh.average(density(0)), t, tau=1 / 64
        )
        errors.append(distance(mesh, result.rho[-1], density(t)(mesh.center)))
        cells.append(mesh.n_cells_global)
        assert_promises(result)
    order = np.log(errors[-2] / errors[-1]) / np.log(cells[-1] / cells[-2]) * mesh.dim
    assert order >= 1.9, errors


@pytest.mark.long
@pytest.mark.parametrize("turn", [0, 2])
@ORDERS
def test_order_in_time(turn, order):
    """On one mesh, against 16 times as many steps of order 3; and the estimate of the error is the
    error.
    """
    mesh = KINDS["squares"](32)
    B, density = ornstein_uhlenbeck(2, turn, 0.1)
    rho0 = mesh.average(density(0))
    exact = (
        FokkerPlanck(mesh, diffusion=0.1, order=3, **by(turn, B))
        .solve(rho0, 1.0, tau=1 / 512)
        .rho[-1]
    )
    solver = FokkerPlanck(mesh, diffusion=0.1, order=order, **by(turn, B))
    errors = []
    for n in 16, 32:
        result = solver.solve(rho0, 1.0, tau=1 / n)
        errors.append(distance(mesh, result.rho[-1], exact))
        assert result.ledger["time_error"][-1] == pytest.approx(errors[-1], rel=0.2)
    assert np.log2(errors[0] / errors[1]) >= order - 0.12, errors


def test_second_order_against_the_exact_gaussian_in_space_and_time_together():
    errors = []
    for n in 32, 64:
        mesh = KINDS["squares"](n)
        B, density = ornstein_uhlenbeck(2, 2, 0.1)
        rho = (
            FokkerPlanck(mesh, diffusion=0.1, **by(2, B))
            .solve(mesh.average(density(0)), 1.0, tau=1 / n)
            .rho[-1]
        )
        errors.append(distance(mesh, rho, mesh.average(density(1.0))))
    assert np.log2(errors[0] / errors[1]) >= 1.9, errors


@ORDERS
def test_adaptive_steps_keep_the_tolerance(order):
    mesh = KINDS["triangles"](16)
    B, density = ornstein_uhlenbeck(2, 1, 0.1)
    rho0 = mesh.average(density(0))
    times = [0, 0.1, 0.5, 1.0]
    exact = (
        FokkerPlanck(mesh, diffusion=0.1, order=3, **by(1, B)).solve(rho0, times, tau=1 / 256).rho
    )
    for tol in (1e-2,) if order == 1 else (1e-2, 1e-4):
        result = FokkerPlanck(mesh, diffusion=0.1, order=order, tol=tol, **by(1, B)).solve(
            rho0, times
        )
        errors = np.array(
            [distance(mesh, rho, other) for rho, other in zip(result.rho, exact, strict=True)]
        )
        assert errors.max() <= 1.2 * tol
        assert_allclose(result.ledger["time_error"][1:], errors[1:], rtol=0.5)
        assert_promises(result)
    assert errors[-1] > tol / 100  # and no more steps than it takes


@pytest.mark.long
@pytest.mark.parametrize("order", [2, 3])
def test_order_in_time_with_a_potential_that_moves(order):
    """V = |x - c(t)|^2 / 2: a Gaussian follows; the coefficients of every stage are those of its
    own time.
    """
    mesh = KINDS["squares"](24)

    def V(x, t):
        return ((x[0] - np.sin(3 * t)) ** 2 + (x[1] - 0.5 * np.cos(2 * t)) ** 2) / 2

    rho0 = mesh.density(lambda x: np.exp(-4 * ((x[0] - 0.3) ** 2 + x[1] ** 2)))
    exact = (
        FokkerPlanck(mesh, diffusion=0.2, potential=V, order=3)
        .solve(rho0, 1.0, tau=1 / 256)
        .rho[-1]
    )
    errors = []
    for n in 16, 32:
        result = FokkerPlanck(mesh, diffusion=0.2, potential=V, order=order).solve(
            rho0, 1.0, tau=1 / n
        )
        errors.append(distance(mesh, result.rho[-1], exact))
        assert_promises(result, closed=False)
    assert np.log2(errors[0] / errors[1]) >= order - 0.15, errors


@pytest.mark.long
def test_moving_potential_against_the_exact_mean():
    """m' = -(m - c(t)), c = sin t: m(t) = (sin t - cos t + e^-t) / 2 from 0; long, limited steps
    stay positive.
    """
    mesh = KINDS["squares"](64)
    rho0 = mesh.density(lambda x: np.exp(-10 * (x[0] ** 2 + x[1] ** 2)))
    solver = FokkerPlanck(
        mesh,
        diffusion=0.1,
        potential=lambda x, t: ((x[0] - np.sin(t)) ** 2 + x[1] ** 2) / 2,
        tol=1e-3,
    )
    result = solver.solve(rho0, [0, 0.5, 1.0, 2.0])
    exact = (np.sin(result.t) - np.cos(result.t) + np.exp(-result.t)) / 2
    assert_allclose(mesh.integrate(result.rho * mesh.center[0]), exact, atol=5e-3)
    rough = solver.solve(one_cell(mesh), 20.0, tau=5.0)
    assert rough.ledger["limited"][-1] > 0
    assert_promises(rough, closed=False)


def test_a_rotation_that_turns_back(monkeypatch):
    """Multigrid alone, whose columns are scaled by what an earlier drift has left: it looks again
    where that fails.
    """
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: {"amg": (1.0, 1.0)})
    mesh = KINDS["squares"](32)

    def drift(x, t):
        return -x + 20 * np.cos(t) * turning(x) + 2 * np.sin(t)

    solver = FokkerPlanck(mesh, diffusion=0.02, drift=drift)
    result = solver.solve(uniform(mesh), np.pi, tau=np.pi / 8)
    assert_promises(result, closed=False)
    assert result.ledger["iterations"][-1] < 40 * result.ledger["solves"][-1]


def test_steps_of_all_lengths_share_one_column_scaling(monkeypatch):
    """Multigrid under a drift that is no gradient: a new scaling costs several solves."""
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: {"amg": (1.0, 1.0)})
    scalings = []
    compute_scale = implicit_step._compute_scale

    def count(rates):
        scalings.append(rates)
        return compute_scale(rates)

    monkeypatch.setattr(implicit_step, "_compute_scale", count)
    mesh = KINDS["squares"](16)
    solver = FokkerPlanck(mesh, diffusion=0.1, drift=lambda x: turning(x) - x)
    result = solver.solve(uniform(mesh), 1.0)
    assert result.ledger["steps"][-1] > 10
    assert len(scalings) == 1

    def turning_back(x, t):
        return -x + 20 * np.cos(t) * turning(x)

    solver = FokkerPlanck(mesh, diffusion=0.1, drift=turning_back)
    result = solver.solve(uniform(mesh), 0.1, tau=0.01)
    assert len(scalings) == 2


# ---- boundaries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [1.0, 1e-2, 1e-4, 1e-8])
def test_a_boundary_layer_is_exact_at_the_cell_points(D):
    """-D c'' + c' = 0, c(0) = 1, c(1) = 0: c = (1 - e^((x - 1)/D)) / (1 - e^(-1/D)), uniformly in
    D.
    """
    mesh = Mesh.interval(0, 1, 40)
    solver = FokkerPlanck(
        mesh,
        diffusion=D,
        drift=[1.0],
        boundary={"left": fvot.dirichlet(1.0), "right": fvot.dirichlet(0.0)},
    )
    exact = -np.expm1((mesh.center[0] - 1) / D) / -np.expm1(-1 / D)
    assert_allclose(solver.stationary(), exact, rtol=1e-12)
    lines = Mesh.from_cells(
        np.linspace(0, 1, 31)[None] ** 1.5,
        [("line", np.stack([np.arange(30), np.arange(30) + 1], axis=1))],
        boundary={"left": [[0]], "right": [[30]]},
    )
    solver = FokkerPlanck(
        lines,
        diffusion=D,
        drift=[1.0],
        boundary={"left": fvot.dirichlet(1.0), "right": fvot.dirichlet(0.0)},
    )
    assert_allclose(
        solver.stationary(), -np.expm1((lines.center[0] - 1) / D) / -np.expm1(-1 / D), rtol=1e-12
    )


def test_what_crosses_the_boundary_is_accounted_for(mesh):
    if not mesh.boundary:
        pytest.skip("it has no boundary")
    conditions = [
        fvot.inflow(lambda x, t: 1 + t + 0 * x[0]),
        fvot.outflow,
        fvot.dirichlet(2.0),
        fvot.dirichlet(0.0),
    ]
    boundary = {name: conditions[i % 4] for i, name in enumerate(sorted(mesh.boundary))}
    for order in 1, 2:
        solver = FokkerPlanck(
            mesh, diffusion=0.3, drift=lambda x: np.ones_like(x), boundary=boundary, order=order
        )
        for tau in 1e-3, 1.0, 1e4:
            for start in uniform, one_cell:
                result = solver.solve(start(mesh), np.arange(4) * tau, tau=tau)
                assert_promises(result)
                assert result.ledger["inflow"][-1] > 0


def test_absorbing_walls():
    """rho = sin(pi x) e^(-pi^2 D t) between absorbing walls; the rate at which mass is lost is pi^2
    D.
    """
    D, errors, rates = 0.1, [], []
    walls = {"left": fvot.dirichlet(0.0), "right": fvot.dirichlet(0.0)}
    for n in 20, 40:
        mesh = Mesh.interval(0, 1, n)
        solver = FokkerPlanck(mesh, diffusion=D, boundary=walls)
        result = solver.solve(np.sin(np.pi * mesh.center[0]), 1.0, tau=1 / n)
        errors.append(
            distance(mesh, result.rho[-1], np.sin(np.pi * mesh.center[0]) * np.exp(-(np.pi**2) * D))
        )
        rates.append(abs(solver.relaxation_rates(1)[0] / (np.pi**2 * D) - 1))
        assert_promises(result)
        assert result.ledger["outflow"][-1] == pytest.approx(
            result.ledger["mass"][0] - result.ledger["mass"][-1], rel=1e-12
        )
    assert np.log2(errors[0] / errors[1]) >= 1.9 and np.log2(rates[0] / rates[1]) >= 1.9
    with pytest.raises(InputError, match=r"stationary density is 0; relaxation_rates\(1\)"):
        solver.stationary()
    emptied = solver.solve(np.ones(mesh.n_cells), 1e6, tau=1e5)
    assert emptied.ledger["mass"][-1] < 1e-12 and emptied.ledger["outflow"][-1] == pytest.approx(
        1, rel=1e-14
    )
    assert_promises(emptied)


def test_inflow_lets_in_what_the_drift_carries():
    """An inlet of density 2 and an outlet: the current 2 v everywhere, and the density 2 far from
    the outlet's layer.
    """
    mesh = Mesh.rectangle((0, 0), (1, 1), (16, 4))
    solver = FokkerPlanck(
        mesh,
        diffusion=0.02,
        drift=[0.5, 0.0],
        boundary={"left": fvot.inflow(2.0), "right": fvot.outflow},
    )
    rho = solver.stationary()
    assert_allclose(solver.current(rho)[0], 1.0, rtol=1e-9)
    assert_allclose(rho, 2.0, rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mesh.voronoi((0, 0), (1, 1), 200),
        lambda: Mesh.tetrahedra((0, 0, 0), (1, 1, 1), 3),
        lambda: Mesh.triangles((0, 0), (1, 1), 9),
    ],
    ids=["polygons", "tetrahedra", "triangles"],
)
def test_a_force_along_an_open_boundary_carries_nothing_through_it(make):
    mesh = make()
    solver = FokkerPlanck(
        mesh,
        diffusion=1.0,
        potential=lambda x: -10 * x[1],
        boundary={"left": fvot.outflow, "right": fvot.outflow},
    )
    assert solver.solve(uniform(mesh), 1.0, tau=0.1).ledger["outflow"][-1] < 1e-9


def test_curved_potentials_are_of_second_order_at_an_open_boundary():
    """V = -(x + x^2), inflow 1, outflow: the stationary current is the drift at the inlet, 1."""
    errors = []
    for n in 25, 50:
        mesh = Mesh.interval(0, 1, n)
        solver = FokkerPlanck(
            mesh,
            diffusion=1.0,
            potential=lambda x: -(x[0] + x[0] ** 2),
            boundary={"left": fvot.inflow(1.0), "right": fvot.outflow},
        )
        rho = solver.stationary()
        assert_allclose(solver.current(rho)[0], 1.0, rtol=1e-6)
        errors.append(abs(mesh.integrate(rho) - 0.40869044))  # by quadrature of the exact density
    assert np.log2(errors[0] / errors[1]) > 1.9, errors


def test_a_boundary_that_nothing_crosses_is_a_wall():
    mesh = Mesh.interval(0, 1, 20)
    solver = FokkerPlanck(
        mesh, diffusion=1.0, boundary={"left": fvot.inflow(3.0), "right": fvot.outflow}
    )
    assert_allclose(solver.stationary(), 1.0, rtol=1e-12)
    assert solver.relaxation_rates(1)[0] == pytest.approx(np.pi**2, rel=1e-2)


def test_skewed_meshes_are_warned_of():
    n = 10
    x = np.stack(np.meshgrid(*[np.linspace(0, 1, n + 1)] * 2, indexing="ij")).reshape(2, -1)
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]]).reshape(4, -1).T
    mesh = Mesh.from_cells(x + 0.12 * np.prod(np.sin(2 * np.pi * x), axis=0), [("quad", quads)])
    with (
        pytest.warns(UserWarning, match="does not converge")
        if mesh.ranks.is_root
        else nullcontext()
    ):
        FokkerPlanck(mesh, diffusion=1.0, scheme="two_point")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FokkerPlanck(mesh, diffusion=1.0)


def test_a_wave_on_the_torus():
    """rho = 1 + cos(k.(x - b t)) e^(-D |k|^2 t) / 2, second order in space and time together."""
    errors, k, b, D = [], 2 * np.pi * np.array([1, 2]), np.array([1.0, -0.5]), 0.03

    def density(x, t):
        return 1 + np.cos(k @ (x - b[:, None] * t)) * np.exp(-D * k @ k * t) / 2

    for n in 32, 64:
        mesh = Mesh.rectangle((0, 0), (1, 1), (n, n), periodic=True)
        rho0 = mesh.average(lambda x: density(x, 0))
        rho = FokkerPlanck(mesh, diffusion=D, drift=b).solve(rho0, 0.5, tau=0.5 / n).rho[-1]
        errors.append(distance(mesh, rho, mesh.average(lambda x: density(x, 0.5))))
    assert np.log2(errors[0] / errors[1]) >= 1.9, errors


def test_layers_of_different_diffusion():
    """The harmonic mean: a constant current through two materials is exact, by function and by cell
    values.
    """
    mesh = Mesh.interval(0, 1, 20)
    D = np.where(mesh.center[0] < 0.5, 1.0, 0.01)
    exact = np.where(
        mesh.center[0] < 0.5, 1 - mesh.center[0] / 50.5, (1 - mesh.center[0]) * 100 / 50.5
    )
    for given in D, lambda x: np.where(x[0] < 0.5, 1.0, 0.01):
        solver = FokkerPlanck(
            mesh,
            diffusion=given,
            boundary={"left": fvot.dirichlet(1.0), "right": fvot.dirichlet(0.0)},
        )
        rho = solver.stationary()
        assert_allclose(rho, exact, rtol=1e-10)
        assert_allclose(solver.current(rho)[0], 1 / 50.5, rtol=1e-8)


# ---- stationary densities and rates --------------------------------------------------------------


def test_stationary_density_and_rates_on_every_mesh(mesh, twin):
    """Against the dense matrix: null vector and eigenvalues, with a drift that is no gradient."""
    D, lower = 0.5, mesh.bounds[0][:, None]

    def drift(x):
        return np.stack([np.cos(3 * (x[(i + 1) % len(x)] - lower[0]) + i) for i in range(len(x))])

    if mesh.block is not None and np.any(mesh.block.periodic):
        pytest.skip("the drift of this test is not periodic")
    if mesh.n_cells_global > 600:
        pytest.skip("smaller meshes of its kind have a dense matrix that is quick")
    k, U = (
        D * twin.area / twin.distance,
        twin.area * np.einsum("if,if->f", average_over_faces(twin, drift), twin.normal),
    )
    volume = twin.gather(twin.volume)
    A = dense(twin, k, U) / volume[:, None]
    solver = FokkerPlanck(mesh, diffusion=D, drift=drift, scheme="two_point")
    exact = np.linalg.svd(A * volume[:, None])[2][-1]
    rho = mesh.gather(solver.stationary())
    assert_allclose(rho, exact / (exact @ volume), rtol=1e-7)
    rates = np.atleast_1d(solver.relaxation_rates(3))
    eigenvalues = np.linalg.eigvals(A)
    eigenvalues = eigenvalues[np.argsort(eigenvalues.real)][1:]
    assert_allclose(np.sort(rates.real), np.sort(eigenvalues.real[:3]), rtol=1e-6)


@ON_KINDS
def test_large_meshes_find_the_same_stationary_density_without_elimination(make, monkeypatch):
    mesh = make(16)
    solver = FokkerPlanck(mesh, diffusion=0.25, potential=double_well, drift=turning)
    exact = solver.stationary()
    monkeypatch.setattr(
        "fvot.fokker_planck.stationary.ELIMINATION_CELL_LIMIT", dict.fromkeys((1, 2, 3), 0)
    )
    assert_allclose(solver.stationary(), exact, rtol=1e-6, atol=1e-12 * mesh.ranks.max(exact.max()))


def test_wells_that_are_hardly_ever_left_are_not_guessed(monkeypatch):
    """A drift that is a gradient, given as a drift: elimination has the weights right, long steps
    say that they have not.
    """
    mesh = Mesh.rectangle((-2, -2), (2, 2), (24, 12))

    def drift(x):
        return -np.stack([16 * x[0] * (x[0] ** 2 - 1) + 0.5, 2 * x[1]])

    solver = FokkerPlanck(mesh, diffusion=0.04, drift=drift)
    rho = solver.stationary()
    out, (size, _) = solver._stepper.find_coefficients(0.0)[0].outflow(
        rho, solver._stepper.find_coefficients(0.0)[1]
    )
    assert mesh.ranks.sum(np.abs(out).sum()) <= 1e-13 * mesh.ranks.sum(size)
    monkeypatch.setattr(
        "fvot.fokker_planck.stationary.ELIMINATION_CELL_LIMIT", dict.fromkeys((1, 2, 3), 0)
    )
    with pytest.raises(ConvergenceError, match="hardly ever left"):
        solver.stationary()


@pytest.mark.long
def test_the_slowest_rate_of_a_double_well():
    """64^2 squares: the eigenvalue of the symmetrised matrix by shift-invert Lanczos, computed
    apart with SciPy; and the decay that one sees.
    """
    mesh, D = KINDS["squares"](64), 0.25
    solver = FokkerPlanck(mesh, diffusion=D, potential=double_well, order=3)
    rate = solver.relaxation_rates(1)[0]
    assert rate == pytest.approx(8.0617687e-7, rel=1e-7)
    left = np.where(mesh.center[0] < 0, gibbs(mesh, double_well, D), 0.0)
    t = np.array([0, 0.5, 1.0, 1.5]) / rate
    result = solver.solve(left / mesh.integrate(left), t, tau=0.02 / rate)
    excess = mesh.integrate(result.rho * (mesh.center[0] < 0)) - 0.5
    assert_allclose(-np.diff(np.log(excess[1:])) / np.diff(t[1:]), rate, rtol=1e-5)


def test_cell_means_of_gibbs_are_exact_with_a_cell_mean_potential():
    for make in KINDS.values():
        mesh = make(16)
        rho = FokkerPlanck(mesh, diffusion=0.25, potential=fvot.cell_mean(double_well)).stationary()
        mean = mesh.density(mesh.average(lambda x: np.exp(-double_well(x) / 0.25), degree=8))
        assert_allclose(rho, mean, rtol=1e-12)
        assert (
            distance(mesh, mean, gibbs(mesh, double_well, 0.25)) > 1e-3
        )  # which the values at the points are not


# ---- the rest ------------------------------------------------------------------------------------


def test_the_same_on_one_rank_and_on_several(mesh, twin):
    """To the tolerance of the solver, with the same steps."""

    def run(mesh):
        solver = FokkerPlanck(mesh, diffusion=0.3, potential=wells(mesh, 6.0))
        return mesh.gather(
            solver.solve(mesh.average(lambda x: 1 + (x[0] < 0.4)), 0.2, tau=0.05).rho[-1]
        )

    rho = run(mesh)
    assert_allclose(rho, run(twin), rtol=1e-8, atol=1e-13 * rho.max())


def test_potentials_by_function_by_cell_and_by_drift():
    """The same by values at the cell points; nearly the same by the gradient, as a drift."""
    mesh = KINDS["triangles"](16)
    rho0 = uniform(mesh)

    def run(**given):
        return FokkerPlanck(mesh, diffusion=0.5, **given).solve(rho0, 0.5, tau=0.05).rho[-1]

    by_function = run(potential=double_well)
    by_cell = run(potential=double_well(mesh.center))
    by_drift = run(drift=lambda x: -np.stack([16 * x[0] * (x[0] ** 2 - 1), 2 * x[1]]))
    assert_allclose(by_function, by_cell, rtol=1e-12)
    assert 0 < distance(mesh, by_function, by_drift) < 0.1


def test_fluxes_of_fvot_and_of_ones_own():
    mesh = KINDS["squares"](32)

    def run(flux):
        solver = FokkerPlanck(
            mesh, diffusion=0.5, potential=lambda x: (x**2).sum(axis=0) / 2, flux=flux
        )
        return solver.solve(uniform(mesh), 1.0, tau=0.1)

    best = run(fvot.scharfetter_gummel).rho[-1]
    assert_allclose(run(lambda U, k: fvot.scharfetter_gummel(U, k)).rho[-1], best, rtol=1e-12)
    for flux, error in (fvot.square_root, 1e-2), (fvot.central, 1e-2), (fvot.upwind, 0.2):
        result = run(flux)
        assert 1e-6 < distance(mesh, result.rho[-1], best) < error
        assert (
            np.abs(result.ledger["mass_error"]).max() <= 1e-14
            and result.ledger["minimum"].min() >= 0
        )


def test_one_step_is_solve():
    mesh = KINDS["polygons"](8)
    solver = FokkerPlanck(mesh, diffusion=0.5, potential=double_well)
    assert_allclose(
        solver.step(uniform(mesh), 0.1),
        solver.solve(uniform(mesh), 0.1, tau=0.1).rho[-1],
        rtol=1e-12,
    )


def test_the_current_turns_where_the_drift_does():
    """Stationary with rotation about a round well: no current into any cell, and it goes round."""
    mesh = KINDS["squares"](32)
    solver = FokkerPlanck(mesh, diffusion=0.1, drift=lambda x: -x + 2 * turning(x))
    rho = solver.stationary()
    current = solver.current(rho)
    assert np.abs(mesh.integrate(current)).max() < 1e-10
    assert mesh.integrate(
        mesh.center[0] * current[1] - mesh.center[1] * current[0]
    ) == pytest.approx(2 * 2 * 0.1, rel=0.05)


def test_vacuum_stays_vacuum():
    mesh = KINDS["squares"](8)
    result = FokkerPlanck(mesh, diffusion=1.0, potential=double_well).solve(
        np.zeros(mesh.n_cells), [0, 1.0, 2.0]
    )
    assert (result.rho == 0).all()
    assert np.isfinite([values for values in result.ledger.values()]).all()


SQUARE = dict(diffusion=1.0)
INPUT = {  # constructor's arguments, and words of the message
    "no diffusion": (dict(diffusion=0.0), ["diffusion is 0.0", "ContinuityEquation"]),
    "negative diffusion": (dict(diffusion=lambda x: x[0]), ["diffusion is -", "above 0"]),
    "diffusion of text": (dict(diffusion="much"), ["diffusion", "finite number", "much"]),
    "infinite potential": (
        SQUARE | dict(potential=lambda x: np.where(x[0] > 0, np.inf, 0)),
        ["potential is inf", "finite"],
    ),
    "potential of a wrong shape": (
        SQUARE | dict(potential=np.zeros(3)),
        ["potential", "cell values"],
    ),
    "potential of a vector": (
        SQUARE | dict(potential=lambda x: x),
        ["potential returned shape (2, "],
    ),
    "drift of a scalar": (SQUARE | dict(drift=lambda x: x[0]), ["drift returned shape"]),
    "drift of three": (SQUARE | dict(drift=[1, 2, 3]), ["drift", "list of 2"]),
    "order 4": (SQUARE | dict(order=4), ["order must be 1, 2 or 3", "4"]),
    "order 1.0": (SQUARE | dict(order=1.0), ["order must be 1, 2 or 3", "1.0"]),
    "complex potential": (SQUARE | dict(potential=1j), ["potential", "finite number"]),
    "a flux that returns nothing": (
        SQUARE | dict(flux=lambda U, k: None),
        ["flux", "(U, k) -> (a, b)"],
    ),
    "order True": (SQUARE | dict(order=True), ["order must be 1, 2 or 3", "True"]),
    "tol 0": (SQUARE | dict(tol=0), ["tol", "between 0 and 1"]),
    "rtol 1": (SQUARE | dict(rtol=1.0), ["rtol", "0.1"]),
    "unknown boundary": (SQUARE | dict(boundary={"lid": fvot.outflow}), ["no part 'lid'", "left"]),
    "negative density at a boundary": (
        SQUARE | dict(boundary={"left": fvot.dirichlet(-1.0)}),
        ["'left' is -1", "at least 0"],
    ),
    "no flux": (SQUARE | dict(flux="upwind"), ["flux", "scharfetter_gummel", "'upwind'"]),
    "muscl": (SQUARE | dict(flux=fvot.muscl()), ["flux", "scharfetter_gummel"]),
    "central with large drift": (
        SQUARE | dict(drift=[1e3, 0], flux=fvot.central),
        ["central", "Peclet", "scharfetter_gummel"],
    ),
    "square root overflows": (
        dict(diffusion=1e-6, potential=double_well, flux=fvot.square_root),
        ["square_root", "Peclet", "finite"],
    ),
    "a flux of a wrong shape": (
        SQUARE | dict(flux=lambda U, k: (U[:1], U[:1])),
        ["shapes", "flux"],
    ),
    "cell means with varying diffusion": (
        dict(diffusion=lambda x: 1 + x[0] ** 2, potential=fvot.cell_mean(double_well)),
        ["cell_mean", "constant diffusion"],
    ),
    "a cell-mean diffusion": (
        dict(diffusion=fvot.cell_mean(double_well)),
        ["cell_mean", "diffusion"],
    ),
}


@pytest.mark.parametrize("arguments, words", INPUT.values(), ids=INPUT)
def test_bad_input_is_refused_on_every_rank(arguments, words):
    with pytest.raises(InputError) as caught:
        FokkerPlanck(KINDS["squares"](8), **arguments)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_cell_values_do_not_tell_what_flows_through_an_outlet():
    mesh = KINDS["squares"](8)
    with pytest.raises(InputError, match="cell values.*'left'.*dirichlet"):
        FokkerPlanck(
            mesh, diffusion=1.0, potential=double_well(mesh.center), boundary={"left": fvot.outflow}
        )
    FokkerPlanck(
        mesh,
        diffusion=1.0,
        potential=double_well(mesh.center),
        boundary={"left": fvot.dirichlet(0.0)},
    )


def test_a_potential_that_is_not_periodic_is_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8), periodic=(True, False))
    with pytest.raises(InputError, match="periodic.*drift"):
        FokkerPlanck(mesh, diffusion=1.0, potential=lambda x: 3 * x[0])
    FokkerPlanck(mesh, diffusion=1.0, potential=lambda x: 3 * x[1] + np.sin(2 * np.pi * x[0]))


def test_runs_that_cannot_be_are_refused():
    mesh = KINDS["squares"](8)
    solver = FokkerPlanck(mesh, diffusion=1.0)
    for rho0, t, tau, words in (
        (uniform(mesh), [1.0, 0.0], None, "increasing"),
        (uniform(mesh), 1.0, 0.0, "tau"),
        (-uniform(mesh), 1.0, None, "rho0"),
        (np.ones(3), 1.0, None, r"shape \(3,\)"),
    ):
        with pytest.raises(InputError, match=words):
            solver.solve(rho0, t, tau=tau)
    with pytest.raises(InputError, match="k must be"):
        solver.relaxation_rates(0)
    moving = FokkerPlanck(mesh, diffusion=1.0, potential=lambda x, t: t * x[0])
    with pytest.raises(InputError, match="do not depend on time"):
        moving.stationary()
    i = np.delete(np.arange(9), 4)
    two = Mesh.from_cells(np.arange(10.0)[None], [("line", np.stack([i, i + 1], axis=1))])
    with pytest.raises(InputError, match="2 pieces"):
        FokkerPlanck(two, diffusion=1.0).stationary()


def test_what_differs_between_ranks_is_refused(ranks):
    if ranks.size == 1:
        pytest.skip("there is one rank")
    mesh = KINDS["squares"](8)
    solver = FokkerPlanck(mesh, diffusion=1.0)
    mine = 0.1 * (1 + ranks.rank)
    for work in (
        lambda: solver.solve(uniform(mesh), 1.0, tau=mine),
        lambda: solver.solve(uniform(mesh), mine),
        lambda: solver.step(uniform(mesh), mine),
        lambda: FokkerPlanck(mesh, diffusion=1.0, tol=mine / 10),
        lambda: FokkerPlanck(mesh, diffusion=1.0, potential=double_well if ranks.rank else None),
    ):
        with pytest.raises(InputError, match="same on every rank"):
            work()


def test_a_function_that_fails_on_one_rank_fails_on_all(ranks):
    def V(x):
        if ranks.rank == ranks.size - 1:
            raise RuntimeError("broken")
        return x[0]

    with pytest.raises(RuntimeError, match="broken"):
        FokkerPlanck(KINDS["squares"](8), diffusion=1.0, potential=V)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_as_many_rates_as_cells_where_all_leaves(n):
    mesh = Mesh.interval(0, 1, n, comm=MPI.COMM_SELF)
    equation = FokkerPlanck(mesh, diffusion=0.5, boundary={"left": fvot.dirichlet(0.0)})
    rates = equation.relaxation_rates(n)
    matrix = np.array([(equation.step(rho, 1e-9) - rho) / 1e-9 for rho in np.eye(n)])
    assert np.allclose(rates, np.sort(-np.linalg.eigvals(matrix)), rtol=1e-5)
    with pytest.raises(InputError, match=f"from 1 to {n}, not {n + 1}"):
        equation.relaxation_rates(n + 1)
