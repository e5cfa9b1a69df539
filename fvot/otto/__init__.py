"""Otto's geometry of densities: tangent vectors are potentials.

The metric is <phi, psi> = int rho grad phi . grad psi. A change drho of a density is the tangent
vector of the potential psi with -div(rho grad psi) = drho. On a mesh whose faces are orthogonal to
the lines between cell points,

    sum over the faces of K of t_s rho_s (psi_K - psi_other) = |K| drho_K,
    t_s = |s| / d_s,   rho_s = (rho_left + rho_right) / 2

On other meshes these sums are not consistent. There psi has values at the corners of cells, too,
and is linear on the simplices T of the centroid of a cell and one of its faces; both sides of a
face share the mobility rho_s, each by its part lam_K of their volume:

    <phi, psi> = sum_s rho_s sum_T |T| grad phi . grad psi,   rho_s = lam_left rho_left +
    lam_right rho_right

The equations are that <phi, psi> = sum_K |K| phi_K drho_K for all phi, and the values at corners
those of least <psi, psi>. This is of second order on every mesh whose cells are star-shaped about
their centroids. Values of cells then are averages, or values at `mesh.centroid`.

Where rho_s = 0 nothing can move: each connected component of the rest has its own psi, up to a
constant. (Otto 2001)
"""

from ..arguments.renamed import renamed
from .geodesics import duality_map, exponential_map, wasserstein_gradient
from .geometry import length, metric, norm, tangent_potential

# Its name before release 0.2.
j_q = renamed(duality_map, "fvot.otto.j_q", "fvot.otto.duality_map")

__all__ = [
    "duality_map",
    "exponential_map",
    "length",
    "metric",
    "norm",
    "tangent_potential",
    "wasserstein_gradient",
]
