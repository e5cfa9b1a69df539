"""How near the numbers of the suite come to their bounds: pytest --margins FILE, then python
tests/margins.py FILE.

With the option every comparison <, <=, >, >= inside an `assert`, also chained and of arrays, every
`== pytest.approx`, and every `assert_allclose` and `np.allclose` of a test notes its ratio, 0 to 1,
of what it measures to what it allows: worst over what is compared, for each line, test, and number
of ranks; runs that tests start on several ranks note theirs in the same file. Signs (x >= 0) and
equalities have no ratio.

A report lists ratios above 1/10, in two parts:

round-off : the line names a number below `SMALL`, or an EPS or TOLERANCE: it allows what rounding,
    or a solver's tolerance, leaves. That depends on the processor, as BLAS adds up in an order of
    its own there, and on the MPI. A ratio above 1/10 needs a reason: a bound that follows from the
    solver's tolerance, with room, or a better solver. (Bounds y (1 + 1e-10) of a value near y are
    left out: their ratio is 1.)
others : errors of a mesh or of a step in time at given sizes, orders of convergence, speeds of
    decay. They are the same on every processor but for round-off, so that a ratio of .99 is as good
    as .1: it says that the test is sharp.

Reports of several files (one for each OPENBLAS_CORETYPE, say) also list what differs between them
by more than `MOVED`. These are the assertions that another processor could turn.
"""

import ast
import importlib.util
import json
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np

SMALL = 1e-8  # a bound that names a number below that is one of round-off
NEAR = 0.1  # ratios above that are reported
MOVED = 0.02  # of the bound: differences between files above that are reported
HERE = Path(__file__).resolve().parent
SIGNS = {ast.Lt: 1, ast.LtE: 1, ast.Gt: -1, ast.GtE: -1, ast.Eq: 0}
NAMES = "assert_allclose", "allclose"


# ---- ratios --------------------------------------------------------------------------------------


def ratio_of_order(small, large):
    """The largest ratio, below 1 where all small < large: small / large of positive, large / small
    of negative numbers.
    """
    small, large = np.broadcast_arrays(_numbers(small), _numbers(large))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(
            large > 0, np.maximum(small, 0) / large, np.where(large < 0, large / small, np.nan)
        )
    return _worst(ratio)


def ratio_of_closeness(value, expected, absolute, relative):
    """The largest |value - expected| over absolute + relative |expected|."""
    value, expected = np.broadcast_arrays(_numbers(value), _numbers(expected))
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.where(value == expected, 0.0, np.abs(value - expected))
        return _worst(np.where(missed > 0, missed / (absolute + relative * np.abs(expected)), 0.0))


def ratio_to_approximation(value, approximation):
    """The same of a `pytest.approx`, whose tolerance is the larger of the two."""
    absolute = approximation.abs
    relative = approximation.rel
    if absolute is None or relative is not None:
        relative = 1e-6 if relative is None else relative
    expected = approximation.expected
    if isinstance(expected, dict):
        value = [value[key] for key in expected]
        expected = list(expected.values())
    allowed = np.maximum(absolute or 1e-12, (relative or 0.0) * np.abs(_numbers(expected)))
    return ratio_of_closeness(value, expected, allowed, 0.0)


def _numbers(x):
    """An array of floats; TypeError or ValueError for what is none."""
    array = np.asarray(x)
    if array.dtype.kind not in "iuf":
        raise TypeError("no real numbers")
    return array.astype(float)


def _worst(ratio):
    finite = ratio[np.isfinite(ratio)]
    return float(finite.max()) if finite.size else None


# ---- what is noted -------------------------------------------------------------------------------


class Margins:
    """The plugin: {place: largest ratio} of a test, appended to a file at its end."""

    def __init__(self, path, ranks):
        self.path = Path(path)
        self.ranks = ranks
        self.found = {}
        self.test = ""
        sys.meta_path.insert(0, _Finder(self))
        for module in np.testing, np:
            for name in NAMES:
                if hasattr(module, name):
                    setattr(module, name, self._watched(getattr(module, name)))

    def pytest_runtest_logstart(self, nodeid):
        self.test = nodeid

    def pytest_runtest_logfinish(self):
        lines = [
            json.dumps(dict(place=place, test=self.test, ranks=self.ranks, ratio=ratio)) + "\n"
            for place, ratio in self.found.items()
        ]
        self.found = {}
        with self.path.open("a") as file:
            file.write("".join(lines))

    def note(self, place, ratio, *of):
        """Keep the largest ratio(*of) of a place; nothing where these are no numbers."""
        try:
            value = ratio(*of)
        except (TypeError, ValueError, AttributeError, KeyError):
            return
        if value is not None:
            self.found[place] = max(value, self.found.get(place, 0.0))

    def compare(self, place, sign, left, right, result):
        """The result of a comparison, of which the ratio is noted."""
        if sign > 0:
            self.note(place, ratio_of_order, left, right)
        elif sign < 0:
            self.note(place, ratio_of_order, right, left)
        elif hasattr(right, "nan_ok"):
            self.note(place, ratio_to_approximation, left, right)
        elif hasattr(left, "nan_ok"):
            self.note(place, ratio_to_approximation, right, left)
        return result

    def _watched(self, function):
        default = 0.0 if function.__name__ == "assert_allclose" else 1e-8

        def watched(actual, desired, rtol=None, atol=default, *args, **options):
            rtol = (1e-7 if default == 0.0 else 1e-5) if rtol is None else rtol
            caller = sys._getframe(1)
            if HERE in Path(caller.f_code.co_filename).parents:
                place = f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"
                self.note(place, ratio_of_closeness, actual, desired, atol, rtol)
            return function(actual, desired, rtol, atol, *args, **options)

        return watched


