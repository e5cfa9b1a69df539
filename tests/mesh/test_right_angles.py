"""Distances that are 0 but for round-off: the same count on every processor, wherever a mesh
lies.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fvot.mesh import faces, power_centers, quality
from fvot.mesh.cells import connect

N = 6  # squares along each side


def halved_squares(angle, shift, height):
    """N x N rectangles of width 1, cut in two along diagonals; turned, then shifted: (points,
    blocks).
    """
    x, y = np.meshgrid(np.arange(N + 1.0), height * np.arange(N + 1.0), indexing="ij")
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = turn @ np.stack([x.ravel(), y.ravel()]) + shift
    number = np.arange((N + 1) ** 2).reshape(N + 1, N + 1)
    a = number[:-1, :-1]
    b = number[1:, :-1]
    c = number[1:, 1:]
    d = number[:-1, 1:]
    triangles = np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)])
    return points, [("triangle", triangles.reshape(-1, 3))]


@pytest.mark.parametrize("height", [1.0, 0.1])
@pytest.mark.parametrize("shift", [0.0, -1e3, 5e6])
@pytest.mark.parametrize("angle", [0.0, 0.1, 1.0, 2.0, 4.0])
def test_right_angles_have_distances_of_0(angle, shift, height):
    """Circumcentres of right triangles lie on their longest sides: N^2 distances are 0, in place of
    which all are the same.
    """
    cells = connect(*halved_squares(angle, shift, height))
    volume, centroid, face = faces.build_faces(cells, None)
    center = power_centers.place_centers(cells, centroid)
    report, _, left, right = quality.make_admissible(
        volume, centroid, center, face, True, lambda distance: None
    )
    assert report.n_coincident == N**2
    assert report.n_negative == report.n_clipped == 0
    distance = np.sort(left + right)[: N**2]
    assert_allclose(
        distance, distance[0], rtol=1e-6
    )  # the rounding of volumes, 5e6 from the origin
    assert_allclose(left[left + right <= distance[-1]], distance / 2, rtol=1e-6)
    assert 0 < distance[0] < 1e-3
