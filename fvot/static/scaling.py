"""Sinkhorn's iteration: scalings of a kernel K, P_ij = alpha_i K_ij beta_j, by products with K.

A sweep has two halves. One chooses alpha = a / K beta, so that rows of P have the masses a, the
other beta = b / K^T alpha, for its columns. In the end the masses that are missed fall by a factor
theta with each sweep, the nearer to 1 the smaller the entropy is. They fall by omega - 1 in
over-relaxed sweeps, alpha <- alpha^(1 - omega) (a / K beta)^omega, with the best omega,

    omega = 2 / (1 + sqrt(1 - theta)),      theta = (rho + omega - 1)^2 / (rho omega^2)

(Lehmann, von Renesse, Sambale, Uschmajew 2022). The factor theta is learnt from the factor rho
that is seen (Young 1954).
"""

import numpy as np

SHORTEST_WINDOW = 5  # sweeps over which a factor rho is measured, at least
LONGER_WINDOW = 4.0  # times 1 / (2 - omega) sweeps: oscillations do not hide rho
GOOD_ENOUGH = 0.85  # rho below (omega - 1)^this leaves omega as it is: more would be too much
WORSE_FACTOR = 10.0  # growth of what is missed after which sweeps are plain again
LARGEST_THETA = 1 - 1e-8  # nearer to 1 it is not told from rounding
STEP_LENGTH = 4 / (1 + 2**0.5) ** 2  # S for eigenvalues between 1 and 2
MOMENTUM = ((2**0.5 - 1) / (2**0.5 + 1)) ** 2  # M for them
SYMMETRIC_STEPS = 200  # at most: 25 come to rounding where K has no eigenvalue below 0


def scaled(K, a, b, beta, tol, most):
    """(alpha (n,), beta (m,), whether P is right), after *most* sweeps at most.

    K (n, m), a (n,), b (m,) : above 0 in every row and column
    beta (m,) : to begin with

    Rows of P have the sums a, its columns b, up to tol in all if P is right. Returns None where
    numbers are too small or too large.
    """
    omega = 1.0
    looked = 0
    errors = []
    alpha = np.ones(len(a))
    with np.errstate(all="ignore"):
        for sweep in range(most):
            wanted = a / (K @ beta)
            alpha = _relaxed(alpha, wanted, omega)
            missed = a @ np.abs(alpha / wanted - 1)

            wanted = b / (alpha @ K)
            missed += b @ np.abs(beta / wanted - 1)
            errors.append(missed)
            if not missed > tol:  # nan, too
                break

            window = max(SHORTEST_WINDOW, int(LONGER_WINDOW / (2 - omega)))
            if sweep - looked >= window:
                omega = _relaxation(omega, errors, window)
                looked = sweep
            beta = _relaxed(beta, wanted, omega)

        if omega > 1 or missed > tol:
            alpha = a / (K @ beta)  # columns miss no more than rows and columns did before
        sound = np.isfinite(np.log(alpha)).all() and np.isfinite(np.log(beta)).all()
    return (alpha, beta, missed <= tol) if sound else None


def _relaxed(old, new, omega):
    return new if omega == 1 else old * (new / old) ** omega


def _relaxation(omega, errors, window):
    """The omega to go on with, by what all sweeps so far have missed."""
    if errors[-1] > WORSE_FACTOR * min(errors):
        return 1.0
    rho = (errors[-1] / errors[-1 - window]) ** (1 / window)
    if not (omega - 1) ** GOOD_ENOUGH < rho < 1:
        return omega
    theta = min((rho + omega - 1) ** 2 / (rho * omega**2), LARGEST_THETA)
    return max(omega, 2 / (1 + np.sqrt(1 - theta)))


def scaled_to_itself(K, a, tol):
    """log alpha (n,) for which alpha_i K_ij alpha_j has row sums within tol of a (n,).

    The residual r = log a - log alpha - log K alpha is 0 at the end; its derivative there is
    -(1 + diag(1 / a) P). Where the symmetric K (n, n) has no eigenvalue below 0, such as
    e^(-|x - y|^p / epsilon) for p <= 2, the eigenvalues of 1 + diag(1 / a) P lie between 1 and 2,
    whatever epsilon is, and

        log alpha <- log alpha + S r + M (the step before)

    with the best S and M for such ones (Polyak 1964) gains a digit in 1.5 steps; S = 1/2 and M = 0
    in 3 (Feydy et al. 2019). Returns None if it takes too long.
    """
    log_a = np.log(a)
    log_alpha = log_a / 2
    before = log_alpha
    with np.errstate(all="ignore"):
        for _ in range(SYMMETRIC_STEPS):
            alpha = np.exp(log_alpha)
            image = K @ alpha
            if np.abs(alpha * image - a).sum() <= tol:
                return log_alpha
            residual = log_a - log_alpha - np.log(image)
            step = STEP_LENGTH * residual + MOMENTUM * (log_alpha - before)
            before = log_alpha
            log_alpha = log_alpha + step
    return None
