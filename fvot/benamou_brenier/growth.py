"""Growth: mass is created and destroyed along the path, at a cost.

Wasserstein-Fisher-Rao (Hellinger-Kantorovich) transport minimises

    int int |m|^2 / rho + delta^2 zeta^2 / rho,    d rho/dt + div m = zeta

over densities, momenta and sources zeta. The discrete source lives where phi does, on cells and
nodes of time, and its density is the mean rhobar of the slabs on both sides of the node:

    action += sum_n tau_n sum_K delta^2 |K| zeta_K^2 / (2 rhobar_{P(K)})
    |K| (rho^n - rho^{n-1})_K + tau_n (what leaves K per time) = tau_n |K| zeta_K

Dual: growth is one more copy for each cell, with the slope c = phi_K / delta and the weight |K|,

    v = a + |b|^2 / 2 + |c|^2 / 2 <= 0,   |c|^2_P = sum_K |K| / (2 m_P) (|c_K^j|^2 + |c_K^{j+1}|^2)

Partial transport has 2 kappa |zeta| in place of delta^2 zeta^2 / rho. In the dual problem it is the
constraint |phi_K^n| <= kappa for all cells and nodes of time (see `source_state`).

(Chizat, Peyre, Schmitzer, Vialard 2018; Kondratyev, Monsaingeon, Vorotnikov 2016; Liero, Mielke,
Savare 2018.)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments.functions import is_number
from ..arguments.types import Array
from ..errors import InputError
from .time_basis import slab_middles

# eta^2 in units of 1 / kappa.
METRIC_SCALE = 10.0

# The smallest length of growth, and the inverse of the largest: their squares are squared.
SMALLEST_LENGTH = 1e-60


@dataclass(frozen=True)
class FisherRao:
    """Growth of mass at the cost delta^2 zeta^2 / rho per time, for `BenamouBrenier`.

    Mass is moved over distances that are small against delta, and destroyed in one place and
    created in the other one where it would have to go farther than pi delta.

    Parameters
    ----------
    delta : float
        The length at which growth costs as much as motion.

    Raises
    ------
    InputError
        Unless delta is a positive number.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 32)
    >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
    >>> solver = fvot.BenamouBrenier(mesh, n_steps=8, growth=fvot.FisherRao(0.5))
    >>> path = solver.solve(rho0, 4 * rho0)
    >>> round(path.cost, 2)  # 4 delta^2 (4^(1/2) - 1)^2
    1.0
    """

    delta: float

    def __post_init__(self):
        is_length = is_number(self.delta) and SMALLEST_LENGTH <= self.delta <= 1 / SMALLEST_LENGTH
        if not is_length:
            raise InputError(
                "FisherRao: delta must be a positive length, such as 0.2 of the size of the "
                f"domain, not {self.delta!r:.60}"
            )


@dataclass(frozen=True)
class TotalVariation:
    """Growth of mass at the cost kappa |zeta|, for `BenamouBrenier`: partial transport.

    The path minimises the kinetic energy (1/2) int |m|^2 / rho + kappa int |zeta|, half of `cost`.
    A mass is moved as a whole where that costs less than to destroy it in one place and to create
    it in the other one, where it has less than 2 kappa^(1/2) to go.

    Parameters
    ----------
    kappa : float
        The cost of creating, or destroying, a unit of mass: a square of a length, at most of the
        size of the domain, and at least a quarter of that of the cells.

    Raises
    ------
    InputError
        Unless kappa is a positive number.

    Examples
    --------
    >>> import fvot
    >>> import numpy as np
    >>> mesh = fvot.Mesh.interval(0, 1, 32)
    >>> rho0 = np.ones(32)
    >>> solver = fvot.BenamouBrenier(mesh, n_steps=8, growth=fvot.TotalVariation(0.1))
    >>> path = solver.solve(rho0, 3 * rho0)
    >>> round(path.cost, 3)  # 2 kappa (3 - 1)
    0.4
    """

    kappa: float

    def __post_init__(self):
        is_cost = is_number(self.kappa) and SMALLEST_LENGTH <= self.kappa <= 1 / SMALLEST_LENGTH
        if not is_cost:
            raise InputError(
                "TotalVariation: kappa must be a positive number, such as 0.1 of the square of the "
                f"size of the domain, not {self.kappa!r:.60}"
            )


Growth = FisherRao | TotalVariation


def find_reaction(growth: Growth | None) -> float:
    """What growth adds to the Laplacian: 1 / delta^2, or eta^2, the weight of phi in the metric."""
    if growth is None:
        return 0.0
    if isinstance(growth, FisherRao):
        return growth.delta**-2

    return METRIC_SCALE / growth.kappa


def weigh_slabs(n_steps: int) -> Array:
    """w_j (n_steps,): the weights of the slabs in the metric of the iteration, 4 t (1 - t).

    Mass that grows from nothing is about t^2, with phi about 2 delta^2 / t: r w_j is a density that
    is small where such a density is.
    """
    t = slab_middles(n_steps)
    return 4 * t * (1 - t)
