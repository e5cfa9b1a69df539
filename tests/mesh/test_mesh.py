"""Identities that every mesh keeps on any number of ranks."""

import ctypes

import numpy as np
import pytest
from meshes import MEASURE, MESHES, PERIODIC, honeycomb, shaken_quads, tiling
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from fvot import InputError, Mesh, MeshError
from fvot.mesh.face_exchange import find_face_exchange
from fvot.mesh.means import average_over_faces

pytestmark = pytest.mark.ranks

EPS = np.finfo(float).eps
ORTHOGONAL = set(MESHES) - {
    "quads",
    "honeycomb",
}  # x_L - x_K is normal to the faces; files hold simplices
SIDES = {
    "left": 1,
    "right": 1,
    "front": 2,
    "back": 2,
    "bottom": 2,
    "top": 2,
}  # of the box (0, 0, 0) to (1, 2, 1)


def field(x):
    """A smooth vector field, without any symmetry of the meshes."""
    return np.stack([np.sin(1 + x.sum(axis=0) * (axis + 1)) + x[0] for axis in range(len(x))])


def flux_through(mesh):
    """A flux through every face, 0 at the boundary: made of the cells' numbers, the same on every
    rank.
    """
    flux = mesh.area * np.sin(1 + mesh.cell_id[mesh.left] + 7 * mesh.cell_id[mesh.right])
    flux[mesh.n_inner :] = 0
    return flux


def cell_values(mesh):
    """Values that differ from cell to cell, the same on any number of ranks."""
    return mesh.scatter(np.random.default_rng(0).standard_normal(mesh.n_cells_global))


def all_faces(mesh, *names):
    """Columns of the named face arrays for all faces of the mesh, in an order that no partition
    changes.
    """
    id_left = mesh.cell_id[mesh.left]
    id_right = np.where(mesh.right < 0, -1, mesh.cell_id[mesh.right])
    columns = np.vstack(
        [
            id_left,
            id_right,
            mesh.face_center,
            *[np.atleast_2d(getattr(mesh, name)) for name in names],
        ]
    )
    columns = mesh.ranks.all_gather(columns[:, mesh.face_owned])
    return columns[:, np.lexsort(columns[2 + mesh.dim - 1 :: -1])]


def adjacency(twin, member):
    """The graph of the cells, of those edges that do not leave a member."""
    left, right = twin.cell_id[twin.left[: twin.n_inner]], twin.cell_id[twin.right[: twin.n_inner]]
    same = member[left] == member[right]
    n = twin.n_cells
    return sparse.coo_matrix((np.ones(same.sum()), (left[same], right[same])), (n, n))


# ---- geometry ------------------------------------------------------------------------------------


def test_volumes_add_up_to_the_domain(mesh, kind):
    if kind in MEASURE:
        assert mesh.integrate(np.ones(mesh.n_cells)) == pytest.approx(MEASURE[kind], rel=1e-13)
    if kind not in PERIODIC:  # the divergence theorem for the field x
        wall = slice(mesh.n_inner, None)
        outward = (mesh.face_center * mesh.normal).sum(axis=0) * mesh.area
        through = mesh.ranks.sum(outward[wall].sum())
        assert mesh.integrate(np.ones(mesh.n_cells)) == pytest.approx(through / mesh.dim, rel=1e-12)


def test_face_vectors_of_a_cell_add_up_to_zero(mesh):
    largest = mesh.ranks.max(mesh.area.max())
    for normal in mesh.normal:
        assert_allclose(
            mesh.divergence(mesh.area * normal) * mesh.volume, 0, atol=20 * EPS * largest
        )


def test_divergence_is_exact_for_a_linear_field(mesh, kind):
    if kind in PERIODIC:
        pytest.skip("x is not a field on a torus")
    flux = (mesh.face_center * mesh.normal).sum(axis=0) * mesh.area
    assert_allclose(
        mesh.divergence(flux), mesh.dim, rtol=1e-10
    )  # 1e-10: cells far from the origin cancel


def test_divergence_is_minus_the_adjoint_of_the_gradient(mesh):
    u = cell_values(mesh)
    flux = flux_through(mesh)
    owned = mesh.face_owned
    on_cells = mesh.integrate(u * mesh.divergence(flux))
    on_faces = mesh.ranks.sum((mesh.distance * flux * mesh.gradient(u))[owned].sum())
    size = mesh.ranks.sum(np.abs(flux).sum()) * np.abs(u).max()
    assert abs(on_cells + on_faces) <= 100 * EPS * size


