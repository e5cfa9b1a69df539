"""What fvot raises, and how it warns. A result that is returned is a good one; every other case
raises, on every rank.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

PACKAGE_FOLDER = f"{Path(__file__).parent}{os.sep}"


def missing(package: str, error: ImportError) -> ImportError:
    """The `ImportError` for a Python without PETSc or MPI: one line that says how to get them."""
    return ImportError(
        f"fvot needs {package}, built for this Python ({sys.executable}): 'make demo' in fvot's "
        "source tree sets it up, 'apt-get install python3-petsc4py python3-mpi4py' or 'conda "
        f"install -c conda-forge petsc4py mpi4py' gets it ({error})"
    )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's own call: the nearest frame outside of this package."""
    level = 2  # the frame that calls this function
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE_FOLDER):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


class InputError(ValueError):
    """The input cannot be used; the message names the thing, its value and the remedy.

    It is a `ValueError`, and is raised on every rank.

    Examples
    --------
    >>> import fvot
    >>> try:
    ...     fvot.muscl(sharp=2)
    ... except fvot.InputError as error:
    ...     print(error)
    muscl(sharp=2): sharp must lie between 0 and 1
    """


class ArgumentError(InputError, TypeError):
    """A call has too many arguments, too few, or an unknown one; the message says how to write
    it.
    """


class MeshError(InputError):
    """The mesh is broken, or not admissible for two-point fluxes.

    Examples
    --------
    >>> import fvot
    >>> issubclass(fvot.MeshError, fvot.InputError)
    True
    """


class ConvergenceError(RuntimeError):
    """A solver stopped before it reached its tolerance.

    Parameters
    ----------
    message
        The number that was reached, and what to try.
    result
        The result so far, of the type that the solver returns; None if there is none.

    Attributes
    ----------
    result
        As above.

    Examples
    --------
    >>> import fvot
    >>> error = fvot.ConvergenceError("stopped after 10 iterations; raise max_iter", result=None)
    >>> error.result is None
    True
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
