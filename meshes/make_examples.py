"""A small file of every kind that `fvot.Mesh.read` takes, all made here: python make_examples.py
folder

The domain is the rectangle (0, 2) x (0, 1), or (0, 2) x (0, 1) x (0, 1), in two halves, unless a
name says otherwise. `EXAMPLES` has for each file the function that writes it, and what must be
read: measures of the whole, of parts of the boundary, of interfaces inside, and of regions, and
words of the warning, if there is one.
"""

import argparse
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import meshio
import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

# ---- Gmsh ----------------------------------------------------------------------------------------

N_POINTS = {15: 1, 1: 2, 2: 3, 3: 4, 4: 4, 5: 8, 8: 3, 9: 6, 10: 9}
GROUPS = {
    (1, 11): "inlet",
    (1, 12): "outlet",
    (1, 14): "overlap",
    (1, 15): "middle",
    (1, 16): "sand",
    (2, 1): "sand",
    (2, 3): "all",
}


@dataclass(frozen=True)
class Entity:
    """Elements of one type on one geometric entity; negative groups are those in which it is
    reversed.
    """

    dim: int
    tag: int
    type: int
    rows: np.ndarray  # (n, n_points) from 1 on
    groups: tuple = ()


def number(i, j):
    """Of the point at (i / 2, j / 2), from 1 on."""
    return 1 + np.asarray(i) + 5 * np.asarray(j)


def grid(kind=3):
    """(points (n, 3), entities) of 4 x 2 squares, or of these cut in triangles, with groups of all
    sorts.
    """
    j, i = np.divmod(np.arange(15), 5)
    points = np.stack([i / 2, j / 2, 0 * i], axis=1)

    def line(tag, i, j, groups):
        row = number(i, j)
        return Entity(1, tag, 1, np.stack([row[:-1], row[1:]], axis=1), groups)

    def square(tag, columns, groups):
        i, j = (a.ravel() for a in np.meshgrid(columns, [0, 1], indexing="ij"))
        a = number(i, j)
        b = number(i + 1, j)
        c = number(i + 1, j + 1)
        d = number(i, j + 1)
        rows = np.stack([a, b, c, d], axis=1)
        if kind == 2:
            rows = np.concatenate([rows[:, [0, 1, 2]], rows[:, [0, 2, 3]]])
        return Entity(2, tag, kind, rows, groups)

    up = np.arange(3)
    left = np.arange(3)
    right = np.arange(2, 5)
    lines = [
        line(1, left, [0, 0, 0], (13,)),
        line(2, right, [0, 0, 0], (13, 14)),
        line(3, [4, 4, 4], up, (-12, 14)),
        line(4, right, [2, 2, 2], (16,)),
        line(5, left, [2, 2, 2], ()),
        line(6, [0, 0, 0], up, (11,)),
        line(7, [2, 2, 2], up, (15,)),
    ]
    return points, [*lines, square(1, [0, 1], (1, 3)), square(2, [2, 3], (2, 3))]


def section(name, body):
    """A section of a .msh file."""
    return (
        f"${name}\n".encode()
        + body
        + (b"" if body.endswith(b"\n") else b"\n")
        + f"$End{name}\n".encode()
    )


def rows_of(*columns):
    """Lines of text, one for each row of the columns."""
    return "".join(
        " ".join(f"{x:.17g}" for x in row) + "\n" for row in np.column_stack(columns).tolist()
    ).encode()


def packed(order, *columns):
    """Rows in binary; columns are (letter, values): i (4 bytes), n (8), m (4, for sizes), d (8)."""
    kinds = {"i": "i4", "n": "i8", "m": "i4", "d": "f8"}
    dtype = [(str(k), order + kinds[letter]) for k, (letter, _) in enumerate(columns)]
    rows = np.empty(len(columns[0][1]), dtype)
    for k, (_, values) in enumerate(columns):
        rows[str(k)] = values
    return rows.tobytes()


def physical_names(names, version):
    """The section of names; version 2.0 gives no dimension."""
    lines = [
        f'{dim} {tag} "{name}"' if version > 2 else f'{tag} "{name}"'
        for (dim, tag), name in names.items()
    ]
    return section("PhysicalNames", "\n".join([str(len(lines)), *lines]).encode())


