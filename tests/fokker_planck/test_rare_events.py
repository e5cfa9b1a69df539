"""Committors, passage times, transition paths and the generator on meshes."""

from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import ConvergenceError, FokkerPlanck, InputError, Mesh
from fvot.fokker_planck import stationary

pytestmark = pytest.mark.ranks


def double_well(x):
    return 4 * (x[0] ** 2 - 1) ** 2 + (x[1:] ** 2).sum(axis=0)


def rotation(x):
    return 3 * np.stack([-x[1], x[0]])


def in_left_well(x):
    return (x[0] + 1) ** 2 + (x[1:] ** 2).sum(axis=0) < 0.1


def in_right_well(x):
    return (x[0] - 1) ** 2 + (x[1:] ** 2).sum(axis=0) < 0.1


def build_mesh(kind):
    lower, upper = (-1.6, -1.2), (1.6, 1.2)
    return {
        "interval": lambda: Mesh.interval(-1.6, 1.6, 64),
        "rectangle": lambda: Mesh.rectangle(lower, upper, (32, 24)),
        "triangles": lambda: Mesh.triangles(lower, upper, 20),
        "voronoi": lambda: Mesh.voronoi(lower, upper, 700),
        "box": lambda: Mesh.box((-1.6, -1, -1), (1.6, 1, 1), (16, 8, 8)),
    }[kind]()


ON_KINDS = pytest.mark.parametrize("kind", ["interval", "rectangle", "triangles", "voronoi", "box"])


# ---- exact answers -------------------------------------------------------------------------------


class ExactWalk:
    """A chain of cells in a row in exact fractions, between its states up to a and from b on."""

    def __init__(self, Q, a, b):
        n = Q.shape[0]
        up = [Fraction(float(Q[i, i + 1])) for i in range(n - 1)]
        down = [Fraction(float(Q[i + 1, i])) for i in range(n - 1)]
        p = [Fraction(1)]
        for i in range(n - 1):
            p.append(p[-1] * up[i] / down[i])
        total = sum(p)
        p = [value / total for value in p]
        resistance = [1 / (p[i] * up[i]) for i in range(n - 1)]
        whole = sum(resistance[a:b])

        self.h_B = [Fraction(0)] * n
        for i in range(a + 1, n):
            self.h_B[i] = self.h_B[i - 1] + resistance[i - 1] / whole if i < b else Fraction(1)
        self.h_A = [1 - value for value in self.h_B]
        self.rate = 1 / whole
        self.k_AB = self.rate / sum(w * h for w, h in zip(p, self.h_A, strict=True))
        self.k_BA = self.rate / sum(w * h for w, h in zip(p, self.h_B, strict=True))

        held = [p[0]]
        for weight in p[1:]:
            held.append(held[-1] + weight)
        self.T = [Fraction(0)] * n
        for i in range(b - 1, -1, -1):
            self.T[i] = self.T[i + 1] + resistance[i] * held[i]


@pytest.mark.parametrize("barrier", [4, 40, 400])
def test_barriers_of_up_to_400_kT_in_exact_fractions(barrier, one_rank_here):
    mesh = Mesh.interval(-1.6, 1.6, 161)
    equation = FokkerPlanck(mesh, diffusion=4 / barrier, potential=double_well)
    x = mesh.center[0]
    A, B = x <= -1, x >= 1
    exact = ExactWalk(equation.generator(), A.sum() - 1, 161 - B.sum())

    def compare(values, fractions):
        assert_allclose(values, [float(value) for value in fractions], rtol=1e-13)

    compare(equation.committor(A, B), exact.h_B)
    compare(equation.committor(B, A), exact.h_A)
    compare(equation.backward_committor(A, B), exact.h_A)
    compare(equation.mean_first_passage_time(B), exact.T)
    paths = equation.transition_paths(A, B)
    compare([paths.rate, paths.k_AB, paths.k_BA], [exact.rate, exact.k_AB, exact.k_BA])
    between = slice(A.sum() - 1, 161 - B.sum())
    assert_allclose(paths.flux[: mesh.n_inner][between], float(exact.rate), rtol=2e-13)
    if barrier == 400:
        assert paths.rate < 1e-170
        assert paths.k_AB + paths.k_BA == pytest.approx(equation.relaxation_rates(1)[0], rel=1e-12)


