"""How fast and how right is the continuity equation? Steps against the memory bandwidth, and three
bodies in rotation.

python benchmarks/continuity.py --out benchmarks/RESULTS_continuity.md
scripts/mpirun -n 2 python benchmarks/continuity.py --part speed
python benchmarks/continuity.py --peer-python somewhere/bin/python       # a Python that has PyClaw
python benchmarks/continuity.py --quick
"""

import os
from time import perf_counter, process_time, strftime

import machine
import numpy as np
from machine import ranks, timed
from processes import PEER_PYTHON, peak, peer, peers_of

import fvot
from fvot.continuity.run import ContinuityRun
from fvot.continuity.time_means import TimeStep
from fvot.mesh.numbering import find_numbering
from fvot.runs.recorder import Recorder

FIELD = {
    "squares": lambda n: fvot.Mesh.rectangle((0, 0), (1, 1), (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles((0, 0), (1, 1), n),
    "polygons": lambda n: fvot.Mesh.voronoi((0, 0), (1, 1), n * n),
}
FLUXES = {"upwind": fvot.upwind, "muscl": fvot.muscl(), "muscl(0.3)": fvot.muscl(0.3)}
BATCH = 4  # steps that are timed together


# ---- what moves ----------------------------------------------------------------------------------


def rotation(x):
    """psi of one revolution about the centre of the unit square in time 1."""
    return -np.pi * ((x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2)


def growing_rotation(x, t):
    return rotation(x) * (1 + t)


def _from(x, a, b):
    return np.hypot(x[0] - a, x[1] - b) / 0.15


def slotted_disk(x):
    return (_from(x, 0.5, 0.75) < 1) & ((abs(x[0] - 0.5) >= 0.025) | (x[1] >= 0.85))


def cone_and_hump(x):
    return (
        np.maximum(1 - _from(x, 0.5, 0.25), 0)
        + (1 + np.cos(np.pi * np.minimum(_from(x, 0.25, 0.5), 1))) / 4
    )


def three_bodies(mesh):
    """LeVeque's test (1996), as cell averages: slotted disk, cone and hump; zero elsewhere."""
    return mesh.average(slotted_disk) + mesh.average(cone_and_hump)


def bump(mesh):
    return mesh.average(lambda x: np.exp(-((x[0] - 0.5) ** 2 + (x[1] - 0.75) ** 2) / (2 * 0.06**2)))


def waves(mesh):
    """Nowhere flat: no cell can be skipped, the worst that smooth data can cost."""
    x, y = mesh.center
    return 1.5 + np.sin(9 * x) * np.cos(7 * y)


def equation(mesh, flux, stream=rotation):
    boundary = {name: fvot.outflow for name in mesh.boundary}
    return fvot.ContinuityEquation(mesh, stream=stream, flux=flux, boundary=boundary)


# ---- steps against the bandwidth -----------------------------------------------------------------


class Steps:
    """Steps of the largest size, one after the other, without what a run does before and after
    them.
    """

    def __init__(self, mesh, flux, rho):
        self.equation = equation(mesh, flux)
        self.rho = rho
        self.count = 0
        self.stepper = self.equation._stepper
        self.scheme = self.stepper.scheme
        self.tau = self.stepper.longest_step(0.0)
        self.step = TimeStep(0.0, self.tau, self.tau)
        self.scheme.start(rho)

    def __call__(self):
        for _ in range(BATCH):
            self.rho, *_ = self.stepper.advance(self.rho, self.step, self.count)
            self.count += 1


def bytes_moved(scheme):
    """Bytes that one step must read and write: each array once in each loop over the cells,
    neighbours not again.

    The copy of rho with room for ghosts: read, written, and read by the loop. `upwind`: what is
    kept, the list of givers with their gains, and the new rho. `muscl`: the loop that lets leave
    reads volumes, neighbours, matrices (and `half` if it sharpens) and amounts, writes what moved
    and the new rho; the one that lets enter reads volumes, places and what moved, reads and writes
    the new rho.
    """
    rho = 8 * scheme.mesh.n_cells
    if hasattr(scheme, "gain"):
        entries = int(scheme.first[-1])
        gains = entries * (scheme.giver.itemsize + scheme.gain.itemsize)
        return 3 * rho + scheme.kept.nbytes + scheme.first.nbytes + gains + rho
    leave = [
        scheme.mesh.volume,
        scheme.stencil.neighbour,
        scheme.matrix,
        scheme.amount,
        scheme.moved,
    ]
    enter = [scheme.mesh.volume, scheme.opposite, scheme.moved]
    half = scheme.half.nbytes if scheme.sharp > 0 else 0
    return 3 * rho + sum(array.nbytes for array in leave + enter) + half + rho + 2 * rho


def speed(report, mesh, bandwidth, repetitions):
    """Each flux on data that is flat over most of the domain, and on data that is flat nowhere."""
    lines = []
    n = mesh.n_cells_global
    for name, flux in FLUXES.items():
        for data in three_bodies, waves:
            steps = Steps(mesh, flux, data(mesh))
            (cpu, wall) = timed(steps, repetitions) / BATCH
            moved = ranks.sum(bytes_moved(steps.scheme))
            fast = [
                f"{1e9 * seconds / n:.1f}"
                for seconds in (cpu.min(), np.median(cpu), wall.min(), np.median(wall))
            ]
            target = {"upwind": "6", "muscl": "18"}.get(name, "")
            lines.append(
                (
                    name,
                    data.__name__.replace("_", " "),
                    *fast,
                    target,
                    f"{moved / n:.0f}",
                    f"{moved / cpu.min() / 1e9:.1f}",
                    f"{100 * moved / cpu.min() / bandwidth:.0f} %",
                )
            )
    report.say(
        f"## Steps on {n} triangles, {ranks.size} rank{'s' * (ranks.size > 1)}: ns per cell\n"
    )
    report.table(
        (
            "flux",
            "data",
            "CPU best",
            "median",
            "wall best",
            "median",
            "target",
            "bytes per cell",
            "GB/s",
            "of the bandwidth",
        ),
        lines,
    )
    report.say(
        "CPU is that of the slowest rank, over all cells. Cells whose neighbourhood is flat cost "
        "`muscl` less; "
        "waves are flat nowhere.\nBytes are counted from the arrays: each once in each loop that "
        "needs it. More "
        "than 100 % of the bandwidth: part of them stayed in a cache.\n"
    )


def pieces(report, mesh, repetitions):
    """Where the time of a `muscl` step on waves goes, and what comes before the first one."""
    steps = Steps(mesh, FLUXES["muscl"], waves(mesh))
    whole = timed(steps, repetitions)[0].min() / BATCH
    equation = steps.equation
    scheme = steps.scheme
    rho = steps.rho
    stencil = scheme.stencil
    local = mesh.with_ghosts(rho)
    new = np.empty(mesh.n_cells)
    U = equation.face_flux()
    flow = equation._stepper.flow
    sample = flow.sample(0.0)
    numbering = find_numbering(mesh)
    t = np.array([0.0, 1.0])
    run = ContinuityRun(equation._stepper, numbering, rho, t, None, equation.flux)
    recorder = Recorder(numbering, t, ["density"])
    velocity = flow.velocity(sample, U)

    def leave():
        scheme.leave(
            local,
            mesh.volume,
            stencil.start,
            stencil.neighbour,
            scheme.square_start,
            scheme.matrix,
            scheme.half,
            scheme.amount,
            scheme.sharp,
            scheme.most,
            scheme.moved,
            new,
        )

    parts = {
        "copy with ghosts": lambda: mesh.with_ghosts(rho),
        "leave (gradient, limiter, what leaves)": leave,
        "exchange of what moved": lambda: scheme.exchange(scheme.moved),
        "enter": lambda: scheme.enter(
            mesh.volume, stencil.start, scheme.opposite, scheme.moved, new
        ),
    }
    once = {
        "ledger": lambda: recorder._summarise(rho) | run.account(),
        "face fluxes from the stream function": equation.face_flux,
        "velocities at the faces": lambda: flow.velocity(sample, U),
        "largest rate of outflow": lambda: scheme.rate(U),
        "coefficients": lambda: scheme.prepare(U, steps.tau, lambda: velocity),
    }
    seconds = {name: timed(work, repetitions)[0].min() for name, work in parts.items()}
    seconds |= {
        "rest (inflow, outflow, colder caches)": max(whole - sum(seconds.values()), 0.0),
        "a step": whole,
    }
    seconds |= {f"once: {name}": timed(work, repetitions)[0].min() for name, work in once.items()}
    report.say(
        "## The pieces of a `muscl` step on waves, and what is done once under a steady velocity: "
        "ns per cell\n"
    )
    report.table(
        ("piece", "CPU best", "of a step"),
        [
            (name, f"{1e9 * s / mesh.n_cells_global:.2f}", f"{100 * s / whole:.0f} %")
            for name, s in seconds.items()
        ],
    )


# ---- a velocity that changes ---------------------------------------------------------------------


def changing(report, meshes, repetitions):
    """Steady and changing stream functions: everything that a run does, for the same number of
    steps.
    """
    lines = []
    for kind, mesh in meshes.items():
        for name in "upwind", "muscl":
            per_step = [
                _per_step(mesh, FLUXES[name], stream, repetitions)
                for stream in (rotation, growing_rotation)
            ]
            lines.append(
                (
                    kind,
                    mesh.n_cells_global,
                    name,
                    *[f"{1e9 * s / mesh.n_cells_global:.1f}" for s in per_step],
                    f"{per_step[1] / per_step[0]:.1f}",
                )
            )
    report.say("## Steady and changing velocities: ns per cell and step\n")
    report.table(("mesh", "cells", "flux", "steady", "changing", "ratio"), lines)
    report.say(
        "A run of 40 steps with coefficients and ledger; a changing velocity makes them anew "
        "every time.\n"
    )


def _per_step(mesh, flux, stream, repetitions):
    problem = equation(mesh, flux, stream)
    rho = waves(mesh)
    until = 40 * problem._stepper.longest_step(0.0)
    steps = problem.solve(rho, until).ledger["steps"][-1]
    return timed(lambda: problem.solve(rho, until), min(repetitions, 3))[0].min() / steps


# ---- three bodies --------------------------------------------------------------------------------

# (mesh, cells along a side, sharp): (largest relative L1 error, most CPU seconds)
TARGETS = {
    ("squares", 256, 0.0): ("0.093", "1"),
    ("triangles", 181, 0.0): ("0.097", "4"),
    ("triangles", 181, 0.3): ("0.07", "-"),
    ("squares", 256, 0.3): ("0.07", "-"),
}


def accuracy(report, sides, repetitions, peer_python):
    """One revolution of LeVeque's three bodies, and of a smooth bump; minimum, maximum and mass are
    of the bodies.
    """
    lines = []
    for kind, n in sides.items():
        mesh = FIELD[kind](n)
        lines += [_revolution(mesh, kind, n, sharp, repetitions) for sharp in (0.0, 0.3)]
    line = pyclaw(peer_python, sides["squares"])
    report.say("## One revolution of three bodies (LeVeque 1996), and of a bump of width 0.06\n")
    report.table(
        (
            "mesh, flux",
            "cells",
            "steps",
            "error",
            "target",
            "bump",
            "CPU s",
            "target",
            "ns/cell/step",
            "minimum",
            "maximum - 1",
            "mass error",
        ),
        [*lines, line] if line else lines,
    )


def _revolution(mesh, kind, n, sharp, repetitions):
    problem = equation(mesh, fvot.muscl(sharp))
    rho0 = three_bodies(mesh)
    runs = []
    cpu = timed(lambda: runs.append(problem.solve(rho0, 1.0)), repetitions)[0].min()
    ledger = runs[-1].ledger
    steps = runs[-1].ledger["steps"][-1]
    smooth = bump(mesh)
    errors = [
        _error(mesh, runs[-1].rho[-1], rho0),
        _error(mesh, problem.solve(smooth, 1.0).rho[-1], smooth),
    ]
    most, seconds = TARGETS.get((kind, n, sharp), ("-", "-"))
    return (
        f"{kind}, muscl({sharp or ''})",
        mesh.n_cells_global,
        steps,
        f"{errors[0]:.4f}",
        most,
        f"{errors[1]:.4f}",
        f"{cpu:.2f}",
        seconds,
        f"{1e9 * cpu / steps / mesh.n_cells_global:.1f}",
        f"{ledger['minimum'].min():.0e}",
        f"{ledger['maximum'].max() - 1:.0e}",
        f"{np.abs(ledger['mass_error']).max():.0e}",
    )


def _error(mesh, rho, exact):
    return mesh.integrate(np.abs(rho - exact)) / mesh.integrate(exact)


# ---- the best peer -------------------------------------------------------------------------------


def pyclaw(python, n):
    """PyClaw's MC limiter on n x n squares, run by another Python: a line of the table, or None."""
    found = python and ranks.is_root and peer(python, "peers.py", "pyclaw", n)
    if not found:
        return None
    return (
        f"PyClaw MC, squares ({found['version']})",
        n * n,
        found["steps"],
        f"{found['error']:.4f}",
        "-",
        f"{found['smooth']:.4f}",
        f"{found['seconds']:.2f}",
        "-",
        f"{1e9 * found['seconds'] / found['steps'] / n**2:.1f}",
        f"{found['minimum']:.0e}",
        f"{found['maximum'] - 1:.0e}",
        f"{abs(found['mass']):.0e}",
    )


# ---- the program ---------------------------------------------------------------------------------


def built(report, n):
    """The mesh for the steps, with the seconds and the memory that it took."""
    before = peak()
    cpu = process_time()
    wall = perf_counter()
    mesh = FIELD["triangles"](n)
    seconds = ranks.max(np.array([process_time() - cpu, perf_counter() - wall]))
    report.say(
        f"The mesh of {mesh.n_cells_global} triangles: {seconds[0]:.1f} s of CPU, "
        f"{seconds[1]:.1f} s; peak "
        f"memory of a rank {before:.2f} GB before, {peak():.2f} GB after (targets: 5 s, 1 GB on "
        "one core).\n"
    )
    return mesh


def main(part="all", repetitions=9, peer_python=PEER_PYTHON, out="", quick=False):
    """Measure *part* (speed, accuracy or all); write the tables to the file *out*, too. quick:
    small, for a test.
    """
    report = machine.Report()
    several = 2 if quick else repetitions
    report.say("# Continuity equation: speed and errors\n")
    report.say(
        f"One run of `benchmarks/continuity.py` on {strftime('%d %B %Y')}: best and median of "
        f"{several} "
        "repetitions (of two, for whole runs), errors relative, in L1.\n"
    )
    mesh = built(report, 40 if quick else 707)  # first: what follows needs more memory
    bandwidth = machine.bandwidth(8 if quick else 512)
    report.table(
        ("machine", ""),
        [*machine.rows(), ("bandwidth (triad, all ranks)", f"{bandwidth / 1e9:.1f} GB/s")],
    )
    if part in ("all", "speed"):
        speed(report, mesh, bandwidth, several)
        pieces(report, mesh, several)
        changing(
            report, {"triangles": mesh, "squares": FIELD["squares"](40 if quick else 1000)}, several
        )
    if part in ("all", "accuracy"):
        python = peers_of(report, peer_python)
        sides = dict(zip(FIELD, (16, 11, 8) if quick else (256, 181, 126)))
        accuracy(report, sides, 1 if quick else 2, python)
    report.say(f"Load at the end: {os.getloadavg()[0]:.1f}.")
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
