"""Linear systems: factors on rank 0 solve as one rank does, and leave nothing behind."""

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_allclose
from scipy import sparse

from fvot import linalg
from fvot.parallel import Ranks

ROOT = Path(__file__).parent.parent

on_ranks = pytest.mark.ranks

# A script whose equation with an action of Python's outlives it.
OUTLIVED = """
import fvot
mesh = fvot.Mesh.rectangle((0, 0), (1, 1), (8, 8))
attraction = fvot.Interaction(lambda z: (z**2).sum(axis=0))
flow = fvot.JKO(mesh, fvot.Entropy(0.1) + attraction)
flow.solve(mesh.density(lambda x: x[0] < 0.4), 0.1, tau=0.05)
heat = fvot.FokkerPlanck(mesh, diffusion=1.0)
heat.solve(mesh.density(lambda x: x[0] < 0.4), 0.1, tau=0.001)
fvot.say("done")
"""


def make_matrix(n, strength=1.0, *, singular=False):
    """An M-matrix (n, n) that is not symmetric; its last row is 0 where it is to be singular."""
    below = -strength * (2 + np.sin(np.arange(n - 1)))
    above = -strength * (2 + np.cos(np.arange(n - 1)))
    diagonal = np.ones(n)
    diagonal[1:] -= above
    diagonal[:-1] -= below
    matrix = sparse.diags([below, diagonal, above], [-1, 0, 1]).tocsr()
    if singular:
        matrix.data[matrix.indptr[n - 1] :] = 0.0
    return matrix


def find_own_rows(ranks, matrix):
    """This rank's rows of a matrix: more on later ranks; the first one has none of several."""
    n = matrix.shape[0]
    shares = np.arange(ranks.size) if ranks.size > 1 else [1]
    ends = n * np.cumsum([0, *shares]) // np.sum(shares)
    return slice(*ends[ranks.rank : ranks.rank + 2])


def make_system(ranks, matrix, method="lu", **options):
    rows = find_own_rows(ranks, matrix)
    method = linalg.find_method(method, 2, ranks.size)
    own = matrix[rows].tocsr()
    return linalg.System(ranks, own, method, prefix="test_", rtol=1e-10, **options), rows


@on_ranks
@pytest.mark.parametrize("method", ["lu", "shared"])
def test_factors_solve_the_system_and_the_transposed_one(ranks, method):
    matrix = make_matrix(60)
    system, rows = make_system(ranks, matrix, method)
    exact = np.linspace(-1, 2, 60)
    assert_allclose(system((matrix @ exact)[rows]), exact[rows], rtol=1e-12, atol=1e-13)
    assert_allclose(
        system.solve_transposed((matrix.T @ exact)[rows]), exact[rows], rtol=1e-12, atol=1e-13
    )
    assert system.reason > 0

    other = make_matrix(60, 30.0)
    system.renew(other[rows].tocsr())
    assert_allclose(system((other @ exact)[rows]), exact[rows], rtol=1e-12, atol=1e-13)
    system.destroy()


@on_ranks
def test_one_rank_and_several_find_the_same(ranks):
    """To the bit: the factors are those of one rank, whose rows are in the same order."""
    matrix = make_matrix(200)
    b = np.cos(np.arange(200))
    system, rows = make_system(ranks, matrix)
    alone, _ = make_system(Ranks(MPI.COMM_SELF), matrix)
    assert np.array_equal(system(b[rows]), alone(b)[rows])


@on_ranks
def test_factors_on_one_rank_precondition_an_action_of_all(ranks):
    matrix = make_matrix(60)
    weight = np.linspace(0, 1, 60)
    rows = find_own_rows(ranks, matrix)
    method = replace(linalg.find_method("lu", 2, ranks.size), ksp="gmres")

    def act(x):
        return ranks.sum(weight[rows] @ x) * weight[rows]

    own = matrix[rows].tocsr()
    system = linalg.System(ranks, own, method, prefix="test_", rtol=1e-12, action=act)
    exact = np.linspace(-1, 2, 60)
    b = matrix @ exact + weight * (weight @ exact)
    assert_allclose(system(b[rows]), exact[rows], rtol=1e-9, atol=1e-10)
    assert system.iterations <= 3  # the action has rank 1
    system.destroy()


