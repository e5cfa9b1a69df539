"""The iteration on one level: both halves in turn, while the penalty grows.

First phi from (Lambda* Lambda) phi = Lambda* (2 q - z) + L' / r, see `poisson` and `multigrid`;
then z += alpha (Lambda phi - q) and q = P(z), see `projection`, and `terminal` for the copy of
phi^N.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from . import penalty
from .poisson_cosine import CosinePoisson
from .poisson_multigrid import MultigridPoisson
from .projection import State
from .terminal import EndState

# part of the iterations in single precision, where cosine transforms are at work on one rank
ROUGH = 0.75
RAMP = 100  # the penalty r at the end over that at the beginning
RELAXATION = 1.8  # alpha


class Start(NamedTuple):
    """Where an iteration begins: phi, rho (None: from nothing), the mass times the square of the
    speed with which what moves does so (W2^2, if all of it moves), and the best eps of an upper
    bound so far.

    done, r : iterations that a ramp has behind it, and its penalty then, where it goes on from a
        checkpoint
    """

    phi: np.ndarray | None
    rho: np.ndarray | None
    square: float
    eps: float | None
    done: int = 0
    r: float | None = None


class Iteration:
    """n_iterations on one level, from a `Start` on, while the penalty r grows.

    rho1 : the density at the end; with a `Terminal`, a first idea of it
    sigma : (n_patches,) the local penalty, None for 1
    done : how many there have been
    """

    def __init__(self, disc, rho0, rho1, terminal, start, sigma, n_iterations, dtype):
        mesh = disc.mesh
        self.disc = disc
        self.n_iterations = n_iterations
        self.dtype = dtype
        self.sigma = sigma
        self.phi = start.phi
        self.done = start.done
        self.r = start.r or penalty.first(mesh, rho0, rho1)
        self.theta = penalty.theta(mesh, rho0, rho1, start.square)

        self.state = State(disc, self.theta, dtype, sigma)
        if start.phi is not None:
            self.state.start(start.phi, start.rho, self.r)

        self.source = disc.source(rho0, rho1)[:, [0, -1]]
        self.end = None
        self.metric = 0.0
        if terminal is not None:
            self.source[:, 1] = 0
            self.metric = terminal.metric(disc.average(rho1), self.theta)
            self.end = EndState(terminal, disc.average(rho1), self.metric, self.state.sigma, self.r)

        self.steps = partial(penalty.steps, mesh, rho0, rho1, start.square)
        cosines = sigma is None and has_cosines(mesh)
        far = (
            cosines
            and terminal is None
            and not start.done
            and penalty.far(mesh, rho0, rho1, start.square)
        )
        self.cosines = cosines
        self.n_rough = int(ROUGH * n_iterations) if far else 0

    def run(self):
        """Iterate; yields the number of iterations after each."""
        if self.done >= self.n_iterations:  # a run that was at its end, asked again
            return
        state = self.state
        end = self.end
        if self.n_rough:
            state.to(np.float32)
        poisson = self._poisson(state.dtype)
        rhs = state.right_hand_side()
        if end is not None:
            rhs[:, -1] += end.right_hand_side()
        growth = RAMP ** (1 / max(self.n_iterations - 1, 1))

        for k in range(self.done, self.n_iterations):
            if (
                k == self.n_rough > 0
            ):  # what comes now forgets the round-off so far; several ranks would not agree to 1e-8
                state.to(self.dtype)
                rhs = rhs.astype(self.dtype)
                poisson = self._poisson(self.dtype)
            rhs[:, [0, -1]] += self.source / self.r
            self.phi = poisson(rhs)

            kappa = growth if k < self.n_iterations - 1 else 1.0
            rhs = state.sweep(self.phi, RELAXATION, kappa)
            self.r *= kappa
            if end is not None:
                rhs[:, -1] += end.sweep(self.phi[:, -1], RELAXATION, kappa)
            self.done = k + 1
            yield self.done

    def _poisson(self, dtype):
        """The linear half."""
        disc = self.disc
        theta = self.theta
        sigma = self.sigma
        metric = self.metric
        if self.cosines:
            return CosinePoisson(disc, theta, dtype, sigma, metric)
        return MultigridPoisson(disc, theta, dtype, sigma, metric, steps=self.steps())

    def path(self):
        """(phi (n_cells, N + 1), rho (n_patches, N), density at the end (n_patches,), None without
        a `Terminal`) so far.
        """
        rho = self.r * self.state.sigma[:, None] * self.state.l
        return self.phi.astype(float), rho, None if self.end is None else self.end.rho1


def has_cosines(mesh):
    """Whether cosine transforms solve the linear half: on Cartesian meshes of one rank, with a
    uniform penalty.
    """
    return mesh.block is not None and mesh.ranks.size == 1
