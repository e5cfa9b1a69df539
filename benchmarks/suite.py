"""What each solver costs, and how that grows: one run for all figures that README quotes.

    python benchmarks/suite.py --out benchmarks    # RESULTS.md and pictures: `make bench`
    python benchmarks/suite.py --part costs        # or: peers, communication
    python benchmarks/suite.py --quick

Every run is alone in a process, on one rank and on two. `continuity.py`, `fokker_planck.py`,
`jko.py` and `transport.py` look at one solver each, closely: where the time goes, iterations,
errors.
"""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time, strftime
from typing import NamedTuple

import communication
import continuity
import fokker_planck
import jko
import machine
import numpy as np
import transport
from machine import ranks
from processes import PEER_PYTHON, Failed, child, hand_over, peak, peer, peers_of

import fvot

# ---- what is measured ----------------------------------------------------------------------------


class Solver(NamedTuple):
    """A problem of growing size.

    name : what a step is
    sizes : for `mesh`; the first serves for a quick run
    mesh : of a size
    begin : mesh -> step, a function without arguments that does some steps and returns a dict:
        steps, and what else is shown
    target : the most microseconds of one core for each cell and step, by the numbers of ranks; None
    """

    name: str
    sizes: tuple
    mesh: Callable
    begin: Callable
    target: float | None = None


def moving(flux):
    """Explicit steps under a steady rotation, on data that is flat nowhere."""

    def begin(mesh):
        steps = continuity.Steps(mesh, flux, continuity.waves(mesh))

        def run():
            for _ in range(5):
                steps()
            return dict(steps=5 * continuity.BATCH)

        return run

    return begin


def diffusing(order):
    """Implicit steps of 0.05 of the Ornstein-Uhlenbeck process; what is set up once is not in
    it.
    """

    def begin(mesh):
        equation = fvot.FokkerPlanck(
            mesh, diffusion=1.0, potential=fokker_planck.half_square, order=order
        )
        start = fokker_planck.gaussian(mesh, 0.0)

        def run():
            ledger = equation.solve(start, 0.5, tau=0.05, progress=False).ledger
            return dict(
                steps=int(ledger["steps"][-1]),
                iterations=float(ledger["iterations"][-1] / ledger["solves"][-1]),
                mass=float(abs(ledger["mass_error"][-1])),
                systems=int(ledger["solves"][-1]),
            )

        return run

    return begin


def flowing(name, order, tau):
    """Iterations of Newton's method, in steps one after the other; what is set up once is not in
    it.
    """

    def begin(mesh):
        energy, rho = jko.PROBLEMS[name]
        return newton(fvot.JKO(mesh, energy, order=order), rho(mesh.center), tau)

    return begin


def crowding(mesh):
    """The same of a crowd that has walked to the middle, where it is full."""
    rho = mesh.average(lambda x: (np.abs(x).max(axis=0) > 0.9) & (np.abs(x).max(axis=0) < 1.3)) / 2
    equation = fvot.JKO(mesh, fvot.Potential(jko.half_square), bounds=(0, 1))
    return newton(equation, equation.solve(rho, 1.0, tau=0.2, progress=False).rho[-1], 0.2)


def newton(equation, rho, tau):
    """A run of one step from where the last one came to; its steps are Newton's iterations."""
    state = [rho]

    def run():
        result = equation.solve(state[-1], tau, tau=tau, progress=False)
        state.append(result.rho[-1])
        count = result.ledger["newton"][-1]
        return dict(
            steps=int(count),
            iterations=float(result.ledger["iterations"][-1] / count),
            mass=float(abs(result.ledger["mass_error"][-1])),
        )

    return run


STEPS = 32  # in time, of transport


def shortest(mesh):
    """Gaussians, to a certified gap of 1e-3. Steps are those in time: a cell and step is an
    unknown.
    """
    rho = transport.densities("Gaussians", mesh)

    def run():
        path = fvot.BenamouBrenier(mesh, STEPS, tol=1e-3).solve(*rho, progress=False)
        return dict(
            steps=STEPS + 1,
            iterations=float(path.iterations),
            gap=float(path.gap),
            mass=float(path.residual),
        )

    return run


