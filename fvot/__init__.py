"""fvot: densities in motion on meshes."""
from .benamou_brenier import BenamouBrenier, Geodesic
from .boundary import dirichlet, inflow, outflow
from .continuity import ContinuityEquation
from .drift_diffusion import cell_mean
from .energies import Entropy, Potential, Power
from .errors import ConvergenceError, InputError, MeshError
from .flows import potential_flow
from .fluxes import central, muscl, scharfetter_gummel, square_root, upwind
from .fokker_planck import FokkerPlanck
from .info import info
from .mesh import Mesh
from .parallel import say
from .result import Result
from .run import run

__all__ = ["BenamouBrenier", "ContinuityEquation", "ConvergenceError", "Entropy", "FokkerPlanck", "Geodesic", "InputError",
           "Mesh", "MeshError", "Potential", "Power", "Result", "cell_mean", "central", "dirichlet", "inflow", "info", "muscl",
           "outflow", "potential_flow", "run", "say", "scharfetter_gummel", "square_root", "upwind"]
