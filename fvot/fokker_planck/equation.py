"""The Fokker-Planck equation d rho/dt = div(D grad rho + rho grad V - rho b) + growth rho + source.

Any step size is allowed; mass is exact and no density is negative.

Space: two-point fluxes, by default those of Scharfetter and Gummel (`two_point`), or fluxes from
cells to their corners, for any mesh and tensor (`corners`); `choice` takes one of them. Either way
the discrete Gibbs density is exactly e^(-V(x_K)/T). Time: resolvent schemes of order 1, 2 or 3
(`schemes`), limited or settled where they would be negative (`stepper`); each stage is one checked
implicit Euler step. Stationary densities and relaxation rates are in `stationary`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from ..arguments.diffusion import Noise, check_noise
from ..arguments.frozen import frozen
from ..arguments.functions import is_integer, is_number
from ..arguments.times import check_step, check_times
from ..arguments.types import Array, ArrayLike, Coefficient, Path, Scheme, TwoPointFlux
from ..errors import InputError
from ..finite_volume.fluxes import describe_flux, limited, scharfetter_gummel
from ..mesh import Mesh
from ..mesh.cell_values import check_density, integrate, spread_over_regions
from ..mesh.numbering import find_numbering
from ..output.series import Output
from ..runs.checkpoint import Checkpoint
from ..runs.march import march
from ..runs.result import Result
from . import stationary
from .choice import build_operator
from .coefficients import Terms
from .fields import cell_mean
from .run import FokkerPlanckRun
from .stepper import Stepper


@frozen
class FokkerPlanck:
    """Drift and noise: d rho/dt = div(D grad rho + rho grad V - rho b) + growth rho + source.

    With a temperature T it is d rho/dt = div(D (grad rho + rho grad V / T) - rho b): then e^(-V/T)
    is stationary for every D, if b = 0. Without one, e^(-V/D) is stationary if D is a constant
    number.

    This is kinetic noise. The density is that of paths dX, where S is the symmetric root of D:

    - "kinetic": dX = (b - grad V + div D) dt + sqrt(2) S dW, diffusion div(D grad rho);
    - "ito": dX = (b - grad V) dt + sqrt(2) S dW, diffusion div(div(D rho));
    - "stratonovich": dX = (b - grad V) dt + sqrt(2) S o dW, diffusion div(S div(S rho)).

    The first and the second are in Ito's sense. For a constant D all three are the same.
    `particles.langevin` has the same three, and Ito's by default.

    Every step conserves mass and positivity to round-off, however long it is: mass changes by what
    crosses the boundary, decays, grows and is added, and by nothing else. A step beyond 1e13 times
    the time in which diffusion empties a cell may be refused.

    Parameters
    ----------
    mesh : Mesh
        Any mesh. Periodic meshes have no boundary where they are glued together.
    diffusion : number, array, dict or function
        D: a number above 0, a diagonal (dim,), a symmetric positive semidefinite tensor (dim, dim),
        or a function of x or (x, t) that returns any of these, for n points (n,), (dim, n) or
        (dim, dim, n); or cell values (n_cells,) or (dim, dim, n_cells); or {region: number or
        tensor}. Two-point fluxes take the harmonic mean of the cells at a face.
    potential : function, array or `cell_mean`, optional
        V(x) or V(x, t), taken at the cell points (for corners at the centroids, and at the
        corners); or cell values (n_cells,); or `cell_mean(V)`, for which the cell means of the
        Gibbs density are exact.
    drift : function or vector, optional
        b(x) or b(x, t), returning (dim, n), or a constant vector. It need not be a gradient.
    stream, face_flux : function; (n_faces,) array, optional
        b in another way, as in `ContinuityEquation`: by a stream function (in 3D a vector
        potential), or by the volume per time through each face of this rank, from left to right,
        such as that of `potential_flow`. Without divergence, they leave a uniform density uniform,
        to round-off. At most one of drift, stream and face_flux.
    temperature : number, optional
        T above 0, in the units of V, for kinetic noise. None: D where it is a constant number; else
        V drives by -grad V alone, and there is no Gibbs density.
    noise : {"kinetic", "ito", "stratonovich"}
        Which of the equations above it is.
    flux : two-point flux
        `scharfetter_gummel`, `square_root`, `upwind`, `central`, or your own function (U, k) -> (a,
        b) with a, b >= 0; or `limited()`, second order also where drift outweighs diffusion. With
        any but the first, "auto" does not choose corners.
    boundary : dict, optional
        {name: fvot.dirichlet(density), fvot.robin(rate, density), fvot.inflow(density) or
        fvot.outflow}. Every part of the boundary without an entry is a wall that nothing crosses.
        dirichlet(0) absorbs, and robin(rate) does so in part. inflow and
        outflow let through what the drift carries, and no diffusion. For two-point fluxes a
        potential of cell values is constant from the cell point to a dirichlet or robin boundary.
    growth : number, array or function, optional
        The rate at which mass grows where it is, per time: a number, growth(x), growth(x, t), or
        cell values (n_cells,). Below 0 it is decay, or the killing of paths: -0.1 leaves
        e^(-0.1 t). Where it is above 0 steps are at most 1 / (2 g growth), g = 1, 0.293 and 0.436
        for the orders 1, 2 and 3: longer ones are divided.
    source : number, array or function, optional
        The density that is added per time, at least 0, in the same forms; of injection wells at
        points x it is ``mesh.deposit(x, rates)``. What is pumped out is growth: -q / |K| in the
        cell of a well that pumps the volume q per time.
    scheme : {"auto", "two_point", "corners"}
        The fluxes, see the notes.
    order : {1, 2, 3}
        Order of the steps in time: 1 (implicit Euler), 2 or 3 (between 2 and 3 where something
        depends on time).
    tol : float
        The largest estimated error in time of a whole run with tau=None, in L1 relative to the
        largest mass so far, or to the mass that enters until the end. It is an estimate, not a
        bound.
    rtol : float
        Relative tolerance of the linear solves.

    Raises
    ------
    InputError
        For input of the wrong shape, kind or range.
    MeshError
        For scheme="corners" and cells that are not star-shaped about their centroids; for
        two-point fluxes and cell points out of order, unless the mesh was made with strict=False.

    Notes
    -----
    "two_point" fluxes are consistent where the lines between cell points are orthogonal to the
    faces, and D n has the direction of the normal n. "corners" takes fluxes from cells to their
    corners, with unknowns there: of second order on any mesh and for any tensor, without a maximum
    principle, at two to six times the cost (vertex approximate gradients: Eymard, Guichard, Herbin
    2012). "auto" takes two-point fluxes where they are consistent, else corners; and two-point
    fluxes with a warning where cells are not star-shaped, or a flux other than the default is
    given. For two-point fluxes densities are compared at `mesh.center`, for corners as cell
    averages or at `mesh.centroid`.

    Adaptive steps do not miss pulses, gaps and periods that last at least 1/200 of the time between
    two recorded times (`arguments.watch`). For shorter ones, and for jumps, add their times to t:
    the run then takes fewer steps.

    Growth and sources take the values of functions at the cell points, as the potential does. In
    time they are treated as the fluxes are: implicitly, to the order of the steps.

    PETSc's options reach the linear solves by the prefix ``fvot_fokker_planck_``.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0])
    >>> result = equation.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.1])
    >>> bool(abs(result.ledger["mass_error"]).max() < 1e-14)
    True

    Correlated noise with a Gibbs density:

    >>> D = [[0.2, 0.1], [0.1, 0.1]]
    >>> tilted = fvot.FokkerPlanck(mesh, diffusion=D, potential=lambda x: x[0], temperature=0.1)
    >>> bool(abs(tilted.stationary() - equation.stationary()).max() < 1e-12)
    True

    With Ito's noise the density gathers where the noise is weak:

    >>> shaken = fvot.FokkerPlanck(mesh, diffusion=lambda x: 0.1 + 0.1 * x[0], noise="ito")
    >>> rho = shaken.stationary()
    >>> round(float(rho.max() / rho.min()), 1)
    1.8

    A well brings 0.3 per time, and mass decays at the rate 1:

    >>> well = mesh.deposit([[0.3], [0.3]], [0.3])
    >>> fed = fvot.FokkerPlanck(mesh, diffusion=0.1, growth=-1.0, source=well)
    >>> ledger = fed.solve(0 * well, [0, 1], tau=0.1).ledger
    >>> [round(float(ledger[name][-1]), 3) for name in ("added", "killed", "mass")]
    [0.3, 0.11, 0.19]
    >>> round(float(mesh.integrate(fed.stationary())), 12)
    0.3
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        diffusion: Coefficient,
        potential: Coefficient | cell_mean | None = None,
        drift: Coefficient | None = None,
        stream: Coefficient | None = None,
        face_flux: ArrayLike | None = None,
        temperature: float | None = None,
        noise: Noise = "kinetic",
        flux: TwoPointFlux | limited = scharfetter_gummel,
        boundary: Mapping[Any, Any] | None = None,
        growth: Coefficient | None = None,
        source: Coefficient | None = None,
        scheme: Scheme = "auto",
        order: Literal[1, 2, 3] = 2,
        tol: float = 1e-4,
        rtol: float = 1e-10,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a fvot.Mesh, not {mesh!r:.60}")

        flux = limited() if flux is limited else flux
        self.mesh = mesh
        self.order = order
        self.tol = tol
        self.rtol = rtol

        _check_same_on_all_ranks(
            mesh,
            dict(
                order=order,
                tol=tol,
                rtol=rtol,
                flux=describe_flux(flux),
                temperature=temperature,
                noise=noise,
            ),
            dict(
                diffusion=diffusion,
                potential=potential,
                drift=drift,
                stream=stream,
                face_flux=face_flux,
                boundary=boundary,
                growth=growth,
                source=source,
            ),
        )
        mesh.ranks.check_choice("scheme", scheme, get_args(Scheme))
        with mesh.ranks.raising_together():
            _check_order_and_tolerances(order, tol, rtol)
            check_noise(noise)
            _check_temperature(temperature, noise)
            _check_scheme(scheme, flux)

        diffusion = spread_over_regions(mesh, diffusion, "diffusion")
        potential = spread_over_regions(mesh, potential, "potential")
        growth = spread_over_regions(mesh, growth, "growth")
        source = spread_over_regions(mesh, source, "source")
        self._numbering = find_numbering(mesh)
        terms = Terms(
            diffusion,
            potential,
            drift,
            temperature,
            noise,
            flux,
            boundary,
            growth,
            source,
            stream,
            face_flux,
        )
        self._operator = build_operator(self._numbering, terms, scheme)
        self._stepper = Stepper(self._operator, order, rtol)

    def __repr__(self) -> str:
        cells = f"{self.mesh.n_cells_global} cells"
        return f"<fvot.FokkerPlanck: order {self.order}, tol {self.tol:g}, {cells}>"

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
            Largest step; steps are equal between two times, and hit them. None: steps such that the
            errors in time add up to at most `tol`.
        checkpoint : Checkpoint, optional
            A file that stores the run, and from which it continues, to the same numbers up to the
            linear solver's tolerance.
        write : path or Output, optional
            A series for ParaView that is written during the run.
        progress : bool, optional
            Whether to show a progress bar. None: if rank 0 writes to a terminal or a notebook.

        Returns
        -------
        Result
            Its ledger has, per time: mass, inflow and outflow (since the start; in all, and as
            ``inflow:name`` and ``outflow:name`` through each open part), mass_error (mass -
            inflow + outflow - initial mass, relative), minimum, maximum; steps, limited (steps
            whose fluxes were limited, or in which cells in debt were settled), solves, iterations;
            time_error (the estimate). Where there is growth or a source: killed, born (by growth
            below and above 0) and added, since the start, as far as there may be any; mass_error is
            then that of mass = initial mass + inflow - outflow + added + born - killed. Where there
            is a Gibbs density, nothing crosses the boundary, and there is neither growth nor a
            source: energy = entropy + potential_energy = T int rho log rho + int V rho, and
            dissipation, the rate at which the energy falls if V does not change. T is the
            temperature; without one it is D, and 1 for a D that varies without a potential.

        Raises
        ------
        InputError
            For input of the wrong shape, kind or range.
        ConvergenceError
            Where no linear solver passes its checks, or steps get too short. Its `result` has the
            recorded times, and the last one that was reached.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1)
        >>> result = equation.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.1, 0.2], tau=0.05)
        >>> result.rho.shape
        (3, 64)
        """
        mesh = self.mesh
        times = check_times(mesh.ranks, t)
        check_density(mesh, rho0, "rho0")
        check_step(mesh.ranks, tau, times)
        run = FokkerPlanckRun(self._stepper, self._numbering, rho0, times, tau, self.tol)
        return march(
            run, self._numbering, times, checkpoint=checkpoint, write=write, progress=progress
        )

    def step(self, rho: ArrayLike, tau: float, t: float = 0.0) -> Array:
        """The density at t + tau from the density at t, in one step (more, where mass grows fast).

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
            Where no linear solver passes its checks.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1)
        >>> rho = equation.step(mesh.density(lambda x: x[0] < 0.5), 0.1)
        >>> bool(abs(mesh.integrate(rho) - 1) < 1e-14)
        True
        """
        ranks = self.mesh.ranks
        check_density(self.mesh, rho, "rho")
        ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        ranks.check(tau is not None, "tau must be a step above 0, not None: `step` takes one step")
        check_step(ranks, tau)

        numbering = self._numbering
        stepper = self._stepper
        now = numbering.inward(np.array(rho, float))
        mass = integrate(self.mesh, np.asarray(rho, float))
        count = math.ceil(tau / stepper.find_longest_step(t, t + tau)) or 1
        for i in range(count):
            begin = t + i * tau / count
            made = stepper.advance(now, mass, begin, tau / count, n_solves=8 * self.order)
            now = made.rho
            mass = made.mass
        return numbering.outward(now)

    # ---- the long run ---------------------------------------------------------------------------

    def stationary(self) -> Array:
        """The stationary density: of mass 1, or, where there are open boundaries, growth or
        sources, what inflow and sources sustain.

        In closed form where the fluxes of the Gibbs density e^(-V/T) are zero. Otherwise, for
        two-point fluxes, by elimination without subtraction, which is exact to round-off in every
        well however rarely it is left (`markov.stationary`; on one rank, for up to
        `fokker_planck.stationary.ELIMINATION_CELL_LIMIT` cells). With corners and on larger meshes,
        by ever longer implicit steps, until one changes the density by less than 1e-11.

        Returns
        -------
        (n_cells,) array
            The stationary density.

        Raises
        ------
        InputError
            Where the stationary density is not unique or zero, where a coefficient depends on
            time, for growth above 0, and for `limited` fluxes where it is not the Gibbs density.
        ConvergenceError
            Where the implicit steps do not converge.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0])
        >>> rho = equation.stationary()
        >>> bool(abs(mesh.integrate(rho) - 1) < 1e-14)
        True
        """
        return stationary.find_stationary(self._stepper, self._numbering)

    def relaxation_rates(self, k: int = 1) -> Array:
        """The k slowest rates at which densities relax: eigenvalues of the operator, without the 0.

        Deviations decay like e^(-rate t). With open boundaries or growth the first rate is the rate
        at which mass is lost in the long run, below 0 if it grows.

        Parameters
        ----------
        k : int
            Number of rates.

        Returns
        -------
        (k,) array
            The rates, smallest first. Real, or complex where the drift is not a gradient and modes
            rotate. For two-point fluxes to full relative accuracy also where a well is left once in
            10^60 times (`markov.relaxation_rates`; on one rank); with corners to the accuracy of
            linear solves: rates below some 1e-14 of the others are round-off.

        Raises
        ------
        InputError
            Where a coefficient depends on time, where the mesh has one cell that nothing leaves,
            for a k that is not a number of rates, for growth above 0 with corners, and for
            `limited` fluxes, which are not linear.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1)
        >>> [round(float(rate), 3) for rate in equation.relaxation_rates(2)]
        [0.974, 0.974]
        """
        return stationary.find_relaxation_rates(self._stepper, k)

    def current(self, rho: ArrayLike, t: float = 0.0) -> Array:
        """The mean of the current rho b - rho grad V - D grad rho in each cell.

        With a temperature, or noise that is not kinetic, the current is that of its equation.

        Parameters
        ----------
        rho : (n_cells,) array
            A density.
        t : float
            The time at which the coefficients are taken.

        Returns
        -------
        (dim, n_cells) array
            The cell means, from the fluxes through the faces of each cell.

        Raises
        ------
        InputError
            For a density of the wrong shape, kind or range.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0])
        >>> bool(abs(equation.current(equation.stationary())).max() < 1e-14)
        True
        """
        check_density(self.mesh, rho, "rho")
        return self._stepper.find_current(np.asarray(rho, float), t)


def _check_same_on_all_ranks(mesh, numbers, coefficients):
    """`InputError` unless all ranks have the same numbers and kinds of coefficients."""
    kinds = {
        name: value if is_number(value) else type(value).__name__
        for name, value in coefficients.items()
    }
    boundary = coefficients["boundary"]
    parts = sorted(map(str, boundary)) if isinstance(boundary, dict) else []
    mesh.ranks.check_same("every argument of FokkerPlanck", numbers | kinds | dict(parts=parts))


def _check_temperature(temperature, noise):
    if temperature is None:
        return
    if not (is_number(temperature) and 0 < temperature < math.inf):
        raise InputError(f"temperature must be a number above 0, not {temperature!r}")
    if noise != "kinetic":
        raise InputError(
            f"temperature={temperature!r} goes with noise='kinetic', in which detailed balance "
            f"holds, not with {noise!r}: leave out one of them"
        )


def _check_scheme(scheme, flux):
    if scheme == "corners" and flux is not scharfetter_gummel:
        raise InputError(
            "flux is a two-point flux, and scheme='corners' has none: leave out one of them"
        )


def _check_order_and_tolerances(order, tol, rtol):
    if not is_integer(order) or order not in (1, 2, 3):
        raise InputError(f"order must be 1, 2 or 3, not {order!r}")
    if not (is_number(tol) and 0 < tol < 1):
        raise InputError(
            f"tol must lie between 0 and 1 (the error in time, relative to the mass), not {tol!r}"
        )
    if not (is_number(rtol) and 0 < rtol < 0.1):
        raise InputError(
            f"rtol must lie between 0 and 0.1 (the tolerance of linear solves), not {rtol!r}"
        )
