"""First moments of patches against the Hamiltonians of transport, for quadratic potentials."""

import numpy as np
import pytest
from brought_meshes import (
    cubes_in_six,
    hexahedra,
    noise,
    pyramids,
    quads,
    random_polygons,
    right_triangles,
    wedges,
)
from numpy.testing import assert_allclose

from fvot import Mesh, MeshError
from fvot.benamou_brenier.diamonds import DiamondDiscretisation
from fvot.benamou_brenier.two_point import TwoPointDiscretisation
from fvot.finite_volume.corners import Corners
from fvot.mesh import faces
from fvot.mesh.cells import connect
from fvot.mesh.patch_moments import (
    compute_corner_moment,
    count_hidden,
    find_smallest_simplices,
    sum_corner_moments,
    sum_two_point_moments,
)
from fvot.mesh.patch_test import TwoPoint


def interpolate_moments(disc, points):
    """m_P T_P by the Hamiltonians of interpolated potentials.

    points (dim, n_points) : where phi lives, cells first
    """
    mesh = disc.mesh
    dim = mesh.dim
    cell_points = points[:, : mesh.n_cells]
    total = [np.bincount(disc.patch, mesh.volume * x) for x in cell_points]
    means = np.stack(total) / disc.volume

    def measure(phi):
        # Both ends of the slab have this potential.
        return disc.square(disc.slopes(np.stack([phi, phi], axis=1)))[:, 0] / 2

    moment = np.zeros((disc.n_patches, dim, dim, dim))
    for patch in range(disc.n_patches):
        x = points - means[:, [patch]]
        for a, b, c in np.ndindex(dim, dim, dim):
            quadratic = x[b] * x[c] / 2
            both = measure(x[a] + quadratic) - measure(x[a] - quadratic)
            moment[patch, a, b, c] = both[patch] / 2
    return moment * disc.volume[:, None, None, None]


def dissect(points, blocks):
    """(cells, volume, centroid, faces) of a mesh."""
    cells = connect(points, blocks)
    return cells, *faces.build_faces(cells)


@pytest.mark.parametrize(
    "brought, size",
    [
        (right_triangles(3), 2),
        (right_triangles(3, True), 3),
        (quads(3, noise(3, 0.25)), 1),
        (random_polygons(3), 1),
        (cubes_in_six(1), 2),
        (hexahedra(2, 0.2), 1),
        (wedges(2, 0.2), 2),
        (pyramids(1, 0.1), 1),
    ],
    ids=["one way", "alternating", "quads", "polygons", "tetra", "hexahedra", "wedges", "pyramids"],
)
def test_moments_of_corners_are_those_of_the_hamiltonians(brought, size):
    mesh = Mesh.from_cells(*brought, patches=size)
    disc = DiamondDiscretisation(mesh, 1)
    points = np.concatenate([mesh.centroid, disc.corners.points], axis=1)
    found = sum_corner_moments(*dissect(*brought), disc.patch, np.arange(disc.n_patches))
    exact = interpolate_moments(disc, points)
    assert_allclose(found, exact, atol=1e-14)
    assert np.abs(exact).max() > 1e-4


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: Mesh.triangles((0, 0), (1, 1), 4, patches=size),
        lambda size: Mesh.voronoi((0, 0), (1, 1), 30, patches=size),
        lambda size: Mesh.tetrahedra((0, 0, 0), (1, 1, 1), 2, patches=size),
    ],
    ids=["triangles", "polygons", "tetra"],
)
def test_moments_of_two_point_fluxes_are_those_of_the_hamiltonians(make, size):
    """In patches without walls, where potentials have no slope."""
    mesh = make(size)
    n = mesh.n_inner
    face = faces.Faces(
        mesh.left, mesh.right, mesh.vertices, mesh.area, mesh.normal, mesh.face_center, np.array([])
    )
    scheme = TwoPoint(mesh.volume, mesh.center, face, mesh.left_distance, mesh.right_distance)
    disc = TwoPointDiscretisation(mesh, 1)
    sides = scheme.copy_faces(disc.patch)
    found = sum_two_point_moments(scheme, disc.patch, sides, disc.weight, np.arange(disc.n_patches))
    exact = interpolate_moments(disc, mesh.center)
    inner = np.setdiff1d(disc.patch, disc.patch[mesh.left[n:]])
    assert_allclose(found[inner], exact[inner], atol=1e-14)
    assert len(inner) > 3 and np.abs(exact[inner]).max() > 1e-4


def test_squares_have_no_moments_at_walls_either():
    assert Mesh.from_cells(*quads(8)).quality.patch_moment == pytest.approx(0, abs=1e-14)
    assert Mesh.rectangle((0, 0), (1, 1), (8, 8)).quality.patch_moment == 0


def test_moments_do_not_depend_on_place_and_size():
    points, blocks = random_polygons(8)
    one = Mesh.from_cells(points, blocks).quality.patch_moment
    other = Mesh.from_cells(1e3 * (points + 5), blocks).quality.patch_moment
    assert other == pytest.approx(one, rel=1e-8)


def test_a_sample_of_patches_stands_for_all(monkeypatch):
    brought = quads(48, noise(48, 0.25))
    patch = np.arange(48**2)
    means = []
    for size in (100, 10_000):
        monkeypatch.setattr("fvot.mesh.patch_moments.SAMPLE_SIZE", size)
        means.append(compute_corner_moment(*dissect(*brought), patch))
    assert means[0] == pytest.approx(means[1], rel=0.1)


def corner_room():
    """A thin L and the square in its corner."""
    points = np.array([[0, 3, 3, 0.3, 0.3, 0, 3], [0, 0, 0.3, 0.3, 3, 3, 3]])
    return points, [("polygon", [[0, 1, 2, 3, 4, 5], [3, 2, 6, 4]])]


@pytest.mark.parametrize(
    "brought, is_hidden",
    [
        (corner_room(), True),
        (quads(4), False),
        (random_polygons(5), False),
        (hexahedra(3, 0.2), False),
        (wedges(2, 0.2), False),
    ],
    ids=["room", "quads", "polygons", "hexahedra", "wedges"],
)
def test_hidden_cells_are_those_that_corners_refuse(brought, is_hidden):
    cells, volume, centroid, face = dissect(*brought)
    count = count_hidden(cells, volume, centroid, face)
    assert (count > 0) == is_hidden
    mesh = Mesh.from_cells(*brought)
    smallest = find_smallest_simplices(cells, centroid, face)
    own = Corners(mesh).find_smallest_simplices()
    assert_allclose(smallest, own[np.argsort(mesh.cell_id)], rtol=1e-9, atol=1e-14)
    if not is_hidden:
        DiamondDiscretisation(mesh, 1)
        return
    assert mesh.quality.n_hidden == count
    assert mesh.quality.transport_scheme == mesh.quality.diffusion_scheme == "two-point fluxes"
    with pytest.raises(MeshError, match=f"{count} of {mesh.n_cells} cells have faces"):
        DiamondDiscretisation(mesh, 1)


def test_single_cells_of_simplices_are_lopsided():
    """Single triangles of one kind, too; patches of several are not."""
    moment = {
        size: Mesh.triangles((0, 0), (1, 1), 12, patches=size).quality.patch_moment
        for size in (1, 2, 4)
    }
    assert moment[4] < 0.05 and moment[2] < 0.05 and moment[1] > 0.4
    moment = {
        size: Mesh.from_cells(*cubes_in_six(4), patches=size).quality.patch_moment
        for size in (1, 8)
    }
    assert moment[8] < 0.25 and moment[1] > 0.5
