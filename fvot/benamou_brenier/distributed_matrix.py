"""Sparse matrices dealt to ranks, for arrays of many columns: time nodes or modes, contiguous, one
halo for all of them.
"""

import numba
import numpy as np
from scipy import sparse

from ..parallel import Exchange


class DistributedMatrix:
    """This rank's rows of a sparse matrix; `matrix @ u` for u (n_columns, k) of this rank gives
    (n_rows, k).

    matrix : rows (CSR) over this rank's own columns, followed by ghosts
    exchange : fills the ghosts; None where there are none
    """

    def __init__(self, matrix, n_own, exchange):
        self.start = matrix.indptr.astype(np.int32)
        self.index = matrix.indices.astype(np.int32)
        self.value = matrix.data
        self.n_local = matrix.shape[1]
        self.n_own = n_own
        self.exchange = exchange

    @classmethod
    def rows(cls, ranks, matrix, own, owner):
        """From this rank's rows with global columns (CSR); *own*: the global numbers of its
        columns, owner: ranks of all.

        Entries stay in the order in which they are: sums are the same for any number of ranks.
        """
        place = np.full(len(owner), -1, np.int64)
        place[own] = np.arange(len(own))
        ghosts = np.unique(matrix.indices[place[matrix.indices] < 0])
        place[ghosts] = len(own) + np.arange(len(ghosts))
        local = sparse.csr_matrix(
            (matrix.data, place[matrix.indices], matrix.indptr),
            (matrix.shape[0], len(own) + len(ghosts)),
        )
        exchange = Exchange.ghosts(ranks, own, ghosts, owner[ghosts]) if ranks.size > 1 else None
        return cls(local, len(own), exchange)

    def with_ghosts(self, u):
        """u (n_own, k) and the ghosts' values: (n_local, k)."""
        if self.n_local == self.n_own and not (self.exchange and self.exchange.send):
            return u
        local = np.empty((self.n_local, u.shape[1]), u.dtype)
        local[: self.n_own] = u
        self.exchange(local.T)
        return local

    def __matmul__(self, u):
        out = np.zeros((len(self.start) - 1, u.shape[1]), u.dtype)
        return self.add(u, out)

    def add(self, u, out):
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


def packed(name, matrix):
    """The arrays of a sparse matrix, for a dict that is dealt to a rank."""
    matrix = matrix.tocsr()
    return {
        f"{name} start": matrix.indptr,
        f"{name} index": matrix.indices,
        f"{name} value": matrix.data,
        f"{name} shape": np.array(matrix.shape),
    }


def unpacked(part, name):
    """The matrix (CSR) that `packed` has put into a dict."""
    start, index, value, shape = (
        part[f"{name} {what}"] for what in ("start", "index", "value", "shape")
    )
    return sparse.csr_matrix((value, index, start), tuple(shape))
