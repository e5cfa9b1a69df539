"""Pictures of a result at one time or several (.png), and in motion (.gif).

Every rank hands its part to rank 0, which draws: VTK the cells (`scenes`), Matplotlib axes, colour
bar and title around them.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol

import numpy as np

from ..arguments.functions import is_integer
from ..arguments.types import Array, IntArray, Path
from ..errors import InputError
from . import pvd
from .scenes import GatheredCells, Plane, Scene, Solid

Field = Literal["density", "speed", "pressure"]

# The width of a picture in inches; its `width` in pixels sets the resolution.
PICTURE_INCHES = 8.0

# The height in inches of a domain that is higher than wide.
MAX_DOMAIN_INCHES = 7.0

# The height in inches of a domain below which the colour bar lies under it.
MIN_BAR_INCHES = 1.6

# How many times a picture of a density on an interval shows by default.
DEFAULT_CURVES = 6

# A program that draws with VTK.
DRAWING_TRIAL = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(8, 8)
window.AddRenderer(vtkRenderer())
window.Render()
print("drawn")
"""


class Drawable(Protocol):
    """A result that can be drawn."""

    @property
    def mesh(self) -> Any: ...

    @property
    def t(self) -> Array: ...

    @property
    def rho(self) -> Array: ...

    @property
    def velocity(self) -> Any: ...

    @property
    def pressure(self) -> Any: ...


def plot(
    result: Drawable,
    path: Path,
    time: int | Sequence[int] | None = None,
    field: Field = "density",
    *,
    clim: tuple[float, float] | None = None,
    cmap: Any = "viridis",
    arrows: bool = False,
    dots: Array | None = None,
    width: int = 1200,
) -> None:
    """Draw a field of a result to a .png. Collective.

    Parameters
    ----------
    result : Result or Geodesic
        What a solver returned.
    path : str or pathlib.Path
        Ends with .png.
    time : int or sequence of int, optional
        Number of the recorded time, or several, drawn side by side. None: the last one; on an
        interval up to six in one picture.
    field : {"density", "speed", "pressure"}
        What the colours show.
    clim : (low, high), optional
        The values at the ends of the colours. None: from the values.
    cmap : str or matplotlib.colors.Colormap
        The colour map.
    arrows : bool
        Draw the velocity, in 2D.
    dots : array (n_times, 2, n), optional
        Positions of particles at the recorded times, drawn on top, in 2D; the same on every rank.
    width : int
        Pixels.

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
    with Picture(result, path, ".png", time, field, clim, cmap, arrows, dots, width) as picture:
        values = [picture.gather_values(i) for i in picture.times]
        result.mesh.ranks.on_root(picture.save, values)


def movie(
    result: Drawable,
    path: Path,
    field: Field = "density",
    *,
    clim: tuple[float, float] | None = None,
    cmap: Any = "viridis",
    arrows: bool = False,
    dots: Array | None = None,
    width: int = 800,
    fps: float = 15,
) -> None:
    """Draw a field at every recorded time to a .gif, with the same colours for all. Collective.

    Parameters
    ----------
    result : Result or Geodesic
        What a solver returned.
    path : str or pathlib.Path
        Ends with .gif.
    field, clim, cmap, arrows, dots, width
        As for `plot`.
    fps : float
        Times that are shown per second, at most 50.

    Raises
    ------
    InputError
        As for `plot`, and for an fps that is no number above 0 and at most 50.

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
        isinstance(fps, Real) and 0 < fps <= 50,
        f"fps must be above 0 and at most 50, which is what a .gif can show, not {fps!r}",
    )
    times = range(len(result.t))
    with Picture(result, path, ".gif", times, field, clim, cmap, arrows, dots, width) as picture:
        frames = []
        for i in picture.times:
            values = picture.gather_values(i)
            frames.append(ranks.on_root(picture.draw_frame, values, i))
        ranks.on_root(picture.save_frames, frames, round(1000 / fps))


