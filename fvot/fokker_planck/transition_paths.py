"""Where paths arrive first and when, and the paths from one set of cells to another.

The cells of two-point fluxes are a Markov chain: committors and times are those of the chain
(`markov.passages`), by elimination without subtraction on rank 0. Transition paths are those pieces
of a stationary path that leave A and come to B before they are back in A (Vanden-Eijnden 2006).
With the forward committors h_A, h_B, the backward ones g_A, g_B, and rho the stationary density,

    flux from A to B     F_s = a_s rho_left g_A,left h_B,right - b_s rho_right g_A,right h_B,left
    rate                 its sum over the faces of A
    density              rho g_A h_B
    k_AB, k_BA           rate / sum |K| rho g_A, rate / sum |K| rho g_B

Where there is a Gibbs density, g = h and F_s = a_s rho_left (h_B,right - h_B,left) = a_s rho_left
(h_A,left - h_A,right): the difference is taken of the smaller one, which has all its digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import markov
from ..arguments.frozen import frozen
from ..arguments.functions import as_floats, call_function, is_number
from ..arguments.types import Array
from ..errors import InputError
from ..finite_volume.velocity_field import cell_velocity
from ..mesh import Numbering
from .cell_sets import CellSet, find_sets, gather_states
from .stationary import check_linear, check_steady, find_stationary
from .stepper import Stepper


@frozen
@dataclass(frozen=True)
class TransitionPaths:
    """The paths from a set A of cells to a set B, as they are seen in the stationary state.

    The result of `FokkerPlanck.transition_paths`.

    Attributes
    ----------
    rate : float
        Transitions from A to B per time.
    k_AB, k_BA : float
        Transitions from A to B per time that is spent coming from A, and from B to A per time that
        is spent coming from B: 1 / k_AB is the mean time from A to B.
    committor : array (n_cells,)
        The probability to come to B before A.
    density : array (n_cells,)
        That of the paths which come from A and go to B; its integral is the part of the time in
        which one is under way, and this over `rate` how long it takes.
    flux : array (n_faces,)
        Net transitions per time through each face of this rank, from left to right.
    current : array (dim, n_cells)
        The mean of that current in each cell.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(-2, 2, 200)
    >>> equation = fvot.FokkerPlanck(mesh, diffusion=0.5, potential=lambda x: 4 * (x[0]**2 - 1)**2)
    >>> paths = equation.transition_paths(lambda x: x[0] < -1, lambda x: x[0] > 1)
    >>> bool(abs(paths.k_AB / paths.k_BA - 1) < 1e-12)
    True
    """

    rate: float
    k_AB: float
    k_BA: float
    committor: Array
    density: Array
    flux: Array
    current: Array

    def __repr__(self) -> str:
        return (
            f"<fvot.TransitionPaths: rate {self.rate:.6g}, k_AB {self.k_AB:.6g}, k_BA "
            f"{self.k_BA:.6g}, {len(self.committor)} cells>"
        )


def name_sets(mesh: Any, sets: Any) -> dict[str, Any]:
    """{the name in messages: set} of the sets of `FokkerPlanck.splitting_probabilities`."""
    is_list = isinstance(sets, (list, tuple)) and len(sets) > 1
    mesh.ranks.check(is_list, f"sets must be a list of two or more sets, not {sets!r:.60}")
    mesh.ranks.check_same("the number of sets", len(sets))
    return {f"set {number}": one for number, one in enumerate(sets)}


def find_committors(stepper: Stepper, numbering: Numbering, given: dict[str, Any]) -> Array:
    """The probabilities (m, n_cells) to come to each of the sets {argument: set} first.
    Collective.
    """
    _check_chain(stepper, "committors")
    sets = find_sets(numbering.user_mesh, given, _find_open_faces(stepper))
    return _compute_committors(stepper, numbering, sets)


def find_passage_times(
    stepper: Stepper, numbering: Numbering, A: Any, cost: Any, moments: int
) -> Array:
    """The moments (moments, n_cells) of the cost until paths come to A, or end. Collective."""
    _check_chain(stepper, "passage times")
    mesh: Any = numbering.user_mesh
    mesh.ranks.check_same("moments", moments)
    if is_number(cost):
        mesh.ranks.check_same("cost", cost)
    price = _check_cost(mesh, cost)
    (target,) = find_sets(mesh, {"A": A}, _find_open_faces(stepper))
    whole_price = mesh.gather(price)

    def compute(chain: Any, states: Sequence[Array]) -> Array:
        extended = np.append(whole_price, np.zeros(len(chain.killing) - len(whole_price)))
        return markov.passage_times(
            chain.rates,
            states[0],
            cost=extended,
            moments=moments,
            killing=chain.killing,
            center=chain.center,
        )

    return _compute_on_root(stepper, numbering, [target], compute)


def find_backward_committors(
    stepper: Stepper, numbering: Numbering, given: dict[str, Any]
) -> Array:
    """The probabilities (m, n_cells) that a stationary path was last in each set. Collective."""
    _check_chain(stepper, "backward committors")
    _check_closed(stepper, "backward committors")
    sets = find_sets(numbering.user_mesh, given, _find_open_faces(stepper))
    if stepper.minus_log_gibbs is not None:
        return _compute_committors(stepper, numbering, sets)
    rho = find_stationary(stepper, numbering)
    return _compute_backward_committors(stepper, numbering, sets, rho)


def find_transition_paths(
    stepper: Stepper, numbering: Numbering, A: Any, B: Any
) -> TransitionPaths:
    """The `TransitionPaths` from A to B. Collective."""
    _check_chain(stepper, "transition paths")
    _check_closed(stepper, "transition paths")
    mesh: Any = numbering.user_mesh
    sets = find_sets(mesh, {"A": A, "B": B}, _find_open_faces(stepper))
    rho = find_stationary(stepper, numbering)
    h = _compute_committors(stepper, numbering, sets)
    is_reversible = stepper.minus_log_gibbs is not None
    g = h if is_reversible else _compute_backward_committors(stepper, numbering, sets, rho)

    flux = _compute_reactive_flux(stepper, numbering, rho, h, None if is_reversible else g)
    rate = _compute_rate(stepper, numbering, rho, h[1], sets[0].cells)
    from_A, from_B = mesh.integrate(rho * g)
    return TransitionPaths(
        rate=rate,
        k_AB=rate / from_A,
        k_BA=rate / from_B,
        committor=h[1],
        density=rho * g[0] * h[1],
        flux=flux,
        current=cell_velocity(mesh, flux),
    )


# ---- checks --------------------------------------------------------------------------------------


def _check_chain(stepper, what):
    check_steady(stepper, what)
    check_linear(stepper, f"{what} cannot be computed")
    ranks = stepper.mesh.ranks
    ranks.check(
        not stepper.has_corners,
        f"{what} are those of the Markov chain that two-point fluxes are, and fluxes to corners "
        "are none: take scheme='two_point', on a mesh whose faces are orthogonal to the lines "
        "between cell points",
    )
    ranks.check(
        not stepper.bears,
        f"{what} need growth <= 0: where mass grows, paths have no probabilities",
    )


def _check_closed(stepper, what):
    stepper.mesh.ranks.check(
        stepper.closed,
        f"{what} need a stationary state in which paths never end: leave out open boundaries, "
        "growth and sources",
    )


def _check_cost(mesh, cost):
    """cost as cell values (n_cells,) >= 0, in the user's order."""
    with mesh.ranks.raising_together():
        values = call_function(cost, "cost", mesh.center) if callable(cost) else cost
        values = as_floats(values, "cost must be a number, cell values, or a function of x")
        if values.shape not in ((), (mesh.n_cells,)):
            raise InputError(
                f"cost must be a number, or cell values ({mesh.n_cells},), not of shape "
                f"{values.shape}"
            )
        if not ((values >= 0) & np.isfinite(values)).all():
            raise InputError("cost must be finite and at least 0 everywhere")
    return np.broadcast_to(values, mesh.n_cells)


