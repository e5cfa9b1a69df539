"""The times and steps of evolutions, checked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..parallel import Ranks
from .functions import is_number, refuse_masked
from .types import Array

# Steps between two recorded times at most: on the smallest meshes they take hours.
MAX_STEPS = 10**9


def check_times(ranks: Ranks, t: ArrayLike) -> Array:
    """The times (n,) from a final time (the start is 0) or increasing times; `InputError` on every
    rank for anything else.
    """
    with ranks.raising_together():
        refuse_masked(t, "t must be numbers")
    times = _as_times(t)
    increases = (
        times.ndim == 1
        and len(times) > 1
        and np.isfinite(times).all()
        and (np.diff(times) > 0).all()
    )
    ranks.check(
        increases,
        "t must be a final time above 0, or increasing times, the first of which is the start, "
        f"not {t!r}",
    )
    ranks.check_same("t", times.tolist())
    return times


def _as_times(t):
    """The times as an array, which is empty where they are no real numbers."""
    if isinstance(t, (str, bool)):
        return np.array([])
    try:
        if np.iscomplexobj(t):
            return np.array([])
        return np.array([0.0, float(t)]) if np.ndim(t) == 0 else np.asarray(t, float)
    except (TypeError, ValueError):
        return np.array([])


def check_step(ranks: Ranks, tau: float | None, t: ArrayLike = ()) -> None:
    """`InputError` on every rank unless tau is None, or a finite step above 0 with which the times
    t (n,) can be reached.
    """
    is_step = tau is None or (is_number(tau) and tau > 0 and math.isfinite(tau))
    ranks.check(is_step, f"tau must be a step above 0, or None, not {tau!r}")
    ranks.check_same("tau", tau)

    longest = float(np.diff(t).max(initial=0.0))
    ranks.check(
        tau is None or longest / MAX_STEPS <= tau,
        f"tau = {tau} would take {longest / (tau or 1.0):.3g} steps between two of the times t, "
        f"which are up to {longest:.6g} apart: more than {MAX_STEPS:.0e}; give a larger tau",
    )
