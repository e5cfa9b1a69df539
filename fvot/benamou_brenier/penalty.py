"""The parameters of the iteration: theta, and the penalty r sigma_P.

theta, the weight of changes in time against those in space, is about the time in which mass moves
by what it must move, or by its own width, if that is less.

r sigma_P is a density: large where mass is dense, so that thin tails are found as soon as peaks.

r alone must suit the peaks, and a tail that is thinner than r by orders of magnitude then takes as
many times longer. With sigma_P near the density itself (its largest value in time, as the coarser
level knows it), gaps of Gaussians and round corners are two to ten times smaller after as many
iterations. On coarser levels, which do not know it yet, sigma is 1.
"""

import numpy as np

METRIC = 1.3  # theta in units of sqrt(mass) / W2,
WIDTH = 2.0  # and the most that it may be, in units of 1 / width,
CLOSE = 100  # unless the width is so many times W2 that nothing seems to move
STIFF = 8  # the width in units of W2 from which multigrid takes two steps in each iteration
FAR = 0.3  # W2 in units of the width from which small gaps are not asked for
START = 0.1  # r at the beginning, in units of the concentration
FLOOR = 0.03  # smallest sigma
PASSES = 5  # means over neighbours: mass may be some cells from where the coarser level has it
THIN = 1e-2  # smallest density over the mean from which a uniform penalty is better
DENSE = 18.0  # concentration over the mean up to which it is nearly as good


def theta(mesh, rho0, rho1, square):
    """theta, for a first idea *square* of W2^2."""
    slowness = np.sqrt(mesh.integrate(rho0) / square)
    side = width(mesh, rho0, rho1)
    return METRIC * slowness if side * slowness > CLOSE else min(METRIC * slowness, WIDTH / side)


def concentration(mesh, rho0, rho1):
    """int rho^2 / int rho, the density that a particle sees on average: the mean of both densities."""
    return sum(mesh.integrate(rho**2) / mesh.integrate(rho) for rho in (rho0, rho1)) / 2


def width(mesh, rho0, rho1):
    """The side of a cube that would have all mass, as dense as a particle sees it on average."""
    return (mesh.integrate(rho0) / concentration(mesh, rho0, rho1)) ** (1 / mesh.dim)


def steps(mesh, rho0, rho1, square):
    """Steps of multigrid in each iteration."""
    return 1 if width(mesh, rho0, rho1) * np.sqrt(mesh.integrate(rho0) / square) < STIFF else 2


def far(mesh, rho0, rho1, square):
    """Whether densities vanish somewhere, and mass moves far: single precision will do for long."""
    return square > (FAR * width(mesh, rho0, rho1)) ** 2 * mesh.integrate(
        rho0
    ) and not vanish_nowhere(mesh, rho0, rho1)


def vanish_nowhere(mesh, rho0, rho1):
    """Whether both densities are well above 0 in all cells: the iteration then converges fast, and
    has no use for sigma.
    """
    least = mesh.ranks.min(min(rho0.min(initial=np.inf), rho1.min(initial=np.inf)))
    return least > THIN * mesh.integrate(rho0) / mesh.integrate(1.0)


def are_spread(mesh, rho0, rho1):
    """Whether the densities are so little concentrated that a uniform penalty is worth a try, where
    it makes steps cheap.
    """
    return concentration(mesh, rho0, rho1) < DENSE * mesh.integrate(rho0) / mesh.integrate(1.0)


def first(mesh, rho0, rho1):
    """r at the beginning of a ramp; not less than the mean density."""
    return max(START * concentration(mesh, rho0, rho1), mesh.integrate(rho0) / mesh.integrate(1.0))


def local(disc, rho, rho0, rho1):
    """sigma (n_patches,) from a first idea of the path, rho (n_patches, N), and the densities at
    its ends (n_cells,).
    """
    mesh = disc.mesh
    n = disc.mesh.n_inner
    left, right = mesh.left[:n], mesh.right[:n]
    most = np.maximum(disc.spread(rho.max(axis=1)), np.maximum(rho0, rho1))
    count = (
        1 + np.bincount(left, minlength=mesh.n_local) + np.bincount(right, minlength=mesh.n_local)
    )
    for _ in range(PASSES):
        local = mesh.with_ghosts(most)
        total = (
            local
            + np.bincount(left, local[right], mesh.n_local)
            + np.bincount(right, local[left], mesh.n_local)
        )
        most = (total / count)[: mesh.n_cells]
    return np.maximum(disc.average(most) / concentration(mesh, rho0, rho1), FLOOR)
