"""A mesh without some of its cells."""

import numpy as np

from ..arguments.functions import call_function, refuse_masked
from ..errors import InputError
from .cells import NAME, POLYGON, TETRA, TRIANGLE
from .gathering import gathered, gathered_regions, named_faces


def left_out(mesh, f):
    """Which of this rank's cells (n_cells,) f names: a mask of them, a function f(x) of their
    points, numbers in the file.

    Raises `InputError` for what is none of these; collective.
    """
    with mesh.ranks.raising_together():
        found = call_function(f, "f", mesh.center) if callable(f) else f
        refuse_masked(found, "f must say of each cell whether it is left out")
        found = np.asarray(found)
        if not callable(f) and (found.dtype.kind in "iu" or found.shape == (0,) != (mesh.n_cells,)):
            return _numbered(mesh, np.atleast_1d(found))
        if found.dtype == bool and found.shape == ():
            found = np.full(mesh.n_cells, found)
        if found.dtype != bool:
            raise InputError(
                "f must be a mask, a function f(x) that returns one, or numbers of cells, not "
                f"{found.dtype} of shape {found.shape}: write a condition, such as numpy.isnan(F) "
                "or x[0] > 0"
            )
        if found.shape != (mesh.n_cells,):
            raise InputError(f"f has shape {found.shape}; {mesh.wanted_shape(found.shape)}")
    return found


def _numbered(mesh, numbers):
    numbers = numbers.astype(np.int64)  # an empty list has no type of its own
    wrong = np.flatnonzero((numbers < 0) | (numbers >= mesh.n_cells_global))
    if len(wrong):
        raise InputError(
            f"there is no cell {numbers[wrong[0]]}: the mesh has {mesh.n_cells_global} cells, "
            "numbered from 0"
        )
    return np.isin(mesh.cell_id[: mesh.n_cells], numbers)


def kept(mesh, removed, name):
    """On rank 0 (points, blocks, facets, cell points or None, regions) of the cells that are not
    *removed* (n_cells,).

    Faces to cells that are left out are called *name*; all others keep their names. None on other
    ranks. Collective.
    """
    local = mesh.with_ghosts(removed)
    n = mesh.n_inner
    left, right = mesh.left, mesh.right
    bare = np.flatnonzero((local[left[:n]] != local[right[:n]]) & mesh.face_owned[:n])
    beyond = np.where(right < 0, left, right)
    gone_on_both_sides = local[left] & local[beyond]
    facets = {old: faces[~gone_on_both_sides[faces]] for old, faces in named_faces(mesh).items()}
    facets[name] = np.concatenate([facets.get(name, bare[:0]), bare])
    simplices = np.isin(mesh.kind, (TRIANGLE, TETRA)).any()
    center = (
        None if mesh.ranks.max(int(simplices)) else mesh.gather(mesh.center)
    )  # circumcentres are found again
    gone = mesh.gather(removed)
    whole = gathered(mesh, facets)
    regions = gathered_regions(mesh)
    if whole is None:
        return None
    points, kind, start, corners, facets = whole
    stays = np.flatnonzero(~gone)
    blocks = [_block(kind, start, corners, members) for members in _runs(kind, stays)]
    number = np.cumsum(~gone) - 1  # of the cells that stay
    regions = {region: number[cells[~gone[cells]]] for region, cells in regions.items()}
    return (
        *_with_used_points(points, blocks, facets),
        None if center is None else center[:, stays],
        regions,
    )


def _runs(kind, cells):
    """The cells, cut where their kind changes: blocks of one kind, in the order of the cells."""
    return np.split(cells, np.flatnonzero(np.diff(kind[cells])) + 1)


def _block(kind, start, corners, cells):
    """(type name, corners of each cell) of cells of one kind."""
    name = NAME[kind[cells[0]]]
    if kind[cells[0]] == POLYGON:
        return name, [corners[start[cell] : start[cell + 1]] for cell in cells]
    return name, corners[start[cells][:, None] + np.arange(start[cells[0] + 1] - start[cells[0]])]


def _with_used_points(points, blocks, facets):
    """The same, without the points that no cell has."""
    used = np.zeros(points.shape[1] + 1, bool)
    for _, rows in blocks:
        used[np.concatenate(rows) if isinstance(rows, list) else rows] = True
    number = np.cumsum(used) - 1
    number[-1] = -1  # serves the empty places of faces with fewer corners
    renumbered = [
        (name, [number[row] for row in rows] if isinstance(rows, list) else number[rows])
        for name, rows in blocks
    ]
    return (
        points[:, used[:-1]],
        renumbered,
        {name: number[vertices] for name, vertices in facets.items()},
    )