class Picture:
    """The parts that stay the same from one time to the next: the domain, the colours, the layout.

    Made on every rank.
    """

    def __init__(
        self,
        result: Drawable,
        path: Path,
        suffix: str,
        time: int | Sequence[int] | None,
        field: Field,
        clim: tuple[float, float] | None,
        cmap: Any,
        arrows: bool,
        dots: Array | None,
        width: int,
    ) -> None:
        mesh = result.mesh
        self.result = result
        self.field = field
        self.path = pvd.check_path(mesh.ranks, path, suffix)
        self.arrows = arrows
        self.dots = None if dots is None else np.asarray(dots)
        self.width = width
        with mesh.ranks.raising_together():
            self._check()
            self.times = _choose_times(time, len(result.t), mesh.dim)
            self.format_time = _choose_time_format(result.t)

        low, high = np.inf, -np.inf
        for i in self.times:
            values = self._get_own(i)
            low = values.min(initial=low)
            high = values.max(initial=high)
        low, high = mesh.ranks.min(low), mesh.ranks.max(high)
        with mesh.ranks.raising_together():
            self.colors = Colors.choose(low, high, clim, cmap)

        own_cells = (
            mesh.points,
            mesh.kind,
            np.diff(mesh.start),
            mesh.corners,
            mesh.vertices[:, mesh.n_inner :],
            mesh.centroid,
        )
        parts = mesh.ranks.gather_to_root(own_cells)
        center = self._find_cut() if mesh.dim == 3 else None
        self.scene = mesh.ranks.on_root(self._build_scene, parts, center)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if isinstance(self.scene, Scene):
            self.scene.close()

    def _check(self):
        result = self.result
        if self.field not in ("density", "speed", "pressure"):
            raise InputError(f"field must be 'density', 'speed' or 'pressure', not {self.field!r}")
        if self.field == "pressure" and result.pressure is None:
            raise InputError(
                "this result has no pressure to draw: only JKO with an upper bound has one"
            )
        if not is_integer(self.width) or not 50 <= self.width <= 20000:
            raise InputError(
                f"width must be a whole number of pixels from 50 to 20000, not {self.width!r}"
            )

        if result.velocity is None and (self.arrows or self.field == "speed"):
            raise InputError(
                "this result has no velocity to draw: use field='density' and arrows=False"
            )
        if self.arrows and result.mesh.dim != 2:
            raise InputError(f"arrows are drawn in 2D; this mesh has dimension {result.mesh.dim}")
        if self.dots is not None:
            self._check_dots()

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

    def _get_own(self, i):
        """The field at recorded time i: (n_cells,) of this rank."""
        if self.field == "speed":
            return np.linalg.norm(self.result.velocity[i], axis=0)
        values = self.result.rho if self.field == "density" else self.result.pressure
        return values[i]

    def gather_values(self, i: int) -> tuple[Array, Array | None, Array | None] | None:
        """On rank 0 (field, velocity or None, dots or None) at recorded time i; None elsewhere."""
        own = (self._get_own(i), self.result.velocity[i] if self.arrows else None)
        parts = self.result.mesh.ranks.gather_to_root(own)
        if parts is None:
            return None
        values, velocity = zip(*parts)
        return (
            np.concatenate(values),
            np.concatenate(velocity, axis=-1) if self.arrows else None,
            None if self.dots is None else self.dots[i],
        )

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
        cells = GatheredCells.join(parts)
        with pvd.explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        dim = len(cells.points)
        if dim == 1:
            return Curve(cells)
        check_can_draw()
        if dim == 3:
            return Solid(cells, center, self.colors.ink)
        block = self.result.mesh.block
        return Plane(cells, seam=block is not None and any(block.periodic))

    def draw(self, values: Sequence[tuple[Any, ...]], times: Sequence[int] | None = None) -> Any:
        """A Pillow image of the values at some recorded times. On rank 0."""
        times = self.times if times is None else times
        labels = [self.format_time(self.result.t[i]) for i in times]
        if isinstance(self.scene, Curve):
            densities = [density for density, *_ in values]
            figure = self.scene.draw(densities, labels, self.field, self.colors)
        else:
            figure = _draw_panels(self.scene, values, labels, self.field, self.colors, self.width)
        return _render(figure, self.width)

    def save(self, values: Sequence[tuple[Any, ...]]) -> None:
        """Write a picture of the values at all chosen times. On rank 0."""
        with pvd.explain_write_errors(self.path):
            self.draw(values).save(self.path)

    def draw_frame(self, values: tuple[Any, ...], i: int) -> Any:
        """One image of a movie, at recorded time i. On rank 0."""
        return _reduce_colors(self.draw([values], [i]), self.colors)

    def save_frames(self, frames: list[Any], milliseconds: int) -> None:
        """Write a movie that shows each frame for a time. On rank 0."""
        first, *others = frames
        with pvd.explain_write_errors(self.path):
            first.save(
                self.path,
                save_all=True,
                append_images=others,
                duration=milliseconds,
                loop=0,
                optimize=False,
            )


def _choose_times(time, n_times, dim):
    """The numbers of the recorded times in a picture."""
    if time is None:
        n_shown = min(DEFAULT_CURVES, n_times) if dim == 1 else 1
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
    """A function from a time to its label, with enough digits to distinguish the recorded times."""
    size = max(float(np.abs(t).max()), 1e-300)
    step = float(np.diff(t).min()) if len(t) > 1 else size
    digits = math.ceil(-math.log10(max(step, 1e-6 * size))) + 1
    if size >= 1e5 or digits > 6:
        return lambda time: f"t = {time:.4g}"
    return lambda time: f"t = {time:.{max(digits, 0)}f}"


