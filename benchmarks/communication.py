"""What ranks say to each other: counted where a mesh is divided and where solvers run, and what a
thousand ranks may expect.

    python benchmarks/communication.py
    python benchmarks/communication.py --quick

Three measurements and a model:

interfaces : a mesh of a million triangles in 2 to 64 parts, as `Mesh` deals it, on one rank:
    neighbours and cells sent
messages   : the runs themselves on several ranks, counted by Open MPI's own monitoring; twice as
             many steps less half of them, so that what is done once does not count
time       : the same number of cells on each of 1 to 4 ranks
"""

import os
import tempfile
from collections import defaultdict
from math import log2
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import NamedTuple

import machine
import numpy as np
import processes
from fokker_planck import forced
from machine import ranks
from mpi4py import MPI
from processes import hand_over

import fvot
from fvot import parallel
from fvot.mesh.partition import divide
from fvot.mesh.patches import adjacency

# ---- where a mesh is divided ---------------------------------------------------------------------


class Interface(NamedTuple):
    """What a part has to say, in each exchange of cell values: to how many neighbours, how many
    values, cells of its own.
    """

    neighbours: np.ndarray
    sent: np.ndarray
    cells: np.ndarray


def interfaces(mesh, n_parts):
    """The `Interface` (arrays (n_parts,)) of a mesh on one rank, divided as for n_parts ranks."""
    whole = SimpleNamespace(levels=list(mesh.levels), n_cells=mesh.n_cells, centroid=mesh.centroid)
    part = divide(whole, adjacency(mesh, mesh.n_cells), n_parts)
    left, right = mesh.left[: mesh.n_inner], mesh.right[: mesh.n_inner]
    cut = part[left] != part[right]
    cell = np.concatenate([left[cut], right[cut]])
    to = part[np.concatenate([right[cut], left[cut]])]
    values = np.unique(
        cell * np.int64(n_parts) + to
    )  # each cell once for each neighbour that wants it
    pairs = np.unique(part[values // n_parts] * np.int64(n_parts) + values % n_parts)
    return Interface(
        np.bincount(pairs // n_parts, minlength=n_parts),
        np.bincount(part[values // n_parts], minlength=n_parts),
        np.bincount(part, minlength=n_parts),
    )


def divided(report, mesh, parts):
    """{n_parts: Interface}, shown as a table."""
    found = {n_parts: interfaces(mesh, n_parts) for n_parts in parts}
    report.say(
        f"## {mesh.n_cells} triangles on 2 to {parts[-1]} ranks: what one exchange of cell values "
        "takes\n"
    )
    report.table(
        (
            "ranks",
            "cells, least",
            "most",
            "neighbours, mean",
            "most",
            "values sent, mean",
            "most",
            "of own cells",
            "kB a rank sends, most",
        ),
        [
            (
                n,
                f.cells.min(),
                f.cells.max(),
                f"{f.neighbours.mean():.1f}",
                f.neighbours.max(),
                f"{f.sent.mean():.0f}",
                f.sent.max(),
                f"{100 * f.sent.mean() / f.cells.mean():.2f} %",
                f"{8e-3 * f.sent.max():.1f}",
            )
            for n, f in found.items()
        ],
    )
    report.say(
        "Messages: one to each neighbour. The mesh is divided on one rank, as it is for as many "
        "ranks.\n"
    )
    return found


# ---- what solvers say ----------------------------------------------------------------------------


def half_square(x):
    return (x**2).sum(axis=0) / 2


def wave(x):
    return 1.5 + np.sin(9 * x[0]) * np.cos(7 * x[1])


def continuity(mesh):
    equation = fvot.ContinuityEquation(mesh, stream=lambda x: np.sin(x[0]) * np.sin(x[1]))
    rho = wave(mesh.center)
    tau = equation._stepper.longest_step(0.0)
    return lambda n: equation.solve(rho, n * tau, tau=1.0001 * tau, progress=False).ledger["steps"][
        -1
    ]


def fokker_planck(mesh):
    """By multigrid on any number of ranks; by itself the solver would factorise where the mesh is
    small.
    """
    equation = fvot.FokkerPlanck(mesh, diffusion=1.0, potential=half_square)
    rho = wave(mesh.center)

    def steps(n):
        with forced("amg"):
            return equation.solve(rho, 0.05 * n, tau=0.05, progress=False).ledger["steps"][-1]

    return steps


def gradient_flow(mesh):
    equation = fvot.JKO(mesh, fvot.Power(2) + fvot.Potential(half_square))
    rho = wave(mesh.center)
    return lambda n: equation.solve(rho, 0.05 * n, tau=0.05, progress=False).ledger["steps"][-1]


def transport(mesh):
    rho = [
        mesh.density(lambda x, at=at: np.exp(-20 * ((x - at) ** 2).sum(axis=0)))
        for at in (0.3, 0.6)
    ]

    def iterations(n):
        try:
            path = fvot.BenamouBrenier(mesh, 8, tol=1e-9, max_iter=n).solve(*rho, progress=False)
        except fvot.ConvergenceError as error:
            path = error.result
        return path.iterations

    return iterations


# what a step is: (name, how it is begun)
SOLVERS = {
    "continuity": ("ContinuityEquation, muscl: a step", continuity),
    "fokker_planck": ("FokkerPlanck, order 2, multigrid: a step", fokker_planck),
    "gradient_flow": ("JKO, order 2: a step", gradient_flow),
    "transport": ("BenamouBrenier, 8 steps in time: an iteration", transport),
}


def triangles(n_cells):
    """About so many triangles on [0, 1]^2."""
    return fvot.Mesh.triangles((0, 0), (1, 1), max(round((n_cells / 2.0) ** 0.5), 4))


class CountedChannel(parallel._Channel):
    """The same messages by requests of their own: the monitoring sees no persistent ones."""

    def __init__(self, comm, *arguments):
        super().__init__(comm, *arguments)
        self.comm = comm

    def run(self, u):
        for q, index in self._send.items():
            np.take(u, index, axis=-1, out=self._sent[q], mode="clip")
        receiving = [self.comm.Irecv(buffer, source=q) for q, buffer in self.received.items()]
        sending = [self.comm.Isend(buffer, dest=q) for q, buffer in self._sent.items()]
        MPI.Request.Waitall(receiving + sending)


def said(solver, n_cells, count):
    """What a run of *count* steps is about: steps taken, and of each rank the values of one
    exchange and its neighbours.
    """
    parallel._Channel = CountedChannel
    mesh = triangles(n_cells)
    steps = SOLVERS[solver][1](mesh)(count)
    sent = sum(len(index) for index in mesh.exchange.send.values())
    return dict(
        steps=int(steps),
        cells=mesh.n_cells_global,
        sent=ranks.comm.allgather(sent),
        neighbours=ranks.comm.allgather(len(mesh.exchange.send)),
    )


def has_monitoring():
    """Can this MPI count its messages?"""
    return parallel.library_version().startswith("Open MPI")


def monitored(solver, n_ranks, n_cells, count):
    """(`said`, messages (n_ranks,), bytes (n_ranks,), collective operations) of a whole run on
    several ranks.
    """
    with tempfile.TemporaryDirectory() as folder:
        watch = dict(
            pml_monitoring_enable=2,
            pml_monitoring_enable_output=3,
            pml_monitoring_filename=f"{folder}/rank",
        )
        about = processes.child(__file__, n_ranks, watch, solver=solver, cells=n_cells, count=count)
        counts = [_counts(Path(folder, f"rank.{rank}.prof").read_text()) for rank in range(n_ranks)]
    messages, octets, collectives = np.array(counts).T
    return about, messages, octets, collectives.max()


def _counts(text):
    """(messages, bytes, collective operations) of a rank from what the monitoring wrote: lines such
    as

    E  0  1  1234 bytes  56 msgs sent  ...  a program's messages from rank 0 to rank 1, and their
    sizes D  MPI_COMM_WORLD  procs: 0,1,2         the communicator of the following lines A2A  0
    1550 bytes  49 msgs sent        operations among all of its ranks; O2A, A2O: from or to this one
    """
    messages = 0
    octets = 0
    collectives = 0
    alone = False
    for line in text.splitlines():
        words = line.split("\t")
        what = words[0]
        last = words[-1]
        if what == "E":
            octets = octets + int(words[3].split()[0])
            messages = messages + int(words[4].split()[0])
        elif what == "D":
            alone = "," not in last
        elif what in ("A2A", "O2A", "A2O") and not alone:
            collectives += int(last.split()[0])
    return messages, octets, collectives


def per_step(solver, n_ranks, n_cells, count):
    """A dict of what one step says: messages and bytes of the busiest rank, collective operations;
    and the interface.
    """
    few, many = (monitored(solver, n_ranks, n_cells, n) for n in (count, 2 * count))
    steps = many[0]["steps"] - few[0]["steps"]
    about = few[0]
    messages, octets, collectives = ((b - a) / steps for a, b in zip(few[1:], many[1:]))
    return dict(
        messages=float(messages.max()),
        bytes=float(octets.max()),
        collectives=float(collectives),
        exchanges=float((messages / about["neighbours"]).max()),
        columns=float((octets / 8 / about["sent"]).max()),
        cells=about["cells"],
        steps=steps,
    )


WEAK = {"continuity": 125_000, "fokker_planck": 30_000}  # cells of a rank where time is measured
COUNT = {"continuity": 40, "fokker_planck": 5, "gradient_flow": 4, "transport": 100}


def counted(report, quick):
    """{solver: {n_ranks: what `per_step` says}}, shown as a table."""
    if not has_monitoring():
        report.say("Messages were not counted: that takes Open MPI's monitoring.\n")
        return {}
    n_cells = 2000 if quick else 20_000
    found = defaultdict(dict)
    lines = []
    for solver in ("continuity",) if quick else SOLVERS:
        for n_ranks in (2,) if quick else (2, 4, 8) if solver == "continuity" else (2, 4):
            step = found[solver][n_ranks] = per_step(solver, n_ranks, n_cells, COUNT[solver])
            lines.append(
                (
                    SOLVERS[solver][0],
                    step["cells"],
                    n_ranks,
                    f"{step['messages']:.0f}",
                    f"{step['exchanges']:.1f}",
                    f"{1e-3 * step['bytes']:.1f}",
                    f"{step['columns']:.1f}",
                    f"{step['collectives']:.1f}",
                )
            )
    report.say("## What a step says: the busiest rank, as Open MPI counts it\n")
    report.table(
        (
            "solver",
            "triangles",
            "ranks",
            "messages",
            "to each neighbour",
            "kB",
            "times the interface's values",
            "operations of all ranks",
        ),
        lines,
    )
    report.say(
        "Everything is in it, PETSc's and hypre's messages, too. Messages to each neighbour: of "
        "the mesh; multigrid has "
        "more neighbours on coarser levels. The interface's values: those of one exchange of cell "
        "values.\n"
    )
    return found


# ---- time ----------------------------------------------------------------------------------------


def exchange_time(mesh, repetitions=200):
    """Seconds of one exchange of cell values, the best of some."""
    u = np.zeros(mesh.n_local)
    best = np.inf
    for _ in range(10):
        ranks.wait()
        begin = perf_counter()
        for _ in range(repetitions // 10):
            mesh.exchange(u)
        best = min(best, (perf_counter() - begin) / (repetitions // 10))
    return float(ranks.max(best))


def reduction_time(repetitions=200):
    """Seconds of one sum over all ranks, the best of some."""
    best = np.inf
    for _ in range(10):
        ranks.wait()
        begin = perf_counter()
        for _ in range(repetitions // 10):
            ranks.sum(1.0)
        best = min(best, (perf_counter() - begin) / (repetitions // 10))
    return float(ranks.max(best))


def weak(solver, n_cells, count):
    """What *count* steps take on these ranks, each with n_cells: wall seconds of one, and of an
    exchange and a reduction.
    """
    mesh = triangles(n_cells * ranks.size)
    run = SOLVERS[solver][1](mesh)
    run(count)
    best = np.inf
    for _ in range(3):
        ranks.wait()
        begin = perf_counter()
        steps = run(count)
        ranks.wait()
        best = min(best, (perf_counter() - begin) / steps)
    return dict(
        seconds=float(ranks.max(best)),
        cells=mesh.n_cells_global / ranks.size,
        exchange=exchange_time(mesh),
        reduction=reduction_time(),
        neighbours=int(ranks.max(len(mesh.exchange.send))),
        sent=int(ranks.max(sum(map(len, mesh.exchange.send.values())))),
    )


class Network(NamedTuple):
    """What a message and a reduction cost: seconds for each message, bytes per second, seconds for
    each doubling of ranks.

    software : seconds that an exchange takes on this machine for each neighbour, packing and
        unpacking in Python included
    """

    latency: float
    bandwidth: float
    software: float


# What clusters of the last years have: 1.5 to 2 microseconds and 100 Gbit/s for a node, which its
# 32 ranks share.
CLUSTER = dict(latency=2e-6, bandwidth=12.5e9 / 32)


def model(p, cells, seconds_per_cell, step, neighbours, sent, network):
    """Seconds of a step on p ranks:  c n + E k (s + l) + 8 V / b + R (s + l) log2 p

    c n : cells of a rank, times what one costs on one rank
    E k : messages, to each of k neighbours;  8 V : bytes;  R : reductions;  s, l, b : software,
        latency, bandwidth
    """
    each = network.software + network.latency
    work = cells * seconds_per_cell
    if p == 1:
        return work
    return (
        work
        + step["exchanges"] * neighbours * each
        + 8 * step["columns"] * sent / network.bandwidth
        + step["collectives"] * each * log2(p)
    )


def scaled(report, counted_steps, quick):
    """Weak scaling on this machine beside the model, and the model of a cluster: {solver: {cells:
    [(p, efficiency)]}}.
    """
    cores = os.cpu_count()
    lines = []
    curves = {}
    dots = {}
    speed = {
        p: processes.child(__file__, p, bandwidth=True, quick=quick)
        for p in range(1, min(4, cores) + 1)
    }
    for solver, counts in counted_steps.items():
        if solver not in WEAK:
            continue
        step = counts[max(counts)]
        count = COUNT[solver]
        n_cells = 2000 if quick else WEAK[solver]
        measured = {
            p: processes.child(__file__, p, solver=solver, cells=n_cells, count=count, weak=True)
            for p in ((1, 2) if quick else (1, 2, 3, 4))
        }
        c = measured[1]["seconds"] / measured[1]["cells"]
        software = measured[2]["exchange"] / measured[2]["neighbours"]
        here = Network(0.0, np.inf, software)
        for p, found in measured.items():
            busy = min(p, cores)
            slower = speed[1] * busy / speed[busy] * p / busy if p > 1 else 1.0
            guess = model(
                p, found["cells"], c * slower, step, found["neighbours"], found["sent"], here
            )
            lines.append(
                (
                    SOLVERS[solver][0],
                    p,
                    f"{found['cells']:.0f}",
                    f"{1e3 * found['seconds']:.2f}",
                    f"{1e3 * guess:.2f}",
                    f"{found['seconds'] / guess:.2f}",
                    f"{1e6 * found['exchange']:.0f}" if p > 1 else "-",
                    f"{1e6 * found['reduction']:.0f}",
                )
            )
        dots[solver] = [
            (p, measured[1]["seconds"] / found["seconds"] * max(p / cores, 1))
            for p, found in measured.items()
        ]
        cluster = Network(software=software, **CLUSTER)
        curves[solver] = {
            n: [
                (p, n * c / model(p, n, c, step, min(6, p - 1), 6 * n**0.5, cluster))
                for p in 2 ** np.arange(15)
            ]
            for n in (1000, 10_000, 100_000, 1_000_000)
        }
    _show(report, lines, curves, speed, cores)
    return curves, dots


def _show(report, lines, curves, speed, cores):
    report.say("## The same number of triangles on each rank: milliseconds of a step\n")
    report.table(
        (
            "solver",
            "ranks",
            "cells of a rank",
            "measured",
            "model",
            "ratio",
            "exchange us",
            "reduction us",
        ),
        lines,
    )
    gain = ", ".join(f"{p}: {b / 1e9:.1f} GB/s" for p, b in speed.items())
    report.say(
        "Measured: the best of three. Model: the time of one rank, times how much slower a rank "
        f"is when {cores} "
        f"cores share the memory (triad of all ranks, by their number: {gain}) and ranks the "
        "cores, and the "
        "messages.\n"
    )
    table = [
        (SOLVERS[solver][0], n, *[f"{100 * dict(points)[p]:.0f} %" for p in (4, 64, 1024, 16384)])
        for solver, by in curves.items()
        for n, points in by.items()
    ]
    report.say(
        "## What the model says of a cluster: efficiency, the time of one rank over that of many\n"
    )
    report.table(("solver", "cells of a rank", "4 ranks", "64", "1024", "16384"), table)
    report.say(
        "T(p) = c n + E k (s + l) + 8 V / b + R (s + l) log2 p: n cells of a rank at c seconds "
        "as on one rank here; E "
        "exchanges with k = 6 neighbours, V values, R reductions as counted above; s, the "
        "software's share of a "
        f"message, as measured here; l = {1e6 * CLUSTER['latency']:.0f} us and b = "
        f"{CLUSTER['bandwidth'] / 1e9:.2f} GB/s for each of 32 ranks on a node are assumed, not "
        "measured. Iterations of "
        "linear solvers are taken not to grow. Meshes from files are dealt by rank 0, which holds "
        "them whole: at some 1 "
        "GB for a million triangles, memory ends there before time does; Cartesian meshes have no "
        "such end.\n"
    )


# ---- the program ---------------------------------------------------------------------------------


def measure(report, quick):
    """All parts; what `scaled` returns."""
    mesh = triangles(20_000 if quick else 1_000_000)
    divided(report, mesh, (2, 4, 8) if quick else (2, 4, 8, 16, 32, 64))
    del mesh
    return scaled(report, counted(report, quick), quick)


def main(out="", quick=False, rows="", solver="", cells=0, count=0, weak=False, bandwidth=False):
    """Print the tables, and write them to the file *out*; quick: small, for a test. The rest is for
    the processes that this one starts.
    """
    if rows and bandwidth:
        return hand_over(machine.bandwidth(8 if quick else 256), rows)
    if rows:
        return hand_over((globals()["weak"] if weak else said)(solver, cells, count), rows)
    report = machine.Report()
    report.table(("machine", ""), [*machine.rows(), ("MPI", parallel.library_version())])
    measure(report, quick)
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
