"""Bad input: an error on every rank that names the thing, its value and the remedy. No rank hangs.

The rest of the story is in `test_ranks.py`: these tests run on several ranks, too.
"""

import resource
import time
import warnings

import numpy as np
import pytest
from files import FORMATS, write
from hypothesis import given
from hypothesis import strategies as st
from meshes import MESHES
from mpi4py import MPI

import fvot
from fvot import InputError, Mesh, MeshError

pytestmark = pytest.mark.ranks

POINTS = np.array([[0, 1, 0.5, 1.5], [0, 0, 0.8, 0.8]])
TWO = [[0, 1, 2], [1, 3, 2]]
CUBE = np.array(list(np.ndindex(2, 2, 2)), float).T  # corner (i, j, k) is point 4 i + 2 j + k
HEXAHEDRON = [0, 4, 6, 2, 1, 5, 7, 3]


def cells(connectivity, points=POINTS, kind="triangle", **options):
    return lambda: Mesh.from_cells(points, [(kind, connectivity)], **options)


def changed(point, value):
    points = POINTS.copy()
    points[:, point] = value
    return points


MESH_TABLE = {  # what it gets, and words of the message
    "point is nan": (cells(TWO, changed(2, np.nan)), MeshError, ["point 2", "nan", "finite"]),
    "point is infinite": (cells(TWO, changed(3, np.inf)), MeshError, ["point 3", "inf", "finite"]),
    "points transposed": (
        cells(TWO, POINTS.T),
        InputError,
        ["(4, 2)", "(dim, n)", "space comes first"],
    ),
    "points of text": (cells(TWO, [["a", "b"]]), InputError, ["points", "array of numbers", "'a'"]),
    "point number too large": (cells([[0, 1, 4]]), MeshError, ["cell 0", "point 4", "4 points"]),
    "point number negative": (cells([[0, 1, 2], [1, 3, -1]]), MeshError, ["cell 1", "point -1"]),
    "point number not whole": (
        cells([[0, 1, 2.5]]),
        MeshError,
        ["triangle", "whole numbers", "2.5"],
    ),
    "rows of different length": (
        cells([[0, 1, 2], [1, 3]]),
        MeshError,
        ["triangle", "equal length"],
    ),
    "too many corners": (cells([[0, 1, 2, 3]]), MeshError, ["triangle has 3 points", "(1, 4)"]),
    "polygon of two points": (
        cells([[0, 1, 2], [1, 3]], kind="polygon"),
        MeshError,
        ["polygon 1", "2 points", "at least 3"],
    ),
    "tangled quadrilateral": (
        cells([[0, 1, 2, 3]], kind="quad"),
        MeshError,
        ["cell 0 (quad", "tangled", "cross", "order"],
    ),
    "folded over": (
        cells([[0, 1, 2], [1, 3, 2]], changed(3, (0.3, 0.4))),
        MeshError,
        ["cells 0 and 1", "same side", "untangle"],
    ),
    "flat": (
        cells(TWO, changed(2, (0.5, 0))),
        MeshError,
        ["cell 0", "degenerate", "volume", "remove"],
    ),
    "repeated corner": (cells([[0, 1, 1]]), MeshError, ["cell 0", "degenerate", "point twice"]),
    "duplicated": (
        cells([*TWO, [2, 0, 1]]),
        MeshError,
        ["cells [0, 1, 2]", "share one face", "remove duplicated"],
    ),
    "only duplicates": (
        cells([TWO[0], TWO[0]]),
        MeshError,
        ["cells 0 and 1", "same side", "given twice"],
    ),
    "overlapping": (
        cells([[0, 1, 2], [0, 1, 3]]),
        MeshError,
        ["cells 0 and 1", "same side", "overlap"],
    ),
    "overlapping intervals": (
        cells([[0, 1], [0, 2]], [[0, 1, 0.5]], "line"),
        MeshError,
        ["cells 0 and 1", "same side"],
    ),
    "three on one edge": (
        cells([[0, 1, 2], [1, 0, 3], [0, 1, 4]], [[0, 1, 0.5, 0.5, 0.4], [0, 0, 0.8, -0.8, 0.6]]),
        MeshError,
        ["[0, 1, 2]", "points [0, 1]", "at most two cells"],
    ),
    "quadrilateral face on two triangles": (
        lambda: Mesh.from_cells(
            np.append(CUBE, [[2], [0.5], [0.5]], axis=1),
            [("hexahedron", [HEXAHEDRON]), ("tetra", [[4, 6, 7, 8], [4, 7, 5, 8]])],
        ),
        MeshError,
        ["cell 0", "face of four points", "pyramid"],
    ),
    "the same, cut along the other diagonal": (
        lambda: Mesh.from_cells(
            np.append(CUBE, [[2], [0.5], [0.5]], axis=1),
            [("hexahedron", [HEXAHEDRON]), ("tetra", [[4, 6, 5, 8], [6, 7, 5, 8]])],
        ),
        MeshError,
        ["different points", "cut both in the same way"],
    ),
    "lines in the plane": (
        cells([[0, 1]], kind="line"),
        MeshError,
        ["dimension 1", "dimension 2"],
    ),
    "two dimensions at once": (
        lambda: Mesh.from_cells(POINTS, [("triangle", TWO), ("line", [[0, 1]])]),
        MeshError,
        ["dimension [1, 2]", "highest dimension only"],
    ),
    "unknown cell type": (
        cells([[0, 1, 2]], kind="heptagon"),
        MeshError,
        ["'heptagon'", "triangle, polygon, quad"],
    ),
    "curved cells": (
        cells([[0, 1, 2, 3, 3, 3]], kind="triangle6"),
        MeshError,
        ["'triangle6'", "not supported"],
    ),
    "no cells": (lambda: Mesh.from_cells(POINTS, []), MeshError, ["no cells"]),
    "no cells in a block": (cells(np.empty((0, 3))), MeshError, ["no cells"]),
    "cells as a dict": (
        lambda: Mesh.from_cells(POINTS, {"triangle": TWO}),
        MeshError,
        ["list of pairs", "'triangle'"],
    ),
    "cells without types": (lambda: Mesh.from_cells(POINTS, TWO), MeshError, ["list of pairs"]),
    "boundary not a dict": (cells(TWO, boundary=[1]), InputError, ["boundary", "dict", "[1]"]),
    "boundary faces too wide": (
        cells(TWO, boundary={"a": np.array([[0], [1], [2]])}),
        MeshError,
        ["'a'", "(3, 1)", "(2, n)"],
    ),
    "center of the wrong shape": (
        cells(TWO, center=np.zeros((2, 3))),
        InputError,
        ["center", "(2, 2)", "(2, 3)"],
    ),
    "center is nan": (
        cells(TWO, center=np.full((2, 2), np.nan)),
        InputError,
        ["center", "finite", "nan"],
    ),
    "patches of the wrong length": (
        cells(TWO, patches=[0, 1, 2]),
        InputError,
        ["patches", "2 integers", "[0, 1, 2]"],
    ),
    "patches not whole": (cells(TWO, patches=[0.0, 1.0]), InputError, ["patches", "integers"]),
    "patches unknown": (
        cells(TWO, patches="large"),
        InputError,
        ["patches", "'auto', 'none'", "'large'"],
    ),
    "patches of no cells": (cells(TWO, patches=0), InputError, ["patches", "from 1 on", "0"]),
    "patches of half cells": (
        cells(TWO, patches=1.5),
        InputError,
        ["patches", "whole number", "1.5"],
    ),
    "patches of squares": (
        lambda: Mesh.rectangle(0, 1, (4, 4), patches=4),
        InputError,
        ["patches", "Cartesian", "4"],
    ),
    "no number of cells": (
        lambda: Mesh.interval(0, 1, 0),
        InputError,
        ["number of cells", "from 1 on", "0"],
    ),
    "negative number of cells": (
        lambda: Mesh.rectangle(0, 1, (4, -4)),
        InputError,
        ["whole number", "-4"],
    ),
    "number of cells not whole": (
        lambda: Mesh.box(0, 1, (4, 4, 2.5)),
        InputError,
        ["whole number", "2.5"],
    ),
    "number of cells is nan": (lambda: Mesh.voronoi(0, 1, np.nan), InputError, ["n_cells", "nan"]),
    "number of cells is text": (lambda: Mesh.triangles(0, 1, "abc"), InputError, ["n", "'abc'"]),
    "number of cells is true": (
        lambda: Mesh.tetrahedra(0, 1, True),
        InputError,
        ["whole number", "True"],
    ),
    "shape of the wrong length": (
        lambda: Mesh.rectangle(0, 1, (4, 4, 4)),
        InputError,
        ["shape", "2 numbers", "(4, 4, 4)"],
    ),
    "shape is one number": (lambda: Mesh.box(0, 1, 4), InputError, ["shape", "3 numbers", "4"]),
    "lower above upper": (
        lambda: Mesh.rectangle((0, 2), (1, 1), (4, 4)),
        InputError,
        ["[0.0, 2.0]", "below", "[1.0, 1.0]"],
    ),
    "lower equals upper": (
        lambda: Mesh.voronoi((0, 1), (1, 1), 9),
        InputError,
        ["lower corner", "below"],
    ),
    "corner is nan": (lambda: Mesh.interval(0, np.nan, 4), InputError, ["nan", "below"]),
    "corner of the wrong length": (
        lambda: Mesh.triangles((0, 0, 0), 1, 4),
        InputError,
        ["2 numbers", "(0, 0, 0)"],
    ),
    "periodic of the wrong length": (
        lambda: Mesh.rectangle(0, 1, (4, 4), periodic=(True,) * 3),
        InputError,
        ["periodic", "2 axes"],
    ),
    "periodic axis too short": (
        lambda: Mesh.rectangle(0, 1, (2, 8), periodic=True),
        InputError,
        ["at least 3 cells", "(2, 8)"],
    ),
    "triangles too long": (
        lambda: Mesh.triangles((0, 0), (10, 1), 2),
        InputError,
        ["n = 2", "obtuse", "more than 5"],
    ),
    "tetrahedra too long": (
        lambda: Mesh.tetrahedra(0, (3, 1, 1), 1),
        InputError,
        ["n = 1", "3 x 1 x 1", "nearly cubes"],
    ),
}


