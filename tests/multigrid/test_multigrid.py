"""The package's own multigrid for implicit steps: against factorisations, on 1 to 3 ranks."""

import warnings

import numpy as np
import pytest
from brought_meshes import BROUGHT
from numpy.testing import assert_allclose

from fvot import FokkerPlanck, InputError, Mesh, linalg
from fvot.finite_volume.guesses import Guesses
from fvot.multigrid.solver import Multigrid

pytestmark = pytest.mark.ranks

MESHES = {
    "interval": lambda: Mesh.interval(-1, 1, 150),
    "circle": lambda: Mesh.interval(-1, 1, 60, periodic=True),
    "squares": lambda: Mesh.rectangle((-1, -1), (1, 1), (32, 32)),
    "odd": lambda: Mesh.rectangle((-1, -1), (1, 1), (37, 21)),
    "thin": lambda: Mesh.rectangle((-1, -1), (1, 1), (90, 9)),
    "torus": lambda: Mesh.rectangle((-1, -1), (1, 1), (25, 14), periodic=True),
    "box": lambda: Mesh.box((-1, -1, -1), (1, 1, 1), (12, 9, 10)),
    "tube": lambda: Mesh.box((-1, -1, -1), (1, 1, 1), (6, 7, 11), periodic=(False, True, False)),
    "triangles": lambda: Mesh.triangles((-1, -1), (1, 1), 20),
    "polygons": lambda: Mesh.voronoi((-1, -1), (1, 1), 300),
    "tetrahedra": lambda: Mesh.tetrahedra((-1, -1, -1), (1, 1, 1), 5),
    "graded": lambda: Mesh.rectangle(edges=[np.linspace(-1, 1, 24) ** 3, np.linspace(-1, 1, 30)]),
}
ON_MESHES = pytest.mark.parametrize("make", MESHES.values(), ids=MESHES)


def bowl(x):
    """Periodic with the meshes."""
    return 6 * (1 - np.cos(np.pi * x)).sum(axis=0)


def wells(x):
    """Wells with a barrier of 400 between them in each direction."""
    return 1600 * ((x**2 - 0.5) ** 2).sum(axis=0)


def turning(x):
    """A rotation about the origin in the first two axes, slower towards the walls."""
    speed = 20 * np.prod(1 - x**2, axis=0)
    return speed * np.concatenate([[-x[1], x[0]], 0 * x[2:]])


def is_periodic(mesh):
    return mesh.block is not None and any(mesh.block.periodic)


def force(monkeypatch, *methods):
    """Solve linear systems by these methods, one after the other."""
    costs = {name: (1.0, 1.0 + i) for i, name in enumerate(methods)}
    monkeypatch.setattr(linalg, "estimate_costs", lambda *about: costs)


def find_rates(mesh, **coefficients):
    """The rates of a Fokker-Planck equation."""
    rates, _ = FokkerPlanck(mesh, **coefficients)._stepper.find_coefficients(0.0)
    return rates


def build(rates, s, density, stiffness, transposed=False):
    """The `Multigrid` of |K| + s A."""
    return Multigrid(
        rates.mesh,
        rates.pattern.stencil,
        s * rates.a,
        s * rates.b,
        rates.mesh.volume,
        density,
        stiffness,
        transposed=transposed,
    )


def find_step(rates, stiffness):
    """The step with that largest ratio of what leaves a cell to what it has."""
    return stiffness / rates.mesh.ranks.max(rates.leaving().max())


def random(mesh, seed=0):
    """Random cell values, the same on any number of ranks."""
    return mesh.scatter(np.random.default_rng(seed).uniform(-1, 1, mesh.n_cells_global))


def bump(mesh):
    return np.exp(-20 * ((mesh.center - 0.3) ** 2).sum(axis=0))


def solve_directly(rates, s, rhs, transposed):
    """(|K| + s A)^-1 rhs, or by the transposed matrix, by a factorisation."""
    ranks = rates.mesh.ranks
    matrix = rates.pattern.matrix(rates, s, transposed=transposed)
    method = linalg.find_method("redundant", rates.mesh.dim, ranks.size)
    system = linalg.System(ranks, matrix, method, prefix="fvot_test_", rtol=1e-12)
    return system(rhs)


# ---- against factorisations ----------------------------------------------------------------------


