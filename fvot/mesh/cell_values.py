"""Values in the cells of a mesh: checks of shapes and densities, sums, and the order of the file.

`Mesh` checks what a user gives before it calls the functions here. Solvers, whose arrays are right,
call them directly: a check is one more message between the ranks.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arguments.functions import as_floats, refuse_masked
from ..arguments.types import IntArray
from ..errors import InputError
from .memory import AnyMesh, kept_with_mesh


def integrate(mesh: AnyMesh, u: Any) -> Any:
    """sum_K |K| u_K of cell values u (..., n_cells), or of one number: (...). Collective."""
    return mesh.ranks.sum((mesh.volume * np.asarray(u)).sum(axis=-1))


@kept_with_mesh
def find_order(mesh: AnyMesh) -> IntArray:
    """The numbers in the file (n_cells_global,) of the cells of rank 0, 1, ... Collective."""
    order = mesh.ranks.all_gather(mesh.cell_id[: mesh.n_cells])
    order.setflags(write=False)
    return order


def gather(mesh: AnyMesh, u: Any) -> Any:
    """Cell values (..., n_cells) of all ranks in the order of the file. Collective."""
    values = mesh.ranks.all_gather(u)
    ordered = np.empty_like(values)
    ordered[..., find_order(mesh)] = values
    return ordered


def scatter(mesh: AnyMesh, u: Any) -> Any:
    """This rank's part of values (..., n_cells_global) in the order of the file."""
    return u[..., mesh.cell_id[: mesh.n_cells]]


def spread_over_regions(mesh: AnyMesh, coefficient: Any, what: str) -> Any:
    """Cell values (..., n_cells) of {name of a region: value}; anything else as it is. Collective.

    `InputError` on every rank unless each cell is in exactly one of the regions, and the values are
    finite numbers, or arrays of one shape.
    """
    if not isinstance(coefficient, Mapping):
        return coefficient

    with mesh.ranks.raising_together():
        cells = {name: mesh.regions[name] for name in coefficient}
        values = [as_floats(value, f"{what} in {name!r}") for name, value in coefficient.items()]
        if len({value.shape for value in values}) != 1 or not np.isfinite(values).all():
            raise InputError(
                f"{what} by regions must be finite numbers, or arrays of one shape, not "
                f"{coefficient!r:.80}"
            )

    count = np.zeros(mesh.n_cells, int)
    spread = np.zeros((*values[0].shape, mesh.n_cells))
    for value, part in zip(values, cells.values()):
        count[part] += 1
        spread[..., part] = value[..., None]

    own_numbers = np.array([(count == 0).sum(), (count > 1).sum()])
    n_outside, n_twice = mesh.ranks.sum(own_numbers)
    names = ", ".join(map(str, coefficient))
    mesh.ranks.check(
        n_outside == n_twice == 0,
        f"{what} by regions must name each cell once: {n_outside:.0f} cells are in none of "
        f"{names}, {n_twice:.0f} in several; the mesh has the regions "
        f"{', '.join(map(str, mesh.regions)) or '(none)'}",
    )
    return spread


def check_density(
    mesh: AnyMesh, rho: Any, what: str, *, signed: bool = False, batch: bool = False
) -> None:
    """`InputError` on every rank unless rho is of shape (n_cells,), finite, and non-negative unless
    it is signed. A batch may be (k, n_cells), with the same k on all ranks.
    """
    ranks = mesh.ranks
    with ranks.raising_together():
        refuse_masked(rho, f"{what} must be an array of numbers")
        try:
            rho = np.asarray(rho)
        except ValueError:
            raise InputError(f"{what} must be an array of numbers, not {rho!r:.60}") from None

    ranks.check(rho.dtype != object, f"{what} must be an array of numbers, not {rho!s:.60}")
    ranks.check(rho.dtype.kind in "biuf", f"{what} must be real numbers, not of type {rho.dtype}")
    is_batch = rho.ndim == 2 and rho.shape[1] == mesh.n_cells and len(rho) > 0
    hint = "; several densities (k, n_cells) at once are for FokkerPlanck only: take one at a time"
    ranks.check(
        rho.shape == (mesh.n_cells,) or is_batch and batch,
        f"{what} has shape {rho.shape}; {describe_wanted_shape(mesh, rho.shape)}"
        f"{hint if is_batch else ''}",
    )
    if batch:
        ranks.check_same(f"the number of densities in {what}", rho.shape[:-1])

    with ranks.raising_together():
        is_good = np.isfinite(rho) if signed else np.isfinite(rho) & (rho >= 0)
        bad = np.argwhere(~is_good)
        if len(bad):
            place = tuple(bad[0])
            *member, cell = place
            name = f"{what}[{member[0]}]" if member else what
            wanted = "finite" if signed else "finite and at least 0"
            raise InputError(
                f"{name} is {rho[place]} in cell {mesh.cell_id[cell]} (at {mesh.center[:, cell]}): "
                f"it must be {wanted} ({len(bad)} cells are not)"
            )


def check_cell_values(mesh: AnyMesh, u: Any) -> None:
    """`InputError` on every rank unless u is (..., n_cells) or one number, and (...) is the same on
    all ranks.
    """
    problem = _find_problem(mesh, u)
    shape = np.shape(u)[:-1] if problem is None else ()

    # This check is made often, and takes one message as long as all is well.
    code = zlib.crc32(repr(shape).encode())
    bad, most, minus_least = mesh.ranks.max(np.array([problem is not None, code, -code]))
    if bad or most != -minus_least:
        mesh.ranks.check(problem is None, problem)
        mesh.ranks.check_same("the shape of cell values, but for the last number,", shape)


def _find_problem(mesh, u):
    """Why u cannot be cell values: it is masked, or of a wrong shape; None if it can."""
    try:
        refuse_masked(u, "cell values must be numbers")
        shape = np.shape(u)
    except InputError as error:
        return str(error)
    except ValueError:
        return f"cell values must be an array of numbers, not {u!r:.60}"

    if shape and shape[-1] != mesh.n_cells:
        return (
            f"an array of shape {shape} does not hold cell values (..., n_cells): this rank has "
            f"{mesh.n_cells} cells; {describe_wanted_shape(mesh, shape)}"
        )
    return None


def describe_wanted_shape(mesh: AnyMesh, shape: tuple[int, ...]) -> str:
    """The shape that cell values must have, and what makes such arrays, for the error about values
    of another shape.
    """
    if shape[-1:] == (mesh.n_cells_global,) and mesh.n_cells < mesh.n_cells_global:
        return (
            f"these are the cells of the whole mesh, of which this rank has {mesh.n_cells}: "
            f"mesh.scatter(u) makes this rank's part, ({mesh.n_cells},)"
        )
    return (
        f"it needs one value for each of this rank's cells: ({mesh.n_cells},). mesh.density and "
        "mesh.scatter make such arrays"
    )
