"""User functions f(x) or f(x, t), told apart by the number of their parameters; constants are the simplest of them."""
import inspect
from dataclasses import dataclass

import numpy as np

from .errors import InputError


def is_number(x):
    """Whether x is one real number (True and False are none)."""
    return isinstance(x, (int, float, np.number)) and not isinstance(x, bool)


def floats(x, wanted):
    """x as an array of floats; `InputError` "*wanted*, not x" for complex numbers, rows of different lengths, and words."""
    try:
        if np.iscomplexobj(x):
            raise TypeError
        return np.asarray(x, float)
    except (TypeError, ValueError):
        raise InputError(f"{wanted}, not {x!r:.60}") from None


def check_finite(array, what):
    """`InputError` naming the first one of the columns of an array (..., n) that are not finite."""
    bad = np.flatnonzero(~np.isfinite(array).reshape(-1, array.shape[-1]).all(axis=0))
    if len(bad):
        raise InputError(f"{what} {bad[0]} is {array[..., bad[0]]}: it must be finite ({len(bad)} are not)")


@dataclass(frozen=True)
class Function:
    """A scalar (shape ()) or vector (shape (dim,)) function of place and time, checked at every call."""

    f: object
    what: str                  # its name in messages
    shape: tuple               # of one value
    depends_on_time: bool

    def __call__(self, x, t):
        """Values (*shape, n) at x (dim, n) and time t; `InputError` for another shape, or values that are not finite."""
        shape = self.shape + (x.shape[1],)
        if x.shape[1] == 0:
            return np.zeros(shape)
        values = _numbers(self._values(x, t), self.what, x, shape)
        if values.shape == self.shape:
            values = np.broadcast_to(values[..., None], shape)
        if values.shape != shape:
            raise InputError(f"{self.what} returned shape {values.shape} for x of shape {x.shape}; it must return {shape}")
        bad = np.flatnonzero(~np.isfinite(values.reshape(-1, x.shape[1])).all(axis=0))
        if len(bad):
            raise InputError(f"{self.what} is {values[..., bad[0]]} at x = {x[:, bad[0]]}, t = {t}: it must be finite")
        return values

    def _values(self, x, t):
        if not callable(self.f):
            return self.f
        return self.f(x, t) if self.depends_on_time else self.f(x)


def _numbers(values, what, x, shape):
    """The values as an array of floats; `InputError` for rows of different lengths, complex numbers, or none at all."""
    try:
        array = np.asarray(values)
        if not np.iscomplexobj(array):
            return array.astype(float, copy=False)
        problem = "complex numbers"
    except (TypeError, ValueError):
        problem = f"what is no array of numbers, or has rows of different lengths ({values!r:.60})"
    raise InputError(f"{what} returned {problem}, for x of shape {x.shape}; it must return {shape} real numbers (for a "
                     f"constant row: 0 * x[0] + 1), and take x = (x[0], x[1], ...) as one array")


def function(f, what, shape=(), of=("x", "t")):
    """A `Function` from f(x), f(x, t), or a constant of the given shape; `InputError` for anything else.

    of : the names of the parameters that it may have
    """
    named = " or of ".join(["x", "(x, t)"] if of == ("x", "t") else of)
    if not callable(f):
        try:
            value = np.array(np.nan) if np.iscomplexobj(f) else np.asarray(f, float)
        except (TypeError, ValueError):
            value = np.array(np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            raise InputError(f"{what} must be a function of {named}, or {_described(shape)}, not {f!r:.80}")
        return Function(value, what, shape, False)
    n = _required(f)
    if not 1 <= n <= len(of):
        raise InputError(f"{what} must be a function of {named}; {getattr(f, '__name__', f)!r} takes {n} parameters")
    return Function(f, what, shape, n == 2)


def _described(shape):
    if not shape:
        return "a finite number"
    return f"a list of {shape[0]} finite numbers" if shape[0] > 1 else "a list of one finite number"


def _required(f):
    """The number of positional parameters without a default; of numpy's functions, and numba's like them, of arguments."""
    if hasattr(f, "nin"):           # their signature is missing, or (*args, **kwargs), or whole, as numpy's version has it
        return f.nin
    f = getattr(f, "pyfunc", f)     # of numpy.vectorize, which is (*args, **kwargs)
    try:
        parameters = inspect.signature(f).parameters.values()
    except ValueError:
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
