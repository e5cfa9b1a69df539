"""A spill in a harbour: potential flow from the river to the sea, past islands and a mole, carries
it through a tide.

    python demos/harbour.py
    mpirun -n 2 python demos/harbour.py --tide 3 --out out/short_tide

Lengths are in kilometres, times in hours. Writes the series for ParaView, a picture, a movie and
the ledger.
"""

from pathlib import Path

import numpy as np

import fvot


def main(mesh=None, rate=1.0, tide=6.0, n_times=25, sharp=0.0, pictures=True, out="out/harbour"):
    """Carry a spill of mass 1 through a harbour (lengths in km, times in hours).

    mesh: a mesh file with the boundaries "inlet" and "outlet", in place of the harbour; rate:
    square kilometres of water that the river brings per hour; tide: hours; n_times: recorded times;
    sharp: of the limiter, see fvot.muscl; out: folder for what is written.
    """
    mesh = fvot.Mesh.read(mesh) if mesh else fvot.example_mesh("harbour")
    flow = fvot.potential_flow(mesh, {"inlet": rate, "outlet": -rate})
    divergence = mesh.ranks.max(np.abs(mesh.divergence(flow) * mesh.volume).max())
    spill = mesh.density(lambda x: np.exp(-((x[0] - 0.45) ** 2 + (x[1] - 1.5) ** 2) / (2 * 0.1**2)))
    equation = fvot.ContinuityEquation(
        mesh,
        face_flux=flow,
        flux=fvot.muscl(sharp),
        boundary={"inlet": fvot.inflow(0.0), "outlet": fvot.outflow},
    )
    result = equation.solve(spill, np.linspace(0, tide, n_times))

    folder = Path(out).expanduser()
    result.write(folder / "spill.pvd")
    if pictures:
        result.plot(folder / "spill.png", time=[n_times // 6, n_times // 3, n_times // 2])
        result.movie(folder / "spill.gif")
    write_ledger(folder / "ledger.csv", result)

    ledger = {name: values[-1] for name, values in result.ledger.items()}
    fvot.say(
        f"{mesh.n_cells_global} cells, {ledger['steps']:.0f} steps on {mesh.ranks.size} ranks; "
        f"largest divergence of the flow {divergence:.1e}\n"
        f"mass in    {ledger['inflow']:.6f}\n"
        f"mass out   {ledger['outflow']:.6f}\n"
        f"mass left  {ledger['mass']:.6f}\n"
        f"mass error {ledger['mass_error']:.1e}, density between {ledger['minimum']:.1e} and "
        f"{ledger['maximum']:.3f}\n"
        f"ParaView opens {folder / 'spill.pvd'}"
    )
    return dict(outflow=ledger["outflow"], mass=ledger["mass"], maximum=ledger["maximum"])


def write_ledger(path, result):
    """The ledger as a table of comma-separated values, one line for each recorded time."""
    if result.mesh.ranks.is_root:
        columns = {"t": result.t, **result.ledger}
        np.savetxt(
            path,
            np.stack(list(columns.values()), axis=1),
            delimiter=",",
            header=",".join(columns),
            comments="",
        )


if __name__ == "__main__":
    fvot.run(main)
