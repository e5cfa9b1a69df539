"""Free energies of densities: local ones, potentials and interactions, their sums, and their values
on a mesh.
"""

from .energy import Energy, Sum
from .interaction import Interaction
from .local import Entropy, Potential, Power

__all__ = ["Energy", "Entropy", "Interaction", "Potential", "Power", "Sum"]
