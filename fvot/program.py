"""`run`: a function as a program, and how a program ends on all ranks; `info`: what runs here. The
only reader of sys.argv.
"""

import argparse
import atexit
import inspect
import os
import platform
import sys
import traceback
import types
import typing
from importlib.metadata import PackageNotFoundError, version

from . import linalg, parallel
from .errors import ConvergenceError, InputError

PATIENCE = 5.0  # seconds that a rank with an error waits for the others, before it ends them
PLAIN = InputError, ConvergenceError  # errors that say all in their message: no traceback
PACKAGES = (
    "fvot",
    "numpy",
    "scipy",
    "numba",
    "pyamg",
    "mpi4py",
    "petsc4py",
    "vtk",
    "pyvista",
    "meshio",
    "h5py",
    "pot",
)
SOLVERS = "ptscotch", "hypre", "mumps"


def run(main):
    """Call main with its keyword arguments from the command line, and return what it returns. For
    the end of a script:

        if __name__ == "__main__":
            fvot.run(main)

    Each argument ``name=default`` of main is an option ``--name value`` (``name_of_two`` is
    ``--name-of-two``), converted to the type of its annotation, or else of its default; booleans
    are ``--name`` and ``--no-name``. Arguments before a ``/`` in main's signature are plain words,
    which come first: ``program.py a.png b.png --size 64``. ``--help`` or ``-h`` shows them below
    main's docstring. Other options with one dash (``-ksp_monitor``) are PETSc's.

    An error ends the program on all ranks with status 1, or 2 if the options are wrong, and is
    printed once.
    """
    finish = parallel.Ranks().duplicate()  # where all ranks meet at the end, in good order or not
    words, options = _options(main, finish)
    value = failure = None
    try:
        value = main(*words, **options)
    except Exception as error:
        failure = error
    _end(failure, finish)
    return value


# ---- options ---------------------------------------------------------------------------------------------------------


def _options(main, finish):
    """(values of main's plain words, {name: value} of its options) from the command line; the rest
    goes to PETSc.
    """
    parameters = inspect.signature(main).parameters.values()
    hints = typing.get_type_hints(main)
    plain = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    parser = _Parser(
        prog=sys.argv[0],
        description=inspect.getdoc(main),
        add_help=False,
        allow_abbrev=False,
        usage=" ".join(
            [
                "%(prog)s",
                *[f"[{p.name}]" for p in plain],
                "[--option value ...]",
                "[-petsc_option value ...]",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--help", action="store_true", help="show this and end, as -h does")
    for parameter in parameters:
        if parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"run needs a default for every argument of main; {parameter.name!r} has none"
            )
        if parameter not in plain:
            _add(parser, parameter.name, parameter.default, hints.get(parameter.name))
    # By hand, for argparse would find -h in -history, too.
    given = ["--help" if word == "-h" else word for word in sys.argv[1:]]
    n = next((k for k, word in enumerate(given) if word.startswith("-")), len(given))
    try:
        words = _words(plain, given[:n], hints)
        found, rest = parser.parse_known_args(given[n:])
        _check_petsc(rest)
    except _UsageError as error:
        _leave(
            finish,
            f"{parser.format_usage()}error: {error}; --help shows all options",
            sys.stderr,
            2,
        )
    if found.help:
        _leave(finish, parser.format_help().rstrip(), sys.stdout, 0)
    _hand_to_petsc(rest, finish)
    del found.help
    return words, vars(found)


def _hand_to_petsc(arguments, finish):
    """Set PETSc's options; end on all ranks where one of them cannot be had."""
    failure = None
    try:
        linalg.set_options(arguments)
    except InputError as error:
        failure = str(error)
    failures = list(filter(None, finish.all_reports(failure)))
    if failures:
        _leave(finish, f"error: {failures[0]}", sys.stderr, 2)


def _words(plain, given, hints):
    """The values of main's plain words: those given, and the defaults of the others."""
    if len(given) > len(plain):
        raise _UsageError(f"unknown option {given[len(plain)]!r}")
    values = [p.default for p in plain]
    for k, (parameter, word) in enumerate(zip(plain, given)):
        kind = _type(parameter.default, hints.get(parameter.name))[0]
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
    def error(self, message):
        raise _UsageError(message)


def _add(parser, name, default, hint):
    option = "--" + name.replace("_", "-")
    kind, several = _type(default, hint)
    if kind is bool:
        parser.add_argument(
            option, dest=name, action=argparse.BooleanOptionalAction, help=_shown(default)
        )
    else:
        parser.add_argument(
            option,
            dest=name,
            type=kind,
            nargs="+" if several else None,
            metavar=kind.__name__.upper(),
            help=_shown(default),
        )
    parser.set_defaults(**{name: default})


def _type(default, hint):
    """(type of one value, whether there are several) from the annotation, or else from the default."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) in (tuple, list):
        return typing.get_args(hint)[0], True
    if hint in (tuple, list) or hint is None and isinstance(default, (tuple, list)):
        return type(default[0]) if default else str, True
    if hint is None:
        return str if default is None else type(default), False
    return hint, False


def _shown(default):
    text = " ".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
    return f"(default: {text})".replace("%", "%%")


def _check_petsc(rest):
    """What is left is ``-name`` or ``-name value``, over and over."""
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


# ---- the end ---------------------------------------------------------------------------------------------------------


def _leave(finish, text, stream, status):
    """Print once, and end on all ranks."""
    if finish.is_root:
        print(text, file=stream, flush=True)
    finish.wait()
    sys.exit(status)


def _end(failure, finish):
    """Return if all ranks have done well; else print each error once and end the program on all of
    them.
    """
    report = None if failure is None else (f"{type(failure).__name__}: {failure}", _text(failure))
    if not finish.meet(
        PATIENCE if failure else float("inf")
    ):  # the others wait for this rank somewhere, or work on
        print(f"on rank {finish.rank} alone: {report[1]}", file=sys.stderr, flush=True)
        finish.abort(1)
    errors = {message: text for message, text in filter(None, finish.all_reports(report))}
    if errors:
        # "rank 1 failed: ..." on the other ranks repeats what rank 1 itself says better
        own = [
            text
            for message, text in errors.items()
            if not any(m != message and m in message for m in errors)
        ]
        _leave(finish, "\n".join(own), sys.stderr, 1)


def _text(failure):
    if isinstance(failure, PLAIN):
        return f"{type(failure).__name__}: {failure}"
    return "".join(traceback.format_exception(failure)).rstrip()


def _end_all_on_error():
    """At the end of a program: a rank that an exception has ended ends the others, unless they come
    here, too.

    They may wait for it somewhere, and it would wait for them where PETSc ends.
    """
    ranks = parallel.Ranks()
    if getattr(sys, "last_value", None) is None or parallel.is_finalized() or ranks.size == 1:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not ranks.meet(1):
        ranks.abort(1)


# Done before PETSc's own end, which was registered before it, and in which a rank waits for all
# others.
atexit.register(_end_all_on_error)


# ---- reports ---------------------------------------------------------------------------------------------------------


def info():
    """Print the versions of fvot and of what it stands on, once (on rank 0), and return them as
    {name: version}.
    """
    found = {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "PETSc": f"{linalg.versions()} "
        f"({', '.join(s for s in SOLVERS if linalg.has_package(s)) or 'no extra solvers'})",
        "MPI": parallel.library(),
        "ranks": str(parallel.Ranks().size),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }
    parallel.say("\n".join(f"{name:10} {value}" for name, value in found.items()))
    return found


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "not found"
