"""Two snapshots of a population of cells, and how it most likely got from one to the other: a
Schroedinger bridge at ever less noise, and optimal transport, which has none.

    python demos/snapshots.py
    mpirun -n 2 python demos/snapshots.py --n 48 --noise 0.1 0.02
    python demos/snapshots.py day2.txt day7.txt

To measure a cell is to kill it: its future is not seen, only another sample, later. One cloud of
cells has become three fates by then. If single cells move by noise, dX = sqrt(eps) dW, the most
likely motion between the densities rho_0 and rho_1 has the velocity v that minimises the action

    A = min int int rho |v|^2 / 2 + eps^2 / 8 rho |grad log rho|^2 dx dt,

and 2 A tends to W2^2 as eps -> 0, like eps^2. The densities are kernel estimates of the samples:
point masses that have diffused for a while. Files have two numbers on a line, one line for each
cell. Writes the series for ParaView and a picture.
"""

from pathlib import Path

import numpy as np

import fvot

FIRST = ((0.22, 0.5, 0.055, 600),)  # x, y, width and number of cells of each cloud
SECOND = (0.7, 0.8, 0.045, 180), (0.82, 0.48, 0.04, 150), (0.68, 0.2, 0.05, 270)
NOISE = 0.1, 0.03, 0.01, 0.005
MARGIN = 0.15  # around the cells of files, part of their extent

# h |v| / eps above which sweeps of the reference pay.
RESOLUTION = 0.3


