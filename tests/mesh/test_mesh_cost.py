"""What a large mesh costs: time and memory of a process of its own."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, time
import numpy as np
from mpi4py import MPI
from fvot import Mesh
from fvot.mesh import builders

Mesh.triangles(0, 1, 20, comm=MPI.COMM_SELF)      # kernels are compiled once, and then cached
points, [(kind, cells)] = builders.build_triangles((0, 0), (1, 1), 706)
if {shuffled}:
    number = np.random.default_rng(0).permutation(points.shape[1])
    points = points[:, np.argsort(number)]
    cells = np.random.default_rng(1).permutation(number[cells])
start = time.process_time()
mesh = Mesh.from_cells(points, [(kind, cells)], comm=MPI.COMM_SELF)
seconds = time.process_time() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([mesh.n_cells, seconds, memory]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_million_triangles_take_five_seconds_and_one_gigabyte(shuffled):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(shuffled=shuffled)],
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    )
    n_cells, seconds, memory = json.loads(run.stdout)
    assert n_cells > 990_000
    assert seconds < 5 and memory < 1e9
