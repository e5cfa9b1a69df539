"""The rooms of the house: a module imports only from rooms that stand before its own in this list."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fvot"
ROOMS = ["kernel_cache", "errors", "frozen", "paths", "parallel", "linalg", "functions", "fluxes", "boundary", "schemes",
         "evolution", "watch", "arguments", "markov", "static", "particles", "mesh", "reconstruction", "sweeps", "flows",
         "velocities", "time_means", "rates", "resolvent", "drift_diffusion", "stepping", "finite_volume", "energies",
         "vtk", "vtkhdf", "scenes", "plot", "output", "checkpoint", "recorder", "result", "march", "runs",
         "continuity", "fokker_planck", "jko", "benamou_brenier", "otto", "run", "info", "program", "__init__"]
SOLVERS = {"continuity", "fokker_planck", "jko", "benamou_brenier"}     # an inner solver is passed in, never imported
HOME = {"mpi4py": {"parallel.py"}, "petsc4py": {"linalg.py"},
        "pyvista": {"vtk.py", "scenes.py"}, "vtk": {"vtk.py", "scenes.py"},
        "meshio": {"apart.py"}, "vtkmodules": {"apart.py", "vtk.py", "scenes.py"}}       # apart: a process of its own
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path):
    """The modules that a file imports, as tuples of names; ("fvot", room, ...) for those of the package."""
    here = ("fvot", *path.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else ()
            module = base + tuple((node.module or "").split(".")) if node.module else base
            yield from ((*module, alias.name) for alias in node.names)


def room(path):
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_come_from_rooms_above(path):
    mine = room(path)
    assert mine in ROOMS, f"{path} has no place in the list of rooms"
    for package, *names in imports(path):
        if package == "fvot" and names[0] in ROOMS and names[0] != mine:
            assert ROOMS.index(names[0]) < ROOMS.index(mine), f"{path} imports {names[0]}, which stands below it"
            assert not {mine, names[0]} <= SOLVERS, f"{path} imports the solver {names[0]}"


def test_what_reads_files_apart_imports_nothing_of_the_package():
    """Else the process that it runs in would start MPI."""
    assert "fvot" not in {package for package, *_ in imports(Path("mesh", "apart.py"))}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_foreign_packages_have_one_home(path):
    for package, *_ in imports(path):
        assert path.name in HOME.get(package, {path.name}), f"{path} imports {package}"
