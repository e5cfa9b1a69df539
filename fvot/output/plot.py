"""Pictures of a result at one time or several (.png), and in motion (.gif).

Every rank hands its part to rank 0, which draws: VTK the cells (`scenes`), Matplotlib axes, colour
bar and title around them.
"""

import functools
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ..errors import InputError
from . import pvd
from .scenes import Plane, Scene, Solid, Whole

INCHES = 8.0  # the width of a picture; its `width` in pixels sets the resolution
TALLEST = 7.0  # inches of a domain that is higher than wide
OVERLAID = 6  # times that a picture of a density on an interval shows unless told
PROBE = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(8, 8)
window.AddRenderer(vtkRenderer())
window.Render()
print("drawn")
"""


def plot(
    result,
    path,
    time=None,
    field="density",
    *,
    clim=None,
    cmap="viridis",
    arrows=False,
    dots=None,
    width=1200,
):
    """Draw *field*, "density", "speed" or "pressure", to a .png. Collective.

    time : number of the recorded time, or several, drawn side by side; None: the last one, or on an
        interval up to six in one picture
    clim : (low, high), the values at the ends of the colours; None: from the values
    cmap : a Matplotlib colour map
    arrows : draw the velocity, in 2D
    dots : positions (n_times, 2, n) of particles at the recorded times, to be drawn on top, in 2D;
        the same on every rank
    width : pixels

    Raises `InputError` on every rank for a path that cannot be written, a field, time or velocity
    that is not there, and on a machine that cannot draw.
    """
    with Picture(result, path, ".png", time, field, clim, cmap, arrows, dots, width) as picture:
        values = [picture.values(i) for i in picture.times]
        result.mesh.ranks.on_root(
            lambda: _save(picture.path, lambda: picture.draw(values).save(picture.path))
        )


def movie(
    result,
    path,
    field="density",
    *,
    clim=None,
    cmap="viridis",
    arrows=False,
    dots=None,
    width=800,
    fps=15,
):
    """Draw *field* at every recorded time, with the same colours for all, to a .gif that shows
    *fps* times a second.

    Collective. The other arguments, and what is raised, as for `plot`.
    """
    ranks = result.mesh.ranks
    ranks.check(
        isinstance(fps, Real) and 0 < fps <= 50,
        f"fps must be above 0 and at most 50, which is what a .gif can show, not {fps!r}",
    )
    with Picture(
        result, path, ".gif", range(len(result.t)), field, clim, cmap, arrows, dots, width
    ) as picture:
        frames = []
        for i in picture.times:
            values = picture.values(i)
            frames.append(
                ranks.on_root(
                    lambda i=i, v=values: _indexed(picture.draw([v], [i]), picture.colors)
                )
            )
        ranks.on_root(
            lambda: _save(
                picture.path,
                lambda: frames[0].save(
                    picture.path,
                    save_all=True,
                    append_images=frames[1:],
                    duration=round(1000 / fps),
                    loop=0,
                    optimize=False,
                ),
            )
        )


class Picture:
    """What stays the same from one time to the next: the domain, the colours, the layout. Made on
    every rank.
    """

    def __init__(self, result, path, suffix, time, field, clim, cmap, arrows, dots, width):
        mesh = result.mesh
        self.result = result
        self.field = field
        self.path = pvd.path_of(result.mesh.ranks, path, suffix)
        self.arrows = arrows
        self.dots = None if dots is None else np.asarray(dots)
        self.width = width
        with mesh.ranks.raising_together():
            self._check()
            self.times = _chosen(time, len(result.t), mesh.dim)
            self.clock = _clock(result.t)
        low = mesh.ranks.min(min(self._own(i).min(initial=np.inf) for i in self.times))
        high = mesh.ranks.max(max(self._own(i).max(initial=-np.inf) for i in self.times))
        with mesh.ranks.raising_together():
            self.colors = Colors.of(low, high, clim, cmap)
        parts = mesh.ranks.gather_to_root(
            (
                mesh.points,
                mesh.kind,
                np.diff(mesh.start),
                mesh.corners,
                mesh.vertices[:, mesh.n_inner :],
                mesh.centroid,
            )
        )
        center = self._middle() if mesh.dim == 3 else None
        self.scene = mesh.ranks.on_root(self._scene, parts, center)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if isinstance(self.scene, Scene):
            self.scene.close()

    def _check(self):
        if self.field not in ("density", "speed", "pressure"):
            raise InputError(f"field must be 'density', 'speed' or 'pressure', not {self.field!r}")
        if self.field == "pressure" and self.result.pressure is None:
            raise InputError(
                "this result has no pressure to draw: only JKO with an upper bound has one"
            )
        if not isinstance(self.width, (int, np.integer)) or not 50 <= self.width <= 20000:
            raise InputError(
                f"width must be a whole number of pixels from 50 to 20000, not {self.width!r}"
            )
        if self.result.velocity is None and (self.arrows or self.field == "speed"):
            raise InputError(
                "this result has no velocity to draw: use field='density' and arrows=False"
            )
        if self.arrows and self.result.mesh.dim != 2:
            raise InputError(
                f"arrows are drawn in 2D; this mesh has dimension {self.result.mesh.dim}"
            )
        if self.dots is not None and (
            self.result.mesh.dim != 2
            or self.dots.ndim != 3
            or self.dots.dtype.kind not in "iuf"
            or self.dots.shape[:2] != (len(self.result.t), 2)
        ):
            raise InputError(
                f"dots must be positions ({len(self.result.t)}, 2, n) on a mesh in the plane, not "
                "of shape "
                f"{self.dots.shape}"
            )

    def _own(self, i):
        """The field at recorded time i: (n_cells,) of this rank."""
        if self.field == "speed":
            return np.linalg.norm(self.result.velocity[i], axis=0)
        return self.result.rho[i] if self.field == "density" else self.result.pressure[i]

    def values(self, i):
        """On rank 0 (field, velocity or None, dots or None) at recorded time i; None elsewhere."""
        own = (self._own(i), self.result.velocity[i] if self.arrows else None)
        parts = self.result.mesh.ranks.gather_to_root(own)
        if parts is None:
            return None
        values, velocity = zip(*parts)
        return (
            np.concatenate(values),
            np.concatenate(velocity, axis=-1) if self.arrows else None,
            None if self.dots is None else self.dots[i],
        )

    def _middle(self):
        """Where a solid is cut open: the centre of mass of what is drawn, but not too near to the
        surface.
        """
        mesh = self.result.mesh
        weight = mesh.volume * np.mean([np.abs(self._own(i)) for i in self.times], axis=0)
        total = mesh.ranks.sum(np.concatenate([weight[None], weight * mesh.centroid]).sum(axis=1))
        lower = -np.array([mesh.ranks.max(-x.min(initial=np.inf)) for x in mesh.points])
        upper = np.array([mesh.ranks.max(x.max(initial=-np.inf)) for x in mesh.points])
        middle = total[1:] / total[0] if total[0] else (lower + upper) / 2
        return np.clip(middle, 0.75 * lower + 0.25 * upper, 0.25 * lower + 0.75 * upper)

    def _scene(self, parts, center):
        whole = Whole.joined(parts)
        with pvd.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if len(whole.points) == 1:
            return Curve(whole)
        need_gl()
        seam = self.result.mesh.block is not None and any(self.result.mesh.block.periodic)
        return (
            Plane(whole, seam) if len(whole.points) == 2 else Solid(whole, center, self.colors.ink)
        )

    def draw(self, values, times=None):
        """A Pillow image of the values at some recorded times. On rank 0."""
        labels = [self.clock(self.result.t[i]) for i in (self.times if times is None else times)]
        if isinstance(self.scene, Curve):
            figure = self.scene.figure([v for v, *_ in values], labels, self.field, self.colors)
        else:
            figure = _panels(self.scene, values, labels, self.field, self.colors, self.width)
        return _image(figure, self.width)


def _chosen(time, n_times, dim):
    if time is None:
        shown = min(OVERLAID, n_times) if dim == 1 else 1
        return [int(i) for i in np.linspace(n_times - 1, 0, shown).round()][::-1]
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


def _clock(t):
    """A function from a time to its label, with as many digits as it takes to tell the recorded
    times apart.
    """
    size = max(float(np.abs(t).max()), 1e-300)
    step = float(np.diff(t).min()) if len(t) > 1 else size
    digits = math.ceil(-math.log10(max(step, 1e-6 * size))) + 1
    if size >= 1e5 or digits > 6:
        return lambda time: f"t = {time:.4g}"
    return lambda time: f"t = {time:.{max(digits, 0)}f}"


@dataclass(frozen=True)
class Colors:
    """Which colour a value has: `map` between low and high."""

    low: float
    high: float
    map: object
    extend: str  # which ends of the colour bar stand for what lies beyond

    @classmethod
    def of(cls, least, largest, clim, cmap):
        """Colours for values between *least* and *largest*; from 0 on, unless they are all far from
        it.
        """
        from matplotlib import colormaps

        if isinstance(cmap, str):
            if cmap not in colormaps:
                raise InputError(
                    f"there is no colour map {cmap!r} in Matplotlib; 'viridis' and 'magma_r' are "
                    "two"
                )
            cmap = colormaps[cmap]
        try:
            low, high = (
                (0.0 if 0 <= least < largest / 2 else least, largest)
                if clim is None
                else map(float, clim)
            )
        except (TypeError, ValueError):
            raise InputError(f"clim must be two numbers (low, high), not {clim!r:.60}") from None
        if clim is not None and not low < high:
            raise InputError(f"clim must be (low, high) with low < high, not {clim}")
        if not high - low > 1e-12 * max(abs(low), abs(high)):  # a constant
            low, high = (0.0, 2 * high) if high > 0 else (low - 1, high + 1)
        beyond = (least < low, largest > high)
        return cls(
            low,
            high,
            cmap,
            {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond],
        )

    @property
    def norm(self):
        from matplotlib.colors import Normalize

        return Normalize(self.low, self.high, clip=True)

    @property
    def ink(self):
        """The colour of lines that can be seen on most of the picture, which has the lowest values."""
        return "black" if np.dot([0.3, 0.6, 0.1], self.map(0.0)[:3]) > 0.5 else "white"

    def rgb(self, values):
        """(n, 3) bytes."""
        return self.map(self.norm(values), bytes=True)[:, :3]


class Curve:
    """A density on an interval: steps over x, one for each time."""

    def __init__(self, whole):
        self.ends = np.sort(whole.points[0, whole.corners].reshape(-1, 2), axis=1)
        self.order = np.argsort(self.ends[:, 0])

    def figure(self, values, labels, name, colors):
        """A Matplotlib figure of the values (n_cells,) at the times with the given labels."""
        from matplotlib.figure import Figure

        figure = Figure((INCHES, 0.6 * INCHES), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
        axes = figure.add_subplot()
        x = self.ends[self.order].ravel()
        for i, (u, label) in enumerate(zip(values, labels)):
            shade = colors.map(0.85 * i / max(len(values) - 1, 1))
            axes.plot(x, np.repeat(u[self.order], 2), color=shade, linewidth=2, label=label)
        if len(values) == 1:
            axes.fill_between(
                x,
                np.repeat(values[0][self.order], 2),
                color=colors.map(0.0),
                alpha=0.15,
                linewidth=0,
            )
            axes.set_title(labels[0])
        else:
            axes.legend(frameon=False)
        room = 0.05 * (colors.high - colors.low)
        floor = colors.low - room if colors.low else 0.0
        axes.set(xlabel="x", ylabel=name, xlim=(x[0], x[-1]), ylim=(floor, colors.high + room))
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def _panels(scene, values, labels, name, colors, width):
    """A figure with one panel for each time and one colour bar, without room to spare."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    n = len(values)
    dpi = width / INCHES
    flat = isinstance(scene, Plane)
    left, right, bottom, top, gap = (
        (0.62, 1.15, 0.38, 0.42, 0.22) if flat else (0.5, 1.3, 0.38, 0.42, 0.22)
    )
    aspect = (scene.extent[3] - scene.extent[2]) / (scene.extent[1] - scene.extent[0])
    w = (INCHES - left - right - (n - 1) * gap) / n
    w = min(w, TALLEST / aspect)
    below = w * aspect < 1.6  # too low for a colour bar beside it
    if below:
        right = 0.25
        bottom = bottom + 0.75
        w = (INCHES - left - right - (n - 1) * gap) / n
    size = max(int(w * dpi), 1), max(int(w * aspect * dpi), 1)
    h = size[1] / dpi
    total = left + n * w + (n - 1) * gap + right, bottom + h + top
    w = size[0] / dpi
    figure = Figure(total, dpi=dpi)

    def place(x, y, dx, dy):
        return figure.add_axes((x / total[0], y / total[1], dx / total[0], dy / total[1]))

    for i, ((u, velocity, dots), label) in enumerate(zip(values, labels)):
        axes = place(left + i * (w + gap), bottom, w, h)
        axes.imshow(
            scene.image(colors.rgb(u), size),
            extent=scene.extent,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_autoscale_on(False)
        axes.xaxis.set_major_locator(MaxNLocator(max(2, round(w / 0.9)), steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(max(2, round(h / 0.7)), steps=[1, 2, 5, 10]))
        axes.set_title(label, fontsize=13)
        scene.dress(axes, velocity, dots, i == 0)
    bar = (
        place(left, 0.48, total[0] - left - right, 0.16)
        if below
        else place(total[0] - 0.95, bottom, 0.18, h)
    )
    digits = ScalarFormatter(useMathText=True)
    digits.set_powerlimits((-2, 4))  # small numbers are written with a power of ten above the bar
    figure.colorbar(
        ScalarMappable(colors.norm, colors.map),
        cax=bar,
        label=name,
        extend=colors.extend,
        format=digits,
        orientation="horizontal" if below else "vertical",
    )
    bar.tick_params(labelsize=10)
    return figure


def _image(figure, width):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(width / INCHES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _save(path, save):
    with pvd.writing(path):
        save()


def _indexed(frame, colors):
    """The frame with a palette that all frames share: the colours of the map, and greys for what is
    around it.
    """
    from PIL import Image
    from scipy.spatial import cKDTree

    palette = np.concatenate(
        [
            colors.map(np.linspace(0, 1, 208), bytes=True)[:, :3],
            np.linspace([0, 0, 0], [255, 255, 255], 48).round().astype(np.uint8),
        ]
    )
    red, green, blue = np.moveaxis(np.asarray(frame, np.int64), -1, 0)
    different, place = np.unique(65536 * red + 256 * green + blue, return_inverse=True)
    number = cKDTree(palette).query(
        np.stack([different >> 16, different >> 8 & 255, different & 255], axis=1)
    )[1]
    indexed = Image.fromarray(number.astype(np.uint8)[place].reshape(red.shape))
    indexed.putpalette(palette.tobytes())
    return indexed


def need_gl():
    """`InputError` if this machine cannot draw."""
    if not can_draw():
        raise InputError(
            "this machine cannot draw: VTK finds no OpenGL. On Debian and Ubuntu: apt-get install "
            "--no-install-recommends libegl1 libgl1 libgl1-mesa-dri"
        )


@functools.cache
def can_draw():
    """Whether VTK draws off screen here. Tried in another process, since VTK ends a process in
    which it cannot.

    Sets VTK_DEFAULT_OPENGL_WINDOW to what works; without a display that is EGL, asked for at once.
    """
    name = "VTK_DEFAULT_OPENGL_WINDOW"
    first = (
        [os.environ.get(name)]
        if name in os.environ or os.environ.get("DISPLAY")
        else ["vtkEGLRenderWindow", None]
    )
    for window in first:
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_", name))
        }
        environment.update({name: window} if window else {})
        try:
            trial = subprocess.run(
                [sys.executable, "-c", PROBE],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0 and "drawn" in trial.stdout:
            os.environ.update({name: window} if window else {})
            return True
    return False
