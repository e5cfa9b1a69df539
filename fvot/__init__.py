"""fvot: densities in motion on meshes."""
from .errors import ConvergenceError, InputError, MeshError
from .mesh import Mesh
from .parallel import say

__all__ = ["ConvergenceError", "InputError", "Mesh", "MeshError", "say"]
