"""Ranks: sums, maxima, gather, shared failure, ghost exchange. The only file that imports mpi4py.

Every method of `Ranks` is collective: all ranks of the communicator call it, or none. One rank is
the serial case of the same path; nothing here asks whether a run is parallel.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ConvergenceError, InputError, missing

try:
    from mpi4py import MPI
except ImportError as error:
    raise missing("MPI with mpi4py", error) from None

# Seconds between two looks at whether all ranks have arrived.
POLLING_INTERVAL = 0.01

# Shapes and types of arrays for which an exchange keeps its buffers.
MAX_CHANNELS = 8

# Characters of a value that are shown where two ranks differ, and of those before the difference.
SHOWN_LENGTH = 80
SHOWN_BEFORE = 40


def say(*words: object) -> None:
    """Print words as `print` does, once: on rank 0 of all ranks.

    Parameters
    ----------
    *words
        What to print, separated by blanks.

    Examples
    --------
    >>> import fvot
    >>> fvot.say("mass", 1.0)
    mass 1.0
    """
    if MPI.COMM_WORLD.rank == 0:
        print(*words, flush=True)


def is_finalized() -> bool:
    """Whether MPI has ended, so that no message can be sent any more."""
    return MPI.Is_finalized()


def library_version() -> str:
    """The name and version of the MPI library, in one line."""
    first_line = MPI.Get_library_version().splitlines()[0]
    name = first_line.split(",")[0].strip("\x00 ")
    return " ".join(name.split())


class _HasCommunicator:
    """An object with a communicator. It can be copied and pickled on one rank, and comes back on
    one rank.
    """

    comm: MPI.Comm

    def __getstate__(self):
        if self.comm.size > 1:
            raise InputError(
                f"an object that is shared by {self.comm.size} ranks cannot be copied or pickled: "
                "write it to a file, or mesh.gather its arrays"
            )
        return {name: value for name, value in vars(self).items() if name != "comm"}

    def __setstate__(self, state):
        vars(self).update(state, comm=MPI.COMM_SELF)


class Ranks(_HasCommunicator):
    """The ranks that share a mesh: a thin layer over an MPI communicator (None: all ranks)."""

    def __init__(self, comm: MPI.Comm | None = None):
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.rank = self.comm.rank
        self.size = self.comm.size
        self.is_root = self.rank == 0

    # ---- reductions ------------------------------------------------------------------------------

    def sum(self, x: ArrayLike) -> Any:
        """Sum over the ranks, element by element; a number for a scalar."""
        return self._reduce(x, MPI.SUM)

    def max(self, x: ArrayLike) -> Any:
        """Largest over the ranks, element by element."""
        return self._reduce(x, MPI.MAX)

    def min(self, x: ArrayLike) -> Any:
        """Smallest over the ranks, element by element."""
        return self._reduce(x, MPI.MIN)

    def _reduce(self, x, operation):
        x = np.asarray(x, order="C")
        if x.dtype == bool:  # MPI compares numbers
            x = x.astype(np.int64)
        total = np.empty_like(x)
        self.comm.Allreduce(x, total, operation)
        return total if total.ndim else total.item()

    def count_memory(self) -> int:
        """The bytes of memory of all computers on which the ranks run. Collective."""
        neighbours = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        is_first = neighbours.rank == 0
        neighbours.Free()
        here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return self.sum(here if is_first else 0)

    # ---- shared failure --------------------------------------------------------------------------

    def check(self, ok: object, message: str, error: type[Exception] = InputError) -> None:
        """Raise *error* with the message of the first rank on which *ok* is false, on every rank.

        Where it is true on others, the message says which rank that is.
        """
        problems = self.comm.allgather(None if ok else message)
        wrong = [rank for rank, problem in enumerate(problems) if problem is not None]
        if not wrong:
            return
        first = wrong[0]
        place = f" (on rank {first})" if len(wrong) < self.size else ""
        raise error(problems[first] + place)

    def check_same(self, what: str, value: object) -> None:
        """`InputError` on every rank unless *value* looks the same on all of them."""
        texts = self.comm.allgather(repr(value))
        for rank, text in enumerate(texts):
            if text != texts[0]:
                here, there = _excerpts_at_difference(texts[0], text)
                remedy = ""
                if isinstance(value, (int, float)):
                    remedy = "; mesh.ranks.min, .max and .sum make one number of what each rank has"
                raise InputError(
                    f"{what} must be the same on every rank: it is {here} on rank 0 and {there} on "
                    f"rank {rank}{remedy}"
                )

    def check_choice(self, what: str, value: object, choices: Sequence[str]) -> None:
        """`InputError` on every rank unless *value* is one of the choices, the same on all."""
        *others, last = map(repr, choices)
        wanted = f"{', '.join(others)} or {last}"
        self.check(value in choices, f"{what} must be {wanted}, not {value!r:.60}")
        self.check_same(what, value)

    def check_same_array(self, what: str, array: ArrayLike) -> None:
        """`InputError` on every rank unless the array is bitwise the same on all of them."""
        array = np.ascontiguousarray(array)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        digests = self.comm.allgather((array.shape, digest))
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise InputError(
                    f"{what} must be the same array on every rank: on rank {rank} it is not that "
                    "of rank 0"
                )

    @contextmanager
    def raising_together(self) -> Iterator[None]:
        """A block without collective calls: if it raises on one rank, every rank raises.

        Where input is wrong on several ranks, all raise the error of the first one. Otherwise a
        rank that fails raises its own exception, the others a copy of the first one.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error

        failures = self.comm.allgather(_make_portable(failure, self.rank))
        first = next((other for other in failures if other is not None), None)
        if failure is not None:
            is_first = failures.index(first) == self.rank
            if is_first or not isinstance(failure, InputError):
                raise failure
        if first is not None:
            raise first

    # ---- between rank 0 and the others -----------------------------------------------------------

    def on_root(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) on rank 0 alone; its value there and None elsewhere. If it raises, every
        rank raises.
        """
        with self.raising_together():
            return function(*args) if self.is_root else None

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        return self.comm.bcast(value, root=0)

    def serve(self, apply: Callable[[Any], Any], work: Callable[[Callable], Any]) -> Any:
        """work(act) on rank 0, where act(x) is apply(x) on all ranks; all ranks get its value.

        apply is collective; the other ranks wait for its arguments until the work is done.
        """
        if self.size == 1:
            return work(apply)
        if not self.is_root:
            while True:
                is_done, x = self.broadcast(None)
                if is_done:
                    if isinstance(x, Exception):
                        raise x
                    return x
                apply(x)

        failures = []

        def act(x: Any) -> Any:
            self.broadcast((False, x))
            try:
                return apply(x)
            except Exception as error:  # on all ranks, which then do not wait any more
                failures.append(error)
                raise

        value = _attempt(work, act)
        if failures:
            raise failures[0]
        self.broadcast((True, value))
        if isinstance(value, Exception):
            raise value
        return value

    def send_parts(self, parts: Any) -> dict[str, np.ndarray]:
        """Give part r of the list *parts* (made on rank 0) to rank r: dicts of numpy arrays of any
        size.
        """
        if self.size == 1:
            return parts[0]
        if self.is_root:
            for rank in range(1, self.size):
                self._send_arrays(parts[rank], rank)
            return parts[0]
        return self._receive_arrays(source=0)

    def _send_arrays(self, arrays, rank):
        headers = {name: (a.shape, a.dtype.str) for name, a in arrays.items()}
        self.comm.send(headers, dest=rank)
        for a in arrays.values():
            self.comm.Send(np.ascontiguousarray(a), dest=rank)

    def _receive_arrays(self, source):
        arrays = {}
        for name, (shape, dtype) in self.comm.recv(source=source).items():
            arrays[name] = np.empty(shape, dtype)
            self.comm.Recv(arrays[name], source=source)
        return arrays

    def gather_to_root(self, array: Any) -> Any:
        """The arrays of all ranks as a list on rank 0, None elsewhere."""
        return self.comm.gather(array, root=0)

    # ---- among all -------------------------------------------------------------------------------

    def all_gather(self, array: ArrayLike) -> NDArray[Any]:
        """The arrays of all ranks, joined along the last axis in the order of the ranks, on every
        rank.
        """
        return np.concatenate(self.comm.allgather(np.ascontiguousarray(array)), axis=-1)

    def swap(self, messages: list[Any]) -> list[Any]:
        """[the message of each rank to this one], where messages[q] goes to rank q."""
        return self.comm.alltoall(messages)

    def all_reports(self, report: Any) -> list[Any]:
        """[the report of each rank], on every rank: anything that can be pickled."""
        return self.comm.allgather(report)

    def wait(self) -> None:
        """Return when every rank has arrived here."""
        self.comm.Barrier()

    def meet(self, patience: float) -> bool:
        """Whether every rank has arrived here within *patience* seconds."""
        arrived = self.comm.Ibarrier()
        deadline = time.monotonic() + patience
        while not arrived.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLLING_INTERVAL)
        return True

    def alone(self) -> Ranks:
        """This rank by itself, for what each does without the others."""
        return Ranks(MPI.COMM_SELF)

    def duplicate(self) -> Ranks:
        """The same ranks with messages of their own: those that a failure has left behind cannot
        interfere.
        """
        return Ranks(self.comm.Dup())

    def abort(self, status: int) -> None:
        """End the program on every rank at once."""
        self.comm.Abort(status)


def _excerpts_at_difference(first, second):
    """Two texts, each cut to an excerpt around their first difference."""
    shorter = min(len(first), len(second))
    pairs = enumerate(zip(first, second))
    place = next((i for i, (a, b) in pairs if a != b), shorter)
    is_long = max(len(first), len(second)) > SHOWN_LENGTH
    begin = max(place - SHOWN_BEFORE, 0) if is_long else 0
    return [_cut(text, begin) for text in (first, second)]


def _cut(text, begin):
    end = begin + SHOWN_LENGTH
    before = "..." if begin > 0 else ""
    after = "..." if len(text) > end else ""
    return f"{before}{text[begin:end]}{after}"


def _attempt(work, act):
    """work(act), or the `InputError` or `ConvergenceError` that it raises."""
    try:
        return work(act)
    except (InputError, ConvergenceError) as error:
        return error


def _make_portable(failure, rank):
    """The failure as it can be sent to other ranks."""
    if failure is None or isinstance(failure, InputError):
        return failure
    if isinstance(failure, ConvergenceError):
        return ConvergenceError(str(failure))  # its result is that of one rank
    return RuntimeError(f"rank {rank} failed: {type(failure).__name__}: {failure}")


class Exchange(_HasCommunicator):
    """Messages between neighbouring ranks: the entries ``send[q]`` go to rank q, the entries
    ``receive[q]`` come from it.

    Both are dicts from a rank to an index array; the lists of two neighbours have the same order.
    Buffers and requests are kept for arrays of the last few shapes and types.
    """

    def __init__(
        self, ranks: Ranks, send: Mapping[int, ArrayLike], receive: Mapping[int, ArrayLike]
    ):
        self.comm = ranks.comm
        self.send = _sort_by_rank(send)
        self.receive = _sort_by_rank(receive)
        self._channels: dict[tuple, _Channel] = {}

    def __getstate__(self):
        return super().__getstate__() | dict(_channels={})

    @classmethod
    def ghosts(
        cls, ranks: Ranks, owned: NDArray[Any], ghosts: NDArray[Any], owner: NDArray[Any]
    ) -> Exchange:
        """The exchange that fills ghost cells.

        *owned* and *ghosts* are global cell numbers, *owner* the rank of each ghost; arrays are
        laid out as [owned | ghosts].
        """
        place = {q: np.flatnonzero(owner == q) for q in np.unique(owner)}
        none = ghosts[:0]
        wanted = [ghosts[place[q]] if q in place else none for q in range(ranks.size)]
        requested = ranks.swap(wanted)

        order = np.argsort(owned)
        send = {
            q: order[np.searchsorted(owned, numbers, sorter=order)]
            for q, numbers in enumerate(requested)
        }
        receive = {q: len(owned) + index for q, index in place.items()}
        return cls(ranks, send, receive)

    def __call__(self, u: NDArray[Any], into: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy entries of *u* (..., n) to the neighbours, which put them *into* an array (default:
        u itself).
        """
        target = u if into is None else into
        for q, values in self._swap(u, False).items():
            target[..., self.receive[q]] = values
        return target

    def add(self, u: NDArray[Any]) -> NDArray[Any]:
        """Send the copies of entries of *u* (..., n) back to their owners, which add them to their
        own.
        """
        for q, values in self._swap(u, True).items():
            u[..., self.send[q]] += values
        return u

    def _swap(self, u, is_backwards):
        """{rank: the values that come from it}, backwards those that are sent otherwise; they are
        in buffers that the next exchange fills again.
        """
        if not (self.send or self.receive):
            return {}
        send, receive = (self.receive, self.send) if is_backwards else (self.send, self.receive)
        key = (is_backwards, u.shape[:-1], u.dtype)
        channel = self._channels.pop(key, None)
        if channel is None:
            channel = _Channel(self.comm, send, receive, u.shape[:-1], u.dtype)
        channel.run(u)
        self._channels[key] = channel
        if len(self._channels) > MAX_CHANNELS:
            del self._channels[next(iter(self._channels))]
        return channel.received


