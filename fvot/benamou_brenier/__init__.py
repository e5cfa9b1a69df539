"""Dynamical optimal transport (Benamou, Brenier 2000): operators, projection, Poisson solves,
levels, certificates, solver.
"""

from .geodesic import Geodesic
from .solver import BenamouBrenier

__all__ = ["BenamouBrenier", "Geodesic"]