@ON_MESHES
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stiffness", [0.1, 30.0, 1e5])
def test_solutions_are_those_of_a_factorisation(make, transposed, stiffness):
    """In the sum of |r|, or of |r| / m where transposed, to the tolerance of the precision; the
    inverse does not enlarge the former, and the latter by the stiffness at most.
    """
    mesh = make()
    rates = find_rates(mesh, diffusion=1.0, potential=bowl)
    s = find_step(rates, stiffness)
    density = np.exp(-rates.minus_log_gibbs)
    solver = build(rates, s, density, stiffness, transposed)
    rhs = mesh.volume * (1.5 + random(mesh))
    d = solver.solve(rhs, 1e-10)
    exact = solve_directly(rates, s, rhs, transposed)
    assert not solver.has_failed
    error = mesh.integrate(np.abs(d - exact)) / mesh.integrate(np.abs(exact))
    assert error <= (1e-3 if stiffness <= 1e3 else 1e-4)
    assert solver.iterations <= (25 if stiffness <= 1e3 else 50)


@pytest.mark.parametrize("stiffness", [3.0, 30.0, 300.0, 3e4, 3e6])
def test_cycles_do_not_grow_with_the_number_of_cells(stiffness):
    cycles = []
    for n in 32, 64, 128, 256:
        mesh = Mesh.rectangle((-1, -1), (1, 1), (n, n))
        rates = find_rates(mesh, diffusion=1.0, potential=bowl)
        s = find_step(rates, stiffness)
        density = np.exp(-rates.minus_log_gibbs)
        solver = build(rates, s, density, stiffness)
        solver.solve(mesh.volume * bump(mesh), 1e-5)
        assert not solver.has_failed
        cycles.append(solver.iterations)
    assert max(cycles) <= 16
    assert cycles[-1] <= cycles[0] + 3


# ---- steps ---------------------------------------------------------------------------------------


def assert_promises(result):
    """Mass to round-off, no negative density, and free energy that never grows where there is
    one.
    """
    ledger = result.ledger
    assert np.abs(ledger["mass_error"]).max() <= 1e-14
    assert result.mesh.ranks.min(result.rho.min()) >= 0
    if "energy" in ledger:
        parts = np.abs(ledger["entropy"]).max() + np.abs(ledger["potential_energy"]).max()
        assert np.diff(ledger["energy"]).max() <= 1e-14 * parts


@ON_MESHES
@pytest.mark.parametrize("order", [1, 2])
def test_steps_keep_the_promises_and_agree_with_factorisations(make, order, monkeypatch):
    """With a drift that has no potential in two dimensions and more."""
    mesh = make()
    drift = turning if mesh.dim > 1 and not is_periodic(mesh) else None
    coefficients = dict(diffusion=0.5, potential=bowl, drift=drift, order=order)
    rho0 = 0.1 + bump(mesh)
    for tau in 1e-3, 0.03, 10.0:
        force(monkeypatch, "multigrid")
        result = FokkerPlanck(mesh, **coefficients).solve(rho0, 3 * tau, tau=tau)
        assert_promises(result)
        force(monkeypatch, "lu")
        exact = FokkerPlanck(mesh, **coefficients).solve(rho0, 3 * tau, tau=tau)
        assert_allclose(result.rho, exact.rho, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1.0, 1e3])
def test_hard_problems_fall_back_without_a_wrong_answer(order, tau, monkeypatch):
    """Barriers of 400 kT, with and without a rotating drift, and all mass in one corner or
    everywhere: other methods take over where multigrid does not pass the checks.
    """
    mesh = Mesh.rectangle((-1, -1), (1, 1), (32, 32))
    corner = np.where(mesh.cell_id[: mesh.n_cells] == 0, 1.0, 0.0)
    for drift in None, turning:
        force(monkeypatch, "multigrid", "lu")
        solver = FokkerPlanck(mesh, diffusion=1.0, potential=wells, drift=drift, order=order)
        force(monkeypatch, "lu")
        reference = FokkerPlanck(mesh, diffusion=1.0, potential=wells, drift=drift, order=order)
        for rho0 in corner, np.ones(mesh.n_cells):
            result = solver.solve(rho0, 3 * tau, tau=tau)
            exact = reference.solve(rho0, 3 * tau, tau=tau)
            assert_promises(result)
            distance = mesh.integrate(np.abs(result.rho[-1] - exact.rho[-1]))
            assert distance <= 1e-7 * mesh.integrate(rho0)


