"""Ranks: sums, maxima, gather, shared failure, ghost exchange. The only file that imports mpi4py.

Every method of `Ranks` is collective: all ranks of the communicator call it, or none.
One rank is the serial case of the same path; nothing here asks whether a run is parallel.
"""

import hashlib
import time
from contextlib import contextmanager

import numpy as np

from .errors import InputError, missing

try:
    from mpi4py import MPI
except ImportError as error:
    raise missing("MPI with mpi4py", error) from None


def say(*words):
    """Print words, as `print` does, once: on rank 0 of all ranks."""
    if MPI.COMM_WORLD.rank == 0:
        print(*words, flush=True)


def is_finalized():
    """Whether MPI has come to its end, so that nothing may be sent any more."""
    return MPI.Is_finalized()


def library():
    """The name and version of the MPI library, in one line."""
    return MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\x00 ")


class _Kept:
    """What has a communicator, and is copied and pickled on one rank: it comes back on one rank."""

    def __getstate__(self):
        if self.comm.size > 1:
            raise InputError(
                f"what is shared by {self.comm.size} ranks cannot be copied or pickled: write it "
                "to a file, or "
                "mesh.gather its arrays"
            )
        return {name: value for name, value in vars(self).items() if name != "comm"}

    def __setstate__(self, state):
        vars(self).update(state, comm=MPI.COMM_SELF)


