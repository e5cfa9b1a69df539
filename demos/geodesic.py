"""Optimal transport in a harbour: the shortest path from three blobs in the west to two in the
east, past islands and a mole.

    python demos/geodesic.py
    mpirun -n 2 python demos/geodesic.py --refine 1 --tol 5e-3 --out out/finer
    python demos/geodesic.py --start 0.55 1.15 0.13 --target 3.0 0.6 0.12 3.4 1.9 0.12

Mass takes the shortest way through the water, so it splits at an island and is pressed together
where paths meet. Both bounds of W2^2 hold for the given mesh; its own error is estimated by a
second run with --refine 1. Writes the series for ParaView, a picture and a movie.
"""

from pathlib import Path

import numpy as np

import fvot

WEST = 0.5, 1.5, 0.1, 0.6, 0.6, 0.1, 0.75, 2.15, 0.1  # x, y and width of each blob
EAST = 3.0, 0.6, 0.12, 3.4, 1.9, 0.12


def main(
    mesh=None,
    start=WEST,
    target=EAST,
    refine=0,
    n_steps=32,
    tol=1e-2,
    max_iter=1000,
    pictures=True,
    out="out/geodesic",
):
    """Find the shortest path between two densities on a mesh, with bounds of its cost.

    mesh: a mesh file, in the plane, in place of the harbour; start, target: x, y and width of blobs
    of the same mass; refine: times that each cell is split; n_steps: steps in time; tol: the
    certified relative gap between the bounds of W2^2; max_iter: iterations at most; out: folder for
    what is written.
    """
    mesh = fvot.Mesh.read(mesh) if mesh else fvot.example_mesh("harbour")
    if mesh.dim != 2 or refine < 0:
        raise fvot.InputError(
            f"this wants a mesh in the plane and refine >= 0, not {mesh.dim} dimensions and "
            f"{refine}"
        )
    for _ in range(refine):
        mesh = mesh.refine()
    rho0, rho1 = blobs(mesh, start, "start"), blobs(mesh, target, "target")
    path = fvot.BenamouBrenier(mesh, n_steps, tol=tol, max_iter=max_iter).solve(rho0, rho1)
    found = report(path, over_land(mesh, start, target))

    folder = Path(out).expanduser()
    path.write(folder / "geodesic.pvd")
    if pictures:
        picture(folder / "geodesic.png", path)
        path.movie(
            folder / "geodesic.gif", cmap=water(), clim=(0, brightest(path)), width=640, fps=10
        )
    fvot.say(f"ParaView opens {folder / 'geodesic.pvd'}")
    return found


def blobs(mesh, numbers, name):
    """The density (n_cells,) of Gaussians of the same mass, from x, y and width of each."""
    if len(numbers) % 3 or not numbers or min(numbers[2::3]) <= 0:
        raise fvot.InputError(
            f"{name} must be x, y and a width above 0 for each blob, not {numbers}"
        )
    return mesh.density(
        lambda x: sum(
            np.exp(-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * width**2)) / width**2
            for a, b, width in np.reshape(numbers, (-1, 3))
        )
    )


def over_land(mesh, start, target):
    """W2 between the same blobs if the whole box around the mesh were water."""
    lower, upper = mesh.ranks.min(mesh.points.min(axis=1)), mesh.ranks.max(mesh.points.max(axis=1))
    open_sea = fvot.Mesh.rectangle(
        lower, upper, np.ceil(64 * (upper - lower) / (upper - lower).max()).astype(int)
    )
    ends = blobs(open_sea, start, "start"), blobs(open_sea, target, "target")
    return np.sqrt(fvot.BenamouBrenier(open_sea, n_steps=16, tol=5e-3).solve(*ends).cost)


def report(path, crow):
    """Print what the path costs, and what shows that it is a path, and the shortest."""
    # the ends' steps are half as long
    mesh = path.mesh
    inner = path.speed[1:-1] if len(path.speed) > 2 else path.speed
    straight = np.linalg.norm(mesh.integrate((path.rho[-1] - path.rho[0]) * mesh.center))
    fvot.say(
        f"{mesh.n_cells_global} cells, {len(path.node_t) - 1} steps, {path.iterations} iterations "
        "on "
        f"{mesh.ranks.size} ranks\n"
        f"W2^2       between {path.lower_bound:.6f} and {path.cost:.6f}, a gap of {path.gap:.1e}\n"
        f"W2         {np.sqrt(path.cost):.4f}: root-mean-square distance through the water\n"
        f"           {crow:.2f}   in straight lines, over land\n"
        f"           {straight:.4f} from centre of mass to centre of mass\n"
        f"speed      between {inner.min():.4f} and {inner.max():.4f}; on a geodesic it is "
        "constant, W2\n"
        f"continuity holds to {path.residual:.1e} of the mass in each cell and step; smallest "
        "density "
        f"{mesh.ranks.min(path.rho.min()):.1e}"
    )
    return dict(
        cost=path.cost,
        lower_bound=path.lower_bound,
        straight=straight,
        slowest=inner.min(),
        fastest=inner.max(),
    )


# ---- the picture ---------------------------------------------------------------------------------

