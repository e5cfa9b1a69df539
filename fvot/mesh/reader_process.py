"""Read a file with VTK or meshio in a process of its own:
`python reader_process.py file suffix bytes seconds` writes a pickle.

On some damaged files the libraries end the process, ask for any amount of memory, never end, or
print an error instead of raising it; they also keep state that the user's own program shares. None
of this is seen outside. Nothing of fvot is imported.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# By suffix: the module and the class.
VTK_READERS = {
    ".vtk": ("vtkIOLegacy", "vtkDataSetReader"),
    ".vtkhdf": ("vtkIOHDF", "vtkHDFReader"),
    ".vtu": ("vtkIOXML", "vtkXMLUnstructuredGridReader"),
    ".pvtu": ("vtkIOXML", "vtkXMLPUnstructuredGridReader"),
    ".vtp": ("vtkIOXML", "vtkXMLPolyDataReader"),
    ".pvtp": ("vtkIOXML", "vtkXMLPPolyDataReader"),
    ".vts": ("vtkIOXML", "vtkXMLStructuredGridReader"),
    ".pvts": ("vtkIOXML", "vtkXMLPStructuredGridReader"),
    ".vtr": ("vtkIOXML", "vtkXMLRectilinearGridReader"),
    ".pvtr": ("vtkIOXML", "vtkXMLPRectilinearGridReader"),
    ".vti": ("vtkIOXML", "vtkXMLImageDataReader"),
    ".pvti": ("vtkIOXML", "vtkXMLPImageDataReader"),
}
# VTK's number of a cell type: (name, dimension).
VTK_KINDS = {
    1: ("vertex", 0),
    3: ("line", 1),
    5: ("triangle", 2),
    7: ("polygon", 2),
    9: ("quad", 2),
    10: ("tetra", 3),
    12: ("hexahedron", 3),
    13: ("wedge", 3),
    14: ("pyramid", 3),
    21: ("line3", 1),
    35: ("line4", 1),
    22: ("triangle6", 2),
    34: ("triangle7", 2),
    23: ("quad8", 2),
    28: ("quad9", 2),
    30: ("quad6", 2),
    24: ("tetra10", 3),
    25: ("hexahedron20", 3),
    29: ("hexahedron27", 3),
    33: ("hexahedron24", 3),
    26: ("wedge15", 3),
    31: ("wedge12", 3),
    32: ("wedge18", 3),
    27: ("pyramid13", 3),
    37: ("pyramid19", 3),
}
VTK_DIMENSIONS = dict(VTK_KINDS.values())

# The cell types of any order. Lagrange's are listed, Bezier's have numbers larger by 7.
LAGRANGE_KINDS = {
    68: ("line", 1),
    69: ("triangle", 2),
    70: ("quad", 2),
    71: ("tetra", 3),
    72: ("hexahedron", 3),
    73: ("wedge", 3),
    74: ("pyramid", 3),
}
BEZIER_KINDS = {number + 7: kind for number, kind in LAGRANGE_KINDS.items()}
KINDS_OF_ANY_ORDER = LAGRANGE_KINDS | BEZIER_KINDS

# Bits of vtkGhostType: ghost cells of other pieces, refined cells, hidden cells.
GHOST_BITS = 1 | 8 | 32

# Names that programs give to the array of cells with the numbers of groups.
GROUP_ARRAYS = (
    "gmsh:physical",
    "medit:ref",
    "nastran:ref",
    "ugrid:ref",
    "avsucd:material",
    "netgen:index",
    "su2:tag",
    "CellEntityIds",
    "MaterialIds",
    "material",
    "region",
)


class VtkType:
    """VTK's numbers of the cell types that are cut up or turned."""

    LINE = 3
    POLY_LINE = 4
    TRIANGLE = 5
    STRIP = 6
    PIXEL = 8
    QUAD = 9
    VOXEL = 11
    HEXAHEDRON = 12


