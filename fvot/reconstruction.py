"""Gradients and limited face values on any mesh: the one-step `muscl` scheme.

U_s > 0 is the volume that flows per time from cell K through its face s to the neighbour L, lambda_s = tau U_s / |K|,
Lambda = sum of lambda over the faces by which K is left. Every face gets its value from its upwind cell K:

1. g = least-squares gradient over the face neighbours; m, M = smallest and largest value among them and K, m >= 0
2. a_s = g.(x_s - x_K - tau/2 u_s) + w_s [(rho_L - rho_K) - g.(x_L - x_K)]: the mean of the linear function over what
   leaves during the step (Hancock), with the third-order blend w = (1 - nu)(1 - 2 nu)/6 on cells that are no simplices,
   nu = tau u_s.(x_L - x_K) / |x_L - x_K|^2 (Leonard 1979)
3. a_s is clamped to [m - rho_K, M - rho_K], then all a_s of the cell are scaled by one factor phi <= 1, so that what
   remains in the cell, rho* = rho_K - phi S / (1 - Lambda) with S = sum lambda_s a_s, lies in [m, M] too

Then rho_K(t + tau) = (1 - Lambda) rho* + what comes in: a combination with non-negative weights of non-negative values,
positive for Lambda <= 1 on any cell shape; and if div u = 0, a convex one: a local maximum principle.
"""
from functools import lru_cache

import numba
import numpy as np

MOST_FACES = 128        # of a cell


class Stencil:
    """The faces of each cell and what lies behind them, in CSR form: cell K has the entries start[K]:start[K + 1].

    neighbour, face (n,) : cell behind the face (K itself at the boundary), and number of the face
    sign (n,) : +1 where the face's normal leaves K, -1 where it enters
    offset, span (dim, n) : from the centroid of K to that of the face, and to that of the neighbour (0 at the boundary)
    """

    def __init__(self, mesh):
        n = mesh.n_inner
        every = np.arange(mesh.n_faces)
        owned_right = np.flatnonzero(mesh.right[:n] < mesh.n_cells)
        owned_left = np.flatnonzero(mesh.left < mesh.n_cells)
        cell = np.concatenate([mesh.left[owned_left], mesh.right[owned_right]])
        order = np.argsort(cell, kind="stable")
        self.face = np.concatenate([every[owned_left], owned_right])[order].astype(np.int32)
        self.sign = np.repeat([1.0, -1.0], [len(owned_left), len(owned_right)])[order]
        self.start = np.searchsorted(cell[order], np.arange(mesh.n_cells + 1)).astype(np.int32)
        self.cell = cell[order]
        leaves = self.sign > 0
        behind = np.where(leaves, mesh.right[self.face], mesh.left[self.face])
        self.neighbour = np.where(behind < 0, self.cell, behind).astype(np.int32)
        self.offset = np.where(leaves, mesh.left_offset[:, self.face], mesh.right_offset[:, self.face])
        beyond = np.where(leaves, mesh.right_offset[:, self.face], mesh.left_offset[:, self.face])
        self.span = np.where(behind < 0, 0.0, self.offset - beyond)

    def cell_sum(self, values):
        """Sums (n_cells,) over the faces of each cell of values (n,)."""
        return np.add.reduceat(values, self.start[:-1])


def outflow_rate(mesh, a, b):
    """The largest rate at which a cell of this rank is emptied by fluxes a rho_left - b rho_right."""
    n = mesh.n_inner
    out = np.bincount(mesh.left, a, mesh.n_local) + np.bincount(mesh.right[:n], b[:n], mesh.n_local)
    return float((out[:mesh.n_cells] / mesh.volume).max(initial=0))


def gradient_weights(stencil):
    """W (dim, n): the least-squares gradient of cell K is the sum of W_s (rho_L - rho_K), residuals weighted with 1/distance.

    A cell with fewer neighbours than dimensions gets the shortest such gradient.
    """
    span = stencil.span
    dim, square = len(span), np.einsum("in,in->n", span, span)
    weight = np.divide(1.0, square, out=np.zeros_like(square), where=square > 0)
    normal = np.stack([[stencil.cell_sum(weight * span[i] * span[j]) for j in range(dim)] for i in range(dim)])
    trace = np.maximum(np.trace(normal), 1.0)           # 1: a cell without neighbours
    inverse = np.linalg.inv((normal + 1e-12 * trace * np.eye(dim)[:, :, None]).transpose(2, 0, 1))
    return np.einsum("nij,jn->in", inverse[stencil.cell], weight * span)


