"""What measures, masses and powers may be."""

import math

import numpy as np

from ..arguments.functions import as_floats, find_rounding, is_number
from ..errors import InputError

BALANCED = 1e-10  # relative difference of masses that counts as rounding


def numbers(x, what):
    """x as an array of floats; `InputError` where it is none, or where some are not finite."""
    array = as_floats(x, f"{what} must be arrays of finite numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be arrays of finite numbers, not {x!r:.60}")
    return array


def points_of(x, what):
    """(dim, n) from that, or from (n,) on a line."""
    x = np.atleast_2d(numbers(x, what))
    if x.size == 0:
        raise InputError(f"{what}: there are no points, but an array of shape {x.shape}")
    if x.ndim != 2 or x.shape[0] > 3:
        raise InputError(
            f"{what} must be points (dim, n), dim 1 to 3, or (n,) on a line, not of shape {x.shape}"
            + ("; is this the transpose?" if x.ndim == 2 and x.shape[1] <= 3 else "")
        )
    return x


def measure(x, a, what):
    """Points (dim, n) and masses (n,), checked."""
    x = points_of(x, what)
    a = numbers(a, what)
    if a.shape != (x.shape[1],):
        raise InputError(f"{what}: {x.shape[1]} points need as many masses, not shape {a.shape}")
    if (a < 0).any() or not a.any():
        raise InputError(
            f"{what}: the masses must be at least 0, and not all 0, but the smallest is "
            f"{a.min():.6g}"
        )
    return x, a


def same_mass(first, second, *given):
    """The first of two masses; `InputError` where they differ by more than rounding, as the arrays
    that were given have it.
    """
    if abs(first - second) > max(BALANCED, find_rounding(*given)) * max(first, second):
        raise InputError(
            f"the masses differ: {first:.12g} and {second:.12g}; scale one of them, mass is "
            "neither made nor lost"
        )
    return first


def check_power(p):
    """`InputError` unless W_p is a metric for this p."""
    if not is_number(p) or not 1 <= p < math.inf:
        raise InputError(f"p must be a finite number of at least 1, not {p!r}")
