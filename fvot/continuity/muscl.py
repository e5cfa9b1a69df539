"""Gradients and limited face values on any mesh: the one-step `muscl` scheme.

U_s > 0 is the volume that flows per time from cell K through its face s to the neighbour L,
lambda_s = tau U_s / |K|, Lambda = sum of lambda over the faces by which K is left. Every face gets
its value from its upwind cell K:

1. g = least-squares gradient over the face neighbours; m, M = smallest and largest value among them
    and K, m >= 0
2. a_s = g.(x_s - x_K - tau/2 u_s) + w_s [(rho_L - rho_K) - g.(x_L - x_K)]: the mean of the linear
   function over what leaves during the step (Hancock), with the third-order blend w = (1 - nu)(1 -
   2 nu)/6 on cells that are no simplices, nu = tau u_s.(x_L - x_K) / |x_L - x_K|^2 (Leonard 1979)
3. a_s is clamped to [m - rho_K, M - rho_K], then all a_s of the cell are scaled by one factor phi
   <= 1, so that what remains in the cell, rho* = rho_K - phi S / (1 - Lambda) with S = sum lambda_s
   a_s, lies in [m, M], too

Then rho_K(t + tau) = (1 - Lambda) rho* + what comes in: a combination with non-negative weights of
non-negative values, positive for Lambda <= 1 on any cell shape. If div u = 0 it is a convex one: a
local maximum principle.

The bound on rho* also is what makes the scheme stable on triangles: with wider bounds, round-off
grows within a hundred steps to what the bounds allow. But where Lambda is near 1, the factor 1 / (1
- Lambda) makes it cut smooth slopes: on uniform triangles the order falls from 2 to 1 between
Lambda = 0.7 and 0.95. Hence `cfl`.
"""

from functools import lru_cache

import numba
import numpy as np

from ..finite_volume.stencil import Stencil, gradient_weights, outflow_rate

TINY = 1e-290  # smaller densities are zero: denormal numbers are slow
# range of neighbours, relative to the largest density, below which a cell needs no gradient
FLAT = 1e-14
SIMPLICES, OTHERS = 0.7, 0.95  # parts of the bound that steps take by default


