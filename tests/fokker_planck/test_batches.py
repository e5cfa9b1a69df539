"""Batches of densities (k, n_cells): the numbers of single runs, with common steps and matrices."""

import copy
import pickle

import brought_meshes as brought
import numpy as np
import pytest
from comparisons import assert_same_solution
from numpy.testing import assert_allclose

import fvot
from fvot import Checkpoint, FokkerPlanck, InputError, Mesh

pytestmark = pytest.mark.ranks

K = 4


def with_sides(points, cells):
    """The unit square with names for its sides."""
    return Mesh.from_cells(points, cells, boundary=brought.sides(points, cells))


KINDS = {
    "interval": lambda: Mesh.interval(0, 1, 40),
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),
    "quadrilaterals": lambda: with_sides(*brought.quads(9, brought.noise(9, 0.2))),
    "box": lambda: Mesh.box((0, 0, 0), (1, 1, 1), (5, 4, 4)),
}
ON_RANKS = KINDS
ON_KINDS = pytest.mark.parametrize("kind", KINDS)


def make_densities(mesh):
    """Narrow ones, which are limited, a wide one, and an empty one."""
    narrow = [mesh.density(lambda x, k=k: x[0] < 0.2 * (k + 1)) for k in range(K - 2)]
    return np.stack([*narrow, mesh.density(lambda x: 2 + np.cos(3 * x[0])), 0 * mesh.volume])


# The last two change in time: steps of a batch share the matrices of their stages.
EQUATIONS = {
    "closed": dict(potential=lambda x: np.cos(6 * x[0])),
    "open": dict(
        drift=lambda x: 0 * x + 0.5,
        growth=lambda x: np.where(x[0] > 0.5, -5.0, 1.0 * (x[0] < 0.2)),
        source=lambda x: 1.0 * (x[0] < 0.6),
        boundary={"left": fvot.inflow(2.0), "right": fvot.robin(0.5, 0.3)},
    ),
    "moving": dict(potential=lambda x, t: np.cos(6 * x[0] - 9 * t)),
    "swinging": dict(
        source=lambda x, t: (1 + np.cos(6 * t)) * (x[0] < 0.5),
        boundary={"left": fvot.dirichlet(lambda x, t: 1 + np.sin(5 * t) + 0 * x[0])},
    ),
}
SHARP = dict(drift=lambda x: 5 + 0 * x, flux=fvot.limited(), boundary={"right": fvot.outflow})
LIMITED = {
    "steady": SHARP,
    "moving": SHARP | dict(growth=lambda x, t: -np.sin(5 * t) + 0 * x[0]),
}


def assert_same(batch, single, rtol):
    """A member of a batch, and a run of its own."""
    size = max(batch.mesh.ranks.max(np.abs(single.rho).max(initial=0.0)), 1.0)
    assert_allclose(batch.rho, single.rho, rtol=0, atol=rtol * size)
    assert list(batch.ledger) == list(single.ledger)
    for name, values in single.ledger.items():
        if name not in ("iterations", "solves", "limited", "time_error", "mass_error"):
            scale = np.abs(values).max() + 1
            assert_allclose(batch.ledger[name], values, rtol=0, atol=1e3 * rtol * scale)


@ON_KINDS
@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_equal_steps_give_the_numbers_of_single_runs(kind, name, order):
    mesh = KINDS[kind]()
    rho0 = make_densities(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.1, order=order, rtol=1e-12, **EQUATIONS[name])
    t = [0, 0.1, 0.15]
    batch = equation.solve(rho0, t, tau=0.03)
    assert batch.rho.shape == (3, K, mesh.n_cells)
    assert all(values.shape == (3, K) for values in batch.ledger.values())

    assert np.abs(batch.ledger["mass_error"]).max() <= 1e-15
    assert mesh.ranks.min(batch.rho.min(initial=np.inf)) >= 0
    if "energy" in batch.ledger:
        rising = np.diff(batch.ledger["energy"], axis=0)
        assert name == "moving" or rising.max() < 1e-13

    for i in range(K):
        single = equation.solve(rho0[i], t, tau=0.03)
        assert_same(batch.member(i), single, rtol=1e-9)
        assert_allclose(
            equation.step(rho0, 0.03, t=0.1)[i], equation.step(rho0[i], 0.03, t=0.1), atol=1e-8
        )
        assert_allclose(equation.current(rho0)[i], equation.current(rho0[i]), atol=1e-12)


