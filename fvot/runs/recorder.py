"""The recorded times of a run: the fields and numbers of each, and the run's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..arguments.types import Array, Path
from ..errors import InputError
from ..mesh.cell_values import integrate
from ..output.series import Writer, check_output
from .checkpoint import Checkpoint, CheckpointManager
from .progress import Progress
from .run import DerivedField, Run, RunWithVelocity, join_densities

if TYPE_CHECKING:
    from ..mesh.numbering import Numbering
    from ..output.series import Output


class Recorder:
    """A `Run` through the times t (n_times,), from its start or from its checkpoint: ``with
    Recorder(...)``. Collective.

    saved : (cells, values) of the run's state in the checkpoint, None at the start
    records : [the ledger's numbers at each recorded time so far]
    """

    def __init__(
        self,
        numbering: Numbering,
        t: Array,
        fields: Sequence[str],
        checkpoint: Checkpoint | None,
        describe: Callable[[], dict[str, Any]],
        *,
        derived: Mapping[str, DerivedField],
        write: Output | Path | None = None,
        progress: bool | None = None,
    ):
        """numbering : of all cell values that come; files and `series` have the user's
        fields : names of the run's fields
        describe() : the description of the run, see `CheckpointManager`
        derived : fields that follow from the others, see `RunWithDerivedFields`
        write : an `Output`, or its path
        """
        self.numbering = numbering
        self.t = t
        self.progress = progress
        self.derived = derived
        self.write = check_output(write, numbering.user_mesh.ranks, fields, derived)
        self.records: list[dict[str, Any]] = []
        self.saved: tuple[dict[str, Array], dict[str, Any]] | None = None
        # Velocities follow from the times: they are not kept.
        self.fields: dict[str, list[Array]] = {name: [] for name in fields if name != "velocity"}
        self.keeper = CheckpointManager(
            checkpoint, numbering.mesh, describe, partial(_check_times, self.t)
        )

    def __enter__(self):
        with ExitStack() as stack:
            stack.enter_context(self.keeper)
            if self.keeper.saved is not None:
                self._restore(*self.keeper.saved)

            self.writer = None
            if self.write is not None:
                self.writer = Writer(
                    self.write, self.numbering.user_mesh, self.t, len(self.records)
                )

            is_complete = all(len(series) == len(self.records) for series in self.fields.values())
            self.keeps_all = is_complete and (self.writer is None or self.writer.output.keep)
            if not self.keeps_all:  # the first and the last one
                for name, series in self.fields.items():
                    self.fields[name] = series[:1] + series[1:][-1:]

            self._bar = stack.enter_context(Progress(self.t[0], self.t[-1], self.progress))
            self._until_the_end = stack.pop_all()
        return self

    def __exit__(self, *failure):
        with self._until_the_end:
            if self.writer is None:
                return
            if failure[0] is None:
                self.writer.close()
            else:
                self.writer.give_up()

    def _restore(self, cells, values):
        """Take the records and the run's state from the checkpoint."""
        self.records = values["records"]
        self.fields = {name: list(cells.pop(f"recorded {name}")) for name in self.fields}
        self.saved = cells, values["state"]

    def intervals(self) -> Iterator[tuple[float, float]]:
        """The remaining intervals (begin, end) between recorded times."""
        first = len(self.records) - 1
        return zip(self.t[first:-1], self.t[first + 1 :], strict=True)

    def record(self, run: Run) -> None:
        """Record the run at the next one of the times."""
        i = len(self.records)
        values = self._take(run)
        if self.writer is not None and self.writer.is_due(i):
            fields = {name: self.numbering.outward(u) for name, u in values.items()}
            if self.writer.has("velocity") and "velocity" in run.fields:
                fields["velocity"] = cast(RunWithVelocity, run).velocity(self.t[[i]])[0]
            for name, compute in self.derived.items():
                if self.writer.names(name):
                    fields[name] = compute(self.t[i], fields)
            self.writer.add(self.t[i], fields)

    def stop(self, run: Run) -> None:
        """Record the last state of a run that has failed: for its result, not for files."""
        self.t = self.t[: len(self.records)]
        if run.now > self.t[-1]:
            self.t = np.append(self.t, run.now)
            self._take(run)

    def _take(self, run):
        """Keep the ledger's numbers and the fields; return the fields, {name: (n_cells,)}."""
        values = {name: run.field(name) for name in self.fields}
        self.records.append(self._summarise(join_densities(values)) | run.account())
        for name, series in self.fields.items():
            if not self.keeps_all and len(series) > 1:
                series.pop()
            series.append(values[name])
        return values

    def _summarise(self, rho):
        """The ledger's numbers that every density (n_cells,) has; of a batch (k, n_cells) (k,)."""
        mesh = self.numbering.mesh
        return dict(
            mass=integrate(mesh, rho),
            minimum=mesh.ranks.min(rho.min(axis=-1, initial=np.inf)),
            maximum=mesh.ranks.max(rho.max(axis=-1, initial=-np.inf)),
        )

    def after_step(self, now: float, run: Run) -> None:
        """Move the bar; write a checkpoint, if it is time."""
        self._bar.to(now)
        if self.keeper.is_due():
            self.keeper.keep(*self._save(run))

    def finish(self, run: Run) -> None:
        """Write the last checkpoint."""
        if self.keeper.is_on:
            self.keeper.write(*self._save(run))

    def _save(self, run):
        """(cells, values) of the run and its records."""
        cells, state = run.save()
        recorded = {f"recorded {name}": np.stack(series) for name, series in self.fields.items()}
        reached = self.t[: len(self.records) + 1]
        return cells | recorded, dict(state=state, records=self.records, t=reached)

    @property
    def kept_times(self) -> Array:
        """The times of `series`."""
        return self.t if self.keeps_all or len(self.t) == 1 else self.t[[0, -1]]

    def series(self, name: str) -> Array:
        """Cell values (n_times, n_cells) at the recorded times, in the user's order; of the first
        and the last one alone where the others are not kept.
        """
        return self.numbering.outward(np.stack(self.fields[name]))


def _check_times(t, path, values):
    """`InputError` unless the times begin with those of the checkpoint, which has these values."""
    n = len(values["records"])
    theirs = np.array(values["t"])
    if len(t) < n or (t[: len(theirs)] != theirs[: len(t)]).any():
        raise InputError(
            f"the checkpoint {path} has reached the times {theirs[:n]!s:.60} of a run to "
            f"{theirs[-1]:g}: t must begin with these times, and may add later ones; here it is "
            f"{t!s:.60}. With another path, or without that file, the run starts anew"
        )