class _Finder:
    """Imports test modules with watched comparisons."""

    def __init__(self, margins):
        self.margins = margins

    def find_spec(self, name, path=None, target=None):
        source = next(HERE.rglob(f"{name}.py"), None) if name.startswith("test_") else None
        if source is None:
            return None
        return importlib.util.spec_from_file_location(
            name, source, loader=_Loader(name, str(source), self.margins)
        )


class _Loader(SourceFileLoader):
    def __init__(self, name, path, margins):
        super().__init__(name, path)
        self.margins = margins

    def get_code(self, name):  # not from a cache
        tree = ast.parse(self.get_data(self.path))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                node.test = _Watch(Path(self.path).name, node.lineno).visit(node.test)
        return compile(ast.fix_missing_locations(tree), self.path, "exec")

    def exec_module(self, module):
        module.__margins__ = self.margins
        super().exec_module(module)


class _Watch:
    """Of what an assertion says: its comparisons, joined by `and`, `or`, &, and those inside of
    all(..), (..).all().

    a < b < c becomes compare(place, 1, x := a, y := b, x < y) and compare(place, 1, y, z := c, y <
    z).
    """

    def __init__(self, file, line):
        self.place = f"{file}:{line}"
        self.count = 0

    def visit(self, node):
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.BoolOp):
            node.values = [self.visit(value) for value in node.values]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
            node.left, node.right = self.visit(node.left), self.visit(node.right)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "all"
        ):
            node.args = [self.visit(value) for value in node.args]
            if isinstance(node.func, ast.Attribute):
                node.func.value = self.visit(node.func.value)
        return node

    def _compared(self, node):
        if not any(type(op) in SIGNS for op in node.ops):
            return node
        parts = []
        left = self._kept(node.left)
        for op, operand in zip(node.ops, node.comparators):
            right = self._kept(operand)
            plain = ast.Compare(self._again(left), [op], [self._again(right)])
            call = ast.Attribute(ast.Name("__margins__", ast.Load()), "compare", ast.Load())
            first = left if not parts else self._again(left)
            given = [
                ast.Constant(self.place),
                ast.Constant(SIGNS.get(type(op), 0)),
                first,
                right,
                plain,
            ]
            parts.append(ast.Call(call, given, []))
            left = right
        return parts[0] if len(parts) == 1 else ast.BoolOp(ast.And(), parts)

    def _kept(self, node):
        self.count += 1
        return ast.NamedExpr(ast.Name(f"_margin_{self.count}", ast.Store()), node)

    @staticmethod
    def _again(kept):
        return ast.Name(kept.target.id, ast.Load())


# ---- the report ----------------------------------------------------------------------------------


def read(path):
    """{(place, test, ranks): ratio}, the largest where a test has run more than once."""
    found = {}
    for line in Path(path).read_text().splitlines():
        entry = json.loads(line)
        key = entry["place"], entry["test"], entry["ranks"]
        found[key] = max(entry["ratio"], found.get(key, 0.0))
    return found


def statement(place):
    """The statement that begins at a place, in one line."""
    name, _, line = place.partition(":")
    text = next(HERE.rglob(name)).read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Assert, ast.Expr)) and node.lineno <= int(line) <= node.end_lineno:
            return " ".join(ast.get_source_segment(text, node).split())
    return ""


def is_of_round_off(text):
    """Whether a statement names a number below `SMALL`, or an EPS or TOLERANCE."""
    numbers = re.findall(r"\d*\.?\d+e-\d+", text)
    return bool(re.search(r"\b(EPS|eps|TOLERANCE)\b", text)) or any(
        0 < float(number) < SMALL for number in numbers
    )


def report(paths):
    """Print what is near its bound, and what differs between the files."""
    files = [read(path) for path in paths]
    worst = {}
    for found in files:
        for (place, test, ranks), ratio in found.items():
            worst[place] = max(worst.get(place, (0.0, "", 1)), (ratio, test, ranks))
    near = sorted(
        ((*found, place) for place, found in worst.items() if found[0] > NEAR), reverse=True
    )
    small = {place: is_of_round_off(statement(place)) for *_, place in near}
    near = [found for found in near if not (small[found[-1]] and abs(found[0] - 1) < SMALL)]
    print(f"{len(worst)} assertions of numbers, {len(near)} of them above {NEAR} of their bound\n")
    for title, kind in ("round-off", True), ("others", False):
        print(f"{title}: {sum(small[place] == kind for *_, place in near)}")
        for ratio, test, ranks, place in near:
            if small[place] == kind:
                print(
                    f"  {ratio:6.3f}  {place}  {statement(place)[:110]}\n          {test} on "
                    f"{ranks}"
                )
        print()
    if len(files) > 1:
        compare(files)


def compare(files):
    """Print what differs between the files, by more than `MOVED` of its bound."""
    moved = {}
    for key in set.intersection(*map(set, files)):
        ratios = [found[key] for found in files]
        if max(ratios) - min(ratios) > MOVED:
            moved[key[0]] = max(
                moved.get(key[0], (0.0, [], "", 1)), (max(ratios), ratios, *key[1:])
            )
    print(f"differ between files: {len(moved)}")
    for place, (_, ratios, test, ranks) in sorted(moved.items(), key=lambda item: -item[1][0]):
        print(
            f"  {' '.join(f'{ratio:8.4f}' for ratio in ratios)}  {place}  {statement(place)[:100]}"
        )
        print(f"          {test} on {ranks}")


if __name__ == "__main__":
    report(sys.argv[1:])
