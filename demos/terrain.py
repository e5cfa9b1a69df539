"""Particles that diffuse in a landscape and gather in its valleys: a potential from an array or an image of your own.

    python demos/terrain.py
    mpirun -n 2 python demos/terrain.py --image photo.png --kT 8
    python demos/terrain.py --image heights.npy --scale 0.3 --coarsen 1

The potential is the height: metres of a real terrain that comes with Matplotlib (a fault near Jacksboro, Tennessee), or
scale times the numbers of an .npy array or the grey levels (0 to 255) of an image. kT, the height that a particle climbs now
and then, is in the same units. A pixel has length 1; time is such that the mobility is 1: a slope of one metre per pixel moves a
particle by one pixel in a time of 1.

A cell is a block of pixels with the mean of e^(-height/kT), so that the mass that it holds in equilibrium is right. Writes the
series for ParaView, a picture and a movie.
"""
from pathlib import Path

import numpy as np

import fvot


def main(image="", scale=1.0, kT=20.0, coarsen=3, end=1.0, n_times=31, tol=1e-3, pictures=True, movie=False, out="out/terrain"):
    """Let particles that begin everywhere run down into the valleys of a landscape.

    image: an .npy or image file; scale: height of its unit; kT: in units of height; coarsen: pixels along the side of a cell;
    end: of the run, in slowest relaxation times; n_times: recorded times; tol: error in time, relative to the mass; movie:
    make one, too; out: folder for what is written.
    """
    height = scale * (read(image) if image else jacksboro())
    height = coarse(height, coarsen, kT)
    size = coarsen * np.array(height.shape)
    mesh = fvot.Mesh.rectangle((0, 0), size, height.shape)
    equation = fvot.FokkerPlanck(mesh, diffusion=kT, potential=mesh.scatter(height.ravel()), tol=tol)

    gibbs = equation.stationary()
    slowest = 1 / equation.relaxation_rates(1)[0]
    t = np.concatenate([[0], np.geomspace(1e-6 * slowest, end * slowest, n_times - 1)])
    result = equation.solve(mesh.density(lambda x: np.ones(x.shape[1])), t)

    away = mesh.integrate(np.abs(result.rho - gibbs)) / 2                  # the mass that is not yet where it belongs
    least = kT * np.log(mesh.integrate(np.exp((height.min() - mesh.scatter(height.ravel())) / kT)))
    lowest = height.min() - least                                          # the free energy -kT log integral of e^(-V/kT)
    free, ledger = result.ledger["energy"] - lowest, result.ledger
    fvot.say(f"{mesh.n_cells_global} cells, heights from {height.min():.0f} to {height.max():.0f}, kT = {kT:g}; "
             f"{ledger['steps'][-1]:.0f} steps on {mesh.ranks.size} ranks\n"
             f"slowest relaxation time {slowest:.6g}\n\n{'t':>9} {'free energy':>12} {'mass to move':>13} {'mean height':>12}")
    for i in range(0, n_times, max(1, (n_times - 1) // 6)):
        fvot.say(f"{t[i]:9.3g} {free[i]:12.4g} {away[i]:13.4g} {ledger['potential_energy'][i]:12.2f}")
    fvot.say(f"\nmass error {np.abs(ledger['mass_error']).max():.1e}, smallest density {ledger['minimum'].min():.1e}, "
             f"free energy falls in every step: {bool((np.diff(free) < 0).all())}, "
             f"estimated error in time {ledger['time_error'].max():.0e}")

    folder = Path(out)
    result.write(folder / "terrain.pvd")
    if pictures:
        picture(folder / "terrain.png", result, height, size, gibbs)
    if pictures and movie:
        result.movie(folder / "terrain.gif", cmap="magma", clim=(0, 20 / size.prod()))
    fvot.say(f"ParaView opens {folder / 'terrain.pvd'}")
    return dict(slowest=slowest, energy=free[0], energy_end=free[-1], away=away[n_times // 2], height=ledger["potential_energy"][-1])


# ---- the landscape -----------------------------------------------------------------------------------------------------

def jacksboro():
    """Heights in metres [i, j], i to the east and j to the north."""
    from matplotlib.cbook import get_sample_data
    with get_sample_data("jacksboro_fault_dem.npz") as data:
        return upright(data["elevation"])


def read(path):
    """The numbers of an .npy file, or the grey levels of an image, as heights [i, j], i to the right and j upwards."""
    from PIL import Image
    try:
        rows = np.load(path) if path.endswith(".npy") else np.asarray(Image.open(path).convert("F"))
    except (OSError, ValueError) as error:
        raise fvot.InputError(f"{path} cannot be read as an array or an image: {error}") from error
    return upright(rows)


def upright(rows):
    """[i, j] to the right and upwards, from rows that begin at the top."""
    return np.asarray(rows[::-1].T, float)


def coarse(height, n, kT):
    """-kT log of the mean of e^(-height/kT) over blocks of n x n pixels; what is left over at the ends is cut off."""
    nx, ny = np.array(height.shape) // n
    low = height.min()
    blocks = np.exp((low - height[:nx * n, :ny * n]) / kT).reshape(nx, n, ny, n)
    return low - kT * np.log(blocks.mean(axis=(1, 3)))


# ---- the picture -----------------------------------------------------------------------------------------------------

def picture(path, result, height, size, gibbs):
    """The density over the shaded terrain at three times."""
    mesh, t = result.mesh, result.t
    shown = [0.35, 0.65, 1.0]
    shown = [round(part * (len(t) - 1)) for part in shown]
    densities = mesh.gather(result.rho[shown]) * size.prod()
    mesh.ranks.on_root(draw, path, densities.reshape(-1, *height.shape), t[shown], height, size)


def draw(path, densities, t, height, size):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LightSource, LogNorm
    from matplotlib.figure import Figure
    side = 4.0 * size / size[0]                             # inches
    figure = Figure((3 * side[0] + 1.6, side[1] + 0.9))
    light = LightSource(315, 45).hillshade(height.T[::-1], vert_exag=1, dx=30, dy=30)
    norm, colors = LogNorm(1, 100, clip=True), colormaps["inferno"]
    for place, density, time in zip(range(3), densities, t):
        axes = figure.add_axes([(0.15 + place * (side[0] + 0.12)) / figure.get_figwidth(), 0.2 / figure.get_figheight(),
                                *side / figure.get_size_inches()])
        axes.imshow(light, cmap="gray", vmin=-0.2, vmax=1.1, extent=(0, size[0], 0, size[1]))
        layer = colors(norm(density.T[::-1]))
        layer[..., 3] = np.clip(norm(density.T[::-1]) * 3, 0, 0.85)
        axes.imshow(layer, extent=(0, size[0], 0, size[1]))
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"$t$ = {time:.3g}", fontsize=13)
        axes.spines[:].set_visible(False)
    bar = figure.add_axes([(0.27 + 3 * (side[0] + 0.12)) / figure.get_figwidth(), 0.2 / figure.get_figheight(),
                           0.14 / figure.get_figwidth(), side[1] / figure.get_figheight()])
    figure.colorbar(ScalarMappable(norm, colors), cax=bar, label="density / its mean", extend="max")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    fvot.run(main)
