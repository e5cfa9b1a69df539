"""Piecewise linear functions of time: node weights, stiffness and its eigenvectors."""

import numpy as np
from scipy import linalg

from ..arguments.types import Array


def node_weights(n_steps: int) -> Array:
    """tau_n (n_steps + 1,): the trapezoidal rule of [0, 1]."""
    weights = np.full(n_steps + 1, 1 / n_steps)
    weights[[0, -1]] /= 2
    return weights


def slab_middles(n_steps: int) -> Array:
    """The times (n_steps,) of the middles of the slabs."""
    return (np.arange(n_steps) + 0.5) / n_steps


def time_stiffness(n_steps: int, slab_weights: float | Array = 1.0) -> Array:
    """K_t (n_steps + 1, n_steps + 1) with phi K_t phi = sum_j w_j (phi^{j+1} - phi^j)^2 / tau.

    slab_weights : w_j (n_steps,)
    """
    difference = np.diff(np.eye(n_steps + 1), axis=0)
    weights = np.broadcast_to(slab_weights, n_steps)
    return n_steps * (difference.T @ (weights[:, None] * difference))


def time_masses(n_steps: int, slab_weights: float | Array = 1.0) -> Array:
    """The diagonal M_t (n_steps + 1,): halves of w_j tau of the slabs beside each node."""
    weights = np.broadcast_to(slab_weights, n_steps)
    return (np.pad(weights, (1, 0)) + np.pad(weights, (0, 1))) / (2 * n_steps)


def time_basis(n_steps: int) -> tuple[Array, Array]:
    """(V, eigenvalue) with K_t V = M_t V diag(eigenvalue), V^T M_t V = I, M_t = diag(tau_n).

    V are cosines.
    """
    n, k = np.ogrid[: n_steps + 1, : n_steps + 1]
    is_end = (k == 0) | (k == n_steps)
    scale = np.where(is_end, 1, np.sqrt(2))
    cosine = np.cos(np.pi * k * n / n_steps)
    V = cosine * scale

    half_angle = np.pi * k[0] / (2 * n_steps)
    eigenvalue = 4 * n_steps**2 * np.sin(half_angle) ** 2
    return V, eigenvalue


def time_modes(
    n_steps: int, theta: float, end: float = 0.0, slab_weights: float | Array = 1.0
) -> tuple[Array, Array]:
    """(V, s) with (theta^2 K_t + end e_N e_N^T) V = M_t V diag(s), V^T M_t V = I.

    e_N is the unit vector of the last node; K_t and M_t are those of weighted slabs.
    """
    if not end and np.all(slab_weights == 1):
        V, eigenvalue = time_basis(n_steps)
        return V, theta**2 * eigenvalue

    K = theta**2 * time_stiffness(n_steps, slab_weights)
    K[-1, -1] += end
    M = np.diag(time_masses(n_steps, slab_weights))
    s, V = linalg.eigh(K, M)
    return V, np.maximum(s, 0)


def node_mean(u: Array) -> Array:
    """Values (..., N) of the slabs at the nodes (..., N + 1): means of both neighbours.

    They are one-sided at the ends.
    """
    first = u[..., :1]
    last = u[..., -1:]
    before = u[..., :-1]
    after = u[..., 1:]
    inner = (before + after) / 2
    return np.concatenate([first, inner, last], axis=-1)
