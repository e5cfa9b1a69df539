"""Potential flow and the correction along spanning trees."""

import numpy as np
import pytest
from meshes import FILES, MESHES, shaken_quads
from numpy.testing import assert_allclose, assert_array_equal

from fvot import InputError, Mesh, potential_flow
from fvot.finite_volume import face_flux
from fvot.mesh.connected_pieces import find_connected_pieces

pytestmark = pytest.mark.ranks

EPS = np.finfo(float).eps

THROUGH = [
    ("interval", "left", "right"),
    ("rectangle", "left", "top"),
    ("channel", "bottom", "top"),
    ("box", "front", "top"),
    ("triangles", "left", "right"),
    ("voronoi", "bottom", "top"),
    ("tetrahedra", "left", "back"),
    ("annulus", "inner", "outer"),
    ("harbour", "inlet", "outlet"),
]
FLOWS = pytest.mark.parametrize("name, entry, leave", THROUGH, ids=[name for name, *_ in THROUGH])


@FLOWS
def test_fluxes_are_divergence_free_to_round_off(name, entry, leave):
    mesh = MESHES[name]()
    U = potential_flow(mesh, {entry: 2.0, leave: -2.0})
    missed = np.sort(mesh.gather(np.abs(mesh.divergence(U) * mesh.volume)))
    total = mesh.ranks.sum(np.abs(U[mesh.face_owned]).sum())
    assert missed[-1] <= EPS * total  # the root of a tree keeps the rounding of all sums
    roots = face_flux._Forest(mesh).n_pieces
    of_a_cell = 8 * EPS * mesh.ranks.max(np.abs(U).max(initial=0))
    assert missed[:-roots].max(initial=0) <= of_a_cell
    assert mesh.ranks.sum(U[mesh.boundary[entry]].sum()) == pytest.approx(-2, rel=1e-13)
    assert mesh.ranks.sum(U[mesh.boundary[leave]].sum()) == pytest.approx(2, rel=1e-13)
    for wall in set(mesh.boundary) - {entry, leave}:
        assert_array_equal(U[mesh.boundary[wall]], 0)


def test_a_channel_has_a_uniform_flow():
    mesh = Mesh.triangles((0, 0), (2, 1), 12)
    U = potential_flow(mesh, {"left": 3, "right": -3})
    assert_allclose(U, 3 * mesh.area * mesh.normal[0], atol=1e-10)


def test_between_two_circles_the_flow_is_radial():
    mesh = Mesh.read(FILES / "annulus.msh")
    U = potential_flow(mesh, {"inner": 1, "outer": -1})
    x = mesh.face_center
    radial = (
        mesh.area * (mesh.normal * x).sum(axis=0) / (2 * np.pi * (x**2).sum(axis=0))
    )  # v = x / (2 pi |x|^2)
    error = mesh.ranks.sum(np.abs(U - radial)[mesh.face_owned].sum()) / mesh.ranks.sum(
        np.abs(radial)[mesh.face_owned].sum()
    )
    assert error < 0.01


@FLOWS
def test_the_same_flow_on_any_number_of_ranks(name, entry, leave, ranks):
    mesh = MESHES[name]()
    U = potential_flow(mesh, {entry: 1.0, leave: -1.0})
    energy = ranks.sum((U**2 / mesh.area**2)[mesh.face_owned].sum())
    alone = MESHES[name](comm=ranks.comm.Split(ranks.rank))
    V = potential_flow(alone, {entry: 1.0, leave: -1.0})
    assert energy == pytest.approx((V**2 / alone.area**2)[alone.face_owned].sum(), rel=1e-9)


def test_any_balanced_divergence_can_be_had(mesh):
    rng = np.random.default_rng(5)
    wanted = mesh.scatter(rng.standard_normal(mesh.n_cells_global))
    wanted -= mesh.ranks.sum(wanted.sum()) / mesh.n_cells_global
    U = face_flux.conserve(mesh, np.zeros(mesh.n_faces), wanted)
    assert mesh.ranks.max(np.abs(mesh.divergence(U) * mesh.volume - wanted).max()) <= 1e-11


def two_islands():
    points, cells = shaken_quads(6)
    return Mesh.from_cells(
        np.concatenate([points, points + 5], axis=1),
        [("quad", np.concatenate([cells[0][1], cells[0][1] + points.shape[1]]))],
    )


def test_pieces_of_a_mesh_are_found():
    mesh = two_islands()
    own_piece, count = find_connected_pieces(mesh)
    assert count == 2
    piece = mesh.gather(own_piece)
    east = mesh.gather(mesh.center)[0] > 3
    assert_array_equal(piece, np.where(east, piece[east][0], piece[~east][0]))
    assert set(piece) == {0, 1}


@pytest.mark.parametrize(
    "rates, words",
    [
        ({"left": 1}, "add up to 1"),
        ({"left": 1, "right": -0.5}, "add up to 0.5"),
        ({"door": 1, "right": -1}, "'door'"),
        ({"left": np.nan, "right": -1}, "nan"),
        ({"left": "1", "right": -1}, "'1'"),
        (["left", "right"], "must be a dict"),
        (None, "must be a dict"),
    ],
)
def test_rates_that_will_not_do_are_refused(rates, words):
    with pytest.raises(InputError) as caught:
        potential_flow(Mesh.triangles((0, 0), (1, 1), 4), rates)
    assert words in str(caught.value)
