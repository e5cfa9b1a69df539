"""The patch test of two-point schemes against what theory says of lattices."""

import warnings

import numpy as np
import pytest
from brought_meshes import hanging, noise, quads, right_triangles, swirl
from numpy.testing import assert_allclose

from fvot import Mesh
from fvot.mesh import builders, faces, power_centers, quality
from fvot.mesh.cells import connect
from fvot.mesh.patch_test import TwoPoint


def two_point(points, blocks, center=None):
    cells = connect(points, blocks)
    volume, centroid, face = faces.build_faces(cells)
    center = power_centers.place_centers(cells, centroid) if center is None else center
    _, left, right = quality.assess(volume, center, face)
    return TwoPoint(volume, center, face, left, right)


@pytest.mark.parametrize(
    "make",
    [
        lambda: quads(6),
        lambda: quads(9, lambda x, y: (x**1.5, y**2)),
        lambda: builders.build_triangles((0, 0), (1, 1), 7),
        lambda: builders.build_voronoi((0, 0), (1, 1), 60, 1),
        lambda: builders.build_tetrahedra((0, 0, 0), (1, 1, 1), 3),
    ],
)
def test_orthogonal_meshes_pass_with_weights_as_they_are(make):
    scheme = two_point(*make())
    assert scheme.is_orthogonal and scheme.is_exact
    assert_allclose(
        scheme.compute_energy_error(), 0, atol=3e-4
    )  # what the solver's tolerance leaves
    assert_allclose(scheme.metric_error, 0, atol=1e-10)


@pytest.mark.parametrize("shear", [0.1, -0.3])
def test_the_metric_of_a_sheared_lattice(shear):
    """With edges a = (1, 0), b = (shear, 1), A = (1 + shear^2) a a^T + b b^T in all cells but those
    at walls.
    """
    scheme = two_point(*quads(24, lambda x, y: (x + shear * y, y)))
    metric = np.array([[1 + 2 * shear**2, shear], [shear, 1]])
    exact = np.abs(1 - 1 / np.linalg.eigvalsh(metric)).max()
    assert exact * (1 - 1e-9) <= scheme.metric_error < 1.3 * exact
    assert scheme.tangent_rms == pytest.approx(abs(shear), rel=1e-9)  # of both kinds of faces


def test_angles_that_the_energy_does_not_see_are_seen():
    """Hanging nodes hardly change the energy, but the metric beside them."""
    scheme = two_point(*hanging(16))
    assert not scheme.is_orthogonal
    assert np.abs(scheme.compute_energy_error()).max() < 6e-3 < 0.015 < scheme.metric_error


def test_errors_grow_with_the_square_of_the_angles():
    """Of points moved at random, the energy; of a map that shears, locally, the metric in
    proportion.
    """
    energy = [
        np.abs(two_point(*quads(20, noise(20, part))).compute_energy_error()).max()
        for part in (0.1, 0.2)
    ]
    assert 3 < energy[1] / energy[0] < 5
    metric = [two_point(*quads(20, swirl(size))).metric_error for size in (0.005, 0.01)]
    assert 1.8 < metric[1] / metric[0] < 2.3


def test_corrected_weights_fail_where_the_mesh_is_nearly_cartesian():
    """Their correction does not get smaller with the noise that it corrects."""
    for part in 0.1, 0.01, 0.001:
        scheme = two_point(*quads(16, noise(16, part)))
        sides = scheme.copy_faces(np.arange(scheme.n_cells))
        weight = np.bincount(
            sides.face,
            scheme.correct_weights(np.arange(scheme.n_cells), sides),
            scheme.faces.n_inner,
        )
        assert np.abs(scheme.compute_energy_error(weight)).max() > 1e-2


def test_coinciding_points_are_not_oblique():
    scheme = two_point(*right_triangles(6))
    assert scheme.largest_sine < 1e-9 and scheme.tangent_rms < 1e-9


def test_pieces_are_tested_one_by_one():
    """The worst piece counts, and single cells do not."""
    points, [(kind, cells)] = quads(8, swirl(0.05))
    good, [(_, others)] = quads(8)
    far, [(_, one)] = quads(1)
    together = np.concatenate([points, good + [[2], [0]], far + [[4], [0]]], axis=1)
    cells = np.concatenate([cells, others + points.shape[1], one + points.shape[1] + good.shape[1]])
    alone = two_point(points, [(kind, cells[:64])]).compute_energy_error()
    assert_allclose(two_point(together, [(kind, cells)]).compute_energy_error(), alone, atol=1e-5)


def test_cells_in_a_row_have_a_patch_test():
    """Their points lie on a line: no box has a width across it."""
    n = 12
    x = np.arange(n + 1.0)
    points = np.stack([np.concatenate([x, x + 0.4]), np.repeat([0.0, 1.0], n + 1)])
    left = np.arange(n)
    cells = np.stack([left, left + 1, left + n + 2, left + n + 1], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mesh = Mesh.from_cells(points, [("quad", cells)])
    assert 0.1 < mesh.quality.metric_error < 0.4
