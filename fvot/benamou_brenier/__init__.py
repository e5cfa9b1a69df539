"""Dynamical optimal transport (Benamou, Brenier 2000).

`solver` is the way in, `geodesic` its result. `nested_iteration` runs all `levels`, each by the
`splitting` into a `projection` and a Poisson solve (`poisson_cosine`, `poisson_multigrid`). The
`penalty` and its growth follow from the `ends`. `bounds` and `best_flux` certify the result.
`terminal` is an energy of the density at the end; `growth` lets masses differ, with a lower bound
of its own (`growth_bounds`). `discretisation` and `time_basis` hold the operators.
"""

from .geodesic import Geodesic
from .growth import FisherRao, TotalVariation
from .solver import BenamouBrenier

__all__ = ["BenamouBrenier", "FisherRao", "Geodesic", "TotalVariation"]
