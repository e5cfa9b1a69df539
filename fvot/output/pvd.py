"""Files for ParaView: a .pvd with the times, a .pvtu for each time, a .vtu for each time and rank.

Data are inline, base64 and zlib: the ParaView of some Linux distributions does not read the
appended form. VTK is imported only when something is written, because importing it takes long.
"""

from __future__ import annotations

import html
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..arguments.functions import refuse_masked
from ..arguments.paths import expand_home
from ..arguments.types import Array, IntArray, Path
from ..errors import InputError

if TYPE_CHECKING:
    from ..parallel import Ranks

ENTRY_PATTERN = re.compile(r'timestep="(.*?)" part="0" file="(.*?)"')

# Of a cell, by which rounding may move its points: a picture does not show less.
MAX_POINT_MOVE = 1e-2

# numpy's types of numbers, and VTK's names of them.
VTK_TYPES = {"f8": "Float64", "f4": "Float32", "i8": "Int64", "i4": "Int32", "u1": "UInt8"}


def check_path(ranks: Ranks, path: Path, *suffixes: str) -> FilePath:
    """The `Path` of a file to be written; `InputError` on every rank for another suffix."""
    is_path = isinstance(path, (str, os.PathLike)) and "\0" not in str(path)
    ranks.check(
        is_path and FilePath(path).suffix in suffixes,
        f"this is written to a {' or '.join(suffixes)} file, not to {path!r:.80}",
    )
    with ranks.raising_together():
        return expand_home(path)


class Series:
    """A series being written: ``Series("out/x.pvd", mesh)``, then ``.add(t, {"density": rho})`` for
    each time. Collective.

    The pieces go to a folder beside the .pvd (``out/x/x_0000_0.vtu`` has time 0 of rank 0). The
    .pvd names a time only when all of its pieces are there: however the program ends, the series
    opens up to the last finished time. An earlier series of the same name is removed, except for
    its first *done* times.

    single : points in single precision; a field keeps the precision of its array
    """

    def __init__(self, path: Path, mesh: Any, done: int = 0, single: bool = False) -> None:
        self.path = check_path(mesh.ranks, path, ".pvd")
        self.mesh = mesh
        self.folder = self.path.with_suffix("")
        points = get_points(mesh, single)
        self.entries = mesh.ranks.broadcast(mesh.ranks.on_root(self._begin, done))
        with mesh.ranks.raising_together():
            self.grid = build_grid(points, mesh.kind, mesh.start, mesh.corners)
            self.point_type = VTK_TYPES[points.dtype.str[1:]]

    def add(self, time: float, fields: dict[str, Array]) -> None:
        """Write cell fields {name: (n_cells,) or (dim, n_cells)} at *time*.

        Vectors are written with three components.
        """
        mesh = self.mesh
        ranks = mesh.ranks
        stem = f"{self.folder.name}_{len(self.entries):04d}"
        fields = {
            **fields,
            "rank": np.full(mesh.n_cells, ranks.rank, np.int32),
            "cell": mesh.cell_id[: mesh.n_cells],
        }

        with ranks.raising_together(), explain_write_errors(self.path):
            rows = {
                name: as_field_rows(name, values, mesh.n_cells) for name, values in fields.items()
            }
            write_text(self.folder / f"{stem}_{ranks.rank}.vtu", format_vtu(self.grid, rows))
        self.entries.append((float(time), f"{self.folder.name}/{stem}.pvtu"))
        ranks.on_root(self._finish_time, stem, rows)

    def close(self) -> None:
        """End the series: there is nothing to do."""

    def give_up(self) -> None:
        """Leave the series after a failure: there is nothing to do, each time has its own files."""

    def _begin(self, done):
        """Remove the earlier series; return its entries that stay."""
        entries = self._read_entries(done) if done else []
        with explain_write_errors(self.path):
            if not done:
                self.path.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            pattern = re.compile(re.escape(self.folder.name) + r"_(\d{4,})(_\d+\.vtu|\.pvtu)")
            for file in self.folder.iterdir():
                match = pattern.fullmatch(file.name)
                if match and int(match[1]) >= done:
                    file.unlink()
        return entries

    def _read_entries(self, done):
        """(time, file) of the first times in the earlier .pvd."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise make_series_error(f"there is no series {self.path}", done) from None
        except (OSError, ValueError):
            raise make_series_error(f"the series {self.path} cannot be read", done) from None

        entries = [(float(time), html.unescape(file)) for time, file in ENTRY_PATTERN.findall(text)]
        for _, file in entries[:done]:
            if not (self.path.parent / file).exists():
                raise make_series_error(f"the series {self.path} has lost the file {file}", done)
        if len(entries) < done:
            raise make_series_error(f"the series {self.path} has {len(entries)} times", done)
        return entries[:done]

    def _finish_time(self, stem, rows):
        """When all pieces of a time are there: name them in its .pvtu, and that one in the .pvd."""
        with explain_write_errors(self.path):
            pieces = [f"{stem}_{rank}.vtu" for rank in range(self.mesh.ranks.size)]
            write_text(self.folder / f"{stem}.pvtu", _format_pvtu(pieces, rows, self.point_type))
            _replace(self.path, _format_pvd(self.entries))


def get_points(mesh: Any, single: bool) -> Array:
    """This rank's points (dim, n) as they are written. Collective.

    Raises `InputError` where single precision would move them by more than MAX_POINT_MOVE.
    """
    if not single:
        return mesh.points
    points = mesh.points.astype(np.float32)
    move_of_point = np.abs(points - mesh.points).max(axis=0)
    move_of_corner = move_of_point[mesh.corners]
    move_of_cell = np.zeros(0)
    if mesh.n_cells:
        move_of_cell = np.maximum.reduceat(move_of_corner, mesh.start[:-1])

    size_of_cell = mesh.flat_volume ** (1 / mesh.dim)
    relative_move = move_of_cell / size_of_cell
    worst = mesh.ranks.max(relative_move.max(initial=0.0))
    mesh.ranks.check(
        worst <= MAX_POINT_MOVE,
        f"in single precision points of this mesh move by {worst:.1e} of the size of their cell, "
        f"more than {MAX_POINT_MOVE:g}: it is far from the origin; take single=False, or shift "
        "the coordinates towards the origin",
    )
    return points


def round_to_single(name: str, values: Array) -> Array:
    """Numbers in single precision; `InputError` where they are too large for it."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    is_too_large = np.isfinite(values) & ~np.isfinite(single)
    if is_too_large.any():
        raise InputError(
            f"single precision ends at {np.finfo(np.float32).max:.1e}, and the {name} "
            f"goes up to {np.abs(values[is_too_large]).max():.1e}: take single=False"
        )
    return single


