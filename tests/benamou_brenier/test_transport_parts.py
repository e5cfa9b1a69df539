"""The parts of the optimal-transport solver: operators, projection, certificates."""

from functools import partial

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from fvot import Mesh
from fvot.benamou_brenier import spanning_trees, time_basis
from fvot.benamou_brenier.bounds import lower_bound, upper_bound
from fvot.benamou_brenier.ends import Ends
from fvot.benamou_brenier.flux_multigrid import DealtFluxMultigrid
from fvot.benamou_brenier.levels import build_levels
from fvot.benamou_brenier.pencils import TwoPointPencil
from fvot.benamou_brenier.poisson_cosine import CosinePoisson
from fvot.benamou_brenier.poisson_multigrid import MultigridPoisson
from fvot.benamou_brenier.projection import TwoPointState, multiplier
from fvot.benamou_brenier.time_basis import node_mean, node_weights
from fvot.benamou_brenier.two_point import TwoPointDiscretisation
from fvot.finite_volume.face_flux import build_laplacian
from fvot.mesh import isotropic_weights
from fvot.mesh.face_exchange import find_face_exchange

pytestmark = pytest.mark.ranks

N = 5


def noise(mesh, *columns, seed=0):
    """Numbers (n_cells, *columns) that do not depend on how the mesh is dealt."""
    values = np.random.default_rng(seed).standard_normal((*columns, mesh.n_cells_global))
    return np.moveaxis(mesh.scatter(values), -1, 0)


def gathered(mesh, u):
    """(n_cells, k) of all ranks in the file's numbering."""
    return mesh.gather(u.T).T


@pytest.fixture(scope="module")
def disc(mesh):
    return TwoPointDiscretisation(mesh, N)


def adjoint(disc, a, b, theta=1.0):
    """Lambda* (a, b) (n_cells, N + 1): sum phi Lambda* (a, b) = <Lambda phi, (a, b)>, with the
    weights tau m_P theta^2 for a and tau omega_{P,s} / 2 for b.
    """
    mesh = disc.mesh
    nodes = disc.tau / 2 * (np.pad(b[:, 0], ((0, 0), (0, 1))) + np.pad(b[:, 1], ((0, 0), (1, 0))))
    work = (disc.weight / mesh.distance[disc.copy_face])[:, None] * nodes
    in_space = np.zeros((mesh.n_local, nodes.shape[1]))
    np.add.at(in_space, mesh.right[disc.copy_face], work)
    np.add.at(in_space, mesh.left[disc.copy_face], -work)
    jump = -np.diff(np.pad(a, ((0, 0), (1, 1))))
    in_time = theta**2 * mesh.volume[:, None] * disc.spread(jump)
    return disc.to_owners(in_space) + in_time


def space_operator(disc, phi, shift):
    """K_x phi + shift Q^T M_P Q phi for phi (n_cells, k), shift (k,)."""
    mesh = disc.mesh
    t = (disc.left_weight + disc.right_weight) / mesh.distance[: mesh.n_inner] ** 2
    in_space = build_laplacian(mesh, t) @ disc.with_ghosts(phi)
    return in_space + shift * mesh.volume[:, None] * disc.spread(disc.average(phi))


# ---- operators -----------------------------------------------------------------------------------


def test_the_adjoint_is_the_adjoint(mesh, disc):
    rng = np.random.default_rng(mesh.ranks.rank)
    phi = rng.standard_normal((mesh.n_cells, N + 1))
    theta = 1.3
    a, b = (
        rng.standard_normal((disc.n_patches, N)),
        rng.standard_normal((disc.n_copies, 2, N)),
    )
    a_phi, b_phi = disc.apply(phi)
    parts = [
        disc.tau * theta**2 * (disc.volume[:, None] * a * a_phi),
        disc.tau / 2 * disc.weight[:, None, None] * b * b_phi,
    ]
    here, there = (
        mesh.ranks.sum(x)
        for x in (parts[0].sum() + parts[1].sum(), (phi * adjoint(disc, a, b, theta)).sum())
    )
    assert here == pytest.approx(
        there, abs=1e-14 * mesh.ranks.sum(np.abs(parts[0]).sum() + np.abs(parts[1]).sum())
    )


def test_lambda_is_what_its_definition_says(kind, mesh, disc):
    phi = noise(mesh, N + 1)
    a, b = disc.apply(phi)
    for patch in range(0, disc.n_patches, 7):
        mine = np.flatnonzero(mesh.patch == mesh.patch[disc.patch == patch][0])
        mean = (mesh.volume[mine, None] * phi[mine]).sum(axis=0) / mesh.volume[mine].sum()
        assert_allclose(a[patch], np.diff(mean) * N, rtol=1e-13, atol=1e-13)
    local = mesh.with_ghosts(phi.T).T
    for copy in range(0, disc.n_copies, 5):
        f = disc.copy_face[copy]
        slope = (local[mesh.right[f]] - local[mesh.left[f]]) / mesh.distance[f]
        assert_array_equal(b[copy], [slope[:-1], slope[1:]])
        inside = [
            cell < mesh.n_cells and disc.patch[cell] == disc.copy_patch[copy]
            for cell in (mesh.left[f], mesh.right[f])
        ]
        weight = mesh.area[f] * (
            inside[0] * mesh.left_distance[f] + inside[1] * mesh.right_distance[f]
        )
        assert disc.plain_weight[copy] == pytest.approx(weight, rel=1e-14)
    total = mesh.ranks.sum(
        (mesh.area * mesh.distance)[: mesh.n_inner][mesh.face_owned[: mesh.n_inner]].sum()
    )
    assert mesh.ranks.sum(disc.plain_weight.sum()) == pytest.approx(
        total, rel=1e-13
    )  # no side is missing