def test_gradient_is_exact_for_linear_functions_where_the_mesh_is_orthogonal(mesh, kind):
    if kind not in ORTHOGONAL or kind in PERIODIC:
        pytest.skip("not orthogonal, or periodic")
    slope = np.array([2.0, -1.0, 0.5])[: mesh.dim]
    inner = slice(0, mesh.n_inner)
    assert_allclose(
        mesh.gradient(slope @ mesh.center)[inner], slope @ mesh.normal[:, inner], atol=1e-11
    )


def test_normals_are_unit_vectors_that_point_from_left_to_right(mesh):
    assert_allclose(np.linalg.norm(mesh.normal, axis=0), 1, rtol=4 * EPS)
    inner = slice(0, mesh.n_inner)
    assert np.all((mesh.left_offset * mesh.normal).sum(axis=0) > 0)
    assert np.all((mesh.right_offset * mesh.normal)[:, inner].sum(axis=0) < 0)


def test_distances_are_those_of_the_cell_points(mesh, kind):
    assert (
        np.all(mesh.distance > 0)
        and np.all(mesh.left_distance >= 0)
        and np.all(mesh.right_distance >= 0)
    )
    assert_array_equal(mesh.distance, mesh.left_distance + mesh.right_distance)
    assert np.all(mesh.right_distance[mesh.n_inner :] == 0)
    if kind in PERIODIC:
        return
    left, right = mesh.left[: mesh.n_inner], mesh.right[: mesh.n_inner]
    center = mesh.with_ghosts(mesh.center)
    step = center[:, right] - center[:, left]
    normal = mesh.normal[:, : mesh.n_inner]
    assert_allclose((step * normal).sum(axis=0), mesh.distance[: mesh.n_inner], rtol=1e-10)
    if kind in ORTHOGONAL:
        assert_allclose(step, mesh.distance[: mesh.n_inner] * normal, atol=1e-12)


def test_offsets_lead_from_centroids_to_faces(mesh, kind):
    if kind in PERIODIC:
        pytest.skip("faces have two places on a torus")
    centroid = mesh.with_ghosts(mesh.centroid)
    inner = slice(0, mesh.n_inner)
    assert_allclose(centroid[:, mesh.left] + mesh.left_offset, mesh.face_center, atol=1e-14)
    assert_allclose(
        centroid[:, mesh.right[inner]] + mesh.right_offset[:, inner],
        mesh.face_center[:, inner],
        atol=1e-14,
    )


def test_the_quality_may_be_called_as_a_method_still():
    """With one warning, which stands at the call and says what to write."""
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    with pytest.warns(DeprecationWarning, match=r"attribute now: write mesh\.quality$") as caught:
        quality = mesh.quality()
    assert quality is mesh.quality
    assert [warning.filename for warning in caught] == [__file__]


def test_quality_agrees_with_the_mesh(mesh, kind):
    quality = mesh.quality
    assert (quality.orthogonality_defect < 1e-12) == (kind in ORTHOGONAL)
    assert quality.n_cells == mesh.n_cells_global
    assert quality.volume[0] == mesh.ranks.min(mesh.volume.min())
    assert quality.volume[2] == mesh.ranks.max(mesh.volume.max())
    assert quality.n_negative == 0 and quality.smallest_distance > 0
    assert str(quality.n_cells) in str(quality)


@pytest.mark.parametrize("n", [2, 3, 4, 10])
@pytest.mark.parametrize("upper", [(2, 1), (1, 1), (0.1, 1), (1, 1.4)])
def test_triangles_have_no_obtuse_angle(upper, n):
    assert Mesh.triangles((0, 0), upper, n, comm=MPI.COMM_SELF).quality.n_clipped == 0


@pytest.mark.parametrize("upper", [(1, 1, 1), (1, 1.2, 0.9), (2, 1, 1)])
def test_tetrahedra_are_orthogonal_in_any_box(upper):
    quality = Mesh.tetrahedra((0, 0, 0), upper, 3, comm=MPI.COMM_SELF).quality
    assert quality.orthogonality_defect < 1e-12


