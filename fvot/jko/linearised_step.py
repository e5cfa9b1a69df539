"""The linearised JKO step (LJKO), of first order: E decreases in every step, however long.

With or without an upper bound, it solves

    min over 0 <= rho <= upper of   1 / (2 tau) |rho - old|^2_rho + E(rho)

with the weighted H^-1 norm in place of W2, its mobility upwind (Cances, Gallouet, Todeschi 2020).
With the potential phi, whose gradient is minus the velocity, the pressure p and t_s = |s| / d_s,
the optimum obeys

    F1 = |K| (rho_K - old_K) + tau sum of t_s (phi_left - phi_right) rho_giving out of K = 0
    F2 = |K| (e'(rho) + V + W * (rho + old) / 2 + p - phi - tau H(phi))_K = 0
    H_K(phi) = 1 / (2 |K|) sum over the faces by which K gives of t_s (phi_K - phi_other)^2
    p >= 0,  rho <= upper,  p (upper - rho) = 0    (Maury, Roudneff-Chupin, Santambrogio 2010)

At a door (`doors`) phi_other is the potential outside: what leaves takes it along.

F1 = A(phi) rho - |K| old, where A is an M-matrix (`streams`): rho >= 0 for every phi, and phi is
also defined in the vacuum. Then

    E(old) - E(rho) >= tau / 2 sum_s t_s rho_giving (phi_left - phi_right)^2

plus, at doors, what leaves times the potential outside. For limited mobilities `limited_transport`
corrects rho and the fluxes of this step; p stays as it is.

Newton's method has a set of *full* cells, where rho = upper and p is unknown; elsewhere p = 0 and
rho is unknown. The next set consists of the cells with p > 0 or rho > upper: a primal-dual active
set (Hintermueller, Ito, Kunisch 2002). As dF2/dphi = -A^T, with D = 1 / (|K| e''), D = 0 in full
cells, and L the Laplacian with weights t_s rho_giving,

    (A D A^T + tau L) dphi = -F1 + A D F2
    drho = D (A^T dphi - F2)
    |K| dp = A^T dphi - F2 in full cells

Where nothing diffuses, D is infinite in the other cells: F2 = 0 determines dphi there from dphi = v
in the full ones, by a sweep against the streams, dphi = E v + w. There remains a symmetric positive
system for v alone, preconditioned by its own tau L:

    E^T tau L E v = -E^T (F1 + tau L w)
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numba
import numpy as np
from scipy import sparse

from .. import linalg
from ..arguments.types import Array, BoolArray, IntArray
from ..energies.free_energy import MIN_NEWTON_FACTOR, NEWTON_FLOOR, FreeEnergy
from ..errors import ConvergenceError
from ..finite_volume.rates import Rates
from ..mesh.cell_values import integrate
from .doors import Doors
from .limited_transport import LimitedTransport, UpwindStep
from .newton_step import NewtonStep
from .newton_systems import RESIDUAL_ROUNDING
from .step import StepResult
from .streams import Streams

# The smallest e'', relative to the change of e' when the density changes by its mean.
MIN_CURVATURE = 1e-10

# Iterations of Newton's method, before the step is refused. They grow with the cells that a front
# crosses in the step, to 60 for seventy cells; several shorter steps take more of them together.
MAX_LINEARISED_ITERATIONS = 100

# Iterations of Newton's method without a smaller residual, before the step is refused. The first
# residual does not count: at phi = 0 it is 1 by its scale; those that follow start above it in long
# steps.
MAX_STALLED_ITERATIONS = 12

# Cells up to which the matrix is factorised at once.
FIRST_LU_CELL_LIMIT = 4000

# Cells up to which the matrix is factorised where incomplete factors fail, in one dimension. In
# more, the factors of A D A^T, which links cells two faces apart, cost more than multigrid.
LINE_LU_CELL_LIMIT = 10**7

# Cells up to which the matrix of the reduced system is factorised.
REDUCED_LU_CELL_LIMIT = 20_000

# The part of the upper bound by which a cell that counts as full may be below it.
FULL_CELL_TOLERANCE = 1e-6

# The least density in the Laplacian of the pressure, as a part of the largest one: no weight is 0
# where full cells end.
MIN_PRESSURE_DENSITY = 1e-8

# The two-point distance, relative to the size of the cells, that limited steps give to cells with
# their points in one place where nothing diffuses: first one that changes pressures by 1 %, then,
# where Newton's method fails, one with which it succeeds.
PLACE_DISTANCES = (0.01, 0.1)


class LinearisedStep(NewtonStep):
    """rho after a step from old, (n_cells,) each, for a `FreeEnergy`. Collective.

    upper : bound of the density, inf for none
    tol : largest residual of the equations, in L1, relative to the mass at first, and to the
        energies in what is there
    transport : corrects steps by `limited_transport`; None for upwind ones
    """

    order = 1

    def __init__(
        self,
        free_energy: FreeEnergy,
        upper: float = math.inf,
        tol: float = 1e-12,
        doors: Doors | None = None,
        limited: bool = False,
    ):
        super().__init__(free_energy, tol, doors)
        self.upper = upper
        self.transport = (
            LimitedTransport(free_energy, upper, self.doors, self.pattern.stencil)
            if limited
            else None
        )
        self._transmissibilities = [self.transmissibility]
        if self.transport is not None and not free_energy.diffuses:
            self._transmissibilities = self._separate_places()
        self.methods, self.reduced_methods = _choose_methods(self.mesh)
        self._square_sum = linalg.SquareSum(self.mesh.ranks)
        self._summed_order: IntArray | None = None
        self.restart()

    def _separate_places(self):
        """The transmissibilities (n_inner,) to try one after the other."""
        transport = self.transport
        if not transport.has_coincident:
            return self._transmissibilities
        mesh = self.mesh
        n = mesh.n_inner
        size = mesh.with_ghosts(mesh.volume ** (1 / mesh.dim))
        smaller = np.minimum(size[mesh.left[:n]], size[mesh.right[:n]])
        far = np.where(transport.coincident[:n], smaller, 0.0)
        return [mesh.area[:n] / np.maximum(mesh.distance[:n], d * far) for d in PLACE_DISTANCES]

    def restart(self) -> None:
        """Forget earlier steps."""
        super().restart()
        self._last = np.zeros((2, self.mesh.n_cells))  # phi and p of the last step

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return super().save() | dict(cells=dict(last=self._last))

    def restore(self, kept: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        super().restore(kept)
        self._last = kept["cells"]["last"]

    def __call__(self, old: Array, tau: float) -> StepResult:
        """The `StepResult` of length tau. Raises `ConvergenceError`."""
        mesh = self.mesh
        mass = integrate(self.mesh, old)
        if mass == 0:
            nothing = 0.0 * self.doors.potential
            return StepResult(old, 0.0, 0, np.zeros(mesh.n_cells), nothing)

        self.first_mass = max(self.first_mass, mass)
        self.solver.begin(tau)

        # Pressure in all full cells at once: where a crowd comes to a halt, it would otherwise
        # spread by one cell in each iteration.
        is_full = old >= (1 - FULL_CELL_TOLERANCE) * self.upper
        p = self._last[1]
        p = np.where(is_full, np.maximum(p, np.finfo(float).tiny), p)

        starts = self._list_starts()
        *others, last = [(t, start) for t in self._transmissibilities for start in starts]
        for self.transmissibility, start in others:
            try:
                return self._run_newton(old, tau, mass, start, p)
            except ConvergenceError:
                pass
        self.transmissibility, start = last
        return self._run_newton(old, tau, mass, start, p)

    def _list_starts(self):
        """[(a potential (n_cells,) from which to start, how many iterations to take at least)], one
        to be tried after the other: that of the last step; then, without a bound, 0.

        In a very short step the equations hold within `tol` for the potential of the last one
        already: many of those, each without an iteration, would miss them by more and more.
        """
        last = self._last[0]
        if self.upper < math.inf or not self.mesh.ranks.max(int(last.any())):
            return [(last, 0)]
        return [(last, 1), (np.zeros(self.mesh.n_cells), 0)]

    def _run_newton(self, old, tau, mass, start, p):
        """The `StepResult` from old, of that mass, by iterations from a start of `_list_starts`;
        the first full cells are those with p > 0.
        """
        phi, least_iterations = start
        mesh = self.mesh
        mean = mass / self.free_energy.measure
        floor = NEWTON_FLOOR * mean if self.free_energy.diffuses else 0.0
        rho = np.maximum(old, max(floor, self.free_energy.start(mean)))
        smallest = math.inf
        smallest_iteration = 0

        for iteration in range(MAX_LINEARISED_ITERATIONS):
            full = (p > 0) | (rho > self.upper)
            excess = np.maximum(rho - self.upper, 0)
            pull = rho * np.maximum(-p, 0)
            violation = np.stack([excess, pull])
            bounded = np.where(full, self.upper, rho)
            pressure = np.where(full, p, 0)
            equations = _Equations(self, bounded, phi, pressure, full, floor, old, tau)

            residual = equations.residual + integrate(mesh, violation) / equations.scale
            if iteration > 0 and residual.max() < smallest:
                smallest = residual.max()
                smallest_iteration = iteration
            is_stalled = iteration > smallest_iteration + MAX_STALLED_ITERATIONS
            if not np.isfinite(residual).all() or is_stalled:
                break
            if (residual <= self.tol).all() and iteration >= least_iterations:
                self._last = np.stack([phi, equations.p])
                rho, left = equations.compute_density()
                dissipated = tau * equations.action
                if self.transport is not None:
                    step = equations.describe_step(rho)
                    rho, left, dissipated = self._correct(step)
                return StepResult(rho, dissipated, iteration, equations.p, left)

            drho, dphi, dp = equations.compute_newton_step()
            least = np.maximum(self._choose_kept_fraction(residual.max()) * rho, floor)
            rho = np.maximum(equations.rho + drho, least)
            phi = phi + dphi
            p = equations.p + dp

        raise ConvergenceError(
            f"the step of {tau:.3g}: Newton's method misses the equations by {residual[0]:.1e} of "
            f"the mass and {residual[1]:.1e} of the energy after {iteration + 1} iterations"
        )

    def _correct(self, step):
        """(rho, what has left through the doors, the energy dissipated) of a corrected step."""
        rho, flux = self.transport.correct(step)
        return rho, flux[self.doors.faces], step.dissipated(self.mesh, flux)

    def _choose_kept_fraction(self, residual):
        """The fraction of a density that an iteration leaves at least, for a relative residual.

        It falls with the residual, as in interior-point methods: cells that empty, at a front, then
        do so as fast as Newton's method converges. With MIN_NEWTON_FACTOR alone they would lose the
        same fraction in each iteration, and would keep what was in them when the equations held
        within `tol`. Where e' is infinite at 0 no cell empties.
        """
        return MIN_NEWTON_FACTOR if self.free_energy.singular else min(MIN_NEWTON_FACTOR, residual)

    def add_square(self, B: Any, L: Any, order: IntArray | None) -> Any:
        """B^T B + L for matrices of the mesh with cells in that order: a new one is another array.
        Collective.
        """
        has_old_pattern = order is self._summed_order
        self._summed_order = order
        return self._square_sum(B, L, has_old_pattern=has_old_pattern)

    def compute_curvature(self, rho: Array) -> Array:
        """e'' (n_cells,), not below MIN_CURVATURE times the change of e' when the density changes
        by its mean.
        """
        mesh = self.mesh
        curvature = self.free_energy.curvature(rho)
        mean = integrate(mesh, rho) / self.free_energy.measure
        weighted = integrate(mesh, np.stack([rho, rho * np.minimum(rho, mean) * curvature]))
        typical = max(weighted[1] / weighted[0] / mean, 1e-300)
        return np.maximum(curvature, MIN_CURVATURE * typical)


def _choose_methods(mesh):
    """Names of linear methods, for the whole and for the reduced system, the first choice first."""
    cells = mesh.n_cells_global
    if cells <= FIRST_LU_CELL_LIMIT:
        methods = ("lu", "cg")
    elif mesh.dim == 1 and cells <= LINE_LU_CELL_LIMIT:
        methods = ("icc", "lu", "cg")
    else:
        methods = ("icc", "cg", "lu")

    if cells <= REDUCED_LU_CELL_LIMIT:
        return methods, ("lu", "cg")
    return methods, ("icc", "cg", "lu")


class _Equations:
    """F1 and F2 (n_cells,) at rho, phi and p, in cells of which some are full.

    residual (2,) : sums of |F1|, less its rounding, and of rho |F2|, relative to *scale*; without
        the cells at the *floor* whose equation asks for a lower density
    scale (2,) : the mass at first, and the energies in what is there
    action : sum of t_s rho_giving (phi_left - phi_right)^2 / 2
    """

    def __init__(
        self,
        step: LinearisedStep,
        rho: Array,
        phi: Array,
        p: Array,
        full: BoolArray,
        floor: float,
        old: Array,
        tau: float,
    ):
        self.step = step
        self.tau = tau
        self.rho = rho
        self.p = p
        self.full = full
        self.old = old
        self.mesh = step.mesh
        self._evaluate(phi, floor)

    def _evaluate(self, phi, floor):
        """Find F1 and F2, and sums over them."""
        mesh = self.mesh
        self.phi = phi
        energy = self.step.free_energy
        rho = self.rho
        old = self.old
        tau = self.tau

        self.a = np.zeros(mesh.n_faces)
        self.b = np.zeros(mesh.n_faces)
        self.through = np.zeros(mesh.n_faces)
        out = np.zeros(mesh.n_local)
        gained = np.zeros(mesh.n_local)
        action, terms = _compute_upwind_fluxes(
            *mesh.with_ghosts(np.stack([rho, phi])),
            self.step.transmissibility,
            self.step.doors.faces,
            self.step.doors.transmissibility,
            self.step.doors.potential,
            mesh.left,
            mesh.right,
            mesh.face_owned,
            self.a,
            self.b,
            self.through,
            out,
            gained,
        )

        mu = energy.derivative(rho) + energy.potential((rho + old) / 2) + self.p
        self.F1 = mesh.volume * (rho - old) + tau * out[: mesh.n_cells]
        self.F2 = mesh.volume * (mu - phi) - tau * gained[: mesh.n_cells]

        is_empty = (rho <= floor) & (self.F2 > 0)
        terms_by_cell = (
            np.abs(self.F1),
            np.where(is_empty, 0, rho * np.abs(self.F2)),
            mesh.volume * old,
            mesh.volume * rho * (np.abs(mu) + np.abs(phi)),
        )
        *residual, mass, size, self.action, terms = mesh.ranks.sum(
            np.array([*map(np.sum, terms_by_cell), action, terms])
        )
        largest = max(mass, self.step.first_mass)
        self.scale = np.maximum([largest, size], np.finfo(float).tiny)
        rounding = np.array([RESIDUAL_ROUNDING * tau * terms, 0])
        self.residual = np.maximum(residual - rounding, 0) / self.scale

    def compute_density(self) -> tuple[Array, Array]:
        """(the density that F1 = 0 gives, what has left through the doors): of the exact mass."""
        mesh = self.mesh
        doors = self.step.doors
        rates = self.tau * self.a[doors.faces]
        if self.step.free_energy.diffuses:
            left = rates * self.rho[doors.cells]
            whole = integrate(mesh, self.rho) + doors.sum(left)
            factor = integrate(mesh, self.old) / whole
            return self.rho * factor, left * factor

        all_cells = np.ones(mesh.n_cells, bool)
        rho = self._streams.solve_along(mesh.volume * self.old, all_cells, self.rho)
        return rho, rates * rho[doors.cells]

    def describe_step(self, rho: Array) -> UpwindStep:
        """The `UpwindStep` to rho (n_cells,), the density that these equations give."""
        step = self.step
        rates = Rates(step.pattern, self.a, self.b)
        flux = self.tau * rates.flux(rho, step.no_inflow)
        U = self.a - self.b
        fall = U * self._find_resistance()
        if not step.free_energy.diffuses:
            U = self._find_volume_flux(rho)
        return UpwindStep(self.old, self.tau, rho, flux, fall, U, self.p > 0)

    def _find_resistance(self):
        """d_s / |s| (n_faces,), 0 on walls."""
        mesh = self.mesh
        doors = self.step.doors
        resistance = np.zeros(mesh.n_faces)
        resistance[: mesh.n_inner] = 1 / self.step.transmissibility
        resistance[doors.faces] = 1 / doors.transmissibility
        return resistance

    def _find_volume_flux(self, rho):
        """t_s (mu_left - mu_right) (n_faces,) with the potential and the pressure alone; nothing
        comes in.
        """
        mesh = self.mesh
        n = mesh.n_inner
        doors = self.step.doors
        mu = self.step.free_energy.potential((rho + self.old) / 2) + self.p
        local = mesh.with_ghosts(mu)
        U = np.zeros(mesh.n_faces)
        fall = local[mesh.left[:n]] - local[mesh.right[:n]]
        U[:n] = self.step.transmissibility * fall
        fall = mu[doors.cells] - doors.potential
        U[doors.faces] = doors.transmissibility * np.maximum(fall, 0)
        return U

    def compute_newton_step(self) -> tuple[Array, Array, Array]:
        """(drho, dphi, dp), (n_cells,) each."""
        if self.step.free_energy.diffuses:
            drho, dphi = self._solve_coupled()
        else:
            drho, dphi = self._solve_reduced()
        dp = (self._apply_transpose(dphi) - self.F2) / self.mesh.volume
        return drho, dphi, np.where(self.full, dp, 0.0)

    # ---- where something diffuses ---------------------------------------------------------------

    def _solve_coupled(self):
        """drho and dphi where e'' > 0."""
        step = self.step
        mesh = self.mesh
        pattern = self.step.pattern
        tau = self.tau
        curvature = step.compute_curvature(self.rho)
        D = np.where(self.full, 0.0, 1 / (mesh.volume * curvature))
        rates = Rates(pattern, self.a, self.b)
        symmetric = Rates(pattern, self.through, self.through)
        nothing = np.zeros(mesh.n_cells)

        def build(scale, order):
            B = pattern.matrix(rates, tau, order, transposed=True)
            root = np.sqrt(D) if order is None else np.sqrt(D[order])
            B.data *= np.repeat(root, np.diff(B.indptr))
            L = pattern.matrix(symmetric, tau, order, diagonal=nothing)
            return step.add_square(B, L, order)

        outflow = self._compute_outflow(self.a, self.b, D * self.F2)
        rhs = mesh.volume * D * self.F2 + tau * outflow - self.F1
        dphi = step.solver(step.methods, build, rhs, order=self._order_downstream())
        return D * (self._apply_transpose(dphi) - self.F2), dphi

    def _order_downstream(self):
        """The cells (n_cells,), givers first.

        A is triangular then, and A D^(1/2) the Cholesky factor of A D A^T, without fill: incomplete
        factors are exact where A D A^T dominates, as it does in long steps. In other orders they
        break down there.
        """
        return np.argsort(-self.phi, kind="stable")

    # ---- where nothing diffuses -----------------------------------------------------------------

    def _solve_reduced(self):
        """drho and dphi where nothing diffuses."""
        mesh = self.mesh
        free = self._free
        streams = self._streams
        nothing = np.zeros(self.mesh.n_cells)

        w = streams.solve_against(self.F2, free)
        dphi = w
        if mesh.ranks.max(int(self.full.any())):
            rhs = -self._apply_adjoint(self.F1 + self._apply_laplacian(w))
            v = self.step.solver(
                self.step.reduced_methods,
                lambda scale, order: self._build_laplacian_of_full_cells(),
                rhs,
                action=self._apply_remainder,
            )
            dphi = w + streams.solve_against(nothing, free, v)

        drho = streams.solve_along(-self.F1 - self._apply_laplacian(dphi), free)
        return drho, dphi

    @cached_property
    def _free(self):
        return ~self.full

    @cached_property
    def _streams(self):
        return Streams(self.step.pattern.stencil, self.mesh, self.a, self.b, self.tau)

    def _apply_adjoint(self, y):
        """E^T y: what the free cells have is carried along the streams into the full ones."""
        carried = self._streams.solve_along(y, self._free)
        outflow = self._compute_outflow(self.a, self.b, carried)
        return np.where(self.full, y - self.tau * outflow, 0.0)

    def _apply_remainder(self, v):
        """E^T tau L E v, without the part that the preconditioner's matrix has."""
        v = np.where(self.full, v, 0.0)
        extended = self._streams.solve_against(np.zeros(self.mesh.n_cells), self._free, v)
        whole = self._apply_adjoint(self._apply_laplacian(extended))
        return whole - np.where(self.full, self._apply_laplacian(v), 0.0)

    def _build_laplacian_of_full_cells(self):
        """tau L between full cells, |K| in the others."""
        mesh = self.mesh
        pattern = self.step.pattern
        full = self.full.astype(float)
        rates = Rates(pattern, self._weights, self._weights)
        L = pattern.matrix(rates, self.tau, diagonal=np.zeros(mesh.n_cells), scale=full)
        L.data *= np.repeat(full, np.diff(L.indptr))

        own = np.arange(mesh.n_cells)
        volume = np.where(self.full, 0, mesh.volume)
        diagonal = sparse.csr_matrix((volume, (own, mesh.first_row + own)), L.shape)
        return (L + diagonal).tocsr()

    def _apply_laplacian(self, y):
        """tau L y."""
        return self.tau * self._compute_outflow(self._weights, self._weights, y)

    @cached_property
    def _weights(self):
        """t_s rho_giving (n_faces,), but not 0 where full cells end."""
        n = self.mesh.n_inner
        if self.step.upper == math.inf:
            return self.through
        weights = self.through.copy()
        largest = self.mesh.ranks.max(self.rho.max(initial=0.0))
        least = MIN_PRESSURE_DENSITY * largest * self.step.transmissibility
        weights[:n] = np.maximum(weights[:n], least)
        return weights

    # ---- products with A ------------------------------------------------------------------------

    def _compute_outflow(self, a, b, y):
        """What fluxes a y_left - b y_right take out of each cell (n_cells,)."""
        outflow, _ = Rates(self.step.pattern, a, b).outflow(y, self.step.no_inflow)
        return outflow

    def _apply_transpose(self, x):
        """A^T x."""
        mesh = self.mesh
        n = self.mesh.n_inner
        local = mesh.with_ghosts(x)
        left = mesh.left[:n]
        right = mesh.right[:n]
        fall = local[left] - local[right]

        from_left = np.bincount(left, self.a[:n] * fall, mesh.n_local)
        from_right = np.bincount(right, self.b[:n] * -fall, mesh.n_local)
        added = from_left + from_right
        doors = self.step.doors
        np.add.at(added, doors.cells, self.a[doors.faces] * x[doors.cells])
        return mesh.volume * x + self.tau * added[: mesh.n_cells]