def write_msh_1(path, points, entities):
    tags = np.arange(1, len(points) + 1)
    elements = [
        (e, row, abs(group)) for e in entities for group in e.groups or (0,) for row in e.rows
    ]
    lines = [
        f"{k} {e.type} {group} {e.tag} {len(row)} {' '.join(map(str, row))}"
        for k, (e, row, group) in enumerate(elements, 1)
    ]
    path.write_bytes(
        f"$NOD\n{len(points)}\n".encode()
        + rows_of(tags, points)
        + "\n".join(["$ENDNOD", "$ELM", str(len(lines)), *lines, "$ENDELM", ""]).encode()
    )


def write_msh_2(
    path,
    points,
    entities,
    version=2.2,
    binary=None,
    n_tags=2,
    names=GROUPS,
    more=b"",
    front=b"",
    gaps=1,
):
    """Elements in several groups come once for each; binary: "<" or ">"; *gaps*: points have the
    numbers gaps, 2 gaps, ...
    """
    mark = b"" if binary is None else packed(binary, ("i", [1])) + b"\n"
    out = front + section(
        "MeshFormat", f"{version:g} {int(binary is not None)} 8\n".encode() + mark
    )
    if names:
        out += physical_names(names, version)
    tags = gaps * np.arange(1, len(points) + 1)
    coordinates = list(points.T)
    count = f"{len(points)}\n".encode()
    out += section(
        "Nodes",
        count
        + (
            rows_of(tags, points)
            if binary is None
            else packed(binary, ("i", tags), *[("d", x) for x in coordinates])
        ),
    )
    body = b""
    first = 1
    for e in entities:
        for group in e.groups or (0,):
            n = len(e.rows)
            k = np.arange(first, first + n)
            tagged = [np.full(n, value) for value in (abs(group), e.tag, 1, 1)[:n_tags]]
            columns = [k, *tagged, *(gaps * e.rows.T)]
            if binary is None:
                body += rows_of(k, np.full(n, e.type), np.full(n, n_tags), *columns[1:])
            else:
                body += packed(binary, *[("i", [x]) for x in (e.type, n, n_tags)])
                body += packed(binary, *[("i", column) for column in columns])
            first += n
    path.write_bytes(out + section("Elements", f"{first - 1}\n".encode() + body) + more)


def write_msh_4(
    path,
    points,
    entities,
    version=4.1,
    binary=None,
    size=8,
    names=GROUPS,
    more=b"",
    front=b"",
    parametric=False,
    partitioned=False,
    header=None,
):
    """All points on the last surface; *partitioned*: elements lie on entities of their own, 100 +
    tag, parts of others.
    """
    old = version < 4.1
    n_letter = "n" if size == 8 else "m"

    def put(*columns):
        """Rows of (letter, values), in text or binary; "n" is a size, "t" the number of a point or
        an element.
        """
        if binary is None:
            return rows_of(*[values for _, values in columns])
        letters = {"n": n_letter, "t": "i" if old else n_letter}
        return packed(
            binary, *[(letters.get(letter, letter), values) for letter, values in columns]
        )

    def one(letters, *values):
        return put(*[(letter, [value]) for letter, value in zip(letters, values)])

    def entity(e, part):
        box = "ddd" if e.dim == 0 and not old else "dddddd"
        text = one("i", 100 + e.tag if part else e.tag)
        if part:
            text += one("iini", e.dim, e.tag, 1, 1)
        text += (
            one(box, *[0] * len(box))
            + one("n", len(e.groups))
            + b"".join(one("i", group) for group in e.groups)
        )
        return text + one("n", 0) * (e.dim > 0)

    def all_entities(part):
        return one("nnnn", *[sum(e.dim == dim for e in entities) for dim in range(4)]) + b"".join(
            entity(e, part) for dim in range(4) for e in entities if e.dim == dim
        )

    mark = b"" if binary is None else packed(binary, ("i", [1])) + b"\n"
    header = header or f"{version:g}"
    out = front + section(
        "MeshFormat", f"{header} {int(binary is not None)} {size}\n".encode() + mark
    )
    out += (physical_names(names, version) if names else b"") + section(
        "Entities", all_entities(False)
    )
    if partitioned:
        out += section(
            "PartitionedEntities", one("nn", 2, 1) + one("ii", 200, 1) + all_entities(True)
        )
    shift = 100 * partitioned
    n = len(points)
    surface = next(e for e in reversed(entities))
    tags = np.arange(1, n + 1)
    extra = [("d", np.zeros(n))] * (surface.dim * parametric)
    head = (surface.tag + shift, surface.dim) if old else (surface.dim, surface.tag + shift)
    body = (
        one("nn", 1, n) + (b"" if old else one("nn", 1, n)) + one("iiin", *head, int(parametric), n)
    )
    coordinates = [("d", x) for x in points.T]
    body += (
        put(("t", tags), *coordinates, *extra)
        if old
        else put(("t", tags)) + put(*coordinates, *extra)
    )
    out += section("Nodes", body)
    total = sum(len(e.rows) for e in entities)
    body = one("nn", len(entities), total) + (b"" if old else one("nn", 1, total))
    first = 1
    for e in entities:
        head = (e.tag + shift, e.dim) if old else (e.dim, e.tag + shift)
        k = np.arange(first, first + len(e.rows))
        body += one("iiin", *head, e.type, len(e.rows)) + put(
            ("t", k), *[("t", column) for column in e.rows.T]
        )
        first += len(e.rows)
    path.write_bytes(out + section("Elements", body) + more)


