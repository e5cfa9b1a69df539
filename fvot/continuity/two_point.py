"""The explicit step with a two-point flux: F = a rho_left - b rho_right on every face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ..arguments.types import Array, TwoPointFlux
from ..finite_volume.fluxes import evaluate_flux, upwind
from ..finite_volume.muscl import DEFAULT_CFL
from ..finite_volume.stencil import Stencil, outflow_rate


class TwoPointScheme:
    """F = a rho_left - b rho_right with a, b >= 0, for k = 0; see `scheme.ExplicitScheme`.

    convex : whether the rate is a convex function of U; of the user's own flux nothing is known
    """

    cfl = DEFAULT_CFL

    def __init__(self, mesh: Any, flux: TwoPointFlux):
        self.mesh = mesh
        self.flux = flux
        self.convex = flux is upwind
        self.stencil = Stencil(mesh)
        self.kept = np.empty(mesh.n_cells)
        self.first = np.zeros_like(self.stencil.start)
        self.giver = np.empty_like(self.stencil.neighbour)
        self.gain = np.empty_like(self.stencil.sign)
        self._evaluate(np.array([1.0, -1.0]))  # refuses negative coefficients at once

    def rate(self, U: Array) -> float:
        """The largest rate at which the fluxes U (n_faces,) empty one of this rank's cells.

        Collective.
        """
        a, b = self._compute_coefficients(U)
        s = self.stencil
        return outflow_rate(a, b, self.mesh.volume, s.start, s.face, s.sign)

    def _compute_coefficients(self, U):
        """(a, b) for the fluxes U; those of the user's own flux are checked on all ranks."""
        if self.flux is upwind:
            return upwind(U, np.zeros_like(U))
        with self.mesh.ranks.raising_together():
            return self._evaluate(U)

    def _evaluate(self, U):
        remedy = "use fvot.upwind or fvot.muscl(), with which explicit steps are positive"
        return evaluate_flux(self.flux, U, np.zeros_like(U), remedy)

    def start(self, rho: Array) -> None:
        """Do nothing: the scheme does not depend on the density."""

    def prepare(self, U: Array, tau: float, velocity: Callable[[], Array]) -> None:
        """Find the weights of the step tau with the fluxes U (n_faces,)."""
        self.tau = tau
        self.a, self.b = self._compute_coefficients(U)
        mesh = self.mesh
        s = self.stencil
        _compute_weights(
            self.a,
            self.b,
            tau,
            mesh.volume,
            mesh.n_inner,
            s.start,
            s.face,
            s.sign,
            s.neighbour,
            self.kept,
            self.first,
            self.giver,
            self.gain,
        )

    def step(self, rho: Array, entering: Array, count: int) -> tuple[Array, Array]:
        """The new rho (n_cells,), and what left through each boundary face (n_faces - n_inner,)."""
        mesh = self.mesh
        n = mesh.n_inner
        cell = mesh.left[n:]
        new = np.empty(mesh.n_cells)
        _apply_weights(mesh.with_ghosts(rho), self.kept, self.first, self.giver, self.gain, new)

        inward = self.tau * self.b[n:] * entering
        np.add.at(new, cell, inward / mesh.volume[cell])
        return new, self.tau * self.a[n:] * rho[cell] - inward

    def apply_transpose(self, phi: Array) -> Array:
        """The transpose of `step` with respect to sum |K| rho phi, applied to phi (n_cells,)."""
        mesh = self.mesh
        s = self.stencil
        new = np.empty(mesh.n_cells)
        _apply_transpose(
            mesh.with_ghosts(phi),
            self.kept,
            self.a,
            self.b,
            self.tau,
            mesh.volume,
            mesh.n_inner,
            s.start,
            s.face,
            s.sign,
            s.neighbour,
            new,
        )
        return new


@numba.njit(cache=True, error_model="numpy")
def _compute_weights(
    a, b, tau, volume, n_inner, start, face, sign, neighbour, kept, first, giver, gain
):
    """Each cell keeps a part *kept* of its density, and gets *gain* times that of each *giver*.

    The givers of a cell stand from first[cell] on.
    """
    entry = numba.uintp(0)
    for cell in range(len(kept)):
        out = 0.0
        for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            f = face[s]
            leaves = (1 + sign[s]) / 2
            enters = (1 - sign[s]) / 2
            out += leaves * a[f] + enters * b[f]
            rate = leaves * b[f] + enters * a[f]
            giver[entry] = neighbour[s]
            gain[entry] = tau * rate / volume[cell]
            entry += numba.uintp((f < n_inner) & (rate > 0))
        first[cell + 1] = entry
        kept[cell] = max(1 - tau * out / volume[cell], 0.0)


@numba.njit(cache=True, error_model="numpy")
def _apply_weights(rho, kept, first, giver, gain, new):
    for cell in range(len(new)):
        gained = 0.0
        for e in range(first[cell], first[cell + 1]):
            gained += gain[e] * rho[giver[e]]
        new[cell] = kept[cell] * rho[cell] + gained


@numba.njit(cache=True, error_model="numpy")
def _apply_transpose(phi, kept, a, b, tau, volume, n_inner, start, face, sign, neighbour, new):
    for cell in range(len(new)):
        incoming = 0.0
        for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            f = face[s]
            rate = ((1 + sign[s]) * a[f] + (1 - sign[s]) * b[f]) / 2
            incoming += (rate if f < n_inner else 0.0) * phi[neighbour[s]]
        new[cell] = kept[cell] * phi[cell] + tau * incoming / volume[cell]
