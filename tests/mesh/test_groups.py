"""Groups of faces and cells: names, numbers, overlaps, interfaces and regions, on any number of
ranks, and what takes names.
"""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import InputError, Mesh

pytestmark = pytest.mark.ranks

SCRIPT = Path(__file__).parents[2] / "meshes" / "make_examples.py"
N = 8
LENGTHS = {"boundary": 1, 13: 2, "inlet": 1, "outlet": 1, "overlap": 2, "sand": 1}
AREAS = {"sand": 1, 2: 1, "all": 2}


def made(name, folder):
    """The path of one of the examples."""
    spec = importlib.util.spec_from_file_location("make_examples", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.EXAMPLES[name].write(folder / name)
    return folder / name


@pytest.fixture
def mesh(ranks, shared_folder):
    """Squares in (0, 2) x (0, 1), with groups of all sorts."""
    return Mesh.read(ranks.broadcast(ranks.on_root(made, "msh4.1.msh", shared_folder)))


def lengths(mesh, parts):
    return {
        name: mesh.ranks.sum((mesh.area * mesh.face_owned)[faces].sum())
        for name, faces in parts.items()
    }


def areas(mesh):
    return {name: mesh.ranks.sum(mesh.volume[cells].sum()) for name, cells in mesh.regions.items()}


def squares(**options):
    """N x N squares in the unit square: (points, cells)."""
    x = np.stack(np.meshgrid(np.arange(N + 1.0), np.arange(N + 1.0), indexing="ij"))
    i = np.arange((N + 1) ** 2).reshape(N + 1, N + 1)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], axis=-1).reshape(-1, 4)
    return Mesh.from_cells(x.reshape(2, -1) / N, [("quad", quads)], **options)


def column(i, rows):
    """Edges of the line x = i / N between rows."""
    lower = i * (N + 1) + np.asarray(rows)
    return np.stack([lower, lower + 1])


# ---- what is kept --------------------------------------------------------------------------------


def test_every_group_has_its_own_faces_and_cells(mesh):
    assert lengths(mesh, mesh.boundary) == pytest.approx(LENGTHS)
    assert lengths(mesh, mesh.interfaces) == pytest.approx({"middle": 1})
    assert areas(mesh) == pytest.approx(AREAS)
    right = mesh.face_center[:, mesh.boundary["outlet"]]
    assert np.all(right[0] == 2)
    assert np.all(mesh.face_center[0, mesh.interfaces["middle"]] == 1) and np.all(
        mesh.interfaces["middle"] < mesh.n_inner
    )
    assert np.all(mesh.centroid[0, mesh.regions["sand"]] < 1) and np.all(
        mesh.centroid[0, mesh.regions[2]] > 1
    )


def test_numbers_are_names_and_may_be_text(mesh):
    for faces in mesh.boundary["13"], mesh.boundary[13], mesh.boundary[np.int64(13)]:
        assert mesh.ranks.sum(mesh.area[faces].sum()) == pytest.approx(2)
    assert (
        mesh.boundary[11] == mesh.boundary["11"] == mesh.boundary["inlet"]
    )  # a named group's number
    assert_array_equal(mesh.regions[1], mesh.regions["sand"])
    assert (
        13 in mesh.boundary
        and "13" in mesh.boundary
        and 11 in mesh.boundary
        and 99 not in mesh.boundary
    )
    assert mesh.boundary.get("99") is None


@pytest.mark.parametrize("name", ["msh1.msh", "msh2.2_numbers.msh", "msh4.1_numbers.msh"])
def test_groups_without_names_have_numbers(name, ranks, shared_folder):
    mesh = Mesh.read(ranks.broadcast(ranks.on_root(made, name, shared_folder)))
    assert list(mesh.boundary) == ["boundary", 11, 12, 13, 14, 16]
    assert list(mesh.regions) == [1, 2, 3]
    equation = fvot.ContinuityEquation(
        mesh,
        lambda x: np.stack([1 + 0 * x[0], 0 * x[0]]),
        boundary={11: fvot.inflow(2.0), "12": fvot.outflow},
    )
    result = equation.solve(np.zeros(mesh.n_cells), 0.25)
    assert mesh.integrate(result.rho[-1]) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("refined", [1, 2])
