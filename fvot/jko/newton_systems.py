"""The linear systems of Newton's method: each by the first method that solves it.

Preconditioners are kept from one iteration to the next while they serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import linalg
from ..arguments.types import Array, IntArray
from ..errors import ConvergenceError
from ..finite_volume.rates import Rates

NEWTON_SYSTEM_PREFIX = "fvot_jko_"

# Relative tolerance of the linear solves: tighter ones save no iteration of Newton's method.
NEWTON_FORCING = 1e-4

# Rounding of the fluxes, relative: the residual of Newton's method may keep so much of them.
RESIDUAL_ROUNDING = 1e-15

# Options by which BiCGStab watches the true residual: where densities span decades, the
# preconditioned one is misleading.
TRUE_RESIDUAL_OPTIONS = {"ksp_pc_side": "right"}

# Iterations above which a preconditioner is made anew.
MAX_CHEAP_ITERATIONS = 12

# Methods whose preconditioners serve for later matrices of the same step.
REUSABLE_METHODS = ("icc", "ilu", "amg")

# Iterations with the preconditioner of an earlier matrix, before a new one is made.
MAX_REUSED_ITERATIONS = 30


def rank_by_cost(mesh: Any, rates: Rates, s: float) -> Sequence[str]:
    """The methods for |K| + s A, of the `Rates` of two-point fluxes, the cheapest first."""
    stiffness = s * mesh.ranks.max(rates.leaving().max(initial=0.0))
    costs = linalg.estimate_costs(mesh.n_cells_global, mesh.dim, mesh.ranks.size, stiffness, 0.0)
    return linalg.rank_methods(costs, 1)


class Solver:
    """x = solver(names, matrix, b): the first of the methods `names` (`linalg.find_method`) that
    solves matrix x = b.

    iterations : of all solves so far
    """

    def __init__(self, mesh: Any):
        self.mesh = mesh
        self._tau = 0.0
        self._system: Any = None
        self._name: str | None = None
        self._ready = False
        self._scale: Array | None = None
        self._order: IntArray | None = None
        self.restart()

    def restart(self) -> None:
        """Forget which methods have failed, and count from 0."""
        self.iterations = 0
        self._failed: dict[str, float] = {}

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(iterations=self.iterations, failed=self._failed)

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        self.iterations = kept["iterations"]
        self._failed = kept["failed"]

    def begin(self, tau: float) -> None:
        """Begin a step of length tau, for which preconditioners are made anew.

        A method that has failed is tried again in shorter steps only.
        """
        self._tau = tau
        self._ready = False
        self._failed = {name: failed for name, failed in self._failed.items() if failed <= tau}

    def __call__(
        self,
        names: Sequence[str],
        matrix: Callable[[Array | None, IntArray | None], Any],
        b: Array,
        *,
        action: Callable[[Array], Array] | None = None,
        scale: Array | None = None,
        order: IntArray | None = None,
    ) -> Array:
        """x (n_cells,) for b (n_cells,). Raises `ConvergenceError` where no method succeeds.

        matrix : a function of a scale (n_cells,) or None and an order (n_cells,) or None that makes
            this rank's rows, their columns scaled, rows and columns in that order
        action : a map of x that is added to the matrix, but not to the preconditioner
        scale : of the columns, for the method "amg"
        order : of rows and columns, for the method "icc"; without an action
        """
        for name in [name for name in names if name not in self._failed] or names:
            method = self._choose_method(name, has_action=action is not None)
            is_reusable = self._ready and name == self._name and name in REUSABLE_METHODS
            for keep in [True, False] if is_reusable else [False]:
                if not keep:  # a kept preconditioner belongs to the kept scale and order
                    self._scale = scale if name == "amg" else None
                    self._order = order if name == "icc" else None
                scaled_action = self._scale_action(action)
                made = matrix(self._scale, self._order)
                ordered_b = b if self._order is None else b[self._order]
                x = self._attempt(name, method, made, ordered_b, scaled_action, keep)
                if x is not None:
                    return self._undo(x)
            self._failed[name] = self._tau

        raise ConvergenceError(
            "no linear solver succeeded with the step; try a smaller one, or another solver by "
            f"PETSc's options, such as -{NEWTON_SYSTEM_PREFIX}pc_type"
        )

    def _choose_method(self, name, has_action):
        method = linalg.find_method(name, self.mesh.dim, self.mesh.ranks.size)
        if method.ksp == "bcgs":
            method = replace(method, options=method.options | TRUE_RESIDUAL_OPTIONS)
        if has_action and method.ksp == "preonly":
            method = replace(method, ksp="gmres")
        return method

    def _scale_action(self, action):
        """The action on x, of which the solver knows x / scale."""
        scale = self._scale
        if action is None or scale is None:
            return action
        return lambda x: action(scale * x)

    def _undo(self, x):
        """The solution in the order of the cells and without the scale."""
        if self._order is not None:
            ordered = x
            x = np.empty_like(ordered)
            x[self._order] = ordered
        return x if self._scale is None else self._scale * x

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
                    ranks,
                    matrix,
                    method,
                    prefix=NEWTON_SYSTEM_PREFIX,
                    rtol=NEWTON_FORCING,
                    action=action,
                )
            else:
                self._system.renew(matrix, action, keep_preconditioner=keep)
            iterations = self._system.iterations
            x = self._system(b, max_it=MAX_REUSED_ITERATIONS if keep else method.max_it)
        except ConvergenceError:
            return None

        used = self._system.iterations - iterations
        self.iterations = self.iterations + used
        self._ready = used <= MAX_CHEAP_ITERATIONS
        is_solved = self._system.reason > 0 and ranks.min(float(np.isfinite(x).all()))
        return x if is_solved else None
