"""The continuity equation d rho/dt + div(rho v) = 0: mass to round-off, positive for every step.

What crosses a face is one number, taken from one cell and given to the other:

    |K| rho_K(t + tau) = |K| rho_K(t) - tau sum_s U_s rho_s,   U_s the integral of v.n over the
    face, its mean over the step

so that the mass changes by what crosses the boundary and by nothing else. The face value rho_s is
that of the upwind cell (`upwind`), or a limited second-order one (`muscl`, see `reconstruction`; on
Cartesian meshes third-order, see `sweeps`). Both are positive while no cell gives more than it has:
tau rate(U) <= 1, rate(U) = max_K sum_s U_s+ / |K|; `cfl` is the fraction of this bound that a step
takes.

Where the velocity changes with time, rate is convex and of degree 1 in U (positive parts, sums and
maxima of what is linear in U; on Cartesian meshes, too), so that by Jensen's inequality

    tau rate(mean of U) <= tau (mean of rate(U)) = int rate(U(t)) dt <= tau (largest rate(U(t)) in
    the step):

a step whose int rate dt is at most 1 is positive. It keeps the bounds of the data where div v = 0,
since means of divergence-free fluxes are divergence-free. Both hold for means by quadrature with
positive weights, too (`time_means`). Hence a short burst shortens a step by no more than what it
moves, and what goes forth and back within a step counts in full.
"""

import math

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import floats, is_number
from ..arguments.times import MOST_STEPS, check_step, check_times
from ..errors import ConvergenceError, InputError, warn
from ..finite_volume.boundary import conditions, densities
from ..finite_volume.fluxes import described, muscl
from ..mesh import Mesh
from ..runs.march import march
from .muscl import LimitedFaces
from .muscl_cartesian import Sweeps
from .run import ContinuityRun
from .time_means import Step, TimeMeans
from .two_point import TwoPoint
from .velocity import flow

# part of the time between two recorded times below which a bound of steps is too short to go on,
TOO_SHORT = 1e-8
SHRUNK = 1e-3  # if it has fallen to such a part of what it was at the first of the two
LOOKS = 64  # at the velocity between two times, where it begins so fast that steps may be too many
# of the velocity during a step that was chosen by what it is at the beginning: no need to shorten
# it
GROWTH = 1.05


