"""Every block of the README is run, on one rank and on two, and so is the first block of each page
that describes a solver.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("one_rank_here")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(README)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh"]

# Commands that the blocks use and this machine may lack, in terms of those that it has.
STAND_INS = f"""
python() {{ {sys.executable} "$@"; }}
mpirun() {{ {ROOT}/scripts/mpirun "$@"; }}
srun() {{ {ROOT}/scripts/mpirun -n 2 "$@"; }}
source() {{ :; }}
"""


def run(script, folder):
    done = subprocess.run(
        ["bash", "-ec", STAND_INS + script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"MPIEXEC_TIMEOUT": "100"},
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def first_block(page, language="python"):
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())
    return next(text for kind, text in blocks if kind == language)


def run_on_one_rank_and_on_two(page, folder):
    """What the first block of a page prints, one rank first."""
    (folder / "block.py").write_text(first_block(page))
    output = run("python block.py; mpirun -n 2 python block.py", folder)
    assert (folder / f"{page}.png").stat().st_size > 10_000
    return output


# ---- README --------------------------------------------------------------------------------------


def test_readme_can_be_read_in_five_minutes():
    assert len(README.split()) <= 900


def test_all_blocks_are_here():
    assert len(PYTHON) == 1 and len(SHELL) == 2 and len(BLOCKS) == 3


def test_ten_lines_on_one_rank_and_on_two(gl, tmp_path):
    (tmp_path / "swirl.py").write_text(PYTHON[0])
    output = run(SHELL[1], tmp_path).splitlines()
    assert len(output) == 2 and all(
        re.fullmatch(r"mass error -?\de[-+]\d\d, smallest density 0.0", line) for line in output
    )
    assert (tmp_path / "swirl.pvd").exists() and (tmp_path / "swirl.png").stat().st_size > 10_000


def test_the_two_commands_are_targets(tmp_path):
    for line in SHELL[0].splitlines():
        assert run(f"make -C {ROOT} -n {line.split('#')[0].removeprefix('make')}", tmp_path)


# ---- the pages of the solvers --------------------------------------------------------------------


def test_continuity(gl, tmp_path):
    output = run_on_one_rank_and_on_two("continuity", tmp_path)
    amounts = re.findall(r"entered (.*), left (.*)\nmass (.*), mass error (.*)", output)
    assert len(amounts) == 2 and amounts[0][:3] == amounts[1][:3]
    for entered, left, mass, error in amounts:
        assert float(entered) == pytest.approx(1, abs=5e-3) and abs(float(error)) < 1e-13
        assert float(entered) - float(left) == pytest.approx(float(mass), abs=2e-4)


def test_drift_and_noise(gl, tmp_path):
    output = run_on_one_rank_and_on_two("fokker_planck", tmp_path)
    seen, theory = (
        [[float(x) for x in found.split()] for found in re.findall(what + r": \[(.*?)\]", output)]
        for what in ("still on the left", "theory")
    )
    assert len(seen) == 2 and seen[0] == pytest.approx(seen[1], abs=1e-4)
    assert seen[0] == pytest.approx(theory[0], abs=1e-4)


def test_optimal_transport(gl, tmp_path):
    output = run_on_one_rank_and_on_two("transport", tmp_path)
    bounds = [
        [float(x) for x in line]
        for line in re.findall(r"([\d.]+) <= W2\^2 <= ([\d.]+), gap", output)
    ]
    assert len(bounds) == 2 and bounds[0] == bounds[1]
    assert 1.57 < bounds[0][0] <= bounds[0][1] < 1.6
    assert (tmp_path / "door.pvd").exists()


def test_gradient_flows(gl, tmp_path):
    output = run_on_one_rank_and_on_two("gradient_flows", tmp_path)
    lost = re.findall(r"energy lost (.*), dissipated (.*)", output)
    assert len(lost) == 2
    for energy, dissipated in lost:
        assert (
            float(energy) == pytest.approx(float(lost[0][0]), rel=1e-6)
            and abs(float(energy) - float(dissipated)) < 1e-11
        )


def test_witnesses(gl, tmp_path):
    output = run_on_one_rank_and_on_two("witnesses", tmp_path)
    found = [
        [float(x) for x in line]
        for line in re.findall(r"of the points (.*), (.*) <= W2\^2 on the mesh <= (.*)", output)
    ]
    assert len(found) == 2 and found[0] == pytest.approx(found[1], abs=2e-4)
    assert found[0][1] <= found[0][2] and found[0][0] == pytest.approx(
        found[0][2], rel=4e-2
    )  # the corner costs
    for length, distance in re.findall(r"Otto's metric (.*), W2 (.*)", output):
        assert float(length) == pytest.approx(float(distance), rel=1e-2)


# ---- other pages ---------------------------------------------------------------------------------


def test_own_mesh(tmp_path):
    (tmp_path / "own.py").write_text(first_block("meshes"))
    output = run("python own.py", tmp_path)
    assert "7935 cells in 2D" in output and "'inlet'" in output and "[0. 1. 2.]" in output


def test_data_on_cells_are_the_same_on_two_ranks(tmp_path):
    (tmp_path / "data.py").write_text(first_block("data_on_cells"))
    run("mpirun -n 2 python data.py", tmp_path)


def test_a_run_that_is_kept(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "clusters.md").read_text())
    block = next(text for _, text in blocks if "fvot.Checkpoint" in text)
    (tmp_path / "kept.py").write_text(block + "fvot.say(result.rho.sum())")
    first = run("python kept.py", tmp_path)
    assert (tmp_path / "long.h5").exists() and run("mpirun -n 2 python kept.py", tmp_path)
    assert run("python kept.py", tmp_path) == first


def test_the_job_of_the_cluster(tmp_path):
    for name in "demos", "meshes":
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    assert "mass left" in run(first_block("clusters", "sh"), tmp_path)
    assert (tmp_path / "out/cluster/spill.pvd").exists() and (tmp_path / "out/petsc.log").exists()
