"""A whole mesh on rank 0, as `from_cells` takes it."""

from typing import Any

import numpy as np

from ..arguments.types import IntArray
from .cartesian import point_numbers
from .cells import take_rows
from .memory import AnyMesh


def list_named_faces(mesh: AnyMesh) -> dict[Any, IntArray]:
    """{name: numbers of faces} of the boundary and of the interfaces, each face on one rank."""
    named = {name: np.arange(mesh.n_faces)[faces] for name, faces in mesh.boundary.items()}
    for name, faces in mesh.interfaces.items():
        own = faces[mesh.face_owned[faces]]
        named[name] = np.concatenate([named.get(name, own[:0]), own])
    return named


def gather_mesh(mesh: AnyMesh, facets: dict[Any, IntArray] | None = None) -> tuple | None:
    """On rank 0, the whole mesh in its file's numbering: (points, kind, start, corners, facets);
    None on other ranks. Collective.

    facets : {name: numbers of faces}, all that have names if None; they come back as {name: points
        of the faces}
    """
    point_id = mesh.point_id if mesh.block is None else point_numbers(mesh.block)
    number = np.append(point_id, -1)  # the last entry serves vertex -1
    if facets is None:
        facets = list_named_faces(mesh)
    facet_points = {name: number[mesh.vertices[:, faces]] for name, faces in facets.items()}
    mine = dict(
        point_id=point_id,
        points=mesh.points,
        cell_id=mesh.cell_id[: mesh.n_cells],
        kind=mesh.kind,
        count=np.diff(mesh.start),
        corners=point_id[mesh.corners],
        facets=facet_points,
    )
    parts = mesh.ranks.gather_to_root(mine)
    return None if parts is None else _join_parts(parts, mesh.dim)


def gather_cells(mesh: AnyMesh) -> tuple | None:
    """On rank 0 (points, kind, start, corners) of the whole mesh, in its file's numbering of cells,
    as it is drawn: periodic meshes are not joined. None on other ranks. Collective.
    """
    if mesh.block is None:
        whole = gather_mesh(mesh, facets={})
        return whole and whole[:4]
    own = (
        mesh.points,
        mesh.kind,
        mesh.corners.reshape(mesh.n_cells, -1),
        mesh.cell_id[: mesh.n_cells],
    )
    parts = mesh.ranks.gather_to_root(own)
    if parts is None:
        return None

    # Each block has its own copies of the points between blocks.
    points, kind, corners, number = zip(*parts)
    shift = np.cumsum([0, *(p.shape[1] for p in points)])
    all_corners = np.concatenate([own + first for own, first in zip(corners, shift)])
    place = np.argsort(np.concatenate(number))
    return (
        np.concatenate(points, axis=1),
        np.concatenate(kind)[place],
        all_corners.shape[1] * np.arange(len(place) + 1),
        all_corners[place].ravel(),
    )


def _join_parts(parts, dim):
    """The parts of all ranks as one mesh."""

    def join(name: str) -> Any:
        return np.concatenate([part[name] for part in parts], axis=-1)

    point_id = join("point_id")
    points = np.zeros((dim, point_id.max() + 1))
    points[:, point_id] = join("points")

    order = np.argsort(join("cell_id"))
    own_start = np.concatenate([[0], np.cumsum(join("count"))])
    place, start = take_rows(own_start, order)

    facets = {
        name: np.concatenate([part["facets"][name] for part in parts], axis=1)
        for name in parts[0]["facets"]
    }
    return points, join("kind")[order], start, join("corners")[place], facets


def gather_regions(mesh: AnyMesh) -> dict[Any, IntArray] | None:
    """On rank 0, {name: cells} of the regions in the file's numbering; None on other ranks.
    Collective.
    """
    mine = {name: mesh.cell_id[cells] for name, cells in mesh.regions.items()}
    parts = mesh.ranks.gather_to_root(mine)
    if parts is None:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in mesh.regions}
