"""Diamonds: the operators of transport on any mesh, its certificates, and its fluxes."""

import brought_meshes as brought
import numpy as np
import pytest
from brought_meshes import BROUGHT
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import BenamouBrenier, Checkpoint, ConvergenceError, Entropy, InputError, Mesh, Power
from fvot.benamou_brenier import multigrid_cycle
from fvot.benamou_brenier.bounds import lower_bound, upper_bound
from fvot.benamou_brenier.diamonds import DiamondDiscretisation
from fvot.benamou_brenier.ends import Ends
from fvot.benamou_brenier.pencils import DiamondPencil
from fvot.benamou_brenier.poisson_multigrid import MultigridPoisson
from fvot.benamou_brenier.projection import DiamondState, multiplier
from fvot.benamou_brenier.time_basis import node_mean, node_weights
from fvot.finite_volume.face_routes import FaceRoutes

pytestmark = pytest.mark.ranks

N = 4

# Sums of a few hundred terms of the size of what is compared, with gradients on simplices up to a
# hundred times longer than wide.
ROUND_OFF = 1e-12


OTHERS = ("interval", "torus", "periodic box", "triangles", "two_rooms", "channel")
ALL = BROUGHT | {name: MESHES[name] for name in OTHERS}
EVERY = pytest.mark.parametrize("name", ALL)
PERIODIC = ("torus", "periodic box", "channel")

# Faces of these are not plane: integrals of normals over their parts are those of the face only
# together.
WARPED = ("hexahedra", "wedges", "pyramids")

DISCS = {}


def find_disc(name):
    """The discretisation on that mesh, made once."""
    if name not in DISCS:
        DISCS[name] = DiamondDiscretisation(ALL[name](), N)
    return DISCS[name]


def noise(mesh, *columns, seed=0):
    """Numbers (n_cells, *columns) that do not depend on how the mesh is dealt."""
    values = np.random.default_rng(seed).standard_normal((*columns, mesh.n_cells_global))
    return np.moveaxis(mesh.scatter(values), -1, 0)


def at_points(disc, k, seed=0):
    """Numbers (n_points, k) of the same kind, nodes included."""
    label = disc.corners.label[: disc.corners.n_own, None]
    of_nodes = np.sin(label * 12.9898 + 78.233 * np.arange(k) + seed)
    return np.concatenate([noise(disc.mesh, k, seed=seed), of_nodes])


def place_points(disc):
    """The places (dim, n_points) of cells and nodes."""
    nodes = disc.corners.points[:, : disc.corners.n_own]
    return np.concatenate([disc.mesh.centroid, nodes], axis=1)


def densities(disc, seed):
    """Two densities (n_cells,) of equal mass, zero in many cells."""
    rho = np.maximum(noise(disc.mesh, 2, seed=seed), 0) ** 2
    return (rho / disc.mesh.integrate(rho.T)).T


def adjoint(disc, a, b, theta):
    """Lambda* (a, b), column by column of the unit vectors' inner products: by the definition of
    slopes, which are linear in phi.
    """
    corners = disc.corners
    table = disc.diamonds
    nodes = disc.tau / 2 * (np.pad(b[:, 0], ((0, 0), (0, 1))) + np.pad(b[:, 1], ((0, 0), (1, 0))))
    out = np.zeros((disc.n_local, N + 1))
    for c in range(disc.n_copies):
        face = disc.copy_face[c]
        k = table.n_slopes[face]
        R = table.root[table.root_start[face] :][: k * k].reshape(k, k)
        work = disc.weight[c] * R.T @ nodes[disc.row_start[c] : disc.row_start[c + 1]]
        points = table.point[table.point_start[face] :][: k + 1]
        np.add.at(out, points[1:], work)
        out[points[0]] -= work.sum(axis=0)
    out = disc.to_owners(out)
    jump = -np.diff(np.pad(a, ((0, 0), (1, 1))))
    out[: disc.mesh.n_cells] += theta**2 * disc.mesh.volume[:, None] * disc.spread(jump)
    assert corners.n_own == disc.n_points - disc.mesh.n_cells
    return out


# ---- operators -----------------------------------------------------------------------------------


@EVERY
def test_linear_potentials_have_their_exact_slopes_on_every_patch(name):
    if name in PERIODIC:
        pytest.skip("none is linear there")
    disc = find_disc(name)
    for xi in np.eye(disc.mesh.dim) + 0.3:
        phi = np.repeat((xi @ place_points(disc))[:, None], N + 1, axis=1)
        assert_allclose(disc.square(disc.slopes(phi)), xi @ xi, rtol=ROUND_OFF)


