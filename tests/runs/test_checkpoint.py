"""Runs that are interrupted and go on from their checkpoint; files that do not fit, or are damaged.
See `test_killed.py`.
"""

import errno
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import Checkpoint, InputError, Mesh, parallel
from fvot.fokker_planck.run import FokkerPlanckRun
from fvot.mesh.numbering import find_numbering
from fvot.runs import checkpoint, checkpoint_file

pytestmark = pytest.mark.ranks


class Interrupted(Exception):
    """The run has written as many checkpoints as it should."""


@pytest.fixture
def interrupted(monkeypatch):
    """interrupted(run, every): run() again and again, each time until so many checkpoints are
    there: (result, times).
    """
    write = checkpoint.CheckpointManager.write

    def until_done(run, every):
        written = 0

        def counted(self, *state):
            nonlocal written
            write(self, *state)
            written += 1
            if written % every == 0:
                raise Interrupted

        monkeypatch.setattr(checkpoint.CheckpointManager, "write", counted)
        for times in range(1, 1000):
            try:
                result = run()
            except Interrupted:
                continue
            monkeypatch.setattr(checkpoint.CheckpointManager, "write", write)
            return result, times
        raise AssertionError("the run gets no further")

    return until_done


def swirl(x, t=0.0):
    return (1 + t) * np.stack([0.5 - x[1], x[0] - 0.5])


def bowl(x):
    return ((x - 0.3) ** 2).sum(axis=0)


OPEN = {"left": fvot.inflow(1.0), "right": fvot.outflow}
EQUATIONS = {
    "muscl": lambda mesh: (fvot.ContinuityEquation(mesh, swirl, boundary=OPEN), {}),
    "unsteady": lambda mesh: (
        fvot.ContinuityEquation(mesh, lambda x, t: swirl(x, t), boundary=OPEN),
        {},
    ),
    "upwind": lambda mesh: (
        fvot.ContinuityEquation(mesh, swirl, flux=fvot.upwind, boundary=OPEN),
        dict(tau=0.01),
    ),
    "diffusion": lambda mesh: (
        fvot.FokkerPlanck(mesh, diffusion=0.1, potential=bowl),
        dict(tau=0.02),
    ),
    "adaptive diffusion": lambda mesh: (
        fvot.FokkerPlanck(
            mesh,
            diffusion=0.1,
            drift=swirl,
            order=3,
            tol=1e-3,
            boundary={"left": fvot.dirichlet(1.0)},
        ),
        {},
    ),
    "growth and a source": lambda mesh: (
        fvot.FokkerPlanck(
            mesh, diffusion=0.1, growth=lambda x: 2 - 5 * x[0], source=1.0, order=3, tol=1e-3
        ),
        {},
    ),
    "midpoint": lambda mesh: (
        fvot.JKO(mesh, fvot.Entropy(0.1) + fvot.Potential(bowl)),
        dict(tau=0.02),
    ),
    "adaptive midpoint": lambda mesh: (
        fvot.JKO(mesh, fvot.Entropy(0.1) + fvot.Potential(bowl), tol=1e-2),
        {},
    ),
    "crowd": lambda mesh: (
        fvot.JKO(mesh, fvot.Entropy(0.01) + fvot.Potential(bowl), bounds=(0, 3)),
        dict(tau=0.05),
    ),
}
EXPLICIT = {"muscl", "unsteady", "upwind"}
MESHES = {
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 8),
    "squares": lambda: Mesh.rectangle((0, 0), (1, 1), (9, 8)),
}


