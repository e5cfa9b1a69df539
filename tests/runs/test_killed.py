"""Runs that are killed, stopped by a scheduler, or find a full disk go on from their checkpoint, to
the same numbers.
"""

import io
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("mpirun_here")]

TESTS = Path(__file__).parents[1]
LIMIT = 120  # seconds for a run
SAME = {"continuity": 1e-14, "fokker_planck": 1e-8, "jko": 1e-8, "transport": 4e-3}


def start(folder, n_ranks=2, **options):
    """The process of a run that is kept in a folder."""
    for old in folder.glob("pid*"):
        old.unlink()
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [
        TESTS.parent / "scripts/mpirun",
        "-n",
        str(n_ranks),
        "python",
        "-m",
        "mpi4py",
        TESTS / "kept_run.py",
        "--folder",
        folder,
        *words,
    ]
    environment = os.environ | {"MPIEXEC_TIMEOUT": str(LIMIT)}
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process):
    """(exit status, output)."""
    try:
        output, _ = process.communicate(timeout=LIMIT + 20)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def steps(folder):
    """Steps, or iterations, of which the checkpoint knows; 0 without one."""
    for name in "run.h5", "run.h5.before", "run.h5":  # the run may be about to rename them
        try:
            with h5py.File(io.BytesIO((folder / name).read_bytes()), "r") as file:
                state = json.loads(file["meta"][()])["values"]
            return state["used"] + state["done"] if "used" in state else _steps(state["state"])
        except FileNotFoundError:
            pass
    return 0


def _steps(state):
    return state.get("run", state.get("state", state))["steps"]


def pids(folder, n_ranks=2):
    deadline = time.monotonic() + LIMIT
    while not all((folder / f"pid{rank}").exists() for rank in range(n_ranks)):
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.01)
    time.sleep(0.05)
    return [int((folder / f"pid{rank}").read_text()) for rank in range(n_ranks)]


def kill(process, victims):
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has come to its end before
    return ended(process)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a solver returns on two ranks, when nobody kills it: made once for each."""
    known = {}

    def found(solver):
        if solver not in known:
            folder = tmp_path_factory.mktemp("whole")
            status, output = ended(start(folder, solver=solver, every=1e9))
            assert status == 0, output
            known[solver] = np.load(folder / "rho.npy")
        return known[solver]

    return found


def killed_again_and_again(folder, solver, times, everyone):
    """Kill a run at random moments; the number of times that it lived to be killed."""
    moments = random.Random(times + everyone)
    kills = 0
    known = 0
    for _ in range(times):
        process = start(folder, solver=solver, every=0.0)
        victims = pids(folder)
        deadline = time.monotonic() + 30
        while (
            steps(folder) <= known and process.poll() is None and time.monotonic() < deadline
        ):  # some way further
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        status, _ = kill(
            process, [*victims, process.pid] if everyone else [moments.choice(victims)]
        )
        now = steps(folder)
        assert now >= known, "a checkpoint is gone"
        known = now
        kills = kills + (status != 0)
        if (folder / "rho.npy").exists():
            break
    return kills


@pytest.mark.parametrize("everyone", [False, True], ids=["a rank", "all"])
@pytest.mark.parametrize(
    "solver",
    [
        "continuity",
        pytest.param("fokker_planck", marks=pytest.mark.slow),
        pytest.param("jko", marks=pytest.mark.slow),
        pytest.param("transport", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(tmp_path, uninterrupted, solver, everyone, request):
    times = 20 if request.config.option.slow else 2
    kills = killed_again_and_again(tmp_path, solver, times, everyone)
    assert kills >= min(times, 2)
    status, output = ended(start(tmp_path, solver=solver))
    assert status == 0, output
    rho = uninterrupted(solver)
    assert_allclose(
        np.load(tmp_path / "rho.npy"), rho, rtol=0, atol=SAME[solver] * np.abs(rho).max()
    )


def test_another_number_of_ranks_and_a_longer_time(tmp_path, uninterrupted):
    """Begun on two ranks, gone on with three to the middle, ended on one."""
    process = start(tmp_path, every=0.0)
    victims = pids(tmp_path)
    while steps(tmp_path) < 5 and process.poll() is None:
        time.sleep(0.01)
    kill(process, victims)
    status, output = ended(start(tmp_path, n_ranks=3, ends=0.5))
    assert status == 0, output
    assert len(np.load(tmp_path / "rho.npy")) == 3
    status, output = ended(start(tmp_path, n_ranks=1))
    assert status == 0, output
    assert_allclose(np.load(tmp_path / "rho.npy"), uninterrupted("continuity"), rtol=0, atol=1e-12)


def test_a_second_run(tmp_path, uninterrupted):
    """It is refused while the first one is there, here halted; killed, the first one leaves no lock
    that holds.
    """
    process = start(tmp_path, every=0.0)
    victims = pids(tmp_path)
    while steps(tmp_path) == 0 and process.poll() is None:
        time.sleep(0.01)
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    status, output = ended(start(tmp_path))
    assert status != 0 and f"another run (process {victims[0]} on" in output, output
    status, _ = kill(process, victims)
    assert status != 0 and (tmp_path / "run.h5.lock").exists()
    status, output = ended(start(tmp_path))
    assert status == 0, output
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run.h5", "run.h5.before"]
    assert_allclose(np.load(tmp_path / "rho.npy"), uninterrupted("continuity"), rtol=0, atol=1e-14)


def test_stopped_by_a_scheduler(tmp_path, uninterrupted):
    """SIGTERM to the ranks: a last checkpoint, and the exit status 143."""
    process = start(tmp_path, every=0.1)
    victims = pids(tmp_path)
    while steps(tmp_path) == 0 and process.poll() is None:
        time.sleep(0.01)
    known = steps(tmp_path)
    for pid in victims:
        os.kill(pid, signal.SIGTERM)
    status, output = ended(process)
    assert status == 143 and "continues from there" in output, (status, output)
    assert steps(tmp_path) > known
    status, output = ended(start(tmp_path))
    assert status == 0, output
    assert_allclose(np.load(tmp_path / "rho.npy"), uninterrupted("continuity"), rtol=0, atol=1e-14)


def test_a_full_disk(tmp_path, uninterrupted):
    """A checkpoint that cannot be written is a warning; the one before stays, and the run comes to
    its end.
    """
    whole = tmp_path / "size"
    whole.mkdir()
    assert ended(start(whole, every=1e9))[0] == 0
    status, output = ended(
        start(tmp_path, every=0.01, most=(whole / "run.h5").stat().st_size * 2 // 3)
    )
    assert status == 0 and "no checkpoint could be written" in output, output
    assert 0 < steps(tmp_path) < steps(whole)
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run.h5", "run.h5.before"]
    assert_allclose(np.load(tmp_path / "rho.npy"), uninterrupted("continuity"), rtol=0, atol=1e-14)
