"""The programs in benchmarks/ run, and say what they promise; small sizes, whose figures mean
nothing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.usefixtures("mpirun_here")]

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def said(name, *options):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick", *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name, words",
    [
        ("continuity", ["of the bandwidth", "three bodies"]),
        ("fokker_planck", ["Ornstein-Uhlenbeck", "iterations"]),
        ("jko", ["us/cell/Newton", "Barenblatt"]),
        ("transport", ["Certified gaps", "Growth"]),
        ("corners", ["Heat", "closed field lines", "Iterations", "two-point"]),
    ],
)
def test_one_solver(name, words):
    text = said(name)
    for word in [*words, "Load at the end"]:
        assert word in text


def test_the_suite(tmp_path):
    text = said("suite", "--out", tmp_path)
    for word in ("Targets missed", "exponent", "bandwidth", "messages", "efficiency"):
        assert word in text
    assert (tmp_path / "RESULTS.md").read_text().count("\n## ") >= 7
    for picture in ("cost", "scaling"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000
