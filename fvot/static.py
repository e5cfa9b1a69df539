"""Static optimal transport between discrete measures: points (dim, n) with weights (n,), on a line also densities on intervals.

An independent witness for `BenamouBrenier`: the linear programs and Sinkhorn's iteration are POT's (Flamary et al. 2021),
assignments SciPy's. `Result.to_points` and `Mesh.deposit` are the bridge from a mesh to points and back. Every rank computes
the same thing.
"""
import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .errors import ConvergenceError, InputError
from .functions import is_number

LARGEST = 10**8          # entries of a matrix of costs: 800 MB
BALANCED = 1e-10         # relative difference of masses that counts as rounding
SLACK = 1e-9             # by which a plan may cost more than the potentials say, relative
ROUNDING = 1e-15         # by which it may, relative to all that is added up
REFINED = 8              # times at most that the simplex is asked, each time for the costs less the potentials so far
FAR = 10.0               # of these, those so many times larger than slackness was missed by are no matter
PIVOTS = 10**8           # of the network simplex, at most
WHOLE = 1e-9             # by which a multiple of a mass may be missed
SWEEPS = 100_000         # of Sinkhorn's iteration with the last epsilon, 100 with the larger ones before
GAUSS = np.polynomial.legendre.leggauss(12)


# ---- on a line ---------------------------------------------------------------------------------------------------------


def wasserstein_1d(x, a, y, b, p=2):
    """W_p of two measures on a line: (int_0^1 |F_mu^-1(s) - F_nu^-1(s)|^p ds)^(1/p), p >= 1, times mass^(1/p); exact.

    x, a : points (n,) and masses (n,); or the edges (n + 1,) of intervals, in increasing order, and densities (n,) on them,
        such as cell averages
    y, b : the other measure, in either way

    Raises `InputError` for masses that differ. (Santambrogio 2015, 2.1)
    """
    _check_power(p)
    first, second = _quantiles(x, a, "x, a"), _quantiles(y, b, "y, b")
    mass = _same_mass(first.mass, second.mass)
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
    _same_mass(first.mass, second.mass)
    at = _numbers(x if at is None else at, "at")
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
    x, a = _numbers(x, what), _numbers(a, what)
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


