"""The file of a checkpoint: its format, the lock, writing and reading on rank 0."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments.types import Array, IntArray
from ..errors import InputError

# The number of the format: a file of another one is refused.
FORMAT_NUMBER = 3

# Bytes before the HDF5 file.
HEADER_BYTES = 512

# Bytes that are hashed at once.
HASHED_BYTES = 1 << 20

# The relative difference up to which two fingerprints of a problem are the same: they are rounded.
FINGERPRINT_TOLERANCE = 1e-9


# ---- the place and the lock ----------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Make the folders of the path; `InputError` where no file can be written there."""
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"the checkpoint {path} is a folder: give the path of a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _add_ending(path, f"try{os.getpid()}")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"no checkpoint can be written to {path}: {error.strerror}") from None


@contextmanager
def lock_checkpoint(path: Path) -> Iterator[None]:
    """A block in which no other process keeps a run in the file; `InputError` where another one
    does already.

    Where the file system has no locks, the block runs without one.
    """
    place = _add_ending(path, "lock")
    try:
        file = _lock(path, place)
    except OSError:
        file = None
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                place.unlink()  # while the lock is held, so that it is not another run's
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
                raise InputError(
                    f"another run ({file.read(200) or 'just begun'}) is using the checkpoint "
                    f"{path}: wait for its end, or give another path"
                ) from None
        except OSError:
            place.unlink(missing_ok=True)
            file.close()
            raise
        file.close()  # its last holder has just removed it


def _is_at(place, file):
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.stat(place), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _add_ending(path, ending):
    return path.with_name(f"{path.name}.{ending}")


