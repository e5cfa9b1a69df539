"""Series for ParaView: what is written is what VTK reads back, whatever the mesh and the number of
ranks.
"""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from meshes import MESHES

from fvot import InputError
from fvot.output.pvd import Series, explain_write_errors
from fvot.output.series import write_all
from fvot.runs.result import Result

pytestmark = pytest.mark.ranks
TIMES = [0.0, 1 / 3, 2.5e7]


def made_up(mesh):
    """Densities and velocities that differ in every cell, at all TIMES."""
    rho = np.stack([np.cos(i + mesh.cell_id[: mesh.n_cells]) for i in range(len(TIMES))])
    return rho, np.stack([(i + 1) * np.sin(mesh.centroid) for i in range(len(TIMES))])


def read(path):
    """(times, grids) as ParaView reads them: one grid for each time, with the pieces of all
    ranks.
    """
    from vtkmodules.vtkIOXML import vtkXMLPUnstructuredGridReader

    times = []
    grids = []
    for entry in ET.parse(path).getroot().iter("DataSet"):
        reader = vtkXMLPUnstructuredGridReader()
        reader.SetFileName(str(path.parent / entry.get("file")))
        reader.Update()
        times.append(float(entry.get("timestep")))
        grids.append(reader.GetOutput())
    return times, grids


