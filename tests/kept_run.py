"""A run with a checkpoint, for `test_killed.py`, which kills it. Not collected."""

import os
import resource
from pathlib import Path

import numpy as np

import fvot


def main(folder="", solver="continuity", every=0.02, most=0, ends=1.0):
    """most: bytes that a file may have once the first checkpoint is there, 0 for any number; ends:
    final time.
    """
    folder = Path(folder)
    mesh = fvot.Mesh.triangles((0, 0), (1, 1), 32)
    (folder / f"pid{mesh.ranks.rank}").write_text(str(os.getpid()))
    path = folder / "run.h5"
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    rho0 = mesh.density(lambda x: np.hypot(*(x - [[0.3], [0.5]])) < 0.2)
    checkpoint = fvot.Checkpoint(path, every=every)
    t = np.linspace(0, ends, 1 + int(round(4 * ends)))
    if solver == "continuity":

        def turning(x, t):
            return (3 + t) * np.stack([0.5 - x[1], x[0] - 0.5]) * (np.hypot(*(x - 0.5)) < 0.5)

        boundary = {name: fvot.outflow for name in mesh.boundary}
        rho = (
            fvot.ContinuityEquation(mesh, turning, boundary=boundary)
            .solve(rho0, t, checkpoint=checkpoint)
            .rho
        )
    elif solver == "fokker_planck":
        equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0] ** 2)
        rho = equation.solve(rho0, t, tau=0.005, checkpoint=checkpoint).rho
    elif solver == "jko":
        energy = fvot.Entropy(0.1) + fvot.Potential(lambda x: x[0] ** 2)
        rho = fvot.JKO(mesh, energy).solve(rho0, t, tau=0.005, checkpoint=checkpoint).rho
    else:
        rho1 = mesh.density(lambda x: np.hypot(*(x - [[0.6], [0.4]])) < 0.25)
        path = fvot.BenamouBrenier(mesh, n_steps=16, tol=2e-3).solve(
            rho0, rho1, checkpoint=checkpoint
        )
        rho = np.array([path.cost, path.lower_bound])[:, None] * np.ones(mesh.n_cells)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    whole = mesh.gather(rho)
    if mesh.ranks.is_root:
        np.save(folder / "rho.npy", whole)


if __name__ == "__main__":
    fvot.run(main)
