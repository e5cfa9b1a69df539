"""The energy of a gradient flow on a mesh: E(rho) = sum_K |K| (e(rho_K, x_K) + V(x_K) rho_K + (W *
rho)_K rho_K / 2).
"""

import numpy as np

from .convolution import convolution
from .local import Interaction, check_own, parts_of, separated

FLOOR = 1e-14  # of the mean density, below which none falls in Newton's method
SHRINK = 0.05  # what Newton's method leaves of a density at least
STIFF = 100  # times the diffusivity of the mean density


class FreeEnergy:
    """An energy (`energies`) on a mesh; arrays are this rank's cells. Collective.

    diffuses : whether there is a local energy that is not a potential
    convolve : rho -> W * rho, the sum over all interactions; None where there is none
    measure : of the mesh
    singular : whether e' is infinite at 0, so that densities stay above 0
    """

    def __init__(self, near, energy):
        """near : the `Numbering` in which densities come."""
        mesh = near.mesh
        self.near = near
        self.mesh = mesh
        self._parts = parts_of(energy)
        with mesh.ranks.raising_together():
            potential, local, pairs = separated(energy, near.users.center)
            check_own(energy, mesh.center, 1.0)
        self._V = near.inward(potential)
        self._local = local
        self.diffuses = bool(local.parts)
        self.convolve = _sum([(weight, convolution(mesh, pair.kernel)) for weight, pair in pairs])
        empty = np.zeros((2, mesh.n_cells))
        self.measure = mesh.integrate(1.0)
        self.singular = mesh.ranks.max(int(not np.isfinite(self.difference(*empty)[1]).all())) > 0

    def parts(self, rho):
        """{name: value} of each kind of energy, "energy" for their sum."""
        mesh = self.near.users
        users_rho = self.near.outward(rho)
        found = {}
        for weight, part in self._parts:
            if isinstance(part, Interaction):
                continue
            with mesh.ranks.raising_together():
                value = part.value(users_rho, mesh.center)
            value = weight * mesh.integrate(value)
            found[part.name] = found.get(part.name, 0.0) + value
        if self.convolve is not None:
            found[Interaction.name] = self.mesh.integrate(self.convolve(rho) * rho) / 2
        return {"energy": sum(found.values())} | (found if len(found) > 1 else {})

    def potential(self, rho):
        """V + W * rho (n_cells,)."""
        return self._V if self.convolve is None else self._V + self.convolve(rho)

    def derivative(self, rho):
        """e'(rho) (n_cells,), without potentials and interactions."""
        return self._of("derivative", rho)

    def curvature(self, rho):
        """e''(rho) (n_cells,)."""
        return self._of("curvature", rho)

    def difference(self, rho, old):
        """((e(rho) - e(old)) / (rho - old), its derivative in rho), (n_cells,) each."""
        if not self.diffuses:
            return np.zeros((2, len(rho)))
        with (
            self.mesh.ranks.raising_together(),
            np.errstate(divide="ignore", invalid="ignore", over="ignore"),
        ):
            return self._local.difference(rho, old, self.mesh.center)

    def start(self, mean):
        """The density from which Newton's method can begin in an empty cell, where e' is infinite
        at 0; else 0.

        FLOOR of the mean, or more where rho e'', the diffusivity, would be STIFF times that of the
        mean: in fast diffusion.
        """
        if not self.singular:
            return 0.0
        x = self.mesh.center[:, :1]
        rho = mean * np.append(np.geomspace(FLOOR, 1, 57), 1.0)
        with self.mesh.ranks.raising_together():
            x = (
                np.repeat(x, len(rho), axis=1)
                if x.shape[1]
                else np.zeros((self.mesh.dim, len(rho)))
            )
            diffusivity = rho * self._local.curvature(rho, x)
        return self.mesh.ranks.max(rho[np.argmax(diffusivity <= STIFF * diffusivity[-1])])

    def _of(self, method, rho):
        with self.mesh.ranks.raising_together(), np.errstate(divide="ignore", over="ignore"):
            return np.zeros(len(rho)) + getattr(self._local, method)(rho, self.mesh.center)


def _sum(maps):
    if not maps:
        return None
    return lambda rho: sum(weight * apply(rho) for weight, apply in maps)