def wide_squares(n):
    return fvot.Mesh.rectangle((-6, -6), (6, 6), (n, n))


SOLVERS = {
    "muscl": Solver(
        "ContinuityEquation, muscl, triangles",
        (40, 71, 224, 707),
        continuity.FIELD["triangles"],
        moving(fvot.muscl()),
        18e-3,
    ),
    "upwind": Solver(
        "ContinuityEquation, upwind, triangles",
        (40, 71, 224, 707),
        continuity.FIELD["triangles"],
        moving(fvot.upwind),
        6e-3,
    ),
    "fp1": Solver(
        "FokkerPlanck, order 1, squares",
        (32, 100, 316, 1000),
        fokker_planck.ou_mesh,
        diffusing(1),
        0.1,
    ),
    "fp2": Solver(
        "FokkerPlanck, order 2, squares", (32, 100, 316, 1000), fokker_planck.ou_mesh, diffusing(2)
    ),
    "porous2": Solver(
        "JKO, order 2, porous medium, squares",
        (32, 100, 316, 1000),
        wide_squares,
        flowing("porous medium, m = 2", 2, 0.05),
        1.4,
    ),
    "porous1": Solver(
        "JKO, order 1, porous medium, squares",
        (32, 100, 316, 1000),
        wide_squares,
        flowing("porous medium, m = 2", 1, 0.05),
        2.1,
    ),
    "entropy1": Solver(
        "JKO, order 1, diffusion, squares",
        (32, 100, 316),
        wide_squares,
        flowing("diffusion in a parabola", 1, 0.01),
        2.1,
    ),
    "crowd": Solver(
        "JKO, rho <= 1, crowd, squares",
        (32, 64, 128, 256),
        lambda n: fvot.Mesh.rectangle((-2, -2), (2, 2), (n, n)),
        crowding,
    ),
    "transport": Solver(
        "BenamouBrenier, squares", (16, 32, 64, 128), transport.MESHES["squares"], shortest
    ),
    "triangles": Solver(
        "BenamouBrenier, triangles", (11, 22, 45, 90), transport.MESHES["triangles"], shortest
    ),
}
QUICK = "muscl", "fp2", "porous2", "transport"


def alone(solver, n):
    """One line, as a dict: the second of two runs; the first one sets up. MB: beyond what a small
    run has needed.
    """
    about = SOLVERS[solver]
    about.begin(about.mesh(about.sizes[0]))()
    before = peak()
    start = process_time()
    mesh = about.mesh(n)
    run = about.begin(mesh)
    found = run()
    made = process_time() - start
    best = np.inf
    for _ in range(
        2 if solver in ("transport", "triangles") or mesh.n_cells_global > 200_000 else 4
    ):
        ranks.wait()
        cpu = process_time()
        wall = perf_counter()
        again = run()
        seconds = ranks.max(np.array([process_time() - cpu, perf_counter() - wall]))
        if seconds[0] / again["steps"] < best:
            best = seconds[0] / again["steps"]
            found = again
            taken = seconds
    return found | dict(
        cells=mesh.n_cells_global,
        cpu=float(taken[0]),
        wall=float(taken[1]),
        made=float(ranks.max(made)),
        mb=1e3 * (peak() - before),
    )


# ---- costs ---------------------------------------------------------------------------------------


