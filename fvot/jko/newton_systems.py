"""The linear systems of Newton's method, one after the other: by the first method that does it,
preconditioned as before.
"""

from dataclasses import replace

import numpy as np

from .. import linalg
from ..errors import ConvergenceError

PREFIX = "fvot_jko_"
FORCING = 1e-4  # relative tolerance: tighter ones save no iteration of Newton's method
WATCHFUL = {
    "ksp_pc_side": "right"
}  # by the true residual: densities that span decades mislead a preconditioned one
MANY = 12  # iterations, beyond which a preconditioner is made anew
LASTING = (
    "icc",
    "ilu",
    "amg",
)  # methods whose preconditioners serve for later matrices of the same step
PATIENCE = 30  # iterations with one of an earlier matrix


def named_by_cost(mesh, rates, s):
    """The methods for |K| + s A, of the `Rates` of two-point fluxes, the cheapest first."""
    stiffness = s * mesh.ranks.max(rates.leaving().max(initial=0.0))
    costs = linalg.estimate_costs(mesh.n_cells_global, mesh.dim, mesh.ranks.size, stiffness, 0.0)
    return linalg.rank_methods(costs, 1)


class Solver:
    """x = solver(names, matrix, b): the first of the methods `names` (`linalg.find_method`) that
    solves matrix x = b.

    iterations : of all solves so far
    """

    def __init__(self, mesh):
        self.mesh = mesh
        self._tau = 0.0
        self._system = None
        self._name = None
        self._ready = False
        self._scale = None
        self.restart()

    def restart(self):
        """Forget what went before."""
        self.iterations = 0
        self._failed = {}

    @property
    def memory(self):
        """What a checkpoint keeps."""
        return dict(iterations=self.iterations, failed=self._failed)

    @memory.setter
    def memory(self, kept):
        self.iterations = kept["iterations"]
        self._failed = kept.get("failed", {})

    def begin(self, tau):
        """A new step, for which preconditioners are made anew. A method that has failed is tried
        again in shorter ones only.
        """
        self._tau = tau
        self._ready = False
        self._failed = {name: failed for name, failed in self._failed.items() if failed <= tau}

    def __call__(self, names, matrix, b, *, action=None, scale=None):
        """x (n_cells,) for b (n_cells,). Raises `ConvergenceError` where no method succeeds.

        matrix : a function of a scale (n_cells,) or None that makes this rank's rows, their columns
            scaled
        action : a map of x that is added to the matrix, but not to the preconditioner
        scale : of the columns, for the method "amg"
        """
        for name in [name for name in names if name not in self._failed] or names:
            method = linalg.find_method(name, self.mesh.dim, self.mesh.ranks.size)
            if method.ksp == "bcgs":
                method = replace(method, options=method.options | WATCHFUL)
            if action is not None and method.ksp == "preonly":
                method = replace(method, ksp="gmres")
            for keep in (
                [True, False] if self._ready and name == self._name and name in LASTING else [False]
            ):
                if not keep:  # else the preconditioner is one for that scale
                    self._scale = scale if name == "amg" else None
                x = self._attempt(
                    name, method, matrix(self._scale), b, self._of_scaled(action), keep
                )
                if x is not None:
                    return x if self._scale is None else self._scale * x
            self._failed[name] = self._tau
        raise ConvergenceError(
            "no linear solver could take the step; try a smaller one, or another solver by "
            "PETSc's options, "
            f"such as -{PREFIX}pc_type"
        )

    def _of_scaled(self, action):
        scale = self._scale
        return action if action is None or scale is None else lambda x: action(scale * x)

    def _attempt(self, name, method, matrix, b, action, keep):
        """x, or None where the method does not reach the tolerance."""
        ranks = self.mesh.ranks
        if name != self._name and self._system is not None:
            self._system.destroy()
            self._system = None
        self._name = name
        try:
            if self._system is None:
                self._system = linalg.System(
                    ranks, matrix, method, prefix=PREFIX, rtol=FORCING, action=action
                )
            else:
                self._system.renew(matrix, action, keep_preconditioner=keep)
            before = self._system.iterations
            x = self._system(b, max_it=PATIENCE if keep else method.max_it)
        except ConvergenceError:
            return None
        used = self._system.iterations - before
        self.iterations = self.iterations + used
        self._ready = used <= MANY
        return x if self._system.reason > 0 and ranks.min(float(np.isfinite(x).all())) else None
