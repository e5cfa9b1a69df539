"""The one loop over time: every evolution goes through its recorded times here.

An equation's `solve` checks its arguments and makes a `Run`, which holds the state and takes the
steps. `march` carries it through the times: from the start, or from where a checkpoint has come to,
with a record at each of the times, output for ParaView on the way, a progress bar, and a result
also of a run that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..arguments.types import Array, Path
from ..errors import ConvergenceError
from .checkpoint import Checkpoint
from .recorder import Recorder
from .result import DerivedSeries, Result, build_ledger
from .run import Run, RunWithVelocity, find_derived, join_densities

if TYPE_CHECKING:
    from ..mesh.numbering import Numbering
    from ..output.series import Output


def march(
    run: Run,
    numbering: Numbering,
    t: Array,
    *,
    checkpoint: Checkpoint | None = None,
    write: Output | Path | None = None,
    progress: bool | None = None,
) -> Result:
    """Carry a `Run` through the times t (n_times,), and return its `Result`. Collective.

    numbering : the `Numbering` of its cells
    checkpoint, write, progress : as in `solve`

    Raises `ConvergenceError` as the run does, with the `Result` so far in `.result`: the recorded
    times, and the last one.
    """
    recorder = Recorder(
        numbering,
        t,
        run.fields,
        checkpoint,
        run.describe,
        derived=find_derived(run),
        write=write,
        progress=progress,
    )
    with recorder:
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
            error.result = _make_result(run, numbering, recorder)
            raise

        recorder.finish(run)
    return _make_result(run, numbering, recorder)


def _make_result(run, numbering, recorder):
    t = recorder.kept_times
    recorded = {name: recorder.series(name) for name in recorder.fields}
    return Result(
        mesh=numbering.user_mesh,
        t=t,
        rho=join_densities(recorded),
        ledger=build_ledger(recorder.records, recorder.t),
        velocity=cast(RunWithVelocity, run).velocity(t) if "velocity" in run.fields else None,
        pressure=recorded.get("pressure"),
        derived={
            name: DerivedSeries(compute, t, recorded) for name, compute in find_derived(run).items()
        },
    )