@frozen
class ContinuityEquation:
    """d rho/dt + div(rho v) = 0 on a mesh, v given in exactly one of three ways.

    mesh : a `Mesh`
    velocity : v(x) or v(x, t), returning (dim, n) for x (dim, n); or a constant vector
    stream : psi(x) or psi(x, t), v = (d psi/dy, -d psi/dx) in 2D; in 3D a vector potential A with v
        = curl A. The face fluxes are then divergence-free to round-off
    face_flux : (n_faces,) volume per time through each face of this rank, from left to right
    flux : `muscl()`, `upwind`, or a two-point flux (U, k) -> (a, b) of your own with a, b >= 0
    boundary : {name: fvot.inflow(density) or fvot.outflow}; what isn't named is a wall, where the
        flux is 0. A velocity that crosses a wall is said once, with its amount, in a warning
    cfl : the fraction of the flux's own positivity bound that a step takes, above 0 and at most 1;
        None for 0.95, and 0.7 for `muscl` on triangles and tetrahedra, where larger steps are
        positive, too, but less accurate on smooth data

    Steps take means over time of velocities, and of densities that enter, to 1e-3 or better. What
    they do between two recorded times is watched: pulses, gaps and periods that last at least 1/200
    of the time between the two are seen wherever they begin, if they are felt in more than a few
    hundredths of the domain, or at an open part of its boundary; for shorter ones name more times
    in t.

    Raises `InputError` for input of the wrong shape, kind or range.
    """

    def __init__(
        self,
        mesh,
        velocity=None,
        *,
        stream=None,
        face_flux=None,
        flux=None,
        boundary=None,
        cfl=None,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(
                "ContinuityEquation needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), "
                f"not {mesh!r:.60}"
            )
        self.mesh = mesh
        self._near = mesh.near
        self.flux = muscl() if flux is None or flux is muscl else flux
        with mesh.ranks.raising_together():
            if cfl is not None and not (is_number(cfl) and 0 < cfl <= 1):
                raise InputError(
                    "cfl must be above 0 and at most 1 (the bound up to which steps are "
                    f"positive), not {cfl!r}"
                )
            self._conditions = conditions(boundary, mesh)
            self._flow = flow(self._near.mesh, velocity, stream, face_flux)
            self._scheme = _scheme(self._near.mesh, self.flux)
            self.cfl = self._scheme.cfl if cfl is None else cfl
        parts = [(name, type(condition).__name__) for name, condition in self._conditions]
        mesh.ranks.check_same(
            "what a ContinuityEquation is made of",
            dict(
                flow=type(self._flow).__name__,
                flux=described(self.flux),
                cfl=self.cfl,
                boundary=parts,
            ),
        )
        self._walls = np.arange(mesh.n_faces) >= mesh.n_inner
        for name, _ in self._conditions:
            self._walls[mesh.boundary[name]] = False
        self._prepared = None
        self._last = (None, None)
        self._entering = densities(mesh, self._conditions, 0.0)
        self._means = TimeMeans(mesh, self._flow, self._conditions, self._walls, self._scheme.rate)
        self._means.look(0.0)
        self._walls_are_said = False
        self._say_if_walls_are_crossed()

    def __repr__(self):
        return (
            f"<fvot.ContinuityEquation: {described(self.flux)}, {self.mesh.n_cells_global} cells>"
        )

    # ---- running -----------------------------------------------------------------------------------------------------

    def solve(self, rho0, t, *, tau=None, checkpoint=None, write=None, progress=None):
        """Carry rho0 (n_cells,) through the times t: a final time, or increasing times, the first
        of which is the start.

        tau : largest step; None for the largest that `cfl` allows. Steps are equal between two
            times, and hit them
        checkpoint : a `Checkpoint`, a file in which the run is kept, and from which it goes on to
            the same numbers
        write : a path, or an `Output`: a series for ParaView that is written on the way
        progress : show a bar; None where rank 0 writes to a terminal

        Returns a `Result` whose ledger has, per time: mass, inflow and outflow (since the start),
        mass_error (mass - inflow + outflow - initial mass, relative), minimum, maximum, steps.

        Raises `InputError`, and `ConvergenceError` where the velocity grows until steps are too
        short to reach the next time; its `result` has the recorded times, and the last one that was
        reached.
        """
        t = check_times(self.mesh.ranks, t)
        self._check(rho0, tau, t)
        self._scheme.start(rho0)
        run = ContinuityRun(self, rho0, t, tau)
        return march(run, self._near, t, checkpoint=checkpoint, write=write, progress=progress)

    def step(self, rho, tau, t=0.0):
        """rho (n_cells,) at t + tau from rho at t, in equal substeps where tau is above the bound."""
        self._check(rho, tau, ())
        self._check_count([t, t + tau])
        rho = self._near.inward(np.array(rho, float))
        self._scheme.start(rho)
        for count, step in enumerate(self._steps(t, t + tau, None)):
            rho, *_ = self._advance(rho, step, count)
        self._say_if_walls_are_crossed()
        return self._near.outward(rho)

    def adjoint(self, phi, t):
        """phi (n_cells,) at the first of the times t, from phi at the last: d phi/dt + v.grad phi =
        0, backwards.

        The transpose of the steps that `solve` takes for the same t, so that the sum of |K| rho phi
        is the same at both ends to round-off where nothing enters. For two-point fluxes: the
        transpose of `muscl` would depend on rho.
        """
        if not isinstance(self._scheme, TwoPoint):
            raise InputError("adjoint needs a linear flux: make the equation with flux=fvot.upwind")
        t = check_times(self.mesh.ranks, t)
        with self.mesh.ranks.raising_together():
            phi = np.array(floats(phi, "phi must be an array of numbers"))
        self.mesh.ranks.check(
            phi.shape == (self.mesh.n_cells,) and np.isfinite(phi).all(),
            f"phi has shape {phi.shape}, or numbers that are not finite; "
            f"{self.mesh.wanted_shape(phi.shape)}",
        )
        self._check_count(t)
        steps = [
            step
            for begin, end in zip(t[:-1], t[1:], strict=True)
            for step in self._steps(begin, end, None)
        ]
        phi = self._near.inward(phi)
        for step in reversed(steps):
            self._prepare(step)
            phi = self._scheme.transposed(self._kept(step) * phi)
        return self._near.outward(phi)

    # ---- velocity to face fluxes -------------------------------------------------------------------------------------

    def face_flux(self, t=0.0):
        """U (n_faces,) at time t: the integral of v.n over each face, 0 on walls."""
        return np.where(self._walls, 0.0, self._flow.flux(self._flow.at(t)))

    def _say_if_walls_are_crossed(self):
        """A warning, once, if a velocity has been seen that does."""
        if self._walls_are_said:
            return
        across, through = self.mesh.ranks.sum(self._means.crossing)
        self._walls_are_said = across > 1e-9 * through
        if self._walls_are_said and self.mesh.ranks.is_root:
            given = {str(name) for name, _ in self._conditions}
            names = [str(name) for name in self.mesh.boundary if str(name) not in given]
            warn(
                f"the velocity crosses the walls ({', '.join(names)}) by {across:.3g} volume per "
                "time; it is stopped there. "
                "Name these parts in boundary= (fvot.outflow, fvot.inflow(density)) to let it "
                "through"
            )

    def _velocity_of_cells(self, t):
        """Means (n_times, dim, n_cells) of v; of face fluxes |K| v_K = sum_s U_s (x_s - x_K), exact
        for constants.
        """
        if self._flow.steady:
            velocity = self._near.outward(self._flow.cell_velocity(t[0]))
            return np.broadcast_to(velocity, (len(t), self.mesh.dim, self.mesh.n_cells))
        return self._near.outward(np.stack([self._flow.cell_velocity(now) for now in t]))

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _steps(self, begin, end, tau, done=0, now=None):
        """Each `Step` from begin to end: as few equal ones as the bound and *tau* allow; but those
        *done*, up to *now*.

        Raises `ConvergenceError` where the velocity has grown so far that the end is out of reach.
        """
        self._means.between(begin, end)
        if not self._flow.steady:
            yield from self._steps_as_the_velocity_changes(
                begin, end, tau, begin if now is None else now
            )
            return
        count = _count(end - begin, self._bound(begin), tau)
        step = (end - begin) / count
        for i in range(done, count):
            yield Step(begin + i * step, begin + i * step + step, step)

    def _steps_as_the_velocity_changes(self, begin, end, tau, now):
        problem = self._too_many(begin, end)
        if problem is not None:
            raise ConvergenceError(problem)
        too_short = min(TOO_SHORT * (end - begin), SHRUNK * self._bound(begin))
        most = min(1.0, GROWTH * self.cfl)
        aim = min(self.cfl, 1 / GROWTH)
        while now < end:
            bound = self._bound(now)
            count = _count(end - now, bound, tau)
            until = end if count == 1 else now + (end - now) / count
            step = self._march(now, until, most, aim)
            if step.until < until:
                bound = step.tau
            if now + step.tau == now or bound < too_short:
                raise _out_of_reach(now, end, step.tau, self.cfl)
            yield step
            now = step.until

    def _march(self, now, until, most, aim):
        """The longest `Step` to *until* or before it that is positive."""
        step, means = self._means.march(now, until, most, aim)
        while (
            not self._scheme.convex
            and step.tau * self.mesh.ranks.max(self._scheme.rate(means.U)) > most
        ):
            step, means = self._means.march(now, now + step.tau / 2, most, aim)
        self._last = step, means
        return step

    def _bound(self, t):
        """The step that `cfl` allows with the velocity at time t."""
        rate = self._means.look(t).rate
        return self.cfl / rate if rate > 0 else math.inf

    def _prepare(self, step):
        """Give the scheme the means over the step."""
        key = step.tau if self._flow.steady else step
        if key != self._prepared:
            means = self._means_over(step)
            self._scheme.prepare(
                means.U, step.tau, lambda: self._flow.velocity(means.flow, means.U)
            )
            self._prepared = key

    def _means_over(self, step):
        """The `Means` over a step; those of the last one are kept."""
        if self._flow.steady:
            return self._means.steady
        if step != self._last[0]:
            self._last = step, self._means.again(step)
        return self._last[1]

    def _advance(self, rho, step, count):
        """(rho, what left through each boundary face, what entered there) after the step."""
        self._prepare(step)
        if self._means.changes and self._conditions:
            self._entering = self._mean_density(step)
        rho, crossed = self._scheme.step(rho, self._entering, count)
        out = np.maximum(crossed, 0)
        came = np.maximum(-crossed, 0)
        if self._flow.steady or not self._conditions:
            return rho, out, came
        return self._breathed(rho, step, out, came)

    def _mean_density(self, step):
        """The density (n_boundary,) of all that enters during a step."""
        means = (
            self._means.march(step.now, step.until)[1]
            if self._flow.steady
            else self._means_over(step)
        )
        brought, inward = means.entering
        return np.divide(brought, inward, out=np.zeros_like(brought), where=inward > 0)

    def _breathed(self, rho, step, out, came):
        """The same, after the exchange through faces where the flow turns: as much leaves as enters
        in its place.
        """
        back = self._exchanged(step)
        cell = self._near.mesh.left[self.mesh.n_inner :]
        if not back.any():
            return rho, out, came
        left = back * rho[cell]
        entered = back * self._entering
        change = np.bincount(cell, entered - left, self.mesh.n_cells) / self._near.mesh.volume
        return np.maximum(rho + change, 0.0), out + left, came + entered

    def _kept(self, step):
        """The part (n_cells,) of each cell that `_breathed` does not exchange; 1 where the flow is
        steady.
        """
        if self._flow.steady or not self._conditions:
            return 1.0
        cell = self._near.mesh.left[self.mesh.n_inner :]
        return (
            1 - np.bincount(cell, self._exchanged(step), self.mesh.n_cells) / self._near.mesh.volume
        )

    def _exchanged(self, step):
        """The volume (n_boundary,) that goes both ways during a step: what enters, beyond what the
        mean flux lets in.

        It is part of what the rate counts, so that no cell gives more than it has.
        """
        means = self._means_over(step)
        inward = means.entering[1]
        back = inward - np.maximum(-means.U[self.mesh.n_inner :], 0.0)
        return step.tau * np.where(back > 1e-12 * inward, back, 0.0)

    # ---- input ----------------------------------------------------------------------------------------------------

    def _check(self, rho0, tau, t):
        self.mesh.check_density(rho0, "rho0")
        check_step(self.mesh.ranks, tau, t)
        self._check_count(t)

    def _check_count(self, t):
        """`InputError` where the times t (n,) are out of reach: all of them for a steady flow, else
        the second one.
        """
        ends = t[1:] if self._flow.steady else t[1:2]
        for begin, end in zip(t, ends):
            problem = self._too_many(begin, end)
            self.mesh.ranks.check(problem is None, problem)

    def _too_many(self, begin, end):
        """What to say where the velocity allows only so short steps that there would be too many of
        them; else None.

        What begins fast may soon be slow: a changing velocity is looked at all along. Collective.
        """
        length = float(end - begin)
        look = self._means.look(begin)
        rate = look.rate
        speeds = np.abs(look.U) / self._near.mesh.area
        if length / self.cfl * rate > MOST_STEPS and not self._flow.steady:
            rates = [self._means.look(now).rate for now in np.linspace(begin, end, LOOKS + 1)[1:]]
            rate = min(rate, sum(rates) / LOOKS)
        count = length / self.cfl * rate
        if count <= MOST_STEPS:
            return None
        speed = self.mesh.ranks.max(speeds.max(initial=0.0))
        return (
            f"the velocity, which is up to {speed:.3g} at t = {begin:.6g}, allows only steps of "
            f"{length / count:.2g}: "
            f"about {count:.2g} of them from there to t = {end:.6g}, more than {MOST_STEPS:.0e}. "
            "Are its units "
            "those of the mesh and of t? Else give a nearer end, or a coarser mesh"
        )


def _out_of_reach(now, end, step, cfl):
    count = f"{(end - now) / step:.0e}" if step > 0 else "without number"
    rate = f"{cfl / step:.2g}" if step > 0 else "infinity"
    return ConvergenceError(
        f"the velocity allows only steps of {step:.2g} at t = {now}, {count} of them to t = "
        f"{end:.6g}: "
        f"the largest rate at which a cell is emptied has grown to {rate}. If the velocity blows "
        "up "
        "there, end before; if it is a pulse, name its beginning and its end in t"
    )


def _count(length, bound, tau):
    """The smallest number of equal steps, none longer than the bound and *tau*."""
    return max(1, math.ceil(length / min(bound, math.inf if tau is None else tau) * (1 - 1e-12)))


# ---- schemes: rate (the largest 1/tau that keeps positivity), start, prepare and step ----------------------------------


def _scheme(mesh, flux):
    if isinstance(flux, muscl):
        return LimitedFaces(mesh, flux.sharp) if mesh.block is None else Sweeps(mesh, flux.sharp)
    if not callable(flux):
        raise InputError(
            f"flux must be fvot.muscl(), fvot.upwind, or a function (U, k) -> (a, b), not {flux!r}"
        )
    return TwoPoint(mesh, flux)
