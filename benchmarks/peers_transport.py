"""The problems of `transport.py`, their exact W2^2, and how other methods solve them: one line of
JSON.

Needs numpy and scipy alone, and POT for what is POT's (`peers.txt` has the version):

    .venv-peers/bin/python benchmarks/peers_transport.py emd Gaussians 64 .venv-peers/bin/python
    benchmarks/peers_transport.py sinkhorn Gaussians 32 2e-3      # the entropy's weight python
    benchmarks/peers_transport.py pdhg Gaussians 64 32 0.1 200                    # steps in time,
    sigma, iterations
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from time import process_time
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.special import ndtr

# ---- problems ------------------------------------------------------------------------------------


class Marginal(NamedTuple):
    """A density on a line and its distribution function; neither need be normalised."""

    pdf: Callable
    cdf: Callable


def gauss(mean, width):
    return Marginal(
        lambda x: np.exp(-(((x - mean) / width) ** 2) / 2), lambda x: ndtr((x - mean) / width)
    )


def flat(low, high):
    return Marginal(lambda x: (low < x) & (x < high), lambda x: np.clip(x, low, high))


def hump(center, width):
    def cdf(x):
        s = np.clip((x - center) / width, -1, 1)
        return s - 2 * s**3 / 3 + s**5 / 5

    return Marginal(lambda x: np.maximum(1 - ((x - center) / width) ** 2, 0) ** 2, cdf)


def wave(amount, k):
    return Marginal(
        lambda x: 1 + amount * np.cos(k * np.pi * x),
        lambda x: x + amount * np.sin(k * np.pi * x) / (k * np.pi),
    )


# Along each axis of the unit square or cube: (from, to). The densities are the products.
PROBLEMS = {
    "smooth": [(wave(0.7, 2), wave(-0.7, 2)), (wave(0.5, 1), wave(-0.6, 1))],
    "Gaussians": [
        (gauss(0.3, 0.07), gauss(0.7, 0.12)),
        (gauss(0.3, 0.1), gauss(0.65, 0.06)),
        (gauss(0.2, 0.06), gauss(0.3, 0.08)),
    ],
    "bumps": [(hump(0.25, 0.15), hump(0.7, 0.25)), (hump(0.3, 0.2), hump(0.7, 0.12))],
    "squares": [(flat(0.1, 0.4), flat(0.6, 0.8)), (flat(0.1, 0.4), flat(0.5, 0.9))],
    "narrow": [(gauss(0.3, 0.03), gauss(0.7, 0.03)), (gauss(0.3, 0.03), gauss(0.65, 0.03))],
}


def value(problem, end, x):
    """The product of the marginals at points x (dim, n), not normalised; end: 0 or 1."""
    factors = [axis[end].pdf(along) for axis, along in zip(PROBLEMS[problem], x)]
    return np.logical_and.reduce(factors) if factors[0].dtype == bool else np.prod(factors, axis=0)


def square(problem, size, n=50_000):
    """W2^2 on a box [0, size_0] x ..., where the densities are cut off: by quantiles along each
    axis.
    """
    return sum(
        np.mean(np.subtract(*[_quantiles(marginal, upper, n) for marginal in axis]) ** 2)
        for axis, upper in zip(PROBLEMS[problem], size)
    )


def _quantiles(marginal, upper, n):
    x = np.linspace(0, upper, 4 * n + 1)
    F = marginal.cdf(x)
    inside = np.flatnonzero(
        np.diff(F, prepend=-np.inf) > 0
    )  # where F stands still, its last point but the first
    inside = np.union1d(inside, np.maximum(inside - 1, 0))
    F, x = (F[inside] - F[0]) / (F[-1] - F[0]), x[inside]
    return np.interp((np.arange(n) + 0.5) / n, F, x)


def cells(problem, n):
    """Both densities, exact means (n, n) over the cells of the unit square."""
    edges = np.linspace(0, 1, n + 1)
    means = [
        [
            n * np.diff(marginal.cdf(edges)) / np.ptp(marginal.cdf(edges[[0, -1]]))
            for marginal in axis
        ]
        for axis in PROBLEMS[problem][:2]
    ]
    return [np.outer(x, y) for x, y in zip(*means)]


# ---- static: POT ---------------------------------------------------------------------------------


def _points(rho):
    """(cell centres, masses) where there is mass."""
    n = len(rho)
    i = np.argwhere(rho > 0)
    return (i + 0.5) / n, rho[tuple(i.T)] / rho.sum()


def emd(ot, problem, n):
    (x, a), (y, b) = map(_points, cells(problem, int(n)))
    return ot.emd2(a, b, ot.dist(x, y), numItermax=10**8)


def sinkhorn(ot, problem, n, weight):
    (x, a), (y, b) = map(_points, cells(problem, int(n)))
    M = ot.dist(x, y)
    plan = ot.sinkhorn(
        a, b, M, float(weight), method="sinkhorn_log", numItermax=10**4, stopThr=1e-6
    )
    return (plan * M).sum()


# ---- dynamical: the classical method -------------------------------------------------------------


def pdhg(problem, n, n_steps, sigma, iterations):
    """The primal-dual method with fixed steps sigma, 1 / sigma on a staggered grid (Papadakis,
    Peyre, Oudet 2014).

    U = (m_x, m_y, f) on faces and time nodes keeps the continuity equation, by a projection with
    cosine transforms; its means in the cells are compared with V, whose cost |m|^2 / f is paid.
    Returns the cost of V.
    """
    n = int(n)
    n_steps = int(n_steps)
    sigma = float(sigma)
    rho = cells(problem, n)
    shape = (n, n, n_steps)
    t = np.linspace(0, 1, n_steps + 1)
    U = [
        np.zeros((n + 1, n, n_steps)),
        np.zeros((n, n + 1, n_steps)),
        np.multiply.outer(rho[0], 1 - t) + np.multiply.outer(rho[1], t),
    ]
    inner = [tuple(slice(1, -1) if a == b else slice(None) for b in range(3)) for a in range(3)]
    turn = np.meshgrid(*[np.arange(m) / m for m in shape], indexing="ij", sparse=True)
    symbol = sum((2 * m * np.sin(np.pi * k / 2)) ** 2 for m, k in zip(shape, turn))
    symbol[0, 0, 0] = np.inf

    def keep(U):
        p = sum(m * np.diff(u, axis=a) for a, (m, u) in enumerate(zip(shape, U)))
        p = fft.idctn(
            fft.dctn(p, norm="ortho", overwrite_x=True) / symbol, norm="ortho", overwrite_x=True
        )
        for a, m in enumerate(shape):
            U[a][inner[a]] += m * np.diff(p, axis=a)
        return U

    def mean(U, a):
        low, high = (
            tuple(s if a == b else slice(None) for b in range(3))
            for s in (slice(None, -1), slice(1, None))
        )
        return (U[a][low] + U[a][high]) / 2

    Y, U = [np.zeros(shape) for _ in range(3)], keep(U)
    ahead = U
    for _ in range(int(iterations)):
        Y = [y + sigma * mean(ahead, a) for a, y in enumerate(Y)]
        speed = Y[0] ** 2 + Y[1] ** 2
        l = np.maximum(Y[2], 0)
        for _ in range(
            8
        ):  # of Newton, for the point of a + |b|^2 / 4 <= 0 that is nearest to (a, b)
            x = 1 / (1 + l / 2)
            l = np.maximum(l + (Y[2] - l + speed * x**2 / 4) / (1 + speed * x**3 / 4), 0)
        x = 1 / (1 + l / 2)
        Y = [Y[0] * x, Y[1] * x, Y[2] - l]
        cost = (speed * x**2 * l).mean() / (4 * sigma)
        new = [u.copy() for u in U]
        for a in range(3):
            new[a][inner[a]] -= mean(Y, a) / sigma
        new = keep(new)
        ahead, U = [2 * v - u for u, v in zip(U, new)], new
    return cost


# ---- the program ---------------------------------------------------------------------------------


def main(name, problem, *arguments):
    version = None
    if name != "pdhg":
        import ot

        version = ot.__version__
    solve = pdhg if name == "pdhg" else partial({"emd": emd, "sinkhorn": sinkhorn}[name], ot)
    begin = process_time()
    found = solve(problem, *arguments)
    print(
        "result",
        json.dumps(dict(version=version, seconds=process_time() - begin, cost=float(found))),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
