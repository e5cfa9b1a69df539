"""How fast and how right are gradient flows? Newton steps from 10^4 to 10^6 cells, crowds,
interactions, errors.

    python benchmarks/jko.py --out benchmarks/RESULTS_jko.md
    python benchmarks/jko.py --part steps                   # or: crowds, errors
    python benchmarks/jko.py --quick

What runs on two ranks is started by the program itself.
"""

from time import perf_counter, process_time, strftime
from typing import NamedTuple

import machine
import numpy as np
from machine import ranks
from processes import child, hand_over

import fvot
from fvot import JKO, Entropy, Interaction, Mesh, Potential, Power

TARGET = {
    2: 1.4,
    1: 2.1,
}  # microseconds of one core per cell and iteration of Newton's method, by order


def half_square(x):
    return (x**2).sum(axis=0) / 2


def drop(m, t, C=0.5):
    """Barenblatt's solution in the plane, as a function of points (2, n)."""
    b = 1 / (2 * (m - 1) + 2)
    k = b * (m - 1) / (2 * m)
    return lambda x: (
        t ** (-2 * b) * np.maximum(C - k * (x**2).sum(axis=0) * t ** (-2 * b), 0) ** (1 / (m - 1))
    )


# ---- steps ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """An energy, the order of the steps, cells along a side, the length of steps."""

    name: str
    order: int
    n: int
    tau: float


PROBLEMS = {
    "diffusion in a parabola": (
        Entropy() + Potential(half_square),
        lambda x: np.exp(-half_square(x) / 0.5) + 1e-6,
    ),
    "porous medium, m = 2": (Power(2), drop(2, 1.0)),
    "Keller-Segel": (
        Entropy() + Interaction(lambda z: np.log((z**2).sum(axis=0)) / (4 * np.pi)),
        lambda x: 2 * np.exp(-half_square(x)),
    ),
}


def cases(quick):
    sizes = (32, 64) if quick else (100, 316, 1000)
    return [
        Case(name, order, n, {"porous medium, m = 2": 0.05}.get(name, 0.01))
        for name in PROBLEMS
        for order in ((2,) if name == "Keller-Segel" else (2, 1))
        for n in sizes
        if name != "Keller-Segel" or n < 1000
    ]


def steps(report, quick):
    """The second of two steps, whose set-up is done."""
    lines = []
    for case in cases(quick):
        mesh = Mesh.rectangle((-6, -6), (6, 6), (case.n, case.n))
        energy, rho = PROBLEMS[case.name]
        equation = JKO(mesh, energy, order=case.order)
        rho = rho(mesh.center)
        cpu = 0.0
        for _ in range(2):
            begin = process_time()
            result = equation.solve(rho, case.tau, tau=case.tau)
            cpu = process_time() - begin
            rho = result.rho[-1]
        newton = result.ledger["newton"][-1]
        each = cpu / newton / mesh.n_cells_global * 1e6
        target = "-" if case.name == "Keller-Segel" else TARGET[case.order]
        verdict = "-" if target == "-" else "met" if each <= target else "missed"
        linear = result.ledger["iterations"][-1] / newton
        lines.append(
            (
                case.name,
                case.order,
                mesh.n_cells_global,
                case.tau,
                f"{result.ledger['steps'][-1]:.0f}",
                f"{newton:.0f}",
                f"{linear:.1f}",
                f"{cpu:.2f}",
                f"{each:.2f}",
                target,
                verdict,
            )
        )
    report.say("## Steps: time of one core\n")
    report.table(
        (
            "energy",
            "order",
            "cells",
            "tau",
            "steps",
            "Newton",
            "linear/Newton",
            "s",
            "us/cell/Newton",
            "target",
            "verdict",
        ),
        lines,
    )
    report.say(
        "The second of two steps on squares, everything in it. Linear: iterations of the linear "
        "solver for each one of "
        "Newton's; 1 where it is a factorisation.\n"
    )