def test_normal_equations(mesh, disc):
    """Lambda* Lambda = theta^2 K_t x Q^T M_P Q + M_t x K_x."""
    phi = noise(mesh, N + 1)
    theta = 0.7
    space = space_operator(disc, phi, np.zeros(N + 1)) * node_weights(N)
    time = space_operator(disc, phi @ time_basis.time_stiffness(N), np.ones(N + 1))
    time -= space_operator(disc, phi @ time_basis.time_stiffness(N), np.zeros(N + 1))
    expected = space + theta**2 * time
    scale = mesh.ranks.max(np.abs(expected).max())
    assert_allclose(adjoint(disc, *disc.apply(phi), theta), expected, rtol=0, atol=1e-14 * scale)


def test_on_any_number_of_ranks(mesh, twin, disc):
    alone = TwoPointDiscretisation(twin, N)
    phi = noise(mesh, N + 1)
    other = noise(twin, N + 1)
    pairs = [
        (adjoint(disc, *disc.apply(phi)), adjoint(alone, *alone.apply(other))),
        (disc.spread(disc.violation(phi)), alone.spread(alone.violation(other))),
    ]
    for mine, whole in pairs:
        assert_allclose(
            gathered(mesh, mine), gathered(twin, whole), rtol=0, atol=1e-12 * np.abs(whole).max()
        )


def test_energy_is_the_same_on_faces_and_on_copies(mesh, disc):
    """sum_n tau_n sum_s M_s |d_s phi|^2 = sum_j tau sum_P m_P rho_P |b|^2."""
    phi = noise(mesh, N + 1)
    rho = disc.average(noise(mesh, N, seed=1) ** 2)
    n = mesh.n_inner
    on_faces = disc.mobility(node_mean(rho)) * disc.gradient(phi) ** 2 * node_weights(N)
    on_copies = disc.tau * disc.volume[:, None] * rho * disc.square(disc.apply(phi)[1])
    assert mesh.ranks.sum(on_faces[mesh.face_owned[:n]].sum()) == pytest.approx(
        mesh.ranks.sum(on_copies.sum()), rel=1e-13
    )


def test_average_and_spread_are_transposed(mesh, disc):
    u = noise(mesh, 2)
    rho = disc.average(noise(mesh, 2, seed=1))
    left = mesh.ranks.sum((disc.volume[:, None] * disc.average(u) * rho).sum())
    assert left == pytest.approx(
        mesh.ranks.sum((mesh.volume[:, None] * u * disc.spread(rho)).sum()), abs=1e-12
    )
    assert_allclose(
        disc.masses(rho).sum(axis=0),
        mesh.integrate(disc.spread(rho).T),
        atol=1e-13 * mesh.integrate(1.0),
    )


def test_constants_and_linear_functions(kind, mesh, disc):
    a, b = disc.apply(np.ones((mesh.n_cells, N + 1)))
    assert_array_equal(a, 0)
    assert_array_equal(b, 0)
    if kind in ("circle", "torus", "channel", "periodic box"):
        return
    slope = np.array([0.8, -0.5, 0.3])[: mesh.dim]
    phi = 2 * np.linspace(0, 1, N + 1) + (slope @ mesh.center)[:, None]
    a, b = disc.apply(phi)
    assert_allclose(a, 2, rtol=1e-12)
    if mesh.quality.orthogonality_defect > 1e-10:
        return
    assert_allclose(
        b,
        np.broadcast_to((slope @ mesh.normal[:, disc.copy_face])[:, None, None], b.shape),
        atol=1e-11,
    )
    touches = np.zeros(disc.n_patches, bool)
    touches[disc.patch[mesh.left[mesh.n_inner :]]] = True
    good = ~touches & (disc.isotropy_defect() < 1e-12)
    assert_allclose(disc.square(b)[good], slope @ slope, rtol=1e-10)


# Patches of several cells, which have enough faces to be isotropic.
GROUPED = {"voronoi": 4, "honeycomb": 8, "ball": 16, "quads": 4}


