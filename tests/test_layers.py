"""The rooms of the house: a module imports only from rooms that stand before its own in this list."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fvot"
ROOMS = {
    "kernel_cache": "where compiled kernels are kept",
    "errors": "what is raised, and how it is warned",
    "parallel": "the ranks: sums, maxima, shared failure, exchange of ghosts; the only file with "
    "mpi4py",
    "arguments": "what a user gave, checked: numbers, functions, times, steps, paths",
    "linalg": "linear systems, which method is cheapest, graph partitions, PETSc's options; the "
    "only file with petsc4py",
    "markov": "Markov chains: stationary weights and slow rates to full relative accuracy",
    "static": "transport between point masses",
    "particles": "flows and noise, particle by particle",
    "mesh": "cells, faces and their geometry; builders and files; quality; patches, levels, parts "
    "of ranks",
    "finite_volume": "what the equations share: two-point fluxes, the boundary, rates, gradients, "
    "implicit steps",
    "energies": "free energies of densities, and what they are on a mesh",
    "output": "series for ParaView, pictures, movies",
    "runs": "the one loop over time, its records, checkpoints and results",
    "continuity": "the continuity equation",
    "fokker_planck": "Fokker-Planck equations",
    "jko": "Wasserstein gradient flows",
    "benamou_brenier": "dynamical optimal transport",
    "otto": "Otto's geometry of densities",
    "program": "a function as a program, how it ends, and what runs here; the only reader of "
    "sys.argv",
    "__init__": "the public names: the only door for users",
}
ORDER = list(ROOMS)
SOLVERS = {
    "continuity",
    "fokker_planck",
    "jko",
    "benamou_brenier",
}  # an inner solver is passed in, never imported
HOME = {
    "mpi4py": {"parallel.py"},
    "petsc4py": {"linalg.py"},
    "pyvista": {"pvd.py", "scenes.py"},
    "vtk": {"pvd.py", "scenes.py"},
    "meshio": {"reader_process.py"},  # in a process of its own
    "vtkmodules": {"reader_process.py", "pvd.py", "plot.py", "scenes.py"},
}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path):
    """The modules that a file imports, as tuples of names; ("fvot", room, ...) for those of the
    package.
    """
    here = ("fvot", *path.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
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
            assert ORDER.index(names[0]) < ORDER.index(mine), (
                f"{path} imports {names[0]}, which stands below it"
            )
            assert not {mine, names[0]} <= SOLVERS, f"{path} imports the solver {names[0]}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_underscores_stay_in_their_room(path):
    for package, *names in imports(path):
        if package == "fvot" and names[0] != room(path):
            assert not any(name.startswith("_") and not name.startswith("__") for name in names), (
                f"{path} imports {names}"
            )


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_no_circle_inside_a_room(name):
    """The files of a room can be put in an order in which each imports only from those before it."""
    files = {path.stem: path for path in FILES if room(path) == name and path.stem != "__init__"}
    left = {
        stem: {
            names[2] for names in imports(path) if names[:2] == ("fvot", name) and names[2] in files
        }
        - {stem}
        for stem, path in files.items()
    }
    while left:
        free = [stem for stem, needs in left.items() if not needs & left.keys()]
        assert free, f"{name}: {left} import one another"
        for stem in free:
            del left[stem]


def test_what_reads_files_apart_imports_nothing_of_the_package():
    """Else the process that it runs in would start MPI."""
    assert "fvot" not in {package for package, *_ in imports(Path("mesh", "reader_process.py"))}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_foreign_packages_have_one_home(path):
    for package, *_ in imports(path):
        assert path.name in HOME.get(package, {path.name}), f"{path} imports {package}"
