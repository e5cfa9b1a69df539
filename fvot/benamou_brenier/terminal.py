"""An energy of the density at the end: min W2^2(rho0, rho1) / 2 + E(rho1) over all rho1 of the mass
of rho0.

E(rho1) = sum_P m_P e(rho1_P, x_P), e convex in rho1 >= 0, on patches. The dual problem is

    max -sum_K |K| rho0_K phi_K^0 - E*(-phi^N),    E*(p) = sum_P m_P max_{rho >= 0} (p_P rho -
    e(rho, x_P))

under the same constraints as before, with phi^N in place of its patch means; at the optimum phi^N =
-e'(rho1) where rho1 > 0. So the iteration has one more copy, e = Q phi^N in the metric theta_e^2
sigma_P m_P e e', and its projection is the prox

    q = z + l / theta_e^2,   q = -e'(rho1),   rho1 = r sigma_P l:     rho1 / (r sigma_P theta_e^2) +
    e'(rho1) = -z

(Jordan, Kinderlehrer, Otto 1998 for the step; Benamou, Carlier, Laborde 2016 for the iteration.)
"""

import numpy as np

from ..energies.local import check_own, separated
from ..errors import InputError

STEPS = 200  # of Newton's method or bisection: enough for any density between 1e-300 and 1e300
CLOSE = 1e-12  # the last relative step
TINY, HUGE = 1e-300, 1e300
FLOOR = 1e-10  # smallest density to start from, over the mean: e' may be infinite at 0
END_METRIC = (
    1.0  # theta_e^2 in units of the inverse of what e' changes by when rho1 changes by its own size
)