@pytest.mark.filterwarnings("ignore:the velocity crosses")
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", EQUATIONS)
def test_an_interrupted_run_goes_on_to_the_same_numbers(name, mesh, interrupted, shared_folder):
    mesh = MESHES[mesh]()
    equation, options = EQUATIONS[name](mesh)
    rho0 = mesh.density(lambda x: x[0] < 0.4)
    t = [0, 0.1, 0.3]
    whole = equation.solve(rho0, t, **options)
    kept = Checkpoint(shared_folder / "run.h5", every=0)
    result, times = interrupted(
        lambda: EQUATIONS[name](mesh)[0].solve(rho0, t, checkpoint=kept, **options), 2
    )
    assert times > 2
    atol = 1e-15 if name in EXPLICIT else 1e-8
    assert_allclose(result.rho, whole.rho, atol=atol * mesh.ranks.max(whole.rho.max()))
    assert result.ledger.keys() == whole.ledger.keys()
    for entry, values in whole.ledger.items():
        if (
            entry not in ("iterations", "solves", "newton", "minimum", "time_error")
            or name in EXPLICIT
        ):
            assert_allclose(result.ledger[entry], values, rtol=1e-7, atol=1e-12, err_msg=entry)
    again = equation.solve(rho0, t, checkpoint=kept, **options)
    assert_array_equal(again.rho, result.rho)
    longer = equation.solve(rho0, [*t, 0.35], checkpoint=kept, **options)
    assert_array_equal(longer.rho[:3], result.rho)


@pytest.mark.parametrize("more", [40, 0, -20])
def test_finished_transport_iterates_no_more(ranks, more, shared_folder):
    """Whether max_iter leaves fewer iterations than another ramp takes, none, or less than none."""
    mesh = Mesh.interval(0, 1, 32)
    rho0, rho1 = (
        mesh.density(lambda x, at=at: np.exp(-40 * (x[0] - at) ** 2)) for at in (0.3, 0.7)
    )
    kept = Checkpoint(shared_folder / "run.h5")
    path = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2).solve(rho0, rho1, checkpoint=kept)

    max_iter = path.iterations + more
    solver = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2, max_iter=max_iter)
    again = solver.solve(rho0, rho1, checkpoint=kept)
    assert again.iterations == path.iterations
    assert again.cost == pytest.approx(path.cost, rel=1e-6)


@pytest.mark.parametrize("free", [False, True], ids=["fixed end", "free end"])
@pytest.mark.parametrize("mesh", MESHES)
def test_interrupted_transport_reaches_its_tolerance(mesh, free, interrupted, shared_folder):
    mesh = MESHES[mesh]()
    rho0, rho1 = (
        mesh.density(lambda x, at=at: np.exp(-((x - at) ** 2).sum(axis=0) / 0.05))
        for at in (0.35, 0.6)
    )
    solver = fvot.BenamouBrenier(
        mesh, n_steps=8, tol=2e-3, terminal=0.2 * fvot.Entropy() if free else None
    )
    ends = (rho0,) if free else (rho0, rho1)
    whole = solver.solve(*ends)
    kept = Checkpoint(shared_folder / "run.h5", every=0)
    path, times = interrupted(lambda: solver.solve(*ends, checkpoint=kept), 25)
    assert times > 1 and path.gap <= 2e-3 and path.residual < 1e-13
    assert max(path.lower_bound, whole.lower_bound) <= min(path.cost, whole.cost) * (1 + 1e-12)
    assert path.iterations <= 1.5 * whole.iterations
    again = solver.solve(*ends, checkpoint=kept)
    assert again.iterations == path.iterations and again.cost == pytest.approx(path.cost, rel=1e-6)


class Donor:
    """The upwind flux, as a callable object: its repr has an address, which changes."""

    def __call__(self, U, k):
        return fvot.upwind(U, k)


def test_a_run_with_a_callable_flux_goes_on(shared_folder):
    mesh = MESHES["squares"]()
    rho0 = mesh.density(lambda x: x[0] < 0.4)
    kept = Checkpoint(shared_folder / "run.h5")

    def solve(flux):
        equation = fvot.ContinuityEquation(mesh, swirl, flux=flux, boundary=OPEN)
        return equation.solve(rho0, [0, 0.1], checkpoint=kept)

    donors = Donor(), Donor()
    first, again = map(solve, donors)
    assert_array_equal(again.rho, first.rho)


