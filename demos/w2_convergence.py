"""How accurate is W2? Four problems with known answers, on squares, triangles and Voronoi polygons.

    python demos/w2_convergence.py
    mpirun -n 2 python demos/w2_convergence.py --problems gaussians --n 32 --levels 3

All densities are products of one of x and one of y, so optimal transport moves the coordinates
independently, W2^2 is a sum over the axes, and in one dimension W2^2 is the mean of
|q1(p) - q0(p)|^2 over p in (0, 1), q being the quantiles.

The discrete W2^2 is known up to the certified gap. Its error against the exact one is the mesh's
(and the time step's): the table has it at both bounds and in the middle between them, and the order
from one size to the next. Writes a picture.
"""

from pathlib import Path

import numpy as np
from scipy.special import ndtr

import fvot

MESHES = {  # with about n^2 cells each
    "squares": lambda n: fvot.Mesh.rectangle((0, 0), (1, 1), (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles((0, 0), (1, 1), round(0.7 * n)),
    "polygons": lambda n: fvot.Mesh.voronoi((0, 0), (1, 1), n * n),
}


# ---- densities on (0, 1) and their integrals from the left, up to factors ------------------------


def wave(a, k):
    """1 + a cos(k pi x)."""
    return (
        lambda x: 1 + a * np.cos(k * np.pi * x),
        lambda x: x + a * np.sin(k * np.pi * x) / (k * np.pi),
    )


def gaussian(mean, width):
    """A Gaussian, cut off at 0 and 1."""
    return lambda x: np.exp(-(((x - mean) / width) ** 2) / 2), lambda x: ndtr((x - mean) / width)


def block(left, right):
    """1 between left and right."""
    return lambda x: (x > left) & (x < right), lambda x: np.clip(x, left, right)


def bump(center, width):
    """(1 - s^2)^2, s = (x - center) / width, where that is between -1 and 1."""

    def s(x):
        return np.clip((x - center) / width, -1, 1)

    return lambda x: (1 - s(x) ** 2) ** 2, lambda x: s(x) - 2 * s(x) ** 3 / 3 + s(x) ** 5 / 5


PROBLEMS = {  # (in x, in y) at the start and at the end
    "waves": ((wave(0.7, 2), wave(0.5, 1)), (wave(-0.7, 2), wave(-0.6, 1))),
    "gaussians": (
        (gaussian(0.3, 0.07), gaussian(0.3, 0.1)),
        (gaussian(0.7, 0.12), gaussian(0.65, 0.06)),
    ),
    "blocks": ((block(0.1, 0.4), block(0.1, 0.4)), (block(0.6, 0.8), block(0.5, 0.9))),
    "bumps": ((bump(0.25, 0.15), bump(0.3, 0.2)), (bump(0.7, 0.25), bump(0.7, 0.12))),
}


def exact(problem, n=200_000):
    """W2^2, by the quantiles of both ends along each axis."""
    return sum(
        ((quantiles(start, n) - quantiles(end, n)) ** 2).mean() for start, end in zip(*problem)
    )


def quantiles(axis, n):
    """Quantiles at the n midpoints of (0, 1)."""
    x = np.linspace(0, 1, n + 1)
    below = axis[1](x)
    return np.interp((np.arange(n) + 0.5) / n, (below - below[0]) / (below[-1] - below[0]), x)


def density(mesh, axes):
    """The product of a density in x and one in y."""
    (f, _), (g, _) = axes
    return mesh.density(lambda x: f(x[0]) * g(x[1]))


# ---- the table -----------------------------------------------------------------------------------


def main(
    problems=tuple(PROBLEMS),
    meshes=tuple(MESHES),
    n=16,
    levels=3,
    tol=2e-3,
    max_iter=3000,
    pictures=True,
    out="out/w2_convergence",
):
    """Print the relative errors of W2^2 on meshes with about n^2, 4 n^2, 16 n^2 ... cells, and n/2,
    n, 2 n ... steps in time.

    problems: some of waves, gaussians, blocks, bumps; meshes: some of squares, triangles, polygons;
    levels: sizes; tol: the certified relative gap on the coarsest mesh, and a quarter of it on each
    that is finer; max_iter: iterations at most.
    """
    for name, known in [
        *((name, PROBLEMS) for name in problems),
        *((name, MESHES) for name in meshes),
    ]:
        if name not in known:
            raise fvot.InputError(f"{name!r} is none of {', '.join(known)}")
    if levels < 1:
        raise fvot.InputError(f"levels must be 1 or more, not {levels}")
    made = {kind: [MESHES[kind](n * 2**level) for level in range(levels)] for kind in meshes}
    table = {}
    for problem in problems:
        value = exact(PROBLEMS[problem])
        fvot.say(
            f"\n{problem}: W2^2 = {value:.9f}\n{'':10} {'cells':>7} {'steps':>5} "
            f"{'iterations':>10} "
            f"{'lower bound':>12} {'cost':>10} {'error':>10} {'order':>6}"
        )
        for kind in meshes:
            rows = table[problem, kind] = []
            for level, mesh in enumerate(made[kind]):
                steps = max(1, n * 2**level // 2)
                solver = fvot.BenamouBrenier(mesh, steps, tol=tol / 4**level, max_iter=max_iter)
                path = solver.solve(*(density(mesh, axes) for axes in PROBLEMS[problem]))
                rows.append(
                    (mesh.n_cells_global**-0.5, path.lower_bound / value - 1, path.cost / value - 1)
                )
                low, high = rows[-1][1:]
                fvot.say(
                    f"{kind:10} {mesh.n_cells_global:7} {steps:5} {path.iterations:10} "
                    f"{low:+12.2e} {high:+10.2e} "
                    f"{(low + high) / 2:+10.2e} {order(rows):>6}"
                )
    if pictures:
        mesh.ranks.on_root(draw, Path(out).expanduser() / "w2_convergence.png", table)
    return {
        f"{problem}_{kind}": 1 + (rows[-1][1] + rows[-1][2]) / 2
        for (problem, kind), rows in table.items()
    }


def order(rows):
    """Of the error from the last but one to the last of (cell size, lower, upper); empty if there
    is only one.
    """
    if len(rows) < 2:
        return ""
    sizes, errors = zip(*[(size, abs(low + high) / 2) for size, low, high in rows[-2:]])
    return f"{np.log(errors[0] / errors[1]) / np.log(sizes[0] / sizes[1]):.2f}"


# ---- the picture ---------------------------------------------------------------------------------

STYLES = {"squares": ("s", "#4064b0"), "triangles": ("^", "#d1495b"), "polygons": ("h", "#1f9e89")}
GREY = "0.35"


def draw(file, table):
    """Error over cell size, a panel for each problem; {(problem, kind): rows of (cell size, lower,
    upper)}.
    """
    from matplotlib.figure import Figure

    problems = list(dict.fromkeys(problem for problem, _ in table))
    sizes = [row[0] for rows in table.values() for row in rows]
    figure = Figure((0.6 + 3.1 * len(problems), 3.6), layout="constrained")
    for axes, problem in zip(np.ravel(figure.subplots(1, len(problems), sharey=True)), problems):
        slopes(
            axes,
            min(sizes),
            max(sizes),
            max(
                abs(high)
                for (name, _), rows in table.items()
                if name == problem
                for _, _, high in rows[:1]
            ),
        )
        for kind in (kind for name, kind in table if name == problem):
            curve(axes, kind, np.transpose(table[problem, kind]))
        axes.set(xscale="log", yscale="log", xlabel="cell size")
        powers = 2 ** np.arange(
            np.floor(-np.log2(1.1 * max(sizes))), np.ceil(-np.log2(0.9 * min(sizes))) + 1
        )
        axes.set_xticks(1 / powers, [f"1/{power:.0f}" for power in powers])
        axes.set_xticks([], minor=True)
        axes.set_xlim(0.8 * min(sizes), 1.25 * max(sizes))
        axes.set_title(problem, fontsize=12, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("relative error of $W_2^2$")
    figure.axes[-1].legend(frameon=False, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def curve(axes, kind, rows):
    """The error in the middle of the certified interval, and a bar as long as that."""
    size, low, high = rows
    marker, color = STYLES[kind]
    middle = np.abs(low + high) / 2
    half = (high - low) / 2
    axes.errorbar(
        size,
        middle,
        np.stack([np.minimum(half, 0.999 * middle), half]),
        color=color,
        marker=marker,
        markersize=6,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        label=kind,
    )


def slopes(axes, least, most, error):
    """Lines of order 1 and 2 from above the largest error."""
    for order, style in ((1, (0, (1, 2))), (2, (0, (5, 3)))):
        ends = 1.6 * error * np.array([least / most, 1]) ** order
        axes.plot([least, most], ends, color="0.6", linewidth=1, linestyle=style)
        axes.annotate(
            str(order),
            (least, ends[0]),
            (-3, 0),
            textcoords="offset points",
            color="0.5",
            fontsize=10,
            ha="right",
            va="center",
        )


if __name__ == "__main__":
    fvot.run(main)
