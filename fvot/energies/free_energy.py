"""The energy of a gradient flow on a mesh: E(rho) = sum_K |K| (e(rho_K, x_K) + V(x_K) rho_K + (W *
rho)_K rho_K / 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.types import Array
from ..mesh.cell_values import integrate
from .checks import check_own, depends_on_time, separate_parts
from .convolution import build_convolution
from .energy import Energy, split_sum
from .interaction import Interaction
from .local import Potential

if TYPE_CHECKING:
    from ..mesh.numbering import Numbering

# The part of the mean density below which no density falls in Newton's method.
NEWTON_FLOOR = 1e-14

# The part of a density that one step of Newton's method leaves at least.
MIN_NEWTON_FACTOR = 0.05

# The diffusivity of an empty cell at the start of Newton's method, in units of that of the mean
# density, at most.
MAX_START_DIFFUSIVITY = 100

# The step of differences in the place, in units of the cell's width.
GRADIENT_STEP = 1e-3

# Densities between the floor and the mean among which the start is chosen.
START_CANDIDATES = 57


class FreeEnergy:
    """An energy (`energies`) on a mesh; arrays are this rank's cells. Collective.

    energy : the sum of energies
    times : at which potentials are taken: their mean; `parts` takes the last one
    depends_on_time : whether a potential does
    diffuses : whether there is a local energy that is not a potential
    convolve : rho -> W * rho, the sum over all interactions; None where there is none
    measure : of the mesh
    singular : whether e' is infinite at 0, so that densities stay above 0
    """

    def __init__(self, numbering: Numbering, energy: Energy, points: Array | None = None):
        """numbering : the `Numbering` of the densities that come
        points (dim, n_cells) : where energies are taken, in the user's order; None for the points
            of the cells
        """
        mesh = numbering.mesh
        self.numbering = numbering
        self.mesh = mesh
        self._user_points = numbering.user_mesh.center if points is None else points
        self._points = numbering.inward(self._user_points)
        self.energy = energy
        self._parts = split_sum(energy)
        self.times: tuple[float, ...] = (0.0,)
        self.depends_on_time = depends_on_time(energy)
        with mesh.ranks.raising_together():
            potential, local, pairs = separate_parts(energy, self._user_points)
            check_own(energy, self._points, 1.0)
        self._V = numbering.inward(potential)
        self._local = local
        self.diffuses = bool(local.parts)
        self.convolve = _add_maps(
            [(weight, build_convolution(mesh, pair.kernel, self._points)) for weight, pair in pairs]
        )
        self.measure = integrate(mesh, 1.0)

        empty = np.zeros(mesh.n_cells)
        _, slope = self.difference(empty, empty)
        self.singular = mesh.ranks.max(int(not np.isfinite(slope).all())) > 0

    def set_times(self, *times: float) -> None:
        """Take potentials at these times."""
        if not self.depends_on_time or times == self.times:
            return
        self.times = times
        self._V = np.mean([self.find_potential(t) for t in times], axis=0)

    def find_potential(self, t: float) -> Array:
        """V (n_cells,) at a time."""
        with self.mesh.ranks.raising_together():
            V, _, _ = separate_parts(self.energy, self._user_points, t)
        return self.numbering.inward(V)

    def parts(self, rho: Array) -> dict[str, float]:
        """{name: value} of each kind of energy, "energy" for their sum."""
        mesh = self.numbering.user_mesh
        users_rho = self.numbering.outward(rho)
        values: dict[str, float] = {}
        for weight, part in self._parts:
            if isinstance(part, Interaction):
                continue
            with mesh.ranks.raising_together():
                if isinstance(part, Potential):
                    density = part.values(self._user_points, self.times[-1]) * users_rho
                else:
                    density = part.value(users_rho, self._user_points)
            values[part.name] = values.get(part.name, 0.0) + weight * integrate(mesh, density)

        if self.convolve is not None:
            values[Interaction.name] = integrate(self.mesh, self.convolve(rho) * rho) / 2
        total = {"energy": sum(values.values())}
        return total | values if len(values) > 1 else total

    @property
    def external(self) -> Array:
        """V (n_cells,), the sum of the potentials in the energy."""
        return self._V

    def osmotic_pressure(self, rho: Array) -> Array:
        """rho e'(rho) - e(rho) (n_cells,): a gradient of rho drives mass by minus its gradient."""
        x = self._points
        with self.mesh.ranks.raising_together(), np.errstate(divide="ignore", invalid="ignore"):
            product = rho * self._local.derivative(rho, x)
            return np.where(rho > 0, product, 0.0) - self._local.value(rho, x)

    def explicit_gradient(self, rho: Array) -> Array:
        """The gradient (dim, n_cells) of e(rho, x) in x alone: 0 unless an energy of a user's own
        depends on the place.
        """
        mesh = self.mesh
        step = GRADIENT_STEP * mesh.flat_volume ** (1 / mesh.dim)
        gradient = np.zeros((mesh.dim, len(rho)))
        with mesh.ranks.raising_together():
            for axis in range(mesh.dim):
                shift = np.zeros_like(self._points)
                shift[axis] = step
                after = self._local.value(rho, self._points + shift)
                before = self._local.value(rho, self._points - shift)
                gradient[axis] = (after - before) / (2 * step)
        return gradient

    def potential(self, rho: Array) -> Array:
        """V + W * rho (n_cells,)."""
        return self._V if self.convolve is None else self._V + self.convolve(rho)

    def derivative(self, rho: Array) -> Array:
        """e'(rho) (n_cells,), without potentials and interactions."""
        return self._evaluate("derivative", rho)

    def curvature(self, rho: Array) -> Array:
        """e''(rho) (n_cells,)."""
        return self._evaluate("curvature", rho)

    def difference(self, rho: Array, old: Array) -> Any:
        """((e(rho) - e(old)) / (rho - old), its derivative in rho), (n_cells,) each."""
        if not self.diffuses:
            return np.zeros((2, len(rho)))
        with (
            self.mesh.ranks.raising_together(),
            np.errstate(divide="ignore", invalid="ignore", over="ignore"),
        ):
            return self._local.difference(rho, old, self._points)

    def start(self, mean: float) -> float:
        """The density from which Newton's method can begin in an empty cell, where e' is infinite
        at 0; else 0.

        NEWTON_FLOOR of the mean, or more where the diffusivity rho e'' would exceed
        MAX_START_DIFFUSIVITY times that of the mean: in fast diffusion.
        """
        if not self.singular:
            return 0.0
        parts = np.append(np.geomspace(NEWTON_FLOOR, 1, START_CANDIDATES), 1.0)
        rho = mean * parts
        x = self._points[:, :1]
        with self.mesh.ranks.raising_together():
            has_cells = x.shape[1] > 0
            places = np.repeat(x, len(rho), axis=1) if has_cells else np.zeros((len(x), len(rho)))
            diffusivity = rho * self._local.curvature(rho, places)
        is_moderate = diffusivity <= MAX_START_DIFFUSIVITY * diffusivity[-1]
        return self.mesh.ranks.max(rho[np.argmax(is_moderate)])

    def _evaluate(self, method, rho):
        with self.mesh.ranks.raising_together(), np.errstate(divide="ignore", over="ignore"):
            return np.zeros(len(rho)) + getattr(self._local, method)(rho, self._points)


def _add_maps(maps: list[tuple[float, Callable[[Array], Array]]]):
    if not maps:
        return None
    return lambda rho: sum(weight * apply(rho) for weight, apply in maps)