class Terminal:
    """The energy on the patches of a `Discretisation`; densities are (n_patches,). Collective."""

    def __init__(self, disc, energy):
        self.disc = disc
        self.energy = energy
        mesh = disc.mesh
        self.x = disc.average(mesh.centroid.T).T
        self.measure = mesh.integrate(1.0)
        with mesh.ranks.raising_together():
            self.V, self.curved, pairs = separated(energy, self.x)
            check_own(energy, self.x, 1 / self.measure)
            if pairs:
                raise InputError(
                    "terminal: an Interaction is not convex in rho; steps with interactions are "
                    "JKO's"
                )

    @property
    def is_flat(self):
        """Whether the energy is the same for all densities of the same mass."""
        ranks = self.disc.mesh.ranks
        return not self.curved.parts and ranks.max(self.V.max(initial=-np.inf)) == ranks.min(
            self.V.min(initial=np.inf)
        )

    def of_cells(self, rho):
        """E(rho) of a density (n_cells,)."""
        return self.value(self.disc.average(rho))[0]

    def value(self, rho):
        """E(rho), and the size of the terms that it adds up."""
        with self.disc.mesh.ranks.raising_together():
            potential = self.V * rho
            others = self._of("value", rho)
            slope = rho * self._of("derivative", np.maximum(rho, TINY))
        terms = np.stack([potential + others, np.abs(potential) + np.abs(others) + np.abs(slope)])
        return self.disc.mesh.ranks.sum((self.disc.volume * terms).sum(axis=1))

    def derivative(self, rho):
        """e'(rho) (n_patches,)."""
        with self.disc.mesh.ranks.raising_together():
            return self.V + self._of("derivative", rho)

    def _of(self, method, rho):
        return np.zeros(len(rho)) + getattr(self.curved, method)(rho, self.x)

    def stiffness(self, rho):
        """int rho^2 e''(rho) / int rho, what e' changes by when rho changes by its own size, where
        mass is.
        """
        ranks = self.disc.mesh.ranks
        mass = self.disc.masses(rho[:, None]).sum()
        with ranks.raising_together():
            curvature = (
                rho * rho * self._of("curvature", np.maximum(rho, FLOOR * mass / self.measure))
            )
        return ranks.sum((self.disc.volume * curvature).sum()) / mass

    def metric(self, rho, theta):
        """theta_e^2, from a first idea of the density at the end and the theta of the iteration."""
        return 1 / (self.stiffness(rho) / END_METRIC + theta**-2)

    def density(self, p, k=0.0, guess=None):
        """rho >= 0 with k rho + e'(rho) = p, k >= 0; 0 where e'(0) >= p, infinite where e' stays
        below p and k is 0.

        Newton's method, in rho or in log rho, whichever stays between the known bounds; bisection
        where it is slow.
        """
        p, k = p - self.V, k + np.zeros(len(p))
        rho = np.ones(len(p)) if guess is None else np.clip(guess, TINY, HUGE)
        low, high = np.full((2, len(p)), [[TINY], [HUGE]])
        last = np.full(len(p), np.inf)
        with self.disc.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            none = self._of("derivative", low) >= p
            all_ = k * HUGE + self._of("derivative", high) < p
            for _ in range(STEPS):
                error = k * rho + self._of("derivative", rho) - p
                slope = k + self._of("curvature", rho)
                low, high = np.where(error < 0, rho, low), np.where(error < 0, high, rho)
                step = error / slope
                new = np.where(step < rho, rho - step, rho * np.exp(-step / rho))
                done = np.abs(new - rho) <= CLOSE * rho
                moved = np.abs(np.log(new / rho))
                good = (new > low) & (new < high) & (moved < last / 2) | done
                rho = np.where(good, new, np.sqrt(low) * np.sqrt(high))
                last = np.where(good, moved, np.inf)
                if (done | none | all_).all():
                    break
        return np.where(none, 0, np.where(all_, np.inf, rho))

    def best_shift(self, phi, mass):
        """(c, E*(-phi - c)) that make -sum c mass - E*(-phi - c) largest: then (e')^-1(-phi - c)
        has the *mass*.

        phi (n_patches,), mass (n_components,); c (n_components,). Any c gives a bound; the best one
        is found by Newton's method for the logarithm of the mass, and bisection.
        """
        disc = self.disc
        ranks = self.disc.mesh.ranks
        rho = None
        c = np.zeros(len(mass))
        low, high = np.full((2, len(mass)), [[-np.inf], [np.inf]])
        spread = (
            ranks.max(np.abs(phi).max(initial=0.0))
            + ranks.max(np.abs(self.V).max(initial=0.0))
            + TINY
        )
        for _ in range(STEPS):
            found, rho = self._mass(-phi - c[disc.component], rho)
            low, high = np.where(found > mass, c, low), np.where(found > mass, high, c)
            with ranks.raising_together(), np.errstate(all="ignore"):
                inverse = np.where(rho > 0, 1 / self._of("curvature", np.clip(rho, TINY, HUGE)), 0)
            slope = disc.masses(inverse[:, None])[:, 0]
            with np.errstate(all="ignore"):
                new = np.where(np.isfinite(slope), c + np.log(found / mass) * found / slope, np.nan)
            middle = np.where(
                np.isinf(low),
                high - spread,
                np.where(np.isinf(high), low + spread, (low + high) / 2),
            )
            done = np.abs(new - c) <= CLOSE * np.abs(c)
            spread = 2 * spread
            c = np.where((new > low) & (new < high) | done, new, middle)
            if (done | (high - low <= CLOSE * np.abs(c))).all():
                break
        found = self._mass(-phi - c[disc.component], rho)[0]
        c = np.where(
            found < 2 * mass, c, high
        )  # where e is linear, only one side of the jump has finite E*
        return c, self.conjugate(-phi - c[disc.component])

    def _mass(self, p, guess):
        """(mass (n_components,), rho (n_patches,)) of rho = (e')^-1(p)."""
        rho = self.density(p, guess=guess)
        return self.disc.masses(np.minimum(rho, HUGE)[:, None])[:, 0], rho

    def conjugate(self, p):
        """E*(p), for p (n_patches,)."""
        rho = self.density(p)
        with self.disc.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            own = np.where(
                rho > 0,
                (p - self.V) * rho - self._of("value", rho),
                -self._of("value", np.zeros(len(p))),
            )
        own[np.isinf(rho)] = np.inf
        return self.disc.mesh.ranks.sum((self.disc.volume * own).sum())


class EndState:
    """The iteration's copy of phi^N: z (n_patches,) and the density rho1 (n_patches,) = r sigma_P l
    at the end.

    metric : theta_e^2; sigma : (n_patches,) the local penalty; r : the penalty at the beginning
    """

    def __init__(self, terminal, rho1, metric, sigma, r):
        self.terminal = terminal
        self.scale = metric * sigma
        self.r = r
        floor = (
            FLOOR * terminal.disc.masses(rho1[:, None]).sum() / terminal.disc.mesh.integrate(1.0)
        )
        self.rho1 = np.maximum(rho1, floor)
        self.z = -terminal.derivative(self.rho1) - self._k * self.rho1

    @property
    def _k(self):
        return 1 / (self.r * self.scale)

    def sweep(self, phi, alpha=1.8, kappa=1.0):
        """Move the state with phi (n_cells,) at the last node; sigma m theta_e^2 (2 q - z)
        (n_cells,) of the new one.
        """
        disc = self.terminal.disc
        self.z += alpha * (disc.average(phi) - self.z - self._k * self.rho1)
        self.rho1 = self.terminal.density(-self.z, self._k, self.rho1)
        q = self.z + self._k * self.rho1
        self.r *= kappa
        self.z = q - self._k * self.rho1
        return disc.mesh.volume * disc.spread(self.scale * (2 * q - self.z))

    def right_hand_side(self):
        """The same of the state as it is."""
        z = self.z + 2 * self._k * self.rho1
        return self.terminal.disc.mesh.volume * self.terminal.disc.spread(self.scale * z)
