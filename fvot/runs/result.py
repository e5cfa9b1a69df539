"""`Result`: the density at the recorded times; and how such densities are written and drawn."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import as_floats, is_integer
from ..arguments.types import Array, ArrayLike
from ..errors import InputError
from ..finite_volume.interpolation import interpolate
from ..finite_volume.velocity_field import VelocityField
from ..output.series import Fields, Output, write_all
from .ledger import Ledger
from .run import DerivedField, name_densities

if TYPE_CHECKING:
    from ..mesh import Mesh

# The ledger's numbers that add to the mass, since the start, and those that take from it. What has
# grown may be below 0.
MASS_GAINS = ("inflow", "added", "born", "grown")
MASS_LOSSES = ("outflow", "killed")


class Writable:
    """Fields at times t: they can be written and drawn. The first one, values (n_times, n_cells),
    is that which pictures and probes show.
    """

    mesh: Any
    t: Array

    @property
    def fields(self) -> Mapping[str, Any]:
        """What can be written and drawn, by name: those that are always written come first.

        Returns
        -------
        {name: values}
            values[i] are those at recorded time number i, (n_cells,), (dim, n_cells) or
            (dim, dim, n_cells). Some are computed when they are asked for, which is collective.

        Examples
        --------
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10)
        >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(np.ones(mesh.n_cells), 0.1)
        >>> list(result.fields)
        ['density', 'current', 'velocity', 'diffusion']
        >>> result.fields["current"][-1].shape
        (1, 10)
        """
        return self._present | self._derived

    @property
    def _present(self) -> dict[str, Any]:
        """The fields that are there."""
        raise NotImplementedError

    @property
    def _recorded(self) -> Array:
        """The values (n_times, ..., n_cells) that `probe` looks at."""
        raise NotImplementedError

    @property
    def _derived(self) -> dict[str, Any]:
        """The fields that are computed when they are asked for."""
        return {}

    @property
    def _first(self) -> str:
        """The name of the field that pictures show by default."""
        return next(iter(self._present))

    def write(
        self,
        path: str | Path,
        *,
        every: int = 1,
        fields: Fields | None = None,
        single: bool = False,
    ) -> None:
        """Write density, velocity and pressure, or other fields, for ParaView.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .pvd, with a folder of pieces beside it, or a .vtkhdf.
        every : int, optional
            Write each, each second, ... of the recorded times.
        fields : list, optional
            Names of `fields`, and dicts of fields of your own, see `Output`. None: density,
            pressure, and the velocity of a `ContinuityEquation` or of transport.
        single : bool, optional
            Write in single precision; see `Output`.

        Raises
        ------
        InputError
            On every rank, for a path that cannot be written, and for fields that the run does not
            have.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10)
        >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(np.ones(mesh.n_cells), 0.1)
        >>> fields = ["density", "current", {"x": mesh.center[0], "wave": lambda x, t: x[0] - t}]
        >>> result.write(tempfile.mkdtemp() + "/run.pvd", fields=fields)
        """
        output = Output(path, every, fields, single)
        write_all(output, self.mesh, self.t, self._present, self._derived)

    def probe(self, points: ArrayLike) -> Array:
        """The density (of an `Expectation`, the values) at points, at all recorded times: what a
        gauge there would show. Collective.

        Parameters
        ----------
        points : array (dim, n) or (dim,)
            Points of the mesh, the same on every rank.

        Returns
        -------
        array (n_times, n), or (n_times,) for one point
            The density, linear in each cell around its centroid, and between the smallest and the
            largest cell average of that time; the same on every rank. Of a batch (n_times, k, n),
            or (n_times, k).

        Raises
        ------
        InputError
            On every rank, for points outside the mesh.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 16)
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0)
        >>> result = equation.solve(mesh.density(lambda x: 2 * x[0]), [0, 0.1, 1])
        >>> result.probe([[0.25, 0.75]]).round(3)[[0, -1]].tolist()
        [[0.5, 1.5], [1.0, 1.0]]
        """
        mesh = self.mesh
        with mesh.ranks.raising_together():
            places = as_floats(points, "points must be an array (dim, n)")
            if places.ndim not in (1, 2) or len(places) != mesh.dim:
                raise InputError(
                    f"points has shape {places.shape}; it must be ({mesh.dim}, n), or "
                    f"({mesh.dim},) for one point"
                )
        mesh.ranks.check_same("points", places)
        recorded = self._recorded
        rows = recorded.reshape(math.prod(recorded.shape[:-1]), mesh.n_cells)
        values = interpolate(mesh, rows, places.reshape(mesh.dim, -1))
        values = values.reshape(*recorded.shape[:-1], -1)
        return values if places.ndim == 2 else values[..., 0]

    def plot(
        self,
        path: str | Path | None = None,
        time: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Any:
        """Draw the density at one recorded time, or at several, side by side.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path, optional
            A .png, .svg or .pdf file. None: the figure is returned, which notebooks show.
        time : int or sequence of int, optional
            The number of the recorded time, or several. None: the last one; of curves, as on an
            interval, up to six in one picture.
        **options
            field : str
                What the colours show: a name of `fields`, of vectors their length, or "speed".
            clim : (low, high)
                The values at the ends of the colours; None takes those of the field.
            cmap : str or matplotlib.colors.Colormap
                The colour map.
            log : bool
                Logarithmic colours, or a logarithmic axis of curves.
            along : (start, end)
                Curves over the line between two points.
            arrows : bool or str
                Draw the velocity, or the vectors of the field of that name, in 2D.
            dots : array (n_times, 2, n)
                Positions of particles at the recorded times, drawn on top, in 2D; the same on every
                rank.
            width : int
                Pixels.
            ax : matplotlib.axes.Axes
                Axes of your own, for one time; only rank 0 looks at them.

        Returns
        -------
        matplotlib.figure.Figure or None
            The figure, on rank 0, if neither a path nor ax is given.

        Raises
        ------
        InputError
            On every rank, for a path that cannot be written, for a field, time or velocity that the
            result does not have, and if the machine cannot draw.

        Examples
        --------
        >>> import os, tempfile
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 16)
        >>> rho0 = mesh.density(lambda x: x[0])
        >>> rho1 = mesh.density(lambda x: 1 - x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=4, tol=0.1).solve(rho0, rho1)
        >>> picture = os.path.join(tempfile.mkdtemp(), "path.png")
        >>> path.plot(picture, [0, 2, 5], cmap="magma_r", width=600)
        >>> os.path.exists(picture)
        True
        >>> figure = path.plot(time=[0, 5])
        >>> figure.axes[0].get_ylabel()
        'density'
        """
        from ..output.plot import plot

        return plot(self, path, time, **dict(field=self._first) | options)

    def movie(self, path: str | Path, **options: Any) -> None:
        """Draw the density at all recorded times to a .gif or an .mp4.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .gif file, or an .mp4, which ffmpeg writes: ``pip install imageio-ffmpeg`` gets it.
        **options
            field, clim, cmap, log, along, arrows, dots, width
                As for `plot`.
            fps : float
                Times that are shown per second, at most 50.

        Raises
        ------
        InputError
            As for `plot`, for an fps that is no number above 0 and at most 50, and for an .mp4
            where there is no ffmpeg.

        Examples
        --------
        >>> import os, tempfile
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 16)
        >>> rho0 = mesh.density(lambda x: x[0])
        >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, [0.0, 0.1, 0.2])
        >>> path = os.path.join(tempfile.mkdtemp(), "run.gif")
        >>> result.movie(path, width=300, fps=2)
        >>> os.path.exists(path)
        True
        """
        from ..output.plot import movie

        movie(self, path, **dict(field=self._first) | options)

    def to_pyvista(self, time: int = -1) -> Any:
        """The mesh with all `fields` at one recorded time as a pyvista.UnstructuredGrid.

        On every rank the whole mesh. Collective.

        Parameters
        ----------
        time : int, optional
            The number of the recorded time; negative ones count from the last.

        Returns
        -------
        pyvista.UnstructuredGrid
            Its cells are in the file's order; `cell_data` has the fields, "cell" and "rank".

        Raises
        ------
        InputError
            If there is no recorded time of that number.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (4, 4))
        >>> rho0 = mesh.density(lambda x: x[0])
        >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, 0.1)
        >>> grid = result.to_pyvista()
        >>> grid.n_cells, grid.cell_data["current"].shape
        (16, (16, 3))
        """
        self._check_time(time)
        return self.mesh.to_pyvista({name: values[time] for name, values in self.fields.items()})

    def _check_time(self, time):
        self.mesh.ranks.check(
            is_integer(time) and -len(self.t) <= time < len(self.t),
            f"time must be the number of a recorded time, from 0 to {len(self.t) - 1}, not "
            f"{time!r}",
        )


class WritableDensity(Writable):
    """A density (n_times, n_cells) at times t, perhaps with a velocity and other fields."""

    rho: Array

    @property
    def _recorded(self) -> Array:
        return self.rho

    def to_points(self, k: int = 1, time: int = -1) -> tuple[Array, Array]:
        """The density at one recorded time as point masses.

        Collective.

        Parameters
        ----------
        k : int, optional
            At least so many points for each cell, as in `Mesh.to_points`.
        time : int, optional
            The number of the recorded time; negative ones count from the last.

        Returns
        -------
        points, weights : array (dim, n), (n,)
            The same on every rank.

        Raises
        ------
        InputError
            If there is no recorded time of that number, and for a k that `Mesh.to_points` refuses.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 4)
        >>> rho0 = mesh.density(lambda x: x[0] < 0.5)
        >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, 0.1)
        >>> points, weights = result.to_points(time=0)
        >>> points.tolist(), weights.tolist()
        ([[0.125, 0.375]], [0.5, 0.5])
        """
        self._check_time(time)
        return self.mesh.to_points(self.rho[time], k)


class DerivedSeries:
    """A `DerivedField` at the times t: series[i] is computed when it is asked for. Collective.

    recorded : {name: cell values (n_times, n_cells)} from which it follows
    """

    def __init__(self, compute: DerivedField, t: Array, recorded: Mapping[str, Array]) -> None:
        self.compute = compute
        self.t = t
        self.recorded = recorded

    def __iter__(self):
        return (self[i] for i in range(len(self.t)))

    def __getitem__(self, i: int) -> Array:
        return self.compute(self.t[i], {name: values[i] for name, values in self.recorded.items()})


@frozen
class Result(WritableDensity):
    """The density of an evolution at the recorded times.

    A result can be pickled and copied on one rank; a copy has what is listed here, but no other
    `fields`. On several ranks that is an `InputError`: write it to a file.

    Attributes
    ----------
    mesh : Mesh
        The mesh that it lives on.
    t : array (n_times,)
        The recorded times, the first is the start.
    rho : array (n_times, n_cells)
        Cell averages; of a batch of k densities (n_times, k, n_cells), see `member`.
    ledger : {name: array (n_times,)}
        Mass, minimum, maximum, mass_error and further numbers of the solver; of a batch
        (n_times, k). Notebooks show it as a table.
    pressure : array (n_times, n_cells) or None
        The pressure of an upper bound on the density, above 0 where it is reached; None without a
        bound.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 10)
    >>> rho0 = mesh.density(lambda x: 1 + x[0])
    >>> result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, [0.0, 0.1, 0.2])
    >>> result.rho.shape
    (3, 10)
    >>> bool(abs(result.ledger["mass_error"]).max() < 1e-12)
    True
    """

    def __init__(
        self,
        mesh: Mesh,
        t: Array,
        rho: Array,
        ledger: dict[str, Array],
        velocity: Array | None = None,
        pressure: Array | None = None,
        derived: Mapping[str, DerivedSeries] | None = None,
    ) -> None:
        self.mesh = mesh
        self.t = t
        self.rho = rho
        self.ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger, t)
        self.pressure = pressure
        self._velocity = velocity
        self._series = dict(derived or {})

    @property
    def n_members(self) -> int | None:
        """The number of densities of a batch; None where it is none.

        Returns
        -------
        int or None
            The number.

        Examples
        --------
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10)
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0)
        >>> equation.solve(np.ones((3, mesh.n_cells)), 0.1).n_members
        3
        """
        return self.rho.shape[1] if self.rho.ndim == 3 else None

    def member(self, i: int) -> Result:
        """The result of one density of a batch, as if it were the only one.

        Parameters
        ----------
        i : int
            The number of the density; negative ones count from the last.

        Returns
        -------
        Result
            Its rho is (n_times, n_cells); it shares its memory with that of the batch.

        Raises
        ------
        InputError
            Where there is no density of that number, and where the result is that of one density.

        Examples
        --------
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10)
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0)
        >>> rho0 = np.stack([mesh.density(lambda x, k=k: x[0] ** k) for k in range(3)])
        >>> result = equation.solve(rho0, [0, 0.1, 0.2])
        >>> result.rho.shape, result.member(2).rho.shape
        ((3, 3, 10), (3, 10))
        """
        k = self.n_members
        ranks = self.mesh.ranks
        ranks.check(k is not None, "this is the result of one density, and has no members")
        ranks.check(
            is_integer(i) and -(k or 0) <= i < (k or 0),
            f"member must be the number of a density, from 0 to {(k or 0) - 1}, not {i!r}",
        )
        i = i % (k or 1)
        own = {}
        for name, series in self._series.items():
            base, _, ending = name.rpartition("_")
            if not ending.isdigit():
                own[name] = series
            elif int(ending) == i:
                own[base] = series
        return Result(
            self.mesh,
            self.t,
            self.rho[:, i],
            {name: values[:, i] for name, values in self.ledger.items()},
            velocity=None if self._velocity is None else self._velocity[:, i],
            derived=own,
        )

    def _refuse_batch(self, call):
        """`InputError` for a batch, where a call is for one density."""
        self.mesh.ranks.check(
            self.n_members is None,
            f"this is the result of {self.n_members} densities, and {call} is for one: take "
            f"result.member(i).{call}",
        )

    @property
    def _present(self):
        if self.n_members is not None:
            names = name_densities(self.n_members)
            return {name: self.rho[:, i] for i, name in enumerate(names)}
        fields = {"density": self.rho}
        if "velocity" not in self._series and self._velocity is not None:
            fields["velocity"] = self._velocity
        if self.pressure is not None:
            fields["pressure"] = self.pressure
        return fields

    @property
    def _first(self):
        return "density"  # which a batch does not have: pictures refuse it

    @property
    def _derived(self):
        return self._series

    @property
    def velocity(self) -> Array | None:
        """The mean velocity of each cell: current / density where nothing else is given.

        Of `FokkerPlanck` and `JKO` it is computed at the first use, which is collective.

        Returns
        -------
        array (n_times, dim, n_cells), of a batch (n_times, k, dim, n_cells), or None
            None where there is none.

        Examples
        --------
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10)
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0, potential=lambda x: x[0])
        >>> result = equation.solve(equation.stationary(), [0.0, 0.1])
        >>> bool(abs(result.velocity).max() < 1e-8)
        True
        """
        if self._velocity is None and "velocity" in self._series:
            self._velocity = np.stack([*self._series["velocity"]])
        if self._velocity is None and "velocity_0" in self._series:
            members = [self._series[f"velocity_{i}"] for i in range(self.rho.shape[1])]
            self._velocity = np.stack([np.stack([*series]) for series in members], axis=1)
        return self._velocity

    def _repr_html_(self):
        """What notebooks show."""
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.ledger._repr_html_()}"

    def __getstate__(self):
        """What is copied: no equation, which may have functions that cannot be pickled."""
        alone = self.mesh.ranks.size == 1  # else the mesh refuses
        velocity = self.velocity if alone else None
        return vars(self) | dict(_velocity=velocity, _series={})

    def __repr__(self):
        mass = self.ledger["mass"][-1]
        error = self.ledger["mass_error"][-1]
        if self.n_members is None:
            masses = f"mass {mass:.6g}"
        else:
            masses = f"{len(mass)} densities, masses {mass.min():.6g} to {mass.max():.6g}"
            error = error[np.abs(error).argmax()]
        return (
            f"<fvot.Result: {len(self.t)} times from {self.t[0]:.6g} to {self.t[-1]:.6g}, "
            f"{self.mesh.n_cells_global} cells, {masses}, mass error {error:.0e}>"
        )

    def flux_through(self, name: Any) -> Array:
        """The mass per time that leaves through an open part of the boundary, net of what enters.

        Parameters
        ----------
        name : str or int
            The name of a part in the solver's ``boundary=``.

        Returns
        -------
        array (n_times - 1,), of a batch (n_times - 1, k)
            The mean between each two recorded times.

        Raises
        ------
        InputError
            For a part that is not open.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 16)
        >>> boundary = {"left": fvot.dirichlet(1.0), "right": fvot.dirichlet(0.0)}
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.5, boundary=boundary)
        >>> result = equation.solve(1 - mesh.center[0], [0, 1, 2])
        >>> result.flux_through("right").round(6).tolist()
        [0.5, 0.5]
        """
        self.mesh.boundary[name]  # an error that lists the names, if there is no such part
        if f"outflow:{name}" not in self.ledger:
            known = [key.split(":", 1)[1] for key in self.ledger if key.startswith("outflow:")]
            raise InputError(
                f"no mass can cross boundary {name!r}; open parts: {', '.join(known) or 'none'}"
            )
        left = self.ledger[f"outflow:{name}"]
        entered = self.ledger.get(f"inflow:{name}", np.zeros_like(left))
        lengths = np.diff(self.t).reshape(-1, *[1] * (left.ndim - 1))
        return np.diff(left - entered, axis=0) / lengths

    def velocity_at(self, points: ArrayLike, t: float) -> Array:
        """The velocity at points of the mesh, linear in cells and between recorded times.

        Collective.

        Parameters
        ----------
        points : array (dim, n)
            Points of the mesh, the same on every rank.
        t : float
            A time between the first and the last recorded one.

        Returns
        -------
        array (dim, n)
            The velocities, the same on every rank.

        Raises
        ------
        InputError
            If there is no velocity, for points outside the mesh, or for other times.

        Examples
        --------
        >>> import numpy as np
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8), periodic=True)
        >>> result = fvot.ContinuityEquation(mesh, (1.0, 0.0)).solve(np.ones(mesh.n_cells), 0.1)
        >>> v = result.velocity_at([[0.5], [0.5]], 0.05)
        >>> bool(np.allclose(v, [[1.0], [0.0]]))
        True
        """
        self._refuse_batch("velocity_at(points, t)")
        self.mesh.ranks.check(
            "velocity" in self.fields,
            "this result has no velocity",
        )
        return self._field(points, t)

    @cached_property
    def _field(self):
        return VelocityField(self.mesh, self.t, self.velocity)


def build_ledger(records: Sequence[dict[str, Any]], t: Array) -> Ledger:
    """{name: (n_times,)}, of a batch (n_times, k), from one dict per time t, with the relative
    error of the mass balance.

    mass_error = (mass - gains + losses - initial mass) / (initial mass + the largest gains)

    Of signed densities it is relative to the largest of their L1 norms, plus the largest gains and
    losses by their absolute values.
    """
    ledger = {name: np.array([record[name] for record in records]) for name in records[0]}
    mass = ledger["mass"]
    zero = np.zeros(mass.shape)
    gains = sum((ledger[name] for name in MASS_GAINS if name in ledger), zero)
    losses = sum((ledger[name] for name in MASS_LOSSES if name in ledger), zero)
    scale = mass[0] + gains.max(axis=0)
    if "norm" in ledger:
        exchanged = np.abs(gains).max(axis=0) + np.abs(losses).max(axis=0)
        scale = ledger["norm"].max(axis=0) + exchanged
    scale = np.maximum(scale, np.finfo(float).tiny)
    mass_error = (mass - gains + losses - mass[0]) / scale
    return Ledger(ledger | {"mass_error": mass_error}, t)