def test_densities_over_130_decades():
    """A potential of 300: the Gibbs density is a fixed point, also in its tails."""
    mesh = Mesh.rectangle((-1, -1), (1, 1), (32, 32))
    rates = find_rates(mesh, diffusion=1.0, potential=lambda x: 150 * (x**2).sum(axis=0))
    density = np.exp(-rates.minus_log_gibbs)
    for stiffness in 10.0, 1e3, 1e6:
        s = find_step(rates, stiffness)
        solver = build(rates, s, density, stiffness)
        rhs = mesh.volume * bump(mesh)
        d = solver.solve(rhs, 1e-5)
        exact = solve_directly(rates, s, rhs, False)
        assert not solver.has_failed
        assert mesh.integrate(np.abs(d - exact)) <= 1e-3 * mesh.integrate(exact)


@pytest.mark.parametrize("name", ["noise", "kershaw", "hanging", "hexahedra"])
@pytest.mark.filterwarnings("ignore:diffusion may be off")
def test_meshes_that_are_not_orthogonal(name, monkeypatch):
    mesh = BROUGHT[name](strict=False)
    rho0 = 1 + mesh.center[0]
    for tau in 1e-3, 10.0:
        results = []
        for method in "multigrid", "lu":
            force(monkeypatch, method)
            solver = FokkerPlanck(
                mesh, diffusion=0.5, potential=lambda x: 3 * x[0], order=1, scheme="two_point"
            )
            results.append(solver.solve(rho0, 3 * tau, tau=tau))
            assert_promises(results[-1])
        assert_allclose(results[0].rho, results[1].rho, rtol=1e-6)


# ---- guesses -------------------------------------------------------------------------------------


def test_a_guess_is_the_nearest_combination():
    """Of right-hand sides that are known: nothing is left of a combination of them."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    guesses = Guesses(mesh.ranks)
    rhs = [random(mesh, seed) for seed in range(7)]
    for i, r in enumerate(rhs):
        guess, rest, left = guesses.find(r)
        assert guess is None or left < 0.5
        assert_allclose(rest if guess is None else rest + guess / 2, r, rtol=1e-9, atol=1e-12)
        guesses.add(2 * r)  # the matrix is a half of the identity
        assert i < 4 or guesses.find(rhs[i - 4])[0] is None  # forgotten
    combined = rhs[3] - 2 * rhs[4] + 3 * rhs[6]
    guess, rest, left = guesses.find(combined)
    assert_allclose(guess, 2 * combined, rtol=1e-9, atol=1e-12)
    assert mesh.ranks.max(np.abs(rest).max()) <= 1e-12
    assert left <= 1e-7


def test_guesses_save_cycles_and_change_nothing_but_the_rounding(monkeypatch):
    force(monkeypatch, "multigrid")
    mesh = Mesh.rectangle((-1, -1), (1, 1), (32, 32))
    results = []
    for is_guessed in True, False:
        if not is_guessed:
            monkeypatch.setattr("fvot.finite_volume.guesses.N_KEPT", 0)
        solver = FokkerPlanck(mesh, diffusion=1.0, potential=bowl, order=1)
        results.append(solver.solve(1 + bump(mesh), 0.2, tau=0.01))
        assert_promises(results[-1])
    guessed, plain = results
    assert_allclose(guessed.rho, plain.rho, rtol=1e-7, atol=1e-9)
    assert guessed.ledger["iterations"][-1] < 0.95 * plain.ledger["iterations"][-1]


# ---- the choice ----------------------------------------------------------------------------------


def test_a_failure_is_counted_and_the_next_method_takes_over(monkeypatch):
    """On all ranks, where multigrid gives up."""
    force(monkeypatch, "multigrid", "lu")
    monkeypatch.setattr("fvot.multigrid.solver.MAX_CYCLES", 2)
    mesh = Mesh.rectangle((-1, -1), (1, 1), (24, 24))
    solver = FokkerPlanck(mesh, diffusion=1.0, potential=bowl)
    result = solver.solve(bump(mesh), 0.3, tau=0.1)
    assert_promises(result)
    (resolvent,) = solver._stepper._resolvents.values()
    assert resolvent.names == ["lu"]


def test_a_matrix_that_is_singular_fails():
    """To rounding: nothing is kept."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    rates = find_rates(mesh, diffusion=1.0)
    ones = np.ones(mesh.n_cells)
    solver = Multigrid(
        mesh, rates.pattern.stencil, rates.a, rates.b, 1e-300 * ones, ones, stiffness=np.inf
    )
    solver.solve(ones, 1e-5)
    assert solver.has_failed
    solver.solve(np.inf * ones, 1e-5)
    assert solver.has_failed
    assert mesh.ranks.max(np.abs(solver.solve(0 * ones, 1e-5)).max()) == 0
    assert not solver.has_failed


