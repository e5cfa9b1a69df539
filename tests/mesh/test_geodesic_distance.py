"""Shortest ways inside domains, against lengths that are known; point masses of densities."""

from pathlib import Path

import meshio
import numpy as np
import pytest
from brought_meshes import BROUGHT
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh
from fvot.mesh import geodesic_distance

pytestmark = pytest.mark.ranks

FOLDER = Path(__file__).parents[2] / "meshes"


def lengths_round(x, corner):
    return np.hypot(*(x - np.reshape(corner, (2, 1))))


def test_round_the_corner_of_an_l():
    """[-1, 1]^2 without its lower right quarter: straight, or by way of 0."""
    mesh = Mesh.read(FOLDER / "l_shape.msh")
    x = mesh.gather(mesh.centroid)[:, ::20]
    lower = x[:, x[1] < 0]
    right = x[:, x[0] > 0]
    missing = (x[0] > 0) & (x[1] < 0)
    assert not missing.any()
    d = mesh.geodesic_distance(lower, right)
    cross = (
        lower[0][:, None] * right[1] - lower[1][:, None] * right[0]
    )  # which side of 0 the straight line takes
    straight = np.hypot(*(lower[:, :, None] - right[:, None]))
    assert_allclose(
        d,
        np.where(
            cross > 0,
            lengths_round(lower, (0, 0))[:, None] + lengths_round(right, (0, 0)),
            straight,
        ),
        rtol=1e-12,
    )


def test_round_a_slit():
    """Over the top of a slit with two corners."""
    mesh = Mesh.read(FOLDER / "slit.msh")
    x, y = np.array([[0.3], [0.1]]), np.array([[0.7], [0.2]])
    corners = np.array([[0.48, 0.52], [0.6, 0.6]])
    length = np.hypot(*(x[:, 0] - corners[:, 0])) + 0.04 + np.hypot(*(y[:, 0] - corners[:, 1]))
    assert mesh.geodesic_distance(x, y)[0, 0] == pytest.approx(length, rel=1e-12)


def test_round_a_disc():
    """In 0.4 < r < 1: two tangents and an arc; the hole is a polygon, whose sides are a little
    shorter than the arc.
    """
    mesh = Mesh.read(FOLDER / "annulus.msh")
    angle = np.array([2.5, 3.0, np.pi])
    x, y = np.array([[0.9], [0.0]]), 0.7 * np.stack([np.cos(angle), np.sin(angle)])
    arc = angle - np.arccos(0.4 / 0.9) - np.arccos(0.4 / 0.7)
    exact = np.sqrt(0.81 - 0.16) + np.sqrt(0.49 - 0.16) + 0.4 * arc
    assert_allclose(mesh.geodesic_distance(x, y)[0], exact, rtol=2e-3)


def test_round_an_edge_in_space(monkeypatch):
    """An L, one unit high: as in the plane, but for the rise; too long by the square of the spacing
    of the edge's points.
    """
    mesh = l_prism(4)
    x = np.random.default_rng(0).uniform([[-1], [-1], [0]], [[1], [1], [1]], (3, 300))
    lower = x[:, (x[0] < 0) & (x[1] < 0)]
    right = x[:, (x[0] > 0) & (x[1] > 0)]
    behind = (
        lower[0][:, None] * right[1] - lower[1][:, None] * right[0] > 0
    )  # the straight line passes the edge outside
    plane = np.where(
        behind,
        lengths_round(lower[:2], (0, 0))[:, None] + lengths_round(right[:2], (0, 0)),
        np.hypot(*(lower[:2, :, None] - right[:2, None])),
    )
    exact = np.hypot(plane, lower[2][:, None] - right[2])
    excess = []
    for n in 20, 200:
        monkeypatch.setattr(geodesic_distance, "EDGE_POINT_COUNT", n)
        found = mesh.geodesic_distance(lower, right)
        assert (found >= exact * (1 - 1e-14)).all()
        assert_allclose(found[~behind], exact[~behind], rtol=1e-14)
        excess.append((found / exact - 1).max())
    assert excess[0] < 1e-2 and excess[1] < excess[0] / 50


