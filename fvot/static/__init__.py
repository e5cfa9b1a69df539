"""Static optimal transport between discrete measures.

A measure is given by points (dim, n) with masses (n,); on a line, also by densities on intervals.

The functions are independent witnesses for `BenamouBrenier`. Linear programs are solved by POT
(Flamary et al. 2021) and assignments by SciPy. Entropic plans are found by over-relaxed Sinkhorn
iteration and by Newton's method. `Mesh.to_points` (or `Result.to_points`) turns a density on a mesh
into points, and `Mesh.deposit` does the reverse.

Every rank computes the same thing, in double precision. Two masses count as equal if they differ by
a relative 1e-10, or by 1e-6 where the data come in single precision; the mass of the first measure
is then used.
"""

from ..arguments.renamed import renamed
from .entropic import sinkhorn
from .line import monotone_map, wasserstein_1d
from .plans import (
    Plan,
    cost_matrix,
    displacement_interpolation,
    kantorovich,
    monge,
    wasserstein,
)

# The names of these two before release 0.2.
costs = renamed(cost_matrix, "fvot.static.costs", "fvot.static.cost_matrix")
displacement = renamed(
    displacement_interpolation,
    "fvot.static.displacement",
    "fvot.static.displacement_interpolation",
)

__all__ = [
    "Plan",
    "cost_matrix",
    "displacement_interpolation",
    "kantorovich",
    "monge",
    "monotone_map",
    "sinkhorn",
    "wasserstein",
    "wasserstein_1d",
]
