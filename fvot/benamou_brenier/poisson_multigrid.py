"""The linear half of the iteration on any mesh: conjugate gradients for all modes of time at once.

Each mode k has the equation (K + s_k C) phi_k = f_k, s_k as in `poisson_cosine`, of which `pencils`
has the unknowns and the matrices. They start from the last result, and one V-cycle of multigrid
preconditions them (`multigrid_cycle`): one step is enough in each iteration, and a few are where
cells are thin.

With two-point slopes, each rank solves for the whole mesh and its share of the modes, so that an
iteration sends two messages to every other rank. Where there are more ranks than modes, and with
diamonds, each rank has its part of the mesh.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import DTypeLike

from ..arguments.types import Array
from ..parallel import ColumnDeal
from .diamonds import DiamondDiscretisation
from .discretisation import Discretisation
from .multigrid_cycle import Cycle
from .pencils import DiamondPencil, TwoPointPencil
from .time_basis import time_modes
from .two_point import TwoPointDiscretisation

# Steps for the first right-hand side, which starts from 0.
FIRST_STEPS = 12

# The factor by which the steps of an iteration should reduce the residual, on meshes of any kind:
# thin cells slow multigrid down.
ENOUGH_REDUCTION = 0.35

# The most steps of an iteration: four took 140 iterations in place of 1000, with eight they were as
# many.
MAX_MULTIGRID_STEPS = 4

# Square of the residual, relative to the largest one so far, that is round-off; by bytes of a
# number.
SQUARE_ROUNDING = {4: 1e-12, 8: 1e-24}


class MultigridPoisson:
    """phi = solve(f): steps of conjugate gradients for each f, from the last unknowns on.

    sigma : (n_patches,) the local penalty, None for 1
    end : theta_e^2
    dtype : of all arrays
    steps : for all right-hand sides but the first; one is enough, except where hardly anything
        moves
    """

    def __init__(
        self,
        disc: Discretisation,
        theta: float,
        dtype: DTypeLike = np.float64,
        sigma: Array | None = None,
        end: float = 0.0,
        steps: int = 1,
    ):
        mesh = disc.mesh
        self.ranks = mesh.ranks
        self.steps = steps
        V, shift = time_modes(disc.n_steps, theta, end, disc.slab_weights)
        self.V = V.astype(dtype)
        if sigma is None:
            sigma = np.ones(disc.n_patches)

        self.deal = None
        if is_dealt(disc):
            self.deal = ColumnDeal(self.ranks, mesh.first_row + np.arange(mesh.n_cells))
            shift = shift[self.deal.columns(len(V))]
            self.ranks = self.ranks.alone()
        self.pencil = build_pencil(disc, sigma, shift, dtype)
        self.cycle = Cycle(self.ranks, self.pencil)
        n_modes = len(shift)
        shape = (self.pencil.n_unknowns, n_modes)
        self.unknowns = np.zeros(shape, dtype)
        self.residual = np.zeros(shape, dtype)
        self.image = np.zeros(shape, dtype)
        self.largest = np.zeros(n_modes)
        self.has_started = False

    def __call__(self, f: Array) -> Array:
        """phi (n_points, N + 1) for the right-hand side f (n_points, N + 1)."""
        right_hand_sides = f @ self.V
        if self.deal is not None:
            right_hand_sides = self.deal.collect(right_hand_sides)
        condensed = self.pencil.condense(right_hand_sides)
        self.pencil.residual(self.unknowns, condensed, self.residual)
        if self.has_started:
            self.improve(self.steps)
        else:
            rate = self.improve(FIRST_STEPS)
            if isinstance(self.pencil, DiamondPencil):
                self.steps = max(self.steps, _choose_steps(rate))
        self.has_started = True
        phi = self.pencil.expand(self.unknowns, right_hand_sides)
        if self.deal is not None:
            phi = self.deal.give_back(phi, len(self.V))
        return phi @ self.V.T

    def improve(self, steps: int) -> float:
        """Move `unknowns` and their `residual` by conjugate gradients, for all modes at once.

        Returns the mean factor of a step by which the residual of the slowest mode falls.
        """
        direction = None
        last_square = None
        first_square = None
        for _ in range(steps):
            z = self.cycle(self.residual)
            own_square = _multiply_columns(z, self.residual)
            square = self.ranks.sum(own_square)
            self.largest = np.maximum(self.largest, square)

            # Smaller residuals are round-off.
            rounding = SQUARE_ROUNDING[z.dtype.itemsize]
            is_left = square > rounding * self.largest
            square = np.where(is_left, square, 0.0)
            if direction is None:
                direction = z
                first_square = square
            else:
                growth = _divide(square, last_square)
                direction = z + growth.astype(z.dtype) * direction

            self.pencil.multiply(direction, self.image)
            own_curvature = _multiply_columns(direction, self.image)
            curvature = self.ranks.sum(own_curvature)
            length = _divide(square, curvature).astype(z.dtype)
            _move(length, direction, self.image, self.unknowns, self.residual)
            last_square = square

        reduction = _divide(last_square, first_square).max(initial=0.0)
        return reduction ** (0.5 / max(steps - 1, 1))


def _choose_steps(rate):
    """Steps that make the residual small enough where one reduces it by *rate*."""
    if rate <= ENOUGH_REDUCTION:
        return 1
    if rate >= 1:
        return MAX_MULTIGRID_STEPS
    return min(math.ceil(math.log(ENOUGH_REDUCTION) / math.log(rate)), MAX_MULTIGRID_STEPS)


def _divide(a, b):
    """a / b, 0 where one of them is not positive."""
    divisor = np.where(b > 0, b, np.inf)
    return np.where(a > 0, a / divisor, 0.0)


def is_dealt(disc: Discretisation) -> bool:
    """Whether each rank solves for the whole mesh and its share of the modes."""
    has_modes = disc.mesh.ranks.size <= disc.n_steps + 1
    return isinstance(disc, TwoPointDiscretisation) and has_modes


def build_pencil(
    disc: Discretisation, sigma: Array, shift: Array, dtype: DTypeLike
) -> TwoPointPencil | DiamondPencil:
    """The `Pencil` of a discretisation, for the modes with these shifts."""
    if isinstance(disc, DiamondDiscretisation):
        return DiamondPencil(disc, sigma, shift, dtype)
    assert isinstance(disc, TwoPointDiscretisation)
    return TwoPointPencil(disc, sigma, shift, dtype, is_dealt(disc))


@numba.njit(cache=True, error_model="numpy")
def _multiply_columns(u, v):
    """u.v of each column, (k,), in double precision."""
    out = np.zeros(u.shape[1])
    for i in range(len(u)):
        for j in range(u.shape[1]):
            out[j] += u[i, j] * v[i, j]
    return out


@numba.njit(cache=True, error_model="numpy")
def _move(length, direction, image, phi, residual):
    for i in range(len(phi)):
        for j in range(phi.shape[1]):
            phi[i, j] += length[j] * direction[i, j]
            residual[i, j] -= length[j] * image[i, j]
