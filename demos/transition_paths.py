"""The rate and the way of a rare reaction: transition paths between the two deep wells of Mueller
and Brown, beside the formula of Eyring and Kramers.

    python demos/transition_paths.py
    mpirun -n 2 python demos/transition_paths.py --mesh triangles --kT 5

An overdamped molecule, dX = -grad V dt + sqrt(2 kT) dW, in the energy V(x, y) of K. Mueller and
L. D. Brown (Theor. Chim. Acta 53, 1979) stays in the deepest well A nearly always. The committor q,
the probability to come to B before A, solves

    kT div grad q - grad V . grad q = 0,    q = 0 in A,    q = 1 in B.

With the density rho = e^(-V/kT) / Z, the current of the paths from A to B is kT rho grad q, and the
rate is what crosses any line between A and B. At low temperatures (Eyring 1935, Kramers 1940)

    k_AB = |mu| / (2 pi) sqrt(det H(A) / |det H(S)|) e^(-(V(S) - V(A)) / kT),

where H are the second derivatives of V, and mu is the negative eigenvalue of H at the pass S.
Writes the fields for ParaView, a picture and a table of rates.
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
NEAR = (-0.56, 1.44), (0.62, 0.03), (-0.05, 0.47), (-0.82, 0.62)  # A, B, C and the pass to A
TEMPERATURES = 20.0, 10.0, 5.0, 2.5, 1.0  # of the table

# V = sum_k HEIGHT_k e^(d . SHAPE_k d / 2), d = x - CENTER_k
HEIGHT = np.array([-200, -100, -170, 15])
CENTER = np.array([(1, 0), (0, 0.5), (-0.5, 1.5), (-1, 1)])
SHAPE = np.array(
    [
        [[-2, 0], [0, -20]],
        [[-2, 0], [0, -20]],
        [[-13, 11], [11, -13]],
        [[1.4, 0.6], [0.6, 1.4]],
    ]
)


def V(x):
    """The energy (n,) at points x (2, n)."""
    d = x - CENTER[:, :, None]
    return HEIGHT @ np.exp((d * (SHAPE @ d)).sum(axis=1) / 2)


def derivatives(x):
    """grad V (2,) and H (2, 2), the second derivatives, at a point x (2,)."""
    d = x - CENTER
    slope = np.einsum("kij,kj->ki", SHAPE, d)
    value = HEIGHT * np.exp((d * slope).sum(axis=1) / 2)
    return value @ slope, np.einsum("k,kij->ij", value, slope[:, :, None] * slope[:, None] + SHAPE)


def critical_point(near):
    """The minimum or pass (2,) of V near a point, by Newton's method."""
    x = np.array(near)
    for _ in range(8):
        x = x - np.linalg.solve(*derivatives(x)[::-1])
    return x


def barrier(well, top):
    """The energy of a pass above a well."""
    return np.diff(V(np.stack([well, top], axis=1)))[0]


def within(center, radius):
    """Whether points x (2, n) are nearer to a center than the radius."""
    return lambda x: np.hypot(*(x - center[:, None])) < radius


def eyring_kramers(well, top, kT):
    """The rate at which a well is left through a pass."""
    at_well = derivatives(well)[1]
    at_top = derivatives(top)[1]
    prefactor = -np.linalg.eigvalsh(at_top)[0] / (2 * np.pi)
    shape = np.sqrt(np.linalg.det(at_well) / -np.linalg.det(at_top))
    return prefactor * shape * np.exp(-barrier(well, top) / kT)


def main(mesh="squares", n=100, kT=10.0, radius=0.1, pictures=True, out="out/transition_paths"):
    """Follow the paths from the deepest well A of the surface of Mueller and Brown to the well B.

    mesh: squares, triangles or polygons; n: cells along x; kT: the temperature, in units of the
    energy; radius: of the discs A and B; out: folder for what is written.
    """
    if mesh not in MESHES:
        raise fvot.InputError(f"mesh must be one of {', '.join(MESHES)}, not {mesh!r}")
    if not kT > 0:
        raise fvot.InputError(f"kT must be above 0, not {kT:g}")
    mesh = MESHES[mesh](n)
    a, b, c, top = (critical_point(near) for near in NEAR)
    A = within(a, radius)
    B = within(b, radius)

    equation = fvot.FokkerPlanck(mesh, diffusion=kT, potential=V)
    paths = equation.transition_paths(A, B)
    in_A = mesh.density(A)
    time = mesh.integrate(in_A * equation.mean_first_passage_time(B))
    under_way = mesh.integrate(paths.density)
    at_top, at_c = (
        mesh.integrate(mesh.deposit(x[:, None], [1.0]) * paths.committor) for x in (top, c)
    )

    fvot.say(
        f"{mesh.n_cells_global} cells on {mesh.ranks.size} ranks, kT = {kT:g}, barrier "
        f"{barrier(a, top) / kT:.1f} kT\n"
        f"rate of transitions   {paths.rate:.9e}\n"
        f"k_AB, k_BA            {paths.k_AB:.9e}, {paths.k_BA:.9e}\n"
        f"coming from A         {paths.rate / paths.k_AB:.6f} of the time\n"
        f"mean time from A to B {time:.6e}, times k_AB {time * paths.k_AB:.6f}\n"
        f"under way from A to B {under_way:.6e} of the time, {under_way / paths.rate:.4e} each\n"
        f"committor             {at_top:.3f} at the pass, {at_c:.6f} in the third well"
    )
    rates = table(mesh, A, B, a, b, top)

    folder = Path(out).expanduser()
    fields = dict(committor=paths.committor, paths=paths.density, current=paths.current, energy=V)
    mesh.write(folder / "transition_paths.pvd", fields)
    if pictures:
        picture(folder / "transition_paths.png", mesh, paths, (a, b, c), rates, kT)
    fvot.say(f"\nParaView opens {folder / 'transition_paths.pvd'}")
    return dict(
        rate=paths.rate,
        k_AB=paths.k_AB,
        k_BA=paths.k_BA,
        time=time,
        under_way=under_way,
        at_top=at_top,
        **{f"ratio_{kT:g}": row[0] / row[2] for kT, row in zip(TEMPERATURES, rates)},
        **{f"back_{kT:g}": row[1] / row[3] for kT, row in zip(TEMPERATURES, rates)},
    )


