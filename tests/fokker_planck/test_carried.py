"""Drift by a stream function or by fluxes through faces: a uniform density stays uniform, and the
results are those of the velocity.
"""

import numpy as np
import pytest
from brought_meshes import BROUGHT
from comparisons import assert_same_solution
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal

from fvot import (
    Checkpoint,
    ContinuityEquation,
    FokkerPlanck,
    InputError,
    Mesh,
    dirichlet,
    inflow,
    muscl,
    outflow,
    potential_flow,
    upwind,
)

pytestmark = pytest.mark.ranks


def stir(x, t):
    """A stream function that is 0 on the walls of the unit square, and changes in time."""
    return np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]) * (1 + np.sin(3 * t))


def velocity(x, t):
    """v = (d psi/dy, -d psi/dx) of `stir`."""
    a, b = np.pi * x[0], np.pi * x[1]
    strength = np.pi * (1 + np.sin(3 * t))
    return strength * np.stack([np.sin(a) * np.cos(b), -np.cos(a) * np.sin(b)])


@pytest.mark.parametrize("scheme", ["two_point", "corners"])
@pytest.mark.parametrize("tau", [0.1, 1e4])
def test_clean_water_stays_clean_in_a_computed_flow(scheme, tau):
    """rho = 1 enters and leaves a harbour, at any step."""
    mesh = MESHES["harbour"]()
    flow = potential_flow(mesh, {"inlet": 1.0, "outlet": -1.0})
    equation = FokkerPlanck(
        mesh,
        diffusion=0.01,
        face_flux=flow,
        boundary={"inlet": inflow(1.0), "outlet": outflow},
        scheme=scheme,
    )
    result = equation.solve(np.ones(mesh.n_cells), 3 * tau, tau=tau)
    assert_allclose(result.rho, 1, rtol=0, atol=2e-14)
    assert abs(result.ledger["mass_error"]).max() < 1e-15
    assert_allclose(result.ledger["outflow"], result.ledger["inflow"], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["squares", "triangles", "moved", "hanging"])
def test_a_uniform_density_stays_uniform_in_a_stirred_square(name):
    """Where walls are closed and the stream function is 0 on them, and it changes in time."""
    makers = {
        "squares": lambda: Mesh.rectangle((0, 0), (1, 1), (12, 12)),
        "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 10),
        "moved": BROUGHT["noise"],
        "hanging": BROUGHT["hanging"],
    }
    mesh = makers[name]()
    result = FokkerPlanck(mesh, diffusion=0.01, stream=stir).solve(np.ones(mesh.n_cells), 0.5)
    assert_allclose(result.rho, 1, rtol=0, atol=1e-13)


