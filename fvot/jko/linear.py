"""The linear systems of Newton's method: matrices of two-point fluxes, one after the other, and an interaction's action on top."""
from dataclasses import replace

import numpy as np

from .. import linalg
from ..errors import ConvergenceError
from ..resolvent import costs, ranked

PREFIX = "fvot_jko_"
MANY = 12                # iterations, beyond which a preconditioner is made anew
PATIENCE = 30            # iterations with one of an earlier matrix


class Solver:
    """x with (|K| + s A + action) x = b, for the matrix A of `Rates`, by the cheapest method that does it.

    Multigrid sees the columns scaled by given numbers, 1 / slope of mu: then they belong to the change of mu, and where
    densities span hundreds of decades the matrix is nearly symmetric, as that of mu is.

    layout : of the matrix
    iterations : of all solves so far
    """

    def __init__(self, mesh, layout):
        self.mesh, self.layout, self.iterations = mesh, layout, 0
        self._system, self._name, self._ready, self._scale = None, None, False, None

    def begin(self):
        """A new step, for which preconditioners are made anew."""
        self._ready = False

    def __call__(self, rates, s, b, rtol, *, action=None, scale=None):
        """x (n_cells,); scale (n_cells,). Raises `ConvergenceError` where no method succeeds."""
        mesh = self.mesh
        stiffness = s * mesh.ranks.max(rates.leaving().max(initial=0.0))
        for name in ranked(costs(mesh.n_cells_global, mesh.dim, mesh.ranks.size, stiffness, 0.0), 1):
            method = linalg.method(name, mesh.dim, mesh.ranks.size)
            if method is None:
                continue
            if action is not None and method.ksp == "preonly":
                method = replace(method, ksp="gmres")
            for keep in ([True, False] if self._ready and name == self._name and name != "lu" else [False]):
                if not keep:
                    self._scale = scale if name == "amg" else None
                matrix = self.layout.matrix(rates, s, scale=self._scale)
                x = self._attempt(name, method, matrix, b, rtol, self._of_scaled(action), keep)
                if x is not None:
                    return x if self._scale is None else self._scale * x
        raise ConvergenceError("no linear solver could take the step; try a smaller one, or another solver by PETSc's options, "
                               f"such as -{PREFIX}pc_type")

    def _of_scaled(self, action):
        scale = self._scale
        return action if action is None or scale is None else lambda x: action(scale * x)

    def _attempt(self, name, method, matrix, b, rtol, action, keep):
        """x, or None where the method does not reach the tolerance."""
        ranks = self.mesh.ranks
        if name != self._name and self._system is not None:
            self._system.destroy()
            self._system = None
        if self._system is None:
            self._system = linalg.System(ranks, matrix, method, prefix=PREFIX, rtol=rtol, action=action)
        else:
            self._system.renew(matrix, action, keep_preconditioner=keep)
        self._name, before = name, self._system.iterations
        try:
            x = self._system(b, rtol, PATIENCE if keep else method.max_it)
        except ConvergenceError:
            return None
        used = self._system.iterations - before
        self.iterations, self._ready = self.iterations + used, used <= MANY
        return x if self._system.reason > 0 and ranks.min(float(np.isfinite(x).all())) else None