def test_names_stay_on_finer_meshes(refined, mesh):
    for _ in range(refined):
        mesh = mesh.refine()
    assert mesh.n_cells_global == 8 * 4**refined
    assert lengths(mesh, mesh.boundary) == pytest.approx(LENGTHS)
    assert lengths(mesh, mesh.interfaces) == pytest.approx({"middle": 1})
    assert areas(mesh) == pytest.approx(AREAS)
    assert np.all(mesh.centroid[0, mesh.regions["sand"]] < 1)
    assert_array_equal(mesh.regions[1], mesh.regions["sand"])


def hexagons():
    """A mesh of equilateral triangles round a point: (points, cells), all acute."""
    angle = np.pi / 3 * np.arange(6)
    ring = np.stack([np.cos(angle), np.sin(angle)])
    cells = [[0, 1 + k, 1 + (k + 1) % 6] for k in range(6)]
    return np.concatenate([np.zeros((2, 1)), ring], axis=1), [("triangle", np.array(cells))]


@pytest.mark.parametrize("finer", ["refine", "kites"])
def test_names_and_regions_stay_on_triangles(finer):
    points, cells = hexagons()
    if MPI.COMM_WORLD.size > 1:
        pytest.skip("six cells are for one rank")
    mesh = Mesh.from_cells(
        points,
        cells,
        boundary={
            "a": np.array([[1, 2], [2, 3]]),
            "b": np.array([[2], [3]]),
            "spoke": np.array([[0], [1]]),
        },
        regions={"first": [0], "half": np.arange(6) < 3, "again": [2, 4]},
    )
    fine = getattr(mesh, finer)()
    assert lengths(fine, fine.boundary) == pytest.approx({"boundary": 4, "a": 2, "b": 1})
    assert lengths(fine, fine.interfaces) == pytest.approx({"spoke": 1})
    third = np.sqrt(3) / 4
    assert areas(fine) == pytest.approx({"first": third, "half": 3 * third, "again": 2 * third})
    inside = fine.centroid[:, fine.regions["first"]]
    assert np.all((inside > 0) & (inside[1] < np.sqrt(3) * inside[0]))


def test_cells_in_several_regions(ranks):
    mesh = squares(
        regions={"left": np.arange(N * N) < N * N // 2, "corner": [0, 1], 7: [1, 5, 5], "none": []}
    )
    assert areas(mesh) == pytest.approx({"left": 0.5, "corner": 2 / N**2, 7: 2 / N**2, "none": 0})
    assert_array_equal(np.sort(ranks.all_gather(mesh.cell_id[mesh.regions[7]])), [1, 5])
    assert not mesh.regions["left"].flags.writeable


def test_overlapping_names_and_both_sides_of_a_wall_group():
    mesh = squares(
        boundary={
            "a": column(0, np.arange(0, 6)),
            "b": column(0, np.arange(2, 8)),
            "c": column(0, [1, 3, 7]),
            "through": np.concatenate([column(0, [0]), column(4, np.arange(8))], axis=1),
        }
    )
    assert lengths(mesh, mesh.boundary) == pytest.approx(
        {"boundary": 3, "a": 6 / N, "b": 6 / N, "c": 3 / N, "through": 1 / N}
    )
    assert lengths(mesh, mesh.interfaces) == pytest.approx({"through": 1})
    found = np.sort(mesh.ranks.all_gather(mesh.face_center[1, mesh.boundary["c"]]))
    assert_allclose(found, (np.array([1, 3, 7]) + 0.5) / N)


def test_a_group_called_boundary_does_not_swallow_the_rest():
    mesh = squares(boundary={"boundary": column(0, np.arange(N))})
    assert lengths(mesh, mesh.boundary) == pytest.approx({"boundary": 1, "rest of boundary": 3})
    finer = mesh.refine()
    assert lengths(finer, finer.boundary) == pytest.approx({"boundary": 1, "rest of boundary": 3})


# ---- what is said --------------------------------------------------------------------------------


def test_unknown_names_say_which_there_are(mesh):
    cases = [
        (mesh.boundary, ["no boundary 'sea'", "inlet", "13"]),
        (mesh.regions, ["no region 'sea'", "sand", "2"]),
        (mesh.interfaces, ["no interface 'sea'", "middle"]),
    ]
    for parts, words in cases:
        with pytest.raises(InputError) as raised:
            parts["sea"]
        assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "equation",
    [
        lambda mesh, boundary: fvot.FokkerPlanck(mesh, diffusion=1.0, boundary=boundary),
        lambda mesh, boundary: fvot.ContinuityEquation(mesh, lambda x: 0 * x, boundary=boundary),
    ],
)
def test_two_conditions_on_one_face_are_refused(equation, mesh):
    with pytest.raises(
        InputError, match="boundary 'outlet' and boundary 'overlap' have faces in common"
    ):
        equation(mesh, {"outlet": fvot.outflow, "overlap": fvot.inflow(1.0)})
    with pytest.raises(InputError, match="boundary 'inlet' and boundary 11 have"):
        equation(mesh, {"inlet": fvot.outflow, 11: fvot.inflow(1.0)})
    equation(mesh, {"inlet": fvot.outflow, "overlap": fvot.inflow(1.0)})
    with pytest.raises(InputError, match="'middle', which is inside the mesh"):
        equation(mesh, {"middle": fvot.outflow})
    with pytest.raises(InputError, match="no part 'sea'.*inlet"):
        equation(mesh, {"sea": fvot.outflow})


