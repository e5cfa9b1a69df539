"""Plans between point masses: Kantorovich's, Monge's maps, and what follows from them."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..arguments.functions import as_floats, find_rounding, is_number
from ..arguments.types import Array, ArrayLike, IntArray
from ..errors import ConvergenceError, InputError
from .marginals import as_measure, as_points, check_power, find_common_mass

# Entries of a cost matrix, at most: 800 MB.
MAX_COST_ENTRIES = 10**8

# Relative amount by which a plan may cost more than its potentials prove.
COST_SLACK = 1e-9

# Round-off of a sum of costs, relative to the sum of its terms.
COST_ROUNDING = 1e-15

# Calls of the simplex, at most, each for the costs less the potentials found so far.
MAX_SIMPLEX_CALLS = 8

# From the second call on, reduced costs are cut off at this multiple of the last violation of
# complementary slackness: larger ones do not matter.
REDUCED_COST_CUTOFF = 10.0

# Pivots of the network simplex, at most.
MAX_PIVOTS = 10**8

# Error of a mass, in units of 1/n, that still counts as a multiple of 1/n.
MULTIPLE_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Plan:
    """A transport plan between point masses: how much goes from each point to each other one.

    Parameters
    ----------
    x, y : arrays (dim, n) and (dim, m)
        The points.
    matrix : array (n, m)
        The masses that go from x_i to y_j.
    cost : float
        sum_ij c_ij matrix_ij.
    u, v : arrays (n,) and (m,)
        Potentials: u_i + v_j <= c_ij, with equality where mass goes, so that cost = sum u a +
        sum v b.
    epsilon : float
        The entropic regularisation, 0 where there is none.
    divergence : float
        The Sinkhorn divergence; nan where epsilon is 0, or where it was not asked for.

    Examples
    --------
    >>> from fvot import static
    >>> plan = static.kantorovich([0.0, 1.0], [0.5, 0.5], [2.0], [1.0])
    >>> plan.cost
    2.5
    >>> plan.matrix.tolist()
    [[0.5], [0.5]]
    """

    x: Array
    y: Array
    matrix: Array
    cost: float
    u: Array
    v: Array
    epsilon: float = 0.0
    divergence: float = math.nan

    def transport_map(self) -> Array:
        """The mean place to which the mass of each x_i goes (the barycentric projection).

        Returns
        -------
        array (dim, n)
            nan where x_i has no mass.

        Examples
        --------
        >>> from fvot import static
        >>> static.kantorovich([0.0], [1.0], [1.0, 2.0], [0.5, 0.5]).transport_map().tolist()
        [[1.5]]
        """
        a = self.matrix.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(a > 0, self.y @ self.matrix.T / a, np.nan)


def kantorovich(
    x: ArrayLike,
    a: ArrayLike,
    y: ArrayLike,
    b: ArrayLike,
    cost: str | float | ArrayLike = "sqeuclidean",
) -> Plan:
    """The optimal `Plan` between two measures: min sum c_ij P_ij, exact.

    Parameters
    ----------
    x, y : arrays (dim, n) and (dim, m)
        The points; (n,) and (m,) on a line.
    a, b : arrays (n,) and (m,)
        Their masses, equal in total.
    cost : "sqeuclidean", number or array (n, m)
        |x - y|^2; a power p > 0 for |x - y|^p; or the matrix c, such as that of
        `Mesh.geodesic_distance`.

    Returns
    -------
    Plan
        The plan with its potentials, which certify it.

    Raises
    ------
    InputError
        Where the masses differ, or for more than 10^8 pairs of points.
    ConvergenceError
        Where the network simplex fails.

    Notes
    -----
    The potentials prove that the plan costs at most a relative 1e-9 more than the best one. Where
    costs span many decades, POT's network simplex is called again for the costs less the potentials
    found so far. (Kantorovich 1942)

    Examples
    --------
    >>> from fvot import static
    >>> plan = static.kantorovich([0.0, 1.0], [0.5, 0.5], [2.0, 3.0], [0.5, 0.5])
    >>> plan.cost
    4.0
    """
    given_masses = (a, b)
    (x, a) = as_measure(x, a, "x, a")
    (y, b) = as_measure(y, b, "y, b")
    mass = find_common_mass(a.sum(), b.sum(), *given_masses)
    C = cost_matrix(x, y, cost)

    rows = np.flatnonzero(a)
    columns = np.flatnonzero(b)
    c = np.ascontiguousarray(C[np.ix_(rows, columns)])
    P, v = _find_plan(a[rows], b[columns], c)

    matrix = np.zeros(C.shape)
    matrix[np.ix_(rows, columns)] = mass * P
    total_cost = (matrix * C).sum()

    # Points without mass have a potential, too.
    reduced = C[:, columns] - v
    u = reduced.min(axis=1)
    reduced = C - u[:, None]
    v = reduced.min(axis=0)
    return Plan(x, y, matrix, float(total_cost), u, v)


def _find_plan(a, b, c):
    """(P (n, m), v (m,)): an optimal plan of total mass 1 and its potential, for masses > 0."""
    v = np.zeros(len(b))
    violation = np.inf
    for _ in range(MAX_SIMPLEX_CALLS):
        # The same plan is optimal for what the potentials leave of the costs.
        u = (c - v).min(axis=1)
        reduced = c - u[:, None] - v
        P, correction = _call_simplex(a, b, reduced, violation)
        v = v + correction

        u = (c - v).min(axis=1)
        reduced = c - u[:, None] - v
        is_used = P > 0
        slack = reduced[is_used]
        cost = (P * np.abs(c)).sum()
        violation = slack.max()
        excess = P[is_used] @ slack
        if excess <= COST_SLACK * cost:
            return P, v

    sizes = np.abs(c) + np.abs(u)[:, None] + np.abs(v)
    terms = (P * sizes).sum()
    if excess > COST_SLACK * cost + COST_ROUNDING * terms:
        raise ConvergenceError(
            f"the plan may cost {excess:.1e} more than the best one, of its {cost:.1e}: with "
            f"costs of up to {c.max():.1e} floating point cannot tell; leave out distant points"
        )

    return P, v


def _call_simplex(a, b, c, violation):
    """(P (n, m), v (m,)): plan of total mass 1 and potential for reduced costs c (n, m) >= 0.

    Costs above REDUCED_COST_CUTOFF times the *violation* are cut off there. The simplex wants sums
    that are exactly the same, and costs and masses near 1.
    """
    import ot

    c = np.minimum(c, REDUCED_COST_CUTOFF * violation)
    scale = max(c.max(), np.finfo(float).tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P, log = ot.emd(
            a / a.sum(),
            b / b.sum(),
            np.ascontiguousarray(c / scale),
            numItermax=MAX_PIVOTS,
            log=True,
        )

    if log["warning"] is not None:
        raise ConvergenceError(f"the network simplex has not found the plan: {log['warning']}")

    return P, scale * log["v"]


def cost_matrix(x: ArrayLike, y: ArrayLike, cost: str | float | ArrayLike = "sqeuclidean") -> Array:
    """The costs c_ij of going from x_i to y_j.

    Parameters
    ----------
    x, y : arrays (dim, n) and (dim, m)
        The points; (n,) and (m,) on a line.
    cost : "sqeuclidean", number or array (n, m)
        As in `kantorovich`.

    Returns
    -------
    array (n, m)

    Raises
    ------
    InputError
        For more than 10^8 pairs, and for costs that are not finite.

    Examples
    --------
    >>> from fvot import static
    >>> static.cost_matrix([0.0, 1.0], [3.0]).tolist()
    [[9.0], [4.0]]
    """
    x = as_points(x, "x")
    y = as_points(y, "y")
    n = x.shape[1]
    m = y.shape[1]
    _check_pairs(n, m)
    if len(x) != len(y):
        raise InputError(
            f"x are points in {len(x)}D, y in {len(y)}D: both must have the same number of "
            "coordinates"
        )

    is_square = isinstance(cost, str) and cost == "sqeuclidean"
    if is_square or is_number(cost):
        return _compute_powers(x, y, cost)

    wanted = (
        f"cost must be 'sqeuclidean', a power of the distance, or a matrix of finite numbers "
        f"({n}, {m})"
    )
    C = as_floats(cost, wanted)
    if C.shape != (n, m) or not np.isfinite(C).all():
        shape = f" of shape {C.shape}" if C.ndim else ""
        raise InputError(f"{wanted}, not {cost!r:.60}{shape}")

    return C


def _compute_powers(x, y, cost):
    """|x_i - y_j|^2 for a word, |x_i - y_j|^cost for a number: (n, m)."""
    if is_number(cost) and not 0 < cost < math.inf:
        raise InputError(f"cost must be a power above 0 of the distance, not {cost!r}")

    with np.errstate(over="ignore"):
        if isinstance(cost, str):
            C = cdist(x.T, y.T, "sqeuclidean")
        else:
            distance = cdist(x.T, y.T)
            C = distance**cost
    if not np.isfinite(C).all():
        raise InputError("the points are so far apart that the costs are not finite: scale them")

    return C


def _check_pairs(n, m):
    if n * m > MAX_COST_ENTRIES:
        raise InputError(
            f"{n} times {m} points are {n * m:.1e} pairs, but at most {MAX_COST_ENTRIES:.0e} are "
            "possible: take  a coarser mesh"
        )


def wasserstein(x: ArrayLike, a: ArrayLike, y: ArrayLike, b: ArrayLike, p: float = 2) -> float:
    """The Wasserstein distance W_p = (min sum |x_i - y_j|^p P_ij)^(1/p), p >= 1.

    Parameters
    ----------
    x, a, y, b : arrays
        Points and masses, as in `kantorovich`.
    p : float
        The power of the distance.

    Returns
    -------
    float

    Raises
    ------
    InputError
        As `kantorovich` does, and for p below 1.
    ConvergenceError
        Where the power p of small distances is lost in the round-off of the large ones.

    Examples
    --------
    >>> from fvot import static
    >>> static.wasserstein([0.0, 1.0], [0.5, 0.5], [2.0, 3.0], [0.5, 0.5])
    2.0
    """
    check_power(p)
    distance = cost_matrix(x, y, 1)
    size = distance.max() or 1.0
    powers = (distance / size) ** p
    plan = kantorovich(x, a, y, b, powers)

    mass = plan.matrix.sum()
    size_of_u = np.abs(plan.u)
    size_of_v = np.abs(plan.v)
    sizes = powers + size_of_u[:, None] + size_of_v
    terms = (plan.matrix * sizes).sum()
    doubt = COST_ROUNDING * terms / mass
    mean_power = max(plan.cost, 0.0) / mass
    scaled_distance = mean_power ** (1 / p)
    moves = ((distance > 0) & (plan.matrix > 0)).any()
    largest_distance = (scaled_distance**p + doubt) ** (1 / p)
    if moves and largest_distance - scaled_distance > COST_SLACK:
        raise ConvergenceError(
            f"distances of up to {size:.3g} to the power of {p:g} leave nothing of the small "
            "ones: take a smaller p; on a line wasserstein_1d does it"
        )

    return float(size * mass ** (1 / p) * scaled_distance)


def monge(
    x: ArrayLike,
    y: ArrayLike,
    b: ArrayLike | None = None,
    cost: str | float | ArrayLike = "sqeuclidean",
) -> IntArray:
    """The optimal map T from n equal masses 1/n at x to y: min sum c_(i, T_i) / n.

    Parameters
    ----------
    x, y : arrays (dim, n) and (dim, m)
        The points; (n,) and (m,) on a line.
    b : array (m,), optional
        The masses at y: multiples of 1/n, 1 in total. None: 1/m each.
    cost : "sqeuclidean", number or array (n, m)
        As in `kantorovich`.

    Returns
    -------
    array of integers (n,)
        x_i goes to y[:, T_i].

    Raises
    ------
    InputError
        Where no map exists because masses would have to be split.

    Notes
    -----
    The assignment problem is solved by SciPy. (Monge 1781)

    Examples
    --------
    >>> from fvot import static
    >>> static.monge([0.0, 1.0], [2.1, 1.1]).tolist()
    [1, 0]
    """
    x = as_points(x, "x")
    y = as_points(y, "y")
    n = x.shape[1]
    m = y.shape[1]
    given_masses = np.full(m, 1 / m) if b is None else b
    _, b = as_measure(y, given_masses, "y, b")
    find_common_mass(1.0, b.sum(), given_masses)

    parts = b * n
    rounding = np.maximum(MULTIPLE_ROUNDING * n, find_rounding(given_masses) * parts)
    whole_parts = np.round(parts)
    departure = np.abs(parts - whole_parts)
    split = np.flatnonzero(departure > rounding)
    if len(split):
        j = split[0]
        raise InputError(
            f"no map carries {n} masses of 1/{n} to y: the mass {b[j]:.6g} at y_{j} is no "
            f"multiple of 1/{n}, and a map does not split masses; kantorovich gives a plan that "
            "does"
        )

    _check_pairs(n, n)
    counts = whole_parts.astype(int)
    targets = np.repeat(np.arange(m), counts)
    C = cost_matrix(x, y, cost)
    row, column = linear_sum_assignment(C[:, targets])
    T = np.empty(n, int)
    T[row] = targets[column]
    return T


def displacement_interpolation(plan: Plan, t: float) -> tuple[Array, Array]:
    """The measure at time t along a `Plan`: the masses P_ij at (1 - t) x_i + t y_j.

    For the cost |x - y|^2 this is the geodesic of W2 (McCann 1997).

    Parameters
    ----------
    plan : Plan
        What `kantorovich` or `sinkhorn` returned.
    t : float
        A time between 0 and 1.

    Returns
    -------
    points : array (dim, k)
    masses : array (k,)

    Raises
    ------
    InputError
        For anything that is not a plan, and for t outside [0, 1].

    Examples
    --------
    >>> from fvot import static
    >>> plan = static.kantorovich([0.0], [1.0], [2.0], [1.0])
    >>> points, masses = static.displacement_interpolation(plan, 0.25)
    >>> points.tolist(), masses.tolist()
    ([[0.5]], [1.0])
    """
    if not isinstance(plan, Plan):
        raise InputError(
            f"plan must be a Plan, as kantorovich and sinkhorn return, not {plan!r:.60}"
        )
    if not is_number(t) or not 0 <= t <= 1:
        raise InputError(f"t must be a time between 0 and 1, not {t!r:.60}")

    i, j = np.nonzero(plan.matrix)
    points = (1 - t) * plan.x[:, i] + t * plan.y[:, j]
    return points, plan.matrix[i, j]
