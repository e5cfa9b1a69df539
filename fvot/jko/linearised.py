"""The linearised JKO step (LJKO): E decreases, and mass moves no farther than it gains, for every step; first order.

    min over rho of   1 / (2 tau) |rho - old|^2_rho + E(rho)

with the weighted H^-1 norm in place of W2, its mobility upwind (Cances, Gallouet, Todeschi 2020). With the potential phi, whose
gradient is minus the velocity, and t_s = |s| / d_s, the optimum obeys

    F1 = |K| (rho_K - old_K) + tau sum of t_s (phi_left - phi_right) rho_giving out of K = 0
    F2 = |K| (e'(rho) + V + W * (rho + old) / 2 - phi - tau H(phi))_K = 0
    H_K(phi) = 1 / (2 |K|) sum over the faces by which K gives of t_s (phi_K - phi_other)^2

F1 = A(phi) rho - |K| old, where A is an M-matrix: rho >= 0 for every phi, and phi is defined in the vacuum, too. Then
E(old) - E(rho) >= tau / 2 sum_s t_s rho_giving (phi_left - phi_right)^2. As dF2/dphi = -A^T, Newton's method needs one
symmetric positive matrix, D = 1 / (|K| e''), L the Laplacian with weights t_s rho_giving:

    (A D A^T + tau L) dphi = -F1 + A D F2,     drho = D (A^T dphi - F2)

Where nothing diffuses, F2 determines phi alone, and there are two matrices that are nearly triangular in the order of phi:

    A^T dphi = F2,     A drho = -F1 - tau L dphi

What W * drho changes is left to the next iteration.
"""
import numba
import numpy as np

from .. import linalg
from ..errors import ConvergenceError
from ..rates import Layout, Rates
from .linear import Solver, named_by_cost
from .midpoint import Step

SHRINK = 0.05            # what Newton's method leaves of a density at least
FLOOR = 1e-14            # of the mean density, below which none falls in Newton's method
CURVED = 1e-10           # smallest e'', relative to the largest of the change of e' by the density
ITERATIONS = 40
DIRECT = 4000            # cells, up to which the matrix is factorised


class Linearised:
    """rho after a step from old, (n_cells,) each, for a `FreeEnergy`. Collective.

    tol : what the equations may miss, in L1, relative to the mass, and to the energy that it takes
    """

    order = 1

    def __init__(self, free_energy, tol=1e-12):
        self.free_energy, self.mesh, self.tol = free_energy, free_energy.mesh, tol
        self._layout, self._solver, self._other_solver = Layout(self.mesh), Solver(self.mesh), Solver(self.mesh)
        self._methods = ("cg", "lu") if self.mesh.n_cells_global > DIRECT else ("lu", "cg")

    @property
    def iterations(self):
        """Of all linear solves so far."""
        return self._solver.iterations + self._other_solver.iterations

    def __call__(self, old, tau):
        """The `Step` of length tau. Raises `ConvergenceError`."""
        mesh, mass = self.mesh, self.mesh.integrate(old)
        if mass == 0:
            return Step(old, 0.0, 0)
        mean = mass / mesh.integrate(1.0)
        floor = FLOOR * mean
        rho, phi = np.maximum(old, max(floor, self.free_energy.start(mean))), np.zeros(mesh.n_cells)
        self._solver.begin()
        self._other_solver.begin()
        for iteration in range(ITERATIONS):
            equations = _Equations(self, rho, phi, old, tau)
            if not np.isfinite(equations.missing).all():
                break
            if (equations.missing <= self.tol * np.array([mass, 1.0])).all():
                return Step(rho * (mass / mesh.integrate(rho)), tau * equations.action, iteration)
            drho, dphi = equations.newton()
            rho, phi = np.maximum(rho + drho, np.maximum(SHRINK * rho, floor)), phi + dphi
        missing = equations.missing / [mass, 1]
        raise ConvergenceError(f"the step of {tau:.3g}: Newton's method misses the equations by {missing[0]:.1e} of the mass and "
                               f"{missing[1]:.1e} of the energy after {iteration + 1} iterations")

    def _curvature(self, rho):
        """e'' (n_cells,), but not below CURVED of what e' changes by when the density changes by its mean."""
        mesh, curvature = self.mesh, self.free_energy.curvature(rho)
        mean = mesh.integrate(rho) / mesh.integrate(1.0)
        weighted = mesh.integrate(np.stack([rho, rho * np.minimum(rho, mean) * curvature]))
        return np.maximum(curvature, CURVED * max(weighted[1] / weighted[0] / mean, 1e-300))


