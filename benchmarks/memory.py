"""Peak memory of each rank, from a mesh file to an explicit step: the mesh is refined where it
lies.

    scripts/mpirun -n 2 python -m mpi4py benchmarks/memory.py
    scripts/mpirun -n 2 python -m mpi4py benchmarks/memory.py --n 40 --refine 3

--n 140 triangles along a side, refined --refine 4 times, are 10^7. It prints for each stage the
largest resident memory of a rank so far, and the seconds of CPU time.
"""

import tempfile
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import process_time

import numpy as np

import fvot
from fvot.parallel import Ranks

ranks = Ranks()


def report(stage, mesh=None):
    """Print what the processes have needed so far. Collective."""
    peak = ranks.max(getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    seconds = ranks.max(process_time())
    cells = "" if mesh is None else f"{mesh.n_cells_global:10d} cells"
    fvot.say(f"{stage:10} {peak:6.2f} GB a rank {seconds:7.1f} s {cells}")


def write_file(path, n):
    """A file of so many triangles along a side of the unit square, by rank 0 alone."""
    if ranks.is_root:
        fvot.Mesh.triangles((0, 0), (1, 1), n, comm=ranks.alone().comm).write(path)
    ranks.wait()


def main(n: int = 140, refine: int = 4):
    """n : triangles along a side of the file's mesh; refine : how many times these are cut."""
    report("start")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(ranks.broadcast(folder)) / "square.vtu"
        write_file(path, n)
        report("file")
        mesh = fvot.Mesh.read(path, refine=refine)
        report("mesh", mesh)
        ranks.wait()

    equation = fvot.ContinuityEquation(mesh, stream=lambda x: np.prod(np.sin(np.pi * x), axis=0))
    report("equation")
    rho = mesh.density(lambda x: np.exp(-40 * ((x - 0.4) ** 2).sum(axis=0)))
    report("density")
    rho = equation.step(rho, 1e-5)
    report("step")
    assert abs(mesh.integrate(rho) - 1) < 1e-12


if __name__ == "__main__":
    fvot.run(main)
