"""A mesh and fields at one time: files, pyvista's grids, pictures of meshes and of cell values."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose, assert_array_equal
from test_plot import assert_color, pixels

import fvot
from fvot import InputError, Mesh

pytestmark = pytest.mark.ranks

KINDS = ["interval", "torus", "quads", "honeycomb"]


def sizes(grid):
    """Length, area or volume of each cell, by VTK."""
    measured = grid.compute_cell_sizes()
    return sum(np.abs(measured.cell_data[name]) for name in ("Length", "Area", "Volume"))


@pytest.mark.parametrize("suffix", [".vtu", ".pvd", ".vtkhdf"])
def test_a_mesh_is_written(suffix, ranks, shared_folder):
    import pyvista

    mesh = MESHES["quads"]()
    path = shared_folder / "new" / f"x{suffix}"
    mesh.write(path, {"volume": mesh.volume, "place": lambda x: x})
    volume = mesh.gather(mesh.volume)
    centroid = mesh.gather(mesh.centroid)
    if ranks.is_root:
        found = pyvista.read(path)
        grid = found.combine() if suffix == ".pvd" else found
        order = np.argsort(grid.cell_data["cell"])
        assert_allclose(grid.cell_data["volume"][order], volume)
        assert_allclose(grid.cell_data["place"][order, :2].T, centroid)
        assert_allclose(sizes(grid)[order], volume, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_grids_of_pyvista(kind):
    mesh = MESHES[kind]()
    result = fvot.FokkerPlanck(mesh, diffusion=1.0).solve(mesh.density(lambda x: 1 + x[0]), 0.01)
    grid = result.to_pyvista()
    assert grid.n_cells == mesh.n_cells_global
    assert_allclose(sizes(grid), mesh.gather(mesh.volume), rtol=1e-6)
    assert_allclose(grid.cell_data["density"], mesh.gather(result.rho[-1]))
    current = mesh.gather(result.fields["current"][-1])
    assert_allclose(grid.cell_data["current"][:, : mesh.dim].T, current, atol=1e-12)
    assert_array_equal(grid.cell_data["cell"], np.arange(mesh.n_cells_global))
    with pytest.raises(InputError, match="no recorded time|number of a recorded time"):
        result.to_pyvista(7)


def test_values_have_their_colors(gl, shared_folder, ranks):
    mesh = Mesh.rectangle((0, 0), (2, 1), (8, 4))
    path = shared_folder / "x.png"
    mesh.plot(np.where(mesh.center[0] < 1, 10.0, 0.1), path, width=400, log=True)
    picture = pixels(path, ranks)
    middle = picture.shape[0] // 2 - 12  # no edge of cells is there
    assert_color(picture[middle, 105], (253, 231, 36))
    assert_color(picture[middle, 260], (68, 1, 84))


def test_a_mesh_is_drawn_with_its_names(gl, shared_folder, ranks):
    x, y = np.meshgrid(np.linspace(0, 2, 9), np.linspace(0, 1, 5))
    corner = (9 * np.arange(4)[:, None] + np.arange(8)).ravel()
    quads = np.stack([corner, corner + 1, corner + 10, corner + 9], axis=1)
    parts = {"sand": np.flatnonzero(corner % 9 < 4), "clay": np.flatnonzero(corner % 9 >= 4)}
    points = np.stack([x.ravel(), y.ravel()])
    mesh = Mesh.from_cells(points, [("quad", quads)], regions=parts)
    figure = mesh.plot(width=400)
    path = shared_folder / "x.png"
    assert mesh.plot(path, width=400) is None
    picture = pixels(path, ranks)
    at_middle = picture[picture.shape[0] // 2 - 12]  # no edge of cells is there
    assert_color(at_middle[60], (193, 215, 232))
    assert_color(at_middle[240], (255, 221, 188))
    if ranks.is_root:
        words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert words == ["sand", "clay", "boundary"]


def test_arrows_on_values(gl, shared_folder, ranks):
    mesh = Mesh.rectangle((0, 0), (2, 1), (8, 4))
    path = shared_folder / "x.png"
    mesh.plot(mesh.center[0], path, width=400)
    plain = pixels(path, ranks)
    ranks.wait()
    towards_right = np.stack([np.ones(mesh.n_cells), np.zeros(mesh.n_cells)])
    pictures = []
    for arrows in (towards_right, lambda x: np.stack([1 + 0 * x[0], 0 * x[0]])):
        mesh.plot(mesh.center[0], path, width=400, label="arrows", arrows=arrows)
        pictures.append(pixels(path, ranks))
        ranks.wait()
    at_cells = slice(60, 180), slice(30, 300)
    assert (plain[at_cells] != pictures[0][at_cells]).any(axis=-1).mean() > 0.01
    assert_array_equal(*pictures)


@pytest.mark.parametrize("kind", ["interval", "tetrahedra"])
def test_meshes_of_other_dimensions(kind, gl, shared_folder, ranks):
    path = shared_folder / "x.png"
    MESHES[kind]().plot(path, width=400)
    assert (pixels(path, ranks).sum(axis=-1) < 600).mean() > 0.005


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda mesh: mesh.write("x.vtk"), "to a .vtu or .pvd or .vtkhdf file"),
        (lambda mesh: mesh.write("x.vtu", [1.0]), "dict {name: values}"),
        (lambda mesh: mesh.write("x.vtu", {"cell": mesh.volume}), "cannot be called 'cell'"),
        (lambda mesh: mesh.write("x.vtu", {"u": np.ones(3)}), "'u' has shape .3,."),
        (lambda mesh: mesh.plot(np.ones(3)), "'value' has shape"),
        (lambda mesh: mesh.plot("x.jpg"), ".png or .svg or .pdf"),
        (lambda mesh: mesh.plot(width=0), "width"),
        (lambda mesh: mesh.plot(ax=3), "axes of Matplotlib"),
        (lambda mesh: mesh.plot(mesh.volume, ax=3), "axes of Matplotlib"),
        (
            lambda mesh: mesh.plot(mesh.volume, arrows=np.ones((3, mesh.n_cells))),
            "vectors .* of finite numbers",
        ),
        (
            lambda mesh: mesh.plot(mesh.volume, arrows=np.nan * mesh.center),
            "vectors .* of finite numbers",
        ),
        (lambda mesh: mesh.plot(clim=(0, 1)), "takes width= and ax=, not clim"),
        (lambda mesh: mesh.write("x.vtkhdf", {"a/b": mesh.volume}), "without a slash"),
        (lambda mesh: mesh.plot(-mesh.volume, log=True), "above 0"),
        (lambda mesh: mesh.plot(mesh.volume, arrows=np.ones(3)), "'arrows on value' has shape"),
        (lambda mesh: mesh.plot(mesh.volume, arrows=mesh.volume), "arrows show vectors"),
        (lambda mesh: mesh.plot(mesh.volume, arrows=True), "arrows show vectors"),
    ],
)
def test_wrong_arguments(call, message, gl):
    with pytest.raises(InputError, match=message):
        call(MESHES["rectangle"]())


def test_fields_of_different_kinds_on_ranks_are_refused(ranks):
    if ranks.size == 1:
        pytest.skip("needs several ranks")
    mesh = MESHES["rectangle"]()
    arrows = np.ones((3 if ranks.rank == 1 else 2, mesh.n_cells))
    with pytest.raises(InputError, match="the kind of field .* must be the same"):
        mesh.plot(mesh.volume, arrows=arrows)
