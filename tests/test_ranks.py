"""The files marked `ranks` once more, on 2, 3 and 4 ranks: one launch of MPI for each number."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("mpirun_here")]

TESTS = Path(__file__).parent
MARKED = sorted(
    path
    for path in TESTS.rglob("test_*.py")
    if "\npytestmark = pytest.mark.ranks\n" in path.read_text()
)
LIMIT = 1500  # seconds for a launch


def launch(n_ranks, *arguments, limit=LIMIT):
    """(exit status, output) of pytest on several ranks."""
    return start(
        n_ranks,
        "-m",
        "mpi4py",
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        *map(str, arguments),
        limit=limit,
    )


def start(n_ranks, *arguments, limit):
    """(exit status, output) of Python on several ranks."""
    environment = os.environ | {
        "MPIEXEC_TIMEOUT": str(limit)
    }  # mpirun itself ends a run after the limit
    command = [TESTS.parent / "scripts/mpirun", "-n", str(n_ranks), "python", *arguments]
    process = subprocess.Popen(
        command,
        cwd=TESTS.parent,
        env=environment,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=limit + 20)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # mpirun takes its ranks with it
        process.wait(10)
        raise
    return process.returncode, output


@pytest.mark.parametrize(
    "n_ranks, files",
    [
        (2, MARKED),
        (3, MARKED),
        (4, [TESTS / "mesh/test_mesh.py", TESTS / "continuity/test_continuity.py"]),
    ],
)
def test_the_same_on_several_ranks(n_ranks, files, request):
    """Programs for users, whose solvers all have tests of their own, run on 2 ranks; on 3, with
    --slow.
    """
    slow = ["--slow"] if request.config.option.slow else []
    if n_ranks > 2 and not slow:
        files = [path for path in files if path.name != "test_demos.py"]
    status, output = launch(n_ranks, "-m", "ranks", *slow, *files)
    assert status == 0, f"on {n_ranks} ranks, exit status {status}:\n{output[-20_000:]}"


@pytest.mark.parametrize(
    "name, words",
    [
        ("one_rank_fails", "rank 1 of 2"),
        ("one_rank_raises_while_the_other_waits", "no reason"),
        ("one_rank_does_not_come", "Timeout"),
    ],
)
def test_a_failure_on_one_rank_ends_the_run_and_is_shown(name, words):
    status, output = launch(2, TESTS / f"failing_on_purpose.py::test_{name}", limit=60)
    assert status != 0 and words in output


ONE_FAILS = """
import fvot
mesh = fvot.Mesh.triangles(0, 1, 8)
if mesh.ranks.rank == 1:
    raise RuntimeError("no reason")
mesh.integrate(mesh.volume)
"""
ALL_FAIL = """
import fvot
mesh = fvot.Mesh.triangles(0, 1, 8)
fvot.ContinuityEquation(mesh, velocity=lambda x: 1 / 0 if mesh.ranks.rank == 1 else x)
"""


@pytest.mark.parametrize("before", [(), ("-m", "mpi4py")], ids=["python", "mpi4py"])
def test_a_script_that_fails_on_one_rank_ends_on_all(before, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_FAILS)
    status, output = start(2, *before, str(script), limit=60)
    assert status != 0 and "no reason" in output and "Timeout" not in output, output


def test_a_failure_that_all_ranks_know_of_ends_without_an_abort(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ALL_FAIL)
    status, output = start(2, str(script), limit=60)
    assert status != 0 and "ZeroDivisionError" in output and "MPI_ABORT" not in output, output
