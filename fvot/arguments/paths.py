"""Paths that users give: ~ is the home folder, and a file that is to be read exists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError


def expand_home(path: Any) -> Path:
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


def check_readable(path: Any, what: str) -> Path:
    """The `Path` of *what* ("mesh file"), with home folders; `InputError` unless this user may read
    a file there.
    """
    path = expand_home(path)
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
            f"the {what} {path} is not readable by this user: change its permissions, or copy it"
        )
    return path
