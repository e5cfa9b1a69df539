"""Old names of public functions: for one release they still work, with a warning."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from ..errors import warn


def renamed(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """The *function* under its *old* name: each call warns with `DeprecationWarning`.

    The warning names the *new* one and carries the place of the call, so that Python's filters
    show it once for each place.
    """

    @wraps(function)
    def alias(*args, **kwargs):
        warn(
            f"{old} is now called {new}: the old name will be removed in the next release",
            DeprecationWarning,
        )
        return function(*args, **kwargs)

    return alias
