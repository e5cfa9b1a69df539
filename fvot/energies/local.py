"""Energies of a density: local ones, int e(rho(x), x) dx, by their value e, derivative and
curvature in rho; interactions.

They add with + and scale with *: ``Entropy() + 0.5 * Potential(lambda x: x[0]**2)``. A user's own
energy is a class that inherits from `Energy`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from scipy import special

from ..arguments.frozen import frozen
from ..arguments.functions import Function, as_function, is_number, refuse_masked
from ..arguments.types import Array, Coefficient, PointFunction
from ..errors import InputError

# Gauss's rule for the mean of e' between two densities.
GAUSS_POINTS, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)

# The relative difference of two densities up to which the mean of e' between them is integrated.
NEAR_DENSITIES = 0.5

# The largest whole power whose difference quotient is summed term by term.
MAX_SUMMED_POWER = 16


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
        """Its name in ledgers."""
        return type(self).__name__.lower()

    def value(self, rho: Array, x: Array) -> Any:
        """e (n,) of densities rho (n,) >= 0 at points x (dim, n)."""
        raise NotImplementedError(f"{type(self).__name__} has no method value(rho, x)")

    def derivative(self, rho: Array, x: Array) -> Any:
        """de/drho (n,) of densities rho (n,) >= 0 at points x (dim, n)."""
        raise NotImplementedError(f"{type(self).__name__} has no method derivative(rho, x)")

    def curvature(self, rho: Array, x: Array) -> Any:
        """d2e/drho2 (n,) of densities rho (n,) >= 0 at points x (dim, n)."""
        raise NotImplementedError(f"{type(self).__name__} has no method curvature(rho, x)")

    def difference(self, rho: Array, old: Array, x: Array) -> Any:
        """The difference quotient of e, and its derivative in rho.

        Parameters
        ----------
        rho, old
            (n,) densities.
        x
            (dim, n) points.

        Returns
        -------
        quotient, slope
            (n,) each: (e(rho) - e(old)) / (rho - old) and its derivative in rho; e'(rho) and
            e''(rho) / 2 where the densities are equal.

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


