"""Paths that users give: ~ is the home folder, and a file that is to be read is there."""

import os
from pathlib import Path

from ..errors import InputError


def expanded(path):
    """The `Path` with ~ and ~name as home folders; `InputError` where there is no such folder."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"a path must be text or a pathlib.Path, not {path!r:.60}")
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: no home folder is known for {path.parts[0]}; write the path without it"
        ) from None


def readable(path, what):
    """The expanded `Path` of *what* ("mesh file"); `InputError` unless this user may read a file
    there.
    """
    path = expanded(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the path of the {what} in it")
        if not path.is_file():
            raise InputError(f"there is no {what} {path}; check the path, relative to {Path.cwd()}")
        allowed = os.access(path, os.R_OK)
    except PermissionError:
        allowed = False
    if not allowed:
        raise InputError(
            f"the {what} {path} may not be read by this user: give yourself the "
            "permission, or copy it"
        )
    return path