def test_the_double_well_at_second_order():
    """q(-1/2) and the mean time from -1 to 1, cell points on the sets (Kramers, by quadrature)."""
    errors = []
    for n in 129, 257, 513:
        h = 4 / (n - 1)
        mesh = Mesh.interval(-2 - h / 2, 2 + h / 2, n)
        equation = FokkerPlanck(mesh, diffusion=0.5, potential=double_well)
        x = mesh.gather(mesh.center)[0]
        A = mesh.center[0] < -1 + h / 4
        B = mesh.center[0] > 1 - h / 4
        q = mesh.gather(equation.committor(A, B))
        T = mesh.gather(equation.mean_first_passage_time(B))
        q_half = q[np.argmin(np.abs(x + 0.5))]
        T_well = T[np.argmin(np.abs(x + 1))]
        assert q[n // 2] == pytest.approx(0.5, rel=1e-12)
        errors.append([abs(q_half / 0.005546960805 - 1), abs(T_well / 875.0087028 - 1)])
    assert max(errors[-1]) < 1.6e-4
    assert np.log2(np.divide(errors[1], errors[2])).min() > 1.95


def test_moments_of_the_time_to_leave_an_interval():
    """T = (1 - x^2) / (4 D) between open ends at +-1 (2 D T'' = -2), exact at cell points of order
    2, and its second moment.
    """
    errors = []
    for n in 51, 101:
        mesh = Mesh.interval(-1, 1, n)
        ends = {"left": fvot.dirichlet(0), "right": fvot.dirichlet(0)}
        equation = FokkerPlanck(mesh, diffusion=0.5, boundary=ends)
        T = equation.mean_first_passage_time("left", moments=2)
        x = mesh.center[0]
        exact = np.stack([1 - x**2, (5 - 6 * x**2 + x**4) / 3])
        errors.append(mesh.ranks.max(np.abs(T - exact).max(axis=1)))
    assert np.log2(np.divide(*errors)).min() > 1.9


# ---- identities ----------------------------------------------------------------------------------


@ON_KINDS
@pytest.mark.parametrize("driven", [False, True])
def test_transition_paths_conserve_what_leaves_A_and_comes_to_B(kind, driven):
    mesh = build_mesh(kind)
    if driven and mesh.dim != 2:
        drift = None if mesh.dim == 1 else (lambda x: np.stack([-x[1], x[0], 0 * x[0]]))
    else:
        drift = rotation if driven else None
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well, drift=drift)
    paths = equation.transition_paths(in_left_well, in_right_well)
    A, B = in_left_well(mesh.center), in_right_well(mesh.center)

    out = mesh.divergence(paths.flux) * mesh.volume
    leaving, arriving = mesh.ranks.sum(np.array([out[A].sum(), -out[B].sum()]))
    assert leaving == pytest.approx(paths.rate, rel=1e-12)
    assert arriving == pytest.approx(paths.rate, rel=1e-12)
    assert mesh.ranks.max(np.abs(out[~A & ~B]).max(initial=0.0)) < 1e-12 * paths.rate

    g = equation.backward_committor(in_left_well, in_right_well)
    rho = equation.stationary()
    assert_allclose(paths.density, rho * g * paths.committor, rtol=1e-11)
    assert paths.rate / mesh.integrate(rho * g) == pytest.approx(paths.k_AB, rel=1e-12)
    assert paths.current.shape == (mesh.dim, mesh.n_cells)
    back = equation.transition_paths(in_right_well, in_left_well)
    assert back.rate == pytest.approx(paths.rate, rel=1e-11)
    assert back.k_AB == pytest.approx(paths.k_BA, rel=1e-11)
    assert "k_AB" in repr(paths)


