"""Entropic plans, by Sinkhorn's iteration, and by Newton's method where that takes long.

The iteration scales a kernel (`scaling`) as long as its sweeps cost less than Newton's steps. With
f = u / epsilon + log a and g = v / epsilon + log b the plan is P_ij = e^(f_i + g_j - c_ij /
epsilon). Sinkhorn's half-steps choose f so that rows have the masses a, or g so that columns have
b; each raises the dual, a . f + b . g for plans of mass 1. With f(g) from such a half-step the dual
is a concave function of g, with the gradient b - P^T 1 and the Hessian -S,

    S = diag(P^T 1) - P^T diag(1 / a) P

A Newton step solves S dg = b - P^T 1. Sinkhorn's iteration needs the more sweeps for the same gain,
the smaller epsilon is (Brauer, Clason, Lorenz, Wirth 2017).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import logsumexp

from ..arguments.functions import is_number
from ..arguments.types import Array, ArrayLike
from ..errors import ConvergenceError, InputError
from .marginals import as_measure, find_common_mass
from .plans import Plan, cost_matrix
from .scaling import scale_symmetric_kernel, scale_to_marginals

# Kernels with entries down to e^-this are safe: sums of such numbers do not underflow.
UNDERFLOW_EXPONENT = 500.0

# Sweeps of Sinkhorn's iteration before Newton's method takes over, at least.
FEWEST_SWEEPS = 50

# Columns for which there is one more of these sweeps: all together cost about what a Newton step
# costs.
COLUMNS_PER_SWEEP = 2

# Newton steps for each epsilon, at most.
MAX_NEWTON_STEPS = 500

# Factor by which epsilon falls from one stage to the next.
EPSILON_FACTOR = 4.0

# Error of the masses at which a stage before the last one ends.
STAGE_TOLERANCE = 1e-2

# Columns of a matrix S that is factorised, at most; conjugate gradients solve larger ones.
CHOLESKY_COLUMN_LIMIT = 2000

# Products with S in one step of conjugate gradients, at most.
MAX_PRODUCTS = 100

# Relative amount that is added to the diagonal of S, which is singular.
DIAGONAL_SHIFT = 1e-15

# Largest difference of g within a step: farther away S is another matrix.
TRUST_RADIUS = 6.0

# Gain of the dual that a step must reach, relative to what its gradient promises (Armijo).
ARMIJO_FRACTION = 1e-4

# Lengths of a Newton step that are tried, each half of the one before.
MAX_STEP_LENGTHS = 4

# Smallest sum that is divided by: sums may underflow.
SMALLEST_SUM = 1e-300


def sinkhorn(
    x: ArrayLike,
    a: ArrayLike,
    y: ArrayLike,
    b: ArrayLike,
    epsilon: float,
    cost: str | float | ArrayLike = "sqeuclidean",
    tol: float = 1e-9,
    debias: bool = True,
) -> Plan:
    """The entropic `Plan`: min sum c_ij P_ij + epsilon KL(P | a b), for any points and epsilon.

    Parameters
    ----------
    x, a, y, b : arrays
        Points and masses, as in `kantorovich`.
    epsilon : float
        The regularisation, in the units of the cost.
    cost : "sqeuclidean", number or array (n, m)
        As in `kantorovich`.
    tol : float
        Relative error of the masses of the plan.
    debias : bool
        Whether to compute the divergence, which needs the plans of both measures to themselves.

    Returns
    -------
    Plan
        `Plan.cost` is sum c_ij P_ij. `Plan.divergence` is OT(mu, nu) - (OT(mu, mu) + OT(nu, nu)) /
        2, where OT is the minimum. It is nan for a matrix of costs, and with debias=False.

    Raises
    ------
    InputError
        For measures of different mass, and parameters out of range.
    ConvergenceError
        If the iteration does not reach the masses to tol.

    Notes
    -----
    For powers of the distance up to 2 the divergence is at least 0, and 0 for mu = nu (Feydy et al.
    2019). The iteration is Sinkhorn's (Cuturi 2013), followed by Newton's method.

    Examples
    --------
    >>> from fvot import static
    >>> plan = static.sinkhorn([0.0, 1.0], [0.5, 0.5], [2.0, 3.0], [0.5, 0.5], epsilon=0.01)
    >>> round(plan.cost, 6)
    4.0
    """
    given_masses = (a, b)
    (x, a) = as_measure(x, a, "x, a")
    (y, b) = as_measure(y, b, "y, b")
    mass = find_common_mass(a.sum(), b.sum(), *given_masses)
    a = a / mass
    b = b / b.sum()
    _check_parameters(epsilon, tol, debias)

    C = cost_matrix(x, y, cost)
    P, u, v, minimum = _find_plan(C, a, b, epsilon, tol)

    divergence = math.nan
    if debias and (isinstance(cost, str) or is_number(cost)):
        same_points = np.array_equal(x, y)
        own_minima = [
            _find_minimum_to_itself(
                C if same_points else cost_matrix(z, z, cost), masses, epsilon, tol
            )
            for z, masses in ((x, a), (y, b))
        ]
        divergence = mass * (minimum - sum(own_minima) / 2)

    total = float(mass * np.einsum("ij,ij", P, C))
    matrix = P if mass == 1 else mass * P
    return Plan(x, y, matrix, total, u, v, float(epsilon), divergence)


def _check_parameters(epsilon, tol, debias):
    if not is_number(epsilon) or not 0 < epsilon < math.inf:
        raise InputError(
            f"epsilon must be a number above 0, in the units of the cost, not {epsilon!r}"
        )
    if not is_number(tol) or not 1e-15 < tol < 1:
        raise InputError(f"tol must be a number between 1e-15 and 1, not {tol!r}")
    if not isinstance(debias, (bool, np.bool_)):
        raise InputError(f"debias must be True or False, not {debias!r:.60}")


def _find_minimum_to_itself(C, a, epsilon, tol):
    """The minimum OT(mu, mu) for masses a (n,), 1 in total, and costs C (n, n)."""
    support = np.flatnonzero(a)
    if len(support) < len(a):
        C = C[np.ix_(support, support)]
        a = a[support]

    K = _build_kernel(C, epsilon)
    log_alpha = scale_symmetric_kernel(K, a, tol)
    if log_alpha is None:
        return _find_plan(C, a, a, epsilon, tol)[-1]

    # This is the dual: its error is quadratic in the error of the total mass.
    alpha = np.exp(log_alpha)
    total = alpha @ (K @ alpha)
    return epsilon * (2 * a @ (log_alpha - np.log(a)) + 1 - total)


def _find_plan(C, a, b, epsilon, tol):
    """(P, u, v, the minimum) for masses of 1 in total.

    epsilon falls from a large value to the wanted one; each stage starts from the one before.
    """
    if len(b) > len(a):  # a Newton step has as many equations as there are columns
        P, v, u, minimum = _find_plan(C.T, b, a, epsilon, tol)
        return P.T, u, v, minimum

    rows = np.flatnonzero(a)
    columns = np.flatnonzero(b)
    all_have_mass = len(rows) == len(a) and len(columns) == len(b)
    c = C if all_have_mass else C[np.ix_(rows, columns)]
    a = a[rows]
    b = b[columns]

    v = None
    smallest_mass = min(a.min(), b.min())
    exponent_room = max(UNDERFLOW_EXPONENT + math.log(smallest_mass), 1.0)
    largest_cost = max(c.max(), -c.min())
    first = largest_cost / exponent_room
    for stage_epsilon in _list_epsilons(first, epsilon):
        stage_tol = tol if stage_epsilon == epsilon else max(tol, STAGE_TOLERANCE)
        P, u, v, missed = _solve_stage(c, a, b, v, stage_epsilon, stage_tol)
    if not missed <= tol:
        raise ConvergenceError(
            f"Sinkhorn's iteration misses the masses by {missed:.1e} after {MAX_NEWTON_STEPS} "
            f"steps: take an epsilon above {epsilon:.3g}, or a tol above {tol:.3g}"
        )

    minimum = a @ u + b @ v
    if all_have_mass:
        return P, u, v, minimum

    whole_P = np.zeros(C.shape)
    whole_P[np.ix_(rows, columns)] = P
    whole_u = _extend_potential(C[:, columns], b, v, epsilon)
    whole_v = _extend_potential(C[rows].T, a, u, epsilon)
    return whole_P, whole_u, whole_v, minimum


def _extend_potential(C, b, v, epsilon):
    """u (n,) at all points, also those without mass.

    u_i = -epsilon log sum_j b_j e^((v_j - C_ij) / epsilon)
    """
    return -epsilon * logsumexp((v - C) / epsilon, b=b, axis=1)


def _list_epsilons(first, epsilon):
    """The regularisations of all stages, from about *first* down to epsilon."""
    n = math.ceil(math.log(max(first / epsilon, 1), EPSILON_FACTOR))
    return [epsilon * EPSILON_FACTOR**k for k in range(n, -1, -1)]


def _solve_stage(c, a, b, v, epsilon, tol):
    """(P, u, v, missed): the potentials for epsilon, and the error of the masses of their plan.

    v (m,) : potential to start from; None: 0, and no c is so large that e^(-c / epsilon) vanishes
    """
    f, g, P = _iterate_sweeps(c, a, b, v, epsilon, tol)
    if P is None:
        f, g, P = _iterate_newton(c / epsilon, a, b, g, tol)

    u = epsilon * (f - np.log(a))
    v = epsilon * (g - np.log(b))
    missed = np.abs(P.sum(axis=0) - b).sum()
    return P, u, v, missed


def _iterate_sweeps(c, a, b, v, epsilon, tol):
    """(f, g, P) of Sinkhorn's iteration; P is None if its masses are not right in the end."""
    if v is None:
        f = np.zeros(len(a))
        g = np.zeros(len(b))
        K = _build_kernel(c, epsilon)
        beta = b
    else:
        g = v / epsilon + np.log(b)
        f, K = _fit_rows(c / epsilon, g, np.log(a))
        beta = np.ones(len(b))

    max_sweeps = FEWEST_SWEEPS + len(b) // COLUMNS_PER_SWEEP
    scalings = scale_to_marginals(K, a, b, beta, tol, max_sweeps)
    if scalings is None:
        return f, g + np.log(beta), None

    alpha, beta, is_right = scalings
    P = None
    if is_right:
        P = K
        P *= alpha[:, None]
        P *= beta
        # A tol near round-off may be missed all the same.
        is_right = np.abs(P.sum(axis=0) - b).sum() <= tol
    return f + np.log(alpha), g + np.log(beta), P if is_right else None


