"""`Checkpoint`: a run that is kept in a file while it goes, and goes on from there.

The file is HDF5, with numbers of cells as in the mesh's file, so that it fits any number of ranks. Its first 512 bytes, which
HDF5 leaves to others, say what it is, how long, and the SHA-256 of all the rest: nothing of a damaged file is ever looked at.
It is written beside its place and put there at once; the one before it stays, as `NAME.before`. While a run goes on it holds
a lock on `NAME.lock`, which the system takes away when the process ends, however it does.
"""
import fcntl
import hashlib
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.paths import expanded
from ..errors import InputError

FORMAT = 2
HEADER = 512             # bytes
SAME = 1e-9              # relative difference up to which two numbers of a problem are the same
LOOK = 0.1               # seconds between two looks at the clock, about
SETTLE = 1.0             # seconds: what was written before survives a power failure, too; it costs more than a small file
BLOCK = 1 << 20          # numbers that are gathered together
STOPPED = 128 + signal.SIGTERM      # the exit status of a run that SIGTERM has ended


@frozen
@dataclass(frozen=True)
class Checkpoint:
    """A file in which a run is kept, and from which it goes on: `solve(..., checkpoint=fvot.Checkpoint("run.h5"))`.

    path : of the file, whose folders are made. Where it exists, the run goes on from there, on any number of ranks, if it is
        of the same mesh, problem and version; else there is an `InputError` that says which is not. The run may now have more
        times after those reached
    every : seconds between two checkpoints; 0: after each step. There is one at the end, too: the same call then
        returns what the file has

    The last two are kept, the older one as PATH.before. SIGTERM makes a last checkpoint and ends the program with status 143.
    A checkpoint that cannot be written, as on a full disk, is a warning: the run goes on, and the ones before stay. A file in
    which another run is being kept is an `InputError` at the start (where the file system knows locks).
    """

    path: str | Path
    every: float = 600.0


class Keeper:
    """One run on a mesh with a checkpoint, or without one: ``with Keeper(...) as keeper``. Collective.

    saved : (cells, values) of the file, or None: arrays (..., n_cells) by name, and what JSON can hold
    """

    def __init__(self, checkpoint, mesh, problem=None, check=lambda path, values: None):
        """problem : what the run is, as {name: text, number, or `fingerprint`}.

        check(path, values) : on rank 0, an `InputError` where values of the file are not of this run; asked before the problem
        """
        self.checkpoint, self.mesh, self.saved, self._check = checkpoint, mesh, None, check
        self.stopped = self.ends = False         # on this rank; on all, as the last look has found
        ranks = mesh.ranks
        ranks.check(checkpoint is None or isinstance(checkpoint, Checkpoint),
                    f"checkpoint must be a fvot.Checkpoint(path), not {checkpoint!r:.60}")
        ranks.check_same("checkpoint", checkpoint)
        if checkpoint is None:
            return
        ranks.check(is_number(checkpoint.every) and checkpoint.every >= 0, "every must be a number of seconds between two "
                    f"checkpoints, at least 0, not {checkpoint.every!r}")
        ranks.check(isinstance(checkpoint.path, (str, Path)) and str(checkpoint.path) not in ("", "."),
                    f"a checkpoint needs the path of a file, not {checkpoint.path!r}")
        with ranks.together():
            self.path = expanded(checkpoint.path)
        if self.path.is_symlink():                  # what it leads to is the file
            self.path = self.path.resolve()
        self.problem = {"mesh": dict(dim=mesh.dim, cells=mesh.n_cells_global, volumes=fingerprint(mesh, np.ones(mesh.n_cells)),
                                     places=fingerprint(mesh, mesh.centroid)), "problem": problem}
        ranks.on_root(_check_writable, self.path)

    def __enter__(self):
        with ExitStack() as stack:
            if self.checkpoint is not None:
                self.mesh.ranks.on_root(self._begin, stack)
                numbers = self.mesh.ranks.gather_to_root(self.mesh.cell_id[:self.mesh.n_cells])
                self.order = None if numbers is None else np.concatenate(numbers)
                self.saved = self._loaded()
                if threading.current_thread() is threading.main_thread():
                    stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, self._stop))
                self.last, self.steps, self.next_look = time.monotonic(), 0, 1
            self._until_the_end = stack.pop_all()
        return self

    def __exit__(self, *failure):
        self._until_the_end.__exit__(*failure)
        if self.checkpoint is not None and failure[0] is None:
            self.mesh.ranks.wait()          # for rank 0 to let the file go

    def _begin(self, stack):
        """On rank 0."""
        stack.enter_context(_locked(self.path))
        _clear_away(self.path)
        stack.callback(_settle, self.path)
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
        root, passed = self.mesh.ranks.is_root, time.monotonic() - self.last
        in_a_while = self.steps * min(LOOK, self.checkpoint.every / 10) / max(passed, 1e-9)
        late, self.ends, steps = self.mesh.ranks.max(np.array([root and passed >= self.checkpoint.every, self.stopped,
                                                               max(1, int(in_a_while)) if root else 0]))
        self.next_look = self.steps + steps
        return bool(late or self.ends)

    def keep(self, cells, values):
        """Write the state (see `write`); end the program if it has to."""
        self.write(cells, values)
        if self.ends:
            if self.mesh.ranks.is_root:
                print(f"SIGTERM: the run is kept in {self.path}; started again, it goes on from there", file=sys.stderr,
                      flush=True)
            sys.exit(STOPPED)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def write(self, cells, values):
        """A new file of arrays (..., n_cells), by name, and values that JSON can hold."""
        ranks = self.mesh.ranks
        file = _Writer(self.path, {**self.problem, "values": values}, self.order) if ranks.is_root else None
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
                _settle(self.path)
                self.settled = time.monotonic()
            if failure is not None:
                print(f"warning: no checkpoint could be written to {self.path} ({failure}); the run goes on, the checkpoints "
                      "before stay", file=sys.stderr, flush=True)
        ranks.wait()
        self.last, self.steps, self.next_look = time.monotonic(), 0, 1

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _loaded(self):
        """(cells, values) of the file, if there is one."""
        ranks = self.mesh.ranks
        path = ranks.share(ranks.on_root(_existing, self.path))
        if path is None:
            return None
        file = ranks.on_root(_opened, path, self.problem, self._check)
        shapes, values = ranks.share((file.shapes, file.meta["values"]) if ranks.is_root else None)
        cells = {}
        for name, shape in shapes.items():
            rows = [self.mesh.scatter(ranks.share(file.row(name, i) if ranks.is_root else None))
                    for i in range(math.prod(shape[:-1]))]
            cells[name] = np.array(rows).reshape(*shape[:-1], self.mesh.n_cells)
        if ranks.is_root:
            file.close()
        return cells, values


