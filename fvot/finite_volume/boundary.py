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
from ..arguments.types import Array, Coefficient, IntArray
from ..errors import InputError

if TYPE_CHECKING:
    from ..mesh import Mesh


@frozen
@dataclass(frozen=True)
class inflow:
    """Mass that enters has the given density; mass that leaves is free to do so.

    With the drift v.n < 0 at an inlet the total flux is v.n times the density, and so the density
    just inside may be another one: rho v.n - D d rho/dn = v.n density. This is Danckwerts' inlet,
    the condition of the third type of transport in porous media. (With `dirichlet`, the first type,
    what diffusion carries in comes on top.)

    Parameters
    ----------
    density
        A number >= 0 (any number for FokkerPlanck(signed=True)), f(x) or f(x, t).

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
        A number >= 0 (any number for FokkerPlanck(signed=True)), f(x) or f(x, t).

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

    What leaves is what the drift carries, and d rho/dn = 0: Danckwerts' outlet, the condition of
    zero gradient.

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


@frozen
@dataclass(frozen=True)
class robin:
    """A boundary that is crossed at a rate: what leaves is rate (rho - density) per area and time.

    The total flux, with what the drift carries, is rate times the difference between the density at
    the boundary and the one outside: a partially absorbing wall, a membrane, or transfer through a
    film. It lies between a wall (rate 0) and `dirichlet` (an infinite rate). The condition is that
    of Robin, or of the third kind. For `FokkerPlanck`.

    Parameters
    ----------
    rate
        A number >= 0, f(x) or f(x, t): a velocity, length per time.
    density
        The density outside: a number >= 0 (any number for FokkerPlanck(signed=True)), f(x) or
        f(x, t).

    Notes
    -----
    In the half of a cell at the boundary, with the two-point flux a rho_K - b rho_s of the cell's
    density and that at the boundary, the latter follows from the balance, and

        F = theta (a rho_K - b density),   theta = rate |s| / (b + rate |s|)

    which is exact where the flux is constant.

    Examples
    --------
    The first rate at which mass leaves [0, 1], whose right end absorbs at the rate 1, is D mu^2,
    mu tan mu = rate / D:

    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 100)
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0, boundary={"right": fvot.robin(1.0)})
    >>> round(float(equation.relaxation_rates(1)[0]), 3)
    0.74
    """

    rate: Coefficient
    density: Coefficient = 0.0


# The conditions that need the density at the boundary itself.
AT_FACES = (dirichlet, robin)


def evaluate_rates(mesh: Mesh, rate: Function, name: Any, t: float) -> Array:
    """The rate of `robin` at the faces of the part of that name, at least 0."""
    values = rate(mesh.face_center[:, mesh.boundary[name]], t)
    if (values < 0).any():
        raise InputError(
            f"the rate at boundary {name!r} is {values.min()}: it must be at least 0 (0 is a wall)"
        )
    return values


def evaluate_densities(
    mesh: Mesh, conditions: Sequence[tuple[str, Function]], t: float, signed: bool = False
) -> Array:
    """The densities of the conditions at the middle of each boundary face (n_faces - n_inner,); 0
    on walls. They are at least 0 unless they are signed. Collective.
    """
    values = np.zeros(mesh.n_faces)
    with mesh.ranks.raising_together():
        for name, density in conditions:
            faces = mesh.boundary[name]
            values[faces] = density(mesh.face_center[:, faces], t)
            if not signed:
                check_sign(values[faces], name)
    return values[mesh.n_inner :].copy()


def check_sign(density: Array, name: Any) -> None:
    """`InputError` unless the densities at the part of that name are at least 0."""
    if (density < 0).any():
        raise InputError(
            f"the density at boundary {name!r} is {density.min()}: it must be at least 0, but for "
            "FokkerPlanck(signed=True), which takes fields of any sign"
        )


def read_conditions(boundary: Any, mesh: Mesh, solver: str) -> list[tuple[str, Function]]:
    """[(name, density of the mass that enters)] of the parts that are no walls.

    solver : its name; `robin` is for "FokkerPlanck" only

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
                f"{names or 'none (it is periodic)'}{mesh.boundary.hint}"
            )
        if not isinstance(condition, (*AT_FACES, inflow, _Outflow)):
            raise InputError(
                f"boundary {name!r} must be fvot.inflow(density), fvot.dirichlet(density), "
                f"fvot.robin(rate) or fvot.outflow, not {condition!r}"
            )
        if isinstance(condition, robin) and solver != "FokkerPlanck":
            raise InputError(
                f"boundary {name!r} is fvot.robin, which is for FokkerPlanck: without diffusion "
                "what leaves is what the velocity carries. Take fvot.outflow, or growth below 0 in "
                "the cells at the boundary"
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


def number_open_parts(mesh: Any, conditions: Sequence[tuple[Any, Any]]) -> dict[Any, IntArray]:
    """{name: numbers among the boundary faces (n_faces - n_inner,)} of the parts in question."""
    number = np.arange(mesh.n_faces) - mesh.n_inner
    return {name: number[mesh.boundary[name]] for name, _ in conditions}


def name_crossed(entered: Array, left: Array, parts: Mapping[Any, IntArray]) -> dict[str, float]:
    """{name in the ledger: mass} of what entered and left through boundary faces (n_faces -
    n_inner,), in all and through each part.
    """
    crossed = dict(inflow=float(entered.sum()), outflow=float(left.sum()))
    for name, part in parts.items():
        crossed[f"inflow:{name}"] = float(entered[part].sum())
        crossed[f"outflow:{name}"] = float(left[part].sum())
    return crossed
