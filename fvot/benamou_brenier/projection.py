"""The pointwise half of the iteration: project on a + |b|^2 / 2 <= 0, and move the state, in one
sweep.

The iteration (Douglas-Rachford, over-relaxed by alpha) has one state z = (z_a, z_b) and its
multiplier l >= 0, in the metric theta^2 tau m_P a a' + tau omega_{P,s} / 2 b b'. Its projection q =
P(z) is

    q_a = z_a - l / theta^2,  q_b = z_b / (1 + l),  l = 0 where z_a + |z_b|^2 / 2 <= 0, else the
    root l > 0 of g(l) = z_a - l / theta^2 + |z_b|^2 / (2 (1 + l)^2)

which is convex and decreasing: Newton's method cannot fail. Density and momentum are rho = r l and
r l q_b. One sweep does

    1. z += alpha (Lambda phi - q)                    with q from the old l
    2. the new l; then l <- l / kappa and z = q + l (1 / theta^2, q_b): the penalty r grows by
        kappa, rho stays
    3. right-hand side += Lambda* (2 q - z)           2 q - z = (z_a - 2 l / theta^2, z_b (1 - l) /
        (1 + l))

Where mass may grow (see `growth`), the slopes c of the cells are more rows of b, in an array of
their own, and slab j has the weight w_j in the metric, so that rho = r w_j l.

(Benamou, Brenier 2000; Eckstein, Bertsekas 1992 for alpha in (1, 2).) Time runs innermost, so that
everything is done for all slabs of a patch at once, by vector instructions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike

from ..arguments.types import Array, IntArray
from .diamonds import DiamondDiscretisation
from .discretisation import Discretisation
from .disjoint import Disjoint
from .two_point import TwoPointDiscretisation

# Newton steps, at most: more than any state needs, as 1 + l grows by half each time far below the
# root.
MAX_MULTIPLIER_STEPS = 60

# The last relative step of Newton's method, by bytes of a number; the error is its square.
LAST_STEP = {4: 3e-4, 8: 1e-8}


class State(ABC):
    """z_a, l (n_patches, N) and z_b (n_rows, 2, N) of a `Discretisation`, with the metric's theta;
    they start at 0. With growth also z_c (n_cells, 2, N).

    dtype : float64 or float32, of the state, of phi and of the right-hand sides
    sigma : (n_patches,) local factor of the penalty in the metric, None for 1; rho = r sigma l
    n_rows : of z_b
    """

    def __init__(
        self,
        disc: Discretisation,
        theta: float,
        dtype: DTypeLike,
        sigma: Array | None,
        n_rows: int,
    ):
        n_steps = disc.n_steps
        self.disc = disc
        self.theta = float(theta)
        self.dtype: Any = np.dtype(dtype)
        self.z_a = np.zeros((disc.n_patches, n_steps), dtype)
        self.l = np.zeros((disc.n_patches, n_steps), dtype)
        self.z_b = np.zeros((n_rows, 2, n_steps), dtype)
        n_growing = disc.mesh.n_cells if disc.has_fisher_rao else 0
        self.z_c = np.zeros((n_growing, 2, n_steps), dtype)
        self.sigma = np.ones(disc.n_patches) if sigma is None else sigma

        self._coefficients = tuple(
            array.astype(self.dtype, copy=False) for array in self._find_coefficients()
        )
        self._slab_weights = disc.slab_weights.astype(self.dtype)
        real: Any = self.dtype.type
        self._inverse = real(self.theta**-2)
        self._last_step = real(LAST_STEP[self.dtype.itemsize])

    @abstractmethod
    def _find_coefficients(self) -> tuple[Array, ...]:
        """The numbers of the sweep, in double precision."""

    @abstractmethod
    def _sweep(self, phi: Array, *parameters: Any) -> None:
        """The sweep over all patches, for phi (n_local, N + 1)."""

    @property
    @abstractmethod
    def row_patch(self) -> IntArray:
        """The patch (n_rows,) of each row of z_b."""

    def _find_cell_coefficients(self):
        """(sigma |K|, |K| / (m_P tau)) (n_cells,): of rho and of a."""
        disc = self.disc
        mesh = disc.mesh
        share = mesh.volume / disc.volume[disc.patch]
        return self.sigma[disc.patch] * mesh.volume, share / disc.tau

    def start(self, phi: Array, rho: Array, r: float) -> None:
        """Set z = P(Lambda phi) + l (1 / theta^2, q_b) with l = rho / (r sigma).

        phi (n_points, N + 1), rho (n_patches, N)
        """
        disc = self.disc
        a, b = disc.apply(phi)
        square = disc.square(b)
        if disc.has_fisher_rao:
            square += disc.growth_square(phi)
        shift = multiplier(a, square, self.theta)
        l = rho / (r * self.weight)
        self.l[:] = l
        self.z_a[:] = a + (l - shift) / self.theta**2
        factor = (1 + l) / (1 + shift)
        self.z_b[:] = b * factor[self.row_patch, None]
        if disc.has_fisher_rao:
            n_cells = disc.mesh.n_cells
            c = phi[:n_cells] * disc.reaction**0.5
            c = np.stack([c[:, :-1], c[:, 1:]], axis=1)
            self.z_c[:] = c * factor[disc.patch, None]

    @property
    def weight(self) -> Array:
        """sigma w (n_patches, N): rho = r sigma w l."""
        return self.sigma[:, None] * self.disc.slab_weights

    def right_hand_side(self) -> Array:
        """Lambda* (2 q - z) (n_points, N + 1) of the state as it is."""
        phi = np.zeros((self.disc.n_points, self.disc.n_steps + 1), self.dtype)
        return self.sweep(phi, alpha=0.0)

    def sweep(self, phi: Array, alpha: float = 1.8, kappa: float = 1.0) -> Array:
        """Move the state with phi (n_points, N + 1); return the new Lambda* (2 q - z).

        alpha : over-relaxation
        kappa : factor by which the penalty r grows
        """
        phi = self.disc.with_ghosts(phi)
        real = self.dtype.type
        out = np.zeros_like(phi)
        self._sweep(
            phi,
            *self._coefficients,
            self._slab_weights,
            real(self.disc.tau / 2),
            real(self.disc.reaction**0.5),
            self._inverse,
            real(alpha),
            real(1 / kappa),
            self._last_step,
            self.z_a,
            self.z_b,
            self.z_c,
            self.l,
            out,
        )
        return self.disc.to_owners(out)


class TwoPointState(State):
    """The `State` of a `TwoPointDiscretisation`: one row for each copy."""

    disc: TwoPointDiscretisation

    def __init__(
        self,
        disc: TwoPointDiscretisation,
        theta: float,
        dtype: DTypeLike = np.float64,
        sigma: Array | None = None,
    ):
        mesh = disc.mesh
        face = disc.copy_face
        self._space: Any = (
            disc.cells,
            disc.cell_start,
            disc.copy_start,
            mesh.left[face].astype(np.int64),
            mesh.right[face].astype(np.int64),
        )
        super().__init__(disc, theta, dtype, sigma, disc.n_copies)

    @property
    def row_patch(self) -> IntArray:
        """See `State`."""
        return self.disc.copy_patch

    def _find_coefficients(self):
        disc = self.disc
        slope = 1 / disc.mesh.distance[disc.copy_face]
        push = disc.tau / 2 * self.sigma[disc.copy_patch] * disc.weight * slope
        volume = disc.volume[disc.copy_patch]
        return *self._find_cell_coefficients(), slope, disc.weight / (2 * volume), push

    def _sweep(self, phi, *parameters):
        _sweep(phi, *self._space, *parameters)


class DiamondState(State):
    """The `State` of a `DiamondDiscretisation`: as many rows for each copy as the diamond has
    slopes.
    """

    disc: DiamondDiscretisation

    def __init__(
        self,
        disc: DiamondDiscretisation,
        theta: float,
        dtype: DTypeLike = np.float64,
        sigma: Array | None = None,
    ):
        diamonds = disc.diamonds
        face = disc.copy_face
        self._space: Any = (
            disc.cells,
            disc.cell_start,
            disc.copy_start,
            disc.row_start,
            diamonds.point_start[face],
            diamonds.point,
            diamonds.root_start[face],
        )
        super().__init__(disc, theta, dtype, sigma, disc.row_start[-1])

    @property
    def row_patch(self) -> IntArray:
        """See `State`."""
        return self.disc.copy_patch[self.disc.row_copy]

    def _find_coefficients(self):
        disc = self.disc
        push = disc.tau / 2 * self.sigma[disc.copy_patch] * disc.weight
        norm = disc.weight / (2 * disc.volume[disc.copy_patch])
        return *self._find_cell_coefficients(), disc.diamonds.root, norm, push

    def _sweep(self, phi, *parameters):
        _sweep_diamonds(phi, *self._space, *parameters)


def build_state(
    disc: Discretisation, theta: float, dtype: DTypeLike, sigma: Array | None
) -> TwoPointState | DiamondState:
    """The `State` of a discretisation, at 0."""
    if isinstance(disc, DiamondDiscretisation):
        return DiamondState(disc, theta, dtype, sigma)
    assert isinstance(disc, TwoPointDiscretisation)
    return TwoPointState(disc, theta, dtype, sigma)


def multiplier(z_a: Array, square: Array, theta: float) -> Array:
    """l >= 0 of each point: 0 where z_a + square / 2 <= 0, else the root of g (see above).

    z_a, square : arrays of one shape; square = |z_b|^2 >= 0
    """
    z_a = np.asarray(z_a, float)
    l = np.maximum(theta**2 * z_a, 0.0)
    squares = np.ravel(square).astype(float)
    last_step = LAST_STEP[8]
    _newton(z_a.ravel(), squares, theta**-2, last_step, l.reshape(-1))
    return l


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _newton(z_a, square, inverse, close, l):
    one = l.dtype.type(1)
    half = l.dtype.type(0.5)
    zero = one - one
    for _ in range(MAX_MULTIPLIER_STEPS):
        far = 0
        for j in range(len(l)):
            old = l[j]
            x = one / (one + old)
            t = square[j] * x * x
            step = (z_a[j] - old * inverse + half * t) / (inverse + t * x)
            new = old + step
            new = new if new > zero else zero
            far += abs(new - old) > close * new
            l[j] = new
        if far == 0:
            break


@numba.njit(cache=True, error_model="numpy", inline="always")
def _relax_in_time(members, share, alpha, inverse, phi, za, lp, square, factor):
    """z_a += alpha (a - q_a) for a patch; factor = 1 / (1 + l); square is 0 in the end."""
    one = lp.dtype.type(1)
    zero = one - one
    square[:] = zero
    for cell in members:
        row = phi[cell]
        part = share[cell]
        for j in range(len(lp)):
            square[j] += part * (row[j + 1] - row[j])
    for j in range(len(lp)):
        za[j] += alpha * (square[j] - za[j] + lp[j] * inverse)
        factor[j] = one / (one + lp[j])
        square[j] = zero


@numba.njit(cache=True, error_model="numpy", inline="always")
def _grow_penalty(shrink, inverse, slab_weights, za, lp, grow, factor, square):
    """l <- l / kappa and z_a with it; the factors of z_b by which it grows and is pushed, and what
    z_a pushes.
    """
    one = lp.dtype.type(1)
    two = one + one
    metric = one / inverse
    for j in range(len(lp)):
        old = lp[j]
        new = old * shrink
        moved = za[j] + (new - old) * inverse
        lp[j] = new
        za[j] = moved
        x = one / (one + old)
        grow[j] = (one + new) * x
        factor[j] = slab_weights[j] * (one - new) * x
        square[j] = slab_weights[j] * (moved * metric - two * new)


@numba.njit(cache=True, error_model="numpy", inline="always")
def _relax_growth(members, share, half_step, decay, alpha, phi, z_c, factor, square):
    """z_c += alpha (c - q_c) for a patch, and |z_c|^2 into square; decay = 1 / delta."""
    for cell in members:
        row = phi[cell]
        w = half_step * share[cell]
        first, second = z_c[cell, 0], z_c[cell, 1]
        for j in range(len(square)):
            b = first[j] + alpha * (decay * row[j] - first[j] * factor[j])
            d = second[j] + alpha * (decay * row[j + 1] - second[j] * factor[j])
            first[j] = b
            second[j] = d
            square[j] += w * (b * b + d * d)


@numba.njit(cache=True, error_model="numpy", inline="always")
def _push_growth(members, volume, half_step, decay, z_c, factor, grow, out):
    """Add what z_c pushes to the cells of a patch, and let it grow."""
    for cell in members:
        row = out[cell]
        w = half_step * decay * volume[cell]
        first, second = z_c[cell, 0], z_c[cell, 1]
        for j in range(len(factor)):
            row[j] += w * first[j] * factor[j]
            first[j] *= grow[j]
        for j in range(len(factor)):
            row[j + 1] += w * second[j] * factor[j]
            second[j] *= grow[j]


@numba.njit(cache=True, error_model="numpy", inline="always")
def _push_in_time(members, volume, square, out):
    """Add what z_a pushes, at the begin and at the end of each slab, to the cells of a patch."""
    for cell in members:
        row = out[cell]
        m = volume[cell]
        for j in range(len(square)):
            row[j] -= m * square[j]
        for j in range(len(square)):
            row[j + 1] += m * square[j]


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _sweep(
    phi,
    cells,
    cell_start,
    copy_start,
    left,
    right,
    volume,
    share,
    slope,
    norm,
    push,
    slab_weights,
    half_step,
    decay,
    inverse,
    alpha,
    shrink,
    close,
    z_a,
    z_b,
    z_c,
    l,
    out,
):
    n = l.shape[1]
    square = np.empty(n, l.dtype)
    factor = np.empty(n, l.dtype)
    grow = np.empty(n, l.dtype)
    begin = np.empty(n, l.dtype)
    end = np.empty(n, l.dtype)
    for patch in range(len(l)):
        za = z_a[patch]
        lp = l[patch]
        members = cells[cell_start[patch] : cell_start[patch + 1]]
        _relax_in_time(members, share, alpha, inverse, phi, za, lp, square, factor)
        for c in range(copy_start[patch], copy_start[patch + 1]):
            low = phi[left[c]]
            high = phi[right[c]]
            s = slope[c]
            w = norm[c]
            first, second = z_b[c, 0], z_b[c, 1]
            for j in range(n):
                b = first[j] + alpha * (s * (high[j] - low[j]) - first[j] * factor[j])
                d = second[j] + alpha * (s * (high[j + 1] - low[j + 1]) - second[j] * factor[j])
                first[j] = b
                second[j] = d
                square[j] += w * (b * b + d * d)
        if len(z_c):
            _relax_growth(members, share, half_step, decay, alpha, phi, z_c, factor, square)
        _newton(za, square, inverse, close, lp)
        _grow_penalty(shrink, inverse, slab_weights, za, lp, grow, factor, square)
        for c in range(copy_start[patch], copy_start[patch + 1]):
            first = z_b[c, 0]
            second = z_b[c, 1]
            w = push[c]
            for j in range(n):
                b = first[j]
                d = second[j]
                begin[j] = w * b * factor[j]
                end[j] = w * d * factor[j]
                first[j] = b * grow[j]
                second[j] = d * grow[j]
            low, high = out[left[c]], out[right[c]]
            high[0] += begin[0]
            low[0] -= begin[0]
            for j in range(1, n):
                pushed = end[j - 1] + begin[j]
                high[j] += pushed
                low[j] -= pushed
            high[n] += end[n - 1]
            low[n] -= end[n - 1]
        if len(z_c):
            _push_growth(members, volume, half_step, decay, z_c, factor, grow, out)
        _push_in_time(members, volume, square, out)


@numba.njit(cache=True, error_model="numpy", pipeline_class=Disjoint)
def _sweep_diamonds(
    phi,
    cells,
    cell_start,
    copy_start,
    row_start,
    point_start,
    point,
    root_start,
    volume,
    share,
    root,
    norm,
    push,
    slab_weights,
    half_step,
    decay,
    inverse,
    alpha,
    shrink,
    close,
    z_a,
    z_b,
    z_c,
    l,
    out,
):
    n = l.shape[1]
    one = l.dtype.type(1)
    zero = one - one
    square = np.empty(n, l.dtype)
    factor = np.empty(n, l.dtype)
    grow = np.empty(n, l.dtype)
    most_slopes = 0
    for c in range(len(row_start) - 1):
        most_slopes = max(most_slopes, row_start[c + 1] - row_start[c])
    slopes = np.empty((most_slopes, n + 1), l.dtype)
    node = np.empty(n + 1, l.dtype)
    base = np.empty(n + 1, l.dtype)
    for patch in range(len(l)):
        za = z_a[patch]
        lp = l[patch]
        members = cells[cell_start[patch] : cell_start[patch + 1]]
        _relax_in_time(members, share, alpha, inverse, phi, za, lp, square, factor)

        for c in range(copy_start[patch], copy_start[patch + 1]):
            first_row = row_start[c]
            k = row_start[c + 1] - first_row
            here = point[point_start[c]]
            w = norm[c]
            for m in range(k):
                there = point[point_start[c] + 1 + m]
                for j in range(n + 1):
                    slopes[m, j] = phi[there, j] - phi[here, j]
            for i in range(k):
                R = root[root_start[c] + i * k + i]
                for j in range(n + 1):
                    node[j] = R * slopes[i, j]
                for m in range(i + 1, k):
                    R = root[root_start[c] + i * k + m]
                    for j in range(n + 1):
                        node[j] += R * slopes[m, j]
                r = first_row + i
                for j in range(n):
                    b = z_b[r, 0, j]
                    d = z_b[r, 1, j]
                    b += alpha * (node[j] - b * factor[j])
                    d += alpha * (node[j + 1] - d * factor[j])
                    z_b[r, 0, j] = b
                    z_b[r, 1, j] = d
                    square[j] += w * (b * b + d * d)

        if len(z_c):
            _relax_growth(members, share, half_step, decay, alpha, phi, z_c, factor, square)
        _newton(za, square, inverse, close, lp)
        _grow_penalty(shrink, inverse, slab_weights, za, lp, grow, factor, square)

        for c in range(copy_start[patch], copy_start[patch + 1]):
            first_row = row_start[c]
            k = row_start[c + 1] - first_row
            w = push[c]
            slopes[:k] = zero
            for i in range(k):
                r = first_row + i
                node[n] = zero
                for j in range(n):
                    node[j] = w * z_b[r, 0, j] * factor[j]
                    z_b[r, 0, j] *= grow[j]
                for j in range(n):
                    node[j + 1] += w * z_b[r, 1, j] * factor[j]
                    z_b[r, 1, j] *= grow[j]
                for m in range(i, k):
                    R = root[root_start[c] + i * k + m]
                    for j in range(n + 1):
                        slopes[m, j] += R * node[j]
            base[:] = zero
            for m in range(k):
                there = point[point_start[c] + 1 + m]
                for j in range(n + 1):
                    out[there, j] += slopes[m, j]
                    base[j] += slopes[m, j]
            here = point[point_start[c]]
            for j in range(n + 1):
                out[here, j] -= base[j]

        if len(z_c):
            _push_growth(members, volume, half_step, decay, z_c, factor, grow, out)
        _push_in_time(members, volume, square, out)