def test_a_vector_potential_keeps_a_uniform_density():
    mesh = Mesh.box((0, 0, 0), (1, 1, 1), (5, 5, 5))

    def A(x):
        bump = np.prod(np.sin(np.pi * x) ** 2, axis=0)
        return np.stack([bump, -bump, 2 * bump])

    result = FokkerPlanck(mesh, diffusion=0.01, stream=A).solve(np.ones(mesh.n_cells), 0.5)
    assert_allclose(result.rho, 1, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scheme", ["two_point", "corners"])
def test_stream_and_velocity_carry_to_the_same_place(scheme):
    """They differ by the error of the quadrature on faces. (Measured: order 3.6 to 3.7.)"""
    differences = []
    for n in (8, 16):
        mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
        rho0 = mesh.density(lambda x: 1 + np.cos(np.pi * x[0]))
        ends = [
            FokkerPlanck(mesh, diffusion=0.1, scheme=scheme, **source).solve(rho0, 0.5, tau=0.1)
            for source in (dict(stream=stir), dict(drift=velocity))
        ]
        differences.append(mesh.integrate(np.abs(ends[0].rho[-1] - ends[1].rho[-1])))
    assert differences[1] < 1e-6
    assert differences[1] < differences[0] / 10


def test_fluxes_of_a_stream_function_are_a_stream_function():
    """To the bit on one rank."""
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    psi = stir(mesh.points, 0.0)
    fluxes = psi[mesh.vertices[1]] - psi[mesh.vertices[0]]
    rho0 = mesh.density(lambda x: x[0] < 0.5)
    by_fluxes = FokkerPlanck(mesh, diffusion=0.1, face_flux=fluxes)
    by_stream = FokkerPlanck(mesh, diffusion=0.1, stream=lambda x: stir(x, 0.0))
    rho = by_fluxes.solve(rho0, 0.3, tau=0.1).rho
    assert_same_solution(mesh.ranks, rho, by_stream.solve(rho0, 0.3, tau=0.1).rho)


def test_what_cannot_be_a_flow_is_refused():
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    wall = dict(mesh=mesh, diffusion=1.0)
    with pytest.raises(InputError, match=r"give exactly one, not drift and stream"):
        FokkerPlanck(**wall, drift=(1.0, 0.0), stream=stir)
    with pytest.raises(InputError, match=r"face_flux has shape \(3,\)"):
        FokkerPlanck(**wall, face_flux=[1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="must be finite"):
        FokkerPlanck(**wall, face_flux=np.full(mesh.n_faces, np.nan))
    with pytest.raises(InputError, match="stream= needs a mesh in 2D or 3D"):
        FokkerPlanck(Mesh.interval(0, 1, 4), diffusion=1.0, stream=stir)
    with pytest.raises(InputError, match="drift must be"):
        FokkerPlanck(**wall, drift="east")


def test_a_flow_over_a_given_density():
    """d/dx of exp(U x / D): the stationary profile between two given densities, of order 2."""
    errors = []
    for n in (20, 40):
        mesh = Mesh.interval(0, 1, n)
        equation = FokkerPlanck(
            mesh,
            diffusion=0.5,
            face_flux=np.where(mesh.normal[0] > 0, 1.0, -1.0),
            boundary={"left": dirichlet(1.0), "right": dirichlet(0.0)},
        )
        x = mesh.center[0]
        exact = (np.exp(2.0) - np.exp(2 * x)) / (np.exp(2.0) - 1)
        errors.append(mesh.ranks.max(np.abs(equation.stationary() - exact).max()))
    assert errors[1] < 1e-10


def test_a_kept_run_knows_its_flow(shared_folder):
    mesh = Mesh.rectangle((0, 0), (1, 1), (6, 6))
    rho0 = mesh.density(lambda x: x[0] < 0.5)
    file = shared_folder / "run.h5"
    FokkerPlanck(mesh, diffusion=0.1, stream=stir).solve(
        rho0, 0.2, tau=0.1, checkpoint=Checkpoint(file)
    )
    other = FokkerPlanck(mesh, diffusion=0.1, stream=lambda x, t: -stir(x, t))
    with pytest.raises(InputError):
        other.solve(rho0, 0.2, tau=0.1, checkpoint=Checkpoint(file))


def test_the_ledger_knows_what_crosses_each_part():
    """By name, beside the sums, and also in adaptive runs and on corners."""
    mesh = Mesh.rectangle((0, 0), (2, 1), (16, 8))
    for scheme in ("two_point", "corners"):
        equation = FokkerPlanck(
            mesh,
            diffusion=0.05,
            drift=(1.0, 0.0),
            boundary={
                "left": inflow(1.0),
                "right": outflow,
                "top": dirichlet(0.0),
                "bottom": dirichlet(0.5),
            },
            scheme=scheme,
        )
        ledger = equation.solve(0 * mesh.volume, [0, 0.5, 2]).ledger
        names = ("left", "right", "top", "bottom")
        for way in ("inflow", "outflow"):
            total = sum(ledger[f"{way}:{name}"] for name in names)
            assert_allclose(total, ledger[way], rtol=1e-13)
        assert ledger["inflow:left"][-1] == pytest.approx(2.0, rel=1e-12)  # the flux is given
        assert_array_equal(ledger["inflow:right"], 0)
        assert_array_equal(ledger["inflow:top"], 0)
        assert (ledger["outflow:top"][1:] > 0).all() and (ledger["inflow:bottom"][1:] > 0).all()


@pytest.mark.parametrize("flux", [upwind, muscl()])
def test_a_flow_knows_what_crosses_each_part(flux, shared_folder):
    """Also where it goes on from a checkpoint; and the flux through each part, by name."""
    mesh = MESHES["harbour"]()
    rate = 2.0
    flow = potential_flow(mesh, {"inlet": rate, "outlet": -rate})
    equation = ContinuityEquation(
        mesh,
        face_flux=flow,
        flux=flux,
        boundary={"inlet": inflow(3.0), "outlet": outflow},
    )
    file = shared_folder / "run.h5"
    t = np.linspace(0, 0.2, 3)
    start = np.ones(mesh.n_cells)
    equation.solve(start, t[:2], checkpoint=Checkpoint(file))
    result = equation.solve(start, t, checkpoint=Checkpoint(file))
    ledger = result.ledger
    assert_allclose(ledger["inflow:inlet"], ledger["inflow"])
    assert_allclose(ledger["outflow:outlet"], ledger["outflow"])
    assert_allclose(ledger["inflow"], 3 * rate * t, rtol=1e-12)
    assert_allclose(result.flux_through("inlet"), -3 * rate, rtol=1e-12)
    assert_allclose(result.flux_through("outlet"), rate, rtol=1e-3)  # clean water leaves first
    with pytest.raises(InputError, match="open parts: inlet, outlet"):
        result.flux_through("mole")
