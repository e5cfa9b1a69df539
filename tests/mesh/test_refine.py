"""Finer meshes: every cell cut in 2^dim."""

import os
from functools import partial

import numpy as np
import pytest
from meshes import FILES, MESHES, honeycomb, tiling
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh
from fvot.mesh import assembly
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks


def bricks(kind, shape=(4, 3, 4)):
    """Hexahedra or wedges that fill a box, their points numbered at random."""
    lattice = np.stack(np.meshgrid(*[np.arange(n + 1.0) for n in shape], indexing="ij")).reshape(
        3, -1
    )
    i = np.arange(lattice.shape[1]).reshape([n + 1 for n in shape])
    a = i[:-1, :-1]
    b = i[1:, :-1]
    c = i[1:, 1:]
    d = i[:-1, 1:]
    bottom = [p[:, :, :-1].ravel() for p in (a, b, c, d)]
    top = [p[:, :, 1:].ravel() for p in (a, b, c, d)]
    if kind == "hexahedron":
        cells = np.stack(bottom + top, axis=1)
    else:
        cells = np.concatenate(
            [
                np.stack([layer[k] for layer in (bottom, top) for k in corner], axis=1)
                for corner in ((0, 1, 2), (0, 2, 3))
            ]
        )
    number = np.random.default_rng(0).permutation(lattice.shape[1])
    points = np.empty_like(lattice)
    points[:, number] = lattice * [[1], [0.8], [1.1]]
    return points, [(kind, number[cells])]


REFINED = {
    **{name: MESHES[name] for name in MESHES if name not in ("tiling", "honeycomb")},
    "hexahedra": lambda **options: Mesh.from_cells(*bricks("hexahedron"), **options),
    "wedges": lambda **options: Mesh.from_cells(*bricks("wedge"), strict=False, **options),
}
CARTESIAN = {"interval", "circle", "rectangle", "torus", "channel", "box", "periodic box"}
FROM_CELLS = sorted(set(REFINED) - CARTESIAN - {"voronoi"})


@pytest.fixture(scope="module", params=list(REFINED))
def pair(request):
    mesh = REFINED[request.param]()
    return request.param, mesh, mesh.refine()


def test_every_cell_is_cut_in_2_to_the_dim(pair):
    _, mesh, fine = pair
    assert fine.n_cells_global == 2**mesh.dim * mesh.n_cells_global
    assert fine.dim == mesh.dim and fine.ranks.size == mesh.ranks.size and fine.n_cells > 0


def test_the_domain_and_its_names_stay(pair):
    _, mesh, fine = pair
    assert list(fine.boundary) == list(mesh.boundary)
    assert fine.integrate(np.ones(fine.n_cells)) == pytest.approx(
        mesh.integrate(np.ones(mesh.n_cells)), rel=1e-13
    )
    for name in mesh.boundary:
        area = [m.ranks.sum(m.area[m.boundary[name]].sum()) for m in (mesh, fine)]
        assert area[1] == pytest.approx(area[0], rel=1e-13)
        count = [m.ranks.sum(len(m.area[m.boundary[name]])) for m in (mesh, fine)]
        assert pair[0] == "voronoi" or count[1] == 2 ** (mesh.dim - 1) * count[0]


@pytest.mark.parametrize("name", FROM_CELLS)
def test_children_fill_their_parents(name):
    mesh = REFINED[name]()
    fine = mesh.refine()
    children = 2**mesh.dim
    volume = fine.gather(fine.volume).reshape(-1, children)
    assert_allclose(volume.sum(axis=1), mesh.gather(mesh.volume), rtol=1e-11)
    moment = (
        (fine.gather(fine.centroid) * volume.ravel()).reshape(mesh.dim, -1, children).sum(axis=2)
    )
    assert_allclose(moment / volume.sum(axis=1), mesh.gather(mesh.centroid), atol=1e-11)
    cell = mesh.locate(fine.gather(fine.centroid))
    parent = np.repeat(np.arange(mesh.n_cells_global), children)
    assert_array_equal(mesh.cell_id[cell[cell >= 0]], parent[cell >= 0])


