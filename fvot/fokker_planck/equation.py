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
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ..arguments.diffusion import Noise, check_noise
from ..arguments.frozen import frozen, remade
from ..arguments.functions import is_integer, is_number
from ..arguments.times import check_step, check_times
from ..arguments.types import Array, ArrayLike, Coefficient, Path, Scheme, TwoPointFlux
from ..errors import InputError
from ..finite_volume.fluxes import describe_flux, limited, scharfetter_gummel
from ..markov import SlowModes
from ..mesh import Mesh
from ..mesh.cell_values import check_density, integrate, spread_over_regions
from ..mesh.numbering import find_numbering
from ..output.series import Output
from ..runs.checkpoint import Checkpoint
from ..runs.expectation import Expectation
from ..runs.march import march
from ..runs.result import Result
from . import backward, stationary, transition_paths
from .choice import build_operator
from .coefficients import Terms
from .fields import cell_mean
from .generator import build_generator
from .run import FokkerPlanckRun
from .stepper import Stepper
from .transition_paths import TransitionPaths


@remade
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
    growth : number, array, dict or function, optional
        The rate at which mass grows where it is, per time: a number, growth(x), growth(x, t), cell
        values (n_cells,), or {region: number}. Below 0 it is decay, or the killing of paths: -0.1
        leaves e^(-0.1 t). Where it is above 0 steps are at most 1 / (2 g growth), g = 1, 0.293 and
        0.436 for the orders 1, 2 and 3: longer ones are divided.
    source : number, array, dict or function, optional
        The density that is added per time, at least 0 unless signed, in the same forms; of
        injection wells at points x it is ``mesh.deposit(x, rates)``. What is pumped out is growth:
        -q / |K| in the cell of a well that pumps the volume q per time.
    signed : bool
        Whether fields have any sign, as temperatures and differences of densities do: rho0, source
        and the densities at the boundary may be below 0. Then steps are linear in them and exact in
        mass, and nothing is limited; there is no free energy. See the notes.
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

    With signed=True "mass" is the integral of the field, which may be 0, and errors are relative
    to its L1 norm, which the ledger has, too. Long steps of order 2 and 3 may overshoot where the
    field is steep; those of order 1 with two-point fluxes do not.

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

    A temperature between -1 and 1:

    >>> rod = fvot.Mesh.interval(0, 1, 4)
    >>> ends = {"left": fvot.dirichlet(-1.0), "right": fvot.dirichlet(1.0)}
    >>> heat = fvot.FokkerPlanck(rod, diffusion=0.1, boundary=ends, signed=True)
    >>> heat.stationary().round(9).tolist()
    [-0.75, -0.25, 0.25, 0.75]
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
        signed: bool = False,
        scheme: Scheme = "auto",
        order: Literal[1, 2, 3] = 2,
        tol: float = 1e-4,
        rtol: float = 1e-10,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a fvot.Mesh, not {mesh!r:.60}")

        flux = limited() if flux is limited else flux
        self.mesh = mesh
        self.signed = signed
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
                signed=signed,
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
            _check_signed(signed, flux)
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
            bool(signed),
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
        rho0 : (n_cells,) or (k, n_cells) array
            The density at the start; or a batch of k densities, which take the same steps and share
            all matrices. Each is balanced and limited by itself: its numbers are those of a run of
            its own with these steps.
        t : float or increasing sequence
            A final time, or times, the first of which is the start.
        tau : float, optional
            Largest step; steps are equal between two times, and hit them. None: steps such that the
            errors in time add up to at most `tol`, for each density of a batch.
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
            Its rho is (n_times, n_cells). Of a batch it is (n_times, k, n_cells), all numbers of
            the ledger are (n_times, k), and ``result.member(i)`` is the result of one density.

            The ledger has, per time: mass, inflow and outflow (since the start; in all, and as
            ``inflow:name`` and ``outflow:name`` through each open part), mass_error (mass -
            inflow + outflow - initial mass, relative), minimum, maximum; steps, limited (steps
            whose fluxes were limited, or in which cells in debt were settled, those that were taken
            again with a shorter length among them), solves, iterations; time_error (the estimate).
            Where there is growth or a source: killed, born (by growth below and above 0) and added,
            since the start, as far as there may be any; mass_error is then that of mass = initial
            mass + inflow - outflow + added + born - killed. Where there is a Gibbs density, nothing
            crosses the boundary, and there is neither growth nor a source: energy = entropy +
            potential_energy = T int rho log rho + int V rho, and dissipation, the rate at which the
            energy falls if V does not change. T is the temperature; without one it is D, and 1 for
            a D that varies without a potential.

            Of signed fields: norm, the integral of abs(rho); grown in place of killed and born; no
            energy; and mass_error is relative to the largest norm plus the largest sums of what
            came and of what went.

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

        Two densities at once:

        >>> halves = [mesh.density(lambda x: x[0] < 0.5), mesh.density(lambda x: x[1] < 0.5)]
        >>> result = equation.solve(halves, [0, 0.1, 0.2], tau=0.05)
        >>> result.rho.shape, result.ledger["mass"].shape, result.member(1).rho.shape
        ((3, 2, 64), (3, 2), (3, 64))
        """
        mesh = self.mesh
        times = check_times(mesh.ranks, t)
        check_density(mesh, rho0, "rho0", signed=self.signed, batch=True)
        check_step(mesh.ranks, tau, times)
        run = FokkerPlanckRun(self._stepper, self._numbering, rho0, times, tau, self.tol)
        return march(
            run, self._numbering, times, checkpoint=checkpoint, write=write, progress=progress
        )

    def step(self, rho: ArrayLike, tau: float, t: float = 0.0) -> Array:
        """The density at t + tau from the density at t, in one step (more, where mass grows fast).

        Parameters
        ----------
        rho : (n_cells,) or (k, n_cells) array
            The density, or the densities, at time t.
        tau : float
            The length of the step.
        t : float
            The time at the start of the step.

        Returns
        -------
        (n_cells,) or (k, n_cells) array
            The same at t + tau.

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
        check_density(self.mesh, rho, "rho", signed=self.signed, batch=True)
        ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        ranks.check(tau is not None, "tau must be a step above 0, not None: `step` takes one step")
        check_step(ranks, tau)

        numbering = self._numbering
        stepper = self._stepper
        given = np.array(rho, float)
        states = [
            (numbering.inward(one), integrate(self.mesh, one)) for one in np.atleast_2d(given)
        ]
        stepper.restart(len(states))
        count = math.ceil(tau / stepper.find_longest_step(t, t + tau)) or 1
        for i in range(count):
            begin = t + i * tau / count
            made = stepper.advance(states, begin, tau / count, n_solves=8 * self.order)
            states = [(one.rho, one.mass) for one in made]
        after = np.stack([numbering.outward(now) for now, _ in states])
        return after.reshape(given.shape)

    # ---- backwards in time ----------------------------------------------------------------------

    def backward(self, f: ArrayLike, t: ArrayLike, *, tau: float) -> Expectation:
        """What f is expected to be at the last of the times t, for what is in each cell earlier.

        u(x, s) = E[f(X_t) | X_s = x] solves the backward equation -du/ds = div(D grad u) - grad V .
        grad u + b . grad u + growth u with u(., t) = f; paths that leave the mesh count 0. Its
        steps are the exact transposes of those that `solve` takes for the same t and tau:

            sum |K| f rho(t) = sum |K| u(s) rho(s) + what enters from s to t adds

        up to the tolerance of the linear solves (1e-13 where they are factorised), as long as no
        step of `solve` was limited.

        Parameters
        ----------
        f : (n_cells,) array
            The values at the last time, of any sign.
        t : float or increasing sequence
            A final time, or times, the first of which is the start.
        tau : float
            Largest step; steps are equal between two times, and hit them.

        Returns
        -------
        Expectation
            `t`, `u` (n_times, n_cells) and a ledger, of which ``gained`` is what enters adds.

        Raises
        ------
        InputError
            For fluxes to corners, and for input of the wrong shape, kind or range.
        ConvergenceError
            Where no linear solver passes its checks.

        Notes
        -----
        Where nothing leaves the mesh constants stay to the bit, for steps of any length, and at
        order 1 all values lie between the smallest and the largest of f. At order 2 and 3 long
        steps may exceed these.

        Examples
        --------
        The probability to be in the right half at t = 1:

        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 20)
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: 0.2 * x[0])
        >>> f = mesh.average(lambda x: x[0] > 0.5)
        >>> seen = equation.backward(f, [0, 1], tau=0.05)
        >>> seen.probe([[0.1, 0.9]])[0].round(3).tolist()
        [0.157, 0.576]
        >>> rho0 = mesh.density(lambda x: x[0] < 0.2)
        >>> rho = equation.solve(rho0, [0, 1], tau=0.05).rho[-1]
        >>> bool(abs(mesh.integrate(f * rho - seen.u[0] * rho0)) < 1e-13)
        True
        """
        ranks = self.mesh.ranks
        times = check_times(ranks, t)
        values = backward.check_function(self.mesh, f)
        ranks.check(tau is not None, "tau must be a step above 0, not None: see FokkerPlanck.solve")
        check_step(ranks, tau, times)
        return backward.carry_backward(self._stepper, self._numbering, values, times, tau, self.tol)

    # ---- the long run ---------------------------------------------------------------------------

    def stationary(self) -> Array:
        """The stationary density: of mass 1, or, where there are open boundaries, growth or
        sources, what inflow and sources sustain (of a signed field, those of both signs).

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
            10^60 times (`markov.relaxation_rates`; on one rank). With corners, to the accuracy of
            linear solves: rates below some 1e-14 of the others are round-off. On meshes in space
            of more than 40 000 cells, where there is a Gibbs density, in the same way, on all
            ranks, if the estimated relative error is below 1e-8; else as before.

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

    def slow_modes(self, k: int = 1) -> SlowModes:
        """The k slowest modes: rates, the densities that decay so, and the functions that do.

        Deviations from the stationary density decay as sum_i c_i e^(-rate_i t) left_i, with c_i =
        sum |K| right_i rho; with open boundaries or decay so does the density itself, and left_0 is
        the quasi-stationary one.

        Parameters
        ----------
        k : int
            Number of modes.

        Returns
        -------
        SlowModes
            (rates (k,), left (k, n_cells), right (k, n_cells)), the first as of `relaxation_rates`.
            left are densities, with sum |K| |left| = 1 and their largest value positive, right
            functions, with sum |K| left_i right_j = 1 for i = j and else 0. Where there is a Gibbs
            density, right is left over that, up to a factor. Complex where a rate is.

        Raises
        ------
        InputError
            As of `relaxation_rates`, and for a drift with fluxes to corners.
        ConvergenceError
            Where modes of nearly equal rates cannot be told apart.

        Notes
        -----
        Values have an accuracy of 1e-13 of the largest one of the mode, also where wells are left
        once in 10^60 times (`fvot.markov.slow_modes`).

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(-1.6, 1.6, 80)
        >>> equation = fvot.FokkerPlanck(
        ...     mesh, diffusion=0.1, potential=lambda x: 4 * (x[0] ** 2 - 1) ** 2
        ... )
        >>> rates, left, right = equation.slow_modes(1)
        >>> abs(right[0][[19, 60]]).round(6).tolist()
        [1.0, 1.0]
        >>> bool(right[0][19] * right[0][60] < 0)
        True
        """
        return stationary.find_slow_modes(self._stepper, self._numbering, k)

    # ---- rare events ----------------------------------------------------------------------------

    def committor(self, A: Any, B: Any) -> Array:
        """The probability to come to B before A: Q q = 0 between them, q = 0 in A and 1 in B.

        Every value has a relative accuracy of 1e-13, however small it is (for barriers of up to
        about 600 kT). Where paths end, by decay or through an open boundary, q and the committor
        of A before B add up to less than 1.

        Parameters
        ----------
        A, B : mask, integers, function or str
            Sets of cells: (n_cells,) booleans; integers in the file's order, the same on every
            rank; a function x -> bool of the cell points; the name of a region; or the name of a
            part of the boundary: where it is open, B is reached by leaving through it, else in the
            cells at it.

        Returns
        -------
        (n_cells,) array
            The committor.

        Raises
        ------
        InputError
            For sets that are empty or overlap, cells that lead to neither, coefficients that
            depend on time, growth above 0, and fluxes to corners.
        ConvergenceError
            For barriers so high that rates underflow.

        Notes
        -----
        For two-point fluxes, by elimination without subtraction on rank 0
        (`fvot.markov.committors`).

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(-2, 2, 401)
        >>> equation = fvot.FokkerPlanck(
        ...     mesh, diffusion=0.5, potential=lambda x: 4 * (x[0] ** 2 - 1) ** 2
        ... )
        >>> q = equation.committor(lambda x: x[0] <= -1, lambda x: x[0] >= 1)
        >>> round(float(q[200]), 12), bool(q[150] < 0.006)
        (0.5, True)
        """
        return transition_paths.find_committors(self._stepper, self._numbering, dict(A=A, B=B))[1]

    def backward_committor(self, A: Any, B: Any) -> Array:
        """The probability that a stationary path was last in A rather than in B.

        Where there is a Gibbs density it is 1 - `committor`; where the drift is no gradient it is
        the committor of the path backwards in time, whose rates are p_L q_LK / p_K.

        Parameters
        ----------
        A, B : mask, integers, function or str
            Sets of cells, as of `committor`.

        Returns
        -------
        (n_cells,) array
            The backward committor: 1 in A and 0 in B.

        Raises
        ------
        InputError
            As of `committor`, and where mass enters or leaves.
        ConvergenceError
            For barriers so high that rates underflow.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 10, periodic=True)
        >>> carried = fvot.FokkerPlanck(mesh, diffusion=0.01, drift=(1.0,))
        >>> g = carried.backward_committor([0], [5])
        >>> bool(g[2] > 0.99), bool(g[7] < 0.01)
        (True, True)
        """
        sets = dict(A=A, B=B)
        return transition_paths.find_backward_committors(self._stepper, self._numbering, sets)[0]

    def splitting_probabilities(self, sets: Sequence[Any]) -> Array:
        """The probabilities to come to each of several sets before the others.

        Parameters
        ----------
        sets : sequence
            Two or more sets of cells, as of `committor`.

        Returns
        -------
        (number of sets, n_cells) array
            They add up to 1, unless paths end before.

        Raises
        ------
        InputError, ConvergenceError
            As of `committor`.

        Examples
        --------
        Where paths leave the unit square:

        >>> import fvot
        >>> sides = ["left", "right", "bottom", "top"]
        >>> absorbing = {name: fvot.dirichlet(0) for name in sides}
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (9, 9))
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=1.0, boundary=absorbing)
        >>> equation.splitting_probabilities(sides)[:, 40].round(12).tolist()
        [0.25, 0.25, 0.25, 0.25]
        """
        given = transition_paths.name_sets(self.mesh, sets)
        return transition_paths.find_committors(self._stepper, self._numbering, given)

    def mean_first_passage_time(self, A: Any, cost: Any = 1.0, moments: int = 1) -> Array:
        """The mean time until a path first comes to A: -Q T = 1 outside, T = 0 in A.

        Where paths may end, by decay or through an open boundary, it is the time until they come
        to A or end.

        Parameters
        ----------
        A : mask, integers, function or str
            A set of cells, as of `committor`.
        cost : number, (n_cells,) array or function of x
            What is gathered per time, at least 0, in place of time itself.
        moments : int
            The number of moments: T_m, the expected value of the time to the power of m, solves
            -Q T_m = m T_(m-1).

        Returns
        -------
        (n_cells,) array, or (moments, n_cells) for more than one
            The means, to a relative accuracy of 1e-13 each.

        Raises
        ------
        InputError
            As of `committor`; where cells never lead to A nor to an end, the time is infinite.
        ConvergenceError
            For barriers so high that rates underflow, and moments that overflow.

        Notes
        -----
        For two-point fluxes, by elimination without subtraction on rank 0
        (`fvot.markov.passage_times`).

        Examples
        --------
        From the middle of an interval of length 1 to its open ends, 1 / (8 D):

        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 101)
        >>> ends = {"left": fvot.dirichlet(0), "right": fvot.dirichlet(0)}
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.5, boundary=ends)
        >>> round(float(equation.mean_first_passage_time("left")[50]), 4)
        0.25
        """
        times = transition_paths.find_passage_times(
            self._stepper, self._numbering, A, cost, moments
        )
        return times[0] if len(times) == 1 else times

    def transition_paths(self, A: Any, B: Any) -> TransitionPaths:
        """The paths from A to B in the stationary state: how often, how fast, and which way.

        Parameters
        ----------
        A, B : mask, integers, function or str
            Sets of cells, as of `committor`.

        Returns
        -------
        TransitionPaths
            ``rate``, ``k_AB``, ``k_BA``, ``committor``, ``density``, ``flux``, ``current``.

        Raises
        ------
        InputError
            As of `committor`, and where mass enters or leaves.
        ConvergenceError
            For barriers so high that rates underflow.

        Notes
        -----
        Transition path theory (E, Vanden-Eijnden 2006); the formulas are on the page about rare
        events. For two wells k_AB + k_BA is the first of the `relaxation_rates`, up to terms of the
        order of the ratio of the first two.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(-2, 2, 401)
        >>> equation = fvot.FokkerPlanck(
        ...     mesh, diffusion=0.2, potential=lambda x: 4 * (x[0] ** 2 - 1) ** 2
        ... )
        >>> paths = equation.transition_paths(lambda x: x[0] <= -1, lambda x: x[0] >= 1)
        >>> float(paths.flux[150] / paths.rate).__round__(9)
        1.0
        >>> bool(abs((paths.k_AB + paths.k_BA) / equation.relaxation_rates(1)[0] - 1) < 1e-2)
        True
        """
        return transition_paths.find_transition_paths(self._stepper, self._numbering, A, B)

    def generator(self, t: float = 0.0, *, petsc: bool = False) -> Any:
        """The generator Q of the Markov chain that two-point fluxes are: d p/dt = Q^T p + source,
        for the masses p_K = |K| rho_K of cells.

        Parameters
        ----------
        t : float
            The time at which the coefficients are taken.
        petsc : bool
            Whether to return PETSc's matrix, on any number of ranks.

        Returns
        -------
        scipy.sparse.csr_matrix, or petsc4py.PETSc.Mat
            (n_cells, n_cells), in the order of the cells (with PETSc, those of rank 0, 1, ...). The
            entry of K and L is the rate from K to L; rows add up to minus the rate at which a cell
            loses mass through the boundary and by decay.

        Raises
        ------
        InputError
            For fluxes to corners, and on several ranks without ``petsc=True``.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 2)
        >>> ends = {"right": fvot.dirichlet(0)}
        >>> fvot.FokkerPlanck(mesh, diffusion=1.0, boundary=ends).generator().toarray().tolist()
        [[-4.0, 4.0], [4.0, -12.0]]
        """
        self.mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        return build_generator(self._stepper, self._numbering, t, petsc)

    # ---- currents -------------------------------------------------------------------------------

    def current(self, rho: ArrayLike, t: float = 0.0) -> Array:
        """The mean of the current rho b - rho grad V - D grad rho in each cell.

        With a temperature, or noise that is not kinetic, the current is that of its equation.

        Parameters
        ----------
        rho : (n_cells,) or (k, n_cells) array
            A density, or several.
        t : float
            The time at which the coefficients are taken.

        Returns
        -------
        (dim, n_cells) or (k, dim, n_cells) array
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
        check_density(self.mesh, rho, "rho", signed=self.signed, batch=True)
        given = np.asarray(rho, float)
        currents = [self._stepper.find_current(one, t) for one in np.atleast_2d(given)]
        return np.stack(currents) if given.ndim == 2 else currents[0]


def _check_same_on_all_ranks(mesh, numbers, coefficients):
    """`InputError` unless all ranks have the same numbers and kinds of coefficients."""
    kinds = {
        name: value if is_number(value) else type(value).__name__
        for name, value in coefficients.items()
    }
    boundary = coefficients["boundary"]
    parts = sorted(map(str, boundary)) if isinstance(boundary, dict) else []
    mesh.ranks.check_same("every argument of FokkerPlanck", numbers | kinds | dict(parts=parts))


def _check_signed(signed, flux):
    if not isinstance(signed, (bool, np.bool_)):
        raise InputError(
            f"signed must be True or False, not {signed!r:.60}: whether densities may be below 0"
        )
    if signed and isinstance(flux, limited):
        raise InputError(
            "fvot.limited() is for densities of at least 0, not for signed fields: leave out one "
            "of both"
        )


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