def _find_open_faces(stepper):
    """The faces (n_faces,) of open parts of the boundary."""
    mesh = stepper.mesh
    is_open = np.zeros(mesh.n_faces, bool)
    for part in stepper.operator.open_parts.values():
        is_open[mesh.n_inner + part] = True
    return is_open


# ---- on the chain --------------------------------------------------------------------------------


def _compute_on_root(
    stepper: Stepper,
    numbering: Numbering,
    sets: Sequence[CellSet],
    work: Callable[[Any, Sequence[Array]], Array],
) -> Array:
    """This rank's cells (m, n_cells) of work(the whole chain, the states of the sets), which is
    done on rank 0.
    """
    mesh: Any = numbering.user_mesh
    states, exits = gather_states(mesh, sets)
    rates, _ = stepper.find_coefficients(0.0)
    chain = rates.gather_chain(exits)
    whole = mesh.ranks.broadcast(mesh.ranks.on_root(work, chain, states))
    return mesh.scatter(whole[:, : mesh.n_cells_global])


def _compute_committors(stepper, numbering, sets):
    def compute(chain: Any, states: Sequence[Array]) -> Array:
        return markov.committors(chain.rates, states, killing=chain.killing, center=chain.center)

    return _compute_on_root(stepper, numbering, sets, compute)


def _compute_backward_committors(stepper, numbering, sets, rho):
    mesh = numbering.user_mesh
    p = mesh.gather(rho * mesh.volume)

    def compute(chain: Any, states: Sequence[Array]) -> Array:
        return markov.backward_committors(chain.rates, states, p, center=chain.center)

    return _compute_on_root(stepper, numbering, sets, compute)


# ---- on faces ------------------------------------------------------------------------------------


def _compute_reactive_flux(stepper, numbering, rho, h, g):
    """F (n_faces,) of the paths from A to B, see the module; g : None where it is h."""
    mesh = stepper.mesh
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    rates, _ = stepper.find_coefficients(0.0)
    a = rates.a[:n]
    b = rates.b[:n]
    local = mesh.with_ghosts(numbering.inward(np.stack([rho, *h, *([] if g is None else g[:1])])))
    density, h_A, h_B = local[:3]

    flux = np.zeros(mesh.n_faces)
    if g is None:
        exchanged = (a * density[left] + b * density[right]) / 2
        is_near_A = h_B[left] + h_B[right] < h_A[left] + h_A[right]
        gained = np.where(is_near_A, h_B[right] - h_B[left], h_A[left] - h_A[right])
        flux[:n] = exchanged * gained
    else:
        coming = density * local[3]
        flux[:n] = a * coming[left] * h_B[right] - b * coming[right] * h_B[left]
    return flux


def _compute_rate(stepper, numbering, rho, h_B, is_in_A):
    """Transitions per time: what leaves A times h_B where it goes. Collective."""
    mesh = stepper.mesh
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]
    rates, _ = stepper.find_coefficients(0.0)
    stacked = numbering.inward(np.stack([rho, h_B, is_in_A.astype(float)]))
    density, h, inside = mesh.with_ghosts(stacked)

    leaves_left = (inside[left] > 0) & (inside[right] == 0)
    leaves_right = (inside[right] > 0) & (inside[left] == 0)
    going = np.where(leaves_left, rates.a[:n] * density[left] * h[right], 0.0)
    going += np.where(leaves_right, rates.b[:n] * density[right] * h[left], 0.0)
    return float(mesh.ranks.sum(going[mesh.face_owned[:n]].sum()))
