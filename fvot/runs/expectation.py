"""`Expectation`: the result of the backward equation at the recorded times."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from ..arguments.frozen import frozen
from ..arguments.types import Array
from .ledger import Ledger
from .result import Writable

if TYPE_CHECKING:
    from ..mesh import Mesh


@frozen
class Expectation(Writable):
    """What a function of the state at the last time is expected to be, seen from earlier times.

    The result of `FokkerPlanck.backward`. It can be written, drawn and probed as a `Result` can;
    its field is called "expectation".

    Attributes
    ----------
    mesh : Mesh
        The mesh that it lives on.
    t : array (n_times,)
        The recorded times, increasing: u[-1] is the function f itself.
    u : array (n_times, n_cells)
        u[i, K] is the expected value of f at time t[-1], for what is in cell K at time t[i].
    ledger : {name: array (n_times,)}
        Numbers at the times t: minimum and maximum of u; gained, what enters through the boundary
        and by sources from then on adds to sum |K| f rho at the end; steps, solves and iterations
        from the end back to that time.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).backward(mesh.center[0], [0, 1], tau=0.1)
    >>> result.u.shape
    (2, 10)
    """

    def __init__(self, mesh: Mesh, t: Array, u: Array, ledger: dict[str, Array]) -> None:
        self.mesh = mesh
        self.t = t
        self.u = u
        self.ledger = Ledger(ledger, t)

    @property
    def _present(self):
        return {"expectation": self.u}

    @property
    def _recorded(self):
        return self.u

    def _repr_html_(self):
        """What notebooks show."""
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.ledger._repr_html_()}"

    def __repr__(self):
        low = self.ledger["minimum"][0]
        high = self.ledger["maximum"][0]
        return (
            f"<fvot.Expectation: {len(self.t)} times from {self.t[0]:.6g} to {self.t[-1]:.6g}, "
            f"{self.mesh.n_cells_global} cells, values {low:.6g} to {high:.6g} at the first>"
        )
