"""The fields of a Fokker-Planck equation as a user gives them: numbers, functions, values of cells,
diagonals and tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.diffusion import as_diffusion_function, as_tensors, find_faulty_tensor
from ..arguments.frozen import frozen
from ..arguments.functions import as_floats, as_function
from ..arguments.types import Array, PointFunction, TimeFunction
from ..errors import InputError
from ..finite_volume.cell_fields import Field, build_cell_field


@frozen
@dataclass(frozen=True)
class cell_mean:
    """V_K = -D log(mean of e^(-V/D) over K), by which cell means of the Gibbs density are exact.

    Parameters
    ----------
    V : function
        The potential, a function of x or (x, t).

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> V = fvot.cell_mean(lambda x: 20 * x[0] ** 2)
    >>> rho = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=V).stationary()
    """

    V: PointFunction | TimeFunction


def build_field(numbering: Any, coefficient: Any, what: str) -> Field:
    """The `Field` of a user's scalar coefficient; *what* names it in errors."""
    if isinstance(coefficient, cell_mean):
        if what != "potential":
            raise InputError(f"fvot.cell_mean is for the potential, not for the {what}")
        return Field(f=as_function(coefficient.V, what), mean=True)
    others = _describe_tensors(numbering.user_mesh, what)
    return build_cell_field(numbering, coefficient, what, others)


def find_shape(coefficient: Any) -> tuple[int, ...] | None:
    """The shape of a coefficient that is numbers; None for a function. `InputError` for anything
    else.
    """
    if callable(coefficient) or isinstance(coefficient, cell_mean):
        return None
    wanted = "diffusion must be a finite number, cell values, a diagonal, a tensor, or a function"
    return as_floats(coefficient, wanted).shape


def build_diffusion(numbering: Any, coefficient: Any, is_diagonal: bool) -> Field:
    """The `Field` of a diffusion: a scalar one, or the tensors of diagonals and tensors.

    is_diagonal : whether a list of dim numbers is a diagonal, and not cell values
    """
    mesh = numbering.user_mesh
    dim = mesh.dim
    what = "diffusion"
    if isinstance(coefficient, cell_mean):
        raise InputError(f"fvot.cell_mean is for the potential, not for the {what}")
    if callable(coefficient):
        f = as_diffusion_function(coefficient, what, mesh.centroid)
        return Field(f=f)

    shape = find_shape(coefficient)
    if shape == (dim,) and is_diagonal or shape in ((dim, dim), (dim, dim, mesh.n_cells)):
        values = as_floats(coefficient, "diffusion must be numbers")
        if not np.isfinite(values).all():
            raise InputError(f"diffusion must be finite numbers, not {coefficient!r:.60}")
        if values.ndim < 3:
            values = np.broadcast_to(values[..., None], (*shape, mesh.n_cells))
        return Field(value=numbering.inward(as_tensors(values, dim)))
    return build_field(numbering, coefficient, what)


def check_tensors(numbering: Any, D: Array, points: Array) -> None:
    """`InputError` unless D (dim, dim, n_cells) are symmetric and positive semidefinite."""
    fault = find_faulty_tensor(D)
    if fault is not None:
        cell, problem = fault
        place = f"in cell {numbering.mesh.cell_id[cell]} (at {points[:, cell]})"
        raise InputError(
            f"diffusion is {problem}, {place}: it must be symmetric and positive "
            "semidefinite; (D + D.T) / 2 is symmetric, and "
            "numpy.linalg.eigh finds eigenvalues to raise"
        )
    if not np.trace(D).min(initial=np.inf) > 0:
        cell = int(np.trace(D).argmin())
        place = f"in cell {numbering.mesh.cell_id[cell]} (at {points[:, cell]})"
        raise InputError(
            f"diffusion is 0 {place}: it must be above 0 in some direction; for flow "
            "without diffusion use fvot.ContinuityEquation"
        )


def _describe_tensors(mesh, what):
    """What else a diffusion may be."""
    if what != "diffusion":
        return ""
    dim = mesh.dim
    return f", a diagonal ({dim},), a tensor ({dim}, {dim}) or ({dim}, {dim}, {mesh.n_cells})"