def test_where_it_is_the_cheapest():
    """For many cells, and few steps of one length; not where one factorisation does for many, in
    one dimension, or where drift dominates.
    """

    def find_cheapest(n, dim, n_solves, stiffness=100.0, steepness=0.1, n_ranks=1):
        costs = linalg.estimate_costs(n, dim, n_ranks, stiffness, steepness, True, "blocks")
        return linalg.rank_methods(costs, n_solves)[0]

    assert find_cheapest(10**6, 2, 10) == "multigrid"
    assert find_cheapest(10**6, 2, 10, n_ranks=2) == "multigrid"
    assert find_cheapest(10**6, 3, 1000) == "multigrid"
    assert find_cheapest(10**5, 2, 5) == "multigrid"
    assert find_cheapest(10**5, 2, 1000) == "lu"
    assert find_cheapest(10**5, 1, 5) == "lu"
    assert find_cheapest(10**6, 2, 10, steepness=30.0) == "ilu"
    assert find_cheapest(10**6, 2, 10, stiffness=0.1) == "multigrid"


def test_an_option_names_the_method(monkeypatch):
    mesh = Mesh.rectangle((-1, -1), (1, 1), (16, 16))
    for name in "lu", "ilu", "amg", "multigrid":
        linalg.set_options(["-fvot_fokker_planck_method", name])
        try:
            solver = FokkerPlanck(mesh, diffusion=1.0, potential=bowl)
            solver.solve(bump(mesh), 0.3, tau=0.1)
        finally:
            linalg.PETSc.Options().delValue("fvot_fokker_planck_method")
        (resolvent,) = solver._stepper._resolvents.values()
        assert resolvent.names[0] == name


@pytest.mark.parametrize(
    "options, scheme, words",
    [
        (["-fvot_fokker_planck_method", "multigrid"], "corners", "two-point fluxes"),
        (
            ["-fvot_fokker_planck_method", "multigrid", "-fvot_fokker_planck_pc_type", "bjacobi"],
            "two_point",
            "no option that chooses a solver of PETSc's",
        ),
    ],
)
def test_a_method_that_equations_do_not_have_is_passed_over(options, scheme, words, ranks):
    """It may suit others of the same script; the result is that without the option."""
    mesh = Mesh.triangles((-1, -1), (1, 1), 8)
    solver = FokkerPlanck(mesh, diffusion=1.0, potential=bowl, scheme=scheme)
    expected = solver.solve(bump(mesh), 0.3, tau=0.1).rho[-1]
    linalg.set_options(options)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solver = FokkerPlanck(mesh, diffusion=1.0, potential=bowl, scheme=scheme)
            rho = solver.solve(bump(mesh), 0.3, tau=0.1).rho[-1]
    finally:
        for name in options[::2]:
            linalg.PETSc.Options().delValue(name[1:])
    said = [str(warning.message) for warning in caught if "passed over" in str(warning.message)]
    assert bool(said) == ranks.is_root
    assert all(words in text for text in said)
    assert_allclose(rho, expected, rtol=1e-7)


def test_an_option_that_names_no_method_is_refused():
    mesh = Mesh.rectangle((-1, -1), (1, 1), (16, 16))
    linalg.set_options(["-fvot_fokker_planck_method", "magic"])
    try:
        with pytest.raises(InputError, match="must be one of .*multigrid.*, not 'magic'"):
            FokkerPlanck(mesh, diffusion=1.0).solve(bump(mesh), 0.3, tau=0.1)
    finally:
        linalg.PETSc.Options().delValue("fvot_fokker_planck_method")
