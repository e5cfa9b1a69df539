"""`JKO`: Wasserstein gradient flows d rho/dt = div(rho grad E'(rho)).

The energy falls in every step, however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ..arguments.frozen import frozen, remade
from ..arguments.functions import is_number
from ..arguments.times import check_step, check_times
from ..arguments.types import Array, ArrayLike, Path, Scheme
from ..energies.checks import depends_on_time, describe_energy
from ..energies.energy import Energy, split_sum
from ..energies.free_energy import FreeEnergy
from ..energies.interaction import Interaction
from ..energies.local import Potential
from ..errors import InputError, MeshError, warn
from ..mesh import Mesh, Numbering, quality
from ..mesh.cell_values import check_density
from ..mesh.connected_pieces import find_connected_pieces
from ..mesh.numbering import find_numbering
from ..output.series import Output
from ..runs.checkpoint import Checkpoint
from ..runs.march import march
from ..runs.result import Result
from .corner_step import CornerStep
from .doors import Doors, check_doors
from .linearised_step import LinearisedStep
from .midpoint_step import MidpointStep
from .proper_step import ProperStep, TransportSolver
from .run import JKORun
from .step import StepMethod

# Which density carries the mass through a face.
Mobility = Literal["upwind", "limited"]

# The part of its upper bound by which a density may be above it at the start: the rounding of a
# density that is computed to lie at the bound.
BOUND_TOLERANCE = 1e-9


@remade
@frozen
class JKO:
    """The gradient flow d rho/dt = div(rho grad E'(rho)) of an energy in the Wasserstein metric.

    Every step conserves mass to round-off and keeps the density >= 0, for every tau. Boundaries are
    no-flux, but for doors; a periodic mesh is a torus. Masses only move, and leave through doors:
    there is neither growth nor a source, as the metric compares densities of one mass.
    `FokkerPlanck` has both for Entropy and Potential, `ContinuityEquation` for a given velocity;
    for other energies take turns of `step` and your own growth.

    Parameters
    ----------
    mesh : Mesh
        Any mesh.
    energy : Energy
        A sum of multiples of `Entropy` (diffusion), `Power` (porous media, fast diffusion),
        `Potential` (drift), `Interaction` (attraction, repulsion), and energies of your own (see
        `fvot.Energy`). A potential may depend on time, V(x, t).
    order : {1, 2}, optional
        Order of the steps. 2: discrete-gradient midpoint steps: the energy lost is exactly what
        their fluxes dissipate; where nothing diffuses they are upwind, of first order in space.
        Steps of order 2 may oscillate around the steady state if they are long. 1: one-step JKO
        with a linearised metric, which converges monotonically to the steady state for any step
        size. None: 2 if something diffuses and there is no upper bound, else 1.
    bounds : (0, upper)
        rho <= upper everywhere, by a pressure p >= 0 where the bound is reached. (0, None): no
        upper bound.
    boundary : dict, optional
        {name: fvot.outflow} for doors: mass leaves through that part of the boundary, and none
        enters. Outside there is nobody, and no pressure: e' at density 0, which must be finite, as
        it is for `Power` above 1 and for an upper bound. Every other part is a wall. Doors have
        two-point fluxes, and no `Interaction`.
    inner : BenamouBrenier, optional
        A transport solver of the same mesh, without a terminal energy. Each step is then the full
        variational JKO step, which minimises W2^2(rho, rho_n) / (2 tau) + E(rho), with a certified
        gap. It is slow, a reference; it needs a tau, no bounds and no interactions.
    mobility : {"upwind", "limited"}
        Which density carries the mass through a face, in steps of order 1. "upwind": that of the
        cell which gives; of first order in space, and fronts spread. "limited": a limited linear
        one, for sharp fronts; of second order in space, and in time where nothing diffuses and
        potentials are steady. Mass, sign, bound, pressure and the decay of the energy are kept as
        with "upwind".
    scheme : {"auto", "two_point", "corners"}
        "two_point" fluxes are consistent where the lines between cell points are orthogonal to the
        faces. "corners" takes fluxes from cells to their corners, with unknowns there: of second
        order on any mesh whose cells are star-shaped about their centroids, for order 2 without an
        upper bound. Energies are then taken at the centroids: compare cell averages, or values
        there. "auto": two-point fluxes where they are consistent, else corners; and two-point
        fluxes, with a warning of how large the error may be, where corners cannot be.
    tol : float
        The largest estimated error in time of a whole run with tau=None, in L1 relative to the
        mass. It is an estimate, not a bound.

    Raises
    ------
    InputError
        For input of the wrong kind or range.

    Notes
    -----
    Order 1 is the scheme of Cances, Gallouet, Todeschi (2020), with the pressure of Maury,
    Roudneff-Chupin, Santambrogio (2010) for an upper bound. With tau=None a run takes several times
    1/tol steps of order 1, which are not shorter than tol times the elapsed time: where cells fill
    up, the density has a kink in time, however short the step is.

    At a door mass leaves down the difference between the potential in the cell and V at the face,
    with the density of the cell: it has velocity -grad(V + p), with p = 0 at the door. A crowd
    without pressure, in a potential alone, waits before the door for about one step of order 1.

    PETSc's options reach the linear solves by the prefix ``fvot_jko_``.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
    >>> flow = fvot.JKO(mesh, fvot.Entropy() + fvot.Potential(lambda x: x[0]))
    >>> result = flow.solve(mesh.density(lambda x: 1 + x[0]), [0, 0.1], tau=0.05)
    >>> bool(result.ledger["energy"][1] < result.ledger["energy"][0])
    True
    """

    def __init__(
        self,
        mesh: Mesh,
        energy: Energy,
        *,
        order: Literal[1, 2] | None = None,
        bounds: Sequence[float | None] = (0, None),
        boundary: Mapping[Any, Any] | None = None,
        inner: TransportSolver | None = None,
        mobility: Mobility = "upwind",
        scheme: Scheme = "auto",
        tol: float = 1e-3,
    ):
        if not isinstance(mesh, Mesh):
            raise InputError(
                f"JKO needs a mesh, such as fvot.Mesh.rectangle(0, 1, (64, 64)), not {mesh!r:.60}"
            )
        _check_energy_order_and_tol(mesh.ranks, energy, order, tol)
        mesh.ranks.check_choice("scheme", scheme, get_args(Scheme))
        mesh.ranks.check_choice("mobility", mobility, get_args(Mobility))

        self.mesh = mesh
        self.energy = energy
        self.mobility = mobility
        self.tol = float(tol)
        self.upper = _check_bounds(mesh.ranks, bounds)
        self.inner = inner
        self.boundary = {} if boundary is None else boundary
        self._door_names = check_doors(mesh, self.boundary)
        self._check_doors(scheme)

        self._doors: Doors | None = None
        self._free_energy: FreeEnergy | None = None
        self._step: StepMethod
        if inner is not None:
            self._check_inner(order, mobility)
            self._numbering = Numbering(mesh, mesh)
            self.order = 1
            self._step = ProperStep(inner, energy)
            return

        self._numbering = find_numbering(mesh)
        is_bounded = self.upper < math.inf
        self.order = order or (2 if _diffuses(energy) and not is_bounded else 1)
        mesh.ranks.check(
            self.order == 1 or not is_bounded,
            "an upper bound needs order=1 (or None): steps of order 2 do not support one",
        )
        mesh.ranks.check(
            self.order == 1 or mobility == "upwind",
            "mobility='limited' needs order=1: steps of order 2 have the mean mobility where "
            "something diffuses, and need none where nothing does, as limited steps of order 1 are "
            "of second order there",
        )
        mesh.ranks.check(
            self.order == 2 or scheme != "corners",
            "scheme='corners' needs order=2: steps of order 1, and those with an upper bound, have "
            "two-point fluxes",
        )
        self._build_step(scheme)

    def _build_step(self, scheme):
        """Take fluxes to corners for order 2 on meshes that are not made for two-point ones."""
        mesh = self.mesh
        report = mesh.quality
        if scheme == "corners" or (
            scheme == "auto"
            and self.order == 2
            and not report.suits_two_point
            and not self._door_names
        ):
            try:
                energy = FreeEnergy(self._numbering, self.energy, mesh.centroid)
                self._step = CornerStep(energy)
                self._free_energy = energy
                return
            except MeshError as error:
                if scheme == "corners":
                    raise
                if mesh.ranks.is_root:
                    warn(f"two-point fluxes are used: {error}")

        what = "a gradient flow with steps of order 1" if self.order == 1 else "scheme='two_point'"
        problem = report.diffusion_problem or self._describe_coincidence()
        quality.use_two_point(mesh, what, problem)
        energy = FreeEnergy(self._numbering, self.energy)
        self._free_energy = energy
        self._doors = Doors(energy, self._door_names)
        if self.order == 2:
            self._step = MidpointStep(energy, doors=self._doors)
        else:
            self._step = LinearisedStep(
                energy, self.upper, doors=self._doors, limited=self.mobility == "limited"
            )

    def _describe_coincidence(self):
        """A sentence on steps of order 1 where cell points coincide; empty if that does no harm."""
        n_coincident = self.mesh.quality.n_coincident
        is_carried = any(
            isinstance(part, (Potential, Interaction)) for _, part in split_sum(self.energy)
        )
        is_corrected = self.mobility == "limited" and self.upper == math.inf
        if self.order == 2 or is_corrected or not n_coincident or not is_carried:
            return ""
        return (
            f"the points of two cells coincide at {n_coincident} faces of this mesh, like those "
            "of the two halves of a rectangle: transport by a potential or an interaction does "
            "not converge there with steps of order 1 (errors of 100 % were measured), except with "
            "mobility='limited' and without an upper bound, or below half of it; take that, "
            "order=2 where something diffuses, ContinuityEquation with the velocity -grad V "
            "where nothing does, or a mesh of acute triangles"
        )

    def __repr__(self) -> str:
        bound = "" if self.upper == math.inf else f", rho <= {self.upper:g}"
        parts = " + ".join(
            f"{weight:g} {kind}({', '.join(f'{x:g}' for x in numbers)})"
            for weight, kind, numbers in describe_energy(self.energy)
        )
        mobility = "" if self.mobility == "upwind" else f", {self.mobility} mobility"
        doors = f", doors {', '.join(map(str, self._door_names))}" if self._door_names else ""
        return (
            f"<fvot.JKO: {parts}{bound}{doors}, order {self.order}{mobility}, "
            f"{self.mesh.n_cells_global} cells>"
        )

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
            errors in time add up to about `tol`. Either way a step is cut where Newton's method
            needs too many iterations.
        checkpoint : Checkpoint, optional
            A file that stores the run, and from which it continues, to the same numbers up to the
            solver's tolerance.
        write : path or Output, optional
            A series for ParaView that is written during the run.
        progress : bool, optional
            Whether to show a progress bar. None: if rank 0 writes to a terminal or a notebook.

        Returns
        -------
        Result
            Its ledger has, per time: mass, mass_error, minimum, maximum; energy and, if it is a
            sum, its parts; dissipated (since the start: with order 2, energy + dissipated is
            constant; with order 1 the sum of the steps' W2^2 / (2 tau), about half of the energy
            lost), dissipation (its mean rate in the last step); steps, newton (iterations),
            iterations (of linear solvers; with inner both are those of the transport solver); with
            tau=None time_error, the estimate. With inner: gap, the largest certified one so far.
            With doors: outflow, the mass that has left since the start, also through each door,
            such as "outflow:exit", and energy_outflow, the energy V + e'(0) that it had at the
            face. With a potential that depends on time: work, the integral of rho dV/dt since the
            start. Then energy + dissipated + energy_outflow - work is constant with order 2, and
            does not grow with order 1. With an upper bound the result also has a pressure.

        Raises
        ------
        InputError
            For input of the wrong shape, kind or range.
        ConvergenceError
            Where steps get too short. Its `result` has the recorded times, and the last one that
            was reached.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> flow = fvot.JKO(mesh, fvot.Entropy(), bounds=(0, 3))
        >>> result = flow.solve(mesh.density(lambda x: x[0] < 0.5), [0, 0.1, 0.2], tau=0.05)
        >>> result.rho.shape, result.pressure.shape
        ((3, 64), (3, 64))
        """
        mesh = self.mesh
        times = check_times(mesh.ranks, t)
        self._check_density(rho0, "rho0")
        check_step(mesh.ranks, tau, times)
        mesh.ranks.check(
            self.inner is None or tau is not None, "inner= needs steps of a given length: give tau="
        )
        run = self._start(rho0, times, tau)
        return march(
            run, self._numbering, times, checkpoint=checkpoint, write=write, progress=progress
        )

    def step(self, rho: ArrayLike, tau: float, t: float = 0.0) -> Array:
        """The density at t + tau from the density at t.

        In one step, or in several where Newton's method needs too many iterations.

        Parameters
        ----------
        rho : (n_cells,) array
            The density at time t.
        tau : float
            The length of the step.
        t : float
            The time at the start of the step, for potentials that depend on it.

        Returns
        -------
        (n_cells,) array
            The density at t + tau.

        Raises
        ------
        InputError
            For input of the wrong shape, kind or range.
        ConvergenceError
            Where steps get too short.

        Examples
        --------
        >>> import fvot
        >>> mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
        >>> flow = fvot.JKO(mesh, fvot.Entropy())
        >>> rho = flow.step(mesh.density(lambda x: x[0] < 0.5), 0.1)
        >>> bool(abs(mesh.integrate(rho) - 1) < 1e-14)
        True
        """
        self._check_density(rho, "rho")
        self.mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a time, not {t!r}")
        self.mesh.ranks.check(
            tau is not None, "tau must be a number above 0, not None: the time to go forward"
        )
        check_step(self.mesh.ranks, tau)

        run = self._start(rho, np.array([t, t + tau]), tau)
        for _ in run.advance(t, t + tau):
            pass
        return self._numbering.outward(run.rho)

    def _start(self, rho0, times, tau):
        return JKORun(
            self, self._step, self._numbering, rho0, times, tau, self._free_energy, self._doors
        )

    # ---- checks ---------------------------------------------------------------------------------

    def _check_doors(self, scheme):
        """`InputError` where there are doors, and what does not go with them."""
        if not self._door_names:
            return
        ranks = self.mesh.ranks
        ranks.check(
            not any(isinstance(part, Interaction) for _, part in split_sum(self.energy)),
            "with doors the energy may have no Interaction: what has left would still attract and "
            "repel; leave boundary or the Interaction out",
        )
        ranks.check(
            scheme != "corners",
            "doors have two-point fluxes: leave scheme='corners' or boundary out",
        )
        ranks.check(
            self.inner is None,
            "inner= carries mass on the mesh, and none out of it: leave boundary out",
        )

    def _check_inner(self, order, mobility):
        ranks = self.mesh.ranks
        ranks.check(
            mobility == "upwind",
            "inner= has a mobility of its own: leave mobility or inner out",
        )
        inner = self.inner
        ranks.check(
            getattr(inner, "mesh", None) is self.mesh
            and hasattr(inner, "with_terminal")
            and inner.terminal is None,
            "inner must be a fvot.BenamouBrenier of the same mesh, without a terminal energy, "
            f"not {inner!r:.80}",
        )
        ranks.check(
            getattr(inner, "growth", None) is None,
            "inner= takes no growth, as masses stay: leave growth out of the BenamouBrenier there",
        )
        ranks.check(
            order in (None, 1) and self.upper == math.inf,
            "with inner= steps are of order 1 and have no upper bound: leave order and bounds out",
        )
        ranks.check(
            not depends_on_time(self.energy),
            "with inner= a potential may not depend on time: leave inner out",
        )
        ranks.check(
            not any(isinstance(part, Interaction) for _, part in split_sum(self.energy)),
            "with inner= the energy may have no Interaction, which is not convex in rho: leave "
            "inner out",
        )

    def _check_density(self, rho, what):
        mesh = self.mesh
        upper = self.upper
        check_density(mesh, rho, what)
        largest = mesh.ranks.max(np.max(rho, initial=0.0))
        mesh.ranks.check(
            largest <= upper * (1 + BOUND_TOLERANCE),
            f"{what} reaches {largest:.6g}, above its bound {upper:.6g}: scale it, or spread it "
            "out",
        )
        if upper < math.inf:
            self._check_room(rho, what)

    def _check_room(self, rho, what):
        """`InputError` where the density fills the mesh, or a piece of it, up to its bound, and
        there is no door.
        """
        mesh = self.mesh
        piece, count = find_connected_pieces(mesh)
        is_open = np.zeros(count)
        for name in self._door_names:
            is_open[piece[mesh.left[mesh.boundary[name]]]] = 1
        sums = [np.bincount(piece, mesh.volume * u, count) for u in (rho, self.upper)]
        mass, room, n_doors = mesh.ranks.sum(np.stack([*sums, is_open]))
        mesh.ranks.check(
            ((mass < room * (1 - BOUND_TOLERANCE)) | (n_doors > 0)).all(),
            f"{what} fills the mesh, or a piece of it, up to its bound {self.upper:.6g}: nothing "
            "can move there",
        )


def _diffuses(energy):
    """Whether there is a local energy that is not a potential."""
    return any(not isinstance(part, (Potential, Interaction)) for _, part in split_sum(energy))


def _check_energy_order_and_tol(ranks: Any, energy, order, tol):
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
    ranks.check_same("every argument of JKO", (order, tol, describe_energy(energy)))


def _check_bounds(ranks: Any, bounds):
    """The upper one of two bounds, of which the lower one is 0; inf for None."""
    is_pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    ranks.check(
        is_pair
        and is_number(bounds[0])
        and bounds[0] == 0
        and (bounds[1] is None or (is_number(bounds[1]) and bounds[1] > 0)),
        f"bounds must be (0, upper) with a number upper > 0, or (0, None), not {bounds!r:.60}",
    )
    ranks.check_same("bounds", bounds)
    upper = bounds[1]
    return math.inf if upper is None else float(upper)