def sync_folder(path: Path) -> None:
    """Make the names in the folder durable, as far as the file system allows."""
    with suppress(OSError):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished files of runs that were killed."""
    with suppress(OSError):
        for old in path.parent.glob(f"{path.name}.new*"):
            old.unlink(missing_ok=True)


def find_existing(path: Path) -> Path | None:
    """The path of the newest checkpoint; a run that is killed between two renames leaves only the
    one before.
    """
    candidates = (path, _add_ending(path, "before"))
    return next((candidate for candidate in candidates if candidate.exists()), None)


# ---- writing -------------------------------------------------------------------------------------


class NewFile:
    """A new checkpoint. It is made in memory: on a full disk HDF5 itself does not survive."""

    def __init__(self, path: Path, meta: dict[str, Any], order: IntArray):
        import h5py

        self.path = path
        self.order = order
        self.file = h5py.File(
            "checkpoint", "w", driver="core", backing_store=False, userblock_size=HEADER_BYTES
        )
        self.file["meta"] = json.dumps(meta, default=lambda x: x.tolist())

    def begin(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Begin an array, whose blocks follow."""
        self.dataset = self.file.create_dataset(f"cells/{name}", shape, dtype)

    def write_block(self, place: Any, parts: Sequence[Array]) -> None:
        """Write a block of the array that has begun, from the parts of the ranks."""
        joined = np.concatenate(parts, axis=-1)
        whole = np.empty_like(joined)
        whole[..., self.order] = joined
        self.dataset[place] = whole

    def replace(self) -> str | None:
        """Put the file in its place; None, or the system's message where that fails."""
        self.file.flush()
        content = self.file.id.get_file_image()  # without the header
        self.file.close()

        header = _make_header(hashlib.sha256(content).hexdigest(), HEADER_BYTES + len(content))
        new = _add_ending(self.path, f"new{os.getpid()}")
        try:
            with open(new, "wb") as file:
                file.write(header)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists():
                os.replace(self.path, _add_ending(self.path, "before"))
            os.replace(new, self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            return error.strerror
        return None


def _make_header(digest, size):
    text = f"fvot checkpoint {FORMAT_NUMBER}\nsha256 {digest}\nbytes {size}\n"
    return text.encode().ljust(HEADER_BYTES, b"\0")


# ---- reading -------------------------------------------------------------------------------------


def _hash_content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES)
        for block in iter(lambda: file.read(HASHED_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def open_checkpoint(
    path: Path,
    problem: dict[str, Any],
    check: Callable[[Path, Any], None] = lambda path, values: None,
) -> CheckpointReader:
    """The file, if it is whole and of this problem; else an `InputError` that says why not."""
    _check_whole(path)
    file = CheckpointReader(path)
    try:
        _check_fits(path, file.meta, problem, check)
    except InputError:
        file.close()
        raise
    return file


def _check_whole(path):
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    words = header.rstrip(b"\0").split()
    if words[:2] != [b"fvot", b"checkpoint"] or len(words) < 3:
        raise InputError(
            f"{path} is not a checkpoint of fvot, or its beginning is damaged{_find_remedy(path)}"
        )
    if words[2] != str(FORMAT_NUMBER).encode():
        theirs = words[2].decode(errors="replace")[:20]
        raise InputError(
            f"the checkpoint {path} is of another version of fvot (format {theirs}, this has "
            f"{FORMAT_NUMBER}): continue with that version, or {_say_what_to_delete(path)}"
        )
    if header != _make_header(_hash_content(path), path.stat().st_size):
        raise InputError(
            f"the checkpoint {path} is damaged: it is cut off, or bytes in it have changed"
            f"{_find_remedy(path)}"
        )


def _find_remedy(path):
    before = _add_ending(path, "before")
    if before.exists() and before != path:
        return f"; copy {before} over it to continue from the previous one"
    return f"; give another path, or {_say_what_to_delete(path)}"


def _say_what_to_delete(path):
    """How to start anew: a run goes on from the file before, too, where the other is gone."""
    before = _add_ending(path, "before")
    if before.exists():
        return f"delete both it and {before} to start anew"
    return "delete it to start anew"


class CheckpointReader:
    """An open checkpoint.

    meta : the problem and the values
    shapes : {name: shape} of the arrays (..., n_cells_global)
    """

    def __init__(self, path: Path):
        import h5py

        self.file = h5py.File(path, "r")
        self.meta = json.loads(self.file["meta"][()])
        self.shapes = {name: dataset.shape for name, dataset in self.file.get("cells", {}).items()}

    def read_row(self, name: str, i: int) -> Array:
        """Row number i of an array, counted over all of its leading axes."""
        dataset = self.file["cells"][name]
        return dataset[np.unravel_index(i, dataset.shape[:-1])]

    def close(self) -> None:
        self.file.close()


def _check_fits(path, meta, wanted, check):
    """Solver and mesh first, then the times by *check*, then the problem, which has been sampled at
    these times.
    """
    mesh_names = wanted["mesh"].keys() | meta["mesh"].keys()
    problem_names = wanted["problem"].keys() | meta["problem"].keys()
    _check_same(path, "problem", meta, wanted, ["solver"])
    _check_same(path, "mesh", meta, wanted, mesh_names)
    check(path, meta["values"])
    _check_same(path, "problem", meta, wanted, problem_names)


def _check_same(path, kind, meta, wanted, names):
    for name in sorted(names):
        ours = wanted[kind].get(name)
        theirs = meta[kind].get(name)
        if not _agree(ours, theirs):
            how = "is not the same" if isinstance(ours, list) else f"is {theirs}, here {ours}"
            raise InputError(
                f"the checkpoint {path} is of another {kind}: {name} {how}; give another path, or "
                f"{_say_what_to_delete(path)}"
            )


def _agree(ours, theirs):
    """Whether two descriptions agree; fingerprints [sum, size] do up to rounding of the sums."""
    if isinstance(ours, list) and isinstance(theirs, list):
        size = max(ours[1], theirs[1])
        return abs(ours[0] - theirs[0]) <= FINGERPRINT_TOLERANCE * size
    return ours == theirs
