"""Mesh files: what is written is read, in every format, with the names of the boundary."""

import importlib.util
import json
import subprocess
import sys
import warnings

import meshio
import numpy as np
import pytest
from files import FORMATS, write
from meshes import FILES, MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh, MeshError
from fvot.mesh import read as files

pytestmark = pytest.mark.ranks

KINDS = ["lines", "interval", "triangles", "quads", "rectangle", "tetrahedra", "box", "honeycomb"]
POLYGONS = ["voronoi", "tiling"]
GMSH = [name for name in FORMATS if name.startswith("msh")]
VTK = [name for name in FORMATS if not name.startswith("msh")]


def written(ranks, kind, folder, file_format):
    """(the mesh on one rank, path of its file, its cells in the order of the file)."""
    mesh = MESHES[kind](comm=MPI.COMM_SELF)
    path_and_order = ranks.on_root(write, mesh, folder, file_format)
    return mesh, *ranks.broadcast(path_and_order)


def make_examples():
    """The script that makes examples of files."""
    spec = importlib.util.spec_from_file_location("make_examples", FILES / "make_examples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path, **options):
    """Tetrahedra lose the builder's cell points in a file: their circumcentres do for a test of
    reading.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Mesh.read(path, strict=False, **options)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind, file_format, ranks, shared_folder):
    as_built, path, order = written(ranks, kind, shared_folder, file_format)
    mesh = read(path)
    digits = (
        1e-10 if file_format == "vtu ascii" else 1e-14
    )  # meshio writes twelve digits there, else all
    assert_allclose(mesh.gather(mesh.volume), as_built.volume[order], rtol=10 * digits)
    assert_allclose(mesh.gather(mesh.centroid), as_built.centroid[:, order], atol=digits)
    assert mesh.ranks.sum(mesh.face_owned.sum()) == as_built.face_owned.sum()


@pytest.mark.parametrize("file_format", VTK)
@pytest.mark.parametrize("kind", POLYGONS)
def test_polygons_are_read_from_vtk_files(kind, file_format, ranks, shared_folder):
    as_built, path, order = written(ranks, kind, shared_folder, file_format)
    mesh = Mesh.read(str(path), strict=False)  # centroids, where the builder had generators
    assert_allclose(mesh.gather(mesh.volume), as_built.volume[order], rtol=1e-9)
    assert list(mesh.boundary) == ["boundary"]


@pytest.mark.parametrize("file_format", GMSH)
@pytest.mark.parametrize("kind", KINDS)
def test_physical_names_are_boundary_names(kind, file_format, ranks, shared_folder):
    as_built, path, _ = written(ranks, kind, shared_folder, file_format)
    mesh = read(path)
    assert sorted(mesh.boundary) == sorted(as_built.boundary)
    for name, faces in mesh.boundary.items():
        measure = as_built.area[as_built.boundary[name]].sum()
        assert mesh.ranks.sum(mesh.area[faces].sum()) == pytest.approx(measure, rel=1e-13)
        place = (as_built.area * as_built.face_center)[:, as_built.boundary[name]].sum(axis=1)
        assert_allclose(
            mesh.ranks.sum((mesh.area * mesh.face_center)[:, faces].sum(axis=1)), place, atol=1e-12
        )


@pytest.mark.skipif(not (FILES / "harbour.msh").exists(), reason="no mesh files")
@pytest.mark.parametrize(
    "name, boundaries",
    [
        ("harbour", {"inlet", "outlet", "mole", "islands", "shore"}),
        ("l_shape", {"bottom", "right", "top", "left", "notch"}),
        ("disc", {"circle"}),
        ("disc_quads", {"circle"}),
        ("annulus", {"inner", "outer"}),
        ("two_rooms", {"walls"}),
        ("ball", {"sphere"}),
    ],
)
def test_shipped_files_have_their_boundaries(name, boundaries):
    if not (FILES / f"{name}.msh").exists():
        pytest.skip(f"no {name}.msh")
    mesh = Mesh.read(FILES / f"{name}.msh")
    assert set(mesh.boundary) == boundaries
    assert mesh.quality.smallest_distance > 0.01


@pytest.mark.skipif(not (FILES / "annulus.msh").exists(), reason="no mesh files")
def test_shipped_rounds_are_round():
    annulus = Mesh.read(FILES / "annulus.msh")
    length = {
        name: annulus.ranks.sum(annulus.area[faces].sum())
        for name, faces in annulus.boundary.items()
    }
    assert length["inner"] == pytest.approx(0.8 * np.pi, rel=1e-2)
    assert length["outer"] == pytest.approx(2 * np.pi, rel=1e-2)


def test_faces_of_lower_dimension_are_no_cells(ranks, shared_folder):
    as_built, path, _ = written(ranks, "triangles", shared_folder, "msh 2.2 ascii")
    assert Mesh.read(path).n_cells_global == as_built.n_cells


def test_a_flat_mesh_may_lie_anywhere_in_space(ranks, shared_folder):
    path = shared_folder / "high.vtk"
    points = np.array([[0.0, 0, 7], [1, 0, 7], [0.4, 1, 7]])
    triangle = [("triangle", np.array([[0, 1, 2]]))]
    ranks.on_root(meshio.vtk.write, path, meshio.Mesh(points, triangle))
    assert Mesh.read(path, comm=MPI.COMM_SELF).volume == pytest.approx(0.5)


def test_a_surface_in_space_is_refused(ranks, shared_folder):
    path = shared_folder / "surface.vtk"
    points = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]])
    ranks.on_root(
        meshio.vtk.write,
        path,
        meshio.Mesh(points, [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))]),
    )
    with pytest.raises(MeshError, match="not in a plane: points are up to 0.26.* off .* 1 across"):
        Mesh.read(path)


def test_a_file_without_cells_says_what_it_has(ranks, shared_folder):
    path = shared_folder / "points.vtk"
    ranks.on_root(
        meshio.vtk.write, path, meshio.Mesh(np.zeros((2, 3)), [("vertex", np.array([[0], [1]]))])
    )
    with pytest.raises(InputError, match="no cells that fvot knows.*vertex"):
        Mesh.read(path)


def test_values_come_in_the_order_of_the_file(ranks, shared_folder):
    as_built, path, order = written(ranks, "triangles", shared_folder, "vtu binary")
    mesh = Mesh.read(path)
    assert_array_equal(
        mesh.gather(mesh.scatter(np.arange(mesh.n_cells_global))), np.arange(mesh.n_cells_global)
    )
    assert_allclose(mesh.gather(mesh.center), as_built.center[:, order], atol=1e-14)


# ---- what people have ----------------------------------------------------------------------------


SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1], [0.5, 0.5, -1]])


def grid_file(path, cells):
    """A text file of VTK's with the points of SQUARE and cells (type, points)."""
    rows = [f"{len(row)} {' '.join(map(str, row))}" for _, row in cells]
    size = sum(len(row) + 1 for _, row in cells)
    path.write_text(
        "\n".join(
            [
                "# vtk DataFile Version 3.0",
                "some cells",
                "ASCII",
                "DATASET UNSTRUCTURED_GRID",
                f"POINTS {len(SQUARE)} double",
                *(" ".join(map(str, p)) for p in SQUARE),
                f"CELLS {len(cells)} {size}",
                *rows,
                f"CELL_TYPES {len(cells)}",
                *(str(kind) for kind, _ in cells),
                "",
            ]
        )
    )
    return path


TETRA, LINE, TRIANGLE, PRISM_OF_FIVE, POLYHEDRON = 10, 3, 5, 15, 42
UNKNOWN = {
    "a prism": [(TETRA, [0, 1, 2, 4]), (PRISM_OF_FIVE, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3])],
    "nothing of VTK's": [(TETRA, [0, 1, 2, 4]), (99, [0, 1, 2, 3])],
    "nothing of VTK's, beside triangles": [(TRIANGLE, [0, 1, 2]), (99, [0, 1, 2, 3])],
}


