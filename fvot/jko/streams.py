"""Along the flow: the matrix A = |K| + tau (outflow) of upwind fluxes, solved cell by cell in the
order of the potential.

Mass runs from high to low potential, and never in circles: in that order the matrix is triangular,
and one sweep solves it, to round-off. On several ranks sweeps alternate with exchanges, until
nothing changes any more: as often as a stream crosses from rank to rank.
"""

import numba
import numpy as np

from ..errors import ConvergenceError
from ..finite_volume.rates import downstream_order

CROSSINGS = 1000  # from rank to rank, at most


class Streams:
    """A and its transpose for the leaving rates a (n_faces,), left to right, and b, right to left,
    and tau.

    (A z)_K = |K| z_K + tau (sum of what leaves - sum of what enters);   (A^T x)_K = |K| x_K + tau
    sum of rates (x_K - x_other)
    """

    def __init__(self, stencil, mesh, a, b, tau):
        self.mesh = mesh
        self._order = downstream_order(a, b, mesh.n_inner, stencil)
        self._sides = (
            stencil.start,
            stencil.face,
            stencil.sign,
            stencil.neighbour,
            a,
            b,
            mesh.n_inner,
            tau,
            mesh.volume,
        )

    def along(self, y, free, given):
        """z (n_cells,) with (A z)_K = y_K in the cells that are *free*, z = given (n_cells,) in the
        others.
        """
        return self._swept(self._order, y, free, given, False)

    def against(self, y, free, given):
        """x (n_cells,) with (A^T x)_K = y_K in the cells that are *free*, x = given (n_cells,) in
        the others.
        """
        return self._swept(self._order[::-1], y, free, given, True)

    def _swept(self, order, y, free, given, transposed):
        mesh = self.mesh
        ranks = self.mesh.ranks
        x = mesh.with_ghosts(np.where(free, 0.0, given))
        shared = ranks.max(mesh.n_local - mesh.n_cells) > 0
        for _ in range(CROSSINGS):
            changed = _sweep(order, *self._sides, y, free, transposed, x)
            if not shared or not ranks.max(int(changed)):
                return x[: mesh.n_cells].copy()
            mesh.exchange(x)
        raise ConvergenceError(
            f"streams cross from rank to rank more than {CROSSINGS} times: take a smaller step"
        )


@numba.njit(cache=True, error_model="numpy")
def _sweep(order, start, face, sign, neighbour, a, b, n_inner, tau, volume, y, free, transposed, x):
    """Cell by cell, after those that give to it, or, transposed, those to which it gives. Whether
    anything has changed.
    """
    changed = False
    for cell in order:
        if not free[cell]:
            continue
        content = y[cell]
        weight = volume[cell]
        for s in range(start[cell], start[cell + 1]):
            f = face[s]
            if f < n_inner:
                leaves, enters = (a[f], b[f]) if sign[s] > 0 else (b[f], a[f])
                weight += tau * leaves
                passed = leaves if transposed else enters
                if passed > 0:
                    content += tau * passed * x[neighbour[s]]
        new = content / weight
        changed |= new != x[cell]
        x[cell] = new
    return changed
