"""Which explicit scheme a flux asks for, and what all of them give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..arguments.types import Array
from ..errors import InputError
from ..finite_volume.fluxes import muscl
from ..finite_volume.muscl import LimitedFaces
from .muscl_cartesian import Sweeps
from .two_point import TwoPointScheme


class ExplicitScheme(Protocol):
    """An explicit step of the continuity equation.

    cfl : the fraction of the positivity bound that a step takes by default
    convex : whether the rate is a convex function of U
    """

    cfl: float
    convex: bool

    def rate(self, U: Array) -> float:
        """The largest rate at which the fluxes U (n_faces,) empty one of this rank's cells.

        Steps with tau rate <= 1 are positive. Collective.
        """

    def start(self, rho: Array) -> None:
        """Begin a run with the density rho (n_cells,)."""

    def prepare(self, U: Array, tau: float, velocity: Callable[[], Array]) -> None:
        """Prepare for steps tau with the fluxes U (n_faces,).

        velocity() : the velocity (dim, n_faces) at the faces, for those that need it
        """

    def step(self, rho: Array, entering: Array, count: int) -> tuple[Array, Array]:
        """The new rho (n_cells,), and what left through each boundary face (n_faces - n_inner,).

        entering (n_faces - n_inner,) : the density of what enters there
        count : the number of the step
        """


def build_scheme(mesh: Any, flux: Any) -> ExplicitScheme:
    """The scheme for a flux on a mesh; `InputError` for a flux that is none."""
    if isinstance(flux, muscl):
        # The sweeps take all cells, and all faces across an axis, to be of one size.
        is_uniform = mesh.block is not None and mesh.coordinates == "cartesian"
        return Sweeps(mesh, flux.sharp) if is_uniform else LimitedFaces(mesh, flux.sharp)
    if not callable(flux):
        raise InputError(
            f"flux must be fvot.muscl(), fvot.upwind, or a function (U, k) -> (a, b), not {flux!r}"
        )
    return TwoPointScheme(mesh, flux)
