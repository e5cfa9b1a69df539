"""Small cells beside large ones: in the plane they are coupled part by part, in space refused with
the cells' numbers.
"""

from contextlib import nullcontext

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import FokkerPlanck, InputError, Mesh, MeshError

pytestmark = pytest.mark.ranks


class Drawing:
    """Points and polygons, put together by coordinates: a point is there once."""

    def __init__(self):
        self.number = {}
        self.cells = []

    def point(self, *x):
        return self.number.setdefault(tuple(np.round(x, 9)), len(self.number))

    def rectangles(self, x, y):
        """All rectangles between the lines x and y."""
        for a, b in zip(x[:-1], x[1:]):
            for c, d in zip(y[:-1], y[1:]):
                self.cells.append(
                    [self.point(a, c), self.point(b, c), self.point(b, d), self.point(a, d)]
                )
        return self

    def made(self, change=lambda x: x):
        return change(np.array(list(self.number)).T), [("polygon", self.cells)]


def halves(left, right, n=2):
    """The unit square in two halves, with *left* and *right* cells along the line between them."""
    across = [np.linspace(0, 0.5, n + 1), np.linspace(0.5, 1, n + 1)]
    drawing = Drawing()
    for x, count in zip(across, (left, right)):
        drawing.rectangles(x, np.linspace(0, 1, count + 1))
    return drawing.made()


def quadtree(levels=4):
    """The unit square, ever finer towards a corner, with cells of several levels beside each
    other.
    """
    drawing = Drawing()
    size = 1.0
    for _ in range(levels):
        half = size / 2
        drawing.rectangles([half, size], [0, half, size]).rectangles([0, half], [half, size])
        size = half
    return drawing.rectangles(np.linspace(0, size, 9), np.linspace(0, size, 9)).made()


def cut(points, blocks):
    """Quadrilaterals as two triangles each."""
    quads = np.array(blocks[0][1])
    return points, [("triangle", np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))]


def turned(points, blocks, angle=0.3):
    """The same in another direction, at another place, with the round-off of that."""
    c = np.cos(angle)
    s = np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ points + [[3.0], [1.0]], blocks


SQUARES = {
    "1 : 2": halves(4, 8),
    "1 : 3": halves(4, 12),
    "1 : 7, one cell": halves(1, 7),
    "3 : 7": halves(3, 7),
    "1 : 1500": halves(1, 1500, n=1),
    "7 : 5, turned": turned(*halves(7, 5)),
    "quadtree": quadtree(),
    "triangles": cut(*halves(3, 7)),
    "triangles of a quadtree, turned": turned(*cut(*quadtree())),
}


@pytest.mark.filterwarnings("ignore:the mesh is not admissible")
@pytest.mark.parametrize("name", list(SQUARES))
def test_squares_are_whole(name):
    mesh = Mesh.from_cells(*SQUARES[name], strict=False)
    assert mesh.quality.n_hanging > 0
    assert mesh.integrate(1.0) == pytest.approx(1, rel=1e-13)
    assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(4, rel=1e-12)
    for n in mesh.normal:
        assert_allclose(mesh.divergence(mesh.area * n) * mesh.volume, 0, atol=1e-13)


@pytest.mark.parametrize("name", ["1 : 3", "3 : 7", "quadtree", "7 : 5, turned"])
def test_centroids_are_those_of_the_cells(name):
    points, blocks = SQUARES[name]
    mesh = Mesh.from_cells(points, blocks, strict=False)
    assert_allclose(
        mesh.gather(mesh.centroid),
        np.stack([points[:, c].mean(axis=1) for c in blocks[0][1]], axis=1),
        atol=1e-13,
    )


