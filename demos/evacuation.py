"""A crowd leaves a room through a door: the density is at most 1, and pressure builds up before the
door.

    python demos/evacuation.py
    mpirun -n 2 python demos/evacuation.py --n 80 --crowd 0.9

All walk the shortest way through the door, with speed 1, as long as there is space: the gradient
flow of int V rho under the constraint rho <= 1, V the remaining distance (Maury, Roudneff-Chupin,
Santambrogio 2010). The pressure p of the constraint, 0 outside, slows down those who wait, and
speeds up those in the door: v = -grad (V + p). Writes the series for ParaView and a picture of
density and pressure.
"""

from pathlib import Path

import numpy as np

import fvot

WALL = 1.0, 1.1  # x between which there is the right wall,
DOOR = 0.55, 0.75  # but for these y


def to_go(x):
    """V: the length of the shortest way from points x (2, n) through the door, around its edges."""
    before = np.hypot(np.maximum(WALL[0] - x[0], 0), x[1] - np.clip(x[1], *DOOR))
    return before + WALL[1] - np.maximum(x[0], WALL[0])


def build_room(n):
    """A unit square of n x n cells, and the door in its right wall: "right" is where it ends."""
    mesh = fvot.Mesh.rectangle((0, 0), (WALL[1], 1), (round(WALL[1] * n), n))
    return mesh.without(
        lambda x: (x[0] > WALL[0]) & ((x[1] < DOOR[0]) | (x[1] > DOOR[1])), name="wall"
    )


def main(
    n=40,
    crowd=0.8,
    end=5.0,
    n_times=26,
    steps=4,
    pictures=True,
    out="out/evacuation",
):
    """Let a crowd leave a room through a door.

    n: cells along a side of the room, a multiple of 20; crowd: its density at the start, at most 1;
    end: the last time; n_times: recorded times; steps: between two of them; out: folder for what is
    written.
    """
    if n < 20 or n % 20 or not 0 < crowd <= 1 or n_times < 5 or end <= 0 or steps < 1:
        raise fvot.InputError(
            f"this takes n = 20, 40, ..., 0 < crowd <= 1, n_times >= 5, end > 0 and steps >= 1, "
            f"not {n}, {crowd}, {n_times}, {end} and {steps}"
        )
    mesh = build_room(n)
    rho0 = crowd * mesh.average(lambda x: (x[0] > 0.1) & (x[0] < 0.8) & (x[1] > 0.1) & (x[1] < 0.9))
    t = np.linspace(0, end, n_times)
    flow = fvot.JKO(mesh, fvot.Potential(to_go), bounds=(0, 1), boundary={"right": fvot.outflow})
    result = flow.solve(rho0, t, tau=t[1] / steps)
    inside = result.ledger["mass"] / result.ledger["mass"][0]

    folder = Path(out).expanduser()
    result.write(folder / "evacuation.pvd")
    if pictures:
        shown = [n_times // 12, n_times // 5, n_times // 3]
        result.plot(folder / "crowd.png", time=shown, clim=(0, 1 + 1e-6), cmap="Blues")
        result.plot(folder / "pressure.png", time=shown, field="pressure", cmap="inferno")
    ledger = result.ledger
    pressure = mesh.ranks.max(result.pressure.max())
    some = slice(None, None, max(1, n_times // 5))
    fvot.say(
        f"{mesh.n_cells_global} cells, {ledger['steps'][-1]:.0f} steps, "
        f"{ledger['newton'][-1] / ledger['steps'][-1]:.1f} "
        f"iterations of Newton's method in each\n"
        f"still in the room {inside[some].round(3)}\n"
        f"at t =            {t[some].round(3)}\n"
        f"through the door {ledger['outflow'][-1]:.6g} of {ledger['mass'][0]:.6g}, mass error "
        f"{np.abs(ledger['mass_error']).max():.0e}\n"
        f"largest density 1 {ledger['maximum'].max() - 1:+.0e}, largest pressure {pressure:.3f}\n"
        f"ParaView opens {folder / 'evacuation.pvd'}"
    )
    return dict(inside=inside[-1], half=inside[n_times // 2], pressure=pressure)


if __name__ == "__main__":
    fvot.run(main)
