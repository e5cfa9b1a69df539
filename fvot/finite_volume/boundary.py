"""What happens at the boundary, by name: `boundary={"inlet": inflow(1.0), "outlet": outflow}`. What
isn't named is no-flux.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import as_function
from ..errors import InputError


@frozen
@dataclass(frozen=True)
class inflow:
    """What enters has the given density (a number, f(x) or f(x, t)); what leaves, leaves."""

    density: object


@frozen
@dataclass(frozen=True)
class dirichlet:
    """The density at the boundary is given (a number, f(x) or f(x, t)); 0 absorbs. For pure
    advection the same as `inflow`.
    """

    density: object


@frozen
@dataclass(frozen=True)
class _Outflow:
    """What leaves, leaves; nothing enters."""

    density: float = 0.0

    def __repr__(self):
        return "outflow"

    def __call__(self):
        """The same: `outflow()` is what one writes beside `inflow(1.0)`."""
        return self


outflow = _Outflow()


def densities(mesh, given, t):
    """The density that `conditions` give at each boundary face (n_faces - n_inner,), at its middle;
    0 on walls. Collective.
    """
    density = np.zeros(mesh.n_faces)
    with mesh.ranks.raising_together():
        for name, function_of_place in given:
            faces = mesh.boundary[name]
            density[faces] = function_of_place(mesh.face_center[:, faces], t)
            if (density[faces] < 0).any():
                raise InputError(
                    f"the density at boundary {name!r} is {density[faces].min()}: it must be at "
                    "least 0"
                )
    return density[mesh.n_inner :]


def conditions(boundary, mesh):
    """[(name, density of what enters, a `Function`)] of the parts that are no walls.

    Raises `InputError` for names that the mesh lacks, for what is no condition, and for two
    conditions on one face.
    """
    boundary = {} if boundary is None else boundary
    names = ", ".join(map(str, mesh.boundary))
    if not isinstance(boundary, Mapping):
        raise InputError(
            "boundary must be a dict {name: fvot.inflow(density) or fvot.outflow}, "
            f"not {boundary!r:.80}; the mesh has: {names or 'no boundary (it is periodic)'}"
        )
    found = []
    for name, condition in boundary.items():
        if name not in mesh.boundary:
            inside = (
                ", which is inside the mesh (mesh.interfaces)" if name in mesh.interfaces else ""
            )
            raise InputError(
                f"boundary has no part {name!r}{inside}; the mesh has: "
                f"{names or 'none (it is periodic)'}"
            )
        if not isinstance(condition, (inflow, dirichlet, _Outflow)):
            raise InputError(
                f"boundary {name!r} must be fvot.inflow(density), fvot.dirichlet(density) or "
                "fvot.outflow, "
                f"not {condition!r}"
            )
        found.append((name, as_function(condition.density, f"the density at boundary {name!r}")))
    check_apart(mesh, boundary)
    return found


def check_apart(mesh, names):
    """`InputError`, the same on every rank, if two of the names have a face in common."""
    owner = {}
    for name in names:
        for part in mesh.boundary.sets_of(name):
            if part in owner:
                raise InputError(
                    f"boundary {owner[part]!r} and boundary {name!r} have faces in common: give "
                    "something "
                    "for one of the two only, or make groups that do not overlap"
                )
            owner[part] = name