def main(path: str, suffix: str, memory: str, seconds: str) -> None:
    """Write the contents of a file, or an error as text, to standard output.

    What libraries print goes elsewhere.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    read = read_vtk if suffix in VTK_READERS else read_meshio

    def set_limits() -> None:
        limit(int(memory), int(seconds))

    contents: dict[str, Any] | str
    try:
        contents = read(path, suffix, set_limits)
    except MemoryError:
        contents = f"it asks for far more memory than a file of {os.path.getsize(path)} bytes needs"
    except (Exception, SystemExit) as error:
        contents = f"{type(error).__name__}: {error}".strip(": ")
    pickle.dump(contents, out, protocol=5)


def limit(memory: int, seconds: int) -> None:
    """Bound the further memory of the process (bytes) and its work."""
    try:
        with open("/proc/self/statm") as file:
            memory += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (OSError, ValueError):  # no Linux, or the limit is lower already
        pass
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- VTK -----------------------------------------------------------------------------------------


def read_vtk(path: str, suffix: str, set_limits: Callable[[], None]) -> dict[str, Any]:
    """The arrays of `Contents` of one of VTK's files.

    *set_limits* is called when VTK is loaded.
    """
    from vtkmodules import vtkCommonCore

    module, name = VTK_READERS[suffix]
    reader = getattr(importlib.import_module(f"vtkmodules.{module}"), name)()
    set_limits()
    messages = vtkCommonCore.vtkStringOutputWindow()
    vtkCommonCore.vtkOutputWindow.SetInstance(messages)
    if suffix == ".vtk":
        _pass_with_end(reader, path)
    else:
        reader.SetFileName(path)
    reader.Update()
    grid, n_pieces = _merge_pieces(reader.GetOutputDataObject(0))
    _check_messages(messages.GetOutput())
    if grid is None:
        raise ValueError("no cells are found in it")

    points, kind, start, corners, tags = _get_arrays(grid)
    if "vtkGhostType" in tags:
        ghost_bits = tags.pop("vtkGhostType").astype(np.uint8) & GHOST_BITS
        kept = np.flatnonzero(ghost_bits == 0)
        kind, start, corners, tags = _choose_cells(kept, kind, start, corners, tags)
    if n_pieces > 1 or suffix.startswith(".p") or suffix == ".vtkhdf" and _is_in_pieces(path):
        corners = _number_places(points)[corners]
    kind, start, corners, tags = _simplify_cells(kind, start, corners, tags)

    numbers, kind = np.unique(kind, return_inverse=True)
    kind = kind.ravel()
    names = []
    dims = []
    for i, number in enumerate(numbers):
        name, dim = _describe(int(number), np.diff(start)[kind == i])
        names.append(name)
        dims.append(dim)
    return dict(
        points=points,
        names=names,
        dims=np.array(dims),
        kind=kind,
        start=start,
        corners=corners,
        groups=_find_groups(np.array(dims)[kind], tags),
    )


def _pass_with_end(reader, path):
    """Give the file to a reader of VTK's old format, with a line behind it.

    Where the numbers of a text end too early, the reader goes on with what was in the memory, and
    says nothing; it does not if something else follows.
    """
    with open(path, "rb") as file:
        data = file.read()
    is_text = b"ASCII" in data[:600].upper().split()  # title, then ASCII or BINARY
    if is_text:
        data += b"\nFIELD FieldData 0\n"
    reader.ReadFromInputStringOn()
    reader.SetBinaryInputString(data, len(data))


def _check_messages(text):
    """`ValueError` with the first error among VTK's messages."""
    if isinstance(text, bytes):  # where it quotes bytes of the file
        text = text.decode(errors="replace")
    for part in re.split(r"(?=ERROR:|Warning:)", text):
        is_error = part.startswith("ERROR")
        message = part.rpartition("): ")[2] if is_error else part
        message = re.sub(r"\s+", " ", message).strip()
        if is_error or "rror" in message:
            raise ValueError(message[:200])


def _merge_pieces(data):
    """(the output of a reader as one grid of any cells, or None; the number of its pieces)."""
    leaves = [leaf for leaf in _list_data_sets(data) if leaf.GetNumberOfCells()]
    if len(leaves) == 1 and leaves[0].IsA("vtkUnstructuredGrid"):
        return leaves[0], 1
    from vtkmodules.vtkFiltersCore import vtkAppendFilter

    append = vtkAppendFilter()
    for leaf in leaves:
        append.AddInputData(leaf)
    append.Update()
    return append.GetOutput() if leaves else None, len(leaves)


def _list_data_sets(data):
    """The data sets in the output of a reader."""
    if data is None:
        return []
    if not data.IsA("vtkCompositeDataSet"):
        return [data]

    iterator = data.NewIterator()
    iterator.InitTraversal()
    leaves = []
    while not iterator.IsDoneWithTraversal():
        leaves.append(iterator.GetCurrentDataObject())
        iterator.GoToNextItem()
    return leaves