def test_both_sides_of_a_line_may_have_points_that_the_other_lacks():
    """Three cells beside seven, no point in common between the ends: 9 faces."""
    mesh = Mesh.from_cells(*halves(3, 7, n=1), comm=MPI.COMM_SELF)
    between = (mesh.left[: mesh.n_inner] < 0) | (
        np.abs(mesh.face_center[0, : mesh.n_inner] - 0.5) < 1e-12
    )
    assert between.sum() == 9 and mesh.quality.n_hanging == 8
    ends = np.sort(np.concatenate([np.arange(1, 3) / 3, np.arange(1, 7) / 7, [0, 1]]))
    assert_allclose(np.sort(mesh.area[: mesh.n_inner][between]), np.sort(np.diff(ends)), atol=1e-13)


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.filterwarnings("ignore:faces of this mesh are up to")
def test_heat_flows_across(ratio):
    """The slowest mode cos(pi x) on the unit square, to some per cent: with a wall between the
    halves it would be 4 pi^2.
    """
    mesh = Mesh.from_cells(*halves(12, 12 * ratio, n=8))
    equation = FokkerPlanck(mesh, diffusion=1.0)
    assert equation.relaxation_rates(1)[0] == pytest.approx(np.pi**2, rel=0.02)
    rho0 = mesh.density(lambda x: x[0] < 0.5)
    rho = equation.solve(rho0, 3.0).rho[-1]
    assert_allclose(rho, 1, atol=1e-3)


def test_names_of_edges_that_are_cut_survive():
    """Names for the line between the halves where it lies on the boundary in part, and for the
    whole boundary of a cell.
    """
    drawing = (
        Drawing().rectangles([0, 1], [0, 3]).rectangles([1, 2], [0, 0.5, 1])
    )  # the upper two thirds are a wall
    points, blocks = drawing.made()
    a, b, c, d = (drawing.point(*x) for x in [(1, 0), (1, 3), (0, 0), (0, 3)])
    mesh = Mesh.from_cells(
        points, blocks, boundary={"middle": np.array([[b], [a]]), "left": np.array([[c], [d]])}
    )
    length = {name: mesh.ranks.sum(mesh.area[edge].sum()) for name, edge in mesh.boundary.items()}
    assert length["middle"] == pytest.approx(2) and length["left"] == pytest.approx(3)
    assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(10)


def test_points_that_merely_touch_an_edge_do_not_change_cells():
    """A triangle that stands with its tip on the side of a square."""
    points = np.array([[0, 2, 2, 0, 1, 0.5, 1.5], [0, 0, 1, 1, 1, 2, 2]])
    mesh = Mesh.from_cells(
        points, [("quad", [[0, 1, 2, 3]]), ("triangle", [[4, 6, 5]])], comm=MPI.COMM_SELF
    )
    assert mesh.quality.n_hanging == 0 and mesh.n_inner == 0 and not np.any(mesh.kind == 7)


def test_a_gap_stays_one():
    """Cells on both sides of a slit that is a thousandth of an edge wide, with points that the
    other side lacks.
    """
    for gap, n_inner in ((1e-3, 0), (0.0, 2)):
        drawing = Drawing().rectangles([0, 1], [0, 1]).rectangles([1 + gap, 2], [0, 0.4, 1])
        mesh = Mesh.from_cells(*drawing.made(), comm=MPI.COMM_SELF)
        assert mesh.n_inner - 1 == n_inner


def test_a_crack_stays_open():
    """Two squares of 4 cells along the line between them, which has points of its own on each side
    but for its ends.
    """
    left = Drawing().rectangles([0, 1], np.linspace(0, 1, 5))
    right = Drawing().rectangles([1, 2], np.linspace(0, 1, 5))
    points = np.concatenate([left.made()[0], right.made()[0]], axis=1)
    shift = len(left.number)
    ends = {shift + right.point(1, y): left.point(1, y) for y in (0, 1)}
    cells = left.cells + [[ends.get(shift + i, shift + i) for i in cell] for cell in right.cells]
    mesh = Mesh.from_cells(points, [("polygon", cells)], merge=False)
    assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(8)
    with pytest.warns(UserWarning, match="3 points") if mesh.ranks.is_root else nullcontext():
        mesh = Mesh.from_cells(points, [("polygon", cells)])
    assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(6)


def test_what_is_coupled_by_hanging_points_does_not_depend_on_merge():
    for merge in True, False:
        mesh = Mesh.from_cells(*halves(4, 12), merge=merge)
        assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(4)


