"""Series that are written on the way, in both formats: what other readers find in them, on any
number of ranks.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import Checkpoint, InputError, Mesh, Output
from fvot.output.vtkhdf import HdfSeries

pytestmark = pytest.mark.ranks

T = np.linspace(0, 1, 6)
KINDS = ["interval", "triangles", "voronoi", "rectangle", "box", "tetrahedra", "honeycomb"]


def flow(mesh):
    speed = np.ones(mesh.dim) / 4
    return fvot.ContinuityEquation(
        mesh, speed, boundary={name: fvot.outflow for name in mesh.boundary}
    )


def read(path):
    """{"t": times, "volume": (n_cells,), name: (n_times, n_cells, ...)}, by VTK's own readers."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersVerdict import vtkCellSizeFilter

    if path.suffix == ".vtkhdf":
        from vtkmodules.vtkIOHDF import vtkHDFReader

        reader = vtkHDFReader()
        reader.SetFileName(str(path))
        reader.UpdateInformation()
        count = reader.GetNumberOfSteps()
        found = []
        info = reader.GetOutputInformation(0)
        t = [info.Get(_time_steps(), i) for i in range(count)]
        for i in range(count):
            reader.SetStep(i)
            reader.Update()
            found.append(_fields(reader.GetOutputDataObject(0), vtk_to_numpy))
        size = vtkCellSizeFilter()
        size.SetInputDataObject(reader.GetOutputDataObject(0))
        size.Update()
        data = size.GetOutputDataObject(0).GetCellData()
        volume = sum(vtk_to_numpy(data.GetArray(name)) for name in ("Length", "Area", "Volume"))
        return {
            "t": t,
            "volume": volume,
            **{name: np.stack([f[name] for f in found]) for name in found[0]},
        }
    import pyvista

    reader = pyvista.get_reader(path)
    found = []
    for value in reader.time_values:
        reader.set_active_time_value(value)
        block = reader.read()[0]
        order = np.argsort(block.cell_data["cell"])
        found.append({name: np.asarray(block.cell_data[name])[order] for name in block.cell_data})
    return {
        "t": list(reader.time_values),
        **{name: np.stack([f[name] for f in found]) for name in found[0]},
    }


def _time_steps():
    from vtkmodules.vtkCommonExecutionModel import vtkStreamingDemandDrivenPipeline

    return vtkStreamingDemandDrivenPipeline.TIME_STEPS()


def _fields(grid, to_numpy):
    data = grid.GetCellData()
    return {
        data.GetArrayName(i): to_numpy(data.GetArray(i)).copy()
        for i in range(data.GetNumberOfArrays())
    }


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_on_the_way(kind, suffix, ranks, shared_folder):
    mesh = MESHES[kind]()
    path = shared_folder / f"x{suffix}"
    rho0 = mesh.density(lambda x: 1 + np.sin(x).sum(axis=0) ** 2)
    result = flow(mesh).solve(rho0, T, write=path)
    own = np.full(mesh.n_cells, ranks.rank)
    whole = [mesh.gather(u) for u in (result.rho, result.velocity, mesh.volume, own)]
    if ranks.is_root:
        found = read(path)
        assert_allclose(found["t"], T)
        assert_array_equal(found["density"], whole[0])
        assert_array_equal(found["velocity"][:, :, : mesh.dim], whole[1].transpose(0, 2, 1))
        if suffix == ".vtkhdf":
            assert_allclose(found["volume"], whole[2], rtol=1e-6)
            assert_array_equal(
                found["cell"], np.broadcast_to(np.arange(mesh.n_cells_global), found["cell"].shape)
            )
            assert_array_equal(found["rank"], np.broadcast_to(whole[3], found["rank"].shape))


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
def test_some_times_some_fields_in_single_precision(suffix, ranks, shared_folder):
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    path = shared_folder / f"x{suffix}"
    output = Output(path, every=3, fields=["density"], single=True, keep=False)
    rho0 = mesh.density(lambda x: x[0])
    whole = flow(mesh).solve(rho0, T)
    result = flow(mesh).solve(rho0, T, write=output)
    assert_array_equal(result.t, T[[0, -1]])
    assert_array_equal(result.rho, whole.rho[[0, -1]])
    assert len(result.ledger["mass"]) == len(T) and result.velocity.shape[0] == 2
    expected = mesh.gather(whole.rho)[[0, 3, 5]]
    if ranks.is_root:
        found = read(path)
        assert_allclose(found["t"], T[[0, 3, 5]])
        assert found["density"].dtype == np.float32 and "velocity" not in found
        assert_allclose(found["density"], expected, rtol=1e-7)
    ranks.wait()
    whole.write(path, every=3, fields=["density"], single=True)
    if ranks.is_root:
        assert_array_equal(read(path)["density"], found["density"])


