"""The Markov chain behind an equation with two-point fluxes, as a Schroedinger bridge needs it.

The chain may be tilted by e^psi (Girsanov): where g solves the backward equation, so does g' =
e^-psi g that of the drift b + 2 D grad psi with the growth

    c = d psi/dt + b . grad psi + div(D grad psi) + grad psi . D grad psi

b with the drift of the potential. Transition densities P' of it are e^(-psi_0(x)) P(x, y)
e^(psi_1(y)).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments.types import Array
from ..errors import InputError
from ..finite_volume.cell_fields import Reactions
from ..finite_volume.rates import Rates
from ..finite_volume.stencil import Stencil, gradient_weights, gradients
from ..mesh import Numbering
from .equation import FokkerPlanck
from .schemes import Scheme
from .stationary import check_linear

# Divergence of a drift, relative to its flux through all faces, up to which it is that of
# quadrature.
DIVERGENCE_ROUNDING = 1e-5


class Reference:
    """The chain of a `FokkerPlanck` equation. Arrays have the solver's order of cells.

    steady : whether its rates are the same at all times
    is_open : whether paths may leave through the boundary
    noise : 2 D where D is one number, else None
    """

    def __init__(self, equation: FokkerPlanck):
        stepper = equation._stepper
        operator: Any = stepper.operator
        self.mesh: Any = operator.mesh
        self.numbering: Numbering = operator.numbering
        self.scheme: Scheme = stepper.scheme
        self.steady: bool = operator.steady
        self.is_open: bool = not operator.has_walls_only
        self.reactions: Reactions = operator.reactions
        self._stepper = stepper
        self._operator = operator
        _check_equation(equation, stepper, operator)

        D = operator.diffusion(0.0)
        has_one = np.ndim(D) == 0 and not operator.diffusion_depends_on_time
        self.noise: float | None = 2 * float(D) if has_one else None

    def find_rates(self, t: float) -> Rates:
        """The `Rates` at time t; `InputError` where something enters. Collective."""
        rates, entering = self._stepper.find_coefficients(t)
        crossing = rates.b[self.mesh.n_inner :] * entering[: self.mesh.n_faces - self.mesh.n_inner]
        largest = self.mesh.ranks.max(np.abs(crossing).max(initial=0.0))
        self.mesh.ranks.check(
            largest == 0,
            "what enters through the boundary has no past, and a bridge is made of paths from rho0 "
            "to rho1: take densities 0 there, such as fvot.dirichlet(0), fvot.robin(rate) or "
            "fvot.outflow",
        )
        return rates

    def tilt(self, t: float, psi: Array, slope: Array, largest: float) -> tuple[Rates, Array]:
        """(the `Rates` at time t of the chain that is tilted by e^psi, whether c is cut off in each
        cell). Collective.

        psi, slope (n_cells,) : psi and its derivative in time
        largest : |c| is cut off at that
        """
        operator = self._operator
        volume = self.mesh.volume
        rates = operator.rates(t, psi)
        linear, square = operator.apply_generator(psi, t)
        growth = slope + (linear + square) / volume
        is_cut = ~(np.abs(growth) <= largest)
        growth = np.clip(np.nan_to_num(growth), -largest, largest)
        decay = 0.0 if rates.decay is None else rates.decay
        rates.decay = decay - volume * growth
        return rates, is_cut

    def is_reversed_by_time(self, times: Array) -> bool:
        """Whether the reversed chain is that of the reversed drift: nothing leaves or grows, and
        the drift, beside the potential, has no divergence. Collective.
        """
        if self.is_open or self.reactions.has_growth:
            return False
        mesh = self.mesh
        for t in times:
            U = self._operator.compute_drift_flux(t)
            own = np.array([np.abs(mesh.divergence(U) * mesh.volume).sum(), np.abs(U).sum()])
            divergence, size = mesh.ranks.sum(own)
            if divergence > DIVERGENCE_ROUNDING * size:
                return False
        return True

    def find_gibbs(self) -> Array | None:
        """-log of the Gibbs density (n_cells,), where there is one at all times; else None."""
        if not self.steady:
            return None
        return self.find_rates(0.0).minus_log_gibbs

    def find_drift(self, t: float, psi: Array) -> Array:
        """b - grad V + 2 D grad psi (dim, n_cells) at time t, by least squares in cells, in the
        user's order, as psi is. Collective.
        """
        operator = self._operator
        numbering = self.numbering
        mesh: Any = numbering.user_mesh
        stencil = Stencil(mesh)
        weights = gradient_weights(stencil)

        D = operator.diffusion(t)
        if np.ndim(D) > 0:
            D = numbering.outward(D)
        drift = _multiply(2 * D, gradients(mesh, stencil, weights, psi[None])[0])
        V = operator.potential(t)
        if V is not None:
            slope = gradients(mesh, stencil, weights, numbering.outward(V)[None])[0]
            T = operator.temperature
            drift -= slope if T is None else _multiply(D / T, slope)
        if operator.has_drift:
            drift += operator.drift(t)
        return drift


def _multiply(D, vectors):
    """D v of a number, cell values, diagonals or tensors D, and vectors (dim, n_cells)."""
    return D * vectors if np.ndim(D) < 2 else np.einsum("ijk,jk->ik", D, vectors)


def _check_equation(equation, stepper, operator):
    ranks = equation.mesh.ranks
    ranks.check(
        not stepper.has_corners,
        "a bridge needs a Markov chain, and fluxes to corners are none, as their coefficients may "
        "be negative: take a mesh on which two-point fluxes are right (rectangles, acute "
        "triangles), or FokkerPlanck(scheme='two_point')",
    )
    check_linear(stepper, "a bridge has no Markov chain")
    ranks.check(
        equation.order in (1, 2),
        f"order={equation.order} has negative transition probabilities for steps of any length: a "
        "bridge needs FokkerPlanck(order=2), or order=1",
    )
    ranks.check(
        not operator.reactions.has_source,
        "what a source adds has no past, and a bridge is made of paths from rho0 to rho1: leave "
        "out source=",
    )


def build_reference(equation: FokkerPlanck) -> Reference:
    """The `Reference` of an equation; `InputError` on every rank where it has none. Collective."""
    if not isinstance(equation, FokkerPlanck):
        raise InputError(
            "SchroedingerBridge needs an equation, such as fvot.FokkerPlanck(mesh, "
            f"diffusion=0.05), not {equation!r:.60}"
        )
    return Reference(equation)


def find_longest_step(rates: Rates, stage: float) -> float:
    """The longest step with which implicit steps of stages (stage : their length in steps) keep the
    sign in spite of growth, by a factor of 2. Collective.
    """
    if rates.decay is None:
        return math.inf
    growth = rates.mesh.ranks.max((-rates.decay / rates.mesh.volume).max(initial=0.0))
    return 1 / (2 * stage * growth) if growth > 0 else math.inf
