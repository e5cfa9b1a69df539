"""Otto's geometry of densities: tangent vectors are potentials, with the metric <phi, psi> = int
rho grad phi . grad psi.

A change drho of a density is the tangent vector of the potential psi with -div(rho grad psi) =
drho; on a mesh

    sum over the faces of K of t_s rho_s (psi_K - psi_other) = |K| drho_K,   t_s = |s| / d_s, rho_s
    = (rho_left + rho_right) / 2

Where rho_s = 0 nothing can move: each connected component of the rest has its own psi, up to a
constant. (Otto 2001)

On meshes that are not orthogonal these sums are not consistent; a warning says how far they may be
off.
"""

import math

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from . import linalg
from .arguments.functions import as_floats, is_number, refuse_masked
from .energies.free_energy import FreeEnergy
from .energies.local import Energy, describe_energy
from .errors import ConvergenceError, InputError
from .finite_volume.rates import Rates, SparsityPattern
from .finite_volume.stencil import Stencil, gradient_weights, gradients
from .mesh import Numbering, quality
from .mesh.cell_values import check_density, describe_wanted_shape
from .mesh.means import divide_cells

PREFIX = "fvot_otto_"
RTOL, MISSED = 1e-12, 1e-9  # tolerance of an iteration; what the equations may miss, in L1,
ROUND_OFF = (
    1e-15  # and of the sum of their terms: faces between points in one place have large ones
)
BALANCED = 1e-10  # of all that changes: the least sum in a component that is no rounding
FEWEST, MOST, TOTAL = (
    16,
    1024,
    1e6,
)  # points that carry the mass of each cell along a geodesic, and of all cells


def tangent_potential(mesh, rho, drho):
    """psi (n_cells,) with -div(rho grad psi) = drho: of all velocities that change rho by drho,
    (n_cells,), grad psi has the least energy.

    Its mean in each component of the support, weighed by rho, is 0; it is 0 where nothing can move.
    PETSc's options have the prefix fvot_otto_. Raises `InputError` where drho does not add up to 0
    in a component: mass would have to cross the vacuum.
    """
    quality.warn_of(mesh.quality.metric_problem, mesh)
    return _tangent_potential(mesh, rho, drho)


def _tangent_potential(mesh, rho, drho):
    t = _weights(mesh, rho)
    _check_values(mesh, drho, "drho")
    component, count = _components(mesh, t > 0)

    def totals(*contents):
        return mesh.ranks.sum(
            np.stack([np.bincount(component, mesh.volume * u, count) for u in contents])
        )

    changed, size, mass = totals(drho, np.abs(drho), rho)
    worst = np.abs(changed).argmax()
    if abs(changed[worst]) > BALANCED * size.sum():
        raise InputError(
            f"drho adds up to {changed[worst]:.3g} in a connected part of the mesh, of mass "
            f"{mass[worst]:.3g}, "
            "which none can enter or leave: it must add up to 0 there, as mass is moved, not made"
        )
    share = np.divide(changed, mass, out=np.zeros(count), where=mass > 0)  # rounding
    psi = _solved(
        mesh, _pinned(mesh, t, component, count), mesh.volume * (drho - share[component] * rho)
    )
    mean = np.divide(totals(rho * psi)[0], mass, out=np.zeros(count), where=mass > 0)
    return np.where(mass[component] > 0, psi - mean[component], 0.0)


def metric(mesh, rho, phi, psi):
    """<phi, psi>_rho = int rho grad phi . grad psi: the sum over the faces of t_s rho_s (phi_left -
    phi_right) (psi_left - psi_right).
    """
    quality.warn_of(mesh.quality.metric_problem, mesh)
    return _metric(mesh, rho, phi, psi)


def _metric(mesh, rho, phi, psi):
    n = mesh.n_inner
    t = _weights(mesh, rho)
    for u, what in (phi, "phi"), (psi, "psi"):
        _check_values(mesh, u, what)
    local = mesh.with_ghosts(np.stack([phi, psi]))
    jump = local[:, mesh.left[:n]] - local[:, mesh.right[:n]]
    return mesh.ranks.sum((t * jump[0] * jump[1])[mesh.face_owned[:n]].sum())


def norm(mesh, rho, phi):
    """|phi|_rho = <phi, phi>_rho^(1/2): the speed of the path whose velocity is grad phi."""
    quality.warn_of(mesh.quality.metric_problem, mesh)
    return math.sqrt(_metric(mesh, rho, phi, phi))