class _Channel:
    """The buffers of an exchange of arrays of one shape and type, and its persistent requests."""

    def __init__(self, comm, send, receive, shape, dtype):
        self._requests: list[MPI.Prequest] = []
        self._send = send
        self.received = {q: np.empty(shape + index.shape, dtype) for q, index in receive.items()}
        self._sent = {q: np.empty(shape + index.shape, dtype) for q, index in send.items()}
        self._requests = [
            *(comm.Recv_init(buffer, source=q) for q, buffer in self.received.items()),
            *(comm.Send_init(buffer, dest=q) for q, buffer in self._sent.items()),
        ]

    def run(self, u: NDArray[Any]) -> None:
        """Send entries of *u* (..., n), and fill *received*."""
        for q, index in self._send.items():
            np.take(u, index, axis=-1, out=self._sent[q], mode="clip")  # other modes copy twice
        MPI.Prequest.Startall(self._requests)
        MPI.Request.Waitall(self._requests)

    def __del__(self, is_finalized=MPI.Is_finalized):
        if not is_finalized():
            for request in self._requests:
                request.Free()


def _sort_by_rank(lists):
    """The lists that are not empty, as index arrays, in the order of the ranks."""
    return {rank: np.asarray(index, np.intp) for rank, index in sorted(lists.items()) if len(index)}


