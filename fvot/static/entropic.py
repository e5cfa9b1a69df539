"""Plans with an entropy, by Sinkhorn's iteration, and by Newton's method where that takes long.

The iteration scales a kernel (`scaling`), as long as its sweeps cost less than Newton's steps. With
f = u / epsilon + log a and g = v / epsilon + log b the plan is P_ij = e^(f_i + g_j - c_ij /
epsilon). Sinkhorn's half-steps choose f so that rows have the masses a, or g so that columns have
b; each raises the dual, a . f + b . g for plans of mass 1. With f(g) from such a half-step the dual
is a concave function of g, of the slope b - P^T 1 and the curvature -S,

    S = diag(P^T 1) - P^T diag(1 / a) P

A Newton step S dg = b - P^T 1 does what takes Sinkhorn's iteration the longer, the smaller epsilon
(Brauer, Clason, Lorenz, Wirth 2017).
"""

import math

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import logsumexp

from ..arguments.functions import is_number
from ..errors import ConvergenceError, InputError
from .marginals import measure, same_mass
from .plans import Plan, costs
from .scaling import scaled, scaled_to_itself

UNDERFLOW_EXPONENT = 500.0  # e^-this, less many decades: sums of such numbers do not vanish
FEWEST_SWEEPS = 50  # of Sinkhorn's iteration before Newton's method; and one more for
COLUMNS_PER_SWEEP = 2  # so many columns: they cost about what a Newton step costs
STEPS = 500  # of Newton's method for each epsilon, at most
FALL = 4.0  # of epsilon, from one to the next
ROUGH = 1e-2  # by which the masses may be missed before the last epsilon
DENSE = 2000  # columns of a matrix S that is factorised
PRODUCTS = 100  # with S, at most, for each step
ROUNDING = 1e-15  # added to the diagonal of S, relative
RADIUS = 6.0  # largest difference within a step: what is farther away has another S
RISE = 1e-4  # of the dual that a step must reach, relative to what the slope promises (Armijo)
HALVINGS = 4  # of a Newton step, at most
TINY = 1e-300  # for sums that underflow


def sinkhorn(x, a, y, b, epsilon, cost="sqeuclidean", tol=1e-9, debias=True):
    """The entropic `Plan`: min sum c_ij P_ij + epsilon KL(P | a b), on any points, for any epsilon.

    epsilon : in the units of the cost
    tol : by which the masses may be missed, relative
    debias : whether to compute the divergence, too, from the measures' plans to themselves

    `Plan.cost` is sum c_ij P_ij; `Plan.divergence` is OT(mu, nu) - (OT(mu, mu) + OT(nu, nu)) / 2 of
    the minimum OT (Feydy et al. 2019), for powers of the distance up to 2 at least 0, and 0 for
    mu = nu. It is nan for a matrix of costs, and with debias=False. Raises `InputError`, and
    `ConvergenceError`. (Cuturi 2013)
    """
    given = (a, b)
    (x, a) = measure(x, a, "x, a")
    (y, b) = measure(y, b, "y, b")
    mass = same_mass(a.sum(), b.sum(), *given)
    a, b = a / mass, b / b.sum()
    if not is_number(epsilon) or not 0 < epsilon < math.inf:
        raise InputError(
            f"epsilon must be a number above 0, in the units of the cost, not {epsilon!r}"
        )
    if not is_number(tol) or not 1e-15 < tol < 1:
        raise InputError(f"tol must be a number between 1e-15 and 1, not {tol!r}")
    if not isinstance(debias, (bool, np.bool_)):
        raise InputError(f"debias must be True or False, not {debias!r:.60}")
    C = costs(x, y, cost)
    P, u, v, value = _entropic(C, a, b, epsilon, tol)
    divergence = math.nan
    if debias and (isinstance(cost, str) or is_number(cost)):
        same = np.array_equal(x, y)
        own = [
            _to_itself(C if same else costs(z, z, cost), c, epsilon, tol)
            for z, c in ((x, a), (y, b))
        ]
        divergence = mass * (value - sum(own) / 2)
    total = float(mass * np.einsum("ij,ij", P, C))
    return Plan(x, y, P if mass == 1 else mass * P, total, u, v, float(epsilon), divergence)