def costs(report, quick, bandwidth):
    """{solver: [(cells, us per cell and step on one rank)]}, shown as tables."""
    lines = []
    points = {}
    grown = []
    missed = []
    for key, solver in SOLVERS.items():
        if quick and key not in QUICK:
            continue
        for n in solver.sizes[:2] if quick else solver.sizes[1:]:
            for n_ranks in (1,) if quick else (1, 2):
                try:
                    found = child(__file__, n_ranks, solver=key, n=n)
                except Failed as error:
                    report.say(f"{solver.name}, n = {n}, {n_ranks} ranks, failed: {error}\n")
                    continue
                each = found["wall" if n_ranks > 1 else "cpu"] / found["steps"] / found["cells"]
                if n_ranks == 1:
                    points.setdefault(key, []).append((found["cells"], 1e6 * each))
                    if solver.target and 1e6 * each > solver.target and not quick:
                        missed.append(
                            f"{solver.name}, {found['cells']} cells: {1e6 * each:.3g} us "
                            f"({solver.target:g}"
                            + (
                                f"; {found['systems']} systems for {found['steps']} steps)"
                                if "systems" in found
                                else ")"
                            )
                        )
                lines.append(_line(solver, n_ranks, found, each, bandwidth))
        cells, us = map(np.array, zip(*points[key]))
        grown.append(
            (
                solver.name,
                f"{cells[0]} to {cells[-1]}",
                f"{1 + np.polyfit(np.log(cells), np.log(us), 1)[0]:.2f}",
            )
        )
    report.say("## Costs: one rank and two\n")
    report.table(
        (
            "solver",
            "cells",
            "ranks",
            "steps",
            "iterations",
            "first s",
            "CPU s",
            "wall s",
            "us/cell/step",
            "target",
            "doubles moved meanwhile",
            "MB",
            "bytes a cell",
            "mass error",
        ),
        lines,
    )
    report.say(
        "First: mesh, constructor and the first run, with factorisations. CPU and wall: the best "
        "of the following runs, "
        "of the slowest rank; us: CPU on one rank, wall on two. A step: of the solver; of JKO an "
        "iteration of Newton's "
        "method; of BenamouBrenier a step in time of the whole solution, to a certified gap of "
        "1e-3. Iterations: of the "
        "linear solver; of BenamouBrenier its own. Doubles moved meanwhile: numbers for each cell "
        "that the memory "
        f"delivers in that time, at {bandwidth / 1e9:.1f} GB/s on one rank. MB: the most memory "
        "of a rank, mesh "
        "included, beyond that of a small run.\n"
    )
    report.say(
        "Targets missed: "
        + ("; ".join(missed) or "none")
        + ". FokkerPlanck looks at the error of its last step, which "
        "takes more systems than the steps; it takes LU where that pays for as many steps as are "
        "asked for, else multigrid.\n"
    )
    report.say("## Growth: time ~ cells^exponent, fitted\n")
    report.table(("solver", "cells", "exponent"), grown)
    return points


def _line(solver, n_ranks, found, each, bandwidth):
    target = f"{solver.target:g}" if solver.target and n_ranks == 1 else "-"
    iterations = f"{found['iterations']:.1f}" if "iterations" in found else "-"
    return (
        solver.name,
        found["cells"],
        n_ranks,
        found["steps"],
        iterations,
        f"{found['made']:.2f}",
        f"{found['cpu']:.3f}",
        f"{found['wall']:.3f}",
        f"{1e6 * each:.3g}",
        target,
        f"{each * bandwidth / 8:.0f}",
        f"{found['mb']:.0f}",
        f"{1e6 * found['mb'] / found['cells'] * n_ranks:.0f}",
        f"{found['mass']:.0e}" if "mass" in found else "-",
    )


# ---- peers ---------------------------------------------------------------------------------------


def peers(report, quick, python):
    """{problem: [(program, seconds, error, cells)]}, shown as tables."""
    python = peers_of(report, python)
    shown = {
        "Three bodies in rotation": advected(quick, python),
        "Ornstein-Uhlenbeck": diffused(quick, python),
        "W2^2 between Gaussians": carried(quick, python),
    }
    for problem, rows in shown.items():
        report.say(f"## {problem}: fvot and other programs, one core\n")
        report.table(
            (
                "program",
                "cells",
                "steps",
                "CPU s",
                "error",
                "us/cell/step",
                "mass error",
                "smallest density",
            ),
            [
                (
                    row["program"],
                    row["cells"],
                    row.get("steps") or "-",
                    f"{row['seconds']:.2f}",
                    "-" if row.get("error") is None else f"{row['error']:.1e}",
                    f"{1e6 * row['seconds'] / row['steps'] / row['cells']:.3g}"
                    if row.get("steps")
                    else "-",
                    f"{abs(row['mass']):.0e}" if "mass" in row else "-",
                    f"{row['minimum']:.0e}" if "minimum" in row else "-",
                )
                for row in rows
            ],
        )
    report.say(
        "Errors: relative, L1, against the exact solution; of W2^2, against its exact value. CPU "
        "includes set-up and "
        "compilation where a program does that in every run; of fvot constructor and "
        "factorisation, not the mesh. PDHG: "
        "the classical primal-dual method on a staggered grid, by numpy and cosine transforms; it "
        "knows no bounds.\n"
    )
    return shown