LONELY = {  # what one rank can hold, and several cannot
    "more ranks than cells": (
        lambda: Mesh.rectangle(0, 1, (1, 1)),
        ["(1, 1) cells", "ranks", "finer mesh"],
    ),
    "more ranks than intervals": (
        lambda: Mesh.from_cells([[0, 1]], [("line", [[0, 1]])]),
        ["1 cell ", "fewer ranks"],
    ),
    "more ranks than patches": (
        lambda: Mesh.triangles(0, 1, 6, patches=1000),
        ["78 cells", "1 patch ", "smaller"],
    ),
}


def raises(error, words, function, *args):
    """All ranks raise the error, with all of the words in the message."""
    with pytest.raises(error) as raised:
        function(*args)
    assert type(raised.value) is error
    for word in words:
        assert word in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("build, error, words", MESH_TABLE.values(), ids=MESH_TABLE)
def test_bad_meshes(build, error, words, ranks):
    message = raises(error, words, build)
    assert message == ranks.broadcast(message)


@pytest.mark.parametrize("build, words", LONELY.values(), ids=LONELY)
def test_more_ranks_than_there_is_to_deal(build, words, ranks):
    if ranks.size == 1:
        assert build().n_cells > 0
    else:
        raises(InputError, [*words, str(ranks.size)], build)


