"""Limited fluxes, of second order in space, in place of the upwind ones of a step.

An upwind step from old to rho smears fronts, by the width of a cell and by the way of the step. It
is corrected along the way of the mass:

1. `finite_volume.muscl` carries old with steady volume fluxes U through the faces, in as many
    explicit substeps as its positivity asks for. Where nothing diffuses, U_s = t_s (mu_left -
    mu_right) with mu = V + W * (rho + old) / 2 + p, the potential at the middle of the step;
    elsewhere U_s = t_s (phi_left - phi_right), as e' in mu is that at the end. Between cells with
    their points in one place no potential falls: there U makes div u even in the cells of the place
2. the difference A of its fluxes and the upwind ones is 0 on the faces of full cells, which stay
    full, and of empty givers. It is made smaller where it would leave a cell with less than nothing
    or more than the bound: A_s -> R_K A_s where A_s leaves a cell that lacks mass, or enters one
    that lacks room (after Zalesak 1979, one-sided, and only in cells that need it). Where something
    diffuses, velocities change during long steps: there no cell rises above the largest density
    that it and its neighbours have before or after the upwind step
3. it is halved until the energy inequality of the step holds, as it does for A = 0:

    E(old) - E(rho) >= 1 / 2 sum_s (F_s + A_s) (phi_left - phi_right)

    plus, at doors, what leaves times the potential outside. F + A are the fluxes of a step with
    another mobility, for which this is the same inequality
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from ..arguments.types import Array, BoolArray
from ..energies.free_energy import FreeEnergy
from ..finite_volume.muscl import LimitedFaces
from ..finite_volume.rates import downstream_order
from ..finite_volume.stencil import Stencil
from ..finite_volume.velocity_field import face_velocity
from ..mesh.cell_values import integrate
from ..mesh.face_exchange import find_face_exchange
from ..mesh.quality import COINCIDENT
from .doors import Doors

# How much of superbee's steeper slope the reconstruction takes, see `fvot.muscl`: fronts get
# steeper, and smooth densities keep the second order.
SHARPNESS = 0.5

# Substeps above which a step stays upwind: mass then crosses about as many cells.
MAX_SUBSTEPS = 1000

# The part of the largest density below which a cell is empty: its velocity asks for no substeps.
EMPTY_CELL = 1e-14

# The part of its density after the upwind step that a cell keeps at least where e' is infinite at
# 0.
MIN_KEPT_FRACTION = 0.5

# Conjugate gradients for the fluxes between cells with coinciding points: of few cells each.
MAX_PLACE_ITERATIONS = 100
PLACE_TOLERANCE = 1e-12

# Mass goes along the corrections, room against them.
DIRECTIONS = (1.0, -1.0)

# Sweeps over the cells, givers first. One is enough on one rank, where the fluxes do not run in
# circles; on several, as many as a stream crosses from rank to rank.
MAX_CONTENT_SWEEPS = 100

# What cells may lack before the last sweep, relative to the mass: round-off.
CONTENT_ROUNDING = 1e-16

# Halvings of the correction, before the step stays upwind.
MAX_CORRECTION_HALVINGS = 10

# Rounding of the energy inequality, relative to the energies in what is there.
INEQUALITY_ROUNDING = 1e-14


class UpwindStep(NamedTuple):
    """An upwind step of length tau from old (n_cells,).

    rho (n_cells,) : the density after it
    flux (n_faces,) : the masses that have crossed the faces
    fall (n_faces,) : phi_left - phi_right, 0 on walls
    U (n_faces,) : the volume fluxes that carry mass, see the module
    full (n_cells,) : the cells with a pressure
    """

    old: Array
    tau: float
    rho: Array
    flux: Array
    fall: Array
    U: Array
    full: BoolArray

    def dissipated(self, mesh: Any, flux: Array) -> float:
        """The energy that fluxes (n_faces,) dissipate. Collective."""
        spent = flux * self.fall / 2
        return mesh.ranks.sum(spent[mesh.face_owned].sum())


class LimitedTransport:
    """Corrects upwind steps for an energy, an upper bound and doors, see the module. Collective.

    coincident (n_faces,), has_coincident : the faces between cells with their points in one place,
        and whether any rank has one
    """

    def __init__(self, free_energy: FreeEnergy, upper: float, doors: Doors, stencil: Stencil):
        mesh: Any = free_energy.mesh
        self.free_energy = free_energy
        self.mesh = mesh
        self.upper = upper
        self.doors = doors
        self.stencil = stencil
        self._muscl = LimitedFaces(mesh, SHARPNESS)
        self._no_inflow = np.zeros(mesh.n_faces - mesh.n_inner)
        self.coincident = _find_coincident(mesh)
        self.has_coincident = mesh.ranks.max(int(self.coincident.any())) > 0

    def correct(self, step: UpwindStep) -> tuple[Array, Array]:
        """(rho (n_cells,) after the step, the masses (n_faces,) that have crossed the faces)."""
        if self.has_coincident:
            step = step._replace(U=self._pass_within_places(step))
        giving = self._find_givers(step.U)
        moves = self._find_moving_faces(step, giving)
        carried = self._carry(step, np.where(moves, step.U, 0.0))
        if carried is None:
            return step.rho, step.flux

        A = self._limit(step, np.where(moves, carried - step.flux, 0.0))
        most = np.maximum(step.rho, self.upper)  # which Newton's residual may leave above the bound
        for _ in range(MAX_CORRECTION_HALVINGS):
            rho = step.rho - self.mesh.divergence(A)
            rho = np.clip(rho, 0.0, most)  # only removes round-off
            if self._keeps_inequality(step, rho, step.flux + A):
                return rho, step.flux + A
            A = A / 2
        return step.rho, step.flux

    # ---- the fluxes of second order -------------------------------------------------------------

    def _pass_within_places(self, step):
        """The volume fluxes U (n_faces,) with those between cells whose points coincide such that
        div u is as even as it can be, in the sense of least squares, in the cells of one place.

        Cells beside a full one are left out, as their faces are not corrected.
        """
        mesh = self.mesh
        n = mesh.n_inner
        full = mesh.with_ghosts(step.full.astype(float)) > 0
        is_open = ~full[mesh.left]
        is_open[:n] &= ~full[mesh.right[:n]]
        passed = self.coincident & is_open

        def differ(flux):
            div = mesh.with_ghosts(mesh.divergence(flux))
            uneven = np.zeros(mesh.n_faces)
            uneven[:n] = div[mesh.left[:n]] - div[mesh.right[:n]]
            return np.where(passed, uneven, 0.0)

        def square(x, y):
            return mesh.ranks.sum((x * y)[mesh.face_owned].sum())

        U = np.where(passed, 0.0, step.U)
        residual = -differ(np.where(is_open, U, 0.0))
        direction = residual
        size = first_size = square(residual, residual)
        for _ in range(MAX_PLACE_ITERATIONS):
            if size <= PLACE_TOLERANCE**2 * first_size:
                break
            image = differ(direction)
            length = size / square(direction, image)
            U = U + length * direction
            residual = residual - length * image
            last_size = size
            size = square(residual, residual)
            direction = residual + size / last_size * direction
        return U

    def _find_givers(self, U):
        """The cells (n_faces,) from which mass flows."""
        mesh = self.mesh
        n = mesh.n_inner
        giving = mesh.left.copy()
        giving[:n] = np.where(U[:n] > 0, mesh.left[:n], mesh.right[:n])
        return giving

    def _find_moving_faces(self, step, giving):
        """Where (n_faces,) fluxes are corrected: no cell beside is full, and the giver has mass."""
        mesh = self.mesh
        n = mesh.n_inner
        mass = np.maximum(step.old, step.rho)
        largest = mesh.ranks.max(mass.max(initial=0.0))
        own = np.stack([step.full, mass > EMPTY_CELL * largest])
        full, has_mass = mesh.with_ghosts(own.astype(float)) > 0
        moves = has_mass[giving] & ~full[mesh.left]
        moves[:n] &= ~full[mesh.right[:n]]
        return moves

    def _carry(self, step, U):
        """The masses (n_faces,) that `muscl` carries through the faces; None for too many substeps.

        They are steered by the fluxes U (n_faces,).
        """
        mesh = self.mesh
        muscl = self._muscl
        count = self._count_substeps(U, step.tau)
        if count > MAX_SUBSTEPS:
            return None

        muscl.start(step.old)
        muscl.prepare(U, step.tau / count, lambda: face_velocity(mesh, U))

        n_sides = len(self.stencil.face)
        moved = np.zeros(n_sides)
        rho = step.old
        for number in range(count):
            rho, _ = muscl.step(rho, self._no_inflow, number)
            moved += muscl.moved[:n_sides]
        from_left, from_right = self.stencil.see_from_faces(moved)
        return from_left - from_right

    def _count_substeps(self, U, tau):
        rate = self.mesh.ranks.max(self._muscl.rate(U))
        return max(1, math.ceil(tau * rate / self._muscl.cfl))

    # ---- how much of them -----------------------------------------------------------------------

    def _limit(self, step, A):
        """The corrections A (n_faces,), made smaller where a cell lacks mass, then where one lacks
        room: which leaves none without mass.
        """
        mesh = self.mesh
        A = A.copy()
        contents = self._find_content(step)
        order = downstream_order(np.maximum(A, 0), np.maximum(-A, 0), mesh.n_inner, self.stencil)
        orders = (order, order[::-1])
        largest_lack = CONTENT_ROUNDING * integrate(mesh, step.rho)

        is_consistent = True
        for direction, content, cells in zip(DIRECTIONS, contents, orders, strict=True):
            for _ in range(MAX_CONTENT_SWEEPS):
                lacked = self._sweep(A, direction, content, cells, True)
                if lacked <= largest_lack:
                    break
            is_consistent &= lacked <= largest_lack
        if not is_consistent:  # without what comes in, or goes out, one sweep is always enough
            for direction, content, cells in zip(DIRECTIONS, contents, orders, strict=True):
                self._sweep(A, direction, content, cells, False)
        return A

    def _sweep(self, A, direction, content, order, with_income):
        """Limit what leaves the cells in that direction, on all ranks; returns what they lacked."""
        sides = self.stencil
        geometry = (sides.start, sides.face, sides.sign)
        lacked = _limit_leaving(A, direction, content, order, *geometry, with_income)
        self._take_from_limiting_side(A, direction)
        return self.mesh.ranks.sum(lacked)

    def _find_content(self, step):
        """(the mass (n_cells,) that each cell can lose, the mass that it can gain)."""
        mesh = self.mesh
        energy = self.free_energy
        most = np.full(mesh.n_cells, self.upper)
        if energy.diffuses:
            own = np.maximum(step.old, step.rho)
            around = mesh.with_ghosts(own)[self.stencil.neighbour]
            highest = np.maximum.reduceat(around, self.stencil.start[:-1])
            most = np.minimum(most, np.maximum(own, highest))
        kept = MIN_KEPT_FRACTION if energy.singular else 0.0
        return mesh.volume * (1 - kept) * step.rho, mesh.volume * np.maximum(most - step.rho, 0)

    def _take_from_limiting_side(self, A, direction):
        """Take A of the side that gives in that direction, on faces between two ranks and on both
        copies of periodic ones.
        """
        mesh = self.mesh
        n = mesh.n_inner
        theirs = find_face_exchange(mesh)(A, A.copy())
        inner = A[:n]
        limiting = np.where(direction * inner > 0, mesh.left[:n], mesh.right[:n])
        A[:n] = np.where(limiting >= mesh.n_cells, theirs[:n], inner)

    def _keeps_inequality(self, step, rho, flux):
        """Whether the energy inequality of the module holds."""
        mesh = self.mesh
        energy = self.free_energy
        doors = self.doors
        slope, _ = energy.difference(rho, step.old)
        slope = slope + energy.potential((rho + step.old) / 2)
        changes = np.stack([slope * (step.old - rho), np.abs(slope) * (step.old + rho)])
        lost, size = integrate(mesh, changes)
        gone = doors.sum(flux[doors.faces] * doors.potential)
        return lost - gone - step.dissipated(mesh, flux) >= -INEQUALITY_ROUNDING * size


def _find_coincident(mesh):
    """Which faces (n_faces,) are between two cells with their points in one place."""
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    size = mesh.volume ** (1 / mesh.dim)
    local = mesh.with_ghosts(np.vstack([mesh.center - mesh.centroid, size]))
    apart = mesh.left_offset[:, :n] - mesh.right_offset[:, :n]  # of the centroids
    apart = apart + local[:-1, right] - local[:-1, left]
    least = COINCIDENT * np.minimum(local[-1, left], local[-1, right])
    coincident = np.zeros(mesh.n_faces, bool)
    coincident[:n] = np.linalg.norm(apart, axis=0) <= least
    return coincident


@numba.njit(cache=True, error_model="numpy")
def _limit_leaving(A, direction, content, order, start, face, sign, with_income):
    """Scale down what leaves each cell, in the given order, to what it holds.

    direction : 1 for mass, -1 for room, which runs against A; with_income : whether what comes in
    counts. Returns what the cells lacked.
    """
    lacked = 0.0
    for cell in order:
        outgoing = 0.0
        incoming = 0.0
        for s in range(start[cell], start[cell + 1]):
            outward = direction * sign[s] * A[face[s]]
            outgoing += max(outward, 0.0)
            incoming -= min(outward, 0.0)
        available = content[cell] + (incoming if with_income else 0.0)
        if outgoing <= available:
            continue
        lacked += outgoing - available
        for s in range(start[cell], start[cell + 1]):
            if direction * sign[s] * A[face[s]] > 0:
                A[face[s]] *= available / outgoing * (1 - 1e-15)
    return lacked