def known(program, python, file, *arguments, cells):
    """A row of what another program has measured, in a list; none where it could not."""
    found = peer(python, file, *arguments) if python else None
    if found is None:
        return []
    name = f"{program} {found['version']}" if found.get("version") else program
    return [
        found | dict(program=name, cells=cells, seconds=found["seconds"] + found.get("made", 0.0))
    ]


def advected(quick, python):
    rows = []
    for kind, n in (
        {"squares": 32, "triangles": 22}.items()
        if quick
        else {"squares": 256, "triangles": 181}.items()
    ):
        mesh = continuity.FIELD[kind](n)
        equation = continuity.equation(mesh, fvot.muscl())
        rho0 = continuity.three_bodies(mesh)
        result, seconds = fokker_planck.cpu_of(
            lambda equation=equation, rho0=rho0: equation.solve(rho0, 1.0, progress=False)
        )
        ledger = result.ledger
        rows.append(
            dict(
                program=f"fvot, muscl, {kind}",
                cells=mesh.n_cells_global,
                steps=int(ledger["steps"][-1]),
                seconds=seconds,
                error=continuity._error(mesh, result.rho[-1], rho0),
                mass=ledger["mass_error"][-1],
                minimum=ledger["minimum"].min(),
            )
        )
    n = 32 if quick else 256
    rows += known("PyClaw, MC, squares", python, "peers.py", "pyclaw", n, cells=n * n)
    rows += known(
        "FiPy, Van Leer, squares", python, "peers.py", "fipy-vanleer", n // 2, 10, cells=n * n // 4
    )
    return rows


def diffused(quick, python):
    rows = []
    for n, steps in ((32, 20),) if quick else ((128, 20), (256, 20)):
        mesh = fokker_planck.ou_mesh(n)
        result, seconds = fokker_planck.ou_run(mesh, 2, steps)
        rows.append(
            dict(
                program="fvot, order 2",
                cells=n * n,
                steps=steps,
                seconds=seconds,
                error=fokker_planck.ou_error(mesh, result.rho[-1]),
                mass=result.ledger["mass_error"][-1],
                minimum=result.ledger["minimum"].min(),
            )
        )
    for label, name, n, steps in fokker_planck.PEERS:
        if (
            (n <= 256 and label != fokker_planck.FIPY[1])
            if not quick
            else (n == 128 and name == "fplanck")
        ):
            rows += [
                row | dict(steps=steps)
                for row in known(label, python, "peers.py", name, n, steps, cells=n * n)
            ]
    return rows


