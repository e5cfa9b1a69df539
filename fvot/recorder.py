"""The recorded times of a run: what there is of each, and the checkpoint in which it is kept."""
from contextlib import ExitStack
from functools import partial

import numpy as np

from .checkpoint import Keeper
from .errors import InputError
from .output import Writer, checked
from .parallel import Progress


class Recorder:
    """A run through the times t (n_times,), from its start or from where a checkpoint has come to: ``with Recorder(...)``.

    saved : (cells, values) of the solver's state in the checkpoint, None at the start
    records : [the ledger's numbers at each recorded time so far]
    """

    def __init__(self, near, t, checkpoint, problem, *, has=("density",), write=None, progress=None):
        """near : the `Numbering` of all cell values that come; files and `series` have the user's. problem() : what the run
        is, see `Keeper`; has : names of its fields; write : an `Output`, or its path.
        """
        self.near, self.t, self.progress = near, t, progress
        self.write = checked(write, near.users.ranks, has)
        self.records, self.fields, self.saved = [], {}, None
        self.keeper = Keeper(checkpoint, near.mesh, problem, partial(_check_times, self.t))

    def __enter__(self):
        with ExitStack() as stack:
            stack.enter_context(self.keeper)
            if self.keeper.saved is not None:
                self._go_on(*self.keeper.saved)
            self.writer = None if self.write is None else Writer(self.write, self.near.users, len(self.t),
                                                                  len(self.records))
            complete = all(len(series) == len(self.records) for series in self.fields.values())
            self.keeps_all = complete and (self.writer is None or self.writer.output.keep)
            if not self.keeps_all:
                self.fields = {name: series[:1] + series[1:][-1:] for name, series in self.fields.items()}
            self._bar = stack.enter_context(Progress(self.t[0], self.t[-1], self.progress))
            self._until_the_end = stack.pop_all()
        return self

    def __exit__(self, *failure):
        with self._until_the_end:
            if self.writer is not None:
                self.writer.close() if failure[0] is None else self.writer.give_up()

    def _go_on(self, cells, values):
        """Take what is recorded, and the solver's state."""
        self.records = values["records"]
        self.fields = {name: list(cells.pop(f"recorded {name}")) for name in values["recorded"]}
        self.saved = cells, values["state"]

    def intervals(self):
        """(begin, end) between recorded times, those that are left."""
        first = max(len(self.records) - 1, 0)
        return zip(self.t[first:-1], self.t[first + 1:], strict=True)

    def record(self, record, /, *, velocity=None, **fields):
        """Take the ledger's numbers, and cell values (n_cells,), at the next one of the times.

        velocity() : (dim, n_cells) in the user's order, for files alone
        """
        i = len(self.records)
        self._take(record, fields)
        if self.writer is not None:
            written = {name: lambda u=u: self.near.outward(u) for name, u in fields.items()}
            self.writer.add(i, self.t[i], written | ({} if velocity is None else dict(velocity=velocity)))

    def stop_at(self, now, record, /, **fields):
        """Take the last ones, where a run cannot go on from the time *now*: for its result, not for files."""
        self.t = self.t[:len(self.records)]
        if now > self.t[-1]:
            self.t = np.append(self.t, now)
            self._take(record, fields)

    def _take(self, record, fields):
        self.records.append(record)
        for name, values in fields.items():
            series = self.fields.setdefault(name, [])
            if not self.keeps_all and len(series) > 1:
                series.pop()
            series.append(values)

    def after_step(self, now, kept):
        """Move the bar; write a checkpoint, if it is time. kept() : (cells, values), the solver's state."""
        self._bar.to(now)
        self.keeper.after_step(lambda: self._kept(kept))

    def at_end(self, kept):
        """Write the last checkpoint."""
        self.keeper.at_end(lambda: self._kept(kept))

    def _kept(self, kept):
        cells, values = kept()
        recorded = {f"recorded {name}": np.stack(values) for name, values in self.fields.items()}
        return cells | recorded, dict(state=values, records=self.records, recorded=list(self.fields),
                                      t=self.t[:len(self.records) + 1])

    @property
    def kept_t(self):
        """The times of `series`."""
        return self.t if self.keeps_all or len(self.t) == 1 else self.t[[0, -1]]

    def series(self, name):
        """Cell values (n_times, n_cells) at the recorded times, or the first and the last one, if others need not be kept.

        They are in the user's order.
        """
        return self.near.outward(np.stack(self.fields[name]))


def _check_times(t, path, values):
    """`InputError` unless the times begin as those of the checkpoint, which has these values."""
    n, theirs = len(values["records"]), np.array(values["t"])
    if len(t) < n or (t[:len(theirs)] != theirs[:len(t)]).any():
        raise InputError(f"the checkpoint {path} has been at times {theirs[:n]!s:.60}, on its way to {theirs[-1]:g}: t must "
                         f"begin so, and may go on longer; here it is {t!s:.60}. With another path, or without that file, "
                         "the run starts anew")
