"""Large meshes are refined where their cells lie: the same mesh as rank 0 would make of them."""

from functools import partial

import numpy as np
import pytest
from meshes import FILES, MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from test_refine import FROM_CELLS, REFINED

from fvot import BenamouBrenier, ContinuityEquation, FokkerPlanck, InputError, Mesh
from fvot.mesh import assembly
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks


@pytest.fixture
def in_parts(monkeypatch):
    """Meshes of every size are cut where they lie, whatever their cell points are."""
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", 0)
    monkeypatch.setattr(assembly, "MAX_SEARCHED_CELLS", 0)


def make_mixed(**options):
    """Triangles and quadrilaterals, with regions that overlap and a wall inside."""
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij")
    points = np.stack([x.ravel(), (y + 0.1 * x).ravel()])
    i = np.arange(25).reshape(5, 5)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], axis=-1).reshape(-1, 4)
    first, second = quads[:8], quads[8:]
    triangles = np.concatenate([second[:, [0, 1, 2]], second[:, [0, 2, 3]]])
    return Mesh.from_cells(
        points,
        [("quad", first), ("triangle", triangles)],
        boundary={
            "low": np.stack([i[:-1, 0], i[1:, 0]]),
            "west": np.stack([i[0, :-1], i[0, 1:]]),
            "corner": np.array([[i[0, 0]], [i[1, 0]]]),
            "gate": np.stack([i[2, :-1], i[2, 1:]]),
        },
        regions={"quads": np.arange(8), "some": np.arange(5, 15)},
        **options,
    )


def make_cube_on_tetrahedra(**options):
    """A cube beside one of six tetrahedra in the same mesh, with nothing in common but an edge:
    ranks meet there without a face between them.
    """
    a = np.array([[0, 1, 1, 0, 0, 1, 1, 0.0], [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]])
    b = a + [[1], [1], [0]]
    points = np.concatenate([a, b], axis=1)
    number = np.arange(16)
    number[[8, 12]] = [2, 6]
    cubes = number[np.arange(16).reshape(2, 8)]
    six = [[0, 1, 2, 6], [0, 2, 3, 6], [0, 3, 7, 6], [0, 7, 4, 6], [0, 4, 5, 6], [0, 5, 1, 6]]
    tetrahedra = cubes[1][np.array(six)]
    return Mesh.from_cells(
        points, [("hexahedron", cubes[:1]), ("tetra", tetrahedra)], patches="none", **options
    )


CASES = {
    **{name: REFINED[name] for name in FROM_CELLS if name not in ("ball", "harbour", "two_rooms")},
    "disc_quads": partial(Mesh.read, FILES / "disc_quads.msh"),
    "slit": partial(Mesh.read, FILES / "slit.msh"),
    "mixed": make_mixed,
    "cube and tetrahedra": make_cube_on_tetrahedra,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(CASES))
def test_it_is_the_mesh_that_rank_0_would_make(name, monkeypatch):
    twin = CASES[name](comm=MPI.COMM_SELF).refine().refine()
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", 0)
    monkeypatch.setattr(assembly, "MAX_SEARCHED_CELLS", 0)
    fine = CASES[name]().refine().refine()

    whole = fine.gather_cells()
    if fine.ranks.is_root:
        for mine, theirs in zip(whole, twin.gather_cells(), strict=True):
            assert_array_equal(mine, theirs)
    for array in ("volume", "centroid"):
        assert_array_equal(fine.gather(getattr(fine, array)), getattr(twin, array))
    if fine.quality.n_negative == 0:
        assert_array_equal(fine.gather(fine.center), twin.center)
    assert_allclose(fine.quality.size, twin.quality.size, rtol=1e-12)

    assert list(fine.boundary) == list(twin.boundary)
    for part in twin.boundary:
        own = np.arange(fine.n_faces)[fine.boundary[part]]
        others = np.arange(twin.n_faces)[twin.boundary[part]]
        compare_faces(fine, own, twin, others)
    assert list(fine.interfaces) == list(twin.interfaces)
    for part, others in twin.interfaces.items():
        own = fine.interfaces[part]
        compare_faces(fine, own[fine.face_owned[own]], twin, others)
    assert list(fine.regions) == list(twin.regions)
    for part, cells in twin.regions.items():
        numbers = fine.ranks.all_gather(fine.cell_id[fine.regions[part]])
        assert_array_equal(np.sort(numbers), cells)
    inner = np.arange(fine.n_inner)
    compare_faces(fine, inner[fine.face_owned[: fine.n_inner]], twin, np.arange(twin.n_inner))


