"""Which fluxes a Fokker-Planck equation has: two-point ones where they are consistent, else those
to corners.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments.types import Scheme
from ..errors import MeshError
from ..finite_volume.fluxes import describe_flux, scharfetter_gummel
from ..mesh import Numbering, quality
from ..mesh.coordinates import refuse_radial
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
    mesh: Any = numbering.user_mesh
    report = mesh.quality
    if scheme == "corners":
        return CornerDriftDiffusion(numbering, terms)

    two_point = TwoPointDriftDiffusion(numbering, terms)
    sine = _find_conormal_sine(two_point)
    if report.suits_two_point and sine <= CONORMAL_TOLERANCE:
        return two_point

    if sine > CONORMAL_TOLERANCE:
        refuse_radial(
            mesh,
            "diffusion with entries beside the diagonal",
            "it needs fluxes to corners; give (D_r, D_z)",
        )
    problem = _describe_problem(report, sine)
    remedy = f"{problem}; scheme='corners' is accurate here" if problem else ""
    what = "scheme='two_point'"
    if scheme == "auto" and terms.flux is scharfetter_gummel:
        try:
            return CornerDriftDiffusion(numbering, terms)
        except MeshError as error:
            what = "diffusion where cells are not star-shaped"
            remedy = "; ".join(filter(None, [f"two-point fluxes are used: {error}", problem]))
    elif scheme == "auto":
        what = f"flux={describe_flux(terms.flux)}"
        remedy = f"{what} is a two-point flux. {remedy}" if problem else ""
    quality.use_two_point(mesh, what, remedy)
    return two_point


def _describe_problem(report, sine):
    """A sentence for users of two-point fluxes on this mesh, or for this tensor; "" where they are
    right.
    """
    if sine <= CONORMAL_TOLERANCE:
        return report.diffusion_problem
    return (
        f"D n is up to {math.degrees(math.asin(min(sine, 1))):.2g} degrees off the normals n of "
        "faces, and two-point fluxes use n.D n only: they compute a different diffusion, on "
        "finer meshes, too"
    )


def _find_conormal_sine(operator):
    """The largest sine of the angle between D n and n at the faces, on both sides; 1 where that may
    change in time. Collective.
    """
    if not operator.has_tensors:
        return 0.0
    mesh = operator.mesh
    D = mesh.with_ghosts(operator.diffusion(0.0))
    n = mesh.n_inner
    faces = np.concatenate([np.arange(mesh.n_faces), np.arange(n)])
    cells = np.concatenate([mesh.left, mesh.right[:n]])
    normal = mesh.normal[:, faces]
    conormal = np.einsum("ijf,jf->if", D[:, :, cells], normal)
    along = (conormal * normal).sum(axis=0)
    across = np.linalg.norm(conormal - along * normal, axis=0)
    size = np.linalg.norm(conormal, axis=0)
    sine = np.divide(across, size, out=np.zeros_like(size), where=size > 0)

    may_turn = operator.diffusion_depends_on_time and not operator.is_diagonal
    return mesh.ranks.max(max(sine.max(initial=0.0), float(may_turn)))