@pytest.mark.parametrize("name", FROM_CELLS)
def test_parts_of_a_cell_are_of_equal_size(name):
    mesh = REFINED[name]()
    fine = mesh.refine()
    volume = fine.gather(fine.volume).reshape(-1, 2**mesh.dim) / mesh.gather(mesh.volume)[:, None]
    if name != "quads":
        assert_allclose(volume, 0.5**mesh.dim, rtol=1e-9)
    assert volume.min() > 0.5**mesh.dim / 2


@pytest.mark.parametrize("name", ["annulus", "disc", "l_shape", "two_rooms"])
def test_parts_of_acute_triangles_are_as_good_as_these(name):
    mesh = REFINED[name](comm=MPI.COMM_SELF)
    quality = mesh.quality
    finer = mesh.refine().quality
    assert finer.orthogonality_defect < 1e-11 and finer.n_moved == 0
    assert finer.smallest_distance == pytest.approx(quality.smallest_distance, rel=1e-6)
    assert_allclose(finer.size, np.array(quality.size) / 2, rtol=1e-9)


@pytest.mark.parametrize("name", ["tetrahedra", "ball"])
def test_where_circumcentres_fail_power_centers_are_found(name):
    quality = REFINED[name](comm=MPI.COMM_SELF).refine().quality
    assert quality.n_negative == 0 and quality.n_moved > 0 and quality.orthogonality_defect < 1e-11


@pytest.mark.long
def test_shapes_of_tetrahedra_do_not_degenerate():
    mesh = Mesh.tetrahedra(0, 1, 2, comm=MPI.COMM_SELF)
    worst = []
    for _ in range(3):
        p = mesh.points[:, mesh.corners.reshape(-1, 4)]
        longest = max(
            np.linalg.norm(p[:, :, i] - p[:, :, j], axis=0).max()
            for i in range(4)
            for j in range(i)
        )
        worst.append(longest**3 / mesh.volume.min())
        mesh = mesh.refine()
    assert worst[-1] < 4 * worst[0]


def test_cartesian_meshes_get_twice_their_shape():
    mesh = Mesh.rectangle((0, -1), (2, 1), (10, 7), periodic=(True, False))
    fine = mesh.refine()
    assert fine.block.grid == (20, 14) and fine.block.periodic == (True, False)
    u = np.repeat(np.repeat(np.arange(70.0).reshape(10, 7), 2, axis=0), 2, axis=1)
    assert fine.integrate(fine.scatter(u.ravel())) == pytest.approx(
        mesh.integrate(mesh.scatter(np.arange(70.0)))
    )


def test_finer_meshes_do_not_depend_on_the_number_of_ranks(pair):
    name, _, fine = pair
    twin = REFINED[name](comm=MPI.COMM_SELF).refine()
    for array in ("volume", "center", "centroid"):
        assert_array_equal(fine.gather(getattr(fine, array)), twin.gather(getattr(twin, array)))
    assert fine.quality == twin.quality


def test_a_finer_mesh_can_be_refined_again():
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    assert mesh.refine().refine().n_cells_global == 16 * mesh.n_cells_global


