"""Which fluxes a Fokker-Planck equation has: two-point ones where they are consistent, else those
to corners.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments.types import Scheme
from ..errors import MeshError, warn
from ..finite_volume.fluxes import describe_flux, scharfetter_gummel
from ..mesh import Numbering, quality
from .coefficients import Terms
from .corners import CornerDriftDiffusion
from .two_point import TwoPointDriftDiffusion

# Sine of the angle between D n and n, up to which a tensor needs no corners: round-off.
CONORMAL_TOLERANCE = 1e-9


def build_operator(
    numbering: Numbering, terms: Terms, scheme: Scheme
) -> TwoPointDriftDiffusion | CornerDriftDiffusion:
    """The operator of the terms. Collective.

    Two-point fluxes need lines between cell points that are orthogonal to the faces, and tensors
    that leave these lines as they are. "auto" takes corners where that is not so, except where
    cells are not star-shaped, or the user asks for a two-point flux.
    """
    users: Any = numbering.user_mesh
    report = users.quality
    if scheme == "corners":
        return CornerDriftDiffusion(numbering, terms)

    two_point = TwoPointDriftDiffusion(numbering, terms)
    is_right = report.suits_two_point and _is_conormal(two_point)
    if is_right:
        return two_point
    wants_corners = scheme == "auto" and terms.flux is scharfetter_gummel
    if wants_corners:
        try:
            return CornerDriftDiffusion(numbering, terms)
        except MeshError as error:
            if users.ranks.is_root:
                warn(f"two-point fluxes are taken: {error}")
    elif scheme == "auto" and users.ranks.is_root:
        warn(
            f"flux={describe_flux(terms.flux)} is a two-point flux, which this mesh or this "
            "diffusion is not made for; without flux= the equation is solved with corners"
        )
    quality.use_two_point(users, "scheme='two_point'", report.diffusion_problem)
    return two_point


def _is_conormal(operator):
    """Whether D n has the direction of n at all faces, on both sides. Collective."""
    if not operator.has_tensors:
        return True
    mesh = operator.mesh
    D = mesh.with_ghosts(operator.diffusion(0.0))
    n = mesh.n_inner
    faces = np.concatenate([np.arange(mesh.n_faces), np.arange(n)])
    cells = np.concatenate([mesh.left, mesh.right[:n]])
    normal = mesh.normal[:, faces]
    conormal = np.einsum("ijf,jf->if", D[:, :, cells], normal)
    along = (conormal * normal).sum(axis=0)
    across = np.linalg.norm(conormal - along * normal, axis=0)
    worst = (across - CONORMAL_TOLERANCE * np.linalg.norm(conormal, axis=0)).max(initial=-1.0)
    is_steady = not operator.diffusion_depends_on_time or operator.is_diagonal
    return bool(mesh.ranks.max(max(worst, float(not is_steady))) <= 0)
