"""`Checkpoint`: a run that is kept in a file while it goes, and goes on from there.

The file is HDF5, with numbers of cells as in the mesh's file, so that it fits any number of ranks.
Its first 512 bytes, which HDF5 leaves to others, say what it is, how long, and the SHA-256 of all
the rest: nothing of a damaged file is ever looked at. It is written beside its place and put there
at once; the one before it stays, as `NAME.before`. While a run goes on it holds a lock on
`NAME.lock`, which the system takes away when the process ends, however it does.
"""

import math
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.paths import expand_home
from .checkpoint_file import NewFile, check_writable, clear_away, existing, locked, opened, settle

LOOK = 0.1  # seconds between two looks at the clock, about
# seconds: what was written before survives a power failure, too; it costs more than a small file
SETTLE = 1.0
BLOCK = 1 << 20  # numbers that are gathered together
STOPPED = 128 + signal.SIGTERM  # the exit status of a run that SIGTERM has ended


@frozen
@dataclass(frozen=True)
class Checkpoint:
    """A file in which a run is kept, and from which it goes on: `solve(...,
    checkpoint=fvot.Checkpoint("run.h5"))`.

    path : of the file, whose folders are made. Where it exists, the run goes on from there, on any
        number of ranks, if it is of the same mesh, problem and version; else there is an
        `InputError` that says which is not. The run may now have more times after those reached
    every : seconds between two checkpoints; 0: after each step. There is one at the end, too: the
        same call then returns what the file has

    The last two are kept, the older one as PATH.before. SIGTERM makes a last checkpoint and ends
    the program with status 143. A checkpoint that cannot be written, as on a full disk, is a
    warning: the run goes on, and the ones before stay. A file in which another run is being kept is
    an `InputError` at the start (where the file system knows locks).
    """

    path: str | Path
    every: float = 600.0


