"""The Fokker-Planck equation d rho/dt = div(D grad rho + rho grad V - rho b).

Any step size is allowed; mass is exact and no density is negative.

Space: two-point fluxes, by default those of Scharfetter and Gummel, whose discrete Gibbs density is
exactly e^(-V(x_K)/D) (`coefficients`). Time: resolvent schemes of order 1, 2 or 3 (`schemes`),
limited where they would be negative (`stepper`); each stage is one checked implicit Euler step
(`finite_volume.implicit_step`). Stationary densities and relaxation rates are those of a Markov
chain (`stationary`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ..arguments.diffusion import Noise, check_noise
from ..arguments.frozen import frozen
from ..arguments.functions import is_integer, is_number
from ..arguments.times import check_step, check_times
from ..arguments.types import Array, ArrayLike, Coefficient, Path, Scheme, TwoPointFlux
from ..errors import InputError
from ..finite_volume.fluxes import describe_flux, scharfetter_gummel
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Mesh
from ..mesh.cell_values import check_density, integrate
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
    """Kinetic noise: d rho/dt = div(D grad rho + rho grad V - rho b) on a mesh.

    A D(x) alone makes all places alike: the uniform density is stationary. The equation describes
    the density of paths dX = (b - grad V + grad D) dt + sqrt(2 D) dW in Ito's sense. For Ito's
    noise dX = b dt + sqrt(2 D) dW, as in `particles.langevin`, give drift = b - grad D; for a
    constant D both are the same.

    Every step conserves mass and positivity to round-off, however long it is. A step beyond 1e13
    times the time in which diffusion empties a cell may be refused.

    Parameters
    ----------
    mesh : Mesh
        The mesh. Periodic meshes have no boundary where they are glued together.
    diffusion : number, function or array
        D > 0: a number, D(x) or D(x, t), or cell values (n_cells,). Faces take the harmonic mean.
    potential : function, array or `cell_mean`, optional
        V(x) or V(x, t), taken at the cell points; or cell values (n_cells,); or `cell_mean(V)`, for
        which the cell means of the Gibbs density are exact. In units in which D is the temperature:
        rho ~ e^(-V/D).
    drift : function or vector, optional
        b(x) or b(x, t), returning (dim, n), or a constant vector. It need not be a gradient.
    flux : two-point flux
        `scharfetter_gummel`, `square_root`, `upwind`, `central`, or your own function
        (U, k) -> (a, b) with a, b >= 0.
    boundary : dict, optional
        {name: fvot.dirichlet(density), fvot.inflow(density) or fvot.outflow}. Every part of the
        boundary without an entry is a wall that nothing crosses. dirichlet(0) absorbs. inflow and
        outflow let through what the drift carries, and no diffusion. A potential of cell values is
        constant from the cell point to a dirichlet boundary.
    order : {1, 2, 3}
        Order of the steps in time: 1 (implicit Euler), 2 or 3 (between 2 and 3 where something
        depends on time).
    tol : float
        Largest error in time of a whole run with tau=None, in L1 relative to the largest mass so
        far, or to the mass that enters until the end. It is an estimate, not a bound.
    rtol : float
        Relative tolerance of the linear solves.

    Raises
    ------
    InputError
        For input of the wrong shape, kind or range.

    Notes
    -----
    Adaptive steps do not pass over pulses, gaps and periods that last at least 1/200 of the time
    between two recorded times (`arguments.watch`). For shorter ones, and for the places of jumps,
    name more times in t: the run then takes fewer steps.

    PETSc's options reach the linear solves by the prefix ``fvot_fokker_planck_``.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0])
    >>> result = equation.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.1])
    >>> bool(abs(result.ledger["mass_error"]).max() < 1e-14)
    True
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        diffusion: Coefficient,
        potential: Coefficient | cell_mean | None = None,
        drift: Coefficient | None = None,
        temperature: float | None = None,
        noise: Noise = "kinetic",
        flux: TwoPointFlux = scharfetter_gummel,
        boundary: Mapping[Any, Any] | None = None,
        scheme: Scheme = "auto",
        order: Literal[1, 2, 3] = 2,
        tol: float = 1e-4,
        rtol: float = 1e-10,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a fvot.Mesh, not {mesh!r:.60}")

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
                scheme=scheme,
            ),
            dict(diffusion=diffusion, potential=potential, drift=drift, boundary=boundary),
        )
        with mesh.ranks.raising_together():
            _check_order_and_tolerances(order, tol, rtol)
            check_noise(noise)
            _check_temperature(temperature, noise)
            _check_scheme(scheme, flux)

        self._numbering = find_numbering(mesh)
        terms = Terms(diffusion, potential, drift, temperature, noise, flux, boundary)
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
            A file in which the run is kept, and from which it goes on, to the same numbers up to
            the linear solver's tolerance.
        write : path or Output, optional
            A series for ParaView that is written during the run.
        progress : bool, optional
            Whether to show a bar. None: if rank 0 writes to a terminal.

        Returns
        -------
        Result
            Its ledger has, per time: mass, inflow and outflow (since the start), mass_error (mass -
            inflow + outflow - initial mass, relative), minimum, maximum; steps, limited (steps
            whose fluxes were limited), solves, iterations; time_error (the estimate). Where D is
            constant, there is no drift and nothing crosses the boundary: energy = entropy +
            potential_energy = D int rho log rho + int V rho, and dissipation, the rate at which the
            energy falls if V does not change.

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
        """The density at t + tau from the density at t, in one step.

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
        start = np.array(rho, float)
        mass = integrate(self.mesh, start)
        n_solves = 8 * self.order
        after = self._stepper.advance(numbering.inward(start), mass, t, tau, n_solves=n_solves)
        return numbering.outward(after.rho)

    # ---- the long run ---------------------------------------------------------------------------

    def stationary(self) -> Array:
        """The stationary density: of mass 1 without open boundaries, else sustained by the inflow.

        In closed form where the fluxes of e^(-V/D) are zero. Otherwise, where nothing crosses the
        boundary, by elimination without subtraction, which is exact to round-off in every well
        however rarely it is left (`markov.stationary`; on one rank, for up to
        `fokker_planck.stationary.ELIMINATION_CELL_LIMIT` cells). With open boundaries, and on
        larger meshes, by ever longer implicit steps, until one changes the density by less than
        1e-11.

        Returns
        -------
        (n_cells,) array
            The stationary density.

        Raises
        ------
        InputError
            Where the stationary density is not unique or zero, or where a coefficient depends on
            time.
        ConvergenceError
            Where the implicit steps do not settle.

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

        The error after a time t decays like e^(-rate t). With open boundaries the first rate is the
        one at which mass is lost in the long run.

        Parameters
        ----------
        k : int
            Number of rates.

        Returns
        -------
        (k,) array
            The rates, smallest first. Real, or complex where the drift is not a gradient and modes
            rotate. To full relative accuracy also where a well is left once in 10^60 times
            (`markov.relaxation_rates`; on one rank).

        Raises
        ------
        InputError
            Where a coefficient depends on time, where the mesh has one cell that nothing leaves,
            and for a k that is not a number of rates.

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
        rates, entering = self._stepper.find_coefficients(t)
        values = self._stepper.find_values(self._numbering.inward(np.asarray(rho, float)), t)
        if self._stepper.has_corners:
            return self._numbering.outward(rates.current(values, entering))
        return cell_velocity(self.mesh, rates.flux(values, entering))


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
    if scheme not in ("auto", "two_point", "corners"):
        raise InputError(f"scheme must be 'auto', 'two_point' or 'corners', not {scheme!r:.60}")
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
