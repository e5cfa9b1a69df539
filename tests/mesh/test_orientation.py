"""Cells listed in either sense make the same mesh; cells that are tangled, and not merely listed
so, are refused by name.
"""

import numpy as np
import pytest
from meshes import honeycomb, tiling
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from test_refine import bricks

from fvot import FokkerPlanck, Mesh, MeshError
from fvot.mesh import faces
from fvot.mesh.cells import KIND, MIRRORED, connect

pytestmark = pytest.mark.ranks

UNIT = {
    "hexahedron": [
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
        (0, 1, 1),
    ],
    "wedge": [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)],
    "pyramid": [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 0.5, 1)],
}


def interval(n=7):
    return np.linspace(0, 1, n + 1)[None], [
        ("line", np.stack([np.arange(n), np.arange(n) + 1], axis=1))
    ]


def triangles(n=6):
    mesh = Mesh.triangles((0, 0), (1, 1), n, comm=MPI.COMM_SELF)
    points = np.empty((2, mesh.points.shape[1]))
    points[:, mesh.point_id] = mesh.points
    return points, [("triangle", mesh.point_id[mesh.corners].reshape(-1, 3))]


MADE = {
    "interval": interval,
    "triangles": triangles,
    "tiling": tiling,
    "honeycomb": honeycomb,
    "hexahedra": lambda: bricks("hexahedron"),
    "wedges": lambda: bricks("wedge"),
}


def in_both_senses(blocks, seed=0):
    """The same cells, about half of them with corners listed in the other sense."""
    rng = np.random.default_rng(seed)
    turned = []
    for kind, rows in blocks:
        mirrored = MIRRORED.get(KIND[kind])
        other = [
            np.asarray(row)[list(mirrored)] if mirrored else np.asarray(row)[::-1] for row in rows
        ]
        turned.append(
            (
                kind,
                [
                    there if flip else here
                    for here, there, flip in zip(rows, other, rng.random(len(rows)) < 0.5)
                ],
            )
        )
    return turned


@pytest.mark.parametrize("name", list(MADE))
def test_cells_in_both_senses_make_the_same_mesh(name):
    points, blocks = MADE[name]()
    mesh = Mesh.from_cells(points, blocks, strict=False)
    other = Mesh.from_cells(points, in_both_senses(blocks), strict=False)
    for array in ("volume", "centroid", "center"):
        assert_allclose(
            other.gather(getattr(other, array)), mesh.gather(getattr(mesh, array)), atol=1e-13
        )
    inner, of_other = (m.ranks.sum(int(m.face_owned[: m.n_inner].sum())) for m in (mesh, other))
    assert of_other == inner and list(other.boundary) == list(mesh.boundary)
    assert other.ranks.sum(other.area[other.n_inner :].sum()) == pytest.approx(
        mesh.ranks.sum(mesh.area[mesh.n_inner :].sum())
    )
    walls = slice(other.n_inner, None)
    outwards = other.normal[:, walls] * (
        other.face_center[:, walls] - other.centroid[:, other.left[walls]]
    )
    assert np.all(outwards.sum(axis=0) > 0)


@pytest.mark.parametrize("name", list(MADE))
def test_surfaces_are_closed(name):
    """sum |s| n = 0 over the faces of each cell: so normals point away from each."""
    points, blocks = MADE[name]()
    mesh = Mesh.from_cells(points, in_both_senses(blocks), strict=False)
    for n in mesh.normal:
        assert_allclose(mesh.divergence(mesh.area * n) * mesh.volume, 0, atol=1e-13)


def test_corners_are_listed_the_right_way_round():
    points, blocks = bricks("hexahedron")
    mesh = Mesh.from_cells(points, in_both_senses(blocks), comm=MPI.COMM_SELF)
    cells = connect(mesh.points, [("hexahedron", mesh.corners.reshape(-1, 8))])
    volume, _ = faces.measure_cells(cells, *faces.find_half_faces(cells))
    assert np.all(volume > 0)


def test_names_of_faces_survive():
    points, blocks = triangles()
    side = [[i for i in range(points.shape[1]) if points[0, i] == 0]]
    order = np.array(side[0])[np.argsort(points[1, side[0]])]
    edges = np.stack([order[:-1], order[1:]])
    edges[:, ::2] = edges[::-1, ::2]
    mesh = Mesh.from_cells(points, in_both_senses(blocks), boundary={"left": edges})
    assert mesh.ranks.sum(mesh.area[mesh.boundary["left"]].sum()) == pytest.approx(1)
    assert np.all(mesh.normal[0, mesh.boundary["left"]] < 0)


