"""Two-point fluxes F = a rho_left - b rho_right: functions (U, k) -> (a, b), U the integral of v.n
over the face and k = D area / distance. A function of the user's own is as good. `muscl` stands
beside them: it needs more than two cells.
"""

from dataclasses import dataclass

import numpy as np

from ..arguments.frozen import frozen
from ..errors import InputError


def upwind(U, k):
    """(k + U+, k + U-): what flows through a face comes from behind it; positive for every step up
    to the CFL bound.
    """
    return k + np.maximum(U, 0), k + np.maximum(-U, 0)


def central(U, k):
    """(k + U/2, k - U/2): second order, positive only up to the cell Peclet number |U| / k = 2."""
    return k + U / 2, k - U / 2


def scharfetter_gummel(U, k):
    """(k B(-U/k), k B(U/k)), B(x) = x / (e^x - 1): exact where the flux is constant between the two
    cells.

    Zero on the Gibbs density whatever the drift; `upwind` as k -> 0, `central` as U -> 0. With
    B(-x) = B(x) + x both coefficients are small + U+ and small + U-, small = k B(|U|/k), without
    cancellation (Scharfetter, Gummel 1969).
    """
    speed = np.abs(U)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = speed / k
        small = np.where(x < 1e-4, k * (1 - x / 2 + x * x / 12), speed / np.expm1(x))
    small = np.where(speed + k > 0, small, 0.0)
    return small + np.maximum(U, 0), small + np.maximum(-U, 0)


def square_root(U, k):
    """(k e^(U/2k), k e^(-U/2k)): the square-root approximation of the rates, zero on the Gibbs
    density, too.

    Symmetric in the two cells, but its rates grow like e^(|U|/2k): for flat potentials (Lie,
    Fackeldey, Weber 2013).
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        half = np.where(U == 0, 0.0, U / (2 * k))
        return k * np.exp(half), k * np.exp(-half)


def described(flux):
    """What a flux is, in words that are the same on every rank."""
    return repr(flux) if isinstance(flux, muscl) else getattr(flux, "__name__", type(flux).__name__)


@frozen
@dataclass(frozen=True)
class muscl:
    """Second-order limited face values on any cells, positive and bounded up to outflow CFL 1; see
    `reconstruction`.

    sharp : 0 to 1 blends in the superbee value, for discontinuities; 0.3 is a good start. Smooth
        humps are squared.
    """

    sharp: float = 0.0

    def __post_init__(self):
        if not isinstance(self.sharp, (int, float)) or not 0 <= self.sharp <= 1:
            raise InputError(f"muscl(sharp={self.sharp!r}): sharp must lie between 0 and 1")