@on_ranks
def test_a_pivot_of_0_is_a_failure_on_every_rank(ranks):
    system, rows = make_system(ranks, make_matrix(20, singular=True))
    x = system(np.ones(20)[rows])
    assert system.reason < 0
    assert len(x) == 0 or not np.isfinite(x).all()

    system.renew(make_matrix(20)[rows].tocsr())
    assert np.isfinite(system(np.ones(20)[rows])).all()
    assert system.reason > 0
    system.destroy()


@on_ranks
def test_systems_that_are_dropped_give_their_memory_back(ranks):
    """The next system destroys what all ranks have dropped."""
    matrix = make_matrix(20)
    seen = []
    for _ in range(50):
        system, rows = make_system(ranks, matrix)
        system(np.ones(20)[rows])
        if ranks.size > 1:
            seen.append(weakref.ref(system._factors))
        del system
        gc.collect()
    make_system(ranks, matrix)
    alive = [factors for factors in seen if factors() is not None]
    assert not alive


@on_ranks
@pytest.mark.parametrize("method", ["lu", "ilu"])
def test_a_matrix_with_entries_in_the_same_places_stays(ranks, method):
    """And gets other values; one with entries elsewhere takes its place."""
    n = 60
    exact = np.linspace(-1, 2, n)
    system, rows = make_system(ranks, make_matrix(n), method)
    first = system.matrix.handle
    wider = make_matrix(n) + 0.1 * sparse.eye(n, k=7) + sparse.eye(n)
    for matrix, stays in [(make_matrix(n, 30.0), True), (wider, False), (2 * wider, True)]:
        before = system.matrix.handle
        own = matrix.tocsr()[rows]
        system.renew(own)
        assert (system.matrix.handle == before) == stays
        assert_allclose(system((matrix @ exact)[rows], 1e-12), exact[rows], rtol=1e-9, atol=1e-9)
        assert system.reason > 0
    assert system.matrix.handle != first
    system.destroy()


@on_ranks
def test_sums_of_squares(ranks):
    """Of matrices with entries in the same places and elsewhere, also where somebody destroys the
    last sum.
    """
    n = 60
    exact = np.linspace(-1, 2, n)
    square_sum = linalg.SquareSum(ranks)
    rows = find_own_rows(ranks, make_matrix(n))
    wider = make_matrix(n) + sparse.eye(n, k=7)
    last = None
    for B, L, is_old in [
        (make_matrix(n), make_matrix(n, 0.1), False),
        (make_matrix(n, 3.0), make_matrix(n, 0.2), True),
        (wider, make_matrix(n), False),
        (2 * wider, make_matrix(n, 4.0), True),
        (3 * wider, make_matrix(n), True),
    ]:
        total = square_sum(B.tocsr()[rows], L.tocsr()[rows], has_old_pattern=is_old)
        assert (last is not None and bool(last) and total == last) == is_old
        x, y = total.createVecs()
        x.setArray(exact[rows])
        total.mult(x, y)
        expected = B.T @ (B @ exact) + L @ exact
        assert_allclose(y.getArray(), expected[rows], rtol=1e-12, atol=1e-11)
        last = total
    total.destroy()
    total = square_sum(wider.tocsr()[rows], make_matrix(n).tocsr()[rows], has_old_pattern=True)
    total.mult(x, y)
    expected = wider.T @ (wider @ exact) + make_matrix(n) @ exact
    assert_allclose(y.getArray(), expected[rows], rtol=1e-12, atol=1e-11)


@pytest.mark.alone
@pytest.mark.usefixtures("mpirun_here")
def test_a_program_ends_while_systems_are_alive():
    """Python has ended when PETSc does, and cannot be called any more."""
    command = [ROOT / "scripts" / "mpirun", "-n", "2", sys.executable, "-c", OUTLIVED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]