def _blocks(array, n_global):
    """(place, part) of an array (..., n_cells): parts of about BLOCK numbers on all ranks together, at least one row."""
    if array.ndim == 1:
        yield ..., array
        return
    rows = max(1, BLOCK // (n_global * math.prod(array.shape[1:-1])))
    for first in range(0, len(array), rows):
        yield slice(first, first + rows), array[first:first + rows]


def fingerprint(mesh, u):
    """[sum, size] of cell values u (..., n_cells), weighted by volumes and random numbers: the same on any number of ranks."""
    k = mesh.cell_id[:mesh.n_cells].astype(np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xbf58476d1ce4e5b9), (27, 0x94d049bb133111eb)):      # splitmix64 (Steele, Lea, Flood 2014)
        k = (k ^ (k >> np.uint64(shift))) * np.uint64(factor)
    weighted = mesh.volume * np.asarray(u, float) * ((k >> np.uint64(11)) / 2.0**53 + 0.5)
    rows = np.atleast_2d(weighted)
    weight = np.arange(1, len(rows.reshape(-1, mesh.n_cells)) + 1)[:, None] ** 0.5      # rows may not change places
    rows = weight * rows.reshape(-1, mesh.n_cells)
    total = mesh.ranks.sum(np.array([rows.sum(), np.abs(rows).sum()]))
    return [float(total[0]), float(total[1])]


# ---- the file, on rank 0 -----------------------------------------------------------------------------------------------


def _check_writable(path):
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"the checkpoint {path} is a folder: give the path of a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _beside(path, f"try{os.getpid()}")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"no checkpoint can be written to {path}: {error.strerror}") from None


@contextmanager
def _locked(path):
    """A block in which this process alone keeps a run in the file; `InputError` where another one does.

    Where the file system knows no locks, the block goes on without.
    """
    place = _beside(path, "lock")
    try:
        file = _lock(path, place)
    except OSError:
        file = None
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                place.unlink()              # while the lock is held, so that it is not another run's
            file.close()


