"""Mechanical dispersion: the spread of what a flow carries through a porous ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arguments.functions import as_floats, is_number
from ..arguments.types import Array, ArrayLike
from ..errors import InputError
from .velocity_field import cell_velocity

if TYPE_CHECKING:
    from ..mesh import Mesh


def dispersion(
    flow: ArrayLike,
    longitudinal: float,
    transverse: float,
    molecular: float = 0.0,
    *,
    mesh: Mesh | None = None,
) -> Array:
    """The tensor D = (molecular + transverse |v|) I + (longitudinal - transverse) v v^T / |v|.

    It is the diffusion of Scheidegger (1961), for ``FokkerPlanck(mesh, diffusion=D, face_flux=U)``.

    Parameters
    ----------
    flow : array
        v: the velocities of cells (dim, n_cells), such as v(mesh.center); or, with *mesh*, the
        fluxes through its faces (n_faces,), such as those of `potential_flow`.
    longitudinal, transverse : float
        The dispersivities along and across the flow, lengths, at least 0.
    molecular : float
        The diffusion without flow, a length squared per time, at least 0.
    mesh : Mesh, optional
        The mesh that fluxes through faces belong to.

    Returns
    -------
    array (dim, dim, n_cells)
        The tensors.

    Raises
    ------
    InputError
        For numbers below 0, and flows of another kind.

    Examples
    --------
    >>> import fvot
    >>> fvot.dispersion([[2.0], [0.0]], longitudinal=0.5, transverse=0.1, molecular=0.01).tolist()
    [[[1.01], [0.0]], [[0.0], [0.21000000000000002]]]
    """
    numbers = dict(longitudinal=longitudinal, transverse=transverse, molecular=molecular)
    for name, value in numbers.items():
        if not (is_number(value) and 0 <= value < np.inf):
            raise InputError(f"{name} must be a finite number of at least 0, not {value!r}")

    v = as_floats(flow, "flow must be velocities (dim, n_cells), or fluxes through faces")
    if mesh is not None and v.shape == (mesh.n_faces,):
        v = cell_velocity(mesh, v)
    if v.ndim != 2 or not 1 <= len(v) <= 3 or not np.isfinite(v).all():
        raise InputError(
            f"flow has shape {v.shape}; it must be finite velocities (dim, n_cells), or, with "
            "mesh=, fluxes through faces (n_faces,)"
        )

    speed = np.linalg.norm(v, axis=0)
    direction = np.divide(v, speed, out=np.zeros_like(v), where=speed > 0)
    identity = np.eye(len(v))[:, :, None]
    along = direction[:, None] * direction[None]
    return (molecular + transverse * speed) * identity + (longitudinal - transverse) * speed * along
