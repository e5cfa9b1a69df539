"""The parameters of the iteration: theta, and the penalty r sigma_P.

theta, the weight of changes in time against those in space, is about the time in which mass moves
as far as it must, or by its own width, if that is less.

r sigma_P is a density: large where mass is dense, so that thin tails converge as fast as peaks.

r alone must suit the peaks, and a tail that is thinner than r by orders of magnitude then takes as
many times longer. With sigma_P near the density itself (its largest value in time, known from the
coarser level), gaps of Gaussians and round corners are two to ten times smaller after as many
iterations. On coarser levels, where the density is not yet known, sigma is 1.
"""

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from .discretisation import Discretisation
from .ends import Ends

# theta in units of sqrt(mass) / W2.
THETA_SCALE = 1.3

# The largest theta, in units of 1 / width.
MAX_THETA_SCALE = 2.0

# The width in units of W2 above which theta may be larger: hardly anything moves.
SHORT_MOVE_RATIO = 100

# The width in units of W2 from which multigrid takes two steps in each iteration.
TWO_STEP_RATIO = 8

# r at the beginning, in units of the concentration.
INITIAL_PENALTY = 0.1

# theta in units of 1 / (the extent of the masses) where mass may grow.
GROWING_THETA_SCALE = 2.0

# r at the beginning, in units of the concentration, where mass may grow: the density of what grows
# from nothing is small at first.
GROWING_INITIAL_PENALTY = 3e-3

# Smallest sigma.
SMALLEST_SIGMA = 0.03

# Averages over neighbours that smooth sigma: mass may be some cells away from its place on the
# coarser level.
SMOOTHING_PASSES = 5


def choose_theta(ends: Ends, square: float) -> float:
    """theta, for an estimate *square* of W2^2."""
    slowness = np.sqrt(ends.mass / square)
    if ends.width * slowness > SHORT_MOVE_RATIO:
        return THETA_SCALE * slowness

    return min(THETA_SCALE * slowness, MAX_THETA_SCALE / ends.width)


def choose_multigrid_steps(ends: Ends, square: float) -> int:
    """The steps of multigrid in each iteration."""
    return 1 if ends.width * np.sqrt(ends.mass / square) < TWO_STEP_RATIO else 2


def choose_initial_penalty(ends: Ends) -> float:
    """r at the beginning of a ramp; not less than the mean density."""
    return max(INITIAL_PENALTY * ends.concentration, ends.mean)


def choose_growing_theta(ends: Ends) -> float:
    """theta where mass may grow: it is created and destroyed everywhere that mass is."""
    return GROWING_THETA_SCALE / ends.extent


def choose_growing_penalty(ends: Ends) -> float:
    """r at the beginning of a ramp where mass may grow."""
    return GROWING_INITIAL_PENALTY * ends.concentration


def compute_sigma(disc: Discretisation, rho: Array, ends: Ends) -> Array:
    """sigma (n_patches,) from an estimate of the path, rho (n_patches, N)."""
    mesh = disc.mesh
    n = mesh.n_inner
    left, right = mesh.left[:n], mesh.right[:n]
    largest_inside = disc.spread(rho.max(axis=1))
    largest_at_ends = np.maximum(ends.rho0, ends.rho1)
    largest = np.maximum(largest_inside, largest_at_ends)

    n_left = np.bincount(left, minlength=mesh.n_local)
    n_right = np.bincount(right, minlength=mesh.n_local)
    count = 1 + n_left + n_right
    for _ in range(SMOOTHING_PASSES):
        local = mesh.with_ghosts(largest)
        from_right = np.bincount(left, local[right], mesh.n_local)
        from_left = np.bincount(right, local[left], mesh.n_local)
        total = local + from_right + from_left
        largest = (total / count)[: mesh.n_cells]

    return np.maximum(disc.average(largest) / ends.concentration, SMALLEST_SIGMA)
