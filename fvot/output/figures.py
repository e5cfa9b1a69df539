"""What Matplotlib draws: colours of values, curves, panels of cells with a colour bar."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FormatStrFormatter,
    LogFormatterSciNotation,
    MaxNLocator,
    ScalarFormatter,
)

from ..arguments.types import Array, IntArray
from ..errors import InputError
from .pvd import explain_write_errors
from .scenes import GatheredCells, Plane, Scene

# The width of a picture in inches; its `width` in pixels sets the resolution.
PICTURE_INCHES = 8.0

# The height in inches of a domain that is higher than wide.
MAX_DOMAIN_INCHES = 7.0

# The height in inches of a domain below which the colour bar lies under it.
MIN_BAR_INCHES = 1.6

# The ratio of the ends of a logarithmic bar up to which all of its ticks have numbers.
MAX_RANGE_OF_SMALL_TICKS = 20

# Room for a legend right of a mesh, in inches, and the most names that it has.
LEGEND_INCHES = 1.75
MAX_LEGEND_NAMES = 18

# The colour of cells without a region, and the part of white in those of regions.
PAPER = 0.97
REGION_WHITE = 0.72

# Pixels for an inch of a figure that a notebook shows.
NOTEBOOK_DPI = 100

# The range of a logarithmic scale, where values come down to less.
MAX_LOG_RANGE = 1e6


class NotebookFigure(Figure):
    """A figure that notebooks show, once, where it is the value of a cell."""

    def _repr_png_(self):
        """(The picture, how large it is shown.)"""
        buffer = io.BytesIO()
        render(self).save(buffer, "PNG")
        return buffer.getvalue(), {"width": round(NOTEBOOK_DPI * self.get_figwidth())}


@dataclass(frozen=True)
class Colors:
    """The colours of values: `map` between low and high, which are above 0 if *log*."""

    low: float
    high: float
    map: Any
    extend: str  # the ends of the colour bar that stand for values beyond them
    log: bool = False

    @classmethod
    def choose(
        cls,
        least: float,
        largest: float,
        clim: tuple[float, float] | None,
        cmap: Any,
        log: bool = False,
    ) -> Colors:
        """Colours for values between *least* and *largest*, of those above 0 if *log*.

        By default they begin at 0, unless all values are far from 0.
        """
        cmap = _find_map(cmap)
        if clim is not None:
            low, high = _check_limits(clim, log)
        elif log:
            if not 0 < largest < np.inf:
                raise InputError("log=True needs values above 0, and here there are none")
            low, high = max(least, largest / MAX_LOG_RANGE), largest
        else:
            low = 0.0 if 0 <= least < largest / 2 else least
            high = largest
        if not high - low > 1e-12 * max(abs(low), abs(high)):  # a constant
            low, high = (0.0, 2 * high) if high > 0 else (low - 1, high + 1)
            low = high / 4 if log else low

        names = {
            (False, False): "neither",
            (True, False): "min",
            (False, True): "max",
            (True, True): "both",
        }
        return cls(low, high, cmap, names[bool(least < low), bool(largest > high)], log)

    @property
    def norm(self) -> Any:
        """Matplotlib's map from values to [0, 1]."""
        return (LogNorm if self.log else Normalize)(self.low, self.high, clip=True)

    @property
    def ink(self) -> str:
        """The colour of lines that can be seen on the lowest values, hence on most of a picture."""
        brightness = np.dot([0.3, 0.6, 0.1], self.map(0.0)[:3])
        return "black" if brightness > 0.5 else "white"

    def as_rgb(self, values: Array) -> IntArray:
        """(n, 3) bytes."""
        return self.map(self.norm(values), bytes=True)[:, :3]


def _find_map(cmap):
    if not isinstance(cmap, str):
        return cmap
    if cmap not in colormaps:
        raise InputError(
            f"there is no colour map {cmap!r} in Matplotlib; 'viridis' and 'magma_r' are two"
        )
    return colormaps[cmap]


def _check_limits(clim, log):
    """(low, high) as numbers."""
    try:
        low, high = map(float, clim)
    except (TypeError, ValueError):
        raise InputError(f"clim must be two numbers (low, high), not {clim!r:.60}") from None
    if not low < high:
        raise InputError(f"clim must be (low, high) with low < high, not {clim}")
    if log and not low > 0:
        raise InputError(f"with log=True clim must be (low, high) with low > 0, not {clim}")
    return low, high


