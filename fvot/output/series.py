"""`Output`: which fields go to a file for ParaView, and at which times.

A series is written during a run, or after it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_integer
from ..arguments.types import Array, Path
from .pvd import Series, round_to_single
from .vtkhdf import HdfSeries

if TYPE_CHECKING:
    from ..parallel import Ranks

FIELD_NAMES = ("density", "velocity", "pressure")


# The class that writes a series, by the suffix of its path.
FORMATS: dict[str, Any] = {".pvd": Series, ".vtkhdf": HdfSeries}


@frozen
@dataclass(frozen=True)
class Output:
    """A series for ParaView that is written while a solver runs.

    Parameters
    ----------
    path : str or pathlib.Path
        Ends with .pvd, for one file per time and rank, or with .vtkhdf, for one file with the mesh
        once (ParaView 5.13 or later).
    every : int
        Write each of the recorded times (1), each second one (2), ...; the first and the last one
        are always written.
    fields : tuple of str, optional
        Some of "density", "velocity" and "pressure". None: all that the run has.
    single : bool
        Points and fields in single precision, which takes half the space. Times and the numbers of
        cells and ranks keep their precision.
    keep : bool
        Whether the result, too, has the densities at all recorded times. False: at the first and
        the last one alone, so that long series need not fit in memory. A run continued from its
        checkpoint keeps to this.

    Raises
    ------
    InputError
        In `solve`, on every rank: for a path that ends with neither, or cannot be written; for an
        *every* below 1; and for fields that the run does not have.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 8)
    >>> path = os.path.join(tempfile.mkdtemp(), "x.vtkhdf")
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1)
    >>> result = equation.solve(
    ...     np.ones(mesh.n_cells), np.linspace(0, 1, 5), write=fvot.Output(path, every=2)
    ... )
    >>> os.path.exists(path)
    True
    """

    path: str | PathLike[str]
    every: int = 1
    fields: tuple[str, ...] | None = None
    single: bool = False
    keep: bool = True


class Writer:
    """Writes an `Output` of a run with *n_times* recorded times. Collective.

    done : how many of the recorded times are in the file already
    """

    def __init__(self, output: Output, mesh: Any, n_times: int, done: int = 0) -> None:
        self.output = output
        self.mesh = mesh
        self.n_times = n_times
        n_written = sum(self.is_due(i) for i in range(done))
        series = FORMATS[FilePath(output.path).suffix]
        self.series = series(output.path, mesh, n_written, output.single)

    def is_due(self, i: int) -> bool:
        """Whether recorded time number i is written."""
        return i % self.output.every == 0 or i == self.n_times - 1

    def has(self, name: str) -> bool:
        """Whether a field is written if the run has it."""
        return self.output.fields is None or name in self.output.fields

    def add(self, time: float, fields: dict[str, Any]) -> None:
        """Write the next time that is due, with fields {name: cell values}."""
        values = {name: np.asarray(u) for name, u in fields.items() if self.has(name)}
        if self.output.single:
            with self.mesh.ranks.raising_together():
                values = {name: round_to_single(name, u) for name, u in values.items()}
        self.series.add(time, values)

    def close(self) -> None:
        """End the series."""
        self.series.close()

    def give_up(self) -> None:
        """Leave the file, complete up to the last time, after a failure. On this rank alone."""
        self.series.give_up()


def write_all(
    output: Output | str | FilePath, mesh: Any, t: Array, fields: dict[str, Array]
) -> None:
    """Write fields {name: (n_times, ..., n_cells)} at the times t."""
    writer = Writer(check_output(output, mesh.ranks, fields), mesh, len(t))
    for i, time in enumerate(t):
        if writer.is_due(i):
            writer.add(time, {name: values[i] for name, values in fields.items()})
    writer.close()


def check_output(output: Output | Path | None, ranks: Ranks, run_fields: Collection[str]) -> Any:
    """The `Output`, which may be given by its path, of a run that has these fields. Collective.

    None stays None.
    """
    is_known = output is None or isinstance(output, (Output, str, FilePath))
    ranks.check_same("write", output if is_known else type(output))
    if output is None:
        return None
    output = output if isinstance(output, Output) else Output(output)

    path = output.path
    ranks.check(
        isinstance(path, (str, FilePath)) and FilePath(path).suffix in FORMATS,
        f"this is written to a {' file, or a '.join(FORMATS)} file, not to {path!r:.80}",
    )
    every = output.every
    ranks.check(
        is_integer(every) and every >= 1,
        f"every must be a whole number of recorded times from 1 on, not {every!r}",
    )
    _check_fields(output.fields, ranks, run_fields)
    for name in ("single", "keep"):
        value = getattr(output, name)
        ranks.check(
            isinstance(value, (bool, np.bool_)), f"{name} must be True or False, not {value!r:.60}"
        )
    return output


def _check_fields(fields, ranks, run_fields):
    if fields is None:
        return
    is_collection = isinstance(fields, (list, tuple, set)) and len(fields) > 0
    ranks.check(
        is_collection and all(name in FIELD_NAMES for name in fields),
        f"fields must be some of {', '.join(FIELD_NAMES)}, not {fields!r:.60}",
    )
    missing = [name for name in fields if name not in run_fields]
    ranks.check(
        not missing,
        f"this run has no {' and no '.join(missing)} to write, but {' and '.join(run_fields)}",
    )
