"""Optimal transport on any mesh: squares, right triangles, squares beside smaller ones and warped
quadrilaterals, against the exact W2^2 and density.

    python demos/any_mesh.py
    mpirun -n 2 python demos/any_mesh.py --n 48 --tol 1e-3

A blob in the west becomes two in the east. Both are products of a density of x and one of y, so the
coordinates move independently: half way the quantiles are the means of q0 and q1, and W2^2 is the
sum of the means of |q1(p) - q0(p)|^2 over p in (0, 1).

On squares both schemes are the same: two-point slopes across faces. Elsewhere "auto" uses fluxes to
corners, while two-point slopes converge to a wrong limit, give an oscillating density, or take many
iterations. Writes a series for ParaView for each mesh, and a picture of all of them.
"""

import warnings
from pathlib import Path

import numpy as np
from scipy.special import ndtr

import fvot

START = ((0.2, 0.08),), ((0.5, 0.08),)  # (mean, width) of Gaussians in x, and in y
END = ((0.8, 0.08),), ((0.25, 0.08), (0.75, 0.08))


# ---- the meshes ----------------------------------------------------------------------------------


def grid(n):
    """The points (2, (n + 1)^2) of a grid of the unit square, and their numbers by row and
    column.
    """
    side = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(side, side, indexing="ij")).reshape(2, -1)
    return points, np.arange((n + 1) ** 2).reshape(n + 1, n + 1)


def quadrilaterals(k):
    """The cells (n, n, 4) between the points k (n + 1, n + 1) of a grid."""
    return np.stack([k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]], axis=-1)


def squares(n):
    points, k = grid(n)
    return points, "quad", quadrilaterals(k).reshape(-1, 4)


def right_triangles(n):
    """Squares, each cut in two along the same diagonal."""
    points, _, cells = squares(n)
    return points, "triangle", np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])


def hanging_nodes(n):
    """Squares, those in the middle cut in four: their points hang on the edges of neighbours."""
    points, k = grid(2 * n)
    middle = (np.arange(n) + 0.5) / n
    is_cut = (abs(middle - 0.5) < 0.25)[:, None] & (abs(middle - 0.5) < 0.4)
    large = quadrilaterals(k[::2, ::2])[~is_cut]
    small = quadrilaterals(k)[is_cut.repeat(2, axis=0).repeat(2, axis=1)]
    used, cells = np.unique(np.concatenate([large, small]), return_inverse=True)
    return points[:, used], "quad", cells.reshape(-1, 4)


def warped(n):
    """Squares, both of whose coordinates are moved by products of sines."""
    (x, y), kind, cells = squares(n)
    x_moved = x + 0.075 * np.sin(np.pi * x) * np.sin(2 * np.pi * y)
    y_moved = y + 0.075 * np.sin(2 * np.pi * x) * np.sin(np.pi * y)
    return np.stack([x_moved, y_moved]), kind, cells


MESHES = {
    "squares": squares,
    "right triangles": right_triangles,
    "hanging nodes": hanging_nodes,
    "warped": warped,
}


# ---- the problem ---------------------------------------------------------------------------------


def density(mesh, ends):
    """The product of sums of Gaussians in x and in y."""

    def along(x, blobs):
        return sum(np.exp(-(((x - mean) / width) ** 2) / 2) for mean, width in blobs)

    return mesh.density(lambda x: along(x[0], ends[0]) * along(x[1], ends[1]))


def quantiles(blobs, n=20_000):
    """Of a sum of Gaussians that is cut off at 0 and 1, at the n midpoints of (0, 1)."""
    x = np.linspace(0, 1, n + 1)
    below = sum(width * ndtr((x - mean) / width) for mean, width in blobs)
    below = (below - below[0]) / (below[-1] - below[0])
    return np.interp((np.arange(n) + 0.5) / n, below, x)


def exact():
    """W2^2, and the density half way, a function of x (2, n)."""
    ways = [(quantiles(start), quantiles(end)) for start, end in zip(START, END)]
    half = [(q0 + q1) / 2 for q0, q1 in ways]

    def density(x):
        factors = (
            np.interp(x_i, (q[1:] + q[:-1]) / 2, 1 / np.diff(q) / len(q), left=0, right=0)
            for x_i, q in zip(x, half)
        )
        return np.prod(list(factors), axis=0)

    return sum(((q1 - q0) ** 2).mean() for q0, q1 in ways), density


# ---- the table -----------------------------------------------------------------------------------


