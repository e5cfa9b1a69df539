"""`mesh.without(f)`: the mesh without some cells is the one that a file of the rest would give."""

import numpy as np
import pytest
from meshes import MESHES, PERIODIC

import fvot
from fvot import Mesh
from fvot.mesh.means import average_over_faces
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks


def corner(x):
    """Where the upper right quarter of a square is."""
    return (x[0] > 0.5) & (x[1] > 0.5)


def l_shape(n=16):
    """(points, quadrilaterals, boundary) of the square without its upper right quarter, n cells
    along a side.
    """
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    points = (
        np.stack(np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")).reshape(2, -1) / n
    )
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]]).reshape(4, -1).T
    quads = quads[~corner(points[:, quads].mean(axis=2))]
    edges = np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)]).T
    x = points[:, edges]
    on = {"left": x[0] == 0, "right": x[0] == 1, "bottom": x[1] == 0, "top": x[1] == 1}
    facets = {name: edges[:, both.all(axis=0)] for name, both in on.items()}
    inside = ((x[0] == 0.5).all(axis=0) & (x[1] >= 0.5).all(axis=0)) | (
        (x[1] == 0.5).all(axis=0) & (x[0] >= 0.5).all(axis=0)
    )
    return points, quads, facets | {"hole": edges[:, inside]}


def lengths(mesh):
    return {name: mesh.ranks.sum(mesh.area[faces].sum()) for name, faces in mesh.boundary.items()}


# On several ranks some kinds stand for the others.
SOME = (
    [name for name in MESHES if name not in PERIODIC]
    if Ranks().size == 1
    else ["interval", "rectangle", "box", "triangles", "tiling", "honeycomb", "voronoi"]
)


@pytest.fixture(scope="module")
def cut():
    return Mesh.rectangle((0, 0), (1, 1), (16, 16)).without(corner)


@pytest.fixture(scope="module")
def file():
    points, quads, boundary = l_shape()
    return Mesh.from_cells(points, [("quad", quads)], boundary=boundary)


def test_an_l_shape_is_that_of_a_file(cut, file):
    assert cut.n_cells_global == file.n_cells_global == 192
    for name in "volume", "center", "centroid":
        assert (
            np.abs(cut.gather(getattr(cut, name)) - file.gather(getattr(file, name))).max() < 1e-15
        ), name
    assert (cut.gather(cut.patch) == file.gather(file.patch)).all()
    assert lengths(cut) == pytest.approx(
        {"left": 1, "right": 0.5, "bottom": 1, "top": 0.5, "hole": 1}, rel=1e-14
    )
    assert lengths(file) == pytest.approx(lengths(cut), rel=1e-14)


def test_its_heat_modes_are_those_of_a_file_and_of_the_l_shape(cut, file):
    """The first ones of the Laplacian on [0, 1]^2 without a quarter, twice as small as [-1, 1]^2: 4
    x 1.4756 (Neumann).
    """
    rates = [fvot.FokkerPlanck(m, diffusion=1.0).relaxation_rates(3) for m in (cut, file)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-9)
    assert rates[0][0] == pytest.approx(4 * 1.4756, rel=0.02)
    discrete = (
        4 * 16**2 * np.sin(np.pi / 16) ** 2
    )  # of cos(2 pi x), which fits into all quarters; 4 pi^2 but for h^2
    assert rates[0][2] == pytest.approx(discrete, rel=1e-9)


