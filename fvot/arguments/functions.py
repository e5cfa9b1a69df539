"""User functions f(x) or f(x, t), told apart by the number of their parameters; a constant is the
simplest of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .frozen import POSITIONAL_KINDS
from .types import Array

# The kinds of numpy arrays that hold real numbers; arrays of objects may hold some.
NUMBER_KINDS = "biufO"

# Rounding of numbers that were divided by their sum, in units of the last digit.
SUM_ROUNDING_DIGITS = 8

# Names of a first parameter that must be the second one.
TIME_NAMES = {"t", "time"}


# ---- numbers -------------------------------------------------------------------------------------


def is_number(x: object) -> TypeGuard[float]:
    """Whether x is one real number (True and False are none)."""
    return isinstance(x, (int, float, np.number)) and not isinstance(x, bool)


def is_integer(x: object) -> TypeGuard[int]:
    """Whether x is one integer (True and False are none)."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def is_count(x: object) -> TypeGuard[float]:
    """Whether x is a whole number from 1 on; 3.0 is one, too."""
    return is_number(x) and x >= 1 and x % 1 == 0


def as_floats(x: Any, wanted: str) -> Array:
    """x as an array of floats; `InputError` "*wanted*, not x" for complex numbers, rows of
    different lengths, words, dates, and masked arrays.
    """
    refuse_masked(x, wanted)
    try:
        array = np.asarray(x)
        has_words = array.dtype == object and any(isinstance(v, str) for v in array.ravel())
        if array.dtype.kind not in NUMBER_KINDS or has_words:
            raise TypeError
        # Arrays over memory of ctypes have a format of floats that MPI does not know.
        return array.astype(float, copy=False).view(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{wanted}, not {x!r:.60}") from None


def find_rounding(*arrays: ArrayLike) -> float:
    """The relative difference that sums of these numbers may have by rounding: 2e-15 in double and
    1e-6 in single precision.
    """
    kinds = [np.asarray(array).dtype for array in arrays]
    digits = [np.finfo(kind if kind.kind == "f" else float).eps for kind in kinds]
    return float(SUM_ROUNDING_DIGITS * max(digits))


def refuse_masked(x: Any, wanted: str) -> None:
    """`InputError` "*wanted*, not ..." for a numpy masked array, or a list with one, that hides
    numbers.
    """
    n_hidden, size = _count_hidden(x)
    if n_hidden:
        raise InputError(
            f"{wanted}, not a masked array, in which {n_hidden} of {size} numbers are masked: "
            "fill in your own values; .filled(0) puts zeros there"
        )


def _count_hidden(x):
    """(how many numbers are masked, how many there are) in masked arrays, or in lists of them."""
    if isinstance(x, np.ma.MaskedArray):
        return int(np.ma.count_masked(x)), x.size
    if isinstance(x, (list, tuple)):
        containers = (np.ma.MaskedArray, list, tuple)
        counts = [_count_hidden(part) for part in x if isinstance(part, containers)]
        return sum(hidden for hidden, _ in counts), sum(size for _, size in counts)
    return 0, 0


def check_finite(array: Array, what: str) -> None:
    """`InputError` naming the first one of the columns of an array (..., n) that are not finite."""
    bad = np.flatnonzero(~np.isfinite(array).reshape(-1, array.shape[-1]).all(axis=0))
    if len(bad):
        raise InputError(
            f"{what} {bad[0]} is {array[..., bad[0]]}: it must be finite ({len(bad)} are not)"
        )


# ---- functions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A scalar (shape ()) or vector (shape (dim,)) function of place and time, checked at every
    call.

    f : the user's function or constant
    what : its name in messages
    shape : of one value
    depends_on_time : whether f is called with the time
    """

    f: Any
    what: str
    shape: tuple[int, ...]
    depends_on_time: bool

    def __call__(self, x: Array, t: float) -> Array:
        """Values (*shape, n) at x (dim, n) and time t; `InputError` for another shape, or values
        that are not finite.
        """
        n = x.shape[1]
        shape = self.shape + (n,)
        if n == 0:
            return np.zeros(shape)

        values = _as_numbers(self._evaluate(x, t), self.what, x, shape)
        if values.shape == self.shape:
            if callable(self.f):
                refuse_sum(values, lambda some: self._evaluate(some, t), x, self.what)
            values = np.broadcast_to(values[..., None], shape)
        if values.shape == (1, *shape) and len(x) == 1:  # one coordinate, in the form that x has
            values = values[0]

        self._check_shape(values, x, shape)
        self._check_finite(values, x, t)
        return values

    def _evaluate(self, x, t):
        if not callable(self.f):
            return self.f
        if self.depends_on_time:
            return call_function(self.f, self.what, x, t)
        return call_function(self.f, self.what, x)

    def _check_shape(self, values, x, shape):
        if values.shape == shape:
            return
        advice = ""
        if values.ndim and values.shape[-1] > x.shape[1]:
            advice = (
                ": values at these points alone (numbers of all cells are this rank's by "
                "mesh.scatter)"
            )
        raise InputError(
            f"{self.what} returned shape {values.shape} for x of shape {x.shape}; it must return "
            f"{shape}{advice}"
        )

    def _check_finite(self, values, x, t):
        n = x.shape[1]
        bad = np.flatnonzero(~np.isfinite(values.reshape(-1, n)).all(axis=0))
        if len(bad):
            raise InputError(
                f"{self.what} is {values[..., bad[0]]} at x = {x[:, bad[0]]}, t = {t}: it must be "
                f"finite ({len(bad)} of {n} values are not); mesh.without(f) removes cells where "
                "it is unknown, and numpy.minimum caps it"
            )


def call_function(f: Callable[..., Any], what: str, x: Any, *more: Any) -> Any:
    """f(x, *more), where a failure says which function it was, and for which x.

    A `TypeError` or `ValueError` becomes an `InputError` with a remedy; all others stay the
    exceptions that they are.
    """
    try:
        return f(x, *more)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} failed for x of shape {np.shape(x)}: {type(error).__name__}: {error}"
            f"{_advise(error)}"
        ) from error
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"{what} failed for x of shape {np.shape(x)}")
        raise


def refuse_sum(value: Array, f: Callable[[Array], Any], x: Array, what: str) -> None:
    """`InputError` if f has one value for all points x (dim, n), and another one for some of them
    alone.
    """
    n = x.shape[1]
    if n < 2:
        return
    for some in (x[:, :1], x[:, -1:]):
        other = np.asarray(f(some))
        if other.size == value.size and not np.array_equal(other.ravel(), value.ravel()):
            raise InputError(
                f"{what} returned one value for all of {n} points, and another one for one of "
                "them: sums and norms need axis=0, as in numpy.sum(x**2, axis=0)"
            )


def _advise(error):
    """The usual cause of an error in a function of many points at once."""
    text = str(error)
    if "truth value of an array" in text:
        return (
            ". x has all points at once, so that a condition has many answers: write "
            "numpy.where(x[0] > 0, a, b) for `a if x[0] > 0 else b`, and (0 < y) & (y < 1) for "
            "`0 < y < 1`, `and`, `or`"
        )
    if "can be converted to Python scalars" in text or "must be real number" in text:
        return (
            ". x has all points at once: write numpy.sin(x[0]) for math.sin(x[0]), and no "
            "float(...)"
        )
    if "required positional argument" in text:
        return ". It is called with x alone, one array of all coordinates: x[0], x[1], ..."
    return ""


def _as_numbers(values, what, x, shape):
    """The values as an array of floats; `InputError` for rows of different lengths, complex
    numbers, or None.
    """
    refuse_masked(values, f"{what} must return numbers")
    if values is None:
        raise InputError(f"{what} returned None: is its return missing?")
    try:
        array = np.asarray(values)
        if not np.iscomplexobj(array):
            return array.astype(float, copy=False)
        problem = "complex numbers"
    except (TypeError, ValueError):
        problem = f"no array of numbers, or rows of different lengths ({values!r:.60})"
    raise InputError(
        f"{what} returned {problem}, for x of shape {x.shape}; it must return {shape} real numbers "
        "(for a constant row: 0 * x[0] + 1), and take x = (x[0], x[1], ...) as one array"
    )


# ---- which function it is ------------------------------------------------------------------------


def as_function(
    f: Any, what: str, shape: tuple[int, ...] = (), of: tuple[str, ...] = ("x", "t")
) -> Function:
    """A `Function` from f(x), f(x, t), or a constant of the given shape; `InputError` for anything
    else.

    of : the names of the parameters that it may have
    """
    forms = " or of ".join(["x", "(x, t)"] if of == ("x", "t") else of)
    if not callable(f):
        return _as_constant(f, what, shape, forms)

    n = _count_required(f)
    name = getattr(f, "__name__", f)
    first = _find_first_parameter(f)
    if of[0] == "x" and first in TIME_NAMES:
        remedy = "; write f(x, t)" if "t" in of else ""
        raise InputError(
            f"{what} must be a function of {forms}: x comes first, and {name!r} begins with "
            f"{first}{remedy}"
        )
    if not 1 <= n <= len(of):
        raise InputError(f"{what} must be a function of {forms}; {name!r} takes {n} parameters")
    return Function(f, what, shape, n == 2)


def _as_constant(f, what, shape, forms):
    refuse_masked(f, f"{what} must be numbers")
    try:
        value = as_floats(f, what)
    except InputError:
        value = np.array(np.nan)
    if value.shape != shape or not np.isfinite(value).all():
        raise InputError(
            f"{what} must be a function of {forms}, or {_describe_shape(shape)}, not {f!r:.80}"
        )
    return Function(value, what, shape, False)


def _describe_shape(shape):
    if not shape:
        return "a finite number"
    return f"a list of {shape[0]} finite numbers" if shape[0] > 1 else "a list of one finite number"


def _count_required(f):
    """The number of positional parameters without a default; for functions of numpy and numba, of
    all arguments.
    """
    if hasattr(f, "nin"):  # their signature depends on the version of numpy
        return f.nin
    parameters = _find_positional(f)
    return 1 if parameters is None else sum(p.default is p.empty for p in parameters)


def _find_first_parameter(f):
    """The name of the first parameter, None where there is none."""
    parameters = _find_positional(f)
    return parameters[0].name if parameters else None


def _find_positional(f):
    """The positional parameters; None where Python does not know them, or where there may be any
    number of them.
    """
    f = getattr(f, "pyfunc", f)  # of numpy.vectorize, which is (*args, **kwargs)
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = [p for p in parameters if p.kind in POSITIONAL_KINDS]
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return None if takes_any and not positional else positional
