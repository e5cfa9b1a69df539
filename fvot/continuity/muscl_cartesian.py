"""The `muscl` step on Cartesian meshes: third-order face values, one axis after the other.

Alternate x, y, z and z, y, x sweeps. A companion volume J is moved by the same volume fluxes, and
q = rho / J is what is reconstructed: constants survive the splitting of any divergence-free
velocity. J goes from 1 + tau/2 div u to 1 - tau/2 div u, so that q is the density in the middle of
the step, as in `finite_volume.muscl`. In a sweep, a face gets its value from its upwind cell c, the
next one upwind u and the downwind one d:

    A = |c - u|, B = |d - c|, nu = tau |U| / (J |K|), both differences of one sign (else a = 0)
    a = (1 - nu)/6 [(2 - nu) B + (1 + nu) A],  a <= B,  nu a <= (1 - Lambda) A,  q_face = c +- a

the third-order value of Leonard (1979) within his ULTIMATE bounds (1991), Lambda the part of J that
leaves the cell in this sweep: what remains is at least (1 - Lambda) u >= 0, so the step is positive
while Lambda <= 1 in every sweep. With what leaves in it, o, and the divergences of the axes before,
d, this is tau (o + d - div u / 2) <= 1; steps obey tau (o + d + max(-div u, 0) / 2) <= 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from ..finite_volume.muscl import (
    DEFAULT_CFL,
    NEGLIGIBLE_GROWTH,
    SMALLEST_DENSITY,
    companion_volume,
)
from ..parallel import LayerExchange

# Layers of cells beyond a block that face values need.
GHOST_LAYERS = 2


class Sweeps:
    """Sweeps over this rank's block of a Cartesian mesh, see `scheme.ExplicitScheme`."""

    cfl = DEFAULT_CFL
    convex = True  # the rate is a convex function of U

    def __init__(self, mesh: Any, sharp: float):
        self.mesh = mesh
        self.block = mesh.block
        self.sharp = sharp
        self.axes = range(mesh.dim)

        block = mesh.block
        self.exchange = [
            LayerExchange(
                mesh.ranks,
                block.below[axis],
                block.above[axis],
                axis,
                GHOST_LAYERS,
                block.thinnest[axis],
            )
            for axis in self.axes
        ]
        self.sign = [mesh.normal[axis, block.faces[axis]] for axis in self.axes]
        self.walls = [list(_find_walls(block, axis, mesh.n_inner)) for axis in self.axes]

    def rate(self, U: Array) -> float:
        """The largest rate of outflow from a cell's companion volume in any sweep.

        tau rate <= 1 keeps every sweep positive, see the module.
        """
        worst = 0.0
        parts = []
        out = []
        for axis in self.axes:
            fluxes = self._find_fluxes(U, axis)
            low, high = _split_sides(fluxes, axis)
            parts.append((low, high))
            out.append(np.maximum(high, 0) - np.minimum(low, 0))

        # Round-off is none, relative to axes that come first in one of the orders.
        squeezed = -sum(high - low for low, high in parts) / 2
        is_squeezed = squeezed > NEGLIGIBLE_GROWTH * np.maximum(out[0], out[-1])
        squeezed = np.where(is_squeezed, squeezed, 0.0) if is_squeezed.any() else None
        for order in (self._find_order(0), self._find_order(1)):
            emptied = 0.0
            for axis in order:
                low, high = parts[axis]
                outflow = out[axis] + emptied
                if squeezed is not None:
                    outflow = outflow + squeezed
                worst = max(worst, float(outflow.max()))
                emptied = emptied + (high - low)
        with np.errstate(over="ignore"):  # of a velocity that `ContinuityEquation` refuses
            return worst / self.mesh.volume[0]

    def _find_order(self, count):
        """The axes in the order of their sweeps, in the step of that number."""
        return self.axes if count % 2 == 0 else self.axes[::-1]

    def _find_fluxes(self, U, axis):
        """U (n_faces,) as a lattice of faces, positive in the direction of the axis."""
        return U[self.block.faces[axis]] * self.sign[axis]

    def start(self, rho: Array) -> None:
        """Do nothing: the scheme does not depend on the density."""

    def prepare(self, U: Array, tau: float, velocity: Callable[[], Array]) -> None:
        """Take the fluxes U (n_faces,) and the step tau; velocity() is not needed."""
        U = tau * U / self.mesh.volume[0]
        self.courant = [self._find_fluxes(U, axis) for axis in self.axes]
        # Of even and of odd steps. Built when needed: a changing velocity needs only one of them.
        self.sweeps: list[dict[int, _Sweep] | None] = [None, None]

    def _find_sweeps(self, count):
        """The `_Sweep` along each axis, for the step of that number; the last ones are kept."""
        parity = count % 2
        if self.sweeps[parity] is None:
            self.sweeps[parity] = self._build_sweeps(count)
        return self.sweeps[parity]

    def _build_sweeps(self, count):
        J = self._find_companion()
        sweeps = {}
        for axis in self._find_order(count):
            courant = self.courant[axis]
            low, high = _split_sides(courant, axis)
            outflow = np.maximum(high, 0) - np.minimum(low, 0)
            rest = J - outflow
            padded_J = self._pad(J, axis)
            padded_rest = self._pad(rest, axis)
            sweeps[axis] = _Sweep.build(courant, padded_J, padded_rest, axis)
            J = J - high + low
        return sweeps

    def _find_companion(self):
        """J before the first sweep."""
        growth = np.zeros(self.block.shape)
        for axis in self.axes:
            low, high = _split_sides(self.courant[axis], axis)
            growth += (high - low) / 2
        return companion_volume(growth)

    def step(self, rho: Array, entering: Array, count: int) -> tuple[Array, Array]:
        """The new rho (n_cells,), and what left through each boundary face (n_faces - n_inner,).

        entering (n_faces - n_inner,) : the density of what enters there
        count : the number of the step, which says which axis comes first
        """
        mesh = self.mesh
        sweeps = self._find_sweeps(count)
        rho = rho.reshape(self.block.shape)
        crossed = np.zeros(mesh.n_faces - mesh.n_inner)
        for axis in self._find_order(count):
            rho = self._sweep(rho, sweeps[axis], axis, entering, crossed)
        return rho.ravel(), crossed

    def _sweep(self, rho, sweep, axis, entering, crossed):
        """rho after the sweep along an axis; what left through its walls goes to *crossed*."""
        old = self._pad(rho, axis)
        moved = np.empty(sweep.courant.shape)
        lattices = (old, sweep.J, sweep.courant, sweep.nu, sweep.room, moved)
        lines = [_view_lines(u, axis) for u in lattices]
        _compute_face_fluxes(*lines, self.sharp)

        for wall in self.walls[axis]:
            wall.let_in(sweep.courant, entering, moved)
            outflow = wall.outward * moved[wall.layer].ravel()
            crossed[wall.faces] = outflow * self.mesh.volume[0]

        new = np.empty(self.block.shape)
        lines = [_view_lines(u, axis) for u in (old, moved, new)]
        _update(*lines)
        return new

    def _pad(self, u, axis):
        """u with two layers more on both sides of an axis.

        Beyond a wall the outermost cell is repeated, which makes face values upwind there.
        """
        n = u.shape[axis]
        end = GHOST_LAYERS + n
        shape = list(u.shape)
        shape[axis] = n + 2 * GHOST_LAYERS
        padded = np.empty(shape)

        # Views whose first index is the one along the axis.
        along = np.moveaxis(padded, axis, 0)
        given = np.moveaxis(u, axis, 0)
        along[GHOST_LAYERS:end] = given
        along[:GHOST_LAYERS] = given[:1]
        along[end:] = given[n - 1 :]
        return self.exchange[axis](padded)


