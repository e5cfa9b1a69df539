"""Pictures of a result at one time or several, and in motion.

Every rank hands its part to rank 0, which draws: VTK the cells (`scenes`), Matplotlib axes, colour
bar and title around them (`figures`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from ..arguments.functions import as_floats, is_integer
from ..arguments.types import Array, Path
from ..errors import InputError
from . import films, pvd
from .drawing import check_can_draw
from .figures import (
    Colors,
    Curves,
    draw_curves,
    draw_into,
    draw_panels,
    render,
    save_figure,
)
from .scenes import GatheredCells, Plane, Scene, Solid, list_own_cells

# How many times a picture of curves shows by default.
DEFAULT_CURVES = 6

# Points of a profile along a line.
PROFILE_POINTS = 801

# What pictures and movies are written to.
PICTURE_SUFFIXES = ".png", ".svg", ".pdf"
MOVIE_SUFFIXES = ".gif", ".mp4"

# Times that are shown per second, at most, which is what a .gif can show.
MAX_FPS = 50


class Drawable(Protocol):
    """A result that can be drawn."""

    @property
    def mesh(self) -> Any: ...

    @property
    def t(self) -> Array: ...

    @property
    def fields(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Look:
    """What a picture shows, and how; see `plot`."""

    field: str = "density"
    clim: tuple[float, float] | None = None
    cmap: Any = "viridis"
    log: bool = False
    along: Any = None
    arrows: bool | str = False
    dots: Any = None
    width: int = 1200

    @property
    def vectors(self) -> str:
        """The name of the field that arrows show."""
        return self.arrows if isinstance(self.arrows, str) else "velocity"


def plot(
    result: Drawable,
    path: Path | None = None,
    time: int | Sequence[int] | None = None,
    field: str = "density",
    *,
    clim: tuple[float, float] | None = None,
    cmap: Any = "viridis",
    log: bool = False,
    along: Any = None,
    arrows: bool | str = False,
    dots: Array | None = None,
    width: int = 1200,
    ax: Any = None,
) -> Any:
    """Draw a field of a result. Collective.

    Parameters
    ----------
    result : Result or Geodesic
        What a solver returned.
    path : str or pathlib.Path, optional
        Ends with .png, .svg or .pdf. None: nothing is written.
    time : int or sequence of int, optional
        Number of the recorded time, or several, drawn side by side. None: the last one; of curves
        up to six in one picture.
    field : str
        What the colours show: the name of one of the result's `fields`, of vectors their length, or
        "speed", the length of the velocity.
    clim : (low, high), optional
        The values at the ends of the colours. None: from the values.
    cmap : str or matplotlib.colors.Colormap
        The colour map.
    log : bool
        Logarithmic colours, or a logarithmic axis of curves.
    along : (start, end), optional
        Curves over the line between two points, in place of colours.
    arrows : bool or str
        Draw the velocity, or the vectors of the field of that name, in 2D.
    dots : array (n_times, 2, n), optional
        Positions of particles at the recorded times, drawn on top, in 2D; the same on every rank.
    width : int
        Pixels.
    ax : matplotlib.axes.Axes, optional
        Axes of your own to draw one time into. Only rank 0 looks at it.

    Returns
    -------
    matplotlib.figure.Figure or None
        The figure, on rank 0, if neither a path nor ax is given.

    Raises
    ------
    InputError
        On every rank: for a path that cannot be written, a field, time or velocity that the result
        does not have, and on a machine that cannot draw.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 16)
    >>> result = fvot.FokkerPlanck(mesh, diffusion=0.1).solve(mesh.density(lambda x: x[0]), 1.0)
    >>> path = os.path.join(tempfile.mkdtemp(), "x.png")
    >>> result.plot(path)
    >>> os.path.exists(path)
    True
    """
    look = Look(field, clim, cmap, log, along, arrows, dots, width)
    return draw_times(result, look, time, path, ax)


def draw_times(
    result: Drawable,
    look: Look,
    time: int | Sequence[int] | None,
    path: Path | None,
    ax: Any,
) -> Any:
    """The figure of a result, on rank 0, if it is not written to a path; see `plot`. Collective."""
    ranks = result.mesh.ranks
    if path is not None:
        path = pvd.check_path(ranks, path, *PICTURE_SUFFIXES)
    ranks.on_root(check_axes, ax)
    with Picture(result, look, time, path) as picture:
        ranks.check(
            ax is None or picture.shows_curves or len(picture.times) == 1,
            f"ax takes one time, not {len(picture.times)}: call plot for each of your axes",
        )
        values = [picture.gather_values(i) for i in picture.times]
        figure = ranks.on_root(picture.draw, values, picture.times, ax)
        if path is not None:
            ranks.on_root(save_figure, figure, path)

    # A notebook shows the figure of a user's axes itself.
    return figure if path is None and ax is None else None


def movie(
    result: Drawable,
    path: Path,
    field: str = "density",
    *,
    clim: tuple[float, float] | None = None,
    cmap: Any = "viridis",
    log: bool = False,
    along: Any = None,
    arrows: bool | str = False,
    dots: Array | None = None,
    width: int = 800,
    fps: float = 15,
) -> None:
    """Draw a field at every recorded time, with the same colours for all. Collective.

    Parameters
    ----------
    result : Result or Geodesic
        What a solver returned.
    path : str or pathlib.Path
        Ends with .gif or .mp4, which ffmpeg writes: ``pip install imageio-ffmpeg`` gets it.
    field, clim, cmap, log, along, arrows, dots, width
        As for `plot`.
    fps : float
        Times that are shown per second, at most 50.

    Raises
    ------
    InputError
        As for `plot`, for an fps that is no number above 0 and at most 50, and for an .mp4 where
        there is no ffmpeg.

    Examples
    --------
    >>> import os, tempfile
    >>> import fvot
    >>> mesh = fvot.Mesh.interval(0, 1, 16)
    >>> result = fvot.FokkerPlanck(mesh, diffusion=0.1).solve(mesh.density(lambda x: x[0]), 1.0)
    >>> path = os.path.join(tempfile.mkdtemp(), "x.gif")
    >>> result.movie(path)
    >>> os.path.exists(path)
    True
    """
    ranks = result.mesh.ranks
    ranks.check(
        isinstance(fps, Real) and 0 < fps <= MAX_FPS,
        f"fps must be above 0 and at most {MAX_FPS}, which is what a .gif can show, not {fps!r}",
    )
    path = pvd.check_path(ranks, path, *MOVIE_SUFFIXES)
    if path.suffix == ".mp4":
        ranks.on_root(films.find_ffmpeg)
    look = Look(field, clim, cmap, log, along, arrows, dots, width)
    with Picture(result, look, range(len(result.t)), path) as picture:
        images = []
        for i in picture.times:
            values = picture.gather_values(i)
            images.append(ranks.on_root(picture.draw_image, values, i))
        ranks.on_root(picture.save_film, images, fps)


class Picture:
    """The parts that stay the same from one time to the next: the domain, the colours, the layout.

    Made on every rank.
    """

    def __init__(
        self,
        result: Drawable,
        look: Look,
        time: int | Sequence[int] | None,
        path: Any = None,
    ) -> None:
        mesh = result.mesh
        self.result = result
        self.look = look
        self.path = path
        self.dots = None if look.dots is None else np.asarray(look.dots)
        self.shows_curves = mesh.dim == 1 or look.along is not None
        with mesh.ranks.raising_together():
            self.name = _name_values(look.field)
            self._check()
            self.times = _choose_times(time, len(result.t), self.shows_curves)
            self.format_time = _choose_time_format(result.t)
        self._line = None if look.along is None else _Line(mesh, look.along)
        self._own: dict[int, Array] = {}
        self.colors = self._choose_colors()

        parts = mesh.ranks.gather_to_root(list_own_cells(mesh))
        center = self._find_cut() if mesh.dim == 3 and not self.shows_curves else None
        self.scene = mesh.ranks.on_root(self._build_scene, parts, center)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if isinstance(self.scene, Scene):
            self.scene.close()

    def _check(self):
        look = self.look
        fields = self.result.fields
        wanted = "velocity" if look.field == "speed" else look.field
        if wanted not in fields and "density_0" in fields:
            raise InputError(
                f"this is the result of several densities, and has no {wanted} to draw: "
                "result.member(i) is that of one, with plot and movie; or give the name of one of "
                "the fields here, such as field='density_0'"
            )
        if not isinstance(wanted, str) or wanted not in fields:
            known = [*fields, *(["speed"] if "velocity" in fields else [])]
            raise InputError(
                f"this result has no {wanted!s:.60} to draw: field must be one of "
                f"{', '.join(known)}, not {look.field!r:.60}"
            )
        check_width(look.width)
        if not isinstance(look.log, (bool, np.bool_)):
            raise InputError(f"log must be True or False, not {look.log!r:.60}")

        self._check_arrows()
        if self.dots is not None:
            self._check_dots()

    def _check_arrows(self):
        arrows = self.look.arrows
        if not isinstance(arrows, (bool, np.bool_, str)):
            raise InputError(
                f"arrows must be True, False or the name of a field of vectors, not {arrows!r:.60}"
            )
        if not arrows:
            return
        name = self.look.vectors
        if name not in self.result.fields:
            raise InputError(
                f"this result has no {name:.60} to draw: use field='density' and arrows=False"
            )
        if self.result.mesh.dim != 2:
            dim = self.result.mesh.dim
            raise InputError(f"arrows are drawn in 2D; this mesh has dimension {dim}")

    def _check_dots(self):
        dots = self.dots
        n_times = len(self.result.t)
        is_positions = dots.ndim == 3 and dots.dtype.kind in "iuf"
        fits = is_positions and dots.shape[:2] == (n_times, 2) and self.result.mesh.dim == 2
        if not fits:
            raise InputError(
                f"dots must be positions ({n_times}, 2, n) on a mesh in the plane, not of shape "
                f"{dots.shape}"
            )

    def _choose_colors(self):
        ranks = self.result.mesh.ranks
        low, high = np.inf, -np.inf
        for i in self.times:
            values = self._get_own(i)
            shown = values[values > 0] if self.look.log else values[np.isfinite(values)]
            low = shown.min(initial=low)
            high = shown.max(initial=high)
        low, high = ranks.min(low), ranks.max(high)
        if self.look.log and self.look.field.startswith("density"):
            self._check_log()
        with ranks.raising_together():
            return Colors.choose(low, high, self.look.clim, self.look.cmap, self.look.log)

    def _check_log(self):
        """`InputError` where a density that is to be drawn logarithmically has values below 0."""
        ranks = self.result.mesh.ranks
        shown = [self._get_own(i) for i in self.times]
        least = ranks.min(min(values[values < 0].min(initial=0.0) for values in shown))
        ranks.check(
            least == 0,
            f"log=True shows values above 0, and this density has values down to {least:.3g}: "
            "leave out log; cmap='RdBu_r' with clim=(-a, a) shows both signs",
        )

    def _get_own(self, i):
        """The field at recorded time i: (n_cells,) of this rank, or along the line. Collective."""
        if i not in self._own:
            name = "velocity" if self.look.field == "speed" else self.look.field
            values = np.asarray(self.result.fields[name][i])
            if values.ndim > 1:
                values = np.sqrt((values**2).sum(axis=tuple(range(values.ndim - 1))))
            self._own[i] = values if self._line is None else self._line.sample(values)
        return self._own[i]

    def gather_values(self, i: int) -> tuple[Array, Array | None, Array | None] | None:
        """On rank 0 (field, vectors or None, dots or None) at recorded time i; None elsewhere."""
        ranks = self.result.mesh.ranks
        values = self._get_own(i)
        if self._line is not None:
            return (values, None, None) if ranks.is_root else None
        vectors = self._get_own_vectors(i) if self.look.arrows else None
        parts = ranks.gather_to_root((values, vectors))
        if parts is None:
            return None
        all_values, all_vectors = zip(*parts)
        return (
            np.concatenate(all_values),
            np.concatenate(all_vectors, axis=-1) if self.look.arrows else None,
            None if self.dots is None else self.dots[i],
        )

    def _get_own_vectors(self, i):
        """What the arrows show at recorded time i: (2, n_cells) of this rank. Collective."""
        name = self.look.vectors
        vectors = np.asarray(self.result.fields[name][i])
        self.result.mesh.ranks.check(
            vectors.ndim == 2 and len(vectors) == 2 and bool(np.isfinite(vectors).all()),
            f"arrows show vectors (2, n_cells) of finite numbers, and {name:.60} has the shape "
            f"{vectors.shape}, or other numbers",
        )
        return vectors

    def _find_cut(self):
        """The point at which a solid is cut open: the centre of mass of the field, but not too near
        to the surface.
        """
        mesh = self.result.mesh
        sizes = [np.abs(self._get_own(i)) for i in self.times]
        mean = np.mean(sizes, axis=0)
        weight = mesh.volume * mean
        moments = np.concatenate([weight[None], weight * mesh.centroid])
        total, *moment = mesh.ranks.sum(moments.sum(axis=1))

        lower, upper = mesh.bounds
        center = np.array(moment) / total if total else (lower + upper) / 2
        smallest = 0.75 * lower + 0.25 * upper
        largest = 0.25 * lower + 0.75 * upper
        return np.clip(center, smallest, largest)

    def _build_scene(self, parts, center):
        if self.path is not None:
            with pvd.explain_write_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._line is not None:
            return Curves(self._line.distance, self._line.label, lambda values: values)
        cells = GatheredCells.join(parts)
        if len(cells.points) == 1:
            is_radius = self.result.mesh.coordinates != "cartesian"
            return Curves.over_interval(cells, "r" if is_radius else "x")
        check_can_draw()
        if len(cells.points) == 3:
            return Solid(cells, center, self.colors.ink)
        block = self.result.mesh.block
        return Plane(cells, seam=block is not None and any(block.periodic))

    def draw(self, values: Sequence[Any], times: Sequence[int], ax: Any = None) -> Any:
        """A Matplotlib figure of the values at some recorded times. On rank 0."""
        labels = [self.format_time(self.result.t[i]) for i in times]
        name, colors, width = self.name, self.colors, self.look.width
        if isinstance(self.scene, Curves):
            curves = [u for u, *_ in values]
            if ax is None:
                return draw_curves(self.scene, curves, labels, name, colors, width)
            self.scene.draw(ax, curves, labels, name, colors)
            return ax.figure
        if ax is None:
            return draw_panels(self.scene, values, labels, name, colors, width)
        draw_into(ax, self.scene, values[0], labels[0], name, colors, width)
        return ax.figure

    def draw_image(self, values: tuple[Any, ...], i: int) -> Any:
        """A Pillow image, at recorded time i. On rank 0."""
        return render(self.draw([values], [i]))

    def save_film(self, images: list[Any], fps: float) -> None:
        """Write a movie of images. On rank 0."""
        if self.path.suffix == ".mp4":
            films.save_mp4(self.path, images, fps)
        else:
            films.save_gif(self.path, images, self.colors, fps)


class _Line:
    """A line through a mesh, from start to end. Collective.

    distance (PROFILE_POINTS,) : of its points from the start
    label : what the distance is
    """

    def __init__(self, mesh: Any, along: Any) -> None:
        wanted = f"along must be two points (start, end), of {mesh.dim} numbers each"
        with mesh.ranks.raising_together():
            ends = as_floats(along, wanted)
            if mesh.dim == 1 and ends.shape == (2,):
                ends = ends[:, None]
            if ends.shape != (2, mesh.dim) or not np.isfinite(ends).all():
                raise InputError(f"{wanted}, not {along!r:.60}")
            length = np.linalg.norm(ends[1] - ends[0])
            if not length > 0:
                raise InputError(f"{wanted} that are not the same point, not {along!r:.60}")

        self._ranks = mesh.ranks
        part = np.linspace(0, 1, PROFILE_POINTS)
        points = ends[0][:, None] + part * (ends[1] - ends[0])[:, None]
        self._cell, self._is_inside = mesh.find(points)
        mesh.ranks.check(
            self._is_inside.any(), f"the line along {along!r:.60} does not meet the mesh"
        )
        self.distance = length * part
        start = ", ".join(f"{x:.4g}" for x in ends[0])
        end = ", ".join(f"{x:.4g}" for x in ends[1])
        self.label = f"distance from ({start}) towards ({end})"

    def sample(self, values: Array) -> Array:
        """Values (n_cells,) at the points of the line, the same on every rank; nan outside."""
        is_own = self._cell >= 0
        own = np.where(is_own, values[self._cell], 0.0)
        return np.where(self._is_inside, self._ranks.sum(own), np.nan)


def check_axes(ax: Any) -> None:
    """`InputError` unless ax is None or axes of Matplotlib."""
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(
            f"ax must be axes of Matplotlib, such as figure, ax = plt.subplots(), not {ax!r:.60}"
        )


def check_width(width: Any) -> None:
    """`InputError` unless a picture can have so many pixels."""
    if not is_integer(width) or not 50 <= width <= 20000:
        raise InputError(f"width must be a whole number of pixels from 50 to 20000, not {width!r}")


def _name_values(field):
    """What the numbers are called."""
    kind, _, _ = str(field).partition("_")  # fields of a batch end with a number
    return f"|{field}|" if kind in ("current", "velocity", "drift") else str(field)


def _choose_times(time, n_times, shows_curves):
    """The numbers of the recorded times in a picture."""
    if time is None:
        n_shown = min(DEFAULT_CURVES, n_times) if shows_curves else 1
        return [int(i) for i in np.linspace(n_times - 1, 0, n_shown).round()][::-1]

    times = np.ravel(time).tolist()
    for i in times:
        if not isinstance(i, int):
            raise InputError(
                f"time must be the number of a recorded time, from 0 to {n_times - 1}, or "
                f"several; not {i!r}"
            )
        if not -n_times <= i < n_times:
            raise InputError(
                f"there is no recorded time {i}: the result has {n_times}, numbered from 0"
            )
    if not times:
        raise InputError("time is empty: give the number of a recorded time, or several")
    return [i % n_times for i in times]


def _choose_time_format(t) -> Callable[[float], str]:
    """A function from a time to its label, with enough digits to distinguish the recorded times.

    What has no time has an empty label.
    """
    if np.isnan(t).any():
        return lambda time: ""
    size = max(float(np.abs(t).max()), 1e-300)
    step = float(np.diff(t).min()) if len(t) > 1 else size
    digits = math.ceil(-math.log10(max(step, 1e-6 * size))) + 1
    if size >= 1e5 or digits > 6:
        return lambda time: f"t = {time:.4g}"
    return lambda time: f"t = {time:.{max(digits, 0)}f}"
