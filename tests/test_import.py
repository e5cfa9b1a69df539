"""Importing fvot where something is missing."""

import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

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


VERSION = """
import importlib.metadata

found = importlib.metadata.version

def version(package):
    if package == "fvot":
        raise importlib.metadata.PackageNotFoundError(package)
    return found(package)

if {hidden}:
    importlib.metadata.version = version

import fvot
print(fvot.__version__)
"""


def printed_version(hidden):
    done = subprocess.run(
        [sys.executable, "-c", VERSION.format(hidden=hidden)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_version_is_that_of_the_installed_package():
    try:
        installed = metadata.version("fvot")
    except metadata.PackageNotFoundError:
        pytest.skip("fvot is not installed here")
    setup = ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    assert printed_version(hidden=False) == installed == setup["metadata"]["version"]


def test_a_folder_that_is_not_installed_has_no_version():
    assert printed_version(hidden=True) == "0+unknown"
