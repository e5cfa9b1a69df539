"""`info`: what runs here, for a report of a fault."""
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from . import linalg, parallel

PACKAGES = "fvot", "numpy", "scipy", "numba", "pyamg", "mpi4py", "petsc4py", "vtk", "pyvista", "meshio", "h5py", "pot"
SOLVERS = "ptscotch", "hypre", "mumps"


def info():
    """Print the versions of fvot and of what it stands on, once (on rank 0), and return them as {name: version}."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES},
             "PETSc": f"{linalg.versions()} ({', '.join(s for s in SOLVERS if linalg.has_package(s)) or 'no extra solvers'})",
             "MPI": parallel.library(), "ranks": str(parallel.Ranks().size),
             "machine": f"{platform.platform()}, {os.cpu_count()} cores"}
    parallel.say("\n".join(f"{name:10} {value}" for name, value in found.items()))
    return found


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "not found"