@pytest.mark.parametrize("kind", ["interval", "triangles", "box"])
@pytest.mark.parametrize("name", LIMITED)
def test_batches_of_limited_fluxes_are_those_of_single_runs(kind, name):
    mesh = KINDS[kind]()
    rho0 = make_densities(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.01, rtol=1e-12, **LIMITED[name])
    batch = equation.solve(rho0, [0, 0.1, 0.15], tau=0.03)
    assert np.abs(batch.ledger["mass_error"]).max() <= 1e-15
    for i in range(K):
        assert_same(batch.member(i), equation.solve(rho0[i], [0, 0.1, 0.15], tau=0.03), rtol=1e-9)


@pytest.mark.parametrize("kind", ["interval", "triangles", "quadrilaterals"])
def test_signed_batches_are_those_of_single_runs(kind):
    mesh = KINDS[kind]()
    rho0 = np.stack([np.cos(k * mesh.centroid[0]) for k in range(K)])
    equation = FokkerPlanck(
        mesh,
        diffusion=lambda x, t: 0.1 + 0.05 * np.sin(9 * t) + 0 * x[0],
        boundary={"left": fvot.dirichlet(-1.0)},
        signed=True,
        rtol=1e-12,
    )
    batch = equation.solve(rho0, [0, 0.1, 0.2], tau=0.05)
    assert batch.velocity is None
    for i in range(K):
        single = equation.solve(rho0[i], [0, 0.1, 0.2], tau=0.05)
        assert_same(batch.member(i), single, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("interval", "closed"),
        ("interval", "moving"),
        ("triangles", "swinging"),
        ("quadrilaterals", "open"),
    ],
)
def test_adaptive_steps_are_those_of_the_worst_member(kind, name):
    mesh = KINDS[kind]()
    rho0 = make_densities(mesh)
    tol = 1e-2
    equation = FokkerPlanck(mesh, diffusion=0.1, tol=tol, **EQUATIONS[name])
    t = [0, 0.05, 0.1]
    batch = equation.solve(rho0, t)
    steps = batch.ledger["steps"]
    assert (steps == steps[:, :1]).all()
    assert batch.ledger["time_error"].max() <= tol

    singles = [equation.solve(rho, t) for rho in rho0]
    most = max(single.ledger["steps"][-1] for single in singles)
    assert steps[-1, 0] <= 2 * most
    for i, single in enumerate(singles):
        difference = mesh.integrate(np.abs(batch.rho[-1, i] - single.rho[-1]))
        scale = max(single.ledger["mass"].max(), batch.ledger["mass"][:, i].max())
        assert difference <= 2 * tol * scale + 1e-15


def test_one_density_as_a_batch():
    mesh = KINDS["triangles"]()
    rho0 = make_densities(mesh)[:1]
    equation = FokkerPlanck(mesh, diffusion=0.1)
    batch = equation.solve(rho0, [0, 0.1])
    single = equation.solve(rho0[0], [0, 0.1])
    assert_same_solution(mesh.ranks, batch.rho[:, 0], single.rho)
    assert batch.n_members == 1 and single.n_members is None


