"""What `limited` adds to the fluxes of Scharfetter and Gummel, F = a rho_left - b rho_right.

With U = a - b and x = |U| / k = |log(a / b)|, F is the central flux with numerical diffusion: N
more than k,

    N = mu |U| / 2,   mu = coth(x/2) - 2/x,

some U^2 / 12 k for small x, and |U| / 2 for large x, where F is the upwind flux. It is taken away
as far as the density is smooth. K is the upwind cell of a face s, L the cell behind the face:

1. g = least-squares gradient in K; d = rho_L - rho_K; d' = 2 g.(x_L - x_K) - d, which on a uniform
   mesh is the difference to the cell on the other side of K, cut off so that rho_K - d' is among
   the densities of K and its neighbours
2. e = 2 g.(x_s - x_K) + (d - g.(x_L - x_K)) / 3, twice the change from K to the face, of third
   order on uniform meshes (Koren 1993); 0 unless d, d' and e have one sign, and at most 2 |d| and
   2 |d'|
3. N e from K to L is added to F, but at most (1 + 3 mu)/2 N |F| / max(a, b), which is below |F|

Because of 1 and 2 a flow without divergence makes no maximum larger and no minimum smaller. With
wider bounds for d' round-off grows without limit on triangles. Because of 3 every flux keeps its
direction: what is stationary with F and has no fluxes (the Gibbs density) stays so, and every
convex entropy that falls with F falls. Near the Gibbs density, where F itself is of second order,
less than F x^2 / 24 is added.

Nothing is added on the boundary: there the density is known, or leaves with the drift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from ..arguments.types import Array
from .rates import Rates
from .stencil import Stencil, gradient_weights

if TYPE_CHECKING:
    from ..mesh import Mesh

# x below which coth(x/2) - 2/x is taken from its series, whose relative error is x^2 / 60.
SERIES_LIMIT = 1e-4


class LimitedCorrection:
    """What is added to the two-point fluxes of a density, see the module."""

    def __init__(self, mesh: Mesh, stencil: Stencil):
        self.mesh = mesh
        self.stencil = stencil
        self.weight = gradient_weights(stencil)
        self._known: tuple = (None, None)

    def __call__(self, rho: Array, rates: Rates) -> Array:
        """What is added to the fluxes (n_faces,) of rho (n_cells,), from left to right.
        Collective.
        """
        mesh = self.mesh
        sides = self.stencil
        numerical, largest = self._find_weights(rates)
        local = mesh.with_ghosts(rho)
        shape = np.empty((mesh.dim + 2, mesh.n_cells))
        _find_shape(local, sides.start, sides.neighbour, self.weight, shape)

        added = np.zeros(mesh.n_faces)
        _add(
            local,
            mesh.with_ghosts(shape),
            rates.a,
            rates.b,
            numerical,
            largest,
            mesh.left,
            mesh.right,
            mesh.left_offset,
            mesh.right_offset,
            added,
        )
        return added

    def _find_weights(self, rates):
        """(N, (1 + 3 mu)/2 N / max(a, b)) of the inner faces; the last ones are kept."""
        if self._known[0] is rates:
            return self._known[1]
        n = self.mesh.n_inner
        a = rates.a[:n]
        b = rates.b[:n]
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.abs(np.log(a / b))
            mu = np.where(x < SERIES_LIMIT, x / 6, 1 / np.tanh(x / 2) - 2 / x)
        speed = np.abs(a - b)
        mu = np.where(speed > 0, mu, 0.0)
        numerical = mu * speed / 2
        larger = np.maximum(a, b)
        part = np.divide(numerical, larger, out=np.zeros(n), where=larger > 0)
        self._known = rates, (numerical, (1 + 3 * mu) / 2 * part)
        return self._known[1]


@numba.njit(cache=True, error_model="numpy")
def _find_shape(rho, start, neighbour, weight, shape):
    """The gradient in each cell, then the smallest and the largest difference to a neighbour, or
    0.
    """
    dim = len(weight)
    for cell in range(shape.shape[1]):
        shape[:, cell] = 0.0
        for s in range(start[cell], start[cell + 1]):
            d = rho[neighbour[s]] - rho[cell]
            for axis in range(dim):
                shape[axis, cell] += weight[axis, s] * d
            shape[dim, cell] = min(shape[dim, cell], d)
            shape[dim + 1, cell] = max(shape[dim + 1, cell], d)


@numba.njit(cache=True, error_model="numpy")
def _add(rho, shape, a, b, numerical, largest, left, right, left_offset, right_offset, added):
    dim = len(left_offset)
    for f in range(len(numerical)):
        is_rightward = a[f] > b[f]
        K = left[f] if is_rightward else right[f]
        L = right[f] if is_rightward else left[f]

        along = 0.0
        to_face = 0.0
        for axis in range(dim):
            span = left_offset[axis, f] - right_offset[axis, f]
            along += shape[axis, K] * (span if is_rightward else -span)
            offset = left_offset[axis, f] if is_rightward else right_offset[axis, f]
            to_face += shape[axis, K] * offset

        ahead = rho[L] - rho[K]
        behind = min(max(2 * along - ahead, -shape[dim + 1, K]), -shape[dim, K])
        e = 2 * to_face + (ahead - along) / 3
        if not (ahead * behind > 0 and ahead * e > 0):
            continue
        size = numerical[f] * min(abs(e), 2 * abs(ahead), 2 * abs(behind))
        flux = a[f] * rho[left[f]] - b[f] * rho[right[f]]
        size = min(size, largest[f] * abs(flux))
        is_more = (ahead > 0) == is_rightward
        added[f] = size if is_more else -size
