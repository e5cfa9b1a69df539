"""W * rho on a mesh, for a symmetric kernel W: (W * rho)_K = sum_L W_KL |L| rho_L with W_KL = W_LK.

Cartesian meshes: W_KL is the mean of W over the cell at the offset of K from L, a table, and the
sum is a convolution by fast Fourier transforms, padded with zeros along axes with walls; along
periodic axes offsets are the shortest ones. Each rank does the whole transform, of n log n
operations.

Other meshes: W_KL = W(x_K - x_L), and for K = L the mean of W over the cube of the cell's volume: a
dense matrix, whose rows are dealt to the ranks, of n^2 operations. W may be singular at 0 if it is
integrable there: it is never taken at 0.
"""

from itertools import product

import numpy as np
from scipy import fft

from ..errors import InputError
from ..mesh.quadrature import make_gauss_rule

LARGEST = 20_000  # cells of a mesh that is not Cartesian: a matrix of 3.2 GB on all ranks together
NEAR = (
    2  # offsets, in cells, that are averaged with NEAR_POINTS along each axis; farther ones with 2
)
NEAR_POINTS = 12
NEGLIGIBLE = 0.01  # of what boxes add to the mean of W at 0, where the smallest ones add less


def convolution(mesh, W):
    """The linear map rho (n_cells,) -> W * rho (n_cells,) of a `Function` W of offsets (dim, n).
    Collective.

    Raises `InputError` where W is not symmetric, not finite, not integrable or not the same on all
    ranks, and for meshes that are too large.
    """
    _check(mesh, W)
    return _Fourier(mesh, W) if mesh.block is not None else _Dense(mesh, W)


def _check(mesh, W):
    z = np.diff(mesh.bounds, axis=0)[0][:, None] * np.random.default_rng(0).uniform(
        -1, 1, (mesh.dim, 100)
    )
    with mesh.ranks.raising_together():
        there = W(z, 0.0)
        back = W(-z, 0.0)
        wrong = np.flatnonzero(np.abs(there - back) > 1e-10 * np.abs(there).max())
        if len(wrong):
            i = wrong[0]
            raise InputError(
                f"an interaction must be symmetric, W(-z) = W(z): W is {there[i]:.6g} at z = "
                f"{z[:, i]} and "
                f"{back[i]:.6g} at -z; take (W(z) + W(-z)) / 2, which has the same energy"
            )
    shared = mesh.ranks.broadcast(there)
    mesh.ranks.check(
        np.allclose(there, shared, rtol=1e-9, atol=1e-12 * np.abs(shared).max()),
        "an interaction must be the same on every rank: W is not",
    )


class _Fourier:
    """By a table of W over all offsets, in Fourier space."""

    def __init__(self, mesh, W):
        self.mesh = mesh
        block = mesh.block
        self.grid = block.grid
        self.size = [
            n if wraps else fft.next_fast_len(2 * n - 1, real=True)
            for n, wraps in zip(block.grid, block.periodic, strict=True)
        ]
        offsets = [
            _offsets(n, size, wraps)
            for n, size, wraps in zip(block.grid, self.size, block.periodic, strict=True)
        ]
        with mesh.ranks.raising_together():
            table = cell_means(W, offsets, block.spacing)
        self._transformed = fft.rfftn(table) * np.prod(block.spacing)

    def __call__(self, rho):
        whole = self.mesh.gather(rho).reshape(self.grid)
        found = fft.irfftn(fft.rfftn(whole, self.size) * self._transformed, self.size)
        return self.mesh.scatter(found[tuple(map(slice, self.grid))].ravel())