# ---- curves --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """Values over a line, a curve for each time.

    x (n,) : places, of which *label* says what they are
    expand : the values (n,) there, from those that a picture has
    """

    x: Array
    label: str
    expand: Callable[[Array], Array]

    @classmethod
    def over_interval(cls, cells: GatheredCells, label: str) -> Curves:
        """Step functions over the cells of an interval, whose axis has the label."""
        ends = np.sort(cells.points[0, cells.corners].reshape(-1, 2), axis=1)
        order = np.argsort(ends[:, 0])
        return cls(ends[order].ravel(), label, lambda u: np.repeat(u[order], 2))

    def draw(
        self, axes: Any, values: Sequence[Array], labels: Sequence[str], name: str, colors: Colors
    ) -> None:
        """Add curves of the values at the times with the given labels."""
        x = self.x
        curves = [self.expand(u) for u in values]
        for i, (y, label) in enumerate(zip(curves, labels)):
            color = colors.map(0.85 * i / max(len(curves) - 1, 1))
            axes.plot(x, y, color=color, linewidth=2, label=label)
        if len(curves) > 1:
            axes.legend(frameon=False)
        else:
            axes.fill_between(x, curves[0], color=colors.map(0.0), alpha=0.15, linewidth=0)
            axes.set_title(labels[0])

        axes.set_xlabel(self.label)
        axes.set_ylabel(name)
        axes.set_xlim(x[0], x[-1])
        if colors.log:
            axes.set_yscale("log")
            axes.set_ylim(colors.low, 1.3 * colors.high)
        else:
            margin = 0.05 * (colors.high - colors.low)
            axes.set_ylim(colors.low - margin if colors.low else 0.0, colors.high + margin)
        axes.spines[["top", "right"]].set_visible(False)


def draw_curves(
    curves: Curves,
    values: Sequence[Array],
    labels: Sequence[str],
    name: str,
    colors: Colors,
    width: int,
) -> NotebookFigure:
    """A figure with the curves alone."""
    size = (PICTURE_INCHES, 0.6 * PICTURE_INCHES)
    figure = NotebookFigure(size, dpi=width / PICTURE_INCHES, layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.15, h_pad=0.12)
    curves.draw(figure.add_subplot(), values, labels, name, colors)
    return figure


# ---- panels --------------------------------------------------------------------------------------


class Layout:
    """Where panels and colour bar stand in a picture, in inches."""

    top = 0.42
    gap = 0.22

    def __init__(self, scene: Scene, n: int, dpi: float, right_margin: float | None = None) -> None:
        """Of n panels beside one another.

        right_margin : inches that are left free there; None for those of a colour bar
        """
        left, right, bottom, top = scene.extent
        aspect = (top - bottom) / (right - left)
        is_flat = isinstance(scene, Plane)
        self.n = n
        self.left = 0.62 if is_flat else 0.5
        self.right = (1.15 if is_flat else 1.3) if right_margin is None else right_margin
        self.bottom = 0.38
        width = min(self._panel_width(), MAX_DOMAIN_INCHES / aspect)
        self.has_bar_below = right_margin is None and width * aspect < MIN_BAR_INCHES
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


def draw_panels(
    scene: Scene,
    values: Sequence[tuple[Any, ...]],
    labels: Sequence[str],
    name: str,
    colors: Colors,
    width: int,
) -> NotebookFigure:
    """A figure with one panel for each time and one colour bar, without room to spare.

    values : (cell values, velocity or None, dots or None) at each time
    """
    dpi = width / PICTURE_INCHES
    layout = Layout(scene, len(values), dpi)
    figure = NotebookFigure(layout.total, dpi=dpi)
    for i, ((u, velocity, dots), label) in enumerate(zip(values, labels)):
        axes = layout.add_panel(figure, i)
        draw_cells(axes, scene, colors.as_rgb(u), layout.size, layout)
        axes.set_title(label, fontsize=13)
        scene.dress(axes, velocity, dots, i == 0)
    _draw_bar(figure, layout, colors, name)
    return figure


def draw_cells(
    axes: Any, scene: Scene, rgb: IntArray, size: tuple[int, int], layout: Layout | None = None
) -> None:
    """Add cells in their colours (n_cells, 3), drawn in that many pixels."""
    image = scene.draw_cells(rgb, size)
    if layout:  # whose panels have a pixel for each of the image
        axes.imshow(image, extent=scene.extent, aspect="auto", interpolation="nearest")
    else:
        axes.imshow(image, extent=scene.extent, aspect="equal", interpolation="antialiased")
    axes.set_autoscale_on(False)
    if layout:
        n_x_ticks = max(2, round(layout.panel_width / 0.9))
        n_y_ticks = max(2, round(layout.panel_height / 0.7))
        axes.xaxis.set_major_locator(MaxNLocator(n_x_ticks, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(n_y_ticks, steps=[1, 2, 5, 10]))


def draw_into(
    axes: Any,
    scene: Scene,
    values: tuple[Any, ...],
    label: str,
    name: str,
    colors: Colors,
    width: int,
) -> None:
    """Add cells, drawn *width* pixels wide, and a colour bar to axes of a user's own."""
    u, velocity, dots = values
    draw_cells(axes, scene, colors.as_rgb(u), _find_pixels(scene, width))
    axes.set_title(label)
    scene.dress(axes, velocity, dots, True)
    bar = axes.inset_axes((1.03, 0, 0.04, 1))
    _fill_bar(axes.figure, bar, colors, name)


def _find_pixels(scene, width):
    """(width, height) of a picture that shows all of a scene."""
    left, right, bottom, top = scene.extent
    return width, max(round(width * (top - bottom) / (right - left)), 1)


