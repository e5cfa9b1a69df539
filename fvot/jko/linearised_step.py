"""The linearised JKO step (LJKO), with an upper bound or without: E decreases in every step,
however long; first order.

    min over 0 <= rho <= upper of   1 / (2 tau) |rho - old|^2_rho + E(rho)

with the weighted H^-1 norm in place of W2, its mobility upwind (Cances, Gallouet, Todeschi 2020).
With the potential phi, whose gradient is minus the velocity, the pressure p and t_s = |s| / d_s,
the optimum obeys

    F1 = |K| (rho_K - old_K) + tau sum of t_s (phi_left - phi_right) rho_giving out of K = 0 F2 =
    |K| (e'(rho) + V + W * (rho + old) / 2 + p - phi - tau H(phi))_K = 0 H_K(phi) = 1 / (2 |K|) sum
    over the faces by which K gives of t_s (phi_K - phi_other)^2 p >= 0,  rho <= upper,  p (upper -
    rho) = 0                 (Maury, Roudneff-Chupin, Santambrogio 2010)

F1 = A(phi) rho - |K| old, where A is an M-matrix (`upwind`): rho >= 0 for every phi, and phi is
defined in the vacuum, too. Then E(old) - E(rho) >= tau / 2 sum_s t_s rho_giving (phi_left -
phi_right)^2.

Newton's method, for a set of *full* cells, where rho = upper and p is unknown; elsewhere p = 0 and
rho is unknown. The next set are the cells with p > 0 or rho > upper: a primal-dual active set
(Hintermueller, Ito, Kunisch 2002). As dF2/dphi = -A^T, with D = 1 / (|K| e''), D = 0 in full cells,
and L the Laplacian with weights t_s rho_giving,

    (A D A^T + tau L) dphi = -F1 + A D F2,     drho = D (A^T dphi - F2),     |K| dp = A^T dphi - F2
    in full cells.

Where nothing diffuses, D is infinite in the other cells: F2 = 0 determines dphi there from dphi = v
in the full ones, by a sweep against the streams, dphi = E v + w. What is left is a symmetric
positive system for v alone, preconditioned by its own tau L:

    E^T tau L E v = -E^T (F1 + tau L w)
"""

import math
from functools import cached_property

import numba
import numpy as np
from scipy import sparse

from .. import linalg
from ..energies.free_energy import MIN_NEWTON_FACTOR, NEWTON_FLOOR
from ..errors import ConvergenceError
from ..finite_volume.rates import Rates, SparsityPattern
from .newton_systems import Solver
from .step import Step
from .streams import Streams

CURVED = 1e-10  # smallest e'', relative to what e' changes by with the density
ITERATIONS, PATIENCE = 40, 12  # in all, and without getting nearer than before
DIRECT = 4000  # cells, up to which the matrix is factorised at once
FACTORISED = {
    1: 10**7,
    2: 10**5,
    3: DIRECT,
}  # cells, up to which it is where incomplete factors do not do
# the same of the reduced system, on one rank: MUMPS waits too long in each of many solves
REDUCED = 20_000
ROUND_OFF = 1e-15  # of the fluxes, in what the equations miss
BRIMMING = 1e-6  # of the upper bound: what a cell that counts as full may lack
STIFF = 1e-8  # of the upper bound: the least density in the Laplacian of the pressure


