"""`JKO`: Wasserstein gradient flows d rho/dt = div(rho grad E'(rho)), whose energy falls in every
step, however long.
"""

import math

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number
from ..arguments.times import check_step, check_times
from ..energies.free_energy import FreeEnergy
from ..energies.local import Energy, Interaction, described, parts_of
from ..errors import InputError
from ..finite_volume.face_flux import pieces
from ..mesh import Mesh, Numbering, quality
from ..runs.march import march
from .linearised_step import Linearised
from .midpoint_step import Midpoint
from .run import JKORun
from .variational_step import Proper

ROUNDING = 1e-9  # by which a density may be above its bound at the start


@frozen
class JKO:
    """The gradient flow d rho/dt = div(rho grad E'(rho)) of an energy in the Wasserstein metric, on
    a mesh with closed walls.

    mesh : any `Mesh`; periodic ones are the torus. Where it is not orthogonal a warning says how
        far fluxes may be off
    energy : a sum of multiples of `Entropy` (diffusion), `Power` (porous media, fast diffusion),
        `Potential` (drift), `Interaction` (attraction, repulsion), and energies of your own (see
        `fvot.energies.Energy`)
    bounds : (0, upper): rho <= upper everywhere, by a pressure p >= 0 where that is reached (Maury,
        Roudneff-Chupin, Santambrogio 2010); (0, None): no upper bound
    order : of the steps. 2: discrete-gradient midpoint steps, by whose fluxes the energy falls
        exactly; where nothing diffuses they are upwind, of first order in space. 1: one-step JKO
        with a linearised metric (Cances, Gallouet, Todeschi 2020). None: 2 if something diffuses
        and there is no upper bound, else 1. Steps of order 2 that are much longer than what they
        follow swing round their end
    inner : a `BenamouBrenier` of the same mesh, without a terminal energy: each step is the proper
        one, which minimises W2^2(rho, rho_n) / (2 tau) + E(rho), with a certified gap; slow, a
        reference. Give a tau; no bounds, no interactions
    tol : largest error in time of a whole run with tau=None, in L1 relative to the mass (an
        estimate, not a bound). There are several times 1/tol steps of order 1, which are not cut
        below tol times the time that has passed: cells that fill up bend every density, however
        short the step

    Every step keeps the mass to round-off and the density >= 0, for every tau. PETSc's options
    reach the linear solves by the prefix fvot_jko_. Raises `InputError` for input of the wrong kind
    or range.
    """

    def __init__(self, mesh, energy, *, order=None, bounds=(0, None), inner=None, tol=1e-3):
        if not isinstance(mesh, Mesh):
            raise InputError(
                f"JKO needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), not {mesh!r:.60}"
            )
        ranks = mesh.ranks
        ranks.check(
            isinstance(energy, Energy),
            f"JKO needs an energy, such as fvot.Entropy() + fvot.Potential(V), not {energy!r:.60}",
        )
        ranks.check(
            order in (None, 1, 2) and not isinstance(order, bool),
            f"order must be 1, 2 or None, not {order!r}",
        )
        ranks.check(
            is_number(tol) and 0 < tol < 1,
            f"tol must lie between 0 and 1 (the error in time, relative to the mass), not {tol!r}",
        )
        ranks.check_same("what a JKO is made of", (order, tol, described(energy)))
        self.mesh = mesh
        self.energy = energy
        self.tol = float(tol)
        self.upper = _upper(ranks, bounds)
        self.inner = inner
        if inner is not None:
            self._check_inner(order)
            self._near = Numbering(mesh, mesh)
            self.order = 1
            self._step = Proper(inner, energy)
            return
        quality.warn_of(mesh.quality().diffusion_problem, mesh)
        self._near = mesh.near
        self._energy = FreeEnergy(self._near, energy)
        bounded = self.upper < math.inf
        self.order = order or (2 if self._energy.diffuses and not bounded else 1)
        ranks.check(
            self.order == 1 or not bounded,
            "an upper bound needs order=1 (or None): steps of order 2 know none",
        )
        self._step = (
            Midpoint(self._energy) if self.order == 2 else Linearised(self._energy, self.upper)
        )

    def __repr__(self):
        bound = "" if self.upper == math.inf else f", rho <= {self.upper:g}"
        parts = " + ".join(
            f"{weight:g} {kind}({', '.join(f'{x:g}' for x in numbers)})"
            for weight, kind, numbers in described(self.energy)
        )
        return f"<fvot.JKO: {parts}{bound}, order {self.order}, {self.mesh.n_cells_global} cells>"

    def _check_inner(self, order):
        ranks = self.mesh.ranks
        inner = self.inner
        ranks.check(
            getattr(inner, "mesh", None) is self.mesh
            and hasattr(inner, "with_terminal")
            and inner.terminal is None,
            "inner must be a fvot.BenamouBrenier of the same mesh, without a terminal energy, "
            f"not {inner!r:.80}",
        )
        ranks.check(
            order in (None, 1) and self.upper == math.inf,
            "with inner= steps are of order 1, and know no upper bound",
        )
        ranks.check(
            not any(isinstance(part, Interaction) for _, part in parts_of(self.energy)),
            "with inner= the energy may have no Interaction, which is not convex in rho: leave "
            "inner out",
        )

    def solve(self, rho0, t, *, tau=None, checkpoint=None, write=None, progress=None):
        """Carry rho0 (n_cells,) through the times t: a final time, or increasing times, the first
        of which is the start.

        tau : largest step; steps are equal between two times, and hit them. None: steps such that
            the errors in time add up to about `tol`. Either way a step is cut where Newton's method
            needs too many iterations
        checkpoint : a `Checkpoint`, a file in which the run is kept, and from which it goes on, to
            the same numbers up to the solver's tolerance
        write : a path, or an `Output`: a series for ParaView that is written on the way
        progress : show a bar; None where rank 0 writes to a terminal

        Returns a `Result` whose ledger has, per time: mass, mass_error, minimum, maximum; energy
        and, if it is a sum, its parts; dissipated (since the start: with order 2, energy +
        dissipated is constant; with order 1 the sum of the steps' W2^2 / (2 tau), about half of
        what is lost), dissipation (its mean rate in the last step); steps, newton (iterations),
        iterations (of linear solvers); with tau=None time_error, the estimate. With inner: gap, the
        largest certified one so far. With an upper bound the result has a pressure, too.

        Raises `InputError`, and `ConvergenceError` where steps get too short; its `result` has the
        recorded times, and the last one that was reached.
        """
        mesh = self.mesh
        t = check_times(mesh.ranks, t)
        self._check_density(rho0, "rho0")
        check_step(mesh.ranks, tau, t)
        mesh.ranks.check(
            self.inner is None or tau is not None, "with inner= give the length of steps, tau"
        )
        run = JKORun(self, rho0, t, tau)
        return march(run, self._near, t, checkpoint=checkpoint, write=write, progress=progress)

    def _check_density(self, rho, what):
        mesh = self.mesh
        upper = self.upper
        mesh.check_density(rho, what)
        most = mesh.ranks.max(np.max(rho, initial=0.0))
        mesh.ranks.check(
            most <= upper * (1 + ROUNDING),
            f"{what} reaches {most:.6g}, above its bound {upper:.6g}: scale it, or spread it out",
        )
        if upper < math.inf:
            piece = pieces(mesh)
            count = int(mesh.ranks.max(piece.max(initial=0))) + 1
            mass, room = mesh.ranks.sum(
                np.stack([np.bincount(piece, mesh.volume * u, count) for u in (rho, upper)])
            )
            mesh.ranks.check(
                (mass < room * (1 - ROUNDING)).all(),
                f"{what} fills the mesh, or a piece of it, up to its bound "
                f"{upper:.6g}: nothing can move there",
            )

    def step(self, rho, tau):
        """rho (n_cells,) after a time tau, in one step, or in several where Newton's method needs
        too many iterations.
        """
        self._check_density(rho, "rho")
        self.mesh.ranks.check(
            tau is not None, "tau must be a step above 0, not None: `step` takes one step"
        )
        check_step(self.mesh.ranks, tau)
        run = JKORun(self, rho, np.array([0.0, tau]), tau)
        for _ in run.advance(0.0, tau):
            pass
        return self._near.outward(run.rho)


def _upper(ranks, bounds):
    """The upper one of two bounds, of which the lower one is 0; inf for None."""
    ok = (
        isinstance(bounds, (tuple, list))
        and len(bounds) == 2
        and is_number(bounds[0])
        and bounds[0] == 0
        and (bounds[1] is None or is_number(bounds[1]) and bounds[1] > 0)
    )
    ranks.check(
        ok, f"bounds must be (0, upper) with a number upper > 0, or (0, None), not {bounds!r:.60}"
    )
    ranks.check_same("bounds", bounds)
    return math.inf if bounds[1] is None else float(bounds[1])