def main(n=32, levels=2, tol=2e-3, max_iter=1000, pictures=True, out="out/any_mesh"):
    """Print both bounds of W2^2, and the errors of W2^2 and of the density half way, on four kinds
    of meshes, coarse ones first.

    n: squares along a side of the finest mesh, and twice the steps in time; levels: sizes, each
    with half as many squares along a side as the next; tol: the certified relative gap between the
    bounds; max_iter: iterations at most; out: folder for what is written.
    """
    if levels < 1 or n < 8 * 2 ** (levels - 1):
        raise fvot.InputError(
            "this takes levels >= 1 and 8 or more squares along a side of the coarsest mesh, not "
            f"levels = {levels} and n = {n}"
        )
    value, half = exact()
    fvot.say(
        f"W2^2 = {value:.6f}\n{'':15} {'scheme':10} {'cells':>6} {'iterations':>10} "
        f"{'lower_bound':>12} {'cost':>9} {'error':>9} {'density':>8}"
    )
    paths = {}
    errors = {}
    for name, make in MESHES.items():
        for scheme in "auto", "two_point":
            for level in reversed(range(levels)):
                across = n // 2**level
                points, kind, cells = make(across)
                mesh = fvot.Mesh.from_cells(points, [(kind, cells)])
                path = transport(mesh, across // 2, scheme, tol, max_iter)
                error = (path.lower_bound + path.cost) / 2 / value - 1
                apart = mesh.integrate(abs(path.at(0.5) - mesh.average(half)))
                fvot.say(
                    f"{name:15} {scheme:10} {mesh.n_cells_global:6} {path.iterations:10} "
                    f"{path.lower_bound:12.6f} {path.cost:9.6f} {error:+9.1e} {apart:8.1e}"
                )
            paths[name, scheme] = path
            errors[name, scheme] = error

    folder = Path(out).expanduser()
    for (name, scheme), path in paths.items():
        path.write(folder / f"{name}_{scheme}.pvd".replace(" ", "_"))
    if pictures:
        picture(folder / "any_mesh.png", n, paths, errors)
    fvot.say(f"ParaView opens the .pvd files in {folder}")
    return {f"{name}, {scheme}": 1 + error for (name, scheme), error in errors.items()}


def transport(mesh, n_steps, scheme, tol, max_iter):
    """The path from START to END; that the mesh is not made for two-point slopes is known here."""
    with warnings.catch_warnings():
        if scheme == "two_point":
            warnings.simplefilter("ignore", UserWarning)
        solver = fvot.BenamouBrenier(mesh, n_steps, scheme=scheme, tol=tol, max_iter=max_iter)
        return solver.solve(density(mesh, START), density(mesh, END))


# ---- the picture ---------------------------------------------------------------------------------

SHOWN = {0: "#2a6fbb", 0.5: "#8a4fb5", 1: "#d1495b"}  # times and their colours
INK, LINES = "0.25", "0.72"


def picture(file, n, paths, errors):
    """Draw the densities of three times on top of each other, a column for each mesh, a row for
    each scheme.
    """
    panels = {}
    for key, path in paths.items():
        mesh = path.mesh
        panels[key] = mesh.gather(np.stack([path.at(t) for t in SHOWN])), errors[key]
    mesh.ranks.on_root(draw, file, n, panels)


def draw(file, n, panels):
    """From {(mesh, scheme): (densities (n_times, n_cells), error)}."""
    from matplotlib.figure import Figure

    meshes = list(dict.fromkeys(name for name, _ in panels))
    schemes = list(dict.fromkeys(scheme for _, scheme in panels))
    figure = Figure((3.1 * len(meshes) + 0.3, 3.45 * len(schemes) + 0.3), layout="constrained")
    grid_of_axes = figure.subplots(len(schemes), len(meshes))
    for scheme, row in zip(schemes, grid_of_axes):
        for name, axes in zip(meshes, row):
            densities, error = panels[name, scheme]
            points, _, cells = MESHES[name](n)
            paint(axes, np.moveaxis(points[:, cells], 0, 2), densities)
            axes.set_xlabel(f"$W_2^2$ off by {100 * error:+.2f} %", fontsize=12, color=INK)
        row[0].set_ylabel(f'scheme="{scheme}"', fontsize=13, color=INK)
    for name, axes in zip(meshes, grid_of_axes[0]):
        axes.set_title(name, fontsize=15, color=INK)
    for place, (t, color) in zip((0.04, 0.31, 0.68), SHOWN.items()):
        grid_of_axes[0, 0].text(place, 0.04, f"$t$ = {t:g}", color=color, fontsize=13)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def paint(axes, corners, densities):
    """Cells with corners (n_cells, width, 2); each time takes the light of other colours away, as
    inks on paper do.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    light = np.ones((len(corners), 3))
    for density, color in zip(densities, SHOWN.values()):
        strength = (density / density.max())[:, None] ** 0.8
        light *= 1 - strength * (1 - np.array(to_rgb(color)))
    axes.add_collection(PolyCollection(corners, facecolors=light, edgecolors=LINES, linewidths=0.3))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color(LINES)


if __name__ == "__main__":
    fvot.run(main)
