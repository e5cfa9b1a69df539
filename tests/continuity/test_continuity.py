"""The continuity equation: what must hold on every mesh, with every flux, on any number of
ranks.
"""

import numpy as np
import pytest
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

import fvot
from fvot import ContinuityEquation, ConvergenceError, InputError, Mesh, muscl, upwind
from fvot.finite_volume import face_flux

pytestmark = pytest.mark.ranks


LARGE = {"harbour", "ball"}
FLUXES = pytest.mark.parametrize(
    "flux", [upwind, muscl(), muscl(0.5)], ids=["upwind", "muscl", "sharp"]
)


def blobs(x):
    """A density with vacuum, jumps and slopes."""
    wave = np.prod(np.sin(3 * x + 1), axis=0)
    return np.maximum(wave, 0) + (np.abs(x[0] - 0.3) < 0.2)


def gale(x, t):
    """A velocity that converges, diverges, crosses walls and changes with time."""
    return np.stack([np.cos(2 * x[0] + i + 3 * t) + 0.3 for i in range(len(x))])


def through(mesh):
    """Inflow on the first half of the boundary's names, outflow on the others."""
    names = sorted(mesh.boundary)
    return {
        name: fvot.inflow(lambda x, t: 1 + t + 0 * x[0]) if i < len(names) / 2 else fvot.outflow
        for i, name in enumerate(names)
    }


def eddies(mesh):
    """A rough divergence-free flow on any mesh: the same at both ends of a periodic face, 0 on the
    boundary.
    """
    U = mesh.area * np.sin(mesh.normal.sum(axis=0) + 7 * mesh.face_center.sum(axis=0))
    U[mesh.n_inner :] = 0
    return face_flux.conserve(mesh, U, np.zeros(mesh.n_cells))


# ---- what theory promises ------------------------------------------------------------------------


@FLUXES
def test_mass_changes_by_what_crosses_the_boundary_and_nothing_is_negative(mesh, flux):
    equation = ContinuityEquation(mesh, gale, flux=flux, boundary=through(mesh))
    result = equation.solve(mesh.average(blobs), [0, 0.05, 0.2])
    assert np.abs(result.ledger["mass_error"]).max() <= 1e-14
    assert mesh.ranks.min(result.rho.min()) >= 0
    assert result.ledger["inflow"][-1] > 0 or not mesh.boundary


@FLUXES
def test_a_divergence_free_flow_keeps_the_bounds_of_the_data(mesh, flux):
    rho0 = 0.5 + mesh.average(blobs)
    result = ContinuityEquation(mesh, face_flux=eddies(mesh), flux=flux).solve(rho0, 0.3)
    low, high = result.ledger["minimum"], result.ledger["maximum"]
    assert low.min() >= low[0] * (1 - 1e-13) and high.max() <= high[0] * (1 + 1e-13)
    assert np.abs(result.ledger["mass_error"]).max() <= 1e-14


@FLUXES
def test_constants_stay_in_a_divergence_free_flow(mesh, flux):
    result = ContinuityEquation(mesh, face_flux=eddies(mesh), flux=flux).solve(
        np.full(mesh.n_cells, 3.0), 0.3
    )
    assert_allclose(result.rho[-1], 3.0, rtol=1e-12)


@FLUXES
def test_the_same_numbers_on_any_number_of_ranks(mesh, twin, flux):
    results = [
        ContinuityEquation(m, gale, flux=flux, boundary=through(m)).solve(
            m.average(blobs), [0, 0.05, 0.1]
        )
        for m in (mesh, twin)
    ]
    # the limiter amplifies round-off
    assert_allclose(mesh.gather(results[0].rho), twin.gather(results[1].rho), rtol=0, atol=1e-12)
    assert_array_equal(results[0].ledger["steps"], results[1].ledger["steps"])