def test_other_ranks_go_on(ranks, shared_folder):
    """What all ranks have begun, one goes on with; and the other way round."""
    alone = ranks.comm.Split(ranks.rank)
    rho = []
    kept = Checkpoint(shared_folder / "run.h5")
    for comms in (ranks.comm, alone), (alone, ranks.comm):
        for comm, t in zip(comms, ([0, 0.2], [0, 0.2, 0.4])):
            if comm is ranks.comm or ranks.is_root:
                mesh = Mesh.triangles((0, 0), (1, 1), 8, comm=comm)
                start = mesh.density(lambda x: x[0] < 0.4)
                equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=bowl)
                result = equation.solve(start, t, tau=0.02, checkpoint=kept)
                rho.append(mesh.gather(result.rho))
            ranks.wait()
        if ranks.is_root:
            (shared_folder / "run.h5").unlink()
            (shared_folder / "run.h5.before").unlink()
        ranks.wait()
    if ranks.is_root:
        assert_allclose(rho[1], rho[3], atol=1e-8)


# ---- what does not fit ---------------------------------------------------------------------------


def solve(path, mesh=None, t=(0, 0.1), diffusion=0.1, start=0.4, **options):
    mesh = mesh or Mesh.rectangle((0, 0), (1, 1), (8, 8))
    equation = fvot.FokkerPlanck(mesh, diffusion=diffusion)
    return equation.solve(
        mesh.density(lambda x: x[0] < start),
        t,
        checkpoint=Checkpoint(path),
        **(dict(tau=0.05) | options),
    )


@pytest.fixture
def kept(shared_folder):
    """A checkpoint of `solve`."""
    solve(shared_folder / "run.h5")
    return shared_folder / "run.h5"


@pytest.mark.parametrize(
    "options, words",
    [
        (
            lambda: dict(mesh=Mesh.rectangle((0, 0), (1, 1), (8, 9))),
            "another mesh: cells is 64, here 72",
        ),
        (
            lambda: dict(mesh=Mesh.rectangle((0, 0), (1, 2), (8, 8))),
            "another mesh: places is not the same",
        ),
        (lambda: dict(mesh=Mesh.rectangle((0, 0), (1, 1), (16, 4))), "another mesh: places"),
        (
            lambda: dict(mesh=Mesh.box((0, 0, 0), (1, 1, 1), (4, 4, 4))),
            "another mesh: dim is 2, here 3",
        ),
        (lambda: dict(diffusion=0.2), "another problem: coefficients"),
        (lambda: dict(start=0.6), "another problem: .* is not the same"),
        (lambda: dict(tau=0.1), "another problem: tau is 0.05, here 0.1"),
        (lambda: dict(tau=None), "another problem: (tau|tol)"),
        (lambda: dict(t=(0, 0.2)), "has reached the times .* t must begin with these"),
    ],
)
def test_a_checkpoint_of_something_else(kept, options, words):
    with pytest.raises(InputError, match=words):
        solve(kept, **options())


def test_a_checkpoint_of_another_solver(kept):
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    with pytest.raises(InputError, match="another problem"):
        fvot.JKO(mesh, fvot.Entropy(0.1)).solve(
            mesh.density(lambda x: x[0] < 0.4), 0.1, checkpoint=Checkpoint(kept), tau=0.05
        )


def test_other_times_are_named_where_the_velocity_depends_on_them(shared_folder):
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    kept = Checkpoint(shared_folder / "run.h5")
    equation = fvot.ContinuityEquation(
        mesh, stream=lambda x, t: (1 + t) * np.sin(np.pi * x).prod(axis=0)
    )
    diffusion = fvot.FokkerPlanck(mesh, diffusion=lambda x, t: 1 + t + x[0])
    for solver in equation, diffusion:
        solver.solve(np.ones(mesh.n_cells), [0, 0.1, 0.2], tau=0.1, checkpoint=kept)
        for t in [0, 0.15, 0.2], [0.1, 0.2], [0, 0.1]:
            with pytest.raises(
                InputError, match="has reached the times .* t must begin with these"
            ):
                solver.solve(np.ones(mesh.n_cells), t, tau=0.1, checkpoint=kept)
        with pytest.raises(InputError, match="another mesh|solver is|another problem: rho0"):
            solver.solve(2 * np.ones(mesh.n_cells), [0, 0.1, 0.2], tau=0.1, checkpoint=kept)
        with pytest.raises(InputError, match="solver is"):
            fvot.JKO(mesh, fvot.Entropy()).solve(np.ones(mesh.n_cells), 0.3, checkpoint=kept)
        mesh.ranks.on_root(kept.path.unlink)


