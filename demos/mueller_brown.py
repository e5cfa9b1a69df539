"""A reaction on the surface of Mueller and Brown: three wells, and their populations over seven
powers of ten in time.

    python demos/mueller_brown.py
    mpirun -n 2 python demos/mueller_brown.py --mesh triangles --D 15

The density of an overdamped molecule in the energy V(x, y) (K. Mueller, L. D. Brown, Theor. Chim.
Acta 53, 1979) at the temperature D, in units of the energy; time is such that the mobility is 1. It
starts at the bottom of the shallowest well.

A point belongs to the well in which the way down from it, dx/dt = -grad V, ends. Writes the series
for ParaView, a picture and the populations.
"""

from pathlib import Path

import numpy as np

import fvot

LOWER, UPPER = (-1.7, -0.5), (1.3, 2.2)
MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle(LOWER, UPPER, (n, round(0.9 * n))),
    "triangles": lambda n: fvot.Mesh.triangles(LOWER, UPPER, n),
    "polygons": lambda n: fvot.Mesh.voronoi(LOWER, UPPER, round(0.9 * n * n)),
}
A, a, b, c = np.array(
    [(-200, -100, -170, 15), (-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7)]
)[:, :, None]
x0, y0 = np.array([(1, 0, -0.5, -1), (0, 0.5, 1.5, 1)])[:, :, None]
WIDTH = 0.08  # of the density at the start
STEEPEST = 4000  # about the largest curvature of V in the valleys


def V(x):
    """The energy (n,) at points x (2, n): a sum of four Gaussians, one of them upside down."""
    return terms(x)[0].sum(axis=0)


def terms(x):
    """The four terms (4, n) of the energy, and the distances (4, n) from their centres in x and
    y.
    """
    dx = x[0] - x0
    dy = x[1] - y0
    return A * np.exp(a * dx**2 + b * dx * dy + c * dy**2), dx, dy


def gradient(x):
    """grad V (2, n)."""
    value, dx, dy = terms(x)
    return np.stack(
        [(value * (2 * a * dx + b * dy)).sum(axis=0), (value * (b * dx + 2 * c * dy)).sum(axis=0)]
    )


def down(x, steps=1500, longest=0.01):
    """Where the steepest way down from x (2, n) ends: (2, n)."""
    for _ in range(steps):
        slope = gradient(x)
        x = x - slope * np.minimum(1 / STEEPEST, longest / np.maximum(np.hypot(*slope), 1e-300))
    return x


def minima():
    """The minima (2, n_wells) of the energy, the deepest first: the ends of the ways down from a
    lattice of points.
    """
    lattice = np.stack(np.meshgrid(*np.linspace(LOWER, UPPER, 8).T)).reshape(2, -1)
    found = np.unique(down(lattice).round(6), axis=1)
    return found[:, np.argsort(V(found))]