def test_cells_with_hanging_points_are_not_refined():
    with pytest.raises(InputError, match="polygon cannot be refined"):
        Mesh.from_cells(*halves(2, 4)).refine()


def test_quality_says_how_many_points_hang():
    assert "hanging points         4" in str(Mesh.from_cells(*halves(4, 8)).quality)


def test_coordinates_of_single_precision():
    """A slanted line between the halves, in the digits of single precision, and in six of a text
    file.
    """
    points, blocks = turned(*halves(5, 15))
    for rounded in (
        points.astype(np.float32).astype(float),
        np.array([[float(f"{x:.6g}") for x in row] for row in points]),
    ):
        mesh = Mesh.from_cells(rounded, blocks, strict=False)
        assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(4, rel=1e-5)


# ---- space ---------------------------------------------------------------------------------------


def bricks(counts, shift=0.0):
    """Two boxes side by side, with (counts) x (counts) hexahedra on the square between them:
    (points, cells).
    """
    corners = []
    cells = []
    for side, n in enumerate(counts):
        g = np.stack(
            np.meshgrid([0, 1], np.arange(n + 1) / n, np.arange(n + 1) / n, indexing="ij")
        ).reshape(3, -1)
        k = np.arange(g.shape[1]).reshape(2, n + 1, n + 1) + sum(c.shape[1] for c in corners)
        low = [k[0, :-1, :-1], k[1, :-1, :-1], k[1, 1:, :-1], k[0, 1:, :-1]]
        high = [k[0, :-1, 1:], k[1, :-1, 1:], k[1, 1:, 1:], k[0, 1:, 1:]]
        corners.append(g + [[side], [side * shift], [0]])
        cells.append(np.stack([c.ravel() for c in low + high], axis=1))
    return np.concatenate(corners, axis=1), [("hexahedron", np.concatenate(cells))]


@pytest.mark.filterwarnings("ignore:.* points of the mesh coincide with others")
@pytest.mark.parametrize("counts, shift", [((1, 2), 0), ((2, 3), 0), ((4, 4), 0.1), ((3, 3), 0.5)])
def test_faces_that_touch_in_parts_are_refused(counts, shift):
    points, blocks = bricks(counts, shift)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    for corners in points, q @ points + [[1.0], [2], [3]]:
        with pytest.raises(
            MeshError, match="cells .* touch in a part of their faces .*merge=False"
        ) as raised:
            Mesh.from_cells(corners, blocks)
        first, second = [int(word) for word in str(raised.value).split() if word.isdigit()][:2]
        assert first < counts[0] ** 2 <= second


@pytest.mark.filterwarnings("ignore:.* points of the mesh coincide with others")
def test_tetrahedra_that_are_cut_on_one_side_are_refused():
    points = np.array([[0, 1, 0, 0, 0, 0.5], [0, 0, 1, 0, 0, 0.5], [0, 0, 0, 1, -1, 0]])
    whole = [[0, 1, 2, 3]]
    parts = [[0, 2, 5, 4], [0, 5, 1, 4]]
    with pytest.raises(MeshError, match="cells 0 and [12] touch in a part"):
        Mesh.from_cells(points, [("tetra", whole + parts)], strict=False)
    mesh = Mesh.from_cells(
        points, [("tetra", whole + parts)], strict=False, merge=False, comm=MPI.COMM_SELF
    )
    assert mesh.n_inner == 1


@pytest.mark.filterwarnings("ignore:.* points of the mesh coincide with others")
def test_faces_that_fit_are_not_refused():
    mesh = Mesh.from_cells(*bricks((4, 4)), comm=MPI.COMM_SELF)
    assert mesh.area[mesh.n_inner :].sum() == pytest.approx(10)
    points, blocks = bricks((1, 2))
    points[0] += 0.01 * (points[0] > 1.5) + 0.01 * (
        np.arange(points.shape[1]) >= 8
    )  # a gap between the boxes
    assert Mesh.from_cells(points, blocks, comm=MPI.COMM_SELF).n_cells == 5