SHOWN = 0, 0.2, 0.4, 0.6, 0.8, 1
LINES, POINTS = 160, 81  # particles that are followed from either end, and times on their way
MET = 0.65  # when, at the latest, ways meet at the mole; until then they are followed from the west
WATER = "#f1f6fa", "#fbd08a", "#f3722c", "#c1121f", "#4a0420"  # from empty to full
LAND, COAST, TRACK = "#efe9dc", "#8d8471", "#1d3557"


def water():
    """A colour map, from water without mass to full."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "water", list(zip(np.linspace(0, 1, len(WATER)) ** 1.7, WATER))
    )


def brightest(path):
    """The density from which on the colour stays the same: at walls the density is many times
    higher than elsewhere.
    """
    return 1.4 * path.mesh.ranks.max(path.rho[[0, -1]].max())


def picture(file, path):
    """The density at some times, and the ways of particles, which are followed from both ends."""
    mesh = path.mesh
    if not mesh.has_simplices:
        path.plot(
            file,
            time=[round(t * (len(path.t) - 1)) for t in SHOWN],
            cmap=water(),
            clim=(0, brightest(path)),
        )
        return
    corners = mesh.gather(
        np.moveaxis(mesh.points[:, mesh.corners.reshape(-1, 3)], 1, 2)
    )  # (2, 3, n_cells)
    densities = mesh.gather(np.stack([path.at(t) for t in SHOWN])) / brightest(path)
    tracks = [
        *ways(path, path.rho[0], np.linspace(0, MET, POINTS)),
        *ways(path, path.rho[-1], np.linspace(1, MET, POINTS)),
    ]
    mesh.ranks.on_root(draw, file, corners, mesh.gather(mesh.volume), densities, tracks)


def ways(path, rho, times):
    """Where particles of the density rho (n_cells,) at the first of the times are at all of them:
    (LINES, n_times, 2).
    """
    mesh = path.mesh
    mass = np.cumsum(mesh.gather(rho * mesh.volume * (rho > 0.2 * mesh.ranks.max(rho.max()))))
    seeds = np.searchsorted(mass, mass[-1] * (np.arange(LINES) + 0.5) / LINES)
    points = mesh.gather(mesh.centroid)[:, seeds]
    track = [points]
    for t, tau in zip(times, np.diff(times)):
        middle = inside(mesh, points, tau / 2 * path.velocity_at(points, t))
        points = inside(mesh, points, tau * path.velocity_at(middle, t + tau / 2))
        track.append(points)
    return np.moveaxis(track, 2, 0)


def inside(mesh, points, step):
    """Points after a step; those that would leave the mesh stay."""
    return np.where(mesh.find(points + step)[1], points + step, points)


def draw(file, corners, volume, densities, tracks):
    """From the corners (2, 3, n_cells) of the triangles and the densities (n_times, n_cells),
    relative to the brightest.
    """
    from matplotlib.figure import Figure

    points, triangles = np.unique(corners.reshape(2, -1).round(9), axis=1, return_inverse=True)
    triangles = triangles.reshape(3, -1).T
    margin = 0.02 * np.ptp(points, axis=1).max()
    lower, upper = points.min(axis=1) - margin, points.max(axis=1) + margin
    # inches, but for the first
    columns = 3
    gap = 0.1
    title = 0.32
    across = 4.2
    up = across * (upper - lower)[1] / (upper - lower)[0]
    width = columns * (across + gap) - gap
    height = -(-len(SHOWN) // columns) * (title + up)
    figure = Figure((width, height))
    for k, (t, density) in enumerate(zip(SHOWN, densities)):
        row, column = divmod(k, columns)
        place = (
            column * (across + gap) / width,
            1 - (row + 1) * (title + up) / height,
            across / width,
            up / height,
        )
        axes = figure.add_axes(
            place,
            facecolor=LAND,
            xticks=[],
            yticks=[],
            xlim=(lower[0], upper[0]),
            ylim=(lower[1], upper[1]),
        )
        axes.spines[:].set_visible(False)
        axes.set_title(f"$t$ = {t:g}", fontsize=14, color="0.25", pad=5)
        chart(axes, points, triangles, on_points(triangles, volume, density), tracks)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def on_points(triangles, volume, density):
    """Means over the triangles around each point."""
    of = triangles.ravel()
    return np.bincount(of, np.repeat(volume * density, 3)) / np.bincount(of, np.repeat(volume, 3))


def chart(axes, points, triangles, density, tracks):
    """Water with a density, the ways of particles, and the coast."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    axes.tripcolor(*points, triangles, density, shading="gouraud", cmap=water(), vmin=0, vmax=1)
    axes.add_collection(
        LineCollection(tracks, colors=TRACK, linewidths=0.4, alpha=0.2), autolim=False
    )
    edges = np.sort(
        np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1
    )
    edges, count = np.unique(edges, axis=0, return_counts=True)
    coast = Curve.make_compound_path_from_polys(points.T[edges[count == 1]])
    axes.add_patch(PathPatch(coast, fill=False, edgecolor=COAST, linewidth=1.0, joinstyle="round"))


if __name__ == "__main__":
    fvot.run(main)
