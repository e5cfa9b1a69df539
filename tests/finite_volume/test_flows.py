"""Potential flow and the correction along spanning trees."""

from fractions import Fraction

import numpy as np
import pytest
from comparisons import assert_same_solution
from meshes import FILES, MESHES, shaken_quads
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

from fvot import (
    ContinuityEquation,
    FokkerPlanck,
    InputError,
    Mesh,
    dispersion,
    inflow,
    outflow,
    potential_flow,
)
from fvot.finite_volume import face_flux
from fvot.finite_volume.velocity_field import cell_velocity
from fvot.mesh.connected_pieces import find_connected_pieces

pytestmark = pytest.mark.ranks

EPS = np.finfo(float).eps

THROUGH = [
    ("interval", "left", "right"),
    ("rectangle", "left", "top"),
    ("channel", "bottom", "top"),
    ("box", "front", "top"),
    ("triangles", "left", "right"),
    ("voronoi", "bottom", "top"),
    ("tetrahedra", "left", "back"),
    ("annulus", "inner", "outer"),
    ("harbour", "inlet", "outlet"),
]
FLOWS = pytest.mark.parametrize("name, entry, leave", THROUGH, ids=[name for name, *_ in THROUGH])


@FLOWS
def test_fluxes_are_divergence_free_to_round_off(name, entry, leave):
    mesh = MESHES[name]()
    U = potential_flow(mesh, {entry: 2.0, leave: -2.0})
    missed = np.sort(mesh.gather(np.abs(mesh.divergence(U) * mesh.volume)))
    total = mesh.ranks.sum(np.abs(U[mesh.face_owned]).sum())
    assert missed[-1] <= EPS * total  # the root of a tree keeps the rounding of all sums
    roots = face_flux._Forest(mesh).n_pieces
    of_a_cell = 8 * EPS * mesh.ranks.max(np.abs(U).max(initial=0))
    assert missed[:-roots].max(initial=0) <= of_a_cell
    assert mesh.ranks.sum(U[mesh.boundary[entry]].sum()) == pytest.approx(-2, rel=1e-13)
    assert mesh.ranks.sum(U[mesh.boundary[leave]].sum()) == pytest.approx(2, rel=1e-13)
    for wall in set(mesh.boundary) - {entry, leave}:
        assert_array_equal(U[mesh.boundary[wall]], 0)


def test_a_channel_has_a_uniform_flow():
    mesh = Mesh.triangles((0, 0), (2, 1), 12)
    U = potential_flow(mesh, {"left": 3, "right": -3})
    assert_allclose(U, 3 * mesh.area * mesh.normal[0], atol=1e-10)


def test_between_two_circles_the_flow_is_radial():
    mesh = Mesh.read(FILES / "annulus.msh")
    U = potential_flow(mesh, {"inner": 1, "outer": -1})
    x = mesh.face_center
    radial = (
        mesh.area * (mesh.normal * x).sum(axis=0) / (2 * np.pi * (x**2).sum(axis=0))
    )  # v = x / (2 pi |x|^2)
    error = mesh.ranks.sum(np.abs(U - radial)[mesh.face_owned].sum()) / mesh.ranks.sum(
        np.abs(radial)[mesh.face_owned].sum()
    )
    assert error < 0.01


@FLOWS
def test_the_same_flow_on_any_number_of_ranks(name, entry, leave, ranks):
    mesh = MESHES[name]()
    U = potential_flow(mesh, {entry: 1.0, leave: -1.0})
    energy = ranks.sum((U**2 / mesh.area**2)[mesh.face_owned].sum())
    alone = MESHES[name](comm=ranks.comm.Split(ranks.rank))
    V = potential_flow(alone, {entry: 1.0, leave: -1.0})
    assert energy == pytest.approx((V**2 / alone.area**2)[alone.face_owned].sum(), rel=1e-9)


def test_any_balanced_divergence_can_be_had(mesh):
    rng = np.random.default_rng(5)
    wanted = mesh.scatter(rng.standard_normal(mesh.n_cells_global))
    wanted -= mesh.ranks.sum(wanted.sum()) / mesh.n_cells_global
    U = face_flux.conserve(mesh, np.zeros(mesh.n_faces), wanted)
    assert mesh.ranks.max(np.abs(mesh.divergence(U) * mesh.volume - wanted).max()) <= 1e-11