class LimitedFaces:
    """The `muscl` step on a mesh: `prepare` for face fluxes and a step size, then `step` as often
    as they hold.
    """

    convex = True  # the rate is a convex function of U

    def __init__(self, mesh, sharp):
        self.mesh = mesh
        self.sharp = float(sharp)
        self.stencil = Stencil(mesh)
        self.weight = gradient_weights(self.stencil)
        self.opposite, self.exchange, self.outer = self.stencil.opposite(mesh)
        n_faces = np.diff(self.stencil.start)
        self.square_start = np.concatenate([[0], np.cumsum(n_faces.astype(np.int64) ** 2)])
        alike = int(n_faces[0]) if (n_faces == n_faces[0]).all() else 0
        self.cfl = SIMPLICES if mesh.ranks.min(int(alike == mesh.dim + 1)) else OTHERS
        self.coefficients = _coefficients(alike, mesh.dim)
        self.leave = _leave(alike, sharp > 0)
        self.enter = _enter(alike)
        n = len(self.stencil.face)
        inner = mesh.n_inner
        self.boundary_side = np.empty(mesh.n_faces - inner, np.intp)
        self.boundary_side[self.stencil.face[self.stencil.face >= inner] - inner] = np.flatnonzero(
            self.stencil.face >= inner
        )
        self.moved = np.zeros(self.outer + mesh.n_faces - inner)
        self.amount = np.empty(n)
        self.half = np.empty(n, np.float32)
        self.matrix = np.empty(self.square_start[-1], np.float32)

    def rate(self, U):
        """The largest rate at which a cell of this rank is emptied: steps with tau rate <= 1 are
        positive.
        """
        s = self.stencil
        return outflow_rate(U, -U, self.mesh.volume, s.start, s.face, s.sign)

    def start(self, rho):
        """Take the largest density of rho (n_cells,), beside which others are flat."""
        self.most = float(self.mesh.ranks.max(rho.max(initial=0.0)))

    def prepare(self, U, tau, velocity):
        """Coefficients for fluxes U (n_faces,), the step tau, and velocity() (dim, n_faces) at the
        faces.

        Geometry in single precision (it only steers the limiter), the volumes that move in double.
        """
        s = self.stencil
        self.coefficients(
            U,
            tau,
            velocity(),
            s.start,
            s.face,
            s.sign,
            s.offset,
            s.span,
            self.weight,
            self.square_start,
            self.amount,
            self.half,
            self.matrix,
        )
        self.entering = np.maximum(-tau * U[self.mesh.n_inner :], 0.0)

    def step(self, rho, entering, count):
        """One step: the new rho (n_cells,) and what left through each boundary face (n_faces -
        n_inner,).

        *entering* (n_faces - n_inner,): density of what enters there; *count*, the number of the
        step, plays no role.
        """
        mesh = self.mesh
        s = self.stencil
        new = np.empty(self.mesh.n_cells)
        self.leave(
            mesh.with_ghosts(rho),
            mesh.volume,
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


@lru_cache
def _coefficients(n_faces, dim):
    """The kernel that prepares: the volume that leaves through each side, (1 - nu)/2, and steps 1
    and 2 as one small matrix for each cell, a_s = sum over its sides j of matrix[s, j] (rho_j -
    rho_K).

    Constants of the compilation: the number of faces of every cell (0: they differ), and the
    dimension.
    """

    @numba.njit(cache=True, error_model="numpy")
    def coefficients(
        U,
        tau,
        velocity,
        start,
        face,
        sign,
        offset,
        span,
        weight,
        square_start,
        amount,
        half,
        matrix,
    ):
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
def _leave(n_faces, sharpened):
    """The kernel of the scheme: what is left in each cell, and the mass *moved* through each of its
    sides.

    Constants of the compilation: the number of faces of every cell (0: they differ), and whether to
    sharpen.
    """

    @numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
    def leave(
        rho, volume, start, neighbour, square_start, matrix, half, amount, sharp, most, moved, new
    ):
        most_faces = n_faces if n_faces else (start[1:] - start[:-1]).max()
        difference = np.empty(most_faces)
        correction = np.empty(most_faces)
        for cell in range(len(new)):
            first = numba.uintp(n_faces * cell if n_faces else start[cell])
            n = n_faces if n_faces else start[cell + 1] - start[cell]
            entry = numba.uintp(n_faces * n_faces * cell if n_faces else square_start[cell])
            value = rho[cell]
            low = 0.0
            high = 0.0
            for i in range(n):
                d = rho[neighbour[first + numba.uintp(i)]] - value
                difference[i] = d
                low, high = min(low, d), max(high, d)
            flat = high - low <= FLAT * most
            low = max(low, -value)  # m >= 0
            total = excess = 0.0  # |K| Lambda and |K| S
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
            rest = max(volume[cell] - total, 0.0)
            bound = rest * (-low if excess > 0 else high)
            scale = bound / abs(excess) if abs(excess) > bound else 1.0  # phi
            out = 0.0
            for i in range(n):
                s = first + numba.uintp(i)
                mass = amount[s] * (value if flat else max(value + scale * correction[i], 0.0))
                moved[s] = mass
                out += mass
            left = max(value - out / volume[cell], 0.0)  # only removes round-off
            new[cell] = left if left > TINY else 0.0

    return leave


@numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
def _sharpen(a, h, beta):
    """Blend of a with the superbee value where that is steeper; r = (3 a/h - 1)/2 says how steep
    the other side is (Roe 1986).

    Selections instead of branches, which no processor could predict.
    """
    size = abs(a)
    step = abs(h)
    steep = 1.5 * size - 0.5 * step  # r |h|
    superbee = max(min(2 * steep, step), min(steep, 2 * step))
    blend = size + beta * max(superbee - size, 0.0) if a * h > 0 else size
    return blend if a > 0 else -blend


@lru_cache
def _enter(n_faces):
    """The kernel that adds what comes in: after what left, so that no value falls below zero by
    round-off.
    """

    @numba.njit(cache=True, error_model="numpy")
    def enter(volume, start, opposite, moved, new):
        for cell in range(len(new)):
            first = numba.uintp(n_faces * cell if n_faces else start[cell])
            gained = 0.0
            for i in range(n_faces if n_faces else start[cell + 1] - start[cell]):
                gained += moved[opposite[first + numba.uintp(i)]]
            new[cell] += gained / volume[cell]

    return enter
