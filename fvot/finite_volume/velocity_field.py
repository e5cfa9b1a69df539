"""Velocities of cells from fluxes through their faces, and a velocity between points and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ..arguments.functions import is_number
from ..arguments.types import Array, ArrayLike, IntArray
from ..mesh.points import remove_periods
from ..parallel import Ranks
from .stencil import Stencil, gradient_weights, gradients

if TYPE_CHECKING:
    from ..mesh import Mesh

# Recorded times whose slopes are kept: the two around the time of the last call.
KEPT_SLOPES = 2

# How far a time may lie outside the recorded ones, relative to their range: rounding.
TIME_ROUNDING = 1e-12


def cell_velocity(mesh: Mesh, U: Array) -> Array:
    """Mean velocities (dim, n_cells) from face fluxes: |K| v_K = sum_s U_s (x_s - x_K), exact for
    constant velocities.
    """
    moment = np.zeros((mesh.dim, mesh.n_local))
    _add_moments(
        U, mesh.n_inner, mesh.left, mesh.right, mesh.left_offset, mesh.right_offset, moment
    )
    return moment[:, : mesh.n_cells] / mesh.volume


def face_velocity(mesh: Mesh, U: Array) -> Array:
    """Velocities (dim, n_faces): the mean of the two cells, with the normal part of U (n_faces,),
    what is carried through the faces. Collective.
    """
    velocity = np.empty((mesh.dim, mesh.n_faces))
    _average_with_flux(
        U,
        mesh.with_ghosts(cell_velocity(mesh, U)),
        mesh.n_inner,
        mesh.left,
        mesh.right,
        mesh.area,
        mesh.normal,
        velocity,
    )
    return velocity


@numba.njit(cache=True, error_model="numpy")
def _average_with_flux(U, cells, n_inner, left, right, area, normal, velocity):
    dim = len(cells)
    for f in range(len(U)):
        lacking = U[f] / area[f] if area[f] > 0 else 0.0  # no area: at the radius 0
        for axis in range(dim):
            mean = cells[axis, left[f]]
            if f < n_inner:
                mean = (mean + cells[axis, right[f]]) / 2
            velocity[axis, f] = mean
            lacking -= mean * normal[axis, f]
        for axis in range(dim):
            velocity[axis, f] += lacking * normal[axis, f]


def divide_by_density(current: Array, rho: Array) -> Array:
    """The velocity current / rho (dim, n_cells); 0 where there is no mass."""
    return np.divide(current, rho, out=np.zeros_like(current), where=rho > 0)


class VelocityField:
    """v(points, t) from means (n_times, dim, n_cells) of cells at increasing times: linear in each
    cell, and in time. Any number of components will do.
    """

    def __init__(self, mesh: Mesh, t: Array, velocity: Any):
        self.mesh = mesh
        self.t = t
        self.velocity = velocity
        self._stencil = Stencil(mesh)
        self._weights = gradient_weights(self._stencil)
        self._slopes: dict[int, Array] = {}

    def __call__(self, points: ArrayLike, t: float) -> Array:
        """v (dim, n) at points (dim, n), the same on every rank. Collective.

        Raises `InputError` for points outside the mesh, or times outside t.
        """
        self.mesh.ranks.check_same("t", t)
        return self.within(self.mesh.locate(points), np.asarray(points, float), t)

    def within(self, cell: IntArray, points: Array, t: float) -> Array:
        """v (dim, n) at points in this rank's cells (n,), -1 for those of others. Collective."""
        before, part = find_interval(self.mesh.ranks, t, self.t)
        own = np.flatnonzero(cell >= 0)
        k = cell[own]
        from_centroid = points[:, own] - self.mesh.centroid[:, k]
        offset = remove_periods(self.mesh, from_centroid)

        v = np.zeros((self.velocity[before].shape[0], points.shape[1]))
        for weight, i in ((1 - part, before), (part, before + 1)):
            if weight:
                slopes = self._find_slopes(i)[:, :, k]
                change = np.einsum("ijk,jk->ik", slopes, offset)
                v[:, own] += weight * (self.velocity[i][:, k] + change)
        return self.mesh.ranks.sum(v)

    def _find_slopes(self, i):
        """[i, j] = d v_i / d x_j (dim, dim, n_cells) at recorded time i; the last two are kept."""
        slopes = self._slopes.pop(i, None)
        if slopes is None:
            slopes = gradients(self.mesh, self._stencil, self._weights, self.velocity[i])
        self._slopes[i] = slopes
        if len(self._slopes) > KEPT_SLOPES:
            del self._slopes[next(iter(self._slopes))]
        return slopes


def find_interval(ranks: Ranks, t: float, times: Array) -> tuple[int, float]:
    """(number of the recorded time before t, part of the way to the next one); `InputError` for
    times outside all of them.
    """
    slack = TIME_ROUNDING * (times[-1] - times[0])
    ranks.check(
        is_number(t) and times[0] - slack <= t <= times[-1] + slack,
        f"t must be a time between {times[0]:g} and {times[-1]:g}, not {t!r}",
    )
    t = min(max(t, times[0]), times[-1])
    n_passed = int(np.searchsorted(times, t, side="right"))
    before = min(n_passed - 1, len(times) - 2)
    begin = times[before]
    end = times[before + 1]
    return before, (t - begin) / (end - begin)


@numba.njit(cache=True, error_model="numpy")
def _add_moments(U, n_inner, left, right, left_offset, right_offset, moment):
    for axis in range(len(moment)):
        for f in range(len(U)):
            moment[axis, left[f]] += U[f] * left_offset[axis, f]
        for f in range(n_inner):
            moment[axis, right[f]] -= U[f] * right_offset[axis, f]
