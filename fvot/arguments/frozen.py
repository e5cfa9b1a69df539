"""Objects that stay what they were made, and calls whose mistakes are named."""

import difflib
import inspect
from functools import wraps

from ..errors import ArgumentError

IN_ORDER = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def frozen(cls):
    """The class, whose objects have the attributes that `__init__` gives them, for good.

    Names that begin with an underscore are a solver's memory, and may change; so may all that a
    subclass adds. Assigning to another one, or deleting it, is an `AttributeError`; a call with
    arguments that there are not an `ArgumentError`.
    """
    init = cls.__init__
    signature = inspect.signature(init)
    names = [name for name in signature.parameters if name != "self"]

    @wraps(init)
    def __init__(self, *args, **kwargs):
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise ArgumentError(
                _what_is_wrong(cls.__name__, signature, args, kwargs) or str(error)
            ) from None
        init(self, *args, **kwargs)
        if type(self) is cls:
            object.__setattr__(self, "_made", True)

    def __setattr__(self, name, value):
        if not name.startswith("_") and "_made" in self.__dict__:
            raise AttributeError(_refusal(self, names, name, value))
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        if not name.startswith("_") and "_made" in self.__dict__:
            raise AttributeError(
                f"{cls.__name__}.{name} cannot be deleted: what is made stays as it is"
            )
        object.__delattr__(self, name)

    cls.__init__ = __init__
    cls.__setattr__ = __setattr__
    cls.__delattr__ = __delattr__
    return cls


def _refusal(made, names, name, value):
    """What to say to somebody who sets an attribute."""
    kind = type(made).__name__
    known = name in names or hasattr(made, name)
    near = difflib.get_close_matches(name, names, 1)
    problem = (
        "" if known else f" has no attribute {name!r}{f' (is it {near[0]}?)' if near else ''}, and"
    )
    what = name if name in names else near[0] if near and not known else None
    first = [] if what in (None, names[0]) else [names[0]]
    more = [] if len(names) == 1 else ["..."]
    remedy = f": {kind}({', '.join([*first, f'{what}={_short(value)}', *more])})" if what else ""
    return f"{kind}{problem} cannot be changed after it is made; make a new one{remedy}"


def _what_is_wrong(kind, signature, args, kwargs):
    """Which arguments of a call are too many, or missing, and how to write it; None where Python
    says it as well.
    """
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    in_order = [p.name for p in parameters if p.kind in IN_ORDER]
    by_name = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    written = [
        *in_order[: len(args)],
        *[f"{name}={_short(value)}" for name, value in zip(by_name, args[len(in_order) :])],
    ]
    if len(args) > len(in_order) and len(args) <= len(in_order) + len(by_name):
        return (
            f"{kind} takes {len(in_order)} argument{'s' * (len(in_order) != 1)} by position, and "
            "all others by name: write "
            f"{kind}({', '.join(written)})"
        )
    strange = [name for name in kwargs if name not in signature.parameters]
    if strange:
        near = difflib.get_close_matches(strange[0], in_order + by_name, 1)
        return (
            f"{kind} has no argument {strange[0]!r}{f'; is it {near[0]}=?' if near else ''} It "
            "takes: "
            f"{', '.join(in_order + by_name)}"
        )
    given = {*kwargs, *in_order[: len(args)]}
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        return f"{kind} needs {missing[0]}: write {kind}({', '.join([*written, *[f'{name}=...' for name in missing]])})"
    return None


def _short(value):
    text = repr(value)
    return text if len(text) <= 30 and "\n" not in text else "..."
