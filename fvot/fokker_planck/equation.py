"""The Fokker-Planck equation d rho/dt = div(D grad rho + rho grad V - rho b): any step, exact mass,
no negative density.

Space: two-point fluxes, by default Scharfetter-Gummel's, whose discrete Gibbs density is exactly
e^(-V(x_K)/D) (`drift_diffusion`). Time: resolvent schemes of order 1, 2 or 3 (`schemes`), limited
where they would be negative (`stepping`), each stage one checked implicit Euler step (`resolvent`).
Stationary densities and rates: those of a Markov chain (`markov`).
"""

import math

import numpy as np

from .. import markov
from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.times import check_step, check_times
from ..errors import ConvergenceError, InputError
from ..finite_volume.face_flux import pieces
from ..finite_volume.fluxes import described, scharfetter_gummel
from ..finite_volume.implicit_step import column_scale
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Mesh, quality
from ..runs.march import march
from .coefficients import DriftDiffusion
from .run import FokkerPlanckRun
from .stepper import Stepper

DIRECT = {
    1: 10**6,
    2: 10**6,
    3: 100_000,
}  # cells up to which stationary densities are found by elimination
LONG = (
    10  # longest steps to a stationary state, as powers of 10, in times in which a cell is emptied
)


@frozen
class FokkerPlanck:
    """Kinetic noise: d rho/dt = div(D grad rho + rho grad V - rho b) on a mesh, so that a D(x)
    alone makes all places alike.

    The density of paths dX = (b - grad V + grad D) dt + sqrt(2 D) dW in Ito's sense. For Ito's
    noise dX = b dt + sqrt(2 D) dW, as `particles.langevin` has it, give drift = b - grad D; for a
    constant D both are the same.

    mesh : a `Mesh`
    diffusion : D > 0: a number, D(x) or D(x, t), or cell values (n_cells,); faces take the harmonic
        mean
    potential : V(x) or V(x, t), taken at the cell points; or cell values (n_cells,); or
        `cell_mean(V)`, for which the cell means of the Gibbs density are exact; in units in which D
        is the temperature: rho ~ e^(-V/D)
    drift : b(x) or b(x, t), returning (dim, n), or a constant vector; need not be a gradient
    flux : `scharfetter_gummel`, `square_root`, `upwind`, `central`, or a function (U, k) -> (a, b)
        of your own, a, b >= 0
    boundary : {name: fvot.dirichlet(density), fvot.inflow(density) or fvot.outflow}; what isn't
        named is a wall that nothing crosses. dirichlet(0) absorbs; inflow and outflow let through
        what the drift carries, and no diffusion. Periodic meshes have no boundary there. A
        potential of cell values is constant from the cell point to a dirichlet boundary
    order : of the steps in time: 1 (implicit Euler), 2 or 3 (between 2 and 3 where something
        depends on time)
    tol : largest error in time of a whole run with tau=None, in L1 relative to the largest mass so
        far, or to what comes in until the end (an estimate, not a bound). Steps do not pass over
        pulses, gaps and periods that last at least 1/200 of the time between two recorded times
        (`watch`); name more times in t for shorter ones, and for the places of jumps: it takes
        fewer steps
    rtol : relative tolerance of the linear solves. PETSc's options reach them by the prefix
        fvot_fokker_planck_

    Every step keeps mass and sign to round-off, however long; beyond 1e13 times the time in which
    diffusion empties a cell it may be refused. Raises `InputError` for input of the wrong shape,
    kind or range.
    """

    def __init__(
        self,
        mesh,
        *,
        diffusion,
        potential=None,
        drift=None,
        flux=scharfetter_gummel,
        boundary=None,
        order=2,
        tol=1e-4,
        rtol=1e-10,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a fvot.Mesh, not {mesh!r:.60}")
        self.mesh = mesh
        self.order = order
        self.tol = tol
        self.rtol = rtol
        kinds = {
            name: given if is_number(given) else type(given).__name__
            for name, given in dict(
                diffusion=diffusion, potential=potential, drift=drift, boundary=boundary
            ).items()
        }
        names = sorted(map(str, boundary)) if isinstance(boundary, dict) else []
        mesh.ranks.check_same(
            "what a FokkerPlanck is made of",
            dict(order=order, tol=tol, rtol=rtol, **kinds, parts=names, flux=described(flux)),
        )
        with mesh.ranks.raising_together():
            if (
                isinstance(order, bool)
                or not isinstance(order, (int, np.integer))
                or order not in (1, 2, 3)
            ):
                raise InputError(f"order must be 1, 2 or 3, not {order!r}")
            if not (is_number(tol) and 0 < tol < 1):
                raise InputError(
                    "tol must lie between 0 and 1 (the error in time, relative to the mass), not "
                    f"{tol!r}"
                )
            if not (is_number(rtol) and 0 < rtol < 0.1):
                raise InputError(
                    "rtol must lie between 0 and 0.1 (the tolerance of linear solves), not "
                    f"{rtol!r}"
                )
        self._near = mesh.near
        self._operator = DriftDiffusion(self._near, diffusion, potential, drift, flux, boundary)
        self._stepper = Stepper(self._operator, order, rtol)
        quality.warn_of(mesh.quality().diffusion_problem, mesh)

    def __repr__(self):
        return f"<fvot.FokkerPlanck: order {self.order}, tol {self.tol:g}, {self.mesh.n_cells_global} cells>"

    # ---- running -----------------------------------------------------------------------------------------------------

    def solve(self, rho0, t, *, tau=None, checkpoint=None, write=None, progress=None):
        """Carry rho0 (n_cells,) through the times t: a final time, or increasing times, the first
        of which is the start.

        tau : largest step; steps are equal between two times, and hit them. None: steps such that
            the errors in time add up to at most `tol`
        checkpoint : a `Checkpoint`, a file in which the run is kept, and from which it goes on, to
            the same numbers up to the linear solver's tolerance
        write : a path, or an `Output`: a series for ParaView that is written on the way
        progress : show a bar; None where rank 0 writes to a terminal

        Returns a `Result` whose ledger has, per time: mass, inflow and outflow (since the start),
        mass_error (mass - inflow + outflow - initial mass, relative), minimum, maximum; steps,
        limited (steps that needed it), solves, iterations; time_error (the estimate); where D is
        constant and there is no drift: energy = entropy + potential_energy = D int rho log rho +
        int V rho, and dissipation, the rate at which it falls.

        Raises `InputError`, and `ConvergenceError` where no linear solver passes its checks or
        steps get too short; its `result` has the recorded times, and the last one that was reached.
        """
        mesh = self.mesh
        t = check_times(mesh.ranks, t)
        mesh.check_density(rho0, "rho0")
        check_step(mesh.ranks, tau, t)
        run = FokkerPlanckRun(self, rho0, t, tau)
        return march(run, self._near, t, checkpoint=checkpoint, write=write, progress=progress)

    def step(self, rho, tau, t=0.0):
        """rho (n_cells,) at t + tau from rho at t, in one step."""
        self.mesh.check_density(rho, "rho")
        self.mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        self.mesh.ranks.check(
            tau is not None, "tau must be a step above 0, not None: `step` takes one step"
        )
        check_step(self.mesh.ranks, tau)
        near = self._near
        rho = np.array(rho, float)
        made = self._stepper.advance(
            near.inward(rho), self.mesh.integrate(rho), t, tau, n_solves=8 * self.order
        )
        return near.outward(made.rho)

    # ---- what stays, and how fast the rest goes ------------------------------------------------------------------------

    def stationary(self):
        """The stationary density (n_cells,): of mass 1 where nothing crosses the boundary, else
        what the inflow sustains.

        In closed form where the fluxes of e^(-V/D) are zero; else by elimination without
        subtraction, exact to round-off in every well however rarely it is left
        (`markov.stationary`; on one rank, for up to DIRECT cells); else by ever longer implicit
        steps. Raises `InputError` where it is not unique or zero, or where something depends on
        time, and `ConvergenceError` where steps do not settle.
        """
        self._check_steady("a stationary density")
        mesh = self.mesh
        if not self._operator.closed:
            return self._near.outward(self._driven())
        count = int(mesh.ranks.max(pieces(mesh).max(initial=0))) + 1
        if count > 1:
            raise InputError(
                f"the mesh has {count} pieces that do not touch: the mass in each of them stays "
                "what it is, and "
                "the stationary density is not unique; take one piece at a time"
            )
        if self._stepper.gibbs is not None:
            return self._near.outward(np.exp(-self._stepper.gibbs))
        if mesh.n_cells_global > DIRECT[mesh.dim]:
            return self._near.outward(self._without_elimination())
        mass = self._on_root(lambda chain: markov.stationary(chain.rates, chain.center))
        return mesh.scatter(mass) / mesh.volume

    def relaxation_rates(self, k=1):
        """The k slowest rates (k,) at which densities relax, smallest first: eigenvalues of the
        operator, without the 0.

        The error after a time t falls like e^(-rate t). Real, or complex where drift is not a
        gradient and modes turn; to full relative accuracy also where a well is left once in 10^60
        times (`markov.relaxation_rates`; on one rank). With open boundaries the first one is the
        rate at which mass is lost in the long run. Raises `InputError` as `stationary` does.
        """
        self._check_steady("relaxation rates")
        ranks = self.mesh.ranks
        most = self.mesh.n_cells_global - int(self._operator.closed)
        ranks.check(
            most > 0,
            "the mesh has one cell, which nothing leaves: its density stays, and there is no "
            "rate; take a "
            "finer mesh",
        )
        ranks.check(
            isinstance(k, (int, np.integer)) and not isinstance(k, bool) and 0 < k <= most,
            f"k must be a number of rates from 1 to {most}, not {k!r}",
        )
        ranks.check_same("k", int(k))
        return self._on_root(
            lambda chain: markov.relaxation_rates(
                chain.rates, k, killing=chain.killing, center=chain.center
            )
        )

    def current(self, rho, t=0.0):
        """The mean of the current rho b - rho grad V - D grad rho in each cell (dim, n_cells), from
        its faces' fluxes.
        """
        self.mesh.check_density(rho, "rho")
        rates, entering = self._stepper.at(t)
        return cell_velocity(
            self.mesh, rates.flux(self._near.inward(np.asarray(rho, float)), entering)
        )

    def _check_steady(self, what):
        self.mesh.ranks.check(
            self._operator.steady and self._operator.boundary_steady,
            f"{what} exists only where potential, drift, diffusion and boundary do not depend on "
            "time",
        )

    def _on_root(self, work):
        """work(the whole chain) on rank 0, shared by all."""
        chain = self._stepper.at(0.0)[0].gathered()
        return self.mesh.ranks.broadcast(self.mesh.ranks.on_root(lambda: work(chain)))

    def _driven(self):
        """The stationary density between open boundaries."""
        if self.mesh.ranks.max(self._stepper.at(0.0)[1].max(initial=0.0)) == 0:
            raise InputError(
                "nothing enters through the boundary, so that everything leaves: the stationary "
                "density is 0; "
                "relaxation_rates(1) tells how fast the mesh empties"
            )
        return self._after_long_steps(np.zeros(self.mesh.n_cells))

    def _without_elimination(self):
        """The stationary density of a large mesh, from two starts, which must agree: wells that are
        hardly ever left keep what they were given.
        """
        mesh = self._near.mesh
        (rates, _) = self._stepper.at(0.0)
        one_cell = (mesh.cell_id[: mesh.n_cells] == 0).astype(float)
        found = [
            self._after_long_steps(rho / mesh.integrate(rho))
            for rho in (column_scale(rates), one_cell)
        ]
        difference = mesh.integrate(np.abs(found[1] - found[0]))
        if difference > 1e-6:
            raise ConvergenceError(
                f"from two starts the density settles down to two states, {difference:.1e} apart: "
                "there are "
                f"wells that are hardly ever left; up to {DIRECT[mesh.dim]} cells their weights "
                "are found "
                "by elimination: take a coarser mesh"
            )
        return found[0]

    def _after_long_steps(self, rho):
        """Implicit steps of up to LONG times the time in which a cell is emptied, until one changes
        nothing.
        """
        (rates, entering) = self._stepper.at(0.0)
        mesh = self._near.mesh
        fastest = mesh.ranks.max(rates.leaving().max(initial=0.0))
        for power in [3, 6, *[LONG] * 12]:
            resolvent = self._stepper.resolvent(0.0, 10.0**power / fastest, 6)
            new = resolvent(rho, entering)
            new = new / mesh.integrate(new) if self._operator.closed else new
            change = mesh.integrate(np.abs(new - rho))
            rho = new
            if power == LONG and change <= 1e-11 * mesh.integrate(new):
                return rho
        raise ConvergenceError(
            f"after steps of {10.0**LONG / fastest:.3g} the density still changes by {change:.1e} "
            "in each: "
            "its wells are hardly ever left"
        )
