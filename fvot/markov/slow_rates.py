"""The slowest relaxation rates of a chain: eigenvalues lambda of -Q, some of them below all
round-off.

Approximate eigenvectors next to lambda = 0 show the wells, one state of each is kept, and all
others are eliminated. With h the committors, psi the occupation, C = -Q without the kept states, an
eigenvector x of -Q is, on the kept states, one of

    A x = lambda M(lambda) x,   M(lambda) = psi h + lambda psi C^-1 h + lambda^2 psi C^-2 h + ...
    (h = 0 in C^-1 h)

A the matrix of the rates of the trace, M near its diagonal. All is non-negative, nothing cancels,
and the series converges fast: lambda is small beside C.

The eigenvalues of this small problem may differ by hundreds of decades. Elimination without
subtraction, the state that is left fastest first, gives A = X D Y with D > 0 falling and the
entries of X and Y at most 1; lambda are the eigenvalues of K D, K = Y M^-1 X. LR steps K = L U -> U
(D L D^-1) damp what is below the diagonal by the ratios in D, until blocks of similar lambda are
left. All factors are well-conditioned but D, which is only multiplied with: each lambda keeps its
digits (Demmel et al. 1999).
"""

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, eigsh, splu

from ..errors import ConvergenceError, InputError
from .checks import checked_chain, closed_classes, require_one_class
from .elimination import Elimination, underflow

SMALL = 400  # chains up to here: all eigenvalues at once, by a dense matrix
NOISE = 1e-12  # eigenvalues below this part of the largest rate are lost in round-off
SLOW = 1e-4  # below this part of it they are worth a trace
GAP = 100  # what lies between those that a trace gives and the others
TERMS = 12  # of the series in lambda
MOST = 64  # eigenvalues that are looked at
RESTARTS = 60  # of Lanczos or Arnoldi, before it is given up


def relaxation_rates(rates, k, *, killing=None, center=None):
    """The k slowest decay rates (k,): eigenvalues of -Q with the smallest real parts, Q the
    generator of the chain.

    rates : (n, n) sparse or dense, rates[i, j] >= 0 the rate from i to j; the diagonal is ignored
    killing (n,) : rates >= 0 at which the chain ends. Without, the chain is closed, and its
        eigenvalue 0 is left out
    center (dim, n) : where the states are; the elimination is faster with it

    Sorted by real part; real for reversible chains (p_i q_ij = p_j q_ji), and for others if all
    are. Eigenvalues that lie well below the others are accurate to about 1e-13 of themselves, be
    they 1e-250 of the largest rate: they come from the `trace` on as many states, one in each well.
    The others come from shift-invert: 1e-15 of the largest rate, and among more than 400 states
    without reversibility only those near 0 are looked at, not those of small real but large
    imaginary part. Raises `InputError` for input that will not do, `ConvergenceError` if
    eigenvalues do not converge, lie too close for any of this, or underflow (barriers of more than
    600 kT).
    """
    rates, killing, center = checked_chain(rates, killing, center)
    n = rates.shape[0]
    closed = int(not killing.any())
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n - closed:
        raise InputError(
            f"k, the number of relaxation rates, must be an integer from 1 to {n - closed} "
            f"for a {'closed' if closed else 'killed'} chain of {n} states, not {k!r}"
        )
    require_one_class(rates, killing)
    spectrum = _Spectrum(rates, killing, center)
    values, vectors, cut = _with_gap(spectrum, int(k) + closed, closed)
    slow = np.empty(0)
    if cut > closed:
        basis = spectrum.basis(values, vectors, cut)
        _, wells = linalg.qr(
            basis.T, mode="r", pivoting=True
        )  # where the vectors are large and independent
        slow = _slow_values(Elimination(rates, killing, center, wells[:cut].astype(np.int64)))
        slow = np.real(slow) if spectrum.reversible else slow
    values = _sorted(np.concatenate([slow, values[cut:]]))[:k]
    return values.real if (np.abs(values.imag) <= 1e-10 * np.abs(values)).all() else values


def _with_gap(spectrum, count, closed):
    """(values, vectors, cut): at least *count* eigenvalues. The first *cut* need a trace: they are
    lost in round-off, or less accurate than they could be. They lie well below the others. *closed*
    (0 or 1) of them are 0.
    """
    wanted = count + 6 if spectrum.reversible else 2 * count + 14
    while True:
        wanted = min(wanted, spectrum.n - 2)
        try:
            values, vectors = spectrum.nearest(wanted)
        except ConvergenceError:  # a cluster, which more vectors may hold
            if wanted >= min(MOST, spectrum.n - 2):
                raise
            wanted *= 2
            continue
        size = np.abs(values) / spectrum.largest
        lost = int((size <= NOISE).sum())
        gaps = [
            c
            for c in range(max(lost, 1), len(size))
            if size[c - 1] < SLOW and size[c] > GAP * size[c - 1]
        ]
        if gaps or lost <= closed:
            return values, vectors, max(gaps, default=closed)
        if len(values) == spectrum.n:
            return values, vectors, spectrum.n
        if wanted >= min(MOST, spectrum.n - 2):
            raise ConvergenceError(
                f"{lost} or more relaxation rates lie below {NOISE} of the largest rate, without "
                "a gap "
                "above: they are lost in round-off; raise the temperature, or take larger cells"
            )
        wanted *= 2