@pytest.mark.parametrize("cells", UNKNOWN.values(), ids=UNKNOWN)
def test_cells_that_are_not_known_are_refused_by_name_and_number(cells, ranks, shared_folder):
    ranks.on_root(grid_file, shared_folder / "odd.vtk", cells)
    number = next(kind for kind, _ in cells if kind not in (TETRA, TRIANGLE))
    with pytest.raises(InputError, match=rf"1 cells are .*type {number}.*tetra, hexahedron"):
        Mesh.read(shared_folder / "odd.vtk")


def test_cells_of_lower_dimension_are_left_out(ranks, shared_folder):
    cells = [(LINE, [0, 1]), (TRIANGLE, [0, 1, 2]), (TETRA, [0, 1, 2, 4]), (1, [3])]
    ranks.on_root(grid_file, shared_folder / "mixed.vtk", cells)
    mesh = Mesh.read(shared_folder / "mixed.vtk", comm=MPI.COMM_SELF, strict=False)
    assert mesh.n_cells == 1 and mesh.points.shape[1] == 4


def test_second_order_cells_are_read_by_their_corners_and_said_once(ranks, shared_folder):
    points = np.array(
        [[0.0, 0, 0], [1, 0, 0], [0.4, 1, 0], [0.5, -0.2, 0], [0.7, 0.5, 0], [0.2, 0.5, 0]]
    )
    for suffix in (".vtk", ".vtu"):
        path = shared_folder / f"curved{suffix}"
        ranks.on_root(meshio.write, path, meshio.Mesh(points, [("triangle6", np.arange(6)[None])]))
        with pytest.warns(UserWarning, match="triangle6 are read by their corners") as said:
            mesh = Mesh.read(path, comm=MPI.COMM_SELF)
        assert len(said) == 1 and mesh.volume == pytest.approx(0.5) and mesh.points.shape[1] == 3