def draw_cells(clouds, seed):
    """Points (2, n) of Gaussian clouds."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal((x, y), s, (k, 2)) for x, y, s, k in clouds]).T


def read_cells(*names):
    """The points (2, n) of each file, in units in which all of them fit into the unit square."""
    points = [read_points(name) for name in names]
    together = np.concatenate(points, axis=1)
    center = (together.min(axis=1) + together.max(axis=1)) / 2
    extent = np.ptp(together, axis=1).max()
    if not extent > 0:
        raise fvot.InputError(f"all cells of {' and '.join(names)} are at the same place")
    return [0.5 + (x - center[:, None]) / ((1 + 2 * MARGIN) * extent) for x in points]


def read_points(name):
    """The points (2, n) of a file."""
    try:
        points = np.loadtxt(Path(name).expanduser(), ndmin=2).T
    except (OSError, ValueError) as error:
        raise fvot.InputError(f"{name} cannot be read as a table of numbers: {error}") from error
    if len(points) != 2:
        raise fvot.InputError(f"{name} must have two numbers on a line, not {len(points)}")
    return points


def estimate_density(mesh, points, width):
    """The density of a sample: point masses that have diffused to Gaussians of a width."""
    heat = fvot.FokkerPlanck(mesh, diffusion=width**2 / 2)
    return heat.solve(mesh.density(points), [0, 1], tau=1 / 32).rho[-1]


def main(
    first="",
    second="",
    /,
    n=64,
    noise=NOISE,
    width=0.035,
    n_steps=64,
    sweeps=3,
    tol=1e-3,
    pictures=True,
    out="out/snapshots",
):
    """Find the most likely motion between two snapshots of cells, at ever less noise.

    first, second: files of points; n: grid cells along a side; noise: eps, the variance that a cell
    gains in each direction, in units of the square of the side; width: of the kernel that makes
    samples densities; n_steps: steps in time; sweeps: of the reference, where noise is small; tol:
    the certified relative gap between the bounds of W2^2; out: folder for what is written.
    """
    if bool(first) != bool(second):
        raise fvot.InputError(f"give two files, or none: {first} alone has no second snapshot")
    cells = draw_cells(FIRST, 1), draw_cells(SECOND, 2)
    if first:
        cells = read_cells(first, second)
    mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (n, n))
    rho0, rho1 = (estimate_density(mesh, points, width) for points in cells)

    geodesic = fvot.BenamouBrenier(mesh, n_steps, tol=tol).solve(rho0, rho1)
    fvot.say(
        f"{cells[0].shape[1]} and {cells[1].shape[1]} cells, {n} x {n} grid, {n_steps} steps, "
        f"{mesh.ranks.size} ranks\n"
        f"W2^2 between {geodesic.lower_bound:.6f} and {geodesic.cost:.6f}\n\n"
        f"{'eps':>6} {'sweeps':>6} {'cost':>9} {'upper-lower':>11} {'action A':>9} "
        f"{'2 A - W2^2':>10} {'/ eps^2':>8} {'h|v|/eps':>8} {'ends':>7} {'middle':>7}"
    )
    bridges = []
    for eps in noise:
        further = sweeps if np.sqrt(geodesic.cost) / n > RESOLUTION * eps else 0
        equation = fvot.FokkerPlanck(mesh, diffusion=eps / 2)
        bridge = fvot.SchroedingerBridge(equation, n_steps, sweeps=further).solve(rho0, rho1)
        report(eps, further, bridge, geodesic)
        bridges.append(bridge)

    folder = Path(out).expanduser()
    for eps, bridge in zip(noise, bridges):
        bridge.write(folder / f"noise_{eps:g}.pvd")
    geodesic.write(folder / "geodesic.pvd")
    if pictures:
        picture(folder / "snapshots.png", cells, noise, bridges, geodesic)
    fvot.say(f"\nParaView opens {folder}/noise_*.pvd and {folder / 'geodesic.pvd'}")
    return dict(
        cost=geodesic.cost,
        lower_bound=geodesic.lower_bound,
        **{f"cost_{eps:g}": bridge.cost for eps, bridge in zip(noise, bridges)},
        **{f"action_{eps:g}": bridge.action for eps, bridge in zip(noise, bridges)},
        **{f"middle_{eps:g}": distance(bridge, geodesic) for eps, bridge in zip(noise, bridges)},
    )


def report(eps, sweeps, bridge, geodesic):
    """Print a line of the table."""
    excess = 2 * bridge.action - geodesic.cost
    fvot.say(
        f"{eps:6g} {sweeps:6} {bridge.cost:9.6f} {bridge.upper_bound - bridge.lower_bound:11.0e} "
        f"{bridge.action:9.6f} {excess:10.6f} {excess / eps**2:8.2f} {bridge.resolution:8.2f} "
        f"{bridge.marginal_error:7.0e} {distance(bridge, geodesic):7.4f}"
    )


def distance(bridge, geodesic):
    """The difference in L1 of both densities half-way."""
    return bridge.mesh.integrate(np.abs(bridge.at(0.5) - geodesic.at(0.5)))


# ---- the picture ---------------------------------------------------------------------------------

RED, BLUE, GREY = "#d1495b", "#4064b0", "0.35"
SHOWN = 0.25, 0.5, 0.75
BRIGHTEST = 0.8  # of the highest density of both snapshots: the colours end there
FAINT = 0.02  # of the same: there are no arrows where the density is below
ARROWS = 16  # along a side, at most

# Inches.
SIDE, GAP, LEFT, BETWEEN, TOP = 2.2, 0.08, 0.6, 0.4, 0.38


def picture(path, cells, noise, bridges, geodesic):
    """The samples and the actions; the density at some times (rows) at each noise (columns)."""
    mesh = geodesic.mesh
    top = mesh.ranks.max(geodesic.rho[[0, -1]].max())
    frames = [[gather_frame(motion, t, top) for t in SHOWN] for motion in (*bridges, geodesic)]
    excess = [2 * bridge.action - geodesic.cost for bridge in bridges]
    mesh.ranks.on_root(draw, path, cells, noise, excess, frames)


def gather_frame(motion, t, top):
    """The density (nx, ny), relative to a highest one, and the velocity (2, nx, ny) at a time."""
    mesh = motion.mesh
    near = np.abs(motion.t - t).argmin()
    density = mesh.gather(motion.at(t)).reshape(mesh.block.grid)
    return density / top, mesh.gather(motion.velocity[near]).reshape(2, *mesh.block.grid)


def draw(path, cells, noise, excess, frames):
    """Write the picture, of frames [motion][time], of which the last motion is transport."""
    from matplotlib.figure import Figure

    width = LEFT + SIDE + BETWEEN + len(frames) * (SIDE + GAP)
    height = TOP + len(SHOWN) * (SIDE + GAP)
    figure = Figure((width, height))

    def add_panel(x, row, shrink=0.0):
        y = height - TOP - row * (SIDE + GAP) - SIDE
        side = SIDE - shrink
        return figure.add_axes((x / width, (y + shrink) / height, SIDE / width, side / height))

    for row, (points, color) in enumerate(zip(cells, (BLUE, RED))):
        axes = add_panel(LEFT, row)
        axes.plot(*points, ".", color=color, markersize=2)
        axes.text(0.04, 0.04, f"$t$ = {row}", fontsize=12, color=GREY)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
    draw_excess(add_panel(LEFT, len(cells), shrink=0.4), noise, excess)

    titles = [f"noise $\\varepsilon$ = {eps:g}" for eps in noise] + ["no noise: transport"]
    for column, (title, motion) in enumerate(zip(titles, frames)):
        for row, (t, frame) in enumerate(zip(SHOWN, motion)):
            axes = add_panel(LEFT + SIDE + BETWEEN + column * (SIDE + GAP), row)
            draw_frame(axes, *frame)
            if row == 0:
                axes.set_title(title, fontsize=12, color=GREY)
            if column == 0:
                axes.set_ylabel(f"$t$ = {t:g}", fontsize=12, color=GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_frame(axes, density, velocity):
    """A density (nx, ny) in colours, and its velocity (2, nx, ny) as arrows."""
    from matplotlib.colors import PowerNorm

    axes.imshow(
        density.T,
        extent=(0, 1, 0, 1),
        origin="lower",
        cmap="magma",
        norm=PowerNorm(0.6, 0, BRIGHTEST),
        interpolation="bicubic",
    )
    step = -(-len(density) // ARROWS)
    lattice = np.zeros(density.shape, bool)
    lattice[step // 2 :: step, step // 2 :: step] = True
    i, j = np.nonzero(lattice & (density > FAINT))
    axes.quiver(
        *(np.array([i, j]) + 0.5) / len(density),
        *velocity[:, i, j],
        color="white",
        scale=9,
        width=0.007,
        alpha=0.85,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_excess(axes, noise, excess):
    """How far twice the actions are above W2^2, over the noise, beside a line of order 2."""
    square = excess[-1] * (np.array(noise) / noise[-1]) ** 2
    axes.loglog(noise, square, "--", color=GREY, linewidth=1)
    axes.loglog(noise, excess, "o-", color=BLUE)
    axes.set_xlabel("noise $\\varepsilon$", color=GREY, labelpad=0)
    axes.text(0.06, 0.84, "$2A - W_2^2$", fontsize=12, color=BLUE, transform=axes.transAxes)
    axes.text(0.6, 0.2, "order 2", color=GREY, transform=axes.transAxes)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    fvot.run(main)
