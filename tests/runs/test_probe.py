"""The density at points: `probe` of results and geodesics."""

import numpy as np
import pytest
from brought_meshes import BROUGHT
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

from fvot import BenamouBrenier, ContinuityEquation, FokkerPlanck, InputError, Mesh
from fvot.finite_volume.interpolation import interpolate

pytestmark = pytest.mark.ranks

EVERY = {name: MESHES[name] for name in ("interval", "triangles", "voronoi", "box")} | BROUGHT


def inner_points(mesh, n=20):
    """Points in the middle half of the box around the mesh, the same on every rank."""
    lower, upper = mesh.bounds
    part = np.random.default_rng(3).uniform(0.25, 0.75, (mesh.dim, n))
    return lower[:, None] + part * (upper - lower)[:, None]


def mesh_range(mesh, u):
    return mesh.ranks.min(u.min()), mesh.ranks.max(u.max())


@pytest.mark.parametrize("name", EVERY)
def test_linear_functions_are_exact_inside(name):
    """And a constant is everywhere."""
    mesh = EVERY[name]()
    points = inner_points(mesh)
    slope = np.arange(1.0, mesh.dim + 1)
    u = np.stack([np.full(mesh.n_cells, 2.0), slope @ mesh.centroid])
    values = interpolate(mesh, u, points)
    assert_allclose(values[0], 2, rtol=1e-14)
    assert_allclose(values[1], np.clip(slope @ points, *mesh_range(mesh, u[1])), rtol=1e-11)


def test_smooth_functions_are_of_second_order():
    errors = []
    for n in (16, 32):
        mesh = Mesh.voronoi((0, 0), (1, 1), n**2)
        points = inner_points(mesh, 400)
        u = mesh.average(lambda x: np.sin(3 * x[0]) * np.cos(2 * x[1]))
        exact = np.sin(3 * points[0]) * np.cos(2 * points[1])
        errors.append(np.abs(interpolate(mesh, u[None], points)[0] - exact).mean())
    assert np.log2(errors[0] / errors[1]) > 1.7


def test_jumps_do_not_overshoot():
    mesh = Mesh.triangles((0, 0), (1, 1), 10)
    u = (mesh.centroid[0] < 0.5).astype(float)
    values = interpolate(mesh, u[None], inner_points(mesh, 300))
    assert 0 <= values.min() and values.max() <= 1


def test_results_have_gauges():
    """One point or several, at all recorded times; a flow brings a front past a gauge."""
    mesh = Mesh.interval(0, 1, 50)
    equation = ContinuityEquation(mesh, velocity=(1.0,))
    result = equation.solve(mesh.density(lambda x: x[0] < 0.2), np.linspace(0, 0.4, 5))
    gauge = result.probe([0.45])
    assert gauge.shape == (5,) and gauge[0] == 0 and gauge[-1] == pytest.approx(5, rel=1e-2)
    assert_array_equal(result.probe([[0.45, 0.1]])[:, 0], gauge)

    still = FokkerPlanck(mesh, diffusion=1.0).solve(np.ones(mesh.n_cells), [0, 0.1])
    assert_allclose(still.probe([[0.0, 0.5, 1.0]]), 1)
    path = BenamouBrenier(mesh, 4).solve(np.ones(mesh.n_cells), np.ones(mesh.n_cells))
    assert path.probe([[0.3]]).shape == (6, 1)


def test_what_is_no_point_is_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    result = FokkerPlanck(mesh, diffusion=1.0).solve(np.ones(mesh.n_cells), 0.1)
    for points, message in (
        ([[2.0], [0.5]], "outside"),
        ([[0.5], [0.5], [0.5]], "has shape"),
        ("here", "points must be"),
        ([[np.nan], [0.5]], "nan|finite|outside"),
    ):
        with pytest.raises(InputError, match=message):
            result.probe(points)
