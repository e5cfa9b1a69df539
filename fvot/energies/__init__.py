"""Free energies of densities: local ones, potentials and interactions, their sums, and their values
on a mesh.
"""

from .local import Energy, Entropy, Interaction, Potential, Power, Sum

__all__ = ["Energy", "Entropy", "Interaction", "Potential", "Power", "Sum"]
