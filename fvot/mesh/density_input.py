"""From what a user gives for a density to its cell averages: a function, cell values, a picture (an
array, or an image file), or sample points.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..arguments.functions import as_floats
from ..arguments.paths import check_readable
from ..arguments.types import Array
from ..errors import InputError
from .cartesian import Block
from .cell_values import check_density, describe_wanted_shape
from .coordinates import POWER
from .means import average_over_cells
from .memory import AnyMesh
from .point_masses import deposit_masses

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")

# What the input may be; "vectors" is no density, but a mistake that has a message of its own.
MEANINGS = ("function", "image", "values", "vectors", "points", "picture")

# The most pieces into which cells are cut to average a picture: more would take too long.
MAX_PICTURE_PIECES = 4_000_000

# Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def compute_density(mesh: AnyMesh, f: Any) -> Array:
    """Cell averages (n_cells,), scaled to mass 1, of a density on a mesh; collective."""
    meaning, f = classify_density(f, mesh)
    if meaning == "image":
        meaning = "picture"
        f = mesh.ranks.broadcast(mesh.ranks.on_root(read_image, f, mesh.dim))
    averages: dict[str, Callable[[Any], Array]] = {
        "function": lambda function: average_over_cells(mesh, function, 4),
        "values": np.array,
        "points": lambda points: deposit_masses(mesh, points),
        "picture": lambda picture: _average_picture(mesh, picture),
    }
    rho = averages[meaning](f)

    check_density(mesh, rho, "the density")
    mass = mesh.integrate(rho)
    mesh.ranks.check(
        0 < mass < np.inf,
        f"the density has mass {mass}: it must be positive somewhere on the mesh, and finite",
    )
    return rho / mass


# ---- the meaning of the input --------------------------------------------------------------------


def classify_density(f: Any, mesh: AnyMesh) -> tuple[str, Any]:
    """(meaning, f): one of `MEANINGS` but "vectors", and f with numbers as an array; collective.

    Raises `InputError` if f has none of the meanings on every rank, or if it could have two.
    """
    with mesh.ranks.raising_together():
        f = _check_input(f)
    shape = f.shape if isinstance(f, np.ndarray) else None
    is_possible = mesh.ranks.min(_find_possible(f, shape, mesh.dim, mesh.n_cells))
    meanings = [meaning for meaning, possible in zip(MEANINGS, is_possible) if possible]
    _check_meanings(meanings, shape, mesh)
    return meanings[0], f


def _check_input(f):
    """f, with numbers as an array."""
    if isinstance(f, (str, Path)):
        if Path(f).suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(
                "the density must be a function, numbers, or an image file "
                f"({', '.join(IMAGE_SUFFIXES)}), not {str(f)!r:.60}"
            )
        return f
    if callable(f):
        return f
    return as_floats(f, "the density must be an array of numbers")


def _find_possible(f, shape, dim, n_cells):
    """Whether f can have each of `MEANINGS` on this rank."""
    n_axes = -1 if shape is None else len(shape)
    return np.array(
        [
            callable(f),
            isinstance(f, (str, Path)),
            shape == (n_cells,),
            shape == (dim, n_cells),
            n_axes == 2 and shape[0] == dim,
            n_axes == dim > 1 and min(shape) > 0,
        ],
        int,
    )


def _check_meanings(meanings, shape, mesh):
    """`InputError` on every rank unless the first of the meanings is the one that is meant."""
    ranks = mesh.ranks
    dim = mesh.dim
    is_whole = ranks.size > 1 and shape == (mesh.n_cells_global,)
    ranks.check(
        meanings or not is_whole,
        f"the density has shape {shape}: {describe_wanted_shape(mesh, shape or ())}",
    )
    not_a_picture = f"not a picture, an array of {dim} axes, " if dim > 1 else ""
    ranks.check(
        meanings,
        f"the density has shape {shape}: that is not one value for each of this rank's cells, "
        f"({mesh.n_cells},) (mesh.scatter makes such arrays), not points ({dim}, n), "
        f"{not_a_picture}or it is different things on different ranks",
    )
    ranks.check(
        "vectors" not in meanings,
        f"the density has shape {shape}: points, or a vector for each of this rank's cells? "
        "it needs one value for each cell; for points use mesh.density(mesh.deposit(points))",
    )
    ranks.check(
        meanings != ["points", "picture"] or shape != (2, 2),
        "the density has shape (2, 2): two points, or a picture of 2 x 2? use "
        "mesh.density(mesh.deposit(points)), or repeat the picture's columns",
    )
    ranks.check(
        meanings != ["picture"] or dim != 2 or shape is None or shape[1] != 2,
        f"the density has shape {shape}: points, or a picture of two rows of pixels? points have "
        "shape (2, n), space comes first; for a picture, repeat each of its rows",
    )


# ---- pictures ------------------------------------------------------------------------------------


def read_image(path: Any, dim: int) -> Array:
    """The grey levels of an image file as an array [i, j] with i to the right and j upwards.

    Light is mass: 0 where the image is black or transparent. Raises `InputError` for a file that
    cannot be read.
    """
    from PIL import Image

    if dim != 2:
        raise InputError(
            f"{path}: an image is a density in the plane; the mesh has dimension {dim}"
        )
    path = check_readable(path, "image file")
    try:
        with Image.open(path) as file:
            has_deep_channel = file.mode.startswith(("I", "F"))  # one channel of more than 8 bits
            if has_deep_channel:
                rows = np.asarray(file, float)
            else:
                rows = _compute_grey(np.asarray(file.convert("RGBA"), float))
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an image: {type(error).__name__}: {error}"
        ) from error
    return np.ascontiguousarray(rows[::-1].T)


def _compute_grey(rows):
    """Luma times opacity of colours and opacities (rows, columns, 4)."""
    opacity = rows[:, :, 3]
    return rows[:, :, :3] @ list(LUMA) * opacity / 255


def _average_picture(mesh, picture):
    """Cell averages (n_cells,) of a picture, an array of dim axes over the bounding box of the
    whole mesh.
    """
    mesh.ranks.check_same_array("the picture", picture)
    if mesh.block is not None:
        return average_over_block(picture, mesh.block, mesh.bounds[0, 0], POWER[mesh.coordinates])
    lower, upper = mesh.bounds
    n_halvings = count_halvings(picture, lower, upper, mesh.quality.size[1], mesh.n_cells_global)
    return average_over_cells(mesh, make_picture_function(picture, lower, upper), 2, n_halvings)


def average_over_block(picture: Array, block: Block, least: float = 0.0, power: int = 0) -> Array:
    """Exact averages (n_cells,) over the cells of a Cartesian block of a picture laid over the
    whole mesh.

    least, power : where the first axis begins, and the power of its radius in the measure (see
        `coordinates`)
    """
    for axis, n_pixels in enumerate(picture.shape):
        share = _compute_shares(block.first[axis], block.shape[axis], block.grid[axis], n_pixels)
        if axis == 0 and power:
            share = _weigh_shares(share, block, least, power)
        rows = np.moveaxis(picture, axis, 0)
        means = (share @ rows.reshape(n_pixels, -1)).reshape(-1, *rows.shape[1:])
        picture = np.moveaxis(means, 0, axis)
    return picture.ravel()


def _compute_shares(first, n, n_cells, n_pixels):
    """The part of each of n cells, from the first on, that lies in each pixel: sparse (n,
    n_pixels).

    Lengths are whole numbers, and exact: a cell has the length n_pixels, a pixel n_cells.
    """
    cell_ends = np.arange(first, first + n + 1) * n_pixels
    cuts = np.union1d(cell_ends, np.arange(n_pixels + 1) * n_cells)
    cuts = cuts[(cuts >= cell_ends[0]) & (cuts <= cell_ends[-1])]
    begin = cuts[:-1]
    length = np.diff(cuts)
    cell = begin // n_pixels - first
    return sparse.csr_matrix((length / n_pixels, (cell, begin // n_cells)), (n, n_pixels))


def _weigh_shares(share, block, least, power):
    """The shares (n, n_pixels) of `_compute_shares` along the radius, by its measure."""
    n_pixels = share.shape[1]
    pixel = block.spacing[0] * block.grid[0] / n_pixels
    rows = sparse.coo_matrix(share)
    cell_begin = least + (block.first[0] + rows.row) * block.spacing[0]
    pixel_begin = least + rows.col * pixel
    begin = np.maximum(cell_begin, pixel_begin)
    end = np.minimum(cell_begin + block.spacing[0], pixel_begin + pixel)
    measure = end ** (power + 1) - begin ** (power + 1)
    total = np.bincount(rows.row, measure, share.shape[0])
    return sparse.csr_matrix((measure / total[rows.row], (rows.row, rows.col)), share.shape)


def make_picture_function(picture: Array, lower: Array, upper: Array) -> Callable[[Array], Array]:
    """The function f(x) that is the picture's value at x (dim, n), between the corners of a box."""
    shape = np.array(picture.shape)[:, None]

    def value(x: Array) -> Array:
        index = np.floor((x - lower[:, None]) / (upper - lower)[:, None] * shape).astype(np.int64)
        return picture[tuple(np.clip(index, 0, shape - 1))]

    return value


def count_halvings(picture: Array, lower: Array, upper: Array, size: float, n_cells: int) -> int:
    """How many times to halve n_cells cells of that size: to a quarter of a pixel, and to a quarter
    of a cell where edges of the picture cut it.
    """
    pixel = ((upper - lower) / picture.shape).min()
    wanted = max(2, np.ceil(np.log2(4 * size / pixel)))
    most = np.log2(max(MAX_PICTURE_PIECES / n_cells, 1)) / picture.ndim
    return int(min(wanted, most))
