"""Sinkhorn's iteration: scalings of a kernel K, P_ij = alpha_i K_ij beta_j, by products with K.

A sweep has two halves. One chooses alpha = a / K beta, so that rows of P have the masses a, the
other beta = b / K^T alpha, for its columns. Asymptotically the error of the masses falls by a
factor theta with each sweep, which tends to 1 as epsilon tends to 0. It falls by omega - 1 in
over-relaxed sweeps, alpha <- alpha^(1 - omega) (a / K beta)^omega, with the best omega,

    omega = 2 / (1 + sqrt(1 - theta)),      theta = (rho + omega - 1)^2 / (rho omega^2)

(Lehmann, von Renesse, Sambale, Uschmajew 2022). The factor theta is estimated from
the observed factor rho (Young 1954).
"""

import numpy as np

from ..arguments.types import Array

# Sweeps over which a factor rho is measured, at least.
SHORTEST_WINDOW = 5

# The same in units of 1 / (2 - omega) sweeps: so long a window averages the oscillations of rho.
WINDOW_FACTOR = 4.0

# omega stays as it is where rho < (omega - 1)^this: a larger omega would slow the iteration down.
GOOD_RHO_EXPONENT = 0.85

# Growth of the error after which sweeps are plain again.
DIVERGENCE_FACTOR = 10.0

# Largest theta: nearer to 1 it is lost in round-off.
LARGEST_THETA = 1 - 1e-8

# S in `scale_symmetric_kernel`: the best step for eigenvalues between 1 and 2.
STEP_LENGTH = 4 / (1 + 2**0.5) ** 2

# M in `scale_symmetric_kernel`: the best momentum for these eigenvalues.
MOMENTUM = ((2**0.5 - 1) / (2**0.5 + 1)) ** 2

# At most so many symmetric steps: 25 reach round-off where K has no eigenvalue below 0.
MAX_SYMMETRIC_STEPS = 200


def scale_to_marginals(
    K: Array, a: Array, b: Array, beta: Array, tol: float, max_sweeps: int
) -> tuple[Array, Array, bool] | None:
    """(alpha (n,), beta (m,), whether P is right) after max_sweeps at most.

    K (n, m), a (n,), b (m,) : above 0 in every row and column
    beta (m,) : the start

    P is right if its rows have the sums a and its columns the sums b, up to tol in total. Returns
    None where the scalings overflow or underflow.
    """
    omega = 1.0
    last_update = 0
    errors = []
    alpha = np.ones(len(a))
    with np.errstate(all="ignore"):
        for sweep in range(max_sweeps):
            target = a / (K @ beta)
            alpha = _relax(alpha, target, omega)
            missed = a @ np.abs(alpha / target - 1)

            target = b / (alpha @ K)
            missed += b @ np.abs(beta / target - 1)
            errors.append(missed)
            if not missed > tol:  # nan, too
                break

            window = max(SHORTEST_WINDOW, int(WINDOW_FACTOR / (2 - omega)))
            if sweep - last_update >= window:
                omega = _choose_relaxation(omega, errors, window)
                last_update = sweep
            beta = _relax(beta, target, omega)

        if omega > 1 or missed > tol:
            alpha = a / (K @ beta)  # columns miss no more than rows and columns did before
        is_finite = np.isfinite(np.log(alpha)).all() and np.isfinite(np.log(beta)).all()

    return (alpha, beta, missed <= tol) if is_finite else None


def _relax(old, new, omega):
    return new if omega == 1 else old * (new / old) ** omega


def _choose_relaxation(omega, errors, window):
    """The next omega, from the errors of all sweeps so far."""
    if errors[-1] > DIVERGENCE_FACTOR * min(errors):
        return 1.0
    rho = (errors[-1] / errors[-1 - window]) ** (1 / window)
    if not (omega - 1) ** GOOD_RHO_EXPONENT < rho < 1:
        return omega
    theta = min((rho + omega - 1) ** 2 / (rho * omega**2), LARGEST_THETA)
    return max(omega, 2 / (1 + np.sqrt(1 - theta)))


def scale_symmetric_kernel(K: Array, a: Array, tol: float) -> Array | None:
    """log alpha (n,) such that alpha_i K_ij alpha_j has row sums within tol of a (n,).

    The residual r = log a - log alpha - log K alpha is 0 at the end; its derivative there is
    -(1 + diag(1 / a) P). Where the symmetric K (n, n) has no eigenvalue below 0, such as
    e^(-|x - y|^p / epsilon) for p <= 2, the eigenvalues of 1 + diag(1 / a) P lie between 1 and 2,
    whatever epsilon is, and

        log alpha <- log alpha + S r + M (the last step)

    with the best S and M for these eigenvalues (Polyak 1964) gains a digit in 1.5 steps; S = 1/2
    and M = 0 gain one in 3 (Feydy et al. 2019). Returns None after MAX_SYMMETRIC_STEPS.
    """
    log_a = np.log(a)
    log_alpha = log_a / 2
    before = log_alpha
    with np.errstate(all="ignore"):
        for _ in range(MAX_SYMMETRIC_STEPS):
            alpha = np.exp(log_alpha)
            image = K @ alpha
            if np.abs(alpha * image - a).sum() <= tol:
                return log_alpha

            residual = log_a - log_alpha - np.log(image)
            step = STEP_LENGTH * residual + MOMENTUM * (log_alpha - before)
            before = log_alpha
            log_alpha = log_alpha + step
    return None