def lines_only(path, points):
    rows = "\n".join(f"{i} 1 2 0 1 {i} {i % len(points) + 1}" for i in range(1, len(points) + 1))
    nodes = "\n".join(f"{i} {x} {y} {z}" for i, (x, y, z) in enumerate(points, 1))
    path.write_text(
        f"$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n{len(points)}\n{nodes}\n$EndNodes\n"
        f"$Elements\n{len(points)}\n{rows}\n$EndElements\n"
    )


def test_a_file_with_lines_only_asks_for_the_surface(ranks, shared_folder):
    ranks.on_root(
        lines_only, shared_folder / "lines.msh", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    )
    with pytest.raises(InputError, match="lines only.*Physical Surface"):
        Mesh.read(shared_folder / "lines.msh")


@pytest.mark.parametrize(
    "version, words",
    [("5.0", "version 5 is none of those that are known.*4.1"), ("3.0", "version 3 is")],
)
def test_an_unknown_version_is_named(version, words, ranks, shared_folder):
    path = shared_folder / "new.msh"
    ranks.on_root(path.write_text, f"$MeshFormat\n{version} 0 8\n$EndMeshFormat\n")
    with pytest.raises(InputError, match=words):
        Mesh.read(path)


@pytest.mark.parametrize("plane", ["xy", "xz", "yz", "across"])
def test_a_flat_mesh_keeps_its_coordinates_in_any_plane(plane, ranks, shared_folder):
    """(x, z) of a mesh in x and z; along the plane's own axes across all of them."""
    as_built = MESHES["quads"](comm=MPI.COMM_SELF)
    frame = {
        "xy": np.eye(3)[:2],
        "xz": np.eye(3)[[0, 2]],
        "yz": np.eye(3)[[1, 2]],
        "across": np.array([[1, 0, 0], [0, 0.6, 0.8]]),
    }[plane]
    points = frame.T @ as_built.points + np.array([[0.0], [-0.8], [0.6]]) * (plane == "across")
    cells = [("quad", as_built.corners.reshape(-1, 4))]
    ranks.on_root(meshio.vtk.write, shared_folder / "flat.vtk", meshio.Mesh(points.T, cells))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = Mesh.read(shared_folder / "flat.vtk", comm=MPI.COMM_SELF)
    assert_allclose(mesh.gather(mesh.centroid), as_built.centroid, atol=1e-14)
    assert [("across the axes" in str(message.message)) for message in said] == [True] * (
        plane == "across"
    )


@pytest.mark.parametrize("noise, flat", [(1e-9, True), (1e-7, True), (1e-5, False)])
def test_noise_of_single_precision_is_no_height(noise, flat, ranks, shared_folder):
    as_built = MESHES["quads"](comm=MPI.COMM_SELF)
    points = np.concatenate(
        [
            as_built.points,
            noise * np.random.default_rng(0).uniform(-1, 1, (1, as_built.points.shape[1])),
        ]
    )
    cells = [("quad", as_built.corners.reshape(-1, 4))]
    ranks.on_root(meshio.vtk.write, shared_folder / "rough.vtk", meshio.Mesh(points.T, cells))
    if flat:
        assert Mesh.read(
            shared_folder / "rough.vtk", comm=MPI.COMM_SELF
        ).volume.sum() == pytest.approx(1, rel=1e-14)
    else:
        with pytest.raises(MeshError, match=r"up to .*e-0[56] off the plane nearest"):
            Mesh.read(shared_folder / "rough.vtk", comm=MPI.COMM_SELF)


