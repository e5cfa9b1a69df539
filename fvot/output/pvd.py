"""Files for ParaView: a .pvd with the times, a .pvtu for each time, a .vtu for each time and rank.

Data are inline, base64 and zlib: the appended form is not read by the ParaView of some Linux
distributions. VTK is imported when something is written, not before: it takes its time.
"""

import html
import os
import re
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from ..arguments.functions import refuse_masked
from ..arguments.paths import expand_home
from ..errors import InputError

ENTRY = re.compile(r'timestep="(.*?)" part="0" file="(.*?)"')
LARGEST_BEND = 1e-2  # of a cell, by which rounding may move its points: a picture shows no less
TYPES = {"f8": "Float64", "f4": "Float32", "i8": "Int64", "i4": "Int32", "u1": "UInt8"}


def path_of(ranks, path, suffix):
    """The `Path` of a file to be written; `InputError` on every rank unless it has that suffix."""
    ok = (
        isinstance(path, (str, os.PathLike))
        and "\0" not in str(path)
        and Path(path).suffix == suffix
    )
    ranks.check(ok, f"this is written to a {suffix} file, not to {path!r:.80}")
    with ranks.raising_together():
        return expand_home(path)


class Series:
    """A series under way: ``Series("out/x.pvd", mesh)``, then ``.add(t, {"density": rho})`` for
    each time. Collective.

    The pieces go to a folder beside the .pvd (``out/x/x_0000_0.vtu`` has time 0 of rank 0). The
    .pvd names a time only when all of its pieces are there: whatever ends the program, the series
    opens up to the last finished time. A series of the same name that is there already is removed,
    but for the first times that are *done*.

    single : points in single precision; the precision of a field is that of its array
    """

    def __init__(self, path, mesh, done=0, single=False):
        self.path = path_of(mesh.ranks, path, ".pvd")
        self.mesh = mesh
        self.folder = self.path.with_suffix("")
        points = points_of(mesh, single)
        self.entries = mesh.ranks.broadcast(mesh.ranks.on_root(self._begin, done))
        with mesh.ranks.raising_together():
            self.own = grid(points, mesh.kind, mesh.start, mesh.corners)
            self.real = TYPES[points.dtype.str[1:]]

    def add(self, time, fields):
        """Write cell fields {name: (n_cells,) or (dim, n_cells)} at *time*; arrays of vectors get
        three components.
        """
        ranks = self.mesh.ranks
        mesh = self.mesh
        stem = f"{self.folder.name}_{len(self.entries):04d}"
        fields = {
            **fields,
            "rank": np.full(mesh.n_cells, ranks.rank, np.int32),
            "cell": mesh.cell_id[: mesh.n_cells],
        }
        with ranks.raising_together(), writing(self.path):
            rows = {name: field_row(name, values, mesh.n_cells) for name, values in fields.items()}
            _write(self.folder / f"{stem}_{ranks.rank}.vtu", _vtu(self.own, rows))
        self.entries.append((float(time), f"{self.folder.name}/{stem}.pvtu"))
        ranks.on_root(self._finish, stem, rows)

    def close(self):
        """Nothing more will come."""

    def give_up(self):
        """Nothing to let go of: each time has its own files."""

    def _begin(self, done):
        """Clear away what is there; the entries that stay."""
        kept = self._entries(done) if done else []
        with writing(self.path):
            if not done:
                self.path.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            ours = re.compile(re.escape(self.folder.name) + r"_(\d{4,})(_\d+\.vtu|\.pvtu)")
            for old in self.folder.iterdir():
                name = ours.fullmatch(old.name)
                if name and int(name[1]) >= done:
                    old.unlink()
        return kept

    def _entries(self, done):
        """(time, file) of the first times in the .pvd that is there."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise lost(f"there is no series {self.path}", done) from None
        except (OSError, ValueError):
            raise lost(f"the series {self.path} cannot be read", done) from None
        found = [(float(time), html.unescape(file)) for time, file in ENTRY.findall(text)]
        there = [(self.path.parent / file).exists() for _, file in found[:done]]
        if not all(there):
            raise lost(
                f"the series {self.path} has lost the file {found[there.index(False)][1]}", done
            )
        if len(found) < done:
            raise lost(f"the series {self.path} has {len(found)} times", done)
        return found[:done]

    def _finish(self, stem, rows):
        """All pieces of a time are there: name them in its .pvtu, and that in the .pvd."""
        with writing(self.path):
            pieces = [f"{stem}_{rank}.vtu" for rank in range(self.mesh.ranks.size)]
            _write(self.folder / f"{stem}.pvtu", _pvtu(pieces, rows, self.real))
            _replace(self.path, _pvd(self.entries))


def points_of(mesh, single):
    """This rank's points (dim, n) as they are written. Collective.

    Raises `InputError` where single precision would move them by more than LARGEST_BEND.
    """
    if not single:
        return mesh.points
    points = mesh.points.astype(np.float32)
    moved = np.abs(points - mesh.points).max(axis=0)[mesh.corners]
    of_cell = np.maximum.reduceat(moved, mesh.start[:-1]) if mesh.n_cells else np.zeros(0)
    worst = mesh.ranks.max((of_cell / mesh.volume ** (1 / mesh.dim)).max(initial=0.0))
    mesh.ranks.check(
        worst <= LARGEST_BEND,
        f"in single precision points of this mesh move by {worst:.1e} of the size of "
        f"their cell, more than {LARGEST_BEND:g}: it is far from the origin; take "
        "single=False, or coordinates that begin nearby",
    )
    return points


def rounded(name, values):
    """Numbers in single precision; `InputError` where there are none so large."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    lost = np.isfinite(values) & ~np.isfinite(single)
    if lost.any():
        raise InputError(
            f"single precision ends at {np.finfo(np.float32).max:.1e}, and the {name} "
            f"goes up to {np.abs(values[lost]).max():.1e}: take single=False"
        )
    return single