def test_two_rates_on_one_face_are_refused(mesh):
    with pytest.raises(InputError, match="boundary 'outlet' and boundary 'overlap' have"):
        fvot.potential_flow(mesh, {"inlet": 1.0, "outlet": -0.5, "overlap": -0.5})
    flow = fvot.potential_flow(mesh, {"11": 1.0, "overlap": -1.0})
    assert mesh.ranks.sum(flow[mesh.boundary["overlap"]].sum()) == pytest.approx(1, rel=1e-12)


def test_diffusion_through_overlapping_names_is_that_through_plain_ones():
    """Overlaps are index arrays, other names slices: the same equation, the same numbers."""
    edges = column(0, np.arange(N))
    overlap = squares(boundary={"a": edges[:, :5], "b": edges[:, 3:], "all": edges})
    plain = squares(boundary={"all": edges})
    rho = [
        fvot.FokkerPlanck(mesh, diffusion=1.0, boundary={"all": fvot.dirichlet(1.0)}).solve(
            np.zeros(mesh.n_cells), 0.1, tau=0.02
        )
        for mesh in (overlap, plain)
    ]
    assert_allclose(overlap.gather(rho[0].rho[-1]), plain.gather(rho[1].rho[-1]), atol=1e-9)


def test_faces_that_are_none_are_said(ranks):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = squares(boundary={"good": column(0, [0]), "odd": np.array([[0, 1], [N + 2, 2 * N]])})
    messages = [str(message.message) for message in said]
    assert ranks.sum(len(messages)) == 1
    if ranks.is_root:
        assert "'odd' (2 of 2)" in messages[0] and "'good'" not in messages[0]
    assert "odd" not in mesh.boundary and "good" in mesh.boundary


@pytest.mark.parametrize(
    "regions, words",
    [
        ([0, 1], ["regions", "dict", "[0, 1]"]),
        ({"a": [0, N * N]}, ["'a'", f"cell {N * N}", f"{N * N} cells"]),
        ({"a": [-1]}, ["'a'", "cell -1"]),
        ({"a": [0.5]}, ["'a'", "numbers of cells", "float64"]),
        ({"a": [True, False]}, ["'a'", "mask", "(2,)"]),
    ],
)
def test_bad_regions(regions, words):
    with pytest.raises(InputError) as raised:
        squares(regions=regions)
    assert all(word in str(raised.value) for word in words)
