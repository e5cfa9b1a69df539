"""Meshes of many pieces that do not touch: set-up, messages and solutions are those of each piece
alone.
"""

import math
import time

import numpy as np
import pytest

from fvot import BenamouBrenier, FokkerPlanck, InputError, Mesh
from fvot.fokker_planck import stepper

pytestmark = pytest.mark.ranks


def squares(n_pieces, n, side=1.0, start=0.0):
    """(points, quadrilaterals) of n_pieces squares of n x n cells, in a row with gaps between."""
    points = np.stack(np.meshgrid(*[np.arange(n + 1.0) / n] * 2, indexing="ij")).reshape(2, -1)
    number = np.arange(points.shape[1]).reshape(n + 1, n + 1)
    cells = np.stack(
        [number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]], axis=-1
    ).reshape(-1, 4)
    shift = np.stack([2.0 * np.arange(n_pieces), np.zeros(n_pieces)])
    placed = side * (shift[:, :, None] + points[:, None]) + np.array([start, 0])[:, None, None]
    return placed.reshape(2, -1), np.concatenate(
        [cells + k * points.shape[1] for k in range(n_pieces)]
    )


def wave(sign):
    """1 +- .3 cos(pi x) in each square of side 1."""
    return lambda x: 1 + sign * 0.3 * np.cos(np.pi * (x[0] % 2))


@pytest.mark.parametrize("n_pieces, n", [(256, 4), (1000, 1), (300, 2)])
def test_transport_between_pieces_is_refused_at_once(n_pieces, n):
    points, cells = squares(n_pieces, n)
    mesh = Mesh.from_cells(points, [("quad", cells)])
    begin = time.process_time()
    solver = BenamouBrenier(mesh, n_steps=8)
    with pytest.raises(
        InputError, match=f"{n_pieces} pieces that do not touch.*same mass in each piece"
    ):
        solver.solve(mesh.density(lambda x: 1 + 0 * x[0]), mesh.density(lambda x: 1 + x[0]))
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("n_pieces, n", [(30, 4), (256, 4), (9, 16)])
def test_transport_in_pieces_is_that_of_each_piece(n_pieces, n):
    points, cells = squares(n_pieces, n)
    mesh = Mesh.from_cells(points, [("quad", cells)])
    path = BenamouBrenier(mesh, n_steps=8).solve(mesh.density(wave(1)), mesh.density(wave(-1)))
    one = Mesh.rectangle((0, 0), (1, 1), (n, n))
    alone = BenamouBrenier(one, n_steps=8).solve(one.density(wave(1)), one.density(wave(-1)))
    assert alone.lower_bound * (1 - 1e-9) <= path.cost and path.lower_bound <= alone.cost * (
        1 + 1e-9
    )


def test_cells_on_their_own_beside_a_large_piece():
    points, cells = squares(300, 1)
    other, more = squares(1, 24, side=10.0, start=700.0)
    mesh = Mesh.from_cells(
        np.concatenate([points, other], axis=1),
        [("quad", np.concatenate([cells, more + points.shape[1]]))],
    )
    one = Mesh.rectangle((700, 0), (710, 10), (24, 24))

    def density(sign):
        return lambda x: np.where(x[0] < 650, 1, 1 + sign * 0.5 * np.cos(np.pi * (x[0] - 700) / 10))

    mass = mesh.integrate(1.0)
    path = BenamouBrenier(mesh, n_steps=8).solve(
        mesh.density(density(1)), mesh.density(density(-1))
    )
    alone = BenamouBrenier(one, n_steps=8).solve(one.density(density(1)), one.density(density(-1)))
    assert (
        mass * path.lower_bound <= 100 * alone.cost and 100 * alone.lower_bound <= mass * path.cost
    )


def test_thousands_of_pieces_are_set_up_in_seconds():
    points, cells = squares(10_000, 1)
    begin = time.process_time()
    mesh = Mesh.from_cells(points, [("quad", cells)])
    rho = FokkerPlanck(mesh, diffusion=1.0).solve(mesh.density(lambda x: 1 + x[0]), 1.0).rho[-1]
    BenamouBrenier(mesh, n_steps=8)
    assert time.process_time() - begin < 20
    assert mesh.n_inner == 0 and np.abs(rho - mesh.density(lambda x: 1 + x[0])).max() < 1e-12


def test_heat_on_a_thousand_islands():
    """What has come to rest on most of them stays: roundings are no growth of the free energy."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (150, 150))
    holes = mesh.without(
        lambda x: ((x[0] * 150).astype(int) % 5 == 0) | ((x[1] * 150).astype(int) % 5 == 0)
    )
    result = FokkerPlanck(holes, diffusion=1.0).solve(
        1 + 0.5 * np.cos(np.pi * holes.center[0]), 0.1
    )
    assert result.ledger["mass_error"][-1] < 1e-13
    assert np.ptp(result.ledger["energy"]) > 0 and (np.diff(result.ledger["energy"]) <= 1e-13).all()


def test_free_energies_are_summed_up_to_the_last_digit():
    """Else a thousand islands at rest would seem to gain energy: plain sums of so many terms miss
    4e-14 of them.
    """
    random = np.random.default_rng(0)
    volume, rho, minus_log_gibbs = random.random((3, 20_000))
    terms = volume * rho * (np.log(rho) + minus_log_gibbs)
    found, size = stepper._sum_relative_entropy(volume, rho, minus_log_gibbs)
    assert abs(found - math.fsum(terms)) <= 1e-15 * size
