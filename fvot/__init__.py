"""fvot: densities in motion on meshes."""

# isort: off
from . import kernel_cache  # noqa: F401    first: it settles where kernels are kept before there are any

# isort: on
from . import otto, particles, static
from .benamou_brenier import BenamouBrenier, Geodesic
from .continuity.equation import ContinuityEquation
from .energies.local import Energy, Entropy, Interaction, Potential, Power
from .errors import ConvergenceError, InputError, MeshError
from .finite_volume.boundary import dirichlet, inflow, outflow
from .finite_volume.face_flux import potential_flow
from .finite_volume.fluxes import central, muscl, scharfetter_gummel, square_root, upwind
from .fokker_planck.coefficients import cell_mean
from .fokker_planck.equation import FokkerPlanck
from .jko import JKO
from .mesh import Mesh
from .output.series import Output
from .parallel import say
from .program import info, run
from .runs.checkpoint import Checkpoint
from .runs.result import Result

__all__ = [
    "JKO",
    "BenamouBrenier",
    "Checkpoint",
    "ContinuityEquation",
    "ConvergenceError",
    "Energy",
    "Entropy",
    "FokkerPlanck",
    "Geodesic",
    "InputError",
    "Interaction",
    "Mesh",
    "MeshError",
    "Output",
    "Potential",
    "Power",
    "Result",
    "cell_mean",
    "central",
    "dirichlet",
    "inflow",
    "info",
    "muscl",
    "otto",
    "outflow",
    "particles",
    "potential_flow",
    "run",
    "say",
    "scharfetter_gummel",
    "square_root",
    "static",
    "upwind",
]
