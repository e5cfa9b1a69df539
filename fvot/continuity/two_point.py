"""The explicit step with a two-point flux: F = a rho_left - b rho_right on every face."""

import numba
import numpy as np

from ..errors import InputError
from ..finite_volume.fluxes import upwind
from ..finite_volume.stencil import Stencil, outflow_rate


class TwoPoint:
    """F = a rho_left - b rho_right with a, b >= 0; k = 0.

    convex : whether the rate is a convex function of U, which nobody knows of a flux of one's own
    """

    cfl = 0.95

    def __init__(self, mesh, flux):
        self.mesh = mesh
        self.flux = flux
        self.convex = flux is upwind
        self.stencil = s = Stencil(mesh)
        self.kept = np.empty(mesh.n_cells)
        self.first = np.zeros_like(s.start)
        self.giver = np.empty_like(s.neighbour)
        self.gain = np.empty_like(s.sign)
        self._coefficients(np.array([1.0, -1.0]))  # a flux that will not do is refused at once

    def rate(self, U):
        s = self.stencil
        return outflow_rate(*self._coefficients(U), self.mesh.volume, s.start, s.face, s.sign)

    def _coefficients(self, U):
        a, b = self.flux(U, np.zeros_like(U))
        least = min(a.min(initial=0), b.min(initial=0))
        if least < 0:
            raise InputError(
                f"flux {getattr(self.flux, '__name__', self.flux)!r} has a negative coefficient "
                f"({least:.3g}): "
                "explicit steps with it are never positive; use fvot.upwind or fvot.muscl()"
            )
        return a, b

    def start(self, rho):
        """Nothing to know of the data."""

    def prepare(self, U, tau, velocity):
        mesh = self.mesh
        s = self.stencil
        self.tau, (self.a, self.b) = tau, self._coefficients(U)
        _two_point_weights(
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

    def step(self, rho, entering, count):
        mesh = self.mesh
        n = self.mesh.n_inner
        new = np.empty(self.mesh.n_cells)
        _two_point(mesh.with_ghosts(rho), self.kept, self.first, self.giver, self.gain, new)
        inward = self.tau * self.b[n:] * entering
        np.add.at(new, mesh.left[n:], inward / mesh.volume[mesh.left[n:]])
        return new, self.tau * self.a[n:] * rho[mesh.left[n:]] - inward

    def transposed(self, phi):
        """The transpose of `step` with respect to sum |K| rho phi; *phi* (n_cells,)."""
        mesh = self.mesh
        s = self.stencil
        new = np.empty(self.mesh.n_cells)
        _two_point_transposed(
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
def _two_point_weights(
    a, b, tau, volume, n_inner, start, face, sign, neighbour, kept, first, giver, gain
):
    """Each cell keeps a part *kept* of its density and gets *gain* times that of each *giver*, from
    first[cell] on.
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
def _two_point(rho, kept, first, giver, gain, new):
    for cell in range(len(new)):
        gained = 0.0
        for e in range(first[cell], first[cell + 1]):
            gained += gain[e] * rho[giver[e]]
        new[cell] = kept[cell] * rho[cell] + gained


@numba.njit(cache=True, error_model="numpy")
def _two_point_transposed(phi, kept, a, b, tau, volume, n_inner, start, face, sign, neighbour, new):
    for cell in range(len(new)):
        given = 0.0
        for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
            f = face[s]
            rate = ((1 + sign[s]) * a[f] + (1 - sign[s]) * b[f]) / 2
            given += (rate if f < n_inner else 0.0) * phi[neighbour[s]]
        new[cell] = kept[cell] * phi[cell] + tau * given / volume[cell]