# ---- files ---------------------------------------------------------------------------------------

FILE_TABLE = {  # name, contents (None: no such file), words of the message
    "missing": ("no.msh", None, ["there is no mesh file", "no.msh", "check the path"]),
    "a folder": (".", None, ["is a folder"]),
    "unknown format": ("mesh.xyz", b"", ["'.xyz'", ".msh, .vtk, .vtu"]),
    "no suffix": ("mesh", b"", ["unknown mesh format", ".msh"]),
    **{
        f"empty {suffix}": (f"mesh{suffix}", b"", ["cannot be read", "complete", "write it again"])
        for suffix in (".msh", ".vtk", ".vtu")
    },
    **{
        f"text in {suffix}": (
            f"mesh{suffix}",
            b"Dear mesh,\nhow are you?\n" * 9,
            ["cannot be read", "complete"],
        )
        for suffix in (".msh", ".vtk", ".vtu")
    },
    **{
        f"noise in {suffix}": (
            f"mesh{suffix}",
            np.random.default_rng(0).bytes(5000),
            ["cannot be read", "complete"],
        )
        for suffix in (".msh", ".vtk", ".vtu")
    },
    "old msh": ("mesh.msh", b"$NOD\n1\n1 0 0 0\n$ENDNOD\n", ["cannot be read"]),
}


@pytest.mark.parametrize("name, contents, words", FILE_TABLE.values(), ids=FILE_TABLE)
def test_bad_files(name, contents, words, ranks, shared_folder):
    if contents is not None:
        ranks.on_root((shared_folder / name).write_bytes, contents)
    message = raises(InputError, words, Mesh.read, shared_folder / name)
    assert message == ranks.broadcast(message)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files(file_format, kept, ranks, shared_folder):
    path = ranks.broadcast(ranks.on_root(lambda: cut(shared_folder, file_format, kept)))
    raises(InputError, [path.name, "is the file complete?"], Mesh.read, path)


