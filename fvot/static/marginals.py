"""Checks of measures, masses and powers."""

import math
from typing import Any

import numpy as np

from ..arguments.functions import as_floats, find_rounding, is_number
from ..arguments.types import Array, ArrayLike
from ..errors import InputError

# Relative difference of two masses that counts as rounding.
MASS_ROUNDING = 1e-10


def as_finite_array(x: ArrayLike, name: str) -> Array:
    """x as an array of floats; raises `InputError` unless all of them are finite."""
    array = as_floats(x, f"{name} must be arrays of finite numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be arrays of finite numbers, not {x!r:.60}")

    return array


def as_points(x: ArrayLike, name: str) -> Array:
    """Points (dim, n) of x (dim, n), or of x (n,) on a line."""
    x = np.atleast_2d(as_finite_array(x, name))
    if x.size == 0:
        raise InputError(f"{name}: there are no points, but an array of shape {x.shape}")

    if x.ndim != 2 or x.shape[0] > 3:
        may_be_transposed = x.ndim == 2 and x.shape[1] <= 3
        raise InputError(
            f"{name} must be points (dim, n), dim 1 to 3, or (n,) on a line, not of shape {x.shape}"
            + ("; is this the transpose?" if may_be_transposed else "")
        )

    return x


def as_measure(x: ArrayLike, a: ArrayLike, name: str) -> tuple[Array, Array]:
    """Points (dim, n) and masses (n,) >= 0, checked."""
    x = as_points(x, name)
    a = as_finite_array(a, name)
    if a.shape != (x.shape[1],):
        raise InputError(f"{name}: {x.shape[1]} points need as many masses, not shape {a.shape}")

    if (a < 0).any() or not a.any():
        raise InputError(
            f"{name}: the masses must be at least 0, and not all 0, but the smallest is "
            f"{a.min():.6g}"
        )

    return x, a


def find_common_mass(first: float, second: float, *given: ArrayLike) -> float:
    """The first of two masses; raises `InputError` where they differ by more than rounding.

    given : the arrays that the user gave, whose precision decides what counts as rounding
    """
    rounding = max(MASS_ROUNDING, find_rounding(*given))
    if abs(first - second) > rounding * max(first, second):
        raise InputError(
            f"the masses differ: {first:.12g} and {second:.12g}; scale one of them, mass is "
            "conserved"
        )

    return first


def check_power(p: Any) -> None:
    """Raise `InputError` unless W_p is a metric for this p."""
    if not is_number(p) or not 1 <= p < math.inf:
        raise InputError(f"p must be a finite number of at least 1, not {p!r}")