@frozen
@dataclass(frozen=True)
class Entropy(Energy):
    """D int rho log rho dx: its gradient flow is diffusion (Jordan, Kinderlehrer, Otto 1998).

    Parameters
    ----------
    D
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
        """D (log old + (1 + z) log(1 + z) / z), its slope D (z - log(1 + z)) / (z^2 old), z = (rho
        - old) / old.
        """
        quotient_and_slope = np.empty((2, len(rho)))
        _divide_entropies(rho, old, self.D, quotient_and_slope)
        return quotient_and_slope


@frozen
@dataclass(frozen=True)
class Power(Energy):
    """int rho^m / (m - 1) dx: porous media for m > 1, fast diffusion for m < 1 (Otto 2001).

    Parameters
    ----------
    m
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
        """For whole m the sum of rho^(m - 1 - k) old^k / (m - 1) over k < m: no division."""
        if self.m % 1 or self.m > MAX_SUMMED_POWER:
            return super().difference(rho, old, x)
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
    V
        A function V(x) of points (dim, n), or a constant.

    Examples
    --------
    >>> import fvot
    >>> energy = fvot.Entropy() + fvot.Potential(lambda x: x[0] ** 2)
    """

    V: PointFunction | Coefficient
    _V: Function = field(init=False, repr=False, compare=False)
    name = "potential_energy"

    def __post_init__(self):
        object.__setattr__(self, "_V", as_function(self.V, "Potential: V", of=("x",)))

    def values(self, x: Array) -> Array:
        """V (n,) at points x (dim, n)."""
        return self._V(x, 0.0)

    def value(self, rho: Array, x: Array) -> Any:
        return self.values(x) * rho

    def derivative(self, rho: Array, x: Array) -> Any:
        return self.values(x)

    def curvature(self, rho: Array, x: Array) -> Any:
        return np.zeros(len(rho))


@frozen
@dataclass(frozen=True)
class Interaction(Energy):
    """1/2 double int W(x - y) rho(x) rho(y) dx dy: attraction where W grows with |z|.

    For `JKO` alone.

    Parameters
    ----------
    W
        A function W(z) = W(-z) of offsets z (dim, n). It may be singular at 0 if it is integrable:
        it is never evaluated there.

    Examples
    --------
    >>> import fvot
    >>> energy = fvot.Entropy(0.1) + fvot.Interaction(lambda z: (z**2).sum(axis=0) / 2)
    """

    W: PointFunction | Coefficient
    kernel: Function = field(init=False, repr=False, compare=False)
    name = "interaction"

    def __post_init__(self):
        object.__setattr__(self, "kernel", as_function(self.W, "Interaction: W", of=("z",)))


# ---- energies as arguments -----------------------------------------------------------------------


def describe_energy(energy: Any) -> Any:
    """The kinds, weights and numbers of an energy, by which ranks compare it; without functions."""
    if not isinstance(energy, Energy):
        return type(energy).__name__
    return [
        (weight, type(part).__name__, [getattr(part, n) for n in ("D", "m") if hasattr(part, n)])
        for weight, part in split_sum(energy)
    ]


def separate_parts(energy: Energy, x: Array) -> tuple[Array, Sum, list[tuple[float, Interaction]]]:
    """(V, others, pairs): the potentials in an energy as values (n,) at points x (dim, n), the
    `Sum` of all other local ones, and the interactions, as pairs (weight, energy).

    Raises `InputError` where V(x) is no finite number.
    """
    V = np.zeros(x.shape[1])
    local = []
    pairs = []
    for weight, part in split_sum(energy):
        if isinstance(part, Potential):
            V = V + weight * part.values(x)
        elif isinstance(part, Interaction):
            pairs.append((weight, part))
        else:
            local.append((weight, part))
    return V, Sum(tuple(local)), pairs


# ---- a user's own energy -------------------------------------------------------------------------

# Densities at which an energy is checked, relative to a typical one.
CHECKED_DENSITIES = np.geomspace(1e-3, 1e3, 25)

# The relative step of the differences that stand for derivatives.
DIFFERENCE_STEP = 1e-4

# Relative error of such a difference.
DERIVATIVE_TOLERANCE = 1e-3

# Rounding of the values of which it is the difference, relative to them.
VALUE_ROUNDING = 1e-7

# A curvature below 0 that is rounding, relative to derivative / density.
CURVATURE_ROUNDING = 1e-9


def check_own(energy: Energy, x: Array, mean: float) -> None:
    """`InputError` for a user's own energy that is not convex in rho, or whose derivatives are
    wrong.

    x (dim, n) : points to look at
    mean : a typical density
    """
    known = (Entropy, Power, Potential, Interaction)
    own = [part for _, part in split_sum(energy) if not isinstance(part, known)]
    n = x.shape[1]
    if n == 0:
        return
    rho = mean * CHECKED_DENSITIES
    points = x[:, np.linspace(0, n - 1, len(rho)).astype(int)]
    for part in own:
        derivative = _call(part, "derivative", rho, points)
        curvature = _call(part, "curvature", rho, points)
        _call(part, "value", rho, points)
        _check_slope(part, "value", "derivative", derivative, rho, points)
        _check_slope(part, "derivative", "curvature", curvature, rho, points)
        if (curvature < -CURVATURE_ROUNDING * np.abs(derivative) / rho).any():
            i = int((curvature * rho).argmin())
            raise InputError(
                f"{part.name}.curvature is {curvature[i]:.6g} at rho = {rho[i]:.3g}: an energy "
                "must be convex in rho"
            )


def _check_slope(part, method, slope_method, slope, rho, x):
    """`InputError` unless the slope (n,) is the derivative of the method in rho."""
    up = _call(part, method, rho * (1 + DIFFERENCE_STEP), x)
    down = _call(part, method, rho * (1 - DIFFERENCE_STEP), x)
    measured = (up - down) / (2 * DIFFERENCE_STEP * rho)
    rounding = VALUE_ROUNDING * (np.abs(up) + np.abs(down)) / rho
    tolerance = DERIVATIVE_TOLERANCE * (np.abs(slope) + np.abs(measured)) + rounding
    wrong = np.abs(measured - slope) > tolerance
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(
            f"{part.name}.{slope_method} is {slope[i]:.6g} at rho = {rho[i]:.3g}, but "
            f"{part.name}.{method} rises there by {measured[i]:.6g} for each unit of rho"
        )


def _call(part, name, rho, x):
    """The values (n,) that a method of a user's own energy returns, checked."""
    given = rho.copy()
    try:
        values = getattr(part, name)(given, x)
        refuse_masked(values, f"{part.name}.{name}(rho, x) must return numbers")
        values = np.asarray(values, float) + np.zeros(len(rho))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{part.name}.{name}(rho, x) must return an array of the shape of rho: {error}"
        ) from error
    if values.shape != rho.shape or not np.isfinite(values).all():
        raise InputError(
            f"{part.name}.{name}(rho, x) must return finite numbers of shape {rho.shape} for rho "
            f"> 0, not {values!r:.60}"
        )
    if (given != rho).any():
        raise InputError(f"{part.name}.{name} changes its argument rho: it must leave it as it is")
    return values


@numba.njit(cache=True, error_model="numpy")
def _divide_entropies(rho, old, D, out):
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


def _check(ok, message):
    if not ok:
        raise InputError(message)