def test_boundaries_have_the_measures_of_their_sides():
    for mesh in (
        Mesh.box((0, 0, 0), (1, 2, 1), (3, 5, 4)),
        Mesh.tetrahedra((0, 0, 0), (1, 2, 1), 2),
    ):
        assert set(mesh.boundary) == set(SIDES)
        expected = {"left": 2, "right": 2, "front": 1, "back": 1, "bottom": 2, "top": 2}
        for name, faces in mesh.boundary.items():
            assert mesh.ranks.sum(mesh.area[faces].sum()) == pytest.approx(
                expected[name], rel=1e-14
            )


def test_every_boundary_face_has_one_name(mesh, kind):
    ends = [mesh.n_inner, *[face.stop for face in mesh.boundary.values()]]
    assert [face.start for face in mesh.boundary.values()] == ends[:-1] and ends[-1] == mesh.n_faces
    assert np.all(mesh.right[: mesh.n_inner] >= 0) and np.all(mesh.right[mesh.n_inner :] == -1)
    assert np.all(mesh.left[mesh.n_inner :] < mesh.n_cells)


def test_normals_at_a_side_point_out_of_it():
    mesh = Mesh.triangles((0, 0), (2, 1), 6)
    for name, outward in {
        "left": (-1, 0),
        "right": (1, 0),
        "bottom": (0, -1),
        "top": (0, 1),
    }.items():
        normal = mesh.normal[:, mesh.boundary[name]]
        assert_allclose(
            normal, np.repeat(np.array(outward)[:, None], normal.shape[1], axis=1), atol=1e-15
        )


def test_named_faces_of_from_cells():
    points, cells = shaken_quads(4)
    bottom = np.arange(0, 25, 5)
    mesh = Mesh.from_cells(points, cells, boundary={"floor": np.stack([bottom[:-1], bottom[1:]])})
    assert set(mesh.boundary) == {"boundary", "floor"}
    assert np.all(mesh.face_center[1, mesh.boundary["floor"]] == 0)
    assert mesh.ranks.sum(mesh.area[mesh.boundary["floor"]].sum()) == pytest.approx(1, rel=1e-14)


def test_named_triangles_and_quadrilaterals_of_a_mixture():
    points, cells = honeycomb(3)
    floor = dict(cells)["hexahedron"][:, :4].T
    mesh = Mesh.from_cells(points, cells, boundary={"floor": floor})
    assert mesh.ranks.sum(mesh.area[mesh.boundary["floor"]].sum()) == pytest.approx(9, rel=1e-14)


@pytest.mark.parametrize("turned", ["triangle", "quad", "polygon"])
def test_cells_may_go_round_clockwise(turned):
    points, cells = tiling()
    as_given = Mesh.from_cells(points, cells)
    clockwise = Mesh.from_cells(
        points,
        [(name, [row[::-1] for row in rows] if name == turned else rows) for name, rows in cells],
    )
    assert_allclose(
        clockwise.gather(clockwise.volume), as_given.gather(as_given.volume), rtol=1e-15
    )
    names = ("area", "normal", "distance")
    assert_allclose(all_faces(clockwise, *names), all_faces(as_given, *names), atol=1e-14)


# ---- ranks ---------------------------------------------------------------------------------------


def test_every_cell_is_owned_once(mesh):
    owned = mesh.ranks.all_gather(mesh.cell_id[: mesh.n_cells])
    assert_array_equal(np.sort(owned), np.arange(mesh.n_cells_global))
    assert mesh.n_cells > 0