def test_a_reader_that_dies_is_an_input_error(ranks, shared_folder, monkeypatch):
    """What ends a library's process does not end this one."""
    path = shared_folder / "good.vtk"
    ranks.on_root(grid_file, path, [(TRIANGLE, [0, 1, 2])])
    monkeypatch.setattr(
        "fvot.mesh.read.READER_START", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with pytest.raises(InputError, match="status -11.*is the file complete"):
        Mesh.read(path)


def test_a_reader_that_goes_on_for_ever_is_ended(ranks, shared_folder, monkeypatch):
    path = shared_folder / "good.vtk"
    ranks.on_root(grid_file, path, [(TRIANGLE, [0, 1, 2])])
    forever = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass"
    monkeypatch.setattr("fvot.mesh.read.READER_START", forever)
    with pytest.raises(InputError, match="status -"):
        Mesh.read(path)


@pytest.mark.parametrize(
    "file_format", ["msh 2.2 ascii", "msh 2.2 binary", "msh 4.1 ascii", "msh 4.1 binary"]
)
@pytest.mark.parametrize("kind", ["triangles", "honeycomb", "lines"])
def test_cells_are_those_that_meshio_reads(kind, file_format, ranks, shared_folder):
    """In the same order, of the same points."""
    _, path, _ = written(ranks, kind, shared_folder, file_format)
    points, blocks, facets, _ = files.read(path)
    witness = meshio.read(path)
    dim = len(points)
    cells = [(block.type, block.data) for block in witness.cells if block.dim == dim]
    assert [kind for kind, _ in blocks] == [kind for kind, _ in cells]
    for (_, ours), (_, theirs) in zip(blocks, cells):
        assert_array_equal(points[:, ours.T], witness.points.T[:dim, theirs.T])
    assert set(facets) == set(witness.field_data) - {"domain"}


def test_groups_are_those_that_gmsh_reads(one_rank_here, tmp_path):
    """Lengths and areas of groups by Gmsh's own library, where it is installed, of all files that
    it reads.
    """
    not_by_gmsh = {"msh4.0_binary.msh", "msh4.1_small_sizes.msh", "msh4.1_called_4.msh"}
    examples = {
        name: example
        for name, example in make_examples().EXAMPLES.items()
        if name.startswith("msh4") and name not in not_by_gmsh
    }
    for name, example in examples.items():
        example.write(tmp_path / name)
    paths = map(str, sorted(tmp_path.glob("*.msh")))
    done = subprocess.run([sys.executable, "-c", GMSH, *paths], capture_output=True, text=True)
    if "No module named 'gmsh'" in done.stderr or "cannot open shared object" in done.stderr:
        pytest.skip("Gmsh's library is not installed, or misses another one")
    assert done.returncode == 0, done.stderr
    for path, theirs in json.loads(done.stdout).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, _, facets, regions = files.read(path)
        ours = {str(name): points.shape[1] for name, points in facets.items()}
        ours |= {f"{name} (cells)": len(cells) for name, cells in regions.items()}
        assert ours == theirs, path


GMSH = """
import json, sys, gmsh
gmsh.initialize(interruptible=False)
gmsh.option.setNumber("General.Terminal", 0)
found = {}
for path in sys.argv[1:]:
    gmsh.clear()
    gmsh.merge(path)
    groups = found[path] = {}
    for dim, tag in gmsh.model.getPhysicalGroups():
        name = (gmsh.model.getPhysicalName(dim, tag) or str(tag)) + " (cells)" * (dim == 2)
        count = sum(len(t) for e in gmsh.model.getEntitiesForPhysicalGroup(dim, tag)
                    for t in gmsh.model.mesh.getElements(dim, e)[1])
        if count and dim > 0:
            groups[name] = groups.get(name, 0) + count
gmsh.finalize()
print(json.dumps(found))
"""