def test_round_a_box_in_space():
    """From one side of a thin plate, as high as the room, to the other; on walls, and through no
    wall.
    """
    mesh = box_with_a_hole()
    x, y = np.array([[0.5], [0.2], [0.5]]), np.array([[0.5], [0.8], [0.5]])
    one = np.hypot(
        0.25, 0.05
    )  # to the nearer edge of the block [.25, .75] x [.25, .75], and along its side
    assert mesh.geodesic_distance(x, y)[0, 0] == pytest.approx(2 * one + 0.5, rel=1e-4)
    on_walls = np.array([[0.25, 0.5, 0.75], [0.5, 0.25, 0.5], [0.5, 0.5, 0.5]])
    d = mesh.geodesic_distance(on_walls)
    assert_allclose(d, [[0, 0.5, 1.0], [0.5, 0, 0.5], [1.0, 0.5, 0]], atol=1e-4)


def l_prism(n):
    """Boxes with the sides 1/n in [-1, 1]^2 x [0, 1], without the lower right quarter."""
    return boxes(2 * n, n, (-1, -1, 0), 1 / n, lambda x: (x[0] < 0) | (x[1] > 0))


def box_with_a_hole():
    return boxes(
        8, 8, (0, 0, 0), 1 / 8, lambda x: (abs(x[0] - 0.5) > 0.25) | (abs(x[1] - 0.5) > 0.25)
    )


