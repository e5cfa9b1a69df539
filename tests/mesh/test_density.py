"""Densities from functions, values, pictures and points; point masses in cells."""

from functools import partial

import numpy as np
import pytest
from meshes import FILES, MESHES, PERIODIC
from mpi4py import MPI
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh

pytestmark = pytest.mark.ranks

PICTURE = np.arange(12.0).reshape(4, 3) % 5


def inside(mesh, n, seed=0):
    """n points in cells of the mesh, the same on every rank, and the cells' numbers in the file."""
    rng = np.random.default_rng(seed)
    number = rng.integers(0, mesh.n_cells_global, n)
    corners = [mesh.points[:, mesh.corners[a:b]] for a, b in zip(mesh.start[:-1], mesh.start[1:])]
    middle = mesh.gather(np.stack([c.mean(axis=1) for c in corners], axis=1))
    first = mesh.gather(np.stack([c[:, 0] for c in corners], axis=1))
    t = rng.random(n) * 0.98
    return middle[:, number] * (1 - t) + first[:, number] * t, number


# ---- point masses --------------------------------------------------------------------------------


def test_points_are_in_their_cells(mesh):
    points, number = inside(mesh, 2000)
    cell = mesh.locate(points)
    mine = cell >= 0
    assert_array_equal(mesh.cell_id[cell[mine]], number[mine])
    assert mesh.ranks.sum(mine.sum()) == len(number)


def test_masses_go_to_the_cells_that_hold_them(mesh):
    points, number = inside(mesh, 500)
    weights = np.random.default_rng(1).random(500)
    rho = mesh.deposit(points, weights)
    assert rho.shape == (mesh.n_cells,)
    assert_allclose(
        mesh.gather(rho * mesh.volume),
        np.bincount(number, weights, mesh.n_cells_global),
        atol=1e-13,
    )
    assert mesh.integrate(rho) == pytest.approx(weights.sum(), rel=1e-14)
    assert mesh.integrate(mesh.deposit(points)) == pytest.approx(1, rel=1e-14)


def test_points_on_faces_and_corners_belong_to_one_cell_on_any_number_of_ranks(mesh, twin):
    for points in (
        twin.face_center,
        twin.points,
        twin.points + 1e-11 * np.ptp(twin.points, axis=1)[:, None],
    ):
        here = mesh.locate(points)
        alone = twin.locate(points)
        assert_array_equal(mesh.ranks.sum((here >= 0).astype(int)), 1)
        assert_array_equal(mesh.cell_id[here[here >= 0]], twin.cell_id[alone[here >= 0]])
    assert mesh.integrate(mesh.deposit(twin.points)) == pytest.approx(1, rel=1e-14)


def test_points_on_a_face_belong_to_a_cell_beside_it(twin, kind):
    if kind in PERIODIC:
        pytest.skip("faces have two places on a torus")
    cell = twin.locate(twin.face_center)
    assert np.all((cell == twin.left) | (cell == twin.right))


def test_points_outside_are_refused(mesh, kind):
    upper = mesh.ranks.max(mesh.points.max(axis=1))
    points = np.tile(mesh.gather(mesh.center)[:, :1], (1, 5))
    points[:, 2:4] = (upper + 0.1)[:, None]
    if kind in PERIODIC - {"channel"}:
        assert mesh.integrate(mesh.deposit(points)) == pytest.approx(1)
        return
    with pytest.raises(InputError, match=r"point 2 at .* outside the mesh.*2 of 5"):
        mesh.deposit(points)


@pytest.mark.parametrize(
    "name, place", [("l_shape", (0.5, -0.5)), ("annulus", (0.1, 0.1)), ("two_rooms", (1.05, 0.3))]
)
def test_holes_and_notches_are_outside(name, place):
    mesh = Mesh.read(FILES / f"{name}.msh")
    with pytest.raises(InputError, match="point 0 .*1 of 1 points"):
        mesh.deposit(np.array(place)[:, None])


def test_periodic_axes_wrap_points():
    mesh = Mesh.rectangle((0, 0), (1, 2), (8, 9), periodic=True)
    points = np.random.default_rng(2).random((2, 300)) * [[1], [2]]
    assert_allclose(mesh.deposit(points + [[3], [-4]]), mesh.deposit(points), atol=1e-12)


@pytest.mark.parametrize("shape", ["l_shape", "quads", "dart"])
def test_cells_and_domains_need_not_be_convex(shape):
    if shape == "dart":  # a quadrilateral with a corner inside, and the triangles that fill it up
        points = np.array([[0, 2, 1, 1.0], [0, 0, 0.7, 2]])
        center = np.array([[0.5, 1.0], [0.9, 0.3]])
        mesh = Mesh.from_cells(
            points,
            [("quad", [[0, 2, 1, 3]]), ("triangle", [[0, 1, 2]])],
            center=center,
            comm=MPI.COMM_SELF,
        )
        assert_array_equal(
            mesh.cell_id[mesh.locate(np.array([[1, 1, 0.2, 1.8], [0.9, 0.5, 0.3, 0.3]]))],
            [0, 1, 0, 0],
        )
        return
    mesh = MESHES[shape]()
    points = mesh.gather(mesh.centroid)
    assert_allclose(
        mesh.deposit(points, np.full(mesh.n_cells_global, 2.0)) * mesh.volume, 2, rtol=1e-14
    )


