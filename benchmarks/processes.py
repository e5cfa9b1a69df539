"""Runs in processes of their own: on several ranks, for their memory, or by the Python of other
packages.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from machine import ranks

import fvot

HERE = Path(__file__).resolve().parent
PEER_PYTHON = str(HERE.parent / ".venv-peers" / "bin" / "python")


class Failed(RuntimeError):
    """A run that did not come to its end; the message is the last thing that it said."""


def peak():
    """The most memory of a rank so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(ranks.max(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))) * unit / 1e9


# ---- on several ranks ----------------------------------------------------------------------------


def child(program, n_ranks, mca=None, **options):
    """What *program* (a path) writes to the file --rows on that many ranks, from JSON; `Failed`
    where it could not.

    mca : {name: value}, parameters of Open MPI. (Variables would not do: a run in a run begins
        without those of the first one.)
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [HERE.parent / "scripts" / "mpirun", "-n", n_ranks]
        for name, value in (mca or {}).items():
            command += ["--mca", name, value]
        command += ["python", program, "--rows", rows]
        for name, value in options.items():
            command += (
                [f"--{name}" if value else f"--no-{name}"]
                if isinstance(value, bool)
                else [f"--{name}", value]
            )
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:  # the error comes before what mpirun has to say about it, below a rule
            raise Failed((done.stderr.split("-----")[0].strip().splitlines() or ["?"])[-1])
        return json.loads(rows.read_text())


def hand_over(found, rows):
    """Write what a child has found where its parent reads it."""
    if ranks.is_root:
        Path(rows).write_text(json.dumps(found))


# ---- other packages ------------------------------------------------------------------------------


def peers_of(report, python):
    """The Python of the other packages, or "" where there is none, which the report says."""
    if python and Path(python).exists():
        return str(Path(python).absolute())
    report.say(
        f"No other packages: there is no {python or '--peer-python'}; `make bench` makes it if "
        "there is a network.\n"
    )
    return ""


@lru_cache
def peer(python, program, *arguments):
    """What *program* of this folder has measured with another Python, as a dict; None where it
    could not.
    """
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMPI_", "PMIX_", "PYTHON"))
    }
    environment |= dict(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", FIPY_SOLVERS="scipy")
    with tempfile.TemporaryDirectory() as folder:  # some write a log where they are
        done = subprocess.run(
            [python, HERE / program, *map(str, arguments)],
            cwd=folder,
            env=environment,
            text=True,
            capture_output=True,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["?"])[-1]
        fvot.say(f"{' '.join(map(str, arguments))} failed: {said}\n")
        return None
    return json.loads(found[-1][7:])
