"""Otto's geometry of densities: tangent vectors are potentials.

The metric is <phi, psi> = int rho grad phi . grad psi. A change drho of a density is the tangent
vector of the potential psi with -div(rho grad psi) = drho; on a mesh

    sum over the faces of K of t_s rho_s (psi_K - psi_other) = |K| drho_K,
    t_s = |s| / d_s,   rho_s = (rho_left + rho_right) / 2

Where rho_s = 0 nothing can move: each connected component of the rest has its own psi, up to a
constant. (Otto 2001)

On meshes that are not orthogonal these sums are not consistent; a warning estimates the error.
"""

from __future__ import annotations

import math

import numpy as np

from . import linalg
from .arguments.functions import as_floats, is_number, refuse_masked
from .arguments.renamed import renamed
from .arguments.types import Array, ArrayLike
from .energies.checks import describe_energy
from .energies.energy import Energy
from .energies.free_energy import FreeEnergy
from .errors import ConvergenceError, InputError
from .finite_volume.rates import Rates, SparsityPattern
from .finite_volume.stencil import Stencil, gradient_weights, gradients
from .mesh import Mesh, Numbering, quality
from .mesh.cell_values import check_density, describe_wanted_shape
from .mesh.connected_pieces import find_connected_pieces
from .mesh.means import divide_cells

__all__ = [
    "duality_map",
    "exponential_map",
    "length",
    "metric",
    "norm",
    "tangent_potential",
    "wasserstein_gradient",
]

METRIC_PREFIX = "fvot_otto_"

# Relative tolerance of an iterative solve.
TANGENT_SOLVER_TOLERANCE = 1e-12

# Residual of the equations in L1, relative to the right-hand side, at most.
TANGENT_TOLERANCE = 1e-9

# The same relative to the sum of their terms, which are large at faces between cell points that
# nearly coincide.
TANGENT_ROUNDING = 1e-15

# Sum of drho in a component, relative to the L1 norm of drho, that counts as rounding.
BALANCE_TOLERANCE = 1e-10

# Parts of the mass of each cell along a geodesic, at least.
FEWEST_CELL_PARTS = 16

# The same, at most.
MOST_CELL_PARTS = 1024

# Parts of the mass of all cells along a geodesic, about.
TOTAL_PARTS = 1e6


def tangent_potential(mesh: Mesh, rho: Array, drho: Array) -> Array:
    """The potential psi with -div(rho grad psi) = drho.

    Of all velocities that change rho by drho, grad psi has the least kinetic energy. Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density.
    drho : array (n_cells,)
        Its change per time.

    Returns
    -------
    array (n_cells,)
        psi. Its mean in each component of the support, weighted by rho, is 0; psi is 0 where
        nothing can move.

    Raises
    ------
    InputError
        Where drho does not add up to 0 in a component: mass would have to cross the vacuum. Also
        for a rho that is no density, and a drho that is no finite number in each cell.
    ConvergenceError
        Where the linear system is not solved.

    Notes
    -----
    PETSc's options have the prefix fvot_otto_.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> psi = otto.tangent_potential(mesh, np.ones(4), np.array([-1.0, 0, 0, 1.0]))
    >>> np.diff(psi).round(6).tolist()
    [0.0625, 0.0625, 0.0625]
    """
    quality.use_two_point(mesh, "Otto's metric", mesh.quality.metric_problem)
    return _find_tangent_potential(mesh, rho, drho, _weigh_faces(mesh, rho))


def _find_tangent_potential(mesh, rho, drho, t):
    """The potential, for the weights t_s rho_s (n_inner,) of the faces."""
    _check_values(mesh, drho, "drho")
    component, count = find_connected_pieces(mesh, t > 0)

    def sum_over_components(*contents: Array) -> Array:
        return mesh.ranks.sum(
            np.stack([np.bincount(component, mesh.volume * u, count) for u in contents])
        )

    changed, size, mass = sum_over_components(drho, np.abs(drho), rho)
    worst = np.abs(changed).argmax()
    if abs(changed[worst]) > BALANCE_TOLERANCE * size.sum():
        raise InputError(
            f"drho adds up to {changed[worst]:.3g} in a connected part of the mesh, of mass "
            f"{mass[worst]:.3g}, which none can enter or leave: it must add up to 0 there, as mass "
            "is moved, not made"
        )

    has_mass = mass > 0
    rounding = np.divide(changed, mass, out=np.zeros(count), where=has_mass)
    matrix = _pin_components(mesh, t, component, count)
    psi = _solve(mesh, matrix, mesh.volume * (drho - rounding[component] * rho))

    moment = sum_over_components(rho * psi)[0]
    mean = np.divide(moment, mass, out=np.zeros(count), where=has_mass)
    return np.where(has_mass[component], psi - mean[component], 0.0)


