"""`Checkpoint`: a run whose state is kept in a file, from which it can go on.

The file is HDF5, with numbers of cells as in the mesh's file, so that it fits any number of ranks.
Its first 512 bytes, which HDF5 leaves free, have its format, its length and the SHA-256 of the
rest: no content of a damaged file is ever read. It is written beside its place and then renamed;
the one before it stays, as `NAME.before`. While a run goes on it holds a lock on `NAME.lock`, which
the system removes when the process ends, also when it is killed.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.paths import expand_home
from ..arguments.types import Array
from .checkpoint_file import (
    NewFile,
    check_writable,
    find_existing,
    lock_checkpoint,
    open_checkpoint,
    remove_leftovers,
    sync_folder,
)

if TYPE_CHECKING:
    from ..mesh import Mesh
    from ..parallel import Ranks

# Seconds between two looks at the clock, about.
CLOCK_INTERVAL = 0.1

# Seconds between two synchronisations of the folder, after which a file survives a power failure.
# One costs more than writing a small file.
SYNC_INTERVAL = 1.0

# Numbers that are gathered together.
GATHERED_NUMBERS = 1 << 20

# The exit status of a run that SIGTERM has ended.
SIGTERM_STATUS = 128 + signal.SIGTERM


@frozen
@dataclass(frozen=True)
class Checkpoint:
    """A file that stores the state of a run, and from which it continues.

    It is an argument of `solve`: ``solve(..., checkpoint=fvot.Checkpoint("run.h5"))``.

    Parameters
    ----------
    path : str or pathlib.Path
        The file; missing folders are made. If it exists, the run continues from it, on any number
        of ranks, if mesh, problem and version are the same. The run may now have later times after
        those reached.
    every : float, optional
        Seconds between two checkpoints; 0: after each step. There is one at the end, too: the same
        call then returns the content of the file.

    Raises
    ------
    InputError
        In `solve`: where the file is of another mesh, problem or version, or damaged; where it
        cannot be written; for a path or an *every* that cannot be used; and if another run is using
        it (if the file system has locks).

    Notes
    -----
    The last two checkpoints are kept, the older one as PATH.before. SIGTERM makes a last checkpoint
    and ends the program with status 143. A checkpoint that cannot be written, as on a full disk,
    causes a warning: the run continues, and earlier ones stay.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0)
    >>> checkpoint = fvot.Checkpoint(tempfile.mkdtemp() + "/run.h5")
    >>> rho0 = np.ones(mesh.n_cells)
    >>> first = equation.solve(rho0, [0.0, 0.1], checkpoint=checkpoint)
    >>> longer = equation.solve(rho0, [0.0, 0.1, 0.2], checkpoint=checkpoint)
    >>> bool(np.array_equal(longer.rho[:2], first.rho))
    True
    """

    path: str | Path
    every: float = 600.0


class CheckpointManager:
    """One run on a mesh with a checkpoint, or without one: ``with CheckpointManager(...) as
    keeper``. Collective.

    saved : (cells, values) of the file, or None: arrays (..., n_cells) by name, and values that
        JSON can hold
    has_signal : whether SIGTERM has reached this rank
    must_end : whether it had reached any rank at the last look
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        mesh: Mesh,
        describe: Callable[[], dict[str, Any]],
        check: Callable[[Path, Any], None] = lambda path, values: None,
    ):
        """describe() : the description of the run, as {name: text, number, or `fingerprint`};
            called where there is a checkpoint, and may be collective
        check(path, values) : on rank 0, an `InputError` where values of the file are not of this
            run; called before the problem is compared
        """
        _check_checkpoint(mesh.ranks, checkpoint)
        self.checkpoint = checkpoint
        self.mesh = mesh
        self.saved: tuple[dict[str, Array], dict[str, Any]] | None = None
        self.has_signal = False
        self.must_end = False
        self._check = check
        if checkpoint is None:
            return

        with mesh.ranks.raising_together():
            self.path = expand_home(checkpoint.path)
        if self.path.is_symlink():  # the file is the one that the link leads to
            self.path = self.path.resolve()
        about_mesh = dict(
            dim=mesh.dim,
            cells=mesh.n_cells_global,
            volumes=fingerprint(mesh, np.ones(mesh.n_cells)),
            places=fingerprint(mesh, mesh.centroid),
        )
        self.problem = {"mesh": about_mesh, "problem": describe()}
        mesh.ranks.on_root(check_writable, self.path)

    def __enter__(self):
        with ExitStack() as stack:
            if self.checkpoint is not None:
                self.mesh.ranks.on_root(self._begin, stack)
                numbers = self.mesh.ranks.gather_to_root(self.mesh.cell_id[: self.mesh.n_cells])
                self.order = None if numbers is None else np.concatenate(numbers)
                self.saved = self._load()
                if threading.current_thread() is threading.main_thread():
                    previous = signal.signal(signal.SIGTERM, self._note_signal)
                    stack.callback(signal.signal, signal.SIGTERM, previous)
                self._restart_clock()
            self._until_the_end = stack.pop_all()
        return self

    def __exit__(self, *failure):
        self._until_the_end.__exit__(*failure)
        if self.checkpoint is not None and failure[0] is None:
            self.mesh.ranks.wait()  # for rank 0 to release the file

    def _begin(self, stack):
        """On rank 0."""
        stack.enter_context(lock_checkpoint(self.path))
        remove_leftovers(self.path)
        stack.callback(sync_folder, self.path)
        self.last_sync = -math.inf

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.has_signal = True

    def _restart_clock(self):
        self.last = time.monotonic()
        self.steps = 0
        self.next_look = 1

    @property
    def is_on(self) -> bool:
        """Whether there is a checkpoint."""
        return self.checkpoint is not None

    def is_due(self) -> bool:
        """After a step: whether it is time for `keep`."""
        if self.checkpoint is None:
            return False
        self.steps += 1
        if self.steps < self.next_look:
            return False

        is_late = False
        steps_to_look = 0
        if self.mesh.ranks.is_root:  # its clock counts for all
            passed = time.monotonic() - self.last
            interval = min(CLOCK_INTERVAL, self.checkpoint.every / 10)
            is_late = passed >= self.checkpoint.every
            steps_to_look = max(1, int(self.steps * interval / max(passed, 1e-9)))

        report = np.array([is_late, self.has_signal, steps_to_look])
        is_late, self.must_end, steps_to_look = self.mesh.ranks.max(report)
        self.next_look = self.steps + steps_to_look
        return bool(is_late or self.must_end)

    def keep(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """Write the state (see `write`); end the program after a SIGTERM."""
        self.write(cells, values)
        if self.must_end:
            self._print_once(
                f"SIGTERM: the run is saved in {self.path}; started again, it continues from there"
            )
            sys.exit(SIGTERM_STATUS)

    def _print_once(self, message):
        if self.mesh.ranks.is_root:
            print(message, file=sys.stderr, flush=True)

    # ---- writing ---------------------------------------------------------------------------------

    def write(self, cells: dict[str, Array], values: dict[str, Any]) -> None:
        """A new file of arrays (..., n_cells), by name, and values that JSON can hold."""
        ranks = self.mesh.ranks
        n = self.mesh.n_cells_global
        file = None
        if ranks.is_root:
            file = NewFile(self.path, {**self.problem, "values": values}, self.order)

        for name, array in cells.items():
            array = np.asarray(array)
            if file is not None:
                file.begin(name, (*array.shape[:-1], n), array.dtype)
            for place, block in _split_blocks(array, n):
                parts = ranks.gather_to_root(np.ascontiguousarray(block))
                if file is not None:
                    file.write_block(place, parts)

        if file is not None:
            self._finish_file(file)
        ranks.wait()
        self._restart_clock()

    def _finish_file(self, file):
        """On rank 0: put the file in its place; warn where that fails."""
        failure = file.replace()
        if time.monotonic() - self.last_sync >= SYNC_INTERVAL:
            sync_folder(self.path)
            self.last_sync = time.monotonic()
        if failure is not None:
            self._print_once(
                f"warning: no checkpoint could be written to {self.path} ({failure}); the run "
                "continues, and earlier checkpoints stay"
            )

    # ---- reading ---------------------------------------------------------------------------------

    def _load(self):
        """(cells, values) of the file, if there is one."""
        ranks = self.mesh.ranks
        path = ranks.broadcast(ranks.on_root(find_existing, self.path))
        if path is None:
            return None
        file = ranks.on_root(open_checkpoint, path, self.problem, self._check)
        header = None if file is None else (file.shapes, file.meta["values"])
        shapes, values = ranks.broadcast(header)

        cells = {}
        for name, shape in shapes.items():
            rows = []
            for i in range(math.prod(shape[:-1])):
                row = None if file is None else file.read_row(name, i)
                rows.append(self.mesh.scatter(ranks.broadcast(row)))
            cells[name] = np.array(rows).reshape(*shape[:-1], self.mesh.n_cells)

        if file is not None:
            file.close()
        return cells, values


def _check_checkpoint(ranks: Ranks, checkpoint: Any) -> None:
    """`InputError` on every rank unless all have the same `Checkpoint`, or none. Collective."""
    ranks.check(
        checkpoint is None or isinstance(checkpoint, Checkpoint),
        f"checkpoint must be a fvot.Checkpoint(path), not {checkpoint!r:.60}",
    )
    ranks.check_same("checkpoint", checkpoint)
    if checkpoint is None:
        return
    ranks.check(
        is_number(checkpoint.every) and checkpoint.every >= 0,
        "every must be a number of seconds between two checkpoints, at least 0, not "
        f"{checkpoint.every!r}",
    )
    ranks.check(
        isinstance(checkpoint.path, (str, Path)) and str(checkpoint.path) not in ("", "."),
        f"a checkpoint needs the path of a file, not {checkpoint.path!r}",
    )


def _split_blocks(array, n_global):
    """(place, block) of an array (..., n_cells): blocks of about GATHERED_NUMBERS numbers on all
    ranks together, at least one row.
    """
    if array.ndim == 1:
        yield ..., array
        return
    numbers_of_row = n_global * math.prod(array.shape[1:-1])
    n_rows = max(1, GATHERED_NUMBERS // numbers_of_row)
    for first in range(0, len(array), n_rows):
        rows = slice(first, first + n_rows)
        yield rows, array[rows]


# The multipliers and shifts of splitmix64 (Steele, Lea, Flood 2014).
SPLITMIX_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def fingerprint(mesh: Mesh, u: Array) -> list[float]:
    """[sum, sum of absolute values] of cell values u (..., n_cells), weighted by volumes and random
    numbers: the same on any number of ranks. Collective.
    """
    k = mesh.cell_id[: mesh.n_cells].astype(np.uint64) + np.uint64(1)
    for shift, factor in SPLITMIX_STEPS:
        k = (k ^ (k >> np.uint64(shift))) * np.uint64(factor)
    random = (k >> np.uint64(11)) / 2.0**53 + 0.5

    weighted = mesh.volume * np.asarray(u, float) * random
    rows = weighted.reshape(math.prod(weighted.shape[:-1]), mesh.n_cells)
    row_weight = np.arange(1, len(rows) + 1)[:, None] ** 0.5  # so that their order matters
    rows = row_weight * rows
    total = mesh.ranks.sum(np.array([rows.sum(), np.abs(rows).sum()]))
    return [float(total[0]), float(total[1])]