def test_patches_are_isotropic_after_the_correction(kind):
    mesh = MESHES[kind](**({"patches": GROUPED[kind]} if kind in GROUPED else {}))
    disc = TwoPointDiscretisation(mesh, N, isotropic=True)
    inner = mesh.n_inner
    whole = np.zeros((disc.n_patches, mesh.dim, mesh.dim))
    n = mesh.normal[:, disc.copy_face]
    w = disc.weight
    np.add.at(whole, disc.copy_patch, (w * n[:, None] * n[None]).transpose(2, 0, 1))
    n = mesh.normal[:, inner:]
    w = (mesh.area * mesh.left_distance)[inner:]
    np.add.at(whole, disc.patch[mesh.left[inner:]], (w * n[:, None] * n[None]).transpose(2, 0, 1))
    defect = np.linalg.norm(whole / disc.volume[:, None, None] - np.eye(mesh.dim), axis=(1, 2))
    assert_allclose(disc.isotropy_defect(), defect, atol=1e-13)
    exact = mesh.ranks.sum(int((defect < 1e-12).sum())) / mesh.ranks.sum(disc.n_patches)
    assert (
        exact > 0.99 if kind == "ball" else exact == 1
    )  # some patches of the ball have too few faces
    assert (disc.weight >= isotropic_weights.MIN_WEIGHT_FACTOR * disc.plain_weight).all()


@pytest.mark.parametrize(
    "name, patches, left",
    [
        ("voronoi", 4, 1e-12),
        ("voronoi", "none", 0.4),
        ("honeycomb", 8, 1e-12),
        ("ball", "auto", 0.1),
        ("tetrahedra", "none", 0.8),
        ("ball", "none", 0.8),
    ],
)  # four faces cannot meet six conditions
def test_the_correction_is_needed_and_helps(name, patches, left):
    mesh = MESHES[name](patches=patches)
    plain, corrected = (
        TwoPointDiscretisation(mesh, 1, isotropic=on).isotropy_defect() for on in (False, True)
    )
    before, after = mesh.ranks.sum(np.array([(plain**2).sum(), (corrected**2).sum()]))
    assert before > 1e-4 * mesh.n_cells_global / 8
    assert after <= left**2 * before
    assert (corrected <= 1.001 * plain + 1e-12).all()


def test_impossible_isotropy_keeps_the_weights_positive():
    normal = np.array([[1.0, 0.999, 1.0], [0.0, np.sqrt(1 - 0.999**2), 0.0]])
    weight = np.array([1.0, 2, 3])
    patch = np.array([0, 0, 1])
    target = np.stack([np.eye(2), 3 * np.eye(2)])
    corrected = isotropic_weights.correct_weights(weight, normal, patch, target)
    assert (corrected >= isotropic_weights.MIN_WEIGHT_FACTOR * weight).all()
    assert corrected[2] == pytest.approx(3)  # e_y cannot be had, e_x is right already


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_time_basis(n_steps):
    V, eigenvalue = time_basis.time_basis(n_steps)
    K, M = time_basis.time_stiffness(n_steps), np.diag(node_weights(n_steps))
    assert_allclose(V.T @ M @ V, np.eye(n_steps + 1), atol=1e-14)
    assert_allclose(K @ V, M @ V * eigenvalue, atol=1e-13 * n_steps**2)


# ---- projection ----------------------------------------------------------------------------------

SIZES = st.floats(-1e4, 1e4)


@given(SIZES, st.floats(0, 1e8), st.floats(0.01, 100))
def test_the_multiplier_is_the_root(z_a, square, theta):
    def g(l):
        return z_a - l / theta**2 + square / (2 * (1 + l) ** 2)

    l = float(multiplier(np.array([z_a]), np.array([square]), theta)[0])
    if g(0) <= 0:
        assert l == 0
    else:
        top = theta**2 * max(z_a, 0) + (theta**2 * square / 2) ** (1 / 3) + 1
        expected = scipy.optimize.brentq(g, 0, 2 * top, xtol=np.finfo(float).tiny, rtol=1e-14)
        slack = 1e-14 * theta**2 * (abs(z_a) + square / 2)  # round-off of g
        assert l == pytest.approx(expected, rel=1e-12, abs=slack)


@given(
    st.lists(SIZES, min_size=4, max_size=4),
    st.lists(SIZES, min_size=4, max_size=4),
    st.floats(0.1, 10),
)
def test_the_projection_is_the_nearest_point(z, other, theta):
    """<z - q, p - q> <= 0 for all p with p_a + |p_b|^2 / 2 <= 0, and q is such a point."""
    (z_a, *z_b) = z
    (p_a, *p_b) = other
    z_b = np.array(z_b) / 100
    p_b = np.array(p_b) / 100
    l = float(multiplier(np.array([z_a]), np.array([z_b @ z_b]), theta)[0])
    q_a = z_a - l / theta**2
    q_b = z_b / (1 + l)
    scale = abs(z_a) + z_b @ z_b + 1
    assert q_a + q_b @ q_b / 2 <= 1e-12 * scale
    p_a = min(p_a, -p_b @ p_b / 2)
    product = theta**2 * (z_a - q_a) * (p_a - q_a) + (z_b - q_b) @ (p_b - q_b)
    assert product <= 1e-11 * (theta**2 * scale + 1) * (scale + abs(p_a) + p_b @ p_b)