@pytest.mark.long
def test_every_solver_runs_on_it(cut):
    rho0 = cut.density(lambda x: (x[0] > 0.75) & (x[1] < 0.25))
    rho1 = cut.density(lambda x: (x[0] < 0.25) & (x[1] > 0.75))
    path = fvot.BenamouBrenier(cut, 8, tol=1e-2).solve(rho0, rho1)
    straight = (0.875 - 0.125) ** 2 * 2
    assert path.lower_bound > 1.05 * straight  # round the corner
    for flow in fvot.JKO(cut, fvot.Entropy()), fvot.FokkerPlanck(cut, diffusion=1.0):
        assert np.abs(flow.solve(rho0, 4.0).rho[-1] * 0.75 - 1).max() < 1e-3  # all over the L
    result = fvot.ContinuityEquation(
        cut,
        (-1.0, 0.0),
        boundary={"left": fvot.outflow, "right": fvot.inflow(0.0), "hole": fvot.inflow(0.0)},
    ).solve(rho0, 0.25)
    assert cut.integrate(result.rho[-1]) == pytest.approx(1, abs=1e-12)
    distance = cut.geodesic_distance(np.array([[0.9], [0.4]]), np.array([[0.4], [0.9]]))[0, 0]
    assert distance == pytest.approx(2 * np.hypot(0.4, 0.1), rel=1e-12)


@pytest.mark.parametrize("name", SOME)
def test_half_of_every_mesh(name):
    mesh = MESHES[name]()
    middle = np.median(mesh.gather(mesh.center)[0])
    half = mesh.without(lambda x: x[0] > middle)
    stays = mesh.gather(mesh.center)[0] <= middle
    assert (half.gather(half.parent_cell) == np.flatnonzero(stays)).all()
    u = mesh.gather(mesh.volume)
    assert np.allclose(half.volume, u[half.parent_cell], rtol=1e-12)
    assert np.allclose(
        half.centroid, mesh.gather(mesh.centroid)[:, half.parent_cell], rtol=0, atol=1e-12
    )
    assert abs(half.integrate(1.0) - u[stays].sum()) < 1e-12 * u.sum()
    out = (
        average_over_faces(half, lambda x: x) * half.area
    )  # the divergence theorem: no face is missing, or there twice
    total = half.ranks.sum((out * half.normal)[:, half.n_inner :].sum())
    assert total == pytest.approx(mesh.dim * u[stays].sum(), rel=1e-9)
    kept = {
        old: mesh.ranks.sum((mesh.area[f] * (mesh.center[0][mesh.left[f]] <= middle)).sum())
        for old, f in mesh.boundary.items()
    }
    found = lengths(half)
    assert {old: found[old] for old in found if old != "hole"} == pytest.approx(
        {old: a for old, a in kept.items() if a > 0}
    )


@pytest.mark.parametrize(
    "name",
    [
        "rectangle",
        "triangles",
        "box",
        *[pytest.param(name, marks=pytest.mark.long) for name in ("tetrahedra", "lines", "quads")],
    ],
)
def test_it_can_be_refined_and_cut_again(name):
    mesh = MESHES[name]()
    middle = np.median(mesh.gather(mesh.center)[0])
    half = mesh.without(lambda x: x[0] > middle)
    finer = half.refine()
    assert finer.n_cells_global == 2**mesh.dim * half.n_cells_global
    assert finer.integrate(1.0) == pytest.approx(half.integrate(1.0), rel=1e-12)
    assert lengths(finer) == pytest.approx(lengths(half), rel=1e-12)
    again = half.without([0], name="notch")
    assert again.n_cells_global == half.n_cells_global - 1 and {"hole", "notch"} <= set(
        again.boundary
    )


def test_names_masks_and_numbers(ranks):
    mesh = Mesh.rectangle((0, 0), (3, 1), (12, 4))
    by_function = mesh.without(lambda x: x[0] > 2)
    by_mask = mesh.without(mesh.center[0] > 2, name="cut")
    by_number = mesh.without(np.flatnonzero(mesh.gather(mesh.center)[0] > 2), name="left")
    assert (
        by_function.gather(by_function.parent_cell) == by_mask.gather(by_mask.parent_cell)
    ).all()
    assert (
        by_function.gather(by_function.parent_cell) == by_number.gather(by_number.parent_cell)
    ).all()
    assert "right" not in by_function.boundary and lengths(by_mask)["cut"] == pytest.approx(1)
    assert lengths(by_number)["left"] == pytest.approx(
        2
    )  # a name that is there already gets the new faces, too
    assert (
        mesh.without(lambda x: x[0] > 5) is mesh
        and mesh.without([]) is mesh
        and mesh.without(False) is mesh
    )