def lost(what, done):
    """The `InputError` of a series that should have *done* times of a run, and has not."""
    return InputError(
        f"{what}, but the run in the checkpoint has come past {done} times that belong there: put "
        "the series "
        "back as it was, or go on without write= and call result.write at the end, which has all "
        "times (after "
        "keep=False the first and the last)"
    )


@contextmanager
def writing(path):
    """A block that writes to *path*: what the system refuses is an `InputError` that says what to
    do.
    """
    try:
        yield
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or error
        raise InputError(
            f"cannot write {str(path)!r} ({why}): choose a place where you may write, and that has "
            "room"
        ) from error


def grid(points, kind, start, corners):
    """A vtkUnstructuredGrid of points (dim, n), VTK cell types (n_cells,) and the cells' points in
    CSR form.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkUnstructuredGrid

    place = vtkPoints()
    cells = vtkCellArray()
    whole = vtkUnstructuredGrid()
    place.SetData(numpy_to_vtk(three(points), deep=True))
    cells.SetData(
        numpy_to_vtkIdTypeArray(start.astype(np.int64), deep=True),
        numpy_to_vtkIdTypeArray(corners.astype(np.int64), deep=True),
    )
    whole.SetPoints(place)
    whole.SetCells(numpy_to_vtk(kind.astype(np.uint8), deep=True), cells)
    return whole


def three(vectors):
    """Vectors (dim, n) as VTK has them: (n, 3)."""
    real = np.result_type(vectors, np.float32)  # double, but for what is single
    rows = np.zeros((vectors.shape[1], 3), real)
    rows[:, : len(vectors)] = vectors.T
    return rows


def field_row(name, values, n_cells):
    """A field as VTK has it: (n_cells,) or (n_cells, 3)."""
    refuse_masked(values, f"field {name!r} must be numbers")
    values = np.asarray(values)
    if (
        values.ndim not in (1, 2)
        or values.shape[-1] != n_cells
        or values.ndim == 2
        and len(values) > 3
    ):
        raise InputError(
            f"field {name!r} has shape {values.shape}: it needs one value for each of this rank's "
            "cells, "
            f"({n_cells},), or one vector, (dim, {n_cells})"
        )
    if values.dtype.str[1:] not in TYPES:
        values = values.astype(float)
    return values if values.ndim == 1 else three(values)


def _vtu(own, rows):
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridWriter

    for name, values in rows.items():
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        own.GetCellData().AddArray(array)  # takes the place of the array of that name
    writer = vtkXMLUnstructuredGridWriter()
    writer.SetInputData(own)
    writer.SetDataModeToBinary()
    writer.SetCompressorTypeToZLib()
    writer.SetCompressionLevel(1)
    writer.WriteToOutputStringOn()  # Python says better than VTK why a file cannot be written
    if not writer.Write():
        raise RuntimeError("VTK could not encode this rank's piece of the series")
    return writer.GetOutputString()


def _pvtu(pieces, rows, real):
    arrays = [
        f"<PDataArray type={quoteattr(TYPES[values.dtype.str[1:]])} Name={quoteattr(name)} "
        f'NumberOfComponents="{1 if values.ndim == 1 else 3}"/>'
        for name, values in rows.items()
    ]
    return _document(
        "PUnstructuredGrid",
        'GhostLevel="0"',
        [
            f'<PPoints><PDataArray type="{real}" Name="Points" NumberOfComponents="3"/></PPoints>',
            "<PCellData>",
            *arrays,
            "</PCellData>",
            *[f"<Piece Source={quoteattr(piece)}/>" for piece in pieces],
        ],
    )


def _pvd(entries):
    return _document(
        "Collection",
        "",
        [
            f'<DataSet timestep="{time!r}" part="0" file={quoteattr(file)}/>'
            for time, file in entries
        ],
    )


def _document(kind, attributes, lines):
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
    """Put *text* at *path* in one stroke: a reader finds the old file or the new one, never half of
    it.
    """
    temporary = path.with_name(path.name + ".tmp")
    _write(temporary, text, lasting=True)
    os.replace(temporary, path)


def _write(path, text, lasting=False):
    """Put *text* at *path*, to outlast a power failure if *lasting*; where it fails, as on a full
    disk, nothing is left.
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