def test_finer_meshes_and_heat_are_the_same():
    points, blocks = triangles()
    mesh, other = (Mesh.from_cells(points, cells) for cells in (blocks, in_both_senses(blocks)))
    assert other.refine().integrate(1.0) == pytest.approx(1)
    rates = [FokkerPlanck(m, diffusion=1.0).relaxation_rates(2) for m in (mesh, other)]
    assert_allclose(rates[1], rates[0], rtol=1e-9)


def swapped(kind, i, j):
    """The unit cell with two corners exchanged."""
    points = np.array(UNIT[kind], float).T
    order = np.arange(points.shape[1])
    order[[i, j]] = order[[j, i]]
    return points, [(kind, [order])]


def moved(kind, corner, to):
    points = np.array(UNIT[kind], float).T
    points[:, corner] = to
    return points, [(kind, [np.arange(points.shape[1])])]


SQUARE = np.array([[0, 1, 1, 0, 2, 2.0], [0, 0, 1, 1, 0, 1]])
TURN = 4 * np.pi * np.arange(5) / 5
TANGLED = {
    "bow tie of no area": ((SQUARE, [("quad", [[0, 1, 3, 2]])]), "cell 0 .quad.* tangled.*cross"),
    "bow tie": (
        (np.array([[0, 2, 0, 1.0], [0, 0, 1, 1]]), [("quad", [[0, 1, 2, 3]])]),
        "cell 0 .quad.* tangled",
    ),
    "bow tie among others": (
        (SQUARE + [[0], [0]], [("quad", [[0, 1, 2, 3], [1, 4, 2, 5]])]),
        "cell 1 .quad.* tangled",
    ),
    "star": (
        (np.stack([np.cos(TURN), np.sin(TURN)]), [("polygon", [[0, 1, 2, 3, 4]])]),
        "cell 0 .polygon.* tangled",
    ),
    "one triangle folded over another": (
        (np.array([[0, 1, 0.5, 0.4], [0, 0, 1, 0.3]]), [("triangle", [[0, 1, 2], [0, 1, 3]])]),
        "same side .* overlap",
    ),
    "a point moved across its neighbours": (
        (
            np.array([[0, 2, 2, 0, 3.0], [0, 0, 2, 2, 1]]),
            [("triangle", [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])],
        ),
        "same side .* untangle",
    ),
    "lexicographic corners of a hexahedron": (
        (np.array(UNIT["hexahedron"], float).T, [("hexahedron", [[0, 1, 3, 2, 4, 5, 7, 6]])]),
        "hexahedron.* tangled.*inside out",
    ),
    "hexahedron, two corners exchanged": (
        swapped("hexahedron", 6, 7),
        "hexahedron.* tangled.*inside out",
    ),
    "hexahedron, one corner pushed through": (
        moved("hexahedron", 6, (0.2, 0.2, 0.2)),
        "tangled.* corner at point 6 .*inside out",
    ),
    "wedge, two corners exchanged": (swapped("wedge", 3, 4), "wedge.* tangled.*inside out"),
    "pyramid, two corners exchanged": (swapped("pyramid", 1, 2), "pyramid.* tangled.*inside out"),
    "pyramid, one corner pushed in": (
        moved("pyramid", 2, (0.3, 0.3, 0)),
        "pyramid.* tangled.*inside out",
    ),
}


@pytest.mark.parametrize("name", list(TANGLED))
@pytest.mark.parametrize("strict", [True, False])
def test_tangled_cells_are_refused_by_name(name, strict):
    (points, blocks), words = TANGLED[name]
    with pytest.raises(MeshError, match=words):
        Mesh.from_cells(points, blocks, strict=strict)


def test_quadrilaterals_with_a_corner_that_points_inwards_are_none_of_these():
    points = np.array([[0, 2, 0.5, 0, 2.0], [0, 0, 0.5, 2, 2]])
    for quads in ([[0, 1, 2, 3], [2, 1, 4, 3]], [[3, 2, 1, 0], [2, 1, 4, 3]]):
        mesh = Mesh.from_cells(points, [("quad", quads)], strict=False, comm=MPI.COMM_SELF)
        assert_array_equal(np.sort(mesh.volume), [1, 3])
