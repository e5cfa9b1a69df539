"""User functions f(x) or f(x, t), told apart by the number of their parameters; constants are the
simplest of them.
"""

import inspect
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

NUMBERS = "biufO"  # kinds of arrays that hold real numbers; objects may be some
ROUNDINGS = 8  # in units of the last digit, of numbers that were divided by their sum
FIRST = {"t", "time"}  # names of a first parameter that ought to be the second one


def is_number(x):
    """Whether x is one real number (True and False are none)."""
    return isinstance(x, (int, float, np.number)) and not isinstance(x, bool)


def floats(x, wanted):
    """x as an array of floats; `InputError` "*wanted*, not x" for complex numbers, rows of
    different lengths, words, dates, and masked arrays.
    """
    refuse_masked(x, wanted)
    try:
        array = np.asarray(x)
        if (
            array.dtype.kind not in NUMBERS
            or array.dtype == object
            and any(isinstance(v, str) for v in array.ravel())
        ):
            raise TypeError
        return array.astype(float, copy=False)
    except (TypeError, ValueError):
        raise InputError(f"{wanted}, not {x!r:.60}") from None


def rounding_of(*arrays):
    """By how much sums of rounded numbers may differ, relative: 1e-15 for those of Python, 1e-6 in
    single precision.
    """
    kinds = [np.asarray(array).dtype for array in arrays]
    return ROUNDINGS * max(np.finfo(kind if kind.kind == "f" else float).eps for kind in kinds)


def refuse_masked(x, wanted):
    """`InputError` "*wanted*, not ..." for a numpy masked array, or a list with one, that hides
    something.
    """
    hidden, size = _hidden(x)
    if hidden:
        raise InputError(
            f"{wanted}, not a masked array, in which {hidden} of {size} numbers are hidden: what "
            "is there is for "
            "you to say; .filled(0) puts zeros in their places"
        )


def _hidden(x):
    """(how many numbers are masked, how many there are) in masked arrays, or in lists of them."""
    if isinstance(x, np.ma.MaskedArray):
        return int(np.ma.count_masked(x)), x.size
    if isinstance(x, (list, tuple)):
        counts = [_hidden(part) for part in x if isinstance(part, (np.ma.MaskedArray, list, tuple))]
        return sum(hidden for hidden, _ in counts), sum(size for _, size in counts)
    return 0, 0


def check_finite(array, what):
    """`InputError` naming the first one of the columns of an array (..., n) that are not finite."""
    bad = np.flatnonzero(~np.isfinite(array).reshape(-1, array.shape[-1]).all(axis=0))
    if len(bad):
        raise InputError(
            f"{what} {bad[0]} is {array[..., bad[0]]}: it must be finite ({len(bad)} are not)"
        )


@dataclass(frozen=True)
class Function:
    """A scalar (shape ()) or vector (shape (dim,)) function of place and time, checked at every
    call.
    """

    f: object
    what: str  # its name in messages
    shape: tuple  # of one value
    depends_on_time: bool

    def __call__(self, x, t):
        """Values (*shape, n) at x (dim, n) and time t; `InputError` for another shape, or values
        that are not finite.
        """
        shape = self.shape + (x.shape[1],)
        if x.shape[1] == 0:
            return np.zeros(shape)
        values = _numbers(self._values(x, t), self.what, x, shape)
        if values.shape == self.shape:
            if callable(self.f):
                refuse_sum(values, lambda some: self._values(some, t), x, self.what)
            values = np.broadcast_to(values[..., None], shape)
        if values.shape == (1, *shape) and len(x) == 1:  # one coordinate, as x has it
            values = values[0]
        if values.shape != shape:
            whole = values.ndim and values.shape[-1] > x.shape[1]
            raise InputError(
                f"{self.what} returned shape {values.shape} for x of shape {x.shape}; it must "
                f"return {shape}"
                + ": values at these points alone (numbers of all cells are this rank's by "
                "mesh.scatter)" * whole
            )
        bad = np.flatnonzero(~np.isfinite(values.reshape(-1, x.shape[1])).all(axis=0))
        if len(bad):
            raise InputError(
                f"{self.what} is {values[..., bad[0]]} at x = {x[:, bad[0]]}, t = {t}: it must be "
                "finite "
                f"({len(bad)} of {x.shape[1]} values are not); where nothing is known of it, "
                "mesh.without(f) leaves cells out, or numpy.minimum puts a cap on it"
            )
        return values

    def _values(self, x, t):
        if not callable(self.f):
            return self.f
        return (
            called(self.f, self.what, x, t)
            if self.depends_on_time
            else called(self.f, self.what, x)
        )