def _build_kernel(c, epsilon):
    """e^(-c / epsilon)."""
    K = c / -epsilon
    return np.exp(K, out=K)


class _DualPoint(NamedTuple):
    """A point g (m,) of the dual: f(g) (n,), its plan P (n, m), the gradient and the value."""

    g: Array
    f: Array
    P: Array
    gradient: Array
    value: float

    @property
    def missed(self) -> float:
        """The error of the masses of P."""
        return np.abs(self.gradient).sum()


def _iterate_newton(k, a, b, g, tol):
    """(f, g, P) of Newton's method from g (m,); k = c / epsilon (n, m)."""
    log_a = np.log(a)
    log_b = np.log(b)

    def evaluate(g: Array) -> _DualPoint:
        f, P = _fit_rows(k, g, log_a)
        gradient = b - P.sum(axis=0)
        value = a @ f + b @ g
        return _DualPoint(g, f, P, gradient, value)

    point = evaluate(g)
    for _ in range(MAX_NEWTON_STEPS):
        missed = point.missed
        if missed <= tol:
            break

        point = _step(evaluate, point, a)
        if point.missed > missed / 2:  # far away: take Sinkhorn's other half-step, too
            columns = np.maximum(b - point.gradient, SMALLEST_SUM)
            point = evaluate(point.g + log_b - np.log(columns))
    return point.f, point.g, point.P


