"""The one loop over time: every evolution goes through its recorded times here.

An equation's `solve` checks what it was given, makes a `Run`, its own state and steps, and lets
`march` carry it: from the start, or from where a checkpoint has come to, with a record at each of
the times, a file for ParaView on the way, a bar, and a result also of what fails.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..errors import ConvergenceError
from .recorder import Recorder, ledger_of
from .result import Result


class Run(Protocol):
    """What an evolution gives to `march`: where it is, and how it goes on.

    fields : names of the fields it has, "density" first; perhaps "velocity", "pressure"
    now : the time it has come to
    """

    fields: tuple[str, ...]
    now: float

    def advance(self, begin: float, end: float) -> Iterator[float]:
        """Take the steps from where it is to *end*, and yield the time after each.

        begin : the recorded time before *end*; a run from a checkpoint may be past it. Raises
        `ConvergenceError`, where no step will do, with the state as it was after the last good one
        """

    def field(self, name: str) -> np.ndarray:
        """Cell values (n_cells,) of a field now, in the order of the equation's own mesh."""

    def velocity(self, t: np.ndarray) -> np.ndarray:
        """(n_times, dim, n_cells) at the times t, in the user's order; asked of runs that have the
        field.
        """

    def account(self) -> dict[str, float]:
        """The ledger's numbers now: mass, minimum, maximum, steps; inflow and outflow since the
        start, where there are any.
        """

    def save(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(cells, values) from which it goes on: arrays (..., n_cells) by name, and what JSON can
        hold.
        """

    def restore(self, cells: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Be what `save` gave; other arrays in *cells* are none of its business."""

    def describe(self) -> dict[str, Any]:
        """At the start: what a checkpoint knows the problem by, {name: text, number, or
        `fingerprint`}.
        """


def march(run, near, t, *, checkpoint=None, write=None, progress=None):
    """Carry a `Run` through the times t (n_times,), and return its `Result`. Collective.

    near : the `Numbering` of its cells
    checkpoint, write, progress : as in `solve`

    Raises `ConvergenceError` as the run does, with what it has reached in `.result`: the recorded
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
            error.result = _result(run, near, recorder)
            raise

        recorder.finish(run)
    return _result(run, near, recorder)


def _result(run, near, recorder):
    t = recorder.kept_t
    velocity = run.velocity(t) if "velocity" in run.fields else None
    pressure = recorder.series("pressure") if "pressure" in run.fields else None
    return Result(
        near.users, t, recorder.series("density"), ledger_of(recorder.records), velocity, pressure
    )