@EVERY
def test_constant_flows_are_conserved_at_cells_and_nodes(name):
    """What linear potentials send to each point comes from the walls alone."""
    if name in PERIODIC:
        pytest.skip("no potential of a constant flow")
    disc = find_disc(name)
    corners = disc.corners
    mesh = disc.mesh
    pencil = DiamondPencil(disc, np.ones(disc.n_patches), np.zeros(1), np.float64)
    n = mesh.n_cells
    for xi in np.eye(mesh.dim) + 0.3:
        phi = xi @ place_points(disc)
        local = disc.with_ghosts(phi[:, None])[:, 0]
        at_corners = local[disc.node_point[corners.node]]
        flow = pencil.diagonal * phi[:n]
        flow -= np.add.reduceat(pencil.column * at_corners, corners.start[:-1])
        assert np.abs(flow).max() < ROUND_OFF

        image = np.empty((corners.n_own, 1))
        pencil.multiply(phi[n:, None], image)
        wall = np.zeros(corners.n_nodes)
        outer = corners.sides.face >= mesh.n_inner
        out = corners.side_corner[:, outer]
        wall[corners.node[out[out >= 0]]] = 1
        inner = corners.add(wall)[: corners.n_own] == 0
        assert np.abs(image[inner]).max(initial=0) < ROUND_OFF


@EVERY
def test_a_sweep_is_its_formulas(name):
    disc = find_disc(name)
    theta = 1.4
    phi = at_points(disc, 4 * (N + 1)).reshape(disc.n_points, 4, N + 1)
    state = DiamondState(disc, theta)
    state.start(phi[:, 0], disc.average(noise(disc.mesh, N, seed=3) ** 2), 2.0)
    patch = state.row_patch
    for step, (alpha, kappa) in enumerate([(1.0, 1.0), (1.8, 1.1), (1.8, 1.3)], 1):
        a, b = disc.apply(phi[:, step])
        z_a = state.z_a + alpha * (a - state.z_a + state.l / theta**2)
        z_b = state.z_b + alpha * (b - state.z_b / (1 + state.l)[patch, None])
        l = multiplier(z_a, disc.square(z_b), theta)
        q_a = z_a - l / theta**2
        q_b = z_b / (1 + l)[patch, None]
        l = l / kappa
        z_a = q_a + l / theta**2
        z_b = q_b * (1 + l)[patch, None]
        expected = (z_a, z_b, l, adjoint(disc, 2 * q_a - z_a, 2 * q_b - z_b, theta))

        rhs = state.sweep(phi[:, step], alpha, kappa)
        for mine, other in zip((state.z_a, state.z_b, state.l, rhs), expected):
            scale = max(1, np.abs(other).max(initial=0))
            assert_allclose(mine, other, rtol=0, atol=ROUND_OFF * scale)


@EVERY
def test_multigrid_solves_the_normal_equations(name, ranks, monkeypatch):
    monkeypatch.setattr(multigrid_cycle, "FEW_UNKNOWNS", 0)
    disc = find_disc(name)
    theta = 1.3
    phi = at_points(disc, N + 1)
    sigma = np.ones(disc.n_patches)
    solve = MultigridPoisson(disc, theta, np.float64, sigma)
    f = adjoint(disc, *disc.apply(phi), theta)
    for _ in range(120):
        found = solve(f)
    image = adjoint(disc, *disc.apply(found), theta)
    assert_allclose(image, f, rtol=0, atol=1e-8 * ranks.max(np.abs(f).max()))


@pytest.mark.parametrize(
    "name, factor",
    [
        ("waves", 0.4),
        ("noise", 0.4),
        ("alternating", 0.5),
        ("hanging", 0.4),
        ("hexahedra", 0.45),
        ("cubes in six", 0.75),
        ("kershaw", 0.85),
    ],
)
def test_a_multigrid_step_does_much_for_every_mode(name, factor, monkeypatch):
    """Measured: .31, .33, .42, .31, .35, .64, .78. Patches of several cells, whose mean alone has a
    part in C, and thin cells are the harder ones.
    """
    monkeypatch.setattr(multigrid_cycle, "FEW_UNKNOWNS", 0)
    disc = DiamondDiscretisation(ALL[name](), 16)
    mesh = disc.mesh
    solve = MultigridPoisson(disc, 1.0)
    solve.unknowns[:] = at_points(disc, 17)[mesh.n_cells :]
    zero = np.zeros_like(solve.unknowns)
    image = np.empty_like(solve.unknowns)
    energy = []
    for _ in range(5):
        solve.pencil.multiply(solve.unknowns, image)
        energy.append(mesh.ranks.sum((solve.unknowns * image).sum(axis=0)))
        solve.pencil.residual(solve.unknowns, zero, solve.residual)
        solve.improve(1)
    assert ((energy[-1] / energy[1]) ** (1 / 6)).max() < factor


