"""Corners and their nodes: how many there are on any mesh and number of ranks, and what is exact
for linear functions.
"""

import brought_meshes as brought
import numpy as np
import pytest
from brought_meshes import BROUGHT
from comparisons import assert_same_solution
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import FokkerPlanck, Mesh, MeshError
from fvot.finite_volume.corners import find_corners

pytestmark = pytest.mark.ranks

# Sums of a few hundred terms of the size of what is compared, by inverses of simplices that are up
# to a hundred times longer than wide.
ROUND_OFF = 1e-13


SMALL = {name: make for name, make in MESHES.items() if name not in ("ball", "harbour")}
ALL = SMALL | BROUGHT
WARPED = ("hexahedra", "wedges", "pyramids")
EVERY = pytest.mark.parametrize("name", ALL)


def tensors(mesh):
    """A positive definite D (dim, dim, n_cells), the same on any number of ranks."""
    factors = np.random.default_rng(5).standard_normal((mesh.n_cells_global, mesh.dim, mesh.dim))
    D = np.einsum("nij,nkj->ikn", factors, factors) + 0.01 * np.eye(mesh.dim)[:, :, None]
    return np.ascontiguousarray(D[:, :, mesh.cell_id[: mesh.n_cells]])


def matrices(corners, D):
    """[(the corners of a cell, its matrix)]."""
    M = corners.matrices(D)
    start = corners.start
    found = []
    for K in range(corners.mesh.n_cells):
        k = start[K + 1] - start[K]
        entries = M[corners.pair_start[K] : corners.pair_start[K + 1]]
        found.append((slice(start[K], start[K + 1]), entries.reshape(k, k)))
    return found


def boundary_nodes(corners):
    """Which nodes (n_nodes,) lie at faces of the boundary, also of other ranks' cells."""
    side = corners.sides.face >= corners.mesh.n_inner
    corner = corners.side_corner[:, side]
    at = np.bincount(corners.node[corner[corner >= 0]], minlength=corners.n_nodes)
    return corners.add(at.astype(float)) > 0


# ---- linear functions ----------------------------------------------------------------------------


@EVERY
def test_fluxes_of_linear_functions_are_exact(name):
    """With w = g . x: sum_i F_i (x_i - x_K) = -|K| D g in every cell, for any D; and where D is the
    same in all cells, what the nodes inside get adds up to 0.
    """
    mesh = ALL[name]()
    corners = find_corners(mesh)
    g = np.array([0.7, -1.3, 0.4])[: mesh.dim]

    D = tensors(mesh)
    for K, (own, M) in enumerate(matrices(corners, D)):
        leg = corners.leg[:, own]
        F = -M @ (g @ leg)
        exact = -mesh.volume[K] * D[:, :, K] @ g
        assert np.abs(leg @ F - exact).max() <= ROUND_OFF * (np.abs(leg) @ np.abs(F)).max()

    same = np.eye(mesh.dim) + 0.4 * (np.ones((mesh.dim, mesh.dim)) - np.eye(mesh.dim))
    D = np.repeat(same[:, :, None], mesh.n_cells, axis=2)
    F = np.zeros(len(corners.node))
    for own, M in matrices(corners, D):
        F[own] = -M @ (g @ corners.leg[:, own])
    got = corners.sum_at_nodes(F)
    size = corners.sum_at_nodes(np.abs(F))
    inside = ~boundary_nodes(corners)
    assert (np.abs(got) <= ROUND_OFF * mesh.ranks.max(size.max()))[inside].all()


@EVERY
def test_matrices_are_symmetric_and_positive(name):
    mesh = ALL[name]()
    corners = find_corners(mesh)
    for _, M in matrices(corners, tensors(mesh)):
        size = np.abs(M).max()
        assert np.abs(M - M.T).max() <= 1e-14 * size
        assert np.linalg.eigvalsh(M)[0] >= -1e-14 * size


@EVERY
def test_shares_of_faces_are_exact_for_linear_functions(name):
    """They add up to 1, and the corners of planar faces have the centroid as their mean; faces of
    four corners that do not lie in a plane have several centroids.
    """
    corners = find_corners(ALL[name]())
    known = corners.side_corner >= 0
    share = corners.side_weight
    mean = (share * known * corners.leg[:, np.where(known, corners.side_corner, 0)]).sum(axis=1)
    assert (share[~known] == 0).all() and (share[known] > 0).all()
    assert_allclose(share.sum(axis=0), 1, rtol=1e-15)
    size = np.abs(corners.leg).max()
    off = np.abs(mean - corners.sides.offset).max()
    assert off <= (ROUND_OFF if name not in WARPED else 0.01) * size


# ---- nodes ---------------------------------------------------------------------------------------


COUNTS = {
    "interval": 18,
    "circle": 16,
    "rectangle": 11 * 8,
    "torus": 8 * 9,
    "channel": 12 * 6,
    "box": 6 * 7 * 5,
    "periodic box": 4 * 3 * 5,
    "lines": 21,
    "quads": 81,
    "kershaw": 13 * 13,
    "right": 36,
    "hexahedra": 64,
    "cubes in six": 27,
    "wedges": 64,
    "pyramids": 27 + 8,
}