@FLUXES
@pytest.mark.parametrize("name", ["triangles", "voronoi", "rectangle"])
def test_round_off_does_not_grow(name, flux):
    """Else the numbers would soon depend on the number of ranks: three hundred steps of data that
    differ in the last digit.
    """
    mesh = {
        "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 40),
        "voronoi": lambda: Mesh.voronoi((0, 0), (1, 1), 900),
        "rectangle": lambda: Mesh.rectangle((0, 0), (1, 1), (40, 40)),
    }[name]()
    equation = ContinuityEquation(
        mesh,
        stream=lambda x: -np.pi * ((x - 0.5) ** 2).sum(axis=0),
        flux=flux,
        boundary={side: fvot.outflow for side in mesh.boundary},
    )
    for rho0 in mesh.average(blobs), 2 + np.sin(9 * mesh.center[0]) * np.cos(7 * mesh.center[1]):
        noise = np.where(np.sin(1000 * mesh.center[0]) > 0, 1e-15, -1e-15)
        near, far = (equation.solve(rho, 0.3).rho[-1] for rho in (rho0, rho0 * (1 + noise)))
        assert_allclose(near, far, rtol=0, atol=1e-11)


@FLUXES
def test_twice_the_density_moves_as_the_density_does(mesh, flux):
    equation = ContinuityEquation(mesh, face_flux=eddies(mesh), flux=flux)
    rho0 = mesh.average(blobs)
    assert_array_equal(equation.step(2 * rho0, 0.1), 2 * equation.step(rho0, 0.1))


def test_upwind_has_an_exact_dual(mesh):
    equation = ContinuityEquation(
        mesh, gale, flux=upwind, boundary={name: fvot.outflow for name in mesh.boundary}
    )
    t = [0, 0.07, 0.2]
    rho0 = mesh.average(blobs)
    phi1 = np.cos(mesh.center.sum(axis=0))
    rho1 = equation.solve(rho0, t).rho[-1]
    phi0 = equation.adjoint(phi1, t)
    scale = mesh.integrate(rho0)
    assert abs(mesh.integrate(rho1 * phi1) - mesh.integrate(rho0 * phi0)) <= 1e-14 * scale


def test_the_dual_needs_a_linear_flux(mesh):
    with pytest.raises(InputError, match="flux=fvot.upwind"):
        ContinuityEquation(mesh, face_flux=eddies(mesh)).adjoint(np.ones(mesh.n_cells), 1.0)


# ---- velocities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectangle", "triangles", "voronoi", "tiling"])
def test_velocity_stream_function_and_face_fluxes_are_the_same_thing(name):
    mesh = MESHES[name]()
    boundary = {name: fvot.outflow for name in mesh.boundary}
    by_velocity = ContinuityEquation(mesh, (0.3, -0.8), flux=upwind, boundary=boundary)
    by_stream = ContinuityEquation(
        mesh, stream=lambda x: 0.3 * x[1] + 0.8 * x[0], flux=upwind, boundary=boundary
    )
    by_flux = ContinuityEquation(
        mesh, face_flux=by_velocity.face_flux(), flux=upwind, boundary=boundary
    )
    rho0 = mesh.average(blobs)
    expected = by_velocity.step(rho0, 0.1)
    assert_allclose(by_stream.step(rho0, 0.1), expected, atol=1e-13)
    assert_array_equal(by_flux.step(rho0, 0.1), expected)


def test_stream_functions_and_vector_potentials_give_divergence_free_fluxes(mesh, kind):
    if mesh.dim == 1:
        pytest.skip("there is no stream function in 1D")
    period = 2 * np.pi * (np.array([[1.0], [0.5]]) if kind == "torus" else np.ones((mesh.dim, 1)))

    def potential(x):
        wave = np.sin(period * x + 1)
        return wave.prod(axis=0) if mesh.dim == 2 else wave[[1, 2, 0]] * wave[[2, 0, 1]]

    boundary = {name: fvot.outflow for name in mesh.boundary}
    U = ContinuityEquation(mesh, stream=potential, boundary=boundary).face_flux()
    assert mesh.ranks.max(np.abs(U).max()) > 1e-4
    assert np.abs(mesh.divergence(U) * mesh.volume).max() <= 1e-14


def test_the_curl_of_a_vector_potential_is_the_velocity():
    mesh = MESHES["tetrahedra"]()
    boundary = {name: fvot.outflow for name in mesh.boundary}
    by_potential = ContinuityEquation(
        mesh, stream=lambda x: np.stack([0 * x[0], 3 * x[0], x[1]]), boundary=boundary
    )
    by_velocity = ContinuityEquation(mesh, (1, 0, 3), boundary=boundary)
    assert_allclose(by_potential.face_flux(), by_velocity.face_flux(), atol=1e-14)


