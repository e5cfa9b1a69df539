"""What energies have in common. They add with + and scale with *: ``Entropy() + 0.5 *
Potential(lambda x: x[0]**2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.types import Array
from ..errors import InputError

# Gauss's rule for the mean of e' between two densities.
GAUSS_POINTS, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)

# The relative difference of two densities up to which the mean of e' between them is integrated.
NEAR_DENSITIES = 0.5


class Energy:
    """An energy int e(rho(x), x) dx: it can be added to others and scaled.

    A user's own energy is a class that inherits from this one and has the methods `value`,
    `derivative` and `curvature`. e must be convex in rho. It may have a better `difference`, too.

    Examples
    --------
    >>> import fvot
    >>> class Quadratic(fvot.Energy):
    ...     def value(self, rho, x):
    ...         return rho**2
    ...     def derivative(self, rho, x):
    ...         return 2 * rho
    ...     def curvature(self, rho, x):
    ...         return 2 + 0 * rho
    >>> energy = Quadratic() + 0.5 * fvot.Potential(lambda x: x[0] ** 2)
    >>> mesh = fvot.Mesh.interval(-1, 1, 20)
    >>> equation = fvot.JKO(mesh, energy)
    """

    __array_ufunc__ = None  # an array times an energy is an error, not an array of energies

    @property
    def name(self) -> str:
        """The name of the energy in ledgers.

        Returns
        -------
        str
        """
        return type(self).__name__.lower()

    def value(self, rho: Array, x: Array) -> Any:
        """The energy e of densities at points.

        Parameters
        ----------
        rho : array (n,)
            Densities, at least 0.
        x : array (dim, n)
            The points where they are.

        Returns
        -------
        array (n,)
            e(rho, x).
        """
        raise NotImplementedError(f"{type(self).__name__} has no method value(rho, x)")

    def derivative(self, rho: Array, x: Array) -> Any:
        """The derivative of e in rho.

        Parameters
        ----------
        rho : array (n,)
            Densities, at least 0.
        x : array (dim, n)
            The points where they are.

        Returns
        -------
        array (n,)
            de/drho. It may be infinite where rho is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method derivative(rho, x)")

    def curvature(self, rho: Array, x: Array) -> Any:
        """The second derivative of e in rho.

        Parameters
        ----------
        rho : array (n,)
            Densities, at least 0.
        x : array (dim, n)
            The points where they are.

        Returns
        -------
        array (n,)
            d2e/drho2, at least 0. It may be infinite where rho is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method curvature(rho, x)")

    def difference(self, rho: Array, old: Array, x: Array) -> Any:
        """The difference quotient of e, and its derivative in rho.

        Parameters
        ----------
        rho, old : arrays (n,)
            Densities, at least 0.
        x : array (dim, n)
            The points where they are.

        Returns
        -------
        quotient : array (n,)
            (e(rho) - e(old)) / (rho - old); e'(rho) where both are equal.
        slope : array (n,)
            Its derivative in rho; e''(rho) / 2 where both are equal.

        Notes
        -----
        Where the densities are near each other it is the mean of e' between them by ten Gauss
        points, so that nothing cancels; else the quotient itself.
        """
        mean = np.zeros(len(rho))
        mean_slope = np.zeros(len(rho))
        for s, weight in zip((1 + GAUSS_POINTS) / 2, GAUSS_WEIGHTS / 2, strict=True):
            between = old + s * (rho - old)
            mean += weight * self.derivative(between, x)
            mean_slope += weight * s * self.curvature(between, x)

        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = (self.value(rho, x) - self.value(old, x)) / (rho - old)
            slope = (self.derivative(rho, x) - quotient) / (rho - old)

        is_near = np.abs(rho - old) <= NEAR_DENSITIES * np.maximum(rho, old)
        return np.where(is_near, mean, quotient), np.where(is_near, mean_slope, slope)

    def __add__(self, other):
        if not isinstance(other, Energy):
            return NotImplemented
        return Sum(split_sum(self) + split_sum(other))

    def __radd__(self, other):
        """0 + self: the built-in sum begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __truediv__(self, divisor):
        if not is_number(divisor):
            return NotImplemented
        if not divisor > 0:
            raise InputError(f"an energy divided by {divisor}: the divisor must be above 0")
        return self * (1 / divisor)

    def __mul__(self, factor):
        if not is_number(factor):
            return NotImplemented
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"an energy times {factor}: the factor must be a finite number >= 0")
        parts = split_sum(self) if factor > 0 else ()
        return Sum(tuple((float(factor) * weight, part) for weight, part in parts))

    __rmul__ = __mul__


def split_sum(energy: Energy) -> tuple[tuple[float, Energy], ...]:
    """The pairs (weight, energy) of an energy, none of which is a sum."""
    return energy.parts if isinstance(energy, Sum) else ((1.0, energy),)


@frozen
@dataclass(frozen=True)
class Sum(Energy):
    """sum of weight * energy over the pairs (weight, energy) of *parts*."""

    parts: tuple[tuple[float, Energy], ...]

    def value(self, rho: Array, x: Array) -> Any:
        return sum(weight * part.value(rho, x) for weight, part in self.parts)

    def derivative(self, rho: Array, x: Array) -> Any:
        return sum(weight * part.derivative(rho, x) for weight, part in self.parts)

    def curvature(self, rho: Array, x: Array) -> Any:
        return sum(weight * part.curvature(rho, x) for weight, part in self.parts)

    def difference(self, rho: Array, old: Array, x: Array) -> Any:
        return sum(weight * np.asarray(part.difference(rho, old, x)) for weight, part in self.parts)
