"""Which metric a mesh has: two numbers for each face where that is consistent, else corners."""

from __future__ import annotations

from typing import get_args

from ..arguments.types import Scheme
from ..errors import MeshError
from ..finite_volume.corners import find_corners
from ..mesh import Mesh, quality
from ..mesh.coordinates import refuse_radial
from .corners import CornerMetric
from .density_metric import DensityMetric
from .two_point import TwoPointMetric


def choose_metric(mesh: Mesh, scheme: Scheme) -> type[DensityMetric]:
    """The `DensityMetric` of a mesh. Collective.

    "auto" takes corners where two-point sums are not consistent, except where cells are not
    star-shaped.
    """
    mesh.ranks.check_choice("scheme", scheme, get_args(Scheme))
    refuse_radial(mesh, "metric of densities", "take one in Cartesian coordinates")
    report = mesh.quality
    if scheme == "corners":
        find_corners(mesh)
        return CornerMetric
    if report.suits_two_point:
        return TwoPointMetric

    problem = report.metric_problem
    remedy = f"{problem}; scheme='corners' is accurate here" if problem else ""
    if scheme == "auto":
        try:
            find_corners(mesh)
            return CornerMetric
        except MeshError as error:
            taken = f"two-point fluxes are used: {error}"
            remedy = f"{taken}; {problem}" if problem else taken
    quality.use_two_point(mesh, "Otto's metric", remedy)
    return TwoPointMetric
