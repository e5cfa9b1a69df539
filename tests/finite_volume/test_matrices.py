"""The matrices of two-point fluxes: their products are what the fluxes say, face by face."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

from fvot import Mesh
from fvot.finite_volume.rates import Rates, SparsityPattern

pytestmark = pytest.mark.ranks

KINDS = MESHES | {
    "ring": lambda: Mesh.interval(0, 1, 3, periodic=True),
    "torus": lambda: Mesh.rectangle((0, 0), (1, 1), (6, 3), periodic=True),
}
ON_KINDS = ["interval", "triangles", "honeycomb", "ring", "torus"]


def make_rates(pattern, strength):
    """Coefficients that both ranks of a face find the same, by the place of the face."""
    mesh = pattern.mesh
    x = mesh.face_center.sum(axis=0)
    a = strength * mesh.area * (2 + np.sin(5 * x))
    b = strength * mesh.area * (2 + np.cos(7 * x))
    return Rates(pattern, a, b)


@pytest.mark.parametrize("kind", ON_KINDS)
def test_products_are_those_of_the_fluxes(kind, ranks):
    """For cells in orders that take turns, columns with and without a scale, and the transpose."""
    mesh = KINDS[kind]()
    pattern = SparsityPattern(mesh)
    n = mesh.n_cells
    rng = np.random.default_rng(ranks.rank)
    orders = [None, rng.permutation(n), rng.permutation(n)]
    closed = np.zeros(mesh.n_faces - mesh.n_inner)
    for turn, i in enumerate([0, 1, 1, 0, 2, 1, 0]):
        order = orders[i]
        rates = make_rates(pattern, 1.0 + turn)
        rho = 1 + mesh.center.sum(axis=0) ** 2
        scale = np.exp(mesh.center[0]) if turn % 2 else None
        factor = 1 if scale is None else scale
        place = np.arange(n) if order is None else order

        matrix = pattern.matrix(rates, 0.3, order, scale)
        out, _ = rates.outflow(factor * rho, closed)
        expected = mesh.volume * factor * rho + 0.3 * out
        found = matrix @ ranks.all_gather(rho[place])
        assert_allclose(found, expected[place], rtol=1e-13, atol=1e-14)

        matrix = pattern.matrix(rates, 0.3, order, transposed=True)
        out, _ = rates.transposed_outflow(rho)
        expected = mesh.volume * rho + 0.3 * out
        found = matrix @ ranks.all_gather(rho[place])
        assert_allclose(found, expected[place], rtol=1e-13, atol=1e-14)


def test_matrices_of_one_order_share_their_places():
    mesh = MESHES["triangles"]()
    pattern = SparsityPattern(mesh)
    matrices = [pattern.matrix(make_rates(pattern, s), 1.0) for s in (1.0, 2.0)]
    assert np.shares_memory(*[matrix.indices for matrix in matrices])
    assert not np.shares_memory(*[matrix.data for matrix in matrices])
