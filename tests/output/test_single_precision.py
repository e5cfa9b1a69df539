"""Series for ParaView in single precision: every array of real numbers is, and what does not fit
into it is refused.
"""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh, Result

pytestmark = pytest.mark.ranks

KINDS = ["interval", "triangles", "voronoi", "tiling", "tetrahedra", "honeycomb", "box"]


def arrays(path):
    """{name: (dtype, values)} of the points and the cell fields at the last time, as VTK and h5py
    read them.
    """
    if path.suffix == ".vtkhdf":
        import h5py

        with h5py.File(path) as file:
            root = file["VTKHDF"]
            n = root["NumberOfCells"][0]
            found = {name: data[-n:] for name, data in root["CellData"].items()}
            found["points"] = root["Points"][:]
    else:
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkIOXML import vtkXMLPUnstructuredGridReader

        reader = vtkXMLPUnstructuredGridReader()
        reader.SetFileName(str(max((path.parent / path.stem).glob("*.pvtu"))))
        reader.Update()
        grid = reader.GetOutput()
        data = grid.GetCellData()
        found = {
            data.GetArrayName(i): vtk_to_numpy(data.GetArray(i))
            for i in range(data.GetNumberOfArrays())
        }
        found["points"] = vtk_to_numpy(grid.GetPoints().GetData())
    return found


def waves(mesh):
    """A Result with all three fields, at two times."""
    rho = 1 + np.sin(mesh.center).sum(axis=0) ** 2
    velocity = np.cos(mesh.center)
    ledger = {"mass": [1.0, 1.0], "mass_error": [0.0, 0.0]}
    return Result(
        mesh,
        np.arange(2.0),
        np.stack([rho, rho]),
        ledger,
        np.stack([velocity, -velocity]),
        np.stack([-rho, rho]),
    )


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_array_of_real_numbers_is_single(kind, suffix, ranks, shared_folder):
    mesh = MESHES[kind]()
    result = waves(mesh)
    single = shared_folder / f"single{suffix}"
    double = shared_folder / f"double{suffix}"
    result.write(single, single=True)
    result.write(double)
    if ranks.is_root:
        short = arrays(single)
        long = arrays(double)
        assert (
            set(short) == {"points", "density", "velocity", "pressure", "rank", "cell"} == set(long)
        )
        for name in ("points", "density", "velocity", "pressure"):
            assert (short[name].dtype, long[name].dtype) == (np.float32, np.float64), name
            assert_allclose(short[name], long[name], rtol=1e-7, atol=1e-30)
        for name in ("rank", "cell"):
            assert short[name].dtype == long[name].dtype
            assert_array_equal(short[name], long[name])


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
def test_points_that_single_precision_would_bend_are_refused(suffix, shared_folder):
    far = Mesh.rectangle(
        (500_000, 5_400_000), (500_006, 5_400_006), (20, 20)
    )  # metres, as surveyors have them
    result = waves(far)
    with pytest.raises(InputError, match="far from the origin; take single=False"):
        result.write(shared_folder / f"x{suffix}", single=True)
    result.write(shared_folder / f"x{suffix}")
    waves(Mesh.rectangle((500, 5400), (506, 5406), (20, 20))).write(
        shared_folder / f"y{suffix}", single=True
    )


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
def test_values_beyond_single_precision_are_refused(suffix, shared_folder):
    mesh = Mesh.interval(0, 1, 10)
    rho = np.full((1, mesh.n_cells), 1e39)
    huge = Result(mesh, np.zeros(1), rho, {"mass": [1e39], "mass_error": [0.0]})
    with pytest.raises(InputError, match="the density goes up to 1.0e[+]39"):
        huge.write(shared_folder / f"x{suffix}", single=True)
