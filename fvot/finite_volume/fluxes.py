"""Two-point fluxes F = a rho_left - b rho_right: functions (U, k) -> (a, b), U the integral of v.n
over the face and k = D area / distance. A user's own function may take their place. `muscl` and
`limited` stand beside them: they need more than two cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.types import Array, TwoPointFlux
from ..errors import InputError

# x below which x / (e^x - 1) is taken from its series, whose error is x^4 / 720.
SERIES_LIMIT = 1e-4


def upwind(U: Array, k: Array) -> tuple[Array, Array]:
    """(k + U+, k + U-): the flux takes the density of the cell from which it comes.

    Positive for every step up to the CFL bound; first order.

    Parameters
    ----------
    U
        (n,) integrals of the velocity times the normal over the faces.
    k
        (n,) diffusion times area over distance.

    Returns
    -------
    a, b
        (n,) each: F = a rho_left - b rho_right.

    Examples
    --------
    >>> import numpy as np
    >>> import fvot
    >>> fvot.upwind(np.array([2.0, -1.0]), 0.0)
    (array([2., 0.]), array([0., 1.]))
    """
    return k + np.maximum(U, 0), k + np.maximum(-U, 0)


def central(U: Array, k: Array) -> tuple[Array, Array]:
    """(k + U/2, k - U/2): second order, positive only up to the cell Peclet number |U| / k = 2.

    Parameters
    ----------
    U
        (n,) integrals of the velocity times the normal over the faces.
    k
        (n,) diffusion times area over distance.

    Returns
    -------
    a, b
        (n,) each: F = a rho_left - b rho_right.

    Examples
    --------
    >>> import numpy as np
    >>> import fvot
    >>> fvot.central(np.array([2.0]), np.array([1.0]))
    (array([2.]), array([0.]))
    """
    return k + U / 2, k - U / 2


def scharfetter_gummel(U: Array, k: Array) -> tuple[Array, Array]:
    """(k B(-U/k), k B(U/k)), B(x) = x / (e^x - 1): exact where the flux is constant between the two
    cells.

    Zero on the Gibbs density for any drift; `upwind` as k -> 0, `central` as U -> 0.

    Parameters
    ----------
    U
        (n,) integrals of the velocity times the normal over the faces.
    k
        (n,) diffusion times area over distance.

    Returns
    -------
    a, b
        (n,) each: F = a rho_left - b rho_right.

    Notes
    -----
    With B(-x) = B(x) + x both coefficients are small + U+ and small + U-, small = k B(|U|/k),
    without cancellation (Scharfetter, Gummel 1969).

    Examples
    --------
    >>> import numpy as np
    >>> import fvot
    >>> a, b = fvot.scharfetter_gummel(np.array([2.0]), np.array([1.0]))
    >>> bool(np.isclose(a / b, np.exp(2.0)).all())  # detailed balance
    True
    """
    speed = np.abs(U)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = speed / k
        series = k * (1 - x / 2 + x * x / 12)
        small = np.where(x < SERIES_LIMIT, series, speed / np.expm1(x))
    small = np.where(speed + k > 0, small, 0.0)
    return small + np.maximum(U, 0), small + np.maximum(-U, 0)


def square_root(U: Array, k: Array) -> tuple[Array, Array]:
    """(k e^(U/2k), k e^(-U/2k)): the square-root approximation of the rates, which is zero on the
    Gibbs density, too.

    It is symmetric in the two cells, but its rates grow like e^(|U|/2k): for flat potentials.

    Parameters
    ----------
    U
        (n,) integrals of the velocity times the normal over the faces.
    k
        (n,) diffusion times area over distance.

    Returns
    -------
    a, b
        (n,) each: F = a rho_left - b rho_right.

    Notes
    -----
    Lie, Fackeldey, Weber (2013).

    Examples
    --------
    >>> import numpy as np
    >>> import fvot
    >>> a, b = fvot.square_root(np.array([2.0]), np.array([1.0]))
    >>> bool(np.isclose(a * b, 1.0).all())
    True
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        half = np.where(U == 0, 0.0, U / (2 * k))
        return k * np.exp(half), k * np.exp(-half)


@frozen
@dataclass(frozen=True)
class muscl:
    """Second-order limited face values on any cells, positive and bounded up to outflow CFL 1.

    Parameters
    ----------
    sharp
        0 to 1 blends in the superbee value, for discontinuities; 0.3 is a good start. It flattens
        smooth humps.

    Raises
    ------
    InputError
        If sharp does not lie between 0 and 1.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8), periodic=True)
    >>> equation = fvot.ContinuityEquation(mesh, (1.0, 0.0), flux=fvot.muscl(sharp=0.3))
    """

    sharp: float = 0.0

    def __post_init__(self):
        if not isinstance(self.sharp, (int, float)) or not 0 <= self.sharp <= 1:
            raise InputError(f"muscl(sharp={self.sharp!r}): sharp must lie between 0 and 1")


@frozen
@dataclass(frozen=True)
class limited:
    """Second-order fluxes of `FokkerPlanck` for drift that outweighs diffusion: those of
    `scharfetter_gummel`, whose numerical diffusion is taken away where the density is smooth.

    A limiter keeps sharp fronts free of oscillations. Every flux keeps its direction: the Gibbs
    density stays stationary, and the free energy falls. A step takes two to three times as long.

    Examples
    --------
    A front, carried by the drift [1.0] from 0.3 to 0.6:

    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 100)
    >>> front = mesh.average(lambda x: x[0] < 0.3)
    >>> inlet = {"left": fvot.inflow(1.0), "right": fvot.outflow}
    >>> for flux in (fvot.scharfetter_gummel, fvot.limited()):
    ...     equation = fvot.FokkerPlanck(
    ...         mesh, diffusion=1e-6, drift=[1.0], boundary=inlet, flux=flux
    ...     )
    ...     rho = equation.solve(front, 0.3, tau=0.005).rho[-1]
    ...     print(round(mesh.integrate(abs(rho - mesh.average(lambda x: x[0] < 0.6))), 2))
    0.04
    0.01
    """


def evaluate_flux(flux: TwoPointFlux, U: Array, k: Array, remedy: str) -> tuple[Array, Array]:
    """(a, b) of a two-point flux, perhaps a user's own; `InputError` unless they are of the shape
    of U, finite and not negative. Not collective.

    remedy : the end of the message about coefficients that are not
    """
    name = describe_flux(flux)
    try:
        a, b = flux(U, k)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"flux {name!r} must be a function (U, k) -> (a, b) of arrays: {error}"
        ) from error

    if np.shape(a) != U.shape or np.shape(b) != U.shape:
        raise InputError(
            f"flux {name!r} returned shapes {np.shape(a)} and {np.shape(b)}; both must be {U.shape}"
        )

    bad = np.flatnonzero(~(np.minimum(a, b) >= 0) | ~np.isfinite(np.add(a, b)))
    if len(bad):
        i = bad[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            peclet = np.abs(U[i]) / k[i]
        raise InputError(
            f"flux {name!r} has coefficients {a[i]:.3g}, {b[i]:.3g} at the cell Peclet number "
            f"{peclet:.3g}: they must be finite and not negative; {remedy}"
        )
    return np.asarray(a, float), np.asarray(b, float)


def describe_flux(flux: Any) -> str:
    """The flux in words that are the same on every rank."""
    if isinstance(flux, (muscl, limited)):
        return repr(flux)
    return getattr(flux, "__name__", type(flux).__name__)
