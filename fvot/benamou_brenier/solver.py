"""`BenamouBrenier`: dynamical optimal transport with a certified gap."""

from __future__ import annotations

import math
from copy import copy
from functools import partial
from typing import Any, get_args

import numpy as np

from ..arguments.frozen import frozen, remade
from ..arguments.functions import find_rounding, is_count, is_number
from ..arguments.types import Array, Precision, Scheme
from ..energies.checks import describe_energy
from ..energies.energy import Energy
from ..errors import ConvergenceError, InputError
from ..mesh import Mesh
from ..mesh.cell_values import check_density, integrate
from ..mesh.coordinates import refuse_radial
from ..mesh.numbering import find_numbering
from ..runs.checkpoint import Checkpoint, CheckpointManager, fingerprint
from ..runs.progress import Progress
from .choice import choose_discretisation
from .diamonds import DiamondDiscretisation
from .geodesic import Geodesic, build_geodesic, build_geodesic_at_rest
from .growth import FisherRao, Growth, TotalVariation
from .levels import build_levels
from .nested_iteration import NestedIteration, predict_iterations
from .patch_means import (
    find_correction,
    find_levelling,
    take_patch_means,
    warn_of_levelling,
    warn_of_unresolved_move,
)
from .terminal import Terminal

PRECISIONS = {"double": np.float64, "single": np.float32}

# The smallest mass: below it the densities of cells would have few digits.
SMALLEST_MASS = 1e-290

# The largest mass: above it sums would exceed the range of floating point.
LARGEST_MASS = 1e302

# Masses up to this, and down to its inverse, have squares within the range of floating point.
LARGEST_SQUARABLE_MASS = 1e140

# The same where mass may grow.
LARGEST_UNSCALED_MASS = 1e20

# Relative difference of two masses that counts as rounding, in double precision.
MASS_ROUNDING_DOUBLE = 1e-11

# Relative difference of two masses that their sums have anyway: both densities stay as they are.
MASS_SUM_ROUNDING = 1e-14

# Root mean square tangent between lines of cell points and normals, above which fluxes to corners
# converge slowly: 3 takes 200 iterations, 6 takes 300, 24 more than 1000 (mapped quadrilaterals).
THIN_TANGENT = 4.0

# Difference of lower bound and cost, relative to action and energy, that counts as rounding.
BOUND_ROUNDING = 1e-8

GROWTH_OR_TERMINAL = (
    "growth and a terminal energy exclude each other: with growth=, give both densities to "
    "solve(rho0, rho1); with terminal=, masses stay"
)

# The distance that mass can move where it may grow, in units of the size of cells, below which
# nothing moves on the mesh, and the iteration hardly converges.
SMALLEST_REACH = 1.0

# The largest length of growth, in units of the size of the domain.
LARGEST_LENGTH = 200

# The largest cost of total variation, in units of the square of that size: mass then moves through
# the whole domain, and a larger cost has the same path, but slower convergence.
LARGEST_COST = 1.0

DIFFERS_WITHIN_PATCHES = (
    "rho0 and rho1 differ little but within patches of cells, and transport resolves whole "
    "patches: refine the mesh, or make it with patches='none'"
)