def test_graded_meshes():
    x = np.concatenate([[0], np.logspace(-9, 0, 60)])
    points = np.stack(np.meshgrid(x, x, indexing="ij")).reshape(2, -1)
    i = np.arange(61**2).reshape(61, 61)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]]).reshape(4, -1).T
    mesh = Mesh.from_cells(points, [("quad", quads)])
    assert_allclose(
        mesh.deposit(mesh.gather(mesh.centroid), np.ones(3600)) * mesh.volume, 1, rtol=1e-12
    )


POINTS_TABLE = {
    "transposed": (np.zeros((5, 2)), None, ["points", "(2, n)", "(5, 2)", "space comes first"]),
    "none": (np.zeros((2, 0)), None, ["points", "from 1 on", "(2, 0)"]),
    "one point": (np.zeros(2), None, ["points", "(2,)"]),
    "text": ("here", None, ["points", "numbers", "'here'"]),
    "nan": (np.array([[0.5, np.nan], [0.5, 0.5]]), None, ["point 1", "nan", "finite"]),
    "weights of the wrong length": (
        np.full((2, 3), 0.5),
        np.ones(2),
        ["weights", "3 points", "(2,)"],
    ),
    "weights infinite": (np.full((2, 3), 0.5), [1, 1, np.inf], ["weight 2", "inf", "finite"]),
}


@pytest.mark.parametrize("points, weights, words", POINTS_TABLE.values(), ids=POINTS_TABLE)
def test_bad_points(points, weights, words):
    with pytest.raises(InputError) as raised:
        Mesh.triangles((0, 0), (1, 1), 6).deposit(points, weights)
    assert all(word in str(raised.value) for word in words)


def test_points_must_be_the_same_on_every_rank(ranks):
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    points = np.full((2, 3), 0.1 + 0.2 * ranks.rank)
    if ranks.size > 1:
        with pytest.raises(InputError, match="same array on every rank"):
            mesh.deposit(points)


# ---- what a density may be given by --------------------------------------------------------------


def test_points_make_a_density(mesh):
    points, _ = inside(mesh, 77)
    assert_allclose(mesh.density(points), mesh.deposit(points), rtol=1e-13)


def test_a_picture_is_the_density_of_its_pixels():
    mesh = Mesh.rectangle((0, -1), (2, 1), (4, 3))
    assert_allclose(
        mesh.gather(mesh.density(PICTURE)).reshape(4, 3), PICTURE / (PICTURE.mean() * 4), rtol=1e-14
    )


@pytest.mark.parametrize("shape", [(8, 9), (10, 7), (3, 2), (1, 5)])
def test_pictures_over_cartesian_cells_are_exact(shape):
    mesh = Mesh.rectangle(0, 1, shape)
    fine = np.kron(PICTURE, np.ones(shape))
    exact = fine.reshape(shape[0], 4, shape[1], 3).mean(axis=(1, 3)) / PICTURE.mean()
    assert_allclose(mesh.gather(mesh.density(PICTURE)).reshape(shape), exact, rtol=1e-13)


def test_pictures_in_space():
    box = Mesh.box(0, 1, (4, 6, 3))
    cube = np.random.default_rng(3).random((2, 3, 3))
    expected = np.repeat(np.repeat(cube, 2, axis=0), 2, axis=1) / cube.mean()
    assert_allclose(box.gather(box.density(cube)).reshape(4, 6, 3), expected, rtol=1e-13)


def in_pixel(left, bottom, lower, upper, x):
    """Whether x is in the pixel of PICTURE with that lower left corner."""
    x, y = (x - lower[:, None]) / (upper - lower)[:, None]
    return (x >= left) & (x < left + 1 / 4) & (y >= bottom) & (y < bottom + 1 / 3)


@pytest.mark.parametrize("name", ["triangles", "voronoi", "quads", "l_shape"])
def test_pictures_over_other_cells(name):
    mesh = MESHES[name]()
    lower, upper = np.array(
        {"l_shape": ((-1, -1), (1, 1)), "voronoi": ((0, 0), (2, 1))}.get(name, ((0, 0), (1, 1)))
    )
    rho = mesh.density(PICTURE)
    exact = sum(
        value * mesh.average(partial(in_pixel, i / 4, j / 3, lower, upper))
        for (i, j), value in np.ndenumerate(PICTURE)
    )
    assert mesh.integrate(np.abs(rho - exact / mesh.integrate(exact))) < 0.01
    flat = mesh.density(np.full((50, 7), 3.0))
    assert_allclose(flat, 1 / mesh.integrate(np.ones(mesh.n_cells)), rtol=1e-12)


def test_pictures_do_not_depend_on_the_number_of_ranks(mesh, twin):
    if mesh.dim == 1:
        pytest.skip("no pictures in one dimension")
    picture = np.random.default_rng(5).random((7,) * mesh.dim)
    assert_allclose(
        mesh.gather(mesh.density(picture)), twin.gather(twin.density(picture)), rtol=1e-13
    )