def _split_sides(faces, axis):
    """A lattice of faces as seen by its cells: on the lower and on the upper side of each."""
    cut = (slice(None),) * axis
    lower = (*cut, slice(None, -1))
    upper = (*cut, slice(1, None))
    return faces[lower], faces[upper]


def _view_lines(u, axis):
    """A view (before, along and after) of a lattice.

    Steps along the axis are steps of `after` in the last index.
    """
    shape_before = u.shape[:axis]
    n_before = int(np.prod(shape_before))
    return u.reshape(n_before, -1)


@dataclass(frozen=True)
class _Sweep:
    """The velocity as a sweep along one axis sees it: lattices of faces, except for J.

    courant : tau U / |K|, positive in the direction of the axis
    J : companion volume of the cells before the sweep, padded
    nu : |courant| / J of the upwind cell
    room : the part of J that stays there
    """

    courant: Array
    J: Array
    nu: Array
    room: Array

    @classmethod
    def build(cls, courant: Array, J: Array, rest: Array, axis: int) -> _Sweep:
        """The sweep for padded lattices of cells: J, and what stays of it."""
        cut = (slice(None),) * axis
        below = (*cut, slice(GHOST_LAYERS - 1, -GHOST_LAYERS))
        above = (*cut, slice(GHOST_LAYERS, 1 - GHOST_LAYERS))
        upwind_J = np.where(courant > 0, J[below], J[above])
        upwind_rest = np.where(courant > 0, rest[below], rest[above])
        nu = np.abs(courant) / upwind_J
        room = np.maximum(upwind_rest, 0.0)
        return cls(np.ascontiguousarray(courant), J, nu, room)