class Linearised:
    """rho after a step from old, (n_cells,) each, for a `FreeEnergy`. Collective.

    upper : bound of the density, inf for none
    tol : what the equations may miss, in L1, relative to the mass, and to the energies in it
    """

    order = 1

    def __init__(self, free_energy, upper=math.inf, tol=1e-12):
        self.free_energy = free_energy
        self.mesh = free_energy.mesh
        self.upper = upper
        self.tol = tol
        self.pattern, self.solver, n = (
            SparsityPattern(self.mesh),
            Solver(self.mesh),
            self.mesh.n_inner,
        )
        self.t, self.closed = (
            self.mesh.area[:n] / self.mesh.distance[:n],
            np.zeros(self.mesh.n_faces - n),
        )
        cells = self.mesh.n_cells_global
        ranks = self.mesh.ranks
        direct = cells <= FACTORISED[self.mesh.dim]
        self.methods = (
            ("lu", "cg")
            if cells <= DIRECT
            else ("icc", "lu", "cg")
            if direct
            else ("icc", "cg", "lu")
        )
        self.reduced_methods = (
            ("lu", "cg") if cells <= REDUCED and ranks.size == 1 else ("icc", "cg", "lu")
        )
        self.restart()

    def restart(self):
        """Forget what went before."""
        self._last = np.zeros((2, self.mesh.n_cells))  # phi and p of the last step
        self.solver.restart()

    @property
    def iterations(self):
        """Of all linear solves so far."""
        return self.solver.iterations

    @property
    def memory(self):
        """What a checkpoint keeps."""
        return self.solver.memory | dict(cells=dict(last=self._last))

    @memory.setter
    def memory(self, kept):
        self.solver.memory = kept
        self._last = kept["cells"]["last"]

    def parts(self, rho):
        """{name: value} of the energy and its parts."""
        return self.free_energy.parts(rho)

    def __call__(self, old, tau):
        """The `Step` of length tau. Raises `ConvergenceError`."""
        mesh = self.mesh
        mass = self.mesh.integrate(old)
        if mass == 0:
            return Step(old, 0.0, 0, np.zeros(mesh.n_cells))
        self.solver.begin(tau)
        p = self._last[1]
        brimming = old >= (1 - BRIMMING) * self.upper
        try:
            return self._newton(old, tau, mass, p)
        except ConvergenceError:
            if self.upper == math.inf:
                raise
        # Where a crowd comes to a halt, pressure goes from cell to cell, one in each iteration:
        # here from all at once.
        return self._newton(
            old, tau, mass, np.where(brimming, np.maximum(p, np.finfo(float).tiny), p)
        )

    def _newton(self, old, tau, mass, p):
        """The `Step` from old, of that mass; the first full cells are those with p > 0."""
        mesh = self.mesh
        phi = self._last[0]
        mean = mass / self.free_energy.measure
        floor = NEWTON_FLOOR * mean if self.free_energy.diffuses else 0.0
        rho = np.maximum(old, max(floor, self.free_energy.start(mean)))
        best = math.inf, 0
        for iteration in range(ITERATIONS):
            full = (p > 0) | (rho > self.upper)
            off = np.stack([np.maximum(rho - self.upper, 0), rho * np.maximum(-p, 0)])
            equations = _Equations(
                self,
                np.where(full, self.upper, rho),
                phi,
                np.where(full, p, 0),
                full,
                floor,
                old,
                tau,
            )
            missing = equations.missing + mesh.integrate(off) / equations.scale
            best = min(best, (missing.max(), iteration))
            if not np.isfinite(missing).all() or iteration > best[1] + PATIENCE:
                break
            if (missing <= self.tol).all():
                self._last = np.stack([phi, equations.p]) if self.upper < math.inf else self._last
                return Step(equations.density(), tau * equations.action, iteration, equations.p)
            drho, dphi, dp = equations.newton()
            least = np.maximum(self._kept(missing.max()) * rho, floor)
            rho = np.maximum(equations.rho + drho, least)
            phi = phi + dphi
            p = equations.p + dp
        raise ConvergenceError(
            f"the step of {tau:.3g}: Newton's method misses the equations by {missing[0]:.1e} of "
            "the mass "
            f"and {missing[1]:.1e} of the energy after {iteration + 1} iterations"
        )

    def _kept(self, missing):
        """The share of a density that an iteration leaves at least, where that much of the
        equations is missing.

        It falls with what is missing, as in interior-point methods: cells that empty, at a front,
        then do so as fast as Newton's method converges. With MIN_NEWTON_FACTOR alone they would
        lose as much in each iteration, and would be left with what was in them when the equations
        held within `tol`. Where e' is infinite at 0 no cell empties.
        """
        return MIN_NEWTON_FACTOR if self.free_energy.singular else min(MIN_NEWTON_FACTOR, missing)

    def curvature(self, rho):
        """e'' (n_cells,), but not below CURVED of what e' changes by when the density changes by
        its mean.
        """
        mesh = self.mesh
        curvature = self.free_energy.curvature(rho)
        mean = mesh.integrate(rho) / self.free_energy.measure
        weighted = mesh.integrate(np.stack([rho, rho * np.minimum(rho, mean) * curvature]))
        return np.maximum(curvature, CURVED * max(weighted[1] / weighted[0] / mean, 1e-300))


