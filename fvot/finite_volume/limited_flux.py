"""What `limited` adds to the fluxes of Scharfetter and Gummel, F = a rho_left - b rho_right.

With U = a - b and x = |U| / k = |log(a / b)|, F is the central flux with numerical diffusion: N
more than k,

    N = mu |U| / 2,   mu = coth(x/2) - 2/x,

some U^2 / 12 k for small x, and |U| / 2 for large x, where F is the upwind flux. It is taken away
as far as the density is smooth. K is the upwind cell of a face s, L the cell behind the face:

1. g = least-squares gradient in K; m, M = smallest and largest density among K and its neighbours
2. e = 2 g.(x_s - x_K) + w (rho_L - rho_K - g.(x_L - x_K)), twice the change from K to the face; of
   third order on uniform meshes, w = 1/3 (Koren 1993); w = 0 on triangles and tetrahedra. At most
   2 (rho_K - m) and 2 (M - rho_K), and so 0 at extrema
3. N e from K to L is added to F, but at most (1 + 3 mu)/2 N |F| / max(a, b), which is below |F|

Because of 2 a flow without divergence makes no maximum larger and no minimum smaller, but for the
error in time; with wider bounds round-off grows without limit on triangles. Because of 3 every flux
keeps its direction: what is stationary with F and has no fluxes (the Gibbs density) stays so, and
every convex entropy that falls with F falls. Near the Gibbs density, where F itself is of second
order, about F x^2 / 24 is added at most, for small x.

Nothing is added on the boundary: there the density is known, or leaves with the drift.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numba
import numpy as np

from ..arguments.types import Array, IntArray
from .rates import Rates
from .stencil import Stencil, gradient_weights

if TYPE_CHECKING:
    from ..mesh import Mesh

# x below which coth(x/2) - 2/x is taken from its series, whose relative error is x^2 / 60.
MU_SERIES_LIMIT = 1e-4


class LimitedCorrection:
    """What is added to the two-point fluxes of a density, see the module."""

    def __init__(self, mesh: Mesh, stencil: Stencil):
        self.mesh = mesh
        self.stencil = stencil
        self.weight = gradient_weights(stencil)
        is_simplex = np.diff(stencil.start) == mesh.dim + 1
        is_skewed = is_simplex & (mesh.dim > 1)
        self.blend = mesh.with_ghosts(np.where(is_skewed, 0.0, 1 / 3))
        self._find_shape = _build_find_shape(mesh.dim)
        self._limit = _build_limit(mesh.dim)
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
        self._find_shape(local, sides.start, sides.neighbour, self.weight, shape)

        added = np.zeros(mesh.n_faces)
        self._limit(
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
            self.blend,
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
            mu = np.where(x < MU_SERIES_LIMIT, x / 6, 1 / np.tanh(x / 2) - 2 / x)
        speed = np.abs(a - b)
        mu = np.where(speed > 0, mu, 0.0)
        numerical = mu * speed / 2
        larger = np.maximum(a, b)
        part = np.divide(numerical, larger, out=np.zeros(n), where=larger > 0)
        self._known = rates, (numerical, (1 + 3 * mu) / 2 * part)
        return self._known[1]


@lru_cache
def _build_find_shape(dim):
    """The kernel that finds the gradient in each cell, then the smallest and the largest difference
    to a neighbour, or 0. The dimension is a constant of the compilation.
    """

    @numba.njit(cache=True, error_model="numpy")
    def find_shape(
        rho: Array, start: IntArray, neighbour: IntArray, weight: Array, shape: Array
    ) -> None:
        gradient = np.empty(dim)
        for cell in range(shape.shape[1]):
            here = rho[cell]
            smallest = 0.0
            largest = 0.0
            for axis in range(dim):
                gradient[axis] = 0.0
            for s in range(numba.uintp(start[cell]), numba.uintp(start[cell + 1])):
                d = rho[neighbour[s]] - here
                smallest = min(smallest, d)
                largest = max(largest, d)
                for axis in range(dim):
                    gradient[axis] += weight[axis, s] * d
            for axis in range(dim):
                shape[axis, cell] = gradient[axis]
            shape[dim, cell] = smallest
            shape[dim + 1, cell] = largest

    return find_shape


@lru_cache
def _build_limit(dim):
    """The kernel that finds what is added to the fluxes of the inner faces. The dimension is a
    constant of the compilation.
    """

    @numba.njit(cache=True, error_model="numpy")
    def limit(
        rho: Array,
        shape: Array,
        a: Array,
        b: Array,
        numerical: Array,
        largest: Array,
        left: IntArray,
        right: IntArray,
        left_offset: Array,
        right_offset: Array,
        blend: Array,
        added: Array,
    ) -> None:
        for f in range(len(numerical)):
            i = numba.uintp(left[f])
            j = numba.uintp(right[f])
            is_rightward = a[f] > b[f]
            K = i if is_rightward else j
            bound = min(-shape[dim, K], shape[dim + 1, K])
            if bound == 0.0:
                continue

            # from left to right, also where the flow goes the other way
            along = 0.0
            to_face = 0.0
            for axis in range(dim):
                slope = shape[axis, K]
                along += slope * (left_offset[axis, f] - right_offset[axis, f])
                to_face += slope * (left_offset[axis, f] if is_rightward else right_offset[axis, f])
            bent = blend[K] * (rho[j] - rho[i] - along)
            e = bent + 2 * to_face if is_rightward else bent - 2 * to_face

            flux = a[f] * rho[i] - b[f] * rho[j]
            size = min(numerical[f] * min(abs(e), 2 * bound), largest[f] * abs(flux))
            added[f] = size if e > 0 else -size

    return limit