# ---- two runs ------------------------------------------------------------------------------------


def test_one_run_for_a_file(kept, ranks):
    """The second one is refused before it touches anything; the file is free again when the first
    one has ended, or failed.
    """
    before = ranks.broadcast(kept.read_bytes())
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    equation = fvot.FokkerPlanck(mesh, diffusion=0.1)
    for _ in range(2):
        run = FokkerPlanckRun(
            equation._stepper,
            find_numbering(mesh),
            mesh.density(lambda x: x[0] < 0.4),
            np.array([0, 0.1]),
            tau=0.05,
            tol=equation.tol,
        )
        with (
            pytest.raises(ZeroDivisionError),
            checkpoint.CheckpointManager(Checkpoint(kept), mesh, run.describe),
        ):
            with pytest.raises(InputError, match="another run .process .* on .* wait for its end"):
                solve(kept)
            raise ZeroDivisionError
    assert kept.read_bytes() == before
    solve(kept)
    assert not kept.with_name("run.h5.lock").exists()


def test_where_there_are_no_locks(kept, ranks, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refused)
    assert len(solve(kept, t=(0, 0.1, 0.2)).t) == 3
    assert not kept.with_name("run.h5.lock").exists()


# ---- what one costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("block, gathers", [(1 << 20, 2), (1, 8), (64 * 3, 4)])
def test_recorded_times_are_gathered_in_blocks(block, gathers, shared_folder, monkeypatch):
    """Of a small mesh all at once, of a large one a row at a time, to the same file."""
    gather = parallel.Ranks.gather_to_root
    counted = []
    path = shared_folder / "run.h5"
    t = np.linspace(0, 0.3, 7)

    def counting(self, array):
        counted.append(np.ndim(array))
        return gather(self, array)

    monkeypatch.setattr(checkpoint, "GATHERED_NUMBERS", block)
    whole = solve(path, t=t)
    with monkeypatch.context() as patch:
        patch.setattr(parallel.Ranks, "gather_to_root", counting)
        again = solve(path, t=t)  # has nothing to do, but writes what it has
    assert (
        len(counted) == gathers + 1
    )  # rho; densities at seven times; and the numbers of the cells
    assert_array_equal(again.rho, whole.rho)
    assert_array_equal(solve(path, t=t).rho, whole.rho)


def damaged(kept, ranks, change):
    """Change the bytes of the file on rank 0."""
    if ranks.is_root:
        kept.write_bytes(change(bytearray(kept.read_bytes())))
    ranks.wait()


def flipped(place):
    def change(data):
        data[place] ^= 16
        return data

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[:700], "damaged"),
        (lambda data: data[:40], "damaged"),
        (lambda data: b"", "not a checkpoint"),
        (lambda data: data + b"x", "damaged"),
        (flipped(-1), "damaged"),
        (flipped(2000), "damaged"),
        (flipped(60), "damaged"),
        (flipped(0), "not a checkpoint"),
        (
            lambda data: data.replace(b"fvot checkpoint 3", b"fvot checkpoint 1"),
            "another version of fvot .format 1, this has 3",
        ),
        (lambda data: b"\x89HDF\r\n\x1a\n" + data, "not a checkpoint"),
        (lambda data: b"\0" * len(data), "not a checkpoint"),
    ],
)
def test_a_damaged_checkpoint(kept, ranks, change, words):
    damaged(kept, ranks, change)
    with pytest.raises(InputError, match=words):
        solve(kept)