@remade
@frozen
class BenamouBrenier:
    """Optimal transport between two densities on a mesh, with certified bounds of its cost.

    W2^2(rho0, rho1) = min int_0^1 int |m|^2 / rho dx dt,   d rho/dt + div m = 0,  rho(0) = rho0,
    rho(1) = rho1

    with no flux through the boundary: mass flows around obstacles; on a periodic mesh it lives on
    the torus. phi lives on cells, rho on patches (see `Mesh`); how the data differ within patches
    counts to first order. Both bounds are rigorous for this discrete problem: lower_bound <= W2^2
    <= cost. Where two-point fluxes through faces are consistent, mass flows through them; on all
    other meshes it flows to the corners of cells, with linear potentials on the simplices beside
    each face (diamonds).

    Parameters
    ----------
    mesh : Mesh
        Any mesh. Printing the solver shows the number of patches of cells and the scheme.
    n_steps : int
        Steps in time.
    tol : float
        The iteration ends when the certified gap (cost - lower_bound) / W2^2 of the path is below
        tol; cost is W2^2, or W2^2 + 2 E.
    max_iter : int
        Iterations on the mesh itself; those on coarser levels do not count.
    precision : "double" or "single"
        Precision of the iteration's arrays. "single" halves the memory and reaches gaps of about
        1e-3. Bounds are always in double precision.
    terminal : Energy, optional
        An energy E (see `fvot.Entropy`), convex in rho: then the end is free, and the path
        minimises W2^2(rho0, rho1) / 2 + E(rho1), a step of Jordan, Kinderlehrer and Otto (1998).
    growth : FisherRao or TotalVariation, optional
        How mass may be created and destroyed on its way: then the masses may differ, and one
        density may be zero. Its cost is added to the action: W2^2 is replaced by WFR^2, or by the
        cost of partial transport.
    scheme : {"auto", "two_point", "corners"}
        Fluxes through faces, or to corners. "auto": through faces where the error of W2^2 is then
        that of the resolution, as on squares, acute triangles and most Voronoi polygons
        (`mesh.quality`), and where cells are not star-shaped; else to corners. They converge on any
        mesh, with two to four times the work in the plane, and about five times on hexahedra.

    Raises
    ------
    InputError
        For parameters out of range.
    MeshError
        For scheme="corners" and cells that are not star-shaped about their centroids.

    Notes
    -----
    The method is over-relaxed alternating directions with a growing penalty, from coarse levels to
    fine ones. The coarser level predicts the number of iterations, and more follow if the gap
    requires it (Benamou, Brenier 2000; Papadakis, Peyre, Oudet 2014).

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 32)
    >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
    >>> rho1 = mesh.density(lambda x: 2 - x[0])
    >>> path = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2).solve(rho0, rho1)
    >>> path.lower_bound <= path.cost
    True
    >>> path.gap <= 1e-2
    True
    """

    def __init__(
        self,
        mesh: Mesh,
        n_steps: int = 32,
        *,
        tol: float = 1e-3,
        max_iter: int = 1000,
        precision: Precision = "double",
        terminal: Energy | None = None,
        growth: Growth | None = None,
        scheme: Scheme = "auto",
    ):
        _check_parameters(mesh, n_steps, tol, max_iter, precision, terminal, growth, scheme)
        self.mesh = mesh
        self.n_steps = int(n_steps)
        self.tol = float(tol)
        self.max_iter = int(max_iter)
        self.precision = precision
        self.terminal = terminal
        self.growth = growth

        if isinstance(growth, FisherRao):
            _check_length(mesh, growth)
        elif isinstance(growth, TotalVariation):
            _check_cost(mesh, growth)

        self._numbering = find_numbering(mesh)
        disc = choose_discretisation(self._numbering, self.n_steps, scheme, growth)
        self._n_patches = mesh.ranks.sum(disc.n_patches)
        self._levels = build_levels(disc)

        # A `Terminal` for each level, or None.
        self._terminals: list[Any] = [
            None if terminal is None else Terminal(level.disc, terminal) for level in self._levels
        ]

    def with_terminal(self, energy: Energy) -> BenamouBrenier:
        """The same solver with a terminal energy; meshes and levels are shared. Collective.

        Parameters
        ----------
        energy : Energy
            The terminal energy.

        Returns
        -------
        BenamouBrenier

        Raises
        ------
        InputError
            For anything that is not a convex energy.

        Examples
        --------
        >>> import fvot
        >>> solver = fvot.BenamouBrenier(fvot.Mesh.interval(0, 1, 16), n_steps=4)
        >>> solver.with_terminal(fvot.Entropy()).terminal
        Entropy(D=1.0)
        """
        self.mesh.ranks.check(
            isinstance(energy, Energy), f"the terminal energy must be an energy, not {energy!r:.60}"
        )
        self.mesh.ranks.check(self.growth is None, GROWTH_OR_TERMINAL)
        other = copy(self)
        terminals = [Terminal(level.disc, energy) for level in self._levels]
        vars(other).update(terminal=energy, _terminals=terminals)
        return other

    def terminal_energy(self, rho: Array) -> float:
        """E(rho), the terminal energy of the means of rho over patches. Collective.

        Parameters
        ----------
        rho : array (n_cells,)
            Cell averages of a density.

        Returns
        -------
        float

        Raises
        ------
        InputError
            Where there is no terminal energy.

        Examples
        --------
        >>> import fvot
        >>> import numpy as np
        >>> mesh = fvot.Mesh.interval(0, 1, 16)
        >>> solver = fvot.BenamouBrenier(mesh, n_steps=4, terminal=fvot.Power(2))
        >>> round(float(solver.terminal_energy(np.ones(16))), 12)
        1.0
        """
        self.mesh.ranks.check(
            self.terminal is not None, "this BenamouBrenier has no terminal energy"
        )
        return self._terminals[0].of_cells(self._numbering.inward(rho))

    def __repr__(self):
        fluxes = "fluxes to corners" if self._has_corners else "two-point fluxes"
        return (
            f"<fvot.BenamouBrenier: {self.mesh.n_cells_global} cells in {self._n_patches} patches, "
            f"{fluxes}, {self.n_steps} steps, {len(self._levels)} levels>"
        )

    @property
    def _has_corners(self):
        return isinstance(self._levels[0].disc, DiamondDiscretisation)

    def solve(
        self,
        rho0: Array,
        rho1: Array | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        progress: bool | None = None,
    ) -> Geodesic:
        """The `Geodesic` from rho0 to rho1. Collective.

        With a terminal energy there is no rho1: the solver finds the end of the path.

        Parameters
        ----------
        rho0, rho1 : arrays (n_cells,)
            Cell averages of equal mass, or of any masses with growth=.
        checkpoint : Checkpoint, optional
            A file that stores the run, and from which it continues, to the same tolerance or with
            another tol or max_iter. It does not hold the results of coarser levels.
        progress : bool, optional
            Whether to show a progress bar. None: if standard error is a terminal.

        Returns
        -------
        Geodesic

        Raises
        ------
        InputError
            For densities that are negative, not finite, or, without growth=, of different mass, in
            total or in one of the connected pieces of the mesh.
        ConvergenceError
            If max_iter is not enough; `.result` holds the path so far.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 32)
        >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
        >>> rho1 = mesh.density(lambda x: 2 - x[0])
        >>> path = fvot.BenamouBrenier(mesh, n_steps=8, tol=1e-2).solve(rho0, rho1)
        >>> path.rho.shape
        (10, 32)
        """
        rho0, rho1 = self._prepare(rho0, rho1)
        is_free = self.terminal is not None
        if not is_free and self._are_same(rho0, rho1):
            return build_geodesic_at_rest(self._numbering, self.n_steps, rho0)

        disc = self._levels[0].disc
        start = rho0
        end = rho1
        if not is_free:
            start = take_patch_means(disc, rho0)
            end = take_patch_means(disc, rho1)
            is_resolved = not self._are_same(start, end)
            self.mesh.ranks.check(is_resolved, DIFFERS_WITHIN_PATCHES)

        unit = self._choose_unit(rho0, rho1)
        if is_free:
            self._check_energy(rho0)
            if self._terminals[0].is_flat:
                energy = self._terminals[0].of_cells(rho0)
                return build_geodesic_at_rest(self._numbering, self.n_steps, rho0, energy)

        iteration = NestedIteration(
            self._levels,
            self._terminals,
            start / unit,
            end / unit,
            tol=self.tol,
            max_iter=self.max_iter,
            dtype=PRECISIONS[self.precision],
        )
        self._iterate(iteration, checkpoint, progress, rho0, rho1)
        return self._finish(iteration, rho0 / unit, rho1 / unit, unit)

    def _prepare(self, rho0, rho1):
        """Both densities, checked, in the solvers' order of cells; for a free end, rho0 twice."""
        is_free = self.terminal is not None
        self.mesh.ranks.check(
            (rho1 is None) == is_free,
            "rho1 and a terminal energy exclude each other: with terminal=, call solve(rho0)"
            if is_free
            else "solve needs rho0 and rho1, unless BenamouBrenier has a terminal energy",
        )
        return self._check_densities(rho0, rho0 if is_free else rho1)

    def _are_same(self, rho0, rho1):
        """Whether two densities (n_cells,) agree to round-off. Collective."""
        own_difference = np.abs(rho1 - rho0).max(initial=0)
        own_largest = rho0.max(initial=0)
        sizes = np.array([own_difference, own_largest])
        difference, largest = self.mesh.ranks.max(sizes)
        return difference <= 4 * np.finfo(float).eps * largest

    def _iterate(self, iteration, checkpoint, progress, rho0, rho1):
        """Run the iteration, with its checkpoints and progress bar."""
        describe = partial(self._describe, rho0, rho1)
        keeper = CheckpointManager(checkpoint, self._numbering.mesh, describe)
        with Progress(0, self.max_iter, progress, "iteration") as bar, keeper:
            for k in iteration.run(keeper.saved):
                bar.to(k)
                if keeper.is_due():
                    keeper.keep(*iteration.save())
            if keeper.is_on:
                keeper.write(*iteration.save())

    def _finish(self, iteration, rho0, rho1, unit):
        """The `Geodesic` of a finished iteration; rho0 and rho1 in units of mass."""
        reached = iteration.best
        used = iteration.used
        disc = self._levels[0].disc
        _check_order(reached)
        build = partial(
            build_geodesic, self._numbering, disc, rho0, reached.lower, reached.upper, used, unit
        )
        if self.terminal is not None:
            path = build()
            warn_of_levelling(path)
        else:
            levelling = find_levelling(disc, rho0, rho1)
            warn_of_unresolved_move(disc, rho0, rho1, levelling, reached.upper.action)
            correction = find_correction(disc, reached.lower.phi, rho0, rho1)
            self.mesh.ranks.check(reached.lower.cost + correction >= 0, DIFFERS_WITHIN_PATCHES)
            path = build(rho1, levelling, correction)

        if not reached.gap <= self.tol:
            raise ConvergenceError(
                f"Benamou-Brenier reached a certified gap of {_round_up(reached.gap)} > tol = "
                f"{self.tol:.1e} in {used} iterations; {self._advise(reached.gap, used)}, or a "
                "larger tol; the path so far is in .result",
                path,
            )

        return path

    def _advise(self, gap, used):
        """What to do about a gap that *used* iterations have left."""
        tangent = self.mesh.quality.tangent_rms
        if self._has_corners and tangent > THIN_TANGENT:
            return (
                "cells are thin and oblique (their faces are "
                f"{math.degrees(math.atan(tangent)):.0f} degrees from orthogonal, in the root mean "
                "square), which more iterations hardly help: make cells less thin, or rectangles"
            )
        return f"max_iter={predict_iterations(self.tol, used, gap)} may suffice"

    def _choose_unit(self, rho0, rho1):
        """The unit of mass of the iteration.

        It is a power of 2, and 1 unless squares of masses would overflow or underflow, or, with
        growth, masses are far from the smallest numbers that count there. W2^2 is
        proportional to the mass; with a terminal energy, the minimum is not.
        """
        mass = integrate(self._numbering.mesh, rho0)
        if self.growth is not None:
            mass = max(mass, integrate(self._numbering.mesh, rho1))
        if self.terminal is None:
            low = SMALLEST_MASS
            high = LARGEST_MASS
            remedy = "the densities, such as to mass 1: W2^2 is proportional to it"
        else:
            low = 1 / LARGEST_SQUARABLE_MASS
            high = LARGEST_SQUARABLE_MASS
            remedy = "the density, such as to mass 1, and write the energy for it"
        if not low <= mass <= high:
            raise InputError(
                f"the mass is {mass:.6g}, whose square is beyond the range of floating point: it "
                f"must lie between {low:.0e} and {high:.0e}; scale {remedy}"
            )

        unscaled = LARGEST_SQUARABLE_MASS if self.growth is None else LARGEST_UNSCALED_MASS
        if 1 / unscaled <= mass <= unscaled:
            return 1.0

        return 2.0 ** math.floor(math.log2(mass))

    def _describe(self, rho0, rho1):
        """The description of the problem in a checkpoint."""
        mesh = self._numbering.mesh
        terminal = self._terminals[0]
        slope = 0.0
        if terminal is not None:
            disc = terminal.disc
            sample = disc.average(rho0 + integrate(mesh, rho0) / terminal.measure)
            slope = disc.spread(terminal.derivative(sample))

        return dict(
            solver="BenamouBrenier",
            scheme="corners" if self._has_corners else "two_point",
            n_steps=self.n_steps,
            energy=str(describe_energy(self.terminal)),
            rho0=fingerprint(mesh, rho0),
            rho1=fingerprint(mesh, rho1),
            slope=fingerprint(mesh, slope + 0 * rho0),
            growth=repr(self.growth),
        )

    def _check_energy(self, rho0):
        """Raise `InputError` unless the terminal energy of rho0 and its curvature are finite."""
        terminal = self._terminals[0]
        patches = terminal.disc.average(rho0)
        with np.errstate(over="ignore", invalid="ignore"):
            value = terminal.of_cells(rho0)
            curvature = terminal.stiffness(patches)

        if not np.isfinite([value, curvature]).all():
            raise InputError(
                f"the terminal energy of rho0 is {value:.6g}, with curvature {curvature:.6g}: both "
                "must be finite"
            )

    def _check_densities(self, rho0, rho1):
        """The densities in the solvers' order of the cells.

        rho1 is scaled to the mass of rho0 in each piece, from which it may differ by the round-off
        of single precision, too.
        """
        disc = self._levels[0].disc
        ranks = self.mesh.ranks
        for rho, name in (rho0, "rho0"), (rho1, "rho1"):
            check_density(self.mesh, rho, name)

        rounding = ranks.max(max(MASS_ROUNDING_DOUBLE, find_rounding(rho0, rho1)))
        rho0 = self._numbering.inward(np.asarray(rho0, float))
        rho1 = self._numbering.inward(np.asarray(rho1, float))
        columns = np.stack([rho0, rho1], axis=1)
        mass = disc.masses(disc.average(columns))
        self._check_masses(mass, rounding)

        if self.growth is not None:
            return rho0, rho1

        mass0, mass1 = mass.T
        is_same = np.abs(mass1 - mass0) <= MASS_SUM_ROUNDING * mass0
        factor = np.where(is_same, 1, mass0 / np.where(mass1 > 0, mass1, 1))
        return rho0, rho1 * disc.spread(factor[disc.component])

    def _check_masses(self, mass, rounding):
        """Raise `InputError` unless the masses (n_components, 2) of both ends are the same.

        With growth, one of them may be anything.
        """
        ranks = self.mesh.ranks
        total = mass.sum(axis=0)
        may_grow = self.growth is not None
        ranks.check(
            total.any() if may_grow else total.all(),
            "the densities are zero everywhere: there is nothing to move"
            if not total.any()
            else f"rho{int(total.argmin())} is zero everywhere, the other density has mass "
            f"{total.max():.6g}; growth=fvot.FisherRao(delta) creates and destroys mass",
        )
        if may_grow:
            return

        differs = np.abs(total[1] - total[0]) > rounding * total[0]
        ranks.check(
            not differs,
            f"rho0 has mass {total[0]:.12g}, rho1 has {total[1]:.12g}: they must be equal. "
            "mesh.density makes densities of mass 1; "
            "rho1 * mesh.integrate(rho0) / mesh.integrate(rho1) has the mass of rho0. Where mass "
            "is created and destroyed on its way, BenamouBrenier(mesh, "
            "growth=fvot.FisherRao(delta)) takes any masses",
        )
        ranks.check(
            self.terminal is None or mass.min() > 0,
            "one of the pieces of the mesh, which do not touch, has no mass: "
            "with a terminal energy each must have some; leave it out of the mesh",
        )

        differences = np.abs(mass[:, 1] - mass[:, 0])
        worst = int(differences.argmax())
        piece_differs = differences[worst] > rounding * total[0]
        ranks.check(
            not piece_differs,
            f"the mesh has {len(mass)} pieces that do not touch, and one of them has mass "
            f"{mass[worst, 0]:.6g} of rho0 and {mass[worst, 1]:.6g} of rho1: nothing can move "
            "between them, so both must have the same mass in each piece, unless mass may grow: "
            "growth=fvot.FisherRao(delta)",
        )


