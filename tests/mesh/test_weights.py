"""Power centres: cell points for two-point fluxes on meshes whose circumcentres are not in
order.
"""

import warnings

import numpy as np
import pytest
from meshes import MESHES, honeycomb
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay

from fvot import BenamouBrenier, Mesh, MeshError
from fvot.mesh import faces, power_centers
from fvot.mesh.cells import TETRA, connect

pytestmark = pytest.mark.ranks

WALLS = [(0, 0), (1, 0), (1, 1), (0, 1)]


def simplices(points):
    """Delaunay cells of points (dim, n), all turned the same way."""
    cells = Delaunay(points.T).simplices
    turned = np.linalg.det(points.T[cells[:, 1:]] - points.T[cells[:, :1]]) < 0
    cells[turned, :2] = cells[turned, 1::-1]
    return points, [("triangle" if len(points) == 2 else "tetra", cells)]


def jittered(dim, n, amount, seed=0):
    """Delaunay cells of a jittered lattice in the unit box; points on its walls stay there."""
    lattice = np.stack(np.meshgrid(*[np.arange(n + 1.0)] * dim, indexing="ij")).reshape(dim, -1)
    noise = np.random.default_rng(seed).uniform(-amount, amount, lattice.shape)
    return simplices((lattice + noise * (lattice > 0) * (lattice < n)) / n)


def scattered(n):
    """Delaunay triangles of random points in the unit square: with slivers, and obtuse ones at the
    walls.
    """
    rng = np.random.default_rng(1)
    along = np.linspace(0, 1, int(np.sqrt(n)))[1:-1]
    walls = np.concatenate(
        [
            np.stack([along, 0 * along]),
            np.stack([along, 0 * along + 1]),
            np.stack([0 * along, along]),
            np.stack([0 * along + 1, along]),
        ],
        axis=1,
    )
    return simplices(np.concatenate([rng.random((2, n)), walls, np.array(WALLS, float).T], axis=1))