@pytest.mark.parametrize("drift", [None, rotation])
def test_a_transition_takes_the_mean_time_from_where_paths_enter(drift):
    """1 / k_AB = sum over A of where paths from B enter, times their mean time to B (Hill)."""
    mesh = build_mesh("rectangle")
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well, drift=drift)
    forward = equation.transition_paths(in_left_well, in_right_well)
    back = equation.transition_paths(in_right_well, in_left_well)
    A = in_left_well(mesh.center)
    entering = np.where(A, -mesh.divergence(back.flux), 0.0) / back.rate
    assert mesh.integrate(entering) == pytest.approx(1, rel=1e-12)
    T = equation.mean_first_passage_time(in_right_well)
    assert mesh.integrate(entering * T) == pytest.approx(1 / forward.k_AB, rel=1e-11)


@ON_KINDS
def test_committors_and_times_satisfy_the_backward_equation(kind):
    """A^T q = 0 between the sets, A^T T = |K| outside, to the rounding of their terms."""
    mesh = build_mesh(kind)
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    q = equation.committor(in_left_well, in_right_well)
    p = equation.committor(in_right_well, in_left_well)
    assert_allclose(p + q, 1, rtol=1e-13)
    assert mesh.ranks.min(q.min()) >= 0

    rates, _ = equation._stepper.find_coefficients(0.0)
    numbering = equation._numbering

    def lose(u):
        out, sizes = rates.transposed_outflow(numbering.inward(u))
        return numbering.outward(out), numbering.outward(sizes)

    is_outside = ~in_right_well(mesh.center)
    is_free = is_outside & ~in_left_well(mesh.center)
    out, sizes = lose(q)
    assert (np.abs(out) <= 1e-13 * sizes)[is_free].all()
    out, sizes = lose(equation.mean_first_passage_time(in_right_well))
    assert (np.abs(out - mesh.volume) <= 1e-13 * sizes)[is_outside].all()


def test_relaxation_of_two_wells_is_the_sum_of_the_rates():
    mesh = Mesh.rectangle((-1.6, -1.2), (1.6, 1.2), (32, 24))
    equation = FokkerPlanck(mesh, diffusion=1.0, potential=double_well)
    paths = equation.transition_paths(in_left_well, in_right_well)
    slowest, next_one = equation.relaxation_rates(2)
    assert abs((paths.k_AB + paths.k_BA) / slowest - 1) < slowest / next_one


def test_decay_and_open_boundaries_take_from_committors():
    mesh = build_mesh("interval")
    closed = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    leaky = FokkerPlanck(mesh, diffusion=0.3, potential=double_well, growth=-0.5)
    sets = [in_left_well, in_right_well]
    assert_allclose(closed.splitting_probabilities(sets).sum(axis=0), 1, rtol=1e-13)
    h = leaky.splitting_probabilities(sets)
    between = ~in_left_well(mesh.center) & ~in_right_well(mesh.center)
    assert (h.sum(axis=0)[between] < 1).all()
    shorter = leaky.mean_first_passage_time(in_right_well)
    assert (shorter <= closed.mean_first_passage_time(in_right_well)).all()
    assert mesh.ranks.max(shorter.max()) < 2


def test_costs_add_up():
    mesh = build_mesh("triangles")
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    on_the_left = mesh.average(lambda x: x[0] < 0)
    T = equation.mean_first_passage_time(in_right_well)
    left = equation.mean_first_passage_time(in_right_well, cost=on_the_left)
    right = equation.mean_first_passage_time(in_right_well, cost=1 - on_the_left)
    assert_allclose(left + right, T, rtol=1e-12)
    of_function = equation.mean_first_passage_time(in_right_well, cost=lambda x: 1 + 0 * x[0])
    assert_allclose(of_function, T, rtol=1e-14)
    doubled = equation.mean_first_passage_time(in_right_well, cost=2.0)
    assert_allclose(doubled, 2 * T, rtol=1e-13)


