"""One file for ParaView with a mesh that is written once, and fields at many times: VTKHDF, an HDF5
file.

Rank 0 writes it, in the order of the cells in the mesh's file. After each time the file is whole:
what ends the program takes nothing away from it.
"""

import shutil

import numpy as np

from ..errors import InputError
from ..mesh.gathering import gather_mesh
from .pvd import field_row, lost, path_of, points_of, three, writing

# times as much place as a time takes must be left on the disk: HDF5 does not survive a full one
ROOM = 1.5
HEADROOM = 1 << 20  # bytes
CHUNK = 65_536  # numbers that are compressed together
STATIC = (
    "cell",
    "rank",
)  # fields that stand in the file once: numbers in the mesh's file, and ranks at the beginning


class HdfSeries:
    """A series under way: ``HdfSeries("x.vtkhdf", mesh)``, then ``.add(t, {"density": rho})`` for
    each time. Collective.

    done : times that the file has already, and keeps; those after them are removed. 0: a new file
    single : points in single precision; the precision of a field is that of its array
    """

    def __init__(self, path, mesh, done=0, single=False):
        points_of(mesh, single)
        self.real = np.float32 if single else np.float64
        self.path = path_of(mesh.ranks, path, ".vtkhdf")
        self.mesh = mesh
        numbers = mesh.ranks.gather_to_root(mesh.cell_id[: mesh.n_cells])
        self.order = np.concatenate(numbers) if mesh.ranks.is_root else None
        self.counts = [len(own) for own in numbers] if mesh.ranks.is_root else None
        whole = _whole(mesh, self.order)
        mesh.ranks.on_root(self._begin, whole, done)

    def _begin(self, whole, done):
        import h5py

        with writing(self.path):
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            if done:
                self._go_on(h5py, done)
                return
            points, kind, start, corners = whole
            self._check_room(points.nbytes + start.nbytes + corners.nbytes)
            self.file = h5py.File(self.path, "w", libver=("earliest", "v110"))
            root = self.file.create_group("VTKHDF", track_order=True)
            root.attrs["Version"] = (2, 0)
            root.attrs.create("Type", b"UnstructuredGrid", dtype="S16")
            for name, number in (
                ("NumberOfPoints", points.shape[1]),
                ("NumberOfCells", len(kind)),
                ("NumberOfConnectivityIds", len(corners)),
            ):
                root[name] = np.array([number])
            for name, values in (
                ("Points", three(points.astype(self.real))),
                ("Connectivity", corners.astype("i8")),
                ("Offsets", start.astype("i8")),
                ("Types", kind.astype("u1")),
            ):
                root.create_dataset(
                    name, data=values, compression="gzip", compression_opts=1, shuffle=True
                )
            data = root.create_group("CellData")
            steps = root.create_group("Steps")
            steps.attrs["NSteps"] = 0
            _growing(steps, "Values", (), "f8")
            for name in ("PartOffsets", "NumberOfParts", "PointOffsets"):
                _growing(steps, name, (), "i8")
            for name in ("CellOffsets", "ConnectivityIdOffsets"):
                _growing(steps, name, (1,), "i8")
            offsets = steps.create_group("CellDataOffsets")
            ranks = np.empty(len(kind), "i4")
            ranks[self.order] = np.repeat(np.arange(len(self.counts)), self.counts)
            for name, values in zip(STATIC, (np.arange(len(kind)), ranks)):
                data.create_dataset(
                    name, data=values, compression="gzip", compression_opts=1, shuffle=True
                )
                _growing(offsets, name, (), "i8")
            self.file.flush()

    def _go_on(self, h5py, done):
        """Take up a file that is there."""
        if not self.path.exists():
            raise lost(f"there is no series {self.path}", done)
        try:
            self.file = h5py.File(self.path, "r+")
        except OSError:
            raise lost(f"the series {self.path} is cut off, or cannot be read", done) from None
        try:
            self._take_up(h5py, self.file["VTKHDF"], done)
        except KeyError:
            self.file.close()
            raise lost(f"the file {self.path} is no series of fvot", done) from None
        except InputError:
            self.file.close()
            raise

    def _take_up(self, h5py, root, done):
        """Keep the first times, and remove those after them."""
        steps = root["Steps"]
        n = int(root["NumberOfCells"][0])
        fields = [dataset for name, dataset in root["CellData"].items() if name not in STATIC]
        times = min([int(steps.attrs["NSteps"]), *(len(dataset) // n for dataset in fields)])
        if n != len(self.order):
            raise lost(
                f"the series {self.path} is of a mesh of {n} cells, not {len(self.order)}", done
            )
        if times < done:
            raise lost(f"the series {self.path} has {times} times", done)
        steps.attrs["NSteps"] = done
        for dataset in [
            *(d for d in steps.values() if isinstance(d, h5py.Dataset)),
            *steps["CellDataOffsets"].values(),
        ]:
            dataset.resize(done, axis=0)
        for dataset in fields:
            dataset.resize(done * n, axis=0)
        self.file.flush()

    def add(self, time, fields):
        """Write cell fields {name: (n_cells,) or (dim, n_cells)} at *time*."""
        ranks = self.mesh.ranks
        n_cells = self.mesh.n_cells
        with ranks.raising_together():
            rows = {name: field_row(name, values, n_cells) for name, values in fields.items()}
        parts = {name: ranks.gather_to_root(values) for name, values in rows.items()}
        ranks.on_root(self._add, time, parts)

    def _add(self, time, parts):
        with writing(self.path):
            values = {name: np.concatenate(part) for name, part in parts.items()}
            self._check_room(sum(array.nbytes for array in values.values()))
            root = self.file["VTKHDF"]
            n = len(self.order)
            steps = root["Steps"]
            for name, array in values.items():
                if name not in root["CellData"]:
                    _growing(
                        root["CellData"],
                        name,
                        array.shape[1:],
                        array.dtype,
                        chunk=min(n, CHUNK),
                        compressed=True,
                    )
                    _growing(steps["CellDataOffsets"], name, (), "i8")
                whole = np.empty_like(array)
                data = root["CellData"][name]
                whole[self.order] = array
                _append(steps["CellDataOffsets"][name], len(data))
                _append(data, whole)
            for name in STATIC:
                _append(steps["CellDataOffsets"][name], 0)
            for name, value in (
                ("Values", time),
                ("PartOffsets", 0),
                ("NumberOfParts", 1),
                ("PointOffsets", 0),
                ("CellOffsets", 0),
                ("ConnectivityIdOffsets", 0),
            ):
                _append(steps[name], value)
            self.file.flush()
            steps.attrs["NSteps"] = len(steps["Values"])
            self.file.flush()

    def _check_room(self, size):
        free = shutil.disk_usage(self.path.absolute().parent).free
        if free < ROOM * size + HEADROOM:
            raise OSError(28, "No space left on device")

    def close(self):
        """Nothing more will come. Collective."""
        self.mesh.ranks.on_root(lambda: self.file.close())

    def give_up(self):
        """Let go of the file. On this rank alone."""
        if self.mesh.ranks.is_root:
            self.file.close()


def _whole(mesh, order):
    """(points (dim, n), kind (n_cells,), start (n_cells + 1,), corners) of the whole mesh, in the
    file's order, on rank 0.
    """
    if mesh.block is None:
        whole = gather_mesh(mesh)
        return whole and whole[:4]
    parts = mesh.ranks.gather_to_root(
        (mesh.points, mesh.kind, mesh.corners.reshape(mesh.n_cells, -1))
    )
    if parts is None:
        return None
    points, kind, corners = zip(*parts)  # blocks have their own copies of the points between them
    shift = np.cumsum([0, *(p.shape[1] for p in points)])
    corners = np.concatenate([own + first for own, first in zip(corners, shift)])
    place = np.argsort(order)
    return (
        np.concatenate(points, axis=1),
        np.concatenate(kind)[place],
        corners.shape[1] * np.arange(len(place) + 1),
        corners[place].ravel(),
    )


def _growing(group, name, shape, dtype, chunk=1024, compressed=False):
    more = dict(compression="gzip", compression_opts=1, shuffle=True) if compressed else {}
    group.create_dataset(
        name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape), **more
    )


def _append(dataset, values):
    values = np.reshape(values, (-1, *dataset.shape[1:]))
    dataset.resize(len(dataset) + len(values), axis=0)
    dataset[len(dataset) - len(values) :] = values
