"""The pictures of the README and of the pages in this folder: `python docs/pictures.py` draws them
anew, from meshes and from runs of fvot. Those of the README and of the solvers' pages are what
their first blocks draw.
"""

import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fvot

HERE = Path(__file__).parent
BLUE, RED, INK, GREY = "#4064b0", "#d1495b", "#1d2433", "0.6"


# ---- a control volume ----------------------------------------------------------------------------


def control_volume(file):
    """Two cells K and L of a Voronoi mesh, their points, and the face between them."""
    mesh = fvot.Mesh.voronoi((0, 0), (1, 1), 40, seed=3)
    face = between_two_inner_cells(mesh)
    K, L = mesh.left[face], mesh.right[face]
    normal = mesh.normal[:, face]
    distance = mesh.distance[face]
    x_K = mesh.center[:, K]
    x_L = mesh.center[:, L]
    ends = mesh.points[:, mesh.vertices[:, face]]
    middle = ends.mean(axis=1)
    along = ends[:, 1] - ends[:, 0]
    along /= np.linalg.norm(along)
    upwards = along * np.sign(along[1])
    foot = x_K + mesh.left_distance[face] * normal  # where the line from x_K to x_L meets sigma

    figure = Figure((7.2, 4.6))
    axes = figure.add_axes([0, 0, 1, 1])
    for cell in range(mesh.n_cells):
        color = {K: "#dbe4f5", L: "#f8dfe1"}.get(cell, "white")
        axes.fill(*polygon(mesh, cell), facecolor=color, edgecolor="0.72", linewidth=1.2)
    axes.plot(*mesh.center, "o", color="0.8", markersize=4)
    axes.plot(*np.stack([x_K, x_L]).T, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.plot(*ends, color=INK, linewidth=3.5, solid_capstyle="round")
    axes.plot(*corner(foot, -normal, upwards, 0.011), color=INK, linewidth=1)
    axes.plot(*x_K, "o", color=BLUE, markersize=9)
    axes.plot(*x_L, "o", color=RED, markersize=9)

    def name(text, point, color=INK, size=16, **how):
        axes.text(*point, text, color=color, fontsize=size, ha="center", va="center", **how)

    name("$x_K$", x_K + 0.022 * upwards, BLUE)
    name("$x_L$", x_L + 0.022 * upwards, RED)
    name("$K$", x_K - 0.038 * normal + 0.03 * upwards, BLUE, 24)
    name("$L$", x_L + 0.038 * normal + 0.03 * upwards, RED, 24)
    name(r"$\sigma$", ends[:, ends[1].argmax()] - 0.017 * upwards + 0.015 * normal, size=18)
    arrow(axes, foot, foot + 0.055 * normal, INK)
    name(r"$n_\sigma$", foot + 0.05 * normal + 0.018 * upwards)
    start = middle - 0.03 * normal - 0.3 * np.linalg.norm(ends[:, 1] - ends[:, 0]) * upwards
    arrow(axes, start, start + 0.06 * normal, "#1f9e89", 7)
    name(r"$F_\sigma$", start - 0.02 * normal, "#1f9e89")
    dimension(axes, x_K, x_L, -0.107 * upwards, r"$d_\sigma$")

    half = 1.2 * distance
    center = (x_K + x_L) / 2 - 0.016 * upwards
    axes.set(
        xlim=center[0] + half * np.array([-1, 1]),
        ylim=center[1] + half * 4.6 / 7.2 * np.array([-1, 1]),
        aspect="equal",
    )
    axes.set_axis_off()
    figure.savefig(file, dpi=110, facecolor="white")


def between_two_inner_cells(mesh):
    """The face that is most upright among those in the middle of the square, and long."""
    inner = slice(mesh.n_inner)
    middle = mesh.points[:, mesh.vertices[:, inner]].mean(axis=1)
    far = np.abs(middle - 0.5).max(axis=0)
    worth = mesh.normal[0, inner] + 3 * mesh.area[inner] / mesh.distance[inner] - 4 * far
    return int(worth.argmax())


def polygon(mesh, cell):
    """The corners (2, n) of a cell, counter-clockwise."""
    of_it = (mesh.left == cell) | (mesh.right == cell)
    corners = mesh.points[:, np.unique(mesh.vertices[:, of_it])]
    outwards = corners - mesh.center[:, [cell]]
    return corners[:, np.arctan2(outwards[1], outwards[0]).argsort()]


def corner(point, one, other, size):
    """The sign of a right angle at a point: (2, 3)."""
    return np.stack(
        [point + size * one, point + size * (one + other), point + size * other], axis=1
    )


def arrow(axes, start, end, color, width=2.5):
    """An arrow with a filled head."""
    style = f"-|>,head_width={0.2 + width / 20},head_length={0.4 + width / 12}"
    axes.annotate(
        "",
        end,
        start,
        arrowprops=dict(arrowstyle=style, color=color, linewidth=width, shrinkA=0, shrinkB=0),
    )


def dimension(axes, start, end, aside, text):
    """A measure between two points, drawn aside of them."""
    for point in start, end:
        axes.plot(*np.stack([point, point + 1.06 * aside]).T, color=GREY, linewidth=0.8)
    axes.annotate(
        "",
        end + aside,
        start + aside,
        arrowprops=dict(arrowstyle="<->", color=INK, shrinkA=0, shrinkB=0),
    )
    axes.text(
        *(start + end) / 2 + aside,
        text,
        fontsize=16,
        color=INK,
        ha="center",
        va="center",
        bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
    )


# ---- the certificate -----------------------------------------------------------------------------

ITERATIONS = 16, 23, 32, 45, 64, 90, 128, 181, 256, 362, 512


def certificate(file, n=64, tol=1e-5):
    """Both bounds of W2^2 after ever more iterations: each point is a run of its own, ended by
    max_iter.
    """
    spec = importlib.util.spec_from_file_location(
        "w2_convergence", HERE.parent / "demos" / "w2_convergence.py"
    )
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    problem = demo.PROBLEMS["gaussians"]
    mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (n, n))
    exact = demo.exact(problem)
    ends = [demo.density(mesh, axes) for axes in problem]
    paths = {}
    for count in ITERATIONS:
        try:
            path = fvot.BenamouBrenier(mesh, n // 2, tol=tol, max_iter=count).solve(*ends)
        except fvot.ConvergenceError as error:
            path = error.result
        paths[path.iterations] = path
        fvot.say(
            f"{path.iterations:5} iterations: {path.lower_bound:.7f} <= W2^2 <= {path.cost:.7f}, "
            f"gap {path.gap:.1e}"
        )
    fvot.say(f"W2^2 of the continuum {exact:.7f}")
    draw_certificate(file, paths, exact)


def draw_certificate(file, paths, exact):
    """From {iterations: path} and W2^2 of the continuum."""
    count = np.array(list(paths))
    low, high = np.array([(path.lower_bound, path.cost) for path in paths.values()]).T
    figure = Figure((8.4, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.fill_between(count, low, high, color="#e8ecf4")
    left.plot(count, high, "o-", color=RED, label="cost")
    left.plot(count, low, "o-", color=BLUE, label="lower_bound")
    left.axhline(
        exact, color=INK, linewidth=1, linestyle=(0, (5, 3)), label="$W_2^2$ of the continuum"
    )
    left.legend(frameon=False)
    left.set(xscale="log", xlabel="iterations", ylabel="$W_2^2$")
    right.loglog(count, (high - low) / high, "o-", color=INK)
    right.set(xlabel="iterations", ylabel="gap = (cost - lower_bound) / cost")
    for axes in left, right:
        axes.set_xticks([16, 32, 64, 128, 256, 512], ["16", "32", "64", "128", "256", "512"])
        axes.set_xticks([], minor=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, facecolor="white")


# ---- any mesh, any tensor ------------------------------------------------------------------------

SIZES = 16, 32, 64, 128
SPREADING = 0.02, 0.15  # diffusion along the longer axis, and the time for which it acts


def skewed(n, amount=0.06):
    """n x n quadrilaterals of the unit square: both coordinates moved by a product of sines."""
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    shift = amount * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
    points = np.stack([x + shift, y + shift]).reshape(2, -1)
    k = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    cells = np.stack([k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]], axis=-1)
    return fvot.Mesh.from_cells(points, [("quad", cells.reshape(-1, 4))])


def tensor(ratio, angle=np.pi / 6):
    """Diffusion (2, 2), along the angle and, less by the ratio, across."""
    R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return SPREADING[0] * R @ np.diag([1, 1 / ratio]) @ R.T


def gaussian(D, t):
    """The density, a function of x, that has spread from the middle of the square."""
    covariance = 3 * 0.04**2 * np.eye(2) + 2 * t * D
    inverse = np.linalg.inv(covariance)

    def density(x):
        square = ((x - 0.5) * (inverse @ (x - 0.5))).sum(axis=0)
        return np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))

    return density


