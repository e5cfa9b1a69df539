"""What evolutions in time share: their times and steps, checked."""

import math

import numpy as np

from .functions import is_number, refuse_masked

MOST_STEPS = 10**9  # between two times: on the smallest of meshes they take hours


def check_times(ranks, t):
    """The times (n,) from a final time (the start is 0) or increasing times; `InputError` on every
    rank for anything else.
    """
    with ranks.raising_together():
        refuse_masked(t, "t must be numbers")
    try:
        if isinstance(t, (str, bool)) or np.iscomplexobj(t):
            raise TypeError
        times = np.array([0.0, float(t)]) if np.ndim(t) == 0 else np.asarray(t, float)
    except (TypeError, ValueError):
        times = np.array([])
    ok = (
        times.ndim == 1
        and len(times) > 1
        and np.isfinite(times).all()
        and (np.diff(times) > 0).all()
    )
    ranks.check(
        ok,
        "t must be a final time above 0, or increasing times, the first of which is the start, "
        f"not {t!r}",
    )
    ranks.check_same("t", times.tolist())
    return times


def check_step(ranks, tau, t=()):
    """`InputError` on every rank unless tau is None or a finite step above 0, of which few enough
    reach the times t (n,).
    """
    ranks.check(
        tau is None or (is_number(tau) and tau > 0 and math.isfinite(tau)),
        f"tau must be a step above 0, or None, not {tau!r}",
    )
    ranks.check_same("tau", tau)
    longest = float(np.diff(t).max(initial=0.0))
    ranks.check(
        tau is None or longest / MOST_STEPS <= tau,
        f"tau = {tau} would take {longest / (tau or 1.0):.3g} steps between two of the times t, "
        f"which are up to {longest:.6g} apart: more than {MOST_STEPS:.0e}; give a larger tau",
    )