@pytest.mark.parametrize("name", COUNTS)
def test_there_is_one_node_for_each_point(name):
    corners = find_corners(ALL[name]())
    assert corners.n_global == COUNTS[name]
    assert corners.mesh.ranks.sum(corners.n_own) == COUNTS[name]


@pytest.mark.parametrize("cells", [(3,), (3, 4), (3, 3, 3)])
def test_few_cells_of_a_torus_have_their_own_nodes(cells):
    """All of them are neighbours of each other."""
    dim = len(cells)
    if dim == 1:
        mesh = Mesh.interval(0, 1, cells[0], periodic=True)
    else:
        make = Mesh.rectangle if dim == 2 else Mesh.box
        mesh = make((0,) * dim, (1,) * dim, cells, periodic=True)
    corners = find_corners(mesh)
    assert corners.n_global == np.prod(cells)
    count = corners.sum_at_nodes(np.ones(len(corners.node)))
    assert (count == 2**dim).all()


def gathered(corners, values):
    """Columns (point, value) of all nodes, from their owners, in the order of the points."""
    own = np.vstack([corners.points, values])[:, : corners.n_own]
    whole = corners.mesh.ranks.all_gather(own)
    return whole[:, np.lexsort(whole.round(9)[::-1])]


APART = [name for name in ALL if name not in ("circle", "torus", "channel", "periodic box")]


@pytest.mark.parametrize("name", APART)  # points of nodes at both ends depend on the rank
def test_nodes_are_the_same_on_any_number_of_ranks(name):
    """So are sums over the corners around each of them."""
    found = []
    for options in {}, {"comm": MPI.COMM_SELF}:
        mesh = ALL[name](**options)
        corners = find_corners(mesh)
        values = corners.sum_at_nodes((mesh.centroid**2).sum(axis=0)[corners.cell] + 1)
        found.append(gathered(corners, values))
    assert_allclose(*found, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["noise", "torus", "wedges"])
def test_all_ranks_agree_on_numbers(name):
    """Each owner numbers its own nodes one after the other; the others have the same numbers."""
    corners = find_corners(ALL[name]())
    ranks = corners.mesh.ranks
    own = corners.number[: corners.n_own]
    assert (own == corners.first_row + np.arange(corners.n_own)).all()
    assert (ranks.all_gather(own) == np.arange(corners.n_global)).all()
    seen = np.zeros(corners.n_global)
    seen[own] = corners.average_at_nodes(corners.number[corners.node].astype(float))[
        : corners.n_own
    ]
    assert_allclose(ranks.sum(seen), np.arange(corners.n_global), rtol=1e-14)


# ---- cells that touch in a point -----------------------------------------------------------------


def checkerboard(n=5):
    """The black squares of n x n ones, which touch in points only."""

    def is_white(x):
        return np.floor(n * x).astype(int).sum(axis=0) % 2 == 1

    return Mesh.rectangle((0, 0), (1, 1), (n, n)).without(is_white)


def test_cells_that_touch_in_a_point_have_no_node_in_common():
    mesh = checkerboard()
    corners = find_corners(mesh)
    assert mesh.n_cells_global == 13 and corners.n_global == 4 * 13


def test_nothing_moves_through_a_point():
    """Two rooms of 3 x 3 squares that touch in a point: the mass stays in its room."""

    def is_elsewhere(x):
        return (x[0] < 0.5) != (x[1] < 0.5)

    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6)).without(is_elsewhere)
    assert find_corners(mesh).n_global == 2 * 16
    in_one = mesh.center[0] < 0.5
    rho = FokkerPlanck(mesh, diffusion=1.0, scheme="corners").step(
        mesh.density(lambda x: np.hypot(*(x - 0.5)) < 0.2 * (x[0] < 0.5)), 0.1
    )
    assert mesh.integrate(np.where(in_one, rho, 0)) == pytest.approx(1, abs=1e-14)
    assert np.abs(rho[~in_one]).max(initial=0.0) == 0


def test_cells_that_a_third_one_joins_have_their_node_in_common():
    """The inner corner of an L of five squares."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (3, 3)).without(lambda x: x.min(axis=0) > 1 / 3)
    assert mesh.n_cells_global == 5 and find_corners(mesh).n_global == 12


# ---- cells that are not star-shaped --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the mesh is not admissible")
def test_cells_that_are_not_star_shaped_are_named():
    mesh = Mesh.from_cells(*brought.with_a_u(), strict=False)
    with pytest.raises(MeshError, match="cell 0 at .* is not star-shaped about its centroid"):
        find_corners(mesh)
    with pytest.raises(MeshError, match="not star-shaped"):
        FokkerPlanck(mesh, diffusion=1.0, scheme="corners")


def test_two_point_fluxes_are_taken_there(recwarn):
    """With a warning on the first rank."""
    mesh = Mesh.from_cells(*brought.with_a_u(), strict=False)
    recwarn.clear()
    equation = FokkerPlanck(mesh, diffusion=1.0)
    said = [str(warning.message) for warning in recwarn]
    assert any("two-point fluxes are used: cell 0" in text for text in said) == mesh.ranks.is_root

    two_point = FokkerPlanck(mesh, diffusion=1.0, scheme="two_point")
    rho0 = mesh.density(lambda x: x[0] > 3)
    assert_same_solution(mesh.ranks, equation.step(rho0, 0.1), two_point.step(rho0, 0.1))
