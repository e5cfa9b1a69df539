"""What fvot raises, and how it warns. A returned result is a good one; every other case raises, on
every rank.
"""

import os
import sys
import warnings
from pathlib import Path

PACKAGE = f"{Path(__file__).parent}{os.sep}"


def missing(package, error):
    """The `ImportError` for a Python without PETSc or MPI: one line that says how to get them."""
    return ImportError(
        f"fvot needs {package}, built for this Python ({sys.executable}): 'make demo' in fvot's "
        "source tree sets it up, "
        "'apt-get install python3-petsc4py python3-mpi4py' or 'conda install -c conda-forge "
        "petsc4py mpi4py' gets it "
        f"({error})"
    )


def warn(message, category=UserWarning):
    """Warn with the place of the user's own call: the nearest one outside of this package."""
    level = 2  # that of the frame that calls this function
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


class InputError(ValueError):
    """The input cannot be used; the message names the thing, its value and the remedy."""


class ArgumentError(InputError, TypeError):
    """A call with too many arguments, too few, or one by a name that there is not; the message says
    how to write it.
    """


class MeshError(InputError):
    """The mesh is broken, or not admissible for two-point fluxes."""


class ConvergenceError(RuntimeError):
    """A solver stopped short of its tolerance; ``result`` holds what it had reached (or None)."""

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result