def second_order(points, entities):
    """The same with a point in the middle of each side, and of each square."""
    made = {}
    more = list(points)

    def middle(*corners):
        key = tuple(sorted(corners))
        if key not in made:
            more.append(np.mean([points[c - 1] for c in corners], axis=0))
            made[key] = len(more)
        return made[key]

    def curved(e):
        rows = [
            [
                *row,
                *(
                    middle(row[k], row[(k + 1) % len(row)])
                    for k in range(len(row) if len(row) > 2 else 1)
                ),
                *([middle(*row)] if len(row) == 4 else []),
            ]
            for row in e.rows.tolist()
        ]
        return Entity(e.dim, e.tag, {1: 8, 2: 9, 3: 10}[e.type], np.array(rows), e.groups)

    entities = [curved(e) for e in entities]
    return np.array(more), entities


def without_lines(points, entities):
    return points, [e for e in entities if e.dim == 2]


def without_cells(points, entities):
    return points, [e for e in entities if e.dim == 1]


def without_groups(points, entities):
    return points, [Entity(e.dim, e.tag, e.type, e.rows) for e in entities]


def in_x_and_z(points, entities):
    return points[:, [0, 2, 1]] + [0, 3, 0], entities


def turned(points, entities):
    """In a plane across all axes, far from the origin."""
    frame = np.linalg.qr(np.array([[1, 2, 3], [-1, 1, 1], [0, 1, -2.0]]).T)[0]
    return points @ frame.T + [10, -20, 5], entities


def shaken(points, entities):
    """Off the plane as coordinates in single precision are."""
    return points + np.random.default_rng(0).uniform(-1e-8, 1e-8, points.shape) * [
        0,
        0,
        1,
    ], entities


def with_spare_points(points, entities):
    """Two points that nothing has, far off the plane, first and last."""
    spare = np.array([[5.0, 5, 9]])
    return np.concatenate([spare, points, 2 * spare]), [
        Entity(e.dim, e.tag, e.type, e.rows + 1, e.groups) for e in entities
    ]


def with_loose_lines(points, entities):
    """Group 17 has a side of the mesh, and the diagonal of a square."""
    return points, [
        Entity(1, 8, 1, np.array([number([0, 1], [2, 2]), number([0, 1], [0, 1])]), (17,)),
        *entities,
    ]


def called_boundary(points, entities):
    """The left side is a group with the name "boundary", and no other line is in one."""
    return points, [
        Entity(
            e.dim, e.tag, e.type, e.rows, e.groups if e.dim == 2 else (11,) if e.tag == 6 else ()
        )
        for e in entities
    ]


# ---- VTK -----------------------------------------------------------------------------------------


def image(dim, dimensions=None):
    data = vtk.vtkImageData()
    data.SetDimensions(*(dimensions or (5, 3, 3 if dim == 3 else 1)))
    data.SetSpacing(0.5, 0.5, 0.5)
    return with_regions(data)


