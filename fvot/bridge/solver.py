"""`SchroedingerBridge`: the most likely motion between densities, against a Fokker-Planck equation.

The chain of the equation's own implicit steps is fitted to the densities (`fitting`), and again
with a reference that is tilted towards the result (`sweeps`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments.frozen import frozen
from ..arguments.functions import find_rounding, is_count, is_integer, is_number
from ..arguments.times import check_times
from ..arguments.types import Array, ArrayLike
from ..errors import ConvergenceError, warn
from ..fokker_planck.equation import FokkerPlanck
from ..fokker_planck.reference import build_reference
from ..mesh.cell_values import check_density, integrate
from ..mesh.connected_pieces import find_connected_pieces
from ..runs.progress import Progress
from .bounds import find_lower_bound, find_upper_bound, sum_potentials
from .bridge import Bridge
from .fitting import Fitting, Paths, Potentials
from .kernel import Kernel
from .sweeps import TiltedReference, build_kernels, take_log

# The resolution above which the action of the plain chain is too small by some per cent, and that
# above which sweeps of the reference converge slowly.
COARSE_RESOLUTION = 1.0
COARSE_RESOLUTION_WITH_SWEEPS = 2.0

# The tolerance of all bridges but the last one: every reference is a valid one.
REFERENCE_TOLERANCE = 1e-4

# Mass in cells where the growth of a reference was cut off, relative, above which this is said.
CUT_MASS_TOLERANCE = 1e-3

# Relative difference of two masses that counts as rounding.
SNAPSHOT_MASS_ROUNDING = 1e-11


class Fitted(NamedTuple):
    """A fitted chain, its complete potentials and paths, and the error of the densities in L1."""

    fitting: Fitting
    potentials: Potentials
    paths: Paths
    error: float


@frozen
class SchroedingerBridge:
    """The most likely motion between densities, for particles that follow an equation.

    Of all path measures pi with the given densities the one with the least relative entropy
    KL(pi | P), where P are the paths of the equation, dX = (b - grad V) dt + sqrt(2 D) dW, with
    density 1 at the start. It is rho_t = f_t g_t, with df/dt = L* f and -dg/dt = L g for the
    generator L of the equation. As D -> 0 it becomes optimal transport, and eps KL, eps = 2 D, half
    of W2^2.

    Parameters
    ----------
    equation : FokkerPlanck
        The reference, with two-point fluxes and order=2 or 1: any drift, potential, diffusion and
        mesh on which these are right. Paths may end by decay (growth below 0) and at absorbing
        boundaries: then the bridge is made of those that survive.
    n_steps : int
        Steps in time between two snapshots.
    tol : float
        The largest error in L1 of the densities at the snapshots, relative to the mass.
    sweeps : int
        Further bridges, each against a reference that is tilted towards the one before: take 1 to 3
        where `Bridge.resolution` is above about 0.3.
    deaths : bool
        Whether the last density has less mass than the first: what is missing dies, by the decay of
        the equation, or leaves through its open boundaries.

    Raises
    ------
    InputError
        For fluxes to corners, order=3, sources and inflow, and for parameters out of range.

    Notes
    -----
    Iterative proportional fitting (Sinkhorn's iteration), accelerated by Anderson's method, with
    the chain of the implicit steps. Its matrices are factorised, also on several ranks; nothing is
    ever subtracted, so that there is no need for logarithms: transition probabilities of 1e-200
    have all digits. See the page on bridges.

    PETSc's options reach the linear solves by the prefix ``fvot_bridge_``.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 64)
    >>> rho0 = mesh.density(lambda x: 1 + 0.5 * x[0])
    >>> rho1 = mesh.density(lambda x: 2 - x[0])
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
    >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho0, rho1)
    >>> bridge.marginal_error < 1e-9
    True
    """

    def __init__(
        self,
        equation: FokkerPlanck,
        n_steps: int = 32,
        *,
        tol: float = 1e-9,
        sweeps: int = 0,
        deaths: bool = False,
    ):
        self._reference = build_reference(equation)
        self._equation = equation
        self.mesh = equation.mesh
        _check_parameters(self.mesh.ranks, n_steps, tol, sweeps, deaths)
        self.n_steps = int(n_steps)
        self.tol = float(tol)
        self.sweeps = int(sweeps)
        self.deaths = bool(deaths)
        self.mesh.ranks.check(
            not (sweeps and self._reference.is_open),
            f"sweeps={sweeps} needs closed walls: towards an absorbing boundary log g is infinite; "
            "leave out boundary=, or sweeps=",
        )

    def __repr__(self) -> str:
        return (
            f"<fvot.SchroedingerBridge: {self.n_steps} steps, {self.sweeps} sweeps, tol "
            f"{self.tol:g}, {self.mesh.n_cells_global} cells>"
        )

    def solve(
        self,
        rho0: ArrayLike | Sequence[ArrayLike],
        rho1: ArrayLike | None = None,
        times: ArrayLike | None = None,
        *,
        progress: bool | None = None,
    ) -> Bridge:
        """The `Bridge` from rho0 to rho1, or through several densities. Collective.

        Parameters
        ----------
        rho0, rho1 : arrays (n_cells,)
            Cell averages of equal mass, or, with deaths, of less mass at the end. Or one sequence
            of densities, followed by their times: ``solve([rho_0, rho_1, rho_2], [0, 1, 3])``.
        times : increasing sequence, optional
            The time of each density; 0 and 1 by default for two of them.
        progress : bool, optional
            Whether to show a progress bar. None: if standard error is a terminal.

        Returns
        -------
        Bridge

        Raises
        ------
        InputError
            For densities that are negative, not finite, or of different mass, in total or in one of
            the connected pieces of the mesh.
        ConvergenceError
            Where transition probabilities underflow, or the fitting does not come to its tolerance.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.interval(0, 1, 64)
        >>> rho = [mesh.density(lambda x, c=c: 1 + c * x[0]) for c in (0.5, 1.5, 1.0)]
        >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.05)
        >>> bridge = fvot.SchroedingerBridge(equation, n_steps=8).solve(rho, [0, 1, 3])
        >>> bridge.t[[0, 8, 16]].tolist()
        [0.0, 1.0, 3.0]
        """
        densities, nodes = self._read(rho0, rho1, times)
        reference = self._reference
        rho = reference.numbering.inward(densities)
        tilted = TiltedReference(reference, nodes, self.n_steps, self.deaths)
        kernels = build_kernels(reference, nodes, self.n_steps, self.deaths)
        iterations = 0
        with Progress(0.0, self._digits * (self.sweeps + 1), progress, "digits") as bar:
            fitted = self._fit(kernels, rho, bar, 0)
            iterations += fitted.fitting.sweeps
            for sweep in range(1, self.sweeps + 1):
                tilted.add(fitted.paths.f, fitted.paths.g)
                fitted.fitting.destroy()
                fitted = self._fit(tilted.build_kernels(), rho, bar, sweep)
                iterations += fitted.fitting.sweeps

        bridge = self._build(fitted, tilted, nodes, iterations)
        fitted.fitting.destroy()
        if fitted.error > self.tol:
            raise ConvergenceError(
                f"the fitting of the densities has reached an error of {fitted.error:.1e} > tol = "
                f"{self.tol:.1e} in {fitted.fitting.sweeps} iterations: take a larger "
                "diffusion, or a larger tol; the bridge so far is in .result",
                bridge,
            )
        return bridge

    @property
    def _digits(self):
        """The digits to which the densities at the snapshots are found."""
        return -math.log10(self.tol)

    def _fit(self, kernels, rho, bar, sweep):
        """The `Fitted` bridge of the chain with these kernels. Collective."""
        done = sweep * self._digits
        tol = self.tol
        if sweep < self.sweeps:
            tol = max(tol, REFERENCE_TOLERANCE)

        def report(error: float) -> None:
            reached = -math.log10(max(error, self.tol))
            bar.to(done + max(reached, 0.0))

        fitting = Fitting(self._reference.mesh, kernels, rho, self.deaths)
        found, error = fitting.fit(tol, report)
        potentials = fitting.complete(found)
        return Fitted(fitting, potentials, fitting.trace(potentials), error)

    # ---- input ----------------------------------------------------------------------------------

    def _read(self, rho0, rho1, times):
        """(the densities (m + 1, n_cells), their times (m + 1,)), checked."""
        ranks = self.mesh.ranks
        snapshots = [rho0, rho1]
        if _is_sequence_of_densities(rho0):
            ranks.check(
                rho1 is None or times is None,
                "solve takes two densities and perhaps times, or a list of densities and times",
            )
            snapshots = list(rho0)
            times = rho1 if times is None else times
        ranks.check(
            len(snapshots) > 1 and snapshots[1] is not None,
            "a bridge needs two densities or more: solve(rho0, rho1), or "
            "solve([rho_0, ..., rho_m], times)",
        )
        ranks.check_same("the number of densities", len(snapshots))
        ranks.check(
            len(snapshots) == 2 or times is not None,
            f"{len(snapshots)} densities need as many times: solve([rho_0, ..., rho_m], times)",
        )
        times = check_times(ranks, [0.0, 1.0] if times is None else times)
        ranks.check(
            len(times) == len(snapshots),
            f"there are {len(snapshots)} densities and {len(times)} times: each needs one",
        )
        ranks.check(
            not self.deaths or len(snapshots) == 2,
            f"deaths=True is for two densities, not {len(snapshots)}: make a bridge for each pair",
        )
        for k, rho in enumerate(snapshots):
            check_density(self.mesh, rho, f"rho{k}" if len(snapshots) == 2 else f"density {k}")
        rounding = ranks.max(max(SNAPSHOT_MASS_ROUNDING, find_rounding(*snapshots)))
        densities = np.stack([np.asarray(rho, float) for rho in snapshots])
        return self._scale(densities, times, rounding), times

    def _scale(self, rho, times, rounding):
        """The densities, those behind the first scaled to its mass in each piece of the mesh, where
        they should have it.
        """
        mesh = self.mesh
        ranks = mesh.ranks
        piece, count = find_connected_pieces(mesh)
        own = np.array([np.bincount(piece, mesh.volume * density, count) for density in rho])
        mass = ranks.sum(own)
        total = mass.sum(axis=1)
        ranks.check(
            total.min() > 0,
            f"density {int(total.argmin())} is zero everywhere: there is nothing to move",
        )
        if self.deaths:
            self._check_deaths(total, times, rounding)
        if self.deaths and total[1] < (1 - rounding) * total[0]:
            return rho

        for k in range(1, len(rho)):
            difference = total[k] - total[0]
            ranks.check(
                abs(difference) <= rounding * total[0],
                f"density {k} has mass {total[k]:.12g}, density 0 has {total[0]:.12g}: they must "
                "be equal; mesh.density makes densities of mass 1. Where mass dies on the way, "
                "take deaths=True and an equation with growth below 0",
            )
            differences = np.abs(mass[k] - mass[0])
            worst = int(differences.argmax())
            ranks.check(
                differences[worst] <= rounding * total[0],
                f"the mesh has {count} pieces that do not touch, and one of them has mass "
                f"{mass[0, worst]:.6g} in density 0 and {mass[k, worst]:.6g} in density {k}: "
                "nothing can move between them, so both must have the same mass in each piece",
            )
        factors = np.divide(mass[0], mass, out=np.ones_like(mass), where=mass > 0)
        return rho * factors[:, piece]

    def _check_deaths(self, total, times, rounding):
        ranks = self.mesh.ranks
        reference = self._reference
        ranks.check(
            total[1] <= (1 + rounding) * total[0],
            f"with deaths=True rho1 must have no more mass than rho0, not {total[1]:.6g} after "
            f"{total[0]:.6g}: where mass is born, exchange both densities and read the bridge "
            "backwards in time",
        )
        ranks.check(
            reference.reactions.has_growth or reference.is_open,
            "deaths=True needs an equation in which mass is lost: growth below 0, or an open "
            "boundary such as fvot.dirichlet(0)",
        )
        _, highest = reference.reactions.find_growth_range(*times)
        ranks.check(
            highest <= 0,
            f"with deaths=True growth must be at most 0 everywhere, not {highest:.3g}",
        )

    # ---- output ---------------------------------------------------------------------------------

    def _build(self, fitted, tilted, times, iterations):
        """The `Bridge` of the last fit. Collective."""
        fitting, potentials, paths, _ = fitted
        reference = self._reference
        numbering = reference.numbering
        mesh = reference.mesh
        noise = reference.noise
        unit = 1.0 if noise is None else noise
        offset = tilted.find_cost(fitting.rho)
        cost = float(unit * (sum_potentials(fitting, potentials) + offset))
        action = None
        if noise is not None and reference.is_reversed_by_time(times):
            action = float(cost - noise / 2 * self._find_end_entropies(fitting.rho))

        log_backward = take_log(paths.g) + tilted.psi
        steps = _list_step_ends(log_backward, paths.g)
        resolution = _find_resolution(fitting, paths, log_backward)
        rho = paths.f * paths.g
        self._warn(resolution, tilted.find_cut_mass(rho))

        crossings = [
            kernel.cross(n, paths.f[k, n], paths.g[k, n + 1], potentials.at_cemetery)
            for k, kernel in enumerate(fitting.kernels)
            for n in range(self.n_steps)
        ]
        errors = np.abs(paths.marginals - fitting.rho)
        marginal_errors = integrate(mesh, errors) / integrate(mesh, fitting.rho)
        with np.errstate(over="ignore"):
            forward = _join(paths.f * np.exp(-tilted.psi))
            backward = _join(paths.g * np.exp(tilted.psi))
        has_deaths = fitting.has_deaths
        deaths = np.stack([crossing.deaths for crossing in crossings]) if has_deaths else None
        return Bridge(
            mesh=numbering.user_mesh,
            t=_list_times(times, self.n_steps),
            rho=numbering.outward(_join(rho)),
            flux=np.stack([crossing.flux for crossing in crossings]),
            forward=numbering.outward(forward),
            backward=numbering.outward(backward),
            cost=cost,
            action=action,
            lower_bound=float(unit * (find_lower_bound(fitting, potentials, paths) + offset)),
            upper_bound=float(unit * (find_upper_bound(fitting, potentials, paths) + offset)),
            resolution=resolution,
            marginal_error=float(marginal_errors.max()),
            iterations=iterations,
            deaths=None if deaths is None else numbering.outward(deaths),
            _log_backward=numbering.outward(steps),
            _reference=reference,
        )

    def _find_end_entropies(self, rho):
        """H(rho_0) + H(rho_m), in the form that `Bridge.action` says. Collective."""
        mesh = self._reference.mesh
        gibbs = self._reference.find_gibbs()
        ends = rho[[0, -1]]
        logs = np.log(np.where(ends > 0, ends, 1.0))
        entropies = integrate(mesh, ends * logs).sum()
        if gibbs is not None:
            entropies += integrate(mesh, (ends[1] - ends[0]) * gibbs)
        return entropies

    def _warn(self, resolution, cut_mass):
        if not self.mesh.ranks.is_root:
            return
        limit = COARSE_RESOLUTION_WITH_SWEEPS if self.sweeps else COARSE_RESOLUTION
        if resolution > limit:
            remedy = "a finer mesh or a larger diffusion"
            if not self.sweeps:
                remedy = f"sweeps=2, {remedy}"
            warn(
                f"the bridge moves fast against its noise: its resolution h |v| / eps is "
                f"{resolution:.2g}, and costs are too small by several per cent above {limit:g}; "
                f"take {remedy}"
            )
        if cut_mass > CUT_MASS_TOLERANCE:
            warn(
                f"the reference of the last sweep was cut off where {cut_mass:.1e} of the mass is: "
                "take more steps, or a finer mesh"
            )


def _check_parameters(ranks, n_steps, tol, sweeps, deaths):
    ranks.check(is_count(n_steps), f"n_steps must be a whole number from 1 on, not {n_steps!r}")
    ranks.check(
        is_number(tol) and 1e-13 <= tol < 1,
        f"tol must lie between 1e-13 and 1 (the error of the densities, relative), not {tol!r}",
    )
    ranks.check(
        is_integer(sweeps) and sweeps >= 0,
        f"sweeps must be a whole number from 0 on, not {sweeps!r}",
    )
    ranks.check(isinstance(deaths, bool), f"deaths must be True or False, not {deaths!r}")
    ranks.check_same("the parameters of SchroedingerBridge", (n_steps, tol, sweeps, deaths))


def _is_sequence_of_densities(rho):
    if isinstance(rho, (list, tuple)):
        return len(rho) > 0 and np.ndim(rho[0]) > 0
    return np.ndim(rho) == 2


def _list_times(times, n_steps):
    """The nodes (m n_steps + 1,) between the times (m + 1,) of snapshots."""
    parts = [
        begin + (end - begin) * np.arange(n_steps) / n_steps for begin, end in zip(times, times[1:])
    ]
    return np.concatenate([*parts, times[-1:]])


def _join(values):
    """Values (m, n_steps + 1, n_cells) at the nodes (m n_steps + 1, n_cells): those at the begin of
    each part, and the last ones.
    """
    m, n, n_cells = values.shape
    return np.concatenate([values[:, :-1].reshape(m * (n - 1), n_cells), values[-1, -1:]])


def _list_step_ends(logs, g):
    """log g (m n_steps, 2, n_cells) at both ends of each step, of logs and g at the nodes (m,
    n_steps + 1, n_cells); where g is 0 at a snapshot, that before.
    """
    m, n, n_cells = logs.shape
    last = np.where(g[:, -1] > 0, logs[:, -1], logs[:, -2])
    ends = np.concatenate([logs[:, 1:-1], last[:, None]], axis=1)
    return np.stack([logs[:, :-1], ends], axis=2).reshape(m * (n - 1), 2, n_cells)


def _find_resolution(fitting: Fitting, paths: Paths, log_backward: Array) -> float:
    """The root of sum w d^4 / sum w d^2 over faces and nodes, d the difference of log g across a
    face, w the mass that crosses it in both directions. Collective.
    """
    mesh: Any = fitting.mesh
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    own = mesh.face_owned[:n]
    sums = np.zeros(2)
    for k, kernel in enumerate(fitting.kernels):
        sums += _sum_differences(kernel, paths, log_backward, k, left, right, own)
    fourth, second = mesh.ranks.sum(sums)
    return math.sqrt(fourth / second) if second > 0 else 0.0


def _sum_differences(
    kernel: Kernel, paths: Paths, logs: Array, k: int, left: Array, right: Array, own: Array
) -> Array:
    sums = np.zeros(2)
    for i, step in enumerate(kernel.steps):
        mesh: Any = step.mesh
        rates = step.rates
        rho = mesh.with_ghosts(paths.f[k, i] * paths.g[k, i])
        local = mesh.with_ghosts(logs[k, i])
        change = local[right] - local[left]
        n = len(left)
        crossing = own * (rates.a[:n] * rho[left] + rates.b[:n] * rho[right])
        sums += [crossing @ change**4, crossing @ change**2]
    return sums
