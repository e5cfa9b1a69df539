"""What people trust a week of cluster time with: memory that stays flat, mass that does not drift,
any number of ranks.
"""

import json
import os
import threading
import time

import numpy as np
import pytest
from test_ranks import start

import fvot

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STEPS = 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """What this process holds, in MB, asked for ten times a second while the block runs."""

    def __enter__(self):
        self.samples = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.1):
            with open("/proc/self/statm") as file:
                self.samples.append(int(file.read().split()[1]) * PAGE / 1e6)

    def __exit__(self, *failure):
        self._over.set()
        self._thread.join()

    def growth(self):
        """MB from the end of the first fifth of the run to its end."""
        samples = np.array(self.samples)
        return samples[-5:].max() - samples[len(samples) // 5]


def explicit(n_steps):
    """A swirl on triangles."""
    mesh = fvot.Mesh.triangles((0, 0), (1, 1), 12)
    equation = fvot.ContinuityEquation(
        mesh, stream=lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])
    )
    tau = 0.5 * equation._stepper.longest_step(0.0)
    return equation.solve(
        mesh.density(lambda x: x[0] < 0.4), tau * np.linspace(0, n_steps, 5), tau=(1 + 1e-9) * tau
    )


def implicit(n_steps):
    """Diffusion between two wells, and what it comes to."""
    mesh = fvot.Mesh.rectangle((-2, -2), (2, 2), (12, 12))
    equation = fvot.FokkerPlanck(
        mesh, diffusion=0.25, potential=lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2
    )
    return equation.solve(
        mesh.density(lambda x: x[0] < 0), 1e-3 * np.linspace(0, n_steps, 5), tau=1e-3 * (1 + 1e-9)
    )


def newton(n_steps):
    """A porous medium in a bowl."""
    mesh = fvot.Mesh.interval(-2, 2, 40)
    energy = fvot.Power(2) + fvot.Potential(lambda x: x[0] ** 2 / 2)
    t = 1e-4 * np.linspace(0, n_steps, 5)
    return fvot.JKO(mesh, energy).solve(
        mesh.density(lambda x: abs(x[0]) < 1), t, tau=1e-4 * (1 + 1e-9)
    )


@pytest.mark.parametrize(
    "run", [explicit, implicit, newton], ids=["ContinuityEquation", "FokkerPlanck", "JKO"]
)
def test_many_steps(run, one_rank_here):
    run(100)
    with Memory() as memory:
        ledger = run(STEPS).ledger
    print(f"{memory.growth():.2f} MB, mass errors {ledger['mass_error'][1:]}")
    assert STEPS <= ledger["steps"][-1] <= 1.001 * STEPS  # a first step may be cut
    assert memory.growth() < 3, "memory grows"  # MB; a number kept for each step would be 0.8
    drift = np.abs(ledger["mass_error"])
    assert drift.max() < 2e-16 * STEPS**0.5 + 4e-16, (
        "mass drifts faster than rounding errors of either sign do"
    )
    assert ledger["minimum"].min() >= 0


PROGRAM = """
import json
import sys
import numpy as np
import fvot

mesh = fvot.Mesh.triangles((0, 0), (1, 1), 16)
x, y = mesh.center
rho0 = mesh.density(lambda x: np.exp(-20 * ((x - 0.3)**2).sum(axis=0)))
rho1 = mesh.density(lambda x: np.exp(-20 * ((x - 0.6)**2).sum(axis=0)))
stream = lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])
flow = fvot.ContinuityEquation(mesh, stream=stream).solve(rho0, 0.5)
gibbs = fvot.FokkerPlanck(mesh, diffusion=0.2, potential=lambda x: x[0]).solve(rho0, 0.5, tau=0.05)
porous = fvot.JKO(mesh, fvot.Power(2)).solve(rho0, 0.1, tau=0.02)
path = fvot.BenamouBrenier(mesh, 8, tol=1e-3).solve(rho0, rho1)
found = dict(flow=mesh.gather(flow.rho[-1]).tolist(), gibbs=mesh.gather(gibbs.rho[-1]).tolist(),
             porous=mesh.gather(porous.rho[-1]).tolist(),
             path=mesh.gather(path.rho[4]).tolist(), cost=path.cost)
if mesh.ranks.is_root:
    open(sys.argv[1], "w").write(json.dumps(found))
"""

# relative differences: rounding; the tolerances of linear solvers and of Newton's method; what
# transport promises
AGREE = {"flow": 1e-13, "gibbs": 1e-9, "porous": 1e-9, "cost": 1e-8, "path": 1e-8}


def test_one_to_eight_ranks(one_rank_here, tmp_path):
    """Many more ranks than cores, and than the small mesh is good for: the same answers."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    found = []
    for n_ranks in range(1, 9):
        begin = time.monotonic()
        status, output = start(
            n_ranks, "-m", "mpi4py", str(script), str(tmp_path / "found.json"), limit=300
        )
        assert status == 0, output
        found.append(
            {
                name: np.array(values)
                for name, values in json.loads((tmp_path / "found.json").read_text()).items()
            }
        )
        differences = {
            name: np.abs(found[-1][name] - found[0][name]).max() / np.abs(found[0][name]).max()
            for name in AGREE
        }
        seconds = time.monotonic() - begin
        print(
            f"{n_ranks} ranks, {seconds:.0f} s:",
            {name: f"{difference:.0e}" for name, difference in differences.items()},
        )
    for other in found[1:]:
        for name, most in AGREE.items():
            assert (
                np.abs(other[name] - found[0][name]).max() <= most * np.abs(found[0][name]).max()
            ), name
