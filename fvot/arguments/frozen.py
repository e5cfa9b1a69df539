"""Objects that do not change after they are made, and calls whose mistakes are named."""

from __future__ import annotations

import difflib
import inspect
from functools import wraps
from typing import Any, TypeVar

from ..errors import ArgumentError

Class = TypeVar("Class", bound=type)

# The kinds of parameters that a call may give by position.
POSITIONAL_KINDS = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD

# Characters of a value that an error message repeats.
SHOWN_VALUE_LENGTH = 30


def frozen(cls: Class) -> Class:
    """The class, whose objects keep the attributes that `__init__` gives them.

    Names that begin with an underscore are a solver's memory and may change; so may attributes that
    a subclass adds. Assigning to another one, or deleting it, is an `AttributeError`; a call with
    unknown, missing or too many arguments is an `ArgumentError`.
    """
    init = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)
    names = [name for name in signature.parameters if name != "self"]

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            problem = _explain_call(cls.__name__, signature, args, kwargs)
            raise ArgumentError(problem or str(error)) from None
        init(self, *args, **kwargs)
        if type(self) is cls:
            object.__setattr__(self, "_made", True)

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if not name.startswith("_") and "_made" in self.__dict__:
            raise AttributeError(_explain_assignment(self, names, name, value))
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:
        if not name.startswith("_") and "_made" in self.__dict__:
            raise AttributeError(
                f"{cls.__name__}.{name} cannot be deleted: these objects are immutable"
            )
        object.__delattr__(self, name)

    cls.__init__ = __init__  # type: ignore[misc]
    cls.__setattr__ = __setattr__  # type: ignore[method-assign, assignment]
    cls.__delattr__ = __delattr__  # type: ignore[method-assign, assignment]
    return cls


def remade(cls: Class) -> Class:
    """The class, whose objects are copied and pickled by the arguments that have made them.

    For solvers, whose matrices cannot be copied: a copy makes its own.
    """
    init = cls.__init__  # type: ignore[misc]

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "_call", (args, kwargs))
        init(self, *args, **kwargs)

    def __reduce__(self: Any) -> tuple[Any, ...]:
        args, kwargs = self._call
        return _remake, (type(self), args, kwargs)

    cls.__init__ = __init__  # type: ignore[misc]
    cls.__reduce__ = __reduce__  # type: ignore[method-assign, assignment]
    return cls


def _remake(cls, args, kwargs):
    return cls(*args, **kwargs)


def _explain_assignment(made, names, name, value):
    """The message for an attribute that was assigned, with the call that makes such an object."""
    kind = type(made).__name__
    is_known = name in names or hasattr(made, name)
    near = difflib.get_close_matches(name, names, 1)

    problem = ""
    if not is_known:
        guess = f" (is it {near[0]}?)" if near else ""
        problem = f" has no attribute {name!r}{guess}, and"

    argument = None
    if name in names:
        argument = name
    elif near and not is_known:
        argument = near[0]

    remedy = ""
    if argument:
        first = [] if argument == names[0] else [names[0]]
        others = [] if len(names) == 1 else ["..."]
        words = [*first, f"{argument}={_shorten(value)}", *others]
        remedy = f": {kind}({', '.join(words)})"
    return f"{kind}{problem} cannot be changed after it is made; make a new one{remedy}"


def _explain_call(kind, signature, args, kwargs):
    """Which arguments of a call are too many, unknown or missing, and how to write it; None where
    Python's own message is as good.
    """
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    positional = [p.name for p in parameters if p.kind in POSITIONAL_KINDS]
    keyword_only = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]

    surplus = zip(keyword_only, args[len(positional) :])
    words = [*positional[: len(args)], *[f"{name}={_shorten(value)}" for name, value in surplus]]
    if len(positional) < len(args) <= len(positional) + len(keyword_only):
        plural = "" if len(positional) == 1 else "s"
        return (
            f"{kind} takes {len(positional)} argument{plural} by position, and all others by name: "
            f"write {kind}({', '.join(words)})"
        )

    unknown = [name for name in kwargs if name not in signature.parameters]
    if unknown:
        near = difflib.get_close_matches(unknown[0], positional + keyword_only, 1)
        guess = f"; is it {near[0]}=?" if near else "."
        return (
            f"{kind} has no argument {unknown[0]!r}{guess} It takes: "
            f"{', '.join(positional + keyword_only)}"
        )

    given = {*kwargs, *positional[: len(args)]}
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        words += [f"{name}=..." for name in missing]
        return f"{kind} needs {missing[0]}: write {kind}({', '.join(words)})"
    return None


def _shorten(value):
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE_LENGTH and "\n" not in text else "..."
