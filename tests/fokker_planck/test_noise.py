"""Which noise a diffusion D(x) is, unless another one is given: kinetic in `FokkerPlanck`, Ito's in
`particles.langevin`. With the same noise they agree.
"""

from functools import cache

import numpy as np
import pytest
from brought_meshes import quads, swirl

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
    """The stationary densities are 1, 1 / D and 1 / sqrt(D): fluxes D rho', (D rho)' and
    sqrt(D) (sqrt(D) rho)' vanish.
    """
    mesh = make()
    kinetic = FokkerPlanck(mesh, diffusion=D).stationary()
    assert np.abs(kinetic * mesh.integrate(1.0) - 1).max() < 1e-11
    ito = FokkerPlanck(mesh, diffusion=D, drift=lambda x: -gradient(x)).stationary()
    exact = mesh.density(lambda x: 1 / D(x))
    assert mesh.integrate(np.abs(ito - exact)) < 2e-3
    same = FokkerPlanck(mesh, diffusion=D, noise="ito").stationary()
    assert mesh.integrate(np.abs(same - exact)) < 2e-3
    stratonovich = FokkerPlanck(mesh, diffusion=D, noise="stratonovich").stationary()
    exact = mesh.density(lambda x: 1 / np.sqrt(D(x)))
    assert mesh.integrate(np.abs(stratonovich - exact)) < 2e-3


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


# ---- the density of many particles ---------------------------------------------------------------

NOISES = ("ito", "stratonovich", "kinetic")
N_PARTICLES = 20_000
END = 0.5


def number(x):
    return 0.1 + 0.09 * np.sin(2 * np.pi * x[0]) * np.cos(np.pi * x[-1] / 4)


def diagonal(x):
    return 0.1 + 0.09 * np.stack([np.sin(2 * np.pi * x[0]), np.cos(np.pi * x[1])])


def tensor(x):
    """0.21 along a direction that turns, 0.01 across."""
    angle = np.pi * x[0] * (0.2 + x[1])
    along = np.stack([np.cos(angle), np.sin(angle)])
    return 0.2 * along * along[:, None] + 0.01 * np.eye(2)[:, :, None]


def drift(x):
    return np.stack([0.1 + 0 * x[0], *(0 * x[1:] - 0.1)])


def moment_functions(x):
    """Polynomials and waves (7, n) whose means tell densities apart."""
    y = x[-1]
    waves = [np.cos(2 * np.pi * x[0]), np.cos(2 * np.pi * y)]
    return np.stack([x[0], y, x[0] ** 2, x[0] * y, y**2, *waves])


CASES = {
    "interval": (lambda n: Mesh.interval(0, 1, 8 * n), number),
    "square": (lambda n: Mesh.rectangle((0, 0), (1, 1), (n, n)), number),
    "diagonal": (lambda n: Mesh.rectangle((0, 0), (1, 1), (n, n)), diagonal),
    "tensor": (lambda n: Mesh.from_cells(*quads(n, swirl(0.08))), tensor),
}


@cache
def moments_on_mesh(case, noise, n):
    """(7,), from the uniform density on a mesh with n cells along each axis."""
    make, diffusion = CASES[case]
    mesh = make(n)
    equation = FokkerPlanck(mesh, diffusion=diffusion, drift=drift, noise=noise)
    rho = equation.solve(np.ones(mesh.n_cells), END).rho[-1]
    moments = []
    for k in range(7):
        f = mesh.average(lambda x, k=k: moment_functions(x)[k])
        moments.append(mesh.integrate(rho * f))
    return np.array(moments)


def moments_of_particles(case, noise, tau):
    """(7,) and their standard deviations, from points that fill the box evenly."""
    _, diffusion = CASES[case]
    dim = 1 if case == "interval" else 2
    n = round(N_PARTICLES ** (1 / dim))
    along_axis = (np.arange(n) + 0.5) / n
    start = np.stack(np.meshgrid(*[along_axis] * dim)).reshape(dim, -1)
    walls = (np.zeros(dim), np.ones(dim))
    x = fvot.particles.langevin(
        start, drift, diffusion, END, seed=1, noise=noise, tau=tau, walls=walls
    )[-1]
    values = moment_functions(x)
    return values.mean(axis=1), values.std(axis=1) / np.sqrt(values.shape[1])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("case", CASES)
def test_particles_and_densities_agree_for_the_same_noise_alone(case, noise):
    """Means and second moments, to four standard deviations, and the differences that twice as
    large cells and steps make: more than the errors that are left, which are 1/3 of the former and
    about the latter.
    """
    sampled, deviation = moments_of_particles(case, noise, 0.005)
    in_long_steps, _ = moments_of_particles(case, noise, 0.01)
    fine = moments_on_mesh(case, noise, 24)
    coarse = moments_on_mesh(case, noise, 12)
    bound = 4 * deviation + np.abs(fine - coarse) + np.abs(sampled - in_long_steps)
    assert (np.abs(sampled - fine) < bound).all()
    for other in NOISES:
        if other != noise:
            assert (np.abs(sampled - moments_on_mesh(case, other, 24)) > 1.5 * bound).any()