def carried(quick, python):
    n, n_steps, rows = (16, 8, []) if quick else (64, 32, [])
    exact = transport.exact("Gaussians", "squares")
    found = transport.measured(transport.Case("Gaussians", "squares", n, n_steps))
    if found:
        rows.append(
            dict(
                program=f"fvot, {n_steps} steps in time, gap {found['gap']:.0e}",
                cells=n * n,
                seconds=found["cpu"],
                error=abs(found["cost"] / exact - 1),
            )
        )
    others = [
        ("PDHG, 200 iterations, sigma = 0.1", "pdhg", "Gaussians", n, n_steps, 0.1, 200),
        ("POT, emd", "emd", "Gaussians", n),
        ("POT, sinkhorn_log 2e-3", "sinkhorn", "Gaussians", n // 2, "2e-3"),
    ]
    for label, *arguments in others:
        for row in known(label, python, "peers_transport.py", *arguments, cells=arguments[2] ** 2):
            rows.append(row | dict(error=abs(row["cost"] / exact - 1)))
    return rows


# ---- pictures ------------------------------------------------------------------------------------


def draw(folder, points, shown, curves, dots):
    """cost.png, peers.png and scaling.png in the folder, of what has been measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    plt.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "figure.dpi": 130}
    )
    if points:
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for i, (key, line) in enumerate(points.items()):
            axes.loglog(
                *zip(*line),
                f"{'os^Dv'[i % 5]}-",
                label=SOLVERS[key].name,
                color=f"C{i}",
                markersize=4,
            )
        axes.set(xlabel="cells", ylabel="microseconds of one core per cell and step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / "cost.png")
    if shown:
        figure, panels = plt.subplots(1, len(shown), figsize=(10, 3.4), layout="constrained")
        for axes, (problem, rows) in zip(panels, shown.items()):
            rows = [row for row in rows if row.get("error")]
            seconds, errors = (
                np.array([row[name] for row in rows]) for name in ("seconds", "error")
            )
            for i, row in enumerate(rows):
                away = np.abs(np.log(seconds / seconds[i])) + np.abs(np.log(errors / errors[i]))
                away[i] = np.inf
                above = (
                    errors[i] >= errors[away.argmin()]
                )  # its label, and that of its neighbour below
                ours = row["program"].startswith("fvot")
                axes.loglog(
                    row["seconds"],
                    row["error"],
                    "o" if ours else "s",
                    color="C3" if ours else "0.55",
                )
                axes.annotate(
                    f"{row['program'].split(',')[0]}, {row['cells']}",
                    (row["seconds"], row["error"]),
                    fontsize=6,
                    xytext=(4, 4 if above else -9),
                    textcoords="offset points",
                    color="C3" if ours else "0.3",
                )
            axes.set(
                title=problem,
                xlabel="CPU seconds",
                xlim=(seconds.min() / 2, seconds.max() * 4),
                ylim=(errors.min() / 2, errors.max() * 2),
            )
            for axis in axes.xaxis, axes.yaxis:
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("relative error")
        figure.savefig(folder / "peers.png")
    if curves:
        figure, panels = plt.subplots(
            1, len(curves), figsize=(4.7 * len(curves), 3.4), layout="constrained", squeeze=False
        )
        for axes, (solver, by) in zip(panels[0], curves.items()):
            for cells, line in by.items():
                axes.semilogx(*zip(*line), label=f"{cells} cells a rank", base=2)
            axes.plot(*zip(*dots[solver]), "ko", markersize=4, label="measured")
            axes.set(title=communication.SOLVERS[solver][0], xlabel="ranks", ylim=(0, 1.05))
            axes.grid(alpha=0.3)
        panels[0, 0].set_ylabel("efficiency")
        panels[0, -1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / "scaling.png")


# ---- the program ---------------------------------------------------------------------------------


def main(part="all", peer_python=PEER_PYTHON, out="", quick=False, rows="", solver="", n=0):
    """Measure *part* (costs, peers, communication or all); write RESULTS.md and pictures to the
    folder *out*, too. quick: small, for a test. rows, solver, n: for the processes that this one
    starts.
    """
    if rows:
        return hand_over(alone(solver, n), rows)
    if ranks.size > 1:
        raise fvot.InputError("start this on one rank: it starts what runs on several")
    report = machine.Report()
    found = {}
    report.say("# What it costs\n")
    report.say(f"One run of `benchmarks/suite.py` (`make bench`) on {strftime('%d %B %Y')}.\n")
    bandwidth = machine.bandwidth(8 if quick else 512)
    report.table(
        ("machine", ""), [*machine.rows(), ("bandwidth (triad)", f"{bandwidth / 1e9:.1f} GB/s")]
    )
    report.measure(
        part,
        {
            "costs": lambda: found.update(points=costs(report, quick, bandwidth)),
            "peers": lambda: found.update(shown=peers(report, quick, peer_python)),
            "communication": lambda: found.update(
                zip(("curves", "dots"), communication.measure(report, quick))
            ),
        },
    )
    if out:
        report.write(Path(out) / "RESULTS.md")
        draw(Path(out), *(found.get(name) for name in ("points", "shown", "curves", "dots")))


if __name__ == "__main__":
    fvot.run(main)
