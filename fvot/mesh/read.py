"""Mesh files: Gmsh's (.msh), VTK's, and those of meshio, as points, cells, faces with names, and
regions.

VTK and meshio run in a process of their own (`reader_process`); `msh` reads Gmsh's files. Cells are
the elements of the highest dimension; groups of cells are regions, and groups one dimension lower
name faces.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from ..arguments.paths import check_readable
from ..arguments.types import Array, IntArray, Path
from ..errors import InputError, MeshError, warn
from . import msh
from .cells import MAX_PLANE_HEIGHT, drop_unused_points
from .facets import join_faces
from .file_contents import CORNERS_OF_KIND, Contents, straighten

VTK_SUFFIXES = (
    ".vtk",
    ".vtu",
    ".pvtu",
    ".vtp",
    ".pvtp",
    ".vts",
    ".pvts",
    ".vtr",
    ".pvtr",
    ".vti",
    ".pvti",
    ".vtkhdf",
)
# Formats that tell how much is in a file. In others (.obj, .inp, .bdf) a file that was cut off
# looks like a whole one.
MESHIO_SUFFIXES = (
    ".xdmf",
    ".xmf",
    ".mesh",
    ".meshb",
    ".med",
    ".vol",
    ".avs",
    ".ugrid",
    ".su2",
    ".off",
    ".ply",
    ".stl",
)
CELL_KINDS = (*list(CORNERS_OF_KIND)[1:], "polygon")

# Bytes of memory that reading a file may take: in any case, and for each of its bytes.
MIN_READER_BYTES = 1 << 31
READER_BYTES_PER_BYTE = 200

# Seconds of work that reading a file may take in any case, and bytes that give it one more.
MIN_READER_SECONDS = 60
BYTES_PER_READER_SECOND = 100_000

# The reader's process finds the same modules as this one.
READER_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def read(
    path: Path,
) -> tuple[Array, list[tuple[str, Any]], dict[Any, IntArray], dict[Any, IntArray]]:
    """(points (dim, n), blocks, facets, regions) of a mesh file.

    blocks : [(type, connectivity)]
    facets : {name or number: points (width, n) of faces}
    regions : {name or number: cells}

    Points that belong to no cell are left out. Raises `InputError` for a file that is missing,
    unknown, broken or has cells that cannot be used, `MeshError` for a surface in space.
    """
    path = check_readable(path, "mesh file")
    contents = _load(path)
    dim = int(contents.dims[contents.kind].max(initial=0))
    if dim == 0:
        raise InputError(
            f"{path} has no cells that fvot knows ({', '.join(CELL_KINDS)}); it has: "
            f"{', '.join(sorted(set(contents.names))) or 'none'}; is the file complete?"
        )
    cells = contents.list_elements(dim)
    _check_kinds(contents, cells, path)

    blocks = contents.list_blocks(cells)
    points, blocks, number = drop_unused_points(contents.points, blocks)
    points = _flatten(points, dim, path)

    place = np.full(len(contents.kind), -1)
    place[cells] = np.arange(len(cells))
    regions = {
        name: place[contents.groups[d, name]]
        for d, name in _sort_groups(contents.groups)
        if d == dim
    }
    return points, blocks, _collect_facets(contents, dim, number), regions


def _sort_groups(groups):
    """The keys of groups: numbers, then names."""
    return sorted(groups, key=lambda group: (isinstance(group[1], str), group[1]))


def _check_kinds(contents, cells, path):
    """`InputError` for cells that no mesh can have; one warning for cells with curved sides."""
    kinds, count = np.unique(contents.kind[cells], return_counts=True)
    names = [contents.names[kind] for kind in kinds]
    unknown = [
        f"{n} cells are {name}"
        for name, n in zip(names, count)
        if straighten(name) not in CELL_KINDS
    ]
    if unknown:
        raise InputError(
            f"{path}: {', '.join(unknown)}; fvot knows {', '.join(CELL_KINDS)}: cut these cells "
            "into such ones where the file is made"
        )

    curved = [
        name for name in names if name not in CELL_KINDS and straighten(name) in CORNERS_OF_KIND
    ]
    if curved:
        warn(
            f"{path}: cells of type {', '.join(curved)} are read by their corners; points on "
            "their sides are left out, so that curved sides become straight"
        )


def _load(path):
    """The `Contents` of a file of any format."""
    suffix = path.suffix.lower()
    if suffix == ".msh":
        return msh.read(path)
    if suffix not in VTK_SUFFIXES + MESHIO_SUFFIXES:
        raise InputError(
            f"{path}: unknown mesh format {path.suffix!r}; fvot reads .msh, "
            f"{', '.join(VTK_SUFFIXES + MESHIO_SUFFIXES)}; "
            "of other formats, 'meshio convert' makes a .vtu"
        )
    return _load_in_process(path, suffix)


def _load_in_process(path, suffix):
    """The `Contents` of a file that VTK or meshio reads in a process of its own, with bounded
    memory and time.
    """
    size = path.stat().st_size
    memory = max(MIN_READER_BYTES, READER_BYTES_PER_BYTE * size)
    seconds = MIN_READER_SECONDS + size // BYTES_PER_READER_SECOND
    script = FilePath(__file__).with_name("reader_process.py")
    arguments = [json.dumps(sys.path), script, path, suffix, memory, seconds]

    process = subprocess.run(
        [sys.executable, "-S", "-c", READER_START, *map(str, arguments)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )

    if process.returncode == 0 and process.stdout:
        contents = pickle.loads(process.stdout)
        if isinstance(contents, dict):
            return Contents(**contents)
        reason = contents
    else:
        messages = process.stderr.decode(errors="replace").strip().splitlines()
        reason = f"reading ended with status {process.returncode}"
        if messages:
            reason += f": {messages[-1]}"
    raise InputError(
        f"{path} cannot be read as {suffix}: {reason}; is the file complete? write it again"
    )


def _collect_facets(contents, dim, number):
    """{name: points (width, n)} of the groups of dimension dim - 1; -1 for faces with a point that
    belongs to no cell.
    """
    facets = {}
    for (d, name), members in contents.groups.items():
        if d == dim - 1:
            blocks = contents.list_blocks(members)
            facets[name] = join_faces([_renumber_faces(rows, number) for _, rows in blocks])
    return facets


def _renumber_faces(rows, number):
    """Points (width, n) of faces, by the new numbers of points.

    All are -1 where a point has no new number, and for faces with more than four points.
    """
    if isinstance(rows, list):
        padded = [[*row, *[-1] * (4 - len(row))] for row in rows]
        rows = np.array([row if len(row) == 4 else [-1] * 4 for row in padded])
    points = np.where(rows >= 0, number[rows], -1)
    is_lost = ((rows >= 0) & (points < 0)).any(axis=1)
    return np.where(is_lost, -1, points.T)


# ---- from space to the plane ---------------------------------------------------------------------


def _flatten(points, dim, path):
    """Coordinates (dim, n) of points (3, n) on a line or in a plane; `MeshError` for other points.

    Where one coordinate is constant, the other coordinates in their order; else along an
    orthonormal frame, with a warning that names it.
    """
    if dim == 3 or not np.isfinite(points).all():
        return points[:dim]
    extent = np.ptp(points, axis=1)
    size = extent.max()
    thin = np.flatnonzero(extent <= MAX_PLANE_HEIGHT * size)
    if len(thin) >= 3 - dim:
        return np.delete(points, thin[dim - 3 :], axis=0)

    center = points.mean(axis=1, keepdims=True)
    axes = np.linalg.svd(points - center, full_matrices=False)[0]
    distance = np.abs(axes[:, dim:].T @ (points - center)).max()
    if distance > MAX_PLANE_HEIGHT * size:
        raise _make_flatness_error(distance, size, dim, path)

    frame = _choose_frame(axes, dim)
    directions = " and ".join(str(axis.round(6).tolist()) for axis in frame)
    warn(
        f"{path}: the mesh lies in a {'plane' if dim == 2 else 'line'} across the axes; its "
        f"coordinates are those along {directions}"
    )
    return frame @ points


def _choose_frame(axes, dim):
    """Orthonormal vectors (dim, 3) of the plane, or line, of axes[:, :dim].

    The first vector is as near as possible to a coordinate axis.
    """
    if dim == 1:
        return _turn_upwards(axes[:, 0])[None]
    normal = axes[:, 2]
    first = np.eye(3)[np.abs(normal).argmin()]
    first = first - (first @ normal) * normal
    first /= np.linalg.norm(first)
    return np.stack([first, _turn_upwards(np.cross(normal, first))])


def _turn_upwards(vector):
    """The vector, or its opposite: the largest component is positive."""
    return vector * np.sign(vector[np.abs(vector).argmax()]) + 0.0


def _make_flatness_error(distance, size, dim, path):
    if dim == 1:
        return InputError(
            f"{path} has lines only, and not on one straight line (points are up to {distance:.3g} "
            f"off it, the mesh is {size:.3g} across): was the surface meshed, and made a physical "
            "group? Where there are such groups, Gmsh saves only what is in one: add "
            "'Physical Surface(1) = {1};'"
        )
    return MeshError(
        f"{path}: its cells lie on a surface in space, not in a plane: points are up to "
        f"{distance:.3g} off the plane nearest to them, and the mesh is {size:.3g} across; fvot "
        "needs a flat mesh, or cells of a volume (was it meshed in 3D, and made a physical group?)"
    )