class CheckpointManager:
    """One run on a mesh with a checkpoint, or without one: ``with CheckpointManager(...) as keeper``.
    Collective.

    saved : (cells, values) of the file, or None: arrays (..., n_cells) by name, and what JSON can
        hold
    """

    def __init__(self, checkpoint, mesh, problem=None, check=lambda path, values: None):
        """problem : what the run is, as {name: text, number, or `fingerprint`}.

        check(path, values) : on rank 0, an `InputError` where values of the file are not of this
            run; asked before the problem
        """
        self.checkpoint = checkpoint
        self.mesh = mesh
        self.saved = None
        self._check = check
        self.stopped = self.ends = False  # on this rank; on all, as the last look has found
        ranks = mesh.ranks
        ranks.check(
            checkpoint is None or isinstance(checkpoint, Checkpoint),
            f"checkpoint must be a fvot.Checkpoint(path), not {checkpoint!r:.60}",
        )
        ranks.check_same("checkpoint", checkpoint)
        if checkpoint is None:
            return
        ranks.check(
            is_number(checkpoint.every) and checkpoint.every >= 0,
            "every must be a number of seconds between two "
            f"checkpoints, at least 0, not {checkpoint.every!r}",
        )
        ranks.check(
            isinstance(checkpoint.path, (str, Path)) and str(checkpoint.path) not in ("", "."),
            f"a checkpoint needs the path of a file, not {checkpoint.path!r}",
        )
        with ranks.raising_together():
            self.path = expand_home(checkpoint.path)
        if self.path.is_symlink():  # what it leads to is the file
            self.path = self.path.resolve()
        self.problem = {
            "mesh": dict(
                dim=mesh.dim,
                cells=mesh.n_cells_global,
                volumes=fingerprint(mesh, np.ones(mesh.n_cells)),
                places=fingerprint(mesh, mesh.centroid),
            ),
            "problem": problem,
        }
        ranks.on_root(check_writable, self.path)

    def __enter__(self):
        with ExitStack() as stack:
            if self.checkpoint is not None:
                self.mesh.ranks.on_root(self._begin, stack)
                numbers = self.mesh.ranks.gather_to_root(self.mesh.cell_id[: self.mesh.n_cells])
                self.order = None if numbers is None else np.concatenate(numbers)
                self.saved = self._loaded()
                if threading.current_thread() is threading.main_thread():
                    stack.callback(
                        signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, self._stop)
                    )
                self.last = time.monotonic()
                self.steps = 0
                self.next_look = 1
            self._until_the_end = stack.pop_all()
        return self

    def __exit__(self, *failure):
        self._until_the_end.__exit__(*failure)
        if self.checkpoint is not None and failure[0] is None:
            self.mesh.ranks.wait()  # for rank 0 to let the file go

    def _begin(self, stack):
        """On rank 0."""
        stack.enter_context(locked(self.path))
        clear_away(self.path)
        stack.callback(settle, self.path)
        self.settled = -math.inf

    def _stop(self, number, frame):
        self.stopped = True

    @property
    def is_on(self):
        """Whether there is a checkpoint."""
        return self.checkpoint is not None

    def is_due(self):
        """After a step: whether it is time for `keep`."""
        if not self.is_on:
            return False
        self.steps += 1
        if self.steps < self.next_look:
            return False
        root = self.mesh.ranks.is_root
        passed = time.monotonic() - self.last
        in_a_while = self.steps * min(LOOK, self.checkpoint.every / 10) / max(passed, 1e-9)
        late, self.ends, steps = self.mesh.ranks.max(
            np.array(
                [
                    root and passed >= self.checkpoint.every,
                    self.stopped,
                    max(1, int(in_a_while)) if root else 0,
                ]
            )
        )
        self.next_look = self.steps + steps
        return bool(late or self.ends)

    def keep(self, cells, values):
        """Write the state (see `write`); end the program if it has to."""
        self.write(cells, values)
        if self.ends:
            if self.mesh.ranks.is_root:
                print(
                    f"SIGTERM: the run is kept in {self.path}; started again, it goes on from "
                    "there",
                    file=sys.stderr,
                    flush=True,
                )
            sys.exit(STOPPED)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def write(self, cells, values):
        """A new file of arrays (..., n_cells), by name, and values that JSON can hold."""
        ranks = self.mesh.ranks
        file = (
            NewFile(self.path, {**self.problem, "values": values}, self.order)
            if ranks.is_root
            else None
        )
        for name, array in cells.items():
            array = np.asarray(array)
            if ranks.is_root:
                file.begin(name, (*array.shape[:-1], self.mesh.n_cells_global), array.dtype)
            for place, part in _blocks(array, self.mesh.n_cells_global):
                parts = ranks.gather_to_root(np.ascontiguousarray(part))
                if ranks.is_root:
                    file.block(place, parts)
        if ranks.is_root:
            failure = file.placed()
            if time.monotonic() - self.settled >= SETTLE:
                settle(self.path)
                self.settled = time.monotonic()
            if failure is not None:
                print(
                    f"warning: no checkpoint could be written to {self.path} ({failure}); the run "
                    "goes on, the checkpoints "
                    "before stay",
                    file=sys.stderr,
                    flush=True,
                )
        ranks.wait()
        self.last = time.monotonic()
        self.steps = 0
        self.next_look = 1

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _loaded(self):
        """(cells, values) of the file, if there is one."""
        ranks = self.mesh.ranks
        path = ranks.broadcast(ranks.on_root(existing, self.path))
        if path is None:
            return None
        file = ranks.on_root(opened, path, self.problem, self._check)
        shapes, values = ranks.broadcast(
            (file.shapes, file.meta["values"]) if ranks.is_root else None
        )
        cells = {}
        for name, shape in shapes.items():
            rows = [
                self.mesh.scatter(ranks.broadcast(file.row(name, i) if ranks.is_root else None))
                for i in range(math.prod(shape[:-1]))
            ]
            cells[name] = np.array(rows).reshape(*shape[:-1], self.mesh.n_cells)
        if ranks.is_root:
            file.close()
        return cells, values


def _blocks(array, n_global):
    """(place, part) of an array (..., n_cells): parts of about BLOCK numbers on all ranks together,
    at least one row.
    """
    if array.ndim == 1:
        yield ..., array
        return
    rows = max(1, BLOCK // (n_global * math.prod(array.shape[1:-1])))
    for first in range(0, len(array), rows):
        yield slice(first, first + rows), array[first : first + rows]


def fingerprint(mesh, u):
    """[sum, size] of cell values u (..., n_cells), weighted by volumes and random numbers: the same
    on any number of ranks.
    """
    k = mesh.cell_id[: mesh.n_cells].astype(np.uint64) + np.uint64(1)
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):  # splitmix64 (Steele, Lea, Flood 2014)
        k = (k ^ (k >> np.uint64(shift))) * np.uint64(factor)
    weighted = mesh.volume * np.asarray(u, float) * ((k >> np.uint64(11)) / 2.0**53 + 0.5)
    rows = np.atleast_2d(weighted)
    weight = (
        np.arange(1, len(rows.reshape(-1, mesh.n_cells)) + 1)[:, None] ** 0.5
    )  # rows may not change places
    rows = weight * rows.reshape(-1, mesh.n_cells)
    total = mesh.ranks.sum(np.array([rows.sum(), np.abs(rows).sum()]))
    return [float(total[0]), float(total[1])]


# ---- the file, on rank 0 -----------------------------------------------------------------------------------------------