def make_series_error(problem: str, done: int) -> InputError:
    """The `InputError` for a series that lacks some of the *done* times of a run."""
    return InputError(
        f"{problem}, but the run in the checkpoint has passed {done} times that belong there: "
        "put the series back as it was, or go on without write= and call result.write at the end, "
        "which has all times (after keep=False the first and the last)"
    )


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a block that writes to *path* into an `InputError` with a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.filename:
            reason = f"{error.strerror}: {error.filename}"
        raise InputError(
            f"cannot write {str(path)!r} ({reason}): choose a place where you may write, and that "
            "has room"
        ) from error


def import_pyvista() -> Any:
    """pyvista, without the warning of a package it imports that a notebook has no widgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import pyvista
    return pyvista


def build_grid(points: Array, kind: IntArray, start: IntArray, corners: IntArray) -> Any:
    """A vtkUnstructuredGrid of points (dim, n), VTK cell types (n_cells,) and the cells' points in
    CSR form.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkUnstructuredGrid

    vtk_points = vtkPoints()
    vtk_points.SetData(numpy_to_vtk(as_vtk_vectors(points), deep=True))
    cells = vtkCellArray()
    cells.SetData(
        numpy_to_vtkIdTypeArray(start.astype(np.int64), deep=True),
        numpy_to_vtkIdTypeArray(corners.astype(np.int64), deep=True),
    )
    grid = vtkUnstructuredGrid()
    grid.SetPoints(vtk_points)
    grid.SetCells(numpy_to_vtk(kind.astype(np.uint8), deep=True), cells)
    return grid


def build_pyvista_grid(
    points: Array, kind: IntArray, start: IntArray, corners: IntArray, rows: dict[str, Array]
) -> Any:
    """The same as a pyvista.UnstructuredGrid with fields as `as_field_rows` has them."""
    grid = import_pyvista().wrap(build_grid(points, kind, start, corners))
    for name, values in rows.items():
        grid.cell_data[name] = values
    return grid