def main(
    mesh="squares",
    n=100,
    D=10.0,
    end=30.0,
    n_times=61,
    tol=1e-3,
    pictures=True,
    out="out/mueller_brown",
):
    """Follow a density out of the shallowest well of the surface of Mueller and Brown.

    mesh: squares, triangles or polygons; n: cells along x; D: the temperature; end: of the run, in
    slowest relaxation times; n_times: recorded times; tol: error in time, relative to the mass;
    out: folder for what is written.
    """
    if mesh not in MESHES:
        raise fvot.InputError(f"mesh must be one of {', '.join(MESHES)}, not {mesh!r}")
    mesh = MESHES[mesh](n)
    bottom = minima()
    well = np.linalg.norm(down(mesh.center)[:, None] - bottom[:, :, None], axis=0).argmin(axis=0)
    within = (well == np.arange(bottom.shape[1])[:, None]).astype(float)  # (n_wells, n_cells)

    equation = fvot.FokkerPlanck(mesh, diffusion=D, potential=V, tol=tol)
    gibbs = equation.stationary()
    rates = equation.relaxation_rates(2)
    t = np.concatenate([[0], np.geomspace(1e-3 / rates[1], end / rates[0], n_times - 1)])
    start = mesh.density(
        lambda x: np.exp(-((x - bottom[:, -1:]) ** 2).sum(axis=0) / (2 * WIDTH**2))
    )
    result = equation.solve(start, t)
    population = mesh.integrate(within[:, None] * result.rho)  # (n_wells, n_times)
    limit = mesh.integrate(within * gibbs)

    ledger = result.ledger
    fvot.say(
        f"{mesh.n_cells_global} cells, D = {D:g}, {ledger['steps'][-1]:.0f} steps on "
        f"{mesh.ranks.size} ranks\n\n"
        f"{'well':4} {'x':>8} {'y':>8} {'energy':>9} {'population at the end':>23} "
        f"{'in equilibrium':>15}"
    )
    for name, x, energy, now, then in zip("ABC", bottom.T, V(bottom), population[:, -1], limit):
        fvot.say(f"{name:4} {x[0]:8.4f} {x[1]:8.4f} {energy:9.3f} {now:23.9f} {then:15.9f}")
    fvot.say(
        f"\nrelaxation times {1 / rates[0]:.6g} and {1 / rates[1]:.6g}, rates {rates[0]:.6g} and "
        f"{rates[1]:.6g}\n"
        f"well B holds most, {population[1].max():.4f}, at t = {t[population[1].argmax()]:.3g}\n"
        f"mass error {np.abs(ledger['mass_error']).max():.1e}, smallest density "
        f"{ledger['minimum'].min():.1e}, "
        f"estimated error in time {ledger['time_error'].max():.0e}\n"
        f"free energy from {ledger['energy'][0]:.4f} down to {ledger['energy'][-1]:.4f}"
    )

    folder = Path(out).expanduser()
    result.write(folder / "mueller_brown.pvd")
    if mesh.ranks.is_root:
        np.savetxt(
            folder / "populations.csv",
            np.stack([t, *population], axis=1),
            delimiter=",",
            header="t,A,B,C",
            comments="",
        )
    if pictures:
        picture(folder / "mueller_brown.png", result, bottom, population, limit, rates)
    fvot.say(f"ParaView opens {folder / 'mueller_brown.pvd'}")
    return dict(
        slow=rates[0],
        fast=rates[1],
        stay=population[2, n_times // 2],
        most=population[1].max(),
        A=limit[0],
        B=limit[1],
        C=limit[2],
    )


# ---- the picture ---------------------------------------------------------------------------------

COLORS = "#4064b0", "#d1495b", "#1f9e89"  # of the wells A, B, C
GREY = "0.35"


def picture(path, result, bottom, population, limit, rates):
    """The energy, the density at three times, and the populations over time."""
    mesh = result.mesh
    t = result.t
    shown = [0, int(population[1].argmax()), len(t) - 1]
    x = mesh.gather(mesh.center)
    densities = mesh.gather(result.rho[shown])
    mesh.ranks.on_root(draw, path, x, densities, t, shown, bottom, population, limit, rates)


def draw(path, x, densities, t, shown, bottom, population, limit, rates):
    from matplotlib.figure import Figure

    # inches
    width = 13.3
    height = 5.9
    figure = Figure((width, height))

    def axes(left, bottom, across, up):
        return figure.add_axes([left / width, bottom / height, across / width, up / height])

    landscape(figure, axes(0.7, 0.65, 5.25, 4.725), bottom)
    for place, density, i in zip(range(3), densities, shown):
        panel = axes(6.9 + 1.8 * place, 3.795, 1.7, 1.58)
        colors = snapshot(panel, x, density, bottom)
        panel.set_title(f"{place + 1}   $t$ = {t[i]:.3g}", fontsize=12, color=GREY)
    bar = figure.colorbar(colors, cax=axes(12.3, 3.795, 0.1, 1.58), ticks=[0, 0.1, 0.3, 0.6, 1])
    bar.set_label("density / its maximum", color=GREY)
    bar.outline.set_visible(False)
    populations(axes(6.9, 0.65, 5.3, 2.35), t, shown, population, limit, rates)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def lattice(n=300):
    """Points for contours: x (n,), y (n,) and the energy (n, n)."""
    x, y = np.linspace(LOWER, UPPER, n).T
    return x, y, V(np.stack(np.meshgrid(x, y)).reshape(2, -1)).reshape(n, n)


def landscape(figure, axes, bottom):
    """The energy, with its minima by name."""
    shades = axes.contourf(*lattice(), levels=np.arange(-150, 51, 10), cmap="viridis")
    axes.contour(
        *lattice(),
        levels=np.arange(-140, 41, 20),
        colors="white",
        linestyles="solid",
        linewidths=0.6,
        alpha=0.6,
    )
    for name, point, color in zip("ABC", bottom.T, COLORS):
        axes.plot(
            *point, "o", color="white", markeredgecolor=color, markeredgewidth=3, markersize=10
        )
        axes.annotate(
            name,
            point,
            (10, 8),
            textcoords="offset points",
            color="white",
            fontsize=17,
            fontweight="bold",
        )
    axes.set(xlabel="$x$", ylabel="$y$", facecolor="0.95")
    axes.set_title("energy $V$", fontsize=12, color=GREY)
    bar = figure.colorbar(
        shades, cax=axes.inset_axes([0.87, 0.56, 0.025, 0.38]), ticks=np.arange(-150, 51, 50)
    )
    bar.outline.set_visible(False)


def snapshot(axes, x, density, bottom):
    """The density, relative to its maximum, over contours of the energy."""
    from matplotlib.colors import PowerNorm

    colors = axes.tripcolor(
        *x, density / density.max(), shading="gouraud", cmap="magma", norm=PowerNorm(0.5, 0, 1)
    )
    axes.contour(
        *lattice(),
        levels=np.arange(-140, 41, 20),
        colors="white",
        linestyles="solid",
        linewidths=0.5,
        alpha=0.35,
    )
    for name, point in zip("ABC", bottom.T):
        axes.annotate(
            name,
            point,
            (11, 9),
            textcoords="offset points",
            color="white",
            fontsize=11,
            fontweight="bold",
            ha="center",
            va="center",
        )
    axes.set(xticks=[], yticks=[], xlim=(x[0].min(), x[0].max()), ylim=(x[1].min(), x[1].max()))
    axes.spines[:].set_visible(False)
    return colors


def populations(axes, t, shown, population, limit, rates):
    """The populations over time with their limits, the relaxation times, and the times of the
    pictures.
    """
    begin, end = t[1], t[-1]
    places = limit.copy()
    for i in np.argsort(limit)[1:]:  # labels do not overlap
        places[i] = max(limit[i], places[places < places[i]].max() + 0.11)
    for name, color, values, final, place in zip("ABC", COLORS, population, limit, places):
        axes.semilogx(t[1:], values[1:], color=color, linewidth=2.5, clip_on=False)
        axes.annotate(
            f"{name}  {final:.3f}",
            (end, place),
            (8, 0),
            textcoords="offset points",
            color=color,
            fontsize=12,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
    for rate, label in zip(rates, ("slow", "fast")):
        axes.axvline(1 / rate, 0, 0.93, color="0.6", linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(
            f"{label}: $t$ = {1 / rate:.3g}",
            (1 / rate, 1.04),
            ha="center",
            va="bottom",
            color=GREY,
            fontsize=10,
        )
    for number, i in zip("123", shown):
        axes.annotate(
            number,
            (max(t[i], begin), 1.19),
            ha="center",
            va="center",
            color=GREY,
            annotation_clip=False,
            bbox=dict(boxstyle="circle,pad=0.25", facecolor="white", edgecolor=GREY, linewidth=0.8),
        )
    axes.set(
        xlabel="time $t$",
        ylabel="population of the well",
        xlim=(begin, end),
        ylim=(0, 1.1),
        yticks=np.linspace(0, 1, 6),
    )
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    fvot.run(main)
