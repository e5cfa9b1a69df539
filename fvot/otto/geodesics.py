"""Gradients of energies, and paths along them.

Mass moves along straight lines, with the gradient of the potential: from cell to cell by
least-squares gradients, corrected for the curvature, which are exact for linear potentials on every
mesh.
"""

from __future__ import annotations

import math

import numpy as np

from ..arguments.functions import as_floats, is_number
from ..arguments.types import Array, ArrayLike, Scheme
from ..energies.checks import describe_energy, refuse_time
from ..energies.energy import Energy
from ..energies.free_energy import FreeEnergy
from ..errors import InputError
from ..finite_volume.stencil import Stencil, gradient_weights, gradients
from ..mesh import Mesh, Numbering
from ..mesh.cell_values import check_density
from ..mesh.means import divide_cells
from .choice import choose_metric
from .density_metric import check_values

# Times that the gradient of a potential is corrected by its curvature.
CURVATURE_PASSES = 2

# Parts of the mass of each cell along a geodesic, at least.
FEWEST_CELL_PARTS = 16

# The same, at most.
MOST_CELL_PARTS = 1024

# Parts of the mass of all cells along a geodesic, about.
TOTAL_PARTS = 1e6


def wasserstein_gradient(
    mesh: Mesh, rho: Array, energy: Energy, *, scheme: Scheme = "auto"
) -> Array:
    """The potential E'(rho) of the Wasserstein gradient grad E'(rho).

    Along the flow d rho/dt = div(rho grad E'(rho)) the energy falls as dE/dt = -norm(E'(rho))^2.
    Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density.
    energy : Energy
        As for `JKO`.
    scheme : {"auto", "two_point", "corners"}
        As in `tangent_potential`: energies are taken at the points of the cells, or at their
        centroids.

    Returns
    -------
    array (n_cells,)
        E'(rho).

    Raises
    ------
    InputError
        Where E' is infinite: for entropies rho must be above 0. Also for a rho that is not a
        density, and an energy that is not one.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, Power, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> otto.wasserstein_gradient(mesh, np.ones(4), Power(2)).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    mesh.ranks.check(
        isinstance(energy, Energy),
        f"energy must be one, such as fvot.Entropy(), not {energy!r:.60}",
    )
    mesh.ranks.check_same("the energy", describe_energy(energy))
    check_density(mesh, rho, "rho")
    with mesh.ranks.raising_together():
        refuse_time(energy, "wasserstein_gradient")

    points = choose_metric(mesh, scheme).find_points(mesh)
    free = FreeEnergy(Numbering(mesh, mesh), energy, points)
    slope = free.derivative(rho) + free.potential(rho)
    with mesh.ranks.raising_together():
        bad = np.flatnonzero(~np.isfinite(slope))
        if len(bad):
            raise InputError(
                f"E'(rho) is {slope[bad[0]]} at {points[:, bad[0]]}, where rho = "
                f"{rho[bad[0]]:.3g}: it must be finite; add a little mass there"
            )

    return slope


def exponential_map(
    mesh: Mesh, rho: Array, phi: Array, t: float, *, scheme: Scheme = "auto"
) -> Array:
    """(id + t grad phi) # rho: the geodesic from rho with the initial velocity grad phi.

    It is a geodesic as long as no paths cross. Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density at time 0.
    phi : array (n_cells,)
        The potential of the velocity: what `tangent_potential` gives, or its values at the places
        that the scheme says.
    t : float
        The time.
    scheme : {"auto", "two_point", "corners"}
        As in `tangent_potential`: phi has its values at `mesh.center` with two-point sums, and at
        `mesh.centroid` with corners.

    Returns
    -------
    array (n_cells,)
        The density at time t.

    Raises
    ------
    InputError
        Where mass would leave the mesh by more than the size of a cell, which is the possible error
        of gradients at walls. Also for a rho that is not a density, and a phi or t that is not
        finite.

    Notes
    -----
    The mass of each cell moves in k^dim small parts, along the gradient of phi, which is linear in
    cells; k is 32 in the plane (less beyond 1000 cells). Mass is conserved to round-off. Counting
    parts gives the density a noise of about 1/k, and displacements below half the spacing of the
    parts may not be resolved. On periodic meshes parts cross the period.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> rho = np.array([4.0, 0, 0, 0])
    >>> otto.exponential_map(mesh, rho, mesh.center[0], 0.5).round(6).tolist()
    [0.0, 0.0, 4.0, 0.0]
    """
    check_density(mesh, rho, "rho")
    check_values(mesh, phi, "phi")
    mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a finite number, not {t!r}")
    mesh.ranks.check_same("t", t)

    points = choose_metric(mesh, scheme).find_points(mesh)
    v, slope = _differentiate(mesh, phi, points)

    n_parts = np.clip(TOTAL_PARTS / mesh.n_cells_global, FEWEST_CELL_PARTS, MOST_CELL_PARTS)
    x, share, cell = divide_cells(mesh, int(n_parts))
    offset = x - points[:, cell]
    change = np.einsum("ijk,jk->ik", slope[:, :, cell], offset)
    velocity = v[:, cell] + change
    moved = x + t * velocity

    density = np.asarray(rho)[cell]
    mass = share * density
    room = mesh.volume[cell] ** (1 / mesh.dim)
    has_mass = density > 0
    moved = mesh.ranks.all_gather(moved[..., has_mass])
    mass = mesh.ranks.all_gather(mass[..., has_mass])
    room = mesh.ranks.all_gather(room[..., has_mass])
    places = _bring_back(mesh, moved, room)
    return mesh.deposit(places, mass)


def duality_map(v: ArrayLike, q: float) -> Array:
    """|v|^(q - 2) v, the duality map from L^q to L^p, 1/p + 1/q = 1.

    Tangent vectors of W_p are duality maps of gradients (Ambrosio, Gigli, Savare 2008, 8.3).

    Parameters
    ----------
    v : array (dim, n)
        Vectors.
    q : float
        The exponent, above 1.

    Returns
    -------
    array (dim, n)
        0 where v = 0.

    Raises
    ------
    InputError
        For a q that is not a number above 1, and a v that is not an array of numbers.

    Examples
    --------
    >>> from fvot import otto
    >>> otto.duality_map([[3.0, 0.0], [4.0, 0.0]], 3).tolist()
    [[15.0, 0.0], [20.0, 0.0]]
    """
    if not is_number(q) or not 1 < q < math.inf:
        raise InputError(f"q must be a number above 1, not {q!r}")

    vectors = as_floats(v, "v must be vectors (dim, n) of numbers")
    size = 1.0
    if q != 2:
        squares = np.atleast_1d(vectors**2)
        size = np.sqrt(squares.sum(axis=0))

    is_zero = size == 0
    factor = np.where(is_zero, 1.0, size) ** (q - 2)
    return np.where(is_zero, 0.0, factor * vectors)


# ---- velocities --------------------------------------------------------------------------------


def _differentiate(mesh, phi, points):
    """(gradient (dim, n_cells), Hessian (dim, dim, n_cells)) of values phi (n_cells,) at points.

    Least squares alone take the curvature for a slope where the neighbours are on one side, as
    those of a wall and of a circumcentre are.
    """
    stencil = Stencil(mesh)
    span = stencil.span_points(points)
    weights = gradient_weights(stencil, span)
    linear = gradients(mesh, stencil, weights, phi[None])[0]
    v = linear
    for _ in range(CURVATURE_PASSES):
        slope = gradients(mesh, stencil, weights, v)
        bend = np.einsum("in,ijn,jn->n", span, slope[:, :, stencil.cell], span) / 2
        v = linear - np.stack([stencil.cell_sum(w * bend) for w in weights])
    return v, gradients(mesh, stencil, weights, v)


# ---- parts -------------------------------------------------------------------------------------


def _bring_back(mesh, points, room):
    """points (dim, n), those outside the mesh moved to the nearest point inside.

    room (n,) : how far outside a point may be
    """
    inside = mesh.nearest(points)
    excess = np.sqrt(((points - inside) ** 2).sum(axis=0)) - room
    if excess.max(initial=0.0) > 0:
        worst = int(excess.argmax())
        raise InputError(
            f"mass would leave the mesh: {np.mean(excess > 0):.1%} of its parts end outside, one "
            f"at {points[:, worst]}, {excess[worst] + room[worst]:.3g} from it; take a smaller t, "
            "or a phi whose gradient does not point through walls"
        )

    return inside
