"""Static optimal transport between discrete measures: points (dim, n) with weights (n,), on a line
also densities on intervals.

An independent witness for `BenamouBrenier`: the linear programs are POT's (Flamary et al. 2021),
assignments SciPy's; plans with an entropy are found by Sinkhorn's iteration, over-relaxed, and by
Newton's method. `Mesh.to_points` (or `Result.to_points`) and `Mesh.deposit` are the bridge from a
mesh to points and back. Every rank computes the same thing, in double precision; the masses of two
measures are the same if they differ by 1e-10 of themselves, or by 1e-6 where they come in single
precision, and those of the first one count.
"""

from .entropic import sinkhorn
from .line import monotone_map, wasserstein_1d
from .plans import Plan, costs, displacement, kantorovich, monge, wasserstein

__all__ = [
    "Plan",
    "costs",
    "displacement",
    "kantorovich",
    "monge",
    "monotone_map",
    "sinkhorn",
    "wasserstein",
    "wasserstein_1d",
]
