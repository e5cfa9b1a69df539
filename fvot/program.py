"""`run`: a function as a program, and how a program ends on all ranks; `info`: which versions run.
The only reader of sys.argv.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import inspect
import os
import platform
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
    version,
)
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import linalg, parallel
from .arguments.notebook import in_notebook
from .errors import ConvergenceError, InputError

Value = TypeVar("Value")

# Seconds that a rank with an error waits for the others before it ends them.
FAILURE_PATIENCE = 5.0

# Seconds that a rank waits for the others when an exception has ended its program.
EXIT_PATIENCE = 1

# Errors whose message says all: they are printed without a traceback.
SELF_EXPLAINING_ERRORS = InputError, ConvergenceError

REPORTED_PACKAGES = (
    "fvot",
    "numpy",
    "scipy",
    "numba",
    "pyamg",
    "vtk",
    "pyvista",
    "meshio",
    "h5py",
    "pot",
)

# Packages that must fit the MPI of this machine, and one another.
BOUND_PACKAGES = "mpi4py", "petsc4py"
REPORTED_SOLVERS = "ptscotch", "hypre", "mumps"


def run(main: Callable[..., Value]) -> Value:
    """Call main with its keyword arguments from the command line, and return what it returns.

    It stands at the end of a script, below ``if __name__ == "__main__":``.

    Parameters
    ----------
    main
        Each argument ``name=default`` of main is an option ``--name value`` (``name_of_two`` is
        ``--name-of-two``), converted to the type of its annotation, or else of its default;
        booleans are ``--name`` and ``--no-name``. Arguments before a ``/`` in main's signature are
        positional words, which come first: ``program.py a.png b.png --size 64``.

    Returns
    -------
    value
        The value of main.

    Raises
    ------
    TypeError
        If an argument of main has no default.

    Notes
    -----
    ``--help`` or ``-h`` shows the options below main's docstring. Other options with one dash
    (``-ksp_monitor``) are PETSc's. An error ends the program on all ranks with status 1, or 2 if
    the options are wrong, and is printed once. In a notebook run(main) is main().

    Examples
    --------
    >>> import sys
    >>> import fvot
    >>> def main(cells=64, tol=1e-6):
    ...     return cells
    >>> sys.argv = ["program.py", "--cells", "32"]
    >>> fvot.run(main)
    32
    """
    if in_notebook():  # whose words are those of its kernel, and which shows errors itself
        return main()

    finish = parallel.Ranks().duplicate()  # the ranks meet here at the end, also after failures
    words, options = _read_options(main, finish)

    value = None
    failure = None
    try:
        value = main(*words, **options)
    except Exception as error:
        failure = error
    _end(failure, finish)
    return typing.cast(Value, value)


# ---- options -------------------------------------------------------------------------------------


def _read_options(main, finish):
    """(values of main's positional words, {name: value} of its options) from the command line; the
    rest goes to PETSc.
    """
    parameters = inspect.signature(main).parameters.values()
    hints = typing.get_type_hints(main)
    positional = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    parser = _build_parser(main, parameters, positional, hints)

    # By hand: argparse would find -h in -history, too.
    given = ["--help" if word == "-h" else word for word in sys.argv[1:]]
    n_words = next((k for k, word in enumerate(given) if word.startswith("-")), len(given))
    try:
        words = _convert_words(positional, given[:n_words], hints)
        options, rest = parser.parse_known_args(given[n_words:])
        _check_petsc_options(rest)
    except _UsageError as error:
        usage = f"{parser.format_usage()}error: {error}; --help shows all options"
        _leave(finish, usage, sys.stderr, 2)

    if options.help:
        _leave(finish, parser.format_help().rstrip(), sys.stdout, 0)
    _hand_to_petsc(rest, finish)
    del options.help
    return words, vars(options)


def _build_parser(main, parameters, positional, hints):
    usage = [
        "%(prog)s",
        *[f"[{p.name}]" for p in positional],
        "[--option value ...]",
        "[-petsc_option value ...]",
    ]
    parser = _Parser(
        prog=sys.argv[0],
        description=inspect.getdoc(main),
        add_help=False,
        allow_abbrev=False,
        usage=" ".join(usage),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--help", action="store_true", help="show this help and exit, as -h does")
    for parameter in parameters:
        if parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"run needs a default for every argument of main; {parameter.name!r} has none"
            )
        if parameter not in positional:
            _add_option(parser, parameter.name, parameter.default, hints.get(parameter.name))
    return parser


def _hand_to_petsc(arguments, finish):
    """Set PETSc's options; end on all ranks where one of them is refused."""
    failure = None
    try:
        linalg.set_options(arguments)
    except InputError as error:
        failure = str(error)
    failures = list(filter(None, finish.all_reports(failure)))
    if failures:
        _leave(finish, f"error: {failures[0]}", sys.stderr, 2)


def _convert_words(positional, given, hints):
    """The values of main's positional words: those given, and the defaults of the others."""
    if len(given) > len(positional):
        raise _UsageError(f"unknown option {given[len(positional)]!r}")
    values = [p.default for p in positional]
    for k, (parameter, word) in enumerate(zip(positional, given)):
        kind, _ = _find_type(parameter.default, hints.get(parameter.name))
        try:
            values[k] = kind(word)
        except ValueError:
            raise _UsageError(
                f"{parameter.name} must be of type {kind.__name__}, not {word!r}"
            ) from None
    return values


class _UsageError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _add_option(parser, name, default, hint):
    option = "--" + name.replace("_", "-")
    kind, is_sequence = _find_type(default, hint)
    text = _format_default(default)
    if kind is bool:
        parser.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, help=text)
    else:
        parser.add_argument(
            option,
            dest=name,
            type=kind,
            nargs="+" if is_sequence else None,
            metavar=kind.__name__.upper(),
            help=text,
        )
    parser.set_defaults(**{name: default})


