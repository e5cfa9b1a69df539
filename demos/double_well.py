"""Two wells and a rare jump: how fast a density leaves the well that it starts in, measured,
computed and by Kramers' formula.

    python demos/double_well.py
    mpirun -n 2 python demos/double_well.py --mesh triangles --D 0.2

V = b (x^2 - 1)^2 + y^2 has wells at x = -1 and 1, with a barrier of height b between them: b/D in
units of the temperature D. Each well soon reaches its own equilibrium; then the mass on the left
tends to its limit like e^(-rate t), where the rate is

- observed: the slope of log(mass on the left - its limit) in a run in time
- computed: the smallest eigenvalue of the operator, `relaxation_rates`
- Kramers' (1940): sqrt(V''(1) |V''(0)|) / pi e^(-b/D), right in the limit of high barriers

Up to barriers of about 35 D a run can follow the jumps; beyond, the rate is still computed (see the
table), but time steps of that length are beyond linear solvers. Writes the series for
ParaView and a picture.
"""

from pathlib import Path

import numpy as np

import fvot

BARRIERS = 4, 8, 16, 40, 400  # of the table, in units of D
LOWER, UPPER = (-1.6, -1.6), (1.6, 1.6)
MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle(LOWER, UPPER, (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles(LOWER, UPPER, n),
    "polygons": lambda n: fvot.Mesh.voronoi(LOWER, UPPER, n * n),
}


def wells(barrier):
    """The potential V(x)."""
    return lambda x: barrier * (x[0] ** 2 - 1) ** 2 + x[1] ** 2


def kramers(barrier, D):
    """The rate at which two such wells equilibrate: twice the rate of leaving one of them."""
    return np.sqrt(8 * barrier * 4 * barrier) / np.pi * np.exp(-barrier / D)


def main(mesh="squares", n=96, barrier=4.0, D=0.5, steps=50, pictures=True, out="out/double_well"):
    """Start on the left of V = barrier (x^2 - 1)^2 + y^2 and measure how fast the two wells
    equilibrate.

    mesh: squares, triangles or polygons; n: cells along a side; D: the temperature; steps: in time,
    for one relaxation time; out: folder for what is written.
    """
    if mesh not in MESHES:
        raise fvot.InputError(f"mesh must be one of {', '.join(MESHES)}, not {mesh!r}")
    mesh = MESHES[mesh](n)
    equation = fvot.FokkerPlanck(mesh, diffusion=D, potential=wells(barrier), order=3)
    rate = equation.relaxation_rates(1)[0]
    gibbs = equation.stationary()
    left = mesh.average(lambda x: x[0] < 0)

    t = np.linspace(0, 3 / rate, 13)
    result = equation.solve(mesh.density(left * gibbs), t, tau=1 / (steps * rate))
    excess = mesh.integrate(left * result.rho) - mesh.integrate(left * gibbs)
    observed = np.log(excess[4] / excess[-1]) / (t[-1] - t[4])

    ledger = result.ledger
    fvot.say(
        f"{mesh.n_cells_global} cells, barrier {barrier / D:g} D, "
        f"{ledger['steps'][-1]:.0f} steps on {mesh.ranks.size} ranks\n"
        f"rate observed {observed:.9e}\n"
        f"rate computed {rate:.9e}, off by {abs(observed / rate - 1):.1e}\n"
        f"rate, Kramers {kramers(barrier, D):.9e}\n"
        f"mass error {np.abs(ledger['mass_error']).max():.1e}, smallest density "
        f"{ledger['minimum'].min():.1e}, "
        f"free energy from {ledger['energy'][0]:.6f} down to {ledger['energy'][-1]:.6f}"
    )
    ratios = table(mesh, barrier)

    folder = Path(out).expanduser()
    result.write(folder / "double_well.pvd")
    if pictures:
        result.plot(folder / "double_well.png", time=[0, 4, 12])
    fvot.say(f"\nParaView opens {folder / 'double_well.pvd'}")
    return dict(
        observed=observed, computed=rate, left=mesh.integrate(left * result.rho[-1]), **ratios
    )


def table(mesh, barrier):
    """Print rates at ever lower temperatures; the last column is the width of the barrier's top in
    cells.
    """
    h = np.sqrt(mesh.integrate(1.0) / mesh.n_cells_global)
    ratios = {}
    fvot.say(f"\n{'barrier/D':>9} {'rate':>13} {'Kramers':>13} {'ratio':>7} {'width/cell':>11}")
    for high in BARRIERS:
        D = barrier / high
        rate = fvot.FokkerPlanck(mesh, diffusion=D, potential=wells(barrier)).relaxation_rates(1)[0]
        ratios[f"ratio_{high}"] = rate / kramers(barrier, D)
        fvot.say(
            f"{high:9} {rate:13.6e} {kramers(barrier, D):13.6e} {ratios[f'ratio_{high}']:7.4f} "
            f"{np.sqrt(D / (4 * barrier)) / h:11.2f}"
        )
    return ratios


if __name__ == "__main__":
    fvot.run(main)