class _Spectrum:
    """Approximate eigenvalues of -Q next to 0, and vectors that are large in the wells.

    Reversible chains: those of the symmetric matrix S with the off-diagonal entries -sqrt(q_ij
    q_ji). Else those of P^-1/2 (-Q)^T P^1/2, which is S plus a skew-symmetric matrix: far from
    normal chains become harmless.
    """

    def __init__(self, rates, killing, center):
        self.n = rates.shape[0]
        total = np.asarray(rates.sum(axis=1)).ravel() + killing
        self.largest = float(total.max())
        self.scale = 2.0 ** -np.frexp(self.largest)[1]
        self.reversible = _is_reversible(rates)
        scaled = rates * self.scale
        if self.reversible:
            root = scaled.sqrt()
            coupling = root.multiply(root.T)
        else:
            root = _root_of_weights(rates, center)
            coupling = sparse.diags(1 / root) @ scaled.T @ sparse.diags(root)
        self.matrix = (sparse.diags(total * self.scale) - coupling).tocsc()

    def nearest(self, count):
        """(values (m,), vectors (n, m)) of the eigenvalues nearest to 0, m = count or n, sorted by
        size.
        """
        if self.n <= SMALL:
            values, vectors = (linalg.eigh if self.reversible else linalg.eig)(
                self.matrix.toarray()
            )
        else:
            values, vectors = self._by_shift_invert(count)
        order = np.argsort(np.abs(values), kind="stable")
        return values[order] / self.scale, vectors[:, order]

    def basis(self, values, vectors, cut):
        """Vectors (n, cut) that span those of the first *cut* values: eigenvectors that are nearly
        parallel will not do.
        """
        if self.reversible or self.n > SMALL or cut == self.n:
            return vectors[:, :cut]
        between = self.scale * np.sqrt(
            np.abs(values[cut]) * max(np.abs(values[cut - 1]), 1e-15 * self.largest)
        )
        _, basis, found = linalg.schur(
            self.matrix.toarray(), "complex", sort=lambda value: abs(value) < between
        )
        return basis[:, :cut] if found == cut else vectors[:, :cut]

    def _by_shift_invert(self, count):
        top = self.largest * self.scale
        shift = 1e-9 * top
        shifted = (self.matrix + shift * sparse.identity(self.n)).tocsc()
        lu = splu(
            shifted,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        inverse = LinearOperator(shifted.shape, lu.solve, dtype=float)
        start = np.random.default_rng(0).uniform(0.5, 1.5, self.n)
        solver = eigsh if self.reversible else eigs
        try:
            values, vectors = solver(
                self.matrix,
                count,
                sigma=-shift,
                OPinv=inverse,
                v0=start,
                ncv=2 * count + 20,
                maxiter=RESTARTS,
            )
        except (ArpackError, ArpackNoConvergence) as error:
            raise ConvergenceError(
                f"the {count} eigenvalues next to 0 do not converge: there may be too many wells "
                "that are "
                f"hardly ever left to tell them apart; raise the temperature ({error})"
            ) from None
        residual = np.linalg.norm(self.matrix @ vectors - values * vectors, axis=0).max() / top
        if residual > 1e-10:
            raise ConvergenceError(
                f"the eigenvalues next to 0 are inaccurate: residual {residual:.1e} of the "
                "largest rate"
            )
        return values, vectors


def _root_of_weights(rates, center):
    """p^1/2, not too small, for a chain whose stationary distribution is unique; else 1."""
    killing = np.zeros(rates.shape[0])
    if len(closed_classes(rates, killing)[1]) > 1:
        return np.ones(rates.shape[0])
    p = Elimination(rates, killing, center).weights()
    return np.sqrt(np.maximum(p / p.max(), 1e-280))


def _is_reversible(rates):
    """Do weights p with p_i q_ij = p_j q_ji exist? log p along a spanning tree, then a look at all
    pairs.

    A rate that underflowed to 0 is right if p differs by more than 500 in its logarithm.
    """
    n = rates.shape[0]
    both = rates.multiply(rates.T > 0).tocsr()
    order, parent = breadth_first_order(both, 0, directed=False)
    if len(order) < n:
        return False
    step = both.copy()
    step.data = np.log(both.data) - np.log(both.T.tocsr().data)  # log p_j - log p_i
    # the root is its own parent
    child = order[1:]
    parent = np.maximum(parent, 0)
    log_p = np.zeros(n)
    log_p[child] = np.asarray(step[parent[child], child]).ravel()  # beside the parent,
    while parent.any():  # and its parent, and so on: twice as far each time
        log_p = log_p + log_p[parent]
        parent = parent[parent]
    step = step.tocoo()
    if np.abs(log_p[step.row] + step.data - log_p[step.col]).max(initial=0.0) > 1e-8:
        return False
    alone = rates - both
    alone.eliminate_zeros()
    i, j = alone.nonzero()
    return bool((log_p[j] - log_p[i] > 500).all())


def _slow_values(elimination):
    """Eigenvalues as small as the wells are many: those of the chain watched in one state of each
    well.
    """
    if not elimination.sure.all():
        raise underflow()
    wells = elimination.left
    psi = elimination.occupation()
    h = elimination.committors()
    A, moments = (elimination.rates, elimination.killing), [psi @ h.T]
    values = _graded_eigenvalues(*A, moments[0])
    largest = np.abs(values).max(initial=0.0)
    h[:, wells] = 0.0
    size = 1.0 if h.any() else 0.0
    while size >= 1e-17 and len(moments) < TERMS:
        h = elimination.solve(h)
        moments.append(psi @ h.T)
        size = largest ** (len(moments) - 1) * np.max(moments[-1].sum(axis=1) / np.diag(moments[0]))
    if size > 1e-12:
        raise ConvergenceError(
            "the wells of the chain are too shallow to tell its slow rates from the others"
        )
    return np.array([_fixed_point(*A, moments, value, place) for place, value in enumerate(values)])


def _fixed_point(rates, killing, moments, value, place):
    """The eigenvalue at a *place* of the sorted ones. Complex pairs have no order: there, the one
    nearest to *value*.
    """
    for _ in range(20):
        last = value = value if value.imag else value.real
        values = _graded_eigenvalues(
            rates, killing, sum(value**term * moment for term, moment in enumerate(moments))
        )
        value = values[np.abs(values - value).argmin() if value.imag else place]
        if abs(value - last) <= 1e-15 * abs(value):
            break
    return value


def _graded_eigenvalues(rates, killing, mass):
    """Eigenvalues lambda of A x = lambda M x, sorted: A the matrix of the rates (its row sums: the
    killing), M the *mass*.
    """
    diagonal = np.abs(np.diag(mass))
    X, D, Y, order = _factors(rates / diagonal[:, None], killing / diagonal)
    M = (mass / diagonal[:, None])[np.ix_(order, order)]
    m = int((D > 0).sum())
    K, D = (Y @ linalg.solve(M, X))[:m, :m], D[:m]
    ratio = np.tril(D[:, None] / D)
    block = np.cumsum(np.append(0, D[1:] < D[:-1] / 4))[:m]
    below = block[:, None] > block
    for _ in range(200):
        if np.abs(K[below]).max(initial=0.0) < 1e-18:
            break
        L, U = _lu(K)
        K = U @ (ratio * L)
    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    return _sorted(
        np.concatenate(
            [np.empty(0), *(_eigenvalues(K[np.ix_(own, own)], D[own]) for own in members)]
        )
    )


def _eigenvalues(K, D):
    """Those of K D. LAPACK would not return numbers below 1e-138 as they are."""
    root = np.sqrt(D / D[0])
    return linalg.eigvals(root[:, None] * K * root) * D[0]


def _factors(q, killing):
    """(X, D, Y, order) of the matrix A with the off-diagonal entries -q and the row sums *killing*:
    A[order][:, order] = X D Y."""
    q, killing, m = q.copy(), killing.copy(), len(q)
    X, Y, D, rest, order = np.eye(m), np.eye(m), np.zeros(m), list(range(m)), []
    for _ in range(m):
        leaves = q[np.ix_(rest, rest)].sum(axis=1) + killing[rest]
        k = rest.pop(int(np.argmax(leaves)))
        s = D[len(order)] = leaves.max()
        order.append(k)
        if s > 0:
            X[rest, k] = -q[rest, k] / s
            Y[k, rest] = -q[k, rest] / s
            killing[rest] += q[rest, k] * (killing[k] / s)
            q[np.ix_(rest, rest)] += np.outer(q[rest, k], q[k, rest] / s)
            q[rest, rest] = 0.0
    return X[np.ix_(order, order)], D, Y[np.ix_(order, order)], order


def _lu(K):
    L, U = np.eye(len(K), dtype=K.dtype), K.copy()
    for k in range(len(K)):
        L[k + 1 :, k] = U[k + 1 :, k] / U[k, k]
        U[k + 1 :, k:] -= np.outer(L[k + 1 :, k], U[k, k:])
    return L, np.triu(U)


def _sorted(values):
    return values[np.lexsort([values.imag, values.real])]
