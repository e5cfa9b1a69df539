"""Energies E(rho) = int e(rho(x), x) dx of a density, pointwise: the value e, its derivative and curvature in rho.

They add with + and scale with *: ``Entropy() + 0.5 * Potential(lambda x: x[0]**2)``. An energy of your own is a class that
inherits from `Energy` and has the three methods, of arrays rho (n,) >= 0 and x (dim, n); e must be convex in rho.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from .errors import InputError
from .functions import function


class Energy:
    """What can be added and scaled; see the module for what else an energy has."""

    def __add__(self, other):
        return Sum(_parts(self) + _parts(other)) if isinstance(other, Energy) else NotImplemented

    def __mul__(self, factor):
        if not isinstance(factor, (int, float, np.number)) or isinstance(factor, bool):
            return NotImplemented
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"an energy times {factor}: the factor must be a finite number >= 0")
        return Sum(tuple((factor * weight, part) for weight, part in _parts(self)))

    __rmul__ = __mul__


def _parts(energy):
    return energy.parts if isinstance(energy, Sum) else ((1.0, energy),)


@dataclass(frozen=True)
class Sum(Energy):
    """sum of weight * energy over the pairs (weight, energy) of *parts*."""

    parts: tuple

    def value(self, rho, x):
        return sum(weight * part.value(rho, x) for weight, part in self.parts)

    def derivative(self, rho, x):
        return sum(weight * part.derivative(rho, x) for weight, part in self.parts)

    def curvature(self, rho, x):
        return sum(weight * part.curvature(rho, x) for weight, part in self.parts)


@dataclass(frozen=True)
class Entropy(Energy):
    """D int rho log rho dx: its gradient flow is diffusion (Jordan, Kinderlehrer, Otto 1998). D > 0."""

    D: float = 1.0

    def __post_init__(self):
        _check(self.D > 0, f"Entropy: D must be above 0, not {self.D!r}")

    def value(self, rho, x):
        return self.D * special.xlogy(rho, rho)

    def derivative(self, rho, x):
        with np.errstate(divide="ignore"):
            return self.D * (np.log(rho) + 1)

    def curvature(self, rho, x):
        with np.errstate(divide="ignore", over="ignore"):
            return self.D / rho


@dataclass(frozen=True)
class Power(Energy):
    """int rho^m / (m - 1) dx, m > 0, m != 1: porous media for m > 1, fast diffusion for m < 1 (Otto 2001)."""

    m: float

    def __post_init__(self):
        _check(self.m > 0 and self.m != 1, f"Power: m must be above 0, and not 1 (that is Entropy()), not {self.m!r}")

    def value(self, rho, x):
        return rho**self.m / (self.m - 1)

    def derivative(self, rho, x):
        with np.errstate(divide="ignore"):
            return self.m / (self.m - 1) * rho**(self.m - 1)

    def curvature(self, rho, x):
        with np.errstate(divide="ignore", over="ignore"):
            return self.m * rho**(self.m - 2)


@dataclass(frozen=True)
class Potential(Energy):
    """int V rho dx for a function V(x) of points (dim, n), or a constant: mass drifts along -grad V."""

    V: object

    def __post_init__(self):
        object.__setattr__(self, "_V", function(self.V, "V"))
        _check(not self._V.depends_on_time, "Potential: V must be a function of x alone, not of x and t")

    def value(self, rho, x):
        return self._V(x, 0.0) * rho

    def derivative(self, rho, x):
        return self._V(x, 0.0)

    def curvature(self, rho, x):
        return np.zeros(len(rho))


def separated(energy, x):
    """(V, others): the potentials in an energy as values (n,) at points x (dim, n), and the `Sum` of all else.

    Raises `InputError` where V(x) is no finite number.
    """
    potentials = [(weight, part) for weight, part in _parts(energy) if isinstance(part, Potential)]
    others = tuple(pair for pair in _parts(energy) if not isinstance(pair[1], Potential))
    return sum((weight * part.derivative(None, x) for weight, part in potentials), np.zeros(x.shape[1])), Sum(others)


def _check(ok, message):
    if not ok:
        raise InputError(message)