def spread(mesh, ratio, scheme):
    """The error in L1 of a Gaussian that diffuses, in 20 steps."""
    D = tensor(ratio)
    end = SPREADING[1]
    equation = fvot.FokkerPlanck(mesh, diffusion=D, scheme=scheme)
    result = equation.solve(mesh.average(gaussian(D, 0), degree=6), end, tau=end / 20)
    return mesh.integrate(abs(result.rho[-1] - mesh.average(gaussian(D, end), degree=6)))


def any_mesh(file):
    """A skewed mesh with the density on it, and errors on ever finer ones of its kind."""
    errors = {}
    for n in SIZES:
        mesh = skewed(n)
        for ratio in 1, 100:
            for scheme in "two_point", "corners":
                errors[n, ratio, scheme] = spread(mesh, ratio, scheme)
                fvot.say(f"{n:4} {ratio:4} {scheme:10} {errors[n, ratio, scheme]:.2e}")
    draw_any_mesh(file, errors)


def draw_any_mesh(file, errors):
    """From {(n, ratio, scheme): error}."""
    figure = Figure((8.4, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.45))
    mesh = skewed(SIZES[0])
    x = np.stack(np.meshgrid(*[np.linspace(0, 1, 200)] * 2))
    rho = gaussian(tensor(100), SPREADING[1])(x.reshape(2, -1)).reshape(200, 200)
    left.contourf(*x, rho, levels=np.linspace(0.05, 1, 9) * rho.max(), cmap="Blues")
    left.plot(*mesh.points[:, mesh.vertices], color=GREY, linewidth=0.8)
    left.set(aspect="equal", xticks=[0, 1], yticks=[0, 1], xlabel="16 x 16 cells")

    styles = {("two_point", 1): (RED, "-"), ("two_point", 100): (RED, "--")}
    styles |= {("corners", 1): (BLUE, "-"), ("corners", 100): (BLUE, "--")}
    for (scheme, ratio), (color, line) in styles.items():
        values = [errors[n, ratio, scheme] for n in SIZES]
        label = f"{scheme}, ratio {ratio}"
        right.loglog(SIZES, values, "o", linestyle=line, color=color, label=label)
    second = [errors[16, 1, "corners"] * 0.5 * (16 / n) ** 2 for n in SIZES]
    right.loglog(SIZES, second, color=INK, linewidth=1, linestyle=":", label="order 2")
    right.set(xlabel="cells along a side", ylabel="error in $L^1$")
    right.set_xticks(SIZES, [str(n) for n in SIZES])
    right.set_xticks([], minor=True)
    right.legend(frameon=False, fontsize=9, loc="lower left")
    for axes in left, right:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, facecolor="white")


# ---- what the blocks of pages draw ---------------------------------------------------------------

PAGES = "continuity", "fokker_planck", "gradient_flows", "transport", "bridges", "witnesses"


def run_blocks(folder):
    """Run the first block of the README and of each solver's page: each draws a picture into the
    folder, and whatever else it writes goes there, too.
    """
    os.chdir(folder)
    for page in (HERE.parent / "README.md", *(HERE / f"{name}.md" for name in PAGES)):
        block = re.search(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        exec(block[1], {"__name__": "__main__"})


if __name__ == "__main__":
    control_volume(HERE / "control_volume.png")
    certificate(HERE / "certificate.png")
    any_mesh(HERE / "any_mesh.png")
    with tempfile.TemporaryDirectory() as folder:
        run_blocks(folder)
        for picture in Path(folder).glob("*.png"):
            shutil.copy(picture, HERE)