def metric(mesh: Mesh, rho: Array, phi: Array, psi: Array) -> float:
    """<phi, psi>_rho = int rho grad phi . grad psi.

    On the mesh, the sum over the faces of t_s rho_s (phi_left - phi_right) (psi_left - psi_right).
    Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density.
    phi, psi : arrays (n_cells,)
        The potentials of two tangent vectors.

    Returns
    -------
    float
        The same on every rank.

    Raises
    ------
    InputError
        For values that are not finite numbers of the cells.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> x = mesh.center[0]
    >>> round(otto.metric(mesh, np.ones(4), x, 2 * x), 12)
    1.5
    """
    quality.use_two_point(mesh, "Otto's metric", mesh.quality.metric_problem)
    return _compute_metric(mesh, phi, psi, _weigh_faces(mesh, rho))


def _compute_metric(mesh, phi, psi, t):
    """<phi, psi>, for the weights t_s rho_s (n_inner,) of the faces."""
    n = mesh.n_inner
    for u, name in (phi, "phi"), (psi, "psi"):
        _check_values(mesh, u, name)

    local = mesh.with_ghosts(np.stack([phi, psi]))
    left = local[:, mesh.left[:n]]
    right = local[:, mesh.right[:n]]
    jump_of_phi, jump_of_psi = left - right
    products = t * jump_of_phi * jump_of_psi
    own_products = products[mesh.face_owned[:n]]
    return mesh.ranks.sum(own_products.sum())


def norm(mesh: Mesh, rho: Array, phi: Array) -> float:
    """|phi|_rho = <phi, phi>_rho^(1/2): the speed of the path whose velocity is grad phi.

    Parameters
    ----------
    mesh, rho, phi
        As in `metric`.

    Returns
    -------
    float
        The same on every rank.

    Raises
    ------
    InputError
        As `metric` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> round(otto.norm(mesh, np.full(4, 3.0), 2 * mesh.center[0]), 12)
    3.0
    """
    quality.use_two_point(mesh, "Otto's metric", mesh.quality.metric_problem)
    return math.sqrt(_compute_metric(mesh, phi, phi, _weigh_faces(mesh, rho)))


def wasserstein_gradient(mesh: Mesh, rho: Array, energy: Energy) -> Array:
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

    Returns
    -------
    array (n_cells,)
        E'(rho).

    Raises
    ------
    InputError
        Where E' is infinite: for entropies rho must be above 0. Also for a rho that is no density,
        and an energy that is none.

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

    free = FreeEnergy(Numbering(mesh, mesh), energy)
    slope = free.derivative(rho) + free.potential(rho)
    with mesh.ranks.raising_together():
        bad = np.flatnonzero(~np.isfinite(slope))
        if len(bad):
            raise InputError(
                f"E'(rho) is {slope[bad[0]]} at {mesh.center[:, bad[0]]}, where rho = "
                f"{rho[bad[0]]:.3g}: it must be finite; add a little mass there"
            )

    return slope