def test_parts_are_of_about_equal_size(mesh):
    mean = mesh.n_cells_global / mesh.ranks.size
    largest_patch = np.bincount(mesh.gather(mesh.patch)).max()
    rows = (
        1 if mesh.block is None else max(np.prod(mesh.block.shape) // n for n in mesh.block.shape)
    )
    assert mesh.n_cells <= 1.1 * mean + 2 * max(largest_patch, rows)


def test_gather_undoes_scatter(mesh):
    everywhere = np.random.default_rng(5).standard_normal((2, mesh.n_cells_global))
    assert_array_equal(mesh.gather(mesh.scatter(everywhere)), everywhere)
    assert_array_equal(mesh.gather(mesh.scatter(everywhere[0])), everywhere[0])


def test_one_number_stands_for_all_cells(mesh):
    assert_array_equal(mesh.gather(5.0), np.full(mesh.n_cells_global, 5.0))
    assert mesh.integrate(5.0) == pytest.approx(5 * mesh.integrate(np.ones(mesh.n_cells)))
    assert_array_equal(mesh.gradient(5.0), np.zeros(mesh.n_faces))
    with pytest.raises(InputError, match="must be an array of numbers"):
        mesh.gather([[5.0], [5.0, 6.0]])


def test_ghosts_hold_the_values_of_their_cells(mesh):
    assert_array_equal(mesh.with_ghosts(mesh.cell_id[: mesh.n_cells]), mesh.cell_id)
    u = np.random.default_rng(6).standard_normal((3, mesh.n_cells_global))
    assert_array_equal(mesh.with_ghosts(mesh.scatter(u)), u[:, mesh.cell_id])


def test_ghosts_are_the_neighbours_on_other_ranks_and_no_more(mesh):
    inner = slice(0, mesh.n_inner)
    seen = np.unique(np.concatenate([mesh.left, mesh.right[inner]]))
    assert_array_equal(seen[seen >= mesh.n_cells], np.arange(mesh.n_cells, mesh.n_local))
    assert np.all(np.minimum(mesh.left, mesh.right)[inner] < mesh.n_cells)


def test_a_face_between_two_ranks_is_the_same_on_both(mesh):
    far = np.maximum(mesh.left, mesh.right) >= mesh.n_cells
    name = np.stack([mesh.cell_id[mesh.left], mesh.cell_id[mesh.right]]).astype(float)
    mine = np.concatenate([name, mesh.normal, mesh.area[None], mesh.distance[None]])
    theirs = find_face_exchange(mesh)(mine, into=np.full_like(mine, np.nan))
    assert_array_equal(theirs[:, far], mine[:, far])
    assert np.all(np.isnan(theirs[:, ~far]))
    assert mesh.ranks.sum(mesh.face_owned.sum()) == mesh.ranks.sum(mesh.n_faces - far.sum() / 2)


def test_geometry_does_not_depend_on_the_number_of_ranks(mesh, twin):
    for name in ("volume", "center", "centroid"):
        assert_array_equal(mesh.gather(getattr(mesh, name)), twin.gather(getattr(twin, name)))
    names = ("area", "normal", "left_distance", "right_distance", "left_offset")
    assert_allclose(all_faces(mesh, *names), all_faces(twin, *names), rtol=0, atol=4 * EPS)
    assert list(mesh.boundary) == list(twin.boundary) and mesh.quality == twin.quality


def test_functions_on_it_do_not_depend_on_the_number_of_ranks(mesh, twin):
    f = lambda x: np.cos(x).sum(axis=0)  # noqa: E731
    assert_allclose(mesh.gather(mesh.average(f)), twin.gather(twin.average(f)), atol=20 * EPS)
    u = cell_values(mesh)
    v = cell_values(twin)
    div, div_twin = [m.divergence(m.area * m.gradient(w)) for m, w in ((mesh, u), (twin, v))]
    size = np.abs(twin.gradient(v)).max() * twin.area.max() / twin.volume.min()
    assert_allclose(mesh.gather(div), twin.gather(div_twin), atol=1e3 * EPS * size)
    assert mesh.integrate(u) == pytest.approx(twin.integrate(v), abs=1e-13 * np.abs(v).max())


# ---- patches and coarser levels ------------------------------------------------------------------


def test_patches_do_not_depend_on_the_number_of_ranks(mesh, twin):
    assert_array_equal(mesh.gather(mesh.levels), twin.gather(twin.levels))
    assert_array_equal(mesh.patch, mesh.levels[0])


def test_patches_are_never_cut(mesh):
    mine = np.unique(mesh.patch)
    assert mesh.ranks.sum(len(mine)) == len(np.unique(mesh.gather(mesh.patch)))


def test_patches_and_coarser_levels_are_connected(twin):
    for member in twin.gather(twin.levels):
        pieces, _ = connected_components(adjacency(twin, member), directed=False)
        assert pieces == len(np.unique(member))


@pytest.mark.parametrize(
    "patches, mean, most", [("none", (1, 1), 1), (2, (1.6, 2), 2), (4, (3, 5), 8), (8, (6, 10), 16)]
)
@pytest.mark.parametrize("name", ["triangles", "voronoi", "quads", "tetrahedra"])
def test_patches_have_about_the_size_asked_for(name, patches, mean, most):
    mesh = MESHES[name](patches=patches, comm=MPI.COMM_SELF)
    size = np.bincount(mesh.patch)
    assert mean[0] <= size.mean() <= mean[1] and 1 <= size.min() and size.max() <= most


def test_given_patches_are_taken():
    wanted = np.arange(64) // 8 * 7 + 3
    mesh = Mesh.from_cells(*shaken_quads(), patches=wanted)
    assert_array_equal(mesh.gather(mesh.patch), np.arange(64) // 8)


def test_levels_are_nested(twin):
    levels = twin.gather(twin.levels)
    for fine, coarse in zip(levels, levels[1:]):
        pairs = np.unique(np.stack([fine, coarse]), axis=1)
        assert pairs.shape[1] == len(np.unique(fine))
        assert len(np.unique(coarse)) <= 0.6 * len(np.unique(fine))


def test_levels_are_numbered_from_zero_without_gaps(twin):
    for member in twin.gather(twin.levels):
        assert_array_equal(np.unique(member), np.arange(member.max() + 1))


def test_levels_with_enough_members_are_never_cut(mesh):
    for member in mesh.levels:
        n = len(np.unique(mesh.gather(member)))
        if mesh.block is None and n >= 64 * mesh.ranks.size:
            assert mesh.ranks.sum(len(np.unique(member))) == n


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (200, 24)])
def test_cartesian_levels_are_not_cut_where_ranks_keep_eight_members_along_an_axis(shape):
    mesh = Mesh.rectangle((0, 0), (1, 1), shape)
    for member in mesh.levels:
        everywhere = mesh.gather(member).reshape(shape)
        members = [len(np.unique(everywhere[:, 0])), len(np.unique(everywhere[0]))]
        if all(m >= 8 * p for m, p in zip(members, mesh.block.ranks)):
            assert mesh.ranks.sum(len(np.unique(member))) == np.prod(members)