def wasserstein_gradient(mesh, rho, energy):
    """The potential E'(rho) (n_cells,) of the Wasserstein gradient grad E'(rho).

    Along the flow d rho/dt = div(rho grad E'(rho)) the energy falls as dE/dt = -norm(E'(rho))^2.

    energy : as for `JKO`. Raises `InputError` where E' is infinite: for entropies rho must be above
        0.
    """
    mesh.ranks.check(
        isinstance(energy, Energy),
        f"energy must be one, such as fvot.Entropy(), not {energy!r:.60}",
    )
    mesh.ranks.check_same("the energy", described(energy))
    check_density(mesh, rho, "rho")
    free = FreeEnergy(Numbering(mesh, mesh), energy)
    slope = free.derivative(rho) + free.potential(rho)
    with mesh.ranks.raising_together():
        bad = np.flatnonzero(~np.isfinite(slope))
        if len(bad):
            raise InputError(
                f"E'(rho) is {slope[bad[0]]} at {mesh.center[:, bad[0]]}, where rho = "
                f"{rho[bad[0]]:.3g}: it must "
                "be finite; add a little mass there"
            )
    return slope


def exponential_map(mesh, rho, phi, t):
    """(id + t grad phi) # rho (n_cells,): the geodesic from rho with the velocity grad phi, as long
    as no paths cross.

    The mass of each cell moves in k^dim small parts, along the gradient of phi, linear in cells; k
    is 32 in the plane (less beyond 1000 cells). The mass is exact; counting parts gives a noise of
    some 1/k of the density, and ways shorter than half a part may not be seen. On periodic meshes
    parts go round. Raises `InputError` where mass would leave the mesh by more than the size of a
    cell, which is what gradients at walls may be wrong by.
    """
    check_density(mesh, rho, "rho")
    _check_values(mesh, phi, "phi")
    mesh.ranks.check(is_number(t) and math.isfinite(t), f"t must be a finite number, not {t!r}")
    mesh.ranks.check_same("t", t)
    stencil = Stencil(mesh)
    weights = gradient_weights(stencil)
    v = gradients(mesh, stencil, weights, phi[None])[0]
    slope = gradients(mesh, stencil, weights, v)
    x, weight, cell = divide_cells(mesh, int(np.clip(TOTAL / mesh.n_cells_global, FEWEST, MOST)))
    offset = x - mesh.centroid[:, cell]
    moved = x + t * (v[:, cell] + np.einsum("ijk,jk->ik", slope[:, :, cell], offset))
    some = np.asarray(rho)[cell] > 0
    size = mesh.volume[cell] ** (1 / mesh.dim)
    moved, weight, size = (
        mesh.ranks.all_gather(u[..., some]) for u in (moved, weight * np.asarray(rho)[cell], size)
    )
    return mesh.deposit(_brought_back(mesh, moved, size), weight)


def length(mesh, t, rho):
    """The length of a path of densities (n_times, n_cells) at increasing times t: the sum of tau
    norm(psi).

    psi is the tangent potential of (rho_(n+1) - rho_n) / tau at the mean of both. At least W2 of
    the ends, but for the mesh; W2 along a geodesic.
    """
    with mesh.ranks.raising_together():
        try:
            t = np.array(t, float)
            rho = np.array(rho, float)
        except (TypeError, ValueError):
            raise InputError(
                "length needs arrays of numbers: times (n_times,), densities (n_times, n_cells)"
            ) from None
        if (
            not (t.ndim == 1 and len(t) > 1 and np.isfinite(t).all() and (np.diff(t) > 0).all())
            or rho.ndim != 2
            or len(rho) != len(t)
        ):
            raise InputError(
                f"length needs increasing times, as many as there are densities: {t!r:.60} and "
                "rho of shape "
                f"{rho.shape}"
            )
    mesh.ranks.check_same_array("t", t)
    quality.warn_of(mesh.quality.metric_problem, mesh)
    total = 0.0
    for tau, before, after in zip(np.diff(t), rho, rho[1:]):
        middle = (before + after) / 2
        psi = _tangent_potential(mesh, middle, (after - before) / tau)
        total += tau * math.sqrt(_metric(mesh, middle, psi, psi))
    return total


def j_q(v, q):
    """|v|^(q - 2) v of vectors v (dim, n), 0 for v = 0; q > 1: the duality map from L^q to L^p, 1/p
    + 1/q = 1, by which tangent vectors of W_p are j_q of gradients (Ambrosio, Gigli, Savare 2008,
    8.3).
    """
    if not is_number(q) or not 1 < q < math.inf:
        raise InputError(f"q must be a number above 1, not {q!r}")
    v = as_floats(v, "v must be vectors (dim, n) of numbers")
    size = np.sqrt(np.atleast_1d(v**2).sum(axis=0)) if q != 2 else 1.0
    return np.where(size == 0, 0.0, np.where(size == 0, 1.0, size) ** (q - 2) * v)


# ---- parts ---------------------------------------------------------------------------------------


def _brought_back(mesh, points, room):
    """points (dim, n), those outside the mesh by less than *room* (n,) at the nearest point inside."""
    inside = mesh.nearest(points)
    beyond = np.sqrt(((points - inside) ** 2).sum(axis=0)) - room
    if beyond.max(initial=0.0) > 0:
        worst = int(beyond.argmax())
        raise InputError(
            f"mass would leave the mesh: {np.mean(beyond > 0):.1%} of its parts end outside, one "
            "at "
            f"{points[:, worst]}, {beyond[worst] + room[worst]:.3g} from it; take a smaller t, or "
            "a phi whose "
            "gradient does not point through walls"
        )
    return inside