def rectilinear(dim):
    data = vtk.vtkRectilinearGrid()
    axes = [
        np.array([0, 0.3, 1, 2]),
        np.array([0, 0.25, 1]),
        np.array([0, 0.5, 1]) if dim == 3 else np.zeros(1),
    ]
    data.SetDimensions(*map(len, axes))
    for axis, x in zip("XYZ", axes):
        getattr(data, f"Set{axis}Coordinates")(numpy_to_vtk(x, deep=1))
    return with_regions(data)


def structured(dim):
    data = vtk.vtkStructuredGrid()
    flat = image(dim)
    points = vtk.vtkPoints()
    points.SetDataTypeToDouble()
    for k in range(flat.GetNumberOfPoints()):
        points.InsertNextPoint(flat.GetPoint(k))
    data.SetDimensions(flat.GetDimensions())
    data.SetPoints(points)
    return with_regions(data)


def with_regions(data):
    """Cells are numbered 1 left of x = 1, else 2."""
    centers = vtk.vtkCellCenters()
    centers.SetInputData(data)
    centers.Update()
    x = [centers.GetOutput().GetPoint(k)[0] for k in range(data.GetNumberOfCells())]
    array = numpy_to_vtk(np.where(np.array(x) < 1, 1, 2).astype(np.int32), deep=1)
    array.SetName("region")
    data.GetCellData().AddArray(array)
    return data


def unstructured(points, cells):
    """From points (n, 3) and [(VTK's number of a cell type, points of a cell)]."""
    data = vtk.vtkUnstructuredGrid()
    at = vtk.vtkPoints()
    at.SetDataTypeToDouble()
    at.SetData(numpy_to_vtk(np.ascontiguousarray(points, float), deep=1))
    data.SetPoints(at)
    for kind, row in cells:
        data.InsertNextCell(kind, len(row), [int(p) for p in row])
    return with_regions(data)


def of_cells(dim):
    """An image as an unstructured grid: pixels or voxels."""
    append = vtk.vtkAppendFilter()
    append.AddInputData(image(dim))
    append.Update()
    return append.GetOutput()


def of_quads():
    """The squares as quadrilaterals."""
    points = [(i / 2, j / 2, 0) for j in range(3) for i in range(5)]
    return unstructured(
        points,
        [
            (vtk.VTK_QUAD, number([i, i + 1, i + 1, i], [j, j, j + 1, j + 1]) - 1)
            for j in range(2)
            for i in range(4)
        ],
    )