# ---- functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_averages_are_exact_for_polynomials(mesh, kind, degree):
    slope = np.array([1.0, -0.7, 0.4])[: mesh.dim]
    f = lambda x: (0.3 + slope @ x) ** degree  # noqa: E731
    average = mesh.average(f, degree)
    fine = mesh.average(f, degree + 4)
    assert_allclose(average, fine, rtol=0, atol=1e-13 * max(1, np.abs(fine).max()))
    if kind not in PERIODIC:  # the divergence theorem for the primitive along x
        primitive = average_over_faces(
            mesh, lambda x: (0.3 + slope @ x) ** (degree + 1) / (degree + 1), degree + 1
        )
        wall = slice(mesh.n_inner, None)
        through = mesh.ranks.sum((mesh.area * mesh.normal[0] * primitive)[wall].sum())
        assert mesh.integrate(average) == pytest.approx(
            through, abs=1e-12 * mesh.integrate(np.abs(average))
        )


def test_averages_of_linear_functions_are_their_values_at_centroids(mesh):
    assert_allclose(mesh.average(lambda x: x), mesh.centroid, atol=1e-14)
    assert_allclose(average_over_faces(mesh, lambda x: x[0]), mesh.face_center[0], atol=1e-14)


@pytest.mark.parametrize(
    "name", ["interval", "rectangle", "triangles", "voronoi", "tetrahedra", "box", "honeycomb"]
)
def test_the_value_at_the_centroid_is_the_average_to_second_order(name):
    error = []
    for n in (4, 8):
        options = {
            "interval": (0, 1, n),
            "rectangle": ((0, 0), (1, 1), (n, n)),
            "box": (0, 1, (n, n, n)),
            "triangles": ((0, 0), (1, 1), n),
            "voronoi": ((0, 0), (1, 1), n * n),
            "tetrahedra": (0, 1, n),
        }
        if name == "honeycomb":
            points, cells = honeycomb(n)
            mesh = Mesh.from_cells(points / n, cells)
        else:
            mesh = getattr(Mesh, name)(*options[name])
        f = lambda x: np.exp(x.sum(axis=0))  # noqa: E731
        error.append(mesh.integrate(np.abs(mesh.average(f) - f(mesh.centroid))))
    assert np.log2(error[0] / error[1]) > 1.8  # Voronoi cells are not scaled copies


def test_constants_and_vectors_may_be_averaged(mesh):
    assert_allclose(mesh.average(lambda x: 2.5), np.full(mesh.n_cells, 2.5), rtol=4 * EPS)
    assert mesh.average(field).shape == (mesh.dim, mesh.n_cells)