def swept(disc, state, phi, theta, alpha, kappa):
    """One sweep by the formulas, on the arrays of a state: (z_a, z_b, l, right-hand side)."""
    a, b = disc.apply(phi)
    copy = disc.copy_patch
    z_a = state.z_a + alpha * (a - state.z_a + state.l / theta**2)
    z_b = state.z_b + alpha * (b - state.z_b / (1 + state.l)[copy, None])
    l = multiplier(z_a, disc.square(z_b), theta)
    q_a = z_a - l / theta**2
    q_b = z_b / (1 + l)[copy, None]
    l = l / kappa
    z_a = q_a + l / theta**2
    z_b = q_b * (1 + l)[copy, None]
    return z_a, z_b, l, adjoint(disc, 2 * q_a - z_a, 2 * q_b - z_b, theta)


def test_the_sweep_is_its_formulas(mesh, disc):
    theta = 1.4
    phi = noise(mesh, 4, N + 1, seed=2)
    state = TwoPointState(disc, theta)
    state.start(phi[:, 0], disc.average(noise(mesh, N, seed=3) ** 2), 2.0)
    for step, (alpha, kappa) in enumerate([(1.0, 1.0), (1.8, 1.1), (1.8, 1.3)], 1):
        expected = swept(disc, state, phi[:, step], theta, alpha, kappa)
        rhs = state.sweep(phi[:, step], alpha, kappa)
        for mine, other in zip((state.z_a, state.z_b, state.l, rhs), expected):
            assert_allclose(mine, other, rtol=0, atol=1e-14 * max(1, np.abs(other).max(initial=0)))
        assert_allclose(state.right_hand_side(), rhs, rtol=0, atol=1e-13 * np.abs(rhs).max())


def test_single_precision_does_the_same(mesh, disc):
    phi = noise(mesh, 3, N + 1)
    rho = disc.average(noise(mesh, N, seed=3) ** 2)
    states = []
    for dtype in (np.float64, np.float32):
        state = TwoPointState(disc, 1.2, dtype)
        state.start(phi[:, 0], rho, 3.0)
        rhs = [state.sweep(phi[:, k].astype(dtype), 1.8, 1.2) for k in (1, 2)][-1]
        assert {state.z_a.dtype, state.z_b.dtype, state.l.dtype, rhs.dtype} == {np.dtype(dtype)}
        states.append((state.z_a, state.z_b, state.l, rhs))
    for double, single in zip(*states):
        assert_allclose(single, double, rtol=0, atol=1e-5 * np.abs(double).max(initial=0))


def test_a_start_keeps_density_and_slope(mesh, disc):
    phi = noise(mesh, N + 1)
    rho = disc.average(noise(mesh, N, seed=3) ** 2)
    phi -= np.linspace(0, 1, N + 1) * mesh.ranks.max(disc.violation(phi).max())
    state = TwoPointState(disc, 0.9)
    state.start(phi, rho, 5.0)
    a, b = disc.apply(phi)  # feasible: the projection leaves it alone
    assert_allclose(state.z_a - rho / 5 / 0.9**2, a, atol=1e-13 * np.abs(a).max(initial=1))
    assert_allclose(
        state.z_b / (1 + rho / 5)[disc.copy_patch, None],
        b,
        atol=1e-13 * np.abs(b).max(initial=1),
    )


# ---- certificates --------------------------------------------------------------------------------

SOME = ["interval", "rectangle", "torus", "box", "triangles", "voronoi", "honeycomb", "two_rooms"]
PARTS = {}


def part(name, n_steps=3):
    """The discretisation on that mesh, made once."""
    if (name, n_steps) not in PARTS:
        PARTS[name, n_steps] = TwoPointDiscretisation(MESHES[name](), n_steps)
    return PARTS[name, n_steps]


def densities(disc, seed, power=2):
    """Two densities (n_cells,) of equal mass, zero in many cells."""
    rho = np.maximum(noise(disc.mesh, 2, seed=seed), 0) ** power
    return (rho / disc.mesh.integrate(rho.T)).T


@pytest.mark.parametrize("name", SOME)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    power=st.sampled_from([0, 1, 8]),
)
@settings(max_examples=6)
def test_bounds_are_in_order(name, seed, size, power):
    disc = part(name)
    mesh = disc.mesh
    rho0, rho1 = densities(disc, seed)
    phi = size * noise(mesh, disc.n_steps + 1, seed=seed + 1)
    rho = disc.average(np.maximum(noise(mesh, disc.n_steps, seed=seed + 2), 0) ** power)
    ends = Ends(disc.mesh, rho0, rho1)
    lower, upper = lower_bound(disc, phi, ends), upper_bound(disc, rho, ends)
    assert lower.cost <= upper.cost
    assert upper.residual < 1e-14
    assert mesh.ranks.max(disc.violation(lower.phi).max()) <= 1e-12 * (
        1 + size**2 / mesh.ranks.min(mesh.distance.min()) ** 2
    )


