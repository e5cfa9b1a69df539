"""Two-point fluxes F = a rho_left - b rho_right: functions (U, k) -> (a, b), U the integral of v.n over the face and
k = D area / distance. A function of the user's own is as good. `muscl` stands beside them: it needs more than two cells."""
from dataclasses import dataclass

import numpy as np

from .errors import InputError


def upwind(U, k):
    """(k + U+, k + U-): what flows through a face comes from behind it; positive for every step up to the CFL bound."""
    return k + np.maximum(U, 0), k + np.maximum(-U, 0)


@dataclass(frozen=True)
class muscl:
    """Second-order limited face values on any cells, positive and bounded up to outflow CFL 1; see `reconstruction`.

    sharp : 0 to 1 blends in the superbee value, for discontinuities; 0.3 is a good start. Smooth humps are squared.
    """

    sharp: float = 0.0

    def __post_init__(self):
        if not isinstance(self.sharp, (int, float)) or not 0 <= self.sharp <= 1:
            raise InputError(f"muscl(sharp={self.sharp!r}): sharp must lie between 0 and 1")
