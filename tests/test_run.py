"""`run`: command lines in, words and exit statuses out."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fvot.program import _check_petsc_options, _UsageError

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("mpirun_here")]

MPIRUN = Path(__file__).parent.parent / "scripts" / "mpirun"

SCRIPT = """
import pathlib

import fvot
from fvot.parallel import Ranks
from fvot.program import run

def main(n=8, tol=1e-3, *, name: str | None = None, n_steps: int | None = None, shape=(3, 4),
         movie=True, out: pathlib.Path = pathlib.Path("out"), fail=""):
    '''What it does: 100 % of it.'''
    ranks = Ranks()
    last = ranks.rank == ranks.size - 1
    if fail == "input":
        raise fvot.InputError("n is too small")
    if fail == "everywhere":
        raise KeyError("lost")
    if fail == "together":
        with ranks.raising_together():
            if last:
                raise KeyError("lost")
    if fail == "alone":
        if last:
            raise KeyError("lost")
        ranks.wait()
    if fail == "late" and last:
        raise KeyError("lost")
    fvot.say((n, tol, name, n_steps, tuple(shape), movie, str(out)))
    return n

if __name__ == "__main__":
    fvot.say(f"returned {run(main)}")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return str(path)


def start(script, *arguments, ranks=1, petsc=None):
    """The ended process; on several ranks by mpirun, which adds its own words to standard error."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMPI_COMM", "PMIX_"))
    }
    environment["OMP_NUM_THREADS"] = "1"
    launcher = [MPIRUN, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [*launcher, sys.executable, script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_defaults(script):
    ended = start(script)
    assert ended.stdout.splitlines() == [
        "(8, 0.001, None, None, (3, 4), True, 'out')",
        "returned 8",
    ]
    assert (ended.returncode, ended.stderr) == (0, "")


def test_options_are_converted(script):
    ended = start(
        script,
        "--n",
        "5",
        "--tol",
        "2",
        "--name",
        "a",
        "--n-steps",
        "7",
        "--shape",
        "6",
        "1",
        "--no-movie",
        "--out",
        "b/c",
    )
    assert ended.stdout.splitlines()[0] == "(5, 2.0, 'a', 7, (6, 1), False, 'b/c')"


def test_petsc_takes_what_is_its_own(script):
    ended = start(script, "-ksp_rtol", "-1e-8", "--n", "5", "-options_view", "-n", "3")
    assert ended.returncode == 0
    assert "(5, " in ended.stdout


def test_petsc_options_arrive(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fvot.program import run\n"
        "def main():\n    from petsc4py.PETSc import Options\n"
        "    print(Options()['fvot_x_ksp_rtol'], Options().hasName('fvot_x_flag'))\nrun(main)\n"
    )
    assert start(str(script), "-fvot_x_ksp_rtol", "1e-8", "-fvot_x_flag").stdout == "1e-8 True\n"


@pytest.mark.parametrize("ranks", [1, 2])
def test_help_is_printed_once(script, ranks):
    ended = start(script, "--help", ranks=ranks)
    assert ended.returncode == 0
    assert ended.stdout.count("What it does: 100 % of it.") == 1
    assert (
        "--n-steps INT" in ended.stdout
        and "(default: 8)" in ended.stdout
        and "--no-movie" in ended.stdout
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "3"], "unknown option '--steps'"),
        (["--n-step", "3"], "unknown option '--n-step'"),  # no abbreviations
        (["file"], "unknown option 'file'"),
        (["-ksp_rtol", "1", "2"], "unknown option '2'"),
        (["--n", "many"], "argument --n: invalid int value: 'many'"),
    ],
)
def test_wrong_options(script, arguments, message):
    ended = start(script, *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr and "Traceback" not in ended.stderr and ended.stdout == ""


def test_wrong_options_on_two_ranks(script):
    ended = start(script, "--steps", "3", ranks=2)
    assert ended.returncode == 2
    assert ended.stderr.count("unknown option '--steps'") == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_input_errors_are_one_line(script, ranks):
    ended = start(script, "--fail", "input", ranks=ranks)
    assert ended.returncode == 1
    assert ended.stderr.count("InputError: n is too small") == 1 and "Traceback" not in ended.stderr


@pytest.mark.parametrize("where", ["everywhere", "together", "alone", "late"])
def test_errors_end_all_ranks_and_are_printed_once(script, where):
    ended = start(script, "--fail", where, ranks=2)
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1 and ended.stderr.count("KeyError: 'lost'") == 1
    assert ("on rank 1 alone" in ended.stderr) == (where == "alone")


def test_negative_numbers_are_values():
    _check_petsc_options(["-a", "-1", "-b", "-2e3", "-c"])
    with pytest.raises(_UsageError, match="'1'"):
        _check_petsc_options(["-a", "-1", "1"])


WORDS = """
import fvot

def main(first="", count=1, /, size=8):
    fvot.say((first, count, size))

fvot.run(main)
"""


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "('', 1, 8)"),
        (["a.png"], "('a.png', 1, 8)"),
        (["a.png", "2", "--size", "3"], "('a.png', 2, 3)"),
        (["a.png", "-ksp_type", "cg"], "('a.png', 1, 8)"),
    ],
)
def test_plain_words_come_first(tmp_path, arguments, said):
    script = tmp_path / "words.py"
    script.write_text(WORDS)
    first_line, *_ = start(str(script), *arguments).stdout.splitlines()
    assert first_line == said  # PETSc from 3.22 on warns of options that nothing has used


@pytest.mark.parametrize(
    "arguments, words",
    [(["a", "b"], "count must be of type int, not 'b'"), (["a", "2", "c"], "unknown option 'c'")],
)
def test_wrong_plain_words(tmp_path, arguments, words):
    script = tmp_path / "words.py"
    script.write_text(WORDS)
    ended = start(str(script), *arguments)
    assert ended.returncode == 2 and words in ended.stderr and "[first] [count]" in ended.stderr
