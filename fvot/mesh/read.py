"""Mesh files: Gmsh (.msh 2.2 and 4.1, ascii and binary) and VTK (.vtk, .vtu), through meshio."""
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import InputError, MeshError
from ..paths import readable
from .faces import DIMENSION, KIND

FORMATS = {".msh": "gmsh", ".vtk": "vtk", ".vtu": "vtu"}
ROOM, PER_BYTE = 1 << 28, 50          # memory that reading a file may take: so many bytes, or for each of its bytes
PARTS = {"line": 1, "triangle": 2, "polygon": 2, "quad": 2, "vertex": 0}     # what can name a boundary


def read(path):
    """(points, blocks, facets): points (dim, n), [(type, connectivity)], {boundary name: points of its faces}.

    Physical groups of Gmsh name the boundary. Raises `InputError` for a file that is missing, unknown or broken.
    """
    file = _load(readable(path, "mesh file"))
    dim = max((DIMENSION[_kind(block.type)] for block in file.cells if block.type.rstrip("0123456789") in KIND), default=0)
    if dim == 0:
        types = sorted({block.type for block in file.cells})
        raise InputError(f"{path} has no cells that fvot knows ({', '.join(KIND)}); it has: {', '.join(types) or 'none'}; "
                         "is the file complete?")
    blocks = [(block.type, block.data) for block in file.cells
              if block.type.rstrip("0123456789") in KIND and DIMENSION[_kind(block.type)] == dim]
    return _flat(np.asarray(file.points, float).T, dim, path), blocks, _facets(file, dim)


def _kind(name):
    return KIND[name.rstrip("0123456789")]


def _load(path):
    import meshio  # imported when used: it is slow to import
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: unknown mesh format {path.suffix!r}; fvot reads {', '.join(FORMATS)}")
    try:
        module = getattr(meshio, FORMATS[path.suffix])
        with _bounded_memory(max(ROOM, PER_BYTE * path.stat().st_size)):
            return module.read(str(path))
    except MemoryError:
        raise InputError(f"{path} asks for far more memory than a file of {path.stat().st_size} bytes needs: is it whole, or "
                         "are its points numbered very high? write it anew, with points numbered from 1 on") from None
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".strip(": ")
        raise InputError(f"{path} cannot be read as {FORMATS[path.suffix]}: {reason}; "
                         "is the file complete? write it anew") from error


@contextmanager
def _bounded_memory(size):
    """A block that gets a MemoryError where it asks for more than so many bytes: damaged files may ask for anything."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:             # no Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + size
    allowed = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _flat(points, dim, path):
    """The first dim coordinates; `MeshError` if the others are not constant."""
    flat, rest = points[:dim], points[dim:]
    if rest.size and np.isfinite(points).all() and np.ptp(rest, axis=1).max() > 1e-10 * np.ptp(flat, axis=1).max():
        raise MeshError(f"{path}: cells of dimension {dim} lie in space, not in a plane; fvot needs a flat mesh "
                        f"(coordinates beyond the first {dim} constant)")
    return flat


def _facets(file, dim):
    """{name: points (width, n)} of the named groups of dimension dim - 1."""
    found = {}
    for name, block, member in _groups(file):
        kind = block.type.rstrip("0123456789")
        if PARTS.get(kind) == dim - 1 and len(block.data):
            found.setdefault(name, []).append(np.atleast_2d(np.asarray(block.data)[member]).T)
    return {name: _stack(parts) for name, parts in found.items()}


def _groups(file):
    """(name, block, members) of each physical group: msh 4.1 gives sets by name, msh 2.2 numbers and a table of names."""
    for name, sets in file.cell_sets.items():
        if not name.startswith("gmsh:"):
            for block, member in zip(file.cells, sets, strict=True):
                if member is not None and len(member):
                    yield name, block, np.asarray(member, int)
    names = {(int(number), int(dim)): name for name, (number, dim) in file.field_data.items()}
    for block, tags in zip(file.cells, file.cell_data.get("gmsh:physical", []), strict=False):
        for tag in np.unique(tags):
            name = names.get((int(tag), PARTS.get(block.type.rstrip("0123456789"), -1)))
            if name is not None and name not in file.cell_sets:
                yield name, block, np.flatnonzero(np.asarray(tags) == tag)


def _stack(parts):
    width = max(len(part) for part in parts)
    return np.concatenate([np.pad(part, ((0, width - len(part)), (0, 0)), constant_values=-1) for part in parts], axis=1)
