"""Conditions at named parts of the boundary: `boundary={"inlet": inflow(1.0), "outlet": outflow}`.
The parts without a name in the dict are no-flux walls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import Function, as_function
from ..arguments.types import Array, Coefficient
from ..errors import InputError

if TYPE_CHECKING:
    from ..mesh import Mesh


@frozen
@dataclass(frozen=True)
class inflow:
    """Mass that enters has the given density; mass that leaves is free to do so.

    Parameters
    ----------
    density
        A number >= 0, f(x) or f(x, t).

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> equation = fvot.ContinuityEquation(
    ...     mesh, [1.0], boundary={"left": fvot.inflow(2.0), "right": fvot.outflow}
    ... )
    """

    density: Coefficient


@frozen
@dataclass(frozen=True)
class dirichlet:
    """The density at the boundary is given; 0 absorbs. For pure advection the same as `inflow`.

    Parameters
    ----------
    density
        A number >= 0, f(x) or f(x, t).

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> equation = fvot.FokkerPlanck(
    ...     mesh, diffusion=1.0, boundary={"left": fvot.dirichlet(0.0)}
    ... )
    """

    density: Coefficient


@frozen
@dataclass(frozen=True)
class _Outflow:
    """Mass is free to leave; none enters.

    Examples
    --------
    >>> import fvot
    >>> fvot.outflow
    outflow
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> equation = fvot.ContinuityEquation(
    ...     mesh, [1.0], boundary={"left": fvot.inflow(0.0), "right": fvot.outflow}
    ... )
    """

    density: float = 0.0

    def __repr__(self):
        return "outflow"

    def __call__(self):
        """The same: one may write `outflow()` beside `inflow(1.0)`."""
        return self


outflow = _Outflow()


def evaluate_densities(mesh: Mesh, conditions: Sequence[tuple[str, Function]], t: float) -> Array:
    """The densities of the conditions at the middle of each boundary face (n_faces - n_inner,); 0
    on walls. Collective.
    """
    values = np.zeros(mesh.n_faces)
    with mesh.ranks.raising_together():
        for name, density in conditions:
            faces = mesh.boundary[name]
            values[faces] = density(mesh.face_center[:, faces], t)
            if (values[faces] < 0).any():
                raise InputError(
                    f"the density at boundary {name!r} is {values[faces].min()}: it must be at "
                    "least 0"
                )
    return values[mesh.n_inner :]


def read_conditions(boundary: Any, mesh: Mesh) -> list[tuple[str, Function]]:
    """[(name, density of the mass that enters)] of the parts that are no walls.

    Raises `InputError` for names that the mesh does not have, for values that are no conditions,
    and for two conditions on one face.
    """
    boundary = {} if boundary is None else boundary
    names = ", ".join(map(str, mesh.boundary))
    if not isinstance(boundary, Mapping):
        raise InputError(
            "boundary must be a dict {name: fvot.inflow(density) or fvot.outflow}, "
            f"not {boundary!r:.80}; the mesh has: {names or 'no boundary (it is periodic)'}"
        )

    conditions = []
    for name, condition in boundary.items():
        if name not in mesh.boundary:
            is_inside = name in mesh.interfaces
            place = ", which is inside the mesh (mesh.interfaces)" if is_inside else ""
            raise InputError(
                f"boundary has no part {name!r}{place}; the mesh has: "
                f"{names or 'none (it is periodic)'}"
            )
        if not isinstance(condition, (inflow, dirichlet, _Outflow)):
            raise InputError(
                f"boundary {name!r} must be fvot.inflow(density), fvot.dirichlet(density) or "
                f"fvot.outflow, not {condition!r}"
            )
        density = as_function(condition.density, f"the density at boundary {name!r}")
        conditions.append((name, density))
    check_disjoint(mesh, boundary)
    return conditions


def check_disjoint(mesh: Mesh, names: Iterable[str]) -> None:
    """`InputError`, the same on every rank, if two of the names have a face in common."""
    owner: dict[Any, str] = {}
    for name in names:
        for part in mesh.boundary.sets_of(name):
            if part in owner:
                raise InputError(
                    f"boundary {owner[part]!r} and boundary {name!r} have faces in common: give a "
                    "value for one of the two only, or make groups that do not overlap"
                )
            owner[part] = name
