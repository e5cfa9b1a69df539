"""A porous medium: a drop of gas spreads with a sharp front, as Barenblatt's solution says.

    python demos/porous_medium.py
    mpirun -n 2 python demos/porous_medium.py --m 3 --mesh triangles

d rho/dt = Lap rho^m is the gradient flow of int rho^m / (m - 1) in the Wasserstein metric (Otto
2001). From a point it spreads

    rho = t^-a (C - k |x|^2 t^-2b)_+^(1/(m-1)),    b = 1 / (2 (m - 1) + 2),  a = 2 b,  k = b (m - 1)
    / (2 m)

in the plane (Barenblatt 1952). Prints errors on meshes that get twice as fine, writes the series
for ParaView and a picture.
"""

from pathlib import Path

import numpy as np

import fvot

CORNER = 6.0
MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle(-CORNER, CORNER, (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles(-CORNER, CORNER, n),
    "polygons": lambda n: fvot.Mesh.voronoi(-CORNER, CORNER, n * n),
}


def barenblatt(t, m, C=0.5):
    """The density at time t, as a function of points (2, n)."""
    b = 1 / (2 * (m - 1) + 2)
    k = b * (m - 1) / (2 * m)
    return lambda x: (
        t ** (-2 * b) * np.maximum(C - k * (x**2).sum(axis=0) * t ** (-2 * b), 0) ** (1 / (m - 1))
    )


def main(
    m=2.0, mesh="squares", n=32, levels=3, end=4.0, steps=10, pictures=True, out="out/porous_medium"
):
    """Let Barenblatt's drop spread from t = 1 to the end, and say how far from it the computed one
    is.

    m: the power, above 1; mesh: squares, triangles or polygons; n: cells along a side of the
    coarsest mesh; levels: meshes, each twice as fine, with twice as many steps; steps: on the
    coarsest one; out: folder for what is written.
    """
    if mesh not in MESHES:
        raise fvot.InputError(f"mesh must be one of {', '.join(MESHES)}, not {mesh!r}")
    if not (m > 1 and levels >= 1 and end > 1 and steps >= 1 and n >= 2):
        raise fvot.InputError(
            f"this takes m > 1, levels >= 1, end > 1, steps >= 1 and n >= 2, not {m}, {levels}, "
            f"{end}, "
            f"{steps} and {n}"
        )
    fvot.say(
        f"{'cells':>8} {'steps':>6} {'Newton':>7} {'error':>9} {'order':>6} {'mass error':>11} "
        f"{'energy balance':>15}"
    )
    errors = []
    for level in range(levels):
        here = MESHES[mesh](n * 2**level)
        count = steps * 2**level
        rho0 = here.average(barenblatt(1.0, m), degree=8)
        t = np.linspace(1, end, 7)
        result = fvot.JKO(here, fvot.Power(m)).solve(rho0, t, tau=(end - 1) / count)
        errors.append(report(here, result, barenblatt(end, m), errors))
    folder = Path(out).expanduser()
    result.write(folder / "porous_medium.pvd")
    if pictures:
        result.plot(folder / "porous_medium.png", time=[0, 2, 6], cmap="magma")
    fvot.say(f"ParaView opens {folder / 'porous_medium.pvd'}")
    return {f"error_{level}": error for level, error in enumerate(errors)} | {
        "energy": result.ledger["energy"][-1]
    }


def report(mesh, result, exact, before):
    """Print a line of the table; the error, in L1 relative to the mass."""
    ledger = {name: values[-1] for name, values in result.ledger.items()}
    error = mesh.integrate(np.abs(result.rho[-1] - mesh.average(exact, degree=8))) / ledger["mass"]
    order = f"{np.log2(before[-1] / error):6.2f}" if before else f"{'':6}"
    balance = ledger["energy"] + ledger["dissipated"] - result.ledger["energy"][0]
    fvot.say(
        f"{mesh.n_cells_global:8} {ledger['steps']:6.0f} "
        f"{ledger['newton'] / ledger['steps']:7.1f} {error:9.2e} {order} "
        f"{ledger['mass_error']:11.0e} {balance:15.0e}"
    )
    return error


if __name__ == "__main__":
    fvot.run(main)