def test_the_velocity_of_a_result_is_exact_where_it_is_constant(mesh):
    v = np.array([0.4, -1.2, 0.7])[: mesh.dim]
    boundary = {name: fvot.outflow for name in mesh.boundary}
    result = ContinuityEquation(mesh, v, boundary=boundary).solve(np.ones(mesh.n_cells), 0.01)
    assert_allclose(result.velocity, np.broadcast_to(v[:, None], result.velocity.shape), atol=1e-12)


def test_a_velocity_that_crosses_a_wall_is_stopped_and_said():
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    if mesh.ranks.is_root:
        with pytest.warns(
            UserWarning, match=r"crosses the walls \(bottom, left, right, top\) by 2 volume"
        ):
            equation = ContinuityEquation(mesh, (1.0, 0.0))
    else:
        equation = ContinuityEquation(mesh, (1.0, 0.0))
    result = equation.solve(mesh.average(blobs), 0.2)
    assert result.ledger["outflow"][-1] == 0 and abs(result.ledger["mass_error"][-1]) <= 1e-14
    assert_array_equal(equation.face_flux()[mesh.n_inner :], 0)


def test_inflow_brings_its_density():
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    equation = ContinuityEquation(
        mesh, (0.0, 1.0), boundary={"bottom": fvot.inflow(lambda x: 1 + x[0]), "top": fvot.outflow}
    )
    ledger = equation.solve(np.zeros(mesh.n_cells), [0, 0.1, 2.5]).ledger
    assert_allclose(ledger["inflow"], [0, 0.15, 3.75], rtol=1e-13)
    assert ledger["mass"][-1] == pytest.approx(1.5, rel=0.01)


def test_nothing_enters_through_an_outflow():
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    boundary = {"left": fvot.outflow, "right": fvot.outflow}
    result = ContinuityEquation(mesh, (1.0, 0.0), boundary=boundary).solve(
        np.ones(mesh.n_cells), 3.0
    )
    assert result.ledger["inflow"][-1] == 0 and result.ledger["mass"][-1] < 1e-3


# ---- steps and times -----------------------------------------------------------------------------


def test_at_cfl_1_upwind_shifts_cells_exactly():
    mesh = Mesh.interval(0, 1, 32, periodic=True)
    rho0 = mesh.average(blobs)
    result = ContinuityEquation(mesh, [1.0], flux=upwind, cfl=1.0).solve(rho0, [0, 8 / 32, 1])
    assert_allclose(mesh.gather(result.rho[1]), np.roll(mesh.gather(rho0), 8), atol=1e-14)
    assert_allclose(result.rho[2], rho0, atol=1e-14)
    assert_array_equal(result.ledger["steps"], [0, 8, 32])


@FLUXES
def test_any_step_is_positive_in_substeps(mesh, flux):
    equation = ContinuityEquation(mesh, gale, flux=flux, boundary=through(mesh))
    rho = equation.step(mesh.average(blobs), 0.2)
    assert rho.min() >= 0 and np.isfinite(rho).all()


def test_one_step_is_a_short_solve(mesh):
    equation = ContinuityEquation(mesh, face_flux=eddies(mesh))
    rho0 = mesh.average(blobs)
    assert_array_equal(equation.step(rho0, 0.1), equation.solve(rho0, [0, 0.1]).rho[-1])


def test_output_times_are_hit_and_tau_is_a_bound():
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    equation = ContinuityEquation(mesh, face_flux=eddies(mesh))
    result = equation.solve(np.ones(mesh.n_cells), [1, 1.5, 1.75], tau=1e-2)
    assert_array_equal(result.t, [1, 1.5, 1.75])
    assert (
        result.ledger["steps"][1] >= 50
        and result.ledger["steps"][2] - result.ledger["steps"][1] >= 25
    )


def test_a_fluid_at_rest_takes_one_step():
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    result = ContinuityEquation(mesh, (0.0, 0.0)).solve(mesh.average(blobs), [0, 5])
    assert result.ledger["steps"][-1] == 1
    assert_array_equal(result.rho[1], result.rho[0])