# ---- sets ----------------------------------------------------------------------------------------


def test_sets_are_given_in_all_ways():
    mesh = build_mesh("rectangle")
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    mask = in_left_well(mesh.center)
    numbers = np.flatnonzero(mesh.gather(mask))
    q = equation.committor(in_left_well, in_right_well)
    assert_allclose(equation.committor(mask, in_right_well), q, rtol=1e-14)
    assert_allclose(equation.committor(numbers, in_right_well), q, rtol=1e-14)
    assert_allclose(equation.committor(numbers.tolist(), in_right_well), q, rtol=1e-14)

    at_wall = equation.committor("left", "right")
    beside = equation.committor(lambda x: x[0] < -1.5, lambda x: x[0] > 1.5)
    assert_allclose(at_wall, beside, rtol=1e-14)


def test_regions_have_names():
    points = [[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1, 1]]
    quads = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6]])
    mesh = Mesh.from_cells(points, [("quad", quads)], regions={"sand": [0], 7: [2]})
    equation = FokkerPlanck(mesh, diffusion=1.0)
    assert_allclose(mesh.gather(equation.committor("sand", 7)), [0, 0.5, 1], rtol=1e-15)


def test_paths_leave_through_open_boundaries():
    """q is linear from 0 at x = 0 to 1 beyond x = 1, by D over the rate of the exit."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (10, 10))
    ends = {"left": fvot.dirichlet(0), "right": fvot.robin(5.0)}
    equation = FokkerPlanck(mesh, diffusion=1.0, boundary=ends)
    q = equation.committor("left", "right")
    assert_allclose(q, mesh.center[0] / 1.2, rtol=1e-12)


@pytest.mark.parametrize("kind", ["rectangle", "triangles"])
def test_the_generator_moves_masses(kind, one_rank_here):
    mesh = build_mesh(kind)
    equation = FokkerPlanck(
        mesh,
        diffusion=0.3,
        potential=double_well,
        growth=-0.2,
        source=1.0,
        boundary={"left": fvot.dirichlet(0.0)},
    )
    Q = equation.generator()
    assert Q.shape == (mesh.n_cells, mesh.n_cells)
    off = Q - np.diag(Q.diagonal())
    assert off.min() >= 0
    masses = mesh.volume * np.random.default_rng(0).uniform(1, 2, mesh.n_cells)
    numbering = equation._numbering
    rates, entering = equation._stepper.find_coefficients(0.0)
    out, _ = rates.outflow(numbering.inward(masses / mesh.volume), 0 * entering)
    assert_allclose(Q.T @ masses, -numbering.outward(out), rtol=1e-12, atol=1e-12)
    lost = np.asarray(Q.sum(axis=1)).ravel()
    at_left = np.bincount(
        mesh.left[np.arange(mesh.n_faces)[mesh.boundary["left"]]], minlength=mesh.n_cells
    )
    assert_allclose(lost[at_left == 0], -0.2, rtol=1e-10)
    assert (lost[at_left > 0] < -0.2).all()


def test_petsc_has_the_generator_on_any_number_of_ranks():
    mesh = build_mesh("triangles")
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    Q = equation.generator(petsc=True)
    ones = Q.createVecRight()
    ones.set(1.0)
    assert (Q * ones).norm() < 1e-10 * Q.norm()
    p = Q.createVecLeft()
    p.setArray(equation.stationary() * mesh.volume)
    result = Q.createVecRight()
    Q.multTranspose(p, result)
    assert result.norm() < 1e-12 * Q.norm()
    if mesh.ranks.size > 1:
        with pytest.raises(InputError, match="petsc=True"):
            equation.generator()


# ---- refusals ------------------------------------------------------------------------------------


def test_refusals_of_sets():
    mesh = build_mesh("rectangle")
    equation = FokkerPlanck(mesh, diffusion=0.3, potential=double_well)
    with pytest.raises(InputError, match="A and B have .* cells in common"):
        equation.committor(in_left_well, lambda x: x[0] < 0)
    with pytest.raises(InputError, match="B is empty"):
        equation.committor(in_left_well, lambda x: x[0] > 7)
    with pytest.raises(InputError, match="A is empty"):
        equation.mean_first_passage_time([])
    with pytest.raises(InputError, match="cells are numbered from 0 to 767"):
        equation.committor([768], "left")
    with pytest.raises(InputError, match="no region or boundary of that name; it has: "):
        equation.committor("nowhere", "left")
    with pytest.raises(InputError, match="not a mask of shape"):
        equation.committor(np.ones(mesh.n_cells + 1, bool), "left")
    with pytest.raises(InputError, match="True or False"):
        equation.committor(lambda x: x[0], "left")
    with pytest.raises(InputError, match="A must be a mask"):
        equation.committor(1.5, "left")
    with pytest.raises(InputError, match="two or more sets"):
        equation.splitting_probabilities([in_left_well])
    with pytest.raises(InputError, match="cost must be finite and at least 0"):
        equation.mean_first_passage_time(in_left_well, cost=-1.0)
    with pytest.raises(InputError, match="cost must be a number"):
        equation.mean_first_passage_time(in_left_well, cost=np.ones(mesh.n_cells + 1))
    with pytest.raises(InputError, match="moments"):
        equation.mean_first_passage_time(in_left_well, moments=0)


def test_numbers_that_differ_between_ranks_are_refused(ranks):
    mesh = Mesh.interval(0, 1, 20)
    equation = FokkerPlanck(mesh, diffusion=0.1)
    other = ranks.size > 1 and ranks.rank == 1
    with (
        pytest.raises(InputError, match="cost must be the same")
        if ranks.size > 1
        else nullcontext()
    ):
        equation.mean_first_passage_time(mesh.center[0] < 0.2, cost=2.0 if other else 1.0)
    with (
        pytest.raises(InputError, match="moments must be the") if ranks.size > 1 else nullcontext()
    ):
        equation.mean_first_passage_time(mesh.center[0] < 0.2, moments=2 if other else 1)
    with pytest.raises(InputError, match="A failed for x of shape"):
        equation.mean_first_passage_time(lambda x, t: x[0] < 0.2)


def test_refusals_of_equations():
    mesh = build_mesh("rectangle")

    def build(**options):
        return FokkerPlanck(mesh, diffusion=0.3, potential=double_well, **options)

    with pytest.raises(InputError, match="do not depend on time"):
        build(drift=lambda x, t: t * x).committor("left", "right")
    with pytest.raises(InputError, match="growth <= 0"):
        build(growth=1.0).mean_first_passage_time("left")
    with pytest.raises(InputError, match="scheme='two_point'"):
        build(scheme="corners").committor("left", "right")
    with pytest.raises(InputError, match="two-point fluxes only"):
        build(scheme="corners").generator()
    leaking = build(boundary={"left": fvot.outflow})
    with pytest.raises(InputError, match="paths never end"):
        leaking.transition_paths(in_left_well, in_right_well)
    with pytest.raises(InputError, match="paths never end"):
        build(growth=-1.0).backward_committor(in_left_well, in_right_well)


@pytest.mark.filterwarnings("ignore:the mesh consists of 2 pieces")
def test_cells_that_never_arrive_have_no_mean_time():
    points = [[0, 1, 2, 0, 1, 2, 5, 6, 5, 6], [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]]
    cells = [("quad", np.array([[0, 1, 4, 3], [1, 2, 5, 4], [6, 7, 9, 8]]))]
    mesh = Mesh.from_cells(points, cells)
    equation = FokkerPlanck(mesh, diffusion=1.0)
    with pytest.raises(InputError, match="state 2 never leads .* time is infinite"):
        equation.mean_first_passage_time([0])
    with pytest.raises(InputError, match="never leads"):
        equation.committor([0], [1])
    decaying = FokkerPlanck(mesh, diffusion=1.0, growth=-2.0)
    T = mesh.gather(decaying.mean_first_passage_time([0]))
    assert_allclose(T[[0, 2]], [0, 0.5], rtol=1e-14)


def test_times_that_overflow_are_refused():
    mesh = Mesh.interval(-1.6, 1.6, 160)
    equation = FokkerPlanck(mesh, diffusion=0.01, potential=double_well)
    with pytest.raises(ConvergenceError, match="moment number 2 overflows"):
        equation.mean_first_passage_time(in_right_well, moments=2)


# ---- slow modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["two_point", "corners"])
@pytest.mark.parametrize("kind", ["rectangle", "triangles", "box"])
def test_modes_decay_at_their_rates(kind, scheme):
    """A step of implicit Euler makes pi + c left to pi + c left / (1 + tau rate)."""
    mesh = build_mesh(kind)
    equation = FokkerPlanck(
        mesh, diffusion=1.0, potential=double_well, order=1, scheme=scheme, rtol=1e-13
    )
    rates, left, right = equation.slow_modes(3)
    assert_allclose(rates, equation.relaxation_rates(3), rtol=1e-9)
    assert_allclose(mesh.integrate(np.abs(left)), 1, rtol=1e-12)
    products = mesh.integrate(left[:, None] * right)
    assert_allclose(products, np.eye(3), atol=1e-7)

    pi = equation.stationary()
    size = mesh.ranks.max(np.abs(left / pi).max())
    for rate, mode in zip(rates, left, strict=True):
        rho = equation.step(pi + mode / (2 * size), 0.3)
        expected = mode / (1 + 0.3 * rate)
        assert mesh.integrate(np.abs((rho - pi) * 2 * size - expected)) < 1e-7


def test_modes_of_open_and_growing_equations():
    """The first mode is the quasi-stationary density; constant growth changes the rates alone."""
    mesh = build_mesh("rectangle")
    options = dict(diffusion=0.3, potential=double_well, drift=rotation)
    leaky = {"left": fvot.dirichlet(0.0)}
    rates, left, right = FokkerPlanck(mesh, boundary=leaky, **options).slow_modes(1)
    assert mesh.ranks.min(left.min()) >= 0 and mesh.integrate(left[0]) == pytest.approx(1)
    grown, same, _ = FokkerPlanck(mesh, boundary=leaky, growth=0.5, **options).slow_modes(1)
    assert_allclose(grown, rates - 0.5, rtol=1e-9)
    assert_allclose(same, left, rtol=1e-8, atol=1e-12)
    with pytest.raises(InputError, match="need a Gibbs density"):
        FokkerPlanck(mesh, scheme="corners", **options).slow_modes(1)
    with pytest.raises(InputError, match="k must be a number of rates"):
        FokkerPlanck(mesh, **options).slow_modes(0)


@pytest.mark.parametrize("D", [1.0, 0.25, 0.02])
def test_rates_of_large_meshes_are_those_of_elimination(D, monkeypatch):
    """By Krylov spaces, or, for wells that are too deep for them, by elimination after all."""
    mesh = build_mesh("box")
    equation = FokkerPlanck(mesh, diffusion=D, potential=double_well)
    eliminated = equation.relaxation_rates(3)
    monkeypatch.setitem(stationary.RATES_ELIMINATION_CELL_LIMIT, 3, 1)
    assert_allclose(equation.relaxation_rates(3), eliminated, rtol=2e-8)


@pytest.mark.parametrize("k", [4, 6])
def test_equal_rates_are_all_found_with_corners(k):
    """Those of a cube come in threes: one Krylov space may show two of them."""
    mesh = Mesh.box((0, 0, 0), (1, 1, 1), (8, 8, 8))
    equation = FokkerPlanck(mesh, diffusion=1.0, scheme="corners", rtol=1e-12)
    rates = equation.relaxation_rates(k)
    first, second = rates[0], rates[3]
    assert_allclose(rates, [first] * 3 + [second] * (k - 3), rtol=1e-6)
    assert second == pytest.approx(2 * first, rel=0.05)