@pytest.mark.parametrize("name", SOME)
def test_the_lower_bound_shifts_every_slab_by_what_it_needs(name):
    disc = part(name)
    rho0, rho1 = densities(disc, 4)
    phi = noise(disc.mesh, disc.n_steps + 1, seed=2)
    expected = lower_bound(disc, phi, Ends(disc.mesh, rho0, rho1))
    for shift in (np.array([0, 5, 7, 9]), np.array([3, -90, -95, -200])):
        shifted = lower_bound(disc, phi + shift, Ends(disc.mesh, rho0, rho1))
        assert shifted.cost == pytest.approx(expected.cost, rel=1e-11)
        assert_allclose(
            shifted.phi - shifted.phi[:, :1], expected.phi - expected.phi[:, :1], atol=1e-9
        )
    worst = disc.mesh.ranks.max(disc.violation(expected.phi).max(axis=0))
    assert_allclose(
        worst, 0, atol=1e-11 * (1 + np.abs(expected.phi).max())
    )  # no slab has room left


@pytest.mark.parametrize("name", SOME)
def test_the_flux_obeys_the_continuity_equation(name, ranks):
    disc = part(name)
    mesh = disc.mesh
    n = disc.mesh.n_inner
    rho0, rho1 = densities(disc, 5)
    rho = disc.average(noise(mesh, disc.n_steps, seed=6) ** 2)
    upper = upper_bound(disc, rho, Ends(disc.mesh, rho0, rho1), rtol=1e-2)
    path = np.concatenate([rho0[:, None], disc.spread(upper.rho), rho1[:, None]], axis=1)
    for node, tau in enumerate(node_weights(disc.n_steps)):
        flux = np.append(upper.flux[:, node], np.zeros(mesh.n_faces - n))
        change = np.diff(path)[:, node] + tau * mesh.divergence(flux)
        assert ranks.max(np.abs(mesh.volume * change).max()) < 1e-14
    assert_array_equal(
        find_face_exchange(disc.mesh)(upper.flux.T.copy()).T, upper.flux
    )  # the same from both sides
    assert (upper.rho >= 0).all()
    M = disc.mobility(node_mean(upper.rho))
    energy = (mesh.distance[:n, None] ** 2 * upper.flux**2 / M * node_weights(disc.n_steps))[
        mesh.face_owned[:n]
    ]
    assert upper.cost == pytest.approx(ranks.sum(energy.sum()), rel=1e-12)


@pytest.mark.parametrize("name", ["rectangle", "voronoi", "box"])
def test_the_flux_is_the_best_one(name):
    """No solve does better than a sharp one, and a rough one is not much dearer."""
    disc = part(name)
    rho0, rho1 = densities(disc, 8)
    rho = disc.average(noise(disc.mesh, disc.n_steps, seed=9) ** 2)
    rough, usual, sharp = (
        upper_bound(disc, rho, Ends(disc.mesh, rho0, rho1), rtol=rtol, epsilons=(1e-2,)).cost
        for rtol in (1e-1, 1e-5, 1e-12)
    )
    assert sharp <= usual * (1 + 1e-12)
    assert usual == pytest.approx(sharp, rel=1e-7)
    assert sharp <= rough < 2 * sharp


@pytest.mark.parametrize("name", SOME)
def test_bounds_do_not_depend_on_ranks(name, ranks):
    disc = part(name)
    alone = TwoPointDiscretisation(MESHES[name](comm=ranks.comm.Split(ranks.rank)), disc.n_steps)
    found = []
    for each in disc, alone:
        rho0, rho1 = densities(each, 3)
        phi = noise(each.mesh, 4, seed=1)
        rho = each.average(noise(each.mesh, 3, seed=2) ** 2)
        found.append(
            (
                lower_bound(each, phi, Ends(each.mesh, rho0, rho1)).cost,
                upper_bound(each, rho, Ends(each.mesh, rho0, rho1), rtol=1e-10).cost,
            )
        )
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def best_on_a_line(disc, rho0, rho1):
    """min over rho of the primal, by scipy: in one dimension rho alone fixes the flux. One rank
    only.
    """
    mesh, N, n = disc.mesh, disc.n_steps, disc.mesh.n_cells
    tau = node_weights(N)

    def cost(x):
        rho = x.reshape(n, N)
        loss = -mesh.volume[:, None] * np.diff(
            np.concatenate([rho0[:, None], rho, rho1[:, None]], axis=1)
        )
        flux = np.cumsum(loss, axis=0)[:-1] / tau
        rho = node_mean(rho)
        M = mesh.volume[0] / 2 * (rho[:-1] + rho[1:])
        return (mesh.volume[0] ** 2 * flux**2 / M * tau).sum()

    mass = scipy.optimize.LinearConstraint(np.kron(mesh.volume, np.eye(N)), 1, 1)
    start = np.full(n * N, 1 / mesh.volume.sum())
    best = scipy.optimize.minimize(
        cost,
        start,
        method="SLSQP",
        bounds=[(1e-9, None)] * n * N,
        constraints=mass,
        options=dict(ftol=1e-13, maxiter=1000),
    )
    assert best.success
    return best.fun, best.x.reshape(n, N)


