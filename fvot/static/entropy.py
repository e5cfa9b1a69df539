"""Plans with an entropy."""
import math
import warnings

import numpy as np

from ..errors import ConvergenceError, InputError
from ..functions import is_number
from .given import measure, same_mass
from .plans import Plan, costs

SWEEPS = 100_000         # of Sinkhorn's iteration with the last epsilon, 100 with the larger ones before


def sinkhorn(x, a, y, b, epsilon, cost="sqeuclidean", tol=1e-9):
    """The entropic `Plan`: min sum c_ij P_ij + epsilon KL(P | a b), in the log domain; small epsilon takes many sweeps.

    epsilon : in the units of the cost
    tol : by which the masses may be missed, relative

    cost is sum c_ij P_ij; divergence is debiased, OT(mu, nu) - (OT(mu, mu) + OT(nu, nu)) / 2 of the minimum OT (Feydy et al.
    2019), nan for a matrix of costs. Raises `InputError`, and `ConvergenceError`. (Cuturi 2013; the sweeps are POT's)
    """
    (x, a), (y, b) = measure(x, a, "x, a"), measure(y, b, "y, b")
    mass = same_mass(a.sum(), b.sum())
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