def test_options_are_kept():
    mesh = Mesh.from_cells(*bricks("hexahedron"), patches="none").refine()
    assert_array_equal(np.sort(mesh.gather(mesh.patch)), np.arange(mesh.n_cells_global))
    given = Mesh.from_cells(*bricks("hexahedron"), patches=np.arange(48) // 6).refine()
    assert given.patch.max() >= 0


def test_both_sides_of_a_slit_stay_apart():
    points = np.array(
        [[0, 1, 1, 0, 1, 2, 2, 1.0], [0, 0, 1, 1, 0, 0, 1, 1]]
    )  # two squares, nothing in common
    mesh = Mesh.from_cells(
        points,
        [("quad", [[0, 1, 2, 3], [4, 5, 6, 7]])],
        boundary={"slit": [[1, 4], [2, 7]]},
        merge=False,
        comm=MPI.COMM_SELF,
    )
    fine = mesh.refine()
    assert fine.area[fine.boundary["slit"]].sum() == pytest.approx(2)


@pytest.mark.parametrize(
    "make, word", [(partial(tiling), "polygon"), (partial(honeycomb), "pyramid")]
)
def test_what_cannot_be_cut_is_refused(make, word):
    with pytest.raises(InputError, match=f"{word}.* cannot be refined.*make a finer mesh"):
        Mesh.from_cells(*make()).refine()


@pytest.mark.skipif(not (FILES / "annulus.msh").exists(), reason="no mesh files")
@pytest.mark.parametrize("times", [30, 1000])
def test_a_mesh_that_no_memory_holds_is_refused_at_once(times):
    """1000 times are more cells than a float can count."""
    path = FILES / "annulus.msh"
    n = Mesh.read(path).n_cells_global
    words = (
        rf"{n} x 4\^{times} = \d\.\de\d+ cells, .* at least \d\.\de\d+ GB .*: refine it less often"
    )
    with pytest.raises(InputError, match=words):
        Mesh.read(path, refine=times)


def test_the_numbers_of_a_refusal(monkeypatch, ranks):
    """Two gigabytes for 10^5 hexahedra are enough, but not for 64 x 10^5, of 300 bytes."""
    assembly._check_memory(10**5, 3, 1, 2 * 10**9)
    words = r"100000 x 8\^2 = 6\.4e6 cells, and need at least 1\.9e0 GB .* have 1\.8 GB"
    with pytest.raises(InputError, match=words):
        assembly._check_memory(10**5, 3, 2, 1.8 * 10**9)
    assert ranks.count_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    monkeypatch.setattr(Ranks, "count_memory", lambda self: 10**6)
    monkeypatch.setattr(assembly, "MAX_WHOLE_CELLS", 0)
    with pytest.raises(InputError, match="refined once, .* the ranks' computers have 0.0 GB"):
        Mesh.read(FILES / "annulus.msh").refine()


@pytest.mark.parametrize("n_cells, words", [(1, "1 cell in 1 patch"), (2, "2 cells in 2 patches")])
def test_too_few_cells_for_the_ranks(n_cells, words, ranks):
    x = np.arange(n_cells + 1)
    points = np.stack([np.tile(x, 2), np.repeat([0, 1], n_cells + 1)])
    i = x[:-1]
    quads = np.stack([i, i + 1, i + n_cells + 2, i + n_cells + 1], axis=1)

    def make():
        return Mesh.from_cells(points, [("quad", quads)], patches="none")

    if ranks.size <= n_cells:
        assert make().n_cells_global == n_cells
        return
    with pytest.raises(InputError, match=rf"{words} cannot .*fewer ranks.*Mesh.read\(path, refine"):
        make()


@pytest.mark.parametrize("name", ["disc", "annulus", "two_rooms"])
def test_kites(name):
    """Three to a triangle, orthogonal, one patch to a vertex."""
    mesh = MESHES[name]()
    kites = mesh.kites()
    assert kites.n_cells_global == 3 * mesh.n_cells_global
    assert kites.integrate(1.0) == pytest.approx(mesh.integrate(1.0), rel=1e-13)
    assert list(kites.boundary) == list(mesh.boundary)
    assert kites.quality.orthogonality_defect < 1e-12
    assert (
        kites.ranks.min(
            np.minimum(kites.left_distance, kites.distance - kites.left_distance)[
                : kites.n_inner
            ].min()
        )
        > 0
    )
    n_points = len(np.unique(mesh.ranks.all_gather(mesh.point_id)))
    assert len(np.unique(mesh.ranks.all_gather(kites.patch))) == n_points
    for edge in mesh.boundary:
        lengths = [
            m.ranks.sum(m.area[m.boundary[edge]][m.face_owned[m.boundary[edge]]].sum())
            for m in (mesh, kites)
        ]
        assert lengths[1] == pytest.approx(lengths[0], rel=1e-13)


def test_kites_need_acute_triangles():
    with pytest.raises(InputError, match="angle of 90 degrees or more"):
        MESHES["triangles"]().kites()
    with pytest.raises(InputError, match="only triangles can be cut in kites"):
        MESHES["rectangle"]().kites()
