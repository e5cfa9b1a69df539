"""Systems of upwind fluxes, solved along and against the flow, beside dense matrices."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

from fvot import Mesh
from fvot.finite_volume.rates import Rates, SparsityPattern
from fvot.jko.streams import Streams

pytestmark = pytest.mark.ranks

POTENTIALS = {
    "slope": lambda x: x[0],
    "ripples": lambda x: np.sin(25 * x[0]) + 0.3 * x.sum(axis=0),
    "nothing moves": lambda x: 0 * x[0],
}


KINDS = MESHES | {
    "ring": lambda: Mesh.interval(0, 1, 12, periodic=True),
    "torus": lambda: Mesh.rectangle((0, 0), (1, 1), (9, 8), periodic=True),
}


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("kind", ["interval", "ring", "torus", "triangles", "honeycomb"])
def test_systems_are_solved_both_ways(kind, potential, ranks):
    """Also where streams cross from rank to rank many times, and some cells are given."""
    mesh = KINDS[kind]()
    pattern = SparsityPattern(mesh)
    n = mesh.n_inner
    phi = mesh.with_ghosts(POTENTIALS[potential](mesh.center))
    fall = phi[mesh.left[:n]] - phi[mesh.right[:n]]
    a = np.zeros(mesh.n_faces)
    b = np.zeros(mesh.n_faces)
    a[:n] = mesh.area[:n] * np.maximum(fall, 0)
    b[:n] = mesh.area[:n] * np.maximum(-fall, 0)
    tau = 5.0
    streams = Streams(pattern.stencil, mesh, a, b, tau)

    A = pattern.matrix(Rates(pattern, a, b), tau)
    A = ranks.all_gather(A.toarray().T).T
    volume = ranks.all_gather(mesh.volume)
    begin = mesh.first_row
    own = slice(begin, begin + mesh.n_cells)
    y = np.cos(7 * mesh.center.sum(axis=0)) * mesh.volume
    for free in (np.ones(mesh.n_cells, bool), mesh.center[0] < np.median(volume) + 0.6):
        fixed = 1 + mesh.center[0]
        is_free = ranks.all_gather(free)
        for solve, matrix in (streams.solve_along, A), (streams.solve_against, A.T):
            exact = ranks.all_gather(np.where(free, 0.0, fixed))
            rhs = ranks.all_gather(y) - matrix @ exact
            exact[is_free] = np.linalg.solve(matrix[np.ix_(is_free, is_free)], rhs[is_free])
            for _ in range(2):
                found = solve(y, free, fixed)
                assert_allclose(found, exact[own], rtol=1e-11, atol=1e-12)