def cut(folder, file_format, kept):
    path, _ = write(MESHES["triangles"](comm=MPI.COMM_SELF), folder, file_format)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    return path


@given(
    file_format=st.sampled_from(list(FORMATS)),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5
    ),
    at_front=st.booleans(),
)
def test_a_damaged_file_is_refused_or_read(file_format, changes, at_front, ranks, shared_folder):
    path = ranks.broadcast(
        ranks.on_root(lambda: damaged(shared_folder, file_format, changes, at_front))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mesh = Mesh.read(path, strict=False)
        except InputError as error:
            assert len(str(error)) > 20
        else:
            assert mesh.integrate(np.ones(mesh.n_cells)) > 0


def damaged(folder, file_format, changes, at_front):
    path, _ = write(MESHES["honeycomb"](comm=MPI.COMM_SELF), folder, file_format)
    contents = bytearray(path.read_bytes())
    for place, byte in changes:
        contents[int(place * (200 if at_front else len(contents)))] = byte
    path.write_bytes(contents)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, suffixes", [(10_000, (".msh",)), (1_000, (".vtk", ".vtu"))]
)  # these are read apart
def test_thousands_of_damaged_files(n, suffixes, ranks, tmp_path):
    """Bytes changed, taken away, put in, in files of all formats: refused or read, in seconds, in
    bounded memory.
    """
    if ranks.size > 1:
        return
    files = {
        name: write(MESHES["triangles"](), tmp_path, name)[0]
        for name in FORMATS
        if FORMATS[name][0] in suffixes
    }
    originals = [(path.suffix, path.read_bytes()) for path in files.values()]
    random = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(n):
        suffix, contents = originals[i % len(originals)]
        path = tmp_path / f"damaged{suffix}"
        begin = time.monotonic()
        path.write_bytes(changed_at_random(bytearray(contents), random))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                Mesh.read(path, strict=False)
            except InputError as error:
                assert len(str(error)) > 20
        assert time.monotonic() - begin < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1_000_000  # kilobytes


def changed_at_random(data, random):
    for _ in range(random.integers(1, 6)):
        at = (
            int(random.integers(min(400, len(data)) if random.random() < 0.5 else len(data)))
            if data
            else 0
        )
        kind = random.integers(3)
        if kind == 0 and data:
            digits = np.frombuffer(b"0123456789- eE.", np.uint8)
            data[at] = random.choice(digits) if random.random() < 0.5 else random.integers(256)
        elif kind == 1:
            del data[at : at + int(random.integers(1, 9))]
        else:
            data[at:at] = random.choice([b"9", b"-", b"\0\0", b"99999999", b"nan", b"\n"])
    return bytes(data)


# ---- obtuse triangles ----------------------------------------------------------------------------


def twisted():
    """A triangle in a triangle, and six between them that turn: no choice of points makes it
    admissible.
    """
    outer = np.array([[0, 4, 0], [0, 0, 4]])
    points = np.concatenate([outer, outer / 4 + 1], axis=1)
    ring = [[[i, (i + 1) % 3, 3 + (i + 1) % 3], [i, 3 + (i + 1) % 3, 3 + i]] for i in range(3)]
    return points, [("triangle", np.concatenate([*ring, [[3, 4, 5]]]))]


def test_two_point_fluxes_refuse_triangles_that_are_not_delaunay():
    mesh = Mesh.from_cells(*twisted())
    words = ["not admissible", "cell", "signed distance -", "strict=False"]
    unit = np.ones(mesh.n_cells)
    raises(
        MeshError,
        words,
        lambda: fvot.BenamouBrenier(mesh, 2, scheme="two_point"),
    )
    raises(MeshError, words, fvot.JKO, mesh, fvot.Potential(lambda x: x[0]))
    raises(
        MeshError,
        words,
        lambda: fvot.FokkerPlanck(mesh, diffusion=1.0, scheme="two_point"),
    )
    raises(
        MeshError,
        words,
        lambda: fvot.otto.norm(mesh, unit, unit, scheme="two_point"),
    )
    raises(MeshError, words, fvot.potential_flow, mesh, {})
    fvot.FokkerPlanck(mesh, diffusion=1.0)
    fvot.JKO(mesh, fvot.Entropy())
    fvot.otto.norm(mesh, unit, unit)
    fvot.BenamouBrenier(mesh, 2)
    fvot.ContinuityEquation(mesh, lambda x: 0 * x)


