"""Pictures: sizes, colours at known places, the same on any number of ranks, and words where none
can be drawn.
"""

import sys

import numpy as np
import pytest
from meshes import MESHES
from mpi4py import MPI

from fvot import InputError, Mesh
from fvot.output import drawing
from fvot.runs.result import Result

pytestmark = pytest.mark.ranks
VIRIDIS = {0.0: (68, 1, 84), 1.0: (253, 231, 36)}


def result(mesh, densities=None):
    """A result with made-up densities, and the velocity of a rotation."""
    if densities is None:
        densities = [np.exp(-((mesh.centroid - s) ** 2).sum(axis=0)) for s in (0, 0.3, 1)]
    velocity = np.ones((len(densities), mesh.dim, mesh.n_cells))
    return Result(mesh, np.linspace(0, 1, len(densities)), np.stack(densities), {}, velocity)


def pixels(path, ranks):
    """The picture (height, width, 3), on every rank."""
    from PIL import Image

    ranks.wait()
    return np.asarray(Image.open(path).convert("RGB"), int)


def assert_color(found, expected):
    assert np.abs(np.asarray(found) - expected).max() <= 2, (found, expected)


@pytest.mark.long
def test_colors_at_known_places(gl, shared_folder, ranks):
    mesh = Mesh.rectangle((0, 0), (2, 1), (20, 10))
    path = shared_folder / "new" / "x.png"
    result(mesh, [np.where(mesh.center[0] < 1, 1.0, 0.0)]).plot(path)
    picture = pixels(path, ranks)
    height, width, _ = picture.shape
    assert width == 1200 and 500 < height < 700
    # 0.62 inches of 8 are left of the domain, 1.15 right of it
    left, right = [
        0.62 / 8 * width + share * (8 - 0.62 - 1.15) / 8 * width for share in (0.26, 0.76)
    ]
    middle = height // 2 + 7
    assert_color(picture[middle, round(left)], VIRIDIS[1.0])
    assert_color(picture[middle, round(right)], VIRIDIS[0.0])
    assert np.all(picture[:8] == 255) and np.all(picture[:, :8] == 255)  # the paper is white


