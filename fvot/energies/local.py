"""Energies of a density: local ones, int e(rho(x), x) dx, by their value e, derivative and
curvature in rho; interactions.

They add with + and scale with *: ``Entropy() + 0.5 * Potential(lambda x: x[0]**2)``. An energy of
your own is a class that inherits from `Energy` and has the three methods, of arrays rho (n,) >= 0
and x (dim, n); e must be convex in rho. It may have a better `difference`, too.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy import special

from ..arguments.frozen import frozen
from ..arguments.functions import as_function, is_number, refuse_masked
from ..errors import InputError

GAUSS = np.polynomial.legendre.leggauss(10)
NEAR = (
    0.5  # relative difference of densities, up to which the mean of e' between them is integrated
)


class Energy:
    """What can be added and scaled; see the module for what else an energy has."""

    __array_ufunc__ = None  # an array times an energy is an error, not an array of energies

    @property
    def name(self):
        """Its name in ledgers."""
        return type(self).__name__.lower()

    def difference(self, rho, old, x):
        """((e(rho) - e(old)) / (rho - old), its derivative in rho), (n,) each; e'(rho), e''(rho) /
        2 where they are equal.

        The mean of e' between the two by ten Gauss points where they are near, so that nothing
        cancels; else the quotient.
        """
        distance = np.abs(rho - old)
        near = distance <= NEAR * np.maximum(rho, old)
        mean = np.zeros(len(rho))
        slope = np.zeros(len(rho))
        for s, weight in zip((1 + GAUSS[0]) / 2, GAUSS[1] / 2, strict=True):
            between = old + s * (rho - old)
            mean += weight * self.derivative(between, x)
            slope += weight * s * self.curvature(between, x)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = (self.value(rho, x) - self.value(old, x)) / (rho - old)
            its_slope = (self.derivative(rho, x) - quotient) / (rho - old)
        return np.where(near, mean, quotient), np.where(near, slope, its_slope)

    def __add__(self, other):
        return (
            Sum(parts_of(self) + parts_of(other)) if isinstance(other, Energy) else NotImplemented
        )

    def __radd__(self, other):
        """0 + self: the built-in sum begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __truediv__(self, divisor):
        if not isinstance(divisor, (int, float, np.number)) or isinstance(divisor, bool):
            return NotImplemented
        if not divisor > 0:
            raise InputError(f"an energy divided by {divisor}: the divisor must be above 0")
        return self * (1 / divisor)

    def __mul__(self, factor):
        if not isinstance(factor, (int, float, np.number)) or isinstance(factor, bool):
            return NotImplemented
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"an energy times {factor}: the factor must be a finite number >= 0")
        return Sum(
            tuple((float(factor) * weight, part) for weight, part in parts_of(self) if factor > 0)
        )

    __rmul__ = __mul__


def parts_of(energy):
    """The pairs (weight, energy) of an energy, none of which is a sum."""
    return energy.parts if isinstance(energy, Sum) else ((1.0, energy),)


@frozen
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

    def difference(self, rho, old, x):
        return sum(weight * np.asarray(part.difference(rho, old, x)) for weight, part in self.parts)


@frozen
@dataclass(frozen=True)
class Entropy(Energy):
    """D int rho log rho dx: its gradient flow is diffusion (Jordan, Kinderlehrer, Otto 1998). D >
    0.
    """

    D: float = 1.0

    def __post_init__(self):
        _check(
            is_number(self.D) and 0 < self.D < math.inf,
            f"Entropy: D must be a finite number above 0, not {self.D!r}",
        )

    def value(self, rho, x):
        return self.D * special.xlogy(rho, rho)

    def derivative(self, rho, x):
        with np.errstate(divide="ignore"):
            return self.D * (np.log(rho) + 1)

    def curvature(self, rho, x):
        with np.errstate(divide="ignore", over="ignore"):
            return self.D / rho

    def difference(self, rho, old, x):
        """D (log old + (1 + z) log(1 + z) / z), its slope D (z - log(1 + z)) / (z^2 old), z = (rho
        - old) / old.
        """
        found = np.empty((2, len(rho)))
        _difference_of_entropies(rho, old, self.D, found)
        return found


