"""Steps of the chain between two snapshots: densities forwards, functions backwards, and what
crosses the faces of the bridge between them.

A step is R = sum_k c_k r^k with the implicit Euler steps r = (|K| + s A)^-1 |K|, s = g tau
(`fokker_planck.schemes`); its transpose carries functions backwards. The matrix is an M-matrix:
factorised without pivots, its triangular solves only add, and each transition probability has a
small relative error, also 1e-200. Solved by increments, or by Krylov methods, they would not.

A step with rho = f g at both ends moves, with f_j = r^j f and g_j = (r^T)^j g,

    |K| (rho+ - rho) = -tau sum of F over the faces of K
    F_KL = g sum_k c_k sum_(j <= k) (a_KL f_j,K g_(k-j+1),L - a_LK f_j,L g_(k-j+1),K)

exactly, for all weights c; growth drops out. With deaths, what decays and what leaves through the
boundary goes to one more state, the cemetery, where g has one value for all times: the faces to it
are one more face of each cell.

Weights c_k < 0 make some R negative. The positive partner of the scheme takes its place in the
first and last steps, in as many as it takes (its order is 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import linalg
from ..arguments.types import Array
from ..finite_volume.rates import Rates

BRIDGE_PREFIX = "fvot_bridge_"

# Cells times different steps, by the dimension, up to which factorisations are kept, at about 1 kB
# for each in the plane; beyond that each is made anew for each use.
KEPT_FACTORISATIONS = {1: 10**8, 2: 8 * 10**6, 3: 5 * 10**5}

# Cells of a mesh up to which one rank factorises the whole matrix: MUMPS, which shares the memory,
# takes five times as long for small ones.
ONE_RANK_CELL_LIMIT = 200_000


class EulerStep:
    """r and r^T of one step; the factorisation is made when first needed.

    exits (n_cells,) : the rate, times |K|, at which mass of each cell goes to the cemetery, in the
        units of g there; None where there is no cemetery
    """

    def __init__(self, rates: Rates, s: float, exits: Array | None = None):
        self.rates = rates
        self.mesh = rates.mesh
        self.s = s
        self.exits = exits
        self._system: linalg.System | None = None

    def forward(self, f: Array) -> Array:
        """r f (n_cells,). Collective."""
        return self._find_system()(self.mesh.volume * f)

    def backward(self, g: Array, at_cemetery: float) -> Array:
        """r^T g (n_cells,). Collective."""
        rhs = self.mesh.volume * g
        if self.exits is not None:
            rhs += self.s * at_cemetery * self.exits
        return self._find_system().solve_transposed(rhs)

    def _find_system(self):
        if self._system is None:
            mesh = self.mesh
            matrix = self.rates.pattern.matrix(self.rates, self.s)
            is_small = mesh.n_cells_global <= ONE_RANK_CELL_LIMIT
            name = "lu" if is_small else "shared"
            method = linalg.find_method(name, mesh.dim, mesh.ranks.size)
            self._system = linalg.System(
                mesh.ranks, matrix, method, prefix=BRIDGE_PREFIX, rtol=1e-10
            )
        return self._system

    def destroy(self) -> None:
        """Give the memory of the factorisation back. Collective."""
        if self._system is not None:
            self._system.destroy()
        self._system = None


class Crossing(NamedTuple):
    """What a step of the bridge moves.

    flux (n_faces,) : per time, along the normals
    deaths (n_cells,) : the mass that dies in each cell
    """

    flux: Array
    deaths: Array


class Kernel:
    """The steps of the chain between two snapshots.

    steps : an `EulerStep` for each, which may be the same one
    tau : their length
    n_positive : steps at each end that are those of the positive partner
    """

    def __init__(self, steps: Sequence[EulerStep], tau: float, scheme: Any):
        self.steps = steps
        self.tau = tau
        self.scheme = scheme
        self.n_positive = 0
        mesh = steps[0].mesh
        n_different = len(set(map(id, steps)))
        size = n_different * mesh.n_cells_global
        self._keeps = n_different == 1 or size <= KEPT_FACTORISATIONS[mesh.dim]

    def __len__(self):
        return len(self.steps)

    @property
    def is_positive(self) -> bool:
        """Whether all steps are non-negative, by their weights."""
        return self.scheme.c.min() >= 0 or 2 * self.n_positive >= len(self)

    def use_more_positive_steps(self) -> None:
        """Take the positive partner in one step at each end, or in twice as many as before."""
        self.n_positive = max(2 * self.n_positive, 1)

    def _find_weights(self, n):
        """(weights of the powers, weights of their fluxes) of step n."""
        from_end = min(n, len(self) - 1 - n)
        if from_end < self.n_positive:
            return self.scheme.partner, self.scheme.partner_b
        return self.scheme.c, self.scheme.b

    def forward(self, n: int, f: Array) -> tuple[Array, float]:
        """(R f (n_cells,), this rank's part of the mass that goes to the cemetery) of step n.
        Collective.
        """
        step = self.steps[n]
        weights, flux_weights = self._find_weights(n)
        powers = self._list_powers(step.forward, f, len(weights))
        self._release(step)
        died = 0.0
        if step.exits is not None:
            died = self.tau * float(step.exits @ _sum(flux_weights, powers))
        return _sum(weights, powers), died

    def backward(self, n: int, g: Array, at_cemetery: float) -> Array:
        """R^T g (n_cells,) of step n. Collective."""
        step = self.steps[n]
        weights, _ = self._find_weights(n)
        powers = self._list_powers(lambda u: step.backward(u, at_cemetery), g, len(weights))
        self._release(step)
        return _sum(weights, powers)

    def cross(self, n: int, f: Array, g: Array, at_cemetery: float) -> Crossing:
        """What step n moves, from f (n_cells,) at its begin and g (n_cells,) at its end.
        Collective.
        """
        step = self.steps[n]
        weights, flux_weights = self._find_weights(n)
        forward = self._list_powers(step.forward, f, len(weights))
        backward = self._list_powers(lambda u: step.backward(u, at_cemetery), g, len(weights))
        self._release(step)

        mesh = step.mesh
        inner = mesh.n_inner
        left = mesh.left[:inner]
        right = mesh.right[:inner]
        flux = np.zeros(mesh.n_faces)
        # f_j goes with the sum of c_k g_(k - j + 1) over k >= j
        for j, f_j in enumerate(forward):
            partner = sum(weights[k] * backward[k - j] for k in range(j, len(weights)))
            source = mesh.with_ghosts(f_j)
            target = mesh.with_ghosts(partner)
            flux[:inner] += step.rates.a[:inner] * source[left] * target[right]
            flux[:inner] -= step.rates.b[:inner] * source[right] * target[left]
        flux *= self.scheme.g

        deaths = np.zeros(mesh.n_cells)
        if step.exits is not None:
            exiting = at_cemetery * _sum(flux_weights, forward)
            self._share_exits(step, exiting, flux, deaths)
        return Crossing(flux, deaths)

    def _share_exits(self, step, exiting, flux, deaths):
        """Add what goes to the cemetery, exiting (n_cells,) times the rates of the exits, to the
        fluxes through the boundary and to the deaths.
        """
        mesh = step.mesh
        inner = mesh.n_inner
        here = mesh.left[inner:]
        leaving = step.rates.a[inner:]
        through_boundary = np.zeros(mesh.n_cells)
        np.add.at(through_boundary, here, leaving)
        flux[inner:] += leaving * exiting[here]
        deaths += self.tau * np.maximum(step.exits - through_boundary, 0) * exiting

    def _list_powers(self, apply, u, count):
        powers = []
        for _ in range(count):
            u = apply(u)
            powers.append(u)
        return powers

    def _release(self, step):
        if not self._keeps:
            step.destroy()

    def destroy(self) -> None:
        """Give the memory of all factorisations back. Collective."""
        for step in self.steps:
            step.destroy()


def _sum(weights, powers):
    return sum(
        (weight * power for weight, power in zip(weights, powers) if weight),
        np.zeros_like(powers[0]),
    )
