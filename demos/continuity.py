"""How accurate is it? Two flows that bring every density back, on squares, triangles and Voronoi
polygons.

    python demos/continuity.py
    mpirun -n 2 python demos/continuity.py --n 32 --levels 3

Rotation: one revolution of a hump about the centre of the unit square. Swirl: the density is
stirred for half the time, and the flow is reversed for the other half (LeVeque 1996). The
difference that remains at the end is the error.
"""

import numpy as np

import fvot

MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle((0, 0), (1, 1), (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles((0, 0), (1, 1), n),
    "polygons": lambda n: fvot.Mesh.voronoi((0, 0), (1, 1), n * n),
}


def rotation(x):
    """psi = -pi |x - c|^2: one revolution in time 1."""
    return -np.pi * ((x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2)


def swirl(x, t):
    """LeVeque's swirl, back where it began at time 1."""
    return np.sin(np.pi * x[0]) ** 2 * np.sin(np.pi * x[1]) ** 2 * np.cos(np.pi * t) / np.pi


def hump(x):
    """A Gaussian hump of width 0.1 above the centre, with everything lifted by 0.1."""
    return 0.1 + np.exp(-((x[0] - 0.5) ** 2 + (x[1] - 0.7) ** 2) / (2 * 0.1**2))


def carried(x, t):
    """The hump after the rotation has carried it for a time t: what enters the square."""
    angle = -2 * np.pi * t
    y = x - 0.5
    return hump(
        0.5
        + np.stack(
            [
                np.cos(angle) * y[0] - np.sin(angle) * y[1],
                np.sin(angle) * y[0] + np.cos(angle) * y[1],
            ]
        )
    )


def error(mesh, stream):
    """Relative L1 error at time 1, where the exact density is the initial one, and the ledger's
    mass error.
    """
    boundary = (
        {name: fvot.inflow(carried) for name in mesh.boundary} if stream is rotation else None
    )
    rho0 = mesh.average(hump)
    result = fvot.ContinuityEquation(mesh, stream=stream, boundary=boundary).solve(rho0, 1.0)
    error = mesh.integrate(np.abs(result.rho[-1] - rho0)) / mesh.integrate(rho0)
    return error, np.abs(result.ledger["mass_error"]).max()


def main(n=16, levels=3):
    """Print the errors on meshes of n, 2 n, 4 n ... cells along a side, with the order of
    convergence.
    """
    found = {}
    for flow in rotation, swirl:
        fvot.say(
            f"\n{flow.__name__:10} {'cells':>8} {'L1 error':>10} {'order':>6} {'mass error':>11}"
        )
        for kind, make in MESHES.items():
            previous = None
            for level in range(levels):
                mesh = make(n * 2**level)
                size, mass_error = error(mesh, flow)
                order = "" if previous is None else f"{np.log2(previous / size):.2f}"
                fvot.say(
                    f"{kind:10} {mesh.n_cells_global:8} {size:10.2e} {order:>6} {mass_error:11.1e}"
                )
                found[f"{flow.__name__}_{kind}"] = size
                previous = size
    return found


if __name__ == "__main__":
    fvot.run(main)