def _to_itself(C, a, epsilon, tol):
    """The minimum for masses a (n,), 1 in all, and themselves; costs C (n, n)."""
    some = np.flatnonzero(a)
    if len(some) < len(a):
        C, a = C[np.ix_(some, some)], a[some]
    K = _kernel(C, epsilon)
    log_alpha = scaled_to_itself(K, a, tol)
    if log_alpha is None:
        return _entropic(C, a, a, epsilon, tol)[-1]
    alpha = np.exp(log_alpha)
    total = alpha @ (K @ alpha)
    # The dual: its error is of second order in what total misses 1 by.
    return epsilon * (2 * a @ (log_alpha - np.log(a)) + 1 - total)


def _entropic(C, a, b, epsilon, tol):
    """(P, u, v, the minimum) for masses of 1 in all; from large epsilon to the wanted one, each
    started from the last.
    """
    if len(b) > len(a):  # the equations for a step are as many as columns
        P, v, u, value = _entropic(C.T, b, a, epsilon, tol)
        return P.T, u, v, value
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    everything = len(rows) == len(a) and len(columns) == len(b)
    c = C if everything else C[np.ix_(rows, columns)]
    a, b = a[rows], b[columns]
    v = None
    room = max(UNDERFLOW_EXPONENT + math.log(min(a.min(), b.min())), 1.0)
    for now in _falling(max(c.max(), -c.min()) / room, epsilon):
        P, u, v, missed = _solved(c, a, b, v, now, tol if now == epsilon else max(tol, ROUGH))
    if not missed <= tol:
        raise ConvergenceError(
            f"Sinkhorn's iteration misses the masses by {missed:.1e} after {STEPS} steps: take an "
            "epsilon "
            f"above {epsilon:.3g}, or a tol above {tol:.3g}"
        )
    value = a @ u + b @ v
    if everything:
        return P, u, v, value
    whole = np.zeros(C.shape)
    whole[np.ix_(rows, columns)] = P
    return (
        whole,
        _extended(C[:, columns], b, v, epsilon),
        _extended(C[rows].T, a, u, epsilon),
        value,
    )


def _extended(C, b, v, epsilon):
    """u (n,) at all points, also those without mass: -epsilon log sum_j b_j e^((v_j - C_ij) /
    epsilon).
    """
    return -epsilon * logsumexp((v - C) / epsilon, b=b, axis=1)


def _falling(first, epsilon):
    """The sizes of the entropy on the way to epsilon, from about the first one on."""
    n = math.ceil(math.log(max(first / epsilon, 1), FALL))
    return [epsilon * FALL**k for k in range(n, -1, -1)]


def _solved(c, a, b, v, epsilon, tol):
    """(P, u, v, missed): potentials near v whose plan misses the masses by tol, or by what is left.

    v (m,); None: 0, and no c is so large that e^(-c / epsilon) vanishes
    """
    f, g, P = _by_sweeps(c, a, b, v, epsilon, tol)
    if P is None:
        f, g, P = _by_newton(c / epsilon, a, b, g, tol)
    u = epsilon * (f - np.log(a))
    v = epsilon * (g - np.log(b))
    return P, u, v, np.abs(P.sum(axis=0) - b).sum()