class Gathering(_HasCommunicator):
    """Vectors of numbers, of which each rank has a part of n, put together on rank 0 and taken
    apart again. The buffers are made once.

    whole : what `gather` fills; empty on other ranks than rank 0

    Collective.
    """

    def __init__(self, ranks: Ranks, n: int):
        self.comm = ranks.comm
        self._counts = ranks.all_gather(np.array([n]))
        self._part = np.empty(n)
        self.whole = np.empty(self._counts.sum() if ranks.is_root else 0)

    def gather(self, part: NDArray[Any]) -> None:
        """Fill *whole* with the parts (n,) of all ranks. Collective."""
        self.comm.Gatherv(part, (self.whole, self._counts), root=0)

    def scatter(self, whole: NDArray[Any]) -> NDArray[Any]:
        """This rank's part (n,) of what rank 0 has; a buffer that the next call fills again.
        Collective.
        """
        self.comm.Scatterv((whole, self._counts), self._part, root=0)
        return self._part


class LayerExchange(_HasCommunicator):
    """Ghost layers of a block along one axis: *width* layers swapped with the rank below and the
    rank above.

    below, above : these ranks, None where there is none
    thinnest : cells of the thinnest block along the axis. Where that is less than the width, layers
        go one at a time, so that the second one may come from the neighbour's neighbour
    """

    def __init__(
        self,
        ranks: Ranks,
        below: int | None,
        above: int | None,
        axis: int,
        width: int,
        thinnest: int,
    ):
        self.comm = ranks.comm
        self.below = below
        self.above = above
        self.axis = axis
        self.width = width
        self.layers_at_once = width if thinnest >= width else 1

    def __call__(self, padded: NDArray[Any]) -> NDArray[Any]:
        """Fill the *width* outer layers of *padded* on both sides where there is a neighbour;
        return *padded* itself.
        """
        n = padded.shape[self.axis]
        w = self.width
        m = self.layers_at_once
        for k in range(0, w, m):
            top_own = slice(n - w - k - m, n - w - k)
            bottom_ghost = slice(w - k - m, w - k)
            self._shift(padded, top_own, self.above, bottom_ghost, self.below)

            bottom_own = slice(w + k, w + k + m)
            top_ghost = slice(n - w + k, n - w + k + m)
            self._shift(padded, bottom_own, self.below, top_ghost, self.above)
        return padded

    def _shift(self, padded, own, destination, ghost, source):
        if destination == self.comm.rank and source == self.comm.rank:
            padded[self._index(ghost)] = padded[self._index(own)]
            return
        sent = np.ascontiguousarray(padded[self._index(own)])
        received = np.empty_like(sent)
        self.comm.Sendrecv(
            sent,
            MPI.PROC_NULL if destination is None else destination,
            recvbuf=received,
            source=MPI.PROC_NULL if source is None else source,
        )
        if source is not None:
            padded[self._index(ghost)] = received

    def _index(self, layers):
        return (slice(None),) * self.axis + (layers,)


