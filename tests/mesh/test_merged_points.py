"""Cells that touch but have points of their own: points in one place are merged and the number
said, or kept apart as walls.
"""

import time
import warnings

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from test_orientation import MADE, triangles

from fvot import FokkerPlanck, Mesh, MeshError

pytestmark = pytest.mark.ranks


def torn(points, blocks, noise=0.0):
    """The same cells, each with points of its own, which are moved by *noise* at random."""
    corners = []
    cells = []
    count = 0
    for kind, rows in blocks:
        made = []
        for row in rows:
            made.append(count + np.arange(len(row)))
            corners.append(points[:, np.asarray(row)])
            count += len(row)
        cells.append((kind, made))
    corners = np.concatenate(corners, axis=1)
    return corners + noise * np.random.default_rng(0).uniform(-1, 1, corners.shape), cells


def merged(make, number):
    """What make() returns; on rank 0 it warns of so many merged points, elsewhere of nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mesh = make()
    said = [str(w.message) for w in caught if "merged" in str(w.message)]
    if mesh.ranks.is_root:
        assert (
            len(said) == 1
            and said[0].startswith(f"{number} points of the mesh")
            and "merge=False" in said[0]
        )
    else:
        assert not said
    return mesh


@pytest.mark.parametrize("noise", [0, 1e-12])
@pytest.mark.parametrize("name", list(MADE))
def test_torn_meshes_become_whole(name, noise):
    points, blocks = MADE[name]()
    mesh = Mesh.from_cells(points, blocks, strict=False)
    pieces, cells = torn(points, blocks, noise)
    other = merged(
        lambda: Mesh.from_cells(pieces, cells, strict=False), pieces.shape[1] - points.shape[1]
    )
    assert other.quality.n_merged == pieces.shape[1] - points.shape[1]
    for array in ("volume", "centroid", "center"):
        assert_allclose(
            other.gather(getattr(other, array)), mesh.gather(getattr(mesh, array)), atol=1e-9
        )
    assert other.ranks.sum(other.area[other.n_inner :].sum()) == pytest.approx(
        mesh.ranks.sum(mesh.area[mesh.n_inner :].sum())
    )


@pytest.mark.parametrize("name", list(MADE))
def test_walls_stay_where_points_are_kept_apart(name):
    points, blocks = torn(*MADE[name]())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*merged")
        mesh = Mesh.from_cells(points, blocks, strict=False, merge=False)
    assert mesh.n_inner == 0 and mesh.quality.n_merged == 0


def test_good_meshes_are_left_alone():
    for make in MADE.values():
        assert Mesh.from_cells(*make(), strict=False, comm=MPI.COMM_SELF).quality.n_merged == 0


def test_single_precision_of_files_put_together():
    """Two halves of a mesh far from the origin whose common points differ in the last place of
    single precision.
    """
    points, blocks = triangles(16)
    cells = np.array(blocks[0][1])
    left = points[0, cells].mean(axis=1) < 0.5
    points = (points + 10).astype(np.float32)
    again = np.nextafter(points, np.float32(20))
    both = np.concatenate([points, again], axis=1).astype(float)
    cells[~left] += points.shape[1]
    common = len(np.intersect1d(cells[left], cells[~left] - points.shape[1]))
    mesh = merged(lambda: Mesh.from_cells(both, [("triangle", cells)]), common)
    assert mesh.ranks.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(4, rel=1e-5)


def two_squares(gap=0.0):
    points = np.array([[0, 1, 1, 0, 1 + gap, 2, 2, 1 + gap], [0, 0, 1, 1, 0, 0, 1, 1.0]])
    return points, [("quad", [[0, 1, 2, 3], [4, 5, 6, 7]])]


@pytest.mark.parametrize(
    "gap, closed",
    [(0, True), (1e-15, True), (1e-12, True), (1e-6, True), (1e-4, False), (1e-3, False)],
)
def test_what_counts_as_round_off(gap, closed):
    """Up to that of single precision, also in numbers that have been computed with since."""
    points, cells = two_squares(gap)
    points[1] += 0.1  # no numbers that single precision has, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mesh = Mesh.from_cells(points, cells, comm=MPI.COMM_SELF)
    assert mesh.n_inner == closed


def test_heat_flows_across():
    points, blocks = triangles(12)
    rates = FokkerPlanck(Mesh.from_cells(points, blocks), diffusion=1.0).relaxation_rates(2)
    pieces, cells = torn(points, blocks)
    mesh = merged(lambda: Mesh.from_cells(pieces, cells), pieces.shape[1] - points.shape[1])
    assert_allclose(FokkerPlanck(mesh, diffusion=1.0).relaxation_rates(2), rates, rtol=1e-9)


def test_names_in_old_numbers():
    """Each square names its side of the line between them, and one more."""
    points, cells = two_squares()
    names = {
        "left": [[3], [0]],
        "right": [[5], [6]],
        "bottom": [[0, 4], [1, 5]],
        "middle": [[1, 7], [2, 4]],
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mesh = Mesh.from_cells(points, cells, boundary=names, comm=MPI.COMM_SELF)
    if mesh.ranks.is_root:
        assert "faces called 'middle' are now inside the mesh" in str(caught[0].message)
    length = {name: mesh.ranks.sum(mesh.area[edge].sum()) for name, edge in mesh.boundary.items()}
    assert length == pytest.approx({"left": 1, "right": 1, "bottom": 2, "boundary": 2})
    kept = Mesh.from_cells(points, cells, boundary=names, merge=False, comm=MPI.COMM_SELF)
    assert kept.ranks.sum(kept.area[kept.boundary["middle"]].sum()) == pytest.approx(2)


def test_finer_meshes_keep_what_was_chosen():
    points, cells = two_squares()
    crack = Mesh.from_cells(points, cells, merge=False, comm=MPI.COMM_SELF).refine()
    assert crack.area[crack.n_inner :].sum() == pytest.approx(8)
    with pytest.warns(UserWarning, match="2 points"):
        whole = Mesh.from_cells(points, cells, comm=MPI.COMM_SELF).refine()
    assert whole.area[whole.n_inner :].sum() == pytest.approx(6)


@pytest.mark.filterwarnings("ignore:the mesh is not admissible")
def test_cells_that_would_have_a_point_twice_are_refused():
    """A polygon round a hole, with a bridge whose two sides lie on each other."""
    points = np.array([[0, 3, 3, 0, 0, 1, 1, 2, 2, 1], [0, 0, 3, 3, 0, 1, 2, 2, 1, 1.0]])
    with pytest.raises(MeshError, match="cell 0 .*same point twice.*merge=False"):
        Mesh.from_cells(points, [("polygon", [np.arange(10)])])
    mesh = Mesh.from_cells(
        points, [("polygon", [np.arange(10)])], merge=False, strict=False, comm=MPI.COMM_SELF
    )
    assert_array_equal(mesh.volume, [8])


def test_cells_that_overlap_once_their_points_are_merged_are_refused():
    points = np.array([[0, 1, 0, 0, 1, 0.2], [0, 0, 1, 0, 0, 0.9]])
    with pytest.raises(MeshError, match="same side .* overlap"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Mesh.from_cells(points, [("triangle", [[0, 1, 2], [3, 4, 5]])])


def test_files(tmp_path):
    import meshio

    points, blocks = torn(*triangles())
    mesh = meshio.Mesh(
        np.concatenate([points, 0 * points[:1]]).T,
        [(kind, np.array(rows)) for kind, rows in blocks],
    )
    path = MPI.COMM_WORLD.bcast(str(tmp_path / "pieces.vtu"))
    if MPI.COMM_WORLD.rank == 0:
        mesh.write(path)
    MPI.COMM_WORLD.Barrier()
    whole = merged(lambda: Mesh.read(path), points.shape[1] - triangles()[0].shape[1])
    assert whole.ranks.sum(whole.area[whole.n_inner :].sum()) == pytest.approx(4)
    assert Mesh.read(path, merge=False).n_inner == 0


def test_many_points_are_merged_in_seconds():
    points, blocks = torn(*triangles(200))
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Mesh.from_cells(points, [(kind, np.array(rows)) for kind, rows in blocks])
    assert time.process_time() - begin < 15