def test_one_file_is_smaller(ranks, shared_folder):
    mesh = Mesh.triangles((0, 0), (1, 1), 40)
    result = flow(mesh).solve(mesh.density(lambda x: x[0]), np.linspace(0, 1, 21))
    result.write(shared_folder / "x.pvd")
    result.write(shared_folder / "x.vtkhdf", single=True, fields=("density",))
    if ranks.is_root:
        pieces = sum(path.stat().st_size for path in (shared_folder / "x").iterdir())
        assert (shared_folder / "x.vtkhdf").stat().st_size < pieces / 5


def test_a_file_can_be_read_while_it_is_written(ranks, shared_folder):
    """By others, which ask for HDF5's lock: it is complete after each time."""
    mesh = Mesh.interval(0, 1, 8)
    path = shared_folder / "x.vtkhdf"
    series = HdfSeries(path, mesh)
    for i in range(2):
        series.add(i / 2, {"density": mesh.volume})
        assert not ranks.is_root or len(read(path)["t"]) == i + 1
    series.close()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
def test_a_series_goes_on_with_its_run(suffix, keep, ranks, shared_folder, monkeypatch):
    """Interrupted after times that the checkpoint does not know: the series is that of an
    uninterrupted run.
    """
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    path = shared_folder / f"x{suffix}"
    kept = Checkpoint(shared_folder / "run.h5", every=0)
    rho0 = mesh.density(lambda x: x[0])
    output = Output(path, every=2, keep=keep)
    whole = flow(mesh).solve(rho0, T)
    write = fvot.runs.checkpoint.CheckpointManager.write
    record = fvot.runs.recorder.Recorder.record

    def write_early(self, cells, values):
        if len(values["records"]) < 3:
            write(self, cells, values)

    def record_some(self, *args, **fields):
        record(self, *args, **fields)
        if len(self.records) == 5:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(fvot.runs.checkpoint.CheckpointManager, "write", write_early)
        patch.setattr(fvot.runs.recorder.Recorder, "record", record_some)
        with pytest.raises(Interrupted):
            flow(mesh).solve(rho0, T, checkpoint=kept, write=output)
    result = flow(mesh).solve(rho0, T, checkpoint=kept, write=output)
    assert_allclose(result.rho, whole.rho if keep else whole.rho[[0, -1]], atol=1e-15)
    expected = mesh.gather(whole.rho)[[0, 2, 4, 5]]
    if ranks.is_root:
        found = read(path)
        assert_allclose(found["t"], T[[0, 2, 4, 5]])
        assert_allclose(found["density"], expected, atol=1e-15)
        if suffix == ".vtkhdf":
            assert_array_equal(
                found["cell"], np.broadcast_to(np.arange(mesh.n_cells_global), found["cell"].shape)
            )


def cut_off(path, shorter):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_piece(path, shorter):
    (path.with_suffix("") / "x_0001.pvtu" if path.suffix == ".pvd" else path).unlink()


