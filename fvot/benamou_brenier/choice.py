"""Which discretisation a transport problem has: two-point slopes where W2^2 then converges, else
diamonds.
"""

from __future__ import annotations

from typing import Any

from ..arguments.types import Scheme
from ..errors import MeshError, warn
from ..mesh import Numbering, quality
from .diamonds import DiamondDiscretisation
from .growth import Growth
from .two_point import TwoPointDiscretisation


def choose_discretisation(
    numbering: Numbering, n_steps: int, scheme: Scheme, growth: Growth | None = None
) -> TwoPointDiscretisation | DiamondDiscretisation:
    """The discretisation of a mesh in n_steps slabs. Collective.

    "auto" takes two-point slopes where cell points are apart and the error of W2^2 to expect is
    that of the resolution, and where cells are not star-shaped.
    """
    mesh: Any = numbering.user_mesh
    report = mesh.quality
    problem = report.transport_problem
    what = "scheme='two_point'"
    if scheme == "corners" or scheme == "auto" and not report.suits_two_point_transport:
        try:
            disc = DiamondDiscretisation(numbering.mesh, n_steps, growth)
        except MeshError as error:
            if scheme == "corners":
                raise
            what = f"{error}; as they are, transport"
            problem = "; ".join(filter(None, [f"two-point fluxes are used: {error}", problem]))
        else:
            _warn_of_moments(mesh, quality.CORNERS)
            return disc

    if scheme == "two_point" and problem:
        remedy = "" if report.n_hidden else "; scheme='corners' is accurate here"
        problem = f"with scheme='two_point' {problem}{remedy}"
    quality.use_two_point(mesh, what, problem)
    if not problem:
        _warn_of_moments(mesh, quality.TWO_POINT)
    return TwoPointDiscretisation(numbering.mesh, n_steps, growth=growth)


def _warn_of_moments(mesh, scheme):
    """Warn of lopsided patches, where the figure is that of the scheme."""
    report = mesh.quality
    if report.moment_problem and report.transport_scheme == scheme and mesh.ranks.is_root:
        warn(report.moment_problem)
