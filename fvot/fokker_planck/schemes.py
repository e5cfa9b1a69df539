"""Resolvent schemes of order 1, 2 and 3: rho(t + tau) = sum_k c_k r^k rho(t).

Here r = (1 + g tau A)^-1: all stages share one matrix. r is non-negative, conserves mass and
decreases every convex entropy, and so do sums with c_k >= 0. Order 2 and 3 need a negative c_k:
where their sum becomes negative, its fluxes are limited towards the *partner*, the mixture of the
same powers with c_k >= 0 and the same mean time tau (no linear scheme of order above 1 is positive
for every step: Bolley, Crouzeix 1978).

The sums are L-stable: for order 2 the map of TR-BDF2, for order 3 that of Alexander's SDIRK3
(1977). In flux form

    rho(t + tau) = rho(t) - tau sum_k b_k A r^k rho(t),      b_k = g (c_k + c_(k+1) + ...).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial, floor

import numpy as np

from ..arguments.types import Array


@dataclass(frozen=True)
class Scheme:
    """A scheme of order p with p stages.

    g : length of a stage, in steps
    c, b (p,) : weights of r, r^2, ... in the solution and of their fluxes
    partner, partner_b (n,) : the same of the positive partner
    stages (p, p), times (p,) : the SDIRK scheme with the same map, for coefficients that vary in
        time
    error : weights of r, r^2, ..., r^(p+2) in an estimate of the error of one step
    """

    g: float
    c: Array
    b: Array
    partner: Array
    partner_b: Array
    stages: Array
    times: Array
    error: Array


@lru_cache
def find_scheme(order: int) -> Scheme:
    """The `Scheme` of order 1, 2 or 3."""
    g = {1: 1.0, 2: 1 - np.sqrt(0.5), 3: _find_third_order_stage()}[order]
    c = np.linalg.solve(_expand_powers(g, order, order), _expand_exponential(order))
    partner = _build_positive_partner(g)
    stages = _build_stages(g, order)
    return Scheme(
        g,
        c,
        _find_flux_weights(g, c),
        partner,
        _find_flux_weights(g, partner),
        stages,
        stages.sum(axis=1),
        _build_error_weights(g, c, order),
    )


def _find_third_order_stage():
    """The root of g^3 - 3 g^2 + 3 g / 2 - 1/6 for which the scheme is L-stable."""
    roots = np.roots([1, -3, 1.5, -1 / 6])
    _, middle, _ = np.sort(roots.real)
    return float(middle)


def _expand_powers(g, n, stages):
    """Rows k < n: the coefficients of z^k in (1 + g z)^-j, j = 1, ..., stages."""
    return np.array(
        [[(-g) ** k * comb(j + k - 1, k) for j in range(1, stages + 1)] for k in range(n)]
    )


def _expand_exponential(n):
    """The coefficients of z^k in e^-z, k < n."""
    return np.array([(-1) ** k / factorial(k) for k in range(n)])


def _build_positive_partner(g):
    """The two neighbouring powers whose mean time is one step."""
    k = floor(1 / g)
    rest = 1 / g - k
    c = np.zeros(k + (rest > 0))
    c[k - 1] = 1 - rest
    if rest > 0:
        c[k] = rest
    return c


def _find_flux_weights(g, c):
    """b of c, see the module."""
    return g * np.cumsum(c[::-1])[::-1]


def _build_stages(g, order):
    """The matrix (order, order) of the SDIRK scheme with the same map."""
    if order == 1:
        return np.array([[1.0]])
    if order == 2:
        return np.array([[g, 0], [1 - g, g]])
    return np.array(
        [
            [g, 0, 0],
            [(1 - g) / 2, g, 0],
            [-(6 * g * g - 16 * g + 1) / 4, (6 * g * g - 20 * g + 5) / 4, g],
        ]
    )


def _build_error_weights(g, c, order):
    """C / g^(p+1) times the difference of order p + 1 of r, r^2, ...

    That is C z^(p+1) r^(p+2), which is right for small and for large z.
    """
    n = order + 1
    made = _expand_powers(g, n + 1, order) @ c
    exact = _expand_exponential(n + 1)
    constant = (made - exact)[n]
    binomials = [(-1) ** j * comb(n, j) for j in range(n + 1)]
    return abs(constant) / g**n * np.array(binomials)