def exponential_map(mesh: Mesh, rho: Array, phi: Array, t: float) -> Array:
    """(id + t grad phi) # rho: the geodesic from rho with the initial velocity grad phi.

    It is a geodesic as long as no paths cross. Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density at time 0.
    phi : array (n_cells,)
        The potential of the velocity.
    t : float
        The time.

    Returns
    -------
    array (n_cells,)
        The density at time t.

    Raises
    ------
    InputError
        Where mass would leave the mesh by more than the size of a cell, which is the possible error
        of gradients at walls. Also for a rho that is no density, and a phi or t that is not finite.

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
    _check_values(mesh, phi, "phi")
    mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a finite number, not {t!r}")
    mesh.ranks.check_same("t", t)

    stencil = Stencil(mesh)
    weights = gradient_weights(stencil)
    v = gradients(mesh, stencil, weights, phi[None])[0]
    slope = gradients(mesh, stencil, weights, v)

    n_parts = np.clip(TOTAL_PARTS / mesh.n_cells_global, FEWEST_CELL_PARTS, MOST_CELL_PARTS)
    x, share, cell = divide_cells(mesh, int(n_parts))
    offset = x - mesh.centroid[:, cell]
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
    points = _bring_back(mesh, moved, room)
    return mesh.deposit(points, mass)


def length(mesh: Mesh, t: ArrayLike, rho: ArrayLike) -> float:
    """The length of a path of densities: the sum of tau norm(psi) over its steps.

    psi is the tangent potential of (rho_(n+1) - rho_n) / tau at the mean of both densities. But for
    errors of the mesh, the length is at least W2 of the ends, and W2 along a geodesic. Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    t : array (n_times,)
        Increasing times.
    rho : array (n_times, n_cells)
        The densities at these times.

    Returns
    -------
    float
        The same on every rank.

    Raises
    ------
    InputError
        For times that do not increase, for densities that do not go with them, and where mass
        would have to cross the vacuum.
    ConvergenceError
        As `tangent_potential` does.

    Examples
    --------
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 2)
    >>> round(otto.length(mesh, [0, 1], [[1.5, 0.5], [0.5, 1.5]]), 12)
    0.353553390593
    """
    times, densities = _check_path(mesh, t, rho)
    quality.use_two_point(mesh, "Otto's metric", mesh.quality.metric_problem)

    total = 0.0
    for tau, before, after in zip(np.diff(times), densities, densities[1:]):
        middle = (before + after) / 2
        weight = _weigh_faces(mesh, middle)
        psi = _find_tangent_potential(mesh, middle, (after - before) / tau, weight)
        total += tau * math.sqrt(_compute_metric(mesh, psi, psi, weight))
    return total


def _check_path(mesh, t, rho):
    """Times (n_times,) and densities (n_times, n_cells) as arrays; `InputError` for others."""
    with mesh.ranks.raising_together():
        try:
            t = np.array(t, float)
            rho = np.array(rho, float)
        except (TypeError, ValueError):
            raise InputError(
                "length needs arrays of numbers: times (n_times,), densities (n_times, n_cells)"
            ) from None

        increases = t.ndim == 1 and len(t) > 1 and np.isfinite(t).all() and (np.diff(t) > 0).all()
        if not increases or rho.ndim != 2 or len(rho) != len(t):
            raise InputError(
                f"length needs increasing times, as many as there are densities: {t!r:.60} and "
                f"rho of shape {rho.shape}"
            )
    mesh.ranks.check_same_array("t", t)
    return t, rho


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
        For q that is no number above 1, and v that are no numbers.

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


# Its name before release 0.2.
j_q = renamed(duality_map, "fvot.otto.j_q", "fvot.otto.duality_map")


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


# ---- the equations -----------------------------------------------------------------------------


def _weigh_faces(mesh, rho):
    """t_s rho_s (n_inner,)."""
    check_density(mesh, rho, "rho")
    n = mesh.n_inner
    local = mesh.with_ghosts(rho)
    left = local[mesh.left[:n]]
    right = local[mesh.right[:n]]
    return mesh.area[:n] / mesh.distance[:n] * (left + right) / 2


def _pin_components(mesh, t, component, count):
    """The rows of this rank (CSR) of the equations, made regular.

    In each component, the diagonal of the cell with the largest weights is enlarged. As the
    right-hand side adds up to 0 in the component, this only sets psi = 0 in that cell.
    """
    through = np.zeros(mesh.n_faces)
    through[: mesh.n_inner] = t
    pattern = SparsityPattern(mesh)
    rates = Rates(pattern, through, through)
    weight = rates.leaving() * mesh.volume

    largest = np.zeros(count)
    np.maximum.at(largest, component, weight)
    largest = mesh.ranks.max(largest)
    is_largest = weight == largest[component]

    cell_id = mesh.cell_id[: mesh.n_cells]
    first = np.full(count, mesh.n_cells_global)
    np.minimum.at(first, component[is_largest], cell_id[is_largest])
    is_pinned = is_largest & (mesh.ranks.min(first)[component] == cell_id)

    diagonal = np.where(weight > 0, weight, largest.max() or 1.0)
    return pattern.matrix(rates, 1.0, diagonal=np.where(is_pinned, diagonal, 0.0))


def _solve(mesh, matrix, b):
    """x (n_cells,) with matrix x = b, with one step of iterative refinement.

    The matrix is factorised where it is small enough, as densities span decades.
    """
    size = mesh.ranks.sum(np.abs(b).sum())
    missed = np.inf
    if size == 0:
        return np.zeros(mesh.n_cells)

    can_factorise = mesh.n_cells_global <= linalg.LU_CELL_LIMIT[mesh.dim]
    for name in ("lu", "cg") if can_factorise else ("cg",):
        method = linalg.find_method(name, mesh.dim, mesh.ranks.size)
        system = linalg.System(
            mesh.ranks, matrix, method, prefix=METRIC_PREFIX, rtol=TANGENT_SOLVER_TOLERANCE
        )
        x = np.zeros(mesh.n_cells)
        for _ in range(2):
            residual = b - _multiply(mesh, matrix, x)
            x = x + system(residual)

        missed = mesh.ranks.sum(np.abs(b - _multiply(mesh, matrix, x)).sum())
        terms = mesh.ranks.sum(_multiply(mesh, abs(matrix), np.abs(x)).sum())
        system.destroy()
        if missed <= TANGENT_TOLERANCE * size + TANGENT_ROUNDING * terms:
            return x

    raise ConvergenceError(
        f"the tangent potential misses its equations by {missed / size:.1e}: densities that span "
        "fewer decades may help, or another solver by PETSc's options, such as "
        f"-{METRIC_PREFIX}pc_type"
    )


def _multiply(mesh, matrix, x):
    """matrix x (n_cells,), of rows whose columns are numbered rank by rank."""
    return matrix @ mesh.ranks.all_gather(x)


def _check_values(mesh, u, name):
    with mesh.ranks.raising_together():
        refuse_masked(u, f"{name} must be numbers")
        try:
            u = np.asarray(u)
        except ValueError:
            u = np.array(None)
        if u.shape != (mesh.n_cells,) or u.dtype.kind not in "biuf":
            raise InputError(
                f"{name} must be numbers, not {u.dtype} of shape {u.shape}; "
                f"{describe_wanted_shape(mesh, u.shape)}"
            )

        bad = np.flatnonzero(~np.isfinite(u))
        if len(bad):
            raise InputError(
                f"{name} is {u[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
                f"{mesh.center[:, bad[0]]}): it must be finite ({len(bad)} cells are not)"
            )
