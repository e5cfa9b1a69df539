"""The meshes that come with fvot, by their names."""

import re

import numpy as np
import pytest
from meshes import FILES
from mpi4py import MPI
from numpy.testing import assert_array_equal

import fvot
from fvot import InputError, Mesh, example_mesh
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks

NAMES = sorted(path.stem for path in FILES.glob("*.msh"))

# From meshes/README.md: | `name.msh` | domain | number kind | format | `a`, `b` |
ROWS = re.findall(
    r"^\| `(\w+)\.msh` \|[^|]*\| (\d+) [^|]*\|[^|]*\| (.*) \|$",
    (FILES / "README.md").read_text(),
    re.MULTILINE,
)


def test_all_meshes_have_a_row_and_a_word_in_the_docstring():
    assert sorted(name for name, _, _ in ROWS) == NAMES
    assert set(re.findall(r'"(\w+)"', example_mesh.__doc__)) >= set(NAMES)


@pytest.mark.parametrize("name, n_cells, sides", ROWS, ids=[name for name, _, _ in ROWS])
def test_an_example_is_the_mesh_of_its_file(name, n_cells, sides):
    mesh = example_mesh(name)
    assert mesh.n_cells_global == int(n_cells)
    assert sorted(mesh.boundary) == sorted(re.findall(r"`(\w+)`", sides))
    read = Mesh.read(FILES / f"{name}.msh")
    assert_array_equal(mesh.gather(mesh.volume), read.gather(read.volume))


def test_options_are_those_of_read():
    mesh = example_mesh("l_shape", comm=MPI.COMM_SELF, patches="none")
    assert mesh.n_cells == mesh.n_cells_global == 1302
    assert_array_equal(mesh.patch, np.arange(1302))
    with pytest.raises(InputError, match="strict"):
        example_mesh("l_shape", strict="no")
    with pytest.raises(TypeError):
        example_mesh("l_shape", MPI.COMM_SELF)


@pytest.mark.parametrize("name", ["harbor", "harbour.msh", "", None, 3, ["disc"], "../disc"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(InputError) as raised:
        example_mesh(name)
    assert str(raised.value) == f"there is no example mesh {name!r}; there are {', '.join(NAMES)}"


def test_a_name_that_one_rank_alone_has_wrong():
    ranks = Ranks()
    last = ranks.size - 1
    with pytest.raises(InputError, match="no example mesh 'dsic'"):
        example_mesh("dsic" if ranks.rank == last else "disc")


def test_it_is_public():
    assert "example_mesh" in fvot.__all__ and fvot.example_mesh is example_mesh