def test_bounds_enclose_the_optimum_found_otherwise():
    disc = TwoPointDiscretisation(Mesh.interval(0, 2, 8, comm=MPI.COMM_SELF), 4)
    x = disc.mesh.center[0]
    rho0, rho1 = (disc.mesh.density(rho) for rho in (0.2 + (x < 0.8), 0.1 + x**2))
    cost, rho = best_on_a_line(disc, rho0, rho1)
    upper = upper_bound(disc, rho, Ends(disc.mesh, rho0, rho1), epsilons=(1e-9,))
    assert upper.cost == pytest.approx(cost, rel=1e-7)
    lower, upper = iterated(disc, rho0, rho1, 800)
    assert lower.cost <= cost * (1 + 1e-7)
    assert cost <= upper.cost * (1 + 1e-7)
    assert upper.cost - lower.cost < 1e-6 * cost


def iterated(disc, rho0, rho1, n_iterations, r=1.0, dtype=np.float64):
    """Both bounds after that many iterations, with a dense matrix for the equation of phi. One rank
    only.
    """
    N, n = disc.n_steps, disc.mesh.n_cells
    theta = 1.0
    unit = np.eye(n * (N + 1)).reshape(-1, n, N + 1)
    matrix = np.array([adjoint(disc, *disc.apply(phi), theta).ravel() for phi in unit])
    inverse = np.linalg.pinv(matrix, 1e-12, True)
    state = TwoPointState(disc, theta, dtype)
    ends = Ends(disc.mesh, rho0, rho1)
    source = disc.source(ends)
    kappa = 100 ** (1 / n_iterations)
    rhs = state.right_hand_side()
    for _ in range(n_iterations):
        phi = (inverse @ (rhs + source / r).ravel()).reshape(n, N + 1)
        rhs = state.sweep(phi.astype(dtype), 1.8, kappa)
        r = r * kappa
    return lower_bound(disc, phi, ends), upper_bound(disc, r * state.l, ends)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mesh.rectangle((0, 0), (1, 1), (5, 4), comm=MPI.COMM_SELF),
        lambda: Mesh.rectangle((0, 0), (1, 1), (6, 4), periodic=True, comm=MPI.COMM_SELF),
        lambda: Mesh.voronoi((0, 0), (1, 1), 40, comm=MPI.COMM_SELF),
        lambda: Mesh.triangles((0, 0), (1, 1), 3, comm=MPI.COMM_SELF),
        lambda: Mesh.box((0, 0, 0), (1, 1, 1), (3, 3, 3), comm=MPI.COMM_SELF),
    ],
    ids=["rectangle", "torus", "voronoi", "triangles", "box"],
)
def test_bounds_meet(make):
    """The iteration closes the gap between two bounds that know nothing of each other: both, and
    the sweep, are right.
    """
    disc = TwoPointDiscretisation(make(), 4)
    x = disc.mesh.center
    rho0, rho1 = (
        disc.mesh.density(rho) for rho in (1 + 0.5 * np.cos(3 * x[0]), 1 + 0.5 * np.sin(3 * x[-1]))
    )
    lower, upper = iterated(disc, rho0, rho1, 300)
    assert lower.cost <= upper.cost
    assert upper.cost - lower.cost < 1e-4 * upper.cost


def test_pieces_of_the_mesh_move_on_their_own():
    """Two islands: each has its own mass and its own shift."""
    line = np.linspace(0, 1, 9)
    points = np.concatenate([line, line + 3])[None]
    cells = np.concatenate([np.arange(8), 9 + np.arange(8)])
    mesh = Mesh.from_cells(
        points, [("line", np.stack([cells, cells + 1], axis=1))], comm=MPI.COMM_SELF
    )
    disc = TwoPointDiscretisation(mesh, 4)
    assert disc.n_components == 2
    x = mesh.center[0]
    west = x < 2
    rho0 = np.where(west, 1 + 0.3 * np.cos(np.pi * x), 2.0)
    rho1 = np.where(west, 1 - 0.3 * np.cos(np.pi * x), 2.0)
    lower, upper = iterated(disc, rho0, rho1, 300)
    alone = TwoPointDiscretisation(Mesh.interval(0, 1, 8, comm=MPI.COMM_SELF), 4)
    lower_alone, upper_alone = iterated(alone, rho0[west], rho1[west], 300)
    assert lower.cost == pytest.approx(lower_alone.cost, rel=1e-3)
    assert upper.cost == pytest.approx(upper_alone.cost, rel=1e-3)
    assert lower.cost <= upper.cost


@pytest.mark.parametrize(
    "make",
    [
        partial(Mesh.interval, 0, 1, 1),
        partial(Mesh.interval, 0, 1, 2),
        partial(Mesh.interval, 0, 1, 3, periodic=True),
        partial(Mesh.rectangle, 0, 1, (1, 2)),
        partial(Mesh.rectangle, 0, 1, (3, 1), periodic=(True, False)),
    ],
)
@pytest.mark.parametrize("n_steps", [1, 2])
def test_the_smallest_meshes(make, n_steps):
    disc = TwoPointDiscretisation(make(comm=MPI.COMM_SELF), n_steps)
    n = disc.mesh.n_cells
    rho0, rho1 = np.full(n, 1.0), 1 + np.linspace(-0.5, 0.5, n) * (n > 1)
    phi = np.random.default_rng(0).standard_normal((n, n_steps + 1))
    rho = np.zeros((n, n_steps))
    ends = Ends(disc.mesh, rho0, rho1)
    lower, upper = lower_bound(disc, phi, ends), upper_bound(disc, rho, ends)
    assert lower.cost <= upper.cost < 1
    assert (upper.cost > 0) == (n > 1)
    assert upper.residual < 1e-15


