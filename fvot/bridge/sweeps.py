"""The self-consistent reference: chains that are tilted towards the bridge itself.

A chain of jumps of length h has the cost of a cosh: where the bridge moves fast against its noise,
h |v| / eps > 1, its action is too small by about (h |v| / eps)^2 / 16. Against the reference that
is tilted by psi = log g of the last bridge (`fokker_planck.reference`), which already moves, the
bridge has little to do: its own g is about 1. The relative entropies of both references differ by

    KL(pi | P) = KL(pi | P') + <rho_1, psi_1> - <rho_0, psi_0>

and this holds for every psi: only the growth c has to be right where there is mass. All references
but the last one are fitted loosely.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments.types import Array
from ..fokker_planck.reference import Reference, find_longest_step
from ..mesh.cell_values import integrate
from .kernel import EulerStep, Kernel

# The largest growth of a reference, times the length of a stage: from 1 on a step would make
# negative values.
MAX_STAGE_GROWTH = 0.5


# The part of the time before a snapshot with jumps over which psi stays as it is: smooth functions
# are resolved by more steps and finer meshes.
FROZEN_PART = 1 / 8

# Ratio of mean squares of the slope of log g, at a snapshot and a step before, that says jumps.
ROUGHNESS_RATIO = 1.5


# log g where g underflows, far from all mass: its exponential and the inverse are finite.
LOWEST_LOG = -700.0


def take_log(g: Array) -> Array:
    """log g, and `LOWEST_LOG` where g is 0."""
    logs = np.full_like(g, LOWEST_LOG)
    return np.log(g, out=logs, where=g > 0)


def build_kernels(reference: Reference, times: Array, n_steps: int, deaths: bool) -> list[Kernel]:
    """The `Kernel`s of an equation between snapshots at times (m + 1,), each of n_steps steps.
    Collective.
    """
    kernels = []
    for begin, end in zip(times, times[1:]):
        tau = (end - begin) / n_steps
        s = reference.scheme.g * tau
        if reference.steady:
            rates = reference.find_rates(begin)
            steps = [EulerStep(rates, s, _find_exits(rates, deaths))] * n_steps
        else:
            steps = []
            for n in range(n_steps):
                rates = reference.find_rates(begin + (n + 0.5) * tau)
                steps.append(EulerStep(rates, s, _find_exits(rates, deaths)))
        different = dict.fromkeys(steps)
        longest = min(find_longest_step(step.rates, reference.scheme.g) for step in different)
        reference.mesh.ranks.check(
            tau <= longest,
            f"mass grows so fast that steps must be at most {longest:.3g}, and with n_steps="
            f"{n_steps} they are {tau:.3g}: take n_steps={int(np.ceil((end - begin) / longest))} "
            "or more",
        )
        kernels.append(Kernel(steps, tau, reference.scheme))
    return kernels


def _find_exits(rates, deaths):
    """What `EulerStep` calls exits: decay and what leaves through the boundary."""
    if not deaths:
        return None
    mesh = rates.mesh
    inner = mesh.n_inner
    exits = np.zeros(mesh.n_cells)
    np.add.at(exits, mesh.left[inner:], rates.a[inner:])
    if rates.decay is not None:
        exits += rates.decay
    return exits


class TiltedReference:
    """A reference that is tilted by psi (m, n_steps + 1, n_cells) between the snapshots.

    Towards a snapshot with jumps, or without mass somewhere, log g is no function that steps
    resolve: it changes with the distance over the root of the time that is left. There psi stays as
    it is `FROZEN_PART` of the time before.
    """

    def __init__(self, reference: Reference, times: Array, n_steps: int, deaths: bool):
        self.reference = reference
        self.times = times
        self.n_steps = n_steps
        self.deaths = deaths
        self.psi = np.zeros((len(times) - 1, n_steps + 1, reference.mesh.n_cells))
        self.cut: list[list[Any]] = []

    def add(self, f: Array, g: Array) -> None:
        """Tilt it further, by g (m, n_steps + 1, n_cells) of a bridge with that f. Collective."""
        self.psi[:, :-1] += take_log(g[:, :-1])
        for k in range(len(g)):
            end = f[k, -1] * g[k, -1]
            if self._is_rough(end, self.psi[k, -2], self.psi[k, -1], g[k, -1]):
                n_frozen = math.ceil(FROZEN_PART * self.n_steps)
                self.psi[k, -n_frozen:] = self.psi[k, -n_frozen - 1]
            else:
                self.psi[k, -1] += np.log(g[k, -1])

    def _is_rough(self, end, psi_before, psi_end, g_end):
        """Whether log g is infinite at a snapshot of density end (n_cells,), or much steeper there
        than a step before. Collective.
        """
        mesh = self.reference.mesh
        if mesh.ranks.min(g_end.min(initial=np.inf)) <= 0:
            return True
        n = mesh.n_inner
        left = mesh.left[:n]
        right = mesh.right[:n]
        local = mesh.with_ghosts(np.stack([end, psi_before, psi_end + np.log(g_end)]))
        change = local[:, right] - local[:, left]
        weight = mesh.face_owned[:n] * (local[0, left] + local[0, right])
        weight = weight * mesh.area[:n] / mesh.distance[:n]
        before, after = mesh.ranks.sum(change[1:] ** 2 @ weight)
        return after > ROUGHNESS_RATIO * before

    def build_kernels(self) -> list[Kernel]:
        """Its `Kernel`s between the snapshots. Collective."""
        self.cut = []
        kernels = []
        for k, (begin, end) in enumerate(zip(self.times, self.times[1:])):
            tau = (end - begin) / self.n_steps
            made = [
                self._build_step(k, n, begin + (n + 0.5) * tau, tau) for n in range(self.n_steps)
            ]
            kernels.append(Kernel([step for step, _ in made], tau, self.reference.scheme))
            self.cut.append([is_cut for _, is_cut in made])
        return kernels

    def _build_step(self, k, n, t, tau):
        """(the `EulerStep` of step n in part k, in which cells its growth is cut off)."""
        reference = self.reference
        s = reference.scheme.g * tau
        before, after = self.psi[k, n : n + 2]
        middle = (before + after) / 2
        exits = None
        if self.deaths:
            exits = np.exp(-middle) * _find_exits(reference.find_rates(t), self.deaths)
        slope = (after - before) / tau
        rates, is_cut = reference.tilt(t, middle, slope, MAX_STAGE_GROWTH / s)
        return EulerStep(rates, s, exits), is_cut

    def find_cost(self, rho: Array) -> float:
        """KL(pi | P) - KL(pi | P') of bridges through densities (m + 1, n_cells). Collective."""
        mesh = self.reference.mesh
        psi = self.psi
        gains = [integrate(mesh, rho[k + 1] * psi[k, -1]) for k in range(len(psi))]
        losses = [integrate(mesh, rho[k] * psi[k, 0]) for k in range(len(psi))]
        return sum(gains) - sum(losses)

    def find_cut_mass(self, rho: Array) -> float:
        """The largest part of a density (m, n_steps + 1, n_cells) in cells where the growth of the
        reference was cut off. Collective.
        """
        mesh = self.reference.mesh
        parts = [
            integrate(mesh, density * is_cut) / integrate(mesh, density)
            for densities, cuts in zip(rho, self.cut)
            for density, is_cut in zip(densities, cuts)
        ]
        return max(parts, default=0.0)
