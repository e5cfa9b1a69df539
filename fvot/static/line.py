"""Transport on a line: quantiles, and the increasing map between them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import InputError
from .marginals import check_power, numbers, same_mass

GAUSS = np.polynomial.legendre.leggauss(12)


def wasserstein_1d(x, a, y, b, p=2):
    """W_p of two measures on a line: (int_0^1 |F_mu^-1(s) - F_nu^-1(s)|^p ds)^(1/p), p >= 1, times
    mass^(1/p); exact.

    x, a : points (n,) and masses (n,); or the edges (n + 1,) of intervals, in increasing order, and
        densities (n,) on them, such as cell averages
    y, b : the other measure, in either way

    Raises `InputError` for masses that differ. (Santambrogio 2015, 2.1)
    """
    check_power(p)
    first, second = _quantiles(x, a, "x, a"), _quantiles(y, b, "y, b")
    second = replace(
        second, masses=second.masses * (same_mass(first.mass, second.mass, a, b) / second.mass)
    )
    parts = _first_half(first, second), _first_half(first.mirrored(), second.mirrored())
    mass, d0, d1 = np.concatenate(parts, axis=1)
    size = max(np.abs(d0).max(), np.abs(d1).max())
    return (
        float(size * (mass @ _mean_power(d0 / size, d1 / size, p)) ** (1 / p)) if size > 0 else 0.0
    )


def monotone_map(x, a, y, b, at=None):
    """T = F_nu^-1 o F_mu, the increasing map that carries mu to nu; optimal for every p > 1.
    Measures as in `wasserstein_1d`.

    at (k,) : points of the support of mu; None: x, points or edges

    Returns T(at) (k,), where T jumps the middle. Parts of the mass below 1e-13 are not told apart.
    Raises `InputError` where a point mass would have to be split: `kantorovich` gives plans that
    do.
    """
    first = _quantiles(x, a, "x, a")
    second = _quantiles(y, b, "y, b")
    given = at is not None
    same_mass(first.mass, second.mass, a, b)
    at = numbers(x if at is None else at, "at")
    least = first.start.min()
    most = first.end.max()
    beyond = at[(at < least) | (at > most)] if given else []
    if len(beyond):
        raise InputError(
            f"at must be points of the support of x, a, between {least:.6g} and {most:.6g}, not "
            f"{beyond[0]:.6g}"
        )
    low, high = first.below(at)
    (start, _) = second.at(low)
    (_, end) = second.at(high)
    split = np.flatnonzero(end - start > 1e-9 * np.ptp(second.values()))
    if len(split):
        i = split[0]
        raise InputError(
            f"no map carries a to b: the mass at x = {at[i]:.6g} would be split between "
            f"{start[i]:.6g} and "
            f"{end[i]:.6g}; kantorovich gives a plan that splits it"
        )
    return (start + end) / 2


@dataclass(frozen=True)
class _Quantile:
    """F^-1, linear from start_i to end_i over a part masses_i of the mass: all (n,)."""

    start: np.ndarray
    end: np.ndarray
    masses: np.ndarray

    @cached_property
    def sums(self):
        """0 and the cumulative sums of the masses, each with what it is rounded by (2, n + 1)
        (Knuth's two-sum).
        """
        total = np.concatenate([[0.0], np.cumsum(self.masses)])
        added = np.diff(total)
        lost = (total[:-1] - (total[1:] - added)) + (self.masses - added)
        return _rounded(total, np.concatenate([[0.0], np.cumsum(lost)]))

    @property
    def mass(self):
        return self.sums[0, -1]

    @cached_property
    def s(self):
        """The fractions (n + 1,) of the mass between the parts, from 0 to 1."""
        s = np.concatenate([[0.0], np.cumsum(self.masses) / self.mass])
        s[-1] = 1.0
        return s

    def mirrored(self):
        """The same on the line that runs the other way."""
        return _Quantile(-self.end[::-1], -self.start[::-1], self.masses[::-1])

    def values(self):
        return np.concatenate([self.start, self.end])

    def at(self, s):
        """F^-1 at s (k,), as the limits (from above, from below)."""
        last = len(self.start) - 1
        after = np.clip(np.searchsorted(self.s, s + 1e-13, side="right") - 1, 0, last)
        before = np.clip(np.searchsorted(self.s, s - 1e-13, side="left") - 1, 0, last)
        return self._on(after, s), self._on(before, s)

    def _on(self, i, s):
        part = (s - self.s[i]) / (self.s[i + 1] - self.s[i])
        return self.start[i] + np.clip(part, 0, 1) * (self.end[i] - self.start[i])

    def below(self, x):
        """(F(x-), F(x)) at points x (k,): the mass fractions before x, and up to it."""
        if (self.start == self.end).all():
            return (self.s[np.searchsorted(self.start, x, side=side)] for side in ("left", "right"))
        F = np.interp(
            x,
            np.stack([self.start, self.end]).T.ravel(),
            np.stack([self.s[:-1], self.s[1:]]).T.ravel(),
        )
        return F, F


def _quantiles(x, a, what):
    x = numbers(x, what)
    a = numbers(a, what)
    if x.ndim != 1 or a.ndim != 1 or len(x) - len(a) not in (0, 1) or not len(a):
        raise InputError(
            f"{what}: points (n,) and masses (n,), or edges (n + 1,) and densities (n,), are "
            "wanted, not shapes "
            f"{x.shape} and {a.shape}"
        )
    if (a < 0).any():
        raise InputError(f"{what}: the masses must be at least 0, but one is {a.min():.6g}")
    if len(x) == len(a):
        order = np.argsort(x, kind="stable")
        start = end = x[order]
        masses = a[order]
    else:
        if (np.diff(x) <= 0).any():
            raise InputError(f"{what}: edges of intervals must increase")
        start = x[:-1]
        end = x[1:]
        masses = a * np.diff(x)
    some = masses > 0
    if not some.any():
        raise InputError(f"{what}: there is no mass")
    return _Quantile(start[some], end[some], masses[some])


def _first_half(first, second):
    """(mass, d0, d1), each (k,): over such parts of the first half of the mass F^-1 - G^-1 goes
    linearly from d0 to d1.

    Summed up from the end of the line, where masses may be small and far away, with twice the
    digits: a mass that is 1e-30 of those behind it still counts. The second half is the first one
    of the mirrored measures.
    """
    half = first.sums[:, -1:] / 2
    sums = [np.where(_above(q.sums, half), half, q.sums) for q in (first, second)]
    both = np.concatenate(sums, axis=1)
    order = np.lexsort(both[::-1])
    owner = np.repeat([0, 1], [sums[0].shape[1], sums[1].shape[1]])[order]
    both = both[:, order]
    mass = np.diff(both).sum(axis=0)
    some = mass > 0
    ends = []
    for k, q in enumerate((first, second)):
        i = np.minimum(np.cumsum(owner == k) - 1, len(q.start) - 1)[:-1][
            some
        ]  # the part of q in which each one lies
        for s in both[:, :-1][:, some], both[:, 1:][:, some]:
            share = np.clip((s - sums[k][:, i]).sum(axis=0) / q.masses[i], 0, 1)
            ends.append(q.start[i] + share * (q.end[i] - q.start[i]))
    return np.stack([mass[some], ends[0] - ends[2], ends[1] - ends[3]])


def _rounded(large, small):
    total = large + small
    return np.stack([total, small - (total - large)])


def _above(a, b):
    return (a[0] > b[0]) | (a[0] == b[0]) & (a[1] > b[1])


def _mean_power(d0, d1, p):
    """The means (k,) of |d|^p where d goes linearly from d0 (k,) to d1 (k,).

    Where the sign changes, or one end is much smaller, by the difference of |d|^(p + 1) at the
    ends; else by Gauss points.
    """
    small, large = np.minimum(np.abs(d0), np.abs(d1)), np.maximum(np.abs(d0), np.abs(d1))
    sign = np.where(d0 * d1 < 0, 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (large ** (p + 1) + sign * small ** (p + 1)) / ((p + 1) * (large + sign * small))
    smooth = sum(
        w / 2 * np.abs(d0 + (1 + z) / 2 * (d1 - d0)) ** p for z, w in zip(*GAUSS, strict=True)
    )
    return np.where((d0 * d1 >= 0) & (small > large / 4), smooth, np.where(large > 0, exact, 0.0))