def two_islands():
    points, cells = shaken_quads(6)
    return Mesh.from_cells(
        np.concatenate([points, points + 5], axis=1),
        [("quad", np.concatenate([cells[0][1], cells[0][1] + points.shape[1]]))],
    )


def test_pieces_of_a_mesh_are_found():
    mesh = two_islands()
    own_piece, count = find_connected_pieces(mesh)
    assert count == 2
    piece = mesh.gather(own_piece)
    east = mesh.gather(mesh.center)[0] > 3
    assert_array_equal(piece, np.where(east, piece[east][0], piece[~east][0]))
    assert set(piece) == {0, 1}


@pytest.mark.parametrize(
    "rates, words",
    [
        ({"left": 1}, "add up to 1"),
        ({"left": 1, "right": -0.5}, "add up to 0.5"),
        ({"door": 1, "right": -1}, "'door'"),
        ({"left": np.nan, "right": -1}, "nan"),
        ({"left": "1", "right": -1}, "'1'"),
        (["left", "right"], "must be a dict"),
        (None, "must be a dict"),
    ],
)
def test_rates_that_will_not_do_are_refused(rates, words):
    with pytest.raises(InputError) as caught:
        potential_flow(Mesh.triangles((0, 0), (1, 1), 4), rates)
    assert words in str(caught.value)


# ---- heterogeneous ground ------------------------------------------------------------------------