# ---- certificates --------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("seed, size, power", [(1, 0.0, 1), (2, 0.01, 8), (3, 0.3, 0), (4, 3.0, 1)])
def test_bounds_are_in_order(name, seed, size, power):
    disc = find_disc(name)
    rho0, rho1 = densities(disc, seed) if name != "two_rooms" else 2 * (np.ones(disc.mesh.n_cells),)
    phi = size * at_points(disc, N + 1, seed=seed)
    rho = disc.average(np.maximum(noise(disc.mesh, N, seed=seed + 2), 0) ** power)
    ends = Ends(disc.mesh, rho0, rho1)
    lower = lower_bound(disc, phi, ends)
    upper = upper_bound(disc, rho, ends)
    assert lower.cost <= upper.cost
    assert upper.residual < 1e-13
    assert disc.violation(lower.phi).max() <= 1e-9 * (1 + size**2)


@pytest.mark.parametrize("name", BROUGHT)
def test_rough_solves_keep_the_continuity_equation(name, ranks):
    """Cells and nodes obey it to round-off, whatever the linear solver leaves; so do the fluxes
    through faces; and a rough solve costs little more.
    """
    disc = find_disc(name)
    mesh = disc.mesh
    rho0, rho1 = densities(disc, 5)
    rho = disc.average(noise(mesh, N, seed=6) ** 2)
    ends = Ends(mesh, rho0, rho1)
    rough, usual, sharp = (
        upper_bound(disc, rho, ends, rtol=rtol, epsilons=(1e-2,)) for rtol in (1e-1, 1e-5, 1e-12)
    )
    assert max(rough.residual, usual.residual, sharp.residual) < 1e-14
    assert sharp.cost <= usual.cost * (1 + 1e-12)
    assert usual.cost == pytest.approx(sharp.cost, rel=1e-7)
    assert sharp.cost <= rough.cost < 2 * sharp.cost

    flux = disc.find_face_fluxes(rough.flux)
    path = np.concatenate([rho0[:, None], disc.spread(rough.rho), rho1[:, None]], axis=1)
    for node, tau in enumerate(node_weights(N)):
        change = np.diff(path)[:, node] + tau * mesh.divergence(flux[node])
        assert ranks.max(np.abs(mesh.volume * change).max()) < 1e-13
    assert not flux[:, mesh.n_inner :].any()

    M = disc.mobility(node_mean(rough.rho))
    cost = (disc.cost_fluxes(rough.flux, M) * node_weights(N)).sum()
    assert rough.cost == pytest.approx(ranks.sum(cost), rel=1e-12)


@EVERY
def test_constant_flows_go_through_faces_as_they_are(name):
    """Legs of a constant flow m are led through each face as |s| m.n, in the inside."""
    disc = find_disc(name)
    if name in WARPED or disc.mesh.dim == 1:
        pytest.skip("normals of parts of a face differ, or there is but one way")
    mesh = disc.mesh
    corners = disc.corners
    m = np.array([0.7, -0.4, 0.3])[: mesh.dim]
    flux = np.zeros((*corners.side_root.shape[:2], 1))
    sides = corners.sides
    for side in range(len(flux)):
        at = corners.side_corner[:, side]
        at = at[at >= 0]
        R = corners.side_root[side, : len(at), : len(at)]
        flux[side, : len(at), 0] = R.T @ (R @ (m @ corners.leg[:, at]))

    through = FaceRoutes(corners)(corners.sum_legs(flux), disc.find_momenta(flux))[0]
    assert_allclose(disc.find_momenta(flux)[0].T, np.tile(m, (mesh.n_cells, 1)), atol=1e-12)
    at_wall = np.zeros(corners.n_nodes)
    out = corners.side_corner[:, sides.face >= mesh.n_inner]
    at_wall[corners.node[out[out >= 0]]] = 1
    at_wall = corners.add(at_wall)
    touches = np.zeros(mesh.n_faces, bool)
    for at in corners.side_corner:
        known = at >= 0
        touches[sides.face[known]] |= at_wall[corners.node[at[known]]] > 0
    inner = np.flatnonzero(~touches[: mesh.n_inner])
    expected = mesh.area[inner] * (m @ mesh.normal[:, inner])
    assert_allclose(through[inner], expected, atol=1e-13)