class _Equations:
    """F1 and F2 (n_cells,) at rho, phi and p, in cells of which some are full.

    missing : (2,) sums of |F1|, less its rounding, and of rho |F2|, relative to *scale*: the mass,
        and the energies in it; not in cells at the *floor* that would be lower, if they might
    action : sum of t_s rho_giving (phi_left - phi_right)^2 / 2
    """

    def __init__(self, step, rho, phi, p, full, floor, old, tau):
        self.step = step
        self.tau = tau
        self.rho = rho
        self.p = p
        self.full = full
        self.old = old
        mesh = step.mesh
        energy = step.free_energy
        self.mesh = mesh
        self.a, self.b, self.through = np.zeros((3, mesh.n_faces))
        out, gained = np.zeros((2, mesh.n_local))
        action, terms = _upwind(
            *mesh.with_ghosts(np.stack([rho, phi])),
            step.t,
            mesh.left,
            mesh.right,
            mesh.face_owned,
            self.a,
            self.b,
            self.through,
            out,
            gained,
        )
        mu = energy.derivative(rho) + energy.potential((rho + old) / 2) + p
        self.F1 = mesh.volume * (rho - old) + tau * out[: mesh.n_cells]
        self.F2 = mesh.volume * (mu - phi) - tau * gained[: mesh.n_cells]
        empty = (rho <= floor) & (self.F2 > 0)
        sums = (
            np.abs(self.F1),
            np.where(empty, 0, rho * np.abs(self.F2)),
            mesh.volume * old,
            mesh.volume * rho * (np.abs(mu) + np.abs(phi)),
        )
        *missing, mass, size, self.action, terms = mesh.ranks.sum(
            np.array([*map(np.sum, sums), action, terms])
        )
        self.scale = np.maximum([mass, size], np.finfo(float).tiny)
        self.missing = np.maximum(missing - np.array([ROUND_OFF * tau * terms, 0]), 0) / self.scale

    def density(self):
        """The density that F1 = 0 gives, of the exact mass."""
        if self.step.free_energy.diffuses:
            return self.rho * (self.mesh.integrate(self.old) / self.mesh.integrate(self.rho))
        return self._streams.along(
            self.mesh.volume * self.old, np.ones(self.mesh.n_cells, bool), self.rho
        )

    def newton(self):
        """(drho, dphi, dp), (n_cells,) each."""
        drho, dphi = self._coupled() if self.step.free_energy.diffuses else self._reduced()
        dp = (self._transposed(dphi) - self.F2) / self.mesh.volume
        return drho, dphi, np.where(self.full, dp, 0.0)

    def _coupled(self):
        """drho and dphi where e'' > 0."""
        step = self.step
        mesh = self.mesh
        pattern = self.step.pattern
        tau = self.tau
        D = np.where(self.full, 0.0, 1 / (mesh.volume * step.curvature(self.rho)))
        B = pattern.matrix(Rates(pattern, self.a, self.b), tau, transposed=True)
        B.data *= np.repeat(np.sqrt(D), np.diff(B.indptr))
        L = pattern.matrix(
            Rates(pattern, self.through, self.through), tau, diagonal=np.zeros(mesh.n_cells)
        )
        rest = mesh.volume * D * self.F2 + tau * self._out(self.a, self.b, D * self.F2) - self.F1
        dphi = step.solver(step.methods, lambda scale: linalg.add_square(mesh.ranks, B, L), rest)
        return D * (self._transposed(dphi) - self.F2), dphi

    def _reduced(self):
        """drho and dphi where nothing diffuses."""
        mesh = self.mesh
        free = ~self.full
        streams = self._streams
        nothing = np.zeros(self.mesh.n_cells)
        w = streams.against(self.F2, free, nothing)
        dphi = w
        if mesh.ranks.max(int(self.full.any())):
            rest = -self._adjoint(self.F1 + self._laplace(w))
            v = self.step.solver(
                self.step.reduced_methods,
                lambda scale: self._laplacian_of_full(),
                rest,
                action=self._rest_of_reduced,
            )
            dphi = w + streams.against(nothing, free, v)
        drho = streams.along(-self.F1 - self._laplace(dphi), free, nothing)
        return drho, dphi

    @cached_property
    def _streams(self):
        return Streams(self.step.pattern.stencil, self.mesh, self.a, self.b, self.tau)

    def _adjoint(self, y):
        """E^T y: what the free cells have is carried along the streams into the full ones."""
        streams = self._streams
        free = ~self.full
        nothing = np.zeros(self.mesh.n_cells)
        carried = streams.along(y, free, nothing)
        return np.where(self.full, y - self.tau * self._out(self.a, self.b, carried), 0.0)

    def _rest_of_reduced(self, v):
        """E^T tau L E v, without what the preconditioner's matrix has of it."""
        v = np.where(self.full, v, 0.0)
        whole = self._adjoint(
            self._laplace(self._streams.against(np.zeros(self.mesh.n_cells), ~self.full, v))
        )
        return whole - np.where(self.full, self._laplace(v), 0.0)

    def _laplacian_of_full(self):
        """tau L between full cells, |K| in the others."""
        mesh = self.mesh
        pattern = self.step.pattern
        full = self.full.astype(float)
        L = pattern.matrix(
            Rates(pattern, self._weights, self._weights),
            self.tau,
            diagonal=np.zeros(mesh.n_cells),
            scale=full,
        )
        L.data *= np.repeat(full, np.diff(L.indptr))
        own = np.arange(mesh.n_cells)
        return (
            L
            + sparse.csr_matrix(
                (np.where(self.full, 0, mesh.volume), (own, mesh.first_row + own)), L.shape
            )
        ).tocsr()

    def _laplace(self, y):
        """tau L y."""
        return self.tau * self._out(self._weights, self._weights, y)

    @cached_property
    def _weights(self):
        """t_s rho_giving (n_faces,), but not 0 where full cells end."""
        mesh = self.mesh
        n = self.mesh.n_inner
        if self.step.upper == math.inf:
            return self.through
        least = STIFF * self.step.upper * mesh.area / mesh.distance
        return np.where(np.arange(mesh.n_faces) < n, np.maximum(self.through, least), 0.0)

    def _out(self, a, b, y):
        """What fluxes a y_left - b y_right take out of each cell (n_cells,)."""
        return Rates(self.step.pattern, a, b).outflow(y, self.step.closed)[0]

    def _transposed(self, x):
        """A^T x."""
        mesh = self.mesh
        n = self.mesh.n_inner
        (left, right) = self._sides(x)
        down = self.a[:n] * (left - right), self.b[:n] * (right - left)
        added = np.bincount(mesh.left[:n], down[0], mesh.n_local) + np.bincount(
            mesh.right[:n], down[1], mesh.n_local
        )
        return mesh.volume * x + self.tau * added[: mesh.n_cells]

    def _sides(self, u):
        local = self.mesh.with_ghosts(u)
        return local[self.mesh.left[: self.mesh.n_inner]], local[
            self.mesh.right[: self.mesh.n_inner]
        ]


@numba.njit(cache=True, error_model="numpy")
def _upwind(rho, phi, t, left, right, owned, a, b, through, out, gained):
    """Through the inner faces: a, b, the parts of t (phi_left - phi_right), through = t rho_giving;
    sums over cells.

    Returns what is dissipated, and what the rounding of the fluxes is relative to.
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
    return action, terms
