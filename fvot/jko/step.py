"""What a step of a gradient flow has made."""

from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """rho (n_cells,), the energy that it has dissipated, iterations, the pressure of an upper bound
    (n_cells,) or None.
    """

    rho: np.ndarray
    dissipated: float
    newton: int
    pressure: np.ndarray | None = None