# ---- on ranks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noise", "right", "hanging", "wedges", "torus"])
def test_paths_do_not_depend_on_ranks(name, ranks):
    def solve(comm):
        mesh = ALL[name](comm=comm)
        rho0 = mesh.density(lambda x: 1.2 + np.cos(2 * np.pi * x[0]))
        rho1 = mesh.density(lambda x: 1.2 + np.cos(2 * np.pi * x[1] + 1))
        path = BenamouBrenier(mesh, n_steps=N, scheme="corners").solve(rho0, rho1)
        return mesh, path

    mesh, path = solve(None)
    alone, other = solve(MPI.COMM_SELF)
    assert path.cost == pytest.approx(other.cost, rel=1e-8)
    assert path.lower_bound == pytest.approx(other.lower_bound, rel=1e-8)
    assert path.iterations == other.iterations
    assert path.residual < 1e-13
    assert_allclose(mesh.gather(path.rho), alone.gather(other.rho), atol=1e-6 * other.rho.max())
    assert_allclose(mesh.gather(path.velocity[3]), other.velocity[3], atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda comm: Mesh.from_cells(*brought.cubes_in_six(2), comm=comm).refine(),
        lambda comm: Mesh.from_cells(*brought.right_triangles(8), comm=comm).refine(),
    ],
    ids=["tetrahedra", "triangles"],
)
def test_bounds_on_regular_meshes_do_not_depend_on_ranks(make, ranks):
    """Many couplings of corners are equal there, but for round-off that depends on ranks."""
    bounds = []
    for comm in ranks.comm, MPI.COMM_SELF:
        mesh = make(comm)
        ends = [
            mesh.density(lambda x, at=at: np.exp(-8 * ((x - at) ** 2).sum(axis=0)) + 0.05)
            for at in (0.3, 0.7)
        ]
        path = BenamouBrenier(mesh, n_steps=6).solve(*ends)
        bounds.append((path.cost, path.lower_bound))
    assert_allclose(*bounds, rtol=1e-9)


def test_runs_continue_from_checkpoints(tmp_path, ranks):
    file = ranks.broadcast(tmp_path / "path.h5")
    mesh = BROUGHT["noise"]()
    rho0 = mesh.density(lambda x: 1.2 + np.cos(2 * np.pi * x[0]))
    rho1 = mesh.density(lambda x: 1.2 + np.cos(2 * np.pi * x[1] + 1))
    with pytest.raises(ConvergenceError):
        short = BenamouBrenier(mesh, n_steps=N, tol=1e-7, max_iter=61)
        short.solve(rho0, rho1, checkpoint=Checkpoint(file))
    whole = BenamouBrenier(mesh, n_steps=N, tol=1e-7).solve(rho0, rho1)
    continued = BenamouBrenier(mesh, n_steps=N, tol=1e-7).solve(
        rho0, rho1, checkpoint=Checkpoint(file)
    )
    assert continued.gap <= 1e-7
    with pytest.raises(InputError, match="scheme"):
        other = BenamouBrenier(ALL["torus"](), n_steps=N, scheme="two_point")
        torus = other.mesh
        ends = torus.density(lambda x: 1 + x[0]), torus.density(lambda x: 2 - x[0])
        corners = BenamouBrenier(torus, n_steps=N, scheme="corners")
        with_corners = ranks.broadcast(tmp_path / "corners.h5")
        corners.solve(*ends, checkpoint=Checkpoint(with_corners))
        other.solve(*ends, checkpoint=Checkpoint(with_corners))
    assert continued.cost == pytest.approx(whole.cost, rel=2e-7)


def test_values_at_nodes_are_packed_and_unpacked():
    for name in "hanging", "wedges", "torus":
        disc = find_disc(name)
        phi = at_points(disc, N + 1)
        np.testing.assert_array_equal(disc.unpack(disc.pack(phi)), phi)


# ---- what it is for ------------------------------------------------------------------------------


def smooth(x):
    return (1 + 0.7 * np.cos(2 * np.pi * x[0])) * (1 + 0.5 * np.cos(np.pi * x[1]))


