"""Tangent vectors of densities, their metric, and lengths of paths."""

from __future__ import annotations

import math

import numpy as np

from ..arguments.types import Array, ArrayLike, Scheme
from ..errors import InputError
from ..mesh import Mesh
from .choice import choose_metric
from .density_metric import check_values


def tangent_potential(mesh: Mesh, rho: Array, drho: Array, *, scheme: Scheme = "auto") -> Array:
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
    scheme : {"auto", "two_point", "corners"}
        Two-point sums, which are consistent where faces are orthogonal to the lines between cell
        points; or values at corners of cells, too, on any mesh. "auto" takes the first where
        `mesh.quality.suits_two_point`, and, with a warning, where cells are not star-shaped.

    Returns
    -------
    array (n_cells,)
        psi. Its mean in each component of the support, weighted by rho, is 0; psi is 0 where
        nothing can move.

    Raises
    ------
    InputError
        Where drho does not add up to 0 in a component: mass would have to cross the vacuum. Also
        for a rho that is not a density, and a drho that is not a finite number in each cell.
    ConvergenceError
        Where the linear system is not solved.
    MeshError
        For a scheme that the mesh does not allow: "corners" where cells are not star-shaped about
        their centroids, "two_point" where cell points are out of order.

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
    here = choose_metric(mesh, scheme)(mesh, rho)
    return here.find_tangent_potential(drho)[: mesh.n_cells]


def metric(mesh: Mesh, rho: Array, phi: Array, psi: Array, *, scheme: Scheme = "auto") -> float:
    """<phi, psi>_rho = int rho grad phi . grad psi.

    On the mesh, the sums of `fvot.otto`. With corners the values there are those of least norm.
    Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    rho : array (n_cells,)
        The density.
    phi, psi : arrays (n_cells,)
        The potentials of two tangent vectors.
    scheme : {"auto", "two_point", "corners"}
        As in `tangent_potential`.

    Returns
    -------
    float
        The same on every rank.

    Raises
    ------
    InputError
        For values that are not finite numbers of the cells.
    ConvergenceError
        If the iteration for the values at corners fails.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> x = mesh.center[0]
    >>> round(otto.metric(mesh, np.ones(4), x, 2 * x), 12)
    1.5
    """
    here = choose_metric(mesh, scheme)(mesh, rho)
    for u, name in (phi, "phi"), (psi, "psi"):
        check_values(mesh, u, name)
    return here.product(*here.extend(np.stack([phi, psi])))


def norm(mesh: Mesh, rho: Array, phi: Array, *, scheme: Scheme = "auto") -> float:
    """|phi|_rho = <phi, phi>_rho^(1/2): the speed of the path whose velocity is grad phi.

    Parameters
    ----------
    mesh, rho, phi, scheme
        As in `metric`.

    Returns
    -------
    float
        The same on every rank.

    Raises
    ------
    InputError, ConvergenceError
        As `metric` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import Mesh, otto
    >>> mesh = Mesh.interval(0, 1, 4)
    >>> round(otto.norm(mesh, np.full(4, 3.0), 2 * mesh.center[0]), 12)
    3.0
    """
    here = choose_metric(mesh, scheme)(mesh, rho)
    check_values(mesh, phi, "phi")
    extended = here.extend(np.stack([phi]))[0]
    return math.sqrt(here.product(extended, extended))


def length(mesh: Mesh, t: ArrayLike, rho: ArrayLike, *, scheme: Scheme = "auto") -> float:
    """The length of a path of densities: the sum of tau norm(psi) over its steps.

    psi is the tangent potential of (rho_(n+1) - rho_n) / tau at the mean of both densities. Up to
    errors of the mesh, the length is at least W2 of the ends, and W2 along a geodesic. Collective.

    Parameters
    ----------
    mesh : Mesh
        The mesh of the densities.
    t : array (n_times,)
        Increasing times.
    rho : array (n_times, n_cells)
        The densities at these times.
    scheme : {"auto", "two_point", "corners"}
        As in `tangent_potential`.

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
    metric_at = choose_metric(mesh, scheme)

    total = 0.0
    for tau, before, after in zip(np.diff(times), densities, densities[1:]):
        here = metric_at(mesh, (before + after) / 2)
        psi = here.find_tangent_potential((after - before) / tau)
        total += float(tau) * math.sqrt(here.product(psi, psi))
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