def of_kinds():
    """Triangles, a quadrilateral, a polygon and a strip that fill the rectangle, lines on its left
    and a lonely vertex.
    """
    points = [
        (0, 0, 0),
        (0.5, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (0, 1, 0),
        (0.5, 1, 0),
        (1, 1, 0),
        (2, 1, 0),
        (1.5, 0, 0),
        (1.5, 1, 0),
    ]
    cells = [
        (vtk.VTK_VERTEX, [0]),
        (vtk.VTK_LINE, [0, 4]),
        (vtk.VTK_TRIANGLE, [0, 1, 5]),
        (vtk.VTK_TRIANGLE, [0, 5, 4]),
        (vtk.VTK_POLYGON, [1, 2, 6, 5]),
        (vtk.VTK_TRIANGLE_STRIP, [2, 8, 6, 9]),
        (vtk.VTK_QUAD, [8, 3, 7, 9]),
    ]
    return unstructured(points, cells)


def tilted(data):
    """Turned about two axes."""
    transform = vtk.vtkTransform()
    turned = vtk.vtkTransformFilter()
    transform.RotateX(50)
    transform.RotateY(20)
    turned.SetTransform(transform)
    turned.SetInputData(data)
    turned.Update()
    return turned.GetOutput()


def polydata():
    """The same cells, as VTK keeps surfaces."""
    surface = vtk.vtkGeometryFilter()
    surface.SetInputData(of_kinds())
    surface.Update()
    return surface.GetOutput()


def with_strings(data):
    names = vtk.vtkStringArray()
    names.SetName("made by")
    names.InsertNextValue("make_examples.py, a < b & c")
    data.GetFieldData().AddArray(names)
    return data


def curved_vtk():
    """Triangles and a quadrilateral of second order; the left side is bent inwards."""
    points = [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
        (1, 1, 0),
        (2, 0, 0),
        (2, 1, 0),
        (0.5, 0, 0),
        (0.5, 0.5, 0),
        (0.1, 0.5, 0),
        (1, 0.5, 0),
        (0.5, 1, 0),
        (1.5, 0, 0),
        (2, 0.5, 0),
        (1.5, 1, 0),
    ]
    return unstructured(
        points,
        [
            (vtk.VTK_QUADRATIC_TRIANGLE, [0, 1, 2, 6, 7, 8]),
            (vtk.VTK_QUADRATIC_TRIANGLE, [1, 3, 2, 9, 10, 7]),
            (vtk.VTK_QUADRATIC_QUAD, [1, 4, 5, 3, 11, 12, 13, 9]),
        ],
    )


def write_vtk(path, make, writer, **settings):
    """With a writer of VTK's; settings are its methods and their arguments."""
    out = getattr(vtk, writer)()
    out.SetInputData(make())
    out.SetFileName(str(path))
    for name, value in settings.items():
        getattr(out, name)(getattr(vtk, value)() if isinstance(value, str) else value)
    if not out.Write():
        raise OSError(f"{path} was not written")


def write_pieces(path):
    """Two pieces, each with a layer of the other's cells as ghosts."""
    for k in range(2):
        x = np.array([0, 0.5, 1, 1.5]) + k / 2
        points = [(a, b, 0) for b in (0, 1) for a in x]
        half = unstructured(points, [(vtk.VTK_QUAD, [i, i + 1, i + 5, i + 4]) for i in range(3)])
        ghost = numpy_to_vtk(np.array([[0, 0, 1], [1, 0, 0]][k], np.uint8), deep=1)
        ghost.SetName("vtkGhostType")
        half.GetCellData().AddArray(ghost)
        write_vtk(path.with_name(f"{path.stem}_{k}.vtu"), partial(lambda data: data, half), XML)
    arrays = (
        "<PDataArray type='Int32' Name='region'/><PDataArray type='UInt8' Name='vtkGhostType'/>"
    )
    pieces = "".join(f"<Piece Source='{path.stem}_{k}.vtu'/>" for k in range(2))
    path.write_text(
        "<VTKFile type='PUnstructuredGrid' version='1.0' byte_order='LittleEndian' "
        "header_type='UInt64'>"
        f"<PUnstructuredGrid GhostLevel='1'><PCellData>{arrays}</PCellData><PPoints><PDataArray "
        "type='Float64' "
        f"NumberOfComponents='3'/></PPoints>{pieces}</PUnstructuredGrid></VTKFile>"
    )


def write_hdf_pieces(path):
    """Two pieces in one file, each with the points between them."""
    x, y = (a.ravel() for a in np.meshgrid([0, 0.5, 1], [0, 1]))
    half = np.stack([x, y, 0 * x], axis=1)
    with h5py.File(path, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = (2, 0)
        root.attrs.create("Type", b"UnstructuredGrid", dtype="S16")
        root["Points"] = np.concatenate([half, half + [1, 0, 0]])
        root["Connectivity"] = np.array([0, 1, 4, 3, 1, 2, 5, 4] * 2)
        root["Offsets"] = np.array([0, 4, 8] * 2)
        root["Types"] = np.full(4, vtk.VTK_QUAD, np.uint8)
        root["CellData/region"] = np.array([1, 1, 2, 2])
        for name, size in ("Points", 6), ("Cells", 2), ("ConnectivityIds", 8):
            root[f"NumberOf{name}"] = np.array([size, size])


# ---- other formats -------------------------------------------------------------------------------


def write_meshio(path, dim=2):
    """Squares, or cubes, by meshio."""
    grid = of_cells(dim)
    points = np.array([grid.GetPoint(k) for k in range(grid.GetNumberOfPoints())])
    order = [0, 1, 3, 2, 4, 5, 7, 6][: 2**dim]
    cells = np.array(
        [[grid.GetCell(k).GetPointId(i) for i in order] for k in range(grid.GetNumberOfCells())]
    )
    region = np.where(points[cells][:, :, 0].mean(axis=1) < 1, 1, 2)
    mesh = meshio.Mesh(points, [({2: "quad", 3: "hexahedron"}[dim], cells)])
    if path.suffix == ".mesh":
        mesh.cell_data = {"medit:ref": [region]}
    if path.suffix == ".med":
        mesh.cell_data = {"cell_tags": [-region]}
        mesh.cell_tags = {-1: ["left", "wet"], -2: ["right"]}
    mesh.write(path)


# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """How a file is written, and what it must give."""

    write: object  # a function of its path
    volume: float = 2.0
    boundary: dict = field(default_factory=dict)
    interfaces: dict = field(default_factory=dict)
    regions: dict = field(default_factory=dict)
    warning: str = ""


def gmsh(write, change=None, kind=3, numbered=False, expected=None, **settings):
    """An example of Gmsh's, with the groups of `grid`, or their numbers; *expected*: what is
    different.
    """

    def make(path):
        points, entities = grid(kind)
        points, entities = change(points, entities) if change else (points, entities)
        write(path, points, entities, **settings)

    found = dict(
        boundary={"boundary": 1, 13: 2, "inlet": 1, "outlet": 1, "overlap": 2, "sand": 1},
        interfaces={"middle": 1},
        regions={"sand": 1, 2: 1, "all": 2},
    )
    if numbered:
        found = dict(
            boundary={"boundary": 1, 11: 1, 12: 1, 13: 2, 14: 2, 16: 1},
            interfaces={15: 1},
            regions={1: 1, 2: 1, 3: 2},
        )
    return Example(make, **found | (expected or {}))


def of_vtk(make, writer, dim=2, expected=None, **settings):
    """An example of VTK's, with two regions."""
    measure = {2: 6.0, 3: 10.0}[dim]
    found = dict(boundary={"boundary": measure}, regions={1: 1, 2: 1})
    return Example(
        partial(write_vtk, make=make, writer=writer, **settings), **found | (expected or {})
    )


BY_CORNERS = dict(warning="by their corners")
NO_GROUPS = dict(boundary={"boundary": 6}, interfaces={}, regions={})
COMMENT = section("Comments", b"made by hand")
PERIODIC_2 = section("Periodic", b"1\n1 3 6\n2\n5 1\n10 6\n")
PERIODIC_4 = section("Periodic", b"1\n1 3 6\n0\n2\n5 1\n10 6\n")
DATA = section("NodeData", b'1\n"a view"\n1\n0.0\n3\n0\n1\n1\n1 2.5\n')
XML = "vtkXMLUnstructuredGridWriter"
KINDS = dict(
    boundary={"boundary": 5, 1: 1}
)  # of `of_kinds`: the line on the left side is in the region 1

TILTED = dict(warning="lies in a plane across the axes")

EXAMPLES = {
    "msh1.msh": gmsh(write_msh_1, numbered=True),
    "msh2.0.msh": gmsh(write_msh_2, version=2.0),
    "msh2.1.msh": gmsh(write_msh_2, version=2.1),
    "msh2.2.msh": gmsh(write_msh_2),
    "msh2.2_triangles.msh": gmsh(write_msh_2, kind=2),
    "msh2.2_binary.msh": gmsh(write_msh_2, binary="<"),
    "msh2.2_big_end_first.msh": gmsh(write_msh_2, binary=">"),
    "msh2.2_partitions.msh": gmsh(write_msh_2, n_tags=4),
    "msh2.2_partitions_binary.msh": gmsh(write_msh_2, n_tags=4, binary="<"),
    "msh2.2_one_tag.msh": gmsh(write_msh_2, n_tags=1),
    "msh2.2_no_tags.msh": gmsh(write_msh_2, change=without_groups, n_tags=0, expected=NO_GROUPS),
    "msh2.2_numbers.msh": gmsh(write_msh_2, names={}, numbered=True),
    "msh2.2_sparse_numbers.msh": gmsh(write_msh_2, gaps=7),
    "msh2.2_sparse_numbers_binary.msh": gmsh(write_msh_2, gaps=7, binary="<"),
    "msh2.2_comments_and_data.msh": gmsh(write_msh_2, front=COMMENT, more=DATA + DATA),
    "msh2.2_periodic.msh": gmsh(write_msh_2, more=PERIODIC_2, expected=dict(warning="periodic")),
    "msh2.2_second_order.msh": gmsh(write_msh_2, change=second_order, expected=BY_CORNERS),
    "msh4.0.msh": gmsh(write_msh_4, version=4.0),
    "msh4.0_binary.msh": gmsh(write_msh_4, version=4.0, binary="<"),
    "msh4.0_partitions.msh": gmsh(write_msh_4, version=4.0, partitioned=True),
    "msh4.0_parametric.msh": gmsh(write_msh_4, version=4.0, parametric=True),
    "msh4.1.msh": gmsh(write_msh_4),
    "msh4.1_triangles.msh": gmsh(write_msh_4, kind=2),
    "msh4.1_binary.msh": gmsh(write_msh_4, binary="<"),
    "msh4.1_big_end_first.msh": gmsh(write_msh_4, binary=">"),
    "msh4.1_small_sizes.msh": gmsh(write_msh_4, binary="<", size=4),
    "msh4.1_called_4.msh": gmsh(write_msh_4, header="4"),
    "msh4.1_partitions.msh": gmsh(write_msh_4, partitioned=True),
    "msh4.1_partitions_binary.msh": gmsh(write_msh_4, partitioned=True, binary="<"),
    "msh4.1_parametric.msh": gmsh(write_msh_4, parametric=True),
    "msh4.1_parametric_binary.msh": gmsh(write_msh_4, parametric=True, binary="<"),
    "msh4.1_numbers.msh": gmsh(write_msh_4, names={}, numbered=True),
    "msh4.1_no_groups.msh": gmsh(write_msh_4, change=without_groups, names={}, expected=NO_GROUPS),
    "msh4.1_no_lines.msh": gmsh(
        write_msh_4, change=without_lines, expected=dict(boundary={"boundary": 6}, interfaces={})
    ),
    "msh4.1_periodic.msh": gmsh(write_msh_4, more=PERIODIC_4, expected=dict(warning="periodic")),
    "msh4.1_comments_and_data.msh": gmsh(write_msh_4, front=COMMENT, more=DATA + DATA),
    "msh4.1_second_order.msh": gmsh(write_msh_4, change=second_order, expected=BY_CORNERS),
    "msh4.1_second_order_triangles.msh": gmsh(
        write_msh_4, change=second_order, kind=2, expected=BY_CORNERS
    ),
    "msh4.1_spare_points.msh": gmsh(write_msh_4, change=with_spare_points),
    "msh4.1_group_called_boundary.msh": gmsh(
        write_msh_4,
        change=called_boundary,
        names={(1, 11): "boundary"},
        expected=dict(
            boundary={"boundary": 1, "rest of boundary": 5},
            interfaces={},
            regions={1: 1, 2: 1, 3: 2},
        ),
    ),
    "msh4.1_loose_lines.msh": gmsh(
        write_msh_4,
        change=with_loose_lines,
        expected=dict(
            boundary={
                "boundary": 0.5,
                13: 2,
                17: 0.5,
                "inlet": 1,
                "outlet": 1,
                "overlap": 2,
                "sand": 1,
            },
            warning="left out: 17 (1 of 2)",
        ),
    ),
    "msh4.1_in_x_and_z.msh": gmsh(write_msh_4, change=in_x_and_z),
    "msh4.1_single_precision.msh": gmsh(write_msh_4, change=shaken),
    "msh4.1_tilted.msh": gmsh(write_msh_4, change=turned, expected=TILTED),
    "upper_case.MSH": gmsh(write_msh_4),
    "byte_order_mark.msh": gmsh(write_msh_2, front=b"\xef\xbb\xbf"),
    "ascii.vtu": of_vtk(of_quads, XML, SetDataMode=0),
    "binary.vtu": of_vtk(of_quads, XML, SetDataMode=1),
    "appended.vtu": of_vtk(of_quads, XML, SetDataMode=2),
    "appended_raw.vtu": of_vtk(of_quads, XML, SetDataMode=2, SetEncodeAppendedData=0),
    "uncompressed.vtu": of_vtk(of_quads, XML, SetCompressor=None),
    "lz4.vtu": of_vtk(of_quads, XML, SetCompressor="vtkLZ4DataCompressor"),
    "lzma.vtu": of_vtk(of_quads, XML, SetCompressor="vtkLZMADataCompressor"),
    "long_headers.vtu": of_vtk(of_quads, XML, SetHeaderType=64),
    "big_end_first.vtu": of_vtk(of_quads, XML, SetByteOrder=0),
    "strings.vtu": of_vtk(lambda: with_strings(of_quads()), XML),
    "pixels.vtu": of_vtk(partial(of_cells, 2), XML),
    "voxels.vtu": of_vtk(partial(of_cells, 3), XML, dim=3),
    "many_kinds.vtu": of_vtk(of_kinds, XML, expected=KINDS),
    "second_order.vtu": of_vtk(curved_vtk, XML, expected=BY_CORNERS),
    "tilted.vtu": of_vtk(lambda: tilted(of_quads()), XML, expected=TILTED),
    "pieces.pvtu": Example(write_pieces, boundary={"boundary": 6}, regions={1: 1, 2: 1}),
    "surface.vtp": of_vtk(polydata, "vtkXMLPolyDataWriter", expected=KINDS),
    "structured.vts": of_vtk(partial(structured, 2), "vtkXMLStructuredGridWriter"),
    "structured_3d.vts": of_vtk(partial(structured, 3), "vtkXMLStructuredGridWriter", dim=3),
    "rectilinear.vtr": of_vtk(partial(rectilinear, 2), "vtkXMLRectilinearGridWriter"),
    "rectilinear_3d.vtr": of_vtk(partial(rectilinear, 3), "vtkXMLRectilinearGridWriter", dim=3),
    "image.vti": of_vtk(partial(image, 2), "vtkXMLImageDataWriter"),
    "image_3d.vti": of_vtk(partial(image, 3), "vtkXMLImageDataWriter", dim=3),
    "unstructured.vtk": of_vtk(of_quads, "vtkUnstructuredGridWriter", SetFileType=1),
    "unstructured_4.2.vtk": of_vtk(
        of_quads, "vtkUnstructuredGridWriter", SetFileType=1, SetFileVersion=42
    ),
    "binary.vtk": of_vtk(of_quads, "vtkUnstructuredGridWriter", SetFileType=2),
    "binary_4.2.vtk": of_vtk(
        of_quads, "vtkUnstructuredGridWriter", SetFileType=2, SetFileVersion=42
    ),
    "voxels.vtk": of_vtk(partial(of_cells, 3), "vtkUnstructuredGridWriter", dim=3),
    "many_kinds.vtk": of_vtk(of_kinds, "vtkUnstructuredGridWriter", expected=KINDS),
    "strings.vtk": of_vtk(lambda: with_strings(of_quads()), "vtkUnstructuredGridWriter"),
    "surface.vtk": of_vtk(polydata, "vtkPolyDataWriter", expected=KINDS),
    "structured.vtk": of_vtk(partial(structured, 2), "vtkStructuredGridWriter"),
    "rectilinear.vtk": of_vtk(partial(rectilinear, 3), "vtkRectilinearGridWriter", dim=3),
    "image.vtk": of_vtk(partial(image, 2), "vtkStructuredPointsWriter", SetFileType=2),
    "unstructured.vtkhdf": of_vtk(of_quads, "vtkHDFWriter"),
    "pieces.vtkhdf": Example(write_hdf_pieces, boundary={"boundary": 6}, regions={1: 1, 2: 1}),
    **{
        f"by_meshio{suffix}": Example(write_meshio, boundary={"boundary": 6})
        for suffix in (".xdmf", ".avs", ".ply")
    },
    "by_meshio.med": Example(
        write_meshio, boundary={"boundary": 6}, regions={"left": 1, "wet": 1, "right": 1}
    ),
    "by_meshio.mesh": Example(write_meshio, boundary={"boundary": 6}, regions={1: 1, 2: 1}),
    "by_meshio_3d.mesh": Example(
        partial(write_meshio, dim=3), boundary={"boundary": 10}, regions={1: 1, 2: 1}
    ),
}


def main(folder):
    """Write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, example in EXAMPLES.items():
        example.write(folder / name)
    print(f"{len(EXAMPLES)} files in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
