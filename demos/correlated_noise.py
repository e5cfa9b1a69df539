"""Correlated noise: the Ornstein-Uhlenbeck process with a tensor D, on a mesh that is not
orthogonal, against its exact Gaussian and against particles.

    python demos/correlated_noise.py
    mpirun -n 2 python demos/correlated_noise.py --levels 2 --ratio 1000

dX = A X dt + sqrt(2) D^(1/2) dW on the unit disc, cut into quadrilaterals as Gmsh's recombination
makes them: a drift that rotates, and D = R diag(1, 1/ratio) R^T, noise that is much stronger along
one direction than across it. A Gaussian remains a Gaussian. Its mean is e^(At) m, and its
covariance S obeys dS/dt = A S + S A^T + 2 D (Lyapunov). D is constant, so Ito's noise, as the
particles have it, is the same as kinetic noise. Writes the series for ParaView, a picture and a
movie with some particles on top.
"""

from pathlib import Path

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

import fvot
from fvot import particles

A = np.array([[-1.0, -2.0], [2.0, -1.0]])
START = np.array([0.45, 0.0])
WIDTH = 0.1
SHOWN = 120  # particles in the pictures


def diffusion(strength, ratio, angle=np.pi / 6):
    """D (2, 2) = strength R diag(1, 1/ratio) R^T, R a turn by the angle."""
    R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return strength * R @ np.diag([1, 1 / ratio]) @ R.T


def moments(t, D):
    """Mean (2,) and covariance (2, 2) of the Gaussian at time t."""
    flow = expm(A * t)
    last = solve_continuous_lyapunov(A, -2 * D)
    return flow @ START, flow @ (WIDTH**2 * np.eye(2) - last) @ flow.T + last


def gaussian(t, D):
    """Its density, a function of x."""
    mean, S = moments(t, D)
    inverse = np.linalg.inv(S)

    def density(x):
        off = x - mean[:, None]
        square = (off * (inverse @ off)).sum(axis=0)
        return np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(S)))

    return density


def main(
    levels=3,
    ratio=10.0,
    strength=0.05,
    end=1.5,
    n_times=16,
    count=20_000,
    seed=1,
    pictures=True,
    out="out/correlated_noise",
):
    """Follow a Gaussian by its density and by particles, and print their errors.

    levels: of the mesh, each with four times the cells; ratio: of the diffusion along and across;
    strength: the diffusion along; end: the last time; n_times: recorded times; count: particles;
    seed: of the random numbers; out: folder for what is written.
    """
    if levels < 1 or ratio < 1 or n_times < 6:
        raise fvot.InputError(
            f"this takes levels >= 1, ratio >= 1 and n_times >= 6, not {levels}, {ratio}, {n_times}"
        )
    D = diffusion(strength, ratio)
    t = np.linspace(0, end, n_times)
    shown = [n_times // 5, 2 * n_times // 5, n_times - 1]
    titles = "".join(f"{f't = {t[i]:.2g}':>10}" for i in shown)
    fvot.say(f"{'cells':>8}{titles}    mass error   smallest density     (errors in L1)")

    mesh = fvot.example_mesh("disc_quads")
    found = {}
    for level in range(levels):
        if level:
            mesh = mesh.refine()
        equation = fvot.FokkerPlanck(mesh, diffusion=D, drift=lambda x: A @ x)
        result = equation.solve(mesh.average(gaussian(0.0, D), degree=6), t)
        errors = [
            mesh.integrate(abs(result.rho[i] - mesh.average(gaussian(t[i], D), degree=6)))
            for i in shown
        ]
        found |= {f"error_{level}_{i}": error for i, error in enumerate(errors)}
        row = "".join(f"{error:10.2e}" for error in errors)
        ledger = result.ledger
        fvot.say(
            f"{mesh.n_cells_global:8}{row}{abs(ledger['mass_error']).max():14.1e}"
            f"{ledger['minimum'].min():19.1e}"
        )

    random = np.random.default_rng(seed)
    x0 = START[:, None] + WIDTH * random.standard_normal((2, count))
    x = particles.langevin(x0, lambda x: A @ x, D, t, seed, order=2)
    by_density, by_particles = compare(mesh, result, x, D)

    folder = Path(out).expanduser()
    result.write(folder / "correlated_noise.pvd")
    if pictures:
        brightest = mesh.ranks.max(result.rho[shown[0]].max())
        options = dict(dots=x[:, :, :SHOWN], clim=(0, brightest), cmap="YlOrRd")
        result.plot(folder / "correlated_noise.png", time=shown, **options)
        result.movie(folder / "correlated_noise.gif", **options)
    fvot.say(f"ParaView opens {folder / 'correlated_noise.pvd'}")
    return found | dict(by_density=by_density, by_particles=by_particles)


def compare(mesh, result, x, D):
    """Print the covariance at the end, exact, by the density and by the particles; the entry of x
    and y of the last two.
    """
    rho = result.rho[-1]
    by_density = np.empty((2, 2))
    for i, j in (0, 0), (0, 1), (1, 0), (1, 1):
        means = [mesh.integrate(mesh.average(lambda x, k=k: x[k]) * rho) for k in (i, j)]
        square = mesh.integrate(mesh.average(lambda x, i=i, j=j: x[i] * x[j]) * rho)
        by_density[i, j] = square - means[0] * means[1]

    by_particles = np.cov(x[-1])
    _, S = moments(result.t[-1], D)
    fvot.say(f"\n{'covariance':12}{'exact':>10}{'density':>10}{'particles':>11}")
    for name, i, j in ("x x", 0, 0), ("x y", 0, 1), ("y y", 1, 1):
        fvot.say(f"{name:12}{S[i, j]:10.5f}{by_density[i, j]:10.5f}{by_particles[i, j]:11.5f}")
    return by_density[0, 1], float(by_particles[0, 1])


if __name__ == "__main__":
    fvot.run(main)