def test_initial_densities_are_not_changed(mesh):
    rho0 = mesh.average(blobs)
    copy = rho0.copy()
    ContinuityEquation(mesh, face_flux=eddies(mesh)).solve(rho0, 0.1)
    assert_array_equal(rho0, copy)


def test_a_two_point_flux_of_ones_own_is_as_good():
    def mine(U, k):
        return np.where(U > 0, U, 0) + k, np.where(U < 0, -U, 0) + k

    mesh = MESHES["voronoi"]()
    rho0, U = mesh.average(blobs), eddies(mesh)
    results = [
        ContinuityEquation(mesh, face_flux=U, flux=flux).step(rho0, 0.1) for flux in (mine, upwind)
    ]
    assert_array_equal(*results)


# ---- bad input -----------------------------------------------------------------------------------


def central(U, k):
    return k + U / 2, k - U / 2


def test_outflow_may_be_called():
    assert fvot.outflow() is fvot.outflow


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(), "exactly one of velocity, stream and face_flux"),
        (dict(velocity=(1, 0), stream=lambda x: x[0]), "velocity and stream"),
        (dict(velocity=(1, 0, 0)), "2 finite numbers"),
        (dict(velocity="fast"), "'fast'"),
        (dict(velocity=(1j, 0)), "2 finite numbers"),
        (dict(velocity=lambda x: 1j * x), "complex numbers, for x of shape"),
        (dict(velocity=lambda x: [0 * x[0], 1.0]), "rows of different lengths"),
        (dict(velocity=lambda x, y: (y, x)), "take x = (x[0], x[1], ...) as one array"),
        (dict(velocity=lambda: 0), "takes 0 parameters"),
        (dict(velocity=lambda x: x[0]), "returned shape"),
        (dict(velocity=lambda x: x / 0), "must be finite"),
        (dict(face_flux=np.zeros(3)), "face_flux has shape (3,)"),
        (dict(velocity=(1, 0), cfl=1.5), "1.5"),
        (dict(velocity=(1, 0), cfl=0), "cfl"),
        (dict(velocity=(1, 0), cfl="a"), "'a'"),
        (dict(velocity=(1, 0), flux="upwind"), "'upwind'"),
        (dict(velocity=(1, 0), flux=central), "not negative"),
        (
            dict(velocity=(1, 0), boundary={"door": fvot.outflow}),
            "no part 'door'; the mesh has: bottom, left, right, top",
        ),
        (dict(velocity=(1, 0), boundary={"left": 1.0}), "'left'"),
        (dict(velocity=(1, 0), boundary=["left"]), "must be a dict"),
        (dict(velocity=(1, 0), boundary="left"), "the mesh has: bottom, left, right, top"),
        (dict(velocity=(1, 0), boundary={"left": fvot.inflow("much")}), "'much'"),
        (dict(velocity=(1, 0), boundary={"left": fvot.inflow(-1.0)}), "at least 0"),
    ],
)
def test_a_bad_problem_is_refused_with_the_remedy(arguments, words):
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    with np.errstate(all="ignore"), pytest.raises(InputError) as caught:
        ContinuityEquation(mesh, **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "rho0, t, tau, words",
    [
        (None, -1.0, None, "-1.0"),
        (None, [0, 1, 1], None, "increasing"),
        (None, [0, np.nan], None, "nan"),
        (None, 1.0, 0.0, "tau"),
        (None, 1.0, -2, "-2"),
        (None, 1.0, "short", "'short'"),
        (None, [], None, "[]"),
        (None, [1.0], None, "[1.0]"),
        (None, "late", None, "'late'"),
        (-1.0, 1.0, None, "at least 0"),
        (np.inf, 1.0, None, "finite"),
    ],
)
def test_a_bad_run_is_refused_with_the_remedy(rho0, t, tau, words):
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    density = np.full(mesh.n_cells, 1.0 if rho0 is None else rho0)
    with pytest.raises(InputError) as caught:
        ContinuityEquation(mesh, face_flux=eddies(mesh)).solve(density, t, tau=tau)
    assert words in str(caught.value)


def test_a_velocity_that_is_wrong_on_one_rank_raises_on_all(ranks):
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    bad = ranks.rank == ranks.size - 1
    with pytest.raises(InputError, match="returned shape"):
        ContinuityEquation(mesh, lambda x: x[0] if bad else x)
    with pytest.raises(InputError, match="returned shape"):
        ContinuityEquation(mesh, stream=lambda x: x if bad else x[0])


