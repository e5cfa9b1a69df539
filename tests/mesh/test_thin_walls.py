"""Cells that nearly touch: points are the same up to the round-off of single precision, and wider
gaps are said.
"""

import warnings

import numpy as np
import pytest
from brought_meshes import (
    cubes_in_six,
    hanging,
    hexahedra,
    lattice_triangles,
    quads,
    right_triangles,
    wedges,
)

from fvot import FokkerPlanck, Mesh
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks

RANKS = Ranks()


def side_by_side(gap, n=6):
    """Two unit squares of n x n cells each, so far apart: (points, cells)."""
    points, [(kind, cells)] = quads(n)
    both = np.concatenate([points, points + [[1 + gap], [0]]], axis=1)
    return both, [(kind, np.concatenate([cells, cells + points.shape[1]]))]


def coarse_beside_fine(n):
    """Squares of 1/n on the left, of 1/(2n) on the right half of the unit square: (points,
    cells).
    """
    number = {}

    def corners(i, j, step):
        return [
            number.setdefault(at, len(number))
            for at in ((i, j), (i + step, j), (i + step, j + step), (i, j + step))
        ]

    cells = [corners(i, j, 2) for i in range(0, n, 2) for j in range(0, 2 * n, 2)]
    cells += [corners(i, j, 1) for i in range(n, 2 * n) for j in range(2 * n)]
    return np.array(list(number)).T / (2 * n), [("quad", np.array(cells))]


def made(points, cells, **options):
    """(the mesh, what was said on all ranks)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = Mesh.from_cells(points, cells, **options)
    return mesh, RANKS.broadcast([str(warning.message) for warning in said])


@pytest.mark.parametrize("gap", [0, 1e-9, 1e-8, -1e-7, 1e-6])
def test_gaps_of_round_off_are_closed(gap):
    mesh, said = made(*side_by_side(gap))
    assert len(said) == 1 and "7 points of the mesh coincide with others" in said[0]
    assert RANKS.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(6, abs=1e-5)


@pytest.mark.parametrize("gap", [1e-5, 1e-4, 1e-3])
def test_wider_gaps_are_said(gap):
    _, said = made(*side_by_side(gap))
    assert any(
        "12 faces of the boundary lie beside others that face them" in words for words in said
    )
    assert any("2 pieces that do not touch" in words for words in said)


def test_wide_gaps_and_walls_that_are_wanted_are_not_thin():
    _, said = made(*side_by_side(0.1))
    assert said == [
        "the mesh consists of 2 pieces that do not touch: nothing moves from one to another"
    ]
    _, said = made(*side_by_side(0), merge=False)
    assert said == []


@pytest.mark.parametrize("n", [6, 10])
def test_hanging_nodes_in_single_precision(n):
    """Turned and rounded to 24 bits: nothing is a wall that is none, and heat flows as on the mesh
    that was rounded.
    """
    points, cells = coarse_beside_fine(n)
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    rates = []
    for p in points, (turn @ points).astype(np.float32), turn @ points.astype(np.float32):
        mesh, _ = made(p, cells)
        assert RANKS.sum(mesh.area[mesh.n_inner :].sum()) == pytest.approx(4, abs=1e-5)
        rates.append(FokkerPlanck(mesh, diffusion=1.0).relaxation_rates(1)[0])
    assert rates == pytest.approx([rates[0]] * 3, rel=1e-5)


def test_hanging_nodes_that_were_rounded_to_few_digits_are_said():
    points, cells = coarse_beside_fine(8)
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    _, said = made(np.round(turn @ points, 4), cells)
    assert any("two sides of a wall" in words for words in said)


@pytest.mark.parametrize("squeeze", [1e-3, 1e-6])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize(
    "make",
    [
        lambda: quads(4),
        lambda: right_triangles(4),
        lambda: lattice_triangles(4),
        lambda: hanging(4),
        lambda: hexahedra(3, 0.0),
        lambda: cubes_in_six(2),
        lambda: wedges(2, 0.1),
    ],
    ids=["quads", "triangles", "lattice", "hanging", "hexahedra", "tetrahedra", "wedges"],
)
def test_squeezed_meshes_have_no_thin_walls(make, axis, squeeze):
    """Points and faces on opposite sides are near, but the cells are between them."""
    points, cells = make()
    whole = Mesh.from_cells(points, cells)
    points[axis] *= squeeze
    mesh, said = made(points, cells)
    assert said == []
    own = [int(m.face_owned[: m.n_inner].sum()) for m in (mesh, whole)]
    assert RANKS.sum(own[0]) == RANKS.sum(own[1])
    assert mesh.integrate(1.0) == pytest.approx(squeeze, rel=1e-12)
