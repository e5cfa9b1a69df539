"""Tests that fail on one of several ranks; `test_ranks.py` looks at what becomes of the others. Not
collected.
"""

import time

import conftest
from mpi4py import MPI

conftest.HANGS = 2  # seconds
COMM = MPI.COMM_WORLD


def test_one_rank_fails():
    assert COMM.rank != 1


def test_one_rank_raises_while_the_other_waits():
    if COMM.rank == 1:
        raise RuntimeError("no reason")
    COMM.Barrier()


def test_one_rank_does_not_come():
    if COMM.rank == 0:
        COMM.Barrier()
    time.sleep(100)
