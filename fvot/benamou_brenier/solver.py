"""`BenamouBrenier`: dynamical optimal transport with a certified gap."""

import math
from copy import copy

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import is_number, rounding_of
from ..energies.local import Energy, described
from ..errors import ConvergenceError, InputError
from ..mesh import Mesh, quality
from ..runs.checkpoint import CheckpointManager, fingerprint
from ..runs.progress import Progress
from .discretisation import Discretisation
from .geodesic import Geodesic
from .levels import levels
from .nested_iteration import NestedIteration, iterations_to
from .terminal import Terminal

PRECISIONS = {"double": np.float64, "single": np.float32}
MASSES = (
    1e-290,
    1e302,
)  # between which those of densities may be: below, cells would have few digits
SAME = 1e-11  # difference of two masses that counts as rounding, relative, in double precision
LARGE = 1e140  # and 1 / LARGE: masses whose squares are numbers, too


@frozen
class BenamouBrenier:
    """Optimal transport between two densities on a mesh: the shortest path, its cost, and how far
    from optimal it may be.

    W2^2(rho0, rho1) = min int_0^1 int |m|^2 / rho dx dt,   d rho/dt + div m = 0,  rho(0) = rho0,
    rho(1) = rho1

    with no flux through the boundary: mass goes round obstacles; on a periodic mesh it lives on the
    torus. phi lives on cells, rho on patches (see `Mesh`), both bounds are rigorous for the
    discrete problem: lower_bound <= W2^2 <= cost.

    mesh : any `Mesh`. Where it is not orthogonal W2^2 does not converge: a warning says how far it
        may be off. Printing the solver shows how many patches it makes of the cells, and how
        isotropic they are
    n_steps : steps in time
    tol : the certified gap (cost - lower_bound) / W2^2 of the path that ends the iteration; cost is
        W2^2, or W2^2 + 2 E
    max_iter : iterations on the mesh itself, coarser levels not counted
    precision : "double", or "single" for the iteration's arrays: half the memory, for gaps down to
        about 1e-3. Bounds always are in double precision
    terminal : an energy E (see `fvot.Entropy`), convex in rho: then the end is free, and the path
        that minimises W2^2(rho0, rho1) / 2 + E(rho1) is found, a step of Jordan, Kinderlehrer and
        Otto (1998)

    Method: over-relaxed alternating directions with a penalty that grows, from coarse levels to
    fine ones; as many iterations as the coarser level says, and more if the gap asks for it
    (Benamou, Brenier 2000; Papadakis, Peyre, Oudet 2014). Raises `InputError` for parameters out of
    range.
    """

    def __init__(
        self, mesh, n_steps=32, *, tol=1e-3, max_iter=1000, precision="double", terminal=None
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(
                "BenamouBrenier needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), not "
                f"{mesh!r:.60}"
            )
        ranks = mesh.ranks
        ranks.check(
            _is_count(n_steps), f"n_steps must be a whole number from 1 on, not {n_steps!r}"
        )
        ranks.check(
            is_number(tol) and 0 < tol < 1,
            f"tol must be a relative gap between 0 and 1, such as 1e-3, not {tol!r}",
        )
        ranks.check(
            _is_count(max_iter), f"max_iter must be a whole number from 1 on, not {max_iter!r}"
        )
        ranks.check(
            precision in PRECISIONS, f"precision must be 'double' or 'single', not {precision!r}"
        )
        ranks.check(
            terminal is None or isinstance(terminal, Energy),
            "terminal must be an energy, such as fvot.Entropy() or "
            f"0.1 * fvot.Power(2), or None, not {terminal!r:.60}",
        )
        ranks.check_same(
            "the parameters of BenamouBrenier",
            (n_steps, tol, max_iter, precision, described(terminal)),
        )
        self.mesh = mesh
        self.n_steps = int(n_steps)
        self.tol = float(tol)
        self.max_iter = int(max_iter)
        self.precision = precision
        self.terminal = terminal
        quality.warn_of(mesh.quality().transport_problem, mesh)
        self._near = mesh.near
        disc = Discretisation(self._near.mesh, self.n_steps)
        self._n_patches = ranks.sum(disc.n_patches)
        self._defect = ranks.max(disc.isotropy_defect().max(initial=0.0))
        self._levels = levels(disc)
        self._terminals = [terminal and Terminal(level.disc, terminal) for level in self._levels]

    def with_terminal(self, energy):
        """The same solver with a terminal energy; meshes and levels are shared."""
        self.mesh.ranks.check(
            isinstance(energy, Energy), f"a terminal energy is wanted, not {energy!r:.60}"
        )
        other = copy(self)
        terminals = [Terminal(level.disc, energy) for level in self._levels]
        vars(other).update(terminal=energy, _terminals=terminals)
        return other

    def terminal_energy(self, rho):
        """E(rho) of the terminal energy, for cell averages rho (n_cells,), of which it sees the
        means over patches.
        """
        self.mesh.ranks.check(
            self.terminal is not None, "this BenamouBrenier has no terminal energy"
        )
        return self._terminals[0].of_cells(self._near.inward(rho))

    def __repr__(self):
        return (
            f"<fvot.BenamouBrenier: {self.mesh.n_cells_global} cells in {self._n_patches} patches "
            f"(isotropy defect {self._defect:.0e}), {self.n_steps} steps, {len(self._levels)} "
            "levels>"
        )

    def solve(self, rho0, rho1=None, *, checkpoint=None, progress=None):
        """The `Geodesic` from rho0 to rho1, cell averages (n_cells,) of equal mass. Collective.

        With a terminal energy there is no rho1: the path finds its end.

        checkpoint : a `Checkpoint`, a file in which the run is kept, and from which it goes on, to
            the same tolerance, or with another tol or max_iter. What is found on coarser levels is
            not in it
        progress : show a bar; None: if standard error is a terminal

        Raises `InputError` for densities that are negative, not finite, or of different mass, in
        the whole or in one of the mesh's connected pieces; `ConvergenceError`, with the path so far
        in `.result`, if max_iter is not enough.
        """
        ranks = self.mesh.ranks
        free = self.terminal is not None
        ranks.check(
            (rho1 is None) == free,
            "rho1 and a terminal energy exclude each other: with terminal=, call solve(rho0)"
            if free
            else "solve needs rho0 and rho1, unless BenamouBrenier has a terminal energy",
        )
        rho0, rho1 = self._checked(rho0, rho0 if free else rho1)
        difference, largest = ranks.max(np.array([np.abs(rho1 - rho0).max(), rho0.max()]))
        if not free and difference <= 4 * np.finfo(float).eps * largest:
            return Geodesic.at_rest(self._near, self.n_steps, rho0)
        unit = self._unit(rho0)
        if free:
            self._check_energy(rho0)
        if free and self._terminals[0].is_flat:
            return Geodesic.at_rest(
                self._near, self.n_steps, rho0, self._terminals[0].of_cells(rho0)
            )
        cascade = NestedIteration(
            self._levels,
            self._terminals,
            rho0 / unit,
            rho1 / unit,
            tol=self.tol,
            max_iter=self.max_iter,
            dtype=PRECISIONS[self.precision],
        )
        keeper = CheckpointManager(
            checkpoint, self._near.mesh, None if checkpoint is None else self._described(rho0, rho1)
        )
        with Progress(0, self.max_iter, progress, "iteration") as bar, keeper:
            for k in cascade.run(keeper.saved):
                bar.to(k)
                if keeper.is_due():
                    keeper.keep(*cascade.save())
            if keeper.is_on:
                keeper.write(*cascade.save())
        found = cascade.best
        used = cascade.used
        self._check_order(found)
        path = Geodesic.of(
            self._near, self._levels[0].disc, rho0 / unit, found.lower, found.upper, used, unit
        )
        if not found.gap <= self.tol:
            raise ConvergenceError(
                f"Benamou-Brenier reached a certified gap of {found.gap:.1e} > tol = "
                f"{self.tol:.1e} in {used} iterations; "
                f"max_iter={iterations_to(self.tol, used, found.gap)} may do, or a larger tol; "
                "the path so far is in .result",
                path,
            )
        return path

    def _unit(self, rho0):
        """The unit of mass in which a path is looked for: a power of 2, 1 unless squares of masses
        would leave floating point.

        W2^2 is proportional to the mass; what is found with a terminal energy is not.
        """
        mass = self._near.mesh.integrate(rho0)
        low, high = MASSES if self.terminal is None else (1 / LARGE, LARGE)
        if not low <= mass <= high:
            remedy = (
                "the densities, such as to mass 1: W2^2 is proportional to it"
                if self.terminal is None
                else "the density, such as to mass 1, and write the energy for it"
            )
            raise InputError(
                f"the mass is {mass:.6g}, beyond what floating point can square and add up: it "
                "must lie between "
                f"{low:.0e} and {high:.0e}; scale {remedy}"
            )
        return 1.0 if 1 / LARGE <= mass <= LARGE else 2.0 ** math.floor(math.log2(mass))

    def _described(self, rho0, rho1):
        """What a checkpoint knows of the problem."""
        mesh = self._near.mesh
        terminal = self._terminals[0]
        slope = (
            0.0
            if terminal is None
            else terminal.disc.spread(
                terminal.derivative(
                    terminal.disc.average(rho0 + mesh.integrate(rho0) / mesh.integrate(1.0))
                )
            )
        )
        return dict(
            solver="BenamouBrenier",
            n_steps=self.n_steps,
            energy=str(described(self.terminal)),
            rho0=fingerprint(mesh, rho0),
            rho1=fingerprint(mesh, rho1),
            slope=fingerprint(mesh, slope + 0 * rho0),
        )

    def _check_energy(self, rho0):
        terminal = self._terminals[0]
        patches = terminal.disc.average(rho0)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = terminal.of_cells(rho0), terminal.stiffness(patches)
        if not np.isfinite(numbers).all():
            raise InputError(
                f"the terminal energy of rho0 is {numbers[0]:.6g}, with curvature "
                f"{numbers[1]:.6g}: both must be "
                "finite"
            )

    @staticmethod
    def _check_order(found):
        """What holds for every convex energy: finite bounds, the lower one below the upper one but
        for round-off.
        """
        low, high = found.lower.cost, found.upper.cost
        if not np.isfinite([low, high]).all():
            raise ConvergenceError(
                f"the bounds {low:.6g} and {high:.6g} are no finite numbers: densities or the "
                "energy reach "
                "what floating point does not"
            )
        if low > high + 1e-8 * (found.upper.action + abs(found.upper.energy)):
            raise InputError(
                f"the lower bound {low:.6g} is above the cost {high:.6g}: the terminal energy is "
                "not convex in "
                "rho, infinite at 0, or its derivative is not that of its value"
            )

    def _checked(self, rho0, rho1):
        """The densities in the order of `near`; rho1 scaled to the mass of rho0, from which it
        differs by round-off, in each piece.
        """
        disc = self._levels[0].disc
        ranks = self.mesh.ranks
        for rho, name in (rho0, "rho0"), (rho1, "rho1"):
            self.mesh.check_density(rho, name)
        same = ranks.max(max(SAME, rounding_of(rho0, rho1)))
        rho0, rho1 = (self._near.inward(np.asarray(rho, float)) for rho in (rho0, rho1))
        ends = disc.average(np.stack([rho0, rho1], axis=1))
        mass = disc.masses(ends)
        total = mass.sum(axis=0)
        ranks.check(
            (total > 0).all(),
            "the densities are zero everywhere: there is nothing to move"
            if not total.any()
            else f"rho{int(total.argmin())} is zero everywhere, the other density has mass "
            f"{total.max():.6g}",
        )
        worst = int(np.abs(mass[:, 1] - mass[:, 0]).argmax())
        far = np.abs(total[1] - total[0]) > same * total[0]
        ranks.check(
            not far,
            f"rho0 has mass {total[0]:.12g}, rho1 has {total[1]:.12g}: they must be equal. "
            "mesh.density makes "
            "densities of mass 1; rho1 * mesh.integrate(rho0) / mesh.integrate(rho1) has the mass "
            "of rho0",
        )
        ranks.check(
            self.terminal is None or mass.min() > 0,
            "one of the pieces of the mesh, which do not touch, has no mass: "
            "with a terminal energy each must have some; leave it out of the mesh",
        )
        apart = np.abs(mass[worst, 1] - mass[worst, 0]) > same * total[0]
        ranks.check(
            not apart,
            f"the mesh has {len(mass)} pieces that do not touch, and one of them has mass "
            f"{mass[worst, 0]:.6g} of rho0 and {mass[worst, 1]:.6g} of rho1: nothing can move "
            "between them, so both "
            "must have the same mass in each piece",
        )
        factor = mass[:, 0] / np.where(mass[:, 1] > 0, mass[:, 1], 1)
        return rho0, rho1 * disc.spread(factor[disc.component])


def _is_count(n):
    return is_number(n) and n >= 1 and n % 1 == 0
