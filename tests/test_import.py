"""Importing fvot where something is missing."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ImportError("no " + {package!r})

sys.meta_path.insert(0, Missing())
import fvot
"""


@pytest.mark.parametrize("package", ["petsc4py", "mpi4py"])
def test_one_line_says_how_to_get_what_is_missing(package):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(package=package)], capture_output=True, text=True
    )
    *_, last = done.stderr.strip().splitlines()
    assert done.returncode == 1 and last.startswith("ImportError: fvot needs")
    assert f"python3-{package}" in last and f"no {package}" in last and "conda-forge" in last


def test_importing_draws_in_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fvot; print(*sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert not {"pyvista", "vtkmodules", "matplotlib", "meshio", "PIL"} & set(done.stdout.split())
