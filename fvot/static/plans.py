"""Plans between point masses: Kantorovich's, Monge's maps, and what follows from them."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..arguments.functions import as_floats, find_rounding, is_number
from ..errors import ConvergenceError, InputError
from .marginals import check_power, measure, points_of, same_mass

LARGEST = 10**8  # entries of a matrix of costs: 800 MB
SLACK = 1e-9  # by which a plan may cost more than the potentials say, relative
ROUNDING = 1e-15  # by which it may, relative to all that is added up
REFINED = (
    8  # times at most that the simplex is asked, each time for the costs less the potentials so far
)
FAR = 10.0  # of these, those so many times larger than slackness was missed by are no matter
PIVOTS = 10**8  # of the network simplex, at most
WHOLE = 1e-9  # by which a multiple of a mass may be missed


@dataclass(frozen=True, eq=False)
class Plan:
    """How much goes where.

    x (dim, n), y (dim, m) : the points
    matrix (n, m) : masses that go from x_i to y_j
    cost : sum_ij c_ij matrix_ij
    u (n,), v (m,) : potentials, u_i + v_j <= c_ij, with equality where mass goes: cost = sum u a +
        sum v b
    epsilon : of the entropy, 0 where there is none
    divergence : Sinkhorn's, nan where epsilon is 0, or where it was not asked for
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
    """The optimal `Plan` of masses a (n,) at points x (dim, n) to masses b (m,) at y (dim, m): min
    sum c_ij P_ij, exact.

    cost : "sqeuclidean", |x - y|^2; a number p > 0, |x - y|^p; or the matrix c (n, m), such as of
        `Mesh.geodesic_distance`
    x, y : (n,) on a line

    Optimality is checked by the potentials: the plan costs at most 1e-9 of its cost more than the
    best one. Where costs span many decades the simplex is asked again, for the costs less the
    potentials so far. Raises `InputError` for masses that differ, and for more than 10^8 pairs;
    `ConvergenceError` where the program (POT's network simplex) is not solved. (Kantorovich 1942)
    """
    given = (a, b)
    (x, a) = measure(x, a, "x, a")
    (y, b) = measure(y, b, "y, b")
    mass, C = same_mass(a.sum(), b.sum(), *given), costs(x, y, cost)
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    c = np.ascontiguousarray(C[np.ix_(rows, columns)])
    v = np.zeros(len(columns))
    missed = np.inf
    matrix = np.zeros(C.shape)
    for _ in range(REFINED):
        u = (c - v).min(axis=1)
        left = (
            c - u[:, None] - v
        )  # the same plan is optimal for what the potentials leave of the costs
        P, more = _simplex(a[rows], b[columns], left, missed)
        v = v + more
        u = (c - v).min(axis=1)
        slack = (c - u[:, None] - v)[P > 0]
        cost = (P * np.abs(c)).sum()
        missed = slack.max()
        lost = P[P > 0] @ slack
        if lost <= SLACK * cost:
            break
    if lost > SLACK * cost + ROUNDING * (P * (np.abs(c) + np.abs(u)[:, None] + np.abs(v))).sum():
        raise ConvergenceError(
            f"the plan may cost {lost:.1e} more than the best one, of its {cost:.1e}: with costs "
            "of up to "
            f"{c.max():.1e} floating point does not tell; leave out what is far away"
        )
    matrix[np.ix_(rows, columns)] = mass * P
    whole = np.full(len(C[0]), np.inf)
    whole[columns] = v
    u = (C[:, columns] - v).min(axis=1)  # points without mass have a potential, too
    return Plan(x, y, matrix, float((matrix * C).sum()), u, (C - u[:, None]).min(axis=0))


def _simplex(a, b, c, most):
    """(the plan (n, m) of masses of 1 in all, potential (m,)) for costs c (n, m) >= 0, those above
    FAR *most* made smaller.
    """
    import ot

    c = np.minimum(c, FAR * most)
    size = max(
        c.max(), np.finfo(float).tiny
    )  # the simplex wants exactly the same sums, and costs and masses near 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P, log = ot.emd(
            a / a.sum(), b / b.sum(), np.ascontiguousarray(c / size), numItermax=PIVOTS, log=True
        )
    if log["warning"] is not None:
        raise ConvergenceError(f"the network simplex has not found the plan: {log['warning']}")
    return P, size * log["v"]