class LimitedFaces:
    """The `muscl` step on a mesh: `prepare` for face fluxes and a step size, then `step` as often as they hold."""

    def __init__(self, mesh, sharp):
        self.mesh, self.sharp = mesh, sharp
        self.stencil = Stencil(mesh)
        self.weight = gradient_weights(self.stencil).astype(np.float32)
        n_faces = np.diff(self.stencil.start)
        self.simplex = np.repeat(n_faces == mesh.dim + 1, n_faces)
        self.flux, self.arrived = np.zeros(mesh.n_faces), np.zeros(mesh.n_faces)

    def rate(self, U):
        """The largest rate at which a cell of this rank is emptied: steps with tau rate <= 1 are positive."""
        return outflow_rate(self.mesh, np.maximum(U, 0), np.maximum(-U, 0))

    def prepare(self, U, tau, velocity):
        """Coefficients for fluxes U (n_faces,), the step tau, and velocity() (dim, n_faces) at the faces.

        Geometry in single precision (it only steers the limiter), the fractions lambda in double.
        """
        s, volume = self.stencil, self.mesh.volume
        outward = s.sign * U[s.face]
        self.tau, self.U = tau, U
        self.leaving = np.maximum(tau * outward / volume[s.cell], 0.0)
        step = tau * velocity()[:, s.face]
        square = np.einsum("in,in->n", s.span, s.span)
        nu = np.einsum("in,in->n", step, s.span) / np.where(square > 0, square, 1.0)
        nu = np.clip(nu, 0.0, 1.0)
        blend = np.where(self.simplex | (square == 0), 0.0, (1 - nu) * (1 - 2 * nu) / 6)
        self.reach = (s.offset - step / 2 - blend * s.span).astype(np.float32)
        self.blend, self.half = blend.astype(np.float32), ((1 - nu) / 2).astype(np.float32)
        n = self.mesh.n_inner
        upwind = np.where(U[:n] > 0, self.mesh.left[:n], self.mesh.right[:n])
        self.foreign = np.flatnonzero(upwind >= self.mesh.n_cells)       # faces whose value another rank computes
        self.flux[:] = 0
        enters = outward < 0
        self.entering_face = s.face[enters]
        self.entering_start = np.concatenate([[0], np.cumsum(enters)])[s.start].astype(np.int32)

    def step(self, rho, entering, count):
        """One step: the new rho (n_cells,) and what left through each boundary face (n_faces - n_inner,).

        *entering* (n_faces - n_inner,): density of what enters there; *count*, the number of the step, plays no role.
        """
        mesh, s, n = self.mesh, self.stencil, self.mesh.n_inner
        local = mesh.with_ghosts(rho)
        new = np.empty(mesh.n_cells)
        _leave(mesh.dim)(
            local, s.start, s.neighbour, s.face, self.weight, self.reach, self.blend, self.half, self.leaving,
            mesh.volume, self.sharp, self.flux, new)
        self.flux[self.foreign] = mesh.face_exchange(self.flux, into=self.arrived)[self.foreign]
        inwards = np.flatnonzero(self.U[n:] < 0)
        self.flux[n + inwards] = -self.tau * self.U[n + inwards] * entering[inwards]
        _enter(self.entering_start, self.entering_face, self.flux, mesh.volume, new)
        return new, np.copysign(self.flux[n:], self.U[n:])


@lru_cache
def _leave(dim):
    """The kernel of steps 1 to 3 in *dim* dimensions: what is left in each cell, and what leaves it through each face."""

    @numba.njit(cache=True, error_model="numpy")
    def leave(rho, start, neighbour, face, weight, reach, blend, half, leaving, volume, sharp, flux, new):
        correction = np.empty(MOST_FACES)
        for cell in range(len(new)):
            first, end = start[cell], start[cell + 1]
            value = low = high = rho[cell]
            gx = gy = gz = 0.0
            for s in range(first, end):
                difference = rho[neighbour[s]] - value
                low, high = min(low, value + difference), max(high, value + difference)
                gx += weight[0, s] * difference
                if dim > 1:
                    gy += weight[1, s] * difference
                if dim > 2:
                    gz += weight[2, s] * difference
            low = max(low, 0.0) - value
            high -= value
            total = excess = 0.0                 # Lambda and S
            for s in range(first, end):
                if leaving[s] > 0:
                    a = gx * reach[0, s] + blend[s] * (rho[neighbour[s]] - value)
                    if dim > 1:
                        a += gy * reach[1, s]
                    if dim > 2:
                        a += gz * reach[2, s]
                    if sharp > 0:
                        a = _sharpen(a, half[s] * (rho[neighbour[s]] - value), sharp)
                    a = min(max(a, low), high)
                    correction[s - first] = a
                    total += leaving[s]
                    excess += leaving[s] * a
            rest = 1 - total
            scale = 1.0                          # phi
            if excess > 0 and excess > -low * rest:
                scale = -low * rest / excess
            if excess < 0 and -excess > high * rest:
                scale = -high * rest / excess
            scale = max(scale, 0.0)
            out = 0.0
            for s in range(first, end):
                if leaving[s] > 0:
                    moved = leaving[s] * max(value + scale * correction[s - first], 0.0)
                    flux[face[s]] = moved * volume[cell]
                    out += moved
            new[cell] = max(value - out, 0.0)    # only removes round-off

    return leave


@numba.njit(cache=True, error_model="numpy")
def _sharpen(a, h, beta):
    """Blend of a with the superbee value, where r = (3 a/h - 1)/2 says how steep the other side is (Roe 1986)."""
    if a * h > 0:
        r = 1.5 * a / h - 0.5
        if r > 0:
            return (1 - beta) * a + beta * h * max(min(2 * r, 1.0), min(r, 2.0))
    return a


@numba.njit(cache=True, error_model="numpy")
def _enter(start, face, flux, volume, new):
    """Add what comes in: after what left, so that no value falls below zero by round-off."""
    for cell in range(len(new)):
        gained = 0.0
        for e in range(start[cell], start[cell + 1]):
            gained += flux[face[e]]
        new[cell] += gained / volume[cell]