def strip(n):
    """Squares of [0, 8] x [0, 1], n across."""
    x, y = np.meshgrid(np.linspace(0, 8, 8 * n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    k = np.arange(x.size).reshape(x.shape)
    quads = np.stack([k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]], axis=-1)
    return np.stack([x.ravel(), y.ravel()]), [("quad", quads.reshape(-1, 4))]


def make_layers(n=4):
    """The strip with the regions "sand" above its middle, and "clay" below."""
    points, cells = strip(n)
    is_sand = points[1][cells[0][1]].mean(axis=1) > 0.5
    regions = {"sand": np.flatnonzero(is_sand), "clay": np.flatnonzero(~is_sand)}
    ends = {"left": np.arange(n + 1), "right": len(points[0]) - 1 - np.arange(n + 1)}
    boundary = {name: np.stack([end[:-1], end[1:]]) for name, end in ends.items()}
    return Mesh.from_cells(points, cells, boundary=boundary, regions=regions)


def flow_through(mesh, U, faces):
    """The flow along x through these faces of the mesh. Collective."""
    own = faces & mesh.face_owned
    return mesh.ranks.sum((U * np.sign(mesh.normal[0]))[own].sum())


def test_layers_share_the_flow_by_their_conductivity():
    """Far from the ends, nine tenths go through the sand, which conducts nine times as well; and
    the flow has no divergence.
    """
    mesh = make_layers()
    U = potential_flow(mesh, {"left": 1, "right": -1}, conductivity={"sand": 9e-5, "clay": 1e-5})
    x, y = mesh.face_center
    is_middle = (abs(x - 4) < 1e-9) & (abs(mesh.normal[0]) > 0.5)
    assert flow_through(mesh, U, is_middle & (y > 0.5)) == pytest.approx(0.9, abs=1e-5)
    assert flow_through(mesh, U, is_middle & (y < 0.5)) == pytest.approx(0.1, abs=1e-5)
    assert mesh.ranks.max(np.abs(mesh.divergence(U) * mesh.volume).max()) < 1e-14

    K = np.where(mesh.centroid[1] > 0.5, 9e-5, 1e-5)
    same = potential_flow(mesh, {"left": 1, "right": -1}, conductivity=K)
    by_function = potential_flow(
        mesh, {"left": 1, "right": -1}, conductivity=lambda x: np.where(x[1] > 0.5, 9e-5, 1e-5)
    )
    assert_same_solution(mesh.ranks, by_function, U)
    assert_allclose(same, U, atol=1e-12)


def test_one_conductivity_for_all_does_not_matter():
    mesh = MESHES["harbour"]()
    rates = {"inlet": 1.0, "outlet": -1.0}
    U = potential_flow(mesh, rates)
    assert_same_solution(mesh.ranks, potential_flow(mesh, rates, conductivity=1e-7), U)
    same = potential_flow(mesh, rates, conductivity=np.full(mesh.n_cells, 3e4))
    assert_allclose(same, U, atol=1e-9)


def test_layers_across_the_flow_do_not_turn_it():
    """What goes through one goes through the next."""
    mesh = Mesh.rectangle((0, 0), (4, 1), (16, 4))
    K = 10.0 ** -np.floor(mesh.center[0])
    U = potential_flow(mesh, {"left": 1, "right": -1}, conductivity=K)
    assert_allclose(U, mesh.area * mesh.normal[0], atol=1e-9)  # contrasts of 1000, solved to 1e-12


def solve_exactly(t, left, right, source):
    """The fluxes t (u_left - u_right), in rational numbers: Gauss' elimination with u_0 = 0."""
    n = len(source)
    rows = [{i: Fraction(0)} for i in range(n)]
    for s, (i, j) in enumerate(zip(left, right)):
        for a, b in (i, j), (j, i):
            rows[a][a] += t[s]
            rows[a][b] = rows[a].get(b, Fraction(0)) - t[s]
    rest = list(source)
    for k in range(n - 1, 0, -1):
        for i in [i for i in rows[k] if i < k]:
            factor = rows[i].pop(k) / rows[k][k]
            rest[i] -= factor * rest[k]
            for j, value in rows[k].items():
                if j < k:
                    rows[i][j] = rows[i].get(j, Fraction(0)) - factor * value
    u = [Fraction(0)] * n
    for k in range(1, n):
        known = sum((value * u[j] for j, value in rows[k].items() if j < k), Fraction(0))
        u[k] = (rest[k] - known) / rows[k][k]
    return np.array([float(t[s] * (u[i] - u[j])) for s, (i, j) in enumerate(zip(left, right))])


@pytest.mark.parametrize("contrast", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize(
    "is_dense",
    [lambda x: x[0] > 0.5, lambda x: x[1] > 0.5, lambda x: np.abs(x - 0.5).max(axis=0) < 0.2],
    ids=["in the way", "beside", "inside"],
)
def test_any_contrast_of_the_ground_has_the_exact_flow(contrast, is_dense):
    """Pressures that span twelve digits do not hide the flow where the ground is open."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    K = np.where(is_dense(mesh.center), contrast, 1.0)
    U = potential_flow(mesh, {"left": 1, "bottom": 1, "right": -2}, conductivity=K)

    alone = Mesh.rectangle((0, 0), (1, 1), (6, 6), comm=MPI.COMM_SELF)
    n = alone.n_inner
    ground = np.where(is_dense(alone.center), contrast, 1.0)
    left, right = alone.left[:n], alone.right[:n]
    t = [2 / (1 / Fraction(a) + 1 / Fraction(b)) for a, b in zip(ground[left], ground[right])]
    entering = np.zeros(alone.n_faces)
    for name, rate in ("left", 1), ("bottom", 1), ("right", -2):
        entering[alone.boundary[name]] = rate / 6
    source = np.bincount(alone.left[n:], entering[n:], 36)
    exact = solve_exactly(
        t, left.tolist(), right.tolist(), [Fraction(x).limit_denominator(6) for x in source]
    )

    speeds = mesh.gather(cell_velocity(mesh, U))
    expected = np.zeros(alone.n_faces)
    expected[:n] = exact
    expected[n:] = -entering[n:]
    assert_allclose(speeds, cell_velocity(alone, expected), atol=1e-11)


def test_bad_conductivities_are_refused():
    mesh = make_layers()
    rates = {"left": 1, "right": -1}
    for conductivity, message in (
        (0.0, "above 0 everywhere"),
        (-np.ones(mesh.n_cells), "above 0 everywhere"),
        (np.ones(3), "has shape"),
        ({"sand": 1.0}, "128 cells|64 cells|are in none of sand"),
        ({"sand": 1.0, "rock": 2.0}, "no region 'rock'"),
        ({"sand": 1.0, "clay": [1.0, 2.0]}, "one shape"),
        ({"sand": 1.0, "clay": np.nan}, "finite"),
        ("fast", "conductivity must be"),
    ):
        with pytest.raises(InputError, match=message):
            potential_flow(mesh, rates, conductivity=conductivity)


def test_materials_by_region_diffuse_as_cell_values_do():
    mesh = make_layers()
    by_region = FokkerPlanck(mesh, diffusion={"sand": 1.0, "clay": 0.01})
    D = np.where(mesh.centroid[1] > 0.5, 1.0, 0.01)
    by_cell = FokkerPlanck(mesh, diffusion=D)
    rho0 = mesh.density(lambda x: x[0] < 4)
    assert_same_solution(mesh.ranks, by_region.step(rho0, 0.1), by_cell.step(rho0, 0.1))


@pytest.mark.parametrize("make", [FokkerPlanck, ContinuityEquation])
def test_growth_and_sources_by_region_are_those_of_their_cells(make):
    mesh = make_layers()
    problem = dict(diffusion=0.1) if make is FokkerPlanck else dict(velocity=(0.0, 0.0))
    by_region = make(
        mesh, **problem, growth={"sand": 1.0, "clay": -2.0}, source={"sand": 0.5, "clay": 0.0}
    )
    is_sand = np.zeros(mesh.n_cells, bool)
    is_sand[mesh.regions["sand"]] = True
    by_cell = make(
        mesh, **problem, growth=np.where(is_sand, 1.0, -2.0), source=np.where(is_sand, 0.5, 0.0)
    )
    rho0 = np.ones(mesh.n_cells)
    found = by_region.solve(rho0, 0.1, tau=0.01)
    assert_same_solution(mesh.ranks, found.rho, by_cell.solve(rho0, 0.1, tau=0.01).rho)
    assert found.ledger["added"][-1] > 0
    with pytest.raises(InputError, match="growth by regions must name each cell once"):
        make(mesh, **problem, growth={"sand": 1.0})

    tensors = {"sand": [[1.0, 0.2], [0.2, 0.5]], "clay": [[0.1, 0.0], [0.0, 0.1]]}
    values = np.array(list(tensors.values()))
    D = values[np.where(mesh.centroid[1] > 0.5, 0, 1)].transpose(1, 2, 0)
    turned = [FokkerPlanck(mesh, diffusion=given).step(rho0, 0.1) for given in (tensors, D)]
    assert_same_solution(mesh.ranks, *turned)


# ---- dispersion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_dispersion_spreads_along_and_across_the_flow(dim):
    """Eigenvectors of D are v, and all that is orthogonal to it."""
    rng = np.random.default_rng(1)
    v = rng.standard_normal((dim, 20))
    v[:, 0] = 0.0
    D = dispersion(v, longitudinal=0.7, transverse=0.2, molecular=0.1)
    speed = np.linalg.norm(v, axis=0)
    assert_allclose(np.einsum("ijn,jn->in", D, v), (0.1 + 0.7 * speed) * v, atol=1e-14)
    trace = np.trace(D)
    assert_allclose(trace, 0.1 * dim + (0.7 + 0.2 * (dim - 1)) * speed, atol=1e-14)
    assert_allclose(D[..., 0], 0.1 * np.eye(dim))


def test_a_plume_in_a_uniform_flow_spreads_by_its_dispersivities():
    """Variances grow by 2 D t, along and across the flow. (Measured: 3 % more along it, by the
    diffusion of exponential fitting at a cell Peclet number of 0.6.)
    """
    mesh = Mesh.rectangle((0, 0), (6, 2), (192, 32))
    U = potential_flow(mesh, {"left": 2.0, "right": -2.0})  # v = (1, 0)
    D = dispersion(U, longitudinal=0.05, transverse=0.01, molecular=0.002, mesh=mesh)
    rho0 = mesh.density(lambda x: np.exp(-20 * ((x[0] - 2) ** 2 + (x[1] - 1) ** 2)))
    equation = FokkerPlanck(
        mesh,
        diffusion=D,
        face_flux=U,
        boundary={"left": inflow(0.0), "right": outflow},
    )
    rho = equation.solve(rho0, 1.0).rho
    x = mesh.center
    mean = mesh.integrate(rho[:, None] * x)
    assert_allclose(mean[-1] - mean[0], [1, 0], atol=2e-3)
    variance = mesh.integrate(rho[:, None] * x**2) - mean**2
    assert_allclose(variance[1] - variance[0], [2 * 0.052, 2 * 0.012], rtol=5e-2)


def test_bad_dispersion_is_refused():
    for arguments, message in (
        (([[1.0]], -1.0, 0.0), "longitudinal"),
        (([[1.0]], 1.0, np.nan), "transverse"),
        ((np.ones(7), 1.0, 0.1), "has shape"),
        (("fast", 1.0, 0.1), "flow must be"),
        (([[np.inf]], 1.0, 0.1), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            dispersion(*arguments)