@pytest.mark.parametrize("name", SOME)
def test_a_density_of_any_mass_will_do(name):
    """Slabs without mass, with too much of it, or in single precision."""
    disc = part(name)
    rho0, rho1 = densities(disc, 4)
    rho = disc.average(noise(disc.mesh, disc.n_steps, seed=2) ** 2)
    ends = Ends(disc.mesh, rho0, rho1)
    expected = upper_bound(disc, rho, ends)
    assert upper_bound(disc, rho * [1e-30, 1, 1e30], ends).cost == pytest.approx(
        expected.cost, rel=1e-9
    )
    single = upper_bound(disc, rho.astype(np.float32), ends)
    assert single.cost == pytest.approx(expected.cost, rel=1e-4)
    assert single.residual < 1e-14
    empty = upper_bound(disc, rho * [0, 1, -1], ends)
    assert empty.residual < 1e-14
    assert np.isfinite(empty.cost)


@given(st.integers(2, 30), st.integers(0, 10000))
def test_a_tree_sends_everything_to_its_root(n, seed):
    rng = np.random.default_rng(seed)
    left, right = np.sort(rng.integers(0, n, (2, 3 * n)), axis=0)
    left, right = left[left < right], right[left < right]
    mobility = rng.random(len(left))
    missing = rng.standard_normal(n)
    flux = spanning_trees._solve_on_trees(left, right, mobility[None], missing[None].copy())[0]
    residual = missing - np.bincount(left, flux, n) + np.bincount(right, flux, n)
    count, piece = connected_components(
        scipy.sparse.coo_matrix((np.ones(len(left)), (left, right)), (n, n))
    )
    assert (np.abs(residual) > 1e-12).sum() <= count
    assert_allclose(np.bincount(piece, residual), np.bincount(piece, missing), atol=1e-12)
    pair, number = np.unique(left * n + right, return_inverse=True)
    widest = np.zeros(len(pair))
    np.maximum.at(widest, number, mobility)
    tree = minimum_spanning_tree(scipy.sparse.coo_matrix((2 - widest, np.divmod(pair, n)), (n, n)))
    assert mobility[flux != 0].sum() == pytest.approx(2 * tree.nnz - tree.sum(), abs=1e-9)


# ---- the linear half -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["interval", "circle", "rectangle", "torus", "channel", "box", "periodic box"]
)
def test_cosine_solves(name):
    """Also where a rank has no modes: two on three ranks."""
    for n_steps in 1, N:
        mesh = MESHES[name]()
        disc = TwoPointDiscretisation(mesh, n_steps)
        theta = 1.3
        f = noise(mesh, n_steps + 1)
        f -= mesh.ranks.sum(f.sum()) / (mesh.n_cells_global * (n_steps + 1))
        phi = CosinePoisson(disc, theta)(f)
        scale = mesh.ranks.max(np.abs(f).max(initial=0))
        assert_allclose(adjoint(disc, *disc.apply(phi), theta), f, rtol=0, atol=1e-12 * scale)


def test_a_pencil_is_the_space_operator(mesh, disc):
    shift = np.linspace(0, 3, N + 1) ** 2
    phi = noise(mesh, N + 1)
    expected = space_operator(disc, phi, shift)
    found = np.empty_like(phi)
    TwoPointPencil(disc, np.ones(disc.n_patches), shift, np.float64).multiply(phi, found)
    assert_allclose(found, expected, rtol=0, atol=1e-14 * mesh.ranks.max(np.abs(expected).max()))


def test_multigrid_solves(mesh, disc):
    """After enough steps phi is right but for a constant in each piece, and one step from there on
    keeps it right.
    """
    theta = 1.3
    phi = noise(mesh, N + 1)
    phi -= mesh.integrate(phi.T).mean() / mesh.integrate(1.0)
    solve = MultigridPoisson(disc, theta)
    for k in range(10):
        f = adjoint(disc, *disc.apply((1 + 0.1 * k) * phi), theta)
        found = solve(f)
    for _ in range(30):
        found = solve(f)
    image = adjoint(disc, *disc.apply(found), theta)
    assert_allclose(image, f, rtol=0, atol=1e-9 * mesh.ranks.max(np.abs(f).max()))