@dataclass(frozen=True)
class Colors:
    """The colours of values: `map` between low and high."""

    low: float
    high: float
    map: Any
    extend: str  # the ends of the colour bar that stand for values beyond them

    @classmethod
    def choose(
        cls, least: float, largest: float, clim: tuple[float, float] | None, cmap: Any
    ) -> Colors:
        """Colours for values between *least* and *largest*.

        By default they begin at 0, unless all values are far from 0.
        """
        cmap = _find_map(cmap)
        if clim is not None:
            low, high = _check_limits(clim)
        else:
            low = 0.0 if 0 <= least < largest / 2 else least
            high = largest
        if not high - low > 1e-12 * max(abs(low), abs(high)):  # a constant
            low, high = (0.0, 2 * high) if high > 0 else (low - 1, high + 1)

        names = {
            (False, False): "neither",
            (True, False): "min",
            (False, True): "max",
            (True, True): "both",
        }
        return cls(low, high, cmap, names[bool(least < low), bool(largest > high)])

    @property
    def norm(self) -> Any:
        """Matplotlib's map from values to [0, 1]."""
        from matplotlib.colors import Normalize

        return Normalize(self.low, self.high, clip=True)

    @property
    def ink(self) -> str:
        """The colour of lines that can be seen on the lowest values, hence on most of a picture."""
        brightness = np.dot([0.3, 0.6, 0.1], self.map(0.0)[:3])
        return "black" if brightness > 0.5 else "white"

    def as_rgb(self, values: Array) -> IntArray:
        """(n, 3) bytes."""
        return self.map(self.norm(values), bytes=True)[:, :3]


def _find_map(cmap):
    from matplotlib import colormaps

    if not isinstance(cmap, str):
        return cmap
    if cmap not in colormaps:
        raise InputError(
            f"there is no colour map {cmap!r} in Matplotlib; 'viridis' and 'magma_r' are two"
        )
    return colormaps[cmap]


def _check_limits(clim):
    """(low, high) as numbers."""
    try:
        low, high = map(float, clim)
    except (TypeError, ValueError):
        raise InputError(f"clim must be two numbers (low, high), not {clim!r:.60}") from None
    if not low < high:
        raise InputError(f"clim must be (low, high) with low < high, not {clim}")
    return low, high


class Curve:
    """A density on an interval: a step function of x for each time."""

    def __init__(self, cells: GatheredCells) -> None:
        self.ends = np.sort(cells.points[0, cells.corners].reshape(-1, 2), axis=1)
        self.order = np.argsort(self.ends[:, 0])

    def draw(self, values: list[Array], labels: list[str], name: str, colors: Colors) -> Any:
        """A Matplotlib figure of the values (n_cells,) at the times with the given labels."""
        from matplotlib.figure import Figure

        figure = Figure((PICTURE_INCHES, 0.6 * PICTURE_INCHES), layout="constrained")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.15, h_pad=0.12)
        axes = figure.add_subplot()
        x = self.ends[self.order].ravel()
        steps = [np.repeat(u[self.order], 2) for u in values]
        for i, (y, label) in enumerate(zip(steps, labels)):
            color = colors.map(0.85 * i / max(len(steps) - 1, 1))
            axes.plot(x, y, color=color, linewidth=2, label=label)
        if len(steps) == 1:
            axes.fill_between(x, steps[0], color=colors.map(0.0), alpha=0.15, linewidth=0)
            axes.set_title(labels[0])
        else:
            axes.legend(frameon=False)

        margin = 0.05 * (colors.high - colors.low)
        floor = colors.low - margin if colors.low else 0.0
        ceiling = colors.high + margin
        axes.set_xlabel("x")
        axes.set_ylabel(name)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(floor, ceiling)
        axes.spines[["top", "right"]].set_visible(False)
        return figure