# ---- crowds --------------------------------------------------------------------------------------


def crowd(n):
    """A ring that is half full walks into the middle of n x n squares: one line of the table."""
    mesh = Mesh.rectangle((-2, -2), (2, 2), (n, n))
    rho = mesh.average(lambda x: (np.abs(x).max(axis=0) > 0.9) & (np.abs(x).max(axis=0) < 1.3)) / 2
    equation = JKO(mesh, Potential(half_square), bounds=(0, 1))
    t = np.linspace(0, 1.6, 9)
    equation.step(rho, 1e-3)
    begin = perf_counter()
    ledger = equation.solve(rho, t, tau=0.2).ledger
    wall = perf_counter() - begin
    newton = ledger["newton"][-1]
    count = ledger["steps"][-1]
    linear = ledger["iterations"][-1] / newton
    each = wall / newton / mesh.n_cells_global * 1e6
    return [
        mesh.n_cells_global,
        ranks.size,
        f"{count:.0f}",
        f"{newton / count:.1f}",
        f"{linear:.1f}",
        f"{wall:.1f}",
        f"{each:.2f}",
        f"{ledger['maximum'].max() - 1:+.0e}",
        f"{np.abs(ledger['mass_error']).max():.0e}",
    ]


def crowds(report, quick):
    lines = [
        child(__file__, n_ranks, n=n)
        for n in ((32,) if quick else (64, 128, 316))
        for n_ranks in (1, 2)
    ]
    report.say("## A crowd under the constraint rho <= 1\n")
    report.table(
        (
            "cells",
            "ranks",
            "steps",
            "Newton/step",
            "linear/Newton",
            "s",
            "us/cell/Newton",
            "largest rho - 1",
            "mass error",
        ),
        lines,
    )
    report.say(
        "Steps of at most 0.2 to t = 1.6, of a crowd that walks up to 1.3 of a square with sides "
        "4 per unit of time.\n"
    )


# ---- errors --------------------------------------------------------------------------------------


def errors(report, quick):
    lines = []
    for m in 2, 3, 4:
        row = []
        for n in (16, 32) if quick else (32, 64, 128):
            mesh = Mesh.rectangle((-6, -6), (6, 6), (n, n))
            rho0, exact = (mesh.average(drop(m, t), degree=8) for t in (1.0, 2.0))
            rho = JKO(mesh, Power(m)).solve(rho0, [1, 2], tau=8 / n).rho[-1]
            row.append(mesh.integrate(np.abs(rho - exact)) / mesh.integrate(rho0))
        lines.append((m, *(f"{error:.2e}" for error in row), f"{np.log2(row[-2] / row[-1]):.2f}"))
    report.say("## Barenblatt's drop from t = 1 to 2: errors in L1, relative\n")
    sizes = (
        ("16^2, 2 steps", "32^2, 4 steps")
        if quick
        else ("32^2, 4 steps", "64^2, 8 steps", "128^2, 16 steps")
    )
    report.table(("power m", *sizes, "order"), lines)


# ---- all -----------------------------------------------------------------------------------------


def main(part="all", out="", quick=False, rows="", n=0):
    """Measure *part* (steps, crowds, errors or all); write the tables to the file *out*, too.
    quick: small, for a test. rows, n: for the processes that this one starts.
    """
    if rows:
        return hand_over(crowd(n), rows)
    if ranks.size > 1:
        raise fvot.InputError("start this on one rank: it starts what runs on two")
    report = machine.Report()
    report.say("# Gradient flows: speed and errors\n")
    report.say(f"One run of `benchmarks/jko.py` on {strftime('%d %B %Y')}.\n")
    report.table(
        ("machine", ""), [*machine.rows(), ("bandwidth", f"{machine.bandwidth() / 1e9:.1f} GB/s")]
    )
    report.measure(
        part,
        {
            "steps": lambda: steps(report, quick),
            "crowds": lambda: crowds(report, quick),
            "errors": lambda: errors(report, quick),
        },
    )
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
