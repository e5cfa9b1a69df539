"""`Result`: what an evolution returns; and how what moves on a mesh is written and drawn."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arguments.frozen import frozen
from ..finite_volume.velocity_field import VelocityField
from ..output.series import Output, write_all


class Writable:
    """What has a density (n_times, n_cells), perhaps a velocity and a pressure, at times t can be
    written and drawn.
    """

    pressure = None

    def write(self, path, *, every=1, fields=None, single=False):
        """Write density, velocity and pressure for ParaView: to a .pvd, with a folder of pieces
        beside it, or to a .vtkhdf.

        every : each, each second, ... of the recorded times; fields : some of the three; single :
            precision. See `Output`.

        Collective. Raises `InputError` on every rank for a path that cannot be written.
        """
        has = {"density": self.rho, "velocity": self.velocity, "pressure": self.pressure}
        write_all(
            Output(path, every, fields, single),
            self.mesh,
            self.t,
            {name: u for name, u in has.items() if u is not None},
        )

    def plot(self, path, time=None, **options):
        """Draw the density at recorded time number *time* (None: the last) to a .png: see
        `fvot.plot.plot`.
        """
        from ..output.plot import plot

        plot(self, path, time, **options)

    def to_points(self, k=1, time=-1):
        """The density at recorded time number *time* as point masses (points (dim, n), weights
        (n,)): see `Mesh.to_points`.
        """
        self.mesh.ranks.check(
            isinstance(time, (int, np.integer))
            and not isinstance(time, bool)
            and -len(self.t) <= time < len(self.t),
            f"time must be the number of a recorded time, from 0 to {len(self.t) - 1}, not "
            f"{time!r}",
        )
        return self.mesh.to_points(self.rho[time], k)

    def movie(self, path, **options):
        """Draw the density at all recorded times to a .gif: see `fvot.plot.movie`."""
        from ..output.plot import movie

        movie(self, path, **options)


@frozen
@dataclass(frozen=True, repr=False)
class Result(Writable):
    """A density at the recorded times.

    mesh : the `Mesh` that it lives on
    t : (n_times,) recorded times, the first is the start
    rho : (n_times, n_cells) cell averages
    ledger : {name: (n_times,)}: mass, minimum, maximum and whatever else the solver keeps account
        of
    velocity : (n_times, dim, n_cells) mean velocity of each cell, or None where there is none
    pressure : (n_times, n_cells) of an upper bound on the density, above 0 where it is reached;
        None without a bound
    """

    mesh: object
    t: np.ndarray
    rho: np.ndarray
    ledger: dict
    velocity: np.ndarray | None = None
    pressure: np.ndarray | None = None

    def __repr__(self):
        return (
            f"<fvot.Result: {len(self.t)} times from {self.t[0]:.6g} to {self.t[-1]:.6g}, "
            f"{self.mesh.n_cells_global} "
            f"cells, mass {self.ledger['mass'][-1]:.6g}, mass error "
            f"{self.ledger['mass_error'][-1]:.0e}>"
        )

    def velocity_at(self, points, t):
        """v (dim, n) at points (dim, n) of the mesh, the same on every rank: linear in cells, and
        between recorded times.

        Collective. Raises `InputError` where there is no velocity, for points outside the mesh, or
        times outside t.
        """
        self.mesh.ranks.check(
            self.velocity is not None,
            "this result has no velocity: those of ContinuityEquation have one",
        )
        return self._field(points, t)

    @cached_property
    def _field(self):
        return VelocityField(self.mesh, self.t, self.velocity)
