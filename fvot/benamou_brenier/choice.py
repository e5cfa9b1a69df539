"""Which discretisation a transport problem has: two-point slopes where W2^2 then converges, else
diamonds.
"""

from __future__ import annotations

from typing import Any

from ..arguments.types import Scheme
from ..errors import MeshError
from ..mesh import Numbering, quality
from .diamonds import DiamondDiscretisation
from .two_point import TwoPointDiscretisation


def choose_discretisation(
    numbering: Numbering, n_steps: int, scheme: Scheme
) -> TwoPointDiscretisation | DiamondDiscretisation:
    """The discretisation of a mesh in n_steps slabs. Collective.

    "auto" takes two-point slopes where cell points are apart and the error of W2^2 to expect is
    that of the resolution, and where cells are not star-shaped.
    """
    mesh: Any = numbering.user_mesh
    report = mesh.quality
    problem = report.transport_problem
    is_right = report.suits_two_point and not problem
    if scheme == "corners" or scheme == "auto" and not is_right:
        try:
            return DiamondDiscretisation(numbering.mesh, n_steps)
        except MeshError as error:
            if scheme == "corners":
                raise
            problem = f"two-point fluxes are taken: {error}"

    quality.use_two_point(mesh, "transport with two-point fluxes", problem)
    return TwoPointDiscretisation(numbering.mesh, n_steps)
