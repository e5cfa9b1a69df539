"""Fields on cells as a user gives them: numbers, functions and values of cells; growth and sources
among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.functions import as_floats, as_function
from ..arguments.types import Array
from ..arguments.watch import WATCHED_TIMES
from ..errors import ConvergenceError, InputError
from ..mesh.cell_values import describe_wanted_shape

# The largest density that growth may lead to: squares of larger ones overflow.
LARGEST_DENSITY = 1e150


@dataclass(frozen=True)
class Field:
    """A scalar or tensor field: a constant, a function of x or (x, t), or cell values.

    value : a number, (n_cells,), or tensors (dim, dim, n_cells), in the solver's order; None for a
        function
    f : a `Function`; None for values
    mean : whether cells take exponential means, see `cell_mean`
    """

    value: Any = None
    f: Any = None
    mean: bool = False

    @property
    def constant(self) -> bool:
        """Whether it is one number."""
        return self.value is not None and np.ndim(self.value) == 0

    @property
    def is_tensor(self) -> bool:
        """Whether it is a diagonal or a tensor."""
        return np.ndim(self.value) == 3 if self.f is None else len(self.f.shape) > 0

    @property
    def depends_on_time(self) -> bool:
        """Whether it is a function of x and t."""
        return self.f is not None and self.f.depends_on_time

    def in_cells(self, numbering: Any, points: Array, t: float) -> Array:
        """The values (..., n_cells) at the points (dim, n_cells) of the cells, in the order of a
        `Numbering`.

        A function gets the points in the user's order.
        """
        if self.f is None:
            shape = np.shape(self.value)[:-1] + (numbering.mesh.n_cells,)
            return np.broadcast_to(self.value, shape)
        return numbering.inward(self.f(points, t))


def build_cell_field(numbering: Any, coefficient: Any, what: str, others: str = "") -> Field:
    """The `Field` of a user's scalar coefficient; *what* names it in errors, and *others* says what
    else it may be.
    """
    if callable(coefficient):
        return Field(f=as_function(coefficient, what))

    values = _check_values(numbering.user_mesh, coefficient, what, others)
    return Field(value=numbering.inward(values)) if values.shape else Field(value=float(values))


class Reactions:
    """The growth and the source of an equation, d rho/dt = ... + growth rho + source.

    has_growth, has_source : whether there are such terms
    growth_depends_on_time, source_depends_on_time : whether they are functions of x and t
    """

    def __init__(
        self, numbering: Any, growth: Any, source: Any, points: Array, signed: bool = False
    ):
        """growth, source : as a user gives them, or None

        points (dim, n_cells) : where cells take the values of functions, in the user's order
        signed : whether the source may be below 0
        """
        self._signed = signed
        self.ranks = numbering.mesh.ranks
        self._numbering = numbering
        self._points = points
        self._growth = None
        self._source = None
        if growth is not None:
            self._growth = build_cell_field(numbering, growth, "growth")
        if source is not None:
            self._source = build_cell_field(numbering, source, "source")
        self.has_growth = self._growth is not None
        self.has_source = self._source is not None
        self.growth_depends_on_time = self._growth is not None and self._growth.depends_on_time
        self.source_depends_on_time = self._source is not None and self._source.depends_on_time

    def __bool__(self) -> bool:
        """Whether there is any of them."""
        return self.has_growth or self.has_source

    @property
    def fields(self) -> list[Field]:
        """Those that there are."""
        return [field for field in (self._growth, self._source) if field is not None]

    def growth(self, t: float = 0.0) -> Array:
        """The growth (n_cells,) at time t, in the solver's order; 0 where there is none.
        Collective.
        """
        return self._evaluate(self._growth, t)

    def source(self, t: float = 0.0) -> Array:
        """The source (n_cells,), in the same way, at least 0 unless it is signed."""
        source = self._evaluate(self._source, t)
        if self._signed:
            return source
        mesh = self._numbering.mesh
        with mesh.ranks.raising_together():
            if (source < 0).any():
                cell = int(source.argmin())
                place = self._numbering.inward(self._points)[:, cell]
                raise InputError(
                    f"source is {source[cell]} in cell {mesh.cell_id[cell]} (at {place}): it must "
                    "be at least 0, as a cell may be empty. What is taken away in proportion to "
                    "what is there is growth below 0: a well that pumps the volume q per time out "
                    "of a cell of volume |K| has growth -q / |K| there. FokkerPlanck(signed=True) "
                    "takes fields and sources of any sign"
                )
        return source

    def find_growth_range(self, begin: float, end: float) -> tuple[float, float]:
        """The least and the largest growth of all cells between two times, as a `Watch` sees it.
        Collective.
        """
        field = self._growth
        ranks = self._numbering.mesh.ranks
        if field is None:
            return 0.0, 0.0
        times = np.array([begin])
        if field.depends_on_time:
            times = np.linspace(begin, end, WATCHED_TIMES)
        lowest = math.inf
        highest = -math.inf
        with ranks.raising_together():
            for t in times:
                growth = field.in_cells(self._numbering, self._points, t)
                lowest = min(lowest, growth.min(initial=math.inf))
                highest = max(highest, growth.max(initial=-math.inf))
        return ranks.min(lowest), ranks.max(highest)

    def check_total_growth(self, begin: float, end: float) -> None:
        """`InputError` where all densities in a closed mesh would grow too large between two times.
        Collective.
        """
        lowest, _ = self.find_growth_range(begin, end)
        exponent = lowest * (end - begin)
        self._numbering.mesh.ranks.check(
            exponent <= math.log(LARGEST_DENSITY),
            f"growth is at least {lowest:.6g} per time in all cells: until t = {end:.6g} mass "
            f"grows by a factor of e^{exponent:.4g}, and densities beyond {LARGEST_DENSITY:.0e} "
            "are not computed. End before, or check the sign and the units of growth (below 0 it "
            "is decay)",
        )

    def check_grown(self, rho: Array, t: float) -> None:
        """`ConvergenceError` where rho (n_cells,) has grown too large for numbers. Collective."""
        if not self.has_growth:
            return
        ranks = self._numbering.mesh.ranks
        largest = ranks.max(np.abs(rho).max(initial=0.0))
        if largest <= LARGEST_DENSITY:
            return
        _, growth = self.find_growth_range(t, t)
        raise ConvergenceError(
            f"the density has grown to {largest:.3g} at t = {t:.6g}, with growth of up to "
            f"{growth:.6g} per time: densities beyond {LARGEST_DENSITY:.0e} are not computed. End "
            "before, or check the sign and the units of growth (below 0 it is decay)"
        )

    def _evaluate(self, field, t):
        mesh = self._numbering.mesh
        if field is None:
            return np.zeros(mesh.n_cells)
        with mesh.ranks.raising_together():
            return field.in_cells(self._numbering, self._points, t)


def _check_values(mesh, coefficient, what, others):
    """The coefficient as an array of shape () or (n_cells,) of finite numbers."""
    values = np.array(
        as_floats(
            coefficient,
            f"{what} must be a finite number, a function of x or of (x, t), or this rank's finite "
            f"cell values ({mesh.n_cells},)",
        )
    )
    if values.shape not in ((), (mesh.n_cells,)):
        raise InputError(
            f"{what} must be a finite number, a function of x or of (x, t), or cell values"
            f"{others}, not of shape {values.shape}; "
            f"{describe_wanted_shape(mesh, values.shape)}"
        )

    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and values.shape:
        raise InputError(
            f"{what} is {values[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
            f"{mesh.center[:, bad[0]]}): it must be finite ({len(bad)} of {mesh.n_cells} cells "
            f"are not). mesh.without(~numpy.isfinite({what})) is the mesh without these cells; or "
            f"replace these values, for example by numpy.where(numpy.isfinite({what}), {what}, "
            "value)"
        )
    if len(bad):
        raise InputError(f"{what} must be a finite number, not {coefficient!r}")
    return values
