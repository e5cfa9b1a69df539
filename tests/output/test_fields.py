"""Fields that are written on request: currents, coefficients, fields of one's own; velocities of
results.
"""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal
from test_output import read

import fvot
from fvot import Mesh, Output

pytestmark = pytest.mark.ranks

V0 = 0.3


def bump(mesh):
    return mesh.density(lambda x: 1.2 + np.sin(3 * x[0]) * np.cos(x[-1]))


def drift_diffusion(mesh):
    return fvot.FokkerPlanck(
        mesh,
        diffusion=[[0.2, 0.05], [0.05, 0.1]],
        potential=lambda x, t: V0 * (1 + t) * x[0],
        drift=(0.0, 0.1),
        scheme="corners",
    )


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf"])
def test_all_fields_during_a_run_and_after_it(suffix, ranks, shared_folder):
    mesh = MESHES["quads"]()
    equation = drift_diffusion(mesh)
    own = {"depth": mesh.cell_id[: mesh.n_cells] * 1.0, "wave": lambda x, t: x + t}
    names = ["density", "current", "velocity", "potential", "diffusion", "drift"]
    t = [0.0, 0.1, 0.2]
    path = shared_folder / f"x{suffix}"
    later = shared_folder / f"y{suffix}"
    output = Output(path, fields=[*names, own])
    result = equation.solve(bump(mesh), t, tau=0.05, write=output)
    result.write(later, fields=[*names, own])

    current = mesh.gather(equation.current(result.rho[2], 0.2))
    x = mesh.gather(mesh.centroid)
    rho = mesh.gather(result.rho[2])
    velocity = mesh.gather(result.velocity[2])
    if ranks.is_root:
        found = read(path)
        assert_allclose(found["density"][2], rho)
        assert_allclose(found["current"][2, :, :2].T, current, atol=1e-8)
        assert_allclose(found["velocity"][2, :, :2].T * rho, current, atol=1e-8)
        assert_allclose(velocity * rho, current, atol=1e-8)
        assert_allclose(found["potential"][2], V0 * 1.2 * x[0])
        assert_allclose(found["drift"][1], [[0, 0.1, 0]] * mesh.n_cells_global)
        assert_allclose(found["diffusion"][1, 0], [0.2, 0.05, 0, 0.05, 0.1, 0, 0, 0, 0])
        assert_array_equal(found["depth"][1], np.arange(mesh.n_cells_global))
        assert_allclose(found["wave"][1, :, :2].T, x + 0.1)
        again = read(later)
        assert found.keys() == again.keys()
        for name in again:
            assert_allclose(again[name], found[name], atol=1e-8)


@pytest.mark.parametrize("kind", ["triangles", "quads", "interval"])
def test_gradient_flows_and_their_equation_have_the_same_velocity(kind, ranks):
    """Diffusion and drift, as a Fokker-Planck equation and as a gradient flow: on meshes with
    two-point fluxes, and with fluxes to corners.
    """
    mesh = MESHES[kind]()
    rho0 = bump(mesh)
    diffusion = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: V0 * x[0])
    flow = fvot.JKO(mesh, 0.1 * fvot.Entropy() + fvot.Potential(lambda x: V0 * x[0]))
    ours = flow.solve(rho0, 0.05)
    theirs = diffusion.solve(rho0, 0.05)
    for name in "velocity", "current":
        difference = mesh.gather(ours.fields[name][0] - theirs.fields[name][0])
        size = np.abs(mesh.gather(theirs.fields[name][0])).mean()
        assert np.abs(difference).mean() < 0.08 * size
    middle = mesh.bounds.mean(axis=0)[:, None]
    scale = np.abs(mesh.gather(theirs.velocity)).max()
    assert_allclose(
        ours.velocity_at(middle, 0.03), theirs.velocity_at(middle, 0.03), atol=scale / 9
    )


def test_energies_that_depend_on_the_place():
    """int (log rho + x_0) rho, as an energy of one's own, drives as the sum of its parts."""

    class Own(fvot.Energy):
        def value(self, rho, x):
            return rho * np.log(rho) + rho * x[0]

        def derivative(self, rho, x):
            return np.log(rho) + 1 + x[0]

        def curvature(self, rho, x):
            return 1 / rho

    mesh = Mesh.rectangle((0, 0), (1, 1), (24, 6))
    rho0 = bump(mesh)
    own = fvot.JKO(mesh, Own()).solve(rho0, 0.01, tau=0.01)
    sum_of_parts = fvot.Entropy() + fvot.Potential(lambda x: x[0])
    both = fvot.JKO(mesh, sum_of_parts).solve(rho0, 0.01, tau=0.01)
    inside = (mesh.center[0] > 0.1) & (mesh.center[0] < 0.9)
    assert_allclose(own.velocity[0][:, inside], both.velocity[0][:, inside], atol=0.02)


def test_pressure_stops_a_crowd():
    """At the wall that a full crowd leans on nothing moves; where it is thin it does."""
    mesh = Mesh.interval(0, 1, 40)
    rho0 = np.where(mesh.center[0] < 0.5, 1.0, 0.3)
    crowd = fvot.JKO(mesh, fvot.Potential(lambda x: x[0]), bounds=(0, 1))
    result = crowd.solve(rho0, 0.4, tau=0.02)
    x = mesh.gather(mesh.center)[0]
    velocity = mesh.gather(result.velocity[-1])[0]
    assert np.abs(velocity[x < 0.5]).max() < 0.25
    assert_allclose(velocity[(x > 0.65) & (x < 0.9)], -1, atol=1e-6)
    assert "potential" in result.fields and "pressure" in result.fields