# ---- plans -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Plan:
    """How much goes where.

    x (dim, n), y (dim, m) : the points
    matrix (n, m) : masses that go from x_i to y_j
    cost : sum_ij c_ij matrix_ij
    u (n,), v (m,) : potentials, u_i + v_j <= c_ij, with equality where mass goes: cost = sum u a + sum v b
    epsilon : of the entropy, 0 where there is none
    divergence : Sinkhorn's, nan where epsilon is 0
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray
    cost: float
    u: np.ndarray
    v: np.ndarray
    epsilon: float = 0.0
    divergence: float = math.nan

    def transport_map(self):
        """Where the mass of each x_i goes on the mean (dim, n); nan where there is none."""
        a = self.matrix.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(a > 0, self.y @ self.matrix.T / a, np.nan)


def kantorovich(x, a, y, b, cost="sqeuclidean"):
    """The optimal `Plan` of masses a (n,) at points x (dim, n) to masses b (m,) at y (dim, m): min sum c_ij P_ij, exact.

    cost : "sqeuclidean", |x - y|^2; a number p > 0, |x - y|^p; or the matrix c (n, m), such as of `Mesh.geodesic_distance`
    x, y : (n,) on a line

    Optimality is checked by the potentials: the plan costs at most 1e-9 of its cost more than the best one. Where costs span
    many decades the simplex is asked again, for the costs less the potentials so far. Raises `InputError` for masses that
    differ, and for more than 10^8 pairs; `ConvergenceError` where the program (POT's network simplex) is not solved.
    (Kantorovich 1942)
    """
    (x, a), (y, b) = _measure(x, a, "x, a"), _measure(y, b, "y, b")
    mass, C = _same_mass(a.sum(), b.sum()), costs(x, y, cost)
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    c = np.ascontiguousarray(C[np.ix_(rows, columns)])
    v, missed, matrix = np.zeros(len(columns)), np.inf, np.zeros(C.shape)
    for _ in range(REFINED):
        u = (c - v).min(axis=1)
        left = c - u[:, None] - v                       # the same plan is optimal for what the potentials leave of the costs
        P, more = _simplex(a[rows], b[columns], left, missed)
        v = v + more
        u = (c - v).min(axis=1)
        slack, cost = (c - u[:, None] - v)[P > 0], (P * np.abs(c)).sum()
        missed, lost = slack.max(), P[P > 0] @ slack
        if lost <= SLACK * cost:
            break
    if lost > SLACK * cost + ROUNDING * (P * (np.abs(c) + np.abs(u)[:, None] + np.abs(v))).sum():
        raise ConvergenceError(f"the plan may cost {lost:.1e} more than the best one, of its {cost:.1e}: with costs of up to "
                               f"{c.max():.1e} floating point does not tell; leave out what is far away")
    matrix[np.ix_(rows, columns)] = mass * P
    whole = np.full(len(C[0]), np.inf)
    whole[columns] = v
    u = (C[:, columns] - v).min(axis=1)                 # points without mass have a potential, too
    return Plan(x, y, matrix, float((matrix * C).sum()), u, (C - u[:, None]).min(axis=0))


def _simplex(a, b, c, most):
    """(the plan (n, m) of masses of 1 in all, potential (m,)) for costs c (n, m) >= 0, those above FAR *most* made smaller."""
    import ot
    c = np.minimum(c, FAR * most)
    size = max(c.max(), np.finfo(float).tiny)           # the simplex wants exactly the same sums, and costs and masses near 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P, log = ot.emd(a / a.sum(), b / b.sum(), np.ascontiguousarray(c / size), numItermax=PIVOTS, log=True)
    if log["warning"] is not None:
        raise ConvergenceError(f"the network simplex has not found the plan: {log['warning']}")
    return P, size * log["v"]


def costs(x, y, cost="sqeuclidean"):
    """c (n, m) between points x (dim, n) and y (dim, m): see `kantorovich`."""
    x, y = _points(x, "x"), _points(y, "y")
    n, m = x.shape[1], y.shape[1]
    _check_pairs(n, m)
    if len(x) != len(y):
        raise InputError(f"x are points in {len(x)}D, y in {len(y)}D: both must have the same number of coordinates")
    if isinstance(cost, str) and cost == "sqeuclidean" or is_number(cost):
        if is_number(cost) and not 0 < cost < math.inf:
            raise InputError(f"cost must be a power above 0 of the distance, not {cost!r}")
        with np.errstate(over="ignore"):
            C = cdist(x.T, y.T, "sqeuclidean") if isinstance(cost, str) else cdist(x.T, y.T)**cost
        if not np.isfinite(C).all():
            raise InputError("the points are so far apart that the costs are no finite numbers: scale them")
        return C
    try:
        C = np.asarray(cost, float) if not np.iscomplexobj(cost) else np.array(np.nan)
    except (TypeError, ValueError):
        C = np.array(np.nan)
    if C.shape != (n, m) or not np.isfinite(C).all():
        raise InputError(f"cost must be 'sqeuclidean', a power of the distance, or a matrix of finite numbers ({n}, {m}), not "
                         f"{cost!r:.60}" + (f" of shape {C.shape}" if C.ndim else ""))
    return C


def _check_pairs(n, m):
    if n * m > LARGEST:
        raise InputError(f"{n} times {m} points are {n * m:.1e} pairs, at most {LARGEST:.0e} will do: take a coarser mesh")


def wasserstein(x, a, y, b, p=2):
    """W_p, p >= 1, a metric: (min sum |x_i - y_j|^p P_ij)^(1/p), by `kantorovich`."""
    _check_power(p)
    distance = costs(x, y, 1)
    size = distance.max() or 1.0
    scaled = (distance / size)**p
    plan = kantorovich(x, a, y, b, scaled)
    doubt = ROUNDING * (plan.matrix * (scaled + np.abs(plan.u)[:, None] + np.abs(plan.v))).sum() / plan.matrix.sum()
    mass = plan.matrix.sum()
    found = (max(plan.cost, 0.0) / mass)**(1 / p)
    if ((distance > 0) & (plan.matrix > 0)).any() and (found**p + doubt)**(1 / p) - found > SLACK:
        raise ConvergenceError(f"distances of up to {size:.3g} to the power of {p:g} leave nothing of the small ones: take a "
                               "smaller p; on a line wasserstein_1d does it")
    return size * mass**(1 / p) * found


def monge(x, y, b=None, cost="sqeuclidean"):
    """The map T (n,) from n equal masses 1/n at x (dim, n) to y (dim, m), as numbers of points: min sum c_(i, T_i) / n.

    b (m,) : the masses at y, multiples of 1/n, 1 in all; None: 1/m each

    Raises `InputError` where no map exists, because masses would have to be split (Monge 1781; the assignment is SciPy's).
    """
    x, y = _points(x, "x"), _points(y, "y")
    n, m = x.shape[1], y.shape[1]
    _, b = _measure(y, np.full(m, 1 / m) if b is None else b, "y, b")
    _same_mass(1.0, b.sum())
    parts = b * n
    wrong = np.flatnonzero(np.abs(parts - np.round(parts)) > WHOLE * n)
    if len(wrong):
        j = wrong[0]
        raise InputError(f"no map carries {n} masses of 1/{n} to y: the mass {b[j]:.6g} at y_{j} is no multiple of 1/{n}, and "
                         "a map does not split masses; kantorovich gives a plan that does")
    _check_pairs(n, n)
    targets = np.repeat(np.arange(m), np.round(parts).astype(int))
    row, column = linear_sum_assignment(costs(x, y, cost)[:, targets])
    T = np.empty(n, int)
    T[row] = targets[column]
    return T


def displacement(plan, t):
    """The measure at time t of 0 to 1 on the way of a `Plan`: (points (dim, k), masses (k,)), P_ij at (1 - t) x_i + t y_j.

    For the cost |x - y|^2 this is the geodesic of W2 (McCann 1997).
    """
    if not isinstance(plan, Plan):
        raise InputError(f"plan must be a Plan, as kantorovich and sinkhorn return, not {plan!r:.60}")
    if not is_number(t) or not 0 <= t <= 1:
        raise InputError(f"t must be a time between 0 and 1, not {t!r:.60}")
    i, j = np.nonzero(plan.matrix)
    return (1 - t) * plan.x[:, i] + t * plan.y[:, j], plan.matrix[i, j]


# ---- entropy -----------------------------------------------------------------------------------------------------------


def sinkhorn(x, a, y, b, epsilon, cost="sqeuclidean", tol=1e-9):
    """The entropic `Plan`: min sum c_ij P_ij + epsilon KL(P | a b), in the log domain; small epsilon takes many sweeps.

    epsilon : in the units of the cost
    tol : by which the masses may be missed, relative

    cost is sum c_ij P_ij; divergence is debiased, OT(mu, nu) - (OT(mu, mu) + OT(nu, nu)) / 2 of the minimum OT (Feydy et al.
    2019), nan for a matrix of costs. Raises `InputError`, and `ConvergenceError`. (Cuturi 2013; the sweeps are POT's)
    """
    (x, a), (y, b) = _measure(x, a, "x, a"), _measure(y, b, "y, b")
    mass = _same_mass(a.sum(), b.sum())
    if not is_number(epsilon) or not 0 < epsilon < math.inf:
        raise InputError(f"epsilon must be a number above 0, in the units of the cost, not {epsilon!r}")
    if not is_number(tol) or not 1e-15 < tol < 1:
        raise InputError(f"tol must be a number between 1e-15 and 1, not {tol!r}")
    C = costs(x, y, cost)
    P, u, v, value = _entropic(C, a / mass, b / mass, epsilon, tol)
    divergence = math.nan
    if isinstance(cost, str) or is_number(cost):
        own = [_entropic(costs(z, z, cost), c / mass, c / mass, epsilon, tol)[-1] for z, c in ((x, a), (y, b))]
        divergence = mass * (value - sum(own) / 2)
    return Plan(x, y, mass * P, float(mass * (P * C).sum()), u, v, float(epsilon), divergence)


def _entropic(C, a, b, epsilon, tol):
    """(P, u, v, the minimum) for masses of 1 in all; from large epsilon to the wanted one, each started from the last."""
    import ot
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    a, b, c = a[rows], b[columns], C[np.ix_(rows, columns)]
    steps = np.geomspace(max(np.abs(c).max(), epsilon), epsilon, 1 + math.ceil(math.log2(max(np.abs(c).max() / epsilon, 1))))
    logs = np.zeros(len(a)), np.zeros(len(b))
    for i, now in enumerate(steps):
        last = i == len(steps) - 1
        before = steps[i - 1] if i else now
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            P, log = ot.bregman.sinkhorn_log(a, b, c, now, numItermax=SWEEPS if last else 100,
                                             stopThr=tol / math.sqrt(max(c.shape)) / 2, log=True,
                                             warmstart=tuple(before / now * part for part in logs))
        logs = log["log_u"], log["log_v"]
    missed = max(np.abs(P.sum(axis=1) - a).sum(), np.abs(P.sum(axis=0) - b).sum())
    if not missed <= tol:
        raise ConvergenceError(f"Sinkhorn's iteration misses the masses by {missed:.1e} after {log['niter']} sweeps: take an "
                               f"epsilon above {epsilon:.3g}, or a tol above {tol:.3g}")
    u, v = (np.full(len(C), np.nan), np.full(C.shape[1], np.nan))
    u[rows], v[columns] = epsilon * (logs[0] - np.log(a)), epsilon * (logs[1] - np.log(b))
    whole = np.zeros(C.shape)
    whole[np.ix_(rows, columns)] = P
    return whole, u, v, a @ u[rows] + b @ v[columns]


# ---- input -------------------------------------------------------------------------------------------------------------


def _numbers(x, what):
    try:
        array = np.asarray(x, float) if not np.iscomplexobj(x) else np.array(np.nan)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be arrays of finite numbers, not {x!r:.60}")
    return array


def _points(x, what):
    """(dim, n) from that, or from (n,) on a line."""
    x = np.atleast_2d(_numbers(x, what))
    if x.size == 0:
        raise InputError(f"{what}: there are no points, but an array of shape {x.shape}")
    if x.ndim != 2 or x.shape[0] > 3:
        raise InputError(f"{what} must be points (dim, n), dim 1 to 3, or (n,) on a line, not of shape {x.shape}"
                         + ("; is this the transpose?" if x.ndim == 2 and x.shape[1] <= 3 else ""))
    return x


def _measure(x, a, what):
    """Points (dim, n) and masses (n,), checked."""
    x, a = _points(x, what), _numbers(a, what)
    if a.shape != (x.shape[1],):
        raise InputError(f"{what}: {x.shape[1]} points need as many masses, not shape {a.shape}")
    if (a < 0).any() or not a.any():
        raise InputError(f"{what}: the masses must be at least 0, and not all 0, but the smallest is {a.min():.6g}")
    return x, a


def _same_mass(first, second):
    if abs(first - second) > BALANCED * max(first, second):
        raise InputError(f"the masses differ: {first:.12g} and {second:.12g}; scale one of them, mass is neither made nor lost")
    return first


def _check_power(p):
    if not is_number(p) or not 1 <= p < math.inf:
        raise InputError(f"p must be a finite number of at least 1, not {p!r}")
