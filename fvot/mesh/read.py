"""Mesh files: Gmsh's (.msh), VTK's, and what meshio reads, as points, cells, faces with names, and
regions.

VTK and meshio read in a process of their own (`reader_process`), Gmsh's files are read by `msh`. Cells
are those of the highest dimension; groups of cells are regions, groups one dimension lower name
faces.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from ..arguments.paths import readable
from ..errors import InputError, MeshError, warn
from . import msh
from .facets import side_by_side
from .file_contents import CORNERS, Contents, base

VTK = (
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
# Files that tell how much is in them; of others (.obj, .inp, .bdf) one that was cut off looks like
# a whole one.
MESHIO = (
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
KNOWN = (*list(CORNERS)[1:], "polygon")
ROOM, PER_BYTE = (
    1 << 31,
    200,
)  # memory that reading a file may take: so many bytes, or for each of its bytes
PATIENCE, PACE = (
    60,
    100_000,
)  # seconds of work that it may take, and further ones: one for so many bytes
FLATNESS = 1e-6  # of the size of a mesh: coordinates in single precision have errors of 1e-7
START = (
    # find what this program finds
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def read(path):
    """(points (dim, n), blocks, facets, regions) of a mesh file.

    blocks : [(type, connectivity)]
    facets : {name or number: points (width, n) of faces}
    regions : {name or number: cells}

    Points that no cell has are left out. Raises `InputError` for a file that is missing, unknown,
    broken or has cells that cannot be used, `MeshError` for a surface in space.
    """
    path = readable(path, "mesh file")
    contents = _load(path)
    dim = int(contents.dims[contents.kind].max(initial=0))
    if dim == 0:
        raise InputError(
            f"{path} has no cells that fvot knows ({', '.join(KNOWN)}); it has: "
            f"{', '.join(sorted(set(contents.names))) or 'none'}; is the file complete?"
        )
    cells = contents.numbers(dim)
    _check_kinds(contents, cells, path)
    blocks = contents.blocks(cells)
    used = np.zeros(contents.points.shape[1], bool)
    for _, rows in blocks:
        used[np.concatenate(rows) if isinstance(rows, list) else rows] = True
    number = np.where(used, np.cumsum(used) - 1, -1)  # of each point among those that are used
    points = _flat(contents.points[:, used], dim, path)
    blocks = [(kind, _renumbered(rows, number)) for kind, rows in blocks]
    place = np.full(len(contents.kind), -1)
    place[cells] = np.arange(len(cells))
    regions = {
        name: place[contents.groups[d, name]] for d, name in _ordered(contents.groups) if d == dim
    }
    return points, blocks, _facets(contents, dim, number), regions


def _renumbered(rows, number):
    return [number[row] for row in rows] if isinstance(rows, list) else number[rows]


def _ordered(groups):
    """The keys of groups: numbers, then names."""
    return sorted(groups, key=lambda group: (isinstance(group[1], str), group[1]))


def _check_kinds(contents, cells, path):
    """`InputError` for cells that no mesh can have; one warning for those with curved sides."""
    kinds, count = np.unique(contents.kind[cells], return_counts=True)
    names = [contents.names[kind] for kind in kinds]
    unknown = [f"{n} cells are {name}" for name, n in zip(names, count) if base(name) not in KNOWN]
    if unknown:
        raise InputError(
            f"{path}: {', '.join(unknown)}; fvot knows {', '.join(KNOWN)}: cut these cells into "
            "such ones "
            "where the file is made"
        )
    curved = [name for name in names if name not in KNOWN and base(name) in CORNERS]
    if curved:
        warn(
            f"{path}: cells of type {', '.join(curved)} are read by their corners; points on "
            "their sides are left out, so "
            "that curved sides become straight"
        )


def _load(path):
    """The `Contents` of a file of any format."""
    suffix = path.suffix.lower()
    if suffix == ".msh":
        return msh.read(path)
    if suffix not in VTK + MESHIO:
        raise InputError(
            f"{path}: unknown mesh format {path.suffix!r}; fvot reads .msh, "
            f"{', '.join(VTK + MESHIO)}; "
            "of other formats, 'meshio convert' makes a .vtu"
        )
    return _read_apart(path, suffix)


def _read_apart(path, suffix):
    """The `Contents` of a file that VTK or meshio reads, in a process of its own, in bounded memory
    and time.
    """
    size = path.stat().st_size
    limits = [str(max(ROOM, PER_BYTE * size)), str(PATIENCE + size // PACE)]
    script = str(Path(__file__).with_name("reader_process.py"))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            START,
            json.dumps(sys.path),
            script,
            str(path),
            suffix,
            *limits,
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode == 0 and done.stdout:
        found = pickle.loads(done.stdout)
        if isinstance(found, dict):
            return Contents(**found)
        reason = found
    else:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f"reading ended with status {done.returncode}{': ' * bool(said)}{said[-1] if said else ''}"
    raise InputError(
        f"{path} cannot be read as {suffix}: {reason}; is the file complete? write it anew"
    )


def _facets(contents, dim, number):
    """{name: points (width, n)} of the groups of dimension dim - 1; faces with a point that no cell
    has are -1.
    """
    facets = {}
    for (d, name), members in contents.groups.items():
        if d == dim - 1:
            facets[name] = side_by_side(
                [_points(rows, number) for _, rows in contents.blocks(members)]
            )
    return facets


def _points(rows, number):
    """Points (width, n) of faces, by the new numbers of points; -1 where one has none, and for more
    than four.
    """
    if isinstance(rows, list):
        rows = np.array(
            [[*row, *[-1] * (4 - len(row))] if len(row) <= 4 else [-1] * 4 for row in rows]
        )
    points = np.where(rows >= 0, number[rows], -1)
    lost = ((rows >= 0) & (points < 0)).any(axis=1)
    return np.where(lost, -1, points.T)


# ---- from space to the plane -----------------------------------------------------------------------------------------


def _flat(points, dim, path):
    """Coordinates (dim, n) of points (3, n) that lie on a line or in a plane; `MeshError` if they
    do not.

    Where one coordinate is constant, the others in their order; else along an orthonormal frame,
    which is said.
    """
    if dim == 3 or not np.isfinite(points).all():
        return points[:dim]
    size = np.ptp(points, axis=1).max()
    thin = np.flatnonzero(np.ptp(points, axis=1) <= FLATNESS * size)
    if len(thin) >= 3 - dim:
        return np.delete(points, thin[dim - 3 :], axis=0)
    center = points.mean(axis=1, keepdims=True)
    axes = np.linalg.svd(points - center, full_matrices=False)[0]
    off = np.abs(axes[:, dim:].T @ (points - center)).max()
    if off > FLATNESS * size:
        raise _curved(off, size, dim, path)
    frame = _frame(axes, dim)
    directions = " and ".join(str(axis.round(6).tolist()) for axis in frame)
    warn(
        f"{path}: the mesh lies in a {'plane' if dim == 2 else 'line'} across the axes; its "
        "coordinates are those along "
        f"{directions}"
    )
    return frame @ points


def _frame(axes, dim):
    """Orthonormal vectors (dim, 3) of the plane, or line, of axes[:, :dim]: the first as near as
    can be to an axis.
    """
    if dim == 1:
        return _upwards(axes[:, 0])[None]
    normal = axes[:, 2]
    first = np.eye(3)[np.abs(normal).argmin()]
    first = first - (first @ normal) * normal
    first /= np.linalg.norm(first)
    return np.stack([first, _upwards(np.cross(normal, first))])


def _upwards(vector):
    """It, or its opposite: the largest component is positive."""
    return vector * np.sign(vector[np.abs(vector).argmax()]) + 0.0


def _curved(off, size, dim, path):
    if dim == 1:
        return InputError(
            f"{path} has lines only, and not on one straight line (points are up to {off:.3g} off "
            "it, the mesh is "
            f"{size:.3g} across): was the surface meshed, and made a physical group? Where there "
            "are such groups, Gmsh "
            "saves only what is in one: add 'Physical Surface(1) = {1};'"
        )
    return MeshError(
        f"{path}: its cells lie on a surface in space, not in a plane: points are up to {off:.3g} "
        "off the plane nearest to "
        f"them, and the mesh is {size:.3g} across; fvot needs a flat mesh, or cells of a volume "
        "(was it meshed in 3D, and "
        "made a physical group?)"
    )