def table(mesh, A, B, a, b, top):
    """Print rates at ever lower temperatures; return (k_AB, k_BA, both by the formula) of each."""
    rows = []
    fvot.say(
        f"\n{'kT':>4} {'barrier/kT':>10} {'k_AB':>12} {'k_BA':>12} {'off the slowest rate':>21} "
        f"{'formula':>12} {'ratio':>7}"
    )
    for kT in TEMPERATURES:
        equation = fvot.FokkerPlanck(mesh, diffusion=kT, potential=V)
        paths = equation.transition_paths(A, B)
        slowest = equation.relaxation_rates(1)[0]
        formula = eyring_kramers(a, top, kT)
        fvot.say(
            f"{kT:4g} {barrier(a, top) / kT:10.1f} {paths.k_AB:12.5e} {paths.k_BA:12.5e} "
            f"{abs((paths.k_AB + paths.k_BA) / slowest - 1):21.0e} {formula:12.5e} "
            f"{paths.k_AB / formula:7.4f}"
        )
        rows.append((paths.k_AB, paths.k_BA, formula, eyring_kramers(b, top, kT)))
    return np.array(rows)


# ---- the picture ---------------------------------------------------------------------------------

RED, BLUE, GREY = "#d1495b", "#4064b0", "0.35"


def picture(path, mesh, paths, wells, rates, kT):
    """The committor with the current, the density of the paths, and rates over temperature."""
    from matplotlib.figure import Figure

    figure = Figure((13.3, 5.9))
    large = figure.add_axes((0.045, 0.09, 0.42, 0.83))
    small = figure.add_axes((0.61, 0.56, 0.3, 0.35))
    root_of_current = paths.current / np.sqrt(np.maximum(np.hypot(*paths.current), 1e-300))
    mesh.plot(
        paths.committor,
        ax=large,
        label="committor",
        cmap="coolwarm",
        clim=(0, 1),
        arrows=root_of_current,
    )
    mesh.plot(paths.density, ax=small, label="density", cmap="magma")
    mesh.ranks.on_root(finish, path, figure, wells, rates, kT)


def finish(path, figure, wells, rates, kT):
    """Add contours of the energy, names, and the rates; write the picture."""
    large, small = figure.axes
    x, y = np.linspace(LOWER, UPPER, 300).T
    energy = V(np.stack(np.meshgrid(x, y)).reshape(2, -1)).reshape(300, 300)
    badge = dict(boxstyle="circle,pad=0.25", facecolor="white", edgecolor=GREY, linewidth=0.8)
    for axes, color in (large, "black"), (small, "white"):
        axes.contour(
            x,
            y,
            energy,
            levels=np.arange(-140, 101, 20),
            colors=color,
            linestyles="solid",
            linewidths=0.6,
            alpha=0.4,
        )
    for name, well in zip("ABC", wells):
        large.annotate(
            name, well, fontsize=13, fontweight="bold", ha="center", va="center", bbox=badge
        )
        small.annotate(
            name, well, (9, 7), textcoords="offset points", color="white", fontweight="bold"
        )
    large.set_title(f"committor, and current from A to B, kT = {kT:g}", fontsize=12, color=GREY)
    small.set_title("density of paths under way", fontsize=12, color=GREY)
    draw_rates(figure.add_axes((0.62, 0.09, 0.36, 0.36)), rates)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def draw_rates(axes, rates):
    """Both rates over 1/kT, computed (dots) and by the formula (lines)."""
    inverse = 1 / np.array(TEMPERATURES)
    names = "from A to B", "from B to A"
    for name, color, computed, formula in zip(names, (BLUE, RED), rates.T[:2], rates.T[2:]):
        axes.semilogy(inverse, formula, color=color, linewidth=1.5)
        axes.semilogy(inverse, computed, "o", color=color, label=name)
    axes.set(xlabel="1 / kT", ylabel="rate")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    fvot.run(main)
