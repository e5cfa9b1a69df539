"""The file of a checkpoint: its format, the lock, writing and reading on rank 0."""

import fcntl
import hashlib
import json
import os
import socket
from contextlib import contextmanager, suppress

import numpy as np

from ..errors import InputError

FORMAT = 2
HEADER = 512  # bytes
SAME = 1e-9  # relative difference up to which two numbers of a problem are the same


def check_writable(path):
    """Make the folders of the path; `InputError` where no file can be written there."""
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
def locked(path):
    """A block in which this process alone keeps a run in the file; `InputError` where another one
    does.

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
                    f"another run ({file.read(200) or 'just begun'}) is kept in the checkpoint "
                    f"{path}: wait for "
                    "its end, or give another path"
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


def _beside(path, ending):
    return path.with_name(f"{path.name}.{ending}")


def existing(path):
    """The path of the checkpoint that is there; a run that is killed between two names leaves the
    one before alone.
    """
    return next((p for p in (path, _beside(path, "before")) if p.exists()), None)


class NewFile:
    """A new checkpoint. It is made in memory: on a full disk HDF5 itself does not survive."""

    def __init__(self, path, meta, order):
        import h5py

        self.path = path
        self.order = order
        self.file = h5py.File(
            "checkpoint", "w", driver="core", backing_store=False, userblock_size=HEADER
        )
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
        rest = self.file.id.get_file_image()  # without the header
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


def settle(path):
    """Make the names in the folder last, as far as the file system lets us."""
    with suppress(OSError):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def clear_away(path):
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


def opened(path, problem, check=lambda path, values: None):
    """The file, if it is whole and of this problem; `InputError` that says what it is not."""
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER)
    except OSError as error:
        raise InputError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    words = header.rstrip(b"\0").split()
    if words[:2] != [b"fvot", b"checkpoint"] or len(words) < 3:
        raise InputError(
            f"{path} is no checkpoint of fvot, or its beginning is damaged{_remedy(path)}"
        )
    if words[2] != str(FORMAT).encode():
        theirs = words[2].decode(errors="replace")[:20]
        raise InputError(
            f"the checkpoint {path} is of another version of fvot (format {theirs}, this has "
            f"{FORMAT}): go on "
            "with that version, or delete the file to start anew"
        )
    if header != _header(_digest(path), path.stat().st_size):
        raise InputError(
            f"the checkpoint {path} is damaged: it is cut off, or bytes in it have "
            f"changed{_remedy(path)}"
        )
    file = _Reader(path)
    try:
        _check_fits(path, file.meta, problem, check)
    except InputError:
        file.close()
        raise
    return file


def _remedy(path):
    before = _beside(path, "before")
    return (
        f"; copy {before} over it to go on from the one before"
        if before.exists() and before != path
        else ("; give another path, or delete it to start anew")
    )


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
    """Solver and mesh first, then what *check* says of the times, then the problem, which has been
    sampled there.
    """
    _check_same(path, "problem", found, wanted, ["solver"])
    _check_same(path, "mesh", found, wanted, wanted["mesh"].keys() | found["mesh"].keys())
    check(path, found["values"])
    _check_same(path, "problem", found, wanted, wanted["problem"].keys() | found["problem"].keys())


def _check_same(path, kind, found, wanted, names):
    for name in sorted(names):
        ours, theirs = wanted[kind].get(name), found[kind].get(name)
        if not _same(ours, theirs):
            how = "is not the same" if isinstance(ours, list) else f"is {theirs}, here {ours}"
            raise InputError(
                f"the checkpoint {path} is of another {kind}: {name} {how}; give another path, or "
                "delete it "
                "to start anew"
            )


def _same(ours, theirs):
    """Whether two descriptions agree; of fingerprints [sum, size] the sums up to SAME of the size."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return abs(ours[0] - theirs[0]) <= SAME * max(ours[1], theirs[1])
    return ours == theirs
