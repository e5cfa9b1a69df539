"""W * rho on a mesh, for a symmetric kernel W: (W * rho)_K = sum_L W_KL |L| rho_L with W_KL = W_LK.

Cartesian meshes: W_KL is the mean of W over the cell at the offset of K from L, a table, and the
sum is a convolution by fast Fourier transforms, padded with zeros along axes with walls; along
periodic axes offsets are the shortest ones. Each rank computes the whole transform, of n log n
operations.

Other meshes: W_KL = W(x_K - x_L), and for K = L the mean of W over the cube of the cell's volume: a
dense matrix of n^2 operations, whose rows are distributed over the ranks. W may be singular at 0 if
it is integrable there: it is never evaluated at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft

from ..arguments.functions import Function
from ..arguments.types import Array
from ..errors import InputError
from ..mesh.cell_values import gather, scatter
from ..mesh.coordinates import refuse_radial
from ..mesh.quadrature import make_gauss_rule

if TYPE_CHECKING:
    from ..mesh import Mesh

# Cells of a mesh that is not Cartesian at most: a matrix of 3.2 GB on all ranks together.
MAX_DENSE_CELLS = 20_000

# Offsets, in cells, that are near: W may vary much over their cells.
NEAR_OFFSET = 2

# Gauss points along each axis for the mean of W over a cell at a near offset.
NEAR_POINTS = 12

# The same for all farther offsets.
FAR_POINTS = 2

# The part of the largest contribution to the mean of W at 0 that the smallest boxes may have.
MAX_LAST_CONTRIBUTION = 0.01

# Offsets at which the symmetry of W is checked.
SYMMETRY_SAMPLES = 100

# The difference of W at two opposite offsets, relative to its largest value, that is rounding.
SYMMETRY_TOLERANCE = 1e-10


def build_convolution(
    mesh: Mesh, W: Function, points: Array | None = None
) -> Callable[[Array], Array]:
    """The linear map rho (n_cells,) -> W * rho (n_cells,) of a function W of offsets (dim, n)
    between points (dim, n_cells) of the cells. Collective.

    Raises `InputError` where W is not symmetric, not finite, not integrable or not the same on all
    ranks, and for meshes that are too large.
    """
    refuse_radial(
        mesh,
        "interactions",
        "W(x - y) is not one number for the points of two rings; leave the Interaction out",
    )
    _check_kernel(mesh, W)
    if mesh.block is not None:
        return _Fourier(mesh, mesh.block, W)
    return _Dense(mesh, W, mesh.center if points is None else points)


def _check_kernel(mesh, W):
    edges = np.diff(mesh.bounds, axis=0)[0]
    directions = np.random.default_rng(0).uniform(-1, 1, (mesh.dim, SYMMETRY_SAMPLES))
    z = edges[:, None] * directions
    with mesh.ranks.raising_together():
        there = W(z, 0.0)
        back = W(-z, 0.0)
        tolerance = SYMMETRY_TOLERANCE * np.abs(there).max()
        wrong = np.flatnonzero(np.abs(there - back) > tolerance)
        if len(wrong):
            i = wrong[0]
            raise InputError(
                f"an interaction must be symmetric, W(-z) = W(z): W is {there[i]:.6g} at z = "
                f"{z[:, i]} and {back[i]:.6g} at -z; take (W(z) + W(-z)) / 2, which has the same "
                "energy"
            )
    shared = mesh.ranks.broadcast(there)
    mesh.ranks.check(
        np.allclose(there, shared, rtol=1e-9, atol=1e-12 * np.abs(shared).max()),
        "an interaction must be the same on every rank: W is not",
    )


# ---- Cartesian meshes ----------------------------------------------------------------------------


class _Fourier:
    """By a table of W over all offsets, in Fourier space."""

    def __init__(self, mesh: Mesh, block: Any, W: Function):
        axes = list(zip(block.grid, block.periodic, strict=True))
        self.mesh = mesh
        self.grid = block.grid
        self.size = [
            n if is_periodic else fft.next_fast_len(2 * n - 1, real=True) for n, is_periodic in axes
        ]
        offsets = [
            _list_offsets(n, size, is_periodic)
            for (n, is_periodic), size in zip(axes, self.size, strict=True)
        ]
        with mesh.ranks.raising_together():
            table = cell_means(W, offsets, block.spacing)
        self._transformed = fft.rfftn(table) * np.prod(block.spacing)

    def __call__(self, rho):
        whole = gather(self.mesh, rho).reshape(self.grid)
        spectrum = fft.rfftn(whole, self.size) * self._transformed
        padded = fft.irfftn(spectrum, self.size)
        inside = tuple(map(slice, self.grid))
        return scatter(self.mesh, padded[inside].ravel())


def _list_offsets(n, size, is_periodic):
    """The offsets, in cells, at the places of a table along an axis; 0 at places that no pair of
    cells has.
    """
    place = np.arange(size)
    if is_periodic:
        return np.where(place > size // 2, place - size, place)
    backward = np.where(place > size - n, place - size, 0)
    return np.where(place < n, place, backward)


def cell_means(W: Function, offsets: Sequence[Array], spacing: Array) -> Array:
    """The means of W over boxes with edges *spacing* (dim,), centred at offset * spacing; offsets:
    numbers along each axis.
    """
    grid = np.stack(np.meshgrid(*offsets, indexing="ij")).reshape(len(offsets), -1)
    centre = grid * spacing[:, None]
    is_near = (np.abs(grid) <= NEAR_OFFSET).all(axis=0)
    is_zero = (grid == 0).all(axis=0)
    means = _average(W, centre, spacing, FAR_POINTS)
    means[is_near] = _average(W, centre[:, is_near], spacing, NEAR_POINTS)
    means[is_zero] = mean_at_zero(W, spacing[:, None])[0]
    return means.reshape([len(n) for n in offsets])


def _average(W, centre, spacing, n):
    """The means (k,) of W over boxes with edges *spacing*, centred at points (dim, k): n Gauss
    points, an even number, along each axis, so that none of them is a centre.
    """
    means = np.zeros(centre.shape[1])
    for x, weight in _list_gauss_points(n, len(centre)):
        means += weight * W(centre + (x * spacing)[:, None], 0.0)
    return means


# ---- the mean at a singularity -------------------------------------------------------------------


def mean_at_zero(W: Function, edges: Array, n: int = 6, halvings: int = 48) -> Array:
    """The means (k,) of W over k boxes round 0 with the given edges (dim, k).

    Each box is halved again and again, its volume *halvings* times in all; the shell between a box
    and its half is cut in 4^dim - 2^dim boxes, with n Gauss points along each axis. Raises
    `InputError` where the smallest boxes contribute much: W is not integrable.
    """
    dim = len(edges)
    corners = [
        np.array(corner)
        for corner in product((-0.375, -0.125, 0.125, 0.375), repeat=dim)
        if np.abs(corner).max() > 0.25
    ]
    gauss = _list_gauss_points(n, dim)
    scales = 0.5 ** np.arange(halvings // dim)

    offset = np.stack([corner + x / 4 for corner in corners for x, _ in gauss], axis=1)
    weight = np.tile([w for _, w in gauss], len(corners)) / 4**dim
    points = (offset[:, :, None] * scales).reshape(dim, -1)
    weight = weight[:, None] * scales**dim

    means = np.zeros(edges.shape[1])
    for k in range(len(means)):
        values = W(points * edges[:, [k]], 0.0).reshape(weight.shape)
        by_shell = (values * weight).sum(axis=0)
        means[k] = by_shell.sum()
        if abs(by_shell[-1]) > MAX_LAST_CONTRIBUTION * np.abs(by_shell).max():
            raise InputError(
                "an interaction must be integrable: near 0 W grows at least nearly as fast as "
                f"|z|^-dim, in {dim}D"
            )
    return means / weight.sum()


def _list_gauss_points(n, dim):
    """Pairs (point (dim,), weight) of Gauss's rule on the cube with edges 1 round 0, n points along
    each axis.
    """
    points, weights = make_gauss_rule(dim, 2 * n - 1, True)
    return list(zip(points.T - 0.5, weights))


# ---- other meshes --------------------------------------------------------------------------------


class _Dense:
    """By a matrix: this rank's rows, all columns."""

    def __init__(self, mesh: Mesh, W: Function, own_points: Array):
        n = mesh.n_cells_global
        if n > MAX_DENSE_CELLS:
            raise InputError(
                "an interaction on a mesh that is not Cartesian takes a matrix of cells times "
                f"cells: {n} cells are too many, {MAX_DENSE_CELLS} is the limit; use "
                "Mesh.interval, rectangle or box, which take Fourier transforms, or a coarser mesh"
            )
        self.mesh = mesh
        points = gather(mesh, own_points)
        self._matrix = np.empty((mesh.n_cells, n))
        own = mesh.cell_id[: mesh.n_cells]
        with mesh.ranks.raising_together():
            for row, cell in enumerate(own):
                offset = own_points[:, [row]] - points
                offset[:, cell] = 1.0  # not 0: the mean below takes its place
                self._matrix[row] = W(offset, 0.0)
            edges = np.broadcast_to(mesh.volume ** (1 / mesh.dim), (mesh.dim, mesh.n_cells))
            self._matrix[np.arange(mesh.n_cells), own] = mean_at_zero(W, edges, n=2)

    def __call__(self, rho):
        return self._matrix @ gather(self.mesh, self.mesh.volume * rho)
