"""Local energies int e(rho(x), x) dx, by their value e, derivative and curvature in rho."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from scipy import special

from ..arguments.frozen import frozen
from ..arguments.functions import Function, as_floats, as_function, is_number
from ..arguments.types import Array, Coefficient
from ..errors import InputError
from .energy import Energy

# The largest whole power whose difference quotient is summed term by term.
MAX_SUMMED_POWER = 16


@frozen
@dataclass(frozen=True)
class Entropy(Energy):
    """D int rho log rho dx: its gradient flow is diffusion (Jordan, Kinderlehrer, Otto 1998).

    Parameters
    ----------
    D : float
        The diffusivity, above 0.

    Examples
    --------
    >>> import fvot
    >>> fvot.Entropy(0.5)
    Entropy(D=0.5)
    """

    D: float = 1.0

    def __post_init__(self):
        _check(
            is_number(self.D) and 0 < self.D < math.inf,
            f"Entropy: D must be a finite number above 0, not {self.D!r}",
        )

    def value(self, rho: Array, x: Array) -> Any:
        return self.D * special.xlogy(rho, rho)

    def derivative(self, rho: Array, x: Array) -> Any:
        with np.errstate(divide="ignore"):
            return self.D * (np.log(rho) + 1)

    def curvature(self, rho: Array, x: Array) -> Any:
        with np.errstate(divide="ignore", over="ignore"):
            return self.D / rho

    def difference(self, rho: Array, old: Array, x: Array) -> Any:
        quotient_and_slope = np.empty((2, len(rho)))
        _divide_entropies(rho, old, self.D, quotient_and_slope)
        return quotient_and_slope


@frozen
@dataclass(frozen=True)
class Power(Energy):
    """int rho^m / (m - 1) dx: porous media for m > 1, fast diffusion for m < 1 (Otto 2001).

    Parameters
    ----------
    m : float
        The exponent, above 0 and not 1.

    Examples
    --------
    >>> import fvot
    >>> fvot.Power(2)
    Power(m=2)
    """

    m: float

    def __post_init__(self):
        _check(
            is_number(self.m) and 0 < self.m < math.inf and self.m != 1,
            "Power: m must be a finite number above 0, and not 1 (that is Entropy()), not "
            f"{self.m!r}",
        )

    def value(self, rho: Array, x: Array) -> Any:
        return rho**self.m / (self.m - 1)

    def derivative(self, rho: Array, x: Array) -> Any:
        with np.errstate(divide="ignore"):
            return self.m / (self.m - 1) * rho ** (self.m - 1)

    def curvature(self, rho: Array, x: Array) -> Any:
        with np.errstate(divide="ignore", over="ignore"):
            return self.m * rho ** (self.m - 2)

    def difference(self, rho: Array, old: Array, x: Array) -> Any:
        if self.m % 1 or self.m > MAX_SUMMED_POWER:
            return super().difference(rho, old, x)

        # The sum of rho^(m - 1 - k) old^k / (m - 1) over k < m takes no division.
        m = int(self.m)
        mean = np.zeros(len(rho))
        slope = np.zeros(len(rho))
        for k in range(m):  # Horner's rule for both
            slope = slope * rho + mean
            mean = mean * rho + old**k
        return mean / (m - 1), slope / (m - 1)


@frozen
@dataclass(frozen=True)
class Potential(Energy):
    """int V rho dx: mass drifts along -grad V.

    Parameters
    ----------
    V : function, float or (n_cells,) array
        A function V(x) of points (dim, n), a constant, or cell values of the mesh. In `JKO` it may
        depend on time, V(x, t).

    Examples
    --------
    >>> import fvot
    >>> energy = fvot.Entropy() + fvot.Potential(lambda x: x[0] ** 2)

    The way to a place, around whatever stands there:

    >>> mesh = fvot.Mesh.rectangle((0, 0), (3, 3), (3, 3)).without([4])
    >>> V = mesh.geodesic_distance([[0.5], [1.5]], mesh.gather(mesh.center))[0]
    >>> energy = fvot.Power(2) + fvot.Potential(mesh.scatter(V))
    """

    V: Coefficient
    _V: Function | Array = field(init=False, repr=False, compare=False)
    name = "potential_energy"

    def __post_init__(self):
        object.__setattr__(self, "_V", _read_potential(self.V))

    @property
    def has_cell_values(self) -> bool:
        """Whether V is given by cell values.

        Returns
        -------
        bool
        """
        return isinstance(self._V, np.ndarray)

    @property
    def depends_on_time(self) -> bool:
        """Whether V is a function of place and time.

        Returns
        -------
        bool
        """
        return not isinstance(self._V, np.ndarray) and self._V.depends_on_time

    def values(self, x: Array, t: float = 0.0) -> Array:
        """V at points.

        Parameters
        ----------
        x : array (dim, n)
            The points; where V is given by cell values, those of the cells.
        t : float, optional
            The time.

        Returns
        -------
        array (n,)
        """
        if not isinstance(self._V, np.ndarray):
            return self._V(x, t)

        if len(self._V) != x.shape[1]:
            raise InputError(
                f"Potential: V has {len(self._V)} values, but there are {x.shape[1]} cells here; "
                "mesh.scatter(V) makes this rank's part of the values of all cells"
            )
        return self._V

    def value(self, rho: Array, x: Array) -> Any:
        return self.values(x) * rho

    def derivative(self, rho: Array, x: Array) -> Any:
        return self.values(x)

    def curvature(self, rho: Array, x: Array) -> Any:
        return np.zeros(len(rho))


@numba.njit(cache=True, error_model="numpy")
def _divide_entropies(rho, old, D, out):
    """Set out to D (log old + (1 + z) log(1 + z) / z) and its slope D (z - log(1 + z)) / (z^2 old),
    z = (rho - old) / old.
    """
    for i in range(len(rho)):
        z = (rho[i] - old[i]) / old[i]
        if not abs(z) < 1e200:  # old is 0, or nearly so
            out[0, i] = D * math.log(rho[i])
            out[1, i] = D / rho[i]
            continue
        ratio = rho[i] / old[i]
        slope = 0.0
        log = math.log1p(z) if abs(z) < 0.5 else math.log(ratio)
        mean = ratio * log / z if z != 0 else 1.0
        if abs(z) < 1e-2:
            for k in range(9, 1, -1):  # (z - log1p(z)) / z^2 = 1/2 - z/3 + z^2/4 - ...
                slope = 1 / k - z * slope
        else:
            slope = (z - log) / z / z
        out[0, i] = D * (math.log(old[i]) + mean)
        out[1, i] = D * slope / old[i]


def _read_potential(V):
    """A `Function`, or the cell values as an array that does not change."""
    what = "Potential: V"
    if callable(V) or np.ndim(V) != 1:
        return as_function(V, what)

    values = np.array(as_floats(V, f"{what} must be a function, a number or cell values"))
    _check(np.isfinite(values).all(), f"{what} must be finite in every cell")
    values.setflags(write=False)
    return values


def _check(ok, message):
    if not ok:
        raise InputError(message)
