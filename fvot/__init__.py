"""fvot: densities in motion on meshes.

Conservative finite volumes for the continuity equation (`ContinuityEquation`), Fokker-Planck
equations (`FokkerPlanck`) and Wasserstein gradient flows (`JKO`), and dynamical optimal transport
(`BenamouBrenier`), on one `Mesh`, with PETSc and MPI.

Examples
--------
>>> import fvot
>>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
>>> rho0 = mesh.average(lambda x: 1 + x[0])
>>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, 0.1)
>>> round(float(result.ledger["mass"][-1]), 12)
1.5
"""

# isort: off
from . import kernel_cache  # noqa: F401    before all kernels: it chooses where numba keeps them

# isort: on
from . import otto, particles, program, static
from .benamou_brenier import BenamouBrenier, FisherRao, Geodesic, TotalVariation
from .bridge import Bridge, SchroedingerBridge
from .continuity.equation import ContinuityEquation
from .energies import Energy, Entropy, Interaction, Potential, Power
from .errors import ConvergenceError, InputError, MeshError
from .finite_volume.boundary import dirichlet, inflow, outflow, robin
from .finite_volume.dispersion import dispersion
from .finite_volume.face_flux import potential_flow
from .finite_volume.fluxes import central, limited, muscl, scharfetter_gummel, square_root, upwind
from .fokker_planck.coefficients import cell_mean
from .fokker_planck.equation import FokkerPlanck
from .fokker_planck.transition_paths import TransitionPaths
from .jko import JKO
from .markov import SlowModes
from .mesh import Mesh, example_mesh
from .output.series import Output
from .parallel import say
from .program import info, run
from .runs.checkpoint import Checkpoint
from .runs.expectation import Expectation
from .runs.result import Result

# setup.cfg has the version; a package that is not installed does not know it.
__version__ = program.find_version("fvot", default="0+unknown")

__all__ = [
    "JKO",
    "BenamouBrenier",
    "Bridge",
    "Checkpoint",
    "ContinuityEquation",
    "ConvergenceError",
    "Energy",
    "Entropy",
    "Expectation",
    "FisherRao",
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
    "SchroedingerBridge",
    "SlowModes",
    "TotalVariation",
    "TransitionPaths",
    "cell_mean",
    "central",
    "dirichlet",
    "dispersion",
    "example_mesh",
    "inflow",
    "info",
    "limited",
    "muscl",
    "otto",
    "outflow",
    "particles",
    "potential_flow",
    "robin",
    "run",
    "say",
    "scharfetter_gummel",
    "square_root",
    "static",
    "upwind",
]