@frozen
@dataclass(frozen=True)
class Power(Energy):
    """int rho^m / (m - 1) dx, m > 0, m != 1: porous media for m > 1, fast diffusion for m < 1 (Otto
    2001).
    """

    m: float

    def __post_init__(self):
        _check(
            is_number(self.m) and 0 < self.m < math.inf and self.m != 1,
            "Power: m must be a finite number above 0, and not 1 (that is Entropy()), not "
            f"{self.m!r}",
        )

    def value(self, rho, x):
        return rho**self.m / (self.m - 1)

    def derivative(self, rho, x):
        with np.errstate(divide="ignore"):
            return self.m / (self.m - 1) * rho ** (self.m - 1)

    def curvature(self, rho, x):
        with np.errstate(divide="ignore", over="ignore"):
            return self.m * rho ** (self.m - 2)

    def difference(self, rho, old, x):
        """For whole m the sum of rho^(m - 1 - k) old^k / (m - 1) over k < m: no division."""
        if self.m % 1 or self.m > 16:
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
    """int V rho dx for a function V(x) of points (dim, n), or a constant: mass drifts along -grad
    V.
    """

    V: object
    name = "potential_energy"

    def __post_init__(self):
        object.__setattr__(self, "_V", as_function(self.V, "Potential: V", of=("x",)))

    def value(self, rho, x):
        return self._V(x, 0.0) * rho

    def derivative(self, rho, x):
        return self._V(x, 0.0)

    def curvature(self, rho, x):
        return np.zeros(len(rho))


@frozen
@dataclass(frozen=True)
class Interaction(Energy):
    """1/2 double int W(x - y) rho(x) rho(y) dx dy, W(z) = W(-z) of offsets z (dim, n): attraction
    where W grows with |z|.

    W may be singular at 0 where it is integrable: it is never taken there. For `JKO` alone.
    """

    W: object
    name = "interaction"

    def __post_init__(self):
        object.__setattr__(self, "kernel", as_function(self.W, "Interaction: W", of=("z",)))


def described(energy):
    """What tells energies apart on different ranks: kinds, weights and numbers; not functions."""
    if not isinstance(energy, Energy):
        return type(energy).__name__
    return [
        (
            weight,
            type(part).__name__,
            [getattr(part, name) for name in ("D", "m") if hasattr(part, name)],
        )
        for weight, part in parts_of(energy)
    ]


def check_own(energy, x, mean):
    """`InputError` for energies of a user's own that are no convex functions of rho with the
    derivatives that they say.

    x (dim, n) : points to look at; mean : a typical density
    """
    own = [
        part
        for _, part in parts_of(energy)
        if not isinstance(part, (Entropy, Power, Potential, Interaction))
    ]
    rho = mean * np.geomspace(1e-3, 1e3, 25)
    points = x[:, np.linspace(0, x.shape[1] - 1, len(rho)).astype(int)] if x.shape[1] else None
    for part in own if points is not None else []:
        value, derivative, curvature = (
            _called(part, name, rho, points) for name in ("value", "derivative", "curvature")
        )
        for of, its, slope in (
            ("value", "derivative", derivative),
            ("derivative", "curvature", curvature),
        ):
            up, down = (_called(part, of, rho * factor, points) for factor in (1 + 1e-4, 1 - 1e-4))
            measured = (up - down) / (2e-4 * rho)
            rounding = 1e-7 * (np.abs(up) + np.abs(down)) / rho
            wrong = np.abs(measured - slope) > 1e-3 * (np.abs(slope) + np.abs(measured)) + rounding
            if wrong.any():
                i = int(wrong.argmax())
                raise InputError(
                    f"{part.name}.{its} is {slope[i]:.6g} at rho = {rho[i]:.3g}, but "
                    f"{part.name}.{of} rises there "
                    f"by {measured[i]:.6g} for each unit of rho"
                )
        if (curvature < -1e-9 * np.abs(derivative) / rho).any():
            i = int((curvature * rho).argmin())
            raise InputError(
                f"{part.name}.curvature is {curvature[i]:.6g} at rho = {rho[i]:.3g}: an energy "
                "must be convex in "
                "rho"
            )


def _called(part, name, rho, x):
    """What a method of a user's own energy returns (n,), checked."""
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
            "> 0, not "
            f"{values!r:.60}"
        )
    if (given != rho).any():
        raise InputError(f"{part.name}.{name} changes its argument rho: it must leave it as it is")
    return values


def separated(energy, x):
    """(V, others, pairs): the potentials in an energy as values (n,) at points x (dim, n), the
    `Sum` of all other local ones, and the interactions, as pairs (weight, energy).

    Raises `InputError` where V(x) is no finite number.
    """
    parts = parts_of(energy)
    potentials = [(weight, part) for weight, part in parts if isinstance(part, Potential)]
    pairs = [(weight, part) for weight, part in parts if isinstance(part, Interaction)]
    others = tuple(pair for pair in parts if not isinstance(pair[1], (Potential, Interaction)))
    return (
        sum(
            (weight * part.derivative(None, x) for weight, part in potentials), np.zeros(x.shape[1])
        ),
        Sum(others),
        pairs,
    )


@numba.njit(cache=True, error_model="numpy")
def _difference_of_entropies(rho, old, D, found):
    for i in range(len(rho)):
        z = (rho[i] - old[i]) / old[i]
        if not abs(z) < 1e200:  # old is 0, or nearly so
            found[0, i], found[1, i] = D * math.log(rho[i]), D / rho[i]
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
        found[0, i], found[1, i] = D * (math.log(old[i]) + mean), D * slope / old[i]


def _check(ok, message):
    if not ok:
        raise InputError(message)
