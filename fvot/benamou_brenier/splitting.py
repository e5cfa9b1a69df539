"""The iteration on one level: both halves in turn, while the penalty grows.

First phi from (Lambda* Lambda) phi = Lambda* (2 q - z) + L' / r, see `poisson_cosine` and
`poisson_multigrid`; then z += alpha (Lambda phi - q) and q = P(z), see `projection`, and `terminal`
for the copy of phi^N.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from ..arguments.types import Array
from . import penalty
from .discretisation import Discretisation
from .ends import Ends
from .growth import TotalVariation
from .poisson_cosine import CosinePoisson
from .poisson_multigrid import MultigridPoisson
from .projection import build_state
from .source_state import SourceState
from .terminal import EndState, Terminal
from .two_point import TwoPointDiscretisation

# Ranks for each mode of time up to which cosine transforms are faster than multigrid, though some
# ranks then wait.
MOST_RANKS_PER_MODE = 4

# The penalty r at the end over that at the beginning.
PENALTY_GROWTH = 100.0

# The same where mass may grow: densities of many sizes, in time, too.
GROWING_PENALTY_GROWTH = 1e4

# Over-relaxation alpha.
RELAXATION = 1.8


class Start(NamedTuple):
    """Where an iteration begins.

    phi, rho : both None: from 0
    square : the mass times the square of the speed of the mass that moves (W2^2, if all of it
        moves)
    eps : the best eps of an upper bound so far
    source : zeta (n_cells, N + 1) where growth costs kappa |zeta|, if it is known
    done, r : the iterations of a ramp behind it and the penalty then, where a run continues from a
        checkpoint
    """

    phi: Array | None
    rho: Array | None
    square: float
    eps: float | None
    source: Array | None = None
    done: int = 0
    r: float | None = None


class Iteration:
    """n_iterations on one level, from a `Start` on, while the penalty r grows.

    sigma : (n_patches,) the local penalty, None for 1
    done : the number of iterations so far
    """

    def __init__(
        self,
        disc: Discretisation,
        ends: Ends,
        terminal: Terminal | None,
        start: Start,
        sigma: Array | None,
        n_iterations: int,
        dtype: DTypeLike,
    ):
        self.disc = disc
        self.n_iterations = n_iterations
        self.dtype = dtype
        self.sigma = sigma
        self.phi: Any = start.phi
        self.done = start.done
        if disc.growth is None:
            self.r = start.r or penalty.choose_initial_penalty(ends)
            self.theta = penalty.choose_theta(ends, start.square)
            self.penalty_growth = PENALTY_GROWTH
        else:
            self.r = start.r or penalty.choose_growing_penalty(ends)
            self.theta = penalty.choose_growing_theta(ends)
            self.penalty_growth = GROWING_PENALTY_GROWTH

        self.state = build_state(disc, self.theta, dtype, sigma)
        if start.phi is not None and start.rho is not None:
            self.state.start(start.phi, start.rho, self.r)

        self.source = disc.source(ends)[:, [0, -1]]
        self.end = None
        self.metric = 0.0
        if terminal is not None:
            rho1 = disc.average(ends.rho1)
            self.source[:, 1] = 0
            self.metric = terminal.metric(rho1, self.theta)
            self.end = EndState(terminal, rho1, self.metric, self.state.sigma, self.r)

        self.sources = None
        if isinstance(disc.growth, TotalVariation):
            self.sources = SourceState(disc, start.phi, start.source, self.r)

        self.has_cosines = sigma is None and has_cosines(disc)
        self._ends = ends
        self._square = start.square

    def run(self) -> Iterator[int]:
        """Iterate; yields the number of iterations after each."""
        if self.done >= self.n_iterations:  # a finished run, continued from its checkpoint
            return

        state = self.state
        end = self.end
        n_cells = self.disc.mesh.n_cells
        poisson = self._build_poisson(state.dtype)
        rhs = state.right_hand_side()
        if end is not None:
            rhs[:n_cells, -1] += end.right_hand_side()
        if self.sources is not None:
            rhs[:n_cells] += self.sources.right_hand_side()
        growth = self.penalty_growth ** (1 / max(self.n_iterations - 1, 1))

        for k in range(self.done, self.n_iterations):
            rhs[:, [0, -1]] += self.source / self.r
            self.phi = poisson(rhs)

            kappa = growth if k < self.n_iterations - 1 else 1.0
            rhs = state.sweep(self.phi, RELAXATION, kappa)
            self.r *= kappa
            if end is not None:
                rhs[:n_cells, -1] += end.sweep(self.phi[:n_cells, -1], RELAXATION, kappa)
            if self.sources is not None:
                rhs[:n_cells] += self.sources.sweep(self.phi[:n_cells], RELAXATION, kappa)
            self.done = k + 1
            yield self.done

    def _build_poisson(self, dtype):
        """The solver of the linear half."""
        if self.has_cosines:
            return CosinePoisson(self.disc, self.theta, dtype, self.metric)

        steps = penalty.choose_multigrid_steps(self._ends, self._square)
        return MultigridPoisson(self.disc, self.theta, dtype, self.sigma, self.metric, steps=steps)

    def path(self) -> tuple[Array, Array, Array | None]:
        """(phi (n_points, N + 1), rho (n_patches, N), density at the end (n_patches,)) so far.

        The density at the end is None without a `Terminal`.
        """
        rho = self.r * self.state.weight * self.state.l
        rho1 = None if self.end is None else self.end.rho1
        return self.phi.astype(float), rho, rho1

    def find_source(self) -> Array | None:
        """zeta (n_cells, N + 1) so far where growth costs kappa |zeta|, None elsewhere."""
        return None if self.sources is None else self.sources.source()


def has_cosines(disc: Discretisation) -> bool:
    """Whether cosine transforms can solve the linear half: for two-point slopes on Cartesian
    meshes, unless there are far more ranks than modes of time.

    They need a uniform penalty, too.
    """
    is_two_point = isinstance(disc, TwoPointDiscretisation)
    has_modes = disc.mesh.ranks.size <= MOST_RANKS_PER_MODE * (disc.n_steps + 1)
    return is_two_point and disc.mesh.block is not None and has_modes
