"""Meshes of a radius, or of (r, z): volumes, means and names, and who refuses them."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad

import fvot
from fvot import FokkerPlanck, InputError, Mesh, otto

pytestmark = pytest.mark.ranks

GRADED = np.array([0, 0.1, 0.25, 0.5, 0.6, 1.0, 1.7, 2.0])
MEASURE = {
    "cylindrical": lambda r: 2 * np.pi * r,
    "spherical": lambda r: 4 * np.pi * r**2,
}
ENCLOSED = {
    "cylindrical": lambda r: np.pi * r**2,
    "spherical": lambda r: 4 / 3 * np.pi * r**3,
}
KINDS = list(MEASURE)


def list_intervals(coordinates):
    """Meshes from r = 0 and from r > 0, of equal cells and of others."""
    return [
        Mesh.interval(0, 2, 7, coordinates=coordinates),
        Mesh.interval(0.5, 2, 7, coordinates=coordinates),
        Mesh.interval(edges=GRADED, coordinates=coordinates),
        Mesh.interval(edges=GRADED[2:], coordinates=coordinates),
    ]


def list_rectangles():
    z = [-1, 0, 0.3, 2.0]
    return [
        Mesh.rectangle((0, -1), (2, 2), (7, 6), coordinates="cylindrical"),
        Mesh.rectangle((0, -1), (2, 2), (7, 6), coordinates="cylindrical", periodic=(False, True)),
        Mesh.rectangle((0.5, -1), (2, 2), (7, 6), coordinates="cylindrical"),
        Mesh.rectangle(edges=[GRADED, z], coordinates="cylindrical"),
        Mesh.rectangle(edges=[GRADED[2:], z], coordinates="cylindrical"),
    ]


def mesh_size():
    """The fewest cells that a mesh can have here: one for each rank."""
    return Mesh.interval(0, 1, 64).ranks.size


def find_radii(mesh):
    """(smaller, larger) radius of each cell."""
    corners = mesh.points[0, mesh.corners].reshape(mesh.n_cells, -1)
    return corners.min(axis=1), corners.max(axis=1)


# ---- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", KINDS)
def test_volumes_areas_and_centroids_of_shells(coordinates):
    for mesh in list_intervals(coordinates):
        inner, outer = find_radii(mesh)
        enclosed = ENCLOSED[coordinates]
        assert_allclose(mesh.volume, enclosed(outer) - enclosed(inner), rtol=1e-13)
        assert_allclose(mesh.area, MEASURE[coordinates](mesh.face_center[0]), rtol=1e-14)
        assert_allclose(mesh.center[0], (inner + outer) / 2, rtol=1e-14)
        for cell in range(mesh.n_cells):
            ends = inner[cell], outer[cell]
            moment, _ = quad(lambda r: r * MEASURE[coordinates](r), *ends)
            assert_allclose(mesh.centroid[0, cell], moment / mesh.volume[cell], rtol=1e-12)


def test_volumes_areas_and_centroids_of_rings():
    for mesh in list_rectangles():
        inner, outer = find_radii(mesh)
        assert_allclose(mesh.volume / mesh.flat_volume, np.pi * (inner + outer), rtol=1e-13)
        third = (outer**3 - inner**3) / (outer**2 - inner**2) * 2 / 3
        assert_allclose(mesh.centroid[0], third, rtol=1e-13)
        assert_allclose(mesh.centroid[1], mesh.center[1], atol=1e-14)

        is_across = np.abs(mesh.normal[0]) > 0.5
        radius = mesh.face_center[0]
        assert_allclose(
            mesh.area[is_across], (2 * np.pi * radius * mesh.flat_area)[is_across], rtol=1e-14
        )
        ends = mesh.points[0, mesh.vertices][:, ~is_across]
        disc = np.pi * (ends.max(axis=0) ** 2 - ends.min(axis=0) ** 2)
        assert_allclose(mesh.area[~is_across], disc, rtol=1e-13)

        lower, upper = mesh.bounds
        whole = np.pi * (upper[0] ** 2 - lower[0] ** 2) * (upper[1] - lower[1])
        assert_allclose(mesh.integrate(1.0), whole, rtol=1e-13)
        assert mesh.quality.volume[1] == pytest.approx(whole / mesh.n_cells_global)


@pytest.mark.parametrize("coordinates", KINDS)
def test_offsets_lead_from_centroids_to_faces(coordinates):
    meshes = list_intervals(coordinates)
    if coordinates == "cylindrical":
        meshes += [mesh for mesh in list_rectangles() if len(mesh.boundary) > 1]
    for mesh in meshes:
        n = mesh.n_inner
        centroid = mesh.with_ghosts(mesh.centroid)
        from_left = mesh.face_center - centroid[:, mesh.left]
        from_right = mesh.face_center[:, :n] - centroid[:, mesh.right[:n]]
        if mesh.block is not None and any(mesh.block.periodic):
            from_left, from_right = from_left[:1], from_right[:1]
        assert_allclose(mesh.left_offset[: len(from_left)], from_left, atol=1e-14)
        assert_allclose(mesh.right_offset[: len(from_right), :n], from_right, atol=1e-14)


@pytest.mark.parametrize("coordinates", KINDS)
def test_the_divergence_of_the_position_is_the_dimension(coordinates):
    """By the theorem of Gauss, in each cell, to round-off."""
    for mesh in list_intervals(coordinates):
        flux = mesh.area * mesh.normal[0] * mesh.face_center[0]
        dim = 2 if coordinates == "cylindrical" else 3
        assert_allclose(mesh.divergence(flux), dim, rtol=1e-12)
    if coordinates == "cylindrical":
        for mesh in list_rectangles():
            flux = mesh.area * mesh.normal[0] * mesh.face_center[0]
            assert_allclose(mesh.divergence(flux), 2, rtol=1e-12)


def test_gradients_are_exact_for_the_square_of_the_radius():
    """The means of r^2 over equal rings differ by 2 r times the distance of their middles."""
    for mesh in list_intervals("cylindrical")[:2] + list_rectangles()[:3]:
        n = mesh.n_inner
        slope = mesh.gradient(mesh.average(lambda x: x[0] ** 2))[:n]
        exact = 2 * mesh.face_center[0, :n] * mesh.normal[0, :n]
        assert_allclose(slope, exact, atol=1e-12)


def test_the_quality_has_no_figures_of_transport():
    for mesh in (list_intervals("spherical")[0], list_rectangles()[3]):
        assert mesh.quality.suits_two_point
        assert "transport" not in str(mesh.quality)
    assert "transport" in str(Mesh.interval(0, 1, 4).quality)


def test_one_cell():
    mesh = Mesh.interval(0, 2, mesh_size(), coordinates="spherical")
    assert mesh.integrate(1.0) == pytest.approx(32 / 3 * np.pi, rel=1e-14)
    assert list(mesh.boundary) == ["right"]


# ---- functions on it -----------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", KINDS)
@pytest.mark.parametrize("degree", [1, 4])
def test_averages_are_exact_for_polynomials(coordinates, degree):
    power = 1 if coordinates == "cylindrical" else 2
    for mesh in list_intervals(coordinates):
        inner, outer = find_radii(mesh)
        n = degree + power + 1
        factor = MEASURE[coordinates](1.0)
        exact = factor * (outer**n - inner**n) / n / mesh.volume
        averages = mesh.average(lambda x: x[0] ** degree, degree=degree)
        assert_allclose(averages, exact, rtol=1e-12)
    if power == 1:
        for mesh in list_rectangles():
            averages = mesh.average(lambda x: x[0] * x[1], degree=2)
            exact = mesh.centroid[0] * mesh.centroid[1]
            assert_allclose(averages, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("coordinates", KINDS)
def test_indicators_densities_and_point_masses(coordinates):
    radius = 1.234
    for mesh in list_intervals(coordinates):
        inside = mesh.integrate(mesh.average(lambda x: x[0] < radius))
        enclosed = ENCLOSED[coordinates]
        exact = enclosed(radius) - enclosed(mesh.bounds[0, 0])
        assert inside == pytest.approx(exact, rel=1e-5)

        rho = mesh.density(lambda x: 1 + x[0])
        assert mesh.integrate(rho) == pytest.approx(1, rel=1e-13)
        for k in (1, 5):
            points, weights = mesh.to_points(rho, k)
            assert_allclose(mesh.deposit(points, weights), rho, rtol=1e-12)
            moment = mesh.integrate(rho * mesh.centroid[0])
            assert (points[0] * weights).sum() == pytest.approx(moment, rel=1e-12)
        assert_array_equal(mesh.scatter(mesh.gather(rho)), rho)


def test_pictures_are_averaged_over_rings():
    picture = np.random.default_rng(0).random((5, 4))
    mesh = Mesh.rectangle((0, 0), (1, 2), (7, 6), coordinates="cylindrical")
    fine = Mesh.rectangle((0, 0), (1, 2), (35, 12), coordinates="cylindrical")
    edge = np.arange(5) / 5
    values = picture[
        np.searchsorted(edge, fine.gather(fine.center[0])) - 1,
        (fine.gather(fine.center[1]) * 2).astype(int),
    ]
    parts = (values * fine.gather(fine.volume)).reshape(7, 5, 6, 2).sum(axis=(1, 3)).ravel()
    mass = mesh.gather(mesh.density(picture) * mesh.volume)
    assert_allclose(mass, parts / parts.sum(), rtol=1e-12)


def test_finer_and_smaller_meshes_keep_their_coordinates():
    for mesh in [*list_intervals("spherical"), *list_rectangles()]:
        fine = mesh.refine()
        assert fine.coordinates == mesh.coordinates
        assert set(fine.boundary) == set(mesh.boundary)
        assert fine.integrate(1.0) == pytest.approx(mesh.integrate(1.0), rel=1e-13)
        if mesh.block is not None and any(mesh.block.periodic):
            continue
        smaller = mesh.without([mesh.n_cells_global - 1])
        assert smaller.coordinates == mesh.coordinates
        volume = mesh.gather(mesh.volume)[smaller.parent_cell]
        assert_allclose(smaller.volume, volume, rtol=1e-13)
        assert "boundary" not in smaller.boundary
        copy = pickle.loads(pickle.dumps(smaller)) if mesh.ranks.size == 1 else smaller
        assert copy.coordinates == mesh.coordinates
        assert_array_equal(copy.volume, smaller.volume)


def test_paths_do_not_pass_a_body_on_the_axis():
    """The straight line through it is not free, and neither is the axis itself."""
    mesh = Mesh.rectangle((0, -2), (2, 2), (8, 16), coordinates="cylindrical")
    holed = mesh.without(lambda x: (x[0] < 1) & (np.abs(x[1]) < 0.5))
    length = holed.geodesic_distance([[0.0], [1.0]], [[0.0], [-1.0]])
    assert_allclose(length, 2 * np.hypot(1, 0.5) + 1, rtol=1e-12)
    assert_allclose(holed.nearest([[-1.0], [1.0]]), [[0.0], [1.0]], atol=1e-12)
    assert_allclose(mesh.nearest([[-1.0], [0.2]]), [[0.0], [0.2]], atol=1e-12)


def test_the_axis_is_no_part_of_the_boundary():
    for mesh in [*list_intervals("cylindrical"), *list_rectangles()]:
        touches = mesh.bounds[0, 0] == 0
        assert ("left" in mesh.boundary) == (not touches)
        condition = {"left": fvot.dirichlet(1.0)}
        if touches:
            with pytest.raises(InputError, match="r = 0 are no part of it"):
                FokkerPlanck(mesh, diffusion=1.0, boundary=condition)
            with pytest.raises(InputError, match="r = 0 are no part of it"):
                mesh.boundary["left"]
        else:
            FokkerPlanck(mesh, diffusion=1.0, boundary=condition)


@pytest.mark.long
def test_meshes_are_written_and_drawn(shared_folder, gl):
    for i, mesh in enumerate([*list_intervals("spherical")[:1], *list_rectangles()[1:4]]):
        mesh.write(shared_folder / f"{i}.vtu", {"r": lambda x: x[0], "volume": mesh.volume})
        mesh.plot(shared_folder / f"{i}.png")
        mesh.plot(mesh.volume, shared_folder / f"{i}_volume.png")
        grid = mesh.to_pyvista({"r": lambda x: x[0]})
        assert_allclose(grid.cell_data["r"], mesh.gather(mesh.centroid[0]), rtol=1e-12)
        if mesh.ranks.is_root:
            assert (shared_folder / f"{i}.png").stat().st_size > 0
            assert (shared_folder / f"{i}_volume.png").stat().st_size > 0


# ---- what is refused -----------------------------------------------------------------------------

MESH = Mesh.rectangle((0, 0), (1, 1), (4, 4), coordinates="cylindrical")
ONES = np.ones(MESH.n_cells)
TENSOR = [[1.0, 0.5], [0.5, 1.0]]

WRONG_MESHES = {
    "radii below 0": (lambda: Mesh.interval(-1, 1, 4, coordinates="spherical"), "at least 0"),
    "edges below 0": (
        lambda: Mesh.interval(edges=[-1, 0, 1, 2, 3], coordinates="spherical"),
        "at least 0, not -1",
    ),
    "another name": (lambda: Mesh.interval(0, 1, 4, coordinates="polar"), "not 'polar'"),
    "another name, edges": (
        lambda: Mesh.rectangle(edges=[[0, 1, 2, 3], [0, 1, 2]], coordinates=1),
        "not 1",
    ),
    "spherical rectangles": (
        lambda: Mesh.rectangle((0, 0), (1, 1), (4, 4), coordinates="spherical"),
        "not flat",
    ),
    "periodic radius": (
        lambda: Mesh.interval(0, 1, 4, coordinates="cylindrical", periodic=True),
        "not periodic",
    ),
    "periodic radius of (r, z)": (
        lambda: Mesh.rectangle((0, 0), (1, 1), (4, 4), coordinates="cylindrical", periodic=True),
        "not periodic",
    ),
}

REFUSED = {
    "transport": lambda: fvot.BenamouBrenier(MESH),
    "proper steps": lambda: fvot.JKO(MESH, fvot.Power(2), inner=fvot.BenamouBrenier(MESH)),
    "interaction": lambda: fvot.JKO(
        MESH, fvot.Power(2) + fvot.Interaction(lambda z: (z**2).sum(axis=0))
    ),
    "corners": lambda: FokkerPlanck(MESH, diffusion=1.0, scheme="corners"),
    "corners of flows": lambda: fvot.JKO(MESH, fvot.Power(2), scheme="corners"),
    "tensors": lambda: FokkerPlanck(MESH, diffusion=TENSOR),
    "tensors, two-point": lambda: FokkerPlanck(MESH, diffusion=TENSOR, scheme="two_point"),
    "noise of a diagonal": lambda: FokkerPlanck(MESH, diffusion=(1.0, 2.0), noise="ito"),
    "norm": lambda: otto.norm(MESH, ONES, ONES),
    "metric": lambda: otto.metric(MESH, ONES, ONES, ONES),
    "length": lambda: otto.length(MESH, [0, 1], [ONES, ONES]),
    "tangent": lambda: otto.tangent_potential(MESH, ONES, 0 * ONES),
    "gradient": lambda: otto.wasserstein_gradient(MESH, ONES, fvot.Power(2)),
    "exponential map": lambda: otto.exponential_map(MESH, ONES, 0 * ONES, 0.1),
}


@pytest.mark.parametrize("make, message", WRONG_MESHES.values(), ids=WRONG_MESHES)
def test_meshes_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_what_is_not_right_there_refuses(use):
    with pytest.raises(InputError, match="a mesh in cylindrical coordinates has no"):
        use()