def _offsets(n, size, wraps):
    """The offsets, in cells, that stand at each place of a table along an axis; those that no two
    cells have are 0.
    """
    place = np.arange(size)
    if wraps:
        return np.where(place > size // 2, place - size, place)
    return np.where(place < n, place, np.where(place > size - n, place - size, 0))


def cell_means(W, offsets, spacing):
    """The means of W over boxes with edges *spacing* (dim,), centred at offset * spacing; offsets:
    numbers along each axis.
    """
    grid = np.stack(np.meshgrid(*offsets, indexing="ij")).reshape(len(offsets), -1)
    centre = grid * spacing[:, None]
    near = (np.abs(grid) <= NEAR).all(axis=0)
    means = _mean(W, centre, spacing, 2)
    means[near] = _mean(W, centre[:, near], spacing, NEAR_POINTS)
    means[(grid == 0).all(axis=0)] = mean_at_zero(W, spacing[:, None])[0]
    return means.reshape([len(n) for n in offsets])


def _mean(W, centre, spacing, n):
    """The means (k,) of W over boxes with edges *spacing*, centred at points (dim, k): n Gauss
    points, an even number, along each axis, so that none of them is a centre.
    """
    means = np.zeros(centre.shape[1])
    for x, weight in _gauss(n, len(centre)):
        means += weight * W(centre + (x * spacing)[:, None], 0.0)
    return means


def mean_at_zero(W, edges, n=6, halvings=48):
    """The means (k,) of W over k boxes round 0 with the given edges (dim, k).

    Each box is halved again and again, its volume *halvings* times in all; what lies between a box
    and its half is cut in 4^dim - 2^dim boxes, with n Gauss points along each axis. Raises
    `InputError` where the smallest boxes add much: W is not integrable.
    """
    dim = len(edges)
    means = np.zeros(edges.shape[1])
    corners = [
        np.array(c)
        for c in product((-0.375, -0.125, 0.125, 0.375), repeat=dim)
        if np.abs(c).max() > 0.25
    ]
    shells = 0.5 ** np.arange(halvings // dim)
    offset = np.stack([corner + x / 4 for corner in corners for x, _ in _gauss(n, dim)], axis=1)
    weight = np.tile([w for _, w in _gauss(n, dim)], len(corners)) / 4**dim
    points = (offset[:, :, None] * shells).reshape(dim, -1)
    weight = weight[:, None] * shells**dim
    for k in range(len(means)):
        added = (W(points * edges[:, [k]], 0.0).reshape(weight.shape) * weight).sum(axis=0)
        means[k] = added.sum()
        if abs(added[-1]) > NEGLIGIBLE * np.abs(added).max():
            raise InputError(
                "an interaction must be integrable: near 0 W grows at least nearly as fast as "
                "|z|^-dim, in "
                f"{dim}D"
            )
    return means / weight.sum()


def _gauss(n, dim):
    """Pairs (point (dim,), weight) of Gauss's rule on the cube with edges 1 round 0, n points along
    each axis.
    """
    points, weights = make_gauss_rule(dim, 2 * n - 1, True)
    return list(zip(points.T - 0.5, weights))


class _Dense:
    """By a matrix: this rank's rows, all columns."""

    def __init__(self, mesh, W):
        n = mesh.n_cells_global
        if n > LARGEST:
            raise InputError(
                "an interaction on a mesh that is not Cartesian takes a matrix of cells times "
                f"cells: {n} are too "
                f"many, at most {LARGEST} will do; use Mesh.interval, rectangle or box, which "
                "take Fourier "
                "transforms, or a coarser mesh"
            )
        self.mesh = mesh
        points = mesh.gather(mesh.center)
        self._matrix = np.empty((mesh.n_cells, n))
        own = mesh.cell_id[: mesh.n_cells]
        with mesh.ranks.raising_together():
            for row, cell in enumerate(own):
                offset = mesh.center[:, [row]] - points
                offset[:, cell] = 1.0  # not 0: the mean below takes its place
                self._matrix[row] = W(offset, 0.0)
            edges = np.broadcast_to(mesh.volume ** (1 / mesh.dim), (mesh.dim, mesh.n_cells))
            self._matrix[np.arange(mesh.n_cells), own] = mean_at_zero(W, edges, n=2)

    def __call__(self, rho):
        return self._matrix @ self.mesh.gather(self.mesh.volume * rho)