def _fit_rows(k, g, log_a):
    """(f (n,), P (n, m)): Sinkhorn's half-step, log a = f + log sum_j e^(g_j - k_ij)."""
    P = g - k
    top = P.max(axis=1)
    P -= top[:, None]
    np.exp(P, out=P)
    total = P.sum(axis=1)
    P *= (np.exp(log_a) / total)[:, None]
    return log_a - top - np.log(total), P


def _step(evaluate, point, a):
    """The `_DualPoint` after a Newton step; *point* itself if no length of it helps.

    A step helps if it raises the dual enough, or reduces the error of the masses.
    """
    step = _find_newton_step(point.P, a, point.gradient)
    for t in 0.5 ** np.arange(MAX_STEP_LENGTHS):
        candidate = evaluate(point.g + t * step)
        gain = candidate.value - point.value
        if gain >= ARMIJO_FRACTION * t * (point.gradient @ step):
            return candidate
        if candidate.missed <= (1 - t / 2) * point.missed:
            return candidate
    return point


def _find_newton_step(P, a, gradient):
    """x (m,) with S x = gradient, or an iterate of conjugate gradients within the trust radius."""
    if len(gradient) <= CHOLESKY_COLUMN_LIMIT:
        x = _solve_by_cholesky(P, a, gradient)
        if x is not None and np.ptp(x) <= TRUST_RADIUS:
            return x

    return _conjugate_gradients(P, a, gradient, min(0.1, np.abs(gradient).sum()))


