"""Where numba keeps compiled kernels from one run to the next.

Numba has two places of its own: ``__pycache__`` beside a source, and the user's cache folder. Where
it can write to neither, as in somebody else's installation without a home folder, it refuses
``cache=True``. Then a temporary folder of this user is used.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

import numba

# The permission bits with which others than the owner could write to a folder.
WRITABLE_BY_OTHERS = 0o022


def choose_folder() -> None:
    """Give numba a folder of this user if it has no place for some source of this package."""
    folders = [source.parent for source in Path(__file__).parent.rglob("__init__.py")]
    if not all(_has_place(folder) for folder in folders):
        numba.config.CACHE_DIR = _make_temporary_folder()


def _has_place(folder):
    """Whether numba can keep kernels whose source lies in this folder: it is given a trial one."""
    names = {}
    exec(compile("def kernel(): pass", folder / "__init__.py", "exec"), names)
    try:
        numba.njit(cache=True)(names["kernel"])
    except RuntimeError:  # "no locator available"
        return False
    return True


def _make_temporary_folder():
    """The same folder for all runs and ranks of this user, if it is safe; else one of this process
    alone, which is removed at its end.
    """
    folder = Path(tempfile.gettempdir()) / f"fvot-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_safe(folder):
            return str(folder)
    except OSError:
        pass
    own = tempfile.mkdtemp(prefix="fvot-kernels-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _is_safe(folder):
    """Whether nobody else can put code there that numba would run."""
    status = folder.lstat()
    is_own = status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and is_own and not status.st_mode & WRITABLE_BY_OTHERS


choose_folder()