def compare_faces(fine, own, twin, others):
    """The same faces, in any order, with bitwise the same geometry."""
    rows = fine.ranks.all_gather(list_rows(fine, own))
    expected = list_rows(twin, others)
    assert_array_equal(rows[:, np.lexsort(rows)], expected[:, np.lexsort(expected)])


def list_rows(mesh, faces):
    left = mesh.cell_id[mesh.left[faces]]
    right = np.where(mesh.right[faces] < 0, -1, mesh.cell_id[mesh.right[faces]])
    n = [mesh.left_offset[:, faces], np.where(right < 0, 0, mesh.right_offset[:, faces])]
    sizes = [mesh.area[faces], *mesh.normal[:, faces], *mesh.face_center[:, faces], *n[0], *n[1]]
    return np.stack([left, right, *sizes])


@pytest.mark.parametrize("name", ["triangles", "tetrahedra", "quads", "lines", "hexahedra"])
def test_ghosts_are_the_cells_of_other_ranks(name, in_parts):
    fine = REFINED[name]().refine()
    numbers = fine.with_ghosts(fine.cell_id[: fine.n_cells].astype(float))
    assert_array_equal(numbers, fine.cell_id)
    u = 1 + 2 * fine.centroid[0]
    slope = fine.with_ghosts(fine.centroid)
    n = fine.n_inner
    step = slope[:, fine.right[:n]] - slope[:, fine.left[:n]]
    assert_allclose(step, fine.left_offset[:, :n] - fine.right_offset[:, :n], atol=1e-13)
    assert fine.integrate(u) == pytest.approx(fine.integrate(1 + 2 * fine.center[0]), rel=0.1)


@pytest.mark.parametrize("name", ["triangles", "tetrahedra", "disc", "quads"])
def test_patches_lie_inside_the_old_ones_and_are_the_same_on_any_number_of_ranks(name, in_parts):
    mesh = REFINED[name]()
    fine = mesh.refine()
    twin = REFINED[name](comm=MPI.COMM_SELF).refine()
    for level in range(len(twin.levels)):
        assert_array_equal(fine.gather(fine.levels[level]), twin.levels[level])
    patch = twin.patch
    assert_array_equal(np.unique(patch), np.arange(patch.max() + 1))
    pairs = np.unique(np.stack([patch, twin.levels[1]]), axis=1)
    assert pairs.shape[1] == patch.max() + 1

    # A patch has as many cells as before, but where one is left over; the cubes of `tetrahedra` are
    # a rule of their own, after which come eights.
    coarse = REFINED[name](comm=MPI.COMM_SELF)
    before = 8 if name == "tetrahedra" else coarse.n_cells / (coarse.patch.max() + 1)
    assert twin.n_cells / (patch.max() + 1) > before / 1.3
    count = np.bincount(fine.patch, minlength=patch.max() + 1)
    assert_array_equal(fine.ranks.sum((count > 0).astype(int)), 1)


def test_pairs_of_triangles_leave_no_child_alone(in_parts):
    mesh = Mesh.triangles((0, 0), (1, 1), 8, comm=MPI.COMM_SELF)
    alone = (np.bincount(mesh.patch) == 1).sum()
    fine = mesh.refine()
    assert (np.bincount(fine.patch) == 1).sum() == 2 * alone


@pytest.mark.parametrize("patches", ["none", 4])
def test_rules_for_patches_are_kept(patches, in_parts):
    fine = Mesh.triangles((0, 0), (1, 1), 8, patches=patches).refine().refine()
    patch = fine.gather(fine.patch)
    if patches == "none":
        assert_array_equal(patch, np.arange(fine.n_cells_global))
    else:
        assert 3 < fine.n_cells_global / (patch.max() + 1) < 5
    assert fine.quality.has_given_patches


def test_every_rank_has_its_part_of_the_cells(in_parts):
    mesh = Mesh.triangles((0, 0), (1, 1), 16)
    fine = mesh.refine().refine()
    assert fine.n_cells == 16 * mesh.n_cells
    assert fine.ranks.max(fine.n_cells) < 1.2 * fine.n_cells_global / fine.ranks.size


def test_radial_meshes_keep_their_axis(in_parts):
    mesh = Mesh.rectangle(
        edges=[np.linspace(0, 1, 5) ** 2, np.linspace(0, 2, 7)], coordinates="cylindrical"
    )
    fine = mesh.refine()
    assert fine.integrate(1.0) == pytest.approx(2 * np.pi, rel=1e-12)
    assert list(fine.boundary) == list(mesh.boundary) == ["bottom", "right", "top"]
    assert fine.ranks.sum(fine.area[fine.boundary["right"]].sum()) == pytest.approx(4 * np.pi)