def _find_type(default, hint):
    """(type of one value, whether it is a sequence) from the annotation, else from the default."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) in (tuple, list):
        return typing.get_args(hint)[0], True
    if hint in (tuple, list) or hint is None and isinstance(default, (tuple, list)):
        return type(default[0]) if default else str, True
    if hint is None:
        return str if default is None else type(default), False
    return hint, False


def _format_default(default):
    text = " ".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
    return f"(default: {text})".replace("%", "%%")


def _check_petsc_options(rest):
    """`_UsageError` unless the rest is ``-name`` or ``-name value``, repeated."""
    takes_value = False
    for word in rest:
        is_name = word.startswith("-") and not _is_number(word)
        if word.startswith("--") or not is_name and not takes_value:
            raise _UsageError(f"unknown option {word!r}")
        takes_value = is_name


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


# ---- the end -------------------------------------------------------------------------------------


def _leave(finish, text, stream, status):
    """Print once, and end on all ranks."""
    if finish.is_root:
        print(text, file=stream, flush=True)
    finish.wait()
    sys.exit(status)


def _end(failure, finish):
    """Return if no rank has failed; else print each error once and end the program on all ranks."""
    report = None
    patience = float("inf")
    if failure is not None:
        report = (f"{type(failure).__name__}: {failure}", _format_failure(failure))
        patience = FAILURE_PATIENCE

    if not finish.meet(patience):  # the others work on, or wait for this rank somewhere else
        print(f"on rank {finish.rank} alone: {report[1]}", file=sys.stderr, flush=True)
        finish.abort(1)

    errors = dict(filter(None, finish.all_reports(report)))
    if errors:
        _leave(finish, "\n".join(_drop_repetitions(errors)), sys.stderr, 1)


def _drop_repetitions(errors: dict[str, str]) -> Iterable[str]:
    """The texts of {message: text}, without those repeated by others as "rank 1 failed: ..."."""
    for message, text in errors.items():
        if not any(other != message and other in message for other in errors):
            yield text


def _format_failure(failure):
    if isinstance(failure, SELF_EXPLAINING_ERRORS):
        return f"{type(failure).__name__}: {failure}"
    return "".join(traceback.format_exception(failure)).rstrip()


def _end_all_on_error():
    """At the exit of a program: a rank that an exception has ended ends the others, unless they
    exit as well.

    They may wait for it somewhere, and it would wait for them where PETSc ends.
    """
    if getattr(sys, "last_value", None) is None or parallel.is_finalized():
        return
    ranks = parallel.Ranks()
    if ranks.size == 1:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not ranks.meet(EXIT_PATIENCE):
        ranks.abort(1)


# This runs before PETSc's own exit function, which was registered earlier and in which a rank waits
# for all others.
atexit.register(_end_all_on_error)


# ---- reports -------------------------------------------------------------------------------------


def info() -> dict[str, str]:
    """Print the versions of fvot and of the packages it uses, once (on rank 0).

    Returns
    -------
    versions
        {name: version} of Python, the packages, PETSc with its extra solvers and MPI; for mpi4py
        and petsc4py also where they come from: apt, conda, pip with the name of the wheel, or their
        folder; the number of ranks; the machine.

    Examples
    --------
    >>> import fvot
    >>> versions = fvot.info()  # doctest: +ELLIPSIS
    python ...
    >>> "PETSc" in versions
    True
    """
    solvers = [name for name in REPORTED_SOLVERS if linalg.has_package(name)]
    versions: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: find_version(name) for name in REPORTED_PACKAGES},
        **{name: find_origin(name) for name in BOUND_PACKAGES},
        "PETSc": f"{linalg.petsc_version()} ({', '.join(solvers) or 'no extra solvers'})",
        "MPI": parallel.library_version(),
        "ranks": str(parallel.Ranks().size),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }
    parallel.say("\n".join(f"{name:10} {value}" for name, value in versions.items()))
    return versions


def find_version(package: str, default: str = "not found") -> str:
    """The version of a package that is installed; else the default."""
    try:
        return version(package)
    except PackageNotFoundError:
        return default


def find_origin(package: str) -> str:
    """The version of a package, and where it comes from."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return "not found"
    folder = Path(spec.origin).parent.parent
    names = packages_distributions().get(package, [])
    number = find_version(package, default=getattr(sys.modules.get(package), "__version__", "?"))

    installer = distribution(names[0]).read_text("INSTALLER") if names else None
    source = (installer or "").strip() or str(folder)
    if folder.is_relative_to("/usr/lib") and folder.name == "dist-packages":
        source = "apt"
    elif names and package not in names:
        source += f", in {names[0]} {version(names[0])}"
    return f"{number} ({source})"
