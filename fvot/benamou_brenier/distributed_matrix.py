"""Distributed sparse matrices for arrays with many contiguous columns: time nodes or modes.

One halo exchange serves all columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from scipy import sparse

from ..arguments.types import Array, IntArray
from ..parallel import Exchange, Ranks


class DistributedMatrix:
    """This rank's rows of a sparse matrix; `matrix @ u` for u (n_columns, k) of this rank gives
    (n_rows, k).

    matrix : rows (CSR) over this rank's own columns, followed by ghosts
    exchange : fills the ghosts; None where there are none
    """

    def __init__(self, matrix: sparse.csr_matrix, exchange: Exchange | None):
        self.start = matrix.indptr.astype(np.int32, copy=False)
        self.index = matrix.indices.astype(np.int32, copy=False)
        self.value = matrix.data
        self.n_local = matrix.shape[1]
        self.exchange = exchange

    @classmethod
    def rows(
        cls, ranks: Ranks, matrix: sparse.csr_matrix, own: IntArray, owner: IntArray
    ) -> DistributedMatrix:
        """The matrix from this rank's rows (CSR) with global columns.

        own : the global numbers of this rank's columns
        owner : the rank of each column

        Entries keep their order, so that sums are the same for any number of ranks.
        """
        place = np.full(len(owner), -1, np.int64)
        place[own] = np.arange(len(own))
        ghosts = np.unique(matrix.indices[place[matrix.indices] < 0])
        place[ghosts] = len(own) + np.arange(len(ghosts))
        shape = (matrix.shape[0], len(own) + len(ghosts))
        local = sparse.csr_matrix((matrix.data, place[matrix.indices], matrix.indptr), shape)
        exchange = Exchange.ghosts(ranks, own, ghosts, owner[ghosts]) if ranks.size > 1 else None
        return cls(local, exchange)

    def with_ghosts(self, u: Array) -> Array:
        """u (n_own, k) and the ghosts' values: (n_local, k)."""
        return append_ghosts(u, self.n_local, self.exchange)

    def __matmul__(self, u: Array) -> Array:
        out = np.zeros((len(self.start) - 1, u.shape[1]), u.dtype)
        return self.add(u, out)

    def add(self, u: Array, out: Array) -> Array:
        """out += matrix @ u; *out* itself."""
        _add(self.start, self.index, self.value, self.with_ghosts(u), out)
        return out


@numba.njit(cache=True)
def _add(start, index, value, u, out):
    k = u.shape[1]
    for i in range(len(start) - 1):
        for e in range(start[i], start[i + 1]):
            v = value[e]
            row = index[e]
            for j in range(k):
                out[i, j] += v * u[row, j]


def append_ghosts(u: Array, n_local: int, exchange: Exchange | None) -> Array:
    """Own values (n_own, k) followed by those of the ghosts: (n_local, k).

    It is u itself where there are no ghosts.

    exchange : fills the ghosts; None where no rank has any
    """
    if exchange is None or n_local == len(u) and not exchange.send:
        return u

    local = np.empty((n_local, u.shape[1]), u.dtype)
    local[: len(u)] = u
    exchange(local.T)
    return local


def list_owners(cells_of_ranks: Sequence[IntArray]) -> IntArray:
    """The rank of each cell, from the numbers of the cells of each rank."""
    sizes = [len(cells) for cells in cells_of_ranks]
    ranks = np.arange(len(sizes), dtype=np.int32)
    owner = np.empty(sum(sizes), np.int32)
    owner[np.concatenate(cells_of_ranks)] = np.repeat(ranks, sizes)
    return owner


def pack_matrix(name: str, matrix: sparse.spmatrix) -> dict[str, Array]:
    """The arrays of a sparse matrix, for a dict that is sent to a rank."""
    matrix = matrix.tocsr()
    return {
        f"{name} start": matrix.indptr,
        f"{name} index": matrix.indices,
        f"{name} value": matrix.data,
        f"{name} shape": np.array(matrix.shape),
    }


def unpack_matrix(part: dict[str, Array], name: str) -> sparse.csr_matrix:
    """The matrix (CSR) that `pack_matrix` has put into a dict."""
    arrays = (part[f"{name} value"], part[f"{name} index"], part[f"{name} start"])
    return sparse.csr_matrix(arrays, tuple(part[f"{name} shape"]))
