"""The rooms of the house: a module imports only from rooms that stand before its own in the list of
docs/rooms.py, and the pages for developers show what is there.
"""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)

FILES = rooms.FILES
ORDER = list(rooms.ROOMS)

# An inner solver is passed in, never imported.
SOLVERS = {"continuity", "fokker_planck", "jko", "benamou_brenier"}

# The files in which other packages are imported; a reader_process is a process of its own.
HOME = {
    "mpi4py": {"parallel.py"},
    "petsc4py": {"linalg.py"},
    "pyvista": {"pvd.py", "scenes.py"},
    "vtk": {"pvd.py", "scenes.py"},
    "meshio": {"reader_process.py"},
    "vtkmodules": {"reader_process.py", "pvd.py", "plot.py", "scenes.py"},
}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_come_from_rooms_above(path):
    mine = rooms.room(path)
    assert mine in ORDER, f"{path} has no place in the list of rooms"
    for package, *names in rooms.imports(path):
        if package == "fvot" and names[0] in ORDER and names[0] != mine:
            before = ORDER.index(names[0]) < ORDER.index(mine)
            assert before, f"{path} imports {names[0]}, which stands below it"
            assert not {mine, names[0]} <= SOLVERS, f"{path} imports the solver {names[0]}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_underscores_stay_in_their_room(path):
    for package, *names in rooms.imports(path):
        if package == "fvot" and names[0] != rooms.room(path):
            hidden = [name for name in names if name.startswith("_") and not name.startswith("__")]
            assert not hidden, f"{path} imports {hidden}"


@pytest.mark.parametrize("name", [name for name in ORDER if (rooms.PACKAGE / name).is_dir()])
def test_no_circle_inside_a_room(name):
    """The files of a room have an order in which each imports only from those before it."""
    files = {
        path.stem: path for path in FILES if rooms.room(path) == name and path.stem != "__init__"
    }
    left = {
        stem: {
            names[2]
            for names in rooms.imports(path)
            if names[:2] == ("fvot", name) and len(names) > 2 and names[2] in files
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
    packages = {package for package, *_ in rooms.imports(Path("mesh", "reader_process.py"))}
    assert "fvot" not in packages


@pytest.mark.parametrize("path", FILES, ids=str)
def test_foreign_packages_have_one_home(path):
    for package, *_ in rooms.imports(path):
        assert path.name in HOME.get(package, {path.name}), f"{path} imports {package}"


def test_no_constant_has_two_meanings():
    """An upper-case name is defined in one file of the package."""
    homes = {}
    for path in FILES:
        for name, _ in rooms.definitions(path):
            homes.setdefault(name, set()).add(str(path))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize("name", ["architecture.md", "numbers.md", "rooms.svg"])
def test_pages_for_developers_show_what_is_there(name):
    """python docs/rooms.py writes them."""
    path = rooms.PAGES / name
    assert path.read_text() == rooms.generated()[path]