def boxes(n, high, lower, h, inside):
    place = np.indices((n, n, high)).reshape(3, -1)
    place = place[:, inside(np.reshape(lower, (3, 1)) + h * (place + 0.5))]
    corner = np.array(
        [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
    )
    at, cells = np.unique((place.T[:, None] + corner).reshape(-1, 3), axis=0, return_inverse=True)
    return Mesh.from_cells(
        np.reshape(lower, (3, 1)) + h * at.T, [("hexahedron", cells.reshape(-1, 8))]
    )


def test_the_nearest_point():
    """Of an L, and of the tetrahedra of a cube: where one can see it."""
    mesh = Mesh.read(FOLDER / "l_shape.msh")
    x = np.array([[0.5, 0.2, 0.0, -2.0], [-0.3, -0.9, 0.5, -3.0]])
    assert_allclose(mesh.nearest(x), [[0.5, 0.0, 0.0, -1.0], [0.0, -0.9, 0.5, -1.0]], atol=1e-12)
    cube = Mesh.tetrahedra((0, 0, 0), (1, 1, 1), 3)
    x = np.random.default_rng(0).uniform(-1, 2, (3, 200))
    assert_allclose(cube.nearest(x), np.clip(x, 0, 1), atol=1e-9)
    assert_allclose(Mesh.interval(0, 1, 5).nearest([[-1, 0.3, 4]]), [[0, 0.3, 1]])


def test_nearest_points_beyond_a_period():
    """Only walls end a mesh: beyond a period, points are across from those on the other side."""
    channel = Mesh.rectangle((0, 0), (3, 1), (12, 4), periodic=(True, False))
    points = np.array([[3.5, 3.5, -7.0, 1.0], [0.5, 1.5, -2.0, 1.5]])
    assert_array_equal(channel.nearest(points), [points[0], [0.5, 1.0, 0.0, 1.0]])
    torus = Mesh.rectangle((0, 0), (3, 1), (12, 4), periodic=True)
    assert_array_equal(torus.nearest(points), points)


@pytest.mark.parametrize("name", ["l_shape", "slit", "two_rooms", "annulus"])
def test_a_metric(name):
    mesh = Mesh.read(FOLDER / f"{name}.msh")
    x = mesh.gather(mesh.centroid)[:, :: mesh.n_cells_global // 40]
    d = mesh.geodesic_distance(x)
    assert_allclose(d, d.T, atol=1e-14)
    assert (np.diag(d) == 0).all() and (d >= np.hypot(*(x[:, :, None] - x[:, None])) - 1e-13).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-13).all()


@pytest.mark.parametrize("name", ["slit", "two_rooms", "annulus"])
def test_lengths_grow_with_the_domain(name):
    """Exactly, by powers of two, however small or large; and what floating point cannot hold is
    refused.
    """
    points, cells = read_plane(FOLDER / f"{name}.msh")
    mesh = Mesh.from_cells(points, cells)
    x = mesh.gather(mesh.centroid)[:, :: mesh.n_cells_global // 15]
    d = mesh.geodesic_distance(x)
    for scale in 2.0**-30, 2.0**30, 2.0**-200:
        assert (
            Mesh.from_cells(scale * points, cells).geodesic_distance(scale * x) == scale * d
        ).all()
    for scale in 1e-160, 1e150:
        with pytest.raises(InputError, match="unit of length"):
            Mesh.from_cells(scale * points, cells)
        with pytest.raises(InputError, match="unit of length"):
            Mesh.rectangle((0, 0), (scale, scale), (8, 8))


def quads(places):
    """(points, blocks) of unit squares with their lower left corners at these places; points are
    shared where they meet.
    """
    corner = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    at, cells = np.unique(
        (np.array(places)[:, None] + corner).reshape(-1, 2), axis=0, return_inverse=True
    )
    return at.T.astype(float), [("quad", cells.reshape(-1, 4))]


def test_no_way_through_a_vertex():
    """Squares that touch in (1, 1), alone, and joined by a way round a hole; from the vertex itself
    both are near.
    """
    mesh = Mesh.from_cells(*quads([(0, 0), (1, 1), (2, 1)]))
    for x, y in ([0.5, 0.5], [1.5, 1.5]), ([0.5, 0.2], [1.2, 1.9]):
        with pytest.raises(InputError, match="no path in the mesh"):
            mesh.geodesic_distance(np.reshape(x, (2, 1)), np.reshape(y, (2, 1)))
    assert_allclose(
        mesh.geodesic_distance([[1.0], [1.0]], [[0.5, 1.5], [0.5, 1.5]]), [[0.5**0.5, 0.5**0.5]]
    )
    mesh = Mesh.from_cells(*quads([(0, 0), (1, 1), (-1, 0), (-1, 1), (-1, 2), (0, 2), (1, 2)]))
    assert_allclose(
        mesh.geodesic_distance([[0.5], [0.5]], [[1.5], [1.5]]), 2 * 0.5**0.5 + 2, rtol=1e-12
    )


def test_round_a_slit_without_thickness():
    """From (1, 1) to (3, 1), where points stand twice at (2, 1)."""
    points, [(_, cells)] = quads([(i, j) for i in range(4) for j in range(2)])
    middle = int(np.flatnonzero((points == [[2], [1]]).all(axis=0))[0])
    upper = points[1, cells].mean(axis=1) > 1
    cells[upper] = np.where(cells[upper] == middle, points.shape[1], cells[upper])
    mesh = Mesh.from_cells(
        np.concatenate([points, [[2], [1]]], axis=1), [("quad", cells)], merge=False
    )
    found = mesh.geodesic_distance([[2.0, 1.5], [0.5, 0.5]], [[2.0], [1.5]])
    assert_allclose(
        found[:, 0], [2 * np.hypot(1, 0.5), np.hypot(0.5, 0.5) + np.hypot(1, 0.5)], rtol=1e-12
    )


def read_plane(path):
    found = meshio.read(path)
    return found.points[:, :2].T, [
        (block.type, block.data) for block in found.cells if block.type in ("triangle", "quad")
    ]


def test_straight_where_nothing_is_in_the_way():
    mesh = Mesh.voronoi((0, 0), (1, 1), 50)
    x = np.random.default_rng(0).uniform(0, 1, (2, 10))
    assert_allclose(mesh.geodesic_distance(x), np.hypot(*(x[:, :, None] - x[:, None])), atol=1e-15)
    torus = Mesh.rectangle((0, 0), (1, 1), (8, 8), periodic=(True, False))
    assert_allclose(torus.geodesic_distance([[0.1], [0.2]], [[0.9], [0.2]]), 0.2)
    box = Mesh.box((0, 0, 0), (1, 1, 1), (4, 4, 4))
    assert_allclose(box.geodesic_distance([[0], [0], [0]], [[1], [1], [1]]), 3**0.5)


def test_on_a_line_in_pieces(ranks):
    mesh = Mesh.from_cells(
        np.array([[0, 1, 2, 3, 4.0]]), [("line", np.array([[0, 1], [1, 2], [3, 4]]))]
    )
    assert_allclose(mesh.geodesic_distance([[0.2]], [[1.9, 2.0]]), [[1.7, 1.8]])
    with pytest.raises(InputError, match="no path in the mesh"):
        mesh.geodesic_distance([[0.2]], [[3.5]])


def test_the_same_points_on_any_number_of_ranks(ranks):
    """In the order of the file's cells; points that differ between ranks are seen."""
    whole, mine = (
        Mesh.read(FOLDER / "l_shape.msh", comm=comm)
        for comm in (ranks.comm, ranks.comm.Split(ranks.rank))
    )
    for k in 1, 5:
        (x, a), (y, b) = (
            mesh.to_points(mesh.average(lambda x: 2 + x[0]), k) for mesh in (whole, mine)
        )
        assert_allclose(x, y, atol=1e-14)
        assert_allclose(a, b, rtol=1e-12)
    if ranks.size > 1:
        for call in (
            lambda: whole.nearest(x[:, :5] + ranks.rank),
            lambda: whole.geodesic_distance(x[:, :5][:, :: 1 - 2 * (ranks.rank > 0)]),
            lambda: whole.geodesic_distance("a" if ranks.rank else x[:, :5]),
            lambda: whole.deposit(x, a[:: 1 - 2 * (ranks.rank > 0)]),
            lambda: whole.to_points(whole.volume, 1 + ranks.rank),
        ):
            with pytest.raises(InputError):
                call()


def test_boxes_that_lie_apart(ranks):
    apart = boxes(6, 2, (0, 0, 0), 0.5, lambda x: ((x[0] < 1) | (x[0] > 2)) & (x[1] < 1))
    with pytest.raises(InputError, match="no path in the mesh"):
        apart.geodesic_distance([[0.5, 2.5], [0.5, 0.5], [0.5, 0.5]])


def test_bad_points(ranks):
    mesh = Mesh.read(FOLDER / "l_shape.msh")
    with pytest.raises(InputError, match="outside"):
        mesh.geodesic_distance([[0.5], [-0.5]])
    pieces = Mesh.from_cells(
        np.array([[0, 1, 1, 0, 2, 3, 3, 2], [0, 0, 1, 1, 0, 0, 1, 1.0]]),
        [("quad", np.array([[0, 1, 2, 3], [4, 5, 6, 7]]))],
        comm=ranks.comm.Split(ranks.rank),
    )
    with pytest.raises(InputError, match="no path in the mesh"):
        pieces.geodesic_distance([[0.5, 2.5], [0.5, 0.5]])


# ---- densities as points -------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 16])
@pytest.mark.parametrize(
    "name", ["interval", "triangles", "voronoi", "rectangle", "box", "tetrahedra", "l_shape"]
)
def test_to_points_and_back(name, k):
    mesh = MESHES[name]()
    rho = mesh.density(lambda x: 1 + np.sin(x.sum(axis=0)) ** 2) * (
        mesh.center[0] < mesh.bounds.mean()
    )
    x, weight = mesh.to_points(rho, k)
    assert x.shape[1] >= k * mesh.ranks.sum(int((rho > 0).sum())) and (weight > 0).all()
    assert weight.sum() == pytest.approx(mesh.integrate(rho), rel=1e-14)
    assert_allclose(
        x @ weight, mesh.integrate(rho * mesh.centroid), atol=1e-13 * np.abs(mesh.bounds).max()
    )
    assert_allclose(mesh.deposit(x, weight), rho, rtol=1e-12)
    with pytest.raises(InputError, match="k must"):
        mesh.to_points(rho, 0)


@pytest.mark.parametrize("kind", ["hexahedra", "wedges", "honeycomb"])
def test_cells_of_many_simplices_have_few_points_more_than_asked_for(kind):
    """A doubling along each edge is a factor of 8."""
    mesh = (BROUGHT | MESHES)[kind]()
    x, weight = mesh.to_points(np.ones(mesh.n_cells), 100)
    assert 100 * mesh.n_cells_global <= x.shape[1] < 800 * mesh.n_cells_global
    assert_allclose(mesh.deposit(x, weight), 1.0, rtol=1e-12)
