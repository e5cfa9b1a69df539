"""One image becomes another: optimal transport of light, as a film.

    python demos/image_morph.py
    mpirun -n 2 python demos/image_morph.py a.png b.jpg --size 192 --cmap gray
    python demos/image_morph.py sketch.png letter.png --invert --cmap gray_r

Light is mass: where an image is black or transparent there is none. For dark drawings on white
paper, --invert makes dark pixels the mass. Both images are laid over the same box, which has the
aspect ratio of the first, and get the same mass; colours become shades of grey. Without your own
images, a moon becomes a sun. Writes the series for ParaView, a film and a picture.
"""

from pathlib import Path

import numpy as np

import fvot


def main(
    first="",
    second="",
    /,
    size=128,
    n_steps=32,
    tol=1e-2,
    max_iter=1000,
    invert=False,
    cmap="inferno",
    pictures=True,
    out="out/image_morph",
):
    """Carry the light of one image to where it is in another, on the shortest path.

    first, second: image files; size: cells along the longer side; n_steps: steps in time; tol: the
    certified relative gap between the bounds of W2^2; max_iter: iterations at most; invert: dark is
    mass; cmap: a colour map of Matplotlib; out: folder for what is written.
    """
    from matplotlib import colormaps

    if cmap not in colormaps:
        raise fvot.InputError(
            f"there is no colour map {cmap!r} in Matplotlib; 'inferno' and 'gray' are two"
        )
    if bool(first) != bool(second):
        raise fvot.InputError(f"give two images, or none: {first} alone cannot become another")
    sides = aspect(first) if first else np.ones(2)
    mesh = fvot.Mesh.rectangle((0, 0), sides, np.ceil(size * sides).astype(int))
    rho0, rho1 = (
        mesh.density(dark(image) if invert else image)
        for image in ((first, second) if first else (moon, sun))
    )
    path = fvot.BenamouBrenier(mesh, n_steps, tol=tol, max_iter=max_iter).solve(rho0, rho1)
    report(path)

    folder = Path(out).expanduser()
    path.write(folder / "image_morph.pvd")
    if pictures:
        frames = (
            mesh.gather(path.rho).reshape(-1, *mesh.block.grid).swapaxes(1, 2)[:, ::-1]
        )  # rows from the top
        mesh.ranks.on_root(film, folder / "image_morph.gif", frames, cmap)
        mesh.ranks.on_root(strip, folder / "image_morph.png", frames, path.t, cmap)
    fvot.say(
        f"ParaView opens {folder / 'image_morph.pvd'}; the film is {folder / 'image_morph.gif'}"
    )
    return dict(
        cost=path.cost,
        lower_bound=path.lower_bound,
        half=np.sqrt(mesh.integrate(path.at(0.5) ** 2)),
    )


def report(path):
    """Print what the path costs, and what shows that it is one."""
    mesh = path.mesh
    inner = (
        path.speed[1:-1] if len(path.speed) > 2 else path.speed
    )  # the ends' steps are half as long
    fvot.say(
        f"{mesh.n_cells_global} cells, {len(path.node_t) - 1} steps, {path.iterations} iterations "
        "on "
        f"{mesh.ranks.size} ranks\n"
        f"W2^2       between {path.lower_bound:.6f} and {path.cost:.6f}, a gap of {path.gap:.1e}; "
        "the longer side has length 1\n"
        f"speed      between {inner.min():.4f} and {inner.max():.4f}; on a geodesic it is "
        f"constant, W2 = {np.sqrt(path.cost):.4f}\n"
        f"continuity holds to {path.residual:.1e} of the mass in each cell and step; smallest "
        "density "
        f"{mesh.ranks.min(path.rho.min()):.1e}"
    )


# ---- the images ----------------------------------------------------------------------------------


def moon(x):
    """Whether points x (2, n) of the unit square lie in a crescent."""
    return (np.hypot(x[0] - 0.5, x[1] - 0.5) < 0.36) & (np.hypot(x[0] - 0.64, x[1] - 0.56) > 0.32)


def sun(x, n_rays=12):
    """Whether points x (2, n) of the unit square lie in a disc or one of the rays around it."""
    r = np.hypot(x[0] - 0.5, x[1] - 0.5)
    turns = np.arctan2(x[1] - 0.5, x[0] - 0.5) / (2 * np.pi)
    beside = r * np.sin(2 * np.pi * np.abs((n_rays * turns + 0.5) % 1 - 0.5) / n_rays)
    return (r < 0.2) | (r > 0.25) & (beside < 0.024 * (0.45 - r) / 0.2)


def aspect(name):
    """The sides (2,) of the box of an image, the longer one 1."""
    size = np.array(opened(name).size)
    return size / size.max()


def dark(image):
    """What is dark in an image, as an array [i, j], i to the right and j upwards; the complement of
    a function.
    """
    if callable(image):
        return lambda x: ~image(x)
    from PIL import Image

    picture = opened(image).convert("RGBA")
    paper = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return 255.0 - np.asarray(paper.convert("L"), float)[::-1].T


def opened(name):
    """A Pillow image."""
    from PIL import Image

    try:
        image = Image.open(Path(name).expanduser())
        image.load()
        return image
    except OSError as error:
        raise fvot.InputError(f"{name} cannot be read as an image: {error}") from error


# ---- the film ------------------------------------------------------------------------------------

WIDE = 480  # pixels along the longer side of the film, at least
SHOWN = 0, 0.2, 0.4, 0.6, 0.8, 1
STILL, FRAME = 1000, 60  # milliseconds of the first and last frame, and of the others


def brightness(frames):
    """Values from 0 to 1: light may gather, so the brightest places of both ends are not quite
    1.
    """
    return np.clip(frames / (1.2 * frames[[0, -1]].max()), 0, 1)


def film(file, frames, cmap):
    """There and back, from frames (n_times, rows, columns)."""
    from matplotlib import colormaps
    from PIL import Image

    palette = colormaps[cmap](np.arange(256), bytes=True)[:, :3].tobytes()
    larger = max(1, -(-WIDE // max(frames.shape[1:])))
    images = []
    for values in brightness(frames):
        image = Image.fromarray((255 * values).round().astype(np.uint8))
        image = image.resize(larger * np.array(image.size), Image.Resampling.BICUBIC)
        image.putpalette(palette)
        images.append(image)
    images += images[-2:0:-1]
    duration = [STILL if i in (0, len(frames) - 1) else FRAME for i in range(len(images))]
    file.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        file, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False
    )


def strip(file, frames, t, cmap):
    """The frames nearest to some times, side by side."""
    from matplotlib.figure import Figure

    _, rows, columns = frames.shape
    # inches
    across = 2.4
    gap = 0.06
    title = 0.34
    up = across * rows / columns
    width = len(SHOWN) * (across + gap) - gap
    height = up + title
    figure = Figure((width, height))
    for k, time in enumerate(SHOWN):
        axes = figure.add_axes([k * (across + gap) / width, 0, across / width, up / height])
        i = np.abs(t - time).argmin()
        axes.imshow(
            brightness(frames)[i], cmap=cmap, vmin=0, vmax=1, interpolation="bicubic", aspect="auto"
        )
        axes.set_title(f"$t$ = {t[i]:.2g}", fontsize=12, color="0.25", pad=4)
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    fvot.run(main)