class ColumnDeal(_HasCommunicator):
    """Arrays with the own rows of all columns, turned into all rows of the own columns, and back.

    Each way is one message to every other rank. Columns are dealt in blocks as equal as can be;
    ranks beyond their number get none.

    own : the global numbers of the rows of this rank; all ranks have each of them once
    """

    def __init__(self, ranks: Ranks, own: NDArray[Any]):
        self.comm = ranks.comm
        self._n_rows = np.array(ranks.all_reports(len(own)))
        number = ranks.all_gather(np.asarray(own, np.intp))
        is_sorted = (np.diff(number) > 0).all()
        self._number = slice(None) if is_sorted else number

    def columns(self, n_columns: int) -> slice:
        """Those of n_columns that are dealt to this rank."""
        begin, end = self._find_ends(n_columns)[self.comm.rank :][:2]
        return slice(int(begin), int(end))

    def _find_ends(self, n_columns):
        return np.arange(self.comm.size + 1) * n_columns // self.comm.size

    def collect(self, u: NDArray[Any]) -> NDArray[Any]:
        """All rows (n_rows, k) of the columns of this rank, from own rows (n_own, n_columns)."""
        if self.comm.size == 1:
            return self._sort(u)

        ends = self._find_ends(u.shape[1])
        widths = np.diff(ends)
        width = widths[self.comm.rank]
        blocks = [u[:, begin:end].ravel() for begin, end in zip(ends, ends[1:])]
        sent = np.concatenate(blocks)
        received = np.empty((self._n_rows.sum(), width), u.dtype)
        self.comm.Alltoallv([sent, len(u) * widths], [received, self._n_rows * width])
        return self._sort(received)

    def give_back(self, u: NDArray[Any], n_columns: int) -> NDArray[Any]:
        """Own rows (n_own, n_columns), from all rows (n_rows, k) of the columns of this rank."""
        sent = np.ascontiguousarray(u[self._number])
        if self.comm.size == 1:
            return sent

        ends = self._find_ends(n_columns)
        widths = np.diff(ends)
        width = widths[self.comm.rank]
        n_own = self._n_rows[self.comm.rank]
        received = np.empty(n_own * n_columns, u.dtype)
        self.comm.Alltoallv([sent, self._n_rows * width], [received, n_own * widths])
        out = np.empty((n_own, n_columns), u.dtype)
        for begin, end in zip(ends, ends[1:]):
            block = received[n_own * begin : n_own * end]
            out[:, begin:end] = block.reshape(n_own, end - begin)
        return out

    def _sort(self, rows):
        """Rows in the order of the ranks, put in that of their numbers."""
        if isinstance(self._number, slice):
            return rows
        out = np.empty(rows.shape, rows.dtype)
        out[self._number] = rows
        return out