def _solve_by_cholesky(P, a, gradient):
    """x (m,) with S x = gradient; None where S is numerically indefinite."""
    W = P / np.sqrt(a)[:, None]
    total = np.maximum(P.sum(axis=0), SMALLEST_SUM)
    S = -(W.T @ W)

    # Rows of S have the sum 0: its diagonal is no difference of large numbers.
    np.fill_diagonal(S, 0.0)
    np.fill_diagonal(S, DIAGONAL_SHIFT * total - S.sum(axis=0))

    # Constants are in its kernel: this shift makes S regular.
    S += np.outer(total, total)
    try:
        factor = cho_factor(S, overwrite_a=True, check_finite=False)
        return cho_solve(factor, gradient, check_finite=False)
    except LinAlgError:
        return None


def _conjugate_gradients(P, a, right, rtol):
    """x (m,) with S x = right, S = diag(P^T 1) - P^T diag(1 / a) P; rows of P have the sums a.

    Every iterate is a direction of ascent.
    """
    total = np.maximum(P.sum(axis=0), SMALLEST_SUM)
    x = np.zeros(len(total))
    residual = right
    direction = np.zeros(len(total))
    last_square = 1.0
    smallest_square = rtol**2 * (residual @ (residual / total))

    for _ in range(MAX_PRODUCTS):
        z = residual / total
        square = residual @ z
        if square <= smallest_square:
            break

        direction = z + square / last_square * direction
        last_square = square
        image = total * direction - P.T @ (P @ direction / a)
        curvature = direction @ image
        new_x = x + square / curvature * direction if curvature > 0 else None
        if new_x is None or np.ptp(new_x) > TRUST_RADIUS:
            return x + _shorten(direction, max(TRUST_RADIUS - np.ptp(x), 0.0))

        x = new_x
        residual = residual - square / curvature * image
    return x


def _shorten(direction, length):
    """The multiple of the direction whose values differ by *length*."""
    return length / np.ptp(direction) * direction
