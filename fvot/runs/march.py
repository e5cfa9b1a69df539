"""The one loop over time: every evolution goes through its recorded times here.

An equation's `solve` checks its arguments and makes a `Run`, which holds the state and takes the
steps. `march` carries it through the times: from the start, or from where a checkpoint has come to,
with a record at each of the times, output for ParaView on the way, a progress bar, and a result
also of a run that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..arguments.types import Array
from ..errors import ConvergenceError
from .checkpoint import Checkpoint
from .recorder import Recorder, build_ledger
from .result import Result

if TYPE_CHECKING:
    from ..mesh.numbering import Numbering
    from ..output.series import Output


class Run(Protocol):
    """What an evolution gives to `march`: its state, and how it goes on.

    fields : names of the fields it has, "density" first; perhaps "velocity", "pressure"
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

    def velocity(self, t: Array) -> Array:
        """(n_times, dim, n_cells) at the times t, in the user's order; asked of runs that have the
        field.
        """
        ...

    def account(self) -> dict[str, float]:
        """The ledger's numbers now: mass, minimum, maximum, steps; inflow and outflow since the
        start, where the boundary is open.
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


def march(
    run: Run,
    near: Numbering,
    t: Array,
    *,
    checkpoint: Checkpoint | None = None,
    write: Output | str | None = None,
    progress: bool | None = None,
) -> Result:
    """Carry a `Run` through the times t (n_times,), and return its `Result`. Collective.

    near : the `Numbering` of its cells
    checkpoint, write, progress : as in `solve`

    Raises `ConvergenceError` as the run does, with the `Result` so far in `.result`: the recorded
    times, and the last one.
    """
    problem = None if checkpoint is None else run.describe()
    with Recorder(
        near, t, run.fields, checkpoint, problem, write=write, progress=progress
    ) as recorder:
        if recorder.saved is None:
            recorder.record(run)
        else:
            run.restore(*recorder.saved)

        try:
            for begin, end in recorder.intervals():
                for now in run.advance(begin, end):
                    recorder.after_step(now, run)
                recorder.record(run)
        except ConvergenceError as error:
            recorder.stop(run)
            error.result = _make_result(run, near, recorder)
            raise

        recorder.finish(run)
    return _make_result(run, near, recorder)


def _make_result(run, near, recorder):
    t = recorder.kept_times
    return Result(
        mesh=near.users,
        t=t,
        rho=recorder.series("density"),
        ledger=build_ledger(recorder.records),
        velocity=run.velocity(t) if "velocity" in run.fields else None,
        pressure=recorder.series("pressure") if "pressure" in run.fields else None,
    )
