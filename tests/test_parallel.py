"""Ranks together: sums, shared failures, messages between neighbours, what is said once."""

import copy
import pickle

import mpi4py
import numpy as np
import petsc4py
import pytest
from numpy.testing import assert_array_equal

import fvot
from fvot import ConvergenceError, InputError, parallel
from fvot.parallel import ColumnDeal, Exchange, LayerExchange
from fvot.runs.progress import Progress

pytestmark = pytest.mark.ranks


def test_sums_and_extremes(ranks):
    n = ranks.size
    assert ranks.sum(ranks.rank + 1) == n * (n + 1) // 2
    assert_array_equal(ranks.max(np.array([ranks.rank, -ranks.rank])), [n - 1, 0])
    assert ranks.min(float(ranks.rank)) == 0.0


def test_masks_have_extremes(ranks):
    """Where any, and where all ranks say yes."""
    assert ranks.max(ranks.rank == 0) == 1 and ranks.max(False) == 0
    assert ranks.min(ranks.rank == 0) == (ranks.size == 1)


def test_a_failed_check_raises_everywhere_with_the_first_message(ranks):
    with pytest.raises(InputError, match=f"rank {ranks.size - 1} objects"):
        ranks.check(ranks.rank < ranks.size - 1, f"rank {ranks.rank} objects")
    ranks.check(True, "nobody objects")


def test_what_fails_on_one_rank_fails_on_all(ranks):
    with pytest.raises(
        (ZeroDivisionError, RuntimeError), match="division|rank 0 failed: ZeroDivisionError"
    ):
        with ranks.raising_together():
            1 / (1 if ranks.rank else 0)


def test_a_solver_that_stops_on_one_rank_raises_its_error_on_all(ranks):
    def stop():
        raise ConvergenceError("the rates underflow")

    with pytest.raises(ConvergenceError, match="^the rates underflow$"):
        ranks.on_root(stop)


def test_a_value_of_the_root_is_shared(ranks):
    assert ranks.broadcast(ranks.on_root(lambda: "from the root")) == "from the root"


def test_parts_are_dealt(ranks):
    parts = (
        [{"a": np.arange(r + 2), "b": np.zeros((2, 0))} for r in range(ranks.size)]
        if ranks.is_root
        else None
    )
    part = ranks.send_parts(parts)
    assert_array_equal(part["a"], np.arange(ranks.rank + 2))
    assert part["b"].shape == (2, 0)


def test_ghosts_are_filled_in_all_columns(ranks):
    after, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
    owned = 3 * ranks.rank + np.arange(3)
    ghosts = np.array([3 * after, 3 * before + 2])
    owner = np.array([after, before])
    exchange = Exchange.ghosts(ranks, owned, ghosts, owner)
    u = np.stack([np.concatenate([owned, [-1, -1]]), np.concatenate([10 * owned, [-1, -1]])])
    exchange(u)
    assert_array_equal(u[:, 3:], [ghosts, 10 * ghosts])


def test_copies_are_added_to_what_their_owners_have(ranks):
    """Copies of the first entry of the rank after, and of the last one of the rank before."""
    after, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
    owned = 3 * ranks.rank + np.arange(3)
    ghosts = np.array([3 * after, 3 * before + 2])
    exchange = Exchange.ghosts(ranks, owned, ghosts, np.array([after, before]))
    u = np.array([[1, 2, 3, 10.0 * ranks.rank, 100.0], [1, 1, 1, 1, 1]])
    added = exchange.add(u)
    assert_array_equal(added[:, :3], [[1 + 10 * before, 2, 103], [2, 1, 2]])
    assert_array_equal(added[:, 3:], [[10 * ranks.rank, 100], [1, 1]])


def make_ring(ranks):
    """(an exchange with the ranks before and after, an array (5,) whose last two are ghosts)."""
    after, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
    owned = 3 * ranks.rank + np.arange(3)
    ghosts = np.array([3 * after, 3 * before + 2])
    exchange = Exchange.ghosts(ranks, owned, ghosts, np.array([after, before]))
    return exchange, np.concatenate([owned, ghosts])


