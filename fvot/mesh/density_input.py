"""What a density may be given by: a function, cell values, a picture (an array, or an image file),
or sample points.
"""

from pathlib import Path

import numpy as np
from scipy import sparse

from ..arguments.functions import as_floats, check_finite
from ..arguments.paths import check_readable
from ..errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
MEANINGS = ("function", "image", "values", "vectors", "points", "picture")
FINE = 4_000_000  # pieces of cells, at most, in which a picture is looked up


def classify_density(f, mesh):
    """What f is on every rank of a mesh: (one of `MEANINGS` but "vectors", f with numbers as an
    array); collective.

    Raises `InputError` if f is none of them, or if it could be two.
    """
    ranks = mesh.ranks
    dim = mesh.dim
    n_cells = mesh.n_cells
    with ranks.raising_together():
        if isinstance(f, (str, Path)):
            if Path(f).suffix.lower() not in IMAGES:
                raise InputError(
                    "the density must be a function, numbers, or an image file "
                    f"({', '.join(IMAGES)}), "
                    f"not {str(f)!r:.60}"
                )
        elif not callable(f):
            f = as_floats(f, "the density must be an array of numbers")
        shape = f.shape if isinstance(f, np.ndarray) else None
    possible = ranks.min(_possible(f, shape, dim, n_cells))
    found = [meaning for meaning, holds in zip(MEANINGS, possible) if holds]
    whole = ranks.size > 1 and shape == (mesh.n_cells_global,)
    ranks.check(
        found or not whole, f"the density has shape {shape}: {mesh.wanted_shape(shape or ())}"
    )
    ranks.check(
        found,
        f"the density has shape {shape}: that is not one value for each of this rank's cells, "
        f"({n_cells},) (mesh.scatter makes such arrays), not points ({dim}, n), "
        f"{f'not a picture, an array of {dim} axes, ' * (dim > 1)}or it is different things on "
        "different ranks",
    )
    ranks.check(
        "vectors" not in found,
        f"the density has shape {shape}: points, or a vector for each of this rank's cells? "
        "it needs one value for each cell; for points use mesh.density(mesh.deposit(points))",
    )
    ranks.check(
        found != ["points", "picture"] or shape != (2, 2),
        "the density has shape (2, 2): two points, or a picture of 2 x 2? use "
        "mesh.density(mesh.deposit(points)), or repeat the picture's columns",
    )
    ranks.check(
        found != ["picture"] or dim != 2 or shape is None or shape[1] != 2,
        f"the density has shape {shape}: points, or a picture of two rows of pixels? points have "
        "shape (2, n), "
        "space comes first; for a picture, repeat each of its rows",
    )
    return found[0], f


def _possible(f, shape, dim, n_cells):
    """Whether f can be each of `MEANINGS` on this rank."""
    axes = -1 if shape is None else len(shape)
    return np.array(
        [
            callable(f),
            isinstance(f, (str, Path)),
            shape == (n_cells,),
            shape == (dim, n_cells),
            axes == 2 and shape[0] == dim,
            axes == dim > 1 and min(shape) > 0,
        ],
        int,
    )


def masses(points, weights, dim):
    """Points (dim, n) and weights (n,), 1 / n each if None, as arrays of finite numbers;
    `InputError` for others.
    """
    points = as_floats(points, "points must be an array of numbers")
    if points.ndim != 2 or len(points) != dim or not points.shape[1]:
        raise InputError(
            f"points must have shape ({dim}, n) with n from 1 on, not {points.shape}; space comes "
            "first"
        )
    n = points.shape[1]
    weights = (
        np.full(n, 1 / n)
        if weights is None
        else as_floats(weights, "weights must be an array of numbers")
    )
    if weights.shape != (n,):
        raise InputError(
            f"weights must be one number for each of {n} points, ({n},), not {weights.shape}"
        )
    check_finite(points, "point")
    check_finite(weights, "weight")
    return points, weights


def image(path, dim):
    """The grey levels of an image file as an array [i, j] with i to the right and j upwards;
    transparent is black.

    Light is mass: 0 where the image is black. Raises `InputError` for a file that cannot be read.
    """
    from PIL import Image

    if dim != 2:
        raise InputError(
            f"{path}: an image is a density in the plane; the mesh has dimension {dim}"
        )
    path = check_readable(path, "image file")
    try:
        with Image.open(path) as file:
            deep = file.mode.startswith(("I", "F"))  # more than 8 bits: one channel
            rows = (
                np.asarray(file, float) if deep else _grey(np.asarray(file.convert("RGBA"), float))
            )
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an image: {type(error).__name__}: {error}"
        ) from error
    return np.ascontiguousarray(rows[::-1].T)


def _grey(rows):
    """Luma of red, green, blue (ITU-R BT.601), times opacity, of (rows, columns, 4)."""
    return rows[:, :, :3] @ [0.299, 0.587, 0.114] * rows[:, :, 3] / 255


def average_over_block(picture, block):
    """Exact averages (n_cells,) over the cells of a Cartesian block of a picture laid over the
    whole mesh.
    """
    for axis, n_pixels in enumerate(picture.shape):
        share = _shares(block.first[axis], block.shape[axis], block.grid[axis], n_pixels)
        rows = np.moveaxis(picture, axis, 0)
        picture = np.moveaxis(
            (share @ rows.reshape(n_pixels, -1)).reshape(-1, *rows.shape[1:]), 0, axis
        )
    return picture.ravel()


def _shares(first, n, n_cells, n_pixels):
    """The part of each of n cells that lies in each pixel: sparse (n, n_pixels). Lengths in whole
    numbers: exact.
    """
    cuts = np.union1d(np.arange(first, first + n + 1) * n_pixels, np.arange(n_pixels + 1) * n_cells)
    cuts = cuts[(cuts >= first * n_pixels) & (cuts <= (first + n) * n_pixels)]
    at = cuts[:-1]
    length = np.diff(cuts)
    return sparse.csr_matrix(
        (length / n_pixels, (at // n_pixels - first, at // n_cells)), (n, n_pixels)
    )


def image_function(picture, lower, upper):
    """The function f(x) that is the picture's value at x (dim, n), between the corners of a box."""
    shape = np.array(picture.shape)[:, None]

    def value(x):
        index = np.floor((x - lower[:, None]) / (upper - lower)[:, None] * shape).astype(np.int64)
        return picture[tuple(np.clip(index, 0, shape - 1))]

    return value


def halvings(picture, lower, upper, size, n_cells):
    """How many times to halve n_cells cells of that size: to a quarter of a pixel, and of a cell
    where edges cut it.
    """
    pixel = ((upper - lower) / picture.shape).min()
    most = np.log2(max(FINE / n_cells, 1)) / picture.ndim
    return int(min(max(2, np.ceil(np.log2(4 * size / pixel))), most))
