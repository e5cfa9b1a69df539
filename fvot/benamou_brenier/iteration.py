"""The iteration on one level: both halves in turn, while the penalty grows.

First phi from (Lambda* Lambda) phi = Lambda* (2 q - z) + L' / r, see `poisson` and `multigrid`; then
z += alpha (Lambda phi - q) and q = P(z), see `projection`, and `terminal` for the copy of phi^N.
"""
from functools import partial
from typing import NamedTuple

import numpy as np

from . import penalty
from .multigrid import MultigridPoisson
from .poisson import CosinePoisson
from .projection import State
from .terminal import EndState

ROUGH = 0.75            # part of the iterations in single precision, where cosine transforms are at work on one rank
RAMP = 100              # the penalty r at the end over that at the beginning
RELAXATION = 1.8        # alpha


class Start(NamedTuple):
    """Where an iteration begins: phi, rho (None: from nothing), the mass times the square of the speed with which what
    moves does so (W2^2, if all of it moves), and the best eps of an upper bound so far.

    done, r : iterations that a ramp has behind it, and its penalty then, where it goes on from a checkpoint
    """

    phi: np.ndarray | None
    rho: np.ndarray | None
    square: float
    eps: float | None
    done: int = 0
    r: float | None = None


def iterated(problem, rho0, rho1, terminal, start, sigma, n_iterations, dtype, progress):
    """(phi (n_cells, N + 1), rho (n_patches, N), density at the end (n_patches,)) after n_iterations from a `Start` on.

    rho1 : the density at the end; with a `Terminal`, a first idea of it, else None is returned for it
    sigma : (n_patches,) the local penalty, None for 1
    progress : called with the number of iterations so far, the penalty r, and a function that returns what this one does
    """
    mesh, source = problem.mesh, problem.source(rho0, rho1)[:, [0, -1]]
    theta, r = penalty.theta(mesh, rho0, rho1, start.square), start.r or penalty.first(mesh, rho0, rho1)
    state, end, metric = State(problem, theta, dtype, sigma), None, 0.0
    if start.phi is not None:
        state.start(start.phi, start.rho, r)
    if terminal is not None:
        source[:, 1], metric = 0, terminal.metric(problem.average(rho1), theta)
        end = EndState(terminal, problem.average(rho1), metric, state.sigma, r)
    phi = start.phi

    def found():
        return phi.astype(float), r * state.sigma[:, None] * state.l, None if end is None else end.rho1
    if start.done >= n_iterations:          # a run that was at its end, asked again
        return found()
    cosines = sigma is None and has_cosines(mesh)
    make = CosinePoisson if cosines else partial(MultigridPoisson, steps=penalty.steps(mesh, rho0, rho1, start.square))
    rough = int(ROUGH * n_iterations) if cosines and terminal is None and not start.done and penalty.far(
        mesh, rho0, rho1, start.square) else 0
    if rough:
        state.to(np.float32)
    poisson = make(problem, theta, state.dtype, sigma, metric)
    rhs, grow = state.right_hand_side(), RAMP**(1 / max(n_iterations - 1, 1))
    if end is not None:
        rhs[:, -1] += end.right_hand_side()
    for k in range(start.done, n_iterations):
        if k == rough > 0:          # what comes now forgets the round-off so far; several ranks would not agree to 1e-8
            state.to(dtype)
            rhs, poisson = rhs.astype(dtype), make(problem, theta, dtype, sigma, metric)
        rhs[:, [0, -1]] += source / r
        phi = poisson(rhs)
        kappa = grow if k < n_iterations - 1 else 1.0
        rhs, r = state.sweep(phi, RELAXATION, kappa), r * kappa
        if end is not None:
            rhs[:, -1] += end.sweep(phi[:, -1], RELAXATION, kappa)
        progress(k + 1, r, found)
    return found()


def has_cosines(mesh):
    """Whether cosine transforms solve the linear half: on Cartesian meshes of one rank, with a uniform penalty."""
    return mesh.block is not None and mesh.ranks.size == 1