def write_image(path, rows, mode=None):
    from PIL import Image

    Image.fromarray(rows, mode).save(path)
    return path


@pytest.mark.parametrize("channels", ["grey", "color", "opacity", "16 bits"])
def test_image_files_are_upright_and_light_is_mass(channels, ranks, shared_folder):
    rows = np.array([[255, 0], [0, 0], [51, 102]], np.uint8)  # bright at the upper left
    files = {
        "grey": rows,
        "color": np.stack([rows] * 3, axis=2),
        "opacity": np.stack([np.full_like(rows, 255)] * 3 + [rows], axis=2),
        "16 bits": rows.astype(np.uint16) * 257,
    }
    path = shared_folder / "picture.png"
    ranks.on_root(write_image, path, files[channels])
    ranks.wait()
    mesh = Mesh.rectangle(0, 1, (2, 3))
    rho = mesh.gather(mesh.density(path)).reshape(2, 3)
    assert_allclose(rho, np.array([[1, 0, 5], [2, 0, 0]]) * 6 / 8, rtol=1e-12)
    assert_allclose(mesh.gather(mesh.density(str(path))).reshape(2, 3), rho, rtol=0)


def test_jpeg_files(ranks, shared_folder):
    rows = np.zeros((64, 64), np.uint8)
    rows[:32] = 255
    path = shared_folder / "half.jpg"
    ranks.on_root(write_image, path, rows)
    ranks.wait()
    mesh = Mesh.triangles((0, 0), (1, 1), 8)
    assert mesh.integrate(mesh.density(path) * (mesh.centroid[1] > 0.5)) == pytest.approx(
        1, abs=1e-3
    )


def refused(words, mesh, f):
    with pytest.raises(InputError) as raised:
        mesh.density(f)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    "name, contents, words",
    [
        ("no.png", None, ["no image file", "no.png", "check the path"]),
        ("broken.png", b"no picture at all", ["broken.png", "cannot be read as an image"]),
        ("mesh.msh", b"", ["function, numbers, or an image file", "mesh.msh"]),
    ],
)
def test_bad_image_files(name, contents, words, ranks, shared_folder):
    if contents is not None:
        ranks.on_root((shared_folder / name).write_bytes, contents)
    refused(
        words,
        Mesh.rectangle(0, 1, (4, 4)),
        str(shared_folder / name)[-50:] if name == "mesh.msh" else shared_folder / name,
    )


DENSITY_TABLE = {
    "two points or two by two pixels": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        np.full((2, 2), 0.5),
        ["(2, 2)", "two points", "picture", "deposit"],
    ),
    "points transposed": (
        partial(Mesh.triangles, 0, 1, 4),
        np.full((50, 2), 0.5),
        ["(50, 2)", "(2, n)", "space comes first", "picture"],
    ),
    "vectors in cells": (
        partial(Mesh.triangles, 0, 1, 4),
        lambda m: m.center,
        ["shape", "vector", "deposit"],
    ),
    "a picture in three axes": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        np.ones((4, 4, 4)),
        ["(4, 4, 4)", "one value for each", "points (2, n)", "array of 2 axes", "one value"],
    ),
    "an empty picture": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        np.ones((0, 4)),
        ["(0, 4)", "picture"],
    ),
    "a negative picture": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        -np.ones((4, 3)),
        ["-1.0", "cell", "at least 0"],
    ),
    "a picture with nan": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        np.full((4, 3), np.nan),
        ["nan", "finite"],
    ),
    "a dark picture": (partial(Mesh.triangles, 0, 1, 4), np.zeros((4, 3)), ["mass 0"]),
    "an image in space": (
        partial(Mesh.box, 0, 1, (4, 4, 4)),
        "x.png",
        ["x.png", "plane", "dimension 3"],
    ),
    "points outside": (
        partial(Mesh.rectangle, 0, 1, (4, 4)),
        np.full((2, 5), 2.0),
        ["point 0", "outside"],
    ),
}


@pytest.mark.parametrize("make, f, words", DENSITY_TABLE.values(), ids=DENSITY_TABLE)
def test_what_is_unclear_is_refused(make, f, words):
    mesh = make()
    refused(words, mesh, f(mesh) if callable(f) else f)


def test_values_of_all_ranks_are_refused_in_one_dimension(ranks):
    refused(["(13,)", "one value for each", "mesh.scatter"], Mesh.interval(0, 1, 12), np.ones(13))
    if ranks.size > 1:
        refused(
            ["(12,)", "cells of the whole mesh", "mesh.scatter"],
            Mesh.interval(0, 1, 12),
            np.ones(12),
        )


def test_different_things_on_different_ranks(ranks):
    mesh = Mesh.rectangle(0, 1, (4, 4))
    if ranks.size > 1:
        refused(
            ["shape", "different ranks"], mesh, PICTURE if ranks.is_root else np.ones(mesh.n_cells)
        )
        refused(["same array on every rank"], mesh, PICTURE + ranks.rank)
