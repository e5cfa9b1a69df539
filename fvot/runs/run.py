"""`Run`: what an equation gives to the loop over time (`march`) and to its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..arguments.types import Array

# A field that follows from the time and from recorded ones: (t, {name: cell values}) -> cell values
# (..., n_cells), all in the user's order. Collective.
DerivedField: TypeAlias = Callable[[float, Mapping[str, Array]], Array]


def name_densities(k: int) -> tuple[str, ...]:
    """The names of the densities of a batch. Fields that each of them has end in the same way."""
    return tuple(f"density_{i}" for i in range(k))


def join_densities(values: Mapping[str, Array]) -> Array:
    """The density (..., n_cells) among fields; of a batch the densities (..., k, n_cells)."""
    if "density" in values:
        return values["density"]
    names = [name for name in values if name.startswith("density_")]
    return np.stack([values[name] for name in names], axis=-2)


class Run(Protocol):
    """What an evolution gives to `march`: its state, and how it goes on.

    fields : names of the fields it has, "density" first; perhaps "velocity", "pressure"; of a batch
        those of `name_densities`
    now : the time it has come to
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def now(self) -> float: ...

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take the steps from `now` to *end*, and yield the time after each.

        begin : the recorded time before *end*; a run from a checkpoint may be past it

        Raises `ConvergenceError`, where no step succeeds, with the state of the last good one.
        """
        ...

    def field(self, name: str) -> Array:
        """Cell values (n_cells,) of a field now, in the order of the equation's own mesh."""
        ...

    def account(self) -> dict[str, Any]:
        """The ledger's numbers now, beside mass, minimum and maximum of the density: steps; inflow
        and outflow since the start, where the boundary is open. Of a batch lists (k,).
        """
        ...

    def save(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(cells, values) from which it goes on: arrays (..., n_cells) by name, and values that
        JSON can hold.
        """
        ...

    def restore(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Return to the state that `save` gave; other arrays in *cells* are ignored."""
        ...

    def describe(self) -> dict[str, Any]:
        """At the start: the description by which a checkpoint knows the problem, {name: text,
        number, or `fingerprint`}.
        """
        ...


class RunWithVelocity(Run, Protocol):
    """A run that has "velocity" among its fields."""

    def velocity(self, t: Array) -> Array:
        """(n_times, dim, n_cells) at the times t, in the user's order."""
        ...


class RunWithDerivedFields(Run, Protocol):
    """A run that can compute more fields than those that it always writes."""

    @property
    def derived(self) -> Mapping[str, DerivedField]:
        """{name: how it follows}: files and pictures have these where they are asked for."""
        ...


def find_derived(run: Run) -> Mapping[str, DerivedField]:
    """The derived fields of a run, if it has any."""
    return getattr(run, "derived", {})