def _by_sweeps(c, a, b, v, epsilon, tol):
    """(f, g, P) of Sinkhorn's iteration; P is None if its masses are not right in the end."""
    if v is None:
        f, g, K = np.zeros(len(a)), np.zeros(len(b)), _kernel(c, epsilon)
        beta = b
    else:
        g = v / epsilon + np.log(b)
        f, K = _rows_fitted(c / epsilon, g, np.log(a))
        beta = np.ones(len(b))
    found = scaled(K, a, b, beta, tol, FEWEST_SWEEPS + len(b) // COLUMNS_PER_SWEEP)
    if found is None:
        return f, g + np.log(beta), None
    alpha, beta, done = found
    P = None
    if done:
        P = K
        P *= alpha[:, None]
        P *= beta
        done = np.abs(P.sum(axis=0) - b).sum() <= tol  # not so where tol is rounding
    return f + np.log(alpha), g + np.log(beta), P if done else None


def _kernel(c, epsilon):
    K = c / -epsilon
    return np.exp(K, out=K)


def _by_newton(k, a, b, g, tol):
    """(f, g, P) of Newton's method from g (m,), after STEPS at most; k = c / epsilon (n, m)."""
    log_a = np.log(a)
    log_b = np.log(b)

    def at(g):
        """(g, f(g), P, b - P^T 1, a . f + b . g)"""
        f, P = _rows_fitted(k, g, log_a)
        return g, f, P, b - P.sum(axis=0), a @ f + b @ g

    here = at(g)
    for _ in range(STEPS):
        slope = here[3]
        if np.abs(slope).sum() <= tol:
            break
        here = _newton(at, here, a)
        if (
            np.abs(here[3]).sum() > np.abs(slope).sum() / 2
        ):  # far away: Sinkhorn's other half-step, too
            here = at(here[0] + log_b - np.log(np.maximum(b - here[3], TINY)))
    g, f, P, *_ = here
    return f, g, P


def _rows_fitted(k, g, log_a):
    """(f (n,), P (n, m)): Sinkhorn's half-step, log a = f + log sum_j e^(g_j - k_ij)."""
    P = g - k
    top = P.max(axis=1)
    P -= top[:, None]
    np.exp(P, out=P)
    total = P.sum(axis=1)
    P *= (np.exp(log_a) / total)[:, None]
    return log_a - top - np.log(total), P


def _newton(at, here, a):
    """What `at` gives after a Newton step that raises the dual enough, or makes good what is
    missed; *here* if none does.
    """
    g, _, P, slope, dual = here
    missed = np.abs(slope).sum()
    step = _newton_step(P, a, slope)
    for t in 0.5 ** np.arange(HALVINGS):
        there = at(g + t * step)
        if (
            there[-1] - dual >= RISE * t * (slope @ step)
            or np.abs(there[3]).sum() <= (1 - t / 2) * missed
        ):
            return there
    return here


def _newton_step(P, a, slope):
    """x (m,) with S x = slope, or as far on the way of the conjugate gradients as S can be trusted."""
    if len(slope) <= DENSE:
        W, total = P / np.sqrt(a)[:, None], np.maximum(P.sum(axis=0), TINY)
        S = -(W.T @ W)
        np.fill_diagonal(S, 0.0)
        np.fill_diagonal(
            S, ROUNDING * total - S.sum(axis=0)
        )  # rows of S have the sum 0: no difference of large numbers
        S += np.outer(total, total)  # and constants are no matter
        try:
            x = cho_solve(
                cho_factor(S, overwrite_a=True, check_finite=False), slope, check_finite=False
            )
        except LinAlgError:
            x = np.array([0.0, np.inf])
        if np.ptp(x) <= RADIUS:
            return x
    return _conjugate_gradients(P, a, slope, min(0.1, np.abs(slope).sum()))


def _conjugate_gradients(P, a, right, rtol):
    """x (m,) with S x = right, S = diag(P^T 1) - P^T diag(1 / a) P; rows of P have the sums a. Any
    iterate leads upwards.
    """
    total = np.maximum(P.sum(axis=0), TINY)
    x = np.zeros(len(total))
    residual = right
    direction = np.zeros(len(total))
    before = 1.0
    least = rtol**2 * (residual @ (residual / total))
    for _ in range(PRODUCTS):
        z = residual / total
        now = residual @ z
        if now <= least:
            break
        direction = z + now / before * direction
        before = now
        image = total * direction - P.T @ (P @ direction / a)
        bent = direction @ image
        ahead = x + now / bent * direction if bent > 0 else None
        if ahead is None or np.ptp(ahead) > RADIUS:
            return x + _up_to(RADIUS, x, direction)
        x = ahead
        residual = residual - now / bent * image
    return x


def _up_to(radius, x, direction):
    """The multiple of the direction that, added to x, moves something by about the radius."""
    return max(radius - np.ptp(x), 0.0) / np.ptp(direction) * direction