def test_points_of_a_users_own_stay_beside_simplices():
    """Three squares and a triangle on the middle one: the triangle gets its circumcentre again."""
    points = [[0, 1, 2, 3, 0, 1, 2, 3, 1.5], [0, 0, 0, 0, 1, 1, 1, 1, 2]]
    quads = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6]]
    cells = [("quad", quads), ("triangle", [[5, 6, 8]])]
    center = np.array([[0.4, 1.5, 2.6, 1.5], [0.5, 0.5, 0.5, 1.3]])
    mesh = Mesh.from_cells(points, cells, center=center)
    rest = mesh.without([0])
    assert rest.gather(rest.center)[:, :2] == pytest.approx(center[:, 1:3], abs=1e-15)
    circumcentre = 1 + (1 - 0.25) / 2
    assert rest.gather(rest.center)[:, 2] == pytest.approx([1.5, circumcentre], abs=1e-15)


def test_pieces_keep_their_masses():
    mesh = Mesh.rectangle((0, 0), (3, 1), (12, 4)).without(lambda x: (x[0] > 1) & (x[0] < 2))
    rho0 = mesh.density(lambda x: x[0] < 0.5)
    rho = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(rho0, 5.0).rho[-1]
    assert mesh.integrate(rho * (mesh.center[0] < 1)) == pytest.approx(1, abs=1e-10)
    with pytest.raises(fvot.InputError, match="2 pieces"):
        fvot.FokkerPlanck(mesh, diffusion=1.0).stationary()


def test_a_free_energy_that_is_not_known_everywhere():
    """The populations are those of the Boltzmann factors of the bins that have been sampled."""
    grid = Mesh.rectangle((-2, -2), (2, 2), (20, 20))
    F = (grid.center**2).sum(axis=0)
    F[F > 5] = np.nan
    with pytest.raises(fvot.InputError, match=r"cells are not\).*mesh.without.*numpy.isfinite"):
        fvot.FokkerPlanck(grid, diffusion=1.0, potential=F)
    mesh = grid.without(np.isnan(F))
    known = grid.gather(F)[mesh.parent_cell]
    weight = np.exp(-known)
    rho = fvot.FokkerPlanck(mesh, diffusion=1.0, potential=known).stationary()
    assert np.abs(rho - weight / mesh.integrate(weight)).max() < 1e-12
    with pytest.raises(
        fvot.InputError, match=r"inf .*must be finite \(\d+ of \d+ values are not\)"
    ):
        fvot.FokkerPlanck(
            grid, diffusion=1.0, potential=lambda x: np.where((x**2).sum(axis=0) > 5, np.inf, 0.0)
        )


BAD = {
    "everything": (lambda m: m.without(lambda x: x[0] > -9), "all 16 cells"),
    "everything, by True": (lambda m: m.without(True), "all 16 cells"),
    "values": (lambda m: m.without(m.center[0]), "numpy.isnan"),
    "a mask of another mesh": (lambda m: m.without(np.ones(77, bool)), "77"),
    "a masked array": (lambda m: m.without(np.ma.masked_less(m.center[0], 0.5) > 0.7), "masked"),
    "a cell that there is not": (lambda m: m.without([3, 16]), "no cell 16"),
    "no name": (lambda m: m.without([3], name=""), "name"),
    "a function of values": (lambda m: m.without(lambda x: x[0]), "condition"),
    "periodic": (lambda m: Mesh.rectangle(0, 1, (4, 4), periodic=True).without([3]), "periodic"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_left_out_is_said(name):
    wrong, words = BAD[name]
    with pytest.raises(fvot.InputError, match=words):
        wrong(Mesh.rectangle((0, 0), (1, 1), (4, 4)))
