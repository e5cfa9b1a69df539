"""Gradients and limited face values on any mesh: the one-step `muscl` scheme.

The density at the faces is that in the middle of the step, when the flow has stretched the mass of
cell K over the volume J_K |K|,

    J = 1 + tau/2 div u,   q = rho / J

Where div u = 0, q is rho. U_s > 0 is the volume that flows per time from cell K through its face s
to the neighbour L, lambda_s = tau U_s / (J |K|), Lambda = sum of lambda over the faces by which K
is left. Every face gets its value from its upwind cell K:

1. g = least-squares gradient of q over the face neighbours; m, M = smallest and largest value among
    them and K, m >= 0
2. a_s = g.(x_s - x_K - tau/2 u_s) + w_s [(q_L - q_K) - g.(x_L - x_K)]: the mean of the linear
   function over what leaves during the step (Hancock), with the third-order blend w = (1 - nu)(1 -
   2 nu)/6 on cells that are no simplices, nu = tau u_s.(x_L - x_K) / |x_L - x_K|^2 (Leonard 1979)
3. a_s is clamped to [m - q_K, M - q_K], then all a_s of the cell are scaled by one factor phi <= 1,
   so that what remains in the cell, q* = q_K - phi S / (1 - Lambda) with S = sum lambda_s a_s, lies
   in [m, M], too

Then rho_K(t + tau) = J (1 - Lambda) q* + what comes in: a combination with non-negative weights of
non-negative values, positive for Lambda <= 1 on any cell shape. If div u = 0 it is a convex one: a
local maximum principle. With the rates at which volume leaves and enters, o = sum U_s+ / |K| and
i = sum U_s- / |K|, Lambda <= 1 is tau (o + i) / 2 <= 1. Steps obey tau max(o, (o + i) / 2) <= 1:
where the flow expands, too, no more volume leaves a cell than it has.

The bound on q* also makes the scheme stable on triangles: with wider bounds, round-off grows
within a hundred steps to what the bounds allow. But where Lambda is near 1, the factor
1 / (1 - Lambda) makes it cut smooth slopes: on uniform triangles the order falls from 2 to 1
between Lambda = 0.7 and 0.95. Hence `cfl`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from .stencil import Stencil, gradient_weights

# Densities below it are set to zero: denormal numbers are slow.
SMALLEST_DENSITY = 1e-290

# Range of the neighbours' densities, relative to the largest density, below which a cell needs no
# gradient: round-off.
FLAT_RANGE = 1e-14

# Half the growth of a cell's volume in a step that is round-off of a flow without divergence.
NEGLIGIBLE_GROWTH = 1e-12

# The least J: a positive step keeps it above 0, but where it is smaller, q is no prediction.
LEAST_COMPANION = 0.5

# The fraction of the positivity bound that steps take by default on triangles and tetrahedra, where
# larger ones cut smooth slopes (see the module's docstring).
SIMPLEX_CFL = 0.7

# The same on all other cells, on Cartesian meshes and for two-point fluxes: a little below the
# bound itself.
DEFAULT_CFL = 0.95


class LimitedFaces:
    """The `muscl` step on any mesh, see `scheme.ExplicitScheme`."""

    convex = True  # the rate is a convex function of U

    def __init__(self, mesh: Any, sharp: float):
        self.mesh = mesh
        self.sharp = float(sharp)
        self.stencil = Stencil(mesh)
        self.weight = gradient_weights(self.stencil)
        self.opposite, self.exchange, self.outer = self.stencil.find_opposite()

        n_faces = np.diff(self.stencil.start)
        self.square_start = np.concatenate([[0], np.cumsum(n_faces.astype(np.int64) ** 2)])
        common = int(n_faces[0]) if (n_faces == n_faces[0]).all() else 0
        has_simplices_only = mesh.ranks.min(int(common == mesh.dim + 1))
        self.cfl = SIMPLEX_CFL if has_simplices_only else DEFAULT_CFL
        self.coefficients = _build_coefficients(common, mesh.dim)
        self.leave = _build_leave(common, sharp > 0)
        self.enter = _build_enter(common)

        face = self.stencil.face
        is_boundary = face >= mesh.n_inner
        n_boundary = mesh.n_faces - mesh.n_inner
        self.boundary_side = np.empty(n_boundary, np.intp)
        self.boundary_side[face[is_boundary] - mesh.n_inner] = np.flatnonzero(is_boundary)

        self.moved = np.zeros(self.outer + n_boundary)
        self.amount = np.empty(len(face))
        self.half = np.empty(len(face), np.float32)
        self.matrix = np.empty(self.square_start[-1], np.float32)
        self._count = 0
        self._geometry: Any = None

    def rate(self, U: Array) -> float:
        """The largest rate at which a cell of this rank is emptied: steps with tau rate <= 1 are
        positive.
        """
        s = self.stencil
        return _find_rate(U, self.mesh.volume, s.start, s.face, s.sign)

    def start(self, rho: Array) -> None:
        """Take the largest density of rho (n_cells,), relative to which others are flat."""
        self.most = float(self.mesh.ranks.max(rho.max(initial=0.0)))

    def prepare(self, U: Array, tau: float, velocity: Callable[[], Array]) -> None:
        """Coefficients for the fluxes U (n_faces,), the step tau, and velocity() (dim, n_faces).

        The geometry is in single precision, as it only steers the limiter; the volumes that move
        are in double precision.
        """
        s = self.stencil
        self.coefficients(
            U,
            tau,
            velocity(),
            s.start,
            s.face,
            s.sign,
            *self._find_geometry(),
            self.weight,
            self.square_start,
            self.amount,
            self.half,
            self.matrix,
        )
        self.entering = np.maximum(-tau * U[self.mesh.n_inner :], 0.0)

        J = companion_volume(tau / 2 * self.mesh.divergence(U))
        self.is_stretched = bool((J != 1).any())
        self.J = J
        self.held = J * self.mesh.volume if self.is_stretched else self.mesh.volume

    def _find_geometry(self):
        """The stencil's (offset, span), which are kept from the second time on: steady flows use
        them once.
        """
        self._count += 1
        geometry = self._geometry or (self.stencil.offset, self.stencil.span)
        if self._count > 1:
            self._geometry = geometry
        return geometry

    def step(self, rho: Array, entering: Array, count: int) -> tuple[Array, Array]:
        """The new rho (n_cells,), and what left through each boundary face (n_faces - n_inner,).

        entering (n_faces - n_inner,) : the density of what enters there
        count : the number of the step, which plays no role
        """
        mesh = self.mesh
        s = self.stencil
        q = rho / self.J if self.is_stretched else rho
        new = np.empty(self.mesh.n_cells)
        self.leave(
            rho,
            mesh.with_ghosts(q),
            mesh.volume,
            self.held,
            s.start,
            s.neighbour,
            self.square_start,
            self.matrix,
            self.half,
            self.amount,
            self.sharp,
            self.most,
            self.moved,
            new,
        )
        self.exchange(self.moved)
        self.moved[self.outer :] = self.entering * entering
        self.enter(mesh.volume, s.start, self.opposite, self.moved, new)
        return new, self.moved[self.boundary_side] - self.moved[self.outer :]


def companion_volume(growth: Array) -> Array:
    """J for tau/2 div u in the cells: the volume in the middle of a step, 1 at its beginning."""
    stretches = np.abs(growth) > NEGLIGIBLE_GROWTH
    if not stretches.any():
        return np.ones_like(growth)
    return np.where(stretches, np.maximum(1 + growth, LEAST_COMPANION), 1.0)


@numba.njit(cache=True, error_model="numpy")
def _find_rate(U, volume, start, face, sign):
    """The largest max(o, (o + i) / 2) of the module."""
    most = 0.0
    for cell in range(len(volume)):
        out = 0.0
        growth = 0.0
        for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            leaving = sign[s] * U[face[s]]
            out += max(leaving, 0.0)
            growth += leaving / 2
        if -growth > NEGLIGIBLE_GROWTH * out:
            out -= growth
        most = max(most, out / volume[cell])
    return most


@lru_cache
def _build_coefficients(n_faces, dim):
    """The kernel that prepares a step.

    It finds the volume that leaves through each side, (1 - nu)/2, and steps 1 and 2 as one small
    matrix for each cell, a_s = sum over its sides j of matrix[s, j] (rho_j - rho_K).

    Constants of the compilation: the number of faces of every cell (0: they differ), and the
    dimension.
    """

    @numba.njit(cache=True, error_model="numpy")
    def coefficients(
        U: Array,
        tau: float,
        velocity: Array,
        start: IntArray,
        face: IntArray,
        sign: Array,
        offset: Array,
        span: Array,
        weight: Array,
        square_start: IntArray,
        amount: Array,
        half: Array,
        matrix: Array,
    ) -> None:
        reach = np.empty(dim)
        for cell in range(len(start) - 1):
            first = numba.uintp(start[cell])
            entry = numba.uintp(square_start[cell])
            n = n_faces if n_faces else start[cell + 1] - start[cell]
            for i in range(n):
                s = first + numba.uintp(i)
                f = face[s]
                along = 0.0
                square = 0.0
                for axis in range(dim):
                    along += tau * velocity[axis, f] * span[axis, s]
                    square += span[axis, s] ** 2
                nu = min(max(along / square, 0.0), 1.0) if square > 0 else 0.0
                blend = 0.0 if n == dim + 1 or square == 0 else (1 - nu) * (1 - 2 * nu) / 6
                amount[s] = max(tau * sign[s] * U[f], 0.0)
                half[s] = (1 - nu) / 2
                for axis in range(dim):
                    reach[axis] = (
                        offset[axis, s] - tau * velocity[axis, f] / 2 - blend * span[axis, s]
                    )
                for j in range(n):
                    value = blend if i == j else 0.0
                    for axis in range(dim):
                        value += reach[axis] * weight[axis, first + numba.uintp(j)]
                    matrix[entry + numba.uintp(j)] = value
                entry += numba.uintp(n)

    return coefficients


@lru_cache
def _build_leave(n_faces, sharpened):
    """The kernel of the scheme: what remains in each cell, and the mass *moved* through its sides.

    held (n_cells,) : J |K|

    Constants of the compilation: the number of faces of every cell (0: they differ), and whether to
    sharpen.
    """

    @numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
    def leave(
        rho: Array,
        q: Array,
        volume: Array,
        held: Array,
        start: IntArray,
        neighbour: IntArray,
        square_start: IntArray,
        matrix: Array,
        half: Array,
        amount: Array,
        sharp: float,
        most: float,
        moved: Array,
        new: Array,
    ) -> None:
        most_faces = n_faces if n_faces else (start[1:] - start[:-1]).max()
        difference = np.empty(most_faces)
        correction = np.empty(most_faces)
        for cell in range(len(new)):
            first = numba.uintp(n_faces * cell if n_faces else start[cell])
            n = n_faces if n_faces else start[cell + 1] - start[cell]
            entry = numba.uintp(n_faces * n_faces * cell if n_faces else square_start[cell])
            value = q[cell]
            low = 0.0
            high = 0.0
            for i in range(n):
                d = q[neighbour[first + numba.uintp(i)]] - value
                difference[i] = d
                low = min(low, d)
                high = max(high, d)
            flat = high - low <= FLAT_RANGE * most
            low = max(low, -value)  # m >= 0

            total = 0.0  # J |K| Lambda
            excess = 0.0  # J |K| S
            if not flat:
                for i in range(n):
                    s = first + numba.uintp(i)
                    a = 0.0
                    for j in range(n):
                        a += matrix[entry + numba.uintp(j)] * difference[j]
                    entry += numba.uintp(n)
                    if sharpened:
                        a = _sharpen(a, half[s] * difference[i], sharp)
                    a = min(max(a, low), high)
                    correction[i] = a
                    total += amount[s]
                    excess += amount[s] * a

            rest = max(held[cell] - total, 0.0)
            bound = rest * (-low if excess > 0 else high)
            scale = bound / abs(excess) if abs(excess) > bound else 1.0  # phi

            out = 0.0
            for i in range(n):
                s = first + numba.uintp(i)
                mass = amount[s] * (value if flat else max(value + scale * correction[i], 0.0))
                moved[s] = mass
                out += mass
            left = max(rho[cell] - out / volume[cell], 0.0)  # only removes round-off
            new[cell] = left if left > SMALLEST_DENSITY else 0.0

    return leave


@numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
def _sharpen(a, h, beta):
    """Blend of a with the superbee value where that is steeper (Roe 1986).

    r = (3 a/h - 1)/2 is the slope of the other side relative to this one. There are selections
    instead of branches, which no processor could predict.
    """
    size = abs(a)
    step = abs(h)
    steep = 1.5 * size - 0.5 * step  # r |h|
    superbee = max(min(2 * steep, step), min(steep, 2 * step))
    blend = size + beta * max(superbee - size, 0.0) if a * h > 0 else size
    return blend if a > 0 else -blend


@lru_cache
def _build_enter(n_faces):
    """The kernel that adds what comes in.

    It comes after what leaves, so that no value falls below zero by round-off.
    """

    @numba.njit(cache=True, error_model="numpy")
    def enter(
        volume: Array,
        start: IntArray,
        opposite: IntArray,
        moved: Array,
        new: Array,
    ) -> None:
        for cell in range(len(new)):
            first = numba.uintp(n_faces * cell if n_faces else start[cell])
            gained = 0.0
            for i in range(n_faces if n_faces else start[cell + 1] - start[cell]):
                gained += moved[opposite[first + numba.uintp(i)]]
            new[cell] += gained / volume[cell]

    return enter
