"""The slowest rates of a Fokker-Planck equation on any mesh, by Krylov spaces of the resolvent, on
all ranks.

r = (1 + s A / |K|)^-1 has the eigenvalue 1 / (1 + s rate) for each rate at which densities relax:
the slowest ones are the largest. With a Gibbs density pi, r is self-adjoint in the product
sum_K |K| u_K v_K / pi_K (Lanczos); otherwise rates may be complex (Arnoldi).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import linalg as sparse_linalg

from ..arguments.types import Array
from ..errors import ConvergenceError
from ..finite_volume.implicit_step import MAX_EXPONENT
from ..mesh.cell_values import gather, scatter

# The step of the resolvent, in units of the time in which diffusion crosses the mesh: slow rates
# are then well apart from the others, and still far from rounding.
CROSSINGS = 10.0

# Modes that are found for k rates which may be complex: the resolvent's largest ones belong to the
# rates of smallest modulus, and slow rates with a large imaginary part come later. Chosen.
MODES_PER_RATE = 3
SPARE_MODES = 10

# Factor from one step of the resolvent to the next, and the number of steps. Chosen.
STEP_LENGTH_GROWTH = 1e3
MAX_RATE_STEPS = 4

# The largest relative error of a rate, as estimated, that is returned.
RATE_TOLERANCE = 1e-4

# Relative tolerance of the eigenvalues of the resolvent.
MODE_TOLERANCE = 1e-10

# The same in search of eigenvalues that were missed: it only has to tell them from the next ones.
MISSED_MODE_TOLERANCE = 1e-4

# An eigenvalue whose imaginary part is below this, relative to it, is real.
REAL_RATE_TOLERANCE = 1e-8


def find_rates(
    stepper: Any, k: int, tolerance: float = RATE_TOLERANCE, max_steps: int = MAX_RATE_STEPS
) -> tuple[Array, Array]:
    """(the k slowest rates (k,), without the 0 of a closed domain, the densities (k,
    n_cells_global) that decay so, in the file's order). Collective.

    Eigenvalues are known to the tolerance of the linear solves: a rate is known well if s times it
    is neither small nor large. Longer steps are taken until that is so for all k.

    Raises `ConvergenceError` where it is not.
    """
    mesh = stepper.mesh
    rates, _ = stepper.find_coefficients(0.0)
    fastest = mesh.ranks.max(rates.leaving().max(initial=0.0))
    s = CROSSINGS * mesh.n_cells_global ** (2 / mesh.dim) / fastest

    best = np.zeros(k, complex)
    modes = np.zeros((k, mesh.n_cells_global), complex)
    best_error = np.full(k, np.inf)
    for _ in range(max_steps):
        found, densities = _find_rates_by_step(stepper, rates, s, k)
        with np.errstate(divide="ignore"):
            error = stepper.rtol * np.abs(1 + s * found) ** 2 / np.abs(s * found)
        is_better = (error < best_error) & (found.real > 0)
        best[is_better] = found[is_better]
        modes[is_better] = densities[is_better]
        best_error[is_better] = error[is_better]
        if best_error.max() <= tolerance:
            is_real = np.all(np.abs(best.imag) <= REAL_RATE_TOLERANCE * np.abs(best))
            return (best.real, modes.real) if is_real else (best, modes)
        s = s * STEP_LENGTH_GROWTH

    raise ConvergenceError(
        f"of {k} relaxation rates {np.count_nonzero(best_error > tolerance)} are too small "
        f"to be distinguished from round-off (rates near {np.abs(best).min():.1e}, the fastest "
        f"{fastest:.1e}): ask for fewer, or take scheme='two_point' on an orthogonal mesh, where "
        "elimination computes them accurately"
    )


def _find_rates_by_step(stepper, rates, s, k):
    """(the k slowest rates (k,), complex, their densities (k, n_cells_global)), by the resolvent of
    a step s. Collective.
    """
    mesh = stepper.mesh
    _, entering = stepper.find_coefficients(0.0)
    resolvent = stepper.find_resolvent(0.0, s, 20 * k)
    if not stepper.has_corners:
        resolvent.prefer("amg")  # for steps that are so long, and vectors that are so rough
    nothing = np.zeros_like(entering)

    weight = np.ones(mesh.n_cells)
    if rates.minus_log_gibbs is not None:
        lowest = mesh.ranks.min(rates.minus_log_gibbs.min(initial=np.inf))
        exponent = np.minimum(rates.minus_log_gibbs - lowest, MAX_EXPONENT)
        weight = np.sqrt(mesh.volume) * np.exp(exponent / 2)
    whole_weight = gather(mesh, weight)

    def apply(u: Array) -> Array:
        rho = scatter(mesh, u / whole_weight)
        if stepper.has_corners:
            after = resolvent(rates.extend(rho), nothing)[: mesh.n_cells]
        else:  # as a source: it may be negative
            after = resolvent(np.zeros_like(rho), nothing, rest=mesh.volume * rho)
        return gather(mesh, after) * whole_weight

    is_symmetric = rates.minus_log_gibbs is not None
    n_wanted = k + int(stepper.closed)
    if not is_symmetric:
        n_wanted = MODES_PER_RATE * n_wanted + SPARE_MODES
    values, vectors = mesh.ranks.serve(
        apply, lambda act: _find_largest(act, mesh, n_wanted, is_symmetric)
    )
    found = (1 / values - 1) / s
    order = np.lexsort([found.imag, found.real])[int(stepper.closed) :][:k]
    return found[order], vectors.T[order] / whole_weight


def _find_largest(
    act: Callable[[Array], Array], mesh: Any, k: int, is_symmetric: bool
) -> tuple[Array, Array]:
    """The k largest eigenvalues (k,) of the map act of vectors (n_cells_global,), and its vectors
    (n_cells_global, k).
    """
    n = mesh.n_cells_global
    if k >= n - 1:
        matrix = np.stack([act(column) for column in np.eye(n)], axis=1)
        values, vectors = np.linalg.eig(matrix)
        largest = np.argsort(-np.abs(values))[:k]
        return values[largest].astype(complex), vectors[:, largest]

    random = np.random.default_rng(0)
    operator = sparse_linalg.LinearOperator((n, n), matvec=act, dtype=float)
    solve = sparse_linalg.eigsh if is_symmetric else sparse_linalg.eigs
    try:
        start = random.standard_normal(n)
        values, vectors = solve(operator, k, which="LM", v0=start, tol=MODE_TOLERANCE)
        if is_symmetric:
            values, vectors = _add_equal_ones(act, values, vectors, random)
    except sparse_linalg.ArpackNoConvergence as error:
        raise ConvergenceError(
            f"only {len(error.eigenvalues)} of {k} relaxation rates were found: ask for fewer"
        ) from None
    return np.asarray(values, complex), vectors


def _add_equal_ones(act, values, vectors, random):
    """As many eigenvalues and vectors of a symmetric map, with those that the search has missed: of
    equal ones, as on squares, it may find only one. Another search in the space that is orthogonal
    to the vectors shows them.
    """
    n, k = vectors.shape
    while vectors.shape[1] < n - 1:
        known = vectors

        def act_beside(x: Array, known: Array = known) -> Array:
            beside = act(x - known @ (known.T @ x))
            return beside - known @ (known.T @ beside)

        operator = sparse_linalg.LinearOperator((n, n), matvec=act_beside, dtype=float)
        start = random.standard_normal(n)
        value, vector = sparse_linalg.eigsh(
            operator, 1, which="LM", v0=start, tol=MISSED_MODE_TOLERANCE
        )
        if value[0] <= np.sort(values)[-k]:
            break
        value, vector = sparse_linalg.eigsh(
            operator, 1, which="LM", v0=vector[:, 0], tol=MODE_TOLERANCE
        )
        values = np.append(values, value)
        vectors = np.append(vectors, vector, axis=1)
    largest = np.argsort(-values)[:k]
    return values[largest], vectors[:, largest]
