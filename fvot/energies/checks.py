"""Energies as arguments: their parts, and the checks of a user's own energy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.functions import refuse_masked
from ..arguments.types import Array
from ..errors import InputError
from .energy import Energy, Sum, split_sum
from .interaction import Interaction
from .local import Entropy, Potential, Power

# Densities at which an energy is checked, relative to a typical one.
CHECKED_DENSITIES = np.geomspace(1e-3, 1e3, 25)

# The relative step of the differences that stand for derivatives.
DIFFERENCE_STEP = 1e-4

# Relative error of such a difference.
DERIVATIVE_TOLERANCE = 1e-3

# Rounding of the values of which it is the difference, relative to them.
VALUE_ROUNDING = 1e-7

# A curvature below 0 that is rounding, relative to derivative / density.
CURVATURE_ROUNDING = 1e-9


def describe_energy(energy: Any) -> Any:
    """The kinds, weights and numbers of an energy, by which ranks compare it; without functions."""
    if not isinstance(energy, Energy):
        return type(energy).__name__
    return [
        (weight, type(part).__name__, [getattr(part, n) for n in ("D", "m") if hasattr(part, n)])
        for weight, part in split_sum(energy)
    ]


def separate_parts(
    energy: Energy, x: Array, t: float = 0.0
) -> tuple[Array, Sum, list[tuple[float, Interaction]]]:
    """(V, others, pairs): the potentials in an energy as values (n,) at points x (dim, n) and time
    t, the `Sum` of all other local ones, and the interactions, as pairs (weight, energy).

    Raises `InputError` where V is no finite number.
    """
    V = np.zeros(x.shape[1])
    local = []
    pairs = []
    for weight, part in split_sum(energy):
        if isinstance(part, Potential):
            V = V + weight * part.values(x, t)
        elif isinstance(part, Interaction):
            pairs.append((weight, part))
        else:
            local.append((weight, part))
    return V, Sum(tuple(local)), pairs


def depends_on_time(energy: Energy) -> bool:
    """Whether a potential in it does."""
    return any(
        isinstance(part, Potential) and part.depends_on_time for _, part in split_sum(energy)
    )


def refuse_time(energy: Energy, what: str) -> None:
    """`InputError` where a potential depends on time."""
    if depends_on_time(energy):
        raise InputError(
            f"{what}: a potential V(x, t) is for JKO, whose steps have a time: give a function of x"
        )


def check_own(energy: Energy, x: Array, mean: float) -> None:
    """`InputError` for a user's own energy that is not convex in rho, or whose derivatives are
    wrong.

    x (dim, n) : points to look at
    mean : a typical density
    """
    known = (Entropy, Power, Potential, Interaction)
    own = [part for _, part in split_sum(energy) if not isinstance(part, known)]
    n = x.shape[1]
    if n == 0:
        return
    rho = mean * CHECKED_DENSITIES
    points = x[:, np.linspace(0, n - 1, len(rho)).astype(int)]
    for part in own:
        derivative = _call(part, "derivative", rho, points)
        curvature = _call(part, "curvature", rho, points)
        _call(part, "value", rho, points)
        _check_slope(part, "value", "derivative", derivative, rho, points)
        _check_slope(part, "derivative", "curvature", curvature, rho, points)
        if (curvature < -CURVATURE_ROUNDING * np.abs(derivative) / rho).any():
            i = int((curvature * rho).argmin())
            raise InputError(
                f"{part.name}.curvature is {curvature[i]:.6g} at rho = {rho[i]:.3g}: an energy "
                "must be convex in rho"
            )


def _check_slope(part, method, slope_method, slope, rho, x):
    """`InputError` unless the slope (n,) is the derivative of the method in rho."""
    up = _call(part, method, rho * (1 + DIFFERENCE_STEP), x)
    down = _call(part, method, rho * (1 - DIFFERENCE_STEP), x)
    measured = (up - down) / (2 * DIFFERENCE_STEP * rho)
    rounding = VALUE_ROUNDING * (np.abs(up) + np.abs(down)) / rho
    tolerance = DERIVATIVE_TOLERANCE * (np.abs(slope) + np.abs(measured)) + rounding
    wrong = np.abs(measured - slope) > tolerance
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(
            f"{part.name}.{slope_method} is {slope[i]:.6g} at rho = {rho[i]:.3g}, but "
            f"{part.name}.{method} rises there by {measured[i]:.6g} for each unit of rho"
        )


def _call(part, name, rho, x):
    """The values (n,) that a method of a user's own energy returns, checked."""
    given = rho.copy()
    try:
        values = getattr(part, name)(given, x)
        refuse_masked(values, f"{part.name}.{name}(rho, x) must return numbers")
        values = np.asarray(values, float) + np.zeros(len(rho))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{part.name}.{name}(rho, x) must return an array of the shape of rho: {error}"
        ) from error
    if values.shape != rho.shape or not np.isfinite(values).all():
        raise InputError(
            f"{part.name}.{name}(rho, x) must return finite numbers of shape {rho.shape} for rho "
            f"> 0, not {values!r:.60}"
        )
    if (given != rho).any():
        raise InputError(f"{part.name}.{name} changes its argument rho: it must leave it as it is")
    return values