def test_strict_false_goes_on_and_warns_once(ranks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mesh = Mesh.from_cells(*twisted(), strict=False)
    assert ranks.sum(len(caught)) == 1
    if ranks.is_root:
        assert "not admissible" in str(caught[0].message) and "clipped" in str(caught[0].message)
    assert (
        np.all(mesh.distance > 0)
        and np.all(mesh.left_distance >= 0)
        and np.all(mesh.right_distance >= 0)
    )
    assert mesh.integrate(np.ones(mesh.n_cells)) == pytest.approx(8, rel=1e-14)


# ---- densities -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def square():
    return Mesh.triangles((0, 0), (1, 1), 8)


def values(mesh, cell, value):
    """Ones, but for one cell of the file's numbering: so one rank alone has a bad value."""
    u = np.ones(mesh.n_cells_global)
    u[cell] = value
    return mesh.scatter(u)


DENSITY_TABLE = {
    "nan": (lambda m: values(m, 77, np.nan), ["density", "nan", "cell 77", "finite"]),
    "infinite": (lambda m: values(m, 77, np.inf), ["density", "inf", "cell 77", "finite"]),
    "negative": (lambda m: values(m, 77, -0.5), ["density", "-0.5", "cell 77", "at least 0"]),
    "a function that is negative": (
        lambda m: lambda x: x[0] - 2,
        ["density", "-", "cell", "at least 0"],
    ),
    "a function that is nan somewhere": (
        lambda m: lambda x: np.where(x[0] < 0.2, np.nan, 1),
        ["density", "nan", "cell"],
    ),
    "of no mass": (lambda m: np.zeros(m.n_cells), ["density", "mass 0", "positive"]),
    "nowhere true": (lambda m: lambda x: x[0] > 5, ["density", "mass 0", "positive"]),
    "for all ranks' cells": (
        lambda m: np.ones(m.n_cells_global + 1),
        ["density", "shape", "(137,)", "mesh.scatter"],
    ),
    "of the wrong dimension": (
        lambda m: np.ones((2, m.n_cells)),
        ["density", "shape", "one value for each"],
    ),
    "a number": (lambda m: 1.0, ["density", "shape ()"]),
    "text": (lambda m: "gauss", ["density", "numbers", "'gauss'"]),
    "wrong on one rank only": (
        lambda m: np.ones(m.n_cells + (m.ranks.rank == m.ranks.size - 1)),
        ["density", "shape"],
    ),
    "text on one rank only": (
        lambda m: "x" if m.ranks.is_root else np.ones(m.n_cells),
        ["density", "numbers", "'x'"],
    ),
    "a function of the wrong shape": (
        lambda m: lambda x: np.ones(3),
        ["function", "(3,)", "a value for each point"],
    ),
    "a function of vectors": (lambda m: lambda x: x, ["density", "shape", "one value for each"]),
    "a function of text": (lambda m: lambda x: "high", ["function", "numbers"]),
    "a function of nothing": (lambda m: lambda x: None, ["function", "numbers"]),
}


@pytest.mark.parametrize("make, words", DENSITY_TABLE.values(), ids=DENSITY_TABLE)
def test_bad_densities(make, words, square):
    raises(InputError, words, square.density, make(square))


def test_a_density_of_infinite_mass_is_refused():
    mesh = Mesh.interval(0, 100, 8)
    with np.errstate(over="ignore"):
        raises(
            InputError,
            ["density", "mass inf", "finite"],
            mesh.density,
            np.full(mesh.n_cells, 1e308),
        )


def test_an_error_in_a_function_reaches_every_rank(square):
    def f(x):
        if square.ranks.is_root:
            raise KeyError("no such picture")
        return x[0]

    with pytest.raises(KeyError if square.ranks.is_root else RuntimeError, match="no such picture"):
        square.average(f)


@pytest.mark.parametrize("shape", [(135,), (137,), (136, 2), ()])
def test_scatter_of_the_wrong_length(square, shape):
    raises(InputError, ["scatter", "136 values", str(shape)], square.scatter, np.ones(shape))


def test_scatter_of_the_wrong_length_on_one_rank_only(square):
    wrong = np.ones(136 + (square.ranks.rank == square.ranks.size - 1))
    raises(InputError, ["scatter", "136 values", "(137,)"], square.scatter, wrong)
