"""A contaminant in an aquifer: a landfill leaks into ground of sand and clay, through which water
flows to a river and to a well.

    python demos/aquifer.py
    mpirun -n 2 python demos/aquifer.py --pumping 0.5 --out out/strong_pump

Lengths are in metres, times in years, masses in kilograms. Prints where the mass has gone, and
when it arrives; writes the series for ParaView, a picture and the breakthrough curves.
"""

from pathlib import Path

import numpy as np

import fvot

LENGTH, WIDTH = 2000.0, 1000.0
LANDFILL = (350.0, 480.0)
WELL = (1250.0, 620.0)
WELL_RADIUS = 30.0
GAUGES = {"at the landfill": LANDFILL, "half way": (800.0, 520.0), "river bank": (1950.0, 500.0)}


def main(
    n=100,
    inflow=100_000.0,
    pumping=0.2,
    half_life=15.0,
    end=30.0,
    n_times=31,
    tol=1e-3,
    pictures=True,
    out="out/aquifer",
):
    """Follow what leaks from a landfill, 100 kg a year, to a well and to a river.

    n: cells along the aquifer, half as many across; inflow: of water, in square metres a year;
    pumping: the part of it that the well takes; half_life: of the contaminant; end: years;
    n_times: recorded times; tol: the error in time of the whole run; out: folder for what is
    written.
    """
    mesh = fvot.Mesh.rectangle((0, 0), (LENGTH, WIDTH), (n, n // 2))
    mesh = mesh.without(lambda x: distance(x, WELL) < max(WELL_RADIUS, LENGTH / n), name="well")
    K = conductivity(mesh.center)
    flow = fvot.potential_flow(
        mesh,
        {"left": inflow, "well": -pumping * inflow, "right": -(1 - pumping) * inflow},
        conductivity=K,
    )

    leak = mesh.density(lambda x: np.exp(-((distance(x, LANDFILL) / 40) ** 2)))
    equation = fvot.FokkerPlanck(
        mesh,
        face_flux=flow,
        diffusion=fvot.dispersion(
            flow, longitudinal=15.0, transverse=1.5, molecular=0.1, mesh=mesh
        ),
        source=100.0 * leak,
        growth=-np.log(2) / half_life,
        boundary={"left": fvot.inflow(0.0), "well": fvot.outflow, "right": fvot.outflow},
        tol=tol,
    )
    result = equation.solve(0 * mesh.volume, np.linspace(0, end, n_times))
    curves = result.probe(np.transpose(list(GAUGES.values())))

    folder = Path(out).expanduser()
    result.write(folder / "plume.pvd")
    if pictures:
        draw(folder / "plume.png", result, K, curves)

    ledger = {name: values[-1] for name, values in result.ledger.items()}
    added = ledger["added"]
    fvot.say(
        f"{mesh.n_cells_global} cells, {ledger['steps']:.0f} steps; of {added:.1f} kg that leaked\n"
        f"  in the ground  {ledger['mass'] / added:7.2%}\n"
        f"  decayed        {ledger['killed'] / added:7.2%}\n"
        f"  into the well  {ledger['outflow:well'] / added:7.2%}\n"
        f"  into the river {ledger['outflow:right'] / added:7.2%}\n"
        f"mass error {ledger['mass_error']:.0e}, smallest density {ledger['minimum']:.0e}, "
        f"error in time {ledger['time_error']:.0e}"
    )
    for name, curve in zip(GAUGES, curves.T):
        fvot.say(
            f"{name}: half of the largest density after {find_arrival(result.t, curve):.1f} years"
        )
    fvot.say(f"ParaView opens {folder / 'plume.pvd'}")
    return dict(
        mass=ledger["mass"],
        killed=ledger["killed"],
        well=ledger["outflow:well"],
        river=ledger["outflow:right"],
        half_way=curves[-1, 1],
    )


def distance(x, place):
    """The distances of points (dim, n) from a place."""
    return np.hypot(x[0] - place[0], x[1] - place[1])


def conductivity(x):
    """K (n,) at points x (dim, n): sand that varies by a factor of 20, with two lenses of clay."""
    random = np.random.default_rng(3)
    logarithm = np.zeros(x.shape[1])
    for _ in range(24):
        wave = random.normal(0, [1 / 180, 1 / 90])
        logarithm += np.cos(wave @ x + random.uniform(0, 2 * np.pi)) / np.sqrt(12)
    in_clay = np.zeros(x.shape[1], bool)
    for place, half_axes in (((700, 380), (160, 45)), ((1550, 560), (120, 60))):
        in_clay |= sum(((x[i] - place[i]) / half_axes[i]) ** 2 for i in range(2)) < 1
    return np.where(in_clay, 0.02, 1.0) * np.exp(0.75 * logarithm)


def find_arrival(t, curve):
    """The first time at which the density is half of its largest value."""
    return np.interp(0.5, curve[: curve.argmax() + 1] / curve.max(), t[: curve.argmax() + 1])


def draw(path, result, K, curves):
    """The plume at three times over the conductivity, and the breakthrough curves below."""
    mesh = result.mesh
    times = [len(result.t) // 6, len(result.t) // 3, len(result.t) - 1]
    x, y = mesh.gather(mesh.center)
    ground = np.log10(mesh.gather(K))
    plumes = [mesh.gather(result.rho[k]) for k in times]
    if not mesh.ranks.is_root:
        return

    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.tri import Triangulation

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 0.9])
    triangulation = Triangulation(x, y)
    middle = x[triangulation.triangles].mean(axis=1), y[triangulation.triangles].mean(axis=1)
    triangulation.set_mask(distance(np.array(middle), WELL) < WELL_RADIUS)
    largest = max(plume.max() for plume in plumes)
    levels = largest * np.logspace(-3, 0, 13)
    for column, (k, plume) in enumerate(zip(times, plumes)):
        axes = figure.add_subplot(grid[0, column], aspect="equal")
        axes.tricontourf(triangulation, ground, levels=12, cmap="Greys_r", alpha=0.45)
        colours = axes.tricontourf(
            triangulation,
            np.maximum(plume, 1e-9 * largest),
            levels,
            norm=LogNorm(),
            cmap="inferno_r",
        )
        axes.plot(*WELL, "o", color="tab:blue", markersize=5)
        axes.set_title(f"{result.t[k]:.0f} years")
        axes.set_xticks([0, LENGTH])
        axes.set_yticks([0, WIDTH])
    bar = figure.colorbar(colours, ax=figure.axes, label="kg / m$^2$", format="%.0e", pad=0.01)
    bar.set_ticks(levels[::4])

    axes = figure.add_subplot(grid[1, :2])
    for name, curve in zip(GAUGES, curves.T):
        axes.semilogy(result.t[1:], curve[1:], label=name)
    axes.set_ylim(1e-4 * curves.max(), 2 * curves.max())
    axes.set_xlabel("years")
    axes.set_ylabel("kg / m$^2$")
    axes.legend()

    axes = figure.add_subplot(grid[1, 2])
    ledger = result.ledger
    names = {
        "mass": "ground",
        "killed": "decayed",
        "outflow:well": "well",
        "outflow:right": "river",
    }
    axes.stackplot(result.t, [ledger[key] for key in names], labels=list(names.values()))
    axes.set_xlabel("years")
    axes.set_ylabel("kg")
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    fvot.run(main)
