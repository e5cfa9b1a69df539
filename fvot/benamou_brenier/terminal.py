"""A terminal energy: min W2^2(rho0, rho1) / 2 + E(rho1) over all rho1 of the mass of rho0.

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

from __future__ import annotations

import numpy as np

from ..arguments.types import Array
from ..energies.checks import check_own, refuse_time, separate_parts
from ..energies.energy import Energy, split_sum
from ..energies.local import Potential
from ..errors import InputError
from ..mesh.cell_values import integrate
from .discretisation import Discretisation

# Steps of Newton's method or bisection, at most: enough for any density between 1e-300 and 1e300.
MAX_ROOT_STEPS = 200

# The last relative step.
ROOT_TOLERANCE = 1e-12

# The smallest density in the range in which roots are sought.
SMALLEST_TERMINAL_DENSITY = 1e-300

# The largest one.
LARGEST_TERMINAL_DENSITY = 1e300

# Smallest density to start from, over the mean one: e' may be infinite at 0.
SMALLEST_START_RATIO = 1e-10

# theta_e^2 in units of 1 / (the change of e' when rho1 changes by its own size).
END_METRIC_SCALE = 1.0


class Terminal:
    """The energy on the patches of a `Discretisation`; densities are (n_patches,). Collective.

    x (dim, n_patches) : the centroids of the patches
    measure : of the mesh
    V (n_patches,), curved : the potentials in the energy, and the `Sum` of all its other parts
    """

    def __init__(self, disc: Discretisation, energy: Energy):
        self.disc = disc
        mesh = disc.mesh
        self.x = disc.average(mesh.centroid.T).T
        self.measure = integrate(mesh, 1.0)
        with mesh.ranks.raising_together():
            refuse_time(energy, "terminal")
            _refuse_cell_values(energy)
            self.V, self.curved, pairs = separate_parts(energy, self.x)
            check_own(energy, self.x, 1 / self.measure)
            if pairs:
                raise InputError(
                    "terminal: an Interaction is not convex in rho; steps with interactions are "
                    "JKO's"
                )

    @property
    def is_flat(self) -> bool:
        """Whether the energy is the same for all densities of the same mass."""
        if self.curved.parts:
            return False

        ranks = self.disc.mesh.ranks
        own_highest = self.V.max(initial=-np.inf)
        own_lowest = self.V.min(initial=np.inf)
        highest = ranks.max(own_highest)
        lowest = ranks.min(own_lowest)
        return highest == lowest

    def of_cells(self, rho: Array) -> float:
        """E(rho) of a density (n_cells,)."""
        mean = self.disc.average(rho)
        energy, _ = self.value(mean)
        return energy

    def value(self, rho: Array) -> tuple[float, float]:
        """E(rho), and the sum of the absolute values of its terms."""
        with self.disc.mesh.ranks.raising_together():
            potential = self.V * rho
            others = self._evaluate("value", rho)
            floored = np.maximum(rho, SMALLEST_TERMINAL_DENSITY)
            slope = rho * self._evaluate("derivative", floored)

        values = potential + others
        sizes = np.abs(potential) + np.abs(others) + np.abs(slope)
        terms = np.stack([values, sizes])
        own_sums = (self.disc.volume * terms).sum(axis=1)
        return self.disc.mesh.ranks.sum(own_sums)

    def derivative(self, rho: Array) -> Array:
        """e'(rho) (n_patches,)."""
        with self.disc.mesh.ranks.raising_together():
            curved = self._evaluate("derivative", rho)
            return self.V + curved

    def _evaluate(self, method, rho):
        evaluate = getattr(self.curved, method)
        values = evaluate(rho, self.x)
        return np.zeros(len(rho)) + values

    def stiffness(self, rho: Array) -> float:
        """int rho^2 e''(rho) / int rho.

        The mean change of e' when rho changes by its own size, weighted by the mass.
        """
        ranks = self.disc.mesh.ranks
        mass = self.disc.masses(rho[:, None]).sum()
        floor = SMALLEST_START_RATIO * mass / self.measure
        floored = np.maximum(rho, floor)
        with ranks.raising_together():
            curvature = rho * rho * self._evaluate("curvature", floored)
        own_sum = (self.disc.volume * curvature).sum()
        return ranks.sum(own_sum) / mass

    def metric(self, rho: Array, theta: float) -> float:
        """theta_e^2, from an estimate of the density at the end and the theta of the iteration."""
        stiffness = self.stiffness(rho) / END_METRIC_SCALE
        return 1 / (stiffness + theta**-2)

    def density(self, p: Array, k: float | Array = 0.0, guess: Array | None = None) -> Array:
        """rho >= 0 with k rho + e'(rho) = p, k >= 0.

        rho is 0 where e'(0) >= p, and infinite where k is 0 and e' stays below p. Newton's method,
        in rho or in log rho, whichever stays within the bounds so far; bisection where it is slow.
        """
        p = p - self.V
        k = k + np.zeros(len(p))
        if guess is None:
            rho = np.ones(len(p))
        else:
            rho = np.clip(guess, SMALLEST_TERMINAL_DENSITY, LARGEST_TERMINAL_DENSITY)
        n_patches = len(p)
        low = np.full(n_patches, SMALLEST_TERMINAL_DENSITY)
        high = np.full(n_patches, LARGEST_TERMINAL_DENSITY)
        last_move = np.full(n_patches, np.inf)

        with self.disc.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            at_low = self._evaluate("derivative", low)
            at_high = self._evaluate("derivative", high)
            is_zero = at_low >= p
            is_infinite = k * LARGEST_TERMINAL_DENSITY + at_high < p
            for _ in range(MAX_ROOT_STEPS):
                derivative = self._evaluate("derivative", rho)
                curvature = self._evaluate("curvature", rho)
                error = k * rho + derivative - p
                slope = k + curvature
                is_below = error < 0
                low = np.where(is_below, rho, low)
                high = np.where(is_below, high, rho)

                step = error / slope
                linear = rho - step
                logarithmic = rho * np.exp(-step / rho)
                new = np.where(step < rho, linear, logarithmic)
                is_done = np.abs(new - rho) <= ROOT_TOLERANCE * rho
                move = np.abs(np.log(new / rho))

                is_inside = (new > low) & (new < high)
                is_faster = move < last_move / 2
                is_good = is_inside & is_faster | is_done
                middle = np.sqrt(low) * np.sqrt(high)
                rho = np.where(is_good, new, middle)
                last_move = np.where(is_good, move, np.inf)
                if (is_done | is_zero | is_infinite).all():
                    break

        bounded = np.where(is_infinite, np.inf, rho)
        return np.where(is_zero, 0, bounded)

    def best_shift(self, phi: Array, mass: Array) -> tuple[Array, float]:
        """(c, E*(-phi - c)) for the c that maximises -sum c mass - E*(-phi - c).

        phi (n_patches,), mass and c (n_components,). At the maximum (e')^-1(-phi - c) has that
        mass. Any c gives a bound; the best one is found by Newton's method for the logarithm of the
        mass, and by bisection.
        """
        disc = self.disc
        n_components = len(mass)
        rho = None
        c = np.zeros(n_components)
        low = np.full(n_components, -np.inf)
        high = np.full(n_components, np.inf)
        spread = self._find_range(phi)

        for _ in range(MAX_ROOT_STEPS):
            p = -phi - c[disc.component]
            current, rho = self._mass(p, rho)
            is_heavy = current > mass
            low = np.where(is_heavy, c, low)
            high = np.where(is_heavy, high, c)

            slope = self._find_mass_slope(rho)
            with np.errstate(all="ignore"):
                excess = np.log(current / mass)
                new = c + excess * current / slope
                new = np.where(np.isfinite(slope), new, np.nan)

            middle = np.where(np.isinf(high), low + spread, (low + high) / 2)
            middle = np.where(np.isinf(low), high - spread, middle)
            is_inside = (new > low) & (new < high)
            is_done = np.abs(new - c) <= ROOT_TOLERANCE * np.abs(c)
            spread = 2 * spread
            c = np.where(is_inside | is_done, new, middle)

            is_narrow = high - low <= ROOT_TOLERANCE * np.abs(c)
            if (is_done | is_narrow).all():
                break

        # Where e is linear, E* is finite on one side of the jump only.
        p = -phi - c[disc.component]
        current, _ = self._mass(p, rho)
        is_near = current < 2 * mass
        c = np.where(is_near, c, high)
        p = -phi - c[disc.component]
        return c, self.conjugate(p)

    def _find_range(self, phi):
        """A first length of steps of c: the size of phi and V."""
        ranks = self.disc.mesh.ranks
        own_size_of_phi = np.abs(phi).max(initial=0.0)
        own_size_of_V = np.abs(self.V).max(initial=0.0)
        size_of_phi = ranks.max(own_size_of_phi)
        size_of_V = ranks.max(own_size_of_V)
        return size_of_phi + size_of_V + SMALLEST_TERMINAL_DENSITY

    def _find_mass_slope(self, rho):
        """The derivative (n_components,) of the mass of (e')^-1(p) with respect to p."""
        with self.disc.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            clipped = np.clip(rho, SMALLEST_TERMINAL_DENSITY, LARGEST_TERMINAL_DENSITY)
            curvature = self._evaluate("curvature", clipped)
            inverse = np.where(rho > 0, 1 / curvature, 0)

        masses = self.disc.masses(inverse[:, None])
        return masses[:, 0]

    def _mass(self, p, guess):
        """(mass (n_components,), rho (n_patches,)) of rho = (e')^-1(p)."""
        rho = self.density(p, guess=guess)
        bounded = np.minimum(rho, LARGEST_TERMINAL_DENSITY)
        masses = self.disc.masses(bounded[:, None])
        return masses[:, 0], rho

    def conjugate(self, p: Array) -> float:
        """E*(p), for p (n_patches,)."""
        rho = self.density(p)
        with self.disc.mesh.ranks.raising_together(), np.errstate(all="ignore"):
            energy = self._evaluate("value", rho)
            at_rho = (p - self.V) * rho - energy
            zeros = np.zeros(len(p))
            at_zero = -self._evaluate("value", zeros)
            values = np.where(rho > 0, at_rho, at_zero)

        values[np.isinf(rho)] = np.inf
        own_sum = (self.disc.volume * values).sum()
        return self.disc.mesh.ranks.sum(own_sum)


