"""The continuity equation d rho/dt + div(rho v) = growth rho + source.

Mass is conserved to round-off, and densities are positive after every step. What crosses a face is
one number, taken from one cell and given to the other:

    |K| rho_K(t + tau) = |K| rho_K(t) - tau sum_s U_s rho_s

where U_s is the integral of v.n over the face, its mean over the step. Hence the mass changes only
through the boundary, and by growth and sources (`continuity.reactions`). The face value rho_s is
that of the upwind cell (`upwind`), or a limited second-order one (`muscl`, see
`finite_volume.muscl`; on Cartesian meshes of third order, see `continuity.muscl_cartesian`). Both
are positive while no cell gives more than it has: tau rate(U) <= 1, rate(U) = max_K sum_s U_s+ /
|K|, for `muscl` plus half of -div v where that is positive; `cfl` is the fraction of this bound
that a step takes.

Where the velocity changes with time: rate is convex and of degree 1 in U (it is made of positive
parts, sums and maxima of linear functions of U, also on Cartesian meshes), so that by Jensen's
inequality

    tau rate(mean of U) <= tau (mean of rate(U)) = int rate(U(t)) dt
                        <= tau (largest rate(U(t)) in the step)

Hence a step whose int rate dt is at most 1 is positive. It keeps the bounds of the data where
div v = 0, since means of divergence-free fluxes are divergence-free. Both also hold for means by
quadrature with positive weights (`time_means`). A short burst shortens a step by no more than what
it moves, and what goes forth and back within a step counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ..arguments.frozen import frozen, remade
from ..arguments.functions import as_floats, is_number
from ..arguments.times import check_step, check_times
from ..arguments.types import Array, ArrayLike, Coefficient, Path, TwoPointFlux
from ..arguments.watch import find_spacing
from ..errors import InputError
from ..finite_volume.boundary import read_conditions
from ..finite_volume.cell_fields import Reactions
from ..finite_volume.fluxes import describe_flux, muscl
from ..finite_volume.velocity_source import build_velocity_source
from ..mesh import Mesh
from ..mesh.cell_values import check_density, describe_wanted_shape, spread_over_regions
from ..mesh.numbering import find_numbering
from ..output.series import Output
from ..runs.checkpoint import Checkpoint
from ..runs.march import march
from ..runs.result import Result
from .run import ContinuityRun
from .scheme import build_scheme
from .stepper import Stepper


@remade
@frozen
class ContinuityEquation:
    """d rho/dt + div(rho v) = growth rho + source, v given in exactly one of three ways.

    Parameters
    ----------
    mesh : Mesh
        The mesh.
    velocity : function or vector, optional
        v(x) or v(x, t), returning (dim, n) for x (dim, n); or a constant vector.
    stream : function, optional
        psi(x) or psi(x, t), v = (d psi/dy, -d psi/dx) in 2D; in 3D a vector potential A with
        v = curl A; on (r, z) in cylindrical coordinates Stokes's, v = (-1/r d psi/dz,
        1/r d psi/dr). The face fluxes are then divergence-free to round-off.
    face_flux : (n_faces,) array, optional
        Volume per time through each face of this rank, from left to right.
    flux : `muscl` or two-point flux, optional
        `muscl()`, `upwind`, or your own two-point flux (U, k) -> (a, b) with a, b >= 0. None:
        `muscl()`.
    boundary : dict, optional
        {name: fvot.inflow(density) or fvot.outflow}. Every part of the boundary without an entry is
        a wall, where the flux is 0. A velocity that crosses a wall is reported once, with its
        amount, in a warning.
    growth : number, array, dict or function, optional
        The rate at which mass grows where it is, per time: a number, growth(x), growth(x, t), cell
        values (n_cells,), or {region: number}; below 0 it is decay. Functions are taken at the
        centroids.
    source : number, array, dict or function, optional
        The density that is added per time, at least 0, in the same forms; of injection wells at
        points x it is ``mesh.deposit(x, rates)``. What is pumped out is growth: -q / |K| in the
        cell of a well that pumps the volume q per time.
    cfl : float, optional
        The fraction of the flux's own positivity bound that a step takes, above 0 and at most 1.
        None: 0.95, and 0.7 for `muscl` on triangles and tetrahedra, where larger steps are also
        positive, but less accurate on smooth data.

    Raises
    ------
    InputError
        For input of the wrong shape, kind or range.

    Notes
    -----
    Steps take means over time of velocities, and of densities that enter, to 1e-3 or better. The
    velocity between two recorded times is watched: pulses, gaps and periods that last at least
    1/200 of the time between the two are seen wherever they begin, if they act on more than a few
    hundredths of the domain, or on an open part of its boundary. For shorter ones add times to t.

    Growth and sources act for half of each step before the transport and for half after it, with
    the exact solution in each cell, e^(growth h) rho + h phi(growth h) source, phi(z) = (e^z - 1) /
    z: positive for every sign, and of second order in time. Ones that depend on time are sampled at
    least 250 times between two recorded times.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> equation = fvot.ContinuityEquation(
    ...     mesh, velocity=(1.0, 0.0), boundary={"left": fvot.inflow(0.0), "right": fvot.outflow}
    ... )
    >>> result = equation.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.25])
    >>> bool(abs(result.ledger["mass_error"]).max() < 1e-14)
    True

    A tracer that decays at the rate 2 in a closed flow:

    >>> swirl = fvot.ContinuityEquation(
    ...     mesh, stream=lambda x: x[0] * (1 - x[0]) * x[1] * (1 - x[1]), growth=-2.0
    ... )
    >>> ledger = swirl.solve(mesh.density(lambda x: x[0] < 0.5), 0.5).ledger
    >>> [round(float(ledger[name][-1]), 4) for name in ("mass", "grown")]
    [0.3679, -0.6321]
    """

    def __init__(
        self,
        mesh: Mesh,
        velocity: Coefficient | None = None,
        *,
        stream: Coefficient | None = None,
        face_flux: ArrayLike | None = None,
        flux: muscl | type[muscl] | TwoPointFlux | None = None,
        boundary: Mapping[Any, Any] | None = None,
        growth: Coefficient | None = None,
        source: Coefficient | None = None,
        cfl: float | None = None,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(
                "ContinuityEquation needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), "
                f"not {mesh!r:.60}"
            )
        self.mesh = mesh
        self.flux = muscl() if flux is None or flux is muscl else flux
        self._numbering = find_numbering(mesh)
        growth = spread_over_regions(mesh, growth, "growth")
        source = spread_over_regions(mesh, source, "source")
        with mesh.ranks.raising_together():
            if cfl is not None and not (is_number(cfl) and 0 < cfl <= 1):
                raise InputError(
                    "cfl must be above 0 and at most 1 (the bound up to which steps are "
                    f"positive), not {cfl!r}"
                )
            open_parts = read_conditions(boundary, mesh, "ContinuityEquation")
            flow = build_velocity_source(self._numbering.mesh, velocity, stream, face_flux)
            if flow is None:
                raise InputError(
                    "give exactly one of velocity, stream and face_flux, not none of them"
                )
            scheme = build_scheme(self._numbering.mesh, self.flux)
            reactions = Reactions(self._numbering, growth, source, mesh.centroid)
        reactions.growth()  # refuses values of the wrong kind at once
        reactions.source()
        self.cfl = scheme.cfl if cfl is None else cfl

        kinds = [(name, type(condition).__name__) for name, condition in open_parts]
        mesh.ranks.check_same(
            "every argument of ContinuityEquation",
            dict(
                flow=type(flow).__name__,
                flux=describe_flux(self.flux),
                cfl=self.cfl,
                boundary=kinds,
                terms=[type(term).__name__ for term in (growth, source)],
            ),
        )

        is_wall = np.arange(mesh.n_faces) >= mesh.n_inner
        for name, _ in open_parts:
            is_wall[mesh.boundary[name]] = False
        self._stepper = Stepper(
            self._numbering, flow, scheme, open_parts, is_wall, self.cfl, reactions
        )
        self._stepper.warn_of_crossed_walls()

    def __repr__(self) -> str:
        cells = f"{self.mesh.n_cells_global} cells"
        return f"<fvot.ContinuityEquation: {describe_flux(self.flux)}, {cells}>"

    # ---- evolution ------------------------------------------------------------------------------

    def solve(
        self,
        rho0: ArrayLike,
        t: ArrayLike,
        *,
        tau: float | None = None,
        checkpoint: Checkpoint | None = None,
        write: Path | Output | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Carry rho0 through the times t.

        Parameters
        ----------
        rho0 : (n_cells,) array
            The density at the start.
        t : float or increasing sequence
            A final time, or times, the first of which is the start.
        tau : float, optional
            Largest step; None for the largest that `cfl` allows. For a steady velocity steps are
            equal between two times; for a changing one each is as long as `cfl` allows. Both hit
            the times.
        checkpoint : Checkpoint, optional
            A file that stores the run, and from which it continues to the same numbers.
        write : path or Output, optional
            A series for ParaView that is written during the run.
        progress : bool, optional
            Whether to show a progress bar. None: if rank 0 writes to a terminal or a notebook.

        Returns
        -------
        Result
            Its ledger has, per time: mass, inflow and outflow (since the start; in all, and as
            ``inflow:name`` and ``outflow:name`` through each open part), mass_error (mass -
            inflow + outflow - initial mass, relative), minimum, maximum, steps. With growth or a
            source: grown (below 0 where more decays) and added, since the start; mass_error is then
            that of mass = initial mass + inflow - outflow + grown + added.

        Raises
        ------
        InputError
            For input of the wrong shape, kind or range.
        ConvergenceError
            Where the velocity grows until steps are too short to reach the next time. Its `result`
            has the recorded times, and the last one that was reached.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.ContinuityEquation(
        ...     mesh, stream=lambda x: x[0] * (1 - x[0]) * x[1] * (1 - x[1])
        ... )
        >>> result = equation.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.5, 1])
        >>> result.rho.shape
        (3, 64)
        """
        times = check_times(self.mesh.ranks, t)
        check_density(self.mesh, rho0, "rho0")
        check_step(self.mesh.ranks, tau, times)
        self._stepper.check_step_count(times)
        run = ContinuityRun(self._stepper, self._numbering, rho0, times, tau, self.flux)
        return march(
            run, self._numbering, times, checkpoint=checkpoint, write=write, progress=progress
        )

    def step(self, rho: ArrayLike, tau: float, t: float = 0.0) -> Array:
        """The density at t + tau from the density at t.

        In substeps where tau is above the positivity bound.

        Parameters
        ----------
        rho : (n_cells,) array
            The density at time t.
        tau : float
            The length of the step.
        t : float
            The time at the start of the step.

        Returns
        -------
        (n_cells,) array
            The density at t + tau.

        Raises
        ------
        InputError
            For input of the wrong shape, kind or range.
        ConvergenceError
            Where the velocity grows until t + tau is out of reach.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.ContinuityEquation(
        ...     mesh, stream=lambda x: x[0] * (1 - x[0]) * x[1] * (1 - x[1])
        ... )
        >>> rho = equation.step(mesh.density(lambda x: x[0] < 0.5), 0.1)
        >>> bool(abs(mesh.integrate(rho) - 1) < 1e-14)
        True
        """
        check_density(self.mesh, rho, "rho")
        check_step(self.mesh.ranks, tau)
        self._stepper.check_step_count([t, t + tau])

        now = self._numbering.inward(np.array(rho, float))
        self._stepper.scheme.start(now)
        for count, step in enumerate(self._stepper.choose_steps(t, t + tau)):
            now = self._stepper.advance(now, step, count).rho
        self._stepper.warn_of_crossed_walls()
        return self._numbering.outward(now)

    def adjoint(self, phi: ArrayLike, t: ArrayLike) -> Array:
        """Carry phi backwards through the times t: d phi/dt + v.grad phi + growth phi = 0.

        The transpose of the steps that `solve` takes for the same t. Hence the sum of |K| rho phi
        is the same at both ends to round-off where nothing enters and nothing is added.

        Parameters
        ----------
        phi : (n_cells,) array
            The values at the last time.
        t : float or increasing sequence
            A final time, or times, the first of which is the start.

        Returns
        -------
        (n_cells,) array
            The values at the first time.

        Raises
        ------
        InputError
            For `muscl`, whose transpose would depend on rho: take a two-point flux. For input of
            the wrong shape, kind or range.
        ConvergenceError
            Where the velocity grows until the next time is out of reach.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.ContinuityEquation(
        ...     mesh, stream=lambda x: x[0] * (1 - x[0]) * x[1] * (1 - x[1]), flux=fvot.upwind
        ... )
        >>> rho0 = mesh.density(lambda x: x[0] < 0.5)
        >>> rho1 = equation.solve(rho0, [0, 1]).rho[-1]
        >>> phi0 = equation.adjoint(mesh.center[0], [0, 1])
        >>> bool(abs(mesh.integrate(rho1 * mesh.center[0] - rho0 * phi0)) < 1e-13)
        True
        """
        self._stepper.find_linear_scheme()
        times = check_times(self.mesh.ranks, t)
        with self.mesh.ranks.raising_together():
            values = np.array(as_floats(phi, "phi must be an array of numbers"))
        self.mesh.ranks.check(
            values.shape == (self.mesh.n_cells,) and np.isfinite(values).all(),
            f"phi has shape {values.shape}, or numbers that are not finite; "
            f"{describe_wanted_shape(self.mesh, values.shape)}",
        )
        self._stepper.check_step_count(times)

        steps = [
            (step, find_spacing(begin, end))
            for begin, end in pairwise(times)
            for step in self._stepper.choose_steps(begin, end)
        ]
        values = self._numbering.inward(values)
        for step, spacing in reversed(steps):
            values = self._stepper.apply_adjoint(values, step, spacing)
        return self._numbering.outward(values)

    def face_flux(self, t: float = 0.0) -> Array:
        """The integral of v.n over each face, 0 on walls.

        Parameters
        ----------
        t : float
            The time.

        Returns
        -------
        (n_faces,) array
            Volume per time through each face of this rank, from left to right.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 4)
        >>> boundary = {"left": fvot.inflow(1.0), "right": fvot.outflow}
        >>> equation = fvot.ContinuityEquation(mesh, velocity=(2.0,), boundary=boundary)
        >>> abs(equation.face_flux()).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
        """
        return self._stepper.face_flux(t)