def by_cell(grid, name):
    """The array (n_cells, ...) of that name in the order of the original numbers of the cells."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    data = grid.GetCellData()
    number = vtk_to_numpy(data.GetArray("cell"))
    assert sorted(number) == list(range(len(number)))
    return vtk_to_numpy(data.GetArray(name))[np.argsort(number)]


def sizes(grid):
    """Length, area or volume of each cell, by VTK."""
    from vtkmodules.vtkFiltersVerdict import vtkCellSizeFilter

    measure = vtkCellSizeFilter()
    measure.SetInputData(grid)
    measure.Update()
    name = {1: "Length", 2: "Area", 3: "Volume"}[grid.GetCell(0).GetCellDimension()]
    return by_cell(measure.GetOutput(), name)


def test_read_back(mesh, shared_folder, ranks):
    rho, velocity = made_up(mesh)
    path = shared_folder / "out" / "x.pvd"
    Result(mesh, np.array(TIMES), rho, {}, velocity).write(path)
    whole = [mesh.gather(u) for u in (rho, velocity, mesh.volume)]
    owner = mesh.gather(np.full(mesh.n_cells, ranks.rank))
    if ranks.is_root:
        times, grids = read(path)
        assert times == TIMES
        for i, grid in enumerate(grids):
            assert grid.GetNumberOfCells() == mesh.n_cells_global
            assert np.array_equal(by_cell(grid, "density"), whole[0][i])
            assert np.array_equal(by_cell(grid, "velocity")[:, : mesh.dim], whole[1][i].T)
            assert np.all(by_cell(grid, "velocity")[:, mesh.dim :] == 0)
            assert np.array_equal(by_cell(grid, "rank"), owner)
            assert np.allclose(np.abs(sizes(grid)), whole[2], rtol=1e-12)


def test_pieces_are_inline_and_compressed(shared_folder, ranks):
    mesh = MESHES["triangles"]()
    path = shared_folder / "x.pvd"
    write_all(path, mesh, [0.0], {"density": mesh.volume[None]})
    text = (shared_folder / f"x/x_0000_{ranks.rank}.vtu").read_text()
    assert 'compressor="vtkZLibDataCompressor"' in text
    assert 'format="binary"' in text and "AppendedData" not in text


def test_pyvista_reads_the_times(shared_folder, ranks):
    import pyvista

    mesh = MESHES["rectangle"]()
    path = shared_folder / "x.pvd"
    write_all(path, mesh, TIMES, {"density": made_up(mesh)[0]})
    if ranks.is_root:
        reader = pyvista.get_reader(path)
        assert reader.time_values == TIMES
        reader.set_active_time_point(1)
        assert reader.read()[0].n_cells == mesh.n_cells_global
    ranks.wait()


def test_series_that_was_cut_off_opens_up_to_the_last_finished_time(shared_folder, ranks):
    mesh = MESHES["voronoi"]()
    rho, _ = made_up(mesh)
    path = shared_folder / "x.pvd"
    series = Series(path, mesh)
    series.add(0.0, {"density": rho[0]})
    series.add(1.0, {"density": rho[1]})
    last = ranks.rank == ranks.size - 1
    with pytest.raises(InputError, match="density"):  # the last rank fails, the others have written
        series.add(2.0, {"density": rho[2][1:] if last else rho[2]})
    if ranks.is_root:
        (shared_folder / "x/x_0002_0.vtu").write_text("<VTKFile type=")
    whole = mesh.gather(rho[1])
    if ranks.is_root:
        times, grids = read(path)
        assert times == [0.0, 1.0]
        assert np.array_equal(by_cell(grids[-1], "density"), whole)
        assert not list(shared_folder.glob("*.tmp"))


def test_new_series_takes_the_place_of_an_old_one(shared_folder, ranks):
    mesh = MESHES["rectangle"]()
    path = shared_folder / "x.pvd"
    write_all(path, mesh, [0.0, 1.0], {"density": np.stack([mesh.volume] * 2)})
    if ranks.is_root:
        (shared_folder / "x/x_0001_99.vtu").touch()  # as if there had been more ranks
        (shared_folder / "x/notes_0001.txt").touch()
    Series(path, mesh)
    if ranks.is_root:
        assert not path.exists()
        assert [file.name for file in (shared_folder / "x").iterdir()] == ["notes_0001.txt"]
    ranks.wait()
    write_all(path, mesh, [5.0], {"density": mesh.volume[None]})
    if ranks.is_root:
        assert read(path)[0] == [5.0]


def test_unusual_file_name(shared_folder, ranks):
    mesh = MESHES["rectangle"]()
    path = shared_folder / "a & <b> é.pvd"
    write_all(path, mesh, [0.0], {"density": mesh.volume[None]})
    if ranks.is_root:
        assert read(path)[1][0].GetNumberOfCells() == mesh.n_cells_global


@pytest.mark.parametrize("name", ["x.vtu", "x", "x.pvd/x.txt", ".pvd"])
def test_other_suffix(name, shared_folder):
    mesh = MESHES["rectangle"]()
    with pytest.raises(InputError, match=".pvd file"):
        write_all(shared_folder / name, mesh, [0.0], {"density": mesh.volume[None]})


def test_impossible_folder(shared_folder, ranks):
    mesh = MESHES["rectangle"]()
    if ranks.is_root:
        (shared_folder / "file").touch()
    ranks.wait()
    with pytest.raises(InputError, match="choose a place"):
        write_all(shared_folder / "file" / "x.pvd", mesh, [0.0], {"density": mesh.volume[None]})


def test_one_rank_cannot_write(shared_folder, ranks):
    mesh = MESHES["rectangle"]()
    series = Series(shared_folder / "x.pvd", mesh)
    if ranks.rank == ranks.size - 1:
        (shared_folder / f"x/x_0000_{ranks.rank}.vtu").mkdir()
    with pytest.raises(InputError, match="choose a place"):
        series.add(0.0, {"density": mesh.volume})
    assert not (shared_folder / "x.pvd").exists()


def test_wrong_shape(shared_folder):
    mesh = MESHES["rectangle"]()
    with pytest.raises(InputError, match="'density' has shape"):
        write_all(shared_folder / "x.pvd", mesh, [0.0], {"density": np.zeros((1, 3))})


def test_what_is_not_written_is_said_also_without_a_file_name():
    with (
        pytest.raises(
            InputError, match=r"cannot write 'x.pvd' \(No space left on device\): choose a place"
        ),
        explain_write_errors("x.pvd"),
    ):
        raise OSError(28, "No space left on device")