def test_cells_that_cannot_be_cut_are_refused_on_every_rank(in_parts):
    with pytest.raises(InputError, match="cannot be refined"):
        MESHES["tiling"]().refine()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cell_points_out_of_order_are_searched_for_in_meshes_of_moderate_size(monkeypatch):
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", 0)
    make = partial(Mesh.tetrahedra, (0, 0, 0), (1, 1, 1), 2)
    quality = make().refine().quality
    monkeypatch.setattr(assembly, "MAX_SEARCHED_CELLS", 0)
    assert quality.n_moved > 0 or quality.disorder
    fine = make().refine()
    assert fine.quality.n_moved == 0
    if fine.quality.n_negative:
        with pytest.raises(InputError, match="not admissible"):
            FokkerPlanck(fine, diffusion=1.0, scheme="two_point")


# ---- reading and refining in one go --------------------------------------------------------------


@pytest.mark.parametrize("largest", [0, 1000, 100_000])
def test_a_file_is_read_and_refined_in_one_go(largest, monkeypatch):
    path = FILES / "l_shape.msh"
    expected = Mesh.read(path, comm=MPI.COMM_SELF).refine().refine()
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", largest)
    mesh = Mesh.read(path, refine=2)
    assert_array_equal(mesh.gather(mesh.center), expected.center)
    assert list(mesh.boundary) == list(expected.boundary)


def test_a_file_may_have_fewer_cells_than_ranks(tmp_path):
    mesh = Mesh.from_cells(
        [[0, 1, 1, 0], [0, 0, 1, 1]], [("quad", [[0, 1, 2, 3]])], comm=MPI.COMM_SELF
    )
    mesh.write(tmp_path / "square.vtu")
    fine = Mesh.read(tmp_path / "square.vtu", refine=4)
    assert fine.n_cells_global == 256 and fine.integrate(1.0) == pytest.approx(1)


@pytest.mark.parametrize("times", [-1, 1.5, "twice", None])
def test_a_number_of_refinements_must_be_whole(times):
    with pytest.raises(InputError, match="refine, how many times.*whole number from 0 on"):
        Mesh.read(FILES / "l_shape.msh", refine=times)


# ---- solvers -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_is_gathered_on_the_way_from_mesh_to_file(in_parts, monkeypatch, tmp_path):
    folder = MPI.COMM_WORLD.bcast(tmp_path)
    coarse = Mesh.read(FILES / "l_shape.msh")
    monkeypatch.setattr(Ranks, "gather_to_root", refuse)
    mesh = coarse.refine()
    rho = mesh.density(lambda x: np.exp(-10 * (x**2).sum(axis=0)))
    moved = ContinuityEquation(mesh, lambda x: np.stack([-x[1], x[0]])).step(rho, 1e-4)
    spread = FokkerPlanck(mesh, diffusion=0.1).step(rho, 1e-3)
    assert mesh.integrate(moved) == pytest.approx(1, rel=1e-12)
    assert mesh.integrate(spread) == pytest.approx(1, rel=1e-12)
    mesh.write(folder / "x.pvd", {"moved": moved})


def refuse(*_):
    raise AssertionError("what all ranks have would come to rank 0")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["disc_quads", "l_shape"])
def test_solvers_get_the_same_as_on_the_mesh_of_rank_0(name, monkeypatch):
    def run(**options):
        mesh = Mesh.read(FILES / f"{name}.msh", **options).refine()
        rho = mesh.density(lambda x: 1 + x[0] ** 2)
        moved = ContinuityEquation(mesh, lambda x: np.stack([-x[1], x[0]])).solve(rho, 0.02)
        spread = FokkerPlanck(mesh, diffusion=0.1).solve(rho, 0.01, tau=0.005)
        return mesh.gather(moved.rho[-1]), mesh.gather(spread.rho[-1])

    expected = run(comm=MPI.COMM_SELF)
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", 0)
    moved, spread = run()
    assert_allclose(moved, expected[0], rtol=1e-11)
    assert_allclose(spread, expected[1], rtol=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.long
def test_transport_has_the_same_cost_on_any_number_of_ranks(in_parts):
    def run(**options):
        mesh = Mesh.triangles((0, 0), (1, 1), 6, **options).refine()
        rho0 = mesh.density(lambda x: 1 + x[0])
        rho1 = mesh.density(lambda x: 2 - x[0])
        return BenamouBrenier(mesh, n_steps=8, tol=1e-3).solve(rho0, rho1)

    alone = run(comm=MPI.COMM_SELF)
    path = run()
    assert path.gap <= 1e-3
    assert path.cost == pytest.approx(alone.cost, rel=1e-3)
