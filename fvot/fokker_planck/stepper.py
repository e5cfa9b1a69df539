"""Steps of a Fokker-Planck equation, and what they share: coefficients, matrices, free energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np

from ..arguments.types import Array
from ..finite_volume.boundary import name_crossed
from ..finite_volume.corner_step import NodeSolver
from ..finite_volume.fluxes import scharfetter_gummel
from ..finite_volume.implicit_step import ColumnScaleCache, Resolvent
from ..finite_volume.velocity_field import cell_velocity
from ..mesh.cell_values import integrate
from .corner_step import CornerStep
from .corners import CornerDriftDiffusion
from .limited_step import LimitedStep
from .schemes import find_scheme
from .step import Step, TwoPointStep
from .two_point import TwoPointDriftDiffusion

# Growth of the free energy, relative to its terms, up to which no step is refused. A term x log x
# is rounded by some 4 units of 1e-16, and so are sums of any number of terms, as they carry along
# what rounding loses.
ENERGY_ROUNDING = 1e-14

# Factorised or preconditioned matrices that are kept, of steps of different lengths: memory against
# the time to make them again.
MAX_KEPT_MATRICES = 4

# Cells of a mesh above which only one matrix is kept.
KEPT_MATRICES_CELL_LIMIT = 400_000


class Advanced(NamedTuple):
    """The result of a step.

    rho (n_cells,), mass : the density and its mass
    size : its L1 norm
    exchanged : this rank's part of the masses that came and went, by their names in the ledger
    error : of the step, as an L1 norm; None where it was not estimated
    """

    rho: Array
    mass: float
    size: float
    exchanged: dict[str, float]
    error: float | None


class Memory:
    """What a `Stepper` remembers of one density of a batch, from one step to the next.

    counts : of solves, iterations and limited steps
    entropies : [(density, (its relative entropy, the size of its terms))] of the last two
    values : [(density, its values at cells and nodes)] of the last one
    """

    def __init__(self) -> None:
        self.counts = dict(limited=0, solves=0, iterations=0)
        self.entropies: list = []
        self.values: list = []


class Stepper:
    """Steps of the given order for a `DriftDiffusion` operator; keeps the matrices of the last few.

    All densities of a batch share its coefficients and matrices.

    autonomous : whether nothing depends on time
    signed : whether densities have any sign: then nothing is limited, and there is no free energy
    closed : whether mass stays: nothing crosses the boundary, grows, or is added
    kills, bears : whether growth is below, and above, 0 somewhere
    minus_log_gibbs (n_cells,) : of the Gibbs density of mass 1, if its fluxes are zero; else None
    column_scales : the column scaling of multigrid, which all implicit steps share
    memories : of each density of a batch, and `memory` that of the density at work
    """

    def __init__(self, operator: Any, order: int, rtol: float):
        self.operator = operator
        self.signed = operator.signed
        self.has_corners = isinstance(operator, CornerDriftDiffusion)
        self._step_type: type[Step] = TwoPointStep
        if self.has_corners:
            self._step_type = CornerStep
        elif operator.correction is not None:
            self._step_type = LimitedStep
        self.order = order
        self.rtol = rtol
        self.mesh = operator.mesh
        self.scheme = find_scheme(order)
        self.autonomous = operator.steady and operator.entering_steady

        self.column_scales = ColumnScaleCache()
        self._node_solver: NodeSolver | None = None
        self._two_point: Stepper | None = None
        self._resolvents: dict = {}
        self._rates: tuple = (None, None)
        self._entering: tuple = (None, None)

        rates, _ = self.find_coefficients(0.0)  # refuses coefficients of the wrong kind at once
        is_closed = operator.steady and not rates.crosses_boundary()
        self.closed = not operator.reactions and (operator.has_walls_only or is_closed)
        self.kills, self.bears = self._find_signs_of_growth()
        self.minus_log_gibbs = self._find_minus_log_gibbs()
        self.restart()

    def restart(self, n_members: int = 1) -> None:
        """Begin with so many densities: count from 0."""
        self.memories = [Memory() for _ in range(n_members)]
        self.select(0)

    def select(self, i: int) -> None:
        """Work on density number i."""
        self.memory = self.memories[i]

    @property
    def counts(self) -> dict[str, int]:
        """Of solves, iterations and limited steps of the density at work."""
        return self.memory.counts

    def advance(
        self,
        starts: Sequence[tuple[Array, float]],
        now: float,
        tau: float,
        n_solves: int,
        estimate: bool = False,
        until: float = math.inf,
        inside: bool = False,
    ) -> list[Advanced]:
        """The steps of length tau from all densities (rho (n_cells,), its mass) at time *now*.

        n_solves : number of linear solves with the same matrix that are likely to follow, for
            each density
        estimate : whether to estimate the error
        until : where coefficients may jump: the step uses only those before it
        inside : whether the estimate uses only those before it, too; otherwise it looks a little
            beyond the step
        """
        n_all = n_solves * len(starts)
        steps: Any = (
            self._step_type(self, rho, mass, now, tau, n_all, until, inside) for rho, mass in starts
        )
        is_linear = self.operator.correction is None
        if len(starts) > 1 and not self.autonomous and is_linear:
            steps = list(steps)
            self._take_stages(steps, estimate)
        return [self._complete(i, step, estimate) for i, step in enumerate(steps)]

    def _take_stages(self, steps, estimate):
        """Take each stage of all steps before the next one: they share the matrix of its time."""
        n_rungs = len(self.scheme.error) if estimate else 1
        for k in range(1, n_rungs + 1):
            for i, step in enumerate(steps):
                self.select(i)
                step.Y(k)
        for k in range(self.order):
            for i, step in enumerate(steps):
                self.select(i)
                step.take_stage(k)

    def _complete(self, i, step, estimate):
        """What the step of density number i makes, as `Advanced`."""
        self.select(i)
        error = step.estimate_error() if estimate else None
        new, crossed = step.compute_result()
        rho, mass, size, crossed = self._balance(new, crossed, step.mass)
        self.operator.reactions.check_grown(rho, step.now + step.tau)
        return Advanced(rho, mass, size, self._name_exchanged(crossed), error)

    def find_size(self, rho: Array) -> float:
        """The L1 norm of a density (n_cells,). Collective."""
        return integrate(self.mesh, np.abs(rho) if self.signed else rho)

    def _balance(self, rho, crossed, before):
        """(rho, its mass, its L1 norm, what has left) with mass = before - sum of crossed, see
        `Step._find_crossed`.

        The linear solves have left an error of their tolerance in this balance. It goes where it is
        relatively smaller: into the density, by a factor (of what is above 0, and another one of
        what is below), or into what has left. What sources add is known.
        """
        ranks = self.mesh.ranks
        content = self.mesh.volume * rho
        sizes = np.abs(content) if self.signed else content
        uncertain = np.abs(crossed)
        if self.operator.reactions:
            uncertain[-self.mesh.n_cells :] = 0.0
        mass, size, net, gross = ranks.sum(
            np.array([content.sum(), sizes.sum(), crossed.sum(), uncertain.sum()])
        )

        after = before - net
        if size < gross:
            return rho, mass, size, crossed + (after - mass) * uncertain / gross
        if self.signed:
            part = (after - mass) / size if size > 0 else 0.0
            return rho + part * np.abs(rho), after, size, crossed
        factor = after / mass if mass > 0 else 1.0
        return self._scale(rho, factor, mass), after, after, crossed

    def _name_exchanged(self, crossed):
        """{name in the ledger: mass} of what has left, see `Step._find_crossed`.

        What decays and what grows are told apart by sign only where both happen: elsewhere the
        stages' small terms of the other sign are part of the sum. Of signed densities both are one
        sum.
        """
        mesh = self.mesh
        n = mesh.n_faces - mesh.n_inner
        faces = crossed[:n]
        exchanged = name_crossed(
            np.maximum(-faces, 0), np.maximum(faces, 0), self.operator.open_parts
        )
        if not self.operator.reactions:
            return exchanged
        killed, removed = crossed[n:].reshape(2, -1)
        if self.signed and self.operator.reactions.has_growth:
            exchanged["grown"] = -killed.sum()
        elif self.kills and self.bears:
            exchanged["killed"] = np.maximum(killed, 0).sum()
            exchanged["born"] = np.maximum(-killed, 0).sum()
        elif self.kills:
            exchanged["killed"] = killed.sum()
        elif self.bears:
            exchanged["born"] = -killed.sum()
        if self.operator.reactions.has_source:
            exchanged["added"] = -removed.sum()
        return exchanged

    @property
    def no_exchange(self) -> dict[str, float]:
        """{name in the ledger: 0} of all that may come and go."""
        n_boundary = self.mesh.n_faces - self.mesh.n_inner
        n_losses = 2 * self.mesh.n_cells if self.operator.reactions else 0
        return self._name_exchanged(np.zeros(n_boundary + n_losses))

    def _scale(self, rho, factor, mass):
        """factor rho, for rho of that mass.

        Its relative entropy follows from that of rho, where that is known.
        """
        scaled = factor * rho
        more = factor * math.log(factor) * mass if factor > 0 else 0.0
        self.memory.entropies += [
            (scaled, (factor * entropy + more, factor * size + abs(more)))
            for known, (entropy, size) in self.memory.entropies
            if known is rho
        ]
        return scaled

    # ---- coefficients and matrices at a time ----------------------------------------------------

    def find_coefficients(self, t: float) -> tuple[Any, Array]:
        """(rates, what enters) at time t; the last ones are kept."""
        operator = self.operator
        rates_time = 0.0 if operator.steady else t
        entering_time = 0.0 if operator.entering_steady else t
        if self._rates[0] != rates_time:
            self._rates = (rates_time, operator.rates(rates_time))
        if self._entering[0] != entering_time:
            self._entering = (entering_time, operator.entering(entering_time))
        return self._rates[1], self._entering[1]

    def find_values(self, rho: Array, t: float) -> Array:
        """The values of a density rho (n_cells,) from which fluxes at time t follow: with corners
        also at the nodes, where what the cells around give adds up to 0. Collective.
        """
        if not self.has_corners:
            return rho
        for known, values in self.memory.values:
            if known is rho:
                return values
        rates, entering = self.find_coefficients(t)
        if self._node_solver is None or self._node_solver.rates is not rates:
            self._node_solver = NodeSolver(rates, self.rtol)
        values = self._node_solver(rho, entering)
        self.memory.values = [(rho, values)]
        return values

    def find_current(self, rho: Array, t: float) -> Array:
        """The mean (dim, n_cells) of the current of a density (n_cells,) in each cell, both in the
        user's order. Collective.
        """
        numbering = self.operator.numbering
        rates, entering = self.find_coefficients(t)
        known = self.memory.values
        values = self.find_values(numbering.inward(rho), t)
        self.memory.values = known  # a run goes on from those of its own density
        if self.has_corners:
            return numbering.outward(rates.current(values, entering))
        flux = rates.flux(values, entering)
        if self.operator.correction is not None:
            flux += self.operator.correction(values, rates)
        return cell_velocity(numbering.user_mesh, flux)

    def find_two_point_stepper(self) -> Stepper:
        """The `Stepper` with two-point fluxes for the same equation, made when first needed."""
        if self._two_point is None:
            operator = self.operator
            two_point = TwoPointDriftDiffusion(
                operator.numbering,
                operator.terms._replace(flux=scharfetter_gummel),
                operator.points,
            )
            self._two_point = Stepper(two_point, self.order, self.rtol)
        return self._two_point

    def find_resolvent(self, t: float, s: float, n_solves: int) -> Resolvent:
        """The `Resolvent` of a step s at time t."""
        t = 0.0 if self.operator.steady else t
        for (time, length), resolvent in self._resolvents.items():
            if time == t and abs(length - s) <= 1e-12 * s and resolvent.names:
                return resolvent.expect(n_solves)

        may_keep = self.operator.steady and self.mesh.n_cells_global <= KEPT_MATRICES_CELL_LIMIT
        self._destroy_resolvents(MAX_KEPT_MATRICES - 1 if may_keep else 0)
        rates, _ = self.find_coefficients(t)
        self._resolvents[t, s] = self.operator.resolvent(
            rates, s, scales=self.column_scales, rtol=self.rtol, signed=self.signed
        )
        # Steps of higher order are limited where they are below 0, be it by the tolerance.
        if self.order == 1 or self.signed:
            self._resolvents[t, s].keep_guesses()
        return self._resolvents[t, s].expect(n_solves)

    def _destroy_resolvents(self, n_left):
        """Destroy the oldest ones until so many are left."""
        while len(self._resolvents) > n_left:
            oldest = next(iter(self._resolvents))
            self._resolvents.pop(oldest).destroy()

    def find_longest_step(self, begin: float, end: float, stage: float | None = None) -> float:
        """The longest step between two times: half of that up to which implicit steps of stages
        (stage : their length in steps) keep the sign in spite of growth. Collective.
        """
        if not self.bears:
            return math.inf
        _, growth = self.operator.reactions.find_growth_range(begin, end)
        stage = self.scheme.g if stage is None else stage
        return 1 / (2 * stage * growth) if growth > 0 else math.inf

    def _find_signs_of_growth(self):
        """(kills, bears), see the class; both, where growth depends on time."""
        if not self.operator.reactions.has_growth:
            return False, False
        if self.operator.reactions.growth_depends_on_time:
            return True, True
        lowest, highest = self.operator.reactions.find_growth_range(0.0, 0.0)
        return lowest < 0, highest > 0

    # ---- the free energy ------------------------------------------------------------------------

    def _find_minus_log_gibbs(self):
        """-log of the Gibbs density (n_cells,) of mass 1, if its fluxes are zero; else None."""
        if not (self.operator.steady and self.closed):
            return None
        rates, _ = self.find_coefficients(0.0)
        phi = rates.minus_log_gibbs
        if phi is None or not rates.keeps_gibbs():
            return None

        mesh = self.mesh
        phi = phi - mesh.ranks.min(phi.min(initial=np.inf))
        return phi + math.log(integrate(mesh, np.exp(-phi)))

    def compute_energy_growth(self, rho: Array, new: Array, mass: float) -> float:
        """The growth of the free energy over D, sum |K| rho log(rho / pi), from rho to new.

        0 where it is within rounding, and where there is no Gibbs density pi, or rho is signed.
        """
        if self.minus_log_gibbs is None or self.signed or mass == 0:
            return 0.0
        entropy_before, size_before = self._find_relative_entropy(rho)
        entropy_after, size_after = self._find_relative_entropy(new)
        rounding = ENERGY_ROUNDING * max(size_before + size_after, mass)
        return max(entropy_after - entropy_before - rounding, 0.0)

    def _find_relative_entropy(self, rho):
        """(sum |K| rho log(rho / pi), the sum of the terms' sizes); the last ones are kept."""
        for known, sums in self.memory.entropies:
            if known is rho:
                return sums
        on_this_rank = np.array(_sum_relative_entropy(self.mesh.volume, rho, self.minus_log_gibbs))
        sums = tuple(self.mesh.ranks.sum(on_this_rank))
        self.memory.entropies = [*self.memory.entropies[-1:], (rho, sums)]
        return sums


@numba.njit(cache=True, error_model="numpy")
def _sum_relative_entropy(volume, rho, minus_log_gibbs):
    total = 0.0
    lost = 0.0
    size = 0.0
    for cell in range(len(rho)):
        term = 0.0
        if rho[cell] > 0:
            term = volume[cell] * rho[cell] * (np.log(rho[cell]) + minus_log_gibbs[cell])
        added = total + term
        # what the addition loses, after Neumaier (1974)
        lost += (total - added) + term if abs(total) >= abs(term) else (term - added) + total
        total = added
        size += abs(term)
    return total + lost, size
