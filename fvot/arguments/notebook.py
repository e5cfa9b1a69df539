"""Whether this program is the kernel of a notebook."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether a notebook runs this program; IPython at a terminal is none."""
    ipython: Any = sys.modules.get("IPython")
    if ipython is None:
        return False
    return getattr(ipython.get_ipython(), "kernel", None) is not None
