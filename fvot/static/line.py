"""Transport on a line: quantiles, and the increasing map between them."""
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .given import check_power, numbers, same_mass

GAUSS = np.polynomial.legendre.leggauss(12)


def wasserstein_1d(x, a, y, b, p=2):
    """W_p of two measures on a line: (int_0^1 |F_mu^-1(s) - F_nu^-1(s)|^p ds)^(1/p), p >= 1, times mass^(1/p); exact.

    x, a : points (n,) and masses (n,); or the edges (n + 1,) of intervals, in increasing order, and densities (n,) on them,
        such as cell averages
    y, b : the other measure, in either way

    Raises `InputError` for masses that differ. (Santambrogio 2015, 2.1)
    """
    check_power(p)
    first, second = _quantiles(x, a, "x, a"), _quantiles(y, b, "y, b")
    mass = same_mass(first.mass, second.mass)
    s = np.union1d(first.s, second.s)
    (f0, f1), (g0, g1) = (q.ends(s) for q in (first, second))
    d0, d1 = f0 - g0, f1 - g1
    size = max(np.abs(d0).max(), np.abs(d1).max())
    return float(size * (mass * np.diff(s) @ _mean_power(d0 / size, d1 / size, p))**(1 / p)) if size > 0 else 0.0


def monotone_map(x, a, y, b, at=None):
    """T = F_nu^-1 o F_mu, the increasing map that carries mu to nu; optimal for every p > 1. Measures as in `wasserstein_1d`.

    at (k,) : points of the support of mu; None: x, points or edges

    Returns T(at) (k,), where T jumps the middle. Parts of the mass below 1e-13 are not told apart. Raises `InputError` where a
    point mass would have to be split: `kantorovich` gives plans that do.
    """
    first, second, given = _quantiles(x, a, "x, a"), _quantiles(y, b, "y, b"), at is not None
    same_mass(first.mass, second.mass)
    at = numbers(x if at is None else at, "at")
    least, most = first.start.min(), first.end.max()
    beyond = at[(at < least) | (at > most)] if given else []
    if len(beyond):
        raise InputError(f"at must be points of the support of x, a, between {least:.6g} and {most:.6g}, not {beyond[0]:.6g}")
    low, high = first.below(at)
    (start, _), (_, end) = second.at(low), second.at(high)
    split = np.flatnonzero(end - start > 1e-9 * np.ptp(second.values()))
    if len(split):
        i = split[0]
        raise InputError(f"no map carries a to b: the mass at x = {at[i]:.6g} would be split between {start[i]:.6g} and "
                         f"{end[i]:.6g}; kantorovich gives a plan that splits it")
    return (start + end) / 2


@dataclass(frozen=True)
class _Quantile:
    """F^-1, linear from start_i to end_i for s_i < s < s_(i+1): s (n + 1,) from 0 to 1; start, end (n,)."""

    s: np.ndarray
    start: np.ndarray
    end: np.ndarray
    mass: float

    def values(self):
        return np.concatenate([self.start, self.end])

    def ends(self, s):
        """The values at both ends of the intervals between the s (k + 1,), which contain self.s: two (k,)."""
        i = np.clip(np.searchsorted(self.s, (s[1:] + s[:-1]) / 2) - 1, 0, len(self.start) - 1)
        return self._on(i, s[:-1]), self._on(i, s[1:])

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
        F = np.interp(x, np.stack([self.start, self.end]).T.ravel(), np.stack([self.s[:-1], self.s[1:]]).T.ravel())
        return F, F


def _quantiles(x, a, what):
    x, a = numbers(x, what), numbers(a, what)
    if x.ndim != 1 or a.ndim != 1 or len(x) - len(a) not in (0, 1) or not len(a):
        raise InputError(f"{what}: points (n,) and masses (n,), or edges (n + 1,) and densities (n,), are wanted, not shapes "
                         f"{x.shape} and {a.shape}")
    if (a < 0).any():
        raise InputError(f"{what}: the masses must be at least 0, but one is {a.min():.6g}")
    if len(x) == len(a):
        order = np.argsort(x, kind="stable")
        start = end = x[order]
        masses = a[order]
    else:
        if (np.diff(x) <= 0).any():
            raise InputError(f"{what}: edges of intervals must increase")
        start, end, masses = x[:-1], x[1:], a * np.diff(x)
    some, mass = masses > 0, masses.sum()
    if not some.any():
        raise InputError(f"{what}: there is no mass")
    s = np.concatenate([[0.0], np.cumsum(masses[some]) / mass])
    s[-1] = 1.0
    return _Quantile(s, start[some], end[some], mass)


def _mean_power(d0, d1, p):
    """The means (k,) of |d|^p where d goes linearly from d0 (k,) to d1 (k,).

    Where the sign changes, or one end is much smaller, by the difference of |d|^(p + 1) at the ends; else by Gauss points.
    """
    small, large = np.minimum(np.abs(d0), np.abs(d1)), np.maximum(np.abs(d0), np.abs(d1))
    sign = np.where(d0 * d1 < 0, 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (large**(p + 1) + sign * small**(p + 1)) / ((p + 1) * (large + sign * small))
    smooth = sum(w / 2 * np.abs(d0 + (1 + z) / 2 * (d1 - d0))**p for z, w in zip(*GAUSS, strict=True))
    return np.where((d0 * d1 >= 0) & (small > large / 4), smooth, np.where(large > 0, exact, 0.0))