class _Layout:
    """Where panels and colour bar stand in a picture, in inches."""

    top = 0.42
    gap = 0.22

    def __init__(self, scene: Scene, n: int, dpi: float) -> None:
        """Of n panels beside one another."""
        left, right, bottom, top = scene.extent
        aspect = (top - bottom) / (right - left)
        is_flat = isinstance(scene, Plane)
        self.n = n
        self.left = 0.62 if is_flat else 0.5
        self.right = 1.15 if is_flat else 1.3
        self.bottom = 0.38
        width = min(self._panel_width(), MAX_DOMAIN_INCHES / aspect)
        self.has_bar_below = width * aspect < MIN_BAR_INCHES
        if self.has_bar_below:
            self.right = 0.25
            self.bottom += 0.75
            width = self._panel_width()

        # whole pixels
        self.size = (max(int(width * dpi), 1), max(int(width * aspect * dpi), 1))
        self.panel_height = self.size[1] / dpi
        total_height = self.bottom + self.panel_height + self.top
        self.total = (self.left + n * width + (n - 1) * self.gap + self.right, total_height)
        self.panel_width = self.size[0] / dpi

    def _panel_width(self):
        room = PICTURE_INCHES - self.left - self.right - (self.n - 1) * self.gap
        return room / self.n

    def add_axes(self, figure: Any, x: float, y: float, width: float, height: float) -> Any:
        """Axes with a corner and a size in inches."""
        total_width, total_height = self.total
        return figure.add_axes(
            (x / total_width, y / total_height, width / total_width, height / total_height)
        )

    def add_panel(self, figure: Any, i: int) -> Any:
        x = self.left + i * (self.panel_width + self.gap)
        return self.add_axes(figure, x, self.bottom, self.panel_width, self.panel_height)

    def add_bar(self, figure: Any) -> Any:
        total_width, _ = self.total
        if self.has_bar_below:
            width = total_width - self.left - self.right
            return self.add_axes(figure, self.left, 0.48, width, 0.16)
        return self.add_axes(figure, total_width - 0.95, self.bottom, 0.18, self.panel_height)


def _draw_panels(scene, values, labels, name, colors, width):
    """A figure with one panel for each time and one colour bar, without room to spare."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    dpi = width / PICTURE_INCHES
    layout = _Layout(scene, len(values), dpi)
    n_x_ticks = max(2, round(layout.panel_width / 0.9))
    n_y_ticks = max(2, round(layout.panel_height / 0.7))
    figure = Figure(layout.total, dpi=dpi)
    for i, ((u, velocity, dots), label) in enumerate(zip(values, labels)):
        axes = layout.add_panel(figure, i)
        image = scene.draw_cells(colors.as_rgb(u), layout.size)
        axes.imshow(image, extent=scene.extent, aspect="auto", interpolation="nearest")
        axes.set_autoscale_on(False)
        axes.xaxis.set_major_locator(MaxNLocator(n_x_ticks, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(n_y_ticks, steps=[1, 2, 5, 10]))
        axes.set_title(label, fontsize=13)
        scene.dress(axes, velocity, dots, i == 0)
    _draw_bar(figure, layout, colors, name)
    return figure


def _draw_bar(figure, layout, colors, name):
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import ScalarFormatter

    bar = layout.add_bar(figure)
    digits = ScalarFormatter(useMathText=True)
    digits.set_powerlimits((-2, 4))  # small numbers are written with a power of ten above the bar
    figure.colorbar(
        ScalarMappable(colors.norm, colors.map),
        cax=bar,
        label=name,
        extend=colors.extend,
        format=digits,
        orientation="horizontal" if layout.has_bar_below else "vertical",
    )
    bar.tick_params(labelsize=10)


def _render(figure, width):
    """A Pillow image of a Matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(width / PICTURE_INCHES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _reduce_colors(frame, colors):
    """The frame with a palette that all frames share: the colours of the map, and greys for the
    rest.
    """
    from PIL import Image
    from scipy.spatial import cKDTree

    map_colors = colors.map(np.linspace(0, 1, 208), bytes=True)[:, :3]
    greys = np.linspace([0, 0, 0], [255, 255, 255], 48).round().astype(np.uint8)
    palette = np.concatenate([map_colors, greys])

    red, green, blue = np.moveaxis(np.asarray(frame, np.int64), -1, 0)
    different, place = np.unique(65536 * red + 256 * green + blue, return_inverse=True)
    pixels = np.stack([different >> 16, different >> 8 & 255, different & 255], axis=1)
    number = cKDTree(palette).query(pixels)[1]
    indexed = Image.fromarray(number.astype(np.uint8)[place].reshape(red.shape))
    indexed.putpalette(palette.tobytes())
    return indexed


def check_can_draw() -> None:
    """`InputError` if this machine cannot draw."""
    if not can_draw():
        raise InputError(
            "this machine cannot draw: VTK finds no OpenGL. On Debian and Ubuntu: apt-get install "
            "--no-install-recommends libegl1 libgl1 libgl1-mesa-dri"
        )


@functools.cache
def can_draw() -> bool:
    """Whether VTK draws off screen here.

    Tried in another process, because VTK ends a process in which it cannot draw. Sets
    VTK_DEFAULT_OPENGL_WINDOW to a window that works; without a display that is EGL's.
    """
    name = "VTK_DEFAULT_OPENGL_WINDOW"
    windows: list[str | None] = ["vtkEGLRenderWindow", None]
    if name in os.environ or os.environ.get("DISPLAY"):
        windows = [os.environ.get(name)]

    for window in windows:
        setting = {name: window} if window else {}
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_", name))
        }

        try:
            trial = subprocess.run(
                [sys.executable, "-c", DRAWING_TRIAL],
                env=environment | setting,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0 and "drawn" in trial.stdout:
            os.environ.update(setting)
            return True
    return False
