"""`Output`: which fields go to a file for ParaView, at which times, while a solver runs or when it
is done.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arguments.frozen import frozen
from .pvd import Series, rounded
from .vtkhdf import HdfSeries

FIELDS = "density", "velocity", "pressure"


@frozen
@dataclass(frozen=True)
class Output:
    """A series for ParaView that is written while a solver runs: `solve(...,
    write=fvot.Output("x.vtkhdf", every=10))`.

    path : .pvd, a file for each time and rank; or .vtkhdf, one file, with the mesh once (for
        ParaView from 5.13 on)
    every : which of the recorded times: each, each second one, ...; the first and the last one
        always
    fields : some of "density", "velocity" and "pressure"; None: all that there are
    single : points and fields in single precision, half the place; times, and numbers of cells and
        ranks, as they are
    keep : whether the result has the densities at all recorded times, too; False: of the first and
        the last one alone, so that long series need not fit in memory. A run that has gone on so
        goes on so from its checkpoint
    """

    path: str | Path
    every: int = 1
    fields: tuple | None = None
    single: bool = False
    keep: bool = True


class Writer:
    """An `Output` under way, of a run with these numbers of times; done: recorded times that are in
    it already. Collective.
    """

    def __init__(self, output, mesh, n_times, done=0):
        self.output = output
        self.mesh = mesh
        self.n_times = n_times
        kind = HdfSeries if str(self.output.path).endswith(".vtkhdf") else Series
        self.series = kind(
            self.output.path, mesh, sum(self.is_due(i) for i in range(done)), self.output.single
        )

    def is_due(self, i):
        """Whether recorded time number i is written."""
        return i % self.output.every == 0 or i == self.n_times - 1

    def has(self, name):
        """Whether a field is written, where there is one."""
        return self.output.fields is None or name in self.output.fields

    def add(self, time, fields):
        """The next time that is due, with fields {name: cell values}."""
        values = {name: np.asarray(u) for name, u in fields.items() if self.has(name)}
        if self.output.single:
            with self.mesh.ranks.raising_together():
                values = {name: rounded(name, u) for name, u in values.items()}
        self.series.add(time, values)

    def close(self):
        """Nothing more will come."""
        self.series.close()

    def give_up(self):
        """The run has failed: let go of the file, which is whole up to the last time. On this rank
        alone.
        """
        self.series.give_up()


def write_all(output, mesh, t, fields):
    """Write fields {name: (n_times, ..., n_cells)} at the times t."""
    writer = Writer(checked(output, mesh.ranks, fields), mesh, len(t))
    for i, time in enumerate(t):
        if writer.is_due(i):
            writer.add(time, {name: values[i] for name, values in fields.items()})
    writer.close()


def checked(output, ranks, has):
    """The `Output`, which may be given by its path, of a run that has these fields; None stays
    None. Collective.
    """
    ranks.check_same(
        "write",
        output if output is None or isinstance(output, (Output, str, Path)) else type(output),
    )
    if output is None:
        return None
    output = output if isinstance(output, Output) else Output(output)
    path = output.path
    fields = output.fields
    ranks.check(
        isinstance(path, (str, Path)) and Path(path).suffix in (".pvd", ".vtkhdf"),
        f"this is written to a .pvd file, or a .vtkhdf file, not to {path!r:.80}",
    )
    ranks.check(
        isinstance(output.every, (int, np.integer))
        and not isinstance(output.every, bool)
        and output.every >= 1,
        f"every must be a whole number of recorded times from 1 on, not {output.every!r}",
    )
    some = (
        isinstance(fields, (list, tuple, set))
        and len(fields) > 0
        and all(name in FIELDS for name in fields)
    )
    ranks.check(
        fields is None or some, f"fields must be some of {', '.join(FIELDS)}, not {fields!r:.60}"
    )
    missing = [name for name in fields or () if name not in has]
    ranks.check(
        not missing, f"this run has no {' and no '.join(missing)} to write, but {' and '.join(has)}"
    )
    for name in ("single", "keep"):
        value = getattr(output, name)
        ranks.check(
            isinstance(value, (bool, np.bool_)), f"{name} must be True or False, not {value!r:.60}"
        )
    return output