def diagonals(n, shear=0.0):
    """Squares cut along parallel diagonals: two circumcentres in one place, and out of order in a
    sheared box.

    `test_right_triangles.py` has more of them.
    """
    points = (
        np.stack(np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")).reshape(2, -1)
        / n
    )
    points[0] += shear * points[1]
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (corner.ravel() for corner in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    return points, [("triangle", np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))]


def alternating(n, amount=0.1, seed=0):
    """Squares cut along diagonals in alternating directions, their corners moved: about half of the
    diagonals are bad.
    """
    noise = np.random.default_rng(seed).uniform(-amount, amount, (2, (n + 1) ** 2)) / n
    points, [(_, cells)] = diagonals(n)
    i, j = np.divmod(np.arange(n * n), n)
    odd = np.concatenate([(i + j) % 2 == 1] * 2)
    whole = np.concatenate([cells[: n * n].T, cells[n * n :, 2:].T])
    a, b, c, d = np.tile(whole, 2)
    second = np.arange(2 * n * n) >= n * n
    other = np.where(second[:, None], np.stack([b, c, d], 1), np.stack([a, b, d], 1))
    inside = (points > 0) & (points < 1)
    return points + noise * inside, [("triangle", np.where(odd[:, None], other, cells))]


def with_roof(n=3):
    """`honeycomb` whose tetrahedra are cut in four: simplices beside other cells."""
    points, cells = honeycomb(n)
    cells = dict(cells)
    corner = cells["tetra"]
    middle = points[:, corner].mean(axis=2) + [[0.02], [-0.01], [-0.13]]
    apex = points.shape[1] + np.arange(len(corner))
    cells["tetra"] = np.concatenate(
        [np.where(np.arange(4) == i, apex[:, None], corner) for i in range(4)]
    )
    return np.concatenate([points, middle], axis=1), list(cells.items())


PINWHEEL = (
    np.array(
        [[0, 4, 2, 1.3, 2.7, 2], [0, 0, 3.46, 0.75, 0.75, 1.96]]
    ),  # no weights at all for this one
    [("triangle", [[0, 1, 3], [1, 4, 3], [1, 2, 4], [2, 5, 4], [2, 0, 5], [0, 3, 5], [3, 4, 5]])],
)
BAD = {
    "tetrahedra": lambda: jittered(3, 6, 0.4, seed=3),
    "finer tetrahedra": lambda: jittered(3, 9, 0.4, seed=5),
    "triangles": lambda: jittered(2, 10, 0.45, seed=2),
    "random triangles": lambda: scattered(400),
    "alternating diagonals": lambda: alternating(12),
    "mixture": with_roof,
}


@pytest.fixture(scope="module", params=list(BAD))
def cells(request):
    return BAD[request.param]()


@pytest.fixture(scope="module")
def mesh(cells):
    return Mesh.from_cells(*cells)


def distances_of_circumcenters(points, blocks):
    cells = connect(points, blocks)
    _, centroid, face = faces.build_faces(cells)
    center = power_centers.place_centers(cells, centroid)
    n = face.n_inner
    ahead = np.where(face.right < 0, face.center, center[:, face.right])
    return ((ahead - center[:, face.left]) * face.normal).sum(axis=0), n


def test_circumcenters_are_not_in_order(cells):
    distance, _ = distances_of_circumcenters(*cells)
    assert distance.min() < 1e-12


def test_power_centers_are_in_order_and_on_lines_normal_to_faces(mesh, cells):
    quality = mesh.quality
    n = mesh.n_inner
    assert (
        quality.n_negative == 0 and quality.smallest_distance > 1e-3 and np.all(mesh.distance > 0)
    )
    center = mesh.with_ghosts(mesh.center)
    left = mesh.left[:n]
    right = mesh.right[:n]
    between_simplices = np.ones(n, bool)
    if (
        len(cells[1]) > 1
    ):  # centroids of the other cells of a mixture are not above the middle of their faces
        kind = mesh.with_ghosts(mesh.kind)
        between_simplices = (kind[left] == TETRA) & (kind[right] == TETRA)
    else:
        assert quality.orthogonality_defect < 1e-11
    step = (center[:, right] - center[:, left])[:, between_simplices]
    normal = mesh.normal[:, :n][:, between_simplices]
    assert_allclose(step, mesh.distance[:n][between_simplices] * normal, atol=1e-11)


def test_quality_tells_how_many_points_have_moved(mesh):
    quality = mesh.quality
    assert 0 < quality.n_moved <= mesh.n_cells_global
    assert f"{quality.n_moved} cells in place of circumcentres" in str(quality)


def test_geometry_does_not_depend_on_the_number_of_ranks(mesh, cells):
    twin = Mesh.from_cells(*cells, comm=MPI.COMM_SELF)
    assert_array_equal(mesh.gather(mesh.center), twin.gather(twin.center))
    assert mesh.quality == twin.quality


@pytest.mark.parametrize("name", sorted(set(MESHES) - {"quads", "honeycomb", "tiling"}))
def test_good_meshes_keep_their_points(name):
    assert MESHES[name](comm=MPI.COMM_SELF).quality.n_moved == 0


def test_two_point_fluxes_of_linear_functions_are_exact(mesh, cells):
    if len(cells[1]) > 1:
        pytest.skip("a mixture")
    slope = np.array([2.0, -1.0, 0.5])[: mesh.dim]
    inner = slice(0, mesh.n_inner)
    assert_allclose(
        mesh.gradient(slope @ mesh.center)[inner], slope @ mesh.normal[:, inner], atol=1e-10
    )


def poisson(mesh, exact):
    """-Laplace u = f with u given on the boundary, by two-point fluxes on one rank: u in the
    cells.
    """
    n = mesh.n_cells
    inner = mesh.n_inner
    k = mesh.area / mesh.distance
    left, right = mesh.left, mesh.right[:inner]
    diagonal = np.bincount(left, k, n) + np.bincount(right, k[:inner], n)
    matrix = sparse.coo_matrix((-k[:inner], (left[:inner], right)), (n, n))
    matrix = (matrix + matrix.T + sparse.diags(diagonal)).tocsc()
    wall = slice(inner, None)
    foot = (
        mesh.center[:, left[wall]] + mesh.distance[wall] * mesh.normal[:, wall]
    )  # where x_K sees the wall
    source = mesh.volume * mesh.average(lambda x: mesh.dim * np.pi**2 * exact(x))
    return spsolve(matrix, source + np.bincount(left[wall], k[wall] * exact(foot), n))


@pytest.mark.long
@pytest.mark.parametrize(
    "made",
    [
        [scattered(n) for n in (64, 256, 1024)],
        [jittered(3, n, 0.4, seed=7) for n in (6, 9, 12)],
        [alternating(n) for n in (8, 16, 32)],
    ],
    ids=["random triangles", "tetrahedra", "alternating diagonals"],
)
def test_solutions_of_poisson_converge(made):
    def exact(x):
        return np.prod(np.sin(np.pi * x + 0.5), axis=0)

    error = []
    size = []
    for cells in made:
        mesh = Mesh.from_cells(*cells, comm=MPI.COMM_SELF)
        assert mesh.quality.n_moved > 0
        error.append(np.sqrt(mesh.integrate((poisson(mesh, exact) - exact(mesh.center)) ** 2)))
        size.append(mesh.quality.size[1])
    assert np.log(error[0] / error[-1]) / np.log(size[0] / size[-1]) > 1


def test_weights_do_what_their_gradients_say():
    points, blocks = jittered(3, 3, 0.4)
    cells = connect(points, blocks)
    volume, centroid, face = faces.build_faces(cells)
    center = power_centers.place_centers(cells, centroid)
    slope, _ = power_centers._compute_slope(cells, volume, face)
    weight = 0.01 * np.random.default_rng(4).standard_normal(points.shape[1])
    moved = power_centers.place_centers(cells, center, weight)
    change = (moved - center)[:, face.left]
    change = np.where(face.right < 0, -change, (moved - center)[:, face.right] - change)
    assert_allclose(slope @ weight, (change * face.normal).sum(axis=0), atol=1e-12)


@pytest.mark.parametrize("cells", [PINWHEEL, diagonals(12, shear=0.6)], ids=["pinwheel", "sheared"])
def test_transport_refuses_a_mesh_without_weights_or_with_drifting_ones(cells):
    mesh = Mesh.from_cells(*cells)
    with pytest.raises(MeshError, match="not admissible") as raised:
        BenamouBrenier(mesh, n_steps=2, scheme="two_point")
    for word in (
        "scheme='two_point'",
        "signed distance",
        "power centres",
        "flip its edges",
        "Delaunay",
        "strict=False",
    ):
        assert word in str(raised.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "fluxes to corners" in repr(BenamouBrenier(mesh, n_steps=2))


def test_a_mesh_without_weights_may_be_had_all_the_same():
    with pytest.warns(UserWarning, match="not admissible"):
        mesh = Mesh.from_cells(*PINWHEEL, strict=False, comm=MPI.COMM_SELF)
    assert np.all(mesh.distance > 0) and mesh.quality.n_moved == 0


def test_advice_for_tetrahedra_names_the_remedy():
    points, blocks = jittered(3, 2, 0.2)
    with pytest.raises(MeshError, match="OptimizeNetgen"):
        Mesh.from_cells(points, blocks, center=np.zeros((3, len(blocks[0][1]))))


def test_given_points_stay():
    points, blocks = diagonals(2)
    with pytest.raises(MeshError, match="not admissible"):
        Mesh.from_cells(points, blocks, center=np.zeros((2, 8)))