def smooth_end(x):
    return (1 - 0.7 * np.cos(2 * np.pi * x[0])) * (1 - 0.6 * np.cos(np.pi * x[1]))


# W2^2 of both, by quantile functions along each axis.
SMOOTH_SQUARE = 0.0798987281


@pytest.mark.parametrize(
    "make",
    [
        lambda n: brought.right_triangles(n),
        lambda n: brought.right_triangles(n, True),
        lambda n: brought.quads(n, brought.swirl(0.075)),
        lambda n: brought.quads(n, brought.noise(n, 0.25)),
        lambda n: brought.hanging(n // 4 * 4),
    ],
    ids=["right", "alternating", "swirl", "noise", "hanging"],
)
def test_the_square_of_the_distance_is_of_second_order(make):
    errors = []
    for n in 8, 16:
        mesh = Mesh.from_cells(*make(n))
        solver = BenamouBrenier(mesh, n_steps=8, tol=1e-4)
        path = solver.solve(mesh.density(smooth), mesh.density(smooth_end))
        assert path.lower_bound <= path.cost
        assert path.residual < 1e-13
        errors.append(path.cost / SMOOTH_SQUARE - 1)
    assert abs(errors[1]) < 8e-3
    assert abs(errors[0] / errors[1]) > 2**1.4  # cells are large; finer ones: slow tests


@pytest.mark.parametrize("energy", [0.1 * Entropy(), 0.1 * Power(2)])
def test_free_ends_are_those_of_squares(energy):
    """Cost and energy on triangles moved at random, and on squares, of four times as many cells."""

    def solve(mesh):
        return BenamouBrenier(mesh, n_steps=8, tol=1e-3, terminal=energy).solve(
            mesh.density(smooth)
        )

    on_squares = solve(Mesh.rectangle((0, 0), (1, 1), (32, 32)))
    on_noise = solve(Mesh.from_cells(*brought.quads(16, brought.noise(16, 0.25))))
    assert on_noise.cost == pytest.approx(on_squares.cost, rel=1e-2)
    assert on_noise.energy == pytest.approx(on_squares.energy, rel=1e-2)


def test_single_precision_takes_the_same_path():
    mesh = BROUGHT["noise"]()
    rho0 = mesh.density(smooth)
    rho1 = mesh.density(smooth_end)
    double, single = (
        BenamouBrenier(mesh, n_steps=N, precision=precision).solve(rho0, rho1)
        for precision in ("double", "single")
    )
    assert single.cost == pytest.approx(double.cost, rel=1e-3)
    assert single.lower_bound <= double.cost


def test_the_scheme_is_what_the_mesh_needs():
    """Two-point on squares and acute triangles, fluxes to corners elsewhere, or as asked for."""
    squares = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    acute = Mesh.triangles((0, 0), (1, 1), 6)
    moved = BROUGHT["noise"]()
    for mesh, scheme, words in (
        (squares, "auto", "two-point"),
        (acute, "auto", "two-point"),
        (moved, "auto", "to corners"),
        (BROUGHT["right"](), "auto", "to corners"),
        (squares, "corners", "to corners"),
    ):
        assert words in repr(BenamouBrenier(mesh, n_steps=2, scheme=scheme))
    with pytest.warns(UserWarning, match="W2.2 may be off") if moved.ranks.is_root else NoWarning():
        BenamouBrenier(moved, n_steps=2, scheme="two_point")


class NoWarning:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_thin_oblique_cells_are_named_where_the_gap_stays():
    """More iterations hardly help there, so the message names the mesh."""
    points, cells = brought.quads(8, brought.waves(0.15))
    thin = Mesh.from_cells(points * np.array([[1.0], [1 / 30]]), cells)
    rho0 = thin.density(lambda x: 1 + 0.5 * np.cos(2 * np.pi * x[0]))
    rho1 = thin.density(lambda x: 1 - 0.5 * np.cos(2 * np.pi * x[0]))
    with pytest.raises(ConvergenceError, match=r"thin and oblique .* 8\d degrees"):
        BenamouBrenier(thin, 4, tol=1e-6, max_iter=5).solve(rho0, rho1)

    square = Mesh.from_cells(points, cells)
    with pytest.raises(ConvergenceError, match=r"max_iter=\d+ may suffice"):
        BenamouBrenier(square, 4, tol=1e-6, max_iter=5).solve(
            *[square.density(lambda x, a=a: 1 + a * np.cos(2 * np.pi * x[0])) for a in (0.5, -0.5)]
        )
