"""Mesh files for the tests, written by meshio."""

import meshio
import numpy as np

from fvot.mesh.cells import NAME

FACE_TYPES = {1: "vertex", 2: "line", 3: "triangle", 4: "quad"}  # by the number of points
FORMATS = {
    "msh 2.2 ascii": (
        ".msh",
        lambda path, mesh: meshio.gmsh.write(path, mesh, "2.2", binary=False),
    ),
    "msh 2.2 binary": (
        ".msh",
        lambda path, mesh: meshio.gmsh.write(path, mesh, "2.2", binary=True),
    ),
    "msh 4.1 ascii": (
        ".msh",
        lambda path, mesh: meshio.gmsh.write(path, mesh, "4.1", binary=False),
    ),
    "msh 4.1 binary": (
        ".msh",
        lambda path, mesh: meshio.gmsh.write(path, mesh, "4.1", binary=True),
    ),
    "vtu ascii": (".vtu", lambda path, mesh: meshio.vtu.write(path, mesh, binary=False)),
    "vtu binary": (".vtu", lambda path, mesh: meshio.vtu.write(path, mesh, binary=True)),
    "vtk ascii": (".vtk", lambda path, mesh: meshio.vtk.write(path, mesh, binary=False)),
    "vtk binary": (".vtk", lambda path, mesh: meshio.vtk.write(path, mesh, binary=True)),
}


def write(mesh, folder, file_format):
    """Write a mesh that lives on one rank: (path, the mesh's cells in the order of the file)."""
    suffix, writer = FORMATS[file_format]
    path = folder / f"{file_format.replace(' ', '_')}{suffix}"
    cells, order = cell_blocks(mesh)
    faces = face_blocks(mesh) if suffix == ".msh" else []
    points = np.pad(mesh.points, ((0, 3 - mesh.dim), (0, 0))).T
    if suffix == ".msh":
        writer(path, with_names(points, cells, faces, mesh.dim, entities="4.1" in file_format))
    else:
        writer(path, meshio.Mesh(points, cells))
    return path, order


def cell_blocks(mesh):
    """([(type, connectivity)], cells in the order of the blocks); one block for each number of
    corners.
    """
    count = np.diff(mesh.start)
    blocks = []
    order = []
    for kind, corners in np.unique(np.stack([mesh.kind, count]), axis=1).T:
        cell = np.flatnonzero((mesh.kind == kind) & (count == corners))
        blocks.append((NAME[kind], mesh.corners[mesh.start[cell][:, None] + np.arange(corners)]))
        order.append(cell)
    return blocks, np.concatenate(order)


def face_blocks(mesh):
    """[(name, type, connectivity)] of the boundary."""
    blocks = []
    for name, faces in mesh.boundary.items():
        count = (mesh.vertices[:, faces] >= 0).sum(axis=0)
        blocks += [
            (name, FACE_TYPES[n], mesh.vertices[:n, faces].T[count == n]) for n in np.unique(count)
        ]
    return blocks


def with_names(points, cells, faces, dim, entities):
    """A mesh whose faces are in physical groups, and its cells in one named "domain"."""
    names = list(dict.fromkeys(name for name, _, _ in faces))
    number = {name: i + 1 for i, name in enumerate(names)} | {"domain": len(names) + 1}
    blocks = [("domain", *block) for block in cells] + faces
    point_data = {}
    if (
        entities
    ):  # 4.1 ties groups to entities, and these to points: meshio wants a point for each block
        tags = np.tile([dim, 1], (len(points), 1))
        taken = set()
        for i, (name, _, connectivity) in reversed(
            list(enumerate(blocks))
        ):  # the smallest blocks first
            point = next(p for p in connectivity.ravel() if p not in taken)
            taken.add(point)
            tags[point] = dim - (name != "domain"), i + 1
        point_data = {"gmsh:dim_tags": tags}
    return meshio.Mesh(
        points,
        [block[1:] for block in blocks],
        point_data=point_data,
        field_data={name: np.array([number[name], dim - (name != "domain")]) for name in number},
        cell_data={
            "gmsh:physical": [np.full(len(c), number[name]) for name, _, c in blocks],
            "gmsh:geometrical": [np.full(len(c), i + 1) for i, (_, _, c) in enumerate(blocks)],
        },
    )
