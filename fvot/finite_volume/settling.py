"""Cells in debt: a density that is negative in a few cells is made positive by what their
neighbours hold.

A linear scheme that is exact for linear functions on every mesh, and for every diffusion tensor,
has small negative values where a density is steep. Here each cell in debt asks its neighbours for
it, in proportion to what they hold; a cell that is asked for more than it has gives to each the
same part of what that one asked for. This depends on no order, and so on no number of ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from ..arguments.types import Array
from ..mesh.cell_values import integrate
from .stencil import Stencil

if TYPE_CHECKING:
    from ..mesh import Mesh

# Sweeps at most: more of them only spread the debt.
MAX_SWEEPS = 4

# The debt, relative to the mass, that is round-off.
NEGLIGIBLE_DEBT = 1e-16

# What the neighbours of a cell hold, relative to its debt, up to which they hold nothing: the
# rounding that is left where one has given all it had.
EMPTY_PART = 1e-12


def settle(mesh: Mesh, sides: Stencil, rho: Array) -> tuple[Array, bool]:
    """(rho >= 0 (n_cells,) of the same mass, whether there was a debt) of a density rho.

    Collective.
    """
    content = mesh.volume * rho
    mass, debt = mesh.ranks.sum(np.array([content.sum(), -np.minimum(content, 0).sum()]))
    negligible = NEGLIGIBLE_DEBT * mass
    if debt <= negligible:
        return np.maximum(rho, 0), False

    for _ in range(MAX_SWEEPS):
        content = _sweep(mesh, sides, content)
        debt = mesh.ranks.sum(-np.minimum(content, 0).sum())
        if debt <= negligible:
            break

    positive = np.maximum(content, 0) / mesh.volume
    held = integrate(mesh, positive)
    return positive * (mass / held if held > 0 else 0.0), True


def _sweep(mesh, sides, content):
    """The contents (n_cells,) after every debt was asked for once."""
    around = mesh.with_ghosts(content)
    claims = np.zeros((2, mesh.n_cells))
    _make_claims(content, around, sides.start, sides.neighbour, claims)

    claims_around = mesh.with_ghosts(claims)
    granted = np.zeros(mesh.n_cells)
    _grant(content, claims_around, sides.start, sides.neighbour, granted)

    granted_around = mesh.with_ghosts(granted)
    settled = content.copy()
    _pay(around, claims_around, granted_around, sides.start, sides.neighbour, settled)
    return settled


@numba.njit(cache=True, error_model="numpy")
def _make_claims(content, around, start, neighbour, claims):
    """claims[0]: the part of what its neighbours hold that a cell in debt asks for; claims[1]: the
    part of its debt that each of them takes over where they hold nothing.
    """
    for cell in range(len(content)):
        if content[cell] >= 0:
            continue
        held = 0.0
        count = 1
        for s in range(start[cell], start[cell + 1]):
            if neighbour[s] != cell:
                held += max(around[neighbour[s]], 0.0)
                count += 1
        if held > EMPTY_PART * -content[cell]:
            claims[0, cell] = min(-content[cell], held) / held
        else:
            claims[1, cell] = content[cell] / count


@numba.njit(cache=True, error_model="numpy")
def _grant(content, claims, start, neighbour, granted):
    """The part of what each cell is asked for that it gives."""
    for cell in range(len(content)):
        asked = 0.0
        for s in range(start[cell], start[cell + 1]):
            if neighbour[s] != cell:
                asked += claims[0, neighbour[s]]
        granted[cell] = 1.0 if asked <= 1 else 1 / asked


@numba.njit(cache=True, error_model="numpy")
def _pay(content, claims, granted, start, neighbour, settled):
    for cell in range(len(settled)):
        own = max(content[cell], 0.0)
        for s in range(start[cell], start[cell + 1]):
            other = neighbour[s]
            if other == cell:
                continue
            settled[cell] += claims[0, cell] * max(content[other], 0.0) * granted[other]
            settled[cell] -= claims[0, other] * own * granted[cell]
            settled[cell] += claims[1, other] - claims[1, cell]