def test_a_time_dependent_matrix_is_made_once_for_all(monkeypatch):
    """Two stages of 3 steps, and the estimate of the last one: as many matrices as for one."""
    mesh = KINDS["triangles"]()
    rho0 = np.stack([mesh.density(lambda x, k=k: 2 + np.cos(k * x[0])) for k in range(K)])
    equation = FokkerPlanck(
        mesh, diffusion=lambda x, t: 1 + 0.1 * np.sin(t) + 0 * x[0], potential=lambda x: x[0]
    )
    rates_made = []
    make_rates = equation._operator.rates
    monkeypatch.setattr(
        equation._operator, "rates", lambda t: rates_made.append(t) or make_rates(t)
    )

    equation.solve(rho0[0], 0.03, tau=0.01)
    n_of_one = len(rates_made)
    rates_made.clear()
    equation.solve(rho0, 0.03, tau=0.01)
    assert len(rates_made) <= n_of_one + 1


# ---- what results do -----------------------------------------------------------------------------


def test_results_and_their_members(shared_folder):
    mesh = KINDS["triangles"]()
    rho0 = make_densities(mesh)
    boundary = {"left": fvot.dirichlet(0.0)}
    equation = FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0], boundary=boundary)
    t = [0, 0.1, 0.2, 0.3]
    batch = equation.solve(rho0, t, tau=0.1)
    singles = [equation.solve(rho, t, tau=0.1) for rho in rho0]

    points = np.array([[0.3, 0.6], [0.4, 0.7]])
    probed = batch.probe(points)
    assert probed.shape == (4, K, 2)
    assert batch.probe(points[:, 0]).shape == (4, K)
    through = batch.flux_through("left")
    assert through.shape == (3, K)
    assert batch.velocity.shape == (4, K, 2, mesh.n_cells)
    assert list(batch.fields)[: K + 2] == [
        *(f"density_{i}" for i in range(K)),
        "current_0",
        "velocity_0",
    ]
    for i, single in enumerate(singles):
        assert_allclose(probed[:, i], single.probe(points), atol=1e-12)
        assert_allclose(through[:, i], single.flux_through("left"), atol=1e-12)
        member = batch.member(i)
        assert list(member.fields) == list(single.fields)
        for name in single.fields:
            assert_allclose(member.fields[name][2], single.fields[name][2], atol=1e-9)
        assert_allclose(batch.fields[f"current_{i}"][2], single.fields["current"][2], atol=1e-9)
        assert_allclose(batch.velocity[:, i], single.velocity, atol=1e-8)
    assert_allclose(
        batch.member(-2).velocity_at(points, 0.15), singles[-2].velocity_at(points, 0.15), atol=1e-8
    )

    assert f"{K} densities, masses 0 to " in repr(batch)
    table = batch.ledger._repr_html_()
    assert table.startswith("<table><tr><th>t</th><th>member</th>")
    assert table.count("<tr>") == 1 + 4 * K

    path = shared_folder / "batch.pvd"
    batch.write(path, fields=["density_0", "density_3", "current_3", "potential"])
    batch.write(shared_folder / "all.pvd")
    assert path.exists()
    with pytest.raises(InputError, match="this run has no density to write, but density_0"):
        batch.write(path, fields=["density"])


def test_pictures_are_of_one_member(shared_folder):
    mesh = Mesh.interval(0, 1, 20)
    result = FokkerPlanck(mesh, diffusion=0.1).solve(make_densities(mesh), [0, 0.1])
    for draw in result.plot, lambda: result.movie(shared_folder / "run.gif"):
        with pytest.raises(InputError, match=r"result\.member\(i\)"):
            draw()
    result.plot(shared_folder / "one.png", field="density_1")
    result.member(1).plot(shared_folder / "member.png")
    with pytest.raises(InputError, match=r"result\.member\(i\)\.velocity_at"):
        result.velocity_at(np.array([[0.5]]), 0.05)
    with pytest.raises(InputError, match="several densities"):
        result.to_points()
    points, weights = result.member(0).to_points()
    assert abs(weights.sum() - 1) < 1e-12