class Ranks(_Kept):
    """The ranks that share a mesh: a thin coat over an MPI communicator (None: all ranks)."""

    def __init__(self, comm=None):
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.rank = self.comm.rank
        self.size = self.comm.size
        self.is_root = self.rank == 0

    def sum(self, x):
        """Sum over the ranks, element by element; a float for a scalar."""
        return self._reduce(x, MPI.SUM)

    def max(self, x):
        """Largest over the ranks, element by element."""
        return self._reduce(x, MPI.MAX)

    def min(self, x):
        """Smallest over the ranks, element by element."""
        return self._reduce(x, MPI.MIN)

    def _reduce(self, x, operation):
        x = np.asarray(x, order="C")
        total = np.empty_like(x)
        self.comm.Allreduce(x, total, operation)
        return total if total.ndim else total.item()

    def check(self, ok, message, error=InputError):
        """Raise *error* with the message of the first rank on which *ok* is false, on every rank.

        Where it is true on others, the message says which rank that is.
        """
        problems = self.comm.allgather(None if ok else message)
        wrong = [rank for rank, problem in enumerate(problems) if problem is not None]
        if wrong:
            raise error(
                problems[wrong[0]] + (f" (on rank {wrong[0]})" if len(wrong) < self.size else "")
            )

    def check_same(self, what, value):
        """`InputError` on every rank unless *value* looks the same on all of them."""
        texts = self.comm.allgather(repr(value))
        is_number = isinstance(value, (int, float))
        remedy = (
            "; mesh.ranks.min, .max and .sum make one number of what each rank has"
            if is_number
            else ""
        )
        for rank, text in enumerate(texts):
            if text != texts[0]:
                here, there = _around_difference(texts[0], text)
                raise InputError(
                    f"{what} must be the same on every rank: it is {here} on rank 0 and {there} on "
                    f"rank {rank}{remedy}"
                )

    def check_same_array(self, what, array):
        """`InputError` on every rank unless the array is the same on all of them, to the last bit."""
        array = np.ascontiguousarray(array)
        digests = self.comm.allgather((array.shape, hashlib.sha256(array.tobytes()).hexdigest()))
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise InputError(
                    f"{what} must be the same array on every rank: on rank {rank} it is not that "
                    "of rank 0"
                )

    @contextmanager
    def raising_together(self):
        """A block without collective calls: if it raises on one rank, every rank raises.

        Where input is wrong on several ranks, all raise what the first one says. Else a failing
        rank raises its own exception, the others a copy of the first one.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        failures = self.comm.allgather(_portable(failure, self.rank))
        first = next((other for other in failures if other is not None), None)
        if failure is not None and (
            not isinstance(failure, InputError) or failures.index(first) == self.rank
        ):
            raise failure
        if first is not None:
            raise first

    def on_root(self, function, *args):
        """function(*args) on rank 0 alone; its value there and None elsewhere. A failure is
        everybody's.
        """
        with self.raising_together():
            return function(*args) if self.is_root else None

    def broadcast(self, value):
        """The value of rank 0, on every rank."""
        return self.comm.bcast(value, root=0)

    def send_parts(self, parts):
        """Give part r of the list *parts* (made on rank 0) to rank r: numpy arrays of any size in
        dicts.
        """
        if self.size == 1:
            return parts[0]
        if self.is_root:
            for rank in range(1, self.size):
                arrays = parts[rank]
                self.comm.send(
                    {name: (a.shape, a.dtype.str) for name, a in arrays.items()}, dest=rank
                )
                for a in arrays.values():
                    self.comm.Send(np.ascontiguousarray(a), dest=rank)
            return parts[0]
        part = {}
        for name, (shape, dtype) in self.comm.recv(source=0).items():
            part[name] = np.empty(shape, dtype)
            self.comm.Recv(part[name], source=0)
        return part

    def gather_to_root(self, array):
        """The arrays of all ranks as a list on rank 0, None elsewhere."""
        return self.comm.gather(array, root=0)

    def all_gather(self, array):
        """The arrays of all ranks, joined along the last axis in the order of the ranks, on every
        rank.
        """
        return np.concatenate(self.comm.allgather(np.ascontiguousarray(array)), axis=-1)

    def wait(self):
        """Return when every rank has come here."""
        self.comm.Barrier()

    def meet(self, patience):
        """Whether every rank has come here within *patience* seconds."""
        arrived = self.comm.Ibarrier()
        late = time.monotonic() + patience
        while not arrived.Test():
            if time.monotonic() > late:
                return False
            time.sleep(0.01)
        return True

    def all_reports(self, report):
        """[what each rank reports], on every rank: anything that can be pickled."""
        return self.comm.allgather(report)

    def duplicate(self):
        """The same ranks with messages of their own: what a failure has left behind cannot get in
        their way.
        """
        return Ranks(self.comm.Dup())

    def abort(self, status):
        """End the program on every rank at once."""
        self.comm.Abort(status)


def _around_difference(first, second):
    """Two texts, cut to about where they differ."""
    at = next(
        (i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second))
    )
    begin = max(at - 40, 0) if max(len(first), len(second)) > 80 else 0
    return [
        f"{'...' * (begin > 0)}{text[begin : begin + 80]}{'...' * (len(text) > begin + 80)}"
        for text in (first, second)
    ]


def _portable(failure, rank):
    if failure is None or isinstance(failure, InputError):
        return failure
    return RuntimeError(f"rank {rank} failed: {type(failure).__name__}: {failure}")


class Exchange(_Kept):
    """Messages between neighbouring ranks: entries ``send[q]`` go to rank q, entries ``receive[q]``
    come from it.

    Both are dicts from a rank to an index array; the lists of two neighbours have the same order.
    """

    def __init__(self, ranks, send, receive):
        self.comm = ranks.comm
        self.send = {
            rank: np.asarray(index, np.intp) for rank, index in sorted(send.items()) if len(index)
        }
        self.receive = {
            rank: np.asarray(index, np.intp)
            for rank, index in sorted(receive.items())
            if len(index)
        }

    @classmethod
    def ghosts(cls, ranks, owned, ghosts, owner):
        """The exchange that fills ghost cells.

        *owned* and *ghosts* are global cell numbers, owner the rank of each ghost; arrays
        are laid out as [owned | ghosts].
        """
        place = {q: np.flatnonzero(owner == q) for q in np.unique(owner)}
        wanted = ranks.comm.alltoall(
            [ghosts[place[q]] if q in place else ghosts[:0] for q in range(ranks.size)]
        )
        order = np.argsort(owned)
        send = {
            q: order[np.searchsorted(owned, numbers, sorter=order)]
            for q, numbers in enumerate(wanted)
        }
        return cls(ranks, send, {q: len(owned) + index for q, index in place.items()})

    def __call__(self, u, into=None):
        """Copy entries of *u* (..., n) to the neighbours, which put them *into* (default: u
        itself).
        """
        into = u if into is None else into
        if not (self.send or self.receive):
            return into
        arrived = {
            q: np.empty(u.shape[:-1] + index.shape, u.dtype) for q, index in self.receive.items()
        }
        requests = [self.comm.Irecv(buffer, source=q) for q, buffer in arrived.items()]
        leaving = {q: np.ascontiguousarray(u[..., index]) for q, index in self.send.items()}
        requests += [self.comm.Isend(buffer, dest=q) for q, buffer in leaving.items()]
        MPI.Request.Waitall(requests)
        for q, index in self.receive.items():
            into[..., index] = arrived[q]
        return into


class LayerExchange(_Kept):
    """Ghost layers of a block along one axis: *width* layers swapped with the rank below and the
    rank above.

    thinnest : cells of the thinnest block along the axis. Where that is less than the width, layers
        go one at a time, so that the second one may come from the neighbour's neighbour
    """

    def __init__(self, ranks, below, above, axis, width, thinnest):
        self.comm = ranks.comm
        self.below = below
        self.above = above
        self.axis = axis
        self.width = width
        self.at_once = width if thinnest >= width else 1

    def __call__(self, padded):
        """Fill the *width* outer layers of *padded* on both sides where there is a neighbour;
        *padded* itself.
        """
        n = padded.shape[self.axis]
        w = self.width
        m = self.at_once
        for k in range(0, w, m):
            self._shift(
                padded,
                slice(n - w - k - m, n - w - k),
                self.above,
                slice(w - k - m, w - k),
                self.below,
            )
            self._shift(
                padded,
                slice(w + k, w + k + m),
                self.below,
                slice(n - w + k, n - w + k + m),
                self.above,
            )
        return padded

    def _shift(self, padded, leaving, to, arriving, source):
        if to == self.comm.rank and source == self.comm.rank:
            padded[self._layers(arriving)] = padded[self._layers(leaving)]
            return
        sent = np.ascontiguousarray(padded[self._layers(leaving)])
        received = np.empty_like(sent)
        self.comm.Sendrecv(
            sent,
            MPI.PROC_NULL if to is None else to,
            recvbuf=received,
            source=MPI.PROC_NULL if source is None else source,
        )
        if source is not None:
            padded[self._layers(arriving)] = received

    def _layers(self, layers):
        return (slice(None),) * self.axis + (layers,)
