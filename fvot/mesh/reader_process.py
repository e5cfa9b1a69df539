"""What VTK and meshio read, in a process of its own: `python reader_process.py file suffix bytes seconds`
writes a pickle.

Libraries end the process on some damaged files, ask for any memory, go on for ever, print what is
wrong in place of raising it, or keep state that the user's own program shares. None of that is seen
outside. Nothing of fvot is imported.
"""

import importlib
import os
import pickle
import re
import resource
import sys

import numpy as np

VTK_READERS = {  # by suffix: the module and the class
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
VTK_KINDS = {  # VTK's number of a cell type: (name, dimension)
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
OF_ANY_ORDER = {
    68: ("line", 1),
    69: ("triangle", 2),
    70: ("quad", 2),
    71: ("tetra", 3),
    72: ("hexahedron", 3),
    73: ("wedge", 3),
    74: ("pyramid", 3),
}  # Lagrange's; Bezier's are 7 more
OF_ANY_ORDER |= {number + 7: kind for number, kind in OF_ANY_ORDER.items()}
POLY_LINE, LINE, TRIANGLE, STRIP, PIXEL, QUAD, VOXEL, HEXAHEDRON = 4, 3, 5, 6, 8, 9, 11, 12
NOT_THERE = 1 | 8 | 32  # ghost cells of other pieces, refined ones, hidden ones
GROUPS = (
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
)  # arrays of cells with the numbers of groups
MESHIO_DIMENSION = {
    "vertex": 0,
    "line": 1,
    "triangle": 2,
    "quad": 2,
    "polygon": 2,
    "tetra": 3,
    "hexahedron": 3,
    "wedge": 3,
    "pyramid": 3,
}


def main(path, suffix, memory, seconds):
    """Write what is in a file, or an error as text, to standard output; what libraries print goes
    elsewhere.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    read = read_vtk if suffix in VTK_READERS else read_meshio
    try:
        found = read(path, suffix, lambda: limit(int(memory), int(seconds)))
    except MemoryError:
        found = f"it asks for far more memory than a file of {os.path.getsize(path)} bytes needs"
    except (Exception, SystemExit) as error:
        found = f"{type(error).__name__}: {error}".strip(": ")
    pickle.dump(found, out, protocol=5)


def limit(memory, seconds):
    """Let the process have so many bytes more, and seconds of work."""
    try:
        with open("/proc/self/statm") as file:
            memory += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (OSError, ValueError):  # no Linux, or less is allowed already
        pass
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- VTK -------------------------------------------------------------------------------------------------------------


def read_vtk(path, suffix, bound):
    """The arrays of `Contents` of a file of VTK's; *bound* is called when VTK is there."""
    from vtkmodules import vtkCommonCore

    module, name = VTK_READERS[suffix]
    reader = getattr(importlib.import_module(f"vtkmodules.{module}"), name)()
    bound()
    said = vtkCommonCore.vtkStringOutputWindow()
    vtkCommonCore.vtkOutputWindow.SetInstance(said)
    if suffix == ".vtk":
        _give_closed(reader, path)
    else:
        reader.SetFileName(path)
    reader.Update()
    grid, n_pieces = _grid(reader.GetOutputDataObject(0))
    _check_said(said.GetOutput())
    if grid is None:
        raise ValueError("no cells are found in it")
    points, kind, start, corners, tags = _arrays(grid)
    if "vtkGhostType" in tags:
        there = np.flatnonzero(tags.pop("vtkGhostType").astype(np.uint8) & NOT_THERE == 0)
        kind, start, corners, tags = _chosen(there, kind, start, corners, tags)
    if n_pieces > 1 or suffix.startswith(".p") or suffix == ".vtkhdf" and _is_in_pieces(path):
        corners = _joined(points)[corners]
    kind, start, corners, tags = _simple_cells(kind, start, corners, tags)
    numbers, kind = np.unique(kind, return_inverse=True)
    kind = kind.ravel()
    described = [
        _described(int(number), np.diff(start)[kind == i]) for i, number in enumerate(numbers)
    ]
    dims = np.array([dim for _, dim in described])
    return dict(
        points=points,
        names=[name for name, _ in described],
        dims=dims,
        kind=kind,
        start=start,
        corners=corners,
        groups=_groups(dims[kind], tags),
    )


def _give_closed(reader, path):
    """Give a reader of VTK's old format the file with something behind it.

    Where the numbers of a text end too early, it goes on with what was in the memory, and without a
    word; not where something else follows.
    """
    with open(path, "rb") as file:
        data = file.read()
    is_text = b"ASCII" in data[:600].upper().split()  # title, then ASCII or BINARY
    if is_text:
        data += b"\nFIELD FieldData 0\n"
    reader.ReadFromInputStringOn()
    reader.SetBinaryInputString(data, len(data))


def _check_said(text):
    """`ValueError` with the first error among what VTK has said."""
    if isinstance(text, bytes):  # where it quotes bytes of the file
        text = text.decode(errors="replace")
    for part in re.split(r"(?=ERROR:|Warning:)", text):
        message = part.rpartition("): ")[2] if part.startswith("ERROR") else part
        message = re.sub(r"\s+", " ", message).strip()
        if part.startswith("ERROR") or "rror" in message:
            raise ValueError(message[:200])


def _grid(data):
    """(what a reader has made, as one grid of any cells, or None; the number of its pieces)."""
    leaves = [leaf for leaf in _leaves(data) if leaf.GetNumberOfCells()]
    if len(leaves) == 1 and leaves[0].IsA("vtkUnstructuredGrid"):
        return leaves[0], 1
    from vtkmodules.vtkFiltersCore import vtkAppendFilter

    append = vtkAppendFilter()
    for leaf in leaves:
        append.AddInputData(leaf)
    append.Update()
    return append.GetOutput() if leaves else None, len(leaves)


def _arrays(grid):
    """(points (3, n_points), cell types, start, corners, {name: numbers of cells}) of an
    unstructured grid.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(grid.GetPoints().GetData()).astype(float).T
    kind = vtk_to_numpy(
        grid.GetCellTypesArray() if hasattr(grid, "GetCellTypesArray") else grid.GetCellTypes()
    )
    start = vtk_to_numpy(grid.GetCells().GetOffsetsArray()).astype(np.int64)
    corners = vtk_to_numpy(grid.GetCells().GetConnectivityArray()).astype(np.int64)
    if (
        len(start) != len(kind) + 1
        or start[0] != 0
        or (np.diff(start) < 0).any()
        or start[-1] != len(corners)
    ):
        raise ValueError("the sizes of its arrays of cells do not fit")
    if len(corners) and not 0 <= corners.min() <= corners.max() < points.shape[1]:
        worst = corners.min() if corners.min() < 0 else corners.max()
        raise ValueError(f"a cell names point {worst}, but there are {points.shape[1]} points")
    tags = {}
    for i in range(grid.GetCellData().GetNumberOfArrays()):
        array = grid.GetCellData().GetArray(i)  # None for strings
        if (
            array is not None
            and array.GetNumberOfComponents() == 1
            and array.GetNumberOfTuples() == len(kind)
        ):
            tags[array.GetName()] = vtk_to_numpy(array)
    return points, kind, start, corners, tags


def _leaves(data):
    """The data sets of what a reader has made."""
    if data is None:
        return []
    if not data.IsA("vtkCompositeDataSet"):
        return [data]
    iterator = data.NewIterator()
    iterator.InitTraversal()
    found = []
    while not iterator.IsDoneWithTraversal():
        found.append(iterator.GetCurrentDataObject())
        iterator.GoToNextItem()
    return found


def _chosen(cells, kind, start, corners, tags):
    count = np.diff(start)[cells]
    fresh = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(fresh[-1]) + np.repeat(start[cells] - fresh[:-1], count)
    return kind[cells], fresh, corners[place], {name: tag[cells] for name, tag in tags.items()}


def _joined(points):
    """The number of each point: pieces each have those between them, and what is at the same place
    is one.
    """
    _, first, number = np.unique(points, axis=1, return_index=True, return_inverse=True)
    return first[number.ravel()]


def _is_in_pieces(path):
    """Whether a .vtkhdf file has more than one piece, as each rank writes one: its reader does not
    tell.
    """
    import h5py

    with h5py.File(path) as file:
        return len(file["VTKHDF"].get("NumberOfPoints", ())) > 1


def _simple_cells(kind, start, corners, tags):
    """Poly-lines as lines, strips as triangles, pixels as quadrilaterals, voxels as hexahedra."""
    kind = kind.copy()
    corners = corners.copy()
    count = np.diff(start)
    first = start[:-1]
    turned = np.concatenate(
        [first[kind == PIXEL] + 2, first[kind == VOXEL] + 2, first[kind == VOXEL] + 6]
    )
    corners[turned], corners[turned + 1] = corners[turned + 1], corners[turned]
    kind[kind == PIXEL] = QUAD
    kind[kind == VOXEL] = HEXAHEDRON
    # points that a part of such a cell shares with the one before it
    shared = np.select([kind == POLY_LINE, kind == STRIP], [1, 2], 0)
    parts = np.where(shared > 0, np.maximum(count - shared, 0), 1)
    if (parts == 1).all():
        return (
            np.select([kind == POLY_LINE, kind == STRIP], [LINE, TRIANGLE], kind),
            start,
            corners,
            tags,
        )
    cell = np.repeat(np.arange(len(kind)), parts)
    nth = np.arange(len(cell)) - np.repeat(np.cumsum(parts) - parts, parts)
    size = np.where(shared > 0, shared + 1, count)[cell]
    fresh = np.concatenate([[0], np.cumsum(size)])
    place = np.arange(fresh[-1]) + np.repeat(start[cell] + nth - fresh[:-1], size)
    corners = corners[place]
    odd = fresh[:-1][(kind[cell] == STRIP) & (nth % 2 == 1)]  # every other triangle turns back
    corners[odd], corners[odd + 1] = corners[odd + 1], corners[odd]
    kind = np.select([kind == POLY_LINE, kind == STRIP], [LINE, TRIANGLE], kind)[cell]
    return kind, fresh, corners, {name: tag[cell] for name, tag in tags.items()}


def _described(number, counts):
    """(name, dimension) of a cell type; of one that no mesh can have, what VTK calls it."""
    if number in VTK_KINDS:
        return VTK_KINDS[number]
    if number in OF_ANY_ORDER:
        name, dim = OF_ANY_ORDER[number]
        return f"{name}{counts[0]}", dim
    from vtkmodules.vtkCommonDataModel import vtkGenericCell

    cell = vtkGenericCell.InstantiateCell(number)
    if cell is None:
        return f"of VTK's type {number}, which is none", 3
    return f"{cell.GetClassName()} (VTK's type {number})", cell.GetCellDimension()


def _groups(dims, tags):
    """{(dimension, number): cells} by the first array of whole numbers that is called as programs
    call such arrays.
    """
    names = [name for name in GROUPS if name in tags and tags[name].dtype.kind in "iu"]
    groups = {}
    for dim in np.unique(dims) if names else ():
        tag = np.where(dims == dim, np.abs(tags[names[0]].astype(np.int64)), 0)
        groups |= {
            (int(dim), int(number)): np.flatnonzero(tag == number)
            for number in np.unique(tag[tag > 0])
        }
    return groups


# ---- meshio ----------------------------------------------------------------------------------------------------------


def read_meshio(path, suffix, bound):
    """The arrays of `Contents` of a file that meshio reads; *bound* is called when meshio is there."""
    import meshio

    bound()
    file = meshio.read(path, file_format=meshio.extension_to_filetypes[suffix][0])
    blocks = [block for block in file.cells if len(block.data)]
    if not blocks:
        raise ValueError("no cells are found in it")
    points = np.asarray(file.points, float)
    points = np.pad(points, ((0, 0), (0, 3 - points.shape[1]))).T
    dims = np.array([MESHIO_DIMENSION.get(block.type.rstrip("0123456789"), 3) for block in blocks])
    length = [len(block.data) for block in blocks]
    count = np.concatenate([[len(row) for row in block.data] for block in blocks])
    corners = np.concatenate([np.ravel(row) for block in blocks for row in _rows(block)])
    kind = np.repeat(np.arange(len(blocks)), length)
    tags = {
        name: np.concatenate([np.ravel(part) for part in parts])
        for name, parts in file.cell_data.items()
    }
    tags = {name: tag for name, tag in tags.items() if len(tag) == len(kind)}
    groups = _groups(dims[kind], tags)
    first = np.cumsum([0, *map(len, (block.data for block in file.cells))])
    named = {}
    for name, parts in file.cell_sets.items():
        some = [i for i, part in enumerate(parts) if part is not None and len(part)]
        named[name] = [first[i] + np.asarray(parts[i], np.int64) for i in some]
    for number, names in getattr(file, "cell_tags", {}).items():  # of MED: groups of each number
        for name in names:
            named.setdefault(name, []).append(
                np.flatnonzero(tags.get("cell_tags", kind * 0) == number)
            )
    for name, parts in named.items():
        cells = np.concatenate([np.empty(0, np.int64), *parts])
        groups |= {
            (int(dim), name): cells[dims[kind[cells]] == dim]
            for dim in np.unique(dims[kind[cells]])
        }
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


def _rows(block):
    """Its connectivity: all of it as one row, or the rows of polygons."""
    return block.data if block.type.startswith("polygon") else [block.data]


if __name__ == "__main__":
    main(*sys.argv[1:])