@pytest.mark.long
def test_colors_follow_clim(gl, shared_folder, ranks):
    mesh = Mesh.triangles((0, 0), (1, 1), 6)
    path = shared_folder / "x.png"
    result(mesh, [np.full(mesh.n_cells, 7.0)]).plot(path, clim=(3, 5))
    picture = pixels(path, ranks)
    assert_color(picture[picture.shape[0] // 2 + 5, 500], VIRIDIS[1.0])


@pytest.mark.parametrize(
    "name",
    [
        "rectangle",
        "torus",
        "voronoi",
        "tiling",
        "quads",
        "box",
        "periodic box",
        "tetrahedra",
        "honeycomb",
    ],
)
def test_every_kind_of_mesh(name, gl, shared_folder, ranks):
    path = shared_folder / "x.png"
    result(MESHES[name]()).plot(path, width=400)
    picture = pixels(path, ranks)
    assert picture.shape[1] <= 400 and picture.shape[0] > 100
    assert (picture.sum(axis=-1) < 700).mean() > 0.15  # not blank


@pytest.mark.parametrize("name", ["voronoi", "box", "lines"])
def test_same_picture_on_any_number_of_ranks(name, gl, shared_folder, ranks):
    mesh = MESHES[name]()
    twin = MESHES[name](comm=MPI.COMM_SELF)
    ours = shared_folder / "x.png"
    alone = shared_folder / f"alone_{ranks.rank}.png"
    result(mesh).plot(ours, width=400)
    result(twin).plot(alone, width=400)
    difference = np.abs(pixels(ours, ranks) - pixels(alone, ranks))
    assert (difference.max(axis=-1) > 8).mean() < 2e-3  # where two cells share a pixel


def test_interval_needs_no_gl(shared_folder, ranks, monkeypatch):
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    path = shared_folder / "x.png"
    result(MESHES["lines"]()).plot(path)
    assert pixels(path, ranks).shape == (720, 1200, 3)


def test_several_times_side_by_side(gl, shared_folder, ranks):
    path = shared_folder / "x.png"
    result(MESHES["triangles"]()).plot(path, [0, 1, -1])
    height, width, _ = pixels(path, ranks).shape
    assert width == 1200 and height < 500


def test_speed_and_arrows(gl, shared_folder, ranks):
    path = shared_folder / "x.png"
    mesh = MESHES["triangles"]()
    result(mesh).plot(path, field="speed", width=400)
    plain = pixels(path, ranks)
    ranks.wait()
    result(mesh).plot(path, field="speed", arrows=True, width=400)
    assert (plain != pixels(path, ranks)).any(axis=-1).mean() > 0.01
    ranks.wait()
    result(mesh).plot(path, field="speed", arrows="velocity", width=400)
    assert (plain != pixels(path, ranks)).any(axis=-1).mean() > 0.01


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_drawings(suffix, gl, shared_folder, ranks):
    path = shared_folder / f"x{suffix}"
    result(MESHES["triangles"]()).plot(path, [0, 1], width=300)
    ranks.wait()
    head = path.read_bytes()[:300]
    assert b"<svg" in head or head.startswith(b"%PDF")


def test_a_figure_is_returned_and_shown_once_in_a_notebook(gl, ranks):
    figure = result(MESHES["triangles"]()).plot(width=300)
    assert (figure is None) == (not ranks.is_root)
    if ranks.is_root:
        import matplotlib.pyplot as plt

        data, shown = figure._repr_png_()
        assert data.startswith(b"\x89PNG") and shown["width"] == 800
        assert not plt.get_fignums()  # pyplot would show it once more
        assert figure.axes[0].get_title() == "t = 1.00"
        assert figure.axes[1].get_ylabel() == "density"


def test_log_colors(gl):
    mesh = MESHES["triangles"]()
    figure = result(mesh, [10.0 ** (-12 * mesh.centroid[0])]).plot(log=True, width=300)
    if mesh.ranks.is_root:
        low, high = figure.axes[1].get_ylim()
        assert figure.axes[1].get_yscale() == "log" and abs(high / low / 1e6 - 1) < 1e-6


def test_axes_of_ones_own(gl, ranks):
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 2)
    made = result(MESHES["triangles"]())
    assert made.plot(time=0, ax=axes[0], width=200) is None  # notebooks show it once more
    result(MESHES["interval"]()).plot(ax=axes[1], log=True)
    if ranks.is_root:
        assert axes[0].get_title() == "t = 0.00" and len(axes[0].images) == 1
        assert len(axes[1].lines) == 3 and axes[1].get_yscale() == "log"
    with pytest.raises(InputError, match="ax takes one time, not 2"):
        made.plot(time=[0, 1], ax=axes[0])


@pytest.mark.parametrize("kind", ["interval", "triangles", "box"])
def test_profile_along_a_line(kind, ranks, monkeypatch):
    """The values of the cells on the line, nan outside, without OpenGL."""
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    mesh = MESHES[kind]()
    lower, upper = mesh.bounds
    end = 2 * upper - lower
    figure = result(mesh, [mesh.centroid.sum(axis=0)] * 3).plot(along=(lower, end))
    if ranks.is_root:
        axes = figure.axes[0]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "t = 0.00",
            "t = 0.50",
            "t = 1.00",
        ]
        distance, values = axes.lines[0].get_data()
        length = np.linalg.norm(upper - lower)
        exact = lower.sum() + distance / length * (upper - lower).sum()
        inside = distance < 0.999 * length
        largest = np.ptp(mesh.bounds, axis=0).sum()
        assert np.abs(values - exact)[inside].max() < 0.5 * largest
        assert np.isnan(values[distance > 1.001 * length]).all()


def test_an_mp4_has_a_frame_for_each_time(gl, shared_folder, ranks):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = shared_folder / "x.mp4"
    result(MESHES["interval"]()).movie(path, width=301, fps=10)
    ranks.wait()
    n_frames, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert n_frames == 3 and seconds == pytest.approx(0.3)