def _get_arrays(grid):
    """(points (3, n_points), cell types, start, corners, {name: numbers of cells}) of an
    unstructured grid.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(grid.GetPoints().GetData()).astype(float).T
    has_types = hasattr(grid, "GetCellTypesArray")
    types = grid.GetCellTypesArray() if has_types else grid.GetCellTypes()
    kind = vtk_to_numpy(types).astype(np.int64)  # NumPy 2 selects no VtkType beside uint8
    start = vtk_to_numpy(grid.GetCells().GetOffsetsArray()).astype(np.int64)
    corners = vtk_to_numpy(grid.GetCells().GetConnectivityArray()).astype(np.int64)
    _check_sizes(points, kind, start, corners)

    tags = {}
    for i in range(grid.GetCellData().GetNumberOfArrays()):
        array = grid.GetCellData().GetArray(i)  # None for strings
        if array is None or array.GetNumberOfComponents() != 1:
            continue
        if array.GetNumberOfTuples() == len(kind):
            tags[array.GetName()] = vtk_to_numpy(array)
    return points, kind, start, corners, tags


def _check_sizes(points, kind, start, corners):
    has_starts = len(start) == len(kind) + 1 and start[0] == 0
    is_csr = has_starts and (np.diff(start) >= 0).all()
    if not is_csr or start[-1] != len(corners):
        raise ValueError("the sizes of its arrays of cells do not fit")
    if not len(corners):
        return

    n_points = points.shape[1]
    lowest = corners.min()
    highest = corners.max()
    if lowest < 0 or highest >= n_points:
        worst = lowest if lowest < 0 else highest
        raise ValueError(f"a cell names point {worst}, but there are {n_points} points")


def _choose_cells(cells, kind, start, corners, tags):
    """(kind, start, corners, tags) of some of the cells."""
    count = np.diff(start)[cells]
    new_start = np.concatenate([[0], np.cumsum(count)])
    shift = start[cells] - new_start[:-1]
    place = np.arange(new_start[-1]) + np.repeat(shift, count)
    new_tags = {name: tag[cells] for name, tag in tags.items()}
    return kind[cells], new_start, corners[place], new_tags


def _number_places(points):
    """(n_points,) the number of the first point in the same place.

    Each piece has its own copies of the points between pieces.
    """
    _, first, number = np.unique(points, axis=1, return_index=True, return_inverse=True)
    return first[number.ravel()]


def _is_in_pieces(path):
    """Whether a .vtkhdf file has several pieces, one of each rank; VTK's reader does not tell."""
    import h5py

    with h5py.File(path) as file:
        return len(file["VTKHDF"].get("NumberOfPoints", ())) > 1


def _simplify_cells(kind, start, corners, tags):
    """Poly-lines as lines, strips as triangles, pixels as quadrilaterals, voxels as hexahedra."""
    kind, corners = _turn_pixels(kind, start, corners)
    count = np.diff(start)
    is_poly_line = kind == VtkType.POLY_LINE
    is_strip = kind == VtkType.STRIP
    kind = np.select([is_poly_line, is_strip], [VtkType.LINE, VtkType.TRIANGLE], kind)
    # points that a part of such a cell shares with the part before it
    n_shared = np.select([is_poly_line, is_strip], [1, 2], 0)
    n_unshared = np.maximum(count - n_shared, 0)
    n_parts = np.where(n_shared > 0, n_unshared, 1)
    if (n_parts == 1).all():
        return kind, start, corners, tags

    cell = np.repeat(np.arange(len(kind)), n_parts)
    first_part = np.cumsum(n_parts) - n_parts
    part = np.arange(len(cell)) - first_part[cell]
    part_size = np.where(n_shared > 0, n_shared + 1, count)
    size = part_size[cell]
    new_start = np.concatenate([[0], np.cumsum(size)])
    begin = new_start[:-1]
    shift = start[cell] + part - begin
    place = np.arange(new_start[-1]) + np.repeat(shift, size)
    corners = corners[place]

    # Every other triangle of a strip has the opposite sense.
    is_odd = is_strip[cell] & (part % 2 == 1)
    odd = begin[is_odd]
    corners[odd], corners[odd + 1] = corners[odd + 1], corners[odd]
    new_tags = {name: tag[cell] for name, tag in tags.items()}
    return kind[cell], new_start, corners, new_tags