def _check_parameters(mesh, n_steps, tol, max_iter, precision, terminal, growth, scheme):
    if not isinstance(mesh, Mesh):
        raise InputError(
            "BenamouBrenier needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), not "
            f"{mesh!r:.60}"
        )

    refuse_radial(mesh, "optimal transport", "take one in Cartesian coordinates")
    ranks = mesh.ranks
    ranks.check_choice("scheme", scheme, get_args(Scheme))
    ranks.check(is_count(n_steps), f"n_steps must be a whole number from 1 on, not {n_steps!r}")
    ranks.check(
        is_number(tol) and 0 < tol < 1,
        f"tol must be a relative gap between 0 and 1, such as 1e-3, not {tol!r}",
    )
    ranks.check(is_count(max_iter), f"max_iter must be a whole number from 1 on, not {max_iter!r}")
    ranks.check(
        precision in PRECISIONS, f"precision must be 'double' or 'single', not {precision!r}"
    )
    ranks.check(
        terminal is None or isinstance(terminal, Energy),
        "terminal must be an energy, such as fvot.Entropy() or "
        f"0.1 * fvot.Power(2), or None, not {terminal!r:.60}",
    )
    ranks.check(
        growth is None or isinstance(growth, FisherRao | TotalVariation),
        "growth must be fvot.FisherRao(delta), such as fvot.FisherRao(0.2), "
        "fvot.TotalVariation(kappa), or None, not "
        f"{growth!r:.60}",
    )
    ranks.check(growth is None or terminal is None, GROWTH_OR_TERMINAL)
    ranks.check_same(
        "the parameters of BenamouBrenier",
        (n_steps, tol, max_iter, precision, describe_energy(terminal), growth),
    )