class EndState:
    """The iteration's copy of phi^N: z (n_patches,) and the density at the end, rho1 (n_patches,).

    rho1 = r sigma_P l.

    metric : theta_e^2
    sigma : (n_patches,) the local penalty
    r : the penalty at the beginning
    """

    def __init__(self, terminal: Terminal, rho1: Array, metric: float, sigma: Array, r: float):
        self.terminal = terminal
        self.scale = metric * sigma
        self.r = r
        mass = terminal.disc.masses(rho1[:, None]).sum()
        floor = SMALLEST_START_RATIO * mass / terminal.measure
        self.rho1 = np.maximum(rho1, floor)
        self.z = -terminal.derivative(self.rho1) - self._k * self.rho1

    @property
    def _k(self):
        return 1 / (self.r * self.scale)

    def sweep(self, phi: Array, alpha: float = 1.8, kappa: float = 1.0) -> Array:
        """Move the state with phi (n_cells,) at the last node.

        Returns sigma m theta_e^2 (2 q - z) (n_cells,) of the new state.
        """
        disc = self.terminal.disc
        mean = disc.average(phi)
        self.z += alpha * (mean - self.z - self._k * self.rho1)
        self.rho1 = self.terminal.density(-self.z, self._k, self.rho1)
        q = self.z + self._k * self.rho1
        self.r *= kappa
        self.z = q - self._k * self.rho1
        side = self.scale * (2 * q - self.z)
        return disc.mesh.volume * disc.spread(side)

    def right_hand_side(self) -> Array:
        """sigma m theta_e^2 (2 q - z) (n_cells,) of the state as it is."""
        disc = self.terminal.disc
        z = self.z + 2 * self._k * self.rho1
        side = self.scale * z
        return disc.mesh.volume * disc.spread(side)


def _refuse_cell_values(energy):
    """`InputError` where a potential is given by cell values: here energies live on patches."""
    if any(isinstance(part, Potential) and part.has_cell_values for _, part in split_sum(energy)):
        raise InputError("terminal: a Potential of cell values is for JKO: give a function V(x)")
