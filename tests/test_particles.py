"""Particles against exact flows and laws; the same paths on any number of ranks."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import ContinuityEquation, ConvergenceError, InputError, Mesh, particles

pytestmark = pytest.mark.ranks

FOLDER = Path(__file__).parent.parent / "meshes"
IS_ROOT = MPI.COMM_WORLD.rank == 0


def rotation(x):
    return np.stack([-x[1], x[0]])


def test_push_forward_along_a_rotation():
    x0 = np.random.default_rng(0).normal(size=(2, 50))
    x = particles.push_forward(x0, rotation, [0, np.pi / 2, np.pi])
    assert_allclose(x, [x0, rotation(x0), -x0], atol=1e-7)


def test_walls_stop_a_flow():
    """Both are held at 1 until the flow turns, then at 0, where it turns again."""
    x = particles.push_forward(
        [[0.25, 0.5]], lambda x, t: np.full_like(x, np.cos(t)), [0, 0.5, 1.5, 3, 5], walls=(0, 1)
    )
    assert_allclose(x[:3, 0, 0], [0.25, 0.25 + np.sin(0.5), 1], atol=1e-6)
    assert_allclose(x[:3, 0, 1], [0.5, 0.5 + np.sin(0.5), 1], atol=1e-6)
    assert_allclose(x[3, 0], np.sin(3), atol=1e-6)
    assert_allclose(x[4, 0], 1 + np.sin(5), atol=1e-6)


def test_the_walls_of_a_mesh():
    """Round a hole with the velocity of a result; what flows into a wall slides along it."""
    mesh = Mesh.read(FOLDER / "annulus.msh")
    turning = ContinuityEquation(mesh, velocity=rotation).solve(
        mesh.density(lambda x: x[0] > 0), 1.0
    )
    x0 = np.array([[0.5, 0.9, 0.405, 0.995], np.zeros(4)])
    x = particles.push_forward(x0, turning.velocity_at, 1.0, walls=mesh)[-1]
    assert_allclose(x, x0[0] * np.array([[np.cos(1)], [np.sin(1)]]), atol=5e-3)
    down = particles.push_forward(
        [[0.0, 0.1], [0.7, 0.7]], lambda x: 0 * x + [[0.0], [-1.0]], [0, 0.2, 2.0], walls=mesh
    )
    assert_allclose(down[1], [[0.0, 0.1], [0.5, 0.5]], atol=1e-12)
    # round the hole by angle' = sin(angle) / 0.4, and down
    met = 0.7 - np.sqrt(0.15)
    angle = np.arcsin(0.25)
    left = met - 0.4 * np.log(np.tan(angle / 2))
    assert_allclose(down[2, :, 1], [0.4, left - 2.0], atol=0.02)  # the hole is a polygon
    assert (mesh.locate(down[2]) >= -1).all()


@pytest.mark.parametrize("divergence", [None, lambda x, t: np.cos(t) * np.cos(x).sum(axis=0)])
def test_density_along_a_flow(divergence):
    """dx/dt = sin(x) cos(t): tan(x/2) grows by e^sin(t), in each direction; rho = rho0 / det J."""
    x0 = np.random.default_rng(1).uniform(0.3, 2.8, (2, 40))
    x, rho = particles.density_along_flow(
        x0,
        lambda x: 1 + x[0],
        lambda x, t: np.sin(x) * np.cos(t),
        [0, 0.5, 2],
        divergence=divergence,
    )
    for n, t in enumerate((0, 0.5, 2)):
        factor = np.exp(np.sin(t))
        exact = 2 * np.arctan(factor * np.tan(x0 / 2))
        jacobian = (factor / (np.cos(x0 / 2) ** 2 + factor**2 * np.sin(x0 / 2) ** 2)).prod(axis=0)
        assert_allclose(x[n], exact, rtol=1e-6)
        assert_allclose(rho[n], (1 + x0[0]) / jacobian, rtol=1e-6)


@pytest.mark.parametrize(
    "x0", [np.linspace(0.1, 3, 5), np.array([0.1, 1, 2, 1000])], ids=["near", "one far away"]
)
@pytest.mark.parametrize("shift", [0, 2000 * np.pi])
def test_differences_find_their_steps(x0, shift):
    """dx/dt = sin x, which has the same size of its own wherever the points are."""
    exact = (np.cos(x0 / 2) ** 2 + np.e**2 * np.sin(x0 / 2) ** 2) / np.e
    rho = particles.density_along_flow(x0[None] + shift, 1, np.sin, 1.0)[1][-1]
    assert_allclose(rho, exact, rtol=1e-7)


def test_density_beside_walls():
    """dx/dt = 1 - x away from both walls: the density grows by e everywhere."""
    rho = particles.density_along_flow(
        [[0.3, 1.998, 2.0, 0.0]], 1, lambda x: 1 - x, 1, walls=(0, 2)
    )[1][-1]
    assert_allclose(rho, np.e, rtol=1e-9)


@pytest.mark.parametrize(
    "radius, asked", [(0.7, 0), (0.99, 1), (0.405, 1)], ids=["far away", "outer", "inner"]
)
def test_density_inside_a_mesh(radius, asked, monkeypatch):
    """dx/dt = x / 100 + turning: the density falls by e^(-t / 50). The mesh is asked for stencils
    beside its walls alone, and the velocity once for all of them.
    """
    mesh = Mesh.read(FOLDER / "annulus.msh")
    times = []
    sizes = []
    nearest = mesh.nearest
    monkeypatch.setitem(vars(mesh), "nearest", lambda x: sizes.append(x.shape[1]) or nearest(x))

    def v(x, t):
        times.append(t)
        return rotation(x) + x / 100

    angle = np.linspace(0, 6, 7)
    rho = particles.density_along_flow(
        radius * np.stack([np.cos(angle), np.sin(angle)]), 1, v, 0.2, walls=mesh
    )[1][-1]
    assert_allclose(rho, np.exp(-0.2 / 50), rtol=1e-6)
    assert bool(max(sizes) > 7) == bool(asked)
    assert len(times) < 200


def test_walls_that_are_far_away():
    x0 = np.zeros((1, 50))
    free, *walled = (
        particles.langevin(x0, [0.0], 0.1, 1, seed=1, tau=0.02, walls=walls)[-1]
        for walls in (None, (-np.inf, np.inf), (-1e15, 1e15))
    )
    assert all((x == free).all() for x in walled)
    assert particles.langevin(x0, [0.0], 0.1, 1, seed=1, tau=0.02, walls=(-np.inf, 0)).max() <= 0


def test_what_never_ends_is_given_up(monkeypatch):
    with pytest.raises(ConvergenceError, match=r"stops at t = (1|0.99)"):
        particles.push_forward([[1.0]], lambda x: x**2, 2.0)
    monkeypatch.setattr(particles, "MAX_VELOCITY_CALLS", 2000)
    with pytest.raises(ConvergenceError, match="jump"):
        particles.push_forward([[0.2, 0.9]], lambda x: -np.sign(x - 0.5), 1.0)


@pytest.mark.long
@pytest.mark.parametrize("order", [1, 2])
def test_the_weak_order_of_langevin(order):
    """Ornstein-Uhlenbeck from 1: mean e^-1, variance (1 - e^-2) D at t = 1; the error of the mean
    falls as tau^order.
    """
    n, D, errors = 20_000, 0.01, []
    for tau in 0.25, 0.125:
        x = particles.langevin(np.ones((1, n)), lambda x: -x, D, 1.0, seed=3, tau=tau, order=order)[
            -1, 0
        ]
        errors.append(abs(x.mean() - np.exp(-1)))
        assert abs(x.var() - (1 - np.exp(-2)) * D) < 0.8 * tau**order * D + 4 * D * (2 / n) ** 0.5
    assert errors[1] < errors[0] / (1.7 if order == 1 else 3.0) + 3 * (D / n) ** 0.5


def test_the_same_paths_on_any_number_of_ranks(ranks):
    x0 = np.random.default_rng(2).uniform(0, 1, (2, 3 * particles.PARTICLES_PER_STREAM // 2))
    paths = [
        particles.langevin(
            x0, [1.0, 0.0], 0.1, [0, 0.05, 0.1], seed=5, tau=0.01, walls=(0, 1), comm=comm
        )
        for comm in (ranks.comm, ranks.comm.Split(ranks.rank))
    ]
    assert (paths[0] == paths[1]).all()
    assert paths[0].min() >= 0 and paths[0].max() <= 1
    other = particles.langevin(x0, [1.0, 0.0], 0.1, [0, 0.05, 0.1], seed=6, tau=0.01, walls=(0, 1))
    assert (other[0] == paths[0][0]).all() and (other[1] != paths[0][1]).all()


def test_reflected_brownian_motion_becomes_uniform():
    x = particles.langevin(
        np.full((1, 8000), 0.1), [0.0], 1.0, 2.0, seed=1, tau=0.01, walls=(0, 1)
    )[-1, 0]
    assert abs(x.mean() - 0.5) < 4 / np.sqrt(12 * 8000) and abs(x.var() - 1 / 12) < 0.005


def test_noise_that_varies():
    """dX = sqrt(2 D(x)) dW with D = x^2 / 2 is a martingale, and E log X = log X0 - t / 2."""
    x = particles.langevin(
        np.ones((1, 8000)), [0.0], lambda x: x[0] ** 2 / 2, 0.5, seed=1, tau=0.005
    )[-1, 0]
    assert abs(x.mean() - 1) < 4 * np.sqrt((np.exp(0.5) - 1) / 8000)
    assert abs(np.log(x).mean() + 0.25) < 4 * np.sqrt(0.5 / 8000) + 0.003


@pytest.mark.parametrize(
    ("noise", "rate"), [("ito", 0.0), ("stratonovich", 0.25), ("kinetic", 0.5)]
)
@pytest.mark.parametrize("form", [lambda D: D, lambda D: D[None, None]])
def test_geometric_brownian_motion(noise, rate, form):
    """D = s^2 x^2 / 2: Ito's drift is 0, s^2 x / 2 and s^2 x, and the mean e^(rate t). That of
    Euler's steps is (1 + rate h)^n.
    """
    n, t, tau = 8000, 0.5, 0.005
    x = particles.langevin(
        np.ones((1, n)), [0.0], lambda x: form(0.25 * x[0] ** 2), t, seed=1, noise=noise, tau=tau
    )[-1, 0]
    mean = (1 + rate * tau) ** round(t / tau)
    variance = np.exp(2 * rate * t) * (np.exp(0.5 * t) - 1)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / n)
    other_rates = {0.0, 0.25, 0.5} - {rate}
    assert all(abs(x.mean() - np.exp(k * t)) > 8 * np.sqrt(variance / n) for k in other_rates)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "D",
    [
        np.array([3.0, 0.0]),
        np.array([[2.0, 1.8], [1.8, 2.0]]),
        np.array([[1.0, 2.0], [2.0, 4.0]]),
        np.array([[1.0, 0.5, 0.2], [0.5, 2.0, 0.1], [0.2, 0.1, 0.3]]),
    ],
)
def test_constant_diagonals_and_tensors(D, order):
    """The covariance is 2 D t, to five standard deviations; the noise does not matter."""
    n, t = 20_000, 0.3
    dim = len(D)
    paths = [
        particles.langevin(
            np.zeros((dim, n)), np.ones(dim), D, t, seed=4, noise=noise, tau=0.1, order=order
        )[-1]
        for noise in ("ito", "stratonovich", "kinetic")
    ]
    assert (paths[0] == paths[1]).all() and (paths[0] == paths[2]).all()
    full = D if D.ndim == 2 else np.diag(D)
    variance = np.diag(full)
    deviation = 2 * t * np.sqrt((np.outer(variance, variance) + full**2) / n)
    assert (np.abs(np.cov(paths[0]) - 2 * full * t) <= 5 * deviation + 1e-25).all()
    values, vectors = np.linalg.eigh(full)
    if values[0] < 1e-12:  # nothing moves across, but for the drift
        across = vectors[:, 0]
        assert_allclose(across @ paths[0], across.sum() * t, atol=1e-7)


def test_walls_reflect_along_the_conormal():
    """Between two walls, y - (D_xy / D_xx) x is a free Brownian motion, independent of x: its slope
    along D n is 0. Mirrors would move its mean by -0.9 (mean of x - 0.1) = -0.36.
    """
    n, t = 8000, 1.0
    D = np.array([[1.0, 0.9], [0.9, 1.0]])
    start = np.array([[0.1], [0.0]]) * np.ones(n)
    walls = ([0.0, -np.inf], [1.0, np.inf])
    for diffusion in D, lambda x: D:
        x, y = particles.langevin(start, [0.0, 0.0], diffusion, t, seed=1, tau=0.01, walls=walls)[
            -1
        ]
        free = y - 0.9 * x
        variance = 2 * t * (1 - 0.81)
        assert abs(free.mean() + 0.09) < 4 * np.sqrt(variance / n)
        assert abs(free.var() - variance) < 4 * variance * np.sqrt(2 / n)
        assert abs(np.corrcoef(free, x)[0, 1]) < 4 / np.sqrt(n)
        assert x.min() >= 0 and x.max() <= 1 and abs(x.mean() - 0.5) < 4 / np.sqrt(12 * n)


@pytest.mark.parametrize("noise", ["ito", "stratonovich", "kinetic"])
def test_a_diffusion_is_not_asked_behind_walls_nor_before_the_start(noise):
    def D(x, t):
        assert ((x >= 0) & (x <= 1)).all() and 3 < t < 4
        return np.array([[x[0], 0 * x[0]], [0 * x[0], 1 - x[1]]]) / t

    x0 = np.random.default_rng(1).uniform(0, 1, (2, 200))
    x0[:, :4] = [[0, 1, 0, 1], [0, 0, 1, 1]]
    x = particles.langevin(x0, [1, 1], D, [3, 3.5], seed=1, noise=noise, tau=0.02, walls=(0, 1))[-1]
    assert x.min() >= 0 and x.max() <= 1


def test_noise_far_from_the_origin():
    """Slopes of a diffusion that varies over 30 are the same a million away."""
    far = 2.0**22

    def walk(origin):
        def D(x):
            return 1e3 * (1 + 0.9 * np.sin((x[0] - origin) / 30))

        x0 = np.linspace(0, 1000, 100)[None] + origin
        return particles.langevin(x0, [0.0], D, 1.0, seed=1, noise="kinetic", tau=0.02) - origin

    assert_allclose(walk(far), walk(0.0), atol=1e-3)


def test_the_same_paths_of_a_tensor_on_any_number_of_ranks(ranks):
    def D(x):
        return np.array([[2 + x[0], x[1]], [x[1], 2 + 0 * x[0]]])

    x0 = np.random.default_rng(2).uniform(0, 1, (2, 3 * particles.PARTICLES_PER_STREAM // 2))
    paths = [
        particles.langevin(
            x0, [1, 0], D, 0.1, seed=5, noise="kinetic", tau=0.02, walls=(0, 1), comm=comm
        )
        for comm in (ranks.comm, ranks.comm.Split(ranks.rank))
    ]
    assert (paths[0] == paths[1]).all()


def test_different_input_on_ranks_is_seen(ranks):
    if ranks.size == 1:
        return
    for call, words in [
        (lambda: particles.langevin(np.zeros((1, 5 + ranks.rank)), [0.0], 1, 1.0, 0), "x0"),
        (lambda: particles.langevin(np.zeros((1, 5)) + ranks.rank, [0.0], 1, 1.0, 0), "x0"),
        (lambda: particles.langevin([[np.nan if ranks.rank else 0]], [0.0], 1, 1.0, 0), "finite"),
        (lambda: particles.langevin([[0.0]], [0.0], 1 + ranks.rank, 1.0, 0), "diffusion"),
        (lambda: particles.langevin([[0.0]], [0.0], 1, 1.0, 0, order=1 + ranks.is_root), "order"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_bad_input():
    x0 = np.zeros((2, 3))
    for call, words in [
        (lambda: particles.push_forward(x0, lambda x: x[0], 1.0), "velocity"),
        (lambda: particles.push_forward("x", rotation, 1.0), "x0"),
        (lambda: particles.push_forward(x0, rotation, -1.0), "t must"),
        (lambda: particles.push_forward(x0, rotation, 1.0, walls=(1, 2)), "walls"),
        (lambda: particles.push_forward(x0, rotation, 1.0, walls=3), "walls"),
        (lambda: particles.push_forward(x0, rotation, 1.0, walls=Mesh.interval(0, 1, 9)), "1D"),
        (lambda: particles.push_forward(x0, rotation, 1.0, rtol="small"), "rtol"),
        (lambda: particles.push_forward(x0 + np.nan, rotation, 1.0), "point 0"),
        (lambda: particles.push_forward(x0 + 1j, rotation, 1.0), "numbers"),
        (lambda: particles.density_along_flow(x0, [1, 2], rotation, 1.0), "rho0"),
        (lambda: particles.density_along_flow(x0, -1, rotation, 1.0), "rho0"),
        (lambda: particles.langevin(x0, rotation, -1, 1.0, 0), "diffusion"),
        (lambda: particles.langevin(x0, rotation, lambda x: x[0] - 1, 1.0, 0), "diffusion"),
        (lambda: particles.langevin(x0, rotation, lambda x: 1 + x[0], 1.0, 0, order=2), "order=2"),
        (lambda: particles.langevin(x0, rotation, [1, -2], 1.0, 0), "at least 0, but is -2$"),
        (lambda: particles.langevin(x0, rotation, [[1, 2], [2, 1]], 1.0, 0), "eigenvalue -1$"),
        (lambda: particles.langevin(x0, rotation, [[1, 2], [0, 4]], 1.0, 0), "not symmetric"),
        (
            lambda: particles.langevin(
                x0 + [[0, 0, 3]], rotation, lambda x: [[1 + 0 * x[0], x[0]], [x[0], 2 + x[1]]], 1, 0
            ),
            r"eigenvalue -0.6056 at x = \[3. 3.\]",
        ),
        (
            lambda: particles.langevin(
                x0, rotation, np.eye(2), 1.0, 0, order=2, walls=([-1, -1], [1, 1])
            ),
            "order=2",
        ),
        (lambda: particles.langevin(x0, rotation, [1, 2, 3], 1.0, 0), "diffusion"),
        (lambda: particles.langevin(x0, rotation, 1, 1.0, 0, noise="Ito"), "noise"),
        (lambda: particles.langevin(x0, rotation, 1, 1.0, 0.5), "seed"),
        (lambda: particles.langevin(x0, rotation, 1, 1.0, 0, tau=0), "tau"),
        (lambda: particles.langevin(x0, rotation, 1, 1.0, 0, order=3), "order"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("what", ["drift", "diffusion"])
def test_noise_between_two_times_that_are_near(what):
    """A pulse that lasts 1/100 of a short time between two times, which is one step of a thousandth
    of the whole time.
    """
    x0 = np.zeros((1, 4000))
    t = [0, 1e-3, 1]
    begin = 4.37e-4
    width = 1e-5

    def pulse(t):
        return (1 / width) * ((t >= begin) & (t < begin + width))

    drift = (lambda x, t: np.full_like(x, pulse(t))) if what == "drift" else [0.0]
    diffusion = (lambda x, t: np.full(x.shape[1], pulse(t))) if what == "diffusion" else 1e-6
    x = particles.langevin(x0, drift, diffusion, t, seed=2)
    found, expected = (x[1].mean(), 1) if what == "drift" else (x[1].var(), 2)
    assert_allclose(found, expected, rtol=0.15)


def test_noise_with_many_times():
    """Intervals share looks at the drift, of which a pulse between two of the times takes more."""
    calls = 0

    def drift(x, t):
        nonlocal calls
        calls += 1
        return np.full_like(x, 2000.0 * (0.4371 <= t < 0.4376))

    x0 = np.zeros((1, 5))
    t = np.linspace(0, 1, 501)
    x = particles.langevin(x0, drift, 1e-6, t, seed=1)
    assert_allclose(x[-1].mean(), 1, rtol=0.15)
    assert calls < 20 * len(t)


def test_long_steps_of_noise_are_said():
    x0 = np.zeros((1, 5))

    def pulse(x, t):
        return np.full_like(x, 100.0 * (0.4 < t < 0.41))

    with (
        pytest.warns(UserWarning, match="within steps of 0.25 between t = 0 and 1")
        if IS_ROOT
        else nullcontext()
    ):
        particles.langevin(x0, pulse, 1.0, 1, seed=1, tau=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        particles.langevin(x0, pulse, 1.0, [0, 0.4, 0.41, 1], seed=1, tau=0.25)
        particles.langevin(x0, lambda x, t: x * t, 1.0, 1, seed=1, tau=0.25)
        particles.langevin(x0, pulse, 1.0, 1, seed=1)
