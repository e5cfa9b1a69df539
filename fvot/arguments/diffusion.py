"""Diffusion coefficients: numbers, diagonals, tensors, and functions that return them; and what the
three kinds of noise make of a coefficient that varies in space.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from ..errors import InputError
from .functions import Function, as_floats, as_function
from .types import Array

Noise: TypeAlias = Literal["kinetic", "ito", "stratonovich"]

NOISES = ("kinetic", "ito", "stratonovich")

# Points of the call that tells what a function returns: more than space has dimensions, so that no
# shape means two things.
N_PROBES = 7

# How far a tensor may be from symmetric, relative to its largest entry: round-off of users'
# products.
TENSOR_SYMMETRY_TOLERANCE = 1e-12

# How far below 0 an eigenvalue may be, relative to the largest entry: round-off of users' products.
EIGENVALUE_TOLERANCE = 1e-12


def as_diffusion_function(D: Any, what: str, x: Any, t: float = 0.0) -> Function:
    """A `Function` from D(x), D(x, t) or a constant, whose values are numbers (shape ()), diagonals
    (dim,) or tensors (dim, dim).

    x (dim, n), t : some points and a time, at which a function is called once
    """
    dim = len(x)
    if not callable(D):
        shape = as_floats(D, f"{what} must be a number, a diagonal, a tensor or a function").shape
        return as_function(D, what, shape if shape in ((dim,), (dim, dim)) else ())

    f = as_function(D, what)
    if x.shape[1] == 0:
        return f
    probes = np.resize(np.arange(x.shape[1]), N_PROBES)
    try:
        value = np.asarray(f._evaluate(x[:, probes], t))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{what} returned rows of different lengths: entries of a tensor (dim, dim, n) must "
            "all have one value for each point; for a constant one: 0 * x[0] + 1"
        ) from None
    for shape in ((dim,), (dim, dim)):
        if value.shape in (shape, (*shape, N_PROBES)) and value.shape != (1, N_PROBES):
            return replace(f, shape=shape)
    return f


def as_tensors(values: Array, dim: int) -> Array:
    """Tensors (dim, dim, n) of numbers (n,), diagonals (dim, n) or tensors (dim, dim, n)."""
    if values.ndim == 3:
        return values
    diagonals = np.broadcast_to(values, (dim, values.shape[-1]))
    return np.eye(dim)[:, :, None] * diagonals


def find_faulty_tensor(D: Array) -> tuple[int, str] | None:
    """(number, what is wrong) of the first one of the tensors (dim, dim, n) that is not symmetric
    and positive semidefinite; None where all are.
    """
    size = np.abs(D).max(axis=(0, 1), initial=0.0)
    skew = np.abs(D - D.transpose(1, 0, 2)).max(axis=(0, 1), initial=0.0)
    bad = np.flatnonzero(~(skew <= TENSOR_SYMMETRY_TOLERANCE * size))
    if len(bad):
        entries = D[:, :, bad[0]].tolist()
        return int(bad[0]), f"not symmetric, {entries!s:.80}"

    smallest = find_smallest_eigenvalues(D)
    bad = np.flatnonzero(~(smallest >= -EIGENVALUE_TOLERANCE * size))
    if len(bad):
        return int(bad[0]), f"a tensor with the eigenvalue {smallest[bad[0]]:.4g}"
    return None


def find_smallest_eigenvalues(D: Array) -> Array:
    """The smallest eigenvalue (n,) of each symmetric tensor (dim, dim, n)."""
    if len(D) == 1:
        return D[0, 0]
    if len(D) == 2:
        mean = (D[0, 0] + D[1, 1]) / 2
        return mean - np.hypot((D[0, 0] - D[1, 1]) / 2, D[0, 1])
    return np.linalg.eigvalsh(D.transpose(2, 0, 1))[:, 0]


def take_root(D: Array) -> Array:
    """The symmetric square roots S (dim, dim, n), S S = D, of tensors (dim, dim, n)."""
    if len(D) == 1:
        return np.sqrt(np.maximum(D, 0))
    if len(D) == 2:
        # By Cayley and Hamilton S S = tr(S) S - det(S); the determinant in factors, which do not
        # underflow.
        mean = np.sqrt(np.maximum(D[0, 0], 0)) * np.sqrt(np.maximum(D[1, 1], 0))
        aside = np.abs(D[0, 1])
        root_of_determinant = np.sqrt(np.maximum(mean - aside, 0)) * np.sqrt(mean + aside)
        trace = np.sqrt(np.maximum(D[0, 0] + D[1, 1] + 2 * root_of_determinant, 0))
        S = D + np.eye(2)[:, :, None] * root_of_determinant
        return S / np.where(trace > 0, trace, 1.0)

    values, vectors = np.linalg.eigh(D.transpose(2, 0, 1))
    roots = np.sqrt(np.maximum(values, 0))
    return np.einsum("nij,nj,nkj->ikn", vectors, roots, vectors)


# ---- noise ---------------------------------------------------------------------------------------


def check_noise(noise: Any) -> None:
    """`InputError` unless noise is the name of one."""
    if noise not in NOISES:
        raise InputError(
            f"noise must be 'kinetic' (the flux is -D grad rho), 'ito' (-div(D rho)) or "
            f"'stratonovich', not {noise!r:.60}"
        )


def compute_noise_drift(D: Function, x: Array, t: float, noise: Noise, step: Any) -> Array:
    """c (dim, n) at x, by which the drift of kinetic noise is smaller than that of the given noise.

    With S S = D and differences over *step*, a number or (n,), along each axis,

        ito: c_i = sum_j d_j D_ij,    stratonovich: c_i = sum_jk S_ik d_j S_jk.

    Without entries beside the diagonal, the latter is half of the former, also where D is 0 and S
    has no slope.
    """
    if noise == "kinetic":
        return np.zeros_like(x)

    dim = len(x)
    takes_roots = noise == "stratonovich" and D.shape == (dim, dim)

    def matrices(points: Array) -> Array:
        tensors = as_tensors(D(points, t), dim)
        return take_root(tensors) if takes_roots else tensors

    divergence = np.zeros_like(x)
    for axis in range(dim):
        shift = np.zeros_like(x)
        shift[axis] = step
        ahead = matrices(x + shift)
        behind = matrices(x - shift)
        divergence += (ahead[axis] - behind[axis]) / (2 * shift[axis])

    if takes_roots:
        return np.einsum("ikn,kn->in", matrices(x), divergence)
    return divergence / 2 if noise == "stratonovich" else divergence