def _lock(path, place):
    """The open file at *place* that holds the lock."""
    while True:
        file = open(place, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(place, file):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
        except BlockingIOError:
            with file:
                file.seek(0)
                raise InputError(f"another run ({file.read(200) or 'just begun'}) is kept in the checkpoint {path}: wait for "
                                 "its end, or give another path") from None
        except OSError:
            place.unlink(missing_ok=True)
            file.close()
            raise
        file.close()                        # its last holder has just removed it


def _is_at(place, file):
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.stat(place), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _beside(path, ending):
    return path.with_name(f"{path.name}.{ending}")


def _existing(path):
    """The path of the checkpoint that is there; a run that is killed between two names leaves the one before alone."""
    return next((p for p in (path, _beside(path, "before")) if p.exists()), None)


class _Writer:
    """A new checkpoint. It is made in memory: on a full disk HDF5 itself does not survive."""

    def __init__(self, path, meta, order):
        import h5py
        self.path, self.order = path, order
        self.file = h5py.File("checkpoint", "w", driver="core", backing_store=False, userblock_size=HEADER)
        self.file["meta"] = json.dumps(meta, default=_plain)

    def begin(self, name, shape, dtype):
        """An array, whose blocks follow."""
        self.dataset = self.file.create_dataset(f"cells/{name}", shape, dtype)

    def block(self, place, parts):
        """A block of the array that has begun, from the parts of the ranks."""
        joined = np.concatenate(parts, axis=-1)
        whole = np.empty_like(joined)
        whole[..., self.order] = joined
        self.dataset[place] = whole

    def placed(self):
        """Put the file in its place; None, or what went wrong."""
        self.file.flush()
        rest = self.file.id.get_file_image()            # without the header
        self.file.close()
        new = _beside(self.path, f"new{os.getpid()}")
        try:
            with open(new, "wb") as file:
                file.write(_header(hashlib.sha256(rest).hexdigest(), HEADER + len(rest)))
                file.write(rest)
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists():
                os.replace(self.path, _beside(self.path, "before"))
            os.replace(new, self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            return error.strerror
        return None


def _settle(path):
    """Make the names in the folder last, as far as the file system lets us."""
    with suppress(OSError):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _clear_away(path):
    """What killed runs have left."""
    with suppress(OSError):
        for old in path.parent.glob(f"{path.name}.new*"):
            old.unlink(missing_ok=True)


def _plain(x):
    return x.tolist()


def _header(digest, size):
    text = f"fvot checkpoint {FORMAT}\nsha256 {digest}\nbytes {size}\n"
    return text.encode().ljust(HEADER, b"\0")


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(HEADER)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _opened(path, problem, check=lambda path, values: None):
    """The file, if it is whole and of this problem; `InputError` that says what it is not."""
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER)
    except OSError as error:
        raise InputError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    words = header.rstrip(b"\0").split()
    if words[:2] != [b"fvot", b"checkpoint"] or len(words) < 3:
        raise InputError(f"{path} is no checkpoint of fvot, or its beginning is damaged{_remedy(path)}")
    if words[2] != str(FORMAT).encode():
        theirs = words[2].decode(errors="replace")[:20]
        raise InputError(f"the checkpoint {path} is of another version of fvot (format {theirs}, this has {FORMAT}): go on "
                         "with that version, or delete the file to start anew")
    if header != _header(_digest(path), path.stat().st_size):
        raise InputError(f"the checkpoint {path} is damaged: it is cut off, or bytes in it have changed{_remedy(path)}")
    file = _Reader(path)
    try:
        _check_fits(path, file.meta, problem, check)
    except InputError:
        file.close()
        raise
    return file


def _remedy(path):
    before = _beside(path, "before")
    return f"; copy {before} over it to go on from the one before" if before.exists() and before != path else (
        "; give another path, or delete it to start anew")


class _Reader:
    def __init__(self, path):
        import h5py
        self.file = h5py.File(path, "r")
        self.meta = json.loads(self.file["meta"][()])
        self.shapes = {name: dataset.shape for name, dataset in self.file.get("cells", {}).items()}

    def row(self, name, i):
        dataset = self.file["cells"][name]
        return dataset[np.unravel_index(i, dataset.shape[:-1])]

    def close(self):
        self.file.close()


def _check_fits(path, found, wanted, check):
    """Solver and mesh first, then what *check* says of the times, then the problem, which has been sampled there."""
    _check_same(path, "problem", found, wanted, ["solver"])
    _check_same(path, "mesh", found, wanted, wanted["mesh"].keys() | found["mesh"].keys())
    check(path, found["values"])
    _check_same(path, "problem", found, wanted, wanted["problem"].keys() | found["problem"].keys())


def _check_same(path, kind, found, wanted, names):
    for name in sorted(names):
        ours, theirs = wanted[kind].get(name), found[kind].get(name)
        if not _same(ours, theirs):
            how = "is not the same" if isinstance(ours, list) else f"is {theirs}, here {ours}"
            raise InputError(f"the checkpoint {path} is of another {kind}: {name} {how}; give another path, or delete it "
                             "to start anew")


def _same(ours, theirs):
    """Whether two descriptions agree; of fingerprints [sum, size] the sums up to SAME of the size."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return abs(ours[0] - theirs[0]) <= SAME * max(ours[1], theirs[1])
    return ours == theirs
