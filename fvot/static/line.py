"""Transport on a line: quantile functions, and the increasing map between two measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..arguments.types import Array, ArrayLike
from ..errors import InputError
from .marginals import as_finite_array, check_power, find_common_mass

# Gauss-Legendre points and weights on [-1, 1], for means of powers of linear functions.
GAUSS_POINTS, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(12)

# Fractions of the mass that differ by less than this are the same.
FRACTION_ROUNDING = 1e-13

# Length, relative to the line's, over which a point mass may be spread and is still not split.
SPLIT_TOLERANCE = 1e-9


def wasserstein_1d(x: ArrayLike, a: ArrayLike, y: ArrayLike, b: ArrayLike, p: float = 2) -> float:
    """W_p = (int_0^1 |F_mu^-1(s) - F_nu^-1(s)|^p ds)^(1/p) mass^(1/p) on a line, p >= 1, exact.

    Parameters
    ----------
    x, a : arrays
        Points (n,) and masses (n,); or the edges (n + 1,) of intervals, in increasing order, and
        densities (n,) on them, such as cell averages.
    y, b : arrays
        The other measure, in either form.
    p : float
        The power of the distance.

    Returns
    -------
    float

    Raises
    ------
    InputError
        Where the masses differ, or for p below 1.

    Notes
    -----
    Santambrogio (2015), section 2.1.

    Examples
    --------
    >>> from fvot import static
    >>> static.wasserstein_1d([0.0, 1.0], [1.0], [2.0, 3.0], [1.0])
    2.0
    """
    check_power(p)
    first = _find_quantile(x, a, "x, a")
    second = _find_quantile(y, b, "y, b")
    mass = find_common_mass(first.mass, second.mass, a, b)
    masses = second.masses * (mass / second.mass)
    second = replace(second, masses=masses)

    first_half = _compare_first_halves(first, second)
    second_half = _compare_first_halves(first.mirror(), second.mirror())
    mass, d0, d1 = np.concatenate([first_half, second_half], axis=1)
    largest_d0 = np.abs(d0).max()
    largest_d1 = np.abs(d1).max()
    size = max(largest_d0, largest_d1)
    if not size > 0:
        return 0.0

    mean_powers = _compute_mean_power(d0 / size, d1 / size, p)
    mean = mass @ mean_powers
    return float(size * mean ** (1 / p))


def monotone_map(
    x: ArrayLike, a: ArrayLike, y: ArrayLike, b: ArrayLike, at: ArrayLike | None = None
) -> Array:
    """T = F_nu^-1 o F_mu, the increasing map that carries mu to nu; optimal for every p > 1.

    Parameters
    ----------
    x, a, y, b : arrays
        The measures, as in `wasserstein_1d`.
    at : array (k,), optional
        Points of the support of mu. None: x, points or edges.

    Returns
    -------
    array (k,)
        T(at); the middle of the jump where T jumps.

    Raises
    ------
    InputError
        Where a point mass would have to be split: `kantorovich` gives plans that split it.

    Notes
    -----
    Parts of the mass below a relative 1e-13 are not resolved.

    Examples
    --------
    >>> from fvot import static
    >>> static.monotone_map([0.0, 1.0], [1.0], [2.0, 4.0], [0.5]).tolist()
    [2.0, 4.0]
    """
    first = _find_quantile(x, a, "x, a")
    second = _find_quantile(y, b, "y, b")
    find_common_mass(first.mass, second.mass, a, b)
    points = _choose_points(first, x, at)

    low, high = first.find_fractions(points)
    (start, _) = second.evaluate(low)
    (_, end) = second.evaluate(high)
    length = np.ptp(second.values())
    jump = end - start
    split = np.flatnonzero(jump > SPLIT_TOLERANCE * length)
    if len(split):
        i = split[0]
        raise InputError(
            f"no map carries a to b: the mass at x = {points[i]:.6g} would be split between "
            f"{start[i]:.6g} and {end[i]:.6g}; kantorovich gives a plan that splits it"
        )

    return (start + end) / 2


def _choose_points(quantile, x, at):
    """The points *at* as an array, checked to be in the support; x for None."""
    if at is None:
        return as_finite_array(x, "at")

    points = as_finite_array(at, "at")
    left_end = quantile.start.min()
    right_end = quantile.end.max()
    outside = points[(points < left_end) | (points > right_end)]
    if len(outside):
        raise InputError(
            f"at must be points of the support of x, a, between {left_end:.6g} and "
            f"{right_end:.6g}, not {outside[0]:.6g}"
        )

    return points


@dataclass(frozen=True)
class _Quantile:
    """F^-1, linear from start_i to end_i over a part masses_i of the mass: all (n,)."""

    start: Array
    end: Array
    masses: Array

    @cached_property
    def sums(self) -> Array:
        """0 and the cumulative sums of the masses, each with its round-off: (2, n + 1).

        By Knuth's two-sum.
        """
        total = np.concatenate([[0.0], np.cumsum(self.masses)])
        added = np.diff(total)
        before = total[:-1]
        after = total[1:]
        lost_of_sum = before - (after - added)
        lost_of_mass = self.masses - added
        lost = lost_of_sum + lost_of_mass
        total_lost = np.concatenate([[0.0], np.cumsum(lost)])
        return _normalise_pair(total, total_lost)

    @property
    def mass(self) -> float:
        return self.sums[0, -1]

    @cached_property
    def s(self) -> Array:
        """The fractions (n + 1,) of the mass between the parts, from 0 to 1."""
        fractions = np.cumsum(self.masses) / self.mass
        s = np.concatenate([[0.0], fractions])
        s[-1] = 1.0
        return s

    def mirror(self) -> _Quantile:
        """The same measure on the line that runs the other way."""
        start = -self.end[::-1]
        end = -self.start[::-1]
        masses = self.masses[::-1]
        return _Quantile(start, end, masses)

    def values(self) -> Array:
        """Both ends of all parts (2 n,)."""
        return np.concatenate([self.start, self.end])

    def evaluate(self, s: Array) -> tuple[Array, Array]:
        """F^-1 at s (k,), as its limits (from above, from below)."""
        last = len(self.start) - 1
        after = np.searchsorted(self.s, s + FRACTION_ROUNDING, side="right") - 1
        before = np.searchsorted(self.s, s - FRACTION_ROUNDING, side="left") - 1
        after = np.clip(after, 0, last)
        before = np.clip(before, 0, last)
        from_above = self._interpolate(after, s)
        from_below = self._interpolate(before, s)
        return from_above, from_below

    def _interpolate(self, i, s):
        begin = self.s[i]
        width = self.s[i + 1] - begin
        part = np.clip((s - begin) / width, 0, 1)
        length = self.end[i] - self.start[i]
        return self.start[i] + part * length

    def find_fractions(self, x: Array) -> tuple[Array, Array]:
        """(F(x-), F(x)) at points x (k,): the mass fractions before x, and up to it."""
        if (self.start == self.end).all():
            n_before = np.searchsorted(self.start, x, side="left")
            n_up_to = np.searchsorted(self.start, x, side="right")
            return self.s[n_before], self.s[n_up_to]

        places = np.stack([self.start, self.end])
        begins = self.s[:-1]
        ends = self.s[1:]
        fractions = np.stack([begins, ends])
        F = np.interp(x, places.T.ravel(), fractions.T.ravel())
        return F, F


def _find_quantile(x, a, name):
    """The `_Quantile` of points and masses, or of edges and densities; checked."""
    x = as_finite_array(x, name)
    a = as_finite_array(a, name)
    are_lists = x.ndim == 1 and a.ndim == 1
    if not are_lists or len(x) - len(a) not in (0, 1) or not len(a):
        raise InputError(
            f"{name}: points (n,) and masses (n,), or edges (n + 1,) and densities (n,), are "
            f"needed, not shapes {x.shape} and {a.shape}"
        )
    if (a < 0).any():
        raise InputError(f"{name}: the masses must be at least 0, but one is {a.min():.6g}")

    if len(x) == len(a):
        order = np.argsort(x, kind="stable")
        start = end = x[order]
        masses = a[order]
    else:
        lengths = np.diff(x)
        if (lengths <= 0).any():
            raise InputError(f"{name}: edges of intervals must increase")

        start = x[:-1]
        end = x[1:]
        masses = a * lengths

    has_mass = masses > 0
    if not has_mass.any():
        raise InputError(f"{name}: there is no mass")

    return _Quantile(start[has_mass], end[has_mass], masses[has_mass])


def _compare_first_halves(first, second):
    """(mass, d0, d1), each (k,): F^-1 - G^-1 over the first half of the mass.

    On each part, of that mass, the difference is linear from d0 to d1.

    Masses are summed up from the end of the line, where they may be small and far away, with twice
    the digits: a mass that is 1e-30 of those behind it still counts. The second half is the first
    one of the mirrored measures.
    """
    half = first.sums[:, -1:] / 2
    sums = []
    for q in (first, second):
        is_beyond = _is_above(q.sums, half)
        sums.append(np.where(is_beyond, half, q.sums))

    both = np.concatenate(sums, axis=1)
    order = np.lexsort(both[::-1])
    counts = [s.shape[1] for s in sums]
    owner = np.repeat([0, 1], counts)[order]
    both = both[:, order]

    mass = np.diff(both).sum(axis=0)
    has_mass = mass > 0
    begins = both[:, :-1][:, has_mass]
    ends = both[:, 1:][:, has_mass]
    values = []
    for k, q in enumerate((first, second)):
        # The part of q in which each part of both lies.
        last = len(q.start) - 1
        passed = np.cumsum(owner == k)
        place = np.minimum(passed - 1, last)
        i = place[:-1][has_mass]
        begin_of_part = sums[k][:, i]
        length = q.end[i] - q.start[i]
        for s in begins, ends:
            mass_before = (s - begin_of_part).sum(axis=0)
            share = np.clip(mass_before / q.masses[i], 0, 1)
            values.append(q.start[i] + share * length)

    first_begin, first_end, second_begin, second_end = values
    d0 = first_begin - second_begin
    d1 = first_end - second_end
    return np.stack([mass[has_mass], d0, d1])


def _normalise_pair(large, small):
    """large + small as a rounded sum and its round-off: (2, n)."""
    total = large + small
    round_off = small - (total - large)
    return np.stack([total, round_off])


def _is_above(a, b):
    """Whether a > b, for pairs of a rounded sum and its round-off."""
    sum_a, rest_a = a
    sum_b, rest_b = b
    is_tie = sum_a == sum_b
    return (sum_a > sum_b) | is_tie & (rest_a > rest_b)


def _compute_mean_power(d0, d1, p):
    """The means (k,) of |d|^p where d is linear from d0 (k,) to d1 (k,).

    Where the sign changes, or one end is much smaller, by the difference of |d|^(p + 1) at the
    ends; else by Gauss points.
    """
    small = np.minimum(np.abs(d0), np.abs(d1))
    large = np.maximum(np.abs(d0), np.abs(d1))
    sign = np.where(d0 * d1 < 0, 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = large ** (p + 1) + sign * small ** (p + 1)
        length = large + sign * small
        exact = difference / ((p + 1) * length)
    exact = np.where(large > 0, exact, 0.0)

    smooth = 0
    for z, weight in zip(GAUSS_POINTS, GAUSS_WEIGHTS, strict=True):
        d = d0 + (1 + z) / 2 * (d1 - d0)
        smooth = smooth + weight / 2 * np.abs(d) ** p

    has_one_sign = d0 * d1 >= 0
    is_smooth = has_one_sign & (small > large / 4)
    return np.where(is_smooth, smooth, exact)
