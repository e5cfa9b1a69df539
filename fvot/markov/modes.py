"""The slowest modes of a chain: left and right eigenvectors of -Q.

Right ones are functions of the state, whose expected values decay as e^(-lambda t); left ones are
distributions that decay so. Where lambda is well above round-off, they follow by inverse iteration
from the vectors of `slow_rates`. Below, from the chain that is watched in one state of each well,

    A y = lambda M(lambda) y,    right = sum_w y_w (h_w + lambda C^-1 h_w + lambda^2 C^-2 h_w ...)
    z A = lambda z M(lambda),    left = sum_w z_w (psi_w + lambda psi_w C^-1 + ...)

with the small problem in decimal arithmetic of so many digits that nothing is lost: its entries
may span hundreds of decades. Where p_i q_ij = p_j q_ji, left = p right; otherwise left is p times
the right one of the chain backwards in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import splu

from ..arguments.types import Array, ArrayLike
from ..errors import ConvergenceError
from .checks import check_chain
from .slow_rates import (
    Spectrum,
    WellChain,
    check_rate_count,
    drop_rounding,
    find_gap,
    keep_wells,
    sort_rates,
    sum_powers,
)

# Digits of the small problem: those of double precision, and twice the decades of its range.
DIGITS = 700

# Inverse iterations, each of which leaves some 1e-9 of what is wrong.
INVERSE_ITERATIONS = 3

# The same for the small problem, where nearly equal eigenvalues are separated.
SMALL_ITERATIONS = 12

# Distance of the shift from an eigenvalue, relative: above that of equal ones by rounding.
SHIFT_DISTANCE = 1e-9

# Eigenvalues that are nearer to each other than this, relative, are found together: those that are
# known from `slow_rates` to 1e-13, and others.
SLOW_CLUSTER_WIDTH = 1e-11
CLUSTER_WIDTH = 1e-3

# The largest product of left and right vectors of different modes that is returned.
BIORTHOGONALITY_TOLERANCE = 1e-6

# Entries of vectors of the spectrum that are smaller than this, relative, are left out of the first
# guess: divided by p^1/2, their rounding might be larger than all others.
SMALLEST_START = 1e-3

# The entry that is made positive is the first one of at least this part of the largest.
NEARLY_LARGEST = 1 - 1e-6


@dataclass(frozen=True)
class SlowModes:
    """The slowest modes, which unpack as ``rates, left, right = modes``.

    Attributes
    ----------
    rates : array (k,)
        At which they decay, smallest first.
    left : array (k, n)
        Distributions: left Q = -rate left, the sum of |left| is 1. Of cells they are densities.
    right : array (k, n)
        Functions: Q right = -rate right, the sum of left right is 1.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 20)
    >>> modes = fvot.FokkerPlanck(mesh, diffusion=1.0).slow_modes(2)
    >>> modes.rates.round(2).tolist(), modes.right.shape
    ([9.85, 39.15], (2, 20))
    """

    rates: Array
    left: Array
    right: Array

    def __iter__(self) -> Iterator[Array]:
        return iter((self.rates, self.left, self.right))


def slow_modes(
    rates: sparse.spmatrix | ArrayLike,
    k: int,
    *,
    killing: ArrayLike | None = None,
    center: ArrayLike | None = None,
) -> SlowModes:
    """The k slowest decay rates of a chain with their left and right eigenvectors.

    Parameters
    ----------
    rates, k, killing, center
        As of `relaxation_rates`.

    Returns
    -------
    SlowModes
        rates (k,), left (k, n), right (k, n); complex if a rate is. The largest entry of each left
        vector is positive.

    Raises
    ------
    InputError, ConvergenceError
        As of `relaxation_rates`.

    Examples
    --------
    >>> from fvot.markov import slow_modes
    >>> values, left, right = slow_modes([[0, 1], [3, 0]], 1)
    >>> values.round(12).tolist(), left.round(12).tolist(), right.round(12).tolist()
    ([4.0], [[0.5, -0.5]], [[0.5, -1.5]])
    """
    rates, killing, center = check_chain(rates, killing, center)
    n_zero = check_rate_count(rates, killing, k)
    spectrum = Spectrum(rates, killing, center)
    values, vectors, cut = find_gap(spectrum, int(k) + n_zero, n_zero)
    slow = np.empty(0)
    wells = None
    if cut > n_zero:
        wells = WellChain(keep_wells(spectrum, values, vectors, cut))
        slow = wells.find_values()

    found = np.concatenate([slow, values[cut:]])
    order = sort_rates(found)
    right = np.zeros((len(found), spectrum.n), complex)
    left = np.zeros((len(found), spectrum.n), complex)
    for numbers in _find_clusters(found, order, len(slow)):
        if np.isin(numbers, order[:k]).any():
            is_slow = numbers[0] < len(slow)
            guesses = vectors[:, numbers + cut - len(slow)].T
            pair = _find_pair(spectrum, wells if is_slow else None, found[numbers], guesses)
            right[numbers], left[numbers] = pair

    chosen = order[:k]
    modes = _normalise(drop_rounding(found[chosen]), left[chosen], right[chosen])
    error = np.abs(modes.left @ modes.right.T - np.eye(len(chosen))).max()
    if not error <= BIORTHOGONALITY_TOLERANCE:
        raise ConvergenceError(
            f"modes of nearly equal rates are mixed by {error:.1e}: ask for fewer modes, or for "
            "relaxation rates alone"
        )
    return modes


def _find_pair(spectrum, wells, values, guesses):
    """(right, left) (m, n) of nearly equal eigenvalues, biorthogonal: of the chain of wells, or,
    where that is None, from guesses.
    """
    values = drop_rounding(values)
    if wells is None:
        vectors = _find_real_basis(guesses) if np.isrealobj(values) else guesses
        return _iterate(spectrum, values, vectors)
    right, left = _combine_wells(wells, values, spectrum.is_reversible)
    if spectrum.is_reversible:
        right = _orthonormalise(right, spectrum.weights)
        return right, spectrum.weights * right
    return np.linalg.solve(right @ left.T, right), left


def _find_real_basis(vectors):
    """Real vectors (m, n) that span the same space as vectors (m, n) of a real eigenvalue."""
    if np.isrealobj(vectors):
        return vectors
    _, _, basis = np.linalg.svd(np.concatenate([vectors.real, vectors.imag]), full_matrices=False)
    return basis[: len(vectors)]


def _find_clusters(found, order, n_slow):
    """Lists of the numbers of nearly equal values; the first n_slow are known more exactly."""
    values = found[order]
    width = np.where(order < n_slow, SLOW_CLUSTER_WIDTH, CLUSTER_WIDTH)[1:]
    begins = np.abs(np.diff(values)) > width * np.abs(values[1:])
    begins |= np.diff(order < n_slow)
    return np.split(order, np.flatnonzero(begins) + 1)


def _orthonormalise(vectors, weights):
    """The same space, with sum_x weights v_i v_j = 1 for i = j, else 0."""
    scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
    gram = (weights * scaled) @ scaled.T
    return np.linalg.solve(np.linalg.cholesky(gram), scaled)


def find_largest(vectors: Array) -> Array:
    """The value (m,) of vectors (m, n) of the largest size, the first one of nearly equal ones."""
    size = np.abs(vectors)
    is_largest = size >= NEARLY_LARGEST * size.max(axis=1, keepdims=True)
    return vectors[np.arange(len(vectors)), is_largest.argmax(axis=1)]


def _normalise(values, left, right):
    """The `SlowModes`, scaled as it says; real where all rates are."""
    first = find_largest(left)
    size = np.abs(left).sum(axis=1)
    left = left * (np.conj(first) / np.abs(first) / size)[:, None]
    right = right / (left * right).sum(axis=1)[:, None]
    if np.isrealobj(values):
        left = left.real
        right = right.real
    return SlowModes(values, left, right)


# ---- above round-off -----------------------------------------------------------------------------


def _iterate(spectrum, values, vectors):
    """(right, left) (m, n) of nearly equal eigenvalues, biorthogonal, by inverse iteration from
    vectors (m, n) of the `Spectrum`.

    That is accurate relative to the largest entry. Where left = p right, each state takes the one
    that tells more of both.
    """
    p = spectrum.weights
    root = np.sqrt(p)
    size = np.abs(vectors)
    starts = np.where(size >= SMALLEST_START * size.max(axis=1, keepdims=True), vectors, 0)
    minus_Q = (sparse.diags(spectrum.total) - spectrum.rates).tocsr()
    right = _iterate_inverse(spectrum, minus_Q, values[0], starts.conj() / root)
    if spectrum.is_reversible:
        left = _iterate_inverse(spectrum, minus_Q.T, values[0], root * starts)
    else:
        backwards = sparse.diags(1 / p) @ minus_Q.T @ sparse.diags(p)
        left = p * _iterate_inverse(spectrum, backwards, values[0], starts / root)
    left = np.linalg.solve(left @ right.T, left)

    if spectrum.is_reversible:
        return _unite(left, right, p, minus_Q)
    if len(values) > 1:
        found, mixture = np.linalg.eig(left @ (minus_Q @ right.T))
        if np.isrealobj(values):  # rounding may have made equal ones a complex pair
            mixture = np.where(found.imag < 0, mixture.imag, mixture.real)
        right = mixture.T @ right
        left = np.linalg.solve(mixture, left)
    return right, left


def _unite(left, right, p, minus_Q):
    """(right, left) with left = p right, of biorthogonal ones that span the same spaces."""
    m = len(left)
    shared = np.abs(left * right).sum(axis=0)
    known = right / np.maximum(np.abs(right).max(axis=0), np.finfo(float).tiny) * shared
    _, pivots = linalg.qr(known, mode="r", pivoting=True)
    states = pivots[:m]
    B = np.linalg.solve((p * right)[:, states].T, left[:, states].T).T
    mixture = np.linalg.cholesky((B + B.T) / 2).T
    right = mixture @ right
    left = np.linalg.solve(mixture.T, left)

    is_heavy = p * np.abs(right).max() > np.abs(left).max()
    right = np.where(is_heavy, left / p, right)
    if m > 1:
        projected = (p * right) @ (minus_Q @ right.T)
        _, rotation = np.linalg.eigh((projected + projected.T) / 2)
        right = _orthonormalise(rotation.T @ right, p)
    return right, p * right


def _iterate_inverse(spectrum, matrix, value, vectors):
    """Vectors (m, n) that span those with matrix x = value x, from vectors given."""
    shift = value * (1 + SHIFT_DISTANCE)
    shifted = (matrix - shift * sparse.identity(spectrum.n)) * spectrum.scale
    lu = splu(shifted.tocsc(), permc_spec="MMD_AT_PLUS_A")
    x = vectors.T / np.abs(vectors).max(axis=1)
    for _ in range(INVERSE_ITERATIONS):
        x = lu.solve(x)
        x, _ = np.linalg.qr(x / np.abs(x).max(axis=0))
    return x.T


# ---- below round-off -----------------------------------------------------------------------------


def _combine_wells(wells, values, is_reversible):
    """(right, left) (m, n) of nearly equal eigenvalues; left ones only if they are asked for."""
    value = values.mean()
    y, z = _find_small_vectors(wells, value, len(values))
    right = y @ sum_powers(value, wells.terms)
    if is_reversible:
        return right, right

    psi = wells.psi
    terms = [psi]
    for _ in wells.terms[1:]:
        psi = psi.copy()
        psi[:, wells.elimination.left] = 0.0
        psi = wells.elimination.solve_masses(psi)
        terms.append(psi)
    return right, z @ sum_powers(value, terms)


def _find_small_vectors(wells, value, count):
    """(y, z) (count, m): right and left vectors of A - value M(value), by inverse iteration."""
    M = wells.find_mass(value)
    start = np.random.default_rng(0).uniform(-1, 1, (len(M), count))
    if np.iscomplexobj(M):
        A = np.diag(wells.rates.sum(axis=1) + wells.killing) - wells.rates
        step = np.linalg.solve(A - value * M, M)
        backward_step = np.linalg.solve((A - value * M).T, M.T)
        return _iterate_small(step, start).T, _iterate_small(backward_step, start).T

    with localcontext() as context:
        context.prec = DIGITS
        rates = _as_decimals(wells.rates)
        M = _as_decimals(M)
        B = -rates - Decimal(float(value)) * M
        diagonal = np.arange(len(B))
        B[diagonal, diagonal] += rates.sum(axis=1) + _as_decimals(wells.killing)
        start = _as_decimals(start)
        y = _iterate_small(_solve_decimals(B, M), start)
        z = _iterate_small(_solve_decimals(B.T, M.T), start)
    return y.astype(float).T, z.astype(float).T


def _iterate_small(step, vectors):
    for _ in range(SMALL_ITERATIONS):
        vectors = step @ vectors
        vectors = vectors / abs(vectors).max(axis=0)
    return vectors


def _as_decimals(array):
    return np.vectorize(lambda value: Decimal(float(value)), otypes=[object])(array)


def _solve_decimals(B, rhs):
    """X (m, c) with B X = rhs, by elimination with pivots."""
    B = B.copy()
    X = rhs.copy()
    n = len(B)
    for k in range(n):
        pivot = k + int(np.argmax(abs(B[k:, k])))
        B[[k, pivot]] = B[[pivot, k]]
        X[[k, pivot]] = X[[pivot, k]]
        factors = B[k + 1 :, k] / B[k, k]
        B[k + 1 :, k:] -= np.outer(factors, B[k, k:])
        X[k + 1 :] -= np.outer(factors, X[k])
    for k in range(n - 1, -1, -1):
        X[k] = (X[k] - B[k, k + 1 :] @ X[k + 1 :]) / B[k, k]
    return X
