"""A crowd leaves a room through a door: the density is at most 1, and pressure builds up before the
door.

    python demos/evacuation.py
    mpirun -n 2 python demos/evacuation.py --refine 1 --crowd 0.9

All walk the shortest way to the far wall of the second room, with speed 1, as long as there is
space: the gradient flow of int V rho under the constraint rho <= 1, V the remaining distance
(Maury, Roudneff-Chupin, Santambrogio 2010). The pressure p of the constraint slows them down: v =
-grad (V + p). Writes the series for ParaView and a picture of density and pressure.
"""

from pathlib import Path

import numpy as np

import fvot

WALL = 1.0, 1.1  # x between which there is the wall,
DOOR = 0.55, 0.75  # but for these y
FAR = 2.1  # x of the far wall


def to_go(x):
    """V: the length of the shortest way from points x (2, n) to the far wall, around the edges of
    the door.
    """
    before = np.hypot(np.maximum(WALL[0] - x[0], 0), x[1] - np.clip(x[1], *DOOR))
    return before + FAR - np.maximum(x[0], WALL[0])


def main(
    mesh=None,
    refine=0,
    crowd=0.8,
    end=2.0,
    n_times=21,
    steps=2,
    pictures=True,
    out="out/evacuation",
):
    """Let a crowd walk from the first room through the door into the second.

    mesh: a mesh file of other rooms; refine: times that each cell is split; crowd: its density at
    the start, at most 1; end: the last time; n_times: recorded times; steps: between two of them;
    out: folder for what is written.
    """
    if not 0 < crowd <= 1 or refine < 0 or n_times < 5 or end <= 0 or steps < 1:
        raise fvot.InputError(
            f"this takes 0 < crowd <= 1, refine >= 0, n_times >= 5, end > 0 and steps >= 1, not "
            f"{crowd}, {refine}, {n_times}, {end} and {steps}"
        )
    mesh = fvot.Mesh.read(mesh) if mesh else fvot.example_mesh("two_rooms")
    for _ in range(refine):
        mesh = mesh.refine()
    rho0 = crowd * mesh.average(lambda x: (x[0] > 0.1) & (x[0] < 0.8) & (x[1] > 0.1) & (x[1] < 0.9))
    t = np.linspace(0, end, n_times)
    result = fvot.JKO(mesh, fvot.Potential(to_go), bounds=(0, 1)).solve(rho0, t, tau=t[1] / steps)
    inside = mesh.integrate(result.rho * (mesh.centroid[0] < WALL[0])) / mesh.integrate(rho0)

    folder = Path(out).expanduser()
    result.write(folder / "evacuation.pvd")
    if pictures:
        shown = [n_times // 8, n_times // 3, 3 * n_times // 4]
        result.plot(folder / "crowd.png", time=shown, clim=(0, 1 + 1e-6), cmap="Blues")
        result.plot(folder / "pressure.png", time=shown, field="pressure", cmap="inferno")
    ledger = result.ledger
    pressure = mesh.ranks.max(result.pressure.max())
    some = slice(None, None, max(1, n_times // 5))
    fvot.say(
        f"{mesh.n_cells_global} cells, {ledger['steps'][-1]:.0f} steps, "
        f"{ledger['newton'][-1] / ledger['steps'][-1]:.1f} "
        f"iterations of Newton's method in each\n"
        f"still in the first room {inside[some].round(3)}\n"
        f"at t =                  {t[some].round(3)}\n"
        f"largest density 1 {ledger['maximum'].max() - 1:+.0e}, largest pressure {pressure:.3f}, "
        f"mass error {np.abs(ledger['mass_error']).max():.0e}\n"
        f"ParaView opens {folder / 'evacuation.pvd'}"
    )
    return dict(inside=inside[-1], half=inside[n_times // 2], pressure=pressure)


if __name__ == "__main__":
    fvot.run(main)