def costs(x, y, cost="sqeuclidean"):
    """c (n, m) between points x (dim, n) and y (dim, m): see `kantorovich`."""
    x, y = points_of(x, "x"), points_of(y, "y")
    n = x.shape[1]
    m = y.shape[1]
    _check_pairs(n, m)
    if len(x) != len(y):
        raise InputError(
            f"x are points in {len(x)}D, y in {len(y)}D: both must have the same number of "
            "coordinates"
        )
    if isinstance(cost, str) and cost == "sqeuclidean" or is_number(cost):
        if is_number(cost) and not 0 < cost < math.inf:
            raise InputError(f"cost must be a power above 0 of the distance, not {cost!r}")
        with np.errstate(over="ignore"):
            C = cdist(x.T, y.T, "sqeuclidean") if isinstance(cost, str) else cdist(x.T, y.T) ** cost
        if not np.isfinite(C).all():
            raise InputError(
                "the points are so far apart that the costs are no finite numbers: scale them"
            )
        return C
    C = as_floats(
        cost,
        "cost must be 'sqeuclidean', a power of the distance, or a matrix of finite numbers "
        f"({n}, {m})",
    )
    if C.shape != (n, m) or not np.isfinite(C).all():
        raise InputError(
            "cost must be 'sqeuclidean', a power of the distance, or a matrix of finite numbers "
            f"({n}, {m}), not "
            f"{cost!r:.60}" + (f" of shape {C.shape}" if C.ndim else "")
        )
    return C


def _check_pairs(n, m):
    if n * m > LARGEST:
        raise InputError(
            f"{n} times {m} points are {n * m:.1e} pairs, at most {LARGEST:.0e} will do: take a "
            "coarser mesh"
        )


def wasserstein(x, a, y, b, p=2):
    """W_p, p >= 1, a metric: (min sum |x_i - y_j|^p P_ij)^(1/p), by `kantorovich`."""
    check_power(p)
    distance = costs(x, y, 1)
    size = distance.max() or 1.0
    scaled = (distance / size) ** p
    plan = kantorovich(x, a, y, b, scaled)
    doubt = (
        ROUNDING
        * (plan.matrix * (scaled + np.abs(plan.u)[:, None] + np.abs(plan.v))).sum()
        / plan.matrix.sum()
    )
    mass = plan.matrix.sum()
    found = (max(plan.cost, 0.0) / mass) ** (1 / p)
    if ((distance > 0) & (plan.matrix > 0)).any() and (found**p + doubt) ** (1 / p) - found > SLACK:
        raise ConvergenceError(
            f"distances of up to {size:.3g} to the power of {p:g} leave nothing of the small "
            "ones: take a "
            "smaller p; on a line wasserstein_1d does it"
        )
    return size * mass ** (1 / p) * found


def monge(x, y, b=None, cost="sqeuclidean"):
    """The map T (n,) from n equal masses 1/n at x (dim, n) to y (dim, m), as numbers of points: min
    sum c_(i, T_i) / n.

    b (m,) : the masses at y, multiples of 1/n, 1 in all; None: 1/m each

    Raises `InputError` where no map exists, because masses would have to be split (Monge 1781; the
    assignment is SciPy's).
    """
    x, y = points_of(x, "x"), points_of(y, "y")
    n = x.shape[1]
    m = y.shape[1]
    given = np.full(m, 1 / m) if b is None else b
    _, b = measure(y, given, "y, b")
    same_mass(1.0, b.sum(), given)
    parts = b * n
    wrong = np.flatnonzero(
        np.abs(parts - np.round(parts)) > np.maximum(WHOLE * n, find_rounding(given) * parts)
    )
    if len(wrong):
        j = wrong[0]
        raise InputError(
            f"no map carries {n} masses of 1/{n} to y: the mass {b[j]:.6g} at y_{j} is no "
            f"multiple of 1/{n}, and "
            "a map does not split masses; kantorovich gives a plan that does"
        )
    _check_pairs(n, n)
    targets = np.repeat(np.arange(m), np.round(parts).astype(int))
    row, column = linear_sum_assignment(costs(x, y, cost)[:, targets])
    T = np.empty(n, int)
    T[row] = targets[column]
    return T


def displacement(plan, t):
    """The measure at time t of 0 to 1 on the way of a `Plan`: (points (dim, k), masses (k,)), P_ij
    at (1 - t) x_i + t y_j.

    For the cost |x - y|^2 this is the geodesic of W2 (McCann 1997).
    """
    if not isinstance(plan, Plan):
        raise InputError(
            f"plan must be a Plan, as kantorovich and sinkhorn return, not {plan!r:.60}"
        )
    if not is_number(t) or not 0 <= t <= 1:
        raise InputError(f"t must be a time between 0 and 1, not {t!r:.60}")
    i, j = np.nonzero(plan.matrix)
    return (1 - t) * plan.x[:, i] + t * plan.y[:, j], plan.matrix[i, j]