class _Equations:
    """F1 and F2 (n_cells,) at rho and phi.

    missing : (2,) sums of |F1|, and of rho |F2| relative to the energies in it
    action : sum of t_s rho_giving (phi_left - phi_right)^2 / 2
    """

    def __init__(self, step, rho, phi, old, tau):
        self.step, self.tau, self.rho, mesh, energy = step, tau, rho, step.mesh, step.free_energy
        n = mesh.n_inner
        self.a, self.b, self.through = np.zeros((3, mesh.n_faces))
        out, gained = np.zeros((2, mesh.n_local))
        action = _upwind(*mesh.with_ghosts(np.stack([rho, phi])), mesh.area[:n] / mesh.distance[:n], mesh.left, mesh.right,
                         mesh.face_owned, self.a, self.b, self.through, out, gained)
        mu = energy.derivative(rho) + energy.potential((rho + old) / 2)
        self.F1 = mesh.volume * (rho - old) + tau * out[:mesh.n_cells]
        self.F2 = mesh.volume * (mu - phi) - tau * gained[:mesh.n_cells]
        sums = [np.abs(self.F1).sum(), (rho * np.abs(self.F2)).sum(), (mesh.volume * rho * (np.abs(mu) + np.abs(phi))).sum()]
        first, second, scale, self.action = mesh.ranks.sum(np.array([*sums, action]))
        self.missing = np.array([first, second / max(scale, np.finfo(float).tiny)])

    def newton(self):
        """(drho, dphi), (n_cells,) each."""
        return self._coupled() if self.step.free_energy.diffuses else self._one_after_the_other()

    def _coupled(self):
        step, mesh, layout, tau = self.step, self.step.mesh, self.step._layout, self.tau
        D = 1 / (mesh.volume * step._curvature(self.rho))
        B = layout.matrix(self._rates, tau, transposed=True)
        B.data *= np.repeat(np.sqrt(D), np.diff(B.indptr))
        L = layout.matrix(Rates(layout, self.through, self.through), tau, diagonal=np.zeros(mesh.n_cells))
        dphi = step._solver(step._methods, lambda scale: linalg.squared_plus(mesh.ranks, B, L), self._A(D * self.F2) - self.F1)
        return D * (self._transposed(dphi) - self.F2), dphi

    def _one_after_the_other(self):
        step, mesh, layout, tau = self.step, self.step.mesh, self.step._layout, self.tau
        names = named_by_cost(mesh, self._rates, tau)
        dphi = step._solver(names, lambda scale: layout.matrix(self._rates, tau, transposed=True), self.F2)
        rest = -self.F1 - tau * self._out(self.through, self.through, dphi)
        return step._other_solver(names, lambda scale: layout.matrix(self._rates, tau), rest), dphi

    @property
    def _rates(self):
        return Rates(self.step._layout, self.a, self.b)

    def _out(self, a, b, y):
        """What fluxes a y_left - b y_right take out of each cell (n_cells,)."""
        mesh, n, (left, right) = self.step.mesh, self.step.mesh.n_inner, self._sides(y)
        F = np.zeros(mesh.n_faces)
        F[:n] = a[:n] * left - b[:n] * right
        return mesh.volume * mesh.divergence(F)

    def _A(self, y):
        return self.step.mesh.volume * y + self.tau * self._out(self.a, self.b, y)

    def _transposed(self, x):
        """A^T x."""
        mesh, n, (left, right) = self.step.mesh, self.step.mesh.n_inner, self._sides(x)
        down = self.a[:n] * (left - right), self.b[:n] * (right - left)
        added = np.bincount(mesh.left[:n], down[0], mesh.n_local) + np.bincount(mesh.right[:n], down[1], mesh.n_local)
        return mesh.volume * x + self.tau * added[:mesh.n_cells]

    def _sides(self, u):
        mesh, local = self.step.mesh, self.step.mesh.with_ghosts(u)
        return local[mesh.left[:mesh.n_inner]], local[mesh.right[:mesh.n_inner]]


@numba.njit(cache=True, error_model="numpy")
def _upwind(rho, phi, t, left, right, owned, a, b, through, out, gained):
    """Through the inner faces: a, b, the parts of t (phi_left - phi_right), through = t rho_giving; sums over cells."""
    action = 0.0
    for f in range(len(t)):
        l, r = left[f], right[f]
        g = phi[l] - phi[r]
        giving = l if g > 0 else r
        a[f], b[f] = t[f] * max(g, 0.0), t[f] * max(-g, 0.0)
        through[f] = t[f] * rho[giving]
        F = through[f] * g
        out[l] += F
        out[r] -= F
        gained[giving] += t[f] * g * g / 2
        if owned[f]:
            action += F * g / 2
    return action
