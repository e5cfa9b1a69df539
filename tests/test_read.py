"""Mesh files: what is written is read, in every format, with the names of the boundary."""
import warnings

import meshio
import numpy as np
import pytest
from files import FORMATS, write
from meshes import FILES, MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh, MeshError

pytestmark = pytest.mark.ranks

KINDS = ["lines", "interval", "triangles", "quads", "rectangle", "tetrahedra", "box", "honeycomb"]
POLYGONS = ["voronoi", "tiling"]
GMSH = [name for name in FORMATS if name.startswith("msh")]
VTK = [name for name in FORMATS if not name.startswith("msh")]


def written(ranks, kind, folder, file_format):
    """(the mesh on one rank, path of its file, its cells in the order of the file)."""
    mesh = MESHES[kind](comm=MPI.COMM_SELF)
    path_and_order = ranks.on_root(write, mesh, folder, file_format)
    return mesh, *ranks.share(path_and_order)


def read(path, **options):
    """Tetrahedra lose the builder's cell points in a file: their circumcentres do for a test of reading."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Mesh.read(path, strict=False, **options)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind, file_format, ranks, shared_folder):
    as_built, path, order = written(ranks, kind, shared_folder, file_format)
    mesh = read(path)
    digits = 1e-10 if file_format == "vtu ascii" else 1e-14        # meshio writes twelve digits there, else all
    assert_allclose(mesh.gather(mesh.volume), as_built.volume[order], rtol=10 * digits)
    assert_allclose(mesh.gather(mesh.centroid), as_built.centroid[:, order], atol=digits)
    assert mesh.ranks.sum(mesh.face_owned.sum()) == as_built.face_owned.sum()


@pytest.mark.parametrize("file_format", VTK)
@pytest.mark.parametrize("kind", POLYGONS)
def test_polygons_are_read_from_vtk_files(kind, file_format, ranks, shared_folder):
    as_built, path, order = written(ranks, kind, shared_folder, file_format)
    mesh = Mesh.read(str(path), strict=False)        # centroids, where the builder had generators
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
        assert_allclose(mesh.ranks.sum((mesh.area * mesh.face_center)[:, faces].sum(axis=1)), place, atol=1e-12)


@pytest.mark.skipif(not (FILES / "harbour.msh").exists(), reason="no mesh files")
@pytest.mark.parametrize("name, boundaries", [
    ("harbour", {"inlet", "outlet", "mole", "islands", "shore"}),
    ("l_shape", {"bottom", "right", "top", "left", "notch"}),
    ("disc", {"circle"}), ("annulus", {"inner", "outer"}), ("two_rooms", {"walls"}), ("ball", {"sphere"})])
def test_shipped_files_have_their_boundaries(name, boundaries):
    if not (FILES / f"{name}.msh").exists():
        pytest.skip(f"no {name}.msh")
    mesh = Mesh.read(FILES / f"{name}.msh")
    assert set(mesh.boundary) == boundaries
    assert mesh.quality().smallest_distance > 0.01


@pytest.mark.skipif(not (FILES / "annulus.msh").exists(), reason="no mesh files")
def test_shipped_rounds_are_round():
    annulus = Mesh.read(FILES / "annulus.msh")
    length = {name: annulus.ranks.sum(annulus.area[faces].sum()) for name, faces in annulus.boundary.items()}
    assert length["inner"] == pytest.approx(0.8 * np.pi, rel=1e-2)
    assert length["outer"] == pytest.approx(2 * np.pi, rel=1e-2)


def test_faces_of_lower_dimension_are_no_cells(ranks, shared_folder):
    as_built, path, _ = written(ranks, "triangles", shared_folder, "msh 2.2 ascii")
    assert Mesh.read(path).n_cells_global == as_built.n_cells


def test_a_flat_mesh_may_lie_anywhere_in_space(ranks, shared_folder):
    path = shared_folder / "high.vtk"
    points, triangle = np.array([[0.0, 0, 7], [1, 0, 7], [0.4, 1, 7]]), [("triangle", np.array([[0, 1, 2]]))]
    ranks.on_root(meshio.vtk.write, path, meshio.Mesh(points, triangle))
    assert Mesh.read(path, comm=MPI.COMM_SELF).volume == pytest.approx(0.5)


def test_a_surface_in_space_is_refused(ranks, shared_folder):
    path = shared_folder / "surface.vtk"
    points = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]])
    ranks.on_root(meshio.vtk.write, path, meshio.Mesh(points, [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))]))
    with pytest.raises(MeshError, match="not in a plane: points are up to 0.26.* off .* 1 across"):
        Mesh.read(path)


def test_a_file_without_cells_says_what_it_has(ranks, shared_folder):
    path = shared_folder / "points.vtk"
    ranks.on_root(meshio.vtk.write, path, meshio.Mesh(np.zeros((2, 3)), [("vertex", np.array([[0], [1]]))]))
    with pytest.raises(InputError, match="no cells that fvot knows.*vertex"):
        Mesh.read(path)


def test_values_come_in_the_order_of_the_file(ranks, shared_folder):
    as_built, path, order = written(ranks, "triangles", shared_folder, "vtu binary")
    mesh = Mesh.read(path)
    assert_array_equal(mesh.gather(mesh.scatter(np.arange(mesh.n_cells_global))), np.arange(mesh.n_cells_global))
    assert_allclose(mesh.gather(mesh.center), as_built.center[:, order], atol=1e-14)