def as_vtk_vectors(vectors: Array) -> Array:
    """Vectors (dim, n) in VTK's form, (n, 3)."""
    # single precision stays, everything else becomes double
    real = np.result_type(vectors, np.float32)
    rows = np.zeros((vectors.shape[1], 3), real)
    rows[:, : len(vectors)] = vectors.T
    return rows


def as_field_rows(name: str, values: Any, n_cells: int) -> Array:
    """A field in VTK's form: (n_cells,), (n_cells, 3), or (n_cells, 9) for tensors."""
    refuse_masked(values, f"field {name!r} must be numbers")
    values = np.asarray(values)
    is_scalar = values.shape == (n_cells,)
    is_vector = values.ndim == 2 and len(values) <= 3 and values.shape[1] == n_cells
    is_tensor = values.ndim == 3 and values.shape[0] == values.shape[1] <= 3
    if not is_scalar and not is_vector and not (is_tensor and values.shape[2] == n_cells):
        raise InputError(
            f"field {name!r} has shape {values.shape}: it needs one value for each of this rank's "
            f"cells, ({n_cells},), or one vector, (dim, {n_cells})"
        )
    if values.dtype.str[1:] not in VTK_TYPES:
        values = values.astype(float)
    if is_tensor:
        return _as_vtk_tensors(values)
    return values if is_scalar else as_vtk_vectors(values)


def _as_vtk_tensors(tensors):
    """Tensors (dim, dim, n) in VTK's form, (n, 9)."""
    dim, _, n = tensors.shape
    rows = np.zeros((n, 3, 3), np.result_type(tensors, np.float32))
    rows[:, :dim, :dim] = np.moveaxis(tensors, -1, 0)
    return rows.reshape(n, 9)


def format_vtu(grid: Any, rows: dict[str, Array]) -> str:
    """The text of a .vtu: a grid with fields as `as_field_rows` has them."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridWriter

    for name, values in rows.items():
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        grid.GetCellData().AddArray(array)  # takes the place of the array of that name

    writer = vtkXMLUnstructuredGridWriter()
    writer.SetInputData(grid)
    writer.SetDataModeToBinary()
    writer.SetCompressorTypeToZLib()
    writer.SetCompressionLevel(1)
    writer.WriteToOutputStringOn()  # Python says better than VTK why a file cannot be written
    if not writer.Write():
        raise RuntimeError("VTK could not encode this rank's piece of the series")
    return writer.GetOutputString()


def _format_pvtu(pieces, rows, point_type):
    arrays = [
        f"<PDataArray type={quoteattr(VTK_TYPES[values.dtype.str[1:]])} Name={quoteattr(name)} "
        f'NumberOfComponents="{values[:1].size}"/>'
        for name, values in rows.items()
    ]

    points = f'<PDataArray type="{point_type}" Name="Points" NumberOfComponents="3"/>'
    lines = [
        f"<PPoints>{points}</PPoints>",
        "<PCellData>",
        *arrays,
        "</PCellData>",
        *[f"<Piece Source={quoteattr(piece)}/>" for piece in pieces],
    ]
    return _format_document("PUnstructuredGrid", 'GhostLevel="0"', lines)


def _format_pvd(entries):
    lines = [
        f'<DataSet timestep="{time!r}" part="0" file={quoteattr(file)}/>' for time, file in entries
    ]
    return _format_document("Collection", "", lines)


def _format_document(kind, attributes, lines):
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            f'<VTKFile type="{kind}" version="0.1" byte_order="LittleEndian">',
            f"<{kind} {attributes}>".replace(" >", ">"),
            *lines,
            f"</{kind}>",
            "</VTKFile>",
            "",
        ]
    )


def _replace(path, text):
    """Put *text* at *path* in one step: a reader finds the old file or the new one, never half of
    it.
    """
    temporary = path.with_name(path.name + ".tmp")
    write_text(temporary, text, lasting=True)
    os.replace(temporary, path)


def write_text(path: FilePath, text: str, lasting: bool = False) -> None:
    """Put *text* at *path*; remove the file if that fails, as on a full disk.

    lasting : the file outlasts a power failure
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
