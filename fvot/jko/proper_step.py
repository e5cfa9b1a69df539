"""The JKO step itself, min over rho of W2^2(rho, old) / (2 tau) + E(rho), with a certified gap.

It is 1 / tau times min W2^2 / 2 + tau E: a path with a free end, for a transport solver that is
passed in. E(old) - E(rho) >= W2^2(rho, old) / (2 tau) up to the gap (Jordan, Kinderlehrer, Otto
1998).
"""

from __future__ import annotations

from typing import Any, Protocol

from ..arguments.types import Array
from ..energies.energy import Energy
from .step import StepResult


class TransportSolver(Protocol):
    """What finds a path of densities with a free end, such as a `BenamouBrenier`.

    mesh : its `Mesh`
    terminal : the energy of the free end, None where the end is fixed
    """

    mesh: Any
    terminal: Energy | None

    def with_terminal(self, energy: Energy) -> TransportSolver:
        """The same solver with that energy at the free end."""

    def terminal_energy(self, rho: Array) -> float:
        """The energy of rho (n_cells,), as the solver sees it."""

    def solve(self, rho0: Array, *, progress: bool | None = None) -> Any:
        """The path from rho0: its rho, cost, energy, gap and iterations."""


class ProperStep:
    """rho after a step from old, (n_cells,) each, for a transport solver and an energy. Collective.

    iterations : of the transport solver, on the mesh itself
    gap : the largest certified gap of a step so far
    """

    order = 1

    def __init__(self, transport: TransportSolver, energy: Energy):
        self.transport = transport
        self.energy = energy
        self._energy = transport.with_terminal(energy)
        self.restart()

    def restart(self) -> None:
        """Forget earlier steps."""
        self.iterations = 0
        self.gap = 0.0

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(iterations=self.iterations, gap=self.gap)

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.iterations = kept["iterations"]
        self.gap = kept["gap"]

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The `StepResult` of length tau. Raises `ConvergenceError`."""
        path = self.transport.with_terminal(tau * self.energy).solve(old, progress=False)
        self.iterations = self.iterations + path.iterations
        self.gap = max(self.gap, path.gap)
        dissipated = (path.cost - 2 * path.energy) / (2 * tau)
        return StepResult(path.rho[-1], dissipated, path.iterations)

    def parts(self, rho: Array) -> dict[str, float]:
        """{"energy": E(rho)}, as the transport solver sees it."""
        return {"energy": self._energy.terminal_energy(rho)}
