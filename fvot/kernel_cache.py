"""Where numba keeps compiled kernels from one run to the next.

It has two places of its own: ``__pycache__`` beside a source, and the user's cache folder. Where it
can write to neither, as in an installation by somebody else and without a home, it refuses
``cache=True``. A folder in the temporary place takes over.
"""

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

import numba


def settle():
    """Give numba a folder of this user if it has no place for some source of this package."""
    folders = {source.parent for source in Path(__file__).parent.rglob("*.py")}
    if not all(_has_place(folder) for folder in folders):
        numba.config.CACHE_DIR = _temporary()


def _has_place(folder):
    """Whether numba keeps kernels whose source is in this folder: it is shown one that looks so."""
    names = {}
    exec(compile("def kernel(): pass", folder / "__init__.py", "exec"), names)
    try:
        numba.njit(cache=True)(names["kernel"])
    except RuntimeError:  # "no locator available"
        return False
    return True


def _temporary():
    """The same folder for all runs and ranks of this user, if it is safe; else one that passes."""
    folder = Path(tempfile.gettempdir()) / f"fvot-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_own(folder):
            return str(folder)
    except OSError:
        pass
    passing = tempfile.mkdtemp(prefix="fvot-kernels-")
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return passing


def _is_own(folder):
    """Whether nobody else can put there what numba would run."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


settle()