def test_the_one_before(kept, ranks, shared_folder):
    """A damaged file is not passed over; the remedy that its message names helps."""
    solve(kept, t=(0, 0.1, 0.2))
    damaged(kept, ranks, flipped(1000))
    with pytest.raises(InputError, match="copy .*run.h5.before over it"):
        solve(kept, t=(0, 0.1, 0.2))
    if ranks.is_root:
        shutil.copy(f"{kept}.before", kept)
    ranks.wait()
    assert len(solve(kept, t=(0, 0.1, 0.2)).t) == 3
    if ranks.is_root:
        kept.unlink()  # as a run that was killed between two names leaves it
    ranks.wait()
    assert len(solve(kept, t=(0, 0.1, 0.2)).t) == 3


def test_what_to_delete_are_the_files_that_there_are(kept, ranks):
    """Both files, or the one that is left; then the run starts anew."""
    solve(kept, t=(0, 0.1, 0.2))
    before = kept.with_name(f"{kept.name}.before")
    with pytest.raises(InputError, match=rf"delete both it and {re.escape(str(before))} to start"):
        solve(kept, t=(0, 0.1, 0.2), diffusion=0.2)
    if ranks.is_root:
        kept.unlink()
    ranks.wait()
    with pytest.raises(InputError, match=rf"{re.escape(str(before))} is .* or delete it to start"):
        solve(kept, t=(0, 0.1, 0.2), diffusion=0.2)
    if ranks.is_root:
        before.unlink()
    ranks.wait()
    assert len(solve(kept, diffusion=0.2).t) == 2


def test_bad_checkpoints(ranks, shared_folder):
    mesh = Mesh.interval(0, 1, 8)
    equation = fvot.FokkerPlanck(mesh, diffusion=1)
    rho0 = mesh.density(lambda x: x[0])
    if ranks.is_root:
        (shared_folder / "file").write_text("a file")
    ranks.wait()
    for wrong, words in [
        ("run.h5", "must be a fvot.Checkpoint"),
        (Checkpoint(3), "path of a file"),
        (Checkpoint(""), "path of a file"),
        (Checkpoint(shared_folder), "is a folder"),
        (Checkpoint(shared_folder / "file" / "run.h5"), "can be written"),
        (Checkpoint(shared_folder / "a.h5", every=-1), "every"),
        (Checkpoint(shared_folder / "a.h5", every="1h"), "every"),
        (Checkpoint(shared_folder / "a.h5", every=np.nan), "every"),
        *(
            [(Checkpoint(shared_folder / f"a{ranks.rank}.h5"), "same on every rank")]
            * (ranks.size > 1)
        ),
    ]:
        with pytest.raises(InputError, match=words):
            equation.solve(rho0, 1.0, checkpoint=wrong)


# ---- any bytes -----------------------------------------------------------------------------------


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4)


def any_change(folder, changes, cut, more):
    """A changed file is refused by an `InputError`, and left as it is."""
    path = folder / "run.h5"
    if not path.exists():
        solve(path, mesh=Mesh.rectangle((0, 0), (1, 1), (8, 8), comm=checkpoint_alone()))
        (folder / "original").write_bytes(path.read_bytes())
    original = (folder / "original").read_bytes()
    data = bytearray(original)
    for place, by in changes:
        data[place % len(data)] ^= by
    data = data[: cut % (len(data) + 1)] + more if cut is not None else data + more
    path.write_bytes(data)
    if bytes(data) != original:
        with pytest.raises(InputError):
            checkpoint_file.open_checkpoint(path, {"mesh": {}, "problem": {}})
    assert path.read_bytes() == data


def checkpoint_alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


ARGUMENTS = dict(
    changes=CHANGES, cut=st.none() | st.integers(0, 10**5), more=st.binary(max_size=20)
)


@given(**ARGUMENTS)
@settings(max_examples=300)
def test_any_change_is_seen(tmp_path_factory, ranks, changes, cut, more):
    any_change(tmp_path_factory.getbasetemp(), changes, cut, more)


@pytest.mark.slow
@given(**ARGUMENTS)
@settings(max_examples=10_000)
def test_any_of_many_changes_is_seen(tmp_path_factory, changes, cut, more):
    any_change(tmp_path_factory.getbasetemp(), changes, cut, more)
