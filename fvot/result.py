"""`Result`: what an evolution returns."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Result:
    """A density at the recorded times.

    mesh : the `Mesh` that it lives on
    t : (n_times,) recorded times, the first is the start
    rho : (n_times, n_cells) cell averages
    ledger : {name: (n_times,)}: mass, minimum, maximum and whatever else the solver keeps account of
    velocity : (n_times, dim, n_cells) mean velocity of each cell, or None where there is none
    """

    mesh: object
    t: np.ndarray
    rho: np.ndarray
    ledger: dict
    velocity: np.ndarray | None = None