def test_files_are_written_during_the_run(shared_folder):
    mesh = KINDS["triangles"]()
    output = fvot.Output(shared_folder / "run.vtkhdf", fields=["density_2", "velocity_2"])
    FokkerPlanck(mesh, diffusion=0.1).solve(make_densities(mesh), [0, 0.1, 0.2], write=output)
    assert (shared_folder / "run.vtkhdf").exists()


@pytest.mark.parametrize("kind", ["triangles", "quadrilaterals"])
def test_a_batch_continues_from_its_checkpoint(kind, shared_folder):
    mesh = KINDS[kind]()
    rho0 = make_densities(mesh)
    equation = FokkerPlanck(mesh, diffusion=0.1, **EQUATIONS["open"])
    t = [0, 0.1, 0.2]
    whole = equation.solve(rho0, t, tau=0.02)
    checkpoint = Checkpoint(shared_folder / "run.h5")
    equation.solve(rho0, t[:2], tau=0.02, checkpoint=checkpoint)
    continued = equation.solve(rho0, t, tau=0.02, checkpoint=checkpoint)
    assert_allclose(continued.rho, whole.rho, rtol=0, atol=1e-8 * rho0.max(initial=1.0))
    for name, values in whole.ledger.items():
        assert_allclose(continued.ledger[name], values, rtol=1e-6, atol=1e-13)

    with pytest.raises(InputError, match="densities is 4, here None"):
        equation.solve(rho0[0], t, tau=0.02, checkpoint=checkpoint)


def test_a_batch_can_be_pickled(one_rank_here):
    mesh = KINDS["triangles"]()
    batch = FokkerPlanck(mesh, diffusion=0.1).solve(make_densities(mesh), [0, 0.1], tau=0.05)
    for other in pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch):
        assert np.array_equal(other.rho, batch.rho)
        assert_allclose(other.member(2).velocity, batch.member(2).velocity)
        assert_allclose(other.ledger["mass"], batch.ledger["mass"])


def test_a_run_that_fails_has_its_result():
    mesh = KINDS["triangles"]()
    equation = FokkerPlanck(mesh, diffusion=0.1, order=1, tol=1e-12)
    with pytest.raises(fvot.ConvergenceError) as caught:
        fields = make_densities(mesh)
        equation.solve(fields, [0, 1e-9, 1e9])
    assert caught.value.result.rho.shape[1:] == (K, mesh.n_cells)


# ---- what is refused -----------------------------------------------------------------------------


def test_bad_batches_are_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 5))
    rho0 = np.ones((3, mesh.n_cells))
    equation = FokkerPlanck(mesh, diffusion=1.0)
    for bad in rho0[:0], rho0[:, :-1], rho0[None], rho0.T:
        with pytest.raises(InputError, match="has shape"):
            equation.solve(bad, 0.1)
    bad = rho0.copy()
    bad[1, 0] = -1
    with pytest.raises(InputError, match=r"rho0\[1\] is -1.0 in cell"):
        equation.solve(bad, 0.1)
    result = equation.solve(rho0, 0.1)
    with pytest.raises(InputError, match="from 0 to 2, not 3"):
        result.member(3)
    with pytest.raises(InputError, match="no members"):
        result.member(0).member(0)

    others = [
        fvot.ContinuityEquation(mesh, (0.0, 0.0)),
        fvot.JKO(mesh, fvot.Entropy(1.0)),
    ]
    for other in others:
        with pytest.raises(InputError, match="at once are for FokkerPlanck only"):
            other.solve(rho0, 0.1)
    with pytest.raises(InputError, match="at once are for FokkerPlanck only"):
        fvot.BenamouBrenier(mesh, n_steps=4).solve(rho0, rho0[0])


def test_ranks_must_agree_on_the_number_of_densities(ranks):
    if ranks.size == 1:
        pytest.skip("for several ranks")
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 5))
    rho0 = np.ones((1 + ranks.rank, mesh.n_cells))
    with pytest.raises(InputError, match="the number of densities in rho0"):
        FokkerPlanck(mesh, diffusion=1.0).solve(rho0, 0.1)
