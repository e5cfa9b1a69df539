"""Velocities of cells from fluxes through their faces, and a velocity between points and times."""

from functools import lru_cache

import numba
import numpy as np

from ..arguments.functions import is_number
from ..mesh.points import remove_periods
from .stencil import Stencil, gradient_weights, gradients


def cell_velocity(mesh, U):
    """Mean velocities (dim, n_cells) from face fluxes: |K| v_K = sum_s U_s (x_s - x_K), exact for
    constant velocities.
    """
    moment = np.zeros((mesh.dim, mesh.n_local))
    _add_moments(
        U, mesh.n_inner, mesh.left, mesh.right, mesh.left_offset, mesh.right_offset, moment
    )
    return moment[:, : mesh.n_cells] / mesh.volume


class VelocityField:
    """v(points, t) from means (n_times, dim, n_cells) of cells at increasing times: linear in each
    cell, and in time.
    """

    def __init__(self, mesh, t, velocity):
        self.mesh = mesh
        self.t = t
        self.velocity = velocity
        self._stencil = Stencil(mesh)
        self._weights = gradient_weights(self._stencil)
        self._slopes = lru_cache(2)(
            self._slopes
        )  # those before and after the time of the last call

    def __call__(self, points, t):
        """v (dim, n) at points (dim, n), the same on every rank; `InputError` for points outside
        the mesh, or other times.
        """
        self.mesh.ranks.check_same("t", t)
        return self.within(self.mesh.locate(points), np.asarray(points, float), t)

    def within(self, cell, points, t):
        """v (dim, n) at points, which are in this rank's cells (n,), -1 for those of other ranks."""
        before, part = place(self.mesh.ranks, t, self.t)
        mine = np.flatnonzero(cell >= 0)
        v = np.zeros(points.shape)
        k = cell[mine]
        offset = remove_periods(self.mesh, points[:, mine] - self.mesh.centroid[:, k])
        for weight, i in ((1 - part, before), (part, before + 1)):
            if weight:
                v[:, mine] += weight * (
                    self.velocity[i][:, k]
                    + np.einsum("ijk,jk->ik", self._slopes(i)[:, :, k], offset)
                )
        return self.mesh.ranks.sum(v)

    def _slopes(self, i):
        """[i, j] = d v_i / d x_j (dim, dim, n_cells) at recorded time i."""
        return gradients(self.mesh, self._stencil, self._weights, self.velocity[i])


def place(ranks, t, times):
    """(number of the recorded time before t, part of the way to the next one); `InputError` for
    times outside all.
    """
    slack = 1e-12 * (times[-1] - times[0])
    ranks.check(
        is_number(t) and times[0] - slack <= t <= times[-1] + slack,
        f"t must be a time between {times[0]:g} and {times[-1]:g}, not {t!r}",
    )
    t = min(max(t, times[0]), times[-1])
    before = min(int(np.searchsorted(times, t, side="right")) - 1, len(times) - 2)
    return before, (t - times[before]) / (times[before + 1] - times[before])


@numba.njit(cache=True, error_model="numpy")
def _add_moments(U, n_inner, left, right, left_offset, right_offset, moment):
    for axis in range(len(moment)):
        for f in range(len(U)):
            moment[axis, left[f]] += U[f] * left_offset[axis, f]
        for f in range(n_inner):
            moment[axis, right[f]] -= U[f] * right_offset[axis, f]
