"""A whole mesh on rank 0, as `from_cells` takes it."""

import numpy as np

from .cartesian import point_numbers


def named_faces(mesh):
    """{name: numbers of faces} of the boundary and of the interfaces, each face on one rank."""
    named = {name: np.arange(mesh.n_faces)[faces] for name, faces in mesh.boundary.items()}
    for name, faces in mesh.interfaces.items():
        own = faces[mesh.face_owned[faces]]
        named[name] = np.concatenate([named.get(name, own[:0]), own])
    return named


def gathered(mesh, facets=None):
    """On rank 0, the whole mesh in its file's numbering: (points, kind, start, corners, facets);
    collective.

    facets : {name: numbers of faces}, all that have names if None; they come back as {name: points
        of the faces}
    """
    point_id = mesh.point_id if mesh.block is None else point_numbers(mesh.block)
    number = np.append(point_id, -1)  # the last entry serves vertex -1
    facets = named_faces(mesh) if facets is None else facets
    facets = {name: number[mesh.vertices[:, faces]] for name, faces in facets.items()}
    mine = dict(
        point_id=point_id,
        points=mesh.points,
        cell_id=mesh.cell_id[: mesh.n_cells],
        kind=mesh.kind,
        count=np.diff(mesh.start),
        corners=point_id[mesh.corners],
        facets=facets,
    )
    parts = mesh.ranks.gather_to_root(mine)
    if parts is None:
        return None
    point_id, points, cell_id, kind, count, corners = (
        np.concatenate([part[key] for part in parts], axis=-1)
        for key in ("point_id", "points", "cell_id", "kind", "count", "corners")
    )
    whole = np.zeros((mesh.dim, point_id.max() + 1))
    whole[:, point_id] = points
    order = np.argsort(cell_id)
    first = (np.cumsum(count) - count)[order]
    count = count[order]
    start = np.concatenate([[0], np.cumsum(count)])
    corners = corners[np.arange(start[-1]) + np.repeat(first - start[:-1], count)]
    names = list(facets)
    return (
        whole,
        kind[order],
        start,
        corners,
        {name: np.concatenate([part["facets"][name] for part in parts], axis=1) for name in names},
    )


def gathered_regions(mesh):
    """On rank 0, {name: cells} of the regions in the file's numbering; collective."""
    parts = mesh.ranks.gather_to_root(
        {name: mesh.cell_id[cells] for name, cells in mesh.regions.items()}
    )
    return parts and {name: np.concatenate([part[name] for part in parts]) for name in mesh.regions}