LOST = {  # what has become of the series, beside one that has fewer times; words of the message
    "missing": (lambda path, shorter: path.unlink(), "there is no series"),
    "shorter": (
        lambda path, shorter: path.write_bytes(shorter.read_bytes()),
        "has 2 times, but .* has passed 6",
    ),
    "another file": (
        lambda path, shorter: path.write_bytes(b"no series"),
        "has 0 times|cannot be read",
    ),
    "cut off": (cut_off, "has . times|is cut off"),
    "a piece missing": (without_a_piece, "no series|lost the file x/x_0001"),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
@pytest.mark.parametrize("what", LOST)
def test_a_series_is_lost(what, suffix, keep, ranks, shared_folder):
    """The message says what is wrong with it, and a remedy, which helps."""
    mesh = Mesh.interval(0, 1, 8)
    path = shared_folder / f"x{suffix}"
    shorter = shared_folder / f"y{suffix}"
    kept = Checkpoint(shared_folder / "run.h5")
    rho0 = mesh.density(lambda x: x[0])
    longer = [*T, 1.5]
    flow(mesh).solve(rho0, T[:2], write=shorter)
    whole = flow(mesh).solve(rho0, longer)
    flow(mesh).solve(rho0, T, checkpoint=kept, write=Output(path, keep=keep))
    change, words = LOST[what]
    ranks.on_root(change, path, shorter)
    with pytest.raises(InputError, match=f"({words}).* go on without write= and call result.write"):
        flow(mesh).solve(rho0, longer, checkpoint=kept, write=Output(path, keep=keep))
    result = flow(mesh).solve(rho0, longer, checkpoint=kept)
    result.write(path)
    places = slice(None) if keep else [0, -1]
    assert_array_equal(result.t, whole.t[places])
    assert_allclose(result.rho, whole.rho[places], atol=1e-15)


def test_whether_densities_are_kept_may_change_on_the_way(ranks, shared_folder):
    mesh = Mesh.interval(0, 1, 8)
    path = shared_folder / "x.pvd"
    kept = Checkpoint(shared_folder / "run.h5")
    rho0 = mesh.density(lambda x: x[0])
    for keep, t, count in (True, T[:4], 4), (False, T[:5], 2), (True, T, 2):
        result = flow(mesh).solve(rho0, t, checkpoint=kept, write=Output(path, keep=keep))
        assert len(result.t) == len(result.rho) == len(result.velocity) == count
        assert_array_equal(result.t[[0, -1]], t[[0, -1]])


def test_other_solvers(ranks, shared_folder):
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    rho0 = mesh.density(lambda x: 1 + x[0])
    crowd = fvot.JKO(mesh, fvot.Entropy(0.1) + fvot.Potential(lambda x: x[0]), bounds=(0, 1.6))
    for name, solver in (("fp", fvot.FokkerPlanck(mesh, diffusion=0.1)), ("jko", crowd)):
        path = shared_folder / f"{name}.vtkhdf"
        result = solver.solve(rho0, [0, 0.1, 0.2], tau=0.05, write=path)
        rho = mesh.gather(result.rho)
        pressure = None if result.pressure is None else mesh.gather(result.pressure)
        if ranks.is_root:
            found = read(path)
            assert_array_equal(found["density"], rho)
            assert pressure is None or (found["pressure"] == pressure).all()
        ranks.wait()


@pytest.mark.parametrize(
    "output, words",
    [
        ("x.vtk", "a .pvd file, or a .vtkhdf"),
        (3, "a .pvd file, or a .vtkhdf"),
        (Output("x.pvd", every=0), "every"),
        (Output("x.pvd", every=1.5), "every"),
        (Output("x.pvd", fields=["speed"]), "no speed to write, but density, current, velocity"),
        (Output("x.pvd", fields=[{"density": 1.0}]), "there is a field 'density' already"),
        (Output("x.pvd", fields=[{"own": [1.0, 2.0]}]), "'own' has shape .2,."),
        (Output("x.pvd", fields=[{"own": lambda x: x[:, 1:]}]), "'own' returned shape"),
        (Output("x.pvd", fields="density"), "fields"),
        (Output("x.pvd", fields=[]), "fields"),
        ("/dev/null/x.pvd", "cannot write"),
        ("/dev/null/x.vtkhdf", "cannot write"),
    ],
)
def test_bad_output(output, words):
    mesh = Mesh.interval(0, 1, 8)
    with pytest.raises(InputError, match=words):
        fvot.FokkerPlanck(mesh, diffusion=1).solve(mesh.density(lambda x: x[0]), 1.0, write=output)


def test_a_full_disk_is_said_before_it_is_full(shared_folder, monkeypatch, ranks):
    mesh = Mesh.interval(0, 1, 100)
    room = [10**9]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=room[0]))

    def speed(x, t):
        room[0] = 1000 if t > 0.5 else 10**9
        return 0 * x

    with pytest.raises(InputError, match="No space left"):
        fvot.ContinuityEquation(mesh, speed).solve(
            mesh.density(lambda x: x[0]), T, write=shared_folder / "x.vtkhdf"
        )
    ranks.wait()
    if ranks.is_root:
        assert 1 < len(read(shared_folder / "x.vtkhdf")["t"]) < 6
