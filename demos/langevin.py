"""Particles and their density: Langevin's equation beside the Fokker-Planck equation of the same
drift and noise.

    python demos/langevin.py
    mpirun -n 2 python demos/langevin.py --count 100000 --D 0.3

dX = b dt + sqrt(2 D) dW has the density of d rho/dt = div(D grad rho - rho b) (Kolmogorov 1931),
here for a drift b = -grad V, V = (x^2 - 1)^2 + y^2, that also turns. Both are run on their own; the
table compares means, in units of the noise that so many particles must have. Writes the series for
ParaView, a picture and a movie with some particles on top.
"""

from pathlib import Path

import numpy as np

import fvot
from fvot import particles

LOWER, UPPER = (-2.0, -2.0), (2.0, 2.0)
START = np.array([[-1.0], [0.3]])
SHOWN = 250  # particles in the pictures


def drift_of(spin):
    """b(x) (2, n) = -grad V + spin J grad V, V = (x^2 - 1)^2 + y^2."""

    def b(x):
        slope = np.stack([4 * x[0] * (x[0] ** 2 - 1), 2 * x[1]])
        return -slope + spin * np.stack([-slope[1], slope[0]])

    return b


def main(
    n=96,
    count=20_000,
    D=0.4,
    spin=0.5,
    end=2.0,
    n_times=21,
    seed=1,
    tau=0.005,
    pictures=True,
    out="out/langevin",
):
    """Start particles in the left well, and a density beside them.

    n: cells along a side; count: how many; D: noise; spin: how much the drift turns round the
    wells; end: the last time; n_times: recorded times; seed: of the random numbers; tau: step of
    the particles; out: folder for what is written.
    """
    if count < 100 or n_times < 3 or end <= 0:
        raise fvot.InputError(
            f"this takes count >= 100, n_times >= 3 and end > 0, not {count}, {n_times} and {end}"
        )
    mesh = fvot.Mesh.rectangle(LOWER, UPPER, (n, n))
    b = drift_of(spin)
    t = np.linspace(0, end, n_times)
    width = 0.15
    rho0 = mesh.density(lambda x: np.exp(-((x - START) ** 2).sum(axis=0) / (2 * width**2)))
    result = fvot.FokkerPlanck(mesh, diffusion=D, drift=b).solve(rho0, t)
    x0 = START + width * np.random.default_rng(seed).standard_normal((2, count))
    x = particles.langevin(x0, b, D, t, seed, tau=tau, order=2, walls=(LOWER, UPPER))

    worst = compare(mesh, result, x)
    folder = Path(out).expanduser()
    result.write(folder / "langevin.pvd")
    if pictures:
        shown = [0, n_times // 5, n_times - 1]
        brightest = mesh.ranks.max(result.rho[shown[1]].max())
        result.plot(
            folder / "langevin.png",
            time=shown,
            dots=x[:, :, :SHOWN],
            clim=(0, brightest),
            cmap="YlOrRd",
        )
        result.movie(
            folder / "langevin.gif", dots=x[:, :, :SHOWN], clim=(0, brightest), cmap="YlOrRd"
        )
    fvot.say(
        f"largest difference {worst:.1f} standard deviations of the noise\nParaView opens "
        f"{folder / 'langevin.pvd'}"
    )
    return dict(
        worst=worst,
        mean=float(x[-1, 0].mean()),
        density=mesh.integrate(result.rho[-1] * mesh.center[0]),
    )


def compare(mesh, result, x):
    """Print means of functions, by the density and by the particles; the largest difference, over
    the noise.
    """
    functions = {
        "x": lambda x: x[0],
        "y": lambda x: x[1],
        "x^2": lambda x: x[0] ** 2,
        "y^2": lambda x: x[1] ** 2,
        "x y": lambda x: x[0] * x[1],
        "right half": lambda x: (x[0] > 0) * 1.0,
        "upper half": lambda x: (x[1] > 0) * 1.0,
    }
    fvot.say(
        f"{'':12} {'density':>10} {'particles':>10} {'over noise':>11}     at t = {result.t[-1]:g}"
    )
    worst = 0.0
    for name, f in functions.items():
        values = f(x[-1])
        by_density = mesh.integrate(mesh.average(f, degree=6) * result.rho[-1])
        off = abs(values.mean() - by_density) / (values.std() / np.sqrt(len(values)))
        fvot.say(f"{name:12} {by_density:10.4f} {values.mean():10.4f} {off:11.2f}")
        worst = max(worst, off)
    return worst


if __name__ == "__main__":
    fvot.run(main)
