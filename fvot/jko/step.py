"""What a step of a gradient flow is, and what takes such steps."""

from typing import Any, NamedTuple, Protocol

from ..arguments.types import Array


class StepResult(NamedTuple):
    """The result of a step.

    rho (n_cells,) : the density after it
    dissipated : the energy that it has dissipated
    newton : its iterations
    pressure (n_cells,) : of an upper bound; None where there is none
    left (n,) : the mass that has left through each face of the `Doors`; None where there are none
    """

    rho: Array
    dissipated: float
    newton: int
    pressure: Array | None = None
    left: Array | None = None


class StepMethod(Protocol):
    """What takes the steps of a gradient flow.

    order : of the steps in time
    iterations : of all linear or transport solves so far
    """

    order: int

    @property
    def iterations(self) -> int: ...

    def restart(self) -> None:
        """Forget earlier steps."""

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The step of length tau from old (n_cells,). Raises `ConvergenceError`. Collective."""

    def parts(self, rho: Array) -> dict[str, float]:
        """{name: value} of the energy and its parts."""

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: what JSON can hold, and arrays by name in "cells"."""

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
