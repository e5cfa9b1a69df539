"""The slowest relaxation rates of a chain: eigenvalues lambda of -Q, some of them below round-off.

Approximate eigenvectors next to lambda = 0 show the wells, one state of each is kept, and all
others are eliminated. With h the committors, psi the occupation, and C = -Q without the kept
states, the restriction x of an eigenvector of -Q to the kept states solves

    A x = lambda M(lambda) x
    M(lambda) = psi h + lambda psi C^-1 h + lambda^2 psi C^-2 h + ...       (h = 0 in C^-1 h)

A is the matrix of the rates of the trace, M is nearly diagonal. All terms are non-negative, nothing
cancels, and the series converges fast because lambda is small beside C.

The eigenvalues of this small problem may differ by hundreds of decades. Elimination without
subtraction, the state that is left fastest first, gives A = X D Y with D > 0 falling and the
entries of X and Y at most 1; lambda are the eigenvalues of K D, K = Y M^-1 X. LR steps K = L U -> U
(D L D^-1) damp the entries below the diagonal by the ratios in D, until blocks of similar lambda
remain. All factors are well-conditioned except D, which is only multiplied with: each lambda keeps
its digits (Demmel et al. 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, eigsh, splu

from ..arguments.functions import is_integer
from ..arguments.types import Array, ArrayLike, IntArray
from ..errors import ConvergenceError, InputError
from .checks import check_chain, find_closed_classes, require_one_class
from .elimination import Elimination, build_underflow_error

# Chains of up to so many states: all eigenvalues at once, by a dense matrix.
DENSE_STATE_LIMIT = 400

# Eigenvalues below this part of the largest rate are lost in round-off.
EIGENVALUE_NOISE = 1e-12

# Below this part of it they are worth a trace.
SLOW_PART = 1e-4

# Smallest ratio of the eigenvalues above a gap to those below, which a trace gives.
GAP_RATIO = 100

# Terms of the series in lambda, at most.
MAX_SERIES_TERMS = 12

# Term of the series, relative to the first one, at which it ends.
SERIES_TOLERANCE = 1e-17

# The same, for the last one, above which the series has not converged.
SERIES_FAILURE = 1e-12

# Eigenvalues that are computed in search of a gap, at most.
MAX_EIGENVALUES = 64

# Restarts of Lanczos or Arnoldi, at most.
MAX_RESTARTS = 60

# Shift next to 0, relative to the largest rate.
RELATIVE_SHIFT = 1e-9

# Residual of eigenvectors, relative to the largest rate, that is refused.
RESIDUAL_LIMIT = 1e-10

# Imaginary part of an eigenvalue, relative, that counts as none.
IMAGINARY_ROUNDING = 1e-10

# Steps for the eigenvalue in M(lambda), at most.
MAX_FIXED_POINT_STEPS = 20

# Steps of LR, at most.
MAX_LR_STEPS = 200

# Difference of log p at which an underflow of one of two rates is consistent with reversibility.
UNDERFLOW_LOG_RATIO = 500

# Round-off of log p along a spanning tree.
LOG_ROUNDING = 1e-8

# Smallest p, over the largest, in the scaling of non-reversible chains.
SMALLEST_WEIGHT = 1e-280


def relaxation_rates(
    rates: sparse.spmatrix | ArrayLike,
    k: int,
    *,
    killing: ArrayLike | None = None,
    center: ArrayLike | None = None,
) -> Array:
    """The k slowest decay rates: eigenvalues of -Q with the smallest real parts.

    Parameters
    ----------
    rates : sparse or dense matrix (n, n)
        rates[i, j] >= 0 is the rate from i to j; the diagonal is ignored. Q is the generator of the
        chain.
    k : int
        The number of decay rates.
    killing : array (n,), optional
        Rates >= 0 at which the chain ends. Without them the chain is closed, and its eigenvalue 0
        is left out.
    center : array (dim, n), optional
        The places of the states; the elimination is faster with them.

    Returns
    -------
    array (k,)
        Sorted by real part. They are real for reversible chains (p_i q_ij = p_j q_ji), and for
        others if all are.

    Raises
    ------
    InputError
        For rates that are negative or not finite, and chains that are disconnected.
    ConvergenceError
        If eigenvalues do not converge, are too close to each other, or underflow (barriers of more
        than 600 kT).

    Notes
    -----
    Eigenvalues that lie well below the others have a relative accuracy of about 1e-13, even if they
    are 1e-250 of the largest rate: they come from the `trace` on as many states, one in each well.
    The others come from shift-invert, with errors of 1e-15 of the largest rate. For non-reversible
    chains of more than 400 states only eigenvalues near 0 are found, not those of small real but
    large imaginary part.

    Examples
    --------
    >>> from fvot.markov import relaxation_rates
    >>> relaxation_rates([[0, 1], [3, 0]], 1).round(12).tolist()
    [4.0]
    """
    rates, killing, center = check_chain(rates, killing, center)
    n_zero = check_rate_count(rates, killing, k)
    spectrum = Spectrum(rates, killing, center)
    values, vectors, cut = find_gap(spectrum, int(k) + n_zero, n_zero)
    slow = np.empty(0)
    if cut > n_zero:
        slow = WellChain(keep_wells(spectrum, values, vectors, cut)).find_values()
        if spectrum.is_reversible:
            slow = np.real(slow)

    values = np.concatenate([slow, values[cut:]])
    return drop_rounding(values[sort_rates(values)[:k]])


def check_rate_count(rates: sparse.csr_matrix, killing: Array, k: int) -> int:
    """How many eigenvalues of a chain are 0 (0 or 1); `InputError` if it has not k others, or is
    disconnected.
    """
    n = rates.shape[0]
    n_zero = int(not killing.any())
    if not is_integer(k) or not 1 <= k <= n - n_zero:
        raise InputError(
            f"k, the number of relaxation rates, must be an integer from 1 to {n - n_zero} "
            f"for a {'closed' if n_zero else 'killed'} chain of {n} states, not {k!r}"
        )
    require_one_class(rates, killing)
    return n_zero


def keep_wells(spectrum: Spectrum, values: Array, vectors: Array, cut: int) -> Elimination:
    """The `Elimination` of all states but one in each well.

    They are where the vectors are large and independent: the first pivots of a QR factorisation.
    """
    basis = spectrum.find_basis(values, vectors, cut)
    _, pivots = linalg.qr(basis.T, mode="r", pivoting=True)
    wells = pivots[:cut].astype(np.int64)
    return Elimination(spectrum.rates, spectrum.killing, spectrum.center, wells)


def find_gap(spectrum: Spectrum, count: int, n_zero: int) -> tuple[Array, Array, int]:
    """(values, vectors, cut): at least *count* eigenvalues, and a gap after the first *cut*.

    Those below the gap need a trace: they are lost in round-off, or less accurate than they could
    be. n_zero (0 or 1) of them are 0.
    """
    wanted = count + 6 if spectrum.is_reversible else 2 * count + 14
    while True:
        wanted = min(wanted, spectrum.n - 2)
        is_last_try = wanted >= min(MAX_EIGENVALUES, spectrum.n - 2)
        try:
            values, vectors = spectrum.find_nearest(wanted)
        except ConvergenceError:  # perhaps a cluster that more vectors contain
            if is_last_try:
                raise
            wanted *= 2
            continue

        size = np.abs(values) / spectrum.largest
        n_lost = int((size <= EIGENVALUE_NOISE).sum())
        gaps = [
            c
            for c in range(max(n_lost, 1), len(size))
            if size[c - 1] < SLOW_PART and size[c] > GAP_RATIO * size[c - 1]
        ]
        if gaps or n_lost <= n_zero:
            return values, vectors, max(gaps, default=n_zero)
        if len(values) == spectrum.n:
            return values, vectors, spectrum.n
        if is_last_try:
            raise ConvergenceError(
                f"{n_lost} or more relaxation rates lie below {EIGENVALUE_NOISE} of the largest "
                "rate, without a gap above: they are lost in round-off; raise the temperature, or "
                "take larger cells"
            )
        wanted *= 2


class Spectrum:
    """Approximate eigenvalues of -Q next to 0, and vectors that are large in the wells.

    For reversible chains, those of the symmetric matrix S with the off-diagonal entries -sqrt(q_ij
    q_ji). For others, those of P^-1/2 (-Q)^T P^1/2, which is S plus a skew-symmetric matrix:
    matrices that are far from normal become harmless.
    """

    def __init__(self, rates: sparse.csr_matrix, killing: Array, center: Array):
        self.n = rates.shape[0]
        self.rates = rates
        self.killing = killing
        self.center = center
        self.total = total = np.asarray(rates.sum(axis=1)).ravel() + killing
        self.largest = float(total.max())
        self.scale = 2.0 ** -np.frexp(self.largest)[1]
        self.is_reversible = _is_reversible(rates)

        scaled = rates * self.scale
        if self.is_reversible:
            root = scaled.sqrt()
            coupling = root.multiply(root.T)
        else:
            root = _find_root_of_weights(rates, center)
            coupling = sparse.diags(1 / root) @ scaled.T @ sparse.diags(root)
        self.matrix = (sparse.diags(total * self.scale) - coupling).tocsc()

    @cached_property
    def weights(self) -> Array:
        """The stationary distribution (n,) without killing, not too small; 1 where there is
        none.
        """
        return _find_root_of_weights(self.rates, self.center) ** 2

    def find_nearest(self, count: int) -> tuple[Array, Array]:
        """(values (m,), vectors (n, m)) of the eigenvalues nearest to 0, sorted by size.

        m = count or n.
        """
        if self.n > DENSE_STATE_LIMIT:
            values, vectors = self._shift_and_invert(count)
        elif self.is_reversible:
            values, vectors = linalg.eigh(self.matrix.toarray())
        else:
            values, vectors = linalg.eig(self.matrix.toarray())
        order = np.argsort(np.abs(values), kind="stable")
        return values[order] / self.scale, vectors[:, order]

    def find_basis(self, values: Array, vectors: Array, cut: int) -> Array:
        """Vectors (n, cut) that span the eigenvectors of the first *cut* values.

        The eigenvectors themselves may be nearly parallel.
        """
        if self.is_reversible or self.n > DENSE_STATE_LIMIT or cut == self.n:
            return vectors[:, :cut]

        smallest = max(np.abs(values[cut - 1]), 1e-15 * self.largest)
        between = self.scale * np.sqrt(np.abs(values[cut]) * smallest)
        _, basis, n_below = linalg.schur(
            self.matrix.toarray(), "complex", sort=lambda value: abs(value) < between
        )
        return basis[:, :cut] if n_below == cut else vectors[:, :cut]

    def _shift_and_invert(self, count):
        top = self.largest * self.scale
        shift = RELATIVE_SHIFT * top
        shifted = (self.matrix + shift * sparse.identity(self.n)).tocsc()
        lu = splu(
            shifted,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        inverse = LinearOperator(shifted.shape, lu.solve, dtype=float)
        start = np.random.default_rng(0).uniform(0.5, 1.5, self.n)
        solver = eigsh if self.is_reversible else eigs
        try:
            values, vectors = solver(
                self.matrix,
                count,
                sigma=-shift,
                OPinv=inverse,
                v0=start,
                ncv=2 * count + 20,
                maxiter=MAX_RESTARTS,
            )
        except (ArpackError, ArpackNoConvergence) as error:
            raise ConvergenceError(
                f"the {count} eigenvalues next to 0 do not converge: there may be too many wells "
                f"that are hardly ever left to tell them apart; raise the temperature ({error})"
            ) from None

        errors = self.matrix @ vectors - values * vectors
        residual = np.linalg.norm(errors, axis=0).max() / top
        if residual > RESIDUAL_LIMIT:
            raise ConvergenceError(
                f"the eigenvalues next to 0 are inaccurate: residual {residual:.1e} of the "
                "largest rate"
            )
        return values, vectors


def _find_root_of_weights(rates, center):
    """p^1/2, not too small, for a chain whose stationary distribution is unique; else 1."""
    killing = np.zeros(rates.shape[0])
    if len(find_closed_classes(rates, killing)[1]) > 1:
        return np.ones(rates.shape[0])

    p = Elimination(rates, killing, center).weights()
    return np.sqrt(np.maximum(p / p.max(), SMALLEST_WEIGHT))


def _is_reversible(rates):
    """Whether weights p with p_i q_ij = p_j q_ji exist.

    log p follows along a spanning tree; then all pairs are checked. A rate that underflowed to 0 is
    consistent if log p differs by more than UNDERFLOW_LOG_RATIO.
    """
    n = rates.shape[0]
    both = rates.multiply(rates.T > 0).tocsr()
    order, parent = breadth_first_order(both, 0, directed=False)
    if len(order) < n:
        return False

    step = both.copy()
    backward = both.T.tocsr()
    step.data = np.log(both.data) - np.log(backward.data)  # log p_j - log p_i
    log_p = _sum_to_root(step, order[1:], np.maximum(parent, 0))

    step = step.tocoo()
    errors = np.abs(log_p[step.row] + step.data - log_p[step.col])
    if errors.max(initial=0.0) > LOG_ROUNDING:
        return False

    one_way = rates - both
    one_way.eliminate_zeros()
    i, j = one_way.nonzero()
    return bool((log_p[j] - log_p[i] > UNDERFLOW_LOG_RATIO).all())


def _sum_to_root(step, child, parent):
    """Sums (n,) of the steps from the root, which is its own parent, to each state.

    Each round adds the sum up to an ancestor that is twice as far away.
    """
    log_p = np.zeros(len(parent))
    log_p[child] = np.asarray(step[parent[child], child]).ravel()
    while parent.any():
        log_p = log_p + log_p[parent]
        parent = parent[parent]
    return log_p


class WellChain:
    """The chain that is watched in one state of each well, and its M(lambda), see the module.

    terms : h, C^-1 h, C^-2 h, ... (m, n), as many as are needed
    moments : psi h, psi C^-1 h, ... (m, m)
    """

    def __init__(self, elimination: Elimination):
        if not elimination.sure.all():
            raise build_underflow_error()

        self.elimination = elimination
        self.rates = elimination.rates
        self.killing = elimination.killing
        self.psi = elimination.occupation()
        h = elimination.committors()
        self.terms = [h]
        self.moments = [self.psi @ h.T]
        self._first = _find_graded_eigenvalues(self.rates, self.killing, self.moments[0])

        # The terms of M(lambda), until they are negligible for the largest lambda.
        largest = np.abs(self._first).max(initial=0.0)
        h = h.copy()
        h[:, elimination.left] = 0.0
        size = 1.0 if h.any() else 0.0
        while size >= SERIES_TOLERANCE and len(self.moments) < MAX_SERIES_TERMS:
            h = elimination.solve(h)
            self.terms.append(h)
            self.moments.append(self.psi @ h.T)
            power = largest ** (len(self.moments) - 1)
            last_sums = self.moments[-1].sum(axis=1)
            first_diagonal = np.diag(self.moments[0])
            size = power * np.max(last_sums / first_diagonal)
        if size > SERIES_FAILURE:
            raise ConvergenceError(
                "the wells of the chain are too shallow to tell its slow rates from the others"
            )

    def find_values(self) -> Array:
        """As many eigenvalues (m,) as there are wells."""
        return np.array(
            [
                _find_fixed_point(self.rates, self.killing, self.moments, value, place)
                for place, value in enumerate(self._first)
            ]
        )

    def find_mass(self, value: complex) -> Array:
        """M(value) (m, m)."""
        return sum_powers(value, self.moments)


def sum_powers(value: complex, terms: Sequence[Array]) -> Any:
    """terms[0] + value terms[1] + value^2 terms[2] + ..."""
    return sum(value**power * term for power, term in enumerate(terms))


def _find_fixed_point(rates, killing, moments, value, place):
    """The eigenvalue lambda of A x = lambda M(lambda) x at a *place* of the sorted ones.

    Complex pairs have no order: there, the one nearest to *value*.
    """
    for _ in range(MAX_FIXED_POINT_STEPS):
        value = value if value.imag else value.real
        last_value = value
        mass = sum_powers(value, moments)
        values = _find_graded_eigenvalues(rates, killing, mass)
        value = values[np.abs(values - value).argmin() if value.imag else place]
        if abs(value - last_value) <= 1e-15 * abs(value):
            break
    return value


def _find_graded_eigenvalues(rates, killing, mass):
    """Eigenvalues lambda of A x = lambda M x, sorted, for M the *mass*.

    A is the matrix of the rates; its row sums are the killing.
    """
    diagonal = np.abs(np.diag(mass))
    X, D, Y, order = _factorise(rates / diagonal[:, None], killing / diagonal)
    M = (mass / diagonal[:, None])[np.ix_(order, order)]
    m = int((D > 0).sum())
    K = (Y @ linalg.solve(M, X))[:m, :m]
    D = D[:m]

    ratio = np.tril(D[:, None] / D)
    begins_block = D[1:] < D[:-1] / 4
    block = np.cumsum(np.append(0, begins_block))[:m]
    is_below = block[:, None] > block
    for _ in range(MAX_LR_STEPS):
        if np.abs(K[is_below]).max(initial=0.0) < 1e-18:
            break
        L, U = _factorise_lu(K)
        K = U @ (ratio * L)

    values = [np.empty(0)]
    for number in np.unique(block):
        own = np.flatnonzero(block == number)
        values.append(_find_block_eigenvalues(K[np.ix_(own, own)], D[own]))
    found = np.concatenate(values)
    return found[sort_rates(found)]


def _find_block_eigenvalues(K, D):
    """The eigenvalues of K D. They are scaled, as LAPACK does not resolve numbers below 1e-138."""
    root = np.sqrt(D / D[0])
    return linalg.eigvals(root[:, None] * K * root) * D[0]


def _factorise(q, killing):
    """(X, D, Y, order) with A[order][:, order] = X D Y.

    A is the matrix with the off-diagonal entries -q and the row sums *killing*.
    """
    q = q.copy()
    killing = killing.copy()
    m = len(q)
    X = np.eye(m)
    Y = np.eye(m)
    D = np.zeros(m)
    rest = list(range(m))
    order = []

    for place in range(m):
        total = q[np.ix_(rest, rest)].sum(axis=1) + killing[rest]
        k = rest.pop(int(np.argmax(total)))
        s = total.max()
        D[place] = s
        order.append(k)
        if s > 0:
            to_k = q[rest, k]
            from_k = q[k, rest]
            X[rest, k] = -to_k / s
            Y[k, rest] = -from_k / s
            killing[rest] += to_k * (killing[k] / s)
            q[np.ix_(rest, rest)] += np.outer(to_k, from_k / s)
            q[rest, rest] = 0.0

    ordered = np.ix_(order, order)
    return X[ordered], D, Y[ordered], order


def _factorise_lu(K):
    """(L, U) with K = L U, without pivoting."""
    L = np.eye(len(K), dtype=K.dtype)
    U = K.copy()
    for k in range(len(K)):
        factors = U[k + 1 :, k] / U[k, k]
        pivot_row = U[k, k:]
        L[k + 1 :, k] = factors
        U[k + 1 :, k:] -= np.outer(factors, pivot_row)
    return L, np.triu(U)


def drop_rounding(values: Array) -> Array:
    """Rates without their imaginary parts, where those are round-off in all of them."""
    is_real = np.abs(values.imag) <= IMAGINARY_ROUNDING * np.abs(values)
    return values.real if is_real.all() else values


def sort_rates(values: Array) -> IntArray:
    """The order of rates by their real parts, then their imaginary ones."""
    return np.lexsort([values.imag, values.real])
