"""Particles that diffuse in a landscape and gather in its valleys: a potential from your own array
or image.

    python demos/terrain.py
    mpirun -n 2 python demos/terrain.py --image photo.png --kT 50 --coarsen 8
    python demos/terrain.py --image heights.npy --scale 0.3 --coarsen 1

The potential is the height: metres of a real terrain that comes with Matplotlib (a fault near
Jacksboro, Tennessee), or scale times the numbers of an .npy array or the grey levels (0 to 255) of
an image. kT, the temperature, is in the same units. A pixel has
length 1; time is such that the mobility is 1: a slope of one metre per pixel moves a particle by
one pixel in a time of 1.

A cell is a block of pixels with the mean of e^(-height/kT), so that the mass that it holds in
equilibrium is right. If kT is below some 1/30 of the height of a pass, the valleys behind it are
hardly ever left, and no run takes that long. Writes the series for ParaView, a picture and, with
--movie, a movie.
"""

from pathlib import Path

import numpy as np

import fvot


def main(
    image="",
    scale=1.0,
    kT=20.0,
    coarsen=2,
    end=5.0,
    n_times=31,
    tol=1e-3,
    pictures=True,
    movie=False,
    out="out/terrain",
):
    """Let particles that begin everywhere run down into the valleys of a landscape.

    image: an .npy or image file; scale: height of its unit; kT: in units of height; coarsen: pixels
    along the side of a cell; end: of the run, in slowest relaxation times; n_times: recorded times;
    tol: error in time, relative to the mass; movie: make one, too; out: folder for what is written.
    """
    pixels = scale * (read(image) if image else jacksboro())
    height = coarse(pixels, coarsen, kT)
    mesh = fvot.Mesh.rectangle((0, 0), coarsen * np.array(height.shape), height.shape)
    V = mesh.scatter(height.ravel())
    equation = fvot.FokkerPlanck(mesh, diffusion=kT, potential=V, tol=tol)

    gibbs = equation.stationary()
    slowest = 1 / equation.relaxation_rates(1)[0]
    t = np.concatenate([[0], np.geomspace(1e-6 * slowest, end * slowest, n_times - 1)])
    result = equation.solve(mesh.density(lambda x: np.ones(x.shape[1])), t)

    free = result.ledger["energy"] - (
        height.min() - kT * np.log(mesh.integrate(np.exp((height.min() - V) / kT)))
    )
    away = mesh.integrate(np.abs(result.rho - gibbs)) / 2
    report(result, height, kT, slowest, free, away)

    folder = Path(out).expanduser()
    result.write(folder / "terrain.pvd")
    if pictures:
        picture(folder / "terrain.png", result, height.shape, pixels, coarsen)
    if movie:
        result.movie(
            folder / "terrain.gif", cmap="inferno", clim=(0, 30 / mesh.integrate(1.0)), fps=8
        )
    fvot.say(f"ParaView opens {folder / 'terrain.pvd'}")
    return dict(
        slowest=slowest,
        free=free[0],
        away=away[n_times // 2],
        height=result.ledger["potential_energy"][-1],
    )


def report(result, height, kT, slowest, free, away):
    """Print the free energy relative to that of equilibrium, and the mass that is not where it is
    in equilibrium.
    """
    t = result.t
    ledger = result.ledger
    fvot.say(
        f"{height.size} cells, heights from {height.min():.0f} to {height.max():.0f}, kT = {kT:g}; "
        f"{ledger['steps'][-1]:.0f} steps on {result.mesh.ranks.size} ranks\n"
        f"slowest relaxation time {slowest:.6g}\n\n{'t':>9} {'free energy':>12} {'mass away':>10} "
        f"{'mean height':>12}"
    )
    for i in range(0, len(t), max(1, (len(t) - 1) // 6)):
        fvot.say(
            f"{t[i]:9.3g} {free[i]:12.4g} {away[i]:10.4g} {ledger['potential_energy'][i]:12.2f}"
        )
    fvot.say(
        f"\nmass error {np.abs(ledger['mass_error']).max():.1e}, smallest density "
        f"{ledger['minimum'].min():.1e}, "
        f"free energy always falls: {bool((np.diff(free) < 0).all())}, "
        f"estimated error in time {ledger['time_error'].max():.0e}"
    )


# ---- the landscape -------------------------------------------------------------------------------


def jacksboro():
    """Heights in metres [i, j], i to the east and j to the north."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as data:
        return upright(data["elevation"])


def read(path):
    """The numbers of an .npy file, or the grey levels of an image, as heights [i, j], i to the
    right and j upwards.
    """
    from PIL import Image

    path = Path(path).expanduser()
    try:
        rows = np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path).convert("F"))
    except (OSError, ValueError) as error:
        raise fvot.InputError(f"{path} cannot be read as an array or an image: {error}") from error
    if rows.ndim != 2:
        raise fvot.InputError(f"{path} has shape {rows.shape}; a landscape needs (rows, columns)")
    return upright(rows)


def upright(rows):
    """[i, j] to the right and upwards, from rows that begin at the top."""
    return np.asarray(rows[::-1].T, float)


def coarse(height, n, kT):
    """-kT log of the mean of e^(-height/kT) over blocks of n x n pixels; what is left over at the
    ends is cut off.
    """
    nx, ny = np.array(height.shape) // n
    low = height.min()
    blocks = np.exp((low - height[: nx * n, : ny * n]) / kT).reshape(nx, n, ny, n)
    return low - kT * np.log(blocks.mean(axis=(1, 3)))


# ---- the picture ---------------------------------------------------------------------------------

SHOWN = 0.3, 0.6, 1.0  # when, on the logarithmic scale of times


def picture(path, result, shape, pixels, coarsen):
    """The density over the shaded terrain at three times."""
    mesh = result.mesh
    shown = [round(part * (len(result.t) - 1)) for part in SHOWN]
    densities = mesh.gather(result.rho[shown]).reshape(-1, *shape) * mesh.integrate(1.0)
    nx, ny = coarsen * np.array(shape)
    mesh.ranks.on_root(draw, path, densities, result.t[shown], pixels[:nx, :ny])


def draw(path, densities, t, pixels):
    """From densities [k, i, j], relative to their mean, at times t (k,), and the heights [i, j] of
    all pixels.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    across, up = 4.2 * np.array(pixels.shape) / max(pixels.shape)  # inches
    gap = 0.12
    below = 0.15
    width = len(t) * (across + 0.12) + 1.05
    figure = Figure((width, below + up + 0.45))

    def axes(left, across):
        return figure.add_axes(
            [
                left / width,
                below / figure.get_figheight(),
                across / width,
                up / figure.get_figheight(),
            ]
        )

    shades = shaded(pixels)
    colors = ScalarMappable(LogNorm(1, 100, clip=True), "inferno")
    for place, density, time in zip(range(len(t)), densities, t):
        panel = axes(gap + place * (across + gap), across)
        panel.imshow(shades, cmap="gray", vmin=-0.5, vmax=1.0, extent=(0, 1, 0, 1), aspect="auto")
        panel.imshow(glowing(density.T[::-1], colors), extent=(0, 1, 0, 1), aspect="auto")
        panel.set_axis_off()
        panel.set_title(f"$t$ = {scientific(time)}", fontsize=13)
    bar = figure.colorbar(
        colors,
        cax=axes(2 * gap + len(t) * (across + gap), 0.13),
        label="density / its mean",
        extend="max",
    )
    bar.outline.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def shaded(height):
    """The light on the terrain, in rows from the top, with the sun in the north-west; slopes are as
    steep as is good to see.
    """
    from matplotlib.colors import LightSource

    steepness = np.hypot(*np.gradient(height)).mean()
    return LightSource(315, 45).hillshade(height.T[::-1], vert_exag=0.6 / max(steepness, 1e-300))


def glowing(density, colors):
    """Colours (rows, columns, 4) of a density, transparent where it is below its mean."""
    layer = colors.to_rgba(density)
    layer[..., 3] = np.clip(3 * colors.norm(density), 0, 0.9)
    return layer


def scientific(value):
    """A number with two digits; in powers of ten, if it is large: 3.2 x 10^4."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return (
        f"{value:.2g}" if -2 <= int(exponent) < 2 else rf"{mantissa}$\times 10^{{{int(exponent)}}}$"
    )


if __name__ == "__main__":
    fvot.run(main)