def test_no_ffmpeg_is_said_on_every_rank(shared_folder, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        result(MESHES["interval"]()).movie(shared_folder / "x.mp4")


@pytest.mark.parametrize("name", ["voronoi", "interval"])
def test_movie_has_a_frame_for_each_time(name, gl, shared_folder, ranks):
    from PIL import Image

    path = shared_folder / "x.gif"
    result(MESHES[name]()).movie(path, width=300, fps=10)
    ranks.wait()
    with Image.open(path) as film:
        assert film.n_frames == 3 and film.width == 300
        assert film.info["duration"] == 100
        corner = film.convert("RGB").getpixel((2, 2))
    assert corner == (255, 255, 255)


def test_movie_keeps_its_colors(gl, shared_folder, ranks):
    from PIL import Image

    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    path = shared_folder / "x.gif"
    result(mesh, [np.full(mesh.n_cells, value) for value in (0.0, 4.0, 2.0)]).movie(path, width=400)
    ranks.wait()
    with Image.open(path) as film:
        for i, value in enumerate((0.0, 1.0)):
            film.seek(i)
            assert_color(film.convert("RGB").getpixel((150, film.height // 2 + 30)), VIRIDIS[value])


def test_no_gl_is_said_on_every_rank(shared_folder, monkeypatch):
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    with pytest.raises(InputError, match="libegl1 libgl1 libgl1-mesa-dri"):
        result(MESHES["rectangle"]()).plot(shared_folder / "x.png")


def test_probe_outlives_a_crash(monkeypatch):
    monkeypatch.setattr(drawing, "DRAWING_TRIAL", "import os; os.abort()")
    assert not drawing.can_draw.__wrapped__()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(path="x.jpg"), "written to a .png or .svg or .pdf file"),
        (dict(time=3), "no recorded time 3"),
        (dict(time=[]), "time is empty"),
        (dict(field="colour"), "one of density, velocity, speed, not .colour"),
        (dict(field="pressure"), "no pressure to draw"),
        (dict(cmap="nonsense"), "colour map 'nonsense'"),
        (dict(clim=(1, 1)), "low < high"),
        (dict(clim=3), "two numbers .low, high., not 3"),
        (dict(time=0.5), "number of a recorded time, from 0 to 2, or several; not 0.5"),
        (dict(time="last"), "not 'last'"),
        (dict(width=0), "width must be a whole number of pixels from 50 to 20000, not 0"),
        (dict(width="wide"), "not 'wide'"),
        (dict(log=2), "log must be True or False, not 2"),
        (dict(log=True, clim=(0, 1)), "low > 0"),
        (dict(along=3), "along must be two points"),
        (dict(along=(0.5, 0.5)), "not the same point"),
        (dict(along=(7, 8)), "does not meet the mesh"),
    ],
)
def test_wrong_arguments(options, message, shared_folder):
    options = {"path": "x.png", **options}
    with pytest.raises(InputError, match=message):
        result(MESHES["interval"]()).plot(shared_folder / options.pop("path"), **options)


def test_missing_velocity(shared_folder):
    mesh = MESHES["rectangle"]()
    still = Result(mesh, np.array([0.0]), np.ones((1, mesh.n_cells)), {})
    with pytest.raises(InputError, match="no velocity"):
        still.plot(shared_folder / "x.png", field="speed")
    with pytest.raises(InputError, match="no current"):
        still.plot(shared_folder / "x.png", arrows="current")
    with pytest.raises(InputError, match="arrows must be True, False or the name"):
        still.plot(shared_folder / "x.png", arrows=3)
    with pytest.raises(InputError, match="in 2D"):
        result(MESHES["interval"]()).plot(shared_folder / "x.png", arrows=True)


def test_impossible_folder(shared_folder, ranks):
    if ranks.is_root:
        (shared_folder / "file").touch()
    ranks.wait()
    with pytest.raises(InputError, match="choose a place"):
        result(MESHES["interval"]()).plot(shared_folder / "file" / "x.png")
    with pytest.raises(InputError, match="fps"):
        result(MESHES["interval"]()).movie(shared_folder / "x.gif", fps=0)