def _weights(mesh, rho):
    """t_s rho_s (n_inner,)."""
    check_density(mesh, rho, "rho")
    n = mesh.n_inner
    local = mesh.with_ghosts(rho)
    return mesh.area[:n] / mesh.distance[:n] * (local[mesh.left[:n]] + local[mesh.right[:n]]) / 2


def _pinned(mesh, t, component, count):
    """The rows of this rank (CSR) of the equations, with something more on the diagonal of one cell
    of each component, with the largest weights: as the right side adds up to 0 there, this makes
    psi = 0 in that cell, and nothing else.
    """
    through = np.zeros(mesh.n_faces)
    through[: mesh.n_inner] = t
    pattern = SparsityPattern(mesh)
    rates = Rates(pattern, through, through)
    own = rates.leaving() * mesh.volume
    largest = np.zeros(count)
    first = np.full(count, mesh.n_cells_global)
    np.maximum.at(largest, component, own)
    largest = mesh.ranks.max(largest)
    chosen = own == largest[component]
    np.minimum.at(first, component[chosen], mesh.cell_id[: mesh.n_cells][chosen])
    pinned = chosen & (mesh.ranks.min(first)[component] == mesh.cell_id[: mesh.n_cells])
    return pattern.matrix(
        rates, 1.0, diagonal=np.where(pinned, np.where(own > 0, own, largest.max() or 1.0), 0.0)
    )


def _solved(mesh, matrix, b):
    """x (n_cells,) with matrix x = b: factorised where it can be, as densities span decades, and
    refined once.
    """
    size = mesh.ranks.sum(np.abs(b).sum())
    missed = np.inf
    if size == 0:
        return np.zeros(mesh.n_cells)
    for name in ("lu", "cg") if mesh.n_cells_global <= linalg.LU_CELL_LIMIT[mesh.dim] else ("cg",):
        method = linalg.find_method(name, mesh.dim, mesh.ranks.size)
        system = linalg.System(mesh.ranks, matrix, method, prefix=PREFIX, rtol=RTOL)
        x = np.zeros(mesh.n_cells)
        for _ in range(2):
            residual = b - _product(mesh, matrix, x)
            x = x + system(residual)
        missed = mesh.ranks.sum(np.abs(b - _product(mesh, matrix, x)).sum())
        terms = mesh.ranks.sum(_product(mesh, abs(matrix), np.abs(x)).sum())
        system.destroy()
        if missed <= MISSED * size + ROUND_OFF * terms:
            return x
    raise ConvergenceError(
        f"the tangent potential misses its equations by {missed / size:.1e}: densities that span "
        "fewer "
        f"decades, or another solver by PETSc's options, such as -{PREFIX}pc_type, may help"
    )


def _product(mesh, matrix, x):
    """matrix x (n_cells,), of rows whose columns are numbered rank by rank."""
    return matrix @ mesh.ranks.all_gather(x)


def _components(mesh, joined):
    """(component (n_cells,), how many) of the cells that inner faces join, (n_inner,) bool;
    numbered from 0 over all ranks.
    """
    ends = mesh.left[: mesh.n_inner][joined], mesh.right[: mesh.n_inner][joined]
    graph = sparse.csr_matrix((np.ones(len(ends[0])), ends), (mesh.n_local, mesh.n_local))
    count, piece = connected_components(graph, directed=False)
    label = mesh.cell_id.copy()
    while True:  # the smallest number in each piece of this rank, and so on from rank to rank
        least = np.full(count, mesh.n_cells_global)
        np.minimum.at(least, piece, label)
        new = mesh.with_ghosts(least[piece][: mesh.n_cells])
        new = np.minimum(new, least[piece])
        if not mesh.ranks.max(int((new != label).any())):
            break
        label = new
    names = np.unique(mesh.ranks.all_gather(np.unique(label[: mesh.n_cells])))
    return np.searchsorted(names, label[: mesh.n_cells]), len(names)


def _check_values(mesh, u, what):
    with mesh.ranks.raising_together():
        refuse_masked(u, f"{what} must be numbers")
        try:
            u = np.asarray(u)
        except ValueError:
            u = np.array(None)
        if u.shape != (mesh.n_cells,) or u.dtype.kind not in "biuf":
            raise InputError(
                f"{what} must be numbers, not {u.dtype} of shape {u.shape}; "
                f"{describe_wanted_shape(mesh, u.shape)}"
            )
        bad = np.flatnonzero(~np.isfinite(u))
        if len(bad):
            raise InputError(
                f"{what} is {u[bad[0]]} in cell {mesh.cell_id[bad[0]]} (at "
                f"{mesh.center[:, bad[0]]}): it must be "
                f"finite ({len(bad)} cells are not)"
            )
