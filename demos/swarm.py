"""A swarm: clumps that attract each other at a distance, and repel each other when crowded, gather
around an obstacle.

    python demos/swarm.py
    mpirun -n 2 python demos/swarm.py --crowding 0.1 --end 8

The gradient flow of crowding int rho^2 + 1/2 int int W(x - y) rho rho, W = -e^(-|z|^2 / (2
reach^2)), in a ring: first each clump finds its own size, then neighbours meet, and much later all
are one (as in Carrillo, Chertock, Huang 2015, without the ring). Writes the series for ParaView, a
picture and a movie.
"""

from pathlib import Path

import numpy as np

import fvot

CLUMPS = (0.75, 0.15, -0.5, 0.55, -0.3, -0.7, 0.2, 0.78)  # x, y of each


def main(
    mesh=None,
    refine=1,
    crowding=0.05,
    reach=0.25,
    clumps=CLUMPS,
    width=0.12,
    end=4.0,
    n_times=41,
    tol=1e-2,
    pictures=True,
    out="out/swarm",
):
    """Let clumps of equal mass, 1 in all, gather.

    mesh: a mesh file, in the plane, in place of a ring; refine: times that each cell is split;
    crowding: strength of the repulsion; reach: of the attraction; clumps: x and y of each; width:
    of each at the start; end: the last time; n_times: recorded times; tol: the error in time of
    the whole run; out: folder for what is written.
    """
    if len(clumps) % 2 or not clumps or width <= 0 or refine < 0 or n_times < 2 or end <= 0:
        raise fvot.InputError(
            "clumps must be x and y of each, width and end above 0, refine >= 0, n_times >= 2, not "
            f"{clumps}, {width}, {end}, {refine} and {n_times}"
        )
    mesh = fvot.Mesh.read(mesh) if mesh else fvot.example_mesh("annulus")
    for _ in range(refine):
        mesh = mesh.refine()

    def W(z):
        return -np.exp(-(z**2).sum(axis=0) / (2 * reach**2))

    middles = np.reshape(clumps, (-1, 2))
    rho0 = mesh.density(
        lambda x: sum(
            np.exp(-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * width**2)) for a, b in middles
        )
    )
    t = np.linspace(0, end, n_times)
    result = fvot.JKO(mesh, crowding * fvot.Power(2) + fvot.Interaction(W), tol=tol).solve(rho0, t)

    folder = Path(out).expanduser()
    result.write(folder / "swarm.pvd")
    if pictures:
        shown = [0, n_times // 10, n_times // 4, n_times - 1]
        result.plot(folder / "swarm.png", time=shown, cmap="magma_r")
        result.movie(folder / "swarm.gif", cmap="magma_r")
    ledger = result.ledger
    fvot.say(
        f"{mesh.n_cells_global} cells, {ledger['steps'][-1]:.0f} steps, "
        f"{ledger['newton'][-1] / ledger['steps'][-1]:.1f} "
        f"iterations of Newton's method in each\n"
        f"energy {ledger['energy'][:: max(1, n_times // 5)].round(4)}, largest rise "
        f"{max(np.diff(ledger['energy']).max(), 0):.0e}\n"
        f"density between {ledger['minimum'].min():.0e} and {ledger['maximum'].max():.2f}, mass "
        "error "
        f"{np.abs(ledger['mass_error']).max():.0e}\n"
        f"ParaView opens {folder / 'swarm.pvd'}"
    )
    return dict(
        energy=ledger["energy"][-1], maximum=ledger["maximum"][-1], before=ledger["energy"][0]
    )


if __name__ == "__main__":
    fvot.run(main)