@pytest.mark.parametrize("power, strength", [(1, 1.0), (2, 0.03)])
@pytest.mark.parametrize("keep", [True, False])
def test_a_velocity_that_blows_up_ends_the_run(power, strength, keep, shared_folder):
    """On all ranks, with what has been reached; before its steps are so short that the time stands
    still.
    """
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    path = shared_folder / "x.pvd"
    equation = ContinuityEquation(
        mesh, stream=lambda x, t: strength * np.sin(np.pi * x).prod(axis=0) / (0.5 - t) ** power
    )
    with pytest.raises(
        ConvergenceError, match=r"steps of .* at t = 0\.(49|5).*to t = 100: the largest rate"
    ) as caught:
        equation.solve(mesh.average(blobs), [0, 0.1, 0.2, 100], write=fvot.Output(path, keep=keep))
    result = caught.value.result
    assert 0.49 < result.t[-1] < 0.5
    assert_array_equal(result.t[:-1], [0, 0.1, 0.2] if keep else [0])
    assert result.rho.shape == (len(result.t), mesh.n_cells) and result.ledger["steps"][-1] < 3000
    assert np.abs(result.ledger["mass_error"]).max() <= 1e-14 and result.rho.min() >= 0
    with pytest.raises(ConvergenceError, match="steps of"):
        equation.step(mesh.average(blobs), 100.0)


def test_a_short_pulse_is_no_blow_up():
    """Where it is named, its steps may be as short as they like in comparison with the time around
    it.
    """
    mesh = Mesh.interval(0, 1, 8, periodic=True)
    equation = ContinuityEquation(
        mesh, lambda x, t: 1 + 1e9 * np.exp(-(((t - 0.5) / 1e-8) ** 2)) + 0 * x
    )
    result = equation.solve(mesh.average(blobs), [0, 0.5 - 1e-7, 0.5 + 1e-7, 1])
    assert result.t[-1] == 1 and result.ledger["steps"][2] - result.ledger["steps"][1] > 50


def test_muscl_may_be_named_without_brackets():
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    assert ContinuityEquation(mesh, (0.0, 0.0), flux=muscl).flux == muscl()


@pytest.mark.parametrize("sharp", [1.5, -0.1, "much"])
def test_sharpness_lies_between_0_and_1(sharp):
    with pytest.raises(InputError, match=str(sharp)):
        muscl(sharp)


@pytest.mark.parametrize("phi", [np.ones(3), np.nan])
def test_the_dual_needs_a_value_for_each_cell(phi):
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    phi = np.full(mesh.n_cells, phi) if np.ndim(phi) == 0 else phi
    with pytest.raises(InputError, match="one value for each"):
        ContinuityEquation(mesh, (0.0, 0.0), flux=upwind).adjoint(phi, 1.0)


def test_the_communicator_is_the_mesh_s():
    mesh = Mesh.triangles((0, 0), (1, 1), 4, comm=MPI.COMM_SELF)
    result = ContinuityEquation(mesh, face_flux=eddies(mesh)).solve(np.ones(mesh.n_cells), 0.1)
    assert result.rho.shape == (2, mesh.n_cells_global)


def test_velocity_at_points():
    """Linear velocities are exact inside, at recorded times and between them."""
    mesh = Mesh.rectangle((-1, -1), (1, 1), (12, 12))
    equation = ContinuityEquation(
        mesh,
        velocity=lambda x, t: (1 + t) * np.stack([-x[1], x[0]]),
        boundary={name: fvot.outflow for name in mesh.boundary},
    )
    result = equation.solve(np.ones(mesh.n_cells), [0, 0.1, 0.2])
    points = np.array([[0.3, -0.22], [0.1, 0.4]])
    for t in 0.0, 0.05, 0.2:
        assert_allclose(
            result.velocity_at(points, t), (1 + t) * np.stack([-points[1], points[0]]), atol=1e-12
        )
    for where, t, words in (points, 0.3, "t must"), (10 * points, 0.1, "outside"):
        with pytest.raises(InputError, match=words):
            result.velocity_at(where, t)
