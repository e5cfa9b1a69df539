"""Checks of a chain: finite rates >= 0, and one set of states that is never left.

States that lead to each other and to no others (strongly connected components without a way out)
are a closed class. Each has a stationary distribution of its own: p is unique if there is exactly
one. A chain that ends almost surely has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import Array, BoolArray, IntArray
from ..errors import InputError

# Closed classes that are listed.
MAX_LISTED_CLASSES = 10


def check_chain(rates: Any, killing: Any, center: Any) -> tuple[sparse.csr_matrix, Array, Array]:
    """Rates as CSR without diagonal and zeros, killing (n,), and center (dim, n); dim may be 0."""
    try:
        rates = sparse.csr_matrix(rates, dtype=float, copy=True)
    except (TypeError, ValueError):
        raise InputError(
            f"rates must be a square sparse matrix of numbers, not {type(rates).__name__}"
        ) from None

    n = rates.shape[0]
    if n == 0 or rates.shape != (n, n):
        raise InputError(
            f"rates must be a square matrix with a row for each state, not {rates.shape}"
        )

    rates.sum_duplicates()
    row = np.repeat(np.arange(n), np.diff(rates.indptr))
    rates.data[row == rates.indices] = 0.0
    _require_rates(
        rates.data, lambda bad: f"the rate from state {row[bad]} to state {rates.indices[bad]}"
    )
    rates.eliminate_zeros()

    killing = np.zeros(n) if killing is None else np.asarray(killing, float)
    if killing.shape != (n,):
        raise InputError(
            f"killing must have one rate for each of the {n} states, not the shape {killing.shape}"
        )
    _require_rates(killing, lambda bad: f"the killing rate of state {bad}")

    center = np.empty((0, n)) if center is None else np.ascontiguousarray(center, float)
    if center.ndim != 2 or center.shape[1] != n or not np.isfinite(center).all():
        raise InputError(
            f"center must be the (dim, {n}) finite coordinates of the states, not an array "
            f"{center.shape}"
        )

    return rates, killing, center


def check_states(states: Any, n: int) -> IntArray:
    """Some of n states as an array, each once."""
    array = np.atleast_1d(np.asarray(states))
    if (
        array.ndim != 1
        or len(array) == 0
        or array.dtype.kind not in "iu"
        or len(np.unique(array)) < len(array)
        or array.min() < 0
        or array.max() >= n
    ):
        raise InputError(
            f"states must be different integers from 0 to {n - 1}, at least one, not {states!r:.80}"
        )

    return array.astype(np.int64)


def check_source(source: Any, n: int, name: str = "source") -> Array:
    """Numbers >= 0 for each of n states, such as the masses that are added per time."""
    added = np.asarray(source, float)
    if added.shape != (n,):
        raise InputError(
            f"{name} must have one number for each of the {n} states, not the shape {added.shape}"
        )
    _require_rates(added, lambda bad: f"the {name} of state {bad}")
    return added


def require_one_class(rates: sparse.csr_matrix, killing: Array) -> None:
    """Refuse a chain with several closed classes, and one that ends from some states only."""
    classes = find_closed_classes(rates, killing)[1]
    allowed = 0 if killing.any() else 1
    if len(classes) > allowed:
        states = ", ".join(str(state) for state in classes)
        raise InputError(
            "the chain is disconnected: there are sets of states that are never left, those of "
            f"the states {states}; take each of them as a chain of its own, or give rates (or "
            "killing) that lead out of them"
        )


def find_closed_classes(rates: sparse.csr_matrix, killing: Array) -> tuple[BoolArray, list[int]]:
    """(whether each state is in a closed class (n,), a state of each of the first ten classes)."""
    count, part = connected_components(rates, directed=True, connection="strong")
    row = np.repeat(np.arange(rates.shape[0]), np.diff(rates.indptr))
    is_left = np.zeros(count, bool)
    leads_out = part[row] != part[rates.indices]
    is_left[part[row[leads_out]]] = True
    is_left[part[killing > 0]] = True

    numbers = np.flatnonzero(~is_left)[:MAX_LISTED_CLASSES]
    return ~is_left[part], [int(np.argmax(part == number)) for number in numbers]


def _require_rates(values, name):
    bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    if len(bad):
        raise InputError(f"{name(bad[0])} must be a finite number >= 0, not {values[bad[0]]}")