@dataclass(frozen=True)
class _Wall:
    """A side of the block on the boundary of the domain.

    outward : +1 on the upper side, -1 on the lower
    layer : its index in a lattice of faces
    faces : the numbers of its faces among the boundary faces
    """

    outward: float
    layer: tuple
    faces: IntArray

    def let_in(self, courant: Array, entering: Array, moved: Array) -> None:
        """Where the flow enters, let it bring the density *entering* (n_boundary,)."""
        speed = courant[self.layer]
        density = entering[self.faces].reshape(speed.shape)
        inflow = speed * density
        enters = self.outward * speed < 0
        moved[self.layer] = np.where(enters, inflow, moved[self.layer])


def _find_walls(block, axis, n_inner) -> Iterator[_Wall]:
    """The sides of the block across an axis on the boundary."""
    lower_side = (-1.0, block.below[axis], 0)
    upper_side = (1.0, block.above[axis], -1)
    cut = (slice(None),) * axis
    for outward, neighbour, end in (lower_side, upper_side):
        if neighbour is None:
            layer = (*cut, end)
            faces = block.faces[axis][layer]
            yield _Wall(outward, layer, faces.ravel() - n_inner)


@numba.njit(cache=True, error_model="numpy")
def _compute_face_fluxes(rho, J, courant, nu, room, moved, sharp):
    """rho / |K| *moved* through each face.

    Arrays are (before, along and after); rho and J have GHOST_LAYERS cells more on both sides: face
    f lies between their cells f + 1 and f + 2. There are selections instead of branches, so that
    the compiler uses vectors.
    """
    n = courant.shape[1]
    after = (rho.shape[1] - n) // 3
    for i in range(len(rho)):
        q = rho[i] / J[i]
        q0 = q[:n]
        q1 = q[after : after + n]
        q2 = q[2 * after : 2 * after + n]
        q3 = q[3 * after :]
        for f in range(n):
            speed = courant[i, f]
            v0 = q0[f]
            v1 = q1[f]
            v2 = q2[f]
            v3 = q3[f]
            v = nu[i, f]
            space = room[i, f]
            ahead = speed > 0
            u = v0 if ahead else v3
            c = v1 if ahead else v2
            d = v2 if ahead else v1
            A = c - u
            B = d - c
            amount = abs(speed)
            size_A = abs(A)
            size_B = abs(B)
            a = (1 - v) / 6 * ((2 - v) * size_B + (1 + v) * size_A)
            if sharp > 0:  # the superbee value where that is steeper, as in `muscl`
                h = (1 - v) / 2 * size_B
                steep = 1.5 * a - 0.5 * h
                a += sharp * max(max(min(2 * steep, h), min(steep, 2 * h)) - a, 0.0)
            extra = min(amount * min(a, size_B), space * size_A)
            extra = extra if A * B > 0 else 0.0
            flux = amount * c + (extra if B > 0 else -extra)
            moved[i, f] = flux if ahead else -flux


@numba.njit(cache=True, error_model="numpy")
def _update(old, moved, new):
    """The new rho.

    What leaves comes first, then what enters, so that no value falls below zero by round-off.
    """
    n = new.shape[1]
    n_faces = moved.shape[1]
    after = n_faces - n
    for i in range(len(new)):
        low = moved[i, :n]
        high = moved[i, after:]
        kept = old[i, 2 * after : 2 * after + n]
        for k in range(n):
            left = max(high[k], 0.0) - min(low[k], 0.0)
            value = max(kept[k] - left, 0.0) + (max(low[k], 0.0) - min(high[k], 0.0))
            new[i, k] = value if value > SMALLEST_DENSITY else 0.0  # denormal numbers are slow