@pytest.mark.parametrize("name", ["triangles", "voronoi", "quads", "rectangle", "torus"])
def test_indicators_are_averaged_by_area(name):
    mesh = MESHES[name]()
    inside = mesh.average(lambda x: (x[0] - 0.5) ** 2 + (x[1] - 0.4) ** 2 < 0.1)
    h = mesh.quality.size[2]
    assert 0 <= inside.min() and inside.max() <= 1 + 4 * EPS
    # pieces of h / 2^7 along a circumference of 2 pi r, each wrong by a small part of its area, up
    # and down
    assert mesh.integrate(inside) == pytest.approx(
        0.1 * np.pi, abs=2 * np.pi * 0.32 * h / 2**7 * 0.1
    )


def test_indicators_in_one_and_three_dimensions():
    line = MESHES["interval"]()
    tetrahedra = MESHES["tetrahedra"]()
    assert line.integrate(line.average(lambda x: x[0] < 1 / 3)) == pytest.approx(4 / 3, abs=1e-6)
    ball = tetrahedra.average(lambda x: (x**2).sum(axis=0) < 0.16)
    assert tetrahedra.integrate(ball) == pytest.approx(0.4**3 * np.pi / 6, rel=0.01)


def test_an_edge_along_faces_is_seen_exactly():
    mesh = Mesh.rectangle((0, 0), (1, 1), (8, 8))
    assert_array_equal(mesh.average(lambda x: x[0] > 0.5), mesh.center[0] > 0.5)


@pytest.mark.parametrize(
    "f", [lambda x: 3 + np.sin(x[0]), lambda x: x[0] > 0.5, lambda x: 7, lambda x: x[0] < 10]
)
def test_a_density_has_mass_one(mesh, f):
    rho = mesh.density(f)
    assert rho.shape == (mesh.n_cells,) and rho.dtype == float and rho.min() >= 0
    assert mesh.integrate(rho) == pytest.approx(1, abs=1e-14)


def test_a_density_may_be_given_by_values(mesh):
    values = np.arange(mesh.n_cells_global)
    rho = mesh.density(mesh.scatter(values))
    assert_allclose(mesh.gather(rho), values / mesh.integrate(mesh.scatter(values)), rtol=1e-14)
    assert_array_equal(values, np.arange(mesh.n_cells_global))


# ---- a value, not a variable ---------------------------------------------------------------------


def test_arrays_are_read_only(mesh):
    for name, array in vars(mesh).items():
        if isinstance(array, np.ndarray):
            assert not array.flags.writeable, name


def test_levels_of_a_disconnected_mesh_and_its_partition():
    points, cells = shaken_quads(6)
    two = Mesh.from_cells(
        np.concatenate([points, points + 5], axis=1),
        [("quad", np.concatenate([cells[0][1], cells[0][1] + points.shape[1]]))],
    )
    assert two.integrate(np.ones(two.n_cells)) == pytest.approx(2, rel=1e-13)
    assert_array_equal(two.with_ghosts(two.cell_id[: two.n_cells]), two.cell_id)


def test_faces_between_ranks_and_periodic_ones_hear_from_their_other_side(mesh):
    """Each side says which cells it sees, and whether its own cell is the left one: the other side
    says the contrary.
    """
    n = mesh.n_inner
    left, right = mesh.cell_id[mesh.left[:n]], mesh.cell_id[mesh.right[:n]]
    said = np.zeros((3, mesh.n_faces))
    said[:, :n] = left, right, mesh.left[:n] < mesh.n_cells
    heard = find_face_exchange(mesh)(said, np.full_like(said, -1))[:, :n]
    shared = np.maximum(mesh.left[:n], mesh.right[:n]) >= mesh.n_cells
    assert (heard[:2, shared] == said[:2, :n][:, shared]).all()
    assert (heard[2, shared] == 1 - said[2, :n][shared]).all() and (heard[:, ~shared] == -1).all()


def test_distances_of_round_off_are_none():
    """A square cut along its diagonal, off the origin: both circumcentres lie on the cut, but for
    round-off.
    """
    corners = np.array([[0.1, 1.1, 1.1, 0.1], [0.1, 0.1, 1.1, 1.1]])
    mesh = Mesh.from_cells(
        corners, [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))], comm=MPI.COMM_SELF
    )
    assert (
        mesh.distance[:1].min() > 0
        and mesh.quality.n_negative == 0
        and mesh.quality.n_coincident == 1
    )