def draw_mesh(
    scene: Scene | None,
    cells: GatheredCells,
    region: IntArray,
    regions: Sequence[str],
    sides: Mapping[str, Array],
    width: int,
) -> NotebookFigure:
    """A figure of cells, their regions, and the names of the boundary.

    scene : None on an interval
    region (n_cells,) : numbers in *regions*, -1 for none
    sides : {name: points (dim, dim, n) of the faces}
    """
    dpi = width / PICTURE_INCHES
    if scene is None:
        size = (PICTURE_INCHES, 0.22 * PICTURE_INCHES)
        figure = NotebookFigure(size, dpi=dpi, layout="constrained")
        _draw_interval(figure.add_subplot(), cells, sides)
        return figure

    is_named = len(regions) > 0 or isinstance(scene, Plane)
    layout = Layout(scene, 1, dpi, right_margin=LEGEND_INCHES if is_named else 0.4)
    figure = NotebookFigure(layout.total, dpi=dpi)
    axes = layout.add_panel(figure, 0)
    draw_cells(axes, scene, _color_regions(region), layout.size, layout)
    _name_parts(axes, scene, regions, sides)
    return figure


def draw_mesh_into(
    axes: Any,
    scene: Scene | None,
    cells: GatheredCells,
    region: IntArray,
    regions: Sequence[str],
    sides: Mapping[str, Array],
    width: int,
) -> None:
    """Add the same to axes of a user's own."""
    if scene is None:
        _draw_interval(axes, cells, sides)
        return
    draw_cells(axes, scene, _color_regions(region), _find_pixels(scene, width))
    _name_parts(axes, scene, regions, sides)


def _draw_interval(axes, cells, sides):
    """Ends of cells as strokes on a line, and the names of the boundary."""
    x = np.unique(cells.points)
    axes.plot(x, np.zeros_like(x), color="black", linewidth=1)
    axes.vlines(x, -0.2, 0.2, color="black", linewidth=min(1.0, 150 / len(x)))
    for name, points in sides.items():
        for end in points.ravel():
            axes.vlines(end, -0.4, 0.4, color="tab:red", linewidth=2)
            axes.annotate(name, (end, 0.5), ha="center", va="bottom")
    axes.set_ylim(-0.6, 1.0)
    axes.set_xlabel("x")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _color_regions(region):
    """Colours (n_cells, 3) of regions."""
    palette = np.array([colormaps["tab10"](i)[:3] for i in range(10)])
    pale = REGION_WHITE + (1 - REGION_WHITE) * palette
    own = np.where(region[:, None] < 0, PAPER, pale[region % 10])
    return (255 * own).round().astype(np.uint8)


def _name_parts(axes, scene, regions, sides):
    """Walls in the colours of their names, and a legend with these and the regions."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Patch

    scene.dress(axes, None, None, True)
    handles = []
    if regions:
        colors = _color_regions(np.arange(len(regions))) / 255
        handles += [
            Patch(facecolor=color, edgecolor="0.5", label=name)
            for color, name in zip(colors, regions)
        ]
    if isinstance(scene, Plane):
        for i, (name, points) in enumerate(sides.items()):
            lines = LineCollection(
                [*points.T],
                colors=[colormaps["tab10"](i % 10)],
                linewidths=2.5,
                capstyle="round",
                label=name,
            )
            axes.add_collection(lines, autolim=False)
            handles.append(lines)
    if handles:
        axes.legend(
            handles=handles[:MAX_LEGEND_NAMES],
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            borderaxespad=0,
            frameon=False,
        )


def _draw_bar(figure, layout, colors, name):
    bar = layout.add_bar(figure)
    orientation = "horizontal" if layout.has_bar_below else "vertical"
    _fill_bar(figure, bar, colors, name, orientation)
    bar.tick_params(labelsize=10)


def _fill_bar(
    figure: Any,
    bar: Any,
    colors: Colors,
    name: str,
    orientation: Literal["vertical", "horizontal"] = "vertical",
) -> None:
    """Add a colour bar in the axes *bar*."""
    digits: Any
    if colors.log and colors.high / colors.low > MAX_RANGE_OF_SMALL_TICKS:
        digits = LogFormatterSciNotation(minor_thresholds=(0, 0))
    elif colors.log:
        digits = FormatStrFormatter("%.3g")
    else:
        digits = ScalarFormatter(useMathText=True)
        digits.set_powerlimits((-2, 4))  # small numbers have a power of ten above the bar
    made = figure.colorbar(
        ScalarMappable(colors.norm, colors.map),
        cax=bar,
        label=name,
        extend=colors.extend,
        format=digits,
        orientation=orientation,
    )
    if colors.log:
        made.long_axis.set_minor_formatter(digits)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png, .svg or .pdf."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png" and isinstance(figure, NotebookFigure):
            render(figure).save(path)
        else:
            figure.savefig(path)


def render(figure: Figure) -> Any:
    """A Pillow image of a Matplotlib figure."""
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
