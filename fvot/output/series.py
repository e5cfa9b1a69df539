"""`Output`: which fields go to a file for ParaView, and at which times.

A series is written during a run, or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import as_function, call_function, is_integer, refuse_masked
from ..arguments.types import Array, Coefficient, Path
from ..errors import InputError
from .pvd import Series, as_field_rows, round_to_single
from .vtkhdf import HdfSeries

if TYPE_CHECKING:
    from ..parallel import Ranks

# What is written: names of fields, and fields of one's own by their names.
Fields: TypeAlias = Sequence[str | Mapping[str, Coefficient]]

# Names that files have for themselves.
NAMES_OF_FILES = "cell", "rank"

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
    fields : list, optional
        Names of fields: "density"; "velocity" and "current", which is density times velocity;
        "pressure" of a `JKO` with an upper bound; "potential", "diffusion" and "drift" of equations
        that have them; of a batch of densities "density_0", "current_0", ... And dicts of fields of
        your own, ``{"depth": values}``: cell values (n_cells,) or (dim, n_cells), or a function of
        x or (x, t), taken at the centroids. None: density, pressure, and the velocity of a
        `ContinuityEquation`.
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
        In `solve`, before the run and on every rank: for a path that ends with neither, or cannot
        be written; for an *every* below 1; and for fields that the run does not have.

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

    The current and a field of one's own, beside the density:

    >>> fields = ["density", "current", {"distance": lambda x: abs(x[0] - 0.5)}]
    >>> result.write(path, fields=fields)
    """

    path: str | PathLike[str]
    every: int = 1
    fields: Fields | None = None
    single: bool = False
    keep: bool = True


class Writer:
    """Writes an `Output` of a run with recorded times t. Collective.

    done : how many of the recorded times are in the file already
    """

    def __init__(self, output: Output, mesh: Any, t: Array, done: int = 0) -> None:
        self.output = output
        self.mesh = mesh
        self.n_times = len(t)
        self._names, own = split_fields(output.fields)
        with mesh.ranks.raising_together():
            self._own = {name: build_field(mesh, name, u, t[0]) for name, u in own.items()}
        n_written = sum(self.is_due(i) for i in range(done))
        series = FORMATS[FilePath(output.path).suffix]
        self.series = series(output.path, mesh, n_written, output.single)

    def is_due(self, i: int) -> bool:
        """Whether recorded time number i is written."""
        return i % self.output.every == 0 or i == self.n_times - 1

    def has(self, name: str) -> bool:
        """Whether a field is written if the run always has it."""
        return self._names is None or name in self._names

    def names(self, name: str) -> bool:
        """Whether a field is asked for by its name."""
        return self._names is not None and name in self._names

    def add(self, time: float, fields: dict[str, Any]) -> None:
        """Write the next time that is due, with fields {name: cell values}."""
        values = {name: np.asarray(u) for name, u in fields.items() if self.has(name)}
        with self.mesh.ranks.raising_together():
            values |= {name: find(time) for name, find in self._own.items()}
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
    output: Output | str | FilePath,
    mesh: Any,
    t: Array,
    fields: Mapping[str, Any],
    derived: Mapping[str, Any] | None = None,
) -> None:
    """Write fields {name: values} at the times t, where values[i] (..., n_cells) are those at t[i];
    derived ones if they are asked for.
    """
    derived = derived or {}
    writer = Writer(check_output(output, mesh.ranks, fields, derived), mesh, t)
    chosen = {name: values for name, values in fields.items() if writer.has(name)}
    chosen |= {name: values for name, values in derived.items() if writer.names(name)}
    for i, time in enumerate(t):
        if writer.is_due(i):
            writer.add(time, {name: values[i] for name, values in chosen.items()})
    writer.close()


# ---- what is asked for ---------------------------------------------------------------------------


def check_output(
    output: Output | Path | None,
    ranks: Ranks,
    run_fields: Collection[str],
    derived: Collection[str] = (),
) -> Any:
    """The `Output`, which may be given by its path, of a run that has these fields. Collective.

    None stays None.
    """
    ranks.check_same("write", _describe(output))
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
    with ranks.raising_together():
        _check_fields(output.fields, [*run_fields, *derived])
    for name in ("single", "keep"):
        value = getattr(output, name)
        ranks.check(
            isinstance(value, (bool, np.bool_)), f"{name} must be True or False, not {value!r:.60}"
        )
    return output


def _describe(output):
    """What must be the same on every rank: not the values of one's own fields."""
    if not isinstance(output, Output):
        return output if isinstance(output, (str, FilePath, type(None))) else type(output)
    fields = output.fields
    if isinstance(fields, (list, tuple, set)):
        fields = sorted(str(list(f) if isinstance(f, Mapping) else f) for f in fields)
    return output.path, output.every, fields, output.single, output.keep


def split_fields(fields: Fields | None) -> tuple[set[str] | None, dict[str, Coefficient]]:
    """(the names in *fields*, None for None; the fields of one's own)."""
    if fields is None:
        return None, {}
    own: dict[str, Coefficient] = {}
    for field in fields:
        if isinstance(field, Mapping):
            own |= field
    return {field for field in fields if isinstance(field, str)}, own


def _check_fields(fields, known):
    """`InputError` unless *fields* are of the known names, or one's own by new names."""
    if fields is None:
        return
    is_collection = isinstance(fields, (list, tuple, set)) and len(fields) > 0
    if not is_collection or not all(isinstance(field, (str, Mapping)) for field in fields):
        raise InputError(
            "fields must be a list of names, and of dicts {name: values} of fields of your own, "
            f"not {fields!r:.60}; here there are {', '.join(known)}"
        )
    names, own = split_fields(fields)
    unknown = [field for field in fields if isinstance(field, str) and field not in known]
    if unknown:
        raise InputError(
            f"this run has no {' and no '.join(unknown)} to write, but {', '.join(known)}; a field "
            f"of your own is a dict, {{{unknown[0]!r}: values}}"
        )
    for name in own:
        check_field_name(name)
        if name in known or name in NAMES_OF_FILES:
            raise InputError(f"there is a field {name!r} already: give yours another name")


def check_field_name(name: Any) -> None:
    """`InputError` unless a field can be called so in every kind of file."""
    if not isinstance(name, str) or not name or "/" in name:
        raise InputError(
            f"the name of a field must be a word, without a slash (which makes folders inside "
            f".vtkhdf files), not {name!r:.60}"
        )


def build_field(mesh: Any, name: str, given: Coefficient, t: float) -> Callable[[float], Array]:
    """Cell values as a function of the time, of a field of one's own.

    given : cell values (n_cells,) or (dim, n_cells), or a function of x or (x, t)
    t : a time at which it can be called
    """
    what = f"field {name!r}"
    if not callable(given):
        refuse_masked(given, f"{what} must be numbers")
        values = np.asarray(given)
        if values.dtype.kind not in "biuf":
            raise InputError(f"{what} must be numbers or a function, not {given!r:.60}")
        if values.ndim == 0:
            values = np.broadcast_to(values, (mesh.n_cells,))
        as_field_rows(name, values, mesh.n_cells)
        return lambda time: values

    x = mesh.centroid
    more = (t,) if as_function(given, what).depends_on_time else ()
    sample = np.asarray(call_function(given, what, x, *more))
    f = as_function(given, what, sample.shape[:-1])
    return lambda time: f(x, time)
