"""Which noise a diffusion D(x) is: kinetic in `FokkerPlanck`, Ito's in `particles.langevin`."""

import numpy as np
import pytest

import fvot
from fvot import FokkerPlanck, Mesh

pytestmark = pytest.mark.ranks


def D(x):
    return 1 + 0.8 * np.sin(2 * np.pi * x[0])


def gradient(x):
    """Of D, (dim, n)."""
    return np.stack([1.6 * np.pi * np.cos(2 * np.pi * x[0]), *(0 * x[1:])])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mesh.interval(0, 1, 200),
        lambda: Mesh.rectangle((0, 0), (1, 0.1), (100, 4)),
        lambda: Mesh.triangles((0, 0), (1, 0.2), 60),
    ],
)
def test_kinetic_noise_makes_all_places_alike_and_itos_does_not(make):
    """The stationary densities are 1 and 1 / D: fluxes D rho' and (D rho)' vanish."""
    mesh = make()
    kinetic = FokkerPlanck(mesh, diffusion=D).stationary()
    assert np.abs(kinetic * mesh.integrate(1.0) - 1).max() < 1e-11
    ito = FokkerPlanck(mesh, diffusion=D, drift=lambda x: -gradient(x)).stationary()
    exact = mesh.density(lambda x: 1 / D(x))
    assert mesh.integrate(np.abs(ito - exact)) < 2e-3


def test_particles_obey_ito():
    """Without drift, between walls: int phi (1 / D) / int 1 / D, phi = x in [0, 1/2), by 8000
    paths.
    """
    mesh = Mesh.interval(0, 1, 400)
    start = (np.arange(8000)[None] + 0.5) / 8000
    end = fvot.particles.langevin(start, [0.0], D, t=1.0, seed=2, tau=1e-3, walls=([0], [1]))[-1]
    share = mesh.integrate(mesh.density(lambda x: 1 / D(x)) * (mesh.center[0] < 0.5))
    assert abs((end[0] < 0.5).mean() - share) < 0.03  # five standard deviations, and 0.005 of tau
    assert share < 0.3