def test_patches_by_a_function_of_centroids():
    mesh = Mesh.triangles((0, 0), (1, 1), 8, patches=lambda x: (4 * x[0]).astype(int))
    number = np.floor(4 * mesh.gather(mesh.centroid)[0])
    patch = mesh.gather(mesh.patch)
    assert len(np.unique(patch)) == 4
    assert len(np.unique(number + 10 * patch)) == 4
    with pytest.raises(InputError, match="a function that returns them"):
        Mesh.triangles((0, 0), (1, 1), 8, patches=lambda x: x[0])


def test_patches_of_tetrahedra_are_cubes():
    mesh = Mesh.tetrahedra((0, 0, 0), (1, 1, 0.5), 4)
    sizes = np.bincount(mesh.gather(mesh.patch))
    assert len(sizes) == 32 and 12 in sizes and sizes.sum() == mesh.n_cells_global
    assert_allclose(np.ptp(mesh.bounds, axis=0), [1, 1, 0.5])


def test_points_over_memory_of_ctypes():
    """As Gmsh's Python module gives them: their format names the byte order."""
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [0, 1, 0]], float)
    memory = (ctypes.c_double * points.size)(*points.ravel())
    shared = np.ctypeslib.as_array(memory).reshape(-1, 3)[:, :2].T
    assert memoryview(shared).format == "<d"
    mesh = Mesh.from_cells(shared, [("quad", [[0, 1, 4, 5], [1, 2, 3, 4]])], comm=MPI.COMM_SELF)
    assert_array_equal(mesh.bounds[0], [0, 0])
    assert mesh.integrate(1.0) == 2


@pytest.mark.parametrize(
    "turn, remedy",
    [
        (lambda x: x, r"give points\[\[0, 1\]\], or cells of dimension 3"),
        (lambda x: x[::-1], r"give points\[\[1, 2\]\]"),
        (lambda x: x + x[0] * np.array([[0], [0], [1]]), "give coordinates in their plane"),
    ],
)
def test_flat_cells_in_space_are_told_what_to_do(turn, remedy):
    points = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], float)
    with pytest.raises(MeshError, match=f"cells of dimension 2 on points with 3 .*{remedy}"):
        Mesh.from_cells(turn(points), [("quad", [[0, 1, 2, 3]])])


def on_one_rank(ranks, value, other):
    """*other* on the last rank, *value* on all others."""
    return other if ranks.rank == ranks.size - 1 else value


@pytest.mark.parametrize(
    "name, value, other",
    [
        ("points", [[0, 1, 1, 0], [0, 0, 1, 1]], [[0, 1, 1, 0], [0, 0, 1, 2]]),
        ("points", [[0, 1, 1, 0], [0, 0, 1, 1]], None),
        ("cells", [("polygon", [[0, 1, 2], [0, 2, 3]])], [("polygon", [[0, 1, 2, 3]])]),
        ("cells", [("triangle", [[0, 1, 2]])], [("line", [[0, 1, 2]])]),
        ("boundary", {"low": [[0], [1]]}, {"low": [[1], [2]]}),
        ("boundary", {"low": [[0], [1]]}, {"high": [[0], [1]]}),
        ("regions", {"all": [0]}, None),
        ("center", [[0.5], [0.4]], [[0.5], [0.5]]),
        ("patches", "none", 1),
        ("patches", [0], [1]),
        ("merge", True, False),
    ],
)
def test_meshes_are_made_of_the_same_on_every_rank(name, value, other, ranks):
    if ranks.size == 1:
        pytest.skip("nothing differs on one rank")
    given = dict(points=[[0, 1, 1, 0], [0, 0, 1, 1]], cells=[("quad", [[0, 1, 2, 3]])])
    given[name] = on_one_rank(ranks, value, other)
    with pytest.raises(
        InputError,
        match=f"{name} of a mesh must be the same on every rank: on rank {ranks.size - 1}",
    ):
        Mesh.from_cells(**given)


def test_made_meshes_have_the_same_arguments_on_every_rank(ranks):
    if ranks.size == 1:
        pytest.skip("nothing differs on one rank")
    for make in (
        lambda k: Mesh.voronoi((0, 0), (1, 1), 20, seed=k),
        lambda k: Mesh.triangles((0, 0), (1, 1), 8 + k),
        lambda k: Mesh.tetrahedra((0, 0, 0), (1, 1, 1 + k), 3),
    ):
        with pytest.raises(InputError, match="of a mesh must be the same on every rank"):
            make(on_one_rank(ranks, 0, 1))