def _turn_pixels(kind, start, corners):
    """(kind, corners) with the last two points of pixels, and of both ends of voxels, exchanged."""
    kind = kind.copy()
    corners = corners.copy()
    pixel = start[:-1][kind == VtkType.PIXEL]
    voxel = start[:-1][kind == VtkType.VOXEL]
    turned = np.concatenate([pixel + 2, voxel + 2, voxel + 6])
    corners[turned], corners[turned + 1] = corners[turned + 1], corners[turned]
    kind[kind == VtkType.PIXEL] = VtkType.QUAD
    kind[kind == VtkType.VOXEL] = VtkType.HEXAHEDRON
    return kind, corners


def _describe(number, counts):
    """(name, dimension) of a cell type; VTK's name of it where no mesh can have the type."""
    if number in VTK_KINDS:
        return VTK_KINDS[number]
    if number in KINDS_OF_ANY_ORDER:
        name, dim = KINDS_OF_ANY_ORDER[number]
        return f"{name}{counts[0]}", dim
    from vtkmodules.vtkCommonDataModel import vtkGenericCell

    cell = vtkGenericCell.InstantiateCell(number)
    if cell is None:
        return f"of VTK's type {number}, which is none", 3
    return f"{cell.GetClassName()} (VTK's type {number})", cell.GetCellDimension()


def _find_groups(dims, tags):
    """{(dimension, number): cells} by the first array of integers that `GROUP_ARRAYS` names."""
    names = [name for name in GROUP_ARRAYS if name in tags and tags[name].dtype.kind in "iu"]
    groups = {}
    if not names:
        return groups
    numbers = np.abs(tags[names[0]].astype(np.int64))
    for dim in np.unique(dims):
        tag = np.where(dims == dim, numbers, 0)
        for number in np.unique(tag[tag > 0]):
            groups[int(dim), int(number)] = np.flatnonzero(tag == number)
    return groups


# ---- meshio --------------------------------------------------------------------------------------


def read_meshio(path: str, suffix: str, set_limits: Callable[[], None]) -> dict[str, Any]:
    """The arrays of `Contents` of a file that meshio reads.

    *set_limits* is called when meshio is loaded.
    """
    import meshio

    set_limits()
    file = meshio.read(path, file_format=meshio.extension_to_filetypes[suffix][0])
    blocks = [block for block in file.cells if len(block.data)]
    if not blocks:
        raise ValueError("no cells are found in it")
    points = np.asarray(file.points, float)
    n_missing = 3 - points.shape[1]
    points = np.pad(points, ((0, 0), (0, n_missing))).T

    kinds = [block.type.rstrip("0123456789") for block in blocks]
    dims = np.array([VTK_DIMENSIONS.get(kind, 3) for kind in kinds])
    sizes = [len(block.data) for block in blocks]
    kind = np.repeat(np.arange(len(blocks)), sizes)
    counts = []
    rows = []
    for block in blocks:
        counts.append([len(row) for row in block.data])
        rows += [np.ravel(row) for row in _list_rows(block)]
    count = np.concatenate(counts)
    corners = np.concatenate(rows)

    tags = {}
    for name, parts in file.cell_data.items():
        tag = np.concatenate([np.ravel(part) for part in parts])
        if len(tag) == len(kind):
            tags[name] = tag
    groups = _find_groups(dims[kind], tags)
    for name, parts in _list_sets(file, tags, len(kind)).items():
        cells = np.concatenate([np.empty(0, np.int64), *parts])
        dim_of_cell = dims[kind[cells]]
        for dim in np.unique(dim_of_cell):
            groups[int(dim), name] = cells[dim_of_cell == dim]

    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return dict(
        points=points,
        names=[block.type for block in blocks],
        dims=dims,
        kind=kind,
        start=start,
        corners=corners.astype(np.int64),
        groups=groups,
    )


def _list_sets(file, tags, n_cells):
    """{name: [cells]} of the sets that meshio calls by names."""
    first = np.cumsum([0, *[len(block.data) for block in file.cells]])
    sets = {}
    for name, parts in file.cell_sets.items():
        sets[name] = [
            first[i] + np.asarray(part, np.int64)
            for i, part in enumerate(parts)
            if part is not None and len(part)
        ]

    # MED has the names of the groups that cells with each number belong to.
    number_of_cell = tags.get("cell_tags", np.zeros(n_cells, np.int64))
    for number, names in getattr(file, "cell_tags", {}).items():
        for name in names:
            sets.setdefault(name, []).append(np.flatnonzero(number_of_cell == number))
    return sets


def _list_rows(block):
    """Its connectivity: all of it as one row, or the rows of polygons."""
    return block.data if block.type.startswith("polygon") else [block.data]


if __name__ == "__main__":
    main(*sys.argv[1:])
