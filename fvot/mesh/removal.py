"""A mesh without some of its cells."""

from typing import Any

import numpy as np

from ..arguments.functions import call_function, refuse_masked
from ..errors import InputError
from .assembly import MeshInput, build_mesh
from .cell_values import describe_wanted_shape, gather
from .cells import NAME, POLYGON, drop_unused_points, find_runs
from .gathering import gather_mesh, gather_regions, list_named_faces
from .memory import AnyMesh


def remove_cells(mesh: AnyMesh, f: Any, name: str) -> AnyMesh:
    """The mesh without the cells that f names; the faces laid bare are the boundary *name*."""
    ranks = mesh.ranks
    ranks.check(
        isinstance(name, str) and name, f"name must be the name of a boundary, not {name!r:.60}"
    )
    ranks.check_same("name", name)
    removed = _find_removed(mesh, f)
    count = int(ranks.sum(int(removed.sum())))
    ranks.check(
        count < mesh.n_cells_global,
        f"f names all {mesh.n_cells_global} cells: nothing is left of the mesh",
    )
    if count == 0:
        return mesh
    ranks.check(
        mesh.block is None or not any(mesh.block.periodic),
        "cells of a periodic mesh cannot be left out: "
        "make it without periodic=, which leaves walls there",
    )

    is_removed = gather(mesh, removed)
    stays = np.flatnonzero(~is_removed)
    patch = gather(mesh, mesh.patch)[stays]
    rest = _gather_rest(mesh, _name_faces(mesh, removed, name), is_removed)
    strict = mesh.quality.n_negative == 0 or mesh.quality.disorder != ""
    smaller = build_mesh(
        type(mesh), lambda: rest, ranks.comm, patch, strict, coordinates=mesh.coordinates
    )

    parent_cell = stays[smaller.cell_id[: smaller.n_cells]]
    parent_cell.flags.writeable = False
    smaller.__dict__["parent_cell"] = parent_cell
    return smaller


def _find_removed(mesh, f):
    """Which of this rank's cells (n_cells,) f names: by a mask, a function f(x) of their points, or
    numbers in the file.

    Raises `InputError` for an f that is none of these; collective.
    """
    with mesh.ranks.raising_together():
        mask = call_function(f, "f", mesh.center) if callable(f) else f
        refuse_masked(mask, "f must say of each cell whether it is left out")
        mask = np.asarray(mask)
        has_numbers = mask.dtype.kind in "iu"
        is_empty_list = mask.shape == (0,) != (mesh.n_cells,)
        if not callable(f) and (has_numbers or is_empty_list):
            return _mark_cells(mesh, np.atleast_1d(mask))

        if mask.dtype == bool and mask.shape == ():
            mask = np.full(mesh.n_cells, mask)
        if mask.dtype != bool:
            raise InputError(
                "f must be a mask, a function f(x) that returns one, or numbers of cells, not "
                f"{mask.dtype} of shape {mask.shape}: write a condition, such as numpy.isnan(F) "
                "or x[0] > 0"
            )
        if mask.shape != (mesh.n_cells,):
            raise InputError(f"f has shape {mask.shape}; {describe_wanted_shape(mesh, mask.shape)}")
    return mask


def _mark_cells(mesh, numbers):
    """Which of this rank's cells (n_cells,) have one of these numbers in the file."""
    numbers = numbers.astype(np.int64)  # an empty list has no type of its own
    wrong = np.flatnonzero((numbers < 0) | (numbers >= mesh.n_cells_global))
    if len(wrong):
        raise InputError(
            f"there is no cell {numbers[wrong[0]]}: the mesh has {mesh.n_cells_global} cells, "
            "numbered from 0"
        )
    return np.isin(mesh.cell_id[: mesh.n_cells], numbers)


def _gather_rest(mesh, named_faces, is_removed):
    """On rank 0, the `MeshInput` of the cells of the whole mesh that are not removed; None on other
    ranks. Collective.

    named_faces : {name: numbers of faces} of this rank
    is_removed : (n_cells_global,)
    """
    center = gather(mesh, mesh.center)
    whole = gather_mesh(mesh, named_faces)
    regions = gather_regions(mesh)
    if whole is None:
        return None

    points, kind, start, corners, facets = whole
    stays = np.flatnonzero(~is_removed)
    ends = find_runs(kind[stays])
    runs = np.split(stays, ends[1:-1])
    blocks = [_make_block(kind, start, corners, cells) for cells in runs]
    points, blocks, point_number = drop_unused_points(points, blocks)
    facets = {name: point_number[vertices] for name, vertices in facets.items()}

    number = np.cumsum(~is_removed) - 1  # of the cells that stay
    regions = {region: number[cells[~is_removed[cells]]] for region, cells in regions.items()}
    return MeshInput(points, blocks, facets, regions=regions, others=center[:, stays])


def _name_faces(mesh, removed, name):
    """{name: numbers of faces}: those laid bare have the name, all others theirs, unless they go
    with their cells.
    """
    n = mesh.n_inner
    left = mesh.left
    right = mesh.right
    is_removed = mesh.with_ghosts(removed)
    is_bare = is_removed[left[:n]] != is_removed[right[:n]]
    bare = np.flatnonzero(is_bare & mesh.face_owned[:n])

    other_side = np.where(right < 0, left, right)
    goes = is_removed[left] & is_removed[other_side]
    facets = {old: faces[~goes[faces]] for old, faces in list_named_faces(mesh).items()}
    facets[name] = np.concatenate([facets.get(name, bare[:0]), bare])
    return facets


def _make_block(kind, start, corners, cells):
    """(type name, corners of each cell) of cells of one kind."""
    name = NAME[kind[cells[0]]]
    if kind[cells[0]] == POLYGON:
        return name, [corners[start[cell] : start[cell + 1]] for cell in cells]
    n_corners = start[cells[0] + 1] - start[cells[0]]
    return name, corners[start[cells][:, None] + np.arange(n_corners)]
