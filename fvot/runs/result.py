"""`Result`: the density at the recorded times; and how such densities are written and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from ..output.series import Output, write_all

if TYPE_CHECKING:
    from ..mesh import Mesh

# The ledger's numbers that add to the mass, since the start, and those that take from it. What has
# grown may be below 0.
MASS_GAINS = ("inflow", "added", "born", "grown")
MASS_LOSSES = ("outflow", "killed")


class Writable:
    """A density (n_times, n_cells) at times t, perhaps with a velocity and a pressure: it can be
    written and drawn.
    """

    mesh: Any
    t: Array
    rho: Array
    velocity: Array | None
    pressure: Array | None = None

    def write(
        self,
        path: str | Path,
        *,
        every: int = 1,
        fields: tuple[str, ...] | None = None,
        single: bool = False,
    ) -> None:
        """Write density, velocity and pressure for ParaView.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .pvd, with a folder of pieces beside it, or a .vtkhdf.
        every : int, optional
            Write each, each second, ... of the recorded times.
        fields : tuple of str, optional
            Names of the fields to write; None for all.
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
        >>> result.write(tempfile.mkdtemp() + "/run.pvd", fields=("density",))
        """
        series = {"density": self.rho, "velocity": self.velocity, "pressure": self.pressure}
        present = {name: u for name, u in series.items() if u is not None}
        write_all(Output(path, every, fields, single), self.mesh, self.t, present)

    def probe(self, points: ArrayLike) -> Array:
        """The density at points, at all recorded times: what a gauge there would show. Collective.

        Parameters
        ----------
        points : array (dim, n) or (dim,)
            Points of the mesh, the same on every rank.

        Returns
        -------
        array (n_times, n), or (n_times,) for one point
            The density, linear in each cell around its centroid, and between the smallest and the
            largest cell average of that time; the same on every rank.

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
        values = interpolate(mesh, self.rho, places.reshape(mesh.dim, -1))
        return values if places.ndim == 2 else values[:, 0]

    def plot(
        self, path: str | Path, time: int | Sequence[int] | None = None, **options: Any
    ) -> None:
        """Draw the density at one recorded time, or at several, to a .png.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .png file.
        time : int or sequence of int, optional
            The number of the recorded time, or several, drawn side by side. None: the last one; on
            an interval up to six in one picture.
        **options
            field : {"density", "speed", "pressure"}
                What the colours show.
            clim : (low, high)
                The values at the ends of the colours; None takes those of the field.
            cmap : str or matplotlib.colors.Colormap
                The colour map.
            arrows : bool
                Draw the velocity, in 2D.
            dots : array (n_times, 2, n)
                Positions of particles at the recorded times, drawn on top, in 2D; the same on every
                rank.
            width : int
                Pixels.

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
        """
        from ..output.plot import plot

        plot(self, path, time, **options)

    def movie(self, path: str | Path, **options: Any) -> None:
        """Draw the density at all recorded times to a .gif.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .gif file.
        **options
            field, clim, cmap, arrows, dots, width
                As for `plot`.
            fps : float
                Times that are shown per second, at most 50.

        Raises
        ------
        InputError
            As for `plot`, and for an fps that is no number above 0 and at most 50.

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

        movie(self, path, **options)

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
        self.mesh.ranks.check(
            is_integer(time) and -len(self.t) <= time < len(self.t),
            f"time must be the number of a recorded time, from 0 to {len(self.t) - 1}, not "
            f"{time!r}",
        )
        return self.mesh.to_points(self.rho[time], k)


@frozen
@dataclass(frozen=True, repr=False)
class Result(Writable):
    """The density of an evolution at the recorded times.

    Attributes
    ----------
    mesh : Mesh
        The mesh that it lives on.
    t : array (n_times,)
        The recorded times, the first is the start.
    rho : array (n_times, n_cells)
        Cell averages.
    ledger : {name: array (n_times,)}
        Mass, minimum, maximum, mass_error and further numbers of the solver.
    velocity : array (n_times, dim, n_cells) or None
        The mean velocity of each cell, or None where there is none.
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

    mesh: Mesh
    t: Array
    rho: Array
    ledger: dict[str, Array]
    velocity: Array | None = None
    pressure: Array | None = None

    def __repr__(self):
        return (
            f"<fvot.Result: {len(self.t)} times from {self.t[0]:.6g} to {self.t[-1]:.6g}, "
            f"{self.mesh.n_cells_global} cells, mass {self.ledger['mass'][-1]:.6g}, mass error "
            f"{self.ledger['mass_error'][-1]:.0e}>"
        )

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
        self.mesh.ranks.check(
            self.velocity is not None,
            "this result has no velocity: those of ContinuityEquation have one",
        )
        return self._field(points, t)

    @cached_property
    def _field(self):
        return VelocityField(self.mesh, self.t, self.velocity)


def build_ledger(records: Sequence[dict[str, float]]) -> dict[str, Array]:
    """{name: (n_times,)} from one dict per time, with the relative error of the mass balance.

    mass_error = (mass - gains + losses - initial mass) / (initial mass + the largest gains)
    """
    ledger = {name: np.array([record[name] for record in records]) for name in records[0]}
    mass = ledger["mass"]
    zero = np.zeros(len(mass))
    gains = sum((ledger[name] for name in MASS_GAINS if name in ledger), zero)
    losses = sum((ledger[name] for name in MASS_LOSSES if name in ledger), zero)
    scale = max(mass[0] + gains.max(), np.finfo(float).tiny)
    return ledger | {"mass_error": (mass - gains + losses - mass[0]) / scale}
