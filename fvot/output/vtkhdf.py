"""One file for ParaView with a mesh that is written once, and fields at many times: VTKHDF, an HDF5
file.

Rank 0 writes it, in the order of the cells in the mesh's file. It is complete after each time:
however the program ends, these times stay. It has no lock of HDF5's, so that it can be looked at
while it is written.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from ..arguments.types import Array, Path
from ..errors import InputError
from .pvd import (
    as_field_rows,
    as_vtk_vectors,
    check_path,
    explain_write_errors,
    get_points,
    make_series_error,
)

# Free space that the disk must have before a time is written: this factor times the size of the
# data, and some bytes. An HDF5 file does not survive a full disk.
FREE_SPACE_FACTOR = 1.5
FREE_SPACE_BYTES = 1 << 20

# Numbers of a field that are compressed together.
FIELD_CHUNK = 65_536

# Fields that are in the file once: numbers in the mesh's file, and ranks at the beginning.
STATIC_FIELDS = ("cell", "rank")

COMPRESSION = dict(compression="gzip", compression_opts=1, shuffle=True)


class HdfSeries:
    """A series being written: ``HdfSeries("x.vtkhdf", mesh)``, then ``.add(t, {"density": rho})``
    for each time. Collective.

    done : times that the file has already and keeps; later ones are removed. 0: a new file
    single : points in single precision; a field keeps the precision of its array
    """

    def __init__(self, path: Path, mesh: Any, done: int = 0, single: bool = False) -> None:
        get_points(mesh, single)  # refuses single precision where it moves points
        self.real = np.float32 if single else np.float64
        self.path = check_path(mesh.ranks, path, ".vtkhdf")
        self.mesh = mesh
        numbers = mesh.ranks.gather_to_root(mesh.cell_id[: mesh.n_cells])
        self.order = np.concatenate(numbers) if mesh.ranks.is_root else None
        self.counts = [len(own) for own in numbers] if mesh.ranks.is_root else None
        whole = None if done else mesh.gather_cells()
        mesh.ranks.on_root(self._begin, whole, done)

    def _begin(self, whole, done):
        import h5py

        with explain_write_errors(self.path):
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            if done:
                self._open_series(h5py, done)
                return
            points, kind, start, corners = whole
            self._check_free_space(points.nbytes + start.nbytes + corners.nbytes)
            self.file = h5py.File(self.path, "w", libver=("earliest", "v110"), locking=False)
            root = self.file.create_group("VTKHDF", track_order=True)
            root.attrs["Version"] = (2, 0)
            root.attrs.create("Type", b"UnstructuredGrid", dtype="S16")
            self._write_mesh(root, points, kind, start, corners)
            data = root.create_group("CellData")
            offsets = _create_steps(root)
            self._write_static_fields(data, offsets, len(kind))
            self.file.flush()

    def _write_mesh(self, root, points, kind, start, corners):
        root["NumberOfPoints"] = np.array([points.shape[1]])
        root["NumberOfCells"] = np.array([len(kind)])
        root["NumberOfConnectivityIds"] = np.array([len(corners)])
        arrays = {
            "Points": as_vtk_vectors(points.astype(self.real)),
            "Connectivity": corners.astype("i8"),
            "Offsets": start.astype("i8"),
            "Types": kind.astype("u1"),
        }
        for name, values in arrays.items():
            root.create_dataset(name, data=values, **COMPRESSION)

    def _write_static_fields(self, data, offsets, n_cells):
        ranks = np.empty(n_cells, "i4")
        ranks[self.order] = np.repeat(np.arange(len(self.counts)), self.counts)
        for name, values in zip(STATIC_FIELDS, (np.arange(n_cells), ranks)):
            data.create_dataset(name, data=values, **COMPRESSION)
            _create_growing(offsets, name, (), "i8")

    def _open_series(self, h5py, done):
        """Open an earlier file and keep its first *done* times."""
        if not self.path.exists():
            raise make_series_error(f"there is no series {self.path}", done)
        try:
            self.file = h5py.File(self.path, "r+", locking=False)
        except OSError:
            problem = f"the series {self.path} is cut off, or cannot be read"
            raise make_series_error(problem, done) from None

        try:
            self._cut_series(h5py, self.file["VTKHDF"], done)
        except KeyError:
            self.file.close()
            raise make_series_error(f"the file {self.path} is no series of fvot", done) from None
        except InputError:
            self.file.close()
            raise

    def _cut_series(self, h5py, root, done):
        """Keep the first times, and remove later ones."""
        steps = root["Steps"]
        n = int(root["NumberOfCells"][0])
        fields = [
            dataset for name, dataset in root["CellData"].items() if name not in STATIC_FIELDS
        ]
        n_times = min([int(steps.attrs["NSteps"]), *(len(dataset) // n for dataset in fields)])
        if n != len(self.order):
            problem = f"the series {self.path} is of a mesh of {n} cells, not {len(self.order)}"
            raise make_series_error(problem, done)
        if n_times < done:
            raise make_series_error(f"the series {self.path} has {n_times} times", done)

        steps.attrs["NSteps"] = done
        of_steps = [dataset for dataset in steps.values() if isinstance(dataset, h5py.Dataset)]
        for dataset in [*of_steps, *steps["CellDataOffsets"].values()]:
            dataset.resize(done, axis=0)
        for dataset in fields:
            dataset.resize(done * n, axis=0)
        self.file.flush()

    def add(self, time: float, fields: dict[str, Array]) -> None:
        """Write cell fields {name: (n_cells,) or (dim, n_cells)} at *time*."""
        ranks = self.mesh.ranks
        n_cells = self.mesh.n_cells
        with ranks.raising_together():
            rows = {name: as_field_rows(name, values, n_cells) for name, values in fields.items()}
        parts = {name: ranks.gather_to_root(values) for name, values in rows.items()}
        ranks.on_root(self._add, time, parts)

    def _add(self, time, parts):
        with explain_write_errors(self.path):
            fields = {name: np.concatenate(part) for name, part in parts.items()}
            self._check_free_space(sum(array.nbytes for array in fields.values()))
            root = self.file["VTKHDF"]
            steps = root["Steps"]
            offsets = steps["CellDataOffsets"]
            for name, array in fields.items():
                self._append_field(root["CellData"], offsets, name, array)
            for name in STATIC_FIELDS:
                _append(offsets[name], 0)

            _append(steps["Values"], time)
            _append(steps["NumberOfParts"], 1)
            for name in ("PartOffsets", "PointOffsets", "CellOffsets", "ConnectivityIdOffsets"):
                _append(steps[name], 0)
            self.file.flush()
            # The time counts when all of it is on the disk.
            steps.attrs["NSteps"] = len(steps["Values"])
            self.file.flush()

    def _append_field(self, data, offsets, name, array):
        """Add a field, given in the order of the ranks, at the next time."""
        n = len(self.order)
        if name not in data:
            chunk = min(n, FIELD_CHUNK)
            _create_growing(data, name, array.shape[1:], array.dtype, chunk, compressed=True)
            _create_growing(offsets, name, (), "i8")
        in_file_order = np.empty_like(array)
        in_file_order[self.order] = array
        _append(offsets[name], len(data[name]))
        _append(data[name], in_file_order)

    def _check_free_space(self, size):
        free = shutil.disk_usage(self.path.absolute().parent).free
        if free < FREE_SPACE_FACTOR * size + FREE_SPACE_BYTES:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        """End the series. Collective."""
        self.mesh.ranks.on_root(lambda: self.file.close())

    def give_up(self) -> None:
        """Close the file after a failure. On this rank alone."""
        if self.mesh.ranks.is_root:
            self.file.close()


def _create_steps(root):
    """The empty table of times; returns its group of the fields' offsets."""
    steps = root.create_group("Steps")
    steps.attrs["NSteps"] = 0
    _create_growing(steps, "Values", (), "f8")
    for name in ("PartOffsets", "NumberOfParts", "PointOffsets"):
        _create_growing(steps, name, (), "i8")
    for name in ("CellOffsets", "ConnectivityIdOffsets"):
        _create_growing(steps, name, (1,), "i8")
    return steps.create_group("CellDataOffsets")


def _create_growing(group, name, shape, dtype, chunk=1024, compressed=False):
    """A dataset of rows of a shape, without rows at first."""
    options = COMPRESSION if compressed else {}
    group.create_dataset(
        name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape), **options
    )


def _append(dataset, values):
    """Add rows at the end of a growing dataset."""
    values = np.reshape(values, (-1, *dataset.shape[1:]))
    dataset.resize(len(dataset) + len(values), axis=0)
    dataset[len(dataset) - len(values) :] = values
