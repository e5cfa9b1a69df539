"""fvot: densities in motion on meshes."""
from .boundary import dirichlet, inflow, outflow
from .continuity import ContinuityEquation
from .errors import ConvergenceError, InputError, MeshError
from .fluxes import muscl, upwind
from .mesh import Mesh
from .parallel import say
from .result import Result

__all__ = ["ContinuityEquation", "ConvergenceError", "InputError", "Mesh", "MeshError", "Result", "dirichlet", "inflow",
           "muscl", "outflow", "say", "upwind"]