@pytest.mark.parametrize(
    "name, factor",
    [
        ("rectangle", 0.25),
        ("torus", 0.5),
        ("box", 0.3),
        ("triangles", 0.25),
        ("voronoi", 0.4),
        ("tetrahedra", 0.6),
        ("two_rooms", 0.4),
        ("harbour", 0.4),
        ("ball", 0.5),
        ("honeycomb", 0.5),
    ],
)
def test_a_multigrid_step_does_much_for_every_mode(name, factor):
    """The norm of the error, in the norm of the equation, falls by that factor in a step, in all
    modes of time alike.
    """
    mesh = MESHES[name]()
    solve = MultigridPoisson(TwoPointDiscretisation(mesh, 16), 1.0)
    # Of the equation with the solution 0.
    solve.unknowns[:] = solve.deal.collect(noise(mesh, 17))
    zero = np.zeros_like(solve.unknowns)
    image = np.empty_like(solve.unknowns)
    energy = []
    for _ in range(5):
        solve.pencil.multiply(solve.unknowns, image)
        energy.append((solve.unknowns * image).sum(axis=0))
        solve.pencil.residual(solve.unknowns, zero, solve.residual)
        solve.improve(1)
    assert ((energy[-1] / energy[1]) ** (1 / 6)).max() < factor


# ---- the best flux ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_columns", [1, 7])
def test_laplacians_of_many_weights(mesh, n_columns):
    """Weights of any size, over sixteen orders of magnitude, on ranks without columns, too."""
    n = mesh.n_inner
    left, right = mesh.left[:n], mesh.right[:n]
    x = (mesh.center - mesh.bounds[0][:, None]) / np.ptp(mesh.bounds, axis=0)[:, None]
    density = np.exp(-36 * ((x - 0.3) ** 2).sum(axis=0))[:, None] ** np.linspace(0, 1, n_columns)
    density = mesh.with_ghosts(density.T).T * 10.0 ** np.linspace(-200, 200, n_columns)
    conductance = (mesh.area[:n] / mesh.distance[:n])[:, None]
    weight = conductance * (density[left] + density[right]) / 2

    def leave(u):
        local = mesh.with_ghosts(u.T).T
        flux = weight * (local[left] - local[right])
        out = np.zeros_like(local)
        np.add.at(out, left, flux)
        np.subtract.at(out, right, flux)
        return out[: mesh.n_cells], flux

    psi = noise(mesh, n_columns)
    f, flux = leave(psi)
    found, has_converged = DealtFluxMultigrid(mesh)(weight, f, 1e-8)
    assert has_converged
    _, error = leave(found - psi)
    own = mesh.face_owned[:n]
    size = np.abs(flux).max(axis=0, initial=0) + np.finfo(float).tiny
    size = mesh.ranks.max(size)
    parts = [((u / size)[own] ** 2 / (weight / size)[own]).sum(axis=0) for u in (error, flux)]
    energy_of_error, energy = mesh.ranks.sum(np.stack(parts))
    assert (energy_of_error <= 1e-14 * energy).all()


# ---- coarser levels ------------------------------------------------------------------------------


def test_coarser_levels(kind, mesh, twin):
    """They keep mass, interpolate linear functions, are isotropic, and are the same on any number
    of ranks.
    """
    mine, alone = (build_levels(TwoPointDiscretisation(m, 9)) for m in (mesh, twin))
    assert [level.disc.n_steps for level in mine] == [9, 5, 5, 5, 5, 5, 5][: len(mine)]
    for fine, coarse, other, beyond in zip(mine, mine[1:], alone, alone[1:]):
        a, b = fine.disc.mesh, coarse.disc.mesh
        assert b.n_cells_global < 0.7 * a.n_cells_global
        u = noise(a, 2)
        assert_allclose(
            b.integrate((fine.restrict @ u).T), a.integrate(u.T), atol=1e-13 * a.integrate(1.0)
        )
        assert_allclose(fine.prolong @ np.ones((b.n_cells, 1)), 1, atol=1e-13)
        assert_allclose(
            gathered(a, fine.prolong @ noise(b, 2)),
            gathered(other.disc.mesh, other.prolong @ noise(beyond.disc.mesh, 2)),
            atol=1e-10,
        )
        assert b.ranks.sum(
            float((coarse.disc.isotropy_defect() * coarse.disc.volume).sum())
        ) < 0.15 * b.integrate(1.0)
        if a.block is None and b.n_cells_global > 4 * a.dim:
            wrong = np.abs(fine.prolong @ b.center.T - a.centroid.T).max(axis=1) > 1e-12
            assert (
                a.ranks.sum(int(wrong.sum())) < 0.02 * a.n_cells_global
            )  # agglomerates with one neighbour
    assert mine[-1].disc.mesh.n_cells_global < 16**mesh.dim


def test_restriction_and_prolongation_of_paths(mesh):
    """Constants in space and time stay; densities stay positive."""
    fine = build_levels(TwoPointDiscretisation(mesh, 8))
    if len(fine) == 1:
        return
    fine, coarse = fine[:2]
    b = coarse.disc
    phi = np.broadcast_to(np.linspace(0, 1, b.n_steps + 1), (b.mesh.n_cells, b.n_steps + 1))
    assert_allclose(
        fine.finer_phi(phi), np.broadcast_to(np.linspace(0, 1, 9), (mesh.n_cells, 9)), atol=1e-13
    )
    assert_allclose(fine.finer_rho(np.ones((b.mesh.n_cells, b.n_steps))), 1, atol=1e-12)
    assert fine.finer_rho(np.maximum(noise(b.mesh, b.n_steps), 0)).min(initial=0) >= 0
