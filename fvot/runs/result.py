"""`Result`: the density at the recorded times; and how such densities are written and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.types import Array, ArrayLike
from ..finite_volume.velocity_field import VelocityField
from ..output.series import Output, write_all

if TYPE_CHECKING:
    from ..mesh import Mesh


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
        path
            A .pvd, with a folder of pieces beside it, or a .vtkhdf.
        every
            Write each, each second, ... of the recorded times.
        fields
            Names of the fields to write; None for all.
        single
            Write in single precision; see `Output`.

        Raises
        ------
        InputError
            On every rank, for a path that cannot be written.

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

    def plot(self, path: str | Path, time: int | None = None, **options: Any) -> None:
        """Draw the density at one recorded time to a .png.

        Collective.

        Parameters
        ----------
        path
            A .png file.
        time
            The number of the recorded time; None for the last.
        **options
            As in `fvot.output.plot.plot`.
        """
        from ..output.plot import plot

        plot(self, path, time, **options)

    def movie(self, path: str | Path, **options: Any) -> None:
        """Draw the density at all recorded times to a .gif.

        Collective.

        Parameters
        ----------
        path
            A .gif file.
        **options
            As in `fvot.output.plot.movie`.
        """
        from ..output.plot import movie

        movie(self, path, **options)

    def to_points(self, k: int = 1, time: int = -1) -> tuple[Array, Array]:
        """The density at one recorded time as point masses.

        Collective.

        Parameters
        ----------
        k
            Points per cell along each axis, as in `Mesh.to_points`.
        time
            The number of the recorded time.

        Returns
        -------
        points, weights
            (dim, n) and (n,).

        Raises
        ------
        InputError
            If there is no recorded time of that number.
        """
        is_whole = isinstance(time, (int, np.integer)) and not isinstance(time, bool)
        self.mesh.ranks.check(
            is_whole and -len(self.t) <= time < len(self.t),
            f"time must be the number of a recorded time, from 0 to {len(self.t) - 1}, not "
            f"{time!r}",
        )
        return self.mesh.to_points(self.rho[time], k)


@frozen
@dataclass(frozen=True, repr=False)
class Result(Writable):
    """A density at the recorded times, as an evolution returns it.

    Attributes
    ----------
    mesh
        The `Mesh` that it lives on.
    t
        (n_times,) recorded times, the first is the start.
    rho
        (n_times, n_cells) cell averages.
    ledger
        {name: (n_times,)}: mass, minimum, maximum, mass_error and further numbers of the solver.
    velocity
        (n_times, dim, n_cells) mean velocity of each cell, or None where there is none.
    pressure
        (n_times, n_cells) of an upper bound on the density, above 0 where it is reached; None
        without a bound.

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
        points
            (dim, n), the same on every rank.
        t
            A time between the first and the last recorded one.

        Returns
        -------
        v
            (dim, n), the same on every rank.

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