def _check_length(mesh, growth):
    """Raise `InputError` unless the length of growth suits the mesh."""
    cell = _find_cell_size(mesh)
    reach = np.pi * growth.delta
    mesh.ranks.check(
        reach > SMALLEST_REACH * cell,
        f"growth: with delta = {growth.delta:.3g} mass moves at most pi delta = {reach:.3g}, and "
        f"cells are {cell:.3g} wide: nothing would move. Take a larger delta, or a finer mesh; "
        "without motion WFR^2 is 4 delta^2 int (rho1^(1/2) - rho0^(1/2))^2",
    )
    size = np.ptp(mesh.bounds, axis=0).max()
    mesh.ranks.check(
        growth.delta < LARGEST_LENGTH * size,
        f"growth: delta = {growth.delta:.3g} is more than {LARGEST_LENGTH:g} times the size of the "
        f"domain, {size:.3g}: growth would cost so much that only masses count. Take a smaller "
        "delta, or scale rho1 to the mass of rho0 and leave growth out",
    )


def _check_cost(mesh, growth):
    """Raise `InputError` unless the cost of growth by total variation suits the mesh."""
    cell = _find_cell_size(mesh)
    reach = 2 * math.sqrt(growth.kappa)
    mesh.ranks.check(
        reach > SMALLEST_REACH * cell,
        f"growth: with kappa = {growth.kappa:.3g} mass moves at most 2 kappa^(1/2) = {reach:.3g}, "
        f"and cells are {cell:.3g} wide: nothing would move. Take a larger kappa, or a finer mesh; "
        "without motion the cost is 2 kappa int |rho1 - rho0|",
    )
    size = np.ptp(mesh.bounds, axis=0).max()
    largest = LARGEST_COST * size**2
    mesh.ranks.check(
        growth.kappa <= largest,
        f"growth: kappa = {growth.kappa:.3g} is more than the square of the size of the domain, "
        f"{size:.3g}: with kappa = {largest:.3g} mass moves up to twice that size already, and the "
        "path is the same. Take that, and add 2 kappa |difference of the masses| for the rest of "
        "kappa to the cost; or leave growth out where the masses are equal",
    )


def _round_up(gap):
    """A gap to two digits, rounded up: it is above tol then, too."""
    if not (math.isfinite(gap) and gap > 0):
        return f"{gap:.1e}"

    unit = 10.0 ** (math.floor(math.log10(gap)) - 1)
    return f"{math.ceil(gap / unit) * unit:.1e}"


def _find_cell_size(mesh):
    """The side of a cube of the mean volume of the cells."""
    return (integrate(mesh, 1.0) / mesh.n_cells_global) ** (1 / mesh.dim)


def _check_order(reached):
    """Raise unless the bounds are finite, and the lower one is below the upper one.

    Both hold for every convex energy, the latter up to round-off.
    """
    low, high = reached.lower.cost, reached.upper.cost
    if not np.isfinite([low, high]).all():
        raise ConvergenceError(
            f"the bounds {low:.6g} and {high:.6g} are not finite: densities or the energy exceed "
            "the range of floating point"
        )

    if low > high + BOUND_ROUNDING * (reached.upper.action + abs(reached.upper.energy)):
        raise InputError(
            f"the lower bound {low:.6g} is above the cost {high:.6g}: the terminal energy is not "
            "convex in rho, infinite at 0, or its derivative is not that of its value"
        )
