"""fvot: densities in motion on meshes."""
from .boundary import dirichlet, inflow, outflow
from .continuity import ContinuityEquation
from .errors import ConvergenceError, InputError, MeshError
from .flows import potential_flow
from .fluxes import muscl, upwind
from .info import info
from .mesh import Mesh
from .parallel import say
from .result import Result
from .run import run

__all__ = ["ContinuityEquation", "ConvergenceError", "InputError", "Mesh", "MeshError", "Result", "dirichlet", "inflow", "info",
           "muscl", "outflow", "potential_flow", "run", "say", "upwind"]
