"""Numbers for what several ranks name by the same tuples of numbers, such as the edge between two
points: the places of the tuples among all different ones, in order, on any number of ranks.
"""

import numpy as np

from .. import parallel
from ..arguments.types import IntArray


def number_tuples(ranks: parallel.Ranks, rows: IntArray, n_first: int) -> tuple[IntArray, int]:
    """(number (n,), count): the place of each tuple rows (width, n) among all different ones of all
    ranks, sorted by their first entry, then by their second, and so on. Collective.

    n_first : the first entries are below it. Each rank sorts the tuples of a range of these, so
        that no rank holds them all
    """
    rank_of_tuple = rows[0] * ranks.size // max(n_first, 1)
    by_rank = [np.flatnonzero(rank_of_tuple == q) for q in range(ranks.size)]
    received = ranks.swap([rows[:, mine] for mine in by_rank])

    number, n_different = _number_in_order(np.concatenate(received, axis=1), n_first)
    counts = ranks.all_gather(np.array([n_different]))
    number += counts[: ranks.rank].sum()
    ends = np.cumsum([part.shape[1] for part in received])
    replies = ranks.swap(np.split(number, ends[:-1]))

    result = np.empty(rows.shape[1], np.int64)
    for mine, reply in zip(by_rank, replies):
        result[mine] = reply
    return result, int(counts.sum())


def _number_in_order(rows, n_first):
    """(the place of each tuple among the different ones, the number of these)."""
    if not rows.shape[1]:
        return np.empty(0, np.int64), 0
    width = int(rows[1:].max(initial=0)) + 1
    if len(rows) == 2 and n_first * width < 2**62:
        key = rows[0] * width + rows[1]
        different, number = np.unique(key, return_inverse=True)
        return number.ravel(), len(different)

    order = np.lexsort(rows[::-1])
    ordered = rows[:, order]
    is_new = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    number = np.empty(len(order), np.int64)
    number[order] = np.concatenate([[0], np.cumsum(is_new)])
    return number, int(number[order[-1]]) + 1