def test_arrays_of_many_shapes_and_types_take_turns(ranks):
    """More of them than buffers are kept for; each twice, with new numbers."""
    exchange, numbers = make_ring(ranks)
    kinds = [
        ((), float),
        ((), np.float32),
        ((), np.int64),
        ((), np.int8),
        ((), bool),
        *[((k,), float) for k in range(6)],
        ((2, 3), complex),
    ]
    for turn in (1, 2, 3):
        for shape, kind in kinds:
            full = np.broadcast_to(turn * numbers, (*shape, 5)).astype(kind)
            u = full.copy()
            u[..., 3:] = 0
            assert_array_equal(exchange(u), full)
            into = np.zeros_like(full)
            exchange(np.asfortranarray(full), into)
            assert_array_equal(into[..., 3:], full[..., 3:])
    assert len(exchange._channels) <= parallel.MAX_CHANNELS


def test_buffers_and_requests_go_with_their_exchange(ranks, monkeypatch):
    """Also those of many exchanges, of which MPI would run out."""
    freed = []
    free = parallel._Channel.__del__

    def count(channel):
        free(channel)
        freed.append(1)

    monkeypatch.setattr(parallel._Channel, "__del__", count)
    for _ in range(3000):
        exchange, numbers = make_ring(ranks)
        exchange(numbers.astype(float))
        exchange.add(numbers.astype(float))
    del exchange
    assert len(freed) == 2 * 3000


def test_an_exchange_is_copied_without_its_buffers(one_rank_here):
    ranks = parallel.Ranks()
    exchange, numbers = make_ring(ranks)
    full = numbers.astype(float)
    exchange(full.copy())
    for other in copy.copy(exchange), copy.deepcopy(exchange), pickle.loads(pickle.dumps(exchange)):
        u = np.append(full[:3], [-1, -1])
        assert_array_equal(other(u), full)
        assert_array_equal(exchange(u), full)


@pytest.mark.parametrize("thinnest", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_layers_come_from_both_sides_of_a_ring(ranks, axis, thinnest):
    after, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
    n = thinnest
    total = thinnest * ranks.size
    mine = n * ranks.rank + np.arange(-2, n + 2)
    padded = np.where((mine >= n * ranks.rank) & (mine < n * (ranks.rank + 1)), mine, -1).astype(
        float
    )
    block = np.repeat(np.expand_dims(padded, 1 - axis), 3, axis=1 - axis)
    LayerExchange(ranks, before, after, axis, 2, thinnest)(block)
    assert_array_equal(block.take(1, axis=1 - axis), mine % total)


def test_messages_are_said_once(capfd, ranks):
    fvot.say("hello")
    ranks.wait()
    assert capfd.readouterr().out.count("hello") == (1 if ranks.is_root else 0)


def test_progress_is_silent_unless_asked_for(capsys, ranks):
    for show in None, True:
        with Progress(1.0, 3.0, show) as bar:
            bar.to(2.0)
        assert bool(capsys.readouterr().err) == (show is True and ranks.is_root)


def test_info_names_what_runs_here():
    found = fvot.info()
    assert found["PETSc"][0] in "34" and found["numpy"] == np.__version__
    assert found["mpi4py"].startswith(f"{mpi4py.__version__} (")
    assert found["petsc4py"].startswith(f"{petsc4py.__version__} (")
    assert found["MPI"] == " ".join(found["MPI"].split())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_columns", [0, 1, 2, 7, 33])
def test_columns_are_dealt_and_given_back(n_columns, dtype, ranks):
    """Also where ranks have no columns, or no rows."""
    rng = np.random.default_rng(n_columns)
    whole = rng.standard_normal((50, n_columns)).astype(dtype)
    owner = rng.integers(0, max(ranks.size - 1, 1), 50)
    numbers = rng.permutation(50)
    own = numbers[owner[numbers] == ranks.rank]
    deal = ColumnDeal(ranks, own)
    columns = deal.columns(n_columns)
    assert ranks.sum(columns.stop - columns.start) == n_columns

    mine = deal.collect(whole[own])
    assert mine.dtype == dtype
    assert_array_equal(mine, whole[:, columns])
    assert_array_equal(deal.give_back(mine, n_columns), whole[own])
