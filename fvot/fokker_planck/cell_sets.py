"""Sets of cells, or of exits through the boundary, as a user names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ..arguments.functions import call_function, is_integer
from ..arguments.types import BoolArray, IntArray
from ..errors import InputError

WANTED = (
    "a mask (n_cells,), numbers of cells in the file's order, a function x -> bool, or the name of "
    "a region or of a part of the boundary"
)


class CellSet(NamedTuple):
    """Cells of this rank, and boundary faces through which paths leave.

    name : the argument that it was, for messages
    cells (n_cells,) : a mask, in the user's order
    exits (n,) : numbers of faces
    """

    name: str
    cells: BoolArray
    exits: IntArray


def find_sets(mesh: Any, given: Mapping[str, Any], is_open: BoolArray) -> list[CellSet]:
    """The `CellSet` of each argument {name: as the user gave it}. Collective.

    is_open (n_faces,) : the boundary faces through which anything may leave
    `InputError` on every rank for sets that are empty or overlap.
    """
    sets = [_find_set(mesh, name, value, is_open) for name, value in given.items()]
    for one in sets:
        size = mesh.ranks.sum(np.array([one.cells.sum() + len(one.exits)]))[0]
        mesh.ranks.check(size > 0, f"{one.name} is empty: no cell of the mesh is in it")
    for one, other in combinations(sets, 2):
        both = one.cells & other.cells
        count = mesh.ranks.sum(np.array([both.sum()]))[0]
        first = mesh.ranks.min(mesh.cell_id[: mesh.n_cells][both].min(initial=mesh.n_cells_global))
        mesh.ranks.check(
            count == 0,
            f"{one.name} and {other.name} have {count:.0f} cells in common, such as cell "
            f"{first:.0f}: a path cannot be in both; make one of them smaller",
        )
        shared = mesh.ranks.sum(np.array([np.isin(one.exits, other.exits).sum()]))[0]
        mesh.ranks.check(
            shared == 0,
            f"{one.name} and {other.name} have {shared:.0f} boundary faces in common",
        )
    return sets


def _find_set(mesh, name, value, is_open):
    no_faces = np.empty(0, np.int64)
    is_name = isinstance(value, str) or is_integer(value)
    mesh.ranks.check_same(f"the kind of {name}", "name" if is_name else callable(value))
    if is_name:
        mesh.ranks.check_same(name, value)
        return CellSet(name, *_find_named_part(mesh, name, value, is_open))
    with mesh.ranks.raising_together():
        values = np.asarray(call_function(value, name, mesh.center) if callable(value) else value)
        what = f"{name} must be {WANTED}"
        if values.dtype == bool:
            if values.shape != (mesh.n_cells,):
                raise InputError(
                    f"{what}, not a mask of shape {values.shape}: this rank has {mesh.n_cells} "
                    "cells"
                )
            cells = values.copy()
        elif callable(value):
            raise InputError(f"{name}(x) must return True or False for each point")
        elif values.ndim == 1 and (values.dtype.kind in "iu" or values.size == 0):
            if values.size and not 0 <= values.min() <= values.max() < mesh.n_cells_global:
                raise InputError(
                    f"{name} has cell {values.min() if values.min() < 0 else values.max()}: cells "
                    f"are numbered from 0 to {mesh.n_cells_global - 1}"
                )
            cells = np.isin(mesh.cell_id[: mesh.n_cells], values)
        else:
            raise InputError(f"{what}, not {value!r:.60}")
    if values.dtype != bool:
        mesh.ranks.check_same(name, values.tolist())
    return CellSet(name, cells, no_faces)


def _find_named_part(mesh, name, value, is_open):
    """(cells, exits) of a region, or of a part of the boundary: what leaves through it where it is
    open, else the cells at it.
    """
    cells = np.zeros(mesh.n_cells, bool)
    no_faces = np.empty(0, np.int64)
    if value in mesh.regions:
        cells[mesh.regions[value]] = True
        return cells, no_faces
    known = [*mesh.regions, *mesh.boundary]
    mesh.ranks.check(
        value in mesh.boundary,
        f"{name} is {value!r}, and the mesh has no region or boundary of that name; it has: "
        f"{', '.join(map(str, known)) or 'none'}",
    )
    faces = np.arange(mesh.n_faces)[mesh.boundary[value]]
    open_faces = faces[is_open[faces]]
    if mesh.ranks.max(float(len(open_faces))) > 0:
        return cells, open_faces
    cells[mesh.left[faces]] = True
    return cells, no_faces


def gather_states(mesh: Any, sets: Sequence[CellSet]) -> tuple[list[IntArray], list[IntArray]]:
    """(the states (n,) of each set, the lists of exits that are states): the cells of all ranks in
    the file's order, then one state for each set that has exits. Collective.
    """
    whole = mesh.gather(np.stack([one.cells for one in sets]))
    states: list[IntArray] = []
    exits: list[IntArray] = []
    for one, is_in in zip(sets, whole, strict=True):
        members = np.flatnonzero(is_in)
        if mesh.ranks.max(float(len(one.exits))) > 0:
            members = np.append(members, mesh.n_cells_global + len(exits))
            exits.append(one.exits)
        states.append(members)
    return states, exits
