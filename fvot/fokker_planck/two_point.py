"""Two-point fluxes of the Fokker-Planck equation: two numbers for each face.

    F_s = a_s rho_left - b_s rho_right,   (a, b) = flux(U, k)
    k = D_s |s| / d_s,   U = |s| ((b.n)_s - m_s (V_right - V_left) / d_s)

D_s is the harmonic mean of n.D n in the two cells, (b.n)_s the mean over the face, and m_s is
D_s / T where there is a temperature, else 1; V enters by differences only. On boundary faces
`dirichlet` puts its density at the face, at the distance of the cell's own point; for `robin` the
density there follows from the balance of fluxes, see there. `inflow` and `outflow` let through what
the drift carries, and no diffusion.

These fluxes are consistent where the lines between cell points are orthogonal to the faces, and
D n is, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments.types import Array
from ..errors import InputError
from ..finite_volume.boundary import AT_FACES, evaluate_densities, evaluate_rates
from ..finite_volume.fluxes import evaluate_flux, limited, muscl, scharfetter_gummel
from ..finite_volume.implicit_step import Resolvent
from ..finite_volume.limited_flux import LimitedCorrection
from ..finite_volume.rates import Rates, SparsityPattern
from ..mesh import Numbering
from .coefficients import SLOPE_STEP, DriftDiffusion, Terms


class NormalDiffusion(NamedTuple):
    """n.D n on both sides of faces: numbers, or (n_faces,) in the left cells and (n_inner,) in the
    right ones.
    """

    left: Array | float
    right: Array | float


class TwoPointDriftDiffusion(DriftDiffusion):
    """A `DriftDiffusion` with two-point fluxes, see the module."""

    resolvent = Resolvent

    def __init__(self, numbering: Numbering, terms: Terms, points: Array | None = None):
        """points (dim, n_cells) : where functions are taken; None for the points of the cells."""
        mesh = numbering.mesh
        is_limited = isinstance(terms.flux, limited)
        self.flux = scharfetter_gummel if terms.flux is None or is_limited else terms.flux
        with mesh.ranks.raising_together():
            if not callable(self.flux) or self.flux is muscl:
                raise InputError(
                    "flux must be fvot.scharfetter_gummel, fvot.limited(), fvot.square_root, "
                    "fvot.upwind, fvot.central, or a function (U, k) -> (a, b), not "
                    f"{self.flux!r:.60}"
                )
        super().__init__(numbering, terms, numbering.user_mesh.center if points is None else points)
        self.pattern = SparsityPattern(mesh)
        if is_limited:
            self.correction = LimitedCorrection(mesh, self.pattern.stencil)

    def rates(self, t: float = 0.0, tilt: Array | None = None) -> Rates:
        """The `Rates` at time t. Raises `InputError` for a flux with negative or infinite
        coefficients.

        tilt (n_cells,) : psi of a further drift 2 D grad psi, which crosses no boundary
        """
        mesh = self.mesh
        n = self.mesh.n_inner
        D = self.diffusion(t)
        V = self.potential(t)
        along = self._project(D)
        resistance = self._compute_resistance(along)
        U = self._compute_velocity(V, along, resistance, t)
        k = mesh.area[:n] / resistance
        if tilt is not None:
            U[:n] += 2 * k * self._find_differences(tilt)

        a = np.zeros(mesh.n_faces)
        b = np.zeros(mesh.n_faces)
        a[:n], b[:n] = self._compute_coefficients(U[:n], k)
        for name, condition in self._kinds.items():
            faces = mesh.boundary[name]
            if isinstance(condition, AT_FACES):
                here = along.left if np.ndim(along.left) == 0 else along.left[faces]
                k = here * mesh.area[faces] / self._find_boundary_distance(name)
                a[faces], b[faces] = self._compute_coefficients(U[faces], k)
                if name in self._exit_rates:
                    part = self._find_transmitted_part(name, b[faces], t)
                    a[faces] *= part
                    b[faces] *= part
            else:
                a[faces] = np.maximum(U[faces], 0)
                b[faces] = np.maximum(-U[faces], 0)
        phi = self._compute_minus_log_gibbs(D, V)
        if tilt is not None and phi is not None:
            phi = phi - 2 * tilt
        return Rates(self.pattern, a, b, phi, self._compute_decay(t))

    def apply_generator(self, psi: Array, t: float) -> tuple[Array, Array]:
        """(|K| (b . grad psi + div(D grad psi)), |K| (grad psi . D grad psi)), both (n_cells,), of
        psi (n_cells,) in cells whose boundary is closed, with central differences and the drift b
        of potential, noise and flow. Collective.
        """
        mesh = self.mesh
        n = mesh.n_inner
        along = self._project(self.diffusion(t))
        resistance = self._compute_resistance(along)
        U = self._compute_velocity(self.potential(t), along, resistance, t)[:n]
        k = mesh.area[:n] / resistance
        change = self._find_differences(psi)

        linear = np.zeros(mesh.n_local)
        square = np.zeros(mesh.n_local)
        np.add.at(linear, mesh.left[:n], (U / 2 + k) * change)
        np.add.at(linear, mesh.right[:n], (U / 2 - k) * change)
        np.add.at(square, mesh.left[:n], k * change**2 / 2)
        np.add.at(square, mesh.right[:n], k * change**2 / 2)
        return linear[: mesh.n_cells], square[: mesh.n_cells]

    def _find_differences(self, psi):
        """psi_right - psi_left (n_inner,) of cell values. Collective."""
        mesh = self.mesh
        n = mesh.n_inner
        local = mesh.with_ghosts(psi)
        return local[mesh.right[:n]] - local[mesh.left[:n]]

    def entering(self, t: float = 0.0) -> Array:
        """The given density at each boundary face (n_faces - n_inner,), then the sources, see
        `Rates`. Collective.
        """
        at_faces = evaluate_densities(self.mesh, self._conditions, t, self.signed)
        return self._add_sources(at_faces, t)

    # ---- parts of the rates ---------------------------------------------------------------------

    def _project(self, D):
        """The `NormalDiffusion` of D."""
        mesh = self.mesh
        n = mesh.n_inner
        if np.ndim(D) == 0:
            return NormalDiffusion(D, D)
        local = mesh.with_ghosts(D)
        if np.ndim(D) == 1:
            return NormalDiffusion(local[mesh.left], local[mesh.right[:n]])

        normal = mesh.normal
        left = np.einsum("if,ijf,jf->f", normal, local[:, :, mesh.left], normal)
        inner = normal[:, :n]
        right = np.einsum("if,ijf,jf->f", inner, local[:, :, mesh.right[:n]], inner)
        return NormalDiffusion(left, right)

    def _compute_resistance(self, along):
        """d_s / D_s of the inner faces: the sum of distance / D on both sides."""
        mesh = self.mesh
        n = self.mesh.n_inner
        if np.ndim(along.left) == 0:
            return mesh.distance[:n] / along.left
        with np.errstate(divide="ignore"):  # where nothing diffuses across a face
            left = mesh.left_distance[:n] / along.left[:n]
            return left + mesh.right_distance[:n] / along.right

    def _compute_velocity(self, V, along, resistance, t):
        """U (n_faces,), see the module."""
        mesh = self.mesh
        n = mesh.n_inner
        U = np.zeros(mesh.n_faces)
        if V is not None:
            U -= mesh.area * mesh.gradient(V)
            self._add_boundary_potential(U, V, t)
        if V is not None and self.temperature is not None:
            U[:n] *= mesh.distance[:n] / resistance / self.temperature
            U[n:] *= (along.left if np.ndim(along.left) == 0 else along.left[n:]) / self.temperature
        if self._flow is not None or self.has_noise_drift:
            U += self.compute_drift_flux(t)
        return U

    def _find_transmitted_part(self, name, b, t):
        """theta of `robin` at the faces of that name, whose coefficients are b."""
        mesh = self.mesh
        with mesh.ranks.raising_together():
            rate = evaluate_rates(mesh, self._exit_rates[name], name, t)
        through = rate * mesh.area[mesh.boundary[name]]
        total = b + through
        return np.divide(through, total, out=np.zeros_like(total), where=total > 0)

    def _find_boundary_distance(self, name):
        """The distances of the cell points to the boundary faces of that name.

        `InputError` if a point lies on its face.
        """
        mesh = self.mesh
        faces = self.mesh.boundary[name]
        distance = mesh.left_distance[faces]
        least = mesh.ranks.min(distance.min(initial=np.inf))
        mesh.ranks.check(
            least > 0,
            f"the point of a cell at boundary {name!r} is at the distance {least:.3g} from it: a "
            "density can be given there only if the point is inside; make the cells at this "
            "boundary less obtuse, or use fvot.inflow",
        )
        return distance

    def _compute_coefficients(self, U, k):
        """(a, b) of the flux, checked."""
        remedy = "use fvot.scharfetter_gummel, or smaller cells"
        with self.mesh.ranks.raising_together():
            return evaluate_flux(self.flux, U, k, remedy)

    def _add_boundary_potential(self, U, V, t):
        """Add to U what grad V carries through boundary faces.

        Where the density is given: by the difference from the cell point to its foot on the face.
        Where only the drift crosses the face: by the normal derivative there, from inside.
        """
        mesh = self.mesh
        f = self._V.f
        for name, condition in self._kinds.items():
            faces = mesh.boundary[name]
            here = mesh.left[faces]
            normal = mesh.normal[:, faces]
            distance = mesh.left_distance[faces]
            if isinstance(condition, AT_FACES):
                if f is not None:  # cell values are constant up to the boundary
                    with mesh.ranks.raising_together():
                        change = f(self._at_cells(here) + distance * normal, t) - V[here]
                        U[faces] -= mesh.area[faces] * change / distance
                continue

            if self._V.constant:
                continue
            mesh.ranks.check(
                f is not None,
                "potential is given by cell values, which do not determine its slope at boundary "
                f"{name!r}: give a function, or fvot.dirichlet there",
            )
            step = SLOPE_STEP * mesh.flat_volume[here] / mesh.flat_area[faces]
            with mesh.ranks.raising_together():
                V0, V1, V2 = (
                    f(mesh.face_center[:, faces] - k * step * normal, t) for k in range(3)
                )
            U[faces] -= mesh.area[faces] * (3 * V0 - 4 * V1 + V2) / (2 * step)

    def _at_cells(self, cells):
        """The points (dim, n) at which those cells take the values of functions."""
        return self.numbering.inward(self.points)[:, cells]
