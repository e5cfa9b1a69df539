"""The generator of the Markov chain between cells, as a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import linalg
from ..mesh import Numbering
from .stationary import check_linear
from .stepper import Stepper


def build_generator(stepper: Stepper, numbering: Numbering, t: float, petsc: bool) -> Any:
    """Q = -|K|^-1 A^T with the cells in the user's order, see `FokkerPlanck.generator`.
    Collective.
    """
    mesh = stepper.mesh
    mesh.ranks.check(
        not stepper.has_corners,
        "there is a generator of two-point fluxes only: take scheme='two_point'",
    )
    check_linear(stepper, "there is no generator")
    mesh.ranks.check_same("petsc", bool(petsc))
    mesh.ranks.check(
        petsc or mesh.ranks.size == 1,
        f"on {mesh.ranks.size} ranks each has a part of the matrix: generator(petsc=True) returns "
        "it as PETSc's",
    )
    rates, _ = stepper.find_coefficients(t)
    order = numbering.outward(np.arange(mesh.n_cells))
    A = rates.pattern.matrix(rates, 1.0, order, diagonal=np.zeros(mesh.n_cells), transposed=True)
    volume = np.repeat(mesh.volume[order], np.diff(A.indptr))
    A.data = -A.data / volume
    return linalg.assemble(mesh.ranks, A) if petsc else A