@numba.njit(cache=True, error_model="numpy")
def _compute_upwind_fluxes(
    rho, phi, t, door, t_door, outside, left, right, owned, a, b, through, out, gained
):
    """Through inner faces and doors: a, b, the parts of t (phi_left - phi_right), through = t
    rho_giving; and out, gained, their sums over cells.

    t (n_inner,) : |s| / d_s; door, t_door, outside (n,) : the faces of the doors, |s| / d_s there,
    and phi outside. Returns (action, terms): what is dissipated, and the size of the terms
    of the fluxes, to which their rounding is relative.
    """
    action = 0.0
    terms = 0.0
    for f in range(len(t)):
        l = left[f]
        r = right[f]
        g = phi[l] - phi[r]
        giving = l if g > 0 else r
        a[f] = t[f] * max(g, 0.0)
        b[f] = t[f] * max(-g, 0.0)
        through[f] = t[f] * rho[giving]
        F = through[f] * g
        out[l] += F
        out[r] -= F
        gained[giving] += t[f] * g * g / 2
        if owned[f]:
            action += F * g / 2
            terms += through[f] * (abs(phi[l]) + abs(phi[r]))
    for i in range(len(door)):
        f = door[i]
        l = left[f]
        g = phi[l] - outside[i]
        if g < 0:
            continue
        a[f] = t_door[i] * g
        through[f] = t_door[i] * rho[l]
        F = through[f] * g
        out[l] += F
        gained[l] += a[f] * g / 2
        action += F * g / 2
        terms += through[f] * (abs(phi[l]) + abs(outside[i]))
    return action, terms
