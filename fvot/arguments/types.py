"""Names of types that signatures share: arrays, the functions that users may give, and choices."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
Path: TypeAlias = str | PathLike[str]

# f(x) with x (dim, n), returning (n,) or (dim, n); or f(x, t).
PointFunction: TypeAlias = Callable[[Array], ArrayLike]
TimeFunction: TypeAlias = Callable[[Array, float], ArrayLike]

# A coefficient: a number or vector, values of cells, or a function of place and perhaps time.
Coefficient: TypeAlias = ArrayLike | PointFunction | TimeFunction

# (U, k) -> (a, b), the flux from left to right being a rho_left - b rho_right.
TwoPointFlux: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]

Precision: TypeAlias = Literal["double", "single"]

# How diffusion is discretised: two numbers for each face, or with unknowns at the corners of cells.
Scheme: TypeAlias = Literal["auto", "two_point", "corners"]

# How the points of intervals and rectangles are measured: volumes and areas may stand for rings.
Coordinates: TypeAlias = Literal["cartesian", "cylindrical", "spherical"]

__all__ = [
    "Array",
    "ArrayLike",
    "BoolArray",
    "Coefficient",
    "Coordinates",
    "IntArray",
    "Path",
    "PointFunction",
    "Precision",
    "Scheme",
    "TimeFunction",
    "TwoPointFlux",
]