def called(f, what, x, *more):
    """f(x, *more), where a failure says which function it was, and for what x.

    What goes wrong with arrays is an `InputError` with a remedy; all else stays the exception that
    it is.
    """
    try:
        return f(x, *more)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} failed for x of shape {np.shape(x)}: {type(error).__name__}: {error}"
            f"{_advice(error)}"
        ) from error
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"{what} failed for x of shape {np.shape(x)}")
        raise


def refuse_sum(value, f, x, what):
    """`InputError` if the one value that f has for all points x (dim, n) is another one for some of
    them alone.
    """
    for some in (x[:, :1], x[:, -1:]) if x.shape[1] > 1 else ():
        other = np.asarray(f(some))
        if other.size == value.size and not np.array_equal(other.ravel(), value.ravel()):
            raise InputError(
                f"{what} returned one value for all of {x.shape[1]} points, and another one for "
                "one of them: sums "
                "and norms need axis=0, as in numpy.sum(x**2, axis=0)"
            )


def _advice(error):
    """What is usually meant by a mistake in a function of many points at once."""
    text = str(error)
    if "truth value of an array" in text:
        return (
            ". x has all points at once, so that a condition has many answers: write "
            "numpy.where(x[0] > 0, a, b) for "
            "`a if x[0] > 0 else b`, and (0 < y) & (y < 1) for `0 < y < 1`, `and`, `or`"
        )
    if "can be converted to Python scalars" in text or "must be real number" in text:
        return ". x has all points at once: write numpy.sin(x[0]) for math.sin(x[0]), and no float(...)"
    if "required positional argument" in text:
        return ". It is called with x alone, one array of all coordinates: x[0], x[1], ..."
    return ""


def _numbers(values, what, x, shape):
    """The values as an array of floats; `InputError` for rows of different lengths, complex
    numbers, or none at all.
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
        problem = f"what is no array of numbers, or has rows of different lengths ({values!r:.60})"
    raise InputError(
        f"{what} returned {problem}, for x of shape {x.shape}; it must return {shape} real "
        "numbers (for a "
        f"constant row: 0 * x[0] + 1), and take x = (x[0], x[1], ...) as one array"
    )


def function(f, what, shape=(), of=("x", "t")):
    """A `Function` from f(x), f(x, t), or a constant of the given shape; `InputError` for anything
    else.

    of : the names of the parameters that it may have
    """
    named = " or of ".join(["x", "(x, t)"] if of == ("x", "t") else of)
    if not callable(f):
        refuse_masked(f, f"{what} must be numbers")
        try:
            value = floats(f, what)
        except InputError:
            value = np.array(np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            raise InputError(
                f"{what} must be a function of {named}, or {_described(shape)}, not {f!r:.80}"
            )
        return Function(value, what, shape, False)
    n = _required(f)
    if of[0] == "x" and _first(f) in FIRST:
        raise InputError(
            f"{what} must be a function of {named}: x comes first, and "
            f"{getattr(f, '__name__', f)!r} begins with "
            f"{_first(f)}" + "; write f(x, t)" * ("t" in of)
        )
    if not 1 <= n <= len(of):
        raise InputError(
            f"{what} must be a function of {named}; {getattr(f, '__name__', f)!r} takes {n} "
            "parameters"
        )
    return Function(f, what, shape, n == 2)


def _described(shape):
    if not shape:
        return "a finite number"
    return f"a list of {shape[0]} finite numbers" if shape[0] > 1 else "a list of one finite number"


def _required(f):
    """The number of positional parameters without a default; of numpy's functions, and numba's like
    them, of arguments.
    """
    if hasattr(
        f, "nin"
    ):  # their signature is missing, or (*args, **kwargs), or whole, as numpy's version has it
        return f.nin
    parameters = _positional(f)
    return 1 if parameters is None else sum(p.default is p.empty for p in parameters)


def _first(f):
    """The name of the first parameter, None where there is none."""
    parameters = _positional(f)
    return parameters[0].name if parameters else None


def _positional(f):
    """The positional parameters; None where Python does not know, or for one that takes any number
    of them.
    """
    f = getattr(f, "pyfunc", f)  # of numpy.vectorize, which is (*args, **kwargs)
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return None if takes_any and not positional else positional
